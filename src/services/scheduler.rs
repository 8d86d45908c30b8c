//! Makes the runs to come of deployments with active schedules: of all that are in need, now and then, and of those that
//! were changed lately, often.
//!
//! A batch of deployments is one transaction, which sees the deployments as they are (see `store/scheduled_runs.rs`);
//! making the same runs again changes nothing, by their idempotency keys.

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use parking_lot::Mutex;

use super::{Done, Lead, ServiceError, Tick};
use crate::config::SchedulerSettings;
use crate::id::DeploymentId;
use crate::limits;
use crate::store::scheduled_runs::{self, Horizon};

/// The reference's `schedule_deployments`: every deployment that has too few runs ahead.
pub struct Scheduler {
    settings: SchedulerSettings,
    /// Where the next tick goes on, when the last one came to its bound.
    after: Mutex<Option<DeploymentId>>,
}

impl Scheduler {
    /// With its settings.
    pub fn new(settings: SchedulerSettings) -> Self {
        Self { settings, after: Mutex::new(None) }
    }
}

/// The reference's `schedule_recent_deployments`: deployments changed since shortly before the last tick.
pub struct RecentScheduler {
    settings: SchedulerSettings,
}

impl RecentScheduler {
    /// With its settings.
    pub fn new(settings: SchedulerSettings) -> Self {
        Self { settings }
    }
}

/// Which deployments a pass is over.
enum Pass {
    InNeed,
    ChangedWithin(TimeDelta),
}

#[async_trait]
impl Tick for Scheduler {
    fn name(&self) -> &'static str {
        "scheduler"
    }

    fn period(&self) -> Duration {
        self.settings.all.period
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        let after = self.after.lock().take();
        let (done, next) = pass(lead, &self.settings, &Pass::InNeed, after).await?;
        *self.after.lock() = next;
        Ok(done)
    }
}

#[async_trait]
impl Tick for RecentScheduler {
    fn name(&self) -> &'static str {
        "recent_scheduler"
    }

    fn period(&self) -> Duration {
        self.settings.recent_period
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        // A little more than a period, for what was being committed during the last tick.
        let within = self.settings.recent_period.mul_f64(1.1) + Duration::from_secs(1);
        let within = TimeDelta::from_std(within).unwrap_or(TimeDelta::MAX);
        Ok(pass(lead, &self.settings, &Pass::ChangedWithin(within), None).await?.0)
    }
}

/// Schedules batch after batch, up to the bound of a tick; gives where to go on.
async fn pass(
    lead: &Lead,
    settings: &SchedulerSettings,
    which: &Pass,
    mut after: Option<DeploymentId>,
) -> Result<(Done, Option<DeploymentId>), ServiceError> {
    let delta = |duration: Duration| TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
    let (min_runs, min_time) = (settings.min_runs as usize, delta(settings.min_scheduled_time));
    let batch = settings.deployment_batch_size;
    let mut items = 0;
    for _ in 0..limits::SCHEDULER_BATCHES {
        let now = lead.app.now();
        let mut tx = lead.begin("scheduler.batch").await?;
        let ids = match which {
            Pass::InNeed => scheduled_runs::in_need(&mut tx, now, min_runs, min_time, after, batch).await?,
            Pass::ChangedWithin(within) => scheduled_runs::changed_since(&mut tx, now - *within, after, batch).await?,
        };
        let Some(last) = ids.last().copied() else { return Ok((Done { items, more: false }, None)) };
        let horizon = Horizon {
            start: now,
            end: now + delta(settings.max_scheduled_time),
            min_time,
            min_runs,
            max_runs: settings.max_runs as usize,
            insert_batch: settings.insert_batch_size,
        };
        let scheduled = scheduled_runs::schedule(&mut tx, &ids, now, &horizon, false).await?;
        tx.commit().await?;
        for failed in &scheduled.failed {
            tracing::warn!(deployment.id = %failed.deployment, error = %failed.error, "a schedule has no dates");
        }
        items += scheduled.runs.len() as u64;
        if (ids.len() as u64) < batch {
            return Ok((Done { items, more: false }, None));
        }
        after = Some(last);
    }
    Ok((Done { items, more: true }, after))
}
