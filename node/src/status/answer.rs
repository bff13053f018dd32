//! A session answers `remora ping`: whoever connects to a socket beside its file has the way measured, and gets one line.
//!
//! ```text
//!  ping ── connects ─▶ PID.sock ─▶ the session ─▶ a check there and back ─▶ one JSON object, and the end
//! ```

use std::{io, path::PathBuf, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::board::socket;
use crate::event::PathSnapshot;

/// The longest that is waited for the other node's answer: a path that has gone dark is left by then, for one that answers.
const PATIENCE: Duration = Duration::from_secs(2);
/// Who is answered at once; others wait.
const MAX_AT_ONCE: usize = 4;
/// An answer is not longer.
const MAX_ANSWER_BYTES: u64 = 4096;

/// Answers, until it is dropped.
#[derive(Debug)]
pub(super) struct Answering {
    path: PathBuf,
    _task: JoinSet<()>,
}

impl Answering {
    /// For this process; the session is asked by `measure`.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn begin(measure: mpsc::Sender<oneshot::Sender<PathSnapshot>>) -> io::Result<Self> {
        let path = socket(std::process::id());
        // A process of the same number may have been killed.
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let listener = UnixListener::bind(&path)?;
        let mut task = JoinSet::new();
        task.spawn(answer_all(listener, measure));
        Ok(Self { path, _task: task })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "status socket");
        }
    }
}

async fn answer_all(listener: UnixListener, measure: mpsc::Sender<oneshot::Sender<PathSnapshot>>) {
    let mut answering = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = answering.join_next() => {}
            connected = listener.accept(), if answering.len() < MAX_AT_ONCE => match connected {
                Ok((stream, _)) => {
                    answering.spawn(timeout(PATIENCE, answer(stream, measure.clone())));
                }
                Err(error) => {
                    tracing::debug!(%error, "status socket");
                    return;
                }
            },
        }
    }
}

async fn answer(mut stream: UnixStream, measure: mpsc::Sender<oneshot::Sender<PathSnapshot>>) {
    let (tell, told) = oneshot::channel();
    if measure.send(tell).await.is_err() {
        return;
    }
    if let Ok(path) = told.await
        && let Err(error) = stream.write_all(path.json().to_string().as_bytes()).await
    {
        tracing::debug!(%error, "nobody waits for the measurement any more");
    }
}

/// Has the way of the session in that process measured; `None` when no answer came.
pub(super) async fn ask(pid: u32) -> Option<Value> {
    let asking = async {
        let mut text = String::new();
        let stream = UnixStream::connect(socket(pid)).await?;
        stream
            .take(MAX_ANSWER_BYTES)
            .read_to_string(&mut text)
            .await?;
        Ok::<_, io::Error>(text)
    };
    // The session gives up by itself; unless it is stopped.
    let text = timeout(2 * PATIENCE, asking).await.ok()?;
    let text = text.inspect_err(|error| tracing::debug!(%error, "the session does not answer"));
    serde_json::from_str(&text.ok()?).ok()
}
