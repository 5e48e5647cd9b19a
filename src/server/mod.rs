//! SHELL. The process: its clock and its cores.

pub mod clock;
