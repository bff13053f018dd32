//! The verbs `drain` and `crash`: sessions whose relay is told to stop, or is killed, while they talk.
//!
//! ```text
//!  relays ─▶ sessions by code ─▶ talk ─▶ all warm ─▶ drained, or killed ─▶ talk on ─▶ all heard? ─▶ leave
//! ```
//!
//! Relays are processes of `remora-relay`; nodes are the library that `remora` is, all of them in this process, and go through the relay
//! only. What is counted are numbers that each side says to the other every so often: one that comes late is waited for.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::ensure;
use remora_proto::random::Random;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    cli::Outlive,
    fleet::{self, Fleet},
    measure::{Latencies, float},
    relay::{Capacity, SessionRate},
    report::{self, reasons, rounded},
    scenario::Bench,
    subject::unless_interrupted,
    talk::{self, Pair, Phase, Told},
};

/// Sessions that begin at once: all nodes share a core, and people do not all type in the same second.
const BEGIN_AT_ONCE: usize = 8;
/// Relays of a fleet know each other by then: seeds are tried every four seconds, and one that was gone is missed after nine.
const MEET: Duration = Duration::from_secs(60);
/// A session has a second relay warm by then.
const WARM: Duration = Duration::from_secs(12);
/// A relay lets its sessions have a minute.
const DRAINED: Duration = Duration::from_secs(65);
/// How long the talk goes on after each relay.
const TALK_ON: Duration = Duration::from_secs(12);
/// For the last words to arrive.
const HEARD: Duration = Duration::from_secs(10);
/// For all sessions to end.
const ENDED: Duration = Duration::from_secs(30);
/// How often one looks.
const GLANCE: Duration = Duration::from_millis(50);

/// What happens to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// SIGTERM: it waits for its sessions to leave.
    Drained,
    /// SIGKILL.
    Killed,
}

impl Fate {
    fn verb(self) -> &'static str {
        match self {
            Self::Drained => "drain",
            Self::Killed => "crash",
        }
    }
}

#[derive(Debug)]
struct Found {
    fate: Fate,
    /// Sessions with a side at the relay that the first of it happened to.
    carried: usize,
    /// Sessions between two relays.
    bridged: usize,
    joins_failed: BTreeMap<String, u64>,
    ended: u64,
    end_reasons: BTreeMap<String, u64>,
    said: u64,
    lost: u64,
    duplicated: u64,
    consents: u64,
    /// Sessions of which both sides have been told that another relay carries them.
    moved: u64,
    moves: Latencies,
    gaps: Latencies,
    /// How long each relay took to stop, and whether it said that all went well.
    drained: Vec<(Duration, bool)>,
}

/// Measures and prints. Says why the measurement is not valid.
///
/// # Errors
/// When there is no measurement.
pub fn run(args: &Outlive, fate: Fate) -> anyhow::Result<Option<String>> {
    let bench = Bench::spread_out(args.json)?;
    let found = unless_interrupted(&bench.runtime, measure(args, fate, &bench))?;
    bench.print(|| found.json(args, &bench), || found.table(args))?;
    Ok(found.fault())
}

