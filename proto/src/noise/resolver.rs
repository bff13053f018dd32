//! The primitives under `snow`: X25519, ChaCha20-Poly1305 and SHA-256 by `aws-lc-rs`, randomness from the system.
//!
//! Against snow's own, X25519 here refuses points of low order and wipes its secrets, and HKDF leaves no
//! intermediate keys behind.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    agreement::{self, PrivateKey, UnparsedPublicKey},
    digest, hkdf, hmac,
};
use snow::{
    Error,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::CryptoResolver,
    types::{Cipher, Dh, Hash, Random},
};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::schedule::{self, Length};

/// Bytes of a key, of a hash, of a point.
const LEN: usize = 32;
/// Bytes that the AEAD adds.
const TAG_LEN: usize = 16;

/// A static X25519 key: the name of a node or relay, or one thrown away after a session.
#[derive(Clone)]
pub struct StaticKey {
    secret: Zeroizing<[u8; LEN]>,
    public: [u8; LEN],
    /// The same once more, as the library wants it.
    key: Arc<PrivateKey>,
}

impl StaticKey {
    /// A new one.
    ///
    /// # Panics
    /// When the operating system has no randomness to give: nothing safe can be done then.
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; LEN]);
        getrandom::fill(&mut bytes[..]).expect("the system gives randomness");
        Self::from_bytes(*bytes)
    }

    /// The one that was stored.
    ///
    /// # Panics
    /// Never: every 32 bytes are a key (RFC 7748 §5).
    pub fn from_bytes(mut bytes: [u8; LEN]) -> Self {
        let secret = Zeroizing::new(bytes);
        bytes.zeroize();
        let key = PrivateKey::from_private_key(&agreement::X25519, &secret[..]);
        let key = key.expect("every 32 bytes are a key");
        let public = key.compute_public_key().expect("every key has one");
        let public = *public.as_ref().first_chunk().expect("a point has 32 bytes");
        Self {
            secret,
            public,
            key: Arc::new(key),
        }
    }

    /// What everybody may know.
    pub fn public(&self) -> [u8; LEN] {
        self.public
    }

    /// Another secret that follows from this one and does not tell it, the same after a restart; `label` says what for.
    pub fn derive(&self, label: &str) -> Zeroizing<[u8; LEN]> {
        let mut out = Zeroizing::new([0; LEN]);
        schedule::expand_label(&self.secret, label, &mut out[..]);
        out
    }

    /// What nobody may know. Who stores a key makes its bytes and calls [`StaticKey::from_bytes`].
    pub(crate) fn secret(&self) -> &[u8; LEN] {
        &self.secret
    }
}

/// Shows the public half.
impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// Gives snow the primitives of our protocols and no others.
#[derive(Debug)]
pub struct Resolver {
    known: Option<StaticKey>,
}

impl Resolver {
    /// For handshakes of this key.
    ///
    /// snow sets the static key anew for every handshake; knowing it saves computing its public half, most
    /// of what a garbage first message would otherwise cost.
    pub fn new(key: &StaticKey) -> Self {
        Self {
            known: Some(key.clone()),
        }
    }

    /// For handshakes of a side that has no key.
    pub(super) fn anonymous() -> Self {
        Self { known: None }
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SystemRandom))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(X25519 {
                pair: None,
                known: self.known.clone(),
            })),
            DHChoice::Curve448 => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::SHA256 => Some(Box::new(Sha256::default())),
            HashChoice::SHA512 | HashChoice::Blake2s | HashChoice::Blake2b => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::ChaChaPoly => Some(Box::new(ChaChaPoly { key: None })),
            CipherChoice::AESGCM => None,
        }
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Error> {
        getrandom::fill(out).map_err(|_| Error::Rng)
    }
}

/// Noise §12.1.
struct X25519 {
    /// None until snow sets or generates it.
    pair: Option<StaticKey>,
    known: Option<StaticKey>,
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        LEN
    }

    fn priv_len(&self) -> usize {
        LEN
    }

    fn set(&mut self, privkey: &[u8]) {
        let known = self
            .known
            .as_ref()
            .filter(|known| bool::from(known.secret()[..].ct_eq(privkey)));
        let pair = known.cloned().unwrap_or_else(|| {
            StaticKey::from_bytes(
                privkey
                    .try_into()
                    .expect("keys given to snow have 32 bytes"),
            )
        });
        self.pair = Some(pair);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut bytes = Zeroizing::new([0; LEN]);
        rng.try_fill_bytes(&mut bytes[..])?;
        self.pair = Some(StaticKey::from_bytes(*bytes));
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        self.pair.as_ref().map_or(&[], |pair| &pair.public)
    }

    fn privkey(&self) -> &[u8] {
        self.pair.as_ref().map_or(&[], |pair| pair.secret())
    }

    /// RFC 7748 §6.1 with its check for the all-zero result: a peer's point of low order would make the
    /// secret one that everybody knows. Noise §12.1 leaves the check open; we make it.
    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), Error> {
        // snow hands over a buffer for its longest key: only the beginning is the point.
        let point = pubkey.first_chunk::<LEN>().ok_or(Error::Dh)?;
        let pair = self.pair.as_ref().ok_or(Error::Dh)?;
        let out = out.first_chunk_mut::<LEN>().ok_or(Error::Dh)?;
        let point = UnparsedPublicKey::new(&agreement::X25519, point);
        agreement::agree(&pair.key, point, Error::Dh, |shared| {
            out.copy_from_slice(shared);
            Ok(())
        })
    }
}

