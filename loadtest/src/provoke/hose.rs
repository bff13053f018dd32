//! Datagrams as fast as one thread can send them: more than one that looks at each can take.

use std::{
    io::{self, IoSlice},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsFd as _,
    thread,
};

use anyhow::Context as _;
use remora_proto::random::Random;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::mmsg::{Address, MAX_BATCH, Message, Outbox};

/// Each is shorter than a frame, and nobody's: it costs a look.
const BYTES: u16 = 24;
/// As many as the kernel cuts one piece into: sending them costs less than looking at them.
const PIECES: u16 = 64;

/// Sends until it is dropped.
#[derive(Debug)]
pub struct Hose {
    _end: DropGuard,
}

impl Hose {
    /// Sends random bytes there: none of them is of anybody's session.
    ///
    /// # Errors
    /// When there is no socket, or no thread.
    pub fn new(to: SocketAddrV4, random: &mut Random) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("no UDP socket")?;
        let end = CancellationToken::new();
        let (ended, bytes) = (end.clone(), random.bytes::<{ (BYTES * PIECES) as usize }>());
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
