//! Datagrams as fast as one thread can send them: more than one that looks at each can take.

use std::{
    io::{self, IoSlice},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsFd as _,
    thread,
};

use anyhow::Context as _;
use remora_proto::{
    id::{SessionId, Side},
    random::Random,
    wire::frame::{HEADER_LEN, Header},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::mmsg::{Address, MAX_BATCH, Message, Outbox};

/// Each is a frame, and of nobody's session: it costs a look, and concerns no other part of a relay.
const BYTES: u16 = 24;
/// As many as the kernel cuts one piece into: sending them costs less than looking at them.
const PIECES: u16 = 64;

/// Sends until it is dropped.
#[derive(Debug)]
pub struct Hose {
    _end: DropGuard,
}

impl Hose {
    /// Sends frames there.
    ///
    /// # Errors
    /// When there is no socket, or no thread.
    pub fn new(to: SocketAddrV4, random: &mut Random) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("no UDP socket")?;
        let end = CancellationToken::new();
        let (ended, bytes) = (end.clone(), frames(random));
        let send = move || {
            let mut outbox = Outbox::new(MAX_BATCH);
            let to = Address::from(to);
            let parts = [IoSlice::new(&bytes); MAX_BATCH];
            while !ended.is_cancelled() {
                let messages = parts.chunks(1).map(|parts| Message {
                    parts,
                    to: Some(&to),
                    segment: Some(BYTES),
                });
                outbox.send(socket.as_fd(), messages);
            }
        };
        let spawned: io::Result<_> = thread::Builder::new().name("hose".to_owned()).spawn(send);
        spawned.context("no thread")?;
        Ok(Self {
            _end: end.drop_guard(),
        })
    }
}

fn frames(random: &mut Random) -> Vec<u8> {
    let mut frames = vec![0; usize::from(BYTES * PIECES)];
    for frame in frames.chunks_mut(BYTES.into()) {
        let header = Header {
            side: Side::Host,
            session: SessionId(u64::from_be_bytes(random.bytes())),
        };
        frame[..HEADER_LEN].copy_from_slice(&header.encode());
    }
    frames
}

#[cfg(test)]
mod tests {
    use remora_proto::wire::{self, Kind};

    use super::*;

    #[test]
    fn all_are_frames_of_different_sessions() {
        let frames = frames(&mut Random::seeded(1));
        let frames: Vec<_> = frames.chunks(BYTES.into()).collect();
        assert_eq!(frames.len(), usize::from(PIECES));
        assert!(frames.iter().all(|frame| wire::kind(frame) == Kind::Frame));
        assert_ne!(frames[0], frames[1]);
    }
}
