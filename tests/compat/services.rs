//! The background services beside those of the published server: both are run over equal rows, and leave equal rows and
//! events.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use praetor::store::migrate;
use praetor::store::url::DatabaseUrl;

use crate::harness::{Cluster, Kind, Options, PRAETOR, eventually};

/// How long a node may take to have done all.
const DONE_WITHIN: Duration = Duration::from_mins(1);

/// The script beside this file, with the Python of the published server.
fn script(home: &Path, arguments: &[&str]) -> String {
    let prefect = std::env::var("PRAETOR_TEST_PREFECT").expect("PRAETOR_TEST_PREFECT names the published prefect");
    let mut command = Command::new(Path::new(&prefect).with_file_name("python"));
    jepsen::cluster::scrub(&mut command);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat/services.py");
    let output = command.arg(script).args(arguments).env("PREFECT_HOME", home).output().expect("python runs");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {text}{errors}");
    text
}

async fn filled(home: &Path, path: &Path) {
    migrate::upgrade(&DatabaseUrl::sqlite_file(path)).await.expect("the tables are made");
    script(home, &["fill", path.to_str().expect("text")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_leave_the_rows_and_events_that_the_published_ones_leave() {
    let home = tempfile::tempdir().expect("a directory");
    let theirs = home.path().join("theirs.db");
    let events = home.path().join("theirs.events");
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    filled(home.path(), &theirs).await;
    script(home.path(), &["run", &text(&theirs), &text(&events)]);
    let wanted = script(home.path(), &["dump", &text(&theirs), &text(&events)]);

    let options = Options::new(1, Kind::Sqlite)
        .variable("PREFECT_API_BLOCKS_REGISTER_ON_START", "false")
        .variable("PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED", "true")
        .variable("PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS", 0.5)
        .variable("PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS", 0.5)
        .variable("PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS", 0.5);
    let mut node = Cluster::prepare(options.binary(PRAETOR)).await.expect("it is prepared");
    let ours = node.directory().join("prefect.db");
    filled(home.path(), &ours).await;
    node.spawn(1).expect("it starts");
    node.wait_ready(1).await.expect("it is ready");
    let mut found = String::new();
    let done = tokio::time::Instant::now() + DONE_WITHIN;
    eventually(DONE_WITHIN * 2, "our services have done the same", async || {
        found = script(home.path(), &["dump", &text(&ours)]);
        found == wanted || tokio::time::Instant::now() > done
    })
    .await;
    let (theirs, ours): (Vec<&str>, Vec<&str>) = (wanted.lines().collect(), found.lines().collect());
    let only =
        |of: &[&str], other: &[&str]| of.iter().filter(|line| !other.contains(line)).map(|line| (*line).to_owned()).collect::<Vec<_>>();
    assert!(found == wanted, "only theirs: {:#?}\nonly ours: {:#?}", only(&theirs, &ours), only(&ours, &theirs));
    println!("{} lines of rows and events are equal", theirs.len());
}
