//! One stream: what the magic socket sends goes by it, what comes is the relay's.

use std::{future::poll_fn, time::Instant};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use remora_proto::wire::stream::Backlog;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{self, Message};

use super::Stream;

/// Carries datagrams until the stream ends, or nobody sends any more; each that comes is given to `take`.
///
/// # Errors
/// How the stream has ended.
pub(in crate::path) async fn carry(
    stream: Stream,
    mut outgoing: mpsc::Receiver<Bytes>,
    take: impl Fn(&[u8]),
) -> Result<(), tungstenite::Error> {
    let (mut sink, mut messages) = stream.split();
    let (mut backlog, mut is_unflushed, mut dropped) = (Backlog::default(), false, 0_usize);
    loop {
        tokio::select! {
            datagram = outgoing.recv() => match datagram {
                Some(datagram) => if !backlog.push(datagram, Instant::now()) {
                    dropped += 1;
                },
                // Said by dropping the other end; whether the relay hears it makes no difference.
                None => return sink.close().await,
            },
            message = messages.next() => match message {
                Some(Ok(Message::Binary(datagram))) => take(&datagram),
                // Answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => is_unflushed = true,
                Some(Ok(Message::Text(_) | Message::Close(_) | Message::Frame(_))) | None => {
                    return Err(tungstenite::Error::ConnectionClosed);
                }
                Some(Err(error)) => return Err(error),
            },
            // Until there is room for the next, or when there is none, until what was written has left.
            done = poll_fn(|cx| match backlog.is_empty() {
                true => sink.poll_flush_unpin(cx),
                false => sink.poll_ready_unpin(cx),
            }), if is_unflushed || !backlog.is_empty() => {
                done?;
                is_unflushed = !backlog.is_empty();
                let (datagram, late) = backlog.pop(Instant::now());
                if late + dropped > 0 {
                    tracing::debug!(late, dropped, "datagrams did not leave by the stream");
                    dropped = 0;
                }
                if let Some(datagram) = datagram {
                    sink.start_send_unpin(Message::Binary(datagram))?;
                }
            }
        }
    }
}
