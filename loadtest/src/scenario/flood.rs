//! The verb `flood`: honest sessions before and while somebody floods the relay.
//!
//! Flood and honest frames leave from one thread and one core, which sends a batch of the flood when one is due and looks
//! after the frames in between; the kernel brings both to the relay's socket on that core, too. So what was really offered may
//! be less than what was asked, and is said. Beside it new nodes set up sessions, which have to wait for a while of that core.

use std::{collections::BTreeMap, net::SocketAddr, thread, time::Duration};

use anyhow::Context as _;
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use remora_proto::id::{RelayAddr, SessionId};
use serde_json::{Value, json};
use tokio::time::timeout_at;

use crate::{
    cli::Flood as Args,
    crowd::{Crowd, Fault},
    flood::Flood,
    interrupt,
    lane::Wire,
    measure::{Measured, float},
    process::Meter,
    relay::{Aim, Capacity, Relay, SessionRate},
    report::{self, failures, figures, mib, rounded},
    scenario::{Bench, WARM_UP},
    setup::{self, Prepared, Sizes},
    subject::Subject,
    traffic::{self, Load, Mode, Pace},
};

/// Set-ups that are tried while the flood lasts, evenly over its time but for the end.
const SETUPS: u32 = 20;
/// Beyond the flood's time, those that are under way or have not begun have failed.
const LATE: Duration = Duration::from_secs(5);
/// Nodes that a flood of first packets may seem to be; a relay has so many places and more.
const PLACES: usize = 20_000;
/// Counters that say what became of a flood.
const COUNTERS: [&str; 3] = [
    "frames_dropped_total",
    "quic_queue_drops_total",
    "handshakes_total",
];

/// What was found.
#[derive(Debug)]
struct Found {
    calm: Measured,
    flooded: Measured,
    flood_sent: u64,
    rss_before: Option<u64>,
    rss_peak: Option<u64>,
    /// Set-ups that succeeded, and why others did not.
    setups: u32,
    faults: BTreeMap<Fault, u32>,
    /// What the relay counted meanwhile.
    counted: BTreeMap<String, f64>,
}

/// Measures and prints. Says why the measurement is not valid.
///
/// # Errors
/// When there is no measurement.
pub fn run(args: &Args, aim: Aim) -> anyhow::Result<Option<String>> {
    let bench = Bench::new(&args.target, 1)?;
    let capacity = Capacity {
        nodes: PLACES + 2 * args.sessions,
        sessions: args.sessions + SETUPS as usize,
        workers: None,
        session_rate: SessionRate::Ordinary,
    };
    let relay = Relay::new(aim, capacity, &bench.cores)?;
    let mut subject = Subject::relay(
        relay,
        args.sessions,
        args.sessions,
        &bench.runtime,
        &bench.progress,
    )?;
    let found = measure(args, &mut subject, &bench);
    subject.end(&bench.runtime);
    let found = found?;
    bench.print(|| found.json(args, &bench), || found.table(args))?;
    Ok(found.calm.fault(Some(honest_fps(args))))
}

fn honest_fps(args: &Args) -> u64 {
    args.fps * args.sessions as u64
}

fn measure(args: &Args, subject: &mut Subject, bench: &Bench) -> anyhow::Result<Found> {
    let mut random = StdRng::seed_from_u64(args.target.seed);
    let mut order: Vec<_> = (0..args.sessions).collect();
    order.shuffle(&mut random);
    bench.progress.show("making the flood");
    let sessions = sessions(subject);
    let relay = subject.as_relay().context("the subject is a relay")?;
    let mut flood = Flood::new(
        args.kind,
        args.rate,
        &relay.address,
        relay.at,
        &sessions,
        &mut random,
    )?;

    bench.progress.show("honest sessions alone");
    let mut calm = Measured::new("calm", "");
    subject.breathe(&bench.runtime)?;
    calm.runs
        .push(traffic::run(&load(args, subject, &order, 0), &mut ())?);
    bench.progress.show("flood");
    subject.breathe(&bench.runtime)?;
    let relay = subject.as_relay().context("the subject is a relay")?;
    let (rss_before, counted_before) = (rss(subject)?, relay.metrics()?);
    if relay.is_own() {
        relay.meter.map(Meter::forget_peak).transpose()?;
    }
    let (address, at) = (relay.address.clone(), relay.at);
    let span = Duration::from_secs(args.seconds);
    let newcomers = thread::spawn(move || newcomers(&address, at, span));
    let mut flooded = Measured::new("flooded", "");
    let outcome = traffic::run(&load(args, subject, &order, 1), &mut flood);
    let (setups, faults) = newcomers
        .join()
        .map_err(|_| anyhow::anyhow!("the set-ups panicked"))??;
    flooded.runs.push(outcome?);
    let relay = subject.as_relay().context("the subject is a relay")?;
    Ok(Found {
        calm,
        flooded,
        flood_sent: flood.sent(),
        rss_before,
        rss_peak: relay.meter.map(Meter::peak_rss_bytes).transpose()?,
        setups,
        faults,
        counted: growth(&counted_before, &relay.metrics()?),
    })
}

