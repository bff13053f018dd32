//! Settings that are read again while a relay runs: what changes at once, and what has to wait for a restart.
//!
//! What is new is held against what the relay runs with, not against what was read last: a key that waits for a restart is named by every
//! reload until there is one.

use std::{env, path::PathBuf, sync::Arc};

use tracing::Level;

use super::{
    Live, describe,
    layers::{self, LoadError, Loaded, Problem, Value},
};
use crate::admin::token::AdminToken;

/// Says how much is logged, which can be changed, too.
const LOG: &str = "log";
/// The token in that file may change without the key that names it.
const TOKEN: &str = "admin_token_file";

/// What a relay runs with, for whoever asks, and what it was told since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// As `config show` has it; whoever looks every other second shares it.
    pub shown: Arc<str>,
    /// Keys that say something else by now, and count from the next start.
    pub waiting: Vec<String>,
    /// Everything that was wrong when the settings were read last; then nothing was changed.
    pub refused: Vec<String>,
}

/// Reads again what a relay was started with.
#[derive(Debug)]
pub struct Reload {
    /// What holds.
    running: Vec<Value>,
    token: Option<AdminToken>,
    token_file: Option<PathBuf>,
    /// Why it could not be read when it was looked at last.
    trouble: Option<String>,
    standing: Standing,
}

/// What is to be done.
#[derive(Debug)]
pub struct Change {
    /// From now on.
    pub live: Live,
    /// From now on.
    pub log: Level,
    /// Keys that were changed by this.
    pub changed: Vec<String>,
}

impl Reload {
    /// Of a relay that was started with this.
    pub fn new(
        running: Vec<Value>,
        token_file: Option<PathBuf>,
        token: Option<AdminToken>,
    ) -> Self {
        let shown = describe::shown_as_file(&running).into();
        Self {
            running,
            token,
            token_file,
            trouble: None,
            standing: Standing {
                shown,
                ..Standing::default()
            },
        }
    }

    /// What holds, and what waits or was refused.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Reads file and environment again, and the files that they name. None where anything is wrong: then nothing is to be changed, and
    /// [`Self::standing`] says what it was.
    pub fn read(&mut self) -> Option<Change> {
        match load() {
            Ok((loaded, token)) => self.take(&loaded, token),
            Err(problems) => {
                self.standing.refused = problems;
                None
            }
        }
    }

    /// Looks whether there is another token in its file, as there is in Kubernetes without a signal. What cannot be used changes nothing, and
    /// is said once.
    pub fn look(&mut self) -> Option<AdminToken> {
        match AdminToken::load(self.token_file.as_deref()?) {
            Ok(token) => {
                self.trouble = None;
                let is_new = self.token.as_ref() != Some(&token);
                is_new.then(|| self.token.insert(token).clone())
            }
            Err(error) => {
                let trouble = format!("{:#}", anyhow::Error::new(error));
                if self.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!(error = trouble, "the admin token stays as it was");
                }
                self.trouble = Some(trouble);
                None
            }
        }
    }

    fn take(&mut self, loaded: &Loaded, token: Option<AdminToken>) -> Option<Change> {
        let serve = loaded.args.serving()?;
        let (mut changed, mut waiting) = (Vec::new(), Vec::new());
        for (running, value) in self.running.iter_mut().zip(&loaded.values) {
            let key = value.key.as_str();
            if running.typed == value.typed {
                running.origin = value.origin.clone();
            } else if key == LOG || Live::KEYS.contains(&key) {
                changed.push(value.key.clone());
                *running = value.clone();
            } else {
                waiting.push(value.key.clone());
            }
        }
        if token != self.token && !changed.iter().any(|key| key == TOKEN) {
            changed.push(TOKEN.to_owned());
        }
        self.token.clone_from(&token);
        self.token_file.clone_from(&serve.admin_token_file);
        self.trouble = None;
        self.standing = Standing {
            shown: describe::shown_as_file(&self.running).into(),
            waiting,
            refused: Vec::new(),
        };
        Some(Change {
            live: Live::new(serve, token),
            log: serve.log,
            changed,
        })
    }
}

/// What is said now, where nothing of it is wrong.
fn load() -> Result<(Loaded, Option<AdminToken>), Vec<String>> {
    let texts = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
    let loaded = layers::load(env::args_os()).map_err(|error| match error {
        LoadError::CommandLine(error) => vec![layers::mistake(&error)],
        LoadError::Problems(problems, _) => texts(problems),
    })?;
    let problems = loaded.unusable_files();
    if !problems.is_empty() {
        return Err(texts(problems));
    }
    let serve = loaded.args.serving();
    let file = serve.and_then(|serve| serve.admin_token_file.as_deref());
    let token = file.map(AdminToken::load).transpose();
    let token = token.map_err(|error| vec![format!("{:#}", anyhow::Error::new(error))])?;
    Ok((loaded, token))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn another_token_in_the_file_counts_and_one_that_cannot_be_read_changes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("token");
        let write = |text: &str, mode: u32| {
            fs::write(&file, text).expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("ours");
        };
        write("0123456789abcdef", 0o600);
        let first = AdminToken::load(&file).expect("a token");
        let mut reload = Reload::new(Vec::new(), Some(file.clone()), Some(first));
        assert_eq!(reload.look(), None);
        write("fedcba9876543210", 0o644);
        assert_eq!(reload.look(), None, "others can read it");
        write("fedcba9876543210", 0o600);
        assert_eq!(reload.look(), AdminToken::parse("fedcba9876543210"));
        assert_eq!(reload.look(), None, "once");
        fs::remove_file(&file).expect("ours");
        assert_eq!(reload.look(), None);
        assert_eq!(Reload::new(Vec::new(), None, None).look(), None);
    }
}
