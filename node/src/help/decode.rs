//! Frames to pixels: a canvas that draws what the sharer's encoder made (`share::encode` has the format).
//!
//! Frames travel on streams of their own and may arrive in any order. Each is drawn as soon as it is there, unless it names
//! another that has to be drawn before; then it is held until that one was. The sharer sees to it that other frames have
//! nothing to do with each other, and that a key frame goes alone: what is older than the last one is not drawn any more.
//!
//! Nothing here trusts a byte. What a frame may cost is bounded by its canvas, which is bounded by `MAX_PIXELS`; what is
//! no frame is an error, and then everything waits for a key frame.

use std::{
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

use crate::share::capture::Pixels;

/// The largest picture: 8,192 × 8,192, or two screens of 8K.
pub const MAX_PIXELS: usize = 1 << 26;
/// How often a frame may draw a pixel: copied, then drawn over, and as much again for an encoder that does it otherwise.
const MAX_OVERDRAW: usize = 4;
/// Frames that may wait for one another; a sharer has fewer under way, so that more are a reason to begin anew.
const MAX_HELD: usize = 32;
/// Frames that somebody could still wait for.
const MAX_REMEMBERED: usize = 64;
const HEADER_BYTES: usize = 26;
const TILE_HEADER_BYTES: usize = 14;
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

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends too early, or goes on too long.
    #[error("the frame has another length than it says")]
    Length,
    /// Not version 1.
    #[error("the frame has an unknown version")]
    Version,
    /// No pixels, or more than [`MAX_PIXELS`].
    #[error("no picture has such a size")]
    Size,
    /// A tile without pixels, or with some outside the picture.
    #[error("a tile lies outside the picture")]
    Place,
    /// A kind that there is not.
    #[error("a tile of an unknown kind")]
    Kind,
    /// Pixels are drawn over and over.
    #[error("the frame draws more than its picture can hold")]
    Overdraw,
    /// A copy after another kind.
    #[error("a copy does not come first")]
    LateCopy,
    /// A payload that is not what its kind says.
    #[error("a tile's payload is no {0}")]
    Payload(Form),
}

/// The forms of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One colour.
    Solid,
    /// Up to 255 colours and indices.
    Palette,
    /// A byte a pixel.
    Grey,
    /// PNG, 8 bits each of red, green and blue.
    Png,
    /// Baseline or progressive JPEG.
    Jpeg,
    /// From elsewhere in the picture.
    Copy,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Solid => "colour",
            Self::Palette => "palette",
            Self::Grey => "grey",
            Self::Png => "PNG of its size",
            Self::Jpeg => "JPEG of its size",
            Self::Copy => "place to copy from",
        })
    }
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
    pub captured_us: u64,
    /// The form of each tile.
    pub tiles: Vec<Form>,
}

/// What of the last key frame others are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    sequence: u32,
    source: u16,
}

