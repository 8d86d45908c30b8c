//! Rows that have had their time: how the vacuum finds and deletes them, a batch per call and transaction. Each look goes
//! by an index, so a batch costs the same whatever is kept.

use sea_query::{Cond, Expr, ExprTrait, Order, Query, Value, Values};
use uuid::Uuid;

use super::bulk::{Bulk, Column, Conflict};
use super::{artifacts, flow_runs, logs};
use crate::clock::Timestamp;
use crate::id::{ArtifactCollectionId, FlowRunId, TaskRunId};
use crate::model::state::StateType;
use crate::store::schema as t;
use crate::store::{StoreError, Tx};

/// Deletes events, of one name or of any, that occurred before a moment, with their resources; gives how many.
pub async fn delete_events(tx: &mut Tx, name: Option<&str>, before: Timestamp, limit: u64) -> Result<u64, StoreError> {
    let dialect = tx.dialect();
    let mut select = Query::select();
    select
        .column(t::Events::Id)
        .from(t::Events::Table)
        .and_where(Expr::col(t::Events::Occurred).lt(before))
        .order_by(t::Events::Occurred, Order::Asc)
        .limit(limit);
    if let Some(name) = name {
        select.and_where(Expr::col(t::Events::Event).eq(name));
    }
    let ids: Vec<Uuid> = tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Ok(0);
    }
    let resources = dialect.any_id(Expr::col(t::EventResources::EventId), &ids);
    tx.execute(Query::delete().from_table(t::EventResources::Table).and_where(resources)).await?;
    let events = dialect.any_id(Expr::col(t::Events::Id), &ids);
    tx.execute(Query::delete().from_table(t::Events::Table).and_where(events)).await
}

/// Deletes resources of events that occurred before a moment and are gone already; gives how many.
pub async fn delete_event_resources(tx: &mut Tx, before: Timestamp, limit: u64) -> Result<u64, StoreError> {
    let some = Query::select()
        .column(t::EventResources::Id)
        .from(t::EventResources::Table)
        .and_where(Expr::col(t::EventResources::Occurred).lt(before))
        .order_by(t::EventResources::Occurred, Order::Asc)
        .limit(limit)
        .take();
    let delete =
        Query::delete().from_table(t::EventResources::Table).and_where(Expr::col(t::EventResources::Id).in_subquery(some)).to_owned();
    tx.execute(&delete).await
}

/// Deletes runs that ended before a moment and are part of no other, with all that belongs to them; gives how many. Their
/// log lines go soon after: see [`remember_runs`].
pub async fn delete_flow_runs(tx: &mut Tx, before: Timestamp, now: Timestamp, limit: u64) -> Result<u64, StoreError> {
    let mut select = Query::select();
    select
        .column(t::FlowRun::Id)
        .from(t::FlowRun::Table)
        .and_where(Expr::col(t::FlowRun::ParentTaskRunId).is_null())
        .and_where(Expr::col(t::FlowRun::StateType).is_in(StateType::TERMINAL))
        .and_where(Expr::col(t::FlowRun::EndTime).lt(before))
        .order_by(t::FlowRun::EndTime, Order::Asc)
        .limit(limit);
    let ids: Vec<FlowRunId> = tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Ok(0);
    }
    remember_runs(tx, &ids, &[], now).await?;
    flow_runs::delete(tx, &ids).await
}

/// Notes that runs are deleted in this transaction, so that their log lines, of which there may be millions, are deleted
/// after it by [`delete_logs`], whatever becomes of this node.
pub async fn remember_runs(tx: &mut Tx, flow_runs: &[FlowRunId], task_runs: &[TaskRunId], now: Timestamp) -> Result<(), StoreError> {
    let ids: Vec<Option<Uuid>> = flow_runs.iter().map(|id| Some(id.0)).chain(task_runs.iter().map(|id| Some(id.0))).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let count = ids.len();
    let is_task = (0..count).map(|at| Some(at >= flow_runs.len())).collect();
    Bulk::own("deleted_run")
        .column("id", Column::Uuid(ids))
        .column("is_task", Column::Bool(is_task))
        .column("created", Column::Timestamp(vec![Some(now); count]))
        .insert(tx, Conflict::Nothing, "")
        .await
        .map(drop)
}

