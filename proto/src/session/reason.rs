//! Why a session ended: a closed list (SESSION.md §1.7).

use std::fmt;

use crate::{identity::Role, wire::message::session as schema};

/// Why a session ended (`SESSION.md` §1.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndReason {
    /// The helper ended it.
    HelperLeft,
    /// The sharer ended it.
    SharerLeft,
    /// The sharer ended it after an administrator's rights were used, and is signed out.
    SharerLeftSignedOut,
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
    /// The helper signed in as somebody else than who began.
    AuthSubjectMismatch,
    /// The two belong to organisations that do not help each other.
    OrgMismatch,
    /// The two programs do not understand each other.
    VersionTooOld,
    /// The sharer's device is not enrolled, and must be.
    UnenrolledNotAllowed,
    /// The other side did not complete the join.
    JoinTimeout,
    /// The words differed: somebody sits in between.
    SasMismatch,
    /// The sharer's screen could not be captured (any more).
    CaptureFailed,
    /// The other side fell silent and did not come back.
    ConnectionLost,
    /// An administrator ended it.
    AdminEnded,
    /// Nobody said that it is to go on.
    Reconfirm,
    /// It lasted as long as it may, and nobody said that it is to go on.
    MaxDuration,
    /// Nothing was done, and nobody said that it is to go on.
    Idle,
    /// Somebody at an unattended computer took it back.
    Reclaimed,
    /// Another helper goes on with it, whom the first named and the sharer let in. Not in `SESSION.md`.
    HandedOver,
    /// The operator of a relay that it had a place at ended it. Not in `SESSION.md`.
    OperatorEnded,
    /// A fault in one of the two programs.
    #[default]
    Internal,
}

impl EndReason {
    /// All of them, in the order of `SESSION.md`, and then ours.
    pub const ALL: [Self; 26] = [
        Self::HelperLeft,
        Self::SharerLeft,
        Self::SharerLeftSignedOut,
        Self::Declined,
        Self::ConsentTimeout,
        Self::HelperCancelled,
        Self::HelperTimeout,
        Self::CodeExpired,
        Self::CodeBurned,
        Self::AuthFailed,
        Self::AuthSubjectMismatch,
        Self::OrgMismatch,
        Self::VersionTooOld,
        Self::UnenrolledNotAllowed,
        Self::JoinTimeout,
        Self::SasMismatch,
        Self::CaptureFailed,
        Self::ConnectionLost,
        Self::AdminEnded,
        Self::Reconfirm,
        Self::MaxDuration,
        Self::Idle,
        Self::Reclaimed,
        Self::HandedOver,
        Self::OperatorEnded,
        Self::Internal,
    ];

