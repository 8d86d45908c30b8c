//! kill -9 of the services leader while events make automations call webhooks: each expected call arrives. It may arrive
//! again when its node died before it could tell, and then under the same idempotency key, by which a receiver knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use jepsen::client::EventsIn;
use parking_lot::Mutex;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Cluster, Kind, Look, Options, eventually, start, until};
use crate::long;

/// How long everything may take to arrive in the end.
const ARRIVED_WITHIN: Duration = Duration::from_mins(5);
/// Between two bursts of events.
const BURST: Duration = Duration::from_millis(100);
/// Bursts between two confirmations.
const BURSTS: u64 = 10;

struct Plan {
    automations: u64,
    events: u64,
    kills: u64,
    burst: u64,
}

fn plan() -> Plan {
    if long() {
        Plan { automations: 100, events: 20_000, kills: 50, burst: 10 }
    } else {
        Plan { automations: 20, events: 1_000, kills: 3, burst: 10 }
    }
}

/// What arrived: of each body, under which keys and how often.
type Arrived = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

async fn receiver() -> (String, Arrived) {
    let arrived = Arrived::default();
    let take = async |State(arrived): State<Arrived>, headers: HeaderMap, body: String| {
        let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
        arrived.lock().entry(body).or_default().push(key.to_owned());
        "taken"
    };
    let router = axum::Router::new().fallback(take).with_state(Arc::clone(&arrived));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}"), arrived)
}

async fn post(cluster: &Cluster, path: &str, body: Value) -> Value {
    let (status, answer) = cluster.http(1).post(path, &body).await.expect("it answers");
    assert!((200..300).contains(&status), "{path}: {status} {answer}");
    answer
}

/// Automations that call the receiver, each on events of its own name and by a block of its own.
async fn automations(cluster: &Cluster, url: &str, count: u64) {
    let slug = "/block_types/slug/webhook";
    let block_type = until(ARRIVED_WITHIN, "the type of webhooks is registered", async || {
        let (status, found) = cluster.http(1).get(slug).await.ok()?;
        (status == 200).then_some(found)
    });
    let block_type = block_type.await.expect("it is there");
    let filter = json!({"block_schemas": {"block_type_id": {"any_": [block_type["id"]]}}});
    let schemas = post(cluster, "/block_schemas/filter", filter).await;
    for number in 0..count {
        let block = json!({
            "name": format!("receiver-{number}"), "data": {"method": "POST", "url": url},
            "block_schema_id": schemas[0]["id"], "block_type_id": block_type["id"],
        });
        let block = post(cluster, "/block_documents/", block).await;
        let automation = json!({
            "name": format!("caller-{number}"),
            "trigger": {"type": "event", "posture": "Reactive", "expect": [name(number)], "threshold": 1, "within": 0},
            "actions": [{
                "type": "call-webhook", "block_document_id": block["id"],
                "payload": "{{ automation.name }} {{ event.id }}",
            }],
        });
        post(cluster, "/automations/", automation).await;
    }
}

fn name(automation: u64) -> String {
    format!("praetor.call.{automation}")
}

/// Streams the events, each to one automation after the other; gives the bodies of the calls that they are to cause.
async fn stream(api: String, plan: Plan, sent: Arc<AtomicU64>) -> BTreeSet<String> {
    let mut socket = EventsIn::connect(&api).await.expect("connects");
    let mut bursts = tokio::time::interval(BURST);
    let mut expected = BTreeSet::new();
    for number in 0..plan.events {
        if number % plan.burst == 0 {
            bursts.tick().await;
        }
        let (automation, id) = (number % plan.automations, Uuid::new_v4());
        let event = json!({
            "id": id, "occurred": chrono::Utc::now().to_rfc3339(), "event": name(automation), "follows": null,
            "resource": {"prefect.resource.id": "praetor.call"}, "related": [], "payload": {},
        });
        socket.send(&event).await.expect("sent");
        expected.insert(format!("caller-{automation} {id}"));
        sent.store(number + 1, Ordering::Relaxed);
        if number % (plan.burst * BURSTS) == 0 {
            socket.confirm(Duration::from_mins(1)).await.expect("committed");
        }
    }
    socket.close(Duration::from_mins(1)).await.expect("committed");
    expected
}

