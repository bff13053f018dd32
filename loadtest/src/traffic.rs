//! The load: one thread that sends frames of all sessions, receives them again and counts.
//!
//! ```text
//!  what is due ─▶ sendmmsg, a socket each session ─▶ │ relay │ ─▶ epoll ─▶ recvmmsg, a socket each session ─▶ tally
//! ```
//!
//! The thread never sleeps while it runs, so that whoever forwards never has to wake it: that would cost more than the
//! frame. A *rate* is an open loop: what is due is sent whatever comes back. `max` is a closed loop: so many frames are on
//! their way, so that neither side drowns the other.

// When frames are due.
mod pace;
// What came of them.
mod tally;

use std::{
    collections::BTreeMap,
    io::IoSlice,
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use remora_proto::wire;

use self::tally::Tally;
pub use self::{
    pace::{Pace, Pacer},
    tally::{Counts, LaneCounts, STAMP_BYTES},
};
use crate::{
    interrupt,
    lane::{Lane, Wire},
    mmsg::{Inbox, MAX_RUN_BYTES, Message, Outbox, Wait},
    process::{Meter, Usage},
};

/// Frames of a burst, and of a train.
const UNIT_FRAMES: usize = 16;
/// Frames sent before one looks whether some have come back: half of those on their way, so that whoever forwards them has
/// the other half to do meanwhile, and does not sleep.
const TURN_FRAMES: usize = 128;
/// Sockets with something in them that are told at once, and runs taken from one of them.
const READY_SOCKETS: usize = 64;
const INBOX_SLOTS: usize = 16;
/// Frames that are still on their way when time is up have this long.
const DRAIN: Duration = Duration::from_millis(200);
/// A load counts for so long before it rests, and nodes keep alive: they want to every 20 s, and a relay forgets them after 60.
const STRETCH: Duration = Duration::from_secs(8);
/// A closed loop in which nothing comes back for so long has lost all that was on its way.
const STALL_NS: u64 = 50_000_000;

/// How frames are handed to the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// One at a time, the sessions in turns
    Single,
    /// 16 of one session back to back, each a datagram of its own
    Burst,
    /// 16 of one session in one piece that the kernel cuts (GSO)
    Train,
}

impl Mode {
    /// Frames of one session that are sent together.
    pub fn unit_frames(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Burst | Self::Train => UNIT_FRAMES,
        }
    }
}

/// What to send, and for how long.
#[derive(Debug)]
pub struct Load<'a> {
    /// The sessions' lanes.
    pub lanes: &'a [Lane],
    /// Their order.
    pub order: &'a [usize],
    /// How frames are sent.
    pub mode: Mode,
    /// How fast.
    pub pace: Pace,
    /// Bytes of a datagram on its way in, whatever stands before the data.
    pub datagram_bytes: usize,
    /// Before it counts.
    pub warm_up: Duration,
    /// While it counts.
    pub duration: Duration,
    /// Whose CPU is read at both ends of that.
    pub meter: Option<Meter>,
    /// Tells the frames of one run from another's.
    pub run: u32,
    /// Whether each lane is counted by itself, too.
    pub by_lane: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Frames.
    pub counts: Counts,
    /// How long it counted.
    pub counted: Duration,
    /// What the measured process used meanwhile.
    pub usage: Option<Usage>,
    /// The same of this one.
    pub own_usage: Usage,
    /// Memory that it had resident at the end.
    pub rss_bytes: Option<u64>,
}

/// What is done beside a load, on its thread.
pub trait Beside {
    /// In between while it counts, `counted_ns` after that began: for a moment.
    fn between(&mut self, _counted_ns: u64) {}

