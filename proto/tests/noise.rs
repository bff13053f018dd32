//! Two sessions wired to each other without any network: fragments, tampering, replay, reflection, garbage,
//! wrong keys. Nothing here may panic, and no handshake that was touched may complete.
#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use proptest::prelude::*;
use quinn_proto::{
    ConnectError, Side, TransportError, TransportErrorCode,
    crypto::{ClientConfig as _, Keys, ServerConfig as _, Session},
    transport_parameters::TransportParameters,
};
use remora_proto::noise::{
    Access, ClientConfig, HandshakeData, MAX_CLIENT_PAYLOAD, PeerInfo, Profile, Psk, PskId,
    PskStore, Reject, ServerConfig, StaticKey, VERSION_E2E, VERSION_E2E_PQ, VERSION_HOP,
    payload::{Kind, Payload, Reassembler, write_message},
};

const ALPN: &[u8] = b"mesh/1";
const PROFILES: [Profile; 3] = [Profile::Hop, Profile::E2e, Profile::E2ePq];
const PSK_ID: PskId = [1; 16];
const PSK: [u8; 32] = [2; 32];

// TLS alerts (RFC 8446 §6).
const HANDSHAKE_FAILURE: u8 = 40;
const ACCESS_DENIED: u8 = 49;
const DECODE_ERROR: u8 = 50;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Gives [`PSK`] out until it is burned.
#[derive(Default)]
struct OnePsk {
    burned: AtomicU32,
}

impl OnePsk {
    fn burned(&self) -> u32 {
        self.burned.load(Ordering::Relaxed)
    }
}

impl PskStore for OnePsk {
    fn get(&self, id: &PskId) -> Option<Psk> {
        (*id == PSK_ID && self.burned() == 0).then(|| Psk::new(PSK))
    }

    fn burn(&self, _: &PskId) {
        self.burned.fetch_add(1, Ordering::Relaxed);
    }
}

/// Lets one payload in, and counts whom it was asked about.
struct OnlyPayload {
    payload: &'static [u8],
    asked: AtomicU32,
}

impl OnlyPayload {
    fn new(payload: &'static [u8]) -> Arc<Self> {
        Arc::new(Self {
            payload,
            asked: AtomicU32::new(0),
        })
    }
}

impl Access for OnlyPayload {
    fn check(&self, peer: &PeerInfo) -> Result<(), Reject> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if peer.payload == self.payload {
            Ok(())
        } else {
            Err(Reject("wrong payload"))
        }
    }
}

fn params(side: Side) -> TransportParameters {
    TransportParameters::read(side, &mut &[][..]).unwrap()
}

/// Two who would understand each other.
fn configs(profile: Profile) -> (ClientConfig, ServerConfig) {
    let mut client = ClientConfig::new(profile, StaticKey::generate(), ALPN);
    let mut server = ServerConfig::new(&[profile], StaticKey::generate(), ALPN);
    client.payload = b"client".to_vec();
    server.payload = b"server".to_vec();
    if profile.has_psk() {
        client.psk = Some((PSK_ID, Psk::new(PSK)));
        server.psks = Some(Arc::new(OnePsk::default()));
    } else {
        client.server_key = Some(server.key.public());
    }
    (client, server)
}

fn start_client(client: ClientConfig) -> Box<dyn Session> {
    let version = client.profile.version();
    Arc::new(client)
        .start_session(version, "peer", &params(Side::Client))
        .unwrap()
}

fn start_server(server: &Arc<ServerConfig>) -> Box<dyn Session> {
    server
        .clone()
        .start_session(server.profiles[0].version(), &params(Side::Server))
}

fn sessions(profile: Profile) -> (Box<dyn Session>, Box<dyn Session>) {
    let (client, server) = configs(profile);
    (start_client(client), start_server(&Arc::new(server)))
}

