//! html
use super::files::Recorded;
/// x
pub fn page(_: &[Recorded]) -> String { String::new() }
