//! `remora invite` and `remora join`: a session in a terminal, in a pipe, and (with `--json`) for scripts. All three
//! understand the same lines.

/// Where lines come from and text goes to.
pub mod console;
/// An administrator's password, from a keyboard or a file.
mod credential;
/// Clipboard and files.
mod exchange;
/// A sharer goes on with another helper.
mod handover;
/// The page beside it.
pub mod page;
/// After a restart.
mod resume;
/// What is shown and what lines mean; pure.
pub mod screen;
/// Which screen a sharer shows.
pub mod screens;
/// Colours.
pub mod style;

use std::{
    collections::VecDeque,
    env,
    path::PathBuf,
    time::{Duration, Instant},
};

use remora_proto::{
    code::Code,
    elevation::Order,
    identity::Role,
    invitation::word::{MAX_REASON_BYTES, one_line},
    session::{Command, Durations, Entry, Event as SessionEvent, Kind, Mode, T_CONSENT},
};
use serde_json::json;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::MissedTickBehavior,
};

use self::{
    console::{Console, Typed, print_data, print_note},
    credential::Asking,
    handover::{Again, Behind, Handover, Step, code_of},
    page::{Page, Wish},
    screen::{Meaning, Screen},
    screens::Screens,
    style::Style,
};
use crate::{
    cli,
    config::{File, UNKNOWN_DEVICE},
    error::{Exit, Failure, exit_of},
    event::{Asked, Event, Input},
    exchange::Folder,
    identity::Identity,
    invitation::Call,
    link::{self, Given},
    node::{Node, Options, Running},
    policing,
    rendezvous::{Introduced, may_retry},
    share::preflight,
    sign_in,
    status::board::Board,
};

/// How often the countdown and the path badge are renewed.
const REFRESH: Duration = Duration::from_secs(1);

/// `remora invite`
///
/// # Errors
/// What went wrong before or instead of a session.
pub async fn invite(file: &File, args: cli::Invite) -> Result<Exit, Failure> {
    let call = match called(file, &args) {
        // It may be younger than the policy that this computer has.
        Err(failure) if failure.code == UNKNOWN_DEVICE => {
            look_for_policy(file, &args).await?;
            called(file, &args)?
        }
        called => called?,
    };
    invite_by(file, args, call).await
}

/// A member's policy is the newest that its relay has.
async fn look_for_policy(file: &File, args: &cli::Invite) -> Result<(), Failure> {
    let identity = file.identity(&args.profile)?;
    let Some(member) = &identity.member else {
        return Ok(());
    };
    let relays = file.relays(&args.common.relays.relay)?;
    policing::refresh(member, &relays, of_member(&args.common, &identity)).await
}

/// `remora take`: the same with a device that waits for it.
///
/// # Errors
/// What went wrong before or instead of a session.
pub async fn call(file: &File, args: cli::Invite, call: Call) -> Result<Exit, Failure> {
    invite_by(file, args, Some(call)).await
}

async fn invite_by(file: &File, args: cli::Invite, call: Option<Call>) -> Result<Exit, Failure> {
    let relays = file.relays(&args.common.relays.relay)?;
    sign_in::ensure(file, args.common.json).await?;
    let identity = file.identity(&args.profile)?;
    policing::check_helper(&identity, &relays, of_member(&args.common, &identity)).await?;
    let valid = Duration::from_secs(args.valid).min(identity.code_lifetime());
    let options = Options {
        folder: folder(args.folder.downloads),
        kind: cli::kind(args.unattended),
        ..of_member(&args.common, &identity)
    };
    let files = options.folder.clone();
    let node = Node::at_nearest(&relays, options).await?;
    let link_host = args
        .link_host
        .or_else(|| file.link_host.clone())
        .unwrap_or_else(|| link::host_of(&node.relay().host_port).to_owned());
    // Not before: until then, Ctrl-C is the system's business.
    let mut console = Console::open(args.common.json)?;
    let mut page = open_page(&args.page, args.common.json, &mut console, Role::Helper)?;
    if let Some(page) = &mut page {
        page.keep_in(files);
        page.link_to(link_host.clone());
    }
    let running = match call {
        Some(call) => node.call(identity, valid, call),
        None => node.invite(identity, valid),
    };
    let mode = args.mode.map(Mode::from);
    let mut terminal = Terminal::new(console, page, Role::Helper, mode, args.common.json, None)?;
    terminal.links = Links {
        host: link_host,
        wanted: args.link,
    };
    terminal.run(running).await
}

