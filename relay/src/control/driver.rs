//! The task that owns endpoint, connections and registry: packets in, packets out, deadlines met.
//!
//! A round: what has arrived is taken; whoever it concerned is settled, that is, asked for events until there are none, which
//! may concern others; then each of them sends what it has to say, once. Parked nodes are told in passing: they have no say in a
//! round but a datagram.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt as _,
    stream::{FuturesUnordered, StreamExt as _},
};
use quinn_proto::{ConnectionHandle, DatagramEvent, Endpoint, EndpointEvent, Incoming, Transmit};
use quinn_udp as udp;
use remora_proto::{
    id::{ExchangeId, OrgId},
    record::RecordKey,
    wire::{
        self,
        message::{
            PROTOCOL,
            control::{Hello, Queue, Welcome},
            mesh::{Reason as RelayReason, request::Body as Ask, response::Body as RelayAnswer},
        },
    },
};
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{
    calls::{Called, Calls},
    connection::{Connection, End, Event},
    deadlines::{Armed, Deadlines},
    message::{self, Answer, NodeToRelay, Reason, Refusal, Reply},
    networks::{Network, Networks, Room},
    orders::{Order, Way},
    parking::{self, Parked, Parking, Reaction},
    policies::{Fetched, Policies},
    queue::{self, Look, Queues},
    registry::{ConnectionNumber, Outcome, Registry},
    request::{Asker, Desk, Finding, Step, unix_ms},
};
use crate::{
    admin::metrics::{Handshake, Metrics, RequestKind},
    config::Live,
    datapath::{
        DropReason, QuicPacket,
        leg::{FarEnd, Leg},
        pages,
        reflect::SharedLoad,
        socket::Socket,
    },
    drain::State,
    health,
    mesh::{self, Mesh, Neighbours},
    rate::TokenBucket,
    rendezvous::Rendezvous,
    stream::peers::Peers,
};

/// Handshakes at once before sources must prove their address (RFC 9000 §8.1): by then somebody is flooding, and an
/// honest node loses only a round trip.
const HANDSHAKES_BEFORE_RETRY: usize = 1024;
/// Connections beyond the nodes allowed: those still in their handshake, or about to be told that there is no room.
const SPARE_CONNECTIONS: usize = 1024;
/// Packets taken in one round of those who are here, and of those who would like to be: a flood of first packets, each of
/// which costs a handshake, holds nobody up for longer than this.
const PACKETS_AT_ONCE: usize = 64;
const OPENINGS_AT_ONCE: usize = 16;
/// So many nodes hold memory that is worth giving back when half of them have left.
const MANY: usize = 128;
/// How long nodes get to take the news that the relay closes, and then to be told once more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Oldest version of the messages spoken here.
const MINIMUM_PROTOCOL: u32 = 1;

/// What a node is told of the relay, and what there is room for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For people.
    pub relay_name: String,
    /// Where else nodes may ask how they are seen, as `Welcome` says it.
    pub observers: Vec<String>,
    /// Where this relay is, as `Welcome` says it.
    pub own_address: String,
}

/// The sides on which the driver touches the world.
#[derive(Debug)]
pub struct Ports {
    /// Where packets leave.
    pub socket: Arc<Socket>,
    /// Packets of those who are here.
    pub packets: mpsc::Receiver<QuicPacket>,
    /// Packets of those who would like to be.
    pub openings: mpsc::Receiver<QuicPacket>,
    /// Who is behind packets that came by streams.
    pub peers: Arc<Peers>,
    /// Where to say how far the relay is in its life.
    pub life: watch::Sender<Option<State>>,
    /// Where to say how much it has to do.
    pub load: SharedLoad,
    /// Other relays.
    pub mesh: Mesh,
    /// What they ask.
    pub asked: mpsc::Receiver<mesh::Asked>,
    /// Locators that are other hosts'.
    pub taken: mpsc::Receiver<RecordKey>,
    /// What there is room for.
    pub live: watch::Receiver<Live>,
    /// Whether there is memory for more.
    pub health: health::Watch,
    /// What an operator asks.
    pub orders: mpsc::Receiver<Order>,
}

/// The task.
pub struct Driver {
    endpoint: Endpoint,
    ports: Ports,
    nodes: Nodes,
    office: Office,
    deadlines: Deadlines,
    neighbours: watch::Receiver<Neighbours>,
    /// For the number of the next connection.
    serial: u32,
    is_closing: bool,
    /// A packet on its way out.
    buffer: Vec<u8>,
}