/// The picture.
#[derive(Default)]
pub struct Canvas {
    width: u16,
    height: u16,
    /// Rows of blue, green, red and a zero.
    bytes: Vec<u8>,
    key: Option<Key>,
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
        let header = Header::parse(frame)?;
        let Header { sequence, key, .. } = header;
        if let Some(last) = self.key
            && is_before(sequence, last.sequence)
        {
            return Err(Undrawn::Stale);
        }
        if key {
            self.begin(&header);
        } else if !self.continues(&header) {
            return Err(Undrawn::NoKeyFrame);
        } else if self.has_to_wait(&header) {
            return self.hold(header.after, frame).map(|()| None);
        }
        let tiles = header.tiles(&frame[HEADER_BYTES..])?;
        self.copy(&tiles)?;
        for tile in &tiles {
            self.put(tile)?;
        }
        if key {
            let source = header.source;
            self.key = Some(Key { sequence, source });
        }
        self.remember(&header);
        Ok(Some(Drawn {
            sequence,
            key,
            exact: header.exact,
            quiet: header.quiet,
            captured_us: header.captured_us,
            tiles: tiles.iter().map(|tile| tile.form).collect(),
        }))
    }

    fn has_to_wait(&self, header: &Header) -> bool {
        let after = header.after;
        let forgotten = self.key.is_some_and(|key| is_before(after, key.sequence));
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

    /// Whether the frame is of the picture that the last key frame began.
    fn continues(&self, header: &Header) -> bool {
        self.key.is_some_and(|key| key.source == header.source)
            && (self.width, self.height) == (header.width, header.height)
    }

    /// Forgets everything.
    fn begin(&mut self, header: &Header) {
        self.forget();
        (self.width, self.height) = (header.width, header.height);
        // Zeroed by the system when it is first touched: a large picture of few tiles costs little.
        self.bytes = vec![0; header.pixels() * PIXEL];
    }

    fn row_mut(&mut self, x: u16, y: usize, width: usize) -> &mut [u8] {
        let at = (y * usize::from(self.width) + usize::from(x)) * PIXEL;
        &mut self.bytes[at..at + width * PIXEL]
    }

    /// All copies are from the picture before this frame: read first, then written.
    fn copy(&mut self, tiles: &[Tile<'_>]) -> Result<(), Malformed> {
        let copies = tiles.iter().filter(|tile| tile.form == Form::Copy);
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
            return Err(Malformed::Payload(Form::Copy));
        };
        let from = Place {
            x: u16::from_le_bytes([x0, x1]),
            y: u16::from_le_bytes([y0, y1]),
            ..tile.place
        };
        let inside = from.is_in(self.width, self.height);
        inside.then_some(from).ok_or(Malformed::Payload(Form::Copy))
    }

    fn put(&mut self, tile: &Tile<'_>) -> Result<(), Malformed> {
        let Tile { place, payload, .. } = *tile;
        match tile.form {
            // Drawn already.
            Form::Copy => Ok(()),
            Form::Solid => self.solid(place, payload),
            Form::Palette => self.palette(place, payload, tile.deflated),
            Form::Grey => self.grey(place, payload),
            Form::Png => self.picture(place, &png(payload, place)?),
            Form::Jpeg => self.picture(place, &jpeg(payload, place)?),
        }
    }

    fn solid(&mut self, place: Place, payload: &[u8]) -> Result<(), Malformed> {
        let Ok([blue, green, red]) = <[u8; 3]>::try_from(payload) else {
            return Err(Malformed::Payload(Form::Solid));
        };
        for y in rows(place.y, place.height) {
            let row = self.row_mut(place.x, y, place.width.into());
            for pixel in row.chunks_exact_mut(PIXEL) {
                pixel.copy_from_slice(&[blue, green, red, 0]);
            }
        }
        Ok(())
    }

    fn palette(&mut self, place: Place, payload: &[u8], deflated: bool) -> Result<(), Malformed> {
        let wrong = Malformed::Payload(Form::Palette);
        let (count, rest) = payload.split_first().ok_or(wrong)?;
        let count = usize::from(*count);
        if count < 2 {
            return Err(wrong);
        }
        let (colours, indices) = rest.split_at_checked(count * 3).ok_or(wrong)?;
        let bits = match count {
            2 => 1,
            3 | 4 => 2,
            5..=16 => 4,
            _ => 8,
        };
        let row_bytes = (usize::from(place.width) * bits).div_ceil(8);
        let wanted = row_bytes * usize::from(place.height);
        let inflated;
        let indices = if deflated {
            inflated = inflate(indices, wanted).ok_or(wrong)?;
            &inflated[..]
        } else {
            indices
        };
        if indices.len() != wanted {
            return Err(wrong);
        }
        for (y, indices) in rows(place.y, place.height).zip(indices.chunks_exact(row_bytes)) {
            let row = self.row_mut(place.x, y, place.width.into());
            for (x, pixel) in row.chunks_exact_mut(PIXEL).enumerate() {
                let at = x * bits;
                let index = usize::from(indices[at / 8]) >> (8 - bits - at % 8);
                let index = index & ((1 << bits) - 1);
                let colour = colours.get(index * 3..index * 3 + 3).ok_or(wrong)?;
                pixel[..3].copy_from_slice(colour);
            }
        }
        Ok(())
    }

    fn grey(&mut self, place: Place, payload: &[u8]) -> Result<(), Malformed> {
        let width = usize::from(place.width);
        let shades = inflate(payload, width * usize::from(place.height));
        let shades = shades.ok_or(Malformed::Payload(Form::Grey))?;
        for (y, shades) in rows(place.y, place.height).zip(shades.chunks_exact(width)) {
            let row = self.row_mut(place.x, y, width);
            for (pixel, shade) in row.chunks_exact_mut(PIXEL).zip(shades) {
                pixel[..3].fill(*shade);
            }
        }
        Ok(())
    }

    /// Red, green, blue, as many as the place has.
    fn picture(&mut self, place: Place, rgb: &[u8]) -> Result<(), Malformed> {
        let width = usize::from(place.width);
        for (y, from) in rows(place.y, place.height).zip(rgb.chunks_exact(width * 3)) {
            let row = self.row_mut(place.x, y, width);
            for (pixel, colour) in row.chunks_exact_mut(PIXEL).zip(from.chunks_exact(3)) {
                pixel[..3].copy_from_slice(&[colour[2], colour[1], colour[0]]);
            }
        }
        Ok(())
    }
}

