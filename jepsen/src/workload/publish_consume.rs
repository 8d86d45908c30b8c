//! Publishers behave as the Prefect client does: they keep what they sent until a pong, and resend it elsewhere after a
//! break; now and then one resends what was confirmed already. One of them is the published client itself, where
//! `PRAETOR_TEST_PREFECT` names it. Subscribers follow what comes out of each node, with and without what they missed.
//!
//! At the end every confirmed event is in the database exactly once; unconfirmed ones may be there, once. A server whose
//! database is not ours is asked by its API instead ([`check_by_api`]), so that the same load can be put on another one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use rand::Rng;
use serde_json::{Value, json};
use sqlx::Row;
use tokio::io::{AsyncBufReadExt, BufReader};
use uuid::Uuid;

use super::{Context, healed_at_each, now_text};
use crate::checker::{events, operations};
use crate::client::{EventsIn, Http, Outcome, Socket};
use crate::cluster::{Cluster, scrub};
use crate::history::{Entry, History};
use crate::verdict::Verdict;
use crate::wait::until;

const PUBLISHERS: usize = 4;
/// Events between two pings.
const CHECKPOINT: usize = 50;
/// Between two batches of a publisher.
const PAUSE: Duration = Duration::from_millis(100);
/// A pong may take an election and more.
const CONFIRM_WITHIN: Duration = Duration::from_secs(15);
/// How long the services may take to write what was confirmed.
const PERSIST_WITHIN: Duration = Duration::from_mins(1);
/// What a subscriber has seen is written down so often.
const TOLD_EVERY: Duration = Duration::from_millis(500);
/// How many ids a server is asked about at once.
const ASKED_AT_ONCE: usize = 50;
const EVENT: &str = "jepsen.published";
/// Names the published `prefect` program; `python` lies beside it.
const PREFECT_VARIABLE: &str = "PRAETOR_TEST_PREFECT";

pub(super) async fn run(context: Context) {
    let publishers = (0..PUBLISHERS).map(|number| publish(context.clone(), number));
    let subscribers = (0..context.apis.len()).map(|node| subscribe(context.clone(), node));
    let all = futures_util::future::join(futures_util::future::join_all(publishers), futures_util::future::join_all(subscribers));
    futures_util::future::join(all, published_client(context.clone())).await;
}

async fn publish(context: Context, number: usize) {
    let (process, mut chance) = (format!("publisher-{number}"), context.chance(number));
    let (mut node, mut pending) = (number, Vec::new());
    while !context.stop.is_cancelled() {
        let api = &context.apis[node % context.apis.len()];
        node += 1;
        let Ok(mut socket) = EventsIn::connect(api).await else {
            context.pause(Duration::from_millis(50)).await;
            continue;
        };
        while !context.stop.is_cancelled() {
            while pending.len() < CHECKPOINT {
                pending.push(event(EVENT, &format!("jepsen.{process}")));
            }
            if !batch(&context, &process, &mut socket, &pending).await {
                break;
            }
            if chance.random_ratio(1, 20) {
                // A client that did not hear of its pong; the copy may travel over another node.
                let elsewhere = &context.apis[chance.random_range(0..context.apis.len())];
                if let Ok(mut socket) = EventsIn::connect(elsewhere).await {
                    batch(&context, &process, &mut socket, &pending).await;
                }
            }
            pending.clear();
            context.pause(PAUSE).await;
        }
    }
}

async fn batch(context: &Context, process: &str, socket: &mut EventsIn, events: &[Value]) -> bool {
    let ids: Value = events.iter().map(|event| event["id"].clone()).collect();
    context.history.add(process, "publish", ids, None);
    let confirmed = round(socket, events).await.is_ok();
    let outcome = if confirmed { Outcome::Ok } else { Outcome::Unknown };
    context.history.add(process, "publish", json!(events.len()), Some(outcome));
    confirmed
}

async fn round(socket: &mut EventsIn, events: &[Value]) -> anyhow::Result<()> {
    for event in events {
        socket.send(event).await?;
    }
    socket.confirm(CONFIRM_WITHIN).await
}

