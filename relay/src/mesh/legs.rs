//! Between which two addresses frames go to another relay, and come from it. Pure.
//!
//! ```text
//!  the relay with the lower id                           the other one
//!    Hello, its part of the keys ──── mesh ────────────▶   keys
//!    keys ◀─────────────────────────────── Hello, its part
//!    question ──── UDP, to each address it may have ────▶
//!    from there: its frames are sent there ◀──────── answer
//!    answer to the answer ─────────────────────────────▶  from there: its frames are sent there
//! ```
//!
//! Both take the same two addresses, however many each has, and only after the other one has read there what it was sent: nobody's
//! frames can be sent to somebody who does not want them. An address that nobody has confirmed gets a datagram of [`LEN`] bytes
//! every few seconds, and each datagram is answered with one of the same length or none.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use remora_proto::{
    id::{RelayId, SessionId, Side},
    path::check::{self, Keys, LEN, PART_LEN, Saying},
    random::Random,
};

use crate::datapath::leg::{FarEnd, Leg};

/// Addresses of one relay that are tried.
pub const MAX_ADDRESSES: usize = 8;
/// Questions without an answer after which its other addresses are tried again.
const MISSES: u32 = 2;
/// Rounds without one after which no session is to begin on this way: one more than a lossy network loses now and then.
const SILENT: u32 = 3;
/// Of 64 random bits, how many are not used for the distance between two numbers: 40 are no guess, and last for a year.
const UNGUESSED_SHIFT: u32 = 24;

/// The way to one relay.
#[derive(Debug)]
struct Way {
    /// What we tell it; new with each way.
    part: [u8; PART_LEN],
    /// What it has told us, and what follows from both.
    keys: Option<([u8; PART_LEN], Keys)>,
    addresses: Vec<SocketAddr>,
    /// What may still be answered, and where it went.
    asked: Vec<(u64, SocketAddr)>,
    /// Rounds since the last answer, or since the last answer to ours was confirmed.
    missed: u32,
    leg: Option<Leg>,
}

impl Way {
    /// How frames go there, unless nobody is heard on it.
    fn heard(&self) -> Option<Leg> {
        self.leg.filter(|_| self.missed < SILENT)
    }
}

/// What came of a check.
#[derive(Debug, Default)]
pub struct Heard {
    /// To send back to where it came from.
    pub answer: Option<[u8; LEN]>,
    /// Whether a leg is another one now.
    pub is_new: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Legs {
    me: RelayId,
    /// Of the socket that frames leave from.
    bound: SocketAddr,
    random: Random,
    ways: BTreeMap<RelayId, Way>,
    relays: BTreeMap<SessionId, RelayId>,
}

impl Legs {
    /// None yet; frames leave from a socket that is bound to `bound`.
    pub fn new(me: RelayId, bound: SocketAddr, random: Random) -> Self {
        Self {
            me,
            bound,
            random,
            ways: BTreeMap::new(),
            relays: BTreeMap::new(),
        }
    }

    fn way(&mut self, relay: RelayId) -> &mut Way {
        let random = &mut self.random;
        self.ways.entry(relay).or_insert_with(|| Way {
            part: random.bytes(),
            keys: None,
            addresses: Vec::new(),
            asked: Vec::new(),
            missed: 0,
            leg: None,
        })
    }

    /// What `relay` is to be told in private.
    pub fn part(&mut self, relay: RelayId) -> [u8; PART_LEN] {
        self.way(relay).part
    }

    /// What it has told us; true when it is new.
    pub fn hear(&mut self, relay: RelayId, part: [u8; PART_LEN]) -> bool {
        let side = self.side(relay);
        let way = self.way(relay);
        if way.keys.as_ref().is_some_and(|(known, _)| *known == part) {
            return false;
        }
        let (lower, higher) = match side {
            Side::Host => (&way.part, &part),
            Side::Joiner => (&part, &way.part),
        };
        let keys = Keys::of_relays(side, lower, higher);
        let name = keys.session();
        way.asked.clear();
        // One of the two has begun anew, and may be elsewhere: with these keys nobody has been heard yet.
        way.missed = MISSES;
        way.leg = None;
        let old = way.keys.replace((part, keys));
        if let Some((_, old)) = old {
            self.relays.remove(&old.session());
        }
        self.relays.insert(name, relay);
        true
    }

