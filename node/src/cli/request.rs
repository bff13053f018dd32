//! Help that is asked for first, by the person who needs it.

use clap::Args;

use super::{Common, FolderArgs, ModeArg, PageArgs, ProfileArgs, Relays, SharerArgs, Tcp};

/// `remora request`
#[derive(Debug, Args)]
pub struct Request {
    /// What for; those who may help you see it, and nobody else
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// How to share.
    #[command(flatten)]
    pub sharer: SharerArgs,
}

/// `remora requests`
#[derive(Debug, Args)]
pub struct Requests {
    /// Go on, and say what changes, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// Which relay.
    #[command(flatten)]
    pub relays: Relays,
    /// By TCP.
    #[command(flatten)]
    pub tcp: Tcp,
    /// Print one JSON object on stdout, for scripts; with --watch one a line, whenever something has changed
    #[arg(long)]
    pub json: bool,
}

/// `remora take`
#[derive(Debug, Args)]
pub struct Take {
    /// The request, or the beginning of its id [default: that of whoever has waited longest]
    #[arg(value_name = "REQUEST")]
    pub id: Option<String>,
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
    /// Files.
    #[command(flatten)]
    pub folder: FolderArgs,
}
