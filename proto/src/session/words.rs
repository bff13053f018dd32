//! What goes into a session's machine and comes out of it.

use std::{fmt, time::Duration};

use super::{Cause, Check, Grants, Receipt, SecurePrompt, Shield};
use crate::{
    code::Code,
    identity::{Profile, Role},
    org::{ended::SessionName, verdict::Verdict},
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
    pub(crate) fn to_schema(self) -> schema::Mode {
        match self {
            Self::View => schema::Mode::View,
            Self::Control => schema::Mode::ControlMode,
        }
    }

    pub(crate) fn from_schema(mode: schema::Mode) -> Option<Self> {
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

/// Who or what allowed a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A person at the sharer's computer.
    User,
    /// Nobody there said no in time (unattended).
    Timeout,
    /// Nobody was signed in (unattended).
    NoUser,
}

impl Method {
    /// For scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Timeout => "timeout",
            Self::NoUser => "no_user",
        }
    }

    pub(crate) fn to_schema(self) -> schema::ConsentMethod {
        match self {
            Self::User => schema::ConsentMethod::User,
            Self::Timeout => schema::ConsentMethod::Timeout,
            Self::NoUser => schema::ConsentMethod::NoUser,
        }
    }

    pub(crate) fn from_schema(method: schema::ConsentMethod) -> Self {
        match method {
            schema::ConsentMethod::Unspecified | schema::ConsentMethod::User => Self::User,
            schema::ConsentMethod::Timeout => Self::Timeout,
            schema::ConsentMethod::NoUser => Self::NoUser,
        }
    }
}

/// What a person wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Helper: asks for a mode, or for control within the session.
    AskMode(Mode),
    /// Sharer: allows at most what was asked.
    Allow(Mode),
    /// Sharer: no, to whatever is asked.
    Decline,
    /// Helper: gives control back, or does not want it any more. Sharer: takes it back.
    DropMode,
    /// Either: the words are the same, or not.
    SasChecked(bool),
    /// Either: says something.
    Chat(String),
    /// Sharer: shows nothing and takes no input, or goes on.
    Pause(bool),
    /// Helper: asks to run programs with an administrator's rights.
    AskElevation,
    /// Sharer: allows that.
    AllowElevation,
    /// Helper: needs that no more. Sharer: takes it back.
    ReleaseElevation,
    /// Helper: asks to restart the sharer's computer and to go on afterwards.
    AskRestart,
    /// Sharer: allows that.
    AllowRestart,
    /// Sharer, from the program: it was to restart, and does not.
    RestartFailed,
    /// Helper: asks the sharer to go on with another helper, who shows this code.
    AskHandover(Code),
    /// Sharer: allows that.
    AllowHandover,
    /// Sharer, from the program: nothing has come of it.
    HandoverFailed,
    /// Sharer, from the program: the session with the other helper has started.
    HandedOver,
    /// Whoever is asked: the session is to go on.
    GoOn,
    /// Sharer, from the program: the screen is open, or there is none to show.
    CaptureUp,
    /// Sharer, from the program: the screen cannot be captured (any more).
    CaptureFailed,
    /// A message about the picture, from the program rather than the person.
    Media(schema::control::Body),
    /// Sharer: grants that, or takes it back. Helper: asks for it, or needs it no more.
    Grant {
        /// What.
        grants: Grants,
        /// Or off.
        on: bool,
    },
    /// Helper: presses the computer's power key, which no keyboard has (guide, D-9).
    PowerKey {
        /// Holds it down for a while.
        long: bool,
    },
    /// A message about what is exchanged, from the program rather than the person.
    Exchange(schema::control::Body),
    /// A message between the helper and the sharer's broker, which passes only while the helper has an administrator's rights:
    /// helper, an order; sharer's program, the broker's key and what it reports.
    Elevated(schema::control::Body),
    /// Either: ends the session. The sharer may be asked what that means first ([`Event::LeaveWarning`]).
    Leave,
    /// Sharer: yes, leave and be signed out (unattended: take the computer back).
    ConfirmLeave,
    /// Sharer: no, stay.
    Stay,
}

