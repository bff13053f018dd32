//! Where pixels come from: a source that sleeps until something changes, and a picture of it that is brought up to date
//! on demand.
//!
//! ```text
//!  wait() ──▶ Changes { damage, cursor, resized } ──▶ owner decides when ──▶ refresh(rects) ──▶ pixels()
//! ```
//!
//! Damage is taken *before* pixels are grabbed, so a refresh shows at least what its damage promised, and a change that
//! comes during the grab is reported again. The owner may let damage pile up as long as it likes: the next refresh
//! grabs what is there then, never an old picture.

use std::{fmt, task::Waker, time::Instant};

use remora_picture::pixels::Pixels;

/// One monitor, and no other.
mod chosen;
/// A lively picture for machines without a display.
pub mod synthetic;
/// X11.
#[cfg(unix)]
pub mod x11;

/// More rectangles than this are merged into fewer: each costs a request, and an encoder's tiles overlap anyway.
pub(crate) const MAX_RECTS: usize = 64;
/// Pixels that may be grabbed without need if that saves a rectangle; a request costs about as much as copying these.
const MERGE_PIXELS: u64 = 4096;

/// A rectangle of pixels, in the coordinates that X11 has: none is beyond 32,767.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rect {
    /// Left.
    pub x: i16,
    /// Top.
    pub y: i16,
    /// May be 0: then it is empty.
    pub width: u16,
    /// May be 0: then it is empty.
    pub height: u16,
}

impl Rect {
    /// At the origin.
    pub const fn of_size((width, height): (u16, u16)) -> Self {
        Self {
            x: 0,
            y: 0,
            width,
            height,
        }
    }

    /// First column that is not in it.
    pub fn right(self) -> i32 {
        i32::from(self.x) + i32::from(self.width)
    }

    /// First row that is not in it.
    pub fn bottom(self) -> i32 {
        i32::from(self.y) + i32::from(self.height)
    }

    /// Has no pixel.
    pub fn is_empty(self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// Pixels.
    pub fn area(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Whether the pixel is in it.
    pub fn contains(self, x: i16, y: i16) -> bool {
        let (x, y) = (i32::from(x), i32::from(y));
        (i32::from(self.x)..self.right()).contains(&x)
            && (i32::from(self.y)..self.bottom()).contains(&y)
    }

    /// What both have; empty if nothing.
    pub fn intersection(self, other: Self) -> Self {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        Self::between(
            x,
            y,
            self.right().min(other.right()),
            self.bottom().min(other.bottom()),
        )
    }

    /// The smallest that has both.
    pub fn union(self, other: Self) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => other,
            (_, true) => self,
            (false, false) => {
                let (x, y) = (self.x.min(other.x), self.y.min(other.y));
                Self::between(
                    x,
                    y,
                    self.right().max(other.right()),
                    self.bottom().max(other.bottom()),
                )
            }
        }
    }

    /// The same rectangle as seen from `origin`.
    pub fn relative_to(self, (x, y): (i16, i16)) -> Self {
        Self {
            x: self.x.saturating_sub(x),
            y: self.y.saturating_sub(y),
            ..self
        }
    }

    /// The same rectangle when its coordinates count from `origin`.
    pub fn offset_by(self, (x, y): (i16, i16)) -> Self {
        Self {
            x: self.x.saturating_add(x),
            y: self.y.saturating_add(y),
            ..self
        }
    }

    /// What is left around `hole`: above, below, left and right of it; some may be empty.
    pub(crate) fn without(self, hole: Self) -> [Self; 4] {
        let hole = self.intersection(hole);
        if hole.is_empty() {
            return [self, Self::default(), Self::default(), Self::default()];
        }
        // What has been cut to a rectangle of 16 bits fits 16 bits.
        let edge = |value: i32| i16::try_from(value).unwrap_or(i16::MAX);
        [
            Self::between(self.x, self.y, self.right(), i32::from(hole.y)),
            Self::between(self.x, edge(hole.bottom()), self.right(), self.bottom()),
            Self::between(self.x, hole.y, i32::from(hole.x), hole.bottom()),
            Self::between(edge(hole.right()), hole.y, self.right(), hole.bottom()),
        ]
    }

