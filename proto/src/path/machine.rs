//! The machine: candidates, checks and time in; checks, candidates for the other side and the route out.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    candidate::{
        Candidate, Hindrance, Kind, MAX_CANDIDATES, Named, Policy, Subnet, is_open, is_private,
    },
    check::{self, Keys, Saying},
    detour::Detour,
    nat::Nat,
    pair::{Pair, Use},
    ping::{Pings, Pong},
    plan::{Choice, Plan, Planner, Situation},
    way::{Base, SocketChange, Way},
};
use crate::rate::{Rate, TokenBucket};

/// Remote addresses that are tried: what the other side may name, and some that nobody named.
const MAX_PAIRS: usize = 24;
/// Questions of a session, and answers; a NAT's table has room for these.
const CHECKS: Rate = Rate::per_second(50, 10);
/// Between two checks (RFC 8445 §14.2, Ta).
const PACE: Duration = Duration::from_millis(5);
/// A path whose answers are overdue for so long is left; packets have gone both ways meanwhile.
const LEFT_AFTER: Duration = Duration::from_millis(1200);
/// Another path has to be better by this, and by a fifth, twice, before packets move.
const BETTER_BY: Duration = Duration::from_millis(10);
/// Packets went this long ago: the path is in use.
const IN_USE: Duration = Duration::from_millis(600);
/// How long the search counts as going on, when nothing has been found.
const PROBING: Duration = Duration::from_secs(10);
/// The same when both NATs are known, and that nothing can be found.
const PROBING_HOPELESS: Duration = Duration::from_secs(2);
/// Ways that a plan has found and that are tried at once: of those that are there one is needed.
const MAX_HITS: usize = 3;
/// Something came by such a way so lately that it may yet work.
const HIT: Duration = Duration::from_secs(2);
/// What a plan has found and is not used stays for so long after the other side used it last: longer than two heartbeats.
const KEPT: Duration = Duration::from_secs(40);
/// The relay forgets a session that it carries nothing of for a minute, and NATs forget relays sooner; so often a check goes
/// that way while packets do not.
const KEEP_RELAYED: Duration = Duration::from_secs(25);
/// To another relay: one question may be lost, and one may come before the other side is there.
const RELAY_QUESTIONS: u32 = 5;
const RELAY_ASKED_EVERY: Duration = Duration::from_millis(300);
/// The other side's packets are taken from where its check came from, for so long after it.
const TRUSTED: Duration = Duration::from_secs(60);

/// Where packets go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// To the other node itself; `None`: through the relay.
    pub direct: Option<Way>,
    /// Through the relay, too: the direct path does not answer.
    pub is_doubled: bool,
}

/// Why there is no direct path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyRelayed {
    /// It is being looked for.
    Probing,
    /// It is not wanted here.
    PolicyRelayOnly,
    /// The other side does not want it.
    PeerRelayOnly,
    /// Neither side's packets get through to the other: NATs or firewalls.
    Unreachable,
    /// There was one, and it went dark.
    WentDark,
    /// Not even the relay is reached by UDP; who drives the machine knows.
    UdpBlocked,
    /// The other side does not reach its relay by UDP.
    PeerUdpBlocked,
    /// Both NATs have another port for each destination, of which one at least cannot be foreseen.
    BothSymmetric,
    /// One NAT has another port for each destination, which was not found.
    SymmetricVsRestricted,
}

impl WhyRelayed {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Probing => "PROBING",
            Self::PolicyRelayOnly => "POLICY_RELAY_ONLY",
            Self::PeerRelayOnly => "PEER_RELAY_ONLY",
            Self::Unreachable => "UNREACHABLE",
            Self::WentDark => "FIREWALL_TIMEOUT",
            Self::UdpBlocked => "UDP_BLOCKED",
            Self::PeerUdpBlocked => "PEER_UDP_BLOCKED",
            Self::BothSymmetric => "BOTH_SYMMETRIC",
            Self::SymmetricVsRestricted => "SYMMETRIC_VS_RESTRICTED",
        }
    }
}

/// A move that people are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Packets go to the other node itself now.
    Direct {
        /// There.
        way: Way,
        /// And back.
        rtt: Duration,
    },
    /// Through the relay again.
    Relayed,
}

