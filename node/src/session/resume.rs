//! How a session goes on after the sharer's computer has restarted: what is kept meanwhile, and where.
//!
//! ```text
//!  /restart, /allow ──▶ token on disk ──▶ reboot ──▶ `remora join --resume`, or `remora agent` ──▶ the same session, another connection
//!                          └── erased: it does not restart, its time is over, or the connection stands
//! ```

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use remora_proto::{
    id::RelayAddr,
    identity::Profile,
    resumption::{MAX_TOKEN_BYTES, Resumption, Token, fingerprint},
    session::{Entry, Kind, Session, T_RESTART},
};

use super::{backends::Undone, inner};
use crate::{
    control::unix_ms,
    error::{Exit, Failure},
    secret_file,
};

/// Where the token is while the computer restarts: beside the settings, which outlive that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(PathBuf);

/// A session that the sharer's computer, which has restarted, goes on with.
#[derive(Debug)]
pub struct Returning {
    /// What was kept.
    pub token: Token,
    /// Where it still is, until the connection stands.
    pub place: Place,
}

/// A session that the other side's restart has interrupted, and which waits for it.
#[derive(Debug)]
pub struct Waiting {
    /// Until then it is driven by whoever waits.
    pub session: Session,
    /// What the two know.
    pub resumption: Resumption,
    /// Who comes back.
    pub peer: [u8; 32],
}

fn failure(line: &str) -> Failure {
    Failure::new(Exit::Error, "NOTHING_TO_RESUME", line)
}

impl Place {
    /// Beside a settings file.
    pub fn beside(settings: &Path) -> Self {
        Self(settings.with_extension("resume"))
    }

    /// On the disk when this returns.
    fn write(&self, token: &Token) -> io::Result<()> {
        secret_file::replace_secret(&self.0, &token.encode())?;
        File::open(&self.0)?.sync_all()
    }

    /// Of no use any more.
    pub fn erase(&self) {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the token of a session is still there");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// What is kept there and still good; what is not is erased.
    ///
    /// # Errors
    /// There is nothing, others could have copied it, or it is too late.
    pub fn read(&self) -> Result<Token, Failure> {
        let nothing = |error: io::Error| match error.kind() == io::ErrorKind::NotFound {
            true => failure("no session waits for this computer; ask your helper for a new code"),
            false => failure(&format!("{} cannot be read: {error}", self.0.display())),
        };
        let file = File::open(&self.0).map_err(nothing)?;
        let mode = file.metadata().map_err(nothing)?.permissions().mode();
        let limit = u64::try_from(MAX_TOKEN_BYTES).unwrap_or(u64::MAX);
        let mut bytes = zeroize::Zeroizing::new(Vec::new());
        file.take(limit).read_to_end(&mut bytes).map_err(nothing)?;
        let token = Token::decode(&bytes).map_err(|error| {
            self.erase();
            let path = self.0.display();
            failure(&format!("{path}: {error}; ask your helper for a new code"))
        })?;
        if mode & 0o077 != 0 {
            self.erase();
            let line = "what lets the session go on could have been copied by others, and is erased; ask your helper for a new code";
            return Err(failure(line));
        }
        if token.left(unix_ms()).is_none() {
            self.erase();
            let line = "the session has waited for this computer for ten minutes, and is over; ask your helper for a new code";
            return Err(Failure::new(Exit::TimedOut, "RESUME_EXPIRED", line));
        }
        Ok(token)
    }
}

/// Who the other is, for whoever waits.
pub(crate) fn peer(peer: &inner::Peer) -> [u8; 32] {
    fingerprint(&peer.introduction, peer.node)
}

/// Sharer: what it keeps, and where.
#[derive(Clone, Debug)]
pub struct Keep {
    /// There.
    pub place: Place,
    /// Where to look afterwards, the nearest first.
    pub relays: Vec<RelayAddr>,
    /// Whether somebody sits there.
    pub kind: Kind,
    /// How the two came together.
    pub entry: Entry,
    /// Who this person is.
    pub profile: Profile,
}

impl Keep {
    /// Writes down how to come back.
    ///
    /// # Errors
    /// It does not restart, or cannot come back.
    pub(super) fn write(
        &self,
        session: &Session,
        resumption: &Resumption,
        peer: [u8; 32],
    ) -> Result<(), Undone> {
        let resumed = session.before_restart(Instant::now());
        let resumed = resumed.ok_or_else(|| Undone("no restart".to_owned()))?;
        let wait = u64::try_from(T_RESTART.as_millis()).unwrap_or(u64::MAX);
        let token = Token {
            resumption: resumption.clone(),
            peer,
            deadline_ms: unix_ms().saturating_add(wait),
            relays: self.relays.clone(),
            kind: self.kind,
            entry: self.entry,
            profile: self.profile.clone(),
            resumed,
        };
        self.place
            .write(&token)
            .map_err(|error| Undone(format!("the token: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use remora_proto::session::{Mode, Receipt, Resumed};

    use super::*;

    fn token(deadline_ms: u64) -> Token {
        let resumption = Resumption::export(|out, _, _| {
            out.fill(7);
            Ok::<_, ()>(())
        });
        Token {
            resumption: resumption.expect("filled"),
            peer: [1; 32],
            deadline_ms,
            relays: vec![],
            kind: Kind::Attended,
            entry: Entry::Code,
            profile: Profile::new("Maria Lopez", "", "", "").expect("valid"),
            resumed: Resumed {
                mode: Mode::Control,
                paused: false,
                receipt: Receipt::default(),
            },
        }
    }

    fn code(place: &Place) -> &'static str {
        place.read().expect_err("none").code
    }

    #[test]
    fn t_36_a_token_is_for_this_user_alone_and_gone_when_it_is_of_no_use() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::beside(&folder.path().join("config.toml"));
        assert_eq!(code(&place), "NOTHING_TO_RESUME");
        let later = unix_ms() + 10_000;
        place.write(&token(later)).expect("written");
        let is = fs::metadata(&place.0).expect("there").permissions().mode() & 0o777;
        assert_eq!(is, 0o600);
        assert_eq!(place.read().expect("good").deadline_ms, later);
        // Copied by others, too late, damaged.
        fs::set_permissions(&place.0, fs::Permissions::from_mode(0o644)).expect("ours");
        assert_eq!(code(&place), "NOTHING_TO_RESUME");
        assert!(!place.0.exists());
        place.write(&token(unix_ms())).expect("written");
        assert_eq!(code(&place), "RESUME_EXPIRED");
        assert!(!place.0.exists());
        secret_file::replace_secret(&place.0, b"?").expect("written");
        assert_eq!(code(&place), "NOTHING_TO_RESUME");
        assert!(!place.0.exists());
    }
}