/// A node's connection, and what the driver knows of it.
#[derive(Debug)]
struct Node {
    number: ConnectionNumber,
    network: Network,
    connection: Connection,
    requests: TokenBucket,
    armed: Armed,
    has_connected: bool,
    /// It is counted among its network's nodes.
    is_attached: bool,
    is_touched: bool,
}

/// All connections, by quinn's handle.
#[derive(Debug, Default)]
struct Nodes {
    slots: Vec<Option<Box<Node>>>,
    /// How many are held here, whatever their state.
    len: usize,
    /// Most of them since memory was given back.
    peak: usize,
    /// Those that something has happened to in this round.
    touched: Vec<usize>,
}

/// What decides: everything but the connections themselves.
struct Office {
    peers: Arc<Peers>,
    registry: Registry,
    desk: Desk,
    parking: Parking,
    policies: Policies,
    rendezvous: Arc<dyn Rendezvous>,
    metrics: Arc<Metrics>,
    settings: Settings,
    networks: Networks,
    health: health::Watch,
    /// Connections whose node has proven nothing.
    handshaking: usize,
    asked: FuturesUnordered<Pin<Box<dyn Future<Output = Asked> + Send>>>,
    calls: Calls,
    queues: Queues,
    /// Looks at the queues of all relays.
    gathering: FuturesUnordered<Pin<Box<dyn Future<Output = Gathered> + Send>>>,
    /// Who looks, until that is done.
    looking: BTreeMap<OrgId, Vec<(ConnectionNumber, Open)>>,
    /// Errands about policies.
    errands: FuturesUnordered<Pin<Box<dyn Future<Output = Fetched> + Send>>>,
    mesh: Mesh,
    /// Requests that another relay has to agree to first.
    later: BTreeMap<ExchangeId, Open>,
}

/// A request on its way to an answer.
#[derive(Clone, Copy, Debug)]
struct Open {
    request: u64,
    kind: RequestKind,
    since: Instant,
}

/// Who waits for an organisation's help, at other relays.
type Gathered = (OrgId, Vec<Queue>);

/// What rendezvous found out for a node.
#[derive(Debug)]
struct Asked {
    number: ConnectionNumber,
    open: Open,
    finding: Finding,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("nodes", &self.nodes.len)
            .finish_non_exhaustive()
    }
}

impl Driver {
    /// The task for `endpoint`, `registry` and the rest.
    pub fn new(
        endpoint: Endpoint,
        ports: Ports,
        registry: Registry,
        desk: Desk,
        rendezvous: Arc<dyn Rendezvous>,
        metrics: Arc<Metrics>,
        settings: Settings,
    ) -> Self {
        let peers = Arc::clone(&ports.peers);
        let mesh = ports.mesh.clone();
        let max_nodes_per_network = ports.live.borrow().max_nodes_per_network;
        let health = ports.health.clone();
        Self {
            neighbours: mesh.neighbours(),
            endpoint,
            ports,
            nodes: Nodes::default(),
            office: Office {
                peers,
                registry,
                desk,
                parking: Parking::new(Instant::now()),
                policies: Policies::default(),
                rendezvous,
                metrics,
                networks: Networks::new(max_nodes_per_network),
                health,
                settings,
                handshaking: 0,
                asked: FuturesUnordered::new(),
                calls: Calls::new(mesh.clone()),
                queues: Queues::default(),
                gathering: FuturesUnordered::new(),
                looking: BTreeMap::new(),
                errands: FuturesUnordered::new(),
                mesh,
                later: BTreeMap::new(),
            },
            deadlines: Deadlines::default(),
            serial: 0,
            is_closing: false,
            buffer: Vec::new(),
        }
    }

    /// Serves nodes until `closing`, then lets every connection say its last words; starts to drain on `drain`.
    pub async fn run(mut self, drain: CancellationToken, closing: CancellationToken) {
        let mut arrived = Vec::with_capacity(PACKETS_AT_ONCE);
        self.publish();
        loop {
            tokio::select! { biased;
                () = closing.cancelled() => break,
                () = drain.cancelled(), if self.office.registry.state() == State::Serving => {
                    self.office.registry.begin_drain(Instant::now());
                }
                has_workers = self.wait(&mut arrived, None) => if !has_workers { return },
            }
            self.round(&mut arrived);
        }
        self.close(&mut arrived).await;
    }

    async fn close(&mut self, arrived: &mut Vec<QuicPacket>) {
        self.is_closing = true;
        let now = Instant::now();
        self.say_farewell();
        self.nodes
            .change_all(|node| node.connection.leave(End::Closing, now));
        // Other relays hear of the last sessions' ends, too.
        self.rounds_until(arrived, |driver| {
            let mut nodes = driver.nodes.iter();
            driver.office.calls.is_empty() && nodes.all(|node| node.connection.is_closed())
        })
        .await;
        let now = Instant::now();
        self.say_farewell();
        self.nodes
            .change_all(|node| node.connection.close(End::Closing, now));
        self.rounds_until(arrived, |driver| driver.nodes.iter().next().is_none())
            .await;
    }

