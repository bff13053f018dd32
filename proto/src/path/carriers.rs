//! Which relay carries a session's frames, and where the two go when it stops. Pure.
//!
//! ```text
//!            draining, lost, silent, the other says so            allocated               heard there
//!  carried ───────────────────────────────────────▶ attempt ──────────────────▶ use ──────────────────▶ carried; the old one
//!     ▲                                               │ present the key at the next relay, a second later at the one after …  is released
//!     └──────────── the silence has ended ────────────┘
//! ```
//!
//! Both know the same list in the same order (`agree`), and the same key for each relay and each move (`rejoin_key`): so they need not
//! hear of each other to meet again. Each keeps a second relay of the list warm, and goes there first. It connects and presents the key first, sends there as
//! soon as both have, and releases the old one when it has heard the other there: nothing is on its way by the old one then. A relay
//! that stopped without a word is left in the same way, only that nothing has to be released.
//!
//! A session may begin with each of the two at another relay of a fleet, which bridges it. Then it is only one side's relay that stops,
//! and the other's is as good as any to meet at: whoever moves presents its key where it is, too.
//!
//! Nothing has to be wrong for a move: where the two would be nearer to each other (`meeting`) they go in the same way. Only that the one who
//! decides names the relay, and that both stay where they are if nothing comes of it.
//!
//! The number of a move counts on when frames of the other have come by its relay, and is the same again until then: whoever has
//! heard nothing cannot know whether the other has ever been there.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{Context, SHA256};

use crate::{
    id::RelayId,
    random::Random,
    wire::message::session::{Relays, UsableRelay},
};

/// Relays that a side names at most.
pub const MAX_RELAYS: usize = 8;
/// Length of what two nodes present at a relay.
pub const KEY_LEN: usize = 32;
const KEY_LABEL: &[u8] = b"remora rejoin";
const ORDER_LABEL: &[u8] = b"remora relays";

/// Round trips count as the same within this: what is left decides by lot, so that not all sessions of one relay go to one other.
const RTT_STEP: Duration = Duration::from_millis(16);
/// Of a relay whose round trip nobody knows.
const RTT_UNKNOWN: Duration = Duration::from_secs(1);
/// For the other to come to a relay where this one waits, before it waits at the next, too.
const STAGGER: Duration = Duration::from_secs(1);
/// For both to come to a nearer relay: to connect by TCP takes a while, and nobody is in need.
const NEARER: Duration = Duration::from_secs(6);
/// A relay forgets who waits there after ten seconds; until then all of the list have been tried, and are tried again.
const AGAIN: Duration = Duration::from_secs(3);
/// What the other has sent by the old relay has arrived so long after it was heard by the new one.
const LINGER: Duration = Duration::from_secs(1);
/// The sessions of a relay that is about to stop leave it within this time, each at a moment of its own: there is no hurry, and the next
/// relay takes them one after the other.
const SPREAD: Duration = Duration::from_secs(3);
/// Until a relay that was not reached is tried again; and half as much by lot, or all of its nodes would come at once.
const RETRY: Duration = Duration::from_secs(4);
/// Until a second relay is kept warm, and up to this more by lot: it may be that of all sessions that have just lost theirs.
const WARM: Duration = Duration::from_secs(1);
const WARM_SPREAD: Duration = Duration::from_secs(9);

/// A relay that a side can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usable {
    /// Which.
    pub relay: RelayId,
    /// There and back from that side, if it is known.
    pub rtt: Option<Duration>,
}

/// As the other side is told: first, where this one is.
pub fn encode(ours: &[Usable]) -> Relays {
    let relays = ours.iter().take(MAX_RELAYS).map(|usable| {
        let us = usable.rtt.map_or(0, |rtt| rtt.as_micros().max(1));
        UsableRelay {
            key: bytes::Bytes::copy_from_slice(&usable.relay.0),
            rtt_us: u32::try_from(us).unwrap_or(u32::MAX),
        }
    });
    Relays {
        relays: relays.collect(),
    }
}

/// What the other side has told; what makes no sense is left out.
pub fn decode(theirs: &Relays) -> Vec<Usable> {
    let relays = theirs.relays.iter().take(MAX_RELAYS);
    let usable = relays.filter_map(|relay| {
        let rtt = Duration::from_micros(relay.rtt_us.into());
        Some(Usable {
            relay: RelayId(relay.key[..].try_into().ok()?),
            rtt: (relay.rtt_us != 0).then_some(rtt),
        })
    });
    usable.collect()
}

