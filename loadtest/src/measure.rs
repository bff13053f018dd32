//! Runs become figures: the median of each over all runs of one subject. Pure.

use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use serde_json::{Value, json};

use crate::traffic::Outcome;

/// A loss beyond which CPU per frame says nothing: most of the work was for frames that were thrown away.
const MAX_LOSS_RATIO: f64 = 0.1;
/// Of the asked rate, what a valid run has offered.
const MIN_OFFERED_RATIO: f64 = 0.95;
/// Which quantiles of the latency are told.
const QUANTILES: [f64; 2] = [0.5, 0.99];

/// The longest that is told apart.
const MAX_LATENCY_US: u64 = 60_000_000;

/// How long things took, told apart within 0.1 %, up to a minute.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// Of nothing yet.
    ///
    /// # Errors
    /// When there is no memory for that.
    pub fn new() -> Result<Self, CreationError> {
        Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).map(Self)
    }

    /// One more.
    pub fn record(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(MAX_LATENCY_US);
        self.0.saturating_record(us.max(1));
    }

    /// Of how many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// A quantile, microseconds; none of nothing.
    pub fn quantile_us(&self, quantile: f64) -> Option<u64> {
        (self.count() > 0).then(|| self.0.value_at_quantile(quantile))
    }

    /// The longest, microseconds; none of nothing.
    pub fn max_us(&self) -> Option<u64> {
        (self.count() > 0).then(|| self.0.max())
    }

    /// For scripts.
    pub fn json(&self) -> Value {
        let of = |quantile| self.quantile_us(quantile);
        json!({"p50": of(0.5), "p90": of(0.9), "p99": of(0.99), "max": self.max_us()})
    }
}

/// What one subject did.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Its name.
    pub name: &'static str,
    /// More about it.
    pub detail: &'static str,
    /// A run each.
    pub runs: Vec<Outcome>,
}

impl Measured {
    /// Nothing yet.
    pub fn new(name: &'static str, detail: &'static str) -> Self {
        Self {
            name,
            detail,
            runs: Vec::new(),
        }
    }

    fn median(&self, of: impl Fn(&Outcome) -> Option<f64>) -> Option<f64> {
        median(self.runs.iter().filter_map(of))
    }

    /// CPU of each frame that arrived, run by run.
    pub fn each_cpu_ns_per_frame(&self) -> impl Iterator<Item = f64> {
        self.runs.iter().filter_map(cpu_ns_per_frame)
    }

    /// The median of that.
    pub fn cpu_ns_per_frame(&self) -> Option<f64> {
        self.median(cpu_ns_per_frame)
    }

    /// What a core that does nothing else would deliver in a second.
    pub fn frames_per_core_s(&self) -> Option<f64> {
        self.cpu_ns_per_frame().map(|cpu_ns| 1e9 / cpu_ns)
    }

    /// How many cores it used: near 1, one worker could do no more.
    pub fn core_use(&self) -> Option<f64> {
        self.median(|run| Some(share(run.usage?.ran_ns, run)))
    }

    /// For which share of the time others kept its process, then the load, from running.
    pub fn wait_ratios(&self) -> [Option<f64>; 2] {
        [
            self.median(|run| Some(share(run.usage?.waited_ns, run))),
            self.median(|run| Some(share(run.own_usage.waited_ns, run))),
        ]
    }

    /// Frames sent in a second.
    pub fn offered_fps(&self) -> f64 {
        self.median(|run| Some(float(run.counts.sent) / run.counted.as_secs_f64()))
            .unwrap_or_default()
    }

    /// Frames that arrived in a second.
    pub fn delivered_fps(&self) -> f64 {
        self.median(|run| Some(float(run.counts.arrived) / run.counted.as_secs_f64()))
            .unwrap_or_default()
    }

    /// Share of the frames that never arrived, of all runs together: a median would hide rare losses.
    pub fn loss_ratio(&self) -> f64 {
        let sent = self.sum(|run| run.counts.sent);
        if sent == 0 {
            return 0.0;
        }
        float(sent.saturating_sub(self.delivered())) / float(sent)
    }

    /// Frames that arrived, of all runs together.
    pub fn delivered(&self) -> u64 {
        self.sum(|run| run.counts.delivered)
    }

    /// Frames that arrived twice.
    pub fn duplicated(&self) -> u64 {
        self.sum(|run| run.counts.duplicated)
    }

    /// Frames that are nobody's, or another session's.
    pub fn foreign(&self) -> u64 {
        self.sum(|run| run.counts.foreign)
    }

    /// Memory at the end of the runs, at its highest.
    pub fn rss_bytes(&self) -> Option<u64> {
        self.runs.iter().filter_map(|run| run.rss_bytes).max()
    }

