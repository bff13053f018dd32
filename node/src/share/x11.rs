//! What capture, injection, bar and overlay have in common on X11.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use x11rb::{
    connection::{Connection, RequestConnection},
    errors::{ConnectionError, ReplyError, ReplyOrIdError},
    protocol::{
        randr::{self, ConnectionExt as _},
        xproto::{ConnectionExt as _, ImageFormat, ImageOrder, Screen, Visualtype},
    },
    reexports::x11rb_protocol::parse_display::parse_display,
    rust_connection::RustConnection,
};

use super::capture::{CaptureError, Monitor, Platform, Rect};

/// Displays are ports from 6000 on.
const MAX_DISPLAY: u16 = u16::MAX - 6000;
/// Bytes of one `PutImage`: below the smallest limit that servers have.
const PUT_BYTES: usize = 200_000;

/// A connection and the number of the screen that the display names.
pub(crate) struct Display {
    pub(crate) connection: RustConnection,
    pub(crate) screen: usize,
    /// File descriptors can be passed: the server runs on this machine.
    pub(crate) local: bool,
}

impl Display {
    pub(crate) fn open(name: Option<&str>) -> Result<Self, CaptureError> {
        refuse_platform()?;
        let display = match name {
            Some(name) => name.to_owned(),
            None => named_by_environment()?,
        };
        let connected = match parse_display(Some(&display)) {
            // The port would be no 16 bits, which the library does not mind.
            Ok(parsed) if parsed.display > MAX_DISPLAY => {
                Err("no display has so high a number".into())
            }
            Ok(_) => RustConnection::connect(Some(&display)).map_err(Into::into),
            Err(error) => Err(error.into()),
        };
        let (connection, screen) = connected.map_err(|source| CaptureError::Unreachable {
            display: display.clone(),
            source,
        })?;
        let local = display.starts_with([':', '/']) || display.starts_with("unix:");
        Ok(Self {
            connection,
            screen,
            local,
        })
    }

    pub(crate) fn screen(&self) -> &Screen {
        &self.connection.setup().roots[self.screen]
    }

    /// Whether pixels of this depth are blue, green, red and a byte of nothing.
    pub(crate) fn check_pixels(&self, depth: u8, visual: u32) -> Result<(), CaptureError> {
        let setup = self.connection.setup();
        let format = setup
            .pixmap_formats
            .iter()
            .find(|format| format.depth == depth);
        let bits = format.map_or(0, |format| format.bits_per_pixel);
        let masks = self
            .visual(visual)
            .map(|visual| (visual.red_mask, visual.green_mask, visual.blue_mask));
        let fits = bits == 32
            && matches!(depth, 24 | 32)
            && setup.image_byte_order == ImageOrder::LSB_FIRST
            && masks == Some((0x00ff_0000, 0x0000_ff00, 0x0000_00ff));
        fits.then_some(())
            .ok_or(CaptureError::Depth { depth, bits })
    }

    /// Puts rows of 32-bit pixels on a window, in parts that every server takes.
    pub(crate) fn put_pixels(
        &self,
        window: u32,
        gc: u32,
        (x, y): (i16, i16),
        width: u16,
        pixels: &[u8],
    ) -> Result<(), CaptureError> {
        let stride = usize::from(width) * 4;
        let rows = (PUT_BYTES / stride).max(1);
        let depth = self.screen().root_depth;
        for (index, part) in pixels.chunks(rows * stride).enumerate() {
            let down = u16::try_from(index * rows).unwrap_or(u16::MAX);
            let top = y.saturating_add_unsigned(down);
            let height = u16::try_from(part.len() / stride).unwrap_or(u16::MAX);
            let format = ImageFormat::Z_PIXMAP;
            self.connection
                .put_image(format, window, gc, width, height, x, top, 0, depth, part)?;
        }
        self.connection.flush()?;
        Ok(())
    }

    fn visual(&self, id: u32) -> Option<&Visualtype> {
        let depths = &self.screen().allowed_depths;
        depths
            .iter()
            .flat_map(|depth| &depth.visuals)
            .find(|visual| visual.visual_id == id)
    }

    pub(crate) fn has(&self, extension: &'static str) -> Result<bool, CaptureError> {
        Ok(self.connection.extension_information(extension)?.is_some())
    }

    pub(crate) fn need(&self, extension: &'static str) -> Result<(), CaptureError> {
        if self.has(extension)? {
            Ok(())
        } else {
            Err(CaptureError::Lacks(extension))
        }
    }
}

impl CaptureError {
    /// For requests that are refused when their window is no more.
    pub(super) fn or_gone(self) -> Self {
        if matches!(self, Self::Refused { .. }) {
            Self::SourceGone
        } else {
            self
        }
    }
}

/// X11 programs on macOS see each other's windows and nothing else: no screen to share.
fn refuse_platform() -> Result<(), CaptureError> {
    if cfg!(target_os = "macos") {
        Err(CaptureError::Platform(Platform::MacOs))
    } else {
        Ok(())
    }
}

