//! Many sessions that talk: begun a few at a time, watched while something happens to relays, ended; and what became of all.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use remora_proto::{id::RelayAddr, random::Random};
use serde_json::{Value, json};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    measure::{Latencies, float},
    report::{self, Progress, rounded},
    talk::{self, Counts, Pair, Phase, Told},
};

/// Sessions that begin at once: all nodes share a core, and people do not all type in the same second.
const BEGIN_AT_ONCE: usize = 8;
/// For the last words to arrive.
const HEARD: Duration = Duration::from_secs(10);
/// For all sessions to end.
const ENDED: Duration = Duration::from_secs(30);
/// How often one looks.
const GLANCE: Duration = Duration::from_millis(50);

/// The relays that the two of a session know, the helper's first.
pub type Ways = [Vec<RelayAddr>; 2];

/// Sessions that began, and why others did not.
#[derive(Debug, Default)]
pub struct Begun {
    /// In the order in which they did.
    pub pairs: Vec<Pair>,
    /// By reason.
    pub failed: BTreeMap<String, u64>,
}

/// Begins a session of each, a few at a time, of nodes whose sockets are where `runtime`'s are.
pub async fn begin(
    ways: impl IntoIterator<Item = Ways>,
    runtime: &Handle,
    progress: &Progress,
) -> Begun {
    let (mut begun, mut beginning) = (Begun::default(), JoinSet::new());
    let mut ways = ways.into_iter();
    loop {
        let room = BEGIN_AT_ONCE - beginning.len();
        for [helpers, sharers] in ways.by_ref().take(room) {
            let pair = async move { Pair::begin([&helpers, &sharers]).await };
            beginning.spawn_on(pair, runtime);
        }
        match beginning.join_next().await {
            Some(Ok(Ok(pair))) => begun.pairs.push(pair),
            Some(Ok(Err(why))) => *begun.failed.entry(why).or_default() += 1,
            Some(Err(_)) => *begun.failed.entry("PANIC".to_owned()).or_default() += 1,
            None => return begun,
        }
        progress.show(&format!("sessions {}", begun.pairs.len()));
    }
}

/// Sessions while they talk.
#[derive(Debug)]
pub struct Talks {
    phase: watch::Sender<Phase>,
    counts: Vec<[Arc<Counts>; 2]>,
    talking: JoinSet<(usize, Told)>,
}

impl Talks {
    /// Lets all talk, each side a number `every` so often, not all in the same moment.
    pub fn new(pairs: Vec<Pair>, every: Duration, lot: &mut Random) -> Self {
        let (phase, told) = watch::channel(Phase::Talk);
        let mut talks = Self {
            phase,
            counts: pairs.iter().map(Pair::counts).collect(),
            talking: JoinSet::new(),
        };
        for (number, pair) in pairs.into_iter().enumerate() {
            let [lot] = lot.bytes();
            let offset = every * u32::from(lot) / 256;
            pair.talk(number, &told, every, offset, &mut talks.talking);
        }
        talks
    }

    /// From now on it is noted how long nothing comes, and how long after now they move.
    pub fn watch(&self) {
        self.phase.send_replace(Phase::Watched(Instant::now()));
    }

    /// Waits for the last words, and lets all leave.
    ///
    /// # Errors
    /// When they do not.
    pub async fn end(mut self, progress: &Progress) -> anyhow::Result<Became> {
        self.phase.send_replace(Phase::Listen);
        progress.show("until all is heard");
        let all_heard = async {
            while !self.counts.iter().all(talk::is_all_heard) {
                sleep(GLANCE).await;
            }
        };
        // What is not heard by then is counted as lost.
        timeout(HEARD, all_heard).await.ok();
        self.phase.send_replace(Phase::Leave);
        let mut became = Became::new()?;
        for counts in &self.counts {
            let [one, other] = counts;
            became.lost += talk::lost([one, other]);
            became.said += talk::said(counts);
        }
        let mut sessions = vec![Vec::new(); self.counts.len()];
        let leaving = async {
            while let Some(told) = self.talking.join_next().await {
                let (session, told) = told?;
                sessions[session].push(told);
            }
            anyhow::Ok(())
        };
        timeout(ENDED, leaving).await??;
        for sides in &sessions {
            became.add(sides);
        }
        Ok(became)
    }
}

