//! The real binary driven by scripts: links, files, clipboard, and keys that no keyboard has.

mod support;

use std::{fs, path::Path};

use serde_json::{Value, json};
use support::{
    PATIENCE,
    process::{Home, RelayProcess, Script},
};

/// Two scripts and their relay.
struct Scene {
    relay: RelayProcess,
    homes: [Home; 2],
}

impl Scene {
    fn new() -> Self {
        Self {
            relay: RelayProcess::start(&[]),
            homes: [Home::new(), Home::new()],
        }
    }

    fn start(&self, who: usize, verb: &str, more: &[&str]) -> Script {
        let common = [verb, "--relay", &self.relay.address, "--json"];
        Script::start(self.homes[who].remora(&[&common[..], more].concat()))
    }

    /// The helper, and what was shown.
    fn invite(&self, more: &[&str]) -> (Script, Value) {
        let mut helper = self.start(0, "invite", more);
        let shown = told(&mut helper, "code");
        (helper, shown)
    }

    /// Both see each other's card; what the helper was told.
    fn introduced(
        &self,
        more: &[&str],
        given: impl Fn(&Value) -> String,
    ) -> (Script, Script, Value) {
        let (mut helper, shown) = self.invite(more);
        let mut sharer = self.start(1, "join", &[]);
        sharer.say(&given(&shown));
        let trust = told(&mut helper, "trust");
        told(&mut sharer, "trust");
        (helper, sharer, trust)
    }

