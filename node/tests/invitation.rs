//! `remora invite --device`, `remora agent` and `remora inbox`: the real programs and a real relay; on the desktop a real bus, with an
//! independent program that takes notifications (`python3-dbusmock`).

mod support;

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{
    PATIENCE,
    process::{Ended, Home, RelayProcess, Script, run},
};

/// A relay, a device with its log-ins, and a helper elsewhere.
struct Scene {
    relay: RelayProcess,
    device: Home,
    helper: Home,
}

/// Somebody who is logged in at the device: a display of its own, and a runtime folder.
struct Login {
    display: String,
    runtime: std::path::PathBuf,
    bus: Option<String>,
}

impl Scene {
    fn new() -> Self {
        Self {
            relay: RelayProcess::start(&[]),
            device: Home::new(),
            helper: Home::new(),
        }
    }

    fn login(&self, number: u32) -> Login {
        let runtime = self.device.path().join(format!("run-{number}"));
        std::fs::create_dir(&runtime).expect("a folder");
        Login {
            // Nothing is shown there: whoever opens an invitation talks.
            display: format!(":{}", 4_000 + number),
            runtime,
            bus: None,
        }
    }

    fn at(&self, login: &Login, args: &[&str]) -> Command {
        let mut command = self.device.remora(args);
        command
            .env("DISPLAY", &login.display)
            .env("XDG_RUNTIME_DIR", &login.runtime);
        if let Some(bus) = &login.bus {
            command.env("DBUS_SESSION_BUS_ADDRESS", bus);
        }
        command
    }

    /// An agent there, and the device's id.
    fn agent(&self, login: &Login) -> (Script, String) {
        let args = ["agent", "--json", "--relay", &self.relay.address];
        let mut agent = Script::start(self.at(login, &args));
        let device = agent.expect("device");
        let id = device["device"].as_str().expect("text").to_owned();
        if device["attached"] == false {
            agent.expect("online");
        }
        (agent, id)
    }

    fn invite(&self, device: &str, more: &[&str]) -> Script {
        let args = [
            &["invite", "--json", "--relay", &self.relay.address][..],
            &["--name", "Sam Okafor", "--company", "Contoso"],
            &["--device", device],
            more,
        ];
        Script::start(self.helper.remora(&args.concat()))
    }

    fn inbox(&self, login: &Login, more: &[&str]) -> Ended {
        run(self.at(login, &[&["inbox"][..], more].concat()))
    }

    fn letters(&self, login: &Login) -> Vec<Value> {
        let listed = self.inbox(login, &["--json"]);
        assert_eq!(listed.code, Some(0), "{listed:?}");
        let report: Value = serde_json::from_str(&listed.stdout[0]).expect("JSON");
        report["invitations"].as_array().expect("a list").clone()
    }

    fn open(&self, login: &Login, more: &[&str]) -> Script {
        let common = ["inbox", "open", "--json", "--relay", &self.relay.address];
        let args = [&common[..], &["--name", "Maria Lopez"], more].concat();
        Script::start(self.at(login, &args))
    }
}

fn state(script: &mut Script, wanted: &str) -> Value {
    let event = script.expect("notification");
    assert_eq!(event["state"], wanted, "{event}");
    event
}

/// The other's card, after the connection.
fn trust(script: &mut Script) -> Value {
    script.expect("connected");
    script.expect("trust")
}

#[test]
fn e_3_a_device_is_invited_by_its_name_and_whoever_opens_the_invitation_shares() {
    let scene = Scene::new();
    let login = scene.login(1);
    let (mut agent, id) = scene.agent(&login);
    // The small address book.
    let settings = scene.helper.path().join("config/remora/config.toml");
    std::fs::create_dir_all(settings.parent().expect("a folder")).expect("made");
    std::fs::write(&settings, format!("[devices]\nfin-lt-0231 = \"{id}\"\n")).expect("written");
    let more = ["--mode", "view", "--reason", "TICKET-123"];
    let mut helper = scene.invite("fin-lt-0231", &more);
    // No code is shown: nobody has to read one out (E-5).
    state(&mut helper, "sent");
    let device = helper.expect("device");
    assert_eq!(device["peer"]["verified"], false, "{device}");
    let delivered = state(&mut helper, "delivered");
    assert_eq!(
        (&delivered["agents"], &delivered["within_s"]),
        (&json!(1), &json!(300))
    );
    let offered = agent.expect("invitation");
    assert_eq!(
        (&offered["from"]["full_name"], &offered["reason"]),
        (&json!("Sam Okafor"), &json!("TICKET-123"))
    );
    assert_eq!(
        (&offered["from"]["company"], &offered["mode"]),
        (&json!("Contoso"), &json!("view"))
    );
    let mut sharer = scene.open(&login, &[]);
    agent.expect("invitation_opened");
    state(&mut helper, "opened");
    let (at_helper, at_sharer) = (trust(&mut helper), trust(&mut sharer));
    assert_eq!(at_helper["words"], at_sharer["words"]);
    assert_eq!(at_helper["peer"]["full_name"], "Maria Lopez");
    assert_eq!(at_sharer["peer"]["full_name"], "Sam Okafor");
    // What was chosen at the launch is asked.
    assert_eq!(sharer.expect("consent_prompt")["mode"], "view");
    sharer.say("d");
    assert_eq!(sharer.expect("ended")["end_reason"], "DECLINED");
    assert_eq!(scene.letters(&login), Vec::<Value>::new());
    assert_eq!(helper.end(PATIENCE).code, Some(3));
}

