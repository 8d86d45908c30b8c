//! `/livez`, `/readyz`, `/metrics`.

use std::process::{Command, Stdio};
use std::time::Duration;

use jepsen::ports::Port;

use crate::harness::{Http, Kind, PRAETOR, eventually, one_node};

#[tokio::test]
async fn a_ready_node_names_its_parts_and_its_metrics() {
    let node = one_node(Kind::Sqlite).await;
    let probe = Http::new(format!("http://{}", node.address(1)));
    let (status, body) = probe.get("/readyz?verbose").await.expect("an answer");
    let body = body.as_str().expect("text");
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("[+] database: ok"), "{body}");
    assert!(body.contains("[+] api: ok"), "{body}");
    assert_eq!(node.http(1).get("/health").await.expect("an answer").0, 200);
    let (status, metrics) = probe.get("/metrics").await.expect("an answer");
    let metrics = metrics.as_str().expect("text");
    assert_eq!(status, 200);
    for part in ["# TYPE praetor_http_connections gauge", "praetor_http_requests_total", "praetor_store_available 1"] {
        eventually(Duration::from_secs(10), part, async || {
            probe.get("/metrics").await.is_ok_and(|(_, text)| text.as_str().is_some_and(|text| text.contains(part)))
        })
        .await;
    }
    assert!(!metrics.contains("_id="), "an id is a label: {metrics}");
}

#[tokio::test]
async fn a_node_whose_database_is_away_lives_says_so_and_serves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let (port, nobody) = (Port::take().expect("a port"), Port::take().expect("a port"));
    let mut child = Command::new(PRAETOR)
        .args(["server", "start", "--exit-with-parent"])
        .arg(format!("--port={}", port.number()))
        .arg(format!("--database-url=postgresql://someone:secret@127.0.0.1:{}/prefect", nobody.number()))
        .env("PREFECT_HOME", directory.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let probe = Http::new(format!("http://127.0.0.1:{}", port.number()));
    eventually(Duration::from_secs(30), "the node names the database", async || {
        probe.get("/readyz").await.is_ok_and(|(status, body)| status == 503 && body.to_string().contains("[-] database: cannot open"))
    })
    .await;
    assert_eq!(probe.get("/livez").await.expect("an answer").0, 200);
    let (status, body) = probe.get("/api/health").await.expect("an answer");
    assert_eq!((status, body["exception_message"].as_str()), (503, Some("Service Unavailable")));
    let (_, body) = probe.get("/readyz").await.expect("an answer");
    assert!(!body.to_string().contains("secret"), "the password is shown: {body}");
    drop(child.stdin.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    assert!(!String::from_utf8_lossy(&output.stderr).contains("secret"), "the password is logged");
}
