//! Who knows whom, and how the closest to a key are found: what libp2p's `kbucket` and `ClosestPeersIter` do. Pure.

use std::collections::BTreeMap;

use anyhow::Context as _;
use libp2p::kad::{ALPHA_VALUE, K_VALUE, KBucketKey};
use rand::{rngs::StdRng, seq::SliceRandom as _};
use remora_proto::id::RelayId;
use remora_relay::{mesh::identity::peer_id, rendezvous::shelf::REPLICAS};

/// Where relays stand, what each knows, and how often it was asked.
#[derive(Debug)]
pub(super) struct Tables {
    places: Vec<u128>,
    /// By place, for the closest of all.
    sorted: Vec<(u128, usize)>,
    known: Vec<Vec<usize>>,
    load: Vec<u64>,
}

/// How the closest were found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Walk {
    /// The closest, nearest first, the one that asks among them if it is one.
    pub(super) closest: Vec<usize>,
    /// Questions.
    pub(super) messages: u64,
    /// Round trips, one after the other.
    pub(super) rounds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Waiting,
    Answered,
}

/// As much of a hash as tells ten thousand relays apart.
///
/// # Panics
/// When it has fewer bytes; a SHA-256 has 32.
pub(super) fn first(hash: &[u8]) -> u128 {
    let bytes = hash.first_chunk().expect("a SHA-256");
    u128::from_be_bytes(*bytes)
}

impl Tables {
    /// All relays have met whom they could: of each distance as many as a bucket has room for, in the order of a lot.
    ///
    /// # Errors
    /// When two stand in one place.
    pub(super) fn new(relays: &[RelayId], random: &mut StdRng) -> anyhow::Result<Self> {
        let place = |&relay: &RelayId| first(KBucketKey::from(peer_id(relay)).hashed_bytes());
        let places: Vec<_> = relays.iter().map(place).collect();
        let mut sorted: Vec<_> = places.iter().copied().zip(0..).collect();
        sorted.sort_unstable();
        let mut meeting: Vec<_> = (0..relays.len()).collect();
        let mut known = Vec::with_capacity(relays.len());
        for &own in &places {
            meeting.shuffle(random);
            let mut room = [K_VALUE.get(); 128];
            let mut of_one = Vec::new();
            for &other in &meeting {
                let Some(bucket) = (own ^ places[other]).checked_ilog2() else {
                    continue;
                };
                let room = room.get_mut(bucket as usize).context("no such bucket")?;
                if *room > 0 {
                    *room -= 1;
                    of_one.push(other);
                }
            }
            known.push(of_one);
        }
        Ok(Self {
            load: vec![0; places.len()],
            places,
            sorted,
            known,
        })
    }

    /// How many a relay knows.
    pub(super) fn size(&self, relay: usize) -> u64 {
        self.known[relay].len() as u64
    }

    /// It was asked something.
    pub(super) fn count(&mut self, relay: usize) {
        self.load[relay] += 1;
    }

    /// How often each was.
    pub(super) fn load(&self) -> impl Iterator<Item = u64> {
        self.load.iter().copied()
    }

    /// From now on.
    pub(super) fn forget_load(&mut self) {
        self.load.fill(0);
    }

    /// So many of those that a relay knows, the nearest to `target` first.
    fn known_near(&self, relay: usize, target: u128, count: usize) -> Vec<usize> {
        let mut known = self.known[relay].clone();
        let distance = |&other: &usize| self.places[other] ^ target;
        if known.len() > count {
            known.select_nth_unstable_by_key(count, distance);
            known.truncate(count);
        }
        known.sort_unstable_by_key(distance);
        known
    }

    /// The closest as far as a relay knows, itself among them if it is one.
    pub(super) fn nearest_known(&self, relay: usize, target: u128) -> Vec<usize> {
        self.nearest(
            relay,
            target,
            self.known_near(relay, target, REPLICAS.get()),
        )
    }

    fn nearest(&self, relay: usize, target: u128, mut all: Vec<usize>) -> Vec<usize> {
        all.push(relay);
        all.sort_unstable_by_key(|&other| self.places[other] ^ target);
        all.dedup();
        all.truncate(REPLICAS.get());
        all
    }

    /// The closest of all relays, nearest first.
    pub(super) fn closest_of_all(&self, target: u128) -> Vec<usize> {
        // Whoever shares the most first bits with the target stands next to it; a span with enough of them has the closest.
        let (mut low, mut high) = (0, self.sorted.len());
        for bits in 1..=128 {
            let mask = u128::MAX << (128 - bits);
            let span = &self.sorted[low..high];
            let from = span.partition_point(|(place, _)| place & mask < target & mask);
            let to = span.partition_point(|(place, _)| place & mask <= target & mask);
            if to - from < REPLICAS.get() {
                break;
            }
            (low, high) = (low + from, low + to);
        }
        let mut all: Vec<_> = self.sorted[low..high].to_vec();
        all.sort_unstable_by_key(|(place, _)| place ^ target);
        let all = all.into_iter().take(REPLICAS.get());
        all.map(|(_, relay)| relay).collect()
    }

