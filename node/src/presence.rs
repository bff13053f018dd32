//! Devices: `remora agent` says that this one is there, `remora presence` asks whether another is.
//!
//! ```text
//!  device's key ─▶ agent ── signed record, renewed ──▶ home relay ─▶ keepers
//!  somebody's `remora presence ID` ─▶ any relay of the fleet ─▶ keepers ─▶ the device's home relay: is it there?
//! ```

/// Says so, for as long as it runs.
pub mod agent;
/// Asks.
pub mod ask;
/// The device's key.
mod device;
