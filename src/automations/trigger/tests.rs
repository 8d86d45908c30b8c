//! Each posture of a trigger, event by event.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::model::automation::AutomationCore;
use crate::model::event::ReceivedEvent;

/// An automation with one trigger, and the memory of its evaluation between transactions.
struct Scene {
    index: Index,
    buckets: Vec<(BucketKey, Bucket)>,
    firings: Vec<ChildFiring>,
    stamp: Stamp,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_timestamp(1_000_000 + seconds, 0).expect("a moment")
}

fn event(name: &str, seconds: i64, of: &str) -> Arc<ReceivedEvent> {
    let event = json!({
        "occurred": json_time(at(seconds)), "event": name, "id": id::v4(), "received": json_time(at(seconds)),
        "resource": {"prefect.resource.id": of},
    });
    Arc::new(serde_json::from_value(event).expect("an event"))
}

fn json_time(at: Timestamp) -> String {
    crate::model::json::write_timestamp(&at)
}

impl Scene {
    fn new(trigger: Value) -> Self {
        let core: AutomationCore =
            serde_json::from_value(json!({"name": "a", "trigger": trigger, "actions": [{"type": "do-nothing"}]})).expect("an automation");
        let automation = Automation { core, id: AutomationId::fresh(), created: at(0), updated: at(0) };
        Self { index: Index::new(vec![automation]), buckets: Vec::new(), firings: Vec::new(), stamp: Stamp::default().at_least(at(0)) }
    }

