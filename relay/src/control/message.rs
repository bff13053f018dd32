//! What a relay answers: exactly one of these for each request.

use std::time::Duration;

use remora_proto::wire::message::control::{Done, Refused};
pub use remora_proto::wire::message::control::{
    NodeToRelay, Reason, RelayToNode, ReleaseCause, node_to_relay::Body as Request,
    relay_to_node::Body as Reply,
};

use crate::admin::metrics::{Denial, Lookup, Outcome, RequestKind};

/// What was done, or why it was not.
pub type Answer = Result<Reply, Refusal>;

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people, one line.
    pub text: &'static str,
    /// When to ask again, if that is known.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal that waiting does not change, as far as the relay knows.
    pub const fn new(reason: Reason, text: &'static str) -> Self {
        Self {
            reason,
            text,
            retry_after: None,
        }
    }

    /// The message for the node.
    pub fn into_reply(self) -> Reply {
        let retry_after_ms = self.retry_after.map_or(0, |wait| {
            u32::try_from(wait.as_millis() + 1).unwrap_or(u32::MAX)
        });
        Reply::Refused(Refused {
            reason: self.reason.into(),
            text: self.text.to_owned(),
            retry_after_ms,
        })
    }
}

/// Done, and nothing to say about it.
pub fn done() -> Reply {
    Reply::Done(Done {})
}

/// What a request is, for the metrics.
pub fn kind(request: &Request) -> RequestKind {
    match request {
        Request::Hello(_) => RequestKind::Hello,
        Request::Publish(_) => RequestKind::Publish,
        Request::Withdraw(_) => RequestKind::Withdraw,
        Request::Lookup(_) => RequestKind::Lookup,
        Request::Join(_) => RequestKind::Join,
        Request::Signal(_) => RequestKind::Signal,
        Request::Admit(_) => RequestKind::Admit,
        Request::Dismiss(_) => RequestKind::Dismiss,
        Request::Release(_) => RequestKind::Release,
        Request::Here(_) => RequestKind::Here,
        Request::Park(_) => RequestKind::Park,
        Request::Rejoin(_) => RequestKind::Rejoin,
        Request::FetchPolicy(_) | Request::PutPolicy(_) => RequestKind::Policy,
        Request::Seek(_) => RequestKind::Seek,
        Request::Ring(_) => RequestKind::Ring,
        Request::QueueUp(_) | Request::FetchQueue(_) => RequestKind::Queue,
        Request::PathReport(_) => RequestKind::PathReport,
    }
}

/// How it ended.
pub fn result(answer: &Answer) -> Outcome {
    match answer {
        Ok(_) => Outcome::Ok,
        Err(_) => Outcome::Refused,
    }
}

/// Whether that is because there is no room, or because somebody asks too often. Reports are wanted, and no loss: of many people behind one
/// address the rest speaks for them.
pub fn denial(kind: RequestKind, reason: Reason) -> Option<Denial> {
    match reason {
        Reason::RateLimited if kind == RequestKind::PathReport => None,
        Reason::Full if kind == RequestKind::Hello => Some(Denial::NodesFull),
        Reason::Full => Some(Denial::Full),
        Reason::VersionTooOld => Some(Denial::VersionTooOld),
        Reason::RateLimited => Some(Denial::RateLimited),
        Reason::Draining => Some(Denial::Draining),
        Reason::Unspecified
        | Reason::Malformed
        | Reason::BadState
        | Reason::Taken
        | Reason::BadRecord
        | Reason::UnknownCode
        | Reason::CodeExpired
        | Reason::CodeUsed
        | Reason::CodeBurned
        | Reason::CodeCancelled
        | Reason::PeerGone
        | Reason::NotParked => None,
    }
}

/// How a look-up ended.
pub fn lookup(answer: &Answer) -> Lookup {
    match answer.as_ref().map_err(|refusal| refusal.reason) {
        Ok(_) => Lookup::Ok,
        Err(
            Reason::CodeExpired | Reason::CodeUsed | Reason::CodeBurned | Reason::CodeCancelled,
        ) => Lookup::Ended,
        Err(Reason::RateLimited) => Lookup::RateLimited,
        Err(Reason::Malformed) => Lookup::Malformed,
        Err(
            Reason::Unspecified
            | Reason::BadState
            | Reason::VersionTooOld
            | Reason::Full
            | Reason::Draining
            | Reason::Taken
            | Reason::BadRecord
            | Reason::UnknownCode
            | Reason::PeerGone
            | Reason::NotParked,
        ) => Lookup::UnknownCode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_wants_something_is_denied_it() {
        let of = |kind, reason| denial(kind, reason).map(|denial| denial.label());
        assert_eq!(of(RequestKind::Hello, Reason::Full), Some("nodes_full"));
        assert_eq!(of(RequestKind::Publish, Reason::Full), Some("full"));
        let lookup = of(RequestKind::Lookup, Reason::RateLimited);
        assert_eq!(lookup, Some("rate_limited"));
        assert_eq!(of(RequestKind::PathReport, Reason::RateLimited), None);
        assert_eq!(of(RequestKind::Join, Reason::PeerGone), None);
    }
}
