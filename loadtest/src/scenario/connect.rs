//! The verb `connect`: sessions set up by code, as many a second as go, or so many.
//!
//! ```text
//!  fresh nodes:  two handshakes, Hello each ─▶ code, look-up, exchange, session ─▶ both leave
//!  --keep-nodes:                               code, look-up, exchange, session ─▶ release
//! ```
//!
//! What of it is real, and what is not, stands in [`crate::setup`]. With a rate, set-ups begin when they are due, whatever
//! became of those before, at intervals drawn by lot as of people who know nothing of each other, and the latency counts from
//! then: a relay that stalls is charged for all who wait.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep_until};

use crate::{
    cli::{Connect, Rate},
    crowd::{self, Crowd, Fault, Member},
    interrupt,
    measure::{Latencies, float},
    process::{Meter, Usage},
    relay::{Aim, Capacity, Relay, SessionRate},
    report::{self, failures, reasons, rounded, rounded_or_null},
    scenario::Bench,
    setup::{self, Prepared, Sizes, Standing},
    subject::unless_interrupted,
};

/// Set-ups at a time when it goes as fast as it can: the relay always has some to do, and nobody waits long.
const AT_ONCE: usize = 32;
/// Set-ups at a time when they begin by the clock; beyond, the relay is hopelessly behind, and so are we.
const MAX_AT_ONCE: usize = 1000;
/// Set-ups of two nodes that stay: a relay takes a hundred requests of a node at once, and each takes five.
const SETUPS_PER_PAIR: usize = 16;
/// For the relay to be done with those that left.
const SETTLE: Duration = Duration::from_millis(200);
/// Failures that leave the figures worth having, and how much of the asked rate was begun.
const MAX_FAILED_RATIO: f64 = 0.01;
const MIN_RATE_RATIO: f64 = 0.95;
/// What a relay says to an address that looks up codes as nobody does by hand.
const RATE_LIMITED: Fault = Fault::Refused("RATE_LIMITED");
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];

/// What was found.
#[derive(Debug)]
struct Found {
    latencies: Latencies,
    faults: BTreeMap<Fault, u64>,
    live: usize,
    began: Instant,
    measured: Duration,
    usage: Option<Usage>,
    own_usage: Usage,
    rss_bytes: Option<u64>,
}

/// Measures and prints. Says why the measurement is not valid.
///
/// # Errors
/// When there is no measurement.
pub fn run(args: &Connect, aim: Aim) -> anyhow::Result<Option<String>> {
    let bench = Bench::new(&args.target, 1)?;
    let capacity = Capacity {
        nodes: 2 * MAX_AT_ONCE + 2 * pairs_that_stay(args) + Standing::nodes(args.live),
        sessions: args.live + args.count,
        workers: None,
        session_rate: SessionRate::Unlimited,
    };
    let relay = Relay::new(aim, capacity, &bench.cores)?;
    let found = unless_interrupted(&bench.runtime, measure(args, &relay, &bench))?;
    bench.print(|| found.json(args, &bench), || found.table(args))?;
    Ok(found.fault(args))
}

fn pairs_that_stay(args: &Connect) -> usize {
    let needed = args.count.div_ceil(SETUPS_PER_PAIR);
    match (args.keep_nodes, args.rate) {
        (false, _) => 0,
        (true, Rate::Max) => needed.max(AT_ONCE.min(args.count)),
        (true, Rate::PerSecond(_)) => needed.max(MAX_AT_ONCE.min(args.count)),
    }
}

async fn measure(args: &Connect, relay: &Relay, bench: &Bench) -> anyhow::Result<Found> {
    let progress = &bench.progress;
    let crowd = Arc::new(Crowd::new(&relay.address, relay.at)?);
    let first = crowd.connect().await.context("the relay does not answer")?;
    let mut codes = Prepared::draw_different(args.count + args.live, &first.realm)?;
    crowd::leave_all(&crowd, [first].into_iter()).await?;
    let sizes = Sizes::of_a_real_exchange()?;
    let members = crowd
        .connect_many(Standing::nodes(args.live), progress)
        .await?;
    let live = codes.split_off(args.count);
    let mut standing = Standing::new(members, live, sizes, progress).await?;
    let mut staying = crowd
        .connect_many(2 * pairs_that_stay(args), progress)
        .await?
        .into_iter();
    let pairs = std::iter::from_fn(|| Some([staying.next()?, staying.next()?])).collect();

    let usage = || relay.meter.map(Meter::usage).transpose();
    let own = Meter::of(std::process::id())?;
    let (before, own_before) = (usage()?, own.usage()?);
    let mut running = Running {
        args,
        crowd: Arc::clone(&crowd),
        sizes,
        pairs,
        tasks: JoinSet::new(),
        found: Found {
            latencies: Latencies::new()?,
            faults: BTreeMap::new(),
            live: standing.sessions(),
            began: Instant::now(),
            measured: Duration::ZERO,
            usage: None,
            own_usage: Usage::default(),
            rss_bytes: None,
        },
    };
    running.all(codes, &mut standing, bench).await?;
    let mut found = running.found;
    found.measured = found.began.elapsed();
    tokio::time::sleep(SETTLE).await;
    found.usage = usage()?.zip(before).map(|(now, before)| now.since(before));
    found.own_usage = own.usage()?.since(own_before);
    found.rss_bytes = relay.meter.map(Meter::rss_bytes).transpose()?;
    if !relay.is_own() {
        let pairs = running.pairs.into_iter().flatten();
        crowd::leave_all(&crowd, pairs.chain(standing.into_members())).await?;
    }
    Ok(found)
}

