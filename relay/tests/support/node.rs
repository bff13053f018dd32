//! A node for tests: quinn with Noise on a socket that also carries frames, and the control stream on it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use quinn::{
    AsyncUdpSocket, Connection, ConnectionError, Endpoint, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use remora_proto::{
    id::{SessionId, Side},
    noise::{ClientConfig, Profile, StaticKey, endpoint_config},
    park::{Grant, Saying},
    random::Random,
    record::{EPOCH_MS, HostRole, Record, RecordKey, Subject, Waiting},
    wire::{
        frame::Header,
        message::{
            ALPN_RELAY, Inbox, MAX_CONTROL_BYTES, PROTOCOL,
            control::{
                self, Admit, Allocated, Gone, Hello, Join, NodeToRelay, Publish, Reason,
                RelayToNode, Signal, Welcome, Withdraw, node_to_relay::Body as Request,
                relay_to_node::Body as Reply,
            },
            encode,
        },
        reflect,
    },
};
use remora_relay::relay::Relay;
use tokio::{net::UdpSocket, sync::mpsc, time};

/// Nothing in a test takes this long unless it never happens.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what must happen.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    time::timeout(PATIENCE, future).await.expect("it happens")
}

/// A UDP socket that keeps frames and reflections from quinn.
struct NodeSocket {
    io: Arc<UdpSocket>,
    frames: mpsc::UnboundedSender<Vec<u8>>,
    reflections: mpsc::UnboundedSender<Vec<u8>>,
}

impl fmt::Debug for NodeSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeSocket")
    }
}

