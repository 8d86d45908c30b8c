//! What operators of Prefect suffer from its services, one node at a time: see tests/pains/README.md.

use std::time::Duration;

use jepsen::client::Http;
use jepsen::database::SERVER_VARIABLE;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};

use crate::harness::{Cluster, Kind, Options, eventually, start};

/// How long anything may take here.
const SOON: Duration = Duration::from_secs(30);

async fn post(http: &Http, path: &str, body: Value) -> Value {
    let (status, answer) = http.post(path, &body).await.expect("an answer");
    assert!((200..300).contains(&status), "{path}: {status} {answer}");
    answer
}

async fn quick(kind: Kind) -> Cluster {
    start(Options::new(1, kind).variable("PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS", 0.1)).await
}

/// A deployment that is due every hour, and its schedule.
async fn scheduled(http: &Http) -> (String, String) {
    let flow = post(http, "/flows/", json!({"name": "f"})).await;
    let schedule = json!({"active": true, "schedule": {"interval": 3600.0, "anchor_date": "2020-01-01T00:00:00Z"}});
    let body = json!({"name": "d", "flow_id": flow["id"], "schedules": [schedule]});
    let deployment = post(http, "/deployments/", body).await;
    let text = |value: &Value| value.as_str().expect("an id").to_owned();
    (text(&deployment["id"]), text(&deployment["schedules"][0]["id"]))
}

/// When the runs to come of the deployment are due.
async fn due(http: &Http) -> Vec<String> {
    let runs = post(http, "/flow_runs/filter", json!({"sort": "EXPECTED_START_TIME_ASC"})).await;
    let runs = runs.as_array().expect("a list").iter();
    runs.map(|run| run["expected_start_time"].as_str().expect("a time").to_owned()).collect()
}

async fn a_schedule_that_changes_takes_its_runs_back(kind: Kind) {
    let node = quick(kind).await;
    let http = node.http(1);
    let (deployment, schedule) = scheduled(&http).await;
    eventually(SOON, "runs are made", async || due(&http).await.len() == 3).await;
    assert!(due(&http).await.iter().all(|due| due.contains(":00:00")), "on the hour");

    let path = format!("/deployments/{deployment}/schedules/{schedule}");
    let other = json!({"schedule": {"interval": 3600.0, "anchor_date": "2020-01-01T00:30:00Z"}});
    let (status, answer) = http.patch(&path, &other).await.expect("an answer");
    assert_eq!(status, 204, "{answer}");
    assert!(due(&http).await.iter().all(|due| due.contains(":30:00")), "no run of the old dates is left after the change");
    eventually(SOON, "runs are made anew", async || due(&http).await.len() == 3).await;
    assert!(due(&http).await.iter().all(|due| due.contains(":30:00")), "half past");

    let (status, answer) = http.delete(&path).await.expect("an answer");
    assert_eq!(status, 204, "{answer}");
    assert_eq!(due(&http).await, Vec::<String>::new(), "no run outlives its schedule");
    // Whatever the scheduler was about to do, it does nothing for a schedule that is gone.
    let ticks = async || {
        let status = node.status(1).await.expect("an answer");
        let services = status["services"].as_array().cloned().unwrap_or_default();
        services.iter().find(|one| one["name"] == "recent_scheduler").map(|one| one["last_success"].to_string())
    };
    let before = ticks().await;
    eventually(SOON, "the scheduler has looked again", async || ticks().await != before).await;
    assert_eq!(due(&http).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_changes_takes_its_runs_back_on_sqlite() {
    a_schedule_that_changes_takes_its_runs_back(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_changes_takes_its_runs_back_on_postgres() {
    a_schedule_that_changes_takes_its_runs_back(Kind::Postgres).await;
}

/// The database refuses everybody for a while. Nobody restarts anything.
#[tokio::test(flavor = "multi_thread")]
async fn every_service_goes_on_by_itself_after_the_database_was_away() {
    let node = start(Options::new(1, Kind::Postgres)).await;
    let http = node.http(1);
    let name = node.database().url().rsplit('/').next().and_then(|rest| rest.split('?').next()).expect("a name").to_owned();
    let server: PgConnectOptions = std::env::var(SERVER_VARIABLE).expect("a server").parse().expect("an address");
    let mut server = server.connect().await.expect("the server answers");
    let services = async || {
        let status = node.status(1).await.ok()?;
        let all = status["services"].as_array()?.clone();
        (!all.is_empty()).then_some(all)
    };
    eventually(SOON, "every service has worked once", async || {
        services().await.is_some_and(|all| all.iter().all(|one| one["last_success"].is_string()))
    })
    .await;
    let before = services().await.expect("they are told");
    server.execute(AssertSqlSafe(format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false"))).await.expect("the server obeys");
    let kill = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    server.execute(AssertSqlSafe(kill)).await.expect("the server obeys");
    let probe = Http::new(format!("http://{}", node.address(1)));
    eventually(SOON, "the node says that it cannot work", async || matches!(probe.get("/readyz").await, Ok((503, _)))).await;
    eventually(SOON, "services fail", async || {
        services().await.is_some_and(|all| all.iter().filter(|one| one["error"].is_string()).count() >= 3)
    })
    .await;
    server.execute(AssertSqlSafe(format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true"))).await.expect("the server obeys");
    eventually(SOON, "the node is ready", async || matches!(probe.get("/readyz").await, Ok((200, _)))).await;
    let often = |one: &Value| one["period_seconds"].as_f64() < Some(20.0);
    eventually(SOON, "every service that is due works again", async || {
        let Some(all) = services().await else { return false };
        all.iter().filter(|one| often(one)).all(|one| {
            let then = before.iter().find(|then| then["name"] == one["name"]).expect("the same services");
            one["error"].is_null() && one["last_success"].as_str() > then["last_success"].as_str()
        })
    })
    .await;
    assert_eq!(http.get("/ready").await.expect("an answer").0, 200);
}
