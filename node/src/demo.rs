//! `remora demo`: a relay, a helper and a sharer in one process, on loopback ports of the system's choosing, playing a
//! whole session step by step, with a real screen. What is shown is what each side's own screen shows; what is counted is
//! counted by the same code that real sessions run.
//!
//! ```text
//!  stage (a screen) ─▶ sharer ─▶ relay ─▶ helper ─▶ view, and a page in the browser
//!        ▲ what is really there                       │ what is seen
//!        └─────────────────── check ──────────────────┘
//! ```
//!
//! This and what is below are all that names `remora_relay`.

/// Looks, types, compares.
mod check;
/// The two people.
mod players;
/// The screen.
mod stage;

use std::{io::IsTerminal as _, time::Duration};

use remora_proto::{
    identity::Role,
    noise::StaticKey,
    path::machine::WhyRelayed,
    session::{EndReason, Mode, Receipt},
};
use remora_relay::{config::Config, relay::Relay};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::{
    players::{Open, Player},
    stage::Stage,
};
use crate::{
    cli,
    error::{Exit, Failure},
    event::milliseconds,
    help::view::View,
    terminal::{console::print_data, page::Page},
};

/// How long the page stays when nobody ends the demo.
const OPEN: Duration = Duration::from_secs(600);
/// With two prompts, whoever plays ends it.
const OPEN_WITH_PROMPTS: Duration = Duration::from_secs(86_400);

/// What the demo found out.
#[derive(Default)]
struct Findings {
    code_to_trust: Duration,
    sas_match: bool,
    chat_intact: bool,
    rtt: Duration,
    bytes: u64,
    relay_frames: u64,
    source: &'static str,
    frames: u64,
    keys_arrived: bool,
    pixel_exact: bool,
    p50: Duration,
    p95: Duration,
    /// Nobody else draws on the screen or takes its keyboard: both have to be right.
    ours: bool,
}

/// `remora demo`
///
/// # Errors
/// A step did not go as it should.
pub async fn run(args: cli::Demo) -> Result<Exit, Failure> {
    let stop = interrupts()?;
    let relay = Relay::start(Config::loopback(StaticKey::generate()))
        .map_err(|error| Failure::internal("the demo's relay", error))?;
    narrate(
        &args,
        &format!(
            "relay  │ up at {} (this process, loopback only)",
            relay.local_addr()
        ),
    )?;
    // Not on the display of whoever runs a check.
    let (stage, which) = if args.headless_check {
        Stage::own()?
    } else {
        Stage::any()?
    };
    narrate(&args, &format!("screen │ {which}"))?;
    let mut findings = Findings {
        ours: stage.is_ours(),
        ..Findings::default()
    };
    let receipts = play(&args, &relay, &stage, &stop, &mut findings).await?;
    findings.relay_frames = relay.frames_forwarded();
    relay.shutdown().await;
    report(&args, &receipts, &findings)
}

fn narrate(args: &cli::Demo, text: &str) -> Result<(), Failure> {
    if args.json { Ok(()) } else { print_data(text) }
}

/// Ctrl-C ends the session before the screen: nothing that was started is left.
fn interrupts() -> Result<CancellationToken, Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::internal("signals", error));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stopped.cancel();
    });
    Ok(stop)
}

/// The session, from the code to the end.
async fn play(
    args: &cli::Demo,
    relay: &Relay,
    stage: &Stage,
    stop: &CancellationToken,
    findings: &mut Findings,
) -> Result<[Receipt; 2], Failure> {
    let acts = acts(args, relay, stage, findings);
    let (mut helper, mut sharer, mut view) = tokio::select! { biased;
        () = stop.cancelled() => return Err(Failure::new(Exit::Error, "INTERRUPTED", "the demo was interrupted")),
        played = acts => played?,
    };
    let stays = args.interactive || (std::io::stdout().is_terminal() && !is_quiet(args));
    let mut over = false;
    if stays {
        let open = Open {
            stop,
            limit: if args.interactive {
                OPEN_WITH_PROMPTS
            } else {
                OPEN
            },
            prompts: args.interactive,
        };
        over = players::stay(&mut helper, &mut sharer, &mut view, open).await?;
        findings.frames = view.counts().frames;
    }
    drop(view);
    players::part(helper, sharer, findings, over).await
}

/// Nobody is there to look at a page.
fn is_quiet(args: &cli::Demo) -> bool {
    args.json || args.headless_check
}

