//! `prefect.flow-run.<StateName>`: a flow run has taken a state (`prefect/server/models/events.py`).

use chrono::{TimeDelta, Timelike};
use serde_json::{Map, Value, json};

use crate::clock::Timestamp;
use crate::events::related;
use crate::model::event::{Event, Resource};
use crate::model::state::{State, StateType};
use crate::store::transitions::{FlowRun, Surroundings};

/// Characters of a state's message in an event at most; some carry whole results.
const MESSAGE_CHARACTERS: usize = 100_000;

/// An event follows the one before only where the two are closer than this; else their order is clear anyway.
const TIGHT: TimeDelta = TimeDelta::minutes(5);

/// The event of a state that a flow run has taken. It has the state's id, so it is emitted once however often it is
/// sent, and the next one can name it.
pub fn state_changed(run: &FlowRun, surroundings: &Surroundings, initial: Option<&State>, validated: &State) -> Event {
    let resource = Resource::from_iter(
        [
            ("prefect.resource.id", format!("prefect.flow-run.{}", run.id)),
            ("prefect.resource.name", run.name.clone()),
            ("prefect.run-count", run.progress.run_count.to_string()),
            ("prefect.state-message", truncated(validated.message.as_deref().unwrap_or_default())),
            ("prefect.state-name", validated.name.clone()),
            ("prefect.state-timestamp", isoformat(&validated.timestamp)),
            ("prefect.state-type", validated.kind.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    let payload = json!({
        "intended": {"from": initial.map(|state| state.kind), "to": validated.kind},
        "initial_state": initial.map(state_payload),
        "validated_state": state_payload(validated),
    });
    let Value::Object(payload) = payload else { unreachable!("an object literal is an object") };
    let follows = initial.filter(|initial| (validated.timestamp - initial.timestamp).abs() < TIGHT);
    Event {
        occurred: validated.timestamp,
        event: format!("prefect.flow-run.{}", validated.name),
        resource,
        related: related::of_flow_run(run, surroundings),
        payload,
        id: validated.id.0,
        follows: follows.map(|initial| initial.id.0),
    }
}

/// The parts of a state that are text.
pub fn state_payload(state: &State) -> Map<String, Value> {
    let mut payload = Map::new();
    payload.insert("type".into(), state.kind.as_str().into());
    if !state.name.is_empty() {
        payload.insert("name".into(), state.name.as_str().into());
    }
    if let Some(message) = state.message.as_deref().filter(|message| !message.is_empty()) {
        payload.insert("message".into(), truncated(message).into());
    }
    if state.kind == StateType::Paused {
        payload.insert("pause_reschedule".into(), state.state_details.pause_reschedule.to_string().into());
    }
    payload
}

/// Both ends of a text that is too long, and how much is missing between them.
fn truncated(text: &str) -> String {
    let length = text.chars().count();
    if length <= MESSAGE_CHARACTERS {
        return text.to_owned();
    }
    let half = MESSAGE_CHARACTERS / 2;
    let beginning: String = text.chars().take(half).collect();
    let end: String = text.chars().skip(length - half).collect();
    let short = format!("{beginning}...{} additional characters...{end}", length - 2 * half);
    if short.chars().count() < length { short } else { text.to_owned() }
}

/// As Python's `isoformat`.
fn isoformat(at: &Timestamp) -> String {
    if at.nanosecond() / 1000 == 0 {
        at.format("%Y-%m-%dT%H:%M:%S+00:00").to_string()
    } else {
        at.format("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{FlowId, FlowRunId, StateId};
    use crate::model::policy::FlowRunPolicy;
    use crate::store::transitions::{Labelled, Progress};
    use uuid::Uuid;

    fn run() -> FlowRun {
        FlowRun {
            id: FlowRunId(Uuid::from_u128(1)),
            name: "calm-owl".into(),
            tags: vec!["b".into(), "a".into()],
            flow_id: FlowId(Uuid::from_u128(2)),
            deployment_id: None,
            work_queue_id: None,
            parent_task_run_id: None,
            infrastructure_pid: None,
            created_by: Some(json!({"id": "x", "type": "AUTOMATION", "display_value": "auto"})),
            policy: FlowRunPolicy::default(),
            progress: Progress { run_count: 2, ..Progress::default() },
        }
    }

    #[test]
    fn a_state_change_reads_as_the_reference_writes_it() {
        let at = Timestamp::UNIX_EPOCH;
        let mut initial = State::new(StateType::Running, at);
        initial.id = StateId(Uuid::from_u128(8));
        let mut paused = State::new(StateType::Paused, at + TimeDelta::microseconds(5)).with_message("wait");
        paused.id = StateId(Uuid::from_u128(9));
        let surroundings = Surroundings {
            flow: Some(Labelled { id: Uuid::from_u128(2), name: "hello".into(), tags: vec!["a".into(), "c".into()] }),
            work_pool: Some(Labelled { id: Uuid::from_u128(3), name: "pool".into(), tags: Vec::new() }),
            work_pool_type: "process".into(),
            ..Surroundings::default()
        };
        let event = serde_json::to_value(state_changed(&run(), &surroundings, Some(&initial), &paused)).expect("serializes");
        assert_eq!(
            event,
            json!({
                "occurred": "1970-01-01T00:00:00.000005Z",
                "event": "prefect.flow-run.Paused",
                "resource": {
                    "prefect.resource.id": "prefect.flow-run.00000000-0000-0000-0000-000000000001",
                    "prefect.resource.name": "calm-owl",
                    "prefect.run-count": "2",
                    "prefect.state-message": "wait",
                    "prefect.state-name": "Paused",
                    "prefect.state-timestamp": "1970-01-01T00:00:00.000005+00:00",
                    "prefect.state-type": "PAUSED",
                },
                "related": [
                    {"prefect.resource.id": "prefect.flow.00000000-0000-0000-0000-000000000002", "prefect.resource.role": "flow", "prefect.resource.name": "hello"},
                    {"prefect.resource.id": "prefect.work-pool.00000000-0000-0000-0000-000000000003", "prefect.resource.role": "work-pool", "prefect.resource.name": "pool", "prefect.work-pool.type": "process"},
                    {"prefect.resource.id": "prefect.tag.a", "prefect.resource.role": "tag"},
                    {"prefect.resource.id": "prefect.tag.b", "prefect.resource.role": "tag"},
                    {"prefect.resource.id": "prefect.tag.c", "prefect.resource.role": "tag"},
                    {"prefect.resource.id": "prefect.automation.x", "prefect.resource.role": "creator", "prefect.resource.name": "auto"},
                ],
                "payload": {
                    "intended": {"from": "RUNNING", "to": "PAUSED"},
                    "initial_state": {"type": "RUNNING", "name": "Running"},
                    "validated_state": {"type": "PAUSED", "name": "Paused", "message": "wait", "pause_reschedule": "false"},
                },
                "id": "00000000-0000-0000-0000-000000000009",
                "follows": "00000000-0000-0000-0000-000000000008",
            })
        );
        paused.timestamp = at + TimeDelta::minutes(5);
        assert_eq!(state_changed(&run(), &surroundings, Some(&initial), &paused).follows, None);
    }

    #[test]
    fn a_long_message_keeps_both_ends() {
        let text = "ä".repeat(MESSAGE_CHARACTERS) + &"b".repeat(100);
        let short = truncated(&text);
        assert!(short.starts_with('ä') && short.ends_with('b') && short.contains("...100 additional characters..."));
        assert_eq!(truncated("short"), "short");
    }
}
