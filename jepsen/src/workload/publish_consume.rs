//! Publishers behave as the Prefect client does: they keep what they sent until a pong, and resend it elsewhere after a
//! break. At the end every confirmed event is in the database exactly once; unconfirmed ones may be there, once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Row;
use uuid::Uuid;

use super::Context;
use crate::client::{EventsIn, Outcome};
use crate::cluster::Cluster;
use crate::history::History;
use crate::verdict::Verdict;
use crate::wait::until;

const PUBLISHERS: usize = 4;
/// Events between two pings.
const CHECKPOINT: usize = 50;
/// A pong may take an election and more.
const CONFIRM_WITHIN: Duration = Duration::from_secs(15);
/// How long the services may take to write what was confirmed.
const PERSIST_WITHIN: Duration = Duration::from_mins(1);
const EVENT: &str = "jepsen.published";

pub(super) async fn run(context: Context) {
    let publishers = (0..PUBLISHERS).map(|number| publish(context.clone(), number));
    futures_util::future::join_all(publishers).await;
}

async fn publish(context: Context, number: usize) {
    let process = format!("publisher-{number}");
    let mut node = number;
    let mut pending: Vec<Value> = Vec::new();
    while !context.stop.is_cancelled() {
        let api = &context.apis[node % context.apis.len()];
        node += 1;
        let Ok(mut socket) = EventsIn::connect(api).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while !context.stop.is_cancelled() {
            while pending.len() < CHECKPOINT {
                pending.push(event(&process));
            }
            if round(&mut socket, &pending).await.is_err() {
                context.history.add(&process, "publish", ids(&pending), Some(Outcome::Unknown));
                break;
            }
            context.history.add(&process, "publish", ids(&pending), Some(Outcome::Ok));
            pending.clear();
        }
    }
}

async fn round(socket: &mut EventsIn, events: &[Value]) -> anyhow::Result<()> {
    for event in events {
        socket.send(event).await?;
    }
    socket.confirm(CONFIRM_WITHIN).await
}

fn event(process: &str) -> Value {
    json!({
        "id": Uuid::from_u128(rand::random()),
        "event": EVENT,
        "occurred": chrono_now(),
        "resource": {"prefect.resource.id": format!("jepsen.{process}")},
        "related": [],
        "payload": {},
    })
}

#[expect(clippy::disallowed_methods, reason = "a client tells the time by its own clock")]
fn chrono_now() -> String {
    chrono::Utc::now().to_rfc3339()
}

fn ids(events: &[Value]) -> Value {
    events.iter().map(|event| event["id"].clone()).collect()
}

/// The ids of operations with this outcome.
fn published(history: &History, outcome: &Outcome) -> BTreeSet<Uuid> {
    let entries = history.entries();
    let of_interest = entries.iter().filter(|entry| entry.operation == "publish" && entry.outcome.as_ref() == Some(outcome));
    of_interest.flat_map(|entry| entry.value.as_array().into_iter().flatten()).filter_map(|id| id.as_str()?.parse().ok()).collect()
}

pub(super) async fn check(cluster: &Cluster, history: &History) -> anyhow::Result<Verdict> {
    let confirmed = published(history, &Outcome::Ok);
    let unknown: BTreeSet<Uuid> = published(history, &Outcome::Unknown).difference(&confirmed).copied().collect();
    if confirmed.is_empty() {
        return Ok(Verdict::Unknown("no event was confirmed".to_owned()));
    }
    let mut connection = cluster.database().connect().await?;
    let mut found: BTreeMap<Uuid, i64> = BTreeMap::new();
    let waited = until(PERSIST_WITHIN, "all confirmed events are written", async || {
        let rows = sqlx::query("SELECT id, count(*) AS times FROM events WHERE event = $1 GROUP BY id")
            .bind(EVENT)
            .fetch_all(&mut connection)
            .await
            .ok()?;
        found = rows.iter().map(|row| (row.get("id"), row.get("times"))).collect();
        confirmed.iter().all(|id| found.contains_key(id)).then_some(())
    })
    .await;
    let twice = found.values().filter(|times| **times > 1).count();
    let invented = found.keys().filter(|id| !confirmed.contains(id) && !unknown.contains(id)).count();
    let lost = confirmed.iter().filter(|id| !found.contains_key(id)).count();
    if lost + twice + invented > 0 {
        let slow = waited.err().map(|error| format!(" ({error})")).unwrap_or_default();
        return Ok(Verdict::Invalid(format!("{lost} confirmed events lost, {twice} written twice, {invented} never sent{slow}")));
    }
    Ok(Verdict::Valid(format!(
        "{} confirmed events are there once; of {} unconfirmed ones {} are",
        confirmed.len(),
        unknown.len(),
        unknown.iter().filter(|id| found.contains_key(id)).count()
    )))
}
