//! What differs between the configuration in force and the one that was read again.

use super::key::{Change, Key};
use super::keys::{LIMIT_KEYS, LISTENER_KEYS, TOP_KEYS};
use super::listener::ListenerSpec;
use super::login::{ACL_KEYS, LOGIN_KEYS};
use super::{ConfigError, Loaded, plain};
use std::fmt;

/// The keys that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Those whose new value can hold at once.
    pub changed: Vec<String>,
    /// Those whose new value holds when the broker starts again.
    pub needs_restart: Vec<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changed.is_empty() && self.needs_restart.is_empty() {
            return f.write_str("no key has changed");
        }
        let changed =
            (!self.changed.is_empty()).then(|| format!("changed: {}", self.changed.join(", ")));
        let needs_restart = (!self.needs_restart.is_empty())
            .then(|| format!("needs restart: {}", self.needs_restart.join(", ")));
        let parts: Vec<String> = changed.into_iter().chain(needs_restart).collect();
        f.write_str(&parts.join("; "))
    }
}

impl Loaded {
    /// What `next` changes, in the order of `config show`.
    pub fn difference(&self, next: &Self) -> Difference {
        let mut difference = Difference::default();
        difference.compare("", TOP_KEYS, &self.config, &next.config);
        for listener in &self.config.listeners {
            let prefix = format!("listener.{}", listener.name);
            let mut others = next.config.listeners.iter();
            match others.find(|other| other.name == listener.name) {
                Some(other) => {
                    let mut of_it = Difference::default();
                    of_it.compare(&format!("{prefix}."), LISTENER_KEYS, listener, other);
                    if !listens_alike(listener, other) {
                        of_it.needs_restart.append(&mut of_it.changed);
                    }
                    difference.changed.append(&mut of_it.changed);
                    difference.needs_restart.append(&mut of_it.needs_restart);
                }
                None => difference.needs_restart.push(prefix),
            }
        }
        let is_new = |name: &String| {
            let mut listeners = self.config.listeners.iter();
            !listeners.any(|listener| listener.name == *name)
        };
        let names = next.config.listeners.iter().map(|listener| &listener.name);
        let new = names.filter(|name| is_new(name));
        difference
            .needs_restart
            .extend(new.map(|name| format!("listener.{name}")));
        difference.compare("login.", LOGIN_KEYS, &self.config.login, &next.config.login);
        difference.compare("acl.", ACL_KEYS, &self.config.acl, &next.config.acl);
        difference.compare(
            "limits.",
            LIMIT_KEYS,
            &self.config.limits,
            &next.config.limits,
        );
        difference
    }

    /// This configuration with what can change at once taken from `next`.
    ///
    /// What a listener demands of its clients was decided for where it listens: one that is to listen elsewhere stays all
    /// that it is until the restart, or a port that others can reach would take the word that was given for loopback.
    ///
    /// Errors: what cannot be together, of what stays and what changes.
    pub fn with_changes(&self, next: &Self) -> Result<Self, Vec<ConfigError>> {
        let (old, mut new) = (&self.config, next.clone());
        new.config.cores = old.cores;
        new.config.pin = old.pin;
        new.config.data_dir.clone_from(&old.data_dir);
        new.config.durability = old.durability;
        for key in LIMIT_KEYS
            .iter()
            .filter(|key| key.change == Change::Restart)
        {
            key.copy(&old.limits, &mut new.config.limits);
        }
        for key in LOGIN_KEYS
            .iter()
            .filter(|key| key.change == Change::Restart)
        {
            key.copy(&old.login, &mut new.config.login);
        }
        new.config.listeners.clear();
        for listener in &old.listeners {
            let mut others = next.config.listeners.iter();
            let in_place =
                others.find(|it| it.name == listener.name && listens_alike(listener, it));
            let kept = match in_place {
                Some(other) => ListenerSpec {
                    tcp: listener.tcp.clone(),
                    ..other.clone()
                },
                None => {
                    new.take_origins(self, &listener.name);
                    listener.clone()
                }
            };
            new.config.listeners.push(kept);
        }
        let mut errors = new.contradictions();
        for error in &mut errors {
            error.message += "; it was so when the broker started, and stays until it starts again";
        }
        if errors.is_empty() {
            Ok(new)
        } else {
            Err(errors)
        }
    }

    /// Remembers of a listener where `old` was told what it is.
    fn take_origins(&mut self, old: &Self, listener: &str) {
        let prefix = plain(&format!("listener.{listener}."));
        self.origins.retain(|key, _| !key.starts_with(&prefix));
        let of_it = old
            .origins
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix));
        self.origins
            .extend(of_it.map(|(key, origin)| (key.clone(), origin.clone())));
    }
}

