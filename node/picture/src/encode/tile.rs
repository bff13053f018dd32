//! The form that suits an area, and its bytes: exact where a program drew, rough where a camera saw.

use std::io::Write;

use flate2::{Compression, write::DeflateEncoder};

use super::{Area, Picture, short};
use crate::frame::{Kind, jpeg};

/// Colours that still fit a palette tile, whose indices are bytes at most; text with its smoothed edges does.
const MAX_PALETTE: usize = 255;
/// Slots of the table that finds a colour's index: sparse, so that a look is mostly one step.
const PALETTE_SLOTS: usize = 1024;
/// Below this many pixels an approximation costs as much as what it approximates: a JPEG's blocks are 16 pixels wide and high.
const MIN_PHOTO_PIXELS: usize = 128;
/// A palette of more colours than one for so many pixels costs more than an approximation.
const PIXELS_A_COLOUR: usize = 8;
/// Of more pixels than this, half say as much.
const MANY_PIXELS: usize = 2048;
/// A difference between neighbours that is an edge.
const JUMP: u8 = 32;
/// Distinct colours (of a hash's 1,024) below which a tile is drawn by a program, not seen by a camera.
const MIN_PHOTO_COLOURS: usize = 48;
/// Which form suits an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Text and interface: exact.
    Drawn,
    /// Photograph or video: lossy first.
    Photo,
}

/// An area's bytes.
pub(super) struct Form {
    pub(super) kind: Kind,
    pub(super) payload: Vec<u8>,
}

/// Of an area of that class; quality is for what is lossy.
pub(super) fn form(picture: Picture<'_>, area: Area, class: Class, quality: u8) -> Form {
    let of = |kind: Kind, payload: Vec<u8>| Form { kind, payload };
    let rough = class == Class::Photo;
    match Palette::of(picture, area) {
        Some(palette) if palette.colours.len() == 1 => {
            of(Kind::Solid, parts(palette.colours[0]).to_vec())
        }
        Some(palette) if !rough || palette.is_cheap(area) => palette.form(picture, area),
        _ if rough => of(Kind::Jpeg, rough_picture(picture, area, quality)),
        _ => of(Kind::Png, png(picture, area)),
    }
}

/// Blue, green, red in the lowest three bytes.
type Pixel = u32;

fn pixel(bytes: &[u8]) -> Pixel {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0])
}

fn parts(pixel: Pixel) -> [u8; 3] {
    let [blue, green, red, _] = pixel.to_le_bytes();
    [blue, green, red]
}

fn rows<'a>(picture: Picture<'a>, area: Area) -> impl Iterator<Item = &'a [u8]> {
    (area.y..area.y + area.height).map(move |y| picture.row(y, area.x, area.width))
}

/// The colours of an area, if they are few.
struct Palette {
    colours: Vec<Pixel>,
    /// An index + 1 in a colour's slot or one of those after it; 0 is free.
    slots: [u16; PALETTE_SLOTS],
}

impl Palette {
    fn of(picture: Picture<'_>, area: Area) -> Option<Self> {
        let mut palette = Self {
            colours: Vec::with_capacity(16),
            slots: [0; PALETTE_SLOTS],
        };
        let mut last = None;
        for row in rows(picture, area) {
            for pixel in row.chunks_exact(4).map(pixel) {
                if Some(pixel) == last {
                    continue;
                }
                last = Some(pixel);
                let (slot, known) = palette.find(pixel);
                if known.is_none() {
                    if palette.colours.len() == MAX_PALETTE {
                        return None;
                    }
                    palette.colours.push(pixel);
                    palette.slots[slot] =
                        u16::try_from(palette.colours.len()).expect("at most 255");
                }
            }
        }
        Some(palette)
    }

    /// A colour's slot, or the one that it would get, and its index.
    fn find(&self, colour: Pixel) -> (usize, Option<u8>) {
        // Fibonacci hashing: the highest 10 bits.
        let mut slot = usize::from((colour.wrapping_mul(0x9e37_79b9) >> 22).to_le_bytes()[0])
            | usize::from((colour.wrapping_mul(0x9e37_79b9) >> 30).to_le_bytes()[0]) << 8;
        loop {
            match self.slots[slot].checked_sub(1) {
                None => return (slot, None),
                Some(index) if self.colours[usize::from(index)] == colour => {
                    return (slot, u8::try_from(index).ok());
                }
                Some(_) => slot = (slot + 1) % PALETTE_SLOTS,
            }
        }
    }

    /// Whether it costs less than an approximation would.
    fn is_cheap(&self, area: Area) -> bool {
        self.is_grey() || self.colours.len() * PIXELS_A_COLOUR <= area.width * area.height
    }

