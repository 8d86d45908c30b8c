//! Workers that are silent, and pools, queues and deployments that nobody asks for any more: how the foreman finds and
//! marks them. Rows are locked in order of id; each call deals with at most `limit` of them.

use sea_query::{CaseStatement, Cond, Expr, ExprTrait, JoinType, Order, Query};
use uuid::Uuid;

use super::{work_pools, work_queues};
use crate::clock::Timestamp;
use crate::id::{DeploymentId, WorkPoolId, WorkQueueId};
use crate::model::status::{DeploymentStatus, WorkPoolStatus, WorkQueueStatus, WorkerStatus};
use crate::model::work_pool::WorkPool;
use crate::model::work_queue::WorkQueue;
use crate::store::schema as t;
use crate::store::{StoreError, Tx};

/// When a worker counts as gone.
#[derive(Debug, Clone, Copy)]
pub struct Silence {
    /// Heartbeats that may be missed.
    pub heartbeats: u32,
    /// Seconds between the heartbeats of a worker that did not tell.
    pub fallback_seconds: f64,
}

/// Marks workers as offline that have been silent for too long; gives how many.
pub async fn mark_workers_offline(tx: &mut Tx, silence: Silence, now: Timestamp, limit: u64) -> Result<u64, StoreError> {
    let dialect = tx.dialect();
    let interval = dialect.float(Expr::col(t::Worker::HeartbeatIntervalSeconds)).if_null(silence.fallback_seconds);
    let silent = dialect.seconds_between(dialect.moment(now), Expr::col(t::Worker::LastHeartbeatTime));
    let mut some = Query::select();
    some.column(t::Worker::Id)
        .from(t::Worker::Table)
        .and_where(Expr::col(t::Worker::Status).eq(WorkerStatus::Online))
        .and_where(silent.gt(interval.mul(f64::from(silence.heartbeats))))
        .order_by(t::Worker::Id, Order::Asc)
        .limit(limit);
    dialect.for_update_skip_locked(&mut some);
    let ids: Vec<Uuid> = tx.fetch_all(&some).await?.iter().map(|row| row.get("id")).collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Ok(0);
    }
    let mut update = Query::update();
    update
        .table(t::Worker::Table)
        .value(t::Worker::Status, WorkerStatus::Offline)
        .value(t::Worker::Updated, now)
        .and_where(dialect.any_id(Expr::col(t::Worker::Id), &ids));
    tx.execute(&update).await
}

/// A pool that was marked.
#[derive(Debug)]
pub struct Marked {
    pub before: WorkPool,
    pub after: WorkPool,
    /// Of the event that tells of it.
    pub event_id: Uuid,
}

/// Marks pools as not ready that are ready and have no worker online.
pub async fn mark_pools_not_ready(tx: &mut Tx, now: Timestamp, limit: u64) -> Result<Vec<Marked>, StoreError> {
    let dialect = tx.dialect();
    let online = Query::select()
        .expr(Expr::val(1))
        .from(t::Worker::Table)
        .and_where(Expr::col((t::Worker::Table, t::Worker::WorkPoolId)).equals((t::WorkPool::Table, t::WorkPool::Id)))
        .and_where(Expr::col((t::Worker::Table, t::Worker::Status)).eq(WorkerStatus::Online))
        .take();
    let mut select = Query::select();
    select
        .column(t::WorkPool::Id)
        .from(t::WorkPool::Table)
        .and_where(Expr::col(t::WorkPool::Status).eq(WorkPoolStatus::Ready))
        .and_where(Expr::exists(online).not())
        .order_by(t::WorkPool::Id, Order::Asc)
        .limit(limit);
    dialect.for_update_skip_locked(&mut select);
    let ids: Vec<WorkPoolId> = tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let these = || Cond::all().add(dialect.any_id(Expr::col((t::WorkPool::Table, t::WorkPool::Id)), &ids));
    let before = work_pools::list(tx, these(), limit, 0).await?;
    let events: Vec<(WorkPoolId, Uuid)> = ids.iter().map(|id| (*id, crate::id::v7())).collect();
    let event = events
        .iter()
        .fold(CaseStatement::new(), |case, (id, event)| case.case(Cond::all().add(Expr::col(t::WorkPool::Id).eq(*id)), Expr::val(*event)));
    let mut update = Query::update();
    update
        .table(t::WorkPool::Table)
        .value(t::WorkPool::Status, WorkPoolStatus::NotReady)
        .value(t::WorkPool::LastStatusEventId, event)
        .value(t::WorkPool::LastTransitionedStatusAt, now)
        .value(t::WorkPool::Updated, now)
        .cond_where(these());
    tx.execute(&update).await?;
    let after = work_pools::list(tx, these(), limit, 0).await?;
    let marked = before.into_iter().zip(after).filter_map(|(before, after)| {
        let event_id = events.iter().find(|(id, _)| *id == after.id).map(|(_, event)| *event)?;
        Some(Marked { before, after, event_id })
    });
    Ok(marked.collect())
}

/// Deployments that are ready, and neither polled themselves nor by their queue since `before`.
pub async fn unpolled_deployments(tx: &mut Tx, before: Timestamp, limit: u64) -> Result<Vec<DeploymentId>, StoreError> {
    let queue_polled = || Expr::col((t::WorkQueue::Table, t::WorkQueue::LastPolled));
    let mut select = Query::select();
    select
        .column((t::Deployment::Table, t::Deployment::Id))
        .from(t::Deployment::Table)
        .join(
            JoinType::LeftJoin,
            t::WorkQueue::Table,
            Expr::col((t::WorkQueue::Table, t::WorkQueue::Id)).equals((t::Deployment::Table, t::Deployment::WorkQueueId)),
        )
        .and_where(Expr::col((t::Deployment::Table, t::Deployment::Status)).eq(DeploymentStatus::Ready))
        .and_where(Expr::col((t::Deployment::Table, t::Deployment::LastPolled)).lt(before))
        .cond_where(Cond::any().add(queue_polled().is_null()).add(queue_polled().lt(before)))
        .order_by((t::Deployment::Table, t::Deployment::Id), Order::Asc)
        .limit(limit);
    tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect()
}

/// Marks queues as not ready that are ready and were not polled since `before`; gives them.
pub async fn mark_queues_not_ready(tx: &mut Tx, before: Timestamp, now: Timestamp, limit: u64) -> Result<Vec<WorkQueue>, StoreError> {
    let dialect = tx.dialect();
    let mut select = Query::select();
    select
        .column(t::WorkQueue::Id)
        .from(t::WorkQueue::Table)
        .and_where(Expr::col(t::WorkQueue::Status).eq(WorkQueueStatus::Ready))
        .and_where(Expr::col(t::WorkQueue::LastPolled).lt(before))
        .order_by(t::WorkQueue::Id, Order::Asc)
        .limit(limit);
    dialect.for_update_skip_locked(&mut select);
    let ids: Vec<WorkQueueId> = tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let these = dialect.any_id(Expr::col((t::WorkQueue::Table, t::WorkQueue::Id)), &ids);
    let mut update = Query::update();
    update
        .table(t::WorkQueue::Table)
        .value(t::WorkQueue::Status, WorkQueueStatus::NotReady)
        .value(t::WorkQueue::Updated, now)
        .and_where(these.clone());
    tx.execute(&update).await?;
    work_queues::list(tx, None, Cond::all().add(these), work_queues::WorkQueueOrder::Name, None, 0).await
}
