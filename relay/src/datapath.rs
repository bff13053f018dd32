//! The task that receives: a batch from the socket, then for each datagram demux → look up → send.
//!
//! Between receive and send there is no `await`, no copy and no log above `TRACE`. Nothing a peer sends is an
//! error here: it is a [`DropReason`], counted.

// Pure: bytes → what they are.
pub mod demux;
// Pure: a frame, its source and the table → where the same bytes go.
pub mod forward;
// Pure: "from which address do you see me?"
pub mod reflect;
// The UDP socket: bound, received from in batches, sent on by everybody.
pub mod socket;
// Session → where to; rate, last seen, counters.
pub mod table;

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use quinn::udp::{RecvMeta, Transmit};
use tokio::sync::mpsc;

use self::{
    demux::Demuxed,
    reflect::Reflector,
    socket::{Batch, Socket},
    table::Table,
};
use crate::admin::metrics::Metrics;

/// QUIC packets on their way to quinn.
///
/// Enough for a burst of handshakes while quinn's task waits for its turn; when full the packet is dropped
/// and counted, and QUIC repairs it, because control must never stop frames.
pub const QUIC_QUEUE: usize = 1024;

/// Why a datagram went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Its first byte is nobody's, or it is empty.
    UnknownKind,
    /// Begins like a frame and is shorter than one.
    FrameShort,
    /// A flag or a reserved bit this version does not know.
    FrameReserved,
    /// No session has this id, or has it any more.
    UnknownSession,
    /// Not from the address of the side it names.
    WrongSource,
    /// Its session sends faster than it may.
    RateLimited,
    /// Not a reflection request.
    ReflectMalformed,
    /// More questions than this relay answers.
    ReflectLimited,
    /// The socket's send buffer is full.
    SendBufferFull,
    /// The system refused to send it.
    SendFailed,
    /// Control has not taken the packets before it.
    QuicQueueFull,
}

impl DropReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::UnknownKind,
        Self::FrameShort,
        Self::FrameReserved,
        Self::UnknownSession,
        Self::WrongSource,
        Self::RateLimited,
        Self::ReflectMalformed,
        Self::ReflectLimited,
        Self::SendBufferFull,
        Self::SendFailed,
        Self::QuicQueueFull,
    ];

    /// The metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownKind => "unknown_kind",
            Self::FrameShort => "frame_short",
            Self::FrameReserved => "frame_reserved",
            Self::UnknownSession => "unknown_session",
            Self::WrongSource => "wrong_source",
            Self::RateLimited => "rate_limited",
            Self::ReflectMalformed => "reflect_malformed",
            Self::ReflectLimited => "reflect_limited",
            Self::SendBufferFull => "send_buffer_full",
            Self::SendFailed => "send_failed",
            Self::QuicQueueFull => "quic_queue_full",
        }
    }
}

/// A QUIC packet with what quinn wants to know about it.
#[derive(Debug)]
pub struct QuicPacket {
    /// The packet; a copy, because quinn decrypts in place.
    pub bytes: Bytes,
    /// Where from, where to, marks.
    pub meta: RecvMeta,
}

/// The receiving side of a relay.
#[derive(Debug)]
pub struct Datapath {
    socket: Arc<Socket>,
    table: Arc<Table>,
    metrics: Arc<Metrics>,
    quic: mpsc::Sender<QuicPacket>,
    reflector: Reflector,
}

impl Datapath {
    /// The datapath of `socket`; QUIC packets leave through `quic`.
    pub fn new(
        socket: Arc<Socket>,
        table: Arc<Table>,
        metrics: Arc<Metrics>,
        quic: mpsc::Sender<QuicPacket>,
        now: Instant,
    ) -> Self {
        Self {
            socket,
            table,
            metrics,
            quic,
            reflector: Reflector::new(now),
        }
    }

    /// Receives and forwards until it is dropped.
    ///
    /// # Errors
    /// When the socket itself is broken; no datagram can do that.
    pub async fn run(mut self) -> io::Result<()> {
        let socket = Arc::clone(&self.socket);
        let mut batch = Batch::new(&socket);
        loop {
            socket.receive(&mut batch).await?;
            let now = Instant::now();
            let mut datagrams = 0_u32;
            for (datagram, meta) in batch.datagrams() {
                datagrams += 1;
                if let Err(reason) = self.handle_datagram(datagram, meta, now) {
                    self.metrics.dropped(reason);
                }
            }
            self.metrics.batch_frames.observe(datagrams.into());
        }
    }

    fn handle_datagram(
        &mut self,
        datagram: &[u8],
        meta: &RecvMeta,
        now: Instant,
    ) -> Result<(), DropReason> {
        match demux::demux(datagram)? {
            Demuxed::Frame(header) => {
                let to = forward::forward(&self.table, header, datagram.len(), meta.addr, now)?;
                self.send(Transmit {
                    destination: to.remote,
                    // The inner connection's congestion marks are end to end.
                    ecn: meta.ecn,
                    contents: datagram,
                    segment_size: None,
                    src_ip: to.local,
                })?;
                self.metrics.forwarded(datagram.len());
                Ok(())
            }
            Demuxed::Reflect => self.reflect(datagram, meta, now),
            Demuxed::Quic => self.hand_to_quinn(datagram, meta),
        }
    }

    fn reflect(
        &mut self,
        datagram: &[u8],
        meta: &RecvMeta,
        now: Instant,
    ) -> Result<(), DropReason> {
        let answer = self.reflector.respond(datagram, meta.addr, now)?;
        self.send(answer_to(meta.addr, &answer, meta))
    }

    fn hand_to_quinn(&self, datagram: &[u8], meta: &RecvMeta) -> Result<(), DropReason> {
        let Ok(slot) = self.quic.try_reserve() else {
            self.metrics.quic_queue_drops.inc();
            return Err(DropReason::QuicQueueFull);
        };
        let meta = RecvMeta {
            len: datagram.len(),
            stride: datagram.len(),
            ..*meta
        };
        slot.send(QuicPacket {
            bytes: Bytes::copy_from_slice(datagram),
            meta,
        });
        Ok(())
    }

    fn send(&self, transmit: Transmit<'_>) -> Result<(), DropReason> {
        self.socket.try_send(&transmit).map_err(|error| {
            if error.kind() == io::ErrorKind::WouldBlock {
                DropReason::SendBufferFull
            } else {
                DropReason::SendFailed
            }
        })
    }
}

fn answer_to<'a>(destination: SocketAddr, contents: &'a [u8], meta: &RecvMeta) -> Transmit<'a> {
    Transmit {
        destination,
        ecn: None,
        contents,
        segment_size: None,
        src_ip: meta.dst_ip,
    }
}
