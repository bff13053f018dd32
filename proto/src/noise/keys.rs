//! Packet and header protection (RFC 9001 §5.3, §5.4) and the Retry tag (§5.8), keyed from our own schedule.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
    quic::{self, HeaderProtectionKey},
};
use bytes::BytesMut;
use quinn_proto::{
    Side,
    crypto::{CryptoError, HeaderKey, KeyPair, Keys, PacketKey},
};
use zeroize::Zeroizing;

use super::schedule::{Secret, Secrets, expand_label, retry_key};

/// Bytes that the AEAD adds to a packet.
pub const TAG_LEN: usize = 16;
/// Ciphertext from which a header's mask is made (RFC 9001 §5.4.2).
const SAMPLE_LEN: usize = 16;

/// Which AEAD protects packets, fixed by the QUIC version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketAead {
    /// End to end, where a peer may be anything.
    ChaCha20Poly1305,
    /// Hops, which end on servers with AES instructions.
    Aes256Gcm,
}

impl PacketAead {
    fn packet(self) -> &'static Algorithm {
        match self {
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Self::Aes256Gcm => &AES_256_GCM,
        }
    }

    fn header(self) -> &'static quic::Algorithm {
        match self {
            Self::ChaCha20Poly1305 => &quic::CHACHA20,
            Self::Aes256Gcm => &quic::AES_256,
        }
    }

    /// Packets a key may protect, and forgeries it may meet (RFC 9001 §6.6).
    fn limits(self) -> (u64, u64) {
        match self {
            Self::ChaCha20Poly1305 => (u64::MAX, 1 << 36),
            Self::Aes256Gcm => (1 << 23, 1 << 52),
        }
    }
}

/// A packet's key.
enum PacketCipher {
    /// Expanded: for those who send all the time.
    Ready(LessSafeKey),
    /// Expanded for each packet, which takes half a microsecond. A hop's connection has a packet in seconds; expanded keys,
    /// of which QUIC holds four and two for headers, would be a third of what a relay needs for a node.
    Compact(&'static Algorithm, Zeroizing<[u8; 32]>),
}

impl PacketCipher {
    fn new(aead: PacketAead, key: &[u8; 32]) -> Self {
        match aead {
            PacketAead::ChaCha20Poly1305 => Self::Ready(expanded(aead.packet(), key)),
            PacketAead::Aes256Gcm => Self::Compact(aead.packet(), Zeroizing::new(*key)),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&LessSafeKey) -> T) -> T {
        match self {
            Self::Ready(key) => act(key),
            Self::Compact(algorithm, key) => act(&expanded(algorithm, key)),
        }
    }
}

fn expanded(algorithm: &'static Algorithm, key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(algorithm, key).expect("both take 32 bytes"))
}

fn expanded_header(algorithm: &'static quic::Algorithm, key: &[u8; 32]) -> HeaderProtectionKey {
    HeaderProtectionKey::new(algorithm, key).expect("both take 32 bytes")
}

/// Protects what is in packets of one direction.
struct NoisePacketKey {
    cipher: PacketCipher,
    iv: [u8; 12],
    confidentiality_limit: u64,
    integrity_limit: u64,
}

impl NoisePacketKey {
    fn from_secret(secret: &Secret, aead: PacketAead, limit: Option<u64>) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        let mut iv = [0; 12];
        expand_label(secret, "quic key", &mut key[..]);
        expand_label(secret, "quic iv", &mut iv);
        Self::new(aead, &key, iv, limit)
    }

    fn new(aead: PacketAead, key: &[u8; 32], iv: [u8; 12], limit: Option<u64>) -> Self {
        let (confidentiality_limit, integrity_limit) = aead.limits();
        Self {
            cipher: PacketCipher::new(aead, key),
            iv,
            confidentiality_limit: limit.unwrap_or(confidentiality_limit),
            integrity_limit,
        }
    }

