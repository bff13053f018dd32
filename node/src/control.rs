//! The control connection: one Noise-QUIC connection to the relay, one stream of messages on it.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the relay may say what we do not know yet"
)]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use quinn::{AckFrequencyConfig, Connection, ConnectionError, Endpoint, TransportConfig, VarInt};
use remora_proto::{
    id::{ExchangeId, RelayAddr, SessionId, Side},
    noise::{self, ClientConfig, Profile, StaticKey},
    record::CLOCK_TOLERANCE_MS,
    wire::message::{
        ALPN_RELAY, Inbox, MAX_CONTROL_BYTES, PROTOCOL,
        control::{
            self as schema, NodeToRelay, Reason, Refused, RelayToNode,
            node_to_relay::Body as Request, relay_to_node::Body as Answer,
        },
        encode,
    },
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    error::{Exit, Failure},
    path::{
        socket::{MagicSocket, Packet},
        virtual_socket::{Outgoing, VirtualSocket},
    },
};

/// A relay that has not answered by then is not there, or UDP is blocked.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Keeps the NAT's mapping open (RFC 4787 §4.3 allows 2 minutes, real ones forget after 30 s) and lets the relay
/// notice within its idle timeout that we are gone; two may be lost. A relay has ten thousand such nodes, and each wakes it up.
/// In a session the peers' own keep-alive comes more often, through the same mapping.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Silence after which the relay counts as gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Messages waiting for the relay: a person's actions, a few at a time.
const QUEUE_REQUESTS: usize = 32;
/// Notices waiting for us: at most four joiners at a time, a few messages each.
const QUEUE_NOTICES: usize = 64;

/// What the relay says unasked.
#[derive(Debug)]
pub enum Notice {
    /// A joiner's first message.
    Offer(ExchangeId, Bytes),
    /// A message of the other node.
    Signal(ExchangeId, Bytes),
    /// The host ended the exchange.
    Dismissed(ExchangeId, Bytes),
    /// Frames of a session are forwarded now.
    Allocated(Allocation),
    /// The relay has forgotten the session.
    Released(SessionId),
    /// The relay wants to be left by then.
    Draining(Duration),
}

/// A session on the relay.
#[derive(Clone, Debug)]
pub struct Allocation {
    /// Whose it is.
    pub exchange: ExchangeId,
    /// Joiner: what the host said last.
    pub payload: Bytes,
    /// In every frame.
    pub session: SessionId,
    /// Which side this node is.
    pub side: Side,
}

/// Why a request got no answer worth having.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The relay said no.
    #[error("the relay refuses: {}", .0.text)]
    Refused(Refused),
    /// The control connection is gone.
    #[error("the connection to the relay is lost")]
    Lost,
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        match &error {
            RequestError::Refused(refused) => Self::new(
                Exit::Error,
                refused.reason().as_str_name(),
                error.to_string(),
            ),
            RequestError::Lost => relay_lost(),
        }
    }
}

/// The failure of a command whose relay went away.
pub fn relay_lost() -> Failure {
    Failure::new(
        Exit::Offline,
        "RELAY_LOST",
        "the connection to the relay is lost; check your network and try again",
    )
}

struct Asked {
    message: Request,
    answer: Option<oneshot::Sender<Answer>>,
}

/// A node's handle to its relay.
#[derive(Clone, Debug)]
pub struct Control {
    requests: mpsc::Sender<Asked>,
    connection: Connection,
    /// What the relay said of itself and of us.
    pub welcome: Arc<schema::Welcome>,
    /// Where the relay's frames come from.
    pub relay: SocketAddr,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asked")
    }
}

/// A running control connection: the handle, its notices, and the future that has to be driven.
pub struct Started<F> {
    /// Clone freely.
    pub control: Control,
    /// Notices, in order.
    pub notices: mpsc::Receiver<Notice>,
    /// Ends when the connection does.
    pub task: F,
}

/// Milliseconds since 1970 by this computer's clock.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl<F> std::fmt::Debug for Started<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Started({:?})", self.control.relay)
    }
}

