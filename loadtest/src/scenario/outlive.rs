//! The verbs `drain` and `crash`: sessions whose relay is told to stop, is killed, or is cut off, while they talk.
//!
//! ```text
//!  relays ─▶ sessions by code ─▶ talk ─▶ all warm ─▶ drained, killed, cut off ─▶ talk on ─▶ all heard? ─▶ leave
//! ```
//!
//! Relays are processes of `remora-relay`; nodes are the library that `remora` is, all of them in this process, and go through the relay
//! only. What is counted are numbers that each side says to the other every so often: one that comes late is waited for.
//!
//! The port of a relay that is killed answers that nobody is there. A machine that is lost says nothing: then each relay has a network
//! of its own, the nodes have one together, and the router between them drops whatever is to or from the lost one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use remora_proto::random::Random;
use serde_json::{Value, json};
use tokio::{runtime::Handle, time::sleep};

use crate::{
    cli::Outlive,
    fleet::{self, Fleet},
    relay::{Capacity, SessionRate},
    report::{self, reasons, rounded},
    scenario::Bench,
    sites::Sites,
    subject::unless_interrupted,
    talk::Pair,
    talks::{self, Became, Begun, Talks},
};

/// Relays of a fleet know each other by then: seeds are tried every four seconds, and one that was gone is missed after nine.
const MEET: Duration = Duration::from_secs(60);
/// A session has a second relay warm by then.
const WARM: Duration = Duration::from_secs(12);
/// A relay lets its sessions have a minute.
const DRAINED: Duration = Duration::from_secs(65);
/// How long the talk goes on after each relay.
const TALK_ON: Duration = Duration::from_secs(12);

/// What happens to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// SIGTERM: it waits for its sessions to leave.
    Drained,
    /// SIGKILL.
    Killed,
    /// Nothing goes to it or comes from it any more.
    Lost,
}

impl Fate {
    fn verb(self) -> &'static str {
        match self {
            Self::Drained => "drain",
            Self::Killed | Self::Lost => "crash",
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
    became: Became,
    /// How long each relay took to stop, and whether it said that all went well.
    drained: Vec<(Duration, bool)>,
}

/// Measures and prints. Says why the measurement is not valid.
///
/// # Errors
/// When there is no measurement.
pub fn run(args: &Outlive, fate: Fate) -> anyhow::Result<Option<String>> {
    let bench = Bench::spread_out(args.json)?;
    let found = if fate == Fate::Lost {
        let relays = u8::try_from(args.relays).context("too many relays")?;
        let sites = Arc::new(Sites::new(relays + 1)?);
        let people = sites.site(args.relays).runtime()?;
        let measuring = measure(args, fate, Some(sites), people.handle(), &bench);
        unless_interrupted(&bench.runtime, measuring)?
    } else {
        let measuring = measure(args, fate, None, bench.runtime.handle(), &bench);
        unless_interrupted(&bench.runtime, measuring)?
    };
    bench.print(|| found.json(args, &bench), || found.table(args))?;
    Ok(found.fault())
}

async fn measure(
    args: &Outlive,
    fate: Fate,
    sites: Option<Arc<Sites>>,
    people: &Handle,
    bench: &Bench,
) -> anyhow::Result<Found> {
    let capacity = Capacity {
        nodes: 2 * args.sessions,
        sessions: 2 * args.sessions,
        workers: None,
        session_rate: SessionRate::Ordinary,
    };
    let mut fleet = Fleet::new(args.mesh, sites, capacity, &bench.cores)?;
    fleet.grow(args.relays)?;
    fleet.whole(MEET).await?;
    let mut lot = Random::seeded(args.seed);
    let Begun { pairs, failed } = begin(args, &fleet, people, bench, &mut lot).await;
    ensure!(!pairs.is_empty(), "no session begins: {}", reasons(&failed));
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
    let talks = Talks::new(pairs, Duration::from_millis(args.every), &mut lot);
    bench.progress.show("until all are warm");
    sleep(WARM).await;

    let mut drained = Vec::new();
    match fate {
        Fate::Killed => {
            talks.watch();
            fleet.kill(first)?;
        }
        Fate::Lost => {
            talks.watch();
            fleet.lose(first)?;
        }
        Fate::Drained => {
            let all = if args.rolling { args.relays } else { 1 };
            for number in (0..args.relays).cycle().skip(first).take(all) {
                bench
                    .progress
                    .show(&format!("{} drains", fleet::name(number)));
                talks.watch();
                drained.push(fleet.drain(number, DRAINED).await?);
                if args.rolling {
                    fleet.start_again(number)?;
                    fleet.whole(MEET).await?;
                    sleep(WARM).await;
                }
            }
        }
    }
    sleep(TALK_ON).await;
    Ok(Found {
        fate,
        carried,
        bridged,
        joins_failed: failed,
        became: talks.end(&bench.progress).await?,
        drained,
    })
}

/// Begins all sessions, a few at a time. Relays that are equally near are taken in the order in which a node knows them.
async fn begin(
    args: &Outlive,
    fleet: &Fleet,
    people: &Handle,
    bench: &Bench,
    lot: &mut Random,
) -> Begun {
    let mut addresses = || {
        let mut addresses = fleet.addresses();
        if args.mesh {
            let [lot] = lot.bytes();
            addresses.rotate_left(usize::from(lot) % args.relays);
        }
        addresses
    };
    let ways = (0..args.sessions).map(|_| [addresses(), addresses()]);
    talks::begin(ways, people, &bench.progress).await
}

impl Found {
    fn failures(&self) -> u64 {
        self.joins_failed.values().sum()
    }

    fn fault(&self) -> Option<String> {
        let (failed, reasons) = (self.failures(), reasons(&self.joins_failed));
        (failed > 0).then(|| format!("{failed} sessions did not begin: {reasons}"))
    }

    fn json(&self, args: &Outlive, bench: &Bench) -> Value {
        let exits = self.drained.iter().map(
            |(took, is_well)| json!({"ms": rounded(1e3 * took.as_secs_f64(), 1), "ok": is_well}),
        );
        let mut object = report::base(self.fate.verb(), args.seed, bench.began.elapsed());
        report::set(&mut object, self.became.json());
        report::set(
            &mut object,
            json!({
                "relays": args.relays,
                "sessions": args.sessions,
                "carried": self.carried,
                "mesh": args.mesh,
                "machine_loss": self.fate == Fate::Lost,
                "bridged": self.bridged,
                "rolling": args.rolling,
                "joins_ok": args.sessions as u64 - self.failures(),
                "joins_failed": self.failures(),
                "failures": self.joins_failed,
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
        text += &self.became.table();
        for (took, is_well) in &self.drained {
            let how = if *is_well { "empty" } else { "NOT WELL" };
            text += &format!("relay stopped after {:.1} s, {how}\n", took.as_secs_f64());
        }
        for (why, count) in &self.joins_failed {
            text += &format!("failed: {why} {count}\n");
        }
        text.trim_end().to_owned()
    }
}
