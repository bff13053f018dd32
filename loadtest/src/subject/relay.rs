//! A relay and real nodes: two for each session, joined by a code as two people would be.

use std::{net::SocketAddr, process::Command, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use remora::{
    control::{Control, Notice, Started},
    event::Event,
    path::socket::MagicSocket,
    rendezvous::{self, Introduced, Waited},
};
use remora_proto::{
    code::Code,
    id::{RelayAddr, SessionId},
    rendezvous::LIFETIME,
    wire::{
        frame::Header,
        message::control::{Release, node_to_relay::Body as Request},
    },
};
use tempfile::TempDir;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use crate::{
    lane::{Lane, NodeSocket, Wire},
    process::{self, Child, Cores, Meter},
    report::Progress,
};

/// Sessions being set up at once: enough that the relay never waits, few enough that no handshake times out.
const SETUPS_AT_ONCE: usize = 16;
/// Rates that no load reaches: what is measured is the forwarding, not a limit.
const UNLIMITED_BYTES: u64 = 1 << 40;
const UNLIMITED_LOOKUPS: u64 = 1 << 30;
/// Nodes beyond those of the sessions.
const SPARE_NODES: usize = 64;
/// From half of a network's places on, a relay wants a round trip more (RFC 9000 §8.1): all are in the first half.
const NETWORK_PLACES: usize = 2;
/// For the nodes' last words.
const FAREWELL: Duration = Duration::from_millis(200);

/// Which relay.
#[derive(Debug)]
pub enum Target {
    /// One of our own, for the time of the run.
    Own,
    /// Somebody's.
    Running {
        /// Its address as nodes get it.
        relay: RelayAddr,
        /// The same, resolved.
        at: SocketAddr,
        /// Its process, if it runs here and that is known.
        meter: Option<Meter>,
    },
}

/// A relay with its nodes.
#[derive(Debug)]
pub struct Fleet {
    pairs: Vec<([Node; 2], SessionId)>,
    meter: Option<Meter>,
    own: Option<OwnRelay>,
}

/// A relay that ends with us.
#[derive(Debug)]
struct OwnRelay {
    child: Child,
    /// Where its key is.
    _folder: TempDir,
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
    /// Joins `sessions` pairs of nodes through `target`.
    ///
    /// # Errors
    /// When the relay does not answer, or does not want so many.
    pub async fn new(
        target: Target,
        sessions: usize,
        cores: &Cores,
        progress: &Progress,
    ) -> anyhow::Result<(Self, Vec<Lane>)> {
        let (relay, at, meter, own) = match target {
            Target::Own => {
                let (own, relay) = OwnRelay::start(sessions, cores)?;
                let at = super::resolve(&relay)?;
                (relay, at, Some(own.child.meter()), Some(own))
            }
            Target::Running { relay, at, meter } => (relay, at, meter, None),
        };
        let mut fleet = Self {
            pairs: Vec::with_capacity(sessions),
            meter,
            own,
        };
        let mut lanes = Vec::with_capacity(sessions);
        let places = Arc::new(Semaphore::new(SETUPS_AT_ONCE));
        let mut setups = JoinSet::new();
        for _ in 0..sessions {
            let (relay, places) = (relay.clone(), Arc::clone(&places));
            setups.spawn(async move {
                let _place = places.acquire_owned().await?;
                session(&relay, at).await
            });
        }
        while let Some(joined) = setups.join_next().await {
            let (pair, lane) = joined?.with_context(|| {
                let number = lanes.len() + 1;
                format!("cannot set up session {number} of {sessions}")
            })?;
            fleet.pairs.push(pair);
            lanes.push(lane);
            progress.show(&format!("sessions {}/{sessions}", lanes.len()));
        }
        Ok((fleet, lanes))
    }

    /// The relay's process, where that is known.
    pub fn meter(&self) -> Option<Meter> {
        self.meter
    }

    /// Gives the sessions back to a relay that goes on; ends one of our own.
    pub async fn leave(mut self) {
        if self.own.take().is_some() {
            return;
        }
        for (nodes, SessionId(session)) in self.pairs {
            nodes[0]
                .control
                .tell(Request::Release(Release { session }))
                .await;
            for node in nodes {
                // The stream's task says goodbye once nobody can ask it for anything.
                drop((node.control, node.notices));
                let mut tasks = node.tasks;
                tokio::spawn(async move { while tasks.join_next().await.is_some() {} });
            }
        }
        tokio::time::sleep(FAREWELL).await;
    }
}

impl OwnRelay {
    fn start(sessions: usize, cores: &Cores) -> anyhow::Result<(Self, RelayAddr)> {
        let folder = tempfile::tempdir().context("no folder for the relay's key")?;
        let mut command = Command::new(process::beside("remora-relay")?);
        let nodes = 2 * sessions + SPARE_NODES;
        // Nothing of the caller's environment may change what is measured.
        command.env_clear();
        command.args(["serve", "--json", "--log", "error"]);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.arg("--key").arg(folder.path().join("relay.key"));
        for (flag, value) in [
            ("--session-rate-bytes", UNLIMITED_BYTES),
            ("--session-burst", UNLIMITED_BYTES),
            ("--lookups-per-minute", UNLIMITED_LOOKUPS),
            ("--max-sessions", sessions as u64),
            ("--max-nodes", nodes as u64),
            ("--max-nodes-per-network", (NETWORK_PLACES * nodes) as u64),
        ] {
            command.args([flag, &value.to_string()]);
        }
        let mut child = Child::start(command, cores, Stdio::piped())?;
        let line = child.first_line().context("remora-relay does not start")?;
        let announced: serde_json::Value = serde_json::from_str(&line)
            .with_context(|| format!("remora-relay says `{line}` instead of its address"))?;
        let address = announced["address"].as_str().unwrap_or_default();
        let relay = address
            .parse()
            .with_context(|| format!("remora-relay's address is `{address}`"))?;
        let own = Self {
            child,
            _folder: folder,
        };
        Ok((own, relay))
    }
}

impl Node {
    async fn connect(relay: &RelayAddr, at: SocketAddr) -> anyhow::Result<Self> {
        let NodeSocket { magic, packets } = NodeSocket::bind(at).context("no UDP socket")?;
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
        } = Control::connect(relay, at, Arc::clone(&magic), packets).await?;
        tasks.spawn(task);
        Ok(Self {
            control,
            notices,
            socket: magic,
            tasks,
        })
    }
}

