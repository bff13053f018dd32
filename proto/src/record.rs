//! What a node publishes so that others find it (`NOISE-QUIC` part 4.4): public, signed, short-lived.
//!
//! | record of | is kept under | signed by |
//! |---|---|---|
//! | a host that waits for a joiner | a hash of the code's locator | a key made for this code alone |
//! | a device that is there | a hash of the device's key | the device's key |
//!
//! A relay stores a record only when `Record::decode_signed` accepts it; whoever looks for it believes it only then, too. Nothing in
//! a host's says who it is, and nothing in it depends on the code's secret; a device's says how many people's agents it has, and
//! not whose.

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use prost::Message;

use crate::{
    id::{DeviceId, RelayId},
    wire::message::record as schema,
};

/// Symbols of a code that locate it; the rest is secret.
pub const LOCATOR_LEN: usize = 3;
/// Locators live under a key that moves every epoch, so nobody can settle next to one.
pub const EPOCH_MS: u64 = 600_000;
/// Longest life of a record, hence of a code, and of what a device has said once.
pub const MAX_LIFETIME_MS: u64 = 600_000;
/// Largest encoded [`SignedRecord`](schema::SignedRecord).
pub const MAX_RECORD_BYTES: usize = 512;
/// How far apart two honest clocks may be.
pub const CLOCK_TOLERANCE_MS: u64 = 120_000;
/// Most agents of one device: people at it at once.
pub const MAX_AGENTS: u32 = 1000;

const VERSION: u32 = 1;
const SIGNATURE_CONTEXT: &[u8] = b"remora record 1";

/// Where a record is kept: a hash of what it is found by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey(pub [u8; 32]);

impl RecordKey {
    /// Of the host with `locator` in `realm` and `epoch` (number of [`EPOCH_MS`] since 1970).
    pub fn of_locator(locator: &[u8; LOCATOR_LEN], realm: &str, epoch: u64) -> Self {
        Self::hash(b"mnq1 locator", realm, &[&epoch.to_be_bytes(), locator])
    }

    /// Of `device` in `realm`. Nobody else can settle there: it is the hash of the key that the record is signed with.
    pub fn of_device(device: DeviceId, realm: &str) -> Self {
        Self::hash(b"remora device 1", realm, &[&device.0])
    }

    /// `domain` is no beginning of another one.
    fn hash(domain: &[u8], realm: &str, parts: &[&[u8]]) -> Self {
        let mut hash = Context::new(&SHA256);
        hash.update(domain);
        hash.update(&(realm.len() as u64).to_be_bytes());
        hash.update(realm.as_bytes());
        for part in parts {
            hash.update(part);
        }
        Self(hash.finish().as_ref().try_into().expect("SHA-256"))
    }

    /// From a message's field.
    ///
    /// # Errors
    /// [`InvalidRecord::Field`] unless it has 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidRecord> {
        Ok(Self(array(bytes, "key")?))
    }
}

impl std::fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecordKey({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// Who publishes: the code's owner may be either person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostRole {
    /// Gives help and shows the code.
    Helper,
    /// Gets help and shows the code.
    Sharer,
}

/// A host waits for a joiner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The host's half of the PAKE's session id.
    pub nonce: [u8; 16],
    /// Its role.
    pub role: HostRole,
}

/// A device is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// At which relay: no other can pass it off as its own.
    pub relay: RelayId,
    /// How many people at it can be asked, 1 to [`MAX_AGENTS`].
    pub agents: u32,
}

/// What kind of record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A host's.
    Host,
    /// A device's.
    Device,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Of a host.
    Waiting(Waiting),
    /// Of a device.
    Present(Present),
}

impl From<Waiting> for Subject {
    fn from(waiting: Waiting) -> Self {
        Self::Waiting(waiting)
    }
}

impl From<Present> for Subject {
    fn from(present: Present) -> Self {
        Self::Present(present)
    }
}

/// A record whose signature and limits have been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<S = Subject> {
    /// Name space of what it is found by.
    pub realm: String,
    /// Where it is kept.
    pub key: RecordKey,
    /// Ed25519. A host's is made for its code alone, and also in the PAKE's channel identifier; a device's is its [`DeviceId`].
    pub publisher: [u8; 32],
    /// What it says.
    pub subject: S,
    /// Start of its life, milliseconds since 1970.
    pub not_before_ms: u64,
    /// End of its life, milliseconds since 1970.
    pub expiry_ms: u64,
    /// Orders the records of one publisher.
    pub sequence: u64,
}

