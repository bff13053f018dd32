//! An issuer's folder: `issuer.key`, the organisation itself; `policy`, the newest; `issued/`, what was signed, a file each; `people/`, who
//! has signed in.

/// Accounts, and their computers.
pub(crate) mod people;

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use prost::Message as _;
use remora_proto::{
    org::{
        label::Label,
        membership::Papers,
        policy::Policy,
        signed::{Issuer, Signed},
    },
    wire::message::org as schema,
};

use crate::{
    error::{Exit, Failure},
    identity::unix_s,
    secret_file,
};

/// Default life of a policy and of a credential: long enough for a holiday, short enough to be practised.
pub(crate) const DEFAULT_DAYS: u64 = 30;
pub(crate) const DAY_S: u64 = 86_400;

/// An issuer's folder, and nobody else in it.
pub(crate) struct Folder {
    path: PathBuf,
    pub(crate) issuer: Issuer,
    _lock: Flock<File>,
}

fn failure(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Error,
        "ORG_FOLDER",
        format!("{}: {why}", path.display()),
    )
}

impl Folder {
    /// Makes one, with a new key and the first policy.
    ///
    /// # Errors
    /// There is one already, or it cannot be written.
    pub(crate) fn create(path: &Path, company: &str, domain: &str) -> Result<Self, Failure> {
        let key = path.join("issuer.key");
        secret_file::create(&key).map_err(|error| {
            if error.kind() == ErrorKind::AlreadyExists {
                let line = format!(
                    "{} exists: this organisation has a key already, and it is never overwritten; choose another folder with --dir",
                    key.display()
                );
                return Failure::new(Exit::Usage, "ORG_EXISTS", line);
            }
            failure(&key, error)
        })?;
        let folder = Self::open(path)?;
        let now = unix_s();
        let expires = now + DEFAULT_DAYS * DAY_S;
        let first = Policy::first(folder.issuer.id(), company, domain, now, expires);
        folder.sign_policy(first)?;
        Ok(folder)
    }

    /// Opens one; waits for who else is in it.
    ///
    /// # Errors
    /// There is none, or others can read its key.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let key = path.join("issuer.key");
        let secret = secret_file::read(&key).map_err(|failure| Failure {
            line: format!("{}; `remora admin org init` makes one", failure.line),
            ..failure
        })?;
        let file = File::open(&key).map_err(|error| failure(&key, error))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| failure(&key, error))?;
        Ok(Self {
            path: path.to_owned(),
            issuer: Issuer::from_bytes(&secret),
            _lock: lock,
        })
    }

    fn policy_path(&self) -> PathBuf {
        self.path.join("policy")
    }

    /// The newest policy.
    ///
    /// # Errors
    /// It is damaged.
    pub(crate) fn policy(&self) -> Result<Signed<Policy>, Failure> {
        let path = self.policy_path();
        let bytes = fs::read(&path).map_err(|error| failure(&path, error))?;
        let policy = Signed::<Policy>::open(&bytes).map_err(|error| failure(&path, error))?;
        match policy.header.issuer == self.issuer.id() {
            true => Ok(policy),
            false => Err(failure(&path, "this policy is another organisation's")),
        }
    }

    /// Makes the next policy; it lives as long as the one before, from now on.
    ///
    /// # Errors
    /// It does not become valid, or cannot be written.
    pub(crate) fn change(
        &self,
        change: impl FnOnce(&mut Policy) -> Result<(), Failure>,
    ) -> Result<Signed<Policy>, Failure> {
        let mut policy = Policy::clone(&*self.policy()?);
        let life = policy.header.expires.saturating_sub(policy.header.issued);
        policy.header.number += 1;
        // Not before the last one, whatever the clock says.
        policy.header.issued = unix_s().max(policy.header.issued);
        policy.header.expires = policy.header.issued + life;
        change(&mut policy)?;
        self.sign_policy(policy)
    }

    fn sign_policy(&self, policy: Policy) -> Result<Signed<Policy>, Failure> {
        let signed = Signed::new(policy, &self.issuer).map_err(|error| {
            let line = format!("the policy cannot be signed: {error}");
            Failure::new(Exit::Usage, "POLICY", line)
        })?;
        let path = self.policy_path();
        secret_file::replace(&path, signed.bytes()).map_err(|error| failure(&path, error))?;
        Ok(signed)
    }

    /// What was signed for people and their nodes, by file name.
    ///
    /// # Errors
    /// A file is damaged.
    pub(crate) fn issued(&self) -> Result<Vec<Papers>, Failure> {
        let folder = self.path.join("issued");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failure(&folder, error)),
        };
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let paths: Result<Vec<_>, _> = paths.collect();
        let mut paths = paths.map_err(|error| failure(&folder, error))?;
        paths.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == "remora")
        });
        paths.sort();
        paths.iter().map(|path| read_papers(path)).collect()
    }

    /// What a person is to be given: papers, with the newest policy.
    ///
    /// # Errors
    /// The policy is damaged.
    pub(crate) fn membership(&self, papers: &Papers) -> Result<Vec<u8>, Failure> {
        let membership = schema::Membership {
            credential: papers.credential.bytes().clone(),
            device: papers.device_bytes(),
            policy: self.policy()?.bytes().clone(),
        };
        Ok(membership.encode_to_vec())
    }

    /// Writes it; its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn hand_out(&self, papers: &Papers) -> Result<PathBuf, Failure> {
        let file = file_name(
            &papers.credential.subject,
            &papers.credential.node.to_string(),
        );
        let path = self.path.join("issued").join(file);
        let bytes = self.membership(papers)?;
        secret_file::replace(&path, &bytes).map_err(|error| failure(&path, error))?;
        Ok(path)
    }
}

/// A person may have several computers.
fn file_name(subject: &Label, node: &str) -> String {
    format!("{subject}-{}.remora", &node[..8])
}

fn read_papers(path: &Path) -> Result<Papers, Failure> {
    let bytes = fs::read(path).map_err(|error| failure(path, error))?;
    let damaged = || failure(path, "is damaged; remove it");
    let raw = schema::Membership::decode(&bytes[..]).map_err(|_| damaged())?;
    let papers = Papers::open(&raw.credential, &raw.device).map_err(|_| damaged())?;
    papers.ok_or_else(damaged)
}
