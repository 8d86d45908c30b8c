//! Background task runs: the socket that hands them to task workers, the queue in the database behind it, and who is
//! connected.

use std::time::Duration;

use jepsen::wait::until;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Cluster, Http, Kind, Options, Socket, one_node, start};

const PATH: &str = "/task_runs/subscriptions/scheduled";
/// How long something that has to come may take.
const SOON: Duration = Duration::from_secs(20);
/// How long something that must not come is waited for: longer than the queue's look without a hint.
const A_WHILE: Duration = Duration::from_millis(2500);

async fn subscribe(api: &str, keys: &[&str], client: &str) -> Socket {
    let mut socket = Socket::connect(api, PATH).await.expect("it connects");
    socket.send(&json!({"type": "subscribe", "keys": keys, "client_id": client})).await.expect("it is sent");
    socket
}

fn deferred(key: &str) -> Value {
    json!({
        "task_key": key,
        "dynamic_key": Uuid::new_v4(),
        "state": {"type": "SCHEDULED", "state_details": {"deferred": true, "task_parameters_id": Uuid::new_v4()}},
    })
}

/// Makes a background task run; gives it as it was answered.
async fn delay(http: &Http, key: &str) -> Value {
    let (status, run) = http.post("/task_runs/", &deferred(key)).await.expect("an answer");
    assert_eq!(status, 201, "{run}");
    run
}

async fn ack(socket: &mut Socket) {
    socket.send(&json!({"type": "ack"})).await.expect("it is sent");
}

async fn workers(http: &Http, keys: Option<&[&str]>) -> Vec<Value> {
    let body = keys.map_or(json!({}), |keys| json!({"task_worker_filter": {"task_keys": keys}}));
    let (status, workers) = http.post("/task_workers/filter", &body).await.expect("an answer");
    assert_eq!(status, 200, "{workers}");
    workers.as_array().expect("a list").clone()
}

/// Reads until a run of that id comes, acknowledging all.
async fn take(socket: &mut Socket) -> String {
    let run = socket.next(SOON).await.expect("a run comes");
    run["id"].as_str().expect("an id").to_owned()
}

/// The table of the queue.
fn table(kind: Kind) -> &'static str {
    match kind {
        Kind::Postgres => "praetor.task_delivery",
        Kind::Sqlite => "praetor_task_delivery",
    }
}

