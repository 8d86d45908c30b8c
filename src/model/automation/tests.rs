//! Bodies as clients send them, and what triggers have to do with events.

use serde_json::{Value, json};

use super::check::{Above, create, partial_update};
use super::*;
use crate::model::check::Issue;
use crate::model::event::Event;

const ABOVE: Above = Above { template: |text| if text.contains("{{") { Err("no".into()) } else { Ok(()) }, parameters: |_| Vec::new() };

fn read(body: Value) -> Result<AutomationCreate, Vec<Issue>> {
    create(&mut body.clone(), ABOVE)
}

fn with(trigger: Value) -> Result<Trigger, Vec<Issue>> {
    read(json!({"name": "a", "trigger": trigger, "actions": []})).map(|create| create.core.trigger)
}

fn acting(action: Value) -> Result<Action, Vec<Issue>> {
    let body = json!({"name": "a", "trigger": {"type": "event", "posture": "Reactive"}, "actions": [action]});
    read(body).map(|mut create| create.core.actions.remove(0))
}

fn told(issues: &[Issue]) -> Vec<(String, String)> {
    let path = |issue: &Issue| {
        let steps: Vec<String> = issue.loc.iter().map(|step| step.as_str().map_or_else(|| step.to_string(), str::to_owned)).collect();
        steps.join(".")
    };
    issues.iter().map(|issue| (issue.kind.clone(), path(issue))).collect()
}

#[test]
fn a_body_is_written_as_it_is_kept() {
    let trigger = json!({
        "type": "compound",
        "id": "00000000-0000-4000-8000-000000000001",
        "triggers": [
            {"type": "event", "id": "00000000-0000-4000-8000-000000000002", "match": {"a": "b", "c": ["d"]}, "match_related": [{"e": "f"}],
             "after": [], "expect": ["x", "y"], "for_each": ["z"], "posture": "Proactive", "threshold": 2, "within": 30.0},
            {"type": "sequence", "id": "00000000-0000-4000-8000-000000000003", "triggers": [], "within": null},
        ],
        "within": 60.0,
        "require": "all",
    });
    let read = with(trigger.clone()).expect("valid");
    let written = serde_json::to_string(&read).expect("serializes");
    assert_eq!(written, trigger.to_string(), "the order of the fields is the reference's");
    assert_eq!(serde_json::from_str::<Trigger>(&written).expect("reads back"), read);
}

#[test]
fn what_a_trigger_does_not_say_is_inferred() {
    assert!(matches!(with(json!({"posture": "Reactive"})), Ok(Trigger::Event(_))));
    let over = json!([{"posture": "Reactive"}]);
    assert!(matches!(with(json!({"triggers": over, "within": 3.5})), Ok(Trigger::Sequence(_))));
    assert!(matches!(with(json!({"triggers": over, "within": 3.5, "require": "any"})), Ok(Trigger::Compound(_))));
    let Ok(Trigger::Event(proactive)) = with(json!({"posture": "Proactive"})) else { panic!("a trigger by events") };
    assert_eq!(proactive.within.to_string(), "10");
    let Ok(Trigger::Event(text)) = with(json!({"posture": "Reactive", "within": "PT5M", "threshold": "3"})) else { panic!("the same") };
    assert_eq!((text.within.to_string().as_str(), text.threshold), ("300", 3));
}

#[test]
fn findings_name_every_member_of_a_union() {
    const COMPOUND: &str = "body.trigger.function-after[validate_require(), function-after[validate_require(), CompoundTrigger]]";
    let issues = with(json!({"type": "event"})).expect_err("no posture");
    let expected = [
        ("missing", "body.trigger.EventTrigger.posture".to_owned()),
        ("literal_error", format!("{COMPOUND}.type")),
        ("missing", format!("{COMPOUND}.triggers")),
        ("missing", format!("{COMPOUND}.within")),
        ("missing", format!("{COMPOUND}.require")),
        ("literal_error", "body.trigger.SequenceTrigger.type".to_owned()),
        ("missing", "body.trigger.SequenceTrigger.triggers".to_owned()),
        ("missing", "body.trigger.SequenceTrigger.within".to_owned()),
    ];
    let expected: Vec<(String, String)> = expected.into_iter().map(|(kind, path)| (kind.to_owned(), path)).collect();
    assert_eq!(told(&issues), expected);
    let nested = with(json!({"type": "compound", "within": 1, "require": "any", "triggers": [{"type": "compound"}]})).expect_err("bad");
    let inner = format!("{COMPOUND}.triggers.0.function-after[validate_require(), CompoundTrigger].require");
    assert!(told(&nested).contains(&("missing".into(), inner)), "{:?}", told(&nested));
}

