//! The real binary driven by scripts: `--json` and pipes on both sides.

mod support;

use std::{io::Write, os::unix::fs::PermissionsExt as _, time::SystemTime};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{
    LEAVE_LIMIT, PATIENCE, chat_line,
    process::{Home, REMORA, RelayProcess, Script, run},
};

const MANY: usize = 1_000;

#[test]
fn an_operator_with_the_token_drains_a_relay_and_nobody_else() {
    let home = Home::new();
    let token = home.path().join("token");
    let others = home.path().join("others");
    for (path, text) in [
        (&token, "0123456789abcdef\n"),
        (&others, "fedcba9876543210\n"),
    ] {
        std::fs::write(path, text).expect("written");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("ours");
    }
    let [token, others] = [token, others].map(|path| path.display().to_string());
    let mut relay = RelayProcess::start(&["--admin-token-file", &token]);
    let admin = format!("http://{}", relay.admin);
    let drain = |file: &str| {
        let args = [
            "admin",
            "drain",
            &admin,
            "--wait",
            "--json",
            "--token-file",
            file,
        ];
        run(home.remora(&args))
    };
    let refused = drain(&others);
    assert_eq!(refused.code, Some(6), "{refused:?}");
    let drained = drain(&token);
    assert_eq!(drained.code, Some(0), "{drained:?}");
    let told: Value = serde_json::from_str(&drained.stdout[0]).expect("JSON");
    assert_eq!(
        (&told["event"], &told["state"]),
        (&json!("drain"), &json!("drained"))
    );
    assert_eq!(
        (&told["sessions"], &told["remaining"]),
        (&json!(0), &json!(0))
    );
    assert!(relay.wait().success());
    assert_eq!(drain(&token).code, Some(5), "it is gone");
}

/// Two scripts and their relay.
struct Scene {
    relay: RelayProcess,
    helper_home: Home,
    sharer_home: Home,
}

impl Scene {
    fn new() -> Self {
        Self {
            relay: RelayProcess::start(&[]),
            helper_home: Home::new(),
            sharer_home: Home::new(),
        }
    }

    fn args<'a>(&'a self, verb: &'a str, name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let common = [
            verb,
            "--relay",
            &self.relay.address,
            "--json",
            "--name",
            name,
        ];
        [&common[..], more].concat()
    }

    fn invite(&self, more: &[&str]) -> (Script, String) {
        let args = self.args("invite", "Sam Okafor", more);
        let mut helper = Script::start(self.helper_home.remora(&args));
        let shown = helper.expect("code");
        let code = shown["code"].as_str().expect("text").to_owned();
        (helper, code)
    }

    fn join(&self, more: &[&str]) -> Script {
        let args = self.args("join", "Maria Lopez", more);
        Script::start(self.sharer_home.remora(&args))
    }

    /// Both see each other's trust card.
    fn introduced(&self) -> (Script, Script) {
        let (mut helper, code) = self.invite(&[]);
        let mut sharer = self.join(&[]);
        sharer.say(&code);
        for script in [&mut helper, &mut sharer] {
            script.expect("connected");
        }
        let (one, other) = (helper.expect("trust"), sharer.expect("trust"));
        assert_eq!(one["words"], other["words"]);
        assert_eq!(one["words"].as_array().map(Vec::len), Some(3), "{one}");
        assert_eq!(one["peer"]["full_name"], "Maria Lopez");
        assert_eq!(other["peer"]["full_name"], "Sam Okafor");
        assert_eq!(one["peer"]["verified"], false);
        (helper, sharer)
    }

    /// Both are in a session of mode view, although control was asked for.
    fn active(&self) -> (Script, Script) {
        let (mut helper, mut sharer) = self.introduced();
        helper.say("c");
        assert_eq!(sharer.expect("consent_prompt")["mode"], "control");
        helper.expect("awaiting_consent");
        sharer.say("s");
        assert_eq!(sharer.expect("started")["mode"], "view");
        assert_eq!(helper.expect("started")["mode"], "view");
        (helper, sharer)
    }
}

fn wrong(code: &str) -> String {
    let last = if code.ends_with('0') { "1" } else { "0" };
    format!("{}{last}", &code[..code.len() - 1])
}

