//! What the demo's program looks like. Pure: from ticks and letters to pictures.

use crate::share::{
    bar::canvas::{Canvas, Colour, Fonts},
    capture::Rect,
};

/// Below the sharer's bar.
const TOP: u16 = 70;
const MARGIN: u16 = 40;
const HEADING: f32 = 30.0;
const WORDS: f32 = 20.0;
const HEADER_HEIGHT: u16 = 60;
const CLOCK_WIDTH: u16 = 140;
const SKY_HEIGHT: u16 = 220;
const ROW_HEIGHT: u16 = 74;
const CORNER: f32 = 10.0;
/// Of typed letters.
const LETTERS: f32 = 32.0;
const LINE_HEIGHT: u16 = 44;
const BASELINE: f32 = 33.0;
const NOTE_PADDING: u16 = 24;
const NOTE_HEADER: u16 = 60;
/// A second has so many ticks.
const TICKS: u64 = 25;
/// A document is printed in so many.
const PRINTED: u64 = 12 * TICKS;
const DOCUMENTS: [&str; 3] = [
    "Invoice 2026-11.pdf",
    "Travel expenses",
    "Minutes of Monday",
];

const GROUND: Colour = Colour(0x16, 0x1b, 0x26);
const PANEL: Colour = Colour(0x22, 0x29, 0x38);
const TEXT: Colour = Colour(0xff, 0xff, 0xff);
const QUIET: Colour = Colour(0xa9, 0xb4, 0xc6);
const GOOD: Colour = Colour(0x4c, 0xc3, 0x8a);
const TROUGH: Colour = Colour(0x36, 0x40, 0x54);
const PAPER: Colour = Colour(0xff, 0xf7, 0xdc);
const INK: Colour = Colour(0x24, 0x28, 0x33);
const FAINT: Colour = Colour(0x8b, 0x84, 0x6c);

/// A part of the window.
pub(super) struct Piece {
    pub(super) x: i16,
    pub(super) y: i16,
    pub(super) canvas: Canvas,
}

/// The window's picture, kept for whoever uncovers it.
pub(super) struct Painter {
    picture: Canvas,
    fonts: Fonts,
    tick: u64,
    sky: Rect,
    queue: Rect,
    note: Rect,
    /// Where letters stand.
    letters: Vec<Rect>,
}

fn rect(x: u16, y: u16, width: u16, height: u16) -> Rect {
    let place = |value: u16| i16::try_from(value).unwrap_or(i16::MAX);
    Rect {
        x: place(x),
        y: place(y),
        width,
        height,
    }
}

impl Painter {
    pub(super) fn new(width: u16, height: u16) -> Self {
        let column = (width / 2).saturating_sub(MARGIN + MARGIN / 2).max(1);
        let top = TOP + HEADER_HEIGHT;
        let below = height.saturating_sub(top + MARGIN).max(1);
        let under_sky = top + SKY_HEIGHT + MARGIN / 2;
        let queue = height.saturating_sub(under_sky + MARGIN).max(1);
        let mut painter = Self {
            picture: Canvas::new(width, height, GROUND),
            fonts: Fonts::new(),
            tick: 0,
            sky: rect(MARGIN, top, column, SKY_HEIGHT),
            queue: rect(MARGIN, under_sky, column, queue),
            note: rect(width / 2 + MARGIN / 2, top, column, below),
            letters: Vec::new(),
        };
        painter.begin();
        painter
    }

    fn begin(&mut self) {
        let (heading, baseline) = ("Maria's computer", f32::from(TOP) + 36.0);
        let left = f32::from(MARGIN);
        self.picture
            .text(&mut self.fonts, (left, baseline), HEADING, heading, TEXT);
        for piece in [self.clock(), self.sky(), self.queue(), self.paper()] {
            self.keep(&piece);
        }
    }

    /// Everything.
    pub(super) fn whole(&self) -> Piece {
        let mut canvas = Canvas::new(self.picture.width, self.picture.height, GROUND);
        canvas.bytes.clone_from(&self.picture.bytes);
        Piece { x: 0, y: 0, canvas }
    }

    /// What a tick changes.
    pub(super) fn tick(&mut self) -> Vec<Piece> {
        self.tick += 1;
        let mut pieces = vec![self.sky()];
        if self.tick.is_multiple_of(TICKS) {
            pieces.push(self.clock());
            pieces.push(self.queue());
        }
        for piece in &pieces {
            self.keep(piece);
        }
        pieces
    }

    /// Where the next letter will appear.
    pub(super) fn next_letter(&self) -> Rect {
        let first = rect(0, 0, NOTE_PADDING, LINE_HEIGHT).offset_by(self.first_letter());
        let Some(last) = self.letters.last() else {
            return first;
        };
        let x = i16::try_from(last.right()).unwrap_or(i16::MAX);
        let next = Rect {
            x,
            width: NOTE_PADDING,
            ..*last
        };
        if self.is_on_note(next) {
            return next;
        }
        let down = next.y.saturating_add_unsigned(LINE_HEIGHT);
        let next = Rect {
            x: first.x,
            y: down,
            ..next
        };
        if self.is_on_note(next) { next } else { first }
    }

