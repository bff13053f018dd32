//! `quinn` configurations: who we are, which versions we speak, whom we let in.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use aws_lc_rs::hmac;
use quinn_proto::{
    ConnectError, ConnectionId, ConnectionIdGenerator, EndpointConfig, InvalidCid,
    RandomConnectionIdGenerator, Side,
    crypto::{self, Keys, UnsupportedVersion},
    transport_parameters::TransportParameters,
};
use zeroize::Zeroizing;

use crate::random::Random;

use super::{
    VERSION_E2E, VERSION_E2E_PQ, VERSION_HOP,
    keys::{self, PacketAead},
    resolver::StaticKey,
    schedule,
    session::{MAX_CLIENT_PAYLOAD, NoiseSession, PeerInfo, Reject},
};

/// A key of 256 bits from the PAKE, or from the exporter of the session that is resumed. Wiped on drop.
pub type Psk = Zeroizing<[u8; 32]>;
/// Public name of a [`Psk`], itself from the PAKE. Used once.
pub type PskId = [u8; 16];

/// What a QUIC version number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Node to relay: the relay's key is known, the node shows its own once it has checked it.
    Hop,
    /// Node to node: both know a PSK, and learn each other's keys.
    E2e,
    /// As [`Profile::E2e`], and recordings stay secret from quantum computers.
    E2ePq,
}

impl Profile {
    /// Its number on the wire.
    pub fn version(self) -> u32 {
        match self {
            Self::Hop => VERSION_HOP,
            Self::E2e => VERSION_E2E,
            Self::E2ePq => VERSION_E2E_PQ,
        }
    }

    /// What a number on the wire stands for.
    pub fn from_version(version: u32) -> Option<Self> {
        match version {
            VERSION_HOP => Some(Self::Hop),
            VERSION_E2E => Some(Self::E2e),
            VERSION_E2E_PQ => Some(Self::E2ePq),
            _ => None,
        }
    }

    /// Its Noise protocol (Noise §8).
    pub fn noise_name(self) -> &'static str {
        match self {
            Self::Hop => "Noise_XK_25519_ChaChaPoly_SHA256",
            Self::E2e => "Noise_XXpsk0_25519_ChaChaPoly_SHA256",
            Self::E2ePq => "Noise_XXpsk0+psk3_25519_ChaChaPoly_SHA256",
        }
    }

    /// Whether nothing can be said without a [`Psk`].
    pub fn has_psk(self) -> bool {
        match self {
            Self::Hop => false,
            Self::E2e | Self::E2ePq => true,
        }
    }

    /// Hops end on servers with AES instructions; end to end the peer may be anything.
    pub(super) fn aead(self) -> PacketAead {
        match self {
            Self::Hop => PacketAead::Aes256Gcm,
            Self::E2e | Self::E2ePq => PacketAead::ChaCha20Poly1305,
        }
    }
}

const CID_BYTES: usize = 4;

/// What an endpoint needs to speak these profiles and nothing else.
///
/// A version that is not in this list ends in Version Negotiation (RFC 9000 §6), so TLS and Noise never
/// meet. The QUIC bit stays set (RFC 9287 is refused): first bytes tell our protocols apart on a port.
/// Connection ids are short: a node has a handful of connections, and each packet carries one.
pub fn endpoint_config(profiles: &[Profile]) -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config
        .supported_versions(profiles.iter().map(|profile| profile.version()).collect())
        .grease_quic_bit(false)
        .cid_generator(|| Box::new(RandomConnectionIdGenerator::new(CID_BYTES)));
    config
}

/// As [`endpoint_config`], for a client with one connection, which is known by where its packets come from: they carry no
/// id, and the server keeps two of its own for it instead of five.
pub fn lone_endpoint_config(profiles: &[Profile]) -> EndpointConfig {
    let mut config = endpoint_config(profiles);
    config.cid_generator(|| Box::new(RandomConnectionIdGenerator::new(0)));
    config
}

/// As [`endpoint_config`], for a server that may be restarted: reset tokens and connection ids follow from its static
/// key, so that after the restart it can tell its former peers at once that their connections are gone (RFC 9000 §10.3.2).
pub fn restartable_endpoint_config(profiles: &[Profile], key: &StaticKey) -> EndpointConfig {
    let derived = |label| hmac::Key::new(hmac::HMAC_SHA256, &key.derive(label)[..]);
    let (reset_key, cid_key) = (derived("stateless reset"), derived("connection ids"));
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config
        .supported_versions(profiles.iter().map(|profile| profile.version()).collect())
        .grease_quic_bit(false)
        .cid_generator(move || Box::new(KeyedConnectionIds::new(cid_key.clone())));
    config
}

