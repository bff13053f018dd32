//! Records that the relays closest to their key keep together, as Kademlia measures.
//!
//! ```text
//! put       here ─▶ Keep to the 5 closest, at once ─▶ a majority keeps it, at most one says that it has another: done
//!           (of a device however few: others have it soon, and this relay answers for it)
//! find      here ─▶ the 5 closest that are known ─▶ the 5 closest that Kademlia finds ─▶ two agree, or all were asked
//! withdraw  here ─▶ the tombstone to whoever has the record
//! seek      here ─▶ the closest, as find ─▶ the relay that the newest record names: its word counts
//! ```
//!
//! Whenever relays come or go, those that are now among the closest get what this relay has published. Where they have another's
//! record, as when two publish under one key while the fleet is cut in two, the one that more of them have stays; of as many, the
//! first. The other's relay takes it back, and tells its host.

// Who is to have which record, and does not.
mod hand_out;
// Whether a device is there.
mod seek;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering as Atomically},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use remora_proto::{
    id::{NodeId, RelayId},
    record::{Kind, Record, RecordKey},
    wire::message::{
        control::Gone,
        mesh::{Find, Forget, Keep, request::Body as Ask, response::Body as Answer},
    },
};
use tokio::{
    sync::{Notify, mpsc},
    time,
};
use tokio_util::sync::CancellationToken;

use self::hand_out::{Haste, Turns};
use super::{
    Ended, Found, Pending, Publication, PutRefused, Rendezvous, Shelf, Sighting, WithdrawRefused,
    shelf::{ended, gone},
    store::Account,
};
use crate::{
    admin::metrics::{DhtKind, DhtResult, Metrics},
    control::request::unix_ms,
    mesh::{AskError, Mesh},
};

/// One relay's answer to what changes something.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);
/// One relay's answer to a look-up: there is another round, and a second for Kademlia between the two.
const FIND_ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// All of a look-up.
const FIND_TIMEOUT: Duration = Duration::from_secs(2);
/// So many relays that say the same are believed without the others.
const AGREED: usize = 2;
/// So many may say that the key is held while most others keep the record: each node could be kept from every code by one relay that
/// lies. Two that say so are believed.
const LIARS: usize = 1;
/// How long it is tried to tell others that a device has gone: they find out without, if later.
const TELL_GONE_FOR: Duration = Duration::from_secs(60);

/// A record that a node of this relay has published.
#[derive(Debug)]
struct Own {
    publication: Publication,
    ended: Option<Ended>,
    /// Of a device that has ended: when it was there last.
    seen_unix_ms: u64,
    /// Its node is gone, and may have moved: nothing is done for it any more, unless it is for its end.
    is_let_go: bool,
    /// Who keeps it; a relay that was away since has forgotten it.
    placed: BTreeMap<RelayId, u64>,
    /// When it can no longer be joined.
    expires: Instant,
    until: Instant,
}

/// The shelves of a fleet.
#[derive(Debug)]
pub struct Fleet {
    shelf: Arc<Shelf>,
    mesh: Mesh,
    /// Where to say which locators are others'.
    lost: mpsc::Sender<RecordKey>,
    metrics: Arc<Metrics>,
    own: Mutex<BTreeMap<RecordKey, Own>>,
    /// Devices of this relay that have gone and whose keepers are to be told.
    gone: Mutex<BTreeSet<RecordKey>>,
    /// A record is kept by fewer than it should be.
    is_unplaced: AtomicBool,
    /// Of those two.
    has_news: Notify,
    /// When each relay may be handed the next record.
    turns: Turns,
    /// Others know what may be known here alone.
    handed_on: CancellationToken,
    /// Of what was said last to other relays.
    last_number: AtomicU64,
}

