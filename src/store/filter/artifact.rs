//! Filters over artifacts as conditions on `artifact` and `artifact_collection`.

use sea_query::{Cond, Condition, Expr, ExprTrait, Query, SelectStatement};

use super::{join, part, related, task_run};
use crate::model::filter::artifact::{ArtifactCollectionFilter, ArtifactFilter, ArtifactFilterKey};
use crate::model::filter::{Filters, Operator};
use crate::store::Dialect;
use crate::store::schema as t;

fn key(filter: Option<&ArtifactFilterKey>, column: Expr, dialect: Dialect) -> Option<Condition> {
    filter.map(|key| {
        let any = key.any_.as_ref().map(|any| column.clone().is_in(any));
        let exists = key.exists_.map(|exists| if exists { column.clone().is_not_null() } else { column.clone().is_null() });
        part::given(Operator::And, [any, part::like(key.like_.as_ref(), column, dialect), exists])
    })
}

/// On `artifact`, with filters on its runs.
pub fn artifacts(filter: Option<&ArtifactFilter>, filters: &Filters, dialect: Dialect) -> Condition {
    let column = |column| Expr::col((t::Artifact::Table, column));
    let mut all = Cond::all();
    if let Some(filter) = filter {
        all = all.add(join(
            filter.operator,
            [
                part::any_id(filter.id.as_ref(), column(t::Artifact::Id), dialect),
                key(filter.key.as_ref(), column(t::Artifact::Key), dialect),
                part::any_id(filter.flow_run_id.as_ref(), column(t::Artifact::FlowRunId), dialect),
                part::any_id(filter.task_run_id.as_ref(), column(t::Artifact::TaskRunId), dialect),
                part::any_text_or_not(filter.r#type.as_ref(), column(t::Artifact::Type)),
            ],
        ));
    }
    of_runs(all, filters, column(t::Artifact::FlowRunId), column(t::Artifact::TaskRunId), dialect)
}

/// On `artifact_collection`, with filters on the runs of its newest artifact.
pub fn collections(filter: Option<&ArtifactCollectionFilter>, filters: &Filters, dialect: Dialect) -> Condition {
    let column = |column| Expr::col((t::ArtifactCollection::Table, column));
    let mut all = Cond::all();
    if let Some(filter) = filter {
        all = all.add(join(
            filter.operator,
            [
                part::any_id(filter.latest_id.as_ref(), column(t::ArtifactCollection::LatestId), dialect),
                key(filter.key.as_ref(), column(t::ArtifactCollection::Key), dialect),
                part::any_id(filter.flow_run_id.as_ref(), column(t::ArtifactCollection::FlowRunId), dialect),
                part::any_id(filter.task_run_id.as_ref(), column(t::ArtifactCollection::TaskRunId), dialect),
                part::any_text_or_not(filter.r#type.as_ref(), column(t::ArtifactCollection::Type)),
            ],
        ));
    }
    of_runs(all, filters, column(t::ArtifactCollection::FlowRunId), column(t::ArtifactCollection::TaskRunId), dialect)
}

fn exists(select: &mut SelectStatement) -> Expr {
    Expr::exists(select.expr(Expr::val(1)).take())
}

fn of_runs(mut all: Condition, filters: &Filters, flow_run: Expr, task_run: Expr, dialect: Dialect) -> Condition {
    if filters.flows.is_some() || filters.flow_runs.is_some() || filters.deployments.is_some() {
        let of_run = Filters { task_runs: None, work_pools: None, work_queues: None, ..filters.clone() };
        all = all.add(exists(
            Query::select()
                .from(t::FlowRun::Table)
                .and_where(Expr::col((t::FlowRun::Table, t::FlowRun::Id)).eq(flow_run))
                .cond_where(related::flow_runs(&of_run, dialect)),
        ));
    }
    if let Some(filter) = &filters.task_runs {
        all = all.add(exists(
            Query::select()
                .from(t::TaskRun::Table)
                .and_where(Expr::col((t::TaskRun::Table, t::TaskRun::Id)).eq(task_run))
                .cond_where(task_run::condition(filter, dialect)),
        ));
    }
    all
}
