//! The operator's token: one line of text in a file that nobody else can read.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::secret_file::{Refused, read_text};

/// Shorter ones are guessed.
const MIN_BYTES: usize = 16;
/// Longest file that is read.
const MAX_FILE_BYTES: u64 = 512;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error(
        "cannot read the admin token {path}; make one with `(umask 077; head -c 24 /dev/urandom | base64 > {path})`"
    )]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else can read it.
    #[error(
        "the admin token {path} can be read by others (mode {mode:03o}); make another, and run `chmod 600 {path}`"
    )]
    TooOpen {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not a token.
    #[error(
        "{path} holds no admin token, which is one line of at least {MIN_BYTES} letters, digits and signs without a space"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
}

/// What whoever may drain this relay presents.
#[derive(Clone)]
pub struct AdminToken(Arc<Zeroizing<String>>);

/// In constant time, as of what is presented.
impl PartialEq for AdminToken {
    fn eq(&self, other: &Self) -> bool {
        self.is(other.reveal().as_bytes())
    }
}

/// It is in no log.
impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

impl AdminToken {
    /// The token in a file's text; white space around it does not count.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_token = text.len() >= MIN_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_token.then(|| Self(Arc::new(Zeroizing::new(text.to_owned()))))
    }

    /// Reads the token at `path`.
    ///
    /// # Errors
    /// [`TokenError`], which says what to do.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let refused = |why| {
            let path = path.to_owned();
            match why {
                Refused::Read(source) => TokenError::Read { path, source },
                Refused::TooOpen(mode) => TokenError::TooOpen { path, mode },
            }
        };
        let text = read_text(path, MAX_FILE_BYTES).map_err(refused)?;
        Self::parse(&text).ok_or_else(|| TokenError::Damaged {
            path: path.to_owned(),
        })
    }

    /// To present it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether somebody presents it; how long that takes tells no more than its length.
    pub fn is(&self, presented: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(presented).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_that_cannot_be_guessed() {
        let token = AdminToken::parse(" 0123456789abcdef\n").expect("a token");
        assert!(token.is(b"0123456789abcdef"));
        for other in [
            "",
            "0123456789abcdee",
            "0123456789abcdef0",
            "0123456789abcde",
        ] {
            assert!(!token.is(other.as_bytes()), "{other}");
        }
        for bad in ["", "short", "two words of text here", "0123456789abcdeé"] {
            assert!(AdminToken::parse(bad).is_none(), "{bad}");
        }
        assert!(!format!("{token:?}").contains("0123"));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        assert!(matches!(
            AdminToken::load(&path),
            Err(TokenError::Read { .. })
        ));
        std::fs::write(&path, "0123456789abcdef\n").expect("written");
        for (mode, is_fine) in [(0o600, true), (0o640, true), (0o644, false)] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).expect("ours");
            assert_eq!(AdminToken::load(&path).is_ok(), is_fine, "{mode:o}");
        }
    }
}
