//! The sharer's screen on a real X server (Xvfb): what is seen of it, what may be done to it, what stands on it.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    reason = "what fails in a helper has failed the test"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "X11 has 150 events; a test looks for two"
)]

#[path = "support/display.rs"]
mod display;

use std::time::{Duration, Instant};

use display::{Client, Xvfb, colours, eventually, failure, keep, picture, settle};
use remora::share::{
    bar::{Bar, BarEvent, BarText},
    capture::{Capture, CaptureError, Rect, Source, x11::X11Capture},
    inject::{Button, Gated, Inject, InjectError, Keysym, Permit, x11::X11Inject},
    overlay::Overlay,
    preflight::{can_share, preflight},
};
use x11rb::{
    connection::Connection as _,
    protocol::{
        Event,
        xproto::{
            AtomEnum, ChangeWindowAttributesAux, ConfigureWindowAux, ConnectionExt as _,
            CreateWindowAux, PropMode, StackMode,
        },
    },
    wrapper::ConnectionExt as _,
};

const RED: u32 = 0x00ff_0000;
const GREEN: u32 = 0x0000_ff00;
const BLUE: u32 = 0x0000_00ff;
const CONTROL: Permit = Permit {
    control: true,
    frozen: false,
    paused: false,
};

fn rect(x: i16, y: i16, width: u16, height: u16) -> Rect {
    Rect {
        x,
        y,
        width,
        height,
    }
}

fn whole(capture: &dyn Capture) -> Rect {
    Rect::of_size(capture.size())
}

fn open(display: &Xvfb) -> X11Capture {
    X11Capture::open(Some(&display.name())).unwrap()
}

/// xorshift: drawing that is the same each time.
fn noise(state: &mut u32, below: u32) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    *state % below
}

fn scribble(client: &Client, window: u32, strokes: u32, state: &mut u32) {
    for _ in 0..strokes {
        let [x, y] = [noise(state, 700), noise(state, 500)].map(|at| i16::try_from(at).unwrap());
        let [width, height] =
            [noise(state, 200), noise(state, 90)].map(|size| u16::try_from(size + 1).unwrap());
        client.fill(window, rect(x, y, width, height), noise(state, 0x0100_0000));
    }
}

// ---- capture -----------------------------------------------------------------------------

fn assert_exact(client: &Client, capture: &X11Capture) {
    let screen = client.screen(whole(capture));
    let seen = picture(capture);
    let differing = seen
        .iter()
        .zip(&screen)
        .filter(|(seen, real)| seen != real)
        .count();
    assert_eq!((seen.len(), differing), (screen.len(), 0));
}

#[test]
fn the_picture_is_the_screen_byte_for_byte_whatever_is_drawn() {
    let display = Xvfb::start(1920, 1080);
    let client = Client::new(&display);
    let mut capture = open(&display);
    assert!(capture.shares_memory());
    assert_eq!(capture.size(), (1920, 1080));
    let first = settle(&mut capture);
    assert!(first.resized && first.cursor_shape.is_some() && first.cursor_moved.is_some());
    assert_exact(&client, &capture);
    let mut state = 7;
    let windows = [
        client.window(rect(-50, 900, 800, 600), BLUE),
        client.window(rect(300, 200, 900, 700), GREEN),
    ];
    for _ in 0..8 {
        windows
            .iter()
            .for_each(|window| scribble(&client, *window, 20, &mut state));
        client.configure(
            windows[1],
            &ConfigureWindowAux::new().x(noise(&mut state, 900).cast_signed()),
        );
        settle(&mut capture);
        assert_exact(&client, &capture);
    }
    client.connection.destroy_window(windows[1]).unwrap();
    client.sync();
    settle(&mut capture);
    assert_exact(&client, &capture);
}

#[test]
fn a_display_on_another_machine_is_shown_without_shared_memory() {
    let display = Xvfb::start_with(640, 480, &["-listen", "tcp", "-ac"]);
    let client = Client::new(&display);
    let mut capture = X11Capture::open(Some(&display.remote_name())).unwrap();
    assert!(!capture.shares_memory());
    scribble(
        &client,
        client.window(rect(20, 20, 500, 400), RED),
        40,
        &mut 3,
    );
    settle(&mut capture);
    assert_exact(&client, &capture);
}

#[test]
fn damage_is_where_something_changed_and_nowhere_else() {
    let display = Xvfb::start(1920, 1080);
    let client = Client::new(&display);
    let window = client.window(rect(100, 100, 1000, 800), BLUE);
    let mut capture = open(&display);
    settle(&mut capture);
    client.fill(window, rect(10, 20, 30, 40), RED);
    client.fill(window, rect(900, 700, 8, 16), RED);
    let mut damage = settle(&mut capture).damage;
    damage.sort_by_key(|rect| rect.x);
    assert_eq!(damage, [rect(110, 120, 30, 40), rect(1000, 800, 8, 16)]);
    assert_exact(&client, &capture);
}

