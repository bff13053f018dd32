//! The picture's tiles next to H.264 (openh264) on what H.264 is good at: `cargo run --release --manifest-path
//! loadtest/codec/Cargo.toml -- [PHOTOGRAPH.jpg]`. Needs a C++ compiler. Prints, for a camera that zooms into a photograph and
//! one that moves over it, what a frame costs: bytes, the sharer's processor, and how near the viewer's picture is (PSNR).

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use openh264::{
    OpenH264API,
    decoder::Decoder,
    encoder::{Complexity, Encoder as H264, EncoderConfig, FrameRate, RateControlMode, UsageType},
    formats::{BgraSliceU8, YUVBuffer, YUVSource},
};
use remora_picture::{
    decode::Canvas,
    encode::{Area, Budget, Encoder, Picture, Scope},
};
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

/// Debian's mate-backgrounds; loadtest/compare-screen installs it.
const PHOTOGRAPH: &str = "/usr/share/backgrounds/mate/nature/LadyBird.jpg";
const FRAMES: usize = 75;
const RATE: f32 = 25.0;
const PIXEL: usize = 4;

/// What a codec made of a film.
#[derive(Default)]
struct Cost {
    bytes: usize,
    spent: Duration,
    squares: f64,
    samples: usize,
}

impl Cost {
    fn add(
        &mut self,
        bytes: usize,
        spent: Duration,
        film: &[u8],
        seen: impl Iterator<Item = [u8; 3]>,
    ) {
        self.bytes += bytes;
        self.spent += spent;
        for (film, seen) in film.chunks_exact(PIXEL).zip(seen) {
            for (a, b) in film.iter().zip(seen) {
                let off = f64::from(a.abs_diff(b));
                self.squares += off * off;
                self.samples += 1;
            }
        }
    }

    fn print(&self, name: &str) {
        let kbit = self.bytes as f64 * 8.0 / 1e3 * f64::from(RATE) / FRAMES as f64;
        let ms = self.spent.as_secs_f64() * 1e3 / FRAMES as f64;
        let mean = self.squares / self.samples as f64;
        let psnr = 10.0 * (255.0 * 255.0 / mean).log10();
        println!("  {name:22} {kbit:7.0} kbit/s, {ms:5.1} ms a frame, PSNR {psnr:4.1} dB");
    }
}

struct Photograph {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Photograph {
    fn read(file: &str) -> anyhow::Result<Self> {
        let bytes =
            std::fs::read(file).with_context(|| format!("{file}: name another photograph"))?;
        let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
        let rgb = decoder.decode()?;
        let (width, height) = decoder.dimensions().context("a size")?;
        Ok(Self { width, height, rgb })
    }

