//! The verb `mesh`: relays of one fleet, each a process; nodes at any two of them, and codes that outlive others.
//!
//! ```text
//!  look-ups  codes at all relays, looked up at others: in five relays, then in all
//!  pairs     host at relay A ── code ──▶ joiner at relay B, drawn by lot ─▶ frames both ways, counted
//!  bridge    the same frames through one relay, and through two, in turns: CPU, latency
//!  kills     host shows a code ─▶ any two relays killed (-9) ─▶ joiner; then they are started again
//! ```
//!
//! Or, alone: `--add`, a relay that is added while sessions begin; `--flood`, one that wants to fill the others; `--simulate`, fleets
//! that no machine has room for.

// A relay that comes while sessions begin.
mod added;
// A relay that wants to fill the others.
mod flooded;
// Codes whose relays die.
mod kills;
// How long look-ups take.
mod lookups;
// Kademlia's work, without processes.
mod simulate;

use std::{collections::BTreeMap, time::Duration};

use anyhow::ensure;
use futures_util::stream::{self, StreamExt as _};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use self::{kills::Kills, lookups::Lookups};
use crate::{
    cli::Mesh,
    fleet::Fleet,
    interrupt,
    lane::Lane,
    measure::{Latencies, Measured},
    relay::{self, Capacity, SessionRate},
    report::{self, failures, reasons, rounded, rounded_or_null},
    scenario::{Bench, WARM_UP},
    subject::{Bridge, Home, unless_interrupted},
    traffic::{self, Load, Mode, Pace},
};

/// Until all relays know each other: seeds are tried every four seconds, a relay that is gone is missed after nine, and one that
/// goes as often as here is avoided for fifteen.
const MEET: Duration = Duration::from_secs(60);
/// Sessions being set up at once, each with two real nodes.
const AT_ONCE: usize = 16;
/// Of each session, both ways: enough to see one that goes nowhere.
const FRAMES_PER_S: u64 = 20;
const FRAMES_FOR: Duration = Duration::from_secs(3);
/// What the bridge is measured with, and how often.
const BRIDGE_FPS: u64 = 10_000;
const BRIDGE_FOR: Duration = Duration::from_secs(2);
const BRIDGE_RUNS: u32 = 3;
const DATAGRAM_BYTES: usize = 1200;
/// One frame of so many may be lost: a machine that is busy with all the nodes drops some.
const MAX_LOST: u64 = 100;
/// Relays, at first; when all are there, look-ups take how much longer?
const FEW: usize = 5;
/// As many processes as a machine has room for.
const MAX_RELAYS: usize = 25;

/// What was found.
#[derive(Debug)]
struct Found {
    met: Duration,
    lookups: Vec<Lookups>,
    pairs: Tries,
    kills: Kills,
    sent: u64,
    lost: u64,
    duplicated: u64,
    silent_lanes: usize,
    through_one: Cost,
    through_two: Cost,
    rss_bytes: Vec<u64>,
    /// Questions to the relays closest to a key, and how long they took, by kind: mean milliseconds.
    queries: BTreeMap<String, (f64, f64)>,
}

/// Joins, and how long they took.
#[derive(Debug)]
struct Tries {
    took: Latencies,
    faults: BTreeMap<String, u64>,
}

/// Of a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    cpu_ns: Option<f64>,
    latency_us: [f64; 2],
}

/// Measures and prints. Says why the measurement is not valid.
///
/// # Errors
/// When there is no measurement.
pub fn run(args: &Mesh) -> anyhow::Result<Option<String>> {
    if args.simulate {
        return simulate::run(args);
    }
    ensure!(
        args.relays <= MAX_RELAYS,
        "at most {MAX_RELAYS} --relays, unless you --simulate them"
    );
    if args.add {
        return added::run(args);
    }
    if let Some(records) = args.flood {
        return flooded::run(args, records);
    }
    let bench = Bench::alone(false, args.json, 1)?;
    let capacity = Capacity {
        nodes: 2 * (args.sessions + args.kills) + 4,
        sessions: args.sessions + args.kills + 1,
        workers: Some(1),
        session_rate: SessionRate::Unlimited,
    };
    let mut fleet = Fleet::new(true, None, capacity, &bench.cores)?;
    let found = measure(args, &mut fleet, &bench)?;
    bench.print(|| found.json(args, &bench), || found.table(args))?;
    Ok(found.fault())
}

