//! The machine: candidates, checks and time in; checks, candidates for the other side and the route out.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    candidate::{Candidate, Kind, MAX_CANDIDATES, Policy, Subnet, is_open, is_private},
    check::{self, Keys, Saying},
    pair::{Pair, Use},
    way::Way,
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
/// The relay forgets a session that it carries nothing of for a minute, and NATs forget relays sooner; so often a check goes
/// that way while packets do not.
const KEEP_RELAYED: Duration = Duration::from_secs(25);
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
    /// It is not wanted.
    PolicyRelayOnly,
    /// Neither side's packets get through to the other: NATs or firewalls.
    Unreachable,
    /// There was one, and it went dark.
    WentDark,
    /// Not even the relay is reached by UDP; who drives the machine knows.
    UdpBlocked,
}

impl WhyRelayed {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Probing => "PROBING",
            Self::PolicyRelayOnly => "POLICY_RELAY_ONLY",
            Self::Unreachable => "UNREACHABLE",
            Self::WentDark => "FIREWALL_TIMEOUT",
            Self::UdpBlocked => "UDP_BLOCKED",
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
    /// What the other side knows of that.
    told: Vec<Candidate>,
    own: Vec<Subnet>,
    /// What the other side has named, whether it may be probed or not: that changes with our networks.
    named: Vec<Candidate>,
    /// The addresses from which relays see the other side.
    peer_reflexive_ips: Vec<IpAddr>,
    pairs: Vec<Pair>,
    /// By what it is: pairs come and go.
    selected: Option<Way>,
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
    transmits: VecDeque<Transmit>,
    moves: VecDeque<Moved>,
}

impl Paths {
    /// For an inner connection that stands, at `now`; packets go through the relay.
    pub fn new(keys: Keys, policy: Policy, now: Instant) -> Self {
        Self {
            keys,
            policy,
            began: now,
            local: Vec::new(),
            own: Vec::new(),
            named: Vec::new(),
            told: Vec::new(),
            peer_reflexive_ips: Vec::new(),
            pairs: Vec::new(),
            selected: None,
            is_doubled: false,
            has_gone_dark: false,
            used_at: None,
            paced: now,
            questions: TokenBucket::new(now),
            answers: TokenBucket::new(now),
            has_local: false,
            checks_sent: 0,
            relayed_at: now,
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
    }

    /// Addresses at which the other node may be reached.
    pub fn handle_remote(&mut self, candidates: &[Candidate], now: Instant) {
        for candidate in candidates {
            let ip = candidate.address.ip();
            if candidate.kind == Kind::ServerReflexive && !self.peer_reflexive_ips.contains(&ip) {
                self.peer_reflexive_ips.push(ip);
                self.peer_reflexive_ips.truncate(MAX_PAIRS);
            }
        }
        self.named = candidates.to_vec();
        self.named.truncate(MAX_CANDIDATES);
        let (named, selected) = (&self.named, self.selected);
        self.pairs.retain(|pair| {
            let is_named = named
                .iter()
                .any(|candidate| candidate.address == pair.way.to);
            let works = pair
                .answered_at
                .is_some_and(|at| now.saturating_duration_since(at) < TRUSTED);
            is_named || works || selected == Some(pair.way) || pair.kind == Kind::PeerReflexive
        });
        self.add_named(now);
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
                    || self.policy.relay_only
                    || self.answers.take(CHECKS, 1, now).is_err()
                {
                    return true;
                }
                let seen = from.map_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)), |from| from.to);
                let (_, answer) = self.keys.seal(Saying::Answer { of: number, seen });
                self.transmits.push_back(Transmit::short(from, answer));
                let Some(from) = from else { return true };
                if self.pair(from).is_none() {
                    self.add(from, Kind::PeerReflexive, now);
                }
                if let Some(pair) = self.pair(from) {
                    pair.heard(now);
                }
            }
            Saying::Answer { of, .. } => {
                // From elsewhere it says nothing of a path.
                if let Some(from) = from
                    && let Some(pair) = self.pair(from)
                    && pair.answer(of, now)
                {
                    self.select(Some(from), now);
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
        self.select(None, now);
        if self.selected.is_some() && self.relayed_at <= now {
            self.relayed_at = now + KEEP_RELAYED;
            let (_, question) = self.keys.seal(Saying::Question);
            self.transmits.push_back(Transmit::short(None, question));
        }
        while self.paced <= now {
            let due = (0..self.pairs.len())
                .filter(|&at| self.pairs[at].next <= now)
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
        let question = self.pairs.iter().map(|pair| pair.next.max(self.paced));
        let question = question.min();
        let selected = self
            .selected
            .and_then(|selected| self.pairs.iter().find(|pair| pair.way == selected));
        let overdue = selected
            .and_then(Pair::overdue_at)
            .map(|at| if self.is_doubled { at + LEFT_AFTER } else { at });
        let relayed = self.selected.map(|_| self.relayed_at);
        [question, overdue, relayed].into_iter().flatten().min()
    }

    /// A check to send; call until `None`.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Candidates that the other side is to be told, all of them anew.
    pub fn poll_candidates(&mut self) -> Option<Vec<Candidate>> {
        let open = self.disclosed();
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
        Some(match self.selected {
            Some(_) => return None,
            None if self.policy.relay_only => WhyRelayed::PolicyRelayOnly,
            None if self.has_gone_dark => WhyRelayed::WentDark,
            None if now.saturating_duration_since(self.began) < PROBING => WhyRelayed::Probing,
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

    fn add_named(&mut self, now: Instant) {
        let shares_a_site = self.shares_a_site();
        for candidate in self.named.clone() {
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
