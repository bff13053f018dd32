//! Many nodes on a few sockets: what a relay sees of thousands of nodes, for what one core of the load can do.
//!
//! ```text
//!  member ─┐                        ┌─ port ─▶
//!  member ─┼─ a connection each ─▶ quinn       relay
//!  member ─┘                        └─ port ─▶
//! ```
//!
//! A member has its own key, Noise handshake, Hello, control stream and keep-alive, by the node's own configuration
//! (`remora::control::client_config`). What it does not have is a socket of its own: hundreds share a port, and the relay tells
//! them apart by connection ids, as it does behind a NAT. Nothing of a member runs while nobody waits for it, but quinn; and
//! when it is parked, not even that.

// Parked members.
mod lot;

use std::{
    collections::VecDeque,
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use quinn::{Connection, Endpoint, RecvStream, Runtime as _, SendStream};
use remora::control::client_config;
use remora_proto::{
    id::{RelayAddr, SessionId, Side},
    noise::{self, Profile},
    park::Grant,
    wire::{
        frame::{HEADER_LEN, Header},
        message::{
            Inbox, MAX_CONTROL_BYTES, PROTOCOL,
            control::{
                Hello, NodeToRelay, Park, Reason, RelayToNode, node_to_relay::Body as Request,
                relay_to_node::Body as Answer,
            },
            encode,
        },
    },
};
use tokio::{
    task::JoinSet,
    time::{interval, timeout},
};

use self::lot::{Lot, Shared};
use crate::{lane, report::Progress};

/// Ports of a crowd: few enough to be cheap, enough that a relay's threads all get some.
const PORTS: usize = 16;
/// Nodes that connect at a time: a relay asks for a proof of their address from 1024 on.
const CONNECTS_AT_ONCE: usize = 64;
/// From a first packet to the Welcome, as nodes have it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For an answer, or a notice that has to come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often one looks whether all parked members have left.
const LEAVING: Duration = Duration::from_millis(50);
/// Says for the relay's log what these are.
const AGENT: &str = concat!("remora-loadtest/", env!("CARGO_PKG_VERSION"));

/// Why a member could not do what it was to do; each is counted by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// No connection came to be.
    NotConnected,
    /// The relay said no, for this reason.
    Refused(&'static str),
    /// The connection ended.
    Lost,
    /// No answer in time.
    Timeout,
    /// An answer that does not fit.
    Unexpected,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConnected => "NOT_CONNECTED",
            Self::Refused(reason) => reason,
            Self::Lost => "LOST",
            Self::Timeout => "TIMEOUT",
            Self::Unexpected => "UNEXPECTED",
        })
    }
}

impl std::error::Error for Fault {}

/// The sockets.
#[derive(Debug)]
pub struct Crowd {
    ports: Vec<Arc<Port>>,
    relay: RelayAddr,
    at: SocketAddr,
    next: AtomicUsize,
    /// What parked members have to say.
    _tending: JoinSet<()>,
}

/// One of them.
#[derive(Debug)]
struct Port {
    endpoint: Endpoint,
    /// The same socket, for frames.
    frames: UdpSocket,
    lot: Arc<Lot>,
}

