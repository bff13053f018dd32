//! Commands and flags, as typed and as checked.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    num::ParseIntError,
    path::PathBuf,
    str::FromStr,
};

use anyhow::{bail, ensure};
use clap::{Parser, Subcommand, ValueEnum, builder::RangedU64ValueParser};
use remora_proto::id::{InvalidRelayAddr, RelayAddr};

use crate::{
    flood, forwarder,
    natlab::{
        edge::{Edge, Pair},
        living::Ordeal,
    },
    provoke::alert::Alert,
    relay::{self, Aim},
    subject::Rival,
    traffic::Mode,
};

/// Load a Remora relay, measure what that costs, and compare it with others under the same load
#[derive(Debug, Parser)]
#[command(
    name = "remora-loadtest",
    version,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "Exit codes: 0 the measurement is valid, 1 it is not or --fail-above fails it, 2 the command line cannot be."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// A verb.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Send frames through sessions: CPU per frame, throughput, loss, latency
    Forward(Forward),
    /// Set sessions up by code: set-ups per second and per second of the relay's CPU, latency
    Connect(Connect),
    /// Let one session send many times its share: what the others keep
    Fairness(Fairness),
    /// Flood the relay: what honest sessions keep, memory, new sessions
    Flood(Flood),
    /// Keep nodes connected that do nothing: memory and CPU of each
    Idle(Idle),
    /// Read a relay's metrics while it has many sessions: how long that takes, and how many series they are
    Scrape(Scrape),
    /// Hold whole sessions by code, as people would: from the code to the first words and the picture
    Session(Session),
    /// Let nodes at any two relays of a fleet meet, while others are killed: who finds whom, how soon, and what a bridge costs
    Mesh(Mesh),
    /// Tell a relay to stop while its sessions talk: what they notice of it
    Drain(Outlive),
    /// Kill a relay while its sessions talk, or its machine: how long they are interrupted
    Crash(Outlive),
    /// Cut a fleet in two for a while: what each side can do alone, and how soon all is one again
    Partition(Partition),
    /// Change an organisation's policy: how soon all its nodes go by it, and how soon a revoked helper's sessions are over
    Policy(Policy),
    /// Let nodes, codes, sessions and relays come and go: what fails, and whether the relays' memory grows
    Churn(Churn),
    /// Let two nodes meet behind NATs of all kinds, in networks of this process: who reaches whom, and how soon
    Natlab(Natlab),
    /// Set alerts off on purpose, and see Prometheus notice: with relays and a Prometheus of its own, or at a fleet that runs
    Provoke(Provoke),
    /// Set a relay and two computers up by README's commands, in a network each: how soon somebody is helped
    Quickstart(Quickstart),
    /// Make one HTML page of what the other verbs found
    Report(Report),
    /// Forward frames for the sessions on standard input, and nothing else
    #[command(hide = true)]
    Forwarder {
        /// Which forwarder.
        kind: forwarder::Kind,
    },
}

/// How fast frames are sent, or sessions set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As fast as they come back.
    Max,
    /// So many per second, all together.
    PerSecond(u64),
}

/// More than any machine forwards; a typing error has more digits.
const MAX_RATE_FPS: u64 = 10_000_000;

/// More nodes than twice this take more memory and more file descriptors than a machine may have to spare.
const MAX_PAIRS: usize = 1000;
/// A relay lets a node have so many.
const MAX_SESSIONS_PER_PAIR: usize = 16;
/// Each has up to six file descriptors here and there.
const MAX_COTURN_SESSIONS: u16 = 1000;

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let frames: u64 = text
            .parse()
            .map_err(|_: ParseIntError| "say `max`, or how many per second".to_owned())?;
        if !(1..=MAX_RATE_FPS).contains(&frames) {
            return Err(format!("1 to {MAX_RATE_FPS} per second"));
        }
        Ok(Self::PerSecond(frames))
    }
}

/// A running relay.
#[derive(Clone, Debug)]
pub enum Which {
    /// As nodes get it.
    Known(RelayAddr),
    /// `HOST:PORT` of its admin port, which says that.
    Asked(String),
}

impl FromStr for Which {
    type Err = InvalidRelayAddr;

    fn from_str(text: &str) -> Result<Self, InvalidRelayAddr> {
        match text.strip_prefix("http://") {
            Some(admin) => Ok(Self::Asked(admin.trim_end_matches('/').to_owned())),
            None => text.parse().map(Self::Known),
        }
    }
}

