//! How a session ended: a reason out of a closed list, and what there is to say about it without its content.

use std::{fmt, time::Duration};

use super::Mode;
use crate::{identity::Role, wire::message::session as schema};

/// Why a session ended (`SESSION.md` §1.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndReason {
    /// The helper ended it.
    HelperLeft,
    /// The sharer ended it.
    SharerLeft,
    /// The sharer said no.
    Declined,
    /// The sharer did not answer.
    ConsentTimeout,
    /// The helper withdrew the code.
    HelperCancelled,
    /// The helper did not ask for anything.
    HelperTimeout,
    /// The code's time was over.
    CodeExpired,
    /// The code was tried wrongly too often.
    CodeBurned,
    /// The other side could not prove what it claimed.
    AuthFailed,
    /// The two belong to organisations that do not help each other.
    OrgMismatch,
    /// The sharer's device is not enrolled, and must be.
    UnenrolledNotAllowed,
    /// The two programs do not understand each other.
    VersionTooOld,
    /// The other side did not complete the join.
    JoinTimeout,
    /// The words differed: somebody sits in between.
    SasMismatch,
    /// The other side fell silent.
    ConnectionLost,
    /// The sharer's screen could not be captured (any more).
    CaptureFailed,
    /// The organisation does not permit it any more.
    AdminEnded,
    /// A fault in one of the two programs.
    #[default]
    Internal,
}

impl EndReason {
    /// As `SESSION.md` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::HelperLeft => "HELPER_LEFT",
            Self::SharerLeft => "SHARER_LEFT",
            Self::Declined => "DECLINED",
            Self::ConsentTimeout => "CONSENT_TIMEOUT",
            Self::HelperCancelled => "HELPER_CANCELLED",
            Self::HelperTimeout => "HELPER_TIMEOUT",
            Self::CodeExpired => "CODE_EXPIRED",
            Self::CodeBurned => "CODE_BURNED",
            Self::AuthFailed => "AUTH_FAILED",
            Self::OrgMismatch => "ORG_MISMATCH",
            Self::UnenrolledNotAllowed => "UNENROLLED_NOT_ALLOWED",
            Self::AdminEnded => "ADMIN_ENDED",
            Self::VersionTooOld => "VERSION_TOO_OLD",
            Self::JoinTimeout => "JOIN_TIMEOUT",
            Self::SasMismatch => "SAS_MISMATCH",
            Self::ConnectionLost => "CONNECTION_LOST",
            Self::CaptureFailed => "CAPTURE_FAILED",
            Self::Internal => "INTERNAL",
        }
    }

    pub(super) fn to_schema(self) -> schema::EndReason {
        match self {
            Self::HelperLeft => schema::EndReason::HelperLeft,
            Self::SharerLeft => schema::EndReason::SharerLeft,
            Self::Declined => schema::EndReason::Declined,
            Self::ConsentTimeout => schema::EndReason::ConsentTimeout,
            Self::HelperCancelled => schema::EndReason::HelperCancelled,
            Self::HelperTimeout => schema::EndReason::HelperTimeout,
            Self::CodeExpired => schema::EndReason::EndCodeExpired,
            Self::CodeBurned => schema::EndReason::EndCodeBurned,
            Self::AuthFailed => schema::EndReason::AuthFailed,
            Self::OrgMismatch => schema::EndReason::OrgMismatch,
            Self::UnenrolledNotAllowed => schema::EndReason::UnenrolledNotAllowed,
            Self::AdminEnded => schema::EndReason::AdminEnded,
            Self::VersionTooOld => schema::EndReason::VersionTooOld,
            Self::JoinTimeout => schema::EndReason::JoinTimeout,
            Self::SasMismatch => schema::EndReason::SasMismatch,
            Self::ConnectionLost => schema::EndReason::ConnectionLost,
            Self::CaptureFailed => schema::EndReason::CaptureFailed,
            Self::Internal => schema::EndReason::Internal,
        }
    }

    /// The reason that `role` gave. Nobody can say that the *other* one left or declined.
    pub(super) fn said_by(role: Role, reason: schema::EndReason) -> Self {
        match (role, reason) {
            (Role::Helper, schema::EndReason::HelperLeft | schema::EndReason::HelperCancelled) => {
                Self::HelperLeft
            }
            (Role::Sharer, schema::EndReason::SharerLeft) => Self::SharerLeft,
            (Role::Sharer, schema::EndReason::Declined) => Self::Declined,
            (Role::Sharer, schema::EndReason::CaptureFailed) => Self::CaptureFailed,
            (_, schema::EndReason::ConsentTimeout) => Self::ConsentTimeout,
            (_, schema::EndReason::HelperTimeout) => Self::HelperTimeout,
            (_, schema::EndReason::AuthFailed) => Self::AuthFailed,
            (_, schema::EndReason::OrgMismatch) => Self::OrgMismatch,
            (_, schema::EndReason::UnenrolledNotAllowed) => Self::UnenrolledNotAllowed,
            (_, schema::EndReason::AdminEnded) => Self::AdminEnded,
            (_, schema::EndReason::VersionTooOld) => Self::VersionTooOld,
            (_, schema::EndReason::JoinTimeout) => Self::JoinTimeout,
            (_, schema::EndReason::SasMismatch) => Self::SasMismatch,
            _ => Self::Internal,
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

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
    /// Since the inner connection stood.
    pub duration: Duration,
    /// The most that was granted; `None`: it never started.
    pub mode: Option<Mode>,
    /// Messages, not their text.
    pub chat_sent: u64,
    /// Messages, not their text.
    pub chat_received: u64,
    /// What people said about the words.
    pub sas: SasState,
}
