//! Where a session is: one main state, and beside it what is told apart while people look (SESSION.md §1.3).

use super::{EndReason, Grants, Mode};

/// A main state, with what only it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Joining,
    Trust,
    Consent {
        asked: Mode,
    },
    Countdown {
        asked: Mode,
    },
    Starting {
        granted: Mode,
    },
    Active(Live),
    Interrupted(Live, Cause),
    /// The sharer wants to leave and has been told what that means; meanwhile all but the helper's input goes on as it was.
    Ending(Live, Before),
    /// The other side ended, its last chat messages are still coming.
    Flushing {
        reason: EndReason,
        chat_sent: u64,
    },
    Ended,
}

/// Where a session is, without what only the machine needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The connection stands; the nonces are not open.
    Joining,
    /// Both cards are shown, nothing is asked.
    Trust,
    /// The sharer is asked.
    Consent,
    /// The sharer may say no; silence is a yes (unattended).
    Countdown,
    /// Allowed, the screen is being opened.
    Starting,
    /// The helper looks.
    Active,
    /// Nothing is heard of the other side; it may come back.
    Interrupted,
    /// The sharer is leaving and has to say whether to be signed out.
    Ending,
    /// Over.
    Ended,
}

/// What a session has while ACTIVE and INTERRUPTED: the mode, and the regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) mode: Mode,
    pub(super) ask: Option<Ask>,
    pub(super) elevation: Elevation,
    pub(super) shield: Shield,
    pub(super) pause: Pause,
    /// A secure prompt of the system covers the sharer's screen.
    pub(super) prompt: Option<SecurePrompt>,
    /// Somebody has to say that the session is to go on.
    pub(super) check: Option<Check>,
    /// The sharer is on its way to another helper.
    pub(super) handing_over: bool,
    /// What else may leave either computer.
    pub(super) grants: Grants,
    /// Sharer: what the helper has asked for of that, and did not get.
    pub(super) wanted: Grants,
}

/// Why a session is INTERRUPTED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Silence on all paths.
    Lost,
    /// The sharer's computer restarts.
    Restarting,
}

/// What ENDING remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Active,
    Interrupted(Cause),
}

/// What the helper has asked for within the session, and waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Control,
    Restart,
    Handover,
}

/// Region: may the helper run programs with an administrator's rights?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Elevation {
    /// No.
    #[default]
    None,
    /// The sharer is asked.
    Asked,
    /// Yes, until it is released or taken back.
    Granted,
}

/// Region: is the screen of an unattended computer hidden from whoever walks by?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shield {
    /// It is not.
    #[default]
    Off,
    /// It is.
    Shielded,
    /// It is, somebody touched the keyboard or mouse, and neither side's input counts for a while.
    Frozen,
}

/// Region: has the sharer stopped showing for a moment?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pause {
    /// No.
    #[default]
    Live,
    /// Yes.
    Paused,
}

/// A prompt of the sharer's system that must not be seen from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecurePrompt {
    /// Whether the system lets the helper's keys through to it.
    pub takes_keys: bool,
}

/// Why somebody is asked whether the session is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Now and then.
    Reconfirm,
    /// It has lasted as long as it may.
    MaxDuration,
    /// Nothing was done for long.
    Idle,
}

impl Live {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            mode,
            ask: None,
            elevation: Elevation::None,
            shield: Shield::Off,
            pause: Pause::Live,
            prompt: None,
            check: None,
            handing_over: false,
            grants: Grants::NONE,
            wanted: Grants::NONE,
        }
    }

    /// The helper wants something more, and the sharer is asked or has just said yes.
    pub(super) fn asks_sharer(&self) -> bool {
        self.ask.is_some() || self.elevation == Elevation::Asked || self.handing_over
    }

    /// What covers the screen; not while the helper may see to it (row 24).
    pub(super) fn covered(&self) -> Option<SecurePrompt> {
        self.prompt.filter(|_| self.elevation != Elevation::Granted)
    }
}

impl State {
    /// The mode and the regions, while there are any.
    pub(super) fn live(&self) -> Option<&Live> {
        match self {
            Self::Active(live) | Self::Interrupted(live, _) | Self::Ending(live, _) => Some(live),
            Self::Joining
            | Self::Trust
            | Self::Consent { .. }
            | Self::Countdown { .. }
            | Self::Starting { .. }
            | Self::Flushing { .. }
            | Self::Ended => None,
        }
    }

    pub(super) fn live_mut(&mut self) -> Option<&mut Live> {
        match self {
            Self::Active(live) | Self::Interrupted(live, _) | Self::Ending(live, _) => Some(live),
            Self::Joining
            | Self::Trust
            | Self::Consent { .. }
            | Self::Countdown { .. }
            | Self::Starting { .. }
            | Self::Flushing { .. }
            | Self::Ended => None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !matches!(self, Self::Flushing { .. } | Self::Ended)
    }

    pub(super) fn is_interrupted(&self) -> bool {
        matches!(
            self,
            Self::Interrupted(..) | Self::Ending(_, Before::Interrupted(_))
        )
    }

    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::Joining => Phase::Joining,
            Self::Trust => Phase::Trust,
            Self::Consent { .. } => Phase::Consent,
            Self::Countdown { .. } => Phase::Countdown,
            Self::Starting { .. } => Phase::Starting,
            Self::Active(_) => Phase::Active,
            Self::Interrupted(..) => Phase::Interrupted,
            Self::Ending(..) => Phase::Ending,
            Self::Flushing { .. } | Self::Ended => Phase::Ended,
        }
    }
}

impl Before {
    /// The state to go on in.
    pub(super) fn state(self, live: Live) -> State {
        match self {
            Self::Active => State::Active(live),
            Self::Interrupted(cause) => State::Interrupted(live, cause),
        }
    }
}
