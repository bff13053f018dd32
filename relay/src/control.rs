//! Control connections: accepted here, a task each.
//!
//! ```text
//! quinn ── Incoming ─▶ (retry, refuse) ─▶ handshake ─▶ Hello ─▶ connection ◀── requests, notices ──▶ actor(registry)
//! ```

// The task that owns the registry.
pub mod actor;
// One node: messages ↔ registry and rendezvous.
pub mod connection;
// Answers and refusals.
pub mod message;
// Pure: how many connections each network has.
pub mod networks;
// Machine: who waits where, who talks to whom, what is forwarded.
pub mod registry;
// quinn's view of the shared socket.
pub mod socket;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use quinn::{Endpoint, Incoming, TransportConfig, VarInt};
use remora_proto::{
    noise::{self, Profile, StaticKey},
    wire::message::ALPN_RELAY,
};
use tokio::{
    sync::{Semaphore, watch},
    task::{self, JoinSet},
    time,
};
use tokio_util::sync::CancellationToken;

use self::{
    actor::RegistryHandle,
    connection::Accepted,
    networks::{Network, Networks, Room},
    registry::ConnectionNumber,
    socket::ControlSocket,
};
use crate::{
    admin::metrics::{Handshake, Metrics},
    drain,
    rate::SourceLimiter,
    rendezvous::Rendezvous,
};

/// Handshakes at once before sources must prove their address (RFC 9000 §8.1): by then somebody is flooding, and an
/// honest node loses only a round trip.
const HANDSHAKES_BEFORE_RETRY: usize = 1024;
/// Connections beyond the nodes allowed: those still in their handshake, or about to be told that there is no room.
const SPARE_CONNECTIONS: usize = 1024;
/// First packets that quinn holds for us, and their bytes (`SECURITY` §2.4).
const MAX_INCOMING: usize = 4096;
const INCOMING_BUFFER_BYTES: u64 = 64 << 10;
const INCOMING_BUFFERS_BYTES: u64 = 16 << 20;
/// Control messages are small; this is sixteen of the largest.
const WINDOW_BYTES: u32 = 64 << 10;
/// A Noise handshake is two messages of some hundred bytes.
const CRYPTO_BUFFER_BYTES: usize = 16 << 10;
/// When a silent node is gone; nodes keep alive at a third of it.
const IDLE_TIMEOUT_MS: u32 = 15_000;
/// How long nodes get to take the news that the relay closes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What every connection's task shares.
pub struct Shared {
    /// The registry's task.
    pub registry: RegistryHandle,
    /// Where records are.
    pub rendezvous: Arc<dyn Rendezvous>,
    /// Look-ups of each source. Locked for a few map operations, never across an `await`.
    pub lookups: Mutex<SourceLimiter>,
    /// Joins of each source: they tell as much as a look-up, and cost a host one of its tries.
    pub joins: Mutex<SourceLimiter>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Name space of the locators.
    pub realm: String,
    /// For people.
    pub relay_name: String,
    /// Where the relay is in its life.
    pub life: watch::Receiver<Option<drain::State>>,
    /// Handshakes going on.
    pub handshakes: Arc<Semaphore>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("realm", &self.realm)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

/// A semaphore for [`Shared::handshakes`].
pub fn handshakes() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(HANDSHAKES_BEFORE_RETRY))
}

/// quinn on the shared socket, as a hop's server.
///
/// # Errors
/// What the system said about the socket.
pub fn endpoint(key: StaticKey, socket: ControlSocket) -> io::Result<Endpoint> {
    // After a restart, nodes are told at once that their connections are gone.
    let config = noise::restartable_endpoint_config(&[Profile::Hop], &key);
    let noise = noise::ServerConfig::new(&[Profile::Hop], key, ALPN_RELAY);
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(noise));
    server
        .transport_config(Arc::new(transport()))
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER_BYTES)
        .incoming_buffer_size_total(INCOMING_BUFFERS_BYTES);
    Endpoint::new_with_abstract_socket(
        config,
        Some(server),
        Arc::new(socket),
        Arc::new(quinn::TokioRuntime),
    )
}

/// Every limit said out loud: one bidirectional stream, no datagrams, little memory, gone when silent.
fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(WINDOW_BYTES.into())
        .crypto_buffer_size(CRYPTO_BUFFER_BYTES)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT_MS).into()))
        // Control fits the smallest MTU; probing for more would only wake idle nodes.
        .mtu_discovery_config(None)
        .allow_spin(false);
    transport
}

/// Accepts nodes until `closing`, then lets every connection say its last words.
pub async fn run(
    endpoint: Endpoint,
    shared: Arc<Shared>,
    max_nodes: usize,
    max_per_network: usize,
    closing: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let mut networks = Networks::new(max_per_network);
    // By the task, so that one that panics gives back its place, too.
    let mut network_by_task = HashMap::new();
    let mut numbers = (1..).map(ConnectionNumber);
    loop {
        tokio::select! { biased;
            () = closing.cancelled() => break,
            Some(ended) = connections.join_next_with_id(), if !connections.is_empty() => {
                if let Some(network) = network_by_task.remove(&report(ended)) {
                    networks.leave(network);
                }
            }
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { break };
                let has_room = connections.len() < max_nodes.saturating_add(SPARE_CONNECTIONS);
                let network = Network::from(incoming.remote_address().ip());
                if let Some(accepted) = admit(incoming, has_room, networks.room(network), &shared) {
                    let number = numbers.next().expect("more numbers than packets");
                    let serve = connection::serve(accepted, number, Arc::clone(&shared), closing.clone());
                    networks.enter(network);
                    network_by_task.insert(connections.spawn(serve).id(), network);
                }
            }
        }
    }
    let last_words = async { while connections.join_next().await.is_some() {} };
    if time::timeout(CLOSE_TIMEOUT, last_words).await.is_err() {
        tracing::debug!("some nodes did not take their last messages");
    }
    endpoint.close(connection::CLOSED_DRAINED, b"the relay stops");
    if time::timeout(CLOSE_TIMEOUT, endpoint.wait_idle())
        .await
        .is_err()
    {
        tracing::debug!("some nodes did not take the close");
    }
}

fn report(ended: Result<(task::Id, ()), task::JoinError>) -> task::Id {
    match ended {
        Ok((id, ())) => id,
        Err(error) => {
            tracing::error!(%error, "a connection's task failed");
            error.id()
        }
    }
}

/// Decides on a first packet before any cryptography is spent on it.
fn admit(incoming: Incoming, has_room: bool, network: Room, shared: &Shared) -> Option<Accepted> {
    if !has_room || network == Room::None {
        shared.metrics.handshake(if has_room {
            Handshake::NetworkFull
        } else {
            Handshake::Refused
        });
        incoming.refuse();
        return None;
    }
    let slot = Arc::clone(&shared.handshakes).try_acquire_owned().ok();
    let must_prove = slot.is_none() || network == Room::Proven;
    if must_prove && !incoming.remote_address_validated() {
        shared.metrics.handshake(Handshake::Retry);
        if let Err(error) = incoming.retry() {
            tracing::debug!(%error, "retry");
        }
        return None;
    }
    match incoming.accept() {
        Ok(connecting) => Some(Accepted { connecting, slot }),
        Err(error) => {
            shared.metrics.handshake(Handshake::Failed);
            tracing::debug!(%error, "not a handshake");
            None
        }
    }
}
