//! Events as clients send them and as the server keeps them (`prefect/server/events/schemas/events.py`).

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::model::json;

/// The consumer group that writes events to the database; `/events/out` joins its backfill to this group's cursor.
pub const PERSISTER_GROUP: &str = "event-persister";

/// Labels of a resource, in the order given; `prefect.resource.id` is always there, related resources also have
/// `prefect.resource.role`.
pub type Resource = IndexMap<String, String>;

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// When it happened, by the emitter's clock.
    #[serde(with = "json::timestamp")]
    pub occurred: Timestamp,
    /// What happened, such as `prefect.flow-run.Completed`.
    pub event: String,
    /// What it happened to.
    pub resource: Resource,
    /// What else has to do with it.
    #[serde(default)]
    pub related: Vec<Resource>,
    /// Anything else to know.
    #[serde(default)]
    pub payload: Map<String, Value>,
    /// The emitter's id of the event; a second event of the same id is the same event.
    pub id: Uuid,
    /// The event that is known to have gone before.
    #[serde(default)]
    pub follows: Option<Uuid>,
}

/// Bounds of one event; settings of the reference.
#[derive(Debug, Clone, Copy)]
pub struct EventLimits {
    /// Labels of one resource.
    pub labels_per_resource: usize,
    /// Related resources.
    pub related_resources: usize,
    /// Characters of the event's name.
    pub name_characters: usize,
}

impl Event {
    /// Checks what the reference's model checks, in its words.
    ///
    /// # Errors
    /// The first of [`Event::complaints`].
    pub fn validate(&self, limits: &EventLimits) -> Result<(), EventComplaint> {
        check_name(&self.event, limits)?;
        check_resource(self.resource.len(), |label| self.resource.get(label).map(String::as_str), limits)
            .map_err(|message| (vec!["resource".into()], message))?;
        for (index, related) in self.related.iter().enumerate() {
            check_related(related.len(), |label| related.get(label).map(String::as_str), limits)
                .map_err(|message| (vec!["related".into(), index.into()], message))?;
        }
        check_count(self.related.len(), limits)
    }

    /// All that the reference's model finds in an event, apart from what is of another type than it should be.
    pub fn complaints(given: &Value, limits: &EventLimits) -> Vec<EventComplaint> {
        let mut found = Vec::new();
        if let Some(name) = given["event"].as_str() {
            found.extend(check_name(name, limits).err());
        }
        if let Some(resource) = labels_of(&given["resource"]) {
            let checked = check_resource(resource.len(), |label| resource.get(label).and_then(Value::as_str), limits);
            found.extend(checked.err().map(|message| (vec!["resource".into()], message)));
        }
        let Some(related) = given["related"].as_array() else { return found };
        let mut all_right = true;
        for (index, item) in related.iter().enumerate() {
            let Some(resource) = labels_of(item) else {
                all_right = false;
                continue;
            };
            if let Err(message) = check_related(resource.len(), |label| resource.get(label).and_then(Value::as_str), limits) {
                all_right = false;
                found.push((vec!["related".into(), index.into()], message));
            }
        }
        // The list is judged as a whole only when its items are right.
        if all_right {
            found.extend(check_count(related.len(), limits).err());
        }
        found
    }

    /// The id of the resource that the event is about.
    pub fn resource_id(&self) -> &str {
        self.resource.get("prefect.resource.id").map_or("", String::as_str)
    }
}

/// Where in an event (keys and indexes), and what is wrong there.
pub type EventComplaint = (Vec<Value>, String);

/// The labels of a resource that is not read yet, where all are texts.
fn labels_of(given: &Value) -> Option<&Map<String, Value>> {
    given.as_object().filter(|labels| labels.values().all(Value::is_string))
}

fn check_name(name: &str, limits: &EventLimits) -> Result<(), EventComplaint> {
    if name.chars().count() > limits.name_characters {
        return Err((vec!["event".into()], format!("Event name must be at most {} characters", limits.name_characters)));
    }
    Ok(())
}

fn check_count(related: usize, limits: &EventLimits) -> Result<(), EventComplaint> {
    if related > limits.related_resources {
        return Err((vec!["related".into()], format!("The maximum number of related resources is {}", limits.related_resources)));
    }
    Ok(())
}

fn check_resource<'a>(labels: usize, label: impl Fn(&str) -> Option<&'a str>, limits: &EventLimits) -> Result<(), String> {
    if labels > limits.labels_per_resource {
        return Err(format!("The maximum number of labels per resource is {}", limits.labels_per_resource));
    }
    match label("prefect.resource.id") {
        None => Err("Resources must include the prefect.resource.id label".into()),
        Some("") => Err("The prefect.resource.id label must be non-empty".into()),
        Some(_) => Ok(()),
    }
}

fn check_related<'a>(labels: usize, label: impl Fn(&str) -> Option<&'a str>, limits: &EventLimits) -> Result<(), String> {
    check_resource(labels, &label, limits)?;
    match label("prefect.resource.role") {
        None => Err("Related Resources must include the prefect.resource.role label".into()),
        Some("") => Err("The prefect.resource.role label must be non-empty".into()),
        Some(_) => Ok(()),
    }
}

/// An event that a server has received.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
pub struct ReceivedEvent {
    /// The event.
    #[schemars(flatten)]
    pub event: Event,
    /// When a server took it in.
    pub received: Timestamp,
}

impl Serialize for ReceivedEvent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Received { event: &self.event, received: &self.received }.serialize(serializer)
    }
}

/// A borrowed [`ReceivedEvent`], for writing.
pub struct Received<'a> {
    /// The event.
    pub event: &'a Event,
    /// When a server took it in.
    pub received: &'a Timestamp,
}

impl Serialize for Received<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut out = serializer.serialize_struct("ReceivedEvent", 8)?;
        out.serialize_field("occurred", &json::write_timestamp(&self.event.occurred))?;
        out.serialize_field("event", &self.event.event)?;
        out.serialize_field("resource", &self.event.resource)?;
        out.serialize_field("related", &self.event.related)?;
        out.serialize_field("payload", &self.event.payload)?;
        out.serialize_field("id", &self.event.id)?;
        out.serialize_field("follows", &self.event.follows)?;
        out.serialize_field("received", &json::write_timestamp(self.received))?;
        out.end()
    }
}

impl<'de> Deserialize<'de> for ReceivedEvent {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(with = "json::timestamp")]
            occurred: Timestamp,
            event: String,
            resource: Resource,
            #[serde(default)]
            related: Vec<Resource>,
            #[serde(default)]
            payload: Map<String, Value>,
            id: Uuid,
            #[serde(default)]
            follows: Option<Uuid>,
            #[serde(with = "json::timestamp")]
            received: Timestamp,
        }
        let Wire { occurred, event, resource, related, payload, id, follows, received } = Wire::deserialize(deserializer)?;
        Ok(Self { event: Event { occurred, event, resource, related, payload, id, follows }, received })
    }
}
