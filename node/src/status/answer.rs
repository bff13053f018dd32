//! A session answers whoever of this computer's user connects to the socket beside its file: `remora ping`, `remora ask`,
//! `remora leave` … One line says what is wanted, one JSON object comes back, and the end. See `status::order`.

use std::{io, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf},
    sync::{broadcast, mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::{
    board::socket,
    order::{Answer, MAX_ORDER_BYTES, Order},
};
use crate::event::{Asked, Event};

/// For whoever has connected to say what is wanted, and for the last answers when the session is over.
const PROMPTLY: Duration = Duration::from_secs(2);
/// Who is answered at once; others wait. Those who wait for a person's answer are among them.
const MAX_AT_ONCE: usize = 16;
/// An answer is not longer.
const MAX_ANSWER_BYTES: u64 = 4096;
/// How much longer the one who asks waits than the one who answers.
const MARGIN: Duration = Duration::from_secs(2);

/// How the session is reached.
#[derive(Clone, Debug)]
pub(super) struct Ways {
    /// Its program, which says what the person has to know, and asks the session.
    pub asked: mpsc::Sender<Asked>,
    /// What happens.
    pub events: broadcast::Sender<Event>,
}

/// Answers, until it is dropped.
#[derive(Debug)]
pub(super) struct Answering {
    path: PathBuf,
    task: JoinSet<()>,
}

impl Answering {
    /// For this process.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn begin(ways: Ways) -> io::Result<Self> {
        let path = socket(std::process::id());
        // A process of the same number may have been killed.
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let listener = UnixListener::bind(&path)?;
        let mut task = JoinSet::new();
        task.spawn(answer_all(listener, ways));
        Ok(Self { path, task })
    }

    /// The session is over, and has told all its events: whoever waits for an answer gets it.
    pub(super) async fn close(mut self) {
        let answered = async { while self.task.join_next().await.is_some() {} };
        if timeout(PROMPTLY, answered).await.is_err() {
            tracing::debug!("somebody did not take an answer");
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "status socket");
        }
    }
}

/// Until the session's program is done with it.
async fn answer_all(listener: UnixListener, ways: Ways) {
    let Ways { asked, events } = ways;
    // Not the sender: when the program drops its own, nothing more happens.
    let happening = events.subscribe();
    drop(events);
    let mut answering = JoinSet::new();
    loop {
        tokio::select! {
            () = asked.closed() => break,
            Some(_) = answering.join_next() => {}
            connected = listener.accept(), if answering.len() < MAX_AT_ONCE => match connected {
                Ok((stream, _)) => {
                    // From now on; or an older answer would be taken for this one's.
                    let events = happening.resubscribe();
                    answering.spawn(answer(stream, asked.clone(), events));
                }
                Err(error) => {
                    tracing::debug!(%error, "status socket");
                    break;
                }
            },
        }
    }
    while answering.join_next().await.is_some() {}
}

async fn answer(
    stream: UnixStream,
    asked: mpsc::Sender<Asked>,
    mut events: broadcast::Receiver<Event>,
) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read.take(MAX_ORDER_BYTES));
    let mut line = String::new();
    match timeout(PROMPTLY, read.read_line(&mut line)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return,
    }
    let answer = match serde_json::from_str::<Order>(&line) {
        Ok(order) => {
            let answered = obey(&order, asked, &mut events);
            tokio::select! {
                answer = timeout(order.patience(), answered) => answer.ok().flatten(),
                // Nobody waits for it any more; the session goes on with it all the same.
                () = hung_up(read) => None,
            }
        }
        Err(error) => {
            Some(json!({"answer": "refused", "code": "BAD_ORDER", "text": error.to_string()}))
        }
    };
    if let Some(answer) = answer
        && let Err(error) = write.write_all(answer.to_string().as_bytes()).await
    {
        tracing::debug!(%error, "nobody waits for the answer any more");
    }
}

/// Whoever asks says nothing more, so that any end of it is theirs.
async fn hung_up(mut read: BufReader<tokio::io::Take<OwnedReadHalf>>) {
    let mut more = Vec::new();
    if let Err(error) = read.read_to_end(&mut more).await {
        tracing::debug!(%error, "status socket");
    }
}

/// `None`: the session is over, or does not answer.
async fn obey(
    order: &Order,
    asked: mpsc::Sender<Asked>,
    events: &mut broadcast::Receiver<Event>,
) -> Option<Value> {
    let Some(command) = order.command() else {
        let (tell, told) = oneshot::channel();
        asked.send(Asked::Way(tell)).await.ok()?;
        return Some(told.await.ok()?.json());
    };
    let (told, taken) = oneshot::channel();
    asked.send(Asked::Command(command, told)).await.ok()?;
    drop(asked);
    let answer = match taken.await.ok()? {
        Err(refusal) => Answer::refused(refusal),
        Ok(()) if !order.waits() => Answer::Done,
        Ok(()) => loop {
            match events.recv().await {
                Ok(event) => {
                    if let Some(answer) = order.answered_by(&event) {
                        break answer;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        },
    };
    serde_json::to_value(answer).ok()
}

/// Has the session in that process do or tell something; `None` when no answer came.
pub(super) async fn ask(pid: u32, order: &Order) -> Option<Value> {
    let asking = async {
        let mut text = String::new();
        let mut stream = UnixStream::connect(socket(pid)).await?;
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        stream
            .take(MAX_ANSWER_BYTES)
            .read_to_string(&mut text)
            .await?;
        Ok::<_, io::Error>(text)
    };
    // The session gives up by itself; unless it is stopped.
    let text = timeout(order.patience() + MARGIN, asking).await.ok()?;
    let text = text.inspect_err(|error| tracing::debug!(%error, "the session does not answer"));
    serde_json::from_str(&text.ok()?).ok()
}