    fn between(x: i16, y: i16, right: i32, bottom: i32) -> Self {
        let length = |end: i32, start: i16| {
            u16::try_from((end - i32::from(start)).max(0)).unwrap_or(u16::MAX)
        };
        Self {
            x,
            y,
            width: length(right, x),
            height: length(bottom, y),
        }
    }
}

/// One screen of the desktop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// Its place in the list; the list is renumbered when monitors change.
    pub id: u16,
    /// As the system calls it: `HDMI-1`.
    pub name: String,
    /// On the desktop.
    pub rect: Rect,
    /// The one to begin with.
    pub primary: bool,
}

/// A window that could be shown alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowInfo {
    /// For [`Source::Window`].
    pub id: u32,
    /// Written by the program that owns it: not to be trusted, and possibly empty.
    pub title: String,
    /// On the desktop, without the window manager's frame.
    pub rect: Rect,
}

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Everything on one monitor, by [`Monitor::id`].
    Monitor(u16),
    /// One window by its id, whatever lies over it; pixels of other windows are never part of it.
    ///
    /// Its menus and dialogs are windows of their own and not shown.
    Window(u32),
}

/// How the cursor looks.
#[derive(Clone, PartialEq, Eq)]
pub struct CursorShape {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
    /// Column of the pixel that points.
    pub hot_x: u16,
    /// Row of the pixel that points.
    pub hot_y: u16,
    /// The display's name for this shape: a shape seen before has the number it had then.
    pub serial: u32,
    /// `width · height` pixels `0xAARRGGBB`, colours multiplied by alpha.
    pub argb: Vec<u32>,
}

impl fmt::Debug for CursorShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CursorShape({} × {}, serial {})",
            self.width, self.height, self.serial
        )
    }
}

/// What happened since the last [`Capture::wait`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Where pixels may have changed, as seen from the source's corner, cut to the source, at most 64.
    pub damage: Vec<Rect>,
    /// Where the cursor points now, as seen from the source's corner; outside the source when it is elsewhere.
    pub cursor_moved: Option<(i16, i16)>,
    /// How it looks now.
    pub cursor_shape: Option<CursorShape>,
    /// [`Capture::size`] is another, and all pixels are to be refreshed (`damage` says so, too).
    pub resized: bool,
    /// [`Capture::monitors`] is another.
    pub monitors_changed: bool,
}

impl Changes {
    /// Nothing happened: the deadline passed, or somebody used the waker.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A screen that can be shown. Owned by a thread of its own, which sleeps in [`wait`](Self::wait).
pub trait Capture: Send + fmt::Debug {
    /// `x11`, `synthetic`.
    fn kind(&self) -> &'static str;

    /// What there is to choose from; never empty.
    fn monitors(&self) -> &[Monitor];

    /// The windows a person would name.
    ///
    /// # Errors
    /// [`CaptureError::DisplayLost`].
    fn windows(&mut self) -> Result<Vec<WindowInfo>, CaptureError>;

    /// What is shown; at first the primary monitor.
    fn source(&self) -> Source;

    /// Shows something else. The next `wait` returns at once, `resized` and damaged all over.
    ///
    /// # Errors
    /// [`CaptureError::SourceGone`] if there is no such monitor or window; the old source stays.
    fn select(&mut self, source: Source) -> Result<(), CaptureError>;

    /// The source's width and height.
    fn size(&self) -> (u16, u16);

    /// The source's corner on the desktop: what to add to the helper's coordinates before they are injected.
    fn origin(&self) -> (i16, i16);

    /// Rectangles of the desktop that are shown as an even grey and whose damage wakes nobody: the bar, whose clock
    /// would otherwise make a frame a second of an idle screen.
    fn set_masks(&mut self, masks: &[Rect]);

    /// Sleeps until something changes, the deadline passes or the waker is used.
    ///
    /// # Errors
    /// [`CaptureError::DisplayLost`] and [`CaptureError::SourceGone`].
    fn wait(&mut self, deadline: Option<Instant>) -> Result<Changes, CaptureError>;

