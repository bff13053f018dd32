//! Many datagrams at a time: received into one memory, sent on from there.
//!
//! ```text
//!  socket ─▶ Received: messages, each a run of datagrams ─▶ Plan: pieces of them, by destination ─▶ socket
//! ```
//!
//! On Linux a batch is two system calls, one to receive and one to send; elsewhere each message is.

/// recvmmsg, sendmmsg, and the kernel's own runs.
#[cfg(target_os = "linux")]
mod linux;
/// What every system can do; tested on Linux, too.
#[cfg(any(not(target_os = "linux"), test))]
pub mod portable;

use std::{net::IpAddr, time::Duration};

use quinn_udp::EcnCodepoint;

#[cfg(target_os = "linux")]
pub use self::linux::{Plan, Received, dropped, prepare, send_now, thread_time};
#[cfg(not(target_os = "linux"))]
pub use self::portable::{Plan, Received, dropped, prepare, send_now, thread_time};
use super::leg::{FarEnd, PackedAddress};

/// How long a receive waits: whoever receives looks up as often, whether it is to stop.
pub const WAIT: Duration = Duration::from_millis(100);
/// Messages in one receive, and in one send.
pub const SLOTS: usize = 64;

/// Part of what was received: a run of datagrams, all of `segment` bytes but the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The message it was received in.
    pub slot: usize,
    /// Its first byte there.
    pub start: usize,
    /// Its length, bytes.
    pub length: usize,
    /// Of a datagram, bytes.
    pub segment: usize,
    /// How many there are.
    pub datagrams: usize,
}

/// What the kernel says of a received message.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Where from.
    pub source: PackedAddress,
    /// Where to, if the system says.
    pub local: Option<IpAddr>,
    /// Congestion marks.
    pub ecn: Option<EcnCodepoint>,
    /// Bytes of each datagram in it; the last may be shorter.
    pub segment: usize,
}

/// What came of a send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Datagrams that the system took, and their bytes.
    pub datagrams: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Those of them that went to another relay, and their bytes.
    pub to_relays: (usize, usize),
    /// Sends of several datagrams as one.
    pub runs: usize,
    /// Datagrams for which there was no room in the socket's buffer.
    pub no_room: usize,
    /// Datagrams that the system refused.
    pub refused: usize,
}

impl Sent {
    fn add(&mut self, end: FarEnd, datagrams: usize, bytes: usize) {
        self.datagrams += datagrams;
        self.bytes += bytes;
        if end == FarEnd::Relay {
            let (relayed, relayed_bytes) = self.to_relays;
            self.to_relays = (relayed + datagrams, relayed_bytes + bytes);
        }
    }
}

#[cfg(test)]
mod tests;
