//! Fault injection for Praetor, as a black box: real processes, known by the path of their binary and by what they
//! answer. `tests/` borrows its process control and its clients.

pub mod checker;
pub mod client;
pub mod cluster;
pub mod control;
pub mod database;
pub mod dev;
pub mod failover;
pub mod history;
pub mod matrix;
mod native;
pub mod nemesis;
pub mod net;
pub mod planted;
pub mod ports;
pub mod postgres;
pub mod preload;
pub mod proxy;
pub mod report;
pub mod run;
pub mod verdict;
pub mod wait;
pub mod workload;
