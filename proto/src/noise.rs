//! Noise in place of TLS under QUIC: the traits of `quinn_proto::crypto` over `snow`. No fork of either.
//!
//! ```text
//! client                                                        server
//! Initial    M1: [psk_id] noise 1 { tp, alpn, [kem key] }       ->
//!            <-  Initial    M2: noise 2 { tp, alpn, app, [kem ciphertext] }
//!            <-  Handshake  Finished: HMAC(s fin, h2)
//! Handshake  M3: noise 3 { app }                                ->
//! 1-RTT      data, in the same flight as M3                     ->
//!            <-  1-RTT      HANDSHAKE_DONE, data
//! ```
//!
//! The QUIC version number is the only negotiator. A version fixes the Noise pattern, DH, AEAD, hash,
//! labels, Initial salt and Retry key, and is hashed into the prologue: there is nothing to downgrade.
//!
//! | version | use | Noise protocol | packets |
//! | --- | --- | --- | --- |
//! | `VERSION_HOP` `MNH1` | node–relay | `Noise_XK_25519_ChaChaPoly_SHA256` | AES-256-GCM |
//! | `VERSION_E2E` `MNE1` | node–node | `Noise_XXpsk0_25519_ChaChaPoly_SHA256` | ChaCha20-Poly1305 |
//! | `VERSION_E2E_PQ` `MNP1` | node–node, hybrid | `Noise_XXpsk0+psk3_25519_ChaChaPoly_SHA256` | ChaCha20-Poly1305 |
//!
//! What each payload carries, and who can read it (Noise §7.7, §7.8):
//!
//! | message | payload | seen by |
//! | --- | --- | --- |
//! | M1 | transport parameters, offered protocols, ML-KEM key | who holds the server's key (hop) or the PSK (end to end); replayable, not forward secret |
//! | M2 | transport parameters, chosen protocol, the server's app payload, ML-KEM ciphertext | who sent M1; end to end only with the PSK |
//! | M3 | the client's app payload | the server the client has checked, forward secret |
//!
//! prologue = `"mnq1 prologue" || version (4) || u16 length || psk_id || u16 length || context`
//!
//! `snow` does not wipe its chaining key, hash and PSK copies; what is ours (keys, secrets, split) is wiped.

/// `quinn` configurations: who we are, whom we let in.
pub mod config;
/// `snow`, with prologue and secrets of the two levels; ML-KEM.
mod handshake;
/// Packet and header protection, Retry tag.
pub mod keys;
/// Noise over a stream, between two relays.
pub mod link;
/// Framing of the CRYPTO streams; fields inside the Noise payloads.
pub mod payload;
/// The primitives under `snow`.
pub mod resolver;
/// Labels and secrets.
pub mod schedule;
/// One message that only the holder of a key can open.
pub mod sealed;
/// The state machine that quinn drives.
pub mod session;

use std::time::Duration;

pub use config::{
    Access, ClientConfig, NoAccess, Profile, Psk, PskId, PskStore, ServerConfig, TestHooks,
    endpoint_config, lone_endpoint_config, restartable_endpoint_config,
};
pub use resolver::StaticKey;
pub use session::{HandshakeData, MAX_CLIENT_PAYLOAD, PeerInfo, Reject};

/// Before a path is measured, of every connection: QUIC's 333 ms (RFC 9002 §6.2.2) would make one lost first packet cost a second,
/// this makes it 0.3 s; further away than this, a packet or two is sent once too often.
pub const INITIAL_RTT: Duration = Duration::from_millis(100);

/// `MNH1`: hop, node to relay.
///
/// Neither of the form reserved for greasing (RFC 9000 §15) nor of the IETF's half.
pub const VERSION_HOP: u32 = u32::from_be_bytes(*b"MNH1");
/// `MNE1`: end to end, between the two nodes of a session.
pub const VERSION_E2E: u32 = u32::from_be_bytes(*b"MNE1");
/// `MNP1`: end to end with ML-KEM-768 (FIPS 203) mixed in.
pub const VERSION_E2E_PQ: u32 = u32::from_be_bytes(*b"MNP1");
