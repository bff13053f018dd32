//! What keeps this relay from serving, and what is merely wrong: one table, from which the probe, the log, the metrics and the
//! doctor's report are read, so that all say the same words.
//!
//! ```text
//! measure ─▶ Observed ─▶ assess ─▶ a finding for each thing to look at ─┬─▶ /readyz: 503, or 200 and `warning: …`
//!                                                                      ├─▶ the log, once on each change
//!                                                                      ├─▶ `ready`, `warnings{what}`
//!                                                                      └─▶ /v1/doctor
//! ```
//!
//! Pure but for [`measure`] and [`Watch`], which owns what was found last. A part of the relay that ends ends the relay, so that there
//! is no finding for it.

// Files of the system, the sockets and the clock.
pub mod measure;
// Finds out every other second, and tells.
mod watch;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use remora_proto::id::RelayId;

pub use self::watch::{Sources, Watch};
use crate::{
    admin::metrics::{Stranger, labels::Label},
    config::Standing,
    drain,
    stream::certificate::Showing,
};

/// So far is our clock from the fleet's: half of what other relays accept.
const CLOCK_WARNING: Duration = Duration::from_secs(30);
/// An operator has two weeks to renew a certificate; authorities that renew by themselves do so a month before.
const CERTIFICATE_WARNING_S: i64 = 14 * 24 * 3600;
/// A fleet that has just been started, or updated, is together by then.
const ALONE_WARNING: Duration = Duration::from_secs(10);
/// Of the memory's limit, in percent: a warning; no further node; nodes again.
const MEMORY_WARNING: u64 = 85;
const MEMORY_FULL: u64 = 95;
const MEMORY_FINE_AGAIN: u64 = 90;

/// A thing that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Whether it has started, and does not leave.
    Life,
    /// What is shown at the TCP port.
    Certificate,
    /// What the relay may use of it.
    Memory,
    /// Against the other relays'.
    Clock,
    /// What the system holds of datagrams while no worker looks.
    UdpBuffers,
    /// The names by which the fleet is found.
    PeerNames,
    /// Whether there is a fleet.
    Peers,
    /// Where the key is.
    Disk,
    /// Whether it runs with what it was told last.
    Settings,
    /// For further nodes.
    Room,
    /// Before the start: keys, token, certificates.
    Files,
    /// Before the start: whether they can be had.
    Ports,
}

impl What {
    /// All that is looked at while a relay runs, in the order in which it is said.
    pub const ALL: [Self; 10] = [
        Self::Life,
        Self::Certificate,
        Self::Memory,
        Self::Clock,
        Self::UdpBuffers,
        Self::PeerNames,
        Self::Peers,
        Self::Disk,
        Self::Settings,
        Self::Room,
    ];

    /// As scripts, the metric and `docs/faults.md` have it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Life => "life",
            Self::Certificate => "certificate",
            Self::Memory => "memory",
            Self::Clock => "clock",
            Self::UdpBuffers => "udp_buffers",
            Self::PeerNames => "peer_names",
            Self::Peers => "peers",
            Self::Disk => "disk",
            Self::Settings => "settings",
            Self::Room => "room",
            Self::Files => "files",
            Self::Ports => "ports",
        }
    }
}

/// Those of a running relay.
impl Label for What {
    const ALL: &'static [Self] = &Self::ALL;

    fn label(self) -> &'static str {
        Self::label(self)
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// The relay serves, and somebody should look at it.
    Warning,
    /// The relay does not serve.
    Fault,
}

impl Verdict {
    /// As scripts have it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// What was found at one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// At which.
    pub what: What,
    /// How bad it is.
    pub verdict: Verdict,
    /// One line: what was found; where it is not fine, what to do.
    pub text: String,
}

impl Finding {
    /// For people, a line with its end.
    pub fn line(&self) -> String {
        let (verdict, what) = (self.verdict.label(), self.what.label());
        format!("{verdict:<8} {what:<12} {}\n", self.text)
    }
}

/// The memory that the relay may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Of it, what the system cannot take back, bytes.
    pub used_bytes: u64,
    /// Beyond it the relay is killed, bytes.
    pub limit_bytes: u64,
}

impl Memory {
    fn percent(self) -> u64 {
        let percent = u128::from(self.used_bytes) * 100 / u128::from(self.limit_bytes.max(1));
        u64::try_from(percent).unwrap_or(u64::MAX)
    }
}

/// What the mesh knows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// How far the others' clocks are ahead of ours, milliseconds: the median of those who have said so lately.
    pub skew_ms: Option<i64>,
    /// The same of each of them.
    pub ahead_ms: BTreeMap<RelayId, i64>,
    /// Names that stand for no address, as they were given.
    pub dead_names: Vec<String>,
    /// Relays of the fleet that are connected.
    pub in_touch: usize,
    /// Relays are named, and none has been in touch since.
    pub alone_since: Option<Instant>,
    /// Why a relay was refused, by us or it, while none is in touch.
    pub refused: Option<Stranger>,
}

