//! The shield of an X11 display: its outputs are dark (RANDR gamma), and what is plugged in moves and types nothing (XInput grabs).
//!
//! A capture reads pixels before gamma is applied to them, so that the helper sees what nobody in the room does; and the helper's own
//! input comes from the server's XTEST devices, which are left alone.
//!
//! ```text
//!  raise ─▶ grab, darken ─▶ dark ──touched──▶ freeze: a notice over everything, lit ──thaw──▶ dark ─▶ lower: as it was
//! ```
//!
//! The grabs end with this process, however it ends; the gamma is its to give back, and that of `light`'s keeper if it is killed before
//! it can. Ctrl-Alt-F1 is the server's own and still works.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use x11rb::{
    CURRENT_TIME,
    connection::Connection as _,
    protocol::{
        Event,
        randr::{self, ConnectionExt as _},
        xinput::{self, ConnectionExt as _, DeviceType, GrabOwner, XIEventMask},
        xproto::{
            ConfigureWindowAux, ConnectionExt as _, CreateGCAux, CreateWindowAux, EventMask,
            GrabMode, GrabStatus, StackMode, WindowClass,
        },
    },
};

use super::{
    super::{Shield, Undone},
    light::{Keeper, Levels, is_dark},
};
use crate::share::{
    bar::canvas::{Canvas, Colour, Fonts, presentable},
    capture::CaptureError,
    x11::{Display, Wakeup, monitors, no_resources, primary},
};

/// How often one looks whether another program has lit the screen, or a device was plugged in and is still free.
const LOOK: Duration = Duration::from_millis(500);
/// Of the notice, in pixels.
const LETTERS: f32 = 26.0;
const LINE: f32 = 44.0;
/// Longest line of it.
const MAX_LINE: usize = 120;
const GROUND: Colour = Colour(0, 0, 0);
const TEXT: Colour = Colour(0xff, 0xff, 0xff);

/// What can hide the screen of one display.
pub(super) struct X11Shield {
    display: Option<String>,
    raised: Option<Raised>,
}

struct Raised {
    wish: Arc<Mutex<Wish>>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

/// What the shield's thread is to do; the newest wins.
#[derive(Debug, Default)]
struct Wish {
    notice: Option<String>,
    over: bool,
}

impl fmt::Debug for X11Shield {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X11Shield")
            .field("raised", &self.raised.is_some())
            .finish_non_exhaustive()
    }
}

impl X11Shield {
    /// `None`: this display cannot be hidden, or there is none.
    pub(super) fn find(name: Option<String>) -> Option<Self> {
        let display = Display::open(name.as_deref()).ok()?;
        match can_hide(&display) {
            Ok(true) => Some(Self {
                display: name,
                raised: None,
            }),
            Ok(false) => None,
            Err(error) => {
                tracing::debug!(%error, "no shield");
                None
            }
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Wish)) {
        if let Some(raised) = &self.raised {
            change(&mut lock(&raised.wish));
            raised.waker.wake_by_ref();
        }
    }
}

impl Shield for X11Shield {
    fn raise(&mut self, touched: mpsc::Sender<()>) -> Result<(), Undone> {
        self.lower();
        let undone = |error: CaptureError| Undone(format!("the screen cannot be hidden: {error}"));
        let display = Display::open(self.display.as_deref()).map_err(undone)?;
        let keeper = Keeper::start(self.display.as_deref());
        let keeper = keeper.map_err(|error| undone(no_resources(error)))?;
        let (guard, raised) = Guard::new(display, keeper, touched).map_err(undone)?;
        let thread = thread::Builder::new().name("shield".to_owned());
        let thread = thread.spawn(move || guard.run());
        let thread = thread.map_err(|error| undone(no_resources(error)))?;
        self.raised = Some(Raised {
            thread: Some(thread),
            ..raised
        });
        Ok(())
    }

    fn freeze(&mut self, notice: &str) {
        self.tell(|wish| wish.notice = Some(notice.to_owned()));
    }

    fn thaw(&mut self) {
        self.tell(|wish| wish.notice = None);
    }

    fn lower(&mut self) {
        self.tell(|wish| wish.over = true);
        let thread = self.raised.take().and_then(|raised| raised.thread);
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the shield's thread failed");
        }
    }
}

