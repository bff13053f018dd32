//! 443/tcp: a WebSocket over TLS for networks that block UDP (`proto::wire::stream`).
//!
//! ```text
//!  TCP ─▶ a place, if there is one ─▶ TLS ─▶ WebSocket ─▶ carry ─▶ a UDP socket of its own ─▶ the relay's UDP port
//! ```
//!
//! A stream is to the rest of the relay what a NAT is: it sends from a UDP socket on this computer, and what comes back to
//! that goes to the node. So the datapath knows nothing of streams, and a frame that comes by UDP costs what it did; a
//! frame that comes by a stream costs two system calls more, beside TLS and TCP. The socket's address is nobody else's; most
//! systems drop what comes from outside with an address of their own, and who could forge it could forge any node's. Only
//! where an address says what a node's network is, [`Peers::behind`] says where the stream comes from.
//!
//! TLS is for the networks on the way, which let HTTPS through; who the relay is and what nodes say is Noise's, as by UDP.

// What is shown: files, or of its own making.
pub mod certificate;
// One stream.
mod carry;
// Who is behind which, and how many.
pub mod peers;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use remora_proto::wire::stream::{MAX_DATAGRAM_BYTES, PATH, UNSENT_BYTES};
use rustls::ServerConfig;
use socket2::{SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Notify,
    task::JoinSet,
    time::{self, MissedTickBehavior},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        handshake::server::{ErrorResponse, Request, Response},
        http::StatusCode,
        protocol::WebSocketConfig,
    },
};
use tokio_util::sync::CancellationToken;

use self::{
    certificate::Certificate,
    peers::{Full, Peers, Place},
};
use crate::admin::metrics::{Metrics, StreamEnd};

/// From a TCP connection to its WebSocket: some round trips on the worst of links.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the certificate's files are looked at.
const LOOK_AT_FILES: Duration = Duration::from_secs(30);
/// What has been sent and not acknowledged for so long never will be: the node has gone without a word.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// When the system has no file descriptor left, whoever asks waits until another has ended.
const WHEN_EXHAUSTED: Duration = Duration::from_millis(100);
/// Plain text that TLS holds while TCP has no room: a little more than a datagram.
const TLS_BUFFER_BYTES: usize = 4096;

/// Binds the TCP port; `[::]` takes IPv4 too, and means 0.0.0.0 where there is no IPv6.
///
/// # Errors
/// What the system said.
pub fn bind(listen: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(socket2::Domain::for_address(listen), Type::STREAM, None)?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The task that accepts streams, and owns them.
#[derive(Debug)]
pub struct Streams {
    listener: TcpListener,
    certificate: Certificate,
    tls: Arc<ServerConfig>,
    /// Where datagrams go: our own UDP port.
    relay: SocketAddr,
    peers: Arc<Peers>,
    metrics: Arc<Metrics>,
}

impl Streams {
    /// Accepts at `listener`, shows `certificate`, and sends to the UDP port `relay` of this computer.
    ///
    /// # Errors
    /// What the system or TLS said.
    pub fn new(
        listener: std::net::TcpListener,
        certificate: Certificate,
        relay: SocketAddr,
        peers: Arc<Peers>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            tls: Arc::new(certificate.tls().map_err(io::Error::other)?),
            certificate,
            relay,
            peers,
            metrics,
        })
    }

    /// Serves until `closing`; then each stream says what it has left to say. The certificate's files are looked at when `look_now` says
    /// so, too.
    ///
    /// # Errors
    /// None: what a peer or the system can do ends a stream, not all.
    pub async fn run(
        mut self,
        look_now: Arc<Notify>,
        closing: CancellationToken,
    ) -> io::Result<()> {
        let mut streams = JoinSet::new();
        let mut look = time::interval(LOOK_AT_FILES);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! { biased;
                () = closing.cancelled() => break,
                Some(_) = streams.join_next() => {
                    self.count();
                }
                _ = look.tick() => self.look(),
                () = look_now.notified() => self.look(),
                accepted = self.listener.accept() => match accepted {
                    Ok((tcp, peer)) => match self.peers.enter(peer) {
                        Ok(place) => {
                            let serving = Serving {
                                tls: TlsAcceptor::from(Arc::clone(&self.tls)),
                                relay: self.relay,
                                place,
                                metrics: Arc::clone(&self.metrics),
                            };
                            streams.spawn(serving.run(tcp, closing.clone()));
                            self.count();
                        }
                        Err(full) => self.metrics.stream_end(full.into()),
                    },
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a stream");
                        time::sleep(WHEN_EXHAUSTED).await;
                    }
                },
            }
        }
        while streams.join_next().await.is_some() {}
        self.count();
        Ok(())
    }

    fn look(&mut self) {
        self.certificate.look();
        let ends = self.certificate.showing().ends();
        self.metrics.certificate_expiry_seconds.set(ends);
    }

    fn count(&self) {
        let streams = i64::try_from(self.peers.streams()).unwrap_or(i64::MAX);
        self.metrics.streams.set(streams);
    }
}

