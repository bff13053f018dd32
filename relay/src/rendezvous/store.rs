//! Records under their locator keys. Pure.
//!
//! ```text
//! absent ── put ──▶ live ── withdrawn, or its time is over ──▶ tombstone(why) ── nobody asks any more ──▶ absent
//! ```
//!
//! A tombstone keeps the key: whoever types a dead code learns why it is dead, and nobody else can settle under
//! it (`NOISE-QUIC` part 4.4). Deadlines wait in a queue; nothing is ever scanned.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_proto::{
    id::NodeId,
    record::{CLOCK_TOLERANCE_MS, EPOCH_MS, LocatorKey, Record},
};

/// Live records of one node: a person gives one code at a time, a second and third window included.
pub const MAX_LIVE_PER_NODE: usize = 4;

/// A record to keep, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    key: LocatorKey,
    session_key: [u8; 32],
    sequence: u32,
    owner: NodeId,
    bytes: Bytes,
    live_for: Duration,
    kept_for: Duration,
}

impl Publication {
    /// `bytes` is what `record` was decoded from at `unix_ms`; `owner` is who published it.
    pub fn new(record: &Record, bytes: Bytes, owner: NodeId, unix_ms: u64) -> Self {
        let from_now = |moment_ms: u64| Duration::from_millis(moment_ms.saturating_sub(unix_ms));
        // A joiner asks for this key until the epoch after its own is over, by a clock that may be late.
        let asked_until_ms = (record.not_before_ms / EPOCH_MS + 2) * EPOCH_MS + CLOCK_TOLERANCE_MS;
        let live_for = from_now(record.expiry_ms);
        Self {
            key: record.locator_key,
            session_key: record.session_key,
            sequence: record.sequence,
            owner,
            bytes,
            live_for,
            kept_for: from_now(asked_until_ms).max(live_for),
        }
    }

    /// Where it is to be kept.
    pub fn key(&self) -> LocatorKey {
        self.key
    }

    /// How long it can be joined.
    pub fn live_for(&self) -> Duration {
        self.live_for
    }
}

/// Why a code can no longer be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It let somebody in.
    Used,
    /// Too many wrong secrets.
    Burned,
    /// Its time is over.
    Expired,
    /// Its owner changed their mind.
    Cancelled,
}

/// What is kept under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A record that can be joined.
    Live(Bytes),
    /// One that could.
    Ended(Ended),
    /// Nothing.
    Absent,
}

/// Why a record was not put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutRefused {
    /// By another record, or what is left of one.
    #[error("the key is held")]
    Taken,
    /// The node has [`MAX_LIVE_PER_NODE`] already.
    #[error("the node has too many live records")]
    NodeFull,
    /// The store has no room.
    #[error("the store is full")]
    Full,
}

/// Why a record was not withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WithdrawRefused {
    /// Nothing is kept under the key.
    #[error("nothing is kept under this key")]
    Absent,
    /// Somebody else published it.
    #[error("the record is another node's")]
    NotYours,
}

#[derive(Debug)]
struct Kept {
    publication: Publication,
    ended: Option<Ended>,
    /// End of its life while live, of its tombstone afterwards.
    due: Instant,
    kept_until: Instant,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    capacity: usize,
    kept_by_key: HashMap<LocatorKey, Kept>,
    deadlines: BTreeSet<(Instant, LocatorKey)>,
    live_by_owner: HashMap<NodeId, usize>,
}

