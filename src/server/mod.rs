//! SHELL. The process: its clock and its cores.

pub mod clock;
pub mod cores;
