//! The records that this relay keeps: of its own nodes, and those that other relays ask it to keep.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use remora_proto::{
    id::{NodeId, RelayId},
    record::{Kind, MAX_RECORD_BYTES, Record, RecordKey, Subject},
    wire::message::{
        control::Gone,
        mesh::{self as wire, Find, Forget, Keep, Reason, response::Body as Answer},
    },
};

use super::{
    Ended, Found, Pending, Publication, PutRefused, Rendezvous, Sighting, Store, WithdrawRefused,
    store::Account,
};
use crate::{control::request::unix_ms, mesh};

/// Relays that keep a record, beside the one that its publisher is at: of five, two may fail at once and two more be cut off.
pub const REPLICAS: NonZeroUsize = NonZeroUsize::new(5).expect("not 0");

/// Records in this process's memory, gone with it: their codes live ten minutes at most.
///
/// A lock instead of a task: every use is a few map operations, and none waits while holding it.
#[derive(Debug)]
pub struct Shelf {
    store: Mutex<Store>,
    me: RelayId,
    realm: String,
}

impl Shelf {
    /// An empty shelf of the relay `me`, for at most `capacity` records and tombstones of `realm`.
    pub fn new(capacity: usize, me: RelayId, realm: String) -> Self {
        Self {
            store: Mutex::new(Store::new(capacity)),
            me,
            realm,
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Store, Instant) -> T) -> T {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut store, Instant::now())
    }

    /// Who keeps it.
    pub fn relay(&self) -> RelayId {
        self.me
    }

    /// Name space of the records.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// As [`Rendezvous::put_if_absent`], here alone.
    ///
    /// # Errors
    /// Why not.
    pub fn put(&self, publication: Publication) -> Result<(), PutRefused> {
        self.with(|store, now| store.put_if_absent(publication, now))
    }

    /// Whether this very record is kept here, and can be joined.
    pub fn has(&self, publication: &Publication) -> bool {
        self.with(|store, now| store.has(publication, now))
    }

    /// What is kept here.
    pub fn look(&self, key: RecordKey) -> Found {
        self.with(|store, now| store.find(key, now))
    }

    /// What is kept here of a device.
    pub fn sight(&self, key: RecordKey) -> Option<Sighting> {
        match self.look(key) {
            // It was verified when it was put.
            Found::Device { record, gone } => Sighting::new(key, &record, gone, unix_ms()),
            Found::Live { .. } | Found::Ended(_) | Found::Absent => None,
        }
    }

    /// As [`Rendezvous::withdraw`], here alone; now.
    ///
    /// # Errors
    /// Why not.
    pub fn end(&self, key: RecordKey, owner: NodeId, why: Ended) -> Result<(), WithdrawRefused> {
        self.with(|store, now| store.withdraw(key, Account::Node(owner), why, unix_ms(), now))
    }

    /// A device of this relay has gone, and was there until `seen_unix_ms`.
    pub fn leave(&self, key: RecordKey, seen_unix_ms: u64) {
        self.with(|store, now| store.leave(key, seen_unix_ms, now));
    }

    /// Devices of this relay that have gone, how, and when they were there last, milliseconds since 1970.
    pub fn gone(&self) -> Vec<(Publication, Ended, u64)> {
        self.with(|store, now| store.gone(now))
    }

    /// Forgets what was put under `key` on that account, unless it was put later than that number says: see [`Store::forget`].
    pub fn forget(&self, key: RecordKey, account: Account, number: u64) {
        self.with(|store, now| store.forget(key, account, number, now));
    }

    /// Records and tombstones, or devices and when they were there last.
    pub fn len(&self, kind: Kind) -> usize {
        self.with(|store, _| store.len(kind))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.with(|store, _| store.is_empty())
    }

    /// Another relay asks to keep a record of a node of its own, or its tombstone.
    pub fn keep(&self, from: RelayId, keep: Keep) -> Answer {
        match self.try_keep(from, keep) {
            Ok(()) => mesh::done(),
            Err(reason) => mesh::refused(reason),
        }
    }

    fn try_keep(&self, from: RelayId, keep: Keep) -> Result<(), Reason> {
        let unix_ms = unix_ms();
        let ended = ended(keep.ended());
        if keep.record.len() > MAX_RECORD_BYTES {
            return Err(Reason::BadRecord);
        }
        let (key, kind) = Record::peek(&keep.record).ok_or(Reason::BadRecord)?;
        // Before anything is verified for it: a flood costs no more than this.
        let room = self.with(|store, now| store.check_room(key, Account::Relay(from), kind, now));
        room.map_err(|_| Reason::Full)?;
        let record = match ended {
            None => Record::decode_signed(&keep.record, unix_ms),
            Some(_) => Record::decode_ended(&keep.record, unix_ms),
        };
        let record = record.map_err(|_| Reason::BadRecord)?;
        if record.realm != self.realm || !is_at(&record, from) {
            return Err(Reason::BadRecord);
        }
        // Not before it has said so itself, and not after now.
        let seen_unix_ms = keep.seen_unix_ms.min(unix_ms).max(record.not_before_ms);
        let publication = Publication::of_relay(&record, keep.record, from, unix_ms);
        let publication = publication.numbered(keep.number);
        if publication.kept_for().is_zero() {
            return Err(Reason::BadRecord);
        }
        let kept = self.with(|store, now| match ended {
            None => store.put_if_absent(publication, now),
            Some(why) => store.bury(publication, why, seen_unix_ms, now),
        });
        kept.map_err(reason)
    }

    /// Another relay takes back what it asked to keep.
    pub fn forget_for(&self, from: RelayId, forget: &Forget) -> Answer {
        match RecordKey::from_bytes(&forget.locator_key) {
            Ok(key) => {
                self.forget(key, Account::Relay(from), forget.number);
                mesh::done()
            }
            Err(_) => mesh::refused(Reason::Malformed),
        }
    }

    /// Another relay wants to know what is kept here.
    pub fn find_for(&self, find: &Find) -> Answer {
        let Ok(key) = RecordKey::from_bytes(&find.locator_key) else {
            return mesh::refused(Reason::Malformed);
        };
        let mut found = wire::Found::default();
        match self.look(key) {
            Found::Live { record, relay } => {
                found.record = record;
                found.relay = Bytes::copy_from_slice(&relay.0);
            }
            Found::Ended(why) => found.ended = gone(why).into(),
            Found::Device { record, gone: went } => {
                found.record = record;
                if let Some((why, seen_unix_ms)) = went {
                    (found.ended, found.seen_unix_ms) = (gone(why).into(), seen_unix_ms);
                }
            }
            Found::Absent => {}
        }
        Answer::Found(found)
    }
}

