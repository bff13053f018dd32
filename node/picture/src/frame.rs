//! A frame of the screen as bytes: what [`crate::encode`] makes, [`crate::decode`] and the page (`node/ui/viewer/frame.js`) draw.
//!
//! Small, for most frames are a letter. Numbers are varints (LEB128, as in protobuf).
//!
//! | size | field |
//! |---|---|
//! | 1 | version (16), plus flags: 1 key frame (lower sequences are not drawn any more), 2 every pixel is exact now, 4 not to be acknowledged, 8 to be drawn after another frame |
//! | varint | sequence |
//! | varint | capture time, ms since some moment that only the sharer knows |
//! | varint | flag 8 only: how many frames before this one the other was made |
//! | varints | key frames only: width, height |
//! | … | tiles, to the end: kind 1, then as varints x, y, width, height, payload's length; payload |
//!
//! | kind | payload |
//! |---|---|
//! | 0 solid | blue, green, red |
//! | 1 palette | count n (2–255), n colours, rows of 1-, 2-, 4- or 8-bit indices, first pixel in the highest bits, rows padded |
//! | 2 palette | as 1, the index bytes deflated (RFC 1951) |
//! | 3 | PNG, exact |
//! | 4 | JPEG without its tables, see [`crate::frame::jpeg`]; to be made exact once the screen rests |
//! | 5 copy | source x, y (2 each, little endian): from the picture before this frame; copies come first |
//! | 6 grey | a byte a pixel, deflated: text, whose smoothed edges have too many shades for 4-bit indices |
//! | 7 palette | as 1, a colour being one byte for all three |
//! | 8 palette | as 2, a colour being one byte for all three |

/// Photographs: what all JPEGs of a quality share is not sent.
pub mod jpeg;

use std::fmt;

const VERSION: u8 = 0x10;
const KEY: u8 = 1;
const EXACT: u8 = 2;
const QUIET: u8 = 4;
const FOLLOWS: u8 = 8;

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends too early, or a number in it is too large.
    #[error("the frame ends too early")]
    Length,
    /// Not version 1.
    #[error("the frame has an unknown version")]
    Version,
    /// No pixels, or more than the viewer takes.
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
    Payload(Kind),
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Counts frames; wraps.
    pub sequence: u32,
    /// By the sharer's clock.
    pub captured_ms: u64,
    /// Has to be drawn before; its own sequence if there is none.
    pub after: u32,
    /// Width and height of the picture: said by key frames.
    pub key: Option<(u16, u16)>,
    /// Every pixel is exact once all frames up to this one are drawn.
    pub exact: bool,
    /// The viewer does not say that it has drawn it.
    pub quiet: bool,
}

impl Header {
    /// Appends it to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let follows = self.after != self.sequence;
        out.push(
            VERSION
                | flag(self.key.is_some(), KEY)
                | flag(self.exact, EXACT)
                | flag(self.quiet, QUIET)
                | flag(follows, FOLLOWS),
        );
        put(out, self.sequence.into());
        put(out, self.captured_ms);
        if follows {
            put(out, self.sequence.wrapping_sub(self.after).into());
        }
        if let Some((width, height)) = self.key {
            put(out, width.into());
            put(out, height.into());
        }
    }

    /// Of a frame, and the bytes of its tiles.
    ///
    /// # Errors
    /// [`Malformed::Version`], which holds for streams that are no frames, and [`Malformed::Length`].
    pub fn parse(frame: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (first, mut rest) = frame.split_first().ok_or(Malformed::Length)?;
        if first & 0xf0 != VERSION {
            return Err(Malformed::Version);
        }
        let sequence = take(&mut rest)?;
        let captured_ms = take(&mut rest)?;
        let before = if first & FOLLOWS == 0 {
            0
        } else {
            take(&mut rest)?
        };
        let key = if first & KEY == 0 {
            None
        } else {
            Some((take(&mut rest)?, take(&mut rest)?))
        };
        let header = Self {
            sequence,
            captured_ms,
            after: sequence.wrapping_sub(before),
            key,
            exact: first & EXACT != 0,
            quiet: first & QUIET != 0,
        };
        Ok((header, rest))
    }
}

/// A rectangle of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Left.
    pub x: u16,
    /// Top.
    pub y: u16,
    /// In pixels.
    pub width: u16,
    /// In pixels.
    pub height: u16,
}

impl Place {
    /// Whether it has pixels, all of them inside a picture of that size.
    pub fn is_in(self, (width, height): (u16, u16)) -> bool {
        let fits = |start: u16, length: u16, whole: u16| {
            length > 0 && u32::from(start) + u32::from(length) <= u32::from(whole)
        };
        fits(self.x, self.width, width) && fits(self.y, self.height, height)
    }

    /// How many it has.
    pub fn pixels(self) -> usize {
        usize::from(self.width) * usize::from(self.height)
    }
}

