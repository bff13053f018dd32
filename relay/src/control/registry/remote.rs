//! Exchanges and sessions with one of their nodes at another relay.
//!
//! ```text
//! joiner   its relay                         the host's relay   host
//!   Join ──▶  ── Offer ─────────────────────▶  ── Offer ──────▶
//!   ◀─ Started  ◀─ Done ─────────────────────
//!   Signal ─▶  ── Signal ───────────────────▶  ── Signal ─────▶    and back
//!   ◀ Allocated  ◀── Admit, and its session ──  ◀──────── Admit
//!               ─── Done ───────────────────▶  ── Allocated ──▶
//! ```
//!
//! What is asked of a relay about one exchange, and the session that came of it, is asked in order, the next when the last is
//! answered, and again when there was no answer: whoever is asked twice answers twice and does it once.

use std::time::Instant;

use bytes::Bytes;
use remora_proto::{
    id::{ExchangeId, RelayId, SessionId, Side},
    line::Why,
    record::{Kind, RecordKey},
    wire::message::{
        MAX_SIGNAL_BYTES,
        control::Signal as SignalNotice,
        mesh::{
            Admit, Dismiss, Offer, Reason as RelayReason, Release, Signal, request::Body as Ask,
            response::Body as RelayAnswer,
        },
    },
};

use super::{
    ConnectionNumber, Party, Registry,
    exchange::{Awaited, HOST_GONE, over, started},
};
use crate::{
    admin::metrics::{Introduction, SessionEnd},
    control::message::{Reason, Refusal, ReleaseCause, Reply},
    datapath::leg::Leg,
    mesh::{self, AskError},
};

/// What another relay is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Which.
    pub relay: RelayId,
    /// Calls of one exchange keep their order.
    pub exchange: ExchangeId,
    /// What.
    pub ask: Ask,
}

const RELAY_GONE: Refusal = Refusal::new(
    Reason::PeerGone,
    "the relay of whoever made this code cannot be reached at the moment",
);

impl Registry {
    /// A node of this relay joins a host of another one.
    pub(super) fn join_at(
        &mut self,
        number: ConnectionNumber,
        key: RecordKey,
        kind: Kind,
        relay: RelayId,
        payload: Bytes,
        now: Instant,
    ) -> Result<ExchangeId, Refusal> {
        self.check_serving()?;
        self.check_joiner(number)?;
        let exchange = self.new_exchange_id();
        let parties = [Party::At(relay), Party::Here(number)];
        self.open(exchange, key, kind, parties, now);
        self.await_answer(exchange, Awaited::Offer);
        let offer = Offer {
            exchange: exchange.0,
            locator_key: Bytes::copy_from_slice(&key.0),
            payload,
        };
        self.call(relay, exchange, Ask::Offer(offer));
        Ok(exchange)
    }

    /// How frames go to another relay, and come from it.
    pub(super) fn leg_to(&self, relay: RelayId) -> Result<Leg, Refusal> {
        self.neighbours.leg(relay).ok_or(RELAY_GONE)
    }

    pub(super) fn call_signal(&mut self, relay: RelayId, exchange: ExchangeId, payload: Bytes) {
        let Some(entry) = self.exchanges.get_mut(&exchange) else {
            return;
        };
        entry.sent += 1;
        let signal = Signal {
            exchange: exchange.0,
            sequence: entry.sent,
            payload,
        };
        self.call(relay, exchange, Ask::Signal(signal));
    }

    pub(super) fn call_admit(
        &mut self,
        relay: RelayId,
        exchange: ExchangeId,
        session: SessionId,
        payload: Bytes,
    ) {
        self.await_answer(exchange, Awaited::Admit(session));
        let admit = Admit {
            exchange: exchange.0,
            payload,
            session: session.0,
        };
        self.call(relay, exchange, Ask::Admit(admit));
    }

    pub(super) fn call_dismiss(
        &mut self,
        relay: RelayId,
        dismiss: remora_proto::wire::message::control::Dismiss,
    ) {
        let exchange = ExchangeId(dismiss.exchange);
        let dismiss = Dismiss {
            exchange: dismiss.exchange,
            payload: dismiss.payload,
            wrong_secret: dismiss.wrong_secret,
        };
        self.call(relay, exchange, Ask::Dismiss(dismiss));
    }