/// Sequences wrap: the shorter way round decides.
fn is_before(sequence: u32, other: u32) -> bool {
    sequence != other && other.wrapping_sub(sequence) < 1 << 31
}

fn rows(y: u16, height: u16) -> std::ops::Range<usize> {
    usize::from(y)..usize::from(y) + usize::from(height)
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug)]
struct Header {
    key: bool,
    exact: bool,
    quiet: bool,
    source: u16,
    sequence: u32,
    captured_us: u64,
    width: u16,
    height: u16,
    /// Has to be drawn before; its own sequence if there is none.
    after: u32,
    count: u16,
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(short(bytes, at)) | u32::from(short(bytes, at + 2)) << 16
}

impl Header {
    fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        let header = frame.get(..HEADER_BYTES).ok_or(Malformed::Length)?;
        if header[0] != 1 {
            return Err(Malformed::Version);
        }
        let header = Self {
            key: header[1] & 1 != 0,
            exact: header[1] & 2 != 0,
            quiet: header[1] & 4 != 0,
            source: short(header, 2),
            sequence: long(header, 4),
            captured_us: u64::from(long(header, 8)) | u64::from(long(header, 12)) << 32,
            width: short(header, 16),
            height: short(header, 18),
            after: long(header, 20),
            count: short(header, 24),
        };
        (1..=MAX_PIXELS)
            .contains(&header.pixels())
            .then_some(header)
            .ok_or(Malformed::Size)
    }

    fn pixels(&self) -> usize {
        usize::from(self.width) * usize::from(self.height)
    }

    /// Looks at all tiles before the first is drawn.
    fn tiles<'a>(&self, mut rest: &'a [u8]) -> Result<Vec<Tile<'a>>, Malformed> {
        // As many as there are bytes for, whatever the frame says.
        let fit = rest.len() / TILE_HEADER_BYTES;
        let mut tiles: Vec<Tile<'_>> = Vec::with_capacity(fit.min(self.count.into()));
        let mut allowed = self.pixels() * MAX_OVERDRAW;
        for _ in 0..self.count {
            let tile;
            (tile, rest) = Tile::split(rest)?;
            if !tile.place.is_in(self.width, self.height) {
                return Err(Malformed::Place);
            }
            if tile.form == Form::Copy && tiles.last().is_some_and(|last| last.form != Form::Copy) {
                return Err(Malformed::LateCopy);
            }
            let pixels = usize::from(tile.place.width) * usize::from(tile.place.height);
            allowed = allowed.checked_sub(pixels).ok_or(Malformed::Overdraw)?;
            tiles.push(tile);
        }
        rest.is_empty().then_some(tiles).ok_or(Malformed::Length)
    }
}

/// Where a tile goes.
#[derive(Clone, Copy, Debug)]
struct Place {
    x: u16,
    y: u16,
    width: u16,
    height: u16,
}

impl Place {
    fn is_in(self, width: u16, height: u16) -> bool {
        let fits = |start: u16, length: u16, whole: u16| {
            length > 0 && u32::from(start) + u32::from(length) <= u32::from(whole)
        };
        fits(self.x, self.width, width) && fits(self.y, self.height, height)
    }
}

/// A tile as it came.
#[derive(Clone, Copy, Debug)]
struct Tile<'a> {
    place: Place,
    form: Form,
    /// Of a palette's indices.
    deflated: bool,
    payload: &'a [u8],
}

