//! Slots of a deployment's concurrency limit, which its flow runs hold from PENDING to their end under a lease that the
//! client renews.
//!
//! A lease that is gone although its run has not ended was either taken back because it ran out, with its slots, or made
//! by a Python server whose leases we do not see, and then its slots are still counted. Its id tells: ours are of
//! version 7, theirs of version 4.

use async_trait::async_trait;
use chrono::TimeDelta;

use crate::id::{DeploymentId, FlowRunId, LeaseId};
use crate::model::concurrency::{CollisionStrategy, HolderType, LeaseHolder};
use crate::model::state::{State, StateType};
use crate::orchestration::engine::Context;
use crate::orchestration::rule::{Done, Rule, States, Transform};
use crate::orchestration::transition::Transition;
use crate::orchestration::version::ClientVersion;
use crate::store::leases::{self, Occupancy};
use crate::store::transitions::{self, Deployment, FlowRun};
use crate::store::{StoreError, Tx, slots};

/// Types of states in which a run holds its slot.
const HOLDS_SLOT: States = States::of(&[StateType::Pending, StateType::Running, StateType::Cancelling]);

fn holder(run: &FlowRun) -> LeaseHolder {
    LeaseHolder { kind: HolderType::FlowRun, id: run.id.0 }
}

/// How long a run has from its slot to its start.
fn grace_period(deployment: &Deployment, context: &Context<'_>) -> TimeDelta {
    deployment.options.as_ref().and_then(|options| options.grace_period_seconds).map_or(context.initial_lease(), TimeDelta::seconds)
}

/// True where a lease that is gone has not taken its slots with it.
fn left_its_slots(id: LeaseId) -> bool {
    id.0.get_version_num() != 7
}

/// A state without a lease takes over the current one: workers send an explicit null.
#[derive(Default)]
pub struct PreserveDeploymentConcurrencyLeaseId;

#[async_trait]
impl Transform<FlowRun> for PreserveDeploymentConcurrencyLeaseId {
    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        if let Some((from, to)) = on.both() {
            let lease = &mut to.state_details.deployment_concurrency_lease_id;
            *lease = lease.or(from.state_details.deployment_concurrency_lease_id);
        }
        Ok(())
    }
}

/// PENDING -> RUNNING: the lease is renewed. Where it ran out during the start of the infrastructure, a new slot is taken;
/// where there is none, the run is cancelled, as its infrastructure cannot wait. Only for clients that renew leases.
#[derive(Default)]
pub struct ValidateDeploymentConcurrencyAtRunning;

#[async_trait]
impl Rule<FlowRun> for ValidateDeploymentConcurrencyAtRunning {
    fn from(&self) -> States {
        States::of(&[StateType::Pending])
    }

    fn to(&self) -> States {
        States::of(&[StateType::Running])
    }

    async fn before(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        let Some((from, to)) = on.both() else { return Ok(()) };
        to.state_details.deployment_concurrency_lease_id = from.state_details.deployment_concurrency_lease_id;
        let Some(lease) = from.state_details.deployment_concurrency_lease_id else { return Ok(()) };
        if !context.client.as_ref().is_some_and(ClientVersion::renews_leases) {
            return Ok(());
        }
        let Some(id) = on.run.deployment_id else { return Ok(()) };
        let Some(deployment) = transitions::read_deployment(tx, id).await? else { return Ok(()) };
        let Some(limit) = &deployment.limit else { return Ok(()) };
        let grace = grace_period(&deployment, context);
        if leases::renew(tx, lease, grace, context.now).await? {
            return Ok(());
        }
        let taken = leases::take(tx, &[limit.id], 1, grace, Some(holder(&on.run)), context.now, context.waits()).await?;
        if let (Some(lease), Some(to)) = (taken, &mut on.proposed) {
            to.state_details.deployment_concurrency_lease_id = Some(lease);
        } else {
            let message = "Deployment concurrency slot lost during provisioning - no slots available to continue execution";
            let cancelled = State::new(StateType::Cancelled, context.now).with_message(message);
            on.reject_with(cancelled, "Deployment concurrency limit reached after lease expiry.");
        }
        Ok(())
    }
}

/// any but PENDING, RUNNING, CANCELLING -> PENDING: a run takes a slot before its infrastructure starts. Where there is
/// none it waits its turn or is cancelled, as its deployment says.
#[derive(Default)]
pub struct SecureFlowConcurrencySlots {
    lease: Option<LeaseId>,
}

#[async_trait]
impl Rule<FlowRun> for SecureFlowConcurrencySlots {
    fn from(&self) -> States {
        States::ANY.except(&[StateType::Pending, StateType::Running, StateType::Cancelling])
    }

    fn to(&self) -> States {
        States::of(&[StateType::Pending])
    }

