//! Clients take flow runs as workers do, carry them on, end them, crash them and schedule them again by force, and read
//! them, each request through any node. Every state has a tag of its own in its message, so a reader knows which request
//! set what it sees. A run lives for few operations, so that its history can be judged; then another takes its place.
//!
//! No request is repeated: the published client repeats one under the same transition id, which is another one here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::{Context, healed_at_each, judged, posted};
use crate::checker::runs::{self, Kind};
use crate::client::{Http, Outcome};
use crate::cluster::Cluster;
use crate::history::History;
use crate::verdict::Verdict;

const CLIENTS: usize = 6;
/// Runs at a time.
const RUNS: usize = 3;
/// Operations on one run.
const OPERATIONS: u32 = 30;
const FLOW: &str = "jepsen-flow-runs";

/// The service that calls runs late would set states, too.
pub(super) fn variables() -> Vec<(&'static str, String)> {
    vec![("PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED", "false".to_owned())]
}

/// Runs under way, and how many operations are left of each.
type Runs = Arc<std::sync::Mutex<Vec<(String, u32)>>>;

pub(super) async fn run(context: Context) {
    let flow = context.made("a flow", async |http| posted(http, "/flows/", &json!({"name": FLOW})).await).await;
    let Some(flow) = flow else { return };
    let (runs, tags) = (Runs::default(), Arc::new(AtomicU64::new(1)));
    let clients = (0..CLIENTS).map(|number| client(context.clone(), number, flow["id"].clone(), runs.clone(), tags.clone()));
    futures_util::future::join_all(clients).await;
}

async fn client(context: Context, number: usize, flow: Value, runs: Runs, tags: Arc<AtomicU64>) {
    let (process, mut chance) = (format!("client-{number}"), context.chance(number));
    let https = context.https();
    while context.pause(Duration::from_millis(chance.random_range(2..30))).await {
        let http = https.choose(&mut chance).expect("there are nodes");
        match one_of(&runs, &mut chance) {
            None => {
                if let Some(run) = create(&context, &process, http, &flow, &tags).await {
                    runs.lock().expect("no holder of this lock panics").push((run, OPERATIONS));
                }
            }
            Some(run) if chance.random_ratio(2, 5) => read(&context, &process, http, &run, chance.random_ratio(1, 2)).await,
            Some(run) => {
                let (to, force) = match chance.random_range(0..10) {
                    0..=2 => (Kind::Scheduled, true),
                    3..=6 => (Kind::Pending, false),
                    7 => (Kind::Running, false),
                    8 => (Kind::Completed, chance.random_ratio(1, 3)),
                    _ => (Kind::Crashed, chance.random_ratio(1, 4)),
                };
                set(&context, &process, http, &run, to, force, tags.fetch_add(1, Ordering::Relaxed)).await;
            }
        }
    }
}

/// One of the runs; `None` where another is to be made.
fn one_of(runs: &Runs, chance: &mut impl Rng) -> Option<String> {
    let mut runs = runs.lock().expect("no holder of this lock panics");
    if runs.len() < RUNS {
        return None;
    }
    let at = chance.random_range(0..runs.len());
    runs[at].1 -= 1;
    let run = runs[at].0.clone();
    if runs[at].1 == 0 {
        runs.swap_remove(at);
    }
    Some(run)
}

/// A state whose time has long come, tagged.
fn state(to: Kind, tag: u64) -> Value {
    let details = match to {
        Kind::Scheduled => json!({"scheduled_time": "2020-01-01T00:00:00Z"}),
        _ => json!({}),
    };
    json!({"type": to.name(), "message": tag.to_string(), "state_details": details})
}

async fn create(context: &Context, process: &str, http: &Http, flow: &Value, tags: &AtomicU64) -> Option<String> {
    let tag = tags.fetch_add(1, Ordering::Relaxed);
    let body = json!({"flow_id": flow, "state": state(Kind::Scheduled, tag)});
    let made = tokio::time::timeout(super::CALL_WITHIN, posted(http, "/flow_runs/", &body)).await.ok().flatten()?;
    let run = made["id"].as_str()?.to_owned();
    context.history.add(process, "create", json!({"run": run, "tag": tag, "to": Kind::Scheduled.name()}), Some(Outcome::Ok));
    Some(run)
}

async fn set(context: &Context, process: &str, http: &Http, run: &str, to: Kind, force: bool, tag: u64) {
    context.history.add(process, "set", json!({"run": run, "tag": tag, "to": to.name(), "force": force}), None);
    let body = json!({"state": state(to, tag), "force": force});
    let (outcome, _, answer) = judged(http.post(&format!("/flow_runs/{run}/set_state"), &body)).await;
    let answered = match outcome {
        Outcome::Ok => json!({"accepted": answer["status"] == "ACCEPT", "status": answer["status"]}),
        _ => Value::Null,
    };
    context.history.add(process, "set", answered, Some(outcome));
}

async fn read(context: &Context, process: &str, http: &Http, run: &str, by_filter: bool) {
    context.history.add(process, "read", json!({"run": run, "by_filter": by_filter}), None);
    let (outcome, _, answer) = if by_filter {
        judged(http.post("/flow_runs/filter", &json!({"flow_runs": {"id": {"any_": [run]}}}))).await
    } else {
        judged(http.get(&format!("/flow_runs/{run}"))).await
    };
    let seen = if by_filter { &answer[0] } else { &answer };
    let answered = match outcome {
        Outcome::Ok => seen_of(seen),
        _ => Value::Null,
    };
    context.history.add(process, "read", answered, Some(outcome));
}

/// The tag and type of a run's state; what contradicts itself is given as it is.
fn seen_of(run: &Value) -> Value {
    let tag = run["state"]["message"].as_str().and_then(|tag| tag.parse::<u64>().ok());
    if run["state_type"] != run["state"]["type"] || run["state_id"] != run["state"]["id"] {
        return json!({"contradiction": run});
    }
    json!({"tag": tag, "kind": run["state_type"]})
}

pub(super) async fn check(cluster: &Cluster, history: &History) -> Verdict {
    let healed = healed_at_each(cluster, "a state set and read", async |id, http| {
        let flow = posted(http, "/flows/", &json!({"name": FLOW})).await?;
        let run = posted(http, "/flow_runs/", &json!({"flow_id": flow["id"], "state": state(Kind::Scheduled, id)})).await?;
        let path = format!("/flow_runs/{}", run["id"].as_str()?);
        let set = posted(http, &format!("{path}/set_state"), &json!({"state": state(Kind::Pending, id + 1)})).await?;
        let (_, seen) = http.get(&path).await.ok()?;
        (set["status"] == "ACCEPT" && seen_of(&seen)["tag"] == id + 1).then_some(())
    })
    .await;
    runs::check(&history.entries()).and(healed)
}
