//! Records under their keys. Pure.
//!
//! ```text
//! host    absent ── put ──▶ live ── withdrawn, or its time is over ──▶ tombstone(why) ── nobody asks any more ──▶ absent
//! device  absent ── put ──▶ live ── gone, or its time is over ──▶ last seen ── seven days, or no room ──▶ absent
//!                            ▲ ◀── put, later ──────────────────────┘
//! ```
//!
//! A host's tombstone keeps the key: whoever types a dead code learns why it is dead, and nobody else can settle under
//! it (`NOISE-QUIC` part 4.4). A device's key is nobody else's anyhow; it comes and goes. Deadlines wait in a queue; nothing is ever
//! scanned.

// What was taken back a moment ago.
mod forgotten;

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_proto::{
    id::{NodeId, RelayId},
    record::{CLOCK_TOLERANCE_MS, EPOCH_MS, Kind, Record, RecordKey},
};

use self::forgotten::Forgotten;

/// Live host records of one node: a person gives one code at a time, a second and third window included.
pub const MAX_LIVE_PER_NODE: usize = 4;
/// Live device records of one node: it is one device.
pub const MAX_DEVICES_PER_NODE: usize = 1;
/// Host records and tombstones kept for one other relay: half the locators of a realm in an epoch. However many it sends, those of
/// the others stay.
pub const MAX_PER_RELAY: usize = 1 << 14;
/// Device records kept for one other relay, those of devices that have gone included: as many as it has nodes by default, half of
/// them once more.
pub const MAX_DEVICES_PER_RELAY: usize = 1 << 15;
/// How long it is known when a device was there last, unless there is no room; the oldest falls out first.
pub const LAST_SEEN_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// On whose account a record is kept: whose it is, as far as this relay can know. Another relay answers for its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// A node of this relay, which has [`MAX_LIVE_PER_NODE`], or [`MAX_DEVICES_PER_NODE`].
    Node(NodeId),
    /// Another relay, which has [`MAX_PER_RELAY`], or [`MAX_DEVICES_PER_RELAY`].
    Relay(RelayId),
}

impl Account {
    /// The relay that answers for it; none for this one.
    fn relay(self) -> Option<RelayId> {
        match self {
            Self::Node(_) => None,
            Self::Relay(relay) => Some(relay),
        }
    }

    /// How many it may have, and what it is told when it has them.
    fn most(self, kind: Kind) -> (usize, PutRefused) {
        match (self, kind) {
            (Self::Node(_), Kind::Host) => (MAX_LIVE_PER_NODE, PutRefused::NodeFull),
            (Self::Node(_), Kind::Device) => (MAX_DEVICES_PER_NODE, PutRefused::NodeFull),
            (Self::Relay(_), Kind::Host) => (MAX_PER_RELAY, PutRefused::Full),
            (Self::Relay(_), Kind::Device) => (MAX_DEVICES_PER_RELAY, PutRefused::Full),
        }
    }
}

/// A record to keep, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    key: RecordKey,
    kind: Kind,
    publisher: [u8; 32],
    sequence: u64,
    account: Account,
    /// Where its publisher is.
    relay: RelayId,
    bytes: Bytes,
    /// When its publisher signed it, by its clock: it was there.
    signed_unix_ms: u64,
    live_for: Duration,
    kept_for: Duration,
    /// Of what its relay says; 0 when it does not say.
    number: u64,
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
        let live_for = from_now(record.expiry_ms);
        let kept_for = match record.kind() {
            Kind::Host => {
                // A joiner asks for this key until the epoch after its own is over, by a clock that may be late.
                let asked_until_ms =
                    (record.not_before_ms / EPOCH_MS + 2) * EPOCH_MS + CLOCK_TOLERANCE_MS;
                from_now(asked_until_ms).max(live_for)
            }
            Kind::Device => {
                let gone_for = Duration::from_millis(unix_ms.saturating_sub(record.expiry_ms));
                live_for + LAST_SEEN_FOR.saturating_sub(gone_for)
            }
        };
        Self {
            key: record.key,
            kind: record.kind(),
            publisher: record.publisher,
            sequence: record.sequence,
            account,
            relay,
            bytes,
            signed_unix_ms: record.not_before_ms,
            live_for,
            kept_for,
            number: 0,
        }
    }

    /// The same, as its relay has said it by that number: what it says later has a greater one.
    pub fn numbered(self, number: u64) -> Self {
        Self { number, ..self }
    }

    /// Where it is to be kept.
    pub fn key(&self) -> RecordKey {
        self.key
    }

    /// Whose record it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How long it can be joined, or its device is believed to be there.
    pub fn live_for(&self) -> Duration {
        self.live_for
    }

    /// How long it is remembered.
    pub fn kept_for(&self) -> Duration {
        self.kept_for
    }

    /// On whose account it is kept.
    pub fn account(&self) -> Account {
        self.account
    }

    /// The record as it was signed.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// When its publisher signed it, by its clock.
    pub fn signed_unix_ms(&self) -> u64 {
        self.signed_unix_ms
    }
}

