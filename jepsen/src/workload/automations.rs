//! Automations, each on events of its own name, call a receiver of ours by a webhook block. Publishers stream the events
//! through any node, resending what was not confirmed. Each confirmed event makes its call, under one idempotency key. When
//! the publishers have stopped what is due is waited for.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};

use super::publish_consume::event;
use super::receiver::Receiver;
use super::{Context, healed_at_each, posted};
use crate::checker::{actions, operations};
use crate::client::{EventsIn, Http, Outcome};
use crate::cluster::Cluster;
use crate::history::History;
use crate::verdict::Verdict;
use crate::wait::until;

/// Each with a publisher of its own.
const AUTOMATIONS: usize = 4;
/// Events between two pings.
const CHECKPOINT: usize = 10;
/// A pong may take an election and more.
const CONFIRM_WITHIN: Duration = Duration::from_secs(15);
/// How long calls may take to arrive in the end.
const ARRIVED_WITHIN: Duration = Duration::from_mins(1);
/// What still comes then comes so soon.
const QUIET: Duration = Duration::from_secs(2);

pub(super) async fn run(context: Context) {
    let mut receiver = None;
    for api in context.apis.iter().cycle() {
        receiver = Receiver::start(api, context.history.clone()).await.ok();
        if receiver.is_some() || !context.pause(Duration::from_millis(50)).await {
            break;
        }
    }
    let Some(receiver) = receiver else { return };
    for number in 0..AUTOMATIONS {
        let made = context.made("an automation", async |http| make(http, &name(number), &receiver.url).await);
        if made.await.is_none() {
            return;
        }
    }
    futures_util::future::join_all((0..AUTOMATIONS).map(|number| publish(context.clone(), number))).await;
    let entries = context.history.entries();
    let mut expected: BTreeSet<String> = BTreeSet::new();
    for publish in operations(&entries, "publish").into_iter().filter(|publish| publish.outcome == Outcome::Ok) {
        expected.extend(publish.asked["ids"].as_array().into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)));
    }
    // What has not come by then is missing, by the checker.
    let _in_time = until(ARRIVED_WITHIN, "every call has arrived", async || {
        let entries = context.history.entries();
        let called: BTreeSet<&str> =
            crate::checker::done(&entries, "called").filter_map(|(_, call)| call.value["event"].as_str()).collect();
        if expected.iter().all(|id| called.contains(id.as_str())) {
            return Some(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        None
    })
    .await;
    tokio::time::sleep(QUIET).await;
}

fn name(number: usize) -> String {
    format!("jepsen-caller-{number}")
}

/// A block that calls `url`, and an automation that uses it on events of its own name; what is there already is taken.
async fn make(http: &Http, name: &str, url: &str) -> Option<Value> {
    let existing = posted(http, "/automations/filter", &json!({"automations": {"name": {"any_": [name]}}})).await?;
    if existing[0].is_object() {
        return Some(existing[0].clone());
    }
    let (200, block_type) = http.get("/block_types/slug/webhook").await.ok()? else { return None };
    let filter = json!({"block_schemas": {"block_type_id": {"any_": [block_type["id"]]}}});
    let schemas = posted(http, "/block_schemas/filter", &filter).await?;
    // A name of its own each time: an earlier try may have made one.
    let block = json!({
        "name": format!("{name}-{:08x}", rand::random::<u32>()), "data": {"method": "POST", "url": url},
        "block_schema_id": schemas[0]["id"], "block_type_id": block_type["id"],
    });
    let block = posted(http, "/block_documents/", &block).await?;
    let automation = json!({
        "name": name,
        "trigger": {"type": "event", "posture": "Reactive", "expect": [name], "threshold": 1, "within": 0},
        "actions": [{"type": "call-webhook", "block_document_id": block["id"], "payload": "{{ automation.name }} {{ event.id }}"}],
    });
    posted(http, "/automations/", &automation).await
}

async fn publish(context: Context, number: usize) {
    let (process, mut chance) = (format!("publisher-{number}"), context.chance(number));
    let (mut node, mut pending) = (number, Vec::new());
    while !context.stop.is_cancelled() {
        let api = &context.apis[node % context.apis.len()];
        node += 1;
        let Ok(mut socket) = EventsIn::connect(api).await else {
            context.pause(Duration::from_millis(50)).await;
            continue;
        };
        while !context.stop.is_cancelled() {
            while pending.len() < CHECKPOINT {
                pending.push(event(&name(number), "jepsen.caller"));
            }
            let ids: Value = pending.iter().map(|event| event["id"].clone()).collect();
            context.history.add(&process, "publish", json!({"automation": name(number), "ids": ids}), None);
            let confirmed = async {
                for event in &pending {
                    socket.send(event).await?;
                }
                socket.confirm(CONFIRM_WITHIN).await
            };
            let confirmed = confirmed.await.is_ok();
            let outcome = if confirmed { Outcome::Ok } else { Outcome::Unknown };
            context.history.add(&process, "publish", json!(pending.len()), Some(outcome));
            if !confirmed {
                break;
            }
            pending.clear();
            context.pause(Duration::from_millis(chance.random_range(300..700))).await;
        }
    }
}

pub(super) async fn check(cluster: &Cluster, history: &History) -> Verdict {
    let verdict = actions::check(&history.entries());
    // Fresh automations, which call a fresh receiver: nothing of what is judged above.
    let directory = tempfile::tempdir();
    let Some(scratch) = directory.ok().and_then(|place| History::create(&place.path().join("healed"), 0, "healed").ok()) else {
        return verdict.and(Verdict::Unknown("no room for the last look".to_owned()));
    };
    let healed = healed_at_each(cluster, "an automation made and its call received", async |id, http| {
        let receiver = Receiver::start(&cluster.api(id), scratch.clone()).await.ok()?;
        let name = format!("jepsen-healed-{:016x}", rand::random::<u64>());
        make(http, &name, &receiver.url).await?;
        let mut socket = EventsIn::connect(&cluster.api(id)).await.ok()?;
        let event = event(&name, "jepsen.caller");
        socket.send(&event).await.ok()?;
        socket.confirm(CONFIRM_WITHIN).await.ok()?;
        until(Duration::from_secs(5), "the call arrives", async || {
            let entries = scratch.entries();
            let arrived = crate::checker::done(&entries, "called").any(|(_, call)| call.value["event"] == event["id"]);
            arrived.then_some(())
        })
        .await
        .ok()
    });
    verdict.and(healed.await)
}