impl Control {
    /// Connects to `relay`, which must prove the key in its address, and says hello.
    ///
    /// # Errors
    /// A [`Failure`] that says which of the things that can be wrong is.
    pub async fn connect(
        relay: &RelayAddr,
        address: SocketAddr,
        socket: Arc<MagicSocket>,
        packets: mpsc::Receiver<Packet>,
    ) -> Result<Started<impl Future<Output = ()> + Send + use<>>, Failure> {
        let socket = VirtualSocket::new(socket, Outgoing::Direct, packets);
        let config = noise::lone_endpoint_config(&[Profile::Hop]);
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = Endpoint::new_with_abstract_socket(config, None, socket, runtime)
            .map_err(|error| Failure::internal("cannot start QUIC", error))?;
        let connecting = endpoint
            .connect_with(client_config(relay), address, "relay")
            .map_err(|error| Failure::internal("cannot connect to the relay", error))?;
        let hello = async {
            let connection = connecting
                .await
                .map_err(|error| connect_failure(relay, &error))?;
            let opened = open_stream(endpoint, connection.clone()).await;
            let (stream, welcome) =
                opened.map_err(|error| hello_failure(relay, &connection, error))?;
            Ok((connection, stream, welcome))
        };
        let (connection, stream, welcome) = tokio::time::timeout(CONNECT_TIMEOUT, hello)
            .await
            .unwrap_or_else(|_| Err(connect_failure(relay, &ConnectionError::TimedOut)))?;
        check_clock(&welcome)?;
        let (requests, asked) = mpsc::channel(QUEUE_REQUESTS);
        let (notify, notices) = mpsc::channel(QUEUE_NOTICES);
        let control = Self {
            requests,
            connection,
            welcome: Arc::new(welcome),
            relay: address,
        };
        let task = stream.run(asked, notify);
        Ok(Started {
            control,
            notices,
            task,
        })
    }

    async fn request(&self, message: Request) -> Result<Answer, RequestError> {
        let (answer, answered) = oneshot::channel();
        let asked = Asked {
            message,
            answer: Some(answer),
        };
        self.requests
            .send(asked)
            .await
            .map_err(|_| RequestError::Lost)?;
        match answered.await {
            Ok(Answer::Refused(refused)) => Err(RequestError::Refused(refused)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(RequestError::Lost),
        }
    }

    /// Says something that has no answer.
    pub async fn tell(&self, message: Request) {
        // When the connection is gone, whoever waits for its notices learns of it.
        if self
            .requests
            .send(Asked {
                message,
                answer: None,
            })
            .await
            .is_err()
        {
            tracing::debug!("the relay is gone");
        }
    }

    /// Waits under a record's locator.
    ///
    /// # Errors
    /// [`RequestError`]; `TAKEN` asks for another code.
    pub async fn publish(&self, record: Bytes) -> Result<(), RequestError> {
        self.request(Request::Publish(schema::Publish { record }))
            .await
            .map(drop)
    }

    /// The record under one of the keys.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn look_up(&self, locator_keys: Vec<Bytes>) -> Result<Bytes, RequestError> {
        match self
            .request(Request::Lookup(schema::Lookup { locator_keys }))
            .await?
        {
            Answer::Found(found) => Ok(found.record),
            _ => Err(unexpected()),
        }
    }

    /// Opens an exchange with the host under the key.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn join(
        &self,
        locator_key: Bytes,
        payload: Bytes,
    ) -> Result<ExchangeId, RequestError> {
        match self
            .request(Request::Join(schema::Join {
                locator_key,
                payload,
            }))
            .await?
        {
            Answer::Started(started) => Ok(ExchangeId(started.exchange)),
            _ => Err(unexpected()),
        }
    }

    /// Round-trip time to the relay.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }
}

fn unexpected() -> RequestError {
    RequestError::Refused(Refused {
        reason: Reason::Malformed.into(),
        text: "an answer that does not fit the question".into(),
        retry_after_ms: 0,
    })
}

/// How a node connects: with a key of its own, to whoever has the key in the address.
pub fn client_config(relay: &RelayAddr) -> quinn::ClientConfig {
    // A fresh key per process: nodes are anonymous until identities are signed.
    let mut config = ClientConfig::new(Profile::Hop, StaticKey::generate(), ALPN_RELAY);
    config.server_key = Some(relay.id.0);
    let mut transport = TransportConfig::default();
    // The relay acknowledges at once, instead of setting a timer for each node's keep-alive.
    let mut at_once = AckFrequencyConfig::default();
    at_once.ack_eliciting_threshold(VarInt::from_u32(0));
    transport
        .ack_frequency_config(Some(at_once))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(
            IDLE_TIMEOUT.try_into().expect("60 s is a valid timeout"),
        ))
        .max_concurrent_bidi_streams(0u8.into())
        .max_concurrent_uni_streams(0u8.into())
        .datagram_receive_buffer_size(None)
        // Control messages are small, and probes can stall quinn 0.11's handshake (`proto/tests/noise_network.rs`).
        .mtu_discovery_config(None);
    let mut config = config.into_quinn();
    config.transport_config(Arc::new(transport));
    config
}

