//! Every timer of a session in one place (SESSION.md §1.2), and which of them run.
//!
//! Not here: a code's lifetime is its host's (`rendezvous::LIFETIME`), a relay's drain the relay's, and how long the last words
//! may take (`T_endnote`) depends on the connection, so that the node keeps it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::Check;

/// From the inner connection to the trust card.
pub const T_JOIN: Duration = Duration::from_secs(30);
/// For the helper to ask for a mode.
pub const T_MODE: Duration = Duration::from_secs(300);
/// For the sharer to answer, from when the question is on the screen (guide, C-6).
pub const T_CONSENT: Duration = Duration::from_secs(300);
/// For somebody at an unattended computer to say no (guide, U-1).
pub const T_UNATTENDED: Duration = Duration::from_secs(30);
/// For how long nobody's input counts after somebody touched a shielded computer (guide, U-5).
pub const T_FREEZE: Duration = Duration::from_secs(30);
/// For the sharer to answer a request for control within the session.
pub const T_UPGRADE: Duration = Duration::from_secs(60);
/// For the sharer to answer a request for elevation, for a restart, or to be handed over.
pub const T_ELEV: Duration = Duration::from_secs(60);
/// From the sharer's yes until its screen is up.
pub const T_START: Duration = Duration::from_secs(10);
/// Silence after which the other side counts as lost.
pub const T_LOST: Duration = Duration::from_secs(10);
/// For a lost side to come back.
pub const T_RESUME: Duration = Duration::from_secs(120);
/// For a computer that restarts to come back.
pub const T_RESTART: Duration = Duration::from_secs(600);
/// For somebody to say that a session is to go on, or whether leaving is meant.
pub const T_ANSWER: Duration = Duration::from_secs(60);
/// For how long the helper's hands have to rest before what the sharer says outside of the bar is taken for the sharer's own: what the
/// helper pressed last has reached its window by then, unless that window hangs.
pub const T_REST: Duration = Duration::from_secs(2);
/// How long chat that was sent before the end may still be under way.
const T_FLUSH: Duration = Duration::from_secs(1);
/// How much longer than the sharer's own clock the helper waits for the sharer.
const GRACE: Duration = Duration::from_secs(10);

/// How long everything takes. The default is SESSION.md's; a policy or a test may say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durations {
    /// [`T_JOIN`]
    pub join: Duration,
    /// [`T_MODE`]
    pub mode: Duration,
    /// [`T_CONSENT`]
    pub consent: Duration,
    /// [`T_UNATTENDED`]
    pub unattended: Duration,
    /// [`T_FREEZE`]
    pub freeze: Duration,
    /// [`T_UPGRADE`]
    pub upgrade: Duration,
    /// [`T_ELEV`]
    pub elevation: Duration,
    /// [`T_START`]
    pub start: Duration,
    /// [`T_LOST`]
    pub lost: Duration,
    /// [`T_RESUME`]
    pub resume: Duration,
    /// [`T_RESTART`]
    pub restart: Duration,
    /// [`T_ANSWER`]
    pub answer: Duration,
    /// How often the sharer has to say that the session is to go on; `None`: never.
    pub reconfirm: Option<Duration>,
    /// After which the sharer has to; `None`: never.
    pub max: Option<Duration>,
    /// Without anything done, after which one of the two has to; `None`: never.
    pub idle: Option<Duration>,
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            join: T_JOIN,
            mode: T_MODE,
            consent: T_CONSENT,
            unattended: T_UNATTENDED,
            freeze: T_FREEZE,
            upgrade: T_UPGRADE,
            elevation: T_ELEV,
            start: T_START,
            lost: T_LOST,
            resume: T_RESUME,
            restart: T_RESTART,
            answer: T_ANSWER,
            reconfirm: None,
            max: None,
            idle: None,
        }
    }
}

/// A timer, in the order in which two that are due at once are heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Join,
    Mode,
    Consent,
    Unattended,
    Start,
    Lost,
    Resume,
    Restart,
    Freeze,
    Upgrade,
    Elevation,
    RestartAnswer,
    HandoverAnswer,
    Leave,
    Answer,
    Reconfirm,
    Max,
    Idle,
    Flush,
}

impl Timer {
    /// The ones that ask whether the session is to go on.
    pub(super) const CHECKS: [Self; 3] = [Self::Reconfirm, Self::Max, Self::Idle];

