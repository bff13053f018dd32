//! At which relay two nodes meet, while their packets go through one: there where the way from one to the other is clearly shorter. Pure.
//!
//! ```text
//!  every node measures the relays that both know ─▶ tells the other what has changed ─▶ the host adds up, and decides
//!                                                                                          │ twice the same
//!                         `carriers`: connect and present first, then go, then leave ◀─────┘
//! ```
//!
//! A session goes through the relay where the code waited, or through one of each side with a bridge between them. Either may be a way
//! round: the nearest to each is not the nearest to both. What is compared is what was measured: the round trip of both to a relay, and
//! that of the session as it goes now.
//!
//! A queue on the way makes what is measured longer, never shorter. So the least of a few counts, and of the way of now the lesser of what
//! it takes and of what its two halves take: to stay is never wrong for long.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::carriers::Usable;
use crate::id::{RelayId, Side};

/// Until relays are measured again, while nothing new is found: three small datagrams to each, from each side of each relayed session.
const EVERY: Duration = Duration::from_secs(30);
/// And while something is: a second look at what might be an accident.
const SOON: Duration = Duration::from_secs(2);
/// Rounds of which the least counts.
const REMEMBERED: usize = 3;
/// A way has to be shorter by a fifth of the way of now, …
const SHORTER: u32 = 5;
/// … and by so much: less is felt by nobody.
const SHORTER_BY: Duration = Duration::from_millis(5);
/// A round trip has changed when it differs by an eighth, …
const CHANGED: u32 = 8;
/// … and by so much.
const CHANGED_BY: Duration = Duration::from_millis(1);
/// Between two moves, whatever is measured.
const SETTLED: Duration = Duration::from_secs(60);
/// A relay where nothing has come of it by then is none to meet at: it stops, is full, or one of the two does not reach it.
const TRIED: Duration = Duration::from_secs(10);
/// And not for so long.
const AVOIDED: Duration = Duration::from_secs(300);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ask the relays how far away they are, and say so to [`Meeting::handle_measured`].
    Measure,
    /// Tell the other side how far away they are from here.
    Tell(Vec<Usable>),
    /// Meet there.
    Meet(RelayId),
}

/// The machine.
#[derive(Debug)]
pub struct Meeting {
    /// The host decides.
    decides: bool,
    /// Where this side's packets go.
    current: RelayId,
    /// To another relay, and from there to the other side.
    is_bridged: bool,
    /// Those that both know.
    common: Vec<RelayId>,
    ours: BTreeMap<RelayId, Rounds>,
    told: BTreeMap<RelayId, Duration>,
    theirs: BTreeMap<RelayId, Duration>,
    /// What the session's way takes.
    path: Rounds,
    /// It was clearly better in the last round.
    favoured: Option<RelayId>,
    /// On the way there, until then.
    tried: Option<(RelayId, Instant)>,
    avoided: BTreeMap<RelayId, Instant>,
    not_before: Instant,
    /// `None`: packets do not go through a relay, or not by UDP.
    next: Option<Instant>,
    commands: VecDeque<Command>,
}

/// The last rounds; the latest at the end.
#[derive(Debug, Default)]
struct Rounds(VecDeque<Option<Duration>>);

impl Rounds {
    fn push(&mut self, rtt: Option<Duration>) {
        self.0.push_back(rtt);
        if self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
    }

    /// `None` when the last question had no answer.
    fn least(&self) -> Option<Duration> {
        self.0.back()?.as_ref()?;
        self.0.iter().flatten().min().copied()
    }

    fn is_full(&self) -> bool {
        self.0.len() == REMEMBERED
    }
}

impl Meeting {
    /// Of a session that `relay` carries. Nothing is measured before the two know which relays they share.
    pub fn new(side: Side, relay: RelayId, now: Instant) -> Self {
        Self {
            decides: side == Side::Host,
            current: relay,
            is_bridged: false,
            common: Vec::new(),
            ours: BTreeMap::new(),
            told: BTreeMap::new(),
            theirs: BTreeMap::new(),
            path: Rounds::default(),
            favoured: None,
            tried: None,
            avoided: BTreeMap::new(),
            not_before: now,
            next: None,
            commands: VecDeque::new(),
        }
    }

    // --- in ---

    /// These relays both can use; what the other side has said of them, and whether it is at another one than this.
    pub fn handle_agreed(&mut self, common: Vec<RelayId>, theirs: &[Usable], is_bridged: bool) {
        (self.common, self.is_bridged) = (common, is_bridged);
        self.handle_told(theirs);
    }

    /// So far away are relays from the other side; those that are not among them it does not reach.
    pub fn handle_told(&mut self, theirs: &[Usable]) {
        let known = theirs.iter().filter_map(|their| {
            let rtt = their.rtt.filter(|_| self.common.contains(&their.relay))?;
            Some((their.relay, rtt))
        });
        self.theirs = known.collect();
    }

