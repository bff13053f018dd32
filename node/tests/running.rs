//! Sessions that run, from another terminal of the same computer: listed, asked, answered, left.

mod support;

use serde_json::{Value, json};
use support::{
    PATIENCE,
    process::{Ended, Home, RelayProcess, Script, run},
};

/// A relay, and people's computers.
struct Scene {
    relay: RelayProcess,
    helper_home: Home,
    sharer_home: Home,
    other_home: Home,
}

impl Scene {
    fn new() -> Self {
        let [helper_home, sharer_home, other_home] = [(); 3].map(|()| Home::new());
        Self {
            relay: RelayProcess::start(&[]),
            helper_home,
            sharer_home,
            other_home,
        }
    }

    fn start(&self, home: &Home, verb: &str, name: &str, more: &[&str]) -> Script {
        let common = [
            verb,
            "--relay",
            &self.relay.address,
            "--json",
            "--name",
            name,
        ];
        Script::start(home.remora(&[&common, more].concat()))
    }

    fn invite(&self, home: &Home, name: &str, more: &[&str]) -> (Script, String) {
        let mut helper = self.start(home, "invite", name, more);
        let code = helper.until("code")["code"].clone();
        (helper, code.as_str().expect("text").to_owned())
    }

    fn join(&self, home: &Home, name: &str, code: &str) -> Script {
        let mut sharer = self.start(home, "join", name, &[]);
        sharer.say(code);
        sharer
    }

    /// The helper sees the screen of somebody who is `name`, and nothing more.
    fn active(&self, home: &Home, name: &str, more: &[&str]) -> (Script, Script) {
        let (mut helper, code) = self.invite(&self.helper_home, "Sam Okafor", more);
        let mut sharer = self.join(home, name, &code);
        helper.until("trust");
        sharer.until("trust");
        helper.say("v");
        sharer.until("consent_prompt");
        sharer.say("a");
        sharer.until("started");
        helper.until("started");
        (helper, sharer)
    }
}

fn remora(home: &Home, args: &[&str]) -> Ended {
    run(home.remora(args))
}

fn object(ended: &Ended) -> Value {
    let line = ended.stdout.last().unwrap_or_else(|| panic!("{ended:?}"));
    serde_json::from_str(line).expect("an object")
}

