//! What a relay runs with: said by flags, the environment and a file, read ([`layers`]), checked, and made ready ([`Config`]).

// Flags, and what each may be.
mod args;
// The files that are named.
pub mod files;
// What is said of all keys at once.
pub mod describe;
// Flags, environment and file together.
pub mod layers;
// ... and again, while a relay runs: what holds then.
pub mod reload;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use remora_proto::{
    id::{RelayAddr, RelayId, TlsPin},
    noise::{StaticKey, link::FleetKey},
};

pub use self::args::{Args, Command, ConfigCommand, FleetKeyArgs, ListenTcp, LogFormat, ServeArgs};
use self::args::{
    DEFAULT_DRAIN_TIMEOUT_S, DEFAULT_LOOKUPS_PER_MINUTE, DEFAULT_MAX_NODES, DEFAULT_MAX_SESSIONS,
    DEFAULT_MAX_STREAMS, DEFAULT_SESSION_BURST_BYTES, DEFAULT_SESSION_RATE_BYTES,
    DEFAULT_UDP_BUFFER_BYTES,
};
pub use self::reload::Standing;
use crate::{
    admin::{door::Tls, token::AdminToken},
    mesh,
    rate::Rate,
    recent::Recent,
    stream::{certificate::Files, peers},
};

/// Looked up at once.
const LOOKUP_BURST: u64 = 5;

/// What a relay runs with, checked.
#[derive(Clone)]
pub struct Config {
    /// UDP address for nodes.
    pub listen: SocketAddr,
    /// Where it takes streams, 443/tcp.
    pub listen_tcp: Option<SocketAddr>,
    /// The certificate shown there; its own when `None`.
    pub certificate: Option<Files>,
    /// UDP addresses of other ports that say how they see a node; none: the next after `listen`'s.
    pub observers: Vec<SocketAddr>,
    /// TCP addresses for probes, metrics and operators; the first is the one that is told.
    pub admin: Vec<SocketAddr>,
    /// What an operator presents there.
    pub admin_token: Option<AdminToken>,
    /// TLS there; plain when `None`.
    pub admin_tls: Option<Tls>,
    /// What it was told.
    pub standing: Standing,
    /// The last lines of its log, for the same.
    pub recent: Recent,
    /// Who it is.
    pub key: StaticKey,
    /// Where nodes find it; found out when `None`.
    pub advertise: Option<String>,
    /// Name space of the codes.
    pub realm: String,
    /// For people.
    pub name: String,
    /// Bytes of a session, each way.
    pub session_rate: Rate,
    /// Nodes at once.
    pub max_nodes: usize,
    /// Nodes of a network at once.
    pub max_nodes_per_network: usize,
    /// Streams at once.
    pub max_streams: usize,
    /// Sessions at once.
    pub max_sessions: usize,
    /// Threads that forward frames.
    pub workers: NonZeroUsize,
    /// What the system is asked to hold of datagrams for each, each way.
    pub udp_buffer_bytes: usize,
    /// Directory of the control group whose memory limit is ours; found out when `None`.
    pub cgroup: Option<PathBuf>,
    /// The file that the key stands in, if it stands in one.
    pub key_file: Option<PathBuf>,
    /// Look-ups of a source.
    pub lookup_rate: Rate,
    /// How long sessions may stay when it drains.
    pub drain_timeout: Duration,
    /// The fleet that it is one of.
    pub mesh: Option<mesh::Settings>,
}

/// What of it can be changed while a relay runs.
#[derive(Clone, Debug)]
pub struct Live {
    /// Nodes at once.
    pub max_nodes: usize,
    /// Nodes of a network at once.
    pub max_nodes_per_network: usize,
    /// Streams at once.
    pub max_streams: usize,
    /// Look-ups of a source.
    pub lookup_rate: Rate,
    /// What an operator presents at the admin port.
    pub admin_token: Option<AdminToken>,
}

