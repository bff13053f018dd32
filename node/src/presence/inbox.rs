//! Invitations of one log-in: shown as notifications, listed and answered by `remora inbox`, as long as the agent runs there.
//!
//! ```text
//!  desk ── Show, Withdrawn ──▶ inbox ──▶ popup, event      remora inbox ── socket ──▶ list, open, decline
//!       ◀─ Open, Decline ─────      ◀─ pressed ── session in a program of its own (`child`)
//! ```

/// `remora inbox`: asks the agents of this log-in.
pub mod ask;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::PathBuf,
    time::Duration,
};

use serde_json::json;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::{
    agent::Voice,
    child::Command,
    letter::{Asked, FromSeat, Letter, Link, ToSeat, Told},
    popup::{Popups, Pressed},
    seats::Place,
};
use crate::{
    control::unix_ms,
    error::{Exit, Failure},
    status::board::folder,
};

/// The file's name is this, the process and `.sock`.
const PREFIX: &str = "agent-";
/// Who asks at once; others wait.
const MAX_ASKING: usize = 8;
/// For somebody to ask, and to be answered.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where agents of this log-in answer.
fn sockets() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder()) else {
        return Vec::new();
    };
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(".sock"))
    };
    let mut paths: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(is_ours)
        .collect();
    paths.sort();
    paths
}

type Question = (Asked, oneshot::Sender<Told>);

/// See the module.
#[derive(Debug)]
pub(super) struct Inbox {
    letters: BTreeMap<String, Letter>,
    /// Who waits for the desk's word on which.
    waiting: Vec<(String, oneshot::Sender<Told>)>,
    questions: mpsc::Receiver<Question>,
    popups: Popups,
    voice: Voice,
    command: Command,
    sessions: JoinSet<()>,
    path: PathBuf,
    _listening: JoinSet<()>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the inbox's socket");
        }
    }
}

impl Inbox {
    /// Opens the inbox of this process.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open(voice: Voice, command: Command) -> Result<Self, Failure> {
        let path = folder().join(format!("{PREFIX}{}.sock", std::process::id()));
        let listen = || {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(folder())?;
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = listen().map_err(|error| {
            let line = format!("cannot open {}: {error}", path.display());
            Failure::new(Exit::Error, "AGENT_SOCKET", line)
        })?;
        let (to, questions) = mpsc::channel(MAX_ASKING);
        let mut listening = JoinSet::new();
        listening.spawn(listen_all(listener, to));
        Ok(Self {
            letters: BTreeMap::new(),
            waiting: Vec::new(),
            questions,
            popups: Popups::new(),
            voice,
            command,
            sessions: JoinSet::new(),
            path,
            _listening: listening,
        })
    }

    /// For as long as the desk is there.
    ///
    /// # Errors
    /// Nobody reads what is said.
    pub(super) async fn run(&mut self, mut place: Place) -> Result<(), Failure> {
        loop {
            tokio::select! { biased;
                word = place.from.recv() => match word {
                    Some(word) => self.hear(word)?,
                    None => break,
                },
                Some((asked, answer)) = self.questions.recv() => self.answer(asked, answer, &place).await,
                pressed = self.popups.next() => match pressed {
                    // It has a program already, which waits for that.
                    Pressed::Open(id) if self.is_unattended(&id) => say(&place, FromSeat::Open { id }).await,
                    Pressed::Open(id) => {
                        self.sessions.spawn(self.command.open(&id));
                    }
                    Pressed::Decline(id) => say(&place, FromSeat::Decline { id }).await,
                },
                Some(_) = self.sessions.join_next() => {}
            }
        }
        // Whoever comes after it asks again, and shows what is still open.
        self.waiting.clear();
        Ok(())
    }

    fn is_unattended(&self, id: &str) -> bool {
        self.letters.get(id).is_some_and(Letter::is_unattended)
    }

    fn hear(&mut self, word: ToSeat) -> Result<(), Failure> {
        match word {
            ToSeat::Device { .. } | ToSeat::Full { .. } => {}
            ToSeat::Show { letter } => {
                self.sweep();
                let id = letter.id.clone();
                if self.letters.insert(id, letter.clone()).is_none() {
                    self.popups.show(&letter);
                    self.voice
                        .tell(event("invitation", &letter), &line(&letter))?;
                }
            }
            ToSeat::Withdrawn { id, why } => {
                if let Some(letter) = self.take(&id) {
                    let line = match letter.is_unattended() {
                        true => format!("{} is not waited for any more ({why}).", letter.name()),
                        false => format!("{} invites no more ({why}).", letter.name()),
                    };
                    let event = json!({"event": "invitation_withdrawn", "id": id, "why": why});
                    self.voice.tell(event, &line)?;
                }
            }
            ToSeat::Opened { id, code } => {
                let until = self.take(&id).map(|letter| letter.until_unix_ms);
                let left_ms = until.unwrap_or_default().saturating_sub(unix_ms());
                let event = json!({"event": "invitation_opened", "id": id});
                self.voice.tell(event, "Opened.")?;
                self.tell(&id.clone(), Told::Opened { id, code, left_ms });
            }
            ToSeat::Begins { id } => {
                self.take(&id);
                let event = json!({"event": "invitation_opened", "id": id});
                self.voice.tell(event, "It begins.")?;
                self.tell(&id.clone(), Told::Begins { id });
            }
            ToSeat::Declined { id } => {
                self.take(&id);
                let event = json!({"event": "invitation_declined", "id": id});
                self.voice.tell(event, "Declined.")?;
                self.tell(&id.clone(), Told::Declined { id });
            }
            ToSeat::NotYours { id, code, text } => {
                self.take(&id);
                self.tell(&id, Told::Not { code, text });
            }
        }
        Ok(())
    }

