//! `ringmq passwd`: makes password files, with mosquitto_passwd's flags.

use super::hash::{HashKind, PasswordHash};
use super::users::parse_line;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// The arguments of `ringmq passwd`.
#[derive(Args, Clone, Debug)]
pub struct PasswdArgs {
    /// Make a new file; one that exists is overwritten
    #[arg(short = 'c', conflicts_with_all = ["delete", "upgrade"])]
    create: bool,
    /// The password stands on the command line, where others can see it
    #[arg(short = 'b', requires = "password", conflicts_with_all = ["delete", "upgrade", "stdin"])]
    batch: bool,
    /// Delete the user
    #[arg(short = 'D', requires = "user", conflicts_with = "upgrade")]
    delete: bool,
    /// Hash all passwords of a file in which they are plain text
    #[arg(short = 'U', conflicts_with = "user")]
    upgrade: bool,
    /// How passwords are hashed
    #[arg(short = 'H', value_name = "HASH", default_value = "argon2id")]
    hash: HashWord,
    /// Read the password from the standard input, up to the end of its first line
    #[arg(long, conflicts_with_all = ["delete", "upgrade"])]
    stdin: bool,
    /// The file; - prints the line instead
    file: PathBuf,
    /// The user's name
    #[arg(required_unless_present = "upgrade")]
    user: Option<String>,
    /// The password, with -b
    #[arg(requires = "batch")]
    password: Option<String>,
}

/// A kind of hash, by its word.
#[derive(Clone, Copy, Debug)]
struct HashWord(HashKind);

impl ValueEnum for HashWord {
    fn value_variants<'a>() -> &'a [Self] {
        const WORDS: [HashWord; HashKind::ALL.len()] = {
            let mut words = [HashWord(HashKind::Argon2id); HashKind::ALL.len()];
            let mut at = 0;
            while at < words.len() {
                words[at] = HashWord(HashKind::ALL[at].1);
                at += 1;
            }
            words
        };
        &WORDS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (word, _) = HashKind::ALL.iter().find(|(_, kind)| *kind == self.0)?;
        Some(PossibleValue::new(*word))
    }
}

/// Does what the arguments say and tells of what fails.
pub fn run(args: &PasswdArgs) -> ExitCode {
    match args.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("ringmq passwd: {message}");
            ExitCode::FAILURE
        }
    }
}

impl PasswdArgs {
    fn run(&self) -> Result<(), String> {
        if self.upgrade {
            let text = read(&self.file)?;
            let hashed = upgraded(&self.file, &text, self.hash.0)?;
            return write(&self.file, &hashed);
        }
        let user = self.user.as_deref().unwrap_or_default();
        check_name(user)?;
        let to_stdout = self.file.as_os_str() == "-";
        if self.delete {
            let text = read(&self.file)?;
            let without =
                without(&text, user).ok_or_else(|| format!("there is no user `{user}`"))?;
            return write(&self.file, &without);
        }
        // Before the password is asked for.
        let text = if self.create || to_stdout {
            String::new()
        } else {
            read(&self.file)?
        };
        let password = self.password(user)?;
        let hash = PasswordHash::new(self.hash.0, password.as_bytes(), salt()?);
        let line = format!("{user}:{hash}\n");
        if to_stdout {
            let written = io::stdout().write_all(line.as_bytes());
            return written.map_err(|error| error.to_string());
        }
        write(&self.file, &with(&text, user, &line))
    }

    fn password(&self, user: &str) -> Result<String, String> {
        if let Some(password) = self.password.as_ref().filter(|_| self.batch) {
            return Ok(password.clone());
        }
        if self.stdin || !io::stdin().is_terminal() {
            let mut text = String::new();
            let read = io::stdin().take(64 << 10).read_to_string(&mut text);
            read.map_err(|error| format!("the password cannot be read: {error}"))?;
            let line = text.lines().next();
            return line
                .map(Into::into)
                .ok_or_else(|| "there is no password".into());
        }
        let first = asked(&format!("Password for {user}: "))?;
        if asked("The same again: ")? == first {
            Ok(first)
        } else {
            Err("these are two different passwords".into())
        }
    }
}

