//! Who is in the mesh, and whom to try. Pure.
//!
//! ```text
//!          ┌─────────────── lost ────────────────┐
//!          ▼                                     │
//! seed ─▶ target ── dialed, or it dialed us ─▶ both let the other in ─▶ member
//!          ▲ │                                   │
//!          └─┴── failed: later, and later still ─┴── refused, by either: later
//! ```
//!
//! Whoever was in and is gone is lost, and avoided when that happens too often. Whom we do not let in, or who does not let us in, is not
//! lost, or two that each hold the other's loss against it would never meet again: which of the two it is, `terms` knows.

// What has been said on each connection.
mod terms;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use libp2p::swarm::ConnectionId;
use remora_proto::id::RelayId;

use self::terms::Terms;
use crate::{admin::metrics::Stranger, datapath::leg::Leg};

/// First pause before an address is tried again; it doubles up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// A mesh that was cut in two is whole again a moment after it can be.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// Who was refused would be so again.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// An address that no seed names, and where nobody has answered for so long, is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// Addresses that are remembered: a fleet of thousands is not met in full.
const MAX_TARGETS: usize = 1024;
/// Relays in touch at once; beyond, Kademlia finds them when they are needed.
const MAX_MEMBERS: usize = 512;
/// Who is lost sooner than this after it came is flapping.
const SETTLED: Duration = Duration::from_secs(10);
/// So often is bad luck: a relay that is updated goes once.
const FREE_LOSSES: u32 = 3;
/// Longest that a flapping relay is avoided: more than it was there, and not so long that somebody who has mended it waits.
const LONGEST_PENALTY: Duration = Duration::from_secs(15);
/// Questions without an answer after which a member is lost.
const MISSES: u32 = 2;

/// A relay that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it takes connections of the mesh.
    pub address: SocketAddr,
    /// For people.
    pub name: String,
    /// Of its process; 0 when it does not say.
    pub run: u64,
    /// Where nodes reach it, if it knows: `host:port`.
    pub advertised: Option<String>,
}

/// What the rest of the relay wants to know of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Where frames go to, and come from; none while it is not heard there.
    pub leg: Option<Leg>,
    /// Counts the relays that came: who was away since has forgotten what it was told.
    pub met: u64,
    /// Of its process; 0 when it does not say.
    pub run: u64,
    /// Where nodes reach it, if it knows: `host:port`.
    pub advertised: Option<String>,
    /// For people.
    pub name: String,
}

impl Neighbour {
    /// Where nodes reach it, as far as is known: `host:port`. None while no frame does.
    pub fn place(&self) -> Option<String> {
        let leg = self.leg?;
        let advertised = self.advertised.clone();
        Some(advertised.unwrap_or_else(|| leg.remote.to_string()))
    }
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours(pub BTreeMap<RelayId, Neighbour>);

impl Neighbours {
    /// When a relay came; 0 for one that is not here.
    pub fn met(&self, relay: RelayId) -> u64 {
        self.0.get(&relay).map_or(0, |neighbour| neighbour.met)
    }

    /// How frames go to a relay, if they do.
    pub fn leg(&self, relay: RelayId) -> Option<Leg> {
        self.0.get(&relay)?.leg
    }