#[test]
fn findings_show_spans_as_the_reference_has_turned_them() {
    let issues = with(json!({"type": "event", "posture": "Proactive", "within": 5})).expect_err("too short");
    assert_eq!(issues[0].input, json!({"type": "event", "posture": "Proactive", "within": 5.0}));
    assert_eq!(issues[0].kind, "value_error");
    let mut body = json!({"name": "a", "trigger": {"type": "event", "posture": "Reactive", "within": -1}, "actions": []});
    let issues = create(&mut body, ABOVE).expect_err("negative");
    assert_eq!((issues[0].kind.as_str(), &issues[0].input), ("greater_than_equal", &json!(-1.0)));
    assert_eq!(body["trigger"]["within"].to_string(), "-1.0");
}

#[test]
fn deeply_nested_nonsense_does_not_multiply() {
    let mut trigger = json!(3);
    for _ in 0..60 {
        trigger = json!({"type": "sequence", "within": 1, "triggers": [trigger]});
    }
    let issues = with(trigger).expect_err("a number is no trigger");
    assert!(issues.len() <= 500, "{}", issues.len());
}

#[test]
fn actions_are_told_apart_by_their_fields() {
    assert_eq!(acting(json!({})), Ok(Action::DoNothing));
    assert_eq!(acting(json!({"type": "suspend-flow-run"})), Ok(Action::SuspendFlowRun));
    assert!(matches!(acting(json!({"source": "inferred"})), Ok(Action::RunDeployment(_))));
    assert!(matches!(acting(json!({"state": "FAILED"})), Ok(Action::ChangeFlowRunState(_))));
    let block = "00000000-0000-4000-8000-000000000000";
    let Ok(Action::CallWebhook(webhook)) = acting(json!({"type": "call-webhook", "block_document_id": block, "payload": {"a": 1}})) else {
        panic!("a webhook")
    };
    assert_eq!(webhook.payload, "{\n  \"a\": 1\n}");
    for (action, kind, path) in [
        (json!({"type": "pause-work-queue"}), "value_error", "selected_work_queue_requires_id(), PauseWorkQueue]"),
        (json!({"type": "pause-automation", "source": "inferred", "automation_id": block}), "value_error", "PauseAutomation]"),
        (json!({"type": "send-notification", "block_document_id": block, "body": "{{"}), "value_error", "SendNotification.body"),
        (json!({"type": "run-deployment", "source": "inferred", "schedule_after": -1}), "value_error", "RunDeployment].schedule_after"),
        (json!({"type": "change-flow-run-state", "state": "NONE"}), "enum", "ChangeFlowRunState.state"),
    ] {
        let found = told(&acting(action.clone()).expect_err("refused"));
        assert!(found.iter().any(|(of, at)| of == kind && at.ends_with(path)), "{action}: {found:?}");
    }
    for action in [json!({"type": "cancel-flow-run"}), json!({"type": "resume-work-pool", "source": "selected", "work_pool_id": block})] {
        let read = acting(action.clone()).expect("valid");
        assert_eq!(serde_json::to_value(&read).expect("serializes"), action);
        assert_eq!(action["type"], read.kind());
    }
}