impl Fleet {
    /// With this relay's own shelf and its mesh; which locators of its hosts are others' goes to `lost`.
    pub fn new(
        shelf: Arc<Shelf>,
        mesh: Mesh,
        lost: mpsc::Sender<RecordKey>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            shelf,
            mesh,
            lost,
            metrics,
            own: Mutex::default(),
            gone: Mutex::default(),
            is_unplaced: AtomicBool::new(false),
            has_news: Notify::new(),
            turns: Turns::default(),
            handed_on: CancellationToken::new(),
            last_number: AtomicU64::new(0),
        }
    }

    /// The closest relays but this one.
    async fn others(&self, key: RecordKey, is_exact: bool) -> Vec<RelayId> {
        let mut closest = self.mesh.closest(key, is_exact).await;
        closest.retain(|&relay| relay != self.shelf.relay());
        closest
    }

    fn own(&self) -> MutexGuard<'_, BTreeMap<RecordKey, Own>> {
        lock(&self.own)
    }

    /// Of what is said next. A later process goes on by the clock.
    fn next_number(&self) -> u64 {
        let now_us = unix_ms().saturating_mul(1000);
        let next = |last: u64| now_us.max(last.saturating_add(1));
        let order = Atomically::Relaxed;
        let number = &self.last_number;
        let last = number.fetch_update(order, order, |last| Some(next(last)));
        next(last.unwrap_or_default())
    }

    async fn put(&self, publication: Publication) -> Result<(), PutRefused> {
        let key = publication.key();
        let is_again = self.shelf.has(&publication);
        self.shelf.put(publication.clone())?;
        let neighbours = self.mesh.neighbours().borrow().clone();
        let mut closest = self.others(key, true).await;
        if closest.is_empty() {
            closest = self.others(key, false).await;
        }
        let (own, account) = (Own::new(publication.clone()), publication.account());
        let keep = own.keep(self.next_number());
        let votes = self.hand_out(&closest, &keep, Haste::Urgent).await;
        // This relay is one of those that keep it, be it close or not.
        let is_quorum = (votes.kept.len() + 1) * 2 > closest.len() + 1;
        let is_enough = is_quorum || publication.kind() == Kind::Device;
        if votes.taken.len() <= LIARS && is_enough {
            self.own().insert(key, own);
            self.placed(key, votes.kept, &neighbours);
            if !is_quorum {
                self.is_unplaced.store(true, Atomically::Relaxed);
                self.has_news.notify_one();
            }
            return Ok(());
        }
        if !is_again {
            // Who has not answered may have it all the same.
            self.take_back(key, account, &closest).await;
        }
        Err(if votes.taken.is_empty() {
            PutRefused::NoQuorum
        } else {
            PutRefused::Taken
        })
    }

    /// Whether there was a record that fewer keep than should.
    fn takes_unplaced(&self) -> bool {
        self.is_unplaced.swap(false, Atomically::Relaxed)
    }

    async fn take_back(&self, key: RecordKey, account: Account, relays: &[RelayId]) {
        // First the number: whoever takes the key from now on has a later one.
        let number = self.next_number();
        self.shelf.forget(key, account, 0);
        let forget = Forget {
            locator_key: Bytes::copy_from_slice(&key.0),
            number,
        };
        let all: FuturesUnordered<_> = relays
            .iter()
            .map(|&relay| within(self.mesh.ask(relay, Ask::Forget(forget.clone()))))
            .collect();
        all.map(drop).collect::<()>().await;
    }

    async fn look(&self, key: RecordKey) -> Found {
        let here = self.shelf.look(key);
        if let Found::Live { .. } | Found::Ended(_) = here {
            return here;
        }
        let mut tally = Tally::default();
        // When time is over, what was heard until then counts.
        let looked = time::timeout(FIND_TIMEOUT, self.look_elsewhere(key, &mut tally));
        looked.await.ok();
        tally.found()
    }

    async fn look_elsewhere(&self, key: RecordKey, tally: &mut Tally) {
        let mut asked = BTreeSet::new();
        for is_exact in [false, true] {
            let relays = self.others(key, is_exact).await;
            let new: Vec<_> = relays
                .into_iter()
                .filter(|&relay| asked.insert(relay))
                .collect();
            self.ask_all(key, &new, tally).await;
            if tally.found() != Found::Absent {
                return;
            }
        }
    }

    /// Until enough agree.
    async fn ask_all(&self, key: RecordKey, relays: &[RelayId], tally: &mut Tally) {
        let find = Find {
            locator_key: Bytes::copy_from_slice(&key.0),
        };
        let mut asked: FuturesUnordered<_> = relays
            .iter()
            .map(|&relay| {
                let asked = self.mesh.ask(relay, Ask::Find(find.clone()));
                time::timeout(FIND_ANSWER_TIMEOUT, asked)
            })
            .collect();
        while let Some(answered) = asked.next().await {
            if let Ok(Ok(Answer::Found(found))) = answered {
                tally.count(self.checked(key, &found));
            }
            if tally.is_decided() {
                return;
            }
        }
    }

    /// What another relay has found, as far as it can be believed.
    fn checked(&self, key: RecordKey, found: &remora_proto::wire::message::mesh::Found) -> Found {
        match ended(found.ended()) {
            Some(why) if found.record.is_empty() => return Found::Ended(why),
            // A device's.
            Some(_) => return Found::Absent,
            None => {}
        }
        let relay = <[u8; 32]>::try_from(&found.relay[..]).map(RelayId);
        let record = Record::decode_signed(&found.record, unix_ms()).ok();
        let (Ok(relay), Some(record)) = (relay, record.and_then(Record::waiting)) else {
            return Found::Absent;
        };
        if record.key != key || record.realm != self.shelf.realm() {
            return Found::Absent;
        }
        Found::Live {
            record: found.record.clone(),
            relay,
        }
    }

    async fn tell_ended(&self, key: RecordKey, why: Ended, haste: Haste) {
        let told = {
            let mut own = self.own();
            let Some(own) = own.get_mut(&key) else { return };
            own.ended.get_or_insert(why);
            let relays: Vec<_> = std::mem::take(&mut own.placed).into_keys().collect();
            (own.keep(self.next_number()), relays)
        };
        let (keep, mut relays) = told;
        let neighbours = self.mesh.neighbours().borrow().clone();
        for relay in self.others(key, false).await {
            if !relays.contains(&relay) {
                relays.push(relay);
            }
        }
        let votes = self.hand_out(&relays, &keep, haste).await;
        self.forget_told(key, &votes);
        self.placed(key, votes.kept, &neighbours);
    }

    /// Counts how it went and how long it took.
    async fn measured<T>(
        &self,
        kind: DhtKind,
        result: impl FnOnce(&T) -> DhtResult,
        act: impl Future<Output = T>,
    ) -> T {
        let since = Instant::now();
        let outcome = act.await;
        let seconds = since.elapsed().as_secs_f64();
        self.metrics.dht_query(kind, result(&outcome), seconds);
        outcome
    }
}