/// An event of that name about a resource.
pub fn event(name: &str, resource: &str) -> Value {
    json!({
        "id": Uuid::from_u128(rand::random()),
        "event": name,
        "occurred": now_text(),
        "resource": {"prefect.resource.id": resource},
        "related": [],
        "payload": {},
    })
}

/// Follows one node, connection after connection; every second one begins with what the database has of the last seconds.
async fn subscribe(context: Context, node: usize) {
    let process = format!("subscriber-{node}");
    let mut connections = 0;
    while !context.stop.is_cancelled() {
        connections += 1;
        let name = format!("{process}/{connections}");
        let followed = context.stop.run_until_cancelled(follow(&context, &process, &name, node, connections % 2 == 0));
        if let Some(Err(error)) = followed.await {
            context.history.add(&process, "subscription", json!({"connection": name, "ended": error.to_string()}), Some(Outcome::Failed));
            context.pause(Duration::from_millis(200)).await;
        }
    }
}

async fn follow(context: &Context, process: &str, connection: &str, node: usize, backfill: bool) -> anyhow::Result<()> {
    let mut socket = Socket::connect(&context.apis[node], "/events/out").await?;
    let filter = json!({"event": {"name": [EVENT]}, "occurred": {"since": now_text()}});
    socket.send(&json!({"type": "filter", "filter": filter, "backfill": backfill})).await?;
    loop {
        let (mut ids, begun) = (Vec::new(), tokio::time::Instant::now());
        let ended = loop {
            match socket.next(TOLD_EVERY).await {
                Ok(mut message) => ids.push(message["event"]["id"].take()),
                Err(error) if error.is::<tokio::time::error::Elapsed>() => break Ok(()),
                Err(error) => break Err(error),
            }
            if begun.elapsed() > TOLD_EVERY {
                break Ok(());
            }
        };
        if !ids.is_empty() {
            // What comes out of the database comes by the time of the events, and what is committed meanwhile after that.
            let seen = json!({"connection": connection, "ordered": !backfill, "ids": ids});
            context.history.add(process, "consumed", seen, Some(Outcome::Ok));
        }
        ended?;
    }
}

/// The published client beside ours, as often as it gives up.
async fn published_client(context: Context) {
    let Some(prefect) = std::env::var_os(PREFECT_VARIABLE) else { return };
    let python = Path::new(&prefect).with_file_name("python");
    let mut node = 0;
    while !context.stop.is_cancelled() {
        let api = &context.apis[node % context.apis.len()];
        node += 1;
        if let Err(error) = published_client_of(&context, &python, api).await {
            let why = json!({"error": format!("{error:#}")});
            context.history.add("published-client", "ended", why, Some(Outcome::Failed));
            context.pause(Duration::from_secs(1)).await;
        }
    }
}

async fn published_client_of(context: &Context, python: &Path, api: &str) -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let log = std::fs::File::create(home.path().join("log"))?;
    let mut command = std::process::Command::new(python);
    scrub(&mut command);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/workload/publisher.py");
    command.arg(script).args([EVENT, "200"]);
    command.env("PREFECT_HOME", home.path()).env("PREFECT_API_URL", api).env("PREFECT_SERVER_ANALYTICS_ENABLED", "false");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().context("python cannot be started")?;
    let mut input = child.stdin.take();
    let mut lines = BufReader::new(child.stdout.take().context("its output is a pipe")?).lines();
    loop {
        let line = tokio::select! {
            line = tokio::time::timeout(PERSIST_WITHIN, lines.next_line()) => line,
            () = context.stop.cancelled(), if input.is_some() => {
                // It closes its socket, and says what that confirmed.
                input = None;
                continue;
            }
        };
        let Some(line) = line.context("it is silent")?? else { break };
        let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
        for word in ["sent", "confirmed"] {
            if said[word].is_array() {
                context.history.add("published-client", word, said[word].clone(), Some(Outcome::Ok));
            }
        }
    }
    let ended = child.wait().await?;
    anyhow::ensure!(ended.success(), "{ended}: {}", std::fs::read_to_string(home.path().join("log")).unwrap_or_default());
    Ok(())
}

