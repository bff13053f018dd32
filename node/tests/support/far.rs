//! A network between nodes and a relay that takes its time, and as much as a test wants; or before several relays, of which each of a
//! node's sockets is led to one, in turn.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use remora_proto::id::RelayAddr;
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

const MAX_DATAGRAM_BYTES: usize = 65_536;
/// Datagrams on their way. What is more is lost, as on any network.
const QUEUE_DATAGRAMS: usize = 4096;

/// From nodes to relays and back.
#[derive(Debug)]
pub(crate) struct Far {
    /// The relay, as the node has to know it; of several, the first.
    pub(crate) relay: RelayAddr,
    /// Each way, in milliseconds.
    delay_ms: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Far {
    /// In front of `relay`, so long each way.
    pub(crate) async fn new(relay: &RelayAddr, delay: Duration) -> Self {
        let far = Self::before(&[relay]).await;
        far.set(delay);
        far
    }

    /// In front of all of them.
    pub(crate) async fn before(relays: &[&RelayAddr]) -> Self {
        let place = |relay: &&RelayAddr| relay.host_port.parse().expect("an address");
        let upstreams: Vec<SocketAddr> = relays.iter().map(place).collect();
        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
        let relay = RelayAddr {
            host_port: inside.local_addr().expect("bound").to_string(),
            ..relays[0].clone()
        };
        let (delay_ms, mut tasks) = (Arc::default(), JoinSet::new());
        tasks.spawn(forward(inside, upstreams, Arc::clone(&delay_ms)));
        Self {
            relay,
            delay_ms,
            _tasks: tasks,
        }
    }

    /// It takes so long from now on.
    pub(crate) fn set(&self, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).expect("a short time");
        self.delay_ms.store(ms, Ordering::Relaxed);
    }
}

type Sent = (Instant, Bytes, Option<SocketAddr>);

/// Each of a node's sockets has one of its own here, for a relay knows nodes by their addresses.
async fn forward(inside: Arc<UdpSocket>, upstreams: Vec<SocketAddr>, delay_ms: Arc<AtomicU64>) {
    let mut tasks = JoinSet::new();
    let mut outside: Vec<(SocketAddr, mpsc::Sender<Sent>)> = Vec::new();
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    let due = move |delay_ms: &AtomicU64| {
        Instant::now() + Duration::from_millis(delay_ms.load(Ordering::Relaxed))
    };
    while let Ok((length, from)) = inside.recv_from(&mut buffer).await {
        let known = outside.iter().position(|(node, _)| *node == from);
        let at = match known {
            Some(at) => at,
            None => {
                let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
                socket
                    .connect(upstreams[outside.len() % upstreams.len()])
                    .await
                    .expect("an address");
                let (queue, queued) = mpsc::channel(QUEUE_DATAGRAMS);
                tasks.spawn(deliver(Arc::clone(&socket), queued));
                let (back, returning) = mpsc::channel::<Sent>(QUEUE_DATAGRAMS);
                tasks.spawn(deliver(Arc::clone(&inside), returning));
                let delay_ms = Arc::clone(&delay_ms);
                tasks.spawn(async move {
                    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
                    // An error is of one datagram: nobody listens there now.
                    loop {
                        if let Ok(length) = socket.recv(&mut buffer).await {
                            let bytes = Bytes::copy_from_slice(&buffer[..length]);
                            back.try_send((due(&delay_ms), bytes, Some(from))).ok();
                        }
                    }
                });
                outside.push((from, queue));
                outside.len() - 1
            }
        };
        let bytes = Bytes::copy_from_slice(&buffer[..length]);
        outside[at].1.try_send((due(&delay_ms), bytes, None)).ok();
    }
}

async fn deliver(socket: Arc<UdpSocket>, mut queue: mpsc::Receiver<Sent>) {
    while let Some((due, bytes, to)) = queue.recv().await {
        sleep_until(due).await;
        match to {
            Some(to) => socket.send_to(&bytes, to).await.ok(),
            None => socket.send(&bytes).await.ok(),
        };
    }
}
