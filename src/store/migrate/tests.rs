//! Judgement over invented facts, the reading of the baseline, and SQLite in memory. `tests/compat` has the real databases.

use sea_query::Iden;

use super::*;
use crate::store::url::SqliteLocation;

fn facts(revisions: Option<&[&str]>, tables: &[&str], own_version: Option<i64>) -> Facts {
    Facts {
        revisions: revisions.map(|all| all.iter().map(|&one| one.to_owned()).collect()),
        tables: tables.iter().map(|&one| one.to_owned()).collect(),
        own_version,
    }
}

#[test]
fn baselines_make_the_same_tables_and_columns_on_both_dialects() {
    let postgres = postgres::WANTED.expected();
    let sqlite = sqlite::WANTED.expected();
    assert_eq!(postgres.tables.len(), 35);
    assert_eq!(postgres.tables.keys().collect::<Vec<_>>(), sqlite.tables.keys().collect::<Vec<_>>());
    for (table, columns) in &postgres.tables {
        let one: BTreeSet<_> = columns.iter().collect();
        let other: BTreeSet<_> = sqlite.tables[table].iter().collect();
        assert_eq!(one, other, "{table}");
    }
    assert_eq!(postgres.indexes.len(), 148);
    assert_eq!(sqlite.indexes.len(), 143);
    assert_eq!(postgres.types.len(), 5);
    assert_eq!(postgres.indexes["uq_flow_run__flow_id_idempotency_key"], "flow_run");
}

#[test]
fn heads_are_the_last_of_the_known_revisions() {
    for wanted in [&postgres::WANTED, &sqlite::WANTED] {
        assert_eq!(wanted.known_revisions.lines().last(), Some(wanted.revision));
        let unique: BTreeSet<_> = wanted.known_revisions.lines().collect();
        assert_eq!(unique.len(), wanted.known_revisions.lines().count());
        let numbers: Vec<_> = wanted.steps.iter().map(|step| step.number).collect();
        assert_eq!(numbers, (1..=wanted.own_version()).collect::<Vec<_>>());
    }
}

#[test]
fn judgement_names_what_to_do() {
    let wanted = &postgres::WANTED;
    let all: Vec<String> = wanted.expected().tables.into_keys().collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let head = [POSTGRES_REVISION];
    let cases = [
        (facts(None, &[], None), State::Empty),
        (facts(Some(&[]), &["alembic_version"], None), State::Empty),
        (facts(None, &["users"], None), State::Empty),
        (facts(Some(&head), &all, None), State::NeedsOwnTables),
        (facts(Some(&head), &all, Some(1)), State::Ready),
        (facts(Some(&head), &all, Some(0)), State::OwnTablesBehind { found: 0, expected: 1 }),
        (facts(Some(&head), &all, Some(9)), State::OwnTablesAhead { found: 9, expected: 1 }),
        (
            facts(Some(&["679e695af6ba"]), &["flow"], None),
            State::OtherRevision { found: "679e695af6ba".to_owned(), expected: POSTGRES_REVISION, age: Age::Older },
        ),
        (
            facts(Some(&["ffffffffffff"]), &all, Some(1)),
            State::OtherRevision { found: "ffffffffffff".to_owned(), expected: POSTGRES_REVISION, age: Age::Unknown },
        ),
        (facts(None, &all, None), State::Unstamped { expected: POSTGRES_REVISION }),
        (facts(None, &["flow"], None), State::NotPrefect { tables: vec!["flow".to_owned()] }),
        (
            facts(Some(&["e3a246e0dc1"]), &["alembic_version", "dag"], None),
            State::NotPrefect { tables: vec!["alembic_version".to_owned()] },
        ),
    ];
    for (facts, state) in cases {
        assert_eq!(wanted.judge(&facts), state);
        assert!(state.to_string().ends_with('.'), "{state}");
    }
}

