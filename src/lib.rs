//! Praetor: a Prefect server that does not go down.
//!
//! Modules in layer order, lowest first; a lower one never imports a higher one (`tests/tidy.rs` checks it).

/// Typed identifiers of every entity, and the only source of new ones.
pub mod id;
/// The only source of time.
pub mod clock;
/// Every bound of the program: name, unit, value, reason.
pub mod limits;
/// What clients see, byte for byte; serde only, no I/O.
pub mod model;
/// When schedules are due, and under which key; pure.
pub mod schedule;
/// Checks of parameters and job variables against JSON Schemas, and values filled in at run time; pure.
pub mod parameters;
/// Settings: read once, checked as a whole, then immutable.
pub mod config;
/// Logs, metrics, readiness.
pub mod telemetry;
/// The only place that spawns a task.
pub mod task;
/// A bounded accept loop for HTTP.
pub mod listener;
/// Durable state in Prefect's own schema, on Postgres or SQLite.
pub mod store;
/// The replicated event bus: a pure state machine with the same doors for every caller.
pub mod bus;
/// The group of nodes: Raft, forwarding, the services election; the replicated bus.
pub mod cluster;
/// Builders of every emitted event, pure.
pub mod events;
/// Checksums, nesting, secrets and encryption of blocks; the types that are there from the start.
pub mod blocks;
/// What handlers and services may touch: store, bus, clock, settings; the transactional outbox.
pub mod app;
/// Automations at work: templates, triggers, ordering of events.
pub mod automations;
/// Background services, run by their elected leader.
pub mod services;
/// The only way a run changes state: an ordered table of small rules.
pub mod orchestration;
/// The HTTP API and WebSockets under `/api`.
pub mod api;
/// The command line.
pub mod cli;
/// Asking a running node.
pub mod ask;
/// The composition root: starts and stops every part of a node in order.
pub mod node;
/// `praetor dev`: a local group behind one front door.
pub mod dev;
