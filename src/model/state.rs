//! States of flow runs and task runs (`prefect/server/schemas/{states,actions,responses}.py`).
//!
//! A state has always a name, and a scheduled state always a scheduled time; where a client leaves them out they are
//! filled in when the body becomes a [`State`] ([`StateCreate::at`]), with the moment of the request.

use std::fmt;
use std::str::FromStr;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::id::{FlowRunId, LeaseId, StateId, TaskRunId};
use crate::model::json;

/// What a run is doing, as far as the rules tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum StateType {
    Scheduled,
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
    Crashed,
    Paused,
    Cancelling,
}

impl StateType {
    /// Every type, in the reference's order.
    pub const ALL: [Self; 9] = [
        Self::Scheduled,
        Self::Pending,
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Crashed,
        Self::Paused,
        Self::Cancelling,
    ];

    /// The types that a run does not leave by itself.
    pub const TERMINAL: [Self; 4] = [Self::Completed, Self::Cancelled, Self::Failed, Self::Crashed];

    /// As it stands in JSON and in the database: `SCHEDULED`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "SCHEDULED",
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::Crashed => "CRASHED",
            Self::Paused => "PAUSED",
            Self::Cancelling => "CANCELLING",
        }
    }

    /// The name of a state of this type that has no other name: `Scheduled`.
    pub fn default_name(self) -> &'static str {
        match self {
            Self::Scheduled => "Scheduled",
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
            Self::Crashed => "Crashed",
            Self::Paused => "Paused",
            Self::Cancelling => "Cancelling",
        }
    }

    /// True for the types in [`Self::TERMINAL`].
    pub fn is_terminal(self) -> bool {
        Self::TERMINAL.contains(&self)
    }
}

impl fmt::Display for StateType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that is no state type.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0:?} is not a state type")]
pub struct UnknownStateType(String);

impl FromStr for StateType {
    type Err = UnknownStateType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| UnknownStateType(text.to_owned()))
    }
}

impl From<StateType> for sea_query::Value {
    fn from(kind: StateType) -> Self {
        kind.as_str().into()
    }
}

impl sea_query::Nullable for StateType {
    fn null() -> sea_query::Value {
        sea_query::Value::String(None)
    }
}

/// What else there is to know of a state. Unknown keys are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StateDetails {
    pub flow_run_id: Option<FlowRunId>,
    pub task_run_id: Option<TaskRunId>,
    /// For task runs that stand for a subflow: the subflow's run.
    pub child_flow_run_id: Option<FlowRunId>,
    /// When the run is to start; always there in a scheduled state.
    #[serde(with = "json::optional_timestamp")]
    pub scheduled_time: Option<Timestamp>,
    pub cache_key: Option<String>,
    #[serde(with = "json::optional_timestamp")]
    pub cache_expiration: Option<Timestamp>,
    /// True for a task run that is left to a task worker.
    pub deferred: Option<bool>,
    pub untrackable_result: bool,
    /// When a paused run is given up.
    #[serde(with = "json::optional_timestamp")]
    pub pause_timeout: Option<Timestamp>,
    /// True where a paused run leaves its process (suspends) and is scheduled again on resume.
    pub pause_reschedule: bool,
    /// Names a pause, so that the same one is not made twice.
    pub pause_key: Option<String>,
    pub run_input_keyset: Option<IndexMap<String, String>>,
    pub refresh_cache: Option<bool>,
    pub retriable: Option<bool>,
    /// The client's id of the transition; the same one is not made twice.
    pub transition_id: Option<uuid::Uuid>,
    pub task_parameters_id: Option<uuid::Uuid>,
    /// The trace and span in which the state was made.
    pub traceparent: Option<String>,
    /// The lease that holds the run's slot of its deployment's concurrency limit.
    pub deployment_concurrency_lease_id: Option<LeaseId>,
}

impl Default for StateDetails {
    fn default() -> Self {
        Self {
            flow_run_id: None,
            task_run_id: None,
            child_flow_run_id: None,
            scheduled_time: None,
            cache_key: None,
            cache_expiration: None,
            deferred: Some(false),
            untrackable_result: false,
            pause_timeout: None,
            pause_reschedule: false,
            pause_key: None,
            run_input_keyset: None,
            refresh_cache: None,
            retriable: None,
            transition_id: None,
            task_parameters_id: None,
            traceparent: None,
            deployment_concurrency_lease_id: None,
        }
    }
}

/// The state of a run.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct State {
    pub id: StateId,
    #[serde(rename = "type")]
    pub kind: StateType,
    pub name: String,
    #[serde(with = "json::timestamp")]
    pub timestamp: Timestamp,
    pub message: Option<String>,
    /// The result, or where it is.
    pub data: Option<Value>,
    pub state_details: StateDetails,
}

impl State {
    /// A state of `kind` made `now`, with a fresh id and the default name; a scheduled one is scheduled for `now`.
    pub fn new(kind: StateType, now: Timestamp) -> Self {
        let state_details = StateDetails { scheduled_time: (kind == StateType::Scheduled).then_some(now), ..StateDetails::default() };
        Self { id: StateId::fresh(), kind, name: kind.default_name().to_owned(), timestamp: now, message: None, data: None, state_details }
    }

