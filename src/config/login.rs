//! `[login]` and `[acl]`: with what clients are judged, and what they may do.

use super::key::{Change, Key, Kind};
use super::value::Unit;
use crate::access::Rules;
use crate::access::rules::{Group, ListedRule, Place, Subject};
use std::path::{Path, PathBuf};

/// With what clients are judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginSpec {
    /// Users and their hashed passwords.
    pub password_file: Option<PathBuf>,
    /// Threads that compute; 0 is one for each two CPUs.
    pub threads: u32,
    /// Clients that may wait to be judged.
    pub waiting_max: u32,
    /// Tokens.
    pub jwt: JwtSpec,
    /// The service that is asked.
    pub http: HttpSpec,
}

/// Whose tokens are taken, and what they must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSpec {
    /// Secrets that signer and broker share.
    pub secret_files: Vec<PathBuf>,
    /// Public keys in PEM.
    pub key_files: Vec<PathBuf>,
    /// JSON Web Key Sets.
    pub jwks_files: Vec<PathBuf>,
    /// What is demanded of a token beside its signature.
    pub rules: TokenRules,
}

/// What is demanded of a token beside its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRules {
    /// The claim whose value is the User Name.
    pub username_claim: String,
    /// The claim with rules of what the client may do.
    pub acl_claim: String,
    /// The claim with the client's groups.
    pub groups_claim: String,
    /// `aud` must name this, if given.
    pub audience: Option<String>,
    /// `iss` must be this, if given.
    pub issuer: Option<String>,
    /// Whether a token without `exp` is refused.
    pub needs_expiry: bool,
    /// How far clocks may be apart, in seconds.
    pub leeway_s: u32,
}

impl Default for TokenRules {
    fn default() -> Self {
        Self {
            username_claim: "sub".into(),
            acl_claim: "acl".into(),
            groups_claim: "groups".into(),
            audience: None,
            issuer: None,
            needs_expiry: true,
            leeway_s: 10,
        }
    }
}

/// The service, and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSpec {
    /// `http://` or `https://`.
    pub url: Option<String>,
    /// Time for an answer, in milliseconds.
    pub timeout_ms: u32,
    /// How long an `allow` is remembered, in seconds.
    pub cache_s: u32,
    /// Questions at a time.
    pub connections: u32,
    /// Authorities of its certificate.
    pub ca_file: Option<PathBuf>,
    /// A file with the value of the header `Authorization`.
    pub authorization_file: Option<PathBuf>,
}

/// Who may publish and read what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AclSpec {
    /// Rules in mosquitto's grammar.
    pub file: Option<PathBuf>,
    /// Rules on trial, in the same grammar.
    pub shadow_file: Option<PathBuf>,
    /// `[user NAME:|group NAME:|anonymous:] [read|write|readwrite|deny] TOPIC`.
    pub rules: Vec<String>,
    /// `NAME: USER, USER`.
    pub groups: Vec<String>,
}

impl Default for LoginSpec {
    fn default() -> Self {
        Self {
            password_file: None,
            threads: 0,
            waiting_max: 4_096,
            jwt: JwtSpec {
                secret_files: Vec::new(),
                key_files: Vec::new(),
                jwks_files: Vec::new(),
                rules: TokenRules::default(),
            },
            http: HttpSpec {
                url: None,
                timeout_ms: 5_000,
                cache_s: 60,
                connections: 4,
                ca_file: None,
                authorization_file: None,
            },
        }
    }
}

impl JwtSpec {
    /// Whether there is a file with keys.
    pub fn has_keys(&self) -> bool {
        let files = [&self.secret_files, &self.key_files, &self.jwks_files];
        files.iter().any(|files| !files.is_empty())
    }
}

impl AclSpec {
    /// Whether there are any rules, so that what none of them permits is denied.
    pub fn is_given(&self) -> bool {
        self.file.is_some() || !self.rules.is_empty()
    }

    /// The rules of the configuration; `place` says where they stand.
    pub fn listed(&self, place: &str) -> Vec<ListedRule> {
        let with_numbers = self.rules.iter().zip(1..);
        let rules = with_numbers.map(|(text, number): (_, u32)| {
            let (subject, text) = subject(text);
            ListedRule {
                subject,
                text: text.into(),
                place: Place {
                    source: format!("{place} rule {number}").into(),
                    line: 0,
                },
            }
        });
        rules.collect()
    }

    /// The groups of the configuration.
    pub fn group_list(&self) -> Vec<Group> {
        self.groups.iter().filter_map(|text| group(text)).collect()
    }
}