    /// Whether it is for us to ask.
    pub fn asks(&self, relay: RelayId) -> bool {
        self.side(relay) == Side::Host
    }

    fn side(&self, relay: RelayId) -> Side {
        if self.me < relay {
            Side::Host
        } else {
            Side::Joiner
        }
    }

    /// Whether nothing is known of where its frames come from, or it does not answer there any more.
    pub fn is_lost(&self, relay: RelayId) -> bool {
        let way = self.ways.get(&relay);
        way.is_none_or(|way| way.leg.is_none() || way.missed >= MISSES)
    }

    /// Where it may take frames; the first [`MAX_ADDRESSES`] that this socket can send to.
    pub fn try_at(&mut self, relay: RelayId, addresses: impl IntoIterator<Item = SocketAddr>) {
        let bound = self.bound;
        let usable = addresses.into_iter().filter_map(|at| named_by(bound, at));
        let usable = usable.take(MAX_ADDRESSES).collect();
        self.way(relay).addresses = usable;
    }

    /// A round: the questions that are due for `relay`, and where to. None for who is only asked, who counts the rounds all the same.
    pub fn questions(&mut self, relay: RelayId) -> Vec<(Leg, [u8; LEN])> {
        let is_ours = self.asks(relay);
        let Some(way) = self.ways.get_mut(&relay) else {
            return Vec::new();
        };
        if !is_ours {
            way.missed = way.missed.saturating_add(1);
            return Vec::new();
        }
        let Some((_, keys)) = &mut way.keys else {
            return Vec::new();
        };
        let to: Vec<_> = match way.leg {
            Some(leg) if way.missed < MISSES => vec![leg],
            _ => {
                let leg = |&remote| Leg {
                    end: FarEnd::Relay,
                    remote,
                    local: None,
                };
                way.addresses.iter().map(leg).collect()
            }
        };
        way.missed = way.missed.saturating_add(1);
        let ask = |leg: Leg| {
            let (number, question) = keys.seal(Saying::Question);
            expect(&mut way.asked, number, leg.remote);
            (leg, question)
        };
        to.into_iter().map(ask).collect()
    }

    /// A check has come from `source`.
    pub fn handle(&mut self, datagram: &[u8], source: Leg) -> Heard {
        let relay = check::session(datagram).and_then(|name| self.relays.get(&name));
        let Some(way) = relay.and_then(|relay| self.ways.get_mut(relay)) else {
            return Heard::default();
        };
        let Some((_, keys)) = &mut way.keys else {
            return Heard::default();
        };
        let seen = source.remote;
        let is_expected = |of| way.asked.contains(&(of, seen));
        let answer = match (keys.side(), keys.open(datagram)) {
            (Side::Joiner, Some((of, Saying::Question))) => {
                // Whoever names the answer's number has read it, and was not only said to have asked.
                keys.skip(u64::from_be_bytes(self.random.bytes()) >> UNGUESSED_SHIFT);
                let (number, answer) = keys.seal(Saying::Answer { of, seen });
                expect(&mut way.asked, number, seen);
                return Heard {
                    answer: Some(answer),
                    is_new: false,
                };
            }
            (Side::Host, Some((number, Saying::Answer { of, .. }))) if is_expected(of) => {
                Some(keys.seal(Saying::Answer { of: number, seen }).1)
            }
            (Side::Joiner, Some((_, Saying::Answer { of, .. }))) if is_expected(of) => None,
            _ => return Heard::default(),
        };
        // The first is the nearest.
        way.asked.clear();
        let before = way.heard();
        (way.missed, way.leg) = (0, Some(source));
        let is_new = before != Some(source);
        Heard { answer, is_new }
    }

    /// Its last connection has ended.
    pub fn lose(&mut self, relay: RelayId) {
        if let Some(Way {
            keys: Some((_, keys)),
            ..
        }) = self.ways.remove(&relay)
        {
            self.relays.remove(&keys.session());
        }
    }

