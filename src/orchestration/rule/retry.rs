//! Runs that run again.

use async_trait::async_trait;
use chrono::TimeDelta;

use crate::clock::Timestamp;
use crate::model::policy::RetryType;
use crate::model::state::{State, StateType};
use crate::orchestration::engine::{Context, OrchestrationError, Run, set_task_run_state};
use crate::orchestration::interval;
use crate::orchestration::policy::TaskPolicy;
use crate::orchestration::rule::{Done, Rule, States};
use crate::orchestration::transition::Transition;
use crate::orchestration::version;
use crate::store::Tx;
use crate::store::transitions::{self, FlowRun, TaskRun};

/// Name of the state between a failure and the next run.
pub const AWAITING_RETRY: &str = "AwaitingRetry";

fn awaiting_retry(failed: &State, seconds: f64, now: Timestamp) -> State {
    let delay = TimeDelta::microseconds((seconds * 1e6).round() as i64);
    let mut state = State::scheduled(now.checked_add_signed(delay).unwrap_or(Timestamp::MAX_UTC), now).named(AWAITING_RETRY);
    state.message.clone_from(&failed.message);
    state.data.clone_from(&failed.data);
    state
}

/// RUNNING -> FAILED: a flow run that has retries left is scheduled again, for its own process. Its pauses may be made
/// anew. One that has none left may be retried by a worker.
#[derive(Default)]
pub struct RetryFailedFlows;

#[async_trait]
impl Rule<FlowRun> for RetryFailedFlows {
    fn from(&self) -> States {
        States::of(&[StateType::Running])
    }

    fn to(&self) -> States {
        States::of(&[StateType::Failed])
    }

    async fn before(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        let (run_count, policy) = (on.run.progress.run_count, &mut on.run.policy);
        let Some(proposed) = &on.proposed else { return Ok(()) };
        if policy.retries.is_none_or(|retries| run_count > retries) {
            policy.retry_type = None;
            return Ok(());
        }
        let retry = awaiting_retry(proposed, policy.retry_delay.unwrap_or(0) as f64, context.now);
        if context.has(version::PAUSES) {
            policy.resuming = Some(false);
            policy.pause_keys = Some(Default::default());
            policy.retry_type = Some(RetryType::InProcess);
        }
        if !context.has(version::FLOW_RETRIES) {
            let at = retry.state_details.scheduled_time.unwrap_or(context.now);
            retry_failed_task_runs(tx, context, on, at).await?;
        }
        on.reject_with(retry, "Retrying");
        Ok(())
    }
}

/// Old clients retry a flow by running its failed tasks again.
async fn retry_failed_task_runs(
    tx: &mut Tx,
    context: &Context<'_>,
    on: &mut Transition<FlowRun>,
    at: Timestamp,
) -> Result<(), OrchestrationError> {
    for id in transitions::list_failed_task_runs(tx, on.run.id).await? {
        let retry = State::scheduled(at, context.now).named(AWAITING_RETRY);
        set_task_run_state(tx, context, id, retry, TaskPolicy::Minimal).await?;
        transitions::reset_run_count(tx, id, context.now).await?;
    }
    Ok(())
}

/// RUNNING -> FAILED: a task run that has retries left, and whose client does not say that it is beyond retrying, is
/// scheduled again.
#[derive(Default)]
pub struct RetryFailedTasks;

#[async_trait]
impl Rule<TaskRun> for RetryFailedTasks {
    fn from(&self) -> States {
        States::of(&[StateType::Running])
    }

    fn to(&self) -> States {
        States::of(&[StateType::Failed])
    }

    async fn before(&mut self, _: &mut Tx, context: &Context<'_>, on: &mut Transition<TaskRun>) -> Done {
        let (run_count, policy) = (on.run.progress.run_count, &on.run.policy);
        let Some(proposed) = &on.proposed else { return Ok(()) };
        if proposed.state_details.retriable == Some(false) || policy.retries.is_none_or(|retries| run_count > retries) {
            return Ok(());
        }
        let base = policy.retry_delay.as_ref().map_or(0.0, |delay| delay.after(run_count));
        let delay = match policy.retry_jitter_factor {
            Some(factor) if factor > 0.0 && base > 0.0 => interval::clamped_poisson(base, factor),
            _ => base,
        };
        let retry = awaiting_retry(proposed, delay, context.now);
        on.reject_with(retry, "Retrying");
        Ok(())
    }
}

/// any -> RUNNING: a run that has run before is `Retrying` where it awaited that, else `Rerunning`.
#[derive(Default)]
pub struct RenameReruns;

#[async_trait]
impl<R: Run> Rule<R> for RenameReruns {
    fn from(&self) -> States {
        States::ANY
    }

    fn to(&self) -> States {
        States::of(&[StateType::Running])
    }

    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<R>) -> Done {
        let has_run = on.run.progress().run_count > 0;
        if let Some((from, _)) = on.both().filter(|_| has_run) {
            let name = if from.name == AWAITING_RETRY { "Retrying" } else { "Rerunning" };
            on.rename(name);
        }
        Ok(())
    }
}

/// any -> RUNNING: a task run notes which run of its flow it belongs to.
#[derive(Default)]
pub struct UpdateFlowRunTrackerOnTasks;

#[async_trait]
impl Rule<TaskRun> for UpdateFlowRunTrackerOnTasks {
    fn from(&self) -> States {
        States::ANY
    }

    fn to(&self) -> States {
        States::of(&[StateType::Running])
    }

    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, _: &mut Transition<TaskRun>) -> Done {
        Ok(())
    }

    async fn after(&mut self, tx: &mut Tx, _: &Context<'_>, on: &mut Transition<TaskRun>) -> Done {
        let Some(id) = on.run.flow_run_id else { return Ok(()) };
        let flow_run = transitions::read_enclosing(tx, id).await?.ok_or_else(|| {
            let id = on.run.id;
            OrchestrationError::NotFound(format!(
                "Unable to read flow run associated with task run: {id}, this flow run might have been deleted"
            ))
        })?;
        on.run.flow_run_run_count = flow_run.run_count;
        Ok(())
    }
}
