//! The picture on somebody's card. What is signed is its hash; the bytes come once both cards are known, and are nobody's but a
//! decoder's here: what is shown was drawn anew from its pixels (SECURITY.md §1.4).

use std::{fs, io, io::Cursor, path::Path};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

/// Largest file, in bytes; as `remora admin org` signs it.
pub const MAX_BYTES: usize = 64 * 1024;
/// Longest side that is decoded, in pixels: a small file may say that it is a very large picture.
const MAX_SIDE: usize = 1_024;
/// Longest side that is shown.
const SHOWN: usize = 256;
/// What a decoder may ask for.
const MAX_DECODED_BYTES: usize = 16 << 20;

/// Why a file is no picture for a card.
#[derive(Debug, thiserror::Error)]
pub enum NoPortrait {
    /// The system's words.
    #[error("cannot read it: {0}")]
    Unreadable(#[from] io::Error),
    /// Over [`MAX_BYTES`].
    #[error("a picture has at most 64 KiB; save it smaller, 256 pixels wide are enough")]
    TooLong,
    /// Neither format, damaged, or with too many pixels.
    #[error("it is no PNG or JPEG picture of at most 1,024 pixels a side")]
    NotAPicture,
    /// Not the one that was signed.
    #[error("it is not the picture that was signed")]
    Another,
}

/// Red, green, blue of every pixel.
#[derive(Debug)]
struct Pixels {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

/// Reads and checks a file that is to be somebody's picture.
///
/// # Errors
/// What is wrong with it.
pub fn read(path: &Path) -> Result<Bytes, NoPortrait> {
    let length = fs::metadata(path)?.len();
    if usize::try_from(length).is_ok_and(|length| length <= MAX_BYTES) {
        let bytes = fs::read(path)?;
        shown(&bytes)?;
        Ok(bytes.into())
    } else {
        Err(NoPortrait::TooLong)
    }
}

/// What is signed.
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// The PNG to show of a picture that came, if its hash is the one that was signed: at most 256 pixels a side.
///
/// # Errors
/// It is not that one, or no picture.
pub fn checked(bytes: &[u8], signed: &[u8; 32]) -> Result<Vec<u8>, NoPortrait> {
    match hash(bytes) == *signed {
        true => shown(bytes),
        false => Err(NoPortrait::Another),
    }
}

fn shown(bytes: &[u8]) -> Result<Vec<u8>, NoPortrait> {
    if bytes.len() > MAX_BYTES {
        return Err(NoPortrait::TooLong);
    }
    let pixels = from_png(bytes)
        .or_else(|| from_jpeg(bytes))
        .ok_or(NoPortrait::NotAPicture)?;
    to_png(&pixels.shrunk()).ok_or(NoPortrait::NotAPicture)
}

fn fits(width: usize, height: usize) -> bool {
    (1..=MAX_SIDE).contains(&width) && (1..=MAX_SIDE).contains(&height)
}

fn from_png(bytes: &[u8]) -> Option<Pixels> {
    let limits = png::Limits {
        bytes: MAX_DECODED_BYTES,
    };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().ok()?;
    let size = reader.info().size();
    let (width, height) = (usize::try_from(size.0).ok()?, usize::try_from(size.1).ok()?);
    if !fits(width, height) {
        return None;
    }
    let mut buffer = vec![0; reader.output_buffer_size()?];
    let frame = reader.next_frame(&mut buffer).ok()?;
    let rgb: Vec<u8> = match frame.color_type {
        png::ColorType::Rgb => buffer,
        png::ColorType::Rgba => buffer.chunks_exact(4).flat_map(on_white).collect(),
        png::ColorType::Grayscale => buffer.iter().flat_map(|&grey| [grey; 3]).collect(),
        png::ColorType::GrayscaleAlpha => {
            let grey = |of: &[u8]| on_white(&[of[0], of[0], of[0], of[1]]);
            buffer.chunks_exact(2).flat_map(grey).collect()
        }
        png::ColorType::Indexed => return None,
    };
    Pixels::new(width, height, rgb)
}

/// As on a card.
fn on_white(rgba: &[u8]) -> [u8; 3] {
    let alpha = u32::from(rgba[3]);
    [0, 1, 2].map(|part| {
        let value = (u32::from(rgba[part]) * alpha + 255 * (255 - alpha)) / 255;
        u8::try_from(value).unwrap_or(u8::MAX)
    })
}

fn from_jpeg(bytes: &[u8]) -> Option<Pixels> {
    let options = DecoderOptions::default()
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .set_strict_mode(true)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let rgb = decoder.decode().ok()?;
    let (width, height) = decoder.dimensions()?;
    Pixels::new(width, height, rgb)
}

impl Pixels {
    fn new(width: usize, height: usize, mut rgb: Vec<u8>) -> Option<Self> {
        let needed = width * height * 3;
        if !fits(width, height) || rgb.len() < needed {
            return None;
        }
        rgb.truncate(needed);
        Some(Self { width, height, rgb })
    }

