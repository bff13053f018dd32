//! `remora admin org`: verbs and flags.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};
use remora_proto::{
    id::{OrgId, RelayAddr},
    line::Why,
    org::{
        ended::SessionName, label::Label, membership::Request, permission::Permission, scope::Scope,
    },
};

use crate::admin::desk::claims::Choice;

/// `remora admin org`
#[derive(Debug, Args)]
pub struct Org {
    /// The organisation's folder, with its key [default: ~/.config/remora/org]
    #[arg(long, global = true, env = "REMORA_ORG_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The relays that are to know of a new policy, and through them everybody [default: those of the settings file]
    #[arg(
        long,
        global = true,
        env = "REMORA_RELAY",
        value_name = "HOST:PORT/KEY",
        value_delimiter = ','
    )]
    pub relay: Vec<RelayAddr>,
    /// What to do.
    #[command(subcommand)]
    pub command: OrgCommand,
}

impl Org {
    /// Whether a script asks.
    pub fn is_json(&self) -> bool {
        match &self.command {
            OrgCommand::Init(args) => args.json,
            OrgCommand::Show(args) => args.json,
            OrgCommand::Sign(args) => args.json,
            OrgCommand::Device(args) => args.json,
            OrgCommand::Serve(args) => args.json,
            OrgCommand::Role(_)
            | OrgCommand::Assign(_)
            | OrgCommand::Group(_)
            | OrgCommand::Trust(_)
            | OrgCommand::Revoke(_)
            | OrgCommand::EndSession(_)
            | OrgCommand::Policy(_) => false,
        }
    }
}

/// What an administrator does.
#[derive(Debug, Subcommand)]
pub enum OrgCommand {
    /// Make the organisation's key, and a policy in which nobody may help yet
    Init(Init),
    /// Show the policy, and what was signed for whom
    Show(Show),
    /// Vouch for a person and a device: answers the line of `remora setup --request`
    Sign(Box<Sign>),
    /// Say what is known of a device now: compliant, unless --failing says otherwise
    Device(DeviceArgs),
    /// Say what a role may do
    Role(RoleArgs),
    /// Give somebody a role, or take it away; at most what their credential says
    Assign(Assign),
    /// Name some people and devices
    Group(GroupArgs),
    /// Let another organisation's helpers help here, and be helped
    Trust(TrustArgs),
    /// Have a person, a computer or a credential refused everywhere
    Revoke(Revoke),
    /// End a running session, by the name that `remora sessions` shows at either of its two computers
    EndSession(EndSession),
    /// Set what holds for everybody; with nothing to set, sign it anew
    Policy(PolicyArgs),
    /// Be the desk where people sign in, for whom your OpenID Connect provider knows, until this program ends
    Serve(Box<Serve>),
}

