//! Who this node's person is in a session: what they say of themselves, or what their organisation has signed.
//!
//! Beside the settings file `config.toml` stand `config.key`, the node's static key, `config.papers`, what an organisation has
//! signed for that key, and `config.sign-in`, with which whoever has signed in gets the next papers (`crate::sign_in`). Without papers a session has a key of its own that is thrown away, so that nobody is recognised by it.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use remora_proto::{
    id::NodeId,
    identity::{Introduction, Profile, Role},
    noise::StaticKey,
    org::{
        ended::{Ending, SessionName},
        membership::{InvalidPapers, Membership, Papers, Request},
        policy::Policy,
        setting::Setting,
        signed::Signed,
        verdict::{self, Refusal, Verdict},
    },
    rendezvous::LIFETIME,
};

use crate::{
    control::unix_ms,
    error::{Exit, Failure},
    portrait, secret_file,
};

/// Who this node's person is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What the card shows.
    pub profile: Profile,
    /// With an organisation that says so.
    pub member: Option<Arc<Member>>,
    /// The picture for the card, if that organisation has signed its hash.
    pub portrait: Option<Bytes>,
}

impl From<Profile> for Identity {
    fn from(profile: Profile) -> Self {
        Self {
            profile,
            member: None,
            portrait: None,
        }
    }
}

/// A node that belongs to an organisation.
#[derive(Debug)]
pub struct Member {
    key: StaticKey,
    files: Files,
    held: Mutex<Held>,
}

/// What was read, and when it was written.
#[derive(Debug)]
struct Held {
    membership: Membership,
    written: Option<SystemTime>,
}

/// Where a node's key and papers are.
#[derive(Clone, Debug)]
pub struct Files {
    key: PathBuf,
    papers: PathBuf,
    portrait: PathBuf,
    sign_in: PathBuf,
}

/// Seconds since 1970 by this computer's clock.
pub fn unix_s() -> u64 {
    unix_ms() / 1000
}

fn refused(error: &InvalidPapers) -> Failure {
    Failure::new(Exit::Verification, "PAPERS_REFUSED", error.to_string())
}

impl Files {
    /// Beside a settings file.
    pub fn beside(settings: &Path) -> Self {
        Self {
            key: settings.with_extension("key"),
            papers: settings.with_extension("papers"),
            portrait: settings.with_extension("picture"),
            sign_in: settings.with_extension("sign-in"),
        }
    }

    /// Keeps a picture for the card; gives the hash that has to be signed.
    ///
    /// # Errors
    /// It is none that can be shown, or cannot be kept.
    pub fn take_portrait(&self, file: &Path) -> Result<[u8; 32], Failure> {
        let refused = |error: &dyn fmt::Display, path: &Path| {
            let line = format!("{}: {error}", path.display());
            Failure::new(Exit::Usage, "PICTURE_REFUSED", line)
        };
        let bytes = portrait::read(file).map_err(|error| refused(&error, file))?;
        secret_file::replace(&self.portrait, &bytes)
            .map_err(|error| refused(&error, &self.portrait))?;
        Ok(portrait::hash(&bytes))
    }

    /// The picture that was kept, if it is the one that was signed.
    pub fn portrait(&self, signed: Option<&[u8; 32]>) -> Option<Bytes> {
        let signed = signed?;
        let bytes = portrait::read(&self.portrait).ok()?;
        let is_it = portrait::hash(&bytes) == *signed;
        if !is_it {
            tracing::warn!("the picture is not the one that was signed; nobody sees it");
        }
        is_it.then_some(bytes)
    }

    fn key(&self) -> Result<StaticKey, Failure> {
        let key = secret_file::read_or_create(&self.key)?;
        Ok(StaticKey::from_bytes(*key))
    }

