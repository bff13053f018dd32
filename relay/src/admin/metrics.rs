//! What an operator can count. Each metric stands beside the line that moves it: a field here, an `inc` there.
//!
//! Labels come from closed enums and are resolved once, so that the datapath only adds to atomics; every series is there from the first
//! scrape on, and there are never more of them ([`MAX_SERIES`]). `docs/metrics.md` is printed from what is registered here.

// Metrics by their labels.
pub mod family;
// What labels can say.
pub mod labels;
// All of this, as a page.
pub mod page;
// What the system knows of the process.
pub mod process;
// What is measured when somebody asks.
pub mod scrape;

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, IntGauge, Registry};

pub use self::labels::{
    CodeEnd, Denial, DhtKind, DhtResult, Direction, FrameLeg, Handshake, Introduction, Lookup,
    MoveCause, MoveResult, Outcome, PathOutcome, PathWay, Profile, Reload, RequestGroup,
    RequestKind, RpcKind, RpcResult, SessionEnd, SessionPath, Stranger, StreamEnd, WorkerName,
};
use self::{
    family::{CounterPairs, Counters, Described, Gauges, Histograms, Known, Register},
    labels::Label as _,
};
use crate::{
    datapath::DropReason,
    drain,
    health::{Finding, Verdict, What},
};

/// Series of a relay at any load: what a fleet's Prometheus has to keep of each.
pub const MAX_SERIES: usize = 300;