impl Command {
    /// What gives the helper more, or answers a question that is the sharer's alone. Of the helper's own it changes nothing: no hands are
    /// at work on the helper's computer.
    pub(super) fn is_sharers_alone(&self) -> bool {
        match self {
            Self::Allow(_)
            | Self::SasChecked(true)
            | Self::Pause(false)
            | Self::AllowElevation
            | Self::AllowRestart
            | Self::AllowHandover
            | Self::GoOn
            | Self::Grant { on: true, .. }
            | Self::ConfirmLeave
            | Self::Stay => true,
            Self::AskMode(_)
            | Self::Decline
            | Self::DropMode
            | Self::SasChecked(false)
            | Self::Chat(_)
            | Self::Pause(true)
            | Self::AskElevation
            | Self::ReleaseElevation
            | Self::AskRestart
            | Self::RestartFailed
            | Self::AskHandover(_)
            | Self::HandoverFailed
            | Self::HandedOver
            | Self::CaptureUp
            | Self::CaptureFailed
            | Self::Media(_)
            | Self::Grant { on: false, .. }
            | Self::PowerKey { .. }
            | Self::Exchange(_)
            | Self::Elevated(_)
            | Self::Leave => false,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::AskMode(_) => "asking for a mode",
            Self::Allow(_) => "allowing",
            Self::Decline => "declining",
            Self::DropMode => "dropping control",
            Self::SasChecked(_) => "checking the words",
            Self::Chat(_) => "chat",
            Self::Pause(true) => "pausing",
            Self::Pause(false) => "resuming",
            Self::AskElevation => "asking for elevation",
            Self::AllowElevation => "allowing elevation",
            Self::ReleaseElevation => "ending elevation",
            Self::AskRestart => "asking for a restart",
            Self::AllowRestart => "allowing a restart",
            Self::RestartFailed => "giving up the restart",
            Self::AskHandover(_) => "handing over",
            Self::AllowHandover => "allowing to be handed over",
            Self::HandoverFailed | Self::HandedOver => "being handed over",
            Self::GoOn => "going on",
            Self::CaptureUp => "opening the screen",
            Self::CaptureFailed => "giving up the capture",
            Self::Media(_) => "a message about the picture",
            Self::Grant { .. } => "granting what is granted or asking for what is not to be had",
            Self::PowerKey { .. } => "pressing the power key",
            Self::Exchange(_) => "a message about what is exchanged",
            Self::Elevated(_) => "what needs an administrator's rights",
            Self::Leave => "leaving",
            Self::ConfirmLeave => "confirming to leave",
            Self::Stay => "staying",
        }
    }
}

