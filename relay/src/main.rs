//! `remora-relay`: flags, environment and file → log → keys → bind → run → drain → exit code.
//!
//! Human text goes to stderr, the relay's address to stdout. A failure is one line that says what to do.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::error::ErrorKind;
use remora_proto::random::Random;
#[cfg(feature = "otlp")]
use remora_relay::traces::Traces;
use remora_relay::{
    admin::{api, bugreport::Report, metrics::page, token::AdminToken},
    ask::{AskError, Own},
    config::{
        Command, Config, ConfigCommand, FleetKeyArgs, LogFormat, ServeArgs, describe,
        layers::{self, LoadError, Loaded, Origin, Problem, Value},
        reload::Reload,
    },
    doctor,
    health::{Finding, Verdict},
    identity,
    log::Named,
    low_ports,
    mesh::fleet_key,
    open_files,
    recent::Recent,
    relay::Relay,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, interval_at},
};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    Registry,
    filter::{LevelFilter, Targets, filter_fn},
    fmt,
    layer::{Layer as _, SubscriberExt as _},
    reload,
    util::SubscriberInitExt as _,
};

/// Something went wrong (`UX.md`).
const EXIT_ERROR: u8 = 1;
/// The command line cannot be.
const EXIT_USAGE: u8 = 2;

/// As often as the files of certificates.
const LOOK_AT_TOKEN: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    // If that fails, the port that cannot be had says so.
    low_ports::take_up().ok();
    match layers::load(std::env::args_os()) {
        Ok(loaded) => obey(&loaded),
        // What is wrong with the file is no reason not to ask the relay that runs: it has what it began with.
        Err(LoadError::Problems(problems, rest)) if asks_a_relay_that_runs(&rest.args.command) => {
            say_all(&problems);
            let done = obey(&rest);
            if done == ExitCode::SUCCESS {
                ExitCode::from(EXIT_USAGE)
            } else {
                done
            }
        }
        Err(error) => not_loaded(error),
    }
}

/// And there is one.
fn asks_a_relay_that_runs(command: &Command) -> bool {
    match command {
        Command::Drain(serve)
        | Command::Address(serve)
        | Command::Doctor(serve)
        | Command::Bugreport(serve) => Own::is_there(serve),
        Command::Serve(_)
        | Command::Quickstart(_)
        | Command::FleetKey(_)
        | Command::Config(_)
        | Command::Metrics => false,
    }
}

fn obey(loaded: &Loaded) -> ExitCode {
    let done = match &loaded.args.command {
        Command::Serve(serve) => run(serve, false, &loaded.values),
        Command::Quickstart(serve) => run(serve, true, &loaded.values),
        Command::Drain(serve) => drain_own(serve),
        Command::Address(serve) => address_of_own(serve),
        Command::Doctor(serve) => return look_at(serve),
        Command::Bugreport(serve) => bugreport(serve, &loaded.values),
        Command::FleetKey(FleetKeyArgs { file }) => {
            fleet_key::create(file, &mut Random::system()).map_err(Into::into)
        }
        Command::Config(command) => return config(command, loaded),
        Command::Metrics => page::page().map(|page| print(&page)).map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("remora-relay: {error:#}"));
            let code = error.downcast_ref().map_or(EXIT_ERROR, AskError::exit_code);
            ExitCode::from(code)
        }
    }
}

fn not_loaded(error: LoadError) -> ExitCode {
    const NO_VERB: [ErrorKind; 2] = [
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
        ErrorKind::MissingSubcommand,
    ];
    match error {
        LoadError::Problems(problems, _) => {
            say_all(&problems);
            ExitCode::from(EXIT_USAGE)
        }
        LoadError::CommandLine(error) if NO_VERB.contains(&error.kind()) => {
            usage("say what to do: `remora-relay quickstart` or `remora-relay serve`")
        }
        LoadError::CommandLine(error) if error.use_stderr() => usage(&layers::mistake(&error)),
        // Help or version, as asked for.
        LoadError::CommandLine(error) => {
            error.print().ok();
            ExitCode::SUCCESS
        }
    }
}

fn say_all(problems: &[Problem]) {
    for problem in problems {
        say(&format!("remora-relay: {problem}"));
    }
}

fn address_of_own(args: &ServeArgs) -> anyhow::Result<()> {
    print(&format!("{}\n", Own::address(args)?));
    Ok(())
}

