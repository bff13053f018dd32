//! A real X server of a test's own, and windows on it to draw in, to click and to type at.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails in a helper has failed the test"
)]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use remora::share::capture::{Capture, CaptureError, Changes, Rect};
use x11rb::{
    connection::Connection as _,
    protocol::{
        Event,
        randr::ConnectionExt as _,
        xinput::{self, ConnectionExt as _},
        xproto::{
            ChangeGCAux, ConfigureWindowAux, ConnectionExt as _, CreateGCAux, CreateWindowAux,
            EventMask, ImageFormat, MapState, Rectangle, WindowClass,
        },
        xtest::ConnectionExt as _,
    },
    rust_connection::RustConnection,
};

/// Longer than anything on the display takes, even on a machine with other work.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Of the letter a, on every layout that a server begins with.
const LOCAL_KEY: u8 = 38;
/// Nothing more is coming when nothing came for so long.
const CALM: Duration = Duration::from_millis(150);

/// Xvfb, on a number that was free; ends with the test.
#[derive(Debug)]
pub(crate) struct Xvfb {
    child: Child,
    number: u32,
}

impl Xvfb {
    /// With one screen of this size and 24 bits.
    pub(crate) fn start(width: u16, height: u16) -> Self {
        Self::start_with(width, height, &["-nolisten", "tcp"])
    }

    /// With further arguments.
    pub(crate) fn start_with(width: u16, height: u16, args: &[&str]) -> Self {
        let screen = format!("{width}x{height}x24");
        // Written once the server listens: no need to try.
        let mut child = Command::new("Xvfb")
            .args(["-displayfd", "1", "-noreset", "-screen", "0", &screen])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs Xvfb (Debian: apt-get install xvfb xterm x11-xserver-utils)");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let number = line.trim().parse().expect("Xvfb says its number");
        Self { child, number }
    }

    /// For `DISPLAY`.
    pub(crate) fn name(&self) -> String {
        format!(":{}", self.number)
    }

    /// The same display by TCP, if started with `-listen tcp`.
    pub(crate) fn remote_name(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }

    /// As a crash.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A program on this display; ends with the returned value.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Program {
        let child = Command::new(program)
            .args(args)
            .env("DISPLAY", self.name())
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Program(child.unwrap_or_else(|error| panic!("this test needs {program}: {error}")))
    }
}

