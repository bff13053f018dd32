//! The magic socket: a datagram's first byte and session id say whose it is.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use remora_proto::{
    id::{SessionId, Side},
    path::{
        check,
        way::{Base, Way},
    },
    wire::{self, frame},
};
use tokio::{sync::mpsc, task::AbortHandle};

use super::{bearing::Bearing, mover::Arrived, silence::Silence, udp::Udp};

/// Packets waiting for quinn, per virtual socket. A burst of a screen frame is 40 packets; when quinn is that far
/// behind, dropping is what a socket buffer would do, too.
const QUEUE_PACKETS: usize = 1024;
/// Checks waiting for a session's path: both sides' bursts, twice.
const QUEUE_CHECKS: usize = 64;
/// Datagrams waiting for a parked node: one at a time, and again when it is lost.
const QUEUE_PARKED: usize = 8;
/// Frames kept for a session that is about to open: the first flight of a handshake.
const MAX_EARLY_PACKETS: usize = 8;
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
    /// Frames from our own side are not for us.
    peer: Side,
    /// Who says how they see us.
    observers: Vec<SocketAddr>,
    /// Where else the other node's frames come from: it has proven that it is there.
    trusted: Vec<Way>,
    inlet: Inlet,
    /// Whether a frame of the other node's has come through the relay.
    is_heard: Arc<AtomicBool>,
}

/// Where a session's packets go, whatever socket they come by.
#[derive(Clone, Debug)]
pub struct Inlet {
    queue: mpsc::Sender<Packet>,
    checks: mpsc::Sender<Arrived>,
    silence: Arc<Silence>,
}

/// A session's end of its sockets.
#[derive(Debug)]
pub struct Opened {
    /// The other node's packets.
    pub packets: mpsc::Receiver<Packet>,
    /// What is for the path's task.
    pub arrived: mpsc::Receiver<Arrived>,
    /// To be told of what is sent.
    pub silence: Arc<Silence>,
}

impl Inlet {
    /// A session's, and its own end.
    pub fn new(now: Instant) -> (Self, Opened) {
        let (queue, packets) = mpsc::channel(QUEUE_PACKETS);
        let (checks, arrived) = mpsc::channel(QUEUE_CHECKS);
        let silence = Arc::new(Silence::new(now));
        let opened = Opened {
            packets,
            arrived,
            silence: Arc::clone(&silence),
        };
        let inlet = Self {
            queue,
            checks,
            silence,
        };
        (inlet, opened)
    }
}

/// The UDP sockets of a node, as one. The main one is of the family that the relay is reached by, and always there; a session
/// adds its sibling of the other family, and others when a NAT has to be met from many ports.
pub struct MagicSocket {
    main: Udp,
    is_v4: bool,
    relay: SocketAddr,
    /// By what datagrams to the relay leave.
    bearing: Bearing,
    others: Mutex<Others>,
    control: mpsc::Sender<Packet>,
    parked: mpsc::Sender<Bytes>,
    // Touched once a packet and never across an await; written twice a session.
    routes: Mutex<Routes>,
}

#[derive(Default)]
struct Others {
    /// Of the family that the main one is not of; its base is the main one's.
    sibling: Option<Other>,
    numbered: BTreeMap<Base, Other>,
}

/// A socket with a task that receives from it, for as long as this is there.
struct Other {
    udp: Arc<Udp>,
    task: AbortHandle,
}

impl Drop for Other {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct Routes {
    open: HashMap<SessionId, Route>,
    /// The last frames of sessions that are not open: the other node may begin before our relay's word reaches us.
    early: VecDeque<(frame::Header, Packet)>,
}

impl std::fmt::Debug for MagicSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MagicSocket({:?})", self.main)
    }
}

/// Which socket a datagram leaves by.
enum Chosen<'a> {
    Main(&'a Udp),
    Other(Arc<Udp>),
}

