//! `remora ping`: the way and the round trip of a running session on this computer, measured for each line, a line a second until
//! packets go directly, or it is clear that they will not.

use std::time::Duration;

use remora_proto::path::machine::WhyRelayed;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    answer::ask,
    board::{choose, sessions},
    order::Order,
    text,
};
use crate::{
    cli,
    error::{Exit, Failure},
    event::about,
    terminal::console::print_data,
};

/// Between two measurements: what a person reads.
const BETWEEN: Duration = Duration::from_secs(1);

/// `remora ping`
///
/// # Errors
/// There is no such session, it has ended meanwhile, or the other computer has answered nothing.
pub async fn run(args: cli::Ping) -> Result<Exit, Failure> {
    let (pid, _) = choose(&sessions(), args.session.as_deref())?;
    let mut ticks = interval(BETWEEN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut asked, mut answered) = (0, 0);
    while args.count.is_none_or(|count| asked < count) {
        ticks.tick().await;
        let way = ask(pid, &Order::Measure).await;
        // Not before: it may have ended instead of answering.
        let session = sessions()
            .into_iter()
            .find(|session| session["pid"] == pid)
            .ok_or_else(|| Failure::new(Exit::Offline, "SESSION_ENDED", "the session has ended"))?;
        asked += 1;
        answered += u64::from(way.is_some());
        print_data(&if args.json {
            object(&session, way.as_ref(), asked).to_string()
        } else {
            line(&session, way.as_ref())
        })?;
        let Some(way) = way else { continue };
        if way["path"] == "direct" {
            return Ok(Exit::Ok);
        }
        if args.count.is_none()
            && let Some(why) = in_vain(&way)
        {
            if !args.json {
                print_data(&format!(
                    "no direct path is looked for ({}); `--count N` measures on",
                    why.name()
                ))?;
            }
            return Ok(Exit::Ok);
        }
    }
    if answered == 0 {
        let line = "the other computer has not answered; the session ends by itself if that lasts";
        return Err(Failure::new(Exit::TimedOut, "NO_ANSWER", line));
    }
    Ok(Exit::Ok)
}

/// Why nobody has to wait for a direct path, if that is so.
fn in_vain(way: &Value) -> Option<WhyRelayed> {
    let settled = [
        WhyRelayed::PolicyRelayOnly,
        WhyRelayed::PeerRelayOnly,
        WhyRelayed::UdpBlocked,
        WhyRelayed::PeerUdpBlocked,
        WhyRelayed::BothSymmetric,
    ];
    settled
        .into_iter()
        .find(|why| way["why_relayed"] == why.name())
}

/// `pong from Maria Lopez via relay(fra-1) in 31 ms (PROBING)`
fn line(session: &Value, way: Option<&Value>) -> String {
    let peer = text(session, "peer");
    let Some(way) = way else {
        return format!("no answer from {peer}");
    };
    let via = match (way["address"].as_str(), text(way, "transport")) {
        (Some(address), _) => address.to_owned(),
        (None, "tcp") => format!("relay({}) over TCP", text(way, "relay")),
        (None, _) => format!("relay({})", text(way, "relay")),
    };
    let why = way["why_relayed"].as_str();
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    let seconds = way["rtt_ms"].as_f64().unwrap_or_default() / 1e3;
    let rtt = about(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    format!("pong from {peer} via {via} in {rtt}{why}")
}

fn object(session: &Value, way: Option<&Value>, number: u64) -> Value {
    let event = if way.is_some() { "pong" } else { "no_pong" };
    let mut object = json!({
        "v": 1, "event": event, "number": number, "peer": session["peer"], "pid": session["pid"],
    });
    if let Some(way) = way {
        object["way"] = way["path"].clone();
        for field in ["relay", "address", "transport", "rtt_ms", "why_relayed"] {
            object[field] = way[field].clone();
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::PathSnapshot;

    #[test]
    fn a_pong_says_by_what_it_came_and_that_there_was_none() {
        let session = json!({"pid": 71, "peer": "Maria Lopez"});
        let path = |is_by_tcp| PathSnapshot {
            relay: "fra-1".into(),
            rtt: Duration::from_millis(31),
            is_by_tcp,
            ..PathSnapshot::default()
        };
        for (is_by_tcp, said, transport) in [
            (false, "relay(fra-1) in 31 ms", "udp"),
            (true, "relay(fra-1) over TCP in 31 ms", "tcp"),
        ] {
            let way = path(is_by_tcp).json();
            let line = line(&session, Some(&way));
            assert_eq!(line, format!("pong from Maria Lopez via {said}"));
            let pong = object(&session, Some(&way), 1);
            assert_eq!(
                (&pong["event"], &pong["transport"], &pong["rtt_ms"]),
                (&json!("pong"), &json!(transport), &json!(31.0))
            );
        }
        assert_eq!(line(&session, None), "no answer from Maria Lopez");
        let none = object(&session, None, 2);
        assert_eq!(
            none,
            json!({"v": 1, "event": "no_pong", "number": 2, "peer": "Maria Lopez", "pid": 71})
        );
    }

    #[test]
    fn nobody_waits_for_a_direct_path_that_nobody_looks_for() {
        let way = |why_relayed| {
            let path = PathSnapshot {
                why_relayed,
                ..PathSnapshot::default()
            };
            path.json()
        };
        let why = WhyRelayed::PeerRelayOnly;
        assert_eq!(in_vain(&way(Some(why))), Some(why));
        for may_change in [
            WhyRelayed::Probing,
            WhyRelayed::WentDark,
            WhyRelayed::Unreachable,
        ] {
            assert_eq!(in_vain(&way(Some(may_change))), None);
        }
        assert_eq!(in_vain(&way(None)), None);
    }
}
