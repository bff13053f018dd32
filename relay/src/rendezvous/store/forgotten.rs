//! What other relays have taken back a moment ago, so that what they said before does not bring it back when it comes late: requests
//! overtake each other.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use remora_proto::{id::RelayId, record::RecordKey};

/// By then a request has come, or never will: whoever sends it gives it up after two seconds.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);
/// Keys of one relay. It takes back what too few relays have kept, a few at a time; further ones are not remembered.
const MAX_PER_RELAY: usize = 1024;

/// See the module. Pure.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    /// By which number, and until when.
    by_key: HashMap<(RelayId, RecordKey), (u64, Instant)>,
    /// In the order of their ends: all are remembered for as long.
    ends: VecDeque<(Instant, RelayId, RecordKey)>,
    held_by_relay: HashMap<RelayId, usize>,
}

impl Forgotten {
    /// `relay` has taken back all that it said of `key` before that number.
    pub(super) fn note(&mut self, relay: RelayId, key: RecordKey, number: u64, now: Instant) {
        self.handle_time(now);
        let until = now + REMEMBERED_FOR;
        if let Some((last, end)) = self.by_key.get_mut(&(relay, key)) {
            (*last, *end) = (number.max(*last), until);
        } else {
            let held = self.held_by_relay.entry(relay).or_default();
            if *held >= MAX_PER_RELAY {
                return;
            }
            *held += 1;
            self.by_key.insert((relay, key), (number, until));
        }
        self.ends.push_back((until, relay, key));
    }

    /// Whether what `relay` says of `key` by that number was said before it took it back.
    pub(super) fn is_late(
        &mut self,
        relay: RelayId,
        key: RecordKey,
        number: u64,
        now: Instant,
    ) -> bool {
        self.handle_time(now);
        let taken_back = self.by_key.get(&(relay, key));
        taken_back.is_some_and(|&(last, _)| number < last)
    }

    fn handle_time(&mut self, now: Instant) {
        while let Some(&(end, relay, key)) = self.ends.front()
            && end <= now
        {
            self.ends.pop_front();
            let is_over = |&(_, until): &(u64, Instant)| until <= now;
            if self.by_key.get(&(relay, key)).is_some_and(is_over) {
                self.by_key.remove(&(relay, key));
                self.count_down(relay);
            }
        }
    }

    fn count_down(&mut self, relay: RelayId) {
        if let Some(held) = self.held_by_relay.get_mut(&relay) {
            *held -= 1;
            if *held == 0 {
                self.held_by_relay.remove(&relay);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> RecordKey {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        RecordKey(key)
    }

    #[test]
    fn what_was_said_before_is_late_for_a_while_and_memory_is_bounded() {
        let (start, relay, other) = (Instant::now(), RelayId([1; 32]), RelayId([2; 32]));
        let half = REMEMBERED_FOR / 2;
        let mut forgotten = Forgotten::default();
        forgotten.note(relay, key(0), 5, start);
        assert!(forgotten.is_late(relay, key(0), 4, start));
        assert!(!forgotten.is_late(relay, key(0), 6, start));
        assert!(!forgotten.is_late(other, key(0), 4, start));
        assert!(!forgotten.is_late(relay, key(1), 4, start));
        // Said again, it is remembered again.
        forgotten.note(relay, key(0), 5, start + half);
        assert!(forgotten.is_late(relay, key(0), 4, start + REMEMBERED_FOR));
        let over = start + half + REMEMBERED_FOR;
        assert!(!forgotten.is_late(relay, key(0), 4, over));
        for number in 0..5000 {
            forgotten.note(relay, key(number), 5, over);
        }
        forgotten.note(other, key(1), 5, over);
        assert_eq!(forgotten.by_key.len(), MAX_PER_RELAY + 1);
        assert!(forgotten.is_late(other, key(1), 4, over));
        assert!(!forgotten.is_late(other, key(1), 4, over + REMEMBERED_FOR));
        assert!(forgotten.by_key.is_empty() && forgotten.ends.is_empty());
        assert!(forgotten.held_by_relay.is_empty());
    }
}
