//! What relays have resident, second by second, and whether it grows. Pure but for the reading.
//!
//! | of each relay | what moves it |
//! |---|---|
//! | resident | all of these |
//! | in huge pages | a buffer that is used further than ever before: 2 MiB at once, and no more when all of it has been |
//! | in pages of 4 KiB | what is in use, and what the allocator keeps of what was |
//! | heap in use | what the program remembers: what grows here for ever is lost |
//!
//! Records come all the while and go every ten minutes, with the locators' epochs: the heap rises and falls with them, by so many bytes
//! for each. What else there is in its growth is the line *apart from records*.

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
/// Student's t for 95 %, two-sided, with two degrees of freedom fewer than averages, and with three: as many as are drawn from them.
const T: [f64; 2] = [2.228, 2.262];

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
        Averages::new(self.measured(number)?, of).map(|averages| averages.slope())
    }

    /// Of the heap, apart from records.
    fn rest_slope(&self, number: usize) -> Option<Slope> {
        let averages = Averages::new(self.measured(number)?, Sample::heap)?;
        Some(averages.apart_from_records())
    }

    fn measured(&self, number: usize) -> Option<&[Sample]> {
        self.by_relay[number][self.since[number]..].get(WARM_UP..)
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
                "heap_slope_apart_from_records": line(self.rest_slope(number)),
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
                ("apart from records ", self.rest_slope(number)),
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

/// Of neighbouring samples, as differences from their mean: hours, bytes, records.
#[derive(Debug)]
struct Averages {
    hours: Vec<f64>,
    bytes: Vec<f64>,
    records: Vec<f64>,
}

impl Averages {
    fn new(samples: &[Sample], of: impl Fn(&Sample) -> u64) -> Option<Self> {
        let size = samples.len() / BATCHES;
        if size == 0 {
            return None;
        }
        let averages = |value: &dyn Fn(&Sample) -> f64| {
            let batches = samples.rchunks_exact(size).take(BATCHES);
            let means = batches.map(|batch| mean(batch.iter().map(value)));
            centred(means.collect())
        };
        Some(Self {
            hours: averages(&|sample| sample.at.as_secs_f64() / 3600.0),
            bytes: averages(&|sample| float(of(sample))),
            records: averages(&|sample| float(sample.records)),
        })
    }

    /// The line with the least squares.
    fn slope(&self) -> Slope {
        line(&self.hours, &self.bytes, 2)
    }

    /// The same through what records do not explain (Frisch and Waugh, Econometrica 1 (1933)).
    fn apart_from_records(&self) -> Slope {
        let rest = |values: &[f64]| {
            let square = product(&self.records, &self.records);
            let share = product(values, &self.records) / if square > 0.0 { square } else { 1.0 };
            let records = self.records.iter();
            let rest = values.iter().zip(records);
            rest.map(|(value, records)| value - share * records)
                .collect::<Vec<_>>()
        };
        line(&rest(&self.hours), &rest(&self.bytes), 3)
    }
}

/// Through differences from means; of so many numbers that are drawn from them, the slope is one.
fn line(hours: &[f64], bytes: &[f64], drawn: usize) -> Slope {
    let along = product(hours, hours);
    let bytes_per_hour = product(hours, bytes) / along;
    let off = hours.iter().zip(bytes);
    let off: f64 = off
        .map(|(hours, bytes)| (bytes - bytes_per_hour * hours).powi(2))
        .sum();
    let freedom = float((hours.len() - drawn) as u64);
    Slope {
        bytes_per_hour,
        noise: T[drawn - 2] * (off / freedom / along).sqrt(),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
    sum / count
}

fn centred(values: Vec<f64>) -> Vec<f64> {
    let mean = mean(values.iter().copied());
    values.into_iter().map(|value| value - mean).collect()
}

fn product(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the second: what is resident and in use, and records.
    fn samples(of: impl Fn(u64) -> [u64; 2]) -> Vec<Sample> {
        let one = |second| {
            let [bytes, records] = of(second);
            Sample {
                at: Duration::from_secs(second),
                rss_bytes: bytes,
                huge_bytes: 0,
                heap_bytes: bytes,
                records,
            }
        };
        (0..100).map(one).collect()
    }

    fn averages(of: impl Fn(u64) -> [u64; 2]) -> Averages {
        Averages::new(&samples(of), Sample::resident).expect("enough")
    }

    #[test]
    fn what_grows_has_a_slope_and_what_wavers_has_noise() {
        let grows = averages(|second| [1000 + 10 * second, 7]);
        for grows in [grows.slope(), grows.apart_from_records()] {
            assert!((grows.bytes_per_hour - 36_000.0).abs() < 1.0, "{grows:?}");
            assert!(grows.noise < 1.0, "{grows:?}");
        }
        let wavers = averages(|second| [1000 + 500 * (second / 16 % 2), 7]).slope();
        assert!(wavers.bytes_per_hour.abs() < wavers.noise, "{wavers:?}");
        let few = &samples(|_| [1, 1])[..BATCHES - 1];
        assert!(Averages::new(few, Sample::resident).is_none());
    }

    #[test]
    fn what_records_explain_is_no_growth_and_the_rest_is() {
        let records = |second: u64| 100 + 40 * (second % 60);
        let sawtooth = averages(|second| [1000 + 300 * records(second), records(second)]);
        assert!(sawtooth.slope().noise > 1_000_000.0, "{sawtooth:?}");
        let rest = sawtooth.apart_from_records();
        assert!(rest.bytes_per_hour.abs() + rest.noise < 1.0, "{rest:?}");
        let grows = averages(|second| [300 * records(second) + 10 * second, records(second)]);
        let rest = grows.apart_from_records();
        assert!((rest.bytes_per_hour - 36_000.0).abs() < 1.0, "{rest:?}");
    }

    #[test]
    fn a_few_samples_are_printed_and_the_last_is_one() {
        for count in [1, 11, 12, 13, 100] {
            let all = samples(|second| [second, 0]);
            let printed: Vec<_> = printed(&all[..count]).collect();
            assert!(printed.len() <= PRINTED, "{count}");
            assert_eq!(
                printed.last().map(|one| one.rss_bytes + 1),
                Some(count as u64)
            );
        }
    }
}
