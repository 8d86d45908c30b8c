//! Values that clients set and read through any node while members come and go, or are killed: each is a register, and
//! linearizable. Beside that every node is asked who leads, as in the workload `leader-services`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Context, healed_at_each, judged, leader_services};
use crate::checker::{leaders, registers};
use crate::client::{EventsIn, Http, Outcome};
use crate::cluster::Cluster;
use crate::history::History;
use crate::verdict::Verdict;

const CLIENTS: usize = 5;
/// Names in use at a time.
const NAMES: u64 = 3;
/// Operations until other names take their place, so that each has a history that can be judged.
const OPERATIONS: u64 = 90;
/// How long a pong may take once the group is whole.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn run(context: Context) {
    let operations = Arc::new(AtomicU64::new(0));
    let clients = (0..CLIENTS).map(|number| client(context.clone(), number, operations.clone()));
    futures_util::future::join(futures_util::future::join_all(clients), leader_services::run(context.clone())).await;
}

async fn client(context: Context, number: usize, operations: Arc<AtomicU64>) {
    let (process, mut chance) = (format!("client-{number}"), context.chance(number));
    let https = context.https();
    while context.pause(Duration::from_millis(chance.random_range(5..40))).await {
        let operation = operations.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("jepsen-{}-{}", operation / OPERATIONS, chance.random_range(0..NAMES));
        let http = https.choose(&mut chance).expect("there are nodes");
        if chance.random_ratio(1, 2) {
            write(&context, &process, http, &name, operation).await;
        } else {
            look(&context, &process, http, &name).await;
        }
    }
}

/// Sets a value, and makes its name where it is not there yet; of two that do so at once the second is refused.
async fn write(context: &Context, process: &str, http: &Http, name: &str, value: u64) {
    context.history.add(process, "write", json!({"name": name, "value": value}), None);
    let (mut outcome, status, _) = judged(http.patch(&format!("/variables/name/{name}"), &json!({"value": value}))).await;
    if status == 404 {
        outcome = judged(http.post("/variables/", &json!({"name": name, "value": value}))).await.0;
    }
    context.history.add(process, "write", json!(null), Some(outcome));
}

async fn look(context: &Context, process: &str, http: &Http, name: &str) {
    context.history.add(process, "look", json!({"name": name}), None);
    let (outcome, status, variable) = judged(http.get(&format!("/variables/name/{name}"))).await;
    // A name that is not there has not been set.
    let (outcome, seen) = match status {
        404 => (Outcome::Ok, json!(0)),
        _ if outcome == Outcome::Ok => (outcome, variable["value"].clone()),
        _ => (outcome, Value::Null),
    };
    context.history.add(process, "look", seen, Some(outcome));
}

pub(super) async fn check(cluster: &Cluster, history: &History) -> Verdict {
    let entries = history.entries();
    let leaders = match leaders::check(&entries) {
        Err(invalid) => invalid,
        Ok(seen) => Verdict::Valid(format!("{} epochs and {} terms, each of one node, growing at every node", seen.epochs, seen.terms)),
    };
    registers::check(&entries).and(leaders).and(healed(cluster).await)
}

/// A value set and read, and an event confirmed, at each node.
pub(super) async fn healed(cluster: &Cluster) -> Verdict {
    healed_at_each(cluster, "a value set and read and an event confirmed", async |id, http| {
        let (name, value) = (format!("jepsen-healed-{id}"), json!(Uuid::from_u128(rand::random())));
        let (201 | 409, _) = http.post("/variables/", &json!({"name": name, "value": 0})).await.ok()? else { return None };
        let path = format!("/variables/name/{name}");
        let (204, _) = http.patch(&path, &json!({"value": value})).await.ok()? else { return None };
        let (_, seen) = http.get(&path).await.ok()?;
        let mut socket = EventsIn::connect(&cluster.api(id)).await.ok()?;
        socket.send(&super::publish_consume::event("jepsen.healed", &format!("jepsen.healed.{id}"))).await.ok()?;
        socket.confirm(CONFIRM_WITHIN).await.ok()?;
        (seen["value"] == value).then_some(())
    })
    .await
}
