//! The published events client streams through the front door while the Raft leader is killed again and again: what it
//! was told is confirmed is in the database, once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jepsen::client::{Http, Outcome};
use jepsen::database::Kind;
use jepsen::dev::{Dev, Seen};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use crate::harness::{Client, Options, PRAETOR, until};
use crate::long;

/// How often a probe of the measurement starts.
const PROBE_EVERY: Duration = Duration::from_millis(5);
/// How long the next commit may take before the test fails.
const COMMIT_WITHIN: Duration = Duration::from_secs(15);
/// How long the persister may take to catch up in the end.
const PERSISTED_WITHIN: Duration = Duration::from_mins(1);

struct Plan {
    events: u64,
    kills: u64,
    per_second: u64,
}

fn plan() -> Plan {
    if long() { Plan { events: 50_000, kills: 10, per_second: 400 } } else { Plan { events: 5_000, kills: 2, per_second: 400 } }
}

/// One probe event by `POST /events`.
async fn probe(api: String, id: Uuid) -> bool {
    let body = json!([{
        "id": id,
        "occurred": chrono::Utc::now().to_rfc3339(),
        "event": "praetor.show.probe",
        "resource": {"prefect.resource.id": "praetor.show.probe"},
        "related": [], "payload": {}, "follows": null,
    }]);
    matches!(Http::new(api).judged_post("/events", &body).await, (Outcome::Ok, _))
}

/// From `killed` to the first commit that one of `survivors` answers, of an event sent after the kill; with its id.
async fn next_commit(survivors: &[Seen], killed: Instant) -> (Duration, Uuid) {
    let (sender, mut first) = mpsc::channel(1);
    let asking = async {
        for survivor in survivors.iter().cycle() {
            let (sender, api, id) = (sender.clone(), survivor.api.clone(), Uuid::new_v4());
            tokio::spawn(async move {
                if probe(api, id).await {
                    // Only the first counts; the others find the place taken.
                    let _ = sender.try_send((killed.elapsed(), id));
                }
            });
            tokio::time::sleep(PROBE_EVERY).await;
        }
    };
    tokio::select! {
        found = first.recv() => found.expect("a sender lives"),
        () = asking => unreachable!("it asks for ever"),
        () = tokio::time::sleep(COMMIT_WITHIN) => panic!("no commit within {COMMIT_WITHIN:?} after the kill"),
    }
}

/// Kills the Raft leader `plan.kills` times, evenly over what is `sent`; gives the times to the next commit and the ids
/// of probes that were confirmed.
async fn kill_leaders(dev: &Dev, plan: &Plan, sent: &AtomicU64) -> Vec<(Duration, Uuid)> {
    let mut found = Vec::new();
    for number in 1..=plan.kills {
        let due = plan.events * number / (plan.kills + 1);
        until(Duration::from_mins(10), "enough events are sent", async || (sent.load(Ordering::Relaxed) >= due).then_some(()))
            .await
            .expect("the publisher goes on");
        let (id, leader) = dev.named("leader").await.expect("there is a leader");
        let mut survivors = dev.nodes().await.expect("an answer");
        survivors.remove(&id);
        let survivors: Vec<Seen> = survivors.into_values().collect();
        let killed = Instant::now();
        dev.kill(&leader).expect("it ran");
        let (within, probe) = next_commit(&survivors, killed).await;
        println!("kill {number}: the leader, node {id}; next commit after {:.0} ms", within.as_secs_f64() * 1000.0);
        found.push((within, probe));
        dev.whole_again(&leader).await.expect("the group is whole again");
    }
    found
}

pub(super) fn ledger(path: &std::path::Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut words: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in std::fs::read_to_string(path).expect("the ledger is there").lines() {
        let (word, id) = line.split_once(' ').expect("a word and an id");
        words.entry(word.to_owned()).or_default().insert(id.to_owned());
    }
    words
}

#[tokio::test(flavor = "multi_thread")]
async fn confirmed_events_are_in_the_database_once_though_leaders_are_killed() {
    let plan = plan();
    // A leader that is killed amid a request leaves an answer unknown, of which the front door warns.
    let dev = Dev::start(Options::new(3, Kind::Postgres).binary(PRAETOR)).await.expect("the group starts");
    let client = Client::new(&dev.api());
    let path = client.home().join("ledger");
    let arguments = [plan.events.to_string(), plan.per_second.to_string(), path.display().to_string()];
    let mut script = client.script("cluster/publish.py", &arguments.each_ref().map(String::as_str));
    let sent = Arc::new(AtomicU64::new(0));
    let progress = Arc::clone(&sent);
    let publishing = tokio::spawn(async move {
        loop {
            let told = script.line().await;
            progress.store(told["sent"].as_u64().unwrap_or_default(), Ordering::Relaxed);
            if told["done"] == true {
                script.success().await;
                return told;
            }
        }
    });
    let kills = kill_leaders(&dev, &plan, &sent).await;
    let told = publishing.await.expect("the publisher ends well");
    println!("the publisher: {told}");

    let words = ledger(&path);
    let of = |word: &str| words.get(word).cloned().unwrap_or_default();
    let mut confirmed = of("confirmed");
    confirmed.extend(of("closed"));
    confirmed.extend(kills.iter().map(|(_, id)| id.to_string()));
    assert_eq!(of("sent").len() as u64, plan.events);
    assert!(!of("closed").is_empty() || told["unconfirmed"] == 0, "the close was not answered: {told}");
    let mut look = dev.database().look().await.expect("the database opens");
    let missing = async |look: &mut jepsen::database::Look| -> BTreeSet<String> {
        let ids = look.texts("SELECT CAST(id AS TEXT) FROM events WHERE event LIKE 'praetor.show.%'").await.expect("an answer");
        let there: BTreeSet<String> = ids.iter().cloned().collect();
        assert_eq!(ids.len(), there.len(), "an event is in the database twice");
        confirmed.difference(&there).cloned().collect()
    };
    let all =
        until(PERSISTED_WITHIN, "all confirmed events are in the database", async || missing(&mut look).await.is_empty().then_some(()));
    let all = all.await;
    let lost = missing(&mut look).await;
    assert!(all.is_ok(), "{} of {} confirmed events are missing, such as {:?}", lost.len(), confirmed.len(), lost.first());
    let doubled = "SELECT count(*) FROM (SELECT e.id FROM events e JOIN event_resources r ON r.event_id = e.id \
        WHERE e.event = 'praetor.show.published' GROUP BY e.id HAVING count(*) <> 1) doubled";
    assert_eq!(look.number(doubled).await.expect("an answer"), 0, "an event's resource is there more than once");

    let mut times: Vec<f64> = kills.iter().map(|(within, _)| within.as_secs_f64() * 1000.0).collect();
    times.sort_by(f64::total_cmp);
    let (first, last) = (times.first().expect("a kill"), times.last().expect("a kill"));
    println!(
        "{} events sent, {} confirmed, all of them in the database once; {} kills of the Raft leader; from kill to next commit: \
         minimum {first:.0} ms, median {:.0} ms, maximum {last:.0} ms",
        plan.events,
        confirmed.len(),
        times.len(),
        f64::midpoint(times[(times.len() - 1) / 2], times[times.len() / 2]),
    );
}
