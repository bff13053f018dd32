//! The mesh: relays of one fleet, who know each other, keep each other's records and bridge each other's sessions.
//!
//! ```text
//!  other relays ── TCP ─ Noise ─ yamux ──▶ task ─┬─ Hello ─▶ members ─▶ Kademlia's table, neighbours
//!                                                ├─ Keep, Forget, Find ─▶ shelf ─▶ answer
//!                                                └─ Offer, Signal, Admit, …, policies, queues ─▶ control::driver ─▶ answer
//!  rendezvous, control ── ask, closest ────────▶ task ─▶ requests; Kademlia's queries
//! ```
//!
//! libp2p carries it: one task owns the swarm. Kademlia says which relays are closest to a key, and keeps nothing itself:
//! what is stored, and for whom, is a request like any other, so that it can be refused with a reason.

// Requests and responses on their streams.
pub mod codec;
// What all relays of a fleet have.
pub mod fleet_key;
// A relay's name in libp2p.
pub mod identity;
// Machine: between which addresses frames go to each relay.
pub mod legs;
// Machine: who is in, whom to dial, whom to avoid.
pub mod members;
// Machine: what an operator should know of the fleet.
pub mod outlook;
// Where connections may go.
pub mod reach;
// Noise under the streams.
pub mod secure;
// The task that owns the swarm.
mod task;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use remora_proto::{
    id::RelayId,
    noise::{StaticKey, link::FleetKey},
    record::RecordKey,
    wire::message::mesh::{
        self as wire, Reason, Refused, Request, request::Body as Ask, response::Body as Answer,
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};

use crate::{
    admin::metrics::{RpcKind, RpcResult},
    datapath::{QuicPacket, socket::Socket},
    health::Outlook,
};

pub use self::{
    members::{Neighbour, Neighbours},
    task::Task,
};

/// Version of the messages, and the oldest spoken here.
pub const PROTOCOL: u32 = 1;
const MINIMUM_PROTOCOL: u32 = 1;
/// Commands on their way to the task; when full, whoever asks waits.
const COMMAND_QUEUE: usize = 256;
/// Requests on their way to control; when full, the other relay is told to ask again.
const ASKED_QUEUE: usize = 256;
/// Checks on their way to the task; when full, they are lost, and come again.
const CHECK_QUEUE: usize = 64;
/// How long a request that changes something is tried; less than a node waits for its answer.
const INSIST_FOR: Duration = Duration::from_secs(4);
/// Between two tries.
const INSIST_EVERY: Duration = Duration::from_millis(50);

/// What the mesh runs with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where other relays connect to.
    pub listen: SocketAddr,
    /// Some of them: names or addresses, with a port.
    pub seeds: Vec<String>,
    /// What all have.
    pub fleet: FleetKey,
}

/// Who this relay is, for the others.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// Its key.
    pub key: StaticKey,
    /// Name space of its locators.
    pub realm: String,
    /// For people.
    pub name: String,
    /// Where the others send frames to: `host:port`, a host of only zeros for where its connections come from.
    pub frame_address: String,
    /// What frames leave from.
    pub socket: Arc<Socket>,
}

/// Why there is no answer that helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The other relay said no.
    #[error("refused: {0:?}")]
    Refused(Reason),
    /// It could not be reached, or did not answer in time.
    #[error("no answer")]
    Unreachable,
}

/// A request of another relay that control has to answer.
#[derive(Debug)]
pub struct Asked {
    /// Who asks.
    pub from: RelayId,
    /// What.
    pub request: Ask,
    /// Where to answer; dropped, the other relay is told to ask again.
    pub answer: oneshot::Sender<Answer>,
}

#[derive(Debug)]
enum Command {
    Ask {
        relay: RelayId,
        request: Request,
        answer: oneshot::Sender<Result<Answer, AskError>>,
    },
    Closest {
        key: RecordKey,
        is_exact: bool,
        answer: oneshot::Sender<Vec<RelayId>>,
    },
}

/// What the rest of the relay holds of the mesh.
#[derive(Clone, Debug)]
pub struct Mesh {
    commands: mpsc::Sender<Command>,
    neighbours: watch::Receiver<Neighbours>,
    outlook: watch::Receiver<Outlook>,
}

/// The task's ends of its channels.
#[derive(Debug)]
pub struct Work {
    commands: mpsc::Receiver<Command>,
    asked: mpsc::Sender<Asked>,
    checks: mpsc::Receiver<QuicPacket>,
    neighbours: watch::Sender<Neighbours>,
    outlook: watch::Sender<Outlook>,
}

/// The channels, before anything runs.
#[derive(Debug)]
pub struct Ends {
    /// For whoever asks.
    pub mesh: Mesh,
    /// For control.
    pub asked: mpsc::Receiver<Asked>,
    /// For the datapath.
    pub checks: mpsc::Sender<QuicPacket>,
    /// For the task.
    pub work: Work,
}

