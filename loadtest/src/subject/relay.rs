//! A relay and real nodes: two for each session, joined by a code as two people would be.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use remora::{
    control::{Control, Notice, PARK_AFTER, Started},
    event::Event,
    path::socket::MagicSocket,
    rendezvous::{self, Introduced, Tried, Waited},
};
use remora_proto::{
    code::Code,
    id::{RelayAddr, SessionId, Side},
    rendezvous::LIFETIME,
    wire::{
        frame::Header,
        message::control::{Release, node_to_relay::Body as Request},
    },
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use crate::{
    lane::{Lane, NodeSocket, Wire},
    relay::Relay,
    report::Progress,
};

/// Sessions being set up at once: enough that the relay never waits, few enough that no handshake times out.
const SETUPS_AT_ONCE: usize = 16;
/// For the nodes' last words.
const FAREWELL: Duration = Duration::from_millis(200);

/// A relay with its nodes.
#[derive(Debug)]
pub struct Fleet {
    pairs: Vec<Pair>,
    relay: Relay,
}

/// Two nodes with sessions between them.
#[derive(Debug)]
struct Pair {
    host: Node,
    joiner: Node,
    sessions: Vec<SessionId>,
}

/// One node of a session.
#[derive(Debug)]
struct Node {
    control: Control,
    /// Kept open: whoever does not listen is thrown out.
    notices: mpsc::Receiver<Notice>,
    socket: Arc<MagicSocket>,
    /// The socket's task and the control stream's; they run whenever the runtime does, and end with this.
    tasks: JoinSet<()>,
}

impl Fleet {
    /// Joins nodes in pairs through `relay`, each pair by so many sessions.
    ///
    /// # Errors
    /// When the relay does not answer, or does not want so many.
    pub async fn new(
        relay: Relay,
        sessions_by_pair: &[usize],
        progress: &Progress,
    ) -> anyhow::Result<(Self, Vec<Lane>)> {
        let all: usize = sessions_by_pair.iter().sum();
        let (address, at) = (relay.address.clone(), relay.at);
        let mut fleet = Self {
            pairs: Vec::with_capacity(sessions_by_pair.len()),
            relay,
        };
        let mut lanes = Vec::with_capacity(all);
        let places = Arc::new(Semaphore::new(SETUPS_AT_ONCE));
        let mut setups = JoinSet::new();
        for &sessions in sessions_by_pair {
            let (address, places) = (address.clone(), Arc::clone(&places));
            setups.spawn(async move {
                let _place = places.acquire_owned().await?;
                Pair::join(&address, at, sessions).await
            });
        }
        while let Some(joined) = setups.join_next().await {
            let (pair, its_lanes) = joined?.with_context(|| {
                let number = lanes.len() + 1;
                format!("cannot set up session {number} of {all}")
            })?;
            fleet.pairs.push(pair);
            lanes.extend(its_lanes);
            progress.show(&format!("sessions {}/{all}", lanes.len()));
        }
        Ok((fleet, lanes))
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        2 * self.pairs.len()
    }

    /// The relay.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Gives the sessions back to a relay that goes on; ends one of our own.
    pub async fn leave(self) {
        if self.relay.is_own() {
            return;
        }
        for pair in self.pairs {
            for SessionId(session) in pair.sessions {
                let control = &pair.host.control;
                control.tell(Request::Release(Release { session })).await;
            }
            for node in [pair.host, pair.joiner] {
                // The stream's task says goodbye once nobody can ask it for anything.
                drop((node.control, node.notices));
                let mut tasks = node.tasks;
                tokio::spawn(async move { while tasks.join_next().await.is_some() {} });
            }
        }
        tokio::time::sleep(FAREWELL).await;
    }
}

impl Node {
    async fn connect(relay: &RelayAddr, at: SocketAddr) -> anyhow::Result<Self> {
        let NodeSocket { magic, incoming } = NodeSocket::bind(at).context("no UDP socket")?;
        let mut tasks = JoinSet::new();
        let receiving = Arc::clone(&magic).receive();
        tasks.spawn(async move {
            if let Err(error) = receiving.await {
                tracing::error!(%error, "a node's socket failed");
            }
        });
        let Started {
            control,
            notices,
            task,
        } = Control::connect(relay, at, Arc::clone(&magic), incoming, PARK_AFTER).await?;
        tasks.spawn(task);
        Ok(Self {
            control,
            notices,
            socket: magic,
            tasks,
        })
    }
}

impl Pair {
    /// Two nodes and their sessions, by code. Frames go from the joiner to the host: that is the way a screen takes.
    async fn join(
        relay: &RelayAddr,
        at: SocketAddr,
        sessions: usize,
    ) -> anyhow::Result<(Self, Vec<Lane>)> {
        let mut pair = Self {
            host: Node::connect(relay, at).await?,
            joiner: Node::connect(relay, at).await?,
            sessions: Vec::with_capacity(sessions),
        };
        let mut lanes: Vec<Lane> = Vec::with_capacity(sessions);
        for _ in 0..sessions {
            let Introduced { allocation, .. } = pair.introduce().await?;
            let wire = Wire::Frame(Header {
                side: allocation.side,
                session: allocation.session,
            });
            lanes.push(match lanes.first() {
                Some(first) => first.beside(wire),
                None => Lane::new(&pair.joiner.socket, &pair.host.socket, at, wire)?,
            });
            pair.sessions.push(allocation.session);
        }
        Ok((pair, lanes))
    }

    /// One more session, as the joiner sees it.
    async fn introduce(&mut self) -> anyhow::Result<Introduced> {
        let joiner = &mut self.joiner;
        let joined = introduce(&mut self.host, async |code| {
            Ok(rendezvous::join(
                &joiner.control,
                &mut joiner.notices,
                code,
                &Tried::default(),
            )
            .await?)
        });
        joined.await
    }
}

/// Lets `host` show a code, and whoever it is given to join it.
async fn introduce(
    host: &mut Node,
    join: impl AsyncFnOnce(Code) -> anyhow::Result<Introduced>,
) -> anyhow::Result<Introduced> {
    let (events, mut told) = mpsc::channel(8);
    // Kept open: a host whose person is gone withdraws its code.
    let (_person, mut wishes) = mpsc::channel(1);
    let waiting = async {
        let (control, notices) = (&host.control, &mut host.notices);
        let mut code = rendezvous::publish(control, LIFETIME, &events).await?;
        let waiting = rendezvous::wait(&mut code, control, notices, &events, &mut wishes, false);
        match waiting.await? {
            Waited::Introduced(introduced) => Ok(introduced),
            Waited::NewCode => bail!("the host wants another code"),
            Waited::Draining(_) | Waited::Lost => bail!("the relay stops"),
            Waited::Ended(end) => bail!("the code ended: {end:?}"),
        }
    };
    let joining = async {
        let Some(Event::Code { code, .. }) = told.recv().await else {
            bail!("the host shows no code");
        };
        let code: Code = code.parse().context("the host shows no code")?;
        join(code).await
    };
    let (_, joined) = tokio::try_join!(waiting, joining)?;
    Ok(joined)
}

/// Where a node is.
#[derive(Clone, Debug)]
pub struct Home {
    /// Its relay, as nodes get it.
    pub address: RelayAddr,
    /// The same, resolved.
    pub at: SocketAddr,
}

/// Two nodes, each at a relay of its own, with a session between them.
#[derive(Debug)]
pub struct Bridge {
    _pair: Pair,
    /// From the joiner to the host, and back.
    pub lanes: [Lane; 2],
    /// From the code typed in to the session.
    pub took: Duration,
}

impl Bridge {
    /// A host at `home` shows a code; whoever is where `then` says joins it after that.
    ///
    /// # Errors
    /// When they do not find each other.
    pub async fn new(
        home: &Home,
        then: impl AsyncFnOnce() -> anyhow::Result<Home>,
    ) -> anyhow::Result<Self> {
        let mut host = Node::connect(&home.address, home.at).await?;
        let mut there = None;
        let Introduced { allocation, .. } = introduce(&mut host, async |code| {
            let joiners = then().await?;
            let mut joiner = Node::connect(&joiners.address, joiners.at).await?;
            let typed = Instant::now();
            let joined = rendezvous::join(
                &joiner.control,
                &mut joiner.notices,
                code,
                &Tried::default(),
            )
            .await?;
            there = Some((joiner, joiners.at, typed.elapsed()));
            Ok(joined)
        })
        .await?;
        let (joiner, at, took) = there.context("nobody joined")?;
        let wire = |side| {
            Wire::Frame(Header {
                side,
                session: allocation.session,
            })
        };
        let lanes = [
            Lane::new(&joiner.socket, &host.socket, at, wire(Side::Joiner))?,
            Lane::new(&host.socket, &joiner.socket, home.at, wire(Side::Host))?,
        ];
        let sessions = vec![allocation.session];
        Ok(Self {
            _pair: Pair {
                host,
                joiner,
                sessions,
            },
            lanes,
            took,
        })
    }
}