    fn say_farewell(&mut self) {
        for farewell in self.office.parking.close() {
            send_park(&self.ports.socket, farewell.leg, &farewell.bytes);
        }
    }

    /// Goes on until `done`, or [`CLOSE_TIMEOUT`].
    async fn rounds_until(&mut self, arrived: &mut Vec<QuicPacket>, done: impl Fn(&Self) -> bool) {
        let until = Instant::now() + CLOSE_TIMEOUT;
        loop {
            self.round(arrived);
            if done(self) || Instant::now() >= until {
                return;
            }
            if !self.wait(arrived, Some(until)).await {
                return;
            }
        }
    }

    /// Waits until there is something to do, at most `until`; false when nothing will ever arrive any more.
    async fn wait(&mut self, arrived: &mut Vec<QuicPacket>, until: Option<Instant>) -> bool {
        let deadlines = [
            self.deadlines.next(),
            self.office.registry.poll_timeout(),
            self.office.parking.poll_timeout(),
            until,
        ];
        let next = deadlines.into_iter().flatten().min();
        let (packets, openings) = (&mut self.ports.packets, &mut self.ports.openings);
        tokio::select! { biased;
            Some(asked) = self.office.asked.next(), if !self.office.asked.is_empty() => {
                self.office.conclude(asked, &mut self.nodes, Instant::now());
                true
            }
            // Answers first: what a relay asks may follow from what it has answered.
            Called { call, result } = self.office.calls.next() => {
                let now = Instant::now();
                self.office.registry.handle_called(&call, result, now);
                true
            }
            Some(fetched) = self.office.errands.next(), if !self.office.errands.is_empty() => {
                self.office.policies.fetched(fetched, unix_ms() / 1000);
                true
            }
            Some(gathered) = self.office.gathering.next(), if !self.office.gathering.is_empty() => {
                self.office.gathered(gathered, &mut self.nodes, Instant::now());
                true
            }
            Some(asked) = self.ports.asked.recv() => {
                self.meet();
                self.office.answer_relay(asked, Instant::now());
                true
            }
            Some(order) = self.ports.orders.recv() => {
                self.office.obey(order, Instant::now());
                true
            }
            Some(key) = self.ports.taken.recv() => {
                self.office.registry.displace(key);
                true
            }
            Ok(()) = self.neighbours.changed() => {
                self.meet();
                true
            }
            Ok(()) = self.ports.live.changed() => {
                let live = self.ports.live.borrow_and_update();
                self.office.limit(&live);
                true
            }
            taken = packets.recv_many(arrived, PACKETS_AT_ONCE) => taken > 0,
            opening = openings.recv() => {
                let has_workers = opening.is_some();
                arrived.extend(opening);
                has_workers
            }
            () = sleep_until(next) => true,
        }
    }

    /// Who is in touch, for what follows.
    fn meet(&mut self) {
        let neighbours = self.neighbours.borrow_and_update().clone();
        let met = neighbours.0.iter();
        let met = met.map(|(&relay, neighbour)| (relay, neighbour.met));
        self.office.policies.meet(met.collect());
        self.office.registry.meet(neighbours);
    }

    fn round(&mut self, arrived: &mut Vec<QuicPacket>) {
        let now = Instant::now();
        // First: what is said on a connection may have overtaken what opens it. And however many come of the one kind, the
        // other has its turn.
        for _ in 0..OPENINGS_AT_ONCE {
            let Ok(packet) = self.ports.openings.try_recv() else {
                break;
            };
            self.handle_packet(packet, now);
        }
        for packet in arrived.drain(..) {
            self.handle_packet(packet, now);
        }
        while let Some(key) = self.deadlines.pop_due(now) {
            if let Some(node) = self.nodes.touch(key) {
                node.armed.fired();
                node.connection.handle_timeout(now);
            }
        }
        if self
            .office
            .registry
            .poll_timeout()
            .is_some_and(|at| at <= now)
        {
            self.office.registry.handle_timeout(now);
        }
        while let Some(event) = self.office.parking.poll(now) {
            match event {
                parking::Event::Transmit(wake) => {
                    send_park(&self.ports.socket, wake.leg, &wake.bytes);
                }
                parking::Event::Lost(number, network) => self.office.lose(number, network),
            }
        }
        self.settle(now);
        // Readiness first: whoever hears of a drain must find the probe agreeing.
        self.publish();
        while let Some(key) = self.nodes.touched.pop() {
            self.send_all_of(key, now);
        }
    }