#[test]
fn a_session_is_one_object_a_line_from_the_code_to_the_end() {
    let scene = Scene::new();
    let (mut helper, code) = scene.invite(&[]);
    let mut sharer = scene.join(&["--code-stdin", "--company", "Contoso"]);
    sharer.say(&format!("  {}  ", code.to_uppercase().replace('-', " ")));

    let connected = helper.expect("connected");
    assert_eq!(
        (&connected["path"], &connected["relay"]),
        (&json!("relayed"), &json!("relay"))
    );
    assert!(
        connected["rtt_ms"].as_f64().is_some_and(|rtt| rtt > 0.0),
        "{connected}"
    );
    sharer.expect("connected");
    let (at_helper, at_sharer) = (helper.expect("trust"), sharer.expect("trust"));
    assert_eq!(at_helper["words"], at_sharer["words"]);
    assert_eq!(
        at_helper["peer"],
        json!({"full_name": "Maria Lopez", "job_title": "", "company": "Contoso", "domain": "", "verified": false})
    );

    helper.say("y");
    assert_eq!(sharer.expect("peer_checked_words")["same"], true);
    sharer.say("y");
    assert_eq!(helper.expect("peer_checked_words")["same"], true);
    helper.say("v");
    let prompt = sharer.expect("consent_prompt");
    assert_eq!(
        (&prompt["mode"], &prompt["upgrade"]),
        (&json!("view"), &json!(false))
    );
    assert_eq!(helper.expect("awaiting_consent")["within_s"], 300);
    sharer.say("a");
    assert_eq!(sharer.expect("started")["mode"], "view");
    assert_eq!(helper.expect("started")["mode"], "view");

    helper.say("hello");
    let chat = sharer.expect("chat");
    assert_eq!((&chat["id"], &chat["text"]), (&json!(1), &json!("hello")));
    helper.say("/control");
    assert_eq!(sharer.expect("consent_prompt")["upgrade"], true);
    helper.expect("awaiting_consent");
    sharer.say("/allow");
    for script in [&mut helper, &mut sharer] {
        let changed = script.expect("mode_changed");
        assert_eq!(
            (&changed["mode"], &changed["by"]),
            (&json!("control"), &json!("sharer"))
        );
    }
    sharer.say("/nonsense");
    sharer.expect("not_possible");
    sharer.say("/leave");
    for (script, sent, received) in [(&mut sharer, 0, 1), (&mut helper, 1, 0)] {
        let ended = script.expect("ended");
        assert_eq!(ended["end_reason"], "SHARER_LEFT");
        assert_eq!(
            (&ended["mode"], &ended["sas"]),
            (&json!("control"), &json!("verified"))
        );
        assert_eq!(
            (&ended["chat_sent"], &ended["chat_received"]),
            (&json!(sent), &json!(received))
        );
        let end = script.end(PATIENCE);
        assert_eq!(
            (end.code, end.stdout.len(), end.stderr.as_str()),
            (Some(0), 0, "")
        );
    }
}

#[test]
fn a_thousand_lines_each_way_at_once_arrive_whole_and_in_order() {
    let scene = Scene::new();
    let (mut helper, mut sharer) = scene.active();
    let writers = [&mut helper, &mut sharer].map(|script| {
        let mut stdin = script.take_stdin();
        // All at once, as a paste does; who reads less than it is sent must not stop for ever.
        std::thread::spawn(move || {
            let lines: String = (0..MANY).map(|n| chat_line(n) + "\n").collect();
            stdin.write_all(lines.as_bytes()).expect("it listens");
            stdin
        })
    });
    for script in [&mut helper, &mut sharer] {
        for n in 0..MANY {
            let chat = script.expect("chat");
            assert_eq!(
                (&chat["id"], &chat["text"]),
                (&json!(n + 1), &json!(chat_line(n)))
            );
        }
    }
    let [mut stdin, _other] = writers.map(|writer| writer.join().expect("written"));
    writeln!(stdin, "/leave").expect("it listens");
    for script in [&mut sharer, &mut helper] {
        let ended = script.expect("ended");
        assert_eq!(ended["end_reason"], "HELPER_LEFT");
        assert_eq!(ended["chat_received"], MANY);
        assert_eq!(script.end(PATIENCE).code, Some(0));
    }
}

