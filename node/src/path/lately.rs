//! What was known of the ways that packets took of late, by their numbers: congestion control and the picture's pace each
//! remember what a way took, for when it is taken again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// What a way took so long ago says nothing of what it takes now.
pub const FRESH: Duration = Duration::from_secs(60);
/// Ways that are remembered: direct, by the relay, by the relay's stream, and as many again.
pub const MAX_KNOWN: usize = 6;

/// See the module.
#[derive(Clone, Debug)]
pub struct Lately<T>(BTreeMap<u64, (Instant, T)>);

impl<T> Default for Lately<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Lately<T> {
    /// That is known of the way of this number, as of `when`; of too many, the oldest is forgotten.
    pub fn put(&mut self, number: u64, when: Instant, known: T) {
        self.0.insert(number, (when, known));
        if self.0.len() > MAX_KNOWN {
            let oldest = self.0.iter().min_by_key(|(_, (when, _))| *when);
            if let Some((&oldest, _)) = oldest {
                self.0.remove(&oldest);
            }
        }
    }

    /// Whether anything is known of it that is fresh.
    pub fn knows(&self, number: u64, now: Instant) -> bool {
        self.0
            .get(&number)
            .is_some_and(|(when, _)| is_fresh(*when, now))
    }

    /// What is known of it, if that is fresh, and as of when.
    pub fn take(&mut self, number: u64, now: Instant) -> Option<(Instant, T)> {
        self.0
            .remove(&number)
            .filter(|(when, _)| is_fresh(*when, now))
    }
}

fn is_fresh(when: Instant, now: Instant) -> bool {
    now.saturating_duration_since(when) <= FRESH
}