impl<'a> Tile<'a> {
    /// The first tile, and what comes after.
    fn split(rest: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let header = rest.split_at_checked(TILE_HEADER_BYTES);
        let (header, rest) = header.ok_or(Malformed::Length)?;
        let length = usize::try_from(long(header, 10)).map_err(|_| Malformed::Length)?;
        let (payload, rest) = rest.split_at_checked(length).ok_or(Malformed::Length)?;
        let (form, deflated) = match header[8] {
            0 => (Form::Solid, false),
            1 => (Form::Palette, false),
            2 => (Form::Palette, true),
            3 => (Form::Png, false),
            4 => (Form::Jpeg, false),
            5 => (Form::Copy, false),
            6 => (Form::Grey, true),
            _ => return Err(Malformed::Kind),
        };
        let place = Place {
            x: short(header, 0),
            y: short(header, 2),
            width: short(header, 4),
            height: short(header, 6),
        };
        let tile = Self {
            place,
            form,
            deflated,
            payload,
        };
        Ok((tile, rest))
    }
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
fn png(payload: &[u8], place: Place) -> Result<Vec<u8>, Malformed> {
    let wrong = Malformed::Payload(Form::Png);
    let bytes = usize::from(place.width) * usize::from(place.height) * 3;
    let limits = png::Limits {
        bytes: bytes + PNG_BYTES,
    };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(payload), limits);
    let info = decoder.read_header_info().map_err(|_| wrong)?;
    let expected = (
        u32::from(place.width),
        u32::from(place.height),
        png::ColorType::Rgb,
        png::BitDepth::Eight,
    );
    if (info.width, info.height, info.color_type, info.bit_depth) != expected {
        return Err(wrong);
    }
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(|_| wrong)?;
    let mut out = vec![0; bytes];
    if reader.output_buffer_size() != Some(bytes) {
        return Err(wrong);
    }
    let frame = reader.next_frame(&mut out).map_err(|_| wrong)?;
    // An animation's first picture may be smaller.
    let whole = (frame.width, frame.height) == (expected.0, expected.1);
    whole.then_some(out).ok_or(wrong)
}