impl Drop for X11Shield {
    fn drop(&mut self) {
        self.lower();
    }
}

fn lock(wish: &Mutex<Wish>) -> MutexGuard<'_, Wish> {
    wish.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every output that shows something can be darkened, and devices can be told apart.
fn can_hide(display: &Display) -> Result<bool, CaptureError> {
    if !display.has(randr::X11_EXTENSION_NAME)? || !display.has(xinput::X11_EXTENSION_NAME)? {
        return Ok(false);
    }
    let connection = &display.connection;
    let version = connection.xinput_xi_query_version(2, 2)?.reply()?;
    if (version.major_version, version.minor_version) < (2, 0) {
        return Ok(false);
    }
    let crtcs = crtcs(display)?;
    for crtc in &crtcs {
        if connection.randr_get_crtc_gamma_size(*crtc)?.reply()?.size < 2 {
            return Ok(false);
        }
    }
    Ok(!crtcs.is_empty())
}

fn crtcs(display: &Display) -> Result<Vec<u32>, CaptureError> {
    let root = display.screen().root;
    let connection = &display.connection;
    connection.randr_query_version(1, 3)?.reply()?;
    let resources = connection.randr_get_screen_resources_current(root)?;
    Ok(resources.reply()?.crtcs)
}

/// Red, green, blue.
type Ramps = [Vec<u16>; 3];

/// As a screen is that nobody has adjusted.
fn even(size: usize) -> Ramps {
    let most = size.saturating_sub(1).max(1);
    let level =
        |step: usize| u16::try_from(step * usize::from(u16::MAX) / most).unwrap_or(u16::MAX);
    let ramp: Vec<u16> = (0..size).map(level).collect();
    [ramp.clone(), ramp.clone(), ramp]
}

/// The raised shield; gives everything back when dropped.
struct Guard {
    display: Display,
    wakeup: Wakeup,
    wish: Arc<Mutex<Wish>>,
    touched: mpsc::Sender<()>,
    xtest: u32,
    grabbed: BTreeSet<u16>,
    /// As they were.
    ramps: Levels,
    notice: Option<Notice>,
    /// Ends after this has given everything back.
    keeper: Keeper,
}

struct Notice {
    text: String,
    window: u32,
}

impl Guard {
    fn new(
        display: Display,
        keeper: Keeper,
        touched: mpsc::Sender<()>,
    ) -> Result<(Self, Raised), CaptureError> {
        let connection = &display.connection;
        connection.xinput_xi_query_version(2, 2)?.reply()?;
        let xtest = connection
            .intern_atom(false, b"XTEST Device")?
            .reply()?
            .atom;
        let hierarchy = [xinput::EventMask {
            deviceid: xinput::Device::ALL.into(),
            mask: vec![XIEventMask::HIERARCHY],
        }];
        connection.xinput_xi_select_events(display.screen().root, &hierarchy)?;
        let wakeup = Wakeup::new().map_err(no_resources)?;
        let wish = Arc::<Mutex<Wish>>::default();
        let raised = Raised {
            wish: Arc::clone(&wish),
            waker: wakeup.waker(),
            thread: None,
        };
        let mut guard = Self {
            display,
            wakeup,
            wish,
            touched,
            xtest,
            grabbed: BTreeSet::new(),
            ramps: Levels::new(),
            notice: None,
            keeper,
        };
        if !guard.grab()? {
            return Err(CaptureError::Refused {
                request: "grabbing a device that another program holds",
                error: 0,
            });
        }
        guard.darken()?;
        guard.display.connection.flush()?;
        Ok((guard, raised))
    }

    fn run(mut self) {
        if let Err(error) = self.watch() {
            tracing::error!(%error, "the shield is gone");
        }
    }

    fn watch(&mut self) -> Result<(), CaptureError> {
        loop {
            self.wakeup.take();
            let (notice, over) = {
                let wish = lock(&self.wish);
                (wish.notice.clone(), wish.over)
            };
            if over {
                return Ok(());
            }
            self.grab()?;
            self.show(notice)?;
            while let Some(event) = self.display.connection.poll_for_event()? {
                self.handle(&event);
            }
            let look = Instant::now() + LOOK;
            self.wakeup.sleep(&self.display.connection, Some(look))?;
        }
    }