    /// How frames go to it, while it is heard there.
    pub fn leg(&self, relay: RelayId) -> Option<Leg> {
        self.ways.get(&relay)?.heard()
    }
}

/// Remembers what may be answered, and of the past no more than two rounds.
fn expect(asked: &mut Vec<(u64, SocketAddr)>, number: u64, to: SocketAddr) {
    if asked.len() >= 2 * MAX_ADDRESSES {
        asked.remove(0);
    }
    asked.push((number, to));
}

/// As a socket that is bound to `bound` names `address`: one for both families has only IPv6's, one of IPv4 none of those.
fn named_by(bound: SocketAddr, address: SocketAddr) -> Option<SocketAddr> {
    match (address.ip().to_canonical(), bound.is_ipv6()) {
        (IpAddr::V4(ip), true) => Some(SocketAddr::from((ip.to_ipv6_mapped(), address.port()))),
        (IpAddr::V4(ip), false) => Some(SocketAddr::from((ip, address.port()))),
        (IpAddr::V6(_), true) => Some(address),
        (IpAddr::V6(_), false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOWER: RelayId = RelayId([1; 32]);
    const HIGHER: RelayId = RelayId([2; 32]);

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn leg(text: &str) -> Leg {
        Leg {
            end: FarEnd::Relay,
            remote: at(text),
            local: None,
        }
    }

    /// Two relays that have said Hello.
    fn pair(seed: u64) -> [Legs; 2] {
        let bound = at("0.0.0.0:1");
        let mut lower = Legs::new(LOWER, bound, Random::seeded(seed));
        let mut higher = Legs::new(HIGHER, bound, Random::seeded(seed + 1));
        greet(&mut lower, &mut higher);
        [lower, higher]
    }

    fn greet(lower: &mut Legs, higher: &mut Legs) -> bool {
        let (one, other) = (lower.part(HIGHER), higher.part(LOWER));
        let is_new = lower.hear(HIGHER, other);
        is_new | higher.hear(LOWER, one)
    }

    #[test]
    fn both_take_the_two_addresses_between_which_a_check_has_come_and_gone() {
        let [mut lower, mut higher] = pair(1);
        let addresses = ["192.0.2.1:9", "[2001:db8::1]:9", "192.0.2.2:9"].map(at);
        lower.try_at(HIGHER, addresses);
        higher.try_at(LOWER, addresses);
        assert_eq!(higher.questions(LOWER).len(), 0, "one of the two asks");
        let questions = lower.questions(HIGHER);
        let to: Vec<_> = questions.iter().map(|(leg, _)| leg.remote).collect();
        assert_eq!(to, [addresses[0], addresses[2]], "of this socket's family");
        // The first is lost.
        let there = leg("198.51.100.1:7");
        let answer = higher.handle(&questions[1].1, there).answer;
        let answer = answer.expect("an answer");
        assert_eq!(higher.leg(LOWER), None, "anybody can write an address");
        // Somebody else sends it on.
        assert!(!lower.handle(&answer, leg("203.0.113.9:9")).is_new);
        assert_eq!(lower.leg(HIGHER), None);

        let (to, question) = lower.questions(HIGHER)[1];
        let answer = higher.handle(&question, there).answer;
        let heard = lower.handle(&answer.expect("an answer"), to);
        assert!(heard.is_new);
        let read = heard.answer.expect("that it was read");
        let elsewhere = higher.handle(&read, leg("203.0.113.9:9"));
        assert!(!elsewhere.is_new && elsewhere.answer.is_none());
        assert_eq!((lower.leg(HIGHER), higher.leg(LOWER)), (Some(to), None));
    }

    #[test]
    fn what_was_not_read_is_not_guessed() {
        let [mut lower, mut higher] = pair(1);
        lower.try_at(HIGHER, [at("192.0.2.1:9")]);
        let victim = leg("203.0.113.9:9");
        let own = leg("198.51.100.1:7");
        let last = lower.questions(HIGHER)[0].1;
        let (_, keys) = lower
            .ways
            .get_mut(&HIGHER)
            .expect("met")
            .keys
            .as_mut()
            .expect("told");
        let answer = higher.handle(&last, own).answer.expect("an answer");
        let (number, _) = keys.open(&answer).expect("its own");
        // With the victim's address on it.
        let (_, forged) = keys.seal(Saying::Question);
        assert!(higher.handle(&forged, victim).answer.is_some());
        for of in number..number + 100 {
            let seen = victim.remote;
            let (_, guess) = keys.seal(Saying::Answer { of, seen });
            assert!(!higher.handle(&guess, victim).is_new);
        }
        assert_eq!(higher.leg(LOWER), None);
    }

    #[test]
    fn an_address_stays_until_it_does_not_answer_and_moves_with_what_is_heard() {
        let [mut lower, mut higher] = pair(1);
        lower.try_at(HIGHER, [at("192.0.2.1:9"), at("192.0.2.2:9")]);
        let round = |lower: &mut Legs, higher: &mut Legs, which: usize, from: &str| {
            let questions = lower.questions(HIGHER);
            let (to, question) = questions[which];
            let answer = higher.handle(&question, leg(from)).answer;
            let answer = answer.expect("an answer");
            assert!(higher.handle(&question, leg(from)).answer.is_none(), "once");
            let heard = lower.handle(&answer, to);
            let read = heard.answer.expect("that it was read");
            assert!(higher.handle(&read, leg(from)).answer.is_none());
            heard.is_new
        };
        assert!(round(&mut lower, &mut higher, 1, "198.51.100.1:7"));
        assert_eq!(lower.leg(HIGHER), Some(leg("192.0.2.2:9")));
        assert!(!round(&mut lower, &mut higher, 0, "198.51.100.1:8"));
        assert_eq!(higher.leg(LOWER), Some(leg("198.51.100.1:8")), "it moved");
        for _ in 0..MISSES {
            assert!(!lower.is_lost(HIGHER));
            assert_eq!(lower.questions(HIGHER).len(), 1);
        }
        assert!(lower.is_lost(HIGHER));
        assert!(round(&mut lower, &mut higher, 0, "198.51.100.1:8"));
        assert_eq!(lower.leg(HIGHER), Some(leg("192.0.2.1:9")));
    }

    #[test]
    fn a_way_that_is_not_heard_any_more_is_none_on_either_side_until_it_is() {
        let [mut lower, mut higher] = pair(1);
        lower.try_at(HIGHER, [at("192.0.2.1:9")]);
        let there = leg("198.51.100.1:7");
        let answered = |lower: &mut Legs, higher: &mut Legs| {
            let (to, question) = lower.questions(HIGHER)[0];
            assert_eq!(higher.questions(LOWER), []);
            let answer = higher.handle(&question, there).answer;
            let heard = lower.handle(&answer.expect("an answer"), to);
            let read = heard.answer.expect("that it was read");
            (heard.is_new, higher.handle(&read, there).is_new)
        };
        assert_eq!(answered(&mut lower, &mut higher), (true, true));
        assert_eq!(answered(&mut lower, &mut higher), (false, false));
        for _ in 1..SILENT {
            // Lost, all of them.
            lower.questions(HIGHER);
            higher.questions(LOWER);
            assert!(lower.leg(HIGHER).is_some() && higher.leg(LOWER).is_some());
        }
        lower.questions(HIGHER);
        higher.questions(LOWER);
        assert_eq!((lower.leg(HIGHER), higher.leg(LOWER)), (None, None));
        assert_eq!(answered(&mut lower, &mut higher), (true, true), "again");
        assert!(lower.leg(HIGHER).is_some() && higher.leg(LOWER).is_some());
        // The other is another process, at the same place: nothing is known of it.
        higher.lose(LOWER);
        greet(&mut lower, &mut higher);
        assert_eq!((lower.leg(HIGHER), higher.leg(LOWER)), (None, None));
        assert_eq!(answered(&mut lower, &mut higher), (true, true));
    }

    #[test]
    fn keys_are_new_when_either_has_forgotten_the_other() {
        let [mut lower, mut higher] = pair(1);
        assert!(!greet(&mut lower, &mut higher), "nothing new");
        lower.try_at(HIGHER, [at("192.0.2.1:9")]);
        let (_, old) = lower.questions(HIGHER)[0];
        higher.lose(LOWER);
        assert!(higher.handle(&old, leg("198.51.100.1:7")).answer.is_none());
        assert!(greet(&mut lower, &mut higher));
        assert!(higher.handle(&old, leg("198.51.100.1:7")).answer.is_none());
        let (_, new) = lower.questions(HIGHER)[0];
        assert!(higher.handle(&new, leg("198.51.100.1:7")).answer.is_some());
        lower.lose(HIGHER);
        assert!(lower.ways.is_empty() && lower.relays.is_empty());
    }
}
