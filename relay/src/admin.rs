//! Probes and metrics, on a port of their own that nodes never see.

// What an operator can count.
pub mod metrics;

use std::{io, net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, routing};
use prometheus::{Registry, TextEncoder};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use self::metrics::Metrics;
use crate::{drain, rendezvous::Rendezvous};

/// What the admin port reads.
#[derive(Clone)]
pub struct Admin {
    /// Everything counted.
    pub registry: Registry,
    /// To set what is measured only when somebody asks.
    pub metrics: Arc<Metrics>,
    /// For the number of codes.
    pub rendezvous: Arc<dyn Rendezvous>,
    /// Where the relay is in its life; `None` while it starts.
    pub life: watch::Receiver<Option<drain::State>>,
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

async fn metrics(
    State(admin): State<Admin>,
) -> Result<([(&'static str, &'static str); 1], String), StatusCode> {
    let locators = i64::try_from(admin.rendezvous.live_records()).unwrap_or(i64::MAX);
    admin.metrics.locators.set(locators);
    let kept = i64::try_from(admin.rendezvous.kept_records()).unwrap_or(i64::MAX);
    admin.metrics.dht_records.set(kept);
    let text = TextEncoder::new().encode_to_string(&admin.registry.gather());
    let text = text.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([("content-type", prometheus::TEXT_FORMAT)], text))
}