/// What a person should know, or the program should do.
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
        /// Nobody is there to compare them with: the sharer's device, which its papers vouch for, answers by itself (row 8u).
        alone: bool,
        /// By which an administrator may end the session.
        name: SessionName,
    },
    /// This side's organisation thinks otherwise of the other side now; what follows from that comes after.
    Judged(Verdict),
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
    /// Sharer, unattended: the helper asks.
    Countdown {
        /// For what.
        mode: Mode,
        /// Time to say no; silence is a yes.
        within: Duration,
    },
    /// Helper: the question is on the sharer's screen.
    AwaitingConsent {
        /// Time to answer.
        within: Duration,
    },
    /// It was allowed; the screen is being opened.
    Starting {
        /// What the sharer granted.
        mode: Mode,
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
    /// Helper: what was asked for cannot be; the session goes on.
    Refused(Refusal),
    /// Sharer: the helper asks for an administrator's rights.
    ElevationPrompt {
        /// Time to answer; silence is a no.
        within: Duration,
    },
    /// The helper has an administrator's rights.
    ElevationGranted,
    /// The helper does not get them.
    ElevationDeclined,
    /// The helper has them no more.
    ElevationReleased,
    /// Sharer: the helper asks to restart this computer.
    RestartPrompt {
        /// Time to answer; silence is a no.
        within: Duration,
    },
    /// It does not restart.
    RestartDeclined,
    /// Helper: it need not be asked to.
    NoRestart(Refusal),
    /// The computer that restarted is back, on another connection, which has other words; the screen is being opened, and nobody is
    /// asked again.
    Returned {
        /// Who it says it is.
        peer: Profile,
        /// What is to be thought of it.
        verdict: Verdict,
        /// The short authentication string.
        words: Words,
        /// By which an administrator may end it from now on.
        name: SessionName,
    },
    /// Sharer: the helper wants to hand over to another one.
    HandoverPrompt {
        /// Time to answer; silence is a no.
        within: Duration,
    },
    /// It was allowed. Sharer: the program is to join with the code, and to say what came of it.
    HandingOver {
        /// At the sharer.
        code: Option<Code>,
    },
    /// It was not allowed; the session goes on.
    HandoverDeclined,
    /// Nothing has come of it; the session goes on.
    HandoverFailed,
    /// The other person says something.
    Chat {
        /// Counts from 1.
        id: u64,
        /// As it was typed: may hold any character.
        text: String,
    },
    /// The sharer paused, or went on.
    Paused(bool),
    /// A prompt of the sharer's system covers the screen, or does not any more.
    Covered(Option<SecurePrompt>),
    /// Unattended: what is done about whoever walks by.
    Shield {
        /// That.
        shield: Shield,
        /// FROZEN: until input counts again.
        within: Duration,
    },
    /// It ends unless somebody says that it is to go on.
    Check {
        /// Why.
        check: Check,
        /// Time to say so.
        within: Duration,
        /// Whether this person may.
        ours: bool,
    },
    /// Somebody said so.
    GoesOn,
    /// Sharer: leaving needs [`Command::ConfirmLeave`] or [`Command::Stay`].
    LeaveWarning {
        /// Whoever leaves is signed out; unsaved work may be lost.
        signs_out: bool,
    },
    /// Sharer: stays.
    Stayed,
    /// Nothing is heard of the other side.
    Interrupted {
        /// Why.
        cause: Cause,
        /// For how long it is waited for.
        within: Duration,
    },
    /// It is back; nobody is asked again.
    Resumed {
        /// In force.
        mode: Mode,
    },
    /// Sharer: to be done by the program.
    Act(Act),
    /// The other side's program says something about the picture, which it may.
    Media(schema::control::Body),
    /// All that may leave either computer beside the picture and the words, from now on.
    Granted(Grants),
    /// Sharer: the helper asks for more of that; silence is a no.
    GrantWanted(Grants),
    /// The other side's program says something about what is exchanged; whether it may is [`Rights::grants`](super::Rights)' to say.
    Exchange(schema::control::Body),
    /// Between the helper and the sharer's broker: at the sharer an order that has arrived, or what the broker reports; at the helper
    /// the broker's key, or that report.
    Elevated(schema::control::Body),
    /// The last event.
    Ended(Receipt),
}

/// What the sharer's program has to do to its system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Let the helper run programs with an administrator's rights.
    Elevate,
    /// No more of that: what was started so is killed, with all that it started.
    Unelevate,
    /// Hide the screen.
    Shield,
    /// Show it again.
    Unshield,
    /// Write down how to come back, and restart.
    Restart,
    /// Sign the sharer out, once the last words are said.
    SignOut,
    /// Press the power key.
    PowerKey {
        /// Held down for a while.
        long: bool,
    },
}

/// What goes to the other side, and on which stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Transmit {
    /// On the control stream.
    Control(schema::control::Body),
    /// On the chat stream.
    Chat(schema::Chat),
}

/// Something that may not be; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This role may not do or say that in this state.
    #[error("{0} is not possible now")]
    BadState(&'static str),
    /// More than permission, the way in and the system allow.
    #[error("the mode is more than is permitted here")]
    ModeNotPermitted,
    /// The helper has no permission for that.
    #[error("your role does not permit it")]
    NoPermission,
    /// The device's policy asks for credentials at the device only.
    #[error("elevation is blocked by the device's policy")]
    ElevationBlocked,
    /// The sharer's system cannot do that, or not with this program.
    #[error("the other computer's system does not support it")]
    Unsupported,
    /// An unattended computer lacks what it must have.
    #[error("the other computer cannot hide its screen, which it must when nobody is there")]
    PrerequisiteMissing,
    /// Several people use the computer, or policy forbids it.
    #[error("restarting is not available on this computer")]
    RestartUnavailable,
    /// An organisation wants nothing written.
    #[error("chat is blocked by an organisation's policy")]
    ChatBlocked,
    /// An organisation wants no clipboard shared.
    #[error("the clipboard is blocked by an organisation's policy")]
    ClipboardBlocked,
    /// An organisation wants no files sent.
    #[error("files are blocked by an organisation's policy")]
    FilesBlocked,
    /// Nobody vouches for the helper, and the sharer has not said that the words are the same.
    #[error(
        "nobody vouches for the helper; the sharer has to compare the three words first, and say that they are the same"
    )]
    Unverified,
    /// The helper has used mouse or keyboard a moment ago, and may be who said it.
    #[error(
        "your helper is using this computer's mouse and keyboard, and could have pressed that; say it again when nothing has moved for two \
         seconds, or press Pause first"
    )]
    HandsAtWork,
    /// Nobody at an unattended computer can end the session.
    #[error("only the helper can end a session with a computer that nobody attends")]
    NoLocalEnd,
}

