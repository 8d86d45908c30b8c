//! Runs that wait for their time, in table `flow_run`: made from schedules, taken back when these change, and handed out
//! to whoever polls.
//!
//! Promises: a run is made at most once per schedule and date, by its idempotency key; it is made from the deployment as
//! it is when the transaction commits, because [`schedule`] holds a lock that whoever changes a deployment or its
//! schedules has to take (`deployments::lock`); and whoever does takes back the runs to come in the same transaction.

use std::collections::{HashMap, HashSet};

use chrono::TimeDelta;
use sea_query::{Asterisk, Cond, Expr, ExprTrait, Func, JoinType, Order, Query, Value, Values};
use serde_json::json;
use uuid::Uuid;

use super::bulk::{Bulk, Column, Conflict};
use super::deployments::{self, Lock};
use super::work_queues::{filter_condition, filtered_slots};
use crate::clock::Timestamp;
use crate::config::Planted;
use crate::id::{DeploymentId, FlowRunId, WorkPoolId, WorkQueueId};
use crate::model::deployment::{Deployment, DeploymentSchedule};
use crate::model::filter::Filters;
use crate::model::filter::deployment::DeploymentFilter;
use crate::model::filter::flow_run::{FlowRunFilter, FlowRunFilterState};
use crate::model::filter::part::{AnyOfOrNot, Between};
use crate::model::flow_run::{CreatedBy, FlowRun, FlowRunSort};
use crate::model::state::{State, StateType};
use crate::model::work_queue::WorkQueue;
use crate::schedule::{ScheduleError, generate, idempotency_key};
use crate::store::schema as t;
use crate::store::{StoreError, Tx, flow_runs};

/// Which scheduled runs of a deployment to delete. A run that has started before, or waits for a concurrency slot, stays.
#[derive(Debug, Clone, Copy)]
pub enum Which {
    /// Those that a schedule made for after the given moment.
    AutomaticAfter(Timestamp),
    /// Those that a schedule made.
    Automatic,
    /// Those that people made, too.
    All,
}

/// Deletes scheduled runs of deployments.
pub async fn delete(tx: &mut Tx, ids: &[DeploymentId], which: Which) -> Result<u64, StoreError> {
    if ids.is_empty() {
        return Ok(0);
    }
    let mut delete = Query::delete();
    delete
        .from_table(t::FlowRun::Table)
        .and_where(tx.dialect().any_id(Expr::col(t::FlowRun::DeploymentId), ids))
        .and_where(Expr::col(t::FlowRun::StateType).eq(StateType::Scheduled))
        .and_where(Expr::col(t::FlowRun::StateName).ne("AwaitingConcurrencySlot"))
        .and_where(Expr::col(t::FlowRun::RunCount).eq(0));
    if !matches!(which, Which::All) {
        delete.and_where(Expr::col(t::FlowRun::AutoScheduled).eq(true));
    }
    if let Which::AutomaticAfter(moment) = which {
        delete.and_where(Expr::col(t::FlowRun::NextScheduledStartTime).gt(moment));
    }
    tx.execute(&delete).await
}

/// How far ahead runs are made: from `start` until `min_runs` are made and `start + min_time` is reached, but no more than
/// `max_runs`, and none after `end`. Per schedule.
#[derive(Debug, Clone, Copy)]
pub struct Horizon {
    pub start: Timestamp,
    pub end: Timestamp,
    pub min_time: TimeDelta,
    pub min_runs: usize,
    pub max_runs: usize,
    /// Runs inserted at once.
    pub insert_batch: usize,
}

impl Horizon {
    /// The reference's defaults, from `start`: 3 to 100 runs, an hour to 100 days.
    pub fn from(start: Timestamp) -> Self {
        Self { start, end: start + TimeDelta::days(100), min_time: TimeDelta::hours(1), min_runs: 3, max_runs: 100, insert_batch: 500 }
    }
}

/// A schedule whose dates could not be computed; the others of its deployment are not affected.
#[derive(Debug)]
pub struct Unschedulable {
    pub deployment: DeploymentId,
    pub error: ScheduleError,
}

/// What [`schedule`] did.
#[derive(Debug, Default)]
pub struct Scheduled {
    pub runs: Vec<FlowRunId>,
    pub failed: Vec<Unschedulable>,
}