/// New ones.
pub fn ends() -> Ends {
    let (command_sender, commands) = mpsc::channel(COMMAND_QUEUE);
    let (check_sender, checks) = mpsc::channel(CHECK_QUEUE);
    let (asked_sender, asked) = mpsc::channel(ASKED_QUEUE);
    let (neighbour_sender, neighbours) = watch::channel(Neighbours::default());
    let (outlook_sender, outlook) = watch::channel(Outlook::default());
    let mesh = Mesh {
        commands: command_sender,
        neighbours,
        outlook,
    };
    let work = Work {
        commands,
        asked: asked_sender,
        checks,
        neighbours: neighbour_sender,
        outlook: outlook_sender,
    };
    Ends {
        mesh,
        asked,
        checks: check_sender,
        work,
    }
}

impl Mesh {
    /// Asks another relay, once.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask(&self, relay: RelayId, ask: Ask) -> Result<Answer, AskError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { body: Some(ask) };
        let command = Command::Ask {
            relay,
            request,
            answer,
        };
        let sent = self.commands.send(command).await;
        sent.map_err(|_| AskError::Unreachable)?;
        match answered.await {
            Ok(Ok(Answer::Refused(Refused { reason }))) => Err(AskError::Refused(
                Reason::try_from(reason).unwrap_or_default(),
            )),
            Ok(answered) => answered,
            Err(_) => Err(AskError::Unreachable),
        }
    }

    /// Asks until there is an answer that asking again does not change, or four seconds are over.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn insist(&self, relay: RelayId, ask: Ask) -> Result<Answer, AskError> {
        let until = time::Instant::now() + INSIST_FOR;
        loop {
            let answered = time::timeout_at(until, self.ask(relay, ask.clone())).await;
            match answered {
                Err(_) => return Err(AskError::Unreachable),
                Ok(Err(
                    AskError::Unreachable | AskError::Refused(Reason::Busy | Reason::Stranger),
                )) if time::Instant::now() + INSIST_EVERY < until => {
                    time::sleep(INSIST_EVERY).await;
                }
                Ok(answered) => return answered,
            }
        }
    }

    /// The relays that keep what stands under `key`, this one among them if it is one: as far as is known here, or as Kademlia
    /// finds out.
    pub async fn closest(&self, key: RecordKey, is_exact: bool) -> Vec<RelayId> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Closest {
            key,
            is_exact,
            answer,
        };
        if self.commands.send(command).await.is_err() {
            return Vec::new();
        }
        answered.await.unwrap_or_default()
    }

    /// What an operator should know of them.
    pub fn outlook(&self) -> watch::Receiver<Outlook> {
        self.outlook.clone()
    }

    /// Who is in touch.
    pub fn neighbours(&self) -> watch::Receiver<Neighbours> {
        self.neighbours.clone()
    }
}

/// A refusal on its way.
pub fn refused(reason: Reason) -> Answer {
    Answer::Refused(Refused {
        reason: reason.into(),
    })
}

/// Done, and nothing to say about it.
pub fn done() -> Answer {
    Answer::Done(wire::Done {})
}

/// What another relay is asked, for the metrics.
fn kind(ask: &Ask) -> RpcKind {
    match ask {
        Ask::Keep(_) | Ask::Forget(_) | Ask::Find(_) => RpcKind::Record,
        Ask::Offer(_) | Ask::Signal(_) | Ask::Admit(_) | Ask::Dismiss(_) | Ask::Release(_) => {
            RpcKind::Introduction
        }
        Ask::Hello(_) | Ask::FetchPolicy(_) | Ask::PolicyNews(_) | Ask::FetchQueue(_) => {
            RpcKind::Other
        }
    }
}

/// How that ended.
fn result(answered: &Result<Answer, AskError>) -> RpcResult {
    match answered {
        Ok(Answer::Refused(_)) | Err(AskError::Refused(_)) => RpcResult::Refused,
        Ok(_) => RpcResult::Ok,
        Err(AskError::Unreachable) => RpcResult::Unreachable,
    }
}

#[cfg(test)]
impl Work {
    /// Answers as a fleet would of which all keep everything: each request is `answer`ed, or never.
    pub fn play(
        mut self,
        fleet: Vec<RelayId>,
        mut answer: impl FnMut(RelayId, Ask) -> Option<Result<Answer, AskError>> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Some(command) = self.commands.recv().await {
                match command {
                    Command::Ask {
                        relay,
                        request,
                        answer: to,
                    } => {
                        let ask = request.body.expect("a request");
                        match answer(relay, ask) {
                            Some(answer) => to.send(answer).unwrap_or(()),
                            None => unanswered.push(to),
                        }
                    }
                    Command::Closest { answer: to, .. } => to.send(fleet.clone()).unwrap_or(()),
                }
            }
        })
    }
}
