//! What automations do when they fire (`prefect/server/events/actions.py`): the consumer of the stream `actions`.
//!
//! What changes the database is done in the transaction that moves the cursor, each action behind a mark: one that fails is
//! undone alone and told as failed, the others stay. What goes to the world outside is only written down here and made by
//! [`calls`] after the commit. Either way the events `prefect.automation.action.triggered` and `.executed` or `.failed` are
//! written with the effect.
//!
//! To add an action: its kind in `model/automation/action.rs`, an arm in [`act`].

mod act;
pub mod calls;
mod http;
mod inputs;
mod mail;
mod notification;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Consume, Lead, ServiceError};
use crate::api::ApiError;
use crate::bus::{Entry, Topic};
use crate::clock::Timestamp;
use crate::limits;
use crate::model::automation::{Action, Trigger, TriggeredAction};
use crate::model::event::{Event, Resource};
use crate::store::{StoreError, Tx, action_calls};

/// The name of the consumer, also of the dead letters of calls.
pub(super) const GROUP: &str = "actions";

/// The reference's `Actions`.
pub struct Actions;

#[async_trait]
impl Consume for Actions {
    fn name(&self) -> &'static str {
        GROUP
    }

    fn topic(&self) -> Topic {
        Topic::Actions
    }

    fn batch_entries(&self) -> usize {
        limits::ACTIONS_BATCH
    }

    async fn consume(&self, lead: &Lead, tx: &mut Tx, entries: &[Entry]) -> Result<(), ServiceError> {
        for entry in entries {
            let action: TriggeredAction =
                serde_json::from_slice(&entry.payload).map_err(|error| ServiceError::Poison(format!("not an action: {error}")))?;
            if let Some(block) = called(&action.action) {
                action_calls::insert(tx, &action, block, lead.app.now()).await?;
                continue;
            }
            let mark = tx.mark().await?;
            let mut report = Report::default();
            let failed = match act::act(lead, tx, &action, &mut report).await {
                Ok(()) => {
                    tx.keep(mark).await?;
                    None
                }
                Err(Failure::Expected(reason)) => {
                    tx.back_to(mark).await?;
                    Some(reason)
                }
                Err(Failure::Service(error)) => return Err(error),
            };
            tell(tx, &action, report, failed, lead.app.now());
        }
        Ok(())
    }
}

/// The block that an action calls, where it goes to the world outside.
fn called(action: &Action) -> Option<Uuid> {
    match action {
        Action::CallWebhook(call) => Some(call.block_document_id),
        Action::SendNotification(send) => Some(send.block_document_id),
        _ => None,
    }
}

/// What is to be told of an action beside whether it went well.
#[derive(Debug, Default)]
struct Report {
    details: Map<String, Value>,
    related: Vec<Resource>,
    /// That a block was loaded.
    loaded: Option<Event>,
}

impl Report {
    fn relate(&mut self, id: String, role: &str, name: Option<&str>) {
        let mut resource =
            Resource::from_iter([("prefect.resource.id".to_owned(), id), ("prefect.resource.role".to_owned(), role.to_owned())]);
        if let Some(name) = name {
            resource.insert("prefect.resource.name".to_owned(), name.to_owned());
        }
        self.related.push(resource);
    }
}

/// Why an action was not done.
#[derive(Debug)]
enum Failure {
    /// It cannot be, for a reason that is told in the event.
    Expected(String),
    /// Not now, or the server is at fault.
    Service(ServiceError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Service(error.into())
    }
}

fn fail<T>(reason: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Expected(reason.into()))
}

