//! One UDP socket of a node: bound, received from in batches, sent on in trains.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
};

use quinn::udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::{io::Interest, net::UdpSocket};

/// Largest datagram; GRO hands over up to 64 KiB at once.
const RECEIVE_BYTES: usize = 65_536;
/// For bursts that arrive while the process is not running.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;

/// All addresses of a family, and a port of the system's choosing.
pub(crate) fn any(is_v4: bool) -> SocketAddr {
    let ip: IpAddr = if is_v4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(ip, 0)
}

/// See the module.
#[derive(Debug)]
pub(super) struct Udp {
    io: UdpSocket,
    state: UdpSocketState,
}

impl Udp {
    /// Binds a port of the system's choosing on all addresses of a family.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn bind(is_v4: bool) -> io::Result<Self> {
        let any = any(is_v4);
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
        Ok(Self { io, state })
    }

    /// Hands over each datagram, until the socket fails.
    pub(super) async fn receive(&self, mut take: impl FnMut(&[u8], &RecvMeta)) -> io::Result<()> {
        // Of hundreds of sockets that try their luck, few ever need the 2 MiB.
        self.io.readable().await?;
        let mut buffers: Vec<Vec<u8>> = (0..BATCH_SIZE).map(|_| vec![0; RECEIVE_BYTES]).collect();
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        loop {
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
                Err(error) if is_transient(&error) => 0,
                Err(error) => return Err(error),
            };
            for (buffer, meta) in buffers.iter().zip(&metas[..count]) {
                for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                    take(datagram, meta);
                }
            }
            self.io.readable().await?;
        }
    }

    /// What the network does not take, a route that is gone for a moment, say, is as good as lost to quinn: it sends again, and
    /// ends the session when that has not helped for long. Errors are of a full buffer only.
    pub(super) fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || {
            self.state.send(UdpSockRef::from(&self.io), transmit)
        })
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }

    pub(super) fn max_gso_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
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