    /// Until nothing follows from anything.
    fn settle(&mut self, now: Instant) {
        let mut settled = 0;
        self.deliver(now);
        loop {
            while let Some(&key) = self.nodes.touched.get(settled) {
                settled += 1;
                self.settle_one(key, now);
            }
            // What needs no other relay is known at once.
            let Some(Some(asked)) = self.office.asked.next().now_or_never() else {
                return;
            };
            let number = asked.number;
            self.office.conclude(asked, &mut self.nodes, now);
            self.deliver(now);
            self.settle_one(number.key(), now);
        }
    }

    fn settle_one(&mut self, key: usize, now: Instant) {
        while let Some(node) = self.nodes.get(key)
            && let Some(event) = node.connection.poll(now)
        {
            self.office.handle(node, event, now);
            self.deliver(now);
        }
    }

    /// Tells nodes and other relays what the registry has for them.
    fn deliver(&mut self, now: Instant) {
        while let Some(call) = self.office.registry.poll_call() {
            if let Some(Called { call, result }) = self.office.calls.make(call) {
                self.office.registry.handle_called(&call, result, now);
            }
        }
        while let Some((exchange, number, answer)) = self.office.registry.poll_answer() {
            if let Some(open) = self.office.later.remove(&exchange)
                && let Some(node) = self.nodes.touch_numbered(number)
            {
                self.office.answer(node, open, answer, now);
            }
        }
        while let Some(key) = self.office.registry.poll_let_go() {
            self.office.rendezvous.let_go(key);
        }
        while let Some(errand) = self.office.policies.poll_errand() {
            let mesh = self.office.mesh.clone();
            self.office.errands.push(Box::pin(errand.run(mesh)));
        }
        while let Some((number, notice)) = self.office.poll_notice() {
            if number.is_parked() {
                if let Some(wake) = self.office.parking.tell(number, notice, now) {
                    send_park(&self.ports.socket, wake.leg, &wake.bytes);
                }
            } else if let Some(node) = self.nodes.touch_numbered(number) {
                node.connection.write(0, notice, now);
            }
        }
    }

    fn publish(&self) {
        let registry = &self.office.registry;
        let state = registry.state();
        let parked = self.office.parking.len();
        self.office
            .metrics
            .nodes_parked
            .set(i64::try_from(parked).unwrap_or(i64::MAX));
        self.office.metrics.life(state, registry.sessions());
        self.ports.load.set(registry.load());
        self.ports
            .life
            .send_if_modified(|life| life.replace(state) != Some(state));
    }

    fn send_all_of(&mut self, key: usize, now: Instant) {
        let Some(node) = self.nodes.get(key) else {
            return;
        };
        node.is_touched = false;
        let mut is_drained = false;
        while let Some(event) = node.connection.poll_endpoint_event() {
            is_drained |= event.is_drained();
            if let Some(event) = self.endpoint.handle_event(ConnectionHandle(key), event) {
                node.connection.handle_event(event);
            }
        }
        while let Some(transmit) = node.connection.poll_transmit(now, &mut self.buffer) {
            send(&self.ports.socket, &transmit, &self.buffer);
        }
        if let Some(leg) = node.connection.poll_moved() {
            tracing::debug!(node = ?node.connection.node(), address = %leg.remote, "node moved");
            self.office.registry.move_node(node.number, leg);
        }
        if is_drained || node.connection.is_over(now) {
            if !is_drained {
                // Nothing follows for one that is over already.
                let handle = ConnectionHandle(key);
                self.endpoint.handle_event(handle, EndpointEvent::drained());
            }
            self.deadlines.disarm(key, &mut node.armed);
            self.office.forget(node);
            self.nodes.remove(key);
        } else {
            let wanted = node.connection.poll_timeout();
            self.deadlines.arm(key, &mut node.armed, wanted);
        }
    }

    fn handle_packet(&mut self, packet: QuicPacket, now: Instant) {
        let QuicPacket {
            bytes,
            source,
            local,
            ecn,
        } = packet;
        if wire::kind(&bytes) == wire::Kind::Park {
            let source = Leg {
                end: FarEnd::Node,
                remote: source,
                local,
            };
            return self.handle_park(&bytes, source, now);
        }
        let ecn = ecn.and_then(|ecn| quinn_proto::EcnCodepoint::from_bits(ecn as u8));
        self.buffer.clear();
        let event = self
            .endpoint
            .handle(now, source, local, ecn, bytes, &mut self.buffer);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(node) = self.nodes.touch(handle.0) {
                    node.connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.admit(incoming, now),
            // A reset, one in a while; the versions spoken here; that a first packet makes no sense. Never longer than the packet.
            Some(DatagramEvent::Response(transmit)) => {
                self.office.metrics.dropped(DropReason::QuicUnknown, 1);
                send(&self.ports.socket, &transmit, &self.buffer);
            }
            None => self.office.metrics.dropped(DropReason::QuicUnknown, 1),
        }
    }

