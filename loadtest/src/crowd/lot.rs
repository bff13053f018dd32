//! The parked members of a port: a machine each, and one task for all of them.
//!
//! quinn reads the port; what is for parked nodes is read on its way there.

use std::{
    collections::HashMap,
    fmt,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use remora_proto::{
    park::{Datagram, Grant, Parked},
    wire::{self, Kind},
};
use tokio::task::JoinSet;

/// How often one looks who is due: a node's Keep may be late by as much.
const TICK: Duration = Duration::from_millis(250);

/// Parked members of one port.
#[derive(Debug)]
pub(super) struct Lot {
    /// The port's socket, to send.
    socket: UdpSocket,
    relay: SocketAddr,
    parked: Mutex<HashMap<u64, Parked>>,
    /// Those whose place the relay does not keep any more.
    lost: AtomicUsize,
}

impl Lot {
    pub(super) fn new(socket: UdpSocket, relay: SocketAddr) -> Self {
        Self {
            socket,
            relay,
            parked: Mutex::default(),
            lost: AtomicUsize::new(0),
        }
    }

    /// Says for each member what it has to say, for as long as the task is kept.
    pub(super) fn tend(self: &Arc<Self>, tasks: &mut JoinSet<()>) {
        let lot = Arc::clone(self);
        tasks.spawn(async move {
            let mut tick = tokio::time::interval(TICK);
            loop {
                tick.tick().await;
                lot.turn(Instant::now());
            }
        });
    }

    pub(super) fn park(&self, grant: Grant) {
        let ticket = grant.ticket();
        let parked = Parked::new(grant, Instant::now());
        self.lock().insert(ticket, parked);
    }

    /// Everybody goes.
    pub(super) fn leave(&self) {
        let now = Instant::now();
        for parked in self.lock().values_mut() {
            parked.leave(now);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }

    fn turn(&self, now: Instant) {
        self.lock().retain(|_, parked| {
            let due = parked.poll_timeout().is_some_and(|due| due <= now);
            if due && parked.handle_timeout(now).is_some() {
                self.lost.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            while let Some(datagram) = due.then(|| parked.poll_transmit(now)).flatten() {
                // One that is lost is said again.
                self.socket.send_to(&datagram, self.relay).ok();
            }
            true
        });
    }

    fn hear(&self, bytes: &[u8]) {
        let Some(Datagram { ticket, .. }) = Datagram::decode(bytes) else {
            return;
        };
        let mut parked = self.lock();
        let is_over = parked
            .get_mut(&ticket)
            .is_some_and(|parked| parked.handle(bytes, Instant::now()).is_some());
        if is_over {
            parked.remove(&ticket);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A port for quinn, on which the lot listens.
pub(super) struct Shared {
    pub(super) port: Arc<dyn AsyncUdpSocket>,
    pub(super) lot: Arc<Lot>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl AsyncUdpSocket for Shared {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.port).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.port.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.port.poll_recv(cx, bufs, meta))?;
        for (buf, meta) in bufs.iter().zip(&meta[..count]) {
            // quinn does not know this first byte, and drops what begins with it.
            let datagrams = buf[..meta.len].chunks(meta.stride.max(1));
            for datagram in datagrams.filter(|datagram| wire::kind(datagram) == Kind::Park) {
                self.lot.hear(datagram);
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.port.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.port.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.port.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.port.may_fragment()
    }
}
