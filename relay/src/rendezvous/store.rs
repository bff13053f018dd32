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
    id::{NodeId, RelayId},
    record::{CLOCK_TOLERANCE_MS, EPOCH_MS, LocatorKey, Record},
};

/// Live records of one node: a person gives one code at a time, a second and third window included.
pub const MAX_LIVE_PER_NODE: usize = 4;
/// Records and tombstones kept for one other relay: half the locators of a realm in an epoch. However many it sends, those of
/// the others stay.
pub const MAX_PER_RELAY: usize = 1 << 14;

/// On whose account a record is kept: whose it is, as far as this relay can know. Another relay answers for its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// A node of this relay, which has [`MAX_LIVE_PER_NODE`].
    Node(NodeId),
    /// Another relay, which has [`MAX_PER_RELAY`].
    Relay(RelayId),
}

/// A record to keep, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    key: LocatorKey,
    session_key: [u8; 32],
    sequence: u32,
    account: Account,
    /// Where its publisher is.
    relay: RelayId,
    bytes: Bytes,
    live_for: Duration,
    kept_for: Duration,
}

impl Publication {
    /// Of `node`, which is at `relay`, this one; `bytes` is what `record` was decoded from at `unix_ms`.
    pub fn of_node(
        record: &Record,
        bytes: Bytes,
        node: NodeId,
        relay: RelayId,
        unix_ms: u64,
    ) -> Self {
        Self::new(record, bytes, Account::Node(node), relay, unix_ms)
    }

    /// Of a node at `relay`, another one.
    pub fn of_relay(record: &Record, bytes: Bytes, relay: RelayId, unix_ms: u64) -> Self {
        Self::new(record, bytes, Account::Relay(relay), relay, unix_ms)
    }

    fn new(record: &Record, bytes: Bytes, account: Account, relay: RelayId, unix_ms: u64) -> Self {
        let from_now = |moment_ms: u64| Duration::from_millis(moment_ms.saturating_sub(unix_ms));
        // A joiner asks for this key until the epoch after its own is over, by a clock that may be late.
        let asked_until_ms = (record.not_before_ms / EPOCH_MS + 2) * EPOCH_MS + CLOCK_TOLERANCE_MS;
        let live_for = from_now(record.expiry_ms);
        Self {
            key: record.locator_key,
            session_key: record.session_key,
            sequence: record.sequence,
            account,
            relay,
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

    /// How long it is remembered.
    pub fn kept_for(&self) -> Duration {
        self.kept_for
    }

    /// Whose it is.
    pub fn account(&self) -> Account {
        self.account
    }

    /// The record as it was signed.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
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
    Live {
        /// As it was signed.
        record: Bytes,
        /// Where its publisher is.
        relay: RelayId,
    },
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
    /// The store has no room, or not for this relay.
    #[error("the store is full")]
    Full,
    /// Too few of the relays that should keep it do.
    #[error("too few relays answer")]
    NoQuorum,
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
    live: usize,
    /// Live records of nodes, all records of relays.
    held_by_account: HashMap<Account, usize>,
}

impl Store {
    /// An empty store of at most `capacity` records and tombstones.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            kept_by_key: HashMap::new(),
            deadlines: BTreeSet::new(),
            live: 0,
            held_by_account: HashMap::new(),
        }
    }

    /// Puts a record where nothing is, or in place of an older one of the same session key: only its node can sign that, and so
    /// moves to another relay.
    ///
    /// The same bytes are accepted again on the same account: so a node whose connection broke comes back.
    ///
    /// # Errors
    /// Why not.
    pub fn put_if_absent(
        &mut self,
        publication: Publication,
        now: Instant,
    ) -> Result<(), PutRefused> {
        self.handle_deadlines(now);
        let (key, account) = (publication.key, publication.account);
        let kept = self.kept_by_key.get(&key);
        if kept.is_some_and(|kept| !kept.gives_way_to(&publication)) {
            return Err(PutRefused::Taken);
        }
        self.check_room(key, account, now)?;
        self.remove(key);
        let (due, kept_until) = (now + publication.live_for, now + publication.kept_for);
        self.live += 1;
        *self.held_by_account.entry(account).or_default() += 1;
        self.deadlines.insert((due, key));
        self.kept_by_key.insert(
            key,
            Kept {
                publication,
                ended: None,
                due,
                kept_until,
            },
        );
        Ok(())
    }

