//! The verb `provoke`: alerts that are set off on purpose, so that an operator has seen each before it is needed.
//!
//! By itself it has relays and a Prometheus of its own, whose rules are so many times as fast as they say: all durations in them,
//! and how often relays are asked, but no threshold. At a fleet that runs it does what people's computers can do to it, at its pace.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt::Write as _,
    future::pending,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::ValueEnum as _;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    cli::Provoke as Args,
    interrupt,
    process::Cores,
    provoke::{
        alert::{Alert, Cause},
        causes::{self, bring_about},
        history,
        people::{Deeds, keep_doing},
        prometheus::{self, Prometheus, Told},
        rules::{self, Scaled, written},
        stage::{self, Stage},
    },
    report::{print, rounded, say},
    scenario::Bench,
    subject::unless_interrupted,
};

/// How often one looks what fires.
const GLANCE: Duration = Duration::from_millis(100);
/// The fleet that nothing happens to.
const HEALTHY: &str = "Healthy";
/// It serves for so long at least before it counts as one that sets nothing off.
const HEALTHY_FOR: Duration = Duration::from_secs(25);

/// What came of one cause.
#[derive(Debug)]
struct Outcome {
    cause: Cause,
    /// Those that were wanted, and how long after the cause began each fired.
    fired: BTreeMap<Alert, Option<Duration>>,
    /// Others about the same relays.
    also: BTreeSet<String>,
    deeds: Arc<Deeds>,
    /// Why it could not be brought about.
    fault: Option<String>,
}

/// Sets them off and prints what fired. Says which did not.
///
/// # Errors
/// When that cannot be tried.
pub fn run(args: &Args) -> anyhow::Result<Option<String>> {
    if args.list {
        print(list().trim_end())?;
        return Ok(None);
    }
    let bench = Bench::spread_out(args.json)?;
    if args.relays.is_empty() {
        bench.runtime.block_on(alone(args, &bench))
    } else {
        unless_interrupted(&bench.runtime, at_a_fleet(args, &bench))
    }
}

fn list() -> String {
    let mut text = String::new();
    for alert in Alert::value_variants() {
        let whose = if alert.deed().is_some() {
            "also with --relay"
        } else {
            ""
        };
        let (name, what) = (alert.name(), alert.what());
        // To a string nothing fails.
        writeln!(text, "{name:<28}{whose:<19}{what}").ok();
    }
    text
}

// --- relays and Prometheus of our own ---

async fn alone(args: &Args, bench: &Bench) -> anyhow::Result<Option<String>> {
    let text = rules::read(args.rules.as_deref())?;
    let known = rules::alerts(&text);
    let wanted = args.wanted();
    if let Some(alert) = wanted.iter().find(|alert| !known.contains(&&*alert.name())) {
        return Ok(Some(format!("the rules have no alert {}", alert.name())));
    }
    let rules = Scaled::new(&text, args.speed);
    bench.progress.show("Prometheus starts");
    let settings = prometheus::Settings {
        program: args.prometheus.as_deref(),
        rules: &rules,
        speed: args.speed,
    };
    let fleets = [HEALTHY.to_owned(), Alert::DirectRatioFell.name()];
    let past = |data: &std::path::Path| {
        history::write(data, &fleets, args.prometheus.as_deref(), args.speed)
    };
    let prometheus = Prometheus::start(&settings, &bench.cores, past).await?;
    let prometheus = Arc::new(prometheus);
    let mut found = Found::new(args, &rules);
    let (heavy, light) = wanted.into_iter().partition::<Vec<_>, _>(|a| a.is_heavy());
    let healthy = args
        .control
        .then(|| Healthy::start(&prometheus, &bench.cores));
    let mut healthy = healthy.transpose()?;
    // What takes the whole machine comes by itself, and when there is nobody left whom it would disturb.
    for act in std::iter::once(light).chain(heavy.into_iter().map(|alert| vec![alert])) {
        if let (Some(alert), Some(watched)) = (act.first(), healthy.take()) {
            if alert.is_heavy() {
                found.healthy = Some(watched.end().await?);
            } else {
                healthy = Some(watched);
            }
        }
        found.add(set_off(&act, args, &prometheus, bench).await?);
    }
    if !args.keep {
        interrupt::check()?;
    }
    if let Some(healthy) = healthy {
        bench.progress.show("a fleet that nothing happens to");
        found.healthy = Some(healthy.end().await?);
    }
    bench.print(|| found.json(bench), || found.table())?;
    Ok(found.fault())
}

