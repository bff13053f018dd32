//! Vectors: an independent implementation's of our own protocols, and Noise's through our primitives.
//!
//! Those of RFC 9001 stand at the bottom of `noise/keys.rs` and `noise/schedule.rs`.
#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::{collections::HashMap, sync::Arc};

use bytes::BytesMut;
use quinn_proto::{
    ConnectionId, Side,
    crypto::{ClientConfig as _, Keys, ServerConfig as _, Session},
    transport_parameters::TransportParameters,
};
use remora_proto::noise::{
    ClientConfig, PeerInfo, Profile, Psk, PskId, PskStore, ServerConfig, StaticKey, keys,
    resolver::Resolver, schedule,
};

// --- vectors/vectors.txt, made by vectors/generate.py ---

struct Vectors(HashMap<String, Vec<u8>>);

impl Vectors {
    fn load() -> Self {
        let text = include_str!("vectors/vectors.txt");
        let entry = |line: &str| {
            let (name, value) = line.split_once(" = ").unwrap();
            (name.to_owned(), hex::decode(value).unwrap())
        };
        Self(text.lines().map(entry).collect())
    }

    fn get(&self, profile: Profile, name: &str) -> &[u8] {
        let profile = if profile == Profile::Hop {
            "hop"
        } else {
            "e2e"
        };
        &self.0[&format!("{profile}.{name}")]
    }
}

struct OnePsk;

impl PskStore for OnePsk {
    fn get(&self, id: &PskId) -> Option<Psk> {
        (*id == [0x77; 16]).then(|| Psk::new([0x99; 32]))
    }
    fn burn(&self, _: &PskId) {}
}

fn write(session: &mut dyn Session) -> (Vec<u8>, Option<Keys>) {
    let mut out = Vec::new();
    let keys = session.write_handshake(&mut out);
    (out, keys)
}

/// Protects a packet the way quinn does.
fn protect(keys: &Keys, number: u64, header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut packet = [header, payload, &[0; 16]].concat();
    keys.packet.local.encrypt(number, &mut packet, header.len());
    keys.header.local.encrypt(header.len() - 2, &mut packet);
    packet
}

