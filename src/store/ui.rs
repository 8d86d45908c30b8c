//! What only the UI asks for: small rows of many runs, counts by parent.

use std::collections::HashMap;

use sea_query::{Asterisk, CaseStatement, Cond, Expr, ExprTrait, Func, Order, Query};

use crate::clock::Timestamp;
use crate::id::{FlowId, FlowRunId};
use crate::model::filter::Filters;
use crate::model::flow_run::FlowRunSort;
use crate::model::run::Moments;
use crate::model::state::StateType;
use crate::model::ui::NextFlowRun;
use crate::store::filter::{related, task_run};
use crate::store::schema as t;
use crate::store::{Seconds, StoreError, Tx, flow_runs};

/// The moments of flow runs.
pub async fn flow_run_moments(
    tx: &mut Tx,
    filters: &Filters,
    sort: FlowRunSort,
    limit: u64,
    offset: u64,
) -> Result<Vec<(FlowRunId, Moments)>, StoreError> {
    use t::FlowRun as F;
    let mut select = Query::select();
    select
        .columns(
            [F::Id, F::StateType, F::StateTimestamp, F::StartTime, F::ExpectedStartTime, F::TotalRunTime].map(|column| (F::Table, column)),
        )
        .from(F::Table)
        .cond_where(related::flow_runs(filters, tx.dialect()))
        .limit(limit)
        .offset(offset);
    flow_runs::order(&mut select, sort);
    let rows = tx.fetch_all(&select).await?;
    rows.iter()
        .map(|row| {
            let moments = Moments {
                state_type: row.get("state_type")?,
                state_timestamp: row.get("state_timestamp")?,
                start_time: row.get("start_time")?,
                expected_start_time: row.get("expected_start_time")?,
                total_run_time: row.get::<Seconds>("total_run_time")?.0,
            };
            Ok((row.get("id")?, moments))
        })
        .collect()
}

/// Task runs of each flow run, without those that stand for subflows.
pub async fn count_task_runs(tx: &mut Tx, ids: &[FlowRunId]) -> Result<HashMap<FlowRunId, i64>, StoreError> {
    let of_run = Expr::col((t::TaskRun::Table, t::TaskRun::FlowRunId));
    let mut select = Query::select();
    select
        .column((t::TaskRun::Table, t::TaskRun::FlowRunId))
        .expr_as(Func::count(Expr::col(Asterisk)), "count")
        .from(t::TaskRun::Table)
        .and_where(tx.dialect().any_id(of_run, ids))
        .and_where(task_run::is_subflow().not())
        .group_by_col((t::TaskRun::Table, t::TaskRun::FlowRunId));
    tx.fetch_all(&select).await?.iter().map(|row| Ok((row.get("flow_run_id")?, row.get("count")?))).collect()
}

/// Deployments of each flow.
pub async fn count_deployments(tx: &mut Tx, ids: &[FlowId]) -> Result<HashMap<FlowId, i64>, StoreError> {
    let mut select = Query::select();
    select
        .column(t::Deployment::FlowId)
        .expr_as(Func::count(Expr::col(Asterisk)), "count")
        .from(t::Deployment::Table)
        .and_where(tx.dialect().any_id(Expr::col(t::Deployment::FlowId), ids))
        .group_by_col(t::Deployment::FlowId);
    tx.fetch_all(&select).await?.iter().map(|row| Ok((row.get("flow_id")?, row.get("count")?))).collect()
}

/// The scheduled run of each flow that starts first.
pub async fn next_runs(tx: &mut Tx, ids: &[FlowId]) -> Result<HashMap<FlowId, NextFlowRun>, StoreError> {
    use t::FlowRun as F;
    let scheduled = |select: &mut sea_query::SelectStatement, of: Expr| {
        select
            .and_where(of)
            .and_where(Expr::col(F::StateType).eq(StateType::Scheduled))
            .and_where(Expr::col(F::NextScheduledStartTime).is_not_null());
    };
    let these = tx.dialect().any_id(Expr::col(F::FlowId), ids);
    let mut ranked = Query::select();
    ranked
        .columns([F::Id, F::FlowId, F::Name, F::StateName, F::StateType, F::NextScheduledStartTime])
        .expr_window_as(
            Func::cust("row_number"),
            sea_query::WindowStatement::partition_by(F::FlowId)
                .order_by(F::NextScheduledStartTime, Order::Asc)
                .order_by(F::Id, Order::Asc)
                .take(),
            "place",
        )
        .from(F::Table);
    scheduled(&mut ranked, these);
    let mut select = Query::select();
    select.column(Asterisk).from_subquery(ranked, "ranked").and_where(Expr::col("place").eq(1));
    tx.fetch_all(&select)
        .await?
        .iter()
        .map(|row| {
            let run = NextFlowRun {
                id: row.get("id")?,
                flow_id: row.get("flow_id")?,
                name: row.get("name")?,
                state_name: row.get("state_name")?,
                state_type: row.get("state_type")?,
                next_scheduled_start_time: row.get("next_scheduled_start_time")?,
            };
            Ok((run.flow_id, run))
        })
        .collect()
}

/// How many task runs started in a piece of time, and how they ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    pub bucket: i64,
    pub completed: i64,
    pub failed: i64,
}

/// Ended task runs by the piece of `width_micros`, from `start` on, in which they started.
pub async fn count_ended(tx: &mut Tx, filters: &Filters, start: Timestamp, width_micros: i64) -> Result<Vec<Ended>, StoreError> {
    let dialect = tx.dialect();
    let started = Expr::col((t::TaskRun::Table, t::TaskRun::StartTime));
    let state = Expr::col((t::TaskRun::Table, t::TaskRun::StateType));
    let failed: Expr = CaseStatement::new().case(state.is_in([StateType::Crashed, StateType::Failed]), 1).finally(0).into();
    let bucket = dialect.epoch_micros(started.clone()).sub(start.timestamp_micros()).div(width_micros);
    let mut select = Query::select();
    select
        .expr_as(bucket, "bucket")
        .expr_as(Func::count(Expr::col(Asterisk)), "ended")
        .expr_as(dialect.integer(Func::sum(failed)), "failed")
        .from(t::TaskRun::Table)
        .cond_where(Cond::all().add(started.gte(start)).add(related::task_runs(filters, dialect)))
        .group_by_col("bucket");
    tx.fetch_all(&select)
        .await?
        .iter()
        .map(|row| {
            let (ended, failed): (i64, i64) = (row.get("ended")?, row.get("failed")?);
            Ok(Ended { bucket: row.get("bucket")?, completed: ended - failed, failed })
        })
        .collect()
}