    /// Whether something may be kept under `key` on this account: more, unless it stands there already. Other relays leave a
    /// quarter of the store to the nodes of this one: there may be any number of them.
    ///
    /// # Errors
    /// Why not.
    pub fn check_room(
        &mut self,
        key: LocatorKey,
        account: Account,
        now: Instant,
    ) -> Result<(), PutRefused> {
        self.handle_deadlines(now);
        let kept = self.kept_by_key.get(&key);
        if kept.is_some_and(|kept| kept.publication.account == account) {
            return Ok(());
        }
        let held = self.held_by_account.get(&account).copied();
        let (most, most_in_all, refused) = match account {
            Account::Node(_) => (MAX_LIVE_PER_NODE, self.capacity, PutRefused::NodeFull),
            Account::Relay(_) => (
                MAX_PER_RELAY,
                self.capacity - self.capacity / 4,
                PutRefused::Full,
            ),
        };
        if held.unwrap_or(0) >= most {
            return Err(refused);
        }
        if kept.is_none() && self.kept_by_key.len() >= most_in_all {
            return Err(PutRefused::Full);
        }
        Ok(())
    }

    /// Whether this very record is kept, on its account, and can be joined.
    pub fn has(&mut self, publication: &Publication, now: Instant) -> bool {
        self.handle_deadlines(now);
        let kept = self.kept_by_key.get(&publication.key);
        kept.is_some_and(|kept| kept.ended.is_none() && kept.is(publication))
    }

    /// What is kept under `key`.
    pub fn find(&mut self, key: LocatorKey, now: Instant) -> Found {
        self.handle_deadlines(now);
        match self.kept_by_key.get(&key) {
            None => Found::Absent,
            Some(Kept {
                ended: Some(why), ..
            }) => Found::Ended(*why),
            Some(kept) => Found::Live {
                record: kept.publication.bytes.clone(),
                relay: kept.publication.relay,
            },
        }
    }

    /// Puts what is left of a record, be the record itself here or not; a newer one, or another, stays as it is.
    ///
    /// # Errors
    /// Why not.
    pub fn bury(
        &mut self,
        publication: Publication,
        why: Ended,
        now: Instant,
    ) -> Result<(), PutRefused> {
        let key = publication.key;
        let put = self.put_if_absent(publication.clone(), now);
        // What was there before may be the same one.
        let kept = self.kept_by_key.get(&key);
        if !kept.is_some_and(|kept| kept.is_ended_by(&publication)) {
            return Err(put.err().unwrap_or(PutRefused::Taken));
        }
        self.end(key, why);
        Ok(())
    }

    /// Ends a record of `account`; one that has ended stays as it ended.
    ///
    /// # Errors
    /// Why not.
    pub fn withdraw(
        &mut self,
        key: LocatorKey,
        account: Account,
        why: Ended,
        now: Instant,
    ) -> Result<(), WithdrawRefused> {
        self.handle_deadlines(now);
        match self.kept_by_key.get(&key) {
            None => Err(WithdrawRefused::Absent),
            Some(kept) if kept.publication.account != account => Err(WithdrawRefused::NotYours),
            Some(_) => {
                self.end(key, why);
                Ok(())
            }
        }
    }

    /// Forgets a live record of `account`, as if it had not been put.
    pub fn forget(&mut self, key: LocatorKey, account: Account) {
        let kept = self.kept_by_key.get(&key);
        if kept.is_some_and(|kept| kept.ended.is_none() && kept.publication.account == account) {
            self.remove(key);
        }
    }

    /// Records that can be joined.
    pub fn live_records(&mut self, now: Instant) -> usize {
        self.handle_deadlines(now);
        self.live
    }

    /// Records and tombstones.
    pub fn len(&self) -> usize {
        self.kept_by_key.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.kept_by_key.is_empty()
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
        let account = kept.publication.account;
        self.live -= 1;
        if matches!(account, Account::Node(_)) {
            self.count_down(account);
        }
    }

