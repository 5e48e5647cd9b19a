//! Facts about the source that neither the compiler nor clippy checks.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms without I/O, clock, threads and randomness of their own.
const PURE_ROOMS: &[&str] = &[
    "src/protocol",
    "src/topic",
    "src/access",
    "src/session",
    "src/shard",
];

/// What a pure room may not name.
const IMPURE: &[&str] = &[
    "glommio",
    "io_uring",
    "socket2",
    "libc",
    "std::net",
    "std::fs",
    "std::io",
    "std::os",
    "std::env",
    "std::process",
    "std::thread",
    "thread_local!",
    "Instant",
    "SystemTime",
    "RandomState",
    "DefaultHasher",
    "async fn",
    ".await",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "unsafe",
    "crate::net",
    "crate::mesh",
    "crate::store",
    "crate::auth",
    "crate::admin",
    "crate::bridge",
    "crate::cluster",
    "crate::server",
    "crate::client",
];

/// Rooms in the order in which one may use the next: none names one that stands to its right.
const LAYERS: &[&str] = &["protocol", "topic", "access", "session", "shard"];

/// The words of a core's surface, which the rooms below it share.
const SHARED_WORDS: &[&str] = &["crate::shard::input", "crate::shard::message"];

/// The only files with `unsafe`, and why.
const UNSAFE_FILES: &[(&str, &str)] = &[
    (
        "src/net/ring.rs",
        "the kernel reads and writes buffers that the ring hands it",
    ),
    (
        "src/auth/pool.rs",
        "setpriority has no safe form in the standard library",
    ),
    ("src/mesh/spsc.rs", "the ring between two cores"),
    ("src/heap.rs", "an allocator is unsafe to be called"),
    (
        "src/server/probe.rs",
        "getrlimit and setrlimit have no safe form in the standard library",
    ),
    (
        "loadgen/src/sys.rs",
        "a socket option that no library offers",
    ),
    (
        "fuzz/src/memory.rs",
        "an allocator that counts, to say how much memory there may be",
    ),
    (
        "tests/common/broker.rs",
        "the kernel ends a broker whose test has died",
    ),
    (
        "tests/cli.rs",
        "a child takes rights from itself before it becomes the broker",
    ),
];

/// Lines of a file, its unit tests apart. Where one is longer, it is two files.
const FILE_LINES_MAX: usize = 900;
/// Files that are longer, and why they are still one.
const LONG_FILES: &[(&str, &str)] = &[];
/// Lines of a file of tests.
const TEST_FILE_LINES_MAX: usize = 1_100;

#[test]
fn pure_rooms_name_nothing_impure() {
    let mut found = Vec::new();
    for room in PURE_ROOMS {
        let files = files_under(room, "rs");
        assert!(!files.is_empty(), "{room} is gone");
        for file in files {
            for (number, line) in code_lines(&file) {
                found.extend(
                    IMPURE
                        .iter()
                        .filter(|word| names(&line, word))
                        .map(|word| format!("{}:{number}: {word}", show(&file))),
                );
            }
        }
    }
    assert!(
        found.is_empty(),
        "a pure room names what only a shell may:\n{}",
        found.join("\n")
    );
}

#[test]
fn layers_know_only_those_below() {
    let mut found = Vec::new();
    for (level, layer) in LAYERS.iter().enumerate() {
        for file in files_under(&format!("src/{layer}"), "rs") {
            for (number, line) in code_lines(&file) {
                found.extend(
                    LAYERS[level + 1..]
                        .iter()
                        .filter(|above| names(&line, &format!("crate::{above}")))
                        .filter(|_| !SHARED_WORDS.iter().any(|word| names(&line, word)))
                        .map(|above| format!("{}:{number}: {above}", show(&file))),
                );
            }
        }
    }
    assert!(
        found.is_empty(),
        "a room names one above it:\n{}",
        found.join("\n")
    );
}

