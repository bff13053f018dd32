//! The path below an inner connection: found, chosen, left again, while the connection never notices. Pure.
//!
//! ```text
//!  gathered ─▶ candidates ─▶ (inner connection) ─▶ the peer's ─▶ pairs ─▶ checks ─▶ answered? ─▶ route
//!                                                   ▲ from an address nobody named ─┘
//! ```
//!
//! In the manner of ICE (RFC 8445), with less to agree on: there is always a path, the relay's, on which both say where
//! else they may be reached. Each side probes what the other named and answers what it is asked; a pair works when a question
//! and its answer have crossed, which proves both directions. Each side chooses by itself what it sends on, and takes
//! what comes from wherever the other has proven to be. So nobody has to nominate anything, and the two ways may differ.
//!
//! A check is sealed with a key that only the two ends of the inner connection have (`check`). Who does not hold it can hold up
//! or send on what they say, as any router can, and so come to stand on their way; they read nothing there.

/// By what the relay is reached: UDP, or a stream.
pub mod bearer;
/// Where a node may be reached, and what may be probed.
pub mod candidate;
/// Sealed questions and answers.
pub mod check;
/// The machine.
pub mod machine;
/// A candidate pair: when it is asked, and how it answers.
mod pair;
/// From where to where.
pub mod way;
