//! The screen that the demo shares, and what somebody who sits in front of it would see there.
//!
//! The display that the demo runs on, if there is one; else an Xvfb of its own; else the synthetic sheet. On a display runs
//! a small program (`program`) that moves, and shows what is typed.

/// What the program looks like.
mod painter;
/// A window on the display.
mod program;
/// An X server of our own.
mod server;

use std::time::Duration;

use remora_picture::{decode::Canvas, pixels::Pixels};
use x11rb::protocol::xproto::{ConnectionExt as _, ImageFormat, MapState};

use self::{
    program::{Heard, Program},
    server::{Server, ServerError},
};
use crate::{
    error::{Exit, Failure},
    share::{
        capture::{
            Capture as _, CaptureError, Rect,
            synthetic::{Sheet, Synthetic},
        },
        desktop::Desktop,
        x11::Display,
    },
};

/// Of the synthetic sheet.
const SEED: u64 = 2026;
/// The program's window on a display where others stand, too.
const WINDOW: (u16, u16) = (1000, 690);
/// How long a window manager may take to give the program the keyboard.
const KEYBOARD: Duration = Duration::from_secs(5);
/// What the sharer's bar is called.
const BAR: &[u8] = b"Remora";

/// What is shared, and the means to compare.
#[derive(Debug)]
pub(super) enum Stage {
    /// A display.
    X11(Box<Theatre>),
    /// The sheet.
    Synthetic(Sheet),
}

/// A display with a program on it. What is dropped first needs what is dropped last.
#[derive(Debug)]
pub(super) struct Theatre {
    program: Program,
    witness: Witness,
    /// `None`: the display that this process runs on.
    server: Option<Server>,
}

impl Stage {
    /// The display that this process runs on, if there is one that can be shared; else as [`Self::own`]. Also says which.
    pub(super) fn any() -> Result<(Self, String), Failure> {
        if std::env::var_os("DISPLAY").is_none_or(|name| name.is_empty()) {
            return Self::own();
        }
        match Theatre::open(None) {
            Ok(theatre) => {
                let which = "the display you are looking at, with a small program on it";
                Ok((Self::X11(Box::new(theatre)), which.to_owned()))
            }
            Err(error) => {
                let (stage, which) = Self::own()?;
                Ok((
                    stage,
                    format!("{which} (your display cannot be shared: {error})"),
                ))
            }
        }
    }

    /// An Xvfb of its own; without one, the synthetic sheet.
    pub(super) fn own() -> Result<(Self, String), Failure> {
        match Server::start() {
            Ok(server) => {
                let which = format!("a screen without a monitor (Xvfb, {})", server.name());
                let theatre = Theatre::open(Some(server))
                    .map_err(|error| Failure::internal("the demo's screen", error))?;
                Ok((Self::X11(Box::new(theatre)), which))
            }
            Err(error) => {
                if let ServerError::Failed(_) = &error {
                    tracing::warn!(%error, "no screen of our own");
                }
                let which = format!("a made-up screen ({error})");
                Ok((Self::Synthetic(Sheet::new(SEED)), which))
            }
        }
    }

    /// For the sharer.
    pub(super) fn desktop(&self) -> Desktop {
        match self {
            Self::X11(theatre) => Desktop::X11(theatre.server.as_ref().map(Server::name)),
            Self::Synthetic(sheet) => Desktop::Synthetic(sheet.clone()),
        }
    }

