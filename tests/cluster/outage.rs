//! Postgres goes away while events stream through three nodes: publishers notice nothing, and once it is back every event
//! that was confirmed is in the database, once, and has had its effect, without a restart. What piles up meanwhile stays
//! within its bound; at the bound publishers wait.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jepsen::client::{EventsIn, Http};
use jepsen::database::Look;
use jepsen::postgres::Server;
use jepsen::proxy::Proxy;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::harness::{Cluster, Kind, Options, eventually, start, until};
use crate::long;

const MIB: u64 = 1024 * 1024;
/// Events per second of all publishers together.
const PER_SECOND: u64 = 1000;
/// Between two bursts of a publisher.
const BURST: Duration = Duration::from_millis(50);
/// Bursts between two confirmations.
const BURSTS: u64 = 20;
/// How long a confirmation may take before a publisher gives up.
const CONFIRM_WITHIN: Duration = Duration::from_mins(1);
/// How long the consumers may take to catch up.
const CAUGHT_UP_WITHIN: Duration = Duration::from_mins(4);
/// Events that an automation counts before it fires.
const THRESHOLD: i64 = 50;
/// The least that the bus may be bounded to.
const BACKLOG: u64 = 64 * MIB;
/// What the bus may keep in memory, of each kind.
const IN_MEMORY: u64 = 4 * MIB;
/// What the Raft log may keep in memory: its cache, and what is in its open file (`src/cluster/limits.rs`, 64 MiB each).
const RAFT_LOG: u64 = 128 * MIB;
/// What a node's memory may grow by for other reasons: connections, buffers, what the allocator keeps.
const OTHER_MEMORY: u64 = 64 * MIB;

fn event(name: &str, padding: usize) -> (Uuid, Value) {
    let id = Uuid::new_v4();
    let event = json!({
        "id": id, "occurred": chrono::Utc::now().to_rfc3339(), "event": name, "follows": null,
        "resource": {"prefect.resource.id": "praetor.outage"}, "related": [], "payload": {"padding": "x".repeat(padding)},
    });
    (id, event)
}

/// What the publishers did so far.
#[derive(Default)]
struct Progress {
    confirmed: AtomicU64,
    stop: AtomicBool,
}

/// What one publisher has to tell in the end. All that it sent is confirmed.
struct Told {
    sent: Vec<Uuid>,
    longest: Duration,
}

/// Streams through the socket of one of `nodes`, at its share of the rate, and never sees an error.
async fn stream(api: String, nodes: u64, progress: Arc<Progress>) -> Told {
    let mut socket = EventsIn::connect(&api).await.expect("connects");
    let mut told = Told { sent: Vec::new(), longest: Duration::ZERO };
    let mut bursts = tokio::time::interval(BURST);
    let burst = (PER_SECOND * BURST.as_millis() as u64).div_ceil(1000 * nodes);
    let mut stopping = false;
    while !stopping {
        stopping = progress.stop.load(Ordering::Relaxed);
        for _ in 0..BURSTS {
            bursts.tick().await;
            for _ in 0..burst {
                let (id, event) = event("praetor.outage.streamed", 300);
                socket.send(&event).await.expect("the socket stays open");
                told.sent.push(id);
            }
        }
        let asked = Instant::now();
        socket.confirm(CONFIRM_WITHIN).await.expect("a pong arrives");
        told.longest = told.longest.max(asked.elapsed());
        progress.confirmed.fetch_add(BURSTS * burst, Ordering::Relaxed);
    }
    socket.close(CONFIRM_WITHIN).await.expect("the close is answered");
    told
}

/// Posts single events, each of which is taken.
async fn post(api: String, progress: Arc<Progress>) -> Told {
    let http = Http::new(api);
    let mut told = Told { sent: Vec::new(), longest: Duration::ZERO };
    let mut pace = tokio::time::interval(BURST * 2);
    while !progress.stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let (id, event) = event("praetor.outage.streamed", 300);
        let asked = Instant::now();
        let (status, body) = http.post("/events", &json!([event])).await.expect("it is answered");
        assert_eq!(status, 204, "{body}");
        told.longest = told.longest.max(asked.elapsed());
        told.sent.push(id);
        progress.confirmed.fetch_add(1, Ordering::Relaxed);
    }
    told
}

/// Bytes that the bus keeps, as a node tells.
async fn backlog(cluster: &Cluster, node: u64) -> u64 {
    let status = cluster.status(node).await.expect("it answers");
    status["streams"].as_array().expect("streams").iter().filter_map(|stream| stream["bytes"].as_u64()).sum()
}

/// Bytes of memory that a node's process holds.
fn memory(cluster: &Cluster, node: u64) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.pid(node))).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}

