//! Table `work_queue`. A queue is read with the name and type of its pool.

use std::collections::HashMap;

use sea_query::{Asterisk, CaseStatement, Cond, Condition, Expr, ExprTrait, Func, JoinType, Order, Query, SelectStatement};
use serde_json::{Map, Value};

use super::work_pools::{self, SLOT_STATES, decode_slot_holder, join_pool_of_queue, slot_holder_columns, word};
use crate::clock::Timestamp;
use crate::id::{WorkPoolId, WorkQueueId};
use crate::model::state::StateType;
use crate::model::status::WorkQueueStatus;
use crate::model::work_pool::SlotHolder;
use crate::model::work_queue::{QueueFilter, WorkQueue, WorkQueueCreate, WorkQueueUpdate, arrange, free_priority};
use crate::store::schema as t;
use crate::store::{Dialect, Row, StoreError, Tx};

const COLUMNS: [t::WorkQueue; 12] = [
    t::WorkQueue::Id,
    t::WorkQueue::Created,
    t::WorkQueue::Updated,
    t::WorkQueue::Name,
    t::WorkQueue::Description,
    t::WorkQueue::IsPaused,
    t::WorkQueue::ConcurrencyLimit,
    t::WorkQueue::Priority,
    t::WorkQueue::WorkPoolId,
    t::WorkQueue::Filter,
    t::WorkQueue::LastPolled,
    t::WorkQueue::Status,
];

/// Types of state whose runs hold a slot of a queue that is asked for by its own id.
const LEGACY_SLOT_STATES: [StateType; 3] = [StateType::Pending, StateType::Running, StateType::Cancelling];

fn select() -> SelectStatement {
    let mut select = Query::select();
    select
        .columns(COLUMNS.map(|column| (t::WorkQueue::Table, column)))
        .expr_as(Expr::col((t::WorkPool::Table, t::WorkPool::Name)), "work_pool_name")
        .expr_as(Expr::col((t::WorkPool::Table, t::WorkPool::Type)), "work_pool_type")
        .from(t::WorkQueue::Table);
    join_pool_of_queue(&mut select, JoinType::LeftJoin);
    select
}

fn decode(row: &Row) -> Result<WorkQueue, StoreError> {
    Ok(WorkQueue {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        name: row.get("name")?,
        description: row.get("description")?,
        is_paused: row.get("is_paused")?,
        concurrency_limit: row.get("concurrency_limit")?,
        priority: row.get("priority")?,
        work_pool_id: row.get("work_pool_id")?,
        filter: row.json("filter")?,
        last_polled: row.get("last_polled")?,
        work_pool_name: row.get("work_pool_name")?,
        status: Some(word(row, "status")?),
        active_slots: None,
        work_pool_type: row.get("work_pool_type")?,
    })
}

fn id_is(id: WorkQueueId) -> Expr {
    Expr::col((t::WorkQueue::Table, t::WorkQueue::Id)).eq(id)
}

/// Inserts a queue into a pool, with the first free priority where none is asked for; others make room otherwise.
///
/// # Errors
/// [`StoreError::Unique`] where the pool has a queue of that name.
pub async fn insert(tx: &mut Tx, pool: WorkPoolId, now: Timestamp, create: &WorkQueueCreate) -> Result<WorkQueue, StoreError> {
    let id = WorkQueueId::fresh();
    work_pools::lock(tx, pool).await?;
    let priority = match create.priority {
        Some(priority) => priority,
        None => free_priority(&priorities(tx, pool).await?.iter().map(|queue| queue.1).collect::<Vec<_>>()),
    };
    let insert = Query::insert()
        .into_table(t::WorkQueue::Table)
        .columns(COLUMNS)
        .values_panic([
            id.into(),
            now.into(),
            now.into(),
            create.name.as_str().into(),
            // Null takes the default of the column, as everything that the reference inserts.
            create.description.clone().unwrap_or_default().into(),
            create.is_paused.into(),
            create.concurrency_limit.into(),
            priority.into(),
            pool.into(),
            create.filter.as_ref().map(|filter| serde_json::json!(filter)).into(),
            Option::<Timestamp>::None.into(),
            WorkQueueStatus::NotReady.into(),
        ])
        .to_owned();
    tx.execute(&insert).await?;
    if let Some(priority) = create.priority {
        rearrange(tx, pool, now, &[(id, priority)]).await?;
    }
    read(tx, id).await?.ok_or(StoreError::Database(sqlx::Error::RowNotFound))
}

