//! What each running session tells of itself: a small file in the user's runtime folder, which only the user can read; it holds
//! no code and no key. Beside it a socket at which it answers.

use std::{env, fs, os::unix::fs::DirBuilderExt, path::PathBuf};

use remora_proto::identity::Role;
use serde_json::Value;

use tokio::sync::{broadcast, mpsc};

use super::answer::{Answering, Ways};
use crate::{
    control::unix_ms,
    error::{Exit, Failure},
    event::{Asked, Event, role_name},
    secret_file,
    terminal::screen::Screen,
};

/// What is wanted, on its way to the session's program.
const QUEUE_ASKED: usize = 4;
/// Events that somebody who waits for an answer may be behind.
const QUEUE_EVENTS: usize = 256;

/// `$XDG_RUNTIME_DIR/remora`, or a folder of the user's own below the temporary one.
pub(crate) fn folder() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) => PathBuf::from(runtime).join("remora"),
        None => env::temp_dir().join(format!("remora-{}", nix::unistd::getuid())),
    }
}

/// Where the session of that process answers.
pub(super) fn socket(pid: u32) -> PathBuf {
    folder().join(format!("{pid}.sock"))
}

/// What this process tells about its session; taken down when dropped.
#[derive(Debug)]
pub struct Board {
    path: PathBuf,
    role: Role,
    shown: Option<String>,
    /// Since the two computers are connected.
    since_unix_ms: Option<u64>,
    answering: Option<Answering>,
    asked: (mpsc::Sender<Asked>, mpsc::Receiver<Asked>),
    events: broadcast::Sender<Event>,
}

impl Board {
    /// A board for this process.
    pub fn new(role: Role) -> Self {
        let path = folder().join(format!("{}.json", std::process::id()));
        Self {
            path,
            role,
            shown: None,
            since_unix_ms: None,
            answering: None,
            asked: mpsc::channel(QUEUE_ASKED),
            events: broadcast::Sender::new(QUEUE_EVENTS),
        }
    }

    /// What somebody else on this computer wants of the session. Cancel-safe.
    pub async fn next(&mut self) -> Asked {
        match self.asked.1.recv().await {
            Some(asked) => asked,
            // Never: this side has a sender, too.
            None => std::future::pending().await,
        }
    }

    /// Tells whoever waits for an answer what has happened.
    pub fn tell(&self, event: &Event) {
        if self.events.receiver_count() > 0 {
            // Those who listen may have gone meanwhile.
            self.events.send(event.clone()).ok();
        }
    }

    /// The session is over: who waits gets an answer first.
    pub async fn close(mut self) {
        let answering = self.answering.take();
        let Self { asked, events, .. } = &mut self;
        asked.1.close();
        *events = broadcast::Sender::new(1);
        if let Some(answering) = answering {
            answering.close().await;
        }
    }

    /// Shows what `screen` shows, when that has changed, and from the first time on answers whoever asks. Best effort: a full
    /// disk must not end a session.
    pub fn show(&mut self, screen: &Screen) {
        let Some(mut session) = screen.summary() else {
            self.take_down();
            return;
        };
        session["pid"] = std::process::id().into();
        session["role"] = role_name(self.role).into();
        let since_unix_ms = *self.since_unix_ms.get_or_insert_with(unix_ms);
        session["since_unix_ms"] = since_unix_ms.into();
        let text = session.to_string();
        if self.shown.as_ref() == Some(&text) {
            return;
        }
        if let Err(error) = self.write(&text) {
            tracing::debug!(%error, "status file");
        }
        self.shown = Some(text);
        if self.answering.is_none() {
            let answering = Answering::begin(Ways {
                asked: self.asked.0.clone(),
                events: self.events.clone(),
            });
            let answering = answering.inspect_err(|error| tracing::debug!(%error, "status socket"));
            self.answering = answering.ok();
        }
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder())?;
        // Whoever reads it finds all of it, or what was there before.
        secret_file::replace_secret(&self.path, text.as_bytes())
    }
}

