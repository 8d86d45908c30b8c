//! The evaluation of triggers, pure: a [`Workspace`] holds the buckets and firings that a transaction works on, and
//! gathers what fires. What changed is written afterwards, in few statements.

mod compound;
mod proactive;
mod reactive;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta};
use indexmap::IndexMap;
use serde_json::{Map, json};
use uuid::Uuid;

use crate::automations::index::{Index, Place};
use crate::clock::Timestamp;
use crate::id::{self, AutomationId};
use crate::model::automation::{Automation, Bucket, BucketKey, ChildFiring, Firing, Posture, TriggerState, TriggeredAction};
use crate::model::event::{Event, ReceivedEvent, Resource};

/// A bucket of the workspace.
#[derive(Debug, Default)]
struct Held {
    bucket: Option<Bucket>,
    /// The database has a row.
    stored: bool,
    changed: bool,
}

/// The newest firings of the children of one trigger, by child.
#[derive(Debug, Default)]
struct Children {
    firings: BTreeMap<Uuid, Firing>,
    /// Ids of those that the database has.
    stored: BTreeMap<Uuid, Uuid>,
}

/// What a transaction works on.
#[derive(Debug)]
pub struct Workspace<'i> {
    index: &'i Index,
    buckets: HashMap<BucketKey, Held>,
    children: HashMap<(AutomationId, Uuid), Children>,
    fired: Vec<Fired>,
    stamp: Stamp,
}

/// The server's clock, strictly rising: firings are told apart by their times.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    last: Timestamp,
}

impl Default for Stamp {
    fn default() -> Self {
        Self { last: Timestamp::UNIX_EPOCH }
    }
}

impl Stamp {
    /// Moves on to `now`, unless it is there already.
    pub fn at_least(self, now: Timestamp) -> Self {
        Self { last: self.last.max(now) }
    }

    fn next(&mut self) -> Timestamp {
        self.last += TimeDelta::microseconds(1);
        self.last
    }
}

/// An automation that fired.
#[derive(Debug)]
pub struct Fired {
    /// The automation.
    pub automation: Arc<Automation>,
    /// Of its own trigger.
    pub firing: Firing,
}

/// What the evaluation changed.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Buckets to write.
    pub buckets: Vec<(BucketKey, Bucket)>,
    /// Buckets to delete.
    pub gone_buckets: Vec<BucketKey>,
    /// Child firings to write.
    pub firings: Vec<ChildFiring>,
    /// Child firings to delete.
    pub gone_firings: Vec<Uuid>,
    /// What fired, in order.
    pub fired: Vec<Fired>,
    /// Where the clock has come to.
    pub stamp: Stamp,
}

impl<'i> Workspace<'i> {
    /// A workspace over buckets and firings of the database.
    pub fn new(index: &'i Index, buckets: Vec<(BucketKey, Bucket)>, firings: Vec<ChildFiring>, stamp: Stamp) -> Self {
        let held = |bucket| Held { bucket: Some(bucket), stored: true, changed: false };
        let mut children: HashMap<_, Children> = HashMap::new();
        for child in firings {
            let of = children.entry((child.automation_id, child.parent_trigger_id)).or_default();
            of.stored.insert(child.firing.trigger.id(), child.firing.id);
            of.firings.insert(child.firing.trigger.id(), child.firing);
        }
        Self { index, buckets: buckets.into_iter().map(|(key, bucket)| (key, held(bucket))).collect(), children, fired: Vec::new(), stamp }
    }

    /// What the evaluation changed.
    pub fn finish(self) -> Outcome {
        let mut outcome = Outcome { fired: self.fired, stamp: self.stamp, ..Outcome::default() };
        for (key, held) in self.buckets.into_iter().filter(|(_, held)| held.changed) {
            match held.bucket {
                Some(bucket) => outcome.buckets.push((key, bucket)),
                None if held.stored => outcome.gone_buckets.push(key),
                None => {}
            }
        }
        outcome.gone_buckets.sort();
        for ((automation_id, parent_trigger_id), children) in self.children {
            let Children { firings, stored } = children;
            outcome.gone_firings.extend(stored.iter().filter(|(child, _)| !firings.contains_key(*child)).map(|(_, id)| *id));
            let new = firings.into_iter().filter(|(child, firing)| stored.get(child) != Some(&firing.id));
            outcome.firings.extend(new.map(|(_, firing)| ChildFiring { automation_id, parent_trigger_id, firing }));
        }
        // In one order, whoever writes.
        outcome.firings.sort_by_key(|child| (child.automation_id, child.parent_trigger_id, child.firing.trigger.id()));
        outcome.gone_firings.sort_unstable();
        outcome
    }