impl From<Full> for StreamEnd {
    fn from(full: Full) -> Self {
        match full {
            Full::All => Self::Refused,
            Full::Network => Self::NetworkFull,
        }
    }
}

/// One stream's task.
struct Serving {
    tls: TlsAcceptor,
    relay: SocketAddr,
    place: Place,
    metrics: Arc<Metrics>,
}

impl Serving {
    async fn run(mut self, tcp: TcpStream, closing: CancellationToken) {
        let opened = tokio::select! { biased;
            () = closing.cancelled() => return self.metrics.stream_end(StreamEnd::Closing),
            opened = time::timeout(HANDSHAKE_TIMEOUT, self.open(tcp)) => opened,
        };
        let end = match opened {
            // The socket is there as long as its place: nobody else has its port meanwhile.
            Ok(Ok((stream, udp))) => {
                let end = carry::carry(stream, &udp, &self.metrics, closing).await;
                drop(self.place);
                end
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "no stream");
                StreamEnd::Failed
            }
            Err(_) => StreamEnd::TimedOut,
        };
        tracing::debug!(?end, "stream ended");
        self.metrics.stream_end(end);
    }

    async fn open(
        &mut self,
        tcp: TcpStream,
    ) -> io::Result<(WebSocketStream<TlsStream<TcpStream>>, UdpSocket)> {
        prepare(&tcp)?;
        let mut tls = self.tls.accept(tcp).await?;
        tls.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        let stream = accept_hdr_async_with_config(tls, check_path, Some(limits()))
            .await
            .map_err(io::Error::other)?;
        let udp = UdpSocket::bind((self.relay.ip(), 0)).await?;
        udp.connect(self.relay).await?;
        self.place.send_from(udp.local_addr()?);
        Ok((stream, udp))
    }
}

/// Nothing waits in the system that need not.
fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        let socket = SockRef::from(tcp);
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    }
    Ok(())
}

#[expect(
    clippy::result_large_err,
    reason = "the type is tungstenite's, and an error is once a connection"
)]
fn check_path(request: &Request, response: Response) -> Result<Response, ErrorResponse> {
    if request.uri().path() == PATH {
        return Ok(response);
    }
    let mut refusal = ErrorResponse::new(None);
    *refusal.status_mut() = StatusCode::NOT_FOUND;
    Err(refusal)
}

/// No message is longer than a datagram, and each is written at once; answers to pings do not pile up for whoever reads nothing.
fn limits() -> WebSocketConfig {
    let mut limits = WebSocketConfig::default();
    limits.read_buffer_size = 2 * MAX_DATAGRAM_BYTES;
    limits.write_buffer_size = 0;
    limits.max_write_buffer_size = 4 * MAX_DATAGRAM_BYTES;
    limits.max_message_size = Some(MAX_DATAGRAM_BYTES);
    limits.max_frame_size = Some(MAX_DATAGRAM_BYTES);
    limits
}
