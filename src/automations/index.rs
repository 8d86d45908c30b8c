//! The automations that are evaluated, arranged by what they look for.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::id::AutomationId;
use crate::model::automation::{Automation, EventTrigger, Posture, Trigger};
use crate::model::event::Event;
use crate::model::glob::fnmatch;

/// A trigger of the index, by its place.
pub type Place = usize;

/// One trigger of an automation.
#[derive(Debug)]
pub struct Node {
    /// The automation, as it was read.
    pub automation: Arc<Automation>,
    /// The trigger, with those below it.
    pub trigger: Arc<Trigger>,
    /// The trigger that it is below of; `None` for an automation's own.
    pub parent: Option<Place>,
}

impl Node {
    /// The trigger, where it is one by events.
    pub fn event_trigger(&self) -> Option<&EventTrigger> {
        match &*self.trigger {
            Trigger::Event(trigger) => Some(trigger),
            Trigger::Compound(_) | Trigger::Sequence(_) => None,
        }
    }
}

/// Enabled automations with all their triggers.
#[derive(Debug, Default)]
pub struct Index {
    nodes: Vec<Node>,
    /// Triggers by a name that they look for, without globs.
    by_name: HashMap<String, Vec<Place>>,
    /// Triggers by a glob.
    by_glob: Vec<(String, Vec<Place>)>,
    /// Triggers that any event may concern.
    by_any: Vec<Place>,
}

impl Index {
    /// Arranges automations. A disabled one is left out.
    pub fn new(automations: Vec<Automation>) -> Self {
        let mut index = Self::default();
        for automation in automations.into_iter().filter(|automation| automation.core.enabled) {
            let automation = Arc::new(automation);
            index.add(&automation, &automation.core.trigger, None);
        }
        index
    }

    fn add(&mut self, automation: &Arc<Automation>, trigger: &Trigger, parent: Option<Place>) {
        let place = self.nodes.len();
        self.nodes.push(Node { automation: automation.clone(), trigger: Arc::new(trigger.clone()), parent });
        if let Trigger::Event(event_trigger) = trigger {
            self.find_by_names(event_trigger, place);
        }
        for child in trigger.children() {
            self.add(automation, child, Some(place));
        }
    }

    fn find_by_names(&mut self, trigger: &EventTrigger, place: Place) {
        if trigger.expect.is_empty() {
            return self.by_any.push(place);
        }
        for name in trigger.expect.union(&trigger.after) {
            if name.contains(['*', '?', '[']) {
                match self.by_glob.iter_mut().find(|(glob, _)| glob == name) {
                    Some((_, places)) => places.push(place),
                    None => self.by_glob.push((name.clone(), vec![place])),
                }
            } else {
                self.by_name.entry(name.clone()).or_default().push(place);
            }
        }
    }

    /// True where nothing is looked for.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A trigger.
    pub fn node(&self, place: Place) -> &Node {
        &self.nodes[place]
    }

    /// True where an event of this name may concern a trigger.
    pub fn may_concern(&self, name: &str) -> bool {
        !self.by_any.is_empty() || self.by_name.contains_key(name) || self.by_glob.iter().any(|(glob, _)| fnmatch(glob, name))
    }

    /// The triggers that an event concerns, in the order of their automations.
    pub fn concerned(&self, event: &Event) -> Vec<Place> {
        let mut places = self.by_any.clone();
        places.extend(self.by_name.get(&event.event).into_iter().flatten());
        for (glob, of) in &self.by_glob {
            if fnmatch(glob, &event.event) {
                places.extend(of);
            }
        }
        places.sort_unstable();
        places.dedup();
        places.retain(|place| self.nodes[*place].event_trigger().is_some_and(|trigger| trigger.covers(event)));
        places
    }

    /// The proactive triggers.
    pub fn proactive(&self) -> impl Iterator<Item = Place> {
        (0..self.nodes.len())
            .filter(|place| self.nodes[*place].event_trigger().is_some_and(|trigger| trigger.posture == Posture::Proactive))
    }

    /// True where an automation has a trigger over others.
    pub fn is_composite(&self, automation: AutomationId) -> bool {
        self.nodes.iter().any(|node| node.automation.id == automation && node.event_trigger().is_none())
    }

    /// The place of an automation's trigger.
    pub fn find(&self, automation: AutomationId, trigger: Uuid) -> Option<Place> {
        self.nodes.iter().position(|node| node.automation.id == automation && node.trigger.id() == trigger)
    }
}
