//! Probes, metrics and what an operator can do, on a port of their own that nodes never see.
//!
//! ```text
//! GET  /livez /readyz /metrics    anybody who reaches the port
//! GET  /address                   where nodes find this relay, HOST:PORT/KEY: no secret, they all have it
//! GET  /drain                     with the token: {"state", "sessions", "cut_off", "deadline_ms"}
//! POST /drain                     begins to drain, and answers the same
//! GET  /drained                   the same, as soon as nothing is left to wait for
//!      /v1/…                      with the token: see [`api`]
//! ```
//!
//! With a certificate of its own the port speaks TLS, for all of these; see [`door`].

// What programs read.
pub mod api;
// All that is known, for whoever is to find out what is wrong.
pub mod bugreport;
// How one comes in.
pub mod door;
// What an operator can count.
pub mod metrics;
// How much it does.
pub mod pace;
// Why one gets nothing.
pub mod problem;
// What whoever may do something presents.
pub mod token;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{ConnectInfo, FromRequestParts, State},
    http::{StatusCode, header, request::Parts},
    response::Response,
    routing,
};
use prometheus::{Registry, TextEncoder};
use remora_proto::id::RelayAddr;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    time,
};
use tokio_util::sync::CancellationToken;

use self::{
    door::{Caller, Door},
    metrics::{Metrics, SessionEnd},
    pace::Pace,
    problem::{Problem, told},
};
use crate::{
    config::{Live, Standing},
    control::orders::Order,
    datapath::table::Table,
    drain,
    health::{self, Verdict},
    mesh::Mesh,
    recent::Recent,
    rendezvous::Rendezvous,
};

/// For the registry's answer, which it gives within a round.
const ORDER_TIMEOUT: Duration = Duration::from_secs(2);

/// What the admin port reads.
#[derive(Clone)]
pub struct Admin {
    /// Who it is.
    pub about: Arc<About>,
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
    /// The token that is presented by who may; without one, nobody may but by a certificate.
    pub live: watch::Receiver<Live>,
    /// What it runs with, as an operator reads it.
    pub standing: watch::Receiver<Standing>,
    /// What keeps it from serving, and what is wrong.
    pub health: health::Watch,
    /// How much it does.
    pub pace: watch::Receiver<Pace>,
    /// Other relays.
    pub mesh: Mesh,
    /// Where sessions are asked about, and ended.
    pub orders: mpsc::Sender<Order>,
}

