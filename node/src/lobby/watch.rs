//! Which of the devices in the settings are there: their relays are asked, through the nearest one.

use std::{collections::BTreeSet, time::Duration};

use remora_proto::id::{DeviceId, RelayAddr};
use serde_json::{Map, Value, json};
use tokio::{sync::Mutex, time::timeout};

use crate::{config::File, error::Failure, homes::Homes, node::Options};

/// A relay answers within this, whatever it has to ask for that.
const ANSWER: Duration = Duration::from_secs(3);
/// Devices that are asked for: what relays let one source ask for at once.
const MAX_DEVICES: usize = 300;

/// Looks.
#[derive(Debug)]
pub(super) struct Watch {
    relays: Vec<RelayAddr>,
    tcp_only: bool,
    /// By name; `None`: what stands in the settings is no id.
    devices: Vec<(String, Option<DeviceId>)>,
    /// One look at a time.
    looking: Mutex<()>,
}

impl Watch {
    pub(super) fn new(relays: Vec<RelayAddr>, tcp_only: bool, file: &File) -> Self {
        let known = |(name, id): (&String, &String)| (name.clone(), id.parse().ok());
        Self {
            relays,
            tcp_only,
            devices: file.devices.iter().map(known).take(MAX_DEVICES).collect(),
            looking: Mutex::new(()),
        }
    }

    /// What can be said of each now; `None`: somebody looks already, or there is none.
    pub(super) async fn look(&self) -> Option<Value> {
        let _looking = self.looking.try_lock().ok()?;
        if self.devices.is_empty() {
            return None;
        }
        Some(match self.ask().await {
            Ok(seen) => json!({"event": "presences", "devices": seen}),
            Err(failure) => {
                json!({"event": "presences", "devices": {}, "code": failure.code, "text": failure.line})
            }
        })
    }

    async fn ask(&self) -> Result<Map<String, Value>, Failure> {
        let options = if self.tcp_only {
            Options::tcp_only()
        } else {
            Options::relay_only()
        };
        let homes = Homes::find(&self.relays, options).await?;
        let home = homes.settle(&BTreeSet::new()).await?;
        let mut seen = Map::new();
        for (name, device) in &self.devices {
            let Some(device) = device else {
                seen.insert(name.clone(), json!({"state": "no_id"}));
                continue;
            };
            // One that nobody can say anything of holds up the others no longer than this.
            let answered = timeout(ANSWER, home.control.seek(*device)).await;
            let said = match answered {
                Ok(Ok(sighted)) => json!({
                    "state": if sighted.is_online { "online" } else { "offline" },
                    "agents": sighted.agents, "seen_ms_ago": sighted.seen_ms_ago,
                }),
                Ok(Err(_)) | Err(_) => json!({"state": "unknown"}),
            };
            seen.insert(name.clone(), said);
        }
        home.close().await;
        Ok(seen)
    }
}
