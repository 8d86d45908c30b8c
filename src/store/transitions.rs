//! What the rules of orchestration need of a run, and write back: the narrow, locked view of `flow_run` and `task_run`,
//! and the few rows around them that a rule looks at.
//!
//! A run is locked first and its state read after that, in two statements: a joined read that had to wait for the lock
//! would see the new run with the old state.

use sea_query::{Expr, ExprTrait, Order, Query, UpdateStatement};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::id::{ConcurrencyLimitId, DeploymentId, FlowId, FlowRunId, StateId, TaskRunId, WorkQueueId};
use crate::model::concurrency::{ConcurrencyLimitV2, ConcurrencyOptions};
use crate::model::policy::{FlowRunPolicy, TaskRunPolicy};
use crate::model::state::{State, StateType};
use crate::store::concurrency_limits::{self, Key};
use crate::store::schema as t;
use crate::store::states::{self, Of};
use crate::store::{Row, Seconds, StoreError, Tx};

/// How far a run has come: the columns that flow runs and task runs share and that only the rules write.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    pub state_id: Option<StateId>,
    pub state_type: Option<StateType>,
    pub state_name: Option<String>,
    pub state_timestamp: Option<Timestamp>,
    pub run_count: i64,
    pub expected_start_time: Option<Timestamp>,
    pub next_scheduled_start_time: Option<Timestamp>,
    pub start_time: Option<Timestamp>,
    pub end_time: Option<Timestamp>,
    pub total_run_seconds: f64,
}

/// A flow run, as far as the rules look at it.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowRun {
    pub id: FlowRunId,
    pub name: String,
    pub tags: Vec<String>,
    pub flow_id: FlowId,
    pub deployment_id: Option<DeploymentId>,
    pub work_queue_id: Option<WorkQueueId>,
    pub parent_task_run_id: Option<TaskRunId>,
    pub infrastructure_pid: Option<String>,
    pub created_by: Option<Value>,
    pub policy: FlowRunPolicy,
    pub progress: Progress,
}

/// A task run, as far as the rules look at it.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRun {
    pub id: TaskRunId,
    pub name: String,
    pub tags: Vec<String>,
    pub task_key: String,
    pub flow_run_id: Option<FlowRunId>,
    /// Which run of its flow run it belongs to.
    pub flow_run_run_count: i64,
    pub policy: TaskRunPolicy,
    pub progress: Progress,
}

const PROGRESS: [t::FlowRun; 10] = [
    t::FlowRun::StateId,
    t::FlowRun::StateType,
    t::FlowRun::StateName,
    t::FlowRun::StateTimestamp,
    t::FlowRun::RunCount,
    t::FlowRun::ExpectedStartTime,
    t::FlowRun::NextScheduledStartTime,
    t::FlowRun::StartTime,
    t::FlowRun::EndTime,
    t::FlowRun::TotalRunTime,
];

fn decode_progress(row: &Row) -> Result<Progress, StoreError> {
    Ok(Progress {
        state_id: row.get("state_id")?,
        state_type: row.get("state_type")?,
        state_name: row.get("state_name")?,
        state_timestamp: row.get("state_timestamp")?,
        run_count: row.get("run_count")?,
        expected_start_time: row.get("expected_start_time")?,
        next_scheduled_start_time: row.get("next_scheduled_start_time")?,
        start_time: row.get("start_time")?,
        end_time: row.get("end_time")?,
        total_run_seconds: row.get::<Seconds>("total_run_time")?.0,
    })
}

fn set_progress(tx: &Tx, update: &mut UpdateStatement, progress: &Progress, now: Timestamp) {
    use t::FlowRun as R;
    update
        .value(R::Updated, now)
        .value(R::StateId, progress.state_id)
        .value(R::StateType, progress.state_type)
        .value(R::StateName, progress.state_name.clone())
        .value(R::StateTimestamp, progress.state_timestamp)
        .value(R::RunCount, progress.run_count as i32)
        .value(R::ExpectedStartTime, progress.expected_start_time)
        .value(R::NextScheduledStartTime, progress.next_scheduled_start_time)
        .value(R::StartTime, progress.start_time)
        .value(R::EndTime, progress.end_time)
        .value(R::TotalRunTime, tx.dialect().interval(progress.total_run_seconds));
}

