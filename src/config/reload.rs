//! What differs between the configuration in force and the one that was read again.

use super::Loaded;
use super::key::{Change, Key};
use super::keys::{LIMIT_KEYS, LISTENER_KEYS, TOP_KEYS};
use super::login::{ACL_KEYS, LOGIN_KEYS};
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
                    difference.compare(&format!("{prefix}."), LISTENER_KEYS, listener, other);
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
    pub fn with_changes(&self, next: &Self) -> Self {
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
        let listeners = old.listeners.iter().map(|listener| {
            let mut others = next.config.listeners.iter();
            match others.find(|other| other.name == listener.name) {
                Some(other) => {
                    let mut listener_now = other.clone();
                    listener_now.bind.clone_from(&listener.bind);
                    listener_now.tcp.clone_from(&listener.tcp);
                    listener_now
                }
                None => listener.clone(),
            }
        });
        new.config.listeners = listeners.collect();
        new
    }
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
