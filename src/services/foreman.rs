//! Marks workers as offline that are silent, and pools, deployments and queues as not ready that nobody serves.

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;

use super::{Done, Lead, ServiceError, Tick};
use crate::config::ForemanSettings;
use crate::events::{deployment as deployment_events, work_pool as events};
use crate::limits;
use crate::model::status::DeploymentStatus;
use crate::store::deployments;
use crate::store::stale::{self, Silence};

/// The reference's `monitor_worker_health`.
pub struct Foreman {
    settings: ForemanSettings,
}

impl Foreman {
    /// With its settings.
    pub fn new(settings: ForemanSettings) -> Self {
        Self { settings }
    }
}

#[async_trait]
impl Tick for Foreman {
    fn name(&self) -> &'static str {
        "foreman"
    }

    fn period(&self) -> Duration {
        self.settings.tick.period
    }

    /// One transaction per kind. As in the reference pools come after workers: one without workers is seen in the tick that marked
    /// them. Deployments and queues ask nothing of either and go beside them.
    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        let workers_and_pools = async { Ok::<_, ServiceError>((self.workers(lead).await?, pools(lead).await?)) };
        let ((workers, pools), deployments, queues) = tokio::try_join!(workers_and_pools, self.deployments(lead), self.queues(lead))?;
        let counts = [workers, pools, deployments, queues];
        Ok(Done { items: counts.iter().sum(), more: counts.contains(&limits::FOREMAN_ROWS) })
    }
}

impl Foreman {
    async fn workers(&self, lead: &Lead) -> Result<u64, ServiceError> {
        let silence = Silence {
            heartbeats: self.settings.inactivity_heartbeat_multiple,
            fallback_seconds: self.settings.fallback_heartbeat_interval.as_secs_f64(),
        };
        let mut tx = lead.begin("foreman.workers").await?;
        let count = stale::mark_workers_offline(&mut tx, silence, lead.app.now(), limits::FOREMAN_ROWS).await?;
        tx.commit().await?;
        if count > 0 {
            tracing::info!(workers = count, "workers are silent and counted as offline");
        }
        Ok(count)
    }

    async fn deployments(&self, lead: &Lead) -> Result<u64, ServiceError> {
        let now = lead.app.now();
        let before = now - delta(self.settings.deployment_last_polled_timeout);
        let mut tx = lead.begin("foreman.deployments").await?;
        let ids = stale::unpolled_deployments(&mut tx, before, limits::FOREMAN_ROWS).await?;
        for deployment in deployments::mark(&mut tx, &ids, &[], DeploymentStatus::NotReady, now).await? {
            tx.emit(deployment_events::status(&deployment, DeploymentStatus::NotReady, now));
        }
        tx.commit().await?;
        Ok(ids.len() as u64)
    }

    async fn queues(&self, lead: &Lead) -> Result<u64, ServiceError> {
        let now = lead.app.now();
        let before = now - delta(self.settings.work_queue_last_polled_timeout);
        let mut tx = lead.begin("foreman.queues").await?;
        let queues = stale::mark_queues_not_ready(&mut tx, before, now, limits::FOREMAN_ROWS).await?;
        for queue in &queues {
            if let Some(event) = events::queue_status(queue, now) {
                tx.emit(event);
            }
        }
        tx.commit().await?;
        Ok(queues.len() as u64)
    }
}

async fn pools(lead: &Lead) -> Result<u64, ServiceError> {
    let now = lead.app.now();
    let mut tx = lead.begin("foreman.pools").await?;
    let marked = stale::mark_pools_not_ready(&mut tx, now, limits::FOREMAN_ROWS).await?;
    for pool in &marked {
        if let Some(event) = events::pool_status(pool.event_id, Some(&pool.before), &pool.after, now) {
            tx.emit(event);
        }
        tracing::info!(work_pool = pool.after.name, "no worker of a work pool is online; it is not ready");
    }
    tx.commit().await?;
    Ok(marked.len() as u64)
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}
