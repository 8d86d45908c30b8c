//! Writes the events of the bus to the database, in batches, once each.

use async_trait::async_trait;

use super::{Consume, Lead, ServiceError};
use crate::bus::{Entry, Topic};
use crate::limits;
use crate::model::event::PERSISTER_GROUP;
use crate::store::{Tx, events};

/// The reference's `EventPersister`.
pub struct EventPersister;

#[async_trait]
impl Consume for EventPersister {
    fn name(&self) -> &'static str {
        PERSISTER_GROUP
    }

    fn topic(&self) -> Topic {
        Topic::Events
    }

    fn batch_entries(&self) -> usize {
        limits::EVENT_PERSISTER_BATCH
    }

    async fn consume(&self, lead: &Lead, tx: &mut Tx, entries: &[Entry]) -> Result<(), ServiceError> {
        let events = entries.iter().map(|entry| serde_json::from_slice(&entry.payload)).collect::<Result<_, _>>();
        let events = events.map_err(|error| ServiceError::Poison(format!("not an event: {error}")))?;
        events::insert(tx, events, lead.app.now()).await?;
        Ok(())
    }
}