fn sessions(home: &Home) -> Vec<Value> {
    let listed = remora(home, &["sessions", "--json"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let listed = object(&listed);
    assert_eq!(listed["v"], 1, "{listed}");
    listed["sessions"].as_array().expect("a list").clone()
}

/// How a command ends that is not obeyed.
fn fails(home: &Home, args: &[&str], exit: i32, code: &str) {
    let ended = remora(home, args);
    assert_eq!(ended.code, Some(exit), "{args:?}: {ended:?}");
    let line = ended.line();
    assert!(line.starts_with(&format!("remora: {code}: ")), "{line}");
    assert!(line.contains(';'), "what to do: {line}");
}

#[test]
fn a_running_session_is_asked_answered_and_left_from_another_terminal() {
    let scene = Scene::new();
    let (helper_home, sharer_home) = (&scene.helper_home, &scene.sharer_home);
    assert_eq!(sessions(helper_home), [] as [Value; 0]);
    for args in [
        &["ask", "control"][..],
        &["leave"],
        &["chat", "hello"],
        &["allow"],
    ] {
        fails(helper_home, args, 1, "NO_SESSION");
    }

    let (mut helper, mut sharer) = scene.active(sharer_home, "Maria Lopez", &[]);
    let [session] = &sessions(helper_home)[..] else {
        panic!("one session");
    };
    for (field, value) in [
        ("peer", json!("Maria Lopez")),
        ("role", json!("helper")),
        ("mode", json!("view")),
        ("question", Value::Null),
        ("pid", json!(helper.pid())),
    ] {
        assert_eq!(session[field], value, "{field} in {session}");
    }
    fails(sharer_home, &["allow"], 1, "NOTHING_ASKED");
    fails(sharer_home, &["decline"], 1, "BAD_STATE");
    fails(sharer_home, &["continue"], 1, "BAD_STATE");

    // The sharer is asked, and says no, then yes.
    for (answer, exit, event) in [
        ("decline", 3, "upgrade_declined"),
        ("allow", 0, "mode_changed"),
    ] {
        let ask = ["ask", "control", "--json", "--session", "maria"];
        let mut asking = Script::start(helper_home.remora(&ask));
        assert_eq!(sharer.until("consent_prompt")["mode"], "control");
        assert_eq!(sessions(sharer_home)[0]["question"], "control");
        fails(sharer_home, &["allow", "elevation"], 1, "BAD_STATE");
        let answered = remora(sharer_home, &[answer, "--json"]);
        assert_eq!(answered.code, Some(0), "{answered:?}");
        for person in [&mut helper, &mut sharer] {
            person.until(event);
        }
        let asked = asking.end(PATIENCE);
        assert_eq!(asked.code, Some(exit), "{asked:?}");
        let last = object(&asked);
        match exit {
            0 => assert_eq!(
                last,
                json!({"v": 1, "event": "done", "did": "asked", "peer": "Maria Lopez", "pid": helper.pid()})
            ),
            _ => assert_eq!(last["code"], "DECLINED", "{last}"),
        }
    }
    fails(helper_home, &["ask", "control"], 1, "BAD_STATE");
    // No part of this system runs anything with an administrator's rights.
    fails(helper_home, &["ask", "elevate"], 1, "UNSUPPORTED");

    fails(helper_home, &["pause"], 1, "BAD_STATE");
    assert_eq!(remora(sharer_home, &["pause"]).code, Some(0));
    helper.until("paused");
    fails(sharer_home, &["pause"], 1, "BAD_STATE");
    assert_eq!(remora(sharer_home, &["resume"]).code, Some(0));
    helper.until("resumed");

    assert_eq!(remora(helper_home, &["chat", "hello"]).code, Some(0));
    assert_eq!(sharer.until("chat")["text"], "hello");
    let mut saying = Script::start(sharer_home.remora(&["chat"]));
    saying.say("two lines,");
    saying.say("  and نعم");
    drop(saying.take_stdin());
    assert_eq!(saying.end(PATIENCE).code, Some(0));
    assert_eq!(helper.until("chat")["text"], "two lines,\n  and نعم");
    fails(helper_home, &["chat", "  "], 2, "NO_TEXT");
    let long = "x".repeat(16 * 1024 + 1);
    fails(helper_home, &["chat", &long], 2, "TEXT_TOO_LONG");

    let left = remora(sharer_home, &["leave", "--json"]);
    assert_eq!(left.code, Some(0), "{left:?}");
    assert_eq!(object(&left)["did"], "left");
    for person in [&mut helper, &mut sharer] {
        assert_eq!(person.until("ended")["end_reason"], "SHARER_LEFT");
        assert_eq!(person.end(PATIENCE).code, Some(0));
    }
    assert_eq!(sessions(helper_home), [] as [Value; 0]);
}

#[test]
fn who_waits_for_an_answer_learns_that_the_session_has_ended_instead() {
    let scene = Scene::new();
    let (mut helper, mut sharer) = scene.active(&scene.sharer_home, "Maria Lopez", &[]);
    let ask = ["ask", "control", "--json"];
    let mut asking = Script::start(scene.helper_home.remora(&ask));
    sharer.until("consent_prompt");
    sharer.say("/leave");
    let asked = asking.end(PATIENCE);
    assert_eq!(object(&asked)["code"], "SESSION_ENDED", "{asked:?}");
    assert_eq!(asked.code, Some(1), "nothing was allowed");
    for person in [&mut helper, &mut sharer] {
        assert_eq!(person.end(PATIENCE).code, Some(0));
    }
}

#[test]
fn one_helper_has_several_sessions_at_once_each_with_a_page_of_its_own() {
    let scene = Scene::new();
    let people = [
        (&scene.sharer_home, "Maria Lopez"),
        (&scene.other_home, "Zoë Brandt"),
    ];
    let mut pages = Vec::new();
    let mut pairs = Vec::new();
    for (home, name) in people {
        let (mut helper, code) = {
            let mut helper = scene.start(&scene.helper_home, "invite", "Sam Okafor", &["--page"]);
            pages.push(helper.expect("page")["url"].clone());
            let code = helper.until("code")["code"].clone();
            (helper, code.as_str().expect("text").to_owned())
        };
        let mut sharer = scene.join(home, name, &code);
        helper.until("trust");
        sharer.until("trust");
        pairs.push((helper, sharer));
    }
    assert_ne!(pages[0], pages[1]);
    let home = &scene.helper_home;
    let mut named: Vec<Value> = sessions(home).iter().map(|it| it["peer"].clone()).collect();
    named.sort_by_key(Value::to_string);
    assert_eq!(named, ["Maria Lopez", "Zoë Brandt"]);
    fails(home, &["ask", "view"], 2, "SEVERAL_SESSIONS");
    fails(home, &["ask", "view", "--session", "sam"], 1, "NO_SESSION");

    let (_, zoe) = &mut pairs[1];
    let mut asking = Script::start(home.remora(&["ask", "view", "--session", "ZOË"]));
    zoe.until("consent_prompt");
    zoe.say("a");
    zoe.until("started");
    assert_eq!(asking.end(PATIENCE).code, Some(0));
    let number = pairs[1].0.pid().to_string();
    let left = remora(home, &["leave", "--session", &number]);
    assert_eq!(left.code, Some(0), "{left:?}");
    let (helper, zoe) = &mut pairs[1];
    for person in [helper, zoe] {
        assert_eq!(person.until("ended")["end_reason"], "HELPER_LEFT");
    }
    // The other goes on, and is the only one now.
    let mut asking = Script::start(home.remora(&["ask", "view"]));
    let (_, maria) = &mut pairs[0];
    maria.until("consent_prompt");
    maria.say("d");
    assert_eq!(asking.end(PATIENCE).code, Some(3));
}

// ---- hand-over ---------------------------------------------------------------------------------

/// Of this kind, of the sharer's second session or of the first.
fn of_session(script: &mut Script, kind: &str, number: Value) -> Value {
    let event = script.until(kind);
    assert_eq!(event["session"], number, "{event}");
    event
}

#[test]
fn a_sharer_is_handed_over_with_consent_and_everything_anew() {
    let scene = Scene::new();
    let (mut sam, mut maria) = scene.active(&scene.sharer_home, "Maria Lopez", &[]);
    let (mut alex, code) = scene.invite(&scene.other_home, "Alex Roth", &[]);
    let first = sessions(&scene.sharer_home)[0]["peer"].clone();
    assert_eq!(first, "Sam Okafor");

    sam.say(&format!("/handover {code}"));
    maria.until("handover_prompt");
    assert_eq!(sessions(&scene.sharer_home)[0]["question"], "handover");
    maria.say("/allow");
    sam.until("handing_over");
    maria.until("handing_over");
    let card = of_session(&mut maria, "trust", json!(2));
    assert_eq!(card["peer"]["full_name"], "Alex Roth");
    assert_eq!(alex.until("trust")["words"], card["words"]);

    // The first one goes on until the second has started.
    sam.say("still here");
    let chat = of_session(&mut maria, "chat", Value::Null);
    assert_eq!(chat["text"], "still here");
    alex.say("c");
    let asked = of_session(&mut maria, "consent_prompt", json!(2));
    assert_eq!(
        (&asked["mode"], &asked["upgrade"]),
        (&json!("control"), &json!(false))
    );
    maria.say("s");
    of_session(&mut maria, "started", json!(2));
    assert_eq!(alex.until("started")["mode"], "view");
    for (person, exit) in [(&mut sam, Some(0)), (&mut maria, None)] {
        let ended = of_session(person, "ended", Value::Null);
        assert_eq!(ended["end_reason"], "HANDED_OVER");
        if exit.is_some() {
            assert_eq!(person.end(PATIENCE).code, exit);
        }
    }

    alex.say("hello");
    assert_eq!(of_session(&mut maria, "chat", json!(2))["text"], "hello");
    let [session] = &sessions(&scene.sharer_home)[..] else {
        panic!("one session");
    };
    assert_eq!(session["peer"], "Alex Roth", "{session}");
    let ping = remora(&scene.sharer_home, &["ping", "--count", "1"]);
    assert_eq!(ping.code, Some(0), "{ping:?}");
    maria.say("/leave");
    for (person, number) in [(&mut maria, json!(2)), (&mut alex, Value::Null)] {
        let ended = of_session(person, "ended", number);
        assert_eq!(ended["end_reason"], "SHARER_LEFT");
        assert_eq!(person.end(PATIENCE).code, Some(0));
    }
}

#[test]
fn when_nothing_comes_of_a_hand_over_the_first_session_is_as_it_was() {
    let scene = Scene::new();
    let (mut sam, mut maria) = scene.active(&scene.sharer_home, "Maria Lopez", &[]);
    let hand_over = |code: &str| {
        let mut command = scene.helper_home.remora(&["handover", "--json"]);
        command.env("REMORA_CODE", code);
        Script::start(command)
    };
    let fails = |mut script: Script, exit: i32, code: &str| {
        let ended = script.end(PATIENCE);
        assert_eq!(ended.code, Some(exit), "{ended:?}");
        assert_eq!(object(&ended)["code"], code, "{ended:?}");
    };
    fails(hand_over("4060-r0g"), 2, "INVALID_CODE");

    // The sharer does not want another helper.
    let asking = hand_over("4060-r0gx");
    maria.until("handover_prompt");
    assert_eq!(remora(&scene.sharer_home, &["decline"]).code, Some(0));
    for person in [&mut sam, &mut maria] {
        person.until("handover_declined");
    }
    fails(asking, 3, "DECLINED");

    // Nobody shows that code.
    let asking = hand_over("4060-r0gx");
    maria.until("handover_prompt");
    assert_eq!(remora(&scene.sharer_home, &["allow"]).code, Some(0));
    assert_eq!(maria.until("not_possible")["code"], "UNKNOWN_CODE");
    for person in [&mut sam, &mut maria] {
        person.until("handover_failed");
    }
    fails(asking, 1, "HANDOVER_FAILED");

    // The other helper asks for more than the sharer wants to give.
    let (mut alex, code) = scene.invite(&scene.other_home, "Alex Roth", &["--mode", "control"]);
    let asking = hand_over(&code);
    maria.until("handover_prompt");
    maria.say("/allow");
    of_session(&mut maria, "consent_prompt", json!(2));
    maria.say("d");
    let ended = of_session(&mut maria, "ended", json!(2));
    assert_eq!(ended["end_reason"], "DECLINED");
    for person in [&mut sam, &mut maria] {
        of_session(person, "handover_failed", Value::Null);
    }
    fails(asking, 1, "HANDOVER_FAILED");
    assert_eq!(alex.end(PATIENCE).code, Some(3));

    sam.say("still here");
    let chat = of_session(&mut maria, "chat", Value::Null);
    assert_eq!(chat["text"], "still here");
    assert_eq!(sessions(&scene.sharer_home)[0]["peer"], "Sam Okafor");
    maria.say("/leave");
    for person in [&mut sam, &mut maria] {
        let ended = of_session(person, "ended", Value::Null);
        assert_eq!(ended["end_reason"], "SHARER_LEFT");
        assert_eq!(person.end(PATIENCE).code, Some(0));
    }
}

#[test]
fn when_the_first_helper_leaves_on_the_way_the_second_session_begins_all_the_same() {
    let scene = Scene::new();
    let (mut sam, mut maria) = scene.active(&scene.sharer_home, "Maria Lopez", &[]);
    let (mut alex, code) = scene.invite(&scene.other_home, "Alex Roth", &[]);
    sam.say(&format!("/handover {code}"));
    maria.until("handover_prompt");
    maria.say("/allow");
    of_session(&mut maria, "trust", json!(2));
    sam.say("/leave");
    let ended = of_session(&mut maria, "ended", Value::Null);
    assert_eq!(ended["end_reason"], "HELPER_LEFT");
    alex.until("trust");
    alex.say("v");
    of_session(&mut maria, "consent_prompt", json!(2));
    maria.say("a");
    of_session(&mut maria, "started", json!(2));
    alex.say("/leave");
    for person in [&mut sam, &mut alex, &mut maria] {
        assert_eq!(person.end(PATIENCE).code, Some(0));
    }
}

#[test]
fn a_session_whose_output_nobody_reads_is_left() {
    let scene = Scene::new();
    let (mut helper, mut sharer) = scene.active(&scene.sharer_home, "Maria Lopez", &[]);
    helper.stop_reading();
    // The first closes the pipe, a later one finds it closed: together they are more than a pipe holds.
    for number in 0..1000 {
        sharer.say(&format!("are you there? {number:0100}"));
    }
    assert_eq!(sharer.until("ended")["end_reason"], "HELPER_LEFT");
}
