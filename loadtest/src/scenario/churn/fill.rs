//! Records that stay, and nodes that do nothing: what they take of each relay's memory.
//!
//! Three symbols locate 32,768 codes, so that more live records than that are not of real codes: their keys are drawn by lot, which a
//! relay cannot know. Whoever publishes them leaves; they stay until their ten minutes are over.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use remora_proto::{
    record::RecordKey,
    wire::message::control::{Publish, node_to_relay::Body as Request},
};
use remora_relay::rendezvous::store::{MAX_LIVE_PER_NODE, MAX_PER_RELAY};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    cli::Churn,
    crowd::{Crowd, Fault, Member},
    fleet::{self, Fleet},
    report::{mib, rounded},
    scenario::Bench,
    setup,
};

/// Nodes that publish at once, all together.
const AT_ONCE: usize = 64;
/// A relay that has too much to do is asked again after this, so often.
const AGAIN: Duration = Duration::from_millis(500);
const TRIES: usize = 20;
/// What came with all that is sent, answered and freed by then.
const SETTLE: Duration = Duration::from_secs(3);

/// What each relay had.
#[derive(Debug, Default)]
pub(super) struct Fill {
    records: usize,
    refused: u64,
    idle: usize,
    took: Duration,
    by_relay: Vec<Filled>,
}

#[derive(Clone, Copy, Debug)]
struct Filled {
    rss_before: u64,
    rss_records: u64,
    rss_idle: u64,
    kept: u64,
}

/// Nodes that are at one relay at a time for this.
pub(super) fn nodes(args: &Churn) -> usize {
    args.idle.div_ceil(args.relays) + AT_ONCE
}

impl Fill {
    /// Publishes and connects, evenly at all relays.
    ///
    /// # Errors
    /// When relays have no room for so many, or are gone.
    pub(super) async fn new(
        args: &Churn,
        fleet: &Fleet,
        crowds: &[Arc<Crowd>],
        realm: &str,
        bench: &Bench,
    ) -> anyhow::Result<Self> {
        let mut fill = Self {
            records: args.records,
            idle: args.idle,
            ..Self::default()
        };
        if args.records + args.idle == 0 {
            return Ok(fill);
        }
        let most = MAX_PER_RELAY * args.relays;
        ensure!(
            args.records <= most,
            "{} relays keep at most {most} records of each other's: more --relays",
            args.relays
        );
        let began = Instant::now();
        let rss = || -> anyhow::Result<Vec<u64>> {
            (0..fleet.len())
                .map(|number| fleet.meter(number).rss_bytes())
                .collect()
        };
        let before = rss()?;
        fill.publish(args.records, crowds, realm, bench).await?;
        sleep(SETTLE).await;
        let with_records = rss()?;
        for (number, crowd) in crowds.iter().enumerate() {
            let idle = args.idle / args.relays + usize::from(number < args.idle % args.relays);
            let members = crowd.connect_many(idle, &bench.progress).await?;
            crowd.park_all(members, &bench.progress).await?;
        }
        sleep(SETTLE).await;
        let with_idle = rss()?;
        for number in 0..fleet.len() {
            fill.by_relay.push(Filled {
                rss_before: before[number],
                rss_records: with_records[number],
                rss_idle: with_idle[number],
                kept: fleet.records(number)?,
            });
        }
        fill.took = began.elapsed();
        Ok(fill)
    }

    async fn publish(
        &mut self,
        records: usize,
        crowds: &[Arc<Crowd>],
        realm: &str,
        bench: &Bench,
    ) -> anyhow::Result<()> {
        let (mut publishing, mut begun, mut published) = (JoinSet::new(), 0, 0);
        loop {
            while begun < records && publishing.len() < AT_ONCE {
                let crowd = Arc::clone(&crowds[begun / MAX_LIVE_PER_NODE % crowds.len()]);
                let (count, realm) = (MAX_LIVE_PER_NODE.min(records - begun), realm.to_owned());
                begun += count;
                publishing.spawn(async move { (count, node(&crowd, count, &realm).await) });
            }
            let Some(done) = publishing.join_next().await else {
                return Ok(());
            };
            let (count, refused) = done?;
            self.refused += refused.context("a node cannot publish")?;
            published += count;
            bench
                .progress
                .show(&format!("records {published}/{records}"));
        }
    }

    pub(super) fn json(&self) -> Value {
        let relays = self.by_relay.iter().enumerate().map(|(number, filled)| {
            json!({
                "relay": fleet::name(number),
                "rss_bytes_before": filled.rss_before,
                "rss_bytes_with_records": filled.rss_records,
                "rss_bytes_with_idle": filled.rss_idle,
                "records_kept": filled.kept,
            })
        });
        json!({
            "records": self.records,
            "records_refused": self.refused,
            "idle": self.idle,
            "took_s": rounded(self.took.as_secs_f64(), 1),
            "relays": relays.collect::<Vec<_>>(),
        })
    }

    pub(super) fn table(&self) -> String {
        if self.by_relay.is_empty() {
            return String::new();
        }
        let mut text = format!(
            "{} live records ({} refused), {} idle nodes, after {:.0} s\n",
            self.records,
            self.refused,
            self.idle,
            self.took.as_secs_f64()
        );
        for (number, filled) in self.by_relay.iter().enumerate() {
            let [before, records, idle] =
                [filled.rss_before, filled.rss_records, filled.rss_idle].map(mib);
            text += &format!(
                "{:<9} {before} MiB before, {records} with {} records, {idle} with the idle, too\n",
                fleet::name(number),
                filled.kept
            );
        }
        text + "\n"
    }
}

/// A node that publishes so many, and leaves; how many were refused.
async fn node(crowd: &Crowd, count: usize, realm: &str) -> Result<u64, Fault> {
    let mut node = connect(crowd).await?;
    let mut refused = 0;
    for _ in 0..count {
        let record = setup::record_under(RecordKey(rand::random()), realm);
        let mut tries = 0;
        loop {
            let publish = Request::Publish(Publish {
                record: record.clone(),
            });
            match node.ask(publish).await {
                Ok(_) => break,
                Err(Fault::Refused(_)) if tries < TRIES => tries += 1,
                Err(Fault::Refused(_)) => {
                    refused += 1;
                    break;
                }
                Err(fault) => return Err(fault),
            }
            sleep(AGAIN).await;
        }
    }
    node.leave().await;
    Ok(refused)
}

/// As nodes do, it tries again where a relay, or this machine, has too much to do.
async fn connect(crowd: &Crowd) -> Result<Member, Fault> {
    for _ in 1..TRIES {
        match crowd.connect().await {
            Err(Fault::NotConnected) => sleep(AGAIN).await,
            connected => return connected,
        }
    }
    crowd.connect().await
}