/// `remora admin org init`
#[derive(Debug, Args)]
pub struct Init {
    /// What the organisation is called
    #[arg(long)]
    pub name: String,
    /// Its domain, which cards show as verified
    #[arg(long)]
    pub domain: String,
    /// Print one JSON object on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// `remora admin org show`
#[derive(Debug, Args)]
pub struct Show {
    /// Print one JSON object on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// What is known of a device.
#[derive(Debug, Args)]
pub struct DeviceState {
    /// It is its owner's own: nobody works there unattended
    #[arg(long)]
    pub personal: bool,
    /// Several people work at it at once
    #[arg(long)]
    pub multi_user: bool,
    /// A policy that it fails, like disk-encryption-off; at most four
    #[arg(long, value_name = "CODE")]
    pub failing: Vec<Label>,
}

/// `remora admin org sign`
#[derive(Debug, Args)]
pub struct Sign {
    /// The line that the person has sent
    #[arg(value_name = "REQUEST")]
    pub request: Request,
    /// What they may do: a role of the policy; of who only gets help, member
    #[arg(long)]
    pub role: Label,
    /// Their full name [default: what they say]
    #[arg(long)]
    pub name: Option<String>,
    /// Their job title [default: what they say]
    #[arg(long, value_name = "TITLE")]
    pub job_title: Option<String>,
    /// What they are called in policies [default: of the name, maria.lopez]
    #[arg(long)]
    pub subject: Option<Label>,
    /// Whom they may help: everyone, devices, user:NAME, device:NAME, group:NAME [default: everyone]
    #[arg(long)]
    pub scope: Vec<Scope>,
    /// What the device is called [default: what it says]
    #[arg(long, conflicts_with = "unenrolled")]
    pub device: Option<Label>,
    /// Vouch for the person and not for the device
    #[arg(long)]
    pub unenrolled: bool,
    /// What is known of the device.
    #[command(flatten)]
    pub state: DeviceState,
    /// Their picture, at most 64 KiB; its hash is signed
    #[arg(long, value_name = "FILE")]
    pub picture: Option<PathBuf>,
    /// How long it holds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=366))]
    pub days: u64,
    /// Print one JSON object on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// `remora admin org device`
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// What the device is called
    pub name: Label,
    /// What is known of the device.
    #[command(flatten)]
    pub state: DeviceState,
    /// Print one JSON object on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}

/// `remora admin org role`
#[derive(Debug, Args)]
pub struct RoleArgs {
    /// What the role is called
    pub name: Label,
    /// view, control, elevation, unattended, offer, connector; each with what it implies
    pub permissions: Vec<Permission>,
    /// There is no such role any more, and nobody has it
    #[arg(long, conflicts_with = "permissions")]
    pub remove: bool,
}

/// `remora admin org assign`
#[derive(Debug, Args)]
pub struct Assign {
    /// Who
    pub subject: Label,
    /// The role
    pub role: Label,
    /// Whom they may help in it [default: everyone]
    #[arg(long)]
    pub scope: Vec<Scope>,
    /// Take it away
    #[arg(long, conflicts_with = "scope")]
    pub remove: bool,
}

/// `remora admin org group`
#[derive(Debug, Args)]
pub struct GroupArgs {
    /// What the group is called
    pub name: Label,
    /// One of its people
    #[arg(long)]
    pub user: Vec<Label>,
    /// One of its devices
    #[arg(long)]
    pub device: Vec<Label>,
    /// There is no such group any more
    #[arg(long, conflicts_with_all = ["user", "device"])]
    pub remove: bool,
}

/// `remora admin org trust`
#[derive(Debug, Args)]
pub struct TrustArgs {
    /// The other organisation's key, as its `init` and `show` print it
    #[arg(value_name = "KEY")]
    pub issuer: OrgId,
    /// Its domain
    #[arg(long)]
    pub domain: Option<String>,
    /// The most that its helpers may do here, each with what it implies; offer and connector, too
    #[arg(long)]
    pub permission: Vec<Permission>,
    /// Whom of yours they may help [default: everyone]
    #[arg(long)]
    pub scope: Vec<Scope>,
    /// Trust it no more
    #[arg(long, conflicts_with_all = ["domain", "permission", "scope"])]
    pub remove: bool,
}

/// `remora admin org revoke`
#[derive(Debug, Args)]
pub struct Revoke {
    /// A person, a computer's key, or a credential's serial:…
    #[arg(required = true)]
    pub who: Vec<String>,
    /// Let them in again; what a person was assigned is gone, and assigned anew
    #[arg(long)]
    pub undo: bool,
}

/// `remora admin org end-session`
#[derive(Debug, Args)]
pub struct EndSession {
    /// Its name, as one of its two people reads it out
    pub session: SessionName,
    /// What both people read, in one line
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub reason: Why,
}

/// `remora admin org policy`
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// Like enabled=on, consent-seconds=120; `show` lists all
    #[arg(value_name = "NAME=VALUE")]
    pub settings: Vec<String>,
    /// How long it holds from now on, if nobody signs a newer one
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=366))]
    pub days: Option<u64>,
}

/// `remora admin org serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// Where to listen; without a certificate on loopback alone, behind a proxy that has one
    #[arg(long, default_value = "127.0.0.1:8441", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// PEM: the certificate, and those that lead to an authority
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM: its key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// The provider's issuer identifier, like `https://login.example.org/tenant`
    #[arg(long, value_name = "URL")]
    pub provider: String,
    /// What the provider calls this program: a public, native client, with http://127.0.0.1/callback on any port
    #[arg(long, value_name = "ID")]
    pub client_id: String,
    /// For providers that insist on a secret of native clients: everybody who signs in gets to know it
    #[arg(long, value_name = "FILE")]
    pub client_secret_file: Option<PathBuf>,
    /// What is asked for [default: openid profile email offline_access]
    #[arg(
        long,
        default_values = ["openid", "profile", "email", "offline_access"],
        hide_default_value = true,
        value_name = "SCOPE"
    )]
    pub scope: Vec<String>,
    /// From which claim something is read, like subject=preferred_username; subject, name, job-title, company, picture, email, verified,
    /// hosted-domain
    #[arg(long, value_name = "FIELD=CLAIM")]
    pub claim: Vec<Choice>,
    /// Ask the provider's userinfo endpoint, too, with the access token that people get, for claims that its ID tokens lack
    #[arg(long)]
    pub userinfo: bool,
    /// How long what it signs holds; it is renewed meanwhile without asking anybody
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=24))]
    pub hours: u64,
    /// A computer at which somebody signs in is the organisation's, and enrolled
    #[arg(long)]
    pub enrol: bool,
    /// Print one JSON object a line on stdout, for scripts
    #[arg(long)]
    pub json: bool,
}
