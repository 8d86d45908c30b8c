//! The life of one node: it starts, says how it is, waits for its database, refuses what cannot work, and stops.

#[path = "../harness/mod.rs"]
mod harness;

mod lifecycle;
mod probes;
mod refusals;
mod ui;