#[test]
fn what_is_masked_is_neither_seen_nor_reported() {
    let display = Xvfb::start(640, 480);
    let client = Client::new(&display);
    let window = client.window(rect(0, 0, 640, 480), BLUE);
    let mut capture = open(&display);
    let mask = rect(100, 10, 200, 40);
    capture.set_masks(&[mask]);
    settle(&mut capture);
    client.fill(window, rect(150, 20, 20, 20), RED);
    assert!(settle(&mut capture).is_empty());
    client.fill(window, rect(290, 45, 30, 30), RED);
    assert!(
        !settle(&mut capture).damage.is_empty(),
        "half of it is not under the mask"
    );
    capture.refresh(&[rect(0, 0, 640, 480)]).unwrap();
    let seen = picture(&capture);
    let at = |x: usize, y: usize| seen[y * 640 + x];
    assert_eq!(at(160, 30), at(100, 10), "an even ground");
    assert_eq!(
        (at(99, 30), at(300, 49), at(299, 50)),
        ([255, 0, 0], [0, 0, 255], [0, 0, 255])
    );
    capture.set_masks(&[]);
    settle(&mut capture);
    assert_exact(&client, &capture);
}

/// How often this thread has gone to sleep.
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
        .unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn an_idle_screen_wakes_nobody() {
    let display = Xvfb::start(1920, 1080);
    let client = Client::new(&display);
    client.window(rect(100, 100, 1000, 800), BLUE);
    let mut capture = open(&display);
    settle(&mut capture);
    let before = sleeps();
    let changes = capture
        .wait(Some(Instant::now() + Duration::from_secs(2)))
        .unwrap();
    assert!(changes.is_empty(), "{changes:?}");
    // Into the one poll(2) and out of it, and what the kernel does about locks.
    assert!(sleeps() - before <= 4, "{} sleeps", sleeps() - before);
}

#[test]
fn a_waker_ends_the_wait_from_any_thread_even_before_it_begins() {
    let display = Xvfb::start(320, 200);
    let mut capture = open(&display);
    settle(&mut capture);
    capture.waker().wake();
    assert!(capture.wait(None).unwrap().is_empty());
    let waker = capture.waker();
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        waker.wake_by_ref();
    });
    assert!(capture.wait(None).unwrap().is_empty());
    other.join().unwrap();
}

#[test]
fn the_cursor_comes_apart_from_the_pixels() {
    let display = Xvfb::start(640, 480);
    let client = Client::new(&display);
    let window = client.window(rect(100, 100, 300, 200), BLUE);
    let mut capture = open(&display);
    client.move_pointer(50, 50);
    settle(&mut capture);
    client.move_pointer(200, 150);
    let changes = settle(&mut capture);
    assert_eq!(changes.cursor_moved, Some((200, 150)));
    assert!(
        changes.damage.is_empty(),
        "the pointer is no pixel: {changes:?}"
    );
    let (font, cursor) = (
        client.connection.generate_id().unwrap(),
        client.connection.generate_id().unwrap(),
    );
    client.connection.open_font(font, b"cursor").unwrap();
    client
        .connection
        .create_glyph_cursor(cursor, font, font, 152, 153, 0, 0, 0, u16::MAX, 0, 0)
        .unwrap();
    let dressed = ChangeWindowAttributesAux::new().cursor(cursor);
    client
        .connection
        .change_window_attributes(window, &dressed)
        .unwrap();
    client.sync();
    let shape = settle(&mut capture).cursor_shape.expect("another shape");
    assert_eq!(
        shape.argb.len(),
        usize::from(shape.width) * usize::from(shape.height)
    );
    assert!(shape.argb.contains(&0xffff_0000), "a red I-beam's edge");
    assert!(shape.hot_x < shape.width && shape.hot_y < shape.height);
    assert_exact(&client, &capture);
}

#[test]
fn the_screen_may_be_resized_while_it_is_shown() {
    let display = Xvfb::start(1280, 1024);
    let client = Client::new(&display);
    let mut capture = open(&display);
    settle(&mut capture);
    for args in [
        &[
            "--newmode",
            "800x600",
            "40",
            "800",
            "840",
            "968",
            "1056",
            "600",
            "601",
            "605",
            "628",
        ][..],
        &["--addmode", "screen", "800x600"],
        &["--output", "screen", "--mode", "800x600"],
    ] {
        display.run("xrandr", args).succeed();
    }
    let changes = settle(&mut capture);
    assert!(changes.resized && changes.monitors_changed, "{changes:?}");
    assert_eq!(capture.size(), (800, 600));
    assert_eq!(capture.monitors()[0].rect, rect(0, 0, 800, 600));
    scribble(
        &client,
        client.window(rect(0, 0, 800, 600), GREEN),
        20,
        &mut 5,
    );
    settle(&mut capture);
    assert_exact(&client, &capture);
    display
        .run("xrandr", &["--output", "screen", "--mode", "1280x1024"])
        .succeed();
    settle(&mut capture);
    assert_eq!(capture.size(), (1280, 1024));
    assert_exact(&client, &capture);
}

#[test]
fn a_lost_display_is_said_so() {
    let mut display = Xvfb::start(320, 200);
    let mut capture = open(&display);
    let mut inject = X11Inject::open(Some(&display.name())).unwrap();
    let mut bar = Bar::open(Some(&display.name())).unwrap();
    settle(&mut capture);
    display.kill();
    let error = failure(&mut capture);
    assert!(matches!(error, CaptureError::DisplayLost), "{error}");
    assert!(matches!(
        capture.refresh(&[rect(0, 0, 9, 9)]),
        Err(CaptureError::DisplayLost)
    ));
    let error = eventually("a lost keyboard", || {
        inject.key(Keysym::from('a'), true).err()
    });
    assert!(
        matches!(error, InjectError::Display(CaptureError::DisplayLost)),
        "{error}"
    );
    assert_eq!(bar.events().blocking_recv(), None);
}