async fn goes_to_one_worker(kind: Kind) {
    let cluster = one_node(kind).await;
    let (api, http) = (cluster.api(1), cluster.http(1));
    for (first, reason) in [
        (json!({"type": "x"}), "Protocol violation: expected 'subscribe' message"),
        (json!({"type": "subscribe", "keys": [], "client_id": "a"}), "Protocol violation: expected 'keys' in subscribe message"),
        (json!({"type": "subscribe", "keys": ["a"]}), "Protocol violation: expected 'client_id' in subscribe message"),
    ] {
        let mut socket = Socket::connect(&api, PATH).await.expect("it connects");
        socket.send(&first).await.expect("it is sent");
        assert_eq!(socket.closed(SOON).await.expect("closed"), (4001, reason.to_owned()));
    }
    let mut one = subscribe(&api, &["first", "second"], "one").await;
    let mut other = subscribe(&api, &["first"], "other").await;
    let listed = until(SOON, "both workers are listed", async || {
        let listed = workers(&http, None).await;
        (listed.len() == 2).then_some(listed)
    });
    let listed = listed.await.expect("in time");
    assert_eq!(listed[0]["identifier"], "one");
    assert_eq!(listed[0]["task_keys"], json!(["first", "second"]));
    assert!(listed[0]["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{listed:?}");
    assert_eq!(workers(&http, Some(&["second"])).await.len(), 1);
    assert_eq!(workers(&http, Some(&["second", "first"])).await.len(), 2);
    assert_eq!(workers(&http, Some(&["nobody's"])).await, [] as [Value; 0]);
    let (status, refusal) = http.post("/task_workers/filter", &json!({"task_worker_filter": {}})).await.expect("an answer");
    assert_eq!((status, &refusal["exception_detail"][0]["loc"]), (422, &json!(["body", "task_worker_filter", "task_keys"])));

    let mut made = delay(&http, "second").await;
    let mut run = one.next(SOON).await.expect("the run comes");
    for estimate in [&mut made, &mut run] {
        estimate.as_object_mut().expect("an object").remove("estimated_start_time_delta");
    }
    assert_eq!(run, made, "it comes as it was made");
    ack(&mut one).await;

    // Runs of a key that both serve: each to one of them.
    let ids: Vec<Value> = [delay(&http, "first").await, delay(&http, "first").await].iter().map(|run| run["id"].clone()).collect();
    let (taken, also) = (one.next(SOON).await.expect("a run"), other.next(SOON).await.expect("a run"));
    assert!(taken["id"] != also["id"] && ids.contains(&taken["id"]) && ids.contains(&also["id"]), "{taken} {also}");
    ack(&mut one).await;
    ack(&mut other).await;

    // What is acknowledged does not come again, and whoever leaves is forgotten.
    drop(one);
    assert!(other.next(A_WHILE).await.is_err(), "nothing is left");
    drop(other);
    until(SOON, "nobody is listed", async || workers(&http, None).await.is_empty().then_some(())).await.expect("in time");
    // Neither does one that is no background task, or not scheduled.
    let mut body = deferred("third");
    body["state"]["state_details"]["deferred"] = json!(false);
    http.post("/task_runs/", &body).await.expect("an answer");
    let mut third = subscribe(&api, &["third"], "third").await;
    assert!(third.next(A_WHILE).await.is_err(), "it is nobody's");
}

#[tokio::test]
async fn a_background_task_run_goes_to_one_task_worker_on_sqlite() {
    goes_to_one_worker(Kind::Sqlite).await;
}

#[tokio::test]
async fn a_background_task_run_goes_to_one_task_worker_on_postgres() {
    goes_to_one_worker(Kind::Postgres).await;
}

async fn comes_again_without_an_ack(kind: Kind) {
    let pings = |name: &str| format!("PREFECT_SERVER_API_WEBSOCKET_PING_{name}");
    let options = Options::new(1, kind).variable(&pings("INTERVAL"), "0.5").variable(&pings("TIMEOUT"), "0.5");
    let mut cluster = start(options).await;
    let (api, http) = (cluster.api(1), cluster.http(1));
    let run = delay(&http, "key").await;
    let id = run["id"].as_str().expect("an id");
    // It leaves without a word.
    let mut socket = subscribe(&api, &["key"], "leaves").await;
    assert_eq!(take(&mut socket).await, id);
    drop(socket);
    // It says something else.
    let mut socket = subscribe(&api, &["key"], "errs").await;
    assert_eq!(take(&mut socket).await, id);
    socket.send(&json!({"type": "thanks"})).await.expect("it is sent");
    assert_eq!(socket.closed(SOON).await.expect("closed"), (4001, "Protocol violation: expected 'ack' message".to_owned()));
    // It quits.
    let mut socket = subscribe(&api, &["key"], "quits").await;
    assert_eq!(take(&mut socket).await, id);
    socket.send(&json!({"type": "quit"})).await.expect("it is sent");
    assert_eq!(socket.closed(SOON).await.expect("closed").0, 1000);
    // It is silent: not even pings are answered, as nobody reads its socket.
    let mut silent = subscribe(&api, &["key"], "silent").await;
    assert_eq!(take(&mut silent).await, id);
    // Another one gets it in a bounded time, and what is new besides.
    let newer = delay(&http, "key").await;
    let mut socket = subscribe(&api, &["key"], "patient").await;
    let mut taken = vec![take(&mut socket).await];
    ack(&mut socket).await;
    taken.push(take(&mut socket).await);
    let mut expected = vec![id.to_owned(), newer["id"].as_str().expect("an id").to_owned()];
    taken.sort();
    expected.sort();
    assert_eq!(taken, expected);
    drop(silent);
    // An ack that is under way when the node stops counts, and the worker is told to come again.
    let (stopped, closed) = tokio::join!(cluster.stop(1), async {
        ack(&mut socket).await;
        socket.closed(SOON).await
    });
    stopped.expect("it stops");
    assert_eq!(closed.expect("closed").0, 1012);
    let mut look = cluster.database().look().await.expect("the database opens");
    let waiting = format!("SELECT count(*) FROM {} WHERE acked IS NULL", table(kind));
    assert_eq!(look.number(waiting).await.expect("an answer"), 0, "both are acknowledged");
}

#[tokio::test]
async fn a_task_run_without_an_ack_comes_again_on_sqlite() {
    comes_again_without_an_ack(Kind::Sqlite).await;
}

#[tokio::test]
async fn a_task_run_without_an_ack_comes_again_on_postgres() {
    comes_again_without_an_ack(Kind::Postgres).await;
}

async fn a_full_queue_makes_wait(kind: Kind) {
    let options = Options::new(1, kind).variable("PREFECT_SERVER_TASKS_SCHEDULING_MAX_SCHEDULED_QUEUE_SIZE", 2);
    let cluster = start(options).await;
    let (api, http) = (cluster.api(1), cluster.http(1));
    delay(&http, "key").await;
    delay(&http, "key").await;
    delay(&http, "other").await;
    let (status, _) = http.post("/task_runs/", &deferred("key")).await.expect("an answer");
    assert_eq!(status, 503, "there is no room, for a while");
    let waiting = tokio::spawn({
        let http = http.clone();
        async move { delay(&http, "key").await }
    });
    let mut socket = subscribe(&api, &["key"], "worker").await;
    for _ in 0..3 {
        take(&mut socket).await;
        ack(&mut socket).await;
    }
    waiting.await.expect("there was room in time");
}

#[tokio::test]
async fn a_full_queue_makes_clients_wait_on_sqlite() {
    a_full_queue_makes_wait(Kind::Sqlite).await;
}

#[tokio::test]
async fn a_full_queue_makes_clients_wait_on_postgres() {
    a_full_queue_makes_wait(Kind::Postgres).await;
}

/// Changes the database behind the server's back.
pub async fn execute(cluster: &Cluster, kind: Kind, sql: &str) {
    use sqlx::{AssertSqlSafe, ConnectOptions, Executor};
    match kind {
        Kind::Postgres => {
            let mut connection = cluster.database().connect().await.expect("the database opens");
            connection.execute(AssertSqlSafe(sql)).await.expect("it is done");
        }
        Kind::Sqlite => {
            let path = cluster.database().url().trim_start_matches("sqlite:///");
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).busy_timeout(SOON);
            let mut connection = options.connect().await.expect("the database opens");
            connection.execute(AssertSqlSafe(sql)).await.expect("it is done");
        }
    }
}