    pub(super) fn call_release(
        &mut self,
        relay: RelayId,
        exchange: ExchangeId,
        session: SessionId,
        cause: ReleaseCause,
        why: &str,
    ) {
        let release = Release {
            session: session.0,
            cause: cause.into(),
            why: why.to_owned(),
        };
        self.call(relay, exchange, Ask::Release(release));
    }

    fn call(&mut self, relay: RelayId, exchange: ExchangeId, ask: Ask) {
        self.calls.push_back(Call {
            relay,
            exchange,
            ask,
        });
    }

    fn await_answer(&mut self, exchange: ExchangeId, awaited: Awaited) {
        if let Some(entry) = self.exchanges.get_mut(&exchange) {
            entry.awaited = awaited;
        }
    }

    /// What another relay was asked is settled: who waits for it, if anybody does any more.
    fn settle(&mut self, exchange: ExchangeId) -> Option<(ConnectionNumber, Awaited)> {
        let entry = self.exchanges.get_mut(&exchange)?;
        let waiting = entry.waiting()?;
        let awaited = std::mem::replace(&mut entry.awaited, Awaited::Nothing);
        Some((waiting, awaited))
    }

    /// Another relay has answered a call, or has not. Who waits for it has its answer in [`Registry::poll_answer`].
    pub fn handle_called(&mut self, call: &Call, result: Result<(), AskError>, now: Instant) {
        let exchange = call.exchange;
        match (&call.ask, result) {
            (Ask::Offer(_), Ok(())) => {
                if let Some((joiner, _)) = self.settle(exchange) {
                    let answer = (exchange, joiner, Ok(started(exchange)));
                    self.settled.push_back(answer);
                }
            }
            (Ask::Admit(_), Ok(())) => {
                if let Some((host, Awaited::Admit(session))) = self.settle(exchange) {
                    self.introduce(exchange, now);
                    let allocated = self.allocated(exchange, session, Side::Host, Bytes::new());
                    self.settled.push_back((exchange, host, Ok(allocated)));
                    self.remind(host, now);
                }
            }
            (Ask::Offer(_) | Ask::Admit(_), Err(error)) => {
                let Some((waiting, awaited)) = self.settle(exchange) else {
                    return;
                };
                let answer = (exchange, waiting, Err(refusal(error)));
                self.settled.push_back(answer);
                self.end_exchange(exchange, Introduction::PeerGone);
                match awaited {
                    // It may have done it all the same.
                    Awaited::Offer if error == AskError::Unreachable => {
                        self.call_dismiss(call.relay, over(exchange));
                    }
                    Awaited::Admit(session) => {
                        self.take_back(exchange, session, Party::At(call.relay));
                        // Or not, and then its joiner waits.
                        self.call_dismiss(call.relay, over(exchange));
                    }
                    Awaited::Offer | Awaited::Nothing => {}
                }
            }
            (Ask::Signal(_), Err(error)) => {
                let was_open = self.end_for_ours(exchange, Introduction::PeerGone);
                if was_open && error == AskError::Unreachable {
                    // It may be there, with its node waiting for the next.
                    self.call_dismiss(call.relay, over(exchange));
                }
            }
            (_, Err(error)) => self.handle_unheard(call, error),
            _ => {}
        }
    }

    /// Ends a session that another relay was asked to let through, and may have, or may be about to.
    pub(super) fn take_back(&mut self, exchange: ExchangeId, session: SessionId, joiner: Party) {
        self.end_session(session, SessionEnd::Lost);
        if let Party::At(relay) = joiner {
            self.call_release(relay, exchange, session, ReleaseCause::PeerLost, "");
        }
    }

    /// Another relay is gone, and with it what was agreed on with its nodes, or about to be.
    pub(super) fn lose_relay(&mut self, relay: RelayId) {
        let of_it = self.exchanges.iter();
        let lost: Vec<_> = of_it
            .filter(|(_, entry)| entry.side(Party::At(relay)).is_some())
            .map(|(&exchange, _)| exchange)
            .collect();
        for exchange in lost {
            self.end_for_ours(exchange, Introduction::PeerGone);
        }
    }

