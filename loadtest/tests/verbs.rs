//! Each verb, tiny, with the real binary and a relay of its own. Nothing here depends on how fast anything is.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

const LOADTEST: &str = env!("CARGO_BIN_EXE_remora-loadtest");

fn run(args: &str) -> Output {
    let relay = Path::new(LOADTEST).with_file_name("remora-relay");
    assert!(
        relay.exists(),
        "{} is missing: run `cargo build --workspace --bins` (with the same profile) first",
        relay.display()
    );
    let run = Command::new(LOADTEST).args(args.split(' ')).output();
    run.expect("the binary runs")
}

/// Its figures. A machine that is too busy for a rate says so; what was counted must be right all the same.
fn figures(args: &str) -> Value {
    let output = run(&format!("{args} --json --seed 7"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() || said.contains("; lower --"),
        "{args}: {said}"
    );
    let found: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{args}: {error}: {said}"));
    for name in [
        "sessions",
        "offered_fps",
        "delivered_fps",
        "loss_ratio",
        "relay_cpu_ns_per_frame",
        "relay_rss_bytes",
    ] {
        assert!(found.get(name).is_some(), "{args}: no {name}");
    }
    let latency = &found["latency_us"];
    assert!(latency.get("p50").is_some() && latency.get("p99").is_some());
    assert_eq!(found["verb"], args.split(' ').next().expect("a verb"));
    assert_eq!(found["seed"], 7);
    assert!(number(&found, "/duration_s") > 0.0);
    assert!(number(&found, "/relay_rss_bytes") > 0.0);
    found
}

fn number(object: &Value, pointer: &str) -> f64 {
    let value = object.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no number at {pointer} in {object:#}"))
}

#[test]
fn sessions_may_share_nodes_and_a_relay_have_two_workers() {
    let found = figures(
        "forward --sessions 10 --nodes 4 --rate 2000 --seconds 1 --runs 1 --workers 2 --vs raw",
    );
    let of = |at: &str| number(&found, at);
    assert_eq!((of("/sessions"), of("/nodes")), (10.0, 4.0));
    assert!(of("/delivered") > 0.0 && of("/vs/delivered") > 0.0);
    assert_eq!((of("/foreign"), of("/vs/foreign")), (0.0, 0.0));
}

#[test]
fn what_a_relay_says_of_itself_is_little_and_soon_said() {
    let found = figures("scrape --sessions 40 --scrapes 5");
    assert_eq!(found["sessions"], 40);
    for how in ["quiet", "busy"] {
        let series = found[how]["series"].as_u64().expect("a number");
        assert!((200..=300).contains(&series), "{series}");
        assert!(found[how]["bytes"].as_u64() > Some(10_000));
        assert!(found[how]["p99_ms"].is_number());
    }
}

#[test]
fn idle_nodes_and_sessions_have_a_size() {
    for (how, is_parked) in [("--nodes 20", true), ("--nodes 20 --connected", false)] {
        let found = figures(&format!("idle --sessions 12 --seconds 1 {how}"));
        assert_eq!(
            (number(&found, "/nodes"), number(&found, "/sessions")),
            (20.0, 12.0)
        );
        assert_eq!(found["parked"], json!(is_parked));
        assert_eq!(number(&found, "/lost_nodes"), 0.0);
        let of = |name: &str| number(&found, &format!("/{name}"));
        assert!(of("rss_bytes_per_node") >= 0.0 && of("rss_bytes_per_session") >= 0.0);
        assert!(of("relay_cpu_share") >= 0.0 && of("relay_rss_bytes_after") > 0.0);
    }
}

#[test]
fn setups_are_counted_and_timed() {
    for how in ["--rate max", "--rate 50 --live 11", "--keep-nodes"] {
        let found = figures(&format!("connect --count 4 {how}"));
        assert_eq!(
            (number(&found, "/setups"), number(&found, "/failed")),
            (4.0, 0.0),
            "{how}"
        );
        assert_eq!(found["failures"], json!({}), "{how}");
        assert!(number(&found, "/setups_per_s") > 0.0, "{how}");
        assert!(number(&found, "/setups_per_relay_cpu_s") > 0.0, "{how}");
        let us = |name| number(&found, &format!("/latency_us/{name}"));
        assert!(us("p50") <= us("p90") && us("p90") <= us("p99") && us("p99") <= us("max"));
    }
}

#[test]
fn a_session_over_its_limit_takes_nothing_from_the_others() {
    let args = "fairness --sessions 3 --share 50 --greed 20 --session-rate 10000 --size 200 --rounds 1 --seconds 1";
    let found = figures(args);
    let lanes = found.pointer("/each/greedy").and_then(Value::as_array);
    assert_eq!(lanes.map(Vec::len), Some(3));
    let of = |at: &str| number(&found, at);
    assert!(of("/greedy/offered_fps") > 0.0);
    assert!(of("/others_delivered_share/worst") <= of("/others_delivered_share/median"));
    assert!(of("/ratio_p99/median") <= of("/ratio_p99/worst"));
}

fn flood(kind: &str) -> Value {
    let found = figures(&format!(
        "flood --kind {kind} --sessions 2 --rate 2000 --seconds 1"
    ));
    assert_eq!(found["kind"], kind);
    assert!(number(&found, "/flood_offered_fps") > 0.0);
    assert!(number(&found, "/setups") <= number(&found, "/setups_tried"));
    assert!(number(&found, "/before/delivered") > 0.0);
    assert_eq!(number(&found, "/foreign"), 0.0);
    found
}

#[test]
fn garbage_is_counted_by_the_relay() {
    let counted = &flood("garbage")["relay_counted"];
    assert!(counted["frames_dropped_total{reason=\"unknown_kind\"}"].is_number());
}

#[test]
fn forged_frames_are_counted_by_the_relay() {
    let counted = &flood("forged")["relay_counted"];
    for reason in ["wrong_source", "unknown_session"] {
        let name = format!("frames_dropped_total{{reason=\"{reason}\"}}");
        assert!(counted[&name].is_number(), "{counted:#}");
    }
}

#[test]
fn first_packets_can_be_a_flood() {
    flood("initials");
}

#[test]
fn packets_of_no_connection_can_be_a_flood() {
    flood("resets");
}

#[test]
fn whole_sessions_end_as_they_should() {
    let found = figures("session --count 2");
    assert_eq!(
        (number(&found, "/sessions"), number(&found, "/failed")),
        (2.0, 0.0)
    );
    let us = |name: &str| number(&found, &format!("/reached_us/{name}/p50"));
    assert!(us("trust") <= us("live") && us("live") <= us("chat") && us("chat") <= us("picture"));
}

#[test]
fn figures_become_a_page_and_other_files_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(
        path("a.json"),
        r#"{"verb":"idle","nodes":5,"rss_bytes_per_node":9000}"#,
    )
    .expect("written");
    fs::write(path("b.json"), "{\"verb\":").expect("written");
    let out = path("report.html");
    let output = run(&format!("report {} --out {out}", path("a.json")));
    assert!(output.status.success(), "{output:?}");
    let page = fs::read_to_string(&out).expect("a page");
    assert!(page.starts_with("<!doctype html>") && page.contains("9000"));
    let output = run(&format!(
        "report {} {} --out {out}",
        path("a.json"),
        path("b.json")
    ));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("b.json") && said.contains("not JSON"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(&out).expect("still there"), page);
}

#[test]
fn flags_that_cannot_be_together_are_one_line_and_2() {
    for (args, says) in [
        ("idle --nodes 0", "1..=50000"),
        ("connect --count 9000", "1..=8000"),
        ("forward --sessions 40 --nodes 4", "at most 32 sessions"),
        ("forward --sessions 2000 --vs coturn", "1000 --sessions"),
        ("flood --kind tea", "garbage"),
        ("report", "FILE"),
    ] {
        let output = run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args}: {said}");
        assert!(said.contains(says) && said.lines().count() == 1, "{said}");
    }
}
