//! `praetor server database`, as a chart or a person calls it.

use serde_json::Value;

use crate::reference::{Database, praetor};

/// Exit code, standard output, standard error.
fn run(database: &Database, arguments: &[&str]) -> (Option<i32>, String, String) {
    let home = tempfile::tempdir().expect("makes a directory");
    let output = praetor(database, &home).args(["server", "database"]).args(arguments).output().expect("praetor runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the answer is text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn json(database: &Database, arguments: &[&str], code: i32) -> Value {
    let (found, output, errors) = run(database, arguments);
    assert_eq!(found, Some(code), "{arguments:?}: {output}{errors}");
    serde_json::from_str(&output).expect("one JSON value")
}

#[tokio::test]
async fn commands_answer_scripts() {
    for database in [Database::postgres().await, Database::sqlite()] {
        let planned = json(&database, &["upgrade", "--dry-run", "--json"], 0);
        assert_eq!(planned["found"]["state"], "empty");
        let (code, _, errors) = run(&database, &["upgrade"]);
        assert!(code == Some(1) && errors.contains("not confirmed"), "{errors}");
        let made = json(&database, &["upgrade", "-y", "--json"], 0);
        assert_eq!(made["report"]["created"], true);
        let again = json(&database, &["upgrade", "-y", "--revision", "head", "--json"], 0);
        assert_eq!(again["report"]["created"], false);
        assert_eq!(json(&database, &["doctor", "--json"], 0)["healthy"], true);

        database.open().await.run("DROP INDEX ix_flow__updated; DROP TABLE saved_search").await;
        let sick = json(&database, &["doctor", "--json"], 1);
        assert_eq!(sick["diagnosis"]["missing"].as_array().map(Vec::len), Some(2), "{sick}");
        let (code, output, _) = run(&database, &["doctor"]);
        assert!(code == Some(1) && output.contains("Missing table saved_search"), "{output}");

        json(&database, &["reset", "-y", "--json"], 0);
        assert_eq!(json(&database, &["doctor", "--json"], 0)["healthy"], true);

        let (code, _, errors) = run(&database, &["stamp", "no-such-revision"]);
        assert!(code == Some(1) && errors.contains("no-such-revision"), "{errors}");
        assert_eq!(json(&database, &["stamp", "9e83011d1f2a", "--json"], 0)["revision"], "9e83011d1f2a");
        let (code, _, errors) = run(&database, &["upgrade", "-y"]);
        assert!(code == Some(1) && errors.contains("prefect server database upgrade -y"), "{errors}");
    }
}
