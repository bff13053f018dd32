//! The sharer's bar: always in sight, always on top, says who is there and what they may do, and ends it.
//!
//! ```text
//!  ● Sam Okafor controls this computer · 02:14 · direct | Chat  Pause  Stop control  Leave
//! ```
//!
//! A window of its own, past the window manager (override-redirect), with a thread and a connection of its own: nothing
//! that the session does can hold it up, and it goes when the process goes.
//!
//! In the captured picture its rectangle is masked (`Capture::set_masks`): what
//! it says is no secret from the helper, but its clock would make a frame a second of an idle screen. Before the
//! helper's clicks it is shielded (`Gated::set_shield`): Resume and Leave are the
//! sharer's to press.

/// Drawing.
pub(crate) mod canvas;
/// What it looks like.
mod face;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use remora_proto::session::Mode;
use tokio::sync::{mpsc, watch};
use x11rb::{
    connection::Connection as _,
    protocol::{
        Event,
        shape::{self, ConnectionExt as _},
        xproto::{
            AtomEnum, ChangeWindowAttributesAux, ClipOrdering, ConfigureWindowAux,
            ConnectionExt as _, CreateGCAux, CreateWindowAux, EventMask, MapState, PropMode,
            Rectangle, StackMode, WindowClass,
        },
    },
    wrapper::ConnectionExt as _,
};

use self::{
    canvas::Fonts,
    face::{Face, Look, Press},
};
use super::{
    capture::{CaptureError, Rect},
    x11::{Display, Wakeup, monitors, no_resources, primary},
};

/// Presses that nobody has taken yet. A person makes a few a second; whoever is that far behind has stopped.
const QUEUE_EVENTS: usize = 32;
/// From the top of the monitor, so that it is no part of a maximised window's edge.
const TOP: i16 = 6;
/// Between two raises; it grows with each that another program answers in kind ([`RAISE_SLOWEST`]), so that two
/// programs that both want to be on top do not keep the machine busy.
const RAISE_GAP: Duration = Duration::from_millis(100);
const RAISE_SLOWEST: Duration = Duration::from_secs(5);
/// Of the corners, in pixels at 96 dots an inch.
const CORNER: f32 = 10.0;
/// Dots an inch that sizes are made for.
const DOTS: f32 = 96.0;
/// The arrow of the font `cursor`; its mask is the next one.
const ARROW: u16 = 68;
/// The resource database in units of 4 bytes, as much as is read.
const RESOURCE_WORDS: u32 = 16_384;

/// What the bar says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarText {
    /// The helper's.
    pub name: String,
    /// The same with the company, where nobody has seen the card.
    pub who: String,
    /// CONTROL, not VIEW.
    pub control: bool,
    /// The helper may run programs with an administrator's rights.
    pub administrator: bool,
    /// Nothing is shown at present.
    pub paused: bool,
    /// When the session began; the bar counts from there.
    pub since: Instant,
    /// `direct`, `relayed via fra-1`.
    pub path: String,
    /// What else may leave either computer, a sign for each direction: `clipboard ←→ · files →`; or nothing.
    pub shares: String,
    /// To be answered; the other buttons wait.
    pub question: Option<Question>,
}

/// What the sharer is asked on the bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Unattended: the helper is in by then, unless somebody says no.
    Countdown {
        /// Which the helper wants.
        mode: Mode,
        /// When it begins.
        until: Instant,
    },
    /// The helper wants an administrator's rights.
    Elevation,
    /// The helper wants to restart the computer.
    Restart,
    /// The helper wants to hand over to another one.
    Handover,
    /// The sharer wants to leave, and will be signed out.
    SignOut,
    /// Somebody wants an unattended computer back.
    Reclaim,
}

/// What the sharer pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarEvent {
    /// Open the chat.
    Chat,
    /// Show nothing until Resume.
    Pause,
    /// Show again.
    Resume,
    /// From CONTROL to VIEW.
    StopControl,
    /// End the session.
    Leave,
    /// The answer to the question: yes, or no.
    Answer(bool),
}

impl From<Press> for BarEvent {
    fn from(press: Press) -> Self {
        match press {
            Press::Chat => Self::Chat,
            Press::Pause => Self::Pause,
            Press::Resume => Self::Resume,
            Press::StopControl => Self::StopControl,
            Press::Leave => Self::Leave,
            Press::Answer(_, yes) => Self::Answer(yes),
        }
    }
}

