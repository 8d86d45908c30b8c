//! The group of nodes.

mod config;
mod convert;
mod identity;
mod limits;
mod log_codec;
mod log_store;
mod network;
mod peers;
mod snapshots;
mod state_machine;
mod types;