/// Connection ids of a busy server: 8 random bytes, and 4 that say they are ours.
///
/// quinn's own generator that can tell has 3 random bytes. A Retry's id is looked up among those of live connections, so that
/// with 5,000 connections one of 3,000 newcomers was taken for somebody else, and heard nothing.
struct KeyedConnectionIds {
    key: hmac::Key,
    random: Random,
}

impl KeyedConnectionIds {
    const NONCE_BYTES: usize = 8;
    const BYTES: usize = 12;

    fn new(key: hmac::Key) -> Self {
        Self {
            key,
            random: Random::system(),
        }
    }

    fn tag(&self, nonce: &[u8]) -> [u8; Self::BYTES - Self::NONCE_BYTES] {
        let tag = hmac::sign(&self.key, nonce);
        *tag.as_ref().first_chunk().expect("32 bytes")
    }
}

impl ConnectionIdGenerator for KeyedConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let nonce: [u8; Self::NONCE_BYTES] = self.random.bytes();
        let tag = self.tag(&nonce);
        ConnectionId::new(&[&nonce[..], &tag].concat())
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let (nonce, tag) = id.split_at_checked(Self::NONCE_BYTES).ok_or(InvalidCid)?;
        if tag == self.tag(nonce) {
            Ok(())
        } else {
            Err(InvalidCid)
        }
    }

    fn cid_len(&self) -> usize {
        Self::BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Decides on an authenticated peer.
///
/// On the client it runs before M3, so our payload only goes to a server that passed. On the server it runs
/// on M3, before there are 1-RTT keys. On a relay one task does that for all nodes: look-ups only, nothing that waits.
pub trait Access: Send + Sync + 'static {
    /// Lets the peer in or not.
    ///
    /// # Errors
    /// With the reason, when the connection shall end here.
    fn check(&self, peer: &PeerInfo) -> Result<(), Reject>;
}

/// Lets in everybody who completes the handshake.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoAccess;

impl Access for NoAccess {
    fn check(&self, _: &PeerInfo) -> Result<(), Reject> {
        Ok(())
    }
}

/// The server's PSKs.
pub trait PskStore: Send + Sync + 'static {
    /// The key of that name, unless it was never given or is burned. Called for every M1 and M3.
    fn get(&self, id: &PskId) -> Option<Psk>;
    /// A peer has proven that it has this key: it must never be given out again.
    fn burn(&self, id: &PskId);
}

/// What only tests and vectors may change.
#[doc(hidden)]
#[derive(Clone, Default)]
pub struct TestHooks {
    /// In place of the AEAD's confidentiality limit, so that keys are updated all the time.
    pub packet_limit: Option<u64>,
    /// Counts generations of keys.
    pub key_updates: Option<Arc<AtomicU32>>,
    /// Fixes the ephemeral key, which breaks all security.
    pub ephemeral: Option<[u8; 32]>,
}

/// Shows nothing, for an ephemeral key may be in it.
impl fmt::Debug for TestHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestHooks").finish_non_exhaustive()
    }
}

/// The client's side: who connects.
pub struct ClientConfig {
    /// What to speak.
    pub profile: Profile,
    /// Who we are.
    pub key: StaticKey,
    /// Who must answer. Required for [`Profile::Hop`]; end to end a pin from an earlier session, if any.
    pub server_key: Option<[u8; 32]>,
    /// Required for the end-to-end profiles.
    pub psk: Option<(PskId, Psk)>,
    /// Offered protocols, best first; at least one, of 1 to 255 bytes each.
    pub alpn: Vec<Vec<u8>>,
    /// Sent in M3: authenticated, forward secret, only to a server that passed; at most [`MAX_CLIENT_PAYLOAD`].
    pub payload: Vec<u8>,
    /// What both must agree on, at most 65535 bytes: network name, or PAKE transcript and roles.
    pub context: Vec<u8>,
    /// Checks the server.
    pub access: Arc<dyn Access>,
    #[doc(hidden)]
    pub hooks: TestHooks,
}

impl ClientConfig {
    /// Offers one protocol to everybody.
    pub fn new(profile: Profile, key: StaticKey, alpn: &[u8]) -> Self {
        Self {
            profile,
            key,
            server_key: None,
            psk: None,
            alpn: vec![alpn.to_vec()],
            payload: Vec::new(),
            context: Vec::new(),
            access: Arc::new(NoAccess),
            hooks: TestHooks::default(),
        }
    }

    /// What `quinn` connects with, its version set to the profile's.
    pub fn into_quinn(self) -> quinn_proto::ClientConfig {
        let version = self.profile.version();
        let mut config = quinn_proto::ClientConfig::new(Arc::new(self));
        config.version(version);
        config
    }

