//! A lively picture for machines without a display: a gradient, a box that wanders over it, lines of blocks that
//! appear as if somebody typed, and a note on which the helper really types.
//!
//! What is to be seen is a function of the seed, the tick and what was done to the `Sheet`, so two runs show the
//! same. Ticks come with time; if nobody waits, they are skipped, as a real screen's frames would be.

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use remora_picture::pixels::Pixels;

use super::{
    Capture, CaptureError, Changes, CursorShape, Monitor, Rect, Source, WindowInfo, coalesce,
};

/// A common laptop's size, and small enough for a CI machine.
const SIZE: (u16, u16) = (1280, 720);
/// As films have it: lively, and leaves a core of a CI machine to the encoder.
const TICK: Duration = Duration::from_millis(40);
/// With noise in it.
const FILM_TICK: Duration = Duration::from_millis(30);
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

/// Where a film may be.
const FILM: Rect = Rect {
    x: 0,
    y: 0,
    width: SIZE.0,
    height: 400,
};

/// Where the helper's letters stand.
const NOTE: Rect = Rect {
    x: 720,
    y: 420,
    width: 480,
    height: 200,
};
/// Side of what a click leaves.
const MARK: u16 = 12;
/// Side of the cursor.
const CURSOR: u16 = 11;
/// Letters that are remembered; nobody types more in a session that shows nothing.
const MAX_TYPED: usize = 100_000;

/// The synthetic desktop: what shows it, what types on it and who asks what was typed hold the same one.
#[derive(Clone)]
pub struct Sheet {
    seed: u64,
    /// So many rows, from the top.
    film: u16,
    /// Ticks count from here.
    started: Instant,
    state: Arc<Mutex<State>>,
}

/// What was done to a sheet.
#[derive(Default)]
struct State {
    typed: Vec<char>,
    pointer: (i16, i16),
    mark: Option<(i16, i16)>,
    /// Time stands still at this tick.
    rested: Option<u64>,
    watchers: Vec<Weak<Bell>>,
}

impl fmt::Debug for Sheet {
    /// Not what was typed: keys are nobody's but the two people's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sheet({})", self.seed)
    }
}

impl Sheet {
    /// Begins now.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            film: 0,
            started: Instant::now(),
            state: Arc::default(),
        }
    }

    /// In its upper part there is a film of noise, which no codec makes much smaller, of so many `rows`; at most the
    /// 400 above the page: 1.17 kB a row, as the encoder makes them on a quick path, and 33 pictures a second.
    #[must_use]
    pub fn with_film(self, rows: u16) -> Self {
        let film = rows.min(FILM.height);
        Self { film, ..self }
    }

    /// All that was typed and not erased.
    pub fn typed(&self) -> String {
        self.state().typed.iter().collect()
    }

    /// Where the next letter will appear.
    pub fn next_letter(&self) -> Rect {
        cell_of(NOTE, self.state().typed.len() % cells(NOTE))
    }

    /// Whether nothing moves by itself.
    pub fn rest(&self, rests: bool) {
        let tick = self.tick();
        self.change(|state| state.rested = rests.then_some(tick));
    }

    pub(crate) fn write(&self, letter: char) {
        self.change(|state| {
            if state.typed.len() < MAX_TYPED {
                state.typed.push(letter);
            }
        });
    }

    pub(crate) fn erase(&self) {
        self.change(|state| {
            state.typed.pop();
        });
    }

    pub(crate) fn point(&self, x: i16, y: i16) {
        let [right, bottom] = [SIZE.0, SIZE.1].map(|side| i16::try_from(side - 1).unwrap_or(0));
        self.change(|state| state.pointer = (x.clamp(0, right), y.clamp(0, bottom)));
    }

    pub(crate) fn pointer(&self) -> (i16, i16) {
        self.state().pointer
    }

    pub(crate) fn mark(&self) {
        self.change(|state| state.mark = Some(state.pointer));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let watchers: Vec<_> = state.watchers.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        for bell in watchers {
            bell.wake();
        }
    }

    fn watch(&self, bell: &Arc<Bell>) {
        let mut state = self.state();
        state.watchers.retain(|known| known.strong_count() > 0);
        state.watchers.push(Arc::downgrade(bell));
    }

    fn length_of_tick(&self) -> Duration {
        if self.film > 0 { FILM_TICK } else { TICK }
    }

    /// The tick that is due.
    fn tick(&self) -> u64 {
        let due = self.started.elapsed().as_nanos() / self.length_of_tick().as_nanos();
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        self.state().rested.unwrap_or(due)
    }

    /// When the picture of `tick` is old; never if time stands still there.
    fn after(&self, tick: u64) -> Option<Instant> {
        let ticks = u32::try_from(tick + 1).unwrap_or(u32::MAX);
        let next = self.started + self.length_of_tick() * ticks;
        (self.state().rested != Some(tick)).then_some(next)
    }

    fn view(&self, tick: u64) -> View {
        let state = self.state();
        // A full page stays until the next letter.
        let page = state.typed.len().saturating_sub(1) / cells(NOTE) * cells(NOTE);
        View {
            tick,
            film: scramble(self.seed ^ tick),
            note: state.typed[page..].to_vec(),
            mark: state.mark.map(mark_at),
            pointer: state.pointer,
        }
    }
}

