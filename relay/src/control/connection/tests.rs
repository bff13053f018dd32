//! A node's connection in virtual time, against a QUIC client whose packets can come from anywhere.

use std::{net::SocketAddr, sync::Arc};

use quinn_proto::{ClientConfig, ConnectionHandle, DatagramEvent, Endpoint, TransportConfig};
use remora_proto::{
    noise::{self, Profile, StaticKey},
    wire::message::{ALPN_RELAY, PROTOCOL},
};

use super::*;
use crate::control;

const STEP: Duration = Duration::from_millis(5);
/// Longer than any handshake takes here.
const STEPS: usize = 200;

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 4433))
}

/// A relay's endpoint with one connection, and the node at its other end.
struct Pair {
    now: Instant,
    relay: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    node: Endpoint,
    node_handle: ConnectionHandle,
    node_quic: quic::Connection,
    /// Where the node's packets come from, and where packets have to go to reach it.
    node_at: SocketAddr,
    /// What the relay has sent to anywhere else.
    strays: Vec<SocketAddr>,
    events: Vec<Event>,
}

impl Pair {
    fn new(change: impl FnOnce(&mut TransportConfig)) -> Self {
        let (now, key) = (Instant::now(), StaticKey::generate());
        let mut config = noise::ClientConfig::new(Profile::Hop, StaticKey::generate(), ALPN_RELAY);
        config.server_key = Some(key.public());
        let mut config: ClientConfig = config.into_quinn();
        let mut transport = TransportConfig::default();
        change(&mut transport);
        config.transport_config(Arc::new(transport));
        let own = Arc::new(noise::lone_endpoint_config(&[Profile::Hop]));
        let mut node = Endpoint::new(own, None, true, None);
        let (node_handle, node_quic) = node
            .connect(now, config, address(1), "relay")
            .expect("a valid configuration");
        Self {
            now,
            relay: control::endpoint(key, false),
            connection: None,
            node,
            node_handle,
            node_quic,
            node_at: address(2),
            strays: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Connected, and Hello said.
    fn welcomed(change: impl FnOnce(&mut TransportConfig)) -> Self {
        let mut pair = Self::new(change);
        pair.run_until(|pair| !pair.node_quic.is_handshaking());
        let hello = NodeToRelay {
            request: 1,
            body: Some(Request::Hello(Hello {
                protocol: PROTOCOL,
                agent: String::new(),
                ticket: 0,
            })),
        };
        let stream = pair.node_quic.streams().open(Dir::Bi).expect("allowed");
        let bytes = encode(&hello);
        let written = pair.node_quic.send_stream(stream).write(&bytes);
        assert_eq!(written, Ok(bytes.len()));
        pair.run_until(|pair| matches!(pair.events.last(), Some(Event::Hello(..))));
        pair.connection().answered();
        pair
    }

    fn connection(&mut self) -> &mut Connection {
        &mut self.connection.as_mut().expect("accepted").1
    }

    fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        for _ in 0..STEPS {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("{:?} and no further", self.events);
    }

    fn step(&mut self) {
        self.now += STEP;
        for datagram in self.node_packets() {
            self.deliver(&datagram, self.node_at);
        }
        self.turn();
    }

    /// What the node sends now.
    fn node_packets(&mut self) -> Vec<Vec<u8>> {
        self.node_quic.handle_timeout(self.now);
        while self.node_quic.poll().is_some() {}
        let (mut packets, mut buffer) = (Vec::new(), Vec::new());
        while let Some(transmit) = self.node_quic.poll_transmit(self.now, 1, &mut buffer) {
            packets.push(buffer[..transmit.size].to_vec());
            buffer.clear();
        }
        while let Some(event) = self.node_quic.poll_endpoint_events() {
            if let Some(event) = self.node.handle_event(self.node_handle, event) {
                self.node_quic.handle_event(event);
            }
        }
        packets
    }

    fn deliver(&mut self, datagram: &[u8], source: SocketAddr) {
        let (data, mut buffer) = (BytesMut::from(datagram), Vec::new());
        let event = self
            .relay
            .handle(self.now, source, None, None, data, &mut buffer);
        match event {
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = self.relay.accept(incoming, self.now, &mut buffer, None);
                let (handle, quic) = accepted.map_err(|error| error.cause).expect("accepted");
                self.connection = Some((handle, Connection::new(quic, self.now)));
            }
            Some(DatagramEvent::ConnectionEvent(_, event)) => self.connection().handle_event(event),
            Some(DatagramEvent::Response(_)) | None => {}
        }
    }

    /// As the driver does.
    fn turn(&mut self) {
        let Some((handle, connection)) = &mut self.connection else {
            return;
        };
        connection.handle_timeout(self.now);
        while let Some(event) = connection.poll(self.now) {
            self.events.push(event);
        }
        while let Some(event) = connection.poll_endpoint_event() {
            if let Some(event) = self.relay.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        let (mut buffer, mut ignored) = (Vec::new(), Vec::new());
        while let Some(transmit) = connection.poll_transmit(self.now, &mut buffer) {
            if transmit.destination != self.node_at {
                self.strays.push(transmit.destination);
                continue;
            }
            let data = BytesMut::from(&buffer[..transmit.size]);
            let event = self
                .node
                .handle(self.now, address(1), None, None, data, &mut ignored);
            if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                self.node_quic.handle_event(event);
            }
        }
    }
}

#[test]
fn a_node_that_moves_is_followed_once_it_has_answered_from_there() {
    let mut pair = Pair::welcomed(|_| {});
    pair.node_at = address(3);
    pair.node_quic.ping();
    let mut moved = None;
    for _ in 0..STEPS {
        pair.step();
        let now_there = pair.connection().poll_moved();
        moved = moved.or(now_there);
    }
    assert_eq!(moved.map(|leg| leg.remote), Some(address(3)));
    assert_eq!(pair.connection().leg().remote, address(3));
}

/// Somebody on the way writes another's address on the node's packets, also on its answers, and is always faster than they.
#[test]
fn a_node_is_not_followed_to_where_it_has_not_answered() {
    let mut pair = Pair::welcomed(|_| {});
    let victim = address(9);
    for _ in 0..STEPS {
        pair.now += STEP;
        pair.node_quic.ping();
        for datagram in pair.node_packets() {
            pair.deliver(&datagram, victim);
            pair.turn();
            pair.deliver(&datagram, pair.node_at);
        }
        pair.turn();
        assert_eq!(pair.connection().poll_moved(), None);
    }
    assert!(pair.strays.contains(&victim), "quinn was taken in");
    assert_eq!(pair.connection().leg().remote, address(2));
}

#[test]
fn a_lost_connection_waits_for_nothing() {
    // It takes nothing of what it is told.
    let mut pair = Pair::welcomed(|transport| {
        transport.receive_window(VarInt::from_u32(0));
    });
    let now = pair.now;
    pair.connection()
        .write(1, super::super::message::done(), now);
    pair.step();
    assert!(!pair.connection().unsent.is_empty());
    pair.node_quic.close(pair.now, CLOSED_BYE, Bytes::new());
    pair.run_until(|pair| matches!(pair.events.last(), Some(Event::Ended(End::Gone))));
    let now = pair.now;
    assert!(pair.connection().is_over(now));
    assert_eq!(pair.connection().unsent_until, None);
}

#[test]
fn who_does_not_read_is_too_slow() {
    let mut pair = Pair::welcomed(|transport| {
        transport.receive_window(VarInt::from_u32(0));
    });
    let now = pair.now;
    pair.connection()
        .write(1, super::super::message::done(), now);
    pair.now += WRITE_TIMEOUT;
    pair.step();
    assert!(matches!(
        pair.events.last(),
        Some(Event::Ended(End::TooSlow))
    ));
    // Kept for a moment, to say so again.
    let now = pair.now;
    assert!(pair.connection().is_closed() && !pair.connection().is_over(now));
    assert!(pair.connection().is_over(now + LINGER));
}

#[test]
fn who_says_nothing_is_not_waited_for() {
    let mut pair = Pair::new(|_| {});
    pair.run_until(|pair| !pair.node_quic.is_handshaking());
    pair.run_until(|pair| matches!(pair.events.last(), Some(Event::Connected(_))));
    pair.now += HELLO_TIMEOUT;
    pair.step();
    assert!(matches!(
        pair.events.last(),
        Some(Event::Ended(End::Silent))
    ));
}