#[test]
fn a_session_that_is_declined_exits_with_3_on_both_sides() {
    let scene = Scene::new();
    let (mut helper, code) = scene.invite(&["--mode", "control"]);
    let mut sharer = scene.join(&[]);
    sharer.say(&code);
    sharer.expect("connected");
    sharer.expect("trust");
    sharer.expect("consent_prompt");
    sharer.say("d");
    for script in [&mut sharer, &mut helper] {
        let end = script.end(PATIENCE);
        let last: Value =
            serde_json::from_str(end.stdout.last().expect("an end")).expect("an object");
        assert_eq!(
            (&last["event"], &last["end_reason"]),
            (&json!("ended"), &json!("DECLINED"))
        );
        assert_eq!(end.code, Some(3));
    }
}

#[test]
fn a_wrong_code_exits_with_7_and_the_third_burns_it() {
    let scene = Scene::new();
    let (mut helper, code) = scene.invite(&[]);
    for left in [2, 1, 0] {
        let mut sharer = scene.join(&[]);
        sharer.say(&wrong(&code));
        let error = sharer.expect("error");
        assert_eq!(error["code"], "WRONG_CODE", "{error}");
        let end = sharer.end(PATIENCE);
        assert_eq!(end.code, Some(7));
        assert!(end.line().contains(&format!("({left} tr")), "{end:?}");
        assert_eq!(helper.expect("wrong_code")["tries_left"], left);
    }
    assert_eq!(helper.expect("code_ended")["why"], "CODE_BURNED");
    assert_eq!(helper.expect("error")["code"], "CODE_BURNED");
    assert_eq!(helper.end(PATIENCE).code, Some(7));
    let mut late = scene.join(&[]);
    late.say(&code);
    assert_eq!(late.expect("error")["code"], "CODE_BURNED");
    assert_eq!(late.end(PATIENCE).code, Some(7));
}

#[test]
fn a_code_that_has_expired_exits_with_4_on_both_sides() {
    let scene = Scene::new();
    let (mut helper, code) = scene.invite(&["--valid", "5"]);
    assert_eq!(helper.expect("code_ended")["why"], "CODE_EXPIRED");
    assert_eq!(helper.expect("error")["code"], "CODE_EXPIRED");
    assert_eq!(helper.end(PATIENCE).code, Some(4));
    let mut sharer = scene.join(&[]);
    sharer.say(&code);
    assert_eq!(sharer.expect("error")["code"], "CODE_EXPIRED");
    let end = sharer.end(PATIENCE);
    assert_eq!(end.code, Some(4));
    assert!(
        end.line().contains("ask your helper for a new one"),
        "{end:?}"
    );
}

#[test]
fn a_code_that_was_used_admits_nobody_else() {
    let scene = Scene::new();
    let (mut helper, code) = scene.invite(&[]);
    let mut first = scene.join(&[]);
    first.say(&code);
    first.expect("connected");
    let mut second = scene.join(&[]);
    second.say(&code);
    assert_eq!(second.expect("error")["code"], "CODE_USED");
    assert_eq!(second.end(PATIENCE).code, Some(7));
    helper.expect("connected");
    helper.expect("trust");
}

#[test]
fn what_is_no_code_is_a_usage_error() {
    let scene = Scene::new();
    for (text, why) in [
        ("4060-r0g", "this has 7"),
        ("4060-r0gu", "never has the letter u"),
    ] {
        let mut sharer = scene.join(&[]);
        sharer.say(text);
        assert_eq!(sharer.expect("error")["code"], "INVALID_CODE");
        let end = sharer.end(PATIENCE);
        assert_eq!(end.code, Some(2));
        assert!(end.line().contains(why), "{end:?}");
    }
    let mut sharer = scene.join(&["--code-stdin"]);
    drop(sharer.take_stdin());
    assert_eq!(sharer.expect("error")["code"], "NO_CODE");
    assert_eq!(sharer.end(PATIENCE).code, Some(2));
}