fn matches_the_independent_implementation(profile: Profile) {
    let vectors = Vectors::load();
    let expect = |name: &str| vectors.get(profile, name).to_vec();
    let version = profile.version();
    let params = |side| TransportParameters::read(side, &mut &[][..]).unwrap();

    let mut client = ClientConfig::new(profile, StaticKey::from_bytes([1; 32]), b"mesh/1");
    client.hooks.ephemeral = Some([2; 32]);
    client.payload = b"client payload".to_vec();
    client.context = b"vector context".to_vec();
    let mut server = ServerConfig::new(&[profile], StaticKey::from_bytes([3; 32]), b"mesh/1");
    server.hooks.ephemeral = Some([4; 32]);
    server.payload = b"server payload".to_vec();
    server.context = b"vector context".to_vec();
    if profile.has_psk() {
        client.psk = Some(([0x77; 16], Psk::new([0x99; 32])));
        server.psks = Some(Arc::new(OnePsk));
    } else {
        client.server_key = Some(server.key.public());
    }
    let server = Arc::new(server);
    let mut client = Arc::new(client)
        .start_session(version, "", &params(Side::Client))
        .unwrap();
    let mut session = server.clone().start_session(version, &params(Side::Server));

    let (m1, none) = write(&mut *client);
    assert!(none.is_none());
    assert_eq!(m1, expect("m1"));
    assert!(session.read_handshake(&m1).unwrap());
    let (m2, server_handshake) = write(&mut *session);
    assert_eq!(m2, expect("m2"));
    let (finished, none) = write(&mut *session);
    assert!(none.is_none());
    assert_eq!(finished, expect("finished"));
    assert!(client.read_handshake(&m2).unwrap());
    let (empty, client_handshake) = write(&mut *client);
    assert!(empty.is_empty());
    assert!(!client.read_handshake(&finished).unwrap());
    let (m3, client_app) = write(&mut *client);
    assert_eq!(m3, expect("m3"));
    assert!(!session.read_handshake(&m3).unwrap());
    let (empty, server_app) = write(&mut *session);
    assert!(empty.is_empty());

    let peer: PeerInfo = *client.peer_identity().unwrap().downcast().unwrap();
    assert_eq!(peer.handshake_hash.to_vec(), expect("hash"));
    for side in [&client, &session] {
        let mut out = [0; 48];
        side.export_keying_material(&mut out, b"label", b"context")
            .unwrap();
        assert_eq!(out.to_vec(), expect("export"));
    }

    let long = |number: u8| {
        [
            &[0xe1][..],
            &version.to_be_bytes(),
            &[0, 0, 0x40, 0x16, 0, number],
        ]
        .concat()
    };
    let (client_hs, server_hs) = (client_handshake.unwrap(), server_handshake.unwrap());
    assert_eq!(
        protect(&client_hs, 2, &long(2), b"handshake payload"),
        expect("client_handshake_packet")
    );
    assert_eq!(
        protect(&server_hs, 3, &long(3), b"handshake payload"),
        expect("server_handshake_packet")
    );
    let short = |number: u8| [&b"Aconnection"[..], &[2, number]].concat();
    let (client_app, server_app) = (client_app.unwrap(), server_app.unwrap());
    assert_eq!(
        protect(&client_app, 654, &short(0x8e), b"one rtt payload"),
        expect("client_packet")
    );
    let mut packet = protect(&server_app, 655, &short(0x8f), b"one rtt payload");
    assert_eq!(packet, expect("server_packet"));
    // And the receiving direction.
    client_app.header.remote.decrypt(11, &mut packet);
    assert_eq!(&packet[..13], &short(0x8f)[..]);
    let mut payload = BytesMut::from(&packet[13..]);
    client_app
        .packet
        .remote
        .decrypt(655, &packet[..13], &mut payload)
        .unwrap();
    assert_eq!(&payload[..], b"one rtt payload");
    assert!(
        client_app
            .packet
            .remote
            .decrypt(656, &packet[..13], &mut payload)
            .is_err()
    );

    let updated = client.next_1rtt_keys().unwrap();
    let mut packet = [&b"header"[..], b"updated payload", &[0; 16]].concat();
    updated.local.encrypt(656, &mut packet, 6);
    assert_eq!(packet[6..].to_vec(), expect("client_packet_updated"));

    let dcid = hex::decode("8394c8f03e515708").unwrap();
    let initial = schedule::initial(version, &dcid);
    assert_eq!(initial.client.to_vec(), expect("client_initial_secret"));
    assert_eq!(initial.server.to_vec(), expect("server_initial_secret"));
    let retry = [
        &[0xf0][..],
        &version.to_be_bytes(),
        &[0, 8],
        &dcid,
        b"token",
    ]
    .concat();
    let tag = keys::retry_tag(version, &dcid, &retry);
    assert_eq!(tag.to_vec(), expect("retry_tag"));
    let payload = [&b"token"[..], &tag].concat();
    let header = &retry[..retry.len() - 5];
    assert!(session.is_valid_retry(&ConnectionId::new(&dcid), header, &payload));
    assert!(!session.is_valid_retry(&ConnectionId::new(&dcid[1..]), header, &payload));
    assert!(!session.is_valid_retry(&ConnectionId::new(&dcid), header, b"short"));
    assert!(
        server
            .initial_keys(version, &ConnectionId::new(&dcid))
            .is_ok()
    );
    assert!(server.initial_keys(1, &ConnectionId::new(&dcid)).is_err());
}

#[test]
fn hop_matches_the_independent_implementation() {
    matches_the_independent_implementation(Profile::Hop);
}

#[test]
fn e2e_matches_the_independent_implementation() {
    matches_the_independent_implementation(Profile::E2e);
}

// --- vectors/noise.txt: Noise's own ---

/// One vector: fields by name, those that repeat in order.
struct NoiseVector<'a>(Vec<(&'a str, &'a str)>);

