//! Real relays stop under real nodes' sessions, few of each: nobody's session ends, and nothing is lost.

use std::process::Command;

use serde_json::Value;

/// Of two relays, each alone or in a fleet.
fn figures(verb: &str, more: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora-loadtest"));
    let output = command
        .args([
            verb,
            "--relays",
            "2",
            "--sessions",
            "3",
            "--seed",
            "7",
            "--json",
        ])
        .args(more)
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{verb}: {said}");
    let found: Value = serde_json::from_slice(&output.stdout).expect("an object");
    assert_eq!(found["verb"], verb, "{found:#}");
    for (field, expected) in [
        ("relays", 2),
        ("sessions", 3),
        ("joins_ok", 3),
        ("joins_failed", 0),
        ("ended", 0),
        ("messages_lost", 0),
        ("messages_duplicated", 0),
        ("consents_asked", 0),
    ] {
        assert_eq!(found[field], expected, "{field} of {found:#}");
    }
    // Of those at the relay that stopped, all.
    assert_eq!(found["moved"], found["carried"], "{found:#}");
    found
}

#[test]
fn sessions_outlive_a_relay_that_drains() {
    let found = figures("drain", &[]);
    assert_eq!(found["relay_exits"][0]["ok"], true, "{found:#}");
}

#[test]
fn sessions_outlive_a_relay_that_is_killed() {
    figures("crash", &[]);
}

#[test]
fn sessions_outlive_one_of_two_relays_that_is_killed() {
    figures("crash", &["--mesh"]);
}

#[test]
fn sessions_outlive_a_relay_whose_machine_is_lost() {
    let found = figures("crash", &["--machine-loss"]);
    assert_eq!(found["machine_loss"], true, "{found:#}");
}