/// Returns when the relay that runs here has nothing left to wait for, and has ended.
fn drain_own(args: &ServeArgs) -> anyhow::Result<()> {
    let drained = Own::new(args)?.drain()?;
    let line = if args.json {
        drained.object().to_string()
    } else {
        drained.line()
    };
    writeln!(io::stdout(), "{line}").ok();
    Ok(())
}

/// What is wrong with the relay that runs here, or would.
#[tokio::main(flavor = "current_thread")]
async fn look_at(args: &ServeArgs) -> ExitCode {
    let (found, unasked) = found_here(args);
    if args.json {
        writeln!(io::stdout(), "{}", api::findings(&found)).ok();
    } else {
        let lines: String = found.iter().map(Finding::line).collect();
        io::stdout().write_all(lines.as_bytes()).ok();
    }
    let worst = found.iter().map(|finding| finding.verdict).max();
    match worst {
        Some(Verdict::Fault) => ExitCode::from(EXIT_ERROR),
        Some(Verdict::Fine | Verdict::Warning) | None => {
            unasked.map_or(ExitCode::SUCCESS, |error| ExitCode::from(error.exit_code()))
        }
    }
}

/// What the running relay says of itself, if there is one that lets us ask, or why it does not; of its files and, unless it has them, its
/// ports.
fn found_here(args: &ServeArgs) -> (Vec<Finding>, Option<AskError>) {
    let is_running = Own::is_there(args);
    let mut found = doctor::look(args, is_running);
    let mut unasked = None;
    if is_running {
        match Own::new(args).and_then(|own| own.doctor()) {
            Ok(of_itself) => {
                found.retain(|finding| of_itself.iter().all(|other| other.what != finding.what));
                found.extend(of_itself);
            }
            Err(error) => {
                say(&format!(
                    "remora-relay: the relay that runs is not asked: {error}"
                ));
                unasked = Some(error);
            }
        }
    }
    (found, unasked)
}

