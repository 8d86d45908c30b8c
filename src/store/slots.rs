//! Slots that no client leases, and the count of a limit's slots set right.
//!
//! A client may take slots without a lease, and an operator may put down how many are taken. Those slots belong to one
//! lease per limit, which never runs out ([`take`], [`give_back`], [`set`]); so of every limit that is no rate limit,
//! `active_slots` is the sum of its leases, always. What other programs write there is found by [`drifted`] and put
//! right by [`settle`].

use std::collections::BTreeSet;

use chrono::TimeDelta;
use sea_query::{Expr, ExprTrait, OnConflict, Order, Query, Value, Values};
use serde_json::json;

use super::concurrency_limits::{self, Of};
use super::leases::{self, FOREVER, Lease};
use crate::clock::Timestamp;
use crate::id::{ConcurrencyLimitId, FlowRunId, LeaseId};
use crate::model::concurrency::{ConcurrencyLimitV2, HolderType, LeaseHolder, Waits};
use crate::model::state::{StateDetails, StateType};
use crate::store::schema as t;
use crate::store::{StoreError, Tx};

/// The longest that a client may lease.
const LEASE_MAX: TimeDelta = TimeDelta::days(1);

/// The lease of a limit's slots that nobody leased.
fn unleased(limit: ConcurrencyLimitId) -> LeaseId {
    LeaseId(uuid::Uuid::new_v5(&limit.0, b"slots without a lease"))
}

fn is_steady(limit: &ConcurrencyLimitV2) -> bool {
    limit.slot_decay_per_second == 0.0
}

/// Takes `slots` of each of the limits without a lease, or none.
pub async fn take(tx: &mut Tx, limits: &[ConcurrencyLimitV2], slots: i64, now: Timestamp, waits: Waits) -> Result<bool, StoreError> {
    let ids: Vec<_> = limits.iter().map(|limit| limit.id).collect();
    if !concurrency_limits::take(tx, &ids, slots, now, waits).await? {
        return Ok(false);
    }
    let steady: BTreeSet<_> = limits.iter().filter(|limit| is_steady(limit)).map(|limit| limit.id).collect();
    for id in steady {
        change_unleased(tx, id, slots, now).await?;
    }
    Ok(true)
}

/// Adds to the slots that nobody leased of a limit that is locked.
async fn change_unleased(tx: &mut Tx, id: ConcurrencyLimitId, by: i64, now: Timestamp) -> Result<(), StoreError> {
    let dialect = tx.dialect();
    let sum = Expr::col((dialect.own_table_name("lease"), "slots")).add(Expr::col(("excluded", "slots")));
    let insert = Query::insert()
        .into_table(dialect.own_table("lease"))
        .columns(["id", "limit_ids", "slots", "created", "expires"])
        .values_panic([unleased(id).into(), json!([id]).into(), (by as i32).into(), now.into(), (now + FOREVER).into()])
        .on_conflict(OnConflict::column("id").value("slots", sum).to_owned())
        .to_owned();
    tx.execute(&insert).await.map(drop)
}

/// The slots of a limit that are leased, or that nobody leased, by its rows.
async fn leased(tx: &mut Tx, id: ConcurrencyLimitId) -> Result<i64, StoreError> {
    Ok(leases::list_on(tx, &[id]).await?.iter().map(|lease| lease.slots).sum())
}