/// Makes the runs to come of the active schedules of deployments. Deployments that are gone are left out; paused ones too,
/// unless `even_paused`.
pub async fn schedule(
    tx: &mut Tx,
    ids: &[DeploymentId],
    now: Timestamp,
    horizon: &Horizon,
    even_paused: bool,
) -> Result<Scheduled, StoreError> {
    deployments::lock(tx, ids, Lock::Schedule).await?;
    let mut done = Scheduled::default();
    let mut runs = Vec::new();
    for deployment in deployments::read_many(tx, ids).await? {
        if deployment.paused && !even_paused {
            continue;
        }
        for schedule in deployment.schedules.iter().filter(|schedule| schedule.active) {
            match runs_of(&deployment, schedule, now, horizon) {
                Ok(made) => runs.extend(made),
                Err(error) => done.failed.push(Unschedulable { deployment: deployment.id, error }),
            }
        }
    }
    for batch in runs.chunks(horizon.insert_batch.max(1)) {
        done.runs.extend(insert(tx, batch, now).await?);
    }
    Ok(done)
}

fn runs_of(
    deployment: &Deployment,
    schedule: &DeploymentSchedule,
    now: Timestamp,
    horizon: &Horizon,
) -> Result<Vec<FlowRun>, ScheduleError> {
    let mut parameters = deployment.parameters.clone();
    parameters.extend(schedule.parameters.clone());
    let mut tags = vec!["auto-scheduled".to_owned()];
    tags.extend(deployment.tags.iter().cloned());
    let mut labels = deployment.labels.clone().unwrap_or_default();
    labels.insert("prefect.flow.id".into(), json!(deployment.flow_id));
    labels.insert("prefect.deployment.id".into(), json!(deployment.id));
    let created_by = CreatedBy {
        id: Some(schedule.id.into()),
        kind: Some("SCHEDULE".into()),
        display_value: Some(
            schedule.slug.clone().filter(|slug| !slug.is_empty()).unwrap_or_else(|| schedule.schedule.class_name().to_owned()),
        ),
    };
    let enough = horizon.start + horizon.min_time;
    let mut runs = Vec::new();
    for date in generate(&schedule.schedule, horizon.max_runs, horizon.start, Some(horizon.end))? {
        let date = date?;
        let at = date.instant();
        let mut key = idempotency_key(deployment.id.into(), schedule.id.into(), &date);
        if Planted::SlotTwice.is_here() {
            key = format!("{key} {}", std::process::id());
        }
        runs.push(FlowRun {
            deployment_id: Some(deployment.id),
            deployment_version: deployment.version.clone(),
            work_queue_name: deployment.work_queue_name.clone(),
            work_queue_id: deployment.work_queue_id,
            parameters: parameters.clone(),
            infrastructure_document_id: deployment.infrastructure_document_id,
            idempotency_key: Some(key),
            tags: tags.clone(),
            labels: Some(labels.clone()),
            auto_scheduled: true,
            state_type: Some(StateType::Scheduled),
            state_name: Some(StateType::Scheduled.default_name().to_owned()),
            state_timestamp: Some(now),
            next_scheduled_start_time: Some(at),
            expected_start_time: Some(at),
            created_by: Some(created_by.clone()),
            ..FlowRun::new(deployment.flow_id, now)
        });
        if runs.len() >= horizon.min_runs && at >= enough {
            break;
        }
    }
    Ok(runs)
}

