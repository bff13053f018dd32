//! Noise over a byte stream, between two relays of a fleet: `Noise_XXpsk0_25519_ChaChaPoly_SHA256`, prologue
//! `"remora mesh 1"`.
//!
//! ```text
//! A → B   e, encrypted with the fleet's key: who has another one is found out here
//! A ← B   e, ee, s, es
//! A → B   s, se
//! ```
//!
//! Both learn the other's static key, which is its `RelayId`; payloads are empty. Then each message is a piece of the
//! stream, of at most `MAX_PIECE_BYTES`.

use std::fmt;

use snow::{Builder, HandshakeState, TransportState};
use zeroize::Zeroizing;

use super::resolver::{Resolver, StaticKey};
use crate::id::RelayId;

const NAME: &str = "Noise_XXpsk0_25519_ChaChaPoly_SHA256";
const PROLOGUE: &[u8] = b"remora mesh 1";
/// Bytes that the AEAD adds.
const TAG_BYTES: usize = 16;
/// Largest message of the handshake: two keys and three tags are 112 bytes.
pub const MAX_HANDSHAKE_BYTES: usize = 128;
/// Most that is encrypted at once.
pub const MAX_PIECE_BYTES: usize = 16 << 10;
/// Largest message after the handshake.
pub const MAX_SEALED_BYTES: usize = MAX_PIECE_BYTES + TAG_BYTES;

/// What all relays of a fleet have, and nobody else.
#[derive(Clone, PartialEq, Eq)]
pub struct FleetKey(pub Zeroizing<[u8; 32]>);

/// Shows nothing.
impl fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetKey").finish_non_exhaustive()
    }
}

/// Why a message is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The first one, which needs nothing but the fleet's key.
    #[error("the other has another fleet key")]
    FleetKey,
    /// Any other one.
    #[error("the stream was changed on its way, or the other speaks something else")]
    Message,
}

/// A handshake under way.
pub struct Handshake {
    state: Box<HandshakeState>,
    has_begun: bool,
}

/// Shows nothing.
impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").finish_non_exhaustive()
    }
}

impl Handshake {
    /// Of the relay that opened the stream.
    pub fn initiator(key: &StaticKey, fleet: &FleetKey) -> Self {
        Self::new(key, fleet, |builder| builder.build_initiator())
    }

    /// Of the other one.
    pub fn responder(key: &StaticKey, fleet: &FleetKey) -> Self {
        Self::new(key, fleet, |builder| builder.build_responder())
    }

    fn new(
        key: &StaticKey,
        fleet: &FleetKey,
        role: impl FnOnce(Builder<'_>) -> Result<HandshakeState, snow::Error>,
    ) -> Self {
        let resolver = Box::new(Resolver::new(key));
        let name = NAME.parse().expect("snow knows the name");
        let built = Builder::with_resolver(name, resolver)
            .local_private_key(key.secret())
            .and_then(|builder| builder.prologue(PROLOGUE))
            .and_then(|builder| builder.psk(0, &fleet.0))
            .and_then(role);
        Self {
            state: Box::new(built.expect("keys of 32 bytes, each set once")),
            has_begun: false,
        }
    }

    /// Whether it is this side's turn.
    pub fn is_my_turn(&self) -> bool {
        self.state.is_my_turn()
    }

    /// Whether all has been said.
    pub fn is_finished(&self) -> bool {
        self.state.is_handshake_finished()
    }

    /// The next message of this side.
    ///
    /// # Errors
    /// When it is not its turn.
    pub fn write(&mut self) -> Result<Vec<u8>, Broken> {
        self.has_begun = true;
        let mut out = vec![0; MAX_HANDSHAKE_BYTES];
        let length = self.state.write_message(&[], &mut out);
        out.truncate(length.map_err(|_| Broken::Message)?);
        Ok(out)
    }

    /// Takes the other's next message.
    ///
    /// # Errors
    /// It is none.
    pub fn read(&mut self, message: &[u8]) -> Result<(), Broken> {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let mut out = [0; MAX_HANDSHAKE_BYTES];
        match self.state.read_message(message, &mut out) {
            Ok(_) => Ok(()),
            Err(snow::Error::Decrypt) if is_first => Err(Broken::FleetKey),
            Err(_) => Err(Broken::Message),
        }
    }

    /// The stream that follows.
    ///
    /// # Errors
    /// When it is not finished.
    pub fn into_link(self) -> Result<Link, Broken> {
        let peer = self
            .state
            .get_remote_static()
            .and_then(|key| key.try_into().ok());
        let peer = RelayId(peer.ok_or(Broken::Message)?);
        let transport = self
            .state
            .into_transport_mode()
            .map_err(|_| Broken::Message)?;
        Ok(Link {
            peer,
            transport: Box::new(transport),
        })
    }
}

/// A stream between two relays that know each other.
pub struct Link {
    peer: RelayId,
    transport: Box<TransportState>,
}

/// Shows whom it leads to.
impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Who the other one is.
    pub fn peer(&self) -> RelayId {
        self.peer
    }

