//! The real binary loads a relay of its own and a plain forwarder. Nothing here depends on how fast that is.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

const LOADTEST: &str = env!("CARGO_BIN_EXE_remora-loadtest");

fn forward(args: &[&str]) -> Output {
    let relay = Path::new(LOADTEST).with_file_name("remora-relay");
    assert!(
        relay.exists(),
        "{} is missing: run `cargo build --workspace --bins` (with the same profile) first",
        relay.display()
    );
    Command::new(LOADTEST)
        .arg("forward")
        .args(args)
        .output()
        .expect("the binary runs")
}

fn number(object: &Value, pointer: &str) -> f64 {
    let value = object.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no number at {pointer} in {object:#}"))
}

fn is_measured(mode: &str, rival: &str) {
    let args = "--sessions 3 --rate 2000 --seconds 1 --runs 1 --seed 7 --json --mode";
    let args: Vec<_> = args.split(' ').chain([mode, "--vs", rival]).collect();
    let output = forward(&args);
    let said = String::from_utf8_lossy(&output.stderr);
    let found: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{mode}: {error}: {said}"));
    // A machine that is too busy for the rate says so; whatever arrived must be right all the same.
    assert!(
        output.status.success() || said.contains("lower --rate"),
        "{mode}: {said}"
    );
    assert_eq!(
        (&found["verb"], &found["mode"]),
        (&"forward".into(), &mode.into())
    );
    assert_eq!(
        (number(&found, "/seed"), number(&found, "/sessions")),
        (7.0, 3.0)
    );
    assert_eq!(found["vs"]["name"], rival);
    for whose in ["", "/vs"] {
        let of = |name| number(&found, &format!("{whose}/{name}"));
        assert!(of("delivered") > 0.0, "{found:#}");
        assert_eq!((of("foreign"), of("duplicated")), (0.0, 0.0), "{found:#}");
        assert!(
            of("offered_fps") > 0.0 && of("delivered_fps") > 0.0,
            "{found:#}"
        );
        assert!(of("relay_cpu_ns_per_frame") > 0.0, "{found:#}");
        assert!(of("relay_rss_bytes") > 0.0, "{found:#}");
        assert!((0.0..=1.0).contains(&of("loss_ratio")), "{found:#}");
        assert!(of("latency_us/p50") <= of("latency_us/p99"), "{found:#}");
    }
    assert!(number(&found, "/duration_s") >= 2.0 && number(&found, "/ratio_cpu_per_frame") > 0.0);
}

#[test]
fn single_frames_are_measured_beside_the_plain_forwarder() {
    is_measured("single", "raw");
}

#[test]
fn single_frames_are_measured_beside_the_plainest() {
    is_measured("single", "one");
}

#[test]
fn bursts_are_measured_beside_the_plain_forwarder() {
    is_measured("burst", "raw");
}

#[test]
fn trains_are_measured_beside_the_plain_forwarder() {
    is_measured("train", "raw");
}

#[test]
fn a_command_line_that_cannot_be_is_one_line_and_2() {
    // 192.0.2.0/24 is nobody's (RFC 5737); the key is a valid one of nobody's, too.
    let key = "a".repeat(52);
    let elsewhere = format!("192.0.2.1:4433/{key}");
    for (args, says) in [
        (&["--relay", &elsewhere][..], "--i-own-this-network"),
        (
            &[
                "--relay",
                &elsewhere.replace("192.0.2", "127.0.0"),
                "--vs",
                "raw",
            ],
            "--relay-pid",
        ),
        (&["--rate", "fast"], "max"),
        (&["--seconds", "100"], "1..=60"),
    ] {
        let output = forward(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(says) && said.lines().count() == 1, "{said}");
    }
}