struct Stream {
    endpoint: Endpoint,
    connection: Connection,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    inbox: Inbox,
    pending: BTreeMap<u64, oneshot::Sender<Answer>>,
    next_request: u64,
}

enum HelloError {
    Refused(Refused),
    Lost,
    Malformed,
}

async fn open_stream(
    endpoint: Endpoint,
    connection: Connection,
) -> Result<(Stream, schema::Welcome), HelloError> {
    let (mut send, recv) = connection.open_bi().await.map_err(|_| HelloError::Lost)?;
    let agent = concat!("remora/", env!("CARGO_PKG_VERSION")).to_owned();
    let hello = Request::Hello(schema::Hello {
        protocol: PROTOCOL,
        agent,
    });
    let message = encode(&NodeToRelay {
        request: 1,
        body: Some(hello),
    });
    send.write_all(&message)
        .await
        .map_err(|_| HelloError::Lost)?;
    let inbox = Inbox::new(MAX_CONTROL_BYTES);
    let mut stream = Stream {
        endpoint,
        connection,
        send,
        recv,
        inbox,
        pending: BTreeMap::new(),
        next_request: 1,
    };
    loop {
        match stream.next_message().await {
            Some(RelayToNode {
                request: 1,
                body: Some(Answer::Welcome(welcome)),
            }) => {
                return Ok((stream, welcome));
            }
            Some(RelayToNode {
                request: 1,
                body: Some(Answer::Refused(refused)),
            }) => {
                return Err(HelloError::Refused(refused));
            }
            Some(RelayToNode { request: 0, .. }) => {}
            Some(_) => return Err(HelloError::Malformed),
            None => return Err(HelloError::Lost),
        }
    }
}

impl Stream {
    /// The next message; `None` when the stream is over. Cancel-safe: what arrived stays in the inbox.
    async fn next_message(&mut self) -> Option<RelayToNode> {
        loop {
            match self.inbox.next() {
                Ok(Some(message)) => return Some(message),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "from the relay");
                    return None;
                }
            }
            let chunk = self.recv.read_chunk(MAX_CONTROL_BYTES, true).await.ok()??;
            self.inbox.push(&chunk.bytes);
        }
    }

    async fn run(mut self, mut asked: mpsc::Receiver<Asked>, notify: mpsc::Sender<Notice>) {
        loop {
            tokio::select! { biased;
                message = self.next_message() => {
                    let Some(message) = message else { break };
                    if !self.deliver(message, &notify).await {
                        break;
                    }
                }
                request = asked.recv() => {
                    let Some(request) = request else { break };
                    if !self.ask(request).await {
                        break;
                    }
                }
            }
        }
        self.finish().await;
    }

    /// No handle is left: what was said last is delivered, then the connection closes.
    async fn finish(mut self) {
        if self.send.finish().is_ok() && self.send.stopped().await.is_err() {
            tracing::debug!("the connection was lost before the last message was acknowledged");
        }
        self.connection.close(0u32.into(), b"bye");
        self.endpoint.wait_idle().await;
    }

    async fn ask(&mut self, asked: Asked) -> bool {
        let request = match asked.answer {
            Some(answer) => {
                self.next_request += 1;
                self.pending.insert(self.next_request, answer);
                self.next_request
            }
            None => 0,
        };
        let message = encode(&NodeToRelay {
            request,
            body: Some(asked.message),
        });
        self.send.write_all(&message).await.is_ok()
    }

    async fn deliver(&mut self, message: RelayToNode, notify: &mpsc::Sender<Notice>) -> bool {
        let Some(body) = message.body else {
            return true;
        };
        if message.request != 0 {
            // Whoever asked may have stopped waiting.
            if let Some(answer) = self.pending.remove(&message.request)
                && answer.send(body).is_err()
            {
                tracing::debug!("an answer nobody waits for");
            }
            return true;
        }
        let Some(notice) = notice(body) else {
            return true;
        };
        notify.send(notice).await.is_ok()
    }
}

