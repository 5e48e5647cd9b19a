//! SIGTERM and SIGINT: the first asks for a graceful stop, a second one ends the process at once. SIGHUP has the
//! configuration read again.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::thread;

/// Calls `reload` on each SIGHUP. Calls `graceful` on the first other signal and ends the process on the second, with the
/// status a shell gives to a process that died of the signal.
pub(super) fn listen(
    graceful: impl FnOnce(&'static str) + Send + 'static,
    mut reload: impl FnMut() + Send + 'static,
) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut graceful = Some(graceful);
            for signal in signals.forever() {
                if signal == SIGHUP {
                    reload();
                    continue;
                }
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