/// A check to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to; `None`: through the relay, in a frame.
    pub to: Option<Way>,
    /// What, but for what it is filled up with.
    pub check: [u8; check::LEN],
    /// With zeros, to this length.
    pub length: usize,
}

impl Transmit {
    fn question(to: Way, check: [u8; check::LEN]) -> Self {
        let (to, length) = (Some(to), check::QUESTION_LEN);
        Self { to, check, length }
    }

    fn short(to: Option<Way>, check: [u8; check::LEN]) -> Self {
        let length = check::LEN;
        Self { to, check, length }
    }

    /// The datagram.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.check.to_vec();
        bytes.resize(self.length, 0);
        bytes
    }
}

/// The machine.
#[derive(Debug)]
pub struct Paths {
    keys: Keys,
    policy: Policy,
    began: Instant,
    local: Vec<Candidate>,
    /// What stands before this node.
    nat: Nat,
    /// What the other side knows of that.
    told: Named,
    own: Vec<Subnet>,
    /// What the other side has named, whether it may be probed or not: that changes with our networks.
    named: Named,
    /// The addresses from which relays see the other side.
    peer_reflexive_ips: Vec<IpAddr>,
    pairs: Vec<Pair>,
    /// By what it is: pairs come and go.
    selected: Option<Way>,
    planner: Planner,
    /// Packets are to go through the relay for now, by this side's wish.
    wants_relay: bool,
    /// Not even the relay is reached by UDP.
    is_udp_blocked: bool,
    pings: Pings,
    detour: Detour,
    is_doubled: bool,
    has_gone_dark: bool,
    used_at: Option<Instant>,
    /// When the next check may leave.
    paced: Instant,
    questions: TokenBucket,
    /// Whoever asks names their address, which may be another's.
    answers: TokenBucket,
    has_local: bool,
    checks_sent: u64,
    /// While packets go directly: when the relay hears of us next.
    relayed_at: Instant,
    /// So many more come soon: it is another relay.
    relay_questions: u32,
    transmits: VecDeque<Transmit>,
    moves: VecDeque<Moved>,
}

impl Paths {
    /// For an inner connection that stands, at `now`; packets go through the relay.
    pub fn new(keys: Keys, policy: Policy, now: Instant) -> Self {
        let planner = Planner::new(keys.side(), now);
        Self {
            keys,
            policy,
            began: now,
            local: Vec::new(),
            nat: Nat::default(),
            own: Vec::new(),
            named: Named::default(),
            told: Named::default(),
            peer_reflexive_ips: Vec::new(),
            pairs: Vec::new(),
            selected: None,
            planner,
            wants_relay: false,
            is_udp_blocked: false,
            pings: Pings::default(),
            detour: Detour::default(),
            is_doubled: false,
            has_gone_dark: false,
            used_at: None,
            paced: now,
            questions: TokenBucket::new(now),
            answers: TokenBucket::new(now),
            has_local: false,
            checks_sent: 0,
            relayed_at: now,
            relay_questions: 0,
            transmits: VecDeque::new(),
            moves: VecDeque::new(),
        }
    }

    // --- in ---

    /// All addresses at which this node may be reached now, and the networks it is in. After the first time it means that
    /// something has changed: whatever is known of paths is tried again.
    pub fn handle_local(&mut self, candidates: Vec<Candidate>, own: Vec<Subnet>, now: Instant) {
        if self.local == candidates && self.own == own {
            return;
        }
        (self.local, self.own) = (candidates, own);
        if self.has_local {
            for pair in &mut self.pairs {
                pair.restart(now);
            }
        }
        self.has_local = true;
        self.add_named(now);
        self.consider(now);
    }

    /// What a survey has found out of the NAT that this node is behind now.
    pub fn handle_nat(&mut self, nat: Nat, now: Instant) {
        self.nat = nat;
        self.consider(now);
    }

