//! Commands for operators: what is asked of relays by their admin ports.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Where the relays' admin ports are, and what is presented there.
#[derive(Debug, Args)]
pub struct Access {
    /// A relay's admin port, as of its --admin; can be given again, one for each relay [default: `relays` below `[admin]` in the settings file]
    #[arg(
        long = "admin",
        env = "REMORA_ADMIN",
        value_name = "URL",
        value_delimiter = ','
    )]
    pub admin: Vec<String>,
    /// File of the relays' admin token, as of their --admin-token-file [default: what REMORA_ADMIN_TOKEN says]
    #[arg(long, env = "REMORA_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// File of the authorities that vouch for what https:// admin ports show, PEM [default: the system's]
    #[arg(long, env = "REMORA_ADMIN_CA", value_name = "FILE")]
    pub admin_ca: Option<PathBuf>,
    /// File of a client certificate that counts there as the token, PEM
    #[arg(
        long,
        env = "REMORA_ADMIN_CLIENT_CERT",
        value_name = "FILE",
        requires = "client_key"
    )]
    pub client_cert: Option<PathBuf>,
    /// File of that certificate's key, PEM
    #[arg(
        long,
        env = "REMORA_ADMIN_CLIENT_KEY",
        value_name = "FILE",
        requires = "client_cert"
    )]
    pub client_key: Option<PathBuf>,
    /// Print JSON on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// What is asked.
#[derive(Debug, Subcommand)]
pub enum Operator {
    /// Say how each relay does: its state, sessions, traffic, version
    Relays(Access),
    /// List the sessions that relays carry: how much and how, not whose
    Sessions(Access),
    /// Do something to one session
    #[command(subcommand)]
    Session(SessionCommand),
    /// Have a relay's sessions move to others, and the relay end when it is empty
    Drain(Drain),
    /// Say what is wrong with each relay, and what to do
    Doctor(Access),
    /// Print all that can be known of each relay, without a secret, to send to somebody
    Bugreport(Access),
}

/// What is done to a session.
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// End it; its two people read who wanted it, and why
    End(End),
}

/// `remora admin session end`
#[derive(Debug, Args)]
pub struct End {
    /// Its id, as `remora admin sessions` shows it, or the first letters
    pub id: String,
    /// What the two people read: one line of at most 128 bytes
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Where.
    #[command(flatten)]
    pub access: Access,
}

/// `remora admin drain`
#[derive(Debug, Args)]
pub struct Drain {
    /// The relay's admin port, or its name, if it is one of --admin [default: the only one of --admin]
    #[arg(value_name = "http://HOST:PORT | NAME")]
    pub relay: Option<String>,
    /// Wait until no session is left there, or its deadline has cut off the last ones
    #[arg(long)]
    pub wait: bool,
    /// Where.
    #[command(flatten)]
    pub access: Access,
}

impl Operator {
    /// Where, and how to print.
    pub fn access(&self) -> &Access {
        match self {
            Self::Relays(access)
            | Self::Sessions(access)
            | Self::Doctor(access)
            | Self::Bugreport(access) => access,
            Self::Session(SessionCommand::End(end)) => &end.access,
            Self::Drain(drain) => &drain.access,
        }
    }
}
