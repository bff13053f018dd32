//! How a relay leaves without tearing anything.
//!
//! ```text
//! Serving ── begin ──▶ Draining(deadline) ── nothing left, or the deadline ──▶ Done
//! ```
//!
//! Pure: whoever owns it tells it how much remains: sessions, and introductions of which sessions may come.

use std::time::{Duration, Instant};

/// Where a relay is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything is accepted.
    Serving,
    /// No new sessions; live ones are forwarded until the deadline.
    Draining {
        /// When sessions that are still here end.
        deadline: Instant,
    },
    /// Nothing is left to wait for.
    Done,
}

/// The machine.
#[derive(Debug)]
pub struct Drain {
    state: State,
    timeout: Duration,
}

impl Drain {
    /// A relay that serves, and will give its sessions `timeout` to move when it drains.
    pub fn new(timeout: Duration) -> Self {
        Self {
            state: State::Serving,
            timeout,
        }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether new sessions are refused.
    pub fn is_leaving(&self) -> bool {
        self.state != State::Serving
    }

    /// Starts draining with so much left; true the first time only, when nodes are to be told.
    pub fn begin(&mut self, remaining: usize, now: Instant) -> bool {
        if self.is_leaving() {
            return false;
        }
        self.state = State::Draining {
            deadline: now + self.timeout,
        };
        self.handle_remaining(remaining);
        true
    }

    /// Something ended; `remaining` is how much is left now.
    pub fn handle_remaining(&mut self, remaining: usize) {
        if self.is_leaving() && remaining == 0 {
            self.state = State::Done;
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Draining { deadline } => Some(deadline),
            State::Serving | State::Done => None,
        }
    }

    /// Time has passed; true when the deadline cuts off what is left.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let due = self.poll_timeout().is_some_and(|deadline| deadline <= now);
        if due {
            self.state = State::Done;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn with_nothing_left_it_is_done_at_once() {
        let now = Instant::now();
        let mut drain = Drain::new(TIMEOUT);
        drain.handle_remaining(0);
        assert_eq!(drain.state(), State::Serving);
        assert!(!drain.is_leaving());
        assert!(drain.begin(0, now));
        assert_eq!(drain.state(), State::Done);
        assert_eq!(drain.poll_timeout(), None);
    }

    #[test]
    fn it_waits_for_the_last_session() {
        let now = Instant::now();
        let mut drain = Drain::new(TIMEOUT);
        assert!(drain.begin(2, now));
        assert!(!drain.begin(2, now + TIMEOUT), "told once");
        drain.handle_remaining(1);
        assert_eq!(
            drain.state(),
            State::Draining {
                deadline: now + TIMEOUT
            }
        );
        drain.handle_remaining(0);
        assert_eq!(drain.state(), State::Done);
    }

    #[test]
    fn it_does_not_wait_longer_than_its_deadline() {
        let now = Instant::now();
        let mut drain = Drain::new(TIMEOUT);
        assert!(!drain.handle_timeout(now));
        drain.begin(1, now);
        assert_eq!(drain.poll_timeout(), Some(now + TIMEOUT));
        assert!(!drain.handle_timeout(now + TIMEOUT - Duration::from_nanos(1)));
        assert!(drain.handle_timeout(now + TIMEOUT));
        assert_eq!(drain.state(), State::Done);
        assert!(!drain.handle_timeout(now + TIMEOUT));
    }
}