/// The relays that both sides can use: those with the shorter way from one to the other first. The same on both sides, with the same
/// `lot`.
pub fn agree(ours: &[Usable], theirs: &[Usable], lot: &[u8; KEY_LEN]) -> Vec<RelayId> {
    let way = |usable: &Usable| usable.rtt.unwrap_or(RTT_UNKNOWN);
    let rank = |relay: RelayId, rtt: Duration| {
        let mut hash = Context::new(&SHA256);
        hash.update(lot);
        hash.update(&relay.0);
        let hash: [u8; 32] = hash.finish().as_ref().try_into().expect("SHA-256");
        (rtt.as_micros() / RTT_STEP.as_micros(), hash)
    };
    let mut common = BTreeMap::new();
    for our in ours.iter().take(MAX_RELAYS) {
        let their = theirs.iter().find(|their| their.relay == our.relay);
        if let Some(their) = their {
            common.insert(rank(our.relay, way(our) + way(their)), our.relay);
        }
    }
    let mut order: Vec<_> = common.into_values().collect();
    order.dedup();
    order
}

/// The lot for [`agree`], from the inner connection's exporter (RFC 8446 §7.5): a function of output, label and context.
///
/// # Errors
/// The exporter's: the handshake is not over.
pub fn lot<E>(
    exporter: impl FnOnce(&mut [u8], &[u8], &[u8]) -> Result<(), E>,
) -> Result<[u8; KEY_LEN], E> {
    let mut lot = [0; KEY_LEN];
    exporter(&mut lot, ORDER_LABEL, &[])?;
    Ok(lot)
}

/// What both present at `relay` in the move of that number. The exporter's secret comes of a handshake in which both nodes have proven
/// their keys, so it is of these two; no relay can guess it, and what one relay has seen is of no use at another, nor again.
///
/// # Errors
/// The exporter's: the handshake is not over.
pub fn rejoin_key<E>(
    relay: RelayId,
    number: u32,
    exporter: impl FnOnce(&mut [u8], &[u8], &[u8]) -> Result<(), E>,
) -> Result<[u8; KEY_LEN], E> {
    let mut key = [0; KEY_LEN];
    let context = [&number.to_be_bytes()[..], &relay.0].concat();
    exporter(&mut key, KEY_LABEL, &context)?;
    Ok(key)
}

/// A session's allocation: at which relay, and of which move; 0 is where it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leg {
    /// Where.
    pub relay: RelayId,
    /// Of which move.
    pub number: u32,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect to that relay, and stay, instead of where we may have been there before.
    Connect(RelayId),
    /// It is not needed any more.
    Leave(RelayId),
    /// Say its key to the relay, where we are.
    Present(Leg),
    /// The allocation is there: packets go this way from now on, and come by all ways that have been used and not released.
    Use(Leg),
    /// Packets do not go there any more, and do not come from there.
    Release(Leg),
    /// The other side is to know that the move of this number has begun; and if nothing is wrong with the relay of now, where it goes.
    Tell {
        /// Of the move.
        number: u32,
        /// `None`: wherever both can.
        nearer: Option<RelayId>,
    },
}

/// What the node has at a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Connecting,
    Here,
    /// The relay is about to stop.
    Leaving,
    Away {
        until: Instant,
    },
}

/// Why the session moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// They are nearer to each other there. If nothing comes of it, it stays where it is.
    Nearer(RelayId),
    /// Nothing comes. If that ends, it stays where it is.
    Silence,
    /// The other side has its reasons.
    Told,
    /// The relay stops, has stopped, or has forgotten it.
    Gone,
}

#[derive(Debug)]
struct Attempt {
    why: Why,
    /// The other side knows of it.
    is_told: bool,
    presented: Vec<RelayId>,
    next_at: Instant,
}

impl Attempt {
    fn has_begun(&self) -> bool {
        self.is_told || !self.presented.is_empty()
    }

    /// The only relay that it goes to.
    fn nearer(&self) -> Option<RelayId> {
        match self.why {
            Why::Nearer(relay) => Some(relay),
            Why::Silence | Why::Told | Why::Gone => None,
        }
    }
}

/// A leg by which packets come, and do not go.
#[derive(Debug)]
struct Other {
    leg: Leg,
    /// When it is released: not before the other side has been heard elsewhere.
    until: Option<Instant>,
    /// Nothing came by it: its relay is not relied upon, and left with it.
    is_doubted: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Carriers {
    order: Vec<RelayId>,
    /// The session began at two relays.
    is_bridged: bool,
    places: BTreeMap<RelayId, Place>,
    current: Leg,
    /// The other side's frames have come by it.
    is_heard: bool,
    /// Those before, and others that came of the same move.
    others: Vec<Other>,
    attempt: Option<Attempt>,
    warm_at: Instant,
    random: Random,
    commands: VecDeque<Command>,
}

impl Carriers {
    /// A session that `relay` carries, and where the node is.
    pub fn new(relay: RelayId, random: Random, now: Instant) -> Self {
        Self {
            order: Vec::new(),
            is_bridged: false,
            places: BTreeMap::from([(relay, Place::Here)]),
            current: Leg { relay, number: 0 },
            is_heard: true,
            others: Vec::new(),
            attempt: None,
            warm_at: now,
            random,
            commands: VecDeque::new(),
        }
    }

