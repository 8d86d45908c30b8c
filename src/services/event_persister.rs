//! Writes the events of the bus to the database, in batches, once each.

use async_trait::async_trait;

use super::sharing::Sharing;
use super::task_run_recorder::TASK_RUN_RECORDER;
use super::{Consume, Lead, ServiceError};
use crate::bus::{Entry, Topic};
use crate::limits;
use crate::model::event::PERSISTER_GROUP;
use crate::store::Tx;
use crate::store::events::{self, Carried};

/// The reference's `EventPersister`.
#[derive(Default)]
pub struct EventPersister {
    sharing: Sharing,
}

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
        // Half of them in a transaction of its own: what is there already stays as it is, so no harm is done where that
        // one is committed and this one, with the cursor, is not.
        let is_shared = self.sharing.begin(events.len(), tx);
        let (apart, here) = events.split_at(if is_shared { events.len() / 2 } else { 0 });
        let apart = async {
            if apart.is_empty() {
                return Ok(());
            }
            let mut tx = lead.begin("event-persister.apart").await?;
            events::insert(&mut tx, apart, now).await?;
            tx.commit().await
        };
        tokio::try_join!(apart, events::insert(tx, here, now))?;
        self.sharing.succeeded();
        Ok(())
    }
}
