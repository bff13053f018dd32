//! Why a desk does not sign: what it says to the person, with a status and a name for scripts.

use hyper::StatusCode;

use crate::{
    error::Failure,
    oidc::{
        device::{PENDING, SLOW_DOWN},
        token::Invalid,
    },
};

/// The reason.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The token.
    #[error("the token: {0}")]
    Token(#[from] Invalid),
    /// A claim that is needed is not there, or cannot be used.
    #[error("the provider says no {0} that can be used")]
    Claim(&'static str),
    /// Anybody can write any address.
    #[error("the provider has not verified your e-mail address")]
    EmailUnverified,
    /// Of somebody else's people.
    #[error("your account is not of {0}")]
    ForeignDomain(String),
    /// The name is another account's.
    #[error(
        "another account has signed in as {0} before; an administrator decides whose the name is"
    )]
    OtherAccount(String),
    /// Of the access token that came with an ID token.
    #[error("the access token is another person's")]
    OtherUserinfo,
    /// By the policy.
    #[error("{0} or this computer is revoked")]
    Revoked(String),
    /// With a device code: not yet.
    #[error("nobody has signed in yet")]
    Pending,
    /// With a device code: not yet, and not so often.
    #[error("nobody has signed in yet; this is asked too often")]
    SlowDown,
    /// With a device code.
    #[error("the provider was told no")]
    Declined,
    /// With a device code.
    #[error("nobody has signed in in time")]
    TimedOut,
    /// Others ask so much.
    #[error("too many people sign in just now")]
    Busy,
    /// Not what a node sends.
    #[error("this is no request of a computer that signs in")]
    Malformed,
    /// The provider, just now.
    #[error("the provider is not reached")]
    Provider(Failure),
    /// Ours.
    #[error("the desk is out of order")]
    Desk(String),
    /// Another verb.
    #[error("this is not done here")]
    Method,
    /// Another place.
    #[error("there is nothing here")]
    Nothing,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        tracing::error!(%failure, "the desk");
        Self::Desk(failure.line)
    }
}

impl Refusal {
    /// Somebody only asks again.
    pub(super) fn is_routine(&self) -> bool {
        matches!(self, Self::Pending | Self::SlowDown)
    }

    /// For scripts; those that a person can meet stand in `sign_in::desk`, too.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Token(invalid) => invalid.name(),
            Self::Claim(_) => "CLAIM",
            Self::EmailUnverified => "EMAIL_UNVERIFIED",
            Self::ForeignDomain(_) => "FOREIGN_DOMAIN",
            Self::OtherAccount(_) => "OTHER_ACCOUNT",
            Self::OtherUserinfo => "TOKEN_ACCESS",
            Self::Revoked(_) => "REVOKED",
            Self::Pending => PENDING,
            Self::SlowDown => SLOW_DOWN,
            Self::Declined => "SIGN_IN_DECLINED",
            Self::TimedOut => "SIGN_IN_TIMEOUT",
            Self::Busy => "BUSY",
            Self::Malformed | Self::Method | Self::Nothing => "MALFORMED",
            Self::Provider(_) => "PROVIDER",
            Self::Desk(_) => "DESK",
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Token(_) | Self::OtherUserinfo => StatusCode::UNAUTHORIZED,
            Self::Claim(_)
            | Self::EmailUnverified
            | Self::ForeignDomain(_)
            | Self::OtherAccount(_)
            | Self::Revoked(_)
            | Self::Declined
            | Self::TimedOut => StatusCode::FORBIDDEN,
            Self::Pending => StatusCode::TOO_EARLY,
            Self::SlowDown => StatusCode::TOO_MANY_REQUESTS,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Busy | Self::Provider(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Desk(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Nothing => StatusCode::NOT_FOUND,
        }
    }
}