/// Flags of every verb that measures.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// A running relay, HOST:PORT/KEY, or http://HOST:PORT of its admin port, which says that; without it one is started for the
    /// time of the test
    #[arg(long, value_name = "ADDR")]
    pub relay: Option<Which>,
    /// Its process, to read what it costs
    #[arg(long, value_name = "PID", requires = "relay")]
    pub relay_pid: Option<u32>,
    /// What is drawn by lot: the order of sessions, times of arrival, forged bytes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Leave load and relay on whatever cores the system likes, instead of one each
    #[arg(long)]
    pub no_pin: bool,
    /// Load a relay that is not on this machine
    #[arg(long)]
    pub i_own_this_network: bool,
}

impl Target {
    /// Finds out where the relay is, and whether it may be loaded.
    ///
    /// # Errors
    /// It is nowhere, or on another machine and nobody said that it may be loaded.
    pub fn aim(&self) -> anyhow::Result<Aim> {
        let address = match &self.relay {
            None => return Ok(Aim::Own),
            Some(Which::Known(address)) => address.clone(),
            Some(Which::Asked(admin)) => relay::ask_address(admin)?,
        };
        Ok(Aim::Running {
            at: may_be_loaded(&address, self.i_own_this_network)?,
            address,
            pid: self.relay_pid,
        })
    }
}

/// Where it is, if that is here or somebody said that it may be loaded.
fn may_be_loaded(relay: &RelayAddr, is_mine: bool) -> anyhow::Result<SocketAddr> {
    let at = relay::resolve(relay)?;
    ensure!(
        is_mine || is_on_this_machine(at),
        "{at} is not on this machine; if it and the network between are yours to load, say --i-own-this-network"
    );
    Ok(at)
}

/// Whether `address` is one of this machine's: only then can a port be bound there.
fn is_on_this_machine(address: SocketAddr) -> bool {
    UdpSocket::bind((address.ip(), 0)).is_ok()
}

/// Flags of `forward`.
#[derive(Debug, clap::Args)]
pub struct Forward {
    /// Which relay, and how.
    #[command(flatten)]
    pub target: Target,
    /// Sessions by code
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub sessions: u16,
    /// Nodes that have them, in pairs; without it two for each session, but not more than 2000
    #[arg(long, value_name = "N", value_parser = count(2, 20_000))]
    pub nodes: Option<usize>,
    /// Bytes of a datagram, header included
    #[arg(long, value_name = "BYTES", default_value_t = 1200, value_parser = clap::value_parser!(u16).range(64..=1452))]
    pub size: u16,
    /// How frames are handed to the system
    #[arg(long, value_enum, default_value_t = Mode::Single)]
    pub mode: Mode,
    /// Frames per second, all sessions together, or `max`: as fast as they come back
    #[arg(long, value_name = "FPS|max", default_value = "20000")]
    pub rate: Rate,
    /// How long a run counts
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub seconds: u64,
    /// Runs of each that is measured, in turns; medians count
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub runs: u32,
    /// Threads that forward in a relay of our own; with two on two cores, the load has one of them, too
    #[arg(long, value_name = "N", conflicts_with = "relay", value_parser = count(1, 64))]
    pub workers: Option<usize>,
    /// Something else to measure on the same load, in turns with the relay
    #[arg(long, value_enum)]
    pub vs: Option<Rival>,
    /// Fail when CPU per frame is more than so many times the other's
    #[arg(long, value_name = "RATIO", requires = "vs")]
    pub fail_above: Option<f64>,
}

impl Forward {
    /// Checks what the flags are together.
    ///
    /// # Errors
    /// The first thing that cannot be, with what to do.
    pub fn check(&self) -> anyhow::Result<()> {
        let target = &self.target;
        ensure!(
            self.vs.is_none() || target.relay.is_none() || target.relay_pid.is_some(),
            "--vs compares what processes cost: say which is the relay's with --relay-pid"
        );
        let most = self.pairs() * MAX_SESSIONS_PER_PAIR;
        ensure!(
            usize::from(self.sessions) <= most,
            "{} nodes have at most {most} sessions: lower --sessions, or more --nodes",
            2 * self.pairs()
        );
        let is_coturn = matches!(self.vs, Some(Rival::Coturn | Rival::CoturnOne));
        ensure!(
            !is_coturn || self.sessions <= MAX_COTURN_SESSIONS,
            "coturn wants sockets of its own for each session: at most {MAX_COTURN_SESSIONS} --sessions with it"
        );
        if let Some(ratio) = self.fail_above {
            ensure!(
                ratio.is_finite() && ratio > 0.0,
                "--fail-above takes a ratio, like 1.05"
            );
        }
        Ok(())
    }