impl Drop for Xvfb {
    fn drop(&mut self) {
        // Killed by the test, maybe.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A running program.
#[derive(Debug)]
pub(crate) struct Program(Child);

impl Program {
    /// Waits for its end, which has to be a success.
    pub(crate) fn succeed(mut self) {
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Somebody else on the display: draws, listens, and reads the screen for comparison.
pub(crate) struct Client {
    pub(crate) connection: RustConnection,
    pub(crate) root: u32,
    visual: u32,
    gc: u32,
}

impl Client {
    pub(crate) fn new(display: &Xvfb) -> Self {
        let (connection, screen) = RustConnection::connect(Some(&display.name())).unwrap();
        let (root, visual) = (
            connection.setup().roots[screen].root,
            connection.setup().roots[screen].root_visual,
        );
        let gc = connection.generate_id().unwrap();
        connection.create_gc(gc, root, &CreateGCAux::new()).unwrap();
        Self {
            connection,
            root,
            visual,
            gc,
        }
    }

    /// Everything asked for so far is done.
    pub(crate) fn sync(&self) {
        self.connection.get_input_focus().unwrap().reply().unwrap();
    }

    /// A window of one colour that hears keys and clicks.
    pub(crate) fn window(&self, rect: Rect, colour: u32) -> u32 {
        self.window_with(rect, &CreateWindowAux::new().background_pixel(colour))
    }

    pub(crate) fn window_with(&self, rect: Rect, settings: &CreateWindowAux) -> u32 {
        let window = self.connection.generate_id().unwrap();
        let mask = EventMask::KEY_PRESS
            | EventMask::KEY_RELEASE
            | EventMask::BUTTON_PRESS
            | EventMask::BUTTON_RELEASE
            | EventMask::POINTER_MOTION
            | EventMask::EXPOSURE;
        let Rect {
            x,
            y,
            width,
            height,
        } = rect;
        let settings = settings.event_mask(mask).override_redirect(1);
        let class = WindowClass::INPUT_OUTPUT;
        self.connection
            .create_window(
                24,
                window,
                self.root,
                x,
                y,
                width,
                height,
                0,
                class,
                self.visual,
                &settings,
            )
            .unwrap();
        self.connection.map_window(window).unwrap();
        self.sync();
        window
    }

    pub(crate) fn fill(&self, drawable: u32, rect: Rect, colour: u32) {
        self.connection
            .change_gc(self.gc, &ChangeGCAux::new().foreground(colour))
            .unwrap();
        let Rect {
            x,
            y,
            width,
            height,
        } = rect;
        self.connection
            .poly_fill_rectangle(
                drawable,
                self.gc,
                &[Rectangle {
                    x,
                    y,
                    width,
                    height,
                }],
            )
            .unwrap();
        self.sync();
    }

    pub(crate) fn configure(&self, window: u32, change: &ConfigureWindowAux) {
        self.connection.configure_window(window, change).unwrap();
        self.sync();
    }

    /// Blue, green, red of each pixel of the screen, by the plainest way X11 has.
    pub(crate) fn screen(&self, rect: Rect) -> Vec<[u8; 3]> {
        let Rect {
            x,
            y,
            width,
            height,
        } = rect;
        let image = self
            .connection
            .get_image(ImageFormat::Z_PIXMAP, self.root, x, y, width, height, !0)
            .unwrap();
        colours(&image.reply().unwrap().data)
    }

    /// A person at the mouse.
    pub(crate) fn move_pointer(&self, x: i16, y: i16) {
        self.connection
            .xtest_fake_input(6, 0, 0, self.root, x, y, 0)
            .unwrap();
        self.sync();
    }

    pub(crate) fn press(&self, button: u8, down: bool) {
        self.connection
            .xtest_fake_input(if down { 4 } else { 5 }, button, 0, 0, 0, 0, 0)
            .unwrap();
        self.sync();
    }

    pub(crate) fn click(&self, x: i16, y: i16) {
        self.move_pointer(x, y);
        self.press(1, true);
        self.press(1, false);
    }

    /// What was heard since the last time.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.sync();
        std::iter::from_fn(|| self.connection.poll_for_event().unwrap()).collect()
    }

    /// Windows on the screen from the lowest to the topmost: id, place, title.
    pub(crate) fn windows(&self) -> Vec<(u32, Rect, String)> {
        let tree = self
            .connection
            .query_tree(self.root)
            .unwrap()
            .reply()
            .unwrap();
        let described = tree.children.into_iter().filter_map(|window| {
            let attributes = self
                .connection
                .get_window_attributes(window)
                .unwrap()
                .reply()
                .ok()?;
            let place = self.connection.get_geometry(window).unwrap().reply().ok()?;
            let title = self
                .connection
                .get_property(false, window, 39u32, 0u32, 0, 64)
                .unwrap()
                .reply()
                .ok()?;
            let rect = Rect {
                x: place.x,
                y: place.y,
                width: place.width,
                height: place.height,
            };
            let title = String::from_utf8_lossy(&title.value).into_owned();
            (attributes.map_state == MapState::VIEWABLE).then_some((window, rect, title))
        });
        described.collect()
    }

    /// Waits for a window with this title.
    pub(crate) fn expect_window(&self, title: &str) -> (u32, Rect) {
        eventually(title, || {
            let found = self.windows().into_iter().find(|(.., name)| name == title);
            found.map(|(id, rect, _)| (id, rect))
        })
    }
}

/// Asks until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < limit, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Brings the picture up to date until the screen rests; what happened on the way, damage in one list.
pub(crate) fn settle(capture: &mut dyn Capture) -> Changes {
    let mut all = Changes::default();
    loop {
        let changes = capture.wait(Some(Instant::now() + CALM)).unwrap();
        if changes.is_empty() {
            return all;
        }
        capture.refresh(&changes.damage).unwrap();
        all.damage.extend(changes.damage);
        all.cursor_moved = changes.cursor_moved.or(all.cursor_moved);
        all.cursor_shape = changes.cursor_shape.or(all.cursor_shape);
        all.resized |= changes.resized;
        all.monitors_changed |= changes.monitors_changed;
    }
}

/// Blue, green, red of each pixel of the picture.
pub(crate) fn picture(capture: &dyn Capture) -> Vec<[u8; 3]> {
    let pixels = capture.pixels();
    assert_eq!(pixels.stride, usize::from(pixels.width) * 4);
    colours(pixels.bytes)
}

pub(crate) fn colours(bytes: &[u8]) -> Vec<[u8; 3]> {
    bytes
        .chunks_exact(4)
        .map(|pixel| [pixel[0], pixel[1], pixel[2]])
        .collect()
}

/// What `wait` fails with, once it does.
pub(crate) fn failure(capture: &mut dyn Capture) -> CaptureError {
    eventually("a failure", || {
        capture.wait(Some(Instant::now() + CALM)).err()
    })
}

/// Keeps a screenshot for people to look at, if `REMORA_ARTEFACTS` names a directory.
pub(crate) fn keep(client: &Client, rect: Rect, name: &str) {
    let Some(directory) = std::env::var_os("REMORA_ARTEFACTS") else {
        return;
    };
    let mut bytes = format!("P6 {} {} 255\n", rect.width, rect.height).into_bytes();
    bytes.extend(
        client
            .screen(rect)
            .into_iter()
            .flat_map(|[blue, green, red]| [red, green, blue]),
    );
    std::fs::write(Path::new(&directory).join(name), bytes).unwrap();
}

/// Whether every output is as dark as it can be.
pub(crate) fn is_dark(client: &Client) -> bool {
    let connection = &client.connection;
    connection
        .randr_query_version(1, 3)
        .unwrap()
        .reply()
        .unwrap();
    let resources = connection.randr_get_screen_resources_current(client.root);
    let crtcs = resources.unwrap().reply().unwrap().crtcs;
    assert!(!crtcs.is_empty());
    crtcs.into_iter().all(|crtc| {
        let gamma = connection.randr_get_crtc_gamma(crtc).unwrap().reply();
        let gamma = gamma.unwrap();
        assert!(!gamma.red.is_empty(), "this server has gamma");
        let levels = [gamma.red, gamma.green, gamma.blue];
        levels.iter().flatten().all(|level| *level == 0)
    })
}

/// Somebody presses a key of the keyboard that is plugged in: not of XTEST's, which is the helper's.
pub(crate) fn press_local_key(client: &Client) {
    let connection = &client.connection;
    connection
        .xinput_xi_query_version(2, 2)
        .unwrap()
        .reply()
        .unwrap();
    let devices = connection.xinput_xi_query_device(0u16).unwrap();
    let devices = devices.reply().unwrap().infos;
    let keyboard = devices
        .iter()
        .find(|device| device.name == b"Xvfb keyboard")
        .expect("a keyboard");
    let extension = connection.query_extension(b"XInputExtension").unwrap();
    let first = extension.reply().unwrap().first_event;
    let device = u8::try_from(keyboard.deviceid).expect("few devices");
    for kind in [
        xinput::DEVICE_KEY_PRESS_EVENT,
        xinput::DEVICE_KEY_RELEASE_EVENT,
    ] {
        connection
            .xtest_fake_input(first + kind, LOCAL_KEY, 0, client.root, 0, 0, device)
            .unwrap();
    }
    client.sync();
}
