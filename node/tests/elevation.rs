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
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use broker::Broker;
use display::{Xvfb, eventually};
use logind::Logind;
use serde_json::{Value, json};
use support::{
    PATIENCE,
    process::{Home, RelayProcess, Script},
};

/// Of nothing else that is ever in a program's memory.
const PASSWORD: &str = "tr0ub4dor-ZQXJ-71f3-credential";

/// An administrator of this system, for as long as the test lasts.
struct Administrator(String);

impl Administrator {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("remora-{}-{number}", std::process::id());
        system(
            "useradd",
            &[
                "--no-create-home",
                "--shell",
                "/bin/sh",
                "--user-group",
                &name,
            ],
        );
        let administrator = Self(name);
        let mut chpasswd = Command::new("chpasswd")
            .stdin(Stdio::piped())
            .spawn()
            .expect("this test needs chpasswd (Debian: passwd)");
        let line = format!("{}:{PASSWORD}\n", administrator.0);
        let mut stdin = chpasswd.stdin.take().expect("piped");
        stdin.write_all(line.as_bytes()).expect("it listens");
        drop(stdin);
        assert!(chpasswd.wait().expect("waited for").success());
        administrator
    }
}

impl Drop for Administrator {
    fn drop(&mut self) {
        Command::new("userdel").arg(&self.0).status().ok();
    }
}

fn system(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status();
    let status = status.unwrap_or_else(|error| panic!("this test needs {program}: {error}"));
    assert!(status.success(), "{program} {args:?}, which needs root");
}

/// Two people, a display, a broker, an administrator.
struct Scene {
    administrator: Administrator,
    broker: Broker,
    logind: Logind,
    password: PathBuf,
    helper: Script,
    sharer: Script,
    home: Home,
    _helper_home: Home,
    _relay: RelayProcess,
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
        let relay = RelayProcess::start(&[]);
        let password = helper_home.path().join("password");
        fs::write(&password, format!("{PASSWORD}\n")).expect("written");
        let args = ["--relay", &relay.address, "--json", "--name"];
        let invite = [&["invite"], &args[..], &["Sam Okafor", "--mode", "control"]].concat();
        let mut helper = Script::start(helper_home.remora(&invite));
        let code = helper.expect("code")["code"].clone();
        let mut join = home.remora(&[&["join"], &args[..], &["Maria Lopez"]].concat());
        join.env("DISPLAY", display.name())
            .env("DBUS_SYSTEM_BUS_ADDRESS", &logind.address)
            .env("REMORA_BROKER", &broker.socket);
        let mut sharer = Script::start(join);
        sharer.say(code.as_str().expect("text"));
        until(&mut sharer, "consent_prompt");
        sharer.say("a");
        for script in [&mut sharer, &mut helper] {
            assert_eq!(until(script, "started")["mode"], "control");
        }
        Self {
            administrator,
            broker,
            logind,
            password,
            helper,
            sharer,
            home,
            _helper_home: helper_home,
            _relay: relay,
            _display: display,
        }
    }

    /// The helper has an administrator's rights.
    fn elevated() -> Self {
        let mut scene = Self::controlled();
        scene.helper.say("/elevate");
        assert_eq!(until(&mut scene.sharer, "elevation_prompt")["within_s"], 60);
        scene.sharer.say("/allow");
        until(&mut scene.sharer, "elevation_granted");
        until(&mut scene.helper, "elevation_ready");
        scene
    }

    fn gives_credential(&mut self) -> Value {
        let (name, file) = (&self.administrator.0, self.password.display());
        self.helper.say(&format!("/credential {name} {file}"));
        until(&mut self.helper, "credential_checked")["admitted"].clone()
    }

    /// What it writes, and how it ends.
    fn runs(&mut self, command: &str) -> (String, Value) {
        self.helper.say(&format!("/run {command}"));
        assert_eq!(until(&mut self.helper, "run_started")["command"], command);
        assert_eq!(until(&mut self.sharer, "run_started")["command"], command);
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

/// Goes on to an event of this kind.
fn until(script: &mut Script, kind: &str) -> Value {
    loop {
        let event = script.event(PATIENCE);
        if event["event"] == kind {
            return event;
        }
    }
}

/// Most pages are empty, and soon done with.
fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    const PAGE: usize = 4096;
    (0..bytes.len()).step_by(PAGE).any(|from| {
        let to = (from + PAGE + needle.len()).min(bytes.len());
        let page = &bytes[from..to];
        page.contains(&needle[0]) && page.windows(needle.len()).any(|window| window == needle)
    })
}

