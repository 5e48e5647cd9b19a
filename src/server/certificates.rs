//! Certificates, keys, authorities and revocation lists are read again on SIGHUP and when their files change.

use super::log;
use crate::config::LogLevel;
use crate::net::transport::Door;
use crate::net::transport::tls_files::{Prepared, ServerTls, TlsFileError};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often the files are looked at.
const POLL: Duration = Duration::from_secs(2);
/// The operator is told from so many days before a certificate ends.
const WARN_DAYS: i64 = 14;
/// And again after so long.
const WARN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Asks the thread that watches the files to read all of them now.
#[derive(Clone, Debug)]
pub(super) struct Reload(SyncSender<()>);

impl Reload {
    pub(super) fn request(&self) {
        // One that is waiting already does for both.
        let _ = self.0.try_send(());
    }
}

/// Starts the thread, unless no listener has TLS.
pub(super) fn watch(doors: &[Arc<Door>]) -> io::Result<Reload> {
    let (sender, requests) = sync_channel(1);
    let doors: Vec<_> = doors
        .iter()
        .filter(|door| door.tls().is_some())
        .cloned()
        .collect();
    if !doors.is_empty() {
        thread::Builder::new()
            .name("certificates".into())
            .spawn(move || run(&doors, &requests))?;
    }
    Ok(Reload(sender))
}

fn run(doors: &[Arc<Door>], requests: &Receiver<()>) {
    let polls_per_warning = (WARN_EVERY.as_secs() / POLL.as_secs()).max(1);
    let mut polls = 0;
    loop {
        if polls % polls_per_warning == 0 {
            warn_of_expiry(doors);
        }
        polls += 1;
        match requests.recv_timeout(POLL) {
            Ok(()) => tell(reload_all(doors), "all listeners"),
            Err(RecvTimeoutError::Timeout) => {
                for door in doors {
                    if let Some(tls) = door.tls().filter(|tls| tls.has_changed()) {
                        tell(tls.reload(), &door.spec().name);
                    }
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// All or nothing.
fn reload_all(doors: &[Arc<Door>]) -> Result<(), TlsFileError> {
    let all = doors.iter().filter_map(|door| door.tls());
    let prepared: Vec<(&ServerTls, Prepared)> = all
        .map(|tls| Ok((tls, tls.prepare()?)))
        .collect::<Result<_, _>>()?;
    for (tls, prepared) in prepared {
        tls.commit(prepared);
    }
    Ok(())
}

fn tell(reloaded: Result<(), TlsFileError>, whose: &str) {
    match reloaded {
        Ok(()) => log::line(
            LogLevel::Info,
            format_args!("TLS of {whose}: the files were read again."),
        ),
        Err(error) => log::line(
            LogLevel::Error,
            format_args!("TLS of {whose}: {error}; what was read before stays in force."),
        ),
    }
}

fn warn_of_expiry(doors: &[Arc<Door>]) {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now_s = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    for door in doors {
        let Some(days) = door
            .tls()
            .map(|tls| tls.days_to_expiry(now_s))
            .filter(|days| *days < WARN_DAYS)
        else {
            continue;
        };
        let name = &door.spec().name;
        if days < 0 {
            log::line(
                LogLevel::Error,
                format_args!("TLS of {name}: the certificate has expired."),
            );
        } else {
            log::line(
                LogLevel::Warn,
                format_args!("TLS of {name}: the certificate ends in {days} days."),
            );
        }
    }
}
