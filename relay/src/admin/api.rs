//! `/v1`: what an operator's programs read, and the one thing they do. Every answer is one JSON object with `"v": 1`; what is added
//! later has new names.
//!
//! ```text
//! GET  /v1/relay                      this relay: who it is, its state, how much it does
//! GET  /v1/relays                     this relay and those it knows by the mesh
//! GET  /v1/sessions?after=ID          its sessions, 1,000 a page; `next` is where the next page begins
//! POST /v1/sessions/ID/end            ends one: {"reason": TEXT}; its two people read that
//! GET  /v1/doctor                     what was looked at, and what is wrong
//! GET  /v1/bugreport                  all that, the metrics and the last lines of the log, as text
//! ```
//!
//! Of a session an operator sees how much it carries and by what kind of way, so as to find the one that is too much and end it. Who
//! the two are, their keys, addresses and codes are not here: the relay's part is to carry what it cannot read, and a list of who helps
//! whom would be worth stealing. The id is what the log calls the session; nobody can do anything with it but at this port.

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, RawQuery, State},
    http::StatusCode,
    response::Response,
    routing,
};
use remora_proto::{id::SessionId, line::Why};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    Admin, May,
    bugreport::Report,
    problem::{self, Problem, told},
};
use crate::{
    control::orders::{Facts, NotOne, Order, Prefix},
    health::{Finding, Verdict},
};

/// Sessions of one answer: some 300 KiB.
const PAGE: usize = 1000;
/// A reason is a line.
const MAX_BODY_BYTES: usize = 4096;

/// What there is below `/v1`.
pub(super) fn router() -> Router<Admin> {
    Router::new()
        .route("/v1/relay", routing::get(relay))
        .route("/v1/relays", routing::get(relays))
        .route("/v1/sessions", routing::get(sessions))
        .route("/v1/sessions/{id}/end", routing::post(end))
        .route("/v1/doctor", routing::get(doctor))
        .route("/v1/bugreport", routing::get(bugreport))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

fn ok(body: &Value) -> Response {
    told(StatusCode::OK, body)
}

async fn relay(_: May, State(admin): State<Admin>) -> Response {
    let mut facts = admin.life_facts();
    let pace = *admin.pace.borrow();
    let about = &admin.about;
    let more = json!({
        "v": 1,
        "name": about.name,
        "realm": about.realm,
        "id": about.address.id.to_string(),
        "address": about.address.to_string(),
        "version": env!("CARGO_PKG_VERSION"),
        "commit": env!("REMORA_COMMIT"),
        "up_seconds": about.since.elapsed().as_secs(),
        "nodes": admin.metrics.nodes_connected.get(),
        "forwarded_bytes_per_s": pace.forwarded_bytes_per_s.round(),
        "processors": (pace.processors * 1e3).round() / 1e3,
    });
    if let (Value::Object(facts), Value::Object(more)) = (&mut facts, more) {
        facts.extend(more);
    }
    ok(&facts)
}

async fn relays(_: May, State(admin): State<Admin>) -> Response {
    let about = &admin.about;
    let itself = json!({
        "name": about.name,
        "id": about.address.id.to_string(),
        "address": about.address.host_port,
        "state": "here",
    });
    let outlook = admin.mesh.outlook().borrow().clone();
    let neighbours = admin.mesh.neighbours().borrow().clone();
    let others = neighbours.0.iter().map(|(id, neighbour)| {
        json!({
            "name": neighbour.name,
            "id": id.to_string(),
            "address": neighbour.place().or_else(|| neighbour.advertised.clone()),
            // Not heard by UDP: no session goes by way of it.
            "state": if neighbour.leg.is_some() { "in_touch" } else { "unheard" },
            "clock_ahead_ms": outlook.ahead_ms.get(id),
        })
    });
    let all: Vec<Value> = std::iter::once(itself).chain(others).collect();
    ok(&json!({"v": 1, "relays": all}))
}

async fn sessions(
    _: May,
    RawQuery(query): RawQuery,
    State(admin): State<Admin>,
) -> Result<Response, Problem> {
    let after = match query.as_deref().unwrap_or_default() {
        "" => SessionId(0),
        query => {
            let id = query.strip_prefix("after=").and_then(Prefix::parse);
            id.ok_or(problem::MALFORMED)?.last
        }
    };
    let (answer, answered) = oneshot::channel();
    let order = Order::List {
        after,
        most: PAGE,
        answer,
    };
    let listing = admin.order(order, answered).await?;
    let next = listing.sessions.get(PAGE - 1);
    Ok(ok(&json!({
        "v": 1,
        "relay": admin.about.name,
        "total": listing.total,
        "sessions": listing.sessions.iter().map(session).collect::<Vec<_>>(),
        "next": next.map(|last| last.session.to_string()),
    })))
}

fn session(facts: &Facts) -> Value {
    let [host, joiner] = &facts.sides;
    let side = |side: &crate::control::orders::SideFacts| {
        json!({
            "way": side.way.label(),
            "sent_bytes": side.sent.bytes,
            "sent_frames": side.sent.frames,
        })
    };
    json!({
        "id": facts.session.to_string(),
        "seconds": facts.age.as_secs(),
        "host": side(host),
        "joiner": side(joiner),
        "rate_limited": facts.is_held_back,
    })
}

async fn end(
    _: May,
    Path(id): Path<String>,
    State(admin): State<Admin>,
    body: Bytes,
) -> Result<Response, Problem> {
    let session = Prefix::parse(&id).ok_or(problem::MALFORMED)?;
    let why = reason(&body).ok_or(problem::MALFORMED)?;
    let (answer, answered) = oneshot::channel();
    let order = Order::End {
        session,
        why,
        answer,
    };
    match admin.order(order, answered).await? {
        Ok(session) => {
            // Not the words: they are for the two.
            tracing::info!(%session, "an operator has ended a session");
            Ok(ok(
                &json!({"v": 1, "event": "session_ended", "session": session.to_string()}),
            ))
        }
        Err(NotOne::None) => Err(problem::NO_SESSION),
        Err(NotOne::Several) => Err(problem::SEVERAL_SESSIONS),
    }
}

/// The operator's words; none are a mistake.
fn reason(body: &[u8]) -> Option<Why> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let words = body.get("reason")?.as_str()?.trim();
    (!words.is_empty()).then(|| words.parse().ok()).flatten()
}

