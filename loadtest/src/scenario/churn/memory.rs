//! What relays have resident, second by second, and whether it grows. Pure but for the reading.
//!
//! | of each relay | what moves it |
//! |---|---|
//! | resident | all of these |
//! | in huge pages | a buffer that is used further than ever before: 2 MiB at once, and no more when all of it has been |
//! | in pages of 4 KiB | what is in use, and what the allocator keeps of what was |
//! | heap in use | what the program remembers: what grows here for ever is lost |

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    fleet::{self, Fleet},
    measure::float,
    report::{mib, rounded},
};

/// How far apart samples are that are printed: some for each run.
const PRINTED: usize = 12;
/// Of the samples since a relay's start, the first that are left out: what people bring with them is there by then.
const WARM_UP: usize = 5;
/// A line is drawn through so many averages of neighbouring samples: single ones follow each other too closely to say how sure
/// it is (method of batch means: Law and Kelton, Simulation Modeling and Analysis, §9.5.3).
const BATCHES: usize = 12;
/// Student's t for 95 %, two-sided, with two degrees of freedom fewer than averages.
const T: f64 = 2.228;

/// One look.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    rss_bytes: u64,
    /// Of that, in huge pages.
    huge_bytes: u64,
    /// As the relay says.
    heap_bytes: u64,
    records: u64,
}

/// Of all relays, since each was started last.
#[derive(Debug)]
pub(super) struct Memory {
    began: Instant,
    by_relay: Vec<Vec<Sample>>,
    /// From which sample on it is measured: the process that runs now, in use for a while.
    since: Vec<usize>,
}

/// A line through the samples.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Slope {
    bytes_per_hour: f64,
    /// Within this it may be none: half the width of its 95 % confidence interval.
    noise: f64,
}

impl Memory {
    pub(super) fn new(relays: usize) -> Self {
        Self {
            began: Instant::now(),
            by_relay: vec![Vec::new(); relays],
            since: vec![0; relays],
        }
    }

    /// Looks at all; what is not there just now is left out.
    pub(super) fn sample(&mut self, fleet: &Fleet) {
        for (number, samples) in self.by_relay.iter_mut().enumerate() {
            let meter = fleet.meter(number);
            let (Ok(rss_bytes), Ok(huge_bytes), Ok(metrics)) =
                (meter.rss_bytes(), meter.huge_bytes(), fleet.metrics(number))
            else {
                continue;
            };
            let count = |name: &str| {
                let value = metrics.get(name).copied().unwrap_or_default();
                // A count, which a float holds exactly.
                format!("{value:.0}").parse().unwrap_or_default()
            };
            samples.push(Sample {
                at: self.began.elapsed(),
                rss_bytes,
                huge_bytes,
                heap_bytes: count("heap_bytes"),
                records: count("dht_records"),
            });
        }
    }

    /// What comes from now on is measured.
    pub(super) fn warm(&mut self) {
        for number in 0..self.since.len() {
            self.restart(number);
        }
    }

    /// Another process is that relay.
    pub(super) fn restart(&mut self, number: usize) {
        self.since[number] = self.by_relay[number].len();
    }

    /// The most of any.
    pub(super) fn most(&self) -> Option<u64> {
        let all = self.by_relay.iter().flatten();
        all.map(|sample| sample.rss_bytes).max()
    }

    fn slope(&self, number: usize, of: impl Fn(&Sample) -> u64) -> Option<Slope> {
        let samples = &self.by_relay[number][self.since[number]..];
        slope(samples.get(WARM_UP..)?, of)
    }

    /// What the relay has grown by, for each record that it keeps more than before. A record's key is kept for up to 22 minutes after
    /// its code: until then, the memory of a relay with steady use grows by as much as that.
    fn growth_per_record(&self, number: usize) -> Option<f64> {
        let samples = &self.by_relay[number][self.since[number]..];
        let (first, last) = (samples.get(WARM_UP)?, samples.last()?);
        let records = last.records.checked_sub(first.records)?;
        let grown = float(last.rss_bytes) - float(first.rss_bytes);
        (records > 0).then(|| grown / float(records))
    }

