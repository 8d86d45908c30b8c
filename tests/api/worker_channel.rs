//! The channel of a work pool's worker: hello and ready, snapshots of the pool, heartbeats, cleanups, and how it ends.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::background_tasks::execute;
use crate::harness::{Cluster, Kind, Options, Socket, one_node, start};

/// How long something that has to come may take.
const SOON: Duration = Duration::from_secs(20);
/// How long something that must not come is waited for.
const A_WHILE: Duration = Duration::from_millis(1500);
const CANCELLING: &str = "cancelling_timeout_teardown.v1";

fn path(pool: &str) -> String {
    format!("/work_pools/{pool}/workers/connect")
}

fn frame(kind: &str, payload: &Value) -> Value {
    json!({"type": kind, "id": Uuid::new_v4(), "sent_at": "2026-01-01T00:00:00Z", "payload": payload})
}

/// A hello with some of its fields changed.
fn hello(changes: &Value) -> Value {
    let mut payload = json!({
        "consumer_id": Uuid::new_v4(),
        "worker_name": "worker",
        "worker_type": "process",
        "heartbeat_interval_seconds": 30,
        "supported_channel_versions": ["work_pool_worker_channel.v1"],
        "requested_capabilities": ["worker_heartbeat.v1", "work_pool_snapshot.v1", "cleanup_delivery.v1", "tea.v1"],
        "work_queue_names": [],
        "handled_cleanup_kinds": [CANCELLING],
        "max_cleanup_concurrency": 2,
        "create_pool_if_not_found": true,
        "default_base_job_template": {},
        "worker_metadata": null,
    });
    for (key, value) in changes.as_object().expect("an object") {
        payload[key] = value.clone();
    }
    frame("worker.hello.v1", &payload)
}

/// Connects and says hello; gives the socket and what it was answered.
async fn connect(api: &str, pool: &str, changes: &Value) -> (Socket, Value) {
    let mut socket = Socket::connect(api, &path(pool)).await.expect("it connects");
    socket.send(&hello(changes)).await.expect("it is sent");
    let ready = socket.next(SOON).await.expect("an answer");
    assert_eq!(ready["type"], "worker.ready.v1", "{ready}");
    (socket, ready)
}

async fn refused(api: &str, pool: &str, first: &Value) -> (u16, String) {
    let mut socket = Socket::connect(api, &path(pool)).await.expect("it connects");
    socket.send(first).await.expect("it is sent");
    socket.closed(SOON).await.expect("it is closed")
}

