//! Tasks of flows that do not run.

use async_trait::async_trait;

use crate::model::state::{State, StateType};
use crate::orchestration::engine::Context;
use crate::orchestration::rule::{Done, Rule, States};
use crate::orchestration::transition::Transition;
use crate::store::Tx;
use crate::store::transitions::{self, TaskRun};

/// any -> RUNNING: a task runs only while its flow does. Where the flow is paused the task is `NotReady` until then.
#[derive(Default)]
pub struct PreventRunningTasksFromStoppedFlows;

#[async_trait]
impl Rule<TaskRun> for PreventRunningTasksFromStoppedFlows {
    fn from(&self) -> States {
        States::ANY
    }

    fn to(&self) -> States {
        States::of(&[StateType::Running])
    }

    async fn before(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<TaskRun>) -> Done {
        let Some(id) = on.run.flow_run_id else { return Ok(()) };
        let Some(flow_run) = transitions::read_enclosing(tx, id).await? else { return Ok(()) };
        match &flow_run.state {
            Some(state) if state.kind == StateType::Running => {}
            Some(state) if state.kind == StateType::Paused => {
                let mut paused = State::new(StateType::Paused, context.now).named("NotReady");
                paused.state_details.pause_timeout = state.state_details.pause_timeout;
                paused.state_details.pause_reschedule = state.state_details.pause_reschedule;
                let reason = format!("The flow is paused, new tasks can execute after resuming flow run: {}.", flow_run.id);
                on.reject_with(paused, reason);
            }
            _ => on.abort("The enclosing flow must be running to begin task execution."),
        }
        Ok(())
    }
}
