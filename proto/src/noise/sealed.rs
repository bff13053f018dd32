//! One message that only the holder of a key can open: Noise's one-way pattern N (Noise §7.4).
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 32 | `e`, of this message only |
//! | 32 | n + 16 | the plaintext, sealed |
//!
//! It says nothing of who sealed it, and nothing keeps a copy from being shown again: both are the caller's to see to.

use snow::{Builder, Error};
use zeroize::Zeroizing;

use super::resolver::{Resolver, StaticKey};

const NAME: &str = "Noise_N_25519_ChaChaPoly_SHA256";
/// Bytes that a sealed message is longer than what it seals.
pub const OVERHEAD_BYTES: usize = 48;

/// It cannot be sealed to that key, or not be opened with this one; or it has been altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message sealed to this key")]
pub struct Unreadable;

impl From<Error> for Unreadable {
    fn from(_: Error) -> Self {
        Self
    }
}

/// Seals `plaintext`, at most 65,487 bytes, to a key; `context` is what it is for, and has to be the same when it is opened.
///
/// # Errors
/// [`Unreadable`]: the key is a point of low order, or the plaintext is too long.
pub fn seal(key: &[u8; 32], context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let mut handshake = Builder::with_resolver(NAME.parse()?, Box::new(Resolver::anonymous()))
        .prologue(context)?
        .remote_public_key(key)?
        .build_initiator()?;
    let mut out = vec![0; plaintext.len() + OVERHEAD_BYTES];
    let length = handshake.write_message(plaintext, &mut out)?;
    out.truncate(length);
    Ok(out)
}

/// Opens it.
///
/// # Errors
/// [`Unreadable`].
pub fn open(
    key: &StaticKey,
    context: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let mut handshake = Builder::with_resolver(NAME.parse()?, Box::new(Resolver::new(key)))
        .prologue(context)?
        .local_private_key(key.secret())?
        .build_responder()?;
    let mut out = Zeroizing::new(vec![0; sealed.len()]);
    let length = handshake.read_message(sealed, &mut out)?;
    out.truncate(length);
    Ok(out)
}
