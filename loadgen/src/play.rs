//! Clients of one thread that are played until something holds.

use crate::clock::Clock;
use crate::links::{Handler, Links, Reactor};
use std::time::Duration;

/// Without any event for this long all has come that will come.
const QUIET_NS: u64 = 5_000_000_000;

/// Clients that have something to do of their own.
pub trait Player: Handler {
    /// How much has happened so far; the same number again means that nothing has.
    fn events(&self) -> u64;

    /// Does what can be done by now.
    fn work(&mut self, links: &mut Links);
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
        } else if now_ns > moved_ns + QUIET_NS {
            return Ok(false);
        }
        reactor.wait(Duration::from_millis(100))?;
    }
}
