//! The verb `report`: figures of any verbs become one HTML file that needs nothing from outside.
//!
//! ```text
//!  FILE.json … ─▶ figures ─┬─▶ plot: against sessions, ratios
//!                          └─▶ table: every run, by verb
//! ```
//!
//! Files may come from anywhere: whatever they say is escaped, and numbers are numbers.

// Inline SVG.
mod plot;
// Tables, a row each run.
mod table;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tempfile::NamedTempFile;

use self::plot::{Point, Series};

/// Larger than figures ever are.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Colours for a bright and a dark screen; one column that fits a telephone.
const STYLE: &str = "\
:root{color-scheme:light dark;--text:#1c2024;--soft:#5f6a76;--line:#d9dee4;--paper:#fff;--a:#1667c4;--b:#b4540a;--c:#1b7f4b;\
--d:#8a3ab9;--e:#b3261e;--f:#5b6b00}\
@media(prefers-color-scheme:dark){:root{--text:#e7eaee;--soft:#9aa5b1;--line:#343b44;--paper:#14171b;--a:#6fb0ff;--b:#f2a25c;\
--c:#62cf98;--d:#cf9bf0;--e:#ff8a80;--f:#c6d65a}}\
body{margin:0 auto;max-width:72rem;padding:1.5rem;font:16px/1.5 system-ui,sans-serif;color:var(--text);background:var(--paper)}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.5rem}p,figcaption{color:var(--soft)}\
figure{margin:1rem 0}svg{width:100%;height:auto;max-width:60rem}svg text{fill:var(--text);font:12px system-ui,sans-serif}\
svg .axis{stroke:var(--line);stroke-width:1}svg .mark{stroke:var(--soft);stroke-dasharray:4 4}svg polyline{fill:none;stroke-width:2}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}\
th,td{padding:.3rem .7rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}\
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:600}";

/// Reads `files` and writes `out`.
///
/// # Errors
/// What is wrong with which file.
pub fn write(files: &[PathBuf], out: &Path) -> anyhow::Result<()> {
    let mut runs = Vec::new();
    for file in files {
        let name = file.display();
        runs.extend(read(file).with_context(|| format!("{name}"))?);
    }
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    // Whole or not at all: an old report is not lost to a full disk.
    let written = || -> anyhow::Result<()> {
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(html(&runs).as_bytes())?;
        file.persist(out)?;
        Ok(())
    };
    written().with_context(|| format!("cannot write {}", out.display()))
}

/// The runs of a file, which may have several, one after the other.
fn read(file: &Path) -> anyhow::Result<Vec<Value>> {
    let bytes = fs::metadata(file).context("cannot be read")?.len();
    ensure!(
        bytes <= MAX_FILE_BYTES,
        "too large for figures: {bytes} bytes"
    );
    parse(&fs::read_to_string(file).context("cannot be read")?)
}

fn parse(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut runs = Vec::new();
    for run in serde_json::Deserializer::from_str(text).into_iter() {
        let run: Value = run.context("not JSON")?;
        let number = runs.len() + 1;
        if run.get("verb").and_then(Value::as_str).is_none() {
            bail!("object {number} has no `verb`: not what `remora-loadtest VERB --json` prints");
        }
        runs.push(run);
    }
    ensure!(
        !runs.is_empty(),
        "empty: did the run that should have filled it fail?"
    );
    Ok(runs)
}

fn html(runs: &[Value]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>Remora load test</title><style>{STYLE}</style></head><body>\n\
         <h1>Remora load test</h1><p>{} runs. CPU of the relay is its process\u{2019}s; ratios count, absolute figures are of this machine.</p>\n",
        runs.len()
    );
    page += &cpu_by_sessions(runs);
    page += &ratios(runs);
    page += &setup_latency_by_live(runs);
    page += &latencies(runs);
    page += &table::all(runs);
    page + "</body></html>\n"
}

/// For text and attributes alike.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            other => escaped.push(other),
        }
    }
    escaped
}

fn number(run: &Value, pointer: &str) -> Option<f64> {
    run.pointer(pointer).and_then(Value::as_f64)
}

fn text<'a>(run: &'a Value, pointer: &str) -> &'a str {
    run.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn of<'a>(runs: &'a [Value], verb: &'a str) -> impl Iterator<Item = &'a Value> {
    runs.iter().filter(move |run| text(run, "/verb") == verb)
}

/// What a run of `forward` was like, but for its sessions.
fn load(run: &Value) -> String {
    let size = number(run, "/size_bytes").unwrap_or_default();
    let rate = match run.get("rate_fps") {
        Some(Value::Number(rate)) => format!("{rate}/s"),
        Some(_) | None => text(run, "/rate_fps").to_owned(),
    };
    format!("{} {size} B {rate}", text(run, "/mode"))
}