async fn serves_a_worker(kind: Kind) {
    let mut cluster = one_node(kind).await;
    let (api, http) = (cluster.api(1), cluster.http(1));
    let consumer = Uuid::new_v4();
    let (mut socket, ready) = connect(&api, "pool", &json!({"consumer_id": consumer})).await;
    let answer = &ready["payload"];
    let (_, pool) = http.get("/work_pools/pool").await.expect("an answer");
    let (_, queue) = http.get("/work_pools/pool/queues/default").await.expect("an answer");
    let expected = json!({
        "consumer_id": consumer,
        "worker_id": null,
        "selected_channel_version": "work_pool_worker_channel.v1",
        "effective_heartbeat_interval_seconds": 30,
        "accepted_capabilities": ["worker_heartbeat.v1", "work_pool_snapshot.v1", "cleanup_delivery.v1"],
        "rejected_capabilities": ["tea.v1"],
        "effective_max_cleanup_concurrency": 2,
        "resolved_work_queues": [{"id": queue["id"], "name": "default"}],
        "initial_snapshot": {"snapshot_sequence": 1, "reason": "initial", "work_pool": pool},
    });
    assert_eq!(answer, &expected);
    assert_eq!((pool["type"].as_str(), pool["status"].as_str()), (Some("process"), Some("READY")));
    let (_, listed) = http.post("/work_pools/pool/workers/filter", &json!({})).await.expect("an answer");
    assert_eq!((&listed[0]["name"], &listed[0]["status"]), (&json!("worker"), &json!("ONLINE")));

    // What a worker goes by is sent when it changes; a description it is not.
    http.patch("/work_pools/pool", &json!({"concurrency_limit": 5})).await.expect("an answer");
    let snapshot = socket.next(SOON).await.expect("a snapshot");
    assert_eq!(snapshot["type"], "work_pool.snapshot.v1");
    let told = &snapshot["payload"];
    assert_eq!((&told["snapshot_sequence"], &told["reason"]), (&json!(2), &json!("work_pool_updated")));
    let pool = &told["work_pool"];
    assert_eq!((&pool["concurrency_limit"], &pool["active_slots"]), (&json!(5), &json!(0)));
    http.patch("/work_pools/pool", &json!({"description": "nice"})).await.expect("an answer");
    assert!(socket.next(A_WHILE).await.is_err(), "nobody has to know at once");
    // A heartbeat finds it.
    let heartbeat = |consumer: Uuid| {
        frame("worker.heartbeat.v1", &json!({"consumer_id": consumer, "worker_name": "worker", "heartbeat_interval_seconds": 30}))
    };
    socket.send(&heartbeat(consumer)).await.expect("it is sent");
    let snapshot = socket.next(SOON).await.expect("a snapshot");
    let told = &snapshot["payload"];
    assert_eq!((&told["snapshot_sequence"], &told["reason"]), (&json!(3), &json!("heartbeat_reconciliation")));
    assert_eq!(told["work_pool"]["description"], "nice");
    socket.send(&heartbeat(consumer)).await.expect("it is sent");
    assert!(socket.next(A_WHILE).await.is_err(), "nothing has changed since");
    // Another worker's heartbeat is none of this one's.
    socket.send(&heartbeat(Uuid::new_v4())).await.expect("it is sent");
    assert_eq!(socket.closed(SOON).await.expect("closed"), (1002, "protocol_error".to_owned()));

    // A pool that is gone is nobody's.
    let (socket, _) = connect(&api, "pool", &json!({})).await;
    http.delete("/work_pools/pool").await.expect("an answer");
    assert_eq!(socket.closed(SOON).await.expect("closed"), (1008, "authorization_failed".to_owned()));

    // A node that stops says so; the worker comes again.
    let (socket, _) = connect(&api, "pool", &json!({})).await;
    let (stopped, closed) = tokio::join!(cluster.stop(1), socket.closed(SOON));
    stopped.expect("it stops");
    assert_eq!(closed.expect("closed").0, 1012);
}

#[tokio::test]
async fn a_worker_s_channel_serves_it_on_sqlite() {
    serves_a_worker(Kind::Sqlite).await;
}

#[tokio::test]
async fn a_worker_s_channel_serves_it_on_postgres() {
    serves_a_worker(Kind::Postgres).await;
}

#[tokio::test]
async fn a_worker_that_is_not_served_is_told_why() {
    let cluster = start(Options::new(1, Kind::Sqlite).variable("PREFECT_SERVER_API_AUTH_STRING", "admin:secret")).await;
    let url = format!("{}{}", cluster.api(1), path("pool"));
    let plain = reqwest::Client::new().get(url).header("connection", "upgrade").header("upgrade", "websocket");
    let plain = plain.header("sec-websocket-version", "13").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(plain.send().await.expect("an answer").status().as_u16(), 403, "the subprotocol is a must");
    let refusal = Socket::connect(&cluster.api(1), &path("pool")).await.err().expect("it is refused").to_string();
    assert!(refusal.contains("authentication_failed"), "{refusal}");
    drop(cluster);

    let cluster = one_node(Kind::Sqlite).await;
    let api = cluster.api(1);
    let protocol = (1002, "protocol_error".to_owned());
    let authorization = (1008, "authorization_failed".to_owned());
    let cases = [
        ("pool", json!({"type": "x"}), &protocol),
        ("pool", json!("no frame"), &protocol),
        ("pool", hello(&json!({"zzz": 1})), &protocol),
        ("pool", hello(&json!({"requested_capabilities": ["worker_heartbeat.v1"]})), &protocol),
        ("pool", hello(&json!({"worker_name": ""})), &protocol),
        ("pool", hello(&json!({"supported_channel_versions": ["v9"]})), &(1008, "unsupported_version".to_owned())),
        ("pool", hello(&json!({"create_pool_if_not_found": false})), &authorization),
        ("pool", hello(&json!({"work_queue_names": ["nope"]})), &authorization),
        ("prefect-pool", hello(&json!({})), &authorization),
        ("pool", hello(&json!({"default_base_job_template": {"variables": {}}})), &(1011, "transient_server_error".to_owned())),
    ];
    for (pool, first, expected) in cases {
        assert_eq!(&refused(&api, pool, &first).await, expected, "{first}");
    }
    let (status, _) = cluster.http(1).get("/work_pools/pool").await.expect("an answer");
    assert_eq!(status, 404, "no refusal leaves a pool behind");
}

