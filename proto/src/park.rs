//! Parking: an idle node gives its connection up and keeps its place.
//!
//! A QUIC connection costs a relay some ten kilobytes, whether anything is said on it or not, and nodes that wait for days
//! say nothing. So a node that has been silent for a while asks to be parked: both ends export a `Grant` from the
//! connection and let the connection go. What is left are datagrams of 34 bytes, each with the grant's tag:
//!
//! ```text
//!  node                                relay
//!   │ ── Park (control stream) ─────────▶ │   Grant = exporter(connection)
//!   │ ◀───────────── Done, connection ── │   closed
//!   │ ── Keep(n) every 20 s ────────────▶ │   keeps the NAT's mapping and the relay's patience
//!   │ ◀────────────────────── Kept(n) ── │
//!   │ ◀───────────────────────── Wake ── │   there is something to say, or the node has another address
//!   │ ══ new connection, Hello(ticket) ═▶ │   as if it had never been away
//! ```
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | type, 0x07 |
//! | 1 | 1 | what it says |
//! | 2 | 8 | ticket, big endian |
//! | 10 | 8 | counter, big endian |
//! | 18 | 16 | tag: the first half of HMAC-SHA-256 over all before it (RFC 2104, truncated as in its section 5) |
//!
//! A tag proves who says something, not from where: a datagram can be caught and sent on from elsewhere. So nothing here moves
//! a node to another address or tells anybody anything: whoever wakes up proves itself in a handshake, and a relay takes each
//! counter once. All datagrams are of one length: an answer is never longer than the question. The ticket is in clear, and the
//! same until the node comes back: whoever watches two networks sees that a node has gone from one to the other, as with a
//! connection id that is not changed.

use std::{
    fmt,
    time::{Duration, Instant},
};

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::wire::FIRST_BYTE_PARK;

/// The code with which a relay closes the connection of a node that it has parked.
pub const CLOSE_CODE: u32 = 6;
/// Length of every datagram.
pub const LEN: usize = 34;
/// How often a parked node says that it is there: NATs forget a mapping after 30 s (RFC 4787 §4.3 would have 2 minutes).
pub const KEEP_INTERVAL: Duration = Duration::from_secs(20);
/// The same of one for whom somebody may come at any moment: it has to hear soon that the relay is gone. Codes are few next to all nodes
/// that are idle, and live for ten minutes.
pub const ATTENTIVE_INTERVAL: Duration = Duration::from_secs(6);
/// When a relay forgets a parked node that says nothing; two of three may be lost.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// A node asks again so long after a Keep that got no answer, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Unanswered after the first one, a Keep means that nobody is there: 7 s.
const KEEP_RETRIES: u32 = 3;
/// The same for the last words, which nobody is to wait for.
const LEAVE_RETRY: Duration = Duration::from_millis(100);
const LEAVE_RETRIES: u32 = 2;
const LABEL: &[u8] = b"remora park";
const TAG_LEN: usize = 16;
const HEAD_LEN: usize = LEN - TAG_LEN;
const KEY_LEN: usize = 32;
const TICKET_LEN: usize = 8;

/// What a datagram says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saying {
    /// Node: I am here. Each with a counter of its own, which grows.
    Keep = 0,
    /// Node: I go.
    Bye = 1,
    /// Relay, to a Keep and with its counter: so you are.
    Kept = 2,
    /// Relay: come back.
    Wake = 3,
    /// Relay: I go.
    Gone = 4,
    /// Relay, with the counter of what it answers: I know no such ticket. Without a tag, for want of a key: it only makes a node
    /// try to come back.
    Unknown = 5,
}

impl Saying {
    const ALL: [Self; 6] = [
        Self::Keep,
        Self::Bye,
        Self::Kept,
        Self::Wake,
        Self::Gone,
        Self::Unknown,
    ];
}

