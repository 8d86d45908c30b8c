//! Actions of automations: done once, told by events, and no call to the world outside holds up another.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use serde_json::{Value, json};
use sqlx::Connection;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::harness::{Cluster, Kind, Options, eventually, start};

const WITHIN: Duration = Duration::from_secs(40);

/// What a receiver was sent: path, headers, body.
type Received = Arc<Mutex<Vec<(String, HeaderMap, String)>>>;

/// A receiver of calls; what begins with `/hang` is never answered.
async fn receiver() -> (String, Received) {
    let received = Received::default();
    let take = async |State(received): State<Received>, uri: Uri, headers: HeaderMap, body: String| {
        received.lock().await.push((uri.to_string(), headers, body));
        if uri.path().starts_with("/hang") {
            std::future::pending::<()>().await;
        }
        ([("x-answer", "yes"), ("x-prefect-secret", "no")], "taken")
    };
    let router = axum::Router::new().fallback(take).with_state(Arc::clone(&received));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}"), received)
}

/// An automation as the trigger engine hands it over, with one action.
fn triggered(id: Uuid, action: &Value, event: &Value, automation: Uuid) -> Value {
    let trigger = json!({
        "type": "event", "id": Uuid::new_v4(), "match": {}, "match_related": {}, "after": [], "expect": ["x"], "for_each": [],
        "posture": "Reactive", "threshold": 1, "within": 0.0,
    });
    let at = chrono::Utc::now().to_rfc3339();
    json!({
        "automation": {
            "id": automation, "created": at, "updated": at, "name": "tells", "description": "", "enabled": true, "tags": [],
            "trigger": trigger, "actions": [action], "actions_on_trigger": [], "actions_on_resolve": [],
        },
        "id": id, "firing": null, "triggered": at, "triggering_labels": {}, "triggering_event": event, "action": action,
        "action_index": 0, "automation_triggered_event_id": Uuid::nil(),
    })
}

/// Puts actions where a transaction of the trigger engine puts them.
async fn hand_over(cluster: &Cluster, actions: &[Value]) {
    let long_ago = chrono::Utc::now() - chrono::TimeDelta::minutes(1);
    let url = cluster.database().url().to_owned();
    if let Some(path) = url.strip_prefix("sqlite:///") {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).busy_timeout(WITHIN);
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await.expect("it opens");
        for action in actions {
            sqlx::query("INSERT INTO praetor_outbox (id, stream, event, created) VALUES (?, 'actions', ?, ?)")
                .bind(action["id"].as_str())
                .bind(action.to_string())
                .bind(long_ago.format("%Y-%m-%d %H:%M:%S%.6f").to_string())
                .execute(&mut connection)
                .await
                .expect("inserted");
        }
    } else {
        let mut connection = cluster.database().connect().await.expect("it answers");
        for action in actions {
            sqlx::query("INSERT INTO praetor.outbox (id, stream, event, created) VALUES ($1, 'actions', $2, $3)")
                .bind(action["id"].as_str().and_then(|id| Uuid::parse_str(id).ok()))
                .bind(sqlx::types::Json(action))
                .bind(long_ago)
                .execute(&mut connection)
                .await
                .expect("inserted");
        }
    }
}

async fn post(cluster: &Cluster, path: &str, body: Value) -> Value {
    let (status, answer) = cluster.http(1).post(path, &body).await.expect("it answers");
    assert!((200..300).contains(&status), "{path}: {status} {answer}");
    answer
}

async fn get(cluster: &Cluster, path: &str) -> Value {
    cluster.http(1).get(path).await.expect("it answers").1
}

/// The event that tells the outcome of an invocation.
async fn outcome(cluster: &Cluster, id: Uuid) -> Value {
    let filter = json!({"filter": {"event": {"name": ["prefect.automation.action.executed", "prefect.automation.action.failed"]}}});
    let found = std::cell::RefCell::new(Value::Null);
    eventually(WITHIN, "the outcome is told", async || {
        let page = post(cluster, "/events/filter", filter.clone()).await;
        let of_it: Vec<Value> =
            page["events"].as_array().into_iter().flatten().filter(|event| event["payload"]["invocation"] == json!(id)).cloned().collect();
        assert!(of_it.len() <= 1, "it is told twice: {of_it:?}");
        match of_it.into_iter().next() {
            Some(event) => {
                *found.borrow_mut() = event;
                true
            }
            None => false,
        }
    })
    .await;
    found.into_inner()
}

