//! The only way a run changes state: [`set_flow_run_state`] and [`set_task_run_state`].
//!
//! ```text
//!   lock the run ─ read its state ─ pick the rules by (from, to)
//!        │
//!        ▼   policy, top to bottom          ▲   bottom to top
//!   rule.before ─ rule.before ─ ...         │   ... rule.after ─ rule.after
//!                      └─ bookkeeping.before ─ write the state ─ bookkeeping.after ─┘
//! ```
//!
//! A rule may let the transition be, put another state in place of the proposed one (reject), have the client come again
//! (wait), or refuse it (abort); in the last two nothing is written. Everything happens in the caller's transaction, the
//! events too: an error anywhere undoes all of it, so no rule has to.
//!
//! To add a rule: `rule/<subject>.rs` with the reference's name, its line in [`policy`] (the place matters), a test.

pub mod engine;
pub mod interval;
pub mod policy;
pub mod rule;
pub mod transition;
pub mod version;

pub use engine::{Context, OrchestrationError, set_flow_run_state, set_task_run_state};
pub use policy::{FlowPolicy, TaskPolicy};
pub use rule::flow_concurrency::give_back_slot;
pub use transition::{Transition, Verdict};
pub use version::{ApiVersion, ClientVersion};
