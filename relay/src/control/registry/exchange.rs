//! Exchanges: a joiner's try at a host, or somebody who rings at a device. Their payloads are the two nodes' own and pass through unread.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_proto::{
    id::{ExchangeId, RelayId, SessionId, Side},
    record::{Kind, RecordKey},
    wire::message::control::{Dismiss, Offer, Signal, Started},
};

use super::{ConnectionNumber, Due, Outcome, PEER_GONE, Party, Registry};
use crate::{
    admin::metrics::Introduction,
    control::message::{Answer, Reason, Refusal, Reply, done},
};

/// Tries at one record at once. The host burns its code on the third wrong one, so the others only wait.
pub(super) const MAX_PER_RECORD: usize = 64;
/// Tries of one joiner at once: a person types one code; a wrong one may still be on its way out.
pub(super) const MAX_PER_JOINER: usize = 4;
/// Life of an exchange. The PAKE takes two round trips; this is for the slowest satellite, twice.
pub(super) const LIFE: Duration = Duration::from_secs(30);

/// People who ring at one device at once.
pub(super) const MAX_PER_DEVICE: usize = 16;
/// Life of an exchange with a device: somebody there has five minutes to come (guide, C-6), and what is said of that has to get through.
pub(super) const DEVICE_LIFE: Duration = Duration::from_secs(330);

pub(super) const HOST_GONE: Refusal = Refusal::new(
    Reason::PeerGone,
    "whoever made this code is not connected at the moment",
);
const DEVICE_GONE: Refusal = Refusal::new(
    Reason::PeerGone,
    "the device is not connected at the moment",
);

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) key: RecordKey,
    pub(super) kind: Kind,
    pub(super) host: Party,
    pub(super) joiner: Party,
    pub(super) began: Instant,
    pub(super) until: Instant,
    pub(super) awaited: Awaited,
    /// Signals to and from the other relay, if one of them is there.
    pub(super) sent: u32,
    pub(super) received: u32,
}

/// Exchanges with other relays' joiners that are over: what is asked again within seconds is among them.
const MAX_OVER: usize = 1024;

/// The last of them.
#[derive(Debug, Default)]
pub(super) struct Over(VecDeque<(RelayId, ExchangeId)>);

impl Over {
    pub(super) fn contains(&self, relay: RelayId, exchange: ExchangeId) -> bool {
        self.0.contains(&(relay, exchange))
    }

    pub(super) fn add(&mut self, relay: RelayId, exchange: ExchangeId) {
        if self.contains(relay, exchange) {
            return;
        }
        self.0.truncate(MAX_OVER - 1);
        self.0.push_front((relay, exchange));
    }
}

/// What the other relay has still to agree to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    Nothing,
    /// That its host has been told.
    Offer,
    /// That its joiner is let in.
    Admit(SessionId),
}

impl Exchange {
    pub(super) fn new(
        key: RecordKey,
        kind: Kind,
        [host, joiner]: [Party; 2],
        now: Instant,
    ) -> Self {
        let life = match kind {
            Kind::Host => LIFE,
            Kind::Device => DEVICE_LIFE,
        };
        Self {
            key,
            kind,
            host,
            joiner,
            began: now,
            until: now + life,
            awaited: Awaited::Nothing,
            sent: 0,
            received: 0,
        }
    }

    pub(super) fn side(&self, party: Party) -> Option<Side> {
        [(self.host, Side::Host), (self.joiner, Side::Joiner)]
            .into_iter()
            .find_map(|(other, side)| (other == party).then_some(side))
    }

    pub(super) fn renumber(&mut self, from: ConnectionNumber, to: ConnectionNumber) {
        for party in [&mut self.host, &mut self.joiner] {
            if *party == Party::Here(from) {
                *party = Party::Here(to);
            }
        }
    }

    pub(super) fn party(&self, side: Side) -> Party {
        match side {
            Side::Host => self.host,
            Side::Joiner => self.joiner,
        }
    }

