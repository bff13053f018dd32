//! What operators ask of all their relays at once: each answers for itself, and one that is not reached has a row that says so.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::port::{ANSWER_TIMEOUT, NO_SUCH_SESSION, Port};
use crate::{
    error::{Exit, Failure},
    terminal::console::{print_data, print_note},
};

/// What each relay answered, by the port it was asked at.
pub(super) type Answers = Vec<(String, Result<Value, Failure>)>;

/// Asks all of them, beside each other.
pub(super) async fn ask_all(ports: &[Port], path: &str) -> Answers {
    let asked = ports.iter().map(async |port| {
        let answer = port.ask("GET", path, "", ANSWER_TIMEOUT).await;
        (port.url.host_port.clone(), answer)
    });
    join_all(asked).await
}

/// The worst of what went wrong; all are told of before.
fn exit(answers: &Answers) -> Exit {
    let failures = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().err());
    failures
        .map(|failure| failure.exit)
        .max()
        .unwrap_or(Exit::Ok)
}

/// For scripts: what was answered, under a name; or why nothing was.
fn told(answers: &Answers) -> Vec<Value> {
    let one = |(at, answer): &(String, Result<Value, Failure>)| match answer {
        Ok(answer) => {
            let mut answer = answer.clone();
            answer["admin"] = at.as_str().into();
            answer
        }
        Err(failure) => json!({
            "admin": at,
            "error": {"code": failure.code, "text": failure.line},
        }),
    };
    answers.iter().map(one).collect()
}

/// `remora admin relays`
pub(super) async fn relays(ports: &[Port], json: bool) -> Result<Exit, Failure> {
    let answers = ask_all(ports, "/v1/relay").await;
    if json {
        let relays = told(&answers);
        print_data(&json!({"v": 1, "event": "relays", "relays": relays}).to_string())?;
    } else {
        let rows: Vec<Row> = answers.iter().map(relay_row).collect();
        print_table(&rows, RELAY_HEAD)?;
    }
    Ok(exit(&answers))
}

/// Cells, and what follows them.
type Row = (Vec<String>, String);

const RELAY_HEAD: &[&str] = &[
    "NAME",
    "STATE",
    "SESSIONS",
    "NODES",
    "RELAYED Mb/s",
    "CPU",
    "VERSION",
];

fn relay_row((at, answer): &(String, Result<Value, Failure>)) -> Row {
    let relay = match answer {
        Ok(relay) => relay,
        Err(failure) => {
            let state = match failure.exit {
                Exit::Offline | Exit::TimedOut => "unreachable",
                // There, and does not say what it does: to us, or at all.
                Exit::NotPermitted => "refuses",
                Exit::Ok | Exit::Error | Exit::Usage | Exit::Declined | Exit::Verification => "?",
            };
            let cells = [at.as_str(), state].map(str::to_owned).to_vec();
            return (cells, failure.line.clone());
        }
    };
    let text = |name: &str| line(relay[name].as_str().unwrap_or("?"));
    let number = |name: &str| relay[name].as_u64().unwrap_or_default().to_string();
    let megabits = relay["forwarded_bytes_per_s"].as_f64().unwrap_or_default() * 8.0 / 1e6;
    let percent = relay["processors"].as_f64().unwrap_or_default() * 100.0;
    let eta = relay["deadline_ms"].as_u64();
    let state = match text("state").as_str() {
        "serving" => "ready".to_owned(),
        state => state.to_owned(),
    };
    let cells = vec![
        text("name"),
        state,
        number("sessions"),
        number("nodes"),
        format!("{megabits:.1}"),
        format!("{percent:.0}%"),
        text("version"),
    ];
    let eta = eta.map(|ms| format!("eta {} s at most", ms.div_ceil(1000)));
    (cells, eta.unwrap_or_default())
}

/// `remora admin sessions`
pub(super) async fn sessions(ports: &[Port], json: bool) -> Result<Exit, Failure> {
    let asked = ports.iter().map(async |port| {
        let answer = all_sessions(port).await;
        (port.url.host_port.clone(), answer)
    });
    let answers: Answers = join_all(asked).await;
    if json {
        let relays = told(&answers);
        print_data(&json!({"v": 1, "event": "sessions", "relays": relays}).to_string())?;
        return Ok(exit(&answers));
    }
    let mut rows = Vec::new();
    for (at, answer) in &answers {
        match answer {
            Ok(answer) => {
                let sessions = answer["sessions"].as_array().into_iter().flatten();
                let relay = name(at, answer);
                rows.extend(sessions.map(|session| session_row(&relay, session)));
            }
            Err(failure) => rows.push((vec![at.clone()], failure.line.clone())),
        }
    }
    print_table(&rows, SESSION_HEAD)?;
    Ok(exit(&answers))
}

