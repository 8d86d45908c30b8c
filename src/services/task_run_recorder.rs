//! Makes task runs and their states of the events that clients emit when a task run changes state.
//!
//! The newest state wins, whatever the order of arrival; every state is kept. A task run whose flow run was deleted is
//! passed over. An event that cannot be read becomes a dead letter and holds up nothing.

use std::borrow::Cow;

use async_trait::async_trait;
use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::sharing::Sharing;
use super::{Consume, Lead, ServiceError};
use crate::bus::{Entry, Topic};
use crate::clock::Timestamp;
use crate::limits;
use crate::model::json;
use crate::model::state::{State, StateDetails, StateType};
use crate::store::Tx;
use crate::store::task_run_records::{self, Record};

/// The consumer group, and the name of the service.
pub(super) const TASK_RUN_RECORDER: &str = "task-run-recorder";

/// The reference's `TaskRunRecorder`.
#[derive(Default)]
pub struct TaskRunRecorder {
    sharing: Sharing,
}

#[async_trait]
impl Consume for TaskRunRecorder {
    fn name(&self) -> &'static str {
        TASK_RUN_RECORDER
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
        let now = lead.app.now();
        let is_shared = self.sharing.begin(records.len(), tx);
        let (here, apart) = if is_shared { task_run_records::halves(records) } else { (records, Vec::new()) };
        // To record a change again changes nothing, so no harm is done where the one half is committed and this
        // transaction, with the cursor, is not.
        let apart = async {
            if apart.is_empty() {
                return Ok(0);
            }
            let mut tx = lead.begin("task-run-recorder.apart").await?;
            let left_out = task_run_records::record(&mut tx, apart, now).await?;
            tx.commit().await?;
            Ok(left_out)
        };
        let (here, apart) = tokio::try_join!(task_run_records::record(tx, here, now), apart)?;
        self.sharing.succeeded();
        let left_out = here + apart;
        if left_out > 0 {
            tracing::debug!(left_out, "task runs of deleted flow runs are passed over");
        }
        Ok(())
    }
}

/// What the recorder wants to know of an event; the rest is passed over unread.
#[derive(Deserialize)]
struct TaskRunEvent<'a> {
    id: Uuid,
    #[serde(with = "json::timestamp")]
    occurred: Timestamp,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    resource: Labels<'a>,
    #[serde(borrow, default)]
    related: Vec<Labels<'a>>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

/// The labels of a resource that matter here.
#[derive(Deserialize)]
struct Labels<'a> {
    #[serde(borrow, rename = "prefect.resource.id")]
    id: Cow<'a, str>,
    #[serde(borrow, default, rename = "prefect.resource.role")]
    role: Cow<'a, str>,
    #[serde(borrow, default, rename = "prefect.orchestration")]
    orchestration: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    task_run: &'a RawValue,
    #[serde(borrow)]
    validated_state: &'a RawValue,
}

/// A state as the client tells it: its id and its time are the event's.
#[derive(Deserialize)]
struct ToldState {
    #[serde(rename = "type")]
    kind: StateType,
    name: Option<String>,
    message: Option<String>,
    data: Option<Value>,
    state_details: Option<StateDetails>,
}

/// The record of an event, where it is one of a task run that its client orchestrates.
fn read(payload: &[u8]) -> Result<Option<Record>, ServiceError> {
    const PREFIX: &[u8] = b"prefect.task-run";
    // Most events of other kinds are told apart without parsing them.
    if memmem::find(payload, PREFIX).is_none() {
        return Ok(None);
    }
    let poison = |what: &str| ServiceError::Poison(format!("the event of a task run has {what}"));
    let event: TaskRunEvent<'_> = serde_json::from_slice(payload).map_err(|error| ServiceError::Poison(error.to_string()))?;
    if !event.event.starts_with("prefect.task-run") || event.resource.orchestration != "client" {
        return Ok(None);
    }
    let id = object_id(&event.resource.id, "prefect.task-run.").ok_or_else(|| poison("no id"))?;
    let flow_run_id = match event.related.iter().find(|resource| resource.role == "flow-run") {
        Some(resource) => Some(object_id(&resource.id, "prefect.flow-run.").ok_or_else(|| poison("no usable flow run"))?),
        None => None,
    };
    let payload = event.payload.map_or("null", RawValue::get);
    let payload: Payload<'_> = serde_json::from_str(payload).map_err(|error| poison(&format!("no usable payload: {error}")))?;
    let told = serde_json::from_str(payload.task_run.get()).map_err(|error| poison(&format!("no usable task run: {error}")))?;
    let state: ToldState =
        serde_json::from_str(payload.validated_state.get()).map_err(|error| poison(&format!("no usable state: {error}")))?;
    let mut state_details = state.state_details.unwrap_or_default();
    state_details.task_run_id = Some(id.into());
    state_details.flow_run_id = flow_run_id.map(Into::into);
    let state = State {
        id: event.id.into(),
        name: state.name.unwrap_or_else(|| state.kind.default_name().to_owned()),
        kind: state.kind,
        timestamp: event.occurred,
        message: state.message,
        data: state.data,
        state_details,
    };
    Ok(Some(Record { id, flow_run_id, told, state }))
}

fn object_id(resource_id: &str, prefix: &str) -> Option<Uuid> {
    resource_id.strip_prefix(prefix)?.parse().ok()
}
