//! What outlives the process: the directory, its lock, and the key that spreads sessions over shards.

use crate::config::Config;
use crate::shard::record::Durability;
use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const KEY_FILE: &str = "placement-key";
const LOCK_FILE: &str = "lock";
const KEY_LEN: usize = 16;

/// The installation: its random key, and, when it has a directory, the lock that keeps a second process out.
#[derive(Debug)]
pub(super) struct Installation {
    /// The key of `shard::placement`.
    pub(super) placement_key: [u8; KEY_LEN],
    /// Where the key is kept; none when it was made for this start only.
    pub(super) dir: Option<PathBuf>,
    // Unlocked when dropped or when the process ends, however it ends.
    _lock: Option<File>,
}

impl Installation {
    /// Opens the installation in `dir`, making the directory and the key when they are missing; without a
    /// directory the key holds until the process ends.
    ///
    /// Errors: a sentence for the operator, among them that another process has the directory.
    pub(super) fn open(dir: Option<PathBuf>) -> Result<Self, String> {
        let Some(dir) = dir else {
            let key = random_key().map_err(|error| format!("no random bytes: {error}"))?;
            return Ok(Self {
                placement_key: key,
                dir: None,
                _lock: None,
            });
        };
        let name = dir.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| {
                let remedy = remedy(&dir, &error);
                format!("cannot make the data directory {name}: {error}{remedy}")
            })?;
        let lock = lock(&dir)?;
        let key = read_or_make_key(&dir).map_err(|error| {
            let remedy = remedy(&dir, &error);
            format!("cannot use {name}/{KEY_FILE}: {error}{remedy}")
        })?;
        Ok(Self {
            placement_key: key,
            _lock: Some(lock),
            dir: Some(dir),
        })
    }
}

/// The directory of this configuration: the one that is set, else the user's state directory, else none when nothing is to
/// be kept.
///
/// Errors: there is none and something is to be kept.
pub(super) fn choose(config: &Config) -> Result<Option<PathBuf>, String> {
    if config.data_dir.is_some() || config.durability == Durability::None {
        return Ok(config.data_dir.clone());
    }
    match state_dir() {
        Some(dir) => Ok(Some(dir)),
        None => Err("there is no directory to keep sessions and messages in, as neither --data-dir nor $HOME is given; \
                     name one with --data-dir, or keep nothing with --durability none"
            .into()),
    }
}

/// The data directory of a broker without a configuration in this environment.
pub(crate) fn default_dir() -> Option<PathBuf> {
    let list = env::var("STATE_DIRECTORY").ok();
    let first = list.as_deref().and_then(|list| list.split(':').next());
    first.map(PathBuf::from).or_else(state_dir)
}

fn state_dir() -> Option<PathBuf> {
    // What is not absolute has no meaning there (XDG Base Directory Specification).
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    state.map(|state| state.join("ringmq"))
}

/// What the operator can do about a directory that cannot be used.
fn remedy(dir: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            // The nearest directory that is there says whose it is.
            let found = dir
                .ancestors()
                .find_map(|dir| Some((dir, fs::metadata(dir).ok()?)));
            let whose = found.map_or_else(String::new, |(dir, found)| {
                format!("{} belongs to user {}, and ", dir.display(), found.uid())
            });
            format!(" ({whose}the broker's user must be able to write there)")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            " (the file system is mounted read-only; name another directory with --data-dir)".into()
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            " (something that is not a directory is in its place)".into()
        }
        io::ErrorKind::StorageFull => " (the disk is full)".into(),
        _ => String::new(),
    }
}

/// Keeps every other process out of the directory until the file is closed.
///
/// Errors: a sentence for the operator, which names the process that has it.
pub(crate) fn lock(dir: &Path) -> Result<File, String> {
    let path = dir.join(LOCK_FILE);
    let cannot = |error: &io::Error| {
        format!(
            "cannot lock {}: {error}{}",
            path.display(),
            remedy(dir, error)
        )
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| cannot(&error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // The other process may be between locking and writing its number.
            let known = file.read_to_string(&mut owner).is_ok() && !owner.trim().is_empty();
            let owner = if known {
                format!("process {}", owner.trim())
            } else {
                "another process".into()
            };
            return Err(format!(
                "the data directory {} is in use by {owner}; two brokers cannot share one",
                dir.display()
            ));
        }
        Err(TryLockError::Error(error)) => return Err(cannot(&error)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|error| cannot(&error))?;
    Ok(file)
}

/// The caller holds the lock, so nobody else makes the key meanwhile.
fn read_or_make_key(dir: &Path) -> io::Result<[u8; KEY_LEN]> {
    let path = dir.join(KEY_FILE);
    match fs::read(&path) {
        Ok(bytes) => bytes.try_into().map_err(|bytes: Vec<u8>| {
            io::Error::other(format!(
                "it has {} bytes instead of {KEY_LEN}; restore it, or remove it to start with a new one",
                bytes.len()
            ))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = random_key()?;
            let new = dir.join("placement-key.new");
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&key)?;
            file.sync_all()?;
            // Whole or absent, also after a power loss.
            fs::rename(&new, &path)?;
            File::open(dir)?.sync_all()?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn random_key() -> io::Result<[u8; KEY_LEN]> {
    let mut key = [0; KEY_LEN];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A directory of this test, removed at its end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("ringmq-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            Self(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_key_stays_and_is_private() {
        let scratch = Scratch::new("key");
        let first = Installation::open(Some(scratch.0.clone()))
            .unwrap()
            .placement_key;
        assert_eq!(
            Installation::open(Some(scratch.0.clone()))
                .unwrap()
                .placement_key,
            first
        );
        let mode = fs::metadata(scratch.0.join(KEY_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!scratch.0.join("placement-key.new").exists());
    }

    #[test]
    fn without_a_directory_every_start_has_its_own_key() {
        let keys = [Installation::open(None), Installation::open(None)];
        let [first, second] = keys.map(|installation| installation.unwrap().placement_key);
        assert_ne!(first, second);
    }

    #[test]
    fn a_second_process_is_told_who_has_the_directory() {
        let scratch = Scratch::new("lock");
        let first = Installation::open(Some(scratch.0.clone())).unwrap();
        // A lock belongs to the open file, so a second one in this process meets it as another process would.
        let error = Installation::open(Some(scratch.0.clone())).unwrap_err();
        assert!(
            error.contains(&format!("in use by process {}", std::process::id())),
            "{error}"
        );
        drop(first);
        Installation::open(Some(scratch.0.clone())).unwrap();
    }

    #[test]
    fn a_damaged_key_is_not_replaced() {
        let scratch = Scratch::new("damaged");
        drop(Installation::open(Some(scratch.0.clone())).unwrap());
        fs::write(scratch.0.join(KEY_FILE), b"short").unwrap();
        let error = Installation::open(Some(scratch.0.clone())).unwrap_err();
        assert!(error.contains("5 bytes"), "{error}");
        assert_eq!(fs::read(scratch.0.join(KEY_FILE)).unwrap(), b"short");
    }
}