fn cpu_by_sessions(runs: &[Value]) -> String {
    let mut series = Series::default();
    for run in of(runs, "forward") {
        let sessions = number(run, "/sessions");
        let load = load(run);
        series.add(
            &format!("relay, {load}"),
            sessions,
            number(run, "/relay_cpu_ns_per_frame"),
        );
        let rival = text(run, "/vs/name");
        series.add(
            &format!("{rival}, {load}"),
            sessions,
            number(run, "/vs/relay_cpu_ns_per_frame"),
        );
    }
    series.keep_lines();
    plot::lines(
        "CPU per frame against sessions",
        "sessions",
        "ns per frame",
        &series,
    )
}

fn setup_latency_by_live(runs: &[Value]) -> String {
    let mut series = Series::default();
    for run in of(runs, "connect") {
        let rate = match run.get("rate_per_s") {
            Some(Value::Number(rate)) => format!("{rate} a second"),
            Some(_) | None => "max".to_owned(),
        };
        for quantile in ["p50", "p99"] {
            let us = number(run, &format!("/latency_us/{quantile}"));
            let live = number(run, "/live_sessions");
            series.add(&format!("{quantile}, {rate}"), live, us.map(|us| us / 1e3));
        }
    }
    series.keep_lines();
    plot::lines(
        "Set-up latency against live sessions",
        "live sessions",
        "ms",
        &series,
    )
}

fn ratios(runs: &[Value]) -> String {
    let bars = of(runs, "forward").filter_map(|run| {
        let ratio = number(run, "/ratio_cpu_per_frame")?;
        let sessions = number(run, "/sessions").unwrap_or_default();
        let label = format!(
            "{}, {sessions} sessions / {}",
            load(run),
            text(run, "/vs/name")
        );
        Some(Point {
            kind: text(run, "/vs/name").to_owned(),
            label,
            value: ratio,
        })
    });
    let bars: Vec<_> = bars.collect();
    plot::bars(
        "CPU per frame, relay over the other",
        "1 is as much as the other",
        &bars,
        Some(1.0),
    )
}

fn latencies(runs: &[Value]) -> String {
    let bars = of(runs, "forward").flat_map(|run| {
        let sessions = number(run, "/sessions").unwrap_or_default();
        let whose = [("relay", ""), (text(run, "/vs/name"), "/vs")];
        whose.into_iter().filter_map(move |(name, at)| {
            let value = number(run, &format!("{at}/latency_us/p99"))?;
            let label = format!("{name}, {}, {sessions} sessions", load(run));
            let kind = name.to_owned();
            Some(Point { kind, label, value })
        })
    });
    let bars: Vec<_> = bars.collect();
    plot::bars(
        "Latency, 99 of 100 frames",
        "microseconds, on a machine that others use, too",
        &bars,
        None,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_files_say_is_text() {
        let evil = "<script>alert(1)</script>\"'&";
        let runs = [
            json!({"verb": evil, "note": evil}),
            json!({"verb": "forward", "mode": evil, "sessions": 50, "size_bytes": 1200, "rate_fps": evil,
                "relay_cpu_ns_per_frame": 4000.0, "ratio_cpu_per_frame": 1.1,
                "vs": {"name": evil, "relay_cpu_ns_per_frame": 3900.0, "latency_us": {"p99": 1.0}}}),
            json!({"verb": "flood", "kind": evil, "relay_counted": {evil: 1}}),
        ];
        let page = html(&runs);
        assert!(!page.contains("<script") && !page.contains("alert(1)<"));
        assert!(page.contains("&lt;script&gt;"));
        assert!(!page.contains("http"), "nothing from outside");
    }

    #[test]
    fn a_page_of_every_verb_has_its_plots() {
        let forward = |sessions: u32, cpu: f64| {
            json!({"verb": "forward", "mode": "single", "sessions": sessions, "size_bytes": 1200, "rate_fps": 20000,
                "relay_cpu_ns_per_frame": cpu, "latency_us": {"p50": 20, "p99": 90}})
        };
        let connect = |live: u32| json!({"verb": "connect", "live_sessions": live, "rate_per_s": 400, "latency_us": {"p50": 2000, "p99": 9000}});
        let page = html(&[
            forward(1, 4000.0),
            forward(10_000, 4500.0),
            connect(0),
            connect(10_000),
        ]);
        assert_eq!(page.matches("<svg").count(), 3, "no ratio without another");
        assert_eq!(page.matches("<polyline").count(), 3);
        assert!(page.contains("10k") && page.contains("prefers-color-scheme"));
    }

    #[test]
    fn files_that_are_no_figures_say_why() {
        let why = |text: &str| format!("{:#}", parse(text).expect_err("not figures"));
        assert!(why("").contains("empty"));
        assert!(why("{\"verb\":").contains("not JSON"));
        assert!(why("{\"verb\":\"idle\"} {}").contains("object 2 has no `verb`"));
        assert!(why("[1]").contains("object 1"));
        assert_eq!(
            parse("{\"verb\":\"a\"}\n{\"verb\":\"b\"}")
                .expect("two")
                .len(),
            2
        );
    }
}
