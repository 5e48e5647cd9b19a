//! charts
use super::files::Recorded;
/// x
pub fn plots(_: &[Recorded]) -> Vec<(String,String)> { Vec::new() }
