//! `Noise_XX_25519_ChaChaPoly_SHA256` between a helper and a device, in pieces of at most `MAX_SIGNAL_BYTES`; prologue
//! `"remora device 1"` and the device's id.
//!
//! ```text
//! H → D   e                                   with Ring
//! H ← D   e, ee, s, es, {signature}           the device's, of "remora device 1 answers" ‖ H's e ‖ D's s
//! H → D   s, se
//! then each message in pieces: 1 byte (1: the last one), at most 480 bytes
//! ```
//!
//! The signature makes the device's static key, which is its node's, the device's: it is for this handshake alone, whose other half
//! nobody has who did not make `e`. The helper proves the key that its papers name.

use std::fmt;

use bytes::Bytes;
use ed25519_dalek::{Signature, VerifyingKey};
use prost::Message;
use snow::{Builder, HandshakeState, TransportState};

use crate::{
    id::{DeviceId, NodeId},
    noise::{StaticKey, resolver::Resolver},
    presence::Device,
    wire::message::MAX_SIGNAL_BYTES,
};

const NAME: &str = "Noise_XX_25519_ChaChaPoly_SHA256";
const PROLOGUE: &[u8] = b"remora device 1";
const ANSWERS: &[u8] = b"remora device 1 answers";
/// Of X25519.
const KEY_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;
/// Most of a message in one piece: with its first byte and the AEAD's tag it fits a signal.
const PIECE_BYTES: usize = 480;
/// Largest message.
pub const MAX_WORD_BYTES: usize = 4096;

/// What came is not the other's next message, or somebody has changed it, or it is not who it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other is not who it should be, or something in between interferes")]
pub struct Broken;

impl From<snow::Error> for Broken {
    fn from(_: snow::Error) -> Self {
        Self
    }
}

fn start(
    device: DeviceId,
    key: &StaticKey,
    role: impl FnOnce(Builder<'_>) -> Result<HandshakeState, snow::Error>,
) -> Box<HandshakeState> {
    let resolver = Box::new(Resolver::new(key));
    let prologue = [PROLOGUE, &device.0].concat();
    let name = NAME.parse().expect("snow knows the name");
    let built = Builder::with_resolver(name, resolver)
        .local_private_key(key.secret())
        .and_then(|builder| builder.prologue(&prologue))
        .and_then(role);
    Box::new(built.expect("a key of 32 bytes, set once"))
}

fn write(state: &mut HandshakeState, payload: &[u8]) -> Result<Bytes, Broken> {
    let mut out = vec![0; MAX_SIGNAL_BYTES];
    let length = state.write_message(payload, &mut out)?;
    out.truncate(length);
    Ok(out.into())
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, Broken> {
    let mut out = vec![0; message.len()];
    let length = state.read_message(message, &mut out)?;
    out.truncate(length);
    Ok(out)
}

/// What the device signs: `e` and `s` are 32 bytes each.
fn statement(e: &[u8], s: &[u8]) -> Vec<u8> {
    [ANSWERS, e, s].concat()
}

/// A helper that has rung and waits for the device's answer.
pub struct Ringing {
    state: Box<HandshakeState>,
    device: DeviceId,
    ephemeral: Bytes,
}

impl fmt::Debug for Ringing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ringing").field(&self.device).finish()
    }
}

impl Ringing {
    /// Of a helper with this static key; and the first message.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn new(device: DeviceId, key: &StaticKey) -> Result<(Self, Bytes), Broken> {
        let mut state = start(device, key, |builder| builder.build_initiator());
        let ephemeral = write(&mut state, &[])?;
        let first = ephemeral.clone();
        let ringing = Self {
            state,
            device,
            ephemeral,
        };
        Ok((ringing, first))
    }

    /// Takes the device's answer; the channel, and the last message of the handshake.
    ///
    /// # Errors
    /// [`Broken`]: it is not that device's.
    pub fn handle_answer(mut self, message: &[u8]) -> Result<(Channel, Bytes), Broken> {
        let proof = read(&mut self.state, message)?;
        let proof = <[u8; SIGNATURE_BYTES]>::try_from(proof).map_err(|_| Broken)?;
        let peer = peer(&self.state)?;
        let device = VerifyingKey::from_bytes(&self.device.0).map_err(|_| Broken)?;
        let ephemeral = self.ephemeral.get(..KEY_BYTES).ok_or(Broken)?;
        let statement = statement(ephemeral, &peer.0);
        device
            .verify_strict(&statement, &Signature::from_bytes(&proof))
            .map_err(|_| Broken)?;
        let last = write(&mut self.state, &[])?;
        Ok((Channel::new(*self.state)?, last))
    }
}

/// A device that has answered and waits for the helper's proof.
pub struct Answering {
    state: Box<HandshakeState>,
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answering").finish_non_exhaustive()
    }
}

impl Answering {
    /// Of `device`, whose node has the static key `key`; and the answer to the helper's `first` message.
    ///
    /// # Errors
    /// [`Broken`]: that is none.
    pub fn new(device: &Device, key: &StaticKey, first: &[u8]) -> Result<(Self, Bytes), Broken> {
        let mut state = start(device.id(), key, |builder| builder.build_responder());
        read(&mut state, first)?;
        let ephemeral = first.get(..KEY_BYTES).ok_or(Broken)?;
        let proof = device.sign(&statement(ephemeral, &key.public()));
        let answer = write(&mut state, &proof)?;
        Ok((Self { state }, answer))
    }

    /// Takes the helper's last message of the handshake.
    ///
    /// # Errors
    /// [`Broken`]
    pub fn handle_last(mut self, message: &[u8]) -> Result<Channel, Broken> {
        read(&mut self.state, message)?;
        Channel::new(*self.state)
    }
}