    /// Shows another letter; a full note begins anew.
    pub(super) fn write(&mut self, letter: char) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let next = self.next_letter();
        if self
            .letters
            .first()
            .is_some_and(|first| (first.x, first.y) == (next.x, next.y))
        {
            self.letters.clear();
            pieces.push(self.paper());
        }
        let text = letter.to_string();
        let width = whole(self.fonts.measure(LETTERS, &text)) + 2;
        let mut canvas = Canvas::new(width, LINE_HEIGHT, PAPER);
        canvas.text(&mut self.fonts, (1.0, BASELINE), LETTERS, &text, INK);
        pieces.push(Piece {
            x: next.x,
            y: next.y,
            canvas,
        });
        self.letters.push(Rect { width, ..next });
        for piece in &pieces {
            self.keep(piece);
        }
        pieces
    }

    /// Takes the last letter away.
    pub(super) fn erase(&mut self) -> Vec<Piece> {
        let erased = self.letters.pop().map(|last| Piece {
            x: last.x,
            y: last.y,
            canvas: Canvas::new(last.width, last.height, PAPER),
        });
        let pieces: Vec<Piece> = erased.into_iter().collect();
        for piece in &pieces {
            self.keep(piece);
        }
        pieces
    }

    fn first_letter(&self) -> (i16, i16) {
        (
            self.note.x.saturating_add_unsigned(NOTE_PADDING),
            self.note.y.saturating_add_unsigned(NOTE_HEADER),
        )
    }

    fn is_on_note(&self, letter: Rect) -> bool {
        // The widest letters are twice as wide as what is looked at.
        letter.right() + i32::from(NOTE_PADDING) <= self.note.right()
            && letter.bottom() + i32::from(NOTE_PADDING) <= self.note.bottom()
    }

    fn keep(&mut self, piece: &Piece) {
        let stride = usize::from(self.picture.width) * 4;
        let (left, top) = (
            usize::from(piece.x.unsigned_abs()),
            usize::from(piece.y.unsigned_abs()),
        );
        let row = usize::from(piece.canvas.width) * 4;
        let shown = row.min(stride.saturating_sub(left * 4));
        for (y, from) in piece.canvas.bytes.chunks_exact(row).enumerate() {
            let at = (top + y) * stride + left * 4;
            if let Some(to) = self.picture.bytes.get_mut(at..at + shown) {
                to.copy_from_slice(&from[..shown]);
            }
        }
    }

    // ---- parts ---------------------------------------------------------------------------

    fn clock(&mut self) -> Piece {
        let seconds = self.tick / TICKS;
        let text = format!("{:02}:{:02}", seconds / 60, seconds % 60);
        let mut canvas = Canvas::new(CLOCK_WIDTH, HEADER_HEIGHT - 10, GROUND);
        let left = f32::from(CLOCK_WIDTH) - self.fonts.measure(HEADING, &text);
        canvas.text(&mut self.fonts, (left, 36.0), HEADING, &text, QUIET);
        let x = self.picture.width.saturating_sub(MARGIN + CLOCK_WIDTH);
        let place = rect(x, TOP, CLOCK_WIDTH, 0);
        Piece {
            x: place.x,
            y: place.y,
            canvas,
        }
    }

    /// A sun that goes to and fro over the sea.
    fn sky(&self) -> Piece {
        let Rect {
            x,
            y,
            width,
            height,
        } = self.sky;
        let mut canvas = Canvas::new(width, height, PANEL);
        let sun = Sun::at(self.tick, width, height);
        let columns = usize::from(width);
        for (at, pixel) in canvas.bytes.chunks_exact_mut(4).enumerate() {
            let place = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
            let colour = sun.colour(place(at % columns), place(at / columns));
            pixel[..3].copy_from_slice(&colour);
        }
        Piece { x, y, canvas }
    }

    fn queue(&mut self) -> Piece {
        let Rect {
            x,
            y,
            width,
            height,
        } = self.queue;
        let mut canvas = Canvas::new(width, height, GROUND);
        let (wide, high) = (f32::from(width), f32::from(height));
        canvas.rounded((0.0, 0.0), (wide, high), CORNER, PANEL);
        let left = f32::from(NOTE_PADDING);
        canvas.text(&mut self.fonts, (left, 36.0), WORDS, "Printer", TEXT);
        for (row, document) in (0u16..).zip(DOCUMENTS) {
            let top = f32::from(54 + row * ROW_HEIGHT);
            canvas.text(&mut self.fonts, (left, top + 24.0), WORDS, document, TEXT);
            let (state, done) = if row == 0 {
                ("printing", self.printed())
            } else {
                ("waits", 0.0)
            };
            let start = wide - left - self.fonts.measure(WORDS, state);
            canvas.text(&mut self.fonts, (start, top + 24.0), WORDS, state, QUIET);
            let trough = (wide - 2.0 * left).max(1.0);
            canvas.rounded((left, top + 38.0), (trough, 8.0), 4.0, TROUGH);
            if done > 0.0 {
                canvas.rounded((left, top + 38.0), (trough * done, 8.0), 4.0, GOOD);
            }
        }
        Piece { x, y, canvas }
    }

    #[expect(clippy::cast_precision_loss, reason = "at most a few hundred ticks")]
    fn printed(&self) -> f32 {
        (self.tick % PRINTED) as f32 / PRINTED as f32
    }

    fn paper(&mut self) -> Piece {
        let Rect {
            x,
            y,
            width,
            height,
        } = self.note;
        let mut canvas = Canvas::new(width, height, GROUND);
        canvas.rounded((0.0, 0.0), (width.into(), height.into()), CORNER, PAPER);
        let left = f32::from(NOTE_PADDING);
        canvas.text(&mut self.fonts, (left, 36.0), WORDS, "Note", FAINT);
        Piece { x, y, canvas }
    }
}

