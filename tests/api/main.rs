//! The HTTP API and its sockets, black box, on both databases: what is served at all, and what bad input gets.

#![expect(clippy::disallowed_methods, reason = "a test is no part of the server: it has its own time, ids and tasks")]

#[path = "../harness/mod.rs"]
mod harness;

mod automations;
mod actions;
mod background_tasks;
mod bad_input;
mod dead_letters;
mod deployments;
mod events;
mod routes;
mod slots;
mod worker_channel;
