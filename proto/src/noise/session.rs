//! `crypto::Session` over a handshake of three Noise messages.
//!
//! ```text
//! client   WriteM1 ─▶ ReadM2 ─▶ HandshakeKeys ─▶ ReadFinished ─▶ WriteM3 ─▶ Done
//! server   ReadM1 ─▶ WriteM2 ─▶ WriteFinished ─▶ ReadM3 ─▶ AppKeys ─▶ Done
//! ```
//!
//! Any error leads to Failed, which holds no secrets and never ends. quinn 0.11 dictates the shape: the
//! server must have the client's transport parameters when it returns Handshake keys (so they are in M1),
//! each side is established only by a Handshake packet of the other (so there is a Finished), and
//! `next_1rtt_keys` is called the moment 1-RTT keys are returned.

use std::{
    any::Any,
    mem,
    sync::{Arc, atomic::Ordering},
};

use aws_lc_rs::hmac;
use quinn_proto::{
    ConnectionId, Side, TransportError, TransportErrorCode,
    crypto::{self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey},
    transport_parameters::TransportParameters,
};

use super::{
    config::{ClientConfig, Profile, PskId, ServerConfig, TestHooks},
    handshake::{Handshake, Start, kem},
    keys,
    payload::{Kind, Payload, Reassembler, TooLong, write_message},
    schedule::{self, Secret, Secrets},
};

/// Most that a client may send in M3: it has to fit one Handshake packet.
///
/// quinn (0.11.19, with TLS client certificates just as well) stalls for good when a *part* of the client's
/// Handshake flight is lost while 1-RTT data that cannot be acknowledged yet fills the congestion window.
/// Larger identities belong into the first stream.
pub const MAX_CLIENT_PAYLOAD: usize = 1000;

// TLS alerts (RFC 8446 §6), which QUIC carries as error 0x100 + alert (RFC 9001 §4.8).
const ALERT_HANDSHAKE_FAILURE: u8 = 40;
const ALERT_ACCESS_DENIED: u8 = 49;
const ALERT_DECODE_ERROR: u8 = 50;
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// Why an [`Access`](super::Access) turned a peer down. For its own log: the peer hears no more than "access denied".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Reject(pub &'static str);

/// What is known about the peer once its static key is proven; `Connection::peer_identity()`.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// What we speak.
    pub profile: Profile,
    /// Who it is.
    pub static_key: [u8; 32],
    /// Binds everything above to this connection (Noise §11.2). In the client's
    /// [`Access`](super::Access) it is the hash
    /// after M2; everywhere else the final one.
    pub handshake_hash: [u8; 32],
    /// The chosen protocol.
    pub alpn: Vec<u8>,
    /// What it sent for us, opaque at this layer.
    pub payload: Vec<u8>,
    /// Which PSK it proved to have, end to end.
    pub psk_id: Option<PskId>,
}

/// `Connection::handshake_data()`.
#[derive(Clone, Debug)]
pub struct HandshakeData {
    /// What we speak.
    pub profile: Profile,
    /// The chosen protocol.
    pub alpn: Vec<u8>,
}

/// A message of the peer is due.
enum Reading {
    M1(Box<Opening<Arc<ServerConfig>>>),
    M2(Box<Client>, Option<kem::Secret>),
    Finished(Box<Client>, Box<PeerInfo>, Secret),
    M3(Box<Server>),
}

/// Something of ours is due.
enum Writing {
    M1(Box<Opening<Client>>),
    HandshakeKeys(Box<Client>, Box<PeerInfo>, Box<(Secrets, Secret)>),
    M3(Box<Client>, Box<PeerInfo>),
    M2(Box<Opening<Server>>, Option<Vec<u8>>),
    Finished(Box<Server>, Secret),
    AppKeys(Box<Established>),
}

enum State {
    Reading(Reading),
    Writing(Writing),
    Done(Box<Established>),
    Failed,
}

/// Still holds the transport parameters that our first message carries.
struct Opening<T> {
    with: T,
    params: Vec<u8>,
}

struct Client {
    config: Arc<ClientConfig>,
    noise: Handshake,
}

struct Server {
    config: Arc<ServerConfig>,
    noise: Handshake,
    psk_id: Option<PskId>,
}

struct Established {
    /// Of the latest generation that quinn has taken.
    secrets: Secrets,
    exporter: Secret,
    peer: PeerInfo,
}

