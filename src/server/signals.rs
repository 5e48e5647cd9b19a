//! SIGTERM and SIGINT: the first asks for a graceful stop, a second one ends the process at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::thread;

/// Calls `graceful` on the first signal and ends the process on the second, with the status a shell gives
/// to a process that died of the signal.
pub(super) fn listen(graceful: impl FnOnce(&'static str) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut graceful = Some(graceful);
            for signal in signals.forever() {
                match graceful.take() {
                    Some(graceful) => graceful(if signal == SIGINT {
                        "SIGINT"
                    } else {
                        "SIGTERM"
                    }),
                    None => std::process::exit(128 + signal),
                }
            }
        })?;
    Ok(())
}
