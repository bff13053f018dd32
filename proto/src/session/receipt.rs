//! What there is to say about a session without its content.

use std::time::Duration;

use super::{EndReason, Method, Mode};
use crate::org::ended::Why;

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
