//! Where packets go. The node's UDP sockets carry the control connection's packets as they are and the inner
//! connection's packets in frames, through the relay or to the other node itself; quinn sees two virtual sockets and one stable
//! virtual address.
//!
//! ```text
//!  session ─▶ quinn ─▶ virtual_socket ─┬─ frame ─▶ carrier: a relay ─▶ the other node
//!                            ▲ route    └─ frame ──────────────────▶
//!                          mover ◀─ checks, candidates (proto::path) ─▶
//!                            ▲
//!                            └ gather (interfaces; `changes` says when), seen and survey (what the NAT does), portmap (the gateway)
//!
//!  keeper: the relay by UDP or, where that does not go, by TCP (`stream`); `bearing` tells which, and switches
//! ```

/// Whether the relay is reached by UDP or by a stream.
mod bearing;
/// The relay that a session goes through.
pub mod carrier;
/// Interfaces come and go.
mod changes;
/// What quinn knows of a path's width is that path's, and taken up where it was left.
pub mod congestion;
/// The addresses of this computer.
pub mod gather;
/// The task that chooses between UDP and a stream.
pub mod keeper;
/// What was known of paths that were taken a moment ago.
pub mod lately;
/// The task that looks for better paths, and leaves those that go dark.
pub mod mover;
/// A port of the gateway's.
pub mod portmap;
/// Where a session's packets go just now.
pub mod route;
/// What the NAT does, and how the node is seen.
mod seen;
/// Whether what is sent is answered.
pub mod silence;
/// The real sockets, and who gets what arrives on them.
pub mod socket;
/// The relay by 443/tcp.
pub mod stream;
/// What the NAT does, before there is a session.
pub(crate) mod survey;
/// One of them.
pub(crate) mod udp;
/// quinn's view of it.
pub mod virtual_socket;