fn notice(body: Answer) -> Option<Notice> {
    Some(match body {
        Answer::Offer(offer) => Notice::Offer(ExchangeId(offer.exchange), offer.payload),
        Answer::Signal(signal) => Notice::Signal(ExchangeId(signal.exchange), signal.payload),
        Answer::Dismissed(dismiss) => {
            Notice::Dismissed(ExchangeId(dismiss.exchange), dismiss.payload)
        }
        Answer::Allocated(allocated) => Notice::Allocated(Allocation {
            exchange: ExchangeId(allocated.exchange),
            payload: allocated.payload,
            session: SessionId(allocated.session),
            side: if allocated.side == 0 {
                Side::Host
            } else {
                Side::Joiner
            },
        }),
        Answer::Released(released) => Notice::Released(SessionId(released.session)),
        Answer::Draining(draining) => {
            Notice::Draining(Duration::from_millis(draining.deadline_ms.into()))
        }
        Answer::Refused(refused) => {
            tracing::debug!(reason = refused.reason().as_str_name(), "refused");
            return None;
        }
        Answer::Welcome(_) | Answer::Done(_) | Answer::Found(_) | Answer::Started(_) => {
            return None;
        }
    })
}

// ---- failures ------------------------------------------------------------------------------------

/// TLS alert numbers that Noise-QUIC uses, too.
const ALERT_HANDSHAKE_FAILURE: u8 = 40;
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

fn connect_failure(relay: &RelayAddr, error: &ConnectionError) -> Failure {
    let at = &relay.host_port;
    let alert = |number| quinn::TransportErrorCode::crypto(number);
    let code = match error {
        ConnectionError::ConnectionClosed(close) => Some(close.error_code),
        ConnectionError::TransportError(error) => Some(error.code),
        _ => None,
    };
    match error {
        ConnectionError::TimedOut => Failure::new(
            Exit::Offline,
            "RELAY_UNREACHABLE",
            format!(
                "no answer from the relay at {at}: is it running, is the address right, and does your network let UDP through?"
            ),
        ),
        ConnectionError::VersionMismatch => version_failure(at),
        _ if code == Some(quinn::TransportErrorCode::CONNECTION_REFUSED) => Failure::new(
            Exit::Offline,
            "RELAY_FULL",
            format!(
                "the relay at {at} takes no more connections, or no more from your network; try again in some minutes, or ask its operator"
            ),
        ),
        _ if code == Some(alert(ALERT_NO_APPLICATION_PROTOCOL)) => version_failure(at),
        _ if code == Some(alert(ALERT_HANDSHAKE_FAILURE)) => Failure::new(
            Exit::Verification,
            "RELAY_KEY",
            format!(
                "whoever answers at {at} does not have the key in the relay's address: copy the address again from your operator; if it is the same, do not use this relay"
            ),
        ),
        _ => Failure::new(
            Exit::Offline,
            "RELAY_UNREACHABLE",
            format!("cannot connect to the relay at {at}: {error}"),
        ),
    }
}

fn version_failure(at: &str) -> Failure {
    Failure::new(
        Exit::Error,
        "VERSION_MISMATCH",
        format!(
            "the relay at {at} speaks another version of the protocol: update remora, or ask its operator to update remora-relay"
        ),
    )
}

fn hello_failure(relay: &RelayAddr, connection: &Connection, error: HelloError) -> Failure {
    match (error, connection.close_reason()) {
        (HelloError::Refused(refused), _) if refused.reason() == Reason::VersionTooOld => {
            version_failure(&relay.host_port)
        }
        (HelloError::Refused(refused), _) => RequestError::Refused(refused).into(),
        (HelloError::Lost, Some(reason)) => connect_failure(relay, &reason),
        (HelloError::Lost, None) => relay_lost(),
        (HelloError::Malformed, _) => version_failure(&relay.host_port),
    }
}

fn check_clock(welcome: &schema::Welcome) -> Result<(), Failure> {
    let (here, there) = (unix_ms(), welcome.unix_ms);
    if here.abs_diff(there) <= CLOCK_TOLERANCE_MS {
        return Ok(());
    }
    let minutes = here.abs_diff(there) / 60_000;
    let direction = if here > there { "ahead of" } else { "behind" };
    let line = format!(
        "this computer's clock is {minutes} min {direction} the relay's: codes would not be found; set the clock (for example with `timedatectl set-ntp true`) and try again"
    );
    Err(Failure::new(Exit::Error, "CLOCK_OFF", line))
}
