//! A services leader that is stopped (SIGSTOP) amid its work and wakes up after its successor took over: it writes
//! nothing. Triggers in the database tell which node wrote, by the name of its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jepsen::client::EventsIn;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::harness::{Cluster, Kind, Options, eventually, start};
use crate::long;

/// How often a leader is paused.
const PAUSES: usize = 3;
/// Between two batches of events.
const BETWEEN: Duration = Duration::from_millis(20);
/// How long a leader that woke up is watched.
const WATCHED: Duration = Duration::from_secs(3);
const APPLICATION_NAME: &str = "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_APPLICATION_NAME";

/// What the services write. Notes each statement, even of a transaction that finds nothing to change.
const WATCH: &str = "
    CREATE TABLE written (at timestamptz DEFAULT clock_timestamp(), node text DEFAULT current_setting('application_name'), place text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO public.written (place) VALUES (TG_TABLE_NAME); RETURN NULL; END $$;
    CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON events FOR EACH STATEMENT EXECUTE FUNCTION note();
    CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON flow_run FOR EACH STATEMENT EXECUTE FUNCTION note();
    CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON task_run FOR EACH STATEMENT EXECUTE FUNCTION note();
    CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON praetor.cursor FOR EACH STATEMENT EXECUTE FUNCTION note();
    CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON praetor.fence FOR EACH STATEMENT EXECUTE FUNCTION note();
    CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON praetor.dead_letter FOR EACH STATEMENT EXECUTE FUNCTION note();
";

/// Streams events through whichever node takes them, until told to stop.
async fn stream(apis: Vec<String>, stop: Arc<AtomicBool>) {
    for api in apis.iter().cycle() {
        let Ok(mut socket) = EventsIn::connect(api).await else { continue };
        loop {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let sent = async {
                for _ in 0..20 {
                    socket.send(&event()).await?;
                }
                socket.confirm(Duration::from_secs(2)).await
            };
            if sent.await.is_err() {
                break;
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }
}

fn event() -> serde_json::Value {
    json!({
        "id": Uuid::new_v4(),
        "occurred": chrono::Utc::now().to_rfc3339(),
        "event": "praetor.paused",
        "resource": {"prefect.resource.id": "praetor.paused"},
        "related": [], "payload": {}, "follows": null,
    })
}

async fn writes_since(cluster: &Cluster, node: u64, moment: &str) -> i64 {
    let mut look = cluster.database().look().await.expect("the database opens");
    let sql = format!("SELECT count(*) FROM written WHERE node = 'node-{node}' AND at > '{moment}'");
    look.number(sql).await.expect("an answer")
}

async fn database_now(cluster: &Cluster) -> String {
    let mut look = cluster.database().look().await.expect("the database opens");
    look.texts("SELECT CAST(clock_timestamp() AS TEXT)").await.expect("an answer").remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_leader_that_wakes_up_after_its_successor_took_over_writes_nothing() {
    let options =
        (1..=3).fold(Options::new(3, Kind::Postgres), |options, id| options.variable_of(id, APPLICATION_NAME, format!("node-{id}")));
    let cluster = start(options).await;
    let mut connection = cluster.database().connect().await.expect("the database opens");
    connection.execute(AssertSqlSafe(WATCH)).await.expect("the triggers are made");
    let stop = Arc::new(AtomicBool::new(false));
    let streaming = tokio::spawn(stream(cluster.ids().into_iter().map(|id| cluster.api(id)).collect(), Arc::clone(&stop)));

    for _ in 0..PAUSES {
        let paused = cluster.services_leader().await.expect("a services leader");
        let begun = database_now(&cluster).await;
        eventually(Duration::from_secs(20), "the leader writes", async || writes_since(&cluster, paused, &begun).await > 3).await;
        let epoch = fence(&cluster).await;
        cluster.pause(paused).expect("it runs");
        eventually(Duration::from_secs(30), "a successor took over", async || fence(&cluster).await > epoch).await;
        let epoch = fence(&cluster).await;
        let successor = cluster.services_leader().await.expect("the successor");
        assert_ne!(successor, paused);
        let since = database_now(&cluster).await;
        eventually(Duration::from_secs(20), "the successor writes", async || writes_since(&cluster, successor, &since).await > 3).await;

        let woken = database_now(&cluster).await;
        cluster.resume(paused).expect("it runs");
        let watched = tokio::time::Instant::now();
        eventually(WATCHED * 10, "the woken leader was watched, and the successor wrote all the while", async || {
            assert_eq!(fence(&cluster).await, epoch, "the fence moved though nobody died");
            watched.elapsed() > WATCHED && writes_since(&cluster, successor, &woken).await > 3
        })
        .await;
        assert_eq!(writes_since(&cluster, paused, &woken).await, 0, "node {paused} wrote after it woke up");
        println!("node {paused} was paused and woke up; node {successor} had taken over; the first wrote nothing");
    }
    stop.store(true, Ordering::Relaxed);
    streaming.await.expect("the stream ends");
}

/// The worst moment: a transaction is begun, and whether this node still leads is not yet looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_services_leader_that_was_stopped_before_it_looked_at_the_fence_writes_nothing() {
    // Two may lead the services, so that it is known who is elected.
    let options = Options::new(3, Kind::Postgres).variable_of(1, "PRAETOR_SERVICES", false);
    let options = (1..=3).fold(options, |options, id| options.variable_of(id, APPLICATION_NAME, format!("node-{id}")));
    let mut cluster = start(options).await;
    let first = cluster.services_leader().await.expect("a services leader");
    let stopped = 5 - first;
    cluster.stop(stopped).await.expect("it stops");
    cluster.set_variable(stopped, "PRAETOR_FAILPOINT", Some("services.before_fence=stop"));
    cluster.restart(stopped).await.expect("it starts");
    let mut connection = cluster.database().connect().await.expect("the database opens");
    connection.execute(AssertSqlSafe(WATCH)).await.expect("the triggers are made");
    let stop = Arc::new(AtomicBool::new(false));
    let streaming = tokio::spawn(stream(vec![cluster.api(1)], Arc::clone(&stop)));

    let epoch = fence(&cluster).await;
    cluster.kill(first).expect("it ran");
    eventually(Duration::from_secs(30), "the second takes over", async || fence(&cluster).await > epoch).await;
    let epoch = fence(&cluster).await;
    eventually(Duration::from_secs(20), "the second stops itself", async || cluster.log(stopped).contains("stops itself")).await;
    cluster.spawn(first).expect("it starts");
    eventually(Duration::from_secs(30), "the first takes over again", async || fence(&cluster).await > epoch).await;
    let since = database_now(&cluster).await;
    eventually(Duration::from_secs(20), "the first writes", async || writes_since(&cluster, first, &since).await > 3).await;

    let woken = database_now(&cluster).await;
    cluster.resume(stopped).expect("it runs");
    let watched = tokio::time::Instant::now();
    eventually(WATCHED * 10, "the woken leader was watched", async || watched.elapsed() > WATCHED).await;
    assert_eq!(writes_since(&cluster, stopped, &woken).await, 0, "node {stopped} wrote after it woke up");
    println!("node {stopped} was stopped amid a transaction and woke up; node {first} had taken over; it wrote nothing");
    stop.store(true, Ordering::Relaxed);
    streaming.await.expect("the stream ends");
}

/// What only services write here, row by row, and the epoch that the database knew at that moment.
const WATCH_DUTIES: &str = "
    CREATE TABLE done (at timestamptz DEFAULT clock_timestamp(), node text DEFAULT current_setting('application_name'), place text,
        epoch bigint);
    CREATE FUNCTION note_duty() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.done (place, epoch) SELECT TG_ARGV[0], epoch FROM praetor.fence WHERE name = 'services';
            RETURN NULL;
        END $$;
    CREATE TRIGGER note_duty AFTER UPDATE ON praetor.cursor FOR EACH ROW EXECUTE FUNCTION note_duty('consumer');
    CREATE TRIGGER note_scheduled AFTER INSERT ON flow_run FOR EACH ROW WHEN (NEW.auto_scheduled) EXECUTE FUNCTION note_duty('scheduler');
    CREATE TRIGGER note_late AFTER UPDATE ON flow_run FOR EACH ROW
        WHEN (NEW.state_name = 'Late' AND OLD.state_name <> 'Late') EXECUTE FUNCTION note_duty('late');
    CREATE TRIGGER note_cancelled AFTER UPDATE ON task_run FOR EACH ROW
        WHEN (NEW.state_type = 'CANCELLED') EXECUTE FUNCTION note_duty('cancellation');
";
/// Seconds between two slots of a deployment, and how many there are.
const INTERVAL: u64 = 2;
const DEPLOYMENTS: u64 = 5;

/// A flow run that is cancelled while one of its task runs goes on, again and again.
async fn cancel_runs(apis: Vec<String>, flow: String, stop: Arc<AtomicBool>) -> u64 {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().expect("a client");
    let mut cancelled = 0;
    for api in apis.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let post = async |path: String, body: serde_json::Value| -> anyhow::Result<serde_json::Value> {
            Ok(client.post(format!("{api}{path}")).json(&body).send().await?.error_for_status()?.json().await?)
        };
        // Whatever a paused node was asked is asked another one, with a run of its own.
        let one = async {
            let run = post("/flow_runs/".into(), json!({"flow_id": flow, "state": {"type": "RUNNING"}})).await?;
            let body = json!({"flow_run_id": run["id"], "task_key": "t", "dynamic_key": "0", "state": {"type": "RUNNING"}});
            post("/task_runs/".into(), body).await?;
            let path = format!("/flow_runs/{}/set_state", run["id"].as_str().unwrap_or_default());
            post(path, json!({"state": {"type": "CANCELLED"}, "force": true})).await
        };
        if one.await.is_ok() {
            cancelled += 1;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    cancelled
}

/// Again and again, at random moments, while schedules, late runs and cancellations are due: each duty is done, none
/// twice, and under each epoch one node alone does any.
#[tokio::test(flavor = "multi_thread")]
async fn services_leaders_that_are_stopped_again_and_again_lose_no_duty_and_do_none_twice() {
    let (pauses, lasting): (usize, &[u64]) = if long() { (50, &[10, 10, 10, 10, 60]) } else { (3, &[4]) };
    let seed = std::env::var("PRAETOR_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let options =
        (1..=3).fold(Options::new(3, Kind::Postgres), |options, id| options.variable_of(id, APPLICATION_NAME, format!("node-{id}")));
    let cluster = start(
        options
            .variable("PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS", 1)
            .variable("PREFECT_SERVER_SERVICES_SCHEDULER_MIN_SCHEDULED_TIME", 10)
            .variable("PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS", 10)
            .variable("PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS", 1)
            .variable("PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS", 2)
            .variable("PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS", 1),
    )
    .await;
    let mut connection = cluster.database().connect().await.expect("the database opens");
    connection.execute(AssertSqlSafe(WATCH_DUTIES)).await.expect("the triggers are made");
    let http = cluster.http(1);
    let (_, flow) = http.post("/flows/", &json!({"name": "f"})).await.expect("an answer");
    for number in 0..DEPLOYMENTS {
        let schedule = json!({"interval": INTERVAL, "anchor_date": "2020-01-01T00:00:00Z"});
        let body = json!({"name": number.to_string(), "flow_id": flow["id"], "schedules": [{"active": true, "schedule": schedule}]});
        let (status, answer) = http.post("/deployments/", &body).await.expect("an answer");
        assert_eq!(status, 201, "{answer}");
    }
    let apis: Vec<String> = cluster.ids().into_iter().map(|id| cluster.api(id)).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let streaming = tokio::spawn(stream(apis.clone(), Arc::clone(&stop)));
    let cancelling = tokio::spawn(cancel_runs(apis, flow["id"].as_str().expect("an id").to_owned(), Arc::clone(&stop)));

    for _ in 0..pauses {
        tokio::time::sleep(Duration::from_millis(chance.random_range(0..3_000))).await;
        let paused = cluster.services_leader().await.expect("a services leader");
        let epoch = fence(&cluster).await;
        cluster.pause(paused).expect("it runs");
        tokio::time::sleep(Duration::from_secs(*lasting.choose(&mut chance).expect("some"))).await;
        assert!(fence(&cluster).await > epoch, "nobody took over from node {paused}; seed {seed}");
        cluster.resume(paused).expect("it runs");
    }
    stop.store(true, Ordering::Relaxed);
    streaming.await.expect("the stream ends");
    let cancelled = cancelling.await.expect("it ends");
    let mut look = cluster.database().look().await.expect("the database opens");
    let end = database_now(&cluster).await;
    let late = format!("auto_scheduled AND expected_start_time < CAST('{end}' AS timestamptz)");
    let left = format!(
        "SELECT (SELECT count(*) FROM flow_run WHERE {late} AND state_name <> 'Late') + (SELECT count(*) FROM task_run JOIN flow_run \
         ON flow_run.id = flow_run_id WHERE flow_run.state_type = 'CANCELLED' AND task_run.state_type = 'RUNNING')"
    );
    eventually(Duration::from_mins(1), "all that was late is marked, and all that was left behind is cancelled", async || {
        look.number(left.as_str()).await.expect("an answer") == 0
    })
    .await;
    // From the first slot of each deployment to the end.
    let missing = format!(
        "SELECT count(*) FROM (SELECT deployment_id, generate_series(min(expected_start_time), CAST('{end}' AS timestamptz), \
         interval '{INTERVAL} seconds') slot FROM flow_run WHERE auto_scheduled GROUP BY deployment_id) wanted \
         LEFT JOIN flow_run found ON found.deployment_id = wanted.deployment_id AND found.expected_start_time = wanted.slot \
         WHERE found.id IS NULL"
    );
    let doubled = "SELECT count(*) FROM (SELECT deployment_id, expected_start_time FROM flow_run WHERE auto_scheduled GROUP BY 1, 2 \
                   HAVING count(*) > 1) doubled";
    let late_twice =
        "SELECT count(*) FROM (SELECT flow_run_id FROM flow_run_state WHERE name = 'Late' GROUP BY 1 HAVING count(*) > 1) twice";
    let stale = "SELECT count(*) FROM (SELECT epoch FROM done GROUP BY epoch HAVING count(DISTINCT node) > 1) stale";
    let mut number = async |sql: &str| look.number(sql).await.expect("an answer");
    let found = (number(&missing).await, number(doubled).await, number(late_twice).await, number(stale).await);
    let slots = number("SELECT count(*) FROM flow_run WHERE auto_scheduled").await;
    let marked = number("SELECT count(*) FROM flow_run_state WHERE name = 'Late'").await;
    let cleaned = number("SELECT count(*) FROM task_run WHERE state_type = 'CANCELLED'").await;
    let done = number("SELECT count(*) FROM done").await;
    let epochs = number("SELECT count(DISTINCT epoch) FROM done").await;
    println!(
        "{pauses} pauses of the services leader: {slots} runs scheduled, {marked} marked late, {cleaned} task runs of {cancelled} \
         cancelled flow runs cancelled; {done} writes in {epochs} epochs; missing, doubled, late twice, epochs with two writers: {found:?}"
    );
    assert_eq!(found, (0, 0, 0, 0), "seed {seed}");
    assert!(marked > 0 && cleaned > 0 && epochs as usize > pauses, "{marked} late, {cleaned} cancelled, {epochs} epochs");
}

/// The epoch that the database knows.
async fn fence(cluster: &Cluster) -> i64 {
    let mut look = cluster.database().look().await.expect("the database opens");
    look.number("SELECT epoch FROM praetor.fence WHERE name = 'services'").await.expect("there is a fence")
}