impl Live {
    /// The keys that say it.
    pub const KEYS: [&str; 5] = [
        "max_nodes",
        "max_nodes_per_network",
        "max_streams",
        "lookups_per_minute",
        "admin_token_file",
    ];

    /// Of what was said and checked.
    pub fn new(args: &ServeArgs, admin_token: Option<AdminToken>) -> Self {
        Self {
            max_nodes: args.max_nodes,
            max_nodes_per_network: args.max_nodes_per_network,
            max_streams: args.max_streams,
            lookup_rate: lookup_rate(args.lookups_per_minute),
            admin_token,
        }
    }

    /// Streams at once.
    pub(crate) fn streams(&self) -> peers::Limits {
        peers::Limits {
            all: self.max_streams,
            network: self.max_nodes_per_network,
        }
    }
}

impl Config {
    /// A relay for tests and demonstrations: ports of the system's choosing on loopback, nothing on disk.
    pub fn loopback(key: StaticKey) -> Self {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            listen: loopback,
            listen_tcp: Some(loopback),
            certificate: None,
            observers: Vec::new(),
            admin: vec![loopback],
            admin_token: None,
            admin_tls: None,
            standing: Standing::default(),
            recent: Recent::default(),
            key,
            advertise: None,
            realm: "default".to_owned(),
            name: "loopback".to_owned(),
            session_rate: Rate::per_second(DEFAULT_SESSION_RATE_BYTES, DEFAULT_SESSION_BURST_BYTES),
            max_nodes: DEFAULT_MAX_NODES,
            // All of them are on loopback.
            max_nodes_per_network: DEFAULT_MAX_NODES,
            max_streams: DEFAULT_MAX_STREAMS,
            max_sessions: DEFAULT_MAX_SESSIONS,
            workers: NonZeroUsize::MIN,
            udp_buffer_bytes: DEFAULT_UDP_BUFFER_BYTES,
            cgroup: None,
            key_file: None,
            lookup_rate: lookup_rate(DEFAULT_LOOKUPS_PER_MINUTE),
            drain_timeout: Duration::from_secs(DEFAULT_DRAIN_TIMEOUT_S),
            mesh: None,
        }
    }

    /// Of what was said and checked; `fleet` and `admin_token` are what stands in the files of `--fleet-key` and `--admin-token-file`.
    pub fn new(
        args: &ServeArgs,
        key: StaticKey,
        fleet: Option<FleetKey>,
        admin_token: Option<AdminToken>,
    ) -> Self {
        Self {
            listen: args.listen,
            listen_tcp: match args.listen_tcp {
                None => Some(args.listen),
                Some(ListenTcp::Off) => None,
                Some(ListenTcp::At(listen)) => Some(listen),
            },
            certificate: args.certificate(),
            observers: args.observers.clone(),
            admin: args.admin.clone(),
            admin_token,
            admin_tls: args.admin_tls(),
            standing: Standing::default(),
            recent: Recent::default(),
            key,
            advertise: args.advertise.clone(),
            realm: args.realm.clone(),
            name: args.name.clone(),
            session_rate: Rate::per_second(args.session_rate_bytes, args.session_burst),
            max_nodes: args.max_nodes,
            max_nodes_per_network: args.max_nodes_per_network,
            max_streams: args.max_streams,
            max_sessions: args.max_sessions,
            workers: args.workers(),
            udp_buffer_bytes: args.udp_buffer_bytes,
            cgroup: args.cgroup.clone(),
            key_file: Some(args.key.clone()),
            lookup_rate: lookup_rate(args.lookups_per_minute),
            drain_timeout: Duration::from_secs(args.drain_timeout),
            mesh: args.mesh.zip(fleet).map(|(listen, fleet)| mesh::Settings {
                listen,
                seeds: args.peers.clone(),
                fleet,
            }),
        }
    }

    /// What of it may be different later.
    pub fn live(&self) -> Live {
        Live {
            max_nodes: self.max_nodes,
            max_nodes_per_network: self.max_nodes_per_network,
            max_streams: self.max_streams,
            lookup_rate: self.lookup_rate,
            admin_token: self.admin_token.clone(),
        }
    }

    /// Where to observe nodes from, beside `listen`.
    pub fn observers(&self) -> Vec<SocketAddr> {
        if !self.observers.is_empty() {
            return self.observers.clone();
        }
        let port = self.listen.port();
        // The system chooses both, or after the last there is none.
        let next = if port == 0 {
            Some(0)
        } else {
            port.checked_add(1)
        };
        let next = next.map(|port| SocketAddr::new(self.listen.ip(), port));
        next.into_iter().collect()
    }

    /// Where other relays send frames to, once `bound` is known: an address of only zeros is for them to find out.
    pub fn frame_address(&self, bound: SocketAddr) -> String {
        self.advertise.clone().unwrap_or_else(|| bound.to_string())
    }

    /// The address to give out, once `bound` is known, and the certificate's key, if nobody vouches for it.
    pub fn address(&self, bound: SocketAddr, tls: Option<TlsPin>) -> RelayAddr {
        let host_port = self
            .advertise
            .clone()
            .unwrap_or_else(|| reachable(bound).to_string());
        RelayAddr {
            host_port,
            id: RelayId(self.key.public()),
            tls,
        }
    }

    /// The same for a node that came by whatever name; none when neither flag says where that would be.
    pub fn own_address(&self, bound: SocketAddr, tls: Option<TlsPin>) -> Option<RelayAddr> {
        let is_known = self.advertise.is_some() || !bound.ip().is_unspecified();
        is_known.then(|| self.address(bound, tls))
    }
}