impl Store {
    /// An empty store of at most `capacity` records and tombstones.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            kept_by_key: HashMap::new(),
            deadlines: BTreeSet::new(),
            live_by_owner: HashMap::new(),
        }
    }

    /// Puts a record where nothing is, or in place of an older one of the same session key.
    ///
    /// The same bytes from the same node are accepted again: so a node whose connection broke comes back.
    ///
    /// # Errors
    /// Why not.
    pub fn put_if_absent(
        &mut self,
        publication: Publication,
        now: Instant,
    ) -> Result<(), PutRefused> {
        self.handle_deadlines(now);
        if let Some(kept) = self.kept_by_key.get(&publication.key) {
            if !kept.gives_way_to(&publication) {
                return Err(PutRefused::Taken);
            }
            self.remove(publication.key);
        } else if self
            .live_by_owner
            .get(&publication.owner)
            .is_some_and(|&live| live >= MAX_LIVE_PER_NODE)
        {
            return Err(PutRefused::NodeFull);
        } else if self.kept_by_key.len() >= self.capacity {
            return Err(PutRefused::Full);
        }
        let due = now + publication.live_for;
        *self.live_by_owner.entry(publication.owner).or_default() += 1;
        self.deadlines.insert((due, publication.key));
        let kept_until = now + publication.kept_for;
        self.kept_by_key.insert(
            publication.key,
            Kept {
                publication,
                ended: None,
                due,
                kept_until,
            },
        );
        Ok(())
    }

    /// What is kept under `key`.
    pub fn find(&mut self, key: LocatorKey, now: Instant) -> Found {
        self.handle_deadlines(now);
        match self.kept_by_key.get(&key) {
            None => Found::Absent,
            Some(Kept {
                ended: Some(why), ..
            }) => Found::Ended(*why),
            Some(kept) => Found::Live(kept.publication.bytes.clone()),
        }
    }

    /// Ends `owner`'s record; one that has ended stays as it ended.
    ///
    /// # Errors
    /// Why not.
    pub fn withdraw(
        &mut self,
        key: LocatorKey,
        owner: NodeId,
        why: Ended,
        now: Instant,
    ) -> Result<(), WithdrawRefused> {
        self.handle_deadlines(now);
        match self.kept_by_key.get(&key) {
            None => Err(WithdrawRefused::Absent),
            Some(kept) if kept.publication.owner != owner => Err(WithdrawRefused::NotYours),
            Some(_) => {
                self.end(key, why);
                Ok(())
            }
        }
    }

    /// Records that can be joined.
    pub fn live_records(&mut self, now: Instant) -> usize {
        self.handle_deadlines(now);
        self.live_by_owner.values().sum()
    }

    fn handle_deadlines(&mut self, now: Instant) {
        while let Some(&(due, key)) = self.deadlines.first()
            && due <= now
        {
            let is_live = self
                .kept_by_key
                .get(&key)
                .is_some_and(|kept| kept.ended.is_none());
            if is_live {
                self.end(key, Ended::Expired);
            }
            let is_over = self
                .kept_by_key
                .get(&key)
                .is_none_or(|kept| kept.due <= now);
            if is_over {
                self.deadlines.remove(&(due, key));
                self.remove(key);
            }
        }
    }

    /// Turns a live record into its tombstone.
    fn end(&mut self, key: LocatorKey, why: Ended) {
        let Some(kept) = self
            .kept_by_key
            .get_mut(&key)
            .filter(|kept| kept.ended.is_none())
        else {
            return;
        };
        self.deadlines.remove(&(kept.due, key));
        kept.ended = Some(why);
        kept.due = kept.kept_until;
        // Nobody needs the record itself any more.
        kept.publication.bytes = Bytes::new();
        self.deadlines.insert((kept.due, key));
        let owner = kept.publication.owner;
        self.count_down(owner);
    }

    fn remove(&mut self, key: LocatorKey) {
        let Some(kept) = self.kept_by_key.remove(&key) else {
            return;
        };
        self.deadlines.remove(&(kept.due, key));
        if kept.ended.is_none() {
            self.count_down(kept.publication.owner);
        }
    }

    fn count_down(&mut self, owner: NodeId) {
        if let Some(live) = self.live_by_owner.get_mut(&owner) {
            *live -= 1;
            if *live == 0 {
                self.live_by_owner.remove(&owner);
            }
        }
    }
}

