//! What the agents of one device say to each other, and an agent and `remora inbox`: a JSON object a line, on a socket of this computer.
//!
//! ```text
//!  who has the device's key ── ToSeat ──▶ agent of another log-in          agent ── Told ──▶ remora inbox
//!                           ◀─ FromSeat ─                                        ◀─ Asked ──
//! ```

use std::io;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinSet,
};

/// Longest line: sixteen offers with the longest cards and reasons.
const MAX_LINE_BYTES: u64 = 64 * 1024;
/// Lines waiting to be read here, or written; a desk has at most sixteen offers.
const QUEUE_LINES: usize = 64;

/// An offer, as people see it; in it there is no code.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(super) struct Letter {
    /// Which.
    pub(super) id: String,
    /// Who invites: the fields of a card.
    pub(super) from: Value,
    /// `attended`; or `unattended`: it begins by itself at `until_unix_ms`, unless somebody declines it.
    pub(super) kind: String,
    /// `view` or `control`, if that is known.
    pub(super) mode: Option<String>,
    /// One line, or empty.
    pub(super) reason: String,
    /// By this computer's clock.
    pub(super) until_unix_ms: u64,
}

impl Letter {
    /// The helper's name.
    pub(super) fn name(&self) -> &str {
        self.from["full_name"].as_str().unwrap_or_default()
    }

    /// Whether it begins by itself, with nobody there.
    pub(super) fn is_unattended(&self) -> bool {
        self.kind == UNATTENDED
    }
}

/// Of an invitation that nobody has to open.
pub(super) const UNATTENDED: &str = "unattended";

/// For somebody who is logged in.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum ToSeat {
    /// The device, to a new seat: it is taken.
    Device { device: String },
    /// To a new seat: it is not.
    Full { code: String, text: String },
    /// There is an offer.
    Show { letter: Letter },
    /// No more.
    Withdrawn { id: String, why: String },
    /// It was the first to open it.
    Opened { id: String, code: String },
    /// It lets the unattended one begin at once.
    Begins { id: String },
    /// It has declined it.
    Declined { id: String },
    /// It can do neither.
    NotYours {
        id: String,
        code: String,
        text: String,
    },
}

/// From them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum FromSeat {
    /// First of all: where they are logged in.
    Hello { login: String },
    /// They want to help themselves to it.
    Open { id: String },
    /// They do not.
    Decline { id: String },
}

/// From `remora inbox`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(super) enum Asked {
    /// What is there?
    List,
    /// Which may be the beginning of an id; nothing is the only one.
    Open { id: String },
    /// The same.
    Decline { id: String },
}

/// For `remora inbox`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "tell", rename_all = "snake_case")]
pub(super) enum Told {
    /// This.
    List { letters: Vec<Letter> },
    /// The code to join with, and how long the person still has to allow what the helper asks for.
    Opened {
        id: String,
        code: String,
        left_ms: u64,
    },
    /// The unattended session begins at once.
    Begins { id: String },
    /// Done.
    Declined { id: String },
    /// Not possible.
    Not { code: String, text: String },
}

/// A socket's lines, both ways. Its tasks end with it.
#[derive(Debug)]
pub(super) struct Link<In, Out> {
    pub(super) from: mpsc::Receiver<In>,
    pub(super) to: mpsc::Sender<Out>,
    tasks: JoinSet<()>,
}

impl<In, Out> Link<In, Out>
where
    In: DeserializeOwned + Send + 'static,
    Out: Serialize + Send + 'static,
{
    /// Of a stream.
    pub(super) fn new(stream: UnixStream) -> Self {
        let (heard, from) = mpsc::channel(QUEUE_LINES);
        let (to, said) = mpsc::channel(QUEUE_LINES);
        let (read, write) = stream.into_split();
        let mut tasks = JoinSet::new();
        tasks.spawn(read_all(read, heard));
        tasks.spawn(write_all(write, said));
        Self { from, to, tasks }
    }

    /// Two ends within this program.
    pub(super) fn pair() -> (Self, Link<Out, In>) {
        let (to_other, from_one) = mpsc::channel(QUEUE_LINES);
        let (to_one, from_other) = mpsc::channel(QUEUE_LINES);
        let one = Self {
            from: from_other,
            to: to_other,
            tasks: JoinSet::new(),
        };
        let other = Link {
            from: from_one,
            to: to_one,
            tasks: JoinSet::new(),
        };
        (one, other)
    }

    /// Ends when all that was said is written.
    pub(super) async fn close(self) {
        let Self {
            from,
            to,
            mut tasks,
        } = self;
        drop((from, to));
        while tasks.join_next().await.is_some() {}
    }
}

async fn read_all<In: DeserializeOwned>(read: OwnedReadHalf, heard: mpsc::Sender<In>) {
    let mut read = BufReader::new(read);
    loop {
        let line = tokio::select! {
            line = read_line(&mut read) => line,
            // Nobody listens: there is no use in holding the other up.
            () = heard.closed() => return,
        };
        match line {
            Ok(Some(line)) => {
                if heard.send(line).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => return tracing::debug!(%error, "an agent's socket"),
        }
    }
}

async fn read_line<In: DeserializeOwned>(
    read: &mut BufReader<OwnedReadHalf>,
) -> io::Result<Option<In>> {
    let mut line = Vec::new();
    let length = read
        .take(MAX_LINE_BYTES)
        .read_until(b'\n', &mut line)
        .await?;
    match length {
        0 => Ok(None),
        _ => Ok(Some(serde_json::from_slice(&line)?)),
    }
}

async fn write_all<Out: Serialize>(mut write: OwnedWriteHalf, mut said: mpsc::Receiver<Out>) {
    while let Some(word) = said.recv().await {
        let line = serde_json::to_vec(&word).map(|line| [line, b"\n".to_vec()].concat());
        let written = match line {
            Ok(line) => write.write_all(&line).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = written {
            return tracing::debug!(%error, "an agent's socket");
        }
    }
}
