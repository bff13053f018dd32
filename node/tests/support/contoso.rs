//! Contoso: who signs, and two people with a relay between them, by a clock of their own where a test wants one.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{collections::BTreeMap, fs, process::Command};

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::support::process::{Ended, Home, REMORA, RelayProcess, Script, run};

/// A time of day that several programs share (libfaketime). What they measure by runs on as ever: only the date changes.
#[derive(Debug)]
struct Clock(NamedTempFile);

impl Clock {
    fn new() -> Self {
        let clock = Self(NamedTempFile::new().expect("a file"));
        clock.set(0);
        clock
    }

    /// So many hours after now.
    fn set(&self, hours: u32) {
        fs::write(self.0.path(), format!("+{hours}h")).expect("ours");
    }

    /// What makes a program go by it.
    fn environment(&self) -> BTreeMap<&'static str, String> {
        let file = self.0.path().display().to_string();
        [
            ("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1".into()),
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
        .into()
    }
}

/// Who signs, and two people with a relay between them.
pub(crate) struct Scene {
    pub(crate) relay: RelayProcess,
    pub(crate) admin: Home,
    pub(crate) sam: Home,
    pub(crate) maria: Home,
    /// That all of them go by, if it is not the system's.
    clock: Option<Clock>,
}

/// What it has printed; it must have ended well.
#[track_caller]
pub(crate) fn done(ended: Ended) -> Vec<String> {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout
}

/// The one JSON object that it has printed.
#[track_caller]
pub(crate) fn told(ended: Ended) -> Value {
    serde_json::from_str(&done(ended)[0]).expect("JSON")
}

impl Scene {
    /// Contoso, in which help is on and nobody has papers.
    pub(crate) fn new() -> Self {
        Self::by(None)
    }

    fn by(clock: Option<Clock>) -> Self {
        let environment = clock.as_ref().map(Clock::environment).unwrap_or_default();
        let scene = Self {
            relay: RelayProcess::start_in(&environment, &[]),
            admin: Home::new(),
            sam: Home::new(),
            maria: Home::new(),
            clock,
        };
        done(scene.org(&["init", "--name", "Contoso", "--domain", "contoso.com"]));
        done(scene.org(&["policy", "enabled=on"]));
        scene
    }

    /// The same 25 hours ago: both have papers, and a policy that holds for so many days, which they bring the relay.
    pub(crate) fn of_yesterday(days: &str) -> Self {
        let scene = Self {
            relay: RelayProcess::start(&[]),
            admin: Home::new(),
            sam: Home::new(),
            maria: Home::new(),
            clock: None,
        };
        let org = |args: &[&str]| {
            let mut command = scene.admin.command("faketime");
            command
                .args(["-f", "-25h", REMORA, "admin", "org"])
                .args(args);
            done(run(command))
        };
        org(&["init", "--name", "Contoso", "--domain", "contoso.com"]);
        org(&["policy", "enabled=on", "--days", days]);
        for (home, name, role, device) in [
            (&scene.sam, "Sam Okafor", "help-desk-operator", "desk-1"),
            (&scene.maria, "Maria Lopez", "member", "fin-lt-0231"),
        ] {
            let request = done(run(home.remora(&["setup", "--request", "--name", name])));
            let sign = ["sign", &request[0], "--role", role, "--device", device];
            let file = &org(&sign)[0];
            done(run(home.remora(&["setup", "--credential", file])));
        }
        scene
    }

    /// Sam may what `role` may, Maria gets help.
    pub(crate) fn enrolled(role: &str) -> Self {
        Self::new().with_both(role)
    }

    /// The same, and all go by one clock, which can be put forward.
    pub(crate) fn enrolled_by_a_clock(role: &str) -> Self {
        Self::by(Some(Clock::new())).with_both(role)
    }

    fn with_both(self, role: &str) -> Self {
        let sams = ["--role", role, "--device", "desk-1"];
        self.enrol(&self.sam, "Sam Okafor", &sams);
        let marias = ["--role", "member", "--device", "fin-lt-0231"];
        self.enrol(&self.maria, "Maria Lopez", &marias);
        self
    }

    pub(crate) fn org(&self, args: &[&str]) -> Ended {
        run(self.remora(&self.admin, &[&["admin", "org"], args].concat()))
    }

    /// It is so many hours later than when it began, for everybody at once.
    pub(crate) fn later(&self, hours: u32) {
        let clock = self.clock.as_ref().expect("a clock of its own");
        clock.set(hours);
    }

    /// `remora`, at that home, by the clock of all.
    pub(crate) fn remora(&self, home: &Home, args: &[&str]) -> Command {
        let mut command = home.remora(args);
        command.envs(
            self.clock
                .as_ref()
                .map(Clock::environment)
                .unwrap_or_default(),
        );
        command
    }

    /// All three steps; gives what was signed.
    pub(crate) fn enrol(&self, home: &Home, name: &str, more: &[&str]) -> Value {
        let request = done(run(
            self.remora(home, &["setup", "--request", "--name", name])
        ));
        let signed = told(self.org(&[&["sign", &request[0], "--json"], more].concat()));
        let file = signed["file"].as_str().expect("a path");
        done(run(self.remora(home, &["setup", "--credential", file])));
        signed
    }

    pub(crate) fn start(&self, home: &Home, verb: &str, more: &[&str]) -> Script {
        let common = [verb, "--relay", &self.relay.address, "--json"];
        Script::start(self.remora(home, &[&common, more].concat()))
    }

    /// Both are connected.
    pub(crate) fn connected(&self) -> (Script, Script) {
        let mut helper = self.start(&self.sam, "invite", &[]);
        let code = helper.expect("code")["code"].clone();
        let mut sharer = self.start(&self.maria, "join", &[]);
        sharer.say(code.as_str().expect("text"));
        for script in [&mut helper, &mut sharer] {
            script.expect("connected");
        }
        (helper, sharer)
    }

    /// Both see each other's card; what the helper was told.
    pub(crate) fn introduced(&self) -> (Script, Script, Value, Value) {
        let (mut helper, mut sharer) = self.connected();
        let (at_helper, at_sharer) = (helper.expect("trust"), sharer.expect("trust"));
        (helper, sharer, at_helper, at_sharer)
    }
}
