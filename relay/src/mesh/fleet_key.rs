//! The fleet's key: one line of text in a file that nobody else can read.
//!
//! Who has it is in the fleet, so it is made once, carried to every relay, and refused when anybody else could have copied it.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use data_encoding::BASE32_NOPAD;
use remora_proto::{noise::link::FleetKey, random::Random};
use zeroize::Zeroizing;

use crate::secret_file::{Refused, read_text};

/// Longest file that is read: the line, and some white space around it.
const MAX_FILE_BYTES: u64 = 128;

/// Why there is no fleet key.
#[derive(Debug, thiserror::Error)]
pub enum FleetKeyError {
    /// The file cannot be read.
    #[error(
        "cannot read the fleet key {path}; make one with `remora-relay fleet-key {path}`, and give the same file to every relay"
    )]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else can read it.
    #[error(
        "the fleet key {path} can be read by others (mode {mode:03o}); run `chmod 600 {path}`, or if it may have been copied, make another for all relays"
    )]
    TooOpen {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not a key.
    #[error(
        "{path} holds no fleet key, which is one line of 52 letters and digits; was it cut when copied?"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// None can be made.
    #[error("cannot create the fleet key {path}; a file that exists is never overwritten")]
    Create {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Reads the key at `path`.
///
/// # Errors
/// [`FleetKeyError`], which says what to do.
pub fn load(path: &Path) -> Result<FleetKey, FleetKeyError> {
    let refused = |why| {
        let path = path.to_owned();
        match why {
            Refused::Read(source) => FleetKeyError::Read { path, source },
            Refused::TooOpen(mode) => FleetKeyError::TooOpen { path, mode },
        }
    };
    let text = read_text(path, MAX_FILE_BYTES).map_err(refused)?;
    decode(&text).ok_or_else(|| FleetKeyError::Damaged {
        path: path.to_owned(),
    })
}

/// Makes a new key in a new file at `path`.
///
/// # Errors
/// [`FleetKeyError::Create`].
pub fn create(path: &Path, random: &mut Random) -> Result<(), FleetKeyError> {
    write(path, random).map_err(|source| FleetKeyError::Create {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, random: &mut Random) -> io::Result<()> {
    let mut key = Zeroizing::new([0; 32]);
    random.fill(&mut key[..]);
    let mut text = Zeroizing::new(BASE32_NOPAD.encode(&key[..]));
    text.make_ascii_lowercase();
    text.push('\n');
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn decode(text: &str) -> Option<FleetKey> {
    let text = Zeroizing::new(text.trim().to_ascii_uppercase());
    let key = Zeroizing::new(BASE32_NOPAD.decode(text.as_bytes()).ok()?);
    let key = <[u8; 32]>::try_from(&key[..]).ok()?;
    Some(FleetKey(key.into()))
}

#[cfg(all(test, unix))]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_by_its_owner_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fleet.key");
        assert!(matches!(load(&path), Err(FleetKeyError::Read { .. })));
        create(&path, &mut Random::seeded(1)).expect("created");
        let key = load(&path).expect("a key");
        let again = create(&path, &mut Random::seeded(2));
        assert!(matches!(again, Err(FleetKeyError::Create { .. })));
        assert_eq!(load(&path).expect("the same"), key);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("ours");
        let error = load(&path).expect_err("too open");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn what_is_no_key_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fleet.key");
        for text in ["", "mzxw6", &"a".repeat(51), &"a".repeat(200), "1"] {
            fs::write(&path, text).expect("writable");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
            assert!(matches!(load(&path), Err(FleetKeyError::Damaged { .. })));
        }
    }
}
