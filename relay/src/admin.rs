//! Probes, metrics and what an operator can do, on a port of their own that nodes never see.
//!
//! ```text
//! GET  /livez /readyz /metrics    anybody who reaches the port
//! GET  /drain                     with the token: {"state", "sessions", "cut_off", "deadline_ms"}
//! POST /drain                     begins to drain, and answers the same
//! GET  /drained                   the same, as soon as nothing is left to wait for
//! ```

// What an operator can count.
pub mod metrics;
// What whoever may do something presents.
pub mod token;

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    routing,
};
use prometheus::{Registry, TextEncoder};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use self::metrics::{Metrics, SessionEnd};
use crate::{config::Live, datapath::table::Table, drain, rendezvous::Rendezvous};

/// What the admin port reads.
#[derive(Clone)]
pub struct Admin {
    /// Everything counted.
    pub registry: Registry,
    /// To set what is measured only when somebody asks.
    pub metrics: Arc<Metrics>,
    /// For the number of codes and devices.
    pub rendezvous: Arc<dyn Rendezvous>,
    /// For the sessions that are held back.
    pub table: Arc<Table>,
    /// Where the relay is in its life; `None` while it starts.
    pub life: watch::Receiver<Option<drain::State>>,
    /// Begins to drain.
    pub drain: CancellationToken,
    /// The token that is presented by who may; without one, nobody may.
    pub live: watch::Receiver<Live>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin")
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

/// Binds the admin port.
///
/// # Errors
/// What the system said about the port.
pub fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Serves until `closing`.
///
/// # Errors
/// When the listener is broken.
pub async fn serve(
    listener: TcpListener,
    admin: Admin,
    closing: CancellationToken,
) -> io::Result<()> {
    let router = Router::new()
        .route("/livez", routing::get(async || "ok\n"))
        .route("/readyz", routing::get(readyz))
        .route("/metrics", routing::get(metrics))
        .route("/drain", routing::get(drain_facts).post(begin_drain))
        .route("/drained", routing::get(drained))
        .with_state(admin);
    // Not graceful: a probe that keeps its connection open must not keep a relay that is done.
    tokio::select! {
        result = async { axum::serve(listener, router).await } => result,
        () = closing.cancelled() => Ok(()),
    }
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    let life = *admin.life.borrow();
    match life {
        None => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Some(drain::State::Serving) => (StatusCode::OK, "ok\n"),
        Some(drain::State::Draining { .. }) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        Some(drain::State::Done) => (StatusCode::SERVICE_UNAVAILABLE, "drained\n"),
    }
}

/// JSON, or why not.
type Told = Result<([(header::HeaderName, &'static str); 1], String), (StatusCode, &'static str)>;

const NO_TOKEN: &str = "this relay has no admin token; start it with --admin-token-file FILE\n";
const WRONG_TOKEN: &str = "send this relay's admin token: `Authorization: Bearer TOKEN`\n";
const ENDED: &str = "the relay has ended\n";

/// Whoever is not let in learns nothing but how one would be.
fn authorize(admin: &Admin, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    let live = admin.live.borrow();
    let token = live.admin_token.as_ref();
    let token = token.ok_or((StatusCode::FORBIDDEN, NO_TOKEN))?;
    let presented = headers.get(header::AUTHORIZATION);
    let presented = presented.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if !presented.is_some_and(|presented| token.is(presented)) {
        return Err((StatusCode::UNAUTHORIZED, WRONG_TOKEN));
    }
    Ok(())
}

fn facts(admin: &Admin) -> Told {
    let (state, deadline) = match *admin.life.borrow() {
        None => ("starting", None),
        Some(drain::State::Serving) => ("serving", None),
        Some(drain::State::Draining { deadline }) => ("draining", Some(deadline)),
        Some(drain::State::Done) => ("drained", None),
    };
    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
    let facts = serde_json::json!({
        "state": state,
        "sessions": admin.metrics.sessions.get(),
        "cut_off": admin.metrics.session_ends(SessionEnd::Drained),
        "deadline_ms": left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
    });
    Ok((
        [(header::CONTENT_TYPE, "application/json")],
        format!("{facts}\n"),
    ))
}

/// Waits for a state of its life.
async fn reached(admin: &Admin, is_it: impl Fn(drain::State) -> bool) -> Told {
    let mut life = admin.life.clone();
    let reached = life.wait_for(|life| life.is_some_and(&is_it)).await.is_ok();
    if !reached {
        return Err((StatusCode::SERVICE_UNAVAILABLE, ENDED));
    }
    facts(admin)
}

async fn drain_facts(State(admin): State<Admin>, headers: HeaderMap) -> Told {
    authorize(&admin, &headers)?;
    facts(&admin)
}

async fn begin_drain(State(admin): State<Admin>, headers: HeaderMap) -> Told {
    authorize(&admin, &headers)?;
    tracing::info!(
        sessions = admin.metrics.sessions.get(),
        "told by the admin port to drain"
    );
    admin.drain.cancel();
    reached(&admin, |state| state != drain::State::Serving).await
}

async fn drained(State(admin): State<Admin>, headers: HeaderMap) -> Told {
    authorize(&admin, &headers)?;
    reached(&admin, |state| state == drain::State::Done).await
}

async fn metrics(
    State(admin): State<Admin>,
) -> Result<([(&'static str, &'static str); 1], String), StatusCode> {
    let metrics = &admin.metrics;
    let is_ready = *admin.life.borrow() == Some(drain::State::Serving);
    metrics.ready.set(is_ready.into());
    metrics.measure(&*admin.rendezvous, &admin.table, Instant::now());
    let text = TextEncoder::new().encode_to_string(&admin.registry.gather());
    let text = text.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([("content-type", prometheus::TEXT_FORMAT)], text))
}
