//! Slots of the concurrency limits on a task run's tags: the limits named `tag:<tag>`, held under leases, and those of
//! the old table, which list the task runs that hold them.

use async_trait::async_trait;
use uuid::Uuid;

use crate::id::{ConcurrencyLimitId, LeaseId};
use crate::model::concurrency::{ConcurrencyLimit, ConcurrencyLimitV2, HolderType, LeaseHolder, TAG_PREFIX};
use crate::model::state::StateType;
use crate::orchestration::engine::{Context, OrchestrationError};
use crate::orchestration::interval;
use crate::orchestration::rule::{Done, Rule, States, Transform};
use crate::orchestration::transition::Transition;
use crate::store::concurrency_limits::{self, v1};
use crate::store::leases::{self, Occupancy};
use crate::store::transitions::TaskRun;
use crate::store::{StoreError, Tx};

fn names(tags: &[String]) -> Vec<String> {
    tags.iter().map(|tag| format!("{TAG_PREFIX}{tag}")).collect()
}

fn tag(limit: &ConcurrencyLimitV2) -> &str {
    limit.tag().unwrap_or(&limit.name)
}

/// any -> RUNNING: a task run takes a slot of every limit on its tags, or none and comes again.
///
/// A limit of 0 is found before any slot is taken; the reference goes on after it and keeps the slots that it takes then.
#[derive(Default)]
pub struct SecureTaskConcurrencySlots {
    lease: Option<LeaseId>,
    old: Vec<ConcurrencyLimitId>,
}

#[async_trait]
impl Rule<TaskRun> for SecureTaskConcurrencySlots {
    fn from(&self) -> States {
        States::ANY
    }

    fn to(&self) -> States {
        States::of(&[StateType::Running])
    }

    async fn before(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<TaskRun>) -> Done {
        if on.run.tags.is_empty() {
            return Ok(());
        }
        let old = v1::lock_tagged(tx, &on.run.tags).await?;
        let limits = concurrency_limits::read_named(tx, &names(&on.run.tags)).await?;
        let limits: Vec<_> = limits.into_iter().filter(|limit| limit.active).collect();
        let old: Vec<_> = old.into_iter().filter(|old| limits.iter().all(|limit| tag(limit) != old.tag)).collect();

        let nothing = limits.iter().filter(|limit| limit.limit == 0).map(tag);
        let nothing = nothing.chain(old.iter().filter(|limit| limit.concurrency_limit == 0).map(|limit| limit.tag.as_str())).next();
        if let Some(tag) = nothing.map(str::to_owned) {
            on.abort(format!("The concurrency limit on tag \"{tag}\" is 0 and will deadlock if the task tries to run again."));
            return Ok(());
        }
        if let Some(full) = old.iter().find(|limit| limit.active_slots.len() as i64 >= limit.concurrency_limit) {
            let seconds = context.settings.tag_concurrency_slot_wait.as_secs() as i64;
            on.wait(seconds, format!("Concurrency limit for the {} tag has been reached", full.tag));
            return Ok(());
        }
        if !limits.is_empty() {
            let ids: Vec<_> = limits.iter().map(|limit| limit.id).collect();
            let holder = LeaseHolder { kind: HolderType::TaskRun, id: on.run.id.0 };
            if let Some(lease) = leases::take(tx, &ids, 1, leases::FOREVER, Some(holder), context.now, context.waits()).await? {
                self.lease = Some(lease);
            } else {
                let tags: Vec<_> = limits.iter().map(tag).collect();
                on.wait(wait_seconds(&limits, context), format!("Concurrency limit reached for tags: {}", tags.join(", ")));
                return Ok(());
            }
        }
        for limit in &old {
            hold(tx, context, limit, on.run.id.0).await?;
            self.old.push(limit.id);
        }
        Ok(())
    }

    async fn cleanup(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<TaskRun>) -> Done {
        if let Some(lease) = self.lease.take() {
            leases::give_back(tx, lease, Occupancy::Ignored, context.now, context.waits()).await?;
        }
        for id in std::mem::take(&mut self.old) {
            if let Some(limit) = v1::read(tx, &v1::Key::Id(id)).await? {
                let_go(tx, context, &limit, on.run.id.0).await?;
            }
        }
        Ok(())
    }
}

/// As long as a slot of the most contended limit is held on average, but not longer than the setting; with jitter.
fn wait_seconds(limits: &[ConcurrencyLimitV2], context: &Context<'_>) -> i64 {
    let longest = context.waits().tag_seconds;
    let contention = |limit: &ConcurrencyLimitV2| limit.active_slots as f64 / limit.limit as f64;
    let busiest = limits.iter().max_by(|a, b| contention(a).total_cmp(&contention(b)));
    let occupancy = busiest.map_or(0.0, |limit| limit.avg_slot_occupancy_seconds);
    let average = if occupancy == 0.0 { longest } else { occupancy.min(longest) };
    interval::clamped_poisson(average, interval::CLAMPING).round_ties_even() as i64
}

async fn hold(tx: &mut Tx, context: &Context<'_>, limit: &ConcurrencyLimit, run: Uuid) -> Result<(), StoreError> {
    if limit.active_slots.contains(&run) {
        return Ok(());
    }
    let slots: Vec<_> = limit.active_slots.iter().copied().chain([run]).collect();
    v1::set_active_slots(tx, limit.id, &slots, context.now).await
}

async fn let_go(tx: &mut Tx, context: &Context<'_>, limit: &ConcurrencyLimit, run: Uuid) -> Result<(), StoreError> {
    if !limit.active_slots.contains(&run) {
        return Ok(());
    }
    let slots: Vec<_> = limit.active_slots.iter().copied().filter(|holder| *holder != run).collect();
    v1::set_active_slots(tx, limit.id, &slots, context.now).await
}

/// any -> all but RUNNING and CANCELLING: a task run gives back what it holds.
#[derive(Default)]
pub struct ReleaseTaskConcurrencySlots;

#[async_trait]
impl Transform<TaskRun> for ReleaseTaskConcurrencySlots {
    async fn after(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<TaskRun>) -> Done {
        let holds = |kind: StateType| matches!(kind, StateType::Running | StateType::Cancelling);
        if on.run.tags.is_empty() || on.validated.as_ref().is_none_or(|state| holds(state.kind)) {
            return Ok(());
        }
        release(tx, context, &on.run).await
    }
}

async fn release(tx: &mut Tx, context: &Context<'_>, run: &TaskRun) -> Result<(), OrchestrationError> {
    let limits: Vec<_> = concurrency_limits::read_named(tx, &names(&run.tags)).await?.into_iter().map(|limit| limit.id).collect();
    for lease in leases::list_held(tx, &limits, run.id.0).await? {
        leases::give_back(tx, lease, Occupancy::Ignored, context.now, context.waits()).await?;
    }
    for limit in v1::lock_tagged(tx, &run.tags).await? {
        let_go(tx, context, &limit, run.id.0).await?;
    }
    Ok(())
}
