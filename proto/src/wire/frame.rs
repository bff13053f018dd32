//! Frames: a packet of an inner connection on its way through a relay.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | type, 0x04 |
//! | 1 | 1 | flags: bit 0 is the side that sent it, the others are 0 |
//! | 2 | 2 | reserved, 0 |
//! | 4 | 8 | session id, big endian |
//! | 12 | … | the inner packet, untouched |
//!
//! A relay looks the id up, checks that the source is the leg of the side the flag names, and sends
//! the same bytes to the other leg: nothing is parsed, copied or re-encrypted behind offset 12.

use crate::id::{SessionId, Side};

/// Bytes before the inner packet.
pub const HEADER_LEN: usize = 12;

/// The 12 bytes before an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who sent it.
    pub side: Side,
    /// Which session it belongs to.
    pub session: SessionId,
}

/// Why a datagram that begins with 0x04 is not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFrame {
    /// Nothing behind the header.
    #[error("shorter than a frame header and one byte")]
    Short,
    /// Another type, a flag or a reserved bit that this version does not know.
    #[error("unknown type, flag or reserved bit")]
    Reserved,
}

impl Header {
    /// The header's bytes.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0] = super::FIRST_BYTE_FRAME;
        out[1] = self.side as u8;
        out[4..].copy_from_slice(&self.session.0.to_be_bytes());
        out
    }

    /// Splits a datagram into header and inner packet.
    ///
    /// # Errors
    /// [`InvalidFrame`] when it is not a frame of this version.
    pub fn decode(datagram: &[u8]) -> Result<(Self, &[u8]), InvalidFrame> {
        let (header, packet) = datagram
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(InvalidFrame::Short)?;
        let [super::FIRST_BYTE_FRAME, flags @ 0..=1, 0, 0, session @ ..] = header else {
            return Err(InvalidFrame::Reserved);
        };
        if packet.is_empty() {
            return Err(InvalidFrame::Short);
        }
        let side = if *flags == 0 {
            Side::Host
        } else {
            Side::Joiner
        };
        Ok((
            Self {
                side,
                session: SessionId(u64::from_be_bytes(*session)),
            },
            packet,
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_is_the_table() {
        let header = Header {
            side: Side::Joiner,
            session: SessionId(0x0102_0304_0506_0708),
        };
        let bytes = header.encode();
        assert_eq!(bytes, [4, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        let datagram = [&bytes[..], b"packet"].concat();
        assert_eq!(Header::decode(&datagram), Ok((header, &b"packet"[..])));
        assert_eq!(Header::decode(&bytes), Err(InvalidFrame::Short));
        assert_eq!(Header::decode(&[4; 11]), Err(InvalidFrame::Short));
        for (at, value) in [(0, 5), (1, 2), (1, 0x81), (2, 1), (3, 1)] {
            let mut bad = datagram.clone();
            bad[at] = value;
            assert_eq!(Header::decode(&bad), Err(InvalidFrame::Reserved));
        }
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(datagram in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok((header, packet)) = Header::decode(&datagram) {
                prop_assert_eq!([&header.encode()[..], packet].concat(), datagram);
            }
        }
    }
}
