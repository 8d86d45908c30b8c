//! Runs that did not start in time.

use async_trait::async_trait;

use crate::model::concurrency::CollisionStrategy;
use crate::model::state::{State, StateType};
use crate::orchestration::engine::Context;
use crate::orchestration::rule::{Done, Rule, States};
use crate::orchestration::transition::Transition;
use crate::store::Tx;
use crate::store::transitions::{self, FlowRun};

/// Name of the state of a late run.
pub const LATE: &str = "Late";

/// any -> SCHEDULED `Late`: only a scheduled run is late, and only once.
#[derive(Default)]
pub struct EnsureOnlyScheduledFlowsMarkedLate;

#[async_trait]
impl Rule<FlowRun> for EnsureOnlyScheduledFlowsMarkedLate {
    fn from(&self) -> States {
        States::ANY
    }

    fn to(&self) -> States {
        States::of(&[StateType::Scheduled])
    }

    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        let Some((from, to)) = on.both() else { return Ok(()) };
        if to.name != LATE {
            return Ok(());
        }
        if from.kind != StateType::Scheduled {
            on.reject("Only scheduled flows can be marked late.");
        } else if from.name == LATE {
            on.reject("This flow run is already marked late.");
        }
        Ok(())
    }
}

/// SCHEDULED -> SCHEDULED `Late`: a run whose deployment cancels what finds no slot is cancelled rather than late, where
/// no slot is free.
#[derive(Default)]
pub struct EnforceDeploymentConcurrencyOnLate;

#[async_trait]
impl Rule<FlowRun> for EnforceDeploymentConcurrencyOnLate {
    fn from(&self) -> States {
        States::of(&[StateType::Scheduled])
    }

    fn to(&self) -> States {
        States::of(&[StateType::Scheduled])
    }

    async fn before(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        let marks_late = on.both().is_some_and(|(_, to)| to.name == LATE);
        let Some(deployment) = on.run.deployment_id.filter(|_| marks_late) else { return Ok(()) };
        let Some(deployment) = transitions::read_deployment(tx, deployment).await? else { return Ok(()) };
        let cancels = deployment.options.is_some_and(|options| options.collision_strategy == CollisionStrategy::CancelNew);
        if cancels && deployment.limit.is_some_and(|limit| limit.active_slots >= limit.limit) {
            let cancelled = State::new(StateType::Cancelled, context.now).with_message("Deployment concurrency limit reached.");
            on.reject_with(cancelled, "Deployment concurrency limit is full and uses the CANCEL_NEW strategy.");
        }
        Ok(())
    }
}
