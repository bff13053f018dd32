//! Virtual time and a hostile network between two QUIC ends, for tests (feature `sim`).
//!
//! ```text
//! client: End ──▶ mistreatment, or a closure ──▶ queue by (time, sequence) ──▶ server: End
//!         End ◀── queue by (time, sequence) ◀── mistreatment, or a closure ◀──         End
//! ```
//!
//! Pure as the rest of the crate: the test reads the clock once and passes it as the epoch, and time then
//! jumps from event to event. A run is what its seed says: sizes, order and times of all datagrams repeat.
//! Only their content differs, since ephemeral keys, connection ids and ML-KEM come from the system.
//!
//! ```
//! # use std::{sync::Arc, time::Duration};
//! # use remora_proto::{noise::{ClientConfig, Profile, ServerConfig, StaticKey, endpoint_config}, sim::{Mistreatment, Network}};
//! # #[expect(clippy::disallowed_methods, reason = "the one moment that is read")]
//! let epoch = std::time::Instant::now();
//! let key = StaticKey::generate();
//! let mut client = ClientConfig::new(Profile::Hop, StaticKey::generate(), b"test");
//! client.server_key = Some(key.public());
//! let server = ServerConfig::new(&[Profile::Hop], key, b"test");
//!
//! let endpoint = || endpoint_config(&[Profile::Hop]);
//! let server = quinn_proto::ServerConfig::with_crypto(Arc::new(server));
//! let mut network = Network::new(epoch, 1, endpoint(), endpoint(), server);
//! network.mistreat(Mistreatment { loss: 0.1, ..Mistreatment::default() });
//! network.connect(client.into_quinn()).unwrap();
//! assert!(network.run_until(Duration::from_secs(60), |network| network.server.is_connected()));
//! ```

/// What two nodes' gateways let one expect.
#[cfg(feature = "end-to-end")]
pub mod edge;
/// Links, NATs and firewalls between any two nodes.
pub mod internet;
/// Two nodes with everything between them.
#[cfg(feature = "end-to-end")]
pub mod nodes;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::BytesMut;
use quinn_proto::{
    AcceptError, ClientConfig, ConnectError, Connection, ConnectionError, ConnectionHandle,
    DatagramEvent, Dir, Endpoint, EndpointConfig, Event, HashedConnectionIdGenerator, Incoming,
    ServerConfig, StreamId, TimeSource,
};

use crate::random::Random;

/// Where the client is; both addresses are for documentation (RFC 5737).
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 1);
/// Where the server is.
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 2);
/// Earlier datagrams a direction remembers for replays: about a flight.
const HISTORY: usize = 64;
/// The wall clock of every simulated server, for tokens: it stands still.
const WALL_CLOCK: Duration = Duration::from_secs(1_700_000_000);

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From client to server.
    ToServer,
    /// From server to client.
    ToClient,
}

/// What a network does to datagrams: probabilities from 0 to 1, each drawn on its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mistreatment {
    /// Never arrives.
    pub loss: f64,
    /// Arrives twice, each mistreated on its own.
    pub duplicate: f64,
    /// Takes up to four delays longer, so that later ones overtake it.
    pub reorder: f64,
    /// Arrives with one bit changed.
    pub corrupt: f64,
    /// Arrives without its end.
    pub truncate: f64,
    /// Is followed by one of the last 64 once more.
    pub replay: f64,
    /// One way, for all.
    pub delay: Duration,
}

impl Mistreatment {
    /// Everything with the same probability.
    pub fn all(probability: f64) -> Self {
        Self {
            loss: probability,
            duplicate: probability,
            reorder: probability,
            corrupt: probability,
            truncate: probability,
            replay: probability,
            ..Self::default()
        }
    }

    /// What arrives instead of `datagram`, and after how long.
    fn apply(
        &self,
        datagram: Vec<u8>,
        history: &mut VecDeque<Vec<u8>>,
        dice: &mut Dice,
    ) -> Vec<(Duration, Vec<u8>)> {
        let mut copies = Vec::new();
        if !dice.chance(self.loss) {
            copies.push(datagram.clone());
        }
        if dice.chance(self.duplicate) {
            copies.push(datagram.clone());
        }
        if !history.is_empty() && dice.chance(self.replay) {
            copies.push(history[dice.below(history.len())].clone());
        }
        history.truncate(HISTORY - 1);
        history.push_front(datagram);
        copies
            .into_iter()
            .map(|copy| (self.delay(dice), self.damage(copy, dice)))
            .collect()
    }

