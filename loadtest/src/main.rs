//! `remora-loadtest`: parse → check → run → exit code.
//!
//! Human text goes to standard error, figures to standard output. A failure is one line that says what to do.

use std::process::ExitCode;

use clap::Parser as _;
use remora_loadtest::{
    cli::{Cli, Target, Verb},
    forwarder, interrupt, natlab, page,
    relay::Aim,
    report::say,
    scenario::{self, outlive::Fate},
    sites,
};

/// The measurement is not valid, or not good enough.
const EXIT_INVALID: u8 = 1;
/// The command line cannot be.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return usage(&one_line(&error.to_string()), "VERB"),
        Err(help_or_version) => help_or_version.exit(),
    };
    match cli.verb {
        Verb::Forward(args) => measure(
            "forward",
            &args.target,
            || args.check(),
            |aim| scenario::forward::run(&args, aim),
        ),
        Verb::Connect(args) => measure(
            "connect",
            &args.target,
            || Ok(()),
            |aim| scenario::connect::run(&args, aim),
        ),
        Verb::Fairness(args) => measure(
            "fairness",
            &args.target,
            || Ok(()),
            |aim| scenario::fairness::run(&args, aim),
        ),
        Verb::Flood(args) => measure(
            "flood",
            &args.target,
            || Ok(()),
            |aim| scenario::flood::run(&args, aim),
        ),
        Verb::Idle(args) => measure(
            "idle",
            &args.target,
            || Ok(()),
            |aim| scenario::idle::run(&args, aim),
        ),
        Verb::Scrape(args) => measure(
            "scrape",
            &args.target,
            || Ok(()),
            |aim| scenario::scrape::run(&args, aim),
        ),
        Verb::Session(args) => measure(
            "session",
            &args.target,
            || Ok(()),
            |aim| scenario::session::run(&args, aim),
        ),
        Verb::Mesh(args) => watched(|| scenario::mesh::run(&args)),
        Verb::Drain(args) => watched(|| scenario::outlive::run(&args, Fate::Drained)),
        Verb::Crash(args) if args.machine_loss => {
            within(sites::enter, || scenario::outlive::run(&args, Fate::Lost))
        }
        Verb::Crash(args) => watched(|| scenario::outlive::run(&args, Fate::Killed)),
        Verb::Policy(args) => watched(|| scenario::policy::run(&args)),
        Verb::Churn(args) => watched(|| scenario::churn::run(&args)),
        Verb::Partition(args) => within(sites::enter, || scenario::partition::run(&args)),
        Verb::Quickstart(args) => within(sites::enter, || scenario::quickstart::run(&args)),
        Verb::Natlab(args) => within(natlab::lab::enter, || scenario::natlab::run(&args)),
        Verb::Provoke(args) => match args.check() {
            Ok(()) => watched(|| scenario::provoke::run(&args)),
            Err(error) => usage(&format!("{error:#}"), "provoke"),
        },
        Verb::Report(args) => exit(page::write(&args.files, &args.out).map(|()| None)),
        Verb::Forwarder { kind } => exit(forwarder::run(kind).map(|()| None)),
    }
}

/// Checks the flags of a verb, then measures.
fn measure(
    verb: &str,
    target: &Target,
    check: impl FnOnce() -> anyhow::Result<()>,
    run: impl FnOnce(Aim) -> anyhow::Result<Option<String>>,
) -> ExitCode {
    let aim = match check().and_then(|()| target.aim()) {
        Ok(aim) => aim,
        Err(error) => return usage(&format!("{error:#}"), verb),
    };
    watched(|| run(aim))
}

/// Measures, until it is interrupted.
fn watched(run: impl FnOnce() -> anyhow::Result<Option<String>>) -> ExitCode {
    let watching = interrupt::watch().map_err(anyhow::Error::from);
    exit(watching.and_then(|()| run()))
}

/// Measures where there may be networks: entered before there is a second thread.
fn within(
    enter: impl FnOnce() -> anyhow::Result<()>,
    run: impl FnOnce() -> anyhow::Result<Option<String>>,
) -> ExitCode {
    match enter() {
        Ok(()) => watched(run),
        Err(error) => exit(Err(error)),
    }
}

fn exit(outcome: anyhow::Result<Option<String>>) -> ExitCode {
    let fault = match outcome {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(fault)) => fault,
        Err(error) => format!("{error:#}"),
    };
    say(&fault);
    ExitCode::from(EXIT_INVALID)
}

fn usage(text: &str, verb: &str) -> ExitCode {
    say(&format!("{text} (see `remora-loadtest {verb} --help`)"));
    ExitCode::from(EXIT_USAGE)
}

/// clap's message without its usage and without line breaks.
fn one_line(message: &str) -> String {
    let message = message.split("\n\nUsage:").next().unwrap_or(message);
    let message = message
        .split("\n\nFor more information")
        .next()
        .unwrap_or(message);
    let lines = message.lines().map(str::trim);
    let words: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    let words = words.join("; ");
    words.strip_prefix("error: ").unwrap_or(&words).to_owned()
}
