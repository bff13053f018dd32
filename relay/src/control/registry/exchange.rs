//! Exchanges: a joiner's try at a host. Their payloads are the two nodes' own and pass through unread.

use std::time::{Duration, Instant};

use bytes::Bytes;
use remora_proto::{
    id::{ExchangeId, Side},
    record::LocatorKey,
    wire::message::control::{Dismiss, Offer, Signal, Started},
};

use super::{ConnectionNumber, Due, PEER_GONE, Registry};
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

#[derive(Debug)]
pub(super) struct Exchange {
    key: LocatorKey,
    host: ConnectionNumber,
    joiner: ConnectionNumber,
    until: Instant,
}

impl Exchange {
    fn side(&self, number: ConnectionNumber) -> Option<Side> {
        [(self.host, Side::Host), (self.joiner, Side::Joiner)]
            .into_iter()
            .find_map(|(node, side)| (node == number).then_some(side))
    }

    pub(super) fn renumber(&mut self, from: ConnectionNumber, to: ConnectionNumber) {
        for node in [&mut self.host, &mut self.joiner] {
            if *node == from {
                *node = to;
            }
        }
    }

    fn node(&self, side: Side) -> ConnectionNumber {
        match side {
            Side::Host => self.host,
            Side::Joiner => self.joiner,
        }
    }
}

impl Registry {
    pub(super) fn join(
        &mut self,
        number: ConnectionNumber,
        key: LocatorKey,
        payload: Bytes,
        now: Instant,
    ) -> Answer {
        if self.drain.is_leaving() {
            return Err(Refusal::new(
                Reason::Draining,
                "this relay is about to stop; use another",
            ));
        }
        let host = self.check_join(number, key)?;
        let exchange = self.new_exchange_id();
        let until = now + LIFE;
        self.exchanges.insert(
            exchange,
            Exchange {
                key,
                host,
                joiner: number,
                until,
            },
        );
        self.deadlines.insert((until, Due::Exchange(exchange)));
        if let Some(hosting) = self.hosting_by_locator.get_mut(&key) {
            hosting.exchanges.insert(exchange);
        }
        for node in [host, number] {
            if let Some(node) = self.nodes.get_mut(&node) {
                node.exchanges.insert(exchange);
            }
        }
        let locator_key = Bytes::copy_from_slice(&key.0);
        self.notices.push_back((
            host,
            Reply::Offer(Offer {
                exchange: exchange.0,
                locator_key,
                payload,
            }),
        ));
        Ok(Reply::Started(Started {
            exchange: exchange.0,
        }))
    }

    /// The host behind `key`, if `number` may try.
    fn check_join(
        &self,
        number: ConnectionNumber,
        key: LocatorKey,
    ) -> Result<ConnectionNumber, Refusal> {
        let hosting = self.hosting_by_locator.get(&key).ok_or(Refusal::new(
            Reason::PeerGone,
            "whoever made this code is not connected at the moment",
        ))?;
        if hosting.host == number {
            return Err(Refusal::new(Reason::BadState, "this is your own code"));
        }
        if hosting.exchanges.len() >= MAX_PER_RECORD {
            return Err(Refusal::new(
                Reason::Full,
                "too many are trying this code at once",
            ));
        }
        let joining = self.nodes.get(&number).map_or(0, |node| {
            let exchanges = node
                .exchanges
                .iter()
                .filter_map(|id| self.exchanges.get(id));
            exchanges
                .filter(|exchange| exchange.joiner == number)
                .count()
        });
        if joining >= MAX_PER_JOINER {
            return Err(Refusal::new(Reason::Full, "too many codes tried at once"));
        }
        Ok(hosting.host)
    }

    fn new_exchange_id(&mut self) -> ExchangeId {
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
        let to = entry.node(side.peer());
        // A host that is being woken has not seen the offer. What comes before its answer would only be kept for it.
        if to.is_parked() {
            return Err(Refusal::new(
                Reason::BadState,
                "the other node has not answered yet",
            ));
        }
        self.notices.push_back((
            to,
            Reply::Signal(Signal {
                exchange: exchange.0,
                payload,
            }),
        ));
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
            self.notices
                .push_back((ended.joiner, Reply::Dismissed(dismiss)));
        }
        Ok(done())
    }

    pub(super) fn admit(
        &mut self,
        number: ConnectionNumber,
        exchange: ExchangeId,
        payload: Bytes,
        now: Instant,
    ) -> Answer {
        let joiner = self.hosted(number, exchange)?;
        let answer = self.allocate(exchange, [number, joiner], payload, now)?;
        self.end_exchange(exchange, Introduction::Admitted);
        Ok(answer)
    }

    /// Of a node that is gone: the other one is told.
    pub(super) fn abandon_exchange(&mut self, gone: ConnectionNumber, exchange: ExchangeId) {
        if let Some(ended) = self.end_exchange(exchange, Introduction::PeerGone) {
            let left = ended.side(gone).map(|side| ended.node(side.peer()));
            self.notices.extend(left.map(|node| (node, over(exchange))));
        }
    }

    pub(super) fn expire_exchange(&mut self, exchange: ExchangeId) {
        if let Some(ended) = self.end_exchange(exchange, Introduction::Expired) {
            self.notices
                .extend([ended.host, ended.joiner].map(|node| (node, over(exchange))));
        }
    }

    /// An exchange and the part `number` has in it; strangers learn nothing, not even that it exists.
    fn member(
        &self,
        number: ConnectionNumber,
        exchange: ExchangeId,
    ) -> Result<(&Exchange, Side), Refusal> {
        let entry = self.exchanges.get(&exchange).ok_or(PEER_GONE)?;
        let side = entry.side(number).ok_or(PEER_GONE)?;
        Ok((entry, side))
    }

    /// The joiner of an exchange that `number` decides about.
    fn hosted(
        &self,
        number: ConnectionNumber,
        exchange: ExchangeId,
    ) -> Result<ConnectionNumber, Refusal> {
        match self.member(number, exchange)? {
            (entry, Side::Host) => Ok(entry.joiner),
            (_, Side::Joiner) => Err(Refusal::new(
                Reason::BadState,
                "only the host decides about an exchange",
            )),
        }
    }

    fn end_exchange(&mut self, exchange: ExchangeId, result: Introduction) -> Option<Exchange> {
        let ended = self.exchanges.remove(&exchange)?;
        self.deadlines
            .remove(&(ended.until, Due::Exchange(exchange)));
        if let Some(hosting) = self.hosting_by_locator.get_mut(&ended.key) {
            hosting.exchanges.remove(&exchange);
        }
        for node in [ended.host, ended.joiner] {
            if let Some(node) = self.nodes.get_mut(&node) {
                node.exchanges.remove(&exchange);
            }
        }
        self.metrics.introduction(result);
        Some(ended)
    }
}

/// The relay's own word that an exchange ended: no payload, and no secret was wrong.
fn over(exchange: ExchangeId) -> Reply {
    Reply::Dismissed(Dismiss {
        exchange: exchange.0,
        payload: Bytes::new(),
        wrong_secret: false,
    })
}
