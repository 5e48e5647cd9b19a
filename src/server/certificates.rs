//! Certificates, keys, authorities and revocation lists are read again when their files change, and the operator is told
//! before a certificate ends. SIGHUP reads them too (`reload`).

use super::log;
use crate::config::LogLevel;
use crate::net::live::Live;
use crate::net::transport::Door;
use crate::net::transport::tls_files::TlsFileError;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often the files are looked at.
const POLL: Duration = Duration::from_secs(2);
/// The operator is told from so many days before a certificate ends.
const WARN_DAYS: i64 = 14;
/// And again after so long.
const WARN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Starts the thread that watches the files of the listeners, whichever those are at the time.
pub(super) fn watch(live: Arc<Live>) -> io::Result<()> {
    thread::Builder::new()
        .name("certificates".into())
        .spawn(move || run(&live))?;
    Ok(())
}

fn run(live: &Live) {
    let polls_per_warning = (WARN_EVERY.as_secs() / POLL.as_secs()).max(1);
    let mut polls = 0;
    loop {
        let doors = live.parts().doors;
        if polls % polls_per_warning == 0 {
            warn_of_expiry(&doors);
        }
        for door in &doors {
            if let Some(tls) = door.tls().filter(|tls| tls.has_changed()) {
                tell(tls.reload(), &door.spec().name);
            }
        }
        polls += 1;
        thread::sleep(POLL);
    }
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
