//! Flags and environment, as typed ([`Args`]) and as checked ([`Config`]). Each default carries its reason.

use std::{
    fmt,
    net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    num::NonZeroUsize,
    path::PathBuf,
    str::FromStr,
    thread,
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum};
use remora_proto::{
    id::{RelayAddr, RelayId, TlsPin},
    noise::{StaticKey, link::FleetKey},
};

use crate::{admin::token::AdminToken, mesh, rate::Rate, stream::certificate::Files};

/// Everywhere, IPv6 and IPv4. 443 needs a right; 4433 is where one tries things.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 4433);
/// Operators sit on the same machine, or say otherwise.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
/// Beside where the relay was started: nothing to set up, easy to find.
const DEFAULT_KEY: &str = "./remora-data/relay.key";
/// A screen at 4K and 60 frames a second stays below; a file copy does not starve others.
const DEFAULT_SESSION_RATE_BYTES: u64 = 16 << 20;
/// A quarter of a second of the rate: a whole key frame.
const DEFAULT_SESSION_BURST_BYTES: u64 = 4 << 20;
/// The smallest burst that lets the largest frame through.
const MIN_SESSION_BURST_BYTES: u64 = 64 << 10;
/// So that a flood ends in refusals and not in swapping; to be raised with the machine's memory.
const DEFAULT_MAX_NODES: usize = 100_000;
/// Many more than helpers and sharers sit behind one address at a time; many fewer than all (`SECURITY` §2.4).
const DEFAULT_MAX_NODES_PER_NETWORK: usize = 64;
/// At 50 kB/s each, which a still screen needs, this is 8 Gbit/s: more than this datapath forwards.
const DEFAULT_MAX_SESSIONS: usize = 20_000;
/// Networks that block UDP are a few of a hundred; each stream takes two file descriptors and some 30 KiB.
const DEFAULT_MAX_STREAMS: usize = 4096;
/// Each has a port on loopback, of which systems have 28,000.
const MAX_STREAMS: usize = 20_000;
/// Their table has 200 MB.
const MAX_SESSIONS: usize = 1_000_000;
/// Each has 4 MiB to receive into.
const MAX_WORKERS: usize = 256;
/// A person mistypes a few codes; a guesser needs millions (`SECURITY` §2.4).
const DEFAULT_LOOKUPS_PER_MINUTE: u64 = 10;
const LOOKUP_BURST: u64 = 5;
/// Long enough for nodes to move, short enough for an update at night.
const DEFAULT_DRAIN_TIMEOUT_S: u64 = 60;
/// As many as `Welcome` names.
const MAX_OBSERVERS: usize = 4;
/// Longest name of a realm or relay in a message.
const MAX_NAME_BYTES: usize = 64;

/// Remora's relay: introduces nodes by code and forwards frames it cannot read.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "remora-relay",
    version,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A verb.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run a relay until it is told to stop
    Serve(ServeArgs),
    /// Run a relay with everything defaulted and say what the two people have to type
    Quickstart(ServeArgs),
    /// Make the key of a new fleet, in a file for every relay's --fleet-key
    FleetKey(FleetKeyArgs),
}

/// Flags of `fleet-key`.
#[derive(Clone, Debug, clap::Args)]
pub struct FleetKeyArgs {
    /// The file to make; one that exists is never overwritten
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

/// Where streams are accepted, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenTcp {
    /// Nowhere.
    Off,
    /// There.
    At(SocketAddr),
}

impl FromStr for ListenTcp {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At)
    }
}