/// quinn's `write_crypto` loop. Each call is one encryption level, so pieces stay separate.
fn drain(session: &mut dyn Session, keys: &mut Vec<Keys>) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    loop {
        let mut out = Vec::new();
        let upgraded = session
            .write_handshake(&mut out)
            .map(|level| keys.push(level))
            .is_some();
        if out.is_empty() && !upgraded {
            return pieces;
        }
        if !out.is_empty() {
            pieces.push(out);
        }
    }
}

fn assert_failed_for_good(session: &mut dyn Session) {
    assert!(session.is_handshaking());
    assert!(session.peer_identity().is_none());
    assert!(session.next_1rtt_keys().is_none());
    assert!(
        session
            .export_keying_material(&mut [0; 8], b"", b"")
            .is_err()
    );
    let mut out = Vec::new();
    assert!(session.write_handshake(&mut out).is_none() && out.is_empty());
    assert!(session.read_handshake(&[]).is_err());
}

/// Who ended a handshake, and how.
#[derive(Debug)]
struct Refusal {
    by: Side,
    error: TransportError,
}

impl Refusal {
    fn assert(&self, by: Side, alert: u8) {
        assert_eq!(
            (self.by, self.error.code),
            (by, TransportErrorCode::crypto(alert)),
            "{self:?}"
        );
    }
}

/// Runs a handshake to its end; `edit` sees every message (0: M1, 1: M2, 2: Finished, 3: M3) before it is
/// delivered in chunks of `chunk` bytes. True if both sides completed.
fn run(
    client: &mut dyn Session,
    server: &mut dyn Session,
    chunk: usize,
    mut edit: impl FnMut(usize, &mut Vec<u8>),
) -> Result<bool, Refusal> {
    let (mut client_keys, mut server_keys) = (Vec::new(), Vec::new());
    let mut queue: VecDeque<(Side, Vec<u8>)> = drain(client, &mut client_keys)
        .into_iter()
        .map(|message| (Side::Client, message))
        .collect();
    let mut index = 0;
    while let Some((from, mut message)) = queue.pop_front() {
        edit(index, &mut message);
        index += 1;
        let (to, keys) = match from {
            Side::Client => (&mut *server, &mut server_keys),
            Side::Server => (&mut *client, &mut client_keys),
        };
        for piece in message.chunks(chunk) {
            if let Err(error) = to.read_handshake(piece) {
                assert_failed_for_good(to);
                return Err(Refusal { by: !from, error });
            }
            queue.extend(drain(to, keys).into_iter().map(|message| (!from, message)));
        }
    }
    let done = !client.is_handshaking() && !server.is_handshaking();
    if done {
        assert_eq!((index, client_keys.len(), server_keys.len()), (4, 2, 2));
    }
    Ok(done)
}

fn untouched(_: usize, _: &mut Vec<u8>) {}

fn refusal(client: ClientConfig, server: ServerConfig) -> Refusal {
    run(
        &mut *start_client(client),
        &mut *start_server(&Arc::new(server)),
        usize::MAX,
        untouched,
    )
    .expect_err("refused")
}

fn peer(session: &dyn Session) -> PeerInfo {
    *session
        .peer_identity()
        .expect("the handshake is done")
        .downcast()
        .unwrap()
}

// --- what goes well ---

#[test]
fn any_fragmentation_completes() {
    for profile in PROFILES {
        for chunk in [1, 2, 3, 7, 100, usize::MAX] {
            let (mut client, mut server) = sessions(profile);
            assert!(
                run(&mut *client, &mut *server, chunk, untouched).unwrap(),
                "{profile:?} {chunk}"
            );
        }
    }
}

