//! An invitation to a device: a code that nobody has to read out (SESSION.md §1.4, rows 2 to 8u).
//!
//! ```text
//!  helper                        two relays                     device, and who is logged in there
//!  Inviting ── Offer: the code ── sealed, unread ──▶ Desk ── offered to each seat ──▶ notification, inbox
//!           ◀─ Card, Delivered(n) ─────────────────────      ◀── open: the first has the code, the others `Withdrawn(TAKEN)`
//!           ◀─ Opened, or Declined by all of them ──         ◀── decline
//!           ── Withdrawn ──────────────────────────▶
//! ```
//!
//! To open an offer is to join with its code: what follows is the session that a code leads to, with the same card and words. So that no
//! relay can read the code, nor put another in its place, all is said under Noise, the device proving its key and the helper the one that
//! its papers name. Who may invite whom is the device's to say, by the same verdict as in the session.
//!
//! Modules, in the order to read them: `word` (what is said), `seal` (how), `inviting` (the helper's machine), `desk` (the device's),
//! `asking` (that of a person who has asked for help first).

/// The sharer's machine who has asked for help: seen, taken.
pub mod asking;
/// The device's machine: offers, seats, the first to open, the lease.
pub mod desk;
/// The helper's machine: sent, delivered, not received, retried.
pub mod inviting;
/// Noise between the two, in pieces that a relay passes on.
pub mod seal;
/// What they say.
pub mod word;