    /// How many of them frames go to.
    pub fn heard(&self) -> usize {
        let heard = |neighbour: &&Neighbour| neighbour.leg.is_some();
        self.0.values().filter(heard).count()
    }
}

#[derive(Debug)]
struct Target {
    is_seed: bool,
    is_dialing: bool,
    /// Our own: never to be tried again.
    is_mine: bool,
    /// Who has answered there: while that relay is here, be it known by another address, there is nobody to be met.
    answered: Option<RelayId>,
    failures: u32,
    due: Instant,
    failing_since: Option<Instant>,
}

#[derive(Debug)]
struct Present {
    member: Member,
    met: u64,
    since: Instant,
    missed: u32,
}

#[derive(Debug, Default)]
struct Past {
    losses: u32,
    avoided_until: Option<Instant>,
    complained_at: Option<Instant>,
}

/// The machine.
#[derive(Debug, Default)]
pub struct Members {
    /// What each of the seeds' names stood for last.
    seeds: BTreeMap<usize, BTreeSet<SocketAddr>>,
    targets: BTreeMap<SocketAddr, Target>,
    present: BTreeMap<RelayId, Present>,
    past: BTreeMap<RelayId, Past>,
    terms: Terms,
    met: u64,
}

impl Members {
    /// What the seed of that number stands for now; nothing when nobody knows, which is no news.
    pub fn seed(
        &mut self,
        number: usize,
        addresses: impl IntoIterator<Item = SocketAddr>,
        now: Instant,
    ) {
        let addresses: BTreeSet<_> = addresses.into_iter().collect();
        if addresses.is_empty() {
            return;
        }
        self.seeds.insert(number, addresses.clone());
        for (address, target) in &mut self.targets {
            target.is_seed = self.seeds.values().any(|named| named.contains(address));
        }
        for address in addresses {
            self.make_room();
            if let Some(target) = self.target(address, now) {
                target.is_seed = true;
            }
        }
    }

    /// For a seed, somebody gives way who is none.
    fn make_room(&mut self) {
        if self.targets.len() < MAX_TARGETS {
            return;
        }
        let mut others = self.targets.iter();
        let least = others.find(|(_, target)| !target.is_seed && target.is_waiting(&self.present));
        if let Some((&address, _)) = least {
            self.targets.remove(&address);
        }
    }

    fn target(&mut self, address: SocketAddr, now: Instant) -> Option<&mut Target> {
        if !self.targets.contains_key(&address) && self.targets.len() >= MAX_TARGETS {
            return None;
        }
        Some(self.targets.entry(address).or_insert(Target {
            is_seed: false,
            is_dialing: false,
            is_mine: false,
            answered: None,
            failures: 0,
            due: now,
            failing_since: None,
        }))
    }

    /// An address to dial; call until `None`.
    pub fn poll_dial(&mut self, now: Instant) -> Option<SocketAddr> {
        self.targets.retain(|_, target| {
            let is_hopeless = |since: Instant| now.saturating_duration_since(since) > FORGET_AFTER;
            target.is_seed || !target.failing_since.is_some_and(is_hopeless)
        });
        let present = &self.present;
        let mut waiting = self.targets.iter_mut();
        let (&address, target) =
            waiting.find(|(_, target)| target.is_waiting(present) && target.due <= now)?;
        target.is_dialing = true;
        Some(address)
    }

    /// When [`Self::poll_dial`] has one again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.targets.values();
        waiting
            .filter(|target| target.is_waiting(&self.present))
            .map(|target| target.due)
            .min()
    }

    /// A relay answered at a dialed address; whether it is let in is another question.
    pub fn connected(&mut self, address: SocketAddr, relay: RelayId, now: Instant) {
        self.pause(address, LONGEST_PAUSE, now);
        if let Some(target) = self.targets.get_mut(&address) {
            target.answered = Some(relay);
            target.failures = 0;
            target.failing_since = None;
        }
    }

    /// Nobody answered.
    pub fn failed(&mut self, address: SocketAddr, now: Instant) {
        let Some(target) = self.targets.get_mut(&address) else {
            return;
        };
        target.is_dialing = false;
        target.failing_since.get_or_insert(now);
        let pause = SHORTEST_PAUSE * (1 << target.failures.min(10));
        target.failures += 1;
        target.due = now + pause.min(LONGEST_PAUSE);
    }

    /// A dialed address was this relay's own.
    pub fn is_mine(&mut self, address: SocketAddr) {
        if let Some(target) = self.targets.get_mut(&address) {
            target.is_mine = true;
        }
    }

