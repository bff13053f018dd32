//! How much a relay does at the moment: what its counters said a few seconds ago, and say now.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;

/// Short enough to see what one does, long enough for a still screen to be seen at all.
const EVERY: Duration = Duration::from_secs(5);

/// Of the last few seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Bytes of frames sent on, a second.
    pub forwarded_bytes_per_s: f64,
    /// Of one processor: 1 is all of it, 2 is two.
    pub processors: f64,
}

/// Measures until `closing`.
pub async fn measure(metrics: Arc<Metrics>, pace: watch::Sender<Pace>, closing: CancellationToken) {
    let mut due = time::interval_at(time::Instant::now() + EVERY, EVERY);
    let mut before = (
        Instant::now(),
        metrics.forwarded_bytes(),
        processor_seconds(),
    );
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            _ = due.tick() => {}
        }
        let now = (
            Instant::now(),
            metrics.forwarded_bytes(),
            processor_seconds(),
        );
        let seconds = now.0.saturating_duration_since(before.0).as_secs_f64();
        if seconds > 0.0 {
            let bytes = u32::try_from(now.1.saturating_sub(before.1) / 1024).unwrap_or(u32::MAX);
            pace.send_replace(Pace {
                forwarded_bytes_per_s: f64::from(bytes) * 1024.0 / seconds,
                processors: (now.2 - before.2).max(0.0) / seconds,
            });
        }
        before = now;
    }
}

/// What this process has used of all processors; 0 where the system does not say.
fn processor_seconds() -> f64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
        return 0.0;
    };
    let used = usage.user_time() + usage.system_time();
    let micros = u64::try_from(used.num_microseconds()).unwrap_or(0);
    Duration::from_micros(micros).as_secs_f64()
}