impl Reading {
    fn kind(&self) -> Kind {
        match self {
            Self::M1(_) => Kind::M1,
            Self::M2(..) => Kind::M2,
            Self::Finished(..) => Kind::ServerFinished,
            Self::M3(_) => Kind::M3,
        }
    }

    /// Whether with it `handshake_data()` becomes known.
    fn brings_data(&self) -> bool {
        match self {
            Self::M1(_) | Self::M2(..) => true,
            Self::Finished(..) | Self::M3(_) => false,
        }
    }
}

/// Noise as quinn sees it.
pub(super) struct NoiseSession {
    side: Side,
    profile: Profile,
    hooks: TestHooks,
    state: State,
    input: Reassembler,
    /// Until QUIC has them for certain.
    peer_params: Option<Box<TransportParameters>>,
    alpn: Option<Vec<u8>>,
}

fn alert(code: u8, reason: &str) -> TransportError {
    TransportError {
        code: TransportErrorCode::crypto(code),
        frame: None,
        reason: reason.to_owned(),
    }
}

/// One answer to every cryptographic failure: nobody learns which step failed.
fn handshake_failure<E>(_: E) -> TransportError {
    alert(ALERT_HANDSHAKE_FAILURE, "handshake failure")
}

fn decode_error<E>(_: E) -> TransportError {
    alert(ALERT_DECODE_ERROR, "malformed handshake message")
}

fn access_denied<E>(_: E) -> TransportError {
    alert(ALERT_ACCESS_DENIED, "access denied")
}

fn no_common_protocol() -> TransportError {
    alert(ALERT_NO_APPLICATION_PROTOCOL, "no common protocol")
}

/// Something of ours that cannot be written: no randomness, or a server's payload beyond all limits.
enum WriteError {
    Noise,
    TooLong,
}

impl From<snow::Error> for WriteError {
    fn from(_: snow::Error) -> Self {
        Self::Noise
    }
}

impl From<TooLong> for WriteError {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

fn encoded(params: &TransportParameters) -> Vec<u8> {
    let mut out = Vec::new();
    params.write(&mut out);
    out
}

impl NoiseSession {
    pub(super) fn client(
        config: Arc<ClientConfig>,
        params: &TransportParameters,
    ) -> Result<Self, snow::Error> {
        let noise = Handshake::initiator(&Start {
            profile: config.profile,
            key: &config.key,
            // In XX the server's key is received; a pin is compared when it is.
            server_key: config
                .server_key
                .as_ref()
                .filter(|_| config.profile == Profile::Hop),
            psk: config.psk.as_ref().map(|(id, psk)| (id, psk)),
            context: &config.context,
            ephemeral: config.hooks.ephemeral.as_ref(),
        })?;
        let (profile, hooks) = (config.profile, config.hooks.clone());
        let first = Opening {
            with: Client { config, noise },
            params: encoded(params),
        };
        Ok(Self::new(
            Side::Client,
            profile,
            hooks,
            State::Writing(Writing::M1(Box::new(first))),
        ))
    }

    /// There is no handshake yet: message 1 tells which PSK it is for.
    pub(super) fn server(
        config: Arc<ServerConfig>,
        profile: Profile,
        params: &TransportParameters,
    ) -> Self {
        let hooks = config.hooks.clone();
        let first = Opening {
            with: config,
            params: encoded(params),
        };
        Self::new(
            Side::Server,
            profile,
            hooks,
            State::Reading(Reading::M1(Box::new(first))),
        )
    }

    fn new(side: Side, profile: Profile, hooks: TestHooks, state: State) -> Self {
        Self {
            side,
            profile,
            hooks,
            state,
            input: Reassembler::default(),
            peer_params: None,
            alpn: None,
        }
    }

    /// Leaves Failed behind, so that every early return ends the session and drops its secrets.
    fn take_state(&mut self) -> State {
        mem::replace(&mut self.state, State::Failed)
    }

    fn read_params(&mut self, payload: &Payload) -> Result<(), TransportError> {
        let mut params = payload
            .transport_parameters
            .as_deref()
            .ok_or(())
            .map_err(decode_error)?;
        // `read` takes the side that reads.
        let params = TransportParameters::read(self.side, &mut params)?;
        self.peer_params = Some(Box::new(params));
        Ok(())
    }