/// A handshake: 1 ms on loopback, to 10 s, for which nobody waits.
const HANDSHAKE_BUCKETS: [f64; 6] = [0.001, 0.01, 0.05, 0.2, 1.0, 10.0];
/// A request is a few map operations, or a look-up through a slow DHT.
const REQUEST_BUCKETS: [f64; 3] = [0.01, 0.1, 1.0];
/// Another relay, on this continent or another.
const RPC_BUCKETS: [f64; 2] = [0.1, 1.0];
/// The first of the objectives, 500 ms, and what an alert asks for, 1 s, are among them.
const INTRODUCTION_BUCKETS: [f64; 6] = [0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Until frames go without a relay: some round trips, or some seconds of trying.
const DIRECT_BUCKETS: [f64; 5] = [0.1, 0.5, 1.0, 3.0, 10.0];
/// While nothing is heard of the other: nobody notices, somebody does, it is over soon.
const GAP_BUCKETS: [f64; 5] = [0.05, 0.2, 1.0, 5.0, 15.0];
/// One datagram, to a batch of runs that the kernel joined.
const BATCH_BUCKETS: [f64; 5] = [1.0, 4.0, 16.0, 64.0, 512.0];

/// Outcomes of which the ratio is made: those of the last sessions.
const RECENT_OUTCOMES: usize = 256;

/// The relay's metrics.
#[derive(Debug)]
pub struct Metrics {
    ready: IntGauge,
    warnings: Gauges<What>,
    clock_skew_seconds: Gauge,
    /// Nodes that said Hello and are here.
    pub nodes_connected: IntGauge,
    /// Those of them that are parked.
    pub nodes_parked: IntGauge,
    handshakes: CounterPairs<Profile, Handshake>,
    /// Seconds from a node's first packet to its proven key.
    pub handshake_seconds: Histogram,
    control_requests: CounterPairs<RequestKind, Outcome>,
    control_request_seconds: Histograms<RequestGroup>,
    admission_denied: Counters<Denial>,
    /// Records that can be joined; set when somebody asks.
    pub locators: IntGauge,
    /// Devices that are there, as far as is kept here; set when somebody asks.
    pub devices: IntGauge,
    locator_lookups: Counters<Lookup>,
    code_burns: Counters<CodeEnd>,
    introductions: Counters<Introduction>,
    introduction_seconds: Histogram,
    /// Sessions with an allocation here.
    pub sessions: Sessions,
    session_end: Counters<SessionEnd>,
    frames_forwarded: Counters<FrameLeg>,
    bytes_forwarded: Counters<FrameLeg>,
    frames_dropped: Counters<DropReason>,
    /// Datagrams in one receive.
    pub batch_frames: Histogram,
    /// Sends of several datagrams that were one to the system.
    pub gso_runs: IntCounter,
    /// Datagrams for which a socket had no room.
    pub socket_receive_drops: IntCounter,
    /// Packets for control that found their queue full.
    pub quic_queue_drops: IntCounter,
    rate_limited_sessions: IntGauge,
    worker_busy_ratio: GaugeVec,
    /// By a worker's number.
    busy: Mutex<Vec<f64>>,
    /// Connections of TCP, whose datagrams are counted below and, as all others, above.
    pub streams: IntGauge,
    stream_ends: Counters<StreamEnd>,
    stream_datagrams: Counters<Direction>,
    paths: Counters<PathOutcome>,
    path_moves: CounterPairs<PathWay, PathWay>,
    direct_ratio: Gauge,
    /// Whether each of the last sessions went directly, the latest last.
    outcomes: Mutex<VecDeque<bool>>,
    time_to_direct_seconds: Histogram,
    sessions_moved: CounterPairs<MoveCause, MoveResult>,
    session_gap_seconds: Histogram,
    mesh_peers: IntGauge,
    mesh_unheard: IntGauge,
    mesh_refused: Counters<Stranger>,
    /// Records and tombstones kept here; set when somebody asks.
    pub dht_records: IntGauge,
    /// Devices, also those that have gone, of which something is kept here; set when somebody asks.
    pub dht_devices: IntGauge,
    dht_queries: CounterPairs<DhtKind, DhtResult>,
    dht_query_seconds: Histograms<DhtKind>,
    rpc: CounterPairs<RpcKind, RpcResult>,
    rpc_seconds: Histograms<RpcKind>,
    /// Sessions with a node at another relay.
    pub bridged_sessions: IntGauge,
    drain_state: IntGauge,
    drain_remaining: IntGauge,
    config_reloads: Counters<Reload>,
    /// When the certificate that is shown by TCP ends, seconds since 1970; nothing while it is the relay's own.
    pub certificate_expiry_seconds: Known,
    clock_seconds: Gauge,
    memory_limit_bytes: Known,
    heap_bytes: IntGauge,
}

impl Metrics {
    /// Registers every metric on `registry`.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        Self::registered(&Register::new(registry))
    }

    /// What there is, in the order in which people read it.
    ///
    /// # Errors
    /// When two have one name.
    pub fn describe() -> prometheus::Result<Vec<Described>> {
        let registry = Registry::new();
        let register = Register::new(&registry);
        Self::registered(&register)?;
        Ok(register.described())
    }

    fn registered(on: &Register<'_>) -> prometheus::Result<Self> {
        on.info(
            (
                "build_info",
                "What runs here: 1.",
                ("admin/metrics.rs", "fn registered("),
            ),
            &[
                ("version", env!("CARGO_PKG_VERSION")),
                ("commit", env!("REMORA_COMMIT")),
            ],
        )?;
        let metrics = Self {
            ready: on.gauge((
                "ready",
                "Whether `/readyz` says yes: 1 or 0.",
                ("health/watch.rs", ".health("),
            ))?,
            warnings: on.gauges(
                (
                    "warnings",
                    "1 for what `/readyz` says is wrong, whether the relay serves or not (`docs/faults.md`); 0 for what is fine.",
                    ("health/watch.rs", ".health("),
                ),
                "what",
            )?,
            clock_skew_seconds: on.fraction((
                "clock_skew_seconds",
                "How far the other relays' clocks are ahead of this one's: the median; 0 without others.",
                ("health/watch.rs", ".clock_skew("),
            ))?,
            nodes_connected: on.gauge((
                "nodes_connected",
                "Nodes that are here, parked or not.",
                ("control/registry.rs", ".nodes_connected"),
            ))?,
            nodes_parked: on.gauge((
                "nodes_parked",
                "Nodes that are here without a connection, because they are idle.",
                ("control/driver.rs", ".nodes_parked"),
            ))?,
            handshakes: on.counter_pairs(
                (
                    "handshakes_total",
                    "Handshakes that ended.",
                    ("control/driver.rs", ".handshake("),
                ),
                ["profile", "result"],
                |_, _| true,
            )?,
            handshake_seconds: on.histogram(
                (
                    "handshake_seconds",
                    "From a node's first packet to its proven key.",
                    ("control/driver.rs", ".handshake_seconds"),
                ),
                &HANDSHAKE_BUCKETS,
            )?,
            control_requests: on.counter_pairs(
                (
                    "control_requests_total",
                    "Requests of nodes, by how they ended.",
                    ("control/driver.rs", ".request("),
                ),
                ["kind", "result"],
                |kind, result| kind != RequestKind::Unknown || result == Outcome::Refused,
            )?,
            control_request_seconds: on.histograms(
                (
                    "control_request_seconds",
                    "From a request to its answer; `record` is publish, withdraw, lookup and seek, `introduction` is join, ring, signal, admit, dismiss and rejoin.",
                    ("control/driver.rs", ".request("),
                ),
                &REQUEST_BUCKETS,
                "kind",
            )?,
            admission_denied: on.counters(
                (
                    "admission_denied_total",
                    "Nodes, and what nodes wanted, that there was no room for, or that may not.",
                    ("control/driver.rs", ".denied("),
                ),
                "reason",
            )?,
            locators: on.gauge((
                "locators",
                "Codes that can be joined.",
                ("admin/metrics/scrape.rs", ".locators"),
            ))?,
            devices: on.gauge((
                "devices",
                "Devices that are there.",
                ("admin/metrics/scrape.rs", ".devices"),
            ))?,
            locator_lookups: on.counters(
                (
                    "locator_lookups_total",
                    "Look-ups of codes.",
                    ("control/request.rs", ".lookup("),
                ),
                "result",
            )?,
            code_burns: on.counters(
                (
                    "code_burns_total",
                    "Codes that ended before their time.",
                    ("control/request.rs", ".code_ended("),
                ),
                "why",
            )?,
            introductions: on.counters(
                (
                    "introductions_total",
                    "Joiners' tries, by how they ended; of two relays, the host's counts it.",
                    ("control/registry/exchange.rs", ".introduction("),
                ),
                "result",
            )?,
            introduction_seconds: on.histogram(
                (
                    "introduction_seconds",
                    "From a joiner's try to its session.",
                    ("control/registry/exchange.rs", ".introduced("),
                ),
                &INTRODUCTION_BUCKETS,
            )?,
            sessions: Sessions(on.gauges(
                (
                    "sessions",
                    "Sessions with an allocation here; `bridged`: one of the two nodes is at another relay.",
                    ("control/driver.rs", ".life("),
                ),
                "path",
            )?),
            session_end: on.counters(
                (
                    "session_end_total",
                    "Allocations that ended. `released` also when the two go on at another relay.",
                    ("control/registry/allocation.rs", ".session_end("),
                ),
                "reason",
            )?,
            frames_forwarded: on.counters(
                (
                    "frames_forwarded_total",
                    "Frames sent on.",
                    ("datapath.rs", ".forwarded("),
                ),
                "leg",
            )?,
            bytes_forwarded: on.counters(
                (
                    "bytes_forwarded_total",
                    "Bytes of frames sent on.",
                    ("datapath.rs", ".forwarded("),
                ),
                "leg",
            )?,
            frames_dropped: on.counters(
                (
                    "frames_dropped_total",
                    "Datagrams that went no further.",
                    ("datapath.rs", ".dropped("),
                ),
                "reason",
            )?,
            batch_frames: on.histogram(
                (
                    "batch_frames",
                    "Datagrams in one receive.",
                    ("datapath.rs", ".batch_frames"),
                ),
                &BATCH_BUCKETS,
            )?,
            gso_runs: on.counter((
                "gso_runs_total",
                "Several datagrams to one node that the system took as one (UDP_SEGMENT).",
                ("datapath.rs", ".gso_runs"),
            ))?,
            socket_receive_drops: on.counter((
                "socket_receive_drops_total",
                "Datagrams that the system dropped, because the relay had not taken those before them.",
                ("datapath/meter.rs", ".socket_receive_drops"),
            ))?,
            quic_queue_drops: on.counter((
                "quic_queue_drops_total",
                "QUIC packets that control was too slow for.",
                ("datapath.rs", ".quic_queue_drops"),
            ))?,
            rate_limited_sessions: on.gauge((
                "rate_limited_sessions",
                "Sessions that sent faster than they may within the last ten seconds.",
                ("admin/metrics/scrape.rs", ".rate_limited_sessions"),
            ))?,
            worker_busy_ratio: on.fractions::<WorkerName>(
                (
                    "worker_busy_ratio",
                    "Of the last second, how much each datapath thread had a processor: 0 to 1. `more`: the busiest of those beyond the seventh.",
                    ("datapath/meter.rs", ".worker_busy("),
                ),
                "worker",
            )?,
            busy: Mutex::default(),
            streams: on.gauge((
                "streams",
                "Nodes' connections by TCP, where UDP is blocked.",
                ("stream.rs", ".streams"),
            ))?,
            stream_ends: on.counters(
                (
                    "stream_ends_total",
                    "Connections by TCP that ended, or did not begin.",
                    ("stream.rs", ".stream_end("),
                ),
                "why",
            )?,
            stream_datagrams: on.counters(
                (
                    "stream_datagrams_total",
                    "Datagrams that came or went by TCP.",
                    ("stream/carry.rs", ".stream_datagram("),
                ),
                "direction",
            )?,
            paths: on.counters(
                (
                    "paths_total",
                    "Sessions of which a node said whether their frames go without a relay, and if not, why.",
                    ("control/reports.rs", ".path("),
                ),
                "outcome",
            )?,
            path_moves: on.counter_pairs(
                (
                    "path_moves_total",
                    "Times that a session's frames went another way from then on, as a node said.",
                    ("control/reports.rs", ".path_moved("),
                ),
                ["from", "to"],
                |from, to| from != to,
            )?,
            direct_ratio: on.fraction((
                "direct_ratio",
                "Of the last 256 sessions in `paths_total`, how many went without a relay: 0 to 1, NaN before the first.",
                ("control/reports.rs", ".path("),
            ))?,
            outcomes: Mutex::default(),
            time_to_direct_seconds: on.histogram(
                (
                    "time_to_direct_seconds",
                    "From a session's first frame to the first that went without a relay, as a node said.",
                    ("control/reports.rs", ".path("),
                ),
                &DIRECT_BUCKETS,
            )?,
            sessions_moved: on.counter_pairs(
                (
                    "sessions_moved_total",
                    "Sessions that came here from another relay, as a node said; and those that had not left this one when its drain ended (`cut_off`, only `draining`).",
                    ("control/reports.rs", ".session_moved("),
                ),
                ["why", "result"],
                |why, result| result == MoveResult::Ok || why == MoveCause::Draining,
            )?,
            session_gap_seconds: on.histogram(
                (
                    "session_gap_seconds",
                    "Of each such move, of a path or to another relay: how long nothing was heard of the other node, as a node said.",
                    ("control/reports.rs", ".gap("),
                ),
                &GAP_BUCKETS,
            )?,
            mesh_peers: on.gauge((
                "mesh_peers",
                "Other relays of the fleet that are in touch.",
                ("mesh/task.rs", ".mesh("),
            ))?,
            mesh_unheard: on.gauge((
                "mesh_unheard",
                "Further ones, which do not answer by UDP: no session goes by way of them.",
                ("mesh/task.rs", ".mesh("),
            ))?,
            mesh_refused: on.counters(
                (
                    "mesh_refused_total",
                    "Relays that were not let into the mesh.",
                    ("mesh/task.rs", ".mesh_refused("),
                ),
                "why",
            )?,
            dht_records: on.gauge((
                "dht_records",
                "Records and tombstones kept here, for nodes of all relays.",
                ("admin/metrics/scrape.rs", ".dht_records"),
            ))?,
            dht_devices: on.gauge((
                "dht_devices",
                "Devices, also those that have gone, of which something is kept here, for nodes of all relays.",
                ("admin/metrics/scrape.rs", ".dht_devices"),
            ))?,
            dht_queries: on.counter_pairs(
                (
                    "dht_queries_total",
                    "What the relays closest to a key were asked together; `negative` is an answer, too.",
                    ("rendezvous/fleet.rs", ".dht_query("),
                ),
                ["kind", "result"],
                |kind, result| match kind {
                    DhtKind::Closest => result != DhtResult::Negative,
                    DhtKind::Put => true,
                    DhtKind::Find | DhtKind::Seek => result != DhtResult::Failed,
                    DhtKind::Withdraw => result == DhtResult::Ok,
                },
            )?,
            dht_query_seconds: on.histograms(
                (
                    "dht_query_seconds",
                    "From such a question to its answer.",
                    ("rendezvous/fleet.rs", ".dht_query("),
                ),
                &RPC_BUCKETS,
                "kind",
            )?,
            rpc: on.counter_pairs(
                (
                    "rpc_total",
                    "Requests to other relays, by how they ended.",
                    ("mesh/task/requests.rs", ".rpc("),
                ),
                ["kind", "result"],
                |_, _| true,
            )?,
            rpc_seconds: on.histograms(
                (
                    "rpc_seconds",
                    "From a request to another relay to its answer.",
                    ("mesh/task/requests.rs", ".rpc("),
                ),
                &RPC_BUCKETS,
                "kind",
            )?,
            bridged_sessions: on.gauge((
                "bridged_sessions",
                "Sessions with a node at another relay.",
                ("control/registry/allocation.rs", ".bridged_sessions"),
            ))?,
            drain_state: on.gauge((
                "drain_state",
                "0 serving, 1 draining, 2 done.",
                ("control/driver.rs", ".life("),
            ))?,
            drain_remaining: on.gauge((
                "drain_remaining",
                "Sessions a draining relay still waits for.",
                ("control/driver.rs", ".life("),
            ))?,
            config_reloads: on.counters(
                (
                    "config_reloads_total",
                    "Times that the settings were read again, on SIGHUP.",
                    ("relay.rs", ".config_reload("),
                ),
                "result",
            )?,
            certificate_expiry_seconds: on.known((
                "certificate_expiry_seconds",
                "When the certificate that is shown at the TCP port ends, seconds since 1970; absent while that is the relay's own.",
                ("stream.rs", ".certificate_expiry_seconds"),
            ))?,
            clock_seconds: on.fraction((
                "clock_seconds",
                "This relay's clock at the scrape, seconds since 1970: `timestamp()` of it is Prometheus' own.",
                ("admin/metrics/scrape.rs", ".clock_seconds"),
            ))?,
            memory_limit_bytes: on.known((
                "memory_limit_bytes",
                "How much memory the control group allows; absent when it has no limit.",
                ("health/watch.rs", ".memory_limit("),
            ))?,
            heap_bytes: on.gauge((
                "heap_bytes",
                "Memory that is in use; what the process has resident beyond it is free, or not from the heap. 0: not known on this system.",
                ("admin/metrics/scrape.rs", ".heap_bytes"),
            ))?,
        };
        metrics.direct_ratio.set(f64::NAN);
        process::register(on)?;
        Ok(metrics)
    }

    /// A datagram was dropped.
    pub fn dropped(&self, reason: DropReason, datagrams: usize) {
        self.frames_dropped.add(reason, datagrams);
    }

    /// How many were dropped for `reason`.
    pub fn dropped_count(&self, reason: DropReason) -> u64 {
        self.frames_dropped.get(reason)
    }

    /// How many frames were sent on.
    pub fn forwarded_count(&self) -> u64 {
        let legs = FrameLeg::ALL.iter();
        legs.map(|&leg| self.frames_forwarded.get(leg)).sum()
    }

    /// How many bytes of frames were.
    pub fn forwarded_bytes(&self) -> u64 {
        let legs = FrameLeg::ALL.iter();
        legs.map(|&leg| self.bytes_forwarded.get(leg)).sum()
    }

    /// Frames were sent on, of so many bytes together.
    pub fn forwarded(&self, leg: FrameLeg, frames: usize, bytes: usize) {
        self.frames_forwarded.add(leg, frames);
        self.bytes_forwarded.add(leg, bytes);
    }

    /// How much of the last second a worker, from 0, had a processor.
    pub fn worker_busy(&self, worker: usize, ratio: f64) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.len() <= worker {
            busy.resize(worker + 1, 0.0);
        }
        busy[worker] = ratio;
    }

    /// A handshake ended.
    pub fn handshake(&self, result: Handshake) {
        self.handshakes.inc(Profile::Hop, result);
        match result {
            Handshake::Refused => self.denied(Denial::NodesFull),
            Handshake::NetworkFull => self.denied(Denial::NetworkFull),
            Handshake::Ok | Handshake::Failed | Handshake::TimedOut | Handshake::Retry => {}
        }
    }

    /// A request was answered.
    pub fn request(&self, kind: RequestKind, result: Outcome, seconds: f64) {
        self.control_requests.inc(kind, result);
        self.control_request_seconds.observe(kind.group(), seconds);
    }

    /// Somebody, or something, was not let in.
    pub fn denied(&self, why: Denial) {
        self.admission_denied.inc(why);
    }

    /// A code was looked up.
    pub fn lookup(&self, result: Lookup) {
        self.locator_lookups.inc(result);
    }

    /// A code ended before its time.
    pub fn code_ended(&self, why: CodeEnd) {
        self.code_burns.inc(why);
    }

    /// A joiner's try ended.
    pub fn introduction(&self, result: Introduction) {
        self.introductions.inc(result);
    }

    /// One ended with a session, after so long.
    pub fn introduced(&self, seconds: f64) {
        self.introduction_seconds.observe(seconds);
    }

    /// What was found where.
    pub fn health(&self, found: &[Finding]) {
        let is_ready = found
            .iter()
            .all(|finding| finding.verdict != Verdict::Fault);
        self.ready.set(is_ready.into());
        for finding in found {
            let is_wrong = finding.verdict != Verdict::Fine;
            self.warnings.of(finding.what).set(is_wrong.into());
        }
    }

    /// Beyond so many bytes the system ends the relay; none without a limit.
    pub fn memory_limit(&self, bytes: Option<u64>) {
        let bytes = bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        self.memory_limit_bytes.set(bytes);
    }

    /// How far the other relays' clocks are ahead.
    pub fn clock_skew(&self, skew_ms: Option<i64>) {
        let skew_ms = skew_ms.and_then(|ms| i32::try_from(ms).ok());
        self.clock_skew_seconds
            .set(f64::from(skew_ms.unwrap_or(0)) / 1e3);
    }

    /// An allocation ended.
    pub fn session_end(&self, reason: SessionEnd) {
        self.session_end.inc(reason);
    }

    /// How many ended so.
    pub fn session_ends(&self, reason: SessionEnd) -> u64 {
        self.session_end.get(reason)
    }

    /// A connection by TCP ended.
    pub fn stream_end(&self, why: StreamEnd) {
        self.stream_ends.inc(why);
        match why {
            StreamEnd::Refused => self.denied(Denial::StreamsFull),
            StreamEnd::NetworkFull => self.denied(Denial::NetworkFull),
            StreamEnd::Failed
            | StreamEnd::TimedOut
            | StreamEnd::Left
            | StreamEnd::Lost
            | StreamEnd::Idle
            | StreamEnd::Unanswered
            | StreamEnd::Malformed
            | StreamEnd::Closing => {}
        }
    }

    /// How many did, and why.
    pub fn stream_ends(&self, why: StreamEnd) -> u64 {
        self.stream_ends.get(why)
    }

    /// A datagram came or went by TCP.
    pub fn stream_datagram(&self, direction: Direction) {
        self.stream_datagrams.inc(direction);
    }

    /// A node says whether its session's frames go without a relay, and since how many seconds after it began.
    pub fn path(&self, outcome: PathOutcome, seconds: f64) {
        self.paths.inc(outcome);
        let is_direct = outcome == PathOutcome::Direct;
        if is_direct {
            self.time_to_direct_seconds.observe(seconds);
        }
        let mut recent = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT_OUTCOMES {
            recent.pop_front();
        }
        recent.push_back(is_direct);
        let direct = recent.iter().filter(|is_direct| **is_direct).count();
        self.direct_ratio.set(direct as f64 / recent.len() as f64);
    }

    /// A node says that its session's frames go another way.
    pub fn path_moved(&self, from: PathWay, to: PathWay) {
        self.path_moves.inc(from, to);
    }

    /// A node says that its session came here, or one did not leave in time.
    pub fn session_moved(&self, why: MoveCause, result: MoveResult) {
        self.sessions_moved.inc(why, result);
    }

    /// A node says for how long nothing was heard of the other.
    pub fn gap(&self, seconds: f64) {
        self.session_gap_seconds.observe(seconds);
    }

    /// So many other relays are in touch, and so many more that are not heard by UDP.
    pub fn mesh(&self, peers: usize, unheard: usize) {
        self.mesh_peers.set(whole(peers));
        self.mesh_unheard.set(whole(unheard));
    }

    /// Settings were read again, and could be used or not.
    pub fn config_reload(&self, result: Reload) {
        self.config_reloads.inc(result);
    }

    /// A relay was not let into the mesh.
    pub fn mesh_refused(&self, why: Stranger) {
        self.mesh_refused.inc(why);
    }

    /// How many were not, and why.
    pub fn mesh_refusals(&self, why: Stranger) -> u64 {
        self.mesh_refused.get(why)
    }

    /// The relays closest to a key have answered, or not.
    pub fn dht_query(&self, kind: DhtKind, result: DhtResult, seconds: f64) {
        self.dht_queries.inc(kind, result);
        self.dht_query_seconds.observe(kind, seconds);
    }

    /// Another relay has answered, or not.
    pub fn rpc(&self, kind: RpcKind, result: RpcResult, seconds: f64) {
        self.rpc.inc(kind, result);
        self.rpc_seconds.observe(kind, seconds);
    }

    /// Where the relay is in its life, and how many sessions it has.
    pub fn life(&self, state: drain::State, sessions: usize) {
        let sessions = whole(sessions);
        let bridged = self.bridged_sessions.get();
        let Sessions(paths) = &self.sessions;
        paths.of(SessionPath::Relayed).set(sessions - bridged);
        paths.of(SessionPath::Bridged).set(bridged);
        let (number, remaining) = match state {
            drain::State::Serving => (0, 0),
            drain::State::Draining { .. } => (1, sessions),
            drain::State::Done => (2, 0),
        };
        self.drain_state.set(number);
        self.drain_remaining.set(remaining);
    }
}

/// Sessions with an allocation here, by where their nodes are.
#[derive(Debug)]
pub struct Sessions(Gauges<SessionPath>);

impl Sessions {
    /// All of them.
    pub fn get(&self) -> i64 {
        let paths = SessionPath::ALL.iter();
        paths.map(|&path| self.0.of(path).get()).sum()
    }
}

/// As a gauge has it.
fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