async fn priorities(tx: &mut Tx, pool: WorkPoolId) -> Result<Vec<(WorkQueueId, i64)>, StoreError> {
    let mut select = Query::select();
    select
        .columns([t::WorkQueue::Id, t::WorkQueue::Priority])
        .from(t::WorkQueue::Table)
        .and_where(Expr::col(t::WorkQueue::WorkPoolId).eq(pool))
        .order_by(t::WorkQueue::Priority, Order::Asc);
    tx.fetch_all(&select).await?.iter().map(|row| Ok((row.get("id")?, row.get("priority")?))).collect()
}

/// Makes the priorities of a pool's queues unique, with `wanted` met; see [`arrange`].
pub async fn rearrange(tx: &mut Tx, pool: WorkPoolId, now: Timestamp, wanted: &[(WorkQueueId, i64)]) -> Result<(), StoreError> {
    work_pools::lock(tx, pool).await?;
    let changed = arrange(&priorities(tx, pool).await?, wanted);
    if changed.is_empty() {
        return Ok(());
    }
    let ids: Vec<WorkQueueId> = changed.iter().map(|queue| queue.0).collect();
    let case = changed.iter().fold(CaseStatement::new(), |case, (id, priority)| {
        case.case(Cond::all().add(Expr::col(t::WorkQueue::Id).eq(*id)), Expr::val(*priority).cast_as("integer"))
    });
    let mut update = Query::update();
    update
        .table(t::WorkQueue::Table)
        .value(t::WorkQueue::Priority, case)
        .value(t::WorkQueue::Updated, now)
        .and_where(tx.dialect().any_id(Expr::col(t::WorkQueue::Id), &ids));
    tx.execute(&update).await.map(drop)
}

/// Reads one queue.
pub async fn read(tx: &mut Tx, id: WorkQueueId) -> Result<Option<WorkQueue>, StoreError> {
    tx.fetch_optional(select().and_where(id_is(id))).await?.as_ref().map(decode).transpose()
}

/// Reads a queue of a named pool.
pub async fn read_in_pool(tx: &mut Tx, pool: &str, name: &str) -> Result<Option<WorkQueue>, StoreError> {
    let mut select = select();
    select
        .and_where(Expr::col((t::WorkPool::Table, t::WorkPool::Name)).eq(pool))
        .and_where(Expr::col((t::WorkQueue::Table, t::WorkQueue::Name)).eq(name));
    tx.fetch_optional(&select).await?.as_ref().map(decode).transpose()
}

/// Reads a queue by its name alone: of the given pool, or of any where there is none.
pub async fn read_by_name(tx: &mut Tx, pool: Option<WorkPoolId>, name: &str) -> Result<Option<WorkQueue>, StoreError> {
    let mut select = select();
    select
        .and_where(Expr::col((t::WorkQueue::Table, t::WorkQueue::Name)).eq(name))
        .order_by((t::WorkQueue::Table, t::WorkQueue::Created), Order::Asc)
        .limit(1);
    if let Some(pool) = pool {
        select.and_where(Expr::col((t::WorkQueue::Table, t::WorkQueue::WorkPoolId)).eq(pool));
    }
    tx.fetch_optional(&select).await?.as_ref().map(decode).transpose()
}

/// Order of a list of queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkQueueOrder {
    Name,
    Priority,
}

