//! What a quinn endpoint takes for its UDP socket: packets come from a queue and leave through the magic
//! socket, as they are (control connection) or in frames (inner connection).

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Instant,
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use remora_proto::{
    path::{
        machine::Route,
        way::{Base, Way},
    },
    wire::frame::{self, HEADER_LEN},
};
use tokio::sync::mpsc;

use super::{
    carrier::Carrier,
    route::SharedRoute,
    socket::{MagicSocket, Packet},
};

/// The one address an inner endpoint ever sees, whatever the path below does (192.0.2.0/24, RFC 5737).
pub const VIRTUAL_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 1);

/// Where packets go.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// To the address quinn says.
    Direct {
        /// The relay's.
        relay: SocketAddr,
    },
    /// Through a relay or where the route says, each behind a header.
    Framed {
        /// The relay; told of each.
        carrier: Arc<Carrier>,
        /// Session and side, on ways without a relay.
        header: frame::Header,
        /// Where else to.
        route: Arc<SharedRoute>,
    },
}

/// See the module.
#[derive(Debug)]
pub struct VirtualSocket {
    socket: Arc<MagicSocket>,
    outgoing: Outgoing,
    // quinn polls from one task; the lock is never contended.
    incoming: Mutex<mpsc::Receiver<Packet>>,
}

impl VirtualSocket {
    /// A socket that receives from `incoming`.
    pub fn new(
        socket: Arc<MagicSocket>,
        outgoing: Outgoing,
        incoming: mpsc::Receiver<Packet>,
    ) -> Arc<Self> {
        Arc::new(Self {
            socket,
            outgoing,
            incoming: Mutex::new(incoming),
        })
    }

    async fn writable(&self) -> io::Result<()> {
        match &self.outgoing {
            Outgoing::Direct { relay } => self.socket.writable(Way::main(*relay)).await,
            Outgoing::Framed { carrier, route, .. } => match route.get().direct {
                Some(way) => self.socket.writable(way).await,
                None => {
                    let leg = carrier.leg();
                    leg.socket.writable(leg.way()).await
                }
            },
        }
    }
}

/// Sends packets that way, each in a frame.
fn send_framed(
    transmit: &Transmit<'_>,
    socket: &MagicSocket,
    way: Way,
    header: frame::Header,
) -> io::Result<()> {
    let header = header.encode();
    let size = transmit.segment_size.unwrap_or(transmit.contents.len());
    let packets = transmit.contents.chunks(size.max(1));
    let mut frames = Vec::with_capacity(packets.len() * HEADER_LEN + transmit.contents.len());
    for packet in packets {
        frames.extend_from_slice(&header);
        frames.extend_from_slice(packet);
    }
    let transmit = Transmit {
        destination: way.to,
        ecn: transmit.ecn,
        contents: &frames,
        // As long as they were, and a header each: still a train, for the relay, too.
        segment_size: transmit.segment_size.map(|size| size + HEADER_LEN),
        src_ip: None,
    };
    socket.try_send(way.base, &transmit)
}

impl AsyncUdpSocket for VirtualSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable {
            socket: self,
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match &self.outgoing {
            Outgoing::Direct { .. } => self.socket.try_send(Base::MAIN, transmit),
            Outgoing::Framed {
                carrier,
                header,
                route,
            } => {
                let Route { direct, is_doubled } = route.get();
                carrier.sent(transmit, Instant::now());
                let relayed = || {
                    let leg = carrier.leg();
                    send_framed(transmit, &leg.socket, leg.way(), leg.header)
                };
                let Some(direct) = direct else {
                    return relayed();
                };
                let sent = send_framed(transmit, &self.socket, direct, *header);
                // A copy is for when the other does not arrive: whether there was room for it makes no difference.
                if is_doubled && let Err(error) = relayed() {
                    tracing::trace!(%error, "a copy was not sent");
                }
                sent
            }
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let packet = match incoming.poll_recv(cx) {
                Poll::Ready(Some(packet)) => packet,
                // Closed: the node is ending, and nothing will come any more. quinn stops when its handles are dropped.
                Poll::Ready(None) | Poll::Pending => break,
            };
            let len = packet.bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&packet.bytes[..len]);
            let addr = match self.outgoing {
                Outgoing::Direct { .. } => packet.from,
                Outgoing::Framed { .. } => VIRTUAL_PEER,
            };
            *meta = RecvMeta {
                addr,
                len,
                stride: len,
                ecn: packet.ecn,
                dst_ip: None,
            };
            count += 1;
        }
        if count == 0 {
            Poll::Pending
        } else {
            Poll::Ready(Ok(count))
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.outgoing {
            Outgoing::Direct { .. } => self.socket.local_addr(),
            Outgoing::Framed { .. } => Ok(VIRTUAL_PEER),
        }
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_gso_segments()
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// Waits for the send buffer of the real socket that packets leave by just now.
struct Writable {
    socket: Arc<VirtualSocket>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writable")
    }
}

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let socket = this.socket.clone();
        let waiting = this
            .waiting
            .get_or_insert_with(|| Box::pin(async move { socket.writable().await }));
        let result = ready!(waiting.as_mut().poll(cx));
        this.waiting = None;
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use remora_proto::id::{SessionId, Side};

    use super::*;
    use crate::path::{carrier::Leg, silence::Silence};

    #[tokio::test]
    async fn a_train_leaves_as_frames_each_behind_its_header() {
        let relay = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        relay
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a time");
        let address = relay.local_addr().expect("bound");
        let (socket, incoming) = MagicSocket::bind(address).expect("a socket");
        let header = frame::Header {
            side: Side::Joiner,
            session: SessionId(7),
        };
        let leg = Leg {
            socket: Arc::clone(&socket),
            header,
            name: String::new(),
            observers: Vec::new(),
        };
        let silence = Arc::new(Silence::new(Instant::now()));
        let outgoing = Outgoing::Framed {
            carrier: Arc::new(Carrier::new(leg, silence)),
            header,
            route: Arc::default(),
        };
        let socket = VirtualSocket::new(socket, outgoing, incoming.control);
        let train = [&[1; 1000][..], &[2; 1000], &[3; 10]].concat();
        for segment_size in [Some(1000), None] {
            socket.writable().await.expect("room");
            let transmit = Transmit {
                destination: VIRTUAL_PEER,
                ecn: None,
                contents: &train,
                segment_size,
                src_ip: None,
            };
            AsyncUdpSocket::try_send(&*socket, &transmit).expect("sent");
            for packet in train.chunks(segment_size.unwrap_or(train.len())) {
                let mut buffer = [0; 4096];
                let length = relay.recv(&mut buffer).expect("in time");
                assert_eq!(buffer[..length], [&header.encode()[..], packet].concat());
            }
        }
    }
}
