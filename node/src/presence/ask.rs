//! `remora presence DEVICE`: whether it is there.

use std::{collections::BTreeSet, time::Duration};

use remora_proto::{
    id::{DeviceId, RelayId},
    wire::message::control::Sighted,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    cli,
    config::File,
    control::RequestError,
    error::{Exit, Failure},
    homes::Homes,
    node::Options,
    terminal::console::print_data,
};

/// A relay answers within this, whatever it has to ask for that.
const ANSWER: Duration = Duration::from_secs(3);

/// `remora presence`
///
/// # Errors
/// The device is not there, with when it was last; or nobody can be asked.
pub async fn run(file: &File, args: cli::Presence) -> Result<Exit, Failure> {
    let relays = file.relays(&args.relays.relay)?;
    let options = if args.tcp.tcp_only {
        Options::tcp_only()
    } else {
        Options::relay_only()
    };
    let homes = Homes::find(&relays, options).await?;
    let home = homes.settle(&BTreeSet::new()).await?;
    let answered = timeout(ANSWER, home.control.seek(args.device)).await;
    home.close().await;
    let sighted = match answered {
        Ok(Ok(sighted)) => sighted,
        Ok(Err(RequestError::Refused(refused))) => {
            let code = refused.reason().as_str_name();
            return Err(Failure::new(Exit::Error, code, refused.text));
        }
        Ok(Err(RequestError::Lost)) | Err(_) => {
            let line = "the relay has not said whether the device is there; try again";
            return Err(Failure::new(Exit::Offline, "RELAY_LOST", line));
        }
    };
    if args.json {
        print_data(&answer_json(args.device, &sighted).to_string())?;
    } else if sighted.is_online {
        print_data(&online(&sighted))?;
    }
    if sighted.is_online {
        Ok(Exit::Ok)
    } else {
        Err(Failure::new(
            Exit::Offline,
            "DEVICE_OFFLINE",
            offline(sighted.seen_ms_ago),
        ))
    }
}

/// The relay's name, or what can be said of it.
fn relay(sighted: &Sighted) -> Option<String> {
    if !sighted.relay_name.is_empty() {
        return Some(sighted.relay_name.clone());
    }
    let id = <[u8; 32]>::try_from(&sighted.relay[..]).ok()?;
    Some(RelayId(id).to_string())
}

fn answer_json(device: DeviceId, sighted: &Sighted) -> Value {
    let id = <[u8; 32]>::try_from(&sighted.relay[..]).ok();
    json!({
        "v": 1, "event": "presence", "device": device.to_string(), "online": sighted.is_online,
        "relay": relay(sighted), "relay_id": id.map(|id| RelayId(id).to_string()),
        "agents": sighted.agents, "seen_ms_ago": sighted.seen_ms_ago,
    })
}

/// `online · at fra-1 · 2 agents`
fn online(sighted: &Sighted) -> String {
    let agents = match sighted.agents {
        1 => "1 agent".to_owned(),
        several => format!("{several} agents"),
    };
    let relay = relay(sighted).unwrap_or_else(|| "an unknown relay".into());
    format!("online · at {relay} · {agents}")
}

/// `the device is not online; last seen 3 h ago`
pub(crate) fn offline(seen_ms_ago: Option<u64>) -> String {
    match seen_ms_ago {
        Some(ms) => format!("the device is not online; last seen {}", ago(ms)),
        None => "the device is not online, and was not in the last seven days as far as the relays remember".into(),
    }
}

fn ago(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn it_is_said_in_the_unit_that_people_would_use() {
        for (seconds, said) in [
            (0, "0 s ago"),
            (59, "59 s ago"),
            (60, "1 min ago"),
            (3599, "59 min ago"),
            (3 * 3600 + 59, "3 h ago"),
            (47 * 3600, "47 h ago"),
            (48 * 3600, "2 days ago"),
        ] {
            assert_eq!(ago(seconds * 1000 + 999), said);
        }
    }

    #[test]
    fn a_relay_is_named_or_known_by_its_key() {
        let mut sighted = Sighted {
            is_online: true,
            seen_ms_ago: Some(0),
            agents: 2,
            relay: Bytes::from(vec![7; 32]),
            relay_name: "fra-1".into(),
        };
        assert_eq!(online(&sighted), "online · at fra-1 · 2 agents");
        (sighted.agents, sighted.relay_name) = (1, String::new());
        let id = RelayId([7; 32]);
        assert_eq!(online(&sighted), format!("online · at {id} · 1 agent"));
        let json = answer_json(DeviceId([1; 32]), &Sighted::default());
        assert_eq!(json["relay_id"], Value::Null);
        assert_eq!(json["seen_ms_ago"], Value::Null);
    }
}
