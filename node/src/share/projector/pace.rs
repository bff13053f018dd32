//! How much the path takes, learned from how long frames are under way: a window of bytes, in the manner of delay-based
//! congestion control (TCP Vegas, Brakmo and Peterson 1995). QUIC's own control keeps the network alive; this one keeps the
//! queue before the narrow link short, in which a letter would wait behind a film.

use std::time::{Duration, Instant};

use remora_picture::encode::Budget;

use crate::path::lately::Lately;

/// Queueing that frames may add to the path's own delay.
const QUEUEING: Duration = Duration::from_millis(40);
/// On a path this quick, a frame is seen before the next is ready, and what is lost is soon there after all.
const QUICK: Duration = Duration::from_millis(60);
/// There, a film may queue for longer: a letter is still on the screen within a tenth of a second.
const QUICK_QUEUEING: Duration = Duration::from_millis(80);
/// A frame under way for so long is given up: with the way there, what is drawn is never older than half a second.
const PATIENCE: Duration = Duration::from_millis(400);
/// A viewer may take so long to draw a frame; what it takes longer, other frames wait for it as they would for the path.
const DRAWING: Duration = Duration::from_millis(120);
/// Before anything is known of the path.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);
/// The fastest frame of so long ago still says how quick the path is.
const MEMORY: Duration = Duration::from_secs(10);
/// Crosses 2 Mbit/s in 24 ms.
const MIN_WINDOW_BYTES: usize = 6 << 10;
/// A whole screen of photographs.
const MAX_WINDOW_BYTES: usize = 4 << 20;
/// Before anything is known of the path: 32 KiB cross 10 Mbit/s in 26 ms.
const FIRST_WINDOW_BYTES: usize = 32 << 10;

/// Frames go another way: the first of them is to fit the window with which QUIC begins there, 12,000 bytes.
const MOVED_WINDOW_BYTES: usize = 16 << 10;

/// What the paths take that frames have gone of late, by their numbers.
#[derive(Debug)]
pub(super) struct Paces {
    /// The path that frames go.
    number: u64,
    others: Lately<Pace>,
}

impl Paces {
    /// Frames go the way of this number.
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            others: Lately::default(),
        }
    }

    /// Of the way that frames go.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether frames have gone that way of late.
    pub(super) fn knows(&self, number: u64, now: Instant) -> bool {
        self.others.knows(number, now)
    }

    /// Frames go that way from now on; until now they went at this pace.
    pub(super) fn moved(&mut self, number: u64, until_now: Pace, now: Instant) -> Pace {
        let known = self.others.take(number, now);
        self.others.put(self.number, now, until_now);
        self.number = number;
        known.map_or_else(|| Pace::moved(now), |(_, pace)| pace.resumed(now))
    }
}