/// Inserts runs with their state, except those that are there already; gives the ids of the new ones.
async fn insert(tx: &mut Tx, runs: &[FlowRun], now: Timestamp) -> Result<Vec<FlowRunId>, StoreError> {
    let inserted = flow_runs::insert_many(tx, runs).await?;
    if inserted.is_empty() {
        return Ok(inserted);
    }
    let new: HashSet<FlowRunId> = inserted.iter().copied().collect();
    let states: Vec<(FlowRunId, State)> = runs
        .iter()
        .filter(|run| new.contains(&run.id))
        .map(|run| {
            // Other than elsewhere, the reference does not write the id of the run into the details of the state.
            let state = State::scheduled(run.next_scheduled_start_time.unwrap_or(now), now).with_message("Flow run scheduled");
            (run.id, state)
        })
        .collect();
    let each =
        |value: &dyn Fn(&FlowRunId, &State) -> Option<String>| states.iter().map(|(run, state)| value(run, state)).collect::<Vec<_>>();
    Bulk::new("flow_run_state")
        .column("id", Column::Uuid(states.iter().map(|(_, state)| Some(state.id.into())).collect()))
        .column("created", Column::Timestamp(vec![Some(now); states.len()]))
        .column("updated", Column::Timestamp(vec![Some(now); states.len()]))
        .column("flow_run_id", Column::Uuid(states.iter().map(|(run, _)| Some((*run).into())).collect()))
        .column("type", Column::Enum("state_type", each(&|_, state| Some(state.kind.as_str().to_owned()))))
        .column("timestamp", Column::Timestamp(states.iter().map(|(_, state)| Some(state.timestamp)).collect()))
        .column("name", Column::Text(each(&|_, state| Some(state.name.clone()))))
        .column("message", Column::Text(each(&|_, state| state.message.clone())))
        .column("state_details", Column::Json(states.iter().map(|(_, state)| Some(json!(state.state_details))).collect()))
        .insert(tx, Conflict::Error, "")
        .await?;
    // A new run has exactly one state.
    let state = Query::select()
        .column((t::FlowRunState::Table, t::FlowRunState::Id))
        .from(t::FlowRunState::Table)
        .and_where(Expr::col((t::FlowRunState::Table, t::FlowRunState::FlowRunId)).equals((t::FlowRun::Table, t::FlowRun::Id)))
        .take();
    let mut update = Query::update();
    update
        .table(t::FlowRun::Table)
        .value(t::FlowRun::StateId, Expr::SubQuery(None, Box::new(state.into())))
        .and_where(tx.dialect().any_id(Expr::col((t::FlowRun::Table, t::FlowRun::Id)), &inserted));
    tx.execute(&update).await?;
    Ok(inserted)
}

/// Deployments after the one given (in order of id) some active schedule of which has too few runs to come: fewer than
/// `min_runs`, or none beyond `now + min_time`.
pub async fn in_need(
    tx: &mut Tx,
    now: Timestamp,
    min_runs: usize,
    min_time: TimeDelta,
    after: Option<DeploymentId>,
    limit: u64,
) -> Result<Vec<DeploymentId>, StoreError> {
    let dialect = tx.dialect();
    let to_come = || {
        let mut select = Query::select();
        select
            .from(t::FlowRun::Table)
            .and_where(
                Expr::col((t::FlowRun::Table, t::FlowRun::DeploymentId))
                    .equals((t::DeploymentSchedule::Table, t::DeploymentSchedule::DeploymentId)),
            )
            .and_where(Expr::col((t::FlowRun::Table, t::FlowRun::StateType)).eq(StateType::Scheduled))
            .and_where(Expr::col((t::FlowRun::Table, t::FlowRun::NextScheduledStartTime)).gte(now))
            .and_where(dialect.is_true(Expr::col((t::FlowRun::Table, t::FlowRun::AutoScheduled))))
            .and_where(dialect.made_by(
                Expr::col((t::FlowRun::Table, t::FlowRun::CreatedBy)),
                Expr::col((t::DeploymentSchedule::Table, t::DeploymentSchedule::Id)),
            ));
        select
    };
    let count = Expr::SubQuery(None, Box::new(to_come().expr(Func::count(Expr::col(Asterisk))).take().into()));
    let latest = Expr::SubQuery(
        None,
        Box::new(to_come().expr(Func::max(Expr::col((t::FlowRun::Table, t::FlowRun::NextScheduledStartTime)))).take().into()),
    );
    let in_need = Query::select()
        .expr(Expr::val(1))
        .from(t::DeploymentSchedule::Table)
        .and_where(
            Expr::col((t::DeploymentSchedule::Table, t::DeploymentSchedule::DeploymentId))
                .equals((t::Deployment::Table, t::Deployment::Id)),
        )
        .and_where(dialect.is_true(Expr::col((t::DeploymentSchedule::Table, t::DeploymentSchedule::Active))))
        .cond_where(Cond::any().add(count.lt(min_runs as i64)).add(latest.lt(now + min_time)))
        .take();
    let mut select = Query::select();
    select
        .column((t::Deployment::Table, t::Deployment::Id))
        .from(t::Deployment::Table)
        .and_where(dialect.is_true(Expr::col((t::Deployment::Table, t::Deployment::Paused))).not())
        .and_where(Expr::exists(in_need))
        .order_by((t::Deployment::Table, t::Deployment::Id), Order::Asc)
        .limit(limit);
    if let Some(after) = after {
        select.and_where(Expr::col((t::Deployment::Table, t::Deployment::Id)).gt(after));
    }
    tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect()
}

