//! `config.sign-in`: the refresh token, which nobody else may read, and whose it is.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _},
    os::unix::fs::PermissionsExt as _,
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    error::{Exit, Failure},
    identity::Files,
    oidc::secret::Secret,
    secret_file,
};

/// Waits until no other program of this person asks for papers, and has them wait.
///
/// # Errors
/// The node has no key.
pub(super) fn lock(files: &Files) -> Result<Flock<File>, Failure> {
    let path = files.key_path();
    let opened = File::open(path).map_err(|error| error.to_string());
    let locked = opened.and_then(|file| {
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.to_string())
    });
    locked.map_err(|error| {
        let line = format!(
            "cannot lock {}: {error}; run `remora sign-in`",
            path.display()
        );
        Failure::new(Exit::Error, "SIGN_IN_FILE", line)
    })
}

/// Longest file.
const MAX_BYTES: u64 = 32 << 10;

/// What gets the next papers.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Kept {
    /// To whom it is shown, and to nobody else.
    pub(super) provider: String,
    pub(super) refresh_token: Secret,
}

impl Kept {
    /// What is kept, if anything is.
    ///
    /// # Errors
    /// It is not readable, or readable by others.
    pub(super) fn load(files: &Files) -> Result<Option<Self>, Failure> {
        let path = files.sign_in();
        let failed = |why: String| {
            let line = format!("{} {why}; run `remora sign-in`", path.display());
            Failure::new(Exit::Error, "SIGN_IN_FILE", line)
        };
        let unread = |error: std::io::Error| failed(format!("cannot be read: {error}"));
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unread(error)),
        };
        let metadata = file.metadata().map_err(unread)?;
        if metadata.permissions().mode() & 0o077 != 0 {
            // What others could copy is worth nothing from now on.
            fs::remove_file(path).map_err(unread)?;
            return Err(failed("could be read by others, and is removed".into()));
        }
        let mut bytes = Zeroizing::new(Vec::new());
        let mut limited = file.by_ref().take(MAX_BYTES);
        limited.read_to_end(&mut bytes).map_err(unread)?;
        let kept = serde_json::from_slice(&bytes);
        kept.map(Some).map_err(|_| failed("is damaged".into()))
    }

    /// Keeps it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn save(&self, files: &Files) -> Result<(), Failure> {
        let text = serde_json::to_vec(self).map_err(|error| Failure::internal("sign-in", error))?;
        let text = Zeroizing::new(text);
        let path = files.sign_in();
        secret_file::replace_secret(path, &text).map_err(|error| {
            let line = format!("cannot write {}: {error}", path.display());
            Failure::new(Exit::Error, "SIGN_IN_FILE", line)
        })
    }
}
