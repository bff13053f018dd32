//! The verb `fairness`: what one session that sends far more than its share takes from the others.
//!
//! In turns: every session sends its share; then one of them sends many times as much, and the others go on. They share the
//! relay's socket and its thread, so what one of them is kept from is lost or late. The relay limits each session as an
//! operator's does, unless told otherwise: with its ordinary limit a greedy session of fifty times 200 frames/s of 1200 bytes
//! is within what it may send, and all of it is forwarded; with a lower `--session-rate` what is too much is dropped.

use std::time::Duration;

use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Value, json};

use crate::{
    cli::Fairness,
    measure::{Measured, float, median},
    relay::{Aim, Capacity, Relay, SessionRate},
    report::{self, figures, rounded, rounded_or_null},
    scenario::{Bench, WARM_UP},
    subject::Subject,
    traffic::{self, LaneCounts, Load, Mode, Pace},
};

/// Who is greedy. All are alike.
const GREEDY: usize = 0;

/// Every session's frames, over all rounds of one kind.
#[derive(Debug)]
struct Rounds {
    measured: Measured,
    lanes: Vec<LaneCounts>,
}

/// Measures and prints. Says why the measurement is not valid.
///
/// # Errors
/// When there is no measurement.
pub fn run(args: &Fairness, aim: Aim) -> anyhow::Result<Option<String>> {
    let bench = Bench::new(&args.target, 1)?;
    let capacity = Capacity {
        nodes: 2 * args.sessions,
        sessions: args.sessions,
        workers: None,
        session_rate: args
            .session_rate
            .map_or(SessionRate::Ordinary, SessionRate::BytesPerSecond),
    };
    let relay = Relay::new(aim, capacity, &bench.cores)?;
    let mut subject = Subject::relay(
        relay,
        args.sessions,
        args.sessions,
        &bench.runtime,
        &bench.progress,
    )?;
    let found = in_turns(args, &mut subject, &bench);
    subject.end(&bench.runtime);
    let [fair, greedy] = found?;
    let found = Found { fair, greedy };
    bench.print(|| found.json(args, &bench), || found.table(args))?;
    Ok(found.fault(args))
}

/// The order in which sessions send, over and over again: each once, the greedy one `greed` times, mixed.
fn order(sessions: usize, greed: usize, seed: u64) -> Vec<usize> {
    let greedy = std::iter::repeat_n(GREEDY, greed);
    let mut order: Vec<_> = (0..sessions)
        .filter(|&lane| lane != GREEDY)
        .chain(greedy)
        .collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed));
    order
}

fn in_turns(args: &Fairness, subject: &mut Subject, bench: &Bench) -> anyhow::Result<[Rounds; 2]> {
    let seed = args.target.seed;
    let orders = [1, args.greed].map(|greed| order(args.sessions, greed, seed));
    let mut rounds = [Rounds::new("fair", args)?, Rounds::new("greedy", args)?];
    for (number, turn) in (1..).zip(0..args.rounds) {
        for (rounds, order) in rounds.iter_mut().zip(&orders) {
            let name = rounds.measured.name;
            bench
                .progress
                .show(&format!("round {number}/{} · {name}", args.rounds));
            subject.breathe(&bench.runtime)?;
            let load = Load {
                lanes: &subject.lanes,
                order,
                mode: Mode::Single,
                pace: Pace::Rate(args.share * order.len() as u64),
                datagram_bytes: usize::from(args.size),
                warm_up: WARM_UP,
                duration: Duration::from_secs(args.seconds),
                meter: subject.meter,
                run: turn,
                by_lane: true,
            };
            rounds.add(traffic::run(&load, &mut ())?)?;
        }
    }
    Ok(rounds)
}

impl Rounds {
    fn new(name: &'static str, args: &Fairness) -> anyhow::Result<Self> {
        Ok(Self {
            measured: Measured::new(name, ""),
            lanes: (0..args.sessions)
                .map(|_| LaneCounts::new())
                .collect::<Result<_, _>>()?,
        })
    }

    fn add(&mut self, outcome: traffic::Outcome) -> anyhow::Result<()> {
        for (sum, lane) in self.lanes.iter_mut().zip(&outcome.counts.by_lane) {
            sum.sent += lane.sent;
            sum.delivered += lane.delivered;
            sum.latency_ns.add(&lane.latency_ns)?;
        }
        self.measured.runs.push(outcome);
        Ok(())
    }

    fn seconds(&self) -> f64 {
        self.measured
            .runs
            .iter()
            .map(|run| run.counted.as_secs_f64())
            .sum()
    }

    /// Of each but the greedy one: frames delivered, of those that were its share.
    fn shares(&self, args: &Fairness) -> impl Iterator<Item = f64> {
        let due = float(args.share) * self.seconds();
        let others = self.lanes.iter().skip(GREEDY + 1);
        others.map(move |lane| (float(lane.delivered) / due).min(1.0))
    }

