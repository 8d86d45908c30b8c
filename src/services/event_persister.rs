//! Writes the events of the bus to the database, in batches, once each.

use async_trait::async_trait;

use super::task_run_recorder::TASK_RUN_RECORDER;
use super::{Consume, Lead, ServiceError};
use crate::bus::{Entry, Topic};
use crate::limits;
use crate::model::event::PERSISTER_GROUP;
use crate::store::Tx;
use crate::store::events::{self, Carried};

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

    /// What a task run is in is seen in more places, and waited for, than that it came to be so.
    fn gives_way_to(&self) -> Option<&'static str> {
        Some(TASK_RUN_RECORDER)
    }

    async fn consume(&self, lead: &Lead, tx: &mut Tx, entries: &[Entry]) -> Result<(), ServiceError> {
        let read = entries.iter().map(|entry| serde_json::from_slice(&entry.payload)).collect::<Result<_, _>>();
        let mut events: Vec<Carried<'_>> = read.map_err(|error| ServiceError::Poison(format!("not an event: {error}")))?;
        events::put_in_order(&mut events);
        let now = lead.app.now();
        if events.len() < limits::CONSUMER_SPLIT || !tx.dialect().has_parallel_writers() {
            events::insert(tx, &events, now).await?;
            return Ok(());
        }
        // Half of them in a transaction of its own, beside this one: the database works on both. What is there already
        // stays as it is, so no harm is done where that one is committed and this one, with the cursor, is not.
        let (apart, here) = events.split_at(events.len() / 2);
        let apart = async {
            let mut tx = lead.begin("event-persister.apart").await?;
            events::insert(&mut tx, apart, now).await?;
            tx.commit().await
        };
        let here = events::insert(tx, here, now);
        tokio::try_join!(apart, here)?;
        Ok(())
    }
}
