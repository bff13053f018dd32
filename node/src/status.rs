//! `remora status`: the relay, and the sessions on this computer. `remora preflight`.

/// A session answers whoever asks.
mod answer;
/// What a session tells of itself.
pub mod board;
/// What others on this computer want of a session.
pub mod order;
/// `remora ping`.
pub mod ping;
/// `remora sessions`, and what is done with a running one from elsewhere: `remora ask`, `chat`, `leave` …
pub mod running;

use serde_json::{Value, json};

use self::board::sessions;

use crate::{
    cli,
    config::File,
    control::unix_ms,
    error::{Exit, Failure},
    event::milliseconds,
    netcheck::{self, Listed, is_own},
    node::Node,
    path::survey,
    share::preflight,
    terminal::{self, console::print_data},
};

/// `remora status`
///
/// # Errors
/// The relay cannot be reached; the sessions are printed all the same.
pub async fn run(file: &File, args: cli::Status) -> Result<Exit, Failure> {
    let relays = file.relays(&args.common.relays.relay)?;
    let node = Node::at_nearest(&relays, terminal::options(&args.common)).await;
    let (sessions, mut near) = (sessions(), Vec::new());
    let report = match &node {
        Ok(node) => {
            let is_asked = !args.common.tcp.tcp_only;
            let nat = match is_asked {
                true => Some(survey::nat(&survey::observers(node.control())).await.nat()),
                false => None,
            };
            let (control, welcome) = (node.control(), &node.control().welcome);
            let is_own = welcome.observed_address.parse().is_ok_and(is_own);
            near = Listed::of(node);
            json!({
                "v": 1, "relay": {
                    "address": node.relay().host_port, "name": welcome.relay_name, "reachable": true,
                    "rtt_ms": milliseconds(control.rtt()), "observed_address": welcome.observed_address,
                    "transport": if node.is_by_tcp() { "tcp" } else { "udp" },
                    "realm": welcome.realm, "protocol": welcome.protocol, "udp": is_asked.then(|| !node.is_by_tcp()),
                    "nat": nat.map(|nat| netcheck::nat_name(&nat, is_own)),
                }, "relays": near.iter().map(Listed::json).collect::<Vec<_>>(), "sessions": sessions,
            })
        }
        Err(failure) => json!({
            "v": 1, "relay": {"address": relays[0].host_port, "reachable": false, "error": failure.code},
            "sessions": sessions,
        }),
    };
    if args.common.json {
        print_data(&report.to_string())?;
    } else {
        print_report(&report, &near, node.as_ref().err())?;
    }
    node?.close().await;
    Ok(Exit::Ok)
}

/// `remora preflight`
///
/// # Errors
/// The screen cannot be shared: with what to do first.
pub fn preflight(args: &cli::Preflight) -> Result<Exit, Failure> {
    let findings = preflight::preflight(None);
    let can_share = preflight::can_share(&findings);
    if args.json {
        let list: Vec<Value> = findings
            .iter()
            .map(|found| {
                json!({"what": found.what, "ok": found.ok, "optional": found.optional,
                       "detail": found.detail, "fix": found.fix})
            })
            .collect();
        print_data(&json!({"v": 1, "can_share": can_share, "findings": list}).to_string())?;
    } else {
        for found in &findings {
            let mark = if found.ok { "ok     " } else { "missing" };
            print_data(&format!(
                "{mark}  {}  {}  {}",
                found.what, found.detail, found.fix
            ))?;
        }
    }
    let missing = findings.iter().find(|found| !found.ok && !found.optional);
    match missing {
        Some(found) => Err(Failure::new(
            Exit::Error,
            "PREFLIGHT",
            format!(
                "this screen cannot be shared: {} is missing; {}",
                found.what, found.fix
            ),
        )),
        None => Ok(Exit::Ok),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("–")
}

/// In a word or two what is wrong with the relay; what to do about it is said after the report.
fn trouble(failure: &Failure) -> &'static str {
    match failure.code {
        "RELAY_KEY" => "answers with another key than its address says",
        "VERSION_MISMATCH" => "speaks another version of the protocol",
        "CLOCK_OFF" => "its clock and this computer's are far apart",
        _ if failure.exit == Exit::Offline => "not reachable",
        _ => "cannot be used",
    }
}

fn print_report(report: &Value, near: &[Listed], failure: Option<&Failure>) -> Result<(), Failure> {
    let relay = &report["relay"];
    match failure {
        Some(failure) => print_data(&format!(
            "relay {} · {}",
            text(relay, "address"),
            trouble(failure)
        ))?,
        None => print_data(&format!(
            "relay {} at {} · {:.1} ms · {} · nat: {} · seen as {} · realm {}",
            text(relay, "name"),
            text(relay, "address"),
            relay["rtt_ms"].as_f64().unwrap_or_default(),
            match text(relay, "transport") {
                "tcp" => "by tcp",
                _ => "udp ok",
            },
            relay["nat"].as_str().unwrap_or("not asked"),
            text(relay, "observed_address"),
            text(relay, "realm"),
        ))?,
    }
    for line in Listed::lines(near) {
        print_data(&line)?;
    }
    let sessions = report["sessions"].as_array();
    print_sessions(sessions.map(Vec::as_slice).unwrap_or_default())
}

fn print_sessions(sessions: &[Value]) -> Result<(), Failure> {
    if sessions.is_empty() {
        return print_data("no session on this computer");
    }
    for session in sessions {
        print_data(&session_line(session))?;
    }
    Ok(())
}

/// `Maria Lopez  view  as helper  direct 203.0.113.7:41641 (8 ms)  tx 4.1 MB  rx 212.0 MB  2:14  pid 4711  session NAME`, and what is asked
fn session_line(session: &Value) -> String {
    let number = |key: &str| session[key].as_u64().unwrap_or_default();
    let seconds = unix_ms().saturating_sub(number("since_unix_ms")) / 1000;
    let why = session["why_relayed"].as_str();
    let why = why.map(|why| format!(", {why}")).unwrap_or_default();
    let [sent, received] = ["bytes_sent", "bytes_received"].map(|key| size(number(key)));
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    let asked = session["question"].as_str();
    let asked = asked.map(|asked| format!("  asked: {asked}"));
    let asked = asked.unwrap_or_default();
    format!(
        "{}  {}  as {}  {}{why}  tx {sent}  rx {received}  {minutes}:{seconds:02}  pid {}  session {}{asked}",
        text(session, "peer"),
        text(session, "mode"),
        text(session, "role"),
        text(session, "path"),
        session["pid"],
        text(session, "session"),
    )
}

/// `999 B`, `4.1 MB`
fn size(bytes: u64) -> String {
    let mut tenths = u128::from(bytes) * 10;
    for unit in ["B", "kB", "MB", "GB"] {
        if tenths < 10_000 {
            let whole = if unit == "B" {
                String::new()
            } else {
                format!(".{}", tenths % 10)
            };
            return format!("{}{whole} {unit}", tenths / 10);
        }
        tenths /= 1000;
    }
    format!("{}.{} TB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_said_in_their_unit() {
        for (bytes, said) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (4_149_999, "4.1 MB"),
            (212_000_000, "212.0 MB"),
            (999_999_999, "999.9 MB"),
            (1_000_000_000, "1.0 GB"),
            (7_000_000_000_000, "7.0 TB"),
        ] {
            assert_eq!(size(bytes), said);
        }
    }
}
