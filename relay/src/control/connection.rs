//! One node's connection, pure: packets, replies and `now` in; packets, requests and its end out.
//!
//! ```text
//! Handshaking (10 s) ─▶ Greeting: stream and Hello (5 s) ─▶ Serving: requests in order, one answer each; notices between
//!                                                               └─▶ Leaving: last words, until they are acknowledged (0.5 s)
//! ```
//!
//! Requests are read one at a time: a node that asks faster than it is answered, or does not read its answers, fills its own
//! stream, nobody's memory. What a node can do wrong is a [`Refusal`](super::message::Refusal) when the stream can go on, else
//! the end.

use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use quinn_proto::{
    self as quic, ConnectionEvent, Dir, EndpointEvent, ReadError, StreamEvent, StreamId, Transmit,
    VarInt, WriteError,
};
use remora_proto::{
    id::NodeId,
    noise::PeerInfo,
    park::{self, Grant},
    wire::message::{Inbox, MAX_CONTROL_BYTES, control::Hello, encode},
};

use super::message::{NodeToRelay, RelayToNode, Reply, Request};
use crate::datapath::leg::{FarEnd, Leg};

/// The relay stops.
pub const CLOSED_DRAINED: VarInt = VarInt::from_u32(1);
/// The node does not speak this protocol.
pub const CLOSED_MALFORMED: VarInt = VarInt::from_u32(2);
/// The node did not say Hello in time.
pub const CLOSED_SILENT: VarInt = VarInt::from_u32(3);
/// The node does not read what it is told.
pub const CLOSED_TOO_SLOW: VarInt = VarInt::from_u32(4);
/// The node's Hello was refused, and it was told why.
pub const CLOSED_REFUSED: VarInt = VarInt::from_u32(5);
/// The node asked to be parked, and is.
pub const CLOSED_PARKED: VarInt = VarInt::from_u32(park::CLOSE_CODE);
/// The node is gone, or says so.
pub const CLOSED_BYE: VarInt = VarInt::from_u32(0);

/// From a first packet to a proven key (`SECURITY` §2.4).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From there to a whole Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// For what a node is told to find room in its window.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the node to acknowledge the last message before the connection closes over it.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);
/// The same for a node that is parked: what it has been told before is not told again.
const PARKED_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection that was closed from here is kept, to say so again to a node that goes on.
const LINGER: Duration = Duration::from_secs(1);
/// What may wait for a node beyond its window.
///
/// All tries at all its codes at once (4 × 64) fit. A node with more does not read; it is disconnected, because a notice left
/// out would leave it with a wrong picture.
const MAX_UNSENT_BYTES: usize = 256 * MAX_CONTROL_BYTES;
/// Name of a program, as `control.proto` allows.
const MAX_AGENT_BYTES: usize = 64;

/// Why a connection does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Wrong key, wrong protocol, or the node went away before it proved anything.
    HandshakeFailed,
    /// It took too long over that.
    HandshakeTimedOut,
    /// It is closed already, or the node finished its stream.
    Gone,
    /// No Hello in time.
    Silent,
    /// What came is no message of ours.
    Malformed,
    /// What we say is not read.
    TooSlow,
    /// No further; the node was told why.
    Refused,
    /// It keeps its place without this.
    Parked,
    /// The relay stops.
    Closing,
}

impl End {
    fn close(self) -> (VarInt, &'static [u8]) {
        match self {
            Self::HandshakeFailed | Self::HandshakeTimedOut | Self::Gone => (CLOSED_BYE, b""),
            Self::Silent => (CLOSED_SILENT, b"no Hello in time"),
            Self::Malformed => (CLOSED_MALFORMED, b"malformed message"),
            Self::TooSlow => (CLOSED_TOO_SLOW, b"messages are not read"),
            Self::Refused => (CLOSED_REFUSED, b"refused"),
            Self::Parked => (CLOSED_PARKED, b"parked"),
            Self::Closing => (CLOSED_DRAINED, b"the relay stops"),
        }
    }
}

