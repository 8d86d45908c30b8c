//! Builders of every event that the server emits; pure. Emitted with `tx.emit(...)` in the transaction that made them.

pub mod deployment;
pub mod flow_run;
pub mod lifecycle;
pub mod related;
pub mod work_pool;
