//! The verb `scrape`: how long a relay with many sessions takes to say what it counts, how much that is, and whether it takes longer
//! while frames go.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use remora_relay::admin::metrics::MAX_SERIES;
use serde_json::{Value, json};

use crate::{
    cli::Scrape,
    crowd::{self, Crowd},
    interrupt,
    measure::Latencies,
    process::Meter,
    relay::{self, Aim, Capacity, Relay, SessionRate},
    report::{self, rounded},
    scenario::Bench,
    setup::{Prepared, Sizes, Standing},
    subject::unless_interrupted,
};

/// What was found.
#[derive(Debug, Default)]
struct Found {
    sessions: usize,
    quiet: Option<Scrapes>,
    busy: Option<Scrapes>,
    /// While it was busy.
    frames_per_s: f64,
    /// With all sessions.
    rss: Option<u64>,
}

/// Scrapes, one after the other.
#[derive(Debug)]
struct Scrapes {
    took: Latencies,
    series: usize,
    bytes: usize,
}

/// Measures and prints. Says why the measurement is not valid, or the relay too slow.
///
/// # Errors
/// When there is no measurement.
pub fn run(args: &Scrape, aim: Aim) -> anyhow::Result<Option<String>> {
    let bench = Bench::new(&args.target, 1)?;
    let capacity = Capacity {
        nodes: Standing::nodes(args.sessions),
        sessions: args.sessions,
        workers: None,
        session_rate: SessionRate::Unlimited,
    };
    let relay = Relay::new(aim, capacity, &bench.cores)?;
    let found = unless_interrupted(&bench.runtime, measure(args, &relay, &bench))?;
    bench.print(|| found.json(args, &bench), || found.table())?;
    Ok(found.fault(args))
}

async fn measure(args: &Scrape, relay: &Relay, bench: &Bench) -> anyhow::Result<Found> {
    let admin = relay.admin();
    let admin = admin.context("only of a relay that is started for the test; leave --relay out")?;
    let progress = &bench.progress;
    let crowd = Arc::new(Crowd::new(&relay.address, relay.at)?);
    let first = crowd.connect().await.context("the relay does not answer")?;
    let realm = first.realm.clone();
    crowd::leave_all(&crowd, [first].into_iter()).await?;
    let codes = Prepared::draw_different(args.sessions, &realm)?;
    let hosts = crowd.connect_many(Standing::nodes(args.sessions), progress);
    let sizes = Sizes::of_a_real_exchange()?;
    let mut standing = Standing::new(hosts.await?, codes, sizes, progress).await?;
    let mut found = Found {
        sessions: standing.sessions(),
        ..Found::default()
    };
    found.rss = relay.meter.map(Meter::rss_bytes).transpose()?;
    progress.show("scraping");
    standing.keep();
    found.quiet = Some(scrapes(admin, args.scrapes, || {}).await?);
    progress.show("scraping while frames go");
    let before = relay.metrics()?;
    let began = Instant::now();
    found.busy = Some(scrapes(admin, args.scrapes, || standing.touch()).await?);
    let seconds = began.elapsed().as_secs_f64();
    let forwarded = "frames_forwarded_total{leg=\"node\"}";
    let [before, after] = [before, relay.metrics()?].map(|all| all.get(forwarded).copied());
    found.frames_per_s = after.zip(before).map_or(0.0, |(a, b)| (a - b) / seconds);
    crowd::leave_all(&crowd, standing.into_members()).await?;
    Ok(found)
}

/// So many by a thread of their own; meanwhile this one does something else, again and again.
async fn scrapes(
    admin: SocketAddr,
    count: usize,
    mut meanwhile: impl FnMut(),
) -> anyhow::Result<Scrapes> {
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let scraping = tokio::task::spawn_blocking(move || {
        let scraped = scrape_all(admin, count);
        over.store(true, Ordering::Relaxed);
        scraped
    });
    while !is_over.load(Ordering::Relaxed) {
        interrupt::check()?;
        meanwhile();
        // What has come back is taken, and whoever else waits has a turn.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    scraping.await?
}

fn scrape_all(admin: SocketAddr, count: usize) -> anyhow::Result<Scrapes> {
    let mut scrapes = Scrapes {
        took: Latencies::new()?,
        series: 0,
        bytes: 0,
    };
    for _ in 0..count {
        let began = Instant::now();
        let text = relay::scrape(admin)?;
        scrapes.took.record(began.elapsed());
        let (_, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        let samples = body.lines().filter(|line| !line.starts_with('#'));
        scrapes.series = scrapes.series.max(samples.count());
        scrapes.bytes = scrapes.bytes.max(body.len());
    }
    Ok(scrapes)
}

impl Scrapes {
    fn ms(&self, quantile: f64) -> f64 {
        let us = self.took.quantile_us(quantile).unwrap_or(0);
        rounded(us as f64 / 1e3, 3)
    }

    fn json(&self) -> Value {
        json!({
            "p50_ms": self.ms(0.5), "p99_ms": self.ms(0.99), "series": self.series, "bytes": self.bytes,
        })
    }
}

impl Found {
    fn both(&self) -> impl Iterator<Item = (&'static str, &Scrapes)> {
        let both = [("quiet", &self.quiet), ("busy", &self.busy)];
        both.into_iter()
            .filter_map(|(name, scrapes)| Some((name, scrapes.as_ref()?)))
    }

    fn fault(&self, args: &Scrape) -> Option<String> {
        let most = f64::from(args.fail_above?);
        self.both().find_map(|(name, scrapes)| {
            let (ms, series) = (scrapes.ms(0.99), scrapes.series);
            let is_too_much = ms > most || series > MAX_SERIES;
            is_too_much.then(|| {
                format!(
                    "{name}: {ms} ms and {series} series; {most} ms and {MAX_SERIES} are allowed"
                )
            })
        })
    }

    fn json(&self, args: &Scrape, bench: &Bench) -> Value {
        let mut object = report::base("scrape", args.target.seed, bench.began.elapsed());
        object["sessions"] = json!(self.sessions);
        object["scrapes"] = json!(args.scrapes);
        for (name, scrapes) in self.both() {
            object[name] = scrapes.json();
        }
        object["busy_frames_per_s"] = json!(rounded(self.frames_per_s, 0));
        object["relay_rss_bytes"] = json!(self.rss);
        object["cores"] = bench.cores.json();
        object
    }

    fn table(&self) -> String {
        let mut text = format!("scrape · {} sessions\n", self.sessions);
        for (name, scrapes) in self.both() {
            text += &format!(
                "\n{name:<6} p50 {:>8} ms   p99 {:>8} ms   {} series   {} B",
                scrapes.ms(0.5),
                scrapes.ms(0.99),
                scrapes.series,
                scrapes.bytes
            );
        }
        text + &format!("\nwhile busy, {:.0} frames a second", self.frames_per_s)
    }
}