/// By the relay that runs here; or of what would.
fn bugreport(args: &ServeArgs, values: &[Value]) -> anyhow::Result<()> {
    let text = if Own::is_there(args) {
        Own::new(args)?.bugreport()?
    } else {
        report_before_start(args, values)
    };
    io::stdout().write_all(text.as_bytes()).ok();
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn report_before_start(args: &ServeArgs, values: &[Value]) -> String {
    let mut report = Report::new();
    report.add("settings", &describe::shown_as_file(values));
    report.add_findings(&doctor::look(args, false));
    report.into_text()
}

/// What would be run with, and whether it could be.
fn config(command: &ConfigCommand, loaded: &Loaded) -> ExitCode {
    let values = &loaded.values;
    let text = match command {
        ConfigCommand::Check(_) => {
            let problems = loaded.unusable_files();
            say_all(&problems);
            if !problems.is_empty() {
                return ExitCode::from(EXIT_ERROR);
            }
            let said = values
                .iter()
                .filter(|value| value.origin != Origin::Default);
            format!(
                "ok: {} keys are set, {} have their defaults\n",
                said.clone().count(),
                values.len() - said.count()
            )
        }
        ConfigCommand::Show(serve) if serve.json => {
            format!("{:#}\n", describe::shown_as_json(values))
        }
        ConfigCommand::Show(_) => describe::shown_as_file(values),
        ConfigCommand::Schema => format!("{:#}\n", describe::schema()),
    };
    print(&text);
    ExitCode::SUCCESS
}

/// Whoever has read enough closes the pipe.
fn print(text: &str) {
    io::stdout().lock().write_all(text.as_bytes()).ok();
}

fn usage(text: &str) -> ExitCode {
    say(&format!("remora-relay: {text} (see `remora-relay --help`)"));
    ExitCode::from(EXIT_USAGE)
}

/// To people. When nobody is there to read it, so be it.
fn say(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}

#[tokio::main]
async fn run(args: &ServeArgs, is_quickstart: bool, values: &[Value]) -> anyhow::Result<()> {
    let recent = Recent::default();
    let log = start_log(args, &recent)?;
    allow_open_files(args);
    let key = identity::load_or_create(&args.key, &mut Random::system())?;
    let fleet = args.fleet_key.as_deref().map(fleet_key::load).transpose()?;
    let admin_token = args.admin_token_file.as_deref();
    let admin_token = admin_token.map(AdminToken::load).transpose()?;
    // Before the relay is up: a signal from then on is never lost.
    let mut signals = Signals::new().context("cannot wait for signals")?;
    let token_file = args.admin_token_file.clone();
    let mut reload = Reload::new(values.to_vec(), token_file, admin_token.clone());
    let mut looks = interval_at(Instant::now() + LOOK_AT_TOKEN, LOOK_AT_TOKEN);
    let mut config = Config::new(args, key, fleet, admin_token);
    config.standing = reload.standing().clone();
    config.recent = recent;
    let mut relay = Relay::start(config)?;
    announce(args, is_quickstart, &relay).context("cannot print the relay's address")?;

    let ended = loop {
        tokio::select! {
            ended = relay.drained() => break ended,
            _ = looks.tick() => if let Some(token) = reload.look() {
                relay.change_token(token);
                tracing::info!("a new admin token counts");
            },
            heard = signals.next() => match heard {
                Heard::Reload => read_again(&mut reload, &relay, &log),
                Heard::Stop => {
                    relay.drain();
                    break drain(&mut relay, &mut signals, args.drain_timeout).await?;
                }
            }
        }
    };
    let cut_off = relay.sessions_cut_off();
    relay.shutdown().await;
    ended.context("the relay stopped by itself")?;
    tracing::info!(cut_off, "drained, and ended");
    Ok(())
}

/// What can be changed is, what cannot is said, and where anything is wrong nothing is.
fn read_again(reload: &mut Reload, relay: &Relay, log: &Log) {
    let change = reload.read();
    let standing = reload.standing();
    let live = change.as_ref().map(|change| change.live.clone());
    relay.reloaded(live, standing.clone());
    let Some(change) = change else {
        for problem in &standing.refused {
            tracing::error!(
                problem,
                "settings read again and not taken: all stays as it was"
            );
        }
        return;
    };
    log.levels
        .modify(|filter| *filter = levels(change.log))
        .ok();
    tracing::info!(changed = change.changed.join(","), "settings read again");
    if !standing.waiting.is_empty() {
        let keys = standing.waiting.join(",");
        tracing::warn!(
            keys,
            "these count from the next start; restart the relay for them"
        );
    }
}

/// Waits for the drain; a second signal ends it at once.
async fn drain(
    relay: &mut Relay,
    signals: &mut Signals,
    timeout_s: u64,
) -> anyhow::Result<io::Result<()>> {
    tracing::info!(
        sessions = relay.sessions(),
        timeout_s,
        "draining; a second signal ends at once"
    );
    tokio::select! { biased;
        ended = relay.drained() => Ok(ended),
        () = signals.stop() => {
            let cut_off = relay.sessions();
            anyhow::bail!("told twice to stop; sessions that were cut off: {cut_off}; wait for the drain to avoid that")
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Heard {
        tokio::select! {
            _ = self.terminate.recv() => Heard::Stop,
            _ = self.interrupt.recv() => Heard::Stop,
            _ = self.hangup.recv() => Heard::Reload,
        }
    }

    /// Whoever is about to end reads no settings.
    async fn stop(&mut self) {
        while self.next().await != Heard::Stop {}
    }
}

/// What a signal means.
#[derive(PartialEq, Eq)]
enum Heard {
    Stop,
    Reload,
}

/// A relay of many streams needs more than a process has to begin with.
fn allow_open_files(args: &ServeArgs) {
    let needed = open_files::PER_STREAM * args.max_streams as u64 + open_files::BESIDE;
    if let Some(allowed) = open_files::raise().filter(|&allowed| allowed < needed) {
        tracing::warn!(
            allowed,
            needed,
            "the system lets this process open fewer files and sockets than --max-streams needs; raise `ulimit -Hn` (systemd: LimitNOFILE), or lower --max-streams"
        );
    }
}

/// What is said of a relay's life, and where.
struct Log {
    /// How much, to be changed.
    levels: reload::Handle<Targets, Registry>,
    /// Sends what is left when the relay ends.
    #[cfg(feature = "otlp")]
    _traces: Option<Traces>,
}

/// Whose spans and events are of tasks, and not of a relay.
const TASKS: [&str; 2] = ["tokio", "runtime"];

fn levels(ours: Level) -> Targets {
    // What others log carries addresses, which stay below DEBUG here.
    let others = if ours > Level::INFO {
        LevelFilter::INFO
    } else {
        LevelFilter::ERROR
    };
    let told = Targets::new();
    #[cfg(feature = "console")]
    let told = told.with_targets(TASKS.map(|target| (target, LevelFilter::TRACE)));
    told.with_default(others)
        .with_target("quinn_udp", LevelFilter::OFF)
        .with_target("remora_relay", ours)
        .with_target("remora_proto", ours)
}

fn start_log(args: &ServeArgs, recent: &Recent) -> anyhow::Result<Log> {
    let (filter, levels) = reload::Layer::new(levels(args.log));
    let kept = fmt::layer()
        .with_ansi(false)
        .with_target(false)
        .with_writer(recent.clone())
        .with_filter(LevelFilter::INFO);
    let log = tracing_subscriber::registry().with(filter).with(kept);
    #[cfg(feature = "otlp")]
    let traces = traces(args)?;
    #[cfg(feature = "otlp")]
    let log = log.with(traces.as_ref().map(|traces| traces.layer()));
    #[cfg(feature = "console")]
    let log = log.with(console_subscriber::spawn());
    let lines = fmt::layer().with_writer(io::stderr);
    match args.log_format {
        LogFormat::Json => {
            let lines = lines.json().with_writer(Named::new(&args.name));
            log.with(lines.with_filter(filter_fn(is_told))).init();
        }
        LogFormat::Text => {
            let lines = lines.with_ansi(colours()).with_target(false);
            log.with(lines.with_filter(filter_fn(is_told))).init();
        }
    }
    Ok(Log {
        levels,
        #[cfg(feature = "otlp")]
        _traces: traces,
    })
}

#[cfg(feature = "otlp")]
fn traces(args: &ServeArgs) -> anyhow::Result<Option<Traces>> {
    let endpoint = args.otlp_endpoint.as_deref();
    let traces = endpoint.map(|endpoint| Traces::new(endpoint, &args.name));
    traces.transpose().context("--otlp-endpoint")
}

/// What tokio says of its tasks is for tokio-console alone.
fn is_told(metadata: &Metadata<'_>) -> bool {
    let of = metadata.target().split("::").next();
    of.is_none_or(|of| !TASKS.contains(&of))
}

/// Only for people who can see them and have not said no.
fn colours() -> bool {
    use std::io::IsTerminal as _;
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn announce(args: &ServeArgs, is_quickstart: bool, relay: &Relay) -> io::Result<()> {
    let (address, listen, admin) = (relay.address(), relay.local_addr(), relay.admin_addr());
    let admins: Vec<String> = relay
        .admin_addrs()
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut stdout = io::stdout().lock();
    if args.json {
        let object = serde_json::json!({
            "address": address.to_string(),
            "listen": listen.to_string(),
            "listen_tcp": relay.stream_addr().map(|at| at.to_string()),
            "admin": admin.to_string(),
            "admins": admins,
            "mesh": relay.mesh_addr().map(|at| at.to_string()),
            "id": relay.id().to_string(),
        });
        writeln!(stdout, "{object}")?;
    } else {
        writeln!(stdout, "{address}")?;
    }
    stdout.flush()?;
    if is_quickstart {
        say(&format!(
            "relay up   nodes {listen}/udp{tcp}   observer {observers}   metrics http://{admin}/metrics   key {key}\n\n\
             On each of the two machines, once:\n\n    remora setup {address}\n\n\
             Then whoever helps runs         remora invite\n\
             and whoever is helped runs      remora join\n\n\
             Ctrl-C stops the relay.{hint}",
            tcp = match relay.stream_addr() {
                Some(at) if at == listen => "+tcp".to_owned(),
                Some(at) => format!(" {at}/tcp"),
                None => String::new(),
            },
            observers = relay
                .observer_addrs()
                .iter()
                .map(|at| format!("{at}/udp"))
                .collect::<Vec<_>>()
                .join(" "),
            key = args.key.display(),
            hint = match (&args.advertise, address.host_port.starts_with("127.")) {
                (Some(_), _) => "",
                (None, true) => {
                    "\nThis computer has no way to others: only itself reaches that address. Say where others do with --advertise HOST:PORT."
                }
                (None, false) => {
                    "\nOther networks reach it by another address? Say which with --advertise HOST:PORT."
                }
            },
        ));
    }
    Ok(())
}
