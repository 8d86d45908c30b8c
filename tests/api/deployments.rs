//! Deployments as clients meet them.

use serde_json::{Value, json};

use crate::harness::{Kind, one_node};

#[tokio::test]
async fn a_run_has_each_tag_of_its_deployment_and_its_own_once() {
    let cluster = one_node(Kind::Sqlite).await;
    let http = cluster.http(1);
    let made = async |path: &str, body: Value| http.post(path, &body).await.expect("it answers").1;
    let flow = made("/flows/", json!({"name": "f"})).await;
    let deployment = made("/deployments/", json!({"name": "d", "flow_id": flow["id"], "tags": ["b", "b"]})).await;
    let path = format!("/deployments/{}/create_flow_run", deployment["id"].as_str().expect("an id"));
    let run = made(&path, json!({"tags": ["a", "b", "a"]})).await;
    assert_eq!(run["tags"], json!(["b", "a"]), "{run}");
}
