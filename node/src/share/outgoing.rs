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
    tasks: JoinSet<()>,
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

    /// Sends a frame.
    pub fn frame(&mut self, sequence: u32, bytes: Bytes) {
        while self.tasks.try_join_next().is_some() {}
        let given_up = self.frames.child_token();
        self.tasks
            .spawn(write(self.connection.clone(), bytes, given_up.clone()));
        self.under_way.insert(sequence, given_up);
    }

    /// Sends what is no frame and not given up: a cursor's shape.
    pub fn other(&mut self, bytes: Bytes) {
        self.tasks.spawn(write(
            self.connection.clone(),
            bytes,
            CancellationToken::new(),
        ));
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

async fn write(connection: Connection, bytes: Bytes, given_up: CancellationToken) {
    let opened = tokio::select! { biased;
        () = given_up.cancelled() => return,
        opened = connection.open_uni() => opened,
    };
    // The connection's end is noticed elsewhere.
    let Ok(mut stream) = opened else { return };
    let written = async {
        stream.set_priority(PRIORITY).ok()?;
        stream.write_chunk(bytes).await.ok()?;
        stream.finish().ok()?;
        // Until the last byte has been acknowledged there is something to cut off.
        stream.stopped().await.ok()
    };
    let cut = tokio::select! { biased;
        () = given_up.cancelled() => true,
        _ = written => false,
    };
    if cut && stream.reset(GIVEN_UP).is_err() {
        tracing::trace!("a frame had arrived when it was given up");
    }
}
