//! `remora`: parse, load the settings, run one command, say in one line what went wrong.

use std::{env, io::Write, process::ExitCode, time::Duration};

use clap::{CommandFactory as _, error::ErrorKind};
use data_encoding::HEXLOWER;
use remora::{
    admin,
    cli::{
        AdminCommand, Cli, Command, InboxCommand,
        sign_in::{DeskAddr, Place},
    },
    config::{File, FileProfile},
    demo, doctor,
    error::{Exit, Failure},
    lobby, netcheck,
    node::{Node, Options},
    presence, request,
    session::backends,
    sign_in,
    status::{self, ping, running},
    terminal::{self, console::print_data, screens, style::Style},
};
use remora_proto::id::RelayAddr;
use serde_json::json;
use tokio::task::JoinSet;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// What a blocked read of standard input may hold up at the end: nothing.
const SHUTDOWN: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    start_log();
    let json = wants_json(&cli.command);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::internal("cannot start", error), json),
    };
    let result = runtime.block_on(run(cli));
    runtime.shutdown_timeout(SHUTDOWN);
    match result {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => report(&failure, json),
    }
}

/// As `REMORA_LOG` says, like `debug` or `error,remora=trace`.
fn start_log() {
    // What quinn finds wrong comes back to us, and is said once, in our words.
    let quiet = || {
        Targets::new()
            .with_default(LevelFilter::ERROR)
            .with_target("quinn", LevelFilter::OFF)
    };
    let wanted = env::var("REMORA_LOG").ok();
    let filter = wanted
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(quiet);
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(Style::detect().has_colours());
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
}

async fn run(cli: Cli) -> Result<Exit, Failure> {
    let named = cli.config.as_deref();
    match cli.command {
        Command::Setup(args) => setup(named, args).await,
        Command::SignIn(args) => sign_in::sign_in(&File::load(named)?, &args).await,
        Command::SignOut(args) => sign_in::sign_out(&File::load(named)?, &args).await,
        Command::Invite(args) => terminal::invite(&File::load(named)?, args).await,
        Command::Page(args) => lobby::run(&File::load(named)?, named, args).await,
        Command::Join(args) => terminal::join(&File::load(named)?, args).await,
        Command::Request(args) => request::waiting::run(&File::load(named)?, *args).await,
        Command::Requests(args) => request::list::run(&File::load(named)?, args).await,
        Command::Take(args) => request::take::run(&File::load(named)?, *args).await,
        Command::Status(args) => status::run(&File::load(named)?, args).await,
        Command::Sessions(args) => running::list(&args),
        Command::Running(command) => running::run(&command).await,
        Command::Ping(args) => ping::run(args).await,
        Command::Netcheck(args) => netcheck::run(&File::load(named)?, args).await,
        Command::Agent(args) => presence::agent::run(&File::load(named)?, named, args).await,
        Command::Inbox(args) => presence::inbox::ask::run(&File::load(named)?, args).await,
        Command::Presence(args) => presence::ask::run(&File::load(named)?, args).await,
        Command::Doctor(args) => doctor::run(File::load(named), args).await,
        Command::Bugreport(args) => doctor::report(File::load(named), args).await,
        Command::Preflight(args) => status::preflight(&args),
        Command::Screens(args) => screens::list(&args),
        Command::Demo(args) => demo::run(args).await,
        Command::Admin(args) => admin::run(&File::load(named)?, args).await,
        Command::LightKeeper => backends::keep_light().await,
    }
}

