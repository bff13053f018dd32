//! What stands on the wire, and who owns which first byte of a UDP datagram.
//!
//! | first byte | meaning | module |
//! |---|---|---|
//! | 0x04 | frame: a packet of an inner connection, relayed | `frame` |
//! | 0x05 | address reflection | `reflect` |
//! | 0x06 | a check of a path between two nodes, or two relays | `path::check` |
//! | 0x07 | a parked node, or to one | [`park`](crate::park) |
//! | 0x40–0xff | QUIC (both ends switch off quinn's `grease_quic_bit`) | |
//! | else | dropped, counted | |
//!
//! 4–15 are what RFC 9443 leaves unassigned between STUN, DTLS, TURN channels and QUIC.

/// An address, as some datagrams have it.
pub mod address;
/// Frames: the fixed header before a relayed packet.
pub mod frame;
/// Protobuf messages on QUIC streams.
pub mod message;
/// "From which address do you see me?"
pub mod reflect;
/// Datagrams on a stream of TCP.
pub mod stream;

/// First byte of a frame.
pub const FIRST_BYTE_FRAME: u8 = 0x04;
/// First byte of an address reflection request or response.
pub const FIRST_BYTE_REFLECT: u8 = 0x05;
/// First byte of a check of a path.
pub const FIRST_BYTE_CHECK: u8 = 0x06;
/// First byte of what parked nodes and their relay say to each other.
pub const FIRST_BYTE_PARK: u8 = 0x07;

/// What a datagram's first byte says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// See [`frame`].
    Frame,
    /// See [`reflect`].
    Reflect,
    /// See `path::check`.
    Check,
    /// See [`park`](crate::park).
    Park,
    /// A QUIC packet: quinn decides what to make of it.
    Quic,
    /// Nothing of ours, or an empty datagram.
    Unknown,
}

/// Tells a datagram's kind by its first byte.
pub fn kind(datagram: &[u8]) -> Kind {
    match datagram.first() {
        Some(&FIRST_BYTE_FRAME) => Kind::Frame,
        Some(&FIRST_BYTE_REFLECT) => Kind::Reflect,
        Some(&FIRST_BYTE_CHECK) => Kind::Check,
        Some(&FIRST_BYTE_PARK) => Kind::Park,
        Some(0x40..) => Kind::Quic,
        _ => Kind::Unknown,
    }
}