/// Deployments after the one given (in order of id) with an active schedule that were changed since a moment, they or
/// such a schedule; with the time of the last change.
///
/// The reference looks at the deployment alone (`_get_select_recent_deployments_to_schedule_query`), which a change of one schedule
/// does not touch: the runs of the new one come with the next full round.
pub async fn changed_since(
    tx: &mut Tx,
    since: Timestamp,
    after: Option<DeploymentId>,
    limit: u64,
) -> Result<Vec<(DeploymentId, Timestamp)>, StoreError> {
    let schedules = Query::select()
        .column(t::DeploymentSchedule::DeploymentId)
        .expr_as(Func::max(Expr::col(t::DeploymentSchedule::Updated)), "changed")
        .from(t::DeploymentSchedule::Table)
        .and_where(tx.dialect().is_true(Expr::col(t::DeploymentSchedule::Active)))
        .group_by_col(t::DeploymentSchedule::DeploymentId)
        .take();
    let deployment = |column| Expr::col((t::Deployment::Table, column));
    let changed = || Expr::col(("schedules", "changed"));
    let mut select = Query::select();
    select
        .columns([(t::Deployment::Table, t::Deployment::Id), (t::Deployment::Table, t::Deployment::Updated)])
        .column(("schedules", "changed"))
        .from(t::Deployment::Table)
        .join_subquery(
            JoinType::InnerJoin,
            schedules,
            "schedules",
            Expr::col(("schedules", t::DeploymentSchedule::DeploymentId)).equals((t::Deployment::Table, t::Deployment::Id)),
        )
        .and_where(tx.dialect().is_true(deployment(t::Deployment::Paused)).not())
        .cond_where(Cond::any().add(deployment(t::Deployment::Updated).gte(since)).add(changed().gte(since)))
        .order_by((t::Deployment::Table, t::Deployment::Id), Order::Asc)
        .limit(limit);
    if let Some(after) = after {
        select.and_where(deployment(t::Deployment::Id).gt(after));
    }
    let rows = tx.fetch_all(&select).await?;
    rows.iter().map(|row| Ok((row.get("id")?, std::cmp::max::<Timestamp>(row.get("updated")?, row.get("changed")?)))).collect()
}

/// Runs that should have started at `before` at the latest, and are not known to be late: with the time they are due.
pub async fn overdue(tx: &mut Tx, before: Timestamp, limit: u64) -> Result<Vec<(FlowRunId, Timestamp)>, StoreError> {
    let mut select = Query::select();
    select
        .columns([t::FlowRun::Id, t::FlowRun::NextScheduledStartTime])
        .from(t::FlowRun::Table)
        .and_where(Expr::col(t::FlowRun::NextScheduledStartTime).lte(before))
        .and_where(Expr::col(t::FlowRun::StateType).eq(StateType::Scheduled))
        .and_where(Expr::col(t::FlowRun::StateName).eq("Scheduled"))
        .order_by(t::FlowRun::NextScheduledStartTime, Order::Asc)
        .order_by(t::FlowRun::Id, Order::Asc)
        .limit(limit);
    tx.fetch_all(&select).await?.iter().map(|row| Ok((row.get("id")?, row.get("next_scheduled_start_time")?))).collect()
}

/// What a worker asks for.
#[derive(Debug, Clone)]
pub struct PoolPoll<'a> {
    pub pool: WorkPoolId,
    /// None: all queues of the pool.
    pub queues: Option<&'a [WorkQueueId]>,
    pub before: Option<Timestamp>,
    pub after: Option<Timestamp>,
    pub limit: u64,
}

/// Runs that a worker of a pool may start now, each with its queue, in the order in which to start them. The rows are
/// locked until the end of the transaction, and rows that others hold are left out.
pub async fn of_pool(tx: &mut Tx, poll: &PoolPoll<'_>) -> Result<Vec<(WorkQueueId, FlowRun)>, StoreError> {
    let dialect = tx.dialect();
    let queues = poll.queues.unwrap_or_default().iter().map(|id| (*id).into()).collect::<Vec<Uuid>>();
    let values = Values(vec![
        poll.pool.into(),
        dialect.uuid_list(queues),
        Value::ChronoDateTimeUtc(poll.before),
        Value::ChronoDateTimeUtc(poll.after),
        Value::BigInt(Some(i64::try_from(poll.limit).unwrap_or(i64::MAX))),
    ]);
    let rows = tx.fetch_sql(dialect.pool_runs().to_owned(), values).await?;
    let picked: Vec<(FlowRunId, WorkQueueId)> =
        rows.iter().map(|row| Ok((row.get("id")?, row.get("work_queue_id")?))).collect::<Result<_, StoreError>>()?;
    let ids: Vec<FlowRunId> = picked.iter().map(|run| run.0).collect();
    let mut runs = by_ids(tx, &ids).await?;
    Ok(picked.into_iter().filter_map(|(run, queue)| Some((queue, runs.remove(&run)?))).collect())
}