fn measure(args: &Mesh, fleet: &mut Fleet, bench: &Bench) -> anyhow::Result<Found> {
    let mut random = StdRng::seed_from_u64(args.seed);
    let (mut met, mut lookups) = (Duration::ZERO, Vec::new());
    let mut sizes = vec![FEW.min(args.relays), args.relays];
    sizes.dedup();
    for size in sizes {
        bench.progress.show("the relays meet");
        fleet.grow(size - fleet.len())?;
        met = unless_interrupted(&bench.runtime, fleet.whole(MEET))?;
        bench.progress.show("look-ups");
        let measuring = Lookups::measure(fleet, args.lookups, &mut random);
        lookups.push(unless_interrupted(&bench.runtime, measuring)?);
    }
    let homes = homes(fleet)?;

    let (mut pairs, bridges) = (Tries::new()?, pairs(args, &homes, &mut random));
    let bridges = unless_interrupted(&bench.runtime, bridges)?;
    let bridges: Vec<_> = bridges
        .into_iter()
        .filter_map(|one| pairs.note(one))
        .collect();
    let lanes: Vec<_> = bridges.iter().flat_map(|bridge| &bridge.lanes).collect();
    bench.progress.show("frames");
    let counts = if lanes.is_empty() {
        None
    } else {
        Some(frames(&lanes)?.counts)
    };
    drop(bridges);

    let one = bridge(&homes[0], &homes[0], bench)?;
    let two = bridge(&homes[0], &homes[1], bench)?;
    let (through_one, through_two) = costs(&one, &two, fleet, bench)?;
    drop((one, two));

    let mut kills = Kills::new()?;
    for number in 1..=args.kills {
        interrupt::check()?;
        bench
            .progress
            .show(&format!("kills {number}/{}", args.kills));
        unless_interrupted(&bench.runtime, kills.try_once(fleet, &mut random))?;
    }
    let rss = (0..args.relays).map(|number| fleet.meter(number).rss_bytes());
    let (sent, delivered, duplicated, silent_lanes) = counts.map_or((0, 0, 0, 0), |counts| {
        (
            counts.sent,
            counts.delivered,
            counts.duplicated,
            counts.silent_lanes,
        )
    });
    Ok(Found {
        met,
        lookups,
        pairs,
        kills,
        sent,
        lost: sent - delivered,
        duplicated,
        silent_lanes,
        through_one,
        through_two,
        rss_bytes: rss.collect::<Result<_, _>>()?,
        queries: queries(fleet, args.relays)?,
    })
}

fn homes(fleet: &Fleet) -> anyhow::Result<Vec<Home>> {
    let all = fleet.addresses().into_iter().map(|address| {
        let at = relay::resolve(&address)?;
        Ok(Home { address, at })
    });
    all.collect()
}

/// Two that differ.
fn two_of(relays: usize, random: &mut StdRng) -> [usize; 2] {
    let one = random.random_range(0..relays);
    [one, (one + random.random_range(1..relays)) % relays]
}

async fn pairs(
    args: &Mesh,
    homes: &[Home],
    random: &mut StdRng,
) -> anyhow::Result<Vec<anyhow::Result<Bridge>>> {
    let ways: Vec<_> = (0..args.sessions)
        .map(|_| two_of(args.relays, random))
        .collect();
    let joining = ways.into_iter().map(|[host, joiner]| {
        let joiner = homes[joiner].clone();
        Bridge::new(&homes[host], async move || Ok(joiner))
    });
    Ok(stream::iter(joining)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await)
}

fn frames(lanes: &[&Lane]) -> anyhow::Result<traffic::Outcome> {
    let lanes: Vec<_> = lanes.iter().map(|lane| lane.beside(lane.wire)).collect();
    let order: Vec<_> = (0..lanes.len()).collect();
    let load = Load {
        lanes: &lanes,
        order: &order,
        mode: Mode::Single,
        pace: Pace::Rate(FRAMES_PER_S * lanes.len() as u64),
        datagram_bytes: DATAGRAM_BYTES,
        warm_up: WARM_UP,
        duration: FRAMES_FOR,
        meter: None,
        run: 0,
        by_lane: false,
    };
    traffic::run(&load, &mut ())
}

