//! Producers delay background tasks through any node, as `task.delay()` does; workers on sockets of any node are handed one
//! at a time and acknowledge it, as `task.serve()` does. Some die with a run in hand. When producers have stopped the
//! workers go on until nothing comes any more.
//!
//! This is the stream with acknowledgements that clients can reach: the groups of the bus are Praetor's own.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Context, healed_at_each, judged, posted};
use crate::checker::deliveries;
use crate::client::{Outcome, Socket};
use crate::cluster::Cluster;
use crate::history::History;
use crate::verdict::Verdict;

const PRODUCERS: usize = 2;
const WORKERS: usize = 5;
const KEY: &str = "jepsen-task";
const PATH: &str = "/task_runs/subscriptions/scheduled";
/// A worker asks anew after so long without a run.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the workers have for what is left in the end: longer than the claim of a node that died lasts.
const DRAINED_WITHIN: Duration = Duration::from_mins(1);

/// Tasks that are enqueued for sure, and not yet acknowledged.
type Open = Arc<Mutex<BTreeSet<String>>>;

pub(super) async fn run(context: Context) {
    let open = Open::default();
    let drained = CancellationToken::new();
    let producers = (0..PRODUCERS).map(|number| produce(context.clone(), number, open.clone()));
    let workers = (0..WORKERS).map(|number| work(context.clone(), number, open.clone(), drained.clone()));
    let produced = async {
        futures_util::future::join_all(producers).await;
        let deadline = Instant::now() + DRAINED_WITHIN;
        while Instant::now() < deadline && !open.lock().expect("no holder of this lock panics").is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Whatever comes again shows itself while workers still wait.
        tokio::time::sleep(PATIENCE).await;
        drained.cancel();
    };
    futures_util::future::join(produced, futures_util::future::join_all(workers)).await;
}

fn deferred(key: &str, task: &str) -> Value {
    json!({
        "task_key": key, "dynamic_key": task, "name": task,
        "state": {"type": "SCHEDULED", "state_details": {"deferred": true, "task_parameters_id": task}},
    })
}

fn fresh() -> String {
    Uuid::from_u128(rand::random()).to_string()
}

async fn produce(context: Context, number: usize, open: Open) {
    let (process, mut chance) = (format!("producer-{number}"), context.chance(number));
    let https = context.https();
    while context.pause(Duration::from_millis(chance.random_range(10..60))).await {
        let task = fresh();
        context.history.add(&process, "enqueue", json!({"task": task}), None);
        let http = https.choose(&mut chance).expect("there are nodes");
        let (outcome, _, run) = judged(http.post("/task_runs/", &deferred(KEY, &task))).await;
        if outcome == Outcome::Ok {
            open.lock().expect("no holder of this lock panics").insert(task);
        }
        context.history.add(&process, "enqueue", json!({"run": run["id"]}), Some(outcome));
    }
}

async fn work(context: Context, number: usize, open: Open, drained: CancellationToken) {
    let (process, mut chance) = (format!("worker-{number}"), context.chance(PRODUCERS + number));
    let (mut connections, mut node) = (0, number);
    while !drained.is_cancelled() {
        connections += 1;
        node += 1;
        let connection = format!("{process}/{connections}");
        let Ok(mut socket) = connect(&context.apis[node % context.apis.len()], KEY, &process).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        loop {
            let run = match drained.run_until_cancelled(socket.next(PATIENCE)).await {
                None => return,
                Some(Err(error)) if error.is::<tokio::time::error::Elapsed>() => continue,
                Some(Err(_)) => break,
                Some(Ok(run)) => run,
            };
            let task = run["dynamic_key"].as_str().unwrap_or_default().to_owned();
            context.history.add(&process, "received", json!({"task": task, "connection": connection}), Some(Outcome::Ok));
            tokio::time::sleep(Duration::from_millis(chance.random_range(1..20))).await;
            if chance.random_ratio(1, 12) && !context.stop.is_cancelled() {
                // It dies with the run in hand.
                context.history.add(&process, "died", json!({"task": task, "connection": connection}), Some(Outcome::Ok));
                break;
            }
            if socket.send(&json!({"type": "ack"})).await.is_err() {
                break;
            }
            context.history.add(&process, "acked", json!({"task": task, "connection": connection}), Some(Outcome::Ok));
            open.lock().expect("no holder of this lock panics").remove(&task);
        }
    }
}

async fn connect(api: &str, key: &str, client: &str) -> anyhow::Result<Socket> {
    let mut socket = Socket::connect(api, PATH).await?;
    socket.send(&json!({"type": "subscribe", "keys": [key], "client_id": client})).await?;
    Ok(socket)
}

pub(super) async fn check(cluster: &Cluster, history: &History) -> Verdict {
    let healed = healed_at_each(cluster, "a task delayed and handed out", async |id, http| {
        let (key, task) = (format!("jepsen-healed-{id}"), fresh());
        posted(http, "/task_runs/", &deferred(&key, &task)).await?;
        let mut socket = connect(&cluster.api(id), &key, "healed").await.ok()?;
        let run = socket.next(PATIENCE * 2).await.ok()?;
        socket.send(&json!({"type": "ack"})).await.ok()?;
        (run["dynamic_key"] == task).then_some(())
    });
    deliveries::check(&history.entries()).and(healed.await)
}