/// How a set-up ended, and the nodes, where they stay.
type Ended = (Result<Duration, Fault>, Option<[Member; 2]>);

struct Running<'a> {
    args: &'a Connect,
    crowd: Arc<Crowd>,
    sizes: Sizes,
    /// Nodes that stay and have nothing to do; who has rested longest is next.
    pairs: VecDeque<[Member; 2]>,
    tasks: JoinSet<Ended>,
    found: Found,
}

impl Running<'_> {
    async fn all(
        &mut self,
        codes: Vec<Prepared>,
        standing: &mut Standing,
        bench: &Bench,
    ) -> anyhow::Result<()> {
        let mut random = StdRng::seed_from_u64(self.args.target.seed);
        let mut due = self.found.began;
        for (number, prepared) in (1..).zip(codes) {
            interrupt::check()?;
            standing.keep();
            bench.progress.show(&format!(
                "set-ups {number}/{} · {} under way · {} failed",
                self.args.count,
                self.tasks.len(),
                self.found.failed()
            ));
            match self.args.rate {
                Rate::Max => {
                    while self.tasks.len() >= AT_ONCE {
                        self.end_one().await?;
                    }
                    due = Instant::now();
                }
                Rate::PerSecond(rate) => {
                    due += interval(&mut random, rate);
                    self.wait_until(due).await?;
                }
            }
            self.begin(prepared, due);
        }
        while !self.tasks.is_empty() {
            self.end_one().await?;
        }
        Ok(())
    }

    async fn wait_until(&mut self, due: Instant) -> anyhow::Result<()> {
        loop {
            tokio::select! { biased;
                () = sleep_until(due.into()) => return Ok(()),
                Some(ended) = self.tasks.join_next() => self.note(ended?),
            }
        }
    }

    async fn end_one(&mut self) -> anyhow::Result<()> {
        if let Some(ended) = self.tasks.join_next().await {
            self.note(ended?);
        }
        Ok(())
    }

    fn note(&mut self, (outcome, pair): Ended) {
        self.pairs.extend(pair);
        match outcome {
            Ok(latency) => self.found.latencies.record(latency),
            Err(fault) => *self.found.faults.entry(fault).or_default() += 1,
        }
    }

    fn begin(&mut self, prepared: Prepared, due: Instant) {
        if self.tasks.len() >= MAX_AT_ONCE {
            return self.note((Err(Fault::Timeout), None));
        }
        let sizes = self.sizes;
        if !self.args.keep_nodes {
            let crowd = Arc::clone(&self.crowd);
            self.tasks
                .spawn(async move { (fresh(&crowd, prepared, sizes, due).await, None) });
        } else if let Some(pair) = self.pairs.pop_front() {
            self.tasks.spawn(again(pair, prepared, sizes, due));
        } else {
            // All others have lost their connection.
            self.note((Err(Fault::Lost), None));
        }
    }
}

/// Until the next one begins, on average a `rate`th of a second: exponentially distributed.
fn interval(random: &mut StdRng, rate: u64) -> Duration {
    let uniform: f64 = random.random();
    Duration::from_secs_f64(-(1.0 - uniform).ln() / float(rate))
}

/// Two new nodes, a session, and both leave; how long it took until they had it.
async fn fresh(
    crowd: &Crowd,
    prepared: Prepared,
    sizes: Sizes,
    due: Instant,
) -> Result<Duration, Fault> {
    let (mut host, mut joiner) = tokio::try_join!(crowd.connect(), crowd.connect())?;
    let session = setup::introduce(&mut host, &mut joiner, prepared, sizes).await?;
    let took = due.elapsed();
    setup::part(&mut host, &mut joiner, session).await?;
    tokio::join!(host.leave(), joiner.leave());
    Ok(took)
}

/// A session of two nodes that stay.
async fn again(
    [mut host, mut joiner]: [Member; 2],
    prepared: Prepared,
    sizes: Sizes,
    due: Instant,
) -> Ended {
    let session = async {
        let session = setup::introduce(&mut host, &mut joiner, prepared, sizes).await?;
        let took = due.elapsed();
        setup::part(&mut host, &mut joiner, session).await?;
        Ok(took)
    };
    match session.await {
        Ok(took) => (Ok(took), Some([host, joiner])),
        // What else these two would be told is of no use to another set-up.
        Err(fault) => (Err(fault), None),
    }
}

