//! Checks: "does this reach you?", "yes, and it came from there". Sealed from end to end.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | type, 0x06 |
//! | 1 | 1 | 0 question, 1 answer |
//! | 2 | 8 | session id, big endian: whose it is |
//! | 10 | 8 | number of this check among the sender's, big endian, from 1 |
//! | 18 | 8 | sealed: answer: the question's number; else 0 |
//! | 26 | 19 | sealed: answer: the address the question came from (`wire::address`); else 0 |
//! | 45 | 16 | tag of ChaCha20-Poly1305 (RFC 8439); what is not sealed is authenticated |
//! | 61 | 1,151 | question, but through a relay, or of one: 0 |
//!
//! A question is as long as the longest frame of a session, so that its answer says that frames of this length arrive. An
//! answer is short: nobody gets more than was sent for it.
//!
//! Each side has a key to send, from the inner connection's exporter, so that nothing it says can be said to itself; the number
//! is the nonce, and is taken once (`Window`).

use std::{fmt, net::SocketAddr};

use aws_lc_rs::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    digest::{Context, SHA256},
};
use zeroize::Zeroizing;

use crate::{
    id::{SessionId, Side},
    wire::{FIRST_BYTE_CHECK, address, frame::HEADER_LEN},
};

/// Length of a check, without what a question is filled up with.
pub const LEN: usize = 61;
/// Length of a question: a frame's header, and a packet of 1,200 bytes.
pub const QUESTION_LEN: usize = HEADER_LEN + 1200;
const HEAD_LEN: usize = 18;
const TAG_LEN: usize = 16;
const SEALED_LEN: usize = LEN - HEAD_LEN - TAG_LEN;
const KEY_LEN: usize = 32;
const LABEL: &[u8] = b"remora path";
/// Length of what a relay tells another one for [`Keys::of_relays`].
pub const PART_LEN: usize = 32;
const RELAY_LABEL: &[u8] = b"remora relay path";

/// What a check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saying {
    /// Does this reach you?
    Question,
    /// Question number `of` did, from `seen`.
    Answer {
        /// Its number.
        of: u64,
        /// Where it came from.
        seen: SocketAddr,
    },
}

/// The session that a datagram says it checks a path of; whether it does is for its [`Keys`] to say.
pub fn session(datagram: &[u8]) -> Option<SessionId> {
    if ![LEN, QUESTION_LEN].contains(&datagram.len()) {
        return None;
    }
    let datagram: &[u8; LEN] = datagram.first_chunk()?;
    let [FIRST_BYTE_CHECK, 0..=1, rest @ ..] = datagram else {
        return None;
    };
    Some(SessionId(u64::from_be_bytes(*rest.first_chunk()?)))
}

/// One side's keys for the checks of a session.
pub struct Keys {
    session: SessionId,
    side: Side,
    own: LessSafeKey,
    peer: LessSafeKey,
    /// Of the last check sealed.
    number: u64,
    window: Window,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({:?})", self.session)
    }
}

impl Keys {
    /// From the inner connection's exporter (RFC 8446 §7.5): a function of output, label and context.
    ///
    /// # Errors
    /// The exporter's: the handshake is not over.
    pub fn export<E>(
        session: SessionId,
        side: Side,
        exporter: impl FnOnce(&mut [u8], &[u8], &[u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut bytes = Zeroizing::new([0; 2 * KEY_LEN]);
        exporter(&mut bytes[..], LABEL, &[])?;
        let (host, joiner) = bytes.split_at(KEY_LEN);
        let (own, peer) = match side {
            Side::Host => (host, joiner),
            Side::Joiner => (joiner, host),
        };
        Ok(Self {
            session,
            side,
            own: key(own),
            peer: key(peer),
            number: 0,
            window: Window::default(),
        })
    }

    /// From what two relays have told each other in private, the one with the lower id (the host's side) and the other: neither
    /// part is used again when one of the two begins anew, or a nonce would be.
    pub fn of_relays(side: Side, lower: &[u8; PART_LEN], higher: &[u8; PART_LEN]) -> Self {
        let derived = |number: u8| {
            let mut hash = Context::new(&SHA256);
            hash.update(RELAY_LABEL);
            hash.update(&[number]);
            hash.update(lower);
            hash.update(higher);
            hash.finish()
        };
        let [host, joiner, name] = [0, 1, 2].map(derived);
        let (own, peer) = match side {
            Side::Host => (host, joiner),
            Side::Joiner => (joiner, host),
        };
        let name = name.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
        Self {
            session: SessionId(u64::from_be_bytes(*name)),
            side,
            own: key(own.as_ref()),
            peer: key(peer.as_ref()),
            number: 0,
            window: Window::default(),
        }
    }

    /// What stands in each of its checks.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Whose they are.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Leaves out so many numbers: of one that nobody can guess, somebody who names it has read it.
    pub fn skip(&mut self, numbers: u64) {
        self.number = self.number.saturating_add(numbers);
    }

    /// The next check, and its number.
    pub fn seal(&mut self, saying: Saying) -> (u64, [u8; LEN]) {
        self.number += 1;
        let mut bytes = [0; LEN];
        bytes[0] = FIRST_BYTE_CHECK;
        bytes[2..10].copy_from_slice(&self.session.0.to_be_bytes());
        bytes[10..HEAD_LEN].copy_from_slice(&self.number.to_be_bytes());
        if let Saying::Answer { of, seen } = saying {
            bytes[1] = 1;
            bytes[HEAD_LEN..HEAD_LEN + 8].copy_from_slice(&of.to_be_bytes());
            bytes[HEAD_LEN + 8..LEN - TAG_LEN].copy_from_slice(&address::encode(seen));
        }
        let (head, rest) = bytes.split_at_mut(HEAD_LEN);
        let (sealed, tag) = rest.split_at_mut(SEALED_LEN);
        let sealed_tag = self
            .own
            .seal_in_place_separate_tag(nonce(self.number), Aad::from(head), sealed)
            .expect("a few bytes can be sealed");
        tag.copy_from_slice(sealed_tag.as_ref());
        (self.number, bytes)
    }

    /// What the other side says, if it says it, to this session, for the first time; and the number of that.
    pub fn open(&mut self, datagram: &[u8]) -> Option<(u64, Saying)> {
        session(datagram).filter(|session| *session == self.session)?;
        let mut bytes: [u8; LEN] = *datagram.first_chunk()?;
        let number = u64::from_be_bytes(*bytes[10..].first_chunk()?);
        if !self.window.is_new(number) {
            return None;
        }
        let (head, rest) = bytes.split_at_mut(HEAD_LEN);
        let sealed = self
            .peer
            .open_in_place(nonce(number), Aad::from(&*head), rest)
            .ok()?;
        let saying = if head[1] == 0 {
            Saying::Question
        } else {
            Saying::Answer {
                of: u64::from_be_bytes(*sealed.first_chunk()?),
                seen: address::decode(&sealed[8..])?,
            }
        };
        self.window.take(number);
        Some((number, saying))
    }
}

fn key(bytes: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("a key has 32 bytes"))
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Numbers that have come, of the last 64 (RFC 4303 §3.4.3): each is taken once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    highest: u64,
    /// Bit `n`: `highest - n` has come.
    seen: u64,
}

impl Window {
    /// Whether a number has not come yet, as far as that is known.
    pub fn is_new(&self, number: u64) -> bool {
        match self.highest.checked_sub(number) {
            None => true,
            Some(back) => number != 0 && back < 64 && self.seen & (1 << back) == 0,
        }
    }

