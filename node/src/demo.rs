//! `remora demo`: a relay, a helper and a sharer in one process, on loopback ports of the system's choosing, playing a
//! whole session step by step. What is shown is what each side's own screen shows; what is counted is counted by the
//! same code that real sessions run. The only module that names `remora_relay`.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "one event is waited for among many"
)]

use std::time::{Duration, Instant};

use remora_proto::{
    identity::{Profile, Role},
    noise::StaticKey,
    rendezvous::LIFETIME,
    session::{Command, EndReason, Event as SessionEvent, Mode, Receipt},
};
use remora_relay::{config::Config, relay::Relay};
use serde_json::json;

use crate::{
    cli,
    error::{Exit, Failure},
    event::{Event, Input},
    node::{Node, Running},
    share::desktop::Desktop,
    terminal::{
        console::{Console, Typed, print_data},
        screen::{Meaning, Screen},
        style::Style,
    },
};

/// On loopback each step takes milliseconds; a step that takes this long has failed.
const STEP: Duration = Duration::from_secs(15);

/// What the two say. Every line must arrive as it was sent: right-to-left, wide, combined and plain.
const CONVERSATION: [(Role, &str); 6] = [
    (Role::Sharer, "Hello Sam, the printer says “offline” again."),
    (Role::Helper, "I can see it. 👩‍💻 Did it work yesterday?"),
    (Role::Sharer, "نعم، كانت تعمل أمس"),
    (Role::Helper, "明白了，我来看看打印队列。"),
    (
        Role::Helper,
        "Found it: the queue was paused. I'll resume it now.",
    ),
    (Role::Sharer, "Es druckt wieder, danke! 🎉"),
];

/// One of the two, with the screen in front of them.
struct Player {
    role: Role,
    screen: Screen,
    running: Running,
    quiet: bool,
    style: Style,
}

impl Player {
    fn new(role: Role, running: Running, quiet: bool) -> Self {
        let style = Style::detect();
        Self {
            role,
            screen: Screen::new(role, None, style),
            running,
            quiet,
            style,
        }
    }

    fn print(&self, line: &str) -> Result<(), Failure> {
        if self.quiet || line.is_empty() {
            Ok(())
        } else {
            print_data(&format!("{} {line}", self.label()))
        }
    }

    fn label(&self) -> String {
        match self.role {
            Role::Helper => self.style.good("helper │"),
            Role::Sharer => self.style.warn("sharer │"),
        }
    }

    /// The next event, after it was shown.
    async fn next(&mut self) -> Result<Event, Failure> {
        let event = tokio::time::timeout(STEP, self.running.events.recv()).await;
        let Ok(Some(event)) = event else {
            let line = format!(
                "the {:?}'s side did not get on within {} s",
                self.role,
                STEP.as_secs()
            );
            return Err(Failure::new(Exit::Error, "DEMO", line));
        };
        for line in self.screen.on_event(&event, Instant::now()).0 {
            self.print(&line)?;
        }
        Ok(event)
    }

    /// Goes on to the event that `wanted` makes something of; whatever comes before is shown.
    async fn until<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> Result<T, Failure> {
        loop {
            if let Some(found) = wanted(&self.next().await?) {
                return Ok(found);
            }
        }
    }

    async fn on_session<T>(
        &mut self,
        wanted: impl Fn(&SessionEvent) -> Option<T>,
    ) -> Result<T, Failure> {
        self.until(|event| match event {
            Event::Session(event) => wanted(event),
            _ => None,
        })
        .await
    }

    /// Does what the person would type.
    async fn does(&mut self, what: &str, command: Command) -> Result<(), Failure> {
        self.print(&self.style.dim(&format!("({what})")))?;
        self.wish(Input::Session(command)).await
    }

    async fn wish(&mut self, input: Input) -> Result<(), Failure> {
        if let Some(line) = self.screen.sent(&input) {
            self.print(&line)?;
        }
        let sent = self.running.input.send(input).await;
        sent.map_err(|_| Failure::new(Exit::Error, "DEMO", "the session is over too early"))
    }

    async fn started(&mut self) -> Result<Mode, Failure> {
        self.on_session(|event| match event {
            SessionEvent::Started { mode } => Some(*mode),
            _ => None,
        })
        .await
    }

    async fn mode_is(&mut self, wanted: Mode) -> Result<(), Failure> {
        self.on_session(|event| match event {
            SessionEvent::ModeChanged { mode, .. } if *mode == wanted => Some(()),
            _ => None,
        })
        .await
    }
}

/// What the demo found out.
#[derive(Default)]
struct Findings {
    code_to_trust: Duration,
    sas_match: bool,
    chat_intact: bool,
    rtt: Duration,
    bytes: u64,
    frames: u64,
}