impl<'a> NoiseVector<'a> {
    fn all(text: &'a str) -> Vec<Self> {
        let vector = |block: &'a str| {
            Self(
                block
                    .lines()
                    .filter(|line| !line.starts_with('#'))
                    .map(|line| line.split_once(" = ").unwrap())
                    .collect(),
            )
        };
        text.split("\n\n")
            .map(vector)
            .filter(|vector| !vector.0.is_empty())
            .collect()
    }

    fn texts(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(field, _)| *field == name)
            .map(|(_, value)| *value)
    }

    fn text(&self, name: &str) -> &'a str {
        self.texts(name).next().unwrap_or_default()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        hex::decode(self.text(name)).unwrap()
    }

    fn keys(&self, name: &str) -> Vec<[u8; 32]> {
        self.texts(name)
            .map(|key| hex::decode(key).unwrap().try_into().unwrap())
            .collect()
    }

    /// A handshake of one role under our [`Resolver`].
    fn handshake(&self, role: &str, initiator: bool) -> snow::HandshakeState {
        let field = |name: &str| self.bytes(&format!("{role}_{name}"));
        let (prologue, secret, ephemeral, remote) = (
            field("prologue"),
            field("static"),
            field("ephemeral"),
            field("remote_static"),
        );
        let psks = self.keys(&format!("{role}_psks"));
        let protocol = self.text("protocol");
        let key = StaticKey::from_bytes(secret.clone().try_into().unwrap());
        let mut builder =
            snow::Builder::with_resolver(protocol.parse().unwrap(), Box::new(Resolver::new(&key)))
                .local_private_key(&secret)
                .unwrap()
                .prologue(&prologue)
                .unwrap()
                .fixed_ephemeral_key_for_testing_only(&ephemeral);
        if !remote.is_empty() {
            builder = builder.remote_public_key(&remote).unwrap();
        }
        // `psk` in the name, then its place: the vector's keys are in the order of their places.
        let places = protocol
            .split("psk")
            .skip(1)
            .map(|rest| rest[..1].parse().unwrap());
        for (place, psk) in places.zip(&psks) {
            builder = builder.psk(place, psk).unwrap();
        }
        if initiator {
            builder.build_initiator().unwrap()
        } else {
            builder.build_responder().unwrap()
        }
    }

    fn check(&self) {
        let (mut initiator, mut responder) =
            (self.handshake("init", true), self.handshake("resp", false));
        let messages: Vec<(Vec<u8>, Vec<u8>)> = self
            .texts("message")
            .map(|message| message.split_once(' ').unwrap())
            .map(|(payload, ciphertext)| {
                (
                    hex::decode(payload).unwrap(),
                    hex::decode(ciphertext).unwrap(),
                )
            })
            .collect();
        let (handshake, transport) = messages.split_at(3);
        let mut from_initiator = true;
        for (payload, ciphertext) in handshake {
            let (from, to) = if from_initiator {
                (&mut initiator, &mut responder)
            } else {
                (&mut responder, &mut initiator)
            };
            let mut out = vec![0; 65535];
            let length = from.write_message(payload, &mut out).unwrap();
            assert_eq!(out[..length], ciphertext[..], "{}", self.text("protocol"));
            let length = to.read_message(ciphertext, &mut out).unwrap();
            assert_eq!(out[..length], payload[..]);
            from_initiator = !from_initiator;
        }
        let hash = self.bytes("handshake_hash");
        if !hash.is_empty() {
            assert_eq!(initiator.get_handshake_hash(), hash);
            assert_eq!(responder.get_handshake_hash(), hash);
        }
        let (mut initiator, mut responder) = (
            initiator.into_transport_mode().unwrap(),
            responder.into_transport_mode().unwrap(),
        );
        for (payload, ciphertext) in transport {
            let (from, to) = if from_initiator {
                (&mut initiator, &mut responder)
            } else {
                (&mut responder, &mut initiator)
            };
            let mut out = vec![0; 65535];
            let length = from.write_message(payload, &mut out).unwrap();
            assert_eq!(out[..length], ciphertext[..], "{}", self.text("protocol"));
            let length = to.read_message(ciphertext, &mut out).unwrap();
            assert_eq!(out[..length], payload[..]);
            from_initiator = !from_initiator;
        }
    }
}

#[test]
fn noise_vectors_hold_with_our_primitives() {
    let vectors = NoiseVector::all(include_str!("vectors/noise.txt"));
    assert_eq!(vectors.len(), 6);
    for vector in vectors {
        vector.check();
    }
}
