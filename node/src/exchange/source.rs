//! A file that is offered: open from the moment it was hashed, so that what is sent is that file whatever its name means by then.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use remora_proto::exchange::{
    files::{Hash, Offer},
    name::FileName,
};

use super::folder::{CHUNK_BYTES, hash_first, hash_of};

/// Why a file cannot be offered.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoSource {
    #[error("cannot read it: {0}")]
    Unreadable(#[from] io::Error),
    #[error("it is not a file; pack a folder first")]
    NotAFile,
    #[error("it changes while it is read")]
    Changes,
}

/// Bytes to send.
#[derive(Clone, Debug)]
pub(super) struct Source {
    file: Arc<File>,
    bytes: u64,
}

impl Source {
    /// Opens and hashes it. Blocks.
    pub(super) fn open(path: &Path) -> Result<(Self, Offer), NoSource> {
        // A pipe would keep one waiting.
        let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(flags).open(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self::of(Arc::new(file), &name)
    }

    /// Hashes one that is open. Blocks.
    pub(super) fn of(file: Arc<File>, name: &str) -> Result<(Self, Offer), NoSource> {
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(NoSource::NotAFile);
        }
        let bytes = found.len();
        let mut hashed = Context::new(&SHA256);
        if !hash_first(&file, bytes, &mut hashed)? {
            return Err(NoSource::Changes);
        }
        let offer = Offer {
            name: FileName::new(name),
            bytes,
            hash: hash_of(&hashed),
        };
        Ok((Self { file, bytes }, offer))
    }

    /// Where to begin for whoever has `offset` bytes of that hash. Blocks.
    pub(super) fn begin(&self, offset: u64, hash: &Hash) -> u64 {
        let mut hashed = Context::new(&SHA256);
        let is_beginning = offset <= self.bytes
            && hash_first(&self.file, offset, &mut hashed).unwrap_or(false)
            && hash_of(&hashed) == *hash;
        if is_beginning { offset } else { 0 }
    }

    /// What comes there, at most one chunk; empty at the end. Blocks.
    ///
    /// # Errors
    /// What the system says; also that it has become shorter.
    pub(super) fn read(&self, at: u64) -> io::Result<Bytes> {
        let left = usize::try_from(self.bytes - at).unwrap_or(usize::MAX);
        let mut buffer = vec![0; left.min(CHUNK_BYTES)];
        self.file.read_exact_at(&mut buffer, at)?;
        Ok(buffer.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_offered() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let no = Source::open(folder.path()).expect_err("a folder");
        assert!(matches!(no, NoSource::NotAFile), "{no}");
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("made");
        let no = Source::open(&at("pipe")).expect_err("a pipe");
        assert!(matches!(no, NoSource::NotAFile), "{no}");
        let no = Source::open(&at("gone")).expect_err("nothing");
        assert!(matches!(no, NoSource::Unreadable(_)), "{no}");
    }

    #[test]
    fn whoever_has_another_beginning_gets_all_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.txt");
        std::fs::write(&path, b"hello world").expect("written");
        let (source, offer) = Source::open(&path).expect("a file");
        assert_eq!((offer.name.as_str(), offer.bytes), ("a.txt", 11));
        let mut hashed = Context::new(&SHA256);
        hashed.update(b"hello");
        let hello = hash_of(&hashed);
        assert_eq!(source.begin(5, &hello), 5);
        assert_eq!(source.begin(4, &hello), 0);
        assert_eq!(source.begin(u64::MAX, &hello), 0);
        assert_eq!(source.read(6).expect("there"), "world");
        assert_eq!(source.read(11).expect("there"), "");
    }
}
