//! Migrations on SQLite: one immediate transaction, so that processes which start together take turns.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, query, query_as, query_scalar, raw_sql};

use super::doctor::{Examined, OrphanSlots};
use super::{Adoption, Error, Facts, Report, SQLITE_REVISION, State, Step, Wanted};
use crate::store::url::SqliteLocation;

/// Turning on WAL does not wait for another process that does so too; how often and after how long we ask again.
const OPEN_ATTEMPTS: u32 = 100;
const OPEN_PAUSE: Duration = Duration::from_millis(50);

const STEPS: &[Step] = &[Step { number: 1, name: "0001_own_tables", sql: include_str!("sqlite/0001_own_tables.sql") }];

pub(super) static WANTED: Wanted = Wanted {
    revision: SQLITE_REVISION,
    known_revisions: include_str!("sqlite/revisions.txt"),
    baseline: include_str!("sqlite/baseline.sql"),
    steps: STEPS,
};

/// Opens the database for migrations: foreign keys are off, since dropping a table would check every row that points to it.
pub(super) async fn connect(location: &SqliteLocation) -> Result<SqliteConnection, sqlx::Error> {
    if let SqliteLocation::File(path) = location
        && let Some(directory) = path.parent()
        && !directory.as_os_str().is_empty()
    {
        tokio::fs::create_dir_all(directory).await?;
    }
    let options = location.options().foreign_keys(false);
    let mut attempt = 0;
    loop {
        attempt += 1;
        match options.connect().await {
            Err(error) if attempt < OPEN_ATTEMPTS && is_busy(&error) => tokio::time::sleep(OPEN_PAUSE).await,
            result => return result,
        }
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    // SQLITE_BUSY and its extended codes (recovery, snapshot, timeout) share the low byte.
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| code & 0xff == 5)
}

pub(super) async fn check(connection: &mut SqliteConnection) -> Result<State, Error> {
    Ok(WANTED.judge(&facts(connection).await?))
}

pub(super) async fn upgrade(connection: &mut SqliteConnection) -> Result<Report, Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(Error::at("wait for another process's migration"))?;
    let facts = facts(&mut transaction).await?;
    let before = WANTED.judge(&facts);
    if !before.may_upgrade() {
        return Err(Error::Refused(before));
    }
    let report = build(&mut transaction, &facts, before).await?;
    transaction.commit().await.map_err(Error::at("commit the migration"))?;
    Ok(report)
}

pub(super) async fn stamp(connection: &mut SqliteConnection, revision: &str) -> Result<(), Error> {
    let failed = Error::at("stamp the revision");
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
    let table = "CREATE TABLE IF NOT EXISTS alembic_version (
        version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))";
    raw_sql(table).execute(&mut *transaction).await.map_err(&failed)?;
    query("DELETE FROM alembic_version").execute(&mut *transaction).await.map_err(&failed)?;
    set_revision(&mut transaction, revision).await?;
    transaction.commit().await.map_err(&failed)
}

pub(super) async fn reset(connection: &mut SqliteConnection) -> Result<Report, Error> {
    let failed = Error::at("drop the tables");
    // Has no effect inside a transaction, so it stands before; the connection serves this one purpose.
    query("PRAGMA foreign_keys = OFF").execute(&mut *connection).await.map_err(&failed)?;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
    let found = facts(&mut transaction).await?;
    let before = WANTED.judge(&found);
    if matches!(before, State::NotPrefect { .. }) {
        return Err(Error::Refused(before));
    }
    let expected = WANTED.expected();
    let mut drops = String::new();
    for table in &found.tables {
        let ours = table.starts_with("praetor_") || table == "alembic_version" || expected.tables.contains_key(table);
        if ours {
            drops.extend(["DROP TABLE \"", table, "\";\n"]);
        }
    }
    raw_sql(AssertSqlSafe(drops)).execute(&mut *transaction).await.map_err(&failed)?;
    let emptied = facts(&mut transaction).await?;
    let mut report = build(&mut transaction, &emptied, WANTED.judge(&emptied)).await?;
    report.before = before;
    transaction.commit().await.map_err(&failed)?;
    Ok(report)
}