/// `remora join`
///
/// # Errors
/// What went wrong before or instead of a session.
pub async fn join(file: &File, args: cli::Join) -> Result<Exit, Failure> {
    if args.resume {
        return resume(file, args).await;
    }
    let given = given_code(&args)?;
    join_by(file, args, given, T_CONSENT).await
}

/// `remora inbox open`, and `remora request` that is taken: the same with the code of an invitation, which has to be allowed `within`
/// this time (guide, C-6).
///
/// # Errors
/// What went wrong before or instead of a session.
pub async fn open(
    file: &File,
    sharer: cli::SharerArgs,
    code: Code,
    entry: Entry,
    within: Duration,
) -> Result<Exit, Failure> {
    let invited = Given { code, entry };
    join_by(file, cli::Join::by_itself(sharer), Some(invited), within).await
}

async fn join_by(
    file: &File,
    args: cli::Join,
    given: Option<Given>,
    consent: Duration,
) -> Result<Exit, Failure> {
    let mut screens = screens(&args)?;
    let mut again = again(file, &args, consent).await?;
    let mut node = Node::at_nearest(&again.relays, again.options.clone()).await?;
    let mut console = Console::open(args.sharer.common.json)?;
    let mut page = open_page(
        &args.sharer.page,
        args.sharer.common.json,
        &mut console,
        Role::Sharer,
    )?;
    if let Some(page) = &page {
        page.keep_in(again.options.folder.clone());
    }
    let script = args.code_stdin || (args.sharer.common.json && page.is_none());
    if console.is_terminal()
        && let Some(problem) = preflight::preflight(None)
            .into_iter()
            .find(|finding| !finding.ok && !finding.optional)
    {
        // Before anybody agrees to something that will not come to pass.
        console.say(&Style::detect().warn(&format!(
            "Your screen cannot be shared: {}; {}. Chat works.",
            problem.detail, problem.fix
        )))?;
    }
    if args.by_agent {
        console.leash();
    }
    let introduced = match given {
        Some(code) => try_code(&mut console, &mut node, code).await,
        None => ask_for_code(&mut console, &mut page, &mut node, &mut screens, script).await,
    };
    let introduced = match introduced {
        Ok(introduced) => introduced,
        Err(failure) => {
            node.close().await;
            return Err(failure);
        }
    };
    let introduced = match args.by_agent {
        true => Introduced {
            entry: Entry::Notify,
            ..introduced
        },
        false => introduced,
    };
    again.desktop = screens.desktop();
    let (identity, desktop) = (again.identity.clone(), again.desktop.clone());
    let running = node.join(introduced, identity, desktop);
    let json = args.sharer.common.json;
    Terminal::new(console, page, Role::Sharer, None, json, Some(again))?
        .run(running)
        .await
}

/// `remora join --resume`: the session in which this computer was restarted.
async fn resume(file: &File, mut args: cli::Join) -> Result<Exit, Failure> {
    let Some(place) = file.place() else {
        return Err(Failure::new(
            Exit::Usage,
            "CONFIG",
            "there is no home folder in which something could be kept over a restart",
        ));
    };
    let token = place.read()?;
    if args.sharer.common.relays.relay.is_empty() {
        args.sharer.common.relays.relay = token.relays;
    }
    args.unattended = token.kind == Kind::Unattended;
    args.sharer.profile = cli::ProfileArgs {
        name: Some(token.profile.full_name),
        job_title: Some(token.profile.job_title),
        company: Some(token.profile.company),
        domain: Some(token.profile.domain),
    };
    let again = again(file, &args, T_CONSENT).await?;
    let mut console = Console::open(args.sharer.common.json)?;
    let page = open_page(
        &args.sharer.page,
        args.sharer.common.json,
        &mut console,
        Role::Sharer,
    )?;
    if let Some(page) = &page {
        page.keep_in(again.options.folder.clone());
    }
    let met = resume::meet(&mut console, &place, &again.relays, &again.options).await;
    let (node, introduced, returning) = met?;
    let (identity, desktop) = (again.identity.clone(), again.desktop.clone());
    let running = node.resume(introduced, identity, desktop, returning);
    let json = args.sharer.common.json;
    Terminal::new(console, page, Role::Sharer, None, json, Some(again))?
        .run(running)
        .await
}

