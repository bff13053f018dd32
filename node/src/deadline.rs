//! Waiting for a machine's next deadline.

use std::time::Instant;

/// Until then; `None`: for ever.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
