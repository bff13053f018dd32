//! Bytes → what they are. Pure; the first bytes are `proto::wire`'s.

use remora_proto::{
    path::check,
    wire::{
        self, Kind,
        frame::{HEADER_LEN, Header, InvalidFrame},
    },
};

use super::DropReason;

/// A long header of the type Initial, which is never hidden.
const INITIAL_MASK: u8 = 0xb0;
const INITIAL: u8 = 0x80;

/// A datagram somebody here can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demuxed {
    /// To be forwarded, if its session allows.
    Frame(Header),
    /// "From which address do you see me?", or not: see [`super::reflect`].
    Reflect,
    /// For control, from a connection that may be known.
    Quic,
    /// For the mesh, from another relay.
    Check,
    /// For control, from a parked node that may be known.
    Park,
    /// For control, from a connection that is about to be (an Initial, RFC 9000 §17.2.2).
    Opening,
}

/// Datagrams behind one another that are alike: frames of one session and side, or one of anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// What they are, or why they are of no use.
    pub what: Result<Demuxed, DropReason>,
    /// The first one's first byte in the message.
    pub start: usize,
    /// Bytes of them all.
    pub length: usize,
    /// How many.
    pub datagrams: usize,
}

/// The runs of a message: a datagram, or several of `segment` bytes, but the last, that the kernel has joined.
pub fn runs(message: &[u8], segment: usize) -> impl Iterator<Item = Run> {
    let segment = segment.max(1);
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let start = next.take()?;
        let first = &message[start..message.len().min(start + segment)];
        let what = demux(first);
        let (mut length, mut datagrams) = (first.len(), 1);
        if let Ok(Demuxed::Frame(_)) = what {
            for datagram in message[start + length..].chunks(segment) {
                let alike =
                    datagram.len() > HEADER_LEN && datagram[..HEADER_LEN] == first[..HEADER_LEN];
                if !alike {
                    break;
                }
                length += datagram.len();
                datagrams += 1;
            }
        }
        next = Some(start + length).filter(|next| *next < message.len());
        Some(Run {
            what,
            start,
            length,
            datagrams,
        })
    })
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
        Kind::Park => Ok(Demuxed::Park),
        Kind::Quic if datagram[0] & INITIAL_MASK == INITIAL => Ok(Demuxed::Opening),
        Kind::Quic => Ok(Demuxed::Quic),
        Kind::Check if check::session(datagram).is_some() => Ok(Demuxed::Check),
        Kind::Check | Kind::Unknown => Err(DropReason::UnknownKind),
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
                7 => Ok(Demuxed::Park),
                0xc0..=0xcf | 0x80..=0x8f => Ok(Demuxed::Opening),
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

    fn frame(session: u64, payload: &[u8]) -> Vec<u8> {
        let header = Header {
            side: Side::Host,
            session: SessionId(session),
        };
        [&header.encode()[..], payload].concat()
    }

    #[test]
    fn frames_of_one_session_are_one_run() {
        let message = [
            frame(1, b"aaaa"),
            frame(1, b"bbbb"),
            frame(2, b"cccc"),
            vec![0x40; 16],
            vec![0x40; 16],
            frame(2, b"d"),
        ]
        .concat();
        let found: Vec<_> = runs(&message, 16)
            .map(|run| (run.start, run.length, run.datagrams))
            .collect();
        assert_eq!(
            found,
            [
                (0, 32, 2),
                (32, 16, 1),
                (48, 16, 1),
                (64, 16, 1),
                (80, 13, 1)
            ]
        );
        let nothing: Vec<_> = runs(&[], 1).collect();
        assert_eq!(nothing.len(), 1);
        assert_eq!(nothing[0].what, Err(DropReason::UnknownKind));
    }

    proptest! {
        /// Together they are the message, and each datagram in them is what its run says.
        #[test]
        fn runs_are_all_of_a_message(
            sessions in prop::collection::vec(0..4_u64, 0..20), payload in 0..9_usize, last in 0..21_usize,
        ) {
            let segment = HEADER_LEN + payload;
            let mut message: Vec<u8> = sessions.iter().flat_map(|id| frame(*id, &vec![7; payload])).collect();
            message.extend(std::iter::repeat_n(4, last.min(segment)));
            let mut end = 0;
            for run in runs(&message, segment) {
                prop_assert_eq!(run.start, end);
                end += run.length;
                let datagrams: Vec<_> = message[run.start..end].chunks(segment).collect();
                prop_assert_eq!(run.datagrams, datagrams.len().max(1));
                for datagram in datagrams {
                    prop_assert_eq!(demux(datagram), run.what);
                }
            }
            prop_assert_eq!(end, message.len());
        }
    }
}
