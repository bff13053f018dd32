//! The relay under load: one of our own, which ends with us, or somebody's.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use remora_proto::id::RelayAddr;
use tempfile::TempDir;

use crate::process::{self, Child, Cores, Meter};

/// Rates that no load reaches: what is measured is the work, not a limit.
const UNLIMITED_BYTES: u64 = 1 << 40;
/// The least that a relay takes.
const MIN_BURST_BYTES: u64 = 64 << 10;
const UNLIMITED_LOOKUPS: u64 = 1 << 30;
/// Nodes beyond those that are asked for.
const SPARE_NODES: usize = 64;
/// From half of a network's places on, a relay wants a round trip more (RFC 9000 §8.1): all are in the first half.
const NETWORK_PLACES: usize = 2;
/// A relay that is flooded answers its admin port late; one that does not answer at all is broken.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Before every name of a metric.
const METRIC_PREFIX: &str = "remora_relay_";

/// Which relay.
#[derive(Debug)]
pub enum Aim {
    /// One of our own, for the time of the run.
    Own,
    /// Somebody's.
    Running {
        /// Its address as nodes get it.
        address: RelayAddr,
        /// The same, resolved.
        at: SocketAddr,
        /// Its process, if it runs here and that is known.
        pid: Option<u32>,
    },
}

/// What a relay of our own has room for.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Nodes at once.
    pub nodes: usize,
    /// Sessions at once.
    pub sessions: usize,
    /// Threads that forward; by default one for each core it has.
    pub workers: Option<usize>,
    /// What a session may send.
    pub session_rate: SessionRate,
}

/// What a session may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionRate {
    /// Whatever it likes.
    Unlimited,
    /// What the relay allows when nobody says anything.
    Ordinary,
    /// Bytes per second, and a quarter of a second's at once.
    BytesPerSecond(u64),
}

/// A relay.
#[derive(Debug)]
pub struct Relay {
    /// Its address as nodes get it.
    pub address: RelayAddr,
    /// The same, resolved.
    pub at: SocketAddr,
    /// Its process, where that is known.
    pub meter: Option<Meter>,
    own: Option<Own>,
}

/// A relay that ends with us.
#[derive(Debug)]
struct Own {
    _child: Child,
    admin: SocketAddr,
    /// Where its key is.
    _folder: TempDir,
}

impl Relay {
    /// The relay that is meant; one of our own is started.
    ///
    /// # Errors
    /// When it does not start, or its process cannot be read.
    pub fn new(aim: Aim, capacity: Capacity, cores: &Cores) -> anyhow::Result<Self> {
        match aim {
            Aim::Own => Self::start(capacity, cores),
            Aim::Running { address, at, pid } => Ok(Self {
                address,
                at,
                meter: pid
                    .map(Meter::of)
                    .transpose()
                    .context("--relay-pid is not a process that can be read")?,
                own: None,
            }),
        }
    }

    fn start(capacity: Capacity, cores: &Cores) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("no folder for the relay's key")?;
        let key = folder.path().join("relay.key");
        let flags = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let up = Up::start(capacity, cores, &key, &flags)?;
        Ok(Self {
            at: resolve(&up.address)?,
            address: up.address,
            meter: Some(up.child.meter()),
            own: Some(Own {
                admin: up.admin,
                _child: up.child,
                _folder: folder,
            }),
        })
    }

    /// Whether it ends with us.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Where its metrics are, if it ends with us.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.own.as_ref().map(|own| own.admin)
    }

    /// What it has counted, by name and labels as they are written; nothing of somebody's relay.
    ///
    /// # Errors
    /// When its admin port does not answer.
    pub fn metrics(&self) -> anyhow::Result<BTreeMap<String, f64>> {
        self.own
            .as_ref()
            .map_or_else(|| Ok(BTreeMap::new()), |own| metrics(own.admin))
    }
}

/// What a relay has counted, by name and labels as they are written.
///
/// # Errors
/// When its admin port does not answer.
pub fn metrics(admin: SocketAddr) -> anyhow::Result<BTreeMap<String, f64>> {
    scrape(admin).map(|answer| parse_metrics(&answer))
}

/// Its metrics as they came, headers and all.
///
/// # Errors
/// When its admin port does not answer.
pub fn scrape(admin: SocketAddr) -> anyhow::Result<String> {
    get(admin, "/metrics")
}

/// What the relay with that admin port, `HOST:PORT`, is for nodes.
///
/// # Errors
/// When that does not answer, or is no relay's.
pub fn ask_address(admin: &str) -> anyhow::Result<RelayAddr> {
    let at = first_of(admin)?;
    let answer = get(at, "/address")?;
    let body = answer.rsplit("\r\n\r\n").next().unwrap_or_default();
    body.parse()
        .with_context(|| format!("what answers at {at} is no relay's admin port"))
}

/// The answer, headers and all.
fn get(admin: SocketAddr, path: &str) -> anyhow::Result<String> {
    let exchange = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&admin, ADMIN_TIMEOUT)?;
        stream.set_read_timeout(Some(ADMIN_TIMEOUT))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    exchange().with_context(|| format!("the relay's admin port, {admin}, does not answer"))
}