/// The ids that were sent in; those that were confirmed.
fn sent(entries: &[Entry]) -> (Vec<String>, Vec<String>) {
    let ids = |value: &Value| value.as_array().into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)).collect::<Vec<_>>();
    let (mut all, mut confirmed) = (Vec::new(), Vec::new());
    for publish in operations(entries, "publish") {
        if publish.outcome == Outcome::Ok {
            confirmed.extend(ids(&publish.asked));
        }
        all.extend(ids(&publish.asked));
    }
    for entry in entries {
        match entry.operation.as_str() {
            "sent" => all.extend(ids(&entry.value)),
            "confirmed" => confirmed.extend(ids(&entry.value)),
            _ => {}
        }
    }
    for ids in [&mut all, &mut confirmed] {
        ids.sort_unstable();
        ids.dedup();
    }
    (all, confirmed)
}

pub(super) async fn check(cluster: &Cluster, history: &History) -> anyhow::Result<Verdict> {
    let (_, confirmed) = sent(&history.entries());
    let mut connection = cluster.database().connect().await?;
    let mut found: BTreeMap<String, i64> = BTreeMap::new();
    // What is not there in time is lost, by the checker.
    let _in_time = until(PERSIST_WITHIN, "all confirmed events are written", async || {
        let rows = sqlx::query("SELECT id, count(*) AS times FROM events WHERE event = $1 GROUP BY id")
            .bind(EVENT)
            .fetch_all(&mut connection)
            .await
            .ok()?;
        found = rows.iter().map(|row| (row.get::<Uuid, _>("id").to_string(), row.get("times"))).collect();
        confirmed.iter().all(|id| found.contains_key(id)).then_some(())
    })
    .await;
    history.add("observer", "found", json!(found), Some(Outcome::Ok));
    let healed = healed_at_each(cluster, "an event confirmed and read", async |id, http| {
        let event = event("jepsen.healed", "jepsen.healed");
        let mut socket = EventsIn::connect(&cluster.api(id)).await.ok()?;
        round(&mut socket, std::slice::from_ref(&event)).await.ok()?;
        until(Duration::from_secs(5), "it can be read", async || {
            let found = read(http, std::slice::from_ref(&event["id"])).await.ok()?;
            (found.len() == 1).then_some(())
        })
        .await
        .ok()
    });
    Ok(events::check(&history.entries()).and(healed.await))
}

/// As the check over our database, by what servers at `apis` answer to whoever asks for the events.
///
/// # Errors
/// None of them answers.
pub async fn check_by_api(apis: &[String], history: &History, within: Duration) -> anyhow::Result<Verdict> {
    let (all, confirmed) = sent(&history.entries());
    let https: Vec<Http> = apis.iter().cloned().map(Http::new).collect();
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    let mut failed = None;
    let _in_time = until(within, "all confirmed events can be read", async || {
        let left: Vec<Value> = all.iter().filter(|id| !found.contains_key(*id)).map(|id| json!(id)).collect();
        for (number, some) in left.chunks(ASKED_AT_ONCE).enumerate() {
            match read(&https[number % https.len()], some).await {
                Ok(ids) => ids.into_iter().for_each(|id| *found.entry(id).or_default() += 1),
                Err(error) => {
                    failed = Some(error);
                    return None;
                }
            }
        }
        failed = None;
        confirmed.iter().all(|id| found.contains_key(id)).then_some(())
    })
    .await;
    if let Some(error) = failed {
        return Err(error.context("the events cannot be read"));
    }
    history.add("observer", "found", json!(found), Some(Outcome::Ok));
    Ok(events::check(&history.entries()))
}

/// Which of at most [`ASKED_AT_ONCE`] events a server has.
async fn read(http: &Http, ids: &[Value]) -> anyhow::Result<Vec<String>> {
    let (status, answer) = http.post("/events/filter", &json!({"filter": {"id": {"id": ids}}, "limit": ASKED_AT_ONCE})).await?;
    anyhow::ensure!(status == 200, "{status} {answer}");
    let events = answer["events"].as_array().into_iter().flatten();
    Ok(events.filter_map(|event| event["id"].as_str().map(str::to_owned)).collect())
}
