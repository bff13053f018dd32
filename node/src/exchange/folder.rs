//! The folder that files come into. What is coming stands in `.remora-HASH.part` there, which nobody but this user reads; when its
//! hash is what was offered, it gets its name, and never another file's.

use std::{
    env, fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::HEXLOWER;
use nix::{
    fcntl::{Flock, FlockArg},
    sys::statvfs::statvfs,
};
use remora_proto::{
    exchange::{
        files::{Hash, Offer, Over},
        name::FileName,
    },
    random::Random,
};

/// Of a hash, in a name.
const HASH_PART: usize = 16;
/// The same file several times at once.
const MAX_SAME: u32 = 4;
/// Files of one name in a folder.
const MAX_NUMBER: u32 = 9_999;
/// Read and written at once.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

/// Where files come to.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// A file that is coming: what is there is on disk, and hashed.
pub(super) struct Part {
    file: Flock<File>,
    path: PathBuf,
    folder: Folder,
    hashed: Context,
    have: u64,
    offer: Offer,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({} of {:?})", self.have, self.offer)
    }
}

impl Default for Folder {
    /// The one that this user's desktop calls so (XDG user-dirs), else `Downloads`, else the current one.
    fn default() -> Self {
        let home = env::var_os("HOME").map(PathBuf::from);
        let config = env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join(".config")));
        let named = config
            .and_then(|config| fs::read_to_string(config.join("user-dirs.dirs")).ok())
            .and_then(|text| named_in(&text, home.as_deref()));
        let usual = || home.as_ref().map(|home| home.join("Downloads"));
        Self(named.or_else(usual).unwrap_or_default())
    }
}

/// `XDG_DOWNLOAD_DIR="$HOME/Downloads"`: below the home folder, or absolute (user-dirs.dirs(5)).
fn named_in(text: &str, home: Option<&Path>) -> Option<PathBuf> {
    let value = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("XDG_DOWNLOAD_DIR="))?;
    let value = value.strip_prefix('"')?.strip_suffix('"')?;
    match value.strip_prefix("$HOME/") {
        Some(below) => home.map(|home| home.join(below)),
        None => Some(PathBuf::from(value)).filter(|path| path.is_absolute()),
    }
}

impl From<PathBuf> for Folder {
    fn from(path: PathBuf) -> Self {
        Self(path)
    }
}