/// All of an act at once.
async fn set_off(
    act: &[Alert],
    args: &Args,
    prometheus: &Arc<Prometheus>,
    bench: &Bench,
) -> anyhow::Result<Vec<Outcome>> {
    let mut by_cause = BTreeMap::<_, BTreeMap<_, _>>::new();
    for alert in act {
        by_cause
            .entry(alert.cause())
            .or_default()
            .insert(*alert, None);
    }
    let (count, mut causing) = (by_cause.len(), JoinSet::new());
    for (cause, fired) in by_cause {
        let first = fired.keys().next().map(|alert: &Alert| alert.name());
        let fleet = first.unwrap_or_default();
        let one = One {
            stage: Stage::new(&fleet, prometheus, &bench.cores)?,
            prometheus: Arc::clone(prometheus),
            speed: args.speed,
            within: Duration::from_secs(args.within),
            keep: args.keep,
            outcome: Outcome {
                cause,
                fired,
                also: BTreeSet::new(),
                deeds: Arc::default(),
                fault: None,
            },
        };
        causing.spawn(one.run());
    }
    let mut outcomes = Vec::new();
    while let Some(outcome) = causing.join_next().await {
        outcomes.push(outcome?);
        bench
            .progress
            .show(&format!("causes {}/{count}", outcomes.len()));
    }
    Ok(outcomes)
}

/// One cause, until all its alerts fire.
struct One {
    stage: Stage,
    prometheus: Arc<Prometheus>,
    speed: u32,
    within: Duration,
    keep: bool,
    outcome: Outcome,
}

impl One {
    async fn run(self) -> Outcome {
        let Self {
            stage,
            prometheus,
            speed,
            within,
            keep,
            mut outcome,
        } = self;
        let deeds = Arc::clone(&outcome.deeds);
        let causing = bring_about(outcome.cause, &stage, speed, &deeds);
        let watching = async {
            if timeout(within, outcome.watch(&prometheus, &stage.fleet))
                .await
                .is_ok()
                && keep
            {
                say(&format!(
                    "{} fires at http://{}/alerts; Ctrl-C ends it",
                    stage.fleet, prometheus.at
                ));
                pending().await
            }
        };
        let never: Option<anyhow::Result<Infallible>> = tokio::select! {
            failed = causing => Some(failed),
            () = watching => None,
            () = interrupt::told() => None,
        };
        if let Some(Err(error)) = never {
            outcome.fault = Some(format!("{error:#}"));
        }
        outcome
    }
}

impl Outcome {
    /// Until all that were wanted fire.
    async fn watch(&mut self, prometheus: &Prometheus, fleet: &str) {
        let began = Instant::now();
        while self.fired.values().any(Option::is_none) {
            sleep(GLANCE).await;
            // One that does not answer is asked again.
            for told in prometheus.alerts().await.unwrap_or_default() {
                if told.is_firing && told.fleet == fleet {
                    self.note(&told, began.elapsed());
                }
            }
        }
    }

    fn note(&mut self, told: &Told, after: Duration) {
        let wanted = self
            .fired
            .iter_mut()
            .find(|(alert, _)| alert.name() == told.name);
        match wanted {
            Some((_, fired)) => {
                fired.get_or_insert(after);
            }
            None => {
                self.also.insert(told.name.clone());
            }
        }
    }
}

/// A fleet that serves, and sets nothing off.
struct Healthy {
    serving: JoinSet<anyhow::Result<Infallible>>,
    watching: JoinSet<BTreeSet<String>>,
    end: tokio_util::sync::CancellationToken,
    began: Instant,
    deeds: Arc<Deeds>,
}