impl Rendezvous for Shelf {
    fn put_if_absent(&self, publication: Publication) -> Pending<'_, Result<(), PutRefused>> {
        Box::pin(async move { self.put(publication) })
    }

    fn find(&self, key: RecordKey) -> Pending<'_, Found> {
        Box::pin(async move { self.look(key) })
    }

    fn withdraw(
        &self,
        key: RecordKey,
        owner: NodeId,
        why: Ended,
    ) -> Pending<'_, Result<(), WithdrawRefused>> {
        Box::pin(async move { self.end(key, owner, why) })
    }

    fn seek(&self, key: RecordKey) -> Pending<'_, Option<Sighting>> {
        Box::pin(async move { self.sight(key) })
    }

    fn let_go(&self, key: RecordKey) {
        self.leave(key, unix_ms());
    }

    fn live_records(&self, kind: Kind) -> usize {
        self.with(|store, now| store.live_records(kind, now))
    }

    fn kept_records(&self, kind: Kind) -> usize {
        self.len(kind)
    }
}

/// Whether it may be a record of a node at that relay, as far as the record says.
pub(crate) fn is_at(record: &Record, relay: RelayId) -> bool {
    match record.subject {
        Subject::Waiting(_) => true,
        Subject::Present(present) => present.relay == relay,
    }
}

fn reason(refused: PutRefused) -> Reason {
    match refused {
        PutRefused::Taken => Reason::Taken,
        PutRefused::NodeFull | PutRefused::Full | PutRefused::NoQuorum => Reason::Full,
    }
}

/// As it stands in messages.
pub(super) fn gone(why: Ended) -> Gone {
    match why {
        Ended::Used => Gone::Used,
        Ended::Burned => Gone::Burned,
        Ended::Expired => Gone::Expired,
        Ended::Cancelled => Gone::Cancelled,
    }
}

/// What a message says; none while the record can be used.
pub fn ended(why: Gone) -> Option<Ended> {
    match why {
        Gone::Unspecified => None,
        Gone::Used => Some(Ended::Used),
        Gone::Burned => Some(Ended::Burned),
        Gone::Expired => Some(Ended::Expired),
        Gone::Cancelled => Some(Ended::Cancelled),
    }
}
