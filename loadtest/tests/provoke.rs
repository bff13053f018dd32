//! Every alert that there is fires when what it is for happens to real relays, and none where nothing happens.

use std::process::{Command, Output};

use remora_loadtest::provoke::rules;
use serde_json::Value;

fn provoke(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora-loadtest"));
    command.arg("provoke").args(args);
    command.output().expect("the binary runs")
}

#[test]
fn every_alert_fires_when_it_is_provoked_and_none_where_nothing_happens() {
    let output = provoke(&["--all", "--control", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    assert!(output.status.success(), "{said}\n{found:#}");
    let alerts = found["alerts"].as_array().expect("alerts");
    let fired = |alert: &&Value| alert["fired"] == true && alert["after_s"].is_f64();
    assert_eq!(
        alerts.iter().filter(fired).count(),
        rules::alerts(rules::OURS).len(),
        "{found:#}"
    );
    let healthy = &found["healthy"];
    assert_eq!(
        healthy["fired"].as_array().map(Vec::len),
        Some(0),
        "{found:#}"
    );
    assert!(healthy["deeds"]["done"].as_u64() > Some(0), "{found:#}");
}

#[test]
fn what_is_provoked_is_listed_with_what_is_done() {
    let output = provoke(&["--list"]);
    assert!(output.status.success());
    let list = String::from_utf8_lossy(&output.stdout);
    for alert in rules::alerts(rules::OURS) {
        let line = list
            .lines()
            .find(|line| line.starts_with(&format!("{alert} ")));
        assert!(
            line.is_some_and(|line| line.len() > 50),
            "{alert} in {list}"
        );
    }
}

#[test]
fn what_cannot_be_provoked_is_said_before_anything_is_done() {
    let relay = format!("127.0.0.1:4433/{}", "a".repeat(52));
    let elsewhere = format!("192.0.2.1:4433/{}", "a".repeat(52));
    for (args, words) in [
        (&[][..], "required"),
        (&["NoSuchAlert"], "NoSuchAlert"),
        (&["RelayDown", "--relay", &relay], "without --relay"),
        (
            &["CodeGuessing", "--relay", &elsewhere],
            "--i-own-this-network",
        ),
        (
            &["CodeGuessing", "AdmissionSpike", "--relay", &relay],
            "one alert at a time",
        ),
        (&["CodeGuessing", "--watch", "127.0.0.1:9090"], "--relay"),
        (&["CodeGuessing", "--speed", "0"], "0"),
    ] {
        let output = provoke(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
    let output = provoke(&["RelayDown", "--prometheus", "/nowhere/prometheus"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("apt-get install prometheus"), "{said}");
}
