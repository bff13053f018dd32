//! Files that hold a secret: refused when anybody could have copied it.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    path::Path,
};

use zeroize::Zeroizing;

/// Others, and whoever may write. The group may read: a secret that Kubernetes mounts for a user other than root belongs to a group
/// of its own.
pub(crate) const DENIED: u32 = 0o037;

/// Why a secret is not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// What the system said.
    Read(io::Error),
    /// Its permissions.
    TooOpen(u32),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// The text of the file at `path`, or as many bytes of it as there may be.
///
/// # Errors
/// Why it is not taken; what to do is for the caller to say.
pub(crate) fn read_text(path: &Path, max_bytes: u64) -> Result<Zeroizing<String>, Refused> {
    let file = File::open(path)?;
    if let Some(mode) = too_open(&file.metadata()?, DENIED) {
        return Err(Refused::TooOpen(mode));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(max_bytes).read_to_string(&mut text)?;
    Ok(text)
}

/// A file's permissions, when they give any of `denied`.
#[cfg(unix)]
pub(crate) fn too_open(metadata: &Metadata, denied: u32) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = metadata.permissions().mode() & 0o777;
    (mode & denied != 0).then_some(mode)
}

/// Nothing is known of them here.
#[cfg(not(unix))]
pub(crate) fn too_open(_: &Metadata, _: u32) -> Option<u32> {
    None
}
