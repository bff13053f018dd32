//! Who waits for the desk, and may be helped by this helper: looked after for as long as the page's program runs.

use std::time::Duration;

use remora_proto::id::RelayAddr;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    cli,
    identity::Identity,
    request::{
        self,
        looking::{Looking, Open},
    },
    ui::PageSender,
};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// Tells the page, until what is returned is gone; of a helper of no organisation nothing.
pub(super) fn watch(
    relays: Vec<RelayAddr>,
    tcp: &cli::Tcp,
    identity: Identity,
    to: PageSender,
) -> JoinSet<()> {
    let mut watching = JoinSet::new();
    let Some(member) = identity.member.clone() else {
        return watching;
    };
    let options = request::options(tcp, &member);
    watching.spawn(async move {
        loop {
            let looking = Looking::new(&relays, options.clone(), identity.clone(), &member).await;
            match looking {
                Ok(mut looking) => tell(&mut looking, &to).await,
                Err(failure) => tracing::info!(%failure, "nobody says who waits"),
            }
            sleep(LOOK).await;
        }
    });
    watching
}

/// For as long as the relay says it.
async fn tell(looking: &mut Looking, to: &PageSender) {
    loop {
        if to.is_open() {
            match looking.look().await {
                Ok(open) => {
                    let requests: Value = open.iter().map(Open::to_json).collect();
                    to.transient(json!({"event": "requests", "requests": requests}));
                }
                Err(failure) => return tracing::info!(%failure, "who waits is not known"),
            }
        }
        sleep(LOOK).await;
    }
}