    fn peer(
        &self,
        noise: &Handshake,
        psk_id: Option<PskId>,
        payload: Vec<u8>,
    ) -> Result<PeerInfo, TransportError> {
        Ok(PeerInfo {
            profile: self.profile,
            static_key: noise.remote_static().ok_or(()).map_err(handshake_failure)?,
            handshake_hash: noise.hash(),
            alpn: self.alpn.clone().unwrap_or_default(),
            payload,
            psk_id,
        })
    }

    // --- reading ---

    fn read_message(&mut self, due: Reading, body: &[u8]) -> Result<State, TransportError> {
        match due {
            Reading::M1(opening) => self.read_m1(*opening, body),
            Reading::M2(client, kem) => self.read_m2(client, kem, body),
            Reading::Finished(client, peer, finished) => {
                read_finished(client, peer, &finished, body)
            }
            Reading::M3(server) => self.read_m3(*server, body),
        }
    }

    fn read_m1(
        &mut self,
        opening: Opening<Arc<ServerConfig>>,
        body: &[u8],
    ) -> Result<State, TransportError> {
        let Opening {
            with: config,
            params,
        } = opening;
        let (psk, message) = if self.profile.has_psk() {
            let (id, message) = body
                .split_first_chunk::<16>()
                .ok_or(())
                .map_err(decode_error)?;
            let psk = config.psks.as_ref().and_then(|psks| psks.get(id));
            (
                Some((*id, psk.ok_or(()).map_err(handshake_failure)?)),
                message,
            )
        } else {
            (None, body)
        };
        let mut noise = Handshake::responder(&Start {
            profile: self.profile,
            key: &config.key,
            server_key: None,
            psk: psk.as_ref().map(|(id, psk)| (id, psk)),
            context: &config.context,
            ephemeral: config.hooks.ephemeral.as_ref(),
        })
        .map_err(handshake_failure)?;
        let payload = noise.read(message).map_err(handshake_failure)?;
        let payload = Payload::decode(&payload).map_err(decode_error)?;
        self.read_params(&payload)?;
        let chosen = payload
            .alpn
            .iter()
            .find(|name| config.alpn.contains(name))
            .cloned();
        self.alpn = Some(chosen.ok_or_else(no_common_protocol)?);
        let mut reply = None;
        if self.profile == Profile::E2ePq {
            let public = payload.kem.as_deref().ok_or(()).map_err(decode_error)?;
            let (ciphertext, secret) = kem::encapsulate(public)
                .ok_or(())
                .map_err(handshake_failure)?;
            noise.set_kem_secret(&secret).map_err(handshake_failure)?;
            reply = Some(ciphertext);
        }
        let server = Server {
            config,
            noise,
            psk_id: psk.map(|(id, _)| id),
        };
        Ok(State::Writing(Writing::M2(
            Box::new(Opening {
                with: server,
                params,
            }),
            reply,
        )))
    }

    fn read_m2(
        &mut self,
        mut client: Box<Client>,
        kem: Option<kem::Secret>,
        body: &[u8],
    ) -> Result<State, TransportError> {
        let Client { config, noise } = &mut *client;
        let payload = noise.read(body).map_err(handshake_failure)?;
        let payload = Payload::decode(&payload).map_err(decode_error)?;
        self.read_params(&payload)?;
        match payload.alpn.as_slice() {
            [chosen] if config.alpn.contains(chosen) => self.alpn = Some(chosen.clone()),
            _ => return Err(no_common_protocol()),
        }
        if let Some(kem) = kem {
            let ciphertext = payload.kem.as_deref().ok_or(()).map_err(decode_error)?;
            let secret = kem
                .decapsulate(ciphertext)
                .ok_or(())
                .map_err(handshake_failure)?;
            noise.set_kem_secret(&secret).map_err(handshake_failure)?;
        }
        let peer = self.peer(noise, config.psk.as_ref().map(|(id, _)| *id), payload.app)?;
        if config.server_key.is_some_and(|pin| pin != peer.static_key) {
            return Err(alert(ALERT_ACCESS_DENIED, "peer key changed"));
        }
        config.access.check(&peer).map_err(access_denied)?;
        let secrets = Box::new(handshake_secrets(noise));
        let peer = Box::new(peer);
        Ok(State::Writing(Writing::HandshakeKeys(
            client, peer, secrets,
        )))
    }

