//! The trials of the verb `natlab`: what a session bears, each in a network of its own.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::one_by_one;
use crate::{
    cli::Natlab,
    natlab::{
        classify,
        edge::Pair,
        lab::Network,
        living::{self, Ordeal},
    },
    report::{Progress, print, rounded},
    subject::unless_interrupted,
};

/// A trial that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(600);

/// What was found.
struct Found {
    ordeal: Ordeal,
    pair: Pair,
    /// Or a short name of what failed.
    figures: Result<Value, String>,
}

/// Measures and prints. Says why the measurement is not valid.
pub(super) fn run(
    args: &Natlab,
    runtime: &Runtime,
    progress: &Progress,
) -> anyhow::Result<Option<String>> {
    let began = Instant::now();
    let trials = args.trials.iter().flat_map(|ordeal| {
        let pairs = if args.pairs.is_empty() {
            vec![ordeal.pair()]
        } else {
            args.pairs.clone()
        };
        pairs.into_iter().map(|pair| (*ordeal, pair))
    });
    let (all, stopped) = one_by_one(trials, |(ordeal, pair)| {
        progress.show(&format!("{}: {pair}", ordeal.name()));
        let found = unless_interrupted(runtime, measure(ordeal, pair, args));
        found.with_context(|| format!("{}, {pair}", ordeal.name()))
    })?;
    progress.clear();
    print(&if args.json {
        json(&all, began.elapsed()).to_string()
    } else {
        table(&all, args.markdown)
    })?;
    if let Some(error) = stopped {
        return Err(error);
    }
    let failed: Vec<_> = all.iter().filter_map(Found::fault).collect();
    Ok((!failed.is_empty()).then(|| failed.join("; ")))
}

async fn measure(ordeal: Ordeal, pair: Pair, args: &Natlab) -> anyhow::Result<Found> {
    let network = Network::new(pair, args.loss / 100.0, args.seed).await?;
    classify::prove(&network).await?;
    let figures = tokio::time::timeout(LIMIT, living::run(&network, ordeal, args)).await;
    let figures = figures.unwrap_or_else(|_| Err("LIMIT".to_owned()));
    network.close().await;
    Ok(Found {
        ordeal,
        pair,
        figures,
    })
}

impl Found {
    fn fault(&self) -> Option<String> {
        let why = self.figures.as_ref().err()?;
        Some(format!("{}, {}: {why}", self.ordeal.name(), self.pair))
    }

    fn json(&self) -> Value {
        json!({
            "trial": self.ordeal.name(),
            "a": self.pair.a.name(),
            "b": self.pair.b.name(),
            "figures": self.figures.as_ref().ok(),
            "failure": self.figures.as_ref().err(),
        })
    }

    /// `name value, name value`
    fn text(&self) -> String {
        match &self.figures {
            Ok(Value::Object(figures)) => {
                let each = figures.iter().map(|(name, value)| {
                    let name = name.replace('_', " ");
                    match value.as_str() {
                        Some(text) => format!("{name} {text}"),
                        None => format!("{name} {value}"),
                    }
                });
                each.collect::<Vec<_>>().join(", ")
            }
            Ok(other) => other.to_string(),
            Err(why) => format!("failed: {why}"),
        }
    }
}

fn json(all: &[Found], took: Duration) -> Value {
    let trials: Vec<_> = all.iter().map(Found::json).collect();
    json!({"verb": "natlab", "duration_s": rounded(took.as_secs_f64(), 3), "trials": trials})
}

fn table(all: &[Found], is_markdown: bool) -> String {
    let mut text = if is_markdown {
        "| trial | pair | found |\n|---|---|---|\n".to_owned()
    } else {
        String::new()
    };
    for found in all {
        let (name, pair, figures) = (found.ordeal.name(), found.pair, found.text());
        text += &if is_markdown {
            format!("| {name} | {pair} | {figures} |\n")
        } else {
            format!("{name:<14}{pair}\n              {figures}\n")
        };
    }
    text.trim_end().to_owned()
}