    /// Brings these rectangles of the picture up to date; what lies outside the source is cut off.
    ///
    /// # Errors
    /// [`CaptureError::DisplayLost`].
    fn refresh(&mut self, rects: &[Rect]) -> Result<(), CaptureError>;

    /// The picture.
    fn pixels(&self) -> Pixels<'_>;

    /// Ends a `wait` from any thread; the next one if none is under way.
    fn waker(&self) -> Waker;
}

/// Why the screen cannot be shown, or not any longer.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// No display is named.
    #[error("there is no display: DISPLAY is not set")]
    NoDisplay,
    /// A display is named, but nobody answers there, or not to us.
    #[error("the display {display} does not answer")]
    Unreachable {
        /// As it was named.
        display: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A system that we cannot capture yet.
    #[error("{0} cannot be shared yet")]
    Platform(Platform),
    /// The display lacks an extension without which it cannot be shown.
    #[error("the display lacks the extension {0}")]
    Lacks(&'static str),
    /// Pixels of another kind than 8 bits each of blue, green and red.
    #[error("the display has pixels of {bits} bits in a depth of {depth}; 32 in 24 can be shared")]
    Depth {
        /// Bits that mean something.
        depth: u8,
        /// Bits that a pixel takes.
        bits: u8,
    },
    /// It was there.
    #[error("the display is gone")]
    DisplayLost,
    /// That monitor or window is not there, or not any longer.
    #[error("what was to be shown is gone")]
    SourceGone,
    /// The display answered a request of ours with an error.
    #[error("the display refused {request} ({error})")]
    Refused {
        /// As X11 names it.
        request: &'static str,
        /// As X11 numbers it.
        error: u8,
    },
}

impl CaptureError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoDisplay => "run it in a graphical session, or say which: DISPLAY=:0",
            Self::Unreachable { .. } => "is DISPLAY right, and may this user open it (XAUTHORITY)?",
            Self::Platform(Platform::Wayland) => {
                "log in with an X11 session (“Xorg” on the login screen)"
            }
            Self::Platform(_) => "only Linux with X11 can be shared yet",
            Self::Lacks(_) => {
                "an X server of the last fifteen years has it; is it switched off in its configuration?"
            }
            Self::Depth { .. } => "set the display to 24 bits a pixel (“millions of colours”)",
            Self::DisplayLost => {
                "the graphical session has ended or its server has crashed; start again after logging in"
            }
            Self::SourceGone => "choose another monitor or window",
            Self::Refused { .. } => "please report this with the output of remora preflight",
        }
    }
}

/// Systems behind the same trait, one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Portal and PipeWire.
    Wayland,
    /// Desktop duplication.
    Windows,
    /// ScreenCaptureKit.
    MacOs,
    /// Whatever it is.
    Other,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wayland => "a Wayland session",
            Self::Windows => "Windows",
            Self::MacOs => "macOS",
            Self::Other => "this system",
        })
    }
}

/// Opens the display (by default `DISPLAY`) and shows its primary monitor.
///
/// # Errors
/// Why not; never a picture that is not the screen.
pub fn open(display: Option<&str>) -> Result<Box<dyn Capture>, CaptureError> {
    #[cfg(unix)]
    {
        Ok(Box::new(x11::X11Capture::open(display)?))
    }
    #[cfg(not(unix))]
    {
        let _ = display;
        Err(CaptureError::Platform(if cfg!(windows) {
            Platform::Windows
        } else {
            Platform::Other
        }))
    }
}

/// Opens the display (by default `DISPLAY`) and shows the monitor of that name, and nothing of any other.
///
/// # Errors
/// As [`open`], and [`CaptureError::SourceGone`] if there is no such monitor.
pub fn open_monitor(display: Option<&str>, name: &str) -> Result<Box<dyn Capture>, CaptureError> {
    Ok(Box::new(chosen::Chosen::new(open(display)?, name)?))
}

/// The monitors of the display (by default `DISPLAY`); never none. What they show is not captured.
///
/// # Errors
/// Why the display cannot be looked at.
pub fn monitors(display: Option<&str>) -> Result<Vec<Monitor>, CaptureError> {
    #[cfg(unix)]
    {
        super::x11::monitors(&super::x11::Display::open(display)?)
    }
    #[cfg(not(unix))]
    {
        open(display).map(|capture| capture.monitors().to_vec())
    }
}