    /// By which packets go.
    pub fn current(&self) -> Leg {
        self.current
    }

    /// Whether both know another relay.
    pub fn has_alternative(&self) -> bool {
        let current = self.current.relay;
        self.order.iter().any(|relay| *relay != current)
    }

    // --- in ---

    /// The relays that both can use, and whether the other side is at another one than this.
    pub fn handle_agreed(&mut self, order: Vec<RelayId>, is_bridged: bool, now: Instant) {
        self.order = order;
        self.is_bridged = is_bridged;
        self.warm_up(now);
        self.advance(now);
    }

    /// The node is at that relay, too; which may be about to stop.
    pub fn handle_attached(&mut self, relay: RelayId, is_leaving: bool, now: Instant) {
        if is_leaving {
            self.places.insert(relay, Place::Leaving);
            self.go_on(relay, now);
        } else {
            self.places.insert(relay, Place::Here);
            let waits = |attempt: &Attempt| attempt.presented.contains(&relay);
            if self.attempt.as_ref().is_some_and(waits) {
                self.present(relay);
            }
        }
        self.handle_timeout(now);
    }

    /// The relay was not reached, or is lost.
    pub fn handle_lost(&mut self, relay: RelayId, now: Instant) {
        let until = now + RETRY + self.some_of(RETRY / 2);
        self.places.insert(relay, Place::Away { until });
        self.others.retain(|other| other.leg.relay != relay);
        if relay == self.current.relay {
            self.begin(Why::Gone, now);
        }
        self.go_on(relay, now);
        self.warm_up(now);
        self.handle_timeout(now);
    }

    /// The relay is about to stop, after this time.
    pub fn handle_draining(&mut self, relay: RelayId, within: Duration, now: Instant) {
        self.places.insert(relay, Place::Leaving);
        if relay == self.current.relay {
            let spread = self.some_of(SPREAD.min(within / 4));
            self.begin_at(Why::Gone, now + spread, now);
        } else {
            // It was warm for many, who would all connect to another in the same moment.
            self.warm_up(now);
        }
        self.go_on(relay, now);
        self.handle_timeout(now);
    }

    /// Whether what goes by the relay is not answered, or is again.
    pub fn handle_silence(&mut self, is_silent: bool, now: Instant) {
        let is_of_silence = |attempt: &mut Attempt| !is_silent && attempt.why == Why::Silence;
        if is_silent {
            self.begin(Why::Silence, now);
        } else {
            self.attempt.take_if(is_of_silence);
        }
    }

    /// The two are nearer to each other at that relay. Nothing comes of it while something else is the matter.
    pub fn handle_nearer(&mut self, relay: RelayId, now: Instant) {
        self.go_nearer(relay, false, now);
    }

    /// The other side has begun this move; to a relay that is `nearer`, or to wherever both can.
    pub fn handle_moving(&mut self, number: u32, nearer: Option<RelayId>, now: Instant) {
        if number == self.number() {
            match nearer {
                Some(relay) => self.go_nearer(relay, true, now),
                None => self.begin(Why::Told, now),
            }
        }
    }

    /// The relay forwards frames between the two: both have presented the same key.
    pub fn handle_allocated(&mut self, leg: Leg, now: Instant) {
        let is_known = leg == self.current || self.others.iter().any(|other| other.leg == leg);
        if is_known || leg.number < self.current.number {
            return;
        }
        if leg.number == self.current.number && !self.is_before(leg.relay) {
            // Both will prefer the one that they have.
            self.others.push(Other {
                leg,
                until: self.is_heard.then(|| now + LINGER),
                is_doubted: false,
            });
            return;
        }
        let attempt = self.attempt.take();
        let is_other = leg.relay != self.current.relay;
        let is_doubted = is_other
            && attempt.is_some_and(|attempt| matches!(attempt.why, Why::Silence | Why::Told));
        if is_doubted {
            let until = now + RETRY + self.some_of(RETRY / 2);
            self.places
                .insert(self.current.relay, Place::Away { until });
        }
        self.others.push(Other {
            leg: self.current,
            until: None,
            is_doubted,
        });
        (self.current, self.is_heard) = (leg, false);
        self.commands.push_back(Command::Use(leg));
        self.warm_up(now);
    }