/// `remora demo`
///
/// # Errors
/// A step did not go as it should.
pub async fn run(args: cli::Demo) -> Result<Exit, Failure> {
    let relay = Relay::start(Config::loopback(StaticKey::generate()))
        .map_err(|error| Failure::internal("the demo's relay", error))?;
    let narrate = |text: &str| if args.json { Ok(()) } else { print_data(text) };
    narrate(&format!(
        "relay  │ up at {} (this process, loopback only)",
        relay.local_addr()
    ))?;
    let mut findings = Findings::default();
    let (mut helper, mut sharer) = meet(&relay, &mut findings, args.json).await?;
    agree(&mut helper, &mut sharer).await?;
    talk(&mut helper, &mut sharer, &mut findings).await?;
    if args.interactive {
        (helper, sharer) = interact(helper, sharer).await?;
    } else {
        take_turns(&mut helper, &mut sharer).await?;
    }
    let receipts = part(helper, sharer, &mut findings, args.interactive).await?;
    findings.frames = relay.frames_forwarded();
    relay.shutdown().await;
    report(&receipts, &findings, args.json)
}

fn person(name: &str, title: &str, company: &str, domain: &str) -> Result<Profile, Failure> {
    Profile::new(name, title, company, domain).map_err(|error| Failure::internal("demo", error))
}

/// Both connect, the helper shows a code, the sharer types it, both see who is there.
async fn meet(
    relay: &Relay,
    findings: &mut Findings,
    quiet: bool,
) -> Result<(Player, Player), Failure> {
    let node = Node::connect(relay.address()).await?;
    let sam = person("Sam Okafor", "Service desk", "Contoso", "contoso.com")?;
    let mut helper = Player::new(Role::Helper, node.invite(sam, LIFETIME), quiet);
    let code = helper
        .until(|event| match event {
            Event::Code { code, .. } => Some(code.clone()),
            _ => None,
        })
        .await?;
    let mut node = Node::connect(relay.address()).await?;
    let typed = code.to_uppercase().replace('-', " ");
    if !quiet {
        print_data(&format!(
            "{} Code from your helper: {typed}",
            Style::detect().warn("sharer │")
        ))?;
    }
    let entered = Instant::now();
    let code = typed
        .parse()
        .map_err(|error| Failure::internal("demo", error))?;
    let introduced = node.try_code(code).await?;
    let maria = person("Maria Lopez", "Accountant", "Contoso", "contoso.com")?;
    let mut sharer = Player::new(
        Role::Sharer,
        node.join(introduced, maria, Desktop::X11(None)),
        quiet,
    );
    let words = |event: &SessionEvent| match event {
        SessionEvent::Trust { words, .. } => Some(*words),
        _ => None,
    };
    let at_sharer = sharer.on_session(words).await?;
    findings.code_to_trust = entered.elapsed();
    let at_helper = helper.on_session(words).await?;
    findings.sas_match = at_sharer == at_helper;
    Ok((helper, sharer))
}

/// The words are compared; control is asked for, the screen only is allowed.
async fn agree(helper: &mut Player, sharer: &mut Player) -> Result<(), Failure> {
    helper
        .does("reads the words aloud: the same", Command::SasChecked(true))
        .await?;
    sharer
        .does("hears the same words", Command::SasChecked(true))
        .await?;
    helper
        .does("asks for control", Command::AskMode(Mode::Control))
        .await?;
    sharer
        .on_session(|event| matches!(event, SessionEvent::ConsentPrompt { .. }).then_some(()))
        .await?;
    sharer
        .does("allows the screen only", Command::Allow(Mode::View))
        .await?;
    let modes = (sharer.started().await?, helper.started().await?);
    if modes == (Mode::View, Mode::View) {
        Ok(())
    } else {
        Err(Failure::new(
            Exit::Error,
            "DEMO",
            "the session did not start in the mode that was allowed",
        ))
    }
}

async fn talk(
    helper: &mut Player,
    sharer: &mut Player,
    findings: &mut Findings,
) -> Result<(), Failure> {
    findings.chat_intact = true;
    for (from, text) in CONVERSATION {
        let (speaker, listener) = match from {
            Role::Helper => (&mut *helper, &mut *sharer),
            Role::Sharer => (&mut *sharer, &mut *helper),
        };
        speaker
            .wish(Input::Session(Command::Chat(text.to_owned())))
            .await?;
        let heard = listener
            .on_session(|event| match event {
                SessionEvent::Chat { text, .. } => Some(text.clone()),
                _ => None,
            })
            .await?;
        findings.chat_intact &= heard == text;
    }
    Ok(())
}

/// Control is asked for within the session, allowed, and taken back.
async fn take_turns(helper: &mut Player, sharer: &mut Player) -> Result<(), Failure> {
    helper
        .does("asks for control again", Command::AskMode(Mode::Control))
        .await?;
    sharer
        .on_session(|event| matches!(event, SessionEvent::ConsentPrompt { .. }).then_some(()))
        .await?;
    sharer
        .does("allows it", Command::Allow(Mode::Control))
        .await?;
    helper.mode_is(Mode::Control).await?;
    sharer.mode_is(Mode::Control).await?;
    sharer.does("takes control back", Command::DropMode).await?;
    helper.mode_is(Mode::View).await?;
    sharer.mode_is(Mode::View).await
}