#[test]
fn both_know_each_other_afterwards() {
    for profile in PROFILES {
        let (client_config, server_config) = configs(profile);
        let keys = (client_config.key.public(), server_config.key.public());
        let (mut client, mut server) = (
            start_client(client_config),
            start_server(&Arc::new(server_config)),
        );
        assert!(client.handshake_data().is_none() && server.handshake_data().is_none());
        assert!(run(&mut *client, &mut *server, usize::MAX, untouched).unwrap());

        let (seen_by_client, seen_by_server) = (peer(&*client), peer(&*server));
        assert_eq!((seen_by_server.static_key, seen_by_client.static_key), keys);
        assert_eq!(seen_by_server.payload, b"client");
        assert_eq!(seen_by_client.payload, b"server");
        assert_eq!(seen_by_client.handshake_hash, seen_by_server.handshake_hash);
        let psk_id = profile.has_psk().then_some(PSK_ID);
        assert_eq!(
            (seen_by_client.psk_id, seen_by_server.psk_id),
            (psk_id, psk_id)
        );
        for session in [&client, &server] {
            let data: Box<HandshakeData> = session.handshake_data().unwrap().downcast().unwrap();
            assert_eq!((data.profile, data.alpn.as_slice()), (profile, ALPN));
            assert!(session.transport_parameters().unwrap().is_some());
        }
        let export = |session: &dyn Session, label: &[u8]| {
            let mut out = [0; 32];
            session
                .export_keying_material(&mut out, label, b"context")
                .unwrap();
            out
        };
        assert_eq!(export(&*client, b"one"), export(&*server, b"one"));
        assert_ne!(export(&*client, b"one"), export(&*client, b"two"));
        assert!(
            client
                .export_keying_material(&mut [0; 255 * 32 + 1], b"", b"")
                .is_err()
        );
    }
}

#[test]
fn the_clients_order_of_protocols_decides() {
    let (mut client, mut server) = configs(Profile::Hop);
    client.alpn = [b"c", b"b", b"a"].map(|name| name.to_vec()).to_vec();
    server.alpn = [b"a", b"b"].map(|name| name.to_vec()).to_vec();
    let (mut client, mut server) = (start_client(client), start_server(&Arc::new(server)));
    assert!(run(&mut *client, &mut *server, usize::MAX, untouched).unwrap());
    assert_eq!(
        (peer(&*client).alpn, peer(&*server).alpn),
        (b"b".to_vec(), b"b".to_vec())
    );
}

// --- wrong keys, wrong secrets, wrong people ---

/// Wrong server key, PSK, name of a PSK, context: one answer to all, at the first message, so that nobody
/// learns which of them it was.
#[test]
fn what_is_wrong_in_the_first_message_is_not_told() {
    let mut refusals = Vec::new();
    for profile in PROFILES {
        let (mut client, server) = configs(profile);
        client.context = b"another context".to_vec();
        refusals.push(refusal(client, server));
    }
    let (mut client, server) = configs(Profile::Hop);
    client.server_key = Some(StaticKey::generate().public());
    refusals.push(refusal(client, server));
    for profile in [Profile::E2e, Profile::E2ePq] {
        for psk in [(PSK_ID, [3; 32]), ([4; 16], PSK)] {
            let (mut client, server) = configs(profile);
            client.psk = Some((psk.0, Psk::new(psk.1)));
            refusals.push(refusal(client, server));
        }
        let (client, mut server) = configs(profile);
        server.psks = None;
        refusals.push(refusal(client, server));
    }
    for refusal in &refusals {
        refusal.assert(Side::Server, HANDSHAKE_FAILURE);
        assert_eq!(refusal.error.reason, refusals[0].error.reason);
    }
}

/// The version is in the prologue: one profile's first message is garbage to another.
#[test]
fn profiles_do_not_mix() {
    let (client, _) = configs(Profile::E2e);
    let (_, server) = configs(Profile::E2ePq);
    refusal(client, server).assert(Side::Server, HANDSHAKE_FAILURE);
}

#[test]
fn without_a_common_protocol_there_is_no_connection() {
    for profile in PROFILES {
        let (client, mut server) = configs(profile);
        server.alpn = vec![b"other/1".to_vec()];
        refusal(client, server).assert(Side::Server, NO_APPLICATION_PROTOCOL);
    }
}