impl Folder {
    /// Opens a file that is to be offered from here, for so many bytes, if there is room for them. It has no name, and is gone when it is
    /// closed. Blocks.
    ///
    /// # Errors
    /// What the system says; [`StorageFull`](io::ErrorKind::StorageFull) also before it is.
    pub fn nameless(&self, bytes: u64) -> io::Result<File> {
        self.create()?;
        if self.room().is_some_and(|room| room < bytes) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let unique: [u8; HASH_PART] = Random::system().bytes();
        let name = format!(".remora-{}.page", HEXLOWER.encode(&unique));
        let path = self.0.join(name);
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc_flags())
            .open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }

    fn create(&self) -> io::Result<()> {
        let mut folder = fs::DirBuilder::new();
        folder.recursive(true).mode(0o700);
        folder.create(&self.0)
    }

    /// Opens what there is of a file, or an empty one, if there is room for the rest. Blocks.
    pub(super) fn prepare(&self, offer: Offer) -> Result<Part, Over> {
        self.create().map_err(|error| over(&error))?;
        let (file, path) = self.open_part(&offer.hash).map_err(|error| over(&error))?;
        let mut part = Part {
            file,
            path,
            folder: self.clone(),
            hashed: Context::new(&SHA256),
            have: 0,
            offer,
        };
        part.read_again().map_err(|error| over(&error))?;
        if self
            .room()
            .is_some_and(|room| room < part.offer.bytes - part.have)
        {
            part.discard();
            return Err(Over::DiskFull);
        }
        Ok(part)
    }

    /// Nobody else writes to it: another session that gets the same file uses one of its own.
    fn open_part(&self, hash: &Hash) -> io::Result<(Flock<File>, PathBuf)> {
        let hash = HEXLOWER.encode(&hash[..HASH_PART]);
        for number in 0..MAX_SAME {
            let path = self.0.join(format!(".remora-{hash}-{number}.part"));
            let open = |new: bool| {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(new)
                    .mode(0o600)
                    .custom_flags(libc_flags())
                    .open(&path)
            };
            let file = match open(true) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match open(false) {
                    Ok(file) if is_ours(&file)? => file,
                    // A link, a folder, another's.
                    Ok(_) | Err(_) => continue,
                },
                opened => opened?,
            };
            if let Ok(file) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                return Ok((file, path));
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Bytes that this user can still write; `None`: the system does not say.
    fn room(&self) -> Option<u64> {
        let system = statvfs(&self.0).ok()?;
        Some(
            system
                .blocks_available()
                .saturating_mul(system.fragment_size()),
        )
    }

    /// Gives it its name, or the next one that nobody has. The name is taken before it is used, so that no file is ever replaced
    /// but the empty one that has just been made for it.
    fn place(&self, part: &Path, name: &FileName) -> io::Result<PathBuf> {
        for number in 1..=MAX_NUMBER {
            let name = match number {
                1 => name.clone(),
                number => name.numbered(number),
            };
            let path = self.0.join(name.as_str());
            let taken = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(libc_flags())
                .open(&path);
            match taken {
                Ok(_) => {
                    return match fs::rename(part, &path) {
                        Ok(()) => Ok(path),
                        Err(error) => {
                            fs::remove_file(&path)?;
                            Err(error)
                        }
                    };
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// Links are not followed, and nothing is waited for.
fn libc_flags() -> i32 {
    (nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK).bits()
}

/// A plain file of this user's, known by no other name.
fn is_ours(file: &File) -> io::Result<bool> {
    let found = file.metadata()?;
    Ok(found.is_file() && found.nlink() == 1 && found.uid() == nix::unistd::geteuid().as_raw())
}

/// What to say of an error.
pub(super) fn over(error: &io::Error) -> Over {
    tracing::warn!(%error, "a file");
    let is_full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    match is_full.contains(&error.kind()) {
        true => Over::DiskFull,
        false => Over::Failed,
    }
}

/// The hash so far.
pub(super) fn hash_of(hashed: &Context) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(hashed.clone().finish().as_ref());
    hash
}

/// Hashes the first `bytes` of a file; whether it has so many. Blocks.
pub(super) fn hash_first(file: &File, bytes: u64, hashed: &mut Context) -> io::Result<bool> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < bytes {
        let left = usize::try_from(bytes - at).unwrap_or(usize::MAX);
        let want = left.min(CHUNK_BYTES);
        match file.read_at(&mut buffer[..want], at)? {
            0 => return Ok(false),
            read => {
                hashed.update(&buffer[..read]);
                at += u64::try_from(read).unwrap_or_default();
            }
        }
    }
    Ok(true)
}

impl Part {
    /// How much is there, and its hash.
    pub(super) fn have(&self) -> (u64, Hash) {
        (self.have, hash_of(&self.hashed))
    }

    /// What it is to become.
    pub(super) fn offer(&self) -> &Offer {
        &self.offer
    }

    fn read_again(&mut self) -> io::Result<()> {
        let there = self.file.metadata()?.len();
        let mut hashed = Context::new(&SHA256);
        if there <= self.offer.bytes && hash_first(&self.file, there, &mut hashed)? {
            (self.have, self.hashed) = (there, hashed);
            Ok(())
        } else {
            self.begin_anew()
        }
    }

    /// What is there is not how the file begins.
    pub(super) fn begin_anew(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        (self.have, self.hashed) = (0, Context::new(&SHA256));
        Ok(())
    }

    /// Appends. Blocks.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Over> {
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        // More than was offered is not what was offered.
        if more > self.offer.bytes - self.have {
            return Err(Over::Changed);
        }
        self.file
            .write_all_at(bytes, self.have)
            .map_err(|error| over(&error))?;
        self.hashed.update(bytes);
        self.have += more;
        Ok(())
    }

    /// All has come: it gets its name, if it is what was offered. Blocks.
    pub(super) fn finish(self) -> Result<PathBuf, Over> {
        let is_it = self.have == self.offer.bytes && hash_of(&self.hashed) == self.offer.hash;
        if !is_it {
            self.discard();
            return Err(Over::Changed);
        }
        self.file.sync_data().map_err(|error| over(&error))?;
        self.folder
            .place(&self.path, &self.offer.name)
            .map_err(|error| over(&error))
    }

    /// Nobody wants it.
    pub(super) fn discard(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "what there was of a file");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn offer(name: &str, content: &[u8]) -> Offer {
        let mut hashed = Context::new(&SHA256);
        hashed.update(content);
        Offer {
            name: FileName::new(name),
            bytes: content.len() as u64,
            hash: hash_of(&hashed),
        }
    }

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = Folder(dir.path().join("in"));
        (dir, folder)
    }

    fn names(folder: &Folder) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&folder.0)
            .expect("a folder")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .collect();
        names.sort();
        names
    }

    fn take(folder: &Folder, name: &str, content: &[u8]) -> Result<PathBuf, Over> {
        let mut part = folder.prepare(offer(name, content))?;
        part.write(content)?;
        part.finish()
    }

    #[test]
    fn no_file_is_ever_overwritten() {
        let (_dir, folder) = folder();
        let placed = |content: &[u8]| take(&folder, "../a.txt", content).expect("there is room");
        assert_eq!(placed(b"one"), folder.0.join("a.txt"));
        assert_eq!(placed(b"two"), folder.0.join("a (2).txt"));
        assert_eq!(placed(b"two"), folder.0.join("a (3).txt"));
        assert_eq!(fs::read(folder.0.join("a.txt")).expect("there"), b"one");
        assert_eq!(names(&folder), ["a (2).txt", "a (3).txt", "a.txt"]);
    }

    #[test]
    fn a_link_in_the_folder_leads_nowhere() {
        let (dir, folder) = folder();
        let outside = dir.path().join("outside");
        fs::write(&outside, b"mine").expect("written");
        fs::create_dir(&folder.0).expect("made");
        symlink(&outside, folder.0.join("a.txt")).expect("linked");
        let hash = HEXLOWER.encode(&offer("a.txt", b"one").hash[..HASH_PART]);
        let part = folder.0.join(format!(".remora-{hash}-0.part"));
        symlink(&outside, &part).expect("linked");
        let placed = take(&folder, "a.txt", b"one").expect("there is room");
        assert_eq!(placed, folder.0.join("a (2).txt"));
        assert_eq!(fs::read(&outside).expect("there"), b"mine");
        // A file that has another name somewhere is not written to, either.
        fs::remove_file(&part).expect("there");
        fs::hard_link(&outside, &part).expect("linked");
        take(&folder, "a.txt", b"one").expect("there is room");
        assert_eq!(fs::read(&outside).expect("there"), b"mine");
    }

    #[test]
    fn what_is_there_is_not_sent_again() {
        let (_dir, folder) = folder();
        let wanted = offer("b", b"hello world");
        let mut part = folder.prepare(wanted.clone()).expect("there is room");
        part.write(b"hello").expect("it fits");
        drop(part);
        let mut part = folder.prepare(wanted).expect("there is room");
        assert_eq!(part.have(), (5, offer("", b"hello").hash));
        part.write(b" world").expect("it fits");
        let path = part.finish().expect("it is it");
        assert_eq!(fs::read(path).expect("there"), b"hello world");
    }

    #[test]
    fn what_is_not_what_was_offered_does_not_get_its_name() {
        let (_dir, folder) = folder();
        let mut part = folder.prepare(offer("c", b"hello")).expect("there is room");
        assert_eq!(part.write(b"hello!"), Err(Over::Changed), "too long");
        part.write(b"jello").expect("it fits");
        assert_eq!(part.finish(), Err(Over::Changed));
        assert_eq!(names(&folder), [""; 0]);
    }

    #[test]
    fn a_file_that_does_not_fit_is_refused_before_it_comes() {
        let (_dir, folder) = folder();
        let huge = Offer {
            bytes: u64::MAX,
            ..offer("d", b"")
        };
        assert_eq!(folder.prepare(huge).err(), Some(Over::DiskFull));
        assert_eq!(names(&folder), [""; 0]);
    }

    #[test]
    fn the_same_file_twice_at_once_is_two_files() {
        let (_dir, folder) = folder();
        let one = folder.prepare(offer("e", b"x")).expect("there is room");
        let other = folder.prepare(offer("e", b"x")).expect("there is room");
        assert_ne!(one.path, other.path);
    }

    #[test]
    fn a_desktops_own_folder_is_found() {
        let home = Path::new("/home/maria");
        let named = |text| named_in(text, Some(home));
        assert_eq!(
            named("# x\nXDG_DOWNLOAD_DIR=\"$HOME/Descargas\"\n"),
            Some(home.join("Descargas"))
        );
        assert_eq!(
            named("XDG_DOWNLOAD_DIR=\"/data/in\"\n"),
            Some("/data/in".into())
        );
        assert_eq!(named("XDG_DOWNLOAD_DIR=\"elsewhere\"\n"), None);
    }
}
