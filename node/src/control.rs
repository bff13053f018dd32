//! The control connection: one Noise-QUIC connection to the relay, one stream of messages on it.
//!
//! ```text
//!  Control (handles) ── requests ──▶ link: one task ──▶ stream ──▶ relay
//!          ◀── answers, notices ───    │ silent for a minute ▲
//!                                      ▼                     │ a request, or the relay wakes us
//!                                    parked: datagrams of 34 bytes (`proto::park`)
//! ```
//!
//! Whoever has a handle does not notice whether there is a connection at the moment.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the relay may say what we do not know yet"
)]

// What went wrong, for people.
mod failure;
// The task: connected, parked, connected again.
mod link;
// One connection's messages.
mod stream;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use quinn::{AckFrequencyConfig, Connection, TransportConfig, VarInt};
use remora_proto::{
    id::{DeviceId, ExchangeId, OrgId, RelayAddr, SessionId, Side},
    line::Why,
    noise::{ClientConfig, INITIAL_RTT, Profile, StaticKey},
    org::signed::MAX_POLICY_BYTES,
    wire::message::{
        ALPN_RELAY, MAX_POLICY_PART_BYTES,
        control::{
            self as schema, Reason, Refused, ReleaseCause, Sighted, node_to_relay::Body as Request,
            relay_to_node::Body as Answer,
        },
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

pub use self::failure::{RELAY_KEY, RELAY_UNREACHABLE, relay_lost};
use self::link::Link;
use crate::{
    error::Failure,
    path::socket::{Incoming, MagicSocket},
};

/// Keeps the NAT's mapping open (RFC 4787 §4.3 allows 2 minutes, real ones forget after 30 s) and lets the relay
/// notice within its idle timeout that we are gone; two may be lost. A relay has ten thousand such nodes, and each wakes it up.
/// In a session the peers' own keep-alive comes more often, through the same mapping.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Silence after which the relay counts as gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// After so long without a message either way, the node has itself parked. Most codes are tried before, and find a node that is
/// awake; whoever comes later waits for a handshake more.
pub const PARK_AFTER: Duration = Duration::from_secs(60);
/// For one answer; a person waits.
const MEASURING: Duration = Duration::from_secs(1);
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
    /// The relay has forgotten the session; its operator's words, if that one wanted it.
    Released(SessionId, ReleaseCause, Why),
    /// The relay wants to be left by then.
    Draining(Duration),
    /// The code is another's.
    Taken,
    /// Said by nobody: the relay does not answer this parked node, which tries to come back, for as long as its place would be kept.
    Silent,
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
    /// The key of a Rejoin, if it comes of one.
    pub rejoin: Bytes,
}

impl From<schema::Allocated> for Allocation {
    fn from(allocated: schema::Allocated) -> Self {
        Self {
            exchange: ExchangeId(allocated.exchange),
            payload: allocated.payload,
            session: SessionId(allocated.session),
            side: if allocated.side == 0 {
                Side::Host
            } else {
                Side::Joiner
            },
            rejoin: allocated.rejoin,
        }
    }
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

/// What came of a ring.
#[derive(Debug)]
pub enum Rung {
    /// The device hears it.
    Started(ExchangeId),
    /// It is not there.
    Away(Sighted),
}

struct Asked {
    message: Request,
    answer: Option<oneshot::Sender<Answer>>,
}

/// A node's handle to its relay.
#[derive(Clone, Debug)]
pub struct Control {
    requests: mpsc::Sender<Asked>,
    /// The last one.
    connection: watch::Receiver<Connection>,
    /// What the relay said of itself and of us.
    pub welcome: Arc<schema::Welcome>,
    /// Where the relay's frames come from.
    pub relay: SocketAddr,
    /// The number of the newest policy that the relay has told of.
    policy: watch::Receiver<u64>,
    /// Round trip of one question, where the handshake says nothing of it.
    measured: Option<Duration>,
    /// It is parked when it has been silent for so long.
    pub(crate) park_after: Duration,
}

/// Where to say what the relay says unasked.
#[derive(Debug)]
struct Notify {
    notices: mpsc::Sender<Notice>,
    policy: watch::Sender<u64>,
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
    /// Connects to `relay`, which must prove the key in its address, and says hello; is parked whenever it has been silent
    /// for `park_after`.
    ///
    /// # Errors
    /// A [`Failure`] that says which of the things that can be wrong is.
    pub async fn connect(
        relay: &RelayAddr,
        address: SocketAddr,
        socket: Arc<MagicSocket>,
        incoming: Incoming,
        park_after: Duration,
    ) -> Result<Started<impl Future<Output = ()> + Send + use<>>, Failure> {
        let link = Link::new(relay, address, socket, incoming, park_after)?;
        let connected = link.connect(0).await;
        let (stream, welcome) = connected.map_err(|error| error.failure)?;
        failure::check_clock(&welcome)?;
        let (requests, asked) = mpsc::channel(QUEUE_REQUESTS);
        let (notices_tx, notices) = mpsc::channel(QUEUE_NOTICES);
        let (policy_tx, policy) = watch::channel(0);
        let notify = Notify {
            notices: notices_tx,
            policy: policy_tx,
        };
        let (connection_tx, connection) = watch::channel(stream.connection().clone());
        let control = Self {
            requests,
            connection,
            welcome: Arc::new(welcome),
            relay: address,
            policy,
            measured: None,
            park_after,
        };
        let task = link.run(stream, asked, notify, connection_tx);
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

    /// Says something that has no answer and that is said again, if there is room for it.
    pub fn try_tell(&self, message: Request) {
        let answer = None;
        if self.requests.try_send(Asked { message, answer }).is_err() {
            tracing::debug!("the relay is behind, or gone");
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

    /// Waits for the other side of a session that another relay has carried; the allocation if it is there already, else it comes as a
    /// notice.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn rejoin(&self, key: Bytes, side: Side) -> Result<Option<Allocation>, RequestError> {
        let side = side as u32;
        match self
            .request(Request::Rejoin(schema::Rejoin { key, side }))
            .await?
        {
            Answer::Allocated(allocated) => Ok(Some(allocated.into())),
            Answer::Done(_) => Ok(None),
            _ => Err(unexpected()),
        }
    }

    /// A policy of `org` that is newer than number `have`, and whatever number the relay has; from now on it tells of newer ones.
    ///
    /// # Errors
    /// [`RequestError`].
    pub(crate) async fn fetch_policy(
        &self,
        org: OrgId,
        have: u64,
    ) -> Result<(u64, Option<Vec<u8>>), RequestError> {
        let mut bytes = Vec::new();
        let mut of = None;
        loop {
            let fetch = Request::FetchPolicy(schema::FetchPolicy {
                org: Bytes::copy_from_slice(&org.0),
                have,
                offset: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            });
            let Answer::PolicyPart(part) = self.request(fetch).await? else {
                return Err(unexpected());
            };
            let size = usize::try_from(part.size).unwrap_or(usize::MAX);
            if part.part.is_empty() || size > MAX_POLICY_BYTES {
                return Ok((part.number, None));
            }
            // A newer one came while the other was on its way.
            if *of.get_or_insert(part.number) != part.number {
                of = None;
                bytes.clear();
                continue;
            }
            bytes.extend_from_slice(&part.part);
            if bytes.len() >= size {
                return Ok((part.number, Some(bytes)));
            }
        }
    }

    /// Brings the relay a signed policy.
    ///
    /// # Errors
    /// [`RequestError`]; `TAKEN`: it has a newer one.
    pub async fn put_policy(&self, signed: &[u8]) -> Result<(), RequestError> {
        let mut offset = 0;
        for part in signed.chunks(MAX_POLICY_PART_BYTES) {
            let put = schema::PutPolicy {
                size: u32::try_from(signed.len()).unwrap_or(u32::MAX),
                offset: u32::try_from(offset).unwrap_or(u32::MAX),
                part: Bytes::copy_from_slice(part),
            };
            self.request(Request::PutPolicy(put)).await?;
            offset += part.len();
        }
        Ok(())
    }

    /// Told of policies.
    pub(crate) fn policies(&self) -> watch::Receiver<u64> {
        self.policy.clone()
    }

    /// Whether a device is there.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn seek(&self, device: DeviceId) -> Result<Sighted, RequestError> {
        let device = Bytes::copy_from_slice(&device.0);
        match self.request(Request::Seek(schema::Seek { device })).await? {
            Answer::Sighted(sighted) => Ok(sighted),
            _ => Err(unexpected()),
        }
    }

    /// Says something to a device, and opens an exchange with it.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn ring(&self, device: DeviceId, payload: Bytes) -> Result<Rung, RequestError> {
        let device = Bytes::copy_from_slice(&device.0);
        let ring = Request::Ring(schema::Ring { device, payload });
        match self.request(ring).await? {
            Answer::Started(started) => Ok(Rung::Started(ExchangeId(started.exchange))),
            Answer::Sighted(sighted) => Ok(Rung::Away(sighted)),
            _ => Err(unexpected()),
        }
    }

    /// Takes a place for `device` among those who wait for help of `org`, for as long as this connection.
    ///
    /// # Errors
    /// [`RequestError`]; `BAD_STATE`: the relay does not have the organisation's policy yet, or not the device.
    pub(crate) async fn queue_up(&self, org: OrgId, device: DeviceId) -> Result<(), RequestError> {
        let up = schema::QueueUp {
            org: Bytes::copy_from_slice(&org.0),
            device: Bytes::copy_from_slice(&device.0),
        };
        self.request(Request::QueueUp(up)).await.map(drop)
    }

    /// Which devices wait for help of `org`, who has waited longest first; what is said of one of them, it alone proves.
    ///
    /// # Errors
    /// [`RequestError`]; `BAD_STATE`: the relay does not have the organisation's policy yet.
    pub(crate) async fn queue(&self, org: OrgId) -> Result<Vec<DeviceId>, RequestError> {
        let org = Bytes::copy_from_slice(&org.0);
        match self
            .request(Request::FetchQueue(schema::FetchQueue { org }))
            .await?
        {
            Answer::Queue(queue) => {
                let places = queue.places.iter();
                let devices = places.filter_map(|place| place.device[..].try_into().ok());
                Ok(devices.map(DeviceId).collect())
            }
            _ => Err(unexpected()),
        }
    }

    /// Says where we are, and hears that the relay is there.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn here(&self) -> Result<(), RequestError> {
        self.request(Request::Here(schema::Here {})).await.map(drop)
    }

    /// Asks once how long it takes: by a stream, the handshake's round trip is also that of opening the stream, and QUIC goes by it for
    /// long.
    pub(crate) async fn measure(&mut self) {
        let asked = Instant::now();
        if let Ok(Ok(())) = timeout(MEASURING, self.here()).await {
            self.measured = Some(asked.elapsed());
        }
    }

    /// Round-trip time to the relay, as last measured.
    pub fn rtt(&self) -> Duration {
        let rtt = self.connection.borrow().rtt();
        self.measured.map_or(rtt, |measured| measured.min(rtt))
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
        .initial_rtt(INITIAL_RTT)
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
