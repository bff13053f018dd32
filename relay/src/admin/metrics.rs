//! What an operator can count. Each metric stands beside the line that moves it: a field here, an `inc` there.
//!
//! Labels come from closed enums and are resolved once, so that the datapath only adds to atomics.

use std::fmt;

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::{
    datapath::DropReason,
    drain,
    health::{Finding, Verdict},
};

/// 1 ms to 10 s: a handshake on loopback to one nobody waits for.
const HANDSHAKE_BUCKETS: [f64; 13] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];
/// A request is a few map operations; from a tenth of a millisecond to a look-up through a slow DHT.
const REQUEST_BUCKETS: [f64; 10] = [
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.1, 1.0, 5.0,
];
/// One datagram, to a batch of runs that the kernel joined.
const BATCH_BUCKETS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 128.0, 512.0, 2048.0];

/// The relay's metrics.
#[derive(Debug)]
pub struct Metrics {
    /// Nodes that said Hello and are here.
    pub nodes_connected: IntGauge,
    /// Those of them that are parked.
    pub nodes_parked: IntGauge,
    handshakes: IntCounterVec,
    /// Seconds from a node's first packet to its proven key.
    pub handshake_seconds: Histogram,
    control_requests: IntCounterVec,
    control_request_seconds: HistogramVec,
    /// Records that can be joined; set when somebody asks.
    pub locators: IntGauge,
    /// Devices that are there, as far as is kept here; set when somebody asks.
    pub devices: IntGauge,
    locator_lookups: IntCounterVec,
    code_burns: IntCounterVec,
    introductions: IntCounterVec,
    /// Sessions with an allocation here.
    pub sessions: IntGauge,
    session_end: IntCounterVec,
    frames_forwarded: IntCounter,
    bytes_forwarded: IntCounter,
    frames_dropped: [IntCounter; DropReason::ALL.len()],
    /// Datagrams in one receive.
    pub batch_frames: Histogram,
    /// Packets for control that found their queue full.
    pub quic_queue_drops: IntCounter,
    /// Connections of TCP, whose datagrams are counted below and, as all others, above.
    pub streams: IntGauge,
    stream_ends: IntCounterVec,
    /// Datagrams that nodes sent by streams.
    pub stream_datagrams_received: IntCounter,
    /// Datagrams that nodes were sent by streams.
    pub stream_datagrams_sent: IntCounter,
    drain_state: IntGauge,
    drain_remaining: IntGauge,
    mesh_peers: IntGauge,
    mesh_unheard: IntGauge,
    mesh_refused: IntCounterVec,
    config_reloads: IntCounterVec,
    /// Records and tombstones kept here; set when somebody asks.
    pub dht_records: IntGauge,
    /// Devices, also those that have gone, of which something is kept here; set when somebody asks.
    pub dht_devices: IntGauge,
    /// Bytes in use, or 0 where the allocator does not say; set when somebody asks.
    pub heap_bytes: IntGauge,
    dht_queries: IntCounterVec,
    dht_query_seconds: HistogramVec,
    rpc: IntCounterVec,
    rpc_seconds: HistogramVec,
    /// Sessions with a node at another relay.
    pub bridged_sessions: IntGauge,
    ready: IntGauge,
    warnings: IntGaugeVec,
    clock_skew_seconds: Gauge,
}