    /// In a session of mode control.
    fn active(&self) -> (Script, Script) {
        let (mut helper, mut sharer, _) = self.introduced(&[], |shown| text(&shown["code"]));
        helper.say("c");
        told(&mut sharer, "consent_prompt");
        sharer.say("a");
        assert_eq!(told(&mut helper, "started")["mode"], "control");
        told(&mut sharer, "started");
        (helper, sharer)
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// The next event of that kind; what else is told on the way is others' to test.
fn told(script: &mut Script, kind: &str) -> Value {
    loop {
        let event = script.event(PATIENCE);
        if event["event"] == kind {
            return event;
        }
    }
}

fn code(script: &mut Script, event: &str) -> String {
    text(&told(script, event)["code"])
}

#[test]
fn e_1_a_helper_gets_a_code_to_give_to_the_sharer() {
    let scene = Scene::new();
    let (_helper, shown) = scene.invite(&[]);
    let code = text(&shown["code"]);
    let (left, right) = code.split_once('-').expect("two halves");
    assert_eq!(
        (left.len(), right.len(), &shown["valid_s"]),
        (4, 4, &json!(600))
    );
}

#[test]
fn e_2_a_sharer_starts_the_program_and_types_the_code() {
    let scene = Scene::new();
    let (mut helper, mut sharer) = scene.active();
    sharer.say("/leave");
    assert_eq!(told(&mut helper, "ended")["end_reason"], "SHARER_LEFT");
}

#[test]
fn e_6_who_comes_by_a_link_shows_the_screen_and_no_more() {
    let scene = Scene::new();
    let asked = ["--link", "--link-host", "help.contoso.com"];
    let (mut helper, mut sharer, trust) = scene.introduced(&asked, |shown| {
        let link = text(&shown["link"]);
        let bare = text(&shown["code"]).replace('-', "");
        assert_eq!(link, format!("https://help.contoso.com/j#{bare}"));
        link
    });
    assert_eq!(trust["permitted"]["mode"], "view", "{trust}");
    assert_eq!(trust["permitted"]["limit"], "LINK", "{trust}");
    helper.say("/control");
    assert_eq!(code(&mut helper, "not_possible"), "MODE_NOT_PERMITTED");
    helper.say("v");
    assert_eq!(told(&mut sharer, "consent_prompt")["mode"], "view");
    sharer.say("a");
    assert_eq!(told(&mut helper, "started")["mode"], "view");
    told(&mut sharer, "started");
    helper.say("/control");
    assert_eq!(code(&mut helper, "not_possible"), "MODE_NOT_PERMITTED");
    sharer.say("/same");
    sharer.say("/files on");
    assert_eq!(code(&mut sharer, "not_possible"), "MODE_NOT_PERMITTED");
}

#[test]
fn e_6_the_guides_form_of_a_link_is_one_too() {
    let scene = Scene::new();
    let (.., trust) = scene.introduced(&[], |shown| {
        let bare = text(&shown["code"]).replace('-', "");
        format!("https://aka.ms/rh?passcode={bare}")
    });
    assert_eq!(trust["permitted"]["mode"], "view", "{trust}");
}

#[test]
fn d_9_the_power_key_is_pressed_where_a_system_has_one_and_said_where_it_has_not() {
    let scene = Scene::new();
    let (mut helper, mut sharer) = scene.active();
    for line in ["/power", "/power long"] {
        helper.say(line);
        assert_eq!(code(&mut helper, "refused"), "UNSUPPORTED");
    }
    // The session goes on.
    helper.say("hello");
    assert_eq!(told(&mut sharer, "chat")["text"], "hello");
}

#[test]
fn a_8_no_audio_device_is_opened() {
    let scene = Scene::new();
    let (helper, sharer) = scene.active();
    for script in [&helper, &sharer] {
        let open = format!("/proc/{}/fd", script.pid());
        let names: Vec<_> = fs::read_dir(&open)
            .expect("running")
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .collect();
        assert!(names.len() > 3, "{names:?}");
        assert!(
            !names.iter().any(|name| name.starts_with("/dev/snd")),
            "{names:?}"
        );
        // Nor is a sound server's client part of the program.
        let maps = fs::read_to_string(format!("/proc/{}/maps", script.pid())).expect("running");
        for library in ["libasound", "libpulse", "libpipewire", "libjack"] {
            assert!(!maps.contains(library), "{library}");
        }
    }
}

#[test]
fn a_file_goes_from_script_to_script_once_it_is_granted_and_accepted() {
    let scene = Scene::new();
    let (mut helper, mut sharer) = scene.active();
    let path = scene.homes[0].path().join("report.txt");
    fs::write(&path, "what it says").expect("written");
    let send = format!("/send {}", path.display());
    helper.say(&send);
    assert_eq!(code(&mut helper, "not_possible"), "NOT_GRANTED");
    helper.say("/files to-them");
    assert_eq!(code(&mut helper, "refused"), "UNVERIFIED");
    sharer.say("/same");
    told(&mut helper, "peer_checked_words");
    helper.say("/files to-them");
    assert_eq!(
        told(&mut sharer, "grant_wanted")["wanted"],
        json!(["files_to_sharer"])
    );
    sharer.say("/files to-me");
    assert_eq!(
        told(&mut helper, "granted")["granted"],
        json!(["files_to_sharer"])
    );
    helper.say(&send);
    let offer = told(&mut sharer, "file_offered");
    assert_eq!(
        (&offer["name"], &offer["bytes"], &offer["direction"]),
        (&json!("report.txt"), &json!(12), &json!("in"))
    );
    sharer.say(&format!("/accept {}", offer["number"]));
    let over = told(&mut sharer, "file_over");
    assert_eq!(over["code"], "FILE_RECEIVED", "{over}");
    let there = text(&over["path"]);
    assert!(
        Path::new(&there).starts_with(scene.homes[1].path()),
        "{there}"
    );
    assert_eq!(fs::read_to_string(&there).expect("there"), "what it says");
    assert_eq!(code(&mut helper, "file_over"), "FILE_RECEIVED");
    sharer.say("/files off");
    assert_eq!(told(&mut helper, "granted")["granted"], json!([]));
}

#[test]
fn text_goes_from_script_to_script_when_it_is_asked_for() {
    let scene = Scene::new();
    let (mut helper, mut sharer) = scene.active();
    sharer.say("/same");
    sharer.say("/clipboard to-them");
    told(&mut helper, "granted");
    sharer.say("/copy grüße");
    assert_eq!(told(&mut helper, "clipboard_offered")["bytes"], 7);
    helper.say("/clipboard get");
    assert_eq!(told(&mut helper, "clipboard")["text"], "grüße");
    helper.say("/copy no");
    assert_eq!(code(&mut helper, "not_possible"), "NOT_GRANTED");
}
