//! The end-to-end window of a closed loop: how far a publisher may go ahead of its subscribers.
//!
//! A publisher has at most `size` messages outstanding, counted from its oldest message that some subscriber
//! has not got yet. Each core keeps one [`Window`] for each publisher with subscribers on that core; the
//! publisher may send up to the least [`Window::base`] of all cores plus `size`.
//!
//! When a message is lost the window would stay shut for ever. The publisher then gives up on all that is
//! outstanding (and counts a stall) and goes on; a number beyond the window tells the receiving side so.

/// What one core's subscribers have got of one publisher.
#[derive(Clone, Debug)]
pub struct Window {
    /// Subscribers on this core.
    receivers: u32,
    /// The oldest number that one of them lacks.
    base: u64,
    /// For each number from `base` on, at its remainder by the size: subscribers that lack it.
    lacking: Box<[u32]>,
}

impl Window {
    /// The window of a publisher with `receivers` subscribers on this core.
    pub fn new(size: usize, receivers: u32) -> Self {
        assert!(size > 0 && receivers > 0);
        Self {
            receivers,
            base: 0,
            lacking: vec![receivers; size].into(),
        }
    }

    /// A subscriber has got number `sequence` for the first time. Returns whether the base moved.
    pub fn got(&mut self, sequence: u64) -> bool {
        let size = self.lacking.len() as u64;
        let before = self.base;
        if sequence < self.base {
            // It was given up before.
            return false;
        }
        while sequence - self.base >= size {
            self.advance();
        }
        let slot = &mut self.lacking[(sequence % size) as usize];
        *slot = slot.saturating_sub(1);
        while self.lacking[(self.base % size) as usize] == 0 {
            self.advance();
        }
        self.base != before
    }

    /// The oldest number that a subscriber lacks.
    pub fn base(&self) -> u64 {
        self.base
    }

    fn advance(&mut self) {
        let size = self.lacking.len() as u64;
        self.lacking[(self.base % size) as usize] = self.receivers;
        self.base += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_moves_when_the_last_receiver_has_it() {
        let mut window = Window::new(4, 3);
        assert!(!window.got(0) && !window.got(0));
        assert_eq!(window.base(), 0);
        assert!(window.got(0));
        assert_eq!(window.base(), 1);
    }

    #[test]
    fn numbers_out_of_order_wait_for_the_oldest() {
        let mut window = Window::new(4, 1);
        assert!(!window.got(2) && !window.got(1));
        assert!(window.got(0));
        assert_eq!(window.base(), 3);
        assert!(!window.got(1), "long past");
    }

    #[test]
    fn after_a_loss_later_numbers_push_the_window_on() {
        let mut window = Window::new(4, 1);
        for number in [0, 1, 3] {
            window.got(number);
        }
        assert_eq!(window.base(), 2);
        // The publisher gives up 2 and sends 4 to 7.
        for number in 4..8 {
            window.got(number);
        }
        assert_eq!(window.base(), 8);
        // All of a window lost: 8 to 11, then 12 to 15.
        assert!(window.got(12));
        assert_eq!(window.base(), 9);
        for number in 13..16 {
            window.got(number);
        }
        assert_eq!(window.base(), 16);
    }
}