    /// Whose request waits for another relay.
    pub(super) fn waiting(&self) -> Option<ConnectionNumber> {
        let party = match self.awaited {
            Awaited::Nothing => return None,
            Awaited::Offer => self.joiner,
            Awaited::Admit(_) => self.host,
        };
        match party {
            Party::Here(number) => Some(number),
            Party::At(_) => None,
        }
    }
}

impl Registry {
    pub(super) fn join(
        &mut self,
        number: ConnectionNumber,
        key: RecordKey,
        kind: Kind,
        relay: RelayId,
        payload: Bytes,
        now: Instant,
    ) -> Outcome {
        let joined = if relay == self.me {
            self.join_here(number, key, kind, payload, now)
                .map(Outcome::from)
        } else {
            self.join_at(number, key, kind, relay, payload, now)
                .map(Outcome::Later)
        };
        joined.unwrap_or_else(Outcome::from)
    }

    fn join_here(
        &mut self,
        number: ConnectionNumber,
        key: RecordKey,
        kind: Kind,
        payload: Bytes,
        now: Instant,
    ) -> Result<Reply, Refusal> {
        self.check_serving()?;
        let host = self.check_host(key, kind)?;
        if host == number {
            return Err(Refusal::new(
                Reason::BadState,
                "this is your own code, or device",
            ));
        }
        self.check_joiner(number)?;
        let exchange = self.new_exchange_id();
        let parties = [Party::Here(host), Party::Here(number)];
        self.open(exchange, key, kind, parties, now);
        self.offer(exchange, host, key, payload);
        Ok(started(exchange))
    }

    pub(super) fn check_serving(&self) -> Result<(), Refusal> {
        if self.drain.is_leaving() {
            return Err(Refusal::new(
                Reason::Draining,
                "this relay is about to stop; use another",
            ));
        }
        Ok(())
    }

    /// Opens an exchange.
    pub(super) fn open(
        &mut self,
        exchange: ExchangeId,
        key: RecordKey,
        kind: Kind,
        parties: [Party; 2],
        now: Instant,
    ) {
        let opened = Exchange::new(key, kind, parties, now);
        self.deadlines
            .insert((opened.until, Due::Exchange(exchange)));
        self.exchanges.insert(exchange, opened);
        if let Party::Here(_) = parties[0]
            && let Some(hosting) = self.hosting_by_locator.get_mut(&key)
        {
            hosting.exchanges.insert(exchange);
        }
        for party in parties {
            if let Some(node) = self.node_mut(party) {
                node.exchanges.insert(exchange);
            }
        }
    }

    /// Tells a host of this relay.
    pub(super) fn offer(
        &mut self,
        exchange: ExchangeId,
        host: ConnectionNumber,
        key: RecordKey,
        payload: Bytes,
    ) {
        let locator_key = Bytes::copy_from_slice(&key.0);
        self.notices.push_back((
            host,
            Reply::Offer(Offer {
                exchange: exchange.0,
                locator_key,
                payload,
            }),
        ));
    }

    /// The host, or device, that waits here under `key`, if somebody more may try.
    pub(super) fn check_host(
        &self,
        key: RecordKey,
        kind: Kind,
    ) -> Result<ConnectionNumber, Refusal> {
        let (gone, max, too_many) = match kind {
            Kind::Host => (
                HOST_GONE,
                MAX_PER_RECORD,
                "too many are trying this code at once",
            ),
            Kind::Device => (
                DEVICE_GONE,
                MAX_PER_DEVICE,
                "too many invite this device at once",
            ),
        };
        let hosting = self.hosting_by_locator.get(&key);
        let hosting = hosting.filter(|hosting| hosting.kind == kind);
        let hosting = hosting.ok_or(gone)?;
        if hosting.exchanges.len() >= max {
            return Err(Refusal::new(Reason::Full, too_many));
        }
        Ok(hosting.host)
    }

    /// Whether the node may try one more.
    pub(super) fn check_joiner(&self, number: ConnectionNumber) -> Result<(), Refusal> {
        let joining = self.nodes.get(&number).map_or(0, |node| {
            let exchanges = node
                .exchanges
                .iter()
                .filter_map(|id| self.exchanges.get(id));
            exchanges
                .filter(|exchange| exchange.joiner == Party::Here(number))
                .count()
        });
        if joining >= MAX_PER_JOINER {
            return Err(Refusal::new(Reason::Full, "too many codes tried at once"));
        }
        Ok(())
    }