/// Lists queues, of one pool or of all.
pub async fn list(
    tx: &mut Tx,
    pool: Option<WorkPoolId>,
    condition: Condition,
    order: WorkQueueOrder,
    limit: Option<u64>,
    offset: u64,
) -> Result<Vec<WorkQueue>, StoreError> {
    let mut select = select();
    let column = match order {
        WorkQueueOrder::Name => t::WorkQueue::Name,
        WorkQueueOrder::Priority => t::WorkQueue::Priority,
    };
    select
        .cond_where(condition)
        .order_by((t::WorkQueue::Table, column), Order::Asc)
        .order_by((t::WorkQueue::Table, t::WorkQueue::Id), Order::Asc);
    if let Some(pool) = pool {
        select.and_where(Expr::col((t::WorkQueue::Table, t::WorkQueue::WorkPoolId)).eq(pool));
    }
    if let Some(limit) = limit {
        select.limit(limit).offset(offset);
    }
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Counts the queues of a pool.
pub async fn count(tx: &mut Tx, pool: WorkPoolId) -> Result<i64, StoreError> {
    let mut select = Query::select();
    select
        .expr_as(Func::count(Expr::col(Asterisk)), "count")
        .from(t::WorkQueue::Table)
        .and_where(Expr::col(t::WorkQueue::WorkPoolId).eq(pool));
    tx.fetch_one(&select).await?.get("count")
}

/// Changes a queue, without making room for its priority; true where there was one.
pub async fn update(
    tx: &mut Tx,
    id: WorkQueueId,
    now: Timestamp,
    update: &WorkQueueUpdate,
    status: Option<WorkQueueStatus>,
) -> Result<bool, StoreError> {
    let mut statement = Query::update();
    statement.table(t::WorkQueue::Table).value(t::WorkQueue::Updated, now).and_where(Expr::col(t::WorkQueue::Id).eq(id));
    if let Some(name) = update.name.clone().into_option() {
        statement.value(t::WorkQueue::Name, name);
    }
    if let Some(description) = update.description.clone().into_option() {
        statement.value(t::WorkQueue::Description, description);
    }
    if let Some(is_paused) = update.is_paused.as_value() {
        statement.value(t::WorkQueue::IsPaused, *is_paused);
    }
    if let Some(limit) = update.concurrency_limit.clone().into_option() {
        statement.value(t::WorkQueue::ConcurrencyLimit, limit);
    }
    // The column takes no null, and the answer is the reference's conflict.
    if let Some(priority) = update.priority.clone().into_option() {
        statement.value(t::WorkQueue::Priority, priority);
    }
    if let Some(last_polled) = update.last_polled.clone().into_option() {
        statement.value(t::WorkQueue::LastPolled, last_polled);
    }
    if let Some(filter) = update.filter.clone().into_option() {
        statement.value(t::WorkQueue::Filter, filter.map(|filter| serde_json::json!(filter)));
    }
    if let Some(status) = status {
        statement.value(t::WorkQueue::Status, status);
    }
    Ok(tx.execute(&statement).await? > 0)
}

/// Deletes a queue; true where there was one.
///
/// # Errors
/// [`StoreError::Integrity`] for the default queue of a pool.
pub async fn delete(tx: &mut Tx, id: WorkQueueId) -> Result<bool, StoreError> {
    Ok(tx.execute(Query::delete().from_table(t::WorkQueue::Table).and_where(Expr::col(t::WorkQueue::Id).eq(id))).await? > 0)
}

/// Which runs hold a slot of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// As workers do: pending and running.
    Workers,
    /// As agents do: also cancelling; and by tags where the queue has a filter.
    Agents,
}