fn named_by_environment() -> Result<String, CaptureError> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    set("DISPLAY").ok_or_else(|| match set("WAYLAND_DISPLAY") {
        Some(_) => CaptureError::Platform(Platform::Wayland),
        None => CaptureError::NoDisplay,
    })
}

impl From<ConnectionError> for CaptureError {
    fn from(error: ConnectionError) -> Self {
        if matches!(error, ConnectionError::UnsupportedExtension) {
            return Self::Lacks("that a request belongs to");
        }
        // What is left are failed reads and writes, and bytes that are not X11: the connection is of no more use.
        tracing::debug!(%error, "display connection");
        Self::DisplayLost
    }
}

impl From<ReplyError> for CaptureError {
    fn from(error: ReplyError) -> Self {
        match error {
            ReplyError::ConnectionError(error) => error.into(),
            ReplyError::X11Error(error) => Self::Refused {
                request: error.request_name.unwrap_or("a request"),
                error: error.error_code,
            },
        }
    }
}

impl From<ReplyOrIdError> for CaptureError {
    fn from(error: ReplyOrIdError) -> Self {
        match error {
            ReplyOrIdError::IdsExhausted => Self::Refused {
                request: "another identifier",
                error: 0,
            },
            ReplyOrIdError::ConnectionError(error) => error.into(),
            ReplyOrIdError::X11Error(error) => ReplyError::X11Error(error).into(),
        }
    }
}

/// The monitors as RANDR has them; without it, the whole desktop is one.
pub(crate) fn monitors(display: &Display) -> Result<Vec<Monitor>, CaptureError> {
    let root = display.screen().root;
    let mut monitors = Vec::new();
    if display.has(randr::X11_EXTENSION_NAME)? {
        let version = display.connection.randr_query_version(1, 5)?.reply()?;
        if (version.major_version, version.minor_version) >= (1, 5) {
            let reply = display.connection.randr_get_monitors(root, true)?.reply()?;
            for (id, info) in (0u16..).zip(reply.monitors) {
                let name = display.connection.get_atom_name(info.name)?.reply()?.name;
                let name = String::from_utf8_lossy(&name).into_owned();
                let rect = Rect {
                    x: info.x,
                    y: info.y,
                    width: info.width,
                    height: info.height,
                };
                monitors.push(Monitor {
                    id,
                    name,
                    rect,
                    primary: info.primary,
                });
            }
        }
    }
    if monitors.is_empty() {
        let size = display.connection.get_geometry(root)?.reply()?;
        let rect = Rect::of_size((size.width, size.height));
        monitors.push(Monitor {
            id: 0,
            name: "screen".to_owned(),
            rect,
            primary: true,
        });
    }
    Ok(monitors)
}

/// The one to begin with.
pub(crate) fn primary(monitors: &[Monitor]) -> &Monitor {
    monitors
        .iter()
        .find(|monitor| monitor.primary)
        .unwrap_or(&monitors[0])
}

/// When not even a pair of sockets or a thread is to be had.
pub(crate) fn no_resources(source: io::Error) -> CaptureError {
    CaptureError::Unreachable {
        display: "(no threads or files left)".to_owned(),
        source: source.into(),
    }
}

/// Ends a sleep from another thread. A pair of sockets: what poll(2) can wait for on every Unix.
#[derive(Debug)]
pub(crate) struct Wakeup {
    here: UnixStream,
    there: Arc<Bell>,
}

#[derive(Debug)]
struct Bell(UnixStream);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A full buffer wakes as well; a closed one has nobody to wake.
        if let Err(error) = (&self.0).write(&[0]) {
            tracing::trace!(%error, "waker");
        }
    }
}

impl Wakeup {
    pub(crate) fn new() -> io::Result<Self> {
        let (here, there) = UnixStream::pair()?;
        here.set_nonblocking(true)?;
        there.set_nonblocking(true)?;
        Ok(Self {
            here,
            there: Arc::new(Bell(there)),
        })
    }

    pub(crate) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.there))
    }

    /// Whether somebody rang since the last time.
    pub(crate) fn take(&self) -> bool {
        let mut bytes = [0; 64];
        let mut rung = false;
        while matches!((&self.here).read(&mut bytes), Ok(read) if read > 0) {
            rung = true;
        }
        rung
    }

    /// Sleeps until the display says something, somebody rings or the deadline passes.
    pub(crate) fn sleep(
        &self,
        display: &RustConnection,
        deadline: Option<Instant>,
    ) -> Result<(), CaptureError> {
        display.flush()?;
        let display: BorrowedFd<'_> = display.stream().as_fd();
        let mut fds = [display, self.here.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, timeout(deadline)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => {
                tracing::debug!(%error, "poll");
                Err(CaptureError::DisplayLost)
            }
        }
    }
}

/// poll(2) counts milliseconds: rounded up, or the last one would be spent in a spin.
fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else {
        return PollTimeout::NONE;
    };
    let left = deadline.saturating_duration_since(Instant::now());
    PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
}
