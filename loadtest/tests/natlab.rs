//! Real nodes behind real NATs, as `remora-loadtest natlab` measures them: who reaches whom directly is what the simulation
//! predicts.
//!
//! Here and not with the node, whose tests know no lab: only what loads the relay depends on both, and on networks.

use std::process::Command;

use remora_loadtest::natlab::edge::Pair;
use serde_json::Value;

/// One of each: both mappings the same for everybody, one NAT behind another, one side that lets others in, IPv6, each plan,
/// what no plan helps, a gateway that gives a port, no UDP, and nothing but a proxy.
const PAIRS: [&str; 16] = [
    "public:eim-apdf",
    "eim-apdf:eim-apdf",
    "eim-adf:apdm-random",
    "eim-apdf:cgn",
    "same-nat:same-nat",
    "same-nat-hairpin:same-nat-hairpin",
    "public:apdm-sequential",
    "eim-eif:apdm-block",
    "v6-firewall:v6-firewall",
    "eim-apdf:apdm-random",
    "firewall:apdm-block",
    "apdm-sequential:apdm-sequential",
    "apdm-random:apdm-random",
    "mapped:apdm-random",
    "udp-blocked:eim-apdf",
    "proxy-only:public",
];

#[test]
fn nodes_reach_each_other_where_the_simulation_predicts_it() {
    let pairs = PAIRS.iter().flat_map(|pair| ["--pair", pair]);
    let run = Command::new(env!("CARGO_BIN_EXE_remora-loadtest"))
        .args(["natlab", "--json", "--runs", "1"])
        .args(pairs)
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    let found: Value = serde_json::from_slice(&run.stdout).expect("one object");
    assert_eq!(found["verb"], "natlab");
    let cells = found["cells"].as_array().expect("cells");
    assert_eq!(cells.len(), PAIRS.len());
    for (name, cell) in PAIRS.iter().zip(cells) {
        let pair: Pair = name.parse().expect("a pair");
        let is_direct = u64::from(pair.is_direct());
        assert_eq!(
            format!("{}:{}", cell["a"], cell["b"]).replace('"', ""),
            *name
        );
        let count = |field: &str| {
            cell[field]
                .as_u64()
                .unwrap_or_else(|| panic!("{name}: {field}"))
        };
        assert_eq!((count("runs"), count("connected")), (1, 1), "{name}");
        assert_eq!(count("direct"), is_direct, "{name}: {cell}");
        assert!(
            cell["relayed_first_byte_ms"]["median"].is_number(),
            "{name}"
        );
        assert_eq!(
            cell["time_to_direct_ms"]["worst"].is_number(),
            pair.is_direct(),
            "{name}"
        );
        assert_eq!(cell["why_not_direct"].is_null(), pair.is_direct(), "{name}");
        assert!(
            count("probes_max") > 0 || !pair.has_udp(),
            "{name}: nobody looked for a direct path"
        );
    }
}

#[test]
fn a_living_session_is_tried() {
    let run = Command::new(env!("CARGO_BIN_EXE_remora-loadtest"))
        .args(["natlab", "--json", "--trial", "blackhole", "--loss", "0.5"])
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    let found: Value = serde_json::from_slice(&run.stdout).expect("one object");
    let trial = &found["trials"][0];
    assert_eq!(trial["trial"], "blackhole");
    assert!(trial["figures"]["longest_gap_ms"].is_number(), "{trial}");
}

#[test]
fn a_pair_that_cannot_be_is_refused_before_anything_is_built() {
    for pair in ["moon:public", "same-nat:public", "public"] {
        let run = Command::new(env!("CARGO_BIN_EXE_remora-loadtest"))
            .args(["natlab", "--pair", pair])
            .output()
            .expect("the binary runs");
        assert_eq!(run.status.code(), Some(2), "{pair}");
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(
            said.contains("there are public")
                || said.contains("say A:B")
                || said.contains("same-nat:same-nat"),
            "{said}"
        );
    }
}
