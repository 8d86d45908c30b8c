//! Table `work_pool`.

use std::collections::HashMap;

use sea_query::{Asterisk, Condition, Expr, ExprTrait, Func, JoinType, Order, Query, SelectStatement};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::{WorkPoolId, WorkQueueId};
use crate::model::state::StateType;
use crate::model::status::WorkPoolStatus;
use crate::model::work_pool::{SlotHolder, WorkPool, WorkPoolCreate, WorkPoolUpdate};
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

const COLUMNS: [t::WorkPool; 14] = [
    t::WorkPool::Id,
    t::WorkPool::Created,
    t::WorkPool::Updated,
    t::WorkPool::Name,
    t::WorkPool::Description,
    t::WorkPool::Type,
    t::WorkPool::BaseJobTemplate,
    t::WorkPool::IsPaused,
    t::WorkPool::ConcurrencyLimit,
    t::WorkPool::Status,
    t::WorkPool::DefaultQueueId,
    t::WorkPool::StorageConfiguration,
    t::WorkPool::LastTransitionedStatusAt,
    t::WorkPool::LastStatusEventId,
];

/// Types of state whose runs hold a slot of their pool, and of their queue while it is served by workers.
pub const SLOT_STATES: [StateType; 2] = [StateType::Pending, StateType::Running];

fn select() -> SelectStatement {
    Query::select().columns(COLUMNS.map(|column| (t::WorkPool::Table, column))).from(t::WorkPool::Table).to_owned()
}

/// Reads a text column that holds a word of an enumeration.
pub(crate) fn word<T: std::str::FromStr<Err: std::fmt::Display>>(row: &Row, column: &str) -> Result<T, StoreError> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error: T::Err| StoreError::Decode { column: column.to_owned(), reason: error.to_string() })
}

fn decode(row: &Row) -> Result<WorkPool, StoreError> {
    Ok(WorkPool {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        name: row.get("name")?,
        description: row.get("description")?,
        kind: row.get("type")?,
        base_job_template: row.json("base_job_template")?,
        is_paused: row.get("is_paused")?,
        concurrency_limit: row.get("concurrency_limit")?,
        status: Some(word(row, "status")?),
        default_queue_id: row.get("default_queue_id")?,
        storage_configuration: row.json::<Option<_>>("storage_configuration")?.unwrap_or_default(),
        active_slots: None,
        last_transitioned_status_at: row.get("last_transitioned_status_at")?,
        last_status_event_id: row.get("last_status_event_id")?,
    })
}

/// Names a pool by its id or its name.
#[derive(Debug, Clone)]
pub enum Key {
    Id(WorkPoolId),
    Name(String),
}

fn key_is(key: &Key) -> Expr {
    match key {
        Key::Id(id) => Expr::col((t::WorkPool::Table, t::WorkPool::Id)).eq(*id),
        Key::Name(name) => Expr::col((t::WorkPool::Table, t::WorkPool::Name)).eq(name.as_str()),
    }
}

/// Inserts a pool without its default queue.
///
/// # Errors
/// [`StoreError::Unique`] where the name is taken.
pub async fn insert(
    tx: &mut Tx,
    id: WorkPoolId,
    now: Timestamp,
    create: &WorkPoolCreate,
    status: WorkPoolStatus,
) -> Result<(), StoreError> {
    let insert = Query::insert()
        .into_table(t::WorkPool::Table)
        .columns([
            t::WorkPool::Id,
            t::WorkPool::Created,
            t::WorkPool::Updated,
            t::WorkPool::Name,
            t::WorkPool::Description,
            t::WorkPool::Type,
            t::WorkPool::BaseJobTemplate,
            t::WorkPool::IsPaused,
            t::WorkPool::ConcurrencyLimit,
            t::WorkPool::Status,
            t::WorkPool::StorageConfiguration,
        ])
        .values_panic([
            id.into(),
            now.into(),
            now.into(),
            create.name.as_str().into(),
            create.description.clone().into(),
            create.kind.as_str().into(),
            Value::Object(create.base_job_template.clone()).into(),
            create.is_paused.into(),
            create.concurrency_limit.into(),
            status.into(),
            serde_json::json!(create.storage_configuration).into(),
        ])
        .to_owned();
    tx.execute(&insert).await.map(drop)
}

/// Names the default queue of a pool that is being made.
pub async fn set_default_queue(tx: &mut Tx, id: WorkPoolId, queue: WorkQueueId) -> Result<(), StoreError> {
    let update =
        Query::update().table(t::WorkPool::Table).value(t::WorkPool::DefaultQueueId, queue).and_where(key_is(&Key::Id(id))).to_owned();
    tx.execute(&update).await.map(drop)
}

