//! Who is to have which of this relay's records, and does not: they are handed out.
//!
//! ```text
//! relays come or go, every 30 s ─▶ who are the closest now? ─▶ Keep to those who do not have it, in turn ─▶ placed
//! a device goes                 ─▶ that it has, to whoever keeps it, in turn
//! this relay leaves             ─▶ when its devices were there last, which nobody else may know any more, in turn
//! ```
//!
//! In turn: half of what another relay hears, so that what nodes wait for finds room beside it; and whoever says that it is busy is asked
//! again.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use remora_proto::{
    id::RelayId,
    record::{Kind, Record, RecordKey},
    wire::message::{
        control::Gone,
        mesh::{Find, Keep, Reason, request::Body as Ask, response::Body as Answer},
    },
};
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::{Fleet, Found, LIARS, Own, lock, within};
use crate::{
    control::request::unix_ms,
    mesh::{AskError, Neighbours},
    rate::{Rate, TokenBucket},
    rendezvous::Ended,
};

/// Relays come and go in crowds: when the last of one is there, records are handed out once.
const SETTLE: Duration = Duration::from_millis(300);
/// Between two looks at whether everything is where it belongs.
const REPUBLISH_EVERY: Duration = Duration::from_secs(30);
/// The same when something is not: a relay has not answered, or a record is not the only one under its key, and soon the other is gone.
const AGAIN_EVERY: Duration = Duration::from_secs(3);
/// Records that are handed out at once.
const AT_ONCE: usize = 32;
/// To one relay: it hears five hundred requests a second, and what nodes wait for is among them.
const RATE: Rate = Rate::per_second(400, 400);
/// After a relay has said that it is busy, and how often it is asked then; later, it is asked once more with all others.
const BUSY_PAUSE: Duration = Duration::from_millis(250);
const BUSY_TRIES: usize = 20;
/// The same for what somebody waits for.
const URGENT_PAUSE: Duration = Duration::from_millis(50);
/// At the end: how long others are told that the devices of this relay have gone with it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Who waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    /// Somebody.
    Urgent,
    /// Nobody.
    InTurn,
}

/// What became of handing out, from good to bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// Everything is where it belongs, as far as others let it be.
    #[default]
    Settled,
    /// Somebody has not been asked, or has not answered.
    Unheard,
    /// Somebody has another record under the key.
    Contested,
}

/// Of all records, and of devices that have gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) all: Outcome,
    gone: Outcome,
}

/// When each relay may be handed the next record.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<BTreeMap<RelayId, TokenBucket>>);

impl Turns {
    async fn wait(&self, relay: RelayId) {
        while let Err(wait) = self.take(relay) {
            time::sleep(wait).await;
        }
    }

    fn take(&self, relay: RelayId) -> Result<(), Duration> {
        let (mut turns, now) = (lock(&self.0), time::Instant::now().into_std());
        // A bucket that is full again says nothing.
        turns.retain(|_, bucket| bucket.full_at() > now);
        let bucket = turns.entry(relay);
        let bucket = bucket.or_insert_with(|| TokenBucket::new(now));
        bucket.take(RATE, 1, now)
    }
}

/// Who keeps a record, and who has another.
#[derive(Debug, Default)]
pub(super) struct Votes {
    pub(super) kept: Vec<RelayId>,
    pub(super) taken: Vec<RelayId>,
    /// Busy, or not there.
    unheard: usize,
}

impl Fleet {
    /// Keeps records where they belong, until `closing`; once `leaving`, within `leave_within`, others are told what may be known here
    /// alone.
    pub async fn run(
        &self,
        leaving: CancellationToken,
        leave_within: Duration,
        closing: CancellationToken,
    ) {
        let leave = async {
            leaving.cancelled().await;
            time::timeout(leave_within, self.handed_on.cancelled())
                .await
                .ok();
            self.handed_on.cancel();
        };
        let keeping = async {
            tokio::join!(self.keep_in_place(&leaving), leave);
        };
        closing.run_until_cancelled(keeping).await;
        self.all_go();
        time::timeout(LAST_WORDS, self.tell_gone()).await.ok();
    }

