//! One stream: its messages go to the relay's UDP port, what comes from there goes back.

use std::{
    future::poll_fn,
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use remora_proto::wire::{
    self,
    stream::{Backlog, IDLE_TIMEOUT, MAX_DATAGRAM_BYTES},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UdpSocket,
    time,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::metrics::{Direction, Metrics, StreamEnd},
    datapath::DropReason,
};

/// From the stream's beginning to the first answer of the relay's UDP port: a handshake on the worst of links.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node gets to take what still waits for it when the relay closes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Carries datagrams until the stream ends, or the relay is `closing`.
///
/// `udp` is connected to the relay's UDP port.
pub(super) async fn carry<S>(
    stream: WebSocketStream<S>,
    udp: &UdpSocket,
    metrics: &Metrics,
    closing: CancellationToken,
) -> StreamEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (sink, mut messages) = stream.split();
    let mut down = Down {
        sink,
        backlog: Backlog::default(),
        is_unflushed: false,
        metrics,
    };
    let mut buffer = [0; MAX_DATAGRAM_BYTES];
    let mut silence = Silence::new(Instant::now());
    loop {
        let (due, end) = silence.deadline();
        tokio::select! {
            () = closing.cancelled() => {
                while let Ok(length) = udp.try_recv(&mut buffer) {
                    down.take(&buffer[..length]);
                }
                // Whoever does not take it by then has gone.
                return match time::timeout(CLOSE_TIMEOUT, down.finish()).await {
                    Ok(Ok(())) => StreamEnd::Closing,
                    Ok(Err(_)) | Err(_) => StreamEnd::Lost,
                };
            }
            message = messages.next() => match message {
                Some(Ok(Message::Binary(datagram))) => {
                    silence.heard = Instant::now();
                    up(udp, &datagram, metrics);
                }
                // Answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => down.is_unflushed = true,
                Some(Ok(Message::Close(_))) | None => return StreamEnd::Left,
                Some(Ok(Message::Text(_) | Message::Frame(_))) => return StreamEnd::Malformed,
                Some(Err(error)) => return end_of(&error),
            },
            received = udp.recv(&mut buffer) => match received {
                Ok(length) => {
                    silence.answered = Some(Instant::now());
                    down.take(&buffer[..length]);
                }
                // An ICMP message on its way back: the relay's port is about to close.
                Err(error) => tracing::debug!(%error, "a stream's socket"),
            },
            moved = down.moved(), if down.has_work() => if moved.is_err() {
                return StreamEnd::Lost;
            },
            () = time::sleep_until(due.into()) => return end,
        }
    }
}

/// How long either side has said nothing. Who speaks and is never answered is no node, and holds a node's place.
struct Silence {
    began: Instant,
    heard: Instant,
    answered: Option<Instant>,
}

impl Silence {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            heard: now,
            answered: None,
        }
    }

    /// When it has lasted too long, and how the stream ends then.
    fn deadline(&self) -> (Instant, StreamEnd) {
        let unanswered = match self.answered {
            Some(at) => at + IDLE_TIMEOUT,
            None => self.began + FIRST_ANSWER_TIMEOUT,
        };
        let idle = self.heard + IDLE_TIMEOUT;
        if unanswered < idle {
            (unanswered, StreamEnd::Unanswered)
        } else {
            (idle, StreamEnd::Idle)
        }
    }
}

/// Sends on what a node sent.
fn up(udp: &UdpSocket, datagram: &[u8], metrics: &Metrics) {
    metrics.stream_datagram(Direction::Received);
    // Its answer would be the address that the stream has on this computer.
    if wire::kind(datagram) == wire::Kind::Reflect {
        return metrics.dropped(DropReason::StreamReflect, 1);
    }
    // On the way to ourselves there is room, or the relay is far behind.
    if udp.try_send(datagram).is_err() {
        metrics.dropped(DropReason::SendBufferFull, 1);
    }
}

/// What goes to the node.
struct Down<'a, S> {
    sink: SplitSink<WebSocketStream<S>, Message>,
    backlog: Backlog,
    is_unflushed: bool,
    metrics: &'a Metrics,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Down<'_, S> {
    fn take(&mut self, datagram: &[u8]) {
        let datagram = Bytes::copy_from_slice(datagram);
        if !self.backlog.push(datagram, Instant::now()) {
            self.metrics.dropped(DropReason::StreamQueueFull, 1);
        }
    }

    fn has_work(&self) -> bool {
        self.is_unflushed || !self.backlog.is_empty()
    }

    /// Writes a datagram when there is room for one; when none waits, what was written leaves.
    ///
    /// Dropped half way, it has lost nothing.
    async fn moved(&mut self) -> Result<(), tungstenite::Error> {
        if self.backlog.is_empty() {
            poll_fn(|cx| self.sink.poll_flush_unpin(cx)).await?;
            self.is_unflushed = false;
            return Ok(());
        }
        poll_fn(|cx| self.sink.poll_ready_unpin(cx)).await?;
        let (datagram, late) = self.backlog.pop(Instant::now());
        self.metrics.dropped(DropReason::StreamLate, late);
        if let Some(datagram) = datagram {
            self.sink.start_send_unpin(Message::Binary(datagram))?;
            self.is_unflushed = true;
            self.metrics.stream_datagram(Direction::Sent);
        }
        Ok(())
    }

    /// Writes all that waits, and says goodbye.
    async fn finish(&mut self) -> Result<(), tungstenite::Error> {
        while self.has_work() {
            self.moved().await?;
        }
        self.sink.close().await
    }
}

fn end_of(error: &tungstenite::Error) -> StreamEnd {
    use tungstenite::Error;
    if matches!(error, Error::ConnectionClosed | Error::AlreadyClosed) {
        StreamEnd::Left
    } else if let Error::Io(error) = error
        && error.kind() != io::ErrorKind::InvalidData
    {
        StreamEnd::Lost
    } else {
        StreamEnd::Malformed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_answered_ends_sooner_than_who_has_nothing_to_say() {
        let secs = |secs| Duration::from_secs(secs);
        let start = Instant::now();
        let mut silence = Silence::new(start);
        silence.heard = start + secs(9);
        let unanswered = (start + secs(10), StreamEnd::Unanswered);
        assert_eq!(silence.deadline(), unanswered, "whatever it says");
        silence.answered = Some(start + secs(9));
        assert_eq!(silence.deadline(), (start + secs(84), StreamEnd::Idle));
        silence.heard = start + secs(50);
        let unanswered = (start + secs(84), StreamEnd::Unanswered);
        assert_eq!(silence.deadline(), unanswered, "nor later");
    }
}
