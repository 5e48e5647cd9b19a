//! The configuration, as plain data.

pub mod limits;
