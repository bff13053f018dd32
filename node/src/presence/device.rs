//! The device's key: 32 bytes in a file beside the settings that nobody else can read.
//!
//! The key *is* the device: others know it by its public half. So it is made once and never overwritten. Whoever uses it holds the file's
//! lock: two programs that say that they are this device would take its place from each other.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use nix::fcntl::{Flock, FlockArg};
use remora_proto::{
    id::DeviceId,
    presence::{Device, SECRET_BYTES},
    random::Random,
};
use zeroize::Zeroizing;

use crate::{
    config,
    error::{Exit, Failure},
};

/// Beside the settings file, of the same name but for this.
const EXTENSION: &str = "device.key";
/// What anybody but its owner may do with the file: nothing.
const DENIED: u32 = 0o077;

/// The device, for as long as this program has its key.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) device: Device,
    _lock: Flock<File>,
}

impl Opened {
    /// Of the settings file `named` on the command line, or the default one; made when there is none.
    ///
    /// # Errors
    /// Another program uses it, others can read it, it is damaged, or there is no place for it: with what to do.
    pub(super) fn new(named: Option<&Path>) -> Result<Self, Failure> {
        let path = config::path(named)?.with_extension(EXTENSION);
        let opened = open(&path).map_err(|error| {
            let path = path.display();
            refused(format!(
                "cannot open the device's key {path}: {error}; check the folder and its permissions"
            ))
        })?;
        let locked = Flock::lock(opened, FlockArg::LockExclusiveNonblock);
        let mut file = locked.map_err(|_| {
            let line = "an agent runs already with this device's key; end it first, or give this one settings of its own with --config";
            Failure::new(Exit::Error, "AGENT_RUNS", line)
        })?;
        Ok(Self {
            device: Device::new(&*read_or_make(&mut file, &path)?),
            _lock: file,
        })
    }
}

/// By which key relays know the device of these settings; the key is made when there is none.
///
/// # Errors
/// As of [`Opened::new`], but for another program that uses it.
pub(crate) fn id(settings: &Path) -> Result<DeviceId, Failure> {
    let path = settings.with_extension(EXTENSION);
    let failed = |error: io::Error| {
        let path = path.display();
        refused(format!("cannot use the device's key {path}: {error}"))
    };
    let opened = open(&path).map_err(failed)?;
    let secret = match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => read_or_make(&mut file, &path)?,
        // An agent has it, and so has made it.
        Err((mut file, _)) => {
            let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
            file.read_exact(&mut bytes[..]).map_err(failed)?;
            bytes
        }
    };
    Ok(Device::new(&secret).id())
}

fn refused(line: String) -> Failure {
    Failure::new(Exit::Usage, "DEVICE_KEY", line)
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).open(path)
}

/// Nobody else writes to it: it is locked.
fn read_or_make(file: &mut File, path: &Path) -> Result<Zeroizing<[u8; SECRET_BYTES]>, Failure> {
    let at = path.display();
    let failed = |error: io::Error| refused(format!("cannot use the device's key {at}: {error}"));
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & DENIED != 0 {
        return Err(refused(format!(
            "the device's key {at} can be read by others (mode {mode:03o}); run `chmod 600 {at}`, or if it may have been copied, \
             remove it: then this device has another id"
        )));
    }
    let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
    match usize::try_from(metadata.len()) {
        Ok(0) => {
            *bytes = Random::system().bytes();
            file.write_all(&bytes[..]).map_err(failed)?;
            file.sync_all().map_err(failed)?;
        }
        Ok(SECRET_BYTES) => file.read_exact(&mut bytes[..]).map_err(failed)?,
        _ => {
            return Err(refused(format!(
                "the device's key {at} is damaged: it has {} bytes instead of {SECRET_BYTES}; restore it from a backup, or remove it: \
                 then this device has another id",
                metadata.len()
            )));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = folder.path().join("deep").join("config.toml");
        (folder, settings)
    }

    fn code(settings: &Path) -> &'static str {
        Opened::new(Some(settings)).expect_err("refused").code
    }

    #[test]
    fn a_device_keeps_its_id_and_is_one_program_at_a_time() {
        let (_folder, settings) = folder();
        let device = Opened::new(Some(&settings)).expect("made");
        assert_eq!(code(&settings), "AGENT_RUNS");
        let id = device.device.id();
        drop(device);
        let again = Opened::new(Some(&settings)).expect("read");
        assert_eq!(again.device.id(), id);
        let key = settings.with_extension(EXTENSION);
        let mode = fs::metadata(key).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_cut_is_refused() {
        let (_folder, settings) = folder();
        drop(Opened::new(Some(&settings)).expect("made"));
        let key = settings.with_extension(EXTENSION);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("ours");
        assert_eq!(code(&settings), "DEVICE_KEY");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("ours");
        assert!(Opened::new(Some(&settings)).is_ok());
        fs::write(&key, [7; 31]).expect("ours");
        assert_eq!(code(&settings), "DEVICE_KEY");
    }
}
