//! Commands and flags. No secret is ever needed here: arguments stand in `ps` for everybody to read.

/// What operators ask of relays.
pub mod operator;
/// An organisation's.
pub mod org;
/// Help that is asked for first.
pub mod request;
/// Running sessions.
pub mod running;
/// Signing in.
pub mod sign_in;

use std::{env, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use remora_proto::{
    id::{DeviceId, RelayAddr},
    session::{Kind, Mode},
};

use crate::session::backends::BROKER_SOCKET;

/// Give help and get help at a computer, by a code, with nobody in between able to look.
#[derive(Debug, Parser)]
#[command(name = "remora", version, about, max_term_width = 100)]
pub struct Cli {
    /// Settings file [default: ~/.config/remora/config.toml]
    #[arg(long, global = true, env = "REMORA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// What was typed, and found in the environment, where an empty variable is none.
    ///
    /// # Errors
    /// It makes no sense; or help was asked for.
    pub fn read() -> Result<Self, clap::Error> {
        let mut command = without_empty_variables(Self::command());
        let mut matches = command.try_get_matches_from_mut(env::args_os())?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    }
}

fn without_empty_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let value = arg.get_env().and_then(env::var_os);
        match value.is_some_and(|value| value.is_empty()) {
            true => arg.env(None::<&str>),
            false => arg,
        }
    });
    command.mut_subcommands(without_empty_variables)
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Save the relay's address, and who you are, for every later command; or sign in at your organisation, which knows both
    Setup(Setup),
    /// Sign in at your organisation again
    SignIn(sign_in::SignIn),
    /// Forget who is signed in, here and at the provider
    SignOut(sign_in::SignOut),
    /// Give help: shows a code for the person you help
    Invite(Invite),
    /// Give help from a page in the browser: by a code, or to the devices below `[devices]` in the settings file
    Page(Lobby),
    /// Get help: asks for your helper's code
    Join(Join),
    /// Get help from your organisation's help desk: waits until a helper takes the request
    Request(Box<request::Request>),
    /// List who waits for your organisation's help, of those you may help
    Requests(request::Requests),
    /// Help somebody who waits
    Take(Box<request::Take>),
    /// Show the relay, how well it can be reached, and the sessions on this computer
    Status(Status),
    /// List the sessions on this computer
    Sessions(running::Sessions),
    /// A running session.
    #[command(flatten)]
    Running(running::Running),
    /// Measure the way to the other person's computer, until packets go there directly
    Ping(Ping),
    /// Say what this network lets through, and with which others a direct path is likely
    Netcheck(Netcheck),
    /// Be there as a device, for whoever asks, until this program ends
    Agent(Agent),
    /// Show the invitations to this computer, and answer them
    Inbox(Inbox),
    /// Ask whether a device is there, and when it was last
    Presence(Presence),
    /// Say what is wrong with Remora on this computer, and what to do: screen, network, relay, clock, organisation
    Doctor(Doctor),
    /// Print what somebody else needs to know to find out what is wrong here, without names and addresses
    Bugreport(Doctor),
    /// Say what this computer lacks for sharing its screen, and how to mend it
    Preflight(Preflight),
    /// List this computer's screens, for `remora join --screen`
    Screens(Screens),
    /// Play a whole session on this computer: relay, helper and sharer in one process
    Demo(Demo),
    /// For operators: what is done to a relay by its admin port
    Admin(Admin),
    /// What a shield starts beside itself; `session::backends` says why
    #[command(hide = true)]
    LightKeeper,
}

/// Which relay.
#[derive(Debug, Args)]
pub struct Relays {
    /// The relay's address, as `remora-relay` prints it; of several (comma, or again --relay), the nearest
    #[arg(
        long,
        env = "REMORA_RELAY",
        value_name = "HOST:PORT/KEY[/TLS]",
        value_delimiter = ','
    )]
    pub relay: Vec<RelayAddr>,
}

/// By TCP.
#[derive(Debug, Args)]
pub struct Tcp {
    /// By TCP only, through the relay, even where UDP goes
    #[arg(long, env = "REMORA_TCP_ONLY", value_parser = switch)]
    pub tcp_only: bool,
}

