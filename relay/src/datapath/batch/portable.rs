//! Batches by what quinn-udp does on every system.

use std::{
    io::{self, IoSliceMut},
    net::UdpSocket,
    ops::Range,
    os::fd::AsFd,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit, UdpSocketState};

use super::{Meta, Piece, SLOTS, Sent, WAIT};
use crate::datapath::leg::{Leg, PackedLeg};

const MAX_DATAGRAM_BYTES: usize = 65_535;

/// Makes a socket what batches need.
///
/// # Errors
/// What the system said.
pub fn prepare(socket: &UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)
}

/// Not every system says what it has dropped.
pub fn dropped(_: &UdpSocket) -> Option<u32> {
    None
}

/// Nor what a thread has had of a processor.
pub fn thread_time() -> Option<Duration> {
    None
}

/// Sends now or not at all.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when there is no room in the socket's buffer, else what the system said.
pub fn send_now(
    socket: &UdpSocket,
    state: &UdpSocketState,
    transmit: &Transmit<'_>,
) -> io::Result<()> {
    state.try_send(socket.into(), transmit)
}

/// Buffers that messages are received into.
#[derive(Debug)]
pub struct Received {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    filled: usize,
}

impl Default for Received {
    /// Empty buffers.
    fn default() -> Self {
        Self {
            bytes: vec![0; MAX_DATAGRAM_BYTES * BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
            filled: 0,
        }
    }
}

impl Received {
    /// Takes what is there; waits [`WAIT`] for the first.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when nothing came, else what the system said.
    pub fn fill(&mut self, socket: &UdpSocket, state: &UdpSocketState) -> io::Result<()> {
        let wait = PollTimeout::try_from(WAIT).unwrap_or(PollTimeout::ZERO);
        poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], wait)?;
        let mut chunks = self.bytes.chunks_exact_mut(MAX_DATAGRAM_BYTES);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        self.filled = 0;
        self.filled = state.recv(socket.into(), &mut slices, &mut self.metas)?;
        Ok(())
    }

    /// The messages, by their numbers.
    pub fn slots(&self) -> Range<usize> {
        0..self.filled
    }

    /// A message and what is known of it.
    pub fn message(&self, slot: usize) -> Option<(&[u8], Meta)> {
        let meta = self.metas[..self.filled].get(slot)?;
        let bytes = self
            .bytes
            .get(slot * MAX_DATAGRAM_BYTES..)?
            .get(..meta.len)?;
        let meta = Meta {
            source: meta.addr.into(),
            local: meta.dst_ip,
            ecn: meta.ecn,
            segment: meta.stride.max(1),
        };
        Some((bytes, meta))
    }

    fn bytes_of(&self, piece: Piece) -> &[u8] {
        &self.bytes[piece.slot * MAX_DATAGRAM_BYTES..][piece.start..][..piece.length]
    }
}

/// What is to be sent of a batch, in the order in which it came.
#[derive(Debug, Default)]
pub struct Plan(Vec<(PackedLeg, Option<EcnCodepoint>, Piece)>);

impl Plan {
    /// Whether it has to be sent before more can be added.
    pub fn is_full(&self) -> bool {
        self.0.len() == SLOTS
    }

    /// Adds a run for `to`.
    pub fn add(&mut self, _key: u64, to: PackedLeg, ecn: Option<EcnCodepoint>, piece: Piece) {
        self.0.push((to, ecn, piece));
    }

    /// Sends everything, from where it was received, and is empty.
    pub fn send(
        &mut self,
        socket: &UdpSocket,
        state: &UdpSocketState,
        received: &Received,
    ) -> Sent {
        let mut sent = Sent::default();
        for (to, ecn, piece) in self.0.drain(..) {
            let to = Leg::from(to);
            for contents in received.bytes_of(piece).chunks(piece.segment) {
                let transmit = Transmit {
                    destination: to.remote,
                    ecn,
                    contents,
                    segment_size: None,
                    src_ip: to.local,
                };
                match state.try_send(socket.into(), &transmit) {
                    Ok(()) => {
                        sent.add(to.end, 1, contents.len());
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => sent.no_room += 1,
                    Err(_) => sent.refused += 1,
                }
            }
        }
        sent
    }
}
