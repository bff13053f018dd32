//! `mesh --add`: a relay comes to a fleet while sessions begin, and nobody tells the nodes.

use std::{collections::BTreeMap, time::Duration};

use anyhow::ensure;
use remora::node::Options;
use remora_proto::random::Random;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::MEET;
use crate::{
    cli::Mesh,
    fleet::{self, Fleet},
    measure::float,
    relay::{Capacity, SessionRate},
    report::{self, reasons, rounded},
    scenario::Bench,
    subject::unless_interrupted,
    talk::Pair,
    talks::{self, Begun},
};

/// All new sessions begin within this; few of them sooner, at this distance.
const WITHIN: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_secs(2);
/// Of all sessions, so many begin before: the load.
const BEFORE: usize = 2;

#[derive(Debug, Default)]
struct Found {
    within: Duration,
    /// By relay: where the two of each new session began.
    begun_at: BTreeMap<String, u64>,
    joins_ok: u64,
    joins_failed: BTreeMap<String, u64>,
}

/// Measures and prints. Says why the measurement is not valid.
///
/// # Errors
/// When there is no measurement.
pub(super) fn run(args: &Mesh) -> anyhow::Result<Option<String>> {
    let bench = Bench::spread_out(args.json)?;
    let found = unless_interrupted(&bench.runtime, measure(args, &bench))?;
    bench.print(|| found.json(args, &bench), || found.table(args))?;
    let failed: u64 = found.joins_failed.values().sum();
    let why = reasons(&found.joins_failed);
    Ok((failed > 0).then(|| format!("{failed} sessions did not begin: {why}")))
}

async fn measure(args: &Mesh, bench: &Bench) -> anyhow::Result<Found> {
    let capacity = Capacity {
        nodes: 2 * args.sessions,
        sessions: 2 * args.sessions,
        workers: None,
        session_rate: SessionRate::Ordinary,
    };
    let mut fleet = Fleet::new(true, None, capacity, &bench.cores)?;
    fleet.grow(args.relays)?;
    fleet.whole(MEET).await?;
    // What nodes have been told, once and for all.
    let addresses = fleet.addresses();
    let mut lot = Random::seeded(args.seed);
    let mut known = || {
        let ([lot], mut known) = (lot.bytes(), addresses.clone());
        known.rotate_left(usize::from(lot) % addresses.len());
        known
    };
    let before = args.sessions / BEFORE;
    let ways: Vec<_> = (0..before).map(|_| [known(), known()]).collect();
    let Begun { pairs, failed } = talks::begin(ways, bench.runtime.handle(), &bench.progress).await;
    ensure!(failed.is_empty(), "no session begins: {}", reasons(&failed));

    fleet.grow(1)?;
    let (since, new) = (Instant::now(), args.sessions - before);
    let within = WITHIN.min(EVERY.mul_f64(float(new as u64)));
    let mut beginning = JoinSet::new();
    for number in 0..new {
        let [helpers, sharers] = [known(), known()];
        let at = since + within.mul_f64(float(number as u64) / float(new as u64));
        beginning.spawn(async move {
            sleep_until(at).await;
            Pair::begin_with([&helpers, &sharers], &Options::relay_only()).await
        });
    }
    let mut found = Found {
        within,
        ..Found::default()
    };
    let mut begun = Vec::with_capacity(new);
    while let Some(one) = beginning.join_next().await {
        match one? {
            Ok(pair) => begun.push(pair),
            Err(why) => *found.joins_failed.entry(why).or_default() += 1,
        }
        bench
            .progress
            .show(&format!("sessions {}/{new}", begun.len()));
    }
    found.joins_ok = (pairs.len() + begun.len()) as u64;
    for relay in begun.iter().flat_map(|pair| &pair.relays) {
        *found.begun_at.entry(relay.clone()).or_default() += 1;
    }
    Ok(found)
}

impl Found {
    /// Of the new sessions' sides, those at the relay that was added.
    fn share(&self, args: &Mesh) -> Option<f64> {
        let all: u64 = self.begun_at.values().sum();
        let there = self.begun_at.get(&fleet::name(args.relays)).copied();
        (all > 0).then(|| float(there.unwrap_or_default()) / float(all))
    }

    fn json(&self, args: &Mesh, bench: &Bench) -> Value {
        let mut object = report::fleet_base("mesh", args.seed, bench.began.elapsed());
        report::set(
            &mut object,
            json!({
                "relays": args.relays,
                "added": 1,
                "sessions": args.sessions,
                "joins_ok": self.joins_ok,
                "joins_failed": self.joins_failed.values().sum::<u64>(),
                "failures": self.joins_failed,
                "within_s": self.within.as_secs(),
                "sides_begun_at": self.begun_at,
                "share_of_added": self.share(args).map(|share| rounded(share, 4)),
            }),
        );
        object
    }

    fn table(&self, args: &Mesh) -> String {
        let mut text = format!(
            "mesh · a relay added to {} · {} sessions, half of them in the {} s after\n\n",
            args.relays,
            args.sessions,
            self.within.as_secs()
        );
        for (relay, sides) in &self.begun_at {
            text += &format!("{relay:<12} {sides:>5} sides of new sessions\n");
        }
        let share = self.share(args).unwrap_or_default();
        text + &format!("the added one took {:.1} % of them", 100.0 * share)
    }
}