    /// A state scheduled for `at`.
    pub fn scheduled(at: Timestamp, now: Timestamp) -> Self {
        let mut state = Self::new(StateType::Scheduled, now);
        state.state_details.scheduled_time = Some(at);
        state
    }

    /// The same with another name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The same with a message.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// The same as a new state: with a fresh id, made `now`.
    #[must_use]
    pub fn fresh_copy(&self, now: Timestamp) -> Self {
        Self { id: StateId::fresh(), timestamp: now, ..self.clone() }
    }
}

/// Body of a state that a client proposes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StateCreate {
    #[serde(rename = "type")]
    pub kind: StateType,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub message: Option<String>,
    #[serde(default)]
    pub data: Option<Value>,
    #[serde(default)]
    pub state_details: StateDetails,
}

impl StateCreate {
    /// True where it lets a background task run wait for a task worker.
    pub fn is_for_task_worker(&self) -> bool {
        self.kind == StateType::Scheduled && self.state_details.deferred == Some(true)
    }

    /// The state that is proposed, made `now`, with what was left out filled in.
    pub fn at(self, now: Timestamp) -> State {
        self.with(StateId::fresh(), now)
    }

    /// As [`Self::at`], with an id that the caller knows (task run events carry theirs).
    pub fn with(self, id: StateId, timestamp: Timestamp) -> State {
        let mut state_details = self.state_details;
        if self.kind == StateType::Scheduled {
            state_details.scheduled_time.get_or_insert(timestamp);
        }
        let name = self.name.unwrap_or_else(|| self.kind.default_name().to_owned());
        State { id, kind: self.kind, name, timestamp, message: self.message, data: self.data, state_details }
    }
}

/// What became of a proposed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum SetStateStatus {
    Accept,
    Reject,
    Abort,
    Wait,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "type")]
pub enum StateResponseDetails {
    #[serde(rename = "accept_details")]
    Accept {},
    #[serde(rename = "wait_details")]
    Wait {
        /// Seconds until the client may propose the state again.
        delay_seconds: i64,
        reason: Option<String>,
    },
    #[serde(rename = "reject_details")]
    Reject { reason: Option<String> },
    #[serde(rename = "abort_details")]
    Abort { reason: Option<String> },
}

/// Answer to a proposed state.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct OrchestrationResult {
    /// The state that the run is in now.
    pub state: Option<State>,
    pub status: SetStateStatus,
    pub details: StateResponseDetails,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        json::parse_timestamp("2026-01-02T03:04:05.000006Z").expect("valid")
    }

    #[test]
    fn what_a_client_leaves_out_is_filled_in() {
        let state = serde_json::from_str::<StateCreate>(r#"{"type":"SCHEDULED"}"#).expect("valid").at(now());
        assert_eq!(state.name, "Scheduled");
        assert_eq!(state.state_details.scheduled_time, Some(now()));
        let state = serde_json::from_str::<StateCreate>(r#"{"type":"RUNNING","name":"Retrying"}"#).expect("valid").at(now());
        assert_eq!((state.name.as_str(), state.state_details.scheduled_time), ("Retrying", None));
    }

    #[test]
    fn unknown_keys_are_refused_in_a_state_and_ignored_in_its_details() {
        assert!(serde_json::from_str::<StateCreate>(r#"{"type":"RUNNING","id":1}"#).is_err());
        assert!(serde_json::from_str::<StateCreate>(r#"{"type":"RUNNING","state_details":{"a":1}}"#).is_ok());
        assert!(serde_json::from_str::<StateCreate>(r#"{"type":"running"}"#).is_err());
    }

    #[test]
    fn states_are_written_as_the_reference_writes_them() {
        let mut state = State::new(StateType::Running, now()).with_message("go");
        state.id = StateId(uuid::Uuid::nil());
        assert_eq!(
            serde_json::to_string(&state).expect("serializes"),
            concat!(
                r#"{"id":"00000000-0000-0000-0000-000000000000","type":"RUNNING","name":"Running","timestamp":"2026-01-02T03:04:05.000006Z","#,
                r#""message":"go","data":null,"state_details":{"flow_run_id":null,"task_run_id":null,"child_flow_run_id":null,"#,
                r#""scheduled_time":null,"cache_key":null,"cache_expiration":null,"deferred":false,"untrackable_result":false,"#,
                r#""pause_timeout":null,"pause_reschedule":false,"pause_key":null,"run_input_keyset":null,"refresh_cache":null,"#,
                r#""retriable":null,"transition_id":null,"task_parameters_id":null,"traceparent":null,"deployment_concurrency_lease_id":null}}"#
            )
        );
        let accepted = serde_json::to_string(&StateResponseDetails::Accept {}).expect("serializes");
        assert_eq!(accepted, r#"{"type":"accept_details"}"#);
        for kind in StateType::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).expect("serializes"), kind.as_str());
        }
    }
}