    /// Pairs of nodes that have the sessions.
    pub fn pairs(&self) -> usize {
        let sessions = usize::from(self.sessions);
        let pairs = self.nodes.map_or(MAX_PAIRS, |nodes| nodes / 2);
        pairs.min(sessions)
    }

    /// The mode's name.
    pub fn mode_name(&self) -> String {
        name_of(self.mode)
    }
}

/// Flags of `idle`.
#[derive(Debug, clap::Args)]
pub struct Idle {
    /// Which relay, and how.
    #[command(flatten)]
    pub target: Target,
    /// Nodes, authenticated and silent; they share a few ports here
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = count(1, 50_000))]
    pub nodes: usize,
    /// Leave them connected, as nodes are in their first minute of silence; else they have themselves parked, as nodes do then
    #[arg(long)]
    pub connected: bool,
    /// Sessions that carry nothing, ten of each two further nodes
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count(0, 20_000))]
    pub sessions: usize,
    /// How long their CPU is measured
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
}

/// Flags of `scrape`.
#[derive(Debug, clap::Args)]
pub struct Scrape {
    /// Which relay, and how.
    #[command(flatten)]
    pub target: Target,
    /// Sessions, ten of each two nodes
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = count(1, 20_000))]
    pub sessions: usize,
    /// Scrapes, as often without frames as with
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = count(1, 10_000))]
    pub scrapes: usize,
    /// Fail when one of a hundred takes longer than so many milliseconds, or there are more than 300 series
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub fail_above: Option<u32>,
}

/// Flags of `connect`. A relay keeps the place of a code for 22 minutes and has 32,768 of them: hence the highest count.
#[derive(Debug, clap::Args)]
pub struct Connect {
    /// Which relay, and how.
    #[command(flatten)]
    pub target: Target,
    /// Set-ups per second, or `max`: as fast as they succeed
    #[arg(long, value_name = "N|max", default_value = "max")]
    pub rate: Rate,
    /// Set-ups in all
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = count(1, 8000))]
    pub count: usize,
    /// Sessions that are there all the while
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count(0, 10_000))]
    pub live: usize,
    /// Only from code to session, by nodes that stay connected
    #[arg(long)]
    pub keep_nodes: bool,
}

/// Flags of `fairness`.
#[derive(Debug, clap::Args)]
pub struct Fairness {
    /// Which relay, and how.
    #[command(flatten)]
    pub target: Target,
    /// Sessions, one of them greedy
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = count(2, 1000))]
    pub sessions: usize,
    /// Frames per second of each
    #[arg(long, value_name = "FPS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub share: u64,
    /// How many times its share the greedy one sends
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = count(2, 10_000))]
    pub greed: usize,
    /// What a relay of our own lets a session send, bytes per second; without it, what relays do
    #[arg(long, value_name = "BYTES", conflicts_with = "relay", value_parser = clap::value_parser!(u64).range(1024..))]
    pub session_rate: Option<u64>,
    /// Bytes of a datagram, header included
    #[arg(long, value_name = "BYTES", default_value_t = 1200, value_parser = clap::value_parser!(u16).range(64..=1452))]
    pub size: u16,
    /// How long a run counts
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=8))]
    pub seconds: u64,
    /// Runs with and without greed, in turns
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub rounds: u32,
}

/// Flags of `flood`.
#[derive(Debug, clap::Args)]
pub struct Flood {
    /// Which relay, and how.
    #[command(flatten)]
    pub target: Target,
    /// What the flood is made of
    #[arg(long, value_enum, default_value_t = flood::Kind::All)]
    pub kind: flood::Kind,
    /// Datagrams per second, as far as this machine can
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub rate: u64,
    /// Honest sessions
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = count(1, 1000))]
    pub sessions: usize,
    /// Frames per second of each
    #[arg(long, value_name = "FPS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub fps: u64,
    /// Bytes of a datagram, header included
    #[arg(long, value_name = "BYTES", default_value_t = 1200, value_parser = clap::value_parser!(u16).range(64..=1452))]
    pub size: u16,
    /// How long it goes on
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=8))]
    pub seconds: u64,
}

impl Flood {
    /// The kind's name.
    pub fn kind_name(&self) -> String {
        name_of(self.kind)
    }
}

