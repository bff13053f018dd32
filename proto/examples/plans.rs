//! What checks and plans reach between two nodes behind NATs, in virtual time: nodes 20 ms apart, 30 ms through the relay.
//!
//! `cargo run --release -p remora-proto --example plans [RUNS [LOSS]]`
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it is a program"
)]

use std::{
    env,
    time::{Duration, Instant},
};

use remora_proto::sim::{
    edge::Reach,
    internet::{
        ADF, APDM_BLOCK, APDM_RANDOM, APDM_SEQUENTIAL, APDM_WIDE_BLOCK, Behaviour, EIF, FIREWALL,
        HOME, Ports,
    },
    nodes::World,
};

/// Sequential, with others' mappings.
const fn busy(others_per_s: u16) -> Behaviour {
    Behaviour {
        ports: Ports::Sequential(others_per_s),
        ..APDM_SEQUENTIAL
    }
}

const EDGES: [(&str, Behaviour); 11] = [
    ("EIM/EIF", EIF),
    ("EIM/ADF", ADF),
    ("EIM/APDF", HOME),
    ("firewall", FIREWALL),
    ("sequential", APDM_SEQUENTIAL),
    ("sequential, 10/s", busy(10)),
    ("sequential, 20/s", busy(20)),
    ("sequential, 100/s", busy(100)),
    ("block of 512", APDM_BLOCK),
    ("block of 4096", APDM_WIDE_BLOCK),
    ("random", APDM_RANDOM),
];

fn main() {
    let mut arguments = env::args().skip(1);
    let runs = arguments.next().and_then(|text| text.parse().ok());
    let runs: u64 = runs.unwrap_or(200);
    let loss = arguments.next().and_then(|text| text.parse().ok());
    let loss = loss.unwrap_or(0.0);
    println!(
        "{runs} runs, {loss} of packets lost; ms from when both are known; checks of the busier side"
    );
    println!(
        "{:18} {:18} {:9} {:>6} {:>5} {:>5} {:>6} {:>7} {:>5} {:>8}",
        "a", "b", "by", "direct", "p50", "p90", "worst", "checks", "most", "sockets"
    );
    for (at, a) in EDGES.iter().enumerate() {
        for b in &EDGES[at..] {
            row(a, b, loss, runs);
        }
    }
}

fn row(a: &(&str, Behaviour), b: &(&str, Behaviour), loss: f64, runs: u64) {
    let edges = [&[a.1][..], &[b.1][..]];
    let (mut times, mut checks, mut sockets) = (Vec::new(), Vec::new(), 0);
    for seed in 0..runs {
        let mut world = World::new(edges, loss, Instant::now(), seed);
        times.extend(world.reach(Duration::from_secs(15)));
        let sent = world.nodes.iter().map(|node| node.paths.checks_sent());
        checks.extend(sent.max());
        let most = world.nodes.iter().map(|node| node.most_sockets).max();
        sockets = sockets.max(most.unwrap_or(0));
    }
    times.sort();
    checks.sort_unstable();
    let time = |of_ten: usize| {
        let at = (times.len() * of_ten / 10).min(times.len().saturating_sub(1));
        let time = times.get(at);
        time.map_or_else(|| "-".to_owned(), |time| time.as_millis().to_string())
    };
    let by = match Reach::between(edges[0], edges[1]) {
        Reach::Checks => "checks".to_owned(),
        Reach::Relay => "relay".to_owned(),
        Reach::Plan(plan) => plan.name().to_owned(),
    };
    let checks_at = |of_ten: usize| {
        let at = (checks.len() * of_ten / 10).min(checks.len().saturating_sub(1));
        checks.get(at).copied().unwrap_or(0)
    };
    println!(
        "{:18} {:18} {:9} {:>5.1}% {:>5} {:>5} {:>6} {:>7} {:>5} {:>8}",
        a.0,
        b.0,
        by,
        times.len() as f64 * 100.0 / runs as f64,
        time(5),
        time(9),
        time(10),
        checks_at(5),
        checks_at(10),
        sockets
    );
}
