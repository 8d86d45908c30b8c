//! A look at a proactive trigger by the clock: what should have happened by now and did not.

use super::{Workspace, after};
use crate::automations::index::Place;
use crate::clock::Timestamp;
use crate::model::automation::BucketKey;

impl Workspace<'_> {
    /// Makes sure that a trigger which distinguishes nothing has its bucket, so that it can miss events from now on.
    pub fn ensure_proactive(&mut self, place: Place, as_of: Timestamp) {
        let Some(trigger) = self.index.node(place).event_trigger() else { return };
        if trigger.for_each.is_empty() {
            let key = Self::key_of(self.index, place, Vec::new());
            self.ensure(&key, as_of, after(as_of, trigger.within()), 0, None);
        }
    }

    /// Evaluates a bucket without an event.
    pub fn look(&mut self, place: Place, key: &BucketKey, as_of: Timestamp) {
        self.evaluate(place, key, as_of, None);
    }
}