    fn pause(&mut self, address: SocketAddr, pause: Duration, now: Instant) {
        if let Some(target) = self.targets.get_mut(&address) {
            target.is_dialing = false;
            target.due = now + pause;
        }
    }

    /// Whether a relay that would be welcome otherwise is to be let in.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, relay: RelayId, now: Instant) -> Result<(), Stranger> {
        // Those of whom we have not heard yet that they let us in take a place, too.
        if self.may_ask(relay) {
            return Ok(());
        }
        if self.present.len().max(self.terms.heard()) >= MAX_MEMBERS {
            return Err(Stranger::Full);
        }
        let past = self.past.get(&relay);
        if past.is_some_and(|past| past.avoided_until.is_some_and(|until| until > now)) {
            return Err(Stranger::Flapping);
        }
        Ok(())
    }

    /// Whether a relay is in as another process than this one.
    pub fn is_another(&self, relay: RelayId, run: u64) -> bool {
        let present = self.present.get(&relay);
        present.is_some_and(|present| present.member.run != run)
    }

    /// There is a connection to a relay, on which nothing has been said.
    pub fn opened(&mut self, relay: RelayId, connection: ConnectionId) {
        self.terms.open(relay, connection);
    }

    /// A connection ended; whom we have lost by that.
    pub fn closed(
        &mut self,
        relay: RelayId,
        connection: ConnectionId,
        now: Instant,
    ) -> Option<Member> {
        self.terms.close(relay, connection);
        // By another one it is still here, unless that turns out to be dead.
        if self.terms.is_open(relay) {
            return None;
        }
        self.lose(relay, now)
    }

    /// Whether a Hello by that connection may let anybody in.
    pub fn counts(&self, relay: RelayId, connection: ConnectionId) -> bool {
        self.terms.counts(relay, connection)
    }

    /// A relay that we let in said by that connection who it is; true when it is in, and that, or something about it, is new.
    pub fn hear(
        &mut self,
        relay: RelayId,
        connection: ConnectionId,
        member: Member,
        now: Instant,
    ) -> bool {
        self.terms.hear(relay, connection, member);
        if let Some(present) = self.present.get_mut(&relay) {
            present.missed = 0;
        }
        let met = self.terms.met(relay, connection).cloned();
        met.is_some_and(|member| self.admit(relay, member, now))
    }

    /// A relay has said by that connection that it lets us in; before [`Self::hear`] says who it is.
    pub fn answered(&mut self, relay: RelayId, connection: ConnectionId) {
        self.terms.answer(relay, connection);
    }

    /// We have not let it in, or it has not let us in; true when it was.
    pub fn part(&mut self, relay: RelayId, connection: ConnectionId, now: Instant) -> bool {
        self.terms.refuse(relay, connection);
        let left = self.present.remove(&relay);
        if let Some(left) = &left {
            self.pause(left.member.address, LONGEST_PAUSE, now);
        }
        left.is_some()
    }

    /// By that connection a relay is another process than the one that was in, if one was, which we have lost.
    pub fn begins_anew(
        &mut self,
        relay: RelayId,
        connection: ConnectionId,
        now: Instant,
    ) -> Option<Member> {
        self.terms.only(relay, connection);
        self.lose(relay, now)
    }

    /// Whether a relay may ask us: it has said who it is, and we have said yes.
    pub fn may_ask(&self, relay: RelayId) -> bool {
        self.contains(relay) || self.terms.is_heard(relay)
    }

    /// Whether that connection is there.
    pub fn is_connected(&self, relay: RelayId, connection: ConnectionId) -> bool {
        self.terms.has(relay, connection)
    }

    /// A relay is in; true when that, or something about it, is new.
    fn admit(&mut self, relay: RelayId, member: Member, now: Instant) -> bool {
        if let Some(target) = self.target(member.address, now) {
            target.is_dialing = false;
            target.answered = Some(relay);
            target.failures = 0;
            target.failing_since = None;
            target.due = now;
        }
        if let Some(present) = self.present.get_mut(&relay) {
            present.missed = 0;
            let is_new = present.member != member;
            let old = std::mem::replace(&mut present.member, member);
            if old.address != present.member.address {
                // Of each relay one address, however often it says another.
                let of_no_seed = |target: &Target| !target.is_seed;
                if self.targets.get(&old.address).is_some_and(of_no_seed) {
                    self.targets.remove(&old.address);
                }
            }
            return is_new;
        }
        self.met += 1;
        let present = Present {
            member,
            met: self.met,
            since: now,
            missed: 0,
        };
        self.present.insert(relay, present);
        true
    }

    /// A relay was refused; whether to say so once more.
    pub fn refuse(&mut self, relay: RelayId, address: Option<SocketAddr>, now: Instant) -> bool {
        if let Some(address) = address {
            // Who is only avoided for a while is welcome afterwards, and may know nobody else to ask.
            let avoided_until = self.past.get(&relay).and_then(|past| past.avoided_until);
            let pause = avoided_until
                .filter(|&until| until > now)
                .map_or(REFUSED_PAUSE, |until| until - now);
            self.pause(address, pause, now);
        }
        self.forget_the_past(now);
        let past = self.past.entry(relay).or_default();
        let is_new = past
            .complained_at
            .is_none_or(|at| now.saturating_duration_since(at) > REFUSED_PAUSE);
        if is_new {
            past.complained_at = Some(now);
        }
        is_new
    }

    /// A member did not answer; true when it is to be given up.
    pub fn missed(&mut self, relay: RelayId) -> bool {
        let Some(present) = self.present.get_mut(&relay) else {
            return true;
        };
        present.missed += 1;
        present.missed >= MISSES
    }

    /// A member is gone; whom it was, if it was in.
    fn lose(&mut self, relay: RelayId, now: Instant) -> Option<Member> {
        let lost = self.present.remove(&relay)?;
        self.forget_the_past(now);
        let past = self.past.entry(relay).or_default();
        if now.saturating_duration_since(lost.since) < SETTLED {
            past.losses += 1;
            let over = past.losses.saturating_sub(FREE_LOSSES);
            let penalty = Duration::from_secs(1 << over.min(6)).min(LONGEST_PENALTY);
            past.avoided_until = (over > 0).then(|| now + penalty);
        } else {
            past.losses = 0;
        }
        let pause = past
            .avoided_until
            .map_or(SHORTEST_PAUSE, |until| until.saturating_duration_since(now));
        self.pause(lost.member.address, pause, now);
        Some(lost.member)
    }

    /// Keeps the memory of strangers small: the oldest grudges go first.
    fn forget_the_past(&mut self, now: Instant) {
        if self.past.len() < MAX_TARGETS {
            return;
        }
        self.past.retain(|_, past| {
            let grudges = [past.avoided_until, past.complained_at];
            let last = grudges.into_iter().flatten().max();
            last.is_some_and(|at| now.saturating_duration_since(at) < REFUSED_PAUSE)
        });
        while self.past.len() >= MAX_TARGETS {
            self.past.pop_first();
        }
    }

    /// Whether an operator has named a relay that is not this one, as far as is known.
    pub fn has_others(&self) -> bool {
        let is_other = |target: &Target| target.is_seed && !target.is_mine;
        self.targets.values().any(is_other)
    }

    /// Whether a relay is in.
    pub fn contains(&self, relay: RelayId) -> bool {
        self.present.contains_key(&relay)
    }

    /// All that are in.
    pub fn relays(&self) -> impl Iterator<Item = RelayId> {
        self.present.keys().copied()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.present.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    /// What the rest of the relay may know.
    pub fn neighbours(&self, leg: impl Fn(RelayId) -> Option<Leg>) -> Neighbours {
        let all = self.present.iter().map(|(&relay, present)| {
            let neighbour = Neighbour {
                leg: leg(relay),
                met: present.met,
                run: present.member.run,
                advertised: present.member.advertised.clone(),
                name: present.member.name.clone(),
            };
            (relay, neighbour)
        });
        Neighbours(all.collect())
    }
}