/// Two prompts in one terminal: an empty line changes sides.
async fn interact(mut helper: Player, mut sharer: Player) -> Result<(Player, Player), Failure> {
    let mut console = Console::open(false)?;
    console.say("Now you play both: type a line, press Enter on an empty one to change sides, /leave to end.")?;
    let mut side = Role::Helper;
    loop {
        let prompt =
            |player: &Player| format!("{:?} {}", player.role, player.screen.prompt(Instant::now()));
        console.set_prompt(prompt(match side {
            Role::Helper => &helper,
            Role::Sharer => &sharer,
        }))?;
        tokio::select! { biased;
            event = helper.running.events.recv() => if shown(&mut console, &mut helper, event)? { break },
            event = sharer.running.events.recv() => if shown(&mut console, &mut sharer, event)? { break },
            typed = console.ask() => {
                let line = match typed {
                    Some(line) => Typed::Line(line),
                    None => Typed::Out,
                };
                let player = match side {
                    Role::Helper => &mut helper,
                    Role::Sharer => &mut sharer,
                };
                match line {
                    Typed::Line(line) if line.trim().is_empty() => side = side.peer(),
                    Typed::Line(line) => match player.screen.on_line(&line) {
                        Meaning::Wish(input) => player.wish(input).await?,
                        Meaning::Say(text) => console.say(&text)?,
                        Meaning::Nothing => {}
                    },
                    Typed::Out => player.wish(Input::Session(Command::Leave)).await?,
                }
            }
        }
    }
    console.set_prompt(String::new())?;
    Ok((helper, sharer))
}

/// Shows an event of a player; true when that side is over.
fn shown(
    console: &mut Console,
    player: &mut Player,
    event: Option<Event>,
) -> Result<bool, Failure> {
    let Some(event) = event else { return Ok(true) };
    for line in player.screen.on_event(&event, Instant::now()).0 {
        console.say(&format!("{} {line}", player.label()))?;
    }
    Ok(false)
}

/// The helper leaves; both sides end.
async fn part(
    mut helper: Player,
    mut sharer: Player,
    findings: &mut Findings,
    ended: bool,
) -> Result<[Receipt; 2], Failure> {
    if !ended {
        helper.does("leaves", Command::Leave).await?;
        let over = |event: &SessionEvent| matches!(event, SessionEvent::Ended(_)).then_some(());
        helper.on_session(over).await?;
        sharer.on_session(over).await?;
    }
    let mut receipts = Vec::new();
    for player in [helper, sharer] {
        let Player {
            running:
                Running {
                    outcome,
                    path,
                    events,
                    input,
                    frames: _,
                },
            ..
        } = player;
        drop((events, input));
        receipts.push(
            outcome
                .await
                .map_err(|error| Failure::internal("demo", error))??,
        );
        let path = path.borrow().clone();
        findings.rtt = path.rtt;
        findings.bytes = findings.bytes.max(path.bytes);
    }
    receipts
        .try_into()
        .map_err(|_| Failure::new(Exit::Error, "DEMO", "two sides, two receipts"))
}

fn report(receipts: &[Receipt; 2], findings: &Findings, json: bool) -> Result<Exit, Failure> {
    let [helper, sharer] = receipts;
    let chat = helper.chat_received + sharer.chat_received;
    let complete = chat == helper.chat_sent + sharer.chat_sent;
    let ended = helper.reason == sharer.reason
        && matches!(helper.reason, EndReason::HelperLeft | EndReason::SharerLeft);
    let good =
        findings.sas_match && findings.chat_intact && complete && ended && findings.frames > 0;
    let rtt_ms = findings.rtt.as_secs_f64() * 1e3;
    let code_to_trust_ms = findings.code_to_trust.as_secs_f64() * 1e3;
    if json {
        print_data(
            &json!({
                "outcome": if good { "ended" } else { "failed" }, "end_reason": helper.reason.name(),
                "path": "relayed", "rtt_ms": rtt_ms, "code_to_trust_ms": code_to_trust_ms,
                "sas_match": findings.sas_match, "chat_messages": chat, "chat_intact": findings.chat_intact,
                "bytes": findings.bytes, "relay_frames": findings.frames,
                "mode": helper.mode.map(|mode| mode.to_string()), "v": 1,
            })
            .to_string(),
        )?;
    } else {
        print_data(&format!(
            "\npath relayed · RTT {rtt_ms:.2} ms · code to trust card {code_to_trust_ms:.0} ms · {} bytes in {} frames \
             that the relay could not read · words {} · {chat} chat messages · {}",
            findings.bytes,
            findings.frames,
            if findings.sas_match {
                "equal"
            } else {
                "DIFFERENT"
            },
            helper.reason,
        ))?;
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