/// What a sharer joins with, once or more often; a question is there for so long.
async fn again(file: &File, args: &cli::Join, consent: Duration) -> Result<Again, Failure> {
    let relays = file.relays(&args.sharer.common.relays.relay)?;
    sign_in::ensure(file, args.sharer.common.json).await?;
    let identity = file.identity(&args.sharer.profile)?;
    identity.check(Role::Sharer)?;
    let options = Options {
        folder: folder(args.sharer.folder.downloads.clone()),
        durations: Durations {
            consent,
            reconfirm: args.sharer.limits.reconfirm,
            max: args.sharer.limits.max,
            idle: args.sharer.limits.idle,
            ..Durations::default()
        },
        kind: cli::kind(args.unattended),
        broker: args.sharer.broker.broker.clone(),
        place: file.place(),
        ..of_member(&args.sharer.common, &identity)
    };
    Ok(Again {
        relays,
        options,
        identity,
        desktop: screens(args)?.desktop(),
    })
}

/// Those of this computer, with the one that is shown unless the person chooses another.
fn screens(args: &cli::Join) -> Result<Screens, Failure> {
    let mut screens = Screens::of_this_computer();
    if let Some(name) = &args.sharer.screen {
        screens.choose(name)?;
    }
    Ok(screens)
}

fn folder(downloads: Option<PathBuf>) -> Folder {
    downloads.map_or_else(Folder::default, Folder::from)
}

/// The device that is invited, if one is.
fn called(file: &File, args: &cli::Invite) -> Result<Option<Call>, Failure> {
    let is_unattended = args.mode == Some(cli::ModeArg::Unattended);
    let Some(device) = &args.device else {
        return match is_unattended {
            true => Err(Failure::new(
                Exit::Usage,
                "USAGE",
                "nobody reads a code at a device that nobody attends; name it with --device",
            )),
            false => Ok(None),
        };
    };
    let (device, name) = file.device(device)?;
    Ok(Some(Call {
        device,
        name,
        entry: Entry::Notify,
        kind: match is_unattended {
            true => Kind::Unattended,
            false => Kind::Attended,
        },
        mode: args.mode.map(Mode::from),
        reason: one_line(args.reason.as_deref().unwrap_or_default(), MAX_REASON_BYTES),
    }))
}

fn of_member(common: &cli::Common, identity: &Identity) -> Options {
    Options {
        member: identity.member.clone(),
        ..options(common)
    }
}

pub(crate) fn options(common: &cli::Common) -> Options {
    if common.tcp.tcp_only {
        Options::tcp_only()
    } else if common.relay_only {
        Options::relay_only()
    } else {
        Options::default()
    }
}

/// The page, for a person at a terminal who does not refuse it; a script gets one only when it says so.
fn open_page(
    args: &cli::PageArgs,
    json: bool,
    console: &mut Console,
    role: Role,
) -> Result<Option<Page>, Failure> {
    if args.no_page || !(args.page || console.is_terminal()) {
        return Ok(None);
    }
    let page = Page::open(role, args.page_port)?;
    if json {
        print_data(&json!({"v": 1, "event": "page", "url": page.url()}).to_string())?;
    } else {
        console.say(&format!("In a browser on this computer:  {}", page.url()))?;
    }
    Ok(Some(page))
}

fn parse_code(text: &str) -> Result<Given, Failure> {
    text.parse().map_err(|error| {
        Failure::new(
            Exit::Usage,
            "INVALID_CODE",
            format!("{error}; please look at the code again"),
        )
    })
}

