//! An administrator's rights, from the question to what is left of them: two real nodes, a real broker, real passwords, a real display.
//! Only logind is none: it writes down what it is asked.
//!
//! Needs root, as the broker does, and makes a user of the system, who goes with the test.

#[path = "support/broker.rs"]
mod broker;
#[path = "support/display.rs"]
mod display;
#[path = "support/logind.rs"]
mod logind;
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use broker::{Administrator, Broker, PASSWORD, holds, remembers};
use display::{Xvfb, eventually};
use logind::Logind;
use serde_json::{Value, json};
use support::{
    PATIENCE,
    process::{Home, RelayProcess, Script},
};

/// All that our own programs can write down.
const LOG: &str = "error,remora=trace,remora_proto=trace";

/// Two people, a display, a broker, an administrator.
struct Scene {
    administrator: Administrator,
    broker: Broker,
    logind: Logind,
    password: PathBuf,
    helper: Script,
    sharer: Script,
    home: Home,
    helper_home: Home,
    relay: RelayProcess,
    _display: Xvfb,
}

impl Scene {
    /// Both are in a session of mode control.
    fn controlled() -> Self {
        let (home, helper_home) = (Home::new(), Home::new());
        let administrator = Administrator::new();
        let broker = Broker::start(home.path(), &administrator.0);
        let logind = Logind::start(home.path());
        let display = Xvfb::start(640, 480);
        let relay = RelayProcess::start(&["--log", "trace"]);
        let password = helper_home.path().join("password");
        fs::write(&password, format!("{PASSWORD}\n")).expect("written");
        let args = ["--relay", &relay.address, "--json", "--name"];
        let invite = [&["invite"], &args[..], &["Sam Okafor", "--mode", "control"]].concat();
        let mut invite = helper_home.remora(&invite);
        invite.env("REMORA_LOG", LOG);
        let mut helper = Script::start(invite);
        let code = helper.expect("code")["code"].clone();
        let mut join = home.remora(&[&["join"], &args[..], &["Maria Lopez"]].concat());
        join.env("DISPLAY", display.name())
            .env("DBUS_SYSTEM_BUS_ADDRESS", &logind.address)
            .env("REMORA_BROKER", &broker.socket)
            .env("REMORA_LOG", LOG);
        let mut sharer = Script::start(join);
        sharer.say(code.as_str().expect("text"));
        sharer.until("consent_prompt");
        sharer.say("a");
        for script in [&mut sharer, &mut helper] {
            assert_eq!(script.until("started")["mode"], "control");
        }
        Self {
            administrator,
            broker,
            logind,
            password,
            helper,
            sharer,
            home,
            helper_home,
            relay,
            _display: display,
        }
    }

    /// The helper has an administrator's rights.
    fn elevated() -> Self {
        let mut scene = Self::controlled();
        scene.helper.say("/elevate");
        assert_eq!(scene.sharer.until("elevation_prompt")["within_s"], 60);
        scene.sharer.say("/allow");
        scene.sharer.until("elevation_granted");
        scene.helper.until("elevation_ready");
        scene
    }

    fn gives_credential(&mut self) -> Value {
        let (name, file) = (&self.administrator.0, self.password.display());
        self.helper.say(&format!("/credential {name} {file}"));
        self.helper.until("credential_checked")["admitted"].clone()
    }

    /// What it writes, and how it ends.
    fn runs(&mut self, command: &str) -> (String, Value) {
        self.helper.say(&format!("/run {command}"));
        assert_eq!(self.helper.until("run_started")["command"], command);
        assert_eq!(self.sharer.until("run_started")["command"], command);
        let mut output = String::new();
        loop {
            let event = self.helper.event(PATIENCE);
            match event["event"].as_str() {
                Some("run_output") => output += event["text"].as_str().expect("text"),
                Some("run_ended") => return (output, event["status"].clone()),
                _ => {}
            }
        }
    }
}

fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}

