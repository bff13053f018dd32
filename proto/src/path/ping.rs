//! How long it takes there and back by the way that packets go just now: measured when somebody asks, and not when a schedule says.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::way::Way;

/// Questions whose answer would count. Whoever asks more often than answers come hears of the latest.
const REMEMBERED: usize = 4;
/// Measurements that nobody has taken yet.
const UNTAKEN: usize = 4;

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// To the other node itself; `None`: through the relay.
    pub direct: Option<Way>,
    /// There and back.
    pub rtt: Duration,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pings {
    open: VecDeque<(u64, Option<Way>, Instant)>,
    pongs: VecDeque<Pong>,
}

impl Pings {
    /// Question `number` has gone that way.
    pub(super) fn asked(&mut self, number: u64, direct: Option<Way>, now: Instant) {
        self.open.truncate(REMEMBERED - 1);
        self.open.push_front((number, direct, now));
    }

    /// The answer to question `number` came that way; whether it was one of these.
    pub(super) fn answered(&mut self, number: u64, direct: Option<Way>, now: Instant) -> bool {
        let is_it = |asked: &(u64, Option<Way>, Instant)| asked.0 == number && asked.1 == direct;
        let Some(at) = self.open.iter().position(is_it) else {
            return false;
        };
        if let Some((_, direct, asked)) = self.open.remove(at) {
            let rtt = now.saturating_duration_since(asked);
            self.pongs.truncate(UNTAKEN - 1);
            self.pongs.push_front(Pong { direct, rtt });
        }
        true
    }

    pub(super) fn poll(&mut self) -> Option<Pong> {
        self.pongs.pop_back()
    }
}
