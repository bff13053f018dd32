//! A computer that nobody attends: two real nodes of an organisation, a real display that goes dark, and somebody who walks by.

#![allow(clippy::unwrap_used, reason = "what fails here has failed the test")]

#[path = "support/display.rs"]
mod display;
#[path = "support/logind.rs"]
mod logind;
mod support;

use std::time::Duration;

use display::{Client, Xvfb, eventually, is_dark, press_local_key};
use logind::Logind;
use nix::sys::signal::Signal;
use remora::share::capture::Rect;
use serde_json::{Value, json};
use support::{
    PATIENCE,
    process::{Ended, Home, RelayProcess, Script, run},
};
use x11rb::protocol::{
    Event,
    xproto::{ConnectionExt as _, InputFocus},
    xtest::ConnectionExt as _,
};

/// More than half a minute, which the guide gives whoever is there, and whoever has touched something.
const HALF_A_MINUTE: Duration = Duration::from_secs(50);
/// Of the letter a, on every layout that a server begins with.
const KEY: u8 = 38;

/// Contoso, whose helper may what `role` may, and a display.
struct Scene {
    relay: RelayProcess,
    /// Of the sharer's system.
    logind: Option<Logind>,
    admin: Home,
    sam: Home,
    maria: Home,
    display: Xvfb,
}

fn done(ended: Ended) -> Vec<String> {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout
}

impl Scene {
    fn new(role: &str) -> Self {
        let scene = Self {
            relay: RelayProcess::start(&[]),
            logind: None,
            admin: Home::new(),
            sam: Home::new(),
            maria: Home::new(),
            display: Xvfb::start(800, 600),
        };
        // As a real screen is.
        let lit = ["--output", "screen", "--gamma", "1:1:1"];
        scene.display.run("xrandr", &lit).succeed();
        scene.org(&["init", "--name", "Contoso", "--domain", "contoso.com"]);
        scene.org(&["policy", "enabled=on"]);
        scene.enrol(&scene.sam, "Sam Okafor", role, "desk-1");
        scene.enrol(&scene.maria, "Maria Lopez", "member", "fin-lt-0231");
        scene
    }

    fn org(&self, args: &[&str]) -> Vec<String> {
        done(run(self.admin.remora(&[&["admin", "org"], args].concat())))
    }

    fn enrol(&self, home: &Home, name: &str, role: &str, device: &str) {
        let request = done(run(home.remora(&["setup", "--request", "--name", name])));
        let sign = [
            "sign",
            &request[0],
            "--json",
            "--role",
            role,
            "--device",
            device,
        ];
        let signed: Value = serde_json::from_str(&self.org(&sign)[0]).expect("JSON");
        let file = signed["file"].as_str().expect("a path");
        done(run(home.remora(&["setup", "--credential", file])));
    }

    /// Both see each other; the helper has asked for control.
    fn asked(&self) -> (Script, Script) {
        let common = ["--relay", &self.relay.address, "--json", "--unattended"];
        let invite = [&["invite", "--mode", "control"], &common[..]].concat();
        let mut helper = Script::start(self.sam.remora(&invite));
        let code = helper.expect("code")["code"].clone();
        let mut join = self.maria.remora(&[&["join"], &common[..]].concat());
        join.env("DISPLAY", self.display.name());
        if let Some(logind) = &self.logind {
            join.env("DBUS_SYSTEM_BUS_ADDRESS", &logind.address);
        }
        let mut sharer = Script::start(join);
        sharer.say(code.as_str().expect("text"));
        (helper, sharer)
    }

    /// The screen is dark.
    fn shielded(&self) -> (Script, Script) {
        let (mut helper, mut sharer) = self.asked();
        sharer.until("countdown");
        sharer.say("a");
        for script in [&mut sharer, &mut helper] {
            script.until("started");
            assert_eq!(script.until("shield")["shield"], "shielded");
        }
        (helper, sharer)
    }
}

/// The helper's hands: XTEST's own keyboard.
fn press_xtest_key(client: &Client) {
    for kind in [2, 3] {
        let connection = &client.connection;
        connection
            .xtest_fake_input(kind, KEY, 0, client.root, 0, 0, 0)
            .unwrap();
    }
    client.sync();
}

fn keys(events: &[Event]) -> usize {
    let is_press = |event: &&Event| matches!(event, Event::KeyPress(_));
    events.iter().filter(is_press).count()
}

#[test]
fn u_1_without_an_answer_it_starts_after_half_a_minute() {
    let scene = Scene::new("unattended-operator");
    let (mut helper, mut sharer) = scene.asked();
    let countdown = sharer.until("countdown");
    assert_eq!(
        (&countdown["mode"], &countdown["within_s"]),
        (&json!("control"), &json!(30))
    );
    // Asked on the screen, too.
    let client = Client::new(&scene.display);
    client.expect_window("Remora");
    for script in [&mut sharer, &mut helper] {
        let mut event = script.event(HALF_A_MINUTE);
        while event["event"] != "started" {
            event = script.event(HALF_A_MINUTE);
        }
    }
    helper.say("/leave");
    let ended = sharer.until("ended");
    assert_eq!(
        (&ended["consent"], &ended["end_reason"]),
        (&json!("timeout"), &json!("HELPER_LEFT"))
    );
}