    /// Encrypts a piece of at most [`MAX_PIECE_BYTES`] behind what `out` holds.
    ///
    /// # Errors
    /// When the piece is longer, or nothing can be encrypted any more (Noise §5.1).
    pub fn seal(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        if piece.len() > MAX_PIECE_BYTES {
            return Err(Broken::Message);
        }
        let start = out.len();
        out.resize(start + piece.len() + TAG_BYTES, 0);
        let sealed = self.transport.write_message(piece, &mut out[start..]);
        sealed.map(drop).map_err(|_| Broken::Message)
    }

    /// Decrypts a message into `out`, in place of what it held.
    ///
    /// # Errors
    /// It is not the other's next one.
    pub fn open(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        out.resize(message.len(), 0);
        let length = self.transport.read_message(message, out);
        out.truncate(length.map_err(|_| Broken::Message)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(byte: u8) -> FleetKey {
        FleetKey([byte; 32].into())
    }

    fn greet(one: &mut Handshake, other: &mut Handshake) -> Result<(), Broken> {
        while !one.is_finished() {
            let (from, to) = if one.is_my_turn() {
                (&mut *one, &mut *other)
            } else {
                (&mut *other, &mut *one)
            };
            let message = from.write()?;
            assert!(message.len() <= MAX_HANDSHAKE_BYTES);
            to.read(&message)?;
        }
        Ok(())
    }

    #[test]
    fn two_relays_of_a_fleet_learn_who_they_are_and_talk() {
        let keys = [StaticKey::generate(), StaticKey::generate()];
        let mut one = Handshake::initiator(&keys[0], &fleet(1));
        let mut other = Handshake::responder(&keys[1], &fleet(1));
        greet(&mut one, &mut other).expect("the same fleet");
        let (mut one, mut other) = (
            one.into_link().expect("finished"),
            other.into_link().expect("finished"),
        );
        assert_eq!(one.peer().0, keys[1].public());
        assert_eq!(other.peer().0, keys[0].public());
        let (mut sealed, mut opened) = (Vec::new(), Vec::new());
        for piece in [&b""[..], b"a piece", &[7; MAX_PIECE_BYTES]] {
            sealed.clear();
            one.seal(piece, &mut sealed).expect("not too long");
            assert!(sealed.len() <= MAX_SEALED_BYTES);
            other.open(&sealed, &mut opened).expect("as it was sent");
            assert_eq!(opened, piece);
        }
        assert_eq!(
            other.open(&sealed, &mut opened),
            Err(Broken::Message),
            "again"
        );
        let too_long = [0; MAX_PIECE_BYTES + 1];
        assert_eq!(one.seal(&too_long, &mut sealed), Err(Broken::Message));
    }

    #[test]
    fn another_fleets_key_is_named_at_the_first_message() {
        let keys = [StaticKey::generate(), StaticKey::generate()];
        let mut one = Handshake::initiator(&keys[0], &fleet(1));
        let mut other = Handshake::responder(&keys[1], &fleet(2));
        assert_eq!(greet(&mut one, &mut other), Err(Broken::FleetKey));
        assert_eq!(other.read(&[0; 5]), Err(Broken::Message));
        assert!(one.into_link().is_err());
    }
}
