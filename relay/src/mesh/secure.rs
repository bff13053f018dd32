//! A connection of the mesh: TCP, then Noise with both relays' own keys and the fleet's ([`remora_proto::noise::link`]).
//!
//! libp2p's own noise and pnet would bring a second provider of primitives, a second identity for each relay, and no word
//! about why a connection failed.

use std::{
    io::{self, ErrorKind},
    iter,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _, future::BoxFuture,
};
use libp2p::{
    PeerId,
    core::{
        UpgradeInfo,
        upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade},
    },
};
use remora_proto::noise::{
    StaticKey,
    link::{
        Broken, FleetKey, Handshake, Link, MAX_HANDSHAKE_BYTES, MAX_PIECE_BYTES, MAX_SEALED_BYTES,
    },
};
use tokio::sync::mpsc;

use super::identity::peer_id;
use crate::admin::metrics::Stranger;

/// Bytes before each message: its length, big-endian.
const LENGTH_BYTES: usize = 2;

/// How a connection of the mesh begins.
#[derive(Clone, Debug)]
pub struct Secure {
    /// Who this relay is.
    pub key: StaticKey,
    /// What all relays of the fleet have.
    pub fleet: FleetKey,
    /// Where to say that somebody has not; more at once than it takes are one.
    pub strangers: mpsc::Sender<Stranger>,
}

impl Secure {
    async fn run<S>(self, mut io: S, mut handshake: Handshake) -> io::Result<(PeerId, Stream<S>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut has_sent = false;
        while !handshake.is_finished() {
            if handshake.is_my_turn() {
                let message = handshake.write().map_err(io::Error::other)?;
                send(&mut io, &message).await?;
                has_sent = true;
                continue;
            }
            let message = receive(&mut io).await?;
            if has_sent && message.is_empty() {
                // It cannot read ours.
                return Err(self.refuse(Broken::FleetKey));
            }
            if let Err(broken) = handshake.read(&message) {
                if broken == Broken::FleetKey && !has_sent {
                    // An empty message says so; a connection that only ends may have ended for any reason.
                    send(&mut io, &[]).await.ok();
                }
                return Err(self.refuse(broken));
            }
        }
        let link = handshake.into_link().map_err(io::Error::other)?;
        Ok((peer_id(link.peer()), Stream::new(io, link)))
    }

    fn refuse(&self, broken: Broken) -> io::Error {
        if broken == Broken::FleetKey {
            self.strangers.try_send(Stranger::FleetKey).ok();
        }
        io::Error::other(broken)
    }
}

async fn send<S: AsyncWrite + Unpin>(io: &mut S, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    io.write_all(&[&length.to_be_bytes()[..], message].concat())
        .await?;
    io.flush().await
}

async fn receive<S: AsyncRead + Unpin>(io: &mut S) -> io::Result<Vec<u8>> {
    let mut length = [0; LENGTH_BYTES];
    io.read_exact(&mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > MAX_HANDSHAKE_BYTES {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    io.read_exact(&mut message).await?;
    Ok(message)
}

impl UpgradeInfo for Secure {
    type Info = &'static str;
    type InfoIter = iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/remora/noise/1")
    }
}

impl<S> InboundConnectionUpgrade<S> for Secure
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, Stream<S>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_inbound(self, socket: S, _: Self::Info) -> Self::Future {
        let handshake = Handshake::responder(&self.key, &self.fleet);
        self.run(socket, handshake).boxed()
    }
}

impl<S> OutboundConnectionUpgrade<S> for Secure
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, Stream<S>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_outbound(self, socket: S, _: Self::Info) -> Self::Future {
        let handshake = Handshake::initiator(&self.key, &self.fleet);
        self.run(socket, handshake).boxed()
    }
}

/// The stream after the handshake: pieces, encrypted, each behind its length.
#[derive(Debug)]
pub struct Stream<S> {
    io: S,
    link: Link,
    /// The message that is arriving, its length first.
    arriving: Vec<u8>,
    arrived: usize,
    /// The piece that has arrived, and how much of it was read.
    piece: Vec<u8>,
    read: usize,
    /// What is still to be written.
    leaving: Vec<u8>,
    left: usize,
}

impl<S> Stream<S> {
    fn new(io: S, link: Link) -> Self {
        Self {
            io,
            link,
            arriving: Vec::new(),
            arrived: 0,
            piece: Vec::new(),
            read: 0,
            leaving: Vec::new(),
            left: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> Stream<S> {
    /// Reads on until `arriving` has `length` bytes; false at the stream's end.
    fn poll_arrive(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<bool>> {
        self.arriving.resize(length, 0);
        while self.arrived < length {
            let io = Pin::new(&mut self.io);
            match ready!(io.poll_read(cx, &mut self.arriving[self.arrived..]))? {
                0 if self.arrived == 0 => return Poll::Ready(Ok(false)),
                0 => return Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
                read => self.arrived += read,
            }
        }
        Poll::Ready(Ok(true))
    }

    /// The next piece is here; false at the stream's end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.arrived < LENGTH_BYTES && !ready!(self.poll_arrive(cx, LENGTH_BYTES))? {
            return Poll::Ready(Ok(false));
        }
        let length = usize::from(u16::from_be_bytes([self.arriving[0], self.arriving[1]]));
        if length > MAX_SEALED_BYTES {
            return Poll::Ready(Err(ErrorKind::InvalidData.into()));
        }
        ready!(self.poll_arrive(cx, LENGTH_BYTES + length))?;
        let opened = self
            .link
            .open(&self.arriving[LENGTH_BYTES..], &mut self.piece);
        (self.arrived, self.read) = (0, 0);
        Poll::Ready(opened.map(|()| true).map_err(io::Error::other))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        while this.read == this.piece.len() {
            if !ready!(this.poll_piece(cx))? {
                return Poll::Ready(Ok(0));
            }
        }
        let rest = &this.piece[this.read..];
        let length = rest.len().min(out.len());
        out[..length].copy_from_slice(&rest[..length]);
        this.read += length;
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncWrite + Unpin> Stream<S> {
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.left < self.leaving.len() {
            let io = Pin::new(&mut self.io);
            match ready!(io.poll_write(cx, &self.leaving[self.left..]))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                written => self.left += written,
            }
        }
        self.leaving.clear();
        self.left = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_leave(cx))?;
        let piece = &bytes[..bytes.len().min(MAX_PIECE_BYTES)];
        this.leaving.extend_from_slice(&[0; LENGTH_BYTES]);
        this.link
            .seal(piece, &mut this.leaving)
            .map_err(io::Error::other)?;
        let length = u16::try_from(this.leaving.len() - LENGTH_BYTES).map_err(io::Error::other)?;
        this.leaving[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        // What does not leave now does so at the next write or flush.
        if let Poll::Ready(Err(error)) = this.poll_leave(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_leave(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_leave(cx))?;
        Pin::new(&mut this.io).poll_close(cx)
    }
}
