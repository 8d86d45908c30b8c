//! Related resources of events (`prefect/server/models/events.py`).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::model::event::Resource;
use crate::store::transitions::{FlowRun, Labelled, Surroundings};

/// A related resource.
pub fn resource(kind: &str, id: impl std::fmt::Display, role: &str, name: &str) -> Resource {
    Resource::from_iter([
        ("prefect.resource.id".to_owned(), format!("prefect.{kind}.{id}")),
        ("prefect.resource.role".to_owned(), role.to_owned()),
        ("prefect.resource.name".to_owned(), name.to_owned()),
    ])
}

/// Tags as related resources, sorted, each once.
pub fn tags<'a>(tags: impl IntoIterator<Item = &'a String>) -> Vec<Resource> {
    let tags: BTreeSet<&String> = tags.into_iter().collect();
    tags.into_iter()
        .map(|tag| {
            Resource::from_iter([
                ("prefect.resource.id".to_owned(), format!("prefect.tag.{tag}")),
                ("prefect.resource.role".to_owned(), "tag".to_owned()),
            ])
        })
        .collect()
}

/// Whoever made the object, where it was a deployment or an automation (the column `created_by`).
pub fn creator(created_by: Option<&Value>) -> Option<Resource> {
    let created_by = created_by?;
    let text = |key: &str| created_by.get(key).and_then(Value::as_str);
    let kind = match text("type")? {
        "DEPLOYMENT" => "deployment",
        "AUTOMATION" => "automation",
        _ => return None,
    };
    let mut creator = Resource::from_iter([
        ("prefect.resource.id".to_owned(), format!("prefect.{kind}.{}", text("id").unwrap_or("None"))),
        ("prefect.resource.role".to_owned(), "creator".to_owned()),
    ]);
    if let Some(name) = text("display_value").filter(|name| !name.is_empty()) {
        creator.insert("prefect.resource.name".to_owned(), name.to_owned());
    }
    Some(creator)
}

/// What has to do with a flow run: its flow, deployment, work queue and pool, the task run that stands for it, all their
/// tags and its own, and its creator.
pub fn of_flow_run(run: &FlowRun, surroundings: &Surroundings) -> Vec<Resource> {
    let kinds = [
        ("flow", &surroundings.flow),
        ("deployment", &surroundings.deployment),
        ("work-queue", &surroundings.work_queue),
        ("work-pool", &surroundings.work_pool),
        ("task-run", &surroundings.task_run),
    ];
    let there: Vec<(&str, &Labelled)> = kinds.iter().filter_map(|(kind, one)| one.as_ref().map(|one| (*kind, one))).collect();
    let mut related: Vec<Resource> = there
        .iter()
        .map(|(kind, one)| {
            let mut resource = resource(kind, one.id, kind, &one.name);
            if *kind == "work-pool" {
                resource.insert("prefect.work-pool.type".to_owned(), surroundings.work_pool_type.clone());
            }
            resource
        })
        .collect();
    related.extend(tags(run.tags.iter().chain(there.iter().flat_map(|(_, one)| &one.tags))));
    related.extend(creator(run.created_by.as_ref()));
    related
}