/// Flags of `session`.
#[derive(Debug, clap::Args)]
pub struct Session {
    /// Which relay, and how.
    #[command(flatten)]
    pub target: Target,
    /// Sessions, all at once; a relay takes five codes at once from one address unless its lookups_per_minute is raised
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = count(1, 200))]
    pub count: usize,
}

/// Flags of `mesh`.
#[derive(Debug, clap::Args)]
pub struct Mesh {
    /// Relays, each a process of its own: up to 25, or 10,000 with --simulate
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = count(2, 10_000))]
    pub relays: usize,
    /// Sessions of real nodes, each at two relays drawn by lot
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = count(1, 500))]
    pub sessions: usize,
    /// How often a code is shown, any two relays are killed, and the code is used
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = count(0, 500))]
    pub kills: usize,
    /// Look-ups that are timed, in five relays and in all; or simulated
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = count(1, 1_000_000))]
    pub lookups: usize,
    /// Only: add a relay while sessions begin, and see how many of them begin there within a minute
    #[arg(long, conflicts_with_all = ["simulate", "kills", "lookups"])]
    pub add: bool,
    /// Only: a relay with the fleet's key asks all others to keep so many records, while --sessions people show codes
    #[arg(long, value_name = "N", conflicts_with_all = ["add", "simulate", "kills", "lookups"], value_parser = count(1, 131_072))]
    pub flood: Option<usize>,
    /// Only: work out hops and load of a fleet of that size, without processes
    #[arg(long, conflicts_with_all = ["sessions", "kills"])]
    pub simulate: bool,
    /// Live codes of the simulation
    #[arg(long, value_name = "N", default_value_t = 100_000, requires = "simulate", value_parser = count(1, 1_000_000))]
    pub codes: usize,
    /// What is drawn by lot: who is at which relay, and which are killed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Flags of `drain` and `crash`.
#[derive(Debug, clap::Args)]
pub struct Outlive {
    /// Relays, each a process of its own
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = count(2, 25))]
    pub relays: usize,
    /// Sessions of real nodes, through the relay only
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = count(1, 1000))]
    pub sessions: usize,
    /// How often each of the two says something
    #[arg(long, value_name = "MS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(10..=5000))]
    pub every: u64,
    /// `drain`: all relays in turn, each started again at its address
    #[arg(long)]
    pub rolling: bool,
    /// `crash`: the relay's machine is lost, not the relay alone. Each relay has a network of its own, and this one's is cut
    #[arg(long)]
    pub machine_loss: bool,
    /// The relays are a fleet, and each side of a session begins at one drawn by lot
    #[arg(long)]
    pub mesh: bool,
    /// What is drawn by lot: when each session talks, and where it begins
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Flags of `policy`.
#[derive(Debug, clap::Args)]
pub struct Policy {
    /// Relays, each a process of its own; several are a fleet, and the policy is brought to the first
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = count(1, 25))]
    pub relays: usize,
    /// Members that are there, and in no session
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = count(1, 1000))]
    pub nodes: usize,
    /// Sessions of other members, whose helpers are revoked
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = count(1, 200))]
    pub sessions: usize,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Flags of `quickstart`.
