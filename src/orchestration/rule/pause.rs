//! Pausing and resuming flow runs. A run that is suspended (`pause_reschedule`) leaves its process and is scheduled anew
//! on resume; it needs a deployment for that.

use async_trait::async_trait;

use crate::model::state::{State, StateType};
use crate::orchestration::engine::Context;
use crate::orchestration::rule::{Done, Rule, States};
use crate::orchestration::transition::Transition;
use crate::store::Tx;
use crate::store::transitions::FlowRun;

fn verb(proposed: &State) -> &'static str {
    if proposed.name == "Suspended" { "suspend" } else { "pause" }
}

/// any -> PAUSED: only a running run pauses, and each of its pauses once.
#[derive(Default)]
pub struct HandlePausingFlows {
    key: String,
}

#[async_trait]
impl Rule<FlowRun> for HandlePausingFlows {
    fn from(&self) -> States {
        States::ANY
    }

    fn to(&self) -> States {
        States::of(&[StateType::Paused])
    }

    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        let Some(proposed) = &on.proposed else { return Ok(()) };
        let verb = verb(proposed);
        self.key = proposed.state_details.pause_key.clone().unwrap_or_else(|| crate::id::v4().to_string());
        let leaves = proposed.state_details.pause_reschedule;
        let fired = on.run.policy.pause_keys.as_ref().is_some_and(|keys| keys.contains(&self.key));
        match on.from() {
            None => on.abort(format!("Cannot {verb} flows with no state.")),
            Some(from) if from != StateType::Running => on.reject(format!("Cannot {verb} flows that are not currently running.")),
            Some(_) if fired => on.reject(format!("This {verb} has already fired.")),
            Some(_) if leaves && on.run.parent_task_run_id.is_some() => on.abort(format!("Cannot {verb} subflows.")),
            Some(_) if leaves && on.run.deployment_id.is_none() => on.abort(format!("Cannot {verb} flows without a deployment.")),
            Some(_) => {}
        }
        Ok(())
    }

    async fn after(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        on.run.policy.pause_keys.get_or_insert_default().insert(std::mem::take(&mut self.key));
        Ok(())
    }
}

/// PAUSED -> any: a paused run goes on, is scheduled, or ends; after its timeout it has failed.
#[derive(Default)]
pub struct HandleResumingPausedFlows;

#[async_trait]
impl Rule<FlowRun> for HandleResumingPausedFlows {
    fn from(&self) -> States {
        States::of(&[StateType::Paused])
    }

    fn to(&self) -> States {
        States::ANY
    }

    async fn before(&mut self, _: &mut Tx, context: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        let without_deployment = on.run.deployment_id.is_none();
        let Some((from, to)) = on.both() else { return Ok(()) };
        let (verb, state) = (verb(to), to.name.to_lowercase());
        if !(matches!(to.kind, StateType::Running | StateType::Scheduled) || to.kind.is_terminal()) {
            // The reference prints its enumeration's members here.
            let reason = format!("This run cannot transition to the StateType.{} state from the StateType.{} state.", to.kind, from.kind);
            on.reject(reason);
        } else if from.state_details.pause_reschedule && without_deployment {
            on.reject(format!("Cannot reschedule a {state} flow run without a deployment."));
        } else if from.state_details.pause_timeout.is_some_and(|timeout| timeout < context.now) {
            let failed = State::new(StateType::Failed, context.now).with_message(format!("The flow was {state} and never resumed."));
            on.reject_with(failed, format!("The flow run {verb} has timed out and can no longer resume."));
        }
        Ok(())
    }

    async fn after(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        // Also where it was rejected, as the reference has it.
        on.run.policy.resuming = Some(true);
        Ok(())
    }
}