    async fn before(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        let Some(id) = on.run.deployment_id else { return Ok(()) };
        if context.client.as_ref().is_some_and(ClientVersion::takes_slots_itself) {
            return Ok(());
        }
        let Some(deployment) = transitions::read_deployment(tx, id).await? else {
            on.abort("Deployment not found.");
            return Ok(());
        };
        let Some(limit) = &deployment.limit else { return Ok(()) };
        if limit.limit == 0 {
            on.abort("The deployment concurrency limit is 0. The flow will deadlock if submitted again.");
            return Ok(());
        }
        let grace = grace_period(&deployment, context);
        let taken = leases::take(tx, &[limit.id], 1, grace, Some(holder(&on.run)), context.now, context.waits()).await?;
        if let (Some(lease), Some(to)) = (taken, &mut on.proposed) {
            to.state_details.deployment_concurrency_lease_id = Some(lease);
            self.lease = Some(lease);
            return Ok(());
        }
        let strategy = deployment.options.map_or(CollisionStrategy::Enqueue, |options| options.collision_strategy);
        let reason = "Deployment concurrency limit reached.";
        match strategy {
            CollisionStrategy::Enqueue => {
                let wait = TimeDelta::from_std(context.settings.deployment_concurrency_slot_wait).unwrap_or(TimeDelta::MAX);
                on.reject_with(State::scheduled(context.now + wait, context.now).named("AwaitingConcurrencySlot"), reason);
            }
            CollisionStrategy::CancelNew => {
                on.reject_with(State::new(StateType::Cancelled, context.now).with_message(reason), reason);
            }
        }
        Ok(())
    }

    async fn cleanup(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        if let Some(lease) = self.lease.take() {
            leases::give_back(tx, lease, Occupancy::Ignored, context.now, context.waits()).await?;
            if let Some(state) = &mut on.validated {
                state.state_details.deployment_concurrency_lease_id = None;
            }
        }
        Ok(())
    }
}

/// PENDING -> RUNNING, CANCELLING: a client that does not renew leases keeps its slot without one running out.
///
/// The reference ends the lease and leaves its slot counted until the end of the run; here the lease lasts instead, so
/// that the slot still has an owner.
#[derive(Default)]
pub struct RemoveDeploymentConcurrencyLeaseForOldClientVersions;

#[async_trait]
impl Rule<FlowRun> for RemoveDeploymentConcurrencyLeaseForOldClientVersions {
    fn from(&self) -> States {
        States::of(&[StateType::Pending])
    }

    fn to(&self) -> States {
        States::of(&[StateType::Running, StateType::Cancelling])
    }

    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, _: &mut Transition<FlowRun>) -> Done {
        Ok(())
    }

    async fn after(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        if context.client.as_ref().is_some_and(ClientVersion::renews_leases) {
            return Ok(());
        }
        if let Some(lease) = on.initial.as_ref().and_then(|from| from.state_details.deployment_concurrency_lease_id) {
            leases::renew(tx, lease, leases::FOREVER, context.now).await?;
        }
        Ok(())
    }
}

/// PENDING, RUNNING, CANCELLING -> others: a run that does not hold its slot any more gives it back.
#[derive(Default)]
pub struct ReleaseFlowConcurrencySlots;

#[async_trait]
impl Transform<FlowRun> for ReleaseFlowConcurrencySlots {
    async fn after(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        if on.from().is_none() || !HOLDS_SLOT.has(on.from()) || HOLDS_SLOT.has(on.to()) || on.run.deployment_id.is_none() {
            return Ok(());
        }
        let lease = on.initial.as_ref().and_then(|from| from.state_details.deployment_concurrency_lease_id);
        Ok(give_back_slot(tx, context, on.run.id, on.run.deployment_id, lease).await?)
    }
}

/// Gives back the slot of a run that was in a state which holds one: by the lease that its state names, or else by those
/// that it holds of its deployment's limit (a state that was forced need not name one).
pub async fn give_back_slot(
    tx: &mut Tx,
    context: &Context<'_>,
    run: FlowRunId,
    deployment: Option<DeploymentId>,
    lease: Option<LeaseId>,
) -> Result<(), StoreError> {
    if let Some(lease) = lease {
        let given = leases::give_back(tx, lease, Occupancy::Ignored, context.now, context.waits()).await?;
        if given || !left_its_slots(lease) {
            return Ok(());
        }
    }
    let Some(id) = deployment else { return Ok(()) };
    let Some(limit) = transitions::read_deployment(tx, id).await?.and_then(|deployment| deployment.concurrency_limit_id) else {
        return Ok(());
    };
    let held = leases::list_held(tx, &[limit], run.0).await?;
    if held.is_empty() {
        // A slot that no lease of ours holds.
        return slots::give_back(tx, &[limit], 1, None, context.now, context.waits()).await;
    }
    for lease in held {
        leases::give_back(tx, lease, Occupancy::Ignored, context.now, context.waits()).await?;
    }
    Ok(())
}
