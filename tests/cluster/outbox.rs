//! A node killed between the commit of a change and the publishing of its event, or between that and forgetting it in
//! the outbox: the event takes effect once all the same.

use std::time::Duration;

use jepsen::cluster::killed_by;
use jepsen::database::Look;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{eventually, three_nodes};

const FAILPOINT: &str = "PRAETOR_FAILPOINT";
const EVENT: &str = "prefect.flow-run.Pending";

async fn number(look: &mut Look, sql: &str) -> i64 {
    look.number(sql).await.expect("the database answers")
}

/// Kills a node at `failpoint`, by a change that makes an event, and watches what becomes of the event.
async fn an_event_survives(failpoint: &str, published_before_the_kill: bool) {
    let mut cluster = three_nodes().await;
    let mut look = cluster.database().look().await.expect("the database opens");
    // Of no role, so that only the request meets the failpoint.
    let services = cluster.services_leader().await.expect("a services leader");
    let leader = cluster.leader().await.expect("a leader");
    let victim = cluster.ids().into_iter().find(|id| ![leader, services].contains(id)).expect("three nodes");
    cluster.stop(victim).await.expect("it stops");
    cluster.set_variable(victim, FAILPOINT, Some(&format!("{failpoint}=kill")));
    cluster.restart(victim).await.expect("it starts");

    let other = cluster.http(leader);
    let (status, flow) = other.post("/flows/", &json!({"name": "outbox"})).await.expect("an answer");
    assert_eq!(status, 201, "{flow}");
    let run = json!({"flow_id": flow["id"], "name": "left-behind", "state": {"type": "PENDING", "name": "Pending"}});
    // The node dies before, amid or after its answer.
    drop(cluster.http(victim).post("/flow_runs/", &run).await);
    let ended = cluster.wait_exit(victim, Duration::from_secs(10)).await.expect("it dies");
    assert!(killed_by(ended, Signal::SIGKILL), "{ended}: {}", cluster.log(victim));

    assert_eq!(number(&mut look, "SELECT count(*) FROM flow_run WHERE name = 'left-behind'").await, 1, "the change was committed");
    if !published_before_the_kill {
        // The sweeper leaves a row to its own node for some seconds, so this is before its time.
        assert_eq!(number(&mut look, "SELECT count(*) FROM praetor.outbox").await, 1, "the event waits in the outbox");
        assert_eq!(number(&mut look, &format!("SELECT count(*) FROM events WHERE event = '{EVENT}'")).await, 0);
    }
    eventually(Duration::from_secs(20), "the outbox is swept", async || {
        number(&mut look, "SELECT count(*) FROM praetor.outbox").await == 0
    })
    .await;
    let recorded = format!("SELECT count(*) FROM events WHERE event = '{EVENT}' AND resource_id LIKE 'prefect.flow-run.%'");
    eventually(Duration::from_secs(20), "the event is recorded", async || number(&mut look, &recorded).await == 1).await;

    // On the stream, too, it stands once: what is published after it gets the next place but one at most.
    cluster.set_variable(victim, FAILPOINT, None);
    cluster.restart(victim).await.expect("it comes back");
    let streams = cluster.status(leader).await.expect("an answer");
    let events = streams["streams"].as_array().and_then(|all| all.iter().find(|stream| stream["name"] == "events")).expect("the stream");
    assert_eq!(events["last"].as_i64(), Some(number(&mut look, "SELECT count(*) FROM events").await), "published once: {events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_survives_a_kill_between_commit_and_publish() {
    an_event_survives("outbox.after_commit", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_takes_effect_once_after_a_kill_between_publish_and_forget() {
    an_event_survives("outbox.after_publish", true).await;
}
