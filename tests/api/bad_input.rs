//! Bad input gets the reference's status and shape, and nothing is written.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Cluster, EventsIn, Kind, Options, eventually, node_that_keeps_events, one_node, start};

async fn refused(cluster: &Cluster, path: &str, body: &str) -> (u16, Value) {
    let response = reqwest::Client::new()
        .post(format!("{}{path}", cluster.api(1)))
        .header("content-type", "application/json")
        .body(body.to_owned())
        .send()
        .await
        .expect("it answers");
    let status = response.status().as_u16();
    (status, response.json().await.expect("a JSON body"))
}

async fn bodies_are_refused_as_the_reference_does(kind: Kind) {
    let cluster = one_node(kind).await;
    for (path, body, found, at) in [
        ("/flows/", "{", "json_invalid", json!(null)),
        ("/flows/", "{}", "missing", json!(["body", "name"])),
        ("/flows/", r#"{"name": "a", "nonsense": 1}"#, "extra_forbidden", json!(["body", "nonsense"])),
        ("/flows/", r#"{"name": 5}"#, "string_type", json!(["body", "name"])),
        ("/flow_runs/", r#"{"flow_id": "no"}"#, "uuid_parsing", json!(["body", "flow_id"])),
        ("/variables/", r#"{"name": "Not Lower", "value": 1}"#, "value_error", json!(["body", "name"])),
    ] {
        let (status, answer) = refused(&cluster, path, body).await;
        assert_eq!(status, 422, "{path} {body}: {answer}");
        assert_eq!(answer["exception_message"], "Invalid request received.");
        let issue = &answer["exception_detail"][0];
        assert_eq!(issue["type"], found, "{path} {body}: {answer}");
        if !at.is_null() {
            assert_eq!(issue["loc"], at, "{path} {body}");
        }
    }
    let (status, answer) = refused(&cluster, "/flows/filter", r#"{"limit": 201}"#).await;
    assert_eq!((status, answer), (422, json!({"detail": "Invalid limit: must be less than or equal to 200."})));
    let (status, answer) = cluster.http(1).get("/flows/no-uuid").await.expect("it answers");
    assert_eq!((status, answer), (404, json!({"detail": "Not Found"})));
    let large = json!({"name": "x".repeat(11 * 1024 * 1024)}).to_string();
    assert_eq!(refused(&cluster, "/flows/", &large).await.0, 413);
    for path in ["/flows/count", "/flow_runs/count", "/variables/count"] {
        let (status, count) = cluster.http(1).post(path, &json!({})).await.expect("it answers");
        assert_eq!((status, count), (200, json!(0)), "{path}: something was written");
    }
}

#[tokio::test]
async fn bodies_are_refused_on_sqlite() {
    bodies_are_refused_as_the_reference_does(Kind::Sqlite).await;
}

#[tokio::test]
async fn bodies_are_refused_on_postgres() {
    bodies_are_refused_as_the_reference_does(Kind::Postgres).await;
}

#[tokio::test]
async fn parameters_of_runs_and_deployments_are_as_large_as_the_setting_allows() {
    let cluster = start(Options::new(1, Kind::Sqlite).variable("PREFECT_SERVER_API_MAX_PARAMETER_SIZE", 20)).await;
    let http = cluster.http(1);
    let made = async |path: &str, body: Value| http.post(path, &body).await.expect("it answers");
    let (_, flow) = made("/flows/", json!({"name": "f"})).await;
    let (fits, large) = (json!({"x": "y".repeat(12)}), json!({"x": "y".repeat(13)}));
    let deployment = |parameters: &Value| json!({"name": "d", "flow_id": flow["id"], "parameters": parameters});
    let (status, made_deployment) = made("/deployments/", deployment(&fits)).await;
    assert_eq!(status, 201, "{made_deployment}");
    let run_path = format!("/deployments/{}/create_flow_run", made_deployment["id"].as_str().expect("an id"));
    let run = |parameters: &Value| json!({"flow_id": flow["id"], "parameters": parameters});
    let (status, made_run) = made("/flow_runs/", run(&fits)).await;
    assert_eq!(status, 201, "{made_run}");
    let refused = |(status, answer): (u16, Value)| {
        let words = "Value error, Flow run parameters must be less than 20 bytes when serialized (got 21 bytes).";
        assert_eq!((status, &answer["exception_detail"][0]["msg"]), (422, &json!(words)), "{answer}");
    };
    refused(made("/deployments/", deployment(&large)).await);
    refused(made("/flow_runs/", run(&large)).await);
    refused(made(&run_path, json!({"parameters": large})).await);
    for (path, id) in [("deployments", &made_deployment["id"]), ("flow_runs", &made_run["id"])] {
        let path = format!("/{path}/{}", id.as_str().expect("an id"));
        refused(http.patch(&path, &json!({"parameters": large})).await.expect("it answers"));
        let (_, kept) = http.get(&path).await.expect("it answers");
        assert_eq!(kept["parameters"], fits);
    }
}

#[tokio::test]
async fn a_null_character_is_the_callers_mistake_on_postgres() {
    let cluster = one_node(Kind::Postgres).await;
    let http = cluster.http(1);
    let named = http.post("/flows/", &json!({"name": "f\u{0}"})).await.expect("it answers");
    let found = http.post("/flows/filter", &json!({"flows": {"name": {"any_": ["f\u{0}"]}}})).await.expect("it answers");
    let counted = http.post("/work_pools/count", &json!({"work_pools": {"type": {"any_": ["\u{0}"]}}})).await.expect("it answers");
    for (status, answer) in [named, found, counted] {
        assert_eq!(status, 422, "{answer}");
    }
    let (status, count) = http.post("/flows/count", &json!({})).await.expect("it answers");
    assert_eq!((status, count), (200, json!(0)), "something was written");
}

fn event(id: Uuid) -> Value {
    json!({
        "occurred": "2026-01-02T03:04:05Z", "event": "test.happened", "id": id,
        "resource": {"prefect.resource.id": "test.1"}, "related": [], "payload": {},
    })
}

#[tokio::test]
async fn a_malformed_event_closes_its_socket_and_loses_no_other() {
    let cluster = node_that_keeps_events(Kind::Sqlite).await;
    let (before, other) = (Uuid::new_v4(), Uuid::new_v4());
    let mut bad = EventsIn::connect(&cluster.api(1)).await.expect("connects");
    let mut good = EventsIn::connect(&cluster.api(1)).await.expect("connects");
    bad.send(&event(before)).await.expect("sent");
    bad.send(&json!({"event": "no resource"})).await.expect("sent");
    let closed = bad.confirm(Duration::from_secs(10)).await.expect_err("the socket is closed");
    assert!(closed.to_string().contains("invalid event"), "{closed:#}");
    good.send(&event(other)).await.expect("sent");
    good.confirm(Duration::from_secs(10)).await.expect("committed");
    let filter = json!({"filter": {"occurred": {"since": "2026-01-01T00:00:00Z", "until": "2026-02-01T00:00:00Z"}, "event": {"name": ["test.happened"]}}});
    eventually(Duration::from_secs(20), "both good events can be read", async || {
        let (_, page) = cluster.http(1).post("/events/filter", &filter).await.expect("it answers");
        let ids: Vec<String> =
            page["events"].as_array().into_iter().flatten().map(|event| event["id"].as_str().unwrap_or_default().to_owned()).collect();
        ids.len() == 2 && [before, other].iter().all(|id| ids.contains(&id.to_string()))
    })
    .await;
}
