//! The relay's static X25519 key: 32 bytes in a file that nobody else can read.
//!
//! The key *is* the relay: nodes pin it in the address they were given. So it is created once, never
//! overwritten, and refused when anybody else could have copied it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

use remora_proto::{noise::StaticKey, random::Random};
use zeroize::Zeroizing;

use crate::secret_file::{DENIED, too_open};

/// Length of the key file.
const KEY_BYTES: usize = 32;

/// Why there is no key to serve with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file is there and cannot be read.
    #[error(
        "cannot read the key file {path}; make it readable for this user, or choose another with --key"
    )]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else can read it, or is it.
    #[error(
        "the key file {path} can be read by others (mode {mode:03o}); run `chmod 600 {path}`, or if it may have been copied, remove it and give out the new address"
    )]
    TooOpen {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not a key.
    #[error(
        "the key file {path} is damaged ({why}); restore it from a backup, or remove it to get a new key and a new address"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is none, and none can be made.
    #[error("cannot create the key file {path}; choose a writable place with --key")]
    Create {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The key at `path`, if there is one.
///
/// # Errors
/// [`KeyError`], which says what to do.
pub fn load(path: &Path) -> Result<Option<StaticKey>, KeyError> {
    match File::open(path) {
        Ok(file) => read(file, path).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(read_error(path, source)),
    }
}

/// Loads the key at `path`; on the first start creates it, and its directory.
///
/// # Errors
/// [`KeyError`], which says what to do.
pub fn load_or_create(path: &Path, random: &mut Random) -> Result<StaticKey, KeyError> {
    if let Some(key) = load(path)? {
        return Ok(key);
    }
    create(path, random).map_err(|source| KeyError::Create {
        path: path.to_owned(),
        source,
    })?;
    // Read back instead of returned: should two relays start at once, both end up with the key that stayed.
    let file = File::open(path).map_err(|source| read_error(path, source))?;
    read(file, path)
}

fn read_error(path: &Path, source: io::Error) -> KeyError {
    KeyError::Read {
        path: path.to_owned(),
        source,
    }
}

fn read(mut file: File, path: &Path) -> Result<StaticKey, KeyError> {
    let metadata = file.metadata().map_err(|source| read_error(path, source))?;
    let damaged = |why: String| KeyError::Damaged {
        path: path.to_owned(),
        why,
    };
    if !metadata.is_file() {
        return Err(damaged("it is not a file".to_owned()));
    }
    if let Some(mode) = too_open(&metadata, DENIED) {
        return Err(KeyError::TooOpen {
            path: path.to_owned(),
            mode,
        });
    }
    if metadata.len() != KEY_BYTES as u64 {
        return Err(damaged(format!(
            "it has {} bytes instead of {KEY_BYTES}",
            metadata.len()
        )));
    }
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    file.read_exact(&mut bytes[..])
        .map_err(|source| read_error(path, source))?;
    if bytes.iter().all(|&byte| byte == 0) {
        return Err(damaged("it holds only zeros".to_owned()));
    }
    Ok(StaticKey::from_bytes(*bytes))
}

/// Writes a new key beside `path` and links it there, so that the file is never seen half written and
/// one that appeared meanwhile is kept.
fn create(path: &Path, random: &mut Random) -> io::Result<()> {
    if let Some(directory) = path
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty())
    {
        create_directory(directory)?;
    }
    let mut name = path
        .file_name()
        .ok_or_else(|| io::Error::other("the path names no file"))?
        .to_owned();
    name.push(format!(".new-{:016x}", u64::from_be_bytes(random.bytes())));
    let temporary = path.with_file_name(name);
    let written =
        write_key(&temporary, random).and_then(|()| match fs::hard_link(&temporary, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            // Not every file system has hard links.
            Err(_) if !path.exists() => fs::copy(&temporary, path).map(drop),
            result => result,
        });
    fs::remove_file(&temporary).or_else(|error| {
        if error.kind() == ErrorKind::NotFound {
            Ok(())
        } else {
            Err(error)
        }
    })?;
    written
}

fn write_key(path: &Path, random: &mut Random) -> io::Result<()> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    random.fill(&mut bytes[..]);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(&bytes[..])?;
    file.sync_all()
}

fn create_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("exists").permissions().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    }

    fn write(path: &Path, bytes: &[u8]) {
        fs::write(path, bytes).expect("writable");
        set_mode(path, 0o600);
    }

    #[test]
    fn the_first_start_makes_a_key_and_the_next_finds_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("data/deep/relay.key");
        let first = load_or_create(&path, &mut Random::seeded(1)).expect("created");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().expect("has one")), 0o700);
        assert_eq!(fs::metadata(&path).expect("exists").len(), 32);
        assert_eq!(
            fs::read_dir(path.parent().expect("has one"))
                .expect("ours")
                .count(),
            1,
            "no temporary file stays"
        );
        let second = load_or_create(&path, &mut Random::seeded(2)).expect("loaded");
        assert_eq!(first.public(), second.public());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("relay.key");
        write(&path, &[7; 32]);
        for mode in [0o650, 0o604, 0o660, 0o644, 0o601] {
            set_mode(&path, mode);
            let error = load_or_create(&path, &mut Random::seeded(1))
                .map(drop)
                .expect_err("too open");
            assert!(matches!(error, KeyError::TooOpen { mode: seen, .. } if seen == mode));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        for mode in [0o400, 0o440, 0o640] {
            set_mode(&path, mode);
            assert!(load_or_create(&path, &mut Random::seeded(1)).is_ok());
        }
    }

    #[test]
    fn what_is_not_a_key_is_never_overwritten() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("relay.key");
        for bytes in [&[][..], &[1; 31], &[1; 33], &[0; 32]] {
            write(&path, bytes);
            let error = load_or_create(&path, &mut Random::seeded(1))
                .map(drop)
                .expect_err("damaged");
            assert!(matches!(error, KeyError::Damaged { .. }), "{error}");
            assert!(!error.to_string().contains('\n'));
            assert_eq!(fs::read(&path).expect("ours"), bytes);
        }
        let error = load_or_create(directory.path(), &mut Random::seeded(1))
            .map(drop)
            .expect_err("a directory");
        assert!(matches!(error, KeyError::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("file");
        write(&file, b"not a directory");
        let error = load_or_create(&file.join("relay.key"), &mut Random::seeded(1))
            .map(drop)
            .expect_err("no directory");
        assert!(error.to_string().contains("--key"), "{error}");
    }
}
