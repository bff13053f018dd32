//! Congestion control that forgets what it knows when packets go another way: a relay's link and a direct one have little in
//! common, and quinn, which sees one address whatever happens below, cannot know.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use quinn::congestion::{Controller, ControllerFactory, CubicConfig};
use quinn_proto::RttEstimator;

/// How often the way has changed, so far.
pub type Generation = Arc<AtomicU64>;

/// Makes controllers that begin anew with each [`Generation`].
#[derive(Debug)]
pub struct ByPath {
    inner: Arc<CubicConfig>,
    generation: Generation,
}

impl ByPath {
    /// Controllers that look at `generation`.
    pub fn new(generation: Generation) -> Self {
        Self {
            inner: Arc::default(),
            generation,
        }
    }
}

impl ControllerFactory for ByPath {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Anew {
            current: Arc::clone(&self.inner).build(now, current_mtu),
            inner: Arc::clone(&self.inner),
            seen: self.generation.load(Ordering::Relaxed),
            since: now,
            in_flight: 0,
            elsewhere: 0,
            generation: Arc::clone(&self.generation),
            mtu: current_mtu,
        })
    }
}

struct Anew {
    current: Box<dyn Controller>,
    inner: Arc<CubicConfig>,
    generation: Generation,
    seen: u64,
    /// What was sent before went another way, and says nothing of this one.
    since: Instant,
    /// Bytes, as far as is known.
    in_flight: u64,
    /// Of those, what was sent before: it is on another way, and takes no room on this one.
    elsewhere: u64,
    mtu: u16,
}

impl Anew {
    /// The controller of the way that packets go now.
    fn current(&mut self, now: Instant) -> &mut dyn Controller {
        let generation = self.generation.load(Ordering::Relaxed);
        if generation != self.seen {
            (self.seen, self.since) = (generation, now);
            self.elsewhere = self.in_flight;
            self.current = Arc::clone(&self.inner).build(now, self.mtu);
        }
        &mut *self.current
    }

    /// What was sent then is not under way any more.
    fn landed(&mut self, sent: Instant, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        if sent < self.since {
            self.elsewhere = self.elsewhere.saturating_sub(bytes);
        }
    }
}

impl Controller for Anew {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.current(now).on_sent(now, bytes, last_packet_number);
        self.in_flight += bytes;
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.current(now);
        self.landed(sent, bytes);
        // Of the old way it says nothing of how much the new one takes.
        if sent >= self.since {
            self.current.on_ack(now, sent, bytes, app_limited, rtt);
        }
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.in_flight = in_flight;
        self.elsewhere = self.elsewhere.min(in_flight);
        self.current(now)
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.current(now);
        self.landed(sent, lost_bytes);
        if sent >= self.since {
            self.current
                .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.current.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.current.window().saturating_add(self.elsewhere)
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            current: self.current.clone_box(),
            inner: Arc::clone(&self.inner),
            generation: Arc::clone(&self.generation),
            seen: self.seen,
            since: self.since,
            in_flight: self.in_flight,
            elsewhere: self.elsewhere,
            mtu: self.mtu,
        })
    }

    fn initial_window(&self) -> u64 {
        self.current.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn begun(start: Instant) -> (Generation, Box<dyn Controller>) {
        let generation = Generation::default();
        let factory = Arc::new(ByPath::new(Arc::clone(&generation)));
        (generation, factory.build(start, 1200))
    }

    #[test]
    fn a_new_way_begins_anew_and_is_not_blamed_for_the_old_one() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (generation, mut control) = begun(start);
        let initial = control.window();
        control.on_sent(at(1), 1200, 1);
        control.on_congestion_event(at(50), at(1), true, 1200);
        assert!(control.window() < initial);
        generation.fetch_add(1, Ordering::Relaxed);
        control.on_sent(at(100), 1200, 2);
        assert_eq!(control.window(), initial);
        control.on_congestion_event(at(120), at(60), true, 1200);
        assert_eq!(control.window(), initial, "that was sent the old way");
        control.on_congestion_event(at(200), at(100), false, 1200);
        assert!(control.window() < initial, "that was not");
    }

    #[test]
    fn what_is_under_way_elsewhere_takes_no_room() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (generation, mut control) = begun(start);
        let initial = control.window();
        control.on_sent(at(1), 3000, 1);
        generation.fetch_add(1, Ordering::Relaxed);
        control.on_sent(at(2), 1000, 2);
        // Of the 4,000 bytes in flight only 1,000 count.
        assert_eq!(control.window(), initial + 3000);
        control.on_congestion_event(at(45), at(1), false, 500);
        assert_eq!(control.window(), initial + 2500);
        // What quinn knows better.
        control.on_end_acks(at(46), 1200, false, None);
        assert_eq!(control.window(), initial + 1200);
    }
}
