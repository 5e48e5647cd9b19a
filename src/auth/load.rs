//! Reads the files that the configuration names: all of them, or nothing.

use super::http::{Service, ServiceSpec};
use super::jwt::TokenKeys;
use super::pool::PoolSize;
use super::users::Users;
use super::verifier::Sources;
use crate::access::{Rules, RulesInForce};
use crate::config::Loaded;
use crate::config::listener::AuthMethod;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

/// With what clients are judged, and by how many threads.
#[derive(Debug)]
pub struct Judgement {
    /// Users, keys, service.
    pub sources: Sources,
    /// The threads that the listeners need.
    pub threads: PoolSize,
}

/// Reads users and keys. `secret` decides whom an unknown user looks like.
///
/// Errors: everything that is wrong, with file and line.
pub fn judgement(loaded: &Loaded, secret: &[u8; 32]) -> Result<Judgement, Vec<String>> {
    let login = &loaded.config.login;
    let mut errors = Vec::new();
    let users = login.password_file.as_deref().and_then(|path| {
        let text = keep(text(loaded, "login.password-file", path), &mut errors)?;
        let users = Users::parse(&path.display().to_string(), &text, secret);
        let told = users.map_err(|wrong| errors.extend(wrong.iter().map(ToString::to_string)));
        told.ok()
    });
    let tokens = login
        .jwt
        .has_keys()
        .then(|| (tokens(loaded, &mut errors), login.jwt.rules.clone()));
    let service = service(loaded).transpose();
    let service = keep(service, &mut errors).flatten();
    if !errors.is_empty() {
        return Err(errors);
    }
    let uses = |methods: &[AuthMethod]| {
        let mut listeners = loaded.config.listeners.iter();
        listeners.any(|listener| listener.auth.is_some_and(|auth| methods.contains(&auth)))
    };
    let computing = match login.threads {
        // Two, so that one slow check does not hold up all others; one where that would be every CPU.
        0 => available_parallelism().map_or(1, |cpus| cpus.get().div_ceil(2).min(2)),
        threads => threads as usize,
    };
    let threads = PoolSize {
        computing: if uses(&[AuthMethod::Password, AuthMethod::Jwt]) {
            computing
        } else {
            0
        },
        asking: if uses(&[AuthMethod::Http]) {
            login.http.connections as usize
        } else {
            0
        },
    };
    let sources = Sources {
        users,
        tokens,
        service,
    };
    Ok(Judgement { sources, threads })
}

/// Reads who may publish and read what.
///
/// Errors: everything that is wrong, with file and line.
pub fn rules(loaded: &Loaded) -> Result<RulesInForce, Vec<String>> {
    let acl = &loaded.config.acl;
    let (listed, groups) = (acl.listed(&loaded.acl_place()), acl.group_list());
    let mut errors = Vec::new();
    let mut read = |key: &str, file: Option<&Path>| {
        let text = match file {
            Some(path) => {
                let text = keep(text(loaded, key, path), &mut errors)?;
                Some((path.display().to_string(), text))
            }
            None => None,
        };
        let file = text.as_ref().map(|(name, text)| (&**name, &**text));
        let rules = Rules::new(file, &listed, &groups);
        let told = rules.map_err(|wrong| errors.extend(wrong.iter().map(ToString::to_string)));
        told.ok().map(Arc::new)
    };
    let file = acl.file.as_deref();
    let rules = acl.is_given().then(|| read("acl.file", file)).flatten();
    // On trial is the file in the place of the one in force; the other rules stay.
    let shadow_file = acl.shadow_file.as_deref();
    let shadow = shadow_file.and_then(|path| read("acl.shadow-file", Some(path)));
    if errors.is_empty() {
        Ok(RulesInForce { rules, shadow })
    } else {
        Err(errors)
    }
}

/// Reads the rules of one file.
///
/// Errors: everything that is wrong, with file and line.
pub fn rules_of_file(path: &Path) -> Result<Rules, Vec<String>> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| vec![format!("{name}: {error}")])?;
    let rules = Rules::new(Some((&name, &text)), &[], &[]);
    rules.map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn tokens(loaded: &Loaded, errors: &mut Vec<String>) -> TokenKeys {
    let spec = &loaded.config.login.jwt;
    let mut keys = TokenKeys::default();
    let mut add = |path: &Path, read: &dyn Fn(&str) -> Result<TokenKeys, String>| {
        let more = read(&path.display().to_string());
        if let Some(more) = keep(more, errors) {
            keys.add(more);
        }
    };
    for path in &spec.secret_files {
        add(path, &|name| {
            let bytes = std::fs::read(path)
                .map_err(|error| unread(loaded, "login.jwt.secret-file", path, &error))?;
            TokenKeys::from_secret(name, &bytes).map_err(|error| error.to_string())
        });
    }
    for path in &spec.key_files {
        add(path, &|name| {
            let text = text(loaded, "login.jwt.key-file", path)?;
            TokenKeys::from_pem(name, &text).map_err(|error| error.to_string())
        });
    }
    for path in &spec.jwks_files {
        add(path, &|name| {
            let text = text(loaded, "login.jwt.jwks-file", path)?;
            TokenKeys::from_jwks(name, &text).map_err(|error| error.to_string())
        });
    }
    keys
}

fn service(loaded: &Loaded) -> Option<Result<Service, String>> {
    let spec = &loaded.config.login.http;
    let url = spec.url.clone()?;
    let authorization = spec.authorization_file.as_deref();
    let authorization =
        authorization.map(|path| text(loaded, "login.http.authorization-file", path));
    let authorization = authorization.transpose();
    Some(authorization.and_then(|authorization| {
        Service::new(ServiceSpec {
            url,
            timeout: Duration::from_millis(spec.timeout_ms.into()),
            cache: Duration::from_secs(spec.cache_s.into()),
            ca_file: spec.ca_file.clone(),
            authorization: authorization.map(|text| text.trim().to_owned()),
        })
        .map_err(|error| loaded.wrong_file("login.http.ca-file", error))
    }))
}

/// Reads the file that the key `key` names.
fn text(loaded: &Loaded, key: &str, path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| unread(loaded, key, path, &error))
}

fn unread(loaded: &Loaded, key: &str, path: &Path, error: &io::Error) -> String {
    loaded.wrong_file(key, format_args!("{}: {error}", path.display()))
}

fn keep<T>(read: Result<T, String>, errors: &mut Vec<String>) -> Option<T> {
    read.map_err(|error| errors.push(error)).ok()
}