    /// So that it has its place on a card; each pixel is the mean of those that it stands for.
    fn shrunk(self) -> Self {
        let longest = self.width.max(self.height);
        if longest <= SHOWN {
            return self;
        }
        let side = |side: usize| (side * SHOWN / longest).max(1);
        let (width, height) = (side(self.width), side(self.height));
        let mut rgb = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            let rows = y * self.height / height
                ..((y + 1) * self.height / height).max(y * self.height / height + 1);
            for x in 0..width {
                let columns = x * self.width / width
                    ..((x + 1) * self.width / width).max(x * self.width / width + 1);
                for part in 0..3 {
                    rgb.push(self.mean(rows.clone(), columns.clone(), part));
                }
            }
        }
        Self { width, height, rgb }
    }

    fn mean(
        &self,
        rows: std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
        part: usize,
    ) -> u8 {
        let count = rows.len() * columns.len();
        let sum: usize = rows
            .flat_map(|y| {
                columns
                    .clone()
                    .map(move |x| (y * self.width + x) * 3 + part)
            })
            .map(|at| usize::from(self.rgb[at]))
            .sum();
        u8::try_from(sum / count.max(1)).unwrap_or(u8::MAX)
    }
}

fn to_png(pixels: &Pixels) -> Option<Vec<u8>> {
    let mut png = Vec::new();
    let (width, height) = (
        u32::try_from(pixels.width).ok()?,
        u32::try_from(pixels.height).ok()?,
    );
    let mut encoder = png::Encoder::new(&mut png, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().ok()?;
    writer.write_image_data(&pixels.rgb).ok()?;
    writer.finish().ok()?;
    Some(png)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize) -> Vec<u8> {
        let rgb = (0..width * height).flat_map(|_| [200, 100, 50]).collect();
        to_png(&Pixels { width, height, rgb }).expect("a picture")
    }

    #[test]
    fn c_1_only_the_picture_that_was_signed_is_shown_and_drawn_anew() {
        let bytes = picture(400, 200);
        let shown = checked(&bytes, &hash(&bytes)).expect("the one");
        assert_ne!(shown, bytes);
        let again = from_png(&shown).expect("a picture");
        assert_eq!((again.width, again.height), (256, 128));
        assert_eq!(again.rgb[..3], [200, 100, 50]);
        let another = checked(&picture(401, 200), &hash(&bytes));
        assert!(matches!(another, Err(NoPortrait::Another)));
    }

    #[test]
    fn what_is_no_small_picture_is_none() {
        for bytes in [
            vec![],
            b"<svg onload='alert(1)'/>".to_vec(),
            vec![0xff; 1000],
            picture(1025, 1),
        ] {
            let refused = checked(&bytes, &hash(&bytes));
            assert!(
                matches!(refused, Err(NoPortrait::NotAPicture)),
                "{} bytes",
                bytes.len()
            );
        }
        let long = vec![0; MAX_BYTES + 1];
        assert!(matches!(
            checked(&long, &hash(&long)),
            Err(NoPortrait::TooLong)
        ));
        // Damaged anywhere, it is a picture or none, and nothing worse.
        let bytes = picture(64, 64);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            shown(&damaged).ok();
        }
    }
}