    /// One transaction: what it leaves is what the next one finds.
    fn transact(&mut self, work: impl FnOnce(&mut Workspace<'_>)) -> Vec<Firing> {
        let buckets = std::mem::take(&mut self.buckets);
        let firings = std::mem::take(&mut self.firings);
        let mut workspace = Workspace::new(&self.index, buckets.clone(), firings.clone(), self.stamp);
        work(&mut workspace);
        let outcome = workspace.finish();
        self.stamp = outcome.stamp;
        let changed = |key: &BucketKey| outcome.gone_buckets.contains(key) || outcome.buckets.iter().any(|(new, _)| new == key);
        self.buckets = buckets.into_iter().filter(|(key, _)| !changed(key)).collect();
        self.buckets.extend(outcome.buckets.iter().cloned());
        let child = |firing: &ChildFiring| (firing.parent_trigger_id, firing.firing.trigger.id());
        self.firings = firings
            .into_iter()
            .filter(|old| !outcome.gone_firings.contains(&old.firing.id) && !outcome.firings.iter().any(|new| child(new) == child(old)))
            .collect();
        self.firings.extend(outcome.firings);
        outcome.fired.into_iter().map(|fired| fired.firing).collect()
    }

    /// Gives an event to all triggers that it concerns.
    fn happens(&mut self, event: &Arc<ReceivedEvent>) -> Vec<Firing> {
        let places = self.index.concerned(&event.event);
        self.transact(|workspace| places.iter().for_each(|place| workspace.react(*place, event)))
    }

    fn count(&mut self, name: &str, seconds: i64) -> usize {
        self.happens(&event(name, seconds, "x")).len()
    }

    /// Looks at the proactive triggers, as the engine does.
    fn looks(&mut self, seconds: i64) -> Vec<Firing> {
        let places: Vec<Place> = self.index.proactive().collect();
        let mut all = Vec::new();
        for place in places {
            self.transact(|workspace| workspace.ensure_proactive(place, at(seconds)));
            let threshold = self.index.node(place).event_trigger().expect("by events").threshold;
            self.buckets.retain(|(_, bucket)| bucket.count < threshold);
            let keys: Vec<BucketKey> =
                self.buckets.iter().filter(|(_, bucket)| bucket.end <= at(seconds)).map(|(key, _)| key.clone()).collect();
            all.extend(self.transact(|workspace| {
                for key in &keys {
                    workspace.look(place, key, at(seconds));
                }
            }));
        }
        all
    }
}

fn reactive(fields: Value) -> Value {
    with("Reactive", fields)
}

fn with(posture: &str, fields: Value) -> Value {
    let mut trigger = json!({"type": "event", "posture": posture});
    trigger.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    trigger
}

#[test]
fn an_immediate_trigger_fires_with_every_event() {
    let mut scene = Scene::new(reactive(json!({"expect": ["a"]})));
    assert_eq!((scene.count("a", 0), scene.count("b", 1), scene.count("a", 1)), (1, 0, 1));
    assert!(scene.buckets.is_empty(), "nothing is left over");
    let fired = scene.happens(&event("a", 2, "x"));
    assert_eq!(fired[0].triggering_event.as_ref().expect("its event").event.occurred, at(2));
}

#[test]
fn an_immediate_trigger_counts_up_to_its_threshold() {
    let mut scene = Scene::new(reactive(json!({"expect": ["a"], "threshold": 3})));
    assert_eq!([scene.count("a", 0), scene.count("a", 100), scene.count("a", 200), scene.count("a", 300)], [0, 0, 1, 0]);
}

#[test]
fn a_reactive_trigger_fires_once_in_its_span() {
    let mut scene = Scene::new(reactive(json!({"expect": ["a"], "threshold": 2, "within": 10})));
    // The first bucket ends at 10; it fires at 3, and the next begins at 10.
    assert_eq!([scene.count("a", 0), scene.count("a", 3), scene.count("a", 4), scene.count("a", 9)], [0, 1, 0, 0]);
    assert_eq!([scene.count("a", 12), scene.count("a", 13)], [0, 1]);
    // Nothing for long: the span begins with the next event.
    assert_eq!([scene.count("a", 100), scene.count("a", 109)], [0, 1]);
}

#[test]
fn an_event_before_the_bucket_is_too_late_and_the_first_bucket_begins_early() {
    let mut scene = Scene::new(reactive(json!({"expect": ["a"], "threshold": 3, "within": 10})));
    assert_eq!([scene.count("a", 0), scene.count("a", -800), scene.count("a", -1000)], [0, 0, 0]);
    assert_eq!(scene.buckets[0].1.count, 2, "fifteen minutes back count, more do not");
}

#[test]
fn buckets_are_kept_apart_by_labels() {
    let mut scene = Scene::new(reactive(json!({"expect": ["a"], "threshold": 2, "within": 10, "for_each": ["prefect.resource.id"]})));
    let mut on = |of: &str, seconds| scene.happens(&event("a", seconds, of));
    assert!(on("x", 0).is_empty() && on("y", 1).is_empty());
    let fired = on("x", 2);
    assert_eq!(fired[0].triggering_labels.get("prefect.resource.id").map(String::as_str), Some("x"));
}

#[test]
fn after_opens_a_bucket_and_expect_counts_in_it() {
    let mut scene = Scene::new(reactive(json!({"after": ["begin"], "expect": ["a"], "within": 10})));
    assert_eq!([scene.count("a", 0), scene.count("begin", 1), scene.count("a", 2), scene.count("a", 3)], [0, 0, 1, 0]);
    assert_eq!([scene.count("begin", 10), scene.count("a", 30)], [0, 0], "too late");
    assert!(scene.buckets.is_empty());
    // The same event opens the bucket and is expected: the second one counts.
    let mut same = Scene::new(reactive(json!({"after": ["a"], "expect": ["a"], "within": 10})));
    assert_eq!([same.count("a", 0), same.count("a", 1), same.count("a", 2), same.count("a", 3)], [0, 1, 0, 1]);
}

#[test]
fn a_proactive_trigger_fires_when_nothing_comes() {
    let mut scene = Scene::new(with("Proactive", json!({"expect": ["a"], "within": 10})));
    assert!(scene.looks(0).is_empty());
    assert!(scene.looks(9).is_empty());
    assert_eq!(scene.looks(10).len(), 1);
    assert!(scene.looks(19).is_empty());
    assert_eq!(scene.looks(20).len(), 1, "and again after the next span");
    scene.count("a", 25);
    assert!(scene.looks(31).is_empty(), "it came");
}

#[test]
fn a_proactive_trigger_waits_after_an_event_for_each_resource() {
    let mut scene =
        Scene::new(with("Proactive", json!({"after": ["begin"], "expect": ["end"], "within": 10, "for_each": ["prefect.resource.id"]})));
    assert!(scene.looks(0).is_empty());
    scene.happens(&event("begin", 1, "x"));
    scene.happens(&event("begin", 2, "y"));
    scene.happens(&event("end", 5, "y"));
    assert!(scene.looks(10).is_empty());
    let fired = scene.looks(12);
    assert_eq!(fired.len(), 1);
    assert_eq!(fired[0].triggering_labels.get("prefect.resource.id").map(String::as_str), Some("x"));
    assert_eq!(fired[0].triggering_event.as_ref().expect("the last one").event.event, "begin");
    assert!(scene.looks(100).is_empty(), "it waits for another beginning");
}

#[test]
fn a_heartbeat_moves_the_span_of_a_proactive_trigger() {
    let mut scene = Scene::new(with("Proactive", json!({"after": ["beat"], "expect": ["beat", "end"], "within": 30})));
    for seconds in [0, 20, 40, 60] {
        assert!(scene.happens(&event("beat", seconds, "x")).is_empty());
        assert!(scene.looks(seconds + 1).is_empty());
    }
    assert!(scene.looks(89).is_empty());
    assert_eq!(scene.looks(91).len(), 1);
}

fn compound(require: Value, within: Value, children: &[&str]) -> Value {
    let triggers: Vec<Value> = children.iter().map(|name| reactive(json!({"expect": [name]}))).collect();
    json!({"type": "compound", "triggers": triggers, "require": require, "within": within})
}

#[test]
fn a_compound_trigger_fires_when_enough_of_its_children_have() {
    let mut all = Scene::new(compound(json!("all"), json!(null), &["a", "b"]));
    assert_eq!([all.count("a", 0), all.count("a", 1), all.count("b", 2), all.count("b", 3)], [0, 0, 1, 0]);
    assert_eq!(all.firings.len(), 1, "the last b waits");
    let fired = all.happens(&event("a", 4, "x"));
    assert_eq!(fired[0].triggering_firings.len(), 2);
    assert_eq!(fired[0].all_firings().len(), 3);
    assert!(all.firings.is_empty());
    let mut any = Scene::new(compound(json!("any"), json!(null), &["a", "b"]));
    assert_eq!([any.count("a", 0), any.count("b", 1)], [1, 1]);
    let mut two = Scene::new(compound(json!(2), json!(null), &["a", "b", "c"]));
    assert_eq!([two.count("a", 0), two.count("c", 1), two.count("b", 2)], [0, 1, 0]);
}

#[test]
fn a_compound_trigger_forgets_old_firings() {
    let mut scene = Scene::new(compound(json!("all"), json!(10), &["a", "b"]));
    scene.count("a", 0);
    scene.stamp = scene.stamp.at_least(at(20));
    assert_eq!(scene.count("b", 1), 0, "by the server's clock the first is too old");
    assert_eq!(scene.firings.len(), 1);
    assert_eq!(scene.count("a", 1), 1);
}

#[test]
fn children_that_fire_several_times_in_one_transaction_leave_no_trace() {
    let mut scene = Scene::new(compound(json!("all"), json!(null), &["a", "b"]));
    scene.count("a", 0);
    assert_eq!(scene.firings.len(), 1);
    let (again, other) = (event("a", 1, "x"), event("b", 2, "x"));
    let places: Vec<Vec<Place>> = [&again, &other].iter().map(|event| scene.index.concerned(&event.event)).collect();
    let fired = scene.transact(|workspace| {
        places[0].iter().for_each(|place| workspace.react(*place, &again));
        places[1].iter().for_each(|place| workspace.react(*place, &other));
    });
    assert_eq!(fired.len(), 1);
    assert!(scene.firings.is_empty(), "the row of the first one goes too");
}

#[test]
fn a_sequence_fires_in_its_order_only() {
    let mut trigger = compound(json!("all"), json!(null), &["a", "b", "c"]);
    trigger["type"] = json!("sequence");
    let mut scene = Scene::new(trigger.clone());
    assert_eq!([scene.count("a", 0), scene.count("b", 1), scene.count("c", 2)], [0, 0, 1]);
    let mut wrong = Scene::new(trigger);
    assert_eq!([wrong.count("b", 0), wrong.count("a", 1), wrong.count("c", 2)], [0, 0, 0]);
    assert_eq!([wrong.count("b", 3), wrong.count("c", 4)], [0, 1], "the newest of each child counts");
}

#[test]
fn triggers_nest() {
    let inner = compound(json!("all"), json!(null), &["a", "b"]);
    let mut outer = compound(json!("all"), json!(null), &["c"]);
    outer["triggers"].as_array_mut().expect("a list").push(inner);
    let mut scene = Scene::new(outer);
    assert_eq!([scene.count("a", 0), scene.count("c", 1), scene.count("b", 2)], [0, 0, 1]);
}

#[test]
fn what_fires_is_told_and_acted_on() {
    let trigger = reactive(json!({"expect": ["a"], "for_each": ["prefect.resource.id"]}));
    let mut automation = json!({"name": "a", "trigger": trigger, "actions": [{"type": "do-nothing"}]});
    automation["actions_on_trigger"] = json!([{"type": "cancel-flow-run"}]);
    automation["actions_on_resolve"] = json!([{"type": "suspend-flow-run"}]);
    let core: AutomationCore = serde_json::from_value(automation).expect("an automation");
    let index = Index::new(vec![Automation { core, id: AutomationId::fresh(), created: at(0), updated: at(0) }]);
    let mut workspace = Workspace::new(&index, Vec::new(), Vec::new(), Stamp::default().at_least(at(5)));
    let happened = event("a", 1, "x");
    workspace.react(0, &happened);
    let fired = workspace.finish().fired.remove(0);
    let (events, actions) = fired.consequences();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event, "prefect.automation.triggered");
    assert_eq!(events[0].resource.get("prefect.posture").map(String::as_str), Some("Reactive"));
    assert_eq!(events[0].related[0]["prefect.resource.id"], format!("prefect.event.{}", happened.event.id));
    assert_eq!(events[0].payload["triggering_labels"], json!({"prefect.resource.id": "x"}));
    let told: Vec<(usize, &str, Uuid)> = actions
        .iter()
        .map(|action| (action.action_index, action.action.kind(), action.triggering_event.as_ref().expect("an event").event.id))
        .collect();
    assert_eq!(told, [(0, "do-nothing", happened.event.id), (1, "cancel-flow-run", events[0].id)]);
    assert!(actions.iter().all(|action| action.automation_triggered_event_id == Some(events[0].id)));
    let written = serde_json::to_value(&actions[0]).expect("serializes");
    assert_eq!(serde_json::from_value::<TriggeredAction>(written).expect("reads back"), actions[0]);
}
