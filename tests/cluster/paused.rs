//! A services leader that is stopped (SIGSTOP) amid its work and wakes up after its successor took over: it writes
//! nothing. Triggers in the database tell which node wrote, by the name of its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jepsen::client::EventsIn;
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::harness::{Cluster, Kind, Options, eventually, start};

/// How often a leader is paused.
const PAUSES: usize = 3;
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

/// The epoch that the database knows.
async fn fence(cluster: &Cluster) -> i64 {
    let mut look = cluster.database().look().await.expect("the database opens");
    look.number("SELECT epoch FROM praetor.fence WHERE name = 'services'").await.expect("there is a fence")
}