    /// RFC 9001 §5.3: the packet number on the last bytes of the iv.
    fn nonce(&self, packet: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(packet.to_be_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

impl PacketKey for NoisePacketKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let (header, rest) = buf.split_at_mut(header_len);
        let (payload, tag_out) = rest
            .split_last_chunk_mut::<TAG_LEN>()
            .expect("quinn leaves room for the tag");
        let (nonce, aad) = (self.nonce(packet), Aad::from(&*header));
        let tag = self
            .cipher
            .with(|key| key.seal_in_place_separate_tag(nonce, aad, payload))
            .expect("a packet is far below the AEAD's limit");
        tag_out.copy_from_slice(tag.as_ref());
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        let (nonce, aad) = (self.nonce(packet), Aad::from(header));
        let opened = self.cipher.with(|key| {
            let plain = key.open_in_place(nonce, aad, payload.as_mut());
            plain.map(|plain| plain.len())
        });
        payload.truncate(opened.map_err(|_| CryptoError)?);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        TAG_LEN
    }

    fn confidentiality_limit(&self) -> u64 {
        self.confidentiality_limit
    }

    fn integrity_limit(&self) -> u64 {
        self.integrity_limit
    }
}

/// Hides packet numbers and key phase of one direction.
enum NoiseHeaderKey {
    /// As [`PacketCipher::Ready`].
    Ready(Box<HeaderProtectionKey>),
    /// As [`PacketCipher::Compact`].
    Compact(&'static quic::Algorithm, Zeroizing<[u8; 32]>),
}

impl NoiseHeaderKey {
    fn from_secret(secret: &Secret, aead: PacketAead) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        expand_label(secret, "quic hp", &mut key[..]);
        Self::new(aead, &key)
    }

    fn new(aead: PacketAead, key: &[u8; 32]) -> Self {
        match aead {
            PacketAead::ChaCha20Poly1305 => {
                Self::Ready(Box::new(expanded_header(aead.header(), key)))
            }
            PacketAead::Aes256Gcm => Self::Compact(aead.header(), Zeroizing::new(*key)),
        }
    }

    fn mask(&self, sample: &[u8; SAMPLE_LEN]) -> [u8; 5] {
        let mask = match self {
            Self::Ready(key) => key.new_mask(sample),
            Self::Compact(algorithm, key) => expanded_header(algorithm, key).new_mask(sample),
        };
        mask.expect("the sample has 16 bytes")
    }

    /// RFC 9001 §5.4.1. A packet too short for a sample stays as it is; quinn drops those before.
    fn apply(&self, pn_offset: usize, packet: &mut [u8], protecting: bool) {
        let Some(sample) = packet
            .get(pn_offset + 4..)
            .and_then(|rest| rest.first_chunk::<SAMPLE_LEN>())
        else {
            return;
        };
        let mask = self.mask(sample);
        let before = packet[0];
        // A long header hides 4 bits of its first byte, a short one 5.
        packet[0] ^= mask[0] & if before & 0x80 != 0 { 0x0f } else { 0x1f };
        let plain = if protecting { before } else { packet[0] };
        let pn_len = usize::from(plain & 0x03) + 1;
        for (byte, mask) in packet[pn_offset..][..pn_len].iter_mut().zip(&mask[1..]) {
            *byte ^= mask;
        }
    }
}

impl HeaderKey for NoiseHeaderKey {
    fn decrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        self.apply(pn_offset, packet, false);
    }

    fn encrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        self.apply(pn_offset, packet, true);
    }

    fn sample_size(&self) -> usize {
        SAMPLE_LEN
    }
}

fn local_remote(secrets: &Secrets, side: Side) -> (&Secret, &Secret) {
    match side {
        Side::Client => (&secrets.client, &secrets.server),
        Side::Server => (&secrets.server, &secrets.client),
    }
}

/// Packet and header keys of a level; `limit` stands in for the AEAD's confidentiality limit.
pub fn keys(secrets: &Secrets, side: Side, aead: PacketAead, limit: Option<u64>) -> Keys {
    let (local, remote) = local_remote(secrets, side);
    Keys {
        header: KeyPair {
            local: Box::new(NoiseHeaderKey::from_secret(local, aead)),
            remote: Box::new(NoiseHeaderKey::from_secret(remote, aead)),
        },
        packet: packet_keys(secrets, side, aead, limit),
    }
}

/// Packet keys alone, for a key update.
pub fn packet_keys(
    secrets: &Secrets,
    side: Side,
    aead: PacketAead,
    limit: Option<u64>,
) -> KeyPair<Box<dyn PacketKey>> {
    let (local, remote) = local_remote(secrets, side);
    KeyPair {
        local: Box::new(NoisePacketKey::from_secret(local, aead, limit)),
        remote: Box::new(NoisePacketKey::from_secret(remote, aead, limit)),
    }
}