fn load<'a>(args: &Args, subject: &'a Subject, order: &'a [usize], run: u32) -> Load<'a> {
    Load {
        lanes: &subject.lanes,
        order,
        mode: Mode::Single,
        pace: Pace::Rate(honest_fps(args)),
        datagram_bytes: usize::from(args.size),
        warm_up: WARM_UP,
        duration: Duration::from_secs(args.seconds),
        meter: subject.meter,
        run,
        by_lane: false,
    }
}

fn sessions(subject: &Subject) -> Vec<SessionId> {
    let frames = subject.lanes.iter().filter_map(|lane| match lane.wire {
        Wire::Frame(header) => Some(header.session),
        Wire::Channel { .. } => None,
    });
    frames.collect()
}

fn rss(subject: &Subject) -> anyhow::Result<Option<u64>> {
    subject.meter.map(Meter::rss_bytes).transpose()
}

/// Sets up sessions by code within `span`, one after the other at even intervals; how many succeeded.
fn newcomers(
    address: &RelayAddr,
    at: SocketAddr,
    span: Duration,
) -> anyhow::Result<(u32, BTreeMap<Fault, u32>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let crowd = Crowd::new(address, at)?;
        let sizes = Sizes::of_a_real_exchange()?;
        let (mut done, mut faults) = (0, BTreeMap::new());
        // The last ones, too, are to have their time.
        let mut ticks = tokio::time::interval((WARM_UP + span) * 3 / 4 / SETUPS);
        let end = tokio::time::Instant::now() + WARM_UP + span + LATE;
        for _ in 0..SETUPS {
            ticks.tick().await;
            interrupt::check()?;
            let setup = async {
                let mut host = crowd.connect().await?;
                let prepared = Prepared::draw(&host.realm).map_err(|_| Fault::Unexpected)?;
                let mut joiner = crowd.connect().await?;
                setup::introduce(&mut host, &mut joiner, prepared, sizes).await
            };
            match timeout_at(end, setup).await.unwrap_or(Err(Fault::Timeout)) {
                Ok(_) => done += 1,
                Err(fault) => *faults.entry(fault).or_default() += 1,
            }
        }
        Ok((done, faults))
    })
}

/// Counters of what a relay threw away or refused, where they grew.
fn growth(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let grown = after.iter().filter_map(|(name, value)| {
        let wanted = COUNTERS.iter().any(|counter| name.starts_with(counter));
        let growth = value - before.get(name).copied().unwrap_or_default();
        (wanted && growth > 0.0).then(|| (name.clone(), growth))
    });
    grown.collect()
}

impl Found {
    fn flood_fps(&self) -> f64 {
        let counted = self
            .flooded
            .runs
            .iter()
            .map(|run| run.counted.as_secs_f64());
        float(self.flood_sent) / counted.sum::<f64>()
    }

    fn json(&self, args: &Args, bench: &Bench) -> Value {
        let mut object = report::base("flood", args.target.seed, bench.began.elapsed());
        report::set(&mut object, figures(&self.flooded));
        report::set(
            &mut object,
            json!({
                "sessions": args.sessions,
                "kind": args.kind_name(),
                "share_fps": args.fps,
                "run_s": args.seconds,
                "flood_asked_fps": args.rate,
                "flood_offered_fps": rounded(self.flood_fps(), 1),
                "before": figures(&self.calm),
                "relay_rss_bytes_before": self.rss_before,
                "relay_rss_bytes": self.rss_peak,
                "setups_tried": SETUPS,
                "setups": self.setups,
                "failures": failures(&self.faults),
                "relay_counted": self.counted,
                "cores": bench.cores.json(),
            }),
        );
        object
    }

    fn table(&self, args: &Args) -> String {
        let row = |measured: &Measured| {
            let [p50, p99] = measured.latency_us();
            format!(
                "{:>9.0} frames/s   loss {:.3} %   p50 {p50:.0} us   p99 {p99:.0} us",
                measured.delivered_fps(),
                measured.loss_ratio() * 100.0
            )
        };
        let rss = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), mib);
        let mut text = format!(
            "flood · {} · {} honest sessions, {} frames/s each · {} s · seed {}\n\n\
             offered                  {:>9.0} of {} datagrams/s\n\
             honest before            {}\n\
             honest meanwhile         {}\n\
             relay's memory           {:>9} MiB before, {} MiB at most\n\
             new sessions meanwhile   {:>9} of {SETUPS}\n",
            args.kind_name(),
            args.sessions,
            args.fps,
            args.seconds,
            args.target.seed,
            self.flood_fps(),
            args.rate,
            row(&self.calm),
            row(&self.flooded),
            rss(self.rss_before),
            rss(self.rss_peak),
            self.setups,
        );
        for (fault, count) in &self.faults {
            text += &format!("  failed: {fault} {count}\n");
        }
        for (name, count) in &self.counted {
            text += &format!("{count:>12.0}  {name}\n");
        }
        text.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grew_is_what_is_told() {
        let map = |pairs: &[(&str, f64)]| -> BTreeMap<String, f64> {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value));
            pairs.collect()
        };
        let name = "frames_dropped_total{reason=\"a\"}";
        let before = map(&[(name, 1.0), ("sessions", 1.0), ("handshakes_total", 4.0)]);
        let after = map(&[(name, 3.0), ("sessions", 9.0), ("handshakes_total", 4.0)]);
        assert_eq!(growth(&before, &after), map(&[(name, 2.0)]));
    }
}