    fn handle(&self, event: &Event) {
        let is_touch = matches!(
            event,
            Event::XinputKeyPress(_)
                | Event::XinputButtonPress(_)
                | Event::XinputMotion(_)
                | Event::XinputTouchBegin(_)
        );
        if is_touch && self.touched.try_send(()).is_err() {
            tracing::trace!("it is known that somebody is there");
        }
    }

    // ---- devices -------------------------------------------------------------------------

    /// Takes every device that is there and has not been taken, but the helper's; whether all could be.
    fn grab(&mut self) -> Result<bool, CaptureError> {
        let connection = &self.display.connection;
        let devices = connection
            .xinput_xi_query_device(u16::from(xinput::Device::ALL))?
            .reply()?
            .infos;
        self.grabbed
            .retain(|id| devices.iter().any(|device| device.deviceid == *id));
        let mut all = true;
        for device in devices {
            let is_real = matches!(
                device.type_,
                DeviceType::SLAVE_POINTER | DeviceType::SLAVE_KEYBOARD | DeviceType::FLOATING_SLAVE
            );
            if !is_real || self.grabbed.contains(&device.deviceid) {
                continue;
            }
            match self.grab_one(device.deviceid) {
                Ok(true) => {
                    self.grabbed.insert(device.deviceid);
                }
                Ok(false) => {}
                // Unplugged just now, or another program's.
                Err(CaptureError::Refused { .. }) => all = false,
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Whether it is one that somebody can touch.
    fn grab_one(&self, device: u16) -> Result<bool, CaptureError> {
        let connection = &self.display.connection;
        let properties = connection.xinput_xi_list_properties(device)?.reply()?;
        if properties.properties.contains(&self.xtest) {
            return Ok(false);
        }
        let mask = XIEventMask::KEY_PRESS
            | XIEventMask::BUTTON_PRESS
            | XIEventMask::MOTION
            | XIEventMask::TOUCH_BEGIN
            | XIEventMask::TOUCH_UPDATE
            | XIEventMask::TOUCH_END;
        let status = connection
            .xinput_xi_grab_device(
                self.display.screen().root,
                CURRENT_TIME,
                x11rb::NONE,
                device,
                GrabMode::ASYNC,
                GrabMode::ASYNC,
                GrabOwner::NO_OWNER,
                &[u32::from(mask)],
            )?
            .reply()?
            .status;
        match status == GrabStatus::SUCCESS {
            true => Ok(true),
            false => Err(CaptureError::Refused {
                request: "grabbing a device",
                error: 0,
            }),
        }
    }

    // ---- light ---------------------------------------------------------------------------

    /// Whatever was lit, by whomever, is dark.
    fn darken(&mut self) -> Result<(), CaptureError> {
        let connection = &self.display.connection;
        let known = self.ramps.len();
        let mut lit = Vec::new();
        for crtc in crtcs(&self.display)? {
            let now = connection.randr_get_crtc_gamma(crtc)?.reply()?;
            let size = now.red.len();
            let ramps = [now.red, now.green, now.blue];
            let is_dark = is_dark(&ramps);
            // Dark from the beginning: another's, who was killed with its keeper.
            let before = || if is_dark { even(size) } else { ramps };
            self.ramps.entry(crtc).or_insert_with(before);
            if !is_dark {
                lit.push((crtc, vec![0; size]));
            }
        }
        if self.ramps.len() > known {
            self.keeper.keep(&self.ramps).map_err(no_resources)?;
        }
        for (crtc, dark) in lit {
            connection.randr_set_crtc_gamma(crtc, &dark, &dark, &dark)?;
        }
        Ok(())
    }

    fn light(&self) -> Result<(), CaptureError> {
        for (crtc, [red, green, blue]) in &self.ramps {
            self.display
                .connection
                .randr_set_crtc_gamma(*crtc, red, green, blue)?;
        }
        self.display.connection.flush()?;
        Ok(())
    }

    // ---- the notice ----------------------------------------------------------------------

    fn show(&mut self, text: Option<String>) -> Result<(), CaptureError> {
        match text {
            Some(text) => {
                let is_new = self.notice.as_ref().is_none_or(|shown| shown.text != text);
                if is_new {
                    self.hide()?;
                    let window = self.cover(&text)?;
                    self.notice = Some(Notice { text, window });
                    // Nothing is below it by now that could be seen.
                    self.light()?;
                }
                self.on_top()
            }
            None => {
                self.darken()?;
                self.hide()
            }
        }
    }

    fn hide(&mut self) -> Result<(), CaptureError> {
        if let Some(notice) = self.notice.take() {
            self.darken()?;
            self.display.connection.destroy_window(notice.window)?;
        }
        self.display.connection.flush()?;
        Ok(())
    }

    fn on_top(&self) -> Result<(), CaptureError> {
        if let Some(notice) = &self.notice {
            let top = ConfigureWindowAux::new().stack_mode(StackMode::ABOVE);
            self.display
                .connection
                .configure_window(notice.window, &top)?;
        }
        self.display.connection.flush()?;
        Ok(())
    }

    /// A window over the whole desktop that says it on every monitor's account, on the first.
    fn cover(&self, text: &str) -> Result<u32, CaptureError> {
        let connection = &self.display.connection;
        let screen = self.display.screen();
        let desktop = connection.get_geometry(screen.root)?.reply()?;
        let window = connection.generate_id()?;
        let settings = CreateWindowAux::new()
            .override_redirect(1)
            .background_pixel(screen.black_pixel)
            .event_mask(EventMask::NO_EVENT);
        connection
            .create_window(
                screen.root_depth,
                window,
                screen.root,
                0,
                0,
                desktop.width,
                desktop.height,
                0,
                WindowClass::INPUT_OUTPUT,
                screen.root_visual,
                &settings,
            )?
            .check()?;
        connection.map_window(window)?;
        let top = ConfigureWindowAux::new().stack_mode(StackMode::ABOVE);
        connection.configure_window(window, &top)?;
        let monitor = primary(&monitors(&self.display)?).rect;
        let canvas = draw(text, monitor.width);
        let down = monitor.height.saturating_sub(canvas.height) / 2;
        let at = (monitor.x, monitor.y.saturating_add_unsigned(down));
        let gc = connection.generate_id()?;
        connection.create_gc(gc, window, &CreateGCAux::new())?;
        self.display
            .put_pixels(window, gc, at, canvas.width, &canvas.bytes)?;
        connection.free_gc(gc)?;
        // It is on the screen before anything is lit.
        connection.get_input_focus()?.reply()?;
        Ok(window)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let lit = self.light().and_then(|()| {
            if let Some(notice) = &self.notice {
                self.display.connection.destroy_window(notice.window)?;
            }
            for device in &self.grabbed {
                let connection = &self.display.connection;
                connection.xinput_xi_ungrab_device(CURRENT_TIME, *device)?;
            }
            // Done, not only said.
            self.display.connection.get_input_focus()?.reply()?;
            Ok(())
        });
        if let Err(error) = lit {
            tracing::error!(%error, "the screen may still be dark");
        }
    }
}

/// Lines in the middle.
fn draw(text: &str, width: u16) -> Canvas {
    let lines: Vec<String> = text
        .lines()
        .map(|line| presentable(line, MAX_LINE))
        .collect();
    let mut fonts = Fonts::new();
    let widest = lines
        .iter()
        .map(|line| fonts.measure(LETTERS, line))
        .fold(1.0, f32::max);
    // On a narrow screen smaller letters, not half of them.
    let scale = (f32::from(width) / (widest + LINE)).min(1.0);
    let rows = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let line_height = LINE * scale;
    let mut canvas = Canvas::new(width, height(f32::from(rows) * line_height), GROUND);
    for (row, line) in (0u16..).zip(&lines) {
        let long = fonts.measure(LETTERS * scale, line);
        let at = (
            (f32::from(width) - long) / 2.0,
            (f32::from(row) + 0.7) * line_height,
        );
        canvas.text(&mut fonts, at, LETTERS * scale, line, TEXT);
    }
    canvas
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float that becomes an integer saturates; no notice is higher than a screen"
)]
fn height(value: f32) -> u16 {
    value.ceil().max(1.0) as u16
}