impl Metrics {
    /// Registers every metric on `registry`.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let on = Register(registry);
        let dropped = on.counters(
            "frames_dropped_total",
            "Datagrams that went no further.",
            &["reason"],
        )?;
        let leg = "node";
        let stream_datagrams = on.counters(
            "stream_datagrams_total",
            "Datagrams that came or went by TCP.",
            &["direction"],
        )?;
        on.gauges("build_info", "What runs here.", &["version"])?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        Ok(Self {
            nodes_connected: on.gauge("nodes_connected", "Nodes that are here, parked or not.")?,
            nodes_parked: on.gauge(
                "nodes_parked",
                "Nodes that are here without a connection, because they are idle.",
            )?,
            handshakes: on.counters(
                "handshakes_total",
                "Handshakes that ended.",
                &["profile", "result"],
            )?,
            handshake_seconds: on.histogram(
                "handshake_seconds",
                "From a node's first packet to its proven key.",
                &HANDSHAKE_BUCKETS,
            )?,
            control_requests: on.counters(
                "control_requests_total",
                "Requests of nodes, by how they ended.",
                &["kind", "result"],
            )?,
            control_request_seconds: on.histograms(
                "control_request_seconds",
                "From a request to its answer.",
                &REQUEST_BUCKETS,
                &["kind"],
            )?,
            locators: on.gauge("locators", "Codes that can be joined.")?,
            devices: on.gauge("devices", "Devices that are there.")?,
            locator_lookups: on.counters(
                "locator_lookups_total",
                "Look-ups of codes.",
                &["result"],
            )?,
            code_burns: on.counters(
                "code_burns_total",
                "Codes that ended before their time.",
                &["why"],
            )?,
            introductions: on.counters(
                "introductions_total",
                "Joiners' tries, by how they ended.",
                &["result"],
            )?,
            sessions: on
                .gauges("sessions", "Sessions with an allocation.", &["path"])?
                .with_label_values(&["relayed"]),
            session_end: on.counters(
                "session_end_total",
                "Allocations that ended.",
                &["reason"],
            )?,
            frames_forwarded: on
                .counters("frames_forwarded_total", "Frames sent on.", &["leg"])?
                .with_label_values(&[leg]),
            bytes_forwarded: on
                .counters(
                    "bytes_forwarded_total",
                    "Bytes of frames sent on.",
                    &["leg"],
                )?
                .with_label_values(&[leg]),
            frames_dropped: DropReason::ALL
                .map(|reason| dropped.with_label_values(&[reason.label()])),
            batch_frames: on.histogram(
                "batch_frames",
                "Datagrams in one receive.",
                &BATCH_BUCKETS,
            )?,
            quic_queue_drops: on.counter(
                "quic_queue_drops_total",
                "QUIC packets that control was too slow for.",
            )?,
            streams: on.gauge(
                "streams",
                "Nodes' connections by TCP, where UDP is blocked.",
            )?,
            stream_ends: on.counters(
                "stream_ends_total",
                "Connections by TCP that ended, or did not begin.",
                &["why"],
            )?,
            stream_datagrams_received: stream_datagrams.with_label_values(&["received"]),
            stream_datagrams_sent: stream_datagrams.with_label_values(&["sent"]),
            drain_state: on.gauge("drain_state", "0 serving, 1 draining, 2 done.")?,
            drain_remaining: on.gauge(
                "drain_remaining",
                "Sessions a draining relay still waits for.",
            )?,
            mesh_peers: on.gauge("mesh_peers", "Other relays of the fleet that are in touch.")?,
            mesh_unheard: on.gauge(
                "mesh_unheard",
                "Further ones, which do not answer by UDP: no session goes by way of them.",
            )?,
            config_reloads: on.counters(
                "config_reloads_total",
                "Times that the settings were read again, on SIGHUP.",
                &["result"],
            )?,
            mesh_refused: on.counters(
                "mesh_refused_total",
                "Relays that were not let into the mesh.",
                &["why"],
            )?,
            dht_records: on.gauge(
                "dht_records",
                "Records and tombstones kept here, for nodes of all relays.",
            )?,
            dht_devices: on.gauge(
                "dht_devices",
                "Devices, also those that have gone, of which something is kept here, for nodes of all relays.",
            )?,
            heap_bytes: on.gauge(
                "heap_bytes",
                "Memory that is in use; what the process has resident beyond it is free, or not from the heap. 0: not known on this system.",
            )?,
            dht_queries: on.counters(
                "dht_queries_total",
                "What the relays closest to a key were asked together.",
                &["kind", "result"],
            )?,
            dht_query_seconds: on.histograms(
                "dht_query_seconds",
                "From such a question to its answer.",
                &REQUEST_BUCKETS,
                &["kind"],
            )?,
            rpc: on.counters(
                "rpc_total",
                "Requests to other relays, by how they ended.",
                &["kind", "result"],
            )?,
            rpc_seconds: on.histograms(
                "rpc_seconds",
                "From a request to another relay to its answer.",
                &REQUEST_BUCKETS,
                &["kind"],
            )?,
            bridged_sessions: on
                .gauge("bridged_sessions", "Sessions with a node at another relay.")?,
            ready: on.gauge("ready", "Whether `/readyz` says yes: 1 or 0.")?,
            warnings: on.gauges(
                "warnings",
                "1 for what `/readyz` says is wrong, whether the relay serves or not; 0 for what is fine.",
                &["what"],
            )?,
            clock_skew_seconds: on.add(Gauge::with_opts(opts(
                "clock_skew_seconds",
                "How far the other relays' clocks are ahead of this one's: the median; 0 without others.",
            ))?)?,
        })
    }

    /// A datagram was dropped.
    pub fn dropped(&self, reason: DropReason, datagrams: usize) {
        self.frames_dropped[reason as usize].inc_by(datagrams as u64);
    }

    /// How many were dropped for `reason`.
    pub fn dropped_count(&self, reason: DropReason) -> u64 {
        self.frames_dropped[reason as usize].get()
    }

    /// How many frames were sent on.
    pub fn forwarded_count(&self) -> u64 {
        self.frames_forwarded.get()
    }

    /// How many bytes of frames were.
    pub fn forwarded_bytes(&self) -> u64 {
        self.bytes_forwarded.get()
    }

    /// Frames were sent on, of so many bytes together.
    pub fn forwarded(&self, frames: usize, bytes: usize) {
        self.frames_forwarded.inc_by(frames as u64);
        self.bytes_forwarded.inc_by(bytes as u64);
    }

    /// A handshake ended.
    pub fn handshake(&self, result: Handshake) {
        self.handshakes
            .with_label_values(&["hop", result.label()])
            .inc();
    }

    /// A request was answered.
    pub fn request(&self, kind: &str, result: &str, seconds: f64) {
        self.control_requests
            .with_label_values(&[kind, result])
            .inc();
        self.control_request_seconds
            .with_label_values(&[kind])
            .observe(seconds);
    }

    /// A code was looked up.
    pub fn lookup(&self, result: &str) {
        self.locator_lookups.with_label_values(&[result]).inc();
    }

    /// A code ended before its time.
    pub fn code_ended(&self, why: &str) {
        self.code_burns.with_label_values(&[why]).inc();
    }

    /// A joiner's try ended.
    pub fn introduction(&self, result: Introduction) {
        self.introductions
            .with_label_values(&[result.label()])
            .inc();
    }

    /// An allocation ended.
    pub fn session_end(&self, reason: SessionEnd) {
        self.session_end.with_label_values(&[reason.label()]).inc();
    }

    /// How many ended so.
    pub fn session_ends(&self, reason: SessionEnd) -> u64 {
        self.session_end.with_label_values(&[reason.label()]).get()
    }

    /// A connection by TCP ended.
    pub fn stream_end(&self, why: StreamEnd) {
        self.stream_ends.with_label_values(&[why.label()]).inc();
    }

    /// How many did, and why.
    pub fn stream_ends(&self, why: StreamEnd) -> u64 {
        self.stream_ends.with_label_values(&[why.label()]).get()
    }

    /// So many other relays are in touch, and so many more that are not heard by UDP.
    pub fn mesh(&self, peers: usize, unheard: usize) {
        let [peers, unheard] = [peers, unheard].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        self.mesh_peers.set(peers);
        self.mesh_unheard.set(unheard);
    }

    /// Settings were read again, and could be used or not.
    pub fn config_reload(&self, is_applied: bool) {
        let result = if is_applied { "applied" } else { "refused" };
        self.config_reloads.with_label_values(&[result]).inc();
    }

    /// A relay was not let into the mesh.
    pub fn mesh_refused(&self, why: Stranger) {
        self.mesh_refused.with_label_values(&[why.label()]).inc();
    }

    /// How many were not, and why.
    pub fn mesh_refusals(&self, why: Stranger) -> u64 {
        self.mesh_refused.with_label_values(&[why.label()]).get()
    }

    /// The relays closest to a key have answered, or not.
    pub fn dht_query(&self, kind: &str, result: &str, seconds: f64) {
        self.dht_queries.with_label_values(&[kind, result]).inc();
        self.dht_query_seconds
            .with_label_values(&[kind])
            .observe(seconds);
    }

    /// Another relay has answered, or not.
    pub fn rpc(&self, kind: &str, result: &str, seconds: f64) {
        self.rpc.with_label_values(&[kind, result]).inc();
        self.rpc_seconds.with_label_values(&[kind]).observe(seconds);
    }

    /// What was found where.
    pub fn health(&self, found: &[Finding]) {
        let is_ready = found
            .iter()
            .all(|finding| finding.verdict != Verdict::Fault);
        self.ready.set(is_ready.into());
        for finding in found {
            let is_wrong = finding.verdict != Verdict::Fine;
            let what = self.warnings.with_label_values(&[finding.what.label()]);
            what.set(is_wrong.into());
        }
    }

    /// How far the other relays' clocks are ahead.
    pub fn clock_skew(&self, skew_ms: Option<i64>) {
        let skew_ms = skew_ms.and_then(|ms| i32::try_from(ms).ok());
        self.clock_skew_seconds
            .set(f64::from(skew_ms.unwrap_or(0)) / 1e3);
    }

    /// Where the relay is in its life, and how many sessions it has.
    pub fn life(&self, state: drain::State, sessions: usize) {
        let sessions = i64::try_from(sessions).unwrap_or(i64::MAX);
        self.sessions.set(sessions);
        let (number, remaining) = match state {
            drain::State::Serving => (0, 0),
            drain::State::Draining { .. } => (1, sessions),
            drain::State::Done => (2, 0),
        };
        self.drain_state.set(number);
        self.drain_remaining.set(remaining);
    }
}