impl std::ops::Deref for Chosen<'_> {
    type Target = Udp;

    fn deref(&self) -> &Udp {
        match self {
            Self::Main(udp) => udp,
            Self::Other(udp) => udp,
        }
    }
}

impl MagicSocket {
    /// Binds a port of the system's choosing that can reach `relay`; also gives the queues of what comes for control.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(relay: SocketAddr) -> io::Result<(Arc<Self>, Incoming)> {
        Self::bind_to(relay, false)
    }

    /// The same, and nothing is sent to the relay by UDP: it waits for a stream.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind_tcp_only(relay: SocketAddr) -> io::Result<(Arc<Self>, Incoming)> {
        Self::bind_to(relay, true)
    }

    fn bind_to(relay: SocketAddr, tcp_only: bool) -> io::Result<(Arc<Self>, Incoming)> {
        let (control, control_queue) = mpsc::channel(QUEUE_PACKETS);
        let (parked, parked_queue) = mpsc::channel(QUEUE_PARKED);
        Ok((
            Arc::new(Self {
                main: Udp::bind(relay.is_ipv4())?,
                is_v4: relay.is_ipv4(),
                relay,
                bearing: Bearing::new(tcp_only),
                others: Mutex::default(),
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

    /// Receives from the main socket until it fails; owned by the node as a task.
    pub async fn receive(self: Arc<Self>) -> io::Result<()> {
        let receiving = self.main.receive(|datagram, meta| {
            if meta.addr == self.relay {
                self.bearing.handle(datagram);
            }
            self.dispatch(datagram, meta, Base::MAIN);
        });
        receiving.await
    }

    /// Opens the sibling of the other family; where the system has none, nothing is lost.
    pub fn open_sibling(self: &Arc<Self>) {
        match self.open_other(!self.is_v4, Base::MAIN) {
            Ok(other) => self.others().sibling = Some(other),
            Err(error) => tracing::debug!(%error, "no socket of the other family"),
        }
    }

    /// Opens an IPv4 socket of that number.
    ///
    /// # Errors
    /// What the system says: there are too many.
    pub fn open(self: &Arc<Self>, base: Base) -> io::Result<()> {
        let other = self.open_other(true, base)?;
        self.others().numbered.insert(base, other);
        Ok(())
    }

    /// Closes it.
    pub fn close(&self, base: Base) {
        self.others().numbered.remove(&base);
    }

    fn open_other(self: &Arc<Self>, is_v4: bool, base: Base) -> io::Result<Other> {
        let udp = Arc::new(Udp::bind(is_v4)?);
        let (receiving, to) = (Arc::clone(&udp), Arc::downgrade(self));
        let task = tokio::spawn(async move {
            let take = |datagram: &[u8], meta: &RecvMeta| {
                if let Some(to) = Weak::upgrade(&to) {
                    to.dispatch(datagram, meta, base);
                }
            };
            if let Err(error) = receiving.receive(take).await {
                tracing::warn!(%error, ?base, "a UDP socket failed");
            }
        });
        let task = task.abort_handle();
        Ok(Other { udp, task })
    }

    fn others(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the relay sent by a stream: as if it had come from its UDP port.
    pub(super) fn take_from_relay(&self, datagram: &[u8]) {
        let meta = RecvMeta {
            addr: self.relay,
            len: datagram.len(),
            stride: datagram.len(),
            ecn: None,
            dst_ip: None,
        };
        self.dispatch(datagram, &meta, Base::MAIN);
    }

    /// The relay that it is there for.
    pub fn relay(&self) -> SocketAddr {
        self.relay
    }

    /// By what datagrams to the relay leave.
    pub(super) fn bearing(&self) -> &Bearing {
        &self.bearing
    }

    /// Whether the relay is reached by a stream, because UDP does not go, or is not wanted.
    pub fn is_by_stream(&self) -> bool {
        self.bearing.is_by_stream()
    }

    /// Asks the relay by UDP, whatever else goes by what.
    pub(super) fn ask(&self, transaction: u64) {
        let question = self.bearing.ask(transaction);
        self.send_to(&question, Way::main(self.relay));
    }

    fn dispatch(&self, datagram: &[u8], meta: &RecvMeta, base: Base) {
        let packet = |bytes| Packet {
            from: meta.addr,
            ecn: meta.ecn,
            bytes: Bytes::copy_from_slice(bytes),
        };
        let way = Way {
            base,
            to: meta.addr,
        };
        let full = match wire::kind(datagram) {
            wire::Kind::Quic => {
                base == Base::MAIN && self.control.try_send(packet(datagram)).is_err()
            }
            wire::Kind::Frame => {
                let Ok((header, inner)) = frame::Header::decode(datagram) else {
                    return;
                };
                self.lock()
                    .dispatch(header, packet(inner), base, self.relay)
            }
            wire::Kind::Park => {
                let datagram = Bytes::copy_from_slice(datagram);
                self.parked.try_send(datagram).is_err()
            }
            wire::Kind::Check => self.lock().dispatch_check(datagram, way),
            wire::Kind::Reflect => self.lock().dispatch_reflection(datagram, way),
            wire::Kind::Unknown => false,
        };
        if full {
            tracing::trace!("packet dropped: queue full");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, the session's frames from the relay go to `inlet`; whoever sends some tells the silence. Also gives whether one has
    /// come.
    pub fn open_route(
        &self,
        session: SessionId,
        side: Side,
        observers: Vec<SocketAddr>,
        inlet: Inlet,
    ) -> Arc<AtomicBool> {
        let is_heard = Arc::new(AtomicBool::new(false));
        let route = Route {
            peer: side.peer(),
            observers,
            trusted: Vec::new(),
            inlet,
            is_heard: Arc::clone(&is_heard),
        };
        let mut routes = self.lock();
        routes.open.insert(session, route);
        for (header, packet) in std::mem::take(&mut routes.early).into_iter().rev() {
            routes.dispatch(header, packet, Base::MAIN, self.relay);
        }
        is_heard
    }

    /// What these say of how they see us is for the session.
    pub fn observe(&self, session: SessionId, observers: Vec<SocketAddr>) {
        if let Some(route) = self.lock().open.get_mut(&session) {
            route.observers = observers;
        }
    }

    /// The session's frames may come by these ways, too.
    pub fn trust(&self, session: SessionId, ways: Vec<Way>) {
        if let Some(route) = self.lock().open.get_mut(&session) {
            route.trusted = ways;
        }
    }

    /// Whether the session's frames have met with silence, or go by something else, so that the relay should hear where we are.
    pub fn is_unheard(&self, session: SessionId) -> bool {
        if self.bearing.has_changed() {
            return true;
        }
        let routes = self.lock();
        let route = routes.open.get(&session);
        route.is_some_and(|route| route.inlet.silence.is_due(Instant::now()))
    }

    /// The session's frames do not come through this relay any more.
    pub fn leave_route(&self, session: SessionId) {
        self.lock().open.remove(&session);
    }

    /// The session's frames are nobody's any more, and what was opened for it is closed.
    pub fn close_route(&self, session: SessionId) {
        self.lock().open.remove(&session);
        *self.others() = Others::default();
    }

    /// The socket by which a way goes; `None` when it is closed, or was never there.
    fn by(&self, way: Way) -> Option<Chosen<'_>> {
        if way.base == Base::MAIN && way.to.is_ipv4() == self.is_v4 {
            return Some(Chosen::Main(&self.main));
        }
        let others = self.others();
        let other = if way.base == Base::MAIN {
            others.sibling.as_ref()
        } else {
            others.numbered.get(&way.base)
        };
        other.map(|other| Chosen::Other(Arc::clone(&other.udp)))
    }

    /// From that socket; what has none is lost, as by a network that does not take it.
    pub(super) fn try_send(&self, base: Base, transmit: &Transmit<'_>) -> io::Result<()> {
        let to = transmit.destination;
        if (base, to) == (Base::MAIN, self.relay) && self.bearing.take(transmit) {
            return Ok(());
        }
        self.by(Way { base, to })
            .map_or(Ok(()), |udp| udp.try_send(transmit))
    }

    /// Sends a datagram, if there is room for it; whoever needs it to arrive says it again.
    pub(crate) fn send_to(&self, bytes: &[u8], way: Way) {
        let transmit = Transmit {
            destination: way.to,
            ecn: None,
            contents: bytes,
            segment_size: None,
            src_ip: None,
        };
        if let Err(error) = self.try_send(way.base, &transmit) {
            tracing::trace!(%error, ?way, "a datagram was not sent");
        }
    }

    /// Until there is room for what goes that way.
    pub(super) async fn writable(&self, way: Way) -> io::Result<()> {
        if way == Way::main(self.relay) && self.is_by_stream() {
            // What finds no room there is lost, and waiting before a stream is bounded by time.
            return Ok(());
        }
        match self.by(way) {
            Some(udp) => udp.writable().await,
            None => Ok(()),
        }
    }

    pub(super) fn max_gso_segments(&self) -> usize {
        self.main.max_gso_segments()
    }

    /// The main socket's address.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.main.local_addr()
    }

    /// Where candidates are: the main socket's address, and its sibling's, if there is one.
    pub fn bases(&self) -> Vec<SocketAddr> {
        let others = self.others();
        let sibling = others.sibling.as_ref().map(|other| other.udp.local_addr());
        [Some(self.main.local_addr()), sibling]
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .collect()
    }

    /// The port of the one for IPv4, if there is one.
    pub fn v4_port(&self) -> Option<u16> {
        let v4 = self.bases().into_iter().find(SocketAddr::is_ipv4);
        v4.map(|v4| v4.port())
    }
}

/// For a program that sends and receives frames of its own over it (`loadtest`), and for options of the socket.
///
/// Whoever receives from it takes packets from the node: only while [`MagicSocket::receive`] is not polled.
impl AsFd for MagicSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.main.as_fd()
    }
}

impl Routes {
    /// Hands the packet to its session; true when its queue is full.
    fn dispatch(
        &mut self,
        header: frame::Header,
        packet: Packet,
        base: Base,
        relay: SocketAddr,
    ) -> bool {
        let way = Way {
            base,
            to: packet.from,
        };
        match self.open.get(&header.session) {
            Some(route) if Way::main(relay) == way && route.peer == header.side => {
                route.inlet.silence.heard();
                route.is_heard.store(true, Ordering::Relaxed);
                if wire::kind(&packet.bytes) == wire::Kind::Check {
                    let bytes = packet.bytes;
                    let checks = &route.inlet.checks;
                    return checks.try_send(Arrived { from: None, bytes }).is_err();
                }
                route.inlet.queue.try_send(packet).is_err()
            }
            Some(route) if route.trusted.contains(&way) && route.peer == header.side => {
                route.inlet.silence.heard();
                route.inlet.queue.try_send(packet).is_err()
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
    fn dispatch_check(&self, datagram: &[u8], from: Way) -> bool {
        let route = check::session(datagram).and_then(|session| self.open.get(&session));
        route.is_some_and(|route| {
            let bytes = Bytes::copy_from_slice(datagram);
            let from = Some(from);
            route
                .inlet
                .checks
                .try_send(Arrived { from, bytes })
                .is_err()
        })
    }

    /// Hands what an observer answers to the sessions that ask it; true when a queue is full.
    fn dispatch_reflection(&self, datagram: &[u8], from: Way) -> bool {
        let mut is_full = false;
        let routes = self.open.values();
        for route in routes.filter(|route| route.observers.contains(&from.to)) {
            let bytes = Bytes::copy_from_slice(datagram);
            let from = Some(from);
            is_full |= route
                .inlet
                .checks
                .try_send(Arrived { from, bytes })
                .is_err();
        }
        is_full
    }
}