    fn handle_park(&mut self, bytes: &[u8], source: Leg, now: Instant) {
        let answer = match self.office.parking.handle(bytes, source, now) {
            Reaction::Answer(answer) => answer,
            Reaction::Left(number, network, answer) => {
                self.office.lose(number, network);
                answer
            }
            Reaction::Unknown => {
                return self.office.metrics.dropped(DropReason::ParkUnknown, 1);
            }
        };
        send_park(&self.ports.socket, source, &answer);
    }

    /// Decides on a first packet before any cryptography is spent on it.
    fn admit(&mut self, incoming: Incoming, now: Instant) {
        let Self {
            endpoint,
            office,
            buffer,
            ..
        } = self;
        buffer.clear();
        let network = Network::from(office.peers.behind(incoming.remote_address()).ip());
        let has_room = !self.is_closing
            && self.nodes.len
                < office
                    .registry
                    .max_nodes()
                    .saturating_add(SPARE_CONNECTIONS);
        let response = match office.door(&incoming, network, has_room) {
            Door::Closed(why) => {
                office.metrics.handshake(why);
                Some(endpoint.refuse(incoming, buffer))
            }
            Door::Proof => {
                office.metrics.handshake(Handshake::Retry);
                endpoint.retry(incoming, buffer).ok()
            }
            Door::Open => match endpoint.accept(incoming, now, buffer, None) {
                Ok((handle, connection)) => {
                    office.enter(network);
                    self.serial = self.serial.wrapping_add(1);
                    let number = ConnectionNumber::new(self.serial, handle.0);
                    let connection = Connection::new(connection, now);
                    self.nodes
                        .insert(Node::new(number, network, connection, now));
                    None
                }
                Err(error) => {
                    office.metrics.handshake(Handshake::Failed);
                    tracing::debug!(error = %error.cause, "not a handshake");
                    error.response
                }
            },
        };
        if let Some(transmit) = response {
            send(&self.ports.socket, &transmit, &self.buffer);
        }
    }
}

/// What is done with a first packet.
enum Door {
    Open,
    /// It has to prove its address (RFC 9000 §8.1).
    Proof,
    Closed(Handshake),
}

impl Office {
    /// What there is room for has changed.
    fn limit(&mut self, live: &Live) {
        self.registry.limit(live.max_nodes);
        self.networks.limit(live.max_nodes_per_network);
        self.desk.limit(live.lookup_rate);
    }

    fn door(&self, incoming: &Incoming, network: Network, has_room: bool) -> Door {
        if !has_room {
            return Door::Closed(Handshake::Refused);
        }
        let must_prove = match self.networks.room(network) {
            Room::None => return Door::Closed(Handshake::NetworkFull),
            Room::Proven => true,
            Room::Free => self.handshaking >= HANDSHAKES_BEFORE_RETRY,
        };
        if must_prove && !incoming.remote_address_validated() {
            Door::Proof
        } else {
            Door::Open
        }
    }

    fn enter(&mut self, network: Network) {
        self.networks.enter(network);
        self.handshaking += 1;
    }

    fn handle(&mut self, node: &mut Node, event: Event, now: Instant) {
        match event {
            Event::Connected(took) => {
                node.has_connected = true;
                self.handshaking -= 1;
                self.metrics.handshake(Handshake::Ok);
                self.metrics.handshake_seconds.observe(took.as_secs_f64());
            }
            Event::Hello(request, hello) => self.welcome(node, request, &hello, now),
            Event::Message(message) => self.take(node, message, now),
            Event::Ended(end) => self.end(node, end),
        }
    }

    fn end(&mut self, node: &Node, end: End) {
        tracing::debug!(node = ?node.connection.node(), ?end, "connection ended");
        let handshake = match end {
            End::HandshakeFailed => Some(Handshake::Failed),
            End::HandshakeTimedOut => Some(Handshake::TimedOut),
            End::Gone
            | End::Silent
            | End::Malformed
            | End::TooSlow
            | End::Refused
            | End::Parked
            | End::Closing => None,
        };
        if let Some(handshake) = handshake {
            self.metrics.handshake(handshake);
        }
        self.registry.detach(node.number);
        self.policies.detach(node.number);
        self.queues.detach(node.number);
    }