async fn most(cluster: &Cluster) -> (u64, u64) {
    let (mut bytes, mut resident) = (0, 0);
    for id in cluster.ids() {
        bytes = bytes.max(backlog(cluster, id).await);
        resident = resident.max(memory(cluster, id));
    }
    (bytes, resident)
}

async fn count(look: &mut Look) -> i64 {
    look.number("SELECT count(*) FROM events WHERE event LIKE 'praetor.outage.%'").await.expect("an answer")
}

/// Waits until as many events as `sent` are in the database, and fails where they are not exactly those, once.
async fn all_there(cluster: &Cluster, sent: &BTreeSet<String>) {
    let mut look = cluster.database().look().await.expect("the database opens");
    let caught_up = until(CAUGHT_UP_WITHIN, "all are there", async || (count(&mut look).await >= sent.len() as i64).then_some(())).await;
    let ids = look.texts("SELECT CAST(id AS TEXT) FROM events WHERE event LIKE 'praetor.outage.%'").await.expect("an answer");
    let there: BTreeSet<String> = ids.iter().cloned().collect();
    let lost: Vec<&String> = sent.difference(&there).collect();
    assert!(lost.is_empty(), "{} of {} confirmed events are missing, such as {}: {caught_up:?}", lost.len(), sent.len(), lost[0]);
    assert_eq!((ids.len(), there.len()), (sent.len(), sent.len()), "an event is there twice, or was never sent");
    let resources = "SELECT count(*) FROM event_resources r JOIN events e ON e.id = r.event_id WHERE e.event LIKE 'praetor.outage.%'";
    assert_eq!(look.number(resources).await.expect("an answer"), sent.len() as i64, "each event has one resource");
}

fn options(nodes: u64, postgres: &Server) -> Options {
    Options::new(nodes, Kind::Postgres)
        .postgres(postgres.url())
        .variable("PRAETOR_BUS_BACKLOG_BYTES_MAX", BACKLOG)
        .variable("PRAETOR_BUS_HOT_BYTES_MAX", IN_MEMORY)
        .variable("PRAETOR_BUS_CACHE_BYTES_MAX", IN_MEMORY)
}

/// How Postgres goes away.
#[derive(Clone, Copy, Debug)]
enum Outage {
    /// Its processes end; connections are refused.
    Crash,
    /// Its processes stand still; nothing is answered for a while.
    Hang,
    /// The network is cut: what was connected never hears of it again.
    Silence,
}