#[test]
fn a_pinned_key_is_enforced_end_to_end() {
    for profile in [Profile::E2e, Profile::E2ePq] {
        let (mut client, server) = configs(profile);
        client.server_key = Some(StaticKey::generate().public());
        refusal(client, server).assert(Side::Client, ACCESS_DENIED);

        let (mut client, server) = configs(profile);
        client.server_key = Some(server.key.public());
        assert!(
            run(
                &mut *start_client(client),
                &mut *start_server(&Arc::new(server)),
                usize::MAX,
                untouched
            )
            .unwrap()
        );
    }
}

/// The client is done by then, as with TLS client certificates: only the server's first words mean anything.
#[test]
fn a_server_refuses_whom_it_does_not_want() {
    for profile in PROFILES {
        let (client, mut server) = configs(profile);
        let access = OnlyPayload::new(b"somebody else");
        server.access = access.clone();
        let (mut client, mut server) = (start_client(client), start_server(&Arc::new(server)));
        let refusal = run(&mut *client, &mut *server, usize::MAX, untouched).unwrap_err();
        refusal.assert(Side::Server, ACCESS_DENIED);
        assert_eq!(
            refusal.error.reason, "access denied",
            "the reason is for our own log"
        );
        assert_eq!(access.asked.load(Ordering::Relaxed), 1);
        assert!(!client.is_handshaking());
    }
}

