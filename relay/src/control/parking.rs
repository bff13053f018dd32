//! Parked nodes: what is left of them while they are silent, pure. The protocol is [`remora_proto::park`]'s.
//!
//! ```text
//!  connection ── park ──▶ place ── Keep ──▶ Kept                 ── resume ──▶ connection
//!                           ├── a notice ──▶ Wake, until it comes back
//!                           └── 60 s of silence, Bye ──▶ gone
//! ```
//!
//! A place is some two hundred bytes in one vector; a million of them are a process. What the registry has for a parked node
//! waits at its place, in order, and is said on the connection that it comes back with.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use remora_proto::{
    park::{Datagram, FORGOTTEN_AFTER, Grant, LEN, Saying},
    wire::message::encode,
};
use slab::Slab;

use super::{
    deadlines::{Armed, Deadlines},
    message::{Reason, Refusal, RelayToNode, Reply},
    networks::Network,
    registry::ConnectionNumber,
};
use crate::{
    datapath::leg::Leg,
    rate::{Rate, TokenBucket},
};

/// A node that is to wake up is told again after so long, then after twice as long, and so on up to the second; it keeps its
/// place meanwhile, for a Wake that goes to where it was is made up for by its next Keep.
const WAKE_RETRY: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(4)];
/// How fast nodes are woken by what is no hurry, that the relay drains: each comes with a handshake.
const TURNS: Rate = Rate::per_second(500, 64);
/// What may wait for one, in bytes as they go on the stream. A hundred tries at its codes fit, and as many ends; whatever is
/// beyond that ends by itself.
const MAX_UNTOLD_BYTES: usize = 128 << 10;
/// A node says again what got no answer after a second; more often it is not asked to prove that it is there.
const KEEPS_APART: Duration = Duration::from_millis(200);
/// Answers to tickets that are unknown here, as all are after a restart; they cost what is asked of them, and no more.
const UNKNOWN_RATE: Rate = Rate::per_second(2000, 2000);

/// What is kept of a node.
#[derive(Debug)]
pub struct Parked {
    /// What it has of its connection.
    pub grant: Grant,
    /// Where it is.
    pub leg: Leg,
    /// Whom its place is counted to.
    pub network: Network,
    /// What it may still ask.
    pub requests: TokenBucket,
}

/// A node that comes back.
#[derive(Debug)]
pub struct Returned {
    /// As it was parked.
    pub node: Parked,
    /// What it was not told: messages, as they go on the stream.
    pub untold: Vec<u8>,
}

/// A datagram for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub leg: Leg,
    /// What.
    pub bytes: [u8; LEN],
}

/// What comes of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Reaction {
    /// It has an answer.
    Answer([u8; LEN]),
    /// The node of this place, and network, is gone, and that has an answer.
    Left(ConnectionNumber, Network, [u8; LEN]),
    /// It is nobody's, or no news.
    Unknown,
}

/// What comes of time.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// To be sent.
    Transmit(Transmit),
    /// The node of this place, and network, is gone.
    Lost(ConnectionNumber, Network),
}

#[derive(Debug)]
struct Place {
    number: ConnectionNumber,
    node: Parked,
    /// Of its last datagram.
    counter: u64,
    /// When that came.
    kept_at: Option<Instant>,
    /// When it is forgotten, unless it says something, or comes back when it has been told to.
    until: Instant,
    /// It is to come back.
    waking: Option<Box<Waking>>,
    armed: Armed,
}

#[derive(Debug)]
struct Waking {
    untold: Vec<u8>,
    /// When it is told again; `None` while it waits for its turn.
    next: Option<Instant>,
    interval: Duration,
}

/// The places.
#[derive(Debug)]
pub struct Parking {
    places: Slab<Place>,
    by_ticket: HashMap<u64, usize>,
    deadlines: Deadlines,
    /// Those that are to be woken one after the other, and when the next one is.
    in_turn: VecDeque<ConnectionNumber>,
    turns: TokenBucket,
    turn_at: Option<Instant>,
    /// The relay goes.
    is_closing: bool,
    serial: u32,
    unknown: TokenBucket,
}

/// Whoever else asks learns no more.
pub const NOT_PARKED: Refusal = Refusal::new(
    Reason::NotParked,
    "no node is parked here with this ticket and key",
);

