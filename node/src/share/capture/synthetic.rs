//! A lively picture for machines without a display: a gradient, a box that wanders over it, and lines of blocks that
//! appear as if somebody typed.
//!
//! What is to be seen at a tick is a function of the seed and the tick alone, so two runs show the same. Ticks come
//! with time; if nobody waits, they are skipped, as a real screen's frames would be.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use super::{Capture, CaptureError, Changes, Monitor, Pixels, Rect, Source, WindowInfo, coalesce};

/// A common laptop's size, and small enough for a CI machine.
const SIZE: (u16, u16) = (1280, 720);
/// As films have it: lively, and leaves a core of a CI machine to the encoder.
const TICK: Duration = Duration::from_millis(40);
/// The box that wanders.
const BOX: (u16, u16) = (160, 120);
/// Pixels the box goes in a tick; no divisor of its way, so that it does not tread one path.
const STEP: (u64, u64) = (7, 5);
/// A letter's cell.
const CELL: (u16, u16) = (10, 20);
/// Where the typed lines stand.
const PAGE: Rect = Rect {
    x: 80,
    y: 420,
    width: 600,
    height: 200,
};

/// A source that nobody's screen is behind.
#[derive(Debug)]
pub struct Synthetic {
    seed: u64,
    monitors: [Monitor; 1],
    started: Instant,
    /// Shown now.
    tick: u64,
    bytes: Vec<u8>,
    first: bool,
    bell: Arc<Bell>,
}

#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.heard.notify_all();
    }
}

impl Bell {
    /// Sleeps at most until then; true if somebody rang.
    fn sleep_until(&self, then: Instant) -> bool {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let left = then.saturating_duration_since(Instant::now());
        let waited = self.heard.wait_timeout_while(rung, left, |rung| !*rung);
        let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *rung)
    }
}

impl Synthetic {
    /// Begins now.
    pub fn new(seed: u64) -> Self {
        let rect = Rect::of_size(SIZE);
        Self {
            seed,
            monitors: [Monitor {
                id: 0,
                name: "synthetic".to_owned(),
                rect,
                primary: true,
            }],
            started: Instant::now(),
            tick: 0,
            bytes: vec![0; usize::from(SIZE.0) * usize::from(SIZE.1) * 4],
            first: true,
            bell: Arc::default(),
        }
    }

    fn next_tick_at(&self) -> Instant {
        self.started + TICK * u32::try_from(self.tick + 1).unwrap_or(u32::MAX)
    }

    /// Goes to the tick that is due; what that changes.
    fn advance(&mut self) -> Vec<Rect> {
        let due = self.started.elapsed().as_nanos() / TICK.as_nanos();
        let (old, new) = (self.tick, u64::try_from(due).unwrap_or(u64::MAX));
        self.tick = new;
        if old == new {
            return Vec::new();
        }
        coalesce(
            [box_at(self.seed, old), box_at(self.seed, new)]
                .into_iter()
                .chain(typed_between(old, new)),
        )
    }

    /// Blue, green, red at this tick.
    fn pixel(&self, x: u16, y: u16) -> [u8; 3] {
        let (column, row) = (
            i16::try_from(x).unwrap_or(i16::MAX),
            i16::try_from(y).unwrap_or(i16::MAX),
        );
        let wandering = box_at(self.seed, self.tick);
        if wandering.contains(column, row) {
            let inside = wandering.relative_to((0, 0));
            let (left, top) = (column.abs_diff(inside.x), row.abs_diff(inside.y));
            return [low(left), low(top), low(left ^ top)];
        }
        if PAGE.contains(column, row) {
            return self.page_pixel(column.abs_diff(PAGE.x), row.abs_diff(PAGE.y));
        }
        [low(y / 3), low(x / 6), 64]
    }

    fn page_pixel(&self, x: u16, y: u16) -> [u8; 3] {
        const PAPER: [u8; 3] = [245, 245, 240];
        const INK: [u8; 3] = [40, 30, 20];
        let (column, row) = (x / CELL.0, y / CELL.1);
        let index = u64::from(row) * u64::from(PAGE.width / CELL.0) + u64::from(column);
        if index >= self.tick % letters() {
            return PAPER;
        }
        // A letter is a block of 3 × 5 bits in its cell; a sixth of them are spaces.
        let letter = scramble(self.seed ^ index);
        let (bit_x, bit_y) = (x % CELL.0 / 3, y % CELL.1 / 4);
        let bit = u32::from(bit_y) * 3 + u32::from(bit_x);
        let inked = bit_x < 3 && !letter.is_multiple_of(6) && letter >> (8 + bit) & 1 == 1;
        if inked { INK } else { PAPER }
    }
}

fn low(value: u16) -> u8 {
    value.to_le_bytes()[0]
}

/// Letters on a full page; then it begins anew.
fn letters() -> u64 {
    u64::from(PAGE.width / CELL.0) * u64::from(PAGE.height / CELL.1)
}