/// Whom a rule concerns, and the rest of it.
fn subject(text: &str) -> (Subject, &str) {
    let text = text.trim();
    let named = |rest: &'_ str| {
        let (name, rule) = rest.split_once(": ")?;
        Some((Box::<str>::from(name.trim()), rule.len()))
    };
    let tail = |bytes: usize| &text[text.len() - bytes..];
    if let Some(rule) = text.strip_prefix("anonymous: ") {
        return (Subject::Anonymous, rule);
    }
    if let Some((name, bytes)) = text.strip_prefix("user ").and_then(named) {
        return (Subject::User(name), tail(bytes));
    }
    if let Some((name, bytes)) = text.strip_prefix("group ").and_then(named) {
        return (Subject::Group(name), tail(bytes));
    }
    (Subject::Everyone, text)
}

fn group(text: &str) -> Option<Group> {
    let (name, users) = text.split_once(':')?;
    let users = users
        .split(',')
        .map(str::trim)
        .filter(|user| !user.is_empty());
    let name = name.trim();
    (!name.is_empty()).then(|| Group {
        name: name.into(),
        users: users.map(Into::into).collect(),
    })
}

fn all_shown(paths: &[PathBuf]) -> Vec<&Path> {
    paths.iter().map(PathBuf::as_path).collect()
}

macro_rules! file_key {
    ($name:literal, $doc:literal, $($field:ident).+) => {
        Key {
            name: $name,
            doc: $doc,
            change: Change::Live,
            kind: Kind::File {
                get: |spec| spec.$($field).+.as_deref(),
                set: |spec, path| spec.$($field).+ = Some(path),
            },
        }
    };
}

macro_rules! files_key {
    ($name:literal, $doc:literal, $($field:ident).+) => {
        Key {
            name: $name,
            doc: $doc,
            change: Change::Live,
            kind: Kind::Files {
                get: |spec| all_shown(&spec.$($field).+),
                set: |spec, paths| spec.$($field).+ = paths,
            },
        }
    };
}

macro_rules! number_key {
    ($name:literal, $change:ident, $unit:ident, $range:expr, $words:expr, $doc:literal, $($field:ident).+) => {
        Key {
            name: $name,
            doc: $doc,
            change: Change::$change,
            kind: Kind::Number {
                unit: Unit::$unit,
                range: $range,
                words: $words,
                get: |spec| spec.$($field).+.into(),
                set: |spec, number| {
                    spec.$($field).+ = u32::try_from(number).expect("the range fits the field");
                },
            },
        }
    };
}

macro_rules! text_key {
    ($name:literal, $doc:literal, $wanted:literal, $get:expr, $set:expr) => {
        Key {
            name: $name,
            doc: $doc,
            change: Change::Live,
            kind: Kind::Text {
                wanted: $wanted,
                get: $get,
                set: $set,
            },
        }
    };
}

/// Every key of `[login]`.
pub(super) static LOGIN_KEYS: &[Key<LoginSpec>] = &[
    file_key!(
        "password-file",
        "Users and their hashed passwords, NAME:HASH (ringmq passwd makes it, mosquitto's is read); for auth = \"password\".",
        password_file
    ),
    number_key!(
        "threads",
        Restart,
        Count,
        1..=64,
        &[("auto", 0)],
        "Threads that check passwords and tokens, with low priority; \"auto\" is one for each two CPUs, two at most.",
        threads
    ),
    number_key!(
        "waiting-max",
        Restart,
        Count,
        1..=1 << 20,
        &[],
        "Clients that may wait to be checked; others are told that the server is busy.",
        waiting_max
    ),
    files_key!(
        "jwt.secret-file",
        "Secrets of HS256, HS384 and HS512 tokens; for auth = \"jwt\".",
        jwt.secret_files
    ),
    files_key!(
        "jwt.key-file",
        "Public keys (PEM) of tokens: RSA, P-256, P-384, Ed25519.",
        jwt.key_files
    ),
    files_key!(
        "jwt.jwks-file",
        "JSON Web Key Sets with keys of tokens.",
        jwt.jwks_files
    ),
    text_key!(
        "jwt.username-claim",
        "The claim that is the User Name.",
        "the name of a claim",
        |spec| Some(spec.jwt.rules.username_claim.clone()),
        |spec, text| {
            spec.jwt.rules.username_claim = text.into();
            Ok(())
        }
    ),
    text_key!(
        "jwt.acl-claim",
        "The claim with rules of what the client may do.",
        "the name of a claim",
        |spec| Some(spec.jwt.rules.acl_claim.clone()),
        |spec, text| {
            spec.jwt.rules.acl_claim = text.into();
            Ok(())
        }
    ),
    text_key!(
        "jwt.groups-claim",
        "The claim with the client's groups.",
        "the name of a claim",
        |spec| Some(spec.jwt.rules.groups_claim.clone()),
        |spec, text| {
            spec.jwt.rules.groups_claim = text.into();
            Ok(())
        }
    ),
    text_key!(
        "jwt.audience",
        "What `aud` must name; not looked at when it is not given.",
        "a text",
        |spec| spec.jwt.rules.audience.clone(),
        |spec, text| {
            spec.jwt.rules.audience = Some(text.into());
            Ok(())
        }
    ),
    text_key!(
        "jwt.issuer",
        "What `iss` must be; not looked at when it is not given.",
        "a text",
        |spec| spec.jwt.rules.issuer.clone(),
        |spec, text| {
            spec.jwt.rules.issuer = Some(text.into());
            Ok(())
        }
    ),
    Key {
        name: "jwt.needs-expiry",
        doc: "Whether a token without `exp` is refused.",
        change: Change::Live,
        kind: Kind::Bool {
            get: |spec| spec.jwt.rules.needs_expiry,
            set: |spec, needs_expiry| spec.jwt.rules.needs_expiry = needs_expiry,
        },
    },
    number_key!(
        "jwt.leeway",
        Live,
        Seconds,
        0..=3_600,
        &[],
        "How far the clocks of signer and broker may be apart.",
        jwt.rules.leeway_s
    ),
    text_key!(
        "http.url",
        "The service that is asked (POST, JSON); for auth = \"http\".",
        "an URL with http:// or https://",
        |spec| spec.http.url.clone(),
        |spec, text| {
            if !text.starts_with("http://") && !text.starts_with("https://") {
                return Err(String::new());
            }
            spec.http.url = Some(text.into());
            Ok(())
        }
    ),
    number_key!(
        "http.timeout",
        Live,
        Milliseconds,
        1..=60_000,
        &[],
        "Time for an answer.",
        http.timeout_ms
    ),
    number_key!(
        "http.cache",
        Live,
        Seconds,
        0..=86_400,
        &[],
        "How long an \"allow\" is remembered; 0 is not at all.",
        http.cache_s
    ),
    number_key!(
        "http.connections",
        Restart,
        Count,
        1..=64,
        &[],
        "Questions at a time.",
        http.connections
    ),
    file_key!(
        "http.ca-file",
        "Authorities of the service's certificate (PEM); those of the system when it is not given.",
        http.ca_file
    ),
    file_key!(
        "http.authorization-file",
        "A file with the value of the header Authorization, such as \"Bearer ...\".",
        http.authorization_file
    ),
];

