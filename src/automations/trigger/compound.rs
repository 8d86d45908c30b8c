//! Firings of triggers below others: they wait until there are enough of them, or all in order.

use std::collections::HashSet;

use indexmap::IndexMap;
use uuid::Uuid;

use super::{Fired, Workspace, firing};
use crate::automations::index::Place;
use crate::model::automation::{Firing, Trigger};

impl Workspace<'_> {
    /// Has a firing take effect: on its automation, or on the trigger that its own is below of.
    pub(super) fn fire(&mut self, place: Place, fired: Firing) {
        let node = self.index.node(place);
        match node.parent {
            None => self.fired.push(Fired { automation: node.automation.clone(), firing: fired }),
            Some(parent) => self.fire_below(parent, fired),
        }
    }

    fn fire_below(&mut self, place: Place, child: Firing) {
        let node = self.index.node(place);
        let trigger = node.trigger.clone();
        if trigger.expected_firings() == 1 {
            return self.fire_composite(place, vec![child.clone()], &child);
        }
        let of = self.children.entry((node.automation.id, trigger.id())).or_default();
        if let Some(horizon) = trigger.composite_within().and_then(|within| child.triggered.checked_sub_signed(within)) {
            of.firings.retain(|_, firing| firing.triggered >= horizon);
        }
        of.firings.insert(child.trigger.id(), child.clone());
        let children: HashSet<Uuid> = trigger.children().iter().map(Trigger::id).collect();
        let mut firings: Vec<Firing> = of.firings.values().filter(|firing| children.contains(&firing.trigger.id())).cloned().collect();
        firings.sort_by_key(|firing| firing.triggered);
        if is_ready(&trigger, &firings) {
            for firing in &firings {
                of.firings.remove(&firing.trigger.id());
            }
            self.fire_composite(place, firings, &child);
        }
    }

    fn fire_composite(&mut self, place: Place, firings: Vec<Firing>, last: &Firing) {
        let triggered = self.stamp.next();
        let mut fired = firing(place, self.index, triggered, IndexMap::new(), last.triggering_event.clone());
        fired.triggering_firings = firings;
        self.fire(place, fired);
    }
}

/// `firings` are in the order in which they fired.
fn is_ready(trigger: &Trigger, firings: &[Firing]) -> bool {
    match trigger {
        Trigger::Event(_) => false,
        Trigger::Compound(_) => firings.len() >= trigger.expected_firings(),
        Trigger::Sequence(sequence) => firings.iter().map(|firing| firing.trigger.id()).eq(sequence.triggers.iter().map(Trigger::id)),
    }
}
