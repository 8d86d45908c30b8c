//! `prefect.<kind>.{created,updated,deleted}` events (`prefect/server/events/schemas/lifecycle.py`).

use serde_json::{Map, Value, json};

use crate::clock::Timestamp;
use crate::model::concurrency::{ConcurrencyLimit, ConcurrencyLimitV2};
use crate::model::event::{Event, Resource};
use crate::model::flow::Flow;
use crate::model::variable::Variable;

/// What happened to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Created,
    Updated,
    Deleted,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }
}

/// A lifecycle event of `prefect.<kind>.<id>`.
pub fn event(
    kind: &str,
    action: Action,
    id: impl std::fmt::Display,
    name: &str,
    related: Vec<Resource>,
    payload: Value,
    occurred: Timestamp,
) -> Event {
    let resource = Resource::from_iter([
        ("prefect.resource.id".to_owned(), format!("prefect.{kind}.{id}")),
        ("prefect.resource.name".to_owned(), name.to_owned()),
    ]);
    let payload = match payload {
        Value::Object(payload) => payload,
        _ => Map::new(),
    };
    Event { occurred, event: format!("prefect.{kind}.{}", action.word()), resource, related, payload, id: crate::id::v7(), follows: None }
}

/// `prefect.variable.*`: the payload has the value.
pub fn variable(action: Action, variable: &Variable, occurred: Timestamp) -> Event {
    let payload = json!({"name": variable.name, "value": variable.value, "tags": variable.tags});
    event("variable", action, variable.id, &variable.name, Vec::new(), payload, occurred)
}

/// `prefect.flow.*`
pub fn flow(action: Action, flow: &Flow, occurred: Timestamp) -> Event {
    let payload = json!({"name": flow.name, "tags": flow.tags, "labels": flow.labels});
    event("flow", action, flow.id, &flow.name, Vec::new(), payload, occurred)
}

/// `prefect.concurrency-limit.*` of a limit by name.
pub fn concurrency_limit_v2(action: Action, limit: &ConcurrencyLimitV2, occurred: Timestamp) -> Event {
    let payload = json!({
        "name": limit.name,
        "limit": limit.limit,
        "active": limit.active,
        "slot_decay_per_second": limit.slot_decay_per_second,
    });
    event("concurrency-limit", action, limit.id, &limit.name, Vec::new(), payload, occurred)
}

/// `prefect.concurrency-limit.*` of an old limit by tag.
pub fn concurrency_limit(action: Action, limit: &ConcurrencyLimit, occurred: Timestamp) -> Event {
    let payload = json!({"tag": limit.tag, "concurrency_limit": limit.concurrency_limit});
    event("concurrency-limit", action, limit.id, &limit.tag, Vec::new(), payload, occurred)
}