    fn remove(&mut self, key: LocatorKey) {
        let Some(kept) = self.kept_by_key.remove(&key) else {
            return;
        };
        self.deadlines.remove(&(kept.due, key));
        let (account, is_live) = (kept.publication.account, kept.ended.is_none());
        self.live -= usize::from(is_live);
        if is_live || matches!(account, Account::Relay(_)) {
            self.count_down(account);
        }
    }

    fn count_down(&mut self, account: Account) {
        if let Some(held) = self.held_by_account.get_mut(&account) {
            *held -= 1;
            if *held == 0 {
                self.held_by_account.remove(&account);
            }
        }
    }
}

impl Kept {
    fn gives_way_to(&self, new: &Publication) -> bool {
        let old = &self.publication;
        let is_newer = old.session_key == new.session_key && old.sequence < new.sequence;
        self.ended.is_none() && (is_newer || self.is(new))
    }

    /// The end of what was published before, or has been put in its place with the same words, is not the end of this one.
    fn is_ended_by(&self, end: &Publication) -> bool {
        let kept = &self.publication;
        kept.account == end.account
            && kept.session_key == end.session_key
            && kept.sequence <= end.sequence
    }

    fn is(&self, other: &Publication) -> bool {
        let kept = &self.publication;
        kept.account == other.account && kept.bytes == other.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: RelayId = RelayId([0xa; 32]);

    fn node(node: u8) -> Account {
        Account::Node(NodeId([node; 32]))
    }

    fn publication(key: u8, node: u8) -> Publication {
        Publication {
            key: LocatorKey([key; 32]),
            session_key: [key; 32],
            sequence: 1,
            account: self::node(node),
            relay: HERE,
            bytes: Bytes::from(vec![key, node]),
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
        let live = Found::Live {
            record: publication(1, 1).bytes,
            relay: HERE,
        };
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
                && store.held_by_account.is_empty()
                && store.is_empty()
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
        let now_ms = 5 * EPOCH_MS + 2000;
        let publication =
            Publication::of_node(&record, Bytes::new(), NodeId([1; 32]), HERE, now_ms);
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
                store.withdraw(key(n), node(2), why, start),
                Err(WithdrawRefused::NotYours)
            );
            assert_eq!(store.withdraw(key(n), node(1), why, start), Ok(()));
            assert_eq!(
                store.withdraw(key(n), node(1), Ended::Used, start),
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
            store.withdraw(key(9), node(1), Ended::Used, start),
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
            account: node(2),
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
            Found::Live {
                record: Bytes::from_static(b"newer"),
                relay: HERE
            }
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
            .withdraw(key(0), node(1), Ended::Cancelled, start)
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

    #[test]
    fn a_record_moves_and_ends_when_its_node_says_so_and_at_no_other_relays_word() {
        let (start, elsewhere) = (Instant::now(), RelayId([0xb; 32]));
        let (there, nowhere) = (
            Account::Relay(elsewhere),
            Account::Relay(RelayId([0xc; 32])),
        );
        let mut store = Store::new(10);
        store.put_if_absent(publication(1, 1), start).expect("put");
        let as_of = |account, sequence| Publication {
            account,
            relay: elsewhere,
            sequence,
            bytes: Bytes::from(vec![u8::try_from(sequence).expect("small")]),
            ..publication(1, 1)
        };
        // The very same, as if its node were there.
        let copy = Publication {
            bytes: publication(1, 1).bytes,
            ..as_of(there, 1)
        };
        assert_eq!(
            store.put_if_absent(copy.clone(), start),
            Err(PutRefused::Taken)
        );
        let buried = store.bury(copy, Ended::Used, start);
        assert_eq!(buried, Err(PutRefused::Taken));
        // What only its node can have signed.
        assert_eq!(store.put_if_absent(as_of(there, 2), start), Ok(()));
        let Found::Live { relay, .. } = store.find(key(1), start) else {
            panic!("gone")
        };
        assert_eq!(relay, elsewhere);
        let replayed = store.bury(as_of(nowhere, 2), Ended::Used, start);
        assert_eq!(replayed, Err(PutRefused::Taken));
        let late = store.withdraw(key(1), node(1), Ended::Used, start);
        assert_eq!(late, Err(WithdrawRefused::NotYours));
        store.forget(key(1), node(1));
        assert_eq!(store.live_records(start), 1, "only who put it may");
        // Who did not have the last one learns of its end all the same.
        for _ in 0..2 {
            assert_eq!(store.bury(as_of(there, 3), Ended::Used, start), Ok(()));
            assert_eq!(store.find(key(1), start), Found::Ended(Ended::Used));
        }
        assert_eq!(store.find(key(1), start + secs(900)), Found::Absent);
        store.put_if_absent(as_of(there, 2), start).expect("put");
        store.forget(key(1), there);
        assert_eq!(store.find(key(1), start), Found::Absent);
        assert!(store.held_by_account.is_empty() && store.deadlines.is_empty());
    }

    #[test]
    fn what_is_said_again_or_late_changes_nothing_that_is_newer() {
        let (start, there) = (Instant::now(), Account::Relay(RelayId([0xb; 32])));
        let of = |sequence, session_key| Publication {
            account: there,
            session_key: [session_key; 32],
            sequence,
            bytes: Bytes::from(vec![u8::try_from(sequence).expect("small"), session_key]),
            ..publication(1, 1)
        };
        let mut store = Store::new(10);
        // Moved away from that relay, and back to it: what it said then comes after what it says now.
        assert_eq!(store.put_if_absent(of(3, 1), start), Ok(()));
        let taken = Err(PutRefused::Taken);
        for late in [of(1, 1), of(2, 1), of(9, 2)] {
            assert_eq!(store.put_if_absent(late.clone(), start), taken);
            assert_eq!(store.bury(late, Ended::Cancelled, start), taken);
        }
        assert_eq!(store.put_if_absent(of(3, 1), start), Ok(()), "again");
        assert_eq!(store.live_records(start), 1);
        for _ in 0..2 {
            assert_eq!(store.bury(of(3, 1), Ended::Used, start), Ok(()));
        }
        // Not how it ended first, nor that it was there.
        assert_eq!(store.bury(of(3, 1), Ended::Expired, start), Ok(()));
        assert_eq!(store.put_if_absent(of(3, 1), start), taken);
        assert_eq!(store.find(key(1), start), Found::Ended(Ended::Used));
    }

    #[test]
    fn a_flood_of_one_relay_leaves_room_for_the_others() {
        let start = Instant::now();
        let mut store = Store::new(2 * MAX_PER_RELAY);
        let flood = |n: u32, relay: u8| {
            let mut key = [relay; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            Publication {
                key: LocatorKey(key),
                account: Account::Relay(RelayId([relay; 32])),
                relay: RelayId([relay; 32]),
                ..publication(1, 1)
            }
        };
        store.put_if_absent(flood(0, 1), start).expect("room");
        let put = (0..100_000).filter(|&n| store.put_if_absent(flood(n, 2), start).is_ok());
        assert_eq!(put.count(), MAX_PER_RELAY);
        let first = flood(0, 1).key;
        assert!(matches!(store.find(first, start), Found::Live { .. }));
        assert_eq!(store.put_if_absent(flood(1, 1), start), Ok(()));
        assert_eq!(store.put_if_absent(publication(9, 9), start), Ok(()));
        // What has ended still has its place.
        let ended = store.withdraw(flood(0, 2).key, flood(0, 2).account, Ended::Used, start);
        assert_eq!(ended, Ok(()));
        let more = store.put_if_absent(flood(100_000, 2), start);
        assert_eq!(more, Err(PutRefused::Full));
        // However many relays there are, this one's nodes have room.
        let put = (0..100_000).filter(|&n| store.put_if_absent(flood(n, 3), start).is_ok());
        assert!(put.count() < MAX_PER_RELAY);
        assert_eq!(store.len(), 2 * MAX_PER_RELAY * 3 / 4);
        assert_eq!(
            store.put_if_absent(flood(0, 1), start),
            Ok(()),
            "it has its place"
        );
        assert_eq!(store.put_if_absent(publication(8, 8), start), Ok(()));
    }
}