/// Everything from what was found to what is wanted, inside the caller's transaction.
async fn build(connection: &mut SqliteConnection, facts: &Facts, before: State) -> Result<Report, Error> {
    let created = before == State::Empty;
    if created {
        let failed = Error::at("create Prefect's tables");
        if facts.revisions.is_some() {
            // Left behind, without a row, when Python went back to before its first migration.
            raw_sql("DROP TABLE alembic_version").execute(&mut *connection).await.map_err(&failed)?;
        }
        raw_sql(WANTED.baseline).execute(&mut *connection).await.map_err(&failed)?;
        set_revision(connection, SQLITE_REVISION).await?;
    }

    let failed = Error::at("create Praetor's own tables");
    let table = "CREATE TABLE IF NOT EXISTS praetor_schema_version (
            step INTEGER NOT NULL,                          -- number of the step
            name TEXT NOT NULL,                             -- its file's name
            applied DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
            CONSTRAINT pk_praetor_schema_version PRIMARY KEY (step)
        )";
    if facts.own_version.is_none() {
        raw_sql(table).execute(&mut *connection).await.map_err(&failed)?;
    }
    let mut steps = Vec::new();
    for step in STEPS.iter().filter(|step| step.number > facts.own_version.unwrap_or(0)) {
        raw_sql(step.sql).execute(&mut *connection).await.map_err(&failed)?;
        query("INSERT INTO praetor_schema_version (step, name) VALUES (?, ?)")
            .bind(step.number)
            .bind(step.name)
            .execute(&mut *connection)
            .await
            .map_err(&failed)?;
        steps.push(step.name);
    }

    let adopted = if before == State::NeedsOwnTables { Some(adopt(connection).await?) } else { None };
    Ok(Report { before, created, adopted, steps })
}

async fn adopt(connection: &mut SqliteConnection) -> Result<Adoption, Error> {
    let failed = Error::at("give leases to the slots that are taken");
    let leases = raw_sql(include_str!("sqlite/adopt_leases.sql"));
    let leases = leases.execute(&mut *connection).await.map_err(&failed)?.rows_affected();
    let slots = raw_sql(include_str!("sqlite/adopt_slots.sql"));
    let limits_corrected = slots.execute(&mut *connection).await.map_err(&failed)?.rows_affected();
    Ok(Adoption { leases, limits_corrected })
}

async fn set_revision(connection: &mut SqliteConnection, revision: &str) -> Result<(), Error> {
    query("INSERT INTO alembic_version (version_num) VALUES (?)")
        .bind(revision)
        .execute(connection)
        .await
        .map_err(Error::at("write the revision"))?;
    Ok(())
}

async fn facts(connection: &mut SqliteConnection) -> Result<Facts, Error> {
    let failed = Error::at("say which tables it has");
    let tables: Vec<String> = query_scalar("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        .fetch_all(&mut *connection)
        .await
        .map_err(&failed)?;
    let tables: BTreeSet<String> = tables.into_iter().collect();
    let revisions = if tables.contains("alembic_version") {
        let rows = query_scalar("SELECT version_num FROM alembic_version ORDER BY version_num");
        Some(rows.fetch_all(&mut *connection).await.map_err(&failed)?)
    } else {
        None
    };
    let own_version = if tables.contains("praetor_schema_version") {
        let highest = query_scalar("SELECT coalesce(max(step), 0) FROM praetor_schema_version");
        Some(highest.fetch_one(&mut *connection).await.map_err(&failed)?)
    } else {
        None
    };
    Ok(Facts { revisions, tables, own_version })
}

pub(super) async fn examine(connection: &mut SqliteConnection) -> Result<Examined, Error> {
    let failed = Error::at("describe itself");
    let facts = facts(connection).await?;
    let state = WANTED.judge(&facts);
    let server_version = query_scalar("SELECT sqlite_version()").fetch_one(&mut *connection).await.map_err(&failed)?;
    let rows: Vec<(String, String)> = query_as(
        "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c
         WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name NOT LIKE 'praetor\\_%' ESCAPE '\\'
         ORDER BY m.name, c.cid",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(&failed)?;
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (table, column) in rows {
        tables.entry(table).or_default().push(column);
    }
    let indexes: Vec<(String, String)> = query_as(
        "SELECT name, tbl_name FROM sqlite_master
         WHERE type = 'index' AND sql IS NOT NULL AND tbl_name NOT LIKE 'praetor\\_%' ESCAPE '\\'",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(&failed)?;
    let orphan_slots = if state == State::Ready {
        let rows: Vec<(String, i64, i64)> = query_as(
            "SELECT l.name, l.active_slots, coalesce(sum(held.slots), 0)
             FROM concurrency_limit_v2 l
             LEFT JOIN praetor_lease held ON EXISTS (SELECT 1 FROM json_each(held.limit_ids) AS one WHERE one.value = l.id)
             WHERE l.slot_decay_per_second = 0
             GROUP BY l.id, l.name, l.active_slots
             HAVING l.active_slots <> coalesce(sum(held.slots), 0)
             ORDER BY l.name",
        )
        .fetch_all(&mut *connection)
        .await
        .map_err(&failed)?;
        rows.into_iter().map(OrphanSlots::from).collect()
    } else {
        Vec::new()
    };
    Ok(Examined {
        dialect: "sqlite",
        state,
        revisions: facts.revisions.unwrap_or_default(),
        own_version: facts.own_version,
        server_version,
        server_major: None,
        needs_trigrams: false,
        trigrams: None,
        tables,
        indexes: indexes.into_iter().collect(),
        orphan_slots,
    })
}
