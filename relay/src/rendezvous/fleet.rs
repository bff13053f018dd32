//! Records that the relays closest to their key keep together, as Kademlia measures.
//!
//! ```text
//! put       here ─▶ Keep to the 5 closest, at once ─▶ a majority keeps it, at most one says that it has another: done
//! find      here ─▶ the 5 closest that are known ─▶ the 5 closest that Kademlia finds ─▶ two agree, or all were asked
//! withdraw  here ─▶ the tombstone to whoever has the record
//! ```
//!
//! Whenever relays come or go, those that are now among the closest get what this relay has published.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use remora_proto::{
    id::{NodeId, RelayId},
    record::{LocatorKey, Record},
    wire::message::{
        control::Gone,
        mesh::{Find, Forget, Keep, Reason, request::Body as Ask, response::Body as Answer},
    },
};
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::{
    Ended, Found, Pending, Publication, PutRefused, Rendezvous, Shelf, WithdrawRefused,
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
/// Records that are handed out at once.
const REPUBLISH_AT_ONCE: usize = 32;

/// A record that a node of this relay has published.
#[derive(Debug)]
struct Own {
    publication: Publication,
    ended: Option<Ended>,
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
    metrics: Arc<Metrics>,
    own: Mutex<BTreeMap<LocatorKey, Own>>,
}

impl Fleet {
    /// With this relay's own shelf and its mesh.
    pub fn new(shelf: Arc<Shelf>, mesh: Mesh, metrics: Arc<Metrics>) -> Self {
        Self {
            shelf,
            mesh,
            metrics,
            own: Mutex::default(),
        }
    }

    /// Keeps records where they belong, until `closing`.
    pub async fn run(self: Arc<Self>, closing: CancellationToken) {
        let mut neighbours = self.mesh.neighbours();
        loop {
            tokio::select! { biased;
                () = closing.cancelled() => return,
                changed = time::timeout(REPUBLISH_EVERY, neighbours.changed()) => {
                    if let Ok(Err(_)) = changed {
                        return;
                    }
                }
            }
            tokio::select! { biased;
                () = closing.cancelled() => return,
                () = time::sleep(SETTLE) => {}
            }
            let now = neighbours.borrow_and_update().clone();
            tokio::select! { biased;
                () = closing.cancelled() => return,
                () = self.republish(&now) => {}
            }
        }
    }

    async fn republish(&self, neighbours: &Neighbours) {
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
            .collect::<()>()
            .await;
    }

    /// Gives a record to those of the closest relays that do not have it.
    async fn replace(&self, key: LocatorKey, neighbours: &Neighbours) {
        let closest = self.others(key, false).await;
        let (keep, missing) = {
            let own = self.own();
            let Some(own) = own.get(&key) else { return };
            let has_it = |relay: &RelayId| {
                let placed = own.placed.get(relay).copied();
                placed.is_some_and(|met| met == neighbours.met(*relay))
            };
            let missing: Vec<_> = closest.into_iter().filter(|relay| !has_it(relay)).collect();
            (own.keep(), missing)
        };
        let kept = self.hand_out(&missing, &keep).await;
        self.placed(key, kept.kept, neighbours);
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
                Err(AskError::Refused(Reason::Taken)) => votes.taken += 1,
                Err(AskError::Refused(_) | AskError::Unreachable) => {}
            }
        }
        votes
    }

    fn placed(&self, key: LocatorKey, relays: Vec<RelayId>, neighbours: &Neighbours) {
        if let Some(own) = self.own().get_mut(&key) {
            let placed = relays
                .into_iter()
                .map(|relay| (relay, neighbours.met(relay)));
            own.placed.extend(placed);
        }
    }

    /// The closest relays but this one.
    async fn others(&self, key: LocatorKey, is_exact: bool) -> Vec<RelayId> {
        let mut closest = self.mesh.closest(key, is_exact).await;
        closest.retain(|&relay| relay != self.shelf.relay());
        closest
    }

    fn own(&self) -> MutexGuard<'_, BTreeMap<LocatorKey, Own>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
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
        let votes = self.hand_out(&closest, &own.keep()).await;
        // This relay is one of those that keep it, be it close or not.
        let is_quorum = (votes.kept.len() + 1) * 2 > closest.len() + 1;
        if votes.taken <= LIARS && is_quorum {
            self.own().insert(key, own);
            self.placed(key, votes.kept, &neighbours);
            return Ok(());
        }
        if !is_again {
            // Who has not answered may have it all the same.
            self.take_back(key, account, &closest).await;
        }
        Err(if votes.taken > 0 {
            PutRefused::Taken
        } else {
            PutRefused::NoQuorum
        })
    }

    async fn take_back(&self, key: LocatorKey, account: Account, relays: &[RelayId]) {
        self.shelf.forget(key, account);
        let forget = Forget {
            locator_key: Bytes::copy_from_slice(&key.0),
        };
        let all: FuturesUnordered<_> = relays
            .iter()
            .map(|&relay| within(self.mesh.ask(relay, Ask::Forget(forget.clone()))))
            .collect();
        all.map(drop).collect::<()>().await;
    }

    async fn look(&self, key: LocatorKey) -> Found {
        let here = self.shelf.look(key);
        if here != Found::Absent {
            return here;
        }
        let mut tally = Tally::default();
        // When time is over, what was heard until then counts.
        let looked = time::timeout(FIND_TIMEOUT, self.look_elsewhere(key, &mut tally));
        looked.await.ok();
        tally.found()
    }

    async fn look_elsewhere(&self, key: LocatorKey, tally: &mut Tally) {
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
    async fn ask_all(&self, key: LocatorKey, relays: &[RelayId], tally: &mut Tally) {
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
    fn checked(&self, key: LocatorKey, found: &remora_proto::wire::message::mesh::Found) -> Found {
        if let Some(why) = ended(found.ended()) {
            return Found::Ended(why);
        }
        let relay = <[u8; 32]>::try_from(&found.relay[..]).map(RelayId);
        let (Ok(relay), Ok(record)) = (relay, Record::decode_signed(&found.record, unix_ms()))
        else {
            return Found::Absent;
        };
        if record.locator_key != key || record.realm != self.shelf.realm() {
            return Found::Absent;
        }
        Found::Live {
            record: found.record.clone(),
            relay,
        }
    }

    async fn tell_ended(&self, key: LocatorKey, why: Ended) {
        let told = {
            let mut own = self.own();
            let Some(own) = own.get_mut(&key) else { return };
            own.ended.get_or_insert(why);
            let relays: Vec<_> = std::mem::take(&mut own.placed).into_keys().collect();
            (own.keep(), relays)
        };
        let (keep, mut relays) = told;
        let neighbours = self.mesh.neighbours().borrow().clone();
        for relay in self.others(key, false).await {
            if !relays.contains(&relay) {
                relays.push(relay);
            }
        }
        let votes = self.hand_out(&relays, &keep).await;
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

    fn find(&self, key: LocatorKey) -> Pending<'_, Found> {
        let result = |found: &Found| match found {
            Found::Live { .. } => "live",
            Found::Ended(_) => "ended",
            Found::Absent => "absent",
        };
        Box::pin(self.measured("find", result, self.look(key)))
    }

    fn withdraw(
        &self,
        key: LocatorKey,
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

    fn let_go(&self, key: LocatorKey) {
        if let Some(own) = self.own().get_mut(&key) {
            own.is_let_go = true;
        }
    }

    fn live_records(&self) -> usize {
        self.shelf.live_records()
    }

    fn kept_records(&self) -> usize {
        self.shelf.len()
    }
}

async fn within<T>(asked: impl Future<Output = Result<T, AskError>>) -> Result<T, AskError> {
    let answered = time::timeout(ANSWER_TIMEOUT, asked).await;
    answered.unwrap_or(Err(AskError::Unreachable))
}

impl Own {
    fn new(publication: Publication) -> Self {
        let now = Instant::now();
        Self {
            expires: now + publication.live_for(),
            until: now + publication.kept_for(),
            publication,
            ended: None,
            is_let_go: false,
            placed: BTreeMap::new(),
        }
    }

    fn keep(&self) -> Keep {
        Keep {
            record: self.publication.bytes().clone(),
            ended: self.ended.map_or(Gone::Unspecified, gone).into(),
        }
    }
}

/// Who keeps a record, and how many have another.
#[derive(Debug, Default)]
struct Votes {
    kept: Vec<RelayId>,
    taken: usize,
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
            Found::Absent => {}
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