/// The code from the command line or the environment.
fn given_code(args: &cli::Join) -> Result<Option<Given>, Failure> {
    if let Some(text) = &args.code {
        let warning = "warning: other users of this computer can see a code on the command line; better run `remora join` and type it when asked";
        print_note(&Style::detect().warn(warning))?;
        return parse_code(text).map(Some);
    }
    match env::var("REMORA_CODE") {
        Ok(text) if !args.code_stdin => parse_code(&text).map(Some),
        _ => Ok(None),
    }
}

fn no_code() -> Failure {
    Failure::new(Exit::Usage, "NO_CODE", "no code was given")
}

/// Tries a code; a person may stop waiting for an answer.
async fn try_code(
    console: &mut Console,
    node: &mut Node,
    Given { code, entry }: Given,
) -> Result<Introduced, Failure> {
    let introduced = tokio::select! {
        tried = node.try_code(code) => tried?,
        () = console.interrupted() => return Err(no_code()),
    };
    Ok(Introduced {
        entry,
        ..introduced
    })
}

/// Asks until a code works, or the person gives up; a script has one try.
async fn ask_for_code(
    console: &mut Console,
    page: &mut Option<Page>,
    node: &mut Node,
    screens: &mut Screens,
    script: bool,
) -> Result<Introduced, Failure> {
    let once = script || (!console.is_terminal() && page.is_none());
    if !once {
        for line in screens.question(Style::detect()) {
            console.say(&line)?;
        }
    }
    loop {
        console.set_prompt("Code from your helper: ".into())?;
        if !script && once {
            console.say("Code from your helper:")?;
        }
        let typed = tokio::select! {
            text = console.ask() => match text {
                Some(text) => match screens.typed(&text) {
                    Some(chosen) => {
                        console.set_prompt(String::new())?;
                        let said = chosen.unwrap_or_else(|failure| format!("{}: {}", failure.code, failure.line));
                        console.say(&said)?;
                        continue;
                    }
                    None => parse_code(&text),
                },
                None if page.is_none() || console.is_terminal() => return Err(no_code()),
                // A pipe that is empty from the start: the code comes from the page.
                None => Ok(next_code(page).await),
            },
            code = next_code(page) => Ok(code),
        };
        console.set_prompt(String::new())?;
        let failure = match typed {
            Ok(code) => match try_code(console, node, code).await {
                Ok(introduced) => return Ok(introduced),
                Err(failure) if may_retry(&failure) => failure,
                Err(failure) => return Err(failure),
            },
            Err(failure) => failure,
        };
        if once {
            return Err(failure);
        }
        if let Some(page) = page {
            page.join_failed(&failure);
        }
        console.say(&Style::detect().warn(&format!("{}: {}", failure.code, failure.line)))?;
    }
}

/// Has the invitation sent again; twice at once is once.
fn retry(running: &Running) {
    if let Some(retry) = &running.retry
        && retry.try_send(()).is_err()
    {
        tracing::debug!("it is being sent");
    }
}

/// The next code typed on the page; waits for ever without one.
async fn next_code(page: &mut Option<Page>) -> Given {
    loop {
        if let Wish::Join(given) = next_wish(page).await {
            return given;
        }
    }
}

async fn next_wish(page: &mut Option<Page>) -> Wish {
    match page {
        Some(page) => page.next().await,
        None => std::future::pending().await,
    }
}

/// A session and the person in front of it.
struct Terminal {
    console: Console,
    page: Option<Page>,
    screen: Screen,
    board: Board,
    json: bool,
    interrupts: [Signal; 2],
    /// For the session, which takes them when it can. Waiting for that must not keep its events from being shown: it may
    /// be waiting for just that.
    wishes: VecDeque<Input>,
    handover: Handover,
    /// Of the session in front, from 1.
    number: u32,
    /// Of an administrator, whose password is not known yet.
    asking: Option<Asking>,
    /// Helper: of the code.
    links: Links,
}

/// Waits for ever if nobody is asked.
async fn given(asking: &mut Option<Asking>) -> Result<Order, String> {
    match asking {
        Some(asking) => asking.done().await,
        None => std::future::pending().await,
    }
}