/// What is to be seen.
#[derive(Debug, Default)]
struct View {
    tick: u64,
    /// Which noise.
    film: u64,
    note: Vec<char>,
    mark: Option<Rect>,
    pointer: (i16, i16),
}

/// A source that nobody's screen is behind.
#[derive(Debug)]
pub struct Synthetic {
    sheet: Sheet,
    monitors: [Monitor; 1],
    /// Shown now.
    view: View,
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
    fn sleep_until(&self, then: Option<Instant>) -> bool {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rung = match then {
            Some(then) => {
                let left = then.saturating_duration_since(Instant::now());
                let waited = self.heard.wait_timeout_while(rung, left, |rung| !*rung);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                let waited = self.heard.wait_while(rung, |rung| !*rung);
                waited.unwrap_or_else(PoisonError::into_inner)
            }
        };
        std::mem::take(&mut *rung)
    }
}

impl Synthetic {
    /// Shows a sheet.
    pub fn new(sheet: Sheet) -> Self {
        let rect = Rect::of_size(SIZE);
        let bell = Arc::default();
        sheet.watch(&bell);
        Self {
            monitors: [Monitor {
                id: 0,
                name: "synthetic".to_owned(),
                rect,
                primary: true,
            }],
            view: sheet.view(sheet.tick()),
            sheet,
            bytes: vec![0; usize::from(SIZE.0) * usize::from(SIZE.1) * 4],
            first: true,
            bell,
        }
    }

    /// Goes to this tick and what is on the sheet; what that changes.
    fn advance(&mut self, tick: u64) -> Changes {
        let new = self.sheet.view(tick);
        let old = std::mem::replace(&mut self.view, new);
        let moved = (old.pointer != self.view.pointer).then_some(self.view.pointer);
        Changes {
            damage: coalesce(damage(&self.sheet, &old, &self.view)),
            cursor_moved: moved,
            ..Changes::default()
        }
    }

    /// Blue, green, red at this tick.
    fn pixel(&self, x: u16, y: u16) -> [u8; 3] {
        let (column, row) = (
            i16::try_from(x).unwrap_or(i16::MAX),
            i16::try_from(y).unwrap_or(i16::MAX),
        );
        let inside = |rect: Rect| (column.abs_diff(rect.x), row.abs_diff(rect.y));
        if self
            .view
            .mark
            .is_some_and(|mark| mark.contains(column, row))
        {
            return MARKED;
        }
        let wandering = box_at(self.sheet.seed, self.view.tick);
        if wandering.contains(column, row) {
            let (left, top) = inside(wandering);
            return [low(left), low(top), low(left ^ top)];
        }
        if y < self.sheet.film {
            return noise(self.view.film, at_film(x, y));
        }
        if PAGE.contains(column, row) {
            return self.page_pixel(inside(PAGE));
        }
        if NOTE.contains(column, row) {
            return self.note_pixel(inside(NOTE));
        }
        [low(y / 3), low(x / 6), 64]
    }

    /// A sixth of the letters are spaces.
    fn page_pixel(&self, at: (u16, u16)) -> [u8; 3] {
        let index = index_at(PAGE, at);
        let shown = usize::try_from(self.view.tick).unwrap_or(usize::MAX) % cells(PAGE);
        let letter = scramble(self.sheet.seed ^ u64::try_from(index).unwrap_or(0));
        let inked = index < shown && !letter.is_multiple_of(6) && bit(letter, at);
        if inked { INK } else { PAPER }
    }

