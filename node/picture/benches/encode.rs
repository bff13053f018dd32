//! What the sharer's processor pays for a frame of 1920 × 1080: `cargo bench -p remora-picture --bench encode`. Prints, for each kind
//! of change, milliseconds and bytes a frame; `-- film` only of those whose name has that in it.
#![expect(clippy::print_stdout, reason = "that is what a benchmark is for")]

use std::time::{Duration, Instant};

use anyhow::Context;
use remora_picture::encode::{Area, Budget, Encoder, Picture, Scope};

const WIDTH: usize = 1920;
const HEIGHT: usize = 1080;
const FRAMES: usize = 20;
const PLENTY: Budget = Budget {
    bytes: usize::MAX,
    quality: 82,
};
const WHOLE: Area = Area {
    x: 0,
    y: 0,
    width: WIDTH,
    height: HEIGHT,
};

/// A change: its name, where it is, and the screen at a step.
type Change = (&'static str, Area, fn(usize) -> Vec<u8>);

fn main() -> anyhow::Result<()> {
    let letter = Area {
        x: 600,
        y: 500,
        width: 20,
        height: 19,
    };
    let changes: [Change; 5] = [
        ("nothing, damaged", WHOLE, |_| screen(page)),
        ("a letter", letter, |step| {
            screen(move |x, y| {
                let inside = (600..620).contains(&x) && (500..519).contains(&y);
                if inside {
                    page(x + step, y)
                } else {
                    page(x, y)
                }
            })
        }),
        ("a page that is scrolled", WHOLE, |step| {
            screen(move |x, y| page(x, y + 30 * step))
        }),
        ("a photograph that is moved", WHOLE, |step| {
            screen(move |x, y| photograph(x + 5 * step, y + 3 * step))
        }),
        ("a film", WHOLE, |step| {
            screen(move |x, y| photograph(x + 64 * 9 * step * (x / 64), y + 977 * step))
        }),
    ];
    let wanted = std::env::args().skip(1).find(|arg| arg != "--bench");
    for (name, area, at) in changes {
        if wanted.as_ref().is_some_and(|wanted| !name.contains(wanted)) {
            continue;
        }
        let screens: Vec<_> = (0..=FRAMES).map(at).collect();
        let (mut encoder, mut spent, mut bytes) = (Encoder::new(WIDTH, HEIGHT), Duration::ZERO, 0);
        for (step, screen) in screens.iter().enumerate() {
            let now_us = 33_000 * step as u64;
            encoder.damage(area);
            let began = Instant::now();
            let frame = encoder.encode(picture(screen), PLENTY, Scope::Overlapping, now_us);
            let took = began.elapsed();
            if let Some(frame) = &frame {
                encoder.seen(frame.sequence);
            }
            // The first is the whole screen, whatever changes.
            if step > 0 {
                spent += took;
                bytes += frame.map_or(0, |frame| frame.bytes.len());
            } else {
                frame.context("a first frame")?;
            }
        }
        let ms = spent.as_secs_f64() * 1e3 / FRAMES as f64;
        println!("{name:27} {ms:7.2} ms, {:8} bytes a frame", bytes / FRAMES);
    }
    Ok(())
}

fn picture(bytes: &[u8]) -> Picture<'_> {
    Picture {
        bytes,
        stride: WIDTH * 4,
        width: WIDTH,
        height: HEIGHT,
    }
}

fn screen(colour: impl Fn(usize, usize) -> [u8; 3]) -> Vec<u8> {
    let pixel = |at: usize| {
        let [blue, green, red] = colour(at % WIDTH, at / WIDTH);
        [blue, green, red, 0]
    };
    (0..WIDTH * HEIGHT).flat_map(pixel).collect()
}

fn mixed(seed: usize) -> u8 {
    let once = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((once ^ once >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 48).to_le_bytes()[0]
}

/// Lines of something like letters.
fn page(x: usize, y: usize) -> [u8; 3] {
    let (letter, line) = (x / 9, y / 18);
    let is_ink =
        y % 18 < 13 && mixed(letter * 131 + line * 7919 + x % 9 / 2 * 31 + y % 18 / 2 * 57) < 90;
    if is_ink {
        [40, 40, 40]
    } else {
        [252, 252, 252]
    }
}

/// Soft, with grain.
fn photograph(x: usize, y: usize) -> [u8; 3] {
    let grain = mixed(x * 31 + y * 7919) / 32;
    let soft = |at: usize| ((at / 3) % 200).to_le_bytes()[0];
    [
        soft(x + y) + grain,
        soft(2 * x) / 2 + grain,
        soft(y + 300) + grain,
    ]
}
