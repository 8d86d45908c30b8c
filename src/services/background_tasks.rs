//! Keeps the queue of background tasks in step with the task runs: brings in those that are scheduled and not queued (a
//! server that kept its queue in memory made them), and forgets those that have started or are gone.

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;

use super::{Done, Lead, ServiceError, Tick};
use crate::limits;
use crate::store::task_deliveries;

/// See the module.
pub struct BackgroundTasks {
    /// From the end of one tick to the next.
    pub period: Duration,
}

#[async_trait]
impl Tick for BackgroundTasks {
    fn name(&self) -> &'static str {
        "background_tasks"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        let now = lead.app.now();
        let before = |age: Duration| now - TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX);
        let mut tx = lead.begin("background_tasks.recover").await?;
        let recovered = task_deliveries::recover(&mut tx, before(limits::TASK_RECOVERY_AGE), limits::TASK_SWEEP).await?;
        tx.commit().await?;
        if recovered > 0 {
            tracing::info!(recovered, "scheduled background tasks that nobody had queued wait for a task worker now");
        }
        let mut tx = lead.begin("background_tasks.forget").await?;
        let forgotten = task_deliveries::forget(&mut tx, before(limits::TASK_CLAIM), limits::TASK_SWEEP).await?;
        tx.commit().await?;
        Ok(Done { items: recovered + forgotten, more: recovered == limits::TASK_SWEEP || forgotten == limits::TASK_SWEEP })
    }
}