fn peer(state: &HandshakeState) -> Result<NodeId, Broken> {
    let key = state.get_remote_static().ok_or(Broken)?;
    key.try_into().map(NodeId).map_err(|_| Broken)
}

/// The two, who know each other.
pub struct Channel {
    transport: Box<TransportState>,
    peer: NodeId,
    /// Of a message whose last piece has not come.
    partial: Vec<u8>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.peer).finish()
    }
}

impl Channel {
    fn new(state: HandshakeState) -> Result<Self, Broken> {
        Ok(Self {
            peer: peer(&state)?,
            transport: Box::new(state.into_transport_mode()?),
            partial: Vec::new(),
        })
    }

    /// The other's static key, proven.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// The pieces of a message, in order.
    ///
    /// # Errors
    /// [`Broken`]: it is longer than [`MAX_WORD_BYTES`].
    pub fn seal(&mut self, message: &impl Message) -> Result<Vec<Bytes>, Broken> {
        let bytes = message.encode_to_vec();
        if bytes.len() > MAX_WORD_BYTES {
            return Err(Broken);
        }
        let mut pieces: Vec<_> = bytes.chunks(PIECE_BYTES).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        let last = pieces.len() - 1;
        let seal = |(n, piece): (usize, &&[u8])| -> Result<Bytes, Broken> {
            let plain = [&[u8::from(n == last)], *piece].concat();
            let mut out = vec![0; MAX_SIGNAL_BYTES];
            let length = self.transport.write_message(&plain, &mut out)?;
            out.truncate(length);
            Ok(out.into())
        };
        pieces.iter().enumerate().map(seal).collect()
    }

    /// Takes a piece; the message, when it was the last of one.
    ///
    /// # Errors
    /// [`Broken`]: nothing that follows can be read either.
    pub fn open<M: Message + Default>(&mut self, piece: &[u8]) -> Result<Option<M>, Broken> {
        let mut plain = vec![0; piece.len()];
        let length = self.transport.read_message(piece, &mut plain)?;
        let (&is_last, part) = plain[..length].split_first().ok_or(Broken)?;
        if self.partial.len() + part.len() > MAX_WORD_BYTES {
            return Err(Broken);
        }
        self.partial.extend_from_slice(part);
        match is_last {
            0 => Ok(None),
            1 => {
                let whole = std::mem::take(&mut self.partial);
                M::decode(&whole[..]).map(Some).map_err(|_| Broken)
            }
            _ => Err(Broken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::device::Declined;

    fn two() -> (Channel, Channel) {
        let device = Device::new(&[3; 32]);
        let (helper, node) = (StaticKey::generate(), StaticKey::generate());
        let (ringing, first) = Ringing::new(device.id(), &helper).expect("rings");
        let (answering, answer) = Answering::new(&device, &node, &first).expect("answers");
        let (mut at_helper, last) = ringing.handle_answer(&answer).expect("it is the device");
        let at_device = answering.handle_last(&last).expect("it is the helper");
        assert_eq!(at_helper.peer(), NodeId(node.public()));
        assert_eq!(at_device.peer(), NodeId(helper.public()));
        assert!(at_helper.seal(&word(MAX_WORD_BYTES)).is_err());
        (at_helper, at_device)
    }

    fn word(bytes: usize) -> Declined {
        Declined {
            invitation: vec![7; bytes].into(),
        }
    }

    #[test]
    fn words_of_any_length_arrive_whole_and_fit_the_relays_signals() {
        let (mut helper, mut device) = two();
        for bytes in [0, 1, 477, 478, 479, 1500, 4000] {
            let pieces = helper.seal(&word(bytes)).expect("short enough");
            let (last, before) = pieces.split_last().expect("at least one");
            for piece in before {
                assert!(piece.len() <= MAX_SIGNAL_BYTES);
                assert_eq!(device.open::<Declined>(piece), Ok(None));
            }
            assert_eq!(device.open(last), Ok(Some(word(bytes))));
        }
    }

    #[test]
    fn another_device_is_found_out_and_so_is_a_relay_that_answers_for_it() {
        let (device, other) = (Device::new(&[3; 32]), Device::new(&[4; 32]));
        let (helper, node) = (StaticKey::generate(), StaticKey::generate());
        let (ringing, first) = Ringing::new(device.id(), &helper).expect("rings");
        let (_, answer) = Answering::new(&other, &node, &first).expect("answers");
        assert_eq!(ringing.handle_answer(&answer).err(), Some(Broken));
        // One that has the prologue right, and the device's signature of another handshake.
        let (ringing, first) = Ringing::new(device.id(), &helper).expect("rings");
        let mut state = start(device.id(), &node, |builder| builder.build_responder());
        read(&mut state, &first).expect("a first message");
        let old = device.sign(&statement(&[9; 32], &node.public()));
        let answer = write(&mut state, &old).expect("written");
        assert_eq!(ringing.handle_answer(&answer).err(), Some(Broken));
    }

    #[test]
    fn what_was_changed_cut_or_repeated_is_refused() {
        let (mut helper, mut device) = two();
        let piece = helper.seal(&word(9)).expect("short").remove(0);
        let mut changed = piece.to_vec();
        changed[3] ^= 1;
        for bad in [&changed[..], &piece[1..], &[]] {
            assert_eq!(device.open::<Declined>(bad), Err(Broken));
        }
        assert!(device.open::<Declined>(&piece).expect("whole").is_some());
        assert_eq!(device.open::<Declined>(&piece), Err(Broken));
    }
}
