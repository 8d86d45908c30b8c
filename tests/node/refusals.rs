//! A node that cannot work refuses to start, with a sentence that says what to change.

use std::process::{Command, Output};

use crate::harness::PRAETOR;

fn start(variables: &[(&str, &str)], more: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a directory");
    Command::new(PRAETOR)
        .args(["server", "start", "--port=0"])
        .args(more)
        .env("PREFECT_HOME", directory.path())
        .envs(variables.iter().copied())
        .output()
        .expect("it runs")
}

fn refused(variables: &[(&str, &str)], more: &[&str], sentence: &str) {
    let output = start(variables, more);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(sentence), "{text}");
}

#[test]
fn a_group_open_to_the_network_needs_a_token() {
    refused(&[], &["--cluster-listen=0.0.0.0:0"], "set PRAETOR_CLUSTER_TOKEN to the same secret on every node");
}

#[test]
fn a_node_has_its_place_among_the_peers() {
    let peers = "--cluster-peers=1=127.0.0.1:7101,2=127.0.0.1:7102,3=127.0.0.1:7103";
    refused(&[], &[peers, "--node-id=4"], "node 4 is not among the peers (1, 2, 3)");
    refused(&[], &["--cluster-peers=1=127.0.0.1:1,1=127.0.0.1:2"], "names node 1 twice");
}

#[test]
fn every_wrong_setting_is_named_at_once() {
    let variables = [("PREFECT_SERVER_API_DEFAULT_LIMIT", "many"), ("PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS", "0")];
    let output = start(&variables, &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    for (name, _) in variables {
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn an_address_of_another_kind_of_database_is_named_without_its_password() {
    refused(&[], &["--database-url=mysql://me:hunter2@db/prefect"], "use postgresql://");
    let output = start(&[], &["--database-url=mysql://me:hunter2@db/prefect"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("hunter2"));
}

#[test]
fn a_directory_without_a_ui_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let flag = format!("--ui-dir={}", directory.path().display());
    refused(&[], &[&flag], &format!("there is no UI in {}", directory.path().display()));
}