#[test]
fn the_code_may_come_from_the_environment() {
    let scene = Scene::new();
    let (mut helper, code) = scene.invite(&[]);
    let mut command = scene.sharer_home.remora(&scene.args("join", "Maria", &[]));
    command.env("REMORA_CODE", code);
    let mut sharer = Script::start(command);
    sharer.expect("connected");
    sharer.expect("trust");
    helper.expect("connected");
    sharer.say("/leave");
    assert_eq!(sharer.expect("ended")["end_reason"], "SHARER_LEFT");
    let end = sharer.end(PATIENCE);
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_code_on_the_command_line_works_with_a_warning() {
    let scene = Scene::new();
    let (mut helper, code) = scene.invite(&[]);
    let mut sharer = scene.join(&[&code]);
    sharer.expect("connected");
    helper.expect("connected");
    sharer.say("/leave");
    let end = sharer.end(PATIENCE);
    assert_eq!(end.code, Some(0));
    assert!(
        end.line()
            .starts_with("warning: other users of this computer can see"),
        "{end:?}"
    );
}

#[test]
fn a_terminated_node_leaves_and_the_other_is_told_who_left() {
    for (who, reason) in [("helper", "HELPER_LEFT"), ("sharer", "SHARER_LEFT")] {
        let scene = Scene::new();
        let (helper, sharer) = scene.active();
        let (mut told, mut other) = if who == "helper" {
            (helper, sharer)
        } else {
            (sharer, helper)
        };
        told.signal(Signal::SIGTERM);
        assert_eq!(other.event(LEAVE_LIMIT)["end_reason"], reason);
        assert_eq!(told.expect("ended")["end_reason"], reason);
        for script in [&mut told, &mut other] {
            assert_eq!(script.end(PATIENCE).code, Some(0));
        }
    }
}

#[test]
fn a_terminated_helper_withdraws_its_code() {
    let scene = Scene::new();
    let (mut helper, code) = scene.invite(&[]);
    helper.signal(Signal::SIGINT);
    assert_eq!(helper.expect("code_ended")["why"], "HELPER_CANCELLED");
    let end = helper.end(PATIENCE);
    assert_eq!(
        (end.code, end.stdout.len(), end.stderr.as_str()),
        (Some(0), 0, ""),
        "said once"
    );
    let mut sharer = scene.join(&[]);
    sharer.say(&code);
    assert_eq!(sharer.expect("error")["code"], "CODE_CANCELLED");
    assert_eq!(sharer.end(PATIENCE).code, Some(3));
}

#[test]
fn status_shows_a_session_while_it_lives() {
    let scene = Scene::new();
    let status = || {
        let end =
            run(scene
                .helper_home
                .remora(&["status", "--json", "--relay", &scene.relay.address]));
        assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""));
        let [line] = &end.stdout[..] else {
            panic!("one object: {end:?}")
        };
        serde_json::from_str::<Value>(line).expect("an object")
    };
    let before = status();
    assert_eq!(before["v"], 1);
    assert_eq!(before["relay"]["reachable"], true);
    assert_eq!(before["relay"]["name"], "relay");
    assert_eq!(
        (&before["relay"]["udp"], &before["relay"]["nat"]),
        (&json!(true), &json!("none"))
    );
    let args = ["status", "--json", "--relay", &scene.relay.address];
    let mut by_tcp = scene.helper_home.remora(&args);
    by_tcp.env("REMORA_TCP_ONLY", "1");
    let by_tcp: Value = serde_json::from_str(&run(by_tcp).stdout[0]).expect("an object");
    for (field, value) in [
        ("udp", &Value::Null),
        ("nat", &Value::Null),
        ("transport", &json!("tcp")),
    ] {
        assert_eq!(&by_tcp["relay"][field], value, "{field} in {by_tcp}");
    }
    let at = &before["relays"][0];
    assert_eq!((&at["name"], &at["home"]), (&json!("relay"), &json!(true)));
    assert_eq!(before["sessions"], json!([]));

    let (mut helper, mut sharer) = scene.active();
    sharer.say("hello");
    helper.expect("chat");
    let during = status();
    let session = &during["sessions"][0];
    assert_eq!(session["pid"], helper.pid(), "{during}");
    assert_eq!(
        (&session["role"], &session["mode"]),
        (&json!("helper"), &json!("view"))
    );
    assert_eq!(session["peer"], "Maria Lopez");
    for field in ["bytes", "bytes_sent", "bytes_received"] {
        assert!(
            session[field].as_u64().is_some_and(|bytes| bytes > 0),
            "{field} in {during}"
        );
    }
    assert_eq!(
        (&session["way"], &session["why_relayed"]),
        (&json!("relayed"), &json!("POLICY_RELAY_ONLY"))
    );
    assert!(
        !during.to_string().contains("hello"),
        "no content: {during}"
    );

    helper.say("/leave");
    assert_eq!(helper.end(PATIENCE).code, Some(0));
    assert_eq!(status()["sessions"], json!([]));
}

