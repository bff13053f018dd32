//! The relays that a node chose from: which it is at, how far away the others are.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use crate::{homes::Near, node::Node};

/// Each relay once, nearest first: `address`, `rtt_ms` (null: no answer, or nobody asked), `home` (the node is there).
pub(crate) fn near_json(node: &Node) -> Value {
    relays_json(node.near(), |near| near.relay.id == node.relay().id)
}

pub(super) fn relays_json(near: &[Near], is_home: impl Fn(&Near) -> bool) -> Value {
    let mut seen = BTreeSet::new();
    let each = near.iter().filter(|near| seen.insert(near.relay.id));
    let ms = |rtt: Duration| rtt.as_secs_f64() * 1e3;
    each.map(|near| {
        json!({"address": near.relay.host_port, "rtt_ms": near.rtt.map(ms), "home": is_home(near)})
    })
    .collect()
}

/// For people, when there is a choice: `  relay help.example.org:4433  12.1 ms  home`
pub(crate) fn near_lines(relays: &Value) -> Vec<String> {
    let relays = relays.as_array().map(Vec::as_slice).unwrap_or_default();
    if relays.len() < 2 {
        return Vec::new();
    }
    let line = |relay: &Value| {
        let address = relay["address"].as_str().unwrap_or_default();
        let rtt = relay["rtt_ms"].as_f64();
        let rtt = rtt.map_or_else(|| "no answer".to_owned(), |ms| format!("{ms:.1} ms"));
        let home = if relay["home"] == true { "  home" } else { "" };
        format!("  relay {address}  {rtt}{home}")
    };
    relays.iter().map(line).collect()
}
