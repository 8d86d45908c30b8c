//! Filters on an entity together with filters on what is related to it: the related ones are `EXISTS` over the path
//! that the reference takes (`_apply_*_filters` of its models). Filters that do not apply to the entity are ignored.

use sea_query::{Cond, Condition, Expr, ExprTrait, Query, SelectStatement};

use super::{deployment, flow, flow_run, task_run, work_pool, work_queue};
use crate::model::filter::Filters;
use crate::store::Dialect;
use crate::store::schema as t;

fn exists(select: &mut SelectStatement) -> Expr {
    Expr::exists(select.expr(Expr::val(1)).take())
}

/// On `flow_run`.
pub fn flow_runs(filters: &Filters, dialect: Dialect) -> Condition {
    let mut all = Cond::all();
    let run = |column| Expr::col((t::FlowRun::Table, column));
    if let Some(filter) = &filters.flow_runs {
        all = all.add(flow_run::condition(filter, dialect));
    }
    if let Some(filter) = &filters.deployments {
        all = all.add(exists(
            Query::select()
                .from(t::Deployment::Table)
                .and_where(run(t::FlowRun::DeploymentId).equals((t::Deployment::Table, t::Deployment::Id)))
                .cond_where(deployment::condition(filter, dialect)),
        ));
    }
    if filters.work_pools.is_some() || filters.work_queues.is_some() {
        let mut queue = Query::select();
        queue.from(t::WorkQueue::Table).and_where(run(t::FlowRun::WorkQueueId).equals((t::WorkQueue::Table, t::WorkQueue::Id)));
        add_queue(&mut queue, filters, dialect);
        all = all.add(exists(&mut queue));
    }
    if let Some(filter) = &filters.flows {
        all = all.add(exists(
            Query::select()
                .from(t::Flow::Table)
                .and_where(run(t::FlowRun::FlowId).equals((t::Flow::Table, t::Flow::Id)))
                .cond_where(flow::condition(filter, dialect)),
        ));
    }
    if let Some(filter) = &filters.task_runs {
        all = all.add(exists(
            Query::select()
                .from(t::TaskRun::Table)
                .and_where(run(t::FlowRun::Id).equals((t::TaskRun::Table, t::TaskRun::FlowRunId)))
                .cond_where(task_run::condition(filter, dialect)),
        ));
    }
    all
}

/// The filters on work queue and work pool, over a query on `work_queue`.
fn add_queue(queue: &mut SelectStatement, filters: &Filters, dialect: Dialect) {
    if let Some(filter) = &filters.work_queues {
        queue.cond_where(work_queue::condition(filter, dialect));
    }
    if let Some(filter) = &filters.work_pools {
        queue
            .inner_join(
                t::WorkPool::Table,
                Expr::col((t::WorkPool::Table, t::WorkPool::Id)).equals((t::WorkQueue::Table, t::WorkQueue::WorkPoolId)),
            )
            .cond_where(work_pool::condition(filter, dialect));
    }
}

/// On `task_run`.
pub fn task_runs(filters: &Filters, dialect: Dialect) -> Condition {
    let mut all = Cond::all();
    if let Some(filter) = &filters.task_runs {
        all = all.add(task_run::condition(filter, dialect));
    }
    let of_run_only =
        filters.flows.is_none() && filters.deployments.is_none() && filters.work_pools.is_none() && filters.work_queues.is_none();
    if of_run_only {
        let Some(filter) = &filters.flow_runs else { return all };
        // What a run's page asks for: the index on the column answers it.
        if let Some(ids) = filter.only_ids() {
            return all.add(dialect.any_id(Expr::col((t::TaskRun::Table, t::TaskRun::FlowRunId)), ids));
        }
    }
    let of_run = Filters { task_runs: None, ..filters.clone() };
    all.add(exists(
        Query::select()
            .from(t::FlowRun::Table)
            .and_where(Expr::col((t::FlowRun::Table, t::FlowRun::Id)).equals((t::TaskRun::Table, t::TaskRun::FlowRunId)))
            .cond_where(flow_runs(&of_run, dialect)),
    ))
}

/// On `flow`.
pub fn flows(filters: &Filters, dialect: Dialect) -> Condition {
    let mut all = Cond::all();
    if let Some(filter) = &filters.flows {
        all = all.add(flow::condition(filter, dialect));
    }
    if filters.deployments.is_some() || filters.work_pools.is_some() {
        let mut deployments = Query::select();
        deployments
            .from(t::Deployment::Table)
            .and_where(Expr::col((t::Deployment::Table, t::Deployment::FlowId)).equals((t::Flow::Table, t::Flow::Id)));
        if let Some(filter) = &filters.deployments {
            deployments.cond_where(deployment::condition(filter, dialect));
        }
        if filters.work_pools.is_some() {
            deployments.inner_join(
                t::WorkQueue::Table,
                Expr::col((t::WorkQueue::Table, t::WorkQueue::Id)).equals((t::Deployment::Table, t::Deployment::WorkQueueId)),
            );
            add_queue(&mut deployments, &Filters { work_queues: None, ..filters.clone() }, dialect);
        }
        all = all.add(exists(&mut deployments));
    }
    if filters.flow_runs.is_some() || filters.task_runs.is_some() {
        let of_run = Filters { flow_runs: filters.flow_runs.clone(), task_runs: filters.task_runs.clone(), ..Filters::default() };
        all = all.add(exists(
            Query::select()
                .from(t::FlowRun::Table)
                .and_where(Expr::col((t::FlowRun::Table, t::FlowRun::FlowId)).equals((t::Flow::Table, t::Flow::Id)))
                .cond_where(flow_runs(&of_run, dialect)),
        ));
    }
    all
}
