//! The relay that carries a session's frames just now: written by the task that keeps relays, read for each packet.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn::udp::Transmit;
use remora_proto::{path::way::Way, wire::frame::Header};

use super::{silence::Silence, socket::MagicSocket};

/// What is sent while nothing has been heard for so long is kept, to be said again by another relay.
const DOUBTFUL: Duration = Duration::from_millis(100);

/// A session's way through a relay.
#[derive(Clone, Debug)]
pub struct Leg {
    /// By which the relay is reached.
    pub socket: Arc<MagicSocket>,
    /// The session as this relay knows it, and our side.
    pub header: Header,
    /// The relay's, for people.
    pub name: String,
    /// Whom the node's own socket can ask how it is seen: this relay, first, and where else it answers that.
    pub observers: Vec<SocketAddr>,
}

impl Leg {
    /// To the relay.
    pub fn way(&self) -> Way {
        Way::main(self.socket.relay())
    }

    /// Sends a packet in a frame, if there is room for it.
    pub fn send(&self, packet: &[u8]) {
        let frame = [&self.header.encode()[..], packet].concat();
        self.socket.send_to(&frame, self.way());
    }
}

/// See the module.
#[derive(Debug)]
pub struct Carrier {
    // Read once a packet and never across an await; written once a move.
    current: Mutex<Arc<Leg>>,
    /// The last packet that was sent into the silence.
    unanswered: Mutex<Option<Bytes>>,
    silence: Arc<Silence>,
}

impl Carrier {
    /// A session that begins on `leg`.
    pub fn new(leg: Leg, silence: Arc<Silence>) -> Self {
        Self {
            current: Mutex::new(Arc::new(leg)),
            unanswered: Mutex::default(),
            silence,
        }
    }

    /// By which frames go.
    pub fn leg(&self) -> Arc<Leg> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// They go by that one from now on. The last that nobody answered goes there at once: QUIC, which doubles its patience each time,
    /// might wait for seconds until it tries again, and learns by the answer that all before is lost.
    pub fn switch(&self, leg: Leg) {
        let leg = Arc::new(leg);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&leg);
        if let Some(packet) = self.take_unanswered()
            && self.silence.has_lasted(DOUBTFUL, Instant::now())
        {
            leg.send(&packet);
        }
        self.silence.heard();
    }

    /// Whether nothing has been heard for so long, although something was sent that has to be answered.
    pub fn is_silent(&self, duration: Duration, now: Instant) -> bool {
        self.silence.has_lasted(duration, now)
    }

    /// For how long that has been so.
    pub fn silence(&self, now: Instant) -> Duration {
        self.silence.length(now)
    }

    /// Notes what is sent while it is doubtful whether it arrives.
    pub(super) fn sent(&self, transmit: &Transmit<'_>, now: Instant) {
        self.silence.sent(now);
        if !self.silence.has_lasted(DOUBTFUL, now) {
            return;
        }
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        let last = transmit.contents.chunks(size.max(1)).next_back();
        let mut unanswered = self
            .unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *unanswered = last.map(Bytes::copy_from_slice);
    }

    fn take_unanswered(&self) -> Option<Bytes> {
        let mut unanswered = self
            .unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unanswered.take()
    }
}