    /// What nobody can open any more, whether or not anybody has said so.
    fn sweep(&mut self) {
        let now = unix_ms();
        let over = self.letters.values();
        let over = over.filter(|letter| letter.until_unix_ms <= now);
        let over: Vec<_> = over.map(|letter| letter.id.clone()).collect();
        for id in over {
            self.take(&id);
        }
    }

    fn take(&mut self, id: &str) -> Option<Letter> {
        let letter = self.letters.remove(id)?;
        self.popups.close(id);
        Some(letter)
    }

    /// Answers whoever waits for that.
    fn tell(&mut self, id: &str, told: Told) {
        let at = self.waiting.iter().position(|(waiting, _)| waiting == id);
        if let Some((_, answer)) = at.map(|at| self.waiting.swap_remove(at))
            && answer.send(told).is_err()
        {
            tracing::debug!("nobody waits for the answer");
        }
    }

    async fn answer(&mut self, asked: Asked, answer: oneshot::Sender<Told>, place: &Place) {
        self.sweep();
        self.waiting.retain(|(_, waiting)| !waiting.is_closed());
        let (id, is_open) = match asked {
            Asked::List => {
                let letters = self.letters.values().cloned().collect();
                return reply(answer, Told::List { letters });
            }
            Asked::Open { id } => (id, true),
            Asked::Decline { id } => (id, false),
        };
        let mut meant = self.letters.keys().filter(|other| other.starts_with(&id));
        let (Some(id), None) = (meant.next().cloned(), meant.next()) else {
            return reply(answer, unknown());
        };
        self.waiting.push((id.clone(), answer));
        let word = match is_open {
            true => FromSeat::Open { id },
            false => FromSeat::Decline { id },
        };
        say(place, word).await;
    }
}

fn unknown() -> Told {
    Told::Not {
        code: "UNKNOWN_INVITATION".into(),
        text: "there is no such invitation, or not any more; `remora inbox` lists what there is"
            .into(),
    }
}

fn reply(answer: oneshot::Sender<Told>, told: Told) {
    if answer.send(told).is_err() {
        tracing::debug!("nobody waits for the answer");
    }
}

async fn say(place: &Place, word: FromSeat) {
    if place.to.send(word).await.is_err() {
        tracing::debug!("the desk is gone");
    }
}

/// `Sam Okafor (Contoso) offers help: TICKET-123. To accept:  remora inbox open`
fn line(letter: &Letter) -> String {
    let company = letter.from["company"].as_str().unwrap_or_default();
    let company = match company {
        "" => String::new(),
        company => format!(" ({company})"),
    };
    let reason = match letter.reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    let short = letter.id.get(..6).unwrap_or(&letter.id);
    if letter.is_unattended() {
        let left = Duration::from_millis(letter.until_unix_ms.saturating_sub(unix_ms()));
        return format!(
            "{}{company} will connect to this computer in {} s{reason}. Not now:  remora inbox decline {short}",
            letter.name(),
            left.as_secs_f32().round()
        );
    }
    format!(
        "{}{company} offers help{reason}. To accept:  remora inbox open {short}",
        letter.name()
    )
}

fn event(name: &str, letter: &Letter) -> serde_json::Value {
    json!({
        "event": name, "id": letter.id, "from": letter.from, "kind": letter.kind, "mode": letter.mode,
        "reason": letter.reason, "until_unix_ms": letter.until_unix_ms,
    })
}

async fn listen_all(listener: UnixListener, questions: mpsc::Sender<Question>) {
    let mut asking = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = asking.join_next() => {}
            accepted = listener.accept(), if asking.len() < MAX_ASKING => match accepted {
                Ok((stream, _)) => {
                    let questions = questions.clone();
                    asking.spawn(timeout(PATIENCE, async move {
                        let mut link: Link<Asked, Told> = Link::new(stream);
                        let asked = link.from.recv().await?;
                        let (answer, answered) = oneshot::channel();
                        questions.send((asked, answer)).await.ok()?;
                        let told = answered.await.unwrap_or_else(|_| unknown());
                        link.to.send(told).await.ok()?;
                        link.close().await;
                        Some(())
                    }));
                }
                Err(error) => return tracing::warn!(%error, "the inbox's socket"),
            },
        }
    }
}
