//! Table `lease` of ours: who holds slots of concurrency limits, and until when.
//!
//! A lease and its slots change in one transaction, both ways: [`take`] and [`give_back`]. So a slot is taken if and
//! only if a live row says so, and giving a lease back twice gives the slots back once. The reference keeps leases apart
//! from the database and loses slots when it dies between the two. Slots of rate limits come free with time, and are
//! counted without leases. What clients take without a lease has a row too: see [`super::slots`].
//!
//! Leases run out by the clock that all nodes share: PostgreSQL's own, or that of the one node on SQLite. What else is
//! said of time here is by the clock of the node that says it.
//!
//! Locks are taken in one order, so that nobody waits for another in a circle: leases, then limits by their ids, then the
//! lease of a limit's slots that nobody leased.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use sea_query::{Expr, ExprTrait, Order, Query, SelectStatement};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::{ConcurrencyLimitId, LeaseId};
use crate::model::concurrency::{LeaseHolder, Waits};
use crate::store::concurrency_limits::{self, Returned};
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
) -> Result<Option<LeaseId>, StoreError> {
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
) -> Result<LeaseId, StoreError> {
    insert_as(tx, LeaseId::fresh(), limits, slots, lasting, holder, now).await
}

/// As [`insert`], under an id that its client knows already.
pub(super) async fn insert_as(
    tx: &mut Tx,
    id: LeaseId,
    limits: &[ConcurrencyLimitId],
    slots: i64,
    lasting: TimeDelta,
    holder: Option<LeaseHolder>,
    now: Timestamp,
) -> Result<LeaseId, StoreError> {
    let expires = tx.shared_after(now, lasting);
    let holder = holder.map(|holder| serde_json::json!(holder));
    let insert = Query::insert()
        .into_table(tx.dialect().own_table("lease"))
        .columns(["id", "limit_ids", "slots", "holder", "created", "expires"])
        .values_panic([id.into(), serde_json::json!(limits).into(), (slots as i32).into(), holder.into(), now.into(), expires])
        .to_owned();
    tx.execute(&insert).await?;
    Ok(id)
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
    update.table(tx.dialect().own_table("lease")).value("expires", tx.shared_after(now, lasting)).and_where(Expr::col("id").eq(id));
    Ok(tx.execute(&update).await? > 0)
}

/// Deletes leases; the caller has given their slots back.
pub(super) async fn delete(tx: &mut Tx, ids: &[LeaseId]) -> Result<u64, StoreError> {
    let mut delete = Query::delete();
    delete.from_table(tx.dialect().own_table("lease")).and_where(tx.dialect().any_id(Expr::col("id"), ids));
    tx.execute(&delete).await
}

/// Whether the time that slots were held counts for the average of their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupancy {
    /// The holder was done, or the lease ran out.
    Counts,
    /// Its run gave it back, which may have waited for long.
    Ignored,
}

impl Lease {
    fn returned(&self, occupancy: Occupancy, now: Timestamp) -> Returned {
        let held = || (now - self.created).num_microseconds().unwrap_or(i64::MAX) as f64 / 1e6;
        Returned { slots: self.slots, occupancy_seconds: (occupancy == Occupancy::Counts).then(held) }
    }
}

/// Ends leases that are locked, and gives their slots back.
async fn end(tx: &mut Tx, leases: &[Lease], occupancy: Occupancy, now: Timestamp, waits: Waits) -> Result<(), StoreError> {
    if leases.is_empty() {
        return Ok(());
    }
    delete(tx, &leases.iter().map(|lease| lease.id).collect::<Vec<_>>()).await?;
    let mut returned: BTreeMap<ConcurrencyLimitId, Vec<Returned>> = BTreeMap::new();
    for lease in leases {
        for limit in &lease.limits {
            returned.entry(*limit).or_default().push(lease.returned(occupancy, now));
        }
    }
    concurrency_limits::give_back(tx, &returned, now, waits).await
}

/// Ends a lease and gives its slots back; false where it was gone, and then nothing is given back.
pub async fn give_back(tx: &mut Tx, id: LeaseId, occupancy: Occupancy, now: Timestamp, waits: Waits) -> Result<bool, StoreError> {
    let Some(lease) = lock(tx, id).await? else { return Ok(false) };
    end(tx, std::slice::from_ref(&lease), occupancy, now, waits).await?;
    Ok(true)
}

/// Ends the leases that have run out, longest ago first, at most `limit`; gives them. One that is renewed or
/// given back at this moment is left alone.
pub async fn take_back_expired(tx: &mut Tx, now: Timestamp, limit: u64, waits: Waits) -> Result<Vec<Lease>, StoreError> {
    let mut select = select(tx);
    select.and_where(Expr::col("expires").lt(tx.shared_now(now))).order_by("expires", Order::Asc).order_by("id", Order::Asc).limit(limit);
    tx.dialect().for_update_skip_locked(&mut select);
    let expired: Vec<Lease> = tx.fetch_all(&select).await?.iter().map(decode).collect::<Result<_, _>>()?;
    end(tx, &expired, Occupancy::Counts, now, waits).await?;
    Ok(expired)
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