#[test]
fn a_session_is_since_both_are_there_and_not_since_somebody_waits() {
    let scene = Scene::new();
    let (mut helper, code) = scene.invite(&[]);
    let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let before_ms = before.expect("after 1970").as_millis();
    let mut sharer = scene.join(&[]);
    sharer.say(&code);
    for script in [&mut helper, &mut sharer] {
        script.expect("connected");
        script.expect("trust");
    }
    for home in [&scene.helper_home, &scene.sharer_home] {
        let end = run(home.remora(&["status", "--json", "--relay", &scene.relay.address]));
        let report: Value = serde_json::from_str(&end.stdout[0]).expect("an object");
        let since = report["sessions"][0]["since_unix_ms"].as_u64();
        assert!(
            since.is_some_and(|since| u128::from(since) >= before_ms),
            "{report}"
        );
    }
}

#[test]
fn ping_says_which_way_a_session_goes_and_why_until_it_has_said_so_often_enough() {
    let scene = Scene::new();
    let ping = |args: &[&str]| run(scene.helper_home.remora(&[&["ping"], args].concat()));
    let alone = ping(&[]);
    assert_eq!(alone.code, Some(1), "{alone:?}");
    assert!(alone.line().contains("NO_SESSION"), "{alone:?}");

    let (mut helper, mut sharer) = scene.active();
    sharer.say("hello");
    helper.expect("chat");
    let said = ping(&["maria", "--count", "1"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    let [line] = &said.stdout[..] else {
        panic!("one line: {said:?}")
    };
    assert!(
        line.starts_with("pong from Maria Lopez via relay(relay) in ")
            && line.ends_with(" ms (POLICY_RELAY_ONLY)"),
        "{line}"
    );
    // Nobody looks for a direct path, so nobody waits for one.
    let said = ping(&[]);
    assert_eq!((said.code, said.stdout.len()), (Some(0), 2), "{said:?}");
    let why = "no direct path is looked for (POLICY_RELAY_ONLY); `--count N` measures on";
    assert_eq!(said.stdout[1], why);
    assert_eq!(ping(&["--json"]).stdout.len(), 1);
    let pongs = ping(&["--count", "2", "--json"]);
    assert_eq!(pongs.stdout.len(), 2, "{pongs:?}");
    for (number, line) in (1..).zip(&pongs.stdout) {
        let pong: Value = serde_json::from_str(line).expect("an object");
        assert!(
            pong["rtt_ms"].as_f64().is_some_and(|rtt| rtt > 0.0),
            "{pong}"
        );
        for (field, value) in [
            ("v", json!(1)),
            ("event", json!("pong")),
            ("number", json!(number)),
            ("peer", json!("Maria Lopez")),
            ("pid", json!(helper.pid())),
            ("way", json!("relayed")),
            ("relay", json!("relay")),
            ("address", Value::Null),
            ("transport", json!("udp")),
            ("why_relayed", json!("POLICY_RELAY_ONLY")),
        ] {
            assert_eq!(pong[field], value, "{field} in {pong}");
        }
    }
    let unknown = ping(&["sam"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.line().contains("NO_SESSION"), "{unknown:?}");

    let args = ["ping", "--json", "--count", "1000"];
    let mut longer = Script::start(scene.helper_home.remora(&args));
    longer.expect("pong");
    helper.say("/leave");
    assert_eq!(helper.end(PATIENCE).code, Some(0));
    let end = longer.end(PATIENCE);
    assert_eq!(end.code, Some(5), "{end:?}");
    assert!(end.line().contains("SESSION_ENDED"), "{end:?}");
}

#[test]
fn status_sweeps_what_a_killed_session_left_behind() {
    let scene = Scene::new();
    let (mut helper, mut sharer) = scene.active();
    sharer.say("hello");
    helper.expect("chat");
    helper.signal(Signal::SIGKILL);
    assert_eq!(helper.end(PATIENCE).code, None);
    let args = ["status", "--json", "--relay", &scene.relay.address];
    let end = run(scene.helper_home.remora(&args));
    let report: Value = serde_json::from_str(&end.stdout[0]).expect("an object");
    assert_eq!(report["sessions"], json!([]));
    let left = std::fs::read_dir(scene.helper_home.path().join("run/remora")).expect("a folder");
    assert_eq!(left.count(), 0);
}

#[test]
fn the_demo_prints_one_object_that_says_all_went_well() {
    let end = run(Home::new().remora(&["demo", "--json"]));
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""));
    let [line] = &end.stdout[..] else {
        panic!("one object: {end:?}")
    };
    let summary: Value = serde_json::from_str(line).expect("an object");
    for (field, value) in [
        ("outcome", json!("ended")),
        ("end_reason", json!("HELPER_LEFT")),
        ("path", json!("relayed")),
        ("why_relayed", json!("POLICY_RELAY_ONLY")),
        ("sas_match", json!(true)),
        ("chat_messages", json!(6)),
    ] {
        assert_eq!(summary[field], value, "{field} in {summary}");
    }
    for field in ["rtt_ms", "code_to_trust_ms", "bytes"] {
        assert!(
            summary[field].as_f64().is_some_and(|value| value > 0.0),
            "{field} in {summary}"
        );
    }
}

#[test]
fn netcheck_says_what_the_network_lets_through() {
    let relay = RelayProcess::start(&[]);
    let home = Home::new();
    let netcheck = |address: &str| run(home.remora(&["netcheck", "--json", "--relay", address]));
    let end = netcheck(&relay.address);
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""));
    let [line] = &end.stdout[..] else {
        panic!("one object: {end:?}")
    };
    let report: Value = serde_json::from_str(line).expect("an object");
    for (field, value) in [
        ("v", json!(1)),
        ("udp", json!(true)),
        ("tcp", json!(true)),
        (
            "nat",
            json!({"mapping_varies_by_destination": false, "allocation": null}),
        ),
        (
            "port_mapping",
            json!({"protocol": null, "address": null, "why_not": "NOT_ASKED"}),
        ),
        (
            "direct_likely_with",
            json!(["independent", "sequential", "block", "random"]),
        ),
        ("relay_needed_with", json!([])),
    ] {
        assert_eq!(report[field], value, "{field} in {report}");
    }
    let v4 = &report["ipv4"];
    assert_eq!(
        (&v4["works"], &v4["has_nat"], &report["ipv6"]["works"]),
        (&json!(true), &json!(false), &Value::Null)
    );
    let seen = v4["address"].as_str().expect("an address");
    assert!(seen.starts_with("127.0.0.1:"), "{report}");
    let of_relay = &report["relays"][0];
    assert_eq!(
        (&of_relay["name"], &of_relay["state"]),
        (&json!("relay"), &json!("ok"))
    );
    assert!(
        of_relay["rtt_ms"].as_f64().is_some_and(|rtt| rtt > 0.0),
        "{report}"
    );

    let args = [
        "netcheck",
        "--tcp-only",
        "--json",
        "--relay",
        &relay.address,
    ];
    let end = run(home.remora(&args));
    assert_eq!(end.code, Some(0), "{end:?}");
    let report: Value = serde_json::from_str(&end.stdout[0]).expect("an object");
    for (field, value) in [
        ("udp", Value::Null),
        ("tcp", json!(true)),
        ("tcp_error", Value::Null),
        ("direct_likely_with", json!([])),
    ] {
        assert_eq!(report[field], value, "{field} in {report}");
    }
    assert_eq!(report["relays"][0]["state"], "ok");

    let address = relay.address.clone();
    drop(relay);
    let end = netcheck(&address);
    assert_eq!(end.code, Some(5), "{end:?}");
    assert!(end.line().contains("RELAY_UNREACHABLE"), "{end:?}");
    let report: Value = serde_json::from_str(&end.stdout[0]).expect("an object");
    // Nobody is there: of the network that says nothing.
    for (field, value) in [
        ("udp", Value::Null),
        ("tcp", json!(false)),
        ("direct_likely_with", json!([])),
        ("relay_needed_with", json!([])),
    ] {
        assert_eq!(report[field], value, "{field} in {report}");
    }
    let why = report["tcp_error"].as_str().expect("text");
    assert!(why.contains("refused"), "{report}");
    assert_eq!(report["relays"][0]["state"], "RELAY_UNREACHABLE");
}

#[test]
fn whoever_reads_one_line_and_goes_is_no_fault() {
    let relay = RelayProcess::start(&[]);
    let home = Home::new();
    let mut command = home.command("sh");
    let line = r#"{ "$0" netcheck --every 1 --relay "$1"; echo "ended with $?" >&2; } | head -n 1"#;
    command.args(["-c", line, REMORA, &relay.address]);
    let end = run(command);
    assert_eq!(end.stdout.len(), 1, "{end:?}");
    assert_eq!(end.stderr, "ended with 0\n");
}