/// The code as a link.
#[derive(Default)]
struct Links {
    /// That it names.
    host: String,
    /// The person wants to send one.
    wanted: bool,
}

impl Terminal {
    fn new(
        console: Console,
        page: Option<Page>,
        role: Role,
        mode: Option<Mode>,
        json: bool,
        again: Option<Again>,
    ) -> Result<Self, Failure> {
        let screen = Screen::new(role, mode, Style::detect());
        let listen = |kind| signal(kind).map_err(|error| Failure::internal("signals", error));
        let interrupts = [
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
        ];
        Ok(Self {
            console,
            page,
            screen,
            board: Board::new(role),
            json,
            interrupts,
            wishes: VecDeque::new(),
            handover: Handover::new(again),
            number: 1,
            links: Links::default(),
            asking: None,
        })
    }

    async fn run(mut self, mut running: Running) -> Result<Exit, Failure> {
        let mut refresh = tokio::time::interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leaving = false;
        // Nobody reads on: whoever is at the other side hears that this one leaves, and does not wait for it.
        let mut unprinted = None;
        loop {
            let [interrupt, terminate] = &mut self.interrupts;
            // Another session may take its place.
            let input = running.input.clone();
            let typed = tokio::select! { biased;
                _ = interrupt.recv() => Typed::Out,
                _ = terminate.recv() => Typed::Out,
                event = running.events.recv() => {
                    match event {
                        Some(event) => match self.show(&event, &running) {
                            Err(failure) if unprinted.is_none() && !leaving => {
                                unprinted = Some(failure);
                                Typed::Out
                            }
                            Ok(()) | Err(_) => continue,
                        },
                        None if self.goes_on(&mut running).await? => continue,
                        None => break,
                    }
                }
                step = self.handover.next() => {
                    self.take_step(step, &mut running)?;
                    continue;
                }
                room = input.reserve(), if !self.wishes.is_empty() => {
                    match (room, self.wishes.pop_front()) {
                        (Ok(room), Some(wish)) => room.send(wish),
                        // The session has just ended: its last events are on their way.
                        _ => self.wishes.clear(),
                    }
                    continue;
                }
                Some(bytes) = running.frames.recv() => {
                    if let Some(page) = &self.page {
                        page.stream(bytes);
                    }
                    continue;
                }
                asked = self.board.next(), if self.wishes.is_empty() => {
                    self.obey(asked, &running)?;
                    continue;
                }
                wish = next_wish(&mut self.page), if self.wishes.is_empty() => {
                    match wish {
                        Wish::Session(input) => self.send(input)?,
                        Wish::Retry => retry(&running),
                        Wish::Join(_) | Wish::Nothing => {}
                    }
                    continue;
                }
                order = given(&mut self.asking), if self.asking.is_some() => {
                    self.asking = None;
                    self.order(order)?;
                    self.renew(&running)?;
                    continue;
                }
                typed = self.console.next(), if self.wishes.is_empty() && self.asking.is_none() => typed,
                _ = refresh.tick() => {
                    self.renew(&running)?;
                    continue;
                }
            };
            match typed {
                // Asked twice: whatever is still going on is not worth waiting for.
                Typed::Out if leaving => break,
                Typed::Out => {
                    leaving = true;
                    self.handover.tell(Command::Leave);
                    let sent = self.send(Input::Session(Command::Leave));
                    unprinted = unprinted.or_else(|| sent.err());
                }
                Typed::Line(line) => match self.screen.on_line(&line) {
                    Meaning::Wish(input) => self.send(input)?,
                    Meaning::Retry => retry(&running),
                    Meaning::Credential(whose) => {
                        self.asking = Some(Asking::begin(whose, self.console.is_terminal()));
                    }
                    Meaning::Say(text) if self.json => {
                        self.print(&json!({"event": "not_possible", "text": text}), self.number)?
                    }
                    Meaning::Say(text) => self.console.say(&text)?,
                    Meaning::Nothing => {}
                },
            }
            self.renew(&running)?;
        }
        self.console.set_prompt(String::new())?;
        let Running {
            outcome,
            events,
            input,
            retry,
            ..
        } = running;
        drop((events, input));
        self.board.close().await;
        self.handover.close().await;
        let outcome = outcome
            .await
            .map_err(|error| Failure::internal("the session's task", error))?;
        if let Some(page) = self.page {
            // Of a code's end it has been told.
            if let (Err(failure), Some(_)) = (&outcome, retry) {
                page.failed(failure);
            }
            page.close().await;
        }
        match unprinted {
            Some(failure) => Err(failure),
            None => outcome.map(|receipt| exit_of(receipt.reason)),
        }
    }

