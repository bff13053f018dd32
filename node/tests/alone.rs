//! One program on a computer where nothing was prepared: it brings its page, needs nothing beside it, says what the computer lacks for
//! sharing its screen, and shows the screen that its person has chosen.
#![cfg(target_os = "linux")]

#[path = "support/display.rs"]
mod display;
mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::Command,
};

use display::Xvfb;
use serde_json::{Value, json};
use support::{
    PATIENCE,
    process::{Home, REMORA, RelayProcess, Script, run},
    terminal::{Terminal, WIDE},
};

/// What every Linux system has.
const SYSTEM_LIBRARIES: [&str; 7] = [
    "libc.so.",
    "libm.so.",
    "libgcc_s.so.",
    "libpthread.so.",
    "libdl.so.",
    "librt.so.",
    "ld-linux",
];

/// Passes over what is of no interest here.
fn told(script: &mut Script, kind: &str) -> Value {
    loop {
        let event = script.event(PATIENCE);
        if event["event"] == kind {
            return event;
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

/// What a browser is given.
fn get(host: &str, path: &str) -> String {
    let mut tcp = TcpStream::connect(host).expect("it listens");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).expect("text");
    answer
}

#[test]
fn a_5_the_helpers_page_is_the_own_computers_and_who_comes_by_a_link_is_only_seen() {
    let relay = RelayProcess::start(&[]);
    let (sam, maria) = (Home::new(), Home::new());
    let invite = [
        "invite",
        "--json",
        "--page",
        "--link",
        "--link-host",
        "help.contoso.com",
        "--relay",
        &relay.address,
    ];
    let mut helper = Script::start(sam.remora(&invite));
    let page = told(&mut helper, "page");
    let url = text(&page["url"]).strip_prefix("http://").expect("plain");
    let (host, _token) = url.split_once("/#").expect("a token");
    let port = host.strip_prefix("127.0.0.1:").expect("of this computer");
    // Nobody else's: not even another address of loopback leads there.
    assert!(TcpStream::connect(format!("127.0.0.2:{port}")).is_err());
    let shown = get(host, "/");
    assert!(shown.starts_with("HTTP/1.1 200"), "{shown}");
    // All of it comes from there.
    let links = ["src=\"", "href=\""].map(|link| shown.split(link).skip(1));
    let links: Vec<&str> = links.into_iter().flatten().collect();
    assert!(!links.is_empty(), "{shown}");
    for link in links {
        assert!(link.starts_with('/') && !link.starts_with("//"), "{link}");
        let path = link.split('"').next().expect("its end");
        let answer = get(host, path);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}");
    }
    let link = text(&told(&mut helper, "code")["link"]).to_owned();
    let join = ["join", "--json", "--relay", &relay.address];
    let mut sharer = Script::start(maria.remora(&join));
    sharer.say(&link);
    assert_eq!(told(&mut helper, "trust")["permitted"]["mode"], "view");
    assert_eq!(told(&mut sharer, "trust")["permitted"]["mode"], "view");
}

/// Of an ELF file, what it is loaded with.
fn needed(program: &str) -> Vec<String> {
    let output = Command::new("readelf")
        .args(["--dynamic", "--wide", program])
        .env("LC_ALL", "C")
        .output()
        .expect("this test needs readelf (Debian: apt-get install binutils)");
    let listed = String::from_utf8(output.stdout).expect("text");
    let names = listed.lines().filter(|line| line.contains("(NEEDED)"));
    names
        .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned()))
        .collect()
}

#[test]
fn a_6_one_file_that_anybody_can_put_anywhere_is_all_of_it() {
    for library in needed(REMORA) {
        let is_known = SYSTEM_LIBRARIES
            .iter()
            .any(|known| library.starts_with(known));
        assert!(is_known, "{library}");
    }
    let relay = RelayProcess::start(&[]);
    // A folder each, with one file in it, and no environment.
    let people = ["Sam Okafor", "Maria Lopez"].map(|name| {
        let home = Home::new();
        let program: PathBuf = home.path().join("remora");
        fs::copy(REMORA, &program).expect("copied");
        let of_home = home.path().to_owned();
        let command = move |args: &[&str]| {
            let mut command = Command::new(&program);
            command
                .args(args)
                .env_clear()
                .env("HOME", &of_home)
                .current_dir(&of_home);
            command
        };
        let setup = run(command(&["setup", &relay.address, "--name", name]));
        assert_eq!(setup.code, Some(0), "{setup:?}");
        (home, command)
    });
    let start = |who: usize, verb: &str| {
        let (_, command) = &people[who];
        Script::start(command(&[verb, "--json", "--relay-only"]))
    };
    let mut helper = start(0, "invite");
    let code = told(&mut helper, "code")["code"].clone();
    let mut sharer = start(1, "join");
    sharer.say(text(&code));
    let seen = told(&mut sharer, "trust");
    assert_eq!(seen["peer"]["full_name"], "Sam Okafor");
    told(&mut helper, "trust");
    helper.say("v");
    told(&mut sharer, "consent_prompt");
    sharer.say("a");
    for script in [&mut sharer, &mut helper] {
        told(script, "started");
    }
}