/// A process that serves.
#[derive(Debug)]
pub struct Up {
    /// The process.
    pub child: Child,
    /// Its address as nodes get it.
    pub address: RelayAddr,
    /// Where its metrics are.
    pub admin: SocketAddr,
    /// Where other relays connect to, if it is in a mesh.
    pub mesh: Option<SocketAddr>,
}

impl Up {
    /// Starts one with the key in that file, and these flags beside its capacity.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(
        capacity: Capacity,
        cores: &Cores,
        key: &Path,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(process::beside("remora-relay")?);
        // Nothing of the caller's environment may change what is measured.
        command.env_clear();
        Self::start_by(command, capacity, cores, key, flags)
    }

    /// The same by a command that is the program's, with an environment of its own.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_by(
        mut command: Command,
        capacity: Capacity,
        cores: &Cores,
        key: &Path,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        command.args(["serve", "--json", "--log", "error"]);
        command.arg("--key").arg(key);
        command.args(flags);
        for (flag, value) in capacity.flags() {
            command.args([flag, &value.to_string()]);
        }
        let mut child = Child::start(command, cores, Stdio::piped())?;
        let line = child.first_line().context("remora-relay does not start")?;
        let announced: serde_json::Value = serde_json::from_str(&line)
            .with_context(|| format!("remora-relay says `{line}` instead of its address"))?;
        let text = |name: &str| announced[name].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            address: text("address")
                .parse()
                .with_context(|| format!("remora-relay's address is `{}`", text("address")))?,
            admin: text("admin").parse().context("no admin port")?,
            mesh: text("mesh").parse().ok(),
            child,
        })
    }
}

impl Capacity {
    fn flags(self) -> Vec<(&'static str, u64)> {
        let nodes = self.nodes + SPARE_NODES;
        let mut flags = vec![
            ("--lookups-per-minute", UNLIMITED_LOOKUPS),
            ("--max-sessions", self.sessions.max(1) as u64),
            ("--max-nodes", nodes as u64),
            ("--max-nodes-per-network", (NETWORK_PLACES * nodes) as u64),
        ];
        match self.session_rate {
            SessionRate::Unlimited => flags.extend([
                ("--session-rate-bytes", UNLIMITED_BYTES),
                ("--session-burst", UNLIMITED_BYTES),
            ]),
            SessionRate::Ordinary => {}
            SessionRate::BytesPerSecond(rate) => flags.extend([
                ("--session-rate-bytes", rate),
                ("--session-burst", (rate / 4).max(MIN_BURST_BYTES)),
            ]),
        }
        if let Some(workers) = self.workers {
            flags.push(("--workers", workers as u64));
        }
        flags
    }
}

/// Lines of the text format that carry a number.
fn parse_metrics(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix(METRIC_PREFIX)?.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    lines.collect()
}

/// Where a relay is.
///
/// # Errors
/// When its name cannot be resolved.
pub fn resolve(relay: &RelayAddr) -> anyhow::Result<SocketAddr> {
    first_of(&relay.host_port)
}

fn first_of(host_port: &str) -> anyhow::Result<SocketAddr> {
    use std::net::ToSocketAddrs as _;
    let addresses = host_port
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve `{host_port}`; check the name and your DNS"))?;
    let address = addresses.min_by_key(|address| !address.is_ipv4());
    let address = address.with_context(|| format!("`{host_port}` has no address"))?;
    ensure!(
        !address.ip().is_unspecified(),
        "`{host_port}` is no address to send to; name one of the relay's"
    );
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_by_name_and_labels() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# HELP remora_relay_x y\nremora_relay_drops{reason=\"a b\"} 3\n\
                    remora_relay_nodes 2.5\nother 1\nremora_relay_broken\n";
        let metrics = parse_metrics(text);
        assert_eq!(metrics.len(), 2);
        assert_eq!(metrics["drops{reason=\"a b\"}"], 3.0);
        assert_eq!(metrics["nodes"], 2.5);
    }

    #[test]
    fn only_a_capacity_with_a_rate_limits_sessions() {
        let mut capacity = Capacity {
            nodes: 10,
            sessions: 0,
            workers: None,
            session_rate: SessionRate::Unlimited,
        };
        let value = |capacity: Capacity, name: &str| {
            let flags = capacity.flags().into_iter();
            flags
                .filter(|(flag, _)| *flag == name)
                .map(|(_, value)| value)
                .next()
        };
        assert_eq!(value(capacity, "--session-burst"), Some(UNLIMITED_BYTES));
        assert_eq!(
            value(capacity, "--max-sessions"),
            Some(1),
            "what a relay takes"
        );
        assert_eq!(value(capacity, "--workers"), None);
        capacity.session_rate = SessionRate::Ordinary;
        assert_eq!(value(capacity, "--session-burst"), None);
        capacity.session_rate = SessionRate::BytesPerSecond(1 << 20);
        capacity.workers = Some(2);
        assert_eq!(value(capacity, "--session-burst"), Some(1 << 18));
        assert_eq!(value(capacity, "--workers"), Some(2));
    }
}