async fn measure(args: &Outlive, fate: Fate, bench: &Bench) -> anyhow::Result<Found> {
    let capacity = Capacity {
        nodes: 2 * args.sessions,
        sessions: 2 * args.sessions,
        workers: None,
        session_rate: SessionRate::Ordinary,
    };
    let mut fleet = if args.mesh {
        Fleet::start_mesh(args.relays, capacity, &bench.cores)?
    } else {
        Fleet::start(args.relays, capacity, &bench.cores)?
    };
    meet(args, &fleet).await?;
    let mut lot = Random::seeded(args.seed);
    let (pairs, joins_failed) = begin(args, &fleet, bench, &mut lot).await;
    ensure!(
        !pairs.is_empty(),
        "no session begins: {}",
        reasons(&joins_failed)
    );
    let carried = |number: usize| {
        let name = fleet::name(number);
        pairs
            .iter()
            .filter(|pair| pair.relays.contains(&name))
            .count()
    };
    let (carried, first) = (0..args.relays)
        .map(|number| (carried(number), number))
        .max()
        .unwrap_or_default();
    let bridged = |pair: &&Pair| pair.relays[0] != pair.relays[1];
    let bridged = pairs.iter().filter(bridged).count();
    let (tell, phase) = watch::channel(Phase::Talk);
    let counts: Vec<_> = pairs.iter().map(Pair::counts).collect();
    let mut talking = JoinSet::new();
    let every = Duration::from_millis(args.every);
    for pair in pairs {
        // Not all in the same moment.
        let [lot] = lot.bytes();
        let offset = every * u32::from(lot) / 256;
        pair.talk(&phase, every, offset, &mut talking);
    }
    bench.progress.show("until all are warm");
    sleep(WARM).await;

    let watched = || tell.send_replace(Phase::Watched(Instant::now()));
    let mut drained = Vec::new();
    match fate {
        Fate::Killed => {
            watched();
            fleet.kill(first)?;
        }
        Fate::Drained => {
            let all = if args.rolling { args.relays } else { 1 };
            for number in (0..args.relays).cycle().skip(first).take(all) {
                bench
                    .progress
                    .show(&format!("{} drains", fleet::name(number)));
                watched();
                drained.push(fleet.drain(number, DRAINED).await?);
                if args.rolling {
                    fleet.start_again(number)?;
                    meet(args, &fleet).await?;
                    sleep(WARM).await;
                }
            }
        }
    }
    sleep(TALK_ON).await;
    tell.send_replace(Phase::Listen);
    bench.progress.show("until all is heard");
    let all_heard = async {
        while !counts.iter().all(talk::is_all_heard) {
            sleep(GLANCE).await;
        }
    };
    // What is not heard by then is counted as lost.
    timeout(HEARD, all_heard).await.ok();
    tell.send_replace(Phase::Leave);
    let lost = counts.iter().map(|[one, other]| talk::lost([one, other]));
    let mut found = Found {
        fate,
        carried,
        bridged,
        joins_failed,
        ended: 0,
        end_reasons: BTreeMap::new(),
        said: counts.iter().map(talk::said).sum(),
        lost: lost.sum(),
        duplicated: 0,
        consents: 0,
        moved: 0,
        moves: Latencies::new()?,
        gaps: Latencies::new()?,
        drained,
    };
    let leaving = async {
        while let Some(told) = talking.join_next().await {
            found.add(&told?);
        }
        anyhow::Ok(())
    };
    timeout(ENDED, leaving).await??;
    Ok(found)
}

/// Waits until all relays of a fleet know each other.
async fn meet(args: &Outlive, fleet: &Fleet) -> anyhow::Result<()> {
    if args.mesh {
        fleet.whole(args.relays - 1, MEET).await?;
    }
    Ok(())
}

/// Begins all sessions, a few at a time. Relays that are equally near are taken in the order in which a node knows them.
async fn begin(
    args: &Outlive,
    fleet: &Fleet,
    bench: &Bench,
    lot: &mut Random,
) -> (Vec<Pair>, BTreeMap<String, u64>) {
    let mut addresses = || {
        let mut addresses = fleet.addresses();
        if args.mesh {
            let [lot] = lot.bytes();
            addresses.rotate_left(usize::from(lot) % args.relays);
        }
        addresses
    };
    let (mut pairs, mut failed) = (Vec::new(), BTreeMap::new());
    let (mut beginning, mut begun) = (JoinSet::new(), 0);
    loop {
        while begun < args.sessions && beginning.len() < BEGIN_AT_ONCE {
            begun += 1;
            let [helpers, sharers] = [addresses(), addresses()];
            beginning.spawn(async move { Pair::begin([&helpers, &sharers]).await });
        }
        match beginning.join_next().await {
            Some(Ok(Ok(pair))) => pairs.push(pair),
            Some(Ok(Err(why))) => *failed.entry(why).or_default() += 1,
            Some(Err(_)) => *failed.entry("PANIC".to_owned()).or_default() += 1,
            None => return (pairs, failed),
        }
        let (there, all) = (pairs.len(), args.sessions);
        bench.progress.show(&format!("sessions {there}/{all}"));
    }
}