#[test]
fn e_5_nobody_who_is_invited_by_device_needs_a_code_and_no_code_is_shown() {
    let scene = Scene::new();
    let login = scene.login(1);
    let (_agent, id) = scene.agent(&login);
    let mut helper = scene.invite(&id, &[]);
    state(&mut helper, "sent");
    helper.expect("device");
    state(&mut helper, "delivered");
    let letters = scene.letters(&login);
    let text = letters[0].to_string();
    assert!(!text.contains("code"), "{text}");
    helper.signal(Signal::SIGTERM);
    let ended = helper.end(PATIENCE);
    let said = ended.stdout.join("\n");
    assert!(!said.contains("\"event\":\"code\""), "{said}");
}

#[test]
fn n_1_the_helper_hears_that_the_notification_was_sent_before_all_else() {
    let scene = Scene::new();
    let login = scene.login(1);
    let (agent, id) = scene.agent(&login);
    // It is there, and does not answer: that it was sent is said all the same.
    agent.signal(Signal::SIGSTOP);
    let mut helper = scene.invite(&id, &[]);
    state(&mut helper, "sent");
    agent.signal(Signal::SIGCONT);
    helper.expect("device");
    state(&mut helper, "delivered");
}

#[test]
fn n_2_what_was_not_received_is_sent_again_and_shown_once() {
    let scene = Scene::new();
    let login = scene.login(1);
    let (mut agent, id) = scene.agent(&login);
    agent.signal(Signal::SIGSTOP);
    let mut helper = scene.invite(&id, &[]);
    state(&mut helper, "sent");
    state(&mut helper, "not_received");
    agent.signal(Signal::SIGCONT);
    helper.say("r");
    helper.expect("device");
    state(&mut helper, "delivered");
    agent.expect("invitation");
    assert_eq!(scene.letters(&login).len(), 1);
}

#[test]
fn n_3_a_device_that_is_not_there_is_said_so_with_when_it_was() {
    let scene = Scene::new();
    let login = scene.login(1);
    let (mut agent, id) = scene.agent(&login);
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.end(PATIENCE).code, Some(0));
    let ended = scene.invite(&id, &[]).end(PATIENCE);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    let line = ended.line();
    assert!(line.contains("DEVICE_OFFLINE"), "{line}");
    assert!(line.contains("last seen"), "{line}");
    let error: Value = serde_json::from_str(ended.stdout.last().expect("one")).expect("JSON");
    assert_eq!(error["code"], "DEVICE_OFFLINE");
    let unknown = scene.invite("no-such-name", &[]).end(PATIENCE);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
}

#[test]
fn n_5_what_no_desktop_shows_is_in_the_inbox_where_it_can_be_declined_too() {
    let scene = Scene::new();
    // No bus, and so no notification.
    let login = scene.login(1);
    let nobody = scene.inbox(&login, &[]);
    assert!(nobody.line().contains("NO_AGENT"), "{nobody:?}");
    let (mut agent, id) = scene.agent(&login);
    assert_eq!(scene.inbox(&login, &[]).stdout, ["no invitation"]);
    let mut helper = scene.invite(&id, &["--reason", "printer"]);
    agent.expect("invitation");
    let listed = scene.inbox(&login, &[]).stdout;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(listed[0].contains("Sam Okafor (Contoso)"), "{listed:?}");
    let wrong = scene.inbox(&login, &["decline", "1"]);
    assert!(wrong.line().contains("UNKNOWN_INVITATION"), "{wrong:?}");
    let declined = scene.inbox(&login, &["decline"]);
    assert_eq!(declined.code, Some(0), "{declined:?}");
    agent.expect("invitation_declined");
    let ended = helper.end(PATIENCE);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.line().contains("DECLINED"), "{ended:?}");
    // And when the helper waits no more, it is gone.
    let mut helper = scene.invite(&id, &[]);
    agent.expect("invitation");
    helper.signal(Signal::SIGTERM);
    let gone = agent.expect("invitation_withdrawn");
    assert_eq!(gone["why"], "HELPER_CANCELLED", "{gone}");
    helper.end(PATIENCE);
}

