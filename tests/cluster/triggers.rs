//! kill -9 of the services leader while events make automations fire: every event fires once, a window counts no event
//! twice, and a follower finds its leader, be it evaluated by the node that died or by its successor.

use std::collections::BTreeSet;
use std::time::Duration;

use jepsen::client::EventsIn;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Cluster, Kind, Options, start, until};
use crate::long;

/// Events between two confirmations.
const BATCH: usize = 20;
/// Events that a window counts before it fires.
const THRESHOLD: usize = 10;

fn event(name: &str, id: Uuid, follows: Option<Uuid>) -> Value {
    json!({
        "id": id, "occurred": chrono::Utc::now().to_rfc3339(), "event": name, "follows": follows,
        "resource": {"prefect.resource.id": "praetor.trigger"}, "related": [], "payload": {},
    })
}

async fn automation(cluster: &Cluster, name: &str, fields: Value) {
    let mut trigger = json!({"type": "event", "posture": "Reactive", "expect": ["praetor.trigger.*"]});
    trigger.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    let body = json!({"name": name, "trigger": trigger, "actions": [{"type": "do-nothing"}]});
    let (status, answer) = cluster.http(1).post("/automations/", &body).await.expect("it answers");
    assert_eq!(status, 201, "{answer}");
}

/// Sends batches of events, of which every second follows the one before and is sent before it.
async fn send(cluster: &Cluster, batches: usize, sent: &mut BTreeSet<String>) {
    let mut socket = EventsIn::connect(&cluster.api(1)).await.expect("connects");
    for _ in 0..batches {
        for _ in 0..BATCH / 2 {
            let (leader, follower) = (Uuid::new_v4(), Uuid::new_v4());
            socket.send(&event("praetor.trigger.second", follower, Some(leader))).await.expect("sent");
            socket.send(&event("praetor.trigger.first", leader, None)).await.expect("sent");
            sent.extend([leader.to_string(), follower.to_string()]);
        }
        socket.confirm(Duration::from_secs(20)).await.expect("committed");
    }
}

#[tokio::test]
async fn events_fire_once_though_the_services_leader_is_killed() {
    let kills = if long() { 50 } else { 3 };
    // Node 1 takes the events and may not run the services: it is never the one that is killed.
    let mut cluster = start(Options::new(3, Kind::Postgres).variable_of(1, "PRAETOR_SERVICES", false)).await;
    automation(&cluster, "each", json!({})).await;
    automation(&cluster, "window", json!({"threshold": THRESHOLD, "within": 0})).await;
    let mut sent = BTreeSet::new();
    for _ in 0..kills {
        send(&cluster, 5, &mut sent).await;
        // Right behind the last confirmation: it is in the middle of them.
        let leader = cluster.services_leader().await.expect("somebody leads the services");
        cluster.kill(leader).expect("it ran");
        send(&cluster, 5, &mut sent).await;
        cluster.restart(leader).await.expect("it comes back");
    }
    let mut look = cluster.database().look().await.expect("a look");
    let of = |name: &str, column: &str| {
        format!(
            "SELECT {column} FROM events WHERE event = 'prefect.automation.triggered' AND resource ->> 'prefect.resource.name' = '{name}'"
        )
    };
    let expected = (sent.len() / THRESHOLD) as i64;
    let window = until(Duration::from_mins(1), "every full window fires", async || {
        (look.number(of("window", "count(*)")).await.expect("a number") >= expected).then_some(())
    })
    .await;
    let each = until(Duration::from_mins(1), "every event fires", async || {
        (look.number(of("each", "count(*)")).await.expect("a number") >= sent.len() as i64).then_some(())
    })
    .await;
    let fired = look.texts(of("each", "payload -> 'triggering_event' ->> 'id'")).await.expect("texts");
    let distinct: BTreeSet<String> = fired.iter().cloned().collect();
    println!("{} events, {kills} kills of the services leader: {} firings of {} events", sent.len(), fired.len(), distinct.len());
    assert_eq!(distinct, sent, "each event fires: {each:?}");
    assert_eq!(fired.len(), sent.len(), "and only once");
    assert_eq!(look.number(of("window", "count(*)")).await.expect("a number"), expected, "no event counts twice: {window:?}");
    // The events of the automations themselves follow one another too, and are still on their way.
    until(Duration::from_mins(1), "nobody waits any more", async || {
        (look.number("SELECT count(*) FROM automation_event_follower").await.expect("a number") == 0).then_some(())
    })
    .await
    .expect("every follower found its leader");
}