/// Asks for cleanup as the service does that finds a run which takes too long to cancel.
async fn ask_for_cleanup(cluster: &Cluster, kind: Kind, pool: &Value, queue: &Value, id: Uuid) {
    let (table, now) = match kind {
        Kind::Postgres => ("praetor.cleanup_message", "now()"),
        Kind::Sqlite => ("praetor_cleanup_message", "strftime('%Y-%m-%d %H:%M:%f000', 'now')"),
    };
    let (pool, queue) = (pool.as_str().expect("an id"), queue.as_str().expect("an id"));
    let sql = format!(
        "INSERT INTO {table} (id, idempotency_key, work_pool_id, work_queue_id, kind, target, data, status, delivery_count, created, updated) \
         VALUES ('{id}', '{id}', '{pool}', '{queue}', '{CANCELLING}', '{{\"flow_run_id\": \"{id}\", \"infrastructure_pid\": \"host:1\"}}', '{{}}', \
         'open', 0, {now}, {now})"
    );
    execute(cluster, kind, &sql).await;
}

async fn operate(socket: &mut Socket, operation: &str, message: &Value, token: &Value) -> Value {
    let mut payload = json!({"message_id": message, "reservation_token": token});
    if operation == "release" {
        payload["reason"] = json!("busy");
    }
    let request = frame(&format!("cleanup.{operation}.v1"), &payload);
    socket.send(&request).await.expect("it is sent");
    let result = socket.next(SOON).await.expect("a result");
    assert_eq!(result["type"], "cleanup.operation_result.v1", "{result}");
    let told = result["payload"].clone();
    assert_eq!((&told["request_frame_id"], &told["message_id"]), (&request["id"], message));
    assert_eq!(told["operation"], operation);
    told
}

async fn message(socket: &mut Socket) -> Value {
    let message = socket.next(SOON).await.expect("a message");
    assert_eq!(message["type"], "cleanup.message.v1", "{message}");
    message["payload"].clone()
}

