//! Requests for slots of a full limit wait in line for those that come back.

use std::time::Duration;

use jepsen::client::Http;
use jepsen::wait::until;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::harness::{Cluster, Kind, Options, one_node, start};

const LIMITS: &str = "/v2/concurrency_limits/";

async fn acquire(http: &Http, names: &[&str], slots: i64) -> (u16, Value) {
    let body = json!({"names": names, "slots": slots, "mode": "concurrency"});
    http.post(&format!("{LIMITS}increment-with-lease"), &body).await.expect("an answer")
}

async fn give_back(http: &Http, lease: &Value) {
    let (status, body) = http.post(&format!("{LIMITS}decrement-with-lease"), &json!({"lease_id": lease})).await.expect("an answer");
    assert_eq!(status, 204, "{body}");
}

fn asks(http: &Http, slots: i64) -> JoinHandle<(u16, Value)> {
    let http = http.clone();
    tokio::spawn(async move { acquire(&http, &["a"], slots).await })
}

async fn wait_for(cluster: &Cluster, sql: &str, more_than: i64) {
    let mut look = cluster.database().look().await.expect("the database opens");
    let seen = until(Duration::from_secs(20), sql, async || (look.number(sql).await.ok()? > more_than).then_some(()));
    seen.await.expect("it is seen");
}

/// One request that finds a limit full has the slots that come back through `other` while it waits, and the one behind
/// it has none. False where the machine took longer than a request waits.
async fn first_come_first_served(cluster: &Cluster, http: &Http, other: &Http) -> bool {
    const REFUSED: &str = "SELECT sum(denied_slots) FROM concurrency_limit_v2";
    // Forgets what earlier ones were refused.
    let (status, body) = http.patch(&format!("{LIMITS}a"), &json!({"denied_slots": 0})).await.expect("an answer");
    assert_eq!(status, 204, "{body}");
    let (status, held) = acquire(http, &["a"], 3).await;
    assert_eq!(status, 200, "{held}");
    // A refusal is written down before the request stands in line.
    let first = asks(http, 3);
    wait_for(cluster, REFUSED, 0).await;
    let second = asks(http, 1);
    wait_for(cluster, REFUSED, 3).await;
    give_back(other, &held["lease_id"]).await;
    let (status, taken) = first.await.expect("it ends");
    let (after, body) = second.await.expect("it ends");
    if status == 200 {
        assert_eq!((after, body), (423, json!({"detail": "Locked"})), "who is behind is served later");
        give_back(other, &taken["lease_id"]).await;
    } else if after == 200 {
        give_back(other, &body["lease_id"]).await;
    }
    status == 200
}

async fn slots_that_come_back_go_to_the_first_who_waits(cluster: Cluster, other: u64) {
    let (http, other) = (cluster.http(1), cluster.http(other));
    let (status, body) = http.post(LIMITS, &json!({"name": "a", "limit": 3})).await.expect("an answer");
    assert_eq!(status, 201, "{body}");
    for _ in 0..5 {
        if first_come_first_served(&cluster, &http, &other).await {
            return;
        }
    }
    panic!("no request was served while it waited");
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_come_back_go_to_the_first_who_waits_on_sqlite() {
    slots_that_come_back_go_to_the_first_who_waits(one_node(Kind::Sqlite).await, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_come_back_on_another_node_go_to_the_first_who_waits_on_postgres() {
    slots_that_come_back_go_to_the_first_who_waits(start(Options::new(2, Kind::Postgres)).await, 2).await;
}
