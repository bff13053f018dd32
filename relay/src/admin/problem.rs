//! What is answered to who does not get what they asked for: for a person a message and what to do, for a script a code.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// An answer that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    /// One word; never changed once given.
    code: &'static str,
    message: &'static str,
    what_to_do: &'static str,
}

impl Problem {
    const fn new(
        status: StatusCode,
        code: &'static str,
        message: &'static str,
        what_to_do: &'static str,
    ) -> Self {
        Self {
            status,
            code,
            message,
            what_to_do,
        }
    }
}

/// Nobody may do anything here.
pub const NO_TOKEN: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "NOT_PERMITTED",
    "this relay has no admin token, so nobody may ask it for anything",
    "start it with --admin-token-file FILE, or with --admin-client-ca FILE",
);
/// Whoever asks has not shown that they may.
pub const WRONG_TOKEN: Problem = Problem::new(
    StatusCode::UNAUTHORIZED,
    "NOT_PERMITTED",
    "this is not the admin token of this relay",
    "send `Authorization: Bearer TOKEN`, or show a client certificate of its --admin-client-ca",
);
/// It was asked too late.
pub const ENDED: Problem = Problem::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "RELAY_ENDED",
    "the relay has ended",
    "ask another relay of the fleet",
);
/// There is no such session.
pub const NO_SESSION: Problem = Problem::new(
    StatusCode::NOT_FOUND,
    "NO_SUCH_SESSION",
    "no session of this relay has an id that begins so; it may have ended, or moved",
    "look at /v1/sessions of each relay",
);
/// There are two.
pub const SEVERAL_SESSIONS: Problem = Problem::new(
    StatusCode::CONFLICT,
    "SEVERAL_SESSIONS",
    "several sessions have an id that begins so",
    "give more of it",
);
/// What was sent is not what is taken here.
pub const MALFORMED: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "MALFORMED",
    "this cannot be understood",
    "send {\"reason\": TEXT} with one line of at most 128 bytes, and a session's id of 4 to 16 hexadecimal digits",
);
/// A page that there is not.
pub const NOT_HERE: Problem = Problem::new(
    StatusCode::NOT_FOUND,
    "NOT_FOUND",
    "there is nothing here",
    "see docs/admin-api.md for what there is",
);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self {
            status,
            code,
            message,
            what_to_do,
        } = self;
        let body = json!({"v": 1, "code": code, "message": message, "what_to_do": what_to_do});
        told(status, &body)
    }
}

/// JSON, in one line.
pub fn told(status: StatusCode, body: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (status, headers, format!("{body}\n")).into_response()
}
