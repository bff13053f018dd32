//! The parked members of a port: a machine each, and one task for all of them.
//!
//! quinn reads the port; what is for parked nodes is read on its way there.

use std::{
    collections::{BTreeSet, HashMap},
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

/// Somebody who has just been parked is due at once, and is looked at after so long at the latest.
const LOOK: Duration = Duration::from_millis(25);

/// Parked members of one port.
#[derive(Debug)]
pub(super) struct Lot {
    /// The port's socket, to send.
    socket: UdpSocket,
    relay: SocketAddr,
    parked: Mutex<Everybody>,
    /// Those whose place the relay does not keep any more.
    lost: AtomicUsize,
}

#[derive(Debug, Default)]
struct Everybody {
    by_ticket: HashMap<u64, Parked>,
    /// An entry each, for when it is due or before: so that a relay hears from them one by one, as from nodes of their own.
    due: BTreeSet<(Instant, u64)>,
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
            loop {
                let next = lot.turn(Instant::now());
                let look = Instant::now() + LOOK;
                let at = next.map_or(look, |next| next.min(look));
                tokio::time::sleep_until(at.into()).await;
            }
        });
    }

    pub(super) fn park(&self, grant: Grant) {
        let ticket = grant.ticket();
        let now = Instant::now();
        let mut all = self.lock();
        all.by_ticket.insert(ticket, Parked::new(grant, now));
        all.due.insert((now, ticket));
    }

    /// Everybody goes.
    pub(super) fn leave(&self) {
        let now = Instant::now();
        let mut all = self.lock();
        let Everybody { by_ticket, due } = &mut *all;
        due.extend(by_ticket.iter_mut().map(|(ticket, parked)| {
            parked.leave(now);
            (now, *ticket)
        }));
    }

    pub(super) fn len(&self) -> usize {
        self.lock().by_ticket.len()
    }

    pub(super) fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whoever is due now; when the next one is.
    fn turn(&self, now: Instant) -> Option<Instant> {
        let mut all = self.lock();
        let Everybody { by_ticket, due } = &mut *all;
        while due.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, ticket)) = due.pop_first() else {
                break;
            };
            let Some(parked) = by_ticket.get_mut(&ticket) else {
                continue;
            };
            if parked.handle_timeout(now).is_some() {
                by_ticket.remove(&ticket);
                self.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            while let Some(datagram) = parked.poll_transmit(now) {
                // One that is lost is said again.
                self.socket.send_to(&datagram, self.relay).ok();
            }
            due.extend(parked.poll_timeout().map(|at| (at, ticket)));
        }
        due.first().map(|(at, _)| *at)
    }

    fn hear(&self, bytes: &[u8]) {
        let Some(Datagram { ticket, .. }) = Datagram::decode(bytes) else {
            return;
        };
        let mut all = self.lock();
        let Some(parked) = all.by_ticket.get_mut(&ticket) else {
            return;
        };
        if parked.handle(bytes, Instant::now()).is_some() {
            all.by_ticket.remove(&ticket);
            self.lost.fetch_add(1, Ordering::Relaxed);
        } else if let Some(at) = parked.poll_timeout() {
            all.due.insert((at, ticket));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Everybody> {
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