    /// Whether packets go through a relay, by UDP: else there is nothing to be gained.
    pub fn handle_relayed(&mut self, is_relayed: bool, now: Instant) {
        if !is_relayed {
            self.next = None;
            self.favoured = None;
        } else if self.next.is_none() && self.has_choice() {
            self.next = Some(now + SOON);
        }
    }

    /// The session's way through the relay takes so long, there and back.
    pub fn handle_path(&mut self, rtt: Duration) {
        self.path.push(Some(rtt));
    }

    /// What has become of [`Command::Measure`]: `None` for those that have not answered.
    pub fn handle_measured(&mut self, measured: &[Usable], now: Instant) {
        let mut is_new = self.decides && !self.is_path_known();
        for usable in measured {
            if self.common.contains(&usable.relay) {
                let rounds = self.ours.entry(usable.relay).or_default();
                let before = rounds.least();
                rounds.push(usable.rtt);
                is_new |= !rounds.is_full() || has_changed(before, usable.rtt);
            }
        }
        self.tell();
        let is_undecided = self.decides && self.decide(now);
        if self.next.is_some() {
            let soon = is_new || is_undecided;
            self.next = Some(now + if soon { SOON } else { EVERY });
        }
    }

    /// Another relay carries the session, whatever the reason.
    pub fn handle_moved(&mut self, relay: RelayId, now: Instant) {
        (self.current, self.is_bridged) = (relay, false);
        self.path = Rounds::default();
        (self.favoured, self.tried) = (None, None);
        self.not_before = now + SETTLED;
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some((relay, _)) = self.tried.take_if(|(_, until)| *until <= now) {
            self.avoided.insert(relay, now + AVOIDED);
        }
        self.avoided.retain(|_, until| *until > now);
        if self.next.take_if(|next| *next <= now).is_some() {
            self.next = Some(now + EVERY);
            self.commands.push_back(Command::Measure);
        }
    }

    // --- out ---

    /// What is to be done; call until `None`.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let tried = self.tried.map(|(_, until)| until);
        tried.into_iter().chain(self.next).min()
    }

    // --- within ---

    fn has_choice(&self) -> bool {
        self.common.iter().any(|relay| self.is_elsewhere(*relay))
    }

    /// Of two relays that bridge a session, either alone is another way.
    fn is_elsewhere(&self, relay: RelayId) -> bool {
        relay != self.current || self.is_bridged
    }

    /// Of this side, as far as they are known.
    fn known(&self) -> BTreeMap<RelayId, Duration> {
        let known = self.ours.iter();
        known
            .filter_map(|(relay, rounds)| Some((*relay, rounds.least()?)))
            .collect()
    }

    fn tell(&mut self) {
        let known = self.known();
        let differs = |relay| has_changed(self.told.get(relay).copied(), known.get(relay).copied());
        if self.common.iter().any(differs) {
            let usable = known.iter().map(|(&relay, &rtt)| Usable {
                relay,
                rtt: Some(rtt),
            });
            self.commands.push_back(Command::Tell(usable.collect()));
            self.told = known;
        }
    }

    /// The first measurement may have been held up.
    fn is_path_known(&self) -> bool {
        self.path.0.len() > 1
    }

    /// From one side to the other by that relay, there and back.
    fn way(&self, relay: RelayId) -> Option<Duration> {
        Some(self.ours.get(&relay)?.least()? + *self.theirs.get(&relay)?)
    }

    /// What it takes now.
    fn way_of_now(&self) -> Option<Duration> {
        let path = self.path.least().filter(|_| self.is_path_known())?;
        let halves = self.way(self.current).filter(|_| !self.is_bridged);
        Some(halves.map_or(path, |halves| halves.min(path)))
    }

    /// Whether there is one that has to be looked at again.
    fn decide(&mut self, now: Instant) -> bool {
        let better = self.better();
        let is_calm = self.tried.is_none() && self.not_before <= now;
        let before = std::mem::replace(&mut self.favoured, better.filter(|_| is_calm));
        match self.favoured {
            Some(relay) if before == Some(relay) => {
                self.favoured = None;
                self.tried = Some((relay, now + TRIED));
                self.not_before = now + SETTLED;
                self.commands.push_back(Command::Meet(relay));
                false
            }
            favoured => favoured.is_some(),
        }
    }

    /// The one with the shortest way, if that is clearly shorter than the one of now.
    fn better(&self) -> Option<RelayId> {
        let now = self.way_of_now()?;
        let may_be =
            |relay: &&RelayId| self.is_elsewhere(**relay) && !self.avoided.contains_key(*relay);
        let others = self.common.iter().filter(may_be);
        let ways = others.filter_map(|&relay| Some((self.way(relay)?, relay)));
        let (way, relay) = ways.min()?;
        let is_clear = now.saturating_sub(way) >= SHORTER_BY.max(now / SHORTER);
        is_clear.then_some(relay)
    }
}

fn has_changed(before: Option<Duration>, after: Option<Duration>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => before.abs_diff(after) > CHANGED_BY.max(before / CHANGED),
        (before, after) => before != after,
    }
}

#[cfg(test)]
mod tests;
