//! Bytes → what they are. Pure; the first bytes are `proto::wire`'s.

use remora_proto::wire::{
    self, Kind,
    frame::{Header, InvalidFrame},
};

use super::DropReason;

/// A datagram somebody here can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demuxed {
    /// To be forwarded, if its session allows.
    Frame(Header),
    /// "From which address do you see me?", or not: see [`super::reflect`].
    Reflect,
    /// For quinn.
    Quic,
}

/// Tells what `datagram` is.
///
/// # Errors
/// Why it is of no use.
pub fn demux(datagram: &[u8]) -> Result<Demuxed, DropReason> {
    match wire::kind(datagram) {
        Kind::Frame => match Header::decode(datagram) {
            Ok((header, _)) => Ok(Demuxed::Frame(header)),
            Err(InvalidFrame::Short) => Err(DropReason::FrameShort),
            Err(InvalidFrame::Reserved) => Err(DropReason::FrameReserved),
        },
        Kind::Reflect => Ok(Demuxed::Reflect),
        Kind::Quic => Ok(Demuxed::Quic),
        Kind::Unknown => Err(DropReason::UnknownKind),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use remora_proto::id::{SessionId, Side};

    use super::*;

    #[test]
    fn each_first_byte_has_one_owner() {
        let header = Header {
            side: Side::Joiner,
            session: SessionId(9),
        };
        let frame = [&header.encode()[..], b"x"].concat();
        assert_eq!(demux(&frame), Ok(Demuxed::Frame(header)));
        assert_eq!(demux(&frame[..12]), Err(DropReason::FrameShort));
        assert_eq!(demux(&[4]), Err(DropReason::FrameShort));
        assert_eq!(
            demux(&[&[4, 2][..], &frame[2..]].concat()),
            Err(DropReason::FrameReserved)
        );
        assert_eq!(demux(&[]), Err(DropReason::UnknownKind));
        for first in 0..=255 {
            let expected = match first {
                4 => Err(DropReason::FrameShort),
                5 => Ok(Demuxed::Reflect),
                0x40.. => Ok(Demuxed::Quic),
                _ => Err(DropReason::UnknownKind),
            };
            assert_eq!(demux(&[first]), expected, "first byte {first}");
        }
    }

    proptest! {
        #[test]
        fn only_whole_headers_become_frames(datagram in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Demuxed::Frame(header)) = demux(&datagram) {
                prop_assert!(datagram.starts_with(&header.encode()) && datagram.len() > 12);
            }
        }
    }
}