async fn recovered_from_the_task_runs(kind: Kind) {
    let options = Options::new(1, kind).variable("PRAETOR_SERVICES_BACKGROUND_TASKS_LOOP_SECONDS", "0.2");
    let cluster = start(options).await;
    let (api, http) = (cluster.api(1), cluster.http(1));
    let lost = delay(&http, "key").await;
    let (_, started) = http.post("/task_runs/", &deferred("key")).await.expect("an answer");
    let path = format!("/task_runs/{}/set_state", started["id"].as_str().expect("an id"));
    let running = json!({"state": {"type": "RUNNING", "state_details": {"deferred": true}}, "force": true});
    http.post(&path, &running).await.expect("an answer");
    // As a server leaves it that keeps its queue in memory.
    execute(&cluster, kind, &format!("DELETE FROM {}", table(kind))).await;
    let earlier = match kind {
        Kind::Postgres => "state_timestamp - interval '1 hour'",
        Kind::Sqlite => "strftime('%Y-%m-%d %H:%M:%f000', state_timestamp, '-1 hour')",
    };
    let mut socket = subscribe(&api, &["key"], "worker").await;
    assert!(socket.next(A_WHILE).await.is_err(), "a run that was scheduled just now may be in other hands");
    execute(&cluster, kind, &format!("UPDATE task_run SET state_timestamp = {earlier}")).await;
    assert_eq!(take(&mut socket).await, lost["id"].as_str().expect("an id"));
    ack(&mut socket).await;
    assert!(socket.next(A_WHILE).await.is_err(), "it is brought in once, and what has started is not");
    // What has left SCHEDULED is let go of.
    let path = format!("/task_runs/{}/set_state", lost["id"].as_str().expect("an id"));
    http.post(&path, &running).await.expect("an answer");
    let queued = match kind {
        Kind::Postgres => "queued - interval '1 hour'",
        Kind::Sqlite => "strftime('%Y-%m-%d %H:%M:%f000', queued, '-1 hour')",
    };
    execute(&cluster, kind, &format!("UPDATE {} SET queued = {queued}", table(kind))).await;
    let mut look = cluster.database().look().await.expect("the database opens");
    let left = format!("SELECT count(*) FROM {}", table(kind));
    until(SOON, "the queue is empty", async || (look.number(left.clone()).await.ok()? == 0).then_some(())).await.expect("in time");
}

#[tokio::test]
async fn runs_that_nobody_queued_are_recovered_from_the_database_on_sqlite() {
    recovered_from_the_task_runs(Kind::Sqlite).await;
}

#[tokio::test]
async fn runs_that_nobody_queued_are_recovered_from_the_database_on_postgres() {
    recovered_from_the_task_runs(Kind::Postgres).await;
}