    /// As `SESSION.md` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::HelperLeft => "HELPER_LEFT",
            Self::SharerLeft => "SHARER_LEFT",
            Self::SharerLeftSignedOut => "SHARER_LEFT_SIGNED_OUT",
            Self::Declined => "DECLINED",
            Self::ConsentTimeout => "CONSENT_TIMEOUT",
            Self::HelperCancelled => "HELPER_CANCELLED",
            Self::HelperTimeout => "HELPER_TIMEOUT",
            Self::CodeExpired => "CODE_EXPIRED",
            Self::CodeBurned => "CODE_BURNED",
            Self::AuthFailed => "AUTH_FAILED",
            Self::AuthSubjectMismatch => "AUTH_SUBJECT_MISMATCH",
            Self::OrgMismatch => "ORG_MISMATCH",
            Self::VersionTooOld => "VERSION_TOO_OLD",
            Self::UnenrolledNotAllowed => "UNENROLLED_NOT_ALLOWED",
            Self::JoinTimeout => "JOIN_TIMEOUT",
            Self::SasMismatch => "SAS_MISMATCH",
            Self::CaptureFailed => "CAPTURE_FAILED",
            Self::ConnectionLost => "CONNECTION_LOST",
            Self::AdminEnded => "ADMIN_ENDED",
            Self::Reconfirm => "RECONFIRM",
            Self::MaxDuration => "MAX_DURATION",
            Self::Idle => "IDLE",
            Self::Reclaimed => "RECLAIMED",
            Self::HandedOver => "HANDED_OVER",
            Self::OperatorEnded => "OPERATOR_ENDED",
            Self::Internal => "INTERNAL",
        }
    }

    /// Its number on the wire.
    pub fn to_schema(self) -> schema::EndReason {
        match self {
            Self::HelperLeft => schema::EndReason::HelperLeft,
            Self::SharerLeft => schema::EndReason::SharerLeft,
            Self::SharerLeftSignedOut => schema::EndReason::SharerLeftSignedOut,
            Self::Declined => schema::EndReason::Declined,
            Self::ConsentTimeout => schema::EndReason::ConsentTimeout,
            Self::HelperCancelled => schema::EndReason::HelperCancelled,
            Self::HelperTimeout => schema::EndReason::HelperTimeout,
            Self::CodeExpired => schema::EndReason::EndCodeExpired,
            Self::CodeBurned => schema::EndReason::EndCodeBurned,
            Self::AuthFailed => schema::EndReason::AuthFailed,
            Self::AuthSubjectMismatch => schema::EndReason::AuthSubjectMismatch,
            Self::OrgMismatch => schema::EndReason::OrgMismatch,
            Self::VersionTooOld => schema::EndReason::VersionTooOld,
            Self::UnenrolledNotAllowed => schema::EndReason::UnenrolledNotAllowed,
            Self::JoinTimeout => schema::EndReason::JoinTimeout,
            Self::SasMismatch => schema::EndReason::SasMismatch,
            Self::CaptureFailed => schema::EndReason::CaptureFailed,
            Self::ConnectionLost => schema::EndReason::ConnectionLost,
            Self::AdminEnded => schema::EndReason::AdminEnded,
            Self::Reconfirm => schema::EndReason::EndReconfirm,
            Self::MaxDuration => schema::EndReason::EndMaxDuration,
            Self::Idle => schema::EndReason::EndIdle,
            Self::Reclaimed => schema::EndReason::Reclaimed,
            Self::HandedOver => schema::EndReason::HandedOver,
            Self::OperatorEnded => schema::EndReason::OperatorEnded,
            Self::Internal => schema::EndReason::Internal,
        }
    }

    /// The reason that `role` gave. Nobody can say that the *other* one left or declined.
    pub(super) fn said_by(role: Role, reason: schema::EndReason) -> Self {
        let said = Self::ALL
            .into_iter()
            .find(|known| known.to_schema() == reason)
            .unwrap_or(Self::Internal);
        let only = match said {
            Self::HelperLeft => Some(Role::Helper),
            // Within a session that is to leave it.
            Self::HelperCancelled if role == Role::Helper => return Self::HelperLeft,
            Self::SharerLeft
            | Self::SharerLeftSignedOut
            | Self::Declined
            | Self::Reclaimed
            | Self::HandedOver => Some(Role::Sharer),
            // Ends of a code, which there is none any more.
            Self::HelperCancelled | Self::CodeExpired | Self::CodeBurned => return Self::Internal,
            // Clocks run on both sides, and the slower one may hear of it first; so do relays' words.
            Self::ConsentTimeout
            | Self::HelperTimeout
            | Self::AuthFailed
            | Self::AuthSubjectMismatch
            | Self::OrgMismatch
            | Self::VersionTooOld
            | Self::UnenrolledNotAllowed
            | Self::JoinTimeout
            | Self::SasMismatch
            | Self::CaptureFailed
            | Self::ConnectionLost
            | Self::AdminEnded
            | Self::OperatorEnded
            | Self::Reconfirm
            | Self::MaxDuration
            | Self::Idle
            | Self::Internal => None,
        };
        match only.is_none_or(|only| only == role) {
            true => said,
            false => Self::Internal,
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
