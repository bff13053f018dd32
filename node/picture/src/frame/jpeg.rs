//! JPEGs (ITU-T T.81) without what all of a quality have in common: of the 600 bytes before the pixels none is sent, so that
//! a strip of a photograph costs what its pixels cost.
//!
//! A payload is the quality, 1–100, and the entropy-coded pixels: what stands between the start-of-scan segment and the
//! end-of-image marker.

use jpeg_encoder::{ColorType, Encoder, EncodingError};

const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];

/// A picture as a payload; `bgra` has four bytes a pixel, of which the last does not matter.
///
/// # Errors
/// No quality, no pixels, or another number of bytes.
pub fn encode(
    bgra: &[u8],
    (width, height): (u16, u16),
    quality: u8,
) -> Result<Vec<u8>, EncodingError> {
    let whole = whole_of(bgra, (width, height), quality)?;
    let scan = &whole[scan_start(&whole)..];
    let scan = scan.strip_suffix(&END_OF_IMAGE).unwrap_or(scan);
    Ok([&[quality], scan].concat())
}

/// A JPEG that any decoder reads, of a payload. `None` without a quality.
pub fn decodable(payload: &[u8], size: (u16, u16)) -> Option<Vec<u8>> {
    let (quality, scan) = payload.split_first()?;
    Some([&head(*quality, size)?, scan, &END_OF_IMAGE].concat())
}

/// What stands before the pixels; `None` if there is no such quality or size.
pub fn head(quality: u8, (width, height): (u16, u16)) -> Option<Vec<u8>> {
    if !(1..=100).contains(&quality) || width == 0 || height == 0 {
        return None;
    }
    // All of it but the size is as in the smallest picture.
    let mut head = whole_of(&[0; 4], (1, 1), quality).ok()?;
    head.truncate(scan_start(&head));
    let frame = segments(&head).find(|(marker, _)| *marker == 0xc0)?.1;
    // After the marker: length 2, precision 1, height 2, width 2.
    head[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    head[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    Some(head)
}

fn whole_of(
    bgra: &[u8],
    (width, height): (u16, u16),
    quality: u8,
) -> Result<Vec<u8>, EncodingError> {
    let mut whole = Vec::new();
    Encoder::new(&mut whole, quality).encode(bgra, width, height, ColorType::Bgra)?;
    Ok(whole)
}

/// Marker and offset of each segment up to the start of scan, whose last offset is where it ends.
fn segments(jpeg: &[u8]) -> impl Iterator<Item = (u8, usize)> + '_ {
    let mut at = 2;
    std::iter::from_fn(move || {
        let &[0xff, marker, high, low] = jpeg.get(at..at + 4)? else {
            return None;
        };
        let start = at;
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
        Some((marker, start))
    })
}

fn scan_start(jpeg: &[u8]) -> usize {
    let scan = segments(jpeg).find(|(marker, _)| *marker == START_OF_SCAN);
    scan.map_or(jpeg.len(), |(_, at)| {
        at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u16, height: u16) -> Vec<u8> {
        let pixel = |x: u16, y: u16| [77, y.to_le_bytes()[0], x.to_le_bytes()[0], 0];
        (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| pixel(x, y)))
            .collect()
    }

    #[test]
    fn what_was_left_out_is_put_back() {
        for quality in [1, 40, 60, 82, 89, 90, 100] {
            for size in [(1, 1), (17, 5), (512, 64), (64, 300)] {
                let bgra = picture(size.0, size.1);
                let payload = encode(&bgra, size, quality).expect("a picture");
                let whole = whole_of(&bgra, size, quality).expect("a picture");
                assert!(payload.len() + 600 < whole.len());
                assert_eq!(
                    decodable(&payload, size),
                    Some(whole),
                    "{quality}, {size:?}"
                );
            }
        }
    }

    const PLAIN: &str = "52c8a28a2be28fd0428a28a0028a28a0028a28a0028a28a0028a28a0028a28a0028a28a0028a28a0028a28a0028a28a0028a28a00f";

    /// In tests/browser/viewer.mjs, the page draws it.
    #[test]
    fn a_plain_picture_is_a_few_bytes() {
        let bgra = [40, 90, 180, 0].repeat(64 * 48);
        let payload = encode(&bgra, (64, 48), 82).expect("a picture");
        assert_eq!(hex::encode(payload), PLAIN);
    }

    #[test]
    fn there_is_no_such_quality_or_size() {
        for quality in [0, 101, 255] {
            assert_eq!(head(quality, (8, 8)), None);
        }
        assert_eq!(head(50, (0, 8)), None);
        assert_eq!(decodable(&[], (8, 8)), None);
    }
}