/// A datagram; whether it is true is a [`Grant`]'s to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// What it says.
    pub saying: Saying,
    /// Whose it is.
    pub ticket: u64,
    /// See [`Saying`]; else 0.
    pub counter: u64,
}

impl Datagram {
    /// Reads one, as far as that goes without a key; `None` when it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.try_into().ok()?;
        let [FIRST_BYTE_PARK, saying, rest @ ..] = bytes else {
            return None;
        };
        let (ticket, rest) = rest.split_first_chunk()?;
        let counter = rest.first_chunk()?;
        Some(Self {
            saying: *Saying::ALL.get(usize::from(*saying))?,
            ticket: u64::from_be_bytes(*ticket),
            counter: u64::from_be_bytes(*counter),
        })
    }

    fn head(self) -> [u8; HEAD_LEN] {
        let mut head = [0; HEAD_LEN];
        head[..2].copy_from_slice(&[FIRST_BYTE_PARK, self.saying as u8]);
        head[2..10].copy_from_slice(&self.ticket.to_be_bytes());
        head[10..].copy_from_slice(&self.counter.to_be_bytes());
        head
    }

    /// What a relay says to a ticket that it does not know.
    pub fn unknown(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let answer = Self {
            saying: Saying::Unknown,
            ..self
        };
        bytes[..HEAD_LEN].copy_from_slice(&answer.head());
        bytes
    }
}

/// What both ends keep of a connection.
#[derive(Clone)]
pub struct Grant {
    ticket: u64,
    key: Zeroizing<[u8; KEY_LEN]>,
}

/// Shows the ticket.
impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grant({:016x})", self.ticket)
    }
}

impl Grant {
    /// From a connection's exporter (RFC 8446 §7.5): a function of output, label and context. The same at both ends, and
    /// nowhere else; a connection has one.
    ///
    /// # Errors
    /// The exporter's: the handshake is not over.
    pub fn export<E>(
        exporter: impl FnOnce(&mut [u8], &[u8], &[u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut bytes = Zeroizing::new([0; TICKET_LEN + KEY_LEN]);
        exporter(&mut bytes[..], LABEL, &[])?;
        let (mut ticket, mut key) = ([0; TICKET_LEN], Zeroizing::new([0; KEY_LEN]));
        ticket.copy_from_slice(&bytes[..TICKET_LEN]);
        key.copy_from_slice(&bytes[TICKET_LEN..]);
        // 0 in a Hello says that there is none.
        let ticket = u64::from_be_bytes(ticket).max(1);
        Ok(Self { ticket, key })
    }

    /// Its name, which everybody may see.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// The datagram that says so.
    pub fn seal(&self, saying: Saying, counter: u64) -> [u8; LEN] {
        let ticket = self.ticket;
        let head = Datagram {
            saying,
            ticket,
            counter,
        }
        .head();
        let mut bytes = [0; LEN];
        bytes[..HEAD_LEN].copy_from_slice(&head);
        bytes[HEAD_LEN..].copy_from_slice(&self.tag(&head));
        bytes
    }

    /// What a datagram says, if it comes from whoever has the same grant.
    pub fn open(&self, bytes: &[u8]) -> Option<Datagram> {
        let datagram = Datagram::decode(bytes).filter(|datagram| datagram.ticket == self.ticket)?;
        let (head, tag) = bytes.split_at(HEAD_LEN);
        bool::from(self.tag(head).ct_eq(tag)).then_some(datagram)
    }

    fn tag(&self, head: &[u8]) -> [u8; TAG_LEN] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key[..]);
        let tag = hmac::sign(&key, head);
        *tag.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
    }
}

/// What a parked node has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Connect again: the relay has something to say, has forgotten it, or does not answer.
    Wake,
    /// The relay is gone, or has heard the last words.
    Over,
}

