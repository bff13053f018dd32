//! The record under which a host can be found (`NOISE-QUIC` part 4.4): public, signed, short-lived.
//!
//! A relay stores a record only when `Record::decode_signed` accepts it; a joiner believes it only
//! then, too. Nothing in it says who the host is, and nothing in it depends on the code's secret.

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use prost::Message;

use crate::wire::message::record as schema;

/// Symbols of a code that locate it; the rest is secret.
pub const LOCATOR_LEN: usize = 3;
/// Locators live under a key that moves every epoch, so nobody can settle next to one.
pub const EPOCH_MS: u64 = 600_000;
/// Longest life of a record, hence of a code.
pub const MAX_LIFETIME_MS: u64 = 600_000;
/// Largest encoded [`SignedRecord`](schema::SignedRecord).
pub const MAX_RECORD_BYTES: usize = 512;
/// How far apart two honest clocks may be.
pub const CLOCK_TOLERANCE_MS: u64 = 120_000;

const VERSION: u32 = 1;
const SIGNATURE_CONTEXT: &[u8] = b"remora record 1";

/// Where a record is kept: a hash of locator, realm and epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocatorKey(pub [u8; 32]);

impl LocatorKey {
    /// The key of `locator` in `realm` and `epoch` (number of [`EPOCH_MS`] since 1970).
    pub fn new(locator: &[u8; LOCATOR_LEN], realm: &str, epoch: u64) -> Self {
        let mut hash = Context::new(&SHA256);
        hash.update(b"mnq1 locator");
        hash.update(&(realm.len() as u64).to_be_bytes());
        hash.update(realm.as_bytes());
        hash.update(&epoch.to_be_bytes());
        hash.update(locator);
        Self(hash.finish().as_ref().try_into().expect("SHA-256"))
    }

    /// From a message's field.
    ///
    /// # Errors
    /// [`InvalidRecord::Field`] unless it has 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidRecord> {
        Ok(Self(array(bytes, "locator_key")?))
    }
}

impl std::fmt::Debug for LocatorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocatorKey({:02x}{:02x}…)", self.0[0], self.0[1])
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

/// A record whose signature and limits have been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Name space of the locator.
    pub realm: String,
    /// Where it is kept.
    pub locator_key: LocatorKey,
    /// Ed25519 key made for this code alone; also in the PAKE's channel identifier.
    pub session_key: [u8; 32],
    /// The host's half of the PAKE's session id.
    pub host_nonce: [u8; 16],
    /// Role of whoever published.
    pub host_role: HostRole,
    /// Start of its life, milliseconds since 1970.
    pub not_before_ms: u64,
    /// End of its life, milliseconds since 1970.
    pub expiry_ms: u64,
    /// Orders the records of one session key.
    pub sequence: u32,
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

impl Record {
    /// Encodes and signs the record; `key` must be the secret of `session_key`.
    pub fn encode_signed(&self, key: &SigningKey) -> Bytes {
        let record: Bytes = schema::Record {
            version: VERSION,
            realm: self.realm.clone(),
            locator_key: Bytes::copy_from_slice(&self.locator_key.0),
            session_key: Bytes::copy_from_slice(&self.session_key),
            host_nonce: Bytes::copy_from_slice(&self.host_nonce),
            host_role: match self.host_role {
                HostRole::Helper => 1,
                HostRole::Sharer => 2,
            },
            not_before_ms: self.not_before_ms,
            expiry_ms: self.expiry_ms,
            sequence: self.sequence,
        }
        .encode_to_vec()
        .into();
        let signature = Bytes::copy_from_slice(&key.sign(&signed_bytes(&record)).to_bytes());
        schema::SignedRecord { record, signature }
            .encode_to_vec()
            .into()
    }

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
        let key = VerifyingKey::from_bytes(&record.session_key)
            .map_err(|_| InvalidRecord::Field("session_key"))?;
        let signature = Signature::from_bytes(&array(&signed.signature, "signature")?);
        key.verify_strict(&signed_bytes(&signed.record), &signature)
            .map_err(|_| InvalidRecord::Signature)?;
        if record.not_before_ms > unix_ms.saturating_add(CLOCK_TOLERANCE_MS) {
            return Err(InvalidRecord::Time);
        }
        Ok(record)
    }

    /// Where bytes say that they are to be kept; whether they are a record is another question.
    pub fn key_of(bytes: &[u8]) -> Option<LocatorKey> {
        let signed = schema::SignedRecord::decode(bytes).ok()?;
        let raw = schema::Record::decode(&signed.record[..]).ok()?;
        LocatorKey::from_bytes(&raw.locator_key).ok()
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
        Ok(Self {
            locator_key: LocatorKey::from_bytes(&raw.locator_key)?,
            session_key: array(&raw.session_key, "session_key")?,
            host_nonce: array(&raw.host_nonce, "host_nonce")?,
            host_role: match raw.host_role {
                1 => HostRole::Helper,
                2 => HostRole::Sharer,
                _ => return Err(InvalidRecord::Field("host_role")),
            },
            realm: raw.realm,
            not_before_ms: raw.not_before_ms,
            expiry_ms: raw.expiry_ms,
            sequence: raw.sequence,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn signed(edit: impl FnOnce(&mut Record)) -> Bytes {
        let key = SigningKey::from_bytes(&[3; 32]);
        let mut record = Record {
            realm: "default".into(),
            locator_key: LocatorKey::new(b"406", "default", NOW / EPOCH_MS),
            session_key: key.verifying_key().to_bytes(),
            host_nonce: [5; 16],
            host_role: HostRole::Helper,
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
        assert_eq!(
            Record::key_of(&bytes),
            Some(LocatorKey::new(b"406", "default", NOW / EPOCH_MS))
        );
    }

    #[test]
    fn a_changed_record_is_refused() {
        let bytes = signed(|_| {});
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

    #[test]
    fn impossible_values_are_named() {
        let refused = |bytes: &[u8]| Record::decode_signed(bytes, NOW).expect_err("impossible");
        let too_long = signed(|record| record.expiry_ms += 1);
        assert_eq!(refused(&too_long), InvalidRecord::Field("expiry_ms"));
        let backwards = signed(|record| record.expiry_ms = NOW);
        assert_eq!(refused(&backwards), InvalidRecord::Field("expiry_ms"));
        let realm = signed(|record| record.realm = "x".repeat(65));
        assert_eq!(refused(&realm), InvalidRecord::Field("realm"));
        let other_key = signed(|record| record.session_key = [9; 32]);
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
