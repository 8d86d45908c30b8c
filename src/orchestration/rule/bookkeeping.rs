//! Bookkeeping on every transition that writes a state: the columns of the run, the references in the state, the task
//! run that stands for a subflow.

use async_trait::async_trait;
use chrono::TimeDelta;

use crate::model::state::{State, StateType};
use crate::orchestration::engine::{Context, Run, set_task_run_state};
use crate::orchestration::policy::TaskPolicy;
use crate::orchestration::rule::{Done, Transform};
use crate::orchestration::transition::Transition;
use crate::orchestration::version;
use crate::store::states::{self, Owner};
use crate::store::transitions::{FlowRun, Progress};
use crate::store::{StoreError, Tx};

/// A step which only looks at the two states and writes columns of the run.
fn note<R: Run>(on: &mut Transition<R>, write: impl FnOnce(&mut Progress, Option<&State>, &State)) {
    if let Some(proposed) = &on.proposed {
        write(on.run.progress_mut(), on.initial.as_ref(), proposed);
    }
}

/// No two states of a run have the same timestamp (there is a unique index): a later one moves by microseconds. Before
/// all others, which write the timestamp down.
#[derive(Default)]
pub struct EnsureRunStateTimestampIsUnique;

#[async_trait]
impl<R: Run> Transform<R> for EnsureRunStateTimestampIsUnique {
    async fn before(&mut self, tx: &mut Tx, _: &Context<'_>, on: &mut Transition<R>) -> Done {
        let owner = on.run.owner();
        if let Some(state) = &mut on.proposed {
            state.timestamp = first_free(tx, owner, state).await?;
        }
        Ok(())
    }
}

async fn first_free(tx: &mut Tx, owner: Owner, state: &State) -> Result<crate::clock::Timestamp, StoreError> {
    let mut at = state.timestamp;
    while states::has_at(tx, owner, at).await? {
        at += TimeDelta::microseconds(1);
    }
    Ok(at)
}

/// The run's state type is the state's.
#[derive(Default)]
pub struct SetRunStateType;

#[async_trait]
impl<R: Run> Transform<R> for SetRunStateType {
    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<R>) -> Done {
        note(on, |run, _, to| run.state_type = Some(to.kind));
        Ok(())
    }
}

/// The run's state name is the state's.
#[derive(Default)]
pub struct SetRunStateName;

#[async_trait]
impl<R: Run> Transform<R> for SetRunStateName {
    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<R>) -> Done {
        note(on, |run, _, to| run.state_name = Some(to.name.clone()));
        Ok(())
    }
}

/// The run's state timestamp is the state's.
#[derive(Default)]
pub struct SetRunStateTimestamp;

#[async_trait]
impl<R: Run> Transform<R> for SetRunStateTimestamp {
    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<R>) -> Done {
        note(on, |run, _, to| run.state_timestamp = Some(to.timestamp));
        Ok(())
    }
}

/// A run starts when it first runs.
#[derive(Default)]
pub struct SetStartTime;

fn set_start_time(run: &mut Progress, to: &State) {
    if to.kind == StateType::Running {
        run.start_time.get_or_insert(to.timestamp);
    }
}

#[async_trait]
impl<R: Run> Transform<R> for SetStartTime {
    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<R>) -> Done {
        note(on, |run, _, to| set_start_time(run, to));
        Ok(())
    }
}

/// A run ends with a terminal state, and has not ended any more when it leaves one. One that ends before it ran
/// started then.
#[derive(Default)]
pub struct SetEndTime;

fn set_end_time(run: &mut Progress, from: Option<&State>, to: &State) {
    if !to.kind.is_terminal() {
        if from.is_some_and(|from| from.kind.is_terminal()) {
            run.end_time = None;
        }
    } else if run.end_time.is_none() {
        run.start_time.get_or_insert(to.timestamp);
        run.end_time = Some(to.timestamp);
    }
}

#[async_trait]
impl<R: Run> Transform<R> for SetEndTime {
    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<R>) -> Done {
        note(on, set_end_time);
        Ok(())
    }
}

/// The time from one running state to the next state is run time.
#[derive(Default)]
pub struct IncrementRunTime;

fn increment_run_time(run: &mut Progress, from: Option<&State>, to: &State) {
    if let Some(from) = from.filter(|from| from.kind == StateType::Running) {
        run.total_run_seconds += (to.timestamp - from.timestamp).num_microseconds().unwrap_or_default() as f64 / 1e6;
    }
}

#[async_trait]
impl<R: Run> Transform<R> for IncrementRunTime {
    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<R>) -> Done {
        note(on, increment_run_time);
        Ok(())
    }
}

/// A run is expected to start when its first state says, or when it was made.
#[derive(Default)]
pub struct SetExpectedStartTime;

fn set_expected_start_time(run: &mut Progress, to: &State) {
    if run.expected_start_time.is_none() {
        run.expected_start_time = if to.kind == StateType::Scheduled { to.state_details.scheduled_time } else { Some(to.timestamp) };
    }
}

#[async_trait]
impl<R: Run> Transform<R> for SetExpectedStartTime {
    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<R>) -> Done {
        note(on, |run, _, to| set_expected_start_time(run, to));
        Ok(())
    }
}

/// A run is scheduled while it is in a scheduled state.
#[derive(Default)]
pub struct SetNextScheduledStartTime;

