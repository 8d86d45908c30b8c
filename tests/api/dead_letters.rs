//! Dead letters: what a consumer gives up on is kept, can be looked at, replayed once, and deleted.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Cluster, Kind, Options, PRAETOR, eventually, start};

const WITHIN: Duration = Duration::from_secs(30);

/// An event of a task run with a state of no known type: the recorder cannot make anything of it.
fn poison(id: Uuid, state: &str) -> Value {
    let run = Uuid::new_v4();
    json!({
        "occurred": "2026-01-02T03:04:05Z", "event": "prefect.task-run.Running", "id": id,
        "resource": {"prefect.resource.id": format!("prefect.task-run.{run}"), "prefect.orchestration": "client"},
        "related": [],
        "payload": {
            "validated_state": {"type": state, "name": "Running"},
            "task_run": {"name": "t", "task_key": "k", "dynamic_key": "0"},
        },
    })
}

async fn listed(cluster: &Cluster, query: &str) -> Value {
    let (status, page) = cluster.http(1).get(&format!("/cluster/dead-letters{query}")).await.expect("it answers");
    assert_eq!(status, 200, "{page}");
    page
}

async fn kept_looked_at_replayed_and_deleted(kind: Kind) {
    let cluster = start(Options::new(1, kind).allow_error("dead letter")).await;
    let ids = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()];
    let events: Vec<Value> = ids.iter().map(|id| poison(*id, "NONSENSE")).collect();
    let (status, _) = cluster.http(1).post("/events", &json!(events)).await.expect("it answers");
    assert_eq!(status, 204);
    eventually(WITHIN, "all three are dead letters", async || listed(&cluster, "").await["total"] == 3).await;

    let page = listed(&cluster, "?group=task-run-recorder&limit=2").await;
    assert_eq!((&page["total"], page["dead_letters"].as_array().map(Vec::len)), (&json!(3), Some(2)));
    let letter = &page["dead_letters"][0];
    assert_eq!((&letter["group"], &letter["stream"], &letter["attempts"]), (&json!("task-run-recorder"), &json!("events"), &json!(3)));
    assert!(letter["error"].as_str().is_some_and(|error| error.contains("no usable state")), "{letter}");
    assert_eq!(letter.get("message"), None, "lists are without messages");
    assert_eq!(listed(&cluster, "?group=nobody").await["total"], 0);

    let (status, whole) = cluster.http(1).get(&format!("/cluster/dead-letters/{}", ids[0])).await.expect("it answers");
    assert_eq!((status, &whole[0]["message"]["id"]), (200, &json!(ids[0])));
    let (status, _) = cluster.http(1).get(&format!("/cluster/dead-letters/{}", Uuid::new_v4())).await.expect("it answers");
    assert_eq!(status, 404);

    // One that is as bad as before is tried once more and stays.
    let (status, asked) = cluster.http(1).post(&format!("/cluster/dead-letters/{}/replay", ids[0]), &json!({})).await.expect("it answers");
    assert_eq!((status, asked), (200, json!({"asked": 1})));
    eventually(WITHIN, "it has failed again", async || {
        let (_, whole) = cluster.http(1).get(&format!("/cluster/dead-letters/{}", ids[0])).await.expect("it answers");
        whole[0]["attempts"] == 4 && whole[0]["replay_asked"].is_null()
    })
    .await;

    // The command line says the same.
    let api = cluster.api(1);
    let printed = |arguments: Vec<String>| {
        let api = api.clone();
        async move {
            let output = tokio::process::Command::new(PRAETOR).args(&arguments).args(["--api-url", &api]).output().await.expect("it runs");
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("text")
        }
    };
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let table = printed(words("bus dead-letters --limit 2")).await;
    assert!(table.starts_with("2 of 3 dead letters\n") && table.contains("task-run-recorder"), "{table}");
    assert!(printed(words(&format!("bus dead-letters {}", ids[1]))).await.contains("NONSENSE"));
    let replayed = printed(words(&format!("bus replay {} --json", ids[1]))).await;
    assert_eq!(replayed.trim(), r#"{"asked":1}"#);
    let metrics = reqwest::get(format!("http://{}/metrics", cluster.address(1))).await.expect("it answers").text().await.expect("text");
    assert!(metrics.contains(r#"praetor_dead_letters_total{group="task-run-recorder"} 3"#), "the counter tells");

    let deleted = printed(words(&format!("bus dead-letters {} --delete --json", ids[2]))).await;
    assert_eq!(deleted.trim(), r#"{"deleted":1}"#);
    let (status, refused) = cluster.http(1).post("/cluster/dead-letters/delete", &json!({})).await.expect("it answers");
    assert_eq!((status, &refused["exception_detail"][0]["loc"]), (422, &json!(["body"])), "nothing is deleted by an empty wish");
    let (_, deleted) = cluster.http(1).post("/cluster/dead-letters/delete", &json!({"group": "task-run-recorder"})).await.expect("answer");
    assert_eq!(deleted, json!({"deleted": 2}));
    assert_eq!(listed(&cluster, "").await["total"], 0);
}

#[tokio::test]
async fn dead_letters_are_kept_on_sqlite() {
    kept_looked_at_replayed_and_deleted(Kind::Sqlite).await;
}

#[tokio::test]
async fn dead_letters_are_kept_on_postgres() {
    kept_looked_at_replayed_and_deleted(Kind::Postgres).await;
}

/// A letter whose cause is mended has its effect when it is replayed, once, and is gone.
#[tokio::test]
async fn a_replayed_letter_has_its_effect_once() {
    let cluster = start(Options::new(1, Kind::Postgres).allow_error("dead letter")).await;
    let (id, flow_run) = (Uuid::new_v4(), Uuid::new_v4());
    let mut event = poison(id, "NONSENSE");
    event["payload"]["validated_state"]["name"] = json!(flow_run.to_string());
    cluster.http(1).post("/events", &json!([event])).await.expect("it answers");
    eventually(WITHIN, "it is a dead letter", async || listed(&cluster, "").await["total"] == 1).await;
    // The operator mends the message.
    let mut connection = cluster.database().connect().await.expect("the database answers");
    let mended =
        "UPDATE praetor.dead_letter SET payload = convert_to(replace(convert_from(payload, 'UTF8'), 'NONSENSE', 'RUNNING'), 'UTF8')";
    sqlx::query(mended).execute(&mut connection).await.expect("mended");
    for _ in 0..3 {
        let (status, _) = cluster.http(1).post("/cluster/dead-letters/replay", &json!({"all": true})).await.expect("it answers");
        assert_eq!(status, 200);
    }
    eventually(WITHIN, "the letter is gone", async || listed(&cluster, "").await["total"] == 0).await;
    let (_, runs) = cluster.http(1).post("/task_runs/filter", &json!({})).await.expect("it answers");
    assert_eq!((runs.as_array().map(Vec::len), &runs[0]["state_type"]), (Some(1), &json!("RUNNING")), "{runs}");
    let mut look = cluster.database().look().await.expect("the database opens");
    assert_eq!(look.number("SELECT count(*) FROM task_run_state").await.expect("a number"), 1);
}
