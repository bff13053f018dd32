//! What there is to say about a session without its content.

use std::time::Duration;

use super::{EndReason, Method, Mode};
use crate::line::Why;

/// What people said about the words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SasState {
    /// This side has not compared them.
    #[default]
    Unverified,
    /// This side's person found them equal.
    Verified,
    /// One of the two found them different.
    Mismatch,
}

/// A session that a restart of the sharer's computer has interrupted, as another connection takes it up ([`Session::resumed`]).
///
/// [`Session::resumed`]: super::Session::resumed
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// In force.
    pub mode: Mode,
    /// The sharer shows nothing, until it says otherwise.
    pub paused: bool,
    /// Of it so far; the reason is none yet.
    pub receipt: Receipt,
}

/// A session's summary; holds no content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Exactly one.
    pub reason: EndReason,
    /// What the administrator said who ended it.
    pub why: Why,
    /// Since the inner connection stood.
    pub duration: Duration,
    /// The most that was granted; `None`: it never started.
    pub mode: Option<Mode>,
    /// How it came to be allowed; `None`: it was not.
    pub consent: Option<Method>,
    /// An administrator's rights were granted in it.
    pub elevated: bool,
    /// Messages, not their text.
    pub chat_sent: u64,
    /// Messages, not their text.
    pub chat_received: u64,
    /// What people said about the words.
    pub sas: SasState,
}
