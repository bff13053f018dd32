//! Bytes on streams of their own, behind everything else that the connection carries.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use prost::Message;
use quinn::{Connection, ReadExactError, RecvStream, SendStream, VarInt};
use remora_proto::{
    exchange::{
        clipboard::MAX_CLIPBOARD_BYTES,
        files::{Hash, Over, Whose},
    },
    wire::message::{
        encode,
        session::{Content, StreamHeader, StreamKind},
    },
};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    folder::{Part, over},
    source::Source,
};
use crate::portrait;

/// After the picture: a file has time.
const PRIORITY: i32 = -2;
/// Why a stream is reset: nothing more comes of it, for now or at all.
const STOPPED: VarInt = VarInt::from_u32(2);
/// From a stream's opening to what it is for.
const OPENING: Duration = Duration::from_secs(10);
/// Longest message before the bytes: a kind; a number and an offset.
const MAX_OPENING_BYTES: usize = 32;
/// Pieces of a stream that are taken at once.
const PIECES: usize = 64;
/// Between two words about progress.
const PROGRESS: Duration = Duration::from_millis(250);

/// How far a transfer is.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) whose: Whose,
    pub(super) number: u32,
    pub(super) done: u64,
    pub(super) bytes: u64,
}

/// Says now and then how far it is; who is behind misses some.
#[derive(Debug)]
pub(super) struct Teller {
    to: mpsc::Sender<Progress>,
    whose: Whose,
    number: u32,
    last: Option<Instant>,
}

impl Teller {
    pub(super) fn new(to: mpsc::Sender<Progress>, whose: Whose, number: u32) -> Self {
        Self {
            to,
            whose,
            number,
            last: None,
        }
    }

    fn tell(&mut self, done: u64, bytes: u64) {
        let now = Instant::now();
        let is_due = self.last.is_none_or(|last| now - last >= PROGRESS);
        if is_due {
            self.last = Some(now);
            let (whose, number) = (self.whose, self.number);
            let progress = Progress {
                whose,
                number,
                done,
                bytes,
            };
            if self.to.try_send(progress).is_err() {
                tracing::trace!("progress is not told");
            }
        }
    }
}

/// How a transfer ended.
#[derive(Debug)]
pub(super) enum Sent {
    /// All of it has arrived, or the other side does not want more of it for now.
    Done,
    /// It cannot be read.
    Unreadable,
}

/// The same at the receiver.
#[derive(Debug)]
pub(super) enum Received {
    /// It is there.
    There(PathBuf),
    /// It was cut off; it may go on.
    CutOff(Part),
    /// Nothing will come of it.
    Over(Over),
}

/// A stream that the other side opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) kind: StreamKind,
    pub(super) content: Content,
    pub(super) stream: RecvStream,
}

async fn open(connection: &Connection, kind: StreamKind, content: Content) -> Option<SendStream> {
    let (mut stream, _) = connection.open_bi().await.ok()?;
    stream.set_priority(PRIORITY).ok()?;
    let mut opening = encode(&StreamHeader { kind: kind.into() }).to_vec();
    opening.extend(encode(&content));
    stream.write_all(&opening).await.ok()?;
    Some(stream)
}

/// What a stream is for; `None`: nothing that is known here.
pub(super) async fn opened(mut stream: RecvStream) -> Option<Opened> {
    let read = async {
        let header: StreamHeader = message(&mut stream).await?;
        let content: Content = message(&mut stream).await?;
        Some((header.kind(), content))
    };
    let (kind, content) = timeout(OPENING, read).await.ok()??;
    Some(Opened {
        kind,
        content,
        stream,
    })
}

async fn message<M: Message + Default>(stream: &mut RecvStream) -> Option<M> {
    // One byte, as it is short.
    let mut length = [0];
    exactly(stream, &mut length).await.ok()?;
    let length = usize::from(length[0]);
    let mut bytes = [0; MAX_OPENING_BYTES];
    let bytes = bytes.get_mut(..length)?;
    exactly(stream, bytes).await.ok()?;
    M::decode(&*bytes).ok()
}

async fn exactly(stream: &mut RecvStream, bytes: &mut [u8]) -> Result<(), ReadExactError> {
    stream.read_exact(bytes).await
}

/// Sends the clipboard's text.
pub(super) async fn send_text(connection: Connection, number: u32, text: Bytes) {
    let content = Content { number, offset: 0 };
    let sent = async {
        let mut stream = open(&connection, StreamKind::Clipboard, content).await?;
        stream.write_chunk(text).await.ok()?;
        stream.finish().ok()?;
        stream.stopped().await.ok()
    };
    if sent.await.is_none() {
        tracing::debug!("the clipboard's text did not arrive");
    }
}