#[test]
fn why_a_display_cannot_be_opened_is_told_with_what_to_do() {
    let error = X11Capture::open(Some(":9999")).unwrap_err();
    assert!(matches!(error, CaptureError::Unreachable { .. }), "{error}");
    assert!(!error.hint().is_empty());
    let shallow = Xvfb::start_with(320, 200, &["-screen", "0", "320x200x16"]);
    let error = X11Capture::open(Some(&shallow.name())).unwrap_err();
    assert!(
        matches!(
            error,
            CaptureError::Depth {
                depth: 16,
                bits: 16
            }
        ),
        "{error}"
    );
}

// ---- one window only ---------------------------------------------------------------------

/// Foreign windows are red: no pixel of the picture may be.
fn assert_no_red(capture: &X11Capture) {
    let red = colours(capture.pixels().bytes)
        .into_iter()
        .filter(|pixel| *pixel == [0, 0, 255])
        .count();
    assert_eq!(red, 0, "pixels of another window");
}

/// Looks at everything at every step, like a helper who wants to see what is not shown.
fn pry(capture: &mut X11Capture) {
    for _ in 0..10 {
        capture.refresh(&[whole(capture)]).unwrap();
        assert_no_red(capture);
        let changes = capture
            .wait(Some(Instant::now() + Duration::from_millis(10)))
            .unwrap();
        capture.refresh(&changes.damage).unwrap();
        assert_no_red(capture);
    }
}

#[test]
fn one_window_shows_itself_and_nothing_that_lies_over_it() {
    let display = Xvfb::start(1024, 768);
    let client = Client::new(&display);
    client.window(rect(0, 0, 1024, 768), RED);
    let window = client.window(rect(100, 100, 400, 300), GREEN);
    client.fill(window, rect(10, 10, 20, 20), BLUE);
    let above = client.window(rect(300, 200, 400, 300), RED);
    let mut capture = open(&display);
    settle(&mut capture);
    capture.select(Source::Window(window)).unwrap();
    pry(&mut capture);
    assert_eq!((capture.size(), capture.origin()), ((400, 300), (100, 100)));
    let at = |capture: &X11Capture, x: usize, y: usize| picture(capture)[y * 400 + x];
    assert_eq!(
        (at(&capture, 5, 5), at(&capture, 15, 15)),
        ([0, 255, 0], [255, 0, 0])
    );
    // Where it is covered it is seen as well, once it is drawn there.
    client.fill(window, rect(250, 150, 50, 50), BLUE);
    pry(&mut capture);
    assert_eq!(at(&capture, 270, 170), [255, 0, 0]);
    assert_eq!(
        client.screen(rect(370, 270, 1, 1)),
        [[0, 0, 255]],
        "covered on the screen"
    );
    // Drawing in others is no damage.
    client.fill(above, rect(0, 0, 100, 100), RED);
    assert!(settle(&mut capture).damage.is_empty());
    client.configure(window, &ConfigureWindowAux::new().x(350).y(250));
    pry(&mut capture);
    assert_eq!(capture.origin(), (350, 250));
    client.connection.destroy_window(window).unwrap();
    client.sync();
    assert!(matches!(failure(&mut capture), CaptureError::SourceGone));
    capture.select(Source::Monitor(0)).unwrap();
    settle(&mut capture);
    assert_exact(&client, &capture);
}

#[test]
fn one_window_that_draws_no_ground_never_shows_what_was_there_before() {
    let display = Xvfb::start(1024, 768);
    let client = Client::new(&display);
    client.window(rect(0, 0, 1024, 768), RED);
    // Without a ground, a new pixmap keeps what the screen showed: red.
    let window = client.window_with(rect(100, 100, 400, 300), &CreateWindowAux::new());
    client.fill(window, rect(0, 0, 400, 300), GREEN);
    client.window(rect(300, 200, 400, 300), RED);
    let mut capture = open(&display);
    capture.select(Source::Window(window)).unwrap();
    pry(&mut capture);
    for (width, height) in [(500, 400), (300, 200), (600, 500), (601, 500)] {
        client.configure(
            window,
            &ConfigureWindowAux::new().width(width).height(height),
        );
        pry(&mut capture);
        assert_eq!(
            capture.size(),
            (
                u16::try_from(width).unwrap(),
                u16::try_from(height).unwrap()
            )
        );
    }
    client.connection.unmap_window(window).unwrap();
    client.sync();
    pry(&mut capture);
    client.connection.map_window(window).unwrap();
    client.sync();
    pry(&mut capture);
    let asked = client
        .events()
        .iter()
        .filter(|event| matches!(event, Event::Expose(_)))
        .count();
    assert!(asked > 0, "its program was asked to draw");
    client.fill(window, rect(0, 0, 601, 500), GREEN);
    pry(&mut capture);
    assert!(picture(&capture).iter().all(|pixel| *pixel == [0, 255, 0]));
}