    /// What this node has, if it has joined an organisation.
    ///
    /// # Errors
    /// It is not readable, or not this node's.
    pub fn member(&self) -> Result<Option<Member>, Failure> {
        let written = modified(&self.papers);
        let bytes = match fs::read(&self.papers) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let line = format!("cannot read {}: {error}", self.papers.display());
                return Err(Failure::new(Exit::Error, "PAPERS_REFUSED", line));
            }
        };
        let key = StaticKey::from_bytes(*secret_file::read(&self.key)?);
        let membership = Membership::open(&bytes, NodeId(key.public())).map_err(|error| {
            let (path, line) = (self.papers.display(), error.to_string());
            let line = format!(
                "{path}: {line}; ask your administrator for a new file, or leave with `remora setup --leave-organisation`"
            );
            Failure::new(Exit::Verification, "PAPERS_REFUSED", line)
        })?;
        Ok(Some(Member {
            key,
            files: self.clone(),
            held: Mutex::new(Held {
                membership,
                written,
            }),
        }))
    }

    /// What to send to who signs.
    ///
    /// # Errors
    /// There can be no key.
    pub fn request(&self, profile: Profile) -> Result<Request, Failure> {
        let device =
            nix::unistd::gethostname().map_err(|error| Failure::internal("hostname", error))?;
        Ok(Request {
            node: NodeId(self.key()?.public()),
            profile,
            device: device.to_string_lossy().to_lowercase(),
        })
    }

    /// Takes the papers in `file`, as [`Files::take_bytes`] does.
    ///
    /// # Errors
    /// It is not readable, or [`Files::take_bytes`].
    pub fn take(&self, file: &Path) -> Result<Membership, Failure> {
        let bytes = fs::read(file).map_err(|error| {
            let line = format!("cannot read {}: {error}", file.display());
            Failure::new(Exit::Usage, "PAPERS_REFUSED", line)
        })?;
        self.take_bytes(&bytes)
    }

    /// Takes papers. Of the same organisation as before, the policy stays the newer one.
    ///
    /// # Errors
    /// They are not this node's, or of another organisation than the one it belongs to.
    pub fn take_bytes(&self, bytes: &[u8]) -> Result<Membership, Failure> {
        let node = NodeId(self.key()?.public());
        let mut new = Membership::open(bytes, node).map_err(|error| refused(&error))?;
        if let Some(member) = self.member()? {
            let held = member.membership();
            if held.policy().header.issuer != new.policy().header.issuer {
                let line = format!(
                    "this computer belongs to {}; leave first, with `remora setup --leave-organisation`",
                    held.policy().domain
                );
                return Err(Failure::new(Exit::NotPermitted, "ORG_MISMATCH", line));
            }
            match new.renew(held.policy().clone()) {
                Ok(_) | Err(InvalidPapers::RolledBack { .. }) => {}
                Err(error) => return Err(refused(&error)),
            }
        }
        self.save(&new)?;
        Ok(new)
    }

    /// Where the key is.
    pub(crate) fn key_path(&self) -> &Path {
        &self.key
    }

    /// Where is kept what gets the next papers.
    pub(crate) fn sign_in(&self) -> &Path {
        &self.sign_in
    }

    /// Forgets key, papers and who has signed in; whether there were papers.
    ///
    /// # Errors
    /// What the system says.
    pub fn leave(&self) -> Result<bool, Failure> {
        let had = self.forget_papers()?;
        remove(&self.key)?;
        Ok(had)
    }

    /// Forgets papers and who has signed in; whether there were papers.
    ///
    /// # Errors
    /// What the system says.
    pub fn forget_papers(&self) -> Result<bool, Failure> {
        remove(&self.sign_in)?;
        remove(&self.papers)
    }

    fn save(&self, membership: &Membership) -> Result<(), Failure> {
        secret_file::replace(&self.papers, &membership.to_bytes()).map_err(|error| {
            let line = format!("cannot write {}: {error}", self.papers.display());
            Failure::new(Exit::Error, "PAPERS_REFUSED", line)
        })
    }
}

/// Whether it was there.
fn remove(path: &Path) -> Result<bool, Failure> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::internal("cannot forget", error)),
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
}

