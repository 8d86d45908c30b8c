//! Table `cleanup_message` of ours: infrastructure that a worker of a pool has to tear down.
//!
//! As the reference's cleanup queue (`prefect/server/worker_communication/cleanup_queue`), but in the database, so that a
//! message is made in the transaction that asks for it and survives any node: delivered at least once, held by one worker
//! at a time under a token and a lease, given up after so many deliveries. A message that is done with or given up is
//! remembered for a while, so that a second one with its key is not made.

use chrono::TimeDelta;
use sea_query::{Cond, Expr, ExprTrait, OnConflict, Order, Query, SelectStatement};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::{WorkPoolId, WorkQueueId};
use crate::model::worker_channel::{CleanupKind, CleanupOperation, CleanupStatus};
use crate::store::{Hint, Row, StoreError, Tx, work_pools};

/// The stream of hints to the connections of workers; the body is a [`crate::model::worker_channel::Change`].
pub const HINTS: &str = "work-pool-snapshots";

const TABLE: &str = "cleanup_message";
const EXHAUSTED: &str = "max_delivery_attempts_reached";

/// A message to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMessage {
    pub id: Uuid,
    /// A second message with it is not made.
    pub idempotency_key: String,
    pub work_pool_id: WorkPoolId,
    pub work_queue_id: Option<WorkQueueId>,
    pub kind: CleanupKind,
    pub target: Map<String, Value>,
    pub data: Map<String, Value>,
}

/// How long a worker may hold a message, and how often it is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub lease: TimeDelta,
    pub deliveries: u32,
}

/// A message that a worker holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Reservation {
    pub id: Uuid,
    pub work_queue_id: Option<WorkQueueId>,
    pub kind: CleanupKind,
    pub target: Map<String, Value>,
    pub data: Map<String, Value>,
    pub delivery_count: i64,
    pub token: String,
    pub lease_expires: Timestamp,
}

/// What came of an operation on a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub status: CleanupStatus,
    /// Why, where it was not accepted.
    pub reason: Option<&'static str>,
    /// The new end of a renewed lease.
    pub lease_expires: Option<Timestamp>,
}

impl Outcome {
    fn accepted() -> Self {
        Self { status: CleanupStatus::Accepted, reason: None, lease_expires: None }
    }

    /// Not done.
    pub fn refused(status: CleanupStatus, reason: &'static str) -> Self {
        Self { status, reason: Some(reason), lease_expires: None }
    }
}

/// What [`expire`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    pub redelivered: u64,
    pub given_up: u64,
}

fn wake(tx: &mut Tx, pool: WorkPoolId) {
    let body = crate::model::worker_channel::Change::cleanup(pool).to_body();
    tx.hint(Hint { stream: HINTS, body });
}

/// Makes a message; false where there is one with its id or key.
pub async fn enqueue(tx: &mut Tx, message: &NewMessage, now: Timestamp) -> Result<bool, StoreError> {
    let mut insert = Query::insert();
    insert
        .into_table(tx.dialect().own_table(TABLE))
        .columns([
            "id",
            "idempotency_key",
            "work_pool_id",
            "work_queue_id",
            "kind",
            "target",
            "data",
            "status",
            "delivery_count",
            "created",
            "updated",
        ])
        .values_panic([
            message.id.into(),
            message.idempotency_key.as_str().into(),
            message.work_pool_id.into(),
            message.work_queue_id.into(),
            message.kind.as_str().into(),
            Value::Object(message.target.clone()).into(),
            Value::Object(message.data.clone()).into(),
            "open".into(),
            0.into(),
            now.into(),
            now.into(),
        ])
        .on_conflict(OnConflict::new().do_nothing().to_owned());
    let made = tx.execute(&insert).await? > 0;
    wake(tx, message.work_pool_id);
    Ok(made)
}

fn held_by_nobody(now: Timestamp) -> Cond {
    Cond::any().add(Expr::col("lease_expires").is_null()).add(Expr::col("lease_expires").lte(now))
}

fn nobody(update: &mut sea_query::UpdateStatement) {
    update
        .value("consumer", Expr::val(Option::<Uuid>::None))
        .value("token", Expr::val(Option::<String>::None))
        .value("lease_expires", Expr::val(Option::<Timestamp>::None));
}

