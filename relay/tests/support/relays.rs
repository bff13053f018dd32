//! Whole relays of a fleet for tests, and relays that have nothing but their mesh.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::{io, net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use bytes::Bytes;
use prometheus::Registry;
use remora_proto::{
    id::{RelayId, SessionId, Side},
    noise::{StaticKey, link::FleetKey},
    wire::message::{
        control::{Gone, Lookup, node_to_relay::Body as Request},
        mesh::{Find, Keep, Reason as RelayReason, request::Body as Ask},
    },
};
use remora_relay::{
    admin::metrics::Metrics,
    config::Config,
    datapath::socket::Socket,
    mesh::{self, AskError, Ends, Introduction, Mesh, Settings},
    relay::Relay,
    rendezvous::Shelf,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{Code, Node, admit, code, get, introduce, relay_with, within};

pub fn settings(seeds: Vec<String>) -> Settings {
    Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        seeds,
        fleet: FleetKey([7; 32].into()),
    }
}

pub fn seed(relay: &Relay) -> Vec<String> {
    vec![relay.mesh_addr().expect("in a mesh").to_string()]
}

pub fn member(seeds: Vec<String>, change: impl FnOnce(&mut Config)) -> Relay {
    relay_with(|config| {
        config.mesh = Some(settings(seeds));
        change(config);
    })
}

/// Relays that all know each other, through the first.
pub async fn fleet(size: usize) -> Vec<Relay> {
    let first = member(Vec::new(), |_| {});
    let seeds = seed(&first);
    let others = (1..size).map(|_| member(seeds.clone(), |_| {}));
    let relays: Vec<_> = [first].into_iter().chain(others).collect();
    meet(&relays, size - 1).await;
    relays
}

/// Waits until each has so many others.
pub async fn meet(relays: &[Relay], others: usize) {
    for relay in relays {
        let mut neighbours = relay.neighbours();
        within(neighbours.wait_for(|neighbours| neighbours.heard() == others))
            .await
            .expect("running");
    }
}

/// Waits until a relay's metrics say so.
pub async fn shows(relay: &Relay, line: &str) {
    let line = format!("remora_relay_{line}\n");
    let shown = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while !get(relay.admin_addr(), "/metrics").await.1.contains(&line) {
            ticks.tick().await;
        }
    };
    within(shown).await;
}

pub fn lookup(code: &Code) -> Request {
    Request::Lookup(Lookup {
        locator_keys: vec![code.key_bytes()],
    })
}

/// Frames of the session cross both ways.
pub async fn talk(host: &mut Node, joiner: &mut Node, session: SessionId) {
    let there = host.frame(session, Side::Host, b"there").await;
    assert_eq!(joiner.next_frame().await, there);
    let back = joiner.frame(session, Side::Joiner, b"and back").await;
    assert_eq!(host.next_frame().await, back);
}

/// A host at the one and a joiner at the other, with a session.
pub async fn bridged(one: &Relay, other: &Relay, seed: u8) -> (Node, Node, SessionId) {
    let (mut host, mut joiner, code) = (Node::new(one).await, Node::new(other).await, code(seed));
    host.done(code.publish()).await;
    let exchange = introduce(&mut host, &mut joiner, &code).await;
    let [allocated, _] = admit(&mut host, &mut joiner, exchange).await;
    (host, joiner, SessionId(allocated.session))
}

/// A relay of the fleet without nodes, that says what the test wants it to.
pub struct Hostile {
    pub mesh: Mesh,
    _task: JoinHandle<io::Result<()>>,
    _closing: CancellationToken,
}

/// The mesh of a relay that has nothing else, not even an answer where it says that it takes frames.
pub fn test_relay(settings: Settings, key: StaticKey) -> (Mesh, mesh::Task) {
    let Bare { mesh, task, .. } = Bare::new(settings, key, 10);
    (mesh, task)
}

/// The same, and what it keeps.
pub struct Bare {
    pub id: RelayId,
    pub mesh: Mesh,
    pub task: mesh::Task,
    pub shelf: Arc<Shelf>,
    pub metrics: Arc<Metrics>,
}

impl Bare {
    pub fn new(settings: Settings, key: StaticKey, capacity: usize) -> Self {
        let Ends { mesh, work, .. } = mesh::ends();
        let at = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut sockets = Socket::bind(at, NonZeroUsize::MIN, 64 << 10).expect("a port");
        let id = RelayId(key.public());
        let introduction = Introduction {
            key,
            realm: "default".into(),
            name: "hostile".into(),
            frame_address: "127.0.0.1:9".into(),
            socket: Arc::new(sockets.remove(0)),
        };
        let metrics = Arc::new(Metrics::new(&Registry::new()).expect("new names"));
        let shelf = Arc::new(Shelf::new(capacity, id, "default".into()));
        let (kept, counts) = (Arc::clone(&shelf), Arc::clone(&metrics));
        let task = mesh::Task::new(settings, introduction, work, kept, counts).expect("bound");
        Self {
            id,
            mesh,
            task,
            shelf,
            metrics,
        }
    }
}

impl Hostile {
    pub async fn new(victim: &Relay) -> Self {
        Self::with_key(victim, StaticKey::generate()).await
    }

    pub async fn with_key(victim: &Relay, key: StaticKey) -> Self {
        let (mesh, task) = test_relay(settings(seed(victim)), key);
        let closing = CancellationToken::new();
        let task = tokio::spawn(task.run(closing.clone()));
        let find = Ask::Find(Find {
            locator_key: code(0).key_bytes(),
        });
        within(mesh.insist(victim.id(), find))
            .await
            .expect("let in");
        Self {
            mesh,
            _task: task,
            _closing: closing,
        }
    }

    pub async fn keep(&self, victim: &Relay, record: Bytes, ended: Gone) -> Option<RelayReason> {
        let keep = Ask::Keep(Keep {
            record,
            ended: ended.into(),
            ..Keep::default()
        });
        match self.mesh.insist(victim.id(), keep).await {
            Ok(_) => None,
            Err(AskError::Refused(reason)) => Some(reason),
            Err(AskError::Unreachable) => panic!("not answered"),
        }
    }
}
