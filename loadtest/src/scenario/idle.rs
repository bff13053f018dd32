//! The verb `idle`: what nodes cost a relay that do nothing but be there, and sessions that carry nothing.
//!
//! Nodes are measured twice: connected, as they come, and then parked, as they are after a minute of silence, for which nobody
//! waits here. They have no codes: what a code takes is the record's own.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::{
    cli::Idle,
    crowd::{self, Crowd},
    interrupt,
    process::{Meter, Usage},
    relay::{Aim, Capacity, Relay, SessionRate},
    report::{self, mib, rounded},
    scenario::Bench,
    setup::{Prepared, Sizes, Standing},
    subject::unless_interrupted,
};

/// After so long for each node, but not longer than this, whatever came with connecting has been sent, answered and freed.
const SETTLE_PER_NODE: Duration = Duration::from_millis(3);
const SETTLE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(3)];
/// How often one looks whether somebody wants an end, and whether sessions need a frame.
const STEP: Duration = Duration::from_millis(250);

/// What was found.
#[derive(Debug, Default)]
struct Found {
    rss_before: Option<u64>,
    rss_connected: Option<u64>,
    rss_nodes: Option<u64>,
    rss_hosts: Option<u64>,
    rss_sessions: Option<u64>,
    rss_after: Option<u64>,
    usage: Option<Usage>,
    measured: Duration,
    lost: usize,
}

/// Measures and prints. Says why the measurement is not valid.
///
/// # Errors
/// When there is no measurement.
pub fn run(args: &Idle, aim: Aim) -> anyhow::Result<Option<String>> {
    let bench = Bench::new(&args.target, 1)?;
    let capacity = Capacity {
        nodes: args.nodes + Standing::nodes(args.sessions),
        sessions: args.sessions,
        workers: None,
        session_rate: SessionRate::Unlimited,
    };
    let relay = Relay::new(aim, capacity, &bench.cores)?;
    let found = unless_interrupted(&bench.runtime, measure(args, &relay, &bench))?;
    bench.print(|| found.json(args, &bench), || found.table(args))?;
    Ok(found.fault())
}

async fn measure(args: &Idle, relay: &Relay, bench: &Bench) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let rss = || relay.meter.map(Meter::rss_bytes).transpose();
    let progress = &bench.progress;
    let nodes = u32::try_from(args.nodes).unwrap_or(u32::MAX);
    let settle = SETTLE_PER_NODE
        .saturating_mul(nodes)
        .clamp(SETTLE[0], SETTLE[1]);
    let crowd = Arc::new(Crowd::new(&relay.address, relay.at)?);
    // What the first connection costs, all of them share.
    let first = crowd.connect().await.context("the relay does not answer")?;
    let realm = first.realm.clone();
    crowd::leave_all(&crowd, [first].into_iter()).await?;
    found.rss_before = rss()?;
    let mut members = crowd.connect_many(args.nodes, progress).await?;
    progress.show("settling");
    wait(settle, None).await?;
    found.rss_connected = rss()?;
    found.rss_nodes = found.rss_connected;
    if !args.connected {
        crowd
            .park_all(std::mem::take(&mut members), progress)
            .await?;
        progress.show("settling");
        wait(settle, None).await?;
        found.rss_nodes = rss()?;
    }
    let mut standing = None;
    if args.sessions > 0 {
        let codes = Prepared::draw_different(args.sessions, &realm)?;
        let hosts = crowd.connect_many(Standing::nodes(args.sessions), progress);
        let hosts = hosts.await?;
        wait(settle, None).await?;
        found.rss_hosts = rss()?;
        let sizes = Sizes::of_a_real_exchange()?;
        standing = Some(Standing::new(hosts, codes, sizes, progress).await?);
        wait(settle, standing.as_mut()).await?;
        found.rss_sessions = rss()?;
    }
    progress.show(&format!("idle for {} s", args.seconds));
    let usage = || relay.meter.map(Meter::usage).transpose();
    let (before, began) = (usage()?, std::time::Instant::now());
    wait(Duration::from_secs(args.seconds), standing.as_mut()).await?;
    found.measured = began.elapsed();
    found.usage = usage()?.zip(before).map(|(now, before)| now.since(before));
    progress.show("leaving");
    let members = members.into_iter();
    let members: Vec<_> = match standing {
        Some(standing) => members.chain(standing.into_members()).collect(),
        None => members.collect(),
    };
    found.lost = crowd.lost() + members.iter().filter(|member| member.is_lost()).count();
    crowd.leave_parked().await;
    crowd::leave_all(&crowd, members.into_iter()).await?;
    wait(settle, None).await?;
    found.rss_after = rss()?;
    Ok(found)
}

