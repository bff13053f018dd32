//! `docs/metrics.md`, as `remora-relay metrics` prints it.

use std::fmt::Write as _;

use super::{
    Metrics,
    family::{Described, MetricKind},
};

const HEAD: &str = "\
<!-- Printed by `remora-relay metrics`; do not edit. -->
# Metrics of a relay

`GET /metrics` at the admin port, in Prometheus' text format. Every series is there from the first scrape on, and there are at most 300 of
them at any load. Names, labels and what they can say are kept: whoever removes or renames one breaks somebody's alert, and a test says so.

What nodes say of a session's path (`paths_total`, `path_moves_total`, `direct_ratio`, `time_to_direct_seconds`, `sessions_moved_total`,
`session_gap_seconds`) are counts and times that the program of whoever invited reports, without addresses; a relay cannot check them.

| Name | Type | Unit | Labels | Meaning | Moves in |
|---|---|---|---|---|---|
";

/// The page.
///
/// # Errors
/// When two metrics have one name.
pub fn page() -> prometheus::Result<String> {
    let mut text = HEAD.to_owned();
    for metric in Metrics::describe()? {
        let Described {
            name, help, moved, ..
        } = &metric;
        let (kind, unit, labels) = (kind(&metric.kind), unit(name), labels(&metric));
        let (file, _) = moved;
        writeln!(
            text,
            "| `{name}` | {kind} | {unit} | {labels} | {help} | `{file}` |"
        )
        .ok();
    }
    Ok(text)
}

fn kind(kind: &MetricKind) -> String {
    match kind {
        MetricKind::Counter => "counter".to_owned(),
        MetricKind::Gauge => "gauge".to_owned(),
        MetricKind::Histogram(buckets) => {
            let buckets: Vec<_> = buckets.iter().map(f64::to_string).collect();
            format!("histogram: {}", buckets.join(", "))
        }
    }
}

/// By the last word of a name, as Prometheus has it.
fn unit(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    if name.ends_with("_seconds") {
        "seconds"
    } else if name.contains("bytes") {
        "bytes"
    } else if name.ends_with("_ratio") {
        "0 to 1"
    } else {
        "count"
    }
}

fn labels(metric: &Described) -> String {
    let labels = metric.labels.iter().map(|(label, values)| {
        let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
        match values.is_empty() {
            true => format!("`{label}`"),
            false => format!("`{label}`: {}", values.join(" ")),
        }
    });
    let labels: Vec<_> = labels.collect();
    if labels.is_empty() {
        return "–".to_owned();
    }
    labels.join("<br>")
}
