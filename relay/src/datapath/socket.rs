//! The one UDP port: a socket for each worker, bound with what the system can do, received from in batches by that worker,
//! sent on by it and by control.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    num::NonZeroUsize,
};

use quinn_udp::{Transmit, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Type};

use super::batch::{self, Plan, Received, Sent};

/// A bound UDP socket with its offloads.
#[derive(Debug)]
pub struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    /// Binds as many sockets to `listen` as there are workers; the kernel spreads nodes over them by their addresses
    /// (SO_REUSEPORT). `[::]` takes IPv4 as well, and means `0.0.0.0` on a system without IPv6. Buffers of `buffer_bytes` are asked
    /// for, not insisted on: what the system gave is [`Self::buffer_bytes`].
    ///
    /// # Errors
    /// What the system said about the port.
    pub fn bind(
        listen: SocketAddr,
        workers: NonZeroUsize,
        buffer_bytes: usize,
    ) -> io::Result<Vec<Self>> {
        let first = match bind(listen, workers, buffer_bytes) {
            Err(error) if listen.ip().is_unspecified() && lacks_ipv6(&error, listen) => {
                tracing::info!("no IPv6 here, serving IPv4 only");
                let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port()));
                bind(listen, workers, buffer_bytes)?
            }
            bound => bound?,
        };
        let listen = first.local_addr()?;
        let others = (1..workers.get()).map(|_| share(listen, buffer_bytes));
        std::iter::once(Ok(first))
            .chain(others)
            .map(|io| {
                let io = io?;
                let state = UdpSocketState::new((&io).into())?;
                batch::prepare(&io)?;
                Ok(Self { io, state })
            })
            .collect()
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// What the system said.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// What the kernel holds of received datagrams, bytes of their contents.
    ///
    /// # Errors
    /// What the system said.
    pub fn buffer_bytes(&self) -> io::Result<usize> {
        let bytes = SockRef::from(&self.io).recv_buffer_size()?;
        // Linux counts what it needs beside the contents, and gives twice as much as it was asked for (socket(7)).
        Ok(if cfg!(target_os = "linux") {
            bytes / 2
        } else {
            bytes
        })
    }

    /// The socket without what workers add.
    pub fn into_io(self) -> UdpSocket {
        self.io
    }

    /// Takes what has arrived; waits a moment for it, see [`batch::WAIT`].
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] when nothing has, else what the system said.
    pub fn receive(&self, received: &mut Received) -> io::Result<()> {
        received.fill(&self.io, &self.state)
    }

    /// Sends a plan's pieces of what was received.
    pub fn send_plan(&self, plan: &mut Plan, received: &Received) -> Sent {
        plan.send(&self.io, &self.state, received)
    }

    /// Sends now or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] when the send buffer is full, else what the system said.
    pub fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        batch::send_now(&self.io, &self.state, transmit)
    }

    /// How many datagrams the system has dropped because they were not taken in time, modulo 2³²; `None` where it does not say.
    pub fn dropped(&self) -> Option<u32> {
        batch::dropped(&self.io)
    }

    /// Whether the network may cut what we send.
    pub fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

fn bind(listen: SocketAddr, workers: NonZeroUsize, buffer_bytes: usize) -> io::Result<UdpSocket> {
    if workers.get() == 1 {
        return new(listen, buffer_bytes)?.bound(listen);
    }
    // With SO_REUSEPORT nobody is told that another program has the port: looked for first without.
    let listen = new(listen, buffer_bytes)?.bound(listen)?.local_addr()?;
    share(listen, buffer_bytes)
}

/// One more socket on a port.
fn share(listen: SocketAddr, buffer_bytes: usize) -> io::Result<UdpSocket> {
    let socket = new(listen, buffer_bytes)?;
    socket.0.set_reuse_port(true)?;
    socket.bound(listen)
}

/// A socket that has no address yet.
struct Unbound(socket2::Socket);

impl Unbound {
    fn bound(self, listen: SocketAddr) -> io::Result<UdpSocket> {
        self.0.bind(&listen.into())?;
        Ok(self.0.into())
    }
}

fn new(listen: SocketAddr, buffer_bytes: usize) -> io::Result<Unbound> {
    let socket = socket2::Socket::new(
        Domain::for_address(listen),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    for result in [
        socket.set_recv_buffer_size(buffer_bytes),
        socket.set_send_buffer_size(buffer_bytes),
        insist(&socket, buffer_bytes),
    ] {
        if let Err(error) = result {
            tracing::debug!(%error, "socket buffers stay at the system's size");
        }
    }
    Ok(Unbound(socket))
}

/// Above the system's maximum, for whoever may: with CAP_NET_ADMIN.
#[cfg(target_os = "linux")]
fn insist(socket: &socket2::Socket, buffer_bytes: usize) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    setsockopt(socket, sockopt::RcvBufForce, &buffer_bytes)?;
    setsockopt(socket, sockopt::SndBufForce, &buffer_bytes)?;
    Ok(())
}

/// Nobody may here.
#[cfg(not(target_os = "linux"))]
fn insist(_: &socket2::Socket, _: usize) -> io::Result<()> {
    Ok(())
}

fn lacks_ipv6(error: &io::Error, listen: SocketAddr) -> bool {
    // EAFNOSUPPORT has no ErrorKind of its own.
    listen.is_ipv6()
        && !matches!(
            error.kind(),
            ErrorKind::AddrInUse | ErrorKind::PermissionDenied
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUFFER_BYTES: usize = 64 << 10;

    fn loopback() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_system_drops_is_known() {
        let socket = Socket::bind(loopback(), NonZeroUsize::MIN, BUFFER_BYTES).expect("bound");
        let [socket] = &socket[..] else {
            panic!("one socket")
        };
        assert_eq!(socket.dropped(), Some(0));
        let sender = UdpSocket::bind(loopback()).expect("bound");
        let to = socket.local_addr().expect("bound");
        // Nobody takes them.
        while socket.dropped() == Some(0) {
            sender.send_to(&[0; 8192], to).expect("sent");
        }
        assert!(socket.dropped().is_some_and(|dropped| dropped > 0));
    }

    #[test]
    fn workers_share_a_port_that_nobody_else_has() {
        let two = NonZeroUsize::MIN.saturating_add(1);
        let sockets = Socket::bind(loopback(), two, BUFFER_BYTES).expect("bound");
        let ports: Vec<_> = sockets
            .iter()
            .map(|socket| socket.local_addr().expect("bound"))
            .collect();
        assert!(ports.len() == 2 && ports[0] == ports[1]);
        let given = sockets[0].buffer_bytes().expect("the system says");
        assert!(given >= BUFFER_BYTES, "{given}");
        for workers in [NonZeroUsize::MIN, two] {
            let taken = Socket::bind(ports[0], workers, BUFFER_BYTES).expect_err("is taken");
            assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        }
    }
}
