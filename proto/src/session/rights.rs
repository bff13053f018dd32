//! What the session allows the helper at this moment (SESSION.md §1.5): a value, for the parts at the sharer that act on it.

use crate::session::Mode;

/// What of the sharer's screen may leave, and what may be done to it. Nothing, until the session is active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// The mode in force, when the session is active.
    pub mode: Option<Mode>,
    /// The sharer has paused.
    pub paused: bool,
}

impl Rights {
    /// Whether the sharer's screen may leave its computer.
    pub fn may_show(self) -> bool {
        self.mode.is_some() && !self.paused
    }

    /// Why the helper's input may not be used; `None` when it may.
    pub fn input_refusal(self) -> Option<&'static str> {
        match self.mode {
            Some(Mode::Control) if !self.paused => None,
            Some(Mode::Control) => Some("PAUSED"),
            Some(Mode::View) | None => Some("VIEW"),
        }
    }
}
