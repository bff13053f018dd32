//! A candidate pair: when it is asked, and how it answers.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{candidate::Kind, way::Way};

/// When questions go out after the start: packets of both sides cross before either's NAT forgets that it let one out, and one
/// that is lost costs little.
const BURST_MS: [u64; 5] = [0, 20, 60, 140, 300];
/// Then, for so long, so often; and so on. A NAT may have let go by then, or a network have changed without a word.
const PHASES: [(Duration, Duration); 2] = [
    (Duration::from_secs(5), Duration::from_millis(500)),
    (Duration::from_secs(60), Duration::from_secs(5)),
];
/// After those.
const SELDOM: Duration = Duration::from_secs(30);
/// The pair that packets go on, while they do: a path that goes dark is found out by this.
const ACTIVE: Duration = Duration::from_millis(500);
/// The same when none do: the shortest-lived mappings last 30 s.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The same when an answer is overdue.
const DISTRESSED: Duration = Duration::from_millis(100);
/// An answer that is later than three round trips is overdue; not before the first of these, and not after the second, whatever
/// the last answers took: somebody may have held them up.
const PATIENCE: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(1)];
/// A path that was left is not taken again for so long, then for twice as long, and so on, up to the second.
const HELD: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(60)];
/// A question of the other side that comes while we have no answer is followed by one of ours, but not more often than this.
const TRIGGERED: Duration = Duration::from_millis(50);
/// Questions without an answer that are remembered.
const REMEMBERED: usize = 16;

/// How a pair is used, which says how often it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Not at all.
    Spare,
    /// Packets go here now and then.
    Selected,
    /// They do all the time.
    Active,
}

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) way: Way,
    pub(super) kind: Kind,
    /// Of the schedule.
    started: Instant,
    /// Questions since then.
    asked: usize,
    pub(super) next: Instant,
    asked_at: Option<Instant>,
    /// Number and time of those without an answer.
    open: VecDeque<(u64, Instant)>,
    /// Of the latest answer.
    pub(super) rtt: Option<Duration>,
    pub(super) answered_at: Option<Instant>,
    /// It was left, and is not to be used before.
    held_until: Option<Instant>,
    held_for: Duration,
    /// When the other side's check came from there last.
    pub(super) heard_at: Option<Instant>,
    /// A plan has found it.
    pub(super) is_planned: bool,
    /// How often in succession it has been better than the one that is used.
    pub(super) better: u32,
}

impl Pair {
    pub(super) fn new(way: Way, kind: Kind, now: Instant) -> Self {
        Self {
            way,
            kind,
            started: now,
            asked: 0,
            next: now,
            asked_at: None,
            open: VecDeque::new(),
            rtt: None,
            answered_at: None,
            held_until: None,
            held_for: HELD[0],
            heard_at: None,
            is_planned: false,
            better: 0,
        }
    }

    /// From the beginning: something has changed.
    pub(super) fn restart(&mut self, now: Instant) {
        (self.started, self.asked, self.next) = (now, 0, now);
    }

    /// It counts as working once it has answered anew.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.answered_at = None;
        self.restart(now);
    }

    /// Question `number` goes out.
    pub(super) fn ask(&mut self, number: u64, used: Use, now: Instant) {
        // The oldest stays: by it one knows for how long there was no answer.
        if self.open.len() >= REMEMBERED {
            self.open.remove(REMEMBERED - 2);
        }
        self.open.push_front((number, now));
        self.asked_at = Some(now);
        self.asked += 1;
        self.next = self.due_after(used, now, now);
    }

    /// It went dark, and is left.
    pub(super) fn hold(&mut self, now: Instant) {
        self.held_until = Some(now + self.held_for);
        self.held_for = (self.held_for * 2).min(HELD[1]);
    }

    /// It is asked at once, whatever its schedule says.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next = self.next.min(now);
    }

    /// It is used otherwise, or packets go on it again: the next question may be due earlier.
    pub(super) fn reschedule(&mut self, used: Use, now: Instant) {
        let since = self.asked_at.unwrap_or(now);
        self.next = self.next.min(self.due_after(used, since, now)).max(now);
    }

    fn due_after(&self, used: Use, asked: Instant, now: Instant) -> Instant {
        let interval = match used {
            Use::Spare => return self.scheduled(asked),
            _ if self.overdue_since(now).is_some() => DISTRESSED,
            Use::Active => ACTIVE,
            Use::Selected => HEARTBEAT,
        };
        asked + interval
    }

    fn scheduled(&self, asked: Instant) -> Instant {
        if let Some(&ms) = BURST_MS.get(self.asked) {
            return self.started + Duration::from_millis(ms);
        }
        let age = asked.saturating_duration_since(self.started);
        let interval = PHASES
            .iter()
            .find_map(|&(until, interval)| (age < until).then_some(interval));
        asked + interval.unwrap_or(SELDOM)
    }

    /// The answer to question `number`; whether there was one.
    pub(super) fn answer(&mut self, number: u64, now: Instant) -> bool {
        let Some(at) = self.open.iter().position(|&(open, _)| open == number) else {
            return false;
        };
        let (_, asked) = self.open[at];
        // Whatever was asked before is answered, too, or lost.
        self.open.truncate(at);
        self.rtt = Some(now.saturating_duration_since(asked));
        self.answered_at = Some(now);
        true
    }

    /// The other side asked from here: it can be reached now, if it could not before.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard_at = Some(now);
        let is_fresh = self
            .asked_at
            .is_some_and(|asked| now.saturating_duration_since(asked) < TRIGGERED);
        if self.answered_at.is_none() && !is_fresh {
            self.next = now;
        }
    }

    /// When something came from there last; or since when it is tried.
    pub(super) fn sign_at(&self) -> Instant {
        let sign = self.heard_at.max(self.answered_at);
        sign.map_or(self.started, |sign| sign.max(self.started))
    }

    /// Whether packets that go there arrive, as far as is known: an answer has come, and none has failed to come since.
    pub(super) fn is_valid(&self, now: Instant) -> bool {
        let is_held = self.held_until.is_some_and(|until| now < until);
        self.answered_at.is_some() && self.overdue_since(now).is_none() && !is_held
    }

    /// Since when an answer should have been there, if one should.
    pub(super) fn overdue_since(&self, now: Instant) -> Option<Instant> {
        self.overdue_at().filter(|due| *due <= now)
    }

    /// When [`Self::overdue_since`] may say something else.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        let [least, most] = PATIENCE;
        let patience = self.rtt.map_or(least, |rtt| (rtt * 3).clamp(least, most));
        self.open.back().map(|(_, oldest)| *oldest + patience)
    }
}
