//! What is known of a device: where it is, or when it was there last.

use bytes::Bytes;
use remora_proto::{
    id::RelayId,
    record::{Record, RecordKey},
};

use super::Ended;

/// By the newest record of a device that somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The relay that it is at, or was.
    pub relay: RelayId,
    /// How many people at it can be asked, or could.
    pub agents: u32,
    /// When it was there last, milliseconds since 1970; none while it is there.
    pub gone_unix_ms: Option<u64>,
    sequence: u64,
    signed_unix_ms: u64,
}

impl Sighting {
    /// Of the device under `key`, as the `record` says it, and whoever keeps that says how it went and when it was there last; nothing if
    /// it is not that device's own word.
    pub fn new(
        key: RecordKey,
        record: &Bytes,
        gone: Option<(Ended, u64)>,
        unix_ms: u64,
    ) -> Option<Self> {
        let record = Record::decode_ended(record, unix_ms).ok()?.present()?;
        if record.key != key {
            return None;
        }
        let signed_unix_ms = record.not_before_ms;
        let is_over = record.expiry_ms <= unix_ms;
        // Not before it has said so itself, and not after now.
        let gone_unix_ms = gone.map(|(_, seen)| seen.min(unix_ms).max(signed_unix_ms));
        Some(Self {
            relay: record.subject.relay,
            agents: record.subject.agents,
            gone_unix_ms: gone_unix_ms.or_else(|| is_over.then_some(signed_unix_ms)),
            sequence: record.sequence,
            signed_unix_ms,
        })
    }

    /// What the device has said later counts; of the same, that it has gone: whoever keeps the record may not have heard of it.
    pub fn or_newer(self, other: Self) -> Self {
        let order = |one: &Self| (one.sequence, one.gone_unix_ms);
        if order(&other) > order(&self) {
            other
        } else {
            self
        }
    }

    /// Whether the device has said this no earlier than that.
    pub fn is_as_new_as(&self, other: &Self) -> bool {
        self.sequence >= other.sequence
    }

    /// The same of a device of which its relay knows nothing, or which is not there to ask.
    pub fn unconfirmed(self) -> Self {
        let gone = self.gone_unix_ms.unwrap_or(self.signed_unix_ms);
        Self {
            gone_unix_ms: Some(gone),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use remora_proto::{
        id::DeviceId,
        record::{MAX_LIFETIME_MS, Present},
    };

    use super::*;

    const NOW: u64 = 1_800_000_000_000;
    const SIGNED: u64 = NOW - 1000;

    fn record(sequence: u64) -> (RecordKey, Bytes) {
        let signing = SigningKey::from_bytes(&[3; 32]);
        let publisher = signing.verifying_key().to_bytes();
        let key = RecordKey::of_device(DeviceId(publisher), "default");
        let record = Record {
            realm: "default".into(),
            key,
            publisher,
            subject: Present {
                relay: RelayId([8; 32]),
                agents: 2,
            },
            not_before_ms: SIGNED,
            expiry_ms: SIGNED + MAX_LIFETIME_MS,
            sequence,
        };
        (key, record.encode_signed(&signing))
    }

    fn sighting(sequence: u64, gone: Option<u64>, at: u64) -> Sighting {
        let (key, record) = record(sequence);
        let gone = gone.map(|seen| (Ended::Cancelled, seen));
        Sighting::new(key, &record, gone, at).expect("its own word")
    }

    #[test]
    fn a_device_was_there_when_it_said_so_at_least_and_no_later_than_now() {
        assert_eq!(sighting(1, None, NOW).gone_unix_ms, None);
        for (said, seen) in [
            (0, SIGNED),
            (NOW - 10, NOW - 10),
            (NOW + 10, NOW),
            (u64::MAX, NOW),
        ] {
            assert_eq!(sighting(1, Some(said), NOW).gone_unix_ms, Some(seen));
        }
        let late = sighting(1, None, SIGNED + MAX_LIFETIME_MS);
        assert_eq!(late.gone_unix_ms, Some(SIGNED));
    }

    #[test]
    fn only_the_devices_own_word_under_its_own_key_counts() {
        let (key, record) = record(1);
        let sighted = |key, record: &[u8]| {
            Sighting::new(key, &Bytes::copy_from_slice(record), None, NOW).is_some()
        };
        assert!(sighted(key, &record));
        assert!(!sighted(RecordKey([1; 32]), &record));
        assert!(!sighted(key, &record[1..]));
        assert!(!sighted(key, b""));
    }

    #[test]
    fn what_was_said_later_counts_and_of_the_same_that_it_has_gone() {
        let (old, new) = (sighting(1, None, NOW), sighting(2, None, NOW));
        let (old_gone, new_gone) = (sighting(1, Some(NOW), NOW), sighting(2, Some(NOW), NOW));
        for (one, other, counts) in [
            (old, new, new),
            (old_gone, new, new),
            (old, new_gone, new_gone),
            (new, new_gone, new_gone),
        ] {
            assert_eq!(one.or_newer(other), counts);
            assert_eq!(other.or_newer(one), counts);
        }
        assert_eq!(new.unconfirmed().gone_unix_ms, Some(SIGNED));
        assert_eq!(new_gone.unconfirmed(), new_gone);
    }
}
