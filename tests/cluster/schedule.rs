//! A deployment that is due every five seconds, run by the published process worker, while the services leader is killed
//! again and again: every slot is there once, runs once, and completes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use jepsen::database::{Kind, Look};
use jepsen::dev::Dev;
use tokio::process::Child;
use tokio::time::Instant;

use crate::harness::{Client, Options, PRAETOR, until};
use crate::long;

/// Seconds between two slots.
fn interval() -> i64 {
    // Each run is two processes of Python, of seconds each where the machine is slow.
    if long() { 5 } else { 10 }
}

/// How long the last run may take to complete.
const COMPLETED_WITHIN: Duration = Duration::from_mins(3);

struct Plan {
    lasts: Duration,
    kill_every: Duration,
}

fn plan() -> Plan {
    if long() {
        Plan { lasts: Duration::from_mins(5), kill_every: Duration::from_secs(20) }
    } else {
        Plan { lasts: Duration::from_secs(26), kill_every: Duration::from_secs(12) }
    }
}

/// One flow run of the deployment, as the database has it.
#[derive(Debug)]
pub(super) struct Run {
    pub id: String,
    /// Unix seconds.
    pub slot: i64,
    pub state: String,
}

pub(super) async fn runs(look: &mut Look, deployment: &str) -> Vec<Run> {
    let sql = format!(
        "SELECT CAST(id AS TEXT) || ' ' || CAST(CAST(extract(epoch FROM expected_start_time) AS BIGINT) AS TEXT) || ' ' || state_name \
         FROM flow_run WHERE auto_scheduled AND CAST(deployment_id AS TEXT) = '{deployment}' ORDER BY expected_start_time"
    );
    let rows = look.texts(sql).await.expect("the database answers");
    let run = |row: &String| {
        let mut parts = row.splitn(3, ' ').map(str::to_owned);
        let mut next = || parts.next().expect("three parts");
        Run { id: next(), slot: next().parse().expect("a number"), state: next() }
    };
    rows.iter().map(run).collect()
}

pub(super) async fn now(look: &mut Look) -> i64 {
    look.number("SELECT CAST(extract(epoch FROM clock_timestamp()) AS BIGINT)").await.expect("an answer")
}

pub(super) fn worker(client: &Client, pool: &str, ran: &Path) -> Child {
    let log = File::create(client.home().join("worker.log")).expect("a log");
    client
        .prefect(&["worker", "start", "--type", "process", "--pool", pool])
        .env("PRAETOR_TEST_RUNS", ran)
        .env("PREFECT_WORKER_QUERY_SECONDS", "2")
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("the worker starts")
}

/// How often the flow of each run did its work.
pub(super) fn executions(ran: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(ran).unwrap_or_default().lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of the flow");
        *counts.entry(line["run"].as_str().expect("an id").to_owned()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn every_slot_of_a_schedule_runs_once_though_services_leaders_are_killed() {
    let plan = plan();
    let dev = Dev::start(Options::new(3, Kind::Postgres).binary(PRAETOR)).await.expect("the group starts");
    let client = Client::new(&dev.api());
    let ran = client.home().join("runs");
    let mut look = dev.database().look().await.expect("the database opens");
    let begun = now(&mut look).await;
    let mut script = client.script("cluster/scheduled.py", &["praetor-pool", &interval().to_string()]);
    let told = script.line().await;
    script.success().await;
    let deployment = told["deployment"].as_str().expect("an id").to_owned();
    let deployed = now(&mut look).await;
    let mut worker = worker(&client, "praetor-pool", &ran);
    until(Duration::from_mins(4), "the worker runs a flow", async || (!executions(&ran).is_empty()).then_some(()))
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", std::fs::read_to_string(client.home().join("worker.log")).unwrap_or_default()));

    let mut kills = 0;
    let started = Instant::now();
    while plan.kill_every * (kills + 1) < plan.lasts {
        tokio::time::sleep_until(started + plan.kill_every * (kills + 1)).await;
        let (id, leader) = dev.named("services_leader").await.expect("there is a services leader");
        dev.kill(&leader).expect("it ran");
        kills += 1;
        println!("kill {kills} after {:.0} s: the services leader, node {id}", started.elapsed().as_secs_f64());
        dev.whole_again(&leader).await.expect("the group is whole again");
    }
    tokio::time::sleep(plan.lasts.saturating_sub(started.elapsed())).await;
    let end = now(&mut look).await;

    let done = until(COMPLETED_WITHIN, "all runs that were due have completed", async || {
        let due = runs(&mut look, &deployment).await;
        due.iter().filter(|run| run.slot <= end).all(|run| run.state == "Completed").then_some(())
    })
    .await;
    let still = worker.try_wait().expect("it can be asked");
    assert!(still.is_none(), "the worker ended: {still:?}");
    worker.kill().await.expect("it can be ended");

    let due: Vec<Run> = runs(&mut look, &deployment).await.into_iter().filter(|run| run.slot <= end).collect();
    let slots: BTreeSet<i64> = due.iter().map(|run| run.slot).collect();
    let first = *slots.first().expect("there are slots");
    let expected: BTreeSet<i64> = (first..=end).step_by(interval() as usize).collect();
    let missing: Vec<&i64> = expected.difference(&slots).collect();
    let executed = executions(&ran);
    let twice: Vec<&Run> = due.iter().filter(|run| executed.get(&run.id).copied().unwrap_or_default() > 1).collect();
    let not_completed: Vec<&Run> = due.iter().filter(|run| run.state != "Completed").collect();
    println!(
        "{kills} kills of the services leader in {:.0} s: {} slots expected, {} found, {} missing, {} doubled, {} run more than \
         once, {} runs not completed",
        started.elapsed().as_secs_f64(),
        expected.len(),
        slots.len(),
        missing.len(),
        due.len() - slots.len(),
        twice.len(),
        not_completed.len()
    );
    let log = || std::fs::read_to_string(client.home().join("worker.log")).unwrap_or_default();
    assert!(done.is_ok() && not_completed.is_empty(), "{not_completed:?}\n{}", log());
    assert!(first >= begun && first <= deployed + 3 * interval(), "the first slot is {} s after the deployment", first - deployed);
    assert!(missing.is_empty() && slots.is_subset(&expected), "missing {missing:?}; found {slots:?}");
    assert_eq!(due.len(), slots.len(), "a slot is there twice: {due:?}");
    assert!(twice.is_empty(), "a run did its work twice: {twice:?}\n{}", log());
    let never: Vec<&Run> = due.iter().filter(|run| !executed.contains_key(&run.id)).collect();
    assert!(never.is_empty(), "completed and never ran: {never:?}");
}