/// Whether both listen in one place, to the same peers.
fn listens_alike(a: &ListenerSpec, b: &ListenerSpec) -> bool {
    a.bind == b.bind && a.tcp.dual_stack == b.tcp.dual_stack
}

impl Difference {
    fn compare<T>(&mut self, prefix: &str, keys: &[Key<T>], old: &T, new: &T) {
        for key in keys.iter().filter(|key| key.show(old) != key.show(new)) {
            let name = format!("{prefix}{}", key.name);
            match key.change {
                Change::Live => self.changed.push(name),
                Change::Restart => self.needs_restart.push(name),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::listener::AuthMethod;

    fn loaded(text: &str) -> Loaded {
        let text = text.replace("; ", "\n");
        Loaded::new(&[("a.toml".into(), text)], [], []).expect("the file is right by itself")
    }

    #[test]
    fn what_a_listener_demands_changes_only_where_it_listens_already() {
        let password = "[login]; password-file = \"users\"; ";
        let tls = "tls.certificate-file = \"c\"; tls.key-file = \"k\"; ";
        for (before, after, waits) in [
            (
                "bind = \"0.0.0.0:1883\"; auth = \"password\"; ",
                "bind = \"127.0.0.1:1883\"; ",
                "listener.lan.bind, listener.lan.auth",
            ),
            (
                &*format!(
                    "bind = \"0.0.0.0:1883\"; auth = \"anonymous\"; allow = [\"10.0.0.0/8\"]; proxy.trusted = [\"10.0.0.1\"]; {tls}"
                ),
                "bind = \"0.0.0.0:1884\"; auth = \"anonymous\"; ",
                "listener.lan.bind, listener.lan.allow, listener.lan.proxy.trusted, listener.lan.tls.certificate-file, \
                 listener.lan.tls.key-file, listener.lan.tls.version-min, listener.lan.tls.client-certificate, \
                 listener.lan.tls.username-from",
            ),
            (
                "bind = \"unix:/run/a\"; unix-mode = \"0666\"; auth = \"password\"; ",
                "bind = \"unix:/run/a\"; unix-mode = \"0600\"; ",
                "listener.lan.unix-mode, listener.lan.auth",
            ),
            (
                "bind = \"[::]:1883\"; tcp.dual-stack = true; auth = \"password\"; ",
                "bind = \"[::]:1883\"; auth = \"anonymous\"; ",
                "listener.lan.tcp.dual-stack, listener.lan.auth",
            ),
        ] {
            let before = loaded(&format!("[listener.lan]; {before}{password}"));
            let after = loaded(&format!("[listener.lan]; {after}{password}"));
            let difference = before.difference(&after);
            assert_eq!(difference.to_string(), format!("needs restart: {waits}"));
            let now = before.with_changes(&after).expect("nothing contradicts");
            assert_eq!(now.config.listeners, before.config.listeners);
            assert_eq!(now.difference(&after), difference, "as long as it waits");
        }
    }

    #[test]
    fn a_listener_that_stays_in_its_place_changes_but_for_its_sockets() {
        let before = loaded("[listener.lan]; bind = \"127.0.0.1:1\"; tcp.keepalive = 9; ");
        let after = loaded("[listener.lan]; bind = \"127.0.0.1:1\"; auth = \"anonymous\"; ");
        assert_eq!(
            before.difference(&after).to_string(),
            "changed: listener.lan.auth; needs restart: listener.lan.tcp.keepalive"
        );
        let now = before.with_changes(&after).expect("nothing contradicts");
        let lan = &now.config.listeners[0];
        assert_eq!(lan.auth, Some(AuthMethod::Anonymous));
        assert_eq!(lan.tcp.keepalive_s, Some(9));
    }

    #[test]
    fn a_listener_that_waits_keeps_what_it_needs_or_nothing_changes() {
        let before = loaded(
            "[listener.lan]; bind = \"0.0.0.0:1\"; auth = \"password\"; [login]; password-file = \"users\"; ",
        );
        for after in [
            "[listener.lan]; bind = \"127.0.0.1:1\"; ",
            "[listener.other]; bind = \"127.0.0.1:1\"; ",
        ] {
            let errors = before.with_changes(&loaded(after)).expect_err("no users");
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(
                errors,
                [
                    "a.toml:3:1: `auth` = \"password\" needs `login.password-file`; \
                     it was so when the broker started, and stays until it starts again"
                ]
            );
        }
    }
}
