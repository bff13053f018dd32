//! The verb `natlab`: which pairs of networks two nodes reach each other across, and how soon.
//!
//! Each pair gets a network of its own, which first has to prove that it behaves as its name says; then the nodes meet in it, by
//! code, as people's do. The relay is the same crate that `remora-relay` is, the nodes are the library that `remora` is.

/// What a session bears.
mod ordeals;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use crate::{
    cli::Natlab,
    interrupt,
    measure::median,
    natlab::{
        classify,
        edge::Pair,
        lab::{NODE_DELAY, Network, RELAY_DELAY},
        trial::{self, Trial},
    },
    report::{Progress, print, reasons, rounded, rounded_or_null},
    subject::unless_interrupted,
};

/// What was found of a pair.
#[derive(Debug)]
struct Cell {
    pair: Pair,
    trials: Vec<Trial>,
    faults: BTreeMap<String, u64>,
}

/// Measures and prints. Says why the measurement is not valid.
///
/// # Errors
/// When there is no measurement.
pub fn run(args: &Natlab) -> anyhow::Result<Option<String>> {
    let began = Instant::now();
    let progress = Progress::new();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    if !args.trials.is_empty() {
        return ordeals::run(args, &runtime, &progress);
    }
    let pairs = if args.pairs.is_empty() {
        Pair::all()
    } else {
        args.pairs.clone()
    };
    let measuring = |(number, pair): (usize, &Pair)| {
        let show = |run| {
            let (number, all) = (number + 1, pairs.len());
            progress.show(&format!(
                "pair {number}/{all}: {pair}, run {run}/{}",
                args.runs
            ));
        };
        let measuring = measure(*pair, args, show);
        unless_interrupted(&runtime, measuring).with_context(|| pair.to_string())
    };
    let (cells, stopped) = one_by_one(pairs.iter().enumerate(), measuring)?;
    progress.clear();
    print(&if args.json {
        json(&cells, args, began.elapsed()).to_string()
    } else if args.markdown {
        markdown(&cells, args)
    } else {
        table(&cells, args)
    })?;
    stopped.map_or_else(|| Ok(fault(&cells)), Err)
}

/// Measures one after the other; also says why it was not all of them. What has been measured before one failed is not lost.
///
/// # Errors
/// The first has failed.
fn one_by_one<Each, Found>(
    all: impl IntoIterator<Item = Each>,
    mut measure: impl FnMut(Each) -> anyhow::Result<Found>,
) -> anyhow::Result<(Vec<Found>, Option<anyhow::Error>)> {
    let mut found = Vec::new();
    for each in all {
        match measure(each) {
            Ok(one) => found.push(one),
            Err(error) if found.is_empty() => return Err(error),
            Err(error) => return Ok((found, Some(error))),
        }
    }
    Ok((found, None))
}

async fn measure(pair: Pair, args: &Natlab, show: impl Fn(u32)) -> anyhow::Result<Cell> {
    let network = Network::new(pair, args.loss / 100.0, args.seed).await?;
    classify::prove(&network).await?;
    let mut cell = Cell {
        pair,
        trials: Vec::new(),
        faults: BTreeMap::new(),
    };
    let patience = Duration::from_secs(args.patience);
    for run in 0..args.runs {
        interrupt::check()?;
        show(run + 1);
        let helper = usize::from(run % 2 == 1);
        match trial::run(&network, helper, patience).await {
            Ok(trial) => cell.trials.push(trial),
            Err(why) => *cell.faults.entry(why).or_default() += 1,
        }
    }
    network.close().await;
    Ok(cell)
}

/// Median and worst of times, milliseconds.
struct Times {
    median: Option<f64>,
    worst: Option<f64>,
}

impl Times {
    fn of(times: impl Iterator<Item = Duration> + Clone) -> Self {
        let ms = times.map(|time| time.as_secs_f64() * 1e3);
        Self {
            median: median(ms.clone()),
            worst: ms.max_by(f64::total_cmp),
        }
    }

    fn json(&self) -> Value {
        json!({"median": rounded_or_null(self.median, 1), "worst": rounded_or_null(self.worst, 1)})
    }

    fn text(&self) -> String {
        let both = self.median.zip(self.worst);
        both.map_or_else(
            || "-".to_owned(),
            |(median, worst)| format!("{median:.0} / {worst:.0}"),
        )
    }
}

impl Cell {
    fn runs(&self) -> u64 {
        self.trials.len() as u64 + self.faults.values().sum::<u64>()
    }

