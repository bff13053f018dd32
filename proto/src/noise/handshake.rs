//! A thin layer over `snow`: one handshake with our primitives, our prologue, and the split of a level.

use std::fmt;

use snow::{Builder, Error, HandshakeState};
use zeroize::Zeroizing;

use super::{
    config::{Profile, Psk, PskId},
    payload::TooLong,
    resolver::{Resolver, StaticKey},
    schedule::Split,
};

/// What a handshake starts with.
pub(super) struct Start<'a> {
    pub(super) profile: Profile,
    pub(super) key: &'a StaticKey,
    /// Known beforehand in XK; in XX it is received.
    pub(super) server_key: Option<&'a [u8; 32]>,
    pub(super) psk: Option<(&'a PskId, &'a Psk)>,
    pub(super) context: &'a [u8],
    /// For test vectors.
    pub(super) ephemeral: Option<&'a [u8; 32]>,
}

/// A handshake under way.
pub(super) struct Handshake(Box<HandshakeState>);

/// Shows nothing.
impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").finish_non_exhaustive()
    }
}

/// `"mnq1 prologue" || version || u16 length || psk_id || u16 length || context` (Noise §6).
pub(super) fn prologue(
    profile: Profile,
    psk_id: Option<&PskId>,
    context: &[u8],
) -> Result<Vec<u8>, TooLong> {
    let mut out = b"mnq1 prologue".to_vec();
    out.extend_from_slice(&profile.version().to_be_bytes());
    for field in [psk_id.map_or(&[][..], |id| &id[..]), context] {
        let length = u16::try_from(field.len()).map_err(|_| TooLong)?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(field);
    }
    Ok(out)
}

impl Handshake {
    pub(super) fn initiator(start: &Start<'_>) -> Result<Self, Error> {
        start.build(|builder| builder.build_initiator())
    }

    pub(super) fn responder(start: &Start<'_>) -> Result<Self, Error> {
        start.build(|builder| builder.build_responder())
    }

    pub(super) fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        // e (32), encrypted s (48) and a tag (16) are the most that a message of ours adds.
        let mut out = vec![0; payload.len() + 96];
        let length = self.0.write_message(payload, &mut out)?;
        out.truncate(length);
        Ok(out)
    }

    pub(super) fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = vec![0; message.len()];
        let length = self.0.read_message(message, &mut out)?;
        out.truncate(length);
        Ok(out)
    }

    /// The secret of ML-KEM as psk3, due before message 3.
    pub(super) fn set_kem_secret(&mut self, secret: &[u8]) -> Result<(), Error> {
        self.0.set_psk(3, secret)
    }

    /// Handshake hash `h` (Noise §11.2).
    pub(super) fn hash(&self) -> [u8; 32] {
        self.0
            .get_handshake_hash()
            .try_into()
            .expect("SHA-256 gives 32 bytes")
    }

    /// Split() of the chaining key as it is now (Noise §5.2).
    ///
    /// Between messages this is a further output of the chaining key under an empty input, independent of
    /// every later MixKey, whose input is never empty; Noise's extension for additional symmetric keys
    /// rests on the same.
    pub(super) fn split(&mut self) -> Split {
        let (first, second) = self.0.dangerously_get_raw_split();
        let (first, second) = (Zeroizing::new(first), Zeroizing::new(second));
        let mut split = Split::new([0; 64]);
        split[..32].copy_from_slice(&first[..]);
        split[32..].copy_from_slice(&second[..]);
        split
    }

    pub(super) fn remote_static(&self) -> Option<[u8; 32]> {
        self.0
            .get_remote_static()
            .and_then(|key| key.try_into().ok())
    }
}

impl Start<'_> {
    fn build(
        &self,
        role: impl FnOnce(Builder<'_>) -> Result<HandshakeState, Error>,
    ) -> Result<Handshake, Error> {
        let prologue = prologue(self.profile, self.psk.map(|(id, _)| id), self.context)
            .map_err(|_| Error::Input)?;
        let resolver = Box::new(Resolver::new(self.key));
        let mut builder = Builder::with_resolver(self.profile.noise_name().parse()?, resolver)
            .local_private_key(self.key.secret())?
            .prologue(&prologue)?;
        if let Some(key) = self.server_key {
            builder = builder.remote_public_key(key)?;
        }
        if let Some((_, psk)) = self.psk {
            builder = builder.psk(0, psk)?;
        }
        if let Some(ephemeral) = self.ephemeral {
            builder = builder.fixed_ephemeral_key_for_testing_only(ephemeral);
        }
        Ok(Handshake(Box::new(role(builder)?)))
    }
}

/// ML-KEM-768 (FIPS 203) with a key of one handshake.
pub(super) mod kem {
    use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
    use zeroize::Zeroizing;

    /// The client's half, until message 2.
    #[derive(Debug)]
    pub(in crate::noise) struct Secret(DecapsulationKey);

    /// None without randomness.
    pub(in crate::noise) fn generate() -> Option<(Secret, Vec<u8>)> {
        let secret = DecapsulationKey::generate(&ML_KEM_768).ok()?;
        let public = secret
            .encapsulation_key()
            .ok()?
            .key_bytes()
            .ok()?
            .as_ref()
            .to_vec();
        Some((Secret(secret), public))
    }

    /// Ciphertext and shared secret; none when `public` is no key (FIPS 203 §7.2).
    pub(in crate::noise) fn encapsulate(public: &[u8]) -> Option<(Vec<u8>, Zeroizing<Vec<u8>>)> {
        let (ciphertext, secret) = EncapsulationKey::new(&ML_KEM_768, public)
            .ok()?
            .encapsulate()
            .ok()?;
        Some((
            ciphertext.as_ref().to_vec(),
            Zeroizing::new(secret.as_ref().to_vec()),
        ))
    }

    impl Secret {
        /// None when `ciphertext` has the wrong length; a forged one gives another secret (FIPS 203 §6.3).
        pub(in crate::noise) fn decapsulate(
            &self,
            ciphertext: &[u8],
        ) -> Option<Zeroizing<Vec<u8>>> {
            let secret = self.0.decapsulate(Ciphertext::from(ciphertext)).ok()?;
            Some(Zeroizing::new(secret.as_ref().to_vec()))
        }
    }
}
