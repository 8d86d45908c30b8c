//! A node that cannot do its part says so, and leaves it to those that can.

use std::time::Duration;

use jepsen::dev::Dev;
use serde_json::json;

use crate::harness::{Cluster, Http, Kind, Options, PRAETOR, eventually, start};

/// How long a service may stand still before another node takes over, with what a busy machine adds.
const HANDED_OVER_WITHIN: Duration = Duration::from_mins(1);

async fn readyz(cluster: &Cluster, id: u64) -> (u16, String) {
    let probe = Http::new(format!("http://{}", cluster.address(id)));
    probe.get("/readyz?verbose").await.map(|(status, body)| (status, body.as_str().unwrap_or_default().to_owned())).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_hangs_is_told_and_its_node_hands_the_services_over() {
    // One may not lead, so that it is known who does.
    let options = Options::new(3, Kind::Postgres).variable_of(1, "PRAETOR_SERVICES", false);
    let mut cluster = start(options.variable_of(2, "PRAETOR_FAILPOINT", "services.tick=hang")).await;
    if cluster.services_leader().await.expect("a services leader") == 3 {
        cluster.stop(3).await.expect("it stops");
        assert_eq!(cluster.services_leader().await.expect("a services leader"), 2);
        cluster.restart(3).await.expect("it starts");
    }
    let http = cluster.http(1);
    let (_, flow) = http.post("/flows/", &json!({"name": "f"})).await.expect("an answer");
    let due = (chrono::Utc::now() - chrono::Duration::hours(1)).to_rfc3339();
    let state = json!({"type": "SCHEDULED", "state_details": {"scheduled_time": due}});
    let (status, run) = http.post("/flow_runs/", &json!({"flow_id": flow["id"], "state": state})).await.expect("an answer");
    assert_eq!(status, 201, "{run}");

    eventually(HANDED_OVER_WITHIN, "the other node leads the services", async || {
        cluster.services_leader().await.is_ok_and(|leader| leader == 3)
    })
    .await;
    assert!(cluster.log(2).contains("another node is to lead the services"), "{}", cluster.log(2));
    let path = format!("/flow_runs/{}", run["id"].as_str().expect("an id"));
    eventually(Duration::from_secs(20), "the run is marked late there", async || {
        http.get(&path).await.is_ok_and(|(_, run)| run["state_name"] == "Late")
    })
    .await;
    // The node itself can serve again, and the one that leads tells how each service does.
    eventually(Duration::from_secs(20), "the node is ready again", async || readyz(&cluster, 2).await.0 == 200).await;
    // The run is late when the tick has committed, which is a moment before the tick is over.
    eventually(Duration::from_secs(20), "the new leader tells of the tick", async || {
        let (status, body) = readyz(&cluster, 3).await;
        status == 200 && body.contains("[+] late_runs: ok, last success 2")
    })
    .await;
    let status = cluster.status(1).await.expect("an answer");
    let late = status["services"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "late_runs")).expect("a line");
    assert_eq!(late["node"], 3, "{late}");
    assert!(late["last_success"].is_string() && late["error"].is_null() && late["behind_seconds"].as_f64() < Some(1.0), "{late}");
    let metrics = Http::new(format!("http://{}", cluster.address(3))).get("/metrics").await.expect("an answer").1;
    let metrics = metrics.as_str().expect("text");
    for name in
        ["praetor_service_last_success_timestamp_seconds", "praetor_service_tick_duration_seconds_count", "praetor_service_behind_seconds"]
    {
        assert!(metrics.contains(&format!("{name}{{service=\"late_runs\"}}")), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_raft_has_stopped_ends_and_says_why() {
    let options = Options::new(3, Kind::Postgres)
        .variable_of(2, "PRAETOR_FAILPOINT", "cluster.raft=stop")
        .allow_error("Raft has stopped")
        // What the others still ask of it until it has ended.
        .allow_error("raft stopped")
        .allow_error("failed to receive from RaftCore")
        .allow_error("node.watch_group");
    let mut cluster = Cluster::prepare(options.binary(PRAETOR)).await.expect("it is prepared");
    for id in cluster.ids() {
        cluster.spawn(id).expect("it starts");
    }
    let status = cluster.wait_exit(2, Duration::from_secs(90)).await.expect("it ends");
    assert!(!status.success(), "{status}");
    let log = cluster.log(2);
    assert!(log.contains("Raft has stopped") && log.contains("this node ends"), "{log}");
    for id in [1, 3] {
        cluster.wait_ready(id).await.expect("the others go on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_group_stops_at_once_and_without_a_warning() {
    let mut dev = Dev::start(Options::new(3, Kind::Sqlite).binary(PRAETOR)).await.expect("the group starts");
    let before = dev.log().lines().count();
    let took = dev.stop().await.expect("it stops");
    let log = dev.log();
    let since: Vec<&str> = log.lines().skip(before).collect();
    // A slow statement is the machine's.
    let warns = |line: &&&str| (line.contains(" WARN ") || line.contains(" ERROR ")) && !line.contains("slow statement");
    let warnings: Vec<&&str> = since.iter().filter(warns).collect();
    assert!(warnings.is_empty(), "{warnings:#?}");
    // Each node, and the front door.
    assert!(since.iter().filter(|line| line.trim_end().ends_with("stopped")).count() >= 4, "{since:#?}");
    println!("three nodes and their front door stopped within {:.2} s", took.as_secs_f64());
}