async fn delivers_cleanups(kind: Kind) {
    let options = Options::new(1, kind)
        .variable("PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_LEASE_SECONDS", "3")
        .variable("PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS", "0.2");
    let cluster = start(options).await;
    let (api, http) = (cluster.api(1), cluster.http(1));
    let (_, pool) = http.post("/work_pools/", &json!({"name": "pool", "type": "process"})).await.expect("an answer");
    let (_, other) = http.post("/work_pools/", &json!({"name": "other", "type": "process"})).await.expect("an answer");
    let id = Uuid::new_v4();
    ask_for_cleanup(&cluster, kind, &pool["id"], &pool["default_queue_id"], id).await;

    // One that takes no cleanups is sent none, and may do nothing about them.
    let takes_none = json!({"requested_capabilities": ["worker_heartbeat.v1", "work_pool_snapshot.v1"], "handled_cleanup_kinds": [], "max_cleanup_concurrency": 0});
    let (mut none, ready) = connect(&api, "pool", &takes_none).await;
    assert_eq!(ready["payload"]["effective_max_cleanup_concurrency"], 0);
    let told = operate(&mut none, "ack", &json!(id), &json!("token")).await;
    assert_eq!((&told["status"], &told["reason"]), (&json!("unauthorized"), &json!("cleanup_delivery_not_accepted")));

    let (mut socket, _) = connect(&api, "pool", &json!({})).await;
    let first = message(&mut socket).await;
    assert_eq!((&first["message_id"], &first["kind"], &first["delivery_count"]), (&json!(id), &json!(CANCELLING), &json!(1)));
    assert_eq!((&first["work_queue_id"], &first["data"]), (&pool["default_queue_id"], &json!({})));
    assert_eq!(first["target"], json!({"flow_run_id": id, "infrastructure_pid": "host:1"}));
    let token = &first["reservation_token"];
    assert!(token.as_str().is_some_and(|token| token.len() > 32));

    // By whom, and by what right.
    let told = operate(&mut socket, "ack", &json!(Uuid::new_v4()), token).await;
    assert_eq!((&told["status"], &told["reason"]), (&json!("not_found"), &json!("message_not_found")));
    let told = operate(&mut socket, "renew", &json!(id), &json!("guessed")).await;
    assert_eq!((&told["status"], &told["reason"]), (&json!("invalid_token"), &json!("reservation_token_mismatch")));
    let (mut stranger, _) = connect(&api, "other", &json!({})).await;
    let told = operate(&mut stranger, "ack", &json!(id), token).await;
    assert_eq!((&told["status"], &told["reason"]), (&json!("unauthorized"), &json!("work_pool_mismatch")));
    let told = operate(&mut socket, "renew", &json!(id), token).await;
    assert_eq!((&told["status"], &told["reason"]), (&json!("accepted"), &Value::Null));
    assert!(told["lease_expires_at"].as_str() > first["lease_expires_at"].as_str(), "{told}");

    // Released it comes again; then its lease runs out and it comes once more, the last time.
    let told = operate(&mut socket, "release", &json!(id), token).await;
    assert_eq!((&told["status"], &told["lease_expires_at"]), (&json!("accepted"), &Value::Null));
    let second = message(&mut socket).await;
    assert_eq!((&second["message_id"], &second["delivery_count"]), (&json!(id), &json!(2)));
    let third = message(&mut socket).await;
    assert_eq!((&third["message_id"], &third["delivery_count"]), (&json!(id), &json!(3)));
    assert!(third["reservation_token"] != second["reservation_token"]);
    let told = operate(&mut socket, "ack", &json!(id), &second["reservation_token"]).await;
    assert_eq!(told["status"], "invalid_token", "who held it before has lost it");
    let told = operate(&mut socket, "release", &json!(id), &third["reservation_token"]).await;
    assert_eq!((&told["status"], &told["reason"]), (&json!("dead_lettered"), &json!("max_delivery_attempts_reached")));
    drop(socket);

    // A worker has no more of them than it can take, the next as soon as it has done with one.
    let ids = [Uuid::new_v4(), Uuid::new_v4()];
    for id in ids {
        ask_for_cleanup(&cluster, kind, &pool["id"], &pool["default_queue_id"], id).await;
    }
    let (mut socket, _) = connect(&api, "pool", &json!({"max_cleanup_concurrency": 1})).await;
    let mut done = Vec::new();
    for _ in ids {
        let held = message(&mut socket).await;
        assert!(socket.next(Duration::from_millis(800)).await.is_err(), "one at a time");
        let told = operate(&mut socket, "ack", &held["message_id"], &held["reservation_token"]).await;
        assert_eq!(told["status"], "accepted");
        done.push(held["message_id"].clone());
    }
    done.sort_by_key(ToString::to_string);
    let mut expected = ids.map(|id| json!(id));
    expected.sort_by_key(ToString::to_string);
    assert_eq!(done, expected);
    drop((none, stranger, other));
}

#[tokio::test]
async fn cleanups_are_delivered_to_one_worker_at_a_time_on_sqlite() {
    delivers_cleanups(Kind::Sqlite).await;
}

#[tokio::test]
async fn cleanups_are_delivered_to_one_worker_at_a_time_on_postgres() {
    delivers_cleanups(Kind::Postgres).await;
}