impl Parking {
    /// No places yet.
    pub fn new(now: Instant) -> Self {
        Self {
            places: Slab::new(),
            by_ticket: HashMap::new(),
            deadlines: Deadlines::default(),
            in_turn: VecDeque::new(),
            turns: TokenBucket::new(now),
            turn_at: None,
            is_closing: false,
            serial: 0,
            unknown: TokenBucket::new(now),
        }
    }

    /// How many are parked.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Parks a node.
    ///
    /// # Errors
    /// When another has its ticket, which chance does not bring about.
    pub fn park(&mut self, node: Parked, now: Instant) -> Result<ConnectionNumber, Refusal> {
        let ticket = node.grant.ticket();
        if self.by_ticket.contains_key(&ticket) {
            return Err(Refusal::new(Reason::BadState, "this ticket is taken"));
        }
        self.serial = self.serial.wrapping_add(1);
        let entry = self.places.vacant_entry();
        let key = entry.key();
        let number = ConnectionNumber::parked(self.serial, key);
        let place = entry.insert(Place {
            number,
            node,
            counter: 0,
            kept_at: None,
            until: now + FORGOTTEN_AFTER,
            waking: None,
            armed: Armed::default(),
        });
        place.arm(key, &mut self.deadlines);
        self.by_ticket.insert(ticket, key);
        Ok(number)
    }

    /// The place that `ticket` is for, and the network it is counted to.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, ticket: u64) -> Result<(ConnectionNumber, Network), Refusal> {
        let key = self.by_ticket.get(&ticket).ok_or(NOT_PARKED)?;
        let place = self.places.get(*key).ok_or(NOT_PARKED)?;
        Ok((place.number, place.node.network))
    }

    /// The node of this place has come back.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn resume(&mut self, number: ConnectionNumber) -> Result<Returned, Refusal> {
        self.remove(number).ok_or(NOT_PARKED)
    }

    /// There is something to say to the node, which has to come back for it; the datagram that tells it so, if it has not been
    /// told.
    pub fn tell(
        &mut self,
        number: ConnectionNumber,
        notice: Reply,
        now: Instant,
    ) -> Option<Transmit> {
        let place = get(&mut self.places, number)?;
        let waking = place.waking.get_or_insert_default();
        // How long the drain still takes is said when it can be heard.
        let is_urgent = !matches!(notice, Reply::Draining(_));
        if is_urgent {
            let message = encode(&RelayToNode {
                request: 0,
                body: Some(notice),
            });
            if waking.untold.len() + message.len() <= MAX_UNTOLD_BYTES {
                waking.untold.extend_from_slice(&message);
            }
        }
        let transmit = if place.is_told() {
            None
        } else if is_urgent {
            place.wake(now)
        } else {
            self.in_turn.push_back(number);
            self.turn_at.get_or_insert(now);
            None
        };
        place.arm(number.key(), &mut self.deadlines);
        transmit
    }

    /// A datagram that came from `source`.
    pub fn handle(&mut self, bytes: &[u8], source: Leg, now: Instant) -> Reaction {
        let Some(datagram) = Datagram::decode(bytes) else {
            return Reaction::Unknown;
        };
        let Some(&key) = self.by_ticket.get(&datagram.ticket) else {
            let may_answer = matches!(datagram.saying, Saying::Keep | Saying::Bye)
                && self.unknown.take(UNKNOWN_RATE, 1, now).is_ok();
            return if may_answer {
                Reaction::Answer(datagram.unknown())
            } else {
                Reaction::Unknown
            };
        };
        let place = &mut self.places[key];
        let is_news = datagram.counter > place.counter;
        let is_late = place
            .kept_at
            .is_none_or(|kept| now.saturating_duration_since(kept) >= KEEPS_APART);
        let is_wanted = is_news && (is_late || datagram.saying != Saying::Keep);
        if !is_wanted || place.node.grant.open(bytes).is_none() {
            return Reaction::Unknown;
        }
        match datagram.saying {
            Saying::Keep => {
                place.counter = datagram.counter;
                place.kept_at = Some(now);
                let is_told = place.is_told();
                if !is_told {
                    place.until = now + FORGOTTEN_AFTER;
                }
                // Somebody else may have sent it on from there: it says so in a handshake, or it stays where it is.
                let is_elsewhere = place.node.leg.remote != source.remote;
                Reaction::Answer(if self.is_closing {
                    place.node.grant.seal(Saying::Gone, 0)
                } else if is_told || is_elsewhere {
                    place.node.grant.seal(Saying::Wake, 0)
                } else {
                    place.node.grant.seal(Saying::Kept, datagram.counter)
                })
            }
            Saying::Bye => {
                let number = place.number;
                let network = place.node.network;
                self.remove(number);
                Reaction::Left(number, network, datagram.unknown())
            }
            Saying::Kept | Saying::Wake | Saying::Gone | Saying::Unknown => Reaction::Unknown,
        }
    }

    /// When [`Self::poll`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.deadlines.next(), self.turn_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// What follows from time; call until `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Event> {
        while let Some(key) = self.deadlines.pop_due(now) {
            let Some(place) = self.places.get_mut(key) else {
                continue;
            };
            place.armed.fired();
            if place.until <= now {
                let (number, network) = (place.number, place.node.network);
                self.remove(number);
                return Some(Event::Lost(number, network));
            }
            let transmit = place.wake_again(now);
            place.arm(key, &mut self.deadlines);
            if transmit.is_some() {
                return transmit.map(Event::Transmit);
            }
        }
        while self.turn_at.is_some_and(|at| at <= now) {
            let Some(&number) = self.in_turn.front() else {
                self.turn_at = None;
                break;
            };
            let place = get(&mut self.places, number).filter(|place| !place.is_told());
            let Some(place) = place else {
                self.in_turn.pop_front();
                continue;
            };
            if let Err(wait) = self.turns.take(TURNS, 1, now) {
                self.turn_at = Some(now + wait);
                break;
            }
            self.in_turn.pop_front();
            let transmit = place.wake(now);
            place.arm(number.key(), &mut self.deadlines);
            return transmit.map(Event::Transmit);
        }
        None
    }

    /// The relay goes: a word to everybody, and to whoever asks from now on.
    pub fn close(&mut self) -> impl Iterator<Item = Transmit> {
        self.is_closing = true;
        self.places.iter().map(|(_, place)| Transmit {
            leg: place.node.leg,
            bytes: place.node.grant.seal(Saying::Gone, 0),
        })
    }

    fn remove(&mut self, number: ConnectionNumber) -> Option<Returned> {
        let key = number.key();
        let place = get(&mut self.places, number)?;
        self.deadlines.disarm(key, &mut place.armed);
        let place = self.places.try_remove(key)?;
        self.by_ticket.remove(&place.node.grant.ticket());
        Some(Returned {
            node: place.node,
            untold: place.waking.map_or_else(Vec::new, |waking| waking.untold),
        })
    }
}

