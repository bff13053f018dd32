//! The device's key: 32 bytes in a file beside the settings that nobody else can read.
//!
//! The key *is* the device: others know it by its public half. So it is made once and never overwritten. Whoever uses it holds the file's
//! lock: two programs that say that they are this device would take its place from each other.

use std::{fs::File, path::Path};

use nix::fcntl::{Flock, FlockArg};
use remora_proto::presence::Device;

use crate::{
    config,
    error::{Exit, Failure},
    secret_file,
};

/// Beside the settings file, of the same name but for this.
const EXTENSION: &str = "device.key";

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
        let key = secret_file::read_or_create(&path)?;
        let file = File::open(&path).map_err(|error| {
            secret_file::failure(&path, format!("cannot be opened again: {error}"))
        })?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
            let line = "an agent runs already with this device's key; end it first, or give this one settings of its own with --config";
            Failure::new(Exit::Error, "AGENT_RUNS", line)
        })?;
        Ok(Self {
            device: Device::new(&key),
            _lock: lock,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

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
        assert_eq!(code(&settings), "KEY_FILE");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("ours");
        assert!(Opened::new(Some(&settings)).is_ok());
        fs::write(&key, [7; 31]).expect("ours");
        assert_eq!(code(&settings), "KEY_FILE");
    }
}
