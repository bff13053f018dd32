//! The inner connection: Noise-QUIC from node to node, keyed by the rendezvous. The host accepts, the joiner
//! connects; both tell who they are inside the handshake.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::{
    AckFrequencyConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream,
    TransportConfig,
};
use remora_proto::{
    id::{NodeId, Side},
    identity::{Introduction, Role},
    noise::{
        self, Access, ClientConfig, INITIAL_RTT, PeerInfo, Profile, Psk, PskId, PskStore, Reject,
        ServerConfig, StaticKey,
    },
    path::{
        candidate::{Policy, is_open},
        check::Keys,
    },
    rendezvous::InnerKeys,
    resumption::Resumption,
    session::{EndReason, T_JOIN, T_LOST, T_RESUME},
    wire::{
        frame,
        message::{
            ALPN_SESSION, Inbox, MAX_CANDIDATES_BYTES, MAX_CHAT_BYTES, MAX_CONTROL_BYTES, encode,
            session::{StreamHeader, StreamKind},
        },
    },
};

use crate::{
    control::Allocation,
    path::{
        carrier::{Carrier, Leg},
        congestion::{ByPath, WayNumber},
        gather,
        mover::Mover,
        portmap::PortMap,
        route::SharedRoute,
        socket::{Inlet, MagicSocket, Opened},
        virtual_socket::{Outgoing, VIRTUAL_PEER, VirtualSocket},
    },
};

/// So that silence means something to the session ([`T_LOST`]), and a NAT's mapping stays open.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Silence after which the connection is given up: later than by the session, which goes on in it when the other side is back
/// ([`T_RESUME`]). Its keys are the proof that it is the other side.
const IDLE_TIMEOUT: Duration = T_LOST.saturating_add(T_RESUME).saturating_add(KEEP_ALIVE);

/// Packets of the helper that the sharer may leave unacknowledged for a moment (draft-ietf-quic-ack-frequency).
const ACK_ELICITING_THRESHOLD: u8 = 8;

/// One stream of messages.
#[derive(Debug)]
pub struct Messages {
    /// To the other side.
    pub send: SendStream,
    /// From it.
    pub recv: RecvStream,
    /// What has arrived already.
    pub inbox: Inbox,
}

impl Messages {
    /// Read at once.
    pub const CHUNK_BYTES: usize = 16 * 1024;
}

/// A connected session's streams.
#[derive(Debug)]
pub struct Inner {
    /// The inner connection.
    pub connection: Connection,
    /// Control messages.
    pub control: Messages,
    /// Chat messages.
    pub chat: Messages,
    /// The helper's keys and pointer.
    pub input: Messages,
    /// Where each may be reached.
    pub path: Messages,
    /// Looks for better paths, once it is driven.
    pub mover: Mover,
    /// Where the other node's packets go that come by other relays.
    pub inlet: Inlet,
    /// With these keys.
    pub path_keys: Keys,
    /// What the two know, should the sharer's computer restart.
    pub resumption: Resumption,
    /// Owns the connection's driver.
    pub endpoint: Endpoint,
}

/// What the inner connection is made from.
#[derive(Debug)]
pub struct Start {
    /// The session on the relay.
    pub allocation: Allocation,
    /// The relay's name, for people.
    pub relay_name: String,
    /// From the rendezvous.
    pub keys: InnerKeys,
    /// What to say of ourselves, but for candidates.
    pub introduction: Introduction,
    /// What we prove to have.
    pub key: StaticKey,
    /// How the relay saw us when we connected.
    pub observed: Option<SocketAddr>,
    /// Who says how they see us; the relay first.
    pub observers: Vec<SocketAddr>,
    /// Which paths the session may take.
    pub policy: Policy,
}

/// The other side, as the handshake has proven it.
#[derive(Debug)]
pub struct Peer {
    /// What it said of itself.
    pub introduction: Introduction,
    /// Its static key.
    pub node: NodeId,
    /// Final.
    pub handshake_hash: [u8; 32],
}

/// Lets in whoever introduces itself properly.
struct Introduced(Role);

impl Access for Introduced {
    fn check(&self, peer: &PeerInfo) -> Result<(), Reject> {
        Introduction::decode(&peer.payload, self.0)
            .map(drop)
            .map_err(|error| {
                tracing::warn!(%error, "refused");
                Reject("introduction")
            })
    }
}

/// The one key of this session. Not handed out again: the endpoint lives for one session and takes one connection.
struct OneKey(PskId, Psk);

impl PskStore for OneKey {
    fn get(&self, id: &PskId) -> Option<Psk> {
        (*id == self.0).then(|| self.1.clone())
    }

    fn burn(&self, _: &PskId) {}
}

