//! Table `task_delivery` of ours: background task runs that wait for a task worker, and who hands them out.
//!
//! A row is written in the transaction that makes its run ready ([`enqueue`]), so a run is in the queue if and only if it
//! was scheduled. A process [`claim`]s rows for its task workers, a short time at a time, and [`acknowledge`]s what they
//! have taken; what it [`release`]s, or holds no longer because it died, is taken by another one. An acknowledged row
//! stays until its run has left SCHEDULED, so that [`recover`] does not take it for a run that nobody ever queued.

use sea_query::{Alias, Expr, ExprTrait, OnConflict, Order, Query};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::TaskRunId;
use crate::model::state::StateType;
use crate::store::schema as t;
use crate::store::{Hint, StoreError, Tx};

/// The stream of hints about task runs that wait; the body is a task key.
pub const HINTS: &str = "task-runs";

const TABLE: &str = "task_delivery";
const COLUMNS: [&str; 7] = ["task_run_id", "task_key", "rank", "queued", "owner", "claimed_until", "acked"];

/// In which of the queues of its task key a run waits. The first goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// Handed out before, or a retry.
    Retry = 0,
    /// New.
    New = 1,
}

fn hint(tx: &mut Tx, task_key: &str) {
    tx.hint(Hint { stream: HINTS, body: task_key.to_owned() });
}

/// Lets a task run wait for a task worker, whoever had it before.
pub async fn enqueue(tx: &mut Tx, id: TaskRunId, task_key: &str, rank: Rank, now: Timestamp) -> Result<(), StoreError> {
    let nobody = Expr::val(Option::<Uuid>::None);
    let never = || Expr::val(Option::<Timestamp>::None);
    let mut insert = Query::insert();
    insert
        .into_table(tx.dialect().own_table(TABLE))
        .columns(COLUMNS)
        .values_panic([id.into(), task_key.into(), (rank as i32).into(), now.into(), nobody, never(), never()])
        .on_conflict(OnConflict::column("task_run_id").update_columns(COLUMNS[1..].iter().copied()).to_owned());
    tx.execute(&insert).await?;
    hint(tx, task_key);
    Ok(())
}

/// Whether fewer than `max` runs of the key wait in that queue.
pub async fn has_room(tx: &mut Tx, task_key: &str, rank: Rank, max: u64) -> Result<bool, StoreError> {
    let mut select = Query::select();
    select
        .column("task_run_id")
        .from(tx.dialect().own_table(TABLE))
        .and_where(Expr::col("task_key").eq(task_key))
        .and_where(Expr::col("rank").eq(rank as i32))
        .and_where(Expr::col("acked").is_null())
        .limit(1)
        .offset(max.saturating_sub(1));
    Ok(tx.fetch_optional(&select).await?.is_none())
}

/// A task run that was claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    pub id: TaskRunId,
    pub task_key: String,
}

/// Claims runs of any of the keys that nobody holds, retries first, oldest first, at most `limit`.
pub async fn claim(
    tx: &mut Tx,
    owner: Uuid,
    keys: &[String],
    limit: u64,
    until: Timestamp,
    now: Timestamp,
) -> Result<Vec<Claimed>, StoreError> {
    let dialect = tx.dialect();
    let table = dialect.own_table_name(TABLE);
    let column = |name: &'static str| Expr::col((table.clone(), Alias::new(name)));
    let mut select = Query::select();
    select
        .expr(column("task_run_id"))
        .expr(column("task_key"))
        .from(dialect.own_table(TABLE))
        .inner_join(t::TaskRun::Table, Expr::col((t::TaskRun::Table, t::TaskRun::Id)).eq(column("task_run_id")))
        .and_where(column("task_key").is_in(keys.iter().map(String::as_str)))
        .and_where(column("acked").is_null())
        .and_where(column("claimed_until").is_null().or(column("claimed_until").lt(now)))
        .and_where(Expr::col((t::TaskRun::Table, t::TaskRun::StateType)).eq(StateType::Scheduled))
        .order_by_expr(column("rank"), Order::Asc)
        .order_by_expr(column("queued"), Order::Asc)
        .order_by_expr(column("task_run_id"), Order::Asc)
        .limit(limit);
    dialect.for_update_of_skip_locked(&mut select, table.clone());
    let claimed: Vec<Claimed> = tx
        .fetch_all(&select)
        .await?
        .iter()
        .map(|row| Ok(Claimed { id: row.get("task_run_id")?, task_key: row.get("task_key")? }))
        .collect::<Result<_, StoreError>>()?;
    if claimed.is_empty() {
        return Ok(claimed);
    }
    let ids: Vec<TaskRunId> = claimed.iter().map(|one| one.id).collect();
    let mut update = Query::update();
    update
        .table(dialect.own_table(TABLE))
        .value("owner", owner)
        .value("claimed_until", until)
        .and_where(dialect.any_id(Expr::col("task_run_id"), &ids));
    tx.execute(&update).await?;
    Ok(claimed)
}

/// Notes that task workers have taken runs; those that `owner` holds no longer are left alone.
pub async fn acknowledge(tx: &mut Tx, owner: Uuid, ids: &[TaskRunId], now: Timestamp) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    let dialect = tx.dialect();
    let mut update = Query::update();
    update
        .table(dialect.own_table(TABLE))
        .value("acked", now)
        .value("owner", Expr::val(Option::<Uuid>::None))
        .value("claimed_until", Expr::val(Option::<Timestamp>::None))
        .and_where(Expr::col("owner").eq(owner))
        .and_where(dialect.any_id(Expr::col("task_run_id"), ids));
    tx.execute(&update).await.map(drop)
}