/// Why a code can no longer be used; of a device, whether it went or was heard no more.
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
    /// A device's.
    Device {
        /// As it was signed.
        record: Bytes,
        /// How it went and when it was there last, milliseconds since 1970; none while it is there.
        gone: Option<(Ended, u64)>,
    },
    /// Nothing.
    Absent,
}

/// Why a record was not put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutRefused {
    /// By another record, or what is left of one.
    #[error("the key is held")]
    Taken,
    /// The node has as many live records as it may.
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
    /// Of a device that has ended: when it was there last.
    seen_unix_ms: u64,
    /// End of its life while live, of its tombstone afterwards.
    due: Instant,
    kept_until: Instant,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    capacity: usize,
    kept_by_key: HashMap<RecordKey, Kept>,
    deadlines: BTreeSet<(Instant, RecordKey)>,
    /// By [`Kind`].
    live: [usize; 2],
    all: [usize; 2],
    /// Live records of nodes, all records of relays.
    held_by_account: HashMap<(Account, Kind), usize>,
    /// Devices that have gone, the oldest first: those of this relay's nodes together, those of each other relay for themselves.
    gone_by_relay: HashMap<Option<RelayId>, BTreeSet<(Instant, RecordKey)>>,
    forgotten: Forgotten,
}

impl Store {
    /// An empty store of at most `capacity` records and tombstones of hosts, and as many of devices.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            kept_by_key: HashMap::new(),
            deadlines: BTreeSet::new(),
            live: [0; 2],
            all: [0; 2],
            held_by_account: HashMap::new(),
            gone_by_relay: HashMap::new(),
            forgotten: Forgotten::default(),
        }
    }

    /// Puts a record where nothing is, or in place of an older one of the same publisher: only its node can sign that, and so
    /// moves to another relay. A device takes its key from whoever has settled there.
    ///
    /// The same bytes are accepted again on the same account: so a node whose connection broke comes back.
    ///
    /// # Errors
    /// Why not.
    pub fn put_if_absent(
        &mut self,
        mut publication: Publication,
        now: Instant,
    ) -> Result<(), PutRefused> {
        self.handle_deadlines(now);
        let (key, account, kind) = (publication.key, publication.account, publication.kind);
        let is_taken_back = self.is_taken_back(&publication, now);
        let kept = self.kept_by_key.get(&key);
        let is_free = kept.map_or(!is_taken_back, |kept| kept.gives_way_to(&publication));
        if !is_free {
            return Err(PutRefused::Taken);
        }
        // The very same, said before and after something else: that was later.
        let said = kept.filter(|kept| kept.publication.account == account);
        publication.number = said.map_or(0, Kept::number).max(publication.number);
        self.check_room(key, account, kind, now)?;
        self.remove(key);
        self.make_room(account, kind);
        let (due, kept_until) = (now + publication.live_for, now + publication.kept_for);
        self.live[kind as usize] += 1;
        self.all[kind as usize] += 1;
        *self.held_by_account.entry((account, kind)).or_default() += 1;
        self.deadlines.insert((due, key));
        self.kept_by_key.insert(
            key,
            Kept {
                seen_unix_ms: publication.signed_unix_ms,
                publication,
                ended: None,
                due,
                kept_until,
            },
        );
        Ok(())
    }

    /// Whether something may be kept under `key` on this account: more, unless it stands there already. Other relays leave a
    /// quarter of the store to the nodes of this one: there may be any number of them. A device that is there has the place of one that
    /// has gone, of the same relay.
    ///
    /// # Errors
    /// Why not.
    pub fn check_room(
        &mut self,
        key: RecordKey,
        account: Account,
        kind: Kind,
        now: Instant,
    ) -> Result<(), PutRefused> {
        self.handle_deadlines(now);
        let kept = self.kept_by_key.get(&key);
        let is_kept = kept.is_some_and(|kept| kept.publication.kind == kind);
        if is_kept && kept.is_some_and(|kept| kept.publication.account == account) {
            return Ok(());
        }
        let can_make_room = kind == Kind::Device && self.oldest_gone(account).is_some();
        if self.has_its_share(account, kind)
            && !(can_make_room && matches!(account, Account::Relay(_)))
        {
            return Err(account.most(kind).1);
        }
        if !is_kept && self.is_full_for(account, kind) && !can_make_room {
            return Err(PutRefused::Full);
        }
        Ok(())
    }

    fn has_its_share(&self, account: Account, kind: Kind) -> bool {
        let held = self.held_by_account.get(&(account, kind)).copied();
        held.unwrap_or(0) >= account.most(kind).0
    }

    fn is_full_for(&self, account: Account, kind: Kind) -> bool {
        let most = match account {
            Account::Node(_) => self.capacity,
            Account::Relay(_) => self.capacity - self.capacity / 4,
        };
        self.all[kind as usize] >= most
    }

    fn oldest_gone(&self, account: Account) -> Option<RecordKey> {
        let gone = self.gone_by_relay.get(&account.relay())?;
        gone.first().map(|&(_, key)| key)
    }

    /// As [`Self::check_room`] has found that it can be.
    fn make_room(&mut self, account: Account, kind: Kind) {
        if kind == Kind::Device
            && (self.has_its_share(account, kind) || self.is_full_for(account, kind))
            && let Some(oldest) = self.oldest_gone(account)
        {
            self.remove(oldest);
        }
    }

    /// Whether this very record is kept, on its account, and can be joined.
    pub fn has(&mut self, publication: &Publication, now: Instant) -> bool {
        self.handle_deadlines(now);
        let kept = self.kept_by_key.get(&publication.key);
        kept.is_some_and(|kept| kept.ended.is_none() && kept.is(publication))
    }

    /// What is kept under `key`.
    pub fn find(&mut self, key: RecordKey, now: Instant) -> Found {
        self.handle_deadlines(now);
        let Some(kept) = self.kept_by_key.get(&key) else {
            return Found::Absent;
        };
        let record = kept.publication.bytes.clone();
        match (kept.publication.kind, kept.ended) {
            (Kind::Device, ended) => Found::Device {
                record,
                gone: ended.map(|why| (why, kept.seen_unix_ms)),
            },
            (Kind::Host, Some(why)) => Found::Ended(why),
            (Kind::Host, None) => Found::Live {
                record,
                relay: kept.publication.relay,
            },
        }
    }

    /// Puts what is left of a record, be the record itself here or not; a newer one, or another, stays as it is. A device was there last
    /// at `seen_unix_ms`.
    ///
    /// # Errors
    /// Why not.
    pub fn bury(
        &mut self,
        publication: Publication,
        why: Ended,
        seen_unix_ms: u64,
        now: Instant,
    ) -> Result<(), PutRefused> {
        let key = publication.key;
        let put = self.put_if_absent(publication.clone(), now);
        // What was there before may be the same one.
        let kept = self.kept_by_key.get(&key);
        if !kept.is_some_and(|kept| kept.is_ended_by(&publication)) {
            return Err(put.err().unwrap_or(PutRefused::Taken));
        }
        self.end(key, why, seen_unix_ms);
        if let Some(kept) = self.kept_by_key.get_mut(&key) {
            kept.publication.number = publication.number.max(kept.number());
        }
        Ok(())
    }

    /// Ends a record of `account`, of a device that was there until `seen_unix_ms`; one that has ended stays as it ended.
    ///
    /// # Errors
    /// Why not.
    pub fn withdraw(
        &mut self,
        key: RecordKey,
        account: Account,
        why: Ended,
        seen_unix_ms: u64,
        now: Instant,
    ) -> Result<(), WithdrawRefused> {
        self.handle_deadlines(now);
        match self.kept_by_key.get(&key) {
            None => Err(WithdrawRefused::Absent),
            Some(kept) if kept.publication.account != account => Err(WithdrawRefused::NotYours),
            Some(_) => {
                self.end(key, why, seen_unix_ms);
                Ok(())
            }
        }
    }

    /// A device of this relay has gone, and was there until `seen_unix_ms`. What a host has put stays as it is: it may have moved.
    pub fn leave(&mut self, key: RecordKey, seen_unix_ms: u64, now: Instant) {
        self.handle_deadlines(now);
        let kept = self.kept_by_key.get(&key).map(|kept| &kept.publication);
        let is_ours = |kept: &Publication| {
            kept.kind == Kind::Device && matches!(kept.account, Account::Node(_))
        };
        if kept.is_some_and(is_ours) {
            self.end(key, Ended::Cancelled, seen_unix_ms);
        }
    }

    /// Devices of this relay that have gone, how, and when they were there last, milliseconds since 1970.
    pub fn gone(&mut self, now: Instant) -> Vec<(Publication, Ended, u64)> {
        self.handle_deadlines(now);
        let gone = self.gone_by_relay.get(&None).into_iter().flatten();
        gone.filter_map(|(_, key)| {
            let kept = self.kept_by_key.get(key)?;
            Some((kept.publication.clone(), kept.ended?, kept.seen_unix_ms))
        })
        .collect()
    }

    /// Forgets a live record of `account`, as if it had not been put; another relay says so by that number, if it is not 0, and not of what
    /// it has said since.
    pub fn forget(&mut self, key: RecordKey, account: Account, number: u64, now: Instant) {
        let kept = self.kept_by_key.get(&key);
        let of_it = kept.filter(|kept| kept.publication.account == account);
        if of_it.is_some_and(|kept| number != 0 && number < kept.number()) {
            return;
        }
        if of_it.is_some_and(|kept| kept.ended.is_none()) {
            self.remove(key);
        }
        if let Some(relay) = account.relay()
            && number != 0
        {
            self.forgotten.note(relay, key, number, now);
        }
    }

    /// Whether its relay has taken it back since it said so.
    fn is_taken_back(&mut self, publication: &Publication, now: Instant) -> bool {
        let (key, number) = (publication.key, publication.number);
        publication
            .account
            .relay()
            .is_some_and(|relay| number != 0 && self.forgotten.is_late(relay, key, number, now))
    }

    /// Records that can be joined, or devices that are there.
    pub fn live_records(&mut self, kind: Kind, now: Instant) -> usize {
        self.handle_deadlines(now);
        self.live[kind as usize]
    }

    /// Records and tombstones, or devices and when they were there last.
    pub fn len(&self, kind: Kind) -> usize {
        self.all[kind as usize]
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.kept_by_key.is_empty()
    }

    fn handle_deadlines(&mut self, now: Instant) {
        while let Some(&(due, key)) = self.deadlines.first()
            && due <= now
        {
            let kept = self.kept_by_key.get(&key);
            let last_said = kept
                .filter(|kept| kept.ended.is_none())
                .map(|kept| kept.publication.signed_unix_ms);
            if let Some(last_said) = last_said {
                self.end(key, Ended::Expired, last_said);
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
    fn end(&mut self, key: RecordKey, why: Ended, seen_unix_ms: u64) {
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
        let (account, kind) = (kept.publication.account, kept.publication.kind);
        match kind {
            // Nobody needs the record itself any more.
            Kind::Host => kept.publication.bytes = Bytes::new(),
            Kind::Device => {
                kept.seen_unix_ms = seen_unix_ms;
                let gone = self.gone_by_relay.entry(account.relay()).or_default();
                gone.insert((kept.due, key));
            }
        }
        self.deadlines.insert((kept.due, key));
        self.live[kind as usize] -= 1;
        if matches!(account, Account::Node(_)) {
            self.count_down(account, kind);
        }
    }

    fn remove(&mut self, key: RecordKey) {
        let Some(kept) = self.kept_by_key.remove(&key) else {
            return;
        };
        self.deadlines.remove(&(kept.due, key));
        let (account, kind) = (kept.publication.account, kept.publication.kind);
        let is_live = kept.ended.is_none();
        self.live[kind as usize] -= usize::from(is_live);
        self.all[kind as usize] -= 1;
        if !is_live && kind == Kind::Device {
            self.forget_gone(account.relay(), (kept.due, key));
        }
        if is_live || matches!(account, Account::Relay(_)) {
            self.count_down(account, kind);
        }
    }

    fn forget_gone(&mut self, relay: Option<RelayId>, which: (Instant, RecordKey)) {
        if let Some(gone) = self.gone_by_relay.get_mut(&relay) {
            gone.remove(&which);
            if gone.is_empty() {
                self.gone_by_relay.remove(&relay);
            }
        }
    }

    fn count_down(&mut self, account: Account, kind: Kind) {
        if let Some(held) = self.held_by_account.get_mut(&(account, kind)) {
            *held -= 1;
            if *held == 0 {
                self.held_by_account.remove(&(account, kind));
            }
        }
    }
}

impl Kept {
    fn gives_way_to(&self, new: &Publication) -> bool {
        let old = &self.publication;
        let is_newer = old.publisher == new.publisher && old.sequence < new.sequence;
        let is_live = self.ended.is_none();
        match (old.kind, new.kind) {
            (Kind::Host, Kind::Host) => is_live && (is_newer || self.is(new)),
            (Kind::Device, Kind::Device) => is_newer || is_live && self.is(new),
            // Its key is its own, which no host's is.
            (Kind::Host, Kind::Device) => true,
            (Kind::Device, Kind::Host) => false,
        }
    }

    /// The end of what was published before, or has been put in its place with the same words, is not the end of this one.
    fn is_ended_by(&self, end: &Publication) -> bool {
        let kept = &self.publication;
        let is_late = kept.sequence == end.sequence && end.number != 0 && end.number < kept.number;
        kept.account == end.account
            && kept.publisher == end.publisher
            && kept.sequence <= end.sequence
            && !is_late
    }

    fn number(&self) -> u64 {
        self.publication.number
    }

    fn is(&self, other: &Publication) -> bool {
        let kept = &self.publication;
        kept.account == other.account && kept.bytes == other.bytes
    }
}

#[cfg(test)]
mod tests {
    use remora_proto::record::{HostRole, Subject, Waiting};

    use super::*;

    const HERE: RelayId = RelayId([0xa; 32]);

    fn node(node: u8) -> Account {
        Account::Node(NodeId([node; 32]))
    }

    fn publication(key: u8, node: u8) -> Publication {
        Publication {
            key: RecordKey([key; 32]),
            kind: Kind::Host,
            publisher: [key; 32],
            sequence: 1,
            account: self::node(node),
            relay: HERE,
            bytes: Bytes::from(vec![key, node]),
            signed_unix_ms: 0,
            live_for: secs(600),
            kept_for: secs(900),
            number: 0,
        }
    }

    fn key(key: u8) -> RecordKey {
        RecordKey([key; 32])
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
        assert_eq!(store.live_records(Kind::Host, start + secs(599)), 1);
        assert_eq!(
            store.find(key(1), start + secs(600)),
            Found::Ended(Ended::Expired)
        );
        assert_eq!(store.live_records(Kind::Host, start + secs(600)), 0);
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
            key: key(1),
            publisher: [1; 32],
            subject: Subject::Waiting(Waiting {
                nonce: [0; 16],
                role: HostRole::Helper,
            }),
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
                store.withdraw(key(n), node(2), why, 0, start),
                Err(WithdrawRefused::NotYours)
            );
            assert_eq!(store.withdraw(key(n), node(1), why, 0, start), Ok(()));
            assert_eq!(
                store.withdraw(key(n), node(1), Ended::Used, 0, start),
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
            store.withdraw(key(9), node(1), Ended::Used, 0, start),
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
            publisher: [9; 32],
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
        assert_eq!(store.live_records(Kind::Host, start), 1);
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
            .withdraw(key(0), node(1), Ended::Cancelled, 0, start)
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
        let buried = store.bury(copy, Ended::Used, 0, start);
        assert_eq!(buried, Err(PutRefused::Taken));
        // What only its node can have signed.
        assert_eq!(store.put_if_absent(as_of(there, 2), start), Ok(()));
        let Found::Live { relay, .. } = store.find(key(1), start) else {
            panic!("gone")
        };
        assert_eq!(relay, elsewhere);
        let replayed = store.bury(as_of(nowhere, 2), Ended::Used, 0, start);
        assert_eq!(replayed, Err(PutRefused::Taken));
        let late = store.withdraw(key(1), node(1), Ended::Used, 0, start);
        assert_eq!(late, Err(WithdrawRefused::NotYours));
        store.forget(key(1), node(1), 0, start);
        assert_eq!(
            store.live_records(Kind::Host, start),
            1,
            "only who put it may"
        );
        // Who did not have the last one learns of its end all the same.
        for _ in 0..2 {
            assert_eq!(store.bury(as_of(there, 3), Ended::Used, 0, start), Ok(()));
            assert_eq!(store.find(key(1), start), Found::Ended(Ended::Used));
        }
        assert_eq!(store.find(key(1), start + secs(900)), Found::Absent);
        store.put_if_absent(as_of(there, 2), start).expect("put");
        store.forget(key(1), there, 0, start);
        assert_eq!(store.find(key(1), start), Found::Absent);
        assert!(store.held_by_account.is_empty() && store.deadlines.is_empty());
    }

    #[test]
    fn what_is_said_again_or_late_changes_nothing_that_is_newer() {
        let (start, there) = (Instant::now(), Account::Relay(RelayId([0xb; 32])));
        let of = |sequence, publisher| Publication {
            account: there,
            publisher: [publisher; 32],
            sequence,
            bytes: Bytes::from(vec![u8::try_from(sequence).expect("small"), publisher]),
            ..publication(1, 1)
        };
        let mut store = Store::new(10);
        // Moved away from that relay, and back to it: what it said then comes after what it says now.
        assert_eq!(store.put_if_absent(of(3, 1), start), Ok(()));
        let taken = Err(PutRefused::Taken);
        for late in [of(1, 1), of(2, 1), of(9, 2)] {
            assert_eq!(store.put_if_absent(late.clone(), start), taken);
            assert_eq!(store.bury(late, Ended::Cancelled, 0, start), taken);
        }
        assert_eq!(store.put_if_absent(of(3, 1), start), Ok(()), "again");
        assert_eq!(store.live_records(Kind::Host, start), 1);
        for _ in 0..2 {
            assert_eq!(store.bury(of(3, 1), Ended::Used, 0, start), Ok(()));
        }
        // Not how it ended first, nor that it was there.
        assert_eq!(store.bury(of(3, 1), Ended::Expired, 0, start), Ok(()));
        assert_eq!(store.put_if_absent(of(3, 1), start), taken);
        assert_eq!(store.find(key(1), start), Found::Ended(Ended::Used));
    }

    #[test]
    fn what_a_relay_takes_back_late_stays_and_what_it_took_back_does_not_come_again() {
        let (start, relay) = (Instant::now(), RelayId([0xb; 32]));
        let there = Account::Relay(relay);
        let of = |number: u64, publisher: u8| {
            Publication {
                account: there,
                publisher: [publisher; 32],
                ..publication(1, 1)
            }
            .numbered(number)
        };
        let live = |store: &mut Store| matches!(store.find(key(1), start), Found::Live { .. });
        let mut store = Store::new(10);
        // Taken back, and published again by another node, or the same one; then what was said in between comes.
        for again in [2, 1] {
            let mut store = Store::new(10);
            store.forget(key(1), there, 5, start);
            assert_eq!(store.put_if_absent(of(6, again), start), Ok(()));
            store.forget(key(1), there, 5, start);
            assert!(live(&mut store));
            let ended = store.bury(of(4, again), Ended::Used, 0, start);
            assert_eq!(ended, Err(PutRefused::Taken));
            assert!(live(&mut store));
            store.forget(key(1), there, 7, start);
            assert!(!live(&mut store));
        }
        // The other way round: taken back before it comes.
        store.forget(key(1), there, 5, start);
        assert_eq!(store.put_if_absent(of(4, 1), start), Err(PutRefused::Taken));
        assert!(!live(&mut store));
        let (later, other) = (of(6, 1), Account::Relay(RelayId([0xc; 32])));
        let others = Publication {
            account: other,
            number: 1,
            ..of(0, 3)
        };
        assert_eq!(store.put_if_absent(others, start), Ok(()), "another's");
        store.forget(key(1), other, 2, start);
        assert_eq!(store.put_if_absent(later, start), Ok(()));
        // Said twice, the first comes last.
        assert_eq!(store.put_if_absent(of(3, 1), start), Ok(()), "the same");
        store.forget(key(1), there, 5, start);
        assert!(live(&mut store));
        // A relay that does not count is believed as before.
        store.forget(key(1), there, 0, start);
        assert!(!live(&mut store));
        assert_eq!(store.put_if_absent(of(0, 1), start), Ok(()));
    }

    #[test]
    fn a_flood_of_one_relay_leaves_room_for_the_others() {
        let start = Instant::now();
        let mut store = Store::new(2 * MAX_PER_RELAY);
        let flood = |n: u32, relay: u8| {
            let mut key = [relay; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            Publication {
                key: RecordKey(key),
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
        let ended = store.withdraw(flood(0, 2).key, flood(0, 2).account, Ended::Used, 0, start);
        assert_eq!(ended, Ok(()));
        let more = store.put_if_absent(flood(100_000, 2), start);
        assert_eq!(more, Err(PutRefused::Full));
        // However many relays there are, this one's nodes have room.
        let put = (0..100_000).filter(|&n| store.put_if_absent(flood(n, 3), start).is_ok());
        assert!(put.count() < MAX_PER_RELAY);
        assert_eq!(store.len(Kind::Host), 2 * MAX_PER_RELAY * 3 / 4);
        assert_eq!(
            store.put_if_absent(flood(0, 1), start),
            Ok(()),
            "it has its place"
        );
        assert_eq!(store.put_if_absent(publication(8, 8), start), Ok(()));
    }

    /// Of the device with that key, signed at `sequence` seconds.
    fn device(key: u32, sequence: u64, account: Account) -> Publication {
        let mut bytes = [0xd; 32];
        bytes[..4].copy_from_slice(&key.to_be_bytes());
        Publication {
            key: RecordKey(bytes),
            kind: Kind::Device,
            publisher: bytes,
            sequence,
            account,
            relay: account.relay().unwrap_or(HERE),
            bytes: Bytes::from([&key.to_be_bytes()[..], &sequence.to_be_bytes()].concat()),
            signed_unix_ms: sequence * 1000,
            live_for: secs(600),
            kept_for: secs(600) + LAST_SEEN_FOR,
            number: 0,
        }
    }

    fn seen(publication: &Publication, gone: Option<(Ended, u64)>) -> Found {
        Found::Device {
            record: publication.bytes.clone(),
            gone,
        }
    }

    #[test]
    fn a_device_comes_and_goes_and_it_is_known_for_a_week_when_it_was_there_last() {
        let start = Instant::now();
        let mut store = Store::new(10);
        let (first, second) = (device(1, 1, node(1)), device(1, 2, node(1)));
        let key = first.key;
        assert_eq!(store.put_if_absent(first.clone(), start), Ok(()));
        assert_eq!(store.find(key, start), seen(&first, None));
        assert_eq!(store.put_if_absent(second.clone(), start), Ok(()));
        let replayed = store.put_if_absent(first.clone(), start);
        assert_eq!(replayed, Err(PutRefused::Taken));
        let left = store.withdraw(key, node(1), Ended::Cancelled, 7000, start + secs(5));
        assert_eq!(left, Ok(()));
        let gone = seen(&second, Some((Ended::Cancelled, 7000)));
        assert_eq!(store.find(key, start + secs(5)), gone);
        for old in [first, second] {
            let again = store.put_if_absent(old, start + secs(6));
            assert_eq!(again, Err(PutRefused::Taken), "that is over");
        }
        // It is back, and then is heard no more.
        let third = device(1, 10, node(2));
        assert_eq!(store.put_if_absent(third.clone(), start + secs(10)), Ok(()));
        assert_eq!(store.live_records(Kind::Device, start + secs(609)), 1);
        let silent = seen(&third, Some((Ended::Expired, 10_000)));
        let end = start + secs(610) + LAST_SEEN_FOR;
        assert_eq!(store.find(key, start + secs(610)), silent);
        assert_eq!(store.find(key, end - secs(1)), silent);
        assert_eq!(store.find(key, end), Found::Absent);
        let is_empty = store.deadlines.is_empty()
            && store.held_by_account.is_empty()
            && store.gone_by_relay.is_empty();
        assert!(is_empty && (store.live, store.all) == ([0; 2], [0; 2]));
    }

    #[test]
    fn a_device_takes_its_key_from_whoever_settled_there() {
        let start = Instant::now();
        let mut store = Store::new(10);
        let device = device(1, 1, node(2));
        let squatter = Publication {
            key: device.key,
            sequence: 99,
            ..publication(1, 1)
        };
        assert_eq!(store.put_if_absent(squatter.clone(), start), Ok(()));
        let ended = store.withdraw(device.key, node(1), Ended::Used, 0, start);
        assert_eq!(ended, Ok(()));
        assert_eq!(store.put_if_absent(device.clone(), start), Ok(()));
        let back = store.put_if_absent(squatter, start);
        assert_eq!(back, Err(PutRefused::Taken));
        assert_eq!(store.find(device.key, start), seen(&device, None));
    }

    #[test]
    fn devices_that_are_there_have_the_place_of_those_that_have_gone_at_the_same_relay() {
        let (start, cap) = (
            Instant::now(),
            u32::try_from(MAX_DEVICES_PER_RELAY).expect("fits"),
        );
        let mut store = Store::new(4 * MAX_DEVICES_PER_RELAY);
        let [one, other] = [1, 2].map(|relay| Account::Relay(RelayId([relay; 32])));
        for n in 0..cap {
            let put = store.put_if_absent(device(n, 1, one), start);
            assert_eq!(put, Ok(()));
        }
        let theirs = device(cap, 1, other);
        assert_eq!(store.put_if_absent(theirs.clone(), start), Ok(()));
        let left = store.withdraw(theirs.key, other, Ended::Cancelled, 0, start);
        assert_eq!(left, Ok(()));
        let more = device(cap + 1, 1, one);
        let full = Err(PutRefused::Full);
        assert_eq!(
            store.put_if_absent(more.clone(), start),
            full,
            "all are there"
        );
        for (n, later) in [(5, 1), (3, 2)] {
            let newer = device(n, later, one);
            assert_eq!(
                store.bury(newer, Ended::Cancelled, 0, start + secs(later)),
                Ok(())
            );
        }
        let now = start + secs(3);
        assert_eq!(store.put_if_absent(more.clone(), now), Ok(()));
        assert_eq!(
            store.find(device(5, 1, one).key, now),
            Found::Absent,
            "the first"
        );
        assert!(matches!(
            store.find(device(3, 1, one).key, now),
            Found::Device { gone: Some(_), .. }
        ));
        assert_eq!(store.find(more.key, now), seen(&more, None));
        assert!(matches!(
            store.find(theirs.key, now),
            Found::Device { gone: Some(_), .. }
        ));
        // Codes have a place of their own.
        assert_eq!(store.put_if_absent(publication(9, 9), now), Ok(()));
    }

    #[test]
    fn a_node_is_one_device_and_nodes_push_out_the_oldest_that_has_gone() {
        let start = Instant::now();
        let mut store = Store::new(3);
        let leave = |store: &mut Store, device: &Publication, at| {
            let left = store.withdraw(device.key, device.account, Ended::Cancelled, 0, at);
            assert_eq!(left, Ok(()));
        };
        let first = device(0, 1, node(0));
        assert_eq!(store.put_if_absent(first.clone(), start), Ok(()));
        let second = store.put_if_absent(device(1, 1, node(0)), start);
        assert_eq!(second, Err(PutRefused::NodeFull));
        leave(&mut store, &first, start);
        for n in 1..10 {
            let now = start + secs(n.into());
            let next = device(n.into(), 1, node(n));
            assert_eq!(store.put_if_absent(next.clone(), now), Ok(()));
            leave(&mut store, &next, now);
            assert!(store.len(Kind::Device) <= 3);
        }
        let now = start + secs(10);
        let left =
            [6, 7, 8, 9].map(|n| store.find(device(n, 1, node(0)).key, now) != Found::Absent);
        assert_eq!(left, [false, true, true, true]);
    }
}
