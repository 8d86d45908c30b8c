//! Table `flow_run`.
//!
//! What a run shows of its state, its queue and its pool comes with it in one statement. A run changes state in
//! `orchestration` only, which writes with [`save`] what [`read_for_update`] gave it.

use sea_query::{Asterisk, Expr, ExprTrait, Func, OnConflict, Order, Query, SelectStatement, UpdateStatement};
use serde_json::{Map, Value, json};

use crate::clock::Timestamp;
use crate::id::{FlowId, FlowRunId};
use crate::limits::STATEMENT_VALUES;
use crate::model::filter::Filters;
use crate::model::flow_run::{FlowRun, FlowRunQueue, FlowRunSort, FlowRunUpdate};
use crate::model::labels::Labels;
use crate::store::filter::flow_run::start_or_expected;
use crate::store::filter::related;
use crate::store::schema as t;
use crate::store::{Dialect, Row, Seconds, StoreError, Tx, current_state};

const COLUMNS: [t::FlowRun; 32] = [
    t::FlowRun::Id,
    t::FlowRun::Created,
    t::FlowRun::Updated,
    t::FlowRun::Name,
    t::FlowRun::FlowId,
    t::FlowRun::StateId,
    t::FlowRun::DeploymentId,
    t::FlowRun::DeploymentVersion,
    t::FlowRun::WorkQueueId,
    t::FlowRun::WorkQueueName,
    t::FlowRun::FlowVersion,
    t::FlowRun::Parameters,
    t::FlowRun::IdempotencyKey,
    t::FlowRun::Context,
    t::FlowRun::EmpiricalPolicy,
    t::FlowRun::Tags,
    t::FlowRun::Labels,
    t::FlowRun::ParentTaskRunId,
    t::FlowRun::StateType,
    t::FlowRun::StateName,
    t::FlowRun::StateTimestamp,
    t::FlowRun::RunCount,
    t::FlowRun::ExpectedStartTime,
    t::FlowRun::NextScheduledStartTime,
    t::FlowRun::StartTime,
    t::FlowRun::EndTime,
    t::FlowRun::TotalRunTime,
    t::FlowRun::AutoScheduled,
    t::FlowRun::InfrastructureDocumentId,
    t::FlowRun::InfrastructurePid,
    t::FlowRun::CreatedBy,
    t::FlowRun::JobVariables,
];

fn column(column: t::FlowRun) -> Expr {
    Expr::col((t::FlowRun::Table, column))
}

fn select() -> SelectStatement {
    let mut select = Query::select();
    select.columns(COLUMNS.map(|column| (t::FlowRun::Table, column))).from(t::FlowRun::Table);
    current_state::join_flow_run(&mut select);
    select
        .left_join(
            t::WorkQueue::Table,
            Expr::col((t::WorkQueue::Table, t::WorkQueue::Id)).equals((t::FlowRun::Table, t::FlowRun::WorkQueueId)),
        )
        .left_join(
            t::WorkPool::Table,
            Expr::col((t::WorkPool::Table, t::WorkPool::Id)).equals((t::WorkQueue::Table, t::WorkQueue::WorkPoolId)),
        )
        .expr_as(Expr::col((t::WorkQueue::Table, t::WorkQueue::Name)), "queue_name")
        .expr_as(Expr::col((t::WorkPool::Table, t::WorkPool::Id)), "pool_id")
        .expr_as(Expr::col((t::WorkPool::Table, t::WorkPool::Name)), "pool_name");
    select
}

fn decode(row: &Row) -> Result<FlowRun, StoreError> {
    let queue_name: Option<String> = row.get("queue_name")?;
    let queue = match (queue_name, row.get("pool_id")?) {
        (Some(name), Some(work_pool_id)) => Some(FlowRunQueue { name, work_pool_id, work_pool_name: row.get("pool_name")? }),
        _ => None,
    };
    Ok(FlowRun {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        name: row.get("name")?,
        flow_id: row.get("flow_id")?,
        state_id: row.get("state_id")?,
        deployment_id: row.get("deployment_id")?,
        deployment_version: row.get("deployment_version")?,
        work_queue_id: row.get("work_queue_id")?,
        work_queue_name: row.get("work_queue_name")?,
        flow_version: row.get("flow_version")?,
        parameters: row.json("parameters")?,
        idempotency_key: row.get("idempotency_key")?,
        context: row.json("context")?,
        empirical_policy: row.json("empirical_policy")?,
        tags: row.json("tags")?,
        labels: row.json("labels")?,
        parent_task_run_id: row.get("parent_task_run_id")?,
        state_type: row.get("state_type")?,
        state_name: row.get("state_name")?,
        state_timestamp: row.get("state_timestamp")?,
        run_count: row.get("run_count")?,
        expected_start_time: row.get("expected_start_time")?,
        next_scheduled_start_time: row.get("next_scheduled_start_time")?,
        start_time: row.get("start_time")?,
        end_time: row.get("end_time")?,
        total_run_time: row.get::<Seconds>("total_run_time")?.0,
        auto_scheduled: row.get("auto_scheduled")?,
        infrastructure_document_id: row.get("infrastructure_document_id")?,
        infrastructure_pid: row.get("infrastructure_pid")?,
        created_by: row.json("created_by")?,
        job_variables: row.json("job_variables")?,
        state: current_state::decode(row)?,
        queue,
    })
}

