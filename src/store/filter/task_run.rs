//! [`TaskRunFilter`] as a condition on `task_run`.

use sea_query::{Condition, Expr, ExprTrait, Query};

use super::{join, part};
use crate::model::filter::task_run::{TaskRunFilter, TaskRunFilterFlowRunId, TaskRunFilterState};
use crate::store::Dialect;
use crate::store::schema as t;

fn column(column: t::TaskRun) -> Expr {
    Expr::col((t::TaskRun::Table, column))
}

/// True where the task run stands for a subflow.
pub fn is_subflow() -> Expr {
    Expr::exists(
        Query::select()
            .expr(Expr::val(1))
            .from_as(t::FlowRun::Table, "subflow")
            .and_where(Expr::col(("subflow", t::FlowRun::ParentTaskRunId)).equals((t::TaskRun::Table, t::TaskRun::Id)))
            .take(),
    )
}

/// The condition.
pub fn condition(filter: &TaskRunFilter, dialect: Dialect) -> Condition {
    let subflow = filter.subflow_runs.as_ref().map(|subflow| {
        let exists = subflow.exists_.map(|exists| if exists { is_subflow() } else { is_subflow().not() });
        part::given(super::Operator::And, [exists])
    });
    join(
        filter.operator,
        [
            part::any_id(filter.id.as_ref(), column(t::TaskRun::Id), dialect),
            part::name(filter.name.as_ref(), column(t::TaskRun::Name), dialect),
            part::tags(filter.tags.as_ref(), column(t::TaskRun::Tags), dialect),
            filter.state.as_ref().map(state),
            part::between_or_null(filter.start_time.as_ref(), column(t::TaskRun::StartTime), column(t::TaskRun::StartTime)),
            part::between_or_null(filter.end_time.as_ref(), column(t::TaskRun::EndTime), column(t::TaskRun::EndTime)),
            part::between(filter.expected_start_time.as_ref(), column(t::TaskRun::ExpectedStartTime)),
            subflow,
            filter.flow_run_id.as_ref().map(|id| flow_run_id(id, dialect)),
        ],
    )
}

fn state(state: &TaskRunFilterState) -> Condition {
    let parts = [
        part::any_text(state.kind.as_ref(), column(t::TaskRun::StateType)),
        part::any_text(state.name.as_ref(), column(t::TaskRun::StateName)),
    ];
    // A part that restricts nothing is left out here even under `or_`.
    join(state.operator, parts.map(|part| part.filter(|part| !part.is_empty())))
}

fn flow_run_id(filter: &TaskRunFilterFlowRunId, dialect: Dialect) -> Condition {
    let id = column(t::TaskRun::FlowRunId);
    let restriction = match (filter.is_null_, &filter.any_) {
        (Some(true), _) => Some(id.is_null()),
        (Some(false), None) => Some(id.is_not_null()),
        (_, Some(any)) => Some(dialect.any_id(id, any)),
        (None, None) => None,
    };
    part::given(filter.operator, [restriction])
}
