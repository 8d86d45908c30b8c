//! Background tasks of the published Prefect client over three nodes: made through one node, run by task workers that are
//! connected to others; each once by its ack, none lost when a worker or a node dies before that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jepsen::client::Http;
use serde_json::{Value, json};
use tokio::process::Child;

use crate::harness::{Client, Cluster, Script, Socket, eventually, three_nodes, until};
use crate::long;

const SCRIPT: &str = "cluster/background.py";
/// Imports of the client take seconds on a busy machine.
const WITHIN: Duration = Duration::from_mins(3);

/// Tasks whose way is measured.
const FIRST: u64 = 10;

/// A task worker of the published client, and its home.
struct Worker {
    client: Client,
    child: Child,
}

fn worker(cluster: &Cluster, node: u64, limit: u32, place: &Place) -> Worker {
    let client = Client::new(&cluster.api(node));
    let log = std::fs::File::create(client.home().join("worker.log")).expect("a log");
    let mut command = client.python(SCRIPT);
    command.args(["serve", &limit.to_string()]).env("PRAETOR_TEST_RUNS", &place.runs).env("PRAETOR_TEST_GATE", &place.gate);
    let child = command.stdout(log.try_clone().expect("a log")).stderr(log).spawn().expect("the worker starts");
    Worker { client, child }
}

impl Worker {
    fn log(&self) -> String {
        std::fs::read_to_string(self.client.home().join("worker.log")).unwrap_or_default()
    }
}

/// Where runs are noted.
struct Place {
    runs: PathBuf,
    gate: PathBuf,
    _directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self { runs: directory.path().join("runs"), gate: directory.path().join("gate"), _directory: directory }
    }

    /// What ran, by the id of the run: when each time began, in Unix seconds.
    fn ran(&self) -> BTreeMap<String, Vec<f64>> {
        let mut ran: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for line in std::fs::read_to_string(&self.runs).unwrap_or_default().lines() {
            // A line that is being written is read the next time.
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let run = line["run"].as_str().expect("an id").to_owned();
            ran.entry(run).or_default().push(line["began"].as_f64().expect("a time"));
        }
        ran
    }
}

/// Connected task workers, as `http` lists them.
async fn connected(http: &Http) -> usize {
    let answer = http.post("/task_workers/filter", &json!({})).await;
    answer.ok().and_then(|(_, workers)| Some(workers.as_array()?.len())).unwrap_or_default()
}

/// Delays `count` runs through the client; gives when each was delayed, by id.
async fn delay(client: &Client, from: i64, count: u64) -> BTreeMap<String, f64> {
    let mut script: Script = client.script(SCRIPT, &["delay", &from.to_string(), &count.to_string()]);
    let mut delayed = BTreeMap::new();
    while let Some(line) = script.next().await {
        delayed.insert(line["run"].as_str().expect("an id").to_owned(), line["delayed"].as_f64().expect("a time"));
    }
    let log = script.success().await;
    assert_eq!(delayed.len() as u64, count, "{log}");
    delayed
}

async fn task_key(client: &Client) -> String {
    let line = client.script(SCRIPT, &["key"]).line().await;
    line["key"].as_str().expect("a key").to_owned()
}

