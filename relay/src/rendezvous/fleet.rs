//! Records that the relays closest to their key keep together, as Kademlia measures.
//!
//! ```text
//! put       here ─▶ Keep to the 5 closest, at once ─▶ a majority keeps it, at most one says that it has another: done
//! find      here ─▶ the 5 closest that are known ─▶ the 5 closest that Kademlia finds ─▶ two agree, or all were asked
//! withdraw  here ─▶ the tombstone to whoever has the record
//! seek      here ─▶ the closest, as find ─▶ the relay that the newest record names: its word counts
//! ```
//!
//! Whenever relays come or go, those that are now among the closest get what this relay has published. Where they have another's
//! record, as when two publish under one key while the fleet is cut in two, the one that more of them have stays; of as many, the
//! first. The other's relay takes it back, and tells its host.

// Whether a device is there.
mod seek;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering as Atomically},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use remora_proto::{
    id::{NodeId, RelayId},
    record::{Kind, Record, RecordKey},
    wire::message::{
        control::Gone,
        mesh::{Find, Forget, Keep, Reason, request::Body as Ask, response::Body as Answer},
    },
};
use tokio::{
    sync::{Notify, mpsc},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{
    Ended, Found, Pending, Publication, PutRefused, Rendezvous, Shelf, Sighting, WithdrawRefused,
    shelf::{ended, gone},
    store::Account,
};
use crate::{
    admin::metrics::Metrics,
    control::request::unix_ms,
    mesh::{AskError, Mesh, Neighbours},
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
/// Relays come and go in crowds: when the last of one is there, records are handed out once.
const SETTLE: Duration = Duration::from_millis(300);
/// Between two looks at whether everything is where it belongs.
const REPUBLISH_EVERY: Duration = Duration::from_secs(30);
/// The same when a record of this relay is not the only one under its key: soon the other is gone.
const CONTESTED_EVERY: Duration = Duration::from_secs(3);
/// How long it is tried to tell others that a device has gone: they find out without, if later.
const TELL_GONE_FOR: Duration = Duration::from_secs(60);
/// Records that are handed out at once.
const REPUBLISH_AT_ONCE: usize = 32;

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
    has_gone: Notify,
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
            has_gone: Notify::new(),
            last_number: AtomicU64::new(0),
        }
    }

    /// Keeps records where they belong, until `closing`.
    pub async fn run(self: Arc<Self>, closing: CancellationToken) {
        closing.run_until_cancelled(self.keep_in_place()).await;
    }

    async fn keep_in_place(&self) {
        let mut neighbours = self.mesh.neighbours();
        let mut look_at = time::Instant::now() + REPUBLISH_EVERY;
        loop {
            tokio::select! { biased;
                () = self.has_gone.notified() => {
                    self.tell_gone().await;
                    continue;
                }
                changed = neighbours.changed() => if changed.is_err() { return },
                () = time::sleep_until(look_at) => {}
            }
            time::sleep(SETTLE).await;
            let now = neighbours.borrow_and_update().clone();
            let is_contested = self.republish(&now).await;
            let pause = if is_contested {
                CONTESTED_EVERY
            } else {
                REPUBLISH_EVERY
            };
            look_at = time::Instant::now() + pause;
        }
    }

    /// Tells whoever keeps them that devices have gone.
    async fn tell_gone(&self) {
        let gone = std::mem::take(&mut *lock(&self.gone));
        let all = gone
            .into_iter()
            .map(|key| self.tell_ended(key, Ended::Cancelled));
        let all = stream::iter(all).buffer_unordered(REPUBLISH_AT_ONCE);
        all.collect::<()>().await;
    }

    /// Whether a key of this relay's records has another, too.
    async fn republish(&self, neighbours: &Neighbours) -> bool {
        let keys: Vec<_> = {
            let (mut own, now) = (self.own(), Instant::now());
            own.retain(|_, own| own.until > now);
            for own in own.values_mut().filter(|own| own.expires <= now) {
                own.ended.get_or_insert(Ended::Expired);
            }
            let cared_for = own
                .iter()
                .filter(|(_, own)| !own.is_let_go || own.ended.is_some());
            cared_for.map(|(&key, _)| key).collect()
        };
        let all = keys.into_iter().map(|key| self.replace(key, neighbours));
        stream::iter(all)
            .buffer_unordered(REPUBLISH_AT_ONCE)
            .fold(false, async |any, is_contested| any | is_contested)
            .await
    }

    /// Gives a record to those of the closest relays that do not have it; true when some of them have another.
    async fn replace(&self, key: RecordKey, neighbours: &Neighbours) -> bool {
        let mut closest = self.mesh.closest(key, false).await;
        let all = closest.len();
        closest.retain(|&relay| relay != self.shelf.relay());
        // Where its node is counts as one of those that keep it only if it is one.
        let mut held = all - closest.len();
        let (keep, missing) = {
            let own = self.own();
            let Some(own) = own.get(&key) else {
                return false;
            };
            let has_it = |relay: &RelayId| {
                let placed = own.placed.get(relay).copied();
                placed.is_some_and(|met| met == neighbours.met(*relay))
            };
            let missing: Vec<_> = closest
                .iter()
                .copied()
                .filter(|relay| !has_it(relay))
                .collect();
            (own.keep(self.next_number()), missing)
        };
        held += closest.len() - missing.len();
        let votes = self.hand_out(&missing, &keep).await;
        held += votes.kept.len();
        self.forget_told(key, &votes);
        self.placed(key, votes.kept, neighbours);
        let is_contested = !votes.taken.is_empty() && keep.ended() == Gone::Unspecified;
        if is_contested && self.has_lost(key, &keep.record, held, &votes.taken).await {
            self.lose(key).await;
            return false;
        }
        is_contested
    }

    /// Whether the other record under the key stays, and not this one: both relays decide alike.
    async fn has_lost(
        &self,
        key: RecordKey,
        record: &Bytes,
        held: usize,
        taken: &[RelayId],
    ) -> bool {
        if let Some((_, Kind::Device)) = Record::peek(record) {
            return self.has_newer(key, record, taken).await;
        }
        // One that lies decides nothing, unless there is nobody else.
        let is_word = taken.len() > LIARS || held + taken.len() <= 2;
        match taken.len().cmp(&held) {
            _ if !is_word => false,
            Ordering::Less => false,
            Ordering::Greater => true,
            Ordering::Equal => {
                let find = Find {
                    locator_key: Bytes::copy_from_slice(&key.0),
                };
                let answered = within(self.mesh.ask(taken[0], Ask::Find(find))).await;
                let Ok(Answer::Found(found)) = answered else {
                    return false;
                };
                let Found::Live { record: theirs, .. } = self.checked(key, &found) else {
                    return false;
                };
                let first = |bytes: &Bytes| {
                    let record = Record::decode_ended(bytes, unix_ms()).ok()?;
                    Some((record.not_before_ms, record.publisher))
                };
                first(&theirs) < first(record)
            }
        }
    }

    /// The key is another's.
    async fn lose(&self, key: RecordKey) {
        let Some(own) = self.own().remove(&key) else {
            return;
        };
        tracing::info!("a code is another host's, too, which keeps it");
        let keepers: Vec<_> = own.placed.into_keys().collect();
        self.take_back(key, own.publication.account(), &keepers)
            .await;
        // The relay is about to end.
        self.lost.send(key).await.ok();
    }

    /// Asks all to keep it, at once.
    async fn hand_out(&self, relays: &[RelayId], keep: &Keep) -> Votes {
        let mut asked: FuturesUnordered<_> = relays
            .iter()
            .map(|&relay| async move {
                let answered = within(self.mesh.ask(relay, Ask::Keep(keep.clone()))).await;
                (relay, answered)
            })
            .collect();
        let mut votes = Votes::default();
        while let Some((relay, answered)) = asked.next().await {
            match answered {
                Ok(_) => votes.kept.push(relay),
                Err(AskError::Refused(Reason::Taken)) => votes.taken.push(relay),
                Err(AskError::Refused(_) | AskError::Unreachable) => {}
            }
        }
        votes
    }

    fn placed(&self, key: RecordKey, relays: Vec<RelayId>, neighbours: &Neighbours) {
        if let Some(own) = self.own().get_mut(&key) {
            let placed = relays
                .into_iter()
                .map(|relay| (relay, neighbours.met(relay)));
            own.placed.extend(placed);
        }
    }

    /// A device that has gone is nothing to care for any more when somebody has been told, or knows better.
    fn forget_told(&self, key: RecordKey, votes: &Votes) {
        let mut own = self.own();
        let has_gone = own.get(&key).is_some_and(Own::has_gone);
        if has_gone && !(votes.kept.is_empty() && votes.taken.is_empty()) {
            own.remove(&key);
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
        let votes = self.hand_out(&closest, &keep).await;
        // This relay is one of those that keep it, be it close or not.
        let is_quorum = (votes.kept.len() + 1) * 2 > closest.len() + 1;
        if votes.taken.len() <= LIARS && is_quorum {
            self.own().insert(key, own);
            self.placed(key, votes.kept, &neighbours);
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

    async fn tell_ended(&self, key: RecordKey, why: Ended) {
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
        let votes = self.hand_out(&relays, &keep).await;
        self.forget_told(key, &votes);
        self.placed(key, votes.kept, &neighbours);
    }

    /// Counts how it went and how long it took.
    async fn measured<T>(
        &self,
        kind: &'static str,
        result: impl FnOnce(&T) -> &'static str,
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
            Ok(()) => "ok",
            Err(PutRefused::Taken) => "taken",
            Err(PutRefused::NodeFull | PutRefused::Full) => "full",
            Err(PutRefused::NoQuorum) => "no_quorum",
        };
        Box::pin(self.measured("put", result, self.put(publication)))
    }

    fn find(&self, key: RecordKey) -> Pending<'_, Found> {
        let result = |found: &Found| match found {
            Found::Live { .. } => "live",
            Found::Ended(_) => "ended",
            Found::Device { .. } | Found::Absent => "absent",
        };
        Box::pin(self.measured("find", result, self.look(key)))
    }

    fn withdraw(
        &self,
        key: RecordKey,
        owner: NodeId,
        why: Ended,
    ) -> Pending<'_, Result<(), WithdrawRefused>> {
        Box::pin(async move {
            self.shelf.end(key, owner, why)?;
            self.measured("withdraw", |()| "ok", self.tell_ended(key, why))
                .await;
            Ok(())
        })
    }

    fn seek(&self, key: RecordKey) -> Pending<'_, Option<Sighting>> {
        let result = |sighting: &Option<Sighting>| match sighting {
            Some(sighting) if sighting.gone_unix_ms.is_none() => "live",
            Some(_) => "ended",
            None => "absent",
        };
        Box::pin(self.measured("seek", result, self.sight(key)))
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
                self.has_gone.notify_one();
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

/// Who keeps a record, and who has another.
#[derive(Debug, Default)]
struct Votes {
    kept: Vec<RelayId>,
    taken: Vec<RelayId>,
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
