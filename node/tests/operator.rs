//! What an operator does to relays from afar, with the real programs: seen, ended, drained, reported.

mod support;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
};

use serde_json::Value;
use support::{
    PATIENCE,
    process::{Ended, Home, RelayProcess, Script, run},
};

const TOKEN: &str = "0123456789abcdef";

/// An operator's computer.
struct Operator(Home);

impl Operator {
    fn new() -> Self {
        let home = Home::new();
        let file = home.path().join("token");
        fs::write(&file, TOKEN).expect("written");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("ours");
        Self(home)
    }

    fn token_file(&self) -> String {
        let file = self.0.path().join("token");
        file.to_str().expect("text").to_owned()
    }

    fn relay(&self, name: &str) -> RelayProcess {
        RelayProcess::start(&["--name", name, "--admin-token-file", &self.token_file()])
    }

    fn does(&self, relays: &[&str], args: &[&str]) -> Ended {
        let file = self.token_file();
        let mut command = self.0.remora(&["admin"]);
        command.args(args).args(["--token-file", &file]);
        for relay in relays {
            command.args(["--admin", relay]);
        }
        run(command)
    }

    fn object(&self, relays: &[&str], args: &[&str]) -> Value {
        let ended = self.does(relays, &[args, &["--json"]].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        serde_json::from_str(ended.stdout.last().expect("a line")).expect("an object")
    }
}

fn start(relay: &RelayProcess, home: &Home, args: &[&str]) -> Script {
    let common = ["--relay", &relay.address, "--json"];
    Script::start(home.remora(&[args, &common].concat()))
}

/// A helper who sees somebody's screen.
fn active(relay: &RelayProcess, [helper, sharer]: [&Home; 2]) -> (Script, Script) {
    let mut helper = start(relay, helper, &["invite", "--name", "Sam Okafor"]);
    let code = helper.until("code")["code"].clone();
    let mut sharer = start(relay, sharer, &["join", "--name", "Maria Lopez"]);
    sharer.say(code.as_str().expect("text"));
    helper.until("trust");
    sharer.until("trust");
    helper.say("v");
    sharer.until("consent_prompt");
    sharer.say("a");
    sharer.until("started");
    helper.until("started");
    (helper, sharer)
}

#[test]
fn both_people_read_that_the_relays_operator_has_ended_their_session_and_why() {
    let operator = Operator::new();
    let relay = operator.relay("fra-1");
    let homes = [Home::new(), Home::new()];
    let (mut helper, mut sharer) = active(&relay, [&homes[0], &homes[1]]);
    let listed = operator.object(&[&relay.admin], &["sessions"]);
    let id = listed["relays"][0]["sessions"][0]["id"].clone();
    let id = id.as_str().expect("an id");
    let nobody = operator.does(
        &[&relay.admin],
        &["session", "end", "00000000", "--reason", "x"],
    );
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
    assert!(nobody.line().contains("NO_SUCH_SESSION"), "{nobody:?}");
    let ended = operator.object(
        &[&relay.admin],
        &["session", "end", &id[..8], "--reason", "wrong device"],
    );
    assert_eq!(ended["session"], id, "{ended}");
    for script in [&mut helper, &mut sharer] {
        let ended = script.until("ended");
        assert_eq!(
            (&ended["end_reason"], &ended["why"]),
            (&"OPERATOR_ENDED".into(), &"wrong device".into()),
            "{ended}"
        );
        assert_eq!(script.end(PATIENCE).code, Some(6));
    }
}

#[test]
fn relays_have_a_row_each_and_one_that_is_gone_says_so() {
    let operator = Operator::new();
    let (one, other) = (operator.relay("fra-1"), operator.relay("ams-1"));
    let admins = [one.admin.clone(), other.admin.clone()];
    let both = admins.each_ref().map(String::as_str);
    let relays = operator.does(&both, &["relays"]);
    assert_eq!(relays.code, Some(0), "{relays:?}");
    assert!(relays.stdout[0].starts_with("NAME"), "{relays:?}");
    for (row, name) in relays.stdout[1..].iter().zip(["fra-1", "ams-1"]) {
        let starts = format!("{name}  ready");
        assert!(row.starts_with(&starts), "{relays:?}");
    }
    let doctor = operator.does(&both, &["doctor"]);
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    let report = operator.does(&both, &["bugreport"]);
    let text = report.stdout.join("\n");
    assert!(text.contains("name = \"ams-1\""), "{text}");
    assert!(!text.contains(TOKEN), "{text}");

    let drained = operator.object(&both, &["drain", "ams-1", "--wait"]);
    assert_eq!(drained["state"], "drained", "{drained}");
    drop(other);
    let relays = operator.does(&both, &["relays"]);
    assert_eq!(relays.code, Some(5), "{relays:?}");
    assert!(relays.stdout[2].contains("unreachable"), "{relays:?}");
    assert!(relays.stdout[1].starts_with("fra-1"), "{relays:?}");
}

#[test]
fn who_may_not_is_told_how_one_would() {
    let operator = Operator::new();
    let relay = operator.relay("fra-1");
    fs::write(operator.0.path().join("token"), "another-word-than-that").expect("written");
    let refused = operator.does(&[&relay.admin], &["relays"]);
    assert_eq!(refused.code, Some(6), "{refused:?}");
    let none = operator.does(&[], &["relays"]);
    assert_eq!(none.code, Some(2), "{none:?}");
    assert!(none.line().contains("REMORA_ADMIN"), "{none:?}");
    // In the settings file, for whoever does this every day.
    fs::write(operator.0.path().join("token"), TOKEN).expect("written");
    let settings = operator.0.path().join("config/remora");
    fs::create_dir_all(&settings).expect("made");
    let file = format!(
        "[admin]\nrelays = [\"http://{}\"]\ntoken_file = \"{}\"\n",
        relay.admin,
        operator.token_file()
    );
    fs::write(settings.join("config.toml"), file).expect("written");
    let relays = run(operator.0.remora(&["admin", "relays"]));
    assert_eq!(relays.code, Some(0), "{relays:?}");
}
