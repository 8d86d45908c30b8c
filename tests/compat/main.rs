//! Praetor beside the published Prefect 3.8.4: the same schema, the same databases, the same answers.
//!
//! Needs a `prefect` executable of that version and a Postgres server on which databases may be made; `tests/run` sets both up.

#[path = "../harness/mod.rs"]
mod harness;

mod adopt;
mod cli;
mod command;
mod flow;
mod introspect;
mod openapi;
mod reference;
mod schema;
mod services;
mod turns;
mod ui_walk;
