//! A lively small program for the demo's screen: a sky that moves, a clock, and a note that shows what is typed and
//! remembers it. A thread and a connection of its own, as any program has.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use x11rb::{
    CURRENT_TIME,
    connection::Connection as _,
    protocol::{
        Event,
        xproto::{
            AtomEnum, ConnectionExt as _, CreateGCAux, CreateWindowAux, EventMask, ImageFormat,
            InputFocus, KeyPressEvent, PropMode, WindowClass,
        },
    },
    wrapper::ConnectionExt as _,
};

use super::painter::{Painter, Piece};
use crate::share::{
    capture::{CaptureError, Rect},
    inject::x11::{follow_keymap, keymap::Keymap, read_keymap},
    x11::{Display, Wakeup, no_resources},
};

/// As films have it.
const TICK: Duration = Duration::from_millis(40);
/// Bytes of one `PutImage`: below the smallest limit that servers have.
const PUT_BYTES: usize = 200_000;
const BACKSPACE: u32 = 0xff08;

/// What the program has to say.
#[derive(Clone, Default)]
pub(super) struct Heard {
    /// All letters so far.
    pub(super) typed: String,
    /// Where the next letter will appear, on the desktop.
    pub(super) next_letter: Rect,
    /// Keys go to it.
    pub(super) has_keyboard: bool,
}

/// The running program; its window goes when this is dropped.
pub(super) struct Program {
    heard: watch::Receiver<Heard>,
    orders: Arc<Orders>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

/// What its thread is to do.
#[derive(Debug, Default)]
struct Orders {
    rest: AtomicBool,
    end: AtomicBool,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Program")
    }
}

impl Program {
    /// Opens a window there.
    pub(super) fn open(display: Option<&str>, place: Rect) -> Result<Self, CaptureError> {
        let display = Display::open(display)?;
        let wakeup = Wakeup::new().map_err(no_resources)?;
        let (waker, orders) = (wakeup.waker(), Arc::<Orders>::default());
        let (to_owner, heard) = watch::channel(Heard::default());
        let mut window = Window::new(display, wakeup, Arc::clone(&orders), to_owner, place)?;
        let run = move || {
            if let Err(error) = window.run() {
                tracing::debug!(%error, "the demo's program is gone");
            }
        };
        let thread = thread::Builder::new().name("demo program".to_owned());
        Ok(Self {
            heard,
            orders,
            waker,
            thread: Some(thread.spawn(run).map_err(no_resources)?),
        })
    }

    /// What it says, whenever that changes; closed once its window is gone.
    pub(super) fn heard(&self) -> watch::Receiver<Heard> {
        self.heard.clone()
    }

    /// Whether nothing moves by itself.
    pub(super) fn rest(&self, rests: bool) {
        self.orders.rest.store(rests, Ordering::Relaxed);
        self.waker.wake_by_ref();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.orders.end.store(true, Ordering::Relaxed);
        self.waker.wake_by_ref();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::debug!("the demo program's thread failed");
        }
    }
}

/// Its window, owned by its thread.
struct Window {
    display: Display,
    wakeup: Wakeup,
    orders: Arc<Orders>,
    heard: watch::Sender<Heard>,
    root: u32,
    window: u32,
    gc: u32,
    keymap: Keymap,
    stale: bool,
    painter: Painter,
    mapped: bool,
    next_tick: Instant,
}

impl Window {
    fn new(
        display: Display,
        wakeup: Wakeup,
        orders: Arc<Orders>,
        heard: watch::Sender<Heard>,
        place: Rect,
    ) -> Result<Self, CaptureError> {
        let screen = display.screen();
        let (root, depth, visual) = (screen.root, screen.root_depth, screen.root_visual);
        display.check_pixels(depth, visual)?;
        follow_keymap(&display)?;
        let connection = &display.connection;
        let (window, gc) = (connection.generate_id()?, connection.generate_id()?);
        let mask = EventMask::EXPOSURE
            | EventMask::KEY_PRESS
            | EventMask::BUTTON_PRESS
            | EventMask::FOCUS_CHANGE
            | EventMask::STRUCTURE_NOTIFY;
        let settings = CreateWindowAux::new().event_mask(mask);
        let (Rect { x, y, .. }, class) = (place, WindowClass::INPUT_OUTPUT);
        let (width, height) = (place.width, place.height);
        connection
            .create_window(
                depth, window, root, x, y, width, height, 0, class, visual, &settings,
            )?
            .check()?;
        connection.create_gc(gc, window, &CreateGCAux::new())?;
        for (name, value) in [
            (AtomEnum::WM_NAME, &b"Remora demo"[..]),
            (AtomEnum::WM_CLASS, b"demo\0Remora\0"),
        ] {
            connection.change_property8(
                PropMode::REPLACE,
                window,
                name,
                AtomEnum::STRING,
                value,
            )?;
        }
        connection.map_window(window)?;
        let keymap = read_keymap(&display)?;
        Ok(Self {
            display,
            wakeup,
            orders,
            heard,
            root,
            window,
            gc,
            keymap,
            stale: false,
            painter: Painter::new(width, height),
            mapped: false,
            next_tick: Instant::now(),
        })
    }

