//! All nodes are restarted one after the other, as for an upgrade, while a deployment's runs go through the published
//! worker, its events client publishes, and others use the API: no run fails, no event is lost, and no request fails
//! in a way that the published client does not try again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jepsen::database::Kind;
use jepsen::dev::Dev;
use serde_json::json;
use tokio::time::Instant;

use crate::harness::{Client, Options, PRAETOR, until};
use crate::schedule::{executions, now, runs, worker};
use crate::{events, long};

/// Seconds between two slots.
fn interval() -> i64 {
    // Each run is two processes of Python, of seconds each where the machine is slow.
    if long() { 5 } else { 10 }
}

/// Events per second.
const RATE: u64 = 100;
/// How long what is under way may take to end.
const ENDS_WITHIN: Duration = Duration::from_mins(3);
/// What the published client tries again (`prefect/client/base.py`).
const TRIED_AGAIN: [u16; 4] = [408, 429, 502, 503];
/// Users of the API, and how often each asks.
const USERS: usize = 4;
const ASK_EVERY: Duration = Duration::from_millis(20);

/// What users of the API saw.
#[derive(Default)]
struct Seen {
    answers: AtomicU64,
    again: AtomicU64,
    failures: parking_lot::Mutex<Vec<String>>,
    longest: parking_lot::Mutex<Duration>,
}

/// Reads and writes by turns until told to stop, each until it is answered, as the published client does.
async fn use_the_api(api: String, stop: Arc<AtomicBool>, seen: Arc<Seen>) {
    let client = reqwest::Client::new();
    let mut last = Instant::now();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let asked = match number % 3 {
            0 => client.post(format!("{api}/flow_runs/count")).json(&json!({})),
            1 => client.get(format!("{api}/work_pools/praetor-pool")),
            _ => client.post(format!("{api}/flows/")).json(&json!({"name": "used"})),
        };
        match asked.timeout(Duration::from_secs(30)).send().await {
            Ok(answer) if answer.status().is_success() => {
                seen.answers.fetch_add(1, Ordering::Relaxed);
                let gap = last.elapsed();
                last = Instant::now();
                let mut longest = seen.longest.lock();
                *longest = gap.max(*longest);
            }
            Ok(answer) if TRIED_AGAIN.contains(&answer.status().as_u16()) => {
                seen.again.fetch_add(1, Ordering::Relaxed);
            }
            Ok(answer) => seen.failures.lock().push(format!("{} to request {number}", answer.status())),
            Err(error) => seen.failures.lock().push(format!("{error:?} to request {number}")),
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_fail_no_run_lose_no_event_and_are_not_seen_by_clients() {
    let rounds = if long() { 3 } else { 1 };
    let dev = Dev::start(Options::new(3, Kind::Postgres).binary(PRAETOR)).await.expect("the group starts");
    let client = Client::new(&dev.api());
    let ran = client.home().join("runs");
    let mut look = dev.database().look().await.expect("the database opens");
    let mut script = client.script("cluster/scheduled.py", &["praetor-pool", &interval().to_string()]);
    let told = script.line().await;
    script.success().await;
    let deployment = told["deployment"].as_str().expect("an id").to_owned();
    let mut worker = worker(&client, "praetor-pool", &ran);
    let log = || std::fs::read_to_string(client.home().join("worker.log")).unwrap_or_default();
    until(Duration::from_mins(4), "the worker runs a flow", async || (!executions(&ran).is_empty()).then_some(()))
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", log()));

    // More events than there is time for: the publisher is told to end by the file that it looks for.
    let ledger = client.home().join("ledger");
    let end = client.home().join("end");
    let arguments = [(RATE * 600).to_string(), RATE.to_string(), ledger.display().to_string(), end.display().to_string()];
    let mut publishing = client.script("cluster/publish.py", &arguments.each_ref().map(String::as_str));
    publishing.line().await;
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
    let users: Vec<_> = (0..USERS).map(|_| tokio::spawn(use_the_api(dev.api(), Arc::clone(&stop), Arc::clone(&seen)))).collect();

    let began = Instant::now();
    for round in 1..=rounds {
        for id in 1..=3 {
            let node = dev.nodes().await.expect("an answer").remove(&id).expect("it is up");
            dev.terminate(&node).expect("it ran");
            dev.whole_again(&node).await.expect("the group is whole again");
        }
        println!("round {round} is over after {:.0} s", began.elapsed().as_secs_f64());
    }
    stop.store(true, Ordering::Relaxed);
    for user in users {
        user.await.expect("a user ends");
    }
    std::fs::write(&end, "").expect("it is told to end");
    let told = loop {
        let told = publishing.line().await;
        if told["done"] == true {
            publishing.success().await;
            break told;
        }
    };
    let until_slot = now(&mut look).await;
    let done = until(ENDS_WITHIN, "all runs that were due have completed", async || {
        let due = runs(&mut look, &deployment).await;
        due.iter().filter(|run| run.slot <= until_slot).all(|run| run.state == "Completed").then_some(())
    })
    .await;
    let still = worker.try_wait().expect("it can be asked");
    assert!(still.is_none(), "the worker ended: {still:?}\n{}", log());
    worker.kill().await.expect("it can be ended");

    let due: Vec<_> = runs(&mut look, &deployment).await.into_iter().filter(|run| run.slot <= until_slot).collect();
    let slots: BTreeSet<i64> = due.iter().map(|run| run.slot).collect();
    let expected: BTreeSet<i64> = (*slots.first().expect("slots")..=until_slot).step_by(interval() as usize).collect();
    let executed: BTreeMap<String, usize> = executions(&ran);
    let not_once: Vec<_> = due.iter().filter(|run| executed.get(&run.id) != Some(&1)).collect();

    let words = events::ledger(&ledger);
    let of = |word: &str| words.get(word).cloned().unwrap_or_default();
    let sent = of("sent");
    let lost = async |look: &mut jepsen::database::Look| -> Vec<String> {
        let ids = look.texts("SELECT CAST(id AS TEXT) FROM events WHERE event = 'praetor.show.published'").await.expect("an answer");
        let there: BTreeSet<String> = ids.iter().cloned().collect();
        assert_eq!(ids.len(), there.len(), "an event is in the database twice");
        sent.difference(&there).cloned().collect()
    };
    let all = until(ENDS_WITHIN, "all events are in the database", async || lost(&mut look).await.is_empty().then_some(())).await;
    let lost = lost(&mut look).await;
    let failures = seen.failures.lock().clone();
    println!(
        "{rounds} rolling restarts of 3 nodes in {:.0} s: {} slots expected, {} found, {} not run exactly once; {} events sent, {} lost; \
         {} answers, {} to be tried again, {} failures; longest time without an answer {:.0} ms",
        began.elapsed().as_secs_f64(),
        expected.len(),
        due.len(),
        not_once.len(),
        sent.len(),
        lost.len(),
        seen.answers.load(Ordering::Relaxed),
        seen.again.load(Ordering::Relaxed),
        failures.len(),
        seen.longest.lock().as_secs_f64() * 1000.0
    );
    assert!(done.is_ok() && not_once.is_empty(), "{not_once:?}\n{}", log());
    assert!(due.len() == slots.len() && slots == expected, "slots {slots:?}");
    assert!(all.is_ok(), "{} of {} events are missing, such as {:?}; {told}", lost.len(), sent.len(), lost.first());
    assert!(failures.is_empty(), "{failures:?}");
}
