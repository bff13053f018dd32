//! `people/`, a file for each who has signed in: which account of the provider it is, and at which computers.

use std::{fs, io::ErrorKind, path::PathBuf};

use remora_proto::{id::NodeId, org::label::Label};
use serde::{Deserialize, Serialize};

use super::{Folder, failure, file_name};
use crate::{error::Failure, secret_file};

/// Computers of one person; with another one, the one that was longest without papers is forgotten, and what was signed for it.
const MAX_COMPUTERS: usize = 16;

/// Who has signed in under a name.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Known {
    /// `sub` of the provider: the name is this account's.
    pub(crate) account: String,
    /// The one that signed in last is last.
    computers: Vec<String>,
}

impl Known {
    pub(crate) fn new(account: &str) -> Self {
        Self {
            account: account.to_owned(),
            computers: Vec::new(),
        }
    }

    /// Whether they have signed in there.
    pub(crate) fn has(&self, node: NodeId) -> bool {
        self.computers.contains(&node.to_string())
    }

    /// They sign in there.
    pub(crate) fn add(&mut self, node: NodeId) {
        let node = node.to_string();
        self.computers.retain(|other| *other != node);
        self.computers.push(node);
    }
}

impl Folder {
    fn person_path(&self, subject: &Label) -> PathBuf {
        self.path.join("people").join(format!("{subject}.json"))
    }

    /// Who has signed in under that name.
    ///
    /// # Errors
    /// The file is damaged.
    pub(crate) fn known(&self, subject: &Label) -> Result<Option<Known>, Failure> {
        let path = self.person_path(subject);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failure(&path, error)),
        };
        let known = serde_json::from_slice(&bytes);
        known.map(Some).map_err(|error| failure(&path, error))
    }

    /// Keeps it, and forgets the computers that are too many.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn know(&self, subject: &Label, known: &Known) -> Result<(), Failure> {
        let extra = known.computers.len().saturating_sub(MAX_COMPUTERS);
        let (forgotten, kept) = known.computers.split_at(extra);
        for node in forgotten {
            let path = self.path.join("issued").join(file_name(subject, node));
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(failure(&path, error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let kept = Known {
            account: known.account.clone(),
            computers: kept.to_vec(),
        };
        let path = self.person_path(subject);
        let text = serde_json::to_vec(&kept).map_err(|error| failure(&path, error))?;
        secret_file::replace(&path, &text).map_err(|error| failure(&path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_has_so_many_computers_and_the_oldest_is_forgotten_with_its_papers() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = Folder::create(home.path(), "Contoso", "contoso.com").expect("made");
        let subject: Label = "sam@contoso.com".parse().expect("a label");
        let node = |n: usize| NodeId([u8::try_from(n).expect("small"); 32]);
        assert!(folder.known(&subject).expect("readable").is_none());
        let issued = home.path().join("issued");
        fs::create_dir(&issued).expect("a folder");
        let paper = |n| issued.join(file_name(&subject, &node(n).to_string()));
        for n in 0..=MAX_COMPUTERS {
            fs::write(paper(n), "").expect("written");
            let known = folder.known(&subject).expect("readable");
            let mut known = known.unwrap_or_else(|| Known::new("00u1"));
            known.add(node(n));
            // One that signs in again is not the oldest any more.
            known.add(node(1.min(n)));
            folder.know(&subject, &known).expect("kept");
        }
        let known = folder.known(&subject).expect("readable").expect("kept");
        assert_eq!(known.account, "00u1");
        assert!(!known.has(node(0)) && !paper(0).exists());
        for n in 1..=MAX_COMPUTERS {
            assert!(known.has(node(n)) && paper(n).exists(), "{n}");
        }
    }
}