impl Target {
    fn is_waiting(&self, present: &BTreeMap<RelayId, Present>) -> bool {
        let is_met = |relay: &RelayId| present.contains_key(relay);
        !self.is_dialing && !self.is_mine && !self.answered.as_ref().is_some_and(is_met)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn member(port: u16) -> Member {
        Member {
            advertised: None,
            address: address(port),
            name: "relay".into(),
            run: 1,
        }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    const ONE: RelayId = RelayId([1; 32]);

    #[test]
    fn a_seed_is_tried_ever_more_rarely_and_for_ever() {
        let (start, mut members) = (Instant::now(), Members::default());
        members.seed(0, [address(1)], start);
        let mut now = start;
        for pause_ms in [250, 500, 1000, 2000, 4000, 4000] {
            assert_eq!(members.poll_dial(now), Some(address(1)));
            assert_eq!(members.poll_dial(now), None, "once at a time");
            members.failed(address(1), now);
            let due = members.poll_timeout().expect("again");
            assert_eq!(due - now, Duration::from_millis(pause_ms));
            now = due;
        }
        assert_eq!(members.poll_dial(now + secs(9999)), Some(address(1)));
    }

    #[test]
    fn whom_it_has_met_it_does_not_dial_and_whom_it_lost_it_does() {
        let (now, mut members) = (Instant::now(), Members::default());
        members.seed(0, [address(1), address(2)], now);
        assert_eq!(members.poll_dial(now), Some(address(1)));
        members.is_mine(address(1));
        assert!(members.admit(ONE, member(2), now));
        assert!(!members.admit(ONE, member(2), now), "nothing new");
        assert_eq!(members.poll_dial(now + secs(99)), None);
        assert!(members.admit(ONE, member(3), now + secs(99)), "elsewhere");
        assert_eq!(members.lose(ONE, now + secs(99)), Some(member(3)));
        assert_eq!(members.lose(ONE, now + secs(99)), None);
        let found: Vec<_> = std::iter::from_fn(|| members.poll_dial(now + secs(100))).collect();
        assert_eq!(found, [address(2), address(3)]);
        // Nobody answers there, and no seed names it.
        members.failed(address(3), now + secs(100));
        assert_eq!(members.poll_dial(now + secs(701)), None);
        assert!(!members.targets.contains_key(&address(3)));
    }

    #[test]
    fn who_is_known_by_another_address_than_the_seeds_is_met_all_the_same() {
        let (now, mut members) = (Instant::now(), Members::default());
        members.seed(0, [address(1)], now);
        assert_eq!(members.poll_dial(now), Some(address(1)));
        members.connected(address(1), ONE, now);
        assert!(members.poll_timeout().is_some(), "it may be refused");
        members.admit(ONE, member(2), now);
        assert_eq!(members.poll_dial(now + secs(99)), None);
        assert_eq!(members.poll_timeout(), None);
        members.lose(ONE, now + secs(99));
        let found: Vec<_> = std::iter::from_fn(|| members.poll_dial(now + secs(100))).collect();
        assert_eq!(found, [address(1), address(2)]);
    }

    #[test]
    fn a_member_that_does_not_answer_is_given_up_at_the_second_time() {
        let (now, mut members) = (Instant::now(), Members::default());
        members.admit(ONE, member(1), now);
        assert!(!members.missed(ONE));
        members.admit(ONE, member(1), now);
        assert!(!members.missed(ONE), "it has answered in between");
        assert!(members.missed(ONE));
    }

    #[test]
    fn a_relay_that_comes_and_goes_is_avoided_for_a_while() {
        let (mut now, mut members) = (Instant::now(), Members::default());
        for _ in 0..FREE_LOSSES {
            assert_eq!(members.check(ONE, now), Ok(()));
            members.admit(ONE, member(1), now);
            members.lose(ONE, now + secs(5));
            now += secs(6);
        }
        members.admit(ONE, member(1), now);
        members.lose(ONE, now);
        assert_eq!(members.check(ONE, now), Err(Stranger::Flapping));
        // It is here again, and refused; and is looked for as soon as it would not be.
        assert!(members.refuse(ONE, Some(address(1)), now));
        assert_eq!(members.poll_dial(now + secs(1)), None);
        assert_eq!(members.poll_dial(now + secs(2)), Some(address(1)));
        assert_eq!(members.check(ONE, now + secs(3)), Ok(()));
        // Once it has stayed, the past is the past.
        members.admit(ONE, member(1), now + secs(3));
        members.lose(ONE, now + secs(99));
        assert_eq!(members.past[&ONE].losses, 0);
    }

    #[test]
    fn a_relay_that_was_started_anew_is_let_in_at_once_however_long_it_was_there() {
        for was_there in [secs(1), secs(1000)] {
            let (start, mut members) = (Instant::now(), Members::default());
            members.admit(ONE, member(1), start);
            assert!(!members.is_another(ONE, 1));
            assert!(members.is_another(ONE, 2));
            let met = members.neighbours(|_| None).met(ONE);
            let now = start + was_there;
            members.lose(ONE, now);
            assert_eq!(members.check(ONE, now), Ok(()));
            let anew = Member {
                run: 2,
                ..member(1)
            };
            assert!(members.admit(ONE, anew, now));
            let neighbours = members.neighbours(|_| None);
            assert!(neighbours.met(ONE) > met && neighbours.0[&ONE].run == 2);
        }
    }

    #[test]
    fn what_seeds_do_not_stand_for_any_more_is_forgotten() {
        let (now, mut members) = (Instant::now(), Members::default());
        members.seed(0, [address(1), address(2)], now);
        members.seed(1, [address(2)], now);
        members.seed(0, [address(3)], now);
        members.seed(0, [], now);
        let tried: Vec<_> = std::iter::from_fn(|| members.poll_dial(now)).collect();
        assert_eq!(tried, [address(1), address(2), address(3)]);
        for at in tried {
            members.failed(at, now);
        }
        let after = now + FORGET_AFTER + secs(1);
        let tried: Vec<_> = std::iter::from_fn(|| members.poll_dial(after)).collect();
        assert_eq!(tried, [address(2), address(3)]);
    }

    #[test]
    fn seeds_have_room_and_a_relay_has_one_address() {
        let (now, mut members) = (Instant::now(), Members::default());
        for port in 1..=2000 {
            members.admit(ONE, member(port), now);
        }
        assert_eq!(members.targets.len(), 1);
        for n in 0..2000_u16 {
            let mut id = [7; 32];
            id[..2].copy_from_slice(&n.to_be_bytes());
            let relay = RelayId(id);
            members.admit(relay, member(n), now);
            members.lose(relay, now + SETTLED);
        }
        assert_eq!(members.targets.len(), MAX_TARGETS);
        members.seed(0, [address(9000)], now);
        assert!(members.targets.contains_key(&address(9000)));
        assert_eq!(members.targets.len(), MAX_TARGETS);
    }

    #[test]
    fn what_strangers_can_fill_has_an_end() {
        let (now, mut members) = (Instant::now(), Members::default());
        for n in 0..3000_u16 {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&n.to_be_bytes());
            members.admit(ONE, member(n), now);
            members.seed(usize::from(n % 4), [address(n ^ 1)], now);
            assert!(members.refuse(RelayId(id), None, now));
            assert!(!members.refuse(RelayId(id), None, now), "once a minute");
        }
        assert!(members.targets.len() <= MAX_TARGETS && members.past.len() <= MAX_TARGETS);
    }
}