/// The worker that asks for a message.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    pub pool: WorkPoolId,
    pub consumer: Uuid,
    /// What it can handle.
    pub kinds: &'a [CleanupKind],
}

/// Gives the oldest message of the pool that nobody holds and the worker can handle to it, under `token`; of the queues
/// `only` if these are named.
pub async fn reserve(
    tx: &mut Tx,
    worker: Asking<'_>,
    only: Option<&[WorkQueueId]>,
    token: String,
    policy: Policy,
    now: Timestamp,
) -> Result<Option<Reservation>, StoreError> {
    let dialect = tx.dialect();
    let mut select = Query::select();
    select
        .columns(["id", "work_queue_id", "kind", "target", "data", "delivery_count"])
        .from(dialect.own_table(TABLE))
        .and_where(Expr::col("work_pool_id").eq(worker.pool))
        .and_where(Expr::col("status").eq("open"))
        .and_where(Expr::col("kind").is_in(worker.kinds.iter().map(|kind| kind.as_str())))
        .and_where(Expr::col("delivery_count").lt(i64::from(policy.deliveries)))
        .cond_where(held_by_nobody(now))
        .order_by("created", Order::Asc)
        .order_by("id", Order::Asc)
        .limit(1);
    if let Some(queues) = only {
        if queues.is_empty() {
            return Ok(None);
        }
        select.and_where(dialect.any_id(Expr::col("work_queue_id"), queues));
    }
    dialect.for_update_skip_locked(&mut select);
    let Some(row) = tx.fetch_optional(&select).await? else { return Ok(None) };
    let reservation = Reservation {
        id: row.get("id")?,
        work_queue_id: row.get("work_queue_id")?,
        kind: work_pools::word(&row, "kind")?,
        target: row.json("target")?,
        data: row.json("data")?,
        delivery_count: row.get::<i64>("delivery_count")? + 1,
        token,
        lease_expires: now + policy.lease,
    };
    let mut update = Query::update();
    update
        .table(dialect.own_table(TABLE))
        .value("consumer", worker.consumer)
        .value("token", reservation.token.as_str())
        .value("lease_expires", reservation.lease_expires)
        .value("delivery_count", reservation.delivery_count as i32)
        .value("updated", now)
        .and_where(Expr::col("id").eq(reservation.id));
    tx.execute(&update).await?;
    Ok(Some(reservation))
}

/// Messages of the pool that the worker holds.
pub async fn held(tx: &mut Tx, pool: WorkPoolId, consumer: Uuid, now: Timestamp) -> Result<u64, StoreError> {
    let mut select = Query::select();
    select
        .expr_as(Expr::cust("count(*)"), "count")
        .from(tx.dialect().own_table(TABLE))
        .and_where(Expr::col("work_pool_id").eq(pool))
        .and_where(Expr::col("status").eq("open"))
        .and_where(Expr::col("consumer").eq(consumer))
        .and_where(Expr::col("lease_expires").gt(now));
    Ok(tx.fetch_one(&select).await?.get::<i64>("count")? as u64)
}

struct Held {
    id: Uuid,
    pool: WorkPoolId,
    delivery_count: i64,
    token: Option<String>,
    lease_expires: Option<Timestamp>,
}

fn open(tx: &Tx) -> SelectStatement {
    let mut select = Query::select();
    select
        .columns(["id", "work_pool_id", "delivery_count", "token", "lease_expires"])
        .from(tx.dialect().own_table(TABLE))
        .and_where(Expr::col("status").eq("open"));
    select
}

fn decode(row: &Row) -> Result<Held, StoreError> {
    Ok(Held {
        id: row.get("id")?,
        pool: row.get("work_pool_id")?,
        delivery_count: row.get("delivery_count")?,
        token: row.get("token")?,
        lease_expires: row.get("lease_expires")?,
    })
}