/// Where the sun stands, and how it lights everything else.
struct Sun {
    x: i32,
    y: i32,
    tick: i32,
    height: i32,
}

impl Sun {
    fn at(tick: u64, width: u16, height: u16) -> Self {
        let way = 2 * u64::from(width.max(1));
        let phase = i32::try_from(tick * 3 % way).unwrap_or(0);
        let (width, height) = (i32::from(width), i32::from(height));
        let x = if phase < width {
            phase
        } else {
            2 * width - phase
        };
        // A parabola: highest in the middle.
        let aside = (x - width / 2) * 100 / width.max(1);
        Self {
            x,
            y: height / 5 + aside * aside * height / 6_000,
            tick: i32::try_from(tick % 100_000).unwrap_or(0),
            height,
        }
    }

    /// Blue, green, red.
    fn colour(&self, x: i32, y: i32) -> [u8; 3] {
        let sea = self.height * 2 / 3;
        let (dx, dy) = (x - self.x, y - self.y);
        let distance = dx * dx + dy * dy;
        if y < sea {
            if distance < 24 * 24 {
                return [150, 235, 255];
            }
            let glow = 90_000 / (distance / 8 + 900);
            let dusk = y * 110 / sea.max(1);
            return [
                level(150 - dusk / 2 + glow / 4),
                level(70 + dusk / 2 + glow),
                level(60 + dusk + glow),
            ];
        }
        // Waves are nearer, and so wider, further down.
        let depth = y - sea;
        let wave = ((x + self.tick * 2) * 8 / (depth / 4 + 6) + depth * 3) % 32;
        let lit = if dx.abs() < depth + 16 { 60 } else { 0 };
        let crest = (16 - wave.abs()).abs();
        [
            level(120 + crest * 2),
            level(60 + crest * 2 + lit),
            level(30 + crest + lit),
        ]
    }
}

fn level(value: i32) -> u8 {
    u8::try_from(value.clamp(0, 255)).unwrap_or(0)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float that becomes an integer saturates; no letter is wider than a screen"
)]
fn whole(value: f32) -> u16 {
    value.ceil() as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn painter() -> Painter {
        Painter::new(1280, 800)
    }

    fn inked(piece: &Piece) -> bool {
        piece
            .canvas
            .bytes
            .chunks_exact(4)
            .any(|pixel| pixel[0] < 0x80)
    }

    #[test]
    fn every_letter_appears_where_it_was_announced() {
        let mut painter = painter();
        // More than the note holds.
        for letter in "äß漢W.".chars().cycle().take(2_000) {
            let next = painter.next_letter();
            let pieces = painter.write(letter);
            let piece = pieces.last().unwrap();
            assert_eq!((piece.x, piece.y), (next.x, next.y));
            assert!(inked(piece), "{letter}");
            let letter = rect(0, 0, piece.canvas.width, piece.canvas.height);
            let letter = letter.offset_by((piece.x, piece.y));
            assert_eq!(letter.intersection(painter.note), letter);
        }
    }

    #[test]
    fn what_was_put_on_the_screen_is_what_is_kept() {
        let mut painter = painter();
        let mut shown = painter.whole().canvas;
        let mut put = |pieces: Vec<Piece>| {
            for piece in pieces {
                let row = usize::from(piece.canvas.width) * 4;
                for (y, from) in piece.canvas.bytes.chunks_exact(row).enumerate() {
                    let (x, y) = (
                        usize::from(piece.x.unsigned_abs()),
                        usize::from(piece.y.unsigned_abs()) + y,
                    );
                    shown.bytes[(y * 1280 + x) * 4..][..row].copy_from_slice(from);
                }
            }
        };
        let before = painter.whole().canvas.bytes;
        put(painter.write('a'));
        put(painter.erase());
        assert!(painter.whole().canvas.bytes == before);
        for _ in 0..60 {
            put(painter.tick());
        }
        put(painter.write('漢'));
        let whole = painter.whole().canvas.bytes;
        assert!(shown.bytes == whole && whole != before);
    }

    #[test]
    fn a_small_window_is_no_trouble() {
        let mut painter = Painter::new(60, 40);
        painter.tick();
        painter.write('x');
        assert!(painter.erase().len() == 1);
    }
}
