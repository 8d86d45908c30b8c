//! Checks of parameters and job variables against the JSON Schemas that clients give, and what they fill in at run
//! time; pure (`prefect/utilities/schema_tools/`).
//!
//! Promises the reference's decisions and, for the usual keywords, its words: messages go to clients, who compare them.

pub mod hydrate;
pub mod report;
pub mod schema;
pub mod validate;

pub use hydrate::{HydrationError, hydrate, problem};
pub use validate::{Invalid, Options, check_schema, validate};