async fn acts(
    args: &cli::Demo,
    relay: &Relay,
    stage: &Stage,
    findings: &mut Findings,
) -> Result<(Player, Player, View), Failure> {
    stage.ready().await?;
    let page = if is_quiet(args) {
        None
    } else {
        let page = Page::open(Role::Helper, 0)?;
        narrate(
            args,
            &format!(
                "page   │ the helper's, in a browser on this computer: {}",
                page.url()
            ),
        )?;
        Some(page)
    };
    let desktop = stage.desktop();
    let (mut helper, mut sharer) =
        players::meet(relay.address(), desktop, page, findings, args.json).await?;
    if args.headless_check {
        players::agree(&mut helper, &mut sharer, Mode::Control).await?;
        let view = check::look(&mut helper, &mut sharer, stage, findings).await?;
        return Ok((helper, sharer, view));
    }
    players::agree(&mut helper, &mut sharer, Mode::View).await?;
    players::talk(&mut helper, &mut sharer, findings).await?;
    players::hand_over(&mut helper, &mut sharer).await?;
    let view = check::look(&mut helper, &mut sharer, stage, findings).await?;
    players::take_back(&mut helper, &mut sharer).await?;
    Ok((helper, sharer, view))
}

/// Whether all went as it should.
fn is_good(args: &cli::Demo, receipts: &[Receipt; 2], findings: &Findings) -> bool {
    let [helper, sharer] = receipts;
    let chat = helper.chat_received + sharer.chat_received;
    let said = helper.chat_sent + sharer.chat_sent;
    let ended = helper.reason == sharer.reason
        && matches!(helper.reason, EndReason::HelperLeft | EndReason::SharerLeft);
    let screen = !findings.ours || (findings.keys_arrived && findings.pixel_exact);
    let talked = args.headless_check || findings.chat_intact;
    findings.sas_match
        && talked
        && chat == said
        && ended
        && screen
        && findings.frames > 0
        && findings.relay_frames > 0
}

fn report(args: &cli::Demo, receipts: &[Receipt; 2], findings: &Findings) -> Result<Exit, Failure> {
    let good = is_good(args, receipts, findings);
    if !args.json {
        print_data(&summary(receipts, findings))?;
    }
    if is_quiet(args) {
        print_data(&as_json(args, receipts, findings, good).to_string())?;
    }
    if good {
        Ok(Exit::Ok)
    } else {
        Err(Failure::new(
            Exit::Error,
            "DEMO",
            "not everything went as it should",
        ))
    }
}

fn as_json(
    args: &cli::Demo,
    [helper, sharer]: &[Receipt; 2],
    findings: &Findings,
    good: bool,
) -> Value {
    let mut object = json!({
        "v": 1, "outcome": if good { "ended" } else { "failed" },
        "frames": findings.frames, "bytes": findings.bytes, "source": findings.source,
        "key_to_pixel_ms": {"p50": milliseconds(findings.p50), "p95": milliseconds(findings.p95)},
        "pixel_exact": findings.pixel_exact, "keys_arrived": findings.keys_arrived,
    });
    let session = json!({
        "end_reason": helper.reason.name(), "path": "relayed", "why_relayed": WhyRelayed::PolicyRelayOnly.name(), "rtt_ms": milliseconds(findings.rtt),
        "code_to_trust_ms": milliseconds(findings.code_to_trust), "sas_match": findings.sas_match,
        "chat_messages": helper.chat_received + sharer.chat_received, "chat_intact": findings.chat_intact,
        "relay_frames": findings.relay_frames, "mode": helper.mode.map(|mode| mode.to_string()),
    });
    if let (Value::Object(object), Value::Object(session)) = (&mut object, session)
        && !args.headless_check
    {
        object.extend(session);
    }
    object
}

fn summary([helper, sharer]: &[Receipt; 2], findings: &Findings) -> String {
    let chat = helper.chat_received + sharer.chat_received;
    format!(
        "\nscreen {} · {} frames · key to pixel {:.1} ms (p50), {:.1} ms (p95) · keys {} · pixels {}\n\
         path relayed, for the demo shows the relay's ({}) · RTT {:.2} ms · code to trust card {:.0} ms · {} bytes in {} frames that the relay could not read \
         · words {} · {chat} chat messages · {}",
        findings.source,
        findings.frames,
        milliseconds(findings.p50),
        milliseconds(findings.p95),
        if findings.keys_arrived {
            "arrived"
        } else {
            "LOST"
        },
        if findings.pixel_exact {
            "exact"
        } else {
            "NOT COMPARED"
        },
        WhyRelayed::PolicyRelayOnly.name(),
        milliseconds(findings.rtt),
        milliseconds(findings.code_to_trust),
        findings.bytes,
        findings.relay_frames,
        if findings.sas_match {
            "equal"
        } else {
            "DIFFERENT"
        },
        helper.reason,
    )
}
