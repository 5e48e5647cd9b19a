//! The process around the shards.
#![allow(dead_code)]
mod cpus;
mod data_dir;
mod probe;
mod signals;
/// tmp
pub fn run(_l: &crate::config::Loaded) -> std::process::ExitCode {
    println!("{:?}", probe::check(cpus::available()));
    std::process::ExitCode::SUCCESS
}