impl Board {
    fn take_down(&mut self) {
        if self.shown.take().is_some()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(%error, "status file");
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.take_down();
    }
}

/// Sessions of processes that are still there; what a killed process left behind is swept.
pub(crate) fn sessions() -> Vec<Value> {
    let Ok(entries) = fs::read_dir(folder()) else {
        return Vec::new();
    };
    let mut sessions: Vec<Value> = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|name| name == "json"))
        .filter_map(|entry| live_session(&entry.path()))
        .collect();
    sessions.sort_by_key(|session| session["pid"].as_i64());
    sessions
}

fn live_session(path: &std::path::Path) -> Option<Value> {
    let session: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(session["pid"].as_i64()?).ok()?);
    if nix::sys::signal::kill(pid, None).is_ok() {
        return Some(session);
    }
    for left in [path.to_owned(), path.with_extension("sock")] {
        if let Err(error) = fs::remove_file(left) {
            tracing::debug!(%error, "stale status file");
        }
    }
    None
}

/// The session that is meant: the only one, or the one of that process, or with a person of that name, of which a part is enough.
///
/// # Errors
/// There is none, or more than one: what to do.
pub(super) fn choose<'a>(
    sessions: &'a [Value],
    named: Option<&str>,
) -> Result<(u32, &'a Value), Failure> {
    let wanted = named.map(str::to_lowercase);
    let peer = |session: &Value| session["peer"].as_str().unwrap_or_default().to_owned();
    let is_meant = |session: &&Value| {
        wanted.as_ref().is_none_or(|wanted| {
            let is_number = |number: u64| session["pid"] == number;
            peer(session).to_lowercase().contains(wanted) || wanted.parse().is_ok_and(is_number)
        })
    };
    let meant: Vec<&Value> = sessions.iter().filter(is_meant).collect();
    match (&meant[..], named) {
        ([session], _) => {
            let pid = session["pid"].as_u64().and_then(|pid| pid.try_into().ok());
            let pid = pid.ok_or_else(|| Failure::internal("the session's file", "no process"))?;
            Ok((pid, session))
        }
        ([], None) => Err(Failure::new(
            Exit::Error,
            "NO_SESSION",
            "there is no session on this computer; begin one with `remora invite` or `remora join`, or see `remora netcheck` for the network alone",
        )),
        ([], Some(named)) => Err(Failure::new(
            Exit::Error,
            "NO_SESSION",
            format!("no session on this computer is with {named:?}; `remora sessions` lists them"),
        )),
        (several, _) => {
            let list: Vec<String> = several
                .iter()
                .map(|session| format!("{} ({})", peer(session), session["pid"]))
                .collect();
            let list = list.join(", ");
            let line =
                format!("several sessions run here: {list}; say which, by a name or a number");
            Err(Failure::new(Exit::Usage, "SEVERAL_SESSIONS", line))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_session_is_meant_by_name_by_number_or_by_being_the_only_one() {
        let session = |pid: u64, peer: &str| json!({"pid": pid, "peer": peer});
        let two = [session(71, "Maria Lopez"), session(9, "Zoë Maria")];
        let one = |sessions: &[Value], named| choose(sessions, named).expect("one").0;
        let code = |sessions: &[Value], named| choose(sessions, named).expect_err("none").code;
        assert_eq!(one(&two, Some("lopez")), 71);
        assert_eq!(one(&two, Some("ZOË")), 9);
        assert_eq!(one(&two, Some("9")), 9);
        assert_eq!(one(&two[..1], None), 71);
        assert_eq!(code(&two, Some("maria")), "SEVERAL_SESSIONS");
        assert_eq!(code(&two, None), "SEVERAL_SESSIONS");
        assert_eq!(code(&two, Some("7")), "NO_SESSION");
        assert_eq!(code(&[], None), "NO_SESSION");
    }
}
