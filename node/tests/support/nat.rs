//! A NAT between a node and its relay, whose mapping can be forgotten and whose cable pulled.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use remora_proto::id::RelayAddr;
use tokio::{net::UdpSocket, sync::watch, task::JoinSet};

const MAX_DATAGRAM_BYTES: usize = 65_536;

/// One node's NAT.
#[derive(Debug)]
pub(crate) struct Nat {
    /// The relay, as the node has to know it.
    pub(crate) relay: RelayAddr,
    upstream: SocketAddr,
    mapping: Arc<Mutex<Arc<UdpSocket>>>,
    changed: watch::Sender<()>,
    is_cut: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Nat {
    /// In front of `relay`.
    pub(crate) async fn new(relay: &RelayAddr) -> Self {
        let upstream = relay.host_port.parse().expect("an address");
        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
        let address = inside.local_addr().expect("bound");
        let mapping = Arc::new(Mutex::new(map(upstream).await));
        let (changed, changes) = watch::channel(());
        let (node, nodes) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let is_cut = Arc::<AtomicBool>::default();
        let cut = Arc::clone(&is_cut);
        tasks.spawn(outwards(inside.clone(), mapping.clone(), node, cut));
        let cut = Arc::clone(&is_cut);
        tasks.spawn(inwards(inside, mapping.clone(), changes, nodes, cut));
        Self {
            relay: RelayAddr {
                host_port: address.to_string(),
                ..relay.clone()
            },
            upstream,
            mapping,
            changed,
            is_cut,
            _tasks: tasks,
        }
    }

    /// From now on the relay sees the node elsewhere, and what it sends to where it was is lost.
    pub(crate) async fn forget(&self) {
        let fresh = map(self.upstream).await;
        *self.mapping.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        self.changed.send(()).expect("inwards lives");
    }

    /// Nothing goes through from now on, or all does again.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }
}

async fn map(upstream: SocketAddr) -> Arc<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    socket.connect(upstream).await.expect("an address");
    Arc::new(socket)
}

async fn outwards(
    inside: Arc<UdpSocket>,
    mapping: Arc<Mutex<Arc<UdpSocket>>>,
    node: watch::Sender<Option<SocketAddr>>,
    is_cut: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    while let Ok((length, from)) = inside.recv_from(&mut buffer).await {
        node.send_replace(Some(from));
        if is_cut.load(Ordering::Relaxed) {
            continue;
        }
        let outside = current(&mapping);
        // As on any network: what cannot be sent is lost.
        outside.send(&buffer[..length]).await.ok();
    }
}

async fn inwards(
    inside: Arc<UdpSocket>,
    mapping: Arc<Mutex<Arc<UdpSocket>>>,
    mut changes: watch::Receiver<()>,
    node: watch::Receiver<Option<SocketAddr>>,
    is_cut: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    loop {
        let outside = current(&mapping);
        tokio::select! { biased;
            changed = changes.changed() => if changed.is_err() { return },
            Ok(length) = outside.recv(&mut buffer) => {
                let node = *node.borrow();
                if let Some(node) = node.filter(|_| !is_cut.load(Ordering::Relaxed)) {
                    inside.send_to(&buffer[..length], node).await.ok();
                }
            }
        }
    }
}

fn current(mapping: &Mutex<Arc<UdpSocket>>) -> Arc<UdpSocket> {
    mapping
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}