fn json<T: serde::Serialize>(column: &str, value: &T) -> Result<Value, StoreError> {
    serde_json::to_value(value).map_err(|error| StoreError::Decode { column: column.into(), reason: error.to_string() })
}

/// Locks and reads a flow run with its current state.
pub async fn lock_flow_run(tx: &mut Tx, id: FlowRunId) -> Result<Option<(FlowRun, Option<State>)>, StoreError> {
    use t::FlowRun as R;
    let mut select = Query::select();
    select
        .columns([R::Id, R::Name, R::Tags, R::FlowId, R::DeploymentId, R::WorkQueueId, R::ParentTaskRunId, R::InfrastructurePid])
        .columns([R::CreatedBy, R::EmpiricalPolicy])
        .columns(PROGRESS)
        .from(R::Table)
        .and_where(Expr::col(R::Id).eq(id));
    tx.dialect().for_update(&mut select);
    let Some(row) = tx.fetch_optional(&select).await? else { return Ok(None) };
    let run = FlowRun {
        id: row.get("id")?,
        name: row.get("name")?,
        tags: row.json("tags")?,
        flow_id: row.get("flow_id")?,
        deployment_id: row.get("deployment_id")?,
        work_queue_id: row.get("work_queue_id")?,
        parent_task_run_id: row.get("parent_task_run_id")?,
        infrastructure_pid: row.get("infrastructure_pid")?,
        created_by: row.get::<Option<Value>>("created_by")?.filter(|value| !value.is_null()),
        policy: row.json("empirical_policy")?,
        progress: decode_progress(&row)?,
    };
    let state = match run.progress.state_id {
        Some(id) => states::read(tx, Of::FlowRun, id).await?,
        None => None,
    };
    Ok(Some((run, state)))
}

/// Writes a flow run back.
pub async fn write_flow_run(tx: &mut Tx, run: &FlowRun, now: Timestamp) -> Result<(), StoreError> {
    let mut update = Query::update();
    update
        .table(t::FlowRun::Table)
        .value(t::FlowRun::EmpiricalPolicy, json("empirical_policy", &run.policy)?)
        .and_where(Expr::col(t::FlowRun::Id).eq(run.id));
    set_progress(tx, &mut update, &run.progress, now);
    tx.execute(&update).await.map(drop)
}

/// Locks and reads a task run with its current state.
pub async fn lock_task_run(tx: &mut Tx, id: TaskRunId) -> Result<Option<(TaskRun, Option<State>)>, StoreError> {
    use t::TaskRun as R;
    let mut select = Query::select();
    select
        .columns([R::Id, R::Name, R::Tags, R::TaskKey, R::FlowRunId, R::FlowRunRunCount, R::EmpiricalPolicy])
        .columns(PROGRESS)
        .from(R::Table)
        .and_where(Expr::col(R::Id).eq(id));
    tx.dialect().for_update(&mut select);
    let Some(row) = tx.fetch_optional(&select).await? else { return Ok(None) };
    let run = TaskRun {
        id: row.get("id")?,
        name: row.get("name")?,
        tags: row.json("tags")?,
        task_key: row.get("task_key")?,
        flow_run_id: row.get("flow_run_id")?,
        flow_run_run_count: row.get("flow_run_run_count")?,
        policy: row.json("empirical_policy")?,
        progress: decode_progress(&row)?,
    };
    let state = match run.progress.state_id {
        Some(id) => states::read(tx, Of::TaskRun, id).await?,
        None => None,
    };
    Ok(Some((run, state)))
}

/// Writes a task run back.
pub async fn write_task_run(tx: &mut Tx, run: &TaskRun, now: Timestamp) -> Result<(), StoreError> {
    let mut update = Query::update();
    update
        .table(t::TaskRun::Table)
        .value(t::TaskRun::FlowRunRunCount, run.flow_run_run_count as i32)
        .and_where(Expr::col(t::TaskRun::Id).eq(run.id));
    set_progress(tx, &mut update, &run.progress, now);
    tx.execute(&update).await.map(drop)
}

