//! Table `log`.

use sea_query::{Expr, ExprTrait, Order, Query};

use crate::clock::Timestamp;
use crate::id::{FlowRunId, TaskRunId};
use crate::model::filter::log::LogFilter;
use crate::model::log::{Log, LogSort};
use crate::store::bulk::{Bulk, Column, Conflict};
use crate::store::filter::log::condition;
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

const COLUMNS: [t::Log; 9] = [
    t::Log::Id,
    t::Log::Created,
    t::Log::Updated,
    t::Log::Name,
    t::Log::Level,
    t::Log::Message,
    t::Log::Timestamp,
    t::Log::FlowRunId,
    t::Log::TaskRunId,
];

fn decode(row: &Row) -> Result<Log, StoreError> {
    Ok(Log {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        name: row.get("name")?,
        level: row.get("level")?,
        message: row.get("message")?,
        timestamp: row.get("timestamp")?,
        flow_run_id: row.get("flow_run_id")?,
        task_run_id: row.get("task_run_id")?,
    })
}

/// Inserts lines, as created `now`.
pub async fn insert_many(tx: &mut Tx, logs: &[Log], now: Timestamp) -> Result<(), StoreError> {
    if logs.is_empty() {
        return Ok(());
    }
    let moments = || Column::Timestamp(vec![Some(now); logs.len()]);
    Bulk::new("log")
        .column("id", Column::Uuid(logs.iter().map(|log| Some(log.id.0)).collect()))
        .column("created", moments())
        .column("updated", moments())
        .column("name", Column::Text(logs.iter().map(|log| Some(log.name.clone())).collect()))
        .column("level", Column::Integer(logs.iter().map(|log| Some(i64::from(log.level))).collect()))
        .column("message", Column::Text(logs.iter().map(|log| Some(log.message.clone())).collect()))
        .column("timestamp", Column::Timestamp(logs.iter().map(|log| Some(log.timestamp)).collect()))
        .column("flow_run_id", Column::Uuid(logs.iter().map(|log| log.flow_run_id.map(|id| id.0)).collect()))
        .column("task_run_id", Column::Uuid(logs.iter().map(|log| log.task_run_id.map(|id| id.0)).collect()))
        .insert(tx, Conflict::Error, "")
        .await
        .map(drop)
}

/// Lists lines.
pub async fn list(tx: &mut Tx, filter: &LogFilter, sort: LogSort, limit: u64, offset: u64) -> Result<Vec<Log>, StoreError> {
    let order = match sort {
        LogSort::TimestampAsc => Order::Asc,
        LogSort::TimestampDesc => Order::Desc,
    };
    let mut select = Query::select();
    select
        .columns(COLUMNS.map(|column| (t::Log::Table, column)))
        .from(t::Log::Table)
        .cond_where(condition(filter, tx.dialect()))
        .order_by((t::Log::Table, t::Log::Timestamp), order.clone())
        .order_by((t::Log::Table, t::Log::Id), order)
        .limit(limit)
        .offset(offset);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Whose lines to delete.
#[derive(Debug, Clone, Copy)]
pub enum Of {
    FlowRun(FlowRunId),
    TaskRun(TaskRunId),
}

/// Deletes at most `limit` lines of a run; gives how many. Call again until it is fewer.
pub async fn delete(tx: &mut Tx, of: Of, limit: u64) -> Result<u64, StoreError> {
    let owned = match of {
        Of::FlowRun(id) => Expr::col(t::Log::FlowRunId).eq(id),
        Of::TaskRun(id) => Expr::col(t::Log::TaskRunId).eq(id),
    };
    let some = Query::select().column(t::Log::Id).from(t::Log::Table).and_where(owned).limit(limit).take();
    tx.execute(Query::delete().from_table(t::Log::Table).and_where(Expr::col(t::Log::Id).in_subquery(some))).await
}