#[test]
fn a_hidden_window_is_black_until_it_comes() {
    let display = Xvfb::start(640, 480);
    let client = Client::new(&display);
    client.window(rect(0, 0, 640, 480), RED);
    let window = client.window(rect(10, 10, 100, 100), GREEN);
    client.connection.unmap_window(window).unwrap();
    client.sync();
    let mut capture = open(&display);
    capture.select(Source::Window(window)).unwrap();
    pry(&mut capture);
    assert!(picture(&capture).iter().all(|pixel| *pixel == [0, 0, 0]));
    client.connection.map_window(window).unwrap();
    client.sync();
    pry(&mut capture);
    assert!(picture(&capture).iter().all(|pixel| *pixel == [0, 255, 0]));
    assert!(matches!(
        capture.select(Source::Window(0x00ff_ffff)),
        Err(CaptureError::SourceGone)
    ));
    assert_eq!(
        capture.source(),
        Source::Window(window),
        "the old source stays"
    );
}

#[test]
fn windows_are_listed_with_their_titles() {
    let display = Xvfb::start(640, 480);
    let _xterm = display.run(
        "xterm",
        &["-T", "Maria's letter", "-geometry", "40x10+20+30"],
    );
    let mut capture = open(&display);
    let letter = eventually("the xterm", || {
        capture
            .windows()
            .unwrap()
            .into_iter()
            .find(|window| window.title == "Maria's letter")
    });
    // Within its border.
    assert_eq!((letter.rect.x, letter.rect.y), (21, 31));
    capture.select(Source::Window(letter.id)).unwrap();
    settle(&mut capture);
    assert_eq!(capture.size(), (letter.rect.width, letter.rect.height));
}

// ---- input -------------------------------------------------------------------------------

/// An xterm under the pointer whose program writes what it reads to a file.
struct Scribe {
    _xterm: display::Program,
    _directory: tempfile::TempDir,
    file: std::path::PathBuf,
}

impl Scribe {
    fn new(display: &Xvfb, client: &Client) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("typed");
        let command = format!("touch '{0}'; exec cat > '{0}'", file.display());
        let args = [
            "-T",
            "scribe",
            "-geometry",
            "80x24+0+0",
            "-e",
            "sh",
            "-c",
            &command,
        ];
        let xterm = display.run("xterm", &args);
        let (_, place) = client.expect_window("scribe");
        client.move_pointer(place.x + 40, place.y + 40);
        eventually("cat", || file.exists().then_some(()));
        Self {
            _xterm: xterm,
            _directory: directory,
            file,
        }
    }

    /// The line just typed.
    fn expect(&self, line: &str) {
        let mut read = String::new();
        let limit = Instant::now() + Duration::from_secs(10);
        while Instant::now() < limit {
            read = std::fs::read_to_string(&self.file).unwrap();
            if read.ends_with(&format!("{line}\n")) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("typed {line:?}, read {read:?}");
    }
}

fn injector(display: &Xvfb) -> X11Inject {
    X11Inject::open(Some(&display.name())).unwrap()
}

#[test]
fn text_arrives_intact_whether_or_not_the_keyboard_has_it() {
    let display = Xvfb::start(1024, 768);
    let client = Client::new(&display);
    let scribe = Scribe::new(&display, &client);
    let mut inject = injector(&display);
    for line in [
        "Hello äß€漢字",
        "~`!@#$%^&*()_+{}|:\"<>?[]\\;',./-=",
        "ÄÖÜ ÉÈ ñ Ñ œ Œ ſ ẞ łŁ",
        "Привет, Ω! שלום مرحبا ✓ 😀",
        "the quick brown fox JUMPS over the lazy dog 0123456789",
    ] {
        inject.text(line, &|| true).unwrap();
        inject.text("\n", &|| true).unwrap();
        scribe.expect(line);
    }
    // AltGr of some keyboards is Control and Alt: a text in between is still a text.
    inject.key(Keysym(0xffe3), true).unwrap();
    inject.key(Keysym(0xffe9), true).unwrap();
    inject.text("d€\n", &|| true).unwrap();
    inject.release_all().unwrap();
    scribe.expect("d€");
}

#[test]
fn a_text_with_more_strange_letters_than_spare_keys_arrives_intact() {
    let display = Xvfb::start(1024, 768);
    let client = Client::new(&display);
    let scribe = Scribe::new(&display, &client);
    let mut inject = injector(&display);
    let line: String = (0x4e00..0x4e00 + 100).filter_map(char::from_u32).collect();
    inject.text(&line, &|| true).unwrap();
    inject.text("\r\n", &|| true).unwrap();
    scribe.expect(&line);
}

#[test]
fn keys_typed_one_by_one_arrive_intact() {
    let display = Xvfb::start(1024, 768);
    let client = Client::new(&display);
    let scribe = Scribe::new(&display, &client);
    let mut inject = injector(&display);
    // As a browser sends a German helper's keys: Shift is down for '?' and 'Ä', AltGr for '€'.
    let (shift, level3, enter) = (Keysym(0xffe1), Keysym(0xfe03), Keysym(0xff0d));
    let tap = |inject: &mut X11Inject, key: Keysym| {
        inject.key(key, true).unwrap();
        inject.key(key, false).unwrap();
    };
    for letter in "aß+ü#".chars() {
        tap(&mut inject, Keysym::from(letter));
    }
    inject.key(shift, true).unwrap();
    for letter in "AÄ?/=".chars() {
        tap(&mut inject, Keysym::from(letter));
    }
    inject.key(shift, false).unwrap();
    inject.key(level3, true).unwrap();
    for letter in "€@{µ".chars() {
        tap(&mut inject, Keysym::from(letter));
    }
    inject.key(level3, false).unwrap();
    tap(&mut inject, enter);
    scribe.expect("aß+ü#AÄ?/=€@{µ");
    // With Caps Lock on the sharer's side, letters are still those that were sent.
    tap(&mut inject, Keysym(0xffe5));
    for letter in "aBäÄ漢".chars() {
        tap(&mut inject, Keysym::from(letter));
    }
    tap(&mut inject, Keysym(0xffe5));
    tap(&mut inject, enter);
    scribe.expect("aBäÄ漢");
}

