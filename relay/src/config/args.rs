//! What can be said to a relay, as typed. The first paragraph of a flag says what it is for, the second why its default is what it is;
//! the unit is what is shown for its value.

use std::{
    iter,
    net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    str::FromStr,
    thread,
};

use clap::{Parser, Subcommand, ValueEnum};
use remora_proto::id::{RelayAddr, RelayId};

use crate::{admin::door::Tls, stream::certificate::Files};

pub(super) const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 4433);
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
const DEFAULT_KEY: &str = "./remora-data/relay.key";
pub(super) const DEFAULT_SESSION_RATE_BYTES: u64 = 16 << 20;
pub(super) const DEFAULT_SESSION_BURST_BYTES: u64 = 4 << 20;
/// The smallest burst that lets the largest frame through.
const MIN_SESSION_BURST_BYTES: u64 = 64 << 10;
pub(super) const DEFAULT_MAX_NODES: usize = 100_000;
const DEFAULT_MAX_NODES_PER_NETWORK: usize = 64;
pub(super) const DEFAULT_MAX_SESSIONS: usize = 20_000;
pub(super) const DEFAULT_MAX_STREAMS: usize = 4096;
/// Each has a port on loopback, of which systems have 28,000.
const MAX_STREAMS: u64 = 20_000;
/// Their table has 200 MB.
const MAX_SESSIONS: u64 = 1_000_000;
/// Each has 4 MiB to receive into.
const MAX_WORKERS: u64 = 256;
pub(super) const DEFAULT_LOOKUPS_PER_MINUTE: u64 = 10;
pub(super) const DEFAULT_DRAIN_TIMEOUT_S: u64 = 60;
/// As many as `Welcome` names.
const MAX_OBSERVERS: usize = 4;
/// On loopback and in a network, of both families.
const MAX_ADMIN: usize = 4;
/// At 1 Gbit/s 4 MiB are 33 ms.
pub(super) const DEFAULT_UDP_BUFFER_BYTES: usize = 4 << 20;
/// What any system gives; and more than is ever worth waiting for.
const MIN_UDP_BUFFER_BYTES: u64 = 64 << 10;
const MAX_UDP_BUFFER_BYTES: u64 = 1 << 30;
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
    /// Tell the relay that runs here with these settings to drain, and wait until it has
    Drain(ServeArgs),
    /// Print what people are given of the relay that runs here with these settings, HOST:PORT/KEY
    Address(ServeArgs),
    /// Say what is wrong with the relay that runs here with these settings, or would, and what to do
    Doctor(ServeArgs),
    /// Print all that can be known of the relay that runs here, or would, in one text that has no secret in it
    Bugreport(ServeArgs),
    /// Make the key of a new fleet, in a file for every relay's --fleet-key
    FleetKey(FleetKeyArgs),
    /// Look at what a relay would run with, without running one
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print every metric there is, its labels and what it means, as a page in Markdown
    Metrics,
}

/// A verb of `config`.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say everything that is wrong with flags, environment, file, and the keys and certificates they name
    Check(ServeArgs),
    /// Print every key with its value, and who said so
    Show(ServeArgs),
    /// Print which keys the file may have, as a JSON Schema
    Schema,
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