impl Found {
    /// One side of a session.
    fn add(&mut self, told: &Told) {
        self.duplicated += told.duplicated;
        self.lost += told.skipped;
        self.consents += told.consents;
        if let Some(reason) = told.has_ended {
            self.ended += 1;
            *self
                .end_reasons
                .entry(reason.name().to_owned())
                .or_default() += 1;
            return;
        }
        self.gaps.record(told.gap);
        self.moved += u64::from(!told.moves.is_empty());
        for &after in &told.moves {
            self.moves.record(after);
        }
    }

    fn fault(&self) -> Option<String> {
        let failed: u64 = self.joins_failed.values().sum();
        if failed > 0 {
            let reasons = reasons(&self.joins_failed);
            return Some(format!("{failed} sessions did not begin: {reasons}"));
        }
        None
    }

    fn json(&self, args: &Outlive, bench: &Bench) -> Value {
        let failed: u64 = self.joins_failed.values().sum();
        let exits = self.drained.iter();
        let exits = exits.map(|(took, is_well)| json!({"ms": ms(took.as_micros()), "ok": is_well}));
        let mut object = report::base(self.fate.verb(), args.seed, bench.began.elapsed());
        report::set(
            &mut object,
            json!({
                "relays": args.relays,
                "sessions": args.sessions,
                "carried": self.carried,
                "mesh": args.mesh,
                "bridged": self.bridged,
                "rolling": args.rolling,
                "joins_ok": args.sessions as u64 - failed,
                "joins_failed": failed,
                "failures": self.joins_failed,
                "ended": self.ended.div_ceil(2),
                "end_reasons": self.end_reasons,
                "messages_sent": self.said,
                "messages_lost": self.lost,
                "messages_duplicated": self.duplicated,
                "consents_asked": self.consents,
                "moved": self.moved / 2,
                "move_ms": times(&self.moves),
                "gap_ms": times(&self.gaps),
                "message_every_ms": args.every,
                "relay_exits": exits.collect::<Vec<_>>(),
                "cores": bench.cores.json(),
            }),
        );
        object
    }

    fn table(&self, args: &Outlive) -> String {
        let mut text = format!(
            "{} · {} relays · {} sessions, {} of them at the first that stops, {} between two · a number every {} ms each way\n\n",
            self.fate.verb(),
            args.relays,
            args.sessions,
            self.carried,
            self.bridged,
            args.every
        );
        text += &format!(
            "ended {}   moved {}   lost {} of {}   doubled {}   asked again {}\n\n{:<12}{:>10}{:>10}{:>10}\n",
            self.ended.div_ceil(2),
            self.moved / 2,
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
        for (took, is_well) in &self.drained {
            let how = if *is_well { "empty" } else { "NOT WELL" };
            text += &format!("relay stopped after {:.1} s, {how}\n", took.as_secs_f64());
        }
        for (why, count) in self.joins_failed.iter().chain(&self.end_reasons) {
            text += &format!("failed: {why} {count}\n");
        }
        text.trim_end().to_owned()
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of minutes")]
fn ms(us: u128) -> f64 {
    rounded(us as f64 / 1e3, 1)
}

fn times(all: &Latencies) -> Value {
    let of = |us: Option<u64>| us.map(|us| ms(us.into()));
    json!({"p50": of(all.quantile_us(0.5)), "p99": of(all.quantile_us(0.99)), "max": of(all.max_us())})
}
