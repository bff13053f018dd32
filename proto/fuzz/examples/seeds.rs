//! Writes the seeds of the corpus: one meaningful input per thing a target can do.
//!
//! `cargo run --manifest-path proto/fuzz/Cargo.toml --example seeds`

use std::{fs, path::Path};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use prost::Message;
use remora_proto::{
    id::{RelayAddr, RelayId, SessionId, Side},
    identity::{Introduction, Profile, Role},
    noise::payload::Payload,
    park::{Datagram, Grant, Saying},
    path::candidate::{Candidate, Kind, Named},
    random::Random,
    record::{EPOCH_MS, HostRole, MAX_LIFETIME_MS, Record, RecordKey, Waiting},
    sas::Nonce,
    wire::{
        frame::Header,
        message::{
            control::{self, node_to_relay, relay_to_node},
            device, encode,
            record::SignedRecord,
            session::{self, control::Body, rendezvous},
        },
        reflect::{self, Load},
    },
};
use remora_proto_fuzz::{RECORD_KEY, UNIX_MS};

fn main() -> std::io::Result<()> {
    frame()?;
    message()?;
    code()?;
    handshake()?;
    exchange()?;
    session()?;
    invitation()?;
    beside()
}

fn seed(target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(name), bytes)
}

fn frame() -> std::io::Result<()> {
    for (name, side) in [("host", Side::Host), ("joiner", Side::Joiner)] {
        let header = Header {
            side,
            session: SessionId(0x0102_0304_0506_0708),
        }
        .encode();
        seed(
            "frame",
            name,
            &[&header[..], b"\x40 an inner packet"].concat(),
        )?;
        seed("frame", &format!("{name}-empty"), &header)?;
    }
    let request = reflect::request(42);
    seed("frame", "reflect-request", &request)?;
    for (name, source) in [("v4", "192.0.2.1:5000"), ("v6", "[2001:db8::1]:6000")] {
        let source = source.parse().expect("an address");
        let answer = reflect::respond(&request, source, Load::default()).expect("our own request");
        seed("frame", &format!("reflect-response-{name}"), &answer)?;
    }
    let grant = Grant::export(|out, _, _| {
        out.fill(7);
        Ok::<_, std::convert::Infallible>(())
    });
    let grant = grant.expect("it exports");
    for (name, saying) in [
        ("kept", Saying::Kept),
        ("wake", Saying::Wake),
        ("gone", Saying::Gone),
    ] {
        seed("frame", &format!("park-{name}"), &grant.seal(saying, 1))?;
    }
    let keep = Datagram::decode(&grant.seal(Saying::Keep, 1)).expect("our own");
    seed("frame", "park-unknown", &keep.unknown())?;
    seed(
        "frame",
        "quic",
        &[0xc0, b'M', b'N', b'H', b'1', 8, 1, 2, 3, 4, 5, 6, 7, 8, 0],
    )
}

/// Key that signs records in the target.
fn signed_record() -> Bytes {
    let key = SigningKey::from_bytes(&RECORD_KEY);
    Record {
        realm: "default".into(),
        key: RecordKey::of_locator(b"406", "default", UNIX_MS / EPOCH_MS),
        publisher: key.verifying_key().to_bytes(),
        subject: Waiting {
            nonce: [5; 16],
            role: HostRole::Helper,
        },
        not_before_ms: UNIX_MS,
        expiry_ms: UNIX_MS + MAX_LIFETIME_MS,
        sequence: 1,
    }
    .encode_signed(&key)
}

