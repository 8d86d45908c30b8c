//! Filters as clients send them, one file per filtered entity. `store/filter/` turns them into conditions.
//!
//! Every operator is optional; an absent or null one does not restrict. Filter objects with an `operator` join what they
//! hold by it. Unknown keys are ignored, as the reference does for filters (they are no action bodies) unless noted.

pub mod variable;

use serde::Deserialize;

/// How the parts of a filter object are joined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Operator {
    /// All must hold.
    #[default]
    #[serde(rename = "and_")]
    And,
    /// One must hold.
    #[serde(rename = "or_")]
    Or,
}