/// Why bytes are not an acceptable record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecord {
    /// Larger than [`MAX_RECORD_BYTES`].
    #[error("a record of {0} bytes, at most {MAX_RECORD_BYTES} are allowed")]
    TooLong(usize),
    /// Not protobuf.
    #[error("not a record")]
    Malformed,
    /// A field with an impossible value.
    #[error("the record's {0} is missing or has an impossible value")]
    Field(&'static str),
    /// Not signed by its session key.
    #[error("the record's signature does not verify")]
    Signature,
    /// Over, or not begun.
    #[error("the record is not valid at this time; is a clock wrong?")]
    Time,
}

fn array<const N: usize>(bytes: &[u8], field: &'static str) -> Result<[u8; N], InvalidRecord> {
    bytes.try_into().map_err(|_| InvalidRecord::Field(field))
}

fn signed_bytes(record: &[u8]) -> Vec<u8> {
    [SIGNATURE_CONTEXT, record].concat()
}

impl<S: Copy + Into<Subject>> Record<S> {
    /// Encodes and signs the record; `key` must be the secret of `publisher`.
    pub fn encode_signed(&self, key: &SigningKey) -> Bytes {
        let mut raw = schema::Record {
            version: VERSION,
            realm: self.realm.clone(),
            locator_key: Bytes::copy_from_slice(&self.key.0),
            session_key: Bytes::copy_from_slice(&self.publisher),
            not_before_ms: self.not_before_ms,
            expiry_ms: self.expiry_ms,
            sequence: self.sequence,
            ..schema::Record::default()
        };
        match self.subject.into() {
            Subject::Waiting(waiting) => {
                raw.host_nonce = Bytes::copy_from_slice(&waiting.nonce);
                raw.host_role = match waiting.role {
                    HostRole::Helper => 1,
                    HostRole::Sharer => 2,
                };
            }
            Subject::Present(present) => {
                raw.device = Some(schema::Device {
                    relay: Bytes::copy_from_slice(&present.relay.0),
                    agents: present.agents,
                });
            }
        }
        let record: Bytes = raw.encode_to_vec().into();
        let signature = Bytes::copy_from_slice(&key.sign(&signed_bytes(&record)).to_bytes());
        schema::SignedRecord { record, signature }
            .encode_to_vec()
            .into()
    }

    fn with<T>(self, subject: T) -> Record<T> {
        Record {
            realm: self.realm,
            key: self.key,
            publisher: self.publisher,
            subject,
            not_before_ms: self.not_before_ms,
            expiry_ms: self.expiry_ms,
            sequence: self.sequence,
        }
    }
}

impl Record {
    /// Decodes a record and checks everything about it but whose locator it is.
    ///
    /// # Errors
    /// [`InvalidRecord`], the first reason found.
    pub fn decode_signed(bytes: &[u8], unix_ms: u64) -> Result<Self, InvalidRecord> {
        let record = Self::decode_ended(bytes, unix_ms)?;
        if record.expiry_ms <= unix_ms {
            return Err(InvalidRecord::Time);
        }
        Ok(record)
    }

