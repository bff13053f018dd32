//! Pixels from the server into the picture: through shared memory, or over the connection.
//!
//! The shared memory is a file that the server makes and hands over. It is read, not mapped: `preadv` copies rows
//! straight to their places in the picture, which is the one copy that a mapping would need as well, and no pointer
//! into memory that another process writes ever exists in this one.

use std::{fs::File, io::IoSliceMut, os::unix::fs::FileExt};

use nix::{libc::off_t, sys::uio::preadv};
use remora_picture::pixels::Pixels;
use x11rb::{
    connection::Connection as _,
    protocol::{
        shm::{self, ConnectionExt as _},
        xproto::{ConnectionExt as _, ImageFormat},
    },
};

use super::window::Trust;
use crate::share::{
    capture::{CaptureError, Rect},
    x11::Display,
};

/// Bytes of a pixel.
const PIXEL: usize = 4;
/// Rows that one read may fill (`IOV_MAX` on Linux and the BSDs).
const MAX_ROWS: usize = 1024;
/// Masked pixels: grey, so that nobody takes them for a window.
const MASKED: u8 = 0x60;

/// The picture.
#[derive(Default)]
pub(super) struct Picture {
    pub(super) bytes: Vec<u8>,
    pub(super) size: (u16, u16),
}

impl Picture {
    pub(super) fn new(size: (u16, u16)) -> Self {
        Self {
            bytes: vec![0; bytes_of(Rect::of_size(size))],
            size,
        }
    }

    pub(super) fn pixels(&self) -> Pixels<'_> {
        Pixels {
            bytes: &self.bytes,
            stride: self.stride(),
            width: self.size.0,
            height: self.size.1,
        }
    }

    pub(super) fn blank(&mut self, rect: Rect) {
        self.rows(rect).for_each(|row| row.fill(MASKED));
    }

    fn stride(&self) -> usize {
        usize::from(self.size.0) * PIXEL
    }

    /// The rows of a rectangle that lies in the picture; none if it is empty.
    fn rows(&mut self, rect: Rect) -> impl Iterator<Item = &mut [u8]> {
        let stride = self.stride().max(1);
        let rows = if rect.is_empty() {
            0
        } else {
            usize::from(rect.height)
        };
        let (x, y) = (
            usize::try_from(rect.x).unwrap_or(0),
            usize::try_from(rect.y).unwrap_or(0),
        );
        let (start, length) = (x * PIXEL, usize::from(rect.width) * PIXEL);
        self.bytes
            .chunks_mut(stride)
            .skip(y)
            .take(rows)
            .map(move |row| &mut row[start..start + length])
    }

    fn put(&mut self, rect: Rect, data: &[u8], trust: Option<&Trust>) {
        let width = usize::from(rect.width) * PIXEL;
        let top = usize::try_from(rect.y).unwrap_or(0);
        let left = usize::try_from(rect.x).unwrap_or(0);
        for (index, (row, new)) in self.rows(rect).zip(data.chunks_exact(width)).enumerate() {
            match trust.and_then(|trust| trust.row(top + index)) {
                None => row.copy_from_slice(new),
                Some(trusted) => {
                    let pixels = row.chunks_exact_mut(PIXEL).zip(new.chunks_exact(PIXEL));
                    for ((pixel, new), _) in pixels
                        .zip(&trusted[left..])
                        .filter(|(_, trusted)| **trusted)
                    {
                        pixel.copy_from_slice(new);
                    }
                }
            }
        }
    }
}

/// Asks the server for pixels.
pub(super) struct Grabber {
    /// Worth a try.
    shareable: bool,
    memory: Option<Memory>,
    scratch: Vec<u8>,
}

/// What the server writes and we read.
struct Memory {
    segment: u32,
    file: File,
    bytes: usize,
}

impl Grabber {
    pub(super) fn new(display: &Display) -> Result<Self, CaptureError> {
        let shareable = display.local && display.has(shm::X11_EXTENSION_NAME)?;
        Ok(Self {
            shareable,
            memory: None,
            scratch: Vec::new(),
        })
    }

    pub(super) fn shares_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Makes room for a picture of so many bytes.
    pub(super) fn reserve(&mut self, display: &Display, bytes: usize) -> Result<(), CaptureError> {
        if !self.shareable
            || self
                .memory
                .as_ref()
                .is_some_and(|memory| memory.bytes >= bytes)
        {
            return Ok(());
        }
        if let Some(old) = self.memory.take() {
            display.connection.shm_detach(old.segment)?;
        }
        match Memory::new(display, bytes) {
            Err(CaptureError::DisplayLost) => return Err(CaptureError::DisplayLost),
            Err(error) => {
                tracing::debug!(%error, "no shared memory with the display");
                self.shareable = false;
            }
            Ok(memory) => self.memory = Some(memory),
        }
        Ok(())
    }

