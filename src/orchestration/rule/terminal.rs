//! Runs that have ended.

use async_trait::async_trait;
use serde_json::Value;

use crate::model::json::is_truthy;
use crate::model::policy::{FlowRunPolicy, RetryType};
use crate::model::state::{State, StateType};
use crate::orchestration::engine::{Context, Run};
use crate::orchestration::rule::{Done, Rule, States};
use crate::orchestration::transition::Transition;
use crate::orchestration::version;
use crate::store::Tx;
use crate::store::transitions::{self, FlowRun, TaskRun};

const LOSES_DATA: &str = "Cannot overwrite a COMPLETED state that carries persisted result data with one that does not.";

/// True where the data of a state is where a result is kept.
fn has_persisted_result(state: &State) -> bool {
    match &state.data {
        Some(Value::Object(data)) => data.get("type").and_then(Value::as_str) != Some("unpersisted"),
        _ => false,
    }
}

/// True where a completed run has a persisted result.
fn has_result(state: &State) -> bool {
    state.kind == StateType::Completed && state.data.as_ref().is_some_and(is_truthy) && has_persisted_result(state)
}

/// True where the result of a completed run would be lost to another completed state.
fn loses_data(from: &State, to: &State) -> bool {
    has_result(from) && to.kind == StateType::Completed && !has_persisted_result(to)
}

/// True for states that nothing which has ended comes to.
fn comes_too_late(kind: StateType) -> bool {
    matches!(kind, StateType::Cancelling | StateType::Paused | StateType::Crashed)
}

/// COMPLETED, FAILED, CRASHED, CANCELLED -> any: a flow run that has ended is not paused, cancelled or crashed; keeps its
/// result; is scheduled again only where it has a deployment. When it leaves its end its pauses are forgotten.
#[derive(Default)]
pub struct HandleFlowTerminalStateTransitions {
    original: Option<FlowRunPolicy>,
}

#[async_trait]
impl Rule<FlowRun> for HandleFlowTerminalStateTransitions {
    fn from(&self) -> States {
        States::TERMINAL
    }

    fn to(&self) -> States {
        States::ANY
    }

    async fn before(&mut self, _: &mut Tx, context: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        self.original = Some(on.run.policy.clone());
        let without_deployment = on.run.deployment_id.is_none();
        let Some((from, to)) = on.both() else { return Ok(()) };
        let (kind, ends) = (to.kind, to.kind.is_terminal());
        if comes_too_late(kind) {
            let reason = format!("Run is already in terminal state {}.", from.kind);
            on.abort(reason);
        } else if !ends && has_result(from) {
            on.reject("Run is already COMPLETED.");
        } else if loses_data(from, to) {
            on.reject(LOSES_DATA);
        } else if kind == StateType::Scheduled && without_deployment {
            on.abort("Cannot reschedule a run without an associated deployment.");
        } else if !ends && context.has(version::PAUSES) {
            on.run.policy.resuming = Some(false);
            on.run.policy.pause_keys = Some(Default::default());
            on.run.policy.retry_type = (kind == StateType::Scheduled).then_some(RetryType::Reschedule);
        }
        Ok(())
    }

    async fn cleanup(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        if let Some(original) = self.original.take() {
            on.run.policy = original;
        }
        Ok(())
    }
}

/// The one part of [`HandleFlowTerminalStateTransitions`] that also holds where a state is forced: a completed run's
/// result is not lost to another completed state.
#[derive(Default)]
pub struct PreventResultDataLoss;

#[async_trait]
impl Rule<FlowRun> for PreventResultDataLoss {
    fn from(&self) -> States {
        States::TERMINAL
    }

    fn to(&self) -> States {
        States::TERMINAL
    }

    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        if on.both().is_some_and(|(from, to)| loses_data(from, to)) {
            on.reject(LOSES_DATA);
        }
        Ok(())
    }
}

/// COMPLETED, FAILED, CRASHED, CANCELLED -> any: a task run that has ended is not paused, cancelled or crashed, and keeps
/// its result. When it leaves its end its runs are counted anew; where that is a retry of its flow, it is `Retrying`.
#[derive(Default)]
pub struct HandleTaskTerminalStateTransitions {
    original_run_count: i64,
}

#[async_trait]
impl Rule<TaskRun> for HandleTaskTerminalStateTransitions {
    fn from(&self) -> States {
        States::TERMINAL
    }

    fn to(&self) -> States {
        States::ANY
    }

    async fn before(&mut self, tx: &mut Tx, _: &Context<'_>, on: &mut Transition<TaskRun>) -> Done {
        self.original_run_count = on.run.progress().run_count;
        let Some((from, to)) = on.both() else { return Ok(()) };
        let kind = to.kind;
        let data = from.data.as_ref().filter(|data| is_truthy(data));
        if comes_too_late(kind) {
            let reason = format!("Run is already {}.", from.kind);
            on.abort(reason);
            return Ok(());
        }
        let persisted = data.is_some_and(|data| data.get("type").and_then(Value::as_str) != Some("unpersisted"));
        if from.kind == StateType::Completed && persisted {
            on.reject("This run is already completed.");
            return Ok(());
        }
        if !kind.is_terminal() {
            on.run.progress_mut().run_count = 0;
        }
        if let Some(id) = on.run.flow_run_id.filter(|_| kind == StateType::Running)
            && let Some(flow_run) = transitions::read_enclosing(tx, id).await?
            && on.run.flow_run_run_count < flow_run.run_count
        {
            on.rename("Retrying");
        }
        Ok(())
    }

    async fn cleanup(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<TaskRun>) -> Done {
        on.run.progress_mut().run_count = self.original_run_count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use serde_json::json;

    #[test]
    fn only_a_persisted_result_can_be_lost() {
        let state = |kind, data: Value| State { data: Some(data), ..State::new(kind, Timestamp::UNIX_EPOCH) };
        let kept = state(StateType::Completed, json!({"type": "reference"}));
        let nothing = State::new(StateType::Completed, Timestamp::UNIX_EPOCH);
        assert!(loses_data(&kept, &nothing));
        assert!(loses_data(&kept, &state(StateType::Completed, json!({"type": "unpersisted"}))));
        assert!(!loses_data(&kept, &kept));
        assert!(!loses_data(&kept, &State::new(StateType::Failed, Timestamp::UNIX_EPOCH)));
        assert!(!loses_data(&state(StateType::Failed, json!({"type": "reference"})), &nothing));
        assert!(!loses_data(&state(StateType::Completed, json!("text")), &nothing));
    }
}