    /// Now and then, with no frame on its way and nothing counted.
    ///
    /// # Errors
    /// When the load cannot go on.
    fn rest(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Nothing.
impl Beside for () {}

/// Makes the load.
///
/// # Errors
/// When what is measured is gone, or somebody wants an end.
pub fn run(load: &Load<'_>, beside: &mut dyn Beside) -> anyhow::Result<Outcome> {
    let own = Meter::of(std::process::id())?;
    let measured_usage = || load.meter.map(Meter::usage).transpose();
    let mut running = Running::new(load)?;
    let mut counted = Duration::ZERO;
    let mut usage = load.meter.map(|_| Usage::default());
    let mut own_usage = Usage::default();
    while counted < load.duration {
        if !counted.is_zero() {
            running.drain()?;
            beside.rest()?;
        }
        running.begin();
        running.until(load.warm_up, &mut |_| {})?;
        let began = Instant::now();
        let (before, own_before) = (measured_usage()?, own.usage()?);
        running.tally.start();
        let began_ns = nanoseconds(counted);
        running.until((load.duration - counted).min(STRETCH), &mut |now_ns| {
            beside.between(began_ns + now_ns);
        })?;
        running.tally.stop();
        counted += began.elapsed();
        if let (Some(usage), Some(before), Some(after)) = (&mut usage, before, measured_usage()?) {
            usage.add(after.since(before));
        }
        own_usage.add(own.usage()?.since(own_before));
    }
    let rss_bytes = load.meter.map(Meter::rss_bytes).transpose()?;
    running.drain()?;
    Ok(Outcome {
        counts: running.tally.counts(),
        counted,
        usage,
        own_usage,
        rss_bytes,
    })
}

struct Running<'a> {
    load: &'a Load<'a>,
    began: Instant,
    pacer: Pacer,
    next: usize,
    sender: Sender,
    tally: Tally,
    epoll: Epoll,
    socket_by_lane: Vec<usize>,
    inbox: Inbox,
    progressed_ns: u64,
}

impl<'a> Running<'a> {
    fn new(load: &'a Load<'a>) -> anyhow::Result<Self> {
        let prefix_bytes = load
            .lanes
            .first()
            .map_or(0, |lane| lane.wire.prefix_bytes());
        let data_bytes = load.datagram_bytes.saturating_sub(prefix_bytes);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // Sessions of the same nodes share a socket, which goes by its first lane's number.
        let mut first_by_socket = BTreeMap::new();
        let mut socket_by_lane = Vec::with_capacity(load.lanes.len());
        for (number, lane) in load.lanes.iter().enumerate() {
            let socket = lane.receiver();
            let first = *first_by_socket.entry(socket.as_raw_fd()).or_insert(number);
            if first == number {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(number)?);
                epoll.add(socket, event)?;
            }
            socket_by_lane.push(first);
        }
        Ok(Self {
            load,
            began: Instant::now(),
            pacer: Pacer::new(load.pace, load.mode.unit_frames() as u64, 0),
            next: 0,
            sender: Sender::new(load.datagram_bytes, load.mode),
            tally: Tally::new(load.run, load.lanes.len(), data_bytes, load.by_lane)?,
            epoll,
            socket_by_lane,
            inbox: Inbox::new(INBOX_SLOTS, MAX_RUN_BYTES),
            progressed_ns: 0,
        })
    }

    fn now_ns(&self) -> u64 {
        nanoseconds(self.began.elapsed())
    }

    /// Frames are due from now on; those of before that have not arrived are lost.
    fn begin(&mut self) {
        self.tally.give_up();
        self.progressed_ns = self.now_ns();
        let unit_frames = self.load.mode.unit_frames() as u64;
        self.pacer = Pacer::new(self.load.pace, unit_frames, self.progressed_ns);
    }

    /// Sends and receives for `duration`; `between` is given the nanoseconds since it began.
    fn until(&mut self, duration: Duration, between: &mut dyn FnMut(u64)) -> anyhow::Result<()> {
        let began_ns = self.now_ns();
        let end_ns = began_ns + nanoseconds(duration);
        loop {
            interrupt::check()?;
            between(self.now_ns() - began_ns);
            let sent = self.send();
            let received = self.receive()?;
            let now_ns = self.now_ns();
            if now_ns >= end_ns {
                return Ok(());
            }
            if sent + received > 0 {
                self.progressed_ns = now_ns;
                continue;
            }
            if now_ns - self.progressed_ns > STALL_NS {
                self.tally.give_up();
                self.progressed_ns = now_ns;
            }
            // Only on a single core does somebody wait for this one.
            thread::yield_now();
        }
    }

