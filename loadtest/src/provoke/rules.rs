//! The alerts' rules with all their durations shorter, so that nobody has to wait for hours to see one fire.
//!
//! ```text
//!  for: 5m                     ─▶  for: 5s
//!  rate(drops_total[30m])      ─▶  rate(drops_total[30s])
//!  ratio offset 1w             ─▶  ratio offset 10080s
//!  expiry - time() < 1209600       as it is: a threshold
//! ```
//!
//! Read as text: what stands in brackets, behind `offset`, and for the keys of a rule or a group that take a duration. Words for
//! people and names of series have none of these.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};

/// The rules that stand in `deploy/prometheus`.
pub const OURS: &str = include_str!("../../../deploy/prometheus/remora.rules.yml");

/// Keys that take a duration.
const KEYS: [&str; 3] = ["for", "keep_firing_for", "interval"];
/// Before a duration that a series is looked at earlier by.
const OFFSET: &str = "offset ";
/// Units, the longest name first, and their milliseconds (as Prometheus has them: a year has 365 days).
const UNITS: [(&str, u64); 7] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
    ("y", 31_536_000_000),
];

/// Rules that are so many times as fast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaled {
    /// The file.
    pub text: String,
    /// Each duration that stood there, and what stands there now.
    pub durations: BTreeMap<Duration, Duration>,
}

impl Scaled {
    /// `text` with every duration divided by `speed`, which is at least 1.
    pub fn new(text: &str, speed: u32) -> Self {
        let mut scaled = Self {
            text: String::with_capacity(text.len()),
            durations: BTreeMap::new(),
        };
        for line in text.split_inclusive('\n') {
            scaled.line(line, speed);
        }
        scaled
    }

    fn line(&mut self, line: &str, speed: u32) {
        let Some((before, value)) = keyed(line) else {
            return self.expression(line, speed);
        };
        let end = value.trim_end().len();
        match parse(&value[..end]) {
            Some(duration) => {
                self.text += before;
                self.replace(duration, speed);
                self.text += &value[end..];
            }
            // In quotes, or with a comment behind: no file of ours.
            None => self.text += line,
        }
    }

    fn expression(&mut self, line: &str, speed: u32) {
        let mut rest = line;
        while let Some(at) = next_place(rest) {
            self.text += &rest[..at];
            rest = &rest[at..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric());
            let end = end.unwrap_or(rest.len());
            match parse(&rest[..end]) {
                Some(duration) => self.replace(duration, speed),
                None => self.text += &rest[..end],
            }
            rest = &rest[end..];
        }
        self.text += rest;
    }

    fn replace(&mut self, duration: Duration, speed: u32) {
        let scaled = scale(duration, speed);
        self.durations.insert(duration, scaled);
        self.text += &written(scaled);
    }
}

/// A key that takes a duration, with what is before its value; and the value.
fn keyed(line: &str) -> Option<(&str, &str)> {
    let (key, _) = line.split_once(':')?;
    let name = key.trim_start().trim_start_matches("- ").trim();
    let value = line[key.len() + 1..].trim_start();
    KEYS.contains(&name)
        .then(|| line.split_at(line.len() - value.len()))
}

/// Where the next duration may begin: behind a bracket, the colon of a subquery, or `offset`.
fn next_place(text: &str) -> Option<usize> {
    let bracket = text.find('[').map(|at| at + 1);
    let offset = text.find(OFFSET).map(|at| at + OFFSET.len());
    // The resolution of a subquery, right behind what has just been read.
    let colon = text.starts_with(':').then_some(1);
    [bracket, offset, colon].into_iter().flatten().min()
}

/// A duration as Prometheus writes it, like `1h30m`.
fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut ms = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, unit_ms) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        ms = ms.checked_add(number.checked_mul(*unit_ms)?)?;
        rest = &rest[unit.len()..];
    }
    (!text.is_empty()).then(|| Duration::from_millis(ms))
}

