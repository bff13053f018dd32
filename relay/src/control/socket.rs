//! quinn's view of the shared socket: it receives what the datapath hands over and sends on the same port.

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use tokio::sync::mpsc;

use crate::datapath::{QuicPacket, socket::Socket};

/// The virtual socket.
pub struct ControlSocket {
    socket: Arc<Socket>,
    /// quinn's one driver task polls this; the lock is for the trait's `&self` and never contended.
    packets: Mutex<mpsc::Receiver<QuicPacket>>,
}

impl ControlSocket {
    /// Receives from `packets`, sends on `socket`.
    pub fn new(socket: Arc<Socket>, packets: mpsc::Receiver<QuicPacket>) -> Self {
        Self {
            socket,
            packets: Mutex::new(packets),
        }
    }
}

impl fmt::Debug for ControlSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlSocket")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for ControlSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritePoller {
            socket: Arc::clone(&self.socket),
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.send_quic(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut received = 0;
        while received < bufs.len().min(meta.len()) {
            let packet = match packets.poll_recv(cx) {
                Poll::Ready(Some(packet)) => packet,
                // Closed: the relay is ending, and nothing comes any more. quinn stops when its handles are dropped.
                Poll::Ready(None) | Poll::Pending if received == 0 => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            };
            // Longer than quinn's buffers is longer than the packets it allows: not one of its.
            if let Some(target) = bufs[received].get_mut(..packet.bytes.len()) {
                target.copy_from_slice(&packet.bytes);
                meta[received] = packet.meta;
                received += 1;
            }
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

/// Waits for the socket to be writable, each poller with a waker of its own.
struct WritePoller {
    socket: Arc<Socket>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for WritePoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = Arc::clone(&self.socket);
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(async move { socket.writable().await }));
        let ready = waiting.as_mut().poll(cx);
        if ready.is_ready() {
            self.waiting = None;
        }
        ready
    }
}

impl fmt::Debug for WritePoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WritePoller").finish_non_exhaustive()
    }
}