    pub(super) fn new_exchange_id(&mut self) -> ExchangeId {
        loop {
            let id = ExchangeId(u64::from_be_bytes(self.random.bytes()));
            if id.0 != 0 && !self.exchanges.contains_key(&id) {
                return id;
            }
        }
    }

    pub(super) fn signal(
        &mut self,
        number: ConnectionNumber,
        exchange: ExchangeId,
        payload: Bytes,
    ) -> Answer {
        let (entry, side) = self.member(number, exchange)?;
        match entry.party(side.peer()) {
            // A host that is being woken has not seen the offer. What comes before its answer would only be kept for it.
            Party::Here(to) if to.is_parked() => {
                return Err(Refusal::new(
                    Reason::BadState,
                    "the other node has not answered yet",
                ));
            }
            Party::Here(to) => self.notices.push_back((
                to,
                Reply::Signal(Signal {
                    exchange: exchange.0,
                    payload,
                }),
            )),
            Party::At(relay) => self.call_signal(relay, exchange, payload),
        }
        Ok(done())
    }

    pub(super) fn dismiss(
        &mut self,
        number: ConnectionNumber,
        exchange: ExchangeId,
        payload: Bytes,
        wrong_secret: bool,
    ) -> Answer {
        self.hosted(number, exchange)?;
        let result = if wrong_secret {
            Introduction::WrongSecret
        } else {
            Introduction::Dismissed
        };
        if let Some(ended) = self.end_exchange(exchange, result) {
            let dismiss = Dismiss {
                exchange: exchange.0,
                payload,
                wrong_secret,
            };
            self.tell_ended(&ended, ended.joiner, dismiss);
        }
        Ok(done())
    }

    /// Tells one of the two, wherever it is, that the exchange has ended; but not who has just heard so as its answer.
    pub(super) fn tell_ended(&mut self, ended: &Exchange, party: Party, dismiss: Dismiss) {
        match party {
            Party::Here(number) if ended.waiting() == Some(number) => {}
            Party::Here(number) => self.notices.push_back((number, Reply::Dismissed(dismiss))),
            Party::At(relay) => self.call_dismiss(relay, dismiss),
        }
    }

    pub(super) fn admit(
        &mut self,
        number: ConnectionNumber,
        exchange: ExchangeId,
        payload: Bytes,
        now: Instant,
    ) -> Outcome {
        let admitted = self.try_admit(number, exchange, payload, now);
        admitted.unwrap_or_else(Outcome::from)
    }

    fn try_admit(
        &mut self,
        number: ConnectionNumber,
        exchange: ExchangeId,
        payload: Bytes,
        now: Instant,
    ) -> Result<Outcome, Refusal> {
        let joiner = self.hosted(number, exchange)?;
        self.check_allocates(exchange)?;
        let parties = [Party::Here(number), joiner];
        let session = self.allocate(exchange, parties, None, now)?;
        match joiner {
            Party::Here(joiner) => {
                let notice = self.allocated(exchange, session, Side::Joiner, payload);
                self.notices.push_back((joiner, notice));
                self.introduce(exchange, now);
                for node in [number, joiner] {
                    self.remind(node, now);
                }
                let answer = self.allocated(exchange, session, Side::Host, Bytes::new());
                Ok(answer.into())
            }
            Party::At(relay) => {
                self.call_admit(relay, exchange, session, payload);
                Ok(Outcome::Later(exchange))
            }
        }
    }

    /// Nobody gets a session by ringing.
    pub(super) fn check_allocates(&self, exchange: ExchangeId) -> Result<(), Refusal> {
        match self.exchanges.get(&exchange).map(|entry| entry.kind) {
            Some(Kind::Host) => Ok(()),
            Some(Kind::Device) => Err(Refusal::new(
                Reason::BadState,
                "a device that was rung at admits nobody by that",
            )),
            None => Err(PEER_GONE),
        }
    }

