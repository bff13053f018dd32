//! Signing in at an OpenID Connect provider: a thin client over the HTTP and TLS that there are anyway, and the check of an ID token, with
//! a closed set of algorithms.
//!
//! ```text
//!  provider (discovery) ─▶ login (code + PKCE) ┐
//!                      └─▶ device (device code) ├─▶ grant ─▶ ID token ─▶ the desk: token (signature, claims)
//!                      └─▶ refresh token ───────┘
//! ```

/// Tokens, as text.
pub(crate) mod secret;

/// One question over HTTP, one answer.
pub(crate) mod web;

/// What a provider says of itself.
pub(crate) mod provider;

/// ID tokens: what must be true of one.
pub(crate) mod token;

/// Tokens out of codes.
pub(crate) mod grant;

/// In a browser on this computer.
pub(crate) mod login;

/// In a browser elsewhere.
pub(crate) mod device;
