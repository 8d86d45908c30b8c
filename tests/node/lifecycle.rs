//! From start to a clean exit.

use std::process::{Command, Stdio};
use std::time::Duration;

use jepsen::ports::Port;
use serde_json::json;

use crate::harness::{Http, Kind, PRAETOR, eventually, one_node};

async fn serves_and_stops(kind: Kind) {
    let mut node = one_node(kind).await;
    assert_eq!(node.http(1).get("/health").await.expect("an answer"), (200, json!(true)));
    assert_eq!(node.http(1).get("/ready").await.expect("an answer"), (200, json!({"message": "OK"})));
    let status = node.stop(1).await.expect("it ends");
    assert!(status.success(), "{status}: {}", node.log(1));
    assert!(node.log(1).trim_end().ends_with("stopped"), "{}", node.log(1));
}

#[tokio::test]
async fn a_node_on_sqlite_serves_and_stops_cleanly() {
    serves_and_stops(Kind::Sqlite).await;
}

#[tokio::test]
async fn a_node_on_postgres_serves_and_stops_cleanly() {
    serves_and_stops(Kind::Postgres).await;
}

#[tokio::test]
async fn a_killed_node_starts_again_on_what_it_left() {
    let mut node = one_node(Kind::Sqlite).await;
    let (status, body) = node.http(1).post("/variables/", &json!({"name": "kept", "value": 1})).await.expect("an answer");
    assert_eq!(status, 201, "{body}");
    node.kill(1).expect("it ran");
    node.restart(1).await.expect("it starts again");
    let (status, body) = node.http(1).get("/variables/name/kept").await.expect("an answer");
    assert_eq!((status, &body["value"]), (200, &json!(1)));
}

#[tokio::test]
async fn a_node_does_not_outlive_its_parent_when_told_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let port = Port::take().expect("a port");
    let mut child = Command::new(PRAETOR)
        .args(["server", "start", "--exit-with-parent"])
        .arg(format!("--port={}", port.number()))
        .env("PREFECT_HOME", directory.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let http = Http::new(format!("http://127.0.0.1:{}", port.number()));
    eventually(Duration::from_secs(30), "the node is ready", async || matches!(http.get("/readyz").await, Ok((200, _)))).await;
    drop(child.stdin.take());
    eventually(Duration::from_secs(20), "the node ends", async || child.try_wait().expect("a status").is_some()).await;
}
