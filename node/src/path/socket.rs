//! The magic socket: a datagram's first byte and session id say whose it is.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSliceMut},
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use quinn::udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use remora_proto::{
    id::{SessionId, Side},
    path::check,
    wire::{self, frame},
};
use tokio::{io::Interest, net::UdpSocket, sync::mpsc};

use super::{mover::Arrived, silence::Silence};

/// Packets waiting for quinn, per virtual socket. A burst of a screen frame is 40 packets; when quinn is that far
/// behind, dropping is what a socket buffer would do, too.
const QUEUE_PACKETS: usize = 1024;
/// Checks waiting for a session's path: both sides' bursts, twice.
const QUEUE_CHECKS: usize = 64;
/// Datagrams waiting for a parked node: one at a time, and again when it is lost.
const QUEUE_PARKED: usize = 8;
/// Frames kept for a session that is about to open: the first flight of a handshake.
const MAX_EARLY_PACKETS: usize = 8;
/// Largest datagram; GRO hands over up to 64 KiB at once.
const RECEIVE_BYTES: usize = 65_536;
/// For bursts that arrive while the process is not running.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;

/// One packet for quinn.
#[derive(Debug)]
pub struct Packet {
    /// Where it really came from.
    pub from: SocketAddr,
    /// Congestion mark.
    pub ecn: Option<EcnCodepoint>,
    /// The QUIC packet.
    pub bytes: Bytes,
}

/// What a socket receives of the control connection's.
#[derive(Debug)]
pub struct Incoming {
    /// QUIC packets.
    pub control: mpsc::Receiver<Packet>,
    /// Datagrams for a parked node.
    pub parked: mpsc::Receiver<Bytes>,
}

/// Whose packets a session's frames are.
struct Route {
    relay: SocketAddr,
    /// Frames from our own side are not for us.
    peer: Side,
    /// Where else the other node's frames come from: it has proven that it is there.
    trusted: Vec<SocketAddr>,
    queue: mpsc::Sender<Packet>,
    checks: mpsc::Sender<Arrived>,
    silence: Arc<Silence>,
}

/// A session's end of the socket.
#[derive(Debug)]
pub struct Opened {
    /// The other node's packets.
    pub packets: mpsc::Receiver<Packet>,
    /// What is for the path's task.
    pub arrived: mpsc::Receiver<Arrived>,
    /// To be told of what is sent.
    pub silence: Arc<Silence>,
}

/// The one UDP socket of a node.
pub struct MagicSocket {
    io: UdpSocket,
    state: UdpSocketState,
    control: mpsc::Sender<Packet>,
    parked: mpsc::Sender<Bytes>,
    // Touched once a packet and never across an await; written twice a session.
    routes: Mutex<Routes>,
}

#[derive(Default)]
struct Routes {
    open: HashMap<SessionId, Route>,
    /// The last frames of sessions that are not open: the other node may begin before our relay's word reaches us.
    early: VecDeque<(frame::Header, Packet)>,
}

impl std::fmt::Debug for MagicSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MagicSocket({:?})", self.io.local_addr())
    }
}