    /// `x11`, `synthetic`.
    pub(super) fn source(&self) -> &'static str {
        match self {
            Self::X11(_) => "x11",
            Self::Synthetic(_) => "synthetic",
        }
    }

    /// Nobody else's programs are on it: what is not exact is our fault.
    pub(super) fn is_ours(&self) -> bool {
        match self {
            Self::X11(theatre) => theatre.server.is_some(),
            Self::Synthetic(_) => true,
        }
    }

    /// Waits until there is something to see.
    pub(super) async fn ready(&self) -> Result<(), Failure> {
        let Self::X11(theatre) = self else {
            return Ok(());
        };
        let mut heard = theatre.program.heard();
        let drawn = heard.wait_for(|heard| !heard.next_letter.is_empty());
        match tokio::time::timeout(KEYBOARD, drawn).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                let line = "the demo's own window did not come up on the screen";
                Err(Failure::new(Exit::Error, "DEMO", line))
            }
        }
    }

    /// Where the next typed letter will appear, in the picture.
    pub(super) fn next_letter(&self) -> Rect {
        match self {
            Self::X11(theatre) => {
                let origin = theatre.witness.place;
                theatre
                    .heard()
                    .next_letter
                    .relative_to((origin.x, origin.y))
            }
            Self::Synthetic(sheet) => sheet.next_letter(),
        }
    }

    /// Keys go to the program, and to nobody else's.
    pub(super) fn has_keyboard(&self) -> bool {
        match self {
            Self::X11(theatre) => theatre.heard().has_keyboard,
            Self::Synthetic(_) => true,
        }
    }

    /// Waits for the keyboard; whether it came.
    pub(super) async fn wait_for_keyboard(&self) -> bool {
        match self {
            Self::X11(theatre) => {
                let mut heard = theatre.program.heard();
                let has = heard.wait_for(|heard| heard.has_keyboard);
                matches!(tokio::time::timeout(KEYBOARD, has).await, Ok(Ok(_)))
            }
            Self::Synthetic(_) => true,
        }
    }

    /// All that arrived.
    pub(super) fn typed(&self) -> String {
        match self {
            Self::X11(theatre) => theatre.heard().typed,
            Self::Synthetic(sheet) => sheet.typed(),
        }
    }

    /// Whether our program, or the sheet, does not move by itself.
    pub(super) fn rest(&self, rests: bool) {
        match self {
            Self::X11(theatre) => theatre.program.rest(rests),
            Self::Synthetic(sheet) => sheet.rest(rests),
        }
    }

    /// Whether the helper's picture is the screen's own at this moment, pixel by pixel; the sharer's bar is left out, which
    /// is not shown.
    pub(super) fn equals(&self, canvas: &Canvas) -> Result<bool, Failure> {
        let failed = |error| Failure::internal("the screen's own picture", error);
        match self {
            Self::X11(theatre) => theatre.witness.equals(canvas).map_err(failed),
            Self::Synthetic(sheet) => {
                let mut own = Synthetic::new(sheet.clone());
                own.refresh(&[Rect::of_size(own.size())]).map_err(failed)?;
                Ok(same(own.pixels(), canvas.pixels(), &[]))
            }
        }
    }
}

impl Theatre {
    fn open(server: Option<Server>) -> Result<Self, CaptureError> {
        let name = server.as_ref().map(Server::name);
        let witness = Witness::open(name.as_deref())?;
        let Rect {
            x,
            y,
            width,
            height,
        } = witness.place;
        let place = if server.is_some() {
            witness.place
        } else {
            let (wide, high) = (WINDOW.0.min(width), WINDOW.1.min(height));
            Rect {
                x: x.saturating_add_unsigned((width - wide) / 2),
                y: y.saturating_add_unsigned((height - high) / 2),
                width: wide,
                height: high,
            }
        };
        Ok(Self {
            program: Program::open(name.as_deref(), place)?,
            witness,
            server,
        })
    }

    fn heard(&self) -> Heard {
        self.program.heard().borrow().clone()
    }
}

/// A client that looks at the screen by the plainest way X11 has.
struct Witness {
    display: Display,
    /// What is shared, on the desktop.
    place: Rect,
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Witness({:?})", self.place)
    }
}

impl Witness {
    /// On a display that can be shared.
    fn open(name: Option<&str>) -> Result<Self, CaptureError> {
        let desktop = Desktop::X11(name.map(ToOwned::to_owned));
        let capture = desktop.capture()?;
        let (origin, size) = (capture.origin(), capture.size());
        Ok(Self {
            display: Display::open(name)?,
            place: Rect::of_size(size).offset_by(origin),
        })
    }