    fn delay(&self, dice: &mut Dice) -> Duration {
        let late = if dice.chance(self.reorder) {
            (self.delay * 4).mul_f64(dice.fraction())
        } else {
            Duration::ZERO
        };
        self.delay + late
    }

    fn damage(&self, mut datagram: Vec<u8>, dice: &mut Dice) -> Vec<u8> {
        if !datagram.is_empty() && dice.chance(self.corrupt) {
            let at = dice.below(datagram.len());
            datagram[at] ^= 1 << dice.below(8);
        }
        if !datagram.is_empty() && dice.chance(self.truncate) {
            datagram.truncate(dice.below(datagram.len()));
        }
        datagram
    }
}

/// A friendly network with 10 ms one way.
impl Default for Mistreatment {
    fn default() -> Self {
        Self {
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            corrupt: 0.0,
            truncate: 0.0,
            replay: 0.0,
            delay: Duration::from_millis(10),
        }
    }
}

#[derive(Debug)]
struct Dice(Random);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Random::seeded(seed))
    }

    fn draw(&mut self) -> u64 {
        u64::from_be_bytes(self.0.bytes())
    }

    /// From 0 to almost 1.
    fn fraction(&mut self) -> f64 {
        // 53 bits are what an f64 holds exactly.
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.fraction() < probability
    }

    /// Below `end`, which is at least 1.
    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("lengths fit 64 bits");
        usize::try_from(self.draw() % end).expect("below a usize")
    }
}

/// What somebody in the middle does with a datagram it has seen, and perhaps changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, after the usual delay.
    Deliver,
    /// It goes on after this delay instead.
    DeliverAfter(Duration),
    /// It goes on twice.
    DeliverTwice,
    /// It ends here.
    Drop,
}

/// How much went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Put on the network.
    pub sent: u64,
    /// Put on the network, in bytes.
    pub sent_bytes: u64,
    /// Arrived, copies and replays included.
    pub delivered: u64,
    /// Arrived, in bytes.
    pub delivered_bytes: u64,
}

/// One way through the network.
struct Link {
    mistreatment: Mistreatment,
    history: VecDeque<Vec<u8>>,
    traffic: Traffic,
    dice: Dice,
}

type Tamper = Box<dyn FnMut(Direction, &mut Vec<u8>) -> Verdict>;

/// Two ends and what lies between them.
pub struct Network {
    /// Who connects.
    pub client: End,
    /// Who is connected to.
    pub server: End,
    epoch: Instant,
    now: Instant,
    queue: BTreeMap<(Instant, u64), (Direction, Vec<u8>)>,
    sequence: u64,
    to_server: Link,
    to_client: Link,
    tamper: Option<Tamper>,
}

impl Network {
    /// A friendly network with nothing going on; the same `seed`, the same run.
    pub fn new(
        epoch: Instant,
        seed: u64,
        client_endpoint: EndpointConfig,
        server_endpoint: EndpointConfig,
        mut server: ServerConfig,
    ) -> Self {
        let mut random = Random::seeded(seed);
        let mut link = || Link {
            mistreatment: Mistreatment::default(),
            history: VecDeque::new(),
            traffic: Traffic::default(),
            dice: Dice::new(u64::from_be_bytes(random.bytes())),
        };
        let (to_server, to_client) = (link(), link());
        server.time_source(Arc::new(StandingClock));
        Self {
            client: End::new(CLIENT, SERVER, client_endpoint, None, &mut random),
            server: End::new(
                SERVER,
                CLIENT,
                server_endpoint,
                Some(Arc::new(server)),
                &mut random,
            ),
            epoch,
            now: epoch,
            queue: BTreeMap::new(),
            sequence: 0,
            to_server,
            to_client,
            tamper: None,
        }
    }

    /// The same mistreatment both ways.
    pub fn mistreat(&mut self, mistreatment: Mistreatment) {
        self.mistreat_one_way(Direction::ToServer, mistreatment);
        self.mistreat_one_way(Direction::ToClient, mistreatment);
    }

