//! The file of users and their hashed passwords, and the two messages of SCRAM against what is in it.
//!
//! Input: the file, and after bytes 0x01 the client's first and last message. What is no UTF-8 is replaced.
//!
//! What must hold: the file is read whole or every error names a line; a user who is not there is not told from one who is; and
//! without the password nothing proves anything.

use ringmq::auth::scram::{begin, finish};
use ringmq::auth::users::Users;

const KNOWN: &str = "user:SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=\n";

/// Runs one input.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\u{1}');
    let file = parts.next().expect("there is at least one part");
    let first = parts.next().unwrap_or_default();
    let last = parts.next().unwrap_or_default();
    match Users::parse("users", file, &[7; 32]) {
        Ok(users) => {
            assert!(users.count() <= file.lines().count());
            assert_eq!(users.fingerprints().count(), users.count());
            for line in file.lines() {
                let name = line.split(':').next().unwrap_or_default();
                if let Some(found) = users.find(name) {
                    assert_eq!(found.is_known, users.fingerprint(name).is_some());
                }
                assert!(users.scram(name).is_none() || users.fingerprint(name).is_some());
            }
            talk(&users, first, last);
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            let lines = file.lines().count() as u32;
            assert!(
                errors
                    .iter()
                    .all(|error| error.line <= lines && !error.message.is_empty())
            );
        }
    }
    let users = Users::parse("users", KNOWN, &[7; 32]).expect("valid");
    talk(&users, first, last);
}

fn talk(users: &Users, first: &str, last: &str) {
    let Ok(said) = begin(users, first.as_bytes(), "nonce") else {
        return;
    };
    assert!(said.reply.starts_with("r=") && said.reply.contains("nonce,s="));
    // A message that fits but for its proof is the fuzzer's only way here.
    let nonce = said.reply.split(',').next().expect("there is one");
    for message in [last.to_owned(), format!("c=biws,{nonce},p={last}")] {
        assert!(finish(users, &said.state, message.as_bytes()).is_err());
    }
}
