//! Reading everything again while the broker runs: all of it, or nothing.
//!
//! On SIGHUP the configuration is put together as it was at the start, and the files it names are read. Only when all
//! of that is right, the cores are given the new parts; otherwise every mistake is logged with its place, and what was
//! in force stays. What only a restart can change is named. It runs on the thread that waits for signals.

use super::log;
use crate::auth::load::{self, Judgement};
use crate::auth::pool::Pool;
use crate::auth::users::Users;
use crate::auth::verifier;
use crate::config::listener::ListenerSpec;
use crate::config::{ConfigError, Loaded, LogLevel, Sources};
use crate::net::live::{Live, Parts};
use crate::net::transport::Door;
use crate::net::transport::tls_files::{ServerTls, TlsFileError};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What is in force, and where it came from.
#[derive(Debug)]
pub(super) struct Reloader {
    sources: Sources,
    running: Loaded,
    live: Arc<Live>,
    judges: Arc<Pool>,
    /// The secret of those who look like users.
    secret: [u8; 32],
    /// The lines of the password file, as fingerprints.
    accounts: BTreeSet<u64>,
}

impl Reloader {
    pub(super) fn new(
        sources: Sources,
        running: Loaded,
        live: Arc<Live>,
        judges: Arc<Pool>,
        secret: [u8; 32],
    ) -> Self {
        let accounts = accounts(&judges.sources());
        Self {
            sources,
            running,
            live,
            judges,
            secret,
            accounts,
        }
    }

    /// Reads everything again and puts it in force if it is right. The log says what came of it.
    pub(super) fn reload(&mut self) {
        match self.prepare() {
            Ok((running, parts, judgement, summary)) => {
                self.accounts = accounts(&judgement.sources);
                self.judges.replace(judgement.sources);
                if let Err(error) = self.judges.grow(judgement.threads) {
                    log::line(
                        LogLevel::Error,
                        format_args!("SIGHUP: cannot start a thread: {error}"),
                    );
                }
                log::set_level(running.config.log_level);
                self.running = running;
                self.live.replace(parts);
                log::line(
                    LogLevel::Info,
                    format_args!("SIGHUP: read again; {summary}."),
                );
                super::warn_of_open_listeners(&self.running);
            }
            Err(mistakes) => {
                for mistake in mistakes {
                    log::line(LogLevel::Error, format_args!("SIGHUP: {mistake}"));
                }
                log::line(
                    LogLevel::Error,
                    "SIGHUP: nothing was changed; what was in force stays.",
                );
            }
        }
    }

    fn prepare(&self) -> Result<(Loaded, Parts, Judgement, String), Vec<String>> {
        let told = |errors: Vec<ConfigError>| -> Vec<String> {
            errors.iter().map(ToString::to_string).collect()
        };
        let next = self.sources.load().map_err(told)?;
        let mut summary = self.running.difference(&next).to_string();
        let next = self.running.with_changes(&next).map_err(told)?;
        let current = self.live.parts();
        let mut doors = Vec::with_capacity(current.doors.len());
        let mut mistakes = Vec::new();
        for (door, spec) in current.doors.iter().zip(&next.config.listeners) {
            match reopen(door, spec) {
                Ok(next_door) => {
                    if has_new_files(door, &next_door) {
                        summary.push_str(&format!("; new certificates: listener.{}", spec.name));
                    }
                    doors.push(next_door);
                }
                Err(error) => {
                    mistakes.push(next.wrong_tls_file(&spec.name, &error.path, &error));
                }
            }
        }
        let judgement =
            load::judgement(&next, &self.secret).map_err(|mut errors| mistakes.append(&mut errors));
        let rules = load::rules(&next).map_err(|mut errors| mistakes.append(&mut errors));
        let (Ok(judgement), Ok(rules), true) = (judgement, rules, mistakes.is_empty()) else {
            return Err(mistakes);
        };
        if let Some(users) = &judgement.sources.users {
            summary.push_str(&format!("; {} users", users.count()));
        }
        // Those of earlier times too: a core may not have looked since.
        let now = accounts(&judgement.sources);
        let before = self.accounts.union(&current.withdrawn).copied();
        let withdrawn = before.filter(|account| !now.contains(account)).collect();
        let parts = Parts {
            limits: Arc::new(next.config.limits.clone()),
            doors,
            rules,
            withdrawn: Arc::new(withdrawn),
        };
        Ok((next, parts, judgement, summary))
    }
}

fn accounts(sources: &verifier::Sources) -> BTreeSet<u64> {
    let users = sources.users.iter();
    users.flat_map(Users::fingerprints).collect()
}

/// The door for `spec`: the same one when nothing about it has changed.
fn reopen(door: &Arc<Door>, spec: &ListenerSpec) -> Result<Arc<Door>, TlsFileError> {
    if door.spec() == spec && !door.tls().is_some_and(ServerTls::is_outdated) {
        return Ok(Arc::clone(door));
    }
    Door::open(spec.clone()).map(Arc::new)
}

/// Whether files that the old door names too were read again.
fn has_new_files(old: &Arc<Door>, new: &Arc<Door>) -> bool {
    !Arc::ptr_eq(old, new) && old.spec().tls.is_some() && old.spec().tls == new.spec().tls
}
