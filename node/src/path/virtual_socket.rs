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
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use remora_proto::wire::frame::{self, HEADER_LEN};
use tokio::sync::mpsc;

use super::socket::{MagicSocket, Packet};

/// The one address an inner endpoint ever sees, whatever the path below does (192.0.2.0/24, RFC 5737).
pub const VIRTUAL_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 1);

/// Where packets go.
#[derive(Clone, Copy, Debug)]
pub enum Outgoing {
    /// To the address quinn says.
    Direct,
    /// To the relay, each behind this header.
    Framed {
        /// The relay's address.
        relay: SocketAddr,
        /// Session and side.
        header: frame::Header,
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

    fn send_framed(
        &self,
        transmit: &Transmit<'_>,
        relay: SocketAddr,
        header: frame::Header,
    ) -> io::Result<()> {
        let mut datagram = Vec::with_capacity(HEADER_LEN + transmit.contents.len());
        datagram.extend_from_slice(&header.encode());
        datagram.extend_from_slice(transmit.contents);
        self.socket.try_send(&Transmit {
            destination: relay,
            ecn: transmit.ecn,
            contents: &datagram,
            segment_size: None,
            src_ip: None,
        })
    }
}

impl AsyncUdpSocket for VirtualSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable {
            socket: self.socket.clone(),
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.outgoing {
            Outgoing::Direct => self.socket.try_send(transmit),
            Outgoing::Framed { relay, header } => self.send_framed(transmit, relay, header),
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
                Outgoing::Direct => packet.from,
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
            Outgoing::Direct => self.socket.local_addr(),
            Outgoing::Framed { .. } => Ok(VIRTUAL_PEER),
        }
    }

    fn max_transmit_segments(&self) -> usize {
        match self.outgoing {
            Outgoing::Direct => self.socket.max_gso_segments(),
            // A frame header belongs before each packet.
            Outgoing::Framed { .. } => 1,
        }
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// Waits for the real socket's send buffer.
struct Writable {
    socket: Arc<MagicSocket>,
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
