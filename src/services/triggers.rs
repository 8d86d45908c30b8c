//! The reference's `ReactiveTriggers` and `ProactiveTriggers`: evaluates the events of the stream, and what did not happen.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{Consume, Lead, ServiceError};
use crate::automations::engine::{Engine, EngineError, TRIGGERS_GROUP};
use crate::bus::{Entry, Topic};
use crate::limits;
use crate::store::Tx;

/// Holds what the leader remembers of triggers; a new leader begins anew.
#[derive(Default)]
pub struct Triggers {
    /// Taken by this service's own task alone, so nobody ever waits for it.
    engine: Mutex<Engine>,
}

impl From<EngineError> for ServiceError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Store(error) => Self::Store(error),
            EngineError::Bus(error) => Self::Bus(error),
            EngineError::NoEvent(_) | EngineError::TooMany(_) => Self::Poison(error.to_string()),
        }
    }
}

#[async_trait]
impl Consume for Triggers {
    fn name(&self) -> &'static str {
        TRIGGERS_GROUP
    }

    fn topic(&self) -> Topic {
        Topic::Events
    }

    fn batch_entries(&self) -> usize {
        limits::TRIGGERS_BATCH
    }

    async fn consume(&self, lead: &Lead, tx: &mut Tx, entries: &[Entry]) -> Result<(), ServiceError> {
        Ok(self.engine.lock().await.consume(&lead.app, tx, entries).await?)
    }

    fn pace(&self) -> Option<Duration> {
        Some(limits::TRIGGERS_PACE)
    }

    async fn look(&self, lead: &Lead) -> Result<(), ServiceError> {
        let mut engine = self.engine.lock().await;
        for _ in 0..limits::TRIGGERS_LOOKS {
            if !engine.is_due(&lead.app) {
                break;
            }
            let mut tx = lead.begin("triggers.look").await?;
            let more = engine.tick(&lead.app, &mut tx).await?;
            tx.commit().await?;
            engine.committed();
            if !more {
                break;
            }
        }
        Ok(())
    }
}
