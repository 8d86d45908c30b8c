//! Table `lease` of ours: who holds slots of concurrency limits, and until when.
//!
//! A lease and its slots change in one transaction, both ways: [`take`] and [`give_back`]. So a slot is taken if and
//! only if a live row says so, and giving a lease back twice gives the slots back once. The reference keeps leases apart
//! from the database and loses slots when it dies between the two.

use chrono::TimeDelta;
use sea_query::{Expr, ExprTrait, Order, Query, SelectStatement};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::{ConcurrencyLimitId, LeaseId};
use crate::model::concurrency::{LeaseHolder, Waits};
use crate::store::concurrency_limits;
use crate::store::{Row, StoreError, Tx};

/// The lease of clients that cannot renew one: long enough never to run out.
pub const FOREVER: TimeDelta = TimeDelta::days(100 * 365);

/// A lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    pub id: LeaseId,
    pub limits: Vec<ConcurrencyLimitId>,
    /// Slots of each of them.
    pub slots: i64,
    pub holder: Option<LeaseHolder>,
    pub created: Timestamp,
    pub expires: Timestamp,
}

fn select(tx: &Tx) -> SelectStatement {
    let columns = ["id", "limit_ids", "slots", "holder", "created", "expires"];
    Query::select().columns(columns).from(tx.dialect().own_table("lease")).to_owned()
}

fn decode(row: &Row) -> Result<Lease, StoreError> {
    Ok(Lease {
        id: row.get("id")?,
        limits: row.json("limit_ids")?,
        slots: row.get("slots")?,
        holder: row.json("holder")?,
        created: row.get("created")?,
        expires: row.get("expires")?,
    })
}

/// Takes `slots` of each of the limits under a new lease; `None` where they are not all to be had.
pub async fn take(
    tx: &mut Tx,
    limits: &[ConcurrencyLimitId],
    slots: i64,
    lasting: TimeDelta,
    holder: Option<LeaseHolder>,
    now: Timestamp,
    waits: Waits,
) -> Result<Option<Lease>, StoreError> {
    if !concurrency_limits::take(tx, limits, slots, now, waits).await? {
        return Ok(None);
    }
    insert(tx, limits, slots, lasting, holder, now).await.map(Some)
}

/// Writes a lease over slots that the caller has taken in this transaction.
pub async fn insert(
    tx: &mut Tx,
    limits: &[ConcurrencyLimitId],
    slots: i64,
    lasting: TimeDelta,
    holder: Option<LeaseHolder>,
    now: Timestamp,
) -> Result<Lease, StoreError> {
    let lease = Lease { id: LeaseId::fresh(), limits: limits.to_vec(), slots, holder, created: now, expires: now + lasting };
    let holder = lease.holder.as_ref().map(|holder| serde_json::json!(holder));
    let insert = Query::insert()
        .into_table(tx.dialect().own_table("lease"))
        .columns(["id", "limit_ids", "slots", "holder", "created", "expires"])
        .values_panic([
            lease.id.into(),
            serde_json::json!(lease.limits).into(),
            (slots as i32).into(),
            holder.into(),
            now.into(),
            lease.expires.into(),
        ])
        .to_owned();
    tx.execute(&insert).await?;
    Ok(lease)
}

/// Reads and locks a lease.
pub async fn lock(tx: &mut Tx, id: LeaseId) -> Result<Option<Lease>, StoreError> {
    let mut select = select(tx);
    select.and_where(Expr::col("id").eq(id));
    tx.dialect().for_update(&mut select);
    tx.fetch_optional(&select).await?.as_ref().map(decode).transpose()
}

/// Lets a lease run for `lasting` from now; false where it is gone. One that has run out and was not yet taken back
/// still holds its slots, so it may be renewed.
pub async fn renew(tx: &mut Tx, id: LeaseId, lasting: TimeDelta, now: Timestamp) -> Result<bool, StoreError> {
    let mut update = Query::update();
    update.table(tx.dialect().own_table("lease")).value("expires", now + lasting).and_where(Expr::col("id").eq(id));
    Ok(tx.execute(&update).await? > 0)
}

/// Ends a lease without giving its slots back: its run goes on without renewing it. False where it was gone.
pub async fn revoke(tx: &mut Tx, id: LeaseId) -> Result<bool, StoreError> {
    Ok(tx.execute(Query::delete().from_table(tx.dialect().own_table("lease")).and_where(Expr::col("id").eq(id))).await? > 0)
}

/// Whether the time that slots were held counts for the average of their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupancy {
    /// The holder was done.
    Counts,
    /// The lease ran out, or its run left without telling.
    Ignored,
}

/// Ends a lease and gives its slots back; false where it was gone, and then nothing is given back.
pub async fn give_back(tx: &mut Tx, id: LeaseId, occupancy: Occupancy, now: Timestamp, waits: Waits) -> Result<bool, StoreError> {
    let Some(lease) = lock(tx, id).await? else { return Ok(false) };
    if !revoke(tx, id).await? {
        return Ok(false);
    }
    let held = (occupancy == Occupancy::Counts).then(|| (now - lease.created).num_microseconds().unwrap_or(i64::MAX) as f64 / 1e6);
    concurrency_limits::give_back(tx, &lease.limits, lease.slots, held, now, waits).await?;
    Ok(true)
}

fn on_any(tx: &Tx, limits: &[ConcurrencyLimitId]) -> Expr {
    // One containment each, which an index serves; there are few.
    limits.iter().fold(Expr::cust("1 = 0"), |any, limit| any.or(tx.dialect().json_has_all(Expr::col("limit_ids"), &[limit.to_string()])))
}

/// The leases on any of these limits, oldest first.
pub async fn list_on(tx: &mut Tx, limits: &[ConcurrencyLimitId]) -> Result<Vec<Lease>, StoreError> {
    if limits.is_empty() {
        return Ok(Vec::new());
    }
    let mut select = select(tx);
    select.and_where(on_any(tx, limits)).order_by("created", Order::Asc).order_by("id", Order::Asc);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// The leases on any of these limits that `holder` has, by id.
pub async fn list_held(tx: &mut Tx, limits: &[ConcurrencyLimitId], holder: Uuid) -> Result<Vec<LeaseId>, StoreError> {
    if limits.is_empty() {
        return Ok(Vec::new());
    }
    let held = tx.dialect().json_text(Expr::col("holder"), &["id"]).eq(holder.to_string());
    let mut select = select(tx);
    select.and_where(on_any(tx, limits)).and_where(held).order_by("id", Order::Asc);
    tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect()
}

/// The leases that have run out, longest ago first, at most `limit`; for the repossessor, which gives each back in a
/// transaction of its own.
pub async fn list_expired(tx: &mut Tx, now: Timestamp, limit: u64) -> Result<Vec<LeaseId>, StoreError> {
    let mut select = select(tx);
    select.and_where(Expr::col("expires").lt(now)).order_by("expires", Order::Asc).order_by("id", Order::Asc).limit(limit);
    tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect()
}

/// Ends all leases on a limit whose slots are to be counted anew, or which is to be deleted. Their slots of other limits
/// are given back.
pub async fn revoke_on(tx: &mut Tx, limit: ConcurrencyLimitId, now: Timestamp, waits: Waits) -> Result<(), StoreError> {
    for lease in list_on(tx, &[limit]).await? {
        if revoke(tx, lease.id).await? {
            let others: Vec<_> = lease.limits.into_iter().filter(|other| *other != limit).collect();
            concurrency_limits::give_back(tx, &others, lease.slots, None, now, waits).await?;
        }
    }
    Ok(())
}
