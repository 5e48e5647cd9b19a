//! What the disk or the database file does wrong, in words for the operator.

use rusqlite::ErrorCode;
use std::fmt;

/// Why the store could not write or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of thing happened.
    pub kind: FaultKind,
    /// What SQLite said.
    pub detail: String,
}

/// The faults that call for different help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// No space left, or a quota is used up.
    Full,
    /// The device failed to read or write.
    Io,
    /// The file or the file system may only be read, or belongs to somebody else.
    ReadOnly,
    /// The file is not a whole database.
    Damaged,
    /// Another process holds the database.
    Busy,
    /// The file is no longer at its place.
    Missing,
    /// Anything else.
    Other,
}

impl Fault {
    /// Sorts an error of SQLite's.
    pub fn of(error: &rusqlite::Error) -> Self {
        let kind = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => FaultKind::Full,
            Some(ErrorCode::SystemIoFailure) => FaultKind::Io,
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                FaultKind::ReadOnly
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => FaultKind::Damaged,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => FaultKind::Busy,
            None if is_senseless(error) => FaultKind::Damaged,
            _ => FaultKind::Other,
        };
        Self {
            kind,
            detail: error.to_string(),
        }
    }

    /// Another program's reading makes the write-ahead log grow without end.
    pub(super) fn log_too_long() -> Self {
        Self {
            kind: FaultKind::Busy,
            detail: "the write-ahead log is longer than 4 GB because something has been reading the database for long".into(),
        }
    }

    /// What is written still goes into a file that nobody will find.
    pub(super) fn missing() -> Self {
        Self {
            kind: FaultKind::Missing,
            detail: "its file was removed or replaced while it was open".into(),
        }
    }

    /// What the operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self.kind {
            FaultKind::Full => "free some space; the broker goes on by itself then",
            FaultKind::Io => "check the device (dmesg); the broker tries again by itself",
            FaultKind::ReadOnly => {
                "see that the directory and its files belong to the broker's user and that the file system is not mounted read-only"
            }
            FaultKind::Damaged => {
                // SQLite says the same of a device that does not read.
                "check the device (dmesg); if it is well, stop the broker and run `ringmq store check`, then `ringmq store repair`"
            }
            FaultKind::Busy => {
                "another program holds the database; close it, and do not copy the file while the broker runs: use `ringmq store backup`"
            }
            FaultKind::Missing => {
                "put the directory back and the broker goes on by itself, or start the broker anew without what was stored"
            }
            FaultKind::Other => "run `ringmq store check`",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            FaultKind::Full => "the disk is full",
            FaultKind::Io => "the disk failed",
            FaultKind::ReadOnly => "it cannot be written",
            FaultKind::Damaged => "the database is damaged",
            FaultKind::Busy => "the database is locked",
            FaultKind::Missing => "the database is gone",
            FaultKind::Other => "SQLite refused",
        };
        write!(f, "{what} ({}); {}", self.detail, self.remedy())
    }
}

/// Whether a value is none that this program writes.
fn is_senseless(error: &rusqlite::Error) -> bool {
    use rusqlite::Error;
    matches!(
        error,
        Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..)
    )
}
