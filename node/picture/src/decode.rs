//! Frames to pixels: a canvas that draws what the sharer's encoder made (`crate::frame` has the format).
//!
//! Frames travel on streams of their own and may arrive in any order. Each is drawn as soon as it is there, unless it names
//! another that has to be drawn before; then it is held until that one was. The sharer sees to it that other frames have
//! nothing to do with each other, and that a key frame goes alone: what is older than the last one is not drawn any more.
//!
//! Nothing here trusts a byte. What a frame may cost is bounded by its canvas, which is bounded by `MAX_PIXELS`; what is
//! no frame is an error, and then everything waits for a key frame.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    fmt,
    io::{Cursor, Read},
};

use bytes::Bytes;
use flate2::read::DeflateDecoder;
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use crate::{
    frame::{self, Header, Kind, Malformed, Place, Tile},
    pixels::Pixels,
};

/// The largest picture: 8,192 × 8,192, or two screens of 8K.
pub const MAX_PIXELS: usize = 1 << 26;
/// How often a frame may draw a pixel: copied, then drawn over, and as much again for an encoder that does it otherwise.
const MAX_OVERDRAW: usize = 4;
/// Frames that may wait for one another; a sharer has fewer under way, so that more are a reason to begin anew.
const MAX_HELD: usize = 32;
/// Frames that somebody could still wait for.
const MAX_REMEMBERED: usize = 64;
/// Beside the pixels, for a tile's picture.
const PNG_BYTES: usize = 1 << 20;
const PIXEL: usize = 4;

/// Why a frame was not drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undrawn {
    /// Older than the last key frame: nothing is missing.
    #[error("the frame is older than the last key frame")]
    Stale,
    /// There was no key frame, or the last one was of another size or source: one has to be asked for.
    #[error("a key frame has to come first")]
    NoKeyFrame,
    /// Too many frames wait for others: a key frame has to be asked for.
    #[error("too many frames wait for others")]
    Held,
    /// No frame at all: a key frame has to be asked for.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A drawn frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// To be acknowledged.
    pub sequence: u32,
    /// Everything before is forgotten.
    pub key: bool,
    /// Every pixel is exact once all frames up to this one are drawn.
    pub exact: bool,
    /// Not to be acknowledged.
    pub quiet: bool,
    /// When the sharer captured it, by the sharer's clock.
    pub captured_ms: u64,
    /// The form of each tile.
    pub tiles: Vec<Kind>,
}

/// The picture.
#[derive(Default)]
pub struct Canvas {
    width: u16,
    height: u16,
    /// Rows of blue, green, red and a zero.
    bytes: Vec<u8>,
    /// Sequence of the last key frame.
    key: Option<u32>,
    /// Of the newest frame: its sequence, and whether it was exact.
    newest: Option<(u32, bool)>,
    /// Drawn since the key frame, the latest last.
    done: VecDeque<u32>,
    /// By the frame that they wait for.
    held: BTreeMap<u32, Vec<Bytes>>,
}

impl fmt::Debug for Canvas {
    /// The size only: screen content is nobody's but the two people's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Canvas({} × {})", self.width, self.height)
    }
}

