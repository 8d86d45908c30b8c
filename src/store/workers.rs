//! Table `worker`.

use sea_query::{Asterisk, Condition, Expr, ExprTrait, Func, OnConflict, Order, Query};

use super::work_pools::word;
use crate::clock::Timestamp;
use crate::id::{WorkPoolId, WorkerId};
use crate::model::filter::Operator;
use crate::model::status::WorkerStatus;
use crate::model::worker::{Worker, WorkerFilter};
use crate::store::filter::{join, part};
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

const COLUMNS: [t::Worker; 8] = [
    t::Worker::Id,
    t::Worker::Created,
    t::Worker::Updated,
    t::Worker::Name,
    t::Worker::WorkPoolId,
    t::Worker::LastHeartbeatTime,
    t::Worker::HeartbeatIntervalSeconds,
    t::Worker::Status,
];

fn decode(row: &Row) -> Result<Worker, StoreError> {
    Ok(Worker {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        name: row.get("name")?,
        work_pool_id: row.get("work_pool_id")?,
        last_heartbeat_time: row.get("last_heartbeat_time")?,
        heartbeat_interval_seconds: row.get("heartbeat_interval_seconds")?,
        status: word(row, "status")?,
    })
}

fn condition(filter: &WorkerFilter) -> Condition {
    let heartbeat = filter.last_heartbeat_time.as_ref().map(|heartbeat| {
        let column = || Expr::col(t::Worker::LastHeartbeatTime);
        part::given(
            Operator::And,
            [heartbeat.before_.map(|before| column().lte(before)), heartbeat.after_.map(|after| column().gte(after))],
        )
    });
    let status = filter.status.as_ref().map(|status| {
        let column = || Expr::col(t::Worker::Status);
        let any = status.any_.as_ref().map(|any| column().is_in(any.iter().copied()));
        let not_any = status.not_any_.as_ref().filter(|not_any| !not_any.is_empty());
        part::given(Operator::And, [any, not_any.map(|not_any| column().is_not_in(not_any.iter().copied()))])
    });
    join(filter.operator, [heartbeat, status])
}

/// Notes a heartbeat of a worker, which is made where missing. Without an interval the worker keeps the one it has.
pub async fn heartbeat(tx: &mut Tx, pool: WorkPoolId, name: &str, interval_seconds: Option<i32>, now: Timestamp) -> Result<(), StoreError> {
    let mut conflict = OnConflict::columns([t::Worker::WorkPoolId, t::Worker::Name]);
    conflict.update_columns([t::Worker::LastHeartbeatTime, t::Worker::Status]);
    if interval_seconds.is_some() {
        conflict.update_column(t::Worker::HeartbeatIntervalSeconds);
    }
    let insert = Query::insert()
        .into_table(t::Worker::Table)
        .columns(COLUMNS)
        .values_panic([
            WorkerId::fresh().into(),
            now.into(),
            now.into(),
            name.into(),
            pool.into(),
            now.into(),
            interval_seconds.into(),
            WorkerStatus::Online.into(),
        ])
        .on_conflict(conflict)
        .to_owned();
    tx.execute(&insert).await.map(drop)
}

/// Lists the workers of a pool, latest heartbeat first.
pub async fn list(tx: &mut Tx, pool: WorkPoolId, filter: &WorkerFilter, limit: u64, offset: u64) -> Result<Vec<Worker>, StoreError> {
    let mut select = Query::select();
    select
        .columns(COLUMNS)
        .from(t::Worker::Table)
        .and_where(Expr::col(t::Worker::WorkPoolId).eq(pool))
        .cond_where(condition(filter))
        .order_by(t::Worker::LastHeartbeatTime, Order::Desc)
        .order_by(t::Worker::Id, Order::Asc)
        .limit(limit)
        .offset(offset);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Workers of a pool that were written as online.
pub async fn count_online(tx: &mut Tx, pool: WorkPoolId) -> Result<i64, StoreError> {
    let mut select = Query::select();
    select
        .expr_as(Func::count(Expr::col(Asterisk)), "count")
        .from(t::Worker::Table)
        .and_where(Expr::col(t::Worker::WorkPoolId).eq(pool))
        .and_where(Expr::col(t::Worker::Status).eq(WorkerStatus::Online));
    tx.fetch_one(&select).await?.get("count")
}

/// Deletes a worker; true where there was one.
pub async fn delete(tx: &mut Tx, pool: WorkPoolId, name: &str) -> Result<bool, StoreError> {
    let mut delete = Query::delete();
    delete.from_table(t::Worker::Table).and_where(Expr::col(t::Worker::WorkPoolId).eq(pool)).and_where(Expr::col(t::Worker::Name).eq(name));
    Ok(tx.execute(&delete).await? > 0)
}