#[test]
fn endless_runs_are_refused() {
    let body = |source: Value, matched: Value| {
        let mut action = json!({"type": "run-deployment"});
        action.as_object_mut().expect("an object").extend(source.as_object().expect("an object").clone());
        let trigger = json!({"type": "event", "posture": "Reactive", "expect": ["prefect.flow-run.*"], "match": matched});
        read(json!({"name": "a", "trigger": trigger, "actions": [action]}))
    };
    let selected = json!({"source": "selected", "deployment_id": "00000000-0000-4000-8000-000000000000"});
    assert_eq!(
        told(&body(json!({"source": "inferred"}), json!({"prefect.resource.id": "x"})).expect_err("endless")),
        [("value_error".into(), "body".into())]
    );
    assert!(body(selected.clone(), json!({"prefect.resource.id": "prefect.flow-run.*"})).is_err());
    assert!(body(selected, json!({"prefect.resource.id": "prefect.flow-run.*", "label": "x"})).is_ok());
}

#[test]
fn a_partial_update_knows_one_field() {
    assert_eq!(partial_update(&json!({})), Ok(AutomationPartialUpdate { enabled: None }));
    assert_eq!(partial_update(&json!({"enabled": false})), Ok(AutomationPartialUpdate { enabled: Some(false) }));
    assert!(partial_update(&json!({"name": "x"})).is_err());
}

fn event(name: &str) -> Event {
    serde_json::from_value(json!({
        "occurred": "2026-01-02T03:04:05Z", "event": name, "id": "00000000-0000-4000-8000-000000000001",
        "resource": {"prefect.resource.id": "a.1", "color": "red"},
        "related": [
            {"prefect.resource.id": "flow.1", "prefect.resource.role": "flow", "size": "big"},
            {"prefect.resource.id": "tag.1", "prefect.resource.role": "tag"},
        ],
    }))
    .expect("an event")
}

fn trigger(fields: Value) -> EventTrigger {
    let mut trigger = json!({"type": "event", "posture": "Reactive"});
    trigger.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    match with(trigger) {
        Ok(Trigger::Event(trigger)) => trigger,
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_are_covered_as_the_reference_covers_them() {
    for (expect, name, covered) in [
        (json!([]), "anything", true),
        (json!(["a.b"]), "a.b", true),
        (json!(["a.b"]), "a.bc", false),
        (json!(["a.*"]), "a.b.c", true),
        (json!(["a.*"]), "a.", false),
        (json!(["a.*.c"]), "a.bb.c", true),
        (json!(["a.?"]), "a.b", false),
        (json!(["!a"]), "b", false),
    ] {
        assert_eq!(trigger(json!({"expect": expect})).covers(&event(name)), covered, "{expect} {name}");
    }
    let after = trigger(json!({"after": ["a"], "expect": ["b"]}));
    assert!(after.covers(&event("a")) && after.covers(&event("b")) && !after.covers(&event("c")));
    assert!(after.starts_after("a") && !after.expects("a"));
}

#[test]
fn resources_are_covered_with_globs_and_negation() {
    for (fields, covered) in [
        (json!({"match": {"color": "r*"}}), true),
        (json!({"match": {"color": ["blue", "red"]}}), true),
        (json!({"match": {"color": "!red"}}), false),
        (json!({"match": {"color": "!blue"}}), true),
        (json!({"match": {"shape": "!round"}}), false),
        (json!({"match": {"color": []}}), false),
        (json!({"match_related": {"prefect.resource.role": "flow", "size": "big"}}), true),
        (json!({"match_related": {"prefect.resource.role": "tag", "size": "big"}}), false),
        (json!({"match_related": [{"prefect.resource.role": "flow"}, {"prefect.resource.role": "tag"}]}), true),
        (json!({"match_related": [{"prefect.resource.role": "flow"}, {"prefect.resource.role": "x"}]}), false),
    ] {
        assert_eq!(trigger(fields.clone()).covers(&event("x")), covered, "{fields}");
    }
}

#[test]
fn a_bucket_is_named_by_labels_in_order() {
    let for_each = json!(["related:flow:size", "color", "related:none:color", "missing", "related:tag:size"]);
    let key = trigger(json!({"for_each": for_each})).bucketing_key(&event("x"));
    // color, missing, related:flow:size, related:none:color (no such role: the label of that name), related:tag:size
    assert_eq!(key, ["red", "", "big", "", ""]);
}