/// The bar, from outside. It goes when this is dropped.
pub struct Bar {
    wish: Arc<Mutex<Wish>>,
    waker: Waker,
    events: mpsc::Receiver<BarEvent>,
    rect: watch::Receiver<Rect>,
    thread: Option<JoinHandle<()>>,
}

/// What the bar's thread is to do; the newest wins.
#[derive(Debug, Default)]
struct Wish {
    text: Option<BarText>,
    over: bool,
}

impl fmt::Debug for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bar({:?})", *self.rect.borrow())
    }
}

impl Bar {
    /// Connects to the display (by default `DISPLAY`); nothing is seen before the first [`show`](Self::show).
    ///
    /// # Errors
    /// As [`capture::open`](super::capture::open).
    pub fn open(display: Option<&str>) -> Result<Self, CaptureError> {
        let display = Display::open(display)?;
        let wakeup = Wakeup::new().map_err(no_resources)?;
        let (waker, wish) = (wakeup.waker(), Arc::<Mutex<Wish>>::default());
        let (to_owner, events) = mpsc::channel(QUEUE_EVENTS);
        let (place, rect) = watch::channel(Rect::default());
        let mut window = BarWindow::new(display, wakeup, Arc::clone(&wish), to_owner, place)?;
        let run = move || match window.run() {
            Ok(()) => {}
            // The owner learns of it by the end of the events.
            Err(error) => tracing::warn!(%error, "the bar is gone"),
        };
        let thread = thread::Builder::new()
            .name("bar".to_owned())
            .spawn(run)
            .map_err(no_resources)?;
        Ok(Self {
            wish,
            waker,
            events,
            rect,
            thread: Some(thread),
        })
    }

    /// Says this from now on.
    pub fn show(&self, text: BarText) {
        lock(&self.wish).text = Some(text);
        self.waker.wake_by_ref();
    }

    /// What the sharer presses; `None` once the bar is gone, which ends the session: nobody is watched unawares.
    pub fn events(&mut self) -> &mut mpsc::Receiver<BarEvent> {
        &mut self.events
    }

    /// Where it is on the desktop, whenever that changes; empty until it is first shown.
    pub fn rect(&self) -> watch::Receiver<Rect> {
        self.rect.clone()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        lock(&self.wish).over = true;
        self.waker.wake_by_ref();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::debug!("the bar's thread panicked");
        }
    }
}

fn lock(wish: &Mutex<Wish>) -> MutexGuard<'_, Wish> {
    wish.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bar's window, owned by its thread.
struct BarWindow {
    display: Display,
    wakeup: Wakeup,
    wish: Arc<Mutex<Wish>>,
    events: mpsc::Sender<BarEvent>,
    place: watch::Sender<Rect>,
    root: u32,
    window: u32,
    gc: u32,
    fonts: Fonts,
    look: Look,
    text: Option<BarText>,
    face: Option<Face>,
    /// Set once the bar has been placed; kept over changes of its size.
    rect: Rect,
    hovered: Option<Press>,
    pressed: Option<Press>,
    /// Where in the bar it was taken hold of.
    grip: Option<(i16, i16)>,
    /// The sharer has put it somewhere: there it stays.
    dragged: bool,
    raise: Raise,
}

/// When to go on top again.
struct Raise {
    /// Something may lie over the bar.
    doubtful: bool,
    last: Instant,
    gap: Duration,
}