/// Receives it.
pub(super) async fn receive_text(mut stream: RecvStream) -> Option<Bytes> {
    let text = stream.read_to_end(MAX_CLIPBOARD_BYTES).await;
    text.ok().map(Bytes::from)
}

/// Sends the picture of this side's card.
pub(super) async fn send_portrait(connection: Connection, picture: Bytes) {
    let sent = async {
        let mut stream = open(&connection, StreamKind::Picture, Content::default()).await?;
        stream.write_chunk(picture).await.ok()?;
        stream.finish().ok()?;
        stream.stopped().await.ok()
    };
    if sent.await.is_none() {
        tracing::debug!("the picture did not arrive");
    }
}

/// Receives the other's: drawn anew, if it is the one that was signed.
pub(super) async fn receive_portrait(mut stream: RecvStream, signed: [u8; 32]) -> Option<Bytes> {
    let bytes = stream.read_to_end(portrait::MAX_BYTES).await.ok()?;
    let drawn = spawn_blocking(move || portrait::checked(&bytes, &signed)).await;
    match drawn.ok()? {
        Ok(png) => Some(png.into()),
        Err(error) => {
            tracing::warn!(%error, "the other person's picture");
            None
        }
    }
}

/// Sends a file to whoever has `offset` bytes of that hash.
pub(super) async fn send_file(
    connection: Connection,
    source: Source,
    (number, offset, hash): (u32, u64, Hash),
    bytes: u64,
    mut teller: Teller,
    stop: CancellationToken,
) -> Sent {
    let beginning = source.clone();
    let Ok(offset) = spawn_blocking(move || beginning.begin(offset, &hash)).await else {
        return Sent::Unreadable;
    };
    let content = Content { number, offset };
    let opened = tokio::select! { biased;
        () = stop.cancelled() => None,
        opened = open(&connection, StreamKind::File, content) => opened,
    };
    let Some(mut stream) = opened else {
        return Sent::Done;
    };
    let mut at = offset;
    loop {
        teller.tell(at, bytes);
        let from = source.clone();
        let chunk = match spawn_blocking(move || from.read(at)).await {
            Ok(Ok(chunk)) => chunk,
            failed => {
                tracing::warn!(?failed, "reading a file");
                reset(stream);
                return Sent::Unreadable;
            }
        };
        if chunk.is_empty() {
            break;
        }
        at += u64::try_from(chunk.len()).unwrap_or_default();
        let written = tokio::select! { biased;
            () = stop.cancelled() => false,
            written = stream.write_chunk(chunk) => written.is_ok(),
        };
        if !written {
            reset(stream);
            return Sent::Done;
        }
    }
    if stream.finish().is_ok() {
        let arrived = tokio::select! { biased;
            () = stop.cancelled() => false,
            arrived = stream.stopped() => arrived.is_ok(),
        };
        if !arrived {
            reset(stream);
        }
    }
    Sent::Done
}

fn reset(mut stream: SendStream) {
    if stream.reset(STOPPED).is_err() {
        tracing::trace!("a file's stream was closed already");
    }
}

/// Receives what comes from `offset` on.
pub(super) async fn receive_file(
    mut stream: RecvStream,
    offset: u64,
    mut part: Part,
    mut teller: Teller,
    stop: CancellationToken,
) -> Received {
    let mut pieces = vec![Bytes::new(); PIECES];
    if offset == 0
        && let Err(error) = part.begin_anew()
    {
        part.discard();
        return Received::Over(over(&error));
    }
    loop {
        teller.tell(part.have().0, part.offer().bytes);
        let read = tokio::select! { biased;
            () = stop.cancelled() => return Received::CutOff(part),
            read = stream.read_chunks(&mut pieces) => read,
        };
        let come: Vec<Bytes> = match read {
            Ok(Some(count)) => pieces[..count].iter_mut().map(std::mem::take).collect(),
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "a file is cut off");
                return Received::CutOff(part);
            }
        };
        let written = spawn_blocking(move || {
            let written = come.iter().try_for_each(|piece| part.write(piece));
            (part, written)
        });
        match written.await {
            Ok((back, Ok(()))) => part = back,
            Ok((back, Err(over))) => {
                back.discard();
                return Received::Over(over);
            }
            Err(error) => return Received::Over(over(&io::Error::other(error))),
        }
    }
    match spawn_blocking(move || part.finish()).await {
        Ok(Ok(path)) => Received::There(path),
        Ok(Err(over)) => Received::Over(over),
        Err(error) => Received::Over(over(&io::Error::other(error))),
    }
}