impl MagicSocket {
    /// Binds a port of the system's choosing that can reach `relay`; also gives the queues of what comes for control.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(relay: SocketAddr) -> io::Result<(Arc<Self>, Incoming)> {
        let any: SocketAddr = if relay.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0u16; 8], 0).into()
        };
        let domain = socket2::Domain::for_address(any);
        let socket =
            socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
        if any.is_ipv6() {
            // Each address has one form: none is another's, mapped (RFC 4291 §2.5.5.2).
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&any.into())?;
        let io = UdpSocket::from_std(socket.into())?;
        let state = UdpSocketState::new(UdpSockRef::from(&io))?;
        // Best effort: the system may cap it, and smaller buffers only lose more packets under bursts.
        for result in [
            state.set_recv_buffer_size(UdpSockRef::from(&io), SOCKET_BUFFER_BYTES),
            state.set_send_buffer_size(UdpSockRef::from(&io), SOCKET_BUFFER_BYTES),
        ] {
            if let Err(error) = result {
                tracing::debug!(%error, "socket buffer size");
            }
        }
        let (control, control_queue) = mpsc::channel(QUEUE_PACKETS);
        let (parked, parked_queue) = mpsc::channel(QUEUE_PARKED);
        Ok((
            Arc::new(Self {
                io,
                state,
                control,
                parked,
                routes: Mutex::default(),
            }),
            Incoming {
                control: control_queue,
                parked: parked_queue,
            },
        ))
    }

    /// Receives until the socket fails; owned by the node as a task.
    pub async fn receive(self: Arc<Self>) -> io::Result<()> {
        let mut buffers: Vec<Vec<u8>> = (0..BATCH_SIZE).map(|_| vec![0; RECEIVE_BYTES]).collect();
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        loop {
            self.io.readable().await?;
            let received = self.io.try_io(Interest::READABLE, || {
                let mut slices: Vec<IoSliceMut<'_>> = buffers
                    .iter_mut()
                    .map(|buffer| IoSliceMut::new(buffer))
                    .collect();
                self.state
                    .recv(UdpSockRef::from(&self.io), &mut slices, &mut metas)
            });
            let count = match received {
                Ok(count) => count,
                Err(error) if is_transient(&error) => continue,
                Err(error) => return Err(error),
            };
            for (buffer, meta) in buffers.iter().zip(&metas[..count]) {
                for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                    self.dispatch(datagram, meta);
                }
            }
        }
    }

    fn dispatch(&self, datagram: &[u8], meta: &RecvMeta) {
        let packet = |bytes| Packet {
            from: meta.addr,
            ecn: meta.ecn,
            bytes: Bytes::copy_from_slice(bytes),
        };
        let full = match wire::kind(datagram) {
            wire::Kind::Quic => self.control.try_send(packet(datagram)).is_err(),
            wire::Kind::Frame => {
                let Ok((header, inner)) = frame::Header::decode(datagram) else {
                    return;
                };
                self.lock().dispatch(header, packet(inner))
            }
            wire::Kind::Park => {
                let datagram = Bytes::copy_from_slice(datagram);
                self.parked.try_send(datagram).is_err()
            }
            wire::Kind::Check => self.lock().dispatch_check(datagram, meta.addr),
            wire::Kind::Reflect => self.lock().dispatch_reflection(datagram, meta.addr),
            wire::Kind::Unknown => false,
        };
        if full {
            tracing::trace!("packet dropped: queue full");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, the session's frames from `relay` go to the returned queue; whoever sends some tells the silence.
    pub fn open_route(&self, session: SessionId, side: Side, relay: SocketAddr) -> Opened {
        let (queue, packets) = mpsc::channel(QUEUE_PACKETS);
        let (checks, arrived) = mpsc::channel(QUEUE_CHECKS);
        let silence = Arc::new(Silence::new(Instant::now()));
        let route = Route {
            relay,
            peer: side.peer(),
            trusted: Vec::new(),
            queue,
            checks,
            silence: Arc::clone(&silence),
        };
        let mut routes = self.lock();
        routes.open.insert(session, route);
        for (header, packet) in std::mem::take(&mut routes.early).into_iter().rev() {
            routes.dispatch(header, packet);
        }
        drop(routes);
        Opened {
            packets,
            arrived,
            silence,
        }
    }

    /// The session's frames may come from these addresses, too.
    pub fn trust(&self, session: SessionId, addresses: Vec<SocketAddr>) {
        if let Some(route) = self.lock().open.get_mut(&session) {
            route.trusted = addresses;
        }
    }

    /// Whether the session's frames have met with silence, so that the relay should hear where we are.
    pub fn is_unheard(&self, session: SessionId) -> bool {
        let routes = self.lock();
        let route = routes.open.get(&session);
        route.is_some_and(|route| route.silence.is_due(Instant::now()))
    }

    /// The session's frames are nobody's any more.
    pub fn close_route(&self, session: SessionId) {
        self.lock().open.remove(&session);
    }

    /// What the network does not take, a route that is gone for a moment, say, is as good as lost to quinn: it sends again, and
    /// ends the session when that has not helped for long. Errors are of a full buffer only.
    pub(super) fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || {
            self.state.send(UdpSockRef::from(&self.io), transmit)
        })
    }

    /// Sends a datagram, if there is room for it; whoever needs it to arrive says it again.
    pub(crate) fn send_to(&self, bytes: &[u8], to: SocketAddr) {
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: bytes,
            segment_size: None,
            src_ip: None,
        };
        if let Err(error) = self.try_send(&transmit) {
            tracing::trace!(%error, "a datagram was not sent");
        }
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }

    pub(super) fn max_gso_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// The bound address.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }
}

/// For a program that sends and receives frames of its own over it (`loadtest`), and for options of the socket.
///
/// Whoever receives from it takes packets from the node: only while [`MagicSocket::receive`] is not polled.
impl AsFd for MagicSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl Routes {
    /// Hands the packet to its session; true when its queue is full.
    fn dispatch(&mut self, header: frame::Header, packet: Packet) -> bool {
        match self.open.get(&header.session) {
            Some(route) if route.relay == packet.from && route.peer == header.side => {
                route.silence.heard();
                if wire::kind(&packet.bytes) == wire::Kind::Check {
                    let bytes = packet.bytes;
                    return route
                        .checks
                        .try_send(Arrived { from: None, bytes })
                        .is_err();
                }
                route.queue.try_send(packet).is_err()
            }
            Some(route) if route.trusted.contains(&packet.from) && route.peer == header.side => {
                route.silence.heard();
                route.queue.try_send(packet).is_err()
            }
            Some(_) => false,
            None => {
                self.early.truncate(MAX_EARLY_PACKETS - 1);
                self.early.push_front((header, packet));
                false
            }
        }
    }
}

impl Routes {
    /// Hands a check to its session; true when its queue is full.
    fn dispatch_check(&self, datagram: &[u8], from: SocketAddr) -> bool {
        let route = check::session(datagram).and_then(|session| self.open.get(&session));
        route.is_some_and(|route| {
            let bytes = Bytes::copy_from_slice(datagram);
            let from = Some(from);
            route.checks.try_send(Arrived { from, bytes }).is_err()
        })
    }

    /// Hands what a relay answers to the sessions that go through it; true when a queue is full.
    fn dispatch_reflection(&self, datagram: &[u8], from: SocketAddr) -> bool {
        let mut is_full = false;
        for route in self.open.values().filter(|route| route.relay == from) {
            let bytes = Bytes::copy_from_slice(datagram);
            let from = Some(from);
            is_full |= route.checks.try_send(Arrived { from, bytes }).is_err();
        }
        is_full
    }
}

/// Errors of one datagram (an ICMP message on its way back, say), not of the socket.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}