/// Red, green and blue of a JPEG that is as large as its place.
fn jpeg(payload: &[u8], place: Place) -> Result<Vec<u8>, Malformed> {
    let wrong = Malformed::Payload(Form::Jpeg);
    let (width, height) = (usize::from(place.width), usize::from(place.height));
    let options = DecoderOptions::default()
        .set_max_width(width)
        .set_max_height(height)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(payload), options);
    decoder.decode_headers().map_err(|_| wrong)?;
    if decoder.dimensions() != Some((width, height)) {
        return Err(wrong);
    }
    let out = decoder.decode().map_err(|_| wrong)?;
    (out.len() == width * height * 3)
        .then_some(out)
        .ok_or(wrong)
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
    use crate::share::encode::{Area, Budget, Encoder, Frame, Picture, Scope};

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
        let mut encoder = Encoder::new(0, WIDTH, HEIGHT);
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
        let mut bytes = vec![1, flags, 0, 0];
        bytes.extend(sequence.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(size.0.to_le_bytes());
        bytes.extend(size.1.to_le_bytes());
        bytes.extend(after.to_le_bytes());
        bytes.extend((tiles.len() as u16).to_le_bytes());
        for (place, kind, payload) in tiles {
            for value in [place.x, place.y, place.width, place.height] {
                bytes.extend(value.to_le_bytes());
            }
            bytes.extend([*kind, 0]);
            bytes.extend((payload.len() as u32).to_le_bytes());
            bytes.extend(*payload);
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
            Form::Solid,
            Form::Palette,
            Form::Png,
            Form::Jpeg,
            Form::Copy,
        ] {
            assert!(forms.contains(&form), "{form:?} among {forms:?}");
        }
        assert!(canvas.pixels().bytes == screen(|x, y| text(x, y + 57)));
    }

    #[test]
    fn a_photograph_is_close_to_what_it_was() {
        let bytes = screen(photo);
        let mut encoder = Encoder::new(0, WIDTH, HEIGHT);
        let frame = encoder.encode(picture(&bytes), PLENTY, Scope::Overlapping, 1);
        let mut canvas = Canvas::new();
        let drawn = canvas.draw(&bytes_of(&frame.expect("key"))).unwrap();
        assert!(drawn[0].tiles.contains(&Form::Jpeg) && !canvas.is_exact());
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
    fn another_size_or_source_wants_a_key_frame() {
        for change in [2usize, 16, 18] {
            let mut canvas = Canvas::new();
            canvas.draw(&key(1, 7)).unwrap();
            let mut other = by_hand(0, 2, SIZE, &[]).to_vec();
            other[change] += 1;
            let drawn = canvas.draw(&other.clone().into());
            assert_eq!(drawn, Err(Undrawn::NoKeyFrame));
            assert_eq!(canvas.draw(&dot(3, 0, 1)), Err(Undrawn::NoKeyFrame));
            other[1] = 1;
            canvas.draw(&other.into()).unwrap();
        }
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
        assert_eq!(malformed(key(2, 1).slice(..30)), Malformed::Length);
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
        assert_eq!(refusal(ALL, 7, &[]), Malformed::Kind);
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
        let wrong = Malformed::Payload(Form::Palette);
        assert_eq!(refusal(ALL, 1, &[]), wrong);
        assert_eq!(palette(&[1, 0, 0, 0], &vec![0; row * rows]), wrong);
        assert_eq!(palette(&[17], &[0; 50]), wrong, "no room for the colours");
        assert_eq!(palette(&two, &vec![0; row * rows - 1]), wrong);
        assert_eq!(palette(&two, &vec![0; row * rows + 1]), wrong);
        // An index without a colour.
        let three = [3u8, 0, 0, 0, 1, 1, 1, 2, 2, 2];
        assert_eq!(palette(&three, &vec![0xff; 25 * rows]), wrong);
        let bomb = miniature_bomb();
        assert_eq!(refusal(ALL, 2, &[&two, &bomb[..]].concat()), wrong);
        assert_eq!(refusal(ALL, 0, &[0; 4]), Malformed::Payload(Form::Solid));
        for form in [3u8, 4] {
            let named = if form == 3 { Form::Png } else { Form::Jpeg };
            assert_eq!(refusal(ALL, form, &[]), Malformed::Payload(named));
            assert_eq!(
                refusal(ALL, form, &[0xff, 0xd8, 0xff]),
                Malformed::Payload(named)
            );
        }
        for from in [[1u8, 0, 0, 0], [0, 0, 1, 0], [255, 255, 255, 255]] {
            assert_eq!(refusal(ALL, 5, &from), Malformed::Payload(Form::Copy));
        }
        assert_eq!(refusal(ALL, 5, &[0; 3]), Malformed::Payload(Form::Copy));
        for shades in [&[][..], &[0xff; 9], &bomb] {
            assert_eq!(refusal(ALL, 6, shades), Malformed::Payload(Form::Grey));
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
    fn pictures_of_another_size_than_their_tile_are_refused_before_they_are_decoded() {
        let forms: Vec<(u8, Vec<u8>)> = session()
            .iter()
            .flat_map(|frame| {
                let header = Header::parse(&frame.bytes).unwrap();
                let tiles = header.tiles(&frame.bytes[HEADER_BYTES..]).unwrap();
                let kind = |form| match form {
                    Form::Png => Some(3),
                    Form::Jpeg => Some(4),
                    Form::Solid | Form::Palette | Form::Grey | Form::Copy => None,
                };
                let pictures = tiles
                    .into_iter()
                    .filter_map(|tile| Some((kind(tile.form)?, tile.payload.to_vec())));
                pictures.collect::<Vec<_>>()
            })
            .collect();
        assert!(!forms.is_empty());
        for (kind, payload) in forms {
            let named = if kind == 3 { Form::Png } else { Form::Jpeg };
            assert_eq!(
                refusal(place(0, 0, 1, 1), kind, &payload),
                Malformed::Payload(named)
            );
        }
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
            tiles in prop::collection::vec((0u16..60, 0u16..60, 0u16..60, 0u16..60, 0u8..8, prop::collection::vec(any::<u8>(), 0..80)), 0..6),
            flags in 0u8..8,
        ) {
            let mut canvas = Canvas::new();
            survives(&mut canvas, &bytes.into());
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
            let mut key = frames[0].bytes.clone();
            let next = canvas.key.map_or(9, |key| key.sequence.wrapping_add(1));
            key[4..8].copy_from_slice(&next.to_le_bytes());
            canvas.draw(&key.into()).unwrap();
        }
    }
}