/// The key that makes Retry packets ours, not secret (RFC 9001 §5.8).
struct RetryKey {
    key: LessSafeKey,
    nonce: [u8; 12],
}

impl RetryKey {
    fn of_version(version: u32) -> Self {
        let (key, nonce) = retry_key(version);
        Self::new(&key, nonce)
    }

    fn new(key: &[u8; 16], nonce: [u8; 12]) -> Self {
        Self {
            key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).expect("16 bytes")),
            nonce,
        }
    }

    fn tag(&self, orig_dst_cid: &[u8], packet: &[&[u8]]) -> [u8; TAG_LEN] {
        let aad = Aad::from(pseudo_packet(orig_dst_cid, packet));
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(self.nonce), aad, &mut [])
            .expect("a Retry packet is small");
        tag.as_ref().try_into().expect("the tag has 16 bytes")
    }
}

fn pseudo_packet(orig_dst_cid: &[u8], packet: &[&[u8]]) -> Vec<u8> {
    let length = u8::try_from(orig_dst_cid.len()).expect("a connection id has at most 20 bytes");
    let mut out = vec![length];
    out.extend_from_slice(orig_dst_cid);
    packet.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// Tag of a Retry packet that has none yet.
pub fn retry_tag(version: u32, orig_dst_cid: &[u8], packet: &[u8]) -> [u8; TAG_LEN] {
    RetryKey::of_version(version).tag(orig_dst_cid, &[packet])
}

/// The end of `payload` is the tag of what comes before.
pub fn retry_valid(version: u32, orig_dst_cid: &[u8], header: &[u8], payload: &[u8]) -> bool {
    payload
        .split_last_chunk::<TAG_LEN>()
        .is_some_and(|(token, tag)| {
            RetryKey::of_version(version).tag(orig_dst_cid, &[header, token]) == *tag
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        hex::decode(text).unwrap()
    }

    /// RFC 9001 appendix A.5: a short header under ChaCha20-Poly1305, both ways.
    #[test]
    fn rfc_9001_a5_short_header() {
        let key: [u8; 32] =
            unhex("c6d98ff3441c3fe1b2182094f69caa2ed4b716b65488960a7a984979fb23e1c8")
                .try_into()
                .unwrap();
        let hp: [u8; 32] =
            unhex("25a282b9e82f06f21f488917a4fc8f1b73573685608597d0efcb076b0ab7a7a4")
                .try_into()
                .unwrap();
        let iv = unhex("e0459b3474bdd0e44a41c144").try_into().unwrap();
        let (number, aead) = (654_360_564, PacketAead::ChaCha20Poly1305);
        let key = NoisePacketKey::new(aead, &key, iv, None);
        let hp = NoiseHeaderKey::new(aead, &hp);

        let header = unhex("4200bff4");
        let mut packet = [&header[..], &[0x01], &[0; TAG_LEN]].concat();
        key.encrypt(number, &mut packet, header.len());
        HeaderKey::encrypt(&hp, 1, &mut packet);
        assert_eq!(
            hex::encode(&packet),
            "4cfe4189655e5cd55c41f69080575d7999c25a5bfb"
        );

        HeaderKey::decrypt(&hp, 1, &mut packet);
        assert_eq!(packet[..4], header);
        let mut payload = BytesMut::from(&packet[4..]);
        key.decrypt(number, &header, &mut payload).unwrap();
        assert_eq!(payload[..], [1]);
    }

    /// RFC 9001 appendix A.4.
    #[test]
    fn rfc_9001_a4_retry() {
        let key: [u8; 16] = unhex("be0c690b9f66575a1d766b54e368c84e")
            .try_into()
            .unwrap();
        let nonce = unhex("461599d35d632bf2239825bb").try_into().unwrap();
        let tag = RetryKey::new(&key, nonce).tag(
            &unhex("8394c8f03e515708"),
            &[&unhex("ff000000010008f067a5502a4262b5746f6b656e")],
        );
        assert_eq!(hex::encode(tag), "04a265ba2eff4d829058fb3f0f2496ba");
    }

    #[test]
    fn a_packet_too_short_for_a_sample_does_no_harm() {
        let key = NoiseHeaderKey::new(PacketAead::Aes256Gcm, &[7; 32]);
        for length in 0..21 {
            let mut packet = vec![0x40; length];
            HeaderKey::decrypt(&key, 1, &mut packet);
            assert!(packet.iter().all(|byte| *byte == 0x40));
        }
    }
}
