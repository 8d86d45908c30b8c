//! Ends what a cancelled run leaves behind: its task runs, the runs that it contains, and itself when whoever was to stop
//! its infrastructure does not tell.
//!
//! The reference keeps a timer per cancelling run in its task queue; here the time is up when the row says so, whichever
//! node leads.

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use uuid::Uuid;

use super::{Done, Lead, ServiceError, Tick};
use crate::clock::Timestamp;
use crate::id::StateId;
use crate::limits;
use crate::model::state::{SetStateStatus, State, StateType};
use crate::model::worker_channel::CleanupKind;
use crate::orchestration::{Context, FlowPolicy, OrchestrationError, TaskPolicy, set_flow_run_state, set_task_run_state};
use crate::store::cleanup_messages::{self, NewMessage};
use crate::store::transitions::FlowRun;
use crate::store::{StoreError, Tx, overdue, transitions, work_queues};

/// How long after its end a cancelled run's tasks are looked for, as the reference.
const TASKS_WITHIN: TimeDelta = TimeDelta::days(1);

/// How often cancelling runs are looked at: their time is up at a moment, and should be seen soon after it.
const TIMEOUT_LOOK: Duration = Duration::from_secs(1);

/// Endings of the types of pools that have no workers.
const WORKERLESS: [&str; 2] = [":push", ":managed"];

const PARENT_CANCELLED: &str = "The parent flow run was cancelled.";

/// The reference's `monitor_cancelled_flow_runs`: task runs of cancelled runs are cancelled.
pub struct CancelledTasks {
    /// From the end of one tick to the next.
    pub period: Duration,
}

/// The reference's `monitor_subflow_runs`: runs that a cancelled run contains are cancelled; those of a deployment are
/// asked to.
pub struct CancelledSubflows {
    /// From the end of one tick to the next.
    pub period: Duration,
}

/// The reference's `ensure_cancelling_timeout_checks` and `handle_cancelling_timeout`: runs that stay in cancelling are
/// cancelled.
pub struct CancellingTimeouts {
    /// From the end of one tick to the next, at most.
    pub period: Duration,
    /// How long a run may be cancelling.
    pub timeout: Duration,
}

#[async_trait]
impl Tick for CancelledTasks {
    fn name(&self) -> &'static str {
        "cancelled_tasks"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        let since = lead.app.now() - TASKS_WITHIN;
        let live = overdue::tasks_of_cancelled(&mut lead.app.read("cancelled_tasks").await?, since, limits::SERVICE_RUNS).await?;
        let mut cancelled = 0;
        for some in live.chunks(limits::SERVICE_RUNS_TRANSACTION) {
            let mut tx = lead.begin("cancelled_tasks.cancel").await?;
            for id in some {
                let now = lead.app.now();
                let ended = transitions::lock_task_run(&mut tx, *id)
                    .await?
                    .is_none_or(|(run, _)| run.progress.state_type.is_none_or(StateType::is_terminal));
                if ended {
                    continue;
                }
                let state = State::new(StateType::Cancelled, now).with_message(PARENT_CANCELLED);
                let context = Context::server(now, &lead.app.settings().orchestration);
                set_task_run_state(&mut tx, &context, *id, state, TaskPolicy::Minimal).await?;
                cancelled += 1;
            }
            tx.commit().await?;
        }
        Ok(Done { items: cancelled, more: cancelled == limits::SERVICE_RUNS })
    }
}

