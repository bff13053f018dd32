//! quinn's view of the shared socket: it receives what the datapath hands over and sends on the same port.

use std::{
    fmt,
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
        Box::pin(Ready)
    }

    /// What the system does not take now is lost, as on any network: to be told of room again, the socket would have to be
    /// watched, and each frame that the workers send would wake whoever watches it.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if let Err(error) = self.socket.try_send(transmit) {
            tracing::trace!(%error, to = %transmit.destination, "a QUIC packet was not sent");
        }
        Ok(())
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

/// There is always room.
#[derive(Debug)]
struct Ready;

impl UdpPoller for Ready {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