/// Which relay, and how to print.
#[derive(Debug, Args)]
pub struct Common {
    /// Which relay.
    #[command(flatten)]
    pub relays: Relays,
    /// Through the relay only, even if the two computers could reach each other
    #[arg(long, env = "REMORA_RELAY_ONLY", value_parser = switch)]
    pub relay_only: bool,
    /// By TCP.
    #[command(flatten)]
    pub tcp: Tcp,
    /// Print one JSON object a line on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// Files of the other person.
#[derive(Debug, Args)]
pub struct FolderArgs {
    /// Where files come to that the other person sends [default: your desktop's downloads]
    #[arg(long, env = "REMORA_DOWNLOADS", value_name = "FOLDER")]
    pub downloads: Option<PathBuf>,
}

/// An administrator's rights on the sharer's computer.
#[derive(Debug, Args)]
pub struct BrokerArgs {
    /// Where remora-broker listens, which runs programs as administrator for a helper whom you allow that
    #[arg(long, env = "REMORA_BROKER", value_name = "SOCKET", default_value = BROKER_SOCKET)]
    pub broker: PathBuf,
}

/// The page in the browser.
#[derive(Debug, Args)]
pub struct PageArgs {
    /// No page in the browser: terminal only
    #[arg(long, conflicts_with = "page")]
    pub no_page: bool,
    /// A page in the browser with --json, too; its address is the first event
    #[arg(long)]
    pub page: bool,
    /// Loopback port of the page [default: any]
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "PORT",
        value_parser = port
    )]
    pub page_port: u16,
}

/// Who you are; shown to the other person as UNVERIFIED, unless your organisation has signed it.
#[derive(Debug, Default, Args)]
pub struct ProfileArgs {
    /// Your full name [default: from the settings file, else your login name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Your job title
    #[arg(long, value_name = "TITLE")]
    pub job_title: Option<String>,
    /// Your company
    #[arg(long, value_name = "COMPANY")]
    pub company: Option<String>,
    /// Your organisation's domain
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
}

/// `remora setup`
#[derive(Debug, Args)]
pub struct Setup {
    /// Where your organisation signs you in; or the relay's address, as `remora-relay` prints it; or several, of which the nearest is used
    #[arg(
        value_name = "https://DESK[#KEY] | HOST:PORT/KEY[/TLS]",
        value_delimiter = ',',
        required_unless_present_any = ["request", "credential", "leave_organisation", "picture"]
    )]
    pub places: Vec<sign_in::Place>,
    /// How you sign in.
    #[command(flatten)]
    pub how: sign_in::How,
    /// Print one JSON object a line on stdout, for scripts, of signing in
    #[arg(long)]
    pub json: bool,
    /// Print a line to send to your administrator, who vouches for you
    #[arg(long, conflicts_with_all = ["credential", "leave_organisation"])]
    pub request: bool,
    /// Take what your administrator has signed: the file that came back
    #[arg(long, value_name = "FILE", conflicts_with = "leave_organisation")]
    pub credential: Option<PathBuf>,
    /// Keep this picture for your card, PNG or JPEG, at most 64 KiB; shown once your organisation has signed its hash
    #[arg(long, value_name = "FILE")]
    pub picture: Option<PathBuf>,
    /// Belong to no organisation any more
    #[arg(long)]
    pub leave_organisation: bool,
    /// Who you are.
    #[command(flatten)]
    pub profile: ProfileArgs,
}

/// `remora invite`
#[derive(Debug, Args)]
pub struct Invite {
    /// Which relay, how to print.
    #[command(flatten)]
    pub common: Common,
    /// The page.
    #[command(flatten)]
    pub page: PageArgs,
    /// Who you are.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// Ask for this as soon as the other person is there, instead of asking you
    #[arg(long, value_enum)]
    pub mode: Option<ModeArg>,
    /// Print a link with the code in it; who comes by it shows the screen, and cannot be controlled
    #[arg(long)]
    pub link: bool,
    /// The host that links name [default: from the settings file, else the relay's]
    #[arg(long, env = "REMORA_LINK_HOST", value_name = "HOST", value_parser = crate::link::host)]
    pub link_host: Option<String>,
    /// Files.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Invite this device instead of reading out a code: its id, or its name in the organisation or below `[devices]` in the settings file
    #[arg(long, value_name = "NAME|ID", conflicts_with = "valid")]
    pub device: Option<String>,
    /// What for; whoever reads the invitation at the device sees it
    #[arg(long, value_name = "TEXT", requires = "device")]
    pub reason: Option<String>,
    /// Help at a computer that nobody attends: the person there has said the same, and your role permits it
    #[arg(long, conflicts_with = "device")]
    pub unattended: bool,
    /// How long the code is valid, in seconds
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = validity)]
    pub valid: u64,
}

