//! The screen in a session, end to end: a relay and two nodes of this process, a real X server, and a helper's program that
//! does what no page would.
#![cfg(target_os = "linux")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for a few events among many"
)]

#[path = "support/display.rs"]
mod display;
mod support;

use std::collections::BTreeSet;

use display::{Client, Xvfb, eventually};
use remora::{
    event::{Event, Input},
    exchange::Wish,
    help::view::{View, stroke},
    share::{capture::Rect, desktop::Desktop, inject::Keysym},
};
use remora_picture::{decode::Canvas, frame::Header};
use remora_proto::{
    session::{Command, EndReason, Event as SessionEvent, Mode},
    wire::message::{
        CURSOR_STREAM, FIRST_WINDOW,
        session::{self as schema, control::Body, input_event::Event as Key},
    },
};
use remora_relay::relay::Relay;
use support::{
    PATIENCE,
    people::{Person, invites, joins_on, relay, start, within},
};
use tokio::{sync::mpsc, time::timeout};
use x11rb::{
    protocol::xproto::{
        AtomEnum, ChangeWindowAttributesAux, ConnectionExt as _, InputFocus, PropMode,
    },
    wrapper::ConnectionExt as _,
};

/// As many as anybody would want to try.
const MANY: usize = 1_000;
/// As many as one message takes.
const BATCH: usize = 50;
const WIDTH: u16 = 640;
const HEIGHT: u16 = 480;
const GREEN: u32 = 0x00_c0_00;
const RED: u32 = 0xe0_00_00;
/// In the picture blue comes first.
const GREEN_PIXEL: [u8; 3] = [0, 0xc0, 0];
const RED_PIXEL: [u8; 3] = [0, 0, 0xe0];
/// Below the bar.
const LOW: Rect = Rect {
    x: 40,
    y: 240,
    width: 200,
    height: 160,
};

/// A display with two people in front of it, and what each is told.
struct Stage {
    xvfb: Xvfb,
    client: Client,
    sharer: Person,
    helper: Helper,
    _relay: Relay,
}

/// A helper whose program draws what comes.
struct Helper {
    person: Person,
    view: View,
}

impl Helper {
    /// Draws and listens until one of the two is what is waited for; the picture may end before the news do.
    async fn until<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Canvas, Option<&Event>) -> Option<T>,
    ) -> T {
        let search = async {
            let mut news = None;
            loop {
                if let Some(found) = wanted(self.view.canvas(), news.as_ref()) {
                    return found;
                }
                news = tokio::select! {
                    Ok(_) = self.view.next(), if !self.view.is_over() => None,
                    event = self.person.running.events.recv() => Some(event.expect("the session goes on")),
                };
            }
        };
        let found = timeout(PATIENCE, search).await;
        found.unwrap_or_else(|_| panic!("{what} did not come to pass"))
    }

    async fn sees(&mut self, what: &str, mut wanted: impl FnMut(&Canvas) -> bool) {
        self.until(what, |canvas, _| wanted(canvas).then_some(()))
            .await;
    }

    async fn hears<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&SessionEvent) -> Option<T>,
    ) -> T {
        self.until(what, |_, event| match event {
            Some(Event::Session(event)) => wanted(event),
            _ => None,
        })
        .await
    }

    /// The sources that can be shown.
    async fn sources(&mut self, wanted: impl Fn(&schema::Screen) -> bool) -> schema::Screen {
        self.hears("a list of sources", |event| match event {
            SessionEvent::Media(Body::Screen(screen)) if wanted(screen) => Some(screen.clone()),
            _ => None,
        })
        .await
    }

    async fn does(&self, command: Command) {
        self.person.does(command).await;
    }

    async fn media(&self, body: Body) {
        self.does(Command::Media(body)).await;
    }

    async fn keys(&self, events: Vec<schema::InputEvent>) {
        self.person.wishes(Input::Keys(events)).await;
    }
}

