//! Publishes what a node left in the outbox when it died between commit and publish, or could not publish.

use std::time::Duration;

use async_trait::async_trait;

use super::{Done, Lead, ServiceError, Tick};
use crate::limits;
use crate::store::outbox;

/// Looks for rows that their node should have published by now.
pub struct OutboxSweeper {
    /// From the end of one tick to the next.
    pub period: Duration,
}

#[async_trait]
impl Tick for OutboxSweeper {
    fn name(&self) -> &'static str {
        "outbox_sweeper"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        let before = lead.app.now() - limits::OUTBOX_GRACE;
        let left = outbox::list(&mut lead.app.read("outbox_sweeper").await?, before, limits::OUTBOX_SWEEP).await?;
        if !left.is_empty() {
            lead.app.publish_from_outbox(&left).await?;
            tracing::info!(messages = left.len(), "messages that were left in the outbox are published");
        }
        Ok(Done { items: left.len() as u64, more: left.len() as u64 == limits::OUTBOX_SWEEP })
    }
}