    /// Addresses at which the other node may be reached, and what stands before it.
    pub fn handle_remote(&mut self, named: &Named, now: Instant) {
        for candidate in &named.candidates {
            let ip = candidate.address.ip();
            if candidate.kind == Kind::ServerReflexive && !self.peer_reflexive_ips.contains(&ip) {
                self.peer_reflexive_ips.push(ip);
                self.peer_reflexive_ips.truncate(MAX_PAIRS);
            }
        }
        if self.named.candidates != named.candidates
            && let Some(selected) = self.selected
            && let Some(pair) = self.pair(selected)
        {
            // It may be elsewhere now.
            pair.hurry(now);
        }
        let was_relayed = self.stays_relayed();
        self.named.clone_from(named);
        self.named.candidates.truncate(MAX_CANDIDATES);
        self.want_detour(now);
        self.settle(was_relayed, now);
        let (candidates, selected) = (&self.named.candidates, self.selected);
        self.pairs.retain(|pair| {
            let is_named = candidates
                .iter()
                .any(|candidate| candidate.address == pair.way.to);
            let works = pair
                .answered_at
                .is_some_and(|at| now.saturating_duration_since(at) < TRUSTED);
            is_named || works || selected == Some(pair.way) || pair.kind == Kind::PeerReflexive
        });
        self.add_named(now);
        self.consider(now);
        if let Some(attempt) = named.attempt {
            self.planner.handle_attempt(attempt, now);
        }
    }

    /// Packets are to go through the relay for now, both ways, or by the best path again. What is known of paths is kept up
    /// meanwhile. They go there once the other side has answered through it, and come back when it does not any more.
    pub fn handle_wish(&mut self, relayed: bool, now: Instant) {
        let was_relayed = self.stays_relayed();
        self.wants_relay = relayed;
        self.want_detour(now);
        self.settle(was_relayed, now);
    }

    /// Another relay carries the session. It is asked through at once, so that the one before is not needed for long although nothing else
    /// goes by either.
    pub fn handle_relay_changed(&mut self, now: Instant) {
        (self.relay_questions, self.relayed_at) = (RELAY_QUESTIONS, now);
    }

    /// Whether not even the relay is reached by UDP: for the other side to know, paths are looked for all the same.
    pub fn handle_udp_blocked(&mut self, is_blocked: bool) {
        self.is_udp_blocked = is_blocked;
    }

    /// Somebody wants to know how long it takes by the way that packets go now; [`Self::poll_pong`] tells, if there is an answer.
    pub fn handle_ping(&mut self, now: Instant) {
        if self.questions.take(CHECKS, 1, now).is_err() {
            return;
        }
        let (number, question) = self.keys.seal(Saying::Question);
        self.pings.asked(number, self.selected, now);
        self.transmits.push_back(match self.selected {
            Some(way) => Transmit::question(way, question),
            None => Transmit::short(None, question),
        });
        self.checks_sent += 1;
    }

    /// How the relay sees a socket that [`Self::poll_observe`] asked for.
    pub fn handle_observed(&mut self, base: Base, seen: SocketAddr, now: Instant) {
        if self.may_plan() {
            self.planner.handle_observed(base, seen, now);
        }
    }