#[derive(Debug, clap::Args)]
pub struct Quickstart {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Flags of `partition`.
#[derive(Debug, clap::Args)]
pub struct Partition {
    /// Relays, each a process with a network of its own; half of them are cut from the others, and the smaller half is the second
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = count(2, 25))]
    pub relays: usize,
    /// Sessions of real nodes, through relays only, half on each side
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = count(2, 1000))]
    pub sessions: usize,
    /// Codes that are shown on each side while it is alone; four at most at each relay
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = count(1, 8))]
    pub codes: usize,
    /// How long the fleet is cut in two
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub cut: u64,
    /// How often each of the two says something
    #[arg(long, value_name = "MS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(10..=5000))]
    pub every: u64,
    /// What is drawn by lot: when each session talks, and where it begins
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Flags of `churn`.
#[derive(Debug, clap::Args)]
pub struct Churn {
    /// Relays of a fleet, each a process of its own
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = count(2, 25))]
    pub relays: usize,
    /// Pairs of people who show codes, join them and part, over and over
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = count(1, 1000))]
    pub sessions: usize,
    /// How long
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=7200))]
    pub seconds: u64,
    /// How long they did so before memory is measured; a relay keeps the key of a code for up to 22 minutes
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=7200))]
    pub warm_up: u64,
    /// How often a relay is killed and started again meanwhile
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub restarts: u32,
    /// Live records that are there before; five relays keep each, beside the one it is published at
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count(0, 200_000))]
    pub records: usize,
    /// Parked nodes that are there all the while
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count(0, 50_000))]
    pub idle: usize,
    /// What is drawn by lot: who is where, what they do, and which relays go
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Flags of `natlab`.
#[derive(Debug, clap::Args)]
pub struct Natlab {
    /// What the two are behind, A:B; several times for several, without it all pairs
    #[arg(long = "pair", value_name = "A:B", long_help = pairs_help())]
    pub pairs: Vec<Pair>,
    /// Runs of each pair; every other one, the other of the two invites
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// How long a run waits for a direct path
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub patience: u64,
    /// Of the frames on each node's link, so many are lost, each way
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = loss_percent)]
    pub loss: f64,
    /// Which frames are lost
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Let this happen to a session instead of measuring how it begins; several times for several
    #[arg(long = "trial", value_name = "NAME")]
    pub trials: Vec<Ordeal>,
    /// In the trial `keys`, through the relay
    #[arg(long)]
    pub relay_only: bool,
    /// In the trial `keys`, through the relay by TCP
    #[arg(long)]
    pub tcp_only: bool,
    /// Print one JSON object instead of a table
    #[arg(long, conflicts_with = "markdown")]
    pub json: bool,
    /// Print the table in Markdown
    #[arg(long)]
    pub markdown: bool,
}

/// Flags of `provoke`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --relay it starts relays and a Prometheus with the rules of deploy/prometheus, in which all durations are --speed times
shorter (no threshold is), and ends when the alerts fire. It needs the programs prometheus and promtool, and for ClockSkew
libfaketime (Debian: apt-get install prometheus faketime).

With --relay it does to a fleet that runs what computers of users can do to it, for --seconds at most, and touches nobody's code
or session but its own. Those who are on call will be called: tell them before.

Exit codes: 0 all fired (with --relay and without --watch: it was done), 1 one did not, 2 the command line cannot be.")]
pub struct Provoke {
    /// Which; all names are said by --list
    #[arg(value_name = "ALERT", value_enum, ignore_case = true, hide_possible_values = true, required_unless_present_any = ["list", "all", "control"])]
    pub alerts: Vec<Alert>,
    /// Only: say which there are, and what is done to set each off
    #[arg(long)]
    pub list: bool,
    /// All of them
    #[arg(long, conflicts_with_all = ["alerts", "relays"])]
    pub all: bool,
    /// Beside them a fleet that nothing happens to, which may set nothing off
    #[arg(long, conflicts_with = "relays")]
    pub control: bool,
    /// The program, promtool beside it [default: what is found by name]
    #[arg(long, value_name = "PATH", conflicts_with = "relays")]
    pub prometheus: Option<PathBuf>,
    /// Other rules than those of deploy/prometheus
    #[arg(long, value_name = "FILE", conflicts_with = "relays")]
    pub rules: Option<PathBuf>,
    /// How many times as fast as the rules say; 1 takes as long as it would in earnest
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=150))]
    pub speed: u32,
    /// How long to wait for an alert, seconds
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub within: u64,
    /// When an alert fires, go on until Ctrl-C, and say where to look at it
    #[arg(long, conflicts_with = "relays")]
    pub keep: bool,
    /// A relay that runs, HOST:PORT/KEY; several times for several
    #[arg(long = "relay", value_name = "ADDR")]
    pub relays: Vec<RelayAddr>,
    /// With --relay: how often it is done at each, seconds
    #[arg(long, value_name = "S", default_value_t = 6, requires = "relays", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub every: u64,
    /// With --relay: for how long at most, seconds
    #[arg(long, value_name = "S", default_value_t = 1200, requires = "relays", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// With --relay: where its Prometheus answers by HTTP; ends as soon as the alert fires there
    #[arg(long, value_name = "ADDR:PORT", requires = "relays")]
    pub watch: Option<SocketAddr>,
    /// With --relay: relays that are not on this machine
    #[arg(long, requires = "relays")]
    pub i_own_this_network: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

impl Provoke {
    /// Which are to fire.
    pub fn wanted(&self) -> Vec<Alert> {
        if self.all {
            return Alert::value_variants().to_vec();
        }
        self.alerts.clone()
    }

