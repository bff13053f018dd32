//! Looks every other second, and whenever somebody asks; says what has changed, once.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

use super::{Finding, Observed, Outlook, Shown, Verdict, What, assess, measure};
use crate::{
    admin::metrics::Metrics,
    config::{Live, Standing},
    drain,
    stream::certificate::Showing,
};

/// Memory may fill in seconds, and all that is looked at is a few small files.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Where the relay is in its life.
    pub life: watch::Receiver<Option<drain::State>>,
    /// What it runs with.
    pub settings: watch::Receiver<Standing>,
    /// How many nodes may be here.
    pub live: watch::Receiver<Live>,
    /// What is shown at the TCP port, if there is one.
    pub certificate: Option<Showing>,
    /// Whose memory is limited.
    pub cgroup: Option<PathBuf>,
    /// What the mesh knows, if there is one.
    pub outlook: Option<watch::Receiver<Outlook>>,
    /// What the system gave, and what was asked for.
    pub udp_buffer_bytes: (usize, usize),
    /// Where the key is, if it is in a file.
    pub key: Option<PathBuf>,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// What was found last, and how to look again. Clones share it.
#[derive(Clone, Debug)]
pub struct Watch {
    sources: Sources,
    found: watch::Sender<Vec<Finding>>,
}

impl Watch {
    /// Nothing has been looked at yet.
    pub fn new(sources: Sources) -> Self {
        let (found, _) = watch::channel(Vec::new());
        Self { sources, found }
    }

    /// Looks until `closing`.
    pub async fn run(self, closing: CancellationToken) {
        let mut life = self.sources.life.clone();
        let mut due = time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = closing.cancelled() => return,
                _ = due.tick() => {}
                Ok(()) = life.changed() => {}
            }
            self.look();
        }
    }

    /// What there is to say now.
    pub fn look(&self) -> Vec<Finding> {
        let observed = self.sources.observe();
        self.found.send_if_modified(|known| {
            let was_full = has_no_memory(known);
            let found = assess(&observed, was_full, Instant::now());
            tell_changes(known, &found);
            let is_new = *known != found;
            *known = found;
            is_new
        });
        let found = self.found.borrow().clone();
        self.sources.metrics.health(&found);
        let limit_bytes = observed.memory.map(|memory| memory.limit_bytes);
        self.sources.metrics.memory_limit(limit_bytes);
        let skew_ms = observed.outlook.and_then(|outlook| outlook.skew_ms);
        self.sources.metrics.clock_skew(skew_ms);
        found
    }

    /// Whether further nodes are refused, as far as is known.
    pub fn is_full(&self) -> bool {
        has_no_memory(&self.found.borrow())
    }
}

impl Sources {
    fn nodes(&self) -> usize {
        usize::try_from(self.metrics.nodes_connected.get()).unwrap_or(0)
    }

    fn observe(&self) -> Observed {
        Observed {
            life: *self.life.borrow(),
            certificate: Shown::of(self.certificate.as_ref()),
            settings: self.settings.borrow().clone(),
            nodes: (self.nodes(), self.live.borrow().max_nodes),
            now_unix_s: measure::unix_s(),
            memory: self.cgroup.as_deref().and_then(measure::memory),
            outlook: self
                .outlook
                .as_ref()
                .map(|outlook| outlook.borrow().clone()),
            udp_buffer_bytes: self.udp_buffer_bytes,
            disk_free_bytes: self.key.as_deref().and_then(measure::disk_free_bytes),
        }
    }
}

fn has_no_memory(found: &[Finding]) -> bool {
    let is_it = |finding: &&Finding| finding.what == What::Memory;
    found
        .iter()
        .find(is_it)
        .is_some_and(|finding| finding.verdict == Verdict::Fault)
}

/// Of a thing that has become better or worse. Its life tells of itself.
fn tell_changes(known: &[Finding], found: &[Finding]) {
    for finding in found {
        let before = known.iter().find(|known| known.what == finding.what);
        let before = before.map_or(Verdict::Fine, |known| known.verdict);
        if finding.what == What::Life || finding.verdict == before {
            continue;
        }
        let (what, text) = (finding.what.label(), &finding.text);
        match finding.verdict {
            Verdict::Fine => tracing::info!(what, "{text}, again"),
            Verdict::Warning | Verdict::Fault => tracing::warn!(what, "{text}"),
        }
    }
}
