//! `remora take`: helps somebody who waits, as if they had been invited, and the code goes there.

use remora_proto::session::{Entry, Kind, Mode};

use super::{
    looking::{Looking, Open},
    member, options,
};
use crate::{
    cli,
    config::File,
    error::{Exit, Failure},
    invitation::Call,
    policing, sign_in, terminal,
};

/// `remora take`
///
/// # Errors
/// There is no such request, or somebody else was first; or what went wrong in the session.
pub async fn run(file: &File, args: cli::request::Take) -> Result<Exit, Failure> {
    let relays = file.relays(&args.common.relays.relay)?;
    if args.mode == Some(cli::ModeArg::Unattended) {
        let line = "whoever asks for help is there; say --mode view or control";
        return Err(Failure::new(Exit::Usage, "USAGE", line));
    }
    sign_in::ensure(file, args.common.json).await?;
    let identity = file.identity(&args.profile)?;
    let member = member(&identity)?.clone();
    let options = options(&args.common.tcp, &member);
    policing::check_helper(&identity, &relays, options.clone()).await?;
    let mut looking = Looking::new(&relays, options, identity, &member).await?;
    let open = looking.look().await;
    looking.close().await;
    let chosen = choose(open?, args.id.as_deref())?;
    let call = Call {
        device: chosen.device,
        name: None,
        kind: Kind::Attended,
        entry: Entry::Request,
        mode: args.mode.map(Mode::from),
        reason: chosen.reason,
    };
    let invite = cli::Invite {
        common: args.common,
        page: args.page,
        profile: args.profile,
        mode: args.mode,
        link: false,
        link_host: None,
        folder: args.folder,
        device: None,
        reason: None,
        unattended: false,
        valid: 600,
    };
    terminal::call(file, invite, call).await
}

/// The one whose id begins so, or the first.
fn choose(open: Vec<Open>, id: Option<&str>) -> Result<Open, Failure> {
    let wanted = id.unwrap_or_default().to_lowercase();
    let fits = |open: &Open| open.device.to_string().to_lowercase().starts_with(&wanted);
    let mut fitting = open.into_iter().filter(fits);
    let (first, more) = (fitting.next(), fitting.next().is_some());
    match (first, id) {
        (Some(_), Some(_)) if more => {
            let line = "several requests begin so; say more of the id";
            Err(Failure::new(Exit::Usage, "AMBIGUOUS", line))
        }
        (Some(first), _) => Ok(first),
        (None, Some(_)) => Err(Failure::new(
            Exit::Error,
            "UNKNOWN_REQUEST",
            "nobody whom you may help waits with such a request, or not any more; see `remora requests`",
        )),
        (None, None) => Err(Failure::new(
            Exit::Error,
            "NOBODY_WAITS",
            "nobody whom you may help waits; `remora requests --watch` says when somebody does",
        )),
    }
}
