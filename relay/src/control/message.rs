//! What a relay answers: exactly one of these for each request.

use std::time::Duration;

use remora_proto::wire::message::control::{Done, Refused};
pub use remora_proto::wire::message::control::{
    NodeToRelay, Reason, RelayToNode, ReleaseCause, node_to_relay::Body as Request,
    relay_to_node::Body as Reply,
};

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

/// The metric's label for a request.
pub fn kind(request: &Request) -> &'static str {
    match request {
        Request::Hello(_) => "hello",
        Request::Publish(_) => "publish",
        Request::Withdraw(_) => "withdraw",
        Request::Lookup(_) => "lookup",
        Request::Join(_) => "join",
        Request::Signal(_) => "signal",
        Request::Admit(_) => "admit",
        Request::Dismiss(_) => "dismiss",
        Request::Release(_) => "release",
        Request::Here(_) => "here",
        Request::Park(_) => "park",
        Request::Rejoin(_) => "rejoin",
        Request::FetchPolicy(_) => "fetch_policy",
        Request::PutPolicy(_) => "put_policy",
        Request::Seek(_) => "seek",
        Request::Ring(_) => "ring",
        Request::QueueUp(_) => "queue_up",
        Request::FetchQueue(_) => "fetch_queue",
    }
}

/// The metric's label for how a request ended.
pub fn result(answer: &Answer) -> &'static str {
    answer
        .as_ref()
        .map_or_else(|refusal| reason(refusal.reason), |_| "ok")
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Unspecified => "unspecified",
        Reason::Malformed => "malformed",
        Reason::BadState => "bad_state",
        Reason::VersionTooOld => "version_too_old",
        Reason::Full => "full",
        Reason::RateLimited => "rate_limited",
        Reason::Draining => "draining",
        Reason::Taken => "taken",
        Reason::BadRecord => "bad_record",
        Reason::UnknownCode => "unknown_code",
        Reason::CodeExpired => "code_expired",
        Reason::CodeUsed => "code_used",
        Reason::CodeBurned => "code_burned",
        Reason::CodeCancelled => "code_cancelled",
        Reason::PeerGone => "peer_gone",
        Reason::NotParked => "not_parked",
    }
}
