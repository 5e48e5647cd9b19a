//! Clients of one thread that are played until something holds.

use crate::clock::Clock;
use crate::links::{Handler, Links, Reactor};
use std::time::Duration;

/// The longest wait between two looks at what there is.
const WAIT_NS: u64 = 100_000_000;

/// Clients that have something to do of their own.
pub trait Player: Handler {
    /// How much has happened so far; the same number again means that nothing has.
    fn events(&self) -> u64;

    /// Does what can be done by now.
    fn work(&mut self, links: &mut Links);

    /// When there is more to do even if nothing happens, in ns of the clock.
    fn due_ns(&self) -> u64 {
        u64::MAX
    }

    /// Without any event for this long, in ns, all has come that will come.
    fn quiet_ns(&self) -> u64 {
        5_000_000_000
    }
}

/// Works until something holds, or nothing happens any more; returns whether it holds.
///
/// Errors: the ring's or the player's.
pub fn play_until<P: Player>(
    reactor: &mut Reactor,
    links: &mut Links,
    player: &mut P,
    clock: Clock,
    done: impl Fn(&P) -> bool,
) -> Result<bool, String> {
    let mut events = player.events();
    let mut moved_ns = clock.now_ns();
    loop {
        reactor.receive(links, player)?;
        if done(player) {
            // Acknowledgements of what was just received go out before the next step is timed.
            reactor.flush(links, player)?;
            return Ok(true);
        }
        player.work(links);
        reactor.flush(links, player)?;
        if reactor.has_work()? {
            continue;
        }
        let now_ns = clock.now_ns();
        if player.events() != events {
            events = player.events();
            moved_ns = now_ns;
        } else if now_ns > moved_ns + player.quiet_ns() {
            return Ok(false);
        }
        let wait_ns = player.due_ns().saturating_sub(now_ns).min(WAIT_NS);
        reactor.wait(Duration::from_nanos(wait_ns))?;
    }
}