impl BarWindow {
    fn new(
        display: Display,
        wakeup: Wakeup,
        wish: Arc<Mutex<Wish>>,
        events: mpsc::Sender<BarEvent>,
        place: watch::Sender<Rect>,
    ) -> Result<Self, CaptureError> {
        let screen = display.screen();
        let (root, depth, visual) = (screen.root, screen.root_depth, screen.root_visual);
        display.check_pixels(depth, visual)?;
        let (window, gc) = (
            display.connection.generate_id()?,
            display.connection.generate_id()?,
        );
        let mask = EventMask::EXPOSURE
            | EventMask::BUTTON_PRESS
            | EventMask::BUTTON_RELEASE
            | EventMask::POINTER_MOTION
            | EventMask::LEAVE_WINDOW
            | EventMask::VISIBILITY_CHANGE;
        let cursor = arrow(&display)?;
        let settings = CreateWindowAux::new()
            .override_redirect(1)
            .event_mask(mask)
            .cursor(cursor);
        let connection = &display.connection;
        let class = WindowClass::INPUT_OUTPUT;
        connection
            .create_window(depth, window, root, 0, 0, 1, 1, 0, class, visual, &settings)?
            .check()?;
        connection.create_gc(gc, window, &CreateGCAux::new())?;
        connection.change_property8(
            PropMode::REPLACE,
            window,
            AtomEnum::WM_NAME,
            AtomEnum::STRING,
            b"Remora",
        )?;
        connection.change_property8(
            PropMode::REPLACE,
            window,
            AtomEnum::WM_CLASS,
            AtomEnum::STRING,
            b"bar\0Remora\0",
        )?;
        let others = EventMask::SUBSTRUCTURE_NOTIFY | EventMask::STRUCTURE_NOTIFY;
        connection
            .change_window_attributes(root, &ChangeWindowAttributesAux::new().event_mask(others))?
            .check()?;
        let monitor = primary(&monitors(&display)?).rect;
        let look = Look {
            scale: scale(&display)?,
            most: monitor.width,
        };
        Ok(Self {
            display,
            wakeup,
            wish,
            events,
            place,
            root,
            window,
            gc,
            fonts: Fonts::new(),
            look,
            text: None,
            face: None,
            rect: Rect::default(),
            hovered: None,
            pressed: None,
            grip: None,
            dragged: false,
            raise: Raise {
                doubtful: false,
                last: Instant::now(),
                gap: RAISE_GAP,
            },
        })
    }

    fn run(&mut self) -> Result<(), CaptureError> {
        loop {
            while let Some(event) = self.display.connection.poll_for_event()? {
                self.handle(&event)?;
            }
            self.wakeup.take();
            let (text, over) = {
                let mut wish = lock(&self.wish);
                (wish.text.take(), wish.over)
            };
            if over {
                return Ok(());
            }
            if let Some(text) = text {
                self.text = Some(text);
            }
            self.draw()?;
            self.stay_on_top()?;
            if let Some(event) = self.display.connection.poll_for_event()? {
                self.handle(&event)?;
                continue;
            }
            self.wakeup
                .sleep(&self.display.connection, self.next_look())?;
        }
    }

    /// The clock's next second, or the time to raise.
    fn next_look(&self) -> Option<Instant> {
        let second = self.text.as_ref().map(|text| {
            let elapsed = text.since.elapsed();
            Instant::now() + Duration::from_secs(1)
                - Duration::from_nanos(u64::from(elapsed.subsec_nanos()))
        });
        let raise = self
            .raise
            .doubtful
            .then(|| self.raise.last + self.raise.gap);
        second.into_iter().chain(raise).min()
    }

