//! kill -9 of the Raft leader, of the services leader and of a follower, while a flow runs and events stream: the flow
//! completes, its task runs are recorded, no confirmed event is lost, and the killed node comes back and catches up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jepsen::client::EventsIn;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Client, Cluster, Kind, Options, eventually, start, until};

/// Events between two confirmations.
const BATCH: usize = 25;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Leader,
    ServicesLeader,
    Follower,
}

/// Node 1, which founds the group and leads it at first, may not run the services: the two leaders are two nodes.
async fn group() -> Cluster {
    start(Options::new(3, Kind::Postgres).variable_of(1, "PRAETOR_SERVICES", false)).await
}

/// Streams events into a node until told to stop; gives the ids of those that were confirmed.
pub async fn stream(api: String, stop: Arc<AtomicBool>, confirmed: Arc<AtomicU64>) -> anyhow::Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    let mut socket = EventsIn::connect(&api).await?;
    while !stop.load(Ordering::Relaxed) {
        let ids: Vec<String> = (0..BATCH).map(|_| Uuid::new_v4().to_string()).collect();
        for id in &ids {
            socket.send(&event(id)).await?;
        }
        socket.confirm(Duration::from_secs(20)).await?;
        all.extend(ids);
        confirmed.store(all.len() as u64, Ordering::Relaxed);
    }
    let last = Uuid::new_v4().to_string();
    socket.send(&event(&last)).await?;
    socket.close(Duration::from_secs(20)).await?;
    all.insert(last);
    Ok(all)
}

/// Waits until all that were confirmed are in the database, and nothing twice. Gives how many there are.
pub async fn all_there_once(cluster: &Cluster, confirmed: &BTreeSet<String>) -> usize {
    let mut look = cluster.database().look().await.expect("the database opens");
    until(Duration::from_secs(20), "all confirmed events are in the database", async || {
        let ids = look.texts("SELECT CAST(id AS TEXT) FROM events WHERE event = 'praetor.failover'").await.expect("an answer");
        let distinct: BTreeSet<String> = ids.iter().cloned().collect();
        assert_eq!(ids.len(), distinct.len(), "an event is there twice");
        confirmed.is_subset(&distinct).then_some(ids.len())
    })
    .await
    .expect("no confirmed event is lost")
}

fn event(id: &str) -> Value {
    json!({
        "id": id,
        "occurred": chrono::Utc::now().to_rfc3339(),
        "event": "praetor.failover",
        "resource": {"prefect.resource.id": "praetor.failover"},
        "related": [], "payload": {"filler": "x".repeat(300)}, "follows": null,
    })
}

async fn survives_the_kill_of(role: Role) {
    let mut cluster = group().await;
    let (leader, services) = (cluster.leader().await.expect("a leader"), cluster.services_leader().await.expect("a services leader"));
    assert_ne!(leader, services, "the test wants two nodes for the two roles");
    let follower = cluster.ids().into_iter().find(|id| ![leader, services].contains(id)).expect("three nodes");
    let victim = match role {
        Role::Leader => leader,
        Role::ServicesLeader => services,
        Role::Follower => follower,
    };
    let witness = cluster.ids().into_iter().find(|id| *id != victim).expect("three nodes");
    let mut look = cluster.database().look().await.expect("the database opens");

    let client = Client::new(&cluster.api(witness));
    let mut script = client.script("compat/flow.py", &[]);
    let (stop, confirmed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let streaming = tokio::spawn(stream(cluster.api(witness), Arc::clone(&stop), Arc::clone(&confirmed)));
    let running = "SELECT count(*) FROM task_run_state WHERE type = 'RUNNING'";
    eventually(Duration::from_mins(1), "tasks run", async || look.number(running).await.expect("an answer") > 0).await;

    let before = confirmed.load(Ordering::Relaxed);
    let index = cluster.status(victim).await.expect("an answer")["applied_index"].as_u64().expect("a number");
    cluster.kill(victim).expect("it ran");
    let told = script.line().await;
    eventually(Duration::from_secs(20), "events are confirmed again", async || confirmed.load(Ordering::Relaxed) > before + BATCH as u64)
        .await;
    match role {
        Role::Leader => assert_ne!(cluster.leader().await.expect("a new leader"), victim),
        Role::ServicesLeader => assert_ne!(cluster.services_leader().await.expect("a new services leader"), victim),
        Role::Follower => assert_eq!(cluster.leader().await.expect("the same leader"), leader),
    }
    script.go_on().await;
    script.success().await;
    assert_eq!(told["result"], json!(380));
    let done = format!(
        "SELECT count(*) FROM task_run WHERE state_type = 'COMPLETED' AND CAST(flow_run_id AS TEXT) IN ('{}', '{}')",
        told["flow_run"].as_str().expect("an id"),
        told["subflow_run"].as_str().expect("an id")
    );
    eventually(Duration::from_secs(10), "all task runs are recorded", async || look.number(done.as_str()).await.expect("an answer") == 22)
        .await;

    cluster.restart(victim).await.expect("it comes back");
    eventually(Duration::from_secs(20), "it has caught up", async || {
        let of = async |id| cluster.status(id).await.ok().and_then(|status| status["applied_index"].as_u64());
        let (Some(back), Some(others)) = (of(victim).await, of(witness).await) else { return false };
        back > index && back + 50 > others
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let confirmed = streaming.await.expect("the stream ends").expect("the socket of a surviving node stays");
    let there = all_there_once(&cluster, &confirmed).await;
    println!("{role:?}: node {victim} of 3 was killed; {} confirmed events, {there} in the database", confirmed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_and_a_stream_survive_the_kill_of_the_raft_leader() {
    survives_the_kill_of(Role::Leader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_and_a_stream_survive_the_kill_of_the_services_leader() {
    survives_the_kill_of(Role::ServicesLeader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_and_a_stream_survive_the_kill_of_a_follower() {
    survives_the_kill_of(Role::Follower).await;
}