    /// Brings `rects` of the picture up to date from `drawable`, where the picture's corner is at `origin`.
    pub(super) fn grab(
        &mut self,
        display: &Display,
        drawable: u32,
        origin: (i16, i16),
        rects: &[Rect],
        trust: Option<&Trust>,
        picture: &mut Picture,
    ) -> Result<(), CaptureError> {
        let Some(memory) = &self.memory else {
            return over_connection(display, drawable, origin, rects, trust, picture);
        };
        let mut rest = rects;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(memory.fitting(rest));
            memory.fill(display, drawable, origin, batch)?;
            let mut offset = 0;
            for rect in batch {
                memory.read(*rect, offset, trust, picture, &mut self.scratch)?;
                offset += bytes_of(*rect);
            }
            rest = later;
        }
        Ok(())
    }
}

impl Memory {
    fn new(display: &Display, bytes: usize) -> Result<Self, CaptureError> {
        let segment = display.connection.generate_id()?;
        let size = u32::try_from(bytes).unwrap_or(u32::MAX);
        let reply = display
            .connection
            .shm_create_segment(segment, size, false)?
            .reply()?;
        let file = File::from(reply.shm_fd);
        Ok(Self {
            segment,
            file,
            bytes,
        })
    }

    /// How many of `rects` go in at once; at least one: each is at most the picture.
    fn fitting(&self, rects: &[Rect]) -> usize {
        let mut left = self.bytes;
        let fits = |rect: &&Rect| {
            let room = left.checked_sub(bytes_of(**rect));
            left = room.unwrap_or(0);
            room.is_some()
        };
        rects.iter().take_while(fits).count().max(1)
    }

    /// One round trip for all of them.
    fn fill(
        &self,
        display: &Display,
        drawable: u32,
        origin: (i16, i16),
        rects: &[Rect],
    ) -> Result<(), CaptureError> {
        let mut offset = 0;
        let mut requests = Vec::with_capacity(rects.len());
        for rect in rects {
            let there = rect.offset_by(origin);
            let start = u32::try_from(offset).unwrap_or(u32::MAX);
            let format = ImageFormat::Z_PIXMAP.into();
            requests.push(display.connection.shm_get_image(
                drawable,
                there.x,
                there.y,
                there.width,
                there.height,
                !0,
                format,
                self.segment,
                start,
            )?);
            offset += bytes_of(*rect);
        }
        for request in requests {
            request.reply()?;
        }
        Ok(())
    }

    fn read(
        &self,
        rect: Rect,
        offset: usize,
        trust: Option<&Trust>,
        picture: &mut Picture,
        scratch: &mut Vec<u8>,
    ) -> Result<(), CaptureError> {
        let lost = |error| {
            tracing::debug!(%error, "shared memory");
            CaptureError::DisplayLost
        };
        if trust.is_some_and(|trust| !trust.is_whole()) {
            scratch.resize(bytes_of(rect), 0);
            self.file
                .read_exact_at(scratch, offset as u64)
                .map_err(lost)?;
            picture.put(rect, scratch, trust);
            return Ok(());
        }
        if rect.width == picture.size.0 {
            let start = usize::try_from(rect.y).unwrap_or(0) * picture.stride();
            let rows = &mut picture.bytes[start..start + bytes_of(rect)];
            return self.file.read_exact_at(rows, offset as u64).map_err(lost);
        }
        self.read_rows(rect, offset, picture).map_err(lost)
    }

    fn read_rows(&self, rect: Rect, offset: usize, picture: &mut Picture) -> std::io::Result<()> {
        let mut offset = offset as u64;
        let mut rows = picture.rows(rect).peekable();
        while rows.peek().is_some() {
            let mut batch: Vec<&mut [u8]> = rows.by_ref().take(MAX_ROWS).collect();
            let wanted: usize = batch.iter().map(|row| row.len()).sum();
            let mut slices: Vec<IoSliceMut<'_>> =
                batch.iter_mut().map(|row| IoSliceMut::new(row)).collect();
            let read = preadv(
                &self.file,
                &mut slices,
                off_t::try_from(offset).unwrap_or(off_t::MAX),
            )?;
            if read != wanted {
                // A signal came between: rarely, so row by row will do.
                let mut at = offset;
                for row in batch {
                    self.file.read_exact_at(row, at)?;
                    at += row.len() as u64;
                }
            }
            offset += wanted as u64;
        }
        Ok(())
    }
}

/// Without shared memory: a display on another machine, or a server without the extension.
fn over_connection(
    display: &Display,
    drawable: u32,
    origin: (i16, i16),
    rects: &[Rect],
    trust: Option<&Trust>,
    picture: &mut Picture,
) -> Result<(), CaptureError> {
    let mut requests = Vec::with_capacity(rects.len());
    for rect in rects {
        let there = rect.offset_by(origin);
        let (width, height) = (there.width, there.height);
        let connection = &display.connection;
        requests.push(connection.get_image(
            ImageFormat::Z_PIXMAP,
            drawable,
            there.x,
            there.y,
            width,
            height,
            !0,
        )?);
    }
    for (rect, request) in rects.iter().zip(requests) {
        picture.put(*rect, &request.reply()?.data, trust);
    }
    Ok(())
}

fn bytes_of(rect: Rect) -> usize {
    usize::from(rect.width) * usize::from(rect.height) * PIXEL
}