impl AsyncUdpSocket for NodeSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // A full buffer is loss, which quinn repairs.
        self.io
            .try_send_to(transmit.contents, transmit.destination)
            .ok();
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut bytes = [0; 65_535];
        loop {
            let mut buffer = tokio::io::ReadBuf::new(&mut bytes);
            let addr = std::task::ready!(self.io.poll_recv_from(cx, &mut buffer))?;
            let datagram = buffer.filled();
            match datagram.first() {
                Some(4) => self.frames.send(datagram.to_vec()).unwrap_or(()),
                Some(5) => self.reflections.send(datagram.to_vec()).unwrap_or(()),
                _ => {
                    let len = datagram.len();
                    bufs[0][..len].copy_from_slice(datagram);
                    meta[0] = RecvMeta {
                        addr,
                        len,
                        stride: len,
                        ecn: None,
                        dst_ip: None,
                    };
                    return Poll::Ready(Ok(1));
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }
}

#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A socket with what arrives on it beside QUIC.
pub struct Port {
    pub io: Arc<UdpSocket>,
    socket: Arc<NodeSocket>,
    frames: mpsc::UnboundedReceiver<Vec<u8>>,
    reflections: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl Port {
    pub async fn new() -> Self {
        Self::of_family(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// A port that can reach `relay`.
    pub async fn of_family(relay: SocketAddr) -> Self {
        let io = UdpSocket::bind(SocketAddr::new(relay.ip(), 0)).await;
        let io = Arc::new(io.expect("a port"));
        io.writable().await.expect("works");
        let (frame_sender, frames) = mpsc::unbounded_channel();
        let (reflection_sender, reflections) = mpsc::unbounded_channel();
        let socket = NodeSocket {
            io: Arc::clone(&io),
            frames: frame_sender,
            reflections: reflection_sender,
        };
        Self {
            io,
            socket: Arc::new(socket),
            frames,
            reflections,
        }
    }
}

/// A connected node.
pub struct Node {
    pub connection: Connection,
    pub endpoint: Endpoint,
    pub port: Port,
    relay: SocketAddr,
    relay_key: [u8; 32],
    key: StaticKey,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    inbox: Inbox,
    notices: VecDeque<Reply>,
    last_request: u64,
}

/// Connects and no more.
pub async fn connect(
    relay: &Relay,
    port: &Port,
    key: StaticKey,
    alpn: &[u8],
) -> (Endpoint, Result<Connection, ConnectionError>) {
    connect_to(relay.local_addr(), relay.id().0, port, key, alpn).await
}

pub async fn connect_to(
    relay: SocketAddr,
    relay_key: [u8; 32],
    port: &Port,
    key: StaticKey,
    alpn: &[u8],
) -> (Endpoint, Result<Connection, ConnectionError>) {
    let socket: Arc<dyn AsyncUdpSocket> = Arc::clone(&port.socket) as _;
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint =
        Endpoint::new_with_abstract_socket(endpoint_config(&[Profile::Hop]), None, socket, runtime)
            .expect("an endpoint");
    let mut config = ClientConfig::new(Profile::Hop, key, alpn);
    config.server_key = Some(relay_key);
    let mut config = config.into_quinn();
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(3)));
    // Small, so that a node that does not read is soon full.
    transport.stream_receive_window(quinn::VarInt::from_u32(8192));
    config.transport_config(Arc::new(transport));
    let connecting = endpoint
        .connect_with(config, relay, "relay")
        .expect("a valid configuration");
    let connection = within(connecting).await;
    (endpoint, connection)
}

impl Node {
    /// A node without its Hello.
    pub async fn silent(relay: &Relay) -> Self {
        Self::silent_at(relay.local_addr(), relay.id().0).await
    }

    /// The same of a relay that runs elsewhere.
    pub async fn silent_at(relay: SocketAddr, relay_key: [u8; 32]) -> Self {
        let port = Port::of_family(relay).await;
        Self::silent_with(relay, relay_key, port, StaticKey::generate()).await
    }

    /// A welcome node at that port.
    pub async fn at(relay: &Relay, port: Port) -> Self {
        let (at, key) = (relay.local_addr(), relay.id().0);
        let mut node = Self::silent_with(at, key, port, StaticKey::generate()).await;
        let reply = node.ask(hello(1)).await;
        assert!(matches!(reply, Reply::Welcome(_)), "{reply:?}");
        node
    }

    async fn silent_with(
        relay: SocketAddr,
        relay_key: [u8; 32],
        port: Port,
        key: StaticKey,
    ) -> Self {
        let (endpoint, connection) =
            connect_to(relay, relay_key, &port, key.clone(), ALPN_RELAY).await;
        let connection = connection.expect("connected");
        Self::on(connection, endpoint, port, relay, relay_key, key).await
    }

    async fn on(
        connection: Connection,
        endpoint: Endpoint,
        port: Port,
        relay: SocketAddr,
        relay_key: [u8; 32],
        key: StaticKey,
    ) -> Self {
        let (send, recv) = connection.open_bi().await.expect("a stream");
        Self {
            connection,
            endpoint,
            port,
            relay,
            relay_key,
            key,
            send,
            recv,
            inbox: Inbox::new(MAX_CONTROL_BYTES),
            notices: VecDeque::new(),
            last_request: 0,
        }
    }

    /// A node that said Hello and was welcomed.
    pub async fn new(relay: &Relay) -> Self {
        Self::welcomed(relay).await.0
    }

    pub async fn welcomed(relay: &Relay) -> (Self, Welcome) {
        Self::welcomed_at(relay.local_addr(), relay.id().0).await
    }

    pub async fn welcomed_at(relay: SocketAddr, relay_key: [u8; 32]) -> (Self, Welcome) {
        let mut node = Self::silent_at(relay, relay_key).await;
        let reply = node.ask(hello(1)).await;
        let Reply::Welcome(welcome) = reply else {
            panic!("not welcome: {reply:?}")
        };
        (node, welcome)
    }

    /// Of the relay that it is at.
    pub fn relay_key(&self) -> [u8; 32] {
        self.relay_key
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        // The relay may have closed on what came before: that is for the test to see in what follows.
        self.send.write_all(bytes).await.ok();
    }

    pub async fn say(&mut self, request: u64, body: Option<Request>) {
        self.write(&encode(&NodeToRelay { request, body })).await;
    }

    /// A request and its answer; notices that come first are kept.
    pub async fn ask(&mut self, body: Request) -> Reply {
        self.last_request += 1;
        let request = self.last_request;
        self.say(request, Some(body)).await;
        loop {
            let message = self.message().await;
            let body = message.body.expect("a known message");
            if message.request == request {
                return body;
            }
            assert_eq!(message.request, 0, "an answer nobody waits for: {body:?}");
            self.notices.push_back(body);
        }
    }

    pub async fn refused(&mut self, body: Request) -> Reason {
        let reply = self.ask(body).await;
        let Reply::Refused(refused) = &reply else {
            panic!("not refused: {reply:?}")
        };
        let text = &refused.text;
        assert!(
            (1..=256).contains(&text.len()) && !text.contains('\n'),
            "{text}"
        );
        refused.reason()
    }

    pub async fn done(&mut self, body: Request) {
        let reply = self.ask(body).await;
        assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
    }

    pub async fn notice(&mut self) -> Reply {
        if let Some(notice) = self.notices.pop_front() {
            return notice;
        }
        let message = self.message().await;
        assert_eq!(
            message.request, 0,
            "an answer nobody waits for: {message:?}"
        );
        message.body.expect("a known message")
    }

    async fn message(&mut self) -> RelayToNode {
        self.try_message().await.expect("the relay goes on talking")
    }

    pub async fn try_message(&mut self) -> Option<RelayToNode> {
        loop {
            if let Some(message) = self
                .inbox
                .next::<RelayToNode>()
                .expect("the relay speaks the protocol")
            {
                return Some(message);
            }
            let chunk = within(self.recv.read_chunk(4096, true)).await.ok()??;
            self.inbox.push(&chunk.bytes);
        }
    }

    /// The code with which the relay closed the connection.
    pub async fn closed(&self) -> u64 {
        let error = within(self.connection.closed()).await;
        let ConnectionError::ApplicationClosed(close) = error else {
            panic!("not closed by the relay: {error}")
        };
        close.error_code.into_inner()
    }

    /// Sends a frame and gives back its bytes.
    pub async fn frame(&self, session: SessionId, side: Side, packet: &[u8]) -> Vec<u8> {
        let frame = [&Header { side, session }.encode()[..], packet].concat();
        self.datagram(&frame).await;
        frame
    }

    pub async fn datagram(&self, bytes: &[u8]) {
        self.port.io.send_to(bytes, self.relay).await.expect("sent");
    }

    /// The next frame that arrives.
    pub async fn next_frame(&mut self) -> Vec<u8> {
        within(self.port.frames.recv()).await.expect("open")
    }

    /// How many frames have arrived and were not looked at.
    pub fn waiting_frames(&mut self) -> usize {
        std::iter::from_fn(|| self.port.frames.try_recv().ok()).count()
    }

    /// Waits until the relay has dealt with every datagram sent from here: it answers in order.
    pub async fn barrier(&mut self) -> SocketAddr {
        self.datagram(&reflect::request(7)).await;
        let answer = within(self.port.reflections.recv()).await.expect("open");
        reflect::decode_response(&answer).expect("a response").seen
    }

    /// From now on the node is at another address, as when its NAT forgot it.
    pub async fn rebind(&mut self) {
        self.port = Port::new().await;
        let socket: Arc<dyn AsyncUdpSocket> = Arc::clone(&self.port.socket) as _;
        self.endpoint.rebind_abstract(socket).expect("rebound");
    }
}

impl Node {
    /// Gives its connection up and keeps its place.
    pub async fn park(mut self) -> ParkedNode {
        let connection = self.connection.clone();
        let grant = Grant::export(|out, label, context| {
            connection.export_keying_material(out, label, context)
        })
        .expect("connected");
        self.done(Request::Park(control::Park {})).await;
        assert_eq!(self.closed().await, 6);
        within(self.endpoint.wait_idle()).await;
        ParkedNode {
            port: self.port,
            grant,
            relay: self.relay,
            relay_key: self.relay_key,
            key: self.key,
        }
    }
}

/// A node without a connection, which says and hears what it is told to.
pub struct ParkedNode {
    pub port: Port,
    pub grant: Grant,
    relay: SocketAddr,
    relay_key: [u8; 32],
    key: StaticKey,
}

impl ParkedNode {
    pub async fn datagram(&self, bytes: &[u8]) {
        self.port.io.send_to(bytes, self.relay).await.expect("sent");
    }

    /// The next datagram, whoever it may be from.
    pub async fn raw(&mut self) -> Vec<u8> {
        // quinn is not there any more to read what comes.
        let mut bytes = [0; 2048];
        let length = within(self.port.io.recv(&mut bytes)).await.expect("open");
        bytes[..length].to_vec()
    }

    /// The next datagram, which is the relay's.
    pub async fn hear(&mut self) -> (Saying, u64) {
        let bytes = self.raw().await;
        let datagram = self.grant.open(&bytes).expect("the relay's");
        (datagram.saying, datagram.counter)
    }

    /// Says it, and hears the answer.
    pub async fn ask(&mut self, saying: Saying, counter: u64) -> (Saying, u64) {
        self.datagram(&self.grant.seal(saying, counter)).await;
        self.hear().await
    }

    /// A connection from where it is, if there is room for one.
    async fn connect(self) -> Result<(Node, Grant), Self> {
        let (endpoint, connection) = connect_to(
            self.relay,
            self.relay_key,
            &self.port,
            self.key.clone(),
            ALPN_RELAY,
        )
        .await;
        let Ok(connection) = connection else {
            within(endpoint.wait_idle()).await;
            return Err(self);
        };
        let (relay, relay_key) = (self.relay, self.relay_key);
        let node = Node::on(connection, endpoint, self.port, relay, relay_key, self.key).await;
        Ok((node, self.grant))
    }

    async fn hello(self) -> Result<(Node, Grant, Reply), Self> {
        let (mut node, grant) = self.connect().await?;
        let hello = Request::Hello(Hello {
            ticket: grant.ticket(),
            protocol: PROTOCOL,
            agent: "test".into(),
        });
        let answer = node.ask(hello).await;
        Ok((node, grant, answer))
    }

    /// Comes back with its ticket, if there is room for its connection.
    pub async fn try_back(self) -> Result<Node, Self> {
        let (node, _, answer) = self.hello().await?;
        assert!(matches!(answer, Reply::Welcome(_)), "{answer:?}");
        Ok(node)
    }

    /// The same, when there is.
    pub async fn back(self) -> Node {
        let Ok(node) = self.try_back().await else {
            panic!("no room")
        };
        node
    }

    /// Tries to, and is refused.
    pub async fn refused(self) -> (Self, Reason) {
        let Ok((node, grant, Reply::Refused(refused))) = self.hello().await else {
            panic!("not refused")
        };
        assert_eq!(node.closed().await, 5);
        within(node.endpoint.wait_idle()).await;
        let parked = Self {
            port: node.port,
            grant,
            relay: node.relay,
            relay_key: node.relay_key,
            key: node.key,
        };
        (parked, refused.reason())
    }

    /// As somebody else.
    pub fn with_key(self, key: StaticKey) -> Self {
        Self { key, ..self }
    }
}

pub fn hello(protocol: u32) -> Request {
    Request::Hello(Hello {
        protocol,
        agent: "test".into(),
        ticket: 0,
    })
}

pub fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    u64::try_from(since.as_millis()).expect("before the sun ends")
}

/// A code's public half.
pub struct Code {
    pub key: RecordKey,
    pub record: Bytes,
}

/// A signed record of code number `seed`, after `change`.
pub fn code_with(seed: u8, change: impl FnOnce(&mut Record)) -> Code {
    let signing = SigningKey::from_bytes(&[seed.wrapping_add(1); 32]);
    let now = unix_ms();
    let mut record = Record {
        realm: "default".into(),
        key: RecordKey::of_locator(&[b'4', b'0', seed], "default", now / EPOCH_MS),
        publisher: signing.verifying_key().to_bytes(),
        subject: Subject::Waiting(Waiting {
            nonce: [seed; 16],
            role: HostRole::Helper,
        }),
        not_before_ms: now - 1000,
        expiry_ms: now + 500_000,
        sequence: 1,
    };
    change(&mut record);
    Code {
        key: record.key,
        record: record.encode_signed(&signing),
    }
}

pub fn code(seed: u8) -> Code {
    code_with(seed, |_| {})
}

impl Code {
    pub fn key_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.key.0)
    }

    pub fn publish(&self) -> Request {
        Request::Publish(Publish {
            record: self.record.clone(),
        })
    }

    pub fn join(&self, payload: &'static str) -> Request {
        Request::Join(Join {
            locator_key: self.key_bytes(),
            payload: Bytes::from_static(payload.as_bytes()),
        })
    }
}

