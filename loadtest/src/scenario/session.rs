//! The verb `session`: whole sessions between real nodes, from the typed code to the first words and the first picture.
//!
//! ```text
//!  code typed ─▶ trust: both know who is there ─▶ words compared, control asked for and allowed ─▶ live ─▶ chat, picture
//! ```
//!
//! Everything is the node library's, as `remora demo` plays it, with its synthetic screen at rest. All nodes run on the load's
//! core, so with many at once it is their work that one waits for: how the relay does is [`super::connect`]'s to say.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "one event is waited for among many"
)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use remora::{
    event::Event,
    help::view::View,
    node::{Node, Options, Running},
    share::{capture::synthetic::Sheet, desktop::Desktop},
};
use remora_picture::decode::Canvas;
use remora_proto::{
    id::RelayAddr,
    rendezvous::LIFETIME,
    session::{Command, Event as SessionEvent, Mode},
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use crate::{
    cli::Session,
    measure::{Latencies, float},
    people::{name, person, until, wish},
    relay::{Aim, Capacity, Relay, SessionRate},
    report::{self, reasons},
    scenario::Bench,
    subject::unless_interrupted,
};

/// A session that takes longer for one step has failed.
const STEP: Duration = Duration::from_secs(20);
/// What one says to the other.
const WORDS: &str = "Hello, can you see my screen?";
/// What is reached, in this order.
const REACHED: [&str; 4] = ["trust", "live", "chat", "picture"];

/// How long after the code was typed each of [`REACHED`] was.
type Times = [Duration; REACHED.len()];

/// What was found.
#[derive(Debug)]
struct Found {
    reached: Vec<Latencies>,
    faults: BTreeMap<String, u64>,
    rss_bytes: Option<u64>,
}

/// Measures and prints. Says why the measurement is not valid.
///
/// # Errors
/// When there is no measurement.
pub fn run(args: &Session, aim: Aim) -> anyhow::Result<Option<String>> {
    let bench = Bench::new(&args.target, 1)?;
    let capacity = Capacity {
        nodes: 2 * args.count,
        sessions: args.count,
        workers: None,
        session_rate: SessionRate::Ordinary,
    };
    let relay = Relay::new(aim, capacity, &bench.cores)?;
    let found = unless_interrupted(&bench.runtime, measure(args, &relay, &bench))?;
    bench.print(|| found.json(args, &bench), || found.table(args))?;
    Ok(found.fault(args))
}

async fn measure(args: &Session, relay: &Relay, bench: &Bench) -> anyhow::Result<Found> {
    let mut found = Found {
        reached: REACHED
            .iter()
            .map(|_| Latencies::new())
            .collect::<Result<_, _>>()?,
        faults: BTreeMap::new(),
        rss_bytes: None,
    };
    let mut sessions = JoinSet::new();
    for number in 0..args.count {
        let seed = args.target.seed + number as u64;
        sessions.spawn(session(relay.address.clone(), seed));
    }
    let mut ended = 0;
    while let Some(outcome) = sessions.join_next().await {
        match outcome? {
            Ok(times) => {
                for (all, time) in found.reached.iter_mut().zip(times) {
                    all.record(time);
                }
            }
            Err(why) => *found.faults.entry(why).or_default() += 1,
        }
        ended += 1;
        bench
            .progress
            .show(&format!("sessions {ended}/{}", args.count));
        if ended == 1 {
            found.rss_bytes = relay.meter.map(|meter| meter.rss_bytes()).transpose()?;
        }
    }
    Ok(found)
}

/// A session from its code to its end; why not, if not.
async fn session(relay: RelayAddr, seed: u64) -> Result<Times, String> {
    let connect = || async {
        Node::connect(&relay, Options::relay_only())
            .await
            .map_err(name)
    };
    let mut helper = connect().await?.invite(person("Sam")?, LIFETIME);
    let code = until(&mut helper, STEP, "CODE", |event| match event {
        Event::Code { code, .. } => Some(code.clone()),
        _ => None,
    })
    .await?;
    let mut joiner = connect().await?;
    let typed = Instant::now();
    let code = code.parse().map_err(|_| "CODE".to_owned())?;
    let introduced = joiner.try_code(code).await.map_err(name)?;
    let sheet = Sheet::new(seed);
    sheet.rest(true);
    let mut sharer = joiner.join(introduced, person("Maria")?, Desktop::Synthetic(sheet));
    let trust = |event: &SessionEvent| matches!(event, SessionEvent::Trust { .. });
    heard(&mut sharer, "TRUST", trust).await?;
    heard(&mut helper, "TRUST", trust).await?;
    let trusted = typed.elapsed();

    wish(&helper, Command::SasChecked(true)).await?;
    wish(&sharer, Command::SasChecked(true)).await?;
    wish(&helper, Command::AskMode(Mode::Control)).await?;
    let asked = |event: &SessionEvent| matches!(event, SessionEvent::ConsentPrompt { .. });
    heard(&mut sharer, "CONSENT", asked).await?;
    wish(&sharer, Command::Allow(Mode::Control)).await?;
    let started = |event: &SessionEvent| matches!(event, SessionEvent::Started { .. });
    heard(&mut sharer, "LIVE", started).await?;
    heard(&mut helper, "LIVE", started).await?;
    let live = typed.elapsed();

    wish(&sharer, Command::Chat(WORDS.to_owned())).await?;
    let said =
        |event: &SessionEvent| matches!(event, SessionEvent::Chat { text, .. } if text == WORDS);
    heard(&mut helper, "CHAT", said).await?;
    let chat = typed.elapsed();
    let (_, nothing) = mpsc::channel(1);
    let frames = std::mem::replace(&mut helper.frames, nothing);
    let mut view = View::new(frames, helper.input.clone());
    let is_there = |canvas: &Canvas| canvas.pixels().width > 0;
    let seen = view.wait_until(STEP, is_there).await;
    seen.map_err(|_| "PICTURE")?;
    drop(view);
    let seen = typed.elapsed();

    wish(&helper, Command::Leave).await?;
    for running in [helper, sharer] {
        let Running { outcome, .. } = running;
        let ended = timeout(STEP, outcome).await;
        let ended = ended.map_err(|_| "END".to_owned())?;
        ended.map_err(|_| "END".to_owned())?.map_err(name)?;
    }
    Ok([trusted, live, chat, seen])
}

async fn heard(
    running: &mut Running,
    step: &str,
    wanted: impl Fn(&SessionEvent) -> bool,
) -> Result<(), String> {
    until(running, STEP, step, |event| match event {
        Event::Session(event) => wanted(event).then_some(()),
        _ => None,
    })
    .await
}

impl Found {
    fn fault(&self, args: &Session) -> Option<String> {
        let failed: u64 = self.faults.values().sum();
        (failed > 0).then(|| {
            let reasons = reasons(&self.faults);
            let remedy = match self.faults.contains_key("RATE_LIMITED") {
                true => "; raise lookups_per_minute of the relay, or lower --count",
                false => "",
            };
            format!(
                "{failed} of {} sessions failed: {reasons}{remedy}",
                args.count
            )
        })
    }

    fn json(&self, args: &Session, bench: &Bench) -> Value {
        let mut object = report::base("session", args.target.seed, bench.began.elapsed());
        let reached = REACHED.iter().zip(&self.reached);
        let reached = reached.map(|(name, times)| ((*name).to_owned(), times.json()));
        report::set(
            &mut object,
            json!({
                "sessions": args.count,
                "failed": self.faults.values().sum::<u64>(),
                "failures": self.faults,
                "relay_rss_bytes": self.rss_bytes,
                "latency_us": self.reached[1].json(),
                "reached_us": reached.collect::<serde_json::Map<_, _>>(),
                "cores": bench.cores.json(),
            }),
        );
        object
    }

    fn table(&self, args: &Session) -> String {
        let mut text = format!(
            "session · {} at once · from the typed code to\n\n{:<12}{:>10}{:>10}{:>10}\n",
            args.count, "", "p50 ms", "p99 ms", "max ms"
        );
        for (name, times) in REACHED.iter().zip(&self.reached) {
            let us = [
                times.quantile_us(0.5),
                times.quantile_us(0.99),
                times.max_us(),
            ];
            let [p50, p99, max] = us.map(|us| float(us.unwrap_or_default()) / 1e3);
            text += &format!("{name:<12}{p50:>10.1}{p99:>10.1}{max:>10.1}\n");
        }
        for (why, count) in &self.faults {
            text += &format!("failed: {why} {count}\n");
        }
        text.trim_end().to_owned()
    }
}