/// The forms of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// One colour.
    Solid = 0,
    /// Up to 255 colours and indices.
    Palette = 1,
    /// The same, the indices deflated.
    DeflatedPalette = 2,
    /// PNG, 8 bits each of red, green and blue.
    Png = 3,
    /// Baseline JPEG.
    Jpeg = 4,
    /// From elsewhere in the picture.
    Copy = 5,
    /// A byte a pixel, deflated.
    Grey = 6,
    /// A palette of greys.
    GreyPalette = 7,
    /// The same, the indices deflated.
    DeflatedGreyPalette = 8,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Solid,
            1 => Self::Palette,
            2 => Self::DeflatedPalette,
            3 => Self::Png,
            4 => Self::Jpeg,
            5 => Self::Copy,
            6 => Self::Grey,
            7 => Self::GreyPalette,
            8 => Self::DeflatedGreyPalette,
            _ => return None,
        })
    }

    /// The palette whose colours take one byte or three, and whose indices are deflated or not.
    pub fn palette(grey: bool, deflated: bool) -> Self {
        match (grey, deflated) {
            (false, false) => Self::Palette,
            (false, true) => Self::DeflatedPalette,
            (true, false) => Self::GreyPalette,
            (true, true) => Self::DeflatedGreyPalette,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Solid => "colour",
            Self::Palette | Self::DeflatedPalette => "palette",
            Self::GreyPalette | Self::DeflatedGreyPalette => "palette of greys",
            Self::Grey => "grey",
            Self::Png => "PNG of its size",
            Self::Jpeg => "JPEG of its size",
            Self::Copy => "place to copy from",
        })
    }
}

/// A part of the picture.
#[derive(Clone, Copy, Debug)]
pub struct Tile<'a> {
    /// Where it goes.
    pub place: Place,
    /// What its payload is.
    pub kind: Kind,
    /// As it came.
    pub payload: &'a [u8],
}

impl<'a> Tile<'a> {
    /// Appends it to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Place {
            x,
            y,
            width,
            height,
        } = self.place;
        out.push(self.kind as u8);
        for value in [x, y, width, height] {
            put(out, value.into());
        }
        put(out, self.payload.len() as u64);
        out.extend_from_slice(self.payload);
    }

    /// The first tile of `rest`, and what comes after.
    ///
    /// # Errors
    /// [`Malformed::Length`] and [`Malformed::Kind`].
    pub fn split(rest: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let (kind, mut rest) = rest.split_first().ok_or(Malformed::Length)?;
        let kind = Kind::of(*kind).ok_or(Malformed::Kind)?;
        let place = Place {
            x: take(&mut rest)?,
            y: take(&mut rest)?,
            width: take(&mut rest)?,
            height: take(&mut rest)?,
        };
        let length = take(&mut rest)?;
        let (payload, rest) = rest.split_at_checked(length).ok_or(Malformed::Length)?;
        let tile = Self {
            place,
            kind,
            payload,
        };
        Ok((tile, rest))
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// A varint that fits `T`, from the front of `rest`.
fn take<T: TryFrom<u64>>(rest: &mut &[u8]) -> Result<T, Malformed> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let (byte, after) = rest.split_first().ok_or(Malformed::Length)?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return T::try_from(value).map_err(|_| Malformed::Length);
        }
    }
    Err(Malformed::Length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = Header> {
        let numbers = (any::<u32>(), 0..1u64 << 56, any::<u32>());
        let flags = (any::<bool>(), any::<bool>());
        (numbers, any::<Option<(u16, u16)>>(), flags).prop_map(
            |((sequence, captured_ms, after), key, (exact, quiet))| Header {
                sequence,
                captured_ms,
                after,
                key,
                exact,
                quiet,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            header in header(),
            place in any::<[u16; 4]>(),
            kind in 0u8..9,
            payload in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let [x, y, width, height] = place;
            let place = Place { x, y, width, height };
            let kind = Kind::of(kind).expect("a kind");
            let tile = Tile { place, kind, payload: &payload };
            let mut bytes = Vec::new();
            header.write(&mut bytes);
            tile.write(&mut bytes);
            let (read, rest) = Header::parse(&bytes).expect("a frame");
            prop_assert_eq!(read, header);
            let (read, rest) = Tile::split(rest).expect("a tile");
            prop_assert_eq!((read.place, read.kind, read.payload), (place, kind, &payload[..]));
            prop_assert!(rest.is_empty());
            for cut in 0..bytes.len() {
                let cut = Header::parse(&bytes[..cut]).and_then(|(_, rest)| Tile::split(rest));
                prop_assert_eq!(cut.err(), Some(Malformed::Length));
            }
        }
    }

    #[test]
    fn a_letter_costs_few_bytes_beside_its_pixels() {
        let header = Header {
            sequence: 9_000,
            captured_ms: 600_000,
            after: 9_000,
            key: None,
            exact: true,
            quiet: true,
        };
        let place = Place {
            x: 1_200,
            y: 700,
            width: 10,
            height: 19,
        };
        let tile = Tile {
            place,
            kind: Kind::DeflatedGreyPalette,
            payload: &[0; 60],
        };
        let mut bytes = Vec::new();
        header.write(&mut bytes);
        tile.write(&mut bytes);
        assert_eq!(bytes.len(), 6 + 8 + 60);
    }

    #[test]
    fn what_is_no_frame_has_no_header() {
        assert_eq!(Header::parse(&[]), Err(Malformed::Length));
        assert_eq!(Header::parse(&[2; 40]), Err(Malformed::Version));
        let endless = [&[VERSION][..], &[0xff; 12]].concat();
        assert_eq!(Header::parse(&endless), Err(Malformed::Length));
        let too_large = [VERSION, 0xff, 0xff, 0xff, 0xff, 0x7f, 0];
        assert_eq!(Header::parse(&too_large), Err(Malformed::Length));
    }
}