    /// The same of one whose time may be over.
    ///
    /// # Errors
    /// [`InvalidRecord`], the first reason found.
    pub fn decode_ended(bytes: &[u8], unix_ms: u64) -> Result<Self, InvalidRecord> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(InvalidRecord::TooLong(bytes.len()));
        }
        let signed = schema::SignedRecord::decode(bytes).map_err(|_| InvalidRecord::Malformed)?;
        let raw =
            schema::Record::decode(&signed.record[..]).map_err(|_| InvalidRecord::Malformed)?;
        let record = Self::from_schema(raw)?;
        let key = VerifyingKey::from_bytes(&record.publisher)
            .map_err(|_| InvalidRecord::Field("session_key"))?;
        let signature = Signature::from_bytes(&array(&signed.signature, "signature")?);
        key.verify_strict(&signed_bytes(&signed.record), &signature)
            .map_err(|_| InvalidRecord::Signature)?;
        if record.not_before_ms > unix_ms.saturating_add(CLOCK_TOLERANCE_MS) {
            return Err(InvalidRecord::Time);
        }
        Ok(record)
    }

    /// What bytes say that they are, and where they are to be kept; whether they are a record is another question.
    pub fn peek(bytes: &[u8]) -> Option<(RecordKey, Kind)> {
        let signed = schema::SignedRecord::decode(bytes).ok()?;
        let raw = schema::Record::decode(&signed.record[..]).ok()?;
        let kind = match raw.device {
            None => Kind::Host,
            Some(_) => Kind::Device,
        };
        Some((RecordKey::from_bytes(&raw.locator_key).ok()?, kind))
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self.subject {
            Subject::Waiting(_) => Kind::Host,
            Subject::Present(_) => Kind::Device,
        }
    }

    /// The same, if it is a host's.
    pub fn waiting(self) -> Option<Record<Waiting>> {
        match self.subject {
            Subject::Waiting(waiting) => Some(self.with(waiting)),
            Subject::Present(_) => None,
        }
    }

    /// The same, if it is a device's.
    pub fn present(self) -> Option<Record<Present>> {
        match self.subject {
            Subject::Present(present) => Some(self.with(present)),
            Subject::Waiting(_) => None,
        }
    }

    fn from_schema(raw: schema::Record) -> Result<Self, InvalidRecord> {
        if raw.version != VERSION {
            return Err(InvalidRecord::Field("version"));
        }
        if raw.realm.len() > 64 {
            return Err(InvalidRecord::Field("realm"));
        }
        let lifetime = raw.expiry_ms.checked_sub(raw.not_before_ms);
        if !lifetime.is_some_and(|lifetime| (1..=MAX_LIFETIME_MS).contains(&lifetime)) {
            return Err(InvalidRecord::Field("expiry_ms"));
        }
        let key = RecordKey::from_bytes(&raw.locator_key)?;
        let publisher = array(&raw.session_key, "session_key")?;
        let subject = match &raw.device {
            None => waiting(&raw)?.into(),
            Some(device) => present(&raw, device)?.into(),
        };
        if raw.device.is_some() && key != RecordKey::of_device(DeviceId(publisher), &raw.realm) {
            return Err(InvalidRecord::Field("locator_key"));
        }
        Ok(Self {
            key,
            publisher,
            subject,
            realm: raw.realm,
            not_before_ms: raw.not_before_ms,
            expiry_ms: raw.expiry_ms,
            sequence: raw.sequence,
        })
    }
}

fn waiting(raw: &schema::Record) -> Result<Waiting, InvalidRecord> {
    Ok(Waiting {
        nonce: array(&raw.host_nonce, "host_nonce")?,
        role: match raw.host_role {
            1 => HostRole::Helper,
            2 => HostRole::Sharer,
            _ => return Err(InvalidRecord::Field("host_role")),
        },
    })
}