#[test]
fn e_12_all_who_are_logged_in_are_invited_and_the_first_to_open_wins() {
    let scene = Scene::new();
    let logins = [scene.login(1), scene.login(2)];
    let (mut first, id) = scene.agent(&logins[0]);
    let (mut second, same) = scene.agent(&logins[1]);
    assert_eq!(same, id);
    // One agent is enough for one log-in.
    let args = ["agent", "--relay", &scene.relay.address];
    let again = run(scene.at(&logins[1], &args));
    assert!(again.line().contains("AGENT_RUNS"), "{again:?}");
    let mut helper = scene.invite(&id, &[]);
    state(&mut helper, "sent");
    helper.expect("device");
    assert_eq!(state(&mut helper, "delivered")["agents"], 2);
    let offered = first.expect("invitation");
    assert_eq!(second.expect("invitation")["id"], offered["id"]);
    let mut sharer = scene.open(&logins[1], &[]);
    second.expect("invitation_opened");
    let taken = first.expect("invitation_withdrawn");
    assert_eq!(
        (&taken["why"], &taken["id"]),
        (&json!("TAKEN"), &offered["id"])
    );
    state(&mut helper, "opened");
    trust(&mut helper);
    trust(&mut sharer);
    assert_eq!(scene.letters(&logins[0]), Vec::<Value>::new());
    sharer.signal(Signal::SIGTERM);
    helper.end(PATIENCE);
    // Whoever has the key ends: the other takes its place, as the same device.
    first.signal(Signal::SIGTERM);
    first.end(PATIENCE);
    assert_eq!(second.expect("device")["device"], json!(id));
    assert_eq!(second.expect("online")["agents"], 1);
    let mut helper = scene.invite(&id, &[]);
    second.expect("invitation");
    state(&mut helper, "sent");
}

#[test]
fn e_11_a_code_that_is_typed_in_one_log_in_is_that_ones_alone() {
    let scene = Scene::new();
    let logins = [scene.login(1), scene.login(2)];
    let (mut first, _) = scene.agent(&logins[0]);
    let (mut second, _) = scene.agent(&logins[1]);
    let common = ["--json", "--relay", &scene.relay.address];
    let mut helper = Script::start(
        scene
            .helper
            .remora(&[&["invite"][..], &common, &["--name", "Sam"]].concat()),
    );
    let code = helper.expect("code")["code"]
        .as_str()
        .expect("text")
        .to_owned();
    let join = [&["join", "--code-stdin"][..], &common].concat();
    let mut sharer = Script::start(scene.at(&logins[0], &join));
    sharer.say(&code);
    trust(&mut helper);
    trust(&mut sharer);
    for login in &logins {
        assert_eq!(scene.letters(login), Vec::<Value>::new());
    }
    for agent in [&mut first, &mut second] {
        agent.signal(Signal::SIGTERM);
        let ended = agent.end(PATIENCE);
        let said = ended.stdout.join("\n");
        assert!(!said.contains("invitation"), "{said}");
    }
}

const NOTIFICATIONS: &str = "org.freedesktop.Notifications";

/// A session bus with somebody who takes notifications, and says what comes.
struct Desktop {
    _daemon: Script,
    server: Script,
    address: String,
}

impl Desktop {
    fn new(home: &Home) -> Self {
        let mut command = home.command("dbus-daemon");
        command.args(["--session", "--nofork", "--print-address"]);
        let mut daemon = Script::start(command);
        let address = daemon.line(PATIENCE);
        // Debian's own, which has its packages.
        let mut command = home.command("/usr/bin/python3");
        command
            .args(["-u", "-m", "dbusmock", "--template", "notification_daemon"])
            .env("DBUS_SESSION_BUS_ADDRESS", &address);
        let server = Script::start(command);
        let desktop = Self {
            _daemon: daemon,
            server,
            address,
        };
        // It is there when its name is.
        let owner = "org.freedesktop.DBus.GetNameOwner";
        while !desktop.ask(home, "org.freedesktop.DBus", "/", owner, &[NOTIFICATIONS]) {}
        desktop
    }

