//! What nodes agreed on: who waits under a locator, who talks to whom, which sessions are forwarded. Pure.
//!
//! ```text
//! joiner ── Join ──▶ exchange ── Offer, Signal … ──▶ host ── Admit ──▶ allocation ── Release, lost, idle ──▶ gone
//!                        └── Dismiss, 30 s, one of them gone ──▶ gone          ▲
//! two nodes that another relay carried ── Rejoin, within 10 s ─────────────────┘
//! ```
//!
//! One of the two nodes may be at another relay ([`Party`]): then that relay has the same exchange or session under the same
//! id, with its own node and us, and each tells the other what its node would have been told.
//!
//! An exchange with a device is one as any other, but for its life: nothing is allocated by it.
//!
//! A machine with one owner ([`super::driver`]) instead of a locked map: an admission touches two nodes, an exchange,
//! an allocation and the table at once, and notices must leave in the order things happened. Requests come with
//! `now`, answers are returned, notices wait in [`Registry::poll_notice`]. Deadlines come from one queue. What a node
//! holds is listed at the node, so that its loss costs what it held and no scan.

// Allocations: ended by a node, by its loss, by silence, by the drain.
mod allocation;
// Exchanges: a joiner's try at a host.
mod exchange;
// What an operator sees and does.
mod operator;
// Rejoins: two nodes come from another relay.
mod rejoin;
// Either of them with one of its nodes at another relay.
mod remote;
// What that relay has not heard.
mod unheard;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_proto::{
    id::{ExchangeId, NodeId, RelayAddr, RelayId, SessionId, Side},
    random::Random,
    record::{Kind, RecordKey},
    wire::{
        message::control::{Draining, Taken},
        reflect::Load,
    },
};

use self::{
    allocation::Allocation,
    exchange::{Exchange, Over},
    rejoin::Rejoins,
    unheard::Unheard,
};
pub use self::{rejoin::RejoinKey, remote::Call};
use super::message::{Answer, Reason, Refusal, Reply, done};
use crate::{
    admin::metrics::Metrics,
    datapath::{leg::Leg, table::Table},
    drain::{Drain, State},
    mesh::Neighbours,
};

/// A node's connection, or its parking place, for as long as this relay runs.
///
/// Not the node's key: one person may run two programs with the same key, and each is to get its own notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionNumber(pub u64);

/// Other relays that a node is told of.
const MAX_OTHERS: usize = 8;
/// Tells parking places from connections; neither has as many.
const PARKED: u64 = 1 << 31;

impl ConnectionNumber {
    /// Of the connection that is kept under `key`; `serial` tells it from all before it there.
    pub fn new(serial: u32, key: usize) -> Self {
        Self(u64::from(serial) << 32 | key as u64)
    }

    /// The same of a parking place.
    pub fn parked(serial: u32, key: usize) -> Self {
        Self(Self::new(serial, key).0 | PARKED)
    }

    /// Whether it is a parking place.
    pub fn is_parked(self) -> bool {
        self.0 & PARKED != 0
    }

    /// Where it is kept, among its kind.
    pub fn key(self) -> usize {
        usize::try_from(self.0 & (PARKED - 1)).unwrap_or(usize::MAX)
    }
}

/// One of the two in an exchange or a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// A node of this relay.
    Here(ConnectionNumber),
    /// A node of another relay, which alone knows it.
    At(RelayId),
}

/// How far a request of a node has come.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All the way.
    Answered(Answer),
    /// Another relay has to agree: [`Registry::poll_answer`] has the answer, once, under this exchange.
    Later(ExchangeId),
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Self {
        Self::Answered(answer)
    }
}

impl From<Reply> for Outcome {
    fn from(reply: Reply) -> Self {
        Self::Answered(Ok(reply))
    }
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        Self::Answered(Err(refusal))
    }
}

/// Caps an operator sets.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Nodes at once.
    pub max_nodes: usize,
    /// Sessions at once.
    pub max_sessions: usize,
    /// What the table allows each session, to tell the nodes.
    pub session_rate_bytes_per_s: u64,
}