    /// Of each but the greedy one, microseconds.
    fn p99_us(&self) -> impl Iterator<Item = f64> {
        let others = self.lanes.iter().skip(GREEDY + 1);
        others.map(|lane| float(lane.latency_ns.value_at_quantile(0.99)) / 1e3)
    }
}

/// What was found.
#[derive(Debug)]
struct Found {
    fair: Rounds,
    greedy: Rounds,
}

impl Found {
    fn p99_ratios(&self) -> impl Iterator<Item = f64> {
        let pairs = self.greedy.p99_us().zip(self.fair.p99_us());
        pairs
            .filter(|(_, fair)| *fair > 0.0)
            .map(|(greedy, fair)| greedy / fair)
    }

    fn worst_share(&self, args: &Fairness) -> f64 {
        self.greedy.shares(args).fold(1.0, f64::min)
    }

    fn greedy_fps(&self) -> [f64; 2] {
        let lane = &self.greedy.lanes[GREEDY];
        [lane.sent, lane.delivered].map(|frames| float(frames) / self.greedy.seconds())
    }

    fn fault(&self, args: &Fairness) -> Option<String> {
        let fair = args.share * args.sessions as u64;
        let greedy = args.share * (args.sessions - 1 + args.greed) as u64;
        let fault = self.fair.measured.fault(Some(fair));
        fault.or_else(|| {
            let offered = self.greedy.measured.offered_fps();
            (offered < 0.95 * float(greedy)).then(|| {
                format!("this machine offers only {offered:.0} of {greedy} frames/s; lower --share")
            })
        })
    }

    fn json(&self, args: &Fairness, bench: &Bench) -> Value {
        let mut object = report::base("fairness", args.target.seed, bench.began.elapsed());
        report::set(&mut object, figures(&self.greedy.measured));
        let [offered, delivered] = self.greedy_fps();
        let lanes = |rounds: &Rounds| -> Vec<Value> {
            let seconds = rounds.seconds();
            let lane = |lane: &LaneCounts| {
                json!({
                    "offered_fps": rounded(float(lane.sent) / seconds, 1),
                    "delivered_fps": rounded(float(lane.delivered) / seconds, 1),
                    "p99_us": rounded(float(lane.latency_ns.value_at_quantile(0.99)) / 1e3, 1),
                })
            };
            rounds.lanes.iter().map(lane).collect()
        };
        report::set(
            &mut object,
            json!({
                "sessions": args.sessions,
                "share_fps": args.share,
                "greed": args.greed,
                "size_bytes": args.size,
                "session_rate_bytes": args.session_rate,
                "rounds": args.rounds,
                "run_s": args.seconds,
                "others_delivered_share": {
                    "worst": rounded(self.worst_share(args), 5),
                    "median": rounded_or_null(median(self.greedy.shares(args)), 5),
                },
                "others_p99_us": {
                    "fair": rounded_or_null(median(self.fair.p99_us()), 1),
                    "greedy": rounded_or_null(median(self.greedy.p99_us()), 1),
                },
                "ratio_p99": {
                    "worst": rounded(self.p99_ratios().fold(0.0, f64::max), 3),
                    "median": rounded_or_null(median(self.p99_ratios()), 3),
                },
                "greedy": {"offered_fps": rounded(offered, 1), "delivered_fps": rounded(delivered, 1)},
                "each": {"fair": lanes(&self.fair), "greedy": lanes(&self.greedy)},
                "cores": bench.cores.json(),
            }),
        );
        object
    }

    fn table(&self, args: &Fairness) -> String {
        let [offered, delivered] = self.greedy_fps();
        let limit = args.session_rate.map_or_else(
            || "the relay's ordinary limit".to_owned(),
            |rate| format!("{rate} B/s each"),
        );
        let of = |values: Option<f64>| values.unwrap_or_default();
        format!(
            "fairness · {} sessions · {} frames/s each · {} B · {limit} · {} × {} s of each · seed {}\n\n\
             one of them sends        {:>10} times its share: {offered:.0} frames/s, {delivered:.0} delivered\n\
             the others get           {:>9.2} % of theirs (worst {:.2} %)\n\
             their p99                {:>8.0} us, {:.0} us before: {:.2} times (worst {:.2})",
            args.sessions,
            args.share,
            args.size,
            args.rounds,
            args.seconds,
            args.target.seed,
            args.greed,
            of(median(self.greedy.shares(args))) * 100.0,
            self.worst_share(args) * 100.0,
            of(median(self.greedy.p99_us())),
            of(median(self.fair.p99_us())),
            of(median(self.p99_ratios())),
            self.p99_ratios().fold(0.0, f64::max),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greedy_one_sends_as_often_as_it_is_greedy() {
        let order = order(4, 50, 1);
        let count = |lane| order.iter().filter(|&&other| other == lane).count();
        assert_eq!([0, 1, 2, 3].map(count), [50, 1, 1, 1]);
        assert_ne!(order[..50], [GREEDY; 50], "mixed");
    }
}