/// What the path takes.
#[derive(Debug)]
pub(super) struct Pace {
    window_bytes: usize,
    /// Since when, and the fastest since then; and of the time before.
    since: Instant,
    fastest: Option<Duration>,
    before: Option<Duration>,
    /// The window was made smaller then: frames sent before say nothing of it.
    shrunk: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            window_bytes: FIRST_WINDOW_BYTES,
            since: now,
            fastest: None,
            before: None,
            shrunk: now,
        }
    }

    /// Of another path, of which nothing is known yet.
    fn moved(now: Instant) -> Self {
        Self {
            window_bytes: MOVED_WINDOW_BYTES,
            ..Self::new(now)
        }
    }

    /// Of a path that is taken again: half as much, as QUIC does.
    fn resumed(self, now: Instant) -> Self {
        Self {
            window_bytes: (self.window_bytes / 2).max(MOVED_WINDOW_BYTES),
            since: now,
            fastest: None,
            before: self.base(),
            shrunk: now,
        }
    }

    fn base(&self) -> Option<Duration> {
        self.fastest.into_iter().chain(self.before).min()
    }

    /// How long a frame may be under way before newer pixels are better than it. On a path round the world, twice its own
    /// delay.
    pub(super) fn patience(&self) -> Duration {
        self.base()
            .map_or(FIRST_PATIENCE, |base| PATIENCE.max(base * 2))
    }

    /// Whether frames may wait for one another.
    pub(super) fn is_quick(&self) -> bool {
        self.base().is_some_and(|base| base < QUICK)
    }

    /// Whether more may be sent while so much is under way.
    pub(super) fn has_room(&self, under_way_bytes: usize) -> bool {
        under_way_bytes < self.window_bytes
    }

    /// Of lossy tiles.
    pub(super) fn quality(&self) -> u8 {
        match self.window_bytes {
            ..0x4000 => 40,
            0x4000..0x10000 => 60,
            _ => 82,
        }
    }

    /// For one frame, while so much is under way.
    pub(super) fn budget(&self, under_way_bytes: usize) -> Budget {
        // Half of the window, so that two frames follow one another closely.
        let left = self.window_bytes.saturating_sub(under_way_bytes);
        Budget {
            bytes: left.min(self.window_bytes / 2).max(MIN_WINDOW_BYTES / 2),
            quality: self.quality(),
        }
    }

    /// A frame was seen; the viewer says how long it was `drawing` it.
    pub(super) fn seen(&mut self, bytes: usize, sent: Instant, now: Instant, drawing: Duration) {
        let under_way = now.saturating_duration_since(sent);
        let took = under_way.saturating_sub(drawing.min(DRAWING));
        if now.saturating_duration_since(self.since) > MEMORY {
            (self.before, self.fastest, self.since) = (self.fastest, None, now);
        }
        self.fastest = Some(self.fastest.map_or(took, |fastest| fastest.min(took)));
        let base = self.base().unwrap_or(took);
        let queueing = if self.is_quick() {
            QUICK_QUEUEING
        } else {
            QUEUEING
        };
        if took <= base + queueing {
            // A frame that was small says nothing of a larger window.
            if bytes * 4 >= self.window_bytes {
                let grown = self.window_bytes + bytes.min(self.window_bytes) / 2;
                self.window_bytes = grown.min(MAX_WINDOW_BYTES);
            }
        } else if sent >= self.shrunk {
            self.shrink(now, 4, 5);
        }
    }

    /// A frame was given up.
    pub(super) fn lost(&mut self, now: Instant) {
        self.shrink(now, 1, 2);
    }

    fn shrink(&mut self, now: Instant, part: usize, of: usize) {
        self.window_bytes = (self.window_bytes / of * part).max(MIN_WINDOW_BYTES);
        self.shrunk = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::lately::FRESH;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_window_grows_on_a_free_path_and_shrinks_when_frames_queue() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..30 {
            let sent = now;
            now += ms(20);
            pace.seen(pace.window_bytes / 2, sent, now, Duration::ZERO);
        }
        assert_eq!(pace.window_bytes, MAX_WINDOW_BYTES);
        assert!(pace.is_quick());
        for _ in 0..32 {
            let sent = now;
            now += ms(280);
            pace.seen(60_000, sent, now, Duration::ZERO);
        }
        assert_eq!(pace.window_bytes, MIN_WINDOW_BYTES);
        assert_eq!(pace.budget(1_000_000).bytes, MIN_WINDOW_BYTES / 2);
    }

    #[test]
    fn what_the_viewer_takes_to_draw_is_not_the_paths() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for drawing in [0, 100, 100, 100] {
            let sent = now;
            now += ms(20 + drawing);
            let before = pace.window_bytes;
            pace.seen(before / 2, sent, now, ms(drawing));
            assert!(pace.window_bytes > before);
        }
        // But a viewer that draws for a second, or says so, is sent less.
        let (sent, before) = (now, pace.window_bytes);
        pace.seen(before / 2, sent, now + ms(1_000), ms(1_000));
        assert!(pace.window_bytes < before);
    }

    #[test]
    fn small_frames_say_nothing_of_the_window() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.seen(100, now, now + ms(90), Duration::ZERO);
        assert_eq!(pace.window_bytes, FIRST_WINDOW_BYTES);
        assert!(!pace.is_quick());
    }

    #[test]
    fn frames_that_queued_together_shrink_the_window_once() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.seen(10_000, now, now + ms(80), Duration::ZERO);
        let before = pace.window_bytes;
        for late in [200, 210, 220] {
            pace.seen(10_000, now + ms(100), now + ms(100 + late), Duration::ZERO);
        }
        assert_eq!(pace.window_bytes, before / 5 * 4);
    }

    #[test]
    fn a_path_that_became_slow_is_believed_after_a_while() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        pace.seen(100, now, now + ms(5), Duration::ZERO);
        assert!(pace.is_quick());
        for _ in 0..250 {
            let sent = now;
            now += ms(100);
            pace.seen(100, sent, now, Duration::ZERO);
        }
        assert!(!pace.is_quick());
    }

    #[test]
    fn a_path_that_is_taken_again_has_half_the_window_it_had() {
        let (mut now, mut paces) = (Instant::now(), Paces::new(0));
        let mut pace = Pace::new(now);
        for _ in 0..30 {
            let sent = now;
            now += ms(20);
            pace.seen(pace.window_bytes / 2, sent, now, Duration::ZERO);
        }
        let unknown = paces.moved(1, pace, now);
        assert_eq!(unknown.window_bytes, MOVED_WINDOW_BYTES);
        assert!(!unknown.is_quick());
        now += FRESH;
        let again = paces.moved(0, unknown, now);
        assert_eq!(again.window_bytes, MAX_WINDOW_BYTES / 2);
        assert!(again.is_quick());
        // Never less than of a new one; and a minute later it is one.
        let slow = paces.moved(1, again, now);
        assert_eq!(slow.window_bytes, MOVED_WINDOW_BYTES);
        let late = paces.moved(0, slow, now + FRESH + ms(1));
        assert_eq!(late.window_bytes, MOVED_WINDOW_BYTES);
    }
}