    fn relayed(&self) -> Times {
        Times::of(self.trials.iter().map(|trial| trial.relayed_first_byte))
    }

    fn direct(&self) -> impl Iterator<Item = Duration> + Clone {
        self.trials.iter().filter_map(|trial| trial.direct)
    }

    fn checks_max(&self) -> Option<u64> {
        self.trials.iter().map(|trial| trial.checks).max()
    }

    /// Why there was no direct path, and how often.
    fn why_not(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for why in self.trials.iter().filter_map(|trial| trial.why_not) {
            *counts.entry(why.name()).or_default() += 1;
        }
        counts
    }

    fn json(&self) -> Value {
        let why_not = self.why_not().into_iter();
        let why_not = why_not.max_by_key(|(_, count)| *count);
        json!({
            "a": self.pair.a.name(),
            "b": self.pair.b.name(),
            "runs": self.runs(),
            "connected": self.trials.len(),
            "direct": self.direct().count(),
            "relayed_first_byte_ms": self.relayed().json(),
            "time_to_direct_ms": Times::of(self.direct()).json(),
            "probes_max": self.checks_max(),
            "why_not_direct": why_not.map(|(why, _)| why),
            "failures": self.faults,
        })
    }

    fn columns(&self) -> [String; 8] {
        let why = [reasons(&self.why_not()), reasons(&self.faults)];
        let why: Vec<_> = why.into_iter().filter(|why| !why.is_empty()).collect();
        [
            self.pair.to_string(),
            self.runs().to_string(),
            self.trials.len().to_string(),
            self.direct().count().to_string(),
            self.relayed().text(),
            Times::of(self.direct()).text(),
            self.checks_max()
                .map_or_else(|| "-".to_owned(), |checks| checks.to_string()),
            why.join(", "),
        ]
    }
}

const COLUMNS: [&str; 8] = [
    "pair",
    "runs",
    "connected",
    "direct",
    "first byte",
    "to direct",
    "checks",
    "why relayed",
];

fn row(columns: &[String; 8]) -> String {
    let [
        pair,
        runs,
        connected,
        direct,
        relayed,
        to_direct,
        checks,
        why,
    ] = columns;
    let line = format!(
        "{pair:<34}{runs:>5}{connected:>11}{direct:>8}{relayed:>16}{to_direct:>16}{checks:>8}  {why}"
    );
    line.trim_end().to_owned() + "\n"
}

fn about(args: &Natlab) -> String {
    let loss = if args.loss > 0.0 {
        format!(" and {} % lost each way", args.loss)
    } else {
        String::new()
    };
    format!(
        "natlab · {NODE_DELAY:?} one way{loss} on each node's link, {RELAY_DELAY:?} on the relay's · waits {} s for a direct path\n\
         first byte: from the typed code until both have a connection through the relay; to direct: from then until both send\n\
         directly; median / worst, ms; checks: most that one node sent\n\n",
        args.patience
    )
}

fn table(cells: &[Cell], args: &Natlab) -> String {
    let mut text = about(args) + &row(&COLUMNS.map(str::to_owned));
    for cell in cells {
        text += &row(&cell.columns());
    }
    text.trim_end().to_owned()
}

fn markdown(cells: &[Cell], args: &Natlab) -> String {
    let line = |columns: &[String]| format!("| {} |\n", columns.join(" | "));
    let mut text = about(args) + &line(&COLUMNS.map(str::to_owned));
    text += "|---|--:|--:|--:|--:|--:|--:|---|\n";
    for cell in cells {
        text += &line(&cell.columns());
    }
    text.trim_end().to_owned()
}

fn json(cells: &[Cell], args: &Natlab, took: Duration) -> Value {
    let cells: Vec<_> = cells.iter().map(Cell::json).collect();
    json!({
        "verb": "natlab",
        "duration_s": rounded(took.as_secs_f64(), 3),
        "loss_percent": args.loss,
        "seed": args.seed,
        "cells": cells,
    })
}

fn fault(cells: &[Cell]) -> Option<String> {
    let runs: u64 = cells.iter().map(Cell::runs).sum();
    let mut faults = BTreeMap::new();
    for (why, count) in cells.iter().flat_map(|cell| &cell.faults) {
        *faults.entry(why).or_default() += count;
    }
    let failed: u64 = faults.values().sum();
    (failed > 0).then(|| {
        format!(
            "{failed} of {runs} runs had no session: {}",
            reasons(&faults)
        )
    })
}
