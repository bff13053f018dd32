//! A network in front of a relay, that passes UDP, TCP, both or neither.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use remora_proto::id::RelayAddr;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::JoinSet,
};

const MAX_DATAGRAM_BYTES: usize = 65_536;

/// See the module.
#[derive(Debug)]
pub(crate) struct Front {
    /// The relay, as nodes have to know it.
    pub(crate) relay: RelayAddr,
    passes_udp: watch::Sender<bool>,
    /// Datagrams of nodes, passed or not.
    seen: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Front {
    /// In front of `relay`, whose ports have one number.
    pub(crate) async fn new(relay: &RelayAddr, passes_udp: bool, passes_tcp: bool) -> Self {
        let upstream: SocketAddr = relay.host_port.parse().expect("an address");
        let (udp, tcp) = ports().await;
        let address = udp.local_addr().expect("bound");
        let (passes, passing) = watch::channel(passes_udp);
        let mut tasks = JoinSet::new();
        let seen = Arc::default();
        tasks.spawn(datagrams(udp, upstream, passing, Arc::clone(&seen)));
        tasks.spawn(connections(tcp, passes_tcp.then_some(upstream)));
        Self {
            relay: RelayAddr {
                host_port: address.to_string(),
                ..relay.clone()
            },
            passes_udp: passes,
            seen,
            _tasks: tasks,
        }
    }

    /// How many datagrams nodes have sent.
    pub(crate) fn udp_seen(&self) -> usize {
        self.seen.load(Ordering::Relaxed)
    }

    /// From now on.
    pub(crate) fn passes_udp(&self, passes: bool) {
        self.passes_udp.send_replace(passes);
    }
}

/// A port of each kind, of one number.
async fn ports() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let udp = udp.expect("a port");
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("bound")).await {
            return (udp, tcp);
        }
    }
}

async fn datagrams(
    inside: UdpSocket,
    upstream: SocketAddr,
    passes: watch::Receiver<bool>,
    seen: Arc<AtomicUsize>,
) {
    let inside = Arc::new(inside);
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    let mut outside_by_node = HashMap::new();
    let mut tasks = JoinSet::new();
    while let Ok((length, node)) = inside.recv_from(&mut buffer).await {
        seen.fetch_add(1, Ordering::Relaxed);
        if !*passes.borrow() {
            continue;
        }
        if let Entry::Vacant(place) = outside_by_node.entry(node) {
            let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let outside = Arc::new(outside.expect("a port"));
            outside.connect(upstream).await.expect("an address");
            tasks.spawn(back(outside.clone(), inside.clone(), node, passes.clone()));
            place.insert(outside);
        }
        // As on any network: what cannot be sent is lost.
        outside_by_node[&node].send(&buffer[..length]).await.ok();
    }
}

async fn back(
    outside: Arc<UdpSocket>,
    inside: Arc<UdpSocket>,
    node: SocketAddr,
    passes: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    loop {
        if let Ok(length) = outside.recv(&mut buffer).await
            && *passes.borrow()
        {
            inside.send_to(&buffer[..length], node).await.ok();
        }
    }
}

/// Where TCP is not passed, nobody answers either.
async fn connections(inside: TcpListener, upstream: Option<SocketAddr>) {
    let mut tasks = JoinSet::new();
    let mut unanswered = Vec::new();
    while let Ok((mut node, _)) = inside.accept().await {
        let Some(upstream) = upstream else {
            unanswered.push(node);
            continue;
        };
        tasks.spawn(async move {
            if let Ok(mut relay) = TcpStream::connect(upstream).await {
                copy_bidirectional(&mut node, &mut relay).await.ok();
            }
        });
    }
}