impl Event {
    fn phase(self) -> Phase {
        match self {
            Self::Wake => Phase::Woken,
            Self::Over => Phase::Over,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Until then, all is well.
    Kept {
        until: Instant,
    },
    /// So many more times.
    Asking {
        retries: u32,
        next: Instant,
        interval: Duration,
    },
    Leaving {
        retries: u32,
        next: Instant,
    },
    /// It is to come back.
    Woken,
    Over,
}

/// A parked node. Its end of the machine; the relay's is its own.
#[derive(Debug)]
pub struct Parked {
    grant: Grant,
    /// Of the last datagram sent.
    counter: u64,
    /// Between two Keeps.
    interval: Duration,
    phase: Phase,
}

impl Parked {
    /// Parked at `now`; it says at once that it is.
    pub fn new(grant: Grant, now: Instant) -> Self {
        Self {
            grant,
            counter: 0,
            interval: KEEP_INTERVAL,
            phase: asking(now),
        }
    }

    /// The same, every [`ATTENTIVE_INTERVAL`].
    pub fn attentive(self) -> Self {
        Self {
            interval: ATTENTIVE_INTERVAL,
            ..self
        }
    }

    /// What it comes back with.
    pub fn ticket(&self) -> u64 {
        self.grant.ticket
    }

    /// It goes for good.
    pub fn leave(&mut self, now: Instant) {
        if self.phase != Phase::Over {
            self.phase = Phase::Leaving {
                retries: LEAVE_RETRIES + 1,
                next: now,
            };
        }
    }

    /// A datagram from the relay; also while the node is on its way back, for the relay may go meanwhile.
    pub fn handle(&mut self, bytes: &[u8], now: Instant) -> Option<Event> {
        let datagram = Datagram::decode(bytes)?;
        let is_answer = datagram.ticket == self.grant.ticket && datagram.counter == self.counter;
        let event = match (datagram.saying, self.phase) {
            (_, Phase::Over) => return None,
            (Saying::Unknown, Phase::Leaving { .. }) if is_answer => Event::Over,
            (Saying::Unknown, Phase::Asking { .. }) if is_answer => Event::Wake,
            (Saying::Kept, Phase::Asking { .. }) if is_answer => {
                self.grant.open(bytes)?;
                let until = now + self.interval;
                self.phase = Phase::Kept { until };
                return None;
            }
            (Saying::Wake, Phase::Kept { .. } | Phase::Asking { .. }) => {
                self.grant.open(bytes)?;
                Event::Wake
            }
            (Saying::Gone, _) => {
                self.grant.open(bytes)?;
                Event::Over
            }
            _ => return None,
        };
        self.phase = event.phase();
        Some(event)
    }

    /// Time has passed: a datagram to send, or what follows from silence.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Event> {
        if let Phase::Kept { until } = self.phase
            && until <= now
        {
            self.phase = asking(now);
        }
        let over = match self.phase {
            Phase::Asking { retries, next, .. } if retries == 0 && next <= now => Event::Wake,
            Phase::Leaving { retries, next } if retries == 0 && next <= now => Event::Over,
            Phase::Kept { .. }
            | Phase::Asking { .. }
            | Phase::Leaving { .. }
            | Phase::Woken
            | Phase::Over => return None,
        };
        self.phase = over.phase();
        Some(over)
    }

    /// A datagram for the relay; call until `None`.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<[u8; LEN]> {
        let saying = match &mut self.phase {
            Phase::Asking {
                retries,
                next,
                interval,
            } if *next <= now && *retries > 0 => {
                *retries -= 1;
                *next = now + *interval;
                *interval *= 2;
                Saying::Keep
            }
            Phase::Leaving { retries, next } if *next <= now && *retries > 0 => {
                *retries -= 1;
                *next = now + LEAVE_RETRY;
                Saying::Bye
            }
            Phase::Kept { .. }
            | Phase::Asking { .. }
            | Phase::Leaving { .. }
            | Phase::Woken
            | Phase::Over => return None,
        };
        self.counter += 1;
        Some(self.grant.seal(saying, self.counter))
    }