impl Member {
    /// The node's static key, to which the papers are bound.
    pub fn key(&self) -> &StaticKey {
        &self.key
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing in here is ever half done.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it has now.
    pub fn membership(&self) -> Membership {
        self.held().membership.clone()
    }

    /// What holds.
    pub fn policy(&self) -> Signed<Policy> {
        self.held().membership.policy().clone()
    }

    /// What it shows.
    pub fn papers(&self) -> Papers {
        self.held().membership.papers().clone()
    }

    /// What its organisation says of a session that an administrator has ended.
    pub fn ending(&self, session: &SessionName) -> Option<Ending> {
        let held = self.held();
        held.membership.policy().ended.get(session).cloned()
    }

    /// Takes a newer policy and keeps it; whether it is one.
    ///
    /// # Errors
    /// It is older than what was seen, or another organisation's.
    pub fn renew(&self, policy: Signed<Policy>) -> Result<bool, InvalidPapers> {
        let mut held = self.held();
        let is_newer = held.membership.renew(policy)?;
        if is_newer {
            // In force although it cannot be written; another process, or the next one, hears of it from a relay.
            if let Err(failure) = self.files.save(&held.membership) {
                tracing::warn!(%failure, "a new policy");
            }
            held.written = modified(&self.files.papers);
        }
        Ok(is_newer)
    }

    /// What another process of this computer's person has written meanwhile holds here, too.
    pub fn refresh(&self) {
        let written = modified(&self.files.papers);
        if self.held().written == written {
            return;
        }
        match self.files.member() {
            Ok(Some(read)) => {
                let Held { membership, .. } = read
                    .held
                    .into_inner()
                    .unwrap_or_else(PoisonError::into_inner);
                let mut held = self.held();
                held.written = written;
                match held.membership.renew(membership.policy().clone()) {
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "the papers have changed"),
                }
            }
            Ok(None) => tracing::warn!("the papers are gone"),
            Err(failure) => tracing::warn!(%failure, "the papers have changed"),
        }
    }
}

impl Identity {
    /// Says that its papers do not hold any more, or, of a helper, that it may help nobody.
    ///
    /// # Errors
    /// That, and what to do.
    pub fn check(&self, role: Role) -> Result<(), Failure> {
        let Some(member) = &self.member else {
            return Ok(());
        };
        let membership = member.membership();
        let domain = &membership.policy().domain;
        if !membership.papers().hold_at(unix_s()) {
            let line = format!(
                "what {domain} has signed for this computer holds no longer, or a clock is wrong; ask your administrator for a new file"
            );
            return Err(Failure::new(Exit::NotPermitted, "CREDENTIAL_EXPIRED", line));
        }
        match (role, verdict::may_invite(&membership, unix_s())) {
            (Role::Sharer, _) | (Role::Helper, Ok(())) => Ok(()),
            (Role::Helper, Err(limit)) => {
                let line =
                    format!("you may help nobody: {limit}; ask your administrator at {domain}");
                Err(Failure::new(Exit::NotPermitted, limit.name(), line))
            }
        }
    }

    /// How long its organisation lets a code be good.
    pub fn code_lifetime(&self) -> Duration {
        match &self.member {
            Some(member) => {
                let seconds = member.policy().settings.value(Setting::CodeSeconds);
                Duration::from_secs(seconds.into())
            }
            None => LIFETIME,
        }
    }

    /// The key of the inner connection.
    pub fn key(&self) -> StaticKey {
        match &self.member {
            Some(member) => member.key().clone(),
            None => StaticKey::generate(),
        }
    }

    /// What is to be thought of the other side of a connection that proved `node`.
    ///
    /// # Errors
    /// There can be no session with it.
    pub fn judge(&self, peer: &Introduction, node: NodeId) -> Result<Verdict, Refusal> {
        let held = self.member.as_deref().map(Member::held);
        let own = held.as_ref().map(|held| &held.membership);
        verdict::judge(own, peer.role.peer(), peer, node, unix_s())
    }
}