    /// After [`Self::run`] was told to leave: when others know what may be known here alone, as far as they answer.
    pub fn handed_on(&self) -> CancellationToken {
        self.handed_on.clone()
    }

    async fn keep_in_place(&self, leaving: &CancellationToken) {
        let mut neighbours = self.mesh.neighbours();
        let mut look_at = time::Instant::now() + REPUBLISH_EVERY;
        let mut is_leaving = false;
        loop {
            tokio::select! { biased;
                () = self.has_news.notified() => {
                    self.tell_gone().await;
                    if self.takes_unplaced() {
                        look_at = look_at.min(time::Instant::now() + AGAIN_EVERY);
                    }
                    continue;
                }
                () = leaving.cancelled(), if !is_leaving => {
                    is_leaving = true;
                    self.take_up_gone();
                }
                changed = neighbours.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    time::sleep(SETTLE).await;
                }
                () = time::sleep_until(look_at) => {}
            }
            let now = neighbours.borrow_and_update().clone();
            // What has changed meanwhile counts for those whose turn has not come.
            let is_stale = || {
                neighbours.has_changed().unwrap_or(true) || leaving.is_cancelled() && !is_leaving
            };
            let round = self.republish(&now, is_stale).await;
            if is_leaving && (round.gone == Outcome::Settled || now.0.is_empty()) {
                self.handed_on.cancel();
            }
            let pause = match round.all {
                Outcome::Settled => REPUBLISH_EVERY,
                Outcome::Unheard | Outcome::Contested => AGAIN_EVERY,
            };
            look_at = time::Instant::now() + pause;
        }
    }

    /// What this relay knows of devices that were there, also those of which others were told once: those may be gone by now.
    fn take_up_gone(&self) {
        let mut own = self.own();
        for (publication, why, seen_unix_ms) in self.shelf.gone() {
            let key = publication.key();
            own.entry(key)
                .or_insert_with(|| Own::of_gone(publication, why, seen_unix_ms));
        }
    }

    /// Without this relay, none of its devices is there.
    fn all_go(&self) {
        let (now, mut gone) = (unix_ms(), lock(&self.gone));
        for (&key, own) in self.own().iter_mut() {
            if own.publication.kind() == Kind::Device && own.ended.is_none() {
                own.go(now);
                gone.insert(key);
            }
        }
    }

    /// Tells whoever keeps them that devices have gone.
    pub(super) async fn tell_gone(&self) {
        let gone = std::mem::take(&mut *lock(&self.gone));
        let all = gone
            .into_iter()
            .map(|key| self.tell_ended(key, Ended::Cancelled, Haste::InTurn));
        let all = stream::iter(all).buffer_unordered(AT_ONCE);
        all.collect::<()>().await;
    }

    /// Gives all records of this relay to whoever should have them and does not, until that `is_stale`.
    pub(super) async fn republish(
        &self,
        neighbours: &Neighbours,
        is_stale: impl Fn() -> bool,
    ) -> Round {
        let keys: Vec<_> = {
            let (mut own, now) = (self.own(), Instant::now());
            own.retain(|_, own| own.until > now);
            for own in own.values_mut().filter(|own| own.expires <= now) {
                own.ended.get_or_insert(Ended::Expired);
            }
            let cared_for = own
                .iter()
                .filter(|(_, own)| !own.is_let_go || own.ended.is_some());
            cared_for.map(|(&key, own)| (key, own.has_gone())).collect()
        };
        let is_stale = &is_stale;
        let all = keys.into_iter().map(|(key, has_gone)| async move {
            let outcome = if is_stale() {
                Outcome::Unheard
            } else {
                self.replace(key, neighbours).await
            };
            (outcome, has_gone)
        });
        stream::iter(all)
            .buffer_unordered(AT_ONCE)
            .fold(Round::default(), async |mut round, (outcome, has_gone)| {
                round.all = round.all.max(outcome);
                if has_gone {
                    round.gone = round.gone.max(outcome);
                }
                round
            })
            .await
    }

    /// Gives a record to those of the closest relays that do not have it.
    async fn replace(&self, key: RecordKey, neighbours: &Neighbours) -> Outcome {
        let mut closest = self.mesh.closest(key, false).await;
        let all = closest.len();
        closest.retain(|&relay| relay != self.shelf.relay());
        // Where its node is counts as one of those that keep it only if it is one.
        let mut held = all - closest.len();
        let (keep, missing) = {
            let own = self.own();
            let Some(own) = own.get(&key) else {
                return Outcome::Settled;
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
        let votes = self.hand_out(&missing, &keep, Haste::InTurn).await;
        held += votes.kept.len();
        let outcome = votes.outcome();
        self.forget_told(key, &votes);
        self.placed(key, votes.kept, neighbours);
        let is_contested = !votes.taken.is_empty() && keep.ended() == Gone::Unspecified;
        if !is_contested {
            return outcome;
        }
        if self.has_lost(key, &keep.record, held, &votes.taken).await {
            self.lose(key).await;
            return Outcome::Settled;
        }
        Outcome::Contested
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
    pub(super) async fn hand_out(&self, relays: &[RelayId], keep: &Keep, haste: Haste) -> Votes {
        let mut asked: FuturesUnordered<_> = relays
            .iter()
            .map(|&relay| async move {
                let answered = match haste {
                    Haste::Urgent => within(self.press(relay, keep)).await,
                    Haste::InTurn => self.wait_and_ask(relay, keep).await,
                };
                (relay, answered)
            })
            .collect();
        let mut votes = Votes::default();
        while let Some((relay, answered)) = asked.next().await {
            match answered {
                Ok(_) => votes.kept.push(relay),
                Err(AskError::Refused(Reason::Taken)) => votes.taken.push(relay),
                Err(AskError::Refused(Reason::Busy) | AskError::Unreachable) => votes.unheard += 1,
                Err(AskError::Refused(_)) => {}
            }
        }
        votes
    }

    /// Until it is not busy.
    async fn press(&self, relay: RelayId, keep: &Keep) -> Result<Answer, AskError> {
        loop {
            let answered = self.mesh.ask(relay, Ask::Keep(keep.clone())).await;
            if answered != Err(AskError::Refused(Reason::Busy)) {
                return answered;
            }
            time::sleep(URGENT_PAUSE).await;
        }
    }

    async fn wait_and_ask(&self, relay: RelayId, keep: &Keep) -> Result<Answer, AskError> {
        let busy = Err(AskError::Refused(Reason::Busy));
        for _ in 0..BUSY_TRIES {
            self.turns.wait(relay).await;
            let answered = within(self.mesh.ask(relay, Ask::Keep(keep.clone()))).await;
            if answered != busy {
                return answered;
            }
            time::sleep(BUSY_PAUSE).await;
        }
        busy
    }

    pub(super) fn placed(&self, key: RecordKey, relays: Vec<RelayId>, neighbours: &Neighbours) {
        if let Some(own) = self.own().get_mut(&key) {
            let placed = relays
                .into_iter()
                .map(|relay| (relay, neighbours.met(relay)));
            own.placed.extend(placed);
        }
    }

    /// A device that has gone is nothing to care for any more when somebody has been told, or knows better.
    pub(super) fn forget_told(&self, key: RecordKey, votes: &Votes) {
        let mut own = self.own();
        let has_gone = own.get(&key).is_some_and(Own::has_gone);
        if has_gone && !(votes.kept.is_empty() && votes.taken.is_empty()) {
            own.remove(&key);
        }
    }
}

impl Votes {
    fn outcome(&self) -> Outcome {
        if self.unheard == 0 {
            Outcome::Settled
        } else {
            Outcome::Unheard
        }
    }
}
