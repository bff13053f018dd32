//! A computer that is restarted in a session: real programs, a real broker, a real display, a logind that writes down what it is asked.
//! The sharer's program ends, as with its computer, and begins again with what was on the disk.
//!
//! Needs root, as the broker does.

#[path = "support/broker.rs"]
mod broker;
#[path = "support/display.rs"]
mod display;
#[path = "support/logind.rs"]
mod logind;
mod support;

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use broker::Broker;
use display::Xvfb;
use logind::{Login, Logind, STUCK};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::{
    PATIENCE,
    process::{Home, RelayProcess, Script, run},
};

/// One person, and the greeter that the display manager keeps.
const ALONE: [Login; 2] = [(1000, "user"), (112, "greeter")];
/// What a person would be asked.
const QUESTIONS: [&str; 4] = ["trust", "consent_prompt", "countdown", "awaiting_consent"];

/// Two people, a display, a broker; the helper has an administrator's rights.
struct Scene {
    broker: Broker,
    logind: Logind,
    helper: Script,
    sharer: Script,
    home: Home,
    display: Xvfb,
    _helper_home: Home,
    relay: RelayProcess,
}

impl Scene {
    fn elevated(logins: &[Login]) -> Self {
        let (home, helper_home) = (Home::new(), Home::new());
        let broker = Broker::start(home.path(), "root");
        let logind = Logind::with(home.path(), logins);
        let display = Xvfb::start(640, 480);
        let relay = RelayProcess::start(&[]);
        let args = ["--relay", &relay.address, "--json", "--name"];
        let invite = [&["invite"], &args[..], &["Sam Okafor", "--mode", "control"]].concat();
        let mut helper = Script::start(helper_home.remora(&invite));
        let code = helper.expect("code")["code"].clone();
        let join = home.remora(&[&["join"], &args[..], &["Maria Lopez"]].concat());
        let mut scene = Self {
            sharer: Script::start(on(join, &display, &logind, &broker)),
            broker,
            logind,
            helper,
            home,
            display,
            _helper_home: helper_home,
            relay,
        };
        scene.sharer.say(code.as_str().expect("text"));
        scene.sharer.until("consent_prompt");
        scene.sharer.say("a");
        for script in [&mut scene.sharer, &mut scene.helper] {
            assert_eq!(script.until("started")["mode"], "control");
        }
        scene.helper.say("/elevate");
        scene.sharer.until("elevation_prompt");
        scene.sharer.say("/allow");
        scene.sharer.until("elevation_granted");
        scene
    }

    /// The helper asks for it, and the sharer allows it.
    fn restart(&mut self) {
        self.helper.say("/restart");
        assert_eq!(self.sharer.until("restart_prompt")["within_s"], 60);
        self.sharer.say("/allow");
    }

    /// After the restart; no relay and no name has to be given.
    fn resume(&self) -> Command {
        let command = self.home.remora(&["join", "--resume", "--json"]);
        on(command, &self.display, &self.logind, &self.broker)
    }

    fn token(&self) -> PathBuf {
        self.home.path().join("config/remora/config.resume")
    }
}

fn on(mut command: Command, display: &Xvfb, logind: &Logind, broker: &Broker) -> Command {
    command
        .env("DISPLAY", display.name())
        .env("DBUS_SYSTEM_BUS_ADDRESS", &logind.address)
        .env("REMORA_BROKER", &broker.socket);
    command
}

/// The same, and nobody is asked anything on the way.
fn until_unasked(script: &mut Script, kind: &str) -> Value {
    loop {
        let event = script.event(PATIENCE);
        let name = event["event"].as_str().expect("a name");
        assert!(!QUESTIONS.contains(&name), "asked: {event}");
        if name == kind {
            return event;
        }
    }
}

#[test]
fn t_36_a_computer_restarts_and_the_session_goes_on_and_nobody_is_asked() {
    let mut scene = Scene::elevated(&ALONE);
    scene.helper.say("before");
    assert_eq!(scene.sharer.until("chat")["text"], "before");
    scene.restart();
    let waits = scene.helper.until("interrupted");
    assert_eq!(
        (&waits["why"], &waits["within_s"]),
        (&"restarting".into(), &600.into())
    );
    assert_eq!(scene.sharer.end(PATIENCE).code, Some(0));
    assert_eq!(scene.logind.reboots(), 1, "{:?}", scene.logind.asked());
    let token = fs::metadata(scene.token()).expect("on the disk");
    assert_eq!(token.permissions().mode() & 0o777, 0o600);
    // Nothing but leaving can be done meanwhile.
    scene.helper.say("/elevate");
    assert_eq!(scene.helper.until("not_possible")["code"], "BAD_STATE");

    scene.sharer = Script::start(scene.resume());
    let returned = until_unasked(&mut scene.sharer, "returned");
    assert_eq!(returned["peer"]["full_name"], "Sam Okafor");
    let returned = until_unasked(&mut scene.helper, "returned");
    assert_eq!(returned["peer"]["full_name"], "Maria Lopez");
    for script in [&mut scene.sharer, &mut scene.helper] {
        assert_eq!(until_unasked(script, "reconnected")["mode"], "control");
    }
    assert!(!scene.token().exists(), "of no use any more");
    assert_eq!(run(scene.resume()).code, Some(1), "once");
    // The rights were of before.
    scene.helper.say("/run id -u");
    assert_eq!(scene.helper.until("not_possible")["code"], "NOT_ELEVATED");
    scene.helper.say("after");
    assert_eq!(scene.sharer.until("chat")["text"], "after");
    scene.helper.say("/leave");
    // One receipt each, of all of it.
    let helper = scene.helper.until("ended");
    let sharer = scene.sharer.until("ended");
    assert_eq!(
        (&helper["chat_sent"], &sharer["chat_received"]),
        (&2.into(), &2.into())
    );
    assert_eq!(sharer["consent"], "user");
    for receipt in [helper, sharer] {
        assert_eq!(receipt["end_reason"], "HELPER_LEFT");
        assert_eq!(
            (&receipt["mode"], &receipt["elevated"]),
            (&"control".into(), &true.into())
        );
    }
    assert_eq!(scene.logind.reboots(), 1);
}