fn present(raw: &schema::Record, device: &schema::Device) -> Result<Present, InvalidRecord> {
    if !raw.host_nonce.is_empty() || raw.host_role != 0 {
        return Err(InvalidRecord::Field("device"));
    }
    if !(1..=MAX_AGENTS).contains(&device.agents) {
        return Err(InvalidRecord::Field("agents"));
    }
    Ok(Present {
        relay: RelayId(array(&device.relay, "relay")?),
        agents: device.agents,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn signed(edit: impl FnOnce(&mut Record)) -> Bytes {
        let key = SigningKey::from_bytes(&[3; 32]);
        let mut record = Record {
            realm: "default".into(),
            key: RecordKey::of_locator(b"406", "default", NOW / EPOCH_MS),
            publisher: key.verifying_key().to_bytes(),
            subject: Subject::Waiting(Waiting {
                nonce: [5; 16],
                role: HostRole::Helper,
            }),
            not_before_ms: NOW,
            expiry_ms: NOW + MAX_LIFETIME_MS,
            sequence: 1,
        };
        edit(&mut record);
        record.encode_signed(&key)
    }

    #[test]
    fn an_honest_record_is_accepted_through_its_life() {
        let bytes = signed(|_| {});
        assert!(bytes.len() <= MAX_RECORD_BYTES);
        for at in [NOW - CLOCK_TOLERANCE_MS, NOW, NOW + MAX_LIFETIME_MS - 1] {
            assert_eq!(
                Record::decode_signed(&bytes, at).expect("valid").sequence,
                1
            );
        }
        for at in [NOW - CLOCK_TOLERANCE_MS - 1, NOW + MAX_LIFETIME_MS] {
            assert_eq!(Record::decode_signed(&bytes, at), Err(InvalidRecord::Time));
        }
        let late = NOW + MAX_LIFETIME_MS;
        assert!(Record::decode_ended(&bytes, late).is_ok());
        let early = NOW - CLOCK_TOLERANCE_MS - 1;
        assert_eq!(
            Record::decode_ended(&bytes, early),
            Err(InvalidRecord::Time)
        );
        let key = RecordKey::of_locator(b"406", "default", NOW / EPOCH_MS);
        assert_eq!(Record::peek(&bytes), Some((key, Kind::Host)));
    }

    fn device(edit: impl FnOnce(&mut Record)) -> Bytes {
        signed(|record| {
            record.key = RecordKey::of_device(DeviceId(record.publisher), &record.realm);
            record.subject = Subject::Present(Present {
                relay: RelayId([8; 32]),
                agents: 2,
            });
            record.sequence = NOW;
            edit(record);
        })
    }

    #[test]
    fn a_device_says_where_it_is_under_its_own_key_alone() {
        let bytes = device(|_| {});
        assert!(bytes.len() <= MAX_RECORD_BYTES);
        let record = Record::decode_signed(&bytes, NOW).expect("valid");
        let key = RecordKey::of_device(DeviceId(record.publisher), "default");
        assert_eq!(Record::peek(&bytes), Some((key, Kind::Device)));
        assert_eq!((record.key, record.sequence), (key, NOW));
        assert_eq!(record.clone().waiting(), None);
        let present = record.present().expect("a device's").subject;
        assert_eq!((present.relay, present.agents), (RelayId([8; 32]), 2));
        let longest = device(|record| {
            record.realm = "r".repeat(64);
            record.key = RecordKey::of_device(DeviceId(record.publisher), &record.realm);
        });
        assert!(Record::decode_signed(&longest, NOW).is_ok());

        let refused = |bytes: &[u8]| Record::decode_signed(bytes, NOW).expect_err("impossible");
        let elsewhere = device(|record| record.key = RecordKey([1; 32]));
        assert_eq!(refused(&elsewhere), InvalidRecord::Field("locator_key"));
        let realm = device(|record| record.realm = "other".into());
        assert_eq!(refused(&realm), InvalidRecord::Field("locator_key"));
        for none_or_many in [0, MAX_AGENTS + 1] {
            let bytes = device(|record| {
                record.subject = Subject::Present(Present {
                    relay: RelayId([8; 32]),
                    agents: none_or_many,
                });
            });
            assert_eq!(refused(&bytes), InvalidRecord::Field("agents"));
        }
    }

    #[test]
    fn a_changed_record_is_refused() {
        for bytes in [signed(|_| {}), device(|_| {})] {
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut bad = bytes.to_vec();
                    bad[at] ^= 1 << bit;
                    assert!(
                        Record::decode_signed(&bad, NOW).is_err(),
                        "byte {at} bit {bit}"
                    );
                }
            }
        }
    }

    #[test]
    fn impossible_values_are_named() {
        let refused = |bytes: &[u8]| Record::decode_signed(bytes, NOW).expect_err("impossible");
        let too_long = signed(|record| record.expiry_ms += 1);
        assert_eq!(refused(&too_long), InvalidRecord::Field("expiry_ms"));
        let backwards = signed(|record| record.expiry_ms = NOW);
        assert_eq!(refused(&backwards), InvalidRecord::Field("expiry_ms"));
        let realm = signed(|record| record.realm = "x".repeat(65));
        assert_eq!(refused(&realm), InvalidRecord::Field("realm"));
        let other_key = signed(|record| record.publisher = [9; 32]);
        assert!(matches!(
            refused(&other_key),
            InvalidRecord::Signature | InvalidRecord::Field(_)
        ));
        assert_eq!(
            refused(&[0; MAX_RECORD_BYTES + 1]),
            InvalidRecord::TooLong(513)
        );
    }
}