/// Gives back `slots` of each of the limits that were taken without a lease. What clients lease stays taken.
pub async fn give_back(
    tx: &mut Tx,
    ids: &[ConcurrencyLimitId],
    slots: i64,
    occupancy_seconds: Option<f64>,
    now: Timestamp,
    waits: Waits,
) -> Result<(), StoreError> {
    for limit in concurrency_limits::lock(tx, ids, Of::All).await? {
        concurrency_limits::hint(tx, &limit);
        let mut active = Ord::max(limit.active_slots_at(now) - slots, 0);
        if is_steady(&limit) {
            let row = leases::lock(tx, unleased(limit.id)).await?;
            let ours = row.map_or(0, |lease| lease.slots);
            if ours > slots {
                change_unleased(tx, limit.id, -slots, now).await?;
            } else if ours > 0 {
                leases::delete(tx, &[unleased(limit.id)]).await?;
            }
            if ours < slots {
                // The rest may be slots of a server whose leases we do not see, but not those of the leases that we do.
                active = Ord::max(active, leased(tx, limit.id).await?);
            }
        }
        let occupancy = occupancy_seconds
            .filter(|seconds| *seconds > 0.0)
            .map_or(limit.avg_slot_occupancy_seconds, |seconds| limit.occupancy_after(slots, seconds));
        concurrency_limits::write(tx, &limit, now, Some(active), limit.denied_slots_at(now, waits), occupancy).await?;
    }
    Ok(())
}

/// Has `slots` of a limit be taken, because an operator says so; the caller writes the count. Where more are leased, as
/// many leases as need be hold no slot of this limit any more, those that last longest first; they can be renewed and
/// given back all the same, so that no run fails of it.
pub async fn set(tx: &mut Tx, limit: &ConcurrencyLimitV2, slots: i64, now: Timestamp) -> Result<(), StoreError> {
    if !is_steady(limit) {
        return Ok(());
    }
    let all = lock_on(tx, limit.id).await?;
    concurrency_limits::lock(tx, &[limit.id], Of::All).await?;
    let mut held: i64 = all.iter().map(|lease| lease.slots).sum();
    let mut let_go = Vec::new();
    let mut longest: Vec<&Lease> = all.iter().collect();
    longest.sort_by_key(|lease| std::cmp::Reverse((lease.expires, lease.id)));
    for lease in longest {
        if held <= slots {
            break;
        }
        held -= lease.slots;
        let_go.push(lease.id);
    }
    detach_these(tx, limit.id, &let_go, now).await?;
    leases::delete(tx, &[unleased(limit.id)]).await?;
    if slots > held {
        change_unleased(tx, limit.id, slots - held, now).await?;
    }
    Ok(())
}

/// Locks the clients' leases on a limit.
async fn lock_on(tx: &mut Tx, limit: ConcurrencyLimitId) -> Result<Vec<Lease>, StoreError> {
    let mut found = Vec::new();
    for lease in leases::list_on(tx, &[limit]).await? {
        if lease.id != unleased(limit) {
            found.extend(leases::lock(tx, lease.id).await?.filter(|lease| lease.limits.contains(&limit)));
        }
    }
    Ok(found)
}

/// Has no lease hold slots of a limit any more, because they are to be counted anew or the limit is to go. The leases
/// last, and hold their slots of other limits.
pub async fn detach(tx: &mut Tx, limit: ConcurrencyLimitId, now: Timestamp) -> Result<(), StoreError> {
    let all: Vec<_> = leases::list_on(tx, &[limit]).await?.iter().map(|lease| lease.id).collect();
    detach_these(tx, limit, &all, now).await
}

async fn detach_these(tx: &mut Tx, limit: ConcurrencyLimitId, these: &[LeaseId], now: Timestamp) -> Result<(), StoreError> {
    if these.is_empty() {
        return Ok(());
    }
    let dialect = tx.dialect();
    let mut update = Query::update();
    update
        .table(dialect.own_table("lease"))
        .value("limit_ids", dialect.json_without(Expr::col("limit_ids"), &limit.to_string()))
        .and_where(dialect.any_id(Expr::col("id"), these));
    tx.execute(&update).await?;
    // Nobody would end one that holds nothing and never runs out.
    let mut delete = Query::delete();
    delete
        .from_table(dialect.own_table("lease"))
        .and_where(dialect.any_id(Expr::col("id"), these))
        .and_where(Expr::col("limit_ids").eq(json!([])))
        .and_where(Expr::col("expires").gt(now + LEASE_MAX));
    tx.execute(&delete).await.map(drop)
}