    /// Found here, what is wrong is told to the caller; found while writing, nobody hears of it.
    fn check(&self) -> Result<(), Misconfigured> {
        if self.profile.has_psk() != self.psk.is_some() {
            return Err(Misconfigured::Psk);
        }
        if self.profile == Profile::Hop && self.server_key.is_none() {
            return Err(Misconfigured::ServerKey);
        }
        if self.alpn.is_empty()
            || self
                .alpn
                .iter()
                .any(|name| !(1..=255).contains(&name.len()))
        {
            return Err(Misconfigured::Alpn);
        }
        if self.payload.len() > MAX_CLIENT_PAYLOAD {
            return Err(Misconfigured::Payload);
        }
        Ok(())
    }
}

/// Hides PSK, payload and context.
impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("profile", &self.profile)
            .field("key", &self.key)
            .field("server_key", &self.server_key)
            .finish_non_exhaustive()
    }
}

/// A client that cannot start: the caller's mistake.
#[derive(Debug, thiserror::Error)]
enum Misconfigured {
    #[error("end-to-end profiles need a PSK, and the hop has none")]
    Psk,
    #[error("the hop needs the server's key")]
    ServerKey,
    #[error("needs protocols of 1 to 255 bytes")]
    Alpn,
    #[error("the payload is longer than {MAX_CLIENT_PAYLOAD} bytes")]
    Payload,
    #[error("{0}")]
    Noise(#[from] snow::Error),
}

impl crypto::ClientConfig for ClientConfig {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        if version != self.profile.version() {
            return Err(ConnectError::UnsupportedVersion);
        }
        let session = self
            .check()
            .and_then(|()| NoiseSession::client(self, params).map_err(Misconfigured::Noise));
        match session {
            Ok(session) => Ok(Box::new(session)),
            // The one variant that carries text.
            Err(why) => Err(ConnectError::InvalidServerName(format!(
                "{server_name}: {why}"
            ))),
        }
    }
}

/// The server's side: who is connected to.
pub struct ServerConfig {
    /// What to speak; [`endpoint_config`] gets the same list.
    pub profiles: Vec<Profile>,
    /// Who we are.
    pub key: StaticKey,
    /// Required for the end-to-end profiles.
    pub psks: Option<Arc<dyn PskStore>>,
    /// Supported protocols; the client's order decides.
    pub alpn: Vec<Vec<u8>>,
    /// Sent in M2, at most about 10 kB.
    pub payload: Vec<u8>,
    /// As in [`ClientConfig::context`].
    pub context: Vec<u8>,
    /// Checks the client.
    pub access: Arc<dyn Access>,
    #[doc(hidden)]
    pub hooks: TestHooks,
}

impl ServerConfig {
    /// Supports one protocol, for everybody.
    pub fn new(profiles: &[Profile], key: StaticKey, alpn: &[u8]) -> Self {
        Self {
            profiles: profiles.to_vec(),
            key,
            psks: None,
            alpn: vec![alpn.to_vec()],
            payload: Vec::new(),
            context: Vec::new(),
            access: Arc::new(NoAccess),
            hooks: TestHooks::default(),
        }
    }

    fn profile(&self, version: u32) -> Option<Profile> {
        Profile::from_version(version).filter(|profile| self.profiles.contains(profile))
    }
}

/// Hides payload and context.
impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("profiles", &self.profiles)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl crypto::ServerConfig for ServerConfig {
    fn initial_keys(
        &self,
        version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        let profile = self.profile(version).ok_or(UnsupportedVersion)?;
        Ok(keys::keys(
            &schedule::initial(version, dst_cid),
            Side::Server,
            profile.aead(),
            None,
        ))
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        keys::retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        params: &TransportParameters,
    ) -> Box<dyn crypto::Session> {
        let profile = self
            .profile(version)
            .expect("quinn asks for the initial keys of a version first");
        Box::new(NoiseSession::server(self, profile, params))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(key: u8) -> KeyedConnectionIds {
        KeyedConnectionIds::new(hmac::Key::new(hmac::HMAC_SHA256, &[key; 32]))
    }

    #[test]
    fn connection_ids_are_told_from_others_even_after_a_restart() {
        let (mut before, after, other) = (ids(1), ids(1), ids(2));
        let one = before.generate_cid();
        assert_eq!(one.len(), before.cid_len());
        assert_ne!(one, before.generate_cid());
        assert!(after.validate(&one).is_ok() && other.validate(&one).is_err());
        let short = ConnectionId::new(&one[..7]);
        let mut forged = one.to_vec();
        forged[0] ^= 1;
        for id in [short, ConnectionId::new(&forged), ConnectionId::new(&[])] {
            assert!(after.validate(&id).is_err());
        }
    }
}
