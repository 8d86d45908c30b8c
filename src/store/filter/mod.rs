//! Filters of `model/filter/` as conditions, one function per filter object, used alike by select, count, update and
//! delete. A filter on a related entity is `EXISTS` or `IN` over its own condition.

pub mod artifact;
pub mod automation;
pub mod block;
pub mod deployment;
pub mod flow;
pub mod flow_run;
pub mod log;
pub mod part;
pub mod related;
pub mod task_run;
pub mod event;
pub mod variable;
pub mod work_pool;
pub mod work_queue;

use sea_query::{Cond, Condition, Expr};

use crate::model::filter::Operator;

/// An empty condition that joins by `operator`.
pub fn joined(operator: Operator) -> Condition {
    match operator {
        Operator::And => Cond::all(),
        Operator::Or => Cond::any(),
    }
}

/// The parts of a filter object, joined. A part that restricts nothing is true, so that `or_` over it is true as well;
/// without parts everything matches.
pub fn join(operator: Operator, parts: impl IntoIterator<Item = Option<Condition>>) -> Condition {
    let mut whole: Option<Condition> = None;
    for part in parts.into_iter().flatten() {
        let whole_so_far = whole.take().unwrap_or_else(|| joined(operator));
        whole = Some(if part.is_empty() { whole_so_far.add(Expr::cust("1 = 1")) } else { whole_so_far.add(part) });
    }
    whole.unwrap_or_else(Cond::all)
}