    fn bucket(&self, key: &BucketKey) -> Option<&Bucket> {
        self.buckets.get(key).and_then(|held| held.bucket.as_ref())
    }

    fn put(&mut self, key: &BucketKey, bucket: Option<Bucket>) {
        let held = self.buckets.entry(key.clone()).or_default();
        held.bucket = bucket;
        held.changed = true;
    }

    /// The key of a trigger's bucket.
    pub fn key_of(index: &Index, place: Place, values: Vec<String>) -> BucketKey {
        let node = index.node(place);
        BucketKey { automation_id: node.automation.id, trigger_id: node.trigger.id(), values }
    }
}

/// The end of a span; never beyond what a moment can be written as.
fn after(start: Timestamp, span: TimeDelta) -> Timestamp {
    const LAST: i64 = 253_402_300_799;
    let last = DateTime::from_timestamp(LAST, 0).unwrap_or(start);
    start.checked_add_signed(span).map_or(last, |end| end.min(last))
}

impl Fired {
    /// The event that tells of a state of the automation (`prefect.automation.triggered`).
    pub fn state_change(&self, state: TriggerState) -> ReceivedEvent {
        let (automation, firing) = (&self.automation, &self.firing);
        let word = match state {
            TriggerState::Triggered => "triggered",
            TriggerState::Resolved => "resolved",
        };
        let mut resource = Resource::from_iter([
            ("prefect.resource.id".to_owned(), format!("prefect.automation.{}", automation.id)),
            ("prefect.resource.name".to_owned(), automation.core.name.clone()),
        ]);
        if let Some(posture) = firing.trigger.posture().map(Posture::as_str) {
            resource.insert("prefect.posture".to_owned(), posture.to_owned());
        }
        let triggering = |event: &ReceivedEvent| {
            Resource::from_iter([
                ("prefect.resource.id".to_owned(), format!("prefect.event.{}", event.event.id)),
                ("prefect.resource.role".to_owned(), "triggering-event".to_owned()),
            ])
        };
        let payload = Map::from_iter([
            ("triggering_labels".to_owned(), json!(firing.triggering_labels)),
            ("triggering_event".to_owned(), json!(firing.triggering_event)),
        ]);
        let event = Event {
            occurred: firing.triggered,
            event: format!("prefect.automation.{word}"),
            resource,
            related: firing.triggering_event.iter().map(triggering).collect(),
            payload,
            id: id::v7(),
            follows: None,
        };
        ReceivedEvent { event, received: firing.triggered }
    }

    /// The events of its states, and the actions that are to be done.
    pub fn consequences(self) -> (Vec<Event>, Vec<TriggeredAction>) {
        let mut states = self.firing.trigger_states.clone();
        states.sort_unstable();
        let events: Vec<(TriggerState, ReceivedEvent)> = states.iter().map(|state| (*state, self.state_change(*state))).collect();
        let of_state = |wanted| events.iter().find(|(state, _)| *state == wanted).map(|(_, event)| event);
        let primary = of_state(TriggerState::Triggered).or_else(|| of_state(TriggerState::Resolved)).map(|event| event.event.id);
        let core = &self.automation.core;
        let mut sources = Vec::new();
        sources.extend(core.actions.iter().map(|action| (self.firing.triggering_event.clone(), action, primary)));
        for (state, actions) in [(TriggerState::Triggered, &core.actions_on_trigger), (TriggerState::Resolved, &core.actions_on_resolve)] {
            if let Some(event) = of_state(state) {
                sources.extend(actions.iter().map(|action| (Some(event.clone()), action, Some(event.event.id))));
            }
        }
        let actions = sources
            .into_iter()
            .enumerate()
            .map(|(index, (triggering_event, action, state_change))| TriggeredAction {
                automation: (*self.automation).clone(),
                id: id::v7(),
                firing: Some(self.firing.clone()),
                triggered: self.firing.triggered,
                triggering_labels: self.firing.triggering_labels.clone(),
                triggering_event,
                action: action.clone(),
                action_index: index,
                automation_triggered_event_id: state_change,
            })
            .collect();
        (events.into_iter().map(|(_, event)| event.event).collect(), actions)
    }
}

/// A firing into the state `Triggered`.
fn firing(place: Place, index: &Index, triggered: Timestamp, labels: IndexMap<String, String>, event: Option<ReceivedEvent>) -> Firing {
    Firing {
        id: id::v7(),
        trigger: (*index.node(place).trigger).clone(),
        trigger_states: vec![TriggerState::Triggered],
        triggered,
        triggering_labels: labels,
        triggering_firings: Vec::new(),
        triggering_event: event,
        triggering_value: None,
    }
}