/// Every key of `[acl]`.
pub(super) static ACL_KEYS: &[Key<AclSpec>] = &[
    file_key!(
        "file",
        "Who may publish and read what, in mosquitto's grammar. With any rule, here or in `rules`, what none permits is denied.",
        file
    ),
    file_key!(
        "shadow-file",
        "Rules on trial, in the same grammar: what they would deny is logged, and permitted.",
        shadow_file
    ),
    Key {
        name: "rules",
        doc: "More rules: \"read news/#\" is for all, \"user al: write home/%c/#\", \"group crew: deny deck/bridge\", \"anonymous: read public/#\".",
        change: Change::Live,
        kind: Kind::List {
            wanted: "rules such as \"user al: write home/#\"",
            get: |spec| spec.rules.clone(),
            set: |spec, items| {
                let rules = items.to_vec();
                let next = AclSpec {
                    rules,
                    ..AclSpec::default()
                };
                let checked = Rules::new(None, &next.listed(""), &[]);
                if let Err(errors) = checked {
                    let errors = errors
                        .iter()
                        .map(|error| format!("{}: {}", error.place.source.trim(), error.message));
                    return Err(errors.collect::<Vec<_>>().join("; "));
                }
                spec.rules = next.rules;
                Ok(())
            },
        },
    },
    Key {
        name: "groups",
        doc: "Users of groups, such as \"crew: al, bo\".",
        change: Change::Live,
        kind: Kind::List {
            wanted: "groups such as \"crew: al, bo\"",
            get: |spec| spec.groups.clone(),
            set: |spec, items| {
                if let Some(item) = items.iter().find(|item| group(item).is_none()) {
                    return Err(format!("`{item}` is no group such as \"crew: al, bo\""));
                }
                spec.groups = items.to_vec();
                Ok(())
            },
        },
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_whom_they_concern() {
        for (text, whom, rule) in [
            ("read a/#", Subject::Everyone, "read a/#"),
            (
                " user al b: write a",
                Subject::User("al b".into()),
                "write a",
            ),
            (
                "group crew: deny a: b",
                Subject::Group("crew".into()),
                "deny a: b",
            ),
            ("anonymous: read a", Subject::Anonymous, "read a"),
        ] {
            assert_eq!(subject(text), (whom, rule));
        }
        let spec = AclSpec {
            rules: vec!["read a".into(), "user al: deny b".into()],
            groups: vec!["crew: al, bo,".into()],
            ..AclSpec::default()
        };
        let rules = spec.listed("ringmq.toml:3:1");
        assert_eq!(rules[1].place.to_string(), "ringmq.toml:3:1 rule 2");
        let groups = spec.group_list();
        assert_eq!(groups[0].users, ["al".into(), "bo".into()]);
    }
}