    /// Between four pixels.
    fn at(&self, x: f64, y: f64) -> [u8; 3] {
        let (column, row) = (
            (x as usize).min(self.width - 2),
            (y as usize).min(self.height - 2),
        );
        let (right, down) = (x - column as f64, y - row as f64);
        std::array::from_fn(|part| {
            let sample = |dx: usize, dy: usize| {
                f64::from(self.rgb[((row + dy) * self.width + column + dx) * 3 + part])
            };
            let upper = sample(0, 0) * (1.0 - right) + sample(1, 0) * right;
            let lower = sample(0, 1) * (1.0 - right) + sample(1, 1) * right;
            (upper * (1.0 - down) + lower * down) as u8
        })
    }
}

/// Blue, green, red, 0.
fn film(width: usize, height: usize, colour: impl Fn(usize, usize) -> [u8; 3]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(width * height * PIXEL);
    for at in 0..width * height {
        let [red, green, blue] = colour(at % width, at / width);
        frame.extend_from_slice(&[blue, green, red, 0]);
    }
    frame
}

fn main() -> anyhow::Result<()> {
    let file = std::env::args().nth(1).unwrap_or_else(|| PHOTOGRAPH.into());
    let photograph = Photograph::read(&file)?;
    let size = (photograph.width, photograph.height);
    if size.0 < 1920 || size.1 < 1080 {
        bail!("{file} is {size:?}: 1920 × 1080 or more, please");
    }
    for (width, height) in [(480, 270), (1280, 720)] {
        let step = |number: usize| 1.0 + number as f64 / FRAMES as f64;
        let zooming = |number: usize| {
            film(width, height, |x, y| {
                photograph.at(
                    x as f64 * 1.4 / step(number) + 100.0,
                    y as f64 * 1.4 / step(number) + 80.0,
                )
            })
        };
        let moving = |number: usize| {
            film(width, height, |x, y| {
                photograph.at((x + 4 * number) as f64, (y + 2 * number) as f64)
            })
        };
        println!("zooming, {width} × {height}");
        compare(&(0..FRAMES).map(zooming).collect::<Vec<_>>(), width, height)?;
        println!("moving, {width} × {height}");
        compare(&(0..FRAMES).map(moving).collect::<Vec<_>>(), width, height)?;
    }
    Ok(())
}

fn compare(film: &[Vec<u8>], width: usize, height: usize) -> anyhow::Result<()> {
    for quality in [40, 60, 82] {
        tiles(film, width, height, quality)?.print(&format!("tiles, quality {quality}"));
    }
    h264(film, width, height)?.print("H.264");
    Ok(())
}

fn tiles(film: &[Vec<u8>], width: usize, height: usize, quality: u8) -> anyhow::Result<Cost> {
    let (mut encoder, mut canvas, mut cost) =
        (Encoder::new(width, height), Canvas::new(), Cost::default());
    for (number, bytes) in film.iter().enumerate() {
        let whole = Area {
            x: 0,
            y: 0,
            width,
            height,
        };
        let picture = Picture {
            bytes,
            stride: width * PIXEL,
            width,
            height,
        };
        let budget = Budget {
            bytes: usize::MAX,
            quality,
        };
        encoder.damage(whole);
        let began = Instant::now();
        let frame = encoder
            .encode(picture, budget, Scope::Overlapping, 40_000 * number as u64)
            .context("a frame")?;
        let spent = began.elapsed();
        encoder.seen(frame.sequence);
        let length = frame.bytes.len();
        canvas.draw(&frame.bytes.into())?;
        let seen = canvas
            .pixels()
            .bytes
            .chunks_exact(PIXEL)
            .map(|pixel| [pixel[0], pixel[1], pixel[2]]);
        cost.add(length, spent, bytes, seen);
    }
    Ok(cost)
}

/// As near as it is without rate control, which is about as near as the roughest tiles.
fn h264(film: &[Vec<u8>], width: usize, height: usize) -> anyhow::Result<Cost> {
    let config = EncoderConfig::new()
        .usage_type(UsageType::ScreenContentRealTime)
        .rate_control_mode(RateControlMode::Off)
        .adaptive_quantization(false)
        .background_detection(false)
        .max_frame_rate(FrameRate::from_hz(RATE))
        .complexity(Complexity::Low)
        .skip_frames(false);
    let mut encoder = H264::with_api_config(OpenH264API::from_source(), config)?;
    let (mut decoder, mut cost) = (Decoder::new()?, Cost::default());
    let mut rgb = vec![0; width * height * 3];
    for bytes in film {
        let began = Instant::now();
        let yuv = YUVBuffer::from_bgra8_source(BgraSliceU8::new(bytes, (width, height)));
        let stream = encoder.encode(&yuv)?.to_vec();
        let spent = began.elapsed();
        if let Some(seen) = decoder.decode(&stream)? {
            assert_eq!(seen.dimensions(), (width, height));
            seen.write_rgb8(&mut rgb);
        }
        let seen = rgb
            .chunks_exact(3)
            .map(|pixel| [pixel[2], pixel[1], pixel[0]]);
        cost.add(stream.len(), spent, bytes, seen);
    }
    Ok(cost)
}