    // ---- what the sharer does ------------------------------------------------------------

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "X11 has 150 events; these are those that were asked for"
    )]
    fn handle(&mut self, event: &Event) -> Result<(), CaptureError> {
        match event {
            Event::Expose(event) if event.count == 0 => self.put()?,
            Event::ButtonPress(event) if event.detail == 1 => {
                self.press(event.event_x, event.event_y)
            }
            Event::ButtonRelease(event) if event.detail == 1 => {
                self.release(event.event_x, event.event_y)
            }
            Event::MotionNotify(event) => match self.grip {
                Some((x, y)) => self.drag_to(
                    event.root_x.saturating_sub(x),
                    event.root_y.saturating_sub(y),
                )?,
                None => self.hovered = self.button_at(event.event_x, event.event_y),
            },
            Event::LeaveNotify(_) => self.hovered = None,
            Event::VisibilityNotify(_) => self.raise.doubtful = true,
            Event::ConfigureNotify(event) if event.window == self.root => self.desktop_changed()?,
            // Under a compositor windows never become invisible: what the others do has to be watched.
            Event::ConfigureNotify(event) => self.raise.doubtful |= event.window != self.window,
            Event::MapNotify(event) => self.raise.doubtful |= event.window != self.window,
            Event::ReparentNotify(_) | Event::CirculateNotify(_) => self.raise.doubtful = true,
            _ => {}
        }
        Ok(())
    }

    /// The bar has to be seen on the new one, too.
    fn desktop_changed(&mut self) -> Result<(), CaptureError> {
        self.look.most = primary(&monitors(&self.display)?).rect.width;
        let (width, height) = (self.rect.width, self.rect.height);
        if self.rect.is_empty() {
            Ok(())
        } else {
            self.resize(width, height)
        }
    }

    fn button_at(&self, x: i16, y: i16) -> Option<Press> {
        self.face.as_ref().and_then(|face| face.button_at(x, y))
    }

    fn press(&mut self, x: i16, y: i16) {
        self.pressed = self.button_at(x, y);
        self.grip = self.pressed.is_none().then_some((x, y));
    }

    /// A press counts if it ends where it began.
    fn release(&mut self, x: i16, y: i16) {
        self.grip = None;
        let pressed = self.pressed.take();
        if let Some(press) = pressed.filter(|_| pressed == self.button_at(x, y))
            && self.events.try_send(press.into()).is_err()
        {
            tracing::warn!(?press, "nobody takes what the sharer presses");
        }
    }

    fn drag_to(&mut self, x: i16, y: i16) -> Result<(), CaptureError> {
        self.dragged = true;
        self.move_to(x, y)
    }

    /// Never beyond the desktop's edge.
    fn move_to(&mut self, x: i16, y: i16) -> Result<(), CaptureError> {
        let desktop = self.display.connection.get_geometry(self.root)?.reply()?;
        let most =
            |desktop: u16, own: u16| i16::try_from(desktop.saturating_sub(own)).unwrap_or(i16::MAX);
        let x = x.clamp(0, most(desktop.width, self.rect.width));
        let y = y.clamp(0, most(desktop.height, self.rect.height));
        self.rect = Rect { x, y, ..self.rect };
        let place = ConfigureWindowAux::new().x(i32::from(x)).y(i32::from(y));
        self.display
            .connection
            .configure_window(self.window, &place)?;
        self.display.connection.flush()?;
        self.place.send_replace(self.rect);
        Ok(())
    }

    // ---- what the sharer sees ------------------------------------------------------------

    fn draw(&mut self) -> Result<(), CaptureError> {
        let Some(text) = &self.text else {
            return Ok(());
        };
        let face = face::draw(
            text,
            text.since.elapsed(),
            self.hovered,
            self.look,
            &mut self.fonts,
        );
        let same = self
            .face
            .as_ref()
            .is_some_and(|old| old.canvas.bytes == face.canvas.bytes);
        let (width, height) = (face.canvas.width, face.canvas.height);
        self.face = Some(face);
        if same {
            return Ok(());
        }
        if (self.rect.width, self.rect.height) != (width, height) {
            self.resize(width, height)?;
        }
        self.put()
    }

    fn resize(&mut self, width: u16, height: u16) -> Result<(), CaptureError> {
        let first = self.rect.is_empty();
        let rect = if self.dragged {
            Rect {
                width,
                height,
                ..self.rect
            }
        } else {
            let monitor = primary(&monitors(&self.display)?).rect;
            let left = monitor.width.saturating_sub(width) / 2;
            Rect {
                x: monitor.x.saturating_add_unsigned(left),
                y: monitor.y.saturating_add(TOP),
                width,
                height,
            }
        };
        self.rect = rect;
        let size = ConfigureWindowAux::new()
            .width(u32::from(width))
            .height(u32::from(height));
        self.display
            .connection
            .configure_window(self.window, &size)?;
        self.round_corners()?;
        self.move_to(rect.x, rect.y)?;
        if first {
            self.display.connection.map_window(self.window)?;
            self.raise()?;
        }
        Ok(())
    }

    /// A row of the shape for each row of the corners.
    fn round_corners(&self) -> Result<(), CaptureError> {
        if !self.display.has(shape::X11_EXTENSION_NAME)? {
            return Ok(());
        }
        let (width, height) = (self.rect.width, self.rect.height);
        let radius = CORNER * self.look.scale;
        let inset = |row: u16| {
            let edge = f32::from(row.min(height - 1 - row)) + 0.5;
            let up = (radius - edge).max(0.0);
            (0..u16::MAX)
                .find(|column| (radius - f32::from(*column) - 0.5).max(0.0).hypot(up) <= radius)
                .unwrap_or(0)
        };
        let rows = (0..height).map(|row| {
            let inset = inset(row);
            let signed = |value: u16| i16::try_from(value).unwrap_or(i16::MAX);
            Rectangle {
                x: signed(inset),
                y: signed(row),
                width: width.saturating_sub(2 * inset),
                height: 1,
            }
        });
        let rows: Vec<Rectangle> = rows.collect();
        let (set, bounding, sorted) =
            (shape::SO::SET, shape::SK::BOUNDING, ClipOrdering::YX_BANDED);
        self.display.connection.shape_rectangles(
            set,
            bounding,
            sorted,
            self.window,
            0,
            0,
            &rows,
        )?;
        Ok(())
    }

    fn put(&self) -> Result<(), CaptureError> {
        let Some(face) = &self.face else {
            return Ok(());
        };
        let canvas = &face.canvas;
        self.display
            .put_pixels(self.window, self.gc, (0, 0), canvas.width, &canvas.bytes)
    }

    // ---- on top --------------------------------------------------------------------------

    fn stay_on_top(&mut self) -> Result<(), CaptureError> {
        if !self.raise.doubtful
            || self.rect.is_empty()
            || self.raise.last.elapsed() < self.raise.gap
        {
            return Ok(());
        }
        self.raise.doubtful = false;
        let calm = self.raise.last.elapsed() > 2 * RAISE_SLOWEST;
        if self.is_covered()? {
            self.raise.gap = if calm {
                RAISE_GAP
            } else {
                (self.raise.gap * 2).min(RAISE_SLOWEST)
            };
            self.raise()?;
        } else if calm {
            self.raise.gap = RAISE_GAP;
        }
        Ok(())
    }

    fn raise(&mut self) -> Result<(), CaptureError> {
        let top = ConfigureWindowAux::new().stack_mode(StackMode::ABOVE);
        self.display
            .connection
            .configure_window(self.window, &top)?;
        self.display.connection.flush()?;
        self.raise.last = Instant::now();
        Ok(())
    }

    /// Whether a window above lies over the bar.
    fn is_covered(&self) -> Result<bool, CaptureError> {
        let windows = self
            .display
            .connection
            .query_tree(self.root)?
            .reply()?
            .children;
        let above = windows
            .into_iter()
            .rev()
            .take_while(|window| *window != self.window);
        for window in above {
            let attributes = self.display.connection.get_window_attributes(window)?;
            let geometry = self.display.connection.get_geometry(window)?;
            // One that is gone by now covers nothing.
            let (Ok(attributes), Ok(place)) = (attributes.reply(), geometry.reply()) else {
                continue;
            };
            let border = 2 * place.border_width;
            let rect = Rect {
                x: place.x,
                y: place.y,
                width: place.width + border,
                height: place.height + border,
            };
            let seen = attributes.map_state == MapState::VIEWABLE
                && attributes.class == WindowClass::INPUT_OUTPUT;
            if seen && !rect.intersection(self.rect).is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The bar's cursor: the root window's may be none at all.
fn arrow(display: &Display) -> Result<u32, CaptureError> {
    let (font, cursor) = (
        display.connection.generate_id()?,
        display.connection.generate_id()?,
    );
    let connection = &display.connection;
    connection.open_font(font, b"cursor")?;
    let white = u16::MAX;
    connection.create_glyph_cursor(
        cursor,
        font,
        font,
        ARROW,
        ARROW + 1,
        0,
        0,
        0,
        white,
        white,
        white,
    )?;
    connection.close_font(font)?;
    Ok(cursor)
}

/// As much larger as the desktop says letters are (`Xft.dpi`).
fn scale(display: &Display) -> Result<f32, CaptureError> {
    let root = display.connection.setup().roots[0].root;
    let (name, kind) = (AtomEnum::RESOURCE_MANAGER, AtomEnum::STRING);
    let resources = display
        .connection
        .get_property(false, root, name, kind, 0, RESOURCE_WORDS)?
        .reply()?
        .value;
    let resources = String::from_utf8_lossy(&resources).into_owned();
    let dots = resources
        .lines()
        .find_map(|line| line.strip_prefix("Xft.dpi:")?.trim().parse::<f32>().ok());
    Ok(dots.map_or(1.0, |dots| (dots / DOTS).clamp(1.0, 4.0)))
}