    /// Another mistreatment each way.
    pub fn mistreat_one_way(&mut self, direction: Direction, mistreatment: Mistreatment) {
        self.link(direction).mistreatment = mistreatment;
    }

    /// Puts somebody in the middle who sees every datagram instead of the mistreatment.
    pub fn tamper(&mut self, tamper: impl FnMut(Direction, &mut Vec<u8>) -> Verdict + 'static) {
        self.tamper = Some(Box::new(tamper));
    }

    /// A datagram that neither end sent, arriving after the usual delay as if from the other end.
    pub fn inject(&mut self, direction: Direction, datagram: Vec<u8>) {
        let delay = self.link(direction).mistreatment.delay;
        self.enqueue(direction, delay, datagram);
    }

    /// Lets the client begin a connection.
    ///
    /// # Errors
    /// As [`Endpoint::connect`].
    pub fn connect(&mut self, config: ClientConfig) -> Result<(), ConnectError> {
        let now = self.now;
        self.client.connect(now, config)
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Virtual time since the epoch.
    pub fn elapsed(&self) -> Duration {
        self.now - self.epoch
    }

    /// What went one way so far.
    pub fn traffic(&self, direction: Direction) -> Traffic {
        match direction {
            Direction::ToServer => self.to_server.traffic,
            Direction::ToClient => self.to_client.traffic,
        }
    }

    /// Runs until `done`, which is asked after every event and may use both ends; true if it came to that
    /// within `limit` of virtual time. With nothing left to happen, time jumps to the limit.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let deadline = self.now + limit;
        loop {
            self.flush();
            let finished = done(self);
            self.flush();
            if finished {
                return true;
            }
            let Some(next) = self.next_event().filter(|next| *next <= deadline) else {
                self.now = deadline;
                return false;
            };
            self.now = self.now.max(next);
            self.step();
        }
    }

    /// Runs for that long.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn next_event(&mut self) -> Option<Instant> {
        let arrival = self.queue.first_key_value().map(|((time, _), _)| *time);
        [
            arrival,
            self.client.poll_timeout(),
            self.server.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// One input: the datagram that is due, or else a timer.
    fn step(&mut self) {
        let now = self.now;
        if let Some(due) = self
            .queue
            .first_entry()
            .filter(|entry| entry.key().0 <= now)
        {
            let (direction, datagram) = due.remove();
            let traffic = &mut self.link(direction).traffic;
            traffic.delivered += 1;
            traffic.delivered_bytes += bytes(&datagram);
            match direction {
                Direction::ToServer => self.server.handle_datagram(&datagram, now),
                Direction::ToClient => self.client.handle_datagram(&datagram, now),
            }
        } else {
            self.client.handle_timeout(now);
            self.server.handle_timeout(now);
        }
    }

    /// Drains every output.
    fn flush(&mut self) {
        let now = self.now;
        while let Some(datagram) = self.client.poll_transmit(now) {
            self.send(Direction::ToServer, datagram);
        }
        while let Some(datagram) = self.server.poll_transmit(now) {
            self.send(Direction::ToClient, datagram);
        }
    }

    fn send(&mut self, direction: Direction, mut datagram: Vec<u8>) {
        let link = match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        };
        link.traffic.sent += 1;
        link.traffic.sent_bytes += bytes(&datagram);
        let delay = link.mistreatment.delay;
        let arrivals = match &mut self.tamper {
            None => link
                .mistreatment
                .apply(datagram, &mut link.history, &mut link.dice),
            Some(tamper) => match tamper(direction, &mut datagram) {
                Verdict::Deliver => vec![(delay, datagram)],
                Verdict::DeliverAfter(delay) => vec![(delay, datagram)],
                Verdict::DeliverTwice => vec![(delay, datagram.clone()), (delay, datagram)],
                Verdict::Drop => Vec::new(),
            },
        };
        for (delay, datagram) in arrivals {
            self.enqueue(direction, delay, datagram);
        }
    }

    fn enqueue(&mut self, direction: Direction, delay: Duration, datagram: Vec<u8>) {
        self.sequence += 1;
        self.queue
            .insert((self.now + delay, self.sequence), (direction, datagram));
    }

    fn link(&mut self, direction: Direction) -> &mut Link {
        match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        }
    }
}

