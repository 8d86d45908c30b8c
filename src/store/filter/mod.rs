//! Filters of `model/filter/` as conditions, one function per filter object, used alike by select, count, update and
//! delete. A filter on a related entity is `EXISTS` or `IN` over its own condition.

pub mod variable;

use sea_query::{Cond, Condition};

use crate::model::filter::Operator;

/// An empty condition that joins by `operator`.
pub fn joined(operator: Operator) -> Condition {
    match operator {
        Operator::And => Cond::all(),
        Operator::Or => Cond::any(),
    }
}

/// Adds `part` where it restricts anything; an empty `any` would be read as false.
pub fn add(condition: Condition, part: Condition) -> Condition {
    if part.is_empty() { condition } else { condition.add(part) }
}