    /// The relay does not allocate.
    pub fn handle_refused(&mut self, relay: RelayId, now: Instant) {
        self.go_on(relay, now);
    }

    /// The relay has forgotten the session.
    pub fn handle_released(&mut self, leg: Leg, now: Instant) {
        self.others.retain(|other| other.leg != leg);
        if leg == self.current {
            self.begin(Why::Gone, now);
        }
    }

    /// A frame of the other side came by this leg.
    pub fn handle_heard(&mut self, leg: Leg, now: Instant) {
        if leg == self.current && !self.is_heard {
            self.is_heard = true;
            for other in &mut self.others {
                other.until = Some(now + LINGER);
            }
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        let is_due = |other: &mut Other| other.until.is_some_and(|until| until <= now);
        let released: Vec<_> = self.others.extract_if(.., is_due).collect();
        for other in released {
            self.commands.push_back(Command::Release(other.leg));
            if other.is_doubted && other.leg.relay != self.current.relay {
                self.commands.push_back(Command::Leave(other.leg.relay));
            }
        }
        self.tidy();
        self.keep_warm(now);
    }

    // --- out ---

    /// What is to be done; call until `None`.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let attempt = self.attempt.as_ref().map(|attempt| attempt.next_at);
        let released = self.others.iter().filter_map(|other| other.until).min();
        let warm = self.wants_warm().then_some(self.warm_at);
        [attempt, released, warm].into_iter().flatten().min()
    }

    // --- within ---

    /// Of the move that would be next, or that has not been confirmed.
    fn number(&self) -> u32 {
        self.current.number + u32::from(self.is_heard)
    }

    fn is_before(&self, relay: RelayId) -> bool {
        let rank = |relay| self.order.iter().position(|other| *other == relay);
        match (rank(relay), rank(self.current.relay)) {
            (Some(one), Some(other)) => one < other,
            (one, _) => one.is_some(),
        }
    }

    fn begin(&mut self, why: Why, now: Instant) {
        self.begin_at(why, now, now);
    }

    fn go_nearer(&mut self, relay: RelayId, is_told: bool, now: Instant) {
        let is_elsewhere = relay != self.current.relay || self.may_stay();
        let is_calm = self.is_heard && self.attempt.is_none();
        if is_calm && is_elsewhere && self.order.contains(&relay) && self.may_be_reached(relay, now)
        {
            self.attempt = Some(Attempt {
                why: Why::Nearer(relay),
                is_told,
                presented: Vec::new(),
                next_at: now,
            });
            self.advance(now);
        }
    }

    fn begin_at(&mut self, why: Why, at: Instant, now: Instant) {
        // What is needed goes before what would be nice.
        self.attempt
            .take_if(|attempt| matches!(attempt.why, Why::Nearer(_)));
        match &mut self.attempt {
            Some(attempt) => {
                if why == Why::Gone {
                    attempt.why = why;
                }
                if !attempt.has_begun() {
                    attempt.next_at = attempt.next_at.min(at);
                }
            }
            None => {
                self.attempt = Some(Attempt {
                    why,
                    is_told: why == Why::Told,
                    presented: Vec::new(),
                    next_at: at,
                });
            }
        }
        self.advance(now);
    }

    /// Nothing comes of what was presented there.
    fn go_on(&mut self, relay: RelayId, now: Instant) {
        if let Some(attempt) = &mut self.attempt
            && attempt.presented.contains(&relay)
        {
            attempt.next_at = now;
            self.advance(now);
        }
    }

    /// Presents at the next relay, if it is time.
    fn advance(&mut self, now: Instant) {
        let Some(attempt) = self
            .attempt
            .as_ref()
            .filter(|attempt| attempt.next_at <= now)
        else {
            return;
        };
        let (presented, nearer) = (&attempt.presented, attempt.nearer());
        let next: Vec<_> = match nearer {
            Some(relay) => (!presented.contains(&relay))
                .then_some(relay)
                .into_iter()
                .collect(),
            None => self.next(presented, now),
        };
        let number = self.number();
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        if next.is_empty() {
            attempt.presented.clear();
            attempt.next_at = now + AGAIN;
            self.attempt.take_if(|attempt| attempt.why != Why::Gone);
            return;
        }
        attempt.presented.extend(&next);
        attempt.next_at = now + nearer.map_or(STAGGER, |_| NEARER);
        if !std::mem::replace(&mut attempt.is_told, true) {
            self.commands.push_back(Command::Tell { number, nearer });
        }
        for relay in next {
            if self.places.get(&relay) == Some(&Place::Here) {
                self.present(relay);
            } else {
                self.connect(relay);
            }
        }
    }