/// Saves first: on a train, too, one can prepare for tomorrow. A relay that is not reached is said and no failure; one
/// that no command could use is.
async fn setup(named: Option<&std::path::Path>, args: remora::cli::Setup) -> Result<Exit, Failure> {
    let mut file = match named {
        // The file is about to be made.
        Some(path) if !path.exists() => File::new(named),
        _ => File::load(named)?,
    };
    // Says what is wrong with the profile before anything is written.
    let profile = file.profile(&args.profile)?;
    let (relays, desk) = places(args.places)?;
    if args.leave_organisation {
        let had = file.beside()?.leave()?;
        if file.organisation.take().is_some() {
            file.save(named)?;
        }
        say(match had {
            true => "This computer belongs to no organisation any more.",
            false => "This computer belonged to no organisation.",
        });
    }
    if let Some(papers) = &args.credential {
        let membership = file.beside()?.take(papers)?;
        let credential = &membership.papers().credential;
        say(&format!(
            "You are {} of {} ({}), and may: {}.",
            credential.profile.full_name,
            credential.profile.company,
            credential.profile.domain,
            credential.permissions
        ));
    }
    if let Some(picture) = &args.picture {
        let hash = file.beside()?.take_portrait(picture)?;
        say(&format!(
            "The picture is kept; others see it once your administrator has signed its hash (`--picture`): {}",
            HEXLOWER.encode(&hash)
        ));
    }
    if args.request {
        let request = file.beside()?.request(profile.clone())?;
        say(
            "Send this line to your administrator, who answers with a file; then run `remora setup --credential FILE`:",
        );
        print_data(&request.to_string())?;
    }
    if let Some(desk) = desk {
        let voice = sign_in::Voice { json: args.json };
        sign_in::set_up(&mut file, desk, profile, args.how, voice).await?;
        file.save(named)?;
    }
    if relays.is_empty() {
        return Ok(Exit::Ok);
    }
    let saved = file.relays(&[]).unwrap_or_default();
    file.set_relays(&relays);
    let typed = args.profile;
    let old = std::mem::take(&mut file.profile);
    file.profile = FileProfile {
        full_name: typed.name.or(old.full_name),
        job_title: typed.job_title.or(old.job_title),
        company: typed.company.or(old.company),
        domain: typed.domain.or(old.domain),
    };
    let path = file.save(named)?;
    let path = path.display();
    let (node, by_tcp) = tokio::join!(
        Node::at_nearest(&relays, Options::default()),
        unreached_by_tcp(&relays)
    );
    let kept = with_saved_tls(&relays, &saved, &by_tcp);
    let note = match &kept {
        Some(kept) => {
            file.set_relays(kept);
            file.save(named)?;
            " The /TLS that was saved with this key before is kept: without it nothing is reached by TCP."
        }
        None => "",
    };
    match node {
        Ok(node) => {
            let by_tcp = by_tcp.into_iter().flatten().next();
            let but = by_tcp.filter(|_| kept.is_none()).map(|failure| {
                format!(
                    " But where UDP is blocked it would not help: {}.",
                    failure.line
                )
            });
            let who = match &relays[..] {
                [_] => "the relay answers".to_owned(),
                _ => format!("of these relays {} answers first", node.relay().host_port),
            };
            say(&format!(
                "Saved to {path}; {who}.{note}{} Give help with `remora invite`, get help with `remora join`.",
                but.unwrap_or_default()
            ));
            node.close().await;
            Ok(Exit::Ok)
        }
        Err(failure) if failure.exit == Exit::Offline => {
            say(&format!(
                "Saved to {path}, but the relay was not reached. {}: {}{note}",
                failure.code, failure.line
            ));
            Ok(Exit::Ok)
        }
        Err(failure) => Err(Failure {
            line: format!("saved to {path}, but {}", failure.line),
            ..failure
        }),
    }
}

/// Relays, or one desk.
fn places(typed: Vec<Place>) -> Result<(Vec<RelayAddr>, Option<DeskAddr>), Failure> {
    let (mut relays, mut desks) = (Vec::new(), Vec::new());
    for place in typed {
        match place {
            Place::Relay(relay) => relays.push(relay),
            Place::Desk(desk) => desks.push(desk),
        }
    }
    match (relays.len(), desks.len()) {
        (_, 0) | (0, 1) => Ok((relays, desks.pop())),
        _ => Err(Failure::new(
            Exit::Usage,
            "USAGE",
            "give one organisation's address, which names its relays, or relays",
        )),
    }
}