/// What is asked of that display, with what is found there.
fn preflight(home: &Home, display: &str) -> (Option<i32>, Value) {
    let mut command = home.remora(&["preflight", "--json"]);
    command.env("DISPLAY", display);
    let ended = run(command);
    let report = ended.stdout.first().expect("an object");
    (ended.code, serde_json::from_str(report).expect("JSON"))
}

#[test]
fn a_7_what_lacks_is_said_with_what_to_do_before_anybody_agrees_to_anything() {
    let home = Home::new();
    let whole = Xvfb::start(640, 480);
    let (code, report) = preflight(&home, &whole.name());
    assert_eq!((code, &report["can_share"]), (Some(0), &json!(true)));
    let findings = report["findings"].as_array().expect("a list");
    for part in ["DISPLAY", "XTEST", "MIT-SHM", "XFIXES", "RANDR"] {
        let found = findings
            .iter()
            .find(|found| text(&found["what"]).contains(part));
        let found = found.unwrap_or_else(|| panic!("{part} is not looked for: {report}"));
        assert_eq!((&found["ok"], &found["fix"]), (&json!(true), &json!("")));
    }
    let poor = Xvfb::start_with(640, 480, &["-extension", "XTEST", "-extension", "DAMAGE"]);
    let (code, report) = preflight(&home, &poor.name());
    assert_eq!((code, &report["can_share"]), (Some(1), &json!(false)));
    let findings = report["findings"].as_array().expect("a list");
    let lacking: Vec<&Value> = findings
        .iter()
        .filter(|found| found["ok"] == false)
        .collect();
    for part in ["XTEST", "DAMAGE"] {
        let found = lacking
            .iter()
            .find(|found| text(&found["what"]).contains(part));
        let found = found.unwrap_or_else(|| panic!("{part} lacks: {report}"));
        assert_ne!(found["fix"], "");
    }
    // Whoever joins there reads it before the code is asked for; where nothing lacks, nothing is said.
    let relay = RelayProcess::start(&[]);
    for (display, lacks) in [(&poor, true), (&whole, false)] {
        let mut command = home.remora(&["join", "--relay", &relay.address, "--no-page"]);
        command.env("DISPLAY", display.name());
        let mut sharer = Terminal::open("the sharer", &command, WIDE);
        let before = sharer.until("Code from your helper: ");
        assert_eq!(
            before.contains("Your screen cannot be shared: "),
            lacks,
            "{before}"
        );
        assert_eq!(before.contains("Chat works."), lacks, "{before}");
    }
}

#[test]
fn a_9_who_has_several_screens_is_told_which_and_shows_the_one_that_is_chosen() {
    let display = Xvfb::start(640, 480);
    for monitor in [
        ["left", "320/85x480/127+0+0", "screen"],
        ["right", "320/85x480/127+320+0", "none"],
    ] {
        let args = [&["--setmonitor"][..], &monitor].concat();
        display.run("xrandr", &args).succeed();
    }
    let home = Home::new();
    let on_display = |args: &[&str]| {
        let mut command = home.remora(args);
        command.env("DISPLAY", display.name());
        command
    };
    let listed = run(on_display(&["screens", "--json"]));
    let listed: Value = serde_json::from_str(&listed.stdout[0]).expect("JSON");
    let screens = listed["screens"].as_array().expect("a list");
    let rows: Vec<_> = screens
        .iter()
        .map(|screen| (text(&screen["name"]), &screen["x"], &screen["width"]))
        .collect();
    let (left, right) = (json!(0), json!(320));
    assert_eq!(rows, [("left", &left, &right), ("right", &right, &right)]);
    let lines = run(on_display(&["screens"])).stdout;
    assert!(lines[1].starts_with("2  right  320 × 480"), "{lines:?}");

    let relay = RelayProcess::start(&[]);
    let join = ["join", "--relay", &relay.address, "--no-page"];
    let wrong = run(on_display(&[&join[..], &["--screen", "middle"]].concat()));
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.line().contains("remora screens"), "{wrong:?}");
    let mut sharer = Terminal::open("the sharer", &on_display(&join), WIDE);
    sharer.expect("To show one alone, type `screen` and its number:");
    sharer.expect("2  right  320 × 480");
    sharer.expect("Code from your helper: ");
    sharer.enter("screen 3");
    sharer.expect("NO_SCREEN");
    sharer.enter("screen 2");
    sharer.expect("Your helper will see right and nothing else.");
    sharer.expect("Code from your helper: ");
    // Who has said it beforehand is not asked.
    let chosen = on_display(&[&join[..], &["--screen", "right"]].concat());
    let mut sharer = Terminal::open("the sharer", &chosen, WIDE);
    let before = sharer.until("Code from your helper: ");
    assert!(!before.contains("type `screen`"), "{before}");
}