fn states_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_delayed_through_one_node_runs_once_on_a_worker_of_another() {
    let cluster = three_nodes().await;
    let place = Place::new();
    let client = Client::new(&cluster.api(1));
    // One worker, at node 3: how long it takes from delay to start.
    let mut workers = vec![worker(&cluster, 3, 10, &place)];
    eventually(WITHIN, "the worker is listed by node 1", async || connected(&cluster.http(1)).await == 1).await;
    let delayed = delay(&client, 0, FIRST).await;
    let all = until(WITHIN, "all have run", async || (place.ran().len() == delayed.len()).then(|| place.ran())).await;
    let ran = all.unwrap_or_else(|error| panic!("{error}\n{}", workers[0].log()));
    let mut latencies: Vec<f64> = delayed.iter().map(|(run, at)| (ran[run][0] - at) * 1000.0).collect();
    latencies.sort_by(f64::total_cmp);
    println!(
        "{} tasks delayed through node 1, run by a worker of node 3: from delay to start {:.0} ms at the median, {:.0} ms at most",
        latencies.len(),
        latencies[latencies.len() / 2],
        latencies[latencies.len() - 1]
    );

    // Three workers on three nodes.
    let count = if long() { 1000 } else { 30 };
    workers.extend([worker(&cluster, 1, 10, &place), worker(&cluster, 2, 10, &place)]);
    eventually(WITHIN, "three workers are listed by node 2", async || connected(&cluster.http(2)).await == 3).await;
    let delayed = delay(&client, 100, count).await;
    let all = until(WITHIN * 2, "all have run", async || {
        let ran = place.ran();
        delayed.keys().all(|run| ran.contains_key(run)).then_some(ran)
    });
    let ran = all.await.unwrap_or_else(|error| panic!("{error}\n{}\n{}", workers[1].log(), workers[2].log()));
    eventually(WITHIN, "all have completed", async || {
        let mut look = cluster.database().look().await.expect("the database opens");
        let completed = look.number("SELECT count(*) FROM task_run WHERE state_name = 'Completed'").await;
        completed.is_ok_and(|completed| completed as u64 == count + FIRST)
    })
    .await;
    let twice: Vec<&String> =
        place.ran().iter().filter(|(_, times)| times.len() > 1).map(|(run, _)| ran.get_key_value(run).expect("it ran").0).collect();
    println!(
        "{count} tasks over 3 nodes and 3 workers: {} ran, {} of them more than once",
        delayed.keys().filter(|run| ran.contains_key(*run)).count(),
        twice.len()
    );
    assert!(twice.is_empty(), "ran more than once: {twice:?}\n{}", states_of(&place.runs));
    for worker in &mut workers {
        worker.child.kill().await.expect("it can be ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_or_node_that_dies_before_its_ack_loses_no_task() {
    let mut cluster = three_nodes().await;
    let place = Place::new();
    let client = Client::new(&cluster.api(1));
    let key = task_key(&client).await;
    // Two connections, at nodes 2 and 3, are handed a run each and acknowledge nothing.
    let path = "/task_runs/subscriptions/scheduled";
    let mut held = Vec::new();
    for node in [2, 3] {
        let mut socket = Socket::connect(&cluster.api(node), path).await.expect("it connects");
        socket.send(&json!({"type": "subscribe", "keys": [key], "client_id": format!("holder-{node}")})).await.expect("it is sent");
        held.push(socket);
    }
    let delayed = delay(&client, 0, 2).await;
    let mut taken = BTreeSet::new();
    for socket in &mut held {
        let run = socket.next(WITHIN).await.expect("a run comes");
        taken.insert(run["id"].as_str().expect("an id").to_owned());
    }
    assert_eq!(taken, delayed.keys().cloned().collect(), "each is in one pair of hands");
    // They are held by living connections, which answer pings however long the others take to begin.
    let mut held: Vec<_> =
        held.into_iter().map(|mut socket| tokio::spawn(async move { socket.next(WITHIN * 10).await.map(drop) })).collect();
    // A worker of the published client whose hands are full is handed one more, and acknowledges one more.
    let mut full = worker(&cluster, 1, 1, &place);
    eventually(WITHIN, "the worker is listed", async || connected(&cluster.http(1)).await == 3).await;
    let waiting = delay(&client, -3, 3).await;
    eventually(WITHIN, "its hands are full", async || place.ran().len() == 1).await;
    let owned = "SELECT count(*) FROM praetor.task_delivery WHERE owner IS NOT NULL";
    eventually(WITHIN, "it is handed one more", async || {
        let mut look = cluster.database().look().await.expect("the database opens");
        look.number(owned).await.is_ok_and(|owned| owned == 3)
    })
    .await;
    let mut look = cluster.database().look().await.expect("the database opens");
    let unacknowledged =
        look.texts("SELECT CAST(task_run_id AS text) FROM praetor.task_delivery WHERE acked IS NULL").await.expect("an answer");
    let expected: BTreeSet<String> = unacknowledged.into_iter().collect();
    assert_eq!(expected.len(), 3);
    assert!(taken.is_subset(&expected) && expected.iter().filter(|run| waiting.contains_key(*run)).count() == 1);
    drop(look);

    // Now all three die: a connection, a node, a worker.
    held.swap_remove(1).abort();
    cluster.kill(2).expect("it ran");
    full.child.kill().await.expect("it can be ended");
    std::fs::write(&place.gate, "open").expect("it can be written");
    let before = place.ran();
    let mut rescuer = worker(&cluster, 3, 10, &place);
    let all = until(WITHIN, "what was not acknowledged runs", async || {
        let ran = place.ran();
        expected.iter().all(|run| ran.contains_key(run)).then_some(ran)
    });
    let ran = all.await.unwrap_or_else(|error| panic!("{error}\n{}", rescuer.log()));
    for run in &expected {
        assert!(!before.contains_key(run), "it was not acknowledged and ran");
        assert_eq!(ran[run].len(), 1, "{run} ran once");
    }
    println!("a connection, a node and a worker died with a run in hand each: all 3 ran, once");
    rescuer.child.kill().await.expect("it can be ended");
}