/// `remora page`
#[derive(Debug, Args)]
pub struct Lobby {
    /// Which relay.
    #[command(flatten)]
    pub relays: Relays,
    /// By TCP.
    #[command(flatten)]
    pub tcp: Tcp,
    /// Who you are.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// Loopback port of the page [default: any]
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "PORT",
        value_parser = port
    )]
    pub page_port: u16,
    /// Print one JSON object a line on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// What a sharer says of a session, whichever way it begins.
#[derive(Debug, Args)]
pub struct SharerArgs {
    /// Which relay, how to print.
    #[command(flatten)]
    pub common: Common,
    /// The page.
    #[command(flatten)]
    pub page: PageArgs,
    /// Who you are.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// When the session is to be confirmed, and by when it ends.
    #[command(flatten)]
    pub limits: Limits,
    /// Files.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// The broker.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// Show this screen and no other: its name, or its number, as `remora screens` lists them [default: the primary one first, and the
    /// helper may look at the others]
    #[arg(long, value_name = "NAME")]
    pub screen: Option<String>,
}

/// `remora join`
#[derive(Debug, Args)]
pub struct Join {
    /// How to share.
    #[command(flatten)]
    pub sharer: SharerArgs,
    /// Nobody stays here: without an answer the helper is let in after half a minute, with the screen dark and keyboard and mouse off,
    /// until the helper ends it. Only where your organisation permits its helpers that
    #[arg(long)]
    pub unattended: bool,
    /// Read the code from the first line of standard input
    #[arg(long)]
    pub code_stdin: bool,
    /// An agent has begun this for an invitation, says yes or no by standard input, and ends it by closing that
    #[arg(long, hide = true, requires = "code_stdin")]
    pub by_agent: bool,
    /// Go on with the session in which this computer was restarted; `remora agent` does so by itself
    #[arg(long, conflicts_with_all = ["code", "code_stdin", "unattended"])]
    pub resume: bool,
    /// The code, or a link to it; better left out, then it is asked for (or taken from REMORA_CODE)
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
}

impl Join {
    /// Of a code that nobody has to type.
    pub fn by_itself(sharer: SharerArgs) -> Self {
        Self {
            sharer,
            unattended: false,
            code_stdin: false,
            by_agent: false,
            resume: false,
            code: None,
        }
    }
}

/// After how long the sharer is asked whether the session is to go on; without an answer it ends a minute later.
#[derive(Clone, Debug, Default, Args)]
pub struct Limits {
    /// Ask every so many minutes whether the session is to go on, and end it when nobody answers
    #[arg(long, env = "REMORA_RECONFIRM", value_name = "MINUTES", value_parser = minutes)]
    pub reconfirm: Option<Duration>,
    /// The same once it has lasted so many minutes
    #[arg(long, env = "REMORA_MAX", value_name = "MINUTES", value_parser = minutes)]
    pub max: Option<Duration>,
    /// The same when nothing was done for so many minutes
    #[arg(long, env = "REMORA_IDLE", value_name = "MINUTES", value_parser = minutes)]
    pub idle: Option<Duration>,
}

/// `remora status`
#[derive(Debug, Args)]
pub struct Status {
    /// Which relay, how to print.
    #[command(flatten)]
    pub common: Common,
}