/// A session between two nodes, by code. Frames go from the joiner to the host: that is the way a screen takes.
async fn session(
    relay: &RelayAddr,
    at: SocketAddr,
) -> anyhow::Result<(([Node; 2], SessionId), Lane)> {
    let mut host = Node::connect(relay, at).await?;
    let mut joiner = Node::connect(relay, at).await?;
    let (events, mut told) = mpsc::channel(8);
    // Kept open: a host whose person is gone withdraws its code.
    let (_person, mut wishes) = mpsc::channel(1);
    let waiting = async {
        let (control, notices) = (&host.control, &mut host.notices);
        let waited =
            rendezvous::wait_with_code(control, notices, &events, &mut wishes, LIFETIME).await?;
        match waited {
            Waited::Introduced(introduced) => Ok(introduced),
            Waited::NewCode => bail!("the host wants another code"),
            Waited::Ended(end) => bail!("the code ended: {end:?}"),
        }
    };
    let joining = async {
        let Some(Event::Code { code, .. }) = told.recv().await else {
            bail!("the host shows no code");
        };
        let code: Code = code.parse().context("the host shows no code")?;
        Ok(rendezvous::join(&joiner.control, &mut joiner.notices, code).await?)
    };
    let (_, joined) = tokio::try_join!(waiting, joining)?;
    let Introduced { allocation, .. } = joined;
    let header = Header {
        side: allocation.side,
        session: allocation.session,
    };
    let lane = Lane::new(&joiner.socket, &host.socket, at, Wire::Frame(header))?;
    Ok((([host, joiner], allocation.session), lane))
}
