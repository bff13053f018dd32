//! Two nodes' meeting: by code, as people's.

use std::time::{Duration, Instant};

use remora::{
    error::Failure,
    event::{Event, Input},
    node::{Node, Options, Running},
    path::stream::proxy::Proxy,
    share::{capture::synthetic::Sheet, desktop::Desktop},
};
use remora_proto::{code::Code, identity::Profile, rendezvous::LIFETIME, session::Command};
use tokio::{task::JoinHandle, time::timeout};

use super::lab::{Network, Side};

/// How long nodes may take to get a connection through the relay, or to end it.
pub(super) const STEP: Duration = Duration::from_secs(20);

/// Both nodes, once the sharer has been introduced.
pub(super) struct Met {
    /// When the code was typed.
    pub(super) typed: Instant,
    /// Who has invited.
    pub(super) helper: Running,
    /// Who has joined.
    pub(super) sharer: Running,
}

impl Met {
    /// The first invites, the second joins and shows `sheet`.
    ///
    /// # Errors
    /// A short name of what failed.
    pub(super) async fn new(
        network: &Network,
        [inviting, joining]: [&Side; 2],
        options: &Options,
        sheet: Sheet,
    ) -> Result<Self, String> {
        let mut helper = invite(network, inviting, options.clone()).await?;
        let code = code(&mut helper).await?;
        let (typed, sharer) = join(network, joining, options.clone(), code, sheet).await?;
        Ok(Self {
            typed,
            helper,
            sharer,
        })
    }
}

async fn invite(network: &Network, at: &Side, options: Options) -> Result<Running, String> {
    let (relay, profile) = (network.relay().clone(), person("Sam")?);
    let options = of_site(at, options);
    let inviting = at.device.spawn(move |_| async move {
        let node = Node::connect(&relay, options).await?;
        Ok(node.invite(profile, LIFETIME))
    });
    finish(inviting).await
}

/// With the site's proxy, as its people's environments name it.
fn of_site(at: &Side, options: Options) -> Options {
    let proxy = at.proxy.and_then(|at| Proxy::parse(&at.to_string()));
    Options { proxy, ..options }
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
async fn join(
    network: &Network,
    at: &Side,
    options: Options,
    code: Code,
    sheet: Sheet,
) -> Result<(Instant, Running), String> {
    let (relay, profile) = (network.relay().clone(), person("Maria")?);
    let options = of_site(at, options);
    let joining = at.device.spawn(move |_| async move {
        let mut node = Node::connect(&relay, options).await?;
        let typed = Instant::now();
        let introduced = node.try_code(code).await?;
        let running = node.join(introduced, profile, Desktop::Synthetic(sheet));
        Ok((typed, running))
    });
    finish(joining).await
}

pub(super) async fn finish<T>(
    spawned: anyhow::Result<JoinHandle<Result<T, Failure>>>,
) -> Result<T, String> {
    let finished = timeout(STEP, spawned.map_err(lab)?).await;
    let finished = finished.map_err(named("TIMEOUT"))?;
    finished
        .map_err(named("PANIC"))?
        .map_err(|failure| failure.code.to_owned())
}

/// Ends the session, by the helper.
pub(super) async fn leave(helper: Running, sharer: Running) -> Result<(), String> {
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

pub(super) fn named<E>(name: &'static str) -> impl FnOnce(E) -> String {
    move |_| name.to_owned()
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn lab(error: anyhow::Error) -> String {
    format!("LAB ({error:#})")
}
