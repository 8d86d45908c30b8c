//! Makes the runs to come of deployments with active schedules: of all that are in need, now and then, and of those that
//! were changed lately, often.
//!
//! A batch of deployments is one transaction, which sees the deployments as they are (see `store/scheduled_runs.rs`);
//! making the same runs again changes nothing, by their idempotency keys.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use parking_lot::Mutex;

use super::{Done, Lead, ServiceError, Tick};
use crate::clock::Timestamp;
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

/// The reference's `schedule_recent_deployments`: deployments that were changed since the last tick.
///
/// A change is seen when its transaction commits, which on a slow database is seconds after the time it carries. So a
/// tick looks further back than the last one, and leaves out what it has scheduled already.
pub struct RecentScheduler {
    settings: SchedulerSettings,
    /// The changes within reach that have been scheduled.
    scheduled: Mutex<HashMap<DeploymentId, Timestamp>>,
}

impl RecentScheduler {
    /// With its settings.
    pub fn new(settings: SchedulerSettings) -> Self {
        Self { settings, scheduled: Mutex::new(HashMap::new()) }
    }
}

/// Which deployments a pass is over.
enum Pass<'a> {
    InNeed,
    /// Changed since then, and not one of these changes.
    Changed(Timestamp, &'a Mutex<HashMap<DeploymentId, Timestamp>>),
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
        let within = self.settings.recent_period.mul_f64(1.1) + limits::CHANGE_SEEN_WITHIN;
        let since = lead.app.now() - TimeDelta::from_std(within).unwrap_or(TimeDelta::MAX);
        self.scheduled.lock().retain(|_, changed| *changed >= since);
        Ok(pass(lead, &self.settings, &Pass::Changed(since, &self.scheduled), None).await?.0)
    }
}

/// Schedules batch after batch, up to the bound of a tick; gives where to go on.
async fn pass(
    lead: &Lead,
    settings: &SchedulerSettings,
    which: &Pass<'_>,
    mut after: Option<DeploymentId>,
) -> Result<(Done, Option<DeploymentId>), ServiceError> {
    let delta = |duration: Duration| TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
    let (min_runs, min_time) = (settings.min_runs as usize, delta(settings.min_scheduled_time));
    let batch = settings.deployment_batch_size;
    let (mut items, mut batches) = (0, 0);
    while batches < limits::SCHEDULER_BATCHES {
        let now = lead.app.now();
        let mut tx = lead.begin("scheduler.batch").await?;
        let (found, changes) = match which {
            Pass::InNeed => (scheduled_runs::in_need(&mut tx, now, min_runs, min_time, after, batch).await?, Vec::new()),
            Pass::Changed(since, scheduled) => {
                let mut changes = scheduled_runs::changed_since(&mut tx, *since, after, batch).await?;
                let found = changes.iter().map(|(id, _)| *id).collect();
                let scheduled = scheduled.lock();
                changes.retain(|(id, changed)| scheduled.get(id) != Some(changed));
                (found, changes)
            }
        };
        let Some(last) = found.last().copied() else { break };
        let full = found.len() as u64 >= batch;
        let ids = if matches!(which, Pass::InNeed) { found } else { changes.iter().map(|(id, _)| *id).collect() };
        if !ids.is_empty() {
            batches += 1;
            let horizon = Horizon {
                start: now,
                end: now + delta(settings.max_scheduled_time),
                min_time,
                min_runs,
                max_runs: settings.max_runs as usize,
                insert_batch: settings.insert_batch_size,
            };
            let made = scheduled_runs::schedule(&mut tx, &ids, now, &horizon, false).await?;
            tx.commit().await?;
            if let Pass::Changed(_, scheduled) = which {
                scheduled.lock().extend(changes);
            }
            for failed in &made.failed {
                tracing::warn!(deployment.id = %failed.deployment, error = %failed.error, "a schedule has no dates");
            }
            items += made.runs.len() as u64;
        }
        if !full {
            return Ok((Done { items, more: false }, None));
        }
        after = Some(last);
    }
    Ok((Done { items, more: batches == limits::SCHEDULER_BATCHES }, after))
}