/// Ends a code.
pub fn withdraw(code: &Code, why: Gone) -> Request {
    Request::Withdraw(Withdraw {
        locator_key: code.key_bytes(),
        why: why.into(),
    })
}

/// Says something to the other node of an exchange.
pub fn signal(exchange: u64, payload: &'static [u8]) -> Request {
    Request::Signal(Signal {
        exchange,
        payload: Bytes::from_static(payload),
    })
}

/// Joins `host`'s published code; the exchange, seen by both.
pub async fn introduce(host: &mut Node, joiner: &mut Node, code: &Code) -> u64 {
    let Reply::Started(started) = joiner.ask(code.join("hello")).await else {
        panic!("not started")
    };
    let Reply::Offer(offer) = host.notice().await else {
        panic!("no offer")
    };
    assert_eq!(
        (offer.exchange, &offer.payload[..]),
        (started.exchange, &b"hello"[..])
    );
    assert_eq!(offer.locator_key, code.key_bytes());
    started.exchange
}

/// Admits the exchange; what host and joiner were told.
pub async fn admit(host: &mut Node, joiner: &mut Node, exchange: u64) -> [Allocated; 2] {
    let payload = Bytes::from_static(b"welcome");
    let answer = host.ask(Request::Admit(Admit { exchange, payload })).await;
    let (Reply::Allocated(one), Reply::Allocated(two)) = (answer, joiner.notice().await) else {
        panic!("not allocated")
    };
    [one, two]
}