#[test]
fn a_client_withholds_its_payload_from_whom_it_refuses() {
    for profile in PROFILES {
        let (mut client, mut server) = configs(profile);
        let (client_access, server_access) = (
            OnlyPayload::new(b"somebody else"),
            OnlyPayload::new(b"client"),
        );
        client.access = client_access.clone();
        server.access = server_access.clone();
        let (mut client, mut server) = (start_client(client), start_server(&Arc::new(server)));
        let mut messages = 0;
        let refusal =
            run(&mut *client, &mut *server, usize::MAX, |_, _| messages += 1).unwrap_err();
        refusal.assert(Side::Client, ACCESS_DENIED);
        assert_eq!(messages, 2, "M1 and M2: message 3 was never written");
        assert_eq!(client_access.asked.load(Ordering::Relaxed), 1);
        assert_eq!(server_access.asked.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_client_that_cannot_start_says_why() {
    let why = |profile, edit: fn(&mut ClientConfig)| {
        let (mut client, _) = configs(profile);
        edit(&mut client);
        match Arc::new(client).start_session(profile.version(), "peer", &params(Side::Client)) {
            Err(ConnectError::InvalidServerName(why)) => why,
            other => panic!("{:?}", other.err()),
        }
    };
    assert!(why(Profile::Hop, |client| client.server_key = None).contains("server's key"));
    assert!(
        why(Profile::Hop, |client| client.psk =
            Some((PSK_ID, Psk::new(PSK))))
        .contains("PSK")
    );
    assert!(why(Profile::E2e, |client| client.psk = None).contains("PSK"));
    assert!(why(Profile::Hop, |client| client.alpn.clear()).contains("protocols"));
    assert!(why(Profile::Hop, |client| client.alpn = vec![vec![b'a'; 256]]).contains("protocols"));
    assert!(
        why(Profile::Hop, |client| client.payload =
            vec![0; MAX_CLIENT_PAYLOAD + 1])
        .contains("payload")
    );
    assert!(!why(Profile::Hop, |client| client.context = vec![0; 65_536]).is_empty());
    let (client, _) = configs(Profile::Hop);
    let other = Arc::new(client).start_session(VERSION_E2E, "peer", &params(Side::Client));
    assert!(matches!(
        other.err(),
        Some(ConnectError::UnsupportedVersion)
    ));
}

/// Its M2 cannot be written, so nothing is: the client's handshake times out.
#[test]
fn a_server_with_too_much_to_say_is_silent() {
    for length in [12 * 1024, 70_000] {
        let (client, mut server) = configs(Profile::Hop);
        server.payload = vec![0; length];
        let (mut client, mut server) = (start_client(client), start_server(&Arc::new(server)));
        assert!(!run(&mut *client, &mut *server, usize::MAX, untouched).unwrap());
        assert_failed_for_good(&mut *server);
    }
}

// --- the PSK is used once ---

#[test]
fn a_psk_is_burned_by_its_use_and_not_by_forgeries() {
    let store = Arc::new(OnePsk::default());
    let (_, mut server) = configs(Profile::E2e);
    server.psks = Some(store.clone());
    let server = Arc::new(server);
    let attempt = |edit: &mut dyn FnMut(usize, &mut Vec<u8>)| {
        let (client, _) = configs(Profile::E2e);
        run(
            &mut *start_client(client),
            &mut *start_server(&server),
            usize::MAX,
            edit,
        )
    };
    for (message, by, alert) in [
        (0, Side::Server, HANDSHAKE_FAILURE),
        (1, Side::Client, HANDSHAKE_FAILURE),
        (3, Side::Server, HANDSHAKE_FAILURE),
    ] {
        let forged = attempt(&mut |index, bytes| {
            if index == message {
                *bytes.last_mut().unwrap() ^= 1;
            }
        });
        forged.unwrap_err().assert(by, alert);
        assert_eq!(store.burned(), 0, "message {message}");
    }
    assert!(attempt(&mut untouched).unwrap());
    assert_eq!(store.burned(), 1);
    attempt(&mut untouched)
        .unwrap_err()
        .assert(Side::Server, HANDSHAKE_FAILURE);
    assert_eq!(store.burned(), 1);
}

/// Both had it when they began, and only the first to prove it may keep it.
#[test]
fn of_two_handshakes_with_one_psk_one_completes() {
    let store = Arc::new(OnePsk::default());
    let (_, mut server) = configs(Profile::E2e);
    server.psks = Some(store.clone());
    let server = Arc::new(server);
    let mut pairs: Vec<_> = (0..2)
        .map(|_| (start_client(configs(Profile::E2e).0), start_server(&server)))
        .collect();
    let last: Vec<Vec<u8>> = pairs
        .iter_mut()
        .map(|(client, server)| {
            server
                .read_handshake(&drain(&mut **client, &mut Vec::new())[0])
                .unwrap();
            let mut last = Vec::new();
            for piece in drain(&mut **server, &mut Vec::new()) {
                client.read_handshake(&piece).unwrap();
                last.extend(drain(&mut **client, &mut Vec::new()));
            }
            last.remove(0)
        })
        .collect();
    assert!(pairs[0].1.read_handshake(&last[0]).is_ok());
    assert!(pairs[1].1.read_handshake(&last[1]).is_err());
    assert_eq!(store.burned(), 1);
}

/// Who was refused after proving the PSK had its one use of it.
#[test]
fn a_refused_peer_has_used_its_psk() {
    let store = Arc::new(OnePsk::default());
    let (client, mut server) = configs(Profile::E2e);
    server.psks = Some(store.clone());
    server.access = OnlyPayload::new(b"somebody else");
    refusal(client, server).assert(Side::Server, ACCESS_DENIED);
    assert_eq!(store.burned(), 1);
}

// --- tampering ---

/// Every single bit of every flight matters.
#[test]
fn every_bit_is_authenticated() {
    for profile in [Profile::Hop, Profile::E2e] {
        for flight in 0..4 {
            let mut length = 0;
            let (mut client, mut server) = sessions(profile);
            run(&mut *client, &mut *server, usize::MAX, |index, bytes| {
                if index == flight {
                    length = bytes.len();
                }
            })
            .unwrap();
            assert!(length > 30, "{profile:?} flight {flight}: {length}");
            for bit in 0..length * 8 {
                let (mut client, mut server) = sessions(profile);
                let result = run(&mut *client, &mut *server, usize::MAX, |index, bytes| {
                    if index == flight {
                        bytes[bit / 8] ^= 1 << (bit % 8);
                    }
                });
                // A changed length leaves the reader waiting for more.
                assert!(
                    !matches!(result, Ok(true)),
                    "{profile:?} flight {flight} bit {bit}"
                );
            }
        }
    }
}

#[test]
fn reflection_replay_and_disorder_fail() {
    for profile in PROFILES {
        let m1 = |client: &mut dyn Session| drain(client, &mut Vec::new()).remove(0);

        // The client's own message 1, reflected to it.
        let (mut client, _) = sessions(profile);
        let message = m1(&mut *client);
        assert!(client.read_handshake(&message).is_err());

        // Message 1 twice in one session.
        let (mut client, mut server) = sessions(profile);
        let message = m1(&mut *client);
        assert!(
            server.read_handshake(&message).unwrap(),
            "handshake data is ready after M1"
        );
        drain(&mut *server, &mut Vec::new());
        assert!(server.read_handshake(&message).is_err());

        // Bytes after the end of a message, before it is our turn to read again.
        let (mut client, mut server) = sessions(profile);
        let mut message = m1(&mut *client);
        message.push(4);
        let error = server.read_handshake(&message).unwrap_err();
        assert_eq!(error.code, TransportErrorCode::crypto(DECODE_ERROR));

        // Finished before message 2.
        let (mut client, mut server) = sessions(profile);
        let message = m1(&mut *client);
        server.read_handshake(&message).unwrap();
        let answer = drain(&mut *server, &mut Vec::new());
        assert_eq!(answer.len(), 2);
        assert!(client.read_handshake(&answer[1]).is_err());
    }
}

/// CRYPTO frames in 1-RTT packets reach the session too.
#[test]
fn after_the_handshake_every_byte_is_an_error() {
    for profile in PROFILES {
        let (mut client, mut server) = sessions(profile);
        assert!(run(&mut *client, &mut *server, usize::MAX, untouched).unwrap());
        for session in [&mut client, &mut server] {
            assert!(!session.read_handshake(&[]).unwrap());
            assert!(session.read_handshake(&[4]).is_err());
            assert_failed_for_good(&mut **session);
        }
    }
}

/// A recorded message 1 is valid again in a later session with the same server key, but whoever replays it
/// cannot get past message 2 and learns nothing.
#[test]
fn a_replayed_first_message_goes_nowhere() {
    let (client, server) = configs(Profile::Hop);
    let (mut client, server) = (start_client(client), Arc::new(server));
    let m1 = drain(&mut *client, &mut Vec::new()).remove(0);
    let (mut first, mut second) = (start_server(&server), start_server(&server));
    first.read_handshake(&m1).unwrap();
    let mut messages = Vec::new();
    for piece in drain(&mut *first, &mut Vec::new()) {
        client.read_handshake(&piece).unwrap();
        messages.extend(drain(&mut *client, &mut Vec::new()));
    }
    assert_eq!(messages.len(), 1);
    // The replayer has M1 and M3 of the first session.
    second.read_handshake(&m1).unwrap();
    drain(&mut *second, &mut Vec::new());
    assert!(second.read_handshake(&messages[0]).is_err());
    assert!(second.is_handshaking());
}

#[test]
fn oversized_messages_are_refused_early() {
    let (_, mut server) = sessions(Profile::Hop);
    assert!(server.read_handshake(&[1, 0xff, 0xff, 0xff]).is_err());
    // An endless trickle: at most one message of full size is ever held.
    let (_, mut server) = sessions(Profile::Hop);
    server.read_handshake(&[1, 0, 0x30, 0]).unwrap();
    let mut total = 0;
    while server.read_handshake(&[0; 1000]).is_ok() {
        total += 1000;
        assert!(total <= 13_000);
    }
    // A complete message with a long tail is not stored first and looked at later.
    let mut buffer = Reassembler::default();
    let mut message = Vec::new();
    write_message(&mut message, Kind::M1, b"short").unwrap();
    message.resize(20_000, 0);
    assert!(buffer.push(&message).is_err());
}

// --- versions ---

#[test]
fn a_server_accepts_only_its_profiles() {
    let server = ServerConfig::new(&[Profile::Hop], StaticKey::generate(), ALPN);
    let cid = quinn_proto::ConnectionId::new(&[1; 8]);
    assert!(server.initial_keys(VERSION_HOP, &cid).is_ok());
    for version in [VERSION_E2E, VERSION_E2E_PQ, 0, 1, 0x6b33_43cf] {
        assert!(server.initial_keys(version, &cid).is_err());
    }
}

#[test]
fn version_numbers_are_free() {
    for version in [VERSION_HOP, VERSION_E2E, VERSION_E2E_PQ] {
        assert_eq!(Profile::from_version(version).unwrap().version(), version);
        assert_ne!(version & 0x0f0f_0f0f, 0x0a0a_0a0a, "reserved for greasing");
        assert_ne!(version >> 16, 0, "reserved for the IETF");
        // QUIC version 2, quinn-noise, hyphae, reishi.
        let known = [
            0x6b33_43cf,
            0xf0f0_f2f0,
            0x4851_0101,
            0x5251_0101,
            0x5251_0301,
            0x5251_0401,
        ];
        assert!(!known.contains(&version));
    }
}

#[test]
fn nothing_secret_is_shown() {
    let (mut client, mut server) = configs(Profile::E2e);
    client.key = StaticKey::from_bytes([0xab; 32]);
    server.key = client.key.clone();
    client.psk = Some((PSK_ID, Psk::new([0xab; 32])));
    client.hooks.ephemeral = Some([0xab; 32]);
    let text = format!("{client:?} {server:?} {:?} {:?}", client.hooks, client.key);
    assert!(text.contains("E2e") && !text.contains("171, 171"), "{text}");
}

// --- garbage ---

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn garbage_never_panics(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..6),
        profile in prop::sample::select(PROFILES.to_vec()),
        kind in 1u8..5,
    ) {
        let (mut client, mut server) = sessions(profile);
        drain(&mut *client, &mut Vec::new());
        for mut chunk in chunks {
            // Half of the time the framing is plausible, so that parsing goes deeper.
            if chunk.len() > 4 && chunk[0] & 1 == 0 {
                let [high, low] = u16::try_from(chunk.len() - 4).unwrap().to_be_bytes();
                chunk[..4].copy_from_slice(&[kind, 0, high, low]);
            }
            // Any answer will do.
            client.read_handshake(&chunk).ok();
            server.read_handshake(&chunk).ok();
        }
        prop_assert!(client.is_handshaking() && server.is_handshaking());
    }

    #[test]
    fn structural_edits_never_complete(
        profile in prop::sample::select(PROFILES.to_vec()),
        flight in 0usize..4,
        position in any::<prop::sample::Index>(),
        edit in 0u8..4,
        chunk in 1usize..2000,
    ) {
        let (mut client, mut server) = sessions(profile);
        let result = run(&mut *client, &mut *server, chunk, |index, bytes| {
            if index != flight || bytes.is_empty() { return; }
            let at = position.index(bytes.len());
            match edit {
                0 => { bytes.remove(at); }
                1 => bytes.insert(at, 0xff ^ bytes[at]),
                2 => bytes.truncate(at),
                _ => bytes.extend_from_within(at..),
            }
        });
        prop_assert!(!matches!(result, Ok(true)), "flight {} edit {}", flight, edit);
    }

    #[test]
    fn payload_codec_round_trips(
        transport_parameters in prop::option::of(prop::collection::vec(any::<u8>(), 0..200)),
        alpn in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..4),
        app in prop::collection::vec(any::<u8>(), 0..500),
        kem in prop::option::of(prop::collection::vec(any::<u8>(), 0..1200)),
    ) {
        let payload = Payload { transport_parameters, alpn, app, kem };
        prop_assert_eq!(Payload::decode(&payload.encode().unwrap()).unwrap(), payload);
    }

    #[test]
    fn payload_decoding_is_canonical(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Ok(payload) = Payload::decode(&bytes) {
            // Unknown tags that may be skipped aside, what decodes encodes to itself or shorter.
            prop_assert!(payload.encode().unwrap().len() <= bytes.len());
        }
    }
}