    fn run(&mut self) -> Result<(), CaptureError> {
        loop {
            while let Some(event) = self.display.connection.poll_for_event()? {
                self.handle(&event)?;
            }
            self.wakeup.take();
            if self.orders.end.load(Ordering::Relaxed) {
                return Ok(());
            }
            let rests = self.orders.rest.load(Ordering::Relaxed);
            if !rests && Instant::now() >= self.next_tick {
                self.tick()?;
            }
            // What was drawn may have brought events that no poll would tell of.
            if let Some(event) = self.display.connection.poll_for_event()? {
                self.handle(&event)?;
                continue;
            }
            let deadline = (!rests).then_some(self.next_tick);
            self.wakeup.sleep(&self.display.connection, deadline)?;
        }
    }

    fn tick(&mut self) -> Result<(), CaptureError> {
        self.next_tick = Instant::now() + TICK;
        if !self.mapped {
            return Ok(());
        }
        for piece in self.painter.tick() {
            self.put(&piece)?;
        }
        self.tell()
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "X11 has 150 events; these are those that were asked for"
    )]
    fn handle(&mut self, event: &Event) -> Result<(), CaptureError> {
        match event {
            Event::Expose(event) if event.count == 0 => {
                if !std::mem::replace(&mut self.mapped, true) {
                    self.take_keyboard(CURRENT_TIME)?;
                }
                self.put(&self.painter.whole())?;
                self.tell()?;
            }
            Event::KeyPress(event) => self.key(event)?,
            Event::ButtonPress(event) => self.take_keyboard(event.time)?,
            Event::FocusIn(_) => self.heard.send_modify(|heard| heard.has_keyboard = true),
            Event::FocusOut(_) => self.heard.send_modify(|heard| heard.has_keyboard = false),
            Event::ConfigureNotify(_) => self.tell()?,
            Event::MappingNotify(_) | Event::XkbMapNotify(_) | Event::XkbNewKeyboardNotify(_) => {
                self.stale = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// A window manager may have another opinion.
    fn take_keyboard(&self, time: u32) -> Result<(), CaptureError> {
        let set = self
            .display
            .connection
            .set_input_focus(InputFocus::PARENT, self.window, time)?;
        if let Err(error) = set.check() {
            tracing::debug!(%error, "keyboard");
        }
        Ok(())
    }

    fn key(&mut self, event: &KeyPressEvent) -> Result<(), CaptureError> {
        if std::mem::take(&mut self.stale) {
            self.keymap = read_keymap(&self.display)?;
        }
        // Modifiers in the low byte, the group above (XKB protocol, §11.1).
        let [modifiers, high] = u16::from(event.state).to_le_bytes();
        let heard = self.keymap.heard(event.detail, high >> 5 & 3, modifiers);
        let Some(key) = heard else {
            return Ok(());
        };
        let letter = xkeysym::Keysym::new(key.0).key_char();
        if key.0 == BACKSPACE {
            self.heard.send_modify(|heard| {
                heard.typed.pop();
            });
            self.put_all(Painter::erase)
        } else if let Some(letter) = letter.filter(|letter| !letter.is_control()) {
            self.heard.send_modify(|heard| heard.typed.push(letter));
            self.put_all(|painter| painter.write(letter))
        } else {
            Ok(())
        }
    }

    fn put_all(
        &mut self,
        paint: impl FnOnce(&mut Painter) -> Vec<Piece>,
    ) -> Result<(), CaptureError> {
        let pieces = paint(&mut self.painter);
        // Before it can be seen: whoever sees the letter asks where the next one will be.
        self.tell()?;
        pieces.iter().try_for_each(|piece| self.put(piece))
    }

    fn put(&self, piece: &Piece) -> Result<(), CaptureError> {
        let stride = usize::from(piece.canvas.width) * 4;
        let rows = (PUT_BYTES / stride).max(1);
        let depth = self.display.screen().root_depth;
        let parts = piece.canvas.bytes.chunks(rows * stride).enumerate();
        for (index, part) in parts {
            let below = i16::try_from(index * rows).unwrap_or(i16::MAX);
            let height = u16::try_from(part.len() / stride).unwrap_or(u16::MAX);
            self.display.connection.put_image(
                ImageFormat::Z_PIXMAP,
                self.window,
                self.gc,
                piece.canvas.width,
                height,
                piece.x,
                piece.y.saturating_add(below),
                0,
                depth,
                part,
            )?;
        }
        self.display.connection.flush()?;
        Ok(())
    }

    /// Where the next letter will appear: a window manager may have put the window anywhere.
    fn tell(&self) -> Result<(), CaptureError> {
        let corner = self
            .display
            .connection
            .translate_coordinates(self.window, self.root, 0, 0)?
            .reply()?;
        let next = self
            .painter
            .next_letter()
            .offset_by((corner.dst_x, corner.dst_y));
        self.heard.send_if_modified(|heard| {
            let moved = heard.next_letter != next;
            heard.next_letter = next;
            moved
        });
        Ok(())
    }
}
