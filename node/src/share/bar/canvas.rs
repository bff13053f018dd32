//! A small picture to draw the bar, and other windows of ours, in: flat colours, round corners, text.

use ab_glyph::{Font, FontArc, FontVec, PxScale, ScaleFont, point};
use std::{collections::BTreeMap, process::Command};

/// Latin, Greek and Cyrillic, so that the bar never depends on what is installed. Core X fonts were the alternative:
/// many servers come without any, and those that there are have no smooth edges, which looks like a fake.
const EMBEDDED: &[u8] = include_bytes!("DejaVuSans-subset.ttf");
/// What stands for a character that no font has.
const MISSING: char = '□';
/// Largest font file that is read for a few letters of a name: Noto Sans CJK has 19 MB.
const MAX_FONT_BYTES: u64 = 64 << 20;

/// Red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Colour(pub(crate) u8, pub(crate) u8, pub(crate) u8);

/// Rows of blue, green, red, unused.
#[derive(Debug)]
pub(crate) struct Canvas {
    pub(crate) width: u16,
    pub(crate) height: u16,
    pub(crate) bytes: Vec<u8>,
}

impl Canvas {
    pub(crate) fn new(width: u16, height: u16, colour: Colour) -> Self {
        let pixels = usize::from(width) * usize::from(height);
        let bytes = [colour.2, colour.1, colour.0, 0].repeat(pixels);
        Self {
            width,
            height,
            bytes,
        }
    }

    /// A rectangle with round corners and smooth edges.
    pub(crate) fn rounded(
        &mut self,
        (x, y): (f32, f32),
        (width, height): (f32, f32),
        radius: f32,
        colour: Colour,
    ) {
        let span = |start: f32, length: f32, most: u16| {
            whole(start.max(0.0))..most.min(whole((start + length).max(0.0)) + 1)
        };
        for row in span(y, height, self.height) {
            for column in span(x, width, self.width) {
                let (px, py) = (f32::from(column) + 0.5 - x, f32::from(row) + 0.5 - y);
                // Signed distance to the edge; inside is negative.
                let dx = (width / 2.0 - px).abs() - width / 2.0 + radius;
                let dy = (height / 2.0 - py).abs() - height / 2.0 + radius;
                let distance = dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0) - radius;
                let coverage = (0.5 - distance).clamp(0.0, 1.0);
                if coverage > 0.0 {
                    self.blend(column, row, coverage, colour);
                }
            }
        }
    }

    /// Draws a line of text from `x`, on this baseline; where it ends.
    pub(crate) fn text(
        &mut self,
        fonts: &mut Fonts,
        (x, baseline): (f32, f32),
        size: f32,
        text: &str,
        colour: Colour,
    ) -> f32 {
        let mut pen = x;
        for char in text.chars() {
            let (font, glyph) = fonts.find(char);
            let scaled = font.as_scaled(PxScale::from(size));
            let placed = glyph.with_scale_and_position(PxScale::from(size), point(pen, baseline));
            pen += scaled.h_advance(placed.id);
            let Some(outline) = font.outline_glyph(placed) else {
                continue;
            };
            let bounds = outline.px_bounds();
            outline.draw(|column, row, coverage| {
                let place = |offset: u32, start: f32| whole(start + offset as f32);
                self.blend(
                    place(column, bounds.min.x),
                    place(row, bounds.min.y),
                    coverage,
                    colour,
                );
            });
        }
        pen
    }

    fn blend(&mut self, x: u16, y: u16, coverage: f32, colour: Colour) {
        if x >= self.width || y >= self.height {
            return;
        }
        let at = (usize::from(y) * usize::from(self.width) + usize::from(x)) * 4;
        for (old, new) in self.bytes[at..at + 3]
            .iter_mut()
            .zip([colour.2, colour.1, colour.0])
        {
            let mixed = f32::from(*old) + (f32::from(new) - f32::from(*old)) * coverage.min(1.0);
            *old = byte(mixed);
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float that becomes an integer saturates; that is the clamp wanted here"
)]
fn whole(value: f32) -> u16 {
    // What is left of the picture is as invisible as what is right of it.
    if value < 0.0 { u16::MAX } else { value as u16 }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float that becomes an integer saturates; that is the clamp wanted here"
)]
fn byte(value: f32) -> u8 {
    value.round() as u8
}

/// The embedded font, and fonts of the system for what it lacks.
#[derive(Debug)]
pub(crate) struct Fonts {
    fonts: Vec<FontArc>,
    /// Index of the font for a character that the embedded one lacks; none if no font has it.
    found: BTreeMap<char, Option<usize>>,
}

impl Fonts {
    pub(crate) fn new() -> Self {
        let embedded = FontArc::try_from_slice(EMBEDDED).expect("the embedded font is a font");
        Self {
            fonts: vec![embedded],
            found: BTreeMap::new(),
        }
    }

    /// How wide the text is.
    pub(crate) fn measure(&mut self, size: f32, text: &str) -> f32 {
        text.chars()
            .map(|char| {
                let (font, glyph) = self.find(char);
                font.as_scaled(PxScale::from(size)).h_advance(glyph)
            })
            .sum()
    }

