//! One line that says what went wrong and what to do, and the exit code for it (`UX.md`: 0 ok, 1 error, 2 usage,
//! 3 declined, 4 timed out, 5 offline, 6 not permitted, 7 verification failed).

use std::io;

use remora_proto::{rendezvous::JoinFailure, session::EndReason};

/// Exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// All went as it should.
    Ok = 0,
    /// Anything without a code of its own.
    Error = 1,
    /// The command line or the settings are wrong.
    Usage = 2,
    /// The other person said no.
    Declined = 3,
    /// Somebody did not answer in time.
    TimedOut = 4,
    /// A relay or the other node cannot be reached.
    Offline = 5,
    /// Whoever is asked does not let us.
    NotPermitted = 6,
    /// The other side is not who it should be, or a code is wrong.
    Verification = 7,
}

/// A failure as a person gets to see it.
#[derive(Debug, thiserror::Error)]
#[error("{line}")]
pub struct Failure {
    /// What happened, and what to do.
    pub line: String,
    /// A stable name for scripts.
    pub code: &'static str,
    /// Exit code of the program.
    pub exit: Exit,
    /// After a wrong code: how often it can be tried again.
    pub tries_left: Option<u32>,
}

impl Failure {
    /// A failure.
    pub fn new(exit: Exit, code: &'static str, line: impl Into<String>) -> Self {
        Self {
            line: line.into(),
            code,
            exit,
            tries_left: None,
        }
    }

    /// What is printed cannot be: on a closed pipe, as behind `| head`, because nobody wants more, which is no fault.
    pub fn unprinted(what: &str, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Ok, "OUTPUT_CLOSED", "nobody reads on");
        }
        Self::internal(what, error)
    }

    /// A fault of the machine or of this program.
    pub fn internal(what: &str, error: impl std::fmt::Display) -> Self {
        Self::new(Exit::Error, "INTERNAL", format!("{what}: {error}"))
    }
}

impl From<JoinFailure> for Failure {
    fn from(failure: JoinFailure) -> Self {
        let (exit, code) = match failure {
            JoinFailure::WrongCode { .. } => (Exit::Verification, "WRONG_CODE"),
            JoinFailure::UnknownCode => (Exit::Verification, "UNKNOWN_CODE"),
            JoinFailure::Expired => (Exit::TimedOut, "CODE_EXPIRED"),
            JoinFailure::Used => (Exit::Verification, "CODE_USED"),
            JoinFailure::Burned => (Exit::Verification, "CODE_BURNED"),
            JoinFailure::Cancelled => (Exit::Declined, "CODE_CANCELLED"),
            JoinFailure::Impostor => (Exit::Verification, "AUTH_FAILED"),
            JoinFailure::BadRecord => (Exit::Verification, "BAD_RECORD"),
            JoinFailure::PeerGone => (Exit::Offline, "PEER_GONE"),
            JoinFailure::Timeout => (Exit::TimedOut, "JOIN_TIMEOUT"),
            JoinFailure::Refused(reason) => (Exit::Error, reason.as_str_name()),
        };
        let tries_left = if let JoinFailure::WrongCode { tries_left } = failure {
            Some(tries_left)
        } else {
            None
        };
        Self {
            tries_left,
            ..Self::new(exit, code, failure.to_string())
        }
    }
}

/// The exit code of a session that ended for `reason`.
pub fn exit_of(reason: EndReason) -> Exit {
    match reason {
        EndReason::HelperLeft
        | EndReason::SharerLeft
        | EndReason::SharerLeftSignedOut
        | EndReason::HandedOver
        | EndReason::Reclaimed => Exit::Ok,
        EndReason::Declined | EndReason::HelperCancelled => Exit::Declined,
        EndReason::ConsentTimeout
        | EndReason::HelperTimeout
        | EndReason::CodeExpired
        | EndReason::JoinTimeout
        | EndReason::Reconfirm
        | EndReason::MaxDuration
        | EndReason::Idle => Exit::TimedOut,
        EndReason::ConnectionLost => Exit::Offline,
        EndReason::OrgMismatch
        | EndReason::UnenrolledNotAllowed
        | EndReason::AdminEnded
        | EndReason::OperatorEnded => Exit::NotPermitted,
        EndReason::AuthFailed
        | EndReason::AuthSubjectMismatch
        | EndReason::SasMismatch
        | EndReason::CodeBurned => Exit::Verification,
        EndReason::VersionTooOld | EndReason::CaptureFailed | EndReason::Internal => Exit::Error,
    }
}