/// Lets nodes be, for `duration`.
async fn wait(duration: Duration, mut standing: Option<&mut Standing>) -> anyhow::Result<()> {
    let end = tokio::time::Instant::now() + duration;
    while tokio::time::Instant::now() < end {
        interrupt::check()?;
        if let Some(standing) = &mut standing {
            standing.keep();
        }
        tokio::time::sleep_until(end.min(tokio::time::Instant::now() + STEP)).await;
    }
    Ok(())
}

impl Found {
    /// Growth over one of `count`.
    fn each(after: Option<u64>, before: Option<u64>, count: usize) -> Option<u64> {
        let growth = after?.saturating_sub(before?);
        growth.checked_div(count as u64)
    }

    fn per_node(&self, args: &Idle) -> Option<u64> {
        Self::each(self.rss_nodes, self.rss_before, args.nodes)
    }

    fn per_connected_node(&self, args: &Idle) -> Option<u64> {
        Self::each(self.rss_connected, self.rss_before, args.nodes)
    }

    fn per_session(&self, args: &Idle) -> Option<u64> {
        Self::each(self.rss_sessions, self.rss_hosts, args.sessions)
    }

    fn cpu_share(&self) -> Option<f64> {
        let ran = Duration::from_nanos(self.usage?.ran_ns);
        Some(ran.as_secs_f64() / self.measured.as_secs_f64())
    }

    fn fault(&self) -> Option<String> {
        (self.lost > 0).then(|| {
            let lost = self.lost;
            format!("{lost} nodes lost their place while they were idle; fewer --nodes?")
        })
    }

    fn json(&self, args: &Idle, bench: &Bench) -> Value {
        let mut object = report::base("idle", args.target.seed, bench.began.elapsed());
        object["sessions"] = json!(args.sessions);
        object["nodes"] = json!(args.nodes);
        object["parked"] = json!(!args.connected);
        object["idle_s"] = json!(rounded(self.measured.as_secs_f64(), 3));
        object["relay_rss_bytes"] = json!(self.rss_sessions.or(self.rss_nodes));
        object["relay_rss_bytes_before"] = json!(self.rss_before);
        object["relay_rss_bytes_after"] = json!(self.rss_after);
        object["rss_bytes_per_node"] = json!(self.per_node(args));
        object["rss_bytes_per_connected_node"] = json!(self.per_connected_node(args));
        object["rss_bytes_per_session"] = json!(self.per_session(args));
        object["relay_cpu_share"] = json!(self.cpu_share().map(|share| rounded(share, 6)));
        object["lost_nodes"] = json!(self.lost);
        object["cores"] = bench.cores.json();
        object
    }

    fn table(&self, args: &Idle) -> String {
        let bytes = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |b| format!("{b} B"));
        let rss = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), mib);
        let cpu = self.cpu_share().map_or_else(
            || "-".to_owned(),
            |share| format!("{:.3} % of a core", share * 100.0),
        );
        let mut text = format!(
            "idle · {} nodes · {} sessions · {} s\n\n\
             RSS before               {:>12} MiB\n\
             RSS, all connected       {:>12} MiB   {} a node\n",
            args.nodes,
            args.sessions,
            args.seconds,
            rss(self.rss_before),
            rss(self.rss_connected),
            bytes(self.per_connected_node(args)),
        );
        if !args.connected {
            text += &format!(
                "RSS, all parked          {:>12} MiB   {} a node\n",
                rss(self.rss_nodes),
                bytes(self.per_node(args)),
            );
        }
        if args.sessions > 0 {
            text += &format!(
                "RSS with the sessions    {:>12} MiB   {} a session\n",
                rss(self.rss_sessions),
                bytes(self.per_session(args)),
            );
        }
        text + &format!(
            "RSS after they left      {:>12} MiB\nCPU while idle           {cpu:>12}",
            rss(self.rss_after)
        )
    }
}
