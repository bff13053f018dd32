//! What nobody counts as it happens: it is measured when somebody asks.

use std::{
    sync::PoisonError,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use remora_proto::record::Kind;

use super::{
    Metrics,
    labels::{Label as _, WorkerName},
    whole,
};
use crate::{
    datapath::{pages, table::Table},
    rendezvous::Rendezvous,
};

/// How long a session counts as held back.
const HELD_BACK: Duration = Duration::from_secs(10);

impl Metrics {
    /// Sets what is measured now.
    pub fn measure(&self, rendezvous: &dyn Rendezvous, table: &Table, now: Instant) {
        for (gauge, count) in [
            (&self.locators, rendezvous.live_records(Kind::Host)),
            (&self.devices, rendezvous.live_records(Kind::Device)),
            (&self.dht_records, rendezvous.kept_records(Kind::Host)),
            (&self.dht_devices, rendezvous.kept_records(Kind::Device)),
            (&self.heap_bytes, pages::heap_in_use().unwrap_or(0)),
            (&self.rate_limited_sessions, table.held_back(HELD_BACK, now)),
        ] {
            gauge.set(whole(count));
        }
        let clock = SystemTime::now().duration_since(UNIX_EPOCH);
        self.clock_seconds
            .set(clock.unwrap_or_default().as_secs_f64());
        self.show_workers();
    }

    fn show_workers(&self) {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let named = WorkerName::More.index();
        let mut shown: Vec<_> = busy.iter().copied().take(named).collect();
        shown.extend(busy.iter().skip(named).copied().reduce(f64::max));
        for (name, ratio) in WorkerName::ALL.iter().zip(shown) {
            self.worker_busy_ratio
                .with_label_values(&[name.label()])
                .set(ratio);
        }
    }
}
