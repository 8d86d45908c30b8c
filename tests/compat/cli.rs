//! The published command line against a node: `cli.py` runs commands of every group and knows how each ends and what it
//! shows. By hand the script also compares with a server of the published Prefect.

use jepsen::database::Kind;
use serde_json::json;

use crate::harness::{Client, one_node};

async fn every_command_ends_as_it_should(kind: Kind) {
    let node = one_node(kind).await;
    let client = Client::new(&node.api(1));
    let mut script = client.script("compat/cli.py", &["--api", &node.api(1)]);
    let told = loop {
        let line = script.line().await;
        if line.get("findings").is_some() {
            break line;
        }
    };
    assert_eq!(told["findings"], json!([]));
    assert!(told["commands"].as_u64() >= Some(200), "{told}");
    script.success().await;
}

#[tokio::test]
async fn every_command_of_the_command_line_ends_as_it_should_on_sqlite() {
    every_command_ends_as_it_should(Kind::Sqlite).await;
}

#[tokio::test]
async fn every_command_of_the_command_line_ends_as_it_should_on_postgres() {
    every_command_ends_as_it_should(Kind::Postgres).await;
}
