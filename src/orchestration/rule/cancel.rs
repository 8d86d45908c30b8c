//! Cancelling: a run that is being cancelled ends as cancelled, at once where there is nothing to take down.

use async_trait::async_trait;

use crate::model::state::{State, StateType};
use crate::orchestration::engine::Context;
use crate::orchestration::rule::{Done, Rule, States};
use crate::orchestration::transition::Transition;
use crate::store::Tx;
use crate::store::transitions::FlowRun;

/// CANCELLING -> any but CANCELLED: no other end.
#[derive(Default)]
pub struct EnforceCancellingToCancelledTransition;

#[async_trait]
impl Rule<FlowRun> for EnforceCancellingToCancelledTransition {
    fn from(&self) -> States {
        States::of(&[StateType::Cancelling])
    }

    fn to(&self) -> States {
        States::ANY.except(&[StateType::Cancelled])
    }

    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        on.reject("Cannot transition flows that are cancelling to a state other than Cancelled.");
        Ok(())
    }
}

/// SCHEDULED, PAUSED -> CANCELLING: a run without infrastructure (not yet, or not any more as it is suspended) needs no
/// cleaning up and is cancelled at once.
#[derive(Default)]
pub struct BypassCancellingFlowRunsWithNoInfra;

#[async_trait]
impl Rule<FlowRun> for BypassCancellingFlowRunsWithNoInfra {
    fn from(&self) -> States {
        States::of(&[StateType::Scheduled, StateType::Paused])
    }

    fn to(&self) -> States {
        States::of(&[StateType::Cancelling])
    }

    async fn before(&mut self, _: &mut Tx, context: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        let without_process = on.run.infrastructure_pid.as_deref().is_none_or(str::is_empty);
        let Some((from, _)) = on.both() else { return Ok(()) };
        let kind = if (from.kind == StateType::Scheduled && without_process) || from.name == "Resuming" {
            "Scheduled"
        } else if from.kind == StateType::Paused && from.state_details.pause_reschedule {
            "Suspended"
        } else {
            return Ok(());
        };
        let cancelled = State::new(StateType::Cancelled, context.now);
        on.reject_with(cancelled, format!("{kind} flow run has no infrastructure to terminate."));
        Ok(())
    }
}