/// Flags of both verbs.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// UDP address for nodes; `[::]` takes IPv4 too, and means 0.0.0.0 where there is no IPv6
    #[arg(long, value_name = "ADDR:PORT", env = "REMORA_RELAY_LISTEN", default_value_t = DEFAULT_LISTEN)]
    pub listen: SocketAddr,
    /// TCP address for nodes whose network blocks UDP, or `off`; by default, the same as --listen
    #[arg(long, value_name = "ADDR:PORT", env = "REMORA_RELAY_LISTEN_TCP")]
    pub listen_tcp: Option<ListenTcp>,
    /// File of the certificate shown there, PEM; by default, one that the relay makes and its address names
    #[arg(
        long,
        value_name = "FILE",
        env = "REMORA_RELAY_TLS_CERT",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,
    /// File of the certificate's key, PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "REMORA_RELAY_TLS_KEY",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,
    /// UDP address of a second port, by which nodes find out what their NAT does; best of another address of this machine, too.
    /// Up to four [default: the address of --listen, and the next port]
    #[arg(
        long = "observer",
        value_name = "ADDR:PORT",
        env = "REMORA_RELAY_OBSERVERS",
        value_delimiter = ','
    )]
    pub observers: Vec<SocketAddr>,
    /// TCP address for /livez, /readyz and /metrics, and for `remora admin`
    #[arg(long, value_name = "ADDR:PORT", env = "REMORA_RELAY_ADMIN", default_value_t = DEFAULT_ADMIN)]
    pub admin: SocketAddr,
    /// File of the token that `remora admin drain` presents there, a line of 16 characters or more; without it, nobody may
    #[arg(long, value_name = "FILE", env = "REMORA_RELAY_ADMIN_TOKEN_FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// File of the relay's key; created on the first start
    #[arg(long, value_name = "FILE", env = "REMORA_RELAY_KEY", default_value = DEFAULT_KEY)]
    pub key: PathBuf,
    /// Where nodes find this relay, when that is not the address it sees itself
    #[arg(long, value_name = "HOST:PORT", env = "REMORA_RELAY_ADVERTISE")]
    pub advertise: Option<String>,
    /// TCP address for other relays of the fleet; without it, this relay is alone
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "REMORA_RELAY_MESH",
        requires = "fleet_key"
    )]
    pub mesh: Option<SocketAddr>,
    /// Another relay's --mesh address, to meet the fleet by; a name may stand for many. Can be given more than once
    #[arg(
        long = "peer",
        value_name = "HOST:PORT",
        env = "REMORA_RELAY_PEERS",
        value_delimiter = ',',
        requires = "mesh"
    )]
    pub peers: Vec<String>,
    /// File of the key that all relays of a fleet have and nobody else; `remora-relay fleet-key FILE` makes one
    #[arg(
        long,
        value_name = "FILE",
        env = "REMORA_RELAY_FLEET_KEY",
        requires = "mesh"
    )]
    pub fleet_key: Option<PathBuf>,
    /// Name space of the codes; nodes learn it from the relay
    #[arg(long, env = "REMORA_RELAY_REALM", default_value = "default")]
    pub realm: String,
    /// Name of this relay, for people
    #[arg(long, env = "REMORA_RELAY_NAME", default_value = "relay")]
    pub name: String,
    /// What a session may send each way, bytes per second
    #[arg(long, value_name = "BYTES", env = "REMORA_RELAY_SESSION_RATE_BYTES", default_value_t = DEFAULT_SESSION_RATE_BYTES)]
    pub session_rate_bytes: u64,
    /// What a session may send at once, bytes
    #[arg(long, value_name = "BYTES", env = "REMORA_RELAY_SESSION_BURST", default_value_t = DEFAULT_SESSION_BURST_BYTES)]
    pub session_burst: u64,
    /// Nodes connected at once
    #[arg(long, value_name = "N", env = "REMORA_RELAY_MAX_NODES", default_value_t = DEFAULT_MAX_NODES)]
    pub max_nodes: usize,
    /// Nodes connected at once from one network: an IPv4 /24 or an IPv6 /56
    #[arg(long, value_name = "N", env = "REMORA_RELAY_MAX_NODES_PER_NETWORK", default_value_t = DEFAULT_MAX_NODES_PER_NETWORK)]
    pub max_nodes_per_network: usize,
    /// Nodes connected by TCP at once; of one network, as many as of --max-nodes-per-network
    #[arg(long, value_name = "N", env = "REMORA_RELAY_MAX_STREAMS", default_value_t = DEFAULT_MAX_STREAMS)]
    pub max_streams: usize,
    /// Sessions forwarded at once
    #[arg(long, value_name = "N", env = "REMORA_RELAY_MAX_SESSIONS", default_value_t = DEFAULT_MAX_SESSIONS)]
    pub max_sessions: usize,
    /// Threads that forward frames, each with a socket of its own; by default, one a processor
    #[arg(long, value_name = "N", env = "REMORA_RELAY_WORKERS")]
    pub workers: Option<NonZeroUsize>,
    /// Codes that may be looked up from one address
    #[arg(long, value_name = "N", env = "REMORA_RELAY_LOOKUPS_PER_MINUTE", default_value_t = DEFAULT_LOOKUPS_PER_MINUTE)]
    pub lookups_per_minute: u64,
    /// How long sessions may stay after SIGTERM, seconds
    #[arg(long, value_name = "SECONDS", env = "REMORA_RELAY_DRAIN_TIMEOUT", default_value_t = DEFAULT_DRAIN_TIMEOUT_S)]
    pub drain_timeout: u64,
    /// How log lines look
    #[arg(long, env = "REMORA_RELAY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", env = "REMORA_RELAY_LOG", default_value_t = tracing::Level::INFO)]
    pub log: tracing::Level,
    /// Print one JSON object instead of the relay's address
    #[arg(long)]
    pub json: bool,
}

