//! Congestion control that knows ways apart: a relay's link and a direct one have little in common, and quinn, which sees one
//! address whatever happens below, cannot know. A new way begins with the initial window; one that was taken until a moment
//! ago with half of the window it had then, which a first loss takes back ("careful resume", draft-ietf-tsvwg-careful-resume).

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

use super::lately::Lately;

/// Which way packets go just now: a number that no other way has had. Of a number that was never seen before nothing is known.
pub type WayNumber = Arc<AtomicU64>;

/// Makes controllers that know the ways of one session apart.
#[derive(Debug)]
pub struct ByPath {
    way: WayNumber,
}

impl ByPath {
    /// Controllers that look at `way`.
    pub fn new(way: WayNumber) -> Self {
        Self { way }
    }
}

impl ControllerFactory for ByPath {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(PerWay::new(Arc::clone(&self.way), now, current_mtu))
    }
}

/// A way that began with more than the initial window, until as much has arrived as it began with.
#[derive(Clone, Copy, Debug)]
struct Resumed {
    window: u64,
    arrived: u64,
    /// What was known of it, and as of when: to be believed again if this ends in the middle.
    from: (Instant, u64),
}

struct PerWay {
    current: Box<dyn Controller>,
    /// The window of a way of which nothing is known, bytes.
    initial: u64,
    way: WayNumber,
    seen: u64,
    /// The windows, in bytes, that other ways had.
    known: Lately<u64>,
    resumed: Option<Resumed>,
    /// What was sent before went another way, and says nothing of this one.
    since: Instant,
    /// Bytes, as far as is known.
    in_flight: u64,
    /// Of those, what was sent before: it is on another way, and takes no room on this one.
    elsewhere: u64,
    mtu: u16,
}

impl PerWay {
    fn new(way: WayNumber, now: Instant, mtu: u16) -> Self {
        let current = Arc::new(CubicConfig::default()).build(now, mtu);
        Self {
            initial: current.initial_window(),
            current,
            seen: way.load(Ordering::Relaxed),
            way,
            known: Lately::default(),
            resumed: None,
            since: now,
            in_flight: 0,
            elsewhere: 0,
            mtu,
        }
    }

    /// The controller of the way that packets go now.
    fn current(&mut self, now: Instant) -> &mut dyn Controller {
        let way = self.way.load(Ordering::Relaxed);
        if way != self.seen {
            let known = self.known.take(way, now);
            let until_now = (now, self.current.window());
            let (when, window) = self.resumed.map_or(until_now, |resumed| resumed.from);
            self.known.put(self.seen, when, window);
            (self.seen, self.since) = (way, now);
            self.elsewhere = self.in_flight;
            self.begin(known, now);
        }
        &mut *self.current
    }

    fn begin(&mut self, known: Option<(Instant, u64)>, now: Instant) {
        self.resumed = known.and_then(|from| {
            let window = from.1 / 2;
            (window > self.initial).then_some(Resumed {
                window,
                arrived: 0,
                from,
            })
        });
        self.restart(
            self.resumed.map_or(self.initial, |resumed| resumed.window),
            now,
        );
    }

    fn restart(&mut self, window: u64, now: Instant) {
        let mut config = CubicConfig::default();
        config.initial_window(window);
        self.current = Arc::new(config).build(now, self.mtu);
    }

    /// What was sent then has arrived; whether it went the way that packets go now. Of another one it says nothing of how much this
    /// one takes.
    fn arrived(&mut self, now: Instant, sent: Instant, bytes: u64) -> bool {
        self.current(now);
        self.landed(sent, bytes);
        if sent < self.since {
            return false;
        }
        self.resumed = self.resumed.and_then(|resumed| {
            let arrived = resumed.arrived + bytes;
            (arrived < resumed.window).then_some(Resumed { arrived, ..resumed })
        });
        true
    }

    /// What was sent then is not under way any more.
    fn landed(&mut self, sent: Instant, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        if sent < self.since {
            self.elsewhere = self.elsewhere.saturating_sub(bytes);
        }
    }
}

