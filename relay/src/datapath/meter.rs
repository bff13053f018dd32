//! How busy a worker is, and what the system dropped before it: looked at once a second, so that a frame costs nothing more.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{batch, socket::Socket};
use crate::admin::metrics::Metrics;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// One worker's.
#[derive(Debug)]
pub struct Meter {
    worker: usize,
    metrics: Arc<Metrics>,
    since: Instant,
    /// What of a processor the thread had by then.
    used: Option<Duration>,
    /// What its socket had dropped by then.
    dropped: Option<u32>,
}

impl Meter {
    /// Of the worker of that number, from 0, on its own thread.
    pub fn new(worker: usize, metrics: Arc<Metrics>, socket: &Socket, now: Instant) -> Self {
        metrics.worker_busy(worker, 0.0);
        Self {
            worker,
            metrics,
            since: now,
            used: batch::thread_time(),
            dropped: socket.dropped(),
        }
    }

    /// Looks, if it is time to.
    pub fn look(&mut self, socket: &Socket, now: Instant) {
        let since = now.saturating_duration_since(self.since);
        if since < EVERY {
            return;
        }
        self.since = now;
        let used = batch::thread_time();
        if let (Some(used), Some(before)) = (used, self.used) {
            let busy = used.saturating_sub(before);
            let ratio = busy.as_secs_f64() / since.as_secs_f64();
            self.metrics.worker_busy(self.worker, ratio.min(1.0));
        }
        self.used = used;
        let dropped = socket.dropped();
        if let (Some(dropped), Some(before)) = (dropped, self.dropped) {
            // The system counts in 32 bits, and begins anew.
            let new = dropped.wrapping_sub(before);
            self.metrics.socket_receive_drops.inc_by(new.into());
        }
        self.dropped = dropped;
    }
}