#[test]
fn d_2_a_helper_runs_programs_as_administrator_after_consent_and_credential() {
    let mut scene = Scene::elevated();
    scene.helper.say("/run id -u");
    let refused = scene.helper.until("order_refused");
    assert_eq!(
        refused["code"], "ORDER_NO_CREDENTIAL",
        "consent is not enough"
    );
    assert_eq!(scene.gives_credential(), true);
    assert_eq!(scene.runs("id -u"), ("0\n".to_owned(), json!(0)));
    let (display, status) = scene.runs("echo $DISPLAY; exit 7");
    assert_eq!((display.starts_with(':'), status), (true, json!(7)));
    // What was typed is nowhere any more: not with the helper, not with the sharer, not with the broker.
    let brokers = scene.broker.processes();
    assert_eq!(brokers.len(), 2, "the listener, and one for this elevation");
    let nodes = [scene.helper.pid(), scene.sharer.pid()];
    let relay = [scene.relay.pid()];
    for pid in brokers.iter().chain(&nodes).chain(&relay) {
        assert!(!remembers(*pid, PASSWORD.as_bytes()), "process {pid}");
    }
    // The search finds what is there.
    for (pid, argument) in [
        (brokers[0], scene.administrator.0.as_str()),
        (nodes[0], "Sam Okafor"),
        (nodes[1], "Maria Lopez"),
        (relay[0], "--listen"),
    ] {
        assert!(remembers(pid, argument.as_bytes()), "process {pid}");
    }
    // Nor does it stand in anything that they have written, who were told to write as much as they can: what they say, logs, files.
    scene.helper.say("/leave");
    for script in [&mut scene.helper, &mut scene.sharer] {
        let ended = script.end(PATIENCE);
        assert!(ended.stderr.contains("inner connection"), "it has a log");
        assert!(!ended.stderr.contains(PASSWORD), "in the log");
        assert!(!ended.stdout.concat().contains(PASSWORD), "said");
    }
    fs::remove_file(&scene.password).expect("the helper's own");
    for home in [scene.home.path(), scene.helper_home.path()] {
        assert_eq!(files_with(home, PASSWORD), Vec::<PathBuf>::new());
    }
    let log = fs::read(&scene.relay.log).expect("the relay's log");
    assert!(!log.is_empty() && !holds(&log, PASSWORD.as_bytes()));
}

/// Below a folder, those that hold the text.
fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("listed").path());
    paths
        .flat_map(|path| match (path.is_dir(), path.is_file()) {
            (true, _) => files_with(&path, text),
            (false, true) => {
                let bytes = fs::read(&path).expect("readable");
                let holds = holds(&bytes, text.as_bytes());
                holds.then_some(path).into_iter().collect()
            }
            (false, false) => Vec::new(),
        })
        .collect()
}

#[test]
fn t_25_elevation_ends_with_everything_it_started_also_what_has_detached_itself() {
    let mut scene = Scene::elevated();
    assert_eq!(scene.gives_credential(), true);
    let pids = scene.home.path().join("pids");
    let daemon = format!(
        "setsid sh -c 'echo $$ >>{0}; sleep 1000 & echo $! >>{0}; sync; wait' >/dev/null 2>&1 </dev/null &",
        pids.display()
    );
    assert_eq!(scene.runs(&daemon).1, json!(0));
    let daemons = eventually("two daemons", || {
        let pids = fs::read_to_string(&pids).ok()?;
        let pids: Vec<String> = pids.lines().map(str::to_owned).collect();
        (pids.len() == 2).then_some(pids)
    });
    assert!(daemons.iter().all(|pid| lives(pid)), "{daemons:?}");
    scene.helper.say("/release");
    scene.helper.until("elevation_released");
    let began = Instant::now();
    eventually("the daemons' end", || {
        daemons.iter().all(|pid| !lives(pid)).then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(10));
    scene.helper.say("/run id -u");
    assert_eq!(scene.helper.until("not_possible")["code"], "NOT_ELEVATED");
    scene.helper.say("/leave");
    scene.sharer.until("ended");
    assert_eq!(scene.logind.sign_outs(), 0, "{:?}", scene.logind.asked());
}

#[test]
fn after_three_wrong_passwords_the_rights_are_gone() {
    let mut scene = Scene::elevated();
    fs::write(&scene.password, "wrong\n").expect("written");
    for _ in 0..3 {
        assert_eq!(scene.gives_credential(), false);
    }
    scene.helper.until("elevation_released");
    scene.sharer.until("elevation_released");
}

#[test]
fn d_6_who_leaves_after_elevation_is_warned_and_signed_out_once() {
    let mut scene = Scene::elevated();
    scene.sharer.say("/leave");
    scene.sharer.until("leave_warning");
    scene.sharer.say("/stay");
    scene.sharer.until("stayed");
    scene.sharer.say("/leave");
    scene.sharer.until("leave_warning");
    assert_eq!(scene.logind.sign_outs(), 0);
    scene.sharer.say("/confirm");
    for script in [&mut scene.sharer, &mut scene.helper] {
        let ended = script.until("ended");
        assert_eq!(ended["end_reason"], "SHARER_LEFT_SIGNED_OUT");
    }
    assert_eq!(scene.sharer.end(PATIENCE).code, Some(0));
    assert_eq!(scene.logind.sign_outs(), 1, "{:?}", scene.logind.asked());
}

#[test]
fn d_7_a_helper_who_ends_it_after_elevation_signs_nobody_out() {
    let mut scene = Scene::elevated();
    scene.helper.say("/leave");
    for script in [&mut scene.helper, &mut scene.sharer] {
        assert_eq!(script.until("ended")["end_reason"], "HELPER_LEFT");
    }
    assert_eq!(scene.sharer.end(PATIENCE).code, Some(0));
    assert_eq!(scene.logind.sign_outs(), 0, "{:?}", scene.logind.asked());
}