/// What a refusal of the API means for an action, in the reference's words.
fn refused(kind: &str, error: ApiError, report: &mut Report) -> Failure {
    let (status, detail) = match error {
        ApiError::Store(error) if error.is_retryable() || matches!(error, StoreError::Fenced { .. }) => return error.into(),
        ApiError::Unavailable(reason) => return Failure::Service(ServiceError::Poison(reason)),
        ApiError::Store(error) if error.is_integrity() => (409, Some("Data integrity conflict.".to_owned())),
        ApiError::Detail { status, detail } => (status.as_u16(), Some(detail.as_str().map_or_else(|| detail.to_string(), str::to_owned))),
        ApiError::ObjectNotFound(_) => (404, None),
        ApiError::Invalid { .. } => (422, None),
        ApiError::Locked { detail, .. } => (423, Some(detail)),
        ApiError::NotBuilt { .. } => (501, None),
        ApiError::Store(error) => {
            tracing::warn!(error = crate::telemetry::chain(&error), "an action failed in the store");
            (500, None)
        }
        ApiError::Internal(reason) => {
            tracing::warn!(reason, "an action failed");
            (500, None)
        }
    };
    report.details.insert("status_code".to_owned(), status.into());
    Failure::Expected(match (status, detail) {
        (409 | 422, Some(detail)) => format!("Validation error occurred for '{kind}' - {detail}"),
        (422, None) => format!("Validation error occurred for '{kind}'"),
        (409, None) => format!("Conflict (409) occurred for '{kind}'"),
        (status, _) => format!("Unexpected status from '{kind}' action: {status}"),
    })
}

/// Emits the events that tell of an action.
fn tell(tx: &mut Tx, action: &TriggeredAction, mut report: Report, failed: Option<String>, now: Timestamp) {
    if let Some(reason) = &failed {
        tracing::warn!(automation.id = %action.automation.id, action = action.action.kind(), reason, "an action of an automation failed");
    }
    if let Some(loaded) = report.loaded.take() {
        tx.emit(loaded);
    }
    for event in events(action, report, failed, now) {
        tx.emit(event);
    }
}

/// How far apart an event and what follows it may be; beyond it the link would only make others wait.
const TIGHT_TIMING_SECONDS: i64 = 300;

fn events(action: &TriggeredAction, mut report: Report, failed: Option<String>, now: Timestamp) -> [Event; 2] {
    let automation = &action.automation;
    let mut resource = Resource::from_iter([
        ("prefect.resource.id".to_owned(), format!("prefect.automation.{}", automation.id)),
        ("prefect.resource.name".to_owned(), automation.core.name.clone()),
    ]);
    let trigger = serde_json::to_value(&automation.core.trigger).unwrap_or_default();
    let label = |key: &str| trigger[key].as_str().map(str::to_owned);
    resource.insert("prefect.trigger-type".to_owned(), label("type").unwrap_or_default());
    if let (Trigger::Event(_), Some(posture)) = (&automation.core.trigger, label("posture")) {
        resource.insert("prefect.posture".to_owned(), posture);
    }
    let details = std::mem::take(&mut report.details);
    let mut related = report;
    if let Some(id) = action.automation_triggered_event_id {
        related.relate(format!("prefect.event.{id}"), "automation-triggered-event", None);
    }
    if let Some(event) = &action.triggering_event {
        related.relate(format!("prefect.event.{}", event.event.id), "triggering-event", None);
    }
    let related = related.related;
    let Value::Object(base) = json!({"action_index": action.action_index, "action_type": action.action.kind(), "invocation": action.id})
    else {
        unreachable!("an object is written above")
    };
    let near = |event: &&Event| (action.triggered - event.occurred).num_milliseconds().abs() < TIGHT_TIMING_SECONDS * 1000;
    let triggered = Event {
        occurred: action.triggered,
        event: "prefect.automation.action.triggered".to_owned(),
        resource: resource.clone(),
        related: related.clone(),
        payload: base.clone(),
        id: crate::id::v7(),
        follows: action.triggering_event.as_ref().map(|event| &event.event).filter(near).map(|event| event.id),
    };
    let mut payload = base;
    let word = if failed.is_some() { "failed" } else { "executed" };
    payload.extend(failed.map(|reason| ("reason".to_owned(), Value::String(reason))));
    payload.extend(details);
    let outcome = Event {
        occurred: now,
        event: format!("prefect.automation.action.{word}"),
        resource,
        related,
        payload,
        id: crate::id::v7(),
        follows: Some(triggered.id),
    };
    [triggered, outcome]
}
