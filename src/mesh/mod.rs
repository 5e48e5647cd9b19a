//! SHELL. The links between the cores: one lock-free ring per ordered pair, and how a core is woken.

pub mod link;
pub mod spsc;
mod sync;
pub mod wake;
