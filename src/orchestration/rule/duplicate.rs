//! The same transition twice: of a client that lost the answer, or of two workers at once.

use async_trait::async_trait;

use crate::model::state::StateType;
use crate::orchestration::engine::{Context, Run};
use crate::orchestration::rule::{Done, Rule, States};
use crate::orchestration::transition::Transition;
use crate::store::Tx;
use crate::store::transitions::FlowRun;

/// any -> any: a transition whose id is that of the current state was made already.
#[derive(Default)]
pub struct PreventDuplicateTransitions;

#[async_trait]
impl Rule<FlowRun> for PreventDuplicateTransitions {
    fn from(&self) -> States {
        States::ANY
    }

    fn to(&self) -> States {
        States::ANY
    }

    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        if let Some((from, to)) = on.both()
            && from.state_details.transition_id.is_some()
            && from.state_details.transition_id == to.state_details.transition_id
        {
            on.reject("This run has already made this state transition.");
        }
        Ok(())
    }
}

/// PENDING, CANCELLING, RUNNING, CANCELLED -> PENDING: of two workers that take a run, the second is refused. A pending
/// run may go on to another pending state by name (`Submitting`, `InfrastructurePending`), but not back to `Pending`.
#[derive(Default)]
pub struct PreventPendingTransitions;

#[async_trait]
impl<R: Run> Rule<R> for PreventPendingTransitions {
    fn from(&self) -> States {
        States::of(&[StateType::Pending, StateType::Cancelling, StateType::Running, StateType::Cancelled])
    }

    fn to(&self) -> States {
        States::of(&[StateType::Pending])
    }

    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<R>) -> Done {
        let Some((from, to)) = on.both() else { return Ok(()) };
        if from.kind == StateType::Pending && to.kind == StateType::Pending && from.name != to.name && to.name != "Pending" {
            to.state_details.scheduled_time = from.state_details.scheduled_time;
            to.state_details.deployment_concurrency_lease_id = from.state_details.deployment_concurrency_lease_id;
            return Ok(());
        }
        let reason = format!("This run is in a {} state and cannot transition to a PENDING state.", from.kind);
        on.abort(reason);
        Ok(())
    }
}