macro_rules! labels {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $label:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant),+ }

        impl $name {
            /// As it stands in the metric.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
    };
}

labels! {
    /// How a handshake ended.
    Handshake {
        /// The node proved its key.
        Ok = "ok",
        /// It failed: wrong key, wrong protocol, or the node went away.
        Failed = "failed",
        /// It took too long.
        TimedOut = "timed_out",
        /// The relay had no room.
        Refused = "refused",
        /// The node's network has all the connections it may have.
        NetworkFull = "network_full",
        /// The node has to prove its address first.
        Retry = "retry",
    }
}

labels! {
    /// How a joiner's try ended.
    Introduction {
        /// With a session.
        Admitted = "admitted",
        /// The host said no.
        Dismissed = "dismissed",
        /// The host said the secret was wrong.
        WrongSecret = "wrong_secret",
        /// One of the two went away.
        PeerGone = "peer_gone",
        /// Neither came to an end in time.
        Expired = "expired",
    }
}

labels! {
    /// How an allocation ended.
    SessionEnd {
        /// A node said so.
        Released = "released",
        /// A node's connection ended without a word.
        Lost = "lost",
        /// No frame for a while.
        Idle = "idle",
        /// The relay's drain ran out of time.
        Drained = "drained",
        /// An operator has ended it.
        Operator = "operator",
    }
}