fn bytes(datagram: &[u8]) -> u64 {
    u64::try_from(datagram.len()).expect("lengths fit 64 bits")
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("elapsed", &self.elapsed())
            .field("client", &self.client)
            .field("server", &self.server)
            .field("under_way", &self.queue.len())
            .field("to_server", &self.to_server.traffic)
            .field("to_client", &self.to_client.traffic)
            .finish_non_exhaustive()
    }
}

/// Tokens would else depend on when the test runs.
struct StandingClock;

impl TimeSource for StandingClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + WALL_CLOCK
    }
}

/// What a server does with somebody new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    /// Begins the handshake.
    #[default]
    Accept,
    /// Lets them prove their address first (RFC 9000 §8.1.2).
    Retry,
    /// Tells them no.
    Refuse,
    /// Is silent.
    Ignore,
}

/// What could be read from a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// In order, maybe nothing yet.
    pub data: Vec<u8>,
    /// There will be no more.
    pub finished: bool,
}

/// One end: quinn's endpoint, its connections, and the application's hands on the newest of them.
pub struct End {
    /// What to do with somebody new.
    pub admission: Admission,
    addr: SocketAddr,
    peer: SocketAddr,
    config: Arc<EndpointConfig>,
    server: Option<Arc<ServerConfig>>,
    endpoint: Endpoint,
    connections: BTreeMap<ConnectionHandle, Connection>,
    newest: Option<ConnectionHandle>,
    connected: bool,
    lost: Option<ConnectionError>,
    refused: Vec<ConnectionError>,
    outbox: VecDeque<Vec<u8>>,
}