impl Crowd {
    /// Binds its ports; call within a runtime.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(relay: &RelayAddr, at: SocketAddr) -> anyhow::Result<Self> {
        let mut tending = JoinSet::new();
        let bind = |_| -> std::io::Result<Arc<Port>> {
            let any: SocketAddr = if at.is_ipv4() {
                (Ipv4Addr::UNSPECIFIED, 0).into()
            } else {
                (Ipv6Addr::UNSPECIFIED, 0).into()
            };
            let socket = UdpSocket::bind(any)?;
            lane::enlarge_buffers(&socket)?;
            let config = noise::endpoint_config(&[Profile::Hop]);
            let runtime = Arc::new(quinn::TokioRuntime);
            let frames = socket.try_clone()?;
            let lot = Arc::new(Lot::new(socket.try_clone()?, at));
            lot.tend(&mut tending);
            let shared = Shared {
                port: runtime.wrap_udp_socket(socket)?,
                lot: Arc::clone(&lot),
            };
            let shared = Arc::new(shared);
            Ok(Arc::new(Port {
                endpoint: Endpoint::new_with_abstract_socket(config, None, shared, runtime)?,
                frames,
                lot,
            }))
        };
        Ok(Self {
            ports: (0..PORTS)
                .map(bind)
                .collect::<Result<_, _>>()
                .context("no UDP socket")?,
            relay: relay.clone(),
            at,
            next: AtomicUsize::new(0),
            _tending: tending,
        })
    }

    /// One more node: handshake, Hello, Welcome.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn connect(&self) -> Result<Member, Fault> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % self.ports.len();
        let port = Arc::clone(&self.ports[number]);
        let connecting = async {
            let connection = port
                .endpoint
                .connect_with(client_config(&self.relay), self.at, "relay")
                .map_err(|_| Fault::NotConnected)?
                .await
                .map_err(|_| Fault::NotConnected)?;
            Member::greet(connection, Arc::clone(&port), self.at).await
        };
        timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or(Err(Fault::Timeout))
    }

    /// So many more nodes, not all at once.
    ///
    /// # Errors
    /// What went wrong with the first that failed.
    pub async fn connect_many(
        self: &Arc<Self>,
        count: usize,
        progress: &Progress,
    ) -> anyhow::Result<Vec<Member>> {
        let mut members = Vec::with_capacity(count);
        let connecting = (0..count).map(|_| {
            let crowd = Arc::clone(self);
            async move { crowd.connect().await }
        });
        some_at_a_time(connecting, |connected| {
            let number = members.len() + 1;
            members.push(connected.with_context(|| format!("node {number} of {count}"))?);
            progress.show(&format!("nodes {number}/{count}"));
            Ok(())
        })
        .await?;
        Ok(members)
    }

    /// Parks them, not all at once.
    ///
    /// # Errors
    /// What went wrong with the first that failed.
    pub async fn park_all(&self, members: Vec<Member>, progress: &Progress) -> anyhow::Result<()> {
        let count = members.len();
        let mut number = 0;
        some_at_a_time(members.into_iter().map(Member::park), |parked| {
            number += 1;
            parked.with_context(|| format!("node {number} of {count} cannot be parked"))?;
            progress.show(&format!("parked {number}/{count}"));
            Ok(())
        })
        .await
    }

    /// Parked members whose place the relay did not keep.
    pub fn lost(&self) -> usize {
        self.ports.iter().map(|port| port.lot.lost()).sum()
    }

    /// Parked members leave as nodes do, and are waited for.
    pub async fn leave_parked(&self) {
        for port in &self.ports {
            port.lot.leave();
        }
        let left = async {
            let mut tick = interval(LEAVING);
            while self.ports.iter().any(|port| port.lot.len() > 0) {
                tick.tick().await;
            }
        };
        // Whoever the relay does not hear is gone all the same.
        timeout(ANSWER_TIMEOUT, left).await.ok();
    }

    /// Waits until every connection is closed and forgotten here, the relay's last words included.
    pub async fn wait_idle(&self) {
        for port in &self.ports {
            port.endpoint.wait_idle().await;
        }
    }
}

/// One node.
#[derive(Debug)]
pub struct Member {
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    inbox: Inbox,
    next_request: u64,
    /// That came while somebody waited for an answer.
    notices: VecDeque<Answer>,
    port: Arc<Port>,
    at: SocketAddr,
    /// The name space of its codes.
    pub realm: String,
}