/// `schema.rs` names every table and column of the baseline, and nothing else.
#[test]
fn identifiers_equal_the_baseline() {
    let source = include_str!("../schema.rs");
    let mut found: std::collections::BTreeMap<String, BTreeSet<String>> = std::collections::BTreeMap::new();
    let mut table = String::new();
    let mut renamed = None;
    for line in source.lines() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("pub enum ") {
            table = renamed.take().unwrap_or_else(|| snake(rest.trim_end_matches(" {")));
            found.insert(table.clone(), BTreeSet::new());
        } else if let Some(rest) = line.strip_prefix("#[iden = \"") {
            renamed = Some(rest.trim_end_matches("\"]").to_owned());
        } else if let Some(variant) = line.strip_suffix(',') {
            let column = renamed.take().unwrap_or_else(|| snake(variant));
            if variant != "Table" {
                found.get_mut(&table).expect("a variant follows its enum").insert(column);
            } else if column != "table" {
                // A renamed `Table` is the table's name.
                found.remove(&table);
                table = column;
                found.insert(table.clone(), BTreeSet::new());
            }
        }
    }
    let expected = postgres::WANTED.expected();
    let expected: std::collections::BTreeMap<String, BTreeSet<String>> =
        expected.tables.into_iter().map(|(table, columns)| (table, columns.into_iter().collect())).collect();
    assert_eq!(found, expected);
    // The reading above and the derive agree on what a name is.
    assert_eq!(crate::store::schema::ConcurrencyLimitV2::Table.to_string(), "concurrency_limit_v2");
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[tokio::test]
async fn memory_database_is_made_once_and_reset() {
    let mut connection = sqlite::connect(&SqliteLocation::Memory).await.expect("opens");
    let report = upgrade_sqlite(&mut connection).await.expect("upgrades");
    assert!(report.created && report.steps == ["0001_own_tables"] && report.adopted.is_none());
    let again = upgrade_sqlite(&mut connection).await.expect("upgrades again");
    assert_eq!(again, Report { before: State::Ready, created: false, adopted: None, steps: vec![] });
    sqlx::query("INSERT INTO flow (name) VALUES ('kept until reset')").execute(&mut connection).await.expect("inserts");
    sqlite::reset(&mut connection).await.expect("resets");
    let flows: i64 = sqlx::query_scalar("SELECT count(*) FROM flow").fetch_one(&mut connection).await.expect("counts");
    assert_eq!(flows, 0);
    let found = sqlite::examine(&mut connection).await.expect("examines");
    let diagnosis = doctor::diagnose("memory".to_owned(), &sqlite::WANTED, found);
    assert!(diagnosis.healthy() && diagnosis.missing.is_empty() && diagnosis.extra.is_empty(), "{diagnosis}");
}

#[tokio::test]
async fn doctor_names_what_is_missing_and_extra() {
    let mut connection = sqlite::connect(&SqliteLocation::Memory).await.expect("opens");
    upgrade_sqlite(&mut connection).await.expect("upgrades");
    let damage = "DROP TABLE agent; DROP INDEX ix_flow__updated; ALTER TABLE flow ADD COLUMN colour TEXT; CREATE TABLE mine (x);
        INSERT INTO concurrency_limit_v2 (active, name, \"limit\", active_slots, denied_slots, slot_decay_per_second, avg_slot_occupancy_seconds)
        VALUES (1, 'leaky', 3, 2, 0, 0, 2);";
    sqlx::raw_sql(damage).execute(&mut connection).await.expect("damages");
    let found = sqlite::examine(&mut connection).await.expect("examines");
    let diagnosis = doctor::diagnose("memory".to_owned(), &sqlite::WANTED, found);
    assert_eq!(
        diagnosis.missing,
        [Thing::Table { name: "agent".to_owned() }, Thing::Index { table: "flow".to_owned(), name: "ix_flow__updated".to_owned() }]
    );
    assert_eq!(
        diagnosis.extra,
        [Thing::Table { name: "mine".to_owned() }, Thing::Column { table: "flow".to_owned(), name: "colour".to_owned() }]
    );
    assert_eq!(diagnosis.orphan_slots, [OrphanSlots { limit: "leaky".to_owned(), active_slots: 2, leased_slots: 0 }]);
    assert!(!diagnosis.healthy());
}