    /// What somebody else on this computer wants; the session tells them what it says to it.
    fn obey(&mut self, asked: Asked, running: &Running) -> Result<(), Failure> {
        let command = match &asked {
            Asked::Command(command, _) => Some(command.clone()),
            Asked::Way(_) => None,
        };
        // Full: whoever asked learns that there is no answer.
        let is_sent = running.asked.try_send(asked).is_ok();
        if let Some(command) = command.filter(|_| is_sent) {
            self.acknowledge(&Input::Session(command))?;
            self.renew(running)?;
        }
        Ok(())
    }

    // ---- hand-over -----------------------------------------------------------------------

    /// Whether there is another session now that the one in front is over.
    async fn goes_on(&mut self, running: &mut Running) -> Result<bool, Failure> {
        if let Some(first) = self.handover.behind.take() {
            self.bring_back(running, first)?;
            return Ok(true);
        }
        if !self.handover.is_joining() {
            return Ok(false);
        }
        // The first helper has not waited.
        match self.handover.next().await {
            Step::Joined(joined) => match *joined {
                Ok(second) => self.bring_forward(running, second)?,
                Err(failure) => {
                    let (code, text) = (failure.code, failure.line);
                    self.show(&Event::NotPossible { code, text }, running)?;
                    return Ok(false);
                }
            },
            Step::Behind(_) | Step::Over => return Ok(false),
        }
        self.take_step(Step::Over, running)?;
        Ok(true)
    }

    fn take_step(&mut self, step: Step, running: &mut Running) -> Result<(), Failure> {
        match step {
            Step::Joined(joined) => match *joined {
                Ok(second) => self.bring_forward(running, second)?,
                Err(failure) => {
                    let (code, text) = (failure.code, failure.line);
                    self.show(&Event::NotPossible { code, text }, running)?;
                    self.send(Input::Session(Command::HandoverFailed))?;
                }
            },
            Step::Behind(event) => self.show_behind(&event)?,
            Step::Over => {
                let over = self.handover.behind.take();
                let over = over.map(|behind| behind.running.outcome);
                self.handover.over.extend(over);
            }
        }
        self.renew(running)
    }

    /// The session with the other helper, in front of the one there was.
    fn bring_forward(&mut self, running: &mut Running, second: Running) -> Result<(), Failure> {
        let number = self.number + 1;
        let style = Style::detect();
        let screen = std::mem::replace(&mut self.screen, Screen::new(Role::Sharer, None, style));
        self.wishes.clear();
        self.handover.behind = Some(Behind {
            running: std::mem::replace(running, second),
            screen,
            number: std::mem::replace(&mut self.number, number),
        });
        if let Some(page) = &mut self.page {
            page.bring_forward();
        }
        Ok(())
    }

    /// The one there was, when nothing has come of the other.
    fn bring_back(&mut self, running: &mut Running, first: Behind) -> Result<(), Failure> {
        self.screen = first.screen;
        self.number = first.number;
        self.wishes.clear();
        let second = std::mem::replace(running, first.running);
        self.handover.over.push(second.outcome);
        if let Some(page) = &mut self.page {
            page.bring_back();
        }
        self.send(Input::Session(Command::HandoverFailed))?;
        self.renew(running)
    }

    /// For a person who has the other session in front.
    fn show_behind(&mut self, event: &Event) -> Result<(), Failure> {
        let Some(behind) = &mut self.handover.behind else {
            return Ok(());
        };
        if let Some(page) = &self.page {
            page.show_behind(event);
        }
        let (lines, _) = behind.screen.on_event(event, Instant::now());
        let number = behind.number;
        if self.json {
            return self.print(&event.to_json(), number);
        }
        for line in lines {
            self.console.say(&line)?;
        }
        Ok(())
    }