    pub(super) fn json(&self) -> Value {
        let relays = self.by_relay.iter().enumerate().map(|(number, samples)| {
            let of = |value: Option<f64>| value.map(|value| rounded(value, 0));
            let line = |slope: Option<Slope>| {
                json!({
                    "bytes_per_hour": of(slope.map(|slope| slope.bytes_per_hour)),
                    "noise_bytes_per_hour": of(slope.map(|slope| slope.noise)),
                })
            };
            let slope = self.slope(number, Sample::resident);
            let printed = printed(samples).map(|sample| {
                json!([
                    rounded(sample.at.as_secs_f64(), 1),
                    sample.rss_bytes,
                    sample.records,
                    sample.huge_bytes,
                    sample.heap_bytes
                ])
            });
            json!({
                "relay": fleet::name(number),
                "slope_bytes_per_hour": of(slope.map(|slope| slope.bytes_per_hour)),
                "slope_noise_bytes_per_hour": of(slope.map(|slope| slope.noise)),
                "small_pages_slope": line(self.slope(number, Sample::small)),
                "heap_slope": line(self.slope(number, Sample::heap)),
                "growth_bytes_per_record": of(self.growth_per_record(number)),
                "s_rss_bytes_records_huge_heap": printed.collect::<Vec<_>>(),
            })
        });
        Value::Array(relays.collect())
    }

    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        for (number, samples) in self.by_relay.iter().enumerate() {
            let rss: Vec<_> = printed(samples).map(|one| mib(one.rss_bytes)).collect();
            let records = samples.last().map_or(0, |sample| sample.records);
            text += &format!(
                "{:<9} MiB {}   records {records}   ",
                fleet::name(number),
                rss.join(" ")
            );
            let slopes = [
                ("", self.slope(number, Sample::resident)),
                ("without huge pages ", self.slope(number, Sample::small)),
                ("heap in use ", self.slope(number, Sample::heap)),
            ];
            let slopes: Vec<_> = slopes
                .iter()
                .filter_map(|(what, slope)| Some(format!("{what}{}", slope.as_ref()?.text())))
                .collect();
            text += &if slopes.is_empty() {
                "too short for a slope".to_owned()
            } else {
                slopes.join(", ")
            };
            if let Some(bytes) = self.growth_per_record(number) {
                text += &format!(", {bytes:.0} B for each record more");
            }
            text += "\n";
        }
        text.trim_end().to_owned()
    }
}

impl Sample {
    fn resident(&self) -> u64 {
        self.rss_bytes
    }

    /// In pages of 4 KiB.
    fn small(&self) -> u64 {
        self.rss_bytes.saturating_sub(self.huge_bytes)
    }

    fn heap(&self) -> u64 {
        self.heap_bytes
    }
}

impl Slope {
    fn text(&self) -> String {
        let [slope, noise] =
            [self.bytes_per_hour, self.noise].map(|bytes| bytes / f64::from(1 << 20));
        format!("{slope:+.2} MiB/h, give or take {noise:.2}")
    }
}

/// Some of them, evenly, the last among them.
fn printed(samples: &[Sample]) -> impl Iterator<Item = &Sample> {
    let every = samples.len().div_ceil(PRINTED).max(1);
    let skipped = samples.len().saturating_sub(1) % every;
    samples.iter().skip(skipped).step_by(every)
}

/// The line with the least squares, through averages.
fn slope(samples: &[Sample], of: impl Fn(&Sample) -> u64) -> Option<Slope> {
    let size = samples.len() / BATCHES;
    if size == 0 {
        return None;
    }
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let (count, sum) =
            values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
        sum / count
    };
    let averages: Vec<_> = samples
        .rchunks_exact(size)
        .take(BATCHES)
        .map(|batch| {
            let hours = batch.iter().map(|sample| sample.at.as_secs_f64() / 3600.0);
            let bytes = batch.iter().map(|sample| float(of(sample)));
            (mean(&mut { hours }), mean(&mut { bytes }))
        })
        .collect();
    let mean_hours = mean(&mut averages.iter().map(|(hours, _)| *hours));
    let mean_bytes = mean(&mut averages.iter().map(|(_, bytes)| *bytes));
    let (mut across, mut along) = (0.0, 0.0);
    for (hours, bytes) in &averages {
        let hours = hours - mean_hours;
        across += hours * (bytes - mean_bytes);
        along += hours * hours;
    }
    let bytes_per_hour = across / along;
    let off = |(hours, bytes): &(f64, f64)| {
        let line = mean_bytes + bytes_per_hour * (hours - mean_hours);
        (bytes - line).powi(2)
    };
    let off: f64 = averages.iter().map(off).sum();
    let freedom = float(averages.len() as u64) - 2.0;
    Some(Slope {
        bytes_per_hour,
        noise: T * (off / freedom / along).sqrt(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rss_bytes: impl Fn(u64) -> u64) -> Vec<Sample> {
        let one = |second| Sample {
            at: Duration::from_secs(second),
            rss_bytes: rss_bytes(second),
            huge_bytes: 0,
            heap_bytes: 0,
            records: 0,
        };
        (0..100).map(one).collect()
    }

    #[test]
    fn what_grows_has_a_slope_and_what_wavers_has_noise() {
        let grows = slope(&samples(|second| 1000 + 10 * second), Sample::resident).expect("enough");
        assert!((grows.bytes_per_hour - 36_000.0).abs() < 1.0, "{grows:?}");
        assert!(grows.noise < 1.0, "{grows:?}");
        let wavers = slope(
            &samples(|second| 1000 + 500 * (second / 16 % 2)),
            Sample::resident,
        )
        .expect("enough");
        assert!(wavers.bytes_per_hour.abs() < wavers.noise, "{wavers:?}");
        assert_eq!(
            slope(&samples(|_| 1)[..BATCHES - 1], Sample::resident),
            None
        );
    }

    #[test]
    fn a_few_samples_are_printed_and_the_last_is_one() {
        for count in [1, 11, 12, 13, 100] {
            let all = samples(|second| second);
            let printed: Vec<_> = printed(&all[..count]).collect();
            assert!(printed.len() <= PRINTED, "{count}");
            assert_eq!(
                printed.last().map(|one| one.rss_bytes + 1),
                Some(count as u64)
            );
        }
    }
}