/// Flags of every verb that is about a relay.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// TOML file that says any of these, by the names that `remora-relay config schema` prints; the environment overrules it, and
    /// flags overrule both
    #[arg(long, value_name = "FILE", env = "REMORA_RELAY_CONFIG")]
    pub config: Option<PathBuf>,
    /// UDP address for nodes; `[::]` takes IPv4 too, and means 0.0.0.0 where there is no IPv6
    ///
    /// The default: 443 needs a right; 4433 is where one tries things.
    #[arg(long, value_name = "ADDR:PORT", env = "REMORA_RELAY_LISTEN", default_value_t = DEFAULT_LISTEN)]
    pub listen: SocketAddr,
    /// TCP address for nodes whose network blocks UDP, or `off`; by default, the same as --listen
    #[arg(long, value_name = "ADDR:PORT", env = "REMORA_RELAY_LISTEN_TCP")]
    pub listen_tcp: Option<ListenTcp>,
    /// File of the certificate shown there, PEM; by default, one that the relay makes and its address names
    #[arg(long, value_name = "FILE", env = "REMORA_RELAY_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// File of the certificate's key, PEM
    #[arg(long, value_name = "FILE", env = "REMORA_RELAY_TLS_KEY")]
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
    /// TCP address for /livez, /readyz and /metrics, and for `remora admin`. Up to four
    ///
    /// The default: operators sit on the same machine, or say otherwise.
    #[arg(long, value_name = "ADDR:PORT", env = "REMORA_RELAY_ADMIN", value_delimiter = ',', default_values_t = [DEFAULT_ADMIN])]
    pub admin: Vec<SocketAddr>,
    /// File of the token that `remora admin` presents there, a line of 16 characters or more; without it, nobody may
    #[arg(long, value_name = "FILE", env = "REMORA_RELAY_ADMIN_TOKEN_FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// File of the certificate shown at --admin, PEM; with it, that port speaks TLS, for probes and metrics, too
    #[arg(long, value_name = "FILE", env = "REMORA_RELAY_ADMIN_TLS_CERT")]
    pub admin_tls_cert: Option<PathBuf>,
    /// File of that certificate's key, PEM
    #[arg(long, value_name = "FILE", env = "REMORA_RELAY_ADMIN_TLS_KEY")]
    pub admin_tls_key: Option<PathBuf>,
    /// File of the authorities, PEM, whose client certificates count as the admin token; probes and metrics need none
    #[arg(long, value_name = "FILE", env = "REMORA_RELAY_ADMIN_CLIENT_CA")]
    pub admin_client_ca: Option<PathBuf>,
    /// File of the relay's key; created on the first start
    ///
    /// The default: beside where the relay was started: nothing to set up, easy to find.
    #[arg(long, value_name = "FILE", env = "REMORA_RELAY_KEY", default_value = DEFAULT_KEY)]
    pub key: PathBuf,
    /// Where nodes find this relay, when that is not the address it sees itself
    #[arg(long, value_name = "HOST:PORT", env = "REMORA_RELAY_ADVERTISE")]
    pub advertise: Option<String>,
    /// TCP address for other relays of the fleet; without it, this relay is alone
    #[arg(long, value_name = "ADDR:PORT", env = "REMORA_RELAY_MESH")]
    pub mesh: Option<SocketAddr>,
    /// Another relay's --mesh address, to meet the fleet by; a name may stand for many. Can be given more than once
    #[arg(
        long = "peer",
        value_name = "HOST:PORT",
        env = "REMORA_RELAY_PEERS",
        value_delimiter = ','
    )]
    pub peers: Vec<String>,
    /// File of the key that all relays of a fleet have and nobody else; `remora-relay fleet-key FILE` makes one
    #[arg(long, value_name = "FILE", env = "REMORA_RELAY_FLEET_KEY")]
    pub fleet_key: Option<PathBuf>,
    /// Name space of the codes; nodes learn it from the relay
    ///
    /// The default: one organisation needs no other.
    #[arg(long, env = "REMORA_RELAY_REALM", default_value = "default")]
    pub realm: String,
    /// Name of this relay, for people
    ///
    /// The default: a fleet of one needs none.
    #[arg(long, env = "REMORA_RELAY_NAME", default_value = "relay")]
    pub name: String,
    /// What a session may send each way, bytes per second
    ///
    /// The default: a screen at 4K and 60 frames a second stays below; a file copy does not starve others.
    #[arg(long, value_name = "BYTES", env = "REMORA_RELAY_SESSION_RATE_BYTES", default_value_t = DEFAULT_SESSION_RATE_BYTES)]
    pub session_rate_bytes: u64,
    /// What a session may send at once, bytes
    ///
    /// The default: a quarter of a second of the rate: a whole key frame.
    #[arg(long, value_name = "BYTES", env = "REMORA_RELAY_SESSION_BURST", default_value_t = DEFAULT_SESSION_BURST_BYTES)]
    pub session_burst: u64,
    /// Nodes connected at once
    ///
    /// The default: so that a flood ends in refusals and not in swapping; to be raised with the machine's memory.
    #[arg(long, value_name = "N", env = "REMORA_RELAY_MAX_NODES", default_value_t = DEFAULT_MAX_NODES)]
    pub max_nodes: usize,
    /// Nodes connected at once from one network: an IPv4 /24 or an IPv6 /56
    ///
    /// The default: many more than helpers and sharers sit behind one address at a time; many fewer than all.
    #[arg(long, value_name = "N", env = "REMORA_RELAY_MAX_NODES_PER_NETWORK", default_value_t = DEFAULT_MAX_NODES_PER_NETWORK)]
    pub max_nodes_per_network: usize,
    /// Nodes connected by TCP at once; of one network, as many as of --max-nodes-per-network
    ///
    /// The default: networks that block UDP are a few of a hundred; each stream takes two file descriptors and some 30 KiB.
    #[arg(long, value_name = "N", env = "REMORA_RELAY_MAX_STREAMS", default_value_t = DEFAULT_MAX_STREAMS)]
    pub max_streams: usize,
    /// Sessions forwarded at once
    ///
    /// The default: at 50 kB/s each, which a still screen needs, this is 8 Gbit/s: more than this datapath forwards.
    #[arg(long, value_name = "N", env = "REMORA_RELAY_MAX_SESSIONS", default_value_t = DEFAULT_MAX_SESSIONS)]
    pub max_sessions: usize,
    /// Threads that forward frames, each with a socket of its own; by default, one a processor
    #[arg(long, value_name = "N", env = "REMORA_RELAY_WORKERS")]
    pub workers: Option<NonZeroUsize>,
    /// What the system is asked to hold of datagrams for each worker, each way, while it is busy
    ///
    /// The default: at 1 Gbit/s, 33 milliseconds. Without CAP_NET_ADMIN the system's maximum decides: net.core.rmem_max and wmem_max.
    #[arg(long, value_name = "BYTES", env = "REMORA_RELAY_UDP_BUFFER_BYTES", default_value_t = DEFAULT_UDP_BUFFER_BYTES)]
    pub udp_buffer_bytes: usize,
    /// Directory of the control group whose memory limit is this relay's; by default, the group that it is in
    #[arg(long, value_name = "DIRECTORY", env = "REMORA_RELAY_CGROUP")]
    pub cgroup: Option<PathBuf>,
    /// Codes that may be looked up from one address
    ///
    /// The default: a person mistypes a few codes; a guesser needs millions.
    #[arg(long, value_name = "N", env = "REMORA_RELAY_LOOKUPS_PER_MINUTE", default_value_t = DEFAULT_LOOKUPS_PER_MINUTE)]
    pub lookups_per_minute: u64,
    /// How long sessions may stay after SIGTERM, seconds
    ///
    /// The default: long enough for nodes to move, short enough for an update at night.
    #[arg(long, value_name = "SECONDS", env = "REMORA_RELAY_DRAIN_TIMEOUT", default_value_t = DEFAULT_DRAIN_TIMEOUT_S)]
    pub drain_timeout: u64,
    /// How log lines look
    ///
    /// The default: somebody is looking when it is tried.
    #[arg(long, env = "REMORA_RELAY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace
    ///
    /// The default: what an operator acts upon; addresses of people are below it, at debug.
    #[arg(long, value_name = "LEVEL", env = "REMORA_RELAY_LOG", default_value_t = tracing::Level::INFO)]
    pub log: tracing::Level,
    /// Where each session's trace is sent, by OTLP over HTTP: `http://HOST:4318/v1/traces`. Only for a relay that was built with the
    /// feature `otlp`
    #[arg(long, value_name = "URL", env = "REMORA_RELAY_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// Print one JSON object instead of a line for people
    #[arg(long)]
    pub json: bool,
}