/// What a node asks of the registry; checked as far as that goes without knowing the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Its record was put: joiners of `key` are to be sent here, and when it goes the record is let go.
    Host {
        /// The locator, or the device's key.
        key: RecordKey,
        /// Which of the two: a device is rung at, not joined.
        kind: Kind,
        /// How long.
        live_for: Duration,
    },
    /// Its record was withdrawn.
    Unhost {
        /// The locator.
        key: RecordKey,
    },
    /// See `control.proto`, as all that follow.
    Join {
        /// The locator.
        key: RecordKey,
        /// Where the host is.
        relay: RelayId,
        /// For the host.
        payload: Bytes,
    },
    /// The same of a device.
    Ring {
        /// The device's key.
        key: RecordKey,
        /// Where it is.
        relay: RelayId,
        /// For the device.
        payload: Bytes,
    },
    /// To the other node of the exchange.
    Signal {
        /// Which.
        exchange: ExchangeId,
        /// For the other.
        payload: Bytes,
    },
    /// The host lets the joiner in.
    Admit {
        /// Which.
        exchange: ExchangeId,
        /// For the joiner.
        payload: Bytes,
    },
    /// The host does not.
    Dismiss {
        /// Which.
        exchange: ExchangeId,
        /// For the joiner.
        payload: Bytes,
        /// Only counted.
        wrong_secret: bool,
    },
    /// Who presents the same key is the other side of a session.
    Rejoin {
        /// The two nodes' own.
        key: RejoinKey,
        /// Of the one who asks.
        side: Side,
    },
    /// The session is over.
    Release {
        /// Which.
        session: SessionId,
    },
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    leg: Leg,
    locators: BTreeSet<RecordKey>,
    /// As host or joiner.
    exchanges: BTreeSet<ExchangeId>,
    sessions: BTreeSet<SessionId>,
    rejoins: BTreeSet<RejoinKey>,
}

#[derive(Debug)]
struct Hosting {
    host: ConnectionNumber,
    kind: Kind,
    until: Instant,
    exchanges: BTreeSet<ExchangeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Hosting(RecordKey),
    Exchange(ExchangeId),
    Allocation(SessionId),
    Rejoin(RejoinKey),
}

/// The machine.
#[derive(Debug)]
pub struct Registry {
    me: RelayId,
    limits: Limits,
    random: Random,
    table: Arc<Table>,
    metrics: Arc<Metrics>,
    drain: Drain,
    nodes: BTreeMap<ConnectionNumber, Node>,
    hosting_by_locator: BTreeMap<RecordKey, Hosting>,
    exchanges: BTreeMap<ExchangeId, Exchange>,
    over: Over,
    allocations: BTreeMap<SessionId, Allocation>,
    rejoins: Rejoins,
    deadlines: BTreeSet<(Instant, Due)>,
    notices: VecDeque<(ConnectionNumber, Reply)>,
    /// Further ones, which are nothing to a node before it has heard the others.
    late_notices: VecDeque<(ConnectionNumber, Reply)>,
    neighbours: Neighbours,
    calls: VecDeque<Call>,
    unheard: Unheard,
    /// Answers to requests that waited for another relay.
    settled: VecDeque<(ExchangeId, ConnectionNumber, Answer)>,
    /// Locators whose host went without a word.
    let_go: VecDeque<RecordKey>,
}

const PEER_GONE: Refusal =
    Refusal::new(Reason::PeerGone, "there is no such exchange, or it is over");

const CONNECTION_OVER: Refusal = Refusal::new(Reason::BadState, "this connection is over");

impl Registry {
    /// An empty registry of the relay `me` that writes its sessions into `table`.
    pub fn new(
        me: RelayId,
        limits: Limits,
        drain: Drain,
        table: Arc<Table>,
        metrics: Arc<Metrics>,
        random: Random,
    ) -> Self {
        Self {
            me,
            limits,
            random,
            table,
            metrics,
            drain,
            nodes: BTreeMap::new(),
            hosting_by_locator: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            over: Over::default(),
            allocations: BTreeMap::new(),
            rejoins: Rejoins::default(),
            deadlines: BTreeSet::new(),
            notices: VecDeque::new(),
            late_notices: VecDeque::new(),
            neighbours: Neighbours::default(),
            calls: VecDeque::new(),
            unheard: Unheard::default(),
            settled: VecDeque::new(),
            let_go: VecDeque::new(),
        }
    }