    /// A datagram that claims to be a check of this session, by the way that an answer goes or, `None`, through the relay; false
    /// when it is none.
    pub fn handle_datagram(&mut self, datagram: &[u8], from: Option<Way>, now: Instant) -> bool {
        let Some((number, saying)) = self.keys.open(datagram) else {
            return false;
        };
        match saying {
            Saying::Question => {
                // Whoever sealed it may have been overheard, or names an address that is not theirs: a question makes nobody a
                // path. It is answered, and asked back.
                let may_answer = from.is_none_or(|from| self.policy.allows(from.to, &self.own));
                if !may_answer
                    || from.is_some_and(|from| self.is_one_too_many(from, now))
                    || self.answers.take(CHECKS, 1, now).is_err()
                {
                    return true;
                }
                let seen = from.map_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)), |from| from.to);
                let (_, answer) = self.keys.seal(Saying::Answer { of: number, seen });
                self.transmits.push_back(Transmit::short(from, answer));
                let Some(from) = from else { return true };
                self.add_heard(from, now);
                if let Some(pair) = self.pair(from) {
                    pair.heard(now);
                }
            }
            Saying::Answer { of, .. } if self.pings.answered(of, from, now) => {}
            Saying::Answer { of, .. } => {
                // From elsewhere it says nothing of a path.
                let Some(from) = from else {
                    let was_relayed = self.stays_relayed();
                    self.detour.answered(of);
                    self.settle(was_relayed, now);
                    return true;
                };
                if self.pair(from).is_some_and(|pair| pair.answer(of, now)) {
                    self.select(Some(from), now);
                } else if self.planner.may_hit(from)
                    && self.policy.allows(from.to, &self.own)
                    && !self.is_one_too_many(from, now)
                {
                    // To a short question; a long one follows.
                    self.add_heard(from, now);
                    if let Some(pair) = self.pair(from) {
                        pair.heard(now);
                    }
                }
            }
        }
        true
    }

    /// A packet went out, by whatever path.
    pub fn handle_sent(&mut self, now: Instant) {
        let was_in_use = self.is_in_use(now);
        self.used_at = Some(now);
        if !was_in_use
            && let Some(selected) = self.selected
            && let Some(pair) = self.pair(selected)
        {
            pair.reschedule(Use::Active, now);
        }
    }

    /// Packets are not answered, by whatever path they go: checks get through where they do not.
    pub fn handle_unheard(&mut self, now: Instant) {
        if let Some(selected) = self.selected {
            if let Some(pair) = self.pair(selected) {
                pair.hold(now);
            }
            self.go(None, now);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let was_relayed = self.stays_relayed();
        let is_detour_asked = self.detour.handle_timeout(now);
        self.settle(was_relayed, now);
        self.select(None, now);
        if is_detour_asked || self.selected.is_some() && self.relayed_at <= now {
            self.relayed_at = now + self.until_relay_is_asked();
            let (number, question) = self.keys.seal(Saying::Question);
            self.detour.asked(number, now);
            self.transmits.push_back(Transmit::short(None, question));
        }
        if self.may_plan() {
            self.planner.handle_timeout(self.heard_at(), now);
        }
        while let Some(way) = self.planner.poll_way() {
            if self.policy.allows(way.to, &self.own) {
                let (_, question) = self.keys.seal(Saying::Question);
                self.transmits
                    .push_back(Transmit::short(Some(way), question));
                self.checks_sent += 1;
            }
        }
        self.tidy(now);
        while self.paced <= now {
            let due = (0..self.pairs.len())
                .filter(|&at| self.pairs[at].next <= now && !self.is_quiet(&self.pairs[at]))
                .min_by_key(|&at| (self.pairs[at].kind, self.pairs[at].next));
            let Some(at) = due else { break };
            if let Err(wait) = self.questions.take(CHECKS, 1, now) {
                self.paced = now + wait;
                break;
            }
            let used = self.used(self.pairs[at].way, now);
            let (number, question) = self.keys.seal(Saying::Question);
            let pair = &mut self.pairs[at];
            pair.ask(number, used, now);
            let way = pair.way;
            self.transmits.push_back(Transmit::question(way, question));
            self.paced = now + PACE;
            self.checks_sent += 1;
        }
    }

    // --- out ---

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let asked = self.pairs.iter().filter(|pair| !self.is_quiet(pair));
        let question = asked.map(|pair| pair.next.max(self.paced)).min();
        let spare = self.pairs.iter().filter(|pair| self.is_spare(pair));
        let spare = spare.map(|pair| pair.sign_at() + KEPT).min();
        let plan = self.planner.poll_timeout(self.heard_at());
        let plan = plan.filter(|_| self.may_plan());
        let selected = self
            .selected
            .and_then(|selected| self.pairs.iter().find(|pair| pair.way == selected));
        let overdue = selected
            .and_then(Pair::overdue_at)
            .map(|at| if self.is_doubled { at + LEFT_AFTER } else { at });
        let relayed = self.selected.map(|_| self.relayed_at);
        let detour = self.detour.poll_timeout();
        let all = [question, overdue, relayed, detour, spare, plan];
        all.into_iter().flatten().min()
    }

    /// A check to send; call until `None`.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// A socket to open or to close, before anything is sent; call until `None`.
    pub fn poll_socket(&mut self) -> Option<SocketChange> {
        self.planner.poll_socket()
    }

    /// A socket of which [`Self::handle_observed`] is to be told how the relay sees it: it is to be asked, once; call until `None`.
    pub fn poll_observe(&mut self) -> Option<Base> {
        self.planner.poll_observe()
    }

    /// Candidates that the other side is to be told, all of them anew, and what goes with them.
    pub fn poll_candidates(&mut self) -> Option<Named> {
        let open = Named {
            candidates: self.disclosed(),
            nat: self.nat,
            attempt: self.planner.told(),
            relayed: self.wants_relay,
            hindrance: self.is_udp_blocked.then_some(Hindrance::UdpBlocked),
        };
        if self.policy.relay_only || open == self.told {
            return None;
        }
        self.told.clone_from(&open);
        Some(open)
    }

    /// A move that has happened; call until `None`.
    pub fn poll_move(&mut self) -> Option<Moved> {
        self.moves.pop_front()
    }

    /// What [`Self::handle_ping`] has asked for; call until `None`.
    pub fn poll_pong(&mut self) -> Option<Pong> {
        self.pings.poll()
    }

    /// Whether the other side wants packets to go through the relay for now.
    pub fn is_relay_wanted_by_peer(&self) -> bool {
        self.named.relayed
    }

    /// Where packets go.
    pub fn route(&self) -> Route {
        Route {
            direct: self.selected,
            is_doubled: self.is_doubled,
        }
    }

    /// Where the other node's packets may come from, too: it has proven that it can send from there.
    pub fn trusted(&self, now: Instant) -> impl Iterator<Item = Way> {
        self.pairs.iter().filter_map(move |pair| {
            let heard = pair.heard_at?;
            (now.saturating_duration_since(heard) < TRUSTED).then_some(pair.way)
        })
    }

    /// Why packets go through the relay; `None` when they do not.
    pub fn why_relayed(&self, now: Instant) -> Option<WhyRelayed> {
        let age = now.saturating_duration_since(self.began);
        let choice = self.planner.choice();
        Some(match self.selected {
            Some(_) => return None,
            None if self.stays_relayed() => {
                let is_ours = self.policy.relay_only || self.wants_relay;
                match is_ours {
                    true => WhyRelayed::PolicyRelayOnly,
                    false => WhyRelayed::PeerRelayOnly,
                }
            }
            None if self.named.hindrance == Some(Hindrance::RelayOnly) => WhyRelayed::PeerRelayOnly,
            None if self.named.hindrance == Some(Hindrance::UdpBlocked) => {
                WhyRelayed::PeerUdpBlocked
            }
            None if self.planner.is_running() => WhyRelayed::Probing,
            None if self.planner.has_failed() => match choice {
                Choice::Plan(Plan::Bursts { .. }, _) => WhyRelayed::BothSymmetric,
                Choice::Plan(..) | Choice::Checks | Choice::Hopeless => {
                    WhyRelayed::SymmetricVsRestricted
                }
            },
            None if self.has_gone_dark => WhyRelayed::WentDark,
            None if choice == Choice::Hopeless && age >= PROBING_HOPELESS => {
                WhyRelayed::BothSymmetric
            }
            None if age < PROBING => WhyRelayed::Probing,
            None => WhyRelayed::Unreachable,
        })
    }

    /// Questions sent so far.
    pub fn checks_sent(&self) -> u64 {
        self.checks_sent
    }

    // --- within ---

    fn pair(&mut self, way: Way) -> Option<&mut Pair> {
        self.pairs.iter_mut().find(|pair| pair.way == way)
    }

    /// What there is to plan with.
    fn consider(&mut self, now: Instant) {
        let reflexive = |candidates: &[Candidate]| {
            let seen = candidates.iter().find(|candidate| {
                candidate.kind == Kind::ServerReflexive && candidate.address.is_ipv4()
            });
            seen.map(|candidate| candidate.address)
        };
        let peer_at = reflexive(&self.named.candidates);
        let situation = Situation {
            own: self.nat,
            own_ip: reflexive(&self.local).map(|seen| seen.ip()),
            peer: self.named.nat,
            peer_at: peer_at.filter(|at| self.policy.allows(*at, &self.own)),
        };
        self.planner.handle_situation(situation, now);
    }

    fn may_plan(&self) -> bool {
        self.selected.is_none() && !self.stays_relayed()
    }

    /// Whether a direct path is not wanted: never, or by one side for now.
    fn stays_relayed(&self) -> bool {
        self.policy.relay_only || self.detour.is_taken()
    }

    fn until_relay_is_asked(&mut self) -> Duration {
        match self.relay_questions.checked_sub(1) {
            Some(left) => {
                self.relay_questions = left;
                RELAY_ASKED_EVERY
            }
            None => KEEP_RELAYED,
        }
    }

    fn want_detour(&mut self, now: Instant) {
        let is_wanted = self.wants_relay || self.named.relayed;
        // Whoever is there already has what it takes.
        self.detour.want(is_wanted, self.selected.is_none(), now);
    }

    /// What there is to do about wishes that may have changed.
    fn settle(&mut self, was_relayed: bool, now: Instant) {
        match (was_relayed, self.stays_relayed()) {
            (false, true) if self.selected.is_some() => {
                (self.selected, self.is_doubled) = (None, false);
                self.moves.push_back(Moved::Relayed);
            }
            (true, false) => {
                // Nothing is left for a path that may have gone dark meanwhile.
                for pair in &mut self.pairs {
                    pair.doubt(now);
                }
                self.planner.handle_lost(now);
            }
            (false, _) | (true, true) => {}
        }
    }

    /// When something has come from the other side itself.
    fn heard_at(&self) -> Option<Instant> {
        let heard = |pair: &Pair| pair.heard_at.max(pair.answered_at);
        self.pairs.iter().filter_map(heard).max()
    }

    /// Whether a pair is one that a plan has found, and is not used.
    fn is_spare(&self, pair: &Pair) -> bool {
        pair.is_planned && self.selected != Some(pair.way)
    }

    /// Whether nothing is asked there: another way works, and the other side keeps this one up while it uses it.
    fn is_quiet(&self, pair: &Pair) -> bool {
        self.selected.is_some() && !self.is_doubled && self.is_spare(pair)
    }

    /// Whether a plan has found more than it can use.
    fn is_one_too_many(&self, from: Way, now: Instant) -> bool {
        let mut known = self.pairs.iter();
        let hits = self
            .pairs
            .iter()
            .filter(|pair| pair.is_planned && now.saturating_duration_since(pair.sign_at()) < HIT);
        self.planner.may_hit(from)
            && !known.any(|pair| pair.way == from)
            && hits.count() >= MAX_HITS
    }

    /// Something came by a way that nobody may have named.
    fn add_heard(&mut self, from: Way, now: Instant) {
        if self.pair(from).is_none() {
            self.add(from, Kind::PeerReflexive, now);
            let is_planned = self.planner.may_hit(from);
            if let Some(pair) = self.pair(from) {
                pair.is_planned = is_planned;
            }
        }
    }

    /// Forgets what plans have found and nobody uses.
    fn tidy(&mut self, now: Instant) {
        let selected = self.selected;
        self.pairs.retain(|pair| {
            let is_spare = pair.is_planned && selected != Some(pair.way);
            !is_spare || now.saturating_duration_since(pair.sign_at()) < KEPT
        });
        let pairs = &self.pairs;
        self.planner
            .tidy(|base| pairs.iter().any(|pair| pair.way.base == base));
    }

    fn add_named(&mut self, now: Instant) {
        let shares_a_site = self.shares_a_site();
        for candidate in self.named.candidates.clone() {
            let is_v4 = candidate.address.is_ipv4();
            let of_family = |own: &Candidate| own.address.is_ipv4() == is_v4;
            let has_family = self.local.is_empty() || self.local.iter().any(of_family);
            let is_near = shares_a_site || !is_private(candidate.address.ip());
            if !has_family || !is_near {
                continue;
            }
            let way = Way::main(candidate.address);
            let is_new = self.pair(way).is_none();
            if is_new && self.policy.allows(candidate.address, &self.own) {
                self.add(way, candidate.kind, now);
            }
        }
    }

    /// One more pair; when there are too many, the one that has not worked for longest makes room.
    fn add(&mut self, way: Way, kind: Kind, now: Instant) {
        if self.pairs.len() >= MAX_PAIRS {
            let spare = (0..self.pairs.len())
                .filter(|&at| Some(self.pairs[at].way) != self.selected)
                .min_by_key(|&at| self.pairs[at].answered_at);
            let Some(spare) = spare else { return };
            self.pairs.remove(spare);
        }
        self.pairs.push(Pair::new(way, kind, now));
    }

    /// Whether the other side seems to be at this site: relays see both come from one address, or it says so.
    fn shares_a_site(&self) -> bool {
        self.local.iter().any(|candidate| {
            candidate.kind == Kind::ServerReflexive
                && self.peer_reflexive_ips.contains(&candidate.address.ip())
        })
    }

    /// What the other side may know: what strangers can use, and what means something at this site only when it seems to be here.
    fn disclosed(&self) -> Vec<Candidate> {
        let shares_a_site = self.shares_a_site();
        let mut open: Vec<_> = self
            .local
            .iter()
            .filter(|candidate| shares_a_site || is_open(candidate))
            .copied()
            .collect();
        open.truncate(MAX_CANDIDATES);
        open
    }

    fn is_in_use(&self, now: Instant) -> bool {
        self.used_at
            .is_some_and(|used| now.saturating_duration_since(used) < IN_USE)
    }

    fn used(&self, way: Way, now: Instant) -> Use {
        if self.selected != Some(way) {
            Use::Spare
        } else if self.is_in_use(now) {
            Use::Active
        } else {
            Use::Selected
        }
    }

    /// Chooses again; `answered` is a pair with a new answer.
    fn select(&mut self, answered: Option<Way>, now: Instant) {
        let current = self
            .selected
            .and_then(|selected| self.pairs.iter().position(|pair| pair.way == selected));
        let overdue = current.and_then(|at| self.pairs[at].overdue_since(now));
        match (current, overdue) {
            (Some(at), Some(since)) => {
                // Another is as good as this was only if it has answered since.
                let other = self.best(now, Some(since));
                let is_left = now.saturating_duration_since(since) >= LEFT_AFTER;
                if is_left || other.is_some() {
                    self.pairs[at].hold(now);
                    self.go(other, now);
                } else if !self.is_doubled {
                    self.is_doubled = true;
                    self.pairs[at].reschedule(Use::Active, now);
                    for pair in &mut self.pairs {
                        if pair.answered_at.is_some() {
                            pair.hurry(now);
                        }
                    }
                }
            }
            (Some(at), None) => {
                self.is_doubled = false;
                self.compare(at, answered, now);
            }
            (None, _) if self.stays_relayed() => {}
            (None, _) => {
                if let Some(best) = self.best(now, None) {
                    self.go(Some(best), now);
                }
            }
        }
    }

    /// Whether the pair that has just answered is so much better than the one in use that packets should move.
    fn compare(&mut self, current: usize, answered: Option<Way>, now: Instant) {
        let (Some(rtt), kind) = (self.pairs[current].rtt, self.pairs[current].kind) else {
            return;
        };
        let margin = BETTER_BY.max(rtt / 5);
        let Some(other) = answered
            .filter(|answered| *answered != self.pairs[current].way)
            .and_then(|answered| self.pair(answered))
        else {
            return;
        };
        // What goes out of the site and back in may be as short, and depends on more.
        let is_nearer = other.kind == Kind::Host && kind != Kind::Host;
        let margin = if is_nearer { Duration::ZERO } else { margin };
        let is_better = other.is_valid(now) && other.rtt.is_some_and(|other| other + margin <= rtt);
        other.better = if is_better { other.better + 1 } else { 0 };
        if other.better >= 2 {
            other.better = 0;
            let way = other.way;
            self.go(Some(way), now);
        }
    }

    /// The valid pair with the shortest way, of those that have answered after `since`.
    fn best(&self, now: Instant, since: Option<Instant>) -> Option<Way> {
        let valid = self.pairs.iter().filter(|pair| {
            pair.is_valid(now)
                && Some(pair.way) != self.selected
                && (since.is_none() || pair.answered_at > since)
        });
        let best = valid.min_by_key(|pair| (pair.rtt, pair.kind))?;
        Some(best.way)
    }

    fn go(&mut self, to: Option<Way>, now: Instant) {
        self.is_doubled = false;
        if to.is_none() {
            self.has_gone_dark = true;
            for pair in &mut self.pairs {
                pair.restart(now);
            }
        }
        self.selected = to;
        match to {
            Some(_) => self.planner.handle_found(),
            None => self.planner.handle_lost(now),
        }
        let in_use = if self.is_in_use(now) {
            Use::Active
        } else {
            Use::Selected
        };
        let moved = match to.and_then(|way| self.pair(way)) {
            Some(pair) => {
                pair.reschedule(in_use, now);
                Moved::Direct {
                    way: pair.way,
                    rtt: pair.rtt.unwrap_or_default(),
                }
            }
            None => Moved::Relayed,
        };
        self.moves.push_back(moved);
    }
}