/// All that is looked at.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// `None` while it starts.
    pub life: Option<drain::State>,
    /// What is shown at the TCP port.
    pub certificate: Shown,
    /// By our clock.
    pub now_unix_s: i64,
    /// None without a limit.
    pub memory: Option<Memory>,
    /// None for a relay without a fleet.
    pub outlook: Option<Outlook>,
    /// Received datagrams that the system holds, bytes: what it gave, and what was asked for.
    pub udp_buffer_bytes: (usize, usize),
    /// What is free where the key is, bytes; none where the system does not say.
    pub disk_free_bytes: Option<u64>,
    /// What it was told since its start.
    pub settings: Standing,
    /// Nodes: how many are here, and how many may be.
    pub nodes: (usize, usize),
}

/// A certificate, as one looks after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shown {
    /// There is no TCP port.
    #[default]
    Nothing,
    /// The relay's own, which nobody looks at the end of.
    Own,
    /// An operator's, and when it ends, Unix seconds, as far as that can be read.
    Until(Option<i64>),
}

impl Shown {
    /// Of a port that shows this, if there is one.
    pub fn of(showing: Option<&Showing>) -> Self {
        match showing {
            None => Self::Nothing,
            Some(showing) if showing.is_own() => Self::Own,
            Some(showing) => Self::Until(showing.ends()),
        }
    }
}

/// What there is to say, one finding for each of [`What::ALL`]; `was_full` is whether memory was at its limit before.
pub fn assess(observed: &Observed, was_full: bool, now: Instant) -> Vec<Finding> {
    let look = |what| {
        let (verdict, text) = match what {
            What::Life => life(observed.life),
            What::Certificate => certificate(observed),
            What::Memory => memory(observed.memory, was_full),
            What::Clock => clock(observed.outlook.as_ref()),
            What::UdpBuffers => udp_buffers(observed.udp_buffer_bytes),
            What::PeerNames => peer_names(observed.outlook.as_ref()),
            What::Peers => peers(observed.outlook.as_ref(), now),
            What::Disk => disk(observed.disk_free_bytes),
            What::Settings => settings(&observed.settings),
            What::Room => room(observed.nodes),
            // Of a relay that runs there is nothing to say: it has them.
            What::Files | What::Ports => fine("as they should be"),
        };
        Finding {
            what,
            verdict,
            text,
        }
    };
    What::ALL.into_iter().map(look).collect()
}

type Look = (Verdict, String);

fn fine(text: impl Into<String>) -> Look {
    (Verdict::Fine, text.into())
}

fn life(life: Option<drain::State>) -> Look {
    match life {
        None => (Verdict::Fault, "starting".into()),
        Some(drain::State::Serving) => fine("serving"),
        Some(drain::State::Draining { .. }) => (Verdict::Fault, "draining".into()),
        Some(drain::State::Done) => (Verdict::Fault, "drained".into()),
    }
}

fn certificate(observed: &Observed) -> Look {
    let ends = match observed.certificate {
        Shown::Nothing => return fine("there is no TCP port, and so no certificate"),
        Shown::Own => return fine("the certificate is the relay's own, and its address names it"),
        Shown::Until(None) => return fine("the certificate does not say when it ends"),
        Shown::Until(Some(ends)) => ends,
    };
    let left_s = ends - observed.now_unix_s;
    let days = left_s / (24 * 3600);
    let remedy = "renew the files of --tls-cert and --tls-key; SIGHUP has them read at once";
    if left_s <= 0 {
        (
            Verdict::Fault,
            format!("the certificate has expired: no node gets in by TCP; {remedy}"),
        )
    } else if left_s < CERTIFICATE_WARNING_S {
        (
            Verdict::Warning,
            format!("the certificate ends in {days} days; {remedy}"),
        )
    } else {
        fine(format!("the certificate is good for {days} days"))
    }
}

fn memory(memory: Option<Memory>, was_full: bool) -> Look {
    let Some(memory) = memory else {
        return fine("there is no limit to its memory");
    };
    let percent = memory.percent();
    let full_from = if was_full {
        MEMORY_FINE_AGAIN
    } else {
        MEMORY_FULL
    };
    let used = format!(
        "memory is at {percent} % of its limit of {} MiB",
        memory.limit_bytes >> 20
    );
    let remedy = "raise the limit, lower --max-nodes and --max-sessions, or run more relays";
    if percent >= full_from {
        (
            Verdict::Fault,
            format!("{used}: no further node is let in; {remedy}"),
        )
    } else if percent >= MEMORY_WARNING {
        (Verdict::Warning, format!("{used}; {remedy}"))
    } else {
        fine(used)
    }
}