/// Page by page.
async fn all_sessions(port: &Port) -> Result<Value, Failure> {
    let mut all = Vec::new();
    let mut path = "/v1/sessions".to_owned();
    loop {
        let page = port.ask("GET", &path, "", ANSWER_TIMEOUT).await?;
        all.extend(page["sessions"].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            // A relay that never comes to an end is none.
            Some(next) if all.len() < MAX_SESSIONS => path = format!("/v1/sessions?after={next}"),
            Some(_) | None => {
                let (relay, total) = (&page["relay"], &page["total"]);
                return Ok(json!({"v": 1, "relay": relay, "total": total, "sessions": all}));
            }
        }
    }
}

/// As many as a relay may have.
const MAX_SESSIONS: usize = 1_000_000;

const SESSION_HEAD: &[&str] = &[
    "ID", "RELAY", "TIME", "HOST", "SENT MB", "JOINER", "SENT MB", "",
];

/// As the relay calls itself, which `remora admin drain` takes, too; one of a version that does not say is where it is.
fn name(at: &str, answer: &Value) -> String {
    answer["relay"].as_str().map_or_else(|| at.to_owned(), line)
}

fn session_row(relay: &str, session: &Value) -> Row {
    let text = |value: &Value| line(value.as_str().unwrap_or("?"));
    let megabytes = |side: &Value| {
        let bytes = side["sent_bytes"].as_f64().unwrap_or_default();
        format!("{:.1}", bytes / 1e6)
    };
    let seconds = session["seconds"].as_u64().unwrap_or_default();
    let time = format!(
        "{}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    let (host, joiner) = (&session["host"], &session["joiner"]);
    let cells = vec![
        text(&session["id"]),
        relay.to_owned(),
        time,
        text(&host["way"]),
        megabytes(host),
        text(&joiner["way"]),
        megabytes(joiner),
    ];
    let held_back = session["rate_limited"].as_bool() == Some(true);
    let note = if held_back { "rate-limited" } else { "" };
    (cells, note.to_owned())
}

/// `remora admin session end`: at whichever relay has it.
pub(super) async fn end(
    ports: &[Port],
    id: &str,
    reason: &str,
    json: bool,
) -> Result<Exit, Failure> {
    let is_id = id.bytes().all(|byte| byte.is_ascii_hexdigit()) && (4..=16).contains(&id.len());
    if !is_id {
        let line = format!(
            "{id:?} is no session's id; `remora admin sessions` shows them, and their first 4 letters are enough"
        );
        return Err(Failure::new(Exit::Usage, "USAGE", line));
    }
    let body = json!({"reason": reason}).to_string();
    let path = format!("/v1/sessions/{id}/end");
    let mut failed = None;
    for port in ports {
        match port.ask("POST", &path, &body, ANSWER_TIMEOUT).await {
            Ok(mut ended) => {
                ended["admin"] = port.url.host_port.as_str().into();
                print_data(&if json {
                    ended.to_string()
                } else {
                    let session = line(ended["session"].as_str().unwrap_or(id));
                    format!("ended: session {session}; its two people read why")
                })?;
                return Ok(Exit::Ok);
            }
            Err(failure) => {
                // That one is not reached says more than that another has it not.
                if failed
                    .as_ref()
                    .is_none_or(|failed: &Failure| failed.code == NO_SUCH_SESSION)
                {
                    failed = Some(failure);
                }
            }
        }
    }
    Err(failed.unwrap_or_else(|| Failure::new(Exit::Usage, "USAGE", "no relay is named")))
}

/// `remora admin doctor`: exit code 1 where a relay does not serve.
pub(super) async fn doctor(ports: &[Port], json: bool) -> Result<Exit, Failure> {
    let answers = ask_all(ports, "/v1/doctor").await;
    if json {
        let relays = told(&answers);
        print_data(&json!({"v": 1, "event": "doctor", "relays": relays}).to_string())?;
    } else {
        for (at, answer) in &answers {
            match answer {
                Ok(answer) => {
                    print_data(&format!("{} at {at}", name(at, answer)))?;
                    for finding in answer["findings"].as_array().into_iter().flatten() {
                        let text = |name: &str| line(finding[name].as_str().unwrap_or("?"));
                        let (verdict, what) = (text("verdict"), text("what"));
                        print_data(&format!("  {verdict:<8} {what:<12} {}", text("text")))?;
                    }
                }
                Err(failure) => {
                    print_data(at)?;
                    print_data(&format!("  fault    {}: {}", failure.code, failure.line))?;
                }
            }
        }
    }
    let has_fault = |answer: &Value| {
        let findings = answer["findings"].as_array().into_iter().flatten();
        findings
            .clone()
            .any(|finding| finding["verdict"] == "fault")
    };
    let is_bad = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok())
        .any(has_fault);
    let exit = exit(&answers);
    Ok(if exit == Exit::Ok && is_bad {
        Exit::Error
    } else {
        exit
    })
}