    /// Does what another relay asks, or says why not.
    pub fn handle_relay(&mut self, from: RelayId, ask: Ask, now: Instant) -> RelayAnswer {
        let handled = match ask {
            Ask::Offer(offer) => self.offer_from(from, offer, now),
            Ask::Signal(signal) => self.signal_from(from, signal),
            Ask::Admit(admit) => self.admit_from(from, admit, now),
            Ask::Dismiss(dismiss) => self.dismiss_from(from, dismiss),
            Ask::Release(release) => self.release_from(from, &release),
            Ask::Hello(_)
            | Ask::Keep(_)
            | Ask::Forget(_)
            | Ask::Find(_)
            | Ask::FetchPolicy(_)
            | Ask::PolicyNews(_)
            | Ask::FetchQueue(_) => Err(RelayReason::Malformed),
        };
        match handled {
            Ok(()) => mesh::done(),
            Err(reason) => mesh::refused(reason),
        }
    }

    fn offer_from(&mut self, from: RelayId, offer: Offer, now: Instant) -> Result<(), RelayReason> {
        let exchange = ExchangeId(offer.exchange);
        let key = RecordKey::from_bytes(&offer.locator_key);
        let key = key.map_err(|_| RelayReason::Malformed)?;
        let payload = payload(offer.payload)?;
        if exchange.0 == 0 {
            return Err(RelayReason::Malformed);
        }
        if let Some(entry) = self.exchanges.get(&exchange) {
            let is_again = entry.joiner == Party::At(from) && entry.key == key;
            return if is_again {
                Ok(())
            } else {
                Err(RelayReason::Taken)
            };
        }
        if self.over.contains(from, exchange) {
            // Asked again: what came of it is under way.
            return Ok(());
        }
        self.check_serving().map_err(reason)?;
        let hosting = self.hosting_by_locator.get(&key);
        // A locator is no device's key: of which kind it is, is known here.
        let kind = hosting.map_or(Kind::Host, |hosting| hosting.kind);
        let host = self.check_host(key, kind).map_err(reason)?;
        // The code is not spent on a session whose frames would go nowhere. Two that have just met are heard in a moment.
        self.leg_to(from).map_err(|_| RelayReason::Busy)?;
        let parties = [Party::Here(host), Party::At(from)];
        self.open(exchange, key, kind, parties, now);
        self.offer(exchange, host, key, payload);
        Ok(())
    }

    fn signal_from(&mut self, from: RelayId, signal: Signal) -> Result<(), RelayReason> {
        let payload = payload(signal.payload)?;
        let exchange = ExchangeId(signal.exchange);
        let (entry, to) = self.member_of(from, exchange)?;
        let next = entry.received + 1;
        if signal.sequence < next {
            return Ok(());
        }
        // Its offer is not answered yet, or a signal before this one is under way, or its host is being woken.
        if signal.sequence > next || entry.awaited == Awaited::Offer || to.is_parked() {
            return Err(RelayReason::Busy);
        }
        if let Some(entry) = self.exchanges.get_mut(&exchange) {
            entry.received = next;
        }
        let signal = SignalNotice {
            exchange: exchange.0,
            payload,
        };
        self.notices.push_back((to, Reply::Signal(signal)));
        Ok(())
    }

    fn admit_from(&mut self, from: RelayId, admit: Admit, now: Instant) -> Result<(), RelayReason> {
        let payload = payload(admit.payload)?;
        let (exchange, session) = (ExchangeId(admit.exchange), SessionId(admit.session));
        if let Some(allocation) = self.allocations.get(&session) {
            let is_again = allocation.parties[Side::Host as usize] == Party::At(from);
            return if is_again {
                Ok(())
            } else {
                Err(RelayReason::Taken)
            };
        }
        let (entry, joiner) = self.member_of(from, exchange)?;
        if entry.host != Party::At(from) || entry.kind == Kind::Device {
            return Err(RelayReason::PeerGone);
        }
        if entry.awaited == Awaited::Offer || self.leg_to(from).is_err() {
            return Err(RelayReason::Busy);
        }
        let parties = [Party::At(from), Party::Here(joiner)];
        let session = self
            .allocate(exchange, parties, Some(session), now)
            .map_err(reason)?;
        let notice = self.allocated(exchange, session, Side::Joiner, payload);
        self.notices.push_back((joiner, notice));
        self.introduce(exchange, now);
        self.remind(joiner, now);
        Ok(())
    }