/// Asks on the terminal, with what is typed not shown.
fn asked(prompt: &str) -> Result<String, String> {
    let echo = |word| {
        let mut stty = Command::new("stty");
        let status = stty.arg(word).stdin(Stdio::inherit()).status();
        status.is_ok_and(|status| status.success())
    };
    eprint!("{prompt}");
    if !echo("-echo") {
        return Err("the terminal would show the password; use --stdin".into());
    }
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    let is_shown_again = echo("echo");
    eprintln!();
    if !is_shown_again {
        eprintln!(
            "ringmq passwd: the terminal does not show what is typed; `stty echo` repairs it"
        );
    }
    read.map_err(|error| error.to_string())?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn check_name(user: &str) -> Result<(), String> {
    if user.is_empty() || user.starts_with('#') || user.trim_end() != user {
        return Err("the name is empty, begins with # or ends with a space".into());
    }
    if user.contains([':', '\n', '\r', '\0']) {
        return Err("the name has a colon or a line break".into());
    }
    if user.len() > 65_535 {
        return Err("the name is longer than MQTT allows".into());
    }
    Ok(())
}

/// The name in a line, if it has one.
fn name_of(line: &str) -> Option<&str> {
    let (name, _) = line.split_once(':').filter(|_| !line.starts_with('#'))?;
    Some(name)
}

/// The text with the user's line in its place, or at its end.
fn with(text: &str, user: &str, line: &str) -> String {
    let mut out = String::with_capacity(text.len() + line.len() + 1);
    let mut is_there = false;
    for old in text.split_inclusive('\n') {
        if name_of(old) != Some(user) {
            out.push_str(old);
        } else if !is_there {
            is_there = true;
            out.push_str(line);
        }
    }
    if !is_there {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        out.push_str(line);
    }
    out
}

/// The text without the user's lines; none if there was none.
fn without(text: &str, user: &str) -> Option<String> {
    let lines = || text.split_inclusive('\n');
    lines()
        .any(|line| name_of(line) == Some(user))
        .then(|| lines().filter(|line| name_of(line) != Some(user)).collect())
}

/// The text with every plain password hashed. Those that are stay as they are.
fn upgraded(path: &Path, text: &str, kind: HashKind) -> Result<String, String> {
    let mut out = String::with_capacity(2 * text.len());
    for (line, number) in text.lines().zip(1..) {
        let wrong = |what: &str| Err(format!("{}:{number}: {what}", path.display()));
        match line.split_once(':') {
            _ if line.is_empty() || line.starts_with('#') => out.push_str(line),
            None => return wrong("there is no colon between a name and a password"),
            Some(_) if parse_line(line).is_ok() => out.push_str(line),
            Some((name, password)) => {
                if name.is_empty() || password.starts_with('$') {
                    return wrong("this is neither NAME:PASSWORD nor a hash that is known");
                }
                let hash = PasswordHash::new(kind, password.as_bytes(), salt()?);
                out.push_str(&format!("{name}:{hash}"));
            }
        }
        out.push('\n');
    }
    Ok(out)
}

fn salt() -> Result<[u8; 16], String> {
    let mut salt = [0; 16];
    let filled = SystemRandom::new().fill(&mut salt);
    filled.map_err(|_| "the system gives no random bytes")?;
    Ok(salt)
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "; -c makes a new one",
            _ => "",
        };
        format!("cannot read {}: {error}{advice}", path.display())
    })
}

/// Replaces the file as a whole, so that a broker that reads it sees the old or the new one.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
    // A link stays one.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = target.with_file_name(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let file = options.open(&beside).map_err(failed)?;
    let written = fill(file, &target, text).and_then(|()| std::fs::rename(&beside, &target));
    written.map_err(|error| {
        // What is half made is of no use to anybody.
        let _ = std::fs::remove_file(&beside);
        failed(error)
    })
}

fn fill(mut file: File, target: &Path, text: &str) -> io::Result<()> {
    if let Ok(old) = std::fs::metadata(target) {
        // Who may not give it to its owner may still write it; the mode is kept in any case.
        let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
        file.set_permissions(Permissions::from_mode(old.mode() & 0o777))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_replaced_added_and_deleted_in_place() {
        let text = "# note\nal:1\nbo:2\nal:3";
        assert_eq!(with(text, "al", "al:x\n"), "# note\nal:x\nbo:2\n");
        assert_eq!(
            with(text, "cy", "cy:x\n"),
            "# note\nal:1\nbo:2\nal:3\ncy:x\n"
        );
        assert_eq!(without(text, "al").as_deref(), Some("# note\nbo:2\n"));
        assert_eq!(without(text, "# note"), None);
        assert_eq!(with("", "al", "al:x\n"), "al:x\n");
    }

    #[test]
    fn plain_passwords_are_hashed_and_hashes_left() {
        let path = Path::new("users");
        let hash = PasswordHash::new(HashKind::Sha512Pbkdf2, b"x", [1; 16]);
        let text = format!("# note: this\n\nal:se:cret\nbo:{hash}\n");
        let out = upgraded(path, &text, HashKind::Sha512Pbkdf2).expect("valid");
        let lines: Vec<_> = out.lines().collect();
        assert_eq!((lines[0], lines[1]), ("# note: this", ""));
        assert_eq!(lines[3], format!("bo:{hash}"));
        let (name, made) = parse_line(lines[2]).expect("valid").expect("a user");
        assert!(name == "al" && made.verify(b"se:cret"));
        for (text, says) in [
            ("x\n", "users:1: there is no colon"),
            ("\n:x\n", "users:2: this is neither"),
            ("a:$9$x\n", "users:1: this is neither"),
        ] {
            let error = upgraded(path, text, HashKind::Sha512Pbkdf2).expect_err(text);
            assert!(error.starts_with(says), "{error}");
        }
    }

    #[test]
    fn names_that_would_break_the_file_are_refused() {
        for name in ["", "#x", "a:b", "a\nb", "a "] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("al b@c").is_ok());
    }
}