    fn read_m3(&mut self, mut server: Server, body: &[u8]) -> Result<State, TransportError> {
        let payload = server.noise.read(body).map_err(handshake_failure)?;
        server.burn_psk()?;
        let payload = Payload::decode(&payload).map_err(decode_error)?;
        let peer = self.peer(&server.noise, server.psk_id, payload.app)?;
        server.config.access.check(&peer).map_err(access_denied)?;
        Ok(State::Writing(Writing::AppKeys(Box::new(established(
            server.noise,
            peer,
        )))))
    }

    fn read(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        let mut data_ready = false;
        self.input.push(buf).map_err(decode_error)?;
        loop {
            match self.take_state() {
                State::Reading(due) => match self.input.next(due.kind()).map_err(decode_error)? {
                    Some(body) => {
                        data_ready |= due.brings_data();
                        self.state = self.read_message(due, &body)?;
                    }
                    None => {
                        self.state = State::Reading(due);
                        return Ok(data_ready);
                    }
                },
                // What follows the message that ended a turn can never be valid: the peer has to wait for
                // ours. This is also what CRYPTO frames in 1-RTT packets meet.
                state @ (State::Writing(_) | State::Done(_)) if self.input.is_empty() => {
                    self.state = state;
                    return Ok(data_ready);
                }
                State::Writing(_) | State::Done(_) => return Err(decode_error(())),
                State::Failed => return Err(handshake_failure(())),
            }
        }
    }

    // --- writing ---

    fn write_message(
        &self,
        due: Writing,
        out: &mut Vec<u8>,
    ) -> Result<(State, Option<Keys>), WriteError> {
        match due {
            Writing::M1(opening) => Ok((write_m1(*opening, out)?, None)),
            Writing::M2(opening, reply) => self.write_m2(*opening, reply, out),
            Writing::Finished(server, finished) => {
                Ok((write_finished(server, &finished, out)?, None))
            }
            Writing::M3(client, peer) => self.write_m3(*client, *peer, out),
            Writing::HandshakeKeys(client, peer, secrets) => {
                let (secrets, finished) = *secrets;
                let keys = keys::keys(&secrets, self.side, self.profile.aead(), None);
                Ok((
                    State::Reading(Reading::Finished(client, peer, finished)),
                    Some(keys),
                ))
            }
            Writing::AppKeys(established) => {
                let keys = self.app_keys(&established);
                Ok((State::Done(established), Some(keys)))
            }
        }
    }

    fn write_m2(
        &self,
        opening: Opening<Server>,
        kem: Option<Vec<u8>>,
        out: &mut Vec<u8>,
    ) -> Result<(State, Option<Keys>), WriteError> {
        let Opening {
            with: mut server,
            params,
        } = opening;
        let payload = Payload {
            transport_parameters: Some(params),
            alpn: self.alpn.iter().cloned().collect(),
            app: server.config.payload.clone(),
            kem,
        };
        write_message(out, Kind::M2, &server.noise.write(&payload.encode()?)?)?;
        let (secrets, finished) = handshake_secrets(&mut server.noise);
        let keys = keys::keys(&secrets, self.side, self.profile.aead(), None);
        Ok((
            State::Writing(Writing::Finished(Box::new(server), finished)),
            Some(keys),
        ))
    }

    fn write_m3(
        &self,
        mut client: Client,
        peer: PeerInfo,
        out: &mut Vec<u8>,
    ) -> Result<(State, Option<Keys>), WriteError> {
        let payload = Payload {
            app: client.config.payload.clone(),
            ..Payload::default()
        };
        write_message(out, Kind::M3, &client.noise.write(&payload.encode()?)?)?;
        let established = Box::new(established(client.noise, peer));
        let keys = self.app_keys(&established);
        Ok((State::Done(established), Some(keys)))
    }