    /// Of a node that is gone: the other one is told.
    pub(super) fn abandon_exchange(&mut self, gone: ConnectionNumber, exchange: ExchangeId) {
        if let Some(ended) = self.end_exchange(exchange, Introduction::PeerGone)
            && let Some(side) = ended.side(Party::Here(gone))
        {
            self.tell_ended(&ended, ended.party(side.peer()), over(exchange));
        }
    }

    pub(super) fn expire_exchange(&mut self, exchange: ExchangeId) {
        // Another relay has the same clock for it.
        self.end_for_ours(exchange, Introduction::Expired);
    }

    /// Ends an exchange and tells the nodes of this relay; whether there was one.
    pub(super) fn end_for_ours(&mut self, exchange: ExchangeId, result: Introduction) -> bool {
        let Some(ended) = self.end_exchange(exchange, result) else {
            return false;
        };
        for party in [ended.host, ended.joiner] {
            if let Party::Here(_) = party {
                self.tell_ended(&ended, party, over(exchange));
            }
        }
        true
    }

    /// An exchange and the part `number` has in it; strangers learn nothing, not even that it exists.
    fn member(
        &self,
        number: ConnectionNumber,
        exchange: ExchangeId,
    ) -> Result<(&Exchange, Side), Refusal> {
        let entry = self.exchanges.get(&exchange).ok_or(PEER_GONE)?;
        let side = entry.side(Party::Here(number)).ok_or(PEER_GONE)?;
        Ok((entry, side))
    }

    /// The joiner of an exchange that `number` decides about, and has not yet.
    fn hosted(&self, number: ConnectionNumber, exchange: ExchangeId) -> Result<Party, Refusal> {
        match self.member(number, exchange)? {
            (entry, Side::Host) if entry.awaited == Awaited::Nothing => Ok(entry.joiner),
            (_, Side::Host) => Err(Refusal::new(
                Reason::BadState,
                "this exchange has been decided about",
            )),
            (_, Side::Joiner) => Err(Refusal::new(
                Reason::BadState,
                "only the host decides about an exchange",
            )),
        }
    }

    /// Ends an exchange of which a session comes.
    pub(super) fn introduce(&mut self, exchange: ExchangeId, now: Instant) {
        if let Some(ended) = self.end_exchange(exchange, Introduction::Admitted)
            && let Party::Here(_) = ended.host
        {
            let took = now.saturating_duration_since(ended.began);
            self.metrics.introduced(took.as_secs_f64());
        }
    }

    /// The one end of every exchange: whoever still waits for another relay's answer gets this one, and a session that was to
    /// come of it ends.
    pub(super) fn end_exchange(
        &mut self,
        exchange: ExchangeId,
        result: Introduction,
    ) -> Option<Exchange> {
        let ended = self.exchanges.remove(&exchange)?;
        self.deadlines
            .remove(&(ended.until, Due::Exchange(exchange)));
        if let Some(hosting) = self.hosting_by_locator.get_mut(&ended.key) {
            hosting.exchanges.remove(&exchange);
        }
        for party in [ended.host, ended.joiner] {
            if let Some(node) = self.node_mut(party) {
                node.exchanges.remove(&exchange);
            }
        }
        // Of two relays, the host's counts it. A ring introduces nobody.
        if let (Party::Here(_), Kind::Host) = (ended.host, ended.kind) {
            self.metrics.introduction(result);
        }
        if let Party::At(relay) = ended.joiner {
            self.over.add(relay, exchange);
        }
        if let Some(waiting) = ended.waiting() {
            self.settled.push_back((exchange, waiting, Err(PEER_GONE)));
        }
        if let Awaited::Admit(session) = ended.awaited {
            self.take_back(exchange, session, ended.joiner);
        }
        self.drain.handle_remaining(self.remaining());
        Some(ended)
    }
}

/// The relay's own word that an exchange ended: no payload, and no secret was wrong.
pub(super) fn over(exchange: ExchangeId) -> Dismiss {
    Dismiss {
        exchange: exchange.0,
        payload: Bytes::new(),
        wrong_secret: false,
    }
}

pub(super) fn started(exchange: ExchangeId) -> Reply {
    Reply::Started(Started {
        exchange: exchange.0,
    })
}