impl Kept {
    fn gives_way_to(&self, new: &Publication) -> bool {
        let old = &self.publication;
        let is_newer = old.session_key == new.session_key && old.sequence < new.sequence;
        let is_again = old.owner == new.owner && old.bytes == new.bytes;
        self.ended.is_none() && (is_newer || is_again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(key: u8, owner: u8) -> Publication {
        Publication {
            key: LocatorKey([key; 32]),
            session_key: [key; 32],
            sequence: 1,
            owner: NodeId([owner; 32]),
            bytes: Bytes::from(vec![key, owner]),
            live_for: secs(600),
            kept_for: secs(900),
        }
    }

    fn key(key: u8) -> LocatorKey {
        LocatorKey([key; 32])
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_record_is_found_until_it_expires_and_is_remembered_after() {
        let start = Instant::now();
        let mut store = Store::new(10);
        assert_eq!(store.find(key(1), start), Found::Absent);
        assert_eq!(store.put_if_absent(publication(1, 1), start), Ok(()));
        let live = Found::Live(publication(1, 1).bytes);
        assert_eq!(store.find(key(1), start + secs(599)), live);
        assert_eq!(store.live_records(start + secs(599)), 1);
        assert_eq!(
            store.find(key(1), start + secs(600)),
            Found::Ended(Ended::Expired)
        );
        assert_eq!(store.live_records(start + secs(600)), 0);
        assert_eq!(store.find(key(1), start + secs(900)), Found::Absent);
        assert!(
            store.kept_by_key.is_empty()
                && store.deadlines.is_empty()
                && store.live_by_owner.is_empty()
        );
    }

    #[test]
    fn life_and_memory_follow_the_record() {
        let record = Record {
            realm: String::new(),
            locator_key: key(1),
            session_key: [1; 32],
            host_nonce: [0; 16],
            host_role: remora_proto::record::HostRole::Helper,
            not_before_ms: 5 * EPOCH_MS + 1000,
            expiry_ms: 6 * EPOCH_MS + 1000,
            sequence: 1,
        };
        let publication =
            Publication::new(&record, Bytes::new(), NodeId([1; 32]), 5 * EPOCH_MS + 2000);
        assert_eq!(publication.live_for, secs(599));
        assert_eq!(
            publication.kept_for,
            Duration::from_millis(2 * EPOCH_MS + CLOCK_TOLERANCE_MS - 2000)
        );
    }

    #[test]
    fn a_withdrawn_record_says_why_and_keeps_its_key() {
        let start = Instant::now();
        let mut store = Store::new(10);
        for (n, why) in [Ended::Used, Ended::Burned, Ended::Expired, Ended::Cancelled]
            .into_iter()
            .enumerate()
        {
            let n = u8::try_from(n).expect("four");
            store.put_if_absent(publication(n, 1), start).expect("put");
            assert_eq!(
                store.withdraw(key(n), NodeId([2; 32]), why, start),
                Err(WithdrawRefused::NotYours)
            );
            assert_eq!(store.withdraw(key(n), NodeId([1; 32]), why, start), Ok(()));
            assert_eq!(
                store.withdraw(key(n), NodeId([1; 32]), Ended::Used, start),
                Ok(()),
                "again is no error"
            );
            assert_eq!(store.find(key(n), start + secs(899)), Found::Ended(why));
            let again = Publication {
                sequence: 9,
                ..publication(n, 1)
            };
            assert_eq!(store.put_if_absent(again, start), Err(PutRefused::Taken));
        }
        assert_eq!(
            store.withdraw(key(9), NodeId([1; 32]), Ended::Used, start),
            Err(WithdrawRefused::Absent)
        );
        assert_eq!(store.find(key(1), start + secs(900)), Found::Absent);
    }

    #[test]
    fn a_key_is_held_against_all_but_its_owner() {
        let start = Instant::now();
        let mut store = Store::new(10);
        store.put_if_absent(publication(1, 1), start).expect("put");
        let other = Publication {
            session_key: [9; 32],
            sequence: 7,
            ..publication(1, 2)
        };
        assert_eq!(store.put_if_absent(other, start), Err(PutRefused::Taken));
        let replayed = Publication {
            owner: NodeId([2; 32]),
            ..publication(1, 1)
        };
        assert_eq!(store.put_if_absent(replayed, start), Err(PutRefused::Taken));
        assert_eq!(
            store.put_if_absent(publication(1, 1), start),
            Ok(()),
            "the same again"
        );
        let newer = Publication {
            sequence: 2,
            bytes: Bytes::from_static(b"newer"),
            ..publication(1, 3)
        };
        assert_eq!(store.put_if_absent(newer, start), Ok(()));
        assert_eq!(
            store.put_if_absent(publication(1, 1), start),
            Err(PutRefused::Taken)
        );
        assert_eq!(
            store.find(key(1), start),
            Found::Live(Bytes::from_static(b"newer"))
        );
        assert_eq!(store.live_records(start), 1);
    }

    #[test]
    fn nodes_and_the_store_have_caps() {
        let start = Instant::now();
        let mut store = Store::new(6);
        for n in 0..4 {
            assert_eq!(store.put_if_absent(publication(n, 1), start), Ok(()));
        }
        assert_eq!(
            store.put_if_absent(publication(4, 1), start),
            Err(PutRefused::NodeFull)
        );
        store
            .withdraw(key(0), NodeId([1; 32]), Ended::Cancelled, start)
            .expect("withdrawn");
        assert_eq!(store.put_if_absent(publication(4, 1), start), Ok(()));
        assert_eq!(store.put_if_absent(publication(5, 2), start), Ok(()));
        assert_eq!(
            store.put_if_absent(publication(6, 2), start),
            Err(PutRefused::Full),
            "tombstones count"
        );
        assert_eq!(
            store.put_if_absent(publication(6, 2), start + secs(900)),
            Ok(())
        );
    }
}
