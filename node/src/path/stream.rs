//! The way to a relay by 443/tcp, where UDP does not go (`proto::wire::stream`).
//!
//! ```text
//!  TCP, or a proxy's CONNECT ─▶ TLS ─▶ WebSocket ─▶ carry ◀─▶ magic socket
//! ```
//!
//! TLS is for the networks on the way; who the relay is, Noise proves inside, as it does by UDP.

/// What the magic socket sends, and what comes.
pub(super) mod carry;
/// Out of networks whose only way out is an HTTP proxy.
pub mod proxy;
/// Whose certificate is good.
pub(crate) mod tls;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use remora_proto::{
    id::RelayAddr,
    wire::stream::{MAX_DATAGRAM_BYTES, PATH, UNSENT_BYTES},
};
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, protocol::WebSocketConfig},
};

use self::{
    proxy::{Proxy, ProxyError},
    tls::Trust,
};

/// Some round trips, and names to be resolved; a person waits.
const OPEN_TIMEOUT: Duration = Duration::from_millis(4250);
/// Plain text that TLS holds while TCP has no room: a little more than a datagram.
const TLS_BUFFER_BYTES: usize = 4096;
/// What has been sent and not acknowledged for so long never will be.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// A stream that stands.
pub(super) type Stream = WebSocketStream<TlsStream<TcpStream>>;

/// Why there is no stream; what is said of it to people stands behind "by TCP:".
#[derive(Debug, thiserror::Error)]
pub enum NoStream {
    /// Nobody has answered by then.
    #[error("no answer")]
    Silence,
    /// The relay's port, or the way to it.
    #[error("{0}")]
    Tcp(io::Error),
    /// The proxy in between.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// Somebody else's certificate, or no TLS at all.
    #[error("whoever answers is not taken for the relay ({0})")]
    Tls(io::Error),
    /// A certificate that the system's authorities do not know, or no TLS at all; the relay's address names none.
    #[error(
        "whoever answers is not taken for the relay ({0}); the address ends without the relay's own fingerprint (/TLS): copy the \
         whole line that the relay has printed; or its certificate is of no authority that this computer knows"
    )]
    Unvouched(io::Error),
    /// No relay behind it.
    #[error("what answers there is no relay ({0})")]
    WebSocket(tungstenite::Error),
}

/// Who opens streams to a relay.
#[derive(Clone, Debug)]
pub struct Dialer {
    relay: RelayAddr,
    /// Where that is; `None` where only the proxy knows.
    address: Option<SocketAddr>,
    proxy: Option<Proxy>,
}

impl Dialer {
    /// To `relay`, which is at `address`, or wherever `proxy` finds it.
    pub fn new(relay: &RelayAddr, address: Option<SocketAddr>, proxy: Option<Proxy>) -> Self {
        Self {
            relay: relay.clone(),
            address,
            proxy,
        }
    }

    /// Opens one.
    pub(super) async fn open(&self) -> Result<Stream, NoStream> {
        timeout(OPEN_TIMEOUT, self.open_slowly())
            .await
            .unwrap_or(Err(NoStream::Silence))
    }

    async fn open_slowly(&self) -> Result<Stream, NoStream> {
        let host_port = &self.relay.host_port;
        // Before a proxy is told: what is no name does not become part of a request.
        let name = server_name(host_port).map_err(NoStream::Tls)?;
        let tcp = match (&self.proxy, self.address) {
            (Some(proxy), _) => proxy.connect(host_port).await?,
            (None, Some(address)) => TcpStream::connect(address).await.map_err(NoStream::Tcp)?,
            (None, None) => TcpStream::connect(host_port).await.map_err(NoStream::Tcp)?,
        };
        prepare(&tcp).map_err(NoStream::Tcp)?;
        let trust = self.relay.tls.map_or(Trust::Authorities, Trust::Pinned);
        let config = tls::config(trust).await.map_err(NoStream::Tls)?;
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, tcp);
        let not_taken = match self.relay.tls {
            Some(_) => NoStream::Tls,
            None => NoStream::Unvouched,
        };
        let mut tls = connecting.await.map_err(not_taken)?;
        tls.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        let url = format!("wss://{host_port}{PATH}");
        let (stream, _) = client_async_with_config(url, tls, Some(limits()))
            .await
            .map_err(NoStream::WebSocket)?;
        Ok(stream)
    }
}

/// The host of `HOST:PORT`, without the brackets of IPv6.
fn host(host_port: &str) -> &str {
    let host = host_port
        .rsplit_once(':')
        .map_or(host_port, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// The host of `HOST:PORT`, as certificates name it.
pub(crate) fn server_name(host_port: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host(host_port).to_owned()).map_err(io::Error::other)
}

/// Nothing waits in the system that need not.
fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(tcp);
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    }
    Ok(())
}

/// No message is longer than a datagram, and each is written at once.
fn limits() -> WebSocketConfig {
    let mut limits = WebSocketConfig::default();
    limits.read_buffer_size = 16 * MAX_DATAGRAM_BYTES;
    limits.write_buffer_size = 0;
    limits.max_write_buffer_size = 4 * MAX_DATAGRAM_BYTES;
    limits.max_message_size = Some(MAX_DATAGRAM_BYTES);
    limits.max_frame_size = Some(MAX_DATAGRAM_BYTES);
    limits
}