    /// The next thing that a node is told unasked.
    fn poll_notice(&mut self) -> Option<(ConnectionNumber, Reply)> {
        let notice = self.registry.poll_notice();
        notice.or_else(|| self.policies.poll_notice())
    }

    /// Its place is another's. Not before it is gone from memory, or a flood of connections that end at once would be bounded by
    /// nothing.
    fn forget(&mut self, node: &Node) {
        self.networks.leave(node.network);
        if node.is_attached {
            self.networks.detach(node.network);
        }
        if !node.has_connected {
            self.handshaking -= 1;
        }
    }

    fn welcome(&mut self, node: &mut Node, request: u64, hello: &Hello, now: Instant) {
        let open = Open {
            request,
            kind: RequestKind::Hello,
            since: now,
        };
        let attached = if hello.protocol < MINIMUM_PROTOCOL {
            Err(Refusal::new(
                Reason::VersionTooOld,
                "this program is too old for this relay; update it",
            ))
        } else if hello.ticket != 0 {
            self.resume(node, hello.ticket, now)
        } else {
            self.attach(node, now).map(|()| Vec::new())
        };
        let (attached, untold) = match attached {
            Ok(untold) => (Ok(()), untold),
            Err(refusal) => (Err(refusal), Vec::new()),
        };
        let welcome = attached.map(|()| {
            let observed = self.peers.behind(node.connection.leg().remote);
            Reply::Welcome(Welcome {
                protocol: PROTOCOL,
                minimum_protocol: MINIMUM_PROTOCOL,
                unix_ms: unix_ms(),
                observed_address: observed.to_string(),
                realm: self.desk.realm().to_owned(),
                relay_name: self.settings.relay_name.clone(),
                observers: self.settings.observers.clone(),
                others: self.registry.others(node.number),
                load: self.registry.load().to_byte().into(),
                own_address: self.settings.own_address.clone(),
                is_draining: self.registry.state() != State::Serving,
            })
        });
        let is_refused = welcome.is_err();
        self.answer(node, open, welcome, now);
        if is_refused {
            node.connection.leave(End::Refused, now);
        } else {
            tracing::debug!(
                node = ?node.connection.node(), agent = ?hello.agent, protocol = hello.protocol, "node attached"
            );
            node.connection.write_untold(&untold, now);
        }
    }

    /// Whoever asked may have gone: all the same.
    fn obey(&mut self, order: Order, now: Instant) {
        match order {
            Order::List {
                after,
                most,
                answer,
            } => {
                let mut listing = self.registry.list(after, most, now);
                for side in listing.sessions.iter_mut().flat_map(|one| &mut one.sides) {
                    if let Way::At(remote) = side.way
                        && self.peers.is_stream(remote)
                    {
                        side.way = Way::Stream;
                    }
                }
                answer.send(listing).ok();
            }
            Order::End {
                session,
                why,
                answer,
            } => {
                answer
                    .send(self.registry.end_by_operator(session, &why))
                    .ok();
            }
        }
    }

    fn attach(&mut self, node: &mut Node, now: Instant) -> Result<(), Refusal> {
        self.check_network(node.network)?;
        if self.health.is_full() {
            return Err(Refusal::new(
                Reason::Full,
                "this relay's memory is at its limit; try another",
            ));
        }
        let (id, leg) = (node.connection.node(), node.connection.leg());
        self.registry.attach(node.number, id, leg, now)?;
        self.networks.attach(node.network);
        node.is_attached = true;
        Ok(())
    }

    fn check_network(&self, network: Network) -> Result<(), Refusal> {
        if self.networks.is_full(network) {
            return Err(Refusal::new(
                Reason::Full,
                "this relay has as many nodes of your network as it takes; try another",
            ));
        }
        Ok(())
    }

    /// The node keeps its place without its connection, which says its last words.
    fn park(&mut self, node: &mut Node, now: Instant) -> Answer {
        self.registry.check_park(node.number)?;
        let grant = node.connection.grant();
        let leg = node.connection.leg();
        let parked = Parked {
            grant: grant.ok_or(Refusal::new(Reason::BadState, "not connected yet"))?,
            leg,
            network: node.network,
            requests: node.requests,
        };
        let number = self.parking.park(parked, now)?;
        // It counts as its place from now on.
        node.is_attached = false;
        self.registry.renumber(node.number, number, leg);
        self.policies.renumber(node.number, number);
        self.queues.renumber(node.number, number);
        tracing::debug!(node = ?node.connection.node(), "node parked");
        Ok(message::done())
    }