/// Noise §12.3.
struct ChaChaPoly {
    /// None until snow sets it.
    key: Option<LessSafeKey>,
}

/// Noise §12.3: 32 bits of zeros, then the number little-endian.
fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; LEN]) {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the cipher takes 32 bytes");
        self.key = Some(LessSafeKey::new(key));
    }

    fn encrypt(&self, number: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let key = self
            .key
            .as_ref()
            .expect("snow encrypts only after it has set a key");
        let (body, rest) = out.split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        let tag = key
            .seal_in_place_separate_tag(nonce(number), Aad::from(authtext), body)
            .expect("a Noise message has at most 65535 bytes");
        rest[..TAG_LEN].copy_from_slice(tag.as_ref());
        plaintext.len() + TAG_LEN
    }

    fn decrypt(
        &self,
        number: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let key = self.key.as_ref().ok_or(Error::Decrypt)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let plain = key
            .open_in_place(nonce(number), Aad::from(authtext), &mut buffer)
            .map_err(|_| Error::Decrypt)?;
        out.get_mut(..plain.len())
            .ok_or(Error::Decrypt)?
            .copy_from_slice(plain);
        Ok(plain.len())
    }
}

/// Noise §12.5.
struct Sha256(digest::Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        LEN
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let Self(context) = std::mem::take(self);
        out[..LEN].copy_from_slice(context.finish().as_ref());
    }

    fn hmac(&mut self, key: &[u8], data: &[u8], out: &mut [u8]) {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
        out[..LEN].copy_from_slice(tag.as_ref());
    }

    /// Noise §4.3, which is HKDF (RFC 5869) with the chaining key as salt and no info.
    fn hkdf(
        &mut self,
        chaining_key: &[u8],
        input_key_material: &[u8],
        outputs: usize,
        out1: &mut [u8],
        out2: &mut [u8],
        out3: &mut [u8],
    ) {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, chaining_key).extract(input_key_material);
        let mut okm = Zeroizing::new([0; 3 * LEN]);
        let okm = &mut okm[..outputs.min(3) * LEN];
        prk.expand(&[], Length(okm.len()))
            .and_then(|source| source.fill(okm))
            .expect("at most 96 bytes");
        for (out, key) in [out1, out2, out3].into_iter().zip(okm.chunks_exact(LEN)) {
            out[..LEN].copy_from_slice(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x25519(secret: [u8; 32]) -> X25519 {
        X25519 {
            pair: Some(StaticKey::from_bytes(secret)),
            known: None,
        }
    }

    fn unhex(text: &str) -> [u8; 32] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    /// RFC 7748 §6.1.
    #[test]
    fn rfc_7748_diffie_hellman() {
        let alice = x25519(unhex(
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        ));
        let bob = x25519(unhex(
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        ));
        assert_eq!(
            alice.pubkey(),
            unhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
        );
        assert_eq!(
            bob.pubkey(),
            unhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        );
        let shared = unhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        for (mine, theirs) in [(&alice, &bob), (&bob, &alice)] {
            let mut out = [0; 32];
            mine.dh(theirs.pubkey(), &mut out).unwrap();
            assert_eq!(out, shared);
        }
    }

    /// With such a point of the peer the shared secret is a constant everybody knows.
    #[test]
    fn low_order_points_have_no_shared_secret() {
        let dh = x25519([0x77; 32]);
        let p = unhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f");
        let (mut one, mut minus_one, mut p_plus_one) = ([0; 32], p, p);
        one[0] = 1;
        minus_one[0] -= 1;
        p_plus_one[0] += 1;
        let order_8 = [
            unhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
            unhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        ];
        for point in [
            [0; 32], one, minus_one, p, p_plus_one, order_8[0], order_8[1],
        ] {
            assert!(dh.dh(&point, &mut [0; 32]).is_err(), "{point:02x?}");
        }
        let mut base = [0; 32];
        base[0] = 9;
        assert!(dh.dh(&base, &mut [0; 32]).is_ok());
        assert!(
            dh.dh(&base[..31], &mut [0; 32]).is_err(),
            "too short for a point"
        );
    }

    #[test]
    fn a_known_key_is_not_computed_again_and_another_one_is() {
        let key = StaticKey::from_bytes([5; 32]);
        let mut dh = Resolver::new(&key)
            .resolve_dh(&DHChoice::Curve25519)
            .unwrap();
        dh.set(key.secret());
        assert_eq!(dh.pubkey(), key.public());
        dh.set(&[6; 32]);
        assert_eq!(dh.pubkey(), StaticKey::from_bytes([6; 32]).public());
    }

    #[test]
    fn debug_hides_the_secret() {
        let text = format!("{:?}", StaticKey::from_bytes([0xab; 32]));
        assert!(
            !text.contains("171, 171") && text.contains("public"),
            "{text}"
        );
    }
}
