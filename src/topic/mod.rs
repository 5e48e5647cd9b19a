//! Topic Names and Topic Filters: who wants a message, and what was retained.
//!
//! Pure: no I/O, no clock, no randomness but a seed. Nothing here recurses on the depth of a topic,
//! and no result depends on the order in which a hash table happens to be laid out.
//!
//! - `levels`: cutting a topic into levels, and keyed hashes of levels and prefixes
//! - `filter`: what a valid Topic Filter is, and when it matches (MQTT 5 §4.7, §4.8.2)
//! - `index`: the non-shared subscriptions of one core
//! - `interest`: which *other* cores may want a topic
//! - `share`: the Shared Subscriptions of all cores
//! - `retained`: retained messages, ordered, with stamps that let replicas agree

pub mod filter;
pub mod index;
pub mod interest;
pub mod levels;
pub mod retained;
pub mod share;

mod filter_map;
mod keyed_list;
mod nodes;
mod ordered;
mod text_arena;

/// Topics that are read ahead for at a time: with more the first are out of the cache again before they are used.
pub const AHEAD_MAX: usize = 16;

/// Entries from which an index does not fit the cache of a core (1 MB). Where assertions are checked one is enough, so that tests go that way.
const LARGE_MIN: usize = if cfg!(debug_assertions) { 1 } else { 16_384 };
