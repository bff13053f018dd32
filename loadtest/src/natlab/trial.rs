//! One session of two real nodes behind their NATs: by code through the relay, and from there to a direct path, if there is one.

use std::time::{Duration, Instant};

use remora::{
    error::Failure,
    event::{Event, Input, PathSnapshot},
    node::{Node, Options, Running},
    share::{capture::synthetic::Sheet, desktop::Desktop},
};
use remora_proto::{
    code::Code, identity::Profile, path::machine::WhyRelayed, rendezvous::LIFETIME,
    session::Command,
};
use tokio::{
    task::JoinHandle,
    time::{sleep_until, timeout},
};

use super::{
    counter,
    lab::{Network, Side},
};

/// How long nodes may take to get a connection through the relay, or to end it.
const STEP: Duration = Duration::from_secs(20);
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
    let mut helper = invite(network, inviting).await?;
    let code = code(&mut helper).await?;
    let (typed, mut sharer) = join(network, joining, code).await?;

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
            | Event::RelayDraining(_)
            | Event::Session(_)
            | Event::ChatWanted
            | Event::NotPossible(_) => {}
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

async fn invite(network: &Network, at: &Side) -> Result<Running, String> {
    let (relay, profile) = (network.relay().clone(), person("Sam")?);
    let inviting = at.device.spawn(move |_| async move {
        let node = Node::connect(&relay, Options::default()).await?;
        Ok(node.invite(profile, LIFETIME))
    });
    finish(inviting).await
}

async fn code(helper: &mut Running) -> Result<Code, String> {
    let waiting = async {
        loop {
            match helper.events.recv().await {
                Some(Event::Code { code, .. }) => return code.parse().map_err(named("CODE")),
                Some(_) => {}
                None => return Err("CODE".to_owned()),
            }
        }
    };
    timeout(STEP, waiting).await.map_err(named("CODE"))?
}

/// Also says when the code was typed: the sharer's node is connected by then, as it is while a person types.
async fn join(network: &Network, at: &Side, code: Code) -> Result<(Instant, Running), String> {
    let (relay, profile) = (network.relay().clone(), person("Maria")?);
    let joining = at.device.spawn(move |_| async move {
        let mut node = Node::connect(&relay, Options::default()).await?;
        let typed = Instant::now();
        let introduced = node.try_code(code).await?;
        let sheet = Sheet::new(1);
        sheet.rest(true);
        let running = node.join(introduced, profile, Desktop::Synthetic(sheet));
        Ok((typed, running))
    });
    finish(joining).await
}

async fn finish<T>(spawned: anyhow::Result<JoinHandle<Result<T, Failure>>>) -> Result<T, String> {
    let finished = timeout(STEP, spawned.map_err(lab)?).await;
    let finished = finished.map_err(named("TIMEOUT"))?;
    finished
        .map_err(named("PANIC"))?
        .map_err(|failure| failure.code.to_owned())
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

async fn leave(helper: Running, sharer: Running) -> Result<(), String> {
    let leaving = helper.input.send(Input::Session(Command::Leave)).await;
    leaving.map_err(named("ENDED"))?;
    for running in [helper, sharer] {
        let Running { outcome, .. } = running;
        finish(Ok(outcome)).await?;
    }
    Ok(())
}

fn person(name: &str) -> Result<Profile, String> {
    Profile::new(name, "", "", "").map_err(named("PROFILE"))
}

fn named<E>(name: &'static str) -> impl FnOnce(E) -> String {
    move |_| name.to_owned()
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn lab(error: anyhow::Error) -> String {
    format!("LAB ({error:#})")
}