    /// Asks nearer and nearer relays, a few at a time, until the closest have answered.
    pub(super) fn walk(&mut self, from: usize, target: u128) -> Walk {
        let start = self.known_near(from, target, K_VALUE.get());
        let mut seen: BTreeMap<u128, (usize, State)> = BTreeMap::new();
        for relay in start {
            seen.insert(self.places[relay] ^ target, (relay, State::New));
        }
        let (mut messages, mut rounds, mut no_progress) = (0, 0, 0);
        loop {
            let is_stalled = no_progress >= ALPHA_VALUE.get();
            let room = if is_stalled {
                REPLICAS.max(ALPHA_VALUE).get()
            } else {
                ALPHA_VALUE.get()
            };
            let asked = ask(&mut seen, room);
            if asked.is_empty() {
                break;
            }
            rounds += 1;
            messages += asked.len() as u64;
            for relay in asked {
                self.load[relay] += 1;
                let progress = self.answer(&mut seen, from, relay, target);
                no_progress = if progress { 0 } else { no_progress + 1 };
            }
        }
        let answered = seen.into_values();
        let answered = answered.filter(|(_, state)| *state == State::Answered);
        let answered = answered.map(|(relay, _)| relay).take(REPLICAS.get());
        Walk {
            closest: self.nearest(from, target, answered.collect()),
            messages,
            rounds,
        }
    }

    /// Takes what a relay says; whether that was of use.
    fn answer(
        &self,
        seen: &mut BTreeMap<u128, (usize, State)>,
        from: usize,
        relay: usize,
        target: u128,
    ) -> bool {
        let distance = self.places[relay] ^ target;
        seen.insert(distance, (relay, State::Answered));
        let furthest = seen.keys().nth(REPLICAS.get() - 1);
        let range = furthest.or_else(|| seen.keys().last()).copied();
        let range = range.unwrap_or(distance);
        let mut progress = seen.len() < REPLICAS.get();
        let said = self.known_near(relay, target, K_VALUE.get() + 1);
        let said = said.into_iter().filter(|&other| other != from);
        for other in said.take(K_VALUE.get()) {
            let distance = self.places[other] ^ target;
            if let std::collections::btree_map::Entry::Vacant(entry) = seen.entry(distance) {
                entry.insert((other, State::New));
                progress |= distance < range;
            }
        }
        progress
    }
}

/// The next to be asked: the nearest that were not, until the closest have answered.
fn ask(seen: &mut BTreeMap<u128, (usize, State)>, room: usize) -> Vec<usize> {
    let (mut asked, mut answered) = (Vec::new(), 0);
    for (relay, state) in seen.values_mut() {
        match state {
            State::Answered if asked.is_empty() => {
                answered += 1;
                if answered == REPLICAS.get() {
                    break;
                }
            }
            State::New if asked.len() < room => {
                *state = State::Waiting;
                asked.push(*relay);
            }
            State::New => break,
            State::Answered | State::Waiting => {}
        }
    }
    asked
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    fn tables(relays: usize) -> Tables {
        let mut random = StdRng::seed_from_u64(7);
        let relays: Vec<_> = (0..relays).map(|_| RelayId(random.random())).collect();
        Tables::new(&relays, &mut random).expect("apart")
    }

    fn brute(tables: &Tables, target: u128) -> Vec<usize> {
        let mut all: Vec<_> = (0..tables.places.len()).collect();
        all.sort_by_key(|&relay| tables.places[relay] ^ target);
        all.truncate(REPLICAS.get());
        all
    }

    #[test]
    fn the_closest_of_all_are_those_that_one_finds_by_looking_at_all() {
        let mut random = StdRng::seed_from_u64(1);
        for relays in [2, 5, 6, 300] {
            let tables = tables(relays);
            for _ in 0..200 {
                let target = random.random();
                assert_eq!(tables.closest_of_all(target), brute(&tables, target));
            }
        }
    }

    #[test]
    fn a_walk_finds_the_closest_from_anywhere() {
        let mut random = StdRng::seed_from_u64(1);
        for (relays, most_rounds) in [(5, 3), (25, 4), (500, 8)] {
            let mut tables = tables(relays);
            for _ in 0..200 {
                let target = random.random();
                let walk = tables.walk(random.random_range(0..relays), target);
                assert_eq!(walk.closest, tables.closest_of_all(target));
                assert!(walk.rounds <= most_rounds, "{walk:?}");
            }
            assert!(tables.load().sum::<u64>() > 0);
        }
    }

    #[test]
    fn a_table_has_all_that_are_near_and_some_that_are_far() {
        let tables = tables(1000);
        for relay in 0..1000 {
            assert!((100..300).contains(&tables.size(relay)), "{relay}");
        }
        assert_eq!(self::tables(15).size(3), 14);
    }
}