impl Rendezvous for Fleet {
    fn put_if_absent(&self, publication: Publication) -> Pending<'_, Result<(), PutRefused>> {
        let result = |put: &Result<(), PutRefused>| match put {
            Ok(()) => DhtResult::Ok,
            Err(PutRefused::Taken | PutRefused::NodeFull | PutRefused::Full) => DhtResult::Negative,
            Err(PutRefused::NoQuorum) => DhtResult::Failed,
        };
        Box::pin(self.measured(DhtKind::Put, result, self.put(publication)))
    }

    fn find(&self, key: RecordKey) -> Pending<'_, Found> {
        let result = |found: &Found| match found {
            Found::Live { .. } => DhtResult::Ok,
            Found::Ended(_) | Found::Device { .. } | Found::Absent => DhtResult::Negative,
        };
        Box::pin(self.measured(DhtKind::Find, result, self.look(key)))
    }

    fn withdraw(
        &self,
        key: RecordKey,
        owner: NodeId,
        why: Ended,
    ) -> Pending<'_, Result<(), WithdrawRefused>> {
        Box::pin(async move {
            self.shelf.end(key, owner, why)?;
            self.measured(
                DhtKind::Withdraw,
                |()| DhtResult::Ok,
                self.tell_ended(key, why, Haste::Urgent),
            )
            .await;
            Ok(())
        })
    }

    fn seek(&self, key: RecordKey) -> Pending<'_, Option<Sighting>> {
        let result = |sighting: &Option<Sighting>| match sighting {
            Some(_) => DhtResult::Ok,
            None => DhtResult::Negative,
        };
        Box::pin(self.measured(DhtKind::Seek, result, self.sight(key)))
    }

    fn let_go(&self, key: RecordKey) {
        let seen_unix_ms = unix_ms();
        self.shelf.leave(key, seen_unix_ms);
        let mut all = self.own();
        let Some(own) = all.get_mut(&key) else { return };
        match own.publication.kind() {
            Kind::Host => own.is_let_go = true,
            Kind::Device => {
                own.go(seen_unix_ms);
                lock(&self.gone).insert(key);
                self.has_news.notify_one();
            }
        }
    }

    fn live_records(&self, kind: Kind) -> usize {
        self.shelf.live_records(kind)
    }

    fn kept_records(&self, kind: Kind) -> usize {
        self.shelf.len(kind)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn within<T>(asked: impl Future<Output = Result<T, AskError>>) -> Result<T, AskError> {
    let answered = time::timeout(ANSWER_TIMEOUT, asked).await;
    answered.unwrap_or(Err(AskError::Unreachable))
}

impl Own {
    fn new(publication: Publication) -> Self {
        let now = Instant::now();
        let expires = now + publication.live_for();
        Self {
            expires,
            until: match publication.kind() {
                Kind::Host => now + publication.kept_for(),
                Kind::Device => expires + TELL_GONE_FOR,
            },
            seen_unix_ms: publication.signed_unix_ms(),
            publication,
            ended: None,
            is_let_go: false,
            placed: BTreeMap::new(),
        }
    }

    /// Of a device that went before, of which nobody has to be told for its sake.
    fn of_gone(publication: Publication, why: Ended, seen_unix_ms: u64) -> Self {
        let until = Instant::now() + publication.kept_for();
        Self {
            ended: Some(why),
            seen_unix_ms,
            until,
            ..Self::new(publication)
        }
    }

    /// Of a device: it has gone.
    fn go(&mut self, seen_unix_ms: u64) {
        self.ended = Some(Ended::Cancelled);
        self.seen_unix_ms = seen_unix_ms;
        self.until = Instant::now() + TELL_GONE_FOR;
    }

    fn has_gone(&self) -> bool {
        self.publication.kind() == Kind::Device && self.ended.is_some()
    }

    fn keep(&self, number: u64) -> Keep {
        let (ended, seen_unix_ms) = match self.ended {
            Some(why) => (gone(why), self.seen_unix_ms),
            None => (Gone::Unspecified, 0),
        };
        Keep {
            record: self.publication.bytes().clone(),
            ended: ended.into(),
            number,
            seen_unix_ms,
        }
    }
}

/// What relays say about a key.
#[derive(Debug, Default)]
struct Tally {
    live: Vec<(Bytes, RelayId)>,
    ended: Vec<Ended>,
}

impl Tally {
    fn count(&mut self, found: Found) {
        match found {
            Found::Live { record, relay } => self.live.push((record, relay)),
            Found::Ended(why) => self.ended.push(why),
            Found::Device { .. } | Found::Absent => {}
        }
    }

    /// Whether nobody else has to be asked.
    fn is_decided(&self) -> bool {
        let first = self.live.first();
        self.ended.len() >= AGREED
            || self.ended.is_empty()
                && self.live.iter().filter(|live| Some(*live) == first).count() >= AGREED
    }

    /// A tombstone wins, unless more say that there is none: one relay alone cannot bury a code.
    fn found(&self) -> Found {
        if self.ended.len() >= self.live.len() {
            return self
                .ended
                .first()
                .map_or(Found::Absent, |&why| Found::Ended(why));
        }
        // Of several, what most of them say; of those, what was said first.
        let votes = |one: &(Bytes, RelayId)| self.live.iter().filter(|live| *live == one).count();
        let best = self.live.iter().rev().max_by_key(|live| votes(live));
        best.map_or(Found::Absent, |(record, relay)| Found::Live {
            record: record.clone(),
            relay: *relay,
        })
    }
}

#[cfg(test)]
mod tests;