impl Healthy {
    fn start(prometheus: &Arc<Prometheus>, cores: &Cores) -> anyhow::Result<Self> {
        let stage = Stage::new(HEALTHY, prometheus, cores)?;
        let (deeds, prometheus) = (Arc::<Deeds>::default(), Arc::clone(prometheus));
        let (mut serving, mut watching) = (JoinSet::new(), JoinSet::new());
        let done = Arc::clone(&deeds);
        serving.spawn(async move { causes::nothing(&stage, &done).await });
        let end = tokio_util::sync::CancellationToken::new();
        let ended = end.clone();
        watching.spawn(async move {
            let mut fired = BTreeSet::new();
            while !ended.is_cancelled() {
                sleep(GLANCE).await;
                for told in prometheus.alerts().await.unwrap_or_default() {
                    if told.is_firing && told.fleet == HEALTHY {
                        fired.insert(told.name);
                    }
                }
            }
            fired
        });
        Ok(Self {
            serving,
            watching,
            end,
            began: Instant::now(),
            deeds,
        })
    }

    /// What fired all the same.
    async fn end(mut self) -> anyhow::Result<Calm> {
        let served = async {
            tokio::select! {
                failed = self.serving.join_next() => Some(failed),
                () = sleep(HEALTHY_FOR.saturating_sub(self.began.elapsed())) => None,
                () = interrupt::told() => None,
            }
        };
        if let Some(failed) = served.await {
            failed.context("a fleet serves until it is told to end")???;
        }
        self.end.cancel();
        let fired = self.watching.join_next().await;
        Ok(Calm {
            fired: fired.context("somebody watches")??,
            lasted: self.began.elapsed(),
            deeds: self.deeds,
        })
    }
}

/// How it went where nothing happened.
struct Calm {
    fired: BTreeSet<String>,
    lasted: Duration,
    deeds: Arc<Deeds>,
}

/// What came of all.
struct Found<'a> {
    args: &'a Args,
    rules: &'a Scaled,
    outcomes: Vec<Outcome>,
    healthy: Option<Calm>,
}

impl<'a> Found<'a> {
    fn new(args: &'a Args, rules: &'a Scaled) -> Self {
        Self {
            args,
            rules,
            outcomes: Vec::new(),
            healthy: None,
        }
    }

    fn add(&mut self, outcomes: Vec<Outcome>) {
        self.outcomes.extend(outcomes);
        self.outcomes.sort_by_key(|outcome| outcome.cause);
    }