    /// Waits for frames that are still on their way.
    fn drain(&mut self) -> anyhow::Result<()> {
        let end_ns = self.now_ns() + nanoseconds(DRAIN);
        while self.tally.on_their_way() > 0 && self.now_ns() < end_ns {
            interrupt::check()?;
            if self.receive()? == 0 {
                thread::yield_now();
            }
        }
        Ok(())
    }

    /// Sends what is due; how many frames that is.
    fn send(&mut self) -> usize {
        let load = self.load;
        let mut sent = 0;
        while sent < TURN_FRAMES {
            let now_ns = self.now_ns();
            if !self.pacer.take(now_ns, self.tally.on_their_way()) {
                break;
            }
            let number = load.order[self.next];
            self.next = (self.next + 1) % load.order.len();
            self.sender
                .send(&load.lanes[number], number, &mut self.tally, now_ns);
            sent += load.mode.unit_frames();
        }
        sent
    }

    /// Takes what has arrived; how many frames that is.
    fn receive(&mut self) -> anyhow::Result<usize> {
        let mut ready = [EpollEvent::empty(); READY_SOCKETS];
        let count = self.epoll.wait(&mut ready, EpollTimeout::ZERO)?;
        let mut frames = 0;
        for event in &ready[..count] {
            let number = usize::try_from(event.data())?;
            let lane = &self.load.lanes[number];
            // An error is one datagram's, on its way back: whether the process is gone is for the meter to say.
            self.inbox.receive(lane.receiver(), Wait::No).ok();
            let now_ns = self.now_ns();
            let prefix_bytes = lane.wire.arriving_prefix_bytes();
            for run in self.inbox.datagrams() {
                for datagram in run.segments().filter(|bytes| is_for_load(lane.wire, bytes)) {
                    let data = datagram.get(prefix_bytes..).unwrap_or_default();
                    let named = tally::lane_of(data);
                    let lane = named.filter(|&lane| {
                        self.socket_by_lane.get(lane) == Some(&number)
                            && self.load.lanes[lane].wire.carries(datagram)
                    });
                    frames += usize::from(self.tally.arrive(lane, data, now_ns));
                }
            }
        }
        Ok(frames)
    }
}

/// A relay has a word with its nodes, too; QUIC repairs that it is lost here.
fn is_for_load(wire: Wire, datagram: &[u8]) -> bool {
    !matches!(wire, Wire::Frame(_)) || wire::kind(datagram) != wire::Kind::Quic
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The frames of one unit, in one piece of memory.
struct Sender {
    bytes: Vec<u8>,
    datagram_bytes: usize,
    mode: Mode,
    outbox: Outbox,
}

impl Sender {
    fn new(datagram_bytes: usize, mode: Mode) -> Self {
        // Not zeros: nothing on the way may find out that it need not carry them.
        let bytes = (0..=250).cycle();
        Self {
            bytes: bytes.take(datagram_bytes * mode.unit_frames()).collect(),
            datagram_bytes,
            mode,
            outbox: Outbox::new(mode.unit_frames()),
        }
    }

    fn send(&mut self, lane: &Lane, number: usize, tally: &mut Tally, now_ns: u64) {
        let prefix_bytes = lane.wire.prefix_bytes();
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        for datagram in self.bytes.chunks_exact_mut(self.datagram_bytes) {
            lane.wire.write_prefix(datagram);
            let stamp = tally.stamp(number, now_ns).encode();
            datagram[prefix_bytes..prefix_bytes + STAMP_BYTES].copy_from_slice(&stamp);
        }
        let (piece_bytes, segment) = match self.mode {
            Mode::Single | Mode::Burst => (self.datagram_bytes, None),
            Mode::Train => (self.bytes.len(), u16::try_from(self.datagram_bytes).ok()),
        };
        let mut parts = [IoSlice::new(&[]); UNIT_FRAMES];
        let pieces = self.bytes.chunks_exact(piece_bytes);
        let count = pieces.len();
        for (part, piece) in parts.iter_mut().zip(pieces) {
            *part = IoSlice::new(piece);
        }
        let messages = parts[..count].chunks(1).map(|parts| Message {
            parts,
            to: None,
            segment,
        });
        // What the system does not take is lost, and is counted so.
        self.outbox.send(lane.sender(), messages);
    }
}