impl Found {
    fn done(&self) -> u64 {
        self.latencies.count()
    }

    fn failed(&self) -> u64 {
        self.faults.values().sum()
    }

    fn per_s(&self) -> f64 {
        float(self.done()) / self.measured.as_secs_f64()
    }

    fn cpu_s(&self) -> Option<f64> {
        Some(Duration::from_nanos(self.usage?.ran_ns).as_secs_f64())
    }

    fn per_cpu_s(&self) -> Option<f64> {
        self.cpu_s()
            .filter(|cpu| *cpu > 0.0)
            .map(|cpu| float(self.done()) / cpu)
    }

    fn load_core_use(&self) -> f64 {
        let ran = Duration::from_nanos(self.own_usage.ran_ns);
        ran.as_secs_f64() / self.measured.as_secs_f64()
    }

    fn fault(&self, args: &Connect) -> Option<String> {
        let all = self.done() + self.failed();
        if float(self.failed()) > MAX_FAILED_RATIO * float(all) {
            let advice = if self.faults.contains_key(&RATE_LIMITED) && args.target.relay.is_some() {
                "; that relay needs a higher --lookups-per-minute for such a load"
            } else {
                ""
            };
            return Some(format!(
                "{} of {all} set-ups failed: {}{advice}",
                self.failed(),
                reasons(&self.faults)
            ));
        }
        match args.rate {
            // A few are drawn too unevenly for a rate.
            Rate::PerSecond(rate) if all > 1000 && self.per_s() < MIN_RATE_RATIO * float(rate) => {
                Some(format!(
                    "only {:.0} of {rate} set-ups/s came to be; lower --rate, or say --rate max",
                    self.per_s()
                ))
            }
            Rate::Max | Rate::PerSecond(_) => None,
        }
    }

    fn json(&self, args: &Connect, bench: &Bench) -> Value {
        let mut object = report::base("connect", args.target.seed, bench.began.elapsed());
        report::set(
            &mut object,
            json!({
                "sessions": self.live,
                "live_sessions": self.live,
                "count": args.count,
                "keep_nodes": args.keep_nodes,
                "rate_per_s": match args.rate {
                    Rate::Max => json!("max"),
                    Rate::PerSecond(rate) => json!(rate),
                },
                "measured_s": rounded(self.measured.as_secs_f64(), 3),
                "setups": self.done(),
                "failed": self.failed(),
                "failures": failures(&self.faults),
                "setups_per_s": rounded(self.per_s(), 1),
                "setups_per_relay_cpu_s": rounded_or_null(self.per_cpu_s(), 1),
                "relay_core_use": rounded_or_null(
                    self.cpu_s().map(|cpu| cpu / self.measured.as_secs_f64()), 3),
                "load_core_use": rounded(self.load_core_use(), 3),
                "relay_rss_bytes": self.rss_bytes,
                "latency_us": self.latencies.json(),
                "cores": bench.cores.json(),
            }),
        );
        object
    }

    fn table(&self, args: &Connect) -> String {
        let rate = match args.rate {
            Rate::Max => "as fast as it goes".to_owned(),
            Rate::PerSecond(rate) => format!("{rate} a second"),
        };
        let nodes = if args.keep_nodes {
            "nodes that stay"
        } else {
            "fresh nodes"
        };
        let mut text = format!(
            "connect · {} set-ups · {nodes} · {rate} · {} live sessions · seed {}\n\n\
             set-ups/s                {:>10.0}\n",
            args.count,
            self.live,
            args.target.seed,
            self.per_s()
        );
        if let Some(per_cpu_s) = self.per_cpu_s() {
            text += &format!("per second of relay CPU  {per_cpu_s:>10.0}\n");
        }
        text += &format!("load's own core used     {:>10.2}\n", self.load_core_use());
        for (name, quantile) in QUANTILES {
            if let Some(us) = self.latencies.quantile_us(quantile) {
                text += &format!("latency {name} us          {us:>12}\n");
            }
        }
        let max_us = self.latencies.max_us().unwrap_or_default();
        text += &format!("latency max us          {max_us:>11}\n");
        for (fault, count) in &self.faults {
            text += &format!("failed: {fault:<16} {count:>10}\n");
        }
        text.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_as_many_as_asked_and_the_same_for_a_seed() {
        let total = |seed| -> Duration {
            let mut random = StdRng::seed_from_u64(seed);
            (0..10_000).map(|_| interval(&mut random, 1000)).sum()
        };
        assert_eq!(total(1), total(1));
        assert!((9.5..10.5).contains(&total(1).as_secs_f64()));
    }
}
