//! What a device says of itself, so that others learn whether it is there.

use bytes::Bytes;
use ed25519_dalek::SigningKey;

use crate::{
    id::{DeviceId, RelayId},
    record::{CLOCK_TOLERANCE_MS, MAX_LIFETIME_MS, Present, Record, RecordKey},
};

/// Length of the key it is made of.
pub const SECRET_BYTES: usize = 32;

/// A device, with its key, which is wiped when it is dropped.
pub struct Device {
    key: SigningKey,
    last_sequence: u64,
}

/// The secret does not show.
impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Device").field(&self.id()).finish()
    }
}

impl Device {
    /// The one with this secret.
    pub fn new(secret: &[u8; SECRET_BYTES]) -> Self {
        Self {
            key: SigningKey::from_bytes(secret),
            last_sequence: 0,
        }
    }

    /// Who others know it as.
    pub fn id(&self) -> DeviceId {
        DeviceId(self.key.verifying_key().to_bytes())
    }

    /// The signed record that it is at `relay`, with so many agents, from `unix_ms` for [`MAX_LIFETIME_MS`]. It replaces all it has said
    /// before, also before this program began, unless the clock was ahead then: see [`Self::handle_taken`].
    pub fn say(&mut self, realm: &str, relay: RelayId, agents: u32, unix_ms: u64) -> Bytes {
        self.last_sequence = unix_ms.max(self.last_sequence.saturating_add(1));
        let id = self.id();
        let record = Record {
            realm: realm.to_owned(),
            key: RecordKey::of_device(id, realm),
            publisher: id.0,
            subject: Present { relay, agents },
            not_before_ms: unix_ms,
            expiry_ms: unix_ms.saturating_add(MAX_LIFETIME_MS),
            sequence: self.last_sequence,
        };
        record.encode_signed(&self.key)
    }

    /// Its signature of `statement`, which names what it is for and fits nothing else that the key signs.
    #[cfg(feature = "end-to-end")]
    pub(crate) fn sign(&self, statement: &[u8]) -> [u8; 64] {
        ed25519_dalek::Signer::sign(&self.key, statement).to_bytes()
    }

    /// A relay has something later of it. No relay takes what was said by a clock that is ahead of its own by more than
    /// [`CLOCK_TOLERANCE_MS`]: what follows is later than that.
    pub fn handle_taken(&mut self) {
        self.last_sequence = self.last_sequence.saturating_add(2 * CLOCK_TOLERANCE_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn sequence(device: &mut Device, unix_ms: u64) -> u64 {
        let bytes = device.say("default", RelayId([8; 32]), 1, unix_ms);
        let record = Record::decode_signed(&bytes, unix_ms).expect("valid");
        assert_eq!(record.publisher, device.id().0);
        record.sequence
    }

    #[test]
    fn what_is_said_later_is_later_whatever_the_clock_does() {
        let mut device = Device::new(&[3; 32]);
        let ahead = NOW + CLOCK_TOLERANCE_MS;
        let first = sequence(&mut device, ahead);
        for back in [ahead, NOW, NOW + 1] {
            assert!(sequence(&mut device, back) > first);
        }
        // Begun anew, with a clock that is right.
        let mut device = Device::new(&[3; 32]);
        assert!(sequence(&mut device, NOW) < first);
        device.handle_taken();
        assert!(sequence(&mut device, NOW) > first);
    }

    #[test]
    fn the_secret_does_not_show() {
        let device = Device::new(&[3; 32]);
        assert_eq!(format!("{device:?}"), format!("Device({:?})", device.id()));
    }
}
