//! Frames as fast as one thread can send them: more than one that looks at each, and sends each on, can take.

use std::{
    io::{self, IoSlice},
    net::{SocketAddrV4, UdpSocket},
    os::fd::AsFd as _,
    thread,
};

use anyhow::Context as _;
use remora_proto::{
    id::{SessionId, Side},
    wire::frame::{HEADER_LEN, Header},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::mmsg::{Address, MAX_BATCH, Message, Outbox};

/// Short ones cost as much as long ones, but for whoever sends them here.
const BYTES: u16 = 24;
/// As many as the kernel cuts one piece into.
const PIECES: u16 = 64;

/// Sends until it is dropped.
#[derive(Debug)]
pub struct Hose {
    _end: DropGuard,
}

impl Hose {
    /// Sends frames of the joiner's side of `sessions` there, each session's in turn, so that no two can be sent on as one.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn new(
        socket: UdpSocket,
        to: SocketAddrV4,
        sessions: &[SessionId],
    ) -> anyhow::Result<Self> {
        let end = CancellationToken::new();
        let (ended, bytes) = (end.clone(), frames(sessions));
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

fn frames(sessions: &[SessionId]) -> Vec<u8> {
    let mut frames = vec![0; usize::from(BYTES * PIECES)];
    let pieces = frames.chunks_mut(BYTES.into());
    for (frame, &session) in pieces.zip(sessions.iter().cycle()) {
        let side = Side::Joiner;
        frame[..HEADER_LEN].copy_from_slice(&Header { side, session }.encode());
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_frames_of_the_sessions_in_turns() {
        let sessions = [SessionId(7), SessionId(8)];
        let frames = frames(&sessions);
        let read = |frame| {
            let (header, _) = Header::decode(frame).expect("a frame");
            header.session
        };
        let read: Vec<_> = frames.chunks(BYTES.into()).map(read).collect();
        assert_eq!(read.len(), usize::from(PIECES));
        assert!(read.chunks(2).all(|two| *two == sessions));
    }
}