/// The cells that fill, and the page if it was begun anew.
fn typed_between(old: u64, new: u64) -> impl Iterator<Item = Rect> {
    let per_row = u64::from(PAGE.width / CELL.0);
    let turned = old / letters() != new / letters();
    let cells = if turned {
        0..0
    } else {
        old % letters()..new % letters()
    };
    let cell = move |index: u64| {
        let place =
            |index: u64, size: u16| i16::try_from(index * u64::from(size)).unwrap_or(i16::MAX);
        let (x, y) = (
            place(index % per_row, CELL.0),
            place(index / per_row, CELL.1),
        );
        Rect {
            x,
            y,
            width: CELL.0,
            height: CELL.1,
        }
        .offset_by((PAGE.x, PAGE.y))
    };
    turned.then_some(PAGE).into_iter().chain(cells.map(cell))
}

/// Where the box is: it goes to and fro in both directions.
fn box_at(seed: u64, tick: u64) -> Rect {
    let bounce = |distance: u64, way: u16| {
        let way = u64::from(way);
        let phase = distance % (2 * way);
        i16::try_from(if phase < way { phase } else { 2 * way - phase }).unwrap_or(0)
    };
    let x = bounce(seed % 997 + tick * STEP.0, SIZE.0 - BOX.0);
    let y = bounce(seed % 499 + tick * STEP.1, SIZE.1 - BOX.1);
    Rect {
        x,
        y,
        width: BOX.0,
        height: BOX.1,
    }
}

/// splitmix64 (Steele et al., 2014): neighbours in, strangers out.
fn scramble(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

impl Capture for Synthetic {
    fn kind(&self) -> &'static str {
        "synthetic"
    }

    fn monitors(&self) -> &[Monitor] {
        &self.monitors
    }

    fn windows(&mut self) -> Result<Vec<WindowInfo>, CaptureError> {
        Ok(Vec::new())
    }

    fn source(&self) -> Source {
        Source::Monitor(0)
    }

    fn select(&mut self, source: Source) -> Result<(), CaptureError> {
        self.first = source == Source::Monitor(0);
        self.first.then_some(()).ok_or(CaptureError::SourceGone)
    }

    fn size(&self) -> (u16, u16) {
        SIZE
    }

    fn origin(&self) -> (i16, i16) {
        (0, 0)
    }

    /// Nothing stands on a screen that does not exist.
    fn set_masks(&mut self, _: &[Rect]) {}

    fn wait(&mut self, deadline: Option<Instant>) -> Result<Changes, CaptureError> {
        if std::mem::take(&mut self.first) {
            let damage = vec![Rect::of_size(SIZE)];
            return Ok(Changes {
                damage,
                resized: true,
                ..Changes::default()
            });
        }
        let next = self.next_tick_at();
        let rung = self
            .bell
            .sleep_until(deadline.map_or(next, |deadline| deadline.min(next)));
        let damage = if rung { Vec::new() } else { self.advance() };
        Ok(Changes {
            damage,
            ..Changes::default()
        })
    }

    fn refresh(&mut self, rects: &[Rect]) -> Result<(), CaptureError> {
        for rect in rects
            .iter()
            .map(|rect| rect.intersection(Rect::of_size(SIZE)))
        {
            let (left, top) = (rect.x.unsigned_abs(), rect.y.unsigned_abs());
            for y in top..top + rect.height {
                for x in left..left + rect.width {
                    let at = (usize::from(y) * usize::from(SIZE.0) + usize::from(x)) * 4;
                    let pixel = self.pixel(x, y);
                    self.bytes[at..at + 3].copy_from_slice(&pixel);
                }
            }
        }
        Ok(())
    }

    fn pixels(&self) -> Pixels<'_> {
        Pixels {
            bytes: &self.bytes,
            stride: usize::from(SIZE.0) * 4,
            width: SIZE.0,
            height: SIZE.1,
        }
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.bell))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole picture at a tick.
    fn at(seed: u64, tick: u64) -> Vec<u8> {
        let mut source = Synthetic::new(seed);
        source.tick = tick;
        source.refresh(&[Rect::of_size(SIZE)]).unwrap();
        source.bytes
    }

    #[test]
    fn a_seed_and_a_tick_are_one_picture() {
        assert!(at(7, 100) == at(7, 100));
        assert!(at(7, 100) != at(8, 100));
    }

    #[test]
    fn the_damage_is_all_that_changes() {
        for (old, new) in [(0, 1), (58, 63), (599, 601), (1_000, 5_000)] {
            let mut source = Synthetic::new(3);
            source.tick = old;
            source.refresh(&[Rect::of_size(SIZE)]).unwrap();
            source.tick = new;
            let damage = coalesce(
                [box_at(3, old), box_at(3, new)]
                    .into_iter()
                    .chain(typed_between(old, new)),
            );
            source.refresh(&damage).unwrap();
            assert!(source.bytes == at(3, new), "{old} to {new}");
        }
    }

    #[test]
    fn it_wakes_for_a_bell_before_the_tick_and_begins_with_everything() {
        let mut source = Synthetic::new(1);
        let first = source.wait(None).unwrap();
        assert!(first.resized && first.damage == [Rect::of_size(SIZE)]);
        source.waker().wake();
        assert!(source.wait(None).unwrap().is_empty());
        assert!(!source.wait(None).unwrap().damage.is_empty());
    }
}