/// So much sooner, in whole milliseconds: Prometheus has no shorter ones. What is nothing stays so.
pub fn scale(duration: Duration, speed: u32) -> Duration {
    let scaled = (duration / speed).as_millis();
    let least = u128::from(!duration.is_zero());
    Duration::from_millis(u64::try_from(scaled.max(least)).unwrap_or(u64::MAX))
}

/// As Prometheus reads it.
pub fn written(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms.is_multiple_of(1000) {
        format!("{}s", ms / 1000)
    } else {
        format!("{ms}ms")
    }
}

/// The names of the alerts in `text`, in their order.
pub fn alerts(text: &str) -> Vec<&str> {
    let names = text.lines().filter_map(|line| {
        let name = line.trim_start().strip_prefix("- alert:")?;
        Some(name.trim())
    });
    names.collect()
}

/// The rules of `path`, or ours.
///
/// # Errors
/// When there are none.
pub fn read(path: Option<&std::path::Path>) -> anyhow::Result<String> {
    let Some(path) = path else {
        return Ok(OURS.to_owned());
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the rules in {}", path.display()))?;
    ensure!(
        !alerts(&text).is_empty(),
        "{} has no alert in it; name a file of rules as Prometheus reads them",
        path.display()
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "\
groups:
  - name: remora
    interval: 1m
    rules:
      - record: remora:drops:ratio5m
        expr: sum(rate(drops_total{reason!=\"offset 5m\"}[5m])) / sum(rate(all_total[1h30m] offset 1w))
      - alert: Dropped
        expr: |
          max_over_time(remora:drops:ratio5m[6h:1m]) > 0.005
            and expiry - time() < 1209600
            and x[10ms:] > 5 and y offset -2d > 1
        for: 0s
        keep_firing_for: 10m
        annotations:
          summary: for 5m: more than 0.5 % of frames
      - alert:   Other
        expr: up == 0
";

    #[test]
    fn durations_are_scaled_and_nothing_else() {
        let scaled = Scaled::new(RULES, 60);
        let expected = RULES
            .replace("interval: 1m", "interval: 1s")
            .replace("}[5m]", "}[5s]")
            .replace("\"offset 5m\"", "\"offset 5s\"")
            .replace("[1h30m] offset 1w", "[90s] offset 10080s")
            .replace("[6h:1m]", "[360s:1s]")
            .replace("[10ms:]", "[1ms:]")
            .replace("keep_firing_for: 10m", "keep_firing_for: 10s");
        // An offset into the future is no alert's.
        assert_eq!(scaled.text, expected);
        let of = |from| scaled.durations.get(&Duration::from_secs(from)).copied();
        assert_eq!(of(604_800), Some(Duration::from_secs(10_080)));
        assert_eq!(of(0), Some(Duration::ZERO));
        assert_eq!(of(1), None);
    }

    #[test]
    fn at_the_speed_of_the_world_all_means_the_same() {
        let scaled = Scaled::new(RULES, 1);
        assert!(scaled.durations.iter().all(|(from, to)| from == to));
    }

    #[test]
    fn durations_are_read_as_prometheus_writes_them() {
        let ms = |text| parse(text).map(|duration| duration.as_millis());
        assert_eq!(ms("1h30m"), Some(5_400_000));
        assert_eq!(ms("90s"), Some(90_000));
        assert_eq!(ms("1m5ms"), Some(60_005));
        for wrong in ["", "5", "m", "5x", "99999999999999999999y"] {
            assert_eq!(ms(wrong), None, "{wrong}");
        }
        assert_eq!(written(Duration::from_millis(2500)), "2500ms");
        assert_eq!(scale(Duration::from_millis(3), 60).as_millis(), 1);
    }

    #[test]
    fn alerts_are_named() {
        assert_eq!(alerts(RULES), ["Dropped", "Other"]);
    }
}
