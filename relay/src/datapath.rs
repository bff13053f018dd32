//! The workers: a batch from the socket, then for each run of datagrams demux → look up → plan, then one send.
//!
//! ```text
//!  socket ─▶ batch::Received ─▶ demux::runs ─┬─ frames ─▶ table::Table ─▶ batch::Plan ─▶ socket
//!                                            ├─ question ─▶ reflect ──────────────────▶ socket
//!                                            ├─ QUIC, parked nodes ─▶ bounded queue ─▶ control
//!                                            └─ other relays' checks ─▶ the same ─▶ mesh
//! ```
//!
//! A thread and a socket for each worker; the table and the metrics are all that they share. Between receive and send there is
//! no allocation, lock, copy, wait or log above `TRACE`, and one look at the clock. Nothing a peer sends is an error here: it
//! is a [`DropReason`], counted. A frame is never held back: a batch is what is there.

// Received into one memory, sent on from there.
pub mod batch;
// Pure: bytes → what they are.
pub mod demux;
// The ends of a session.
pub mod leg;
// Memory in large pages.
pub mod pages;
// Pure: "from which address do you see me?"
pub mod reflect;
// What of a processor a worker has, and what the system drops.
pub mod meter;
// The UDP sockets: bound, received from in batches, sent on by everybody.
pub mod socket;
// Pure: a frame's session and source → where the same bytes go; rate, last seen, counters.
pub mod table;

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::BytesMut;
use quinn_udp::{EcnCodepoint, Transmit};
use remora_proto::wire::frame::Header;
use tokio::sync::mpsc;

use self::{
    batch::{Meta, Piece, Plan, Received},
    demux::{Demuxed, Run},
    meter::Meter,
    reflect::Reflector,
    socket::Socket,
    table::{Moment, Table},
};
use crate::admin::metrics::{FrameLeg, Metrics, labels::Label};

/// Receive errors in a row after which the socket is given up: anything a peer can cause (ICMP) comes and goes.
const MAX_RECEIVE_ERRORS: u32 = 100;

/// Batches of which the metrics hear together: to tell them of one costs as much as a frame's look-up. When nothing more
/// comes they hear within [`batch::WAIT`].
const UNTOLD_BATCHES: u64 = 32;

/// QUIC packets on their way to control, of those who are here and of those who would like to be.
///
/// Enough for a burst while control waits for its turn; when full the packet is dropped and counted, and QUIC repairs it,
/// because control must never stop frames. Two queues, because a flood of first packets must not drop the others.
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
    /// Not of any connection here, as garbage is.
    QuicUnknown,
    /// Not of any parked node here, or said before.
    ParkUnknown,
    /// Control has not taken the packets before it.
    QuicQueueFull,
    /// Control has not taken the first packets before it: there are too many, or somebody floods.
    OpeningQueueFull,
    /// Its stream has not taken those before it.
    StreamQueueFull,
    /// It has waited for its stream until it was of no use any more.
    StreamLate,
    /// A reflection request by a stream, whose address is of no use to anybody.
    StreamReflect,
}

impl DropReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 17] = [
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
        Self::QuicUnknown,
        Self::ParkUnknown,
        Self::QuicQueueFull,
        Self::OpeningQueueFull,
        Self::StreamQueueFull,
        Self::StreamLate,
        Self::StreamReflect,
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
            Self::QuicUnknown => "quic_unknown",
            Self::ParkUnknown => "park_unknown",
            Self::QuicQueueFull => "quic_queue_full",
            Self::OpeningQueueFull => "opening_queue_full",
            Self::StreamQueueFull => "stream_queue_full",
            Self::StreamLate => "stream_late",
            Self::StreamReflect => "stream_reflect",
        }
    }
}

impl Label for DropReason {
    const ALL: &'static [Self] = &Self::ALL;

    fn label(self) -> &'static str {
        Self::label(self)
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// A QUIC packet, or a check, with what is known about it.
#[derive(Debug)]
pub struct QuicPacket {
    /// The packet; a copy, because it is decrypted in place.
    pub bytes: BytesMut,
    /// Where from.
    pub source: SocketAddr,
    /// Where to, if the system says.
    pub local: Option<IpAddr>,
    /// Congestion marks.
    pub ecn: Option<EcnCodepoint>,
}

/// What all workers of a relay share.
#[derive(Clone, Debug)]
pub struct Datapath {
    /// Where frames go.
    pub table: Arc<Table>,
    /// What became of them.
    pub metrics: Arc<Metrics>,
    /// Where QUIC packets leave.
    pub quic: mpsc::Sender<QuicPacket>,
    /// Where first ones do.
    pub openings: mpsc::Sender<QuicPacket>,
    /// Where other relays' checks do.
    pub checks: mpsc::Sender<QuicPacket>,
    /// Answers questions; rare, so that a lock is nothing.
    pub reflector: Arc<Mutex<Reflector>>,
}

/// Ends the workers when it is dropped, within [`batch::WAIT`].
#[derive(Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One socket's worker, a thread of its own.
#[derive(Debug)]
pub struct Worker {
    number: usize,
    datapath: Datapath,
    socket: Arc<Socket>,
    stopped: Arc<AtomicBool>,
}

impl Worker {
    /// The worker of that number, from 0: receives from `socket` and sends on it.
    pub fn new(number: usize, datapath: Datapath, socket: Arc<Socket>, stop: &Stop) -> Self {
        Self {
            number,
            datapath,
            socket,
            stopped: Arc::clone(&stop.0),
        }
    }

