//! `remora agent` and `remora presence`: the real programs, and relays of one fleet.

mod support;

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use remora_proto::noise::{StaticKey, link::FleetKey};
use remora_relay::{config::Config, mesh::Settings, relay::Relay};
use serde_json::{Value, json};
use support::{
    PATIENCE,
    front::Front,
    people::within,
    process::{Ended, Home, Script, run},
};

fn start_relay(name: &str, seeds: Vec<String>) -> Relay {
    let mut config = Config::loopback(StaticKey::generate());
    config.name = name.to_owned();
    config.mesh = Some(Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        seeds,
        fleet: FleetKey([7; 32].into()),
    });
    Relay::start(config).expect("a relay")
}

/// Two relays of one fleet, which know each other.
async fn fleet() -> [Relay; 2] {
    let one = start_relay("fra-1", Vec::new());
    let seed = one.mesh_addr().expect("in a mesh").to_string();
    let other = start_relay("ams-1", vec![seed]);
    for relay in [&one, &other] {
        let mut neighbours = relay.neighbours();
        let met = neighbours.wait_for(|neighbours| neighbours.heard() == 1);
        within("meeting", met).await.expect("running");
    }
    [one, other]
}

/// A device's program, and its id.
struct Agent {
    script: Script,
    id: String,
}

impl Agent {
    fn start(home: &Home, relays: &[&Relay]) -> Self {
        let relays: Vec<_> = relays
            .iter()
            .map(|relay| relay.address().to_string())
            .collect();
        Self::at(home, &relays.join(","))
    }

    fn at(home: &Home, relays: &str) -> Self {
        let args = ["agent", "--json", "--relay", relays];
        let mut script = Script::start(home.remora(&args));
        let device = script.expect("device");
        let id = device["device"].as_str().expect("text").to_owned();
        Self { script, id }
    }

    /// As the relay says it; whether it is online, and where.
    fn asked(&self, relay: &Relay) -> (Ended, Value) {
        let relay = relay.address().to_string();
        let args = ["presence", &self.id, "--json", "--relay", &relay];
        let ended = run(Home::new().remora(&args));
        let said = serde_json::from_str(&ended.stdout[0]).expect("JSON");
        (ended, said)
    }
}

/// Everything blocks but the relays.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_device_is_there_while_its_agent_runs_and_anybody_can_ask_at_any_relay() {
    let [fra, ams] = fleet().await;
    let home = Home::new();
    let mut agent = Agent::start(&home, &[&fra]);
    let online = agent.script.expect("online");
    assert_eq!(
        (&online["relay"], &online["agents"]),
        (&json!("fra-1"), &json!(1))
    );

    let (ended, said) = agent.asked(&ams);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(
        said,
        json!({
            "v": 1, "event": "presence", "device": agent.id, "online": true, "relay": "fra-1",
            "relay_id": fra.id().to_string(), "agents": 1, "seen_ms_ago": 0,
        })
    );
    let ams_address = ams.address().to_string();
    let ask = |id: &str| run(Home::new().remora(&["presence", id, "--relay", &ams_address]));
    let said = ask(&agent.id);
    assert_eq!(said.stdout, ["online · at fra-1 · 1 agent"], "{said:?}");
    // One program is the device, and it stays the same device.
    let fra_address = fra.address().to_string();
    let second = run(home.remora(&["agent", "--relay", &fra_address]));
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.line().contains("AGENT_RUNS"), "{second:?}");

    agent.script.signal(Signal::SIGTERM);
    let ended = agent.script.end(PATIENCE);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let (ended, said) = agent.asked(&ams);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert_eq!(
        (&said["online"], &said["relay"]),
        (&json!(false), &json!("fra-1"))
    );
    assert!(said["seen_ms_ago"].is_u64(), "{said}");
    let said = ask(&agent.id);
    assert!(
        said.line().starts_with("remora: DEVICE_OFFLINE: "),
        "{said:?}"
    );
    assert!(said.line().contains("last seen"), "{said:?}");
    let again = Agent::start(&home, &[&fra]);
    assert_eq!(again.id, agent.id);
    let nobody = ask(&"a".repeat(52));
    assert_eq!(nobody.code, Some(5), "{nobody:?}");
    assert!(nobody.line().contains("DEVICE_OFFLINE"), "{nobody:?}");
    let no_id = ask("fin-lt-0231");
    assert_eq!(no_id.code, Some(2), "{no_id:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_device_leaves_a_relay_that_stops_and_is_there_all_the_time() {
    let [fra, ams] = fleet().await;
    let home = Home::new();
    // The other one it learns of by itself.
    let mut agent = Agent::start(&home, &[&fra]);
    assert_eq!(agent.script.expect("online")["relay"], "fra-1");
    fra.drain();
    assert_eq!(agent.script.expect("online")["relay"], "ams-1");
    let (_, said) = agent.asked(&ams);
    assert_eq!(
        (&said["online"], &said["relay"]),
        (&json!(true), &json!("ams-1"))
    );
    fra.shutdown().await;
    let fra = start_relay(
        "fra-1",
        vec![ams.mesh_addr().expect("in a mesh").to_string()],
    );
    let mut neighbours = fra.neighbours();
    let met = neighbours.wait_for(|neighbours| neighbours.heard() == 1);
    within("meeting", met).await.expect("running");
    assert_eq!(agent.asked(&fra).1["relay"], "ams-1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_device_whose_relay_is_gone_says_so_and_goes_to_another() {
    let [fra, ams] = fleet().await;
    let home = Home::new();
    let mut agent = Agent::start(&home, &[&fra]);
    assert_eq!(agent.script.expect("online")["relay"], "fra-1");
    fra.shutdown().await;
    agent.script.expect("relay_lost");
    assert_eq!(agent.script.expect("online")["relay"], "ams-1");
    assert_eq!(agent.asked(&ams).1["online"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_device_whose_relay_falls_silent_at_once_is_soon_at_another() {
    let [fra, ams] = fleet().await;
    let front = Front::new(fra.address(), true, false).await;
    let home = Home::new();
    let mut agent = Agent::at(&home, &front.relay.to_string());
    assert_eq!(agent.script.expect("online")["relay"], "fra-1");
    front.passes_udp(false);
    fra.shutdown().await;
    agent.script.expect("relay_lost");
    assert_eq!(agent.script.expect("online")["relay"], "ams-1");
    assert_eq!(agent.asked(&ams).1["online"], true);
}
