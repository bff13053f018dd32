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
//! A NAT that has another port for each destination lets nothing in that has been named. Each side finds out what its own does
//! (`survey`, `nat`), tells the other, and when checks have found nothing both carry out the same plan (`plan`): many sockets, many
//! ports, few of which meet.
//!
//! A check is sealed with a key that only the two ends of the inner connection have (`check`). Who does not hold it can hold up
//! or send on what they say, as any router can, and so come to stand on their way; they read nothing there.

/// By what the relay is reached: UDP, or a stream.
#[cfg(feature = "end-to-end")]
pub mod bearer;
/// Where a node may be reached, and what may be probed.
#[cfg(feature = "end-to-end")]
pub mod candidate;
/// Which relay carries a session, and where it goes when that one stops.
#[cfg(feature = "end-to-end")]
pub mod carriers;
/// Sealed questions and answers.
pub mod check;
/// Through the relay, because somebody wants it.
#[cfg(feature = "end-to-end")]
mod detour;
/// The machine.
#[cfg(feature = "end-to-end")]
pub mod machine;
/// At which relay two nodes meet.
#[cfg(feature = "end-to-end")]
pub mod meeting;
/// What a node's NAT does.
#[cfg(feature = "end-to-end")]
pub mod nat;
/// A candidate pair: when it is asked, and how it answers.
#[cfg(feature = "end-to-end")]
mod pair;
/// How long the way takes that packets go just now.
#[cfg(feature = "end-to-end")]
pub mod ping;
/// What is done about two NATs that checks alone do not get through.
#[cfg(feature = "end-to-end")]
pub mod plan;
/// Finds out what a NAT does.
#[cfg(feature = "end-to-end")]
pub mod survey;
/// What a relay is told of how a path has gone.
#[cfg(feature = "end-to-end")]
pub mod tally;
/// From where to where.
#[cfg(feature = "end-to-end")]
pub mod way;
