//! `remora request`, `remora requests` and `remora take`: the real programs, an organisation, and two relays of one fleet.

mod support;

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use remora_proto::noise::{StaticKey, link::FleetKey};
use remora_relay::{config::Config, mesh::Settings, relay::Relay};
use serde_json::{Value, json};
use support::{
    PATIENCE,
    people::within,
    process::{Ended, Home, Script, run},
};

/// Contoso, with a desk of two, one who helps others, and people who need help.
struct Scene {
    relays: [Relay; 2],
    admin: Home,
    sam: Home,
    kim: Home,
    jo: Home,
    maria: Home,
}

#[track_caller]
fn done(ended: Ended) -> Vec<String> {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout
}

/// The next event that says something new: where the node is, and its place in the line, may be said at any time.
#[track_caller]
fn next(script: &mut Script, kind: &str) -> Value {
    loop {
        let event = script.event(PATIENCE);
        if !["relay", "in_line"].contains(&event["event"].as_str().expect("text")) {
            assert_eq!(event["event"], kind, "{event}");
            return event;
        }
    }
}

/// What somebody is told who gets no further.
#[track_caller]
fn refused(ended: &Ended, exit: i32, code: &str) {
    assert_eq!(ended.code, Some(exit), "{ended:?}");
    let error: Value = serde_json::from_str(ended.stdout.last().expect("one")).expect("JSON");
    assert_eq!(error["code"], code, "{ended:?}");
}

fn start_relay(seeds: Vec<String>) -> Relay {
    let mut config = Config::loopback(StaticKey::generate());
    config.mesh = Some(Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        seeds,
        fleet: FleetKey([7; 32].into()),
    });
    Relay::start(config).expect("a relay")
}

impl Scene {
    async fn new() -> Self {
        let one = start_relay(Vec::new());
        let seed = one.mesh_addr().expect("in a mesh").to_string();
        let relays = [one, start_relay(vec![seed])];
        for relay in &relays {
            let mut neighbours = relay.neighbours();
            let met = neighbours.wait_for(|neighbours| neighbours.heard() == 1);
            within("meeting", met).await.expect("running");
        }
        let scene = Self {
            relays,
            admin: Home::new(),
            sam: Home::new(),
            kim: Home::new(),
            jo: Home::new(),
            maria: Home::new(),
        };
        scene.org(&["init", "--name", "Contoso", "--domain", "contoso.com"]);
        scene.org(&["policy", "enabled=on"]);
        let desk = ["--role", "help-desk-operator", "--device", "desk-1"];
        scene.enrol(&scene.sam, "Sam Okafor", &desk);
        scene.enrol(&scene.kim, "Kim Lee", &desk);
        let elsewhere = [&desk[..], &["--scope", "group:finance"]].concat();
        scene.enrol(&scene.jo, "Jo Black", &elsewhere);
        let member = ["--role", "member", "--device", "fin-lt-0231"];
        scene.enrol(&scene.maria, "Maria Lopez", &member);
        scene
    }

    fn org(&self, args: &[&str]) -> Vec<String> {
        done(run(self.admin.remora(&[&["admin", "org"], args].concat())))
    }

    fn enrol(&self, home: &Home, name: &str, more: &[&str]) {
        let request = done(run(home.remora(&["setup", "--request", "--name", name])));
        let signed = self.org(&[&["sign", &request[0]], more].concat());
        done(run(home.remora(&["setup", "--credential", &signed[0]])));
    }

    fn start(&self, home: &Home, relay: usize, args: &[&str]) -> Script {
        let relay = self.relays[relay].address().to_string();
        let common = ["--json", "--relay", &relay];
        Script::start(home.remora(&[args, &common].concat()))
    }

    fn run(&self, home: &Home, relay: usize, args: &[&str]) -> Ended {
        self.start(home, relay, args).end(PATIENCE)
    }

    /// Maria asks, at the first relay, and is in line; the request's id.
    fn asks(&self) -> (Script, String) {
        let request = ["request", "--reason", "the printer"];
        let mut maria = self.start(&self.maria, 0, &request);
        let begun = maria.expect("request");
        assert_eq!(begun["domain"], "contoso.com");
        let place = maria.expect("in_line");
        assert_eq!((&place["place"], &place["of"]), (&json!(1), &json!(1)));
        let id = begun["id"].as_str().expect("text").to_owned();
        (maria, id)
    }

