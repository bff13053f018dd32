//! One session of two real nodes behind their NATs: by code through the relay, and from there to a direct path, if there is one.

use std::time::{Duration, Instant};

use remora::{
    event::{Event, PathSnapshot},
    node::{Options, Running},
    share::capture::synthetic::Sheet,
};
use remora_proto::path::machine::WhyRelayed;
use tokio::time::{sleep_until, timeout};

use super::{
    counter,
    lab::Network,
    meeting::{Met, STEP, lab, leave, named},
};

/// How long a node may go on to say that it is looking, after we have stopped waiting.
const EXPLAINS: Duration = Duration::from_secs(3);

/// How it went.
#[derive(Debug)]
pub struct Trial {
    /// From the typed code until both have their connection through the relay.
    pub relayed_first_byte: Duration,
    /// From then until both send directly.
    pub direct: Option<Duration>,
    /// Why they do not.
    pub why_not: Option<WhyRelayed>,
    /// Connectivity checks that left the busier of the two.
    pub checks: u64,
}

/// Lets the node at `helper`, 0 or 1, invite the other, and waits for a direct path for `patience`.
///
/// # Errors
/// A short name of what failed: the nodes got no session.
pub async fn run(network: &Network, helper: usize, patience: Duration) -> Result<Trial, String> {
    let [inviting, joining] = if helper == 0 {
        [&network.sides[0], &network.sides[1]]
    } else {
        [&network.sides[1], &network.sides[0]]
    };
    for side in &network.sides {
        counter::take(&side.device).map_err(lab)?;
    }
    let sheet = Sheet::new(1);
    sheet.rest(true);
    let met = Met::new(network, [inviting, joining], &Options::default(), sheet).await?;
    let Met {
        typed,
        mut helper,
        mut sharer,
    } = met;

    let mut watched = [Watched::default(), Watched::default()];
    let connected = timeout(
        STEP,
        watch(&mut helper, &mut sharer, &mut watched, Watched::connected),
    );
    let connected = connected.await.map_err(named("CONNECT"))??;
    let patience = sleep_until((connected + patience).into());
    let direct = tokio::select! {
        direct = watch(&mut helper, &mut sharer, &mut watched, Watched::direct) => Some(direct?),
        () = patience => None,
    };
    let why_not = match direct {
        Some(_) => None,
        None => match explained(&mut helper).await {
            None => explained(&mut sharer).await,
            why => why,
        },
    };
    let mut checks = 0;
    for side in &network.sides {
        checks = checks.max(counter::take(&side.device).map_err(lab)?);
    }
    leave(helper, sharer).await?;
    Ok(Trial {
        relayed_first_byte: connected.saturating_duration_since(typed),
        direct: direct.map(|direct| direct.saturating_duration_since(connected)),
        why_not,
        checks,
    })
}

/// What one node has said.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    connected: Option<Instant>,
    /// Since when it sends directly.
    direct: Option<Instant>,
}

impl Watched {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::Connected(_) => self.connected = Some(Instant::now()),
            Event::Moved(PathSnapshot { direct, .. }) => {
                self.direct = direct.map(|_| self.direct.unwrap_or_else(Instant::now));
            }
            Event::Code { .. }
            | Event::WrongCode { .. }
            | Event::CodeEnded(_)
            | Event::Home { .. }
            | Event::RelayWish { .. }
            | Event::RelayDraining(_)
            | Event::RelayLost
            | Event::RelayBack { .. }
            | Event::Session(_)
            | Event::ChatWanted
            | Event::Exchange(_)
            | Event::Device { .. }
            | Event::Notification(_)
            | Event::NotPossible { .. } => {}
        }
    }

    fn connected(self) -> Option<Instant> {
        self.connected
    }

    fn direct(self) -> Option<Instant> {
        self.direct
    }
}

/// Listens until both have what is wanted; since when the later of them.
async fn watch(
    helper: &mut Running,
    sharer: &mut Running,
    watched: &mut [Watched; 2],
    wanted: fn(Watched) -> Option<Instant>,
) -> Result<Instant, String> {
    loop {
        let [of_helper, of_sharer] = watched.map(wanted);
        if let Some((helper, sharer)) = of_helper.zip(of_sharer) {
            return Ok(helper.max(sharer));
        }
        let (node, event) = tokio::select! {
            event = helper.events.recv() => (&mut watched[0], event),
            event = sharer.events.recv() => (&mut watched[1], event),
        };
        node.hear(&event.ok_or("ENDED")?);
    }
}

/// What a node says in the end: not that it is still looking.
async fn explained(running: &mut Running) -> Option<WhyRelayed> {
    let has_looked = |path: &PathSnapshot| path.why_relayed != Some(WhyRelayed::Probing);
    let explaining = timeout(EXPLAINS, running.path.wait_for(has_looked)).await;
    match explaining {
        Ok(Ok(path)) => path.why_relayed,
        Ok(Err(_)) | Err(_) => Some(WhyRelayed::Probing),
    }
}
