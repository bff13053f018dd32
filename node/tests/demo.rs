//! `remora demo`, as it is run by a person, a script and a check: the real binary, a real X server, and none.

#[path = "support/display.rs"]
mod display;
mod support;

use display::Xvfb;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{
    PATIENCE,
    process::{Ended, Home, Script, run},
    terminal::{Terminal, WIDE},
};

/// Processes that were started with this home and live.
fn left(home: &Home) -> Vec<String> {
    let mark = format!("HOME={}", home.path().display());
    let processes = std::fs::read_dir("/proc").expect("Linux");
    let named = processes.filter_map(|process| {
        let path = process.ok()?.path();
        // It may be another user's, or gone; a zombie has no environment any more.
        let environment = std::fs::read(path.join("environ")).ok()?;
        let ours = environment
            .split(|byte| *byte == 0)
            .any(|one| one == mark.as_bytes());
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        ours.then(|| name.trim().to_owned())
    });
    named.collect()
}

/// The last line of standard output.
fn object(end: &Ended) -> Value {
    let line = end.stdout.last().unwrap_or_else(|| panic!("{end:?}"));
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {end:?}"))
}

fn assert_seen(object: &Value, source: &str) {
    for (field, value) in [
        ("v", json!(1)),
        ("outcome", json!("ended")),
        ("source", json!(source)),
        ("pixel_exact", json!(true)),
        ("keys_arrived", json!(true)),
    ] {
        assert_eq!(object[field], value, "{field} in {object}");
    }
    let latency = &object["key_to_pixel_ms"];
    for number in [
        &object["frames"],
        &object["bytes"],
        &latency["p50"],
        &latency["p95"],
    ] {
        assert!(number.as_f64().is_some_and(|value| value > 0.0), "{object}");
    }
}

#[test]
fn a_check_shows_types_and_compares_on_a_screen_of_its_own() {
    let home = Home::new();
    let mut command = home.remora(&["demo", "--headless-check", "--json"]);
    // Whatever this says: a check never touches a person's display.
    command.env("DISPLAY", ":4711");
    let end = run(command);
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
    assert_eq!(end.stdout.len(), 1, "{end:?}");
    assert_seen(&object(&end), "x11");
    assert_eq!(left(&home), [""; 0]);
}

#[test]
fn a_check_without_an_x_server_plays_on_a_made_up_screen() {
    let home = Home::new();
    let mut command = home.remora(&["demo", "--headless-check"]);
    command.env("PATH", home.path().join("run"));
    let end = run(command);
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
    assert_seen(&object(&end), "synthetic");
    assert!(
        end.stdout
            .iter()
            .any(|line| line.contains("Xvfb is not installed")),
        "{end:?}"
    );
}

#[test]
fn a_demo_into_a_file_tells_the_story_and_ends_by_itself() {
    let home = Home::new();
    let end = run(home.remora(&["demo"]));
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
    let story = end.stdout.join("\n");
    for told in [
        "a screen without a monitor (Xvfb, :",
        "http://127.0.0.1:",
        "sees 1280 × 800 pixels",
        "letters appear",
        "to the last pixel",
        "keys arrived · pixels exact",
        "HELPER_LEFT",
    ] {
        assert!(story.contains(told), "{told} in {story}");
    }
    assert_eq!(left(&home), [""; 0]);
}

#[test]
fn the_display_one_sits_at_is_shared_and_only_the_demos_own_window_is_typed_at() {
    let display = Xvfb::start(1600, 1000);
    let home = Home::new();
    let mut command = home.remora(&["demo"]);
    command.env("DISPLAY", display.name());
    let end = run(command);
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
    let story = end.stdout.join("\n");
    for told in [
        "the display you are looking at",
        "sees 1600 × 1000 pixels",
        "keys arrived · pixels exact",
    ] {
        assert!(story.contains(told), "{told} in {story}");
    }
}

#[test]
fn a_display_that_cannot_be_shared_is_named_and_another_one_is_used() {
    let home = Home::new();
    let mut command = home.remora(&["demo"]);
    command.env("DISPLAY", ":4711");
    let end = run(command);
    assert_eq!(end.code, Some(0), "{end:?}");
    let story = end.stdout.join("\n");
    assert!(
        story.contains("your display cannot be shared: the display :4711 does not answer"),
        "{story}"
    );
}

#[test]
fn an_object_says_all_of_the_session_and_of_the_screen() {
    let home = Home::new();
    let end = run(home.remora(&["demo", "--json"]));
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
    let object = object(&end);
    assert_seen(&object, "x11");
    assert_eq!(
        (&object["end_reason"], &object["chat_messages"]),
        (&json!("HELPER_LEFT"), &json!(6))
    );
    assert_eq!(left(&home), [""; 0]);
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let home = Home::new();
        let mut demo = Script::start(home.remora(&["demo"]));
        while !demo.line(PATIENCE).contains("screen │") {}
        assert!(
            left(&home).contains(&"Xvfb".to_owned()),
            "{:?}",
            left(&home)
        );
        demo.signal(signal);
        let end = demo.end(PATIENCE);
        assert_eq!(end.code, Some(1), "{end:?}");
        assert!(end.line().contains("INTERRUPTED"), "{end:?}");
        assert_eq!(left(&home), [""; 0]);
    }
}

#[test]
fn in_a_terminal_the_page_stays_until_enter() {
    let home = Home::new();
    let mut demo = Terminal::open("the demo", &home.remora(&["demo"]), WIDE);
    demo.expect("http://127.0.0.1:");
    demo.expect("Enter ends the demo");
    demo.enter("");
    demo.expect("keys arrived · pixels exact");
    assert_eq!(demo.end(), 0);
    assert_eq!(left(&home), [""; 0]);
}