fn clock(outlook: Option<&Outlook>) -> Look {
    let Some(skew_ms) = outlook.and_then(|outlook| outlook.skew_ms) else {
        return fine("there is no other relay to compare the clock with");
    };
    let skew = Duration::from_millis(skew_ms.unsigned_abs());
    let by = format!(
        "the clock is {:.0} s {} the fleet's",
        skew.as_secs_f64(),
        if skew_ms > 0 { "behind" } else { "ahead of" }
    );
    if skew > CLOCK_WARNING {
        (
            Verdict::Warning,
            format!(
                "{by}; set it by NTP: relays more than 60 s apart do not let each other in, and codes fail"
            ),
        )
    } else {
        fine("the clock agrees with the fleet's")
    }
}

fn udp_buffers((given, asked): (usize, usize)) -> Look {
    if given >= asked {
        return fine(format!("UDP buffers have {} KiB", given >> 10));
    }
    (
        Verdict::Warning,
        format!(
            "UDP buffers have {} KiB instead of {}: bursts are lost; set net.core.rmem_max and net.core.wmem_max to {asked} by sysctl, or give the relay CAP_NET_ADMIN",
            given >> 10,
            asked >> 10
        ),
    )
}

fn room((here, most): (usize, usize)) -> Look {
    if here < most {
        return fine(format!("there is room for {} further nodes", most - here));
    }
    (
        Verdict::Warning,
        format!(
            "nodes here: {here}, and --max-nodes is {most}: whoever comes is told RELAY_FULL; raise it, or run more relays"
        ),
    )
}

fn settings(standing: &Standing) -> Look {
    let mut wrong = Vec::new();
    if let Some((first, rest)) = standing.refused.split_first() {
        let more = match rest.len() {
            0 => String::new(),
            more => format!(" (and {more} more, which the log names)"),
        };
        wrong.push(format!(
            "settings were read again and not taken: {first}{more}; correct them and send SIGHUP"
        ));
    }
    if !standing.waiting.is_empty() {
        let keys = standing.waiting.join(", ");
        wrong.push(format!(
            "what is new of {keys} counts from the next start; restart the relay"
        ));
    }
    if wrong.is_empty() {
        return fine("the relay runs with what it was told");
    }
    (Verdict::Warning, wrong.join("; "))
}

fn peer_names(outlook: Option<&Outlook>) -> Look {
    let dead = outlook.map_or(&[][..], |outlook| &outlook.dead_names);
    if dead.is_empty() {
        return fine("every name of --peer stands for an address");
    }
    (
        Verdict::Warning,
        format!(
            "no address is found for {}; look whether DNS answers, and at --peer",
            dead.join(", ")
        ),
    )
}

fn peers(outlook: Option<&Outlook>, now: Instant) -> Look {
    let Some(outlook) = outlook else {
        return fine("it is a relay without a fleet");
    };
    let is_alone = |since| now.saturating_duration_since(since) >= ALONE_WARNING;
    match (outlook.in_touch, outlook.alone_since) {
        (0, Some(since)) if is_alone(since) => {}
        (0, Some(_)) => return fine("the relays of the fleet are being looked for"),
        (0, None) => return fine("no other relay is named, and none has come"),
        (1, _) => return fine("1 relay of the fleet is in touch"),
        (several, _) => return fine(format!("{several} relays of the fleet are in touch")),
    }
    let why = match outlook.refused {
        Some(stranger) => format!("a relay was refused: {stranger}"),
        None => {
            "look at --peer, at the firewall between the --mesh ports, and whether the others run"
                .into()
        }
    };
    (
        Verdict::Warning,
        format!("no relay of the fleet is in touch; {why}"),
    )
}