/// Limits whose count is not the sum of their leases, by id, at most `limit`. A look without locks: [`settle`] looks again.
pub async fn drifted(tx: &mut Tx, limit: u64) -> Result<Vec<ConcurrencyLimitId>, StoreError> {
    let values = Values(vec![Value::BigInt(Some(i64::try_from(limit).unwrap_or(i64::MAX)))]);
    tx.fetch_sql(tx.dialect().drifted_limits().to_owned(), values).await?.iter().map(|row| row.get("id")).collect()
}

/// What [`settle`] found, where the count was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    pub name: String,
    pub counted: i64,
    pub leased: i64,
}

/// Makes the count of a limit the sum of its leases. Slots that are taken and not leased were taken by a program that
/// keeps its leases elsewhere: they get leases of `lasting`, those of runs under way under the ids that their clients
/// will renew.
pub async fn settle(tx: &mut Tx, id: ConcurrencyLimitId, lasting: TimeDelta, now: Timestamp) -> Result<Option<Drift>, StoreError> {
    let Some(limit) = concurrency_limits::lock(tx, &[id], Of::All).await?.pop().filter(is_steady) else { return Ok(None) };
    let leased = leased(tx, id).await?;
    let drift = Drift { name: limit.name.clone(), counted: limit.active_slots, leased };
    match limit.active_slots - leased {
        0 => return Ok(None),
        excess @ 1.. => {
            let runs = runs_without_lease(tx, id, excess as u64).await?;
            let rest = excess - runs.len() as i64;
            for (run, lease) in runs {
                let holder = LeaseHolder { kind: HolderType::FlowRun, id: run.0 };
                let lease = lease.unwrap_or_else(LeaseId::fresh);
                leases::insert_as(tx, lease, &[id], 1, lasting, Some(holder), now).await?;
            }
            if rest > 0 {
                leases::insert(tx, &[id], rest, lasting, None, now).await?;
            }
        }
        _ => concurrency_limits::write(tx, &limit, now, Some(leased), limit.denied_slots, limit.avg_slot_occupancy_seconds).await?,
    }
    Ok(Some(drift))
}

/// Runs that hold a slot of their deployment's limit by their state, and have no lease here; with the id of the lease
/// that they have elsewhere.
async fn runs_without_lease(tx: &mut Tx, limit: ConcurrencyLimitId, most: u64) -> Result<Vec<(FlowRunId, Option<LeaseId>)>, StoreError> {
    let holders: BTreeSet<_> =
        leases::list_on(tx, &[limit]).await?.into_iter().filter_map(|lease| lease.holder.map(|holder| holder.id)).collect();
    let mut select = Query::select();
    select
        .column((t::FlowRun::Table, t::FlowRun::Id))
        .column((t::FlowRunState::Table, t::FlowRunState::StateDetails))
        .from(t::FlowRun::Table)
        .inner_join(
            t::Deployment::Table,
            Expr::col((t::Deployment::Table, t::Deployment::Id)).equals((t::FlowRun::Table, t::FlowRun::DeploymentId)),
        )
        .inner_join(
            t::FlowRunState::Table,
            Expr::col((t::FlowRunState::Table, t::FlowRunState::Id)).equals((t::FlowRun::Table, t::FlowRun::StateId)),
        )
        .and_where(Expr::col((t::Deployment::Table, t::Deployment::ConcurrencyLimitId)).eq(limit))
        .and_where(Expr::col((t::FlowRun::Table, t::FlowRun::StateType)).is_in([
            StateType::Pending,
            StateType::Running,
            StateType::Cancelling,
        ]))
        .order_by((t::FlowRun::Table, t::FlowRun::Id), Order::Asc)
        .limit(most + holders.len() as u64);
    let mut found = Vec::new();
    for row in tx.fetch_all(&select).await? {
        let run: FlowRunId = row.get("id")?;
        let details: Option<StateDetails> = row.json("state_details")?;
        if !holders.contains(&run.0) && (found.len() as u64) < most {
            found.push((run, details.and_then(|details| details.deployment_concurrency_lease_id)));
        }
    }
    Ok(found)
}
