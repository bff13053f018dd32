//! `remora requests`: who waits, and may be helped by this helper.

use std::{collections::BTreeMap, time::Duration};

use remora_proto::id::DeviceId;
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use super::{
    looking::{Looking, Open},
    member, options,
};
use crate::{
    cli,
    config::File,
    error::{Exit, Failure},
    policing, sign_in,
    terminal::console::print_data,
};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// `remora requests`
///
/// # Errors
/// The helper may help nobody, or nobody can be asked.
pub async fn run(file: &File, args: cli::request::Requests) -> Result<Exit, Failure> {
    let relays = file.relays(&args.relays.relay)?;
    sign_in::ensure(file, args.json).await?;
    let identity = file.identity(&cli::ProfileArgs::default())?;
    let member = member(&identity)?.clone();
    let options = options(&args.tcp, &member);
    policing::check_helper(&identity, &relays, options.clone()).await?;
    let mut looking = Looking::new(&relays, options, identity, &member).await?;
    let ended = if args.watch {
        watch(&mut looking, args.json).await
    } else {
        once(&mut looking, args.json).await
    };
    looking.close().await;
    ended.map(|()| Exit::Ok)
}

async fn once(looking: &mut Looking, json: bool) -> Result<(), Failure> {
    let open = looking.look().await?;
    if json {
        return print_data(&event(&open).to_string());
    }
    for open in &open {
        print_data(&line(open))?;
    }
    match open.is_empty() {
        true => print_data("nobody waits"),
        false => Ok(()),
    }
}

/// Until somebody interrupts it.
async fn watch(looking: &mut Looking, json: bool) -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::internal("signals", error));
    let (mut interrupt, mut terminate) = (
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
    );
    let changes = async {
        let mut before: Option<BTreeMap<DeviceId, Open>> = None;
        loop {
            let open = looking.look().await?;
            let now: BTreeMap<_, _> = open
                .iter()
                .map(|open| (open.device, open.clone()))
                .collect();
            let had = before.replace(now.clone());
            if json {
                if had.is_none_or(|had| !had.keys().eq(now.keys())) {
                    print_data(&event(&open).to_string())?;
                }
            } else {
                let had = had.unwrap_or_default();
                for open in open.iter().filter(|open| !had.contains_key(&open.device)) {
                    print_data(&line(open))?;
                }
                for gone in had.values().filter(|had| !now.contains_key(&had.device)) {
                    print_data(&format!("{}  is taken, or withdrawn", short(gone)))?;
                }
            }
            sleep(LOOK).await;
        }
    };
    tokio::select! { biased;
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        failed = changes => failed,
    }
}

fn event(open: &[Open]) -> Value {
    let requests: Vec<_> = open.iter().map(Open::to_json).collect();
    json!({"v": 1, "event": "requests", "requests": requests})
}

/// The beginning of its id, by which it can be taken.
fn short(open: &Open) -> String {
    let id = open.device.to_string();
    id.get(..6).unwrap_or(&id).to_owned()
}

/// `k3f9ab  Maria Lopez (Contoso) at fin-lt-0231, 4 min: the printer`
fn line(open: &Open) -> String {
    let profile = &open.card.profile;
    let company = match profile.company.as_str() {
        "" => String::new(),
        company => format!(" ({company})"),
    };
    let device = open.device_name();
    let device = device.map_or_else(String::new, |name| format!(" at {name}"));
    let reason = match open.reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    let waited = open.waited().as_secs();
    let waited = match waited {
        0..60 => format!("{waited} s"),
        60..3600 => format!("{} min", waited / 60),
        _ => format!("{} h", waited / 3600),
    };
    format!(
        "{}  {}{company}{device}, {waited}{reason}",
        short(open),
        profile.full_name
    )
}