fn message() -> std::io::Result<()> {
    to_relay()?;
    from_relay()?;
    let controls: Vec<u8> = controls()
        .into_iter()
        .flat_map(|body| encode(&session::Control { body: Some(body) }))
        .collect();
    seed("message", "control-all", &[&[2, 6], &controls[..]].concat())?;
    let chat = ["hello", "نعم، كانت تعمل أمس", "明白了 👩‍💻", ""]
        .into_iter()
        .zip(1..);
    let chat: Vec<u8> = chat
        .flat_map(|(text, id)| {
            encode(&session::Chat {
                id,
                text: text.into(),
            })
        })
        .collect();
    seed("message", "chat", &[&[3, 0], &chat[..]].concat())?;
    seed("message", "chat-too-long", &[3, 0, 0xff, 0xff, 0x7f])?;
    seed(
        "message",
        "prefix-without-end",
        &[&[3, 200][..], &[0x80; 12]].concat(),
    )?;
    let bytes = |byte| Bytes::from(vec![byte; 32]);
    let rendezvous = [
        rendezvous::Body::Share(session::Share {
            point: bytes(1),
            nonce: Bytes::from(vec![2; 16]),
        }),
        rendezvous::Body::ShareReply(session::ShareReply { point: bytes(3) }),
        rendezvous::Body::Confirmation(session::Confirmation { tag: bytes(4) }),
        rendezvous::Body::ConfirmationReply(session::Confirmation { tag: bytes(5) }),
        rendezvous::Body::Rejected(session::Rejected {
            reason: 1,
            tries_left: 2,
        }),
    ];
    let rendezvous: Vec<u8> = rendezvous
        .into_iter()
        .flat_map(|body| encode(&session::Rendezvous { body: Some(body) }))
        .collect();
    seed(
        "message",
        "rendezvous-all",
        &[&[4, 30], &rendezvous[..]].concat(),
    )?;

    let signed = signed_record();
    let inner = SignedRecord::decode(signed.clone())
        .expect("our own")
        .record;
    seed("message", "record", &[&[5, 0], &signed[..]].concat())?;
    seed(
        "message",
        "record-signed-by-us",
        &[&[6, 0], &inner[..]].concat(),
    )?;
    for role in [Role::Helper, Role::Sharer] {
        let profile =
            Profile::new("Sam Okafor", "会計", "Ünïcode GmbH", "contoso.com").expect("valid");
        let commitment = Nonce::generate(&mut Random::seeded(1)).commitment();
        let introduction = Introduction {
            papers: None,
            role,
            profile,
            commitment,
            named: Named {
                candidates: vec![Candidate {
                    kind: Kind::ServerReflexive,
                    address: ([203, 0, 113, 7], 40_000).into(),
                }],
                ..Named::default()
            },
        }
        .encode();
        seed(
            "message",
            &format!("introduction-{role:?}").to_lowercase(),
            &[&[7, 0], &introduction[..]].concat(),
        )?;
    }
    Ok(())
}

fn to_relay() -> std::io::Result<()> {
    use node_to_relay::Body;
    let key = || Bytes::from(vec![7; 32]);
    let payload = || Bytes::from_static(b"payload");
    let bodies = [
        Body::Hello(control::Hello {
            protocol: 1,
            agent: "remora/0.1.0".into(),
            ticket: 0,
        }),
        Body::Publish(control::Publish {
            record: signed_record(),
        }),
        Body::Withdraw(control::Withdraw {
            locator_key: key(),
            why: control::Gone::Burned.into(),
        }),
        Body::Lookup(control::Lookup {
            locator_keys: vec![key(), key(), key()],
        }),
        Body::Join(control::Join {
            locator_key: key(),
            payload: payload(),
        }),
        Body::Signal(control::Signal {
            exchange: 7,
            payload: payload(),
        }),
        Body::Admit(control::Admit {
            exchange: 7,
            payload: payload(),
        }),
        Body::Dismiss(control::Dismiss {
            exchange: 7,
            payload: payload(),
            wrong_secret: true,
        }),
        Body::Release(control::Release { session: 1 << 63 }),
        Body::Here(control::Here {}),
        Body::Park(control::Park {}),
        Body::Hello(control::Hello {
            protocol: 1,
            agent: String::new(),
            ticket: u64::MAX,
        }),
    ];
    let stream: Vec<u8> = (1..)
        .zip(bodies)
        .flat_map(|(request, body)| {
            encode(&control::NodeToRelay {
                request,
                body: Some(body),
            })
        })
        .collect();
    seed("message", "to-relay-all", &[&[0, 99], &stream[..]].concat())?;
    seed("message", "to-relay-empty", &[0, 0, 0])
}

fn from_relay() -> std::io::Result<()> {
    use relay_to_node::Body;
    let payload = || Bytes::from_static(b"payload");
    let bodies = [
        Body::Welcome(control::Welcome {
            protocol: 1,
            minimum_protocol: 1,
            unix_ms: UNIX_MS,
            observed_address: "192.0.2.1:5000".into(),
            realm: "default".into(),
            relay_name: "fra-1".into(),
            observers: vec![":3478".into()],
            is_draining: false,
            load: 3,
            others: Vec::new(),
            own_address: String::new(),
        }),
        Body::Refused(control::Refused {
            reason: 9,
            text: "nobody waits there".into(),
            retry_after_ms: 500,
        }),
        Body::Done(control::Done {}),
        Body::Found(control::Found {
            record: signed_record(),
        }),
        Body::Started(control::Started { exchange: 7 }),
        Body::Offer(control::Offer {
            exchange: 7,
            locator_key: Bytes::from(vec![7; 32]),
            payload: payload(),
        }),
        Body::Signal(control::Signal {
            exchange: 7,
            payload: payload(),
        }),
        Body::Dismissed(control::Dismiss {
            exchange: 7,
            payload: payload(),
            wrong_secret: false,
        }),
        Body::Allocated(control::Allocated {
            exchange: 7,
            payload: payload(),
            session: 1 << 63,
            side: 1,
            rate_bytes_per_s: 1 << 20,
            rejoin: Bytes::new(),
        }),
        Body::Released(control::Released {
            session: 1 << 63,
            cause: 2,
        }),
        Body::Draining(control::Draining {
            deadline_ms: 30_000,
        }),
    ];
    let stream: Vec<u8> = (0..)
        .zip(bodies)
        .flat_map(|(request, body)| {
            encode(&control::RelayToNode {
                request,
                body: Some(body),
            })
        })
        .collect();
    seed(
        "message",
        "from-relay-all",
        &[&[1, 0], &stream[..]].concat(),
    )
}

