//! Every run as a row, by verb; what a file says and nobody asked for stands in the last column.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{escape, of, plot::short, text};

/// Columns of a verb: name, and where it is.
type Columns = &'static [(&'static str, &'static str)];

const FORWARD: Columns = &[
    ("mode", "/mode"),
    ("sessions", "/sessions"),
    ("bytes", "/size_bytes"),
    ("frames/s asked", "/rate_fps"),
    ("delivered", "/delivered_fps"),
    ("loss", "/loss_ratio"),
    ("CPU ns/frame", "/relay_cpu_ns_per_frame"),
    ("per core s", "/frames_per_relay_core_s"),
    ("p50 us", "/latency_us/p50"),
    ("p99 us", "/latency_us/p99"),
    ("RSS B", "/relay_rss_bytes"),
    ("vs", "/vs/name"),
    ("its CPU ns/frame", "/vs/relay_cpu_ns_per_frame"),
    ("ratio CPU", "/ratio_cpu_per_frame"),
    ("ratio p50", "/ratio_latency/p50"),
    ("ratio p99", "/ratio_latency/p99"),
];
const IDLE: Columns = &[
    ("nodes", "/nodes"),
    ("sessions", "/sessions"),
    ("parked", "/parked"),
    ("B/node", "/rss_bytes_per_node"),
    ("B/connected node", "/rss_bytes_per_connected_node"),
    ("B/session", "/rss_bytes_per_session"),
    ("CPU share", "/relay_cpu_share"),
    ("RSS B", "/relay_rss_bytes"),
    ("RSS before", "/relay_rss_bytes_before"),
    ("RSS after", "/relay_rss_bytes_after"),
];
const CONNECT: Columns = &[
    ("rate", "/rate_per_s"),
    ("live", "/live_sessions"),
    ("set-ups", "/setups"),
    ("failed", "/failed"),
    ("nodes stay", "/keep_nodes"),
    ("set-ups/s", "/setups_per_s"),
    ("per relay CPU s", "/setups_per_relay_cpu_s"),
    ("p50 us", "/latency_us/p50"),
    ("p90 us", "/latency_us/p90"),
    ("p99 us", "/latency_us/p99"),
    ("max us", "/latency_us/max"),
];
const FAIRNESS: Columns = &[
    ("sessions", "/sessions"),
    ("share frames/s", "/share_fps"),
    ("greed", "/greed"),
    ("session rate B/s", "/session_rate_bytes"),
    ("greedy offered", "/greedy/offered_fps"),
    ("greedy delivered", "/greedy/delivered_fps"),
    ("others' worst share", "/others_delivered_share/worst"),
    ("median", "/others_delivered_share/median"),
    ("p99 ratio", "/ratio_p99/median"),
    ("worst", "/ratio_p99/worst"),
];
const FLOOD: Columns = &[
    ("kind", "/kind"),
    ("asked/s", "/flood_asked_fps"),
    ("offered/s", "/flood_offered_fps"),
    ("honest sessions", "/sessions"),
    ("loss before", "/before/loss_ratio"),
    ("loss", "/loss_ratio"),
    ("p99 us before", "/before/latency_us/p99"),
    ("p99 us", "/latency_us/p99"),
    ("RSS peak B", "/relay_rss_bytes"),
    ("new sessions", "/setups"),
    ("of", "/setups_tried"),
    ("counted", "/relay_counted"),
];
const SESSION: Columns = &[
    ("at once", "/sessions"),
    ("failed", "/failed"),
    ("trust p50 us", "/reached_us/trust/p50"),
    ("live p50 us", "/reached_us/live/p50"),
    ("live p99 us", "/reached_us/live/p99"),
    ("chat p50 us", "/reached_us/chat/p50"),
    ("picture p50 us", "/reached_us/picture/p50"),
];
/// Of a verb that this version does not know.
const UNKNOWN: Columns = &[("all it says", "")];

fn columns(verb: &str) -> Columns {
    match verb {
        "forward" => FORWARD,
        "idle" => IDLE,
        "connect" => CONNECT,
        "fairness" => FAIRNESS,
        "flood" => FLOOD,
        "session" => SESSION,
        _ => UNKNOWN,
    }
}

/// A table for each verb.
pub(super) fn all(runs: &[Value]) -> String {
    let verbs: BTreeSet<_> = runs.iter().map(|run| text(run, "/verb")).collect();
    verbs.into_iter().map(|verb| one(verb, runs)).collect()
}

fn one(verb: &str, runs: &[Value]) -> String {
    let columns = columns(verb);
    let heads = columns
        .iter()
        .map(|(name, _)| format!("<th scope=\"col\">{}</th>", escape(name)));
    let rows = of(runs, verb).map(|run| {
        let cells = columns
            .iter()
            .map(|(_, at)| format!("<td>{}</td>", cell(run.pointer(at))));
        format!("<tr>{}</tr>", cells.collect::<String>())
    });
    format!(
        "<h2>{}</h2><div class=\"scroll\"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>\n",
        escape(verb),
        heads.collect::<String>(),
        rows.collect::<String>()
    )
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "\u{2013}".to_owned(),
        Some(Value::Number(number)) => number.as_f64().map_or_else(String::new, short),
        Some(Value::String(text)) => escape(text),
        Some(Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
        Some(Value::Object(fields)) => {
            let fields = fields
                .iter()
                .map(|(name, value)| format!("{name}: {value}"));
            escape(&fields.collect::<Vec<_>>().join(", "))
        }
        Some(list @ Value::Array(_)) => escape(&list.to_string()),
    }
}