    fn equals(&self, canvas: &Canvas) -> Result<bool, CaptureError> {
        let Rect {
            x,
            y,
            width,
            height,
        } = self.place;
        // It may move while the picture is taken.
        let mut bars = self.bars()?;
        let (root, format) = (self.display.screen().root, ImageFormat::Z_PIXMAP);
        let image = self
            .display
            .connection
            .get_image(format, root, x, y, width, height, !0)?
            .reply()?;
        bars.extend(self.bars()?);
        let own = Pixels {
            bytes: &image.data,
            stride: usize::from(width) * 4,
            width,
            height,
        };
        Ok(same(own, canvas.pixels(), &bars))
    }

    /// Where the sharer's bar is, in the picture.
    fn bars(&self) -> Result<Vec<Rect>, CaptureError> {
        let connection = &self.display.connection;
        let tree = connection.query_tree(self.display.screen().root)?.reply()?;
        let mut bars = Vec::new();
        for window in tree.children {
            // It may be gone by now.
            let Ok(attributes) = connection.get_window_attributes(window)?.reply() else {
                continue;
            };
            let shown = attributes.override_redirect && attributes.map_state == MapState::VIEWABLE;
            let name = connection.get_property(false, window, NAME, TEXT, 0, NAME_WORDS)?;
            let place = connection.get_geometry(window)?;
            if let (Ok(name), Ok(place)) = (name.reply(), place.reply())
                && shown
                && name.value == BAR
            {
                let bar = Rect {
                    x: place.x,
                    y: place.y,
                    width: place.width,
                    height: place.height,
                };
                bars.push(bar.relative_to((self.place.x, self.place.y)));
            }
        }
        Ok(bars)
    }
}

/// `WM_NAME`, `STRING`, and as much as is compared, in units of 4 bytes (X11 protocol, appendix B).
const NAME: u32 = 39;
const TEXT: u32 = 31;
const NAME_WORDS: u32 = 4;

/// Whether both have the same colours, but for some places.
fn same(own: Pixels<'_>, shown: Pixels<'_>, but: &[Rect]) -> bool {
    if (own.width, own.height) != (shown.width, shown.height) {
        return false;
    }
    let rows = own
        .bytes
        .chunks_exact(own.stride)
        .zip(shown.bytes.chunks_exact(shown.stride));
    (0i16..).zip(rows).all(|(y, (own, shown))| {
        let pixels = own.chunks_exact(4).zip(shown.chunks_exact(4));
        let mut pixels = (0i16..).zip(pixels);
        pixels.all(|(x, (own, shown))| {
            own[..3] == shown[..3] || but.iter().any(|rect| rect.contains(x, y))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(bytes: &[u8]) -> Pixels<'_> {
        Pixels {
            bytes,
            stride: 12,
            width: 3,
            height: 2,
        }
    }

    #[test]
    fn pictures_are_compared_by_colour_outside_the_bar() {
        let one = [0u8; 24];
        let mut other = one;
        other[3] = 9;
        assert!(same(pixels(&one), pixels(&other), &[]), "no colour");
        other[16] = 1;
        assert!(!same(pixels(&one), pixels(&other), &[]));
        let place = Rect {
            x: 1,
            y: 1,
            width: 1,
            height: 1,
        };
        assert!(same(pixels(&one), pixels(&other), &[place]));
        let narrow = Pixels {
            width: 2,
            ..pixels(&one)
        };
        assert!(!same(narrow, pixels(&one), &[]));
    }

    #[test]
    fn the_sheet_is_compared_with_its_own_bytes() {
        let stage = Stage::Synthetic(Sheet::new(1));
        assert!(!stage.equals(&Canvas::new()).unwrap());
        assert!(stage.is_ours() && stage.has_keyboard());
    }
}
