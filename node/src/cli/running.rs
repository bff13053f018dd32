//! Commands for sessions that run on this computer, from another terminal or a script.

use clap::{Args, Subcommand, ValueEnum};

use crate::status::order::What;

/// Which session, how to print.
#[derive(Debug, Args)]
pub struct Which {
    /// The other person's name, or a part of it, or the number of the session's process [default: the only session]
    #[arg(long, value_name = "SESSION")]
    pub session: Option<String>,
    /// Print one JSON object on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// `remora sessions`
#[derive(Debug, Args)]
pub struct Sessions {
    /// Print one JSON object on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// What is done with a session that runs on this computer.
#[derive(Debug, Subcommand)]
pub enum Running {
    /// Helper: ask for more, and wait for the answer
    Ask(Ask),
    /// Helper: hand over to another helper, who runs `remora invite`; asks for the code shown there
    Handover(Handover),
    /// Sharer: allow what your helper asks for
    Allow(Allow),
    /// Sharer: say no to what your helper asks for
    Decline(Which),
    /// Say something to the other person
    Chat(Chat),
    /// Sharer: show nothing, and take no keys, until `remora resume`
    Pause(Which),
    /// Sharer: go on after `remora pause`
    Resume(Which),
    /// Say that a session is to go on, when that is asked
    Continue(Which),
    /// End a session
    Leave(Leave),
}

/// `remora ask`
#[derive(Debug, Args)]
pub struct Ask {
    /// For what
    #[arg(value_enum, value_name = "WHAT")]
    pub what: AskArg,
    /// Which session.
    #[command(flatten)]
    pub which: Which,
}

/// What a helper asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AskArg {
    /// To see the screen
    View,
    /// To use mouse and keyboard, too
    Control,
    /// Administrator's rights
    #[value(alias = "elevation")]
    Elevate,
    /// A restart of the computer
    Restart,
}

/// `remora handover`
#[derive(Debug, Args)]
pub struct Handover {
    /// Read the code from the first line of standard input [default: asked for, or taken from REMORA_CODE]
    #[arg(long)]
    pub code_stdin: bool,
    /// Which session.
    #[command(flatten)]
    pub which: Which,
}

/// What a sharer allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AllowArg {
    /// To see the screen
    View,
    /// To use mouse and keyboard, too
    Control,
    /// Administrator's rights
    Elevation,
    /// A restart of the computer
    Restart,
    /// That another helper goes on
    Handover,
}

/// `remora allow`
#[derive(Debug, Args)]
pub struct Allow {
    /// This only, if it is what is asked [default: what is asked]
    #[arg(value_enum, value_name = "WHAT")]
    pub what: Option<AllowArg>,
    /// Which session.
    #[command(flatten)]
    pub which: Which,
}

/// `remora chat`
#[derive(Debug, Args)]
pub struct Chat {
    /// What to say; better left out where others use this computer, too: then it is read from standard input
    #[arg(value_name = "TEXT")]
    pub text: Option<String>,
    /// Which session.
    #[command(flatten)]
    pub which: Which,
}

/// `remora leave`
#[derive(Debug, Args)]
pub struct Leave {
    /// Sharer: although it signs you out, or somebody is working here
    #[arg(long, conflicts_with = "stay")]
    pub confirm: bool,
    /// Sharer: you have been warned, and stay
    #[arg(long)]
    pub stay: bool,
    /// Which session.
    #[command(flatten)]
    pub which: Which,
}

impl From<AskArg> for What {
    fn from(what: AskArg) -> Self {
        match what {
            AskArg::View => Self::View,
            AskArg::Control => Self::Control,
            AskArg::Elevate => Self::Elevation,
            AskArg::Restart => Self::Restart,
        }
    }
}

impl From<AllowArg> for What {
    fn from(what: AllowArg) -> Self {
        match what {
            AllowArg::View => Self::View,
            AllowArg::Control => Self::Control,
            AllowArg::Elevation => Self::Elevation,
            AllowArg::Restart => Self::Restart,
            AllowArg::Handover => Self::Handover,
        }
    }
}

impl Running {
    /// Which session is meant, and how the answer is printed.
    pub fn which(&self) -> &Which {
        match self {
            Self::Ask(ask) => &ask.which,
            Self::Handover(handover) => &handover.which,
            Self::Allow(allow) => &allow.which,
            Self::Chat(chat) => &chat.which,
            Self::Leave(leave) => &leave.which,
            Self::Decline(which)
            | Self::Pause(which)
            | Self::Resume(which)
            | Self::Continue(which) => which,
        }
    }
}