/// The queues with their active slots, where they have a limit.
pub async fn with_active_slots(tx: &mut Tx, mut queues: Vec<WorkQueue>, counting: Counting) -> Result<Vec<WorkQueue>, StoreError> {
    let by_id: Vec<WorkQueueId> = queues
        .iter()
        .filter(|queue| queue.concurrency_limit.is_some() && (counting == Counting::Workers || queue.filter.is_none()))
        .map(|queue| queue.id)
        .collect();
    let slots = active_slots(tx, &by_id, counting).await?;
    for queue in queues.iter_mut().filter(|queue| queue.concurrency_limit.is_some()) {
        queue.active_slots = match &queue.filter {
            Some(filter) if counting == Counting::Agents => Some(filtered_slots(tx, filter).await?),
            _ => Some(slots.get(&queue.id).copied().unwrap_or(0)),
        };
    }
    Ok(queues)
}

/// Runs that hold a slot, by queue; queues without any are missing.
pub async fn active_slots(tx: &mut Tx, ids: &[WorkQueueId], counting: Counting) -> Result<HashMap<WorkQueueId, i64>, StoreError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let dialect = tx.dialect();
    let state = Expr::col(t::FlowRun::StateType);
    let mut select = Query::select();
    select
        .column(t::FlowRun::WorkQueueId)
        .expr_as(Func::count(Expr::col(t::FlowRun::Id)), "slots")
        .from(t::FlowRun::Table)
        .and_where(dialect.any_id(Expr::col(t::FlowRun::WorkQueueId), ids))
        .and_where(match counting {
            Counting::Workers => state.is_in(SLOT_STATES),
            Counting::Agents => state.is_in(LEGACY_SLOT_STATES),
        })
        .group_by_col(t::FlowRun::WorkQueueId);
    tx.fetch_all(&select).await?.iter().map(|row| Ok((row.get("work_queue_id")?, row.get("slots")?))).collect()
}

/// The condition on `flow_run` by which an old queue picks its runs.
pub(crate) fn filter_condition(filter: &QueueFilter, dialect: Dialect) -> Condition {
    let mut condition = Cond::all().add(Expr::col((t::FlowRun::Table, t::FlowRun::DeploymentId)).is_not_null());
    if let Some(tags) = &filter.tags {
        condition = condition.add(dialect.json_has_all(Expr::col((t::FlowRun::Table, t::FlowRun::Tags)), tags));
    }
    if let Some(ids) = &filter.deployment_ids {
        condition = condition.add(dialect.any_id(Expr::col((t::FlowRun::Table, t::FlowRun::DeploymentId)), ids));
    }
    condition
}

/// Runs that hold a slot of an old queue.
pub async fn filtered_slots(tx: &mut Tx, filter: &QueueFilter) -> Result<i64, StoreError> {
    let dialect = tx.dialect();
    let mut select = Query::select();
    select
        .expr_as(Func::count(Expr::col(Asterisk)), "count")
        .from(t::FlowRun::Table)
        .cond_where(filter_condition(filter, dialect))
        .and_where(Expr::col((t::FlowRun::Table, t::FlowRun::StateType)).is_in(SLOT_STATES));
    tx.fetch_one(&select).await?.get("count")
}

fn holds_slot(id: WorkQueueId) -> Condition {
    let name =
        Query::select().column(t::WorkQueue::Name).from(t::WorkQueue::Table).and_where(Expr::col(t::WorkQueue::Id).eq(id)).to_owned();
    let column = |column| Expr::col((t::FlowRun::Table, column));
    Cond::all()
        .add(
            Cond::any()
                .add(column(t::FlowRun::WorkQueueId).eq(id))
                .add(Cond::all().add(column(t::FlowRun::WorkQueueId).is_null()).add(column(t::FlowRun::WorkQueueName).in_subquery(name))),
        )
        .add(column(t::FlowRun::StateType).is_in(LEGACY_SLOT_STATES))
}