impl Controller for PerWay {
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
        if self.arrived(now, sent, bytes) {
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
        if sent < self.since {
            return;
        }
        if let Some(resumed) = self.resumed.take() {
            // It does not take that much any more: what has arrived is what one knows, and half of it is sure.
            self.since = now;
            self.elsewhere = 0;
            self.restart(self.initial.max(resumed.arrived / 2), now);
            return;
        }
        self.current
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
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
            initial: self.initial,
            way: Arc::clone(&self.way),
            seen: self.seen,
            known: self.known.clone(),
            resumed: self.resumed,
            since: self.since,
            in_flight: self.in_flight,
            elsewhere: self.elsewhere,
            mtu: self.mtu,
        })
    }

    fn initial_window(&self) -> u64 {
        self.initial
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::lately::{FRESH, MAX_KNOWN},
        *,
    };

    const DIRECT: u64 = 1;
    const RELAYED: u64 = 0;

    struct Link {
        start: Instant,
        way: WayNumber,
        control: PerWay,
    }

    impl Link {
        fn new() -> Self {
            let (start, way) = (Instant::now(), WayNumber::default());
            let control = PerWay::new(Arc::clone(&way), start, 1200);
            Self {
                start,
                way,
                control,
            }
        }

        /// One that takes that much the way that is known first.
        fn busy(window: u64) -> Self {
            let mut link = Self::new();
            link.control.restart(window, link.start);
            link
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn go(&self, way: u64) {
            self.way.store(way, Ordering::Relaxed);
        }

        fn send(&mut self, ms: u64, bytes: u64) {
            self.control.on_sent(self.at(ms), bytes, 1);
        }

        /// What was sent then has arrived 40 ms later.
        fn arrives(&mut self, ms: u64, bytes: u64) {
            self.control.arrived(self.at(ms + 40), self.at(ms), bytes);
        }

        fn loses(&mut self, ms: u64, bytes: u64) {
            let (sent, now) = (self.at(ms), self.at(ms + 60));
            self.control.on_congestion_event(now, sent, false, bytes);
        }
    }

    #[test]
    fn a_new_way_begins_anew_and_is_not_blamed_for_the_old_one() {
        let mut link = Link::new();
        let initial = link.control.window();
        link.send(1, 1200);
        link.loses(1, 1200);
        assert!(link.control.window() < initial);
        link.go(DIRECT);
        link.send(100, 1200);
        assert_eq!(link.control.window(), initial);
        link.loses(60, 1200);
        assert_eq!(link.control.window(), initial, "that was sent the old way");
        link.loses(100, 1200);
        assert!(link.control.window() < initial, "that was not");
    }

    #[test]
    fn what_is_under_way_elsewhere_takes_no_room() {
        let mut link = Link::new();
        let initial = link.control.window();
        link.send(1, 3000);
        link.go(DIRECT);
        link.send(2, 1000);
        // Of the 4,000 bytes in flight only 1,000 count.
        assert_eq!(link.control.window(), initial + 3000);
        link.loses(1, 500);
        assert_eq!(link.control.window(), initial + 2500);
        // What quinn knows better.
        link.control.on_end_acks(link.at(62), 1200, false, None);
        assert_eq!(link.control.window(), initial + 1200);
    }

    #[test]
    fn a_way_that_is_known_goes_on_with_half_of_what_it_took() {
        let window = 1_000_000;
        let mut link = Link::busy(window);
        let initial = link.control.initial_window();
        link.go(DIRECT);
        link.send(100, 1200);
        assert_eq!(link.control.window(), initial);
        link.go(RELAYED);
        link.send(3_000, 1200);
        // The 1,200 that are under way directly take no room.
        assert_eq!(link.control.window(), window / 2 + 1200);
        // But of a minute ago nothing is known.
        link.go(DIRECT);
        link.send(3_100, 1200);
        link.go(RELAYED);
        let late = 3_100 + 1 + u64::try_from(FRESH.as_millis()).unwrap();
        link.send(late, 1200);
        link.control.on_end_acks(link.at(late), 0, false, None);
        assert_eq!(link.control.window(), initial);
    }

    #[test]
    fn a_loss_on_a_way_that_goes_on_takes_back_what_has_not_arrived() {
        let window = 1_000_000;
        let mut link = Link::busy(window);
        link.go(DIRECT);
        link.send(100, 1200);
        link.arrives(100, 1200);
        link.go(RELAYED);
        link.send(200, 100_000);
        link.arrives(200, 60_000);
        link.loses(200, 40_000);
        assert_eq!(link.control.window(), 30_000);
        // The same loss, seen once more.
        link.loses(200, 1_200);
        assert_eq!(link.control.window(), 30_000);
        // Once all of it has arrived, a loss is a loss as any other.
        let mut link = Link::busy(window);
        link.go(DIRECT);
        link.send(100, 1200);
        link.arrives(100, 1200);
        link.go(RELAYED);
        link.send(200, window);
        link.arrives(200, window);
        let before = link.control.window();
        link.send(300, 1200);
        link.loses(300, 1200);
        assert!(link.control.window() > before / 2);
    }

    #[test]
    fn ways_are_forgotten_when_there_are_too_many() {
        let mut link = Link::busy(1_000_000);
        let initial = link.control.initial_window();
        for way in 1..=u64::try_from(MAX_KNOWN).unwrap() + 1 {
            link.go(way);
            link.send(100 + way, 1);
            link.arrives(100 + way, 1);
        }
        link.go(RELAYED);
        link.send(200, 1);
        link.control.on_end_acks(link.at(240), 0, false, None);
        assert_eq!(link.control.window(), initial);
    }
}