fn controls() -> Vec<Body> {
    let ended = session::Ended {
        reason: session::EndReason::HelperLeft.into(),
        chat_sent: 3,
        why: String::new(),
    };
    vec![
        Body::NonceReveal(session::NonceReveal {
            nonce: Bytes::from(vec![1; 16]),
        }),
        Body::SasChecked(session::SasChecked { same: true }),
        Body::ModeRequest(session::ModeRequest { mode: 2, number: 1 }),
        Body::ConsentPrompted(session::ConsentPrompted {
            deadline_ms: 300_000,
        }),
        Body::ConsentAnswer(session::ConsentAnswer {
            allow: true,
            mode: 1,
            method: 1,
            number: 1,
        }),
        Body::ModeDropped(session::ModeDropped {}),
        Body::Ended(ended),
    ]
}

fn code() -> std::io::Result<()> {
    let relay = RelayAddr {
        host_port: "relay.example:4433".into(),
        id: RelayId([7; 32]),
        tls: None,
    };
    let texts = [
        ("plain", "4060-r0gx".to_owned()),
        ("shouted", " 40 60 - R0 GX \n".to_owned()),
        ("look-alikes", "4O6o-ilLI".to_owned()),
        ("full-width", "４０６０－Ｒ０ＧＸ".to_owned()),
        ("letter-u", "4060-r0gu".to_owned()),
        ("short", "4060-r0g".to_owned()),
        ("symbol", "4060/r0gß".to_owned()),
        ("marks", "\u{200e}4060\u{2013}r0gx\u{200f}".to_owned()),
        ("relay", relay.to_string()),
        ("relay-v6", format!("[::1]:4433/{}", relay.id)),
        ("relay-without-key", "relay.example:4433".to_owned()),
        ("node", relay.id.to_string()),
        ("node-cut", relay.id.to_string()[..51].to_owned()),
    ];
    texts
        .iter()
        .try_for_each(|(name, text)| seed("code", name, text.as_bytes()))
}

fn handshake() -> std::io::Result<()> {
    let payload = Payload {
        transport_parameters: Some(vec![1, 2, 0x40, 0x64]),
        alpn: vec![b"remora-relay/1".to_vec(), b"b".to_vec()],
        app: b"app".to_vec(),
        kem: Some(vec![9; 40]),
    };
    let payload = payload.encode().expect("short");
    seed("handshake", "payload", &[&[0], &payload[..]].concat())?;
    seed(
        "handshake",
        "payload-unknown-tag",
        &[&[0], &payload[..], &[0x7f, 0, 1, 0]].concat(),
    )?;
    seed(
        "handshake",
        "reassemble",
        &[
            1, 0, 3, 1, 0, 0, 4, 2, b'a', b'b', 7, 1, 0, 0, 2, b'c', b'd', 1,
        ],
    )?;
    // The edits stand for M1, M2, Finished and M3: what, where, with what.
    const NONE: &[u8] = &[0, 0, 0];
    for (profile, name) in ["hop", "e2e", "e2epq"].into_iter().enumerate() {
        let profile = u8::try_from(profile).expect("three");
        let garbage = [
            &[2, profile][..],
            &[1, 0, 48],
            &[9; 48],
            &[2, 0, 64],
            &[8; 64],
            &[0, 0, 2, 1, 2],
        ]
        .concat();
        seed("handshake", &format!("garbage-{name}"), &garbage)?;
        let start = [&[3, profile, 0xff, 0xff, 3], &b"one"[..], &[3], b"two"].concat();
        let edits: [(&str, &[&[u8]]); 9] = [
            ("honest", &[]),
            ("flip-m1", &[&[1, 0, 9, 1]]),
            ("cut-m1", &[&[2, 0, 60]]),
            ("flip-m2", &[NONE, &[1, 0, 30, 0x80]]),
            ("repeat-m1-as-m2", &[NONE, &[7, 0, 0]]),
            ("flip-finished", &[NONE, NONE, &[1, 0, 5, 1]]),
            ("insert-in-m3", &[NONE, NONE, NONE, &[4, 0, 20, 2, 1, 2]]),
            ("more-after-m3", &[NONE, NONE, NONE, &[8, 0, 0, 2, 4, 0]]),
            ("own-m2", &[NONE, &[6, 0, 0, 0, 6, 2, 0, 0, 2, 1, 1]]),
        ];
        for (what, edits) in edits {
            seed(
                "handshake",
                &format!("{what}-{name}"),
                &[&start[..], &edits.concat()].concat(),
            )?;
        }
        seed(
            "handshake",
            &format!("honest-in-bytes-{name}"),
            &[3, profile, 0, 0, 0, 0],
        )?;
    }
    Ok(())
}

