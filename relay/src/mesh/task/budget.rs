//! What one relay may ask, pure.
//!
//! Hellos have a bucket of their own: a relay that has many records to hand out is here all the same, and says so.

use std::time::Instant;

use remora_proto::wire::message::mesh::request::Body as Ask;

use crate::rate::{Rate, TokenBucket};

/// Hellos of one relay: one every few seconds, and one with each connection that is its first.
const HELLO_RATE: Rate = Rate::per_second(1, 20);
/// All else that it asks: some hundred introductions a second, which take five requests each, or as many records as are verified in a
/// twentieth of a core.
const REQUEST_RATE: Rate = Rate::per_second(500, 2000);

/// Of one relay.
#[derive(Debug)]
pub(super) struct Budget {
    hellos: TokenBucket,
    requests: TokenBucket,
}

impl Budget {
    /// Unused.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            hellos: TokenBucket::new(now),
            requests: TokenBucket::new(now),
        }
    }

    /// Whether it may ask this now.
    pub(super) fn take(&mut self, ask: Option<&Ask>, now: Instant) -> bool {
        let (bucket, rate) = match ask {
            Some(Ask::Hello(_)) => (&mut self.hellos, HELLO_RATE),
            Some(_) | None => (&mut self.requests, REQUEST_RATE),
        };
        bucket.take(rate, 1, now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use remora_proto::wire::message::mesh::{Find, Hello};

    use super::*;

    #[test]
    fn who_asks_too_much_is_heard_to_be_here_and_who_only_says_so_may_not_say_it_for_ever() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let (hello, find) = (Ask::Hello(Hello::default()), Ask::Find(Find::default()));
        let asked = (0..10_000).filter(|_| budget.take(Some(&find), now));
        assert_eq!(asked.count(), 2000);
        assert!(!budget.take(None, now), "what makes no sense counts, too");
        let greeted = (0..10_000).filter(|_| budget.take(Some(&hello), now));
        assert_eq!(greeted.count(), 20);
        let later = now + Duration::from_secs(3);
        assert!(budget.take(Some(&hello), later) && budget.take(Some(&find), later));
    }
}