    /// It is back; what it was not told meanwhile.
    fn resume(&mut self, node: &mut Node, ticket: u64, now: Instant) -> Result<Vec<u8>, Refusal> {
        let (number, network) = self.parking.find(ticket)?;
        if self.registry.id(number) != Some(node.connection.node()) {
            return Err(parking::NOT_PARKED);
        }
        if network != node.network {
            self.check_network(node.network)?;
        }
        let returned = self.parking.resume(number)?;
        node.requests = returned.node.requests;
        self.networks.detach(network);
        self.networks.attach(node.network);
        node.is_attached = true;
        let leg = node.connection.leg();
        self.registry.renumber(number, node.number, leg);
        self.policies.renumber(number, node.number);
        self.queues.renumber(number, node.number);
        self.registry.greet(node.number, now);
        tracing::debug!(node = ?node.connection.node(), "node came back");
        Ok(returned.untold)
    }

    /// A parked node is gone.
    fn lose(&mut self, number: ConnectionNumber, network: Network) {
        tracing::debug!(node = ?self.registry.id(number), "parked node is gone");
        self.registry.detach(number);
        self.policies.detach(number);
        self.queues.detach(number);
        self.networks.detach(network);
    }

    fn take(&mut self, node: &mut Node, message: NodeToRelay, now: Instant) {
        let mut open = Open {
            request: message.request,
            kind: RequestKind::Unknown,
            since: now,
        };
        let Some(request) = message.body else {
            let refusal = Refusal::new(Reason::Malformed, "a request this relay does not know");
            return self.answer(node, open, Err(refusal), now);
        };
        open.kind = message::kind(&request);
        let asker = Asker {
            number: node.number,
            node: node.connection.node(),
            source: self.peers.behind(node.connection.leg().remote).ip(),
        };
        let (registry, bucket) = (&mut self.registry, &mut node.requests);
        match self.desk.begin(registry, asker, bucket, request, now) {
            Step::Answered(answer) => self.answer(node, open, answer, now),
            Step::Later(exchange) => drop(self.later.insert(exchange, open)),
            Step::Park => {
                let parked = self.park(node, now);
                let is_parked = parked.is_ok();
                self.answer(node, open, parked, now);
                if is_parked {
                    node.connection.leave(End::Parked, now);
                }
            }
            Step::Policy(question) => {
                let answer = self
                    .policies
                    .handle(node.number, question, unix_ms() / 1000);
                self.answer(node, open, answer, now);
            }
            Step::Queue(question) => {
                if let Some(answer) = self.queue(node.number, open, question, now) {
                    self.answer(node, open, answer, now);
                }
            }
            Step::Ask(question) => {
                let (number, rendezvous) = (node.number, Arc::clone(&self.rendezvous));
                self.asked.push(Box::pin(async move {
                    let finding = question.ask(rendezvous).await;
                    Asked {
                        number,
                        open,
                        finding,
                    }
                }));
            }
        }
    }

    fn conclude(&mut self, asked: Asked, nodes: &mut Nodes, now: Instant) {
        let Asked {
            number,
            open,
            finding,
        } = asked;
        match self.desk.conclude(&mut self.registry, number, finding, now) {
            Outcome::Answered(answer) => {
                if let Some(node) = nodes.touch_numbered(number) {
                    self.answer(node, open, answer, now);
                }
            }
            Outcome::Later(exchange) => drop(self.later.insert(exchange, open)),
        }
    }

    /// Answers at once, or asks the other relays first.
    fn queue(
        &mut self,
        number: ConnectionNumber,
        open: Open,
        question: queue::Question,
        now: Instant,
    ) -> Option<Answer> {
        if let Err(refusal) = queue::check_known(self.policies.knows(question.org())) {
            return Some(Err(refusal));
        }
        let org = match question {
            queue::Question::Up { org, device } => {
                return Some(self.queues.up(number, org, device, now));
            }
            queue::Question::Look { org } => org,
        };
        let look = self.queues.look(org, now);
        if let Look::Seen(queue) = look {
            return Some(Ok(Reply::Queue(queue)));
        }
        self.looking.entry(org).or_default().push((number, open));
        if look == Look::Begin {
            let mesh = self.mesh.clone();
            let relays = mesh.neighbours().borrow().0.keys().copied().collect();
            self.gathering.push(Box::pin(async move {
                (org, queue::gather(mesh, relays, org).await)
            }));
        }
        None
    }

    fn gathered(&mut self, (org, others): Gathered, nodes: &mut Nodes, now: Instant) {
        let queue = self.queues.gathered(org, others, now);
        for (number, open) in self.looking.remove(&org).unwrap_or_default() {
            if let Some(node) = nodes.touch_numbered(number) {
                self.answer(node, open, Ok(Reply::Queue(queue.clone())), now);
            }
        }
    }