/// What a task run's rules look at of the flow run around it. It is not locked: its state may change meanwhile, as ever.
#[derive(Debug, Clone, PartialEq)]
pub struct EnclosingFlowRun {
    pub id: FlowRunId,
    pub run_count: i64,
    pub state: Option<State>,
}

/// Reads the flow run around a task run.
pub async fn read_enclosing(tx: &mut Tx, id: FlowRunId) -> Result<Option<EnclosingFlowRun>, StoreError> {
    let mut select = Query::select();
    select.columns([t::FlowRun::RunCount, t::FlowRun::StateId]).from(t::FlowRun::Table).and_where(Expr::col(t::FlowRun::Id).eq(id));
    let Some(row) = tx.fetch_optional(&select).await? else { return Ok(None) };
    let state = match row.get::<Option<StateId>>("state_id")? {
        Some(id) => states::read(tx, Of::FlowRun, id).await?,
        None => None,
    };
    Ok(Some(EnclosingFlowRun { id, run_count: row.get("run_count")?, state }))
}

/// The failed task runs of a flow run, for clients whose flows retry them one by one.
pub async fn list_failed_task_runs(tx: &mut Tx, id: FlowRunId) -> Result<Vec<TaskRunId>, StoreError> {
    let mut select = Query::select();
    select
        .column(t::TaskRun::Id)
        .from(t::TaskRun::Table)
        .and_where(Expr::col(t::TaskRun::FlowRunId).eq(id))
        .and_where(Expr::col(t::TaskRun::StateType).eq(StateType::Failed))
        .order_by(t::TaskRun::Id, Order::Asc);
    tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect()
}

/// Has a task run count its runs anew.
pub async fn reset_run_count(tx: &mut Tx, id: TaskRunId, now: Timestamp) -> Result<(), StoreError> {
    let mut update = Query::update();
    update
        .table(t::TaskRun::Table)
        .value(t::TaskRun::Updated, now)
        .value(t::TaskRun::RunCount, 0)
        .and_where(Expr::col(t::TaskRun::Id).eq(id));
    tx.execute(&update).await.map(drop)
}

/// A deployment, as far as the rules look at it.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    pub concurrency_limit_id: Option<ConcurrencyLimitId>,
    /// The limit, where there is one.
    pub limit: Option<ConcurrencyLimitV2>,
    pub options: Option<ConcurrencyOptions>,
}

/// Reads a deployment and its concurrency limit.
pub async fn read_deployment(tx: &mut Tx, id: DeploymentId) -> Result<Option<Deployment>, StoreError> {
    use t::Deployment as D;
    let mut select = Query::select();
    select.columns([D::ConcurrencyLimitId, D::ConcurrencyOptions]).from(D::Table).and_where(Expr::col(D::Id).eq(id));
    let Some(row) = tx.fetch_optional(&select).await? else { return Ok(None) };
    let concurrency_limit_id = row.get::<Option<ConcurrencyLimitId>>("concurrency_limit_id")?;
    let options = row.json("concurrency_options")?;
    let limit = match concurrency_limit_id {
        Some(id) => concurrency_limits::read(tx, &Key::Id(id)).await?,
        None => None,
    };
    Ok(Some(Deployment { concurrency_limit_id, limit, options }))
}

/// The newest completed state that is cached under a key and has not expired.
pub async fn read_cached(tx: &mut Tx, cache_key: &str, now: Timestamp) -> Result<Option<State>, StoreError> {
    use t::TaskRunStateCache as C;
    let mut select = Query::select();
    select
        .column(C::TaskRunStateId)
        .from(C::Table)
        .and_where(Expr::col(C::CacheKey).eq(cache_key))
        .and_where(Expr::col(C::CacheExpiration).is_null().or(Expr::col(C::CacheExpiration).gt(now)))
        .order_by(C::Created, Order::Desc)
        .limit(1);
    match tx.fetch_optional(&select).await? {
        Some(row) => states::read(tx, Of::TaskRun, row.get("task_run_state_id")?).await,
        None => Ok(None),
    }
}

