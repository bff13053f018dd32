//! A relay of the fleet that wants to fill the others: it has the fleet's key, and no nodes.
//!
//! Its mesh is that of real relays; what it says by it is its own.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use prometheus::Registry;
use remora_proto::{
    id::RelayId,
    noise::StaticKey,
    wire::message::mesh::{Find, Keep, Reason, request::Body as Ask},
};
use remora_relay::{
    admin::metrics::Metrics,
    datapath::socket::Socket,
    mesh::{self, AskError, Ends, Introduction, Mesh, Settings},
    rendezvous::Shelf,
};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;

/// Requests to one relay at once: enough that it always has the next, few enough that it hears none in vain.
const AT_ONCE: usize = 64;
/// After a relay has said that it is busy; it hears so many again that half of them would do.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// For frames, of which none come.
const BUFFER_BYTES: usize = 64 << 10;
/// One answer, however busy this machine is.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What came of asking one relay to keep records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// It keeps them.
    pub kept: u64,
    /// Their place was another's, or what is left of another's.
    pub taken: u64,
    /// It has no room, or not for this relay.
    pub full: u64,
    /// Refused for another reason.
    pub other: u64,
    /// Not answered.
    pub unanswered: u64,
    /// Not asked before time was over.
    pub left: u64,
    /// How often it said to ask again in a moment, which was done.
    pub busy: u64,
}

impl Pushed {
    /// All but those who were told to ask again.
    pub fn refused(&self) -> u64 {
        self.taken + self.full + self.other
    }

    /// As scripts read it.
    pub fn json(&self) -> Value {
        json!({
            "kept": self.kept,
            "refused": self.refused(),
            "refused_full": self.full,
            "refused_taken": self.taken,
            "unanswered": self.unanswered,
            "not_asked": self.left,
            "busy": self.busy,
        })
    }

    /// And these.
    pub fn add(&mut self, more: Self) {
        self.kept += more.kept;
        self.taken += more.taken;
        self.full += more.full;
        self.other += more.other;
        self.unanswered += more.unanswered;
        self.left += more.left;
        self.busy += more.busy;
    }
}

/// The relay.
#[derive(Debug)]
pub struct Hostile {
    mesh: Mesh,
    _task: JoinSet<io::Result<()>>,
}

impl Hostile {
    /// One that all relays of `fleet` have let in.
    ///
    /// # Errors
    /// When one does not.
    pub async fn join(fleet: &Fleet, realm: &str) -> anyhow::Result<Self> {
        let Ends { mesh, work, .. } = mesh::ends();
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut sockets = Socket::bind(at, NonZeroUsize::MIN, BUFFER_BYTES)?;
        let key = StaticKey::generate();
        let me = RelayId(key.public());
        let seeds = (0..fleet.len()).filter_map(|number| fleet.mesh_address(number));
        let settings = Settings {
            listen: at,
            seeds: seeds.map(|seed| seed.to_string()).collect(),
            fleet: fleet.key()?,
        };
        let introduction = Introduction {
            key,
            realm: realm.to_owned(),
            name: "hostile".to_owned(),
            // It takes none.
            frame_address: at.to_string(),
            socket: Arc::new(sockets.remove(0)),
        };
        let metrics = Arc::new(Metrics::new(&Registry::new())?);
        let shelf = Arc::new(Shelf::new(0, me, realm.to_owned()));
        let task = mesh::Task::new(settings, introduction, work, shelf, metrics)?;
        let mut running = JoinSet::new();
        running.spawn(task.run(CancellationToken::new()));
        for relay in fleet.addresses() {
            let nothing = Ask::Find(Find {
                locator_key: Bytes::from_static(&[0; 32]),
            });
            let answered = mesh.insist(relay.id, nothing).await;
            answered.context("the hostile relay is not let in")?;
        }
        Ok(Self {
            mesh,
            _task: running,
        })
    }

    /// Asks `relay` to keep all of these, as fast as it answers, until `until`.
    pub async fn push(&self, relay: RelayId, records: &[Bytes], until: Instant) -> Pushed {
        let asking = records.iter().map(|record| self.ask(relay, record, until));
        let pushed = Pushed::default();
        stream::iter(asking)
            .buffer_unordered(AT_ONCE)
            .fold(pushed, async |mut sum, one| {
                sum.add(one);
                sum
            })
            .await
    }

    async fn ask(&self, relay: RelayId, record: &Bytes, until: Instant) -> Pushed {
        let mut pushed = Pushed::default();
        while Instant::now() < until {
            let keep = Ask::Keep(Keep {
                record: record.clone(),
                ..Keep::default()
            });
            let answered = tokio::time::timeout(ANSWER_TIMEOUT, self.mesh.ask(relay, keep)).await;
            match answered.unwrap_or(Err(AskError::Unreachable)) {
                Ok(_) => pushed.kept += 1,
                Err(AskError::Unreachable) => pushed.unanswered += 1,
                Err(AskError::Refused(Reason::Busy)) => {
                    pushed.busy += 1;
                    sleep(BUSY_PAUSE).await;
                    continue;
                }
                Err(AskError::Refused(Reason::Taken)) => pushed.taken += 1,
                Err(AskError::Refused(Reason::Full)) => pushed.full += 1,
                Err(AskError::Refused(
                    Reason::Unspecified
                    | Reason::Malformed
                    | Reason::VersionTooOld
                    | Reason::WrongRealm
                    | Reason::WrongClock
                    | Reason::Stranger
                    | Reason::Draining
                    | Reason::BadRecord
                    | Reason::PeerGone,
                )) => pushed.other += 1,
            }
            return pushed;
        }
        pushed.left += 1;
        pushed
    }
}