/// What a key of [`ServeArgs`] has and cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field's name.
    pub key: &'static str,
    /// The rest of a sentence that begins with it, with the remedy.
    pub what: String,
    /// The field that is missing beside it, if that is what is wrong.
    pub needs: Option<&'static str>,
}

/// Below the first it does nothing, above the second it is more than one relay is made for.
const BOUNDS: [(&str, u64, u64); 9] = [
    ("session_rate_bytes", 1024, u64::MAX),
    ("session_burst", MIN_SESSION_BURST_BYTES, u64::MAX),
    ("max_nodes", 1, u64::MAX),
    ("max_nodes_per_network", 1, u64::MAX),
    ("max_streams", 1, MAX_STREAMS),
    ("max_sessions", 1, MAX_SESSIONS),
    ("workers", 1, MAX_WORKERS),
    (
        "udp_buffer_bytes",
        MIN_UDP_BUFFER_BYTES,
        MAX_UDP_BUFFER_BYTES,
    ),
    ("lookups_per_minute", 1, u64::MAX),
];

/// The least and the most that a number may be, where there are such.
pub(super) fn bounds(key: &str) -> Option<(u64, Option<u64>)> {
    let (_, least, most) = BOUNDS.into_iter().find(|(bounded, ..)| *bounded == key)?;
    Some((least, (most < u64::MAX).then_some(most)))
}