/// Counts the runs that hold a slot of the queue, be it by its id or its name.
pub async fn count_slot_holders(tx: &mut Tx, id: WorkQueueId) -> Result<i64, StoreError> {
    let mut select = Query::select();
    select.expr_as(Func::count(Expr::col(Asterisk)), "count").from(t::FlowRun::Table).cond_where(holds_slot(id));
    tx.fetch_one(&select).await?.get("count")
}

/// Runs that hold a slot of the queue, be it by its id or its name.
pub async fn slot_holders(tx: &mut Tx, id: WorkQueueId, now: Timestamp, limit: u64, offset: u64) -> Result<Vec<SlotHolder>, StoreError> {
    let mut select = Query::select();
    slot_holder_columns(&mut select);
    select
        .from(t::FlowRun::Table)
        .cond_where(holds_slot(id))
        .order_by((t::FlowRun::Table, t::FlowRun::Id), Order::Asc)
        .limit(limit)
        .offset(offset);
    tx.fetch_all(&select).await?.iter().map(|row| decode_slot_holder(row, now)).collect()
}

/// Runs of the queue that are late.
pub async fn count_late(tx: &mut Tx, id: WorkQueueId) -> Result<i64, StoreError> {
    let mut select = Query::select();
    select
        .expr_as(Func::count(Expr::col(Asterisk)), "count")
        .from(t::FlowRun::Table)
        .and_where(Expr::col(t::FlowRun::WorkQueueId).eq(id))
        .and_where(Expr::col(t::FlowRun::StateName).eq("Late"));
    tx.fetch_one(&select).await?.get("count")
}

/// Notes that queues were polled; gives those that were not ready and are so now. Rows are taken in order of id.
pub async fn mark_polled(tx: &mut Tx, ids: &[WorkQueueId], now: Timestamp) -> Result<Vec<WorkQueue>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let dialect = tx.dialect();
    let mut locked = Query::select();
    locked
        .columns([t::WorkQueue::Id, t::WorkQueue::Status])
        .from(t::WorkQueue::Table)
        .and_where(dialect.any_id(Expr::col(t::WorkQueue::Id), ids))
        .order_by(t::WorkQueue::Id, Order::Asc);
    // The scheduler holds deployments, which are marked next, and inserts runs that refer to queues.
    dialect.for_no_key_update(&mut locked);
    let rows = tx.fetch_all(&locked).await?;
    let mut polled: Vec<WorkQueueId> = Vec::new();
    let mut ready: Vec<WorkQueueId> = Vec::new();
    for row in &rows {
        let id = row.get("id")?;
        let not_ready = word::<WorkQueueStatus>(row, "status")? == WorkQueueStatus::NotReady;
        if not_ready { ready.push(id) } else { polled.push(id) }
    }
    for (ids, status) in [(&polled, None), (&ready, Some(WorkQueueStatus::Ready))] {
        if ids.is_empty() {
            continue;
        }
        let mut update = Query::update();
        update
            .table(t::WorkQueue::Table)
            .value(t::WorkQueue::LastPolled, now)
            .value(t::WorkQueue::Updated, now)
            .and_where(dialect.any_id(Expr::col(t::WorkQueue::Id), ids));
        if let Some(status) = status {
            update.value(t::WorkQueue::Status, status);
        }
        tx.execute(&update).await?;
    }
    if ready.is_empty() {
        return Ok(Vec::new());
    }
    let mut select = select();
    select.and_where(dialect.any_id(Expr::col((t::WorkQueue::Table, t::WorkQueue::Id)), &ready));
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Field by field, what an update of a queue changed: `{field: {from, to}}`. Pausing is told by the status.
pub fn changes(before: &WorkQueue, after: &WorkQueue) -> Map<String, Value> {
    let (old, new) = (serde_json::json!(before), serde_json::json!(after));
    ["name", "description", "concurrency_limit", "priority"]
        .into_iter()
        .filter(|field| old[*field] != new[*field])
        .map(|field| (field.to_owned(), serde_json::json!({"from": old[field], "to": new[field]})))
        .collect()
}