/// A session with a screen that has one green window on it.
async fn stage(mode: Mode) -> Stage {
    let xvfb = Xvfb::start(WIDTH, HEIGHT);
    let client = Client::new(&xvfb);
    client.window(LOW, GREEN);
    let relay = relay();
    let (mut helper, code) = invites(relay.address(), "Sam").await;
    let desktop = Desktop::X11(Some(xvfb.name()));
    let mut sharer = joins_on(relay.address(), "Maria", &code, desktop)
        .await
        .expect("the code works");
    helper.trust().await;
    sharer.trust().await;
    start(&mut helper, &mut sharer, mode).await;
    let helper = watching(helper);
    let mut stage = Stage {
        xvfb,
        client,
        sharer,
        helper,
        _relay: relay,
    };
    stage
        .helper
        .sees("the green window", |canvas| {
            canvas.pixel(60, 260) == Some(GREEN_PIXEL)
        })
        .await;
    stage
}

fn watching(mut person: Person) -> Helper {
    let (_, nothing) = mpsc::channel(1);
    let frames = std::mem::replace(&mut person.running.frames, nothing);
    let view = View::new(frames, person.running.input.clone());
    Helper { person, view }
}

fn pointer(x: u16, y: u16) -> schema::InputEvent {
    let part = |at: u16, length: u16| (u32::from(at) * 0x1_0000 + 0x8000) / u32::from(length);
    event(Key::Pointer(schema::PointerEvent {
        x: part(x, WIDTH),
        y: part(y, HEIGHT),
    }))
}

fn click(button: u32) -> [schema::InputEvent; 2] {
    [true, false].map(|down| event(Key::Button(schema::ButtonEvent { button, down })))
}

fn event(event: Key) -> schema::InputEvent {
    schema::InputEvent { event: Some(event) }
}

/// One of everything, again and again.
fn assault() -> Vec<schema::InputEvent> {
    let kinds = || {
        let mut some = vec![
            pointer(100, 300),
            event(Key::Text("text".into())),
            event(Key::Wheel(schema::WheelEvent { dx: 0, dy: 120 })),
        ];
        some.extend(stroke(Keysym::from('a')));
        some.extend(click(1));
        some
    };
    std::iter::repeat_with(kinds).flatten().take(MANY).collect()
}

fn refused(event: &SessionEvent) -> Option<String> {
    match event {
        SessionEvent::Media(Body::InputRefused(refused)) => Some(refused.reason.clone()),
        _ => None,
    }
}