fn disk(free_bytes: Option<u64>) -> Look {
    match free_bytes {
        Some(0) => (
            Verdict::Warning,
            "the disk where the key is is full; make room: a relay writes nothing while it runs, but could not make or replace its key"
                .into(),
        ),
        Some(_) => fine("the disk where the key is has room"),
        None => fine("the system does not say how full the disk is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(observed: &Observed, what: What) -> (Verdict, String) {
        let all = assess(observed, false, Instant::now());
        assert_eq!(
            all.iter().map(|finding| finding.what).collect::<Vec<_>>(),
            What::ALL
        );
        let finding = all.into_iter().find(|finding| finding.what == what);
        let finding = finding.expect("looked at");
        assert!(!finding.text.contains('\n'));
        (finding.verdict, finding.text)
    }

    fn verdict(observed: &Observed, what: What) -> Verdict {
        found(observed, what).0
    }

    fn serving() -> Observed {
        Observed {
            life: Some(drain::State::Serving),
            nodes: (0, 1),
            ..Observed::default()
        }
    }

    #[test]
    fn a_relay_that_serves_and_lacks_nothing_is_fine() {
        for what in What::ALL {
            assert_eq!(verdict(&serving(), what), Verdict::Fine, "{what:?}");
        }
    }

    #[test]
    fn only_what_keeps_it_from_serving_is_a_fault() {
        let observed = Observed::default();
        assert_eq!(
            found(&observed, What::Life),
            (Verdict::Fault, "starting".into())
        );
        for (left_s, expected) in [
            (0, Verdict::Fault),
            (1, Verdict::Warning),
            (CERTIFICATE_WARNING_S - 1, Verdict::Warning),
            (CERTIFICATE_WARNING_S, Verdict::Fine),
        ] {
            let observed = Observed {
                now_unix_s: 1_800_000_000,
                certificate: Shown::Until(Some(1_800_000_000 + left_s)),
                ..serving()
            };
            assert_eq!(verdict(&observed, What::Certificate), expected, "{left_s}");
        }
    }

    #[test]
    fn memory_is_full_until_there_is_room_again() {
        let at = |percent: u64, was_full| {
            let memory = Memory {
                used_bytes: percent << 20,
                limit_bytes: 100 << 20,
            };
            super::memory(Some(memory), was_full).0
        };
        assert_eq!(at(84, false), Verdict::Fine);
        assert_eq!(at(85, false), Verdict::Warning);
        assert_eq!(at(94, false), Verdict::Warning);
        assert_eq!(at(95, false), Verdict::Fault);
        assert_eq!(at(94, true), Verdict::Fault);
        assert_eq!(at(89, true), Verdict::Warning);
    }

    #[test]
    fn clocks_half_a_minute_apart_are_said_with_the_direction() {
        let with = |skew_ms| {
            let outlook = Outlook {
                skew_ms: Some(skew_ms),
                ..Outlook::default()
            };
            found(
                &Observed {
                    outlook: Some(outlook),
                    ..serving()
                },
                What::Clock,
            )
        };
        assert_eq!(with(30_000).0, Verdict::Fine);
        assert!(with(30_001).1.contains("30 s behind"));
        let (verdict, text) = with(-600_000);
        assert_eq!(verdict, Verdict::Warning);
        assert!(text.contains("600 s ahead of"), "{text}");
    }

    #[test]
    fn who_is_alone_is_told_why_if_it_is_known() {
        let now = Instant::now();
        let outlook = |refused| Outlook {
            alone_since: Some(now),
            refused,
            ..Outlook::default()
        };
        let (soon, later) = (now + ALONE_WARNING / 2, now + ALONE_WARNING);
        assert_eq!(peers(Some(&outlook(None)), soon).0, Verdict::Fine);
        let (verdict, text) = peers(Some(&outlook(None)), later);
        assert_eq!(verdict, Verdict::Warning);
        assert!(text.contains("firewall"), "{text}");
        let (_, text) = peers(Some(&outlook(Some(Stranger::FleetKey))), later);
        assert!(text.contains("--fleet-key"), "{text}");
    }

    #[test]
    fn a_relay_that_has_all_its_nodes_says_so() {
        for (nodes, verdict) in [((6, 7), Verdict::Fine), ((7, 7), Verdict::Warning)] {
            assert_eq!(room(nodes).0, verdict, "{nodes:?}");
        }
    }

    #[test]
    fn settings_that_were_not_taken_or_wait_are_said_until_they_are() {
        let with = |waiting: &[&str], refused: &[&str]| {
            let texts = |all: &[&str]| all.iter().map(ToString::to_string).collect();
            settings(&Standing {
                shown: "".into(),
                waiting: texts(waiting),
                refused: texts(refused),
            })
        };
        assert_eq!(with(&[], &[]).0, Verdict::Fine);
        let (verdict, text) = with(&["realm", "listen"], &["relay.toml:3: no", "b"]);
        assert_eq!(verdict, Verdict::Warning);
        for says in ["relay.toml:3: no (and 1 more", "realm, listen counts from"] {
            assert!(text.contains(says), "{text}");
        }
    }

    #[test]
    fn small_buffers_dead_names_and_a_full_disk_are_said() {
        let observed = Observed {
            udp_buffer_bytes: (208 << 10, 4 << 20),
            disk_free_bytes: Some(0),
            outlook: Some(Outlook {
                dead_names: vec!["relay-1:4001".into()],
                ..Outlook::default()
            }),
            ..serving()
        };
        for (what, says) in [
            (What::UdpBuffers, "208 KiB instead of 4096"),
            (What::PeerNames, "relay-1:4001"),
            (What::Disk, "full"),
        ] {
            let (verdict, text) = found(&observed, what);
            assert_eq!(verdict, Verdict::Warning);
            assert!(text.contains(says), "{text}");
        }
    }
}
