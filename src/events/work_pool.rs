//! Events of work pools and work queues (`prefect/server/models/events.py`).

use chrono::TimeDelta;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::model::event::{Event, Resource};
use crate::model::work_pool::WorkPool;
use crate::model::work_queue::WorkQueue;

/// An event of a pool names the one before it where that is not older.
const FOLLOWS_WITHIN: TimeDelta = TimeDelta::minutes(10);

fn labels<const N: usize>(labels: [(&str, String); N]) -> Resource {
    labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn event(name: String, resource: Resource, related: Vec<Resource>, payload: Map<String, Value>, occurred: Timestamp) -> Event {
    Event { occurred, event: name, resource, related, payload, id: crate::id::v7(), follows: None }
}

/// `{"updated_fields": [...], "updates": {field: {from, to}}}`
pub(crate) fn updates(changes: Map<String, Value>) -> Map<String, Value> {
    let fields: Vec<&String> = changes.keys().collect();
    let fields = json!(fields);
    Map::from_iter([("updated_fields".to_owned(), fields), ("updates".to_owned(), Value::Object(changes))])
}

fn pool_resource(pool: &WorkPool) -> Resource {
    labels([
        ("prefect.resource.id", format!("prefect.work-pool.{}", pool.id)),
        ("prefect.resource.name", pool.name.clone()),
        ("prefect.work-pool.type", pool.kind.clone()),
        ("prefect.resource.role", "work-pool".into()),
    ])
}

fn pool_related(pool: &WorkPool) -> Vec<Resource> {
    let mut related = Vec::new();
    if let Some(queue) = pool.default_queue_id {
        related.push(labels([
            ("prefect.resource.id", format!("prefect.work-queue.{queue}")),
            ("prefect.resource.role", "default-queue".into()),
        ]));
    }
    if let Some(block) = pool.storage_configuration.default_result_storage_block_id {
        related.push(labels([
            ("prefect.resource.id", format!("prefect.block-document.{block}")),
            ("prefect.resource.role", "result-storage".into()),
        ]));
    }
    related
}

/// `prefect.work-pool.created`
pub fn pool_created(pool: &WorkPool, occurred: Timestamp) -> Event {
    event("prefect.work-pool.created".into(), pool_resource(pool), pool_related(pool), Map::new(), occurred)
}

/// `prefect.work-pool.deleted`
pub fn pool_deleted(pool: &WorkPool, occurred: Timestamp) -> Event {
    event("prefect.work-pool.deleted".into(), pool_resource(pool), pool_related(pool), Map::new(), occurred)
}

/// `prefect.work-pool.updated`, with what changed.
pub fn pool_updated(pool: &WorkPool, changes: Map<String, Value>, occurred: Timestamp) -> Event {
    event("prefect.work-pool.updated".into(), pool_resource(pool), Vec::new(), updates(changes), occurred)
}

/// `prefect.work-pool.<status>`; none for a pool without a status.
pub fn pool_status(id: Uuid, before: Option<&WorkPool>, pool: &WorkPool, occurred: Timestamp) -> Option<Event> {
    let status = pool.status?;
    let mut resource = pool_resource(pool);
    resource.shift_remove("prefect.resource.role");
    let mut event = event(format!("prefect.work-pool.{}", status.in_kebab_case()), resource, Vec::new(), Map::new(), occurred);
    event.id = id;
    event.follows = before
        .filter(|before| before.last_transitioned_status_at.is_some_and(|at| occurred - at < FOLLOWS_WITHIN))
        .and_then(|before| before.last_status_event_id);
    Some(event)
}

fn queue_event(word: &str, queue: &WorkQueue, payload: Map<String, Value>, occurred: Timestamp) -> Event {
    let resource = labels([
        ("prefect.resource.id", format!("prefect.work-queue.{}", queue.id)),
        ("prefect.resource.name", queue.name.clone()),
        ("prefect.resource.role", "work-queue".into()),
    ]);
    let related = queue.work_pool_id.zip(queue.work_pool_name.as_ref()).map(|(id, name)| {
        labels([
            ("prefect.resource.id", format!("prefect.work-pool.{id}")),
            ("prefect.resource.name", name.clone()),
            ("prefect.work-pool.type", queue.work_pool_type.clone().unwrap_or_default()),
            ("prefect.resource.role", "work-pool".into()),
        ])
    });
    event(format!("prefect.work-queue.{word}"), resource, related.into_iter().collect(), payload, occurred)
}

/// `prefect.work-queue.created`
pub fn queue_created(queue: &WorkQueue, occurred: Timestamp) -> Event {
    queue_event("created", queue, Map::new(), occurred)
}

/// `prefect.work-queue.deleted`
pub fn queue_deleted(queue: &WorkQueue, occurred: Timestamp) -> Event {
    queue_event("deleted", queue, Map::new(), occurred)
}

/// `prefect.work-queue.updated`, with what changed.
pub fn queue_updated(queue: &WorkQueue, changes: Map<String, Value>, occurred: Timestamp) -> Event {
    queue_event("updated", queue, updates(changes), occurred)
}

/// `prefect.work-queue.<status>`; none for a queue without a status.
pub fn queue_status(queue: &WorkQueue, occurred: Timestamp) -> Option<Event> {
    Some(queue_event(queue.status?.in_kebab_case(), queue, Map::new(), occurred))
}