#[test]
fn unsafe_is_where_it_is_expected() {
    for file in rust_files() {
        let path = show(&file);
        if path == "tests/tidy.rs" {
            continue;
        }
        let lines = code_lines(&file);
        // A page's Content Security Policy has a word for styles that is not Rust's.
        let found = lines
            .iter()
            .find(|(_, line)| names(&line.replace("unsafe-inline", ""), "unsafe"));
        let expected = UNSAFE_FILES.iter().any(|(name, _)| *name == path);
        match found {
            Some((number, _)) => assert!(
                expected,
                "{path}:{number}: `unsafe` belongs in one of {UNSAFE_FILES:?}"
            ),
            None => assert!(
                !expected,
                "{path} has no `unsafe` any more: take it off the list"
            ),
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    for file in rust_files() {
        if show(&file) == "tests/tidy.rs" {
            continue;
        }
        let text = read(&file);
        for word in ["todo!", "unimplemented!", "FIXME", "XXX", "TODO", "dbg!"] {
            assert!(!text.contains(word), "{}: {word}", show(&file));
        }
    }
}

#[test]
fn no_file_is_too_long() {
    let mut found = Vec::new();
    for file in rust_files() {
        let text = read(&file);
        let path = show(&file);
        let is_test = path.starts_with("tests/") || path.ends_with("tests.rs");
        let length = text
            .lines()
            .take_while(|line| !line.starts_with("#[cfg(test)]"))
            .count();
        let most = if is_test {
            TEST_FILE_LINES_MAX
        } else {
            FILE_LINES_MAX
        };
        let is_listed = LONG_FILES.iter().any(|(name, _)| *name == path);
        if is_listed && length <= most {
            found.push(format!(
                "{path} is no longer too long: take it off the list"
            ));
        } else if !is_listed && length > most {
            found.push(format!("{path} has {length} lines of at most {most}"));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    for file in rust_files() {
        let text = read(&file);
        assert!(
            text.starts_with("//! "),
            "{} does not begin with its documentation",
            show(&file)
        );
    }
}

/// Nobody else has these; whoever builds gets packages by name, from wherever their tools are set up to look.
#[test]
fn nothing_names_a_developers_machine_or_a_registry() {
    // Put together here, so that this file does not contain them.
    let words = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["/ho", "me/"],
        ["crates", ".io"],
        ["pypi", ".org"],
        ["files.python", "hosted"],
        ["npm", "js.org"],
        ["npm", "js.com"],
        ["deb.", "debian.org"],
    ]
    .map(|parts| parts.concat());
    for file in tracked_text_files() {
        let text = read(&file);
        for word in &words {
            // Cargo writes where a package came from into its lock file.
            let is_lock = show(&file).ends_with("Cargo.lock");
            assert!(
                is_lock || !text.contains(word.as_str()),
                "{} names {word}",
                show(&file)
            );
        }
    }
}

#[test]
fn readme_and_ci_lead_to_the_tests() {
    let readme = read(&root().join("README.md"));
    for needed in [
        "cargo run --release",
        "scripts/test",
        "ringmq pub",
        "ringmq sub",
        "ringmq config default",
    ] {
        assert!(
            readme.contains(needed),
            "README.md does not tell of `{needed}`"
        );
    }
    // Links to files of the repository lead somewhere.
    for (at, _) in readme.match_indices("](") {
        let target: String = readme[at + 2..]
            .chars()
            .take_while(|c| *c != ')' && *c != '#')
            .collect();
        let is_file = !target.is_empty() && !target.contains("://");
        assert!(
            !is_file || root().join(&target).exists(),
            "README.md links to {target}, which is not there"
        );
    }
    let ci = read(&root().join(".ci/run"));
    for needed in [
        "scripts/test",
        "cargo fmt",
        "cargo clippy",
        "cargo doc",
        "cargo deny",
    ] {
        assert!(ci.contains(needed), ".ci/run does not run `{needed}`");
    }
}

/// Whether `line` has `word`, not as a part of a longer one.
fn names(line: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let starts = !word.starts_with(is_word) || !before.is_some_and(is_word);
        let ends = !word.ends_with(is_word) || !after.is_some_and(is_word);
        starts && ends
    })
}

/// The numbered lines of a file without their comments.
fn code_lines(file: &Path) -> Vec<(usize, String)> {
    let text = read(file);
    let lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, without_comment(line)));
    lines.filter(|(_, line)| !line.trim().is_empty()).collect()
}

fn without_comment(line: &str) -> String {
    // `//` within a text, as in a URL, follows a colon.
    let comment = line
        .match_indices("//")
        .find(|(at, _)| !line[..*at].ends_with(':'));
    comment.map_or(line, |(at, _)| &line[..at]).to_owned()
}

fn rust_files() -> Vec<PathBuf> {
    ["src", "loadgen", "tests", "benches", "fuzz"]
        .iter()
        .flat_map(|dir| files_under(dir, "rs"))
        .collect()
}

/// Everything a reader of the repository sees: all files but those of version control and of builds.
fn tracked_text_files() -> Vec<PathBuf> {
    files_under("", "")
        .into_iter()
        .filter(|file| fs::read_to_string(file).is_ok())
        .collect()
}

fn files_under(dir: &str, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("the directory can be read").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" && name != "node_modules" {
                    dirs.push(path);
                }
            } else if name != ".git"
                && (extension.is_empty() || path.extension().is_some_and(|have| have == extension))
            {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn show(file: &Path) -> String {
    file.strip_prefix(root())
        .expect("the file is ours")
        .display()
        .to_string()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", show(file)))
}

#[test]
fn the_helpers_see_what_they_should() {
    assert!(names("use std::fs;", "std::fs"));
    assert!(!names("use std::fsx;", "std::fs"));
    assert!(!names("let unsafe_count = 1;", "unsafe"));
    assert_eq!(without_comment("let a = 1; // unsafe"), "let a = 1; ");
    assert_eq!(without_comment("\"mqtt://host\""), "\"mqtt://host\"");
}
