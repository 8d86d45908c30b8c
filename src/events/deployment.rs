//! Events of deployments (`prefect/server/models/events.py`).

use serde_json::{Map, Value};

use super::work_pool::updates;
use crate::clock::Timestamp;
use crate::model::deployment::Deployment;
use crate::model::event::{Event, Resource};
use crate::model::status::DeploymentStatus;

fn labels(labels: &[(&str, String)]) -> Resource {
    labels.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

fn related(deployment: &Deployment) -> Vec<Resource> {
    let mut related = Vec::new();
    if let Some(name) = &deployment.flow_name {
        related.push(labels(&[
            ("prefect.resource.id", format!("prefect.flow.{}", deployment.flow_id)),
            ("prefect.resource.name", name.clone()),
            ("prefect.resource.role", "flow".into()),
        ]));
    }
    if let Some((id, queue)) = deployment.work_queue_id.zip(deployment.queue.as_ref()) {
        related.push(labels(&[
            ("prefect.resource.id", format!("prefect.work-queue.{id}")),
            ("prefect.resource.name", queue.name.clone()),
            ("prefect.resource.role", "work-queue".into()),
        ]));
        related.push(labels(&[
            ("prefect.resource.id", format!("prefect.work-pool.{}", queue.work_pool_id)),
            ("prefect.resource.name", queue.work_pool_name.clone()),
            ("prefect.work-pool.type", queue.work_pool_type.clone()),
            ("prefect.resource.role", "work-pool".into()),
        ]));
    }
    let by_id = [
        (deployment.storage_document_id.map(|id| format!("prefect.block-document.{id}")), "storage"),
        (deployment.infrastructure_document_id.map(|id| format!("prefect.block-document.{id}")), "infrastructure"),
        (deployment.concurrency_limit_id.map(|id| format!("prefect.concurrency-limit.{id}")), "concurrency-limit"),
    ];
    for (id, role) in by_id {
        related.extend(id.map(|id| labels(&[("prefect.resource.id", id), ("prefect.resource.role", role.into())])));
    }
    related
}

fn event(word: &str, deployment: &Deployment, payload: Map<String, Value>, occurred: Timestamp) -> Event {
    Event {
        occurred,
        event: format!("prefect.deployment.{word}"),
        resource: labels(&[
            ("prefect.resource.id", format!("prefect.deployment.{}", deployment.id)),
            ("prefect.resource.name", deployment.name.clone()),
        ]),
        related: related(deployment),
        payload,
        id: crate::id::v7(),
        follows: None,
    }
}

/// `prefect.deployment.created`
pub fn created(deployment: &Deployment, occurred: Timestamp) -> Event {
    event("created", deployment, Map::new(), occurred)
}

/// `prefect.deployment.deleted`
pub fn deleted(deployment: &Deployment, occurred: Timestamp) -> Event {
    event("deleted", deployment, Map::new(), occurred)
}

/// `prefect.deployment.updated`, with what changed: `{field: {from, to}}`.
pub fn updated(deployment: &Deployment, changes: Map<String, Value>, occurred: Timestamp) -> Event {
    event("updated", deployment, updates(changes), occurred)
}

/// `prefect.deployment.ready` or `prefect.deployment.not-ready`
pub fn status(deployment: &Deployment, status: DeploymentStatus, occurred: Timestamp) -> Event {
    event(status.in_kebab_case(), deployment, Map::new(), occurred)
}
