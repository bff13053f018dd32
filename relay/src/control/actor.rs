//! The task that owns the registry: commands in, answers and notices out, deadlines met.

use std::{collections::BTreeMap, time::Instant};

use remora_proto::id::NodeId;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{
    message::{Answer, Reason, Refusal, Reply},
    registry::{ConnectionNumber, Demand, Registry},
};
use crate::{admin::metrics::Metrics, datapath::table::Leg, drain::State};

/// Commands waiting for the registry; when full, connections wait, and with them the nodes that ask.
const COMMAND_QUEUE: usize = 1024;

/// Notices waiting for one node.
///
/// All tries at all its codes at once (4 × 64) fit. When full the node does not read; it is disconnected, because
/// a notice left out would leave it with a wrong picture.
pub const NOTICE_QUEUE: usize = 256;

/// The way to a node.
#[derive(Debug)]
pub struct Outlet {
    /// What it is to be told.
    pub notices: mpsc::Sender<Reply>,
    /// Cancelled when it does not read.
    pub too_slow: CancellationToken,
}

enum Command {
    Attach {
        number: ConnectionNumber,
        id: NodeId,
        leg: Leg,
        outlet: Outlet,
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    Detach(ConnectionNumber),
    Move(ConnectionNumber, Leg),
    Demand {
        number: ConnectionNumber,
        demand: Demand,
        reply: oneshot::Sender<Answer>,
    },
}

/// What connections hold of the registry.
#[derive(Clone, Debug)]
pub struct RegistryHandle(mpsc::Sender<Command>);

const STOPPED: Refusal = Refusal::new(Reason::Draining, "this relay has stopped");

impl RegistryHandle {
    /// See [`Registry::attach`].
    ///
    /// # Errors
    /// When there is no room.
    pub async fn attach(
        &self,
        number: ConnectionNumber,
        id: NodeId,
        leg: Leg,
        outlet: Outlet,
    ) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Attach {
            number,
            id,
            leg,
            outlet,
            reply,
        })
        .await;
        answer.await.unwrap_or(Err(STOPPED))
    }

    /// See [`Registry::detach`].
    pub async fn detach(&self, number: ConnectionNumber) {
        self.send(Command::Detach(number)).await;
    }

    /// See [`Registry::move_node`].
    pub async fn move_node(&self, number: ConnectionNumber, leg: Leg) {
        self.send(Command::Move(number, leg)).await;
    }

    /// See [`Registry::handle`].
    ///
    /// # Errors
    /// Why not.
    pub async fn demand(&self, number: ConnectionNumber, demand: Demand) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Demand {
            number,
            demand,
            reply,
        })
        .await;
        answer.await.unwrap_or(Err(STOPPED))
    }

    async fn send(&self, command: Command) {
        if self.0.send(command).await.is_err() {
            tracing::debug!("the registry has stopped");
        }
    }
}

/// The task.
#[derive(Debug)]
pub struct Actor {
    registry: Registry,
    commands: mpsc::Receiver<Command>,
    outlets: BTreeMap<ConnectionNumber, Outlet>,
    metrics: std::sync::Arc<Metrics>,
    life: watch::Sender<Option<State>>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

impl Actor {
    /// The task for `registry`, and what connections hold of it; `life` is where it says how far a drain is.
    pub fn new(
        registry: Registry,
        metrics: std::sync::Arc<Metrics>,
        life: watch::Sender<Option<State>>,
    ) -> (Self, RegistryHandle) {
        let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
        (
            Self {
                registry,
                commands,
                outlets: BTreeMap::new(),
                metrics,
                life,
            },
            RegistryHandle(sender),
        )
    }

    /// Runs until every handle is gone; starts to drain on `drain`.
    pub async fn run(mut self, drain: CancellationToken) {
        loop {
            // Readiness first: whoever hears of a drain must find the probe agreeing.
            self.publish();
            self.deliver();
            let timeout = self.registry.poll_timeout();
            tokio::select! { biased;
                () = drain.cancelled(), if self.registry.state() == State::Serving => {
                    self.registry.begin_drain(Instant::now());
                }
                () = sleep_until(timeout) => self.registry.handle_timeout(Instant::now()),
                command = self.commands.recv() => match command {
                    Some(command) => self.handle_command(command, Instant::now()),
                    None => return,
                },
            }
        }
    }

    fn handle_command(&mut self, command: Command, now: Instant) {
        // An asker that is gone needs no answer; its Detach follows.
        match command {
            Command::Attach {
                number,
                id,
                leg,
                outlet,
                reply,
            } => {
                let answer = self.registry.attach(number, id, leg, now);
                if answer.is_ok() {
                    self.outlets.insert(number, outlet);
                }
                reply.send(answer).ok();
            }
            Command::Detach(number) => {
                self.outlets.remove(&number);
                self.registry.detach(number);
            }
            Command::Move(number, leg) => self.registry.move_node(number, leg),
            Command::Demand {
                number,
                demand,
                reply,
            } => {
                reply.send(self.registry.handle(number, demand, now)).ok();
            }
        }
    }

    fn deliver(&mut self) {
        while let Some((to, notice)) = self.registry.poll_notice() {
            let Some(outlet) = self.outlets.get(&to) else {
                continue;
            };
            if let Err(mpsc::error::TrySendError::Full(_)) = outlet.notices.try_send(notice) {
                outlet.too_slow.cancel();
            }
        }
    }

    fn publish(&self) {
        let state = self.registry.state();
        self.metrics.life(state, self.registry.sessions());
        self.life
            .send_if_modified(|life| life.replace(state) != Some(state));
    }
}

async fn sleep_until(timeout: Option<Instant>) {
    match timeout {
        Some(at) => time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