    /// It has.
    pub fn take(&mut self, number: u64) {
        match self.highest.checked_sub(number) {
            Some(back) if back < 64 => self.seen |= 1 << back,
            Some(_) => {}
            None => {
                let ahead = number - self.highest;
                self.seen = if ahead < 64 { self.seen << ahead } else { 0 } | 1;
                self.highest = number;
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{collections::BTreeSet, convert::Infallible};

    use proptest::prelude::*;

    use super::*;

    /// Both sides' keys.
    pub(in crate::path) fn pair() -> (Keys, Keys) {
        let keys = |side| {
            Keys::export(SessionId(7), side, |out, label, _| {
                assert_eq!(label, LABEL);
                out[..KEY_LEN].fill(1);
                out[KEY_LEN..].fill(2);
                Ok::<_, Infallible>(())
            })
            .expect("it exports")
        };
        (keys(Side::Host), keys(Side::Joiner))
    }

    #[test]
    fn what_one_says_the_other_hears_once() {
        let (mut host, mut joiner) = pair();
        let (number, question) = host.seal(Saying::Question);
        assert_eq!(session(&question), Some(SessionId(7)));
        assert_eq!(joiner.open(&question), Some((number, Saying::Question)));
        assert_eq!(joiner.open(&question), None, "a replay");
        for seen in ["203.0.113.7:9", "[2001:db8::1]:65535"] {
            let seen = seen.parse().expect("an address");
            let answer = Saying::Answer { of: number, seen };
            let (_, bytes) = joiner.seal(answer);
            assert_eq!(bytes.len(), question.len());
            assert_eq!(host.open(&bytes).map(|(_, saying)| saying), Some(answer));
        }
    }

    #[test]
    fn nothing_comes_back_as_if_the_other_had_said_it() {
        let (mut host, _) = pair();
        let (_, question) = host.seal(Saying::Question);
        assert_eq!(host.open(&question), None);
    }

    #[test]
    fn no_bit_of_it_can_be_changed() {
        let (mut host, mut joiner) = pair();
        let (_, question) = host.seal(Saying::Question);
        for bit in 0..LEN * 8 {
            let mut forged = question;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(joiner.open(&forged), None, "bit {bit}");
        }
        assert!(joiner.open(&question).is_some(), "forgeries take no number");
    }

    proptest! {
        #[test]
        fn a_number_is_new_once(numbers in prop::collection::vec(1..200_u64, 0..300)) {
            let (mut window, mut seen) = (Window::default(), BTreeSet::new());
            for number in numbers {
                let is_new = window.is_new(number);
                prop_assert!(!(is_new && seen.contains(&number)), "{number} twice");
                let highest = seen.last().copied().unwrap_or(0);
                if !seen.contains(&number) && number + 63 >= highest {
                    prop_assert!(is_new, "{number} is not too old");
                }
                if is_new {
                    window.take(number);
                    seen.insert(number);
                }
            }
        }

        #[test]
        fn garbage_is_nothing(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            prop_assert_eq!(pair().0.open(&bytes), None);
        }
    }
}
