//! One node: its requests become look-ups and demands, its notices become messages.
//!
//! ```text
//! handshake (10 s) ─▶ stream and Hello (5 s) ─▶ Welcome ─▶ requests in order, one answer each; notices between
//! ```
//!
//! Requests are handled one at a time: a node that asks faster than it is answered fills its own stream, nobody's
//! memory. What a node can do wrong is a [`Refusal`] when the stream can go on, else the end.

// Requests ↔ rendezvous and registry.
mod request;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use quinn::{Connecting, Connection, RecvStream, SendStream, VarInt};
use remora_proto::{
    id::NodeId,
    noise::PeerInfo,
    wire::message::{
        Inbox, InvalidMessage, MAX_CONTROL_BYTES, PROTOCOL,
        control::{Hello, Welcome},
        encode,
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    actor::{NOTICE_QUEUE, Outlet},
    message::{self, NodeToRelay, Reason, Refusal, RelayToNode, Reply, Request},
    registry::ConnectionNumber,
};
use crate::{admin::metrics::Handshake, datapath::table::Leg, rate::TokenBucket};

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
/// The node is gone, or says so.
pub const CLOSED_BYE: VarInt = VarInt::from_u32(0);

/// Oldest version of the messages spoken here.
const MINIMUM_PROTOCOL: u32 = 1;
/// From a first packet to a proven key (`SECURITY` §2.4).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From there to a whole Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// For one message to find room in the node's window.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the node to acknowledge the last message before the connection closes over it.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);
/// How often a node's address is compared with its legs', while it has sessions.
///
/// quinn validates a new path before it names it, and tells nobody. Idle nodes cost no timer.
const MOVE_CHECK: Duration = Duration::from_secs(1);
/// Name of a program, as `control.proto` allows.
const MAX_AGENT_BYTES: usize = 64;

/// A first packet that got past the door.
#[derive(Debug)]
pub struct Accepted {
    /// The handshake.
    pub connecting: Connecting,
    /// Its place among the handshakes at once.
    pub slot: Option<OwnedSemaphorePermit>,
}

/// Why a connection does not go on.
#[derive(Debug)]
enum End {
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
    /// The relay stops.
    Closing,
}

/// Serves one node from its handshake to its end.
pub async fn serve(
    accepted: Accepted,
    number: ConnectionNumber,
    shared: Arc<Shared>,
    closing: CancellationToken,
) {
    let connection = tokio::select! {
        connection = handshake(accepted, &shared) => connection,
        () = closing.cancelled() => None,
    };
    let Some(connection) = connection else {
        return;
    };
    let Some(node) = node_id(&connection) else {
        return;
    };
    let too_slow = CancellationToken::new();
    let end = match greet(&connection, &closing).await {
        Ok((streams, hello)) => {
            let (notices, queue) = mpsc::channel(NOTICE_QUEUE);
            let outlet = Outlet {
                notices,
                too_slow: too_slow.clone(),
            };
            let session = Session::new(connection.clone(), number, node, streams, queue, shared);
            session.run(hello, outlet, &too_slow, &closing).await
        }
        Err(end) => end,
    };
    tracing::debug!(?node, ?end, "connection ended");
    let (code, reason): (_, &[u8]) = match end {
        End::Gone => (CLOSED_BYE, b""),
        End::Silent => (CLOSED_SILENT, b"no Hello in time"),
        End::Malformed => (CLOSED_MALFORMED, b"malformed message"),
        End::TooSlow => (CLOSED_TOO_SLOW, b"messages are not read"),
        End::Refused => (CLOSED_REFUSED, b"refused"),
        End::Closing => (CLOSED_DRAINED, b"the relay stops"),
    };
    connection.close(code, reason);
}

async fn handshake(accepted: Accepted, shared: &Shared) -> Option<Connection> {
    let Accepted { connecting, slot } = accepted;
    let start = Instant::now();
    let result = time::timeout(HANDSHAKE_TIMEOUT, connecting).await;
    drop(slot);
    match result {
        Ok(Ok(connection)) => {
            shared.metrics.handshake(Handshake::Ok);
            shared
                .metrics
                .handshake_seconds
                .observe(start.elapsed().as_secs_f64());
            Some(connection)
        }
        Ok(Err(error)) => {
            shared.metrics.handshake(Handshake::Failed);
            tracing::debug!(%error, "handshake failed");
            None
        }
        Err(_) => {
            shared.metrics.handshake(Handshake::TimedOut);
            None
        }
    }
}

fn node_id(connection: &Connection) -> Option<NodeId> {
    let peer = connection.peer_identity()?.downcast::<PeerInfo>().ok()?;
    Some(NodeId(peer.static_key))
}

#[derive(Debug)]
struct Streams {
    send: SendStream,
    recv: RecvStream,
    inbox: Inbox,
}

/// Waits for the control stream and the Hello on it.
async fn greet(
    connection: &Connection,
    closing: &CancellationToken,
) -> Result<(Streams, (u64, Hello)), End> {
    let greeting = async {
        let (send, recv) = connection.accept_bi().await.map_err(|_| End::Gone)?;
        let mut streams = Streams {
            send,
            recv,
            inbox: Inbox::new(MAX_CONTROL_BYTES),
        };
        let first = streams.next().await?;
        match first.body {
            Some(Request::Hello(hello)) if hello.agent.len() <= MAX_AGENT_BYTES => {
                Ok((streams, (first.request, hello)))
            }
            _ => Err(End::Malformed),
        }
    };
    tokio::select! {
        result = time::timeout(HELLO_TIMEOUT, greeting) => result.unwrap_or(Err(End::Silent)),
        () = closing.cancelled() => Err(End::Closing),
    }
}

impl Streams {
    /// The next message. Cancel safe: what has arrived stays in the inbox.
    async fn next(&mut self) -> Result<NodeToRelay, End> {
        loop {
            match self.inbox.next::<NodeToRelay>() {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(InvalidMessage::TooLong { .. } | InvalidMessage::Malformed) => {
                    return Err(End::Malformed);
                }
            }
            match self.recv.read_chunk(MAX_CONTROL_BYTES, true).await {
                Ok(Some(chunk)) => self.inbox.push(&chunk.bytes),
                Ok(None) | Err(_) => return Err(End::Gone),
            }
        }
    }

    async fn write(&mut self, request: u64, body: Reply) -> Result<(), End> {
        let bytes = encode(&RelayToNode {
            request,
            body: Some(body),
        });
        match time::timeout(WRITE_TIMEOUT, self.send.write_all(&bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::TooSlow),
        }
    }

    /// Finishes, and waits until the node has what was said.
    async fn finish(&mut self) {
        if self.send.finish().is_ok()
            && time::timeout(LAST_WORDS_TIMEOUT, self.send.stopped())
                .await
                .is_err()
        {
            tracing::debug!("the last words were not acknowledged");
        }
    }
}

/// A node that said Hello.
struct Session {
    connection: Connection,
    number: ConnectionNumber,
    node: NodeId,
    streams: Streams,
    notices: mpsc::Receiver<Reply>,
    shared: Arc<Shared>,
    leg: Leg,
    /// How many it has: its address is watched while there are any.
    sessions: usize,
    requests: TokenBucket,
}

impl Session {
    fn new(
        connection: Connection,
        number: ConnectionNumber,
        node: NodeId,
        streams: Streams,
        notices: mpsc::Receiver<Reply>,
        shared: Arc<Shared>,
    ) -> Self {
        let leg = leg(&connection);
        let requests = TokenBucket::new(Instant::now());
        Self {
            connection,
            number,
            node,
            streams,
            notices,
            shared,
            leg,
            sessions: 0,
            requests,
        }
    }

    async fn run(
        mut self,
        (request, hello): (u64, Hello),
        outlet: Outlet,
        too_slow: &CancellationToken,
        closing: &CancellationToken,
    ) -> End {
        let start = Instant::now();
        let welcomed = self.welcome(&hello, outlet).await;
        let answer = welcomed.map(|()| message::done());
        self.shared.metrics.request(
            "hello",
            message::result(&answer),
            start.elapsed().as_secs_f64(),
        );
        if let Err(refusal) = answer {
            let told = self.streams.write(request, refusal.into_reply()).await;
            self.streams.finish().await;
            return told.err().unwrap_or(End::Refused);
        }
        tracing::debug!(node = ?self.node, agent = ?hello.agent, protocol = hello.protocol, "node attached");
        let end = tokio::select! { biased;
            () = too_slow.cancelled() => End::TooSlow,
            () = closing.cancelled() => End::Closing,
            end = self.serve(request) => end,
        };
        if matches!(end, End::Closing) {
            self.last_words().await;
        }
        self.shared.registry.detach(self.number).await;
        end
    }

    async fn welcome(&self, hello: &Hello, outlet: Outlet) -> Result<(), Refusal> {
        if hello.protocol < MINIMUM_PROTOCOL {
            return Err(Refusal::new(
                Reason::VersionTooOld,
                "this program is too old for this relay; update it",
            ));
        }
        self.shared
            .registry
            .attach(self.number, self.node, self.leg, outlet)
            .await
    }

    async fn serve(&mut self, hello_request: u64) -> End {
        let welcome = Reply::Welcome(Welcome {
            protocol: PROTOCOL,
            minimum_protocol: MINIMUM_PROTOCOL,
            unix_ms: unix_ms(),
            observed_address: canonical(self.leg.remote).to_string(),
            realm: self.shared.realm.clone(),
            relay_name: self.shared.relay_name.clone(),
        });
        if let Err(end) = self.streams.write(hello_request, welcome).await {
            return end;
        }
        let mut next_check = time::Instant::now() + MOVE_CHECK;
        loop {
            let result = tokio::select! { biased;
                notice = self.notices.recv() => match notice {
                    Some(notice) => self.notify(notice).await,
                    None => Err(End::Closing),
                },
                () = time::sleep_until(next_check), if self.sessions > 0 => {
                    next_check = time::Instant::now() + MOVE_CHECK;
                    self.check_address().await;
                    Ok(())
                }
                message = self.streams.next() => match message {
                    Ok(message) => self.handle_message(message).await,
                    Err(end) => Err(end),
                },
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    /// What is waiting for the node goes out before the connection closes.
    async fn last_words(&mut self) {
        while let Ok(notice) = self.notices.try_recv() {
            if self.notify(notice).await.is_err() {
                return;
            }
        }
        self.streams.finish().await;
    }

    async fn notify(&mut self, notice: Reply) -> Result<(), End> {
        self.count_sessions(&notice);
        self.streams.write(0, notice).await
    }

    fn count_sessions(&mut self, reply: &Reply) {
        match reply {
            Reply::Allocated(_) => self.sessions += 1,
            Reply::Released(_) => self.sessions = self.sessions.saturating_sub(1),
            Reply::Refused(_)
            | Reply::Welcome(_)
            | Reply::Done(_)
            | Reply::Found(_)
            | Reply::Started(_)
            | Reply::Offer(_)
            | Reply::Signal(_)
            | Reply::Dismissed(_)
            | Reply::Draining(_) => {}
        }
    }

    async fn check_address(&mut self) {
        let leg = leg(&self.connection);
        if leg != self.leg {
            self.leg = leg;
            tracing::debug!(node = ?self.node, address = %leg.remote, "node moved");
            self.shared.registry.move_node(self.number, leg).await;
        }
    }

    async fn handle_message(&mut self, message: NodeToRelay) -> Result<(), End> {
        let start = Instant::now();
        let (kind, answer) = match message.body {
            Some(body) => (message::kind(&body), self.handle_request(body, start).await),
            None => (
                "unknown",
                Err(Refusal::new(
                    Reason::Malformed,
                    "a request this relay does not know",
                )),
            ),
        };
        self.shared.metrics.request(
            kind,
            message::result(&answer),
            start.elapsed().as_secs_f64(),
        );
        if let Err(refusal) = &answer {
            tracing::debug!(node = ?self.node, kind, reason = ?refusal.reason, "refused");
        }
        let reply = answer.unwrap_or_else(Refusal::into_reply);
        self.count_sessions(&reply);
        // Even when no answer is wanted: that frames are forwarded from now on is a notice, too.
        if message.request == 0 && !matches!(reply, Reply::Allocated(_)) {
            return Ok(());
        }
        self.streams.write(message.request, reply).await
    }
}

fn leg(connection: &Connection) -> Leg {
    Leg {
        remote: connection.remote_address(),
        local: connection.local_ip(),
    }
}

/// IPv4 as IPv4, also on a socket that takes both.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
