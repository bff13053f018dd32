//! Control connections: nodes say who they are, and agree through the relay on whom they talk to.
//!
//! ```text
//!            ┌──────────────────────────── driver: one task, owns all ────────────────────────────┐
//!  packets ──┤ quinn_proto::Endpoint ─▶ (retry, refuse) ─▶ connection ─▶ request ─▶ registry ─▶ table
//!            │                                                 ▲            │          │ notices    │
//!  packets ◀─┤ ◀──────────────────────────────────────────── reply ◀────────┴──────────┘            │
//!  datagrams ┤ ◀────────────────────────────────────────────────────────────────────▶ parking       │
//!            └──────────────────────────────── rendezvous, calls to other relays (may take a while) ┘
//! ```
//!
//! QUIC is driven as the machine that it is: no task, channel or timer for each node. An idle node costs what its machine
//! holds, and a request nothing but its own work. A node that is idle for long has itself parked, and costs less.

// What other relays are asked, in order and again.
pub mod calls;
// One node's connection: packets ↔ messages.
pub mod connection;
// Pure: which node is due when.
pub mod deadlines;
// The task that owns all of it.
pub mod driver;
// Answers and refusals.
pub mod message;
// Pure: how many connections each network has.
pub mod networks;
// What an operator asks.
pub mod orders;
// Machine: nodes without a connection.
pub mod parking;
// Machine: policies of organisations, and who reads them.
pub mod policies;
// Machine: who waits for an organisation's help.
pub mod queue;
// Machine: who waits where, who talks to whom, what is forwarded.
pub mod registry;
// Requests ↔ rendezvous and registry.
pub mod request;
// What nodes say of how their sessions' paths have gone.
pub mod reports;

use std::sync::Arc;

use quinn_proto::{Endpoint, ServerConfig, TransportConfig, VarInt};
use remora_proto::{
    noise::{self, INITIAL_RTT, Profile, StaticKey},
    wire::message::ALPN_RELAY,
};

/// Control messages are small; this is sixteen of the largest.
const WINDOW_BYTES: u32 = 64 << 10;
/// A Noise handshake is two messages of some hundred bytes.
const CRYPTO_BUFFER_BYTES: usize = 16 << 10;
/// When a silent node is gone; nodes keep alive at a third of it.
const IDLE_TIMEOUT_MS: u32 = 60_000;

/// QUIC as a hop's server.
pub fn endpoint(key: StaticKey, may_fragment: bool) -> Endpoint {
    // After a restart, nodes are told at once that their connections are gone.
    let config = noise::restartable_endpoint_config(&[Profile::Hop], &key);
    let noise = noise::ServerConfig::new(&[Profile::Hop], key, ALPN_RELAY);
    let mut server = ServerConfig::with_crypto(Arc::new(noise));
    server.transport_config(Arc::new(transport()));
    Endpoint::new(
        Arc::new(config),
        Some(Arc::new(server)),
        !may_fragment,
        None,
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
        .initial_rtt(INITIAL_RTT)
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT_MS).into()))
        // Control fits the smallest MTU; probing for more would only wake idle nodes.
        .mtu_discovery_config(None)
        .allow_spin(false);
    transport
}
