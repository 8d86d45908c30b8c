//! The published command line says the same of Praetor as of the Python server: `cli.py` runs every command group on
//! both, on objects that are made the same way.

use std::path::Path;

use jepsen::database::Kind;
use serde_json::json;

use crate::harness::{Client, Options, start};
use crate::reference::{Database, Server};

#[tokio::test]
async fn every_command_group_says_the_same_as_of_the_python_server() {
    let prefect = std::env::var("PRAETOR_TEST_PREFECT").expect("tests/run names the published prefect");
    let environment = Path::new(&prefect).parent().and_then(Path::parent).expect("it lies in an environment");
    let database = Database::sqlite();
    let reference = Server::python(&database).await;
    let node = start(Options::new(1, Kind::Postgres).variable("VIRTUAL_ENV", environment.display())).await;
    let client = Client::new(&node.api(1));
    let mut script = client.script("compat/cli.py", &["--api", &node.api(1), "--reference", &reference.api()]);
    let told = script.line().await;
    let differences = told["differences"].as_array().expect("a list");
    let shown: Vec<&str> = differences.iter().filter_map(|one| one.as_str()).collect();
    assert!(differences.is_empty(), "{} of {} commands differ:\n{}", shown.len(), told["commands"], shown.join("\n"));
    assert!(told["commands"].as_u64() > Some(100), "{}", json!(told));
    script.success().await;
}
