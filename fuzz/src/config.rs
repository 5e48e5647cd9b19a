//! A configuration file with an environment around it.
//!
//! Input: the file, and after each byte 0x01 a variable as `NAME=value`. What is no UTF-8 is replaced.
//!
//! What must hold: it is accepted, or there are errors with something to say; and what was accepted can be shown as a file, which is
//! accepted too and means the same.

use ringmq::config::Loaded;
use std::path::PathBuf;

/// Runs one input.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\u{1}');
    let file = parts.next().expect("there is at least one part");
    let env = parts.filter_map(|part| part.split_once('='));
    let env: Vec<_> = env
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let path = PathBuf::from("fuzz.toml");
    match Loaded::new(&[(path.clone(), file.to_owned())], env, []) {
        Ok(loaded) => {
            let shown = loaded.show();
            match Loaded::new(&[(path, shown.clone())], [], []) {
                Ok(again) => assert_eq!(again.config, loaded.config, "{shown}"),
                Err(errors) => panic!("{errors:?} in\n{shown}"),
            }
            drop(loaded.banner_limits());
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            assert!(errors.iter().all(|error| !error.message.is_empty()));
        }
    }
}