impl Canvas {
    /// Without a pixel, until a key frame comes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The picture as it is now.
    pub fn pixels(&self) -> Pixels<'_> {
        Pixels {
            bytes: &self.bytes,
            stride: usize::from(self.width) * PIXEL,
            width: self.width,
            height: self.height,
        }
    }

    /// Blue, green, red of a pixel; `None` outside.
    pub fn pixel(&self, x: u16, y: u16) -> Option<[u8; 3]> {
        let inside = x < self.width && y < self.height;
        let at = (usize::from(y) * usize::from(self.width) + usize::from(x)) * PIXEL;
        inside.then(|| [self.bytes[at], self.bytes[at + 1], self.bytes[at + 2]])
    }

    /// Whether the newest frame said that every pixel is exact. A frame sent before it may still be on its way.
    pub fn is_exact(&self) -> bool {
        self.newest.is_some_and(|(_, exact)| exact)
    }

    /// Draws a frame, and those that waited for it; none if it has to wait itself.
    ///
    /// # Errors
    /// Why not. After all but [`Undrawn::Stale`] the canvas takes nothing but a key frame; it may be half drawn.
    pub fn draw(&mut self, frame: &Bytes) -> Result<Vec<Drawn>, Undrawn> {
        let mut drawn: Vec<Drawn> = Vec::new();
        let mut ready = VecDeque::from([frame.clone()]);
        while let Some(frame) = ready.pop_front() {
            match self.try_draw(&frame) {
                Ok(Some(one)) => {
                    ready.extend(self.held.remove(&one.sequence).unwrap_or_default());
                    drawn.push(one);
                }
                Ok(None) => {}
                // Another one is drawn in this one's place.
                Err(Undrawn::Stale) if !drawn.is_empty() => {}
                Err(why) => {
                    if why != Undrawn::Stale {
                        self.forget();
                    }
                    return Err(why);
                }
            }
        }
        Ok(drawn)
    }

    fn forget(&mut self) {
        (self.key, self.newest) = (None, None);
        self.done.clear();
        self.held.clear();
    }

    fn try_draw(&mut self, frame: &Bytes) -> Result<Option<Drawn>, Undrawn> {
        let (header, rest) = Header::parse(frame).map_err(Undrawn::Malformed)?;
        let sequence = header.sequence;
        if let Some(key) = self.key
            && is_before(sequence, key)
        {
            return Err(Undrawn::Stale);
        }
        if let Some(size) = header.key {
            self.begin(size)?;
        } else if self.key.is_none() {
            return Err(Undrawn::NoKeyFrame);
        } else if self.has_to_wait(&header) {
            return self.hold(header.after, frame).map(|()| None);
        }
        let tiles = self.tiles(rest)?;
        self.copy(&tiles)?;
        for tile in &tiles {
            self.put(tile)?;
        }
        if header.key.is_some() {
            self.key = Some(sequence);
        }
        self.remember(&header);
        Ok(Some(Drawn {
            sequence,
            key: header.key.is_some(),
            exact: header.exact,
            quiet: header.quiet,
            captured_ms: header.captured_ms,
            tiles: tiles.iter().map(|tile| tile.kind).collect(),
        }))
    }

    /// Looks at all tiles before the first is drawn.
    fn tiles<'a>(&self, mut rest: &'a [u8]) -> Result<Vec<Tile<'a>>, Malformed> {
        let mut tiles: Vec<Tile<'_>> = Vec::new();
        let size = (self.width, self.height);
        let mut allowed = usize::from(self.width) * usize::from(self.height) * MAX_OVERDRAW;
        while !rest.is_empty() {
            let tile;
            (tile, rest) = Tile::split(rest)?;
            if !tile.place.is_in(size) {
                return Err(Malformed::Place);
            }
            if tile.kind == Kind::Copy && tiles.last().is_some_and(|last| last.kind != Kind::Copy) {
                return Err(Malformed::LateCopy);
            }
            allowed = allowed
                .checked_sub(tile.place.pixels())
                .ok_or(Malformed::Overdraw)?;
            tiles.push(tile);
        }
        Ok(tiles)
    }

    fn has_to_wait(&self, header: &Header) -> bool {
        let after = header.after;
        let forgotten = self.key.is_some_and(|key| is_before(after, key));
        after != header.sequence && !forgotten && !self.done.contains(&after)
    }

    fn hold(&mut self, after: u32, frame: &Bytes) -> Result<(), Undrawn> {
        if self.held.values().map(Vec::len).sum::<usize>() >= MAX_HELD {
            return Err(Undrawn::Held);
        }
        self.held.entry(after).or_default().push(frame.clone());
        Ok(())
    }

    fn remember(&mut self, header: &Header) {
        let sequence = header.sequence;
        self.done.push_back(sequence);
        if self.done.len() > MAX_REMEMBERED {
            self.done.pop_front();
        }
        if self
            .newest
            .is_none_or(|(newest, _)| is_before(newest, sequence))
        {
            self.newest = Some((sequence, header.exact));
        }
    }

    /// Forgets everything.
    fn begin(&mut self, (width, height): (u16, u16)) -> Result<(), Malformed> {
        let pixels = usize::from(width) * usize::from(height);
        if !(1..=MAX_PIXELS).contains(&pixels) {
            return Err(Malformed::Size);
        }
        self.forget();
        (self.width, self.height) = (width, height);
        // Zeroed by the system when it is first touched: a large picture of few tiles costs little.
        self.bytes = vec![0; pixels * PIXEL];
        Ok(())
    }

    fn row_mut(&mut self, x: u16, y: usize, width: usize) -> &mut [u8] {
        let at = (y * usize::from(self.width) + usize::from(x)) * PIXEL;
        &mut self.bytes[at..at + width * PIXEL]
    }

    /// All copies are from the picture before this frame: read first, then written.
    fn copy(&mut self, tiles: &[Tile<'_>]) -> Result<(), Malformed> {
        let copies = tiles.iter().filter(|tile| tile.kind == Kind::Copy);
        let mut read = Vec::new();
        for tile in copies.clone() {
            let from = self.copied_from(tile)?;
            for y in rows(from.y, from.height) {
                let width = from.width.into();
                read.extend_from_slice(self.row_mut(from.x, y, width));
            }
        }
        let mut read = &read[..];
        for tile in copies {
            let width = usize::from(tile.place.width);
            for y in rows(tile.place.y, tile.place.height) {
                let (row, rest) = read.split_at(width * PIXEL);
                self.row_mut(tile.place.x, y, width).copy_from_slice(row);
                read = rest;
            }
        }
        Ok(())
    }

    fn copied_from(&self, tile: &Tile<'_>) -> Result<Place, Malformed> {
        let Ok([x0, x1, y0, y1]) = <[u8; 4]>::try_from(tile.payload) else {
            return Err(Malformed::Payload(tile.kind));
        };
        let from = Place {
            x: u16::from_le_bytes([x0, x1]),
            y: u16::from_le_bytes([y0, y1]),
            ..tile.place
        };
        let inside = from.is_in((self.width, self.height));
        inside.then_some(from).ok_or(Malformed::Payload(tile.kind))
    }

    fn put(&mut self, tile: &Tile<'_>) -> Result<(), Malformed> {
        let drawn = match tile.kind {
            // Drawn already.
            Kind::Copy => Some(()),
            Kind::Solid => self.solid(tile),
            Kind::Palette
            | Kind::DeflatedPalette
            | Kind::GreyPalette
            | Kind::DeflatedGreyPalette => self.palette(tile),
            Kind::Grey => self.grey(tile),
            Kind::Png => png(tile).and_then(|rgb| self.picture(tile.place, &rgb)),
            Kind::Jpeg => jpeg(tile).and_then(|rgb| self.picture(tile.place, &rgb)),
        };
        drawn.ok_or(Malformed::Payload(tile.kind))
    }

    fn solid(&mut self, Tile { place, payload, .. }: &Tile<'_>) -> Option<()> {
        let [blue, green, red] = <[u8; 3]>::try_from(*payload).ok()?;
        for y in rows(place.y, place.height) {
            let row = self.row_mut(place.x, y, place.width.into());
            for pixel in row.chunks_exact_mut(PIXEL) {
                pixel.copy_from_slice(&[blue, green, red, 0]);
            }
        }
        Some(())
    }

    fn palette(&mut self, tile: &Tile<'_>) -> Option<()> {
        let place = tile.place;
        let (count, rest) = tile.payload.split_first()?;
        let count = usize::from(*count);
        if count < 2 {
            return None;
        }
        let grey = matches!(tile.kind, Kind::GreyPalette | Kind::DeflatedGreyPalette);
        let (colours, indices) = rest.split_at_checked(if grey { count } else { count * 3 })?;
        let colours: Vec<[u8; 3]> = if grey {
            colours.iter().map(|shade| [*shade; 3]).collect()
        } else {
            let colours = colours.chunks_exact(3);
            colours
                .map(|colour| [colour[0], colour[1], colour[2]])
                .collect()
        };
        let bits = match count {
            2 => 1,
            3 | 4 => 2,
            5..=16 => 4,
            _ => 8,
        };
        let row_bytes = (usize::from(place.width) * bits).div_ceil(8);
        let wanted = row_bytes * usize::from(place.height);
        let indices = if matches!(tile.kind, Kind::DeflatedPalette | Kind::DeflatedGreyPalette) {
            Cow::Owned(inflate(indices, wanted)?)
        } else {
            Cow::Borrowed(indices)
        };
        if indices.len() != wanted {
            return None;
        }
        for (y, indices) in rows(place.y, place.height).zip(indices.chunks_exact(row_bytes)) {
            let row = self.row_mut(place.x, y, place.width.into());
            for (x, pixel) in row.chunks_exact_mut(PIXEL).enumerate() {
                let at = x * bits;
                let index = usize::from(indices[at / 8]) >> (8 - bits - at % 8);
                let index = index & ((1 << bits) - 1);
                pixel[..3].copy_from_slice(colours.get(index)?);
            }
        }
        Some(())
    }

    fn grey(&mut self, Tile { place, payload, .. }: &Tile<'_>) -> Option<()> {
        let width = usize::from(place.width);
        let shades = inflate(payload, place.pixels())?;
        for (y, shades) in rows(place.y, place.height).zip(shades.chunks_exact(width)) {
            let row = self.row_mut(place.x, y, width);
            for (pixel, shade) in row.chunks_exact_mut(PIXEL).zip(shades) {
                pixel[..3].fill(*shade);
            }
        }
        Some(())
    }

    /// Red, green, blue, as many as the place has.
    fn picture(&mut self, place: Place, rgb: &[u8]) -> Option<()> {
        let width = usize::from(place.width);
        for (y, from) in rows(place.y, place.height).zip(rgb.chunks_exact(width * 3)) {
            let row = self.row_mut(place.x, y, width);
            for (pixel, colour) in row.chunks_exact_mut(PIXEL).zip(from.chunks_exact(3)) {
                pixel[..3].copy_from_slice(&[colour[2], colour[1], colour[0]]);
            }
        }
        Some(())
    }
}