impl Member {
    async fn greet(connection: Connection, port: Arc<Port>, at: SocketAddr) -> Result<Self, Fault> {
        let (send, recv) = connection.open_bi().await.map_err(|_| Fault::Lost)?;
        let mut member = Self {
            connection,
            send,
            recv,
            inbox: Inbox::new(MAX_CONTROL_BYTES),
            next_request: 0,
            notices: VecDeque::new(),
            port,
            at,
            realm: String::new(),
        };
        let hello = Request::Hello(Hello {
            protocol: PROTOCOL,
            agent: AGENT.to_owned(),
            ticket: 0,
        });
        let Answer::Welcome(welcome) = member.ask(hello).await? else {
            return Err(Fault::Unexpected);
        };
        member.realm = welcome.realm;
        Ok(member)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What went wrong; that the relay refuses is wrong, too.
    pub async fn ask(&mut self, body: Request) -> Result<Answer, Fault> {
        self.next_request += 1;
        let number = self.next_request;
        self.say(number, body).await?;
        let answered = async {
            loop {
                match self.next_message().await? {
                    RelayToNode {
                        request,
                        body: Some(body),
                    } if request == number => return Ok(body),
                    RelayToNode {
                        request: 0,
                        body: Some(notice),
                    } => self.notices.push_back(notice),
                    RelayToNode { .. } => return Err(Fault::Unexpected),
                }
            }
        };
        match timeout(ANSWER_TIMEOUT, answered).await {
            Ok(Ok(Answer::Refused(refused))) => Err(Fault::Refused(name(refused.reason()))),
            Ok(answer) => answer,
            Err(_) => Err(Fault::Timeout),
        }
    }

    /// Says what has no answer.
    ///
    /// # Errors
    /// When nobody is there.
    pub async fn tell(&mut self, body: Request) -> Result<(), Fault> {
        self.say(0, body).await
    }

    /// The next notice.
    ///
    /// # Errors
    /// When none comes, or one that a request without an answer was refused.
    pub async fn notice(&mut self) -> Result<Answer, Fault> {
        if let Some(notice) = self.notices.pop_front() {
            return Ok(notice);
        }
        let message = timeout(ANSWER_TIMEOUT, self.next_message()).await;
        match message.unwrap_or(Err(Fault::Timeout))?.body {
            Some(Answer::Refused(refused)) => Err(Fault::Refused(name(refused.reason()))),
            Some(notice) => Ok(notice),
            None => Err(Fault::Unexpected),
        }
    }

    async fn say(&mut self, request: u64, body: Request) -> Result<(), Fault> {
        let message = encode(&NodeToRelay {
            request,
            body: Some(body),
        });
        self.send.write_all(&message).await.map_err(|_| Fault::Lost)
    }

    async fn next_message(&mut self) -> Result<RelayToNode, Fault> {
        loop {
            match self.inbox.next() {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(_) => return Err(Fault::Unexpected),
            }
            match self.recv.read_chunk(MAX_CONTROL_BYTES, true).await {
                Ok(Some(chunk)) => self.inbox.push(&chunk.bytes),
                Ok(None) | Err(_) => return Err(Fault::Lost),
            }
        }
    }

    /// Sends a frame of `session`, so that the relay does not take it for idle.
    ///
    /// # Errors
    /// What the system said.
    pub fn touch(&self, session: SessionId, side: Side) -> std::io::Result<()> {
        self.send(session, side, &mut [0; HEADER_LEN + 1])
    }

    /// Sends a frame of `session`, in whose bytes its header is written; a header is the least that there must be.
    ///
    /// # Errors
    /// What the system said.
    pub fn send(&self, session: SessionId, side: Side, frame: &mut [u8]) -> std::io::Result<()> {
        frame[..HEADER_LEN].copy_from_slice(&Header { side, session }.encode());
        self.port.frames.send_to(frame, self.at).map(drop)
    }

    /// What its frames are sent by.
    ///
    /// # Errors
    /// What the system said.
    pub fn socket(&self) -> std::io::Result<UdpSocket> {
        self.port.frames.try_clone()
    }

    /// Whether the relay has ended the connection.
    pub fn is_lost(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    /// Gives its connection up and keeps its place, as nodes do that have been silent for a minute.
    async fn park(mut self) -> Result<(), Fault> {
        let connection = self.connection.clone();
        let grant = Grant::export(|out, label, context| {
            connection.export_keying_material(out, label, context)
        });
        let grant = grant.map_err(|_| Fault::Lost)?;
        let Answer::Done(_) = self.ask(Request::Park(Park {})).await? else {
            return Err(Fault::Unexpected);
        };
        connection.close(0u32.into(), b"parked");
        self.port.lot.park(grant);
        Ok(())
    }

    /// Leaves as a node does: the last words are acknowledged, then the connection closes.
    pub async fn leave(mut self) {
        if self.send.finish().is_ok() {
            // Late or lost: the close says the same.
            timeout(ANSWER_TIMEOUT, self.send.stopped()).await.ok();
        }
        self.connection.close(0u32.into(), b"bye");
    }
}

fn name(reason: Reason) -> &'static str {
    reason.as_str_name()
}

/// Lets all of them leave, and waits until that is done.
///
/// # Errors
/// When one of them fails in a way that it cannot.
pub async fn leave_all(crowd: &Crowd, members: impl Iterator<Item = Member>) -> anyhow::Result<()> {
    some_at_a_time(members.map(Member::leave), |()| Ok(())).await?;
    crowd.wait_idle().await;
    Ok(())
}

/// Does these, a handful at a time, and `then` with what comes of each, as it comes; until one of those fails.
async fn some_at_a_time<T: Send + 'static>(
    mut tasks: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
    mut then: impl FnMut(T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut running = JoinSet::new();
    loop {
        let room = CONNECTS_AT_ONCE - running.len();
        for task in tasks.by_ref().take(room) {
            running.spawn(task);
        }
        let Some(done) = running.join_next().await else {
            return Ok(());
        };
        then(done?)?;
    }
}