    /// What a helper at the second relay sees.
    fn listed(&self, home: &Home) -> Vec<Value> {
        let lines = done(self.run(home, 1, &["requests"]));
        let report: Value = serde_json::from_str(&lines[0]).expect("JSON");
        report["requests"].as_array().expect("a list").clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_2_who_asks_for_help_is_seen_by_those_who_may_help_and_the_first_to_take_it_does() {
    let scene = Scene::new().await;
    let (mut maria, id) = scene.asks();
    // Whoever may not help Maria does not see that she asks.
    assert_eq!(scene.listed(&scene.jo), Vec::<Value>::new());
    refused(&scene.run(&scene.jo, 1, &["take"]), 1, "NOBODY_WAITS");
    refused(
        &scene.run(&scene.jo, 1, &["take", &id]),
        1,
        "UNKNOWN_REQUEST",
    );
    let by_id = ["invite", "--device", &id];
    refused(&scene.run(&scene.jo, 1, &by_id), 6, "OUT_OF_SCOPE");
    for verb in ["requests", "take"] {
        let ended = scene.run(&scene.maria, 1, &[verb]);
        refused(&ended, 6, "NO_PERMISSION");
    }
    // Whoever may, does, at the other relay; and is heard.
    let listed = scene.listed(&scene.sam);
    assert_eq!(listed.len(), 1, "{listed:?}");
    let seen = &listed[0];
    assert_eq!(
        (&seen["id"], &seen["reason"], &seen["device"]),
        (&json!(id), &json!("the printer"), &json!("fin-lt-0231"))
    );
    assert_eq!(
        (&seen["from"]["full_name"], &seen["from"]["verified"]),
        (&json!("Maria Lopez"), &json!(true))
    );
    next(&mut maria, "seen");
    // Sam takes it: from here on all is as with a code that nobody has read out.
    let mut sam = scene.start(&scene.sam, 1, &["take", &id[..6], "--mode", "control"]);
    assert_eq!(next(&mut sam, "notification")["state"], "sent");
    assert_eq!(next(&mut sam, "device")["peer"]["full_name"], "Maria Lopez");
    assert_eq!(next(&mut sam, "notification")["state"], "delivered");
    let taken = next(&mut maria, "taken");
    assert_eq!(
        (&taken["by"]["full_name"], &taken["by"]["verified"]),
        (&json!("Sam Okafor"), &json!(true))
    );
    assert_eq!(next(&mut sam, "notification")["state"], "opened");
    // Kim is too late.
    refused(&scene.run(&scene.kim, 1, &by_id), 1, "TAKEN");
    refused(
        &scene.run(&scene.kim, 1, &["take", &id]),
        1,
        "UNKNOWN_REQUEST",
    );
    assert_eq!(scene.listed(&scene.kim), Vec::<Value>::new());
    for script in [&mut sam, &mut maria] {
        next(script, "connected");
    }
    let (at_sam, at_maria) = (next(&mut sam, "trust"), next(&mut maria, "trust"));
    assert_eq!(at_sam["words"], at_maria["words"]);
    assert_eq!(at_maria["peer"]["full_name"], "Sam Okafor");
    assert_eq!(next(&mut maria, "consent_prompt")["mode"], "control");
    next(&mut sam, "awaiting_consent");
    maria.say("a");
    assert_eq!(next(&mut maria, "started")["mode"], "control");
    assert_eq!(next(&mut sam, "started")["mode"], "control");
    sam.signal(Signal::SIGTERM);
    next(&mut maria, "ended");
    for script in [&mut sam, &mut maria] {
        assert_eq!(script.end(PATIENCE).code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_2_of_two_who_take_it_at_once_one_helps() {
    let scene = Scene::new().await;
    let (mut maria, _) = scene.asks();
    let takes = [&scene.sam, &scene.kim].map(|home| scene.start(home, 1, &["take"]));
    let by = maria_is_taken(&mut maria);
    let [sam, kim] = takes;
    let (mut first, mut second) = match by.as_str() {
        "Sam Okafor" => (sam, kim),
        _ => (kim, sam),
    };
    let late = second.end(PATIENCE);
    assert_eq!(late.code, Some(1), "{late:?}");
    while first.event(PATIENCE)["event"] != "trust" {}
    while maria.event(PATIENCE)["event"] != "trust" {}
}

/// Who it was.
fn maria_is_taken(maria: &mut Script) -> String {
    loop {
        let event = maria.event(PATIENCE);
        if event["event"] == "taken" {
            return event["by"]["full_name"].as_str().expect("text").to_owned();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_2_what_is_withdrawn_is_on_no_list_any_more() {
    let scene = Scene::new().await;
    let (mut maria, id) = scene.asks();
    let mut sam = scene.start(&scene.sam, 1, &["requests", "--watch"]);
    let report = sam.expect("requests");
    assert_eq!(report["requests"][0]["id"], json!(id), "{report}");
    next(&mut maria, "seen");
    maria.signal(Signal::SIGTERM);
    next(&mut maria, "withdrawn");
    assert_eq!(maria.end(PATIENCE).code, Some(0));
    assert_eq!(sam.expect("requests")["requests"], json!([]));
    let gone = scene.run(&scene.kim, 1, &["take", &id]);
    refused(&gone, 1, "UNKNOWN_REQUEST");
    sam.signal(Signal::SIGTERM);
    assert_eq!(sam.end(PATIENCE).code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_2_who_belongs_to_no_organisation_is_told_what_to_do_instead() {
    let home = Home::new();
    let ended = run(home.remora(&["request", "--relay", "127.0.0.1:9/AA"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let relay = start_relay(Vec::new());
    let address = relay.address().to_string();
    for verb in ["request", "requests", "take"] {
        let ended = run(home.remora(&[verb, "--json", "--relay", &address]));
        refused(&ended, 6, "NO_ORGANISATION");
        assert!(ended.stderr.contains("remora join"), "{ended:?}");
    }
}
