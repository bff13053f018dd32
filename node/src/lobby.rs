//! `remora page`: the page that a help desk lives in. Help by a code, the devices that one knows with whether they are there, and every
//! session that was begun from it.
//!
//! ```text
//!  browser ◀─ lobby, presences, call ─ lobby ─┬─ watch ── seek ──▶ relays: which devices are there
//!          ── invite, look, take ───▶         ├─ requests ────────▶ who waits for the desk (`crate::request`)
//!                                             └─ calls ── `remora invite --json --page`, or `take`, one each; their pages are windows of their own
//! ```
//!
//! A session is a program of its own, as if somebody had typed the command, so that one that fails takes no other with it, and each has its
//! page. What is kept of them lasts as long as this program.

/// Sessions that were begun here.
mod calls;
/// Who waits for the desk.
mod requests;
/// Which devices are there.
mod watch;

use std::{path::Path, sync::Arc, time::Duration};

use remora_proto::{
    identity::Role,
    org::{
        permission::{Permission, Permissions},
        verdict,
    },
};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use self::{calls::Calls, watch::Watch};
use crate::{
    cli,
    config::File,
    error::{Exit, Failure},
    identity::Identity,
    policing,
    presence::child::Command,
    request, sign_in,
    terminal::console::print_data,
    ui::{FromPage, PageSender, Ui},
};

/// How often one looks which devices are there, while somebody looks at the page; relays let one source ask for 300 at once, and for each
/// again every minute.
const LOOK: Duration = Duration::from_secs(60);

/// `remora page`
///
/// # Errors
/// What is wrong with the settings, or no page can be opened.
pub async fn run(file: &File, named: Option<&Path>, args: cli::Lobby) -> Result<Exit, Failure> {
    let relays = file.relays(&args.relays.relay)?;
    sign_in::ensure(file, args.json).await?;
    let identity = file.identity(&args.profile)?;
    if let Some(member) = &identity.member {
        let options = request::options(&args.tcp, member);
        policing::check_helper(&identity, &relays, options).await?;
    }
    let listen = |kind| signal(kind).map_err(|error| Failure::internal("signals", error));
    let (mut interrupt, mut terminate) = (
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
    );
    let (ui, channels) = Ui::open(None::<Role>, args.page_port)
        .map_err(|error| Failure::new(Exit::Error, "PAGE", error.to_string()))?;
    let to = channels.to_page;
    to.event(described(file, &identity));
    say_where(&ui, args.json)?;
    let command = Command {
        settings: named.map(Path::to_path_buf),
        relays: args.relays.relay.clone(),
        tcp_only: args.tcp.tcp_only,
    };
    let mut calls = Calls::new(command, to.clone());
    let requests = requests::watch(relays.clone(), &args.tcp, identity.clone(), to.clone());
    let watch = Arc::new(Watch::new(relays, args.tcp.tcp_only, file));
    let mut from = channels.from_page;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! { biased;
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            wish = from.recv() => match wish {
                Some(FromPage::Invite(call)) => calls.begin(call),
                Some(FromPage::Look) => look.reset_immediately(),
                Some(FromPage::Take { id }) => calls.take(id),
                Some(_) => tracing::debug!("a wish of a session's page"),
                None => break,
            },
            () = calls.next() => {}
            _ = look.tick(), if to.is_open() => {
                tokio::spawn(report(Arc::clone(&watch), to.clone()));
            }
        }
    }
    drop(requests);
    calls.close().await;
    ui.close().await;
    Ok(Exit::Ok)
}

async fn report(watch: Arc<Watch>, to: PageSender) {
    if let Some(seen) = watch.look().await {
        to.transient(seen);
    }
}

fn say_where(ui: &Ui, json: bool) -> Result<(), Failure> {
    print_data(&match json {
        true => json!({"v": 1, "event": "page", "url": ui.url()}).to_string(),
        false => format!("In a browser on this computer:  {}", ui.url()),
    })
}

/// What there is, and what this person may ask for anywhere; what a device's organisation says is known once it is invited.
fn described(file: &File, identity: &Identity) -> Value {
    let permissions = match &identity.member {
        Some(member) => verdict::own_permissions(&member.membership()),
        None => Permissions::ATTENDED,
    };
    let modes = [
        Permission::View,
        Permission::Control,
        Permission::Unattended,
    ];
    let permitted: Vec<_> = modes
        .into_iter()
        .filter(|mode| permissions.has(*mode))
        .map(Permission::name)
        .collect();
    let devices: Vec<_> = file
        .devices
        .iter()
        .map(|(name, id)| json!({"name": name, "id": id}))
        .collect();
    json!({
        "event": "lobby", "devices": devices, "permitted": permitted, "member": identity.member.is_some(),
        "name": identity.profile.full_name,
    })
}
