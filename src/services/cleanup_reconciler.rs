//! Takes cleanup messages back from workers that held them too long, gives up those that were delivered often enough, and
//! forgets old ones (the reference's `reconcile_cleanup_delivery`).

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;

use super::{Done, Lead, ServiceError, Tick};
use crate::limits;
use crate::store::cleanup_messages::{self, Policy};

/// See the module.
pub struct CleanupReconciler {
    /// From the end of one tick to the next.
    pub period: Duration,
    /// Messages of one tick.
    pub batch_size: u64,
}

#[async_trait]
impl Tick for CleanupReconciler {
    fn name(&self) -> &'static str {
        "cleanup_reconciler"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        let now = lead.app.now();
        let settings = &lead.app.settings().orchestration;
        let lease = TimeDelta::from_std(settings.cleanup_lease).unwrap_or(TimeDelta::MAX);
        let policy = Policy { lease, deliveries: settings.cleanup_max_delivery_attempts };
        let mut tx = lead.begin("cleanup_reconciler").await?;
        let expired = cleanup_messages::expire(&mut tx, policy, self.batch_size, now).await?;
        let remembered = TimeDelta::from_std(limits::CLEANUP_MEMORY).unwrap_or(TimeDelta::MAX);
        let forgotten = cleanup_messages::forget(&mut tx, now - remembered, self.batch_size).await?;
        tx.commit().await?;
        let items = expired.redelivered + expired.given_up;
        if items > 0 {
            tracing::info!(redelivered = expired.redelivered, given_up = expired.given_up, "workers held cleanups too long");
        }
        Ok(Done { items: items + forgotten, more: items == self.batch_size || forgotten == self.batch_size })
    }
}