#[test]
fn u_2_who_is_there_says_no() {
    let scene = Scene::new("unattended-operator");
    let (mut helper, mut sharer) = scene.asked();
    sharer.until("countdown");
    sharer.say("d");
    assert_eq!(helper.until("ended")["end_reason"], "DECLINED");
    let client = Client::new(&scene.display);
    assert!(!is_dark(&client));
}

#[test]
fn u_8_control_does_not_bring_unattended_control() {
    let scene = Scene::new("help-desk-operator");
    let (mut helper, _sharer) = scene.asked();
    assert_eq!(helper.until("not_possible")["code"], "NO_PERMISSION");
}

#[test]
fn u_3_the_screen_is_dark_and_local_input_reaches_nothing_until_the_helper_leaves() {
    let scene = Scene::new("unattended-operator");
    let client = Client::new(&scene.display);
    let window = client.window(
        Rect {
            x: 0,
            y: 0,
            width: 100,
            height: 100,
        },
        0x00ff_ffff,
    );
    let focus = |client: &Client| {
        let connection = &client.connection;
        connection
            .set_input_focus(InputFocus::POINTER_ROOT, window, 0u32)
            .unwrap();
        client.sync();
    };
    focus(&client);
    press_local_key(&client);
    let heard = eventually("the key", || {
        Some(keys(&client.events())).filter(|count| *count > 0)
    });
    assert_eq!(heard, 1, "before, a key is a key");
    assert!(!is_dark(&client));

    let (mut helper, mut sharer) = scene.shielded();
    eventually("darkness", || is_dark(&client).then_some(()));
    press_xtest_key(&client);
    let heard = eventually("the helper's key", || {
        Some(keys(&client.events())).filter(|count| *count > 0)
    });
    assert_eq!(heard, 1);
    // Whoever lights it does not for long.
    let lit = scene
        .display
        .run("xrandr", &["--output", "screen", "--gamma", "1:1:1"]);
    lit.succeed();
    eventually("darkness again", || is_dark(&client).then_some(()));

    press_local_key(&client);
    for script in [&mut sharer, &mut helper] {
        let frozen = script.until("shield");
        assert_eq!(
            (&frozen["shield"], &frozen["within_s"]),
            (&json!("frozen"), &json!(30))
        );
    }
    assert_eq!(keys(&client.events()), 0, "it reached nothing");
    // The notice, over everything, can be read.
    eventually("light", || (!is_dark(&client)).then_some(()));
    let size = (800, 600);
    let covers = |(_, rect, _): &(u32, Rect, String)| (rect.width, rect.height) == size;
    assert!(
        client.windows().iter().any(covers),
        "{:?}",
        client.windows()
    );
    sharer.say("/leave");
    assert_eq!(
        sharer.until("not_possible")["code"],
        "UNATTENDED_NO_LOCAL_END"
    );
    for script in [&mut sharer, &mut helper] {
        let thawed = script.event(HALF_A_MINUTE);
        assert_eq!(thawed["shield"], "shielded", "{thawed}");
    }
    eventually("darkness", || is_dark(&client).then_some(()));
    assert!(!client.windows().iter().any(covers));
    helper.say("/leave");
    assert_eq!(sharer.until("ended")["end_reason"], "HELPER_LEFT");
    assert_eq!(sharer.end(PATIENCE).code, Some(0));
    assert!(!is_dark(&client), "as it was");
    focus(&client);
    press_local_key(&client);
    eventually("the key", || (keys(&client.events()) > 0).then_some(()));
}

#[test]
fn u_3_a_screen_whose_program_is_killed_is_lit_again() {
    let scene = Scene::new("unattended-operator");
    let client = Client::new(&scene.display);
    let (_helper, sharer) = scene.shielded();
    eventually("darkness", || is_dark(&client).then_some(()));
    sharer.signal(Signal::SIGKILL);
    eventually("light", || (!is_dark(&client)).then_some(()));
}

#[test]
fn t_16_where_nobody_is_signed_in_nobody_is_waited_for_if_policy_says_so() {
    let mut scene = Scene::new("unattended-operator");
    scene.logind = Some(Logind::with(scene.maria.path(), &[]));
    // Whoever asks for it: without the policy, half a minute is half a minute.
    let (_helper, mut sharer) = scene.asked();
    sharer.until("countdown");
    drop(sharer);
    scene.org(&["policy", "skip-wait-when-no-user=on"]);
    scene.enrol(&scene.maria, "Maria Lopez", "member", "fin-lt-0231");
    let (mut helper, mut sharer) = scene.asked();
    for script in [&mut sharer, &mut helper] {
        script.until("started");
    }
    helper.say("/leave");
    assert_eq!(sharer.until("ended")["consent"], "no_user");
    // Where that is not known, somebody may be there.
    scene.logind = None;
    let (_helper, mut sharer) = scene.asked();
    sharer.until("countdown");
}
