//! The published process worker at one node, a deployment made and run through another: over the worker's channel, which
//! it does not fall back from, and which tells it of changes made anywhere.

use std::fs::File;
use std::time::Duration;

use jepsen::client::Http;
use serde_json::{Value, json};

use crate::harness::{Client, Cluster, eventually, three_nodes};

const WITHIN: Duration = Duration::from_mins(3);

/// How often node `id` answered requests of a method to a route.
async fn answered(cluster: &Cluster, id: u64, method: &str, route: &str) -> u64 {
    let url = format!("http://{}/metrics", cluster.address(id));
    let text = reqwest::get(url).await.expect("an answer").text().await.expect("a text");
    let counts = text.lines().filter(|line| {
        // The route is told with the base path before it.
        let labels = [format!("{route}\""), format!("method=\"{method}\"")];
        line.starts_with("praetor_http_requests_total{") && labels.iter().all(|label| line.contains(label))
    });
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

async fn state(http: &Http, run: &str) -> Option<String> {
    let (_, run) = http.get(&format!("/flow_runs/{run}")).await.ok()?;
    run["state_name"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_worker_of_one_node_runs_what_another_node_is_asked_for_over_its_channel() {
    let cluster = three_nodes().await;
    let (near, far) = (cluster.http(1), Client::new(&cluster.api(3)));
    let client = Client::new(&cluster.api(1));
    // A year apart: the schedule does not interfere.
    let mut script = client.script("cluster/scheduled.py", &["channel-pool", "31536000"]);
    let told = script.line().await;
    script.success().await;
    let deployment = told["deployment"].as_str().expect("an id");
    let log = far.home().join("worker.log");
    let output = File::create(&log).expect("a log");
    let mut worker = far
        .prefect(&["worker", "start", "--type", "process", "--pool", "channel-pool"])
        .env("PRAETOR_TEST_RUNS", far.home().join("runs"))
        .env("PREFECT_WORKER_QUERY_SECONDS", "1")
        .env("PREFECT_WORKER_HEARTBEAT_SECONDS", "2")
        .env("PREFECT_LOGGING_LEVEL", "DEBUG")
        .stdout(output.try_clone().expect("a log"))
        .stderr(output)
        .spawn()
        .expect("the worker starts");
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually(WITHIN, "the worker is online", async || {
        let listed = near.post("/work_pools/channel-pool/workers/filter", &json!({})).await;
        listed.is_ok_and(|(_, workers)| workers[0]["status"] == "ONLINE")
    })
    .await;
    let (status, run): (u16, Value) =
        near.post(&format!("/deployments/{deployment}/create_flow_run"), &json!({})).await.expect("an answer");
    assert_eq!(status, 201, "{run}");
    let run = run["id"].as_str().expect("an id");
    eventually(WITHIN, "the run completes", async || state(&near, run).await.as_deref() == Some("Completed")).await;
    // The worker skips what its channel does for it.
    const SKIPPED: &str = "Skipping REST worker heartbeat because the worker channel is healthy.";
    eventually(WITHIN, "the worker's heartbeats go over the channel", async || said().matches(SKIPPED).count() >= 2).await;
    let heartbeats = answered(&cluster, 3, "POST", "/work_pools/{name}/workers/heartbeat").await;
    let channels = answered(&cluster, 3, "GET", "/work_pools/{name}/workers/connect").await;
    let polls = answered(&cluster, 3, "POST", "/work_pools/{name}/get_scheduled_flow_runs").await;
    assert!(polls > 0, "runs are asked for by REST, so such requests are counted");
    println!("the worker of node 3 ran the flow; {channels} channel opened, {heartbeats} heartbeats by REST");
    assert_eq!((channels, heartbeats), (1, 0), "{}", said());
    assert!(!said().contains("REST fallback is active") && !said().contains("Worker channel disabled"), "{}", said());

    // A pool that is paused through another node: the worker hears of it and its heartbeats go on.
    let (status, _) = near.patch("/work_pools/channel-pool", &json!({"concurrency_limit": 7})).await.expect("an answer");
    assert_eq!(status, 204);
    let before = said().matches(SKIPPED).count();
    eventually(WITHIN, "the channel goes on", async || said().matches(SKIPPED).count() > before + 1).await;
    assert_eq!(answered(&cluster, 3, "GET", "/work_pools/{name}/workers/connect").await, 1, "{}", said());
    worker.kill().await.expect("it can be ended");
}