/// What became of all.
#[derive(Clone, Debug)]
pub struct Became {
    sessions: u64,
    /// Sessions that ended for one of the two at least, before anybody wanted that.
    pub ended: u64,
    end_reasons: BTreeMap<String, u64>,
    said: u64,
    lost: u64,
    duplicated: u64,
    consents: u64,
    /// Sessions of which both sides were told that another relay carries them.
    moved: u64,
    moves: Latencies,
    gaps: Latencies,
}

impl Became {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            sessions: 0,
            ended: 0,
            end_reasons: BTreeMap::new(),
            said: 0,
            lost: 0,
            duplicated: 0,
            consents: 0,
            moved: 0,
            moves: Latencies::new()?,
            gaps: Latencies::new()?,
        })
    }

    /// One session, as each side saw it.
    fn add(&mut self, sides: &[Told]) {
        self.sessions += 1;
        let has_moved = |told: &Told| !told.moves.is_empty();
        self.moved += u64::from(sides.iter().all(has_moved));
        let reasons = sides.iter().filter_map(|told| told.has_ended);
        let reasons: Vec<_> = reasons.collect();
        self.ended += u64::from(!reasons.is_empty());
        for reason in reasons {
            let name = reason.name().to_owned();
            *self.end_reasons.entry(name).or_default() += 1;
        }
        for told in sides {
            self.duplicated += told.duplicated;
            self.lost += told.skipped;
            self.consents += told.consents;
            if told.has_ended.is_none() {
                self.gaps.record(told.gap);
                told.moves
                    .iter()
                    .for_each(|&after| self.moves.record(after));
            }
        }
    }

    /// How many there were.
    pub fn sessions(&self) -> u64 {
        self.sessions
    }

    /// For scripts.
    pub fn json(&self) -> Value {
        json!({
            "ended": self.ended,
            "end_reasons": self.end_reasons,
            "messages_sent": self.said,
            "messages_lost": self.lost,
            "messages_duplicated": self.duplicated,
            "consents_asked": self.consents,
            "moved": self.moved,
            "move_ms": times(&self.moves),
            "gap_ms": times(&self.gaps),
        })
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "ended {} of {}   moved {}   lost {} of {}   doubled {}   asked again {}\n\n{:<12}{:>10}{:>10}{:>10}\n",
            self.ended,
            self.sessions,
            self.moved,
            self.lost,
            self.said,
            self.duplicated,
            self.consents,
            "",
            "p50 ms",
            "p99 ms",
            "max ms"
        );
        for (name, all) in [("moved after", &self.moves), ("longest gap", &self.gaps)] {
            let us = [all.quantile_us(0.5), all.quantile_us(0.99), all.max_us()];
            let [p50, p99, max] = us.map(|us| float(us.unwrap_or_default()) / 1e3);
            text += &format!("{name:<12}{p50:>10.1}{p99:>10.1}{max:>10.1}\n");
        }
        if !self.end_reasons.is_empty() {
            text += &format!("ended: {}\n", report::reasons(&self.end_reasons));
        }
        text
    }
}

/// How long things took, for scripts: milliseconds.
pub fn times(all: &Latencies) -> Value {
    let of = |us: Option<u64>| us.map(|us| rounded(float(us) / 1e3, 1));
    json!({"p50": of(all.quantile_us(0.5)), "p99": of(all.quantile_us(0.99)), "max": of(all.max_us())})
}

#[cfg(test)]
mod tests {
    use remora_proto::session::EndReason;

    use super::*;

    fn told(has_ended: Option<EndReason>, moves: &[u64]) -> Told {
        Told {
            has_ended,
            moves: moves.iter().copied().map(Duration::from_millis).collect(),
            ..Told::default()
        }
    }

    #[test]
    fn a_session_ends_when_one_side_does_and_moves_when_both_do() {
        let mut became = Became::new().expect("memory");
        became.add(&[told(None, &[7]), told(None, &[9, 20])]);
        became.add(&[told(None, &[5]), told(None, &[])]);
        became.add(&[told(Some(EndReason::ConnectionLost), &[]), told(None, &[])]);
        became.add(&[
            told(Some(EndReason::ConnectionLost), &[]),
            told(Some(EndReason::ConnectionLost), &[]),
        ]);
        assert_eq!((became.sessions, became.ended, became.moved), (4, 2, 1));
        assert_eq!((became.moves.count(), became.gaps.count()), (4, 5));
        assert_eq!(became.end_reasons.values().sum::<u64>(), 3);
    }
}