/// Reads one pool.
pub async fn read(tx: &mut Tx, key: &Key) -> Result<Option<WorkPool>, StoreError> {
    tx.fetch_optional(select().and_where(key_is(key))).await?.as_ref().map(decode).transpose()
}

/// Lists pools by name.
pub async fn list(tx: &mut Tx, condition: Condition, limit: u64, offset: u64) -> Result<Vec<WorkPool>, StoreError> {
    let mut select = select();
    select
        .cond_where(condition)
        .order_by((t::WorkPool::Table, t::WorkPool::Name), Order::Asc)
        .order_by((t::WorkPool::Table, t::WorkPool::Id), Order::Asc)
        .limit(limit)
        .offset(offset);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Counts pools.
pub async fn count(tx: &mut Tx, condition: Condition) -> Result<i64, StoreError> {
    let mut select = Query::select();
    select.expr_as(Func::count(Expr::col(Asterisk)), "count").from(t::WorkPool::Table).cond_where(condition);
    tx.fetch_one(&select).await?.get("count")
}

/// A change of status with the event that tells of it.
#[derive(Debug, Clone, Copy)]
pub struct StatusChange {
    pub status: WorkPoolStatus,
    pub event_id: Uuid,
    pub at: Timestamp,
}

/// Changes a pool; true where there was one.
pub async fn update(
    tx: &mut Tx,
    id: WorkPoolId,
    now: Timestamp,
    update: &WorkPoolUpdate,
    status: Option<StatusChange>,
) -> Result<bool, StoreError> {
    let mut statement = Query::update();
    statement.table(t::WorkPool::Table).value(t::WorkPool::Updated, now).and_where(key_is(&Key::Id(id)));
    if let Some(description) = update.description.clone().into_option() {
        statement.value(t::WorkPool::Description, description);
    }
    // This column, and that of the storage, take no null: the answer is the reference's conflict.
    if let Some(is_paused) = update.is_paused.clone().into_option() {
        statement.value(t::WorkPool::IsPaused, is_paused);
    }
    if let Some(template) = update.base_job_template.as_value() {
        statement.value(t::WorkPool::BaseJobTemplate, Value::Object(template.clone()));
    }
    if let Some(limit) = update.concurrency_limit.clone().into_option() {
        statement.value(t::WorkPool::ConcurrencyLimit, limit);
    }
    if let Some(storage) = update.storage_configuration.clone().into_option() {
        statement.value(t::WorkPool::StorageConfiguration, storage.map(|storage| serde_json::json!(storage)));
    }
    if let Some(change) = status {
        statement
            .value(t::WorkPool::Status, change.status)
            .value(t::WorkPool::LastStatusEventId, change.event_id)
            .value(t::WorkPool::LastTransitionedStatusAt, change.at);
    }
    Ok(tx.execute(&statement).await? > 0)
}

/// Deletes a pool with its queues and workers; true where there was one.
pub async fn delete(tx: &mut Tx, id: WorkPoolId) -> Result<bool, StoreError> {
    Ok(tx.execute(Query::delete().from_table(t::WorkPool::Table).and_where(key_is(&Key::Id(id)))).await? > 0)
}

/// Serializes changes of the priorities of a pool's queues.
pub async fn lock(tx: &mut Tx, id: WorkPoolId) -> Result<(), StoreError> {
    let mut select = Query::select();
    select.column(t::WorkPool::Id).from(t::WorkPool::Table).and_where(key_is(&Key::Id(id)));
    tx.dialect().for_update(&mut select);
    tx.fetch_all(&select).await.map(drop)
}

/// Runs that hold a slot, by pool; pools without any are missing.
pub async fn active_slots(tx: &mut Tx, ids: &[WorkPoolId]) -> Result<HashMap<WorkPoolId, i64>, StoreError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let dialect = tx.dialect();
    let mut select = Query::select();
    select
        .column((t::WorkQueue::Table, t::WorkQueue::WorkPoolId))
        .expr_as(Func::count(Expr::col((t::FlowRun::Table, t::FlowRun::Id))), "slots")
        .from(t::FlowRun::Table)
        .inner_join(
            t::WorkQueue::Table,
            Expr::col((t::FlowRun::Table, t::FlowRun::WorkQueueId)).equals((t::WorkQueue::Table, t::WorkQueue::Id)),
        )
        .and_where(dialect.any_id(Expr::col((t::WorkQueue::Table, t::WorkQueue::WorkPoolId)), ids))
        .and_where(Expr::col((t::FlowRun::Table, t::FlowRun::StateType)).is_in(SLOT_STATES))
        .group_by_col((t::WorkQueue::Table, t::WorkQueue::WorkPoolId));
    tx.fetch_all(&select).await?.iter().map(|row| Ok((row.get("work_pool_id")?, row.get("slots")?))).collect()
}