/// Fewer rectangles that cover the same pixels and not many more.
pub(crate) fn coalesce(rects: impl IntoIterator<Item = Rect>) -> Vec<Rect> {
    let mut merged: Vec<Rect> = Vec::new();
    for rect in rects.into_iter().filter(|rect| !rect.is_empty()) {
        merge(&mut merged, rect, MERGE_PIXELS);
        if merged.len() > MAX_RECTS {
            shrink(&mut merged);
        }
    }
    merged
}

fn merge(merged: &mut Vec<Rect>, rect: Rect, allowance: u64) {
    let mut rect = rect;
    // A union may have grown into a neighbour: once more with it.
    while let Some(index) = merged
        .iter()
        .position(|other| waste(*other, rect) <= allowance)
    {
        rect = rect.union(merged.swap_remove(index));
    }
    merged.push(rect);
}

/// Half as many, at the lowest price of those tried.
fn shrink(merged: &mut Vec<Rect>) {
    let mut allowance = MERGE_PIXELS;
    while merged.len() > MAX_RECTS / 2 {
        allowance *= 4;
        for rect in std::mem::take(merged) {
            merge(merged, rect, allowance);
        }
    }
}

/// Pixels in the union that are in neither.
fn waste(a: Rect, b: Rect) -> u64 {
    a.union(b).area().saturating_sub(a.area() + b.area())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rect(x: i16, y: i16, width: u16, height: u16) -> Rect {
        Rect {
            x,
            y,
            width,
            height,
        }
    }

    #[test]
    fn rectangles_are_cut_joined_and_moved() {
        let (a, b) = (rect(-10, 0, 20, 20), rect(5, 5, 100, 5));
        assert_eq!(a.intersection(b), rect(5, 5, 5, 5));
        assert_eq!(a.union(b), rect(-10, 0, 115, 20));
        assert!(
            a.intersection(rect(10, 0, 1, 1)).is_empty(),
            "touching is not overlapping"
        );
        assert_eq!(Rect::default().union(b), b, "an empty one adds nothing");
        assert_eq!(a.relative_to((-10, 0)), rect(0, 0, 20, 20));
        assert_eq!(a.relative_to((-10, 0)).offset_by((-10, 0)), a);
        assert!(b.contains(104, 9) && !b.contains(105, 9) && !b.contains(104, 10));
    }

    #[test]
    fn a_hole_leaves_what_is_around_it() {
        let (outer, hole) = (rect(-5, 0, 20, 10), rect(0, 4, 100, 3));
        let left = outer.without(hole);
        let pixels: u64 = left.iter().map(|part| part.area()).sum();
        assert_eq!(pixels, 200 - 15 * 3);
        assert!(left.iter().all(|part| part.intersection(hole).is_empty()));
        assert_eq!(outer.without(rect(50, 50, 1, 1))[0], outer);
        assert!(
            hole.without(rect(-1, -1, 300, 300))
                .iter()
                .all(|part| part.is_empty())
        );
    }

    #[test]
    fn coalescing_loses_no_pixel_and_keeps_the_number_down() {
        let scattered: Vec<Rect> = (0..900i16)
            .map(|n| rect(n % 30 * 60, n / 30 * 40, 7, 9))
            .collect();
        let merged = coalesce(scattered.iter().copied());
        assert!(merged.len() <= MAX_RECTS, "{}", merged.len());
        for one in scattered {
            assert!(
                merged
                    .iter()
                    .any(|covering| covering.intersection(one) == one),
                "{one:?}"
            );
        }
    }

    #[test]
    fn far_apart_changes_stay_apart() {
        let (a, b) = (rect(0, 0, 10, 10), rect(1800, 1000, 10, 10));
        assert_eq!(coalesce([a, b]), [a, b]);
    }

    #[test]
    fn letters_of_a_line_become_one() {
        let line = (0..40i16).map(|n| rect(n * 8, 100, 8, 16));
        assert_eq!(coalesce(line), [rect(0, 100, 320, 16)]);
    }
}
