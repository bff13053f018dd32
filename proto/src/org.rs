//! What an organisation says of its people and devices, and what follows from it for a session.
//!
//! ```text
//! issuer ── signs ──▶ credential, device ── inner handshake ──▶ ┐
//!    │                (of a person, of a node)                  ├─ verdict: who it is, what they may, warnings
//!    └──── signs ──▶ policy ── file, relays ──▶ membership ────▶ ┘
//!                    (roles, assignments, settings, who is out)
//! ```
//!
//! A credential says the most that its bearer may ever do, a policy what they may do now; only what both say holds, so that neither a
//! kept credential nor an old policy is worth anything alone. A relay passes policies on: it can tell which is newer, and forge none.

/// Who signs; documents with their signatures.
pub mod signed;

/// Names within an organisation.
#[cfg(feature = "end-to-end")]
pub mod label;
/// What a helper may do: a closed set.
#[cfg(feature = "end-to-end")]
pub mod permission;
/// Whom somebody may help.
#[cfg(feature = "end-to-end")]
pub mod scope;

/// Who somebody is; what is known of a device.
#[cfg(feature = "end-to-end")]
pub mod credential;
/// What holds for everybody, now.
#[cfg(feature = "end-to-end")]
pub mod policy;
/// What an organisation may set.
#[cfg(feature = "end-to-end")]
pub mod setting;

/// Sessions that an administrator has ended.
#[cfg(feature = "end-to-end")]
pub mod ended;

/// Where people sign in.
#[cfg(feature = "end-to-end")]
pub mod desk;
/// A node's own papers; what a person asks to be signed.
#[cfg(feature = "end-to-end")]
pub mod membership;
/// Who the other side is, and what follows.
#[cfg(feature = "end-to-end")]
pub mod verdict;