/// Who a relay is, and what does not change while it runs.
#[derive(Clone, Debug)]
pub struct About {
    /// For people.
    pub name: String,
    /// Name space of its codes.
    pub realm: String,
    /// What nodes are given.
    pub address: RelayAddr,
    /// When it came up.
    pub since: Instant,
    /// The last lines of its log.
    pub recent: Recent,
    /// Who shows a certificate of the operator's authority may do all that the token is for.
    pub knows_certificates: bool,
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
pub async fn serve(door: Door, admin: Admin, closing: CancellationToken) -> io::Result<()> {
    let router = Router::new()
        .route("/livez", routing::get(async || "ok\n"))
        .route("/readyz", routing::get(readyz))
        .route("/metrics", routing::get(metrics))
        .route("/address", routing::get(address))
        .route("/drain", routing::get(drain_facts).post(begin_drain))
        .route("/drained", routing::get(drained))
        .merge(api::router())
        .fallback(async || problem::NOT_HERE)
        .with_state(admin)
        .into_make_service_with_connect_info::<Caller>();
    // Not graceful: a probe that keeps its connection open must not keep a relay that is done.
    tokio::select! {
        result = async { axum::serve(door, router).await } => result,
        () = closing.cancelled() => Ok(()),
    }
}

async fn address(State(admin): State<Admin>) -> String {
    format!("{}\n", admin.about.address)
}

/// `ok`, or what keeps it from serving, a line each; below, what is wrong beside.
async fn readyz(State(admin): State<Admin>) -> (StatusCode, String) {
    let found = admin.health.look();
    let of = |verdict| {
        found
            .iter()
            .filter(move |finding| finding.verdict == verdict)
    };
    let faults: String = of(Verdict::Fault)
        .map(|finding| format!("{}\n", finding.text))
        .collect();
    let warnings: String = of(Verdict::Warning)
        .map(|finding| format!("warning: {}\n", finding.text))
        .collect();
    if faults.is_empty() {
        (StatusCode::OK, format!("ok\n{warnings}"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, faults + &warnings)
    }
}

/// Whoever asks has shown that they may. Whoever is not let in learns nothing but how one would be.
struct May;

impl FromRequestParts<Admin> for May {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<ConnectInfo<Caller>>();
        if caller.is_some_and(|ConnectInfo(caller)| caller.is_known) {
            return Ok(Self);
        }
        let live = admin.live.borrow();
        let refusal = match (&live.admin_token, admin.about.knows_certificates) {
            (None, false) => problem::NO_TOKEN,
            (None, true) | (Some(_), _) => problem::WRONG_TOKEN,
        };
        let token = live.admin_token.as_ref().ok_or(refusal)?;
        let presented = parts.headers.get(header::AUTHORIZATION);
        let presented = presented.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        match presented.is_some_and(|presented| token.is(presented)) {
            true => Ok(Self),
            false => Err(refusal),
        }
    }
}

impl Admin {
    /// Where the relay is in its life, and what is left of it.
    fn life_facts(&self) -> Value {
        let (state, deadline) = match *self.life.borrow() {
            None => ("starting", None),
            Some(drain::State::Serving) => ("serving", None),
            Some(drain::State::Draining { deadline }) => ("draining", Some(deadline)),
            Some(drain::State::Done) => ("drained", None),
        };
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        serde_json::json!({
            "state": state,
            "sessions": self.metrics.sessions.get(),
            "cut_off": self.metrics.session_ends(SessionEnd::Drained),
            "deadline_ms": left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        })
    }

    /// Has the registry do something.
    async fn order<T>(&self, order: Order, answered: oneshot::Receiver<T>) -> Result<T, Problem> {
        let asked = async {
            self.orders.send(order).await.ok()?;
            answered.await.ok()
        };
        let answer = time::timeout(ORDER_TIMEOUT, asked).await;
        answer.ok().flatten().ok_or(problem::ENDED)
    }

    /// Waits for a state of its life.
    async fn reached(&self, is_it: impl Fn(drain::State) -> bool) -> Result<Response, Problem> {
        let mut life = self.life.clone();
        let reached = life.wait_for(|life| life.is_some_and(&is_it)).await.is_ok();
        if !reached {
            return Err(problem::ENDED);
        }
        Ok(told(StatusCode::OK, &self.life_facts()))
    }

    /// All metrics, those that are measured only then, too.
    fn metrics_text(&self) -> prometheus::Result<String> {
        self.health.look();
        self.metrics
            .measure(&*self.rendezvous, &self.table, Instant::now());
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

async fn drain_facts(_: May, State(admin): State<Admin>) -> Response {
    told(StatusCode::OK, &admin.life_facts())
}

async fn begin_drain(_: May, State(admin): State<Admin>) -> Result<Response, Problem> {
    tracing::info!(
        sessions = admin.metrics.sessions.get(),
        "told by the admin port to drain"
    );
    admin.drain.cancel();
    admin.reached(|state| state != drain::State::Serving).await
}

async fn drained(_: May, State(admin): State<Admin>) -> Result<Response, Problem> {
    admin.reached(|state| state == drain::State::Done).await
}

async fn metrics(
    State(admin): State<Admin>,
) -> Result<([(&'static str, &'static str); 1], String), StatusCode> {
    let text = admin.metrics_text();
    let text = text.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([("content-type", prometheus::TEXT_FORMAT)], text))
}