    /// p50 and p99, microseconds.
    pub fn latency_us(&self) -> [f64; 2] {
        QUANTILES.map(|quantile| {
            self.median(|run| {
                let latency = &run.counts.latency_ns;
                (!latency.is_empty()).then(|| float(latency.value_at_quantile(quantile)) / 1e3)
            })
            .unwrap_or_default()
        })
    }

    fn sum(&self, of: impl Fn(&Outcome) -> u64) -> u64 {
        self.runs.iter().map(of).sum()
    }

    /// Why these figures say nothing, if they do not. `asked_fps` is what should have been offered.
    pub fn fault(&self, asked_fps: Option<u64>) -> Option<String> {
        let name = self.name;
        let silent = self.runs.iter().map(|run| run.counts.silent_lanes).max();
        if self.foreign() > 0 {
            let foreign = self.foreign();
            Some(format!(
                "{name} delivered {foreign} frames that were never sent there"
            ))
        } else if self.duplicated() > 0 {
            let duplicated = self.duplicated();
            Some(format!("{name} delivered {duplicated} frames twice"))
        } else if let Some(silent) = silent.filter(|silent| *silent > 0) {
            Some(format!(
                "{silent} sessions of {name} carried nothing; does it limit how much they send?"
            ))
        } else if self.loss_ratio() > MAX_LOSS_RATIO {
            let percent = self.loss_ratio() * 100.0;
            Some(format!(
                "{name} lost {percent:.1} % of the frames; lower --rate"
            ))
        } else {
            let offered = self.offered_fps();
            asked_fps
                .filter(|asked| offered < float(*asked) * MIN_OFFERED_RATIO)
                .map(|asked| {
                    format!(
                        "this machine offers {name} only {offered:.0} of {asked} frames/s; lower --rate, or say --rate max"
                    )
                })
        }
    }
}

fn cpu_ns_per_frame(run: &Outcome) -> Option<f64> {
    let arrived = run.counts.arrived;
    run.usage
        .filter(|_| arrived > 0)
        .map(|usage| float(usage.ran_ns) / float(arrived))
}

fn share(ns: u64, run: &Outcome) -> f64 {
    float(ns) / float(u64::try_from(run.counted.as_nanos()).unwrap_or(u64::MAX))
}

/// The middle one, or the mean of the two in the middle.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// A count as a number to divide.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hdrhistogram::Histogram;

    use super::*;
    use crate::{process::Usage, traffic::Counts};

    fn run(sent: u64, delivered: u64, cpu_ns: u64) -> Outcome {
        let mut latency_ns = Histogram::new(3).expect("valid");
        latency_ns.record(50_000).expect("within bounds");
        Outcome {
            counts: Counts {
                sent,
                delivered,
                arrived: delivered,
                duplicated: 0,
                foreign: 0,
                silent_lanes: 0,
                latency_ns,
                by_lane: Vec::new(),
            },
            counted: Duration::from_secs(2),
            usage: Some(Usage {
                ran_ns: cpu_ns,
                waited_ns: 500_000_000,
            }),
            own_usage: Usage::default(),
            rss_bytes: Some(1 << 20),
        }
    }

    fn measured(runs: Vec<Outcome>) -> Measured {
        Measured {
            runs,
            ..Measured::new("relay", "")
        }
    }

    #[test]
    fn medians_of_the_runs_and_losses_of_all() {
        let of_three = measured(vec![
            run(1000, 1000, 5_000_000),
            run(1000, 1000, 4_000_000),
            run(2000, 1600, 9_600_000),
        ]);
        assert_eq!(of_three.cpu_ns_per_frame(), Some(5000.0));
        assert_eq!(of_three.frames_per_core_s(), Some(200_000.0));
        assert_eq!(of_three.core_use(), Some(0.0025));
        assert_eq!(of_three.wait_ratios(), [Some(0.25), Some(0.0)]);
        assert_eq!(of_three.offered_fps(), 500.0);
        assert_eq!(of_three.loss_ratio(), 0.1);
        assert_eq!(of_three.fault(None), None);
        let [p50, _] = of_three.latency_us();
        assert!((49.0..51.0).contains(&p50), "{p50}");
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
    }

    #[test]
    fn what_says_nothing_is_named() {
        let fault = |run: Outcome, asked| measured(vec![run]).fault(asked).unwrap_or_default();
        assert!(fault(run(1000, 800, 1), None).contains("lost 20.0 %"));
        assert!(fault(run(1000, 1000, 1), Some(1000)).contains("only 500 of 1000"));
        let mut foreign = run(10, 10, 1);
        foreign.counts.foreign = 1;
        assert!(fault(foreign, None).contains("never sent there"));
        let mut silent = run(10, 10, 1);
        silent.counts.silent_lanes = 2;
        assert!(fault(silent, None).contains("2 sessions"));
        assert_eq!(fault(run(1000, 1000, 1), Some(500)), "");
    }
}