/// Opens the inner connection.
///
/// # Errors
/// The reason with which the session ends before it began.
pub async fn open(
    mut start: Start,
    socket: Arc<MagicSocket>,
    port_map: PortMap,
) -> Result<(Inner, Peer), EndReason> {
    let observers = std::mem::take(&mut start.observers);
    let Allocation { session, side, .. } = start.allocation;
    let (role, observed, nat) = (
        start.introduction.role,
        start.observed,
        start.introduction.named.nat,
    );
    let ours = Arc::clone(&socket);
    if !start.policy.relay_only {
        socket.open_sibling();
        let hosts = gather::hosts(&socket.bases());
        let mapped = port_map.mapped();
        let allow_loopback = start.policy.allow_loopback;
        let candidates = gather::candidates(&hosts, mapped, observed, allow_loopback);
        start.introduction.named.candidates = candidates.into_iter().filter(is_open).collect();
    }
    let (inlet, opened) = Inlet::new(Instant::now());
    socket.open_route(session, side, observers.clone(), inlet.clone());
    let route = Arc::new(SharedRoute::default());
    let Opened {
        packets,
        arrived,
        silence,
    } = opened;
    let header = frame::Header { side, session };
    let leg = Leg {
        socket: Arc::clone(&socket),
        header,
        name: std::mem::take(&mut start.relay_name),
        observers: observers.clone(),
    };
    let carrier = Arc::new(Carrier::new(leg, Arc::clone(&silence)));
    let outgoing = Outgoing::Framed {
        carrier: Arc::clone(&carrier),
        header,
        route: Arc::clone(&route),
    };
    let socket = VirtualSocket::new(socket, outgoing, packets);
    let connecting = connect(start, socket, route.number());
    let (endpoint, connection) = tokio::time::timeout(T_JOIN, connecting)
        .await
        .unwrap_or(Err(EndReason::JoinTimeout))?;
    let peer = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<PeerInfo>().ok());
    let peer = peer.ok_or(EndReason::Internal)?;
    let introduction =
        Introduction::decode(&peer.payload, role.peer()).map_err(|_| EndReason::AuthFailed)?;
    let streams = tokio::time::timeout(T_JOIN, streams(&connection, side));
    let [control, chat, input, path] = streams.await.unwrap_or(Err(EndReason::JoinTimeout))?;
    let path_keys = Keys::export(session, side, |out, label, context| {
        connection.export_keying_material(out, label, context)
    })
    .map_err(|_| EndReason::Internal)?;
    let resumption = Resumption::export(|out, label, context| {
        connection.export_keying_material(out, label, context)
    })
    .map_err(|_| EndReason::Internal)?;
    let is_by_stream = ours.is_by_stream();
    let mover = Mover {
        is_by_stream,
        session,
        carrier,
        socket: ours,
        arrived,
        observed,
        nat,
        named: introduction.named.clone(),
        observers,
        route,
        silence,
        port_map,
    };
    tracing::info!(%session, ?side, "inner connection");
    let inner = Inner {
        connection,
        control,
        chat,
        input,
        path,
        mover,
        inlet,
        path_keys,
        resumption,
        endpoint,
    };
    let peer = Peer {
        introduction,
        node: NodeId(peer.static_key),
        handshake_hash: peer.handshake_hash,
    };
    Ok((inner, peer))
}

async fn connect(
    start: Start,
    socket: Arc<VirtualSocket>,
    way: WayNumber,
) -> Result<(Endpoint, Connection), EndReason> {
    let Allocation { side, .. } = start.allocation;
    let endpoint = |server| {
        let config = noise::endpoint_config(&[Profile::E2e, Profile::E2ePq]);
        Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(quinn::TokioRuntime))
            .map_err(|_| EndReason::Internal)
    };
    match side {
        Side::Host => {
            let endpoint = endpoint(Some(server_config(start, way)))?;
            let connection = accept(&endpoint).await?;
            Ok((endpoint, connection))
        }
        Side::Joiner => {
            let endpoint = endpoint(None)?;
            let connecting = endpoint
                .connect_with(client_config(start, way), VIRTUAL_PEER, "peer")
                .map_err(|_| EndReason::Internal)?;
            let connection = connecting.await.map_err(|error| reason(&error))?;
            Ok((endpoint, connection))
        }
    }
}

/// Takes the first connection that holds the key. Whoever sends garbage, or a first message only, is passed over.
async fn accept(endpoint: &Endpoint) -> Result<Connection, EndReason> {
    while let Some(incoming) = endpoint.accept().await {
        match incoming.await {
            Ok(connection) => return Ok(connection),
            Err(error) => tracing::debug!(%error, "not the joiner"),
        }
    }
    Err(EndReason::Internal)
}

fn reason(error: &ConnectionError) -> EndReason {
    match error {
        ConnectionError::VersionMismatch => EndReason::VersionTooOld,
        ConnectionError::TransportError(_) | ConnectionError::ConnectionClosed(_) => {
            EndReason::AuthFailed
        }
        ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => EndReason::ConnectionLost,
    }
}