#[test]
fn t_36_an_agent_that_starts_goes_on_with_the_session() {
    let mut scene = Scene::elevated(&ALONE);
    scene.restart();
    assert_eq!(scene.sharer.end(PATIENCE).code, Some(0));
    scene.helper.until("interrupted");
    let agent = ["agent", "--relay", &scene.relay.address, "--json"];
    let agent = scene.home.remora(&agent);
    let agent = on(agent, &scene.display, &scene.logind, &scene.broker);
    let _agent = Script::start(agent);
    assert_eq!(
        until_unasked(&mut scene.helper, "reconnected")["mode"],
        "control"
    );
    assert!(!scene.token().exists(), "of no use any more");
    // Which ends the program that the agent has started, too.
    scene.helper.say("/leave");
    assert_eq!(scene.helper.until("ended")["end_reason"], "HELPER_LEFT");
}

/// Whoever has copied the token has no session by it, and disturbs none.
#[test]
fn t_34_what_resumes_a_session_does_so_once() {
    let mut scene = Scene::elevated(&ALONE);
    scene.restart();
    assert_eq!(scene.sharer.end(PATIENCE).code, Some(0));
    let stolen = fs::read(scene.token()).expect("on the disk");
    scene.sharer = Script::start(scene.resume());
    scene.sharer.until("reconnected");
    scene.helper.until("reconnected");

    let thief = Home::new();
    let folder = thief.path().join("config/remora");
    fs::create_dir_all(&folder).expect("a folder");
    let copy = folder.join("config.resume");
    fs::write(&copy, stolen).expect("written");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).expect("ours");
    let command = thief.remora(&["join", "--resume", "--json"]);
    let command = on(command, &scene.display, &scene.logind, &scene.broker);
    let mut thief = Script::start(command);
    scene.helper.say("still here");
    assert_eq!(scene.sharer.until("chat")["text"], "still here");
    scene.helper.say("/leave");
    for script in [&mut scene.helper, &mut scene.sharer] {
        assert_eq!(script.until("ended")["end_reason"], "HELPER_LEFT");
    }
    thief.signal(Signal::SIGINT);
    let ended = thief.end(PATIENCE);
    assert!(ended.stdout.is_empty(), "nobody was met: {ended:?}");
}

#[test]
fn t_35_a_helper_who_does_not_wait_for_a_restart_ends_the_session() {
    let mut scene = Scene::elevated(&ALONE);
    scene.restart();
    scene.helper.until("interrupted");
    assert_eq!(scene.sharer.end(PATIENCE).code, Some(0));
    scene.helper.say("/leave");
    let ended = scene.helper.until("ended");
    assert_eq!(ended["end_reason"], "HELPER_LEFT");
    assert_eq!(scene.helper.end(PATIENCE).code, Some(0));
}

#[test]
fn t_36_a_computer_that_does_not_restart_goes_on_at_once() {
    let mut scene = Scene::elevated(&[(1000, "user"), STUCK]);
    scene.restart();
    for script in [&mut scene.sharer, &mut scene.helper] {
        script.until("restart_declined");
        assert_eq!(script.until("reconnected")["mode"], "control");
    }
    assert_eq!(scene.logind.reboots(), 1, "{:?}", scene.logind.asked());
    assert!(!scene.token().exists());
    scene.helper.say("/leave");
    scene.sharer.until("ended");
}

#[test]
fn e_13_a_computer_that_two_people_use_is_not_restarted_and_the_helper_knows() {
    let mut scene = Scene::elevated(&[(1000, "user"), (1001, "user")]);
    // Said when the session started.
    assert_eq!(
        scene.helper.until("no_restart")["code"],
        "RESTART_UNAVAILABLE"
    );
    scene.helper.say("/restart");
    assert_eq!(scene.helper.until("refused")["code"], "RESTART_UNAVAILABLE");
    assert_eq!(scene.logind.reboots(), 0, "{:?}", scene.logind.asked());
    assert!(!scene.token().exists());
    scene.helper.say("still here");
    assert_eq!(scene.sharer.until("chat")["text"], "still here");
}