/// Steps of the relay: what to do, in which exchange, with which of the things heard (0 is the record).
fn exchange() -> std::io::Result<()> {
    const GUESS: &[u8] = &[4, 7, 0, 5, 7, 0, 7, 1, 6, 7, 2, 1, 7, 3];
    let runs: [(&str, u8, &[u8]); 9] = [
        ("joined", 1, &[7, 7, 4]),
        ("wrong-code", 0, &[8, 7, 4]),
        (
            "three-wrong",
            0,
            &[0, 1, 1, 1, 1, 3, 0, 2, 1, 1, 2, 3, 0, 3, 1],
        ),
        ("replayed-to-host", 1, &[0, 3, 1, 1, 3, 3]),
        ("forged-admit", 1, &[7, 7, 0x64, 0, 9, 1]),
        ("allocated-early", 1, &[]),
        ("joiner-gone", 1, &[2, 7, 8, 7, 31, 0]),
        ("expired", 1, &[12, 0, 12, 0, 0, 1, 1]),
        ("cancelled", 1, &[3, 0, 9, 0, 13]),
    ];
    for (name, right, then) in runs {
        let begin = match name {
            "allocated-early" => &[4, 7, 0, 5, 7, 7, 7, 31, 0][..],
            "joiner-gone" => &GUESS[..8],
            "expired" | "cancelled" => &GUESS[..3],
            _ => GUESS,
        };
        seed("exchange", name, &[&[right], begin, then].concat())?;
    }
    Ok(())
}

fn session() -> std::io::Result<()> {
    let said = |body: Body| {
        let bytes = session::Control { body: Some(body) }.encode_to_vec();
        [&[9, u8::try_from(bytes.len()).expect("short")], &bytes[..]].concat()
    };
    let [_, checked, request, prompted, answer, dropped, ended] =
        <[Body; 7]>::try_from(controls()).expect("seven").map(said);
    let control = said(Body::ConsentAnswer(session::ConsentAnswer {
        allow: true,
        mode: 2,
        method: 1,
        number: 1,
    }));
    let refused = said(Body::ConsentAnswer(session::ConsentAnswer {
        allow: false,
        mode: 1,
        method: 1,
        number: 1,
    }));
    let sharer_left = said(Body::Ended(session::Ended {
        reason: session::EndReason::SharerLeft.into(),
        chat_sent: 3,
        why: String::new(),
    }));
    // Helper and host, trusted and asking; sharer and joiner, trusted and asked.
    let helper = [&[1, 1, 7, 4, 1][..], &checked, &[0, 1], &prompted].concat();
    let sharer = [&[0, 0, 7][..], &request].concat();
    const TALK: &[u8] = &[8, 0, 0, 5, 5, 0, 3, 8, 0, 0, 0];
    let runs: [(&str, &[&[u8]]); 14] = [
        ("helper-views-and-leaves", &[&helper, &answer, TALK, &[6]]),
        (
            "helper-gets-control",
            &[&helper, &control, TALK, &dropped, &sharer_left],
        ),
        (
            "helper-upgrades",
            &[&helper, &answer, &[0, 1], &prompted, &control, &[3, 6]],
        ),
        (
            "helper-upgrade-refused",
            &[
                &helper,
                &answer,
                &[0, 1],
                &refused,
                &[0, 1, 13],
                &sharer_left,
            ],
        ),
        (
            "helper-sees-the-end-early",
            &[
                &helper,
                &answer,
                &sharer_left,
                &[8, 0, 0, 1, 8, 0, 0, 1, 8, 0, 0, 1],
            ],
        ),
        (
            "helper-flush-times-out",
            &[&helper, &answer, &sharer_left, &[13]],
        ),
        ("helper-waits-in-vain", &[&helper, &[13, 13]]),
        (
            "sharer-allows-view",
            &[&sharer, &[1, 0], TALK, &request, &[1, 1, 3, 6]],
        ),
        (
            "sharer-allows-control",
            &[&sharer, &[1, 1], TALK, &dropped, &ended, &[8, 0, 0, 1, 11]],
        ),
        ("sharer-declines", &[&sharer, &[2]]),
        ("sharer-is-silent", &[&sharer, &[13]]),
        ("words-differ", &[&sharer, &[4, 0]]),
        (
            "wrong-nonce",
            &[
                &[0, 1, 9, 20],
                &session::Control {
                    body: controls().into_iter().next(),
                }
                .encode_to_vec(),
            ],
        ),
        ("connection-lost", &[&sharer, &[1, 0, 11, 6]]),
    ];
    runs.iter()
        .try_for_each(|(name, steps)| seed("session", name, &steps.concat()))
}