labels! {
    /// How a connection by TCP ended.
    StreamEnd {
        /// The relay had no room.
        Refused = "refused",
        /// The node's network has all that it may have.
        NetworkFull = "network_full",
        /// No TLS, no WebSocket, or not of ours.
        Failed = "failed",
        /// It took too long to begin.
        TimedOut = "timed_out",
        /// The node closed it.
        Left = "left",
        /// The network did, or the node without a word.
        Lost = "lost",
        /// The node had nothing to say for long.
        Idle = "idle",
        /// Nothing that the node said was for the relay to answer.
        Unanswered = "unanswered",
        /// What came is not what comes by streams.
        Malformed = "malformed",
        /// The relay ends.
        Closing = "closing",
    }
}

labels! {
    /// Why a relay is not let into the mesh.
    Stranger {
        /// It has another fleet key, or something in between has changed its first message.
        FleetKey = "fleet_key",
        /// Its clock is more than a minute away.
        Clock = "clock",
        /// It serves another name space.
        Realm = "realm",
        /// It speaks no version that this one does.
        Version = "version",
        /// It has come and gone too often.
        Flapping = "flapping",
        /// There are as many in touch as may be.
        Full = "full",
    }
}

/// What its operator can do.
impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FleetKey => {
                "it has another fleet key; give all relays the same file with --fleet-key"
            }
            Self::Clock => "its clock and this one are more than a minute apart; set both by NTP",
            Self::Realm => "it serves another realm; give all relays the same --realm",
            Self::Version => {
                "its version and this one have no messages in common; update the older"
            }
            Self::Flapping => "it came and went too often; it is let in again in a moment",
            Self::Full => "as many relays are in touch as may be",
        })
    }
}

struct Register<'a>(&'a Registry);

impl Register<'_> {
    fn add<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: C,
    ) -> prometheus::Result<C> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::with_opts(opts(name, help))?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(opts(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::with_opts(opts(name, help))?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(opts(name, help), labels)?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        let common_opts = opts(name, help);
        self.add(Histogram::with_opts(HistogramOpts {
            common_opts,
            buckets: buckets.to_vec(),
        })?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> prometheus::Result<HistogramVec> {
        let common_opts = opts(name, help);
        self.add(HistogramVec::new(
            HistogramOpts {
                common_opts,
                buckets: buckets.to_vec(),
            },
            labels,
        )?)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("remora_relay")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drop_reason_has_its_own_counter() {
        let metrics = Metrics::new(&Registry::new()).expect("new names");
        for (n, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, n);
            metrics.dropped(reason, 1);
            assert_eq!(metrics.dropped_count(reason), 1);
        }
    }

    #[test]
    fn names_have_the_prefix_and_are_taken_once() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("new names");
        metrics.life(drain::State::Done, 0);
        let families = registry.gather();
        assert!(
            families
                .iter()
                .all(|family| family.name().starts_with("remora_relay_"))
        );
        assert!(
            families
                .iter()
                .any(|family| family.name() == "remora_relay_drain_state")
        );
        assert!(Metrics::new(&registry).is_err());
    }
}
