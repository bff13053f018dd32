//! 443/tcp: a WebSocket over TLS, each binary message of which is a datagram of the relay's UDP port, for networks that let
//! nothing else through.
//!
//! TCP delivers everything, however late; what is carried has its own means against loss and none against delay. So what
//! waits before a stream is a `Backlog`, which forgets.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

/// Where the WebSocket is asked for (RFC 6455 §4.1).
pub const PATH: &str = "/remora";
/// What TLS agrees on (RFC 7301): to whoever looks on, any page.
pub const ALPN: &[u8] = b"http/1.1";
/// Longest datagram; what is longer has no business here.
pub const MAX_DATAGRAM_BYTES: usize = 2048;
/// What the system holds of a stream that has not been sent (TCP_NOTSENT_LOWAT): a dozen datagrams, so that TCP never
/// waits for us and a keystroke hardly for a picture.
pub const UNSENT_BYTES: u32 = 16 << 10;
/// A stream on which the node has said nothing for so long is closed: its QUIC connection keeps itself alive three times as
/// often, so that the node has gone, or talks by UDP.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Datagrams in a backlog: a whole picture.
const MAX_DATAGRAMS: usize = 256;
/// A datagram that has waited for so long is dropped: QUIC then sends less, and what is behind it is not late, too. Longer
/// than TCP takes to repair a loss on most ways.
const MAX_WAIT: Duration = Duration::from_millis(250);

/// What waits for room in a stream, in order. Pure.
#[derive(Debug, Default)]
pub struct Backlog {
    waiting: VecDeque<(Instant, Bytes)>,
}

impl Backlog {
    /// Takes a datagram; false when there is no room for it.
    #[must_use]
    pub fn push(&mut self, datagram: Bytes, now: Instant) -> bool {
        let has_room = self.waiting.len() < MAX_DATAGRAMS;
        if has_room {
            self.waiting.push_back((now, datagram));
        }
        has_room
    }

    /// The next datagram, and how many before it have waited for too long.
    pub fn pop(&mut self, now: Instant) -> (Option<Bytes>, usize) {
        let mut late = 0;
        while let Some((since, datagram)) = self.waiting.pop_front() {
            if now.saturating_duration_since(since) <= MAX_WAIT {
                return (Some(datagram), late);
            }
            late += 1;
        }
        (None, late)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "an instant can only be had from the clock; tests count from here"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    proptest! {
        /// Whatever comes when: what leaves is in order, in time, and together with what is dropped all that came.
        #[test]
        fn a_backlog_forgets_what_is_late_and_nothing_else(
            steps in prop::collection::vec((0..40_u64, 0..4_u8), 0..2000),
        ) {
            let mut now = start();
            let (mut backlog, mut came, mut left, mut dropped) = (Backlog::default(), 0_u64, Vec::new(), 0);
            let mut at = Vec::new();
            for (wait_ms, step) in steps {
                now += Duration::from_millis(wait_ms);
                if step > 0 {
                    at.push(now);
                    let datagram = Bytes::copy_from_slice(&came.to_be_bytes());
                    came += 1;
                    let has_room = backlog.push(datagram, now);
                    dropped += usize::from(!has_room);
                } else {
                    let (datagram, late) = backlog.pop(now);
                    dropped += late;
                    if let Some(datagram) = datagram {
                        let number = u64::from_be_bytes(datagram[..].try_into().expect("eight bytes"));
                        prop_assert!(now - at[usize::try_from(number).expect("small")] <= MAX_WAIT);
                        left.push(number);
                    }
                }
                prop_assert!(backlog.waiting.len() <= MAX_DATAGRAMS);
            }
            prop_assert!(left.is_sorted_by(|a, b| a < b));
            prop_assert_eq!(left.len() + dropped + backlog.waiting.len(), usize::try_from(came).expect("small"));
        }
    }
}
