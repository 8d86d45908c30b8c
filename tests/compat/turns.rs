//! Python and Praetor take turns on one database.

use std::time::Duration;

use praetor::store::migrate;

use crate::harness::until;
use crate::reference::{self, Database, Server};

/// Asks the Python server, again where it says that its database is busy: with SQLite it does so while its services start.
async fn asked(server: &Server, path: &str, body: &str) -> (u16, String) {
    until(Duration::from_secs(20), "the Python server answers", async || {
        server.request("POST", path, body).filter(|(status, _)| *status != 503)
    })
    .await
    .expect("it answers in time")
}

/// Praetor makes the database; the Python server starts on it, writes, and lists what it wrote.
async fn python_serves(database: Database) {
    migrate::upgrade(&database.url()).await.expect("upgrades");
    let server = Server::python(&database).await;
    let (status, body) = asked(&server, "/api/flows/", r#"{"name": "told-to-python"}"#).await;
    assert_eq!(status, 201, "{body}");
    let (status, body) = asked(&server, "/api/flows/filter", "{}").await;
    assert_eq!(status, 200, "{body}");
    let flows: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(flows[0]["name"], "told-to-python");
    // A run and its state go through most of the wide tables.
    let run = format!(r#"{{"flow_id": {}, "state": {{"type": "PENDING"}}}}"#, flows[0]["id"]);
    let (status, body) = asked(&server, "/api/flow_runs/", &run).await;
    assert_eq!(status, 201, "{body}");
    let log = server.log();
    assert!(!log.contains("Traceback"), "{log}");
    drop(server);

    // And Praetor takes it back as it left it.
    assert_eq!(migrate::check(&database.url()).await.expect("checks"), migrate::State::Ready);
    assert_eq!(database.open().await.texts("SELECT name FROM flow").await, ["told-to-python"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn python_serves_a_postgres_database_of_ours() {
    python_serves(Database::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_serves_a_sqlite_database_of_ours() {
    python_serves(Database::sqlite()).await;
}

/// Python's migration of a database that is ours finds nothing to do.
#[tokio::test]
async fn python_upgrade_leaves_ours_alone() {
    for database in [Database::postgres().await, Database::sqlite()] {
        migrate::upgrade(&database.url()).await.expect("upgrades");
        let before = crate::introspect::describe(&mut database.open().await).await;
        reference::migrate(&database);
        let after = crate::introspect::describe(&mut database.open().await).await;
        assert_eq!(before, after);
        assert_eq!(migrate::check(&database.url()).await.expect("checks"), migrate::State::Ready);
    }
}

/// Python makes the database and fills it; Praetor starts on it and serves what Python wrote.
async fn praetor_serves(database: Database) {
    let server = Server::python(&database).await;
    let (status, body) = server.request("POST", "/api/variables/", r#"{"name": "told_to_python", "value": {"n": 1}}"#).expect("answers");
    assert_eq!(status, 201, "{body}");
    drop(server);

    let server = Server::praetor(&database).await;
    let (status, body) = server.request("GET", "/api/variables/name/told_to_python", "").expect("answers");
    assert_eq!(status, 200, "{body}");
    let variable: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(variable["value"]["n"], 1);
    let (status, body) = server.request("POST", "/api/variables/", r#"{"name": "told_to_praetor", "value": 2}"#).expect("answers");
    assert_eq!(status, 201, "{body}");
    drop(server);

    // And back.
    let server = Server::python(&database).await;
    let (status, body) = server.request("GET", "/api/variables/name/told_to_praetor", "").expect("answers");
    assert_eq!(status, 200, "{body}");
    let log = server.log();
    assert!(!log.contains("Traceback"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn praetor_serves_a_postgres_database_of_python() {
    praetor_serves(Database::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn praetor_serves_a_sqlite_database_of_python() {
    praetor_serves(Database::sqlite()).await;
}