impl Refusal {
    /// As documentation and scripts know it.
    pub fn code(self) -> &'static str {
        match self {
            Self::BadState(_) => "BAD_STATE",
            Self::ModeNotPermitted => "MODE_NOT_PERMITTED",
            Self::NoPermission => "NO_PERMISSION",
            Self::ElevationBlocked => "ELEVATION_BLOCKED_BY_POLICY",
            Self::Unsupported => "UNSUPPORTED",
            Self::PrerequisiteMissing => "PREREQ_MISSING",
            Self::RestartUnavailable => "RESTART_UNAVAILABLE",
            Self::ChatBlocked => "CHAT_BLOCKED_BY_POLICY",
            Self::ClipboardBlocked => "CLIPBOARD_BLOCKED_BY_POLICY",
            Self::FilesBlocked => "FILES_BLOCKED_BY_POLICY",
            Self::Unverified => "UNVERIFIED",
            Self::HandsAtWork => "HELPER_AT_WORK",
            Self::NoLocalEnd => "UNATTENDED_NO_LOCAL_END",
        }
    }

    /// The same, saying what it was that may not be now.
    pub(super) fn named(self, what: &'static str) -> Self {
        match matches!(self, Self::BadState(_)) {
            true => Self::BadState(what),
            false => self,
        }
    }

    /// What the helper is told.
    pub(super) fn to_schema(self) -> schema::RefusalCode {
        match self {
            // The others are no answer to anything that a helper asks.
            Self::BadState(_) | Self::HandsAtWork | Self::NoLocalEnd => {
                schema::RefusalCode::RefusalBadState
            }
            Self::ModeNotPermitted => schema::RefusalCode::RefusalModeNotPermitted,
            Self::NoPermission => schema::RefusalCode::RefusalNoPermission,
            Self::ElevationBlocked => schema::RefusalCode::RefusalElevationBlockedByPolicy,
            Self::Unsupported => schema::RefusalCode::RefusalUnsupported,
            Self::PrerequisiteMissing => schema::RefusalCode::RefusalPrereqMissing,
            Self::RestartUnavailable => schema::RefusalCode::RefusalRestartUnavailable,
            Self::ChatBlocked => schema::RefusalCode::RefusalChatBlockedByPolicy,
            Self::ClipboardBlocked => schema::RefusalCode::RefusalClipboardBlockedByPolicy,
            Self::FilesBlocked => schema::RefusalCode::RefusalFilesBlockedByPolicy,
            Self::Unverified => schema::RefusalCode::RefusalUnverified,
        }
    }

    pub(super) fn from_schema(code: schema::RefusalCode) -> Self {
        match code {
            schema::RefusalCode::RefusalBadState => Self::BadState("what was asked for"),
            schema::RefusalCode::RefusalModeNotPermitted => Self::ModeNotPermitted,
            schema::RefusalCode::RefusalNoPermission => Self::NoPermission,
            schema::RefusalCode::RefusalElevationBlockedByPolicy => Self::ElevationBlocked,
            schema::RefusalCode::RefusalUnsupported => Self::Unsupported,
            schema::RefusalCode::RefusalPrereqMissing => Self::PrerequisiteMissing,
            schema::RefusalCode::RefusalRestartUnavailable => Self::RestartUnavailable,
            schema::RefusalCode::RefusalChatBlockedByPolicy => Self::ChatBlocked,
            schema::RefusalCode::RefusalClipboardBlockedByPolicy => Self::ClipboardBlocked,
            schema::RefusalCode::RefusalFilesBlockedByPolicy => Self::FilesBlocked,
            schema::RefusalCode::RefusalUnverified => Self::Unverified,
        }
    }
}