async fn nothing_is_lost(nodes: u64, outage: Outage) {
    let lasting = Duration::from_secs(if long() { 60 } else { 8 });
    let mut postgres = Server::start().await.expect("PostgreSQL starts");
    let proxy = Proxy::start(postgres.port()).await.expect("the proxy listens");
    let cluster = start(options(nodes, &postgres).through(proxy.number())).await;
    let trigger =
        json!({"type": "event", "posture": "Reactive", "expect": ["praetor.outage.streamed"], "threshold": THRESHOLD, "within": 0});
    let automation = json!({"name": "window", "trigger": trigger, "actions": [{"type": "do-nothing"}]});
    assert_eq!(cluster.http(1).post("/automations/", &automation).await.expect("it answers").0, 201);

    let progress = Arc::new(Progress::default());
    let confirmed = || progress.confirmed.load(Ordering::Relaxed);
    let mut publishers: Vec<_> =
        cluster.ids().into_iter().map(|id| tokio::spawn(stream(cluster.api(id), nodes, Arc::clone(&progress)))).collect();
    publishers.push(tokio::spawn(post(cluster.api(1), Arc::clone(&progress))));
    {
        let mut look = cluster.database().look().await.expect("the database opens");
        eventually(CAUGHT_UP_WITHIN, "events flow", async || count(&mut look).await > 1000).await;
    }
    let (_, before) = most(&cluster).await;

    let (began, at_begin) = (Instant::now(), confirmed());
    match outage {
        Outage::Crash => postgres.crash().await.expect("it ends"),
        Outage::Hang => postgres.pause().expect("it stands still"),
        Outage::Silence => proxy.fall_silent(),
    }
    let wanted = PER_SECOND * lasting.as_secs();
    let (mut bytes, mut resident) = (0, before);
    let within = lasting * 5 + Duration::from_mins(1);
    eventually(within, "the outage lasts, and events are confirmed all the while", async || {
        let (now_bytes, now_resident) = most(&cluster).await;
        (bytes, resident) = (bytes.max(now_bytes), resident.max(now_resident));
        began.elapsed() >= lasting && confirmed() - at_begin >= wanted
    })
    .await;
    let (lasted, during) = (began.elapsed(), confirmed() - at_begin);
    match outage {
        Outage::Crash => postgres.restart().await.expect("it starts again"),
        Outage::Hang => postgres.resume().expect("it goes on"),
        Outage::Silence => proxy.heal(),
    }
    let back = Instant::now();
    let at_end = confirmed();
    eventually(CONFIRM_WITHIN, "events go on being confirmed", async || confirmed() >= at_end + PER_SECOND).await;
    progress.stop.store(true, Ordering::Relaxed);
    let (mut sent, mut longest) = (BTreeSet::new(), Duration::ZERO);
    for publisher in publishers {
        let told = publisher.await.expect("a publisher saw no error");
        longest = longest.max(told.longest);
        sent.extend(told.sent.iter().map(Uuid::to_string));
    }
    all_there(&cluster, &sent).await;
    let caught_up = back.elapsed();
    let (_, after) = most(&cluster).await;
    resident = resident.max(after);
    println!(
        "{outage:?}, {nodes} nodes: Postgres away for {:.1} s, {during} events confirmed meanwhile ({:.0}/s); all {} events in the database, once, {:.1} s \
         after it was back; the longest confirmation took {:.2} s; backlog at most {:.1} of {} MiB, a node's memory from {} to at most {} MiB",
        lasted.as_secs_f64(),
        during as f64 / lasted.as_secs_f64(),
        sent.len(),
        caught_up.as_secs_f64(),
        longest.as_secs_f64(),
        bytes as f64 / MIB as f64,
        BACKLOG / MIB,
        before / MIB,
        resident / MIB,
    );
    assert!(bytes <= BACKLOG, "the bus kept {bytes} bytes");
    assert!(resident - before <= 2 * IN_MEMORY + RAFT_LOG + OTHER_MEMORY, "a node's memory grew from {before} to {resident} bytes");
    // Each full window has fired, and none twice.
    let mut look = cluster.database().look().await.expect("the database opens");
    let firings = "SELECT count(*) FROM events WHERE event = 'prefect.automation.triggered'";
    let expected = sent.len() as i64 / THRESHOLD;
    eventually(CAUGHT_UP_WITHIN, "every full window fires", async || look.number(firings).await.expect("an answer") >= expected).await;
    assert_eq!(look.number(firings).await.expect("an answer"), expected, "no event counts twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_taken_while_postgres_is_down_and_none_is_lost() {
    nothing_is_lost(3, Outage::Crash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_taken_while_postgres_stands_still_and_none_is_lost() {
    nothing_is_lost(3, Outage::Hang).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_taken_while_the_way_to_postgres_is_cut_and_none_is_lost() {
    // Of three nodes another would take over from one that hangs; this one has to help itself.
    nothing_is_lost(1, Outage::Silence).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_wait_while_the_bus_is_full_and_nothing_is_lost() {
    const PADDING: usize = 100_000;
    let mut postgres = Server::start().await.expect("PostgreSQL starts");
    let cluster = start(options(3, &postgres)).await;
    postgres.crash().await.expect("it ends");
    let progress = Arc::new(Progress::default());
    let publishers: Vec<_> = cluster
        .ids()
        .into_iter()
        .map(|id| {
            let (api, progress) = (cluster.api(id), Arc::clone(&progress));
            tokio::spawn(async move {
                let mut socket = EventsIn::connect(&api).await.expect("connects");
                let mut sent = Vec::new();
                // More than fits in the end, whoever is first.
                while sent.len() as u64 * PADDING as u64 <= BACKLOG / 2 {
                    for _ in 0..10 {
                        let (id, event) = event("praetor.outage.large", PADDING);
                        socket.send(&event).await.expect("the socket stays open");
                        sent.push(id);
                    }
                    socket.confirm(CAUGHT_UP_WITHIN).await.expect("a pong arrives in the end");
                    progress.confirmed.fetch_add(10, Ordering::Relaxed);
                }
                sent
            })
        })
        .collect();
    let mut bytes = 0;
    eventually(CAUGHT_UP_WITHIN, "the bus is full, and says so", async || {
        bytes = most(&cluster).await.0.max(bytes);
        let (_, probe) = event("praetor.probe", PADDING);
        cluster.http(1).post("/events", &json!([probe])).await.expect("it answers").0 == 503
    })
    .await;
    let when_full = progress.confirmed.load(Ordering::Relaxed);
    assert!(publishers.iter().any(|publisher| !publisher.is_finished()), "somebody has to wait");
    postgres.restart().await.expect("it starts again");
    let mut sent = BTreeSet::new();
    for publisher in publishers {
        sent.extend(publisher.await.expect("a publisher saw no error").iter().map(Uuid::to_string));
    }
    assert!(when_full < sent.len() as u64, "{when_full} of {} were confirmed", sent.len());
    println!(
        "{when_full} events of {} kB fill the bus ({:.1} MiB); all {} are taken in the end",
        PADDING / 1000,
        bytes as f64 / MIB as f64,
        sent.len()
    );
    assert!((BACKLOG - 4 * MIB..=BACKLOG).contains(&bytes), "the bus kept {bytes} bytes");
    all_there(&cluster, &sent).await;
}
