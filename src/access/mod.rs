//! PURE. Who may publish and read what.
//!
//! [`acl_file`] and [`words`] read rules, [`rules::Rules`] holds all that are in force, and an [`Access`] is one client's
//! place among them. A check walks the few rules that concern the client and stops at the first that matches; the rules are
//! ordered so that this is the rule that decides. What is remembered of a client are indices, so a change of the rules
//! costs nothing until the client is next asked about.
//!
//! What a rule file says applies to a client exactly as mosquitto applies it:
//!
//! 1. the rules below `user NAME` for the client with that User Name, or those before the first `user` line for a client
//!    without one: the denials first, then the permissions;
//! 2. if none of them matched, the patterns, for everybody: the denials first, then the permissions.
//!
//! Rules in the configuration and those that come with a token are one list, for which order means nothing: a denial among them
//! wins over everything, the files included, and a permission holds where nothing denies. What no rule matches is denied.

pub mod acl_file;
pub mod client;
pub mod pattern;
pub mod rules;
pub mod words;

pub use client::{Access, Identity, InForce};
pub use rules::{May, Place, Rule, RuleError, Rules, RulesInForce};
