//! Real relays of one fleet, few of them: they meet, are cut apart, come and go; and fleets that are only worked out.

use std::process::Command;

use serde_json::Value;

fn figures(args: &str) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora-loadtest"));
    command
        .args(args.split(' '))
        .args(["--seed", "7", "--json"]);
    let output = command.output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args}: {said}");
    let found: Value = serde_json::from_slice(&output.stdout).expect("an object");
    assert_eq!(
        Some(found["verb"].as_str().expect("a verb")),
        args.split(' ').next()
    );
    for name in ["ended", "messages_lost", "messages_duplicated", "moved"] {
        assert!(found.get(name).is_some(), "no {name} in {found:#}");
    }
    for times in ["move_ms", "gap_ms"] {
        for name in ["p50", "p99", "max"] {
            assert!(found[times].get(name).is_some(), "{times} of {found:#}");
        }
    }
    found
}

fn are(found: &Value, expected: &[(&str, u64)]) {
    for &(name, expected) in expected {
        let is = found.pointer(name).and_then(Value::as_u64);
        assert_eq!(is, Some(expected), "{name} of {found:#}");
    }
}

#[test]
fn a_fleet_finds_codes_bridges_sessions_and_bears_the_loss_of_two_relays() {
    let found = figures("mesh --relays 6 --sessions 4 --kills 1 --lookups 40");
    are(
        &found,
        &[
            ("/pairs/joins_ok", 4),
            ("/pairs/joins_failed", 0),
            ("/kills/joins_ok", 1),
            ("/joins_failed", 0),
            ("/silent_lanes", 0),
            ("/messages_duplicated", 0),
            ("/lookups/0/relays", 5),
            ("/lookups/0/ok", 40),
            ("/lookups/1/relays", 6),
            ("/lookups/1/ok", 40),
        ],
    );
}

#[test]
fn a_relay_of_the_fleet_that_floods_it_takes_nobodys_place() {
    let found = figures("mesh --flood 3000 --relays 3 --sessions 8");
    are(
        &found,
        &[
            ("/codes_before/found", 8),
            ("/codes_after/found", 8),
            ("/codes_after/not_found", 0),
            ("/codes_meanwhile/not_found", 0),
            ("/flood_at_all/unanswered", 0),
            ("/flood_at_all/not_asked", 0),
        ],
    );
    let number = |name: &str| found.pointer(name).and_then(Value::as_u64);
    // Each of its records has been judged by each of the others.
    let judged = number("/flood_at_all/kept").zip(number("/flood_at_all/refused"));
    assert_eq!(judged.map(|(kept, refused)| kept + refused), Some(9000));
}

#[test]
fn a_fleet_that_is_cut_in_two_serves_both_sides_and_heals() {
    let found = figures("partition --relays 4 --sessions 4 --codes 2 --cut 12");
    are(
        &found,
        &[
            ("/ended", 0),
            ("/across/ended", 0),
            ("/messages_lost", 0),
            ("/messages_duplicated", 0),
            ("/joins_failed", 0),
            ("/lookups_apart_failed", 0),
            ("/resolved", 16),
            ("/unresolved", 0),
            ("/joined_across", 4),
            ("/relays_ended", 0),
        ],
    );
}

#[test]
fn people_and_relays_come_and_go() {
    let found =
        figures("churn --relays 3 --sessions 4 --seconds 12 --restarts 1 --records 40 --idle 30");
    are(
        &found,
        &[
            ("/restarts", 1),
            ("/joins_failed", 0),
            ("/ended", 0),
            ("/fill/records_refused", 0),
            ("/fill/relays/0/records_kept", 40),
            ("/fill/relays/2/records_kept", 40),
        ],
    );
    assert!(found["joins_ok"].as_u64() > Some(0), "{found:#}");
    let samples = &found["memory"][0]["s_rss_bytes_records_huge_heap"];
    assert!(
        samples.as_array().is_some_and(|all| all.len() > 2),
        "{found:#}"
    );
}

#[test]
fn sessions_begin_while_a_relay_is_added() {
    let found = figures("mesh --add --relays 2 --sessions 4");
    are(
        &found,
        &[
            ("/joins_ok", 4),
            ("/joins_failed", 0),
            ("/added", 1),
            ("/within_s", 4),
        ],
    );
    assert!(found["share_of_added"].is_f64(), "{found:#}");
    let sides = found["sides_begun_at"].as_object().expect("by relay");
    let all: u64 = sides.values().filter_map(Value::as_u64).sum();
    assert_eq!(all, 4, "two of each new session");
}

#[test]
fn a_simulated_fleet_finds_every_code() {
    let found = figures("mesh --simulate --relays 300 --codes 3000 --lookups 500");
    are(
        &found,
        &[
            ("/joins_ok", 500),
            ("/joins_failed", 0),
            ("/records_refused", 0),
        ],
    );
    let number = |name: &str| {
        found
            .pointer(name)
            .and_then(Value::as_f64)
            .expect("a number")
    };
    // Five closest and the one where it is shown, which may be one of them.
    assert!(
        (59.0..=60.0).contains(&number("/records_per_relay/mean")),
        "{found:#}"
    );
    assert!((1.0..=6.0).contains(&number("/hops/p95")), "{found:#}");
    assert!(number("/placed_at_the_closest_ratio") > 0.99, "{found:#}");
}

#[test]
fn a_policy_is_in_force_everywhere_and_ends_what_it_does_not_permit() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora-loadtest"));
    let args = "policy --relays 2 --nodes 4 --sessions 2 --json";
    let output = command.args(args.split(' ')).output();
    let output = output.expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let found: Value = serde_json::from_slice(&output.stdout).expect(&said);
    // Four and two of each session go by it; both sides of each session are over. How soon, a busy machine need not say.
    are(
        &found,
        &[
            ("/nodes", 8),
            ("/sessions", 2),
            ("/missing", 0),
            ("/end_reasons/ADMIN_ENDED", 4),
        ],
    );
}
