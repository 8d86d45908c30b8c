//! The schema that Praetor makes is the one that Python's own migrations make: no difference, on either database.

use praetor::store::migrate;

use crate::introspect::describe;
use crate::reference::{self, Database};

async fn assert_equal(theirs: Database, ours: Database, tables: usize, indexes: usize) {
    reference::migrate(&theirs);
    let report = migrate::upgrade(&ours.url()).await.expect("upgrades");
    assert!(report.created);

    let theirs = describe(&mut theirs.open().await).await;
    let ours = describe(&mut ours.open().await).await;
    let missing: Vec<_> = theirs.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&theirs).collect();
    assert!(missing.is_empty() && extra.is_empty(), "only in theirs:\n{missing:#?}\nonly in ours:\n{extra:#?}");

    // So that an empty description cannot pass.
    let count = |start: &str| theirs.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(count("revision"), 1);
    assert_eq!(count("column"), 368);
    assert!(count("relation") + count("table") >= tables, "{theirs:#?}");
    assert!(count("index") >= indexes, "{} index lines", count("index"));
}

#[tokio::test]
async fn postgres_schema_equals_the_reference() {
    assert_equal(Database::postgres().await, Database::postgres().await, 36, 196).await;
}

#[tokio::test]
async fn sqlite_schema_equals_the_reference() {
    assert_equal(Database::sqlite(), Database::sqlite(), 36, 143).await;
}

/// The database that Python made passes the doctor, once it is adopted.
#[tokio::test]
async fn doctor_finds_nothing_wrong_with_the_reference() {
    for database in [Database::postgres().await, Database::sqlite()] {
        reference::migrate(&database);
        let before = migrate::doctor(&database.url()).await.expect("examines");
        assert_eq!(before.state, migrate::State::NeedsOwnTables);
        assert!(before.missing.is_empty() && before.extra.is_empty() && before.healthy(), "{before}");
        migrate::upgrade(&database.url()).await.expect("adopts");
        let after = migrate::doctor(&database.url()).await.expect("examines");
        assert_eq!(after.state, migrate::State::Ready);
        assert!(after.missing.is_empty() && after.extra.is_empty() && after.healthy(), "{after}");
    }
}
