//! `remora invite --device`: a code goes to a device instead of being read out. Drives `proto::invitation` at the helper.
//!
//! ```text
//!  node: code ─▶ calling (Inviting) ─▶ line ── Ring, Noise, words ──▶ relay ─▶ … ─▶ the device's agent (`presence`)
//!                  │ notification, device ─▶ event     ▲ again, at another relay, when it is lost
//! ```
//!
//! The line has a place of its own at a relay: what comes for it is not mixed with what comes for the code.

/// The machine's task.
pub(crate) mod calling;
/// Words to and from the device, for as long as they are wanted.
mod line;

use remora_proto::{
    id::DeviceId,
    session::{Entry, Kind, Mode},
};

/// Whom to invite, and to what.
#[derive(Clone, Debug)]
pub struct Call {
    /// Which.
    pub device: DeviceId,
    /// Whether somebody has to be there.
    pub kind: Kind,
    /// Whether it is an answer to a request for help.
    pub entry: Entry,
    /// What will be asked for, if that is known.
    pub mode: Option<Mode>,
    /// For whoever reads it there; one line of at most 256 bytes, may be empty.
    pub reason: String,
}
