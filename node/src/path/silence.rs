//! Whether what a session sends is answered, pure.
//!
//! A NAT that forgets a mapping gives the next packet another address. The relay drops frames that come from there, for
//! anybody could send them, until the node has proven on its control connection that it is there; and the node hears nothing
//! of that. It can only notice the silence, and say where it is.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Longer than most acknowledgements take: the peer's 25 ms and a round trip.
const SUSPICIOUS: Duration = Duration::from_millis(100);
/// Sent so long after the first that nothing was heard after: not another acknowledgement, which nobody would answer.
const REPEATED: Duration = Duration::from_millis(50);
/// How often the node says where it is, while nothing is heard: on a slower path, or when the peer is gone, for nothing.
const AGAIN: Duration = Duration::from_secs(1);

/// What was sent last, and whether something has been heard since. Shared by who sends and who receives.
#[derive(Debug)]
pub struct Silence {
    began: Instant,
    /// Nanoseconds after `began`, when something was sent for the first time after the last that was heard; 0 when nothing was.
    unanswered: AtomicU64,
    /// When something was sent for the first time that has to be answered, in the same way.
    repeated: AtomicU64,
    /// When something was sent last, in the same way.
    sent: AtomicU64,
    /// When [`Silence::is_due`] said so last, in the same way.
    said: AtomicU64,
    /// The computer's addresses have changed.
    is_suspicious: AtomicBool,
}

impl Silence {
    /// Nothing has been sent.
    pub fn new(now: Instant) -> Self {
        Self {
            began: now,
            unanswered: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            said: AtomicU64::new(0),
            is_suspicious: AtomicBool::new(false),
        }
    }

    /// Something was sent.
    pub fn sent(&self, now: Instant) {
        let now = self.at(now);
        self.sent.store(now, Ordering::Relaxed);
        let unanswered = self.unanswered.load(Ordering::Relaxed);
        if unanswered == 0 {
            self.repeated.store(0, Ordering::Relaxed);
            self.unanswered.store(now, Ordering::Relaxed);
        } else if self.repeated.load(Ordering::Relaxed) == 0
            && Duration::from_nanos(now.saturating_sub(unanswered)) >= REPEATED
        {
            self.repeated.store(now, Ordering::Relaxed);
        }
    }

    /// Something was heard.
    pub fn heard(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
        self.repeated.store(0, Ordering::Relaxed);
    }

    /// The computer's addresses have changed: nobody has to wait for the silence that follows.
    pub fn suspect(&self) {
        self.is_suspicious.store(true, Ordering::Relaxed);
    }

    /// Whether nothing has been heard for so long, although something was sent that has to be answered: after the first, which
    /// may have been an acknowledgement. Whatever else is not answered, QUIC sends again.
    pub fn has_lasted(&self, duration: Duration, now: Instant) -> bool {
        self.unanswered_for(now)
            .is_some_and(|since| since >= duration)
    }

    /// For how long nothing has been heard, as [`Silence::has_lasted`] has it.
    pub fn length(&self, now: Instant) -> Duration {
        self.unanswered_for(now).unwrap_or_default()
    }

    fn unanswered_for(&self, now: Instant) -> Option<Duration> {
        let [unanswered, repeated] =
            [&self.unanswered, &self.repeated].map(|at| at.load(Ordering::Relaxed));
        (unanswered != 0 && repeated > unanswered).then(|| self.since(repeated, now))
    }

    /// When something was sent last.
    pub fn last_sent(&self) -> Option<Instant> {
        let sent = self.sent.load(Ordering::Relaxed);
        (sent != 0).then(|| self.began + Duration::from_nanos(sent))
    }

    /// Whether the node should say where it is; once in a while.
    pub fn is_due(&self, now: Instant) -> bool {
        let said = self.said.load(Ordering::Relaxed);
        let is_silent =
            self.has_lasted(SUSPICIOUS, now) && (said == 0 || self.since(said, now) >= AGAIN);
        let is_due = self.is_suspicious.swap(false, Ordering::Relaxed) || is_silent;
        if is_due {
            self.said.store(self.at(now), Ordering::Relaxed);
        }
        is_due
    }

    fn since(&self, at: u64, now: Instant) -> Duration {
        Duration::from_nanos(self.at(now).saturating_sub(at))
    }

    fn at(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_after_something_was_sent_is_suspicious() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let silence = Silence::new(start);
        assert!(!silence.is_due(at(60_000)), "nothing was sent");
        silence.sent(at(60_000));
        silence.sent(at(60_040));
        silence.sent(at(60_150));
        assert!(!silence.is_due(at(60_249)));
        assert!(
            silence.is_due(at(60_250)),
            "counted from the one that is answered"
        );
        assert!(!silence.is_due(at(60_350)), "said already");
        assert!(silence.is_due(at(61_250)));
        let long = Duration::from_secs(2);
        assert!(!silence.has_lasted(long, at(62_149)) && silence.has_lasted(long, at(62_150)));
        silence.heard();
        assert!(!silence.is_due(at(65_000)) && !silence.has_lasted(long, at(65_000)));
        silence.sent(at(65_000));
        assert!(!silence.is_due(at(66_000)), "an acknowledgement, maybe");
        silence.sent(at(68_000));
        assert!(
            !silence.has_lasted(Duration::from_millis(1), at(68_000)),
            "it has only just been sent"
        );
        assert!(silence.is_due(at(68_100)));
        silence.suspect();
        assert!(silence.is_due(at(68_101)) && !silence.is_due(at(68_102)));
    }
}