    fn find(&mut self, char: char) -> (&FontArc, ab_glyph::GlyphId) {
        let index = match self.index_of(char) {
            Some(index) => index,
            None => *self
                .found
                .entry(char)
                .or_insert_with(|| {
                    let font = system_font(char)?;
                    self.fonts.push(font);
                    Some(self.fonts.len() - 1)
                })
                .as_ref()
                .unwrap_or(&usize::MAX),
        };
        match self.fonts.get(index) {
            Some(font) => (font, font.glyph_id(char)),
            None => (&self.fonts[0], self.fonts[0].glyph_id(MISSING)),
        }
    }

    /// A font we have already that has the character.
    fn index_of(&self, char: char) -> Option<usize> {
        self.fonts
            .iter()
            .position(|font| font.glyph_id(char).0 != 0)
    }
}

/// Asks fontconfig's own program, which every desktop has, rather than to link the library for one question.
fn system_font(char: char) -> Option<FontArc> {
    let pattern = format!("sans:charset={:x}", u32::from(char));
    let output = Command::new("fc-match")
        .args(["--format", "%{index} %{file}", &pattern])
        .output()
        .ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    let (index, file) = answer.split_once(' ')?;
    // The upper half names an instance of a variable font.
    let index = index.parse::<u32>().ok()? & 0xffff;
    if std::fs::metadata(file).ok()?.len() > MAX_FONT_BYTES {
        return None;
    }
    let font = FontVec::try_from_vec_and_index(std::fs::read(file).ok()?, index).ok()?;
    (font.glyph_id(char).0 != 0).then(|| FontArc::new(font))
}

/// What may stand in the bar: one line, without characters that turn the line around or hide in it.
pub(crate) fn presentable(text: &str, most: usize) -> String {
    let hidden = |char: &char| {
        char.is_control()
            || matches!(char, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let shown: Vec<char> = text.chars().filter(|char| !hidden(char)).collect();
    let shortened = shown.len() > most;
    let kept = shown
        .into_iter()
        .take(if shortened { most - 1 } else { most });
    visual_order(&kept.chain(shortened.then_some('…')).collect::<Vec<char>>())
}

/// Hebrew and Arabic run to the left: their runs are turned around for a pen that goes to the right. (Letters are not
/// joined, which a reader of Arabic sees, but can read.)
fn visual_order(text: &[char]) -> String {
    let leftward = |char: char| matches!(char, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}');
    let mut ordered = String::new();
    let mut rest = text;
    while let Some(start) = rest.iter().position(|char| leftward(*char)) {
        ordered.extend(&rest[..start]);
        let inside = rest[start..]
            .iter()
            .take_while(|char| leftward(**char) || char.is_whitespace())
            .count();
        let run = &rest[start..start + inside];
        let length = run
            .iter()
            .rposition(|char| leftward(*char))
            .map_or(0, |last| last + 1);
        ordered.extend(run[..length].iter().rev());
        rest = &rest[start + length..];
    }
    ordered.extend(rest);
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_as_one_honest_line() {
        assert_eq!(presentable("Sam\n\u{202e}Okafor\u{2069}", 40), "SamOkafor");
        assert_eq!(presentable("Maximiliane Mustermann", 10), "Maximilia…");
        assert_eq!(presentable("Dana דנה לוי (IT)", 40), "Dana יול הנד (IT)");
        assert_eq!(presentable("", 40), "");
    }

    #[test]
    fn the_embedded_font_has_the_letters_of_europe() {
        let mut fonts = Fonts::new();
        for char in "AZaz09 äßéñøłžığ ΑΩαω АЯая €…·●□–’".chars() {
            assert_eq!(fonts.index_of(char), Some(0), "{char:?}");
        }
        assert!(fonts.measure(14.0, "WW") > fonts.measure(14.0, "ii"));
    }

    #[test]
    fn text_leaves_ink_and_rounded_corners_leave_none() {
        let (ground, ink) = (Colour(0, 0, 0), Colour(255, 255, 255));
        let mut canvas = Canvas::new(60, 30, ground);
        let end = canvas.text(&mut Fonts::new(), (5.0, 20.0), 16.0, "Sam", ink);
        assert!((30.0..45.0).contains(&end), "{end}");
        assert!(canvas.bytes.iter().any(|byte| *byte > 200));
        let mut canvas = Canvas::new(20, 20, ground);
        canvas.rounded((0.0, 0.0), (20.0, 20.0), 8.0, ink);
        assert_eq!(canvas.bytes[..3], [0, 0, 0]);
        assert_eq!(canvas.bytes[(10 * 20 + 10) * 4..][..3], [255, 255, 255]);
        let mut canvas = Canvas::new(20, 20, ground);
        canvas.rounded((5.0, 5.0), (3.0, 3.0), 0.0, ink);
        let inked = canvas.bytes.iter().filter(|byte| **byte == 255).count();
        assert_eq!(inked, 3 * 9, "sharp edges without a radius");
    }
}