#[test]
fn another_layout_and_its_change_on_the_way_are_respected() {
    let display = Xvfb::start(1024, 768);
    let client = Client::new(&display);
    let scribe = Scribe::new(&display, &client);
    let mut inject = injector(&display);
    for layout in [
        &["de"][..],
        &["us,ru", "-option", "grp:toggle"],
        &["fr"],
        &["us"],
    ] {
        display.run("setxkbmap", layout).succeed();
        inject.text("Zyx qwa äß€ 漢 7& жЖ\n", &|| true).unwrap();
        scribe.expect("Zyx qwa äß€ 漢 7& жЖ");
    }
}

/// What was injected so far has been: the answer to a question comes after what was said before it.
fn arrived(inject: &mut impl Inject) {
    match inject.position() {
        Ok(_) | Err(InjectError::NotAllowed) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Keycode and state of each key that went down or up.
fn strokes(inject: &mut impl Inject, client: &Client) -> Vec<(bool, u8, u16)> {
    arrived(inject);
    let events = client.events().into_iter();
    let stroke = |event: Event| match event {
        Event::KeyPress(event) => Some((true, event.detail, u16::from(event.state))),
        Event::KeyRelease(event) => Some((false, event.detail, u16::from(event.state))),
        _ => None,
    };
    events.filter_map(stroke).collect()
}

#[test]
fn shortcuts_hold_their_modifiers_and_everything_is_released_at_once() {
    let display = Xvfb::start(640, 480);
    let client = Client::new(&display);
    client.window(rect(0, 0, 640, 480), BLUE);
    client.move_pointer(100, 100);
    let mut inject = injector(&display);
    let (control, shift, tab) = (Keysym(0xffe3), Keysym(0xffe1), Keysym(0xff09));
    inject.key(control, true).unwrap();
    inject.key(shift, true).unwrap();
    inject.key(tab, true).unwrap();
    inject.key(tab, true).unwrap();
    inject.key(Keysym::from('T'), true).unwrap();
    let down = strokes(&mut inject, &client);
    assert_eq!(down.len(), 4, "{down:?}");
    assert!(down.iter().all(|(down, ..)| *down));
    assert_eq!((down[2].2, down[3].2), (5, 5), "Control and Shift");
    inject.button(Button::Left, true).unwrap();
    inject.release_all().unwrap();
    let up = strokes(&mut inject, &client);
    assert_eq!(up.iter().filter(|(down, ..)| !down).count(), 4, "{up:?}");
    let pointer = client
        .connection
        .query_pointer(client.root)
        .unwrap()
        .reply()
        .unwrap();
    assert_eq!(u16::from(pointer.mask), 0, "no key, no button");
    inject.key(tab, false).unwrap();
    assert!(strokes(&mut inject, &client).is_empty(), "released already");
    // A helper may let go of Shift before the letter.
    inject.key(shift, true).unwrap();
    inject.key(Keysym::from('T'), true).unwrap();
    inject.key(shift, false).unwrap();
    inject.key(Keysym::from('t'), false).unwrap();
    assert_eq!(strokes(&mut inject, &client).len(), 4);
}

#[test]
fn nothing_stays_pressed_when_the_helper_is_gone() {
    let display = Xvfb::start(640, 480);
    let client = Client::new(&display);
    client.window(rect(0, 0, 640, 480), BLUE);
    client.move_pointer(100, 100);
    let before = client
        .connection
        .get_keyboard_mapping(8, 248)
        .unwrap()
        .reply()
        .unwrap();
    let mut inject = injector(&display);
    inject.key(Keysym(0xffe3), true).unwrap();
    inject.text("漢", &|| true).unwrap();
    inject.button(Button::Right, true).unwrap();
    drop(inject);
    let pointer = client
        .connection
        .query_pointer(client.root)
        .unwrap()
        .reply()
        .unwrap();
    assert_eq!(u16::from(pointer.mask), 0);
    let after = client
        .connection
        .get_keyboard_mapping(8, 248)
        .unwrap()
        .reply()
        .unwrap();
    let meanings = |syms: &[u32]| syms.iter().filter(|sym| **sym != 0).count();
    assert_eq!(
        meanings(&after.keysyms),
        meanings(&before.keysyms),
        "the keyboard is as it was"
    );
}

#[test]
fn a_click_hits_the_window_under_it_and_the_wheel_turns_it() {
    let display = Xvfb::start(640, 480);
    let client = Client::new(&display);
    let below = client.window(rect(0, 0, 640, 480), BLUE);
    let above = client.window(rect(200, 100, 200, 200), GREEN);
    let mut inject = injector(&display);
    for ((x, y), hit) in [((250, 150), above), ((199, 150), below)] {
        inject.pointer(x, y).unwrap();
        inject.button(Button::Left, true).unwrap();
        inject.button(Button::Left, false).unwrap();
        inject.wheel(0, 2).unwrap();
        inject.wheel(-1, 0).unwrap();
        arrived(&mut inject);
        let heard: Vec<(u32, u8)> = client
            .events()
            .into_iter()
            .filter_map(|event| match event {
                Event::ButtonPress(event) => Some((event.event, event.detail)),
                _ => None,
            })
            .collect();
        assert_eq!(heard, [(hit, 1), (hit, 5), (hit, 5), (hit, 6)]);
        assert_eq!(inject.position().unwrap(), (x, y));
    }
}

/// Keys, clicks and moves at this client's windows.
fn touched(inject: &mut impl Inject, client: &Client) -> usize {
    arrived(inject);
    let input = |event: &Event| {
        matches!(
            event,
            Event::KeyPress(_)
                | Event::KeyRelease(_)
                | Event::ButtonPress(_)
                | Event::ButtonRelease(_)
                | Event::MotionNotify(_)
        )
    };
    client.events().iter().filter(|event| input(event)).count()
}

fn misbehave(inject: &mut impl Inject) {
    for turn in 0..200i16 {
        inject.pointer(turn, turn).unwrap();
        inject.key(Keysym::from('x'), turn % 2 == 0).unwrap();
        inject.button(Button::Left, turn % 2 == 0).unwrap();
        inject.wheel(0, 1).unwrap();
        inject.text("漢", &|| true).unwrap();
    }
}

#[test]
fn of_a_thousand_events_in_view_none_reaches_the_screen() {
    let display = Xvfb::start(640, 480);
    let client = Client::new(&display);
    client.window(rect(0, 0, 640, 480), BLUE);
    client.move_pointer(300, 300);
    let mut inject = Gated::new(injector(&display));
    touched(&mut inject, &client);
    for permit in [
        Permit::default(),
        Permit {
            frozen: true,
            ..CONTROL
        },
        Permit {
            paused: true,
            ..CONTROL
        },
    ] {
        inject.set_permit(permit).unwrap();
        let before = inject.refused();
        misbehave(&mut inject);
        assert_eq!(
            (touched(&mut inject, &client), inject.refused() - before),
            (0, 1_000),
            "{permit:?}"
        );
        let pointer = client
            .connection
            .query_pointer(client.root)
            .unwrap()
            .reply()
            .unwrap();
        assert_eq!((pointer.root_x, pointer.root_y), (300, 300));
    }
    inject.set_permit(CONTROL).unwrap();
    inject.pointer(10, 10).unwrap();
    inject.key(Keysym::from('x'), true).unwrap();
    assert_eq!(touched(&mut inject, &client), 2);
    inject.set_permit(Permit::default()).unwrap();
    assert_eq!(
        touched(&mut inject, &client),
        1,
        "x is released when control ends"
    );
}

#[test]
fn input_for_one_window_does_not_reach_another() {
    let display = Xvfb::start(640, 480);
    let client = Client::new(&display);
    let shared = client.window(rect(0, 0, 300, 300), GREEN);
    let other = client.window(rect(150, 0, 300, 300), RED);
    let mut inject = injector(&display);
    inject.confine(Some(shared));
    inject.pointer(50, 50).unwrap();
    inject.button(Button::Left, true).unwrap();
    inject.button(Button::Left, false).unwrap();
    inject.key(Keysym::from('a'), true).unwrap();
    inject.key(Keysym::from('a'), false).unwrap();
    assert!(touched(&mut inject, &client) >= 5);
    inject.pointer(200, 50).unwrap();
    touched(&mut inject, &client);
    let refused = [
        inject.button(Button::Left, true),
        inject.wheel(0, 1),
        inject.key(Keysym::from('a'), true),
        inject.text("a", &|| true),
    ];
    assert!(
        refused
            .iter()
            .all(|result| matches!(result, Err(InjectError::Elsewhere))),
        "{refused:?}"
    );
    assert_eq!(touched(&mut inject, &client), 0);
    client
        .connection
        .set_input_focus(x11rb::protocol::xproto::InputFocus::PARENT, other, 0u32)
        .unwrap();
    client.sync();
    inject.pointer(50, 50).unwrap();
    touched(&mut inject, &client);
    assert!(
        matches!(inject.text("a", &|| true), Err(InjectError::Elsewhere)),
        "the keyboard is another's"
    );
    assert_eq!(touched(&mut inject, &client), 0);
}

// ---- what stands on the screen -----------------------------------------------------------

fn text(control: bool) -> BarText {
    BarText {
        name: "Sam Okafor".to_owned(),
        who: "Sam Okafor (Contoso)".to_owned(),
        control,
        administrator: false,
        paused: false,
        since: Instant::now()
            .checked_sub(Duration::from_secs(134))
            .unwrap(),
        path: "direct".to_owned(),
        shares: String::new(),
        question: None,
    }
}

/// Where the bar is once it is.
fn placed(client: &Client) -> (u32, Rect) {
    eventually("the bar", || {
        let found = client
            .windows()
            .into_iter()
            .find(|(_, rect, title)| title == "Remora" && rect.width > 100);
        found.map(|(id, rect, _)| (id, rect))
    })
}

#[test]
fn d_8_the_bar_can_be_read_pressed_and_dragged_and_stays_on_top() {
    let display = Xvfb::start(1280, 720);
    let client = Client::new(&display);
    client.window(rect(0, 0, 1280, 720), 0x0030_5070);
    let mut bar = Bar::open(Some(&display.name())).unwrap();
    assert!(
        client.windows().iter().all(|(.., title)| title != "Remora"),
        "nothing before it is told"
    );
    bar.show(text(true));
    let (window, place) = placed(&client);
    assert!(
        place.y < 20 && place.x > 0 && place.right() < 1280,
        "{place:?}"
    );
    assert_eq!(*bar.rect().borrow(), place);
    let ink = || {
        client
            .screen(place)
            .iter()
            .filter(|pixel| **pixel == [255, 255, 255])
            .count()
    };
    eventually("white letters", || (ink() > 200).then_some(()));
    keep(&client, rect(0, 0, 1280, 120), "bar-control.ppm");

    // From right to left: Leave, Stop control, Pause, Chat.
    let right = i16::try_from(place.right()).unwrap();
    let middle = place.y + 24;
    let mut pressed = Vec::new();
    for x in (place.x..right).rev().step_by(12) {
        client.click(x, middle);
        std::thread::sleep(Duration::from_millis(20));
        while let Ok(event) = bar.events().try_recv() {
            if pressed.last() != Some(&event) {
                pressed.push(event);
            }
        }
    }
    assert_eq!(
        pressed,
        [
            BarEvent::Leave,
            BarEvent::StopControl,
            BarEvent::Pause,
            BarEvent::Chat
        ]
    );

    // Pressed on a button and let go elsewhere is no press.
    client.move_pointer(right - 30, middle);
    client.press(1, true);
    client.move_pointer(right - 30, middle + 200);
    client.press(1, false);
    assert!(bar.events().try_recv().is_err());

    // Dragged by its text.
    client.move_pointer(place.x + 60, middle);
    client.press(1, true);
    client.move_pointer(place.x + 160, middle + 300);
    client.press(1, false);
    let moved = rect(place.x + 100, place.y + 300, place.width, place.height);
    eventually("the bar there", || {
        (placed(&client).1 == moved).then_some(())
    });
    assert_eq!(*bar.rect().borrow(), moved);
    // Beyond the edge it stays within it.
    client.move_pointer(moved.x + 60, moved.y + 20);
    client.press(1, true);
    client.move_pointer(1279, 719);
    client.press(1, false);
    eventually("the corner", || {
        let now = placed(&client).1;
        (now.right() <= 1280 && now.bottom() <= 720 && now.y > moved.y).then_some(())
    });

    let rival = client.window(rect(0, 0, 1280, 720), GREEN);
    let topmost = || client.windows().last().map(|(id, ..)| *id);
    eventually("the bar on top", || {
        (topmost() == Some(window)).then_some(())
    });
    client.configure(
        rival,
        &ConfigureWindowAux::new().stack_mode(StackMode::ABOVE),
    );
    eventually("the bar on top again", || {
        (topmost() == Some(window)).then_some(())
    });

    drop(bar);
    assert!(
        client.windows().iter().all(|(.., title)| title != "Remora"),
        "it is gone"
    );
}

#[test]
fn the_bar_says_the_mode_in_words_and_colour_and_any_name() {
    let display = Xvfb::start(1280, 720);
    let client = Client::new(&display);
    let bar = Bar::open(Some(&display.name())).unwrap();
    let cases = [
        ("bar-view.ppm", text(false)),
        (
            "bar-paused.ppm",
            BarText {
                paused: true,
                ..text(true)
            },
        ),
        (
            "bar-names.ppm",
            BarText {
                name: "Łukasz Żółć · 山田太郎 · דנה".to_owned(),
                path: "relayed via fra-1".to_owned(),
                ..text(true)
            },
        ),
        (
            "bar-shares.ppm",
            BarText {
                shares: "clipboard ←→ · files →".to_owned(),
                ..text(true)
            },
        ),
        (
            "bar-long.ppm",
            BarText {
                name: "W".repeat(300),
                ..text(true)
            },
        ),
    ];
    let mut seen = Vec::new();
    for (name, text) in cases {
        bar.show(text);
        let (_, place) = placed(&client);
        let now = eventually("another bar", || {
            let (_, place) = placed(&client);
            let now = client.screen(place.intersection(rect(0, 0, 1280, 720)));
            (!seen.contains(&now) && now.contains(&[255, 255, 255])).then_some(now)
        });
        std::thread::sleep(Duration::from_millis(200));
        keep(&client, rect(0, 0, 1280, 60), name);
        assert!(place.height < 60);
        seen.push(now);
    }
}

#[test]
fn the_bar_is_as_large_as_the_desktop_s_letters() {
    let display = Xvfb::start(2560, 1440);
    let client = Client::new(&display);
    let resources = b"Xcursor.size:\t24\nXft.dpi:\t192\n";
    client
        .connection
        .change_property8(
            PropMode::REPLACE,
            client.root,
            AtomEnum::RESOURCE_MANAGER,
            AtomEnum::STRING,
            resources,
        )
        .unwrap();
    client.sync();
    let bar = Bar::open(Some(&display.name())).unwrap();
    bar.show(text(true));
    let (_, place) = placed(&client);
    assert!(place.height == 88 && place.width > 1000, "{place:?}");
    std::thread::sleep(Duration::from_millis(100));
    keep(&client, rect(0, 0, 2560, 120), "bar-large.ppm");
}

#[test]
fn the_laser_pointer_and_the_pen_are_seen_and_not_felt() {
    let display = Xvfb::start(640, 480);
    let client = Client::new(&display);
    let window = client.window(rect(0, 0, 640, 480), 0);
    let overlay = Overlay::open(Some(&display.name())).unwrap();
    let pixel = |x: i16, y: i16| client.screen(rect(x, y, 1, 1))[0];
    overlay.point(Some((100, 100)), RED);
    eventually("the laser pointer", || {
        (pixel(100, 100) == [0, 0, 255]).then_some(())
    });
    assert_eq!(pixel(106, 100), [255, 255, 255], "a white ring");
    overlay.draw(1, (200, 200), GREEN);
    overlay.draw(1, (300, 260), GREEN);
    overlay.draw(2, (400, 100), BLUE);
    eventually("a stroke", || {
        (pixel(250, 230) == [0, 255, 0]).then_some(())
    });
    eventually("a dot", || (pixel(400, 100) == [255, 0, 0]).then_some(()));
    assert_eq!(pixel(250, 200), [0, 0, 0]);
    keep(&client, rect(0, 0, 640, 480), "overlay.ppm");
    client.events();
    for (x, y) in [(100, 100), (250, 230)] {
        client.click(x, y);
        let hit = client
            .events()
            .into_iter()
            .any(|event| matches!(event, Event::ButtonPress(press) if press.event == window));
        assert!(hit, "clicks go through at {x}, {y}");
    }
    overlay.point(None, RED);
    eventually("no laser pointer", || {
        (pixel(100, 100) == [0, 0, 0]).then_some(())
    });
    eventually("no strokes after their time", || {
        (pixel(250, 230) == [0, 0, 0]).then_some(())
    });
    overlay.draw(3, (50, 50), RED);
    eventually("a new stroke", || {
        (pixel(50, 50) == [0, 0, 255]).then_some(())
    });
    drop(overlay);
    eventually("nothing", || (pixel(50, 50) == [0, 0, 0]).then_some(()));
}

#[test]
fn preflight_finds_everything_on_a_whole_display_and_says_what_lacks_on_a_poor_one() {
    let display = Xvfb::start(640, 480);
    let findings = preflight(Some(&display.name()));
    assert!(
        can_share(&findings) && findings.iter().all(|finding| finding.ok),
        "{findings:?}"
    );
    let poor = Xvfb::start_with(640, 480, &["-extension", "XTEST", "-extension", "DAMAGE"]);
    let findings = preflight(Some(&poor.name()));
    assert!(!can_share(&findings));
    let lacking: Vec<&str> = findings
        .iter()
        .filter(|finding| !finding.ok)
        .map(|finding| finding.what)
        .collect();
    assert!(
        lacking.iter().any(|what| what.starts_with("DAMAGE")),
        "{lacking:?}"
    );
    assert!(
        findings
            .iter()
            .all(|finding| finding.ok == finding.fix.is_empty())
    );
}

// ---- cost --------------------------------------------------------------------------------

/// Prints what things cost: `cargo test -p remora --test x11 -- --ignored --nocapture cost`.
#[test]
#[ignore = "a measurement, not a check"]
#[expect(clippy::print_stdout, reason = "for the person who asked")]
fn cost() {
    let display = Xvfb::start(1920, 1080);
    let client = Client::new(&display);
    let window = client.window(rect(0, 0, 1920, 1080), BLUE);
    let mut capture = open(&display);
    settle(&mut capture);
    let median = |mut times: Vec<Duration>| {
        times.sort();
        (times[times.len() / 2], times[times.len() * 95 / 100])
    };
    let grab = |capture: &mut X11Capture, rects: &[Rect]| {
        median(
            (0..100)
                .map(|_| {
                    let start = Instant::now();
                    capture.refresh(rects).unwrap();
                    start.elapsed()
                })
                .collect(),
        )
    };
    let mut report = vec![
        (
            "grab 1920 × 1080",
            grab(&mut capture, &[rect(0, 0, 1920, 1080)]),
        ),
        (
            "grab 960 × 540",
            grab(&mut capture, &[rect(100, 100, 960, 540)]),
        ),
        ("grab 8 × 16", grab(&mut capture, &[rect(100, 100, 8, 16)])),
        (
            "grab 20 of 64 × 64",
            grab(
                &mut capture,
                &(0..20)
                    .map(|n| rect(n * 90, 300, 64, 64))
                    .collect::<Vec<_>>(),
            ),
        ),
    ];
    let mut latencies = Vec::new();
    for turn in 0..200u32 {
        settle_fast(&mut capture);
        let start = Instant::now();
        client.fill(window, rect(100, 100, 8, 16), turn * 77);
        let changes = capture.wait(None).unwrap();
        capture.refresh(&changes.damage).unwrap();
        latencies.push(start.elapsed());
    }
    report.push(("drawn → damage → pixels, 8 × 16", median(latencies)));
    let mut inject = injector(&display);
    let mut times = Vec::new();
    for turn in 0..200 {
        let start = Instant::now();
        inject.key(Keysym::from('a'), turn % 2 == 0).unwrap();
        times.push(start.elapsed());
    }
    report.push(("key", median(times)));
    for (what, (p50, p95)) in report {
        println!("{what:34} p50 {p50:>10.1?}  p95 {p95:>10.1?}");
    }
}

fn settle_fast(capture: &mut X11Capture) {
    while !capture
        .wait(Some(Instant::now() + Duration::from_millis(2)))
        .unwrap()
        .is_empty()
    {}
}
