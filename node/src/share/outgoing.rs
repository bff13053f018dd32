//! The picture's frames on their way to the helper: each on a stream of its own, which is cut off once it is given up. What
//! was cut off is not sent again, however much of it had been lost.

use std::collections::BTreeMap;

use bytes::Bytes;
use quinn::{Connection, VarInt};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The picture goes after everything: chat, control and keys never wait for it.
const PRIORITY: i32 = -1;
/// Why a stream is reset: there are newer pixels.
const GIVEN_UP: VarInt = VarInt::from_u32(1);

/// Frames under way.
#[derive(Debug)]
pub struct Outgoing {
    connection: Connection,
    /// Each ends with its sequence if it arrived and nobody else will say so.
    tasks: JoinSet<Option<u32>>,
    under_way: BTreeMap<u32, CancellationToken>,
    /// Cuts off all frames.
    frames: CancellationToken,
}

impl Outgoing {
    /// Nothing is under way.
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            tasks: JoinSet::new(),
            under_way: BTreeMap::new(),
            frames: CancellationToken::new(),
        }
    }

    /// Sends a frame; of a quiet one [`arrived`](Self::arrived) says when it is there.
    pub fn frame(&mut self, sequence: u32, bytes: Bytes, quiet: bool) {
        let given_up = self.frames.child_token();
        let written = write(self.connection.clone(), bytes, given_up.clone());
        self.tasks.spawn(async move {
            let arrived = written.await;
            (arrived && quiet).then_some(sequence)
        });
        self.under_way.insert(sequence, given_up);
    }

    /// Sends what is no frame and not given up: a cursor's shape.
    pub fn other(&mut self, bytes: Bytes) {
        let written = write(self.connection.clone(), bytes, CancellationToken::new());
        self.tasks.spawn(async move {
            written.await;
            None
        });
    }

    /// The next quiet frame that is at the viewer's. Cancel-safe.
    pub async fn arrived(&mut self) -> u32 {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Some(sequence))) => return sequence,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// The viewer is done with that frame.
    pub fn seen(&mut self, sequence: u32) {
        self.under_way.remove(&sequence);
    }

    /// That frame is not worth its bytes any more.
    pub fn give_up(&mut self, sequence: u32) {
        if let Some(given_up) = self.under_way.remove(&sequence) {
            given_up.cancel();
        }
    }

    /// Not a byte more of anything that is under way.
    pub fn give_up_all(&mut self) {
        self.frames.cancel();
        self.frames = CancellationToken::new();
        self.under_way.clear();
    }
}

/// Whether all of it arrived.
async fn write(connection: Connection, bytes: Bytes, given_up: CancellationToken) -> bool {
    let opened = tokio::select! { biased;
        () = given_up.cancelled() => return false,
        opened = connection.open_uni() => opened,
    };
    // The connection's end is noticed elsewhere.
    let Ok(mut stream) = opened else { return false };
    let written = async {
        stream.set_priority(PRIORITY).ok()?;
        stream.write_chunk(bytes).await.ok()?;
        stream.finish().ok()?;
        // Until the last byte has been acknowledged there is something to cut off.
        stream.stopped().await.ok()
    };
    let arrived = tokio::select! { biased;
        () = given_up.cancelled() => None,
        written = written => Some(written == Some(None)),
    };
    if arrived.is_none() && stream.reset(GIVEN_UP).is_err() {
        tracing::trace!("a frame had arrived when it was given up");
    }
    arrived == Some(true)
}