    fn form(&self, picture: Picture<'_>, area: Area) -> Form {
        let grey = self.is_grey();
        if grey && self.colours.len() > 16 {
            let pixels = rows(picture, area).flat_map(|row| row.chunks_exact(4));
            let shades: Vec<u8> = pixels.map(|pixel| pixel[0]).collect();
            return Form {
                kind: Kind::Grey,
                payload: deflate(&shades),
            };
        }
        let mut payload = vec![u8::try_from(self.colours.len()).expect("at most 255")];
        let bytes = if grey { 1 } else { 3 };
        for colour in &self.colours {
            payload.extend_from_slice(&parts(*colour)[..bytes]);
        }
        let indices = pack(picture, area, self);
        let deflated = deflate(&indices);
        let smaller = deflated.len() < indices.len();
        payload.extend_from_slice(if smaller { &deflated } else { &indices });
        Form {
            kind: Kind::palette(grey, smaller),
            payload,
        }
    }

    fn is_grey(&self) -> bool {
        let grey = |[blue, green, red]: [u8; 3]| blue == green && green == red;
        self.colours.iter().all(|colour| grey(parts(*colour)))
    }
}

/// What a camera sees differs from one pixel to the next, or changes softly; what a program draws is mostly the same, and
/// where it is not, it jumps.
pub(super) fn classify(picture: Picture<'_>, area: Area) -> Class {
    let size = area.width * area.height;
    if size < MIN_PHOTO_PIXELS {
        return Class::Drawn;
    }
    // A cheap estimate of distinct colours: a bitmap of hashed colours. Of a whole tile every other row will do.
    let step = if size > MANY_PIXELS { 2 } else { 1 };
    let mut seen = [0u64; 16];
    let (mut looked, mut colours, mut changes, mut jumps) = (0, 0, 0, 0);
    let mut last = 0;
    for row in rows(picture, area).step_by(step) {
        looked += area.width;
        for pixel in row.chunks_exact(4).map(pixel) {
            if pixel == last {
                continue;
            }
            changes += 1;
            let (now, before) = (parts(pixel), parts(last));
            jumps += usize::from(now.iter().zip(before).any(|(a, b)| a.abs_diff(b) > JUMP));
            last = pixel;
            let [blue, green, red] = now.map(usize::from);
            let hashed = blue * 31 + green * 17 + red * 7;
            let (word, bit) = (hashed / 64 % 16, hashed % 64);
            colours += usize::from(seen[word] >> bit & 1 == 0);
            seen[word] |= 1 << bit;
        }
    }
    let soft = changes * 4 > looked && jumps * 8 < changes;
    if colours >= MIN_PHOTO_COLOURS && (soft || changes * 2 > looked) {
        Class::Photo
    } else {
        Class::Drawn
    }
}

/// Indices of 1, 2, 4 or 8 bits, the first in the highest bits, each row from a byte's start.
fn pack(picture: Picture<'_>, area: Area, palette: &Palette) -> Vec<u8> {
    let bits = match palette.colours.len() {
        ..=2 => 1,
        3..=4 => 2,
        5..=16 => 4,
        _ => 8,
    };
    let mut out = Vec::with_capacity(area.height * (area.width * bits).div_ceil(8));
    for y in area.y..area.y + area.height {
        let (mut byte, mut used) = (0u8, 0);
        let mut last = (palette.colours[0], 0u8);
        for colour in picture
            .row(y, area.x, area.width)
            .chunks_exact(4)
            .map(pixel)
        {
            if colour != last.0 {
                last = (colour, palette.find(colour).1.unwrap_or(0));
            }
            used += bits;
            byte |= last.1 << (8 - used);
            if used == 8 {
                out.push(byte);
                (byte, used) = (0, 0);
            }
        }
        if used > 0 {
            out.push(byte);
        }
    }
    out
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(6));
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .expect("writing to memory")
}

fn rgb(picture: Picture<'_>, area: Area) -> Vec<u8> {
    let mut out = Vec::with_capacity(area.width * area.height * 3);
    for row in rows(picture, area) {
        out.extend(
            row.chunks_exact(4)
                .flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]),
        );
    }
    out
}

fn png(picture: Picture<'_>, area: Area) -> Vec<u8> {
    let mut out = Vec::new();
    let side = |value: usize| u32::try_from(value).expect("below 65,536");
    let mut encoder = png::Encoder::new(&mut out, side(area.width), side(area.height));
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header().expect("writing to memory");
    writer
        .write_image_data(&rgb(picture, area))
        .expect("as many bytes as pixels");
    writer.finish().expect("writing to memory");
    out
}

fn rough_picture(picture: Picture<'_>, area: Area, quality: u8) -> Vec<u8> {
    let size = (short(area.width), short(area.height));
    let mut bytes = Vec::with_capacity(area.width * area.height * 4);
    for row in rows(picture, area) {
        bytes.extend_from_slice(row);
    }
    jpeg::encode(&bytes, size, quality).expect("as many bytes as pixels")
}