/// What came of a connection.
#[derive(Debug)]
pub enum Event {
    /// The node has proven its key, so long after its first packet.
    Connected(Duration),
    /// Its first message, and the number of that request.
    Hello(u64, Hello),
    /// A message after that. The next one is read when this one is [answered](Connection::answered).
    Message(NodeToRelay),
    /// It is over; said once, and not when it is closed from here.
    Ended(End),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Handshaking { since: Instant },
    Greeting { until: Instant },
    Serving,
    Leaving { end: End, until: Instant },
    Closed { until: Instant },
}

/// The machine.
#[derive(Debug)]
pub struct Connection {
    quic: quic::Connection,
    phase: Phase,
    node: NodeId,
    leg: Leg,
    /// It is somewhere else now and has proven it, and nobody has been told.
    has_moved: bool,
    stream: Option<StreamId>,
    inbox: Inbox,
    /// Its last message has no answer yet.
    busy: bool,
    /// For the node, and beyond its window.
    unsent: BytesMut,
    /// When it is too slow, if nothing of that is taken.
    unsent_until: Option<Instant>,
}

impl Connection {
    /// A connection whose first packet was accepted at `now`.
    pub fn new(quic: quic::Connection, now: Instant) -> Self {
        let leg = Leg {
            end: FarEnd::Node,
            remote: quic.remote_address(),
            local: quic.local_ip(),
        };
        Self {
            quic,
            phase: Phase::Handshaking { since: now },
            node: NodeId([0; 32]),
            leg,
            has_moved: false,
            stream: None,
            inbox: Inbox::new(MAX_CONTROL_BYTES),
            busy: false,
            unsent: BytesMut::new(),
            unsent_until: None,
        }
    }

    /// Who it is, once [`Event::Connected`].
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where it is, as far as that is proven.
    pub fn leg(&self) -> Leg {
        self.leg
    }

    /// What both ends can keep of it; `None` before it is connected.
    pub fn grant(&self) -> Option<Grant> {
        let crypto = self.quic.crypto_session();
        Grant::export(|out, label, context| crypto.export_keying_material(out, label, context)).ok()
    }