    /// When [`Self::handle_timeout`] and then [`Self::poll_transmit`] are due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Kept { until } => Some(until),
            Phase::Asking { next, .. } | Phase::Leaving { next, .. } => Some(next),
            Phase::Woken | Phase::Over => None,
        }
    }
}

fn asking(now: Instant) -> Phase {
    Phase::Asking {
        retries: KEEP_RETRIES,
        next: now,
        interval: FIRST_RETRY,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any moment is a start")]
    fn start() -> Instant {
        Instant::now()
    }

    fn grant(seed: u8) -> Grant {
        Grant::export(|out, label, context| {
            assert_eq!((label, context), (LABEL, &[][..]));
            out.fill(seed);
            Ok::<_, Infallible>(())
        })
        .expect("it exports")
    }

    fn keep(parked: &mut Parked, now: Instant) -> u64 {
        let bytes = parked.poll_transmit(now).expect("due");
        assert_eq!(parked.poll_transmit(now), None);
        let datagram = grant(7).open(&bytes).expect("its own");
        assert_eq!(datagram.saying, Saying::Keep);
        datagram.counter
    }

    #[test]
    fn the_layout_is_the_table() {
        let bytes = grant(1).seal(Saying::Kept, 0x0203_0405_0607_0809);
        assert_eq!(
            bytes[..HEAD_LEN],
            [7, 2, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        );
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
        let tag = hmac::sign(&key, &bytes[..HEAD_LEN]);
        assert_eq!(bytes[HEAD_LEN..], tag.as_ref()[..16]);
    }

    #[test]
    fn whoever_is_waited_for_hears_within_a_quarter_of_a_minute_that_the_relay_is_gone() {
        let now = start();
        let mut parked = Parked::new(grant(7), now).attentive();
        let counter = keep(&mut parked, now);
        assert_eq!(
            parked.handle(&grant(7).seal(Saying::Kept, counter), now),
            None
        );
        let mut at = now;
        while at < now + Duration::from_secs(15) {
            at = parked.poll_timeout().expect("due");
            if parked.handle_timeout(at) == Some(Event::Wake) {
                return;
            }
            parked.poll_transmit(at);
        }
        panic!("{:?} later it has not noticed", at - now);
    }

    #[test]
    fn no_bit_of_a_datagram_can_be_changed() {
        let bytes = grant(7).seal(Saying::Wake, 3);
        assert!(grant(7).open(&bytes).is_some());
        assert!(grant(8).open(&bytes).is_none());
        for bit in 0..LEN * 8 {
            let mut forged = bytes;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(grant(7).open(&forged), None, "bit {bit}");
        }
    }

    #[test]
    fn it_says_that_it_is_there_every_twenty_seconds() {
        let mut now = start();
        let mut parked = Parked::new(grant(7), now);
        for _ in 0..10 {
            let counter = keep(&mut parked, now);
            let kept = grant(7).seal(Saying::Kept, counter);
            assert_eq!(parked.handle(&kept, now), None);
            assert_eq!(parked.poll_timeout(), Some(now + KEEP_INTERVAL));
            now += KEEP_INTERVAL;
            assert_eq!(parked.handle_timeout(now), None);
        }
    }

    #[test]
    fn unanswered_it_asks_again_and_then_comes_back_by_itself() {
        let began = start();
        let mut now = began;
        let mut parked = Parked::new(grant(7), now);
        let mut said = 0;
        let event = loop {
            if let Some(event) = parked.handle_timeout(now) {
                break event;
            }
            // An answer to another question is none.
            let stale = grant(7).seal(Saying::Kept, keep(&mut parked, now) - 1);
            assert_eq!(parked.handle(&stale, now), None);
            said += 1;
            now = parked.poll_timeout().expect("it goes on");
        };
        assert_eq!(
            (event, said, now - began),
            (Event::Wake, 3, Duration::from_secs(7))
        );
        assert_eq!(parked.poll_timeout(), None);
    }

    #[test]
    fn only_its_relay_wakes_it_or_says_that_it_is_gone() {
        let now = start();
        for (saying, event) in [(Saying::Wake, Event::Wake), (Saying::Gone, Event::Over)] {
            let mut parked = Parked::new(grant(7), now);
            keep(&mut parked, now);
            assert_eq!(parked.handle(&grant(8).seal(saying, 0), now), None);
            let mut forged = grant(7).seal(saying, 0);
            forged[LEN - 1] ^= 1;
            assert_eq!(parked.handle(&forged, now), None);
            assert_eq!(parked.handle(&grant(7).seal(saying, 0), now), Some(event));
            assert_eq!(
                parked.handle(&grant(7).seal(saying, 0), now),
                None,
                "said once"
            );
            assert_eq!(parked.poll_timeout(), None);
            // On its way back, it hears that there is nobody any more.
            let over = (event == Event::Wake).then_some(Event::Over);
            let gone = grant(7).seal(Saying::Gone, 0);
            assert_eq!(parked.handle(&gone, now), over);
        }
    }

    #[test]
    fn a_relay_that_does_not_know_it_makes_it_come_back_if_that_answers_its_question() {
        let now = start();
        let mut parked = Parked::new(grant(7), now);
        let datagram = |counter| Datagram {
            saying: Saying::Keep,
            ticket: parked_ticket(),
            counter,
        };
        let counter = keep(&mut parked, now);
        assert_eq!(parked.handle(&datagram(counter + 1).unknown(), now), None);
        assert_eq!(
            parked.handle(&datagram(counter).unknown(), now),
            Some(Event::Wake)
        );
    }

    fn parked_ticket() -> u64 {
        grant(7).ticket()
    }

    #[test]
    fn last_words_are_said_until_they_are_heard_but_not_for_long() {
        let began = start();
        for is_heard in [true, false] {
            let mut now = began;
            let mut parked = Parked::new(grant(7), now);
            keep(&mut parked, now);
            parked.leave(now);
            let mut said = 0;
            let event = loop {
                if let Some(event) = parked.handle_timeout(now) {
                    break event;
                }
                let bytes = parked.poll_transmit(now).expect("due");
                let bye = grant(7).open(&bytes).expect("its own");
                assert_eq!(bye.saying, Saying::Bye);
                said += 1;
                if is_heard && said == 2 {
                    break parked.handle(&bye.unknown(), now).expect("heard");
                }
                now = parked.poll_timeout().expect("it goes on");
            };
            assert_eq!((event, said), (Event::Over, if is_heard { 2 } else { 3 }));
            assert!(now - began <= Duration::from_millis(300));
        }
    }

    proptest! {
        #[test]
        fn garbage_is_nobodys(
            bytes in prop::collection::vec(any::<u8>(), 0..40), saying in 0..8_u8, rest in any::<[u8; LEN - 10]>(), counter in 0..3_u8,
        ) {
            let now = start();
            // Such as begins as it should, for its own ticket, with the counter it waits for.
            let mut likely = [&[FIRST_BYTE_PARK, saying], &grant(7).ticket().to_be_bytes()[..], &rest].concat();
            likely[10..18].copy_from_slice(&u64::from(counter).to_be_bytes());
            for bytes in [&bytes, &likely] {
                let mut parked = Parked::new(grant(7), now);
                let asked = keep(&mut parked, now);
                let event = parked.handle(bytes, now);
                prop_assert_eq!(grant(7).open(bytes), None);
                let datagram = Datagram::decode(bytes);
                let is_unknown = datagram.is_some_and(|datagram| {
                    datagram.saying == Saying::Unknown && datagram.counter == asked
                });
                prop_assert_eq!(event, is_unknown.then_some(Event::Wake));
                if let Some(datagram) = datagram {
                    prop_assert_eq!(&datagram.head()[..], &bytes[..HEAD_LEN]);
                }
            }
        }
    }
}
