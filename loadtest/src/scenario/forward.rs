//! The verb `forward`: a load on the relay, and in turns with it on something else.

use std::time::Duration;

use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::runtime::Runtime;

use crate::{
    cli::{Forward, Rate},
    measure::Measured,
    relay::{Aim, Capacity, Relay, SessionRate},
    report::Finding,
    scenario::{Bench, WARM_UP},
    subject::Subject,
    traffic::{self, Beside, Load, Pace},
};

/// Frames on their way when it goes as fast as it can: enough that nobody waits for work, few enough that they fit every
/// socket on their way. coturn's hold some fifty.
const WINDOW_FRAMES: u64 = 256;
const WINDOW_FRAMES_PER_SESSION: u64 = 48;

/// Measures and prints. Says why the measurement is not valid, or what it fails.
///
/// # Errors
/// When there is no measurement.
pub fn run(args: &Forward, aim: Aim) -> anyhow::Result<Option<String>> {
    let bench = Bench::new(&args.target, args.workers.unwrap_or(1))?;
    let mut subjects = subjects(args, aim, &bench)?;
    let nodes = subjects[0].nodes;
    let measured = in_turns(args, &mut subjects, &bench);
    for subject in subjects {
        subject.end(&bench.runtime);
    }
    let measured = measured?;
    let [relay, rest @ ..] = &measured[..] else {
        return Ok(Some("nothing was measured".to_owned()));
    };
    let finding = Finding {
        args,
        relay,
        rival: rest.first(),
        nodes,
        cores: &bench.cores,
        took: bench.began.elapsed(),
    };
    bench.print(|| finding.json(), || finding.table())?;
    Ok(verdict(args, &finding))
}

fn subjects(args: &Forward, aim: Aim, bench: &Bench) -> anyhow::Result<Vec<Subject>> {
    let (cores, runtime) = (&bench.cores, &bench.runtime);
    let sessions = usize::from(args.sessions);
    let pairs = args.pairs();
    let capacity = Capacity {
        nodes: 2 * pairs,
        sessions,
        workers: args.workers,
        session_rate: SessionRate::Unlimited,
    };
    let relay = Relay::new(aim, capacity, cores)?;
    let mut subjects = vec![Subject::relay(
        relay,
        sessions,
        pairs,
        runtime,
        &bench.progress,
    )?];
    if let Some(rival) = args.vs {
        bench.progress.show("starting the other one");
        let rival = Subject::rival(rival, args.mode, sessions, pairs, cores, runtime)?;
        subjects.push(rival);
    }
    Ok(subjects)
}

/// Runs the load on each subject, one after the other, again and again: whatever else the machine does disturbs all alike.
fn in_turns(
    args: &Forward,
    subjects: &mut [Subject],
    bench: &Bench,
) -> anyhow::Result<Vec<Measured>> {
    let mut order: Vec<_> = (0..usize::from(args.sessions)).collect();
    order.shuffle(&mut StdRng::seed_from_u64(args.target.seed));
    let mut measured: Vec<_> = subjects
        .iter()
        .map(|subject| Measured::new(subject.name, subject.detail))
        .collect();
    let mut breath = Breath {
        runtime: &bench.runtime,
        time: subjects
            .iter()
            .map(Subject::breath)
            .max()
            .unwrap_or_default(),
    };
    for (number, turn) in (1..).zip(0..args.runs) {
        for at in 0..subjects.len() {
            let progress = &bench.progress;
            progress.show(&progress_line(args, number, subjects[at].name, &measured));
            for subject in &mut *subjects {
                subject.breathe(&bench.runtime)?;
            }
            let subject = &subjects[at];
            let load = Load {
                lanes: &subject.lanes,
                order: &order,
                mode: args.mode,
                pace: pace(args),
                datagram_bytes: usize::from(args.size),
                warm_up: WARM_UP,
                duration: Duration::from_secs(args.seconds),
                meter: subject.meter,
                run: turn,
                by_lane: false,
            };
            measured[at].runs.push(traffic::run(&load, &mut breath)?);
        }
    }
    Ok(measured)
}

/// All nodes say that they are there, also those that are not measured just now.
struct Breath<'a> {
    runtime: &'a Runtime,
    time: Duration,
}

impl Beside for Breath<'_> {
    fn rest(&mut self) -> anyhow::Result<()> {
        self.runtime
            .block_on(async { tokio::time::sleep(self.time).await });
        Ok(())
    }
}

fn pace(args: &Forward) -> Pace {
    match args.rate {
        Rate::Max => {
            let of_sessions = u64::from(args.sessions) * WINDOW_FRAMES_PER_SESSION;
            Pace::Window(of_sessions.min(WINDOW_FRAMES))
        }
        Rate::PerSecond(frames) => Pace::Rate(frames),
    }
}

fn progress_line(args: &Forward, number: u32, name: &str, measured: &[Measured]) -> String {
    let mut line = format!("run {number}/{} · {name}", args.runs);
    for measured in measured {
        if let Some(cpu_ns) = measured.cpu_ns_per_frame() {
            line += &format!(" · {} {cpu_ns:.0} ns/frame", measured.name);
        }
    }
    line
}

/// Why the figures say nothing, or that they are not good enough.
fn verdict(args: &Forward, finding: &Finding<'_>) -> Option<String> {
    let asked_fps = match args.rate {
        Rate::Max => None,
        Rate::PerSecond(frames) => Some(frames),
    };
    let mut subjects = std::iter::once(finding.relay).chain(finding.rival);
    let fault = subjects.find_map(|measured| measured.fault(asked_fps));
    fault.or_else(|| {
        let (limit, ratio) = (args.fail_above?, finding.ratio_cpu()?);
        (ratio > limit).then(|| {
            format!("CPU per frame is {ratio:.3} times the other's, more than --fail-above {limit}")
        })
    })
}