/// The place, unless it is another's by now.
fn get(places: &mut Slab<Place>, number: ConnectionNumber) -> Option<&mut Place> {
    places
        .get_mut(number.key())
        .filter(|place| place.number == number)
}

impl Place {
    /// Whether it has been told to come back.
    fn is_told(&self) -> bool {
        let waking = self.waking.as_ref();
        waking.is_some_and(|waking| waking.next.is_some())
    }

    /// Tells it to come back, and when to do so again.
    fn wake(&mut self, now: Instant) -> Option<Transmit> {
        let waking = self.waking.as_mut()?;
        waking.next = Some(now + waking.interval);
        waking.interval = (waking.interval * 2).min(WAKE_RETRY[1]);
        Some(Transmit {
            leg: self.node.leg,
            bytes: self.node.grant.seal(Saying::Wake, 0),
        })
    }

    fn wake_again(&mut self, now: Instant) -> Option<Transmit> {
        let next = self.waking.as_ref()?.next?;
        (next <= now).then(|| self.wake(now)).flatten()
    }

    fn arm(&mut self, key: usize, deadlines: &mut Deadlines) {
        let next = self.waking.as_ref().and_then(|waking| waking.next);
        let wanted = next.map_or(self.until, |next| next.min(self.until));
        deadlines.arm(key, &mut self.armed, Some(wanted));
    }
}

impl Default for Waking {
    fn default() -> Self {
        Self {
            untold: Vec::new(),
            next: None,
            interval: WAKE_RETRY[0],
        }
    }
}

#[cfg(test)]
mod tests;