    /// Forwards until it is told to stop.
    ///
    /// # Errors
    /// When the socket itself is broken; no datagram can do that.
    pub fn run(self) -> io::Result<()> {
        let (mut received, mut plan) = (Received::default(), Plan::default());
        let metrics = &self.datapath.metrics;
        let batch_frames = metrics.batch_frames.local();
        let mut meter = Meter::new(
            self.number,
            Arc::clone(metrics),
            &self.socket,
            Instant::now(),
        );
        let mut errors = 0;
        while !self.stopped.load(Ordering::Relaxed) {
            match self.socket.receive(&mut received) {
                Ok(()) => {
                    errors = 0;
                    batch_frames.observe(self.handle(&received, &mut plan) as f64);
                    if batch_frames.get_sample_count() >= UNTOLD_BATCHES {
                        batch_frames.flush();
                        meter.look(&self.socket, Instant::now());
                    }
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
                {
                    batch_frames.flush();
                    meter.look(&self.socket, Instant::now());
                }
                Err(error) if errors >= MAX_RECEIVE_ERRORS => return Err(error),
                Err(error) => {
                    errors += 1;
                    tracing::debug!(%error, "receive failed");
                }
            }
        }
        Ok(())
    }

    /// One batch, one look at the clock; how many datagrams it was.
    fn handle(&self, received: &Received, plan: &mut Plan) -> usize {
        let now = Instant::now();
        let moment = self.datapath.table.moment(now);
        let mut datagrams = 0;
        for slot in received.slots() {
            let Some((message, meta)) = received.message(slot) else {
                continue;
            };
            for run in demux::runs(message, meta.segment) {
                datagrams += run.datagrams;
                if let Err(reason) = self.handle_run(run, slot, message, &meta, (now, moment), plan)
                {
                    self.datapath.metrics.dropped(reason, run.datagrams);
                }
                if plan.is_full() {
                    self.send(plan, received);
                }
            }
        }
        self.send(plan, received);
        datagrams
    }

    fn handle_run(
        &self,
        run: Run,
        slot: usize,
        message: &[u8],
        meta: &Meta,
        (now, moment): (Instant, Moment),
        plan: &mut Plan,
    ) -> Result<(), DropReason> {
        let datagram = || &message[run.start..][..run.length];
        match run.what? {
            Demuxed::Frame(header) => {
                let amount = (run.datagrams, run.length);
                let Header { session, side } = header;
                let to = self
                    .datapath
                    .table
                    .charge(session, side, amount, meta.source, moment)?;
                let piece = Piece {
                    slot,
                    start: run.start,
                    length: run.length,
                    segment: meta.segment.min(run.length),
                    datagrams: run.datagrams,
                };
                // The inner connection's congestion marks are end to end.
                plan.add(key(header), to, meta.ecn, piece);
                Ok(())
            }
            Demuxed::Reflect => self.reflect(datagram(), meta, now),
            // Few of each relay; more than are taken are nobody's.
            Demuxed::Check => {
                let packet = packet(datagram(), meta);
                let sent = self.datapath.checks.try_send(packet);
                sent.map_err(|_| DropReason::UnknownKind)
            }
            Demuxed::Quic | Demuxed::Park => self.hand_over(
                &self.datapath.quic,
                datagram(),
                meta,
                DropReason::QuicQueueFull,
            ),
            Demuxed::Opening => {
                let openings = &self.datapath.openings;
                self.hand_over(openings, datagram(), meta, DropReason::OpeningQueueFull)
            }
        }
    }

    fn send(&self, plan: &mut Plan, received: &Received) {
        let sent = self.socket.send_plan(plan, received);
        let metrics = &self.datapath.metrics;
        let (relayed, relayed_bytes) = sent.to_relays;
        metrics.forwarded(
            FrameLeg::Node,
            sent.datagrams - relayed,
            sent.bytes - relayed_bytes,
        );
        if relayed > 0 {
            metrics.forwarded(FrameLeg::Relay, relayed, relayed_bytes);
        }
        if sent.runs > 0 {
            metrics.gso_runs.inc_by(sent.runs as u64);
        }
        if sent.no_room + sent.refused > 0 {
            metrics.dropped(DropReason::SendBufferFull, sent.no_room);
            metrics.dropped(DropReason::SendFailed, sent.refused);
        }
    }

    fn reflect(&self, datagram: &[u8], meta: &Meta, now: Instant) -> Result<(), DropReason> {
        let mut reflector = self
            .datapath
            .reflector
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let source = meta.source.into();
        let answer = reflector.respond(datagram, source, now)?;
        let transmit = Transmit {
            destination: source,
            ecn: None,
            contents: &answer,
            segment_size: None,
            src_ip: meta.local,
        };
        self.socket.try_send(&transmit).map_err(|error| {
            if error.kind() == ErrorKind::WouldBlock {
                DropReason::SendBufferFull
            } else {
                DropReason::SendFailed
            }
        })
    }

    fn hand_over(
        &self,
        queue: &mpsc::Sender<QuicPacket>,
        datagram: &[u8],
        meta: &Meta,
        when_full: DropReason,
    ) -> Result<(), DropReason> {
        let Ok(slot) = queue.try_reserve() else {
            self.datapath.metrics.quic_queue_drops.inc();
            return Err(when_full);
        };
        slot.send(packet(datagram, meta));
        Ok(())
    }
}

fn packet(datagram: &[u8], meta: &Meta) -> QuicPacket {
    QuicPacket {
        bytes: BytesMut::from(datagram),
        source: meta.source.into(),
        local: meta.local,
        ecn: meta.ecn,
    }
}

/// The same for all frames that go to one leg.
fn key(header: Header) -> u64 {
    // Ids are random: the lowest bit of one of two that differ in nothing else may as well say the side.
    header.session.0.rotate_left(1) ^ u64::from(header.side as u8)
}

#[cfg(test)]
mod tests;
