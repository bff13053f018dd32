//! Other ports, and perhaps other addresses, of the relay that answer one question: "from which address do you see me?"
//!
//! A NAT that gives a node another mapping for each destination shows by it, and which way to another node is worth trying
//! follows from that (RFC 4787 §4.1; `proto::path::survey`). There is a question every half a minute at most from a node in
//! a session: no need for workers.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use remora_proto::wire::reflect;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::metrics::Metrics,
    datapath::{DropReason, reflect::Reflector, socket::Socket},
};

/// A bound port.
#[derive(Debug)]
pub struct Observer(UdpSocket);

impl Observer {
    /// Binds it, as the relay's own port; call within a tokio runtime.
    ///
    /// # Errors
    /// What the system said about the port.
    pub fn bind(at: SocketAddr, buffer_bytes: usize) -> io::Result<Self> {
        let socket = Socket::bind(at, NonZeroUsize::MIN, buffer_bytes)?
            .swap_remove(0)
            .into_io();
        socket.set_nonblocking(true)?;
        Ok(Self(UdpSocket::from_std(socket)?))
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// What the system said.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until `closing`.
    ///
    /// # Errors
    /// When the socket itself is broken; no datagram can do that.
    pub async fn run(
        self,
        reflector: Arc<Mutex<Reflector>>,
        metrics: Arc<Metrics>,
        closing: CancellationToken,
    ) -> io::Result<()> {
        // One byte more than a question: what is longer is none.
        let mut datagram = [0; reflect::LEN + 1];
        loop {
            let received = tokio::select! {
                () = closing.cancelled() => return Ok(()),
                received = self.0.recv_from(&mut datagram) => received,
            };
            let (length, source) = match received {
                Ok(received) => received,
                // Of an answer to somebody who is not there.
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error),
            };
            let answer = reflector
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .respond(&datagram[..length], source, Instant::now());
            let sent = answer.and_then(|answer| {
                let sent = self.0.try_send_to(&answer, source);
                sent.map_err(|_| DropReason::SendFailed)
            });
            if let Err(reason) = sent {
                metrics.dropped(reason, 1);
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused | ErrorKind::Interrupted
    )
}
