//! Deployments that are due every second or two, made one after the other while things go wrong. Workers of one pool ask
//! any node what is due, and take it as the published worker does: who sets it to pending has it. The other deployments
//! have no worker, so their runs become late.

use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use sqlx::Row;

use super::{Context, healed_at_each, judged, now_milliseconds, posted};
use crate::checker::schedules;
use crate::client::Outcome;
use crate::cluster::Cluster;
use crate::history::History;
use crate::verdict::Verdict;
use crate::wait::until;

const WORKERS: usize = 3;
const POOL: &str = "jepsen-pool";
const FLOW: &str = "jepsen-schedules";
/// Between two deployments.
const DEPLOY_EVERY: Duration = Duration::from_secs(4);
/// 2000-01-01, in milliseconds since 1970: the anchor of all schedules.
const ANCHOR: i64 = 946_684_800_000;
/// How far ahead runs are made: a group without a services leader for longer than this misses slots, as any scheduler does.
const AHEAD_SECONDS: u64 = 15;
/// How much past its time a run is late.
const LATE_AFTER_SECONDS: u64 = 2;
/// How long a group may take to look at a fresh deployment, and at late runs, with an election on the way.
const LOOKED_AT_WITHIN: Duration = Duration::from_secs(15);

pub(super) fn variables() -> Vec<(&'static str, String)> {
    vec![
        ("PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS", "1".to_owned()),
        ("PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS", "0.5".to_owned()),
        ("PREFECT_SERVER_SERVICES_SCHEDULER_MIN_SCHEDULED_TIME", AHEAD_SECONDS.to_string()),
        ("PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED", "true".to_owned()),
        ("PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS", "0.5".to_owned()),
        ("PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS", LATE_AFTER_SECONDS.to_string()),
    ]
}

pub(super) async fn run(context: Context) {
    let flow = context.made("a flow", async |http| posted(http, "/flows/", &json!({"name": FLOW})).await).await;
    let pool = context.made("a pool", async |http| match http.post("/work_pools/", &json!({"name": POOL, "type": "process"})).await {
        Ok((200..=299 | 409, body)) => Some(body),
        _ => None,
    });
    let (Some(flow), Some(_)) = (flow, pool.await) else { return };
    let workers = (0..WORKERS).map(|number| work(context.clone(), number));
    futures_util::future::join(deploy(context.clone(), flow["id"].clone()), futures_util::future::join_all(workers)).await;
}

/// Makes deployments until the load ends; every third has workers.
async fn deploy(context: Context, flow: Value) {
    let mut number = 0_i64;
    loop {
        let (made, every) = (now_milliseconds(), 1000 * (1 + number % 2));
        let body = body(&flow, &format!("every-{number}"), every, (number % 3 == 0).then_some(POOL));
        // One of the same name is the same deployment, so it may be asked for again.
        let deployment = context.made("a deployment", async |http| posted(http, "/deployments/", &body).await).await;
        let Some(deployment) = deployment else { return };
        let taken = now_milliseconds() - made;
        let deployed = json!({
            "deployment": deployment["id"], "made": made, "anchor": ANCHOR, "every": every,
            "begins_within": LOOKED_AT_WITHIN.as_millis() as i64 + taken,
            "late_after": (LOOKED_AT_WITHIN + Duration::from_secs(LATE_AFTER_SECONDS)).as_millis() as i64,
        });
        context.history.add("deployer", "deployed", deployed, Some(Outcome::Ok));
        number += 1;
        if !context.pause(DEPLOY_EVERY).await {
            return;
        }
    }
}

fn body(flow: &Value, name: &str, every_milliseconds: i64, pool: Option<&str>) -> Value {
    let schedule = json!({"interval": every_milliseconds as f64 / 1000.0, "anchor_date": "2000-01-01T00:00:00Z", "timezone": "UTC"});
    let mut body = json!({"name": name, "flow_id": flow, "schedules": [{"active": true, "schedule": schedule}]});
    if let Some(pool) = pool {
        body["work_pool_name"] = json!(pool);
    }
    body
}

async fn work(context: Context, number: usize) {
    let (process, mut chance) = (format!("worker-{number}"), context.chance(number));
    let https = context.https();
    while context.pause(Duration::from_millis(chance.random_range(100..400))).await {
        let http = https.choose(&mut chance).expect("there are nodes");
        let (path, body) = (format!("/work_pools/{POOL}/get_scheduled_flow_runs"), json!({"scheduled_before": super::now_text()}));
        let (Outcome::Ok, _, due) = judged(http.post(&path, &body)).await else { continue };
        for run in due.as_array().into_iter().flatten() {
            let Some(run) = run["flow_run"]["id"].as_str() else { continue };
            let path = format!("/flow_runs/{run}/set_state");
            context.history.add(&process, "claim", json!({"run": run}), None);
            let http = https.choose(&mut chance).expect("there are nodes");
            let (outcome, _, answer) = judged(http.post(&path, &json!({"state": {"type": "PENDING"}}))).await;
            let accepted = outcome == Outcome::Ok && answer["status"] == "ACCEPT";
            context.history.add(&process, "claim", json!({"accepted": accepted}), Some(outcome));
            if accepted {
                // It runs to the end of the load: the rules, as the reference's, let a worker that asked before take a run
                // again which has completed since.
                let _said = judged(http.post(&path, &json!({"state": {"type": "RUNNING"}}))).await;
            }
        }
    }
}

pub(super) async fn check(cluster: &Cluster, history: &History) -> anyhow::Result<Verdict> {
    let mut connection = cluster.database().connect().await?;
    // Late enough that what is due by now was looked at; nothing is due that was not made by now.
    let at: i64 =
        sqlx::query_scalar("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)").fetch_one(&mut connection).await?;
    tokio::time::sleep(Duration::from_secs(LATE_AFTER_SECONDS)).await;
    let rows = sqlx::query(
        "SELECT CAST(deployment_id AS TEXT) AS deployment, CAST(id AS TEXT) AS run, idempotency_key AS key, state_name AS state, \
         CAST(extract(epoch FROM expected_start_time) * 1000 AS BIGINT) AS slot \
         FROM flow_run WHERE auto_scheduled ORDER BY deployment_id, expected_start_time",
    )
    .fetch_all(&mut connection)
    .await?;
    for row in rows {
        let text = |name: &str| row.get::<Option<String>, _>(name).unwrap_or_default();
        let run = json!({
            "deployment": text("deployment"), "run": text("run"), "key": text("key"), "state": text("state"), "slot": row.get::<i64, _>("slot"),
        });
        history.add("observer", "run", run, Some(Outcome::Ok));
    }
    history.add("observer", "ended", json!({"at": at}), Some(Outcome::Ok));
    let healed = healed_at_each(cluster, "a deployment made and its runs read", async |id, http| {
        let flow = posted(http, "/flows/", &json!({"name": FLOW})).await?;
        let made = posted(http, "/deployments/", &body(&flow["id"], &format!("healed-{id}"), 1000, None)).await?;
        let filter = json!({"deployments": {"id": {"any_": [made["id"]]}}, "limit": 1});
        until(Duration::from_secs(10), "its runs are there", async || {
            let runs = posted(http, "/flow_runs/filter", &filter).await?;
            runs[0].is_object().then_some(())
        })
        .await
        .ok()
    });
    Ok(schedules::check(&history.entries()).and(healed.await))
}
