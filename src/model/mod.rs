//! What clients see, byte for byte: request and response bodies, filters, and the values inside them.
//!
//! One entity family per file. Field order is the reference's; absent optional values are written as `null`;
//! create and update bodies forbid unknown keys where the reference does.

pub mod artifact;
pub mod automation;
pub mod block;
pub mod concurrency;
pub mod bounds;
pub mod check;
pub mod deployment;
pub mod csrf;
pub mod event;
pub mod event_count;
pub mod filter;
pub mod flow;
pub mod flow_run;
pub mod glob;
pub mod graph;
pub mod json;
pub mod labels;
pub mod log;
pub mod name;
pub mod patch;
pub mod policy;
pub mod run;
pub mod saved_search;
pub mod schedule;
pub mod state;
pub mod task_run;
pub mod text_search;
pub mod status;
pub mod ui;
pub mod variable;
pub mod work_pool;
pub mod work_queue;
pub mod worker;
pub mod worker_channel;

pub use patch::Patch;