/// Whether the bytes are anywhere in the memory of a process.
fn remembers(pid: u32, needle: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    let mut memory = File::open(format!("/proc/{pid}/mem")).expect("root may");
    let mut searched = 0;
    let found = maps.lines().any(|line| {
        let mut parts = line.split_whitespace();
        let range = parts.next().and_then(|range| range.split_once('-'));
        let (from, to) = range.expect("a range");
        let is_writable = parts.next().is_some_and(|rights| rights.starts_with("rw"));
        let number = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        let (from, to) = (number(from), number(to));
        let mut bytes = vec![0; usize::try_from(to - from).expect("fits")];
        let read = memory
            .seek(SeekFrom::Start(from))
            .and_then(|_| memory.read_exact(&mut bytes));
        if !is_writable || read.is_err() {
            return false;
        }
        searched += bytes.len();
        holds(&bytes, needle)
    });
    assert!(searched > 100_000, "its memory could be read");
    found
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
    let refused = until(&mut scene.helper, "order_refused");
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
    for pid in brokers.iter().chain(&nodes) {
        assert!(!remembers(*pid, PASSWORD.as_bytes()), "process {pid}");
    }
    // The search finds what is there.
    for (pid, argument) in [
        (brokers[0], scene.administrator.0.as_str()),
        (nodes[0], "Sam Okafor"),
        (nodes[1], "Maria Lopez"),
    ] {
        assert!(remembers(pid, argument.as_bytes()), "process {pid}");
    }
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
    until(&mut scene.helper, "elevation_released");
    let began = Instant::now();
    eventually("the daemons' end", || {
        daemons.iter().all(|pid| !lives(pid)).then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(10));
    scene.helper.say("/run id -u");
    assert_eq!(
        until(&mut scene.helper, "not_possible")["code"],
        "NOT_ELEVATED"
    );
    scene.helper.say("/leave");
    until(&mut scene.sharer, "ended");
    assert_eq!(scene.logind.sign_outs(), 0, "{:?}", scene.logind.asked());
}

#[test]
fn after_three_wrong_passwords_the_rights_are_gone() {
    let mut scene = Scene::elevated();
    fs::write(&scene.password, "wrong\n").expect("written");
    for _ in 0..3 {
        assert_eq!(scene.gives_credential(), false);
    }
    until(&mut scene.helper, "elevation_released");
    until(&mut scene.sharer, "elevation_released");
}

#[test]
fn d_6_who_leaves_after_elevation_is_warned_and_signed_out_once() {
    let mut scene = Scene::elevated();
    scene.sharer.say("/leave");
    until(&mut scene.sharer, "leave_warning");
    scene.sharer.say("/stay");
    until(&mut scene.sharer, "stayed");
    scene.sharer.say("/leave");
    until(&mut scene.sharer, "leave_warning");
    assert_eq!(scene.logind.sign_outs(), 0);
    scene.sharer.say("/confirm");
    for script in [&mut scene.sharer, &mut scene.helper] {
        let ended = until(script, "ended");
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
        assert_eq!(until(script, "ended")["end_reason"], "HELPER_LEFT");
    }
    assert_eq!(scene.sharer.end(PATIENCE).code, Some(0));
    assert_eq!(scene.logind.sign_outs(), 0, "{:?}", scene.logind.asked());
}