/// `remora admin bugreport`
pub(super) async fn bugreport(ports: &[Port], json: bool) -> Result<Exit, Failure> {
    let mut worst = Exit::Ok;
    let mut reports = Vec::new();
    for port in ports {
        let at = &port.url.host_port;
        let text = port
            .ask_for_text("GET", "/v1/bugreport", "", ANSWER_TIMEOUT)
            .await;
        match text {
            Ok(text) if json => reports.push(json!({"admin": at, "text": text})),
            Ok(text) => print_data(&format!("##### {at} #####\n{}", text.trim_end()))?,
            Err(failure) => {
                worst = worst.max(failure.exit);
                if json {
                    let error = json!({"code": failure.code, "text": failure.line});
                    reports.push(json!({"admin": at, "error": error}));
                } else {
                    print_note(&format!("{at}: {}: {}", failure.code, failure.line))?;
                }
            }
        }
    }
    if json {
        print_data(&json!({"v": 1, "event": "bugreport", "relays": reports}).to_string())?;
    }
    Ok(worst)
}

/// What a relay says, as a part of one line.
fn line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Columns as wide as what stands in them; no spaces at the end.
fn print_table(rows: &[Row], head: &[&str]) -> Result<(), Failure> {
    let head = (
        head.iter().map(ToString::to_string).collect(),
        String::new(),
    );
    let all: Vec<&Row> = std::iter::once(&head).chain(rows).collect();
    for row in table(&all) {
        print_data(&row)?;
    }
    Ok(())
}

fn table(rows: &[&Row]) -> Vec<String> {
    let columns = rows.iter().map(|(cells, _)| cells.len()).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|(cells, _)| cells.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let row = |(cells, note): &&Row| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}"));
        let mut parts: Vec<String> = padded.collect();
        parts.push(note.clone());
        parts.join("  ").trim_end().to_owned()
    };
    rows.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_has_a_row_whether_it_answers_or_not() {
        let serving = json!({
            "name": "fra-1\u{1b}[2J", "state": "serving", "sessions": 412, "nodes": 900, "forwarded_bytes_per_s": 39_750_000.0,
            "processors": 0.371, "version": "1.2.0", "deadline_ms": null,
        });
        let draining = json!({
            "name": "ams-1", "state": "draining", "sessions": 17, "nodes": 40, "forwarded_bytes_per_s": 1_500_000.0,
            "processors": 0.05, "version": "1.1.9", "deadline_ms": 13_200,
        });
        let gone = Failure::new(Exit::Offline, "ADMIN_OFFLINE", "connection refused");
        let closed = Failure::new(Exit::NotPermitted, "NOT_PERMITTED", "not its token");
        let answers: Answers = vec![
            ("a:9090".into(), Ok(serving)),
            ("b:9090".into(), Ok(draining)),
            ("c:9090".into(), Err(gone)),
            ("d:9090".into(), Err(closed)),
        ];
        let rows: Vec<Row> = answers.iter().map(relay_row).collect();
        let shown = table(&rows.iter().collect::<Vec<_>>());
        assert_eq!(
            shown,
            [
                "fra-1[2J  ready        412  900  318.0  37%  1.2.0",
                "ams-1     draining     17   40   12.0   5%   1.1.9  eta 14 s at most",
                "c:9090    unreachable  connection refused",
                "d:9090    refuses      not its token",
            ]
        );
        assert_eq!(exit(&answers), Exit::NotPermitted);
        let told = told(&answers);
        assert_eq!(told[2]["error"]["code"], "ADMIN_OFFLINE");
        assert_eq!(told[0]["admin"], "a:9090");
    }
}