    pub(super) fn of_check(check: Check) -> Self {
        match check {
            Check::Reconfirm => Self::Reconfirm,
            Check::MaxDuration => Self::Max,
            Check::Idle => Self::Idle,
        }
    }

    /// Whether the sharer's clock decides, and the helper's only guards against a sharer that never answers.
    fn waits_for_sharer(self) -> bool {
        match self {
            Self::Consent
            | Self::Unattended
            | Self::Start
            | Self::Upgrade
            | Self::Elevation
            | Self::RestartAnswer
            | Self::HandoverAnswer => true,
            Self::Join
            | Self::Mode
            | Self::Lost
            | Self::Resume
            | Self::Restart
            | Self::Freeze
            | Self::Leave
            | Self::Answer
            | Self::Reconfirm
            | Self::Max
            | Self::Idle
            | Self::Flush => false,
        }
    }
}

impl Durations {
    /// How long a timer runs at the sharer; `None`: it does not.
    pub(super) fn of(&self, timer: Timer) -> Option<Duration> {
        match timer {
            Timer::Join => Some(self.join),
            Timer::Mode => Some(self.mode),
            Timer::Consent => Some(self.consent),
            Timer::Unattended => Some(self.unattended),
            Timer::Start => Some(self.start),
            Timer::Lost => Some(self.lost),
            Timer::Resume => Some(self.resume),
            Timer::Restart => Some(self.restart),
            Timer::Freeze => Some(self.freeze),
            Timer::Upgrade => Some(self.upgrade),
            Timer::Elevation | Timer::RestartAnswer | Timer::HandoverAnswer => Some(self.elevation),
            Timer::Answer | Timer::Leave => Some(self.answer),
            Timer::Reconfirm => self.reconfirm,
            Timer::Max => self.max,
            Timer::Idle => self.idle,
            Timer::Flush => Some(T_FLUSH),
        }
    }
}

/// The timers that run.
#[derive(Debug)]
pub(super) struct Running {
    durations: Durations,
    /// At the helper.
    lenient: bool,
    due: BTreeMap<Timer, Instant>,
}

impl Running {
    pub(super) fn new(durations: Durations, lenient: bool) -> Self {
        Self {
            durations,
            lenient,
            due: BTreeMap::new(),
        }
    }

    /// Starts a timer, or starts it again.
    pub(super) fn start(&mut self, timer: Timer, now: Instant) {
        if let Some(time) = self.durations.of(timer) {
            let patience = match (self.lenient, timer) {
                // The sharer's organisation may have set another time than the helper's, and at most that.
                (true, Timer::Consent | Timer::Unattended) => time.max(T_CONSENT) + GRACE,
                (true, timer) if timer.waits_for_sharer() => time + GRACE,
                (true | false, _) => time,
            };
            self.due.insert(timer, now + patience);
        }
    }

    /// Of timers that start from now on.
    pub(super) fn set_durations(&mut self, durations: Durations) {
        self.durations = durations;
    }

    /// Lets one that is set, and does not run, be due at once.
    pub(super) fn overdue(&mut self, timer: Timer, now: Instant) {
        if self.durations.of(timer).is_some() {
            self.due.entry(timer).or_insert(now);
        }
    }

    /// Of a timer that runs, so much has passed already.
    pub(super) fn advance(&mut self, timer: Timer, passed: Duration, now: Instant) {
        if let Some(at) = self.due.get_mut(&timer) {
            *at = at.checked_sub(passed).map_or(now, |at| at.max(now));
        }
    }

    pub(super) fn stop(&mut self, timers: &[Timer]) {
        for timer in timers {
            self.due.remove(timer);
        }
    }

    pub(super) fn stop_all(&mut self) {
        self.due.clear();
    }

    /// What the sharer's clock says of a timer.
    pub(super) fn length(&self, timer: Timer) -> Duration {
        self.durations.of(timer).unwrap_or_default()
    }

    pub(super) fn at(&self, timer: Timer) -> Option<Instant> {
        self.due.get(&timer).copied()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// Takes the one that is due, the earliest first.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let (&timer, _) = self
            .due
            .iter()
            .filter(|&(_, &at)| at <= now)
            .min_by_key(|&(_, &at)| at)?;
        self.due.remove(&timer);
        Some(timer)
    }
}