fn set_next_scheduled_start_time(run: &mut Progress, from: Option<&State>, to: &State) {
    if from.is_some_and(|from| from.kind == StateType::Scheduled) {
        run.next_scheduled_start_time = None;
    }
    if to.kind == StateType::Scheduled {
        run.next_scheduled_start_time = to.state_details.scheduled_time;
    }
}

#[async_trait]
impl<R: Run> Transform<R> for SetNextScheduledStartTime {
    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<R>) -> Done {
        note(on, set_next_scheduled_start_time);
        Ok(())
    }
}

/// A state names its run.
#[derive(Default)]
pub struct UpdateStateDetails;

#[async_trait]
impl<R: Run> Transform<R> for UpdateStateDetails {
    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<R>) -> Done {
        let owner = on.run.owner();
        if let Some(state) = &mut on.proposed {
            match owner {
                Owner::FlowRun(id) => state.state_details.flow_run_id = Some(id),
                Owner::TaskRun { id, flow_run_id } => {
                    state.state_details.flow_run_id = flow_run_id;
                    state.state_details.task_run_id = Some(id);
                }
            }
        }
        Ok(())
    }
}

/// The task run that stands for a subflow in its parent has the subflow's state.
#[derive(Default)]
pub struct UpdateSubflowParentTask;

#[async_trait]
impl Transform<FlowRun> for UpdateSubflowParentTask {
    async fn after(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        let (Some(parent), Some(validated)) = (on.run.parent_task_run_id, &on.validated) else { return Ok(()) };
        let mut state = validated.fresh_copy(context.now);
        state.state_details.child_flow_run_id = Some(on.run.id);
        set_task_run_state(tx, context, parent, state, TaskPolicy::Minimal).await?;
        Ok(())
    }
}

/// A subflow's state names the task run that stands for it.
#[derive(Default)]
pub struct UpdateSubflowStateDetails;

#[async_trait]
impl Transform<FlowRun> for UpdateSubflowStateDetails {
    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        if let (Some(parent), Some(state)) = (on.run.parent_task_run_id, &mut on.proposed) {
            state.state_details.task_run_id = Some(parent);
        }
        Ok(())
    }
}

/// Counts the times that a flow run runs; going on after a pause is none.
#[derive(Default)]
pub struct IncrementFlowRunCount;

#[async_trait]
impl Transform<FlowRun> for IncrementFlowRunCount {
    async fn before(&mut self, _: &mut Tx, context: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        let goes_on = context.has(version::PAUSES) && on.run.policy.is_resuming();
        if on.to() == Some(StateType::Running) && !goes_on {
            on.run.progress.run_count += 1;
        }
        Ok(())
    }
}

/// A run that runs or has ended is not being resumed any more.
#[derive(Default)]
pub struct RemoveResumingIndicator;

#[async_trait]
impl Transform<FlowRun> for RemoveResumingIndicator {
    async fn before(&mut self, _: &mut Tx, context: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        let done = on.to().is_some_and(|to| to == StateType::Running || to.is_terminal());
        if context.has(version::PAUSES) && done && on.run.policy.is_resuming() {
            on.run.policy.resuming = Some(false);
        }
        Ok(())
    }
}

/// Counts the times that a task run runs.
#[derive(Default)]
pub struct IncrementTaskRunCount;

#[async_trait]
impl<R: Run> Transform<R> for IncrementTaskRunCount {
    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<R>) -> Done {
        note(on, |run, _, to| run.run_count += i64::from(to.kind == StateType::Running));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    #[test]
    fn a_run_starts_once_and_ends_until_it_leaves_its_end() {
        let mut run = Progress::default();
        let (failed, running) = (State::new(StateType::Failed, at(1)), State::new(StateType::Running, at(2)));
        set_end_time(&mut run, None, &failed);
        assert_eq!((run.start_time, run.end_time), (Some(at(1)), Some(at(1))));
        set_end_time(&mut run, Some(&failed), &running);
        set_start_time(&mut run, &running);
        assert_eq!((run.start_time, run.end_time), (Some(at(1)), None));
        let done = State::new(StateType::Completed, at(5));
        increment_run_time(&mut run, Some(&running), &done);
        set_end_time(&mut run, Some(&running), &done);
        let again = State::new(StateType::Crashed, at(9));
        set_end_time(&mut run, Some(&done), &again);
        increment_run_time(&mut run, Some(&done), &again);
        assert_eq!((run.end_time, run.total_run_seconds), (Some(at(5)), 3.0));
    }

    #[test]
    fn a_run_is_scheduled_while_its_state_is() {
        let mut run = Progress::default();
        let (scheduled, pending) = (State::scheduled(at(7), at(1)), State::new(StateType::Pending, at(2)));
        set_expected_start_time(&mut run, &scheduled);
        set_next_scheduled_start_time(&mut run, None, &scheduled);
        assert_eq!((run.expected_start_time, run.next_scheduled_start_time), (Some(at(7)), Some(at(7))));
        set_expected_start_time(&mut run, &pending);
        set_next_scheduled_start_time(&mut run, Some(&scheduled), &pending);
        assert_eq!((run.expected_start_time, run.next_scheduled_start_time), (Some(at(7)), None));
        let mut unplanned = Progress::default();
        set_expected_start_time(&mut unplanned, &pending);
        assert_eq!(unplanned.expected_start_time, Some(at(2)));
    }
}