/// Sequences wrap: the shorter way round decides.
fn is_before(sequence: u32, other: u32) -> bool {
    sequence != other && other.wrapping_sub(sequence) < 1 << 31
}

fn rows(y: u16, height: u16) -> std::ops::Range<usize> {
    usize::from(y)..usize::from(y) + usize::from(height)
}

/// Inflates (RFC 1951); `None` unless that gives exactly so many bytes.
fn inflate(bytes: &[u8], wanted: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let more = u64::try_from(wanted).ok()?.checked_add(1)?;
    DeflateDecoder::new(bytes)
        .take(more)
        .read_to_end(&mut out)
        .ok()?;
    (out.len() == wanted).then_some(out)
}

/// Red, green and blue of a PNG that is as large as its place.
fn png(Tile { place, payload, .. }: &Tile<'_>) -> Option<Vec<u8>> {
    let bytes = place.pixels() * 3;
    let limits = png::Limits {
        bytes: bytes + PNG_BYTES,
    };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(payload), limits);
    let info = decoder.read_header_info().ok()?;
    let expected = (
        u32::from(place.width),
        u32::from(place.height),
        png::ColorType::Rgb,
        png::BitDepth::Eight,
    );
    if (info.width, info.height, info.color_type, info.bit_depth) != expected {
        return None;
    }
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().ok()?;
    let mut out = vec![0; bytes];
    if reader.output_buffer_size() != Some(bytes) {
        return None;
    }
    let frame = reader.next_frame(&mut out).ok()?;
    // An animation's first picture may be smaller.
    let whole = (frame.width, frame.height) == (expected.0, expected.1);
    whole.then_some(out)
}