/// What is wrong with each of these by TCP, if anything is; where UDP does not go, an address has to be good for that.
async fn unreached_by_tcp(relays: &[RelayAddr]) -> Vec<Option<Failure>> {
    let mut trying = JoinSet::new();
    for (number, relay) in relays.iter().enumerate() {
        // One name may be that of several.
        let namesakes = relays
            .iter()
            .filter(|other| other.host_port == relay.host_port);
        let namesakes: Vec<_> = namesakes.cloned().collect();
        trying.spawn(async move {
            let failure = match Node::at_nearest(&namesakes, Options::tcp_only()).await {
                Ok(node) => {
                    node.close().await;
                    None
                }
                Err(failure) => Some(failure),
            };
            (number, failure)
        });
    }
    let mut tried = trying.join_all().await;
    tried.sort_by_key(|(number, _)| *number);
    tried.into_iter().map(|(_, failure)| failure).collect()
}

/// The same relays, but for those that were typed without the `/TLS` that was saved with the same key, and are not reached by TCP
/// without it: it was cut off, or nobody can say. `None` when there are none.
fn with_saved_tls(
    typed: &[RelayAddr],
    saved: &[RelayAddr],
    by_tcp: &[Option<Failure>],
) -> Option<Vec<RelayAddr>> {
    let kept: Vec<_> = typed
        .iter()
        .zip(by_tcp)
        .map(|(relay, failure)| {
            let before = saved.iter().find(|saved| saved.id == relay.id);
            let before = before.filter(|_| failure.is_some() && relay.tls.is_none());
            let tls = before.map_or(relay.tls, |before| before.tls);
            RelayAddr {
                tls,
                ..relay.clone()
            }
        })
        .collect();
    (kept != typed).then_some(kept)
}

fn wants_json(command: &Command) -> bool {
    match command {
        Command::Invite(args) => args.common.json,
        Command::Page(args) => args.json,
        Command::Join(args) => args.sharer.common.json,
        Command::Request(args) => args.sharer.common.json,
        Command::Requests(args) => args.json,
        Command::Take(args) => args.common.json,
        Command::Status(args) => args.common.json,
        Command::Sessions(args) => args.json,
        Command::Running(command) => command.which().json,
        Command::Ping(args) => args.json,
        Command::Netcheck(args) => args.json,
        Command::Agent(args) => args.json,
        Command::Inbox(args) => match &args.command {
            Some(InboxCommand::Open(open)) => open.sharer.common.json,
            Some(InboxCommand::Decline { .. }) | None => args.json,
        },
        Command::Presence(args) => args.json,
        Command::Doctor(args) | Command::Bugreport(args) => args.json,
        Command::Preflight(args) => args.json,
        Command::Screens(args) => args.json,
        Command::Demo(args) => args.json,
        Command::Admin(args) => match &args.command {
            AdminCommand::Operator(operator) => operator.access().json,
            AdminCommand::Org(args) => args.is_json(),
        },
        Command::Setup(args) => args.json,
        Command::SignIn(args) => args.json,
        Command::SignOut(args) => args.json,
        Command::LightKeeper => false,
    }
}

/// One line for people on standard error; when even that is closed, the exit code has to do.
fn say(line: &str) {
    if writeln!(std::io::stderr(), "{line}").is_err() {
        tracing::debug!("standard error is closed");
    }
}

fn report(failure: &Failure, json: bool) -> ExitCode {
    // What was wanted has been said; and whoever reads no more is told no more.
    if failure.exit == Exit::Ok {
        return ExitCode::SUCCESS;
    }
    if json {
        let error = json!({"v": 1, "event": "error", "code": failure.code, "text": failure.line});
        if writeln!(std::io::stdout(), "{error}").is_err() {
            tracing::debug!("standard output is closed");
        }
    }
    say(&format!("remora: {}: {}", failure.code, failure.line));
    ExitCode::from(failure.exit as u8)
}

/// clap's help and version go to standard output; its errors become one line.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        if error.print().is_err() {
            tracing::debug!("standard output is closed");
        }
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let command = Cli::command();
        let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
        let verbs: Vec<_> = verbs.map(clap::Command::get_name).collect();
        let verbs = verbs.join(", ");
        say(&format!(
            "remora: USAGE: say what to do: {verbs}; see `remora --help`"
        ));
        return ExitCode::from(Exit::Usage as u8);
    }
    let text = error.to_string();
    let what: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty())
        .collect();
    let what = what.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    say(&format!("remora: USAGE: {what}; see `remora --help`"));
    ExitCode::from(Exit::Usage as u8)
}