    fn app_keys(&self, established: &Established) -> Keys {
        keys::keys(
            &established.secrets,
            self.side,
            self.profile.aead(),
            self.hooks.packet_limit,
        )
    }
}

impl Server {
    /// M3 verifies: whoever sent it has the PSK, whatever else is wrong with it.
    ///
    /// Not before, or anybody who sees the public name could burn it. Another handshake with the same key
    /// may have been faster since M1; then this one is the second use.
    fn burn_psk(&self) -> Result<(), TransportError> {
        let (Some(psks), Some(id)) = (&self.config.psks, &self.psk_id) else {
            return Ok(());
        };
        psks.get(id).ok_or(()).map_err(handshake_failure)?;
        psks.burn(id);
        Ok(())
    }
}

fn write_m1(opening: Opening<Client>, out: &mut Vec<u8>) -> Result<State, WriteError> {
    let Opening {
        with: mut client,
        params,
    } = opening;
    let mut payload = Payload {
        transport_parameters: Some(params),
        alpn: client.config.alpn.clone(),
        ..Payload::default()
    };
    let mut secret = None;
    if client.config.profile == Profile::E2ePq {
        let (kem, public) = kem::generate().ok_or(WriteError::Noise)?;
        (secret, payload.kem) = (Some(kem), Some(public));
    }
    let mut body = client
        .config
        .psk
        .as_ref()
        .map_or_else(Vec::new, |(id, _)| id.to_vec());
    body.extend_from_slice(&client.noise.write(&payload.encode()?)?);
    write_message(out, Kind::M1, &body)?;
    Ok(State::Reading(Reading::M2(Box::new(client), secret)))
}

fn write_finished(
    server: Box<Server>,
    finished: &Secret,
    out: &mut Vec<u8>,
) -> Result<State, WriteError> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &finished[..]);
    write_message(
        out,
        Kind::ServerFinished,
        hmac::sign(&key, &server.noise.hash()).as_ref(),
    )?;
    Ok(State::Reading(Reading::M3(server)))
}

fn read_finished(
    client: Box<Client>,
    peer: Box<PeerInfo>,
    finished: &Secret,
    body: &[u8],
) -> Result<State, TransportError> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &finished[..]);
    hmac::verify(&key, &client.noise.hash(), body).map_err(handshake_failure)?;
    Ok(State::Writing(Writing::M3(client, peer)))
}

fn handshake_secrets(noise: &mut Handshake) -> (Secrets, Secret) {
    schedule::handshake(&noise.hash(), &noise.split())
}

fn established(mut noise: Handshake, peer: PeerInfo) -> Established {
    let handshake_hash = noise.hash();
    let (secrets, exporter) = schedule::application(&handshake_hash, &noise.split());
    Established {
        secrets,
        exporter,
        peer: PeerInfo {
            handshake_hash,
            ..peer
        },
    }
}

impl crypto::Session for NoiseSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        let secrets = schedule::initial(self.profile.version(), dst_cid);
        keys::keys(&secrets, side, self.profile.aead(), None)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let alpn = self.alpn.clone()?;
        Some(Box::new(HandshakeData {
            profile: self.profile,
            alpn,
        }))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let State::Done(established) = &self.state else {
            return None;
        };
        Some(Box::new(established.peer.clone()))
    }

    /// None: message 1 can be replayed and is not forward secret, so there is no 0-RTT.
    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        Some(false)
    }

    fn is_handshaking(&self) -> bool {
        !matches!(self.state, State::Done(_))
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.read(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        Ok(self.peer_params.as_deref().copied())
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        match self.take_state() {
            State::Writing(due) => {
                // No error can be told here. The session stays Failed and the connection ends with its
                // handshake's time.
                let (state, keys) = self.write_message(due, buf).ok()?;
                self.state = state;
                keys
            }
            state @ (State::Reading(_) | State::Done(_) | State::Failed) => {
                self.state = state;
                None
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let State::Done(established) = &mut self.state else {
            return None;
        };
        if self.side.is_server() {
            // They came with the first message, and QUIC took them before it had keys.
            self.peer_params = None;
        }
        if let Some(counter) = &self.hooks.key_updates {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let secrets = &mut established.secrets;
        secrets.client = schedule::next_generation(&secrets.client);
        secrets.server = schedule::next_generation(&secrets.server);
        Some(keys::packet_keys(
            secrets,
            self.side,
            self.profile.aead(),
            self.hooks.packet_limit,
        ))
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        keys::retry_valid(self.profile.version(), orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let State::Done(established) = &self.state else {
            return Err(ExportKeyingMaterialError);
        };
        schedule::export(&established.exporter, label, context, output)
            .map_err(|_| ExportKeyingMaterialError)
    }
}