async fn doctor(_: May, State(admin): State<Admin>) -> Response {
    let mut findings = findings(&admin.health.look());
    findings["relay"] = admin.about.name.as_str().into();
    ok(&findings)
}

async fn bugreport(_: May, State(admin): State<Admin>) -> String {
    let mut report = Report::new();
    report.add("relay", &format!("{:#}\n", admin.life_facts()));
    report.add("settings", &admin.standing.borrow().shown);
    report.add_findings(&admin.health.look());
    report.add("metrics", &admin.metrics_text().unwrap_or_default());
    report.add("log", &admin.about.recent.text());
    report.into_text()
}

/// For scripts: `ok` is whether nothing is wrong at all.
pub fn findings(found: &[Finding]) -> Value {
    let shown = found.iter().map(|finding| {
        json!({
            "what": finding.what.label(),
            "verdict": finding.verdict.label(),
            "text": finding.text,
        })
    });
    let is_fine = found.iter().all(|finding| finding.verdict == Verdict::Fine);
    json!({"v": 1, "event": "doctor", "ok": is_fine, "findings": shown.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_a_line_of_text() {
        let said = |body: &str| reason(body.as_bytes()).map(|why| why.as_str().to_owned());
        assert_eq!(
            said(r#"{"reason": " wrong device "}"#),
            Some("wrong device".into())
        );
        for none in [
            "",
            "{}",
            "[]",
            r#"{"reason": ""}"#,
            r#"{"reason": 7}"#,
            r#"{"reason": "two\nlines"}"#,
            r#"{"reason": "\u001b[31mred"}"#,
        ] {
            assert_eq!(said(none), None, "{none}");
        }
        let long = format!(r#"{{"reason": "{}"}}"#, "x".repeat(129));
        assert_eq!(said(&long), None);
    }
}