/// `remora ping`
#[derive(Debug, Args)]
pub struct Ping {
    /// The other person's name, or a part of it, or the number of the session's process [default: the only session]
    #[arg(value_name = "SESSION")]
    pub session: Option<String>,
    /// Stop after so many, even if packets go through the relay
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Print one JSON object a line on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// `remora netcheck`
#[derive(Debug, Args)]
pub struct Netcheck {
    /// Which relay.
    #[command(flatten)]
    pub relays: Relays,
    /// By TCP.
    #[command(flatten)]
    pub tcp: Tcp,
    /// Print one JSON object a line on stdout, for scripts
    #[arg(long)]
    pub json: bool,
    /// Again and again, with so much time between, until Ctrl-C
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub every: Option<u64>,
}

/// `remora agent`
#[derive(Debug, Args)]
pub struct Agent {
    /// Whether helpers whom your organisation permits it may come while nobody is there
    #[arg(long, value_enum, default_value_t = Switch::Off)]
    pub unattended: Switch,
    /// Where the agents of all log-ins of this computer meet, if not only yours [default: beside the device's key]
    #[arg(long, env = "REMORA_AGENT_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Which relay.
    #[command(flatten)]
    pub relays: Relays,
    /// By TCP.
    #[command(flatten)]
    pub tcp: Tcp,
    /// Print one JSON object a line on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// Something that is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It is not
    Off,
    /// It is
    On,
}

/// `remora inbox`
#[derive(Debug, Args)]
pub struct Inbox {
    /// What to do with an invitation [default: list them all].
    #[command(subcommand)]
    pub command: Option<InboxCommand>,
    /// Print JSON on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// An answer to an invitation.
#[derive(Debug, Subcommand)]
pub enum InboxCommand {
    /// Accept it: the session begins as with a code
    Open(Box<InboxOpen>),
    /// Do without
    Decline {
        /// The invitation, or the beginning of its id [default: the only one]
        #[arg(value_name = "ID")]
        id: Option<String>,
    },
}

/// `remora inbox open`
#[derive(Debug, Args)]
pub struct InboxOpen {
    /// The invitation, or the beginning of its id [default: the only one]
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// How to share.
    #[command(flatten)]
    pub sharer: SharerArgs,
}

/// `remora presence`
#[derive(Debug, Args)]
pub struct Presence {
    /// The device's id, as `remora agent` says it there
    #[arg(value_name = "DEVICE")]
    pub device: DeviceId,
    /// Which relay.
    #[command(flatten)]
    pub relays: Relays,
    /// By TCP.
    #[command(flatten)]
    pub tcp: Tcp,
    /// Print one JSON object on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// `remora preflight`
#[derive(Debug, Args)]
pub struct Preflight {
    /// Print one JSON object on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// `remora screens`
#[derive(Debug, Args)]
pub struct Screens {
    /// Print one JSON object on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// `remora doctor`, `remora bugreport`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Which relay.
    #[command(flatten)]
    pub relays: Relays,
    /// By TCP.
    #[command(flatten)]
    pub tcp: Tcp,
    /// Print one JSON object on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// `remora demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// Print one JSON object at the end, and nothing else
    #[arg(long)]
    pub json: bool,
    /// Leave the session open, with a prompt for each of the two people
    #[arg(long, conflicts_with_all = ["json", "headless_check"])]
    pub interactive: bool,
    /// See whether a screen can be shown, typed at and compared here, on a screen of its own; says so as JSON
    #[arg(long)]
    pub headless_check: bool,
}

/// `remora admin`
#[derive(Debug, Args)]
pub struct Admin {
    /// What to do.
    #[command(subcommand)]
    pub command: AdminCommand,
}

/// What an operator does.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// To relays.
    #[command(flatten)]
    Operator(operator::Operator),
    /// An organisation's people, devices and policy
    Org(Box<org::Org>),
}

/// As long as somebody needs to type it at least, as a record may live at most.
fn validity(text: &str) -> Result<u64, &'static str> {
    text.parse()
        .ok()
        .filter(|seconds| (5..=600).contains(seconds))
        .ok_or("say how many seconds, from 5 to 600")
}

/// A day at most: what lasts longer is not looked after.
fn minutes(text: &str) -> Result<Duration, &'static str> {
    text.parse()
        .ok()
        .filter(|minutes| (1..=1440).contains(minutes))
        .map(|minutes: u64| Duration::from_secs(60 * minutes))
        .ok_or("say how many minutes, from 1 to 1440")
}

/// What `--unattended` says.
pub(crate) fn kind(unattended: bool) -> Kind {
    match unattended {
        true => Kind::Unattended,
        false => Kind::Attended,
    }
}

/// A flag's variable.
fn switch(text: &str) -> Result<bool, &'static str> {
    match text.to_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("say 1 or true, 0 or false"),
    }
}

fn port(text: &str) -> Result<u16, &'static str> {
    text.parse()
        .map_err(|_| "say a port from 1 to 65535, or 0 for any that is free")
}

/// A mode on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// See the screen
    View,
    /// See it, and use mouse and keyboard
    Control,
    /// The same at a device that nobody attends
    Unattended,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::View => Self::View,
            ModeArg::Control | ModeArg::Unattended => Self::Control,
        }
    }
}