/// Lets others have messages, or gives up those that were delivered often enough; gives which were given up.
async fn let_go(tx: &mut Tx, messages: &[Held], policy: Policy, now: Timestamp) -> Result<u64, StoreError> {
    let exhausted = |message: &&Held| message.delivery_count >= i64::from(policy.deliveries);
    let (dead, open): (Vec<&Held>, Vec<&Held>) = messages.iter().partition(exhausted);
    for (of, is_dead) in [(&dead, true), (&open, false)] {
        if of.is_empty() {
            continue;
        }
        let ids: Vec<Uuid> = of.iter().map(|message| message.id).collect();
        let mut update = Query::update();
        update.table(tx.dialect().own_table(TABLE)).value("updated", now).and_where(tx.dialect().any_id(Expr::col("id"), &ids));
        nobody(&mut update);
        if is_dead {
            update.value("status", "dead").value("reason", EXHAUSTED);
        }
        tx.execute(&update).await?;
    }
    for message in &open {
        wake(tx, message.pool);
    }
    for message in &dead {
        tracing::warn!(message.id = %message.id, work_pool.id = %message.pool, deliveries = message.delivery_count,
            "a worker's cleanup is given up: it was delivered as often as is allowed");
    }
    Ok(dead.len() as u64)
}

/// Does what the worker that shows `token` asks for.
pub async fn operate(
    tx: &mut Tx,
    pool: WorkPoolId,
    id: Uuid,
    token: &str,
    operation: CleanupOperation,
    policy: Policy,
    now: Timestamp,
) -> Result<Outcome, StoreError> {
    let mut select = open(tx);
    select.and_where(Expr::col("id").eq(id));
    tx.dialect().for_update(&mut select);
    let Some(row) = tx.fetch_optional(&select).await? else {
        return Ok(Outcome::refused(CleanupStatus::NotFound, "message_not_found"));
    };
    let message = decode(&row)?;
    if message.pool != pool {
        return Ok(Outcome::refused(CleanupStatus::Unauthorized, "work_pool_mismatch"));
    }
    let (Some(held), Some(expires)) = (&message.token, message.lease_expires) else {
        return Ok(Outcome::refused(CleanupStatus::NotCurrent, "no_active_reservation"));
    };
    if held != token {
        return Ok(Outcome::refused(CleanupStatus::InvalidToken, "reservation_token_mismatch"));
    }
    let over = expires <= now;
    if over || operation == CleanupOperation::Release {
        let given_up = let_go(tx, &[message], policy, now).await? > 0;
        return Ok(match (given_up, over) {
            (true, _) => Outcome::refused(CleanupStatus::DeadLettered, EXHAUSTED),
            (false, true) => Outcome::refused(CleanupStatus::Expired, "lease_expired"),
            (false, false) => Outcome::accepted(),
        });
    }
    let mut update = Query::update();
    update.table(tx.dialect().own_table(TABLE)).value("updated", now).and_where(Expr::col("id").eq(id));
    let mut outcome = Outcome::accepted();
    if operation == CleanupOperation::Renew {
        outcome.lease_expires = Some(now + policy.lease);
        update.value("lease_expires", outcome.lease_expires);
    } else {
        nobody(&mut update);
        update.value("status", "acked");
    }
    tx.execute(&update).await?;
    Ok(outcome)
}

/// Takes messages back from workers that held them too long, at most `limit`.
pub async fn expire(tx: &mut Tx, policy: Policy, limit: u64, now: Timestamp) -> Result<Expired, StoreError> {
    let mut select = open(tx);
    select
        .and_where(Expr::col("lease_expires").is_not_null())
        .and_where(Expr::col("lease_expires").lte(now))
        .order_by("lease_expires", Order::Asc)
        .order_by("id", Order::Asc)
        .limit(limit);
    tx.dialect().for_update_skip_locked(&mut select);
    let messages: Vec<Held> = tx.fetch_all(&select).await?.iter().map(decode).collect::<Result<_, _>>()?;
    if messages.is_empty() {
        return Ok(Expired::default());
    }
    let given_up = let_go(tx, &messages, policy, now).await?;
    Ok(Expired { redelivered: messages.len() as u64 - given_up, given_up })
}

/// Forgets messages that were done with or given up before `before`, at most `limit`.
pub async fn forget(tx: &mut Tx, before: Timestamp, limit: u64) -> Result<u64, StoreError> {
    let table = tx.dialect().own_table(TABLE);
    let mut old = Query::select();
    old.column("id")
        .from(table.clone())
        .and_where(Expr::col("status").ne("open"))
        .and_where(Expr::col("updated").lt(before))
        .order_by("updated", Order::Asc)
        .limit(limit);
    tx.execute(Query::delete().from_table(table).and_where(Expr::col("id").in_subquery(old))).await
}
