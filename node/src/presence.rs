//! Devices: `remora agent` says that this one is there and takes invitations, `remora inbox` answers them, `remora presence` asks whether
//! another device is there.
//!
//! ```text
//!  device's key ─▶ agent ── signed record, renewed ──▶ home relay ─▶ keepers
//!  somebody's `remora presence ID` ─▶ any relay of the fleet ─▶ keepers ─▶ the device's home relay: is it there?
//!
//!  helper ── ring ──▶ relays ──▶ office (desk, of the agent with the key) ─┬─ own inbox ─▶ popup, `remora inbox`
//!                                                                          └─ seats ─▶ agents of other log-ins, and their inboxes
//!                                                    inbox ── open ──▶ child: a session of its own
//! ```

/// Says so, for as long as it runs.
pub mod agent;
/// Asks.
pub mod ask;
/// Sessions that a program begins for somebody.
pub(crate) mod child;
/// The device's key.
mod device;
/// Invitations of one log-in.
pub mod inbox;
/// What agents and `remora inbox` say to each other.
mod letter;
/// Exchanges with helpers who ring.
pub(crate) mod lines;
/// Drives the device's machine of invitations.
mod office;
/// Notifications on the desktop.
mod popup;
/// Agents of other log-ins.
mod seats;