    fn dismiss_from(&mut self, from: RelayId, dismiss: Dismiss) -> Result<(), RelayReason> {
        let payload = payload(dismiss.payload)?;
        let exchange = ExchangeId(dismiss.exchange);
        let Ok((entry, to)) = self.member_of(from, exchange) else {
            // It is over already, or its offer has been overtaken, and is nothing any more when it comes.
            self.over.add(from, exchange);
            return Ok(());
        };
        if entry.awaited == Awaited::Offer {
            // Its answer to the offer is under way.
            return Err(RelayReason::Busy);
        }
        let notice = if entry.host == Party::At(from) {
            remora_proto::wire::message::control::Dismiss {
                exchange: exchange.0,
                payload,
                wrong_secret: dismiss.wrong_secret,
            }
        } else {
            over(exchange)
        };
        if let Some(ended) = self.end_exchange(exchange, Introduction::PeerGone) {
            self.tell_ended(&ended, Party::Here(to), notice);
        }
        Ok(())
    }

    fn release_from(&mut self, from: RelayId, release: &Release) -> Result<(), RelayReason> {
        let cause = release.cause();
        let end = match cause {
            ReleaseCause::PeerReleased => SessionEnd::Released,
            ReleaseCause::PeerLost => SessionEnd::Lost,
            ReleaseCause::Idle => SessionEnd::Idle,
            ReleaseCause::RelayDrained => SessionEnd::Drained,
            ReleaseCause::OperatorEnded => SessionEnd::Operator,
            ReleaseCause::Unspecified => return Err(RelayReason::Malformed),
        };
        let session = SessionId(release.session);
        let exchange = self.allocations.get(&session).map(|one| one.exchange);
        let entry = exchange.and_then(|exchange| self.exchanges.get(&exchange));
        if entry.is_some_and(|entry| entry.awaited == Awaited::Admit(session)) {
            // Its answer to the admission is under way.
            return Err(RelayReason::Busy);
        }
        // Not there: it is over already.
        let why = Why::heard(&release.why);
        self.end_for_peer(Party::At(from), session, end, cause, why.as_str());
        Ok(())
    }

    /// An exchange with a node at `from`, and the node of this relay in it.
    fn member_of(
        &self,
        from: RelayId,
        exchange: ExchangeId,
    ) -> Result<(&super::Exchange, ConnectionNumber), RelayReason> {
        let entry = self.exchanges.get(&exchange);
        let entry = entry.ok_or(RelayReason::PeerGone)?;
        let side = entry.side(Party::At(from)).ok_or(RelayReason::PeerGone)?;
        match entry.party(side.peer()) {
            Party::Here(number) => Ok((entry, number)),
            Party::At(_) => Err(RelayReason::PeerGone),
        }
    }
}

fn payload(bytes: Bytes) -> Result<Bytes, RelayReason> {
    if bytes.len() > MAX_SIGNAL_BYTES {
        return Err(RelayReason::Malformed);
    }
    Ok(bytes)
}

/// What another relay is told instead of what a node would be.
fn reason(refusal: Refusal) -> RelayReason {
    match refusal.reason {
        Reason::Full => RelayReason::Full,
        Reason::Draining => RelayReason::Draining,
        Reason::Unspecified
        | Reason::Malformed
        | Reason::BadState
        | Reason::VersionTooOld
        | Reason::RateLimited
        | Reason::Taken
        | Reason::BadRecord
        | Reason::UnknownCode
        | Reason::CodeExpired
        | Reason::CodeUsed
        | Reason::CodeBurned
        | Reason::CodeCancelled
        | Reason::PeerGone
        | Reason::NotParked => RelayReason::PeerGone,
    }
}

/// What a node is told of another relay's no.
fn refusal(error: AskError) -> Refusal {
    match error {
        AskError::Refused(RelayReason::PeerGone) => HOST_GONE,
        AskError::Refused(RelayReason::Full) => Refusal::new(
            Reason::Full,
            "the other person's relay has no room at the moment",
        ),
        AskError::Refused(RelayReason::Draining) => Refusal::new(
            Reason::PeerGone,
            "the other person's relay is about to stop; try again in a moment",
        ),
        AskError::Refused(_) | AskError::Unreachable => RELAY_GONE,
    }
}