/// Deletes log lines of the run that was deleted first, at most `limit`; when it has none left it is forgotten. Gives how
/// many lines went; `None` where no deleted run is left.
pub async fn delete_logs(tx: &mut Tx, limit: u64) -> Result<Option<u64>, StoreError> {
    let table = tx.dialect().own_table("deleted_run");
    let mut select = Query::select();
    select.columns(["id", "is_task"]).from(table.clone()).order_by("created", Order::Asc).order_by("id", Order::Asc).limit(1);
    let Some(row) = tx.fetch_optional(&select).await? else { return Ok(None) };
    let id: Uuid = row.get("id")?;
    let of = if row.get("is_task")? { logs::Of::TaskRun(TaskRunId(id)) } else { logs::Of::FlowRun(FlowRunId(id)) };
    let deleted = logs::delete(tx, of, limit).await?;
    if deleted < limit {
        tx.execute(Query::delete().from_table(table).and_where(Expr::col("id").eq(id))).await?;
    }
    Ok(Some(deleted))
}

/// Rows that belong to flow runs without a foreign key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphans {
    Logs,
    Artifacts,
}

/// A look at some of the flow runs that rows name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owners {
    /// Those that are gone.
    pub gone: Vec<FlowRunId>,
    /// Where to go on; `None` where all were looked at.
    pub next: Option<FlowRunId>,
}

/// Looks at up to `limit` flow runs after the given one that log lines or artifacts name, and finds those that are gone.
/// Goes from run to run in the index, not from row to row.
pub async fn owners(tx: &mut Tx, of: Orphans, after: Option<FlowRunId>, limit: u64) -> Result<Owners, StoreError> {
    let after = after.map_or(Uuid::nil(), |id| id.0);
    let values = Values(vec![after.into(), Value::BigInt(Some(i64::try_from(limit).unwrap_or(i64::MAX)))]);
    let sql = tx.dialect().owners(of == Orphans::Logs).to_owned();
    let rows = tx.fetch_sql(sql, values).await?;
    let mut found = Owners { gone: Vec::new(), next: None };
    for row in &rows {
        let id: FlowRunId = row.get("id")?;
        if row.get::<bool>("is_gone")? {
            found.gone.push(id);
        }
        found.next = Some(id);
    }
    if (rows.len() as u64) < limit {
        found.next = None;
    }
    Ok(found)
}

/// Deletes artifacts of a flow run that is gone, at most `limit`; gives how many.
pub async fn delete_artifacts(tx: &mut Tx, of: FlowRunId, limit: u64) -> Result<u64, StoreError> {
    let some = Query::select()
        .column(t::Artifact::Id)
        .from(t::Artifact::Table)
        .and_where(Expr::col(t::Artifact::FlowRunId).eq(of))
        .limit(limit)
        .take();
    tx.execute(Query::delete().from_table(t::Artifact::Table).and_where(Expr::col(t::Artifact::Id).in_subquery(some))).await
}

/// Has artifact collections whose newest artifact is gone name the newest that is left, or deletes them; gives how many,
/// at most `limit`.
pub async fn mend_collections(tx: &mut Tx, limit: u64) -> Result<u64, StoreError> {
    let latest = Query::select()
        .expr(Expr::val(1))
        .from(t::Artifact::Table)
        .and_where(Expr::col((t::Artifact::Table, t::Artifact::Id)).equals((t::ArtifactCollection::Table, t::ArtifactCollection::LatestId)))
        .take();
    let mut select = Query::select();
    select
        .columns([t::ArtifactCollection::Id, t::ArtifactCollection::Key, t::ArtifactCollection::LatestId])
        .from(t::ArtifactCollection::Table)
        .cond_where(Cond::all().add(Expr::exists(latest)).not())
        .order_by(t::ArtifactCollection::Id, Order::Asc)
        .limit(limit);
    tx.dialect().for_update_skip_locked(&mut select);
    let rows = tx.fetch_all(&select).await?;
    for row in &rows {
        let id: ArtifactCollectionId = row.get("id")?;
        match artifacts::newest_but(tx, &row.get::<String>("key")?, row.get("latest_id")?).await? {
            Some(artifact) => artifacts::fall_back(tx, id, &artifact).await?,
            None => artifacts::delete_collection(tx, id).await?,
        }
    }
    Ok(rows.len() as u64)
}