    /// A node said Hello.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn attach(
        &mut self,
        number: ConnectionNumber,
        id: NodeId,
        leg: Leg,
        now: Instant,
    ) -> Result<(), Refusal> {
        if self.nodes.len() >= self.limits.max_nodes {
            return Err(Refusal::new(
                Reason::Full,
                "this relay has as many nodes as it may; try another",
            ));
        }
        let node = Node {
            id,
            leg,
            locators: BTreeSet::new(),
            exchanges: BTreeSet::new(),
            sessions: BTreeSet::new(),
            rejoins: BTreeSet::new(),
        };
        self.nodes.insert(number, node);
        self.count_nodes();
        self.greet(number, now);
        Ok(())
    }

    /// A node's connection ended. Whoever it had to do with is told.
    pub fn detach(&mut self, number: ConnectionNumber) {
        let Some(node) = self.nodes.remove(&number) else {
            return;
        };
        self.count_nodes();
        for key in node.locators {
            self.unhost(number, key);
            self.let_go.push_back(key);
        }
        for exchange in node.exchanges {
            self.abandon_exchange(number, exchange);
        }
        for session in node.sessions {
            self.lose_session(number, session);
        }
        for key in node.rejoins {
            self.forget_rejoin(key);
        }
    }

    /// Who `number` is.
    pub fn id(&self, number: ConnectionNumber) -> Option<NodeId> {
        self.nodes.get(&number).map(|node| node.id)
    }

    /// Whether that node is this device, by a record that the device has signed.
    pub fn is_device(&self, number: ConnectionNumber, key: RecordKey) -> bool {
        let hosting = self.hosting_by_locator.get(&key);
        hosting.is_some_and(|hosting| hosting.host == number && hosting.kind == Kind::Device)
    }

    /// Whether the node may be parked: it waits, and does nothing else.
    ///
    /// # Errors
    /// What it does.
    pub fn check_park(&self, number: ConnectionNumber) -> Result<(), Refusal> {
        let is_idle = |node: &Node| {
            node.exchanges.is_empty() && node.sessions.is_empty() && node.rejoins.is_empty()
        };
        match self.nodes.get(&number) {
            Some(node) if is_idle(node) => Ok(()),
            Some(_) => Err(Refusal::new(
                Reason::BadState,
                "a node in an exchange or a session is not idle",
            )),
            None => Err(CONNECTION_OVER),
        }
    }

    /// A parked node has come back as `number`: it hears at once when the relay drains.
    pub fn greet(&mut self, number: ConnectionNumber, now: Instant) {
        let draining = self.draining(now);
        self.notices.extend(draining.map(|notice| (number, notice)));
    }

    /// The node is `to` from now on, and at `leg`: it was parked, or has come back. It has no session, or its frames would go
    /// astray.
    pub fn renumber(&mut self, from: ConnectionNumber, to: ConnectionNumber, leg: Leg) {
        let Some(mut node) = self.nodes.remove(&from) else {
            return;
        };
        node.leg = leg;
        for key in &node.locators {
            if let Some(hosting) = self.hosting_by_locator.get_mut(key) {
                hosting.host = to;
            }
        }
        for exchange in &node.exchanges {
            if let Some(exchange) = self.exchanges.get_mut(exchange) {
                exchange.renumber(from, to);
            }
        }
        self.nodes.insert(to, node);
        for (number, _) in &mut self.notices {
            if *number == from {
                *number = to;
            }
        }
    }

    /// Does what a node asks, or says why not.
    pub fn handle(&mut self, number: ConnectionNumber, demand: Demand, now: Instant) -> Outcome {
        if !self.nodes.contains_key(&number) {
            if let Demand::Host { key, .. } = demand
                && !self.hosting_by_locator.contains_key(&key)
            {
                // It went while its record was put.
                self.let_go.push_back(key);
            }
            return CONNECTION_OVER.into();
        }
        let done = match demand {
            Demand::Host {
                key,
                kind,
                live_for,
            } => {
                self.host(number, key, kind, now + live_for);
                Ok(done())
            }
            Demand::Unhost { key } => {
                self.unhost(number, key);
                Ok(done())
            }
            Demand::Join {
                key,
                relay,
                payload,
            } => return self.join(number, key, Kind::Host, relay, payload, now),
            Demand::Ring {
                key,
                relay,
                payload,
            } => return self.join(number, key, Kind::Device, relay, payload, now),
            Demand::Signal { exchange, payload } => self.signal(number, exchange, payload),
            Demand::Admit { exchange, payload } => {
                return self.admit(number, exchange, payload, now);
            }
            Demand::Dismiss {
                exchange,
                payload,
                wrong_secret,
            } => self.dismiss(number, exchange, payload, wrong_secret),
            Demand::Rejoin { key, side } => self.rejoin(number, key, side, now),
            Demand::Release { session } => self.release(number, session),
        };
        done.into()
    }

    /// Starts draining.
    pub fn begin_drain(&mut self, now: Instant) {
        if !self.drain.begin(self.remaining(), now) {
            return;
        }
        let Some(notice) = self.draining(now) else {
            return;
        };
        self.notices
            .extend(self.nodes.keys().map(|&number| (number, notice.clone())));
    }

    /// A notice to send; call until `None`.
    pub fn poll_notice(&mut self) -> Option<(ConnectionNumber, Reply)> {
        let notice = self.notices.pop_front();
        notice.or_else(|| self.late_notices.pop_front())
    }

    /// Another host has that locator: this relay's, if it has one, is told.
    pub fn displace(&mut self, key: RecordKey) {
        let Some(host) = self.hosting_by_locator.get(&key).map(|one| one.host) else {
            return;
        };
        self.forget_hosting(key);
        let locator_key = Bytes::copy_from_slice(&key.0);
        self.notices
            .push_back((host, Reply::Taken(Taken { locator_key })));
    }

    /// What another relay is to be asked; call until `None`.
    pub fn poll_call(&mut self) -> Option<Call> {
        self.calls.pop_front()
    }

    /// An answer that had to wait for another relay, and for whom; before the notices, which may follow from it; call until
    /// `None`.
    pub fn poll_answer(&mut self) -> Option<(ExchangeId, ConnectionNumber, Answer)> {
        self.settled.pop_front()
    }

    /// A locator whose host went without a word; call until `None`.
    pub fn poll_let_go(&mut self) -> Option<RecordKey> {
        self.let_go.pop_front()
    }

    /// Who is in touch from now on. With a relay that has gone, be it for a moment, go the exchanges with its nodes; sessions stay,
    /// for it may be back, and their nodes find out by themselves. When it is back as another process, they go, too.
    pub fn meet(&mut self, neighbours: Neighbours) {
        let before = std::mem::replace(&mut self.neighbours, neighbours);
        for &relay in before.0.keys() {
            if self.neighbours.met(relay) != before.met(relay) {
                self.lose_relay(relay);
            }
        }
        let now = self.neighbours.0.iter();
        let come: Vec<_> = now
            .filter(|(relay, is)| before.met(**relay) != is.met)
            .map(|(&relay, is)| (relay, is.run))
            .collect();
        for (relay, run) in come {
            self.lose_sessions_of(relay, run);
            self.say_unheard(relay);
        }
        let now = self.neighbours.0.iter();
        let moved: Vec<_> = now
            .filter_map(|(&relay, is)| Some((relay, is.leg?)))
            .filter(|&(relay, leg)| before.leg(relay) != Some(leg))
            .collect();
        for (relay, leg) in moved {
            self.move_party(Party::At(relay), leg);
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|&(due, _)| due);
        [deadline, self.drain.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while self.deadlines.first().is_some_and(|&(due, _)| due <= now) {
            match self.deadlines.pop_first() {
                Some((_, Due::Hosting(key))) => self.forget_hosting(key),
                Some((_, Due::Exchange(exchange))) => self.expire_exchange(exchange),
                Some((_, Due::Allocation(session))) => self.check_idle(session, now),
                Some((_, Due::Rejoin(key))) => {
                    self.forget_rejoin(key);
                }
                None => {}
            }
        }
        if self.drain.handle_timeout(now) {
            self.end_all_sessions();
        }
    }

    /// How many nodes there is room for.
    pub fn max_nodes(&self) -> usize {
        self.limits.max_nodes
    }

    /// So many from now on; whoever is here stays.
    pub fn limit(&mut self, max_nodes: usize) {
        self.limits.max_nodes = max_nodes;
    }

    /// Where the relay is in its life.
    pub fn state(&self) -> State {
        self.drain.state()
    }

    /// How much there is to do.
    pub fn load(&self) -> Load {
        match self.state() {
            State::Serving => Load::of_nodes(self.nodes.len()),
            State::Draining { .. } | State::Done => Load::FULL,
        }
    }

    /// Other relays that a node may go to, as text (see [`RelayAddr`]): of many a few, not the same for each node.
    pub fn others(&self, node: ConnectionNumber) -> Vec<String> {
        let heard = self.neighbours.0.iter().filter(|(_, is)| is.leg.is_some());
        let heard: Vec<_> = heard.collect();
        let first = usize::try_from(node.0).unwrap_or(0) % heard.len().max(1);
        let (before, from) = heard.split_at(first);
        let some = from.iter().chain(before).take(MAX_OTHERS);
        some.filter_map(|(id, is)| {
            let address = RelayAddr {
                host_port: is.place()?,
                id: **id,
                tls: None,
            };
            Some(address.to_string())
        })
        .collect()
    }

    /// The name of another relay, if it is in touch.
    pub fn name_of(&self, relay: RelayId) -> Option<&str> {
        self.neighbours.0.get(&relay).map(|is| is.name.as_str())
    }

    /// Sessions with an allocation.
    pub fn sessions(&self) -> usize {
        self.allocations.len()
    }

    /// What a drain waits for: sessions, and exchanges of which one may come within their half a minute. A ring at a device may last
    /// for minutes, and begins anew elsewhere.
    fn remaining(&self) -> usize {
        let exchanges = self.exchanges.values();
        let introductions = exchanges.filter(|exchange| exchange.kind == Kind::Host);
        self.allocations.len() + introductions.count()
    }

    /// A node that has a session from now on, and was told to move before it had any, is told once more.
    fn remind(&mut self, number: ConnectionNumber, now: Instant) {
        let draining = self.draining(now).map(|notice| (number, notice));
        self.late_notices.extend(draining);
    }

    /// The notice for nodes when the relay leaves.
    fn draining(&self, now: Instant) -> Option<Reply> {
        let deadline = match self.drain.state() {
            State::Serving => return None,
            State::Draining { deadline } => deadline.saturating_duration_since(now),
            State::Done => Duration::ZERO,
        };
        let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
        Some(Reply::Draining(Draining { deadline_ms }))
    }

    fn host(&mut self, number: ConnectionNumber, key: RecordKey, kind: Kind, until: Instant) {
        self.forget_hosting(key);
        self.hosting_by_locator.insert(
            key,
            Hosting {
                host: number,
                kind,
                until,
                exchanges: BTreeSet::new(),
            },
        );
        self.deadlines.insert((until, Due::Hosting(key)));
        if let Some(node) = self.nodes.get_mut(&number) {
            node.locators.insert(key);
        }
    }

    fn unhost(&mut self, number: ConnectionNumber, key: RecordKey) {
        if self
            .hosting_by_locator
            .get(&key)
            .is_some_and(|hosting| hosting.host == number)
        {
            self.forget_hosting(key);
        }
    }

    fn forget_hosting(&mut self, key: RecordKey) {
        let Some(hosting) = self.hosting_by_locator.remove(&key) else {
            return;
        };
        self.deadlines.remove(&(hosting.until, Due::Hosting(key)));
        if let Some(node) = self.nodes.get_mut(&hosting.host) {
            node.locators.remove(&key);
        }
    }

    /// What is known of a node of this relay.
    fn node_mut(&mut self, party: Party) -> Option<&mut Node> {
        match party {
            Party::Here(number) => self.nodes.get_mut(&number),
            Party::At(_) => None,
        }
    }

    fn count_nodes(&self) {
        self.metrics
            .nodes_connected
            .set(i64::try_from(self.nodes.len()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests;
