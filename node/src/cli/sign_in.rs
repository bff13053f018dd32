//! `remora setup URL`, `remora sign-in`, `remora sign-out`.

use std::str::FromStr;

use clap::Args;
use remora_proto::id::{OrgId, RelayAddr};

use crate::oidc::web::Address;

/// Where an organisation's people sign in: `https://HOST[:PORT][#KEY]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeskAddr {
    /// Who is asked.
    pub at: Address,
    /// Whom it must be of.
    pub key: Option<OrgId>,
}

impl FromStr for DeskAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (at, key) = match text.trim().split_once('#') {
            Some((at, key)) => (at, Some(key)),
            None => (text.trim(), None),
        };
        let key = key.map(str::parse).transpose();
        Ok(Self {
            at: at.parse().map_err(|error| format!("{error}"))?,
            key: key.map_err(|_| "what stands behind # is no organisation's key".to_owned())?,
        })
    }
}

/// What a computer is made ready with.
#[derive(Clone, Debug)]
pub enum Place {
    /// A relay.
    Relay(RelayAddr),
    /// An organisation's desk, which names the relays.
    Desk(DeskAddr),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().contains("://") {
            true => text.parse().map(Self::Desk),
            false => text
                .parse()
                .map(Self::Relay)
                .map_err(|error| format!("{error}")),
        }
    }
}

/// How somebody signs in.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct How {
    /// With a browser on another computer, or a telephone: prints a code to type there
    #[arg(long)]
    pub device_code: bool,
}

/// `remora sign-in`
#[derive(Debug, Args)]
pub struct SignIn {
    /// How.
    #[command(flatten)]
    pub how: How,
    /// Print one JSON object a line on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// `remora sign-out`
#[derive(Debug, Args)]
pub struct SignOut {
    /// Print one JSON object on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}
