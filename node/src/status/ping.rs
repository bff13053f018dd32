//! `remora ping`: the way and the round trip of a running session on this computer, as the session itself measures them, a line a
//! second until packets go directly.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::{board::sessions, text};
use crate::{
    cli,
    error::{Exit, Failure},
    terminal::console::print_data,
};

/// As often as a session measures.
const BETWEEN: Duration = Duration::from_secs(1);

/// `remora ping`
///
/// # Errors
/// There is no such session, or it has ended meanwhile.
pub async fn run(args: cli::Ping) -> Result<Exit, Failure> {
    let pid = choose(&sessions(), args.session.as_deref())?;
    let mut ticks = interval(BETWEEN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pongs = 0;
    while args.count.is_none_or(|count| pongs < count) {
        ticks.tick().await;
        let session = sessions()
            .into_iter()
            .find(|session| session["pid"] == pid)
            .ok_or_else(|| Failure::new(Exit::Offline, "SESSION_ENDED", "the session has ended"))?;
        pongs += 1;
        print_data(&if args.json {
            object(&session, pongs).to_string()
        } else {
            line(&session)
        })?;
        if session["way"] == "direct" {
            break;
        }
    }
    Ok(Exit::Ok)
}

/// The process of the session that is meant: by its number, or by the other person's name or a part of it.
fn choose(sessions: &[Value], named: Option<&str>) -> Result<Value, Failure> {
    let wanted = named.map(str::to_lowercase);
    let is_meant = |session: &&Value| {
        wanted.as_ref().is_none_or(|wanted| {
            let peer = text(session, "peer").to_lowercase();
            let is_number = |number: u64| session["pid"] == number;
            peer.contains(wanted) || wanted.parse().is_ok_and(is_number)
        })
    };
    let meant: Vec<&Value> = sessions.iter().filter(is_meant).collect();
    match (&meant[..], named) {
        ([session], _) => Ok(session["pid"].clone()),
        ([], None) => Err(Failure::new(
            Exit::Error,
            "NO_SESSION",
            "there is no session on this computer whose way could be measured; see `remora netcheck` for the network alone",
        )),
        ([], Some(named)) => Err(Failure::new(
            Exit::Error,
            "NO_SESSION",
            format!("no session on this computer is with {named:?}; `remora status` lists them"),
        )),
        (several, _) => {
            let list: Vec<String> = several
                .iter()
                .map(|session| format!("{} ({})", text(session, "peer"), session["pid"]))
                .collect();
            let list = list.join(", ");
            let line = format!("which session: {list}? Give a name or a number");
            Err(Failure::new(Exit::Usage, "SEVERAL_SESSIONS", line))
        }
    }
}

/// `pong from Maria Lopez via relay(fra-1) in 31 ms (PROBING)`
fn line(session: &Value) -> String {
    let way = match session["address"].as_str() {
        Some(address) => address.to_owned(),
        None => format!("relay({})", text(session, "relay")),
    };
    let why = session["why_relayed"].as_str();
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    let rtt_ms = session["rtt_ms"].as_f64().unwrap_or_default();
    let peer = text(session, "peer");
    format!("pong from {peer} via {way} in {rtt_ms:.0} ms{why}")
}

fn object(session: &Value, number: u64) -> Value {
    let mut pong = json!({"v": 1, "event": "pong", "number": number});
    for field in [
        "peer",
        "pid",
        "way",
        "relay",
        "address",
        "rtt_ms",
        "why_relayed",
    ] {
        pong[field] = session[field].clone();
    }
    pong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_meant_by_name_by_number_or_by_being_the_only_one() {
        let session = |pid: u64, peer: &str| json!({"pid": pid, "peer": peer});
        let two = [session(71, "Maria Lopez"), session(9, "Zoë Maria")];
        let code = |sessions: &[Value], named| choose(sessions, named).expect_err("none").code;
        assert_eq!(choose(&two, Some("lopez")).expect("one"), 71);
        assert_eq!(choose(&two, Some("ZOË")).expect("one"), 9);
        assert_eq!(choose(&two, Some("9")).expect("one"), 9);
        assert_eq!(choose(&two[..1], None).expect("one"), 71);
        assert_eq!(code(&two, Some("maria")), "SEVERAL_SESSIONS");
        assert_eq!(code(&two, None), "SEVERAL_SESSIONS");
        assert_eq!(code(&two, Some("7")), "NO_SESSION");
        assert_eq!(code(&[], None), "NO_SESSION");
    }
}