impl End {
    fn new(
        addr: SocketAddr,
        peer: SocketAddr,
        mut config: EndpointConfig,
        server: Option<Arc<ServerConfig>>,
        random: &mut Random,
    ) -> Self {
        config.rng_seed(Some(random.bytes()));
        // An end that has forgotten its connections still knows its own ids: else it stays silent where it
        // should reset.
        let key = u64::from_be_bytes(random.bytes());
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)));
        let config = Arc::new(config);
        Self {
            admission: Admission::default(),
            addr,
            peer,
            endpoint: Endpoint::new(config.clone(), server.clone(), true, None),
            config,
            server,
            connections: BTreeMap::new(),
            newest: None,
            connected: false,
            lost: None,
            refused: Vec::new(),
            outbox: VecDeque::new(),
        }
    }

    // --- for tests ---

    /// The newest connection, until it is drained.
    pub fn connection(&mut self) -> Option<&mut Connection> {
        self.connections.get_mut(&self.newest?)
    }

    /// The newest connection's handshake is done, here, and it was not lost since.
    pub fn is_connected(&self) -> bool {
        self.connected && self.lost.is_none()
    }

    /// How the newest connection ended.
    pub fn lost(&self) -> Option<&ConnectionError> {
        self.lost.as_ref()
    }

    /// Attempts that ended with their first datagram.
    pub fn refused(&self) -> &[ConnectionError] {
        &self.refused
    }

    /// Loses all memory of connections, as after a crash: the keys for ids and resets stay.
    pub fn forget(&mut self) {
        self.endpoint = Endpoint::new(self.config.clone(), self.server.clone(), true, None);
        self.connections.clear();
        (self.newest, self.connected, self.lost) = (None, false, None);
        self.outbox.clear();
    }

    /// Opens a stream for both directions.
    pub fn open(&mut self) -> Option<StreamId> {
        self.connection()?.streams().open(Dir::Bi)
    }

    /// Takes a stream for both directions that the other end has opened.
    pub fn accept(&mut self) -> Option<StreamId> {
        self.connection()?.streams().accept(Dir::Bi)
    }

    /// Writes as much as goes now: 0 when blocked or over.
    pub fn write(&mut self, stream: StreamId, data: &[u8]) -> usize {
        self.connection().map_or(0, |connection| {
            connection.send_stream(stream).write(data).unwrap_or(0)
        })
    }

    /// Ends our half of a stream; false when that is not possible (any more).
    pub fn finish(&mut self, stream: StreamId) -> bool {
        self.connection()
            .is_some_and(|connection| connection.send_stream(stream).finish().is_ok())
    }

    /// Reads what is there. A stream that was reset or is gone has finished too.
    pub fn read(&mut self, stream: StreamId) -> Read {
        let mut read = Read::default();
        let Some(connection) = self.connection() else {
            return Read {
                finished: true,
                ..read
            };
        };
        let mut half = connection.recv_stream(stream);
        let Ok(mut chunks) = half.read(true) else {
            return Read {
                finished: true,
                ..read
            };
        };
        read.finished = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => read.data.extend_from_slice(&chunk.bytes),
                Ok(None) | Err(quinn_proto::ReadError::Reset(_)) => break true,
                Err(quinn_proto::ReadError::Blocked) => break false,
            }
        };
        // Whether there is now something to transmit is asked after every event anyway.
        let _should_transmit = chunks.finalize();
        read
    }

    // --- the machine ---

    fn connect(&mut self, now: Instant, config: ClientConfig) -> Result<(), ConnectError> {
        let (handle, connection) = self.endpoint.connect(now, config, self.peer, "sim")?;
        self.begin(handle, connection);
        Ok(())
    }

    fn begin(&mut self, handle: ConnectionHandle, connection: Connection) {
        self.connections.insert(handle, connection);
        (self.newest, self.connected, self.lost) = (Some(handle), false, None);
        self.settle();
    }

    fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        let mut answer = Vec::new();
        let data = BytesMut::from(datagram);
        match self
            .endpoint
            .handle(now, self.peer, None, None, data, &mut answer)
        {
            None => {}
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(connection) = self.connections.get_mut(&handle) {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.admit(incoming, now),
            Some(DatagramEvent::Response(_)) => self.outbox.push_back(answer),
        }
        self.settle();
    }

    fn admit(&mut self, incoming: Incoming, now: Instant) {
        let mut answer = Vec::new();
        match self.admission {
            Admission::Retry if !incoming.remote_address_validated() => {
                // Fails only for a validated address.
                if self.endpoint.retry(incoming, &mut answer).is_ok() {
                    self.outbox.push_back(answer);
                }
            }
            Admission::Accept | Admission::Retry => {
                match self.endpoint.accept(incoming, now, &mut answer, None) {
                    Ok((handle, connection)) => self.begin(handle, connection),
                    Err(AcceptError { cause, response }) => {
                        self.refused.push(cause);
                        self.outbox.extend(response.map(|_| answer));
                    }
                }
            }
            Admission::Refuse => {
                let _where_to = self.endpoint.refuse(incoming, &mut answer);
                self.outbox.push_back(answer);
            }
            Admission::Ignore => self.endpoint.ignore(incoming),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        for connection in self.connections.values_mut() {
            if connection
                .poll_timeout()
                .is_some_and(|timeout| timeout <= now)
            {
                connection.handle_timeout(now);
            }
        }
        self.settle();
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.connections
            .values_mut()
            .filter_map(Connection::poll_timeout)
            .min()
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if let Some(datagram) = self.outbox.pop_front() {
            return Some(datagram);
        }
        let mut datagram = Vec::new();
        let sent = self
            .connections
            .values_mut()
            .any(|connection| connection.poll_transmit(now, 1, &mut datagram).is_some());
        self.settle();
        sent.then_some(datagram)
    }

    /// Passes events between endpoint and connections, and notes those of the newest.
    fn settle(&mut self) {
        for (handle, connection) in &mut self.connections {
            while let Some(event) = connection.poll_endpoint_events() {
                if let Some(answer) = self.endpoint.handle_event(*handle, event) {
                    connection.handle_event(answer);
                }
            }
            while let Some(event) = connection.poll() {
                match event {
                    Event::Connected if self.newest == Some(*handle) => self.connected = true,
                    Event::ConnectionLost { reason } if self.newest == Some(*handle) => {
                        self.lost = Some(reason)
                    }
                    Event::Connected
                    | Event::ConnectionLost { .. }
                    | Event::HandshakeDataReady
                    | Event::Stream(_)
                    | Event::DatagramReceived
                    | Event::DatagramsUnblocked => {}
                }
            }
        }
        self.connections
            .retain(|_, connection| !connection.is_drained());
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End")
            .field("addr", &self.addr)
            .field("connections", &self.connections.len())
            .field("connected", &self.connected)
            .field("lost", &self.lost)
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}