#[async_trait]
impl Tick for CancelledSubflows {
    fn name(&self) -> &'static str {
        "cancelled_subflows"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        let found = overdue::subflows_of_cancelled(&mut lead.app.read("cancelled_subflows").await?, limits::SERVICE_RUNS).await?;
        let mut cancelled = 0;
        for some in found.chunks(limits::SERVICE_RUNS_TRANSACTION) {
            let mut tx = lead.begin("cancelled_subflows.cancel").await?;
            for subflow in some {
                let now = lead.app.now();
                if transitions::lock_flow_run(&mut tx, subflow.id).await?.is_none() {
                    continue;
                }
                let Some(subflow) = overdue::subflow_of_cancelled(&mut tx, subflow.id).await? else { continue };
                let kind = if subflow.is_deployed { StateType::Cancelling } else { StateType::Cancelled };
                let state = State::new(kind, now).with_message(PARENT_CANCELLED);
                let context = Context::server(now, &lead.app.settings().orchestration);
                set_flow_run_state(&mut tx, &context, subflow.id, state, FlowPolicy::Minimal).await?;
                cancelled += 1;
            }
            tx.commit().await?;
        }
        Ok(Done { items: cancelled, more: cancelled == limits::SERVICE_RUNS })
    }
}

#[async_trait]
impl Tick for CancellingTimeouts {
    fn name(&self) -> &'static str {
        "cancelling_timeouts"
    }

    fn period(&self) -> Duration {
        self.period.min(TIMEOUT_LOOK)
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        let timeout = TimeDelta::from_std(self.timeout).unwrap_or(TimeDelta::MAX);
        let before = |lead: &Lead| lead.app.now() - timeout;
        let found = overdue::cancelling(&mut lead.app.read("cancelling_timeouts").await?, before(lead), limits::SERVICE_RUNS).await?;
        let mut cancelled = 0;
        for some in found.chunks(limits::SERVICE_RUNS_TRANSACTION) {
            let mut tx = lead.begin("cancelling_timeouts.cancel").await?;
            for id in some {
                let now = lead.app.now();
                let Some((run, _)) = transitions::lock_flow_run(&mut tx, *id).await? else { continue };
                let due = run.progress.state_timestamp.is_some_and(|at| at <= before(lead));
                if run.progress.state_type != Some(StateType::Cancelling) || !due {
                    continue;
                }
                let state = State::new(StateType::Cancelled, now)
                    .with_message("Flow run cancellation timed out; marked this flow run as Cancelled.");
                let context = Context::server(now, &lead.app.settings().orchestration);
                match set_flow_run_state(&mut tx, &context, *id, state, FlowPolicy::Core).await {
                    Ok(result) => {
                        if let Some(state) = result.state.filter(|_| result.status == SetStateStatus::Accept) {
                            cancelled += 1;
                            tear_down(&mut tx, &run, state.id, now).await?;
                        }
                    }
                    Err(OrchestrationError::NotFound(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            tx.commit().await?;
        }
        Ok(Done { items: cancelled, more: cancelled == limits::SERVICE_RUNS })
    }
}

/// Has a worker of the run's pool tear its infrastructure down. A run without a queue, or of a pool that has no workers,
/// has none that could.
async fn tear_down(tx: &mut Tx, run: &FlowRun, state: StateId, now: Timestamp) -> Result<(), StoreError> {
    let Some(queue) = run.work_queue_id else { return Ok(()) };
    let Some(queue) = work_queues::read(tx, queue).await? else { return Ok(()) };
    let Some(work_pool_id) = queue.work_pool_id else { return Ok(()) };
    let is_workerless = queue.work_pool_type.as_ref().is_some_and(|kind| WORKERLESS.iter().any(|suffix| kind.ends_with(suffix)));
    if is_workerless {
        return Ok(());
    }
    let kind = CleanupKind::CancellingTimeout;
    let idempotency_key = format!("{}:{}:{state}", kind.as_str(), run.id);
    let target = serde_json::json!({"flow_run_id": run.id, "infrastructure_pid": run.infrastructure_pid});
    let serde_json::Value::Object(target) = target else { unreachable!("it is written as an object") };
    let message = NewMessage {
        // The same for whoever makes it, as the reference's.
        id: Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("prefect:{idempotency_key}").as_bytes()),
        idempotency_key,
        work_pool_id,
        work_queue_id: Some(queue.id),
        kind,
        target,
        data: serde_json::Map::new(),
    };
    cleanup_messages::enqueue(tx, &message, now).await.map(drop)
}
