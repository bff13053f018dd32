//! Remora's protocol, pure: bytes, commands and `now` go in; messages, events and deadlines come out.
//!
//! Nothing here owns a socket, a task, a clock or an environment variable (`clippy.toml` of this crate
//! refuses them). `remora-relay` and `remora` are the shells that do.
//!
//! The way of a session, and the modules in that order:
//!
//! ```text
//! "4060-r0gx" ─ code ─▶ rendezvous ─ pake ─▶ PSK ─ noise ─▶ inner connection ─ session ─▶ ENDED
//!                          │ record                             │ sas
//!      control.proto ──────┴───── relay ──── frames ────────────┘
//! ```
//!
//! Contract of every machine (`rendezvous::Host`, `rendezvous::Joiner`, `session::Session`):
//! inputs are `handle_*` with the current [`std::time::Instant`], which never goes back; outputs are `poll_*`
//! until `None`; `poll_timeout` names the next moment for `handle_timeout`. One input, drain every
//! output, then wait. Randomness is lent to `new` (see [`random`]).
//!
//! Modules behind the feature `end-to-end` hold secrets of the two people; the relay is built without
//! them and so cannot even name them.
#![warn(missing_docs)]

// --- words and bytes everybody shares ---
/// Who is who: node, relay, session, exchange; addresses that carry a key.
pub mod id;
/// Randomness as a value, so that machines stay deterministic.
pub mod random;
/// Token buckets: how often something may be done.
pub mod rate;
/// What stands on the wire: first bytes, frames, reflection, protobuf messages on streams.
pub mod wire;

// --- a node and its relay, while neither has anything to say ---
/// An idle node without a connection: a key, and datagrams that keep its place.
pub mod park;

// --- two nodes find each other ---
/// The session code: alphabet, entropy, forgiving parser.
#[cfg(feature = "end-to-end")]
pub mod code;
/// A code that is sent to a device instead of read out: sealed words, the helper's machine, the device's.
#[cfg(feature = "end-to-end")]
pub mod invitation;
/// CPace: a short code becomes a strong key, with confirmation.
#[cfg(feature = "end-to-end")]
pub mod pake;
/// What a device says, so that others learn whether it is there.
pub mod presence;
/// The public, signed record under which a host can be found, or a device.
pub mod record;
/// Machines: code → record → exchange → keys of the inner connection.
#[cfg(feature = "end-to-end")]
pub mod rendezvous;
/// The same two meet again after a restart: what they know that nobody else does.
#[cfg(feature = "end-to-end")]
pub mod resumption;

// --- they get a connection nobody in between can read ---
/// Noise in place of TLS under QUIC.
pub mod noise;
/// Three words that are equal on both screens exactly when nobody sits in between.
#[cfg(feature = "end-to-end")]
pub mod sas;

/// The path below that connection: relayed, direct, and moved between the two.
pub mod path;

// --- and hold a session on it ---
/// What a helper orders of the sharer's broker, sealed so that nobody but the broker reads it.
#[cfg(feature = "end-to-end")]
pub mod elevation;
/// Machines: the clipboard's text, and files.
#[cfg(feature = "end-to-end")]
pub mod exchange;
/// Who somebody says they are.
#[cfg(feature = "end-to-end")]
pub mod identity;
/// Text of others in a line of ours.
pub mod line;
/// What an organisation says of its people and devices, and what follows from it for a session.
pub mod org;
/// Machine: trust, consent, mode, chat, end.
#[cfg(feature = "end-to-end")]
pub mod session;

// --- and all of it is tested in ---
/// Virtual time and a hostile network between two QUIC ends.
#[cfg(feature = "sim")]
pub mod sim;
