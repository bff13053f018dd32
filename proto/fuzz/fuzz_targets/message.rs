//! Messages on streams, in chunks of any size; signed records; introductions; what organisations sign.
//!
//! Input: what to read it as, the size of the chunks, then the bytes of the stream.
#![no_main]

use std::fmt::Debug;

use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use remora_proto::{
    id::NodeId,
    identity::{Introduction, MAX_DOMAIN_BYTES, MAX_FIELD_BYTES, Role},
    line::is_unsafe_in_line,
    org::{
        credential::{Credential, Device},
        desk::Desk,
        membership::Membership,
        policy::Policy,
        signed::{Issuer, PolicyHeader, Signed},
    },
    record::{MAX_RECORD_BYTES, Record},
    wire::message::{
        Inbox, InvalidMessage, MAX_CHAT_BYTES, MAX_CONTROL_BYTES, MAX_SIGNAL_BYTES, control,
        encode, org, record::SignedRecord, session,
    },
};
use remora_proto_fuzz::{RECORD_KEY, Script, UNIX_MS};

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let (what, chunk) = (script.byte() % 10, usize::from(script.byte()) + 1);
    let stream = script.0;
    match what {
        0 => cut::<control::NodeToRelay>(stream, chunk, MAX_CONTROL_BYTES),
        1 => cut::<control::RelayToNode>(stream, chunk, MAX_CONTROL_BYTES),
        2 => cut::<session::Control>(stream, chunk, MAX_CONTROL_BYTES),
        3 => cut::<session::Chat>(stream, chunk, MAX_CHAT_BYTES),
        4 => cut::<session::Rendezvous>(stream, chunk, MAX_SIGNAL_BYTES),
        5 => record(stream),
        6 => signed(stream),
        7 => introduction(stream),
        8 => document(stream),
        _ => policy(stream),
    }
});

/// How a stream is cut into messages does not depend on how it arrives.
fn cut<M: Message + Default + PartialEq + Debug>(stream: &[u8], chunk: usize, max: usize) {
    let whole = read::<M>(stream, stream.len().max(1), max);
    assert_eq!(read::<M>(stream, chunk, max), whole);

    // What was understood is understood again when it is said again; fields of tomorrow are dropped.
    let (messages, _) = whole;
    let again: Vec<u8> = messages.iter().flat_map(encode).collect();
    let longest = messages.iter().map(M::encoded_len).max().unwrap_or(0);
    assert_eq!(read::<M>(&again, chunk, longest), (messages, None));
}

fn read<M: Message + Default>(
    stream: &[u8],
    chunk: usize,
    max: usize,
) -> (Vec<M>, Option<InvalidMessage>) {
    let mut inbox = Inbox::new(max);
    let mut messages = Vec::new();
    for chunk in stream.chunks(chunk) {
        inbox.push(chunk);
        loop {
            match inbox.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

fn record(bytes: &[u8]) {
    for unix_ms in [0, UNIX_MS, u64::MAX] {
        if let Ok(record) = Record::decode_signed(bytes, unix_ms) {
            assert!(bytes.len() <= MAX_RECORD_BYTES && record.realm.len() <= 64);
            assert!(unix_ms < record.expiry_ms && record.not_before_ms < record.expiry_ms);
        }
    }
}

/// A stranger can sign whatever they like with a key of their own.
fn signed(record_bytes: &[u8]) {
    let signed = [b"remora record 1", record_bytes].concat();
    let signature = SigningKey::from_bytes(&RECORD_KEY).sign(&signed).to_bytes();
    let message = SignedRecord {
        record: Bytes::copy_from_slice(record_bytes),
        signature: Bytes::copy_from_slice(&signature),
    };
    record(&message.encode_to_vec());
}

/// Whatever it is, it is nobody's.
fn document(bytes: &[u8]) {
    assert!(Signed::<Credential>::open(bytes).is_err());
    assert!(Signed::<Device>::open(bytes).is_err());
    assert!(Signed::<Desk>::open(bytes).is_err());
    assert!(PolicyHeader::open(bytes).is_err());
    assert!(Membership::open(bytes, NodeId([1; 32])).is_err());
    let body = Bytes::copy_from_slice(bytes);
    let signature = Bytes::from_static(&[0; 64]);
    let signed = org::Signed { body, signature }.encode_to_vec();
    assert!(Signed::<Credential>::open(&signed).is_err());
    assert!(Signed::<Device>::open(&signed).is_err());
    assert!(Signed::<Desk>::open(&signed).is_err());
}

/// A stranger can sign whatever they like as an organisation of their own; what is understood is written the same way again.
fn policy(body: &[u8]) {
    let issuer = Issuer::from_bytes(&RECORD_KEY);
    let bytes = issuer.sign_policy_body(Bytes::copy_from_slice(body));
    if let Ok(policy) = Signed::<Policy>::open(&bytes) {
        assert_eq!(PolicyHeader::open(&bytes), Ok(policy.header));
        assert_eq!(policy.header.issuer, issuer.id());
        let again = Signed::new(Policy::clone(&policy), &issuer).expect("as it was");
        assert_eq!(*again, *policy);
    }
}

fn introduction(bytes: &[u8]) {
    for role in [Role::Helper, Role::Sharer] {
        let Ok(introduction) = Introduction::decode(bytes, role) else {
            continue;
        };
        assert_eq!(introduction.role, role);
        let profile = &introduction.profile;
        let fields = [
            &profile.full_name,
            &profile.job_title,
            &profile.company,
            &profile.domain,
        ];
        assert!(!profile.full_name.is_empty());
        assert!(profile.domain.len() <= MAX_DOMAIN_BYTES);
        assert!(
            fields[..3]
                .iter()
                .all(|field| field.len() <= MAX_FIELD_BYTES)
        );
        assert!(!fields.iter().any(|field| field.contains(is_unsafe_in_line)));
        assert_eq!(
            Introduction::decode(&introduction.encode(), role),
            Ok(introduction)
        );
    }
}