/// The key's public half shows, the other never.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("id", &RelayId(self.key.public()))
            .field("listen", &self.listen)
            .field("admin", &self.admin)
            .field("realm", &self.realm)
            .finish_non_exhaustive()
    }
}

fn lookup_rate(per_minute: u64) -> Rate {
    Rate::new(
        per_minute,
        Duration::from_secs(60),
        LOOKUP_BURST.max(per_minute / 2),
    )
}

/// `bound`, or the address this machine would use on its network when that is "everywhere".
fn reachable(bound: SocketAddr) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    let ip = outgoing_ip().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    SocketAddr::new(ip, bound.port())
}

/// Asks the routing table: connecting a UDP socket sends nothing. (192.0.2.1 is for documentation, RFC 5737.)
fn outgoing_ip() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// What is wrong with which key.
    fn with(change: impl FnOnce(&mut ServeArgs)) -> Vec<&'static str> {
        let mut args = ServeArgs::defaults();
        change(&mut args);
        args.check().into_iter().map(|fault| fault.key).collect()
    }

    #[test]
    fn the_flags_fit_together_and_the_defaults_are_valid() {
        Args::command().debug_assert();
        assert_eq!(with(|_| {}), [""; 0]);
        let config = Config::new(
            &ServeArgs::defaults(),
            StaticKey::from_bytes([7; 32]),
            None,
            None,
        );
        assert_eq!(config.session_rate, Rate::per_second(16 << 20, 4 << 20));
        assert_eq!(
            config.lookup_rate,
            Rate::new(10, Duration::from_secs(60), 5)
        );
        assert_eq!(config.drain_timeout, Duration::from_secs(60));
    }

    #[test]
    fn impossible_values_are_named() {
        for advertise in [
            "relay.example.org",
            "relay:0",
            ":4433",
            "a b:1",
            "a/b:1",
            "a:1/x",
            "",
        ] {
            let faults = with(|args| args.advertise = Some(advertise.into()));
            assert_eq!(faults, ["advertise"], "{advertise}");
        }
        for advertise in ["relay.example.org:4433", "[2001:db8::1]:443"] {
            let faults = with(|args| args.advertise = Some(advertise.into()));
            assert!(faults.is_empty(), "{advertise}");
        }
        assert_eq!(with(|args| args.realm = "x".repeat(65)), ["realm"]);
        assert_eq!(with(|args| args.name = String::new()), ["name"]);
        let peer = |text: &str| {
            with(|args| {
                args.mesh = Some(SocketAddr::from(([127, 0, 0, 1], 4001)));
                args.fleet_key = Some("fleet.key".into());
                args.peers = vec![text.into()];
            })
        };
        assert!(peer("relays.example.org:4001").is_empty());
        assert_eq!(peer("relay"), ["peers"]);
        let many = (4434..4439).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let many = many.collect();
        assert_eq!(with(|args| args.observers = many), ["observers"]);
        let all = with(|args| {
            args.session_burst = 1000;
            args.max_nodes = 0;
            args.max_nodes_per_network = 0;
            args.max_streams = 20_001;
            args.lookups_per_minute = 0;
            args.tls_key = Some("x".into());
            args.peers = vec!["relay:1".into()];
        });
        let numbers = [
            "session_burst",
            "max_nodes",
            "max_nodes_per_network",
            "max_streams",
        ];
        let rest = ["lookups_per_minute", "tls_key", "peers"];
        assert_eq!(all, [&numbers[..], &rest].concat(), "all at once");
    }

    #[test]
    fn two_keys_with_one_port_are_named() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let all = |listen: &str, mesh: &str, admin: &[&str]| {
            with(|args| {
                args.listen = at(listen);
                args.mesh = Some(at(mesh));
                args.fleet_key = Some("fleet.key".into());
                args.admin = admin.iter().map(|text| at(text)).collect();
            })
        };
        let loopback = "127.0.0.1:443";
        assert_eq!(all(loopback, loopback, &["127.0.0.1:9090"]), ["mesh"]);
        assert_eq!(all("[::]:443", "[::]:4001", &[loopback]), ["admin"]);
        let twice = ["127.0.0.1:9090", "127.0.0.1:9090"];
        assert_eq!(all(loopback, "127.0.0.1:4001", &twice), ["admin"]);
        let apart = ["127.0.0.2:9090", "127.0.0.1:9090", "127.0.0.1:0"];
        assert_eq!(all("127.0.0.2:443", "127.0.0.1:443", &apart), [""; 0]);
        let observer = with(|args| {
            args.listen = at("0.0.0.0:443");
            args.observers = vec![at(loopback)];
        });
        assert_eq!(observer, ["observers"]);
    }

    #[test]
    fn the_address_is_what_was_said_or_what_can_be_reached() {
        let key = StaticKey::from_bytes([7; 32]);
        let id = RelayId(key.public());
        let mut config = Config::loopback(key);
        let bound = SocketAddr::from(([127, 0, 0, 1], 4433));
        assert_eq!(
            config.address(bound, None).to_string(),
            format!("127.0.0.1:4433/{id}")
        );
        let own = config.own_address(bound, None);
        assert_eq!(own, Some(config.address(bound, None)));
        let open = SocketAddr::from(([0, 0, 0, 0], 4433));
        let everywhere = config.address(open, None);
        assert!(!everywhere.host_port.starts_with("0.0.0.0"), "{everywhere}");
        assert_eq!(config.own_address(open, None), None, "no more than a guess");
        config.advertise = Some("relay.example.org:443".into());
        assert_eq!(
            config.address(bound, None).to_string(),
            format!("relay.example.org:443/{id}")
        );
        let own = config.own_address(open, None);
        assert_eq!(own, Some(config.address(open, None)));
    }

    #[test]
    fn the_secret_never_shows() {
        let config = Config::loopback(StaticKey::from_bytes([7; 32]));
        let shown = format!("{config:?}");
        assert!(
            !shown.contains("7, 7") && !shown.contains("070707"),
            "{shown}"
        );
    }
}