fn invitation() -> std::io::Result<()> {
    let profile = session::Profile {
        full_name: "Sam Okafor".into(),
        ..Default::default()
    };
    let id = Bytes::from_static(&[7; 16]);
    let offer = device::Offer {
        invitation: id.clone(),
        code: "4060-r0gx".into(),
        kind: device::Kind::Attended.into(),
        mode: session::Mode::ControlMode.into(),
        reason: "TICKET-123".into(),
        profile: Some(profile.clone()),
        credential: Bytes::new(),
        within_s: 300,
    };
    let body = Some(device::from_helper::Body::Offer(offer));
    let word = device::FromHelper { body }.encode_to_vec();
    seed("invitation", "offer", &[&[0][..], &word].concat())?;
    let card = device::Card {
        profile: Some(profile),
        ..Default::default()
    };
    let delivered = device::Delivered {
        invitation: id.clone(),
        agents: 2,
    };
    let refused = device::Refused {
        invitation: id,
        reason: device::RefusedReason::LeaseHeld.into(),
        detail: "Jo".into(),
    };
    for (name, body) in [
        ("card", device::from_device::Body::Card(card)),
        ("delivered", device::from_device::Body::Delivered(delivered)),
        ("refused", device::from_device::Body::Refused(refused)),
    ] {
        let word = device::FromDevice { body: Some(body) }.encode_to_vec();
        seed("invitation", name, &[&[1][..], &word].concat())?;
    }
    // Three messages of the handshake; then words of a letter each, how long, and what becomes of their pieces.
    seed(
        "invitation",
        "honest",
        &[2, 0, 0, 0, 9, 0, 30, 0, 9, 4, 0, 0, 0, 0],
    )?;
    seed("invitation", "changed-answer", &[2, 0, 2, 0, 40, 1, 0])?;
    seed("invitation", "own-last", &[2, 0, 0, 3, 0, 3, 1, 2, 3])?;
    seed(
        "invitation",
        "changed-piece",
        &[2, 0, 0, 0, 9, 2, 0, 2, 0, 4, 1],
    )
}

fn beside() -> std::io::Result<()> {
    // Whose side; then a number, a word, what happens, and with what.
    let all = [0, 0, 0, 0, 0xff];
    let copied = [0, 0, 0, 1, 2, b'h', b'i'];
    let wanted = [1, 0, 0, 13, 1];
    seed(
        "beside",
        "copied",
        &[&[1][..], &all, &copied, &wanted].concat(),
    )?;
    let offered = [3, 0, 2, 13, 0];
    let came = [3, 0, 0, 4, 2, b'h', b'i'];
    seed(
        "beside",
        "inserted",
        &[&[0][..], &all, &offered, &[0, 0, 0, 2], &came].concat(),
    )?;
    let file = [1, 0, 9, 5, 3, b'a', b'.', b'b', 2];
    let accepted = [1, 0, 0, 13, 3];
    let received = [1, 0, 0, 13, 4, 0, 1];
    seed(
        "beside",
        "sent",
        &[&[1][..], &all, &file, &accepted, &received].concat(),
    )?;
    let offer = [1, 0, 9, 13, 2, 6, b'.', b'.', b'/', b'c', b'o', b'n'];
    let accept = [1, 0, 0, 6, 1, 0, 0, 8, 1, 0, 0, 9, 1, 0, 0, 12, 1, 1];
    seed(
        "beside",
        "received",
        &[&[0][..], &all, &offer, &accept].concat(),
    )
}