/// Caches a completed state under a key.
pub async fn insert_cached(
    tx: &mut Tx,
    cache_key: &str,
    expiration: Option<Timestamp>,
    state: StateId,
    now: Timestamp,
) -> Result<(), StoreError> {
    use t::TaskRunStateCache as C;
    let insert = Query::insert()
        .into_table(C::Table)
        .columns([C::Id, C::Created, C::Updated, C::CacheKey, C::CacheExpiration, C::TaskRunStateId])
        .values_panic([crate::id::v4().into(), now.into(), now.into(), cache_key.into(), expiration.into(), state.into()])
        .to_owned();
    tx.execute(&insert).await.map(drop)
}

/// A name and tags.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Labelled {
    pub id: uuid::Uuid,
    pub name: String,
    pub tags: Vec<String>,
}

/// What has to do with a flow run, for its events.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Surroundings {
    pub flow: Option<Labelled>,
    pub deployment: Option<Labelled>,
    pub work_queue: Option<Labelled>,
    pub work_pool: Option<Labelled>,
    pub work_pool_type: String,
    /// The task run of the parent flow that stands for this run.
    pub task_run: Option<Labelled>,
}

/// Reads what has to do with a flow run, in one statement.
pub async fn read_surroundings(tx: &mut Tx, run: &FlowRun) -> Result<Surroundings, StoreError> {
    use t::{Deployment as D, Flow as F, TaskRun as T, WorkPool as P, WorkQueue as Q};
    let mut select = Query::select();
    let mut part = |prefix: &'static str, id: Expr, name: Expr, tags: Option<Expr>| {
        select.expr_as(id, format!("{prefix}_id")).expr_as(name, format!("{prefix}_name"));
        if let Some(tags) = tags {
            select.expr_as(tags, format!("{prefix}_tags"));
        }
    };
    part("flow", Expr::col((F::Table, F::Id)), Expr::col((F::Table, F::Name)), Some(Expr::col((F::Table, F::Tags))));
    part("deployment", Expr::col((D::Table, D::Id)), Expr::col((D::Table, D::Name)), Some(Expr::col((D::Table, D::Tags))));
    part("work_queue", Expr::col((Q::Table, Q::Id)), Expr::col((Q::Table, Q::Name)), None);
    part("work_pool", Expr::col((P::Table, P::Id)), Expr::col((P::Table, P::Name)), None);
    part("task_run", Expr::col((T::Table, T::Id)), Expr::col((T::Table, T::Name)), Some(Expr::col((T::Table, T::Tags))));
    let run_column = |column: t::FlowRun| Expr::col((t::FlowRun::Table, column));
    select
        .expr_as(Expr::col((P::Table, P::Type)), "work_pool_type")
        .from(t::FlowRun::Table)
        .left_join(F::Table, Expr::col((F::Table, F::Id)).eq(run_column(t::FlowRun::FlowId)))
        .left_join(D::Table, Expr::col((D::Table, D::Id)).eq(run_column(t::FlowRun::DeploymentId)))
        .left_join(Q::Table, Expr::col((Q::Table, Q::Id)).eq(run_column(t::FlowRun::WorkQueueId)))
        .left_join(P::Table, Expr::col((P::Table, P::Id)).eq(Expr::col((Q::Table, Q::WorkPoolId))))
        .left_join(T::Table, Expr::col((T::Table, T::Id)).eq(run_column(t::FlowRun::ParentTaskRunId)))
        .and_where(run_column(t::FlowRun::Id).eq(run.id));
    let Some(row) = tx.fetch_optional(&select).await? else { return Ok(Surroundings::default()) };
    Ok(Surroundings {
        flow: labelled(&row, "flow", true)?,
        deployment: labelled(&row, "deployment", true)?,
        work_queue: labelled(&row, "work_queue", false)?,
        work_pool: labelled(&row, "work_pool", false)?,
        work_pool_type: row.get::<Option<String>>("work_pool_type")?.unwrap_or_default(),
        task_run: labelled(&row, "task_run", true)?,
    })
}

fn labelled(row: &Row, prefix: &str, has_tags: bool) -> Result<Option<Labelled>, StoreError> {
    let Some(id) = row.get::<Option<uuid::Uuid>>(&format!("{prefix}_id"))? else { return Ok(None) };
    let tags = if has_tags { row.json::<Option<Vec<String>>>(&format!("{prefix}_tags"))?.unwrap_or_default() } else { Vec::new() };
    Ok(Some(Labelled { id, name: row.get(&format!("{prefix}_name"))?, tags }))
}
