//! Table `task_run`. A task run changes state in `orchestration` (background tasks, old clients) or by the recorder
//! of task run events; both write whole rows with [`save`] or their own upsert.

use sea_query::{Asterisk, Expr, ExprTrait, Func, OnConflict, Order, Query, SelectStatement};
use serde_json::json;

use crate::clock::Timestamp;
use crate::id::{FlowRunId, TaskRunId};
use crate::model::filter::Filters;
use crate::model::run::CountByState;
use crate::model::task_run::{TaskRun, TaskRunSort, TaskRunUpdate};
use crate::store::filter::related;
use crate::store::schema as t;
use crate::store::{Dialect, Row, Seconds, StoreError, Tx, current_state};

/// Every column, in the order of [`values`].
pub const COLUMNS: [t::TaskRun; 25] = [
    t::TaskRun::Id,
    t::TaskRun::Created,
    t::TaskRun::Updated,
    t::TaskRun::Name,
    t::TaskRun::FlowRunId,
    t::TaskRun::TaskKey,
    t::TaskRun::DynamicKey,
    t::TaskRun::CacheKey,
    t::TaskRun::CacheExpiration,
    t::TaskRun::TaskVersion,
    t::TaskRun::EmpiricalPolicy,
    t::TaskRun::Tags,
    t::TaskRun::Labels,
    t::TaskRun::StateId,
    t::TaskRun::TaskInputs,
    t::TaskRun::StateType,
    t::TaskRun::StateName,
    t::TaskRun::StateTimestamp,
    t::TaskRun::RunCount,
    t::TaskRun::FlowRunRunCount,
    t::TaskRun::ExpectedStartTime,
    t::TaskRun::NextScheduledStartTime,
    t::TaskRun::StartTime,
    t::TaskRun::EndTime,
    t::TaskRun::TotalRunTime,
];

/// The values of a row, in the order of [`COLUMNS`].
pub fn values(run: &TaskRun, dialect: Dialect) -> [Expr; 25] {
    [
        run.id.into(),
        run.created.into(),
        run.updated.into(),
        run.name.as_str().into(),
        run.flow_run_id.into(),
        run.task_key.as_str().into(),
        run.dynamic_key.as_str().into(),
        run.cache_key.clone().into(),
        run.cache_expiration.into(),
        run.task_version.clone().into(),
        json!(run.empirical_policy).into(),
        json!(run.tags).into(),
        Expr::val(run.labels.as_ref().map(|labels| json!(labels))),
        run.state_id.into(),
        json!(run.task_inputs).into(),
        run.state_type.into(),
        run.state_name.clone().into(),
        run.state_timestamp.into(),
        run.run_count.into(),
        run.flow_run_run_count.into(),
        run.expected_start_time.into(),
        run.next_scheduled_start_time.into(),
        run.start_time.into(),
        run.end_time.into(),
        dialect.interval(run.total_run_time),
    ]
}

fn column(column: t::TaskRun) -> Expr {
    Expr::col((t::TaskRun::Table, column))
}

fn select() -> SelectStatement {
    let mut select = Query::select();
    select.columns(COLUMNS.map(|column| (t::TaskRun::Table, column))).from(t::TaskRun::Table);
    current_state::join_task_run(&mut select);
    select
}

fn decode(row: &Row) -> Result<TaskRun, StoreError> {
    Ok(TaskRun {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        name: row.get("name")?,
        flow_run_id: row.get("flow_run_id")?,
        task_key: row.get("task_key")?,
        dynamic_key: row.get("dynamic_key")?,
        cache_key: row.get("cache_key")?,
        cache_expiration: row.get("cache_expiration")?,
        task_version: row.get("task_version")?,
        empirical_policy: row.json("empirical_policy")?,
        tags: row.json("tags")?,
        labels: row.json("labels")?,
        state_id: row.get("state_id")?,
        task_inputs: row.json("task_inputs")?,
        state_type: row.get("state_type")?,
        state_name: row.get("state_name")?,
        state_timestamp: row.get("state_timestamp")?,
        run_count: row.get("run_count")?,
        flow_run_run_count: row.get("flow_run_run_count")?,
        expected_start_time: row.get("expected_start_time")?,
        next_scheduled_start_time: row.get("next_scheduled_start_time")?,
        start_time: row.get("start_time")?,
        end_time: row.get("end_time")?,
        total_run_time: row.get::<Seconds>("total_run_time")?.0,
        state: current_state::decode(row)?,
    })
}

/// Inserts a task run, all columns as given; false where its flow run has one of the same task key and dynamic key.
pub async fn insert(tx: &mut Tx, run: &TaskRun) -> Result<bool, StoreError> {
    let mut insert = Query::insert();
    insert
        .into_table(t::TaskRun::Table)
        .columns(COLUMNS)
        .values_panic(values(run, tx.dialect()))
        .on_conflict(OnConflict::columns([t::TaskRun::FlowRunId, t::TaskRun::TaskKey, t::TaskRun::DynamicKey]).do_nothing().to_owned());
    Ok(tx.execute(&insert).await? > 0)
}

/// Reads one task run.
pub async fn read(tx: &mut Tx, id: TaskRunId) -> Result<Option<TaskRun>, StoreError> {
    tx.fetch_optional(select().and_where(column(t::TaskRun::Id).eq(id))).await?.as_ref().map(decode).transpose()
}