    fn fault(&self) -> Option<String> {
        let faults = self.outcomes.iter().filter_map(|outcome| {
            let silent = outcome.fired.iter().filter(|(_, fired)| fired.is_none());
            let silent: Vec<_> = silent.map(|(alert, _)| alert.name()).collect();
            let why = outcome.fault.as_deref();
            (!silent.is_empty()).then(|| {
                let why = why.map_or_else(
                    || {
                        format!(
                            "within {} s; see it with --keep, or wait longer with --within",
                            self.args.within
                        )
                    },
                    |why| format!(": {why}"),
                );
                format!("{} did not fire {why}", silent.join(", "))
            })
        });
        let calm = self.healthy.as_ref().filter(|calm| !calm.fired.is_empty());
        let calm = calm.map(|calm| {
            let all = Vec::from_iter(calm.fired.iter().map(String::as_str));
            format!("{} fired where nothing happened", all.join(", "))
        });
        let all: Vec<_> = faults.chain(calm).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn json(&self, bench: &Bench) -> Value {
        let alerts = self.outcomes.iter().flat_map(|outcome| {
            outcome.fired.iter().map(|(alert, fired)| {
                json!({
                    "alert": alert.name(),
                    "what": alert.what(),
                    "fired": fired.is_some(),
                    "after_s": fired.map(|after| rounded(after.as_secs_f64(), 1)),
                    "also": outcome.also,
                    "deeds": outcome.deeds.json(),
                    "fault": outcome.fault,
                })
            })
        });
        let healthy = self.healthy.as_ref().map(|calm| {
            json!({
                "fired": calm.fired,
                "seconds": rounded(calm.lasted.as_secs_f64(), 1),
                "deeds": calm.deeds.json(),
            })
        });
        let scaled = self.rules.durations.iter();
        let scaled = scaled.map(|(from, to)| (written(*from), json!(written(*to))));
        json!({
            "verb": "provoke",
            "duration_s": rounded(bench.began.elapsed().as_secs_f64(), 1),
            "speed": self.args.speed,
            "scaled": serde_json::Map::from_iter(scaled),
            "alerts": alerts.collect::<Vec<_>>(),
            "healthy": healthy,
        })
    }

    fn table(&self) -> String {
        let speed = self.args.speed;
        let scaled = self.rules.durations.iter();
        let scaled = scaled.map(|(from, to)| format!("{} is {}", written(*from), written(*to)));
        let scaled: Vec<_> = scaled.collect();
        let mut text = format!(
            "provoke · {speed} times as fast: in windows, waits and offsets {}; thresholds as they are\n\n",
            scaled.join(", ")
        );
        for outcome in &self.outcomes {
            for (alert, fired) in &outcome.fired {
                let after = fired.map_or_else(
                    || "DID NOT FIRE".to_owned(),
                    |after| format!("{:>7.1} s", after.as_secs_f64()),
                );
                let name = alert.name();
                writeln!(text, "{name:<28}{after:<14}{}", alert.what()).ok();
            }
            if !outcome.also.is_empty() {
                let also: Vec<_> = outcome.also.iter().map(String::as_str).collect();
                writeln!(text, "{:<28}with it: {}", "", also.join(", ")).ok();
            }
        }
        if let Some(calm) = &self.healthy {
            let (what, seconds) = (calm.deeds.text(), calm.lasted.as_secs_f64());
            let fired = calm.fired.len();
            writeln!(
                text,
                "\nwhere nothing happens: {fired} fired in {seconds:.0} s; two people met {what}"
            )
            .ok();
        }
        text.trim_end().to_owned()
    }
}

// --- a fleet that runs ---

async fn at_a_fleet(args: &Args, bench: &Bench) -> anyhow::Result<Option<String>> {
    let every = Duration::from_secs(args.every);
    let mut doing = JoinSet::new();
    let mut all = Vec::new();
    for alert in args.wanted() {
        let deed = alert.deed().context("checked with the flags")?;
        let deeds = Arc::<Deeds>::default();
        for relay in &args.relays {
            let (crowd, deeds) = (stage::crowd(relay)?, Arc::clone(&deeds));
            doing.spawn(async move { keep_doing(deed, crowd, every, &deeds).await });
        }
        say(&format!(
            "{}: {}; every {} s at each relay ({}), for {} s at most",
            alert.name(),
            alert.what(),
            args.every,
            args.relays.len(),
            args.seconds
        ));
        all.push((alert, deeds, None));
    }
    let began = Instant::now();
    let watching = async {
        loop {
            sleep(Duration::from_secs(1)).await;
            let Some(at) = args.watch else { continue };
            for told in prometheus::alerts(at).await? {
                let firing = all
                    .iter_mut()
                    .filter(|(alert, ..)| told.is_firing && alert.name() == told.name);
                for (.., fired) in firing {
                    fired.get_or_insert(began.elapsed());
                }
            }
            if all.iter().all(|(.., fired)| fired.is_some()) {
                return anyhow::Ok(());
            }
        }
    };
    tokio::select! {
        failed = doing.join_next() => { failed.context("somebody does something")???; }
        watched = watching => watched?,
        () = sleep(Duration::from_secs(args.seconds)) => {}
    }
    let rows = all.iter().map(|(alert, deeds, fired)| {
        let after = fired.map(|after: Duration| rounded(after.as_secs_f64(), 1));
        json!({"alert": alert.name(), "what": alert.what(), "fired": fired.is_some(), "after_s": after, "deeds": deeds.json()})
    });
    let json = || json!({"verb": "provoke", "duration_s": rounded(bench.began.elapsed().as_secs_f64(), 1), "relays": args.relays.len(), "alerts": rows.collect::<Vec<_>>()});
    let table = || {
        let lines = all.iter().map(|(alert, deeds, fired)| {
            let fired = match (fired, args.watch) {
                (Some(after), _) => format!("fired after {:.0} s", after.as_secs_f64()),
                (None, Some(_)) => "DID NOT FIRE".to_owned(),
                (None, None) => "look whether it fires".to_owned(),
            };
            format!("{:<28}{fired}; done {}", alert.name(), deeds.text())
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    bench.print(json, table)?;
    let silent = all
        .iter()
        .filter(|(.., fired)| args.watch.is_some() && fired.is_none());
    let silent: Vec<_> = silent.map(|(alert, ..)| alert.name()).collect();
    Ok((!silent.is_empty()).then(|| format!("{} did not fire", silent.join(", "))))
}
