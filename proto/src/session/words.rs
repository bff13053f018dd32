//! What goes into a session's machine and comes out of it.

use std::{fmt, time::Duration};

use super::Receipt;
use crate::{
    identity::{Profile, Role},
    org::verdict::Verdict,
    sas::Words,
    wire::message::session as schema,
};

/// How much the helper may do. Ordered: more is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Sees the screen.
    View,
    /// Sees it, and uses mouse and keyboard.
    Control,
}

impl Mode {
    pub(super) fn to_schema(self) -> schema::Mode {
        match self {
            Self::View => schema::Mode::View,
            Self::Control => schema::Mode::ControlMode,
        }
    }

    pub(super) fn from_schema(mode: schema::Mode) -> Option<Self> {
        match mode {
            schema::Mode::View => Some(Self::View),
            schema::Mode::ControlMode => Some(Self::Control),
            schema::Mode::Unspecified => None,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::View => "view",
            Self::Control => "control",
        })
    }
}

/// What a person wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Helper: asks for a mode, or for control within the session.
    AskMode(Mode),
    /// Sharer: allows at most what was asked.
    Allow(Mode),
    /// Sharer: no.
    Decline,
    /// Helper: gives control back. Sharer: takes it back.
    DropMode,
    /// Either: the words are the same, or not.
    SasChecked(bool),
    /// Either: says something.
    Chat(String),
    /// Sharer: shows nothing and takes no input, or goes on.
    Pause(bool),
    /// Sharer: the screen cannot be captured (any more).
    CaptureFailed,
    /// A message about the picture, from the program rather than the person.
    Media(schema::control::Body),
    /// Either: ends the session.
    Leave,
}

impl Command {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::AskMode(_) => "asking for a mode",
            Self::Allow(_) => "allowing",
            Self::Decline => "declining",
            Self::DropMode => "dropping control",
            Self::SasChecked(_) => "checking the words",
            Self::Chat(_) => "chat",
            Self::Pause(_) => "pausing",
            Self::CaptureFailed => "giving up the capture",
            Self::Media(_) => "a message about the picture",
            Self::Leave => "leaving",
        }
    }
}

/// What a person should know.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The other side is known; the words are to be compared.
    Trust {
        /// Who it says it is.
        peer: Profile,
        /// What is to be thought of it.
        verdict: Verdict,
        /// The short authentication string.
        words: Words,
    },
    /// The other person compared the words.
    PeerCheckedSas(bool),
    /// Sharer: the helper asks.
    ConsentPrompt {
        /// For what.
        mode: Mode,
        /// Time to answer; silence is a no.
        within: Duration,
        /// Asked within a session.
        upgrade: bool,
    },
    /// Helper: the question is on the sharer's screen.
    AwaitingConsent {
        /// Time to answer.
        within: Duration,
    },
    /// The session is active.
    Started {
        /// What the sharer granted.
        mode: Mode,
    },
    /// Control was granted, given back or taken back.
    ModeChanged {
        /// In force now.
        mode: Mode,
        /// Whose doing.
        by: Role,
    },
    /// Control was asked for and not granted; the session goes on.
    UpgradeDeclined,
    /// The other person says something.
    Chat {
        /// Counts from 1.
        id: u64,
        /// As it was typed: may hold any character.
        text: String,
    },
    /// The sharer paused, or went on.
    Paused(bool),
    /// The other side's program says something about the picture, which it may.
    Media(schema::control::Body),
    /// The last event.
    Ended(Receipt),
}

/// What goes to the other side, and on which stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Transmit {
    /// On the control stream.
    Control(schema::control::Body),
    /// On the chat stream.
    Chat(schema::Chat),
}

/// Something that this role may not do or say in this state (`BAD_STATE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not possible now")]
pub struct BadState {
    /// What it was.
    pub what: &'static str,
}