fn optional_json<T: serde::Serialize>(value: Option<&T>) -> Expr {
    Expr::val(value.map(|value| json!(value)))
}

fn values(run: &FlowRun, dialect: Dialect) -> [Expr; 32] {
    [
        run.id.into(),
        run.created.into(),
        run.updated.into(),
        run.name.as_str().into(),
        run.flow_id.into(),
        run.state_id.into(),
        run.deployment_id.into(),
        run.deployment_version.clone().into(),
        run.work_queue_id.into(),
        run.work_queue_name.clone().into(),
        run.flow_version.clone().into(),
        json!(run.parameters).into(),
        run.idempotency_key.clone().into(),
        json!(run.context).into(),
        json!(run.empirical_policy).into(),
        json!(run.tags).into(),
        optional_json(run.labels.as_ref()),
        run.parent_task_run_id.into(),
        run.state_type.into(),
        run.state_name.clone().into(),
        run.state_timestamp.into(),
        run.run_count.into(),
        run.expected_start_time.into(),
        run.next_scheduled_start_time.into(),
        run.start_time.into(),
        run.end_time.into(),
        dialect.interval(run.total_run_time),
        run.auto_scheduled.into(),
        run.infrastructure_document_id.into(),
        run.infrastructure_pid.clone().into(),
        optional_json(run.created_by.as_ref()),
        optional_json(run.job_variables.as_ref()),
    ]
}

/// Inserts runs, all columns as given, and gives the ids of those that were inserted: a run whose idempotency key its
/// flow has seen is left out.
pub async fn insert_many(tx: &mut Tx, runs: &[FlowRun]) -> Result<Vec<FlowRunId>, StoreError> {
    let dialect = tx.dialect();
    let mut inserted = Vec::with_capacity(runs.len());
    for chunk in runs.chunks(STATEMENT_VALUES / COLUMNS.len()) {
        let mut insert = Query::insert();
        insert.into_table(t::FlowRun::Table).columns(COLUMNS);
        for run in chunk {
            insert.values_panic(values(run, dialect));
        }
        insert
            .on_conflict(OnConflict::columns([t::FlowRun::FlowId, t::FlowRun::IdempotencyKey]).do_nothing().to_owned())
            .returning_col(t::FlowRun::Id);
        for row in tx.fetch_all(&insert).await? {
            inserted.push(row.get("id")?);
        }
    }
    Ok(inserted)
}

/// Inserts a run, all columns as given; false where its flow has seen its idempotency key.
pub async fn insert(tx: &mut Tx, run: &FlowRun) -> Result<bool, StoreError> {
    Ok(!insert_many(tx, std::slice::from_ref(run)).await?.is_empty())
}

/// Reads one run.
pub async fn read(tx: &mut Tx, id: FlowRunId) -> Result<Option<FlowRun>, StoreError> {
    tx.fetch_optional(select().and_where(column(t::FlowRun::Id).eq(id))).await?.as_ref().map(decode).transpose()
}

/// Reads the run that has an idempotency key of its flow.
pub async fn read_by_idempotency_key(tx: &mut Tx, flow: FlowId, key: &str) -> Result<Option<FlowRun>, StoreError> {
    let mut select = select();
    select.and_where(column(t::FlowRun::FlowId).eq(flow)).and_where(column(t::FlowRun::IdempotencyKey).eq(key));
    tx.fetch_optional(&select).await?.as_ref().map(decode).transpose()
}

/// Locks one run until the end of the transaction, then reads it. (One locking statement with the joins would pair the
/// row as others left it with the state as it was before they did.)
pub async fn read_for_update(tx: &mut Tx, id: FlowRunId) -> Result<Option<FlowRun>, StoreError> {
    let mut lock = Query::select();
    lock.column(t::FlowRun::Id).from(t::FlowRun::Table).and_where(Expr::col(t::FlowRun::Id).eq(id));
    tx.dialect().for_update(&mut lock);
    if tx.fetch_optional(&lock).await?.is_none() {
        return Ok(None);
    }
    read(tx, id).await
}