impl ServeArgs {
    /// Every flag at its default, whatever the environment says.
    ///
    /// # Panics
    /// Never: a default that does not parse fails this crate's tests.
    #[cfg(test)]
    fn defaults() -> Self {
        match Args::try_parse_from(["remora-relay", "serve"])
            .expect("defaults parse")
            .command
        {
            Command::Serve(args) | Command::Quickstart(args) => args,
            Command::FleetKey(_) => unreachable!("it was told to serve"),
        }
    }
}

/// Flags that cannot be, each with its remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not a place with a port, or one no node could use.
    #[error(
        "--advertise `{0}` is not HOST:PORT; say how nodes reach this relay, like relay.example.org:4433"
    )]
    Advertise(String),
    /// Not a place with a port.
    #[error(
        "--peer `{0}` is not HOST:PORT; say the --mesh address of another relay, like relay-0.example.org:4001"
    )]
    Peer(String),
    /// Empty, or longer than a message may carry.
    #[error("--{flag} must have 1 to {MAX_NAME_BYTES} bytes")]
    Name {
        /// Which flag.
        flag: &'static str,
    },
    /// Too small to do anything.
    #[error("--{flag} must be at least {minimum}")]
    TooSmall {
        /// Which flag.
        flag: &'static str,
        /// What works.
        minimum: u64,
    },
    /// More than nodes are told of.
    #[error(
        "--observer can be given {MAX_OBSERVERS} times; two addresses are all that a NAT has to be told apart by"
    )]
    Observers,
    /// More than one relay is made for.
    #[error("--{flag} must be at most {maximum}; run more relays for more")]
    TooLarge {
        /// Which flag.
        flag: &'static str,
        /// What works.
        maximum: usize,
    },
}

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
    /// TCP address for probes and metrics.
    pub admin: SocketAddr,
    /// What an operator presents there.
    pub admin_token: Option<AdminToken>,
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
    /// Look-ups of a source.
    pub lookup_rate: Rate,
    /// How long sessions may stay when it drains.
    pub drain_timeout: Duration,
    /// The fleet that it is one of.
    pub mesh: Option<mesh::Settings>,
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
            admin: loopback,
            admin_token: None,
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
            lookup_rate: lookup_rate(DEFAULT_LOOKUPS_PER_MINUTE),
            drain_timeout: Duration::from_secs(DEFAULT_DRAIN_TIMEOUT_S),
            mesh: None,
        }
    }

    /// Checks what was typed; `fleet` and `admin_token` are what stands in the files of `--fleet-key` and `--admin-token-file`.
    ///
    /// # Errors
    /// The first flag that cannot be.
    pub fn new(
        args: &ServeArgs,
        key: StaticKey,
        fleet: Option<FleetKey>,
        admin_token: Option<AdminToken>,
    ) -> Result<Self, ConfigError> {
        args.check()?;
        Ok(Self {
            listen: args.listen,
            listen_tcp: match args.listen_tcp {
                None => Some(args.listen),
                Some(ListenTcp::Off) => None,
                Some(ListenTcp::At(listen)) => Some(listen),
            },
            certificate: args
                .tls_cert
                .clone()
                .zip(args.tls_key.clone())
                .map(|(certificate, key)| Files { certificate, key }),
            observers: args.observers.clone(),
            admin: args.admin,
            admin_token,
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
            lookup_rate: lookup_rate(args.lookups_per_minute),
            drain_timeout: Duration::from_secs(args.drain_timeout),
            mesh: args.mesh.zip(fleet).map(|(listen, fleet)| mesh::Settings {
                listen,
                seeds: args.peers.clone(),
                fleet,
            }),
        })
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

impl ServeArgs {
    fn workers(&self) -> NonZeroUsize {
        let processors = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.workers.unwrap_or_else(processors)
    }

    /// Checks each flag by itself.
    ///
    /// # Errors
    /// The first flag that cannot be.
    pub fn check(&self) -> Result<(), ConfigError> {
        if let Some(advertise) = &self.advertise {
            check_host_port(advertise).map_err(|()| ConfigError::Advertise(advertise.clone()))?;
        }
        for peer in &self.peers {
            check_host_port(peer).map_err(|()| ConfigError::Peer(peer.clone()))?;
        }
        if self.observers.len() > MAX_OBSERVERS {
            return Err(ConfigError::Observers);
        }
        for (flag, value) in [("realm", &self.realm), ("name", &self.name)] {
            if value.is_empty() || value.len() > MAX_NAME_BYTES {
                return Err(ConfigError::Name { flag });
            }
        }
        for (flag, value, minimum) in [
            ("session-rate-bytes", self.session_rate_bytes, 1024),
            ("session-burst", self.session_burst, MIN_SESSION_BURST_BYTES),
            ("max-nodes", self.max_nodes as u64, 1),
            (
                "max-nodes-per-network",
                self.max_nodes_per_network as u64,
                1,
            ),
            ("max-streams", self.max_streams as u64, 1),
            ("max-sessions", self.max_sessions as u64, 1),
            ("lookups-per-minute", self.lookups_per_minute, 1),
        ] {
            if value < minimum {
                return Err(ConfigError::TooSmall { flag, minimum });
            }
        }
        for (flag, value, maximum) in [
            ("max-streams", self.max_streams, MAX_STREAMS),
            ("max-sessions", self.max_sessions, MAX_SESSIONS),
            ("workers", self.workers().get(), MAX_WORKERS),
        ] {
            if value > maximum {
                return Err(ConfigError::TooLarge { flag, maximum });
            }
        }
        Ok(())
    }
}

fn check_host_port(text: &str) -> Result<(), ()> {
    if text.contains(|c: char| c == '/' || c.is_whitespace()) {
        return Err(());
    }
    // The same parser that reads the address on the other side.
    let address = RelayAddr {
        host_port: text.to_owned(),
        id: RelayId([0; 32]),
        tls: None,
    };
    address
        .to_string()
        .parse::<RelayAddr>()
        .map(drop)
        .map_err(drop)
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

    fn with(change: impl FnOnce(&mut ServeArgs)) -> Result<(), ConfigError> {
        let mut args = ServeArgs::defaults();
        change(&mut args);
        args.check()
    }

    #[test]
    fn the_flags_fit_together_and_the_defaults_are_valid() {
        Args::command().debug_assert();
        assert_eq!(with(|_| {}), Ok(()));
        let config = Config::new(
            &ServeArgs::defaults(),
            StaticKey::from_bytes([7; 32]),
            None,
            None,
        );
        let config = config.expect("valid");
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
            assert!(
                with(|args| args.advertise = Some(advertise.into())).is_err(),
                "{advertise}"
            );
        }
        assert_eq!(
            with(|args| args.advertise = Some("relay.example.org:4433".into())),
            Ok(())
        );
        assert_eq!(
            with(|args| args.advertise = Some("[2001:db8::1]:443".into())),
            Ok(())
        );
        assert_eq!(
            with(|args| args.realm = "x".repeat(65)),
            Err(ConfigError::Name { flag: "realm" })
        );
        assert_eq!(
            with(|args| args.name = String::new()),
            Err(ConfigError::Name { flag: "name" })
        );
        let peer = |text: &str| with(|args| args.peers = vec![text.into()]);
        assert_eq!(peer("relays.example.org:4001"), Ok(()));
        assert_eq!(peer("relay"), Err(ConfigError::Peer("relay".into())));
        let many = vec![DEFAULT_LISTEN; MAX_OBSERVERS + 1];
        assert_eq!(
            with(|args| args.observers = many),
            Err(ConfigError::Observers)
        );
        assert!(with(|args| args.session_burst = 1000).is_err());
        assert!(with(|args| args.max_nodes = 0).is_err());
        assert!(with(|args| args.max_nodes_per_network = 0).is_err());
        assert!(with(|args| args.lookups_per_minute = 0).is_err());
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
