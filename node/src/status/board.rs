//! What each running session tells of itself: a small file in the user's runtime folder, which only the user can read; it holds
//! no code and no key. Beside it a socket at which it answers.

use std::{
    env, fs,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
};

use remora_proto::identity::Role;
use serde_json::Value;

use tokio::sync::{mpsc, oneshot};

use super::answer::Answering;
use crate::{
    control::unix_ms,
    event::{PathSnapshot, role_name},
    terminal::screen::Screen,
};

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
        }
    }

    /// Shows what `screen` shows, when that has changed, and from the first time on has the way measured for whoever asks.
    /// Best effort: a full disk must not end a session.
    pub fn show(&mut self, screen: &Screen, measure: &mpsc::Sender<oneshot::Sender<PathSnapshot>>) {
        let Some(mut session) = screen.summary() else {
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
        if self.shown.replace(text).is_none() {
            let answering = Answering::begin(measure.clone());
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
        let unfinished = self.path.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        fs::rename(&unfinished, &self.path)
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        if self.shown.is_some()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(%error, "status file");
        }
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
