//! The short authentication string: three words, 33 bits, equal on both screens exactly when nobody sits
//! in the middle of the inner handshake.
//!
//! Somebody in the middle holds two handshakes with two hashes and would search for a pair that gives
//! equal words. Commit-then-reveal forbids the search: each side's nonce is fixed by its
//! commitment inside the handshake and opened only afterwards, so both words are settled before the middle has
//! seen either nonce; it has one chance in 2³³.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256, digest};
use subtle::ConstantTimeEq;

use crate::random::Random;

/// A side's contribution, secret until revealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce([u8; 16]);

/// What a side shows of its nonce inside the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commitment(pub [u8; 32]);

impl Nonce {
    /// Draws a nonce.
    pub fn generate(random: &mut Random) -> Self {
        Self(random.bytes())
    }

    /// From a reveal; 16 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// To be revealed.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The commitment to it.
    pub fn commitment(&self) -> Commitment {
        let hash = digest(&SHA256, &[b"remora sas commitment 1", &self.0[..]].concat());
        Commitment(hash.as_ref().try_into().expect("SHA-256"))
    }
}

impl Commitment {
    /// Whether `nonce` is the one committed to.
    pub fn opens_to(&self, nonce: &Nonce) -> bool {
        self.0.ct_eq(&nonce.commitment().0).into()
    }
}

/// Three words of the BIP-39 English list, which was made to be told apart by ear and by the first four letters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Words([&'static str; 3]);

impl Words {
    /// The words of a handshake.
    pub fn new(handshake_hash: &[u8; 32], host: &Nonce, joiner: &Nonce) -> Self {
        let mut hash = Context::new(&SHA256);
        hash.update(b"remora sas words 1");
        hash.update(handshake_hash);
        hash.update(&host.0);
        hash.update(&joiner.0);
        let digest = hash.finish();
        let bits = u64::from_be_bytes(*digest.as_ref().first_chunk().expect("SHA-256"));
        let list = bip39::Language::English.word_list();
        let word = |shift: u32| list[usize::try_from(bits >> shift & 0x7ff).expect("11 bits")];
        Self([word(53), word(42), word(31)])
    }

    /// The words, in the order in which they are read.
    pub fn words(&self) -> [&'static str; 3] {
        self.0
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("  "))
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Words(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commitment_opens_to_its_nonce_only() {
        let mut random = Random::seeded(1);
        let (nonce, other) = (Nonce::generate(&mut random), Nonce::generate(&mut random));
        assert!(nonce.commitment().opens_to(&nonce));
        assert!(!nonce.commitment().opens_to(&other));
    }

    #[test]
    fn words_depend_on_hash_and_both_nonces() {
        let mut random = Random::seeded(2);
        let (a, b) = (Nonce::generate(&mut random), Nonce::generate(&mut random));
        let words = Words::new(&[1; 32], &a, &b);
        assert_eq!(words, Words::new(&[1; 32], &a, &b));
        assert_ne!(words, Words::new(&[2; 32], &a, &b));
        assert_ne!(words, Words::new(&[1; 32], &b, &a));
    }

    /// A thousand handshakes draw about 1,600 different words of 2,048: all bits are used.
    #[test]
    fn the_whole_list_is_used() {
        let mut random = Random::seeded(3);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let (a, b) = (Nonce::generate(&mut random), Nonce::generate(&mut random));
            seen.extend(Words::new(&random.bytes(), &a, &b).words());
        }
        assert!((1500..1700).contains(&seen.len()), "{}", seen.len());
    }
}
