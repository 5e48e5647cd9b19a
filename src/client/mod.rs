//! `ringmq pub` and `ringmq sub`: small MQTT clients with the flags of `mosquitto_pub` and `mosquitto_sub`.
//!
//! They use blocking sockets of the standard library and the project's own codec, and no runtime.

mod connection;
mod format;
mod options;
mod property;
mod publish;
mod stream;
mod subscribe;
pub mod target;
pub mod url;

pub use options::{PubArgs, SubArgs};

use std::fmt;
use std::process::ExitCode;

/// What was asked for could not be done.
const EXIT_FAILED: u8 = 1;
/// The command line does not make sense.
const EXIT_USAGE: u8 = 2;
/// The broker does not let this client in, or not do this.
const EXIT_NOT_AUTHORIZED: u8 = 4;
/// The broker could not be reached, or did not answer in time.
const EXIT_UNREACHABLE: u8 = 5;
/// The time given with `-W` is over; the number is mosquitto's.
const EXIT_TIMEOUT: u8 = 27;

/// Why a client ends without having done its work.
#[derive(Debug)]
struct Failure {
    exit: u8,
    /// For stderr; empty when there is nothing to say.
    message: String,
}

impl Failure {
    fn new(exit: u8, message: impl fmt::Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
        }
    }
}

/// Publishes what `args` say.
///
/// Returns: 0 when every message was taken by the broker (acknowledged, for QoS 1 and 2); 1 when it failed, 2 for
/// a command line that makes no sense, 4 when not authorized, 5 when the broker cannot be reached.
pub fn run_pub(args: PubArgs) -> ExitCode {
    finish("pub", options::PubPlan::new(args).and_then(publish::run))
}

/// Subscribes as `args` say and prints what comes.
///
/// Returns: as [`run_pub`]; 27 when the time given with `-W` is over.
pub fn run_sub(args: SubArgs) -> ExitCode {
    finish("sub", options::SubPlan::new(args).and_then(subscribe::run))
}

fn finish(verb: &str, result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("ringmq {verb}: {}", failure.message);
            }
            ExitCode::from(failure.exit)
        }
    }
}