/// Reads task runs, each with its state; those that are gone are missing.
pub async fn read_many(tx: &mut Tx, ids: &[TaskRunId]) -> Result<Vec<TaskRun>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let among = tx.dialect().any_id(column(t::TaskRun::Id), ids);
    tx.fetch_all(select().and_where(among)).await?.iter().map(decode).collect()
}

/// Reads one task run and the name of its flow run.
pub async fn read_with_flow_run_name(tx: &mut Tx, id: TaskRunId) -> Result<Option<(TaskRun, Option<String>)>, StoreError> {
    let mut select = select();
    select
        .left_join(t::FlowRun::Table, Expr::col((t::FlowRun::Table, t::FlowRun::Id)).equals((t::TaskRun::Table, t::TaskRun::FlowRunId)))
        .expr_as(Expr::col((t::FlowRun::Table, t::FlowRun::Name)), "flow_run_name")
        .and_where(column(t::TaskRun::Id).eq(id));
    let row = tx.fetch_optional(&select).await?;
    row.map(|row| Ok((decode(&row)?, row.get("flow_run_name")?))).transpose()
}

/// Reads the task run of these keys in a flow run, or of these keys and no flow run.
pub async fn read_by_keys(
    tx: &mut Tx,
    flow_run: Option<FlowRunId>,
    task_key: &str,
    dynamic_key: &str,
) -> Result<Option<TaskRun>, StoreError> {
    let mut select = select();
    let of_run = column(t::TaskRun::FlowRunId);
    select
        .and_where(flow_run.map_or_else(|| of_run.clone().is_null(), |id| of_run.clone().eq(id)))
        .and_where(column(t::TaskRun::TaskKey).eq(task_key))
        .and_where(column(t::TaskRun::DynamicKey).eq(dynamic_key))
        .limit(1);
    tx.fetch_optional(&select).await?.as_ref().map(decode).transpose()
}

/// Changes what a client may change; true where there was such a task run.
pub async fn update(tx: &mut Tx, id: TaskRunId, now: Timestamp, change: &TaskRunUpdate) -> Result<bool, StoreError> {
    let mut update = Query::update();
    update.table(t::TaskRun::Table).value(t::TaskRun::Updated, now).and_where(Expr::col(t::TaskRun::Id).eq(id));
    if let Some(name) = change.name.as_value() {
        update.value(t::TaskRun::Name, name.as_str());
    }
    Ok(tx.execute(&update).await? > 0)
}

/// Lists task runs, each with its state, in one statement.
pub async fn list(tx: &mut Tx, filters: &Filters, sort: TaskRunSort, limit: u64, offset: u64) -> Result<Vec<TaskRun>, StoreError> {
    let (key, order) = match sort {
        TaskRunSort::IdDesc => (t::TaskRun::Id, Order::Desc),
        TaskRunSort::ExpectedStartTimeAsc => (t::TaskRun::ExpectedStartTime, Order::Asc),
        TaskRunSort::ExpectedStartTimeDesc => (t::TaskRun::ExpectedStartTime, Order::Desc),
        TaskRunSort::NameAsc => (t::TaskRun::Name, Order::Asc),
        TaskRunSort::NameDesc => (t::TaskRun::Name, Order::Desc),
        TaskRunSort::NextScheduledStartTimeAsc => (t::TaskRun::NextScheduledStartTime, Order::Asc),
        TaskRunSort::EndTimeDesc => (t::TaskRun::EndTime, Order::Desc),
    };
    let mut select = select();
    select.cond_where(related::task_runs(filters, tx.dialect())).order_by((t::TaskRun::Table, key), order).limit(limit).offset(offset);
    if sort != TaskRunSort::IdDesc {
        select.order_by((t::TaskRun::Table, t::TaskRun::Id), Order::Asc);
    }
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Counts task runs.
pub async fn count(tx: &mut Tx, filters: &Filters) -> Result<u64, StoreError> {
    let mut select = Query::select();
    select.expr_as(Func::count(Expr::col(Asterisk)), "count").from(t::TaskRun::Table);
    select.cond_where(related::task_runs(filters, tx.dialect()));
    Ok(tx.fetch_one(&select).await?.get::<i64>("count")? as u64)
}

/// Counts task runs by the type of their state.
pub async fn count_by_state(tx: &mut Tx, filters: &Filters) -> Result<CountByState, StoreError> {
    let mut select = Query::select();
    select
        .expr_as(column(t::TaskRun::StateType), "state_type")
        .expr_as(Func::count(Expr::col(Asterisk)), "count")
        .from(t::TaskRun::Table)
        .and_where(column(t::TaskRun::StateType).is_not_null())
        .cond_where(related::task_runs(filters, tx.dialect()))
        .group_by_col((t::TaskRun::Table, t::TaskRun::StateType));
    let mut counts = CountByState::default();
    for row in tx.fetch_all(&select).await? {
        *counts.of(row.get("state_type")?) = row.get("count")?;
    }
    Ok(counts)
}

/// Deletes task runs; gives how many there were.
pub async fn delete(tx: &mut Tx, ids: &[TaskRunId]) -> Result<u64, StoreError> {
    let these = tx.dialect().any_id(Expr::col(t::TaskRun::Id), ids);
    tx.execute(Query::delete().from_table(t::TaskRun::Table).and_where(these)).await
}
