//! The one UDP socket: bound with what the system can do, received from in batches by the datapath, sent on
//! by the datapath and by quinn.

use std::{
    io::{self, ErrorKind, IoSliceMut},
    net::{Ipv4Addr, SocketAddr},
};

use quinn::udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Type};
use tokio::io::Interest;

/// What the kernel may hold for us, and we for it, while the task waits for its turn.
///
/// At 1 Gbit/s 4 MiB are 33 ms. Asked for, not insisted on: the system's maximum decides.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Largest datagram there is; with GRO, the largest run of them.
const MAX_DATAGRAM_BYTES: usize = 65_535;

/// Receive errors in a row after which the socket is given up: anything a peer can cause (ICMP) comes and goes.
const MAX_RECEIVE_ERRORS: u32 = 100;

/// A bound UDP socket with its offloads.
#[derive(Debug)]
pub struct Socket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    /// Binds `listen`. `[::]` takes IPv4 as well, and means `0.0.0.0` on a system without IPv6.
    ///
    /// # Errors
    /// What the system said about the port.
    pub fn bind(listen: SocketAddr) -> io::Result<Self> {
        let socket = match bind(listen) {
            Err(error) if listen.ip().is_unspecified() && lacks_ipv6(&error, listen) => {
                tracing::info!("no IPv6 here, serving IPv4 only");
                bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port())))?
            }
            bound => bound?,
        };
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self {
            io: tokio::net::UdpSocket::from_std(socket)?,
            state,
        })
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// What the system said.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// Waits for datagrams and takes as many as fit into `batch`.
    ///
    /// # Errors
    /// When the socket is broken.
    pub async fn receive(&self, batch: &mut Batch) -> io::Result<()> {
        let mut errors = 0;
        loop {
            self.io.readable().await?;
            match self.io.try_io(Interest::READABLE, || batch.fill(self)) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if errors >= MAX_RECEIVE_ERRORS => return Err(error),
                Err(error) => {
                    errors += 1;
                    tracing::debug!(%error, "receive failed");
                }
            }
        }
    }

    /// Sends now or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] when the send buffer is full, else what the system said.
    pub fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || {
            self.state.try_send((&self.io).into(), transmit)
        })
    }

    /// Sends a QUIC packet: anything but a full buffer is as good as loss to quinn.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] when the send buffer is full.
    pub fn send_quic(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || {
            self.state.send((&self.io).into(), transmit)
        })
    }

    /// Waits until sending may succeed.
    ///
    /// # Errors
    /// When the socket is broken.
    pub async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }

    /// How many segments one send may carry.
    pub fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Whether the network may cut what we send.
    pub fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

fn bind(listen: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = socket2::Socket::new(
        Domain::for_address(listen),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    for result in [
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES),
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES),
    ] {
        if let Err(error) = result {
            tracing::debug!(%error, "socket buffers stay at the system's size");
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

fn lacks_ipv6(error: &io::Error, listen: SocketAddr) -> bool {
    // EAFNOSUPPORT has no ErrorKind of its own.
    listen.is_ipv6()
        && !matches!(
            error.kind(),
            ErrorKind::AddrInUse | ErrorKind::PermissionDenied
        )
}

/// Buffers for one receive, made once.
#[derive(Debug)]
pub struct Batch {
    buffer: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    filled: usize,
}

impl Batch {
    /// Empty buffers for `socket`.
    pub fn new(socket: &Socket) -> Self {
        let each_bytes = if socket.state.gro_segments() > 1 {
            MAX_DATAGRAM_BYTES
        } else {
            MAX_DATAGRAM_BYTES / 8
        };
        Self {
            buffer: vec![0; each_bytes * BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
            filled: 0,
        }
    }

    fn each_bytes(&self) -> usize {
        self.buffer.len() / BATCH_SIZE
    }

    fn fill(&mut self, socket: &Socket) -> io::Result<()> {
        let each_bytes = self.each_bytes();
        let mut chunks = self.buffer.chunks_exact_mut(each_bytes);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = std::array::from_fn(|_| {
            IoSliceMut::new(chunks.next().expect("the buffer has BATCH_SIZE chunks"))
        });
        self.filled = 0;
        self.filled = socket
            .state
            .recv((&socket.io).into(), &mut slices, &mut self.metas)?;
        Ok(())
    }

    /// What was received: each datagram by itself, runs that the kernel joined (GRO) split by their stride.
    pub fn datagrams(&self) -> impl Iterator<Item = (&[u8], &RecvMeta)> {
        let received = self
            .buffer
            .chunks_exact(self.each_bytes())
            .zip(&self.metas)
            .take(self.filled);
        received.flat_map(|(bytes, meta)| {
            split(&bytes[..meta.len], meta.stride).map(move |datagram| (datagram, meta))
        })
    }
}

/// A run of datagrams, all `stride` long but the last; an empty datagram is a run of none.
fn split(bytes: &[u8], stride: usize) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(stride.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_split_by_its_stride() {
        let run = [1, 1, 1, 2, 2, 2, 3];
        assert_eq!(
            split(&run, 3).collect::<Vec<_>>(),
            [&[1, 1, 1][..], &[2, 2, 2], &[3]]
        );
        assert_eq!(split(&run, 7).collect::<Vec<_>>(), [&run[..]]);
        assert_eq!(split(&[], 0).count(), 0);
    }

    #[tokio::test]
    async fn what_is_sent_arrives() {
        let (one, two) = (
            Socket::bind(loopback()).expect("bound"),
            Socket::bind(loopback()).expect("bound"),
        );
        let destination = two.local_addr().expect("bound");
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: b"datagram",
            segment_size: None,
            src_ip: None,
        };
        one.writable().await.expect("works");
        one.try_send(&transmit).expect("sent");
        let mut batch = Batch::new(&two);
        two.receive(&mut batch).await.expect("received");
        let (bytes, meta) = batch.datagrams().next().expect("one datagram");
        assert_eq!(
            (bytes, meta.addr),
            (&b"datagram"[..], one.local_addr().expect("bound"))
        );
    }

    fn loopback() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }
}