    // ---- the person ----------------------------------------------------------------------

    /// What an administrator has said, for the broker.
    fn order(&mut self, order: Result<Order, String>) -> Result<(), Failure> {
        match order {
            Ok(order) => self.send(Input::Order(order)),
            Err(text) if self.json => {
                let refused = json!({"event": "not_possible", "code": "NO_PASSWORD", "text": text});
                self.print(&refused, self.number)
            }
            Err(text) => self.console.say(&text),
        }
    }

    fn send(&mut self, input: Input) -> Result<(), Failure> {
        let told = self.acknowledge(&input);
        self.wishes.push_back(input);
        told
    }

    /// What is on its way to the session, for this person's eyes.
    fn acknowledge(&mut self, input: &Input) -> Result<(), Failure> {
        if let Some(page) = &self.page {
            page.sent(input);
        }
        let leaves = matches!(
            input,
            Input::Session(Command::Leave | Command::ConfirmLeave)
        );
        if leaves && self.handover.give_up() {
            // Whoever is warned may stay, and then all is as before.
            let failed = Input::Session(Command::HandoverFailed);
            self.wishes.push_back(failed);
        }
        match self.screen.sent(input) {
            Some(line) if !self.json => self.console.say(&line),
            _ => Ok(()),
        }
    }

    fn show(&mut self, event: &Event, running: &Running) -> Result<(), Failure> {
        if let Some(page) = &mut self.page {
            page.show(event);
        }
        if matches!(event, Event::Session(SessionEvent::Media(_))) {
            return Ok(());
        }
        let (lines, input) = self.screen.on_event(event, Instant::now());
        // Whoever reads of it here may look from elsewhere.
        self.renew(running)?;
        self.board.tell(event);
        let link = if let Event::Code { code, .. } = event {
            Some((code, link::link(&self.links.host, code)))
        } else {
            None
        };
        if self.json {
            let mut value = event.to_json();
            if let Some((_, link)) = &link {
                value["link"] = link.as_str().into();
            }
            self.print(&value, self.number)?;
        } else {
            for line in lines {
                self.console.say(&line)?;
            }
            if let Some((code, link)) = &link {
                self.show_link(code, link)?;
            }
        }
        if let Some(input) = input {
            self.send(input)?;
            self.renew(running)?;
        }
        if let Some(code) = code_of(event) {
            let elevated = self.screen.was_elevated();
            self.handover.begin(code.clone(), elevated);
        }
        if let Event::Session(SessionEvent::Started { .. }) = event {
            self.handover.started();
        }
        Ok(())
    }

    /// A pipe gets the one thing that is wanted.
    fn show_link(&mut self, code: &str, link: &str) -> Result<(), Failure> {
        match (self.console.is_terminal(), self.links.wanted) {
            (false, false) => print_data(code),
            (false, true) => print_data(link),
            (true, false) => Ok(()),
            (true, true) => {
                let link = Style::detect().strong(link);
                self.console.say(&format!(
                    "Or, to see the screen only, send this link:  {link}  (`remora join` takes it, too)"
                ))
            }
        }
    }

    /// `number`: of the session; that of the first goes without saying.
    fn print(&self, value: &serde_json::Value, number: u32) -> Result<(), Failure> {
        let mut value = value.clone();
        if let Some(object) = value.as_object_mut() {
            object.insert("v".into(), 1.into());
            if number > 1 {
                object.insert("session".into(), number.into());
            }
        }
        print_data(&value.to_string())
    }

    fn renew(&mut self, running: &Running) -> Result<(), Failure> {
        let path = running.path.borrow().clone();
        if path.bytes > 0 {
            if let Some(page) = &self.page {
                page.path(&path);
            }
            self.screen.set_path(path);
        }
        self.board.show(&self.screen);
        let prompt = match &self.asking {
            Some(asking) => asking.prompt.clone(),
            None => self.screen.prompt(Instant::now()),
        };
        self.console.set_prompt(prompt)
    }
}