/// Gives runs back that nobody has acknowledged; they go first from now on.
pub async fn release(tx: &mut Tx, owner: Uuid, ids: &[TaskRunId]) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    let dialect = tx.dialect();
    let mut update = Query::update();
    update
        .table(dialect.own_table(TABLE))
        .value("rank", Rank::Retry as i32)
        .value("owner", Expr::val(Option::<Uuid>::None))
        .value("claimed_until", Expr::val(Option::<Timestamp>::None))
        .and_where(Expr::col("owner").eq(owner))
        .and_where(dialect.any_id(Expr::col("task_run_id"), ids))
        .returning(Query::returning().column("task_key"));
    for row in tx.fetch_all(&update).await? {
        let task_key: String = row.get("task_key")?;
        hint(tx, &task_key);
    }
    Ok(())
}

/// Goes on holding runs that `owner` holds.
pub async fn renew(tx: &mut Tx, owner: Uuid, ids: &[TaskRunId], until: Timestamp) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    let dialect = tx.dialect();
    let mut update = Query::update();
    update
        .table(dialect.own_table(TABLE))
        .value("claimed_until", until)
        .and_where(Expr::col("owner").eq(owner))
        .and_where(dialect.any_id(Expr::col("task_run_id"), ids));
    tx.execute(&update).await.map(drop)
}

/// Forgets rows queued before `before` whose run has left SCHEDULED or is gone, at most `limit`.
pub async fn forget(tx: &mut Tx, before: Timestamp, limit: u64) -> Result<u64, StoreError> {
    let dialect = tx.dialect();
    let table = dialect.own_table_name(TABLE);
    let column = |name: &'static str| Expr::col((table.clone(), Alias::new(name)));
    let scheduled = Expr::col((t::TaskRun::Table, t::TaskRun::StateType)).eq(StateType::Scheduled);
    let mut history = Query::select();
    history
        .expr(column("task_run_id"))
        .from(dialect.own_table(TABLE))
        .left_join(t::TaskRun::Table, Expr::col((t::TaskRun::Table, t::TaskRun::Id)).eq(column("task_run_id")).and(scheduled))
        .and_where(Expr::col((t::TaskRun::Table, t::TaskRun::Id)).is_null())
        .and_where(column("queued").lt(before))
        .order_by_expr(column("task_run_id"), Order::Asc)
        .limit(limit);
    // One that is being queued anew is left alone.
    dialect.for_update_of_skip_locked(&mut history, table.clone());
    let ids = tx.fetch_all(&history).await?.iter().map(|row| row.get("task_run_id")).collect::<Result<Vec<TaskRunId>, _>>()?;
    if ids.is_empty() {
        return Ok(0);
    }
    let mut delete = Query::delete();
    delete.from_table(dialect.own_table(TABLE)).and_where(dialect.any_id(Expr::col("task_run_id"), &ids));
    tx.execute(&delete).await
}

/// Queues scheduled background task runs that no row tells of, if they have been so since `before`, at most `limit`: those
/// of a server that kept its queue in memory.
pub async fn recover(tx: &mut Tx, before: Timestamp, limit: u64) -> Result<u64, StoreError> {
    let dialect = tx.dialect();
    let run = |column: t::TaskRun| Expr::col((t::TaskRun::Table, column));
    let mut queued = Query::select();
    queued
        .expr(Expr::val(1))
        .from(dialect.own_table(TABLE))
        .and_where(Expr::col((dialect.own_table_name(TABLE), Alias::new("task_run_id"))).eq(run(t::TaskRun::Id)));
    let details = Expr::col((t::TaskRunState::Table, t::TaskRunState::StateDetails));
    let mut missing = Query::select();
    missing
        .expr(run(t::TaskRun::Id))
        .expr(run(t::TaskRun::TaskKey))
        .expr(Expr::cust((Rank::New as i32).to_string()))
        .expr(run(t::TaskRun::StateTimestamp))
        .from(t::TaskRun::Table)
        .inner_join(t::TaskRunState::Table, Expr::col((t::TaskRunState::Table, t::TaskRunState::Id)).eq(run(t::TaskRun::StateId)))
        .and_where(run(t::TaskRun::StateType).eq(StateType::Scheduled))
        .and_where(run(t::TaskRun::StateTimestamp).lt(before))
        .and_where(dialect.json_is_true(details, "deferred"))
        .and_where(Expr::exists(queued).not())
        .order_by_expr(run(t::TaskRun::Id), Order::Asc)
        .limit(limit);
    let mut insert = Query::insert();
    insert
        .into_table(dialect.own_table(TABLE))
        .columns(["task_run_id", "task_key", "rank", "queued"])
        .select_from(missing)
        .expect("as many columns as are named")
        .on_conflict(OnConflict::column("task_run_id").do_nothing().to_owned())
        .returning(Query::returning().column("task_key"));
    let rows = tx.fetch_all(&insert).await?;
    for row in &rows {
        let task_key: String = row.get("task_key")?;
        hint(tx, &task_key);
    }
    Ok(rows.len() as u64)
}