    /// Whether nothing is said on it any more.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed { .. })
    }

    /// Whether it can be forgotten.
    pub fn is_over(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Closed { until } if until <= now)
    }

    // --- in ---

    /// A packet, or new connection ids.
    pub fn handle_event(&mut self, event: ConnectionEvent) {
        self.quic.handle_event(event);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.quic.handle_timeout(now);
    }

    /// Its last message has been dealt with.
    pub fn answered(&mut self) {
        self.busy = false;
    }

    /// Tells the node something; `request` is 0 when it did not ask.
    pub fn write(&mut self, request: u64, body: Reply, now: Instant) {
        if self.phase != Phase::Serving {
            return;
        }
        let body = Some(body);
        self.unsent
            .extend_from_slice(&encode(&RelayToNode { request, body }));
        self.flush(now);
    }

    /// Tells the node what waited for it, as messages on the stream.
    pub fn write_untold(&mut self, messages: &[u8], now: Instant) {
        self.unsent.extend_from_slice(messages);
        self.flush(now);
    }

    /// Ends it, after what was said so far.
    pub fn leave(&mut self, end: End, now: Instant) {
        match (self.phase, self.stream) {
            (Phase::Leaving { .. } | Phase::Closed { .. }, _) => {}
            (Phase::Serving | Phase::Greeting { .. }, Some(_)) => {
                let until = if end == End::Parked {
                    now + PARKED_TIMEOUT
                } else {
                    now + LAST_WORDS_TIMEOUT
                };
                self.phase = Phase::Leaving { end, until };
                self.flush(now);
            }
            _ => self.close(end, now),
        }
    }

    /// Ends it, whatever is unsaid.
    pub fn close(&mut self, end: End, now: Instant) {
        let (code, reason) = end.close();
        self.quic.close(now, code, Bytes::from_static(reason));
        let until = match self.phase {
            // Whoever proved nothing is owed nothing.
            Phase::Handshaking { .. } => now,
            Phase::Closed { until } => until,
            Phase::Greeting { .. } | Phase::Serving | Phase::Leaving { .. } => now + LINGER,
        };
        self.closed(until);
    }

    // --- out ---

    /// What came of the inputs; call until `None`, after each of them.
    pub fn poll(&mut self, now: Instant) -> Option<Event> {
        while let Some(event) = self.quic.poll() {
            if let Some(event) = self.handle_quic(event, now) {
                return Some(event);
            }
        }
        if let Some(end) = self.overdue(now) {
            return self.end(end, now);
        }
        if !self.unsent.is_empty() {
            self.flush(now);
        }
        match self.phase {
            Phase::Greeting { .. } | Phase::Serving => {}
            Phase::Handshaking { .. } | Phase::Leaving { .. } | Phase::Closed { .. } => {
                return None;
            }
        }
        if self.busy || !self.unsent.is_empty() {
            return None;
        }
        match self.read() {
            Ok(message) => self.handle_message(message?, now),
            Err(end) => self.end(end, now),
        }
    }

    /// A packet to send, written to `buffer`.
    pub fn poll_transmit(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<Transmit> {
        buffer.clear();
        let remote = self.quic.remote_address();
        let is_elsewhere = remote != self.leg.remote && !self.quic.is_closed();
        let challenges = is_elsewhere.then(|| self.quic.stats().frame_tx.path_challenge);
        // Control is a packet at a time: nothing to hand over as a train.
        let transmit = self.quic.poll_transmit(now, 1, buffer)?;
        // quinn names a new address before it has proven it: a packet of the node's, sent again by somebody who writes
        // another's address on it, must not send that one a screen. But until the node has answered its challenge from
        // there, quinn puts it into every packet that goes there: the first without one says that it has.
        if let Some(before) = challenges
            && transmit.destination == remote
            && self.quic.stats().frame_tx.path_challenge == before
        {
            self.leg.remote = remote;
            self.has_moved = true;
        }
        Some(transmit)
    }

    /// Where it is now, if it has moved and has proven that it is there; once, after packets were polled for.
    pub fn poll_moved(&mut self) -> Option<Leg> {
        std::mem::take(&mut self.has_moved).then_some(self.leg)
    }

    /// Something for the endpoint.
    pub fn poll_endpoint_event(&mut self) -> Option<EndpointEvent> {
        self.quic.poll_endpoint_events()
    }

    /// When [`Self::handle_timeout`] and then [`Self::poll`] are due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let own = match self.phase {
            Phase::Handshaking { since } => Some(since + HANDSHAKE_TIMEOUT),
            Phase::Greeting { until } | Phase::Leaving { until, .. } | Phase::Closed { until } => {
                Some(until)
            }
            Phase::Serving => None,
        };
        [self.quic.poll_timeout(), own, self.unsent_until]
            .into_iter()
            .flatten()
            .min()
    }

    // --- within ---

    fn handle_quic(&mut self, event: quic::Event, now: Instant) -> Option<Event> {
        match (event, self.phase) {
            (quic::Event::Connected, Phase::Handshaking { since }) => {
                let identity = self.quic.crypto_session().peer_identity();
                let Some(peer) = identity.and_then(|peer| peer.downcast::<PeerInfo>().ok()) else {
                    return self.end(End::HandshakeFailed, now);
                };
                self.node = NodeId(peer.static_key);
                let until = now + HELLO_TIMEOUT;
                self.phase = Phase::Greeting { until };
                Some(Event::Connected(now.saturating_duration_since(since)))
            }
            (quic::Event::ConnectionLost { reason }, phase) => {
                tracing::debug!(%reason, node = ?self.node, "connection lost");
                self.closed(now);
                match phase {
                    Phase::Closed { .. } => None,
                    Phase::Handshaking { .. } => Some(Event::Ended(End::HandshakeFailed)),
                    Phase::Greeting { .. } | Phase::Serving => Some(Event::Ended(End::Gone)),
                    Phase::Leaving { end, .. } => Some(Event::Ended(end)),
                }
            }
            (quic::Event::Stream(StreamEvent::Opened { dir: Dir::Bi }), _) => {
                let opened = self.quic.streams().accept(Dir::Bi);
                self.stream = self.stream.or(opened);
                None
            }
            (
                quic::Event::Stream(StreamEvent::Finished { .. } | StreamEvent::Stopped { .. }),
                Phase::Leaving { end, .. },
            ) => self.end(end, now),
            (
                quic::Event::Connected
                | quic::Event::HandshakeDataReady
                | quic::Event::Stream(_)
                | quic::Event::DatagramReceived
                | quic::Event::DatagramsUnblocked,
                _,
            ) => None,
        }
    }

    /// Nothing is said any more, and nothing waits.
    fn closed(&mut self, until: Instant) {
        self.phase = Phase::Closed { until };
        self.unsent = BytesMut::new();
        self.unsent_until = None;
    }

    /// Why it ends now, if it does.
    fn overdue(&self, now: Instant) -> Option<End> {
        let is_over = |until: Instant| until <= now;
        match self.phase {
            Phase::Handshaking { since } if is_over(since + HANDSHAKE_TIMEOUT) => {
                Some(End::HandshakeTimedOut)
            }
            Phase::Greeting { until } if is_over(until) => Some(End::Silent),
            Phase::Leaving { end, until } if is_over(until) => Some(end),
            Phase::Closed { .. } => None,
            Phase::Handshaking { .. }
            | Phase::Greeting { .. }
            | Phase::Serving
            | Phase::Leaving { .. } => {
                let too_slow =
                    self.unsent_until.is_some_and(is_over) || self.unsent.len() > MAX_UNSENT_BYTES;
                too_slow.then_some(End::TooSlow)
            }
        }
    }

    fn end(&mut self, end: End, now: Instant) -> Option<Event> {
        self.close(end, now);
        Some(Event::Ended(end))
    }

    fn handle_message(&mut self, message: NodeToRelay, now: Instant) -> Option<Event> {
        if self.phase == Phase::Serving {
            self.busy = true;
            return Some(Event::Message(message));
        }
        match message.body {
            Some(Request::Hello(hello)) if hello.agent.len() <= MAX_AGENT_BYTES => {
                self.phase = Phase::Serving;
                self.busy = true;
                Some(Event::Hello(message.request, hello))
            }
            _ => self.end(End::Malformed, now),
        }
    }

    /// The next message, if it has arrived.
    fn read(&mut self) -> Result<Option<NodeToRelay>, End> {
        let Some(stream) = self.stream else {
            return Ok(None);
        };
        loop {
            if let Some(message) = self.inbox.next().map_err(|_| End::Malformed)? {
                return Ok(Some(message));
            }
            let mut stream = self.quic.recv_stream(stream);
            let mut chunks = stream.read(true).map_err(|_| End::Gone)?;
            let chunk = chunks.next(MAX_CONTROL_BYTES);
            // Whoever polls for packets does so after each poll for events.
            let _should_transmit = chunks.finalize();
            match chunk {
                Ok(Some(chunk)) => self.inbox.push(&chunk.bytes),
                Err(ReadError::Blocked) => return Ok(None),
                Ok(None) | Err(ReadError::Reset(_)) => return Err(End::Gone),
            }
        }
    }

    /// Gives QUIC what it takes of what the node is to be told; then, when leaving, the end of the stream.
    fn flush(&mut self, now: Instant) {
        let Some(stream) = self.stream else { return };
        let before = self.unsent.len();
        let mut stream = self.quic.send_stream(stream);
        while !self.unsent.is_empty() {
            match stream.write(&self.unsent) {
                Ok(taken) => self.unsent.advance(taken),
                Err(WriteError::Blocked) => break,
                // Nobody listens; that the connection is over comes by another way.
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => self.unsent.clear(),
            }
        }
        if self.unsent.is_empty() {
            // Not kept: an idle node costs no buffer.
            self.unsent = BytesMut::new();
            self.unsent_until = None;
            if let Phase::Leaving { until, .. } = &mut self.phase
                && stream.finish().is_err()
            {
                *until = now;
            }
        } else if self.unsent.len() < before || self.unsent_until.is_none() {
            self.unsent_until = Some(now + WRITE_TIMEOUT);
        }
    }
}

#[cfg(test)]
mod tests;
