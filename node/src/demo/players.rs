//! The two people of the demo, each with the screen in front of them, and what they do until they part. What is shown is
//! what each side's own screen shows.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "one event is waited for among many"
)]

use std::time::{Duration, Instant};

use remora_proto::{
    id::RelayAddr,
    identity::{Profile, Role},
    rendezvous::LIFETIME,
    session::{Command, Event as SessionEvent, Mode, Receipt},
    wire::message::session::control::Body,
};
use tokio::time::{Instant as Deadline, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Findings;
use crate::{
    error::{Exit, Failure},
    event::{Event, Input},
    help::view::View,
    node::{Node, Options, Running},
    share::desktop::Desktop,
    terminal::{
        console::{Console, Typed, print_data},
        page::{Page, Wish},
        screen::{Meaning, Screen},
        style::Style,
    },
};

/// On loopback each step takes milliseconds; a step that takes this long has failed.
pub(super) const STEP: Duration = Duration::from_secs(15);
/// How often the path badge on the page is renewed.
const REFRESH: Duration = Duration::from_secs(1);

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
pub(super) struct Player {
    role: Role,
    screen: Screen,
    pub(super) running: Running,
    page: Option<Page>,
    quiet: bool,
    style: Style,
}

impl Player {
    fn new(role: Role, running: Running, page: Option<Page>, quiet: bool) -> Self {
        let style = Style::detect();
        Self {
            role,
            screen: Screen::new(role, None, style),
            running,
            page,
            quiet,
            style,
        }
    }

    /// What comes for the page, for whoever takes it in its place.
    pub(super) fn page_stream(&self) -> Option<impl FnMut(bytes::Bytes) + Send + use<>> {
        self.page.as_ref().map(Page::streamer)
    }

    /// Something that the person does without a word to the session.
    pub(super) fn notes(&self, what: &str) -> Result<(), Failure> {
        self.print(&self.style.dim(&format!("({what})")))
    }

    fn print(&self, line: &str) -> Result<(), Failure> {
        if self.quiet || line.is_empty() {
            Ok(())
        } else {
            print_data(&format!("{} {line}", self.label()))
        }
    }

    fn prompt(&self) -> String {
        format!("{:?} {}", self.role, self.screen.prompt(Instant::now()))
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
        for line in self.show(&event) {
            self.print(&line)?;
        }
        Ok(event)
    }

    /// On the page, and as lines.
    fn show(&mut self, event: &Event) -> Vec<String> {
        if let Some(page) = &mut self.page {
            page.show(event);
        }
        self.screen.on_event(event, Instant::now()).0
    }

    /// An event that nobody waited for.
    fn heard(&mut self, event: Option<Event>) -> Result<(), Failure> {
        let event = event.ok_or_else(too_early)?;
        for line in self.show(&event) {
            self.print(&line)?;
        }
        Ok(())
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
        self.notes(what)?;
        self.wish(Input::Session(command)).await
    }

    async fn wish(&mut self, input: Input) -> Result<(), Failure> {
        if let Some(page) = &self.page {
            page.sent(&input);
        }
        if let Some(line) = self.screen.sent(&input) {
            self.print(&line)?;
        }
        let sent = self.running.input.send(input).await;
        sent.map_err(|_| too_early())
    }

    async fn started(&mut self) -> Result<Mode, Failure> {
        self.on_session(|event| match event {
            SessionEvent::Started { mode } => Some(*mode),
            _ => None,
        })
        .await
    }

    async fn is_asked(&mut self) -> Result<(), Failure> {
        self.on_session(|event| matches!(event, SessionEvent::ConsentPrompt { .. }).then_some(()))
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

fn too_early() -> Failure {
    Failure::new(Exit::Error, "DEMO", "the session is over too early")
}

fn person(name: &str, title: &str, company: &str, domain: &str) -> Result<Profile, Failure> {
    Profile::new(name, title, company, domain).map_err(|error| Failure::internal("demo", error))
}

/// Both connect, the helper shows a code, the sharer types it, both see who is there.
pub(super) async fn meet(
    relay: &RelayAddr,
    desktop: Desktop,
    page: Option<Page>,
    findings: &mut Findings,
    quiet: bool,
) -> Result<(Player, Player), Failure> {
    // What the demonstration shows is what a relay can read of a session: nothing. So all of it goes there.
    let node = Node::connect(relay, Options::relay_only()).await?;
    let sam = person("Sam Okafor", "Service desk", "Contoso", "contoso.com")?;
    let mut helper = Player::new(Role::Helper, node.invite(sam, LIFETIME), page, quiet);
    let code = helper
        .until(|event| match event {
            Event::Code { code, .. } => Some(code.clone()),
            _ => None,
        })
        .await?;
    let mut node = Node::connect(relay, Options::relay_only()).await?;
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
    let running = node.join(introduced, maria, desktop);
    let mut sharer = Player::new(Role::Sharer, running, None, quiet);
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

/// The words are compared; control is asked for, and `mode` is allowed.
pub(super) async fn agree(
    helper: &mut Player,
    sharer: &mut Player,
    mode: Mode,
) -> Result<(), Failure> {
    helper
        .does("reads the words aloud: the same", Command::SasChecked(true))
        .await?;
    sharer
        .does("hears the same words", Command::SasChecked(true))
        .await?;
    helper
        .does("asks for control", Command::AskMode(Mode::Control))
        .await?;
    sharer.is_asked().await?;
    let does = match mode {
        Mode::View => "allows the screen only",
        Mode::Control => "allows it",
    };
    sharer.does(does, Command::Allow(mode)).await?;
    let modes = (sharer.started().await?, helper.started().await?);
    if modes == (mode, mode) {
        Ok(())
    } else {
        Err(Failure::new(
            Exit::Error,
            "DEMO",
            "the session did not start in the mode that was allowed",
        ))
    }
}

pub(super) async fn talk(
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

/// Control is asked for within the session, and allowed.
pub(super) async fn hand_over(helper: &mut Player, sharer: &mut Player) -> Result<(), Failure> {
    helper
        .does("asks for control again", Command::AskMode(Mode::Control))
        .await?;
    sharer.is_asked().await?;
    sharer
        .does("allows it", Command::Allow(Mode::Control))
        .await?;
    helper.mode_is(Mode::Control).await?;
    sharer.mode_is(Mode::Control).await
}

/// ... and taken back.
pub(super) async fn take_back(helper: &mut Player, sharer: &mut Player) -> Result<(), Failure> {
    sharer.does("takes control back", Command::DropMode).await?;
    helper.mode_is(Mode::View).await?;
    sharer.mode_is(Mode::View).await
}

/// Does something beside the session: what both are told meanwhile is shown.
pub(super) async fn meanwhile<T>(
    helper: &mut Player,
    sharer: &mut Player,
    doing: impl Future<Output = T>,
) -> Result<T, Failure> {
    tokio::pin!(doing);
    loop {
        tokio::select! { biased;
            done = &mut doing => return Ok(done),
            event = helper.running.events.recv() => helper.heard(event)?,
            event = sharer.running.events.recv() => sharer.heard(event)?,
        }
    }
}

/// Until when the session stays open, and who may end it before.
pub(super) struct Open<'a> {
    pub(super) stop: &'a CancellationToken,
    pub(super) limit: Duration,
    /// With a prompt for each of the two; else the page is all there is to use.
    pub(super) prompts: bool,
}

/// The session stays open: for the helper's page, and with `prompts` for two in one terminal. Whether it is over.
pub(super) async fn stay(
    helper: &mut Player,
    sharer: &mut Player,
    view: &mut View,
    open: Open<'_>,
) -> Result<bool, Failure> {
    let mut console = Console::open(false)?;
    console.say(if open.prompts {
        "Now you play both: type a line, press Enter on an empty one to change sides, /leave to end."
    } else {
        "Now the page is yours: you are the helper, and Maria allows what you ask for. Enter ends the demo."
    })?;
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let deadline = Deadline::now() + open.limit;
    let mut side = Role::Helper;
    let over = loop {
        console.set_prompt(match (open.prompts, side) {
            (false, _) => String::new(),
            (true, Role::Helper) => helper.prompt(),
            (true, Role::Sharer) => sharer.prompt(),
        })?;
        let typed = tokio::select! { biased;
            () = open.stop.cancelled() => break false,
            () = sleep_until(deadline) => break false,
            event = helper.running.events.recv() => {
                if shown(&mut console, helper, event.as_ref())? { break true }
                continue;
            }
            event = sharer.running.events.recv() => {
                if shown(&mut console, sharer, event.as_ref())? { break true }
                if let Some(Event::Session(SessionEvent::ConsentPrompt { mode, .. })) = event
                    && !open.prompts
                {
                    sharer.wish(Input::Session(Command::Allow(mode))).await?;
                }
                continue;
            }
            wish = next_wish(&mut helper.page) => {
                if let Some(input) = wish { helper.wish(input).await? }
                continue;
            }
            seen = view.next(), if !view.is_over() => {
                if let Err(error) = seen { tracing::debug!(%error, "view") }
                continue;
            }
            _ = refresh.tick() => {
                if let Some(page) = &helper.page {
                    page.path(&helper.running.path.borrow());
                }
                continue;
            }
            typed = console.next() => typed,
        };
        let player = match side {
            Role::Helper => &mut *helper,
            Role::Sharer => &mut *sharer,
        };
        match typed {
            Typed::Out if open.prompts => player.wish(Input::Session(Command::Leave)).await?,
            Typed::Out => break false,
            Typed::Line(_) if !open.prompts => break false,
            Typed::Line(line) if line.trim().is_empty() => side = side.peer(),
            Typed::Line(line) => match player.screen.on_line(&line) {
                Meaning::Wish(input) => player.wish(input).await?,
                Meaning::Say(text) => console.say(&text)?,
                Meaning::Credential(_) => console.say("Nobody is administrator here.")?,
                Meaning::Nothing | Meaning::Retry => {}
            },
        }
    };
    console.set_prompt(String::new())?;
    Ok(over)
}

/// What is wished on the page. That frames were seen has been said by whoever handed them on.
async fn next_wish(page: &mut Option<Page>) -> Option<Input> {
    let Some(page) = page else {
        return std::future::pending().await;
    };
    match page.next().await {
        Wish::Session(Input::Session(Command::Media(Body::FrameAck(_)))) => None,
        Wish::Session(input) => Some(input),
        Wish::Join(_) | Wish::Retry | Wish::Nothing => None,
    }
}

/// Shows an event of a player; true when that side is over.
fn shown(
    console: &mut Console,
    player: &mut Player,
    event: Option<&Event>,
) -> Result<bool, Failure> {
    let Some(event) = event else { return Ok(true) };
    for line in player.show(event) {
        console.say(&format!("{} {line}", player.label()))?;
    }
    Ok(false)
}

/// The helper leaves; both sides end.
pub(super) async fn part(
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
                    asked: _,
                    retry: _,
                },
            page,
            ..
        } = player;
        drop((events, input));
        if let Some(page) = page {
            page.close().await;
        }
        let ended = tokio::time::timeout(STEP, outcome).await;
        let ended = ended.map_err(|error| Failure::internal("the end of the session", error))?;
        receipts.push(ended.map_err(|error| Failure::internal("demo", error))??);
        let path = path.borrow().clone();
        findings.rtt = path.rtt;
        findings.bytes = findings.bytes.max(path.bytes);
    }
    receipts
        .try_into()
        .map_err(|_| Failure::new(Exit::Error, "DEMO", "two sides, two receipts"))
}
