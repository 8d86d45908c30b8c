//! A real flow of the published client against `praetor dev`: mapped tasks, retries, a subflow, logs, a hook; then what
//! the published command line shows of it.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jepsen::database::{Kind, Look};
use jepsen::dev::Dev;
use serde_json::{Value, json};

use crate::harness::{Client, Options, PRAETOR, until};

/// How long after the end of a flow all its task runs must be in the database.
const RECORDED_WITHIN: Duration = Duration::from_secs(1);

/// Runs, their state and how many task runs they have.
const TASK_RUNS: &str = "SELECT CAST(flow_run_id AS TEXT) || ' ' || state_name || ' ' || CAST(count(*) AS TEXT) \
    FROM task_run GROUP BY flow_run_id, state_name";

async fn states_of(look: &mut Look, task: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM task_run_state s JOIN task_run t ON t.id = s.task_run_id WHERE t.name LIKE '{task}-%'");
    look.number(sql).await.expect("the database answers")
}

async fn a_flow_completes_and_is_shown(kind: Kind) {
    let dev = Dev::start(Options::new(3, kind).binary(PRAETOR)).await.expect("the group starts");
    let client = Client::new(&dev.api());
    let mut look = dev.database().look().await.expect("the database opens");

    let mut script = client.script("compat/flow.py", &[]);
    let told = script.line().await;
    let id = |name: &str| told[name].as_str().expect("an id").to_owned();
    let (flow, subflow) = (id("flow_run"), id("subflow_run"));
    let wanted: BTreeSet<String> = [format!("{flow} Completed {}", told["task_runs"]["flow"]), format!("{subflow} Completed 1")].into();
    let all_there = until(RECORDED_WITHIN, "all task runs are in the database", async || {
        let found = look.texts(TASK_RUNS).await.expect("the database answers");
        (found.into_iter().collect::<BTreeSet<_>>() == wanted).then(|| unix_now() - told["ended"].as_f64().expect("a moment"))
    })
    .await;
    let found = look.texts(TASK_RUNS).await.expect("the database answers");
    let seconds = all_there.unwrap_or_else(|error| panic!("{error}: wanted {wanted:?}, found {found:?}"));
    println!("{kind:?}: all {} task runs were in the database {seconds:.3} s after the flow's end", 22);
    assert!(seconds < RECORDED_WITHIN.as_secs_f64(), "it took {seconds:.3} s");

    assert_eq!(told["result"], json!(380));
    assert_eq!(told["hook"], json!({"flow_run": flow, "state": "Completed"}));
    assert_eq!((&told["flow_attempts"], &told["retried"]), (&json!(2), &json!([3, 11, 17])));
    assert_eq!(states_of(&mut look, "double").await, told["task_run_states"]["double"].as_i64().expect("a number"));
    assert_eq!(states_of(&mut look, "total").await, told["task_run_states"]["total"].as_i64().expect("a number"));

    script.go_on().await;
    script.success().await;
    the_command_line_shows_it(&client, &flow, &subflow).await;
}

async fn the_command_line_shows_it(client: &Client, flow: &str, subflow: &str) {
    let listed = client.printed(&["flow-run", "ls"]).await;
    for wanted in [flow, subflow, "praetor-flow", "praetor-subflow", "COMPLETED"] {
        assert!(listed.contains(wanted), "{wanted} is missing in\n{listed}");
    }

    let inspected = client.printed(&["flow-run", "inspect", flow, "--output", "json"]).await;
    let run: Value = serde_json::from_str(&inspected).expect("JSON");
    assert_eq!((&run["state"]["name"], &run["run_count"], &run["tags"]), (&json!("Completed"), &json!(2), &json!(["praetor-compat"])));
    assert_eq!(run["parameters"], json!({"count": 20}));

    let logs = client.printed(&["flow-run", "logs", flow]).await;
    let wanted = ["flow attempt 1", "flow attempt 2", "doubling 17, attempt 2", "the answer is 380", "Running hook 'completed'"];
    for wanted in wanted {
        assert!(logs.contains(wanted), "{wanted:?} is missing in\n{logs}");
    }
    let logs = client.printed(&["flow-run", "logs", subflow]).await;
    for wanted in ["the subflow adds", "adding 20 numbers"] {
        assert!(logs.contains(wanted), "{wanted:?} is missing in\n{logs}");
    }
}

#[expect(clippy::disallowed_methods, reason = "compares with the clock of the script")]
fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs_f64()
}

#[tokio::test]
async fn a_flow_completes_on_three_nodes_and_sqlite() {
    a_flow_completes_and_is_shown(Kind::Sqlite).await;
}

#[tokio::test]
async fn a_flow_completes_on_three_nodes_and_postgres() {
    a_flow_completes_and_is_shown(Kind::Postgres).await;
}