impl Args {
    /// The flags of a relay, if the verb has them.
    pub fn serving(&self) -> Option<&ServeArgs> {
        match &self.command {
            Command::Serve(serve)
            | Command::Quickstart(serve)
            | Command::Drain(serve)
            | Command::Address(serve)
            | Command::Doctor(serve)
            | Command::Bugreport(serve)
            | Command::Config(ConfigCommand::Check(serve) | ConfigCommand::Show(serve)) => {
                Some(serve)
            }
            Command::FleetKey(_) | Command::Config(ConfigCommand::Schema) | Command::Metrics => {
                None
            }
        }
    }
}

impl ServeArgs {
    /// Every flag at its default, whatever the environment says.
    ///
    /// # Panics
    /// Never: a default that does not parse fails this crate's tests.
    #[cfg(test)]
    pub(super) fn defaults() -> Self {
        let args = Args::try_parse_from(["remora-relay", "serve"]).expect("defaults parse");
        args.serving().expect("it was told to serve").clone()
    }

    /// As many as were asked for, or one a processor.
    pub(super) fn workers(&self) -> NonZeroUsize {
        let processors = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.workers.unwrap_or_else(processors)
    }

    /// The files of the certificate, if it is given one.
    pub fn certificate(&self) -> Option<Files> {
        let files = self.tls_cert.clone().zip(self.tls_key.clone());
        files.map(|(certificate, key)| Files { certificate, key })
    }

    /// The files of the admin port's TLS, if it is given one.
    pub fn admin_tls(&self) -> Option<Tls> {
        let files = self.admin_tls_cert.clone().zip(self.admin_tls_key.clone());
        files.map(|(certificate, key)| Tls {
            files: Files { certificate, key },
            client_ca: self.admin_client_ca.clone(),
        })
    }