/// Whether the picture is the screen, but for the bar at its top.
fn is_exact(client: &Client, canvas: &Canvas, (width, height): (u16, u16)) -> bool {
    let top = 200;
    let below = Rect {
        x: 0,
        y: 200,
        width,
        height: height - top,
    };
    let places = (top..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let real = client.screen(below);
    places
        .zip(real)
        .all(|((x, y), real)| canvas.pixel(x, y) == Some(real))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_9_the_screen_that_the_sharer_has_chosen_is_shown_from_the_first_frame_and_no_other() {
    let xvfb = Xvfb::start(WIDTH, HEIGHT);
    let client = Client::new(&xvfb);
    let half = WIDTH / 2;
    for monitor in [
        ["left", "320/85x480/127+0+0", "screen"],
        ["right", "320/85x480/127+320+0", "none"],
    ] {
        let args = [&["--setmonitor"][..], &monitor].concat();
        xvfb.run("xrandr", &args).succeed();
    }
    client.window(LOW, RED);
    let on_the_right = Rect { x: 360, ..LOW };
    client.window(on_the_right, GREEN);
    let relay = relay();
    let (mut helper, code) = invites(relay.address(), "Sam").await;
    let desktop = Desktop::Monitor {
        display: Some(xvfb.name()),
        name: "right".to_owned(),
    };
    let mut sharer = joins_on(relay.address(), "Maria", &code, desktop)
        .await
        .expect("the code works");
    helper.trust().await;
    sharer.trust().await;
    start(&mut helper, &mut sharer, Mode::View).await;
    let mut helper = watching(helper);
    let red = |canvas: &Canvas| {
        (0..canvas.pixels().width).any(|x| canvas.pixel(x, 260) == Some(RED_PIXEL))
    };
    helper
        .sees("the green window", |canvas| {
            assert!(!red(canvas), "the other screen was shown");
            canvas.pixel(60, 260) == Some(GREEN_PIXEL)
        })
        .await;
    let size = helper.view.canvas().pixels();
    assert_eq!((size.width, size.height), (half, HEIGHT));
    // Nor is it there to be chosen, whatever a helper's program says.
    for id in [0, 1, FIRST_WINDOW, FIRST_WINDOW + 1] {
        let select = schema::SelectSource { source: id };
        helper.media(Body::SelectSource(select)).await;
    }
    let listed = helper.sources(|_| true).await;
    let monitors: Vec<_> = listed
        .sources
        .iter()
        .filter(|source| source.id < FIRST_WINDOW)
        .map(|source| source.name.as_str())
        .collect();
    assert_eq!(monitors, ["right"]);
    client.window(
        Rect {
            y: 300,
            ..on_the_right
        },
        RED,
    );
    helper
        .sees("what is new there", |canvas| {
            canvas.pixel(60, 320) == Some(RED_PIXEL)
        })
        .await;
    // A screen that is gone is not another one.
    xvfb.run("xrandr", &["--delmonitor", "right"]).succeed();
    let ended = helper.hears("the end", |event| match event {
        SessionEvent::Ended(receipt) => Some(receipt.reason),
        _ => None,
    });
    assert_eq!(ended.await, EndReason::CaptureFailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn c_5_after_a_no_not_one_frame_has_left() {
    let xvfb = Xvfb::start(WIDTH, HEIGHT);
    let relay = relay();
    let (mut helper, code) = invites(relay.address(), "Sam").await;
    let desktop = Desktop::X11(Some(xvfb.name()));
    let mut sharer = joins_on(relay.address(), "Maria", &code, desktop)
        .await
        .expect("the code works");
    helper.trust().await;
    sharer.trust().await;
    helper.does(Command::AskMode(Mode::Control)).await;
    sharer.asked().await;
    // A program that does not wait for the answer.
    let mut helper = watching(helper);
    helper.keys(assault().split_off(MANY - BATCH)).await;
    sharer.does(Command::Decline).await;
    let reason = helper
        .hears("the end", |event| match event {
            SessionEvent::Ended(receipt) => Some(receipt.reason),
            _ => None,
        })
        .await;
    assert_eq!(reason, EndReason::Declined);
    assert!(helper.view.next().await.is_err(), "nothing came");
    assert_eq!(helper.view.counts().bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_events_in_view_none_reaches_the_display() {
    let mut stage = stage(Mode::View).await;
    stage.client.events();
    let before = stage.client.connection.query_pointer(stage.client.root);
    let before = before.expect("asks").reply().expect("a pointer");
    let events = assault();
    for batch in events.chunks(BATCH) {
        stage.helper.keys(batch.to_vec()).await;
        let reason = stage.helper.hears("a refusal", refused).await;
        assert_eq!(reason, "VIEW");
    }
    assert!(
        stage.client.events().is_empty(),
        "none of {} events",
        events.len()
    );
    let after = stage.client.connection.query_pointer(stage.client.root);
    let after = after.expect("asks").reply().expect("a pointer");
    assert_eq!((after.root_x, after.root_y), (before.root_x, before.root_y));
}

#[tokio::test(flavor = "multi_thread")]
async fn t_21_what_is_taken_back_is_gone_at_once_and_nothing_stays_pressed() {
    let mut stage = stage(Mode::Control).await;
    stage.client.events();
    let mut events = vec![pointer(100, 300)];
    events.extend(click(1).into_iter().take(1));
    stage.helper.keys(events).await;
    let client = &stage.client;
    let heard = |kind: fn(&x11rb::protocol::Event) -> bool| {
        eventually("an event", || {
            client.events().iter().any(kind).then_some(())
        });
    };
    heard(|event| matches!(event, x11rb::protocol::Event::ButtonPress(_)));
    stage.sharer.does(Command::DropMode).await;
    heard(|event| matches!(event, x11rb::protocol::Event::ButtonRelease(_)));
    stage
        .helper
        .hears("the smaller mode", |event| {
            matches!(
                event,
                SessionEvent::ModeChanged {
                    mode: Mode::View,
                    ..
                }
            )
            .then_some(())
        })
        .await;
    stage.helper.keys(assault().split_off(MANY - BATCH)).await;
    assert_eq!(stage.helper.hears("a refusal", refused).await, "VIEW");
    assert!(stage.client.events().is_empty());
}

/// In the middle of the bar.
const BAR_Y: u16 = 28;

/// The session has changed, or would, by what somebody has pressed at the sharer's computer.
fn is_pressed(event: &Event) -> bool {
    matches!(
        event,
        Event::ChatWanted
            | Event::Session(
                SessionEvent::Paused(_) | SessionEvent::ModeChanged { .. } | SessionEvent::Ended(_)
            )
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_who_clicks_all_along_the_bar_presses_nothing_and_the_sharer_does() {
    let mut stage = stage(Mode::Control).await;
    stage.client.events();
    let along: Vec<u16> = (0..WIDTH).step_by(6).collect();
    for places in along.chunks(BATCH / 4) {
        let clicks = places.iter().flat_map(|&x| {
            let [down, up] = click(1);
            [pointer(x, BAR_Y), down, up]
        });
        stage.helper.keys(clicks.collect()).await;
    }
    // What comes after them has arrived.
    let mut beside = vec![pointer(100, 300)];
    beside.extend(click(1));
    stage.helper.keys(beside).await;
    let client = &stage.client;
    eventually("a click beside the bar", || {
        let is_press = |event: &_| matches!(event, x11rb::protocol::Event::ButtonPress(_));
        client.events().iter().any(is_press).then_some(())
    });
    while let Ok(event) = stage.sharer.running.events.try_recv() {
        assert!(!is_pressed(&event), "{event:?}");
    }
    // The same by somebody else than the helper.
    for x in along {
        client.click(x.cast_signed(), BAR_Y.cast_signed());
    }
    let chat = |event: &Event| matches!(event, Event::ChatWanted).then_some(());
    stage.sharer.until(chat).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_helper_presses_in_the_sharers_own_windows_does_not_count() {
    let mut stage = stage(Mode::Control).await;
    stage.client.events();
    // The green window is the sharer's page: who presses there says that the words are the same, or asks for a file.
    let mut events = vec![pointer(100, 300)];
    events.extend(click(1).into_iter().take(1));
    stage.helper.keys(events).await;
    let client = &stage.client;
    eventually("a press", || {
        let is_press = |event: &_| matches!(event, x11rb::protocol::Event::ButtonPress(_));
        client.events().iter().any(is_press).then_some(())
    });
    for wish in [
        Input::Session(Command::SasChecked(true)),
        Input::Exchange(Wish::Accept(1)),
        Input::Exchange(Wish::Send("/etc/hostname".into())),
    ] {
        stage.sharer.wishes(wish).await;
        assert_eq!(not_possible(&mut stage.sharer).await, "HELPER_AT_WORK");
    }
    // Less is the sharer's to say at any time; more again once nothing is pressed any more.
    stage.sharer.does(Command::Pause(true)).await;
    loop {
        stage.sharer.does(Command::Pause(false)).await;
        let event = |event: &Event| match event {
            Event::NotPossible { code, .. } => Some(Err(*code)),
            Event::Session(SessionEvent::Paused(false)) => Some(Ok(())),
            _ => None,
        };
        match stage.sharer.until(event).await {
            Ok(()) => break,
            Err(code) => assert_eq!(code, "HELPER_AT_WORK"),
        }
    }
}

async fn not_possible(person: &mut Person) -> &'static str {
    let code = |event: &Event| match event {
        Event::NotPossible { code, .. } => Some(*code),
        _ => None,
    };
    person.until(code).await
}

/// What is said of a prompt: whether there is one, and whether keys reach it.
fn covered(event: &SessionEvent) -> Option<Option<bool>> {
    match event {
        SessionEvent::Covered(prompt) => Some(prompt.map(|prompt| prompt.takes_keys)),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d_10_a_prompt_for_a_password_is_not_shown_and_can_be_typed_at() {
    let mut stage = stage(Mode::Control).await;
    let connection = &stage.client.connection;
    let prompt = stage.client.window(LOW, RED);
    connection.unmap_window(prompt).expect("asked");
    let (class, text) = (AtomEnum::WM_CLASS, AtomEnum::STRING);
    let name = b"pinentry-gtk-2\0Pinentry-gtk-2\0";
    connection
        .change_property8(PropMode::REPLACE, prompt, class, text, name)
        .expect("asked");
    stage.client.sync();
    stage.client.events();
    connection.map_window(prompt).expect("asked");
    stage.client.sync();
    assert_eq!(stage.helper.hears("the prompt", covered).await, Some(true));
    stage
        .helper
        .sees("a blank picture", |canvas| {
            canvas.pixel(60, 260) == Some([0; 3])
        })
        .await;
    let connection = &stage.client.connection;
    connection
        .set_input_focus(InputFocus::POINTER_ROOT, prompt, 0u32)
        .expect("asked");
    stage.client.sync();
    stage.helper.keys(stroke(Keysym::from('a')).to_vec()).await;
    eventually("the key", || {
        let events = stage.client.events();
        let is_key = |event: &x11rb::protocol::Event| matches!(event, x11rb::protocol::Event::KeyPress(key) if key.event == prompt);
        events.iter().any(is_key).then_some(())
    });
    let connection = &stage.client.connection;
    connection.destroy_window(prompt).expect("asked");
    stage.client.sync();
    assert_eq!(stage.helper.hears("its end", covered).await, None);
    stage
        .helper
        .sees("the screen again", |canvas| {
            canvas.pixel(60, 260) == Some(GREEN_PIXEL)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t_22_after_the_blank_frame_of_a_pause_nothing_comes_until_it_is_over() {
    let mut stage = stage(Mode::Control).await;
    stage.sharer.does(Command::Pause(true)).await;
    stage
        .helper
        .sees("a blank picture", |canvas| {
            canvas.pixel(60, 260) == Some([0; 3])
                && canvas.pixel(WIDTH - 1, HEIGHT - 1) == Some([0; 3])
        })
        .await;
    let counts = stage.helper.view.counts();
    for round in 0..20 {
        let colour = if round % 2 == 0 { RED } else { GREEN };
        stage.client.window(LOW, colour);
        // Said and answered: what would have been sent before is here by then.
        stage.sharer.does(Command::Chat(round.to_string())).await;
        stage
            .helper
            .hears("chat", |event| {
                matches!(event, SessionEvent::Chat { .. }).then_some(())
            })
            .await;
    }
    assert_eq!(
        stage.helper.view.counts().frames,
        counts.frames,
        "no frame, whatever happened on the screen"
    );
    assert!(
        stage
            .helper
            .view
            .canvas()
            .pixels()
            .bytes
            .chunks(4)
            .all(|pixel| pixel[..3] == [0; 3])
    );
    stage.client.events();
    stage.helper.keys(assault().split_off(MANY - BATCH)).await;
    assert_eq!(stage.helper.hears("a refusal", refused).await, "PAUSED");
    assert!(stage.client.events().is_empty());
    stage.client.window(LOW, RED);
    stage.sharer.does(Command::Pause(false)).await;
    stage
        .helper
        .sees("the screen as it is now", |canvas| {
            canvas.pixel(60, 260) == Some(RED_PIXEL)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_shared_window_no_other_window_is_seen_or_touched() {
    let mut stage = stage(Mode::Control).await;
    let name = "shared";
    let shared = stage.client.window(LOW, GREEN);
    stage
        .client
        .connection
        .change_property(
            PropMode::REPLACE,
            shared,
            39u32,
            31u32,
            8,
            6,
            name.as_bytes(),
        )
        .expect("names it");
    // Listed are windows that a window manager would manage.
    let managed = ChangeWindowAttributesAux::new().override_redirect(0);
    stage
        .client
        .connection
        .change_window_attributes(shared, &managed)
        .expect("asks");
    stage.client.sync();
    // Half of it lies under a red one.
    let over = Rect {
        x: LOW.x + 100,
        ..LOW
    };
    stage.client.window(over, RED);
    stage
        .helper
        .sees("both", |canvas| {
            canvas.pixel(160, 260) == Some(RED_PIXEL) && canvas.pixel(60, 260) == Some(GREEN_PIXEL)
        })
        .await;
    // An unknown source makes the list anew.
    stage
        .helper
        .media(Body::SelectSource(schema::SelectSource {
            source: u32::MAX,
        }))
        .await;
    let listed = |screen: &schema::Screen| screen.sources.iter().any(|source| source.name == name);
    let screen = stage.helper.sources(listed).await;
    let source = screen
        .sources
        .iter()
        .find(|source| source.name == name && source.id >= FIRST_WINDOW)
        .expect("listed")
        .id;
    stage
        .helper
        .media(Body::SelectSource(schema::SelectSource { source }))
        .await;
    stage.helper.sources(|screen| screen.source == source).await;
    let size = (LOW.width, LOW.height);
    stage
        .helper
        .sees("the window alone", |canvas| {
            let pixels = canvas.pixels();
            (pixels.width, pixels.height) == size && canvas.is_exact()
        })
        .await;
    let colours: BTreeSet<[u8; 3]> = (stage.helper.view.canvas().pixels().bytes.chunks(4))
        .map(|pixel| [pixel[0], pixel[1], pixel[2]])
        .collect();
    assert!(!colours.contains(&RED_PIXEL), "{colours:?}");
    assert!(colours.contains(&GREEN_PIXEL));
    // Where the red one lies over it, the helper's button would be the red one's.
    stage.client.events();
    let part = |at: u16, length: u16| (u32::from(at) * 0x1_0000 + 0x8000) / u32::from(length);
    let at = |x: u16, y: u16| {
        event(Key::Pointer(schema::PointerEvent {
            x: part(x, LOW.width),
            y: part(y, LOW.height),
        }))
    };
    let mut events = vec![at(150, 20)];
    events.extend(click(1));
    events.push(at(20, 20));
    events.extend(click(3));
    stage.helper.keys(events).await;
    let client = &stage.client;
    let mut pressed = Vec::new();
    eventually("the right button", || {
        pressed.extend(client.events().into_iter().filter_map(|event| match event {
            x11rb::protocol::Event::ButtonPress(press) => Some((press.event, press.detail)),
            _ => None,
        }));
        pressed.iter().any(|(_, detail)| *detail == 3).then_some(())
    });
    assert_eq!(
        pressed,
        [(shared, 3)],
        "only where the window is to be seen"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_display_ends_the_session_and_says_why() {
    let mut stage = stage(Mode::View).await;
    stage.xvfb.kill();
    let reason = stage
        .helper
        .hears("the end", |event| match event {
            SessionEvent::Ended(receipt) => Some(receipt.reason),
            _ => None,
        })
        .await;
    assert_eq!(reason, EndReason::CaptureFailed);
    assert_eq!(stage.sharer.ended().await, EndReason::CaptureFailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_screen_that_rests_is_exact_and_one_that_is_resized_goes_on() {
    let mut stage = stage(Mode::View).await;
    stage.helper.sees("rest", Canvas::is_exact).await;
    assert!(is_exact(
        &stage.client,
        stage.helper.view.canvas(),
        (WIDTH, HEIGHT)
    ));
    let small = (512, 384);
    let mode = "40 512 552 600 648 384 385 388 400";
    let mode: Vec<&str> = ["--newmode", "small"]
        .into_iter()
        .chain(mode.split(' '))
        .collect();
    for args in [
        &mode[..],
        &["--addmode", "screen", "small"],
        &["--output", "screen", "--mode", "small"],
    ] {
        stage.xvfb.run("xrandr", args).succeed();
    }
    stage
        .helper
        .sees("the smaller screen at rest", |canvas| {
            let pixels = canvas.pixels();
            (pixels.width, pixels.height) == small && canvas.is_exact()
        })
        .await;
    assert!(is_exact(&stage.client, stage.helper.view.canvas(), small));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_screen_sends_no_frame() {
    let mut stage = stage(Mode::View).await;
    stage.helper.sees("rest", Canvas::is_exact).await;
    let ticks = |count| {
        let mut looks = BTreeSet::new();
        eventually("the bar's clock", || {
            // It is where it is: a question may lie on top of it, and it grows.
            let (_, bar) = stage.client.expect_window("Remora");
            looks.insert(stage.client.screen(bar));
            (looks.len() > count).then_some(())
        });
    };
    // Until it says how packets go, it grows.
    ticks(2);
    stage.helper.sees("rest", Canvas::is_exact).await;
    let counts = stage.helper.view.counts();
    ticks(2);
    stage
        .sharer
        .does(Command::Chat("still there?".into()))
        .await;
    stage
        .helper
        .hears("chat", |event| {
            matches!(event, SessionEvent::Chat { .. }).then_some(())
        })
        .await;
    assert_eq!(stage.helper.view.counts().frames, counts.frames);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_came_too_late_is_sent_again() {
    let xvfb = Xvfb::start(WIDTH, HEIGHT);
    let client = Client::new(&xvfb);
    client.window(LOW, GREEN);
    let relay = relay();
    let (mut helper, code) = invites(relay.address(), "Sam").await;
    let desktop = Desktop::X11(Some(xvfb.name()));
    let mut sharer = joins_on(relay.address(), "Maria", &code, desktop)
        .await
        .expect("the code works");
    helper.trust().await;
    sharer.trust().await;
    start(&mut helper, &mut sharer, Mode::View).await;
    let request = Body::KeyFrameRequest(schema::KeyFrameRequest {});
    helper.does(Command::Media(request)).await;
    let mut late = Vec::new();
    while late.len() < 3 {
        let frame = tokio::select! {
            frame = within("a frame", helper.running.frames.recv()) => frame.expect("a stream"),
            _ = helper.running.events.recv() => continue,
        };
        if frame[0] == CURSOR_STREAM {
            continue;
        }
        let (header, _) = Header::parse(&frame).expect("a frame");
        assert!(header.key.is_some(), "until one was seen");
        let sequence = header.sequence;
        late.push(sequence);
        let ack = schema::FrameAck {
            sequence,
            dropped: true,
            decode_ms: 0,
        };
        helper.does(Command::Media(Body::FrameAck(ack))).await;
    }
    assert!(late.is_sorted() && late[0] < late[2], "{late:?}");
    let mut helper = watching(helper);
    helper
        .sees("the green window", |canvas| {
            canvas.pixel(60, 260) == Some(GREEN_PIXEL)
        })
        .await;
}