fn transport(role: Role, way: WayNumber) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    if role == Role::Helper {
        // A key down and a key up would each be acknowledged at once, in packets larger than the letter that follows.
        let mut seldom = AckFrequencyConfig::default();
        seldom.ack_eliciting_threshold(ACK_ELICITING_THRESHOLD.into());
        transport.ack_frequency_config(Some(seldom));
    }
    transport
        .congestion_controller_factory(Arc::new(ByPath::new(way)))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(
            IDLE_TIMEOUT
                .try_into()
                .expect("some minutes are a valid timeout"),
        ))
        .initial_rtt(INITIAL_RTT)
        // 1,200 bytes fit every path with a frame's header. Probes for more can stall quinn 0.11's handshake for good when
        // packets are lost (`proto/tests/noise_network.rs`).
        .mtu_discovery_config(None)
        .max_concurrent_bidi_streams(8u8.into())
        // Frames of the picture, each on its own; the sharer has 24 under way at most.
        .max_concurrent_uni_streams(32u8.into());
    Arc::new(transport)
}

fn server_config(start: Start, way: WayNumber) -> quinn::ServerConfig {
    let role = start.introduction.role;
    // Which of the two the joiner's version asks for; both are keyed by the PSK, so nothing can be downgraded.
    let profiles = [Profile::E2e, Profile::E2ePq];
    let mut config = ServerConfig::new(&profiles, start.key, ALPN_SESSION);
    config.psks = Some(Arc::new(OneKey(start.keys.psk_id, start.keys.psk)));
    config.context = start.keys.context;
    config.access = Arc::new(Introduced(start.introduction.role.peer()));
    config.payload = start.introduction.encode();
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(config));
    config
        .transport_config(transport(role, way))
        .migration(false);
    config
}

fn client_config(start: Start, way: WayNumber) -> quinn::ClientConfig {
    let role = start.introduction.role;
    let mut config = ClientConfig::new(Profile::E2ePq, start.key, ALPN_SESSION);
    config.psk = Some((start.keys.psk_id, start.keys.psk));
    config.context = start.keys.context;
    config.access = Arc::new(Introduced(start.introduction.role.peer()));
    config.payload = start.introduction.encode();
    let mut config = config.into_quinn();
    config.transport_config(transport(role, way));
    config
}

async fn streams(connection: &Connection, side: Side) -> Result<[Messages; 4], EndReason> {
    let lost = |_: ConnectionError| EndReason::ConnectionLost;
    match side {
        Side::Joiner => {
            let open = async |kind: StreamKind, max| {
                let (mut send, recv) = connection.open_bi().await.map_err(lost)?;
                let header = encode(&StreamHeader { kind: kind.into() });
                send.write_all(&header)
                    .await
                    .map_err(|_| EndReason::ConnectionLost)?;
                Ok(Messages {
                    send,
                    recv,
                    inbox: Inbox::new(max),
                })
            };
            let control = open(StreamKind::Control, MAX_CONTROL_BYTES).await?;
            let chat = open(StreamKind::Chat, MAX_CHAT_BYTES).await?;
            let input = open(StreamKind::Input, MAX_CONTROL_BYTES).await?;
            let path = open(StreamKind::Path, MAX_CANDIDATES_BYTES).await?;
            Ok([control, chat, input, path])
        }
        Side::Host => {
            let accept = async |kind: StreamKind, max| {
                let (send, recv) = connection.accept_bi().await.map_err(lost)?;
                let mut messages = Messages {
                    send,
                    recv,
                    inbox: Inbox::new(max),
                };
                let header = read_header(&mut messages).await?;
                if header.kind() == kind {
                    Ok(messages)
                } else {
                    Err(EndReason::VersionTooOld)
                }
            };
            let control = accept(StreamKind::Control, MAX_CONTROL_BYTES).await?;
            let chat = accept(StreamKind::Chat, MAX_CHAT_BYTES).await?;
            let input = accept(StreamKind::Input, MAX_CONTROL_BYTES).await?;
            let path = accept(StreamKind::Path, MAX_CANDIDATES_BYTES).await?;
            Ok([control, chat, input, path])
        }
    }
}

async fn read_header(messages: &mut Messages) -> Result<StreamHeader, EndReason> {
    loop {
        match messages.inbox.next() {
            Ok(Some(header)) => return Ok(header),
            Ok(None) => {}
            Err(_) => return Err(EndReason::Internal),
        }
        let chunk = messages.recv.read_chunk(Messages::CHUNK_BYTES, true).await;
        match chunk {
            Ok(Some(chunk)) => messages.inbox.push(&chunk.bytes),
            Ok(None) | Err(_) => return Err(EndReason::ConnectionLost),
        }
    }
}