    /// Everything that cannot be, by itself or beside the rest.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |key, what: String| {
            let needs = None;
            faults.push(Fault { key, what, needs });
        };
        if let Some(endpoint) = &self.otlp_endpoint {
            if !cfg!(feature = "otlp") {
                let remedy = "build it with `--features remora-relay/otlp`, or leave this out";
                fault(
                    "otlp_endpoint",
                    format!("this relay sends no traces; {remedy}"),
                );
            } else if !endpoint.starts_with("http://") {
                let remedy = "say where, like http://127.0.0.1:4318/v1/traces; whoever has TLS before it puts a collector here";
                fault(
                    "otlp_endpoint",
                    format!("`{endpoint}` is no http:// URL; {remedy}"),
                );
            }
        }
        if let Some(advertise) = &self.advertise
            && !is_host_port(advertise)
        {
            let remedy = "say how nodes reach this relay, like relay.example.org:4433";
            fault(
                "advertise",
                format!("`{advertise}` is not HOST:PORT; {remedy}"),
            );
        }
        for peer in self.peers.iter().filter(|peer| !is_host_port(peer)) {
            let remedy = "say the --mesh address of another relay, like relay-0.example.org:4001";
            fault("peers", format!("`{peer}` is not HOST:PORT; {remedy}"));
        }
        for (key, other, clash) in self.clashes() {
            fault(
                key,
                format!("has {clash}, and {other}, too; give each a port of its own"),
            );
        }
        if self.admin.len() > MAX_ADMIN {
            let remedy = "one on loopback and one of a network of yours is what it takes";
            fault("admin", format!("can be given {MAX_ADMIN} times; {remedy}"));
        }
        if self.observers.len() > MAX_OBSERVERS {
            let remedy = "two addresses are all that a NAT has to be told apart by";
            fault(
                "observers",
                format!("can be given {MAX_OBSERVERS} times; {remedy}"),
            );
        }
        for (key, value) in [("realm", &self.realm), ("name", &self.name)] {
            if value.is_empty() || value.len() > MAX_NAME_BYTES {
                fault(key, format!("must have 1 to {MAX_NAME_BYTES} bytes"));
            }
        }
        for (key, value) in self.numbers() {
            match bounds(key) {
                Some((least, _)) if value < least => {
                    fault(key, format!("must be at least {least}"))
                }
                Some((_, Some(most))) if value > most => {
                    fault(
                        key,
                        format!("must be at most {most}; run more relays for more"),
                    );
                }
                Some(_) | None => {}
            }
        }
        let pair =
            |key, has: bool, needs, is_there: bool| (has && !is_there).then_some((key, needs));
        let (tls_cert, tls_key) = (self.tls_cert.is_some(), self.tls_key.is_some());
        let (admin_cert, admin_key) = (self.admin_tls_cert.is_some(), self.admin_tls_key.is_some());
        let (mesh, fleet_key) = (self.mesh.is_some(), self.fleet_key.is_some());
        let client_ca = self.admin_client_ca.is_some();
        let alone = [
            pair("tls_cert", tls_cert, "tls_key", tls_key),
            pair("tls_key", tls_key, "tls_cert", tls_cert),
            pair("admin_tls_cert", admin_cert, "admin_tls_key", admin_key),
            pair("admin_tls_key", admin_key, "admin_tls_cert", admin_cert),
            pair("admin_client_ca", client_ca, "admin_tls_cert", admin_cert),
            pair("mesh", mesh, "fleet_key", fleet_key),
            pair("fleet_key", fleet_key, "mesh", mesh),
            pair("peers", !self.peers.is_empty(), "mesh", mesh),
        ];
        faults.extend(alone.into_iter().flatten().map(|(key, needs)| Fault {
            key,
            what: format!("needs --{}, too", needs.replace('_', "-")),
            needs: Some(needs),
        }));
        faults
    }

    /// What two keys both name: the later key, the other, and the port.
    fn clashes(&self) -> Vec<(&'static str, &'static str, String)> {
        let streams = match self.listen_tcp {
            None => Some(("listen", self.listen)),
            Some(ListenTcp::Off) => None,
            Some(ListenTcp::At(listen)) => Some(("listen_tcp", listen)),
        };
        let mesh = self.mesh.map(|mesh| ("mesh", mesh));
        let admin = self.admin.iter().map(|&at| ("admin", at));
        let tcp: Vec<_> = streams.into_iter().chain(mesh).chain(admin).collect();
        let observers = self.observers.iter().map(|&at| ("observers", at));
        let udp: Vec<_> = iter::once(("listen", self.listen))
            .chain(observers)
            .collect();
        let mut clashes = Vec::new();
        for (protocol, all) in [("TCP", tcp), ("UDP", udp)] {
            for (number, &(key, at)) in all.iter().enumerate() {
                let before = all.iter().take(number);
                if let Some((other, _)) = before.clone().find(|(_, other)| is_same(*other, at)) {
                    clashes.push((
                        key,
                        *other,
                        format!("{protocol} port {} of {}", at.port(), at.ip()),
                    ));
                }
            }
        }
        clashes
    }

    fn numbers(&self) -> [(&'static str, u64); BOUNDS.len()] {
        let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        [
            ("session_rate_bytes", self.session_rate_bytes),
            ("session_burst", self.session_burst),
            ("max_nodes", wide(self.max_nodes)),
            ("max_nodes_per_network", wide(self.max_nodes_per_network)),
            ("max_streams", wide(self.max_streams)),
            ("max_sessions", wide(self.max_sessions)),
            ("workers", wide(self.workers().get())),
            ("udp_buffer_bytes", wide(self.udp_buffer_bytes)),
            ("lookups_per_minute", self.lookups_per_minute),
        ]
    }
}

/// Whether a socket at one of them leaves no room for one at the other. Where all of IPv6 is listened at, all of IPv4 is, too.
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    let everywhere =
        |ip: IpAddr, other: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4());
    let (ip, of_other) = (one.ip(), other.ip());
    one.port() != 0
        && one.port() == other.port()
        && (ip == of_other || everywhere(ip, of_other) || everywhere(of_other, ip))
}

/// A place with a port that nodes can use.
fn is_host_port(text: &str) -> bool {
    if text.contains(|c: char| c == '/' || c.is_whitespace()) {
        return false;
    }
    // The same parser that reads the address on the other side.
    let address = RelayAddr {
        host_port: text.to_owned(),
        id: RelayId([0; 32]),
        tls: None,
    };
    address.to_string().parse::<RelayAddr>().is_ok()
}