async fn block(cluster: &Cluster, slug: &str, data: Value) -> Value {
    if slug == "webhook" {
        // The server registers it after its start.
        eventually(WITHIN, "the type is there", async || get(cluster, "/block_types/slug/webhook").await["id"].is_string()).await;
    }
    let types = get(cluster, &format!("/block_types/slug/{slug}")).await;
    let (type_id, schema_id) = if let Some(id) = types["id"].as_str() {
        let schemas = post(cluster, "/block_schemas/filter", json!({"block_schemas": {"block_type_id": {"any_": [id]}}})).await;
        (json!(id), schemas[0]["id"].clone())
    } else {
        let made = post(cluster, "/block_types/", json!({"name": slug, "slug": slug})).await;
        let fields = json!({"title": slug, "type": "object", "properties": {"url": {"type": "string"}}, "block_type_slug": slug});
        let schema =
            post(cluster, "/block_schemas/", json!({"fields": fields, "block_type_id": made["id"], "capabilities": ["notify"]})).await;
        (made["id"].clone(), schema["id"].clone())
    };
    let name = format!("b-{}", Uuid::new_v4());
    post(cluster, "/block_documents/", json!({"name": name, "data": data, "block_schema_id": schema_id, "block_type_id": type_id})).await
}

async fn actions_are_done_and_told(kind: Kind) {
    let cluster = start(Options::new(1, kind)).await;
    let (url, received) = receiver().await;
    let flow = post(&cluster, "/flows/", json!({"name": "f"})).await;
    let deployment = post(&cluster, "/deployments/", json!({"name": "d", "flow_id": flow["id"]})).await;
    let pool = post(&cluster, "/work_pools/", json!({"name": "p", "type": "process"})).await;
    let run = post(&cluster, "/flow_runs/", json!({"flow_id": flow["id"], "state": {"type": "RUNNING"}})).await;
    let webhook = block(&cluster, "webhook", json!({"method": "POST", "url": format!("{url}/hook"), "headers": {"X-A": "b"}})).await;
    let custom = json!({"name": "n", "url": format!("{url}/note"), "json_data": {"title": "{{subject}}", "text": "{{body}}"}});
    let notification = block(&cluster, "custom-webhook", custom).await;
    let event = json!({
        "occurred": chrono::Utc::now().to_rfc3339(), "received": chrono::Utc::now().to_rfc3339(), "event": "x", "id": Uuid::new_v4(),
        "follows": null, "payload": {"n": 7, "name": "fox"},
        "resource": {"prefect.resource.id": format!("prefect.flow-run.{}", run["id"].as_str().expect("an id"))},
        "related": [{
            "prefect.resource.id": format!("prefect.deployment.{}", deployment["id"].as_str().expect("an id")),
            "prefect.resource.role": "deployment",
        }],
    });
    let automation = Uuid::new_v4();
    let parameters = json!({"n": "{{ event.payload.n }}", "hi": "Hi {{ event.payload.name }}", "plain": [1]});
    let actions = [
        json!({"type": "do-nothing"}),
        json!({"type": "pause-deployment", "source": "inferred"}),
        json!({"type": "run-deployment", "source": "selected", "deployment_id": deployment["id"], "parameters": parameters, "schedule_after": 60.0}),
        json!({"type": "change-flow-run-state", "state": "FAILED", "name": "Odd", "message": null, "force": false}),
        json!({"type": "pause-work-pool", "source": "selected", "work_pool_id": pool["id"]}),
        json!({"type": "resume-flow-run"}),
        json!({"type": "pause-deployment", "source": "selected", "deployment_id": Uuid::nil()}),
        json!({"type": "pause-work-queue", "source": "inferred"}),
        json!({"type": "call-webhook", "block_document_id": webhook["id"], "payload": "{\"run\": \"{{ flow_run.name }}\"}"}),
        json!({"type": "send-notification", "block_document_id": notification["id"], "subject": "{{ automation.name }}", "body": "{{ event.payload.n + 1 }}"}),
        json!({"type": "send-notification", "block_document_id": notification["id"], "subject": "s", "body": "{{ 1 / 0 }}"}),
        json!({"type": "call-webhook", "block_document_id": notification["id"], "payload": ""}),
    ];
    let ids: Vec<Uuid> = actions.iter().map(|_| Uuid::new_v4()).collect();
    let handed: Vec<Value> = ids.iter().zip(&actions).map(|(id, action)| triggered(*id, action, &event, automation)).collect();
    hand_over(&cluster, &handed).await;
    let mut told = Vec::new();
    for id in &ids {
        told.push(outcome(&cluster, *id).await);
    }
    let words: Vec<&str> =
        told.iter().map(|event| event["event"].as_str().and_then(|name| name.rsplit('.').next()).unwrap_or("")).collect();
    assert_eq!(
        words,
        [
            "executed", "executed", "executed", "executed", "executed", "failed", "failed", "failed", "executed", "executed", "failed",
            "failed"
        ],
        "{told:#?}"
    );
    let reason = |index: usize| told[index]["payload"]["reason"].as_str().unwrap_or_default().to_owned();
    assert_eq!(reason(5), "Failed to resume flow run: Cannot resume a flow run that is not paused.");
    assert_eq!(reason(6), "Unexpected status from 'pause-deployment' action: 404");
    assert_eq!(reason(7), "No work queue could be inferred");
    assert!(reason(10).starts_with("Template rendering failed"), "{}", reason(10));
    assert_eq!(told[10]["payload"]["template_source"], "{{ 1 / 0 }}");
    assert_eq!(reason(11), "The referenced block was not a webhook block");

    // The effects, and what is told of them.
    assert_eq!(get(&cluster, &format!("/deployments/{}", deployment["id"].as_str().expect("an id"))).await["paused"], true);
    let runs = post(&cluster, "/flow_runs/filter", json!({"deployments": {"id": {"any_": [deployment["id"]]}}})).await;
    assert_eq!(runs.as_array().map(Vec::len), Some(1), "{runs}");
    assert_eq!(runs[0]["parameters"], json!({"n": 7, "hi": "Hi fox", "plain": [1]}));
    assert_eq!(runs[0]["created_by"], json!({"id": automation, "type": "AUTOMATION", "display_value": "tells"}));
    assert_eq!(runs[0]["idempotency_key"], format!("automation {automation}, action 0, invocation {}", ids[2]));
    assert_eq!(get(&cluster, &format!("/flow_runs/{}", run["id"].as_str().expect("an id"))).await["state_name"], "Odd");
    assert_eq!(get(&cluster, "/work_pools/p").await["is_paused"], true);
    assert_eq!(
        told[2]["related"].as_array().expect("related").iter().map(|one| one["prefect.resource.role"].clone()).collect::<Vec<_>>(),
        [json!("target"), json!("flow-run"), json!("automation-triggered-event"), json!("triggering-event")]
    );
    assert_eq!(
        told[4]["resource"],
        json!({"prefect.resource.id": format!("prefect.automation.{automation}"), "prefect.resource.name": "tells",
            "prefect.trigger-type": "event", "prefect.posture": "Reactive"})
    );
    assert_eq!((&told[8]["payload"]["status_code"], &told[8]["payload"]["response_body"]), (&json!(200), &json!("taken")));
    assert_eq!(told[8]["payload"]["response_headers"]["x-answer"], "yes");
    assert!(told[8]["payload"]["response_headers"].get("x-prefect-secret").is_none());
    let filter = json!({"filter": {"event": {"name": ["prefect.automation.action.triggered"]}}});
    let began = post(&cluster, "/events/filter", filter).await;
    let first = began["events"].as_array().expect("events").iter().find(|event| event["id"] == told[1]["follows"]).expect("it is there");
    assert_eq!(first["follows"], event["id"]);

    let received = received.lock().await;
    assert_eq!(received.len(), 2, "{received:?}");
    for (path, headers, body) in received.iter() {
        let key = headers["idempotency-key"].to_str().expect("text").to_owned();
        match path.as_str() {
            "/hook" => {
                assert_eq!((key, headers["x-a"].as_bytes()), (ids[8].to_string(), b"b".as_slice()));
                assert_eq!(*body, json!({"run": run["name"]}).to_string().replace(':', ": "));
            }
            "/note" => {
                assert_eq!(key, ids[9].to_string());
                assert_eq!(serde_json::from_str::<Value>(body).expect("JSON"), json!({"title": "tells", "text": "8"}));
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_are_done_and_told_on_sqlite() {
    actions_are_done_and_told(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_are_done_and_told_on_postgres() {
    actions_are_done_and_told(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_hangs_holds_up_no_other() {
    let cluster = start(Options::new(1, Kind::Postgres).variable("PRAETOR_ACTIONS_TIMEOUT_SECONDS", "20")).await;
    let (url, received) = receiver().await;
    let hanging = block(&cluster, "webhook", json!({"url": format!("{url}/hang")})).await;
    let good = block(&cluster, "webhook", json!({"url": format!("{url}/good")})).await;
    let action = |block: &Value| json!({"type": "call-webhook", "block_document_id": block["id"], "payload": "x"});
    let hung: Vec<Value> = (0..50).map(|_| triggered(Uuid::new_v4(), &action(&hanging), &Value::Null, Uuid::nil())).collect();
    hand_over(&cluster, &hung).await;
    eventually(WITHIN, "the hanging ones are being made", async || {
        received.lock().await.iter().filter(|(path, ..)| path == "/hang").count() == 4
    })
    .await;
    let ids: Vec<Uuid> = (0..20).map(|_| Uuid::new_v4()).collect();
    let quick: Vec<Value> = ids.iter().map(|id| triggered(*id, &action(&good), &Value::Null, Uuid::nil())).collect();
    hand_over(&cluster, &quick).await;
    for id in &ids {
        assert_eq!(outcome(&cluster, *id).await["event"], "prefect.automation.action.executed");
    }
    let hangs = received.lock().await.iter().filter(|(path, ..)| path == "/hang").count();
    assert!(hangs <= 8, "{hangs} calls of the block that hangs were begun");
}
