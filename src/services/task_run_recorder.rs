//! Makes task runs and their states of the events that clients emit when a task run changes state.
//!
//! The newest state wins, whatever the order of arrival; every state is kept. A task run whose flow run was deleted is
//! passed over. An event that cannot be read becomes a dead letter and holds up nothing.

use async_trait::async_trait;
use serde_json::Value;
use uuid::Uuid;

use super::{Consume, Lead, ServiceError};
use crate::bus::{Entry, Topic};
use crate::limits;
use crate::model::event::{Event, ReceivedEvent};
use crate::model::state::{State, StateDetails, StateType};
use crate::store::Tx;
use crate::store::task_run_records::{self, Record, Told};

/// The reference's `TaskRunRecorder`.
pub struct TaskRunRecorder;

#[async_trait]
impl Consume for TaskRunRecorder {
    fn name(&self) -> &'static str {
        "task-run-recorder"
    }

    fn topic(&self) -> Topic {
        Topic::Events
    }

    fn batch_entries(&self) -> usize {
        limits::TASK_RUN_RECORDER_BATCH
    }

    async fn consume(&self, lead: &Lead, tx: &mut Tx, entries: &[Entry]) -> Result<(), ServiceError> {
        let records = entries.iter().filter_map(|entry| read(&entry.payload).transpose()).collect::<Result<Vec<_>, _>>()?;
        if records.is_empty() {
            return Ok(());
        }
        let left_out = task_run_records::record(tx, records, lead.app.now()).await?;
        if left_out > 0 {
            tracing::debug!(left_out, "task runs of deleted flow runs are passed over");
        }
        Ok(())
    }
}

/// The record of an event, where it is one of a task run that its client orchestrates.
fn read(payload: &[u8]) -> Result<Option<Record>, ServiceError> {
    const PREFIX: &[u8] = b"prefect.task-run";
    // Most events of other kinds are told apart without parsing them.
    if !payload.windows(PREFIX.len()).any(|window| window == PREFIX) {
        return Ok(None);
    }
    let poison = |what: &str| ServiceError::Poison(format!("the event of a task run has {what}"));
    let ReceivedEvent { event, .. } = serde_json::from_slice(payload).map_err(|error| ServiceError::Poison(error.to_string()))?;
    let by_client = event.resource.get("prefect.orchestration").is_some_and(|by| by == "client");
    if !event.event.starts_with("prefect.task-run") || !by_client {
        return Ok(None);
    }
    let id = object_id(event.resource_id(), "prefect.task-run.").ok_or_else(|| poison("no id"))?;
    let flow_run_id = flow_run_of(&event).map_err(poison)?;
    let told: Told = serde_json::from_value(event.payload.get("task_run").cloned().unwrap_or(Value::Null))
        .map_err(|error| poison(&format!("no usable task run: {error}")))?;
    let state = state_of(&event, id, flow_run_id).ok_or_else(|| poison("no usable state"))?;
    Ok(Some(Record { id, flow_run_id, told, state }))
}

fn object_id(resource_id: &str, prefix: &str) -> Option<Uuid> {
    resource_id.strip_prefix(prefix)?.parse().ok()
}

fn flow_run_of(event: &Event) -> Result<Option<Uuid>, &'static str> {
    let is_flow_run =
        |resource: &&crate::model::event::Resource| resource.get("prefect.resource.role").is_some_and(|role| role == "flow-run");
    let Some(resource) = event.related.iter().find(is_flow_run) else { return Ok(None) };
    let id = resource.get("prefect.resource.id").and_then(|id| object_id(id, "prefect.flow-run."));
    id.map(Some).ok_or("no usable flow run")
}

/// The state, whose id and time are the event's.
fn state_of(event: &Event, task_run_id: Uuid, flow_run_id: Option<Uuid>) -> Option<State> {
    let given = event.payload.get("validated_state")?;
    let kind: StateType = given.get("type")?.as_str()?.parse().ok()?;
    let mut details: StateDetails = match given.get("state_details") {
        None | Some(Value::Null) => StateDetails::default(),
        Some(details) => serde_json::from_value(details.clone()).ok()?,
    };
    details.task_run_id = Some(task_run_id.into());
    details.flow_run_id = flow_run_id.map(Into::into);
    let text = |key: &str| given.get(key).and_then(Value::as_str).map(str::to_owned);
    Some(State {
        id: event.id.into(),
        kind,
        name: text("name").unwrap_or_else(|| kind.default_name().to_owned()),
        timestamp: event.occurred,
        message: text("message"),
        data: given.get("data").filter(|data| !data.is_null()).cloned(),
        state_details: details,
    })
}
