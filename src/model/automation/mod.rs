//! Automations, their firings and the actions that these cause (`prefect/server/events/schemas/automations.py`).
//!
//! What clients send is read by [`check`], which tells every finding; what the database or the bus holds was checked
//! before and is read by serde.

pub mod action;
pub mod bucket;
pub mod check;
pub mod specification;
#[cfg(test)]
mod tests;
pub mod trigger;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

pub use self::action::{Action, RunDeployment, Source};
pub use self::bucket::{Bucket, BucketKey, ChildFiring};
pub use self::specification::ResourceSpecification;
pub use self::trigger::{CompoundTrigger, EventTrigger, Posture, Require, SequenceTrigger, Trigger};
use crate::clock::Timestamp;
use crate::id::AutomationId;
use crate::model::event::ReceivedEvent;
use crate::model::json;

/// What an automation is, apart from its row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AutomationCore {
    pub name: String,
    #[serde(default)]
    pub description: String,
    /// A disabled automation is not evaluated.
    #[serde(default = "yes")]
    pub enabled: bool,
    #[serde(default)]
    pub tags: Vec<String>,
    pub trigger: Trigger,
    /// What is done each time that it fires.
    pub actions: Vec<Action>,
    /// What is done as well when the firing is one into the state `Triggered`.
    #[serde(default)]
    pub actions_on_trigger: Vec<Action>,
    /// What is done as well when the firing is one into the state `Resolved`.
    #[serde(default)]
    pub actions_on_resolve: Vec<Action>,
}

fn yes() -> bool {
    true
}

/// An automation, as the row has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Automation {
    #[serde(flatten)]
    pub core: AutomationCore,
    pub id: AutomationId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
}

/// Body of `POST /automations/`. Read it with [`check::create`].
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AutomationCreate {
    #[schemars(flatten)]
    pub core: AutomationCore,
    /// The resource that owns it, such as `prefect.deployment.<id>`.
    pub owner_resource: Option<String>,
}

/// Body of `PUT /automations/{id}`. Read it with [`check::update`].
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AutomationUpdate {
    #[schemars(flatten)]
    pub core: AutomationCore,
}

/// Body of `PATCH /automations/{id}`. Read it with [`check::partial_update`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AutomationPartialUpdate {
    /// `None` where it was not given: nothing changes then.
    pub enabled: Option<bool>,
}

/// Orders of lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AutomationSort {
    CreatedDesc,
    UpdatedDesc,
    #[default]
    NameAsc,
    NameDesc,
}

/// What a firing says of its trigger. In the reference's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TriggerState {
    Triggered,
    Resolved,
}

/// One time that a trigger fired.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Firing {
    pub id: Uuid,
    pub trigger: Trigger,
    /// Not empty.
    pub trigger_states: Vec<TriggerState>,
    /// When it fired, by the server's clock.
    #[serde(with = "json::timestamp")]
    pub triggered: Timestamp,
    /// The values of the trigger's `for_each` labels, by label.
    #[serde(default)]
    pub triggering_labels: IndexMap<String, String>,
    /// The firings of the triggers below that made this one fire.
    #[serde(default)]
    pub triggering_firings: Vec<Firing>,
    /// The event that made it fire; of a proactive trigger the last one that it saw, if any.
    #[serde(default)]
    pub triggering_event: Option<ReceivedEvent>,
    /// Never set by this server.
    #[serde(default)]
    pub triggering_value: Option<Value>,
}

impl Firing {
    /// This firing and all below it, in the reference's order: each before those that made it fire.
    pub fn all_firings(&self) -> Vec<&Self> {
        let mut all = vec![self];
        all.extend(self.triggering_firings.iter().flat_map(Self::all_firings));
        all
    }

    /// The events of this firing and of all below it.
    pub fn all_events(&self) -> Vec<&ReceivedEvent> {
        self.all_firings().into_iter().filter_map(|firing| firing.triggering_event.as_ref()).collect()
    }
}

/// An action to be done because an automation fired: an entry of the bus stream `actions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TriggeredAction {
    /// As it was when it fired.
    pub automation: Automation,
    /// The invocation: the same action of the same firing has the same id, however often it is tried.
    pub id: Uuid,
    #[serde(default)]
    pub firing: Option<Firing>,
    #[serde(with = "json::timestamp")]
    pub triggered: Timestamp,
    pub triggering_labels: IndexMap<String, String>,
    pub triggering_event: Option<ReceivedEvent>,
    pub action: Action,
    /// Which of the firing's actions.
    #[serde(default)]
    pub action_index: usize,
    /// The `prefect.automation.triggered` (or `resolved`) event of the firing.
    #[serde(default)]
    pub automation_triggered_event_id: Option<Uuid>,
}

impl TriggeredAction {
    /// The key under which the outside world knows this invocation.
    pub fn idempotency_key(&self) -> String {
        format!("automation {}, action {}, invocation {}", self.automation.id, self.action_index, self.id)
    }

    /// All firings behind it.
    pub fn all_firings(&self) -> Vec<&Firing> {
        self.firing.iter().flat_map(Firing::all_firings).collect()
    }

    /// All events behind it.
    pub fn all_events(&self) -> Vec<&ReceivedEvent> {
        self.firing.iter().flat_map(Firing::all_events).collect()
    }
}
