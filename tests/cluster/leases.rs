//! Slots of concurrency limits in use by clients that hang up, break off and forget, over nodes that are killed and paused:
//! what is counted is what is leased, at every look; no living client loses its lease; in the end all slots are free.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jepsen::client::Http;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor, PgConnection};

use crate::harness::{Cluster, Kind, Options, eventually, start};
use crate::long;

/// Clients at work.
const CLIENTS: u64 = 6;
/// Limits and their slots.
const LIMITS: [(&str, i64); 3] = [("narrow", 2), ("wide", 6), ("shared", 4)];

/// Limits whose count is not the sum of their leases, or beyond what they allow.
const WRONG: &str = "
    SELECT count(*) FROM concurrency_limit_v2 l
    WHERE l.active_slots > l.\"limit\" OR l.active_slots <> (
        SELECT coalesce(sum(held.slots), 0) FROM praetor.lease held WHERE held.limit_ids ? CAST(l.id AS text))";

/// What happened.
#[derive(Default)]
struct Faults {
    kills: AtomicU64,
    pauses: AtomicU64,
    disconnects: AtomicU64,
    forgotten: AtomicU64,
    taken: AtomicU64,
    renewed: AtomicU64,
}

impl Faults {
    fn sum(&self) -> u64 {
        [&self.kills, &self.pauses, &self.disconnects, &self.forgotten].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

fn count(of: &AtomicU64) {
    of.fetch_add(1, Ordering::Relaxed);
}

/// Takes, renews and gives back through any node, and now and then breaks off or forgets what it has.
async fn client(apis: Vec<String>, mut database: PgConnection, seed: u64, stop: Arc<AtomicBool>, faults: Arc<Faults>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let https: Vec<Http> = apis.into_iter().map(Http::new).collect();
    while !stop.load(Ordering::Relaxed) {
        let names: Vec<&str> = LIMITS.iter().map(|(name, _)| *name).filter(|_| rng.random_bool(0.6)).collect();
        if names.is_empty() {
            continue;
        }
        let body = json!({"names": names, "slots": 1, "mode": "concurrency", "lease_duration": 60});
        let http = https.choose(&mut rng).expect("three");
        let asked = http.post("/v2/concurrency_limits/increment-with-lease", &body);
        if rng.random_bool(0.15) {
            // Breaks off amid the request; whether it has slots it will never know.
            count(&faults.disconnects);
            drop(tokio::time::timeout(Duration::from_millis(rng.random_range(0..15)), asked).await);
            continue;
        }
        let Ok(Ok((200, granted))) = tokio::time::timeout(Duration::from_secs(2), asked).await else { continue };
        count(&faults.taken);
        let lease = granted["lease_id"].as_str().expect("an id").to_owned();
        for _ in 0..rng.random_range(0..3) {
            let http = https.choose(&mut rng).expect("three");
            let (path, body) = (format!("/v2/concurrency_limits/leases/{lease}/renew"), json!({"lease_duration": 60}));
            let renewal = http.post(&path, &body);
            if let Ok(Ok((status, body))) = tokio::time::timeout(Duration::from_secs(2), renewal).await {
                assert_ne!(status, 410, "a living client lost its lease: {body}");
                count(&faults.renewed);
            }
        }
        if rng.random_bool(0.1) {
            // It dies; its time passes at once.
            count(&faults.forgotten);
            let sql = format!("UPDATE praetor.lease SET expires = now() - interval '1 second' WHERE id = '{lease}'");
            database.execute(AssertSqlSafe(sql)).await.expect("the database answers");
            continue;
        }
        // Until somebody says that it is given back.
        let body = json!({"lease_id": lease});
        while !stop.load(Ordering::Relaxed) {
            let http = https.choose(&mut rng).expect("three");
            let given = http.post("/v2/concurrency_limits/decrement-with-lease", &body);
            if matches!(tokio::time::timeout(Duration::from_secs(2), given).await, Ok(Ok((204, _)))) {
                break;
            }
        }
    }
}

async fn number(cluster: &Cluster, sql: &str) -> i64 {
    cluster.database().look().await.expect("the database opens").number(sql).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_follow_their_leases_through_kills_pauses_and_disconnects_and_all_come_back() {
    let wanted = if long() { 1_000 } else { 200 };
    let seed = std::env::var("PRAETOR_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let options = Options::new(3, Kind::Postgres)
        .variable("PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS", 0.2)
        .variable("PRAETOR_SERVICES_REPOSSESSOR_GRACE_SECONDS", 0.5);
    let mut cluster = start(options).await;
    for (name, limit) in LIMITS {
        let (status, body) =
            cluster.http(1).post("/v2/concurrency_limits/", &json!({"name": name, "limit": limit})).await.expect("an answer");
        assert_eq!(status, 201, "{body}");
    }
    let (stop, faults) = (Arc::new(AtomicBool::new(false)), Arc::new(Faults::default()));
    let apis: Vec<String> = cluster.ids().into_iter().map(|id| cluster.api(id)).collect();
    let mut working = Vec::new();
    for at in 0..CLIENTS {
        let database = cluster.database().connect().await.expect("the database opens");
        working.push(tokio::spawn(client(apis.clone(), database, seed ^ at, Arc::clone(&stop), Arc::clone(&faults))));
    }
    let mut look = cluster.database().look().await.expect("the database opens");
    let mut looks = 0;
    let began = tokio::time::Instant::now();
    while faults.sum() < wanted || faults.kills.load(Ordering::Relaxed) < 8 || faults.pauses.load(Ordering::Relaxed) < 8 {
        assert!(began.elapsed() < Duration::from_mins(if long() { 20 } else { 4 }), "too few faults: {}", faults.sum());
        let victim = *cluster.ids().choose(&mut rng).expect("three");
        let kills = rng.random_bool(0.5);
        if kills {
            cluster.kill(victim).expect("it runs");
            count(&faults.kills);
        } else {
            cluster.pause(victim).expect("it runs");
            count(&faults.pauses);
        }
        let until = tokio::time::Instant::now() + Duration::from_millis(rng.random_range(300..1_500));
        while tokio::time::Instant::now() < until {
            assert_eq!(look.number(WRONG).await.expect("an answer"), 0, "what is counted is not what is leased; seed {seed}");
            looks += 1;
            assert!(working.iter().all(|client| !client.is_finished()), "a client gave up; seed {seed}");
        }
        if kills {
            cluster.restart(victim).await.expect("it starts again");
        } else {
            cluster.resume(victim).expect("it runs");
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in working {
        client.await.expect("no client lost a lease");
    }
    // Those that broke off may have left leases that last: their time passes.
    let mut connection = cluster.database().connect().await.expect("the database opens");
    connection.execute("UPDATE praetor.lease SET expires = now() - interval '1 second'").await.expect("the database answers");
    eventually(Duration::from_secs(30), "all slots are free", async || {
        number(&cluster, "SELECT count(*) FROM praetor.lease").await == 0
            && number(&cluster, "SELECT coalesce(sum(active_slots), 0) FROM concurrency_limit_v2").await == 0
    })
    .await;
    let counts = [&faults.kills, &faults.pauses, &faults.disconnects, &faults.forgotten, &faults.taken, &faults.renewed];
    let [kills, pauses, disconnects, forgotten, taken, renewed] = counts.map(|count| count.load(Ordering::Relaxed));
    println!(
        "{kills} kills and {pauses} pauses of nodes, {disconnects} disconnects and {forgotten} deaths of clients over {taken} leases and \
         {renewed} renewals: {looks} looks, each with every count right; all slots are back"
    );
}