fn update_of(id: FlowRunId, now: Timestamp) -> UpdateStatement {
    Query::update().table(t::FlowRun::Table).value(t::FlowRun::Updated, now).and_where(Expr::col(t::FlowRun::Id).eq(id)).take()
}

/// Changes what a client may change; true where there was such a run.
pub async fn update(tx: &mut Tx, id: FlowRunId, now: Timestamp, change: &FlowRunUpdate) -> Result<bool, StoreError> {
    let mut update = update_of(id, now);
    if let Some(name) = change.name.as_value() {
        update.value(t::FlowRun::Name, name.as_str());
    }
    if let Some(version) = change.flow_version.clone().into_option() {
        update.value(t::FlowRun::FlowVersion, version);
    }
    if let Some(parameters) = change.parameters.as_value() {
        update.value(t::FlowRun::Parameters, json!(parameters));
    }
    if let Some(policy) = change.empirical_policy.as_value() {
        update.value(t::FlowRun::EmpiricalPolicy, json!(policy));
    }
    if let Some(tags) = change.tags.as_value() {
        update.value(t::FlowRun::Tags, json!(tags));
    }
    if let Some(pid) = change.infrastructure_pid.clone().into_option() {
        update.value(t::FlowRun::InfrastructurePid, pid);
    }
    if let Some(variables) = change.job_variables.clone().into_option() {
        update.value(t::FlowRun::JobVariables, optional_json(variables.as_ref()));
    }
    Ok(tx.execute(&update).await? > 0)
}

/// Replaces a run's labels.
pub async fn update_labels(tx: &mut Tx, id: FlowRunId, now: Timestamp, labels: &Labels) -> Result<bool, StoreError> {
    Ok(tx.execute(update_of(id, now).value(t::FlowRun::Labels, json!(labels))).await? > 0)
}

/// Lists runs, each with its state and queue, in one statement.
pub async fn list(tx: &mut Tx, filters: &Filters, sort: FlowRunSort, limit: u64, offset: u64) -> Result<Vec<FlowRun>, StoreError> {
    let mut select = select();
    select.cond_where(related::flow_runs(filters, tx.dialect())).limit(limit).offset(offset);
    order(&mut select, sort);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Orders a query on `flow_run`; equals are ordered by id.
pub fn order(select: &mut SelectStatement, sort: FlowRunSort) {
    let (key, order) = match sort {
        FlowRunSort::IdDesc => (column(t::FlowRun::Id), Order::Desc),
        FlowRunSort::StartTimeAsc => (start_or_expected(), Order::Asc),
        FlowRunSort::StartTimeDesc => (start_or_expected(), Order::Desc),
        FlowRunSort::ExpectedStartTimeAsc => (column(t::FlowRun::ExpectedStartTime), Order::Asc),
        FlowRunSort::ExpectedStartTimeDesc => (column(t::FlowRun::ExpectedStartTime), Order::Desc),
        FlowRunSort::NameAsc => (column(t::FlowRun::Name), Order::Asc),
        FlowRunSort::NameDesc => (column(t::FlowRun::Name), Order::Desc),
        FlowRunSort::NextScheduledStartTimeAsc => (column(t::FlowRun::NextScheduledStartTime), Order::Asc),
        FlowRunSort::EndTimeDesc => (column(t::FlowRun::EndTime), Order::Desc),
    };
    select.order_by_expr(key, order);
    if sort != FlowRunSort::IdDesc {
        select.order_by((t::FlowRun::Table, t::FlowRun::Id), Order::Asc);
    }
}

/// Counts runs.
pub async fn count(tx: &mut Tx, filters: &Filters) -> Result<u64, StoreError> {
    let mut select = Query::select();
    select.expr_as(Func::count(Expr::col(Asterisk)), "count").from(t::FlowRun::Table);
    select.cond_where(related::flow_runs(filters, tx.dialect()));
    Ok(tx.fetch_one(&select).await?.get::<i64>("count")? as u64)
}

/// Deletes runs with their task runs, states and inputs (by the database); gives how many there were.
pub async fn delete(tx: &mut Tx, ids: &[FlowRunId]) -> Result<u64, StoreError> {
    let these = tx.dialect().any_id(Expr::col(t::FlowRun::Id), ids);
    tx.execute(Query::delete().from_table(t::FlowRun::Table).and_where(these)).await
}

/// The labels of a flow run and whether it exists.
pub async fn labels(tx: &mut Tx, id: FlowRunId) -> Result<Option<Labels>, StoreError> {
    let select = Query::select().column(t::FlowRun::Labels).from(t::FlowRun::Table).and_where(Expr::col(t::FlowRun::Id).eq(id)).take();
    let row = tx.fetch_optional(&select).await?;
    row.map(|row| row.json::<Option<Map<String, Value>>>("labels").map(Option::unwrap_or_default)).transpose()
}
