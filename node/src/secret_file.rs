//! Keys in files: 32 bytes that nobody else can read, made once and never overwritten.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use remora_proto::random::Random;
use zeroize::Zeroizing;

use crate::error::{Exit, Failure};

/// Bytes of every key.
const KEY_BYTES: usize = 32;

/// What is wrong with a key file.
pub(crate) fn failure(path: &Path, why: impl std::fmt::Display) -> Failure {
    let line = format!("the key file {} {why}", path.display());
    Failure::new(Exit::Error, "KEY_FILE", line)
}

/// Reads a key.
///
/// # Errors
/// It is not there, others could have copied it, or it is none.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<[u8; KEY_BYTES]>, Failure> {
    let unread = |error: io::Error| failure(path, format!("cannot be read: {error}"));
    let mut file = File::open(path).map_err(unread)?;
    let metadata = file.metadata().map_err(unread)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(failure(
            path,
            format!(
                "can be read by others (mode {mode:03o}); run `chmod 600 {}`, or if it may have been copied, make a new one",
                path.display()
            ),
        ));
    }
    if metadata.len() != KEY_BYTES as u64 {
        return Err(failure(path, "is damaged; restore it from a backup"));
    }
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    file.read_exact(&mut key[..]).map_err(unread)?;
    Ok(key)
}

/// Makes a key, and its folder, for this user alone. What is there stays.
///
/// # Errors
/// What the system says; [`ErrorKind::AlreadyExists`].
pub(crate) fn create(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let key = Zeroizing::new(Random::system().bytes::<KEY_BYTES>());
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&key[..])?;
    file.sync_all()
}

/// Reads a key that is made where there is none.
///
/// # Errors
/// As [`read`], or it cannot be made.
pub(crate) fn read_or_create(path: &Path) -> Result<Zeroizing<[u8; KEY_BYTES]>, Failure> {
    match create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(failure(path, format!("cannot be made: {error}")))
        }
        Ok(()) | Err(_) => read(path),
    }
}

/// Writes a file that is never there by half.
///
/// # Errors
/// What the system says.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_with(path, bytes, 0o666)
}

/// The same for what nobody else may read.
///
/// # Errors
/// What the system says.
pub(crate) fn replace_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_with(path, bytes, 0o600)
}

fn replace_with(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = Path::new(&name);
    // What a program of the same number has left there may be for others to read.
    match fs::remove_file(beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(beside)?;
    file.write_all(bytes)?;
    drop(file);
    fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_one_user_and_refused_when_others_can_read_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep").join("x.key");
        let key = read_or_create(&path).expect("made");
        assert_eq!(*read_or_create(&path).expect("read"), *key);
        let mode =
            |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        let is = fs::metadata(&path).expect("exists").permissions().mode() & 0o777;
        assert_eq!(is, 0o600);
        for open in [0o640, 0o604, 0o660] {
            mode(open);
            let failure = read(&path).expect_err("too open");
            assert!(failure.line.contains("chmod 600"), "{failure}");
        }
        mode(0o600);
        fs::write(&path, [0; 31]).expect("written");
        assert!(read(&path).expect_err("short").line.contains("damaged"));
    }
}