async fn by_ids(tx: &mut Tx, ids: &[FlowRunId]) -> Result<HashMap<FlowRunId, FlowRun>, StoreError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let these = FlowRunFilter { id: Some(AnyOfOrNot::of(ids.to_vec())), ..FlowRunFilter::default() };
    let filters = Filters { flow_runs: Some(these), ..Filters::default() };
    let runs = flow_runs::list(tx, &filters, FlowRunSort::IdDesc, ids.len() as u64, 0).await?;
    Ok(runs.into_iter().map(|run| (run.id, run)).collect())
}

/// Scheduled runs of deployments, by time.
pub async fn of_deployments(tx: &mut Tx, ids: &[DeploymentId], before: Option<Timestamp>, limit: u64) -> Result<Vec<FlowRun>, StoreError> {
    let filters = Filters {
        deployments: Some(DeploymentFilter { id: Some(AnyOfOrNot::of(ids.to_vec())), ..DeploymentFilter::default() }),
        flow_runs: Some(FlowRunFilter {
            next_scheduled_start_time: before.map(|before| Between { before_: Some(before), after_: None }),
            state: Some(FlowRunFilterState { kind: Some(AnyOfOrNot::of(vec![StateType::Scheduled])), ..FlowRunFilterState::default() }),
            ..FlowRunFilter::default()
        }),
        ..Filters::default()
    };
    flow_runs::list(tx, &filters, FlowRunSort::NextScheduledStartTimeAsc, limit, 0).await
}

/// Scheduled runs of a queue that is asked for by its own id: those that bear its name, or, for an old queue, those that
/// its filter picks; as far as it has slots. Rows are locked as in [`of_pool`].
pub async fn of_queue(tx: &mut Tx, queue: &WorkQueue, before: Option<Timestamp>, limit: u64) -> Result<Vec<FlowRun>, StoreError> {
    if queue.is_paused {
        return Ok(Vec::new());
    }
    let dialect = tx.dialect();
    let named = || Expr::col((t::FlowRun::Table, t::FlowRun::WorkQueueName)).eq(queue.name.as_str());
    let limit = match queue.concurrency_limit {
        None => limit,
        Some(slots) => {
            let held = if let Some(filter) = &queue.filter {
                filtered_slots(tx, filter).await?
            } else {
                let holding = [StateType::Running, StateType::Pending, StateType::Cancelling];
                let mut select = Query::select();
                select
                    .expr_as(Func::count(Expr::col(Asterisk)), "count")
                    .from(t::FlowRun::Table)
                    .and_where(named())
                    .and_where(Expr::col((t::FlowRun::Table, t::FlowRun::StateType)).is_in(holding));
                tx.fetch_one(&select).await?.get("count")?
            };
            Ord::min(limit, u64::try_from(slots - held).unwrap_or(0))
        }
    };
    let mut select = Query::select();
    select
        .column((t::FlowRun::Table, t::FlowRun::Id))
        .from(t::FlowRun::Table)
        .and_where(Expr::col((t::FlowRun::Table, t::FlowRun::StateType)).eq(StateType::Scheduled))
        .order_by((t::FlowRun::Table, t::FlowRun::NextScheduledStartTime), Order::Asc)
        .order_by((t::FlowRun::Table, t::FlowRun::Id), Order::Asc)
        .limit(limit);
    match &queue.filter {
        Some(filter) => select.cond_where(filter_condition(filter, dialect)),
        None => select.and_where(named()),
    };
    if let Some(before) = before {
        select.and_where(Expr::col((t::FlowRun::Table, t::FlowRun::NextScheduledStartTime)).lte(before));
    }
    dialect.for_update_skip_locked(&mut select);
    let ids: Vec<FlowRunId> = tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect::<Result<_, _>>()?;
    let mut runs = by_ids(tx, &ids).await?;
    Ok(ids.iter().filter_map(|id| runs.remove(id)).collect())
}
