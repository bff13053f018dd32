//! By somebody's wish packets go through the relay, while the relay carries them: one that is gone would take the session with it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Between two questions through the relay: half of it before the first answer.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// At least, whoever changes their mind how often.
const APART: Duration = Duration::from_millis(100);
/// Questions without an answer for so long, and packets go by the best path again.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(2);
/// Questions whose answer would count.
const REMEMBERED: usize = 16;

/// Whether it is wanted, and goes.
#[derive(Debug, Default)]
pub(super) struct Detour {
    wanted: Option<Wanted>,
    asked_at: Option<Instant>,
}

#[derive(Debug)]
struct Wanted {
    carries: bool,
    next: Instant,
    asked: VecDeque<u64>,
    /// Since when there was no answer.
    unanswered: Option<Instant>,
}

impl Detour {
    /// Somebody wants it, or nobody does any more; `carries` as long as nothing else is known of the relay.
    pub(super) fn want(&mut self, is_wanted: bool, carries: bool, now: Instant) {
        if is_wanted != self.wanted.is_some() {
            let may_ask_at = self.asked_at.map_or(now, |at| at + APART);
            self.wanted = is_wanted.then(|| Wanted {
                carries,
                next: now.max(may_ask_at),
                asked: VecDeque::new(),
                unanswered: None,
            });
        }
    }

    /// Whether packets go this way.
    pub(super) fn is_taken(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.carries)
    }

    /// Time has passed; true when a question is due, of which [`Self::asked`] is to be told.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let Some(wanted) = &mut self.wanted else {
            return false;
        };
        if wanted.given_up_at().is_some_and(|at| at <= now) {
            wanted.carries = false;
        }
        wanted.next <= now
    }

    /// The question of that number was sent through the relay.
    pub(super) fn asked(&mut self, number: u64, now: Instant) {
        self.asked_at = Some(now);
        if let Some(wanted) = &mut self.wanted {
            wanted.next = now
                + if wanted.carries {
                    ASK_EVERY
                } else {
                    ASK_EVERY / 2
                };
            wanted.unanswered.get_or_insert(now);
            wanted.asked.push_back(number);
            if wanted.asked.len() > REMEMBERED {
                wanted.asked.pop_front();
            }
        }
    }

    /// An answer came through the relay.
    pub(super) fn answered(&mut self, number: u64) {
        if let Some(wanted) = &mut self.wanted
            && wanted.asked.contains(&number)
        {
            wanted.asked.clear();
            wanted.unanswered = None;
            wanted.carries = true;
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let wanted = self.wanted.as_ref()?;
        Some(
            wanted
                .given_up_at()
                .map_or(wanted.next, |at| at.min(wanted.next)),
        )
    }
}

impl Wanted {
    fn given_up_at(&self) -> Option<Instant> {
        let since = self.unanswered.filter(|_| self.carries)?;
        Some(since + GIVEN_UP_AFTER)
    }
}