    /// Where the other may come to.
    fn next(&self, but: &[RelayId], now: Instant) -> Vec<RelayId> {
        let own = self.own(but).into_iter();
        let mut next: Vec<_> = own.chain(self.candidate(but, now)).collect();
        // The other may keep another one warm, and wait there: whoever has no first one in common meets there at once, too.
        let mut reached = self
            .elsewhere(&[])
            .filter(|relay| self.may_be_reached(*relay, now));
        if but.is_empty()
            && let Some(first) = reached.next()
            && !next.contains(&first)
        {
            next.push(first);
        }
        next
    }

    /// This side's own relay, where the other is not yet.
    fn own(&self, but: &[RelayId]) -> Option<RelayId> {
        let relay = self.current.relay;
        let is_here = self.places.get(&relay) == Some(&Place::Here);
        (self.may_stay() && is_here && !but.contains(&relay)).then_some(relay)
    }

    /// Whether it is another way when both are where this side is.
    fn may_stay(&self) -> bool {
        self.is_bridged && self.current.number == 0
    }

    fn may_be_reached(&self, relay: RelayId, now: Instant) -> bool {
        match self.places.get(&relay) {
            None | Some(Place::Here | Place::Connecting) => true,
            Some(Place::Leaving) => false,
            Some(Place::Away { until }) => *until <= now,
        }
    }

    /// The best relay that might carry the session, and is none of these: one where the node is already, if there is one.
    fn candidate(&self, but: &[RelayId], now: Instant) -> Option<RelayId> {
        let is_here = |relay: &RelayId| self.places.get(relay) == Some(&Place::Here);
        let mut reached = self
            .elsewhere(but)
            .filter(|relay| self.may_be_reached(*relay, now));
        self.elsewhere(but).find(is_here).or_else(|| reached.next())
    }

    /// All but the one of now and these, in order.
    fn elsewhere<'a>(&'a self, but: &'a [RelayId]) -> impl Iterator<Item = RelayId> + 'a {
        let order = self.order.iter().copied();
        order.filter(|relay| *relay != self.current.relay && !but.contains(relay))
    }

    fn present(&mut self, relay: RelayId) {
        let number = self.number();
        self.commands
            .push_back(Command::Present(Leg { relay, number }));
    }

    fn connect(&mut self, relay: RelayId) {
        if self.places.get(&relay) != Some(&Place::Connecting) {
            self.places.insert(relay, Place::Connecting);
            // What was there before is not any more.
            self.others.retain(|other| other.leg.relay != relay);
            self.commands.push_back(Command::Connect(relay));
        }
    }

    /// Leaves relays beyond the one that is used and the one that is warm. One that stops leaves us.
    fn tidy(&mut self) {
        if self.attempt.is_some() || !self.others.is_empty() {
            return;
        }
        let warm = self.warm();
        let places = self.places.iter();
        let unneeded = places.filter(|(relay, place)| {
            let is_used = **relay == self.current.relay || warm == Some(**relay);
            **place == Place::Here && !is_used
        });
        let unneeded: Vec<_> = unneeded.map(|(relay, _)| *relay).collect();
        for relay in unneeded {
            self.places.remove(&relay);
            self.commands.push_back(Command::Leave(relay));
        }
    }

    /// Where the session would go, and the node is already.
    fn warm(&self) -> Option<RelayId> {
        let is_here = |relay: &&RelayId| {
            **relay != self.current.relay && self.places.get(relay) == Some(&Place::Here)
        };
        self.order.iter().find(is_here).copied()
    }

    fn wants_warm(&self) -> bool {
        let is_connecting = |place: &Place| *place == Place::Connecting;
        let is_on_its_way = self.places.values().any(is_connecting);
        self.has_alternative() && self.attempt.is_none() && self.warm().is_none() && !is_on_its_way
    }

    fn warm_up(&mut self, now: Instant) {
        self.warm_at = now + WARM + self.some_of(WARM_SPREAD);
    }

    fn keep_warm(&mut self, now: Instant) {
        if !self.wants_warm() || self.warm_at > now {
            return;
        }
        match self.candidate(&[], now) {
            Some(relay) => self.connect(relay),
            None => self.warm_at = now + RETRY,
        }
    }

    fn some_of(&mut self, spread: Duration) -> Duration {
        let lot = u32::from(u16::from_be_bytes(self.random.bytes()));
        spread * lot / (u32::from(u16::MAX) + 1)
    }
}

#[cfg(test)]
mod tests;
