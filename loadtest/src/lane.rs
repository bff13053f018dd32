//! One session as the load sees it: where frames go in, where they come out, and what stands before their data.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use nix::sys::socket::{setsockopt, sockopt};
use remora::path::socket::{Incoming, MagicSocket};
use remora_proto::wire::frame::{HEADER_LEN, Header};

/// What a socket may hold while its reader is not running: more than is ever on its way.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Before the data of a `ChannelData` message (RFC 8656 §12.4).
pub const CHANNEL_HEADER_LEN: usize = 4;

/// Makes room for many datagrams; beyond the system's maximum only with a right that most users lack.
///
/// # Errors
/// What the system said.
pub fn enlarge_buffers(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &SOCKET_BUFFER_BYTES))?;
    setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER_BYTES)
        .or_else(|_| setsockopt(socket, sockopt::SndBuf, &SOCKET_BUFFER_BYTES))?;
    Ok(())
}

/// A node's socket as real nodes have it. Whatever is measured gets these, with the same options and the same
/// registrations, so that delivering to them costs the same.
#[derive(Debug)]
pub struct NodeSocket {
    /// The node's own handle.
    pub magic: Arc<MagicSocket>,
    /// What comes for the node's control connection.
    pub incoming: Incoming,
}

impl NodeSocket {
    /// A socket that can reach `target`; call within a tokio runtime.
    ///
    /// # Errors
    /// What the system said.
    pub fn bind(target: SocketAddr) -> io::Result<Self> {
        let (magic, incoming) = MagicSocket::bind(target)?;
        enlarge_buffers(&*magic)?;
        Ok(Self { magic, incoming })
    }

    /// Its address for others on this machine.
    ///
    /// # Errors
    /// What the system said.
    pub fn on_loopback(&self) -> io::Result<SocketAddr> {
        let port = self.magic.local_addr()?.port();
        Ok(SocketAddr::from(([127, 0, 0, 1], port)))
    }
}

/// How frames are wrapped on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Remora's header, both ways the same.
    Frame(Header),
    /// A channel into coturn and another, or the bare data, out of it.
    Channel {
        /// Into it.
        number: u16,
        /// Whether the receiver has a channel, too.
        both_ways: bool,
    },
}

impl Wire {
    /// Bytes before the data on the way in.
    pub fn prefix_bytes(self) -> usize {
        match self {
            Self::Frame(_) => HEADER_LEN,
            Self::Channel { .. } => CHANNEL_HEADER_LEN,
        }
    }

    /// Bytes before the data on the way out.
    pub fn arriving_prefix_bytes(self) -> usize {
        match self {
            Self::Frame(_) => HEADER_LEN,
            Self::Channel { both_ways, .. } => CHANNEL_HEADER_LEN * usize::from(both_ways),
        }
    }

    /// Whether a datagram on the way out is of this session, as far as one can see.
    pub fn carries(self, datagram: &[u8]) -> bool {
        match self {
            Self::Frame(header) => datagram.starts_with(&header.encode()),
            Self::Channel { .. } => true,
        }
    }

    /// Writes the prefix of a datagram.
    pub fn write_prefix(self, datagram: &mut [u8]) {
        match self {
            Self::Frame(header) => datagram[..HEADER_LEN].copy_from_slice(&header.encode()),
            Self::Channel { number, .. } => {
                let data_bytes = datagram.len() - CHANNEL_HEADER_LEN;
                let data_bytes = u16::try_from(data_bytes).unwrap_or(u16::MAX);
                datagram[..2].copy_from_slice(&number.to_be_bytes());
                datagram[2..CHANNEL_HEADER_LEN].copy_from_slice(&data_bytes.to_be_bytes());
            }
        }
    }
}

/// One direction of a session.
#[derive(Debug)]
pub struct Lane {
    sender: Arc<UdpSocket>,
    receiver: Arc<UdpSocket>,
    /// What stands before the data.
    pub wire: Wire,
    /// The nodes' own handles stay as long: what tokio has registered is part of what delivering costs.
    nodes: [Arc<MagicSocket>; 2],
}

impl Lane {
    /// From `sender` through `target` to `receiver`.
    ///
    /// The sender's socket is connected to the target: that spares the load a route look-up a frame, and the target
    /// cannot see it.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(
        sender: &Arc<MagicSocket>,
        receiver: &Arc<MagicSocket>,
        target: SocketAddr,
        wire: Wire,
    ) -> io::Result<Self> {
        let own = |socket: &MagicSocket| socket.as_fd().try_clone_to_owned().map(UdpSocket::from);
        let nodes = [Arc::clone(sender), Arc::clone(receiver)];
        let (sender, receiver) = (own(sender)?, own(receiver)?);
        sender.connect(target)?;
        Ok(Self {
            sender: Arc::new(sender),
            receiver: Arc::new(receiver),
            wire,
            nodes,
        })
    }

    /// Another session of the same two nodes.
    pub fn beside(&self, wire: Wire) -> Self {
        Self {
            sender: Arc::clone(&self.sender),
            receiver: Arc::clone(&self.receiver),
            wire,
            nodes: self.nodes.clone(),
        }
    }

    /// Where frames are sent.
    pub fn sender(&self) -> BorrowedFd<'_> {
        self.sender.as_fd()
    }

    /// Where they arrive.
    pub fn receiver(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}
