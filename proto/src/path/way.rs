//! From which local socket to which remote address: what ICE calls a candidate pair (RFC 8445 §6.1.2).

use std::net::SocketAddr;

/// A local socket (RFC 8445 §2.2). What goes by the main one leaves by whichever family the remote address is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Base(pub u16);

impl Base {
    /// The one that the relay is talked to by, and that candidates are of.
    pub const MAIN: Self = Self(0);
}

/// A candidate pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    /// From here.
    pub base: Base,
    /// To there.
    pub to: SocketAddr,
}

impl Way {
    /// From the main socket.
    pub fn main(to: SocketAddr) -> Self {
        let base = Base::MAIN;
        Self { base, to }
    }
}

/// What is to become of a socket that is not the main one: a fresh one for IPv4, on any port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketChange {
    /// It is opened. If that fails, nothing comes of it.
    Open(Base),
    /// It is closed; the number may be used again.
    Close(Base),
}