/// Two nodes with a session between them.
pub async fn pair(relay: &Relay, seed: u8) -> (Node, Node, SessionId) {
    let (mut host, mut joiner, code) = (Node::new(relay).await, Node::new(relay).await, code(seed));
    host.done(code.publish()).await;
    let exchange = introduce(&mut host, &mut joiner, &code).await;
    let [allocated, _] = admit(&mut host, &mut joiner, exchange).await;
    (host, joiner, SessionId(allocated.session))
}

/// A relay on loopback that does not limit look-ups, after `change`.
pub fn relay_with(change: impl FnOnce(&mut remora_relay::config::Config)) -> Relay {
    let mut config = remora_relay::config::Config::loopback(StaticKey::generate());
    config.lookup_rate = remora_relay::rate::Rate::per_second(1000, 1000);
    change(&mut config);
    Relay::start(config).expect("started")
}

pub fn relay() -> Relay {
    relay_with(|_| {})
}

/// Pseudo-random bytes, the same for the same seed.
pub fn noise_bytes(random: &mut Random, max_len: usize) -> Vec<u8> {
    let len = usize::from(u16::from_be_bytes(random.bytes())) % max_len;
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

/// Status and body of a GET on the admin port.
pub async fn get(admin: SocketAddr, path: &str) -> (u16, String) {
    request(admin, "GET", path, "").await
}

/// The same of any method, with `headers`, each with its line's end.
pub async fn request(admin: SocketAddr, method: &str, path: &str, headers: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = within(tokio::net::TcpStream::connect(admin))
        .await
        .expect("connected");
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = String::new();
    within(stream.read_to_string(&mut response))
        .await
        .expect("answered");
    let status = response
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .expect("a status");
    let body = response
        .split_once("\r\n\r\n")
        .map_or(String::new(), |(_, body)| body.to_owned());
    (status, body)
}