fn bridge(host: &Home, joiner: &Home, bench: &Bench) -> anyhow::Result<Bridge> {
    let joiner = joiner.clone();
    let bridge = Bridge::new(host, async move || Ok(joiner));
    unless_interrupted(&bench.runtime, bridge)
}

/// Through the first relay, and through the first and the second, in turns.
fn costs(one: &Bridge, two: &Bridge, fleet: &Fleet, bench: &Bench) -> anyhow::Result<(Cost, Cost)> {
    let mut measured = [
        (one, 0, Measured::new("one relay", "")),
        (two, 0, Measured::new("first of two", "")),
        (two, 1, Measured::new("second of two", "")),
    ];
    for run in 0..BRIDGE_RUNS {
        for (bridge, relay, measured) in &mut measured {
            bench
                .progress
                .show(&format!("bridge, run {}/{BRIDGE_RUNS}", run + 1));
            let load = Load {
                lanes: std::slice::from_ref(&bridge.lanes[0]),
                order: &[0],
                mode: Mode::Single,
                pace: Pace::Rate(BRIDGE_FPS),
                datagram_bytes: DATAGRAM_BYTES,
                warm_up: WARM_UP,
                duration: BRIDGE_FOR,
                meter: Some(fleet.meter(*relay)),
                run,
                by_lane: false,
            };
            measured.runs.push(traffic::run(&load, &mut ())?);
            // Nodes say that they are there.
            let breath = async { tokio::time::sleep(WARM_UP).await };
            bench.runtime.block_on(breath);
        }
    }
    let [(.., one), (.., first), (.., second)] = &measured;
    let both = first.cpu_ns_per_frame().zip(second.cpu_ns_per_frame());
    Ok((
        Cost {
            cpu_ns: one.cpu_ns_per_frame(),
            latency_us: one.latency_us(),
        },
        Cost {
            cpu_ns: both.map(|(first, second)| first + second),
            latency_us: first.latency_us(),
        },
    ))
}

/// Sums over all relays.
fn queries(fleet: &Fleet, relays: usize) -> anyhow::Result<BTreeMap<String, (f64, f64)>> {
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for number in 0..relays {
        for (name, value) in fleet.metrics(number)? {
            let of = |prefix: &str| {
                let kind = name.strip_prefix(prefix)?.strip_prefix("{kind=\"")?;
                Some(kind.strip_suffix("\"}")?.to_owned())
            };
            if let Some(kind) = of("dht_query_seconds_count") {
                sums.entry(kind).or_default().0 += value;
            } else if let Some(kind) = of("dht_query_seconds_sum") {
                sums.entry(kind).or_default().1 += value;
            }
        }
    }
    let mean = |(count, seconds): (f64, f64)| (count, 1e3 * seconds / count.max(1.0));
    Ok(sums
        .into_iter()
        .map(|(kind, sum)| (kind, mean(sum)))
        .collect())
}

impl Tries {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            took: Latencies::new()?,
            faults: BTreeMap::new(),
        })
    }

    fn note(&mut self, joined: anyhow::Result<Bridge>) -> Option<Bridge> {
        match joined {
            Ok(bridge) => {
                self.took.record(bridge.took);
                Some(bridge)
            }
            Err(error) => {
                *self.faults.entry(format!("{error:#}")).or_default() += 1;
                None
            }
        }
    }

    fn ok(&self) -> u64 {
        self.took.count()
    }

    fn failed(&self) -> u64 {
        self.faults.values().sum()
    }

    fn json(&self) -> Value {
        json!({
            "joins_ok": self.ok(),
            "joins_failed": self.failed(),
            "failures": failures(&self.faults),
            "join_us": self.took.json(),
        })
    }

    fn line(&self, what: &str) -> String {
        let us = |quantile| self.took.quantile_us(quantile).unwrap_or_default();
        let mut line = format!(
            "{what:<28} {:>5} of {:<5} join p50 {} us, p99 {} us, max {} us\n",
            self.ok(),
            self.ok() + self.failed(),
            us(0.5),
            us(0.99),
            self.took.max_us().unwrap_or_default()
        );
        if !self.faults.is_empty() {
            line += &format!("  failed: {}\n", reasons(&self.faults));
        }
        line
    }
}

