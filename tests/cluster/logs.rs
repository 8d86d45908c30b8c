//! Log lines reach the subscribers of every node; who may have missed some is told.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Cluster, Kind, LogsOut, Options, start, until};

const WITHIN: Duration = Duration::from_secs(20);
/// Lines posted to each node.
const LINES: usize = 200;

async fn three_nodes() -> Cluster {
    let options = Options::new(3, Kind::Postgres)
        .variable("PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED", "true")
        .variable("PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED", "true");
    start(options).await
}

fn line(flow_run: Uuid, level: i32, message: &str) -> Value {
    json!({"name": "prefect.flow_runs", "level": level, "message": message, "timestamp": "2026-01-02T03:04:05.5Z", "flow_run_id": flow_run})
}

async fn post(cluster: &Cluster, node: u64, lines: &[Value]) {
    let (status, answer) = cluster.http(node).post("/logs/", &json!(lines)).await.expect("it answers");
    assert_eq!(status, 201, "{answer}");
}

/// Posts to `node` until the subscriber hears it: from then on it follows that node.
async fn hears(cluster: &Cluster, node: u64, flow_run: Uuid, subscriber: &mut LogsOut) {
    until(WITHIN, "the subscriber hears the node", async || {
        post(cluster, node, &[line(flow_run, 20, &format!("probe of {node}"))]).await;
        loop {
            match subscriber.next(Duration::from_millis(200)).await {
                Ok(frame) if frame["log"]["message"] == format!("probe of {node}") => return Some(()),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    })
    .await
    .expect("it hears");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_posted_to_any_node_reach_the_subscriber_of_another_once_and_in_order() {
    let cluster = three_nodes().await;
    let (flow_run, other) = (Uuid::new_v4(), Uuid::new_v4());
    let filter = json!({"level": {"ge_": 20}, "flow_run_id": {"any_": [flow_run]}});
    let mut subscriber = LogsOut::connect(&cluster.api(3), &filter).await.expect("it subscribes");
    for node in 1..=3 {
        hears(&cluster, node, flow_run, &mut subscriber).await;
    }
    for number in 0..LINES {
        for node in 1..=3 {
            let lines =
                [line(flow_run, 20, &format!("{node} {number}")), line(flow_run, 10, "below the level"), line(other, 40, "of another run")];
            post(&cluster, node, &lines).await;
        }
    }
    let mut heard: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    while heard.values().map(Vec::len).sum::<usize>() < 3 * LINES {
        let frame = subscriber.next(WITHIN).await.expect("a line comes");
        assert_eq!(frame["type"], "log");
        let log = &frame["log"];
        assert_eq!((&log["timestamp"], &log["flow_run_id"]), (&json!("2026-01-02T03:04:05.500000Z"), &json!(flow_run)));
        let message = log["message"].as_str().expect("text");
        if message.starts_with("probe") {
            continue;
        }
        let (node, number) = message.split_once(' ').expect("node and number");
        heard.entry(node.to_owned()).or_default().push(number.parse().expect("a number"));
    }
    for node in ["1", "2", "3"] {
        assert_eq!(heard[node], (0..LINES).collect::<Vec<_>>(), "lines of node {node}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_is_told_when_a_node_that_it_heard_dies() {
    let mut cluster = three_nodes().await;
    let flow_run = Uuid::new_v4();
    let mut subscriber = LogsOut::connect(&cluster.api(3), &json!({})).await.expect("it subscribes");
    hears(&cluster, 1, flow_run, &mut subscriber).await;
    cluster.kill(1).expect("it ran");
    let end = loop {
        match subscriber.next(WITHIN).await {
            Ok(frame) => assert!(frame["log"]["message"].as_str().is_some_and(|message| message.starts_with("probe")), "{frame}"),
            Err(end) => break end.to_string(),
        }
    };
    assert!(end.contains("1013") || end.contains("Again"), "{end}");
    let mut again = LogsOut::connect(&cluster.api(3), &json!({})).await.expect("it subscribes again");
    hears(&cluster, 2, flow_run, &mut again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_without_a_filter_is_refused() {
    let cluster = three_nodes().await;
    let mut subscriber = LogsOut::connect(&cluster.api(1), &json!({"nonsense": 1})).await.expect("it connects");
    let refused = subscriber.next(WITHIN).await.expect_err("it is closed").to_string();
    assert!(refused.contains("Invalid filter") && (refused.contains("1002") || refused.contains("Protocol")), "{refused}");
}