/// The pools with their active slots, where they have a limit.
pub async fn with_active_slots(tx: &mut Tx, mut pools: Vec<WorkPool>) -> Result<Vec<WorkPool>, StoreError> {
    let limited: Vec<WorkPoolId> = pools.iter().filter(|pool| pool.concurrency_limit.is_some()).map(|pool| pool.id).collect();
    let slots = active_slots(tx, &limited).await?;
    for pool in pools.iter_mut().filter(|pool| pool.concurrency_limit.is_some()) {
        pool.active_slots = Some(slots.get(&pool.id).copied().unwrap_or(0));
    }
    Ok(pools)
}

/// Columns of a [`SlotHolder`].
pub(crate) fn slot_holder_columns(select: &mut SelectStatement) {
    for column in
        [t::FlowRun::Id, t::FlowRun::Name, t::FlowRun::StateType, t::FlowRun::StateName, t::FlowRun::StartTime, t::FlowRun::StateTimestamp]
    {
        select.column((t::FlowRun::Table, column));
    }
}

/// Reads a [`SlotHolder`].
pub(crate) fn decode_slot_holder(row: &Row, now: Timestamp) -> Result<SlotHolder, StoreError> {
    let state_timestamp: Option<Timestamp> = row.get("state_timestamp")?;
    Ok(SlotHolder {
        id: row.get("id")?,
        name: row.get("name")?,
        state_type: row.get("state_type")?,
        state_name: row.get("state_name")?,
        start_time: row.get("start_time")?,
        state_timestamp,
        time_in_current_state: state_timestamp.map(|at| (now - at).num_microseconds().unwrap_or(i64::MAX) as f64 / 1e6),
    })
}

/// Runs that hold a slot of the given queues, at most `per_queue` of each, oldest id first.
pub async fn slot_holders(
    tx: &mut Tx,
    queues: &[WorkQueueId],
    per_queue: u64,
    now: Timestamp,
) -> Result<HashMap<WorkQueueId, Vec<SlotHolder>>, StoreError> {
    let mut holders: HashMap<WorkQueueId, Vec<SlotHolder>> = HashMap::new();
    if queues.is_empty() || per_queue == 0 {
        return Ok(holders);
    }
    let dialect = tx.dialect();
    let mut ranked = Query::select();
    slot_holder_columns(&mut ranked);
    ranked
        .column((t::FlowRun::Table, t::FlowRun::WorkQueueId))
        .expr_as(Expr::cust("row_number() OVER (PARTITION BY flow_run.work_queue_id ORDER BY flow_run.id)"), "place")
        .from(t::FlowRun::Table)
        .and_where(dialect.any_id(Expr::col((t::FlowRun::Table, t::FlowRun::WorkQueueId)), queues))
        .and_where(Expr::col((t::FlowRun::Table, t::FlowRun::StateType)).is_in(SLOT_STATES));
    let mut select = Query::select();
    select
        .column(Asterisk)
        .from_subquery(ranked, "ranked")
        .and_where(Expr::col("place").lte(i64::try_from(per_queue).unwrap_or(i64::MAX)))
        .order_by("id", Order::Asc);
    for row in tx.fetch_all(&select).await? {
        holders.entry(row.get("work_queue_id")?).or_default().push(decode_slot_holder(&row, now)?);
    }
    Ok(holders)
}

/// Joins `work_pool` to a statement over `work_queue`.
pub(crate) fn join_pool_of_queue(select: &mut SelectStatement, kind: JoinType) {
    select.join(
        kind,
        t::WorkPool::Table,
        Expr::col((t::WorkPool::Table, t::WorkPool::Id)).equals((t::WorkQueue::Table, t::WorkQueue::WorkPoolId)),
    );
}

/// Field by field, what an update of a pool changed: `{field: {from, to}}`. Pausing is told by the status.
pub fn changes(before: &WorkPool, after: &WorkPool) -> Map<String, Value> {
    let (old, new) = (serde_json::json!(before), serde_json::json!(after));
    ["description", "base_job_template", "concurrency_limit", "storage_configuration"]
        .into_iter()
        .filter(|field| old[*field] != new[*field])
        .map(|field| (field.to_owned(), serde_json::json!({"from": old[field], "to": new[field]})))
        .collect()
}
