//! What an operator should know of the fleet as this relay sees it: clocks, names, whether anybody is there. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use remora_proto::id::RelayId;

use crate::{admin::metrics::Stranger, health::Outlook};

/// Clocks that are remembered: as many as relays are in touch. Who is heard first of all gives way.
const MAX_CLOCKS: usize = 512;
/// So long a clock counts after it was heard: relays that do not let each other in for their clocks try once a minute.
const CLOCK_COUNTS: Duration = Duration::from_secs(150);

/// The machine.
#[derive(Debug)]
pub struct Watching {
    clocks: BTreeMap<RelayId, Clock>,
    /// Seeds that stand for no address, by their numbers.
    dead_names: BTreeSet<usize>,
    in_touch: usize,
    alone_since: Option<Instant>,
    refused: Option<Stranger>,
}

#[derive(Clone, Copy, Debug)]
struct Clock {
    ahead_ms: i64,
    heard: Instant,
}

impl Watching {
    /// Nobody is there yet.
    pub fn new(now: Instant) -> Self {
        Self {
            clocks: BTreeMap::new(),
            dead_names: BTreeSet::new(),
            in_touch: 0,
            alone_since: Some(now),
            refused: None,
        }
    }

    /// A relay with the fleet's key has said what its clock shows, and ours showed this.
    pub fn heard(&mut self, relay: RelayId, theirs_unix_ms: u64, ours_unix_ms: u64, now: Instant) {
        if self.clocks.len() >= MAX_CLOCKS && !self.clocks.contains_key(&relay) {
            let oldest = self.clocks.iter().min_by_key(|(_, clock)| clock.heard);
            if let Some((&oldest, _)) = oldest {
                self.clocks.remove(&oldest);
            }
        }
        let apart = i64::try_from(theirs_unix_ms.abs_diff(ours_unix_ms)).unwrap_or(i64::MAX);
        let ahead_ms = if theirs_unix_ms < ours_unix_ms {
            -apart
        } else {
            apart
        };
        let heard = now;
        self.clocks.insert(relay, Clock { ahead_ms, heard });
    }

    /// The seed of that number was looked up.
    pub fn looked_up(&mut self, number: usize, is_found: bool) {
        if is_found {
            self.dead_names.remove(&number);
        } else {
            self.dead_names.insert(number);
        }
    }

    /// A relay was refused, by us or by it.
    pub fn refused(&mut self, why: Stranger) {
        self.refused = Some(why);
    }

    /// How many relays are in touch, and whether, if none is, there is one to be met.
    pub fn count(&mut self, in_touch: usize, has_others: bool, now: Instant) {
        self.in_touch = in_touch;
        if in_touch > 0 {
            self.refused = None;
        }
        if in_touch > 0 || (!has_others && self.dead_names.is_empty()) {
            self.alone_since = None;
        } else {
            self.alone_since.get_or_insert(now);
        }
    }

    /// All of it; the seeds are named as they were given.
    pub fn outlook(&mut self, seeds: &[String], now: Instant) -> Outlook {
        self.clocks
            .retain(|_, clock| now.saturating_duration_since(clock.heard) < CLOCK_COUNTS);
        let ahead_ms = self.clocks.iter();
        let ahead_ms: BTreeMap<_, _> = ahead_ms
            .map(|(&relay, clock)| (relay, clock.ahead_ms))
            .collect();
        let dead_names = self.dead_names.iter();
        Outlook {
            skew_ms: median(ahead_ms.values().copied().collect()),
            ahead_ms,
            dead_names: dead_names
                .filter_map(|&number| seeds.get(number).cloned())
                .collect(),
            in_touch: self.in_touch,
            alone_since: self.alone_since,
            refused: self.refused,
        }
    }
}

/// Of the two in the middle, where there are two, the one nearer to our own clock: of two relays that differ one is right, and ours may be.
fn median(mut all: Vec<i64>) -> Option<i64> {
    all.sort_unstable();
    let upper = all.len() / 2;
    let lower = all.len().checked_sub(1)? / 2;
    let middle = [*all.get(lower)?, *all.get(upper)?];
    middle.into_iter().min_by_key(|ms| ms.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(n: u8) -> RelayId {
        RelayId([n; 32])
    }

    #[test]
    fn who_is_off_knows_it_and_the_others_know_that_they_are_not() {
        let now = Instant::now();
        let outlook = |ahead: &[i64]| {
            let mut watching = Watching::new(now);
            for (n, ahead) in (1..).zip(ahead) {
                let theirs = 1_000_000u64.saturating_add_signed(*ahead);
                watching.heard(relay(n), theirs, 1_000_000, now);
            }
            watching.outlook(&[], now).skew_ms
        };
        assert_eq!(outlook(&[]), None);
        assert_eq!(outlook(&[-600_000]), Some(-600_000), "either may be right");
        assert_eq!(outlook(&[-600_000, -599_990]), Some(-599_990));
        assert_eq!(outlook(&[600_000, 3]), Some(3));
        assert_eq!(outlook(&[3, 600_000, -2]), Some(3));
    }

    #[test]
    fn a_clock_that_is_not_heard_any_more_does_not_count_and_few_are_kept() {
        let now = Instant::now();
        let mut watching = Watching::new(now);
        watching.heard(relay(1), 600_000, 0, now);
        assert_eq!(watching.outlook(&[], now).skew_ms, Some(600_000));
        let later = now + CLOCK_COUNTS;
        assert_eq!(watching.outlook(&[], later).skew_ms, None);
        for n in 0..=MAX_CLOCKS {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            let at = later + Duration::from_millis(n as u64);
            watching.heard(RelayId(id), 0, 0, at);
        }
        let kept = watching.outlook(&[], later).ahead_ms;
        assert_eq!(kept.len(), MAX_CLOCKS);
        assert!(!kept.contains_key(&relay(0)), "the oldest has gone");
    }

    #[test]
    fn alone_is_who_knows_of_others_and_meets_none() {
        let now = Instant::now();
        let seeds = ["one:1".to_owned(), "two:1".to_owned()];
        let mut watching = Watching::new(now);
        assert_eq!(watching.outlook(&seeds, now).alone_since, Some(now));
        watching.count(0, false, now);
        assert_eq!(watching.outlook(&seeds, now).alone_since, None);
        watching.looked_up(1, false);
        watching.refused(Stranger::FleetKey);
        let later = now + Duration::from_secs(1);
        for _ in 0..2 {
            watching.count(0, false, later);
        }
        let outlook = watching.outlook(&seeds, later);
        assert_eq!(outlook.alone_since, Some(later));
        assert_eq!(outlook.dead_names, ["two:1"]);
        assert_eq!(outlook.refused, Some(Stranger::FleetKey));
        watching.looked_up(1, true);
        watching.count(2, true, later);
        let outlook = watching.outlook(&seeds, later);
        assert_eq!((outlook.alone_since, outlook.refused), (None, None));
        assert!(outlook.dead_names.is_empty());
    }
}
