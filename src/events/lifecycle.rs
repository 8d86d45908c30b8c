//! `prefect.<kind>.{created,updated,deleted}` events (`prefect/server/events/schemas/lifecycle.py`).

use serde_json::{Map, Value, json};

use crate::clock::Timestamp;
use crate::model::artifact::ArtifactCollection;
use crate::model::automation::Automation;
use crate::model::block::{BlockDocument, BlockSchema, BlockType};
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

/// `prefect.automation.*`: the payload is all of it.
pub fn automation(action: Action, automation: &Automation, occurred: Timestamp) -> Event {
    event("automation", action, automation.id, &automation.core.name, Vec::new(), json!(automation), occurred)
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

/// `prefect.block-type.*`.
pub fn block_type(action: Action, block_type: &BlockType, occurred: Timestamp) -> Event {
    let payload = json!({
        "name": block_type.name,
        "slug": block_type.slug,
        "logo_url": block_type.logo_url,
        "documentation_url": block_type.documentation_url,
        "description": block_type.description,
        "code_example": block_type.code_example,
        "is_protected": block_type.is_protected,
    });
    event("block-type", action, block_type.id, &block_type.name, Vec::new(), payload, occurred)
}

fn related(id: String, role: &str) -> Resource {
    Resource::from_iter([("prefect.resource.id".to_owned(), id), ("prefect.resource.role".to_owned(), role.to_owned())])
}

/// `prefect.block-document.*`, of a document whose secrets are stars: the payload has its texts that are not secret.
pub fn block_document(action: Action, document: &BlockDocument, occurred: Timestamp) -> Event {
    let is_secret = |key: &str| document.block_schema.iter().flat_map(BlockSchema::secret_fields).any(|field| field == key);
    let data: Map<String, Value> = document
        .data
        .iter()
        .filter(|(key, value)| value.is_string() && !is_secret(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let schema = document.block_schema.as_ref().map(|schema| {
        let block_type = json!({"id": document.block_type_id, "name": document.block_type_name.as_deref().unwrap_or_default()});
        json!({"capabilities": schema.capabilities, "block_type": block_type})
    });
    let payload = json!({"name": document.name, "data": data, "block_schema": schema});
    let mut of_type = related(format!("prefect.block-type.{}", document.block_type_id), "block-type");
    if let Some(name) = document.block_type_name.as_ref().filter(|name| !name.is_empty()) {
        of_type.insert("prefect.resource.name".to_owned(), name.clone());
    }
    let of_schema = related(format!("prefect.block-schema.{}", document.block_schema_id), "block-schema");
    event("block-document", action, document.id, &document.name, vec![of_type, of_schema], payload, occurred)
}

/// `prefect.artifact-collection.*`: the newest artifact and its runs are related.
pub fn artifact_collection(action: Action, collection: &ArtifactCollection, occurred: Timestamp) -> Event {
    let payload = json!({
        "key": collection.key,
        "type": collection.r#type,
        "data": collection.data,
        "description": collection.description,
    });
    let mut with = vec![related(format!("prefect.artifact.{}", collection.latest_id), "latest")];
    with.extend(collection.flow_run_id.map(|id| related(format!("prefect.flow-run.{id}"), "flow-run")));
    with.extend(collection.task_run_id.map(|id| related(format!("prefect.task-run.{id}"), "task-run")));
    event("artifact-collection", action, collection.id, &collection.key, with, payload, occurred)
}
