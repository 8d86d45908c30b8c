//! [`FlowRunFilter`] as a condition on `flow_run`.

use sea_query::{Condition, Expr, ExprTrait, Func, Query};

use super::{join, part};
use crate::model::filter::flow_run::{FlowRunFilter, FlowRunFilterCreatedBy, FlowRunFilterState};
use crate::model::filter::part::AnyOfOrNot;
use crate::store::Dialect;
use crate::store::schema as t;

fn column(column: t::FlowRun) -> Expr {
    Expr::col((t::FlowRun::Table, column))
}

/// When a run started or is expected to start.
pub fn start_or_expected() -> Expr {
    Expr::expr(Func::coalesce([column(t::FlowRun::StartTime), column(t::FlowRun::ExpectedStartTime)]))
}

/// The condition.
pub fn condition(filter: &FlowRunFilter, dialect: Dialect) -> Condition {
    let parent_flow_run = filter.parent_flow_run_id.as_ref().map(|parent| {
        let tasks = parent.any_.as_ref().map(|any| {
            Query::select()
                .column((t::TaskRun::Table, t::TaskRun::Id))
                .from(t::TaskRun::Table)
                .and_where(dialect.any_id(Expr::col((t::TaskRun::Table, t::TaskRun::FlowRunId)), any))
                .take()
        });
        part::given(parent.operator, [tasks.map(|tasks| column(t::FlowRun::ParentTaskRunId).in_subquery(tasks))])
    });
    join(
        filter.operator,
        [
            part::any_id_or_not(filter.id.as_ref(), column(t::FlowRun::Id), dialect),
            part::name(filter.name.as_ref(), column(t::FlowRun::Name), dialect),
            part::tags_or_any(filter.tags.as_ref(), column(t::FlowRun::Tags), dialect),
            part::any_id_or_null(filter.deployment_id.as_ref(), column(t::FlowRun::DeploymentId), dialect),
            part::any_text_or_null(filter.work_queue_name.as_ref(), column(t::FlowRun::WorkQueueName)),
            part::any_text(filter.flow_version.as_ref(), column(t::FlowRun::FlowVersion)),
            filter.state.as_ref().map(state),
            part::between_or_null(filter.start_time.as_ref(), start_or_expected(), column(t::FlowRun::StartTime)),
            part::between_or_null(filter.end_time.as_ref(), column(t::FlowRun::EndTime), column(t::FlowRun::EndTime)),
            part::between(filter.expected_start_time.as_ref(), column(t::FlowRun::ExpectedStartTime)),
            part::between(filter.next_scheduled_start_time.as_ref(), column(t::FlowRun::NextScheduledStartTime)),
            parent_flow_run,
            part::any_id_or_null(filter.parent_task_run_id.as_ref(), column(t::FlowRun::ParentTaskRunId), dialect),
            part::any_text_or_not(filter.idempotency_key.as_ref(), column(t::FlowRun::IdempotencyKey)),
            filter.created_by.as_ref().map(|created_by| self::created_by(created_by, dialect)),
        ],
    )
}

/// The reference leaves out a part which both includes and excludes.
fn either<T>(part: Option<&AnyOfOrNot<T>>) -> Option<&AnyOfOrNot<T>> {
    part.filter(|part| part.any_.is_none() || part.not_any_.as_ref().is_none_or(Vec::is_empty))
}

fn state(state: &FlowRunFilterState) -> Condition {
    let parts = [
        part::any_text_or_not(either(state.kind.as_ref()), column(t::FlowRun::StateType)),
        part::any_text_or_not(either(state.name.as_ref()), column(t::FlowRun::StateName)),
    ];
    // A part that restricts nothing is left out here even under `or_`.
    join(state.operator, parts.map(|part| part.filter(|part| !part.is_empty())))
}

fn created_by(created_by: &FlowRunFilterCreatedBy, dialect: Dialect) -> Condition {
    let text = |key| dialect.json_text(column(t::FlowRun::CreatedBy), &[key]);
    let ids = created_by.id_.as_ref().map(|ids| text("id").is_in(ids.iter().map(uuid::Uuid::to_string)));
    let kinds = created_by.type_.as_ref().map(|kinds| text("type").is_in(kinds));
    let null = created_by
        .is_null_
        .map(|null| if null { column(t::FlowRun::CreatedBy).is_null() } else { column(t::FlowRun::CreatedBy).is_not_null() });
    part::given(created_by.operator, [ids, kinds, null])
}