    /// Checks what the flags are together.
    ///
    /// # Errors
    /// The first thing that cannot be, with what to do.
    pub fn check(&self) -> anyhow::Result<()> {
        for relay in &self.relays {
            may_be_loaded(relay, self.i_own_this_network)?;
        }
        let inside = |alert: &&Alert| alert.deed().is_none();
        if let Some(alert) = self
            .alerts
            .iter()
            .find(inside)
            .filter(|_| !self.relays.is_empty())
        {
            let name = alert.name();
            bail!("{name} takes what only a relay's operator can do; try it without --relay");
        }
        let causes: BTreeSet<_> = self.alerts.iter().map(|alert| alert.cause()).collect();
        ensure!(
            self.relays.is_empty() || causes.len() == 1,
            "relays let so many tries in from one address: with --relay one alert at a time, or several with one cause"
        );
        Ok(())
    }
}

fn loss_percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text
        .parse()
        .map_err(|_: std::num::ParseFloatError| "say a number of percent".to_owned())?;
    (0.0..=50.0)
        .contains(&percent)
        .then_some(percent)
        .ok_or_else(|| "from 0 to 50 percent".to_owned())
}

fn pairs_help() -> String {
    let edges = Edge::value_variants().iter().filter_map(|edge| {
        let value = edge.to_possible_value()?;
        Some(format!("  {:<12} {}", value.get_name(), value.get_help()?))
    });
    let edges = edges.collect::<Vec<_>>().join("\n");
    format!(
        "What the two are behind, A:B; several times for several, without it all pairs\n\n{edges}"
    )
}

/// Flags of `report`.
#[derive(Debug, clap::Args)]
pub struct Report {
    /// What `--json` printed, one object or several in a file
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where to
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub out: PathBuf,
}

/// As it is typed.
fn name_of(value: impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// A whole number from `least` to `most`.
fn count(least: u64, most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(least..=most)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn forward(args: &[&str]) -> Option<Forward> {
        let all = ["remora-loadtest", "forward"].iter().chain(args);
        let Verb::Forward(forward) = Cli::try_parse_from(all).ok()?.verb else {
            return None;
        };
        Some(forward)
    }

    #[test]
    fn the_flags_fit_together() {
        Cli::command().debug_assert();
        let defaults = forward(&[]).expect("defaults");
        assert!(defaults.check().is_ok());
        assert_eq!(defaults.rate, Rate::PerSecond(20_000));
        assert_eq!(defaults.mode_name(), "single");
        for args in [
            &["--rate", "fast"][..],
            &["--rate", "0"],
            &["--seconds", "61"],
            &["--sessions", "0"],
            &["--size", "63"],
            &["--relay-pid", "1"],
            &["--fail-above", "1"],
        ] {
            assert!(forward(args).is_none(), "{args:?}");
        }
        let max = forward(&["--rate", "max", "--vs", "coturn-one", "--fail-above", "0.7"]);
        assert_eq!(max.expect("valid").rate, Rate::Max);
    }

    #[test]
    fn sessions_have_nodes_enough() {
        let pairs = |args: &[&str]| forward(args).expect("valid").pairs();
        assert_eq!(pairs(&["--sessions", "7"]), 7);
        assert_eq!(pairs(&["--sessions", "10000"]), MAX_PAIRS);
        assert_eq!(pairs(&["--sessions", "30", "--nodes", "5"]), 2);
        let crowded = forward(&["--sessions", "33", "--nodes", "4"]).expect("valid");
        assert!(crowded.check().is_err());
        let coturn = forward(&["--sessions", "1001", "--vs", "coturn"]).expect("valid");
        assert!(coturn.check().is_err());
    }

    #[test]
    fn other_machines_are_left_alone() {
        let key = "a".repeat(52);
        let aim = |at: &str, more: &[&str]| {
            let relay = format!("{at}:4433/{key}");
            let args = [&["--relay", &relay], more].concat();
            forward(&args).expect("valid").target.aim()
        };
        // 192.0.2.0/24 is for documentation, and nobody's (RFC 5737).
        assert!(aim("127.0.0.1", &[]).is_ok());
        assert!(aim("192.0.2.1", &[]).is_err());
        assert!(aim("192.0.2.1", &["--i-own-this-network"]).is_ok());
        // Whose admin port says where it is.
        let asked = forward(&["--relay", "http://192.0.2.1:9090/"]).expect("valid");
        assert!(matches!(asked.target.relay, Some(Which::Asked(at)) if at == "192.0.2.1:9090"));
        assert!(matches!(
            forward(&[]).expect("valid").target.aim(),
            Ok(Aim::Own)
        ));
    }
}
