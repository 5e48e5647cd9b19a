//! Where a configuration comes from, so that it can be read again: a file with its drop-ins, the environment, the flags.

use super::{ConfigError, Loaded, Origin, Setting};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The directory of drop-ins beside the file.
const DROP_INS: &str = "conf.d";

/// Everything that makes up a configuration, but not yet read.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file; `conf.d/*.toml` beside it is read after it, in the order of the names.
    pub file: Option<PathBuf>,
    /// What the flags say.
    pub flags: Vec<Setting>,
}

impl Sources {
    /// Reads the files and the environment.
    ///
    /// Errors: everything that is wrong, in all files.
    pub fn load(&self) -> Result<Loaded, Vec<ConfigError>> {
        let mut files = Vec::new();
        if let Some(path) = &self.file {
            for path in with_drop_ins(path)? {
                let text = fs::read_to_string(&path).map_err(|error| cannot(&path, &error))?;
                files.push((path, text));
            }
        }
        // What is not UTF-8 cannot be a value of ours.
        let env = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Loaded::new(&files, env, self.flags.iter().cloned())
    }
}

fn with_drop_ins(file: &Path) -> Result<Vec<PathBuf>, Vec<ConfigError>> {
    let dir = file
        .parent()
        .unwrap_or_else(|| Path::new(""))
        .join(DROP_INS);
    let mut paths = match fs::read_dir(&dir) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| cannot(&dir, &error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(cannot(&dir, &error)),
    };
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "toml")
    });
    paths.sort();
    paths.insert(0, file.to_owned());
    Ok(paths)
}

fn cannot(path: &Path, error: &io::Error) -> Vec<ConfigError> {
    let message = format!("cannot read {}: {error}", path.display());
    vec![ConfigError {
        origin: Origin::Default,
        message,
    }]
}