    fn note_pixel(&self, at: (u16, u16)) -> [u8; 3] {
        let letter = self.view.note.get(index_at(NOTE, at));
        let inked = letter.is_some_and(|letter| {
            // Its first column is full, so that no letter looks like nothing.
            let column = at.0 % CELL.0 / 3;
            !letter.is_whitespace()
                && column < 3
                && at.1 % CELL.1 < 18
                && (column == 0 || bit(scramble(u64::from(u32::from(*letter))), at))
        });
        if inked { INK } else { NOTE_PAPER }
    }
}

const PAPER: [u8; 3] = [245, 245, 240];
const NOTE_PAPER: [u8; 3] = [200, 240, 255];
const INK: [u8; 3] = [40, 30, 20];
const MARKED: [u8; 3] = [60, 40, 220];

fn at_film(x: u16, y: u16) -> u64 {
    u64::from(y) * u64::from(FILM.width) + u64::from(x)
}

/// Each colour almost there or almost not: no photograph takes an encoder more bytes a pixel, and with fewer shades it would be
/// no photograph.
fn noise(film: u64, at: u64) -> [u8; 3] {
    let [blue, green, red, ..] = scramble(film ^ at).to_le_bytes();
    [blue, green, red].map(|shade| {
        if shade < 128 {
            shade / 4
        } else {
            255 - shade / 8
        }
    })
}

/// Which cell of a page a place on it is in.
fn index_at(page: Rect, (x, y): (u16, u16)) -> usize {
    usize::from(y / CELL.1) * usize::from(page.width / CELL.0) + usize::from(x / CELL.0)
}

/// A letter is a block of 3 × 5 bits in its cell.
fn bit(letter: u64, (x, y): (u16, u16)) -> bool {
    let (column, row) = (x % CELL.0 / 3, y % CELL.1 / 4);
    column < 3 && letter >> (8 + u32::from(row) * 3 + u32::from(column)) & 1 == 1
}

/// Letters on a full page; then it begins anew.
fn cells(page: Rect) -> usize {
    usize::from(page.width / CELL.0) * usize::from(page.height / CELL.1)
}

fn cell_of(page: Rect, index: usize) -> Rect {
    let per_row = usize::from(page.width / CELL.0);
    let place = |index: usize, size: u16| i16::try_from(index * usize::from(size)).unwrap_or(0);
    Rect {
        x: place(index % per_row, CELL.0),
        y: place(index / per_row, CELL.1),
        width: CELL.0,
        height: CELL.1,
    }
    .offset_by((page.x, page.y))
}

fn mark_at((x, y): (i16, i16)) -> Rect {
    Rect {
        x,
        y,
        width: MARK,
        height: MARK,
    }
}

/// All that looks different.
fn damage(sheet: &Sheet, old: &View, new: &View) -> Vec<Rect> {
    let mut damage = Vec::new();
    if old.tick != new.tick {
        let film = Rect {
            height: sheet.film,
            ..FILM
        };
        damage.extend((film.height > 0).then_some(film));
        damage.extend([old, new].map(|view| box_at(sheet.seed, view.tick)));
        damage.extend(typed_between(old.tick, new.tick));
    }
    let longest = old.note.len().max(new.note.len());
    let differs = |index: &usize| old.note.get(*index) != new.note.get(*index);
    damage.extend(
        (0..longest)
            .filter(differs)
            .map(|index| cell_of(NOTE, index)),
    );
    if old.mark != new.mark {
        damage.extend(old.mark.into_iter().chain(new.mark));
    }
    damage
}

fn low(value: u16) -> u8 {
    value.to_le_bytes()[0]
}