/// How far events, firings and calls have come, for whoever has to find out where they stay.
async fn where_it_stands(cluster: &Cluster, look: &mut Look, arrived: &BTreeSet<String>, expected: &BTreeSet<String>) -> String {
    let missing: Vec<&String> = expected.difference(arrived).take(5).collect();
    let mut told = format!("{} of {} arrived, missing are {missing:?}", arrived.len(), expected.len());
    for (what, count) in [
        ("events", "SELECT count(*) FROM events WHERE event LIKE 'praetor.call.%'"),
        ("firings", "SELECT count(*) FROM events WHERE event = 'prefect.automation.triggered'"),
        ("failed actions", "SELECT count(*) FROM events WHERE event = 'prefect.automation.action.failed'"),
        ("calls to be made", "SELECT count(*) FROM praetor.action_call"),
        ("in the outbox", "SELECT count(*) FROM praetor.outbox"),
        ("dead letters", "SELECT count(*) FROM praetor.dead_letter"),
    ] {
        told += &format!(", {what}: {:?}", look.number(count).await);
    }
    let status = cluster.status(1).await.unwrap_or_default();
    format!("{told}; {status}")
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_arrive_under_one_key_though_the_services_leader_is_killed() {
    let plan = plan();
    // Node 1 takes the events and may not run the services: it is never the one that is killed.
    let mut cluster = start(Options::new(3, Kind::Postgres).variable_of(1, "PRAETOR_SERVICES", false)).await;
    let (url, arrived) = receiver().await;
    automations(&cluster, &url, plan.automations).await;
    let (events, kills) = (plan.events, plan.kills);
    let sent = Arc::new(AtomicU64::new(0));
    let streaming = tokio::spawn(stream(cluster.api(1), plan, Arc::clone(&sent)));
    let mut epochs = BTreeSet::new();
    for number in 1..=kills {
        let due = events * number / (kills + 1);
        let calls = arrived.lock().len();
        eventually(ARRIVED_WITHIN, "events flow, and calls arrive", async || {
            sent.load(Ordering::Relaxed) >= due && arrived.lock().len() > calls
        })
        .await;
        let leader = cluster.services_leader().await.expect("somebody leads the services");
        epochs.insert(cluster.status(1).await.expect("it answers")["epoch"].as_u64());
        cluster.kill(leader).expect("it ran");
        cluster.restart(leader).await.expect("it comes back");
    }
    let expected = streaming.await.expect("the publisher ends well");
    assert_eq!(epochs.len() as u64, kills, "each of them led");

    let mut look = cluster.database().look().await.expect("the database opens");
    let all = until(ARRIVED_WITHIN, "every call arrives", async || (arrived.lock().len() >= expected.len()).then_some(())).await;
    if let Err(late) = all {
        let arrived = arrived.lock().keys().cloned().collect();
        panic!("{late}: {}", where_it_stands(&cluster, &mut look, &arrived, &expected).await);
    }
    // What is told is done with: no call is left that could still be made again.
    eventually(ARRIVED_WITHIN, "every outcome is told", async || {
        look.number("SELECT count(*) FROM praetor.action_call").await.expect("an answer") == 0
    })
    .await;
    let executed = "SELECT count(*) FROM events WHERE event = 'prefect.automation.action.executed'";
    eventually(ARRIVED_WITHIN, "every outcome is an event", async || {
        look.number(executed).await.expect("an answer") >= expected.len() as i64
    })
    .await;
    let arrived = arrived.lock().clone();
    let repeated: usize = arrived.values().map(|keys| keys.len() - 1).sum();
    println!(
        "{events} events, {kills} kills of the services leader: {} calls arrived, {repeated} of them again under the same key",
        arrived.len()
    );
    let bodies: BTreeSet<String> = arrived.keys().cloned().collect();
    assert_eq!(bodies, expected, "each expected call arrives, and no other");
    let mut keys = BTreeSet::new();
    for (body, of_body) in &arrived {
        let distinct: BTreeSet<&String> = of_body.iter().collect();
        assert_eq!(distinct.len(), 1, "{body} was called for under more than one key: {distinct:?}");
        assert!(!of_body[0].is_empty() && keys.insert(of_body[0].clone()), "{body} has no key of its own: {of_body:?}");
    }
    assert_eq!(look.number(executed).await.expect("an answer"), expected.len() as i64, "each outcome is told once");
    let failed = "SELECT count(*) FROM events WHERE event = 'prefect.automation.action.failed'";
    assert_eq!(look.number(failed).await.expect("an answer"), 0);
}