    /// Asks somebody on the bus; whether they answer.
    fn ask(&self, home: &Home, to: &str, path: &str, method: &str, args: &[&str]) -> bool {
        let mut command = home.command("gdbus");
        command
            .args(["call", "--session", "--dest", to, "--object-path", path])
            .args(["--method", method])
            .args(args)
            .env("DBUS_SESSION_BUS_ADDRESS", &self.address);
        command.output().expect("it runs").status.success()
    }

    /// What the server says next that has this word in it.
    fn hears(&mut self, word: &str) -> String {
        loop {
            let line = self.server.line(PATIENCE);
            if line.contains(word) {
                return line;
            }
        }
    }

    /// The person presses a button of the notification of that number.
    fn press(&self, home: &Home, number: u32, key: &str) {
        let args = format!("[<uint32 {number}>, <'{key}'>]");
        let emitted = self.ask(
            home,
            NOTIFICATIONS,
            "/org/freedesktop/Notifications",
            "org.freedesktop.DBus.Mock.EmitSignal",
            &[NOTIFICATIONS, "ActionInvoked", "us", &args],
        );
        assert!(emitted, "pressed");
    }
}

#[test]
fn c_2_the_smallest_prompt_has_the_helpers_full_name_and_company() {
    let scene = Scene::new();
    let mut login = scene.login(1);
    let mut desktop = Desktop::new(&scene.device);
    login.bus = Some(desktop.address.clone());
    let (mut agent, id) = scene.agent(&login);
    let name = "Samantha Nkechi Adaeze Okafor-Lindqvist";
    let company = "Contoso Werkzeuge & Maschinen GmbH";
    let args = [
        &["invite", "--json", "--relay", &scene.relay.address][..],
        &["--name", name, "--company", company, "--device", &id],
    ];
    let _helper = Script::start(scene.helper.remora(&args.concat()));
    let shown = desktop.hears("Notify");
    agent.expect("invitation");
    for text in [name, &company.replace('&', "&amp;")] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
}

#[test]
fn e_4_an_invitation_is_a_notification_on_the_desktop_and_open_begins_the_session() {
    let scene = Scene::new();
    let mut login = scene.login(1);
    let mut desktop = Desktop::new(&scene.device);
    login.bus = Some(desktop.address.clone());
    // In the place of a browser: says which file it was given.
    let browser = scene.device.path().join("xdg-open");
    let page = scene.device.path().join("page");
    let script = format!(
        "#!/bin/sh\ncat \"$1\" > {0}.new && mv {0}.new {0}\n",
        page.display()
    );
    std::fs::write(&browser, script).expect("written");
    std::fs::set_permissions(
        &browser,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("ours");
    let args = ["agent", "--json", "--relay", &scene.relay.address];
    let mut command = scene.at(&login, &args);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", scene.device.path().display()));
    let mut agent = Script::start(command);
    let device = agent.expect("device");
    agent.expect("online");
    let id = device["device"].as_str().expect("text");

    let mut helper = scene.invite(id, &["--mode", "control", "--reason", "TICKET-<123>"]);
    let shown = desktop.hears("Notify");
    for text in [
        "Sam Okafor offers help",
        "Contoso",
        "full control",
        "TICKET-&lt;123&gt;",
        "open",
        "Decline",
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    agent.expect("invitation");
    state(&mut helper, "sent");
    helper.expect("device");
    state(&mut helper, "delivered");
    // Of no notification of ours, and no button.
    desktop.press(&scene.device, 7, "open");
    desktop.press(&scene.device, 1, "other");
    desktop.press(&scene.device, 1, "open");
    agent.expect("invitation_opened");
    state(&mut helper, "opened");
    trust(&mut helper);
    desktop.hears("CloseNotification");
    // The browser was led to the page, by a file that nobody else can read.
    let led = loop {
        match std::fs::read_to_string(&page) {
            Ok(text) => break text,
            Err(_) => std::thread::yield_now(),
        }
    };
    assert!(led.contains("http://127.0.0.1:"), "{led}");

    // Declined from there, the helper hears it.
    let mut other = scene.invite(id, &[]);
    desktop.hears("Notify");
    agent.expect("invitation");
    desktop.press(&scene.device, 2, "decline");
    agent.expect("invitation_declined");
    assert_eq!(other.end(PATIENCE).code, Some(3));
    helper.signal(Signal::SIGTERM);
    helper.end(PATIENCE);
}