/// The cells that fill, and the page if it was begun anew.
fn typed_between(old: u64, new: u64) -> impl Iterator<Item = Rect> {
    let letters = u64::try_from(cells(PAGE)).unwrap_or(u64::MAX);
    let turned = old / letters != new / letters;
    let filled = if turned {
        0..0
    } else {
        old % letters..new % letters
    };
    let cell = |index: u64| cell_of(PAGE, usize::try_from(index).unwrap_or(0));
    turned.then_some(PAGE).into_iter().chain(filled.map(cell))
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

/// A cross.
fn cursor() -> CursorShape {
    let (middle, side) = (usize::from(CURSOR / 2), usize::from(CURSOR));
    let pixel = |at: usize| {
        let on = at % side == middle || at / side == middle;
        if on { 0xff10_1010 } else { 0 }
    };
    CursorShape {
        width: CURSOR,
        height: CURSOR,
        hot_x: CURSOR / 2,
        hot_y: CURSOR / 2,
        serial: 0,
        argb: (0..side * side).map(pixel).collect(),
    }
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
            return Ok(Changes {
                damage: vec![Rect::of_size(SIZE)],
                resized: true,
                cursor_moved: Some(self.view.pointer),
                cursor_shape: Some(cursor()),
                ..self.advance(self.sheet.tick())
            });
        }
        let due = [self.sheet.after(self.view.tick), deadline];
        let rung = self.bell.sleep_until(due.into_iter().flatten().min());
        // Who rings wants an answer about the sheet, not the next tick.
        let tick = if rung {
            self.view.tick
        } else {
            self.sheet.tick()
        };
        Ok(self.advance(tick))
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

    fn all_of(mut source: Synthetic) -> Vec<u8> {
        source.refresh(&[Rect::of_size(SIZE)]).unwrap();
        source.bytes
    }

    /// The whole picture at a tick.
    fn at(sheet: Sheet, tick: u64) -> Vec<u8> {
        let mut source = Synthetic::new(sheet);
        source.advance(tick);
        all_of(source)
    }

    #[test]
    fn a_seed_and_a_tick_are_one_picture() {
        let film = |seed| Sheet::new(seed).with_film(400);
        for sheet in [Sheet::new as fn(u64) -> Sheet, film] {
            assert!(at(sheet(7), 100) == at(sheet(7), 100));
            assert!(at(sheet(7), 100) != at(sheet(8), 100));
        }
    }

    #[test]
    fn the_damage_is_all_that_changes() {
        for (old, new) in [(0, 1), (58, 63), (599, 601), (1_000, 5_000)] {
            for film in [0, 100] {
                let sheet = Sheet::new(3).with_film(film);
                let mut source = Synthetic::new(sheet.clone());
                source.advance(old);
                source.refresh(&[Rect::of_size(SIZE)]).unwrap();
                let damage = source.advance(new).damage;
                source.refresh(&damage).unwrap();
                assert!(
                    source.bytes == at(sheet, new),
                    "{old} to {new}, {film} rows"
                );
            }
        }
    }

    #[test]
    fn it_wakes_for_a_bell_before_the_tick_and_begins_with_everything() {
        let mut source = Synthetic::new(Sheet::new(1));
        let first = source.wait(None).unwrap();
        assert!(first.resized && first.damage == [Rect::of_size(SIZE)]);
        assert!(first.cursor_shape.is_some() && first.cursor_moved == Some((0, 0)));
        source.waker().wake();
        assert!(source.wait(None).unwrap().is_empty());
        assert!(!source.wait(None).unwrap().damage.is_empty());
    }

    #[test]
    fn what_is_done_to_a_resting_sheet_is_shown_and_nothing_else_happens() {
        let sheet = Sheet::new(1);
        sheet.rest(true);
        let mut source = Synthetic::new(sheet.clone());
        source.wait(None).unwrap();
        source.refresh(&[Rect::of_size(SIZE)]).unwrap();
        let next = sheet.next_letter();
        sheet.write('ä');
        let typed = source.wait(None).unwrap();
        assert_eq!(typed.damage, [next]);
        sheet.point(40, 30);
        assert_eq!(source.wait(None).unwrap().cursor_moved, Some((40, 30)));
        sheet.mark();
        let marked = source.wait(None).unwrap();
        assert!(marked.damage[0].contains(40, 30));
        source.refresh(&typed.damage).unwrap();
        source.refresh(&marked.damage).unwrap();
        assert!(source.bytes == all_of(Synthetic::new(sheet.clone())));
        assert!(source.bytes != all_of(Synthetic::new(Sheet::new(1))));
        sheet.erase();
        assert_eq!(source.wait(None).unwrap().damage, [next]);
        assert_eq!(sheet.next_letter(), next);
    }

    #[test]
    fn a_full_note_begins_anew() {
        let sheet = Sheet::new(1);
        sheet.rest(true);
        let mut source = Synthetic::new(sheet.clone());
        let first = sheet.next_letter();
        for _ in 0..cells(NOTE) {
            sheet.write('x');
        }
        assert!(!source.advance(0).damage.is_empty());
        assert_eq!(sheet.next_letter(), first);
        source.refresh(&[Rect::of_size(SIZE)]).unwrap();
        sheet.write('y');
        let damage = source.advance(0).damage;
        source.refresh(&damage).unwrap();
        assert!(source.bytes == all_of(Synthetic::new(sheet)));
    }
}
