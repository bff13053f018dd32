//! Both ends of the Noise handshake in all three profiles, with somebody on the wire who cuts, edits, repeats and
//! invents; and the codecs below it.
//!
//! Input: a mode; then either bytes for a codec, or a handshake's profile, chunk size, identities and edits.
//! The messages are real ones, made anew in each run, so an edit meets the state machine and not just its first check.
#![no_main]

use std::{collections::VecDeque, sync::Arc};

use libfuzzer_sys::fuzz_target;
use quinn_proto::{
    Side,
    crypto::{ClientConfig as _, Keys, ServerConfig as _, Session},
    transport_parameters::TransportParameters,
};
use remora_proto::noise::{
    ClientConfig, MAX_CLIENT_PAYLOAD, Profile, Psk, PskId, PskStore, ServerConfig, StaticKey,
    payload::{Kind, MAX_MESSAGE, Payload, Reassembler, write_message},
};
use remora_proto_fuzz::Script;

const PSK_ID: PskId = [1; 16];

struct OnePsk;

impl PskStore for OnePsk {
    fn get(&self, id: &PskId) -> Option<Psk> {
        (*id == PSK_ID).then(|| Psk::new([2; 32]))
    }

    fn burn(&self, _: &PskId) {}
}

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    match script.byte() % 4 {
        0 => payload(script.0),
        1 => reassemble(script),
        2 => garbage(script),
        _ => tampered(script),
    }
});

fn payload(bytes: &[u8]) {
    if let Ok(payload) = Payload::decode(bytes) {
        let encoded = payload
            .encode()
            .expect("what was decoded fits its length fields");
        assert!(
            encoded.len() <= bytes.len(),
            "only unknown fields are dropped"
        );
        assert_eq!(Payload::decode(&encoded), Ok(payload));
    }
}

fn reassemble(mut script: Script<'_>) {
    let kind = kind(script.byte());
    let mut reassembler = Reassembler::default();
    while !script.is_empty() {
        if reassembler.push(script.short()).is_err() {
            return;
        }
        while let Ok(Some(body)) = reassembler.next(kind) {
            assert!(body.len() <= MAX_MESSAGE);
        }
    }
}

fn kind(byte: u8) -> Kind {
    [Kind::M1, Kind::M2, Kind::ServerFinished, Kind::M3][usize::from(byte % 4)]
}

/// Bytes from nowhere, framed well enough to be looked into.
fn garbage(mut script: Script<'_>) {
    let (mut client, mut server) = sessions(profile(script.byte()), b"client", b"server");
    drain(&mut *client, &mut Vec::new());
    while !script.is_empty() {
        let (framed, body) = (script.byte(), script.long());
        let mut bytes = Vec::new();
        if framed == 0 || write_message(&mut bytes, kind(framed), body).is_err() {
            bytes = body.to_vec();
        }
        // Any answer will do.
        client.read_handshake(&bytes).ok();
        server.read_handshake(&bytes).ok();
        drain(&mut *client, &mut Vec::new());
        drain(&mut *server, &mut Vec::new());
    }
    assert!(client.is_handshaking() && server.is_handshaking());
}

/// A real handshake and somebody in between. Nothing that was changed may complete on both sides; what was not, must.
fn tampered(mut script: Script<'_>) {
    let profile = profile(script.byte());
    let chunk = usize::from(script.word()) + 1;
    let (to_server, to_client) = (script.short(), script.short());
    let (mut client, mut server) = sessions(
        profile,
        &to_server[..to_server.len().min(MAX_CLIENT_PAYLOAD)],
        to_client,
    );

    let (mut client_keys, mut server_keys) = (Vec::new(), Vec::new());
    let mut queue: VecDeque<(Side, Vec<u8>)> = VecDeque::new();
    queue.extend(
        drain(&mut *client, &mut client_keys)
            .into_iter()
            .map(|message| (Side::Client, message)),
    );
    let (mut touched, mut failed) = (false, false);
    let mut seen: Vec<Vec<u8>> = Vec::new();
    while let Some((from, original)) = queue.pop_front() {
        let message = edit(&mut script, &original, &seen);
        touched |= message != original;
        seen.push(original);
        let (to, keys) = match from {
            Side::Client => (&mut *server, &mut server_keys),
            Side::Server => (&mut *client, &mut client_keys),
        };
        for piece in message.chunks(chunk) {
            if to.read_handshake(piece).is_err() {
                failed = true;
                assert!(to.next_1rtt_keys().is_none() || !to.is_handshaking());
                assert!(to.read_handshake(piece).is_err(), "an error is for good");
                break;
            }
            queue.extend(drain(to, keys).into_iter().map(|message| (!from, message)));
        }
    }

    let done = !client.is_handshaking() && !server.is_handshaking();
    if touched {
        assert!(failed || !done, "a changed handshake completed");
    } else {
        assert!(done && !failed, "an honest handshake failed");
        let hash = |session: &dyn Session| {
            let peer = session.peer_identity().expect("done");
            let peer = peer
                .downcast::<remora_proto::noise::PeerInfo>()
                .expect("ours");
            (peer.handshake_hash, peer.payload.clone())
        };
        let (at_client, at_server) = (hash(&*client), hash(&*server));
        assert_eq!(at_client.0, at_server.0);
        assert_eq!(
            (at_client.1.as_slice(), at_server.1.as_slice()),
            (to_client, to_server)
        );
    }
}

/// The script's next edit: most are none.
fn edit(script: &mut Script<'_>, original: &[u8], seen: &[Vec<u8>]) -> Vec<u8> {
    let mut message = original.to_vec();
    let what = script.byte() % 9;
    let at = match message.len() {
        0 => 0,
        length => usize::from(script.word()) % length,
    };
    match what {
        1 => message[at] ^= script.byte(),
        2 => message.truncate(at),
        3 => drop(message.drain(..at)),
        4 => {
            message.splice(at..at, script.short().iter().copied());
        }
        5 => message.extend_from_within(at..),
        6 => message = script.long().to_vec(),
        7 => {
            if let Some(earlier) = seen.get(at % (seen.len() + 1)) {
                message.clone_from(earlier);
            }
        }
        8 => message.extend_from_slice(script.short()),
        _ => {}
    }
    message
}

fn profile(byte: u8) -> Profile {
    [Profile::Hop, Profile::E2e, Profile::E2ePq][usize::from(byte % 3)]
}

/// Two who would understand each other, with the same keys in every run.
fn sessions(
    profile: Profile,
    client_payload: &[u8],
    server_payload: &[u8],
) -> (Box<dyn Session>, Box<dyn Session>) {
    let mut client = ClientConfig::new(profile, StaticKey::from_bytes([4; 32]), b"fuzz/1");
    let mut server = ServerConfig::new(&[profile], StaticKey::from_bytes([5; 32]), b"fuzz/1");
    client.payload = client_payload.to_vec();
    server.payload = server_payload.to_vec();
    client.hooks.ephemeral = Some([6; 32]);
    server.hooks.ephemeral = Some([7; 32]);
    if profile.has_psk() {
        client.psk = Some((PSK_ID, Psk::new([2; 32])));
        server.psks = Some(Arc::new(OnePsk));
    } else {
        client.server_key = Some(server.key.public());
    }
    let params = |side| TransportParameters::read(side, &mut &[][..]).expect("all have defaults");
    let version = profile.version();
    (
        Arc::new(client)
            .start_session(version, "peer", &params(Side::Client))
            .expect("well configured"),
        Arc::new(server).start_session(version, &params(Side::Server)),
    )
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