/// Red, green and blue of a JPEG that is as large as its place.
fn jpeg(Tile { place, payload, .. }: &Tile<'_>) -> Option<Vec<u8>> {
    let whole = frame::jpeg::decodable(payload, (place.width, place.height))?;
    let options = DecoderOptions::default()
        .set_max_width(place.width.into())
        .set_max_height(place.height.into())
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(whole), options);
    let out = decoder.decode().ok()?;
    (out.len() == place.pixels() * 3).then_some(out)
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "colours made from positions"
)]
mod tests {
    use std::sync::LazyLock;

    use proptest::{prelude::*, sample::Index};

    use super::*;
    use crate::encode::{Area, Budget, Encoder, Frame, Picture, Scope};

    const WIDTH: usize = 200;
    const HEIGHT: usize = 150;
    const PLENTY: Budget = Budget {
        bytes: usize::MAX,
        quality: 80,
    };

    fn screen(colour: impl Fn(usize, usize) -> [u8; 3]) -> Vec<u8> {
        let pixel = |at: usize| {
            let [blue, green, red] = colour(at % WIDTH, at / WIDTH);
            [blue, green, red, 0]
        };
        (0..WIDTH * HEIGHT).flat_map(pixel).collect()
    }

    fn picture(bytes: &[u8]) -> Picture<'_> {
        Picture {
            bytes,
            stride: WIDTH * 4,
            width: WIDTH,
            height: HEIGHT,
        }
    }

    const WHOLE: Area = Area {
        x: 0,
        y: 0,
        width: WIDTH,
        height: HEIGHT,
    };

    fn text(x: usize, y: usize) -> [u8; 3] {
        let on = (x / 2 * 7 + y / 3 * 13 + y * x / 5).is_multiple_of(5);
        if on { [20, 20, 20] } else { [250, 250, 250] }
    }

    /// Smooth, as photographs are.
    fn photo(x: usize, y: usize) -> [u8; 3] {
        let wave = |at: usize| (((at as f32 / 17.0).sin() + 1.0) * 120.0) as u8;
        [wave(x), wave(y), wave(x + y)]
    }

    fn noise(x: usize, y: usize) -> [u8; 3] {
        if x < 3 * y / 2 {
            text(x, y)
        } else {
            photo(x, y)
        }
    }

    /// Frames of every form: a key frame with a palette, JPEG and solid tiles; PNG; a scroll.
    fn session() -> &'static [Frame] {
        static SESSION: LazyLock<Vec<Frame>> = LazyLock::new(record);
        &SESSION
    }

    fn record() -> Vec<Frame> {
        let mut encoder = Encoder::new(WIDTH, HEIGHT);
        let mut frames: Vec<Frame> = Vec::new();
        let first = screen(|x, y| if y < 64 { [9, 9, 9] } else { noise(x, y) });
        let mut add = |encoder: &mut Encoder, frame: Option<Frame>| {
            if let Some(frame) = frame {
                encoder.seen(frame.sequence);
                frames.push(frame);
            }
        };
        let frame = encoder.encode(picture(&first), PLENTY, Scope::Overlapping, 1);
        add(&mut encoder, frame);
        let frame = encoder.refine(picture(&first), PLENTY, 2);
        add(&mut encoder, frame);
        for offset in [40, 57] {
            let scrolled = screen(|x, y| text(x, y + offset));
            encoder.damage(WHOLE);
            let frame = encoder.encode(picture(&scrolled), PLENTY, Scope::Overlapping, 3);
            add(&mut encoder, frame);
        }
        frames
    }

    /// A frame by hand.
    fn by_hand(flags: u8, sequence: u32, size: (u16, u16), tiles: &[(Place, u8, &[u8])]) -> Bytes {
        by_hand_after(sequence, flags, sequence, size, tiles)
    }

    fn by_hand_after(
        after: u32,
        flags: u8,
        sequence: u32,
        size: (u16, u16),
        tiles: &[(Place, u8, &[u8])],
    ) -> Bytes {
        let mut bytes = Vec::new();
        let header = Header {
            sequence,
            captured_ms: 0,
            after,
            key: (flags & 1 != 0).then_some(size),
            exact: flags & 2 != 0,
            quiet: flags & 4 != 0,
        };
        header.write(&mut bytes);
        for (place, kind, payload) in tiles {
            let at = bytes.len();
            let tile = Tile {
                place: *place,
                kind: Kind::Solid,
                payload,
            };
            tile.write(&mut bytes);
            bytes[at] = *kind;
        }
        bytes.into()
    }

    fn bytes_of(frame: &Frame) -> Bytes {
        frame.bytes.clone().into()
    }

    fn place(x: u16, y: u16, width: u16, height: u16) -> Place {
        Place {
            x,
            y,
            width,
            height,
        }
    }

    const SIZE: (u16, u16) = (100, 50);
    const ALL: Place = Place {
        x: 0,
        y: 0,
        width: SIZE.0,
        height: SIZE.1,
    };

    /// A key frame of one colour.
    fn key(sequence: u32, colour: u8) -> Bytes {
        by_hand(1, sequence, SIZE, &[(ALL, 0, &[colour; 3])])
    }

    fn dot(sequence: u32, x: u16, colour: u8) -> Bytes {
        by_hand(0, sequence, SIZE, &[(place(x, 0, 1, 1), 0, &[colour; 3])])
    }

    fn malformed(frame: impl Into<Bytes>) -> Malformed {
        let mut canvas = Canvas::new();
        canvas.draw(&key(1, 5)).unwrap();
        match canvas.draw(&frame.into()) {
            Err(Undrawn::Malformed(why)) => {
                assert_eq!(canvas.draw(&dot(3, 0, 1)), Err(Undrawn::NoKeyFrame));
                why
            }
            other => panic!("{other:?}"),
        }
    }

    /// Of one tile in the second frame.
    fn refusal(place: Place, kind: u8, payload: &[u8]) -> Malformed {
        malformed(by_hand(0, 2, SIZE, &[(place, kind, payload)]))
    }

    #[test]
    fn every_form_is_drawn_and_the_end_is_exact() {
        let (frames, mut canvas) = (session(), Canvas::new());
        let mut forms = Vec::new();
        for frame in frames {
            let drawn = canvas.draw(&bytes_of(frame)).unwrap();
            assert_eq!(drawn.len(), 1);
            let drawn = drawn.into_iter().next().unwrap();
            assert_eq!((drawn.sequence, drawn.exact), (frame.sequence, frame.exact));
            assert_eq!(canvas.is_exact(), frame.exact);
            forms.extend(drawn.tiles);
        }
        for form in [
            Kind::Solid,
            Kind::DeflatedPalette,
            Kind::DeflatedGreyPalette,
            Kind::Png,
            Kind::Jpeg,
            Kind::Copy,
        ] {
            assert!(forms.contains(&form), "{form:?} among {forms:?}");
        }
        assert!(canvas.pixels().bytes == screen(|x, y| text(x, y + 57)));
    }

    #[test]
    fn a_photograph_is_close_to_what_it_was() {
        let bytes = screen(photo);
        let mut encoder = Encoder::new(WIDTH, HEIGHT);
        let frame = encoder.encode(picture(&bytes), PLENTY, Scope::Overlapping, 1);
        let mut canvas = Canvas::new();
        let drawn = canvas.draw(&bytes_of(&frame.expect("key"))).unwrap();
        assert!(drawn[0].tiles.contains(&Kind::Jpeg) && !canvas.is_exact());
        let seen = canvas.pixels().bytes;
        let off: u64 = seen
            .iter()
            .zip(&bytes)
            .map(|(a, b)| u64::from(a.abs_diff(*b)))
            .sum();
        let mean = off as f64 / bytes.len() as f64;
        assert!(
            mean < 4.0,
            "{mean} a byte: blue and red may be changed round"
        );
    }

    #[test]
    fn what_came_before_the_key_frame_is_dropped_and_what_follows_comes_in_any_order() {
        let mut canvas = Canvas::new();
        assert_eq!(canvas.draw(&dot(1, 0, 1)), Err(Undrawn::NoKeyFrame));
        assert_eq!(canvas.pixel(0, 0), None);
        canvas.draw(&key(5, 7)).unwrap();
        for late in [dot(4, 0, 1), key(3, 1)] {
            assert_eq!(canvas.draw(&late), Err(Undrawn::Stale));
        }
        for (sequence, x) in [(9, 3), (6, 4), (8, 5)] {
            canvas.draw(&dot(sequence, x, 60)).unwrap();
        }
        let row: Vec<_> = (2..7).map(|x| canvas.pixel(x, 0).unwrap()[0]).collect();
        assert_eq!(row, [7, 60, 60, 60, 7]);
    }

    #[test]
    fn a_frame_waits_for_the_one_it_names() {
        let mut canvas = Canvas::new();
        canvas.draw(&key(5, 7)).unwrap();
        let waits = |after, sequence, colour| {
            let tile = (place(0, 0, 1, 1), 0, &[colour; 3][..]);
            by_hand_after(after, 0, sequence, SIZE, &[tile])
        };
        for late in [waits(7, 8, 3), waits(6, 7, 2)] {
            assert_eq!(canvas.draw(&late), Ok(Vec::new()));
        }
        assert_eq!(canvas.pixel(0, 0), Some([7; 3]));
        let drawn = canvas.draw(&dot(6, 0, 1)).unwrap();
        let order: Vec<u32> = drawn.iter().map(|drawn| drawn.sequence).collect();
        assert_eq!((order, canvas.pixel(0, 0)), (vec![6, 7, 8], Some([3; 3])));
        // What was drawn, or is older than the key frame, is not waited for.
        assert_eq!(canvas.draw(&waits(6, 9, 4)).unwrap().len(), 1);
        assert_eq!(canvas.draw(&waits(4, 10, 5)).unwrap().len(), 1);
    }

    #[test]
    fn so_many_frames_do_not_wait() {
        let mut canvas = Canvas::new();
        canvas.draw(&key(1, 7)).unwrap();
        let waits = |sequence| by_hand_after(900, 0, sequence, SIZE, &[]);
        for sequence in (2..).take(MAX_HELD) {
            assert_eq!(canvas.draw(&waits(sequence)), Ok(Vec::new()));
        }
        assert_eq!(canvas.draw(&waits(800)), Err(Undrawn::Held));
        assert_eq!(canvas.draw(&dot(900, 0, 1)), Err(Undrawn::NoKeyFrame));
    }

    #[test]
    fn sequences_wrap() {
        let mut canvas = Canvas::new();
        canvas.draw(&key(u32::MAX - 1, 7)).unwrap();
        canvas.draw(&dot(2, 0, 1)).unwrap();
        canvas.draw(&key(3, 9)).unwrap();
        assert_eq!(canvas.draw(&dot(u32::MAX, 0, 1)), Err(Undrawn::Stale));
    }

    #[test]
    fn the_newest_frame_says_whether_all_is_exact() {
        let mut canvas = Canvas::new();
        canvas.draw(&by_hand(3, 1, SIZE, &[])).unwrap();
        assert!(canvas.is_exact());
        canvas.draw(&by_hand(2, 3, SIZE, &[])).unwrap();
        canvas.draw(&by_hand(0, 2, SIZE, &[])).unwrap();
        assert!(canvas.is_exact(), "the older one came later");
        canvas.draw(&by_hand(0, 4, SIZE, &[])).unwrap();
        assert!(!canvas.is_exact());
    }

    #[test]
    fn copies_are_all_from_the_picture_before() {
        let mut canvas = Canvas::new();
        canvas.draw(&key(1, 7)).unwrap();
        canvas.draw(&dot(2, 0, 1)).unwrap();
        canvas.draw(&dot(3, 1, 2)).unwrap();
        // The two change places, and a solid tile is drawn over a third copy.
        let swapped = [
            (place(0, 0, 1, 1), 5, &[1u8, 0, 0, 0][..]),
            (place(1, 0, 1, 1), 5, &[0, 0, 0, 0]),
            (place(2, 0, 1, 1), 5, &[0, 0, 0, 0]),
            (place(2, 0, 1, 1), 0, &[3, 3, 3]),
        ];
        canvas.draw(&by_hand(0, 4, SIZE, &swapped)).unwrap();
        let row: Vec<_> = (0..4).map(|x| canvas.pixel(x, 0).unwrap()[0]).collect();
        assert_eq!(row, [2, 1, 3, 7]);
    }

    #[test]
    fn what_is_no_frame_is_told_apart() {
        assert_eq!(malformed(&[][..]), Malformed::Length);
        let cut = key(2, 1).len() - 1;
        assert_eq!(malformed(key(2, 1).slice(..cut)), Malformed::Length);
        assert_eq!(
            malformed([&key(2, 1)[..], &[0]].concat()),
            Malformed::Length
        );
        assert_eq!(
            malformed([&[2], &key(2, 1)[1..]].concat()),
            Malformed::Version
        );
        for size in [(0, 5), (5, 0), (u16::MAX, u16::MAX), (8192, 8193)] {
            assert_eq!(malformed(by_hand(1, 2, size, &[])), Malformed::Size);
        }
        for outside in [
            place(99, 0, 2, 1),
            place(0, 49, 1, 2),
            place(0, 0, 0, 1),
            place(0, 0, 1, 0),
            place(u16::MAX, 0, u16::MAX, 1),
        ] {
            assert_eq!(refusal(outside, 0, &[0; 3]), Malformed::Place);
        }
        assert_eq!(refusal(ALL, 9, &[]), Malformed::Kind);
        let copy = (place(0, 0, 1, 1), 5, &[0u8; 4][..]);
        let late = [(place(1, 1, 1, 1), 0, &[0u8; 3][..]), copy];
        assert_eq!(malformed(by_hand(0, 2, SIZE, &late)), Malformed::LateCopy);
        let over = [(ALL, 0, &[0u8; 3][..]); MAX_OVERDRAW + 1];
        assert_eq!(malformed(by_hand(0, 2, SIZE, &over)), Malformed::Overdraw);
    }

    #[test]
    fn payloads_have_to_be_what_their_kind_says() {
        let two = [2u8, 0, 0, 0, 255, 255, 255];
        let rows = usize::from(SIZE.1);
        let row = usize::from(SIZE.0).div_ceil(8);
        let palette = |head: &[u8], indices: &[u8]| refusal(ALL, 1, &[head, indices].concat());
        let wrong = Malformed::Payload(Kind::Palette);
        assert_eq!(refusal(ALL, 1, &[]), wrong);
        assert_eq!(palette(&[1, 0, 0, 0], &vec![0; row * rows]), wrong);
        assert_eq!(palette(&[17], &[0; 50]), wrong, "no room for the colours");
        assert_eq!(palette(&two, &vec![0; row * rows - 1]), wrong);
        assert_eq!(palette(&two, &vec![0; row * rows + 1]), wrong);
        // An index without a colour.
        let three = [3u8, 0, 0, 0, 1, 1, 1, 2, 2, 2];
        assert_eq!(palette(&three, &vec![0xff; 25 * rows]), wrong);
        let bomb = miniature_bomb();
        let wrong = Malformed::Payload(Kind::DeflatedPalette);
        assert_eq!(refusal(ALL, 2, &[&two, &bomb[..]].concat()), wrong);
        let wrong = Malformed::Payload(Kind::GreyPalette);
        assert_eq!(
            refusal(ALL, 7, &[&two[..3], &vec![0; row * rows - 1]].concat()),
            wrong
        );
        let wrong = Malformed::Payload(Kind::DeflatedGreyPalette);
        assert_eq!(refusal(ALL, 8, &[&two[..3], &bomb[..]].concat()), wrong);
        assert_eq!(refusal(ALL, 0, &[0; 4]), Malformed::Payload(Kind::Solid));
        for form in [3u8, 4] {
            let named = if form == 3 { Kind::Png } else { Kind::Jpeg };
            assert_eq!(refusal(ALL, form, &[]), Malformed::Payload(named));
            assert_eq!(
                refusal(ALL, form, &[0xff, 0xd8, 0xff]),
                Malformed::Payload(named)
            );
        }
        for from in [[1u8, 0, 0, 0], [0, 0, 1, 0], [255, 255, 255, 255]] {
            assert_eq!(refusal(ALL, 5, &from), Malformed::Payload(Kind::Copy));
        }
        assert_eq!(refusal(ALL, 5, &[0; 3]), Malformed::Payload(Kind::Copy));
        for shades in [&[][..], &[0xff; 9], &bomb] {
            assert_eq!(refusal(ALL, 6, shades), Malformed::Payload(Kind::Grey));
        }
    }

    /// 16 MiB of zeros in a few kilobytes.
    fn miniature_bomb() -> Vec<u8> {
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, &vec![0; 16 << 20]).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_png_of_another_size_than_its_tile_is_refused_before_it_is_decoded() {
        let mut pictures = 0;
        for frame in session() {
            let mut rest = Header::parse(&frame.bytes).unwrap().1;
            while !rest.is_empty() {
                let tile;
                (tile, rest) = Tile::split(rest).unwrap();
                if tile.kind == Kind::Png {
                    pictures += 1;
                    let refused = refusal(place(0, 0, 1, 1), 3, tile.payload);
                    assert_eq!(refused, Malformed::Payload(Kind::Png));
                }
            }
        }
        assert!(pictures > 0);
    }

    /// What a hostile sharer may do to a frame.
    fn mutate(bytes: &mut Vec<u8>, changes: &[(Index, u8, u8)]) {
        for (index, how, value) in changes {
            let at = index.index(bytes.len() + 1);
            match how % 4 {
                0 if at < bytes.len() => bytes[at] = *value,
                1 => bytes.truncate(at),
                2 => bytes.insert(at, *value),
                _ if at < bytes.len() => bytes[at] ^= 1 << (value % 8),
                _ => {}
            }
        }
    }

    /// Draws, and finds the canvas as large as it says.
    fn survives(canvas: &mut Canvas, bytes: &Bytes) {
        let drawn = canvas.draw(bytes);
        let pixels = canvas.pixels();
        let count = usize::from(pixels.width) * usize::from(pixels.height);
        assert!(count <= MAX_PIXELS && pixels.bytes.len() == count * PIXEL);
        if matches!(drawn, Err(Undrawn::Malformed(_))) {
            assert!(!canvas.is_exact() && canvas.key.is_none());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn random_bytes_are_no_frame_and_no_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            size in (1u16..60, 1u16..60),
            tiles in prop::collection::vec((0u16..60, 0u16..60, 0u16..60, 0u16..60, 0u8..10, prop::collection::vec(any::<u8>(), 0..80)), 0..6),
            flags in 0u8..8,
        ) {
            survives(&mut Canvas::new(), &bytes.into());
            // Another one: five bytes of luck are a key frame, and nothing older is drawn after it.
            let mut canvas = Canvas::new();
            canvas.draw(&by_hand(1, 1, size, &[])).unwrap();
            let tiles: Vec<_> = tiles
                .iter()
                .map(|(x, y, width, height, kind, payload)| (place(*x, *y, *width, *height), *kind, &payload[..]))
                .collect();
            survives(&mut canvas, &by_hand(flags, 2, size, &tiles));
        }

        #[test]
        fn mutated_frames_are_no_harm(
            chosen in any::<Index>(),
            changes in prop::collection::vec((any::<Index>(), any::<u8>(), any::<u8>()), 1..8),
        ) {
            let frames = session();
            let mut canvas = Canvas::new();
            let chosen = chosen.index(frames.len());
            for frame in &frames[..chosen] {
                canvas.draw(&bytes_of(frame)).unwrap();
            }
            let mut bytes = frames[chosen].bytes.clone();
            mutate(&mut bytes, &changes);
            survives(&mut canvas, &bytes.into());
            // The session goes on, whatever that was.
            let next = canvas.key.map_or(9, |key| key.wrapping_add(1));
            canvas.draw(&key(next, 3)).unwrap();
        }
    }
}
