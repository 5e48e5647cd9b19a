//! The parts of `loadgen`, a load generator for MQTT brokers.
//!
//! `run` leads: it makes a `plan` of clients, gives each core its part (`worker`), keeps the times and samples
//! the broker (`procfs`). The cores and the leading thread talk through `shared`. `pace` and `window` decide
//! when a message is sent, `payload` and `track` whether it arrived as it should. Each core tells each second of
//! itself; `live` shows them while it runs, `timeline` keeps them, `report` says what came of it all.

pub mod agent;
pub mod args;
pub mod assertion;
pub mod churn;
pub mod cli;
pub mod clock;
pub mod crowd;
pub mod format;
pub mod given;
pub mod growth;
pub mod hlog;
pub mod inbox;
pub mod knee;
pub mod leader;
pub mod links;
pub mod listener;
pub mod live;
pub mod message;
pub mod metrics;
pub mod pace;
pub mod parse;
pub mod payload;
pub mod plan;
pub mod play;
pub mod preflight;
pub mod probe;
pub mod procfs;
pub mod relay;
pub mod report;
pub mod run;
pub mod schedule;
pub mod shared;
pub mod steps;
pub mod storm;
pub mod suite;
pub mod sys;
pub mod timeline;
pub mod total;
pub mod track;
pub mod window;
pub mod wire;
pub mod worker;