impl Found {
    fn fault(&self) -> Option<String> {
        if self.silent_lanes > 0 || self.duplicated > 0 {
            return Some(format!(
                "{} ways carry nothing, {} frames came twice",
                self.silent_lanes, self.duplicated
            ));
        }
        (self.lost * MAX_LOST > self.sent)
            .then(|| format!("{} of {} frames are lost", self.lost, self.sent))
    }

    fn ratios(&self) -> [Option<f64>; 2] {
        let cpu = self.through_two.cpu_ns.zip(self.through_one.cpu_ns);
        let [two, one] = [self.through_two, self.through_one].map(|cost| cost.latency_us[0]);
        [
            cpu.map(|(two, one)| two / one),
            (one > 0.0).then(|| two / one),
        ]
    }

    fn json(&self, args: &Mesh, bench: &Bench) -> Value {
        let mut object = report::fleet_base("mesh", args.seed, bench.began.elapsed());
        let cost = |cost: Cost| {
            json!({
                "cpu_ns_per_frame": rounded_or_null(cost.cpu_ns, 1),
                "latency_us": {"p50": rounded(cost.latency_us[0], 1), "p99": rounded(cost.latency_us[1], 1)},
            })
        };
        let [cpu_ratio, latency_ratio] = self.ratios();
        let queries = self.queries.iter().map(|(kind, (count, mean_ms))| {
            let query = json!({"count": rounded(*count, 0), "mean_ms": rounded(*mean_ms, 3)});
            (kind.clone(), query)
        });
        report::set(
            &mut object,
            json!({
                "relays": args.relays,
                "sessions": args.sessions,
                "messages_sent": self.sent,
                "messages_lost": self.lost,
                "messages_duplicated": self.duplicated,
                "silent_lanes": self.silent_lanes,
                "joins_ok": self.pairs.ok() + self.kills.ok(),
                "joins_failed": self.pairs.failed() + self.kills.failed(),
                "lookups": self.lookups.iter().map(Lookups::json).collect::<Vec<_>>(),
                "pairs": self.pairs.json(),
                "kills": self.kills.json(),
                "met_s": rounded(self.met.as_secs_f64(), 3),
                "healed_us": self.kills.healed(),
                "through_one": cost(self.through_one),
                "through_two": cost(self.through_two),
                "cpu_ratio": rounded_or_null(cpu_ratio, 3),
                "latency_ratio": rounded_or_null(latency_ratio, 3),
                "queries": Value::Object(queries.collect()),
                "relay_rss_bytes": self.rss_bytes.iter().max(),
            }),
        );
        object
    }

    fn table(&self, args: &Mesh) -> String {
        let mut text = format!(
            "mesh · {} relays · seed {} · all in touch after {:.2} s\n\n",
            args.relays,
            args.seed,
            self.met.as_secs_f64()
        );
        for lookups in &self.lookups {
            text += &lookups.line();
        }
        text += &self.pairs.line("nodes at any two relays");
        text += &self.kills.lines();
        text += &format!(
            "frames                       {} sent, {} lost, {} doubled, {} ways silent\n",
            self.sent, self.lost, self.duplicated, self.silent_lanes
        );
        for (name, cost) in [
            ("one relay", self.through_one),
            ("two relays", self.through_two),
        ] {
            text += &format!(
                "through {name:<20} {:>6.0} ns of CPU a frame, latency p50 {:.0} us, p99 {:.0} us\n",
                cost.cpu_ns.unwrap_or_default(),
                cost.latency_us[0],
                cost.latency_us[1]
            );
        }
        if let [Some(cpu), Some(latency)] = self.ratios() {
            text +=
                &format!("a bridge against one relay   CPU × {cpu:.2}, latency × {latency:.2}\n");
        }
        for (kind, (count, mean_ms)) in &self.queries {
            text += &format!("{kind:<28} {count:>6.0} times, {mean_ms:.2} ms on average\n");
        }
        if let Some(most) = self.rss_bytes.iter().max() {
            text += &format!("memory of a relay, at most   {} MiB\n", most >> 20);
        }
        text.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_relays_are_never_one_and_the_same_for_a_seed() {
        let draw = || -> Vec<_> {
            let mut random = StdRng::seed_from_u64(7);
            (0..200).map(|_| two_of(3, &mut random)).collect()
        };
        assert_eq!(draw(), draw());
        assert!(draw().iter().all(|[one, other]| one != other && *other < 3));
    }
}