    /// Another relay asks.
    fn answer_relay(&mut self, asked: mesh::Asked, now: Instant) {
        let mesh::Asked {
            from,
            request,
            answer,
        } = asked;
        let answered = if let Ask::FetchQueue(fetch) = &request {
            match queue::Question::look(fetch) {
                Ok(question) => RelayAnswer::Queue(self.queues.here(question.org(), now)),
                Err(_) => mesh::refused(RelayReason::Malformed),
            }
        } else {
            let about_policies = self.policies.handle_relay(from, &request);
            about_policies.unwrap_or_else(|| self.registry.handle_relay(from, request, now))
        };
        // It has waited for long enough, and asks again if it wants to know.
        answer.send(answered).ok();
    }

    fn answer(&self, node: &mut Node, open: Open, answer: Answer, now: Instant) {
        let seconds = now.saturating_duration_since(open.since).as_secs_f64();
        self.metrics
            .request(open.kind, message::result(&answer), seconds);
        if let Err(refusal) = &answer {
            if let Some(denial) = message::denial(open.kind, refusal.reason) {
                self.metrics.denied(denial);
            }
            tracing::debug!(
                node = ?node.connection.node(), kind = open.kind.label(), reason = ?refusal.reason, "refused"
            );
        }
        let reply = answer.unwrap_or_else(Refusal::into_reply);
        // Even when no answer is wanted: that frames are forwarded from now on is a notice, too.
        if open.request != 0 || matches!(reply, Reply::Allocated(_)) {
            node.connection.write(open.request, reply, now);
        }
        node.connection.answered();
    }
}

impl Node {
    fn new(
        number: ConnectionNumber,
        network: Network,
        connection: Connection,
        now: Instant,
    ) -> Self {
        Self {
            number,
            network,
            connection,
            requests: TokenBucket::new(now),
            armed: Armed::default(),
            has_connected: false,
            is_attached: false,
            is_touched: false,
        }
    }
}

impl Nodes {
    fn insert(&mut self, node: Node) {
        let key = node.number.key();
        if self.slots.len() <= key {
            self.slots.resize_with(key + 1, || None);
        }
        self.slots[key] = Some(Box::new(node));
        self.len += 1;
        self.peak = self.peak.max(self.len);
        self.touch(key);
    }

    fn remove(&mut self, key: usize) {
        self.slots[key] = None;
        self.len -= 1;
        if self.peak >= MANY && self.len <= self.peak / 2 {
            pages::give_back();
            self.peak = self.len;
        }
    }

    fn get(&mut self, key: usize) -> Option<&mut Node> {
        self.slots.get_mut(key)?.as_deref_mut()
    }

    /// Something happens to it: it is settled in this round.
    fn touch(&mut self, key: usize) -> Option<&mut Node> {
        let node = self.slots.get_mut(key)?.as_deref_mut()?;
        if !node.is_touched {
            node.is_touched = true;
            self.touched.push(key);
        }
        Some(node)
    }

    /// The same, unless quinn's handle is another's by now.
    fn touch_numbered(&mut self, number: ConnectionNumber) -> Option<&mut Node> {
        let key = number.key();
        self.get(key).filter(|node| node.number == number)?;
        self.touch(key)
    }

    fn change_all(&mut self, change: impl Fn(&mut Node)) {
        for key in 0..self.slots.len() {
            if let Some(node) = self.touch(key) {
                change(node);
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Node> {
        self.slots.iter().flatten().map(Box::as_ref)
    }
}

/// Sends what QUIC has for a node.
fn send(socket: &Socket, transmit: &Transmit, buffer: &[u8]) {
    send_now(
        socket,
        &udp::Transmit {
            destination: transmit.destination,
            ecn: transmit
                .ecn
                .and_then(|ecn| udp::EcnCodepoint::from_bits(ecn as u8)),
            contents: &buffer[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        },
    );
}

/// Sends a datagram to a parked node.
fn send_park(socket: &Socket, leg: Leg, bytes: &[u8]) {
    send_now(
        socket,
        &udp::Transmit {
            destination: leg.remote,
            ecn: None,
            contents: bytes,
            segment_size: None,
            src_ip: leg.local,
        },
    );
}

/// What the system does not take now is lost, as on any network: to be told of room again, the socket would have to be
/// watched, and each frame that the workers send would wake whoever watches it.
fn send_now(socket: &Socket, transmit: &udp::Transmit<'_>) {
    if let Err(error) = socket.try_send(transmit) {
        tracing::trace!(%error, to = %transmit.destination, "a datagram was not sent");
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
