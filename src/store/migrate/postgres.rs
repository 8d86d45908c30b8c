//! Migrations on PostgreSQL: one transaction under one advisory lock, so that nodes which start together take turns.
//!
//! Works through PgBouncer in transaction mode: nothing is set outside a transaction and no statement is kept.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor, query, query_as, query_scalar, raw_sql};

use tokio::time::timeout;

use super::doctor::{Examined, OrphanSlots};
use super::{Adoption, Error, Facts, POSTGRES_REVISION, Report, State, Step, Wanted};
use crate::limits::{DATABASE_CONNECT, MIGRATION_WAIT};
use crate::store::primary::accepts_writes;

/// Key of the advisory lock: "praetor" in ASCII. One for all migrations in a database.
const LOCK_KEY: i64 = 0x0070_7261_6574_6f72;

const STEPS: &[Step] = &[Step { number: 1, name: "0001_own_tables", sql: include_str!("postgres/0001_own_tables.sql") }];

pub(super) static WANTED: Wanted = Wanted {
    revision: POSTGRES_REVISION,
    known_revisions: include_str!("postgres/revisions.txt"),
    baseline: include_str!("postgres/baseline.sql"),
    steps: STEPS,
};

/// Opens the first server that answers and, where there are several, accepts writes.
pub(super) async fn connect(servers: &[PgConnectOptions]) -> Result<PgConnection, sqlx::Error> {
    let mut last = None;
    for server in servers {
        let opening = async {
            let mut connection = PgConnection::connect_with(&server.clone().statement_cache_capacity(0)).await?;
            let writable = servers.len() == 1 || accepts_writes(&mut connection).await?;
            Ok((connection, writable))
        };
        match timeout(DATABASE_CONNECT, opening).await {
            Ok(Ok((connection, true))) => return Ok(connection),
            Ok(Ok((connection, false))) => drop(connection.close().await),
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = Some(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }
    Err(last.unwrap_or_else(|| sqlx::Error::Configuration("none of the servers accepts writes".into())))
}

pub(super) async fn check(connection: &mut PgConnection) -> Result<State, Error> {
    Ok(WANTED.judge(&facts(connection).await?))
}

pub(super) async fn upgrade(connection: &mut PgConnection) -> Result<Report, Error> {
    let mut transaction = connection.begin().await.map_err(Error::at("begin a transaction"))?;
    lock(&mut transaction).await?;
    let facts = facts(&mut transaction).await?;
    let before = WANTED.judge(&facts);
    if !before.may_upgrade() {
        return Err(Error::Refused(before));
    }
    let report = build(&mut transaction, &facts, before).await?;
    transaction.commit().await.map_err(Error::at("commit the migration"))?;
    Ok(report)
}

pub(super) async fn stamp(connection: &mut PgConnection, revision: &str) -> Result<(), Error> {
    let failed = Error::at("stamp the revision");
    let mut transaction = connection.begin().await.map_err(&failed)?;
    lock(&mut transaction).await?;
    let table = "CREATE TABLE IF NOT EXISTS alembic_version (
        version_num varchar(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))";
    raw_sql(table).execute(&mut *transaction).await.map_err(&failed)?;
    query("DELETE FROM alembic_version").execute(&mut *transaction).await.map_err(&failed)?;
    set_revision(&mut transaction, revision).await?;
    transaction.commit().await.map_err(&failed)
}

pub(super) async fn reset(connection: &mut PgConnection) -> Result<Report, Error> {
    let failed = Error::at("drop the tables");
    let mut transaction = connection.begin().await.map_err(&failed)?;
    lock(&mut transaction).await?;
    let found = facts(&mut transaction).await?;
    let before = WANTED.judge(&found);
    if matches!(before, State::NotPrefect { .. }) {
        return Err(Error::Refused(before));
    }
    // Names are the baseline's own, never the database's.
    let expected = WANTED.expected();
    let mut drops = String::from("DROP TABLE IF EXISTS alembic_version;\n");
    for table in expected.tables.keys() {
        drops.extend(["DROP TABLE IF EXISTS \"", table, "\" CASCADE;\n"]);
    }
    for kind in &expected.types {
        drops.extend(["DROP TYPE IF EXISTS ", kind, ";\n"]);
    }
    drops.push_str("DROP SCHEMA IF EXISTS praetor CASCADE;\n");
    raw_sql(AssertSqlSafe(drops)).execute(&mut *transaction).await.map_err(&failed)?;
    let emptied = facts(&mut transaction).await?;
    let mut report = build(&mut transaction, &emptied, WANTED.judge(&emptied)).await?;
    report.before = before;
    transaction.commit().await.map_err(&failed)?;
    Ok(report)
}

/// Everything from what was found to what is wanted, inside the caller's transaction.
async fn build(connection: &mut PgConnection, facts: &Facts, before: State) -> Result<Report, Error> {
    let created = before == State::Empty;
    if created {
        let failed = Error::at("create Prefect's tables");
        if facts.revisions.is_some() {
            // Left behind when Python went back to before its first migration: this table without a row, and types.
            let mut drops = String::from("DROP TABLE alembic_version;\n");
            for kind in &WANTED.expected().types {
                drops.extend(["DROP TYPE IF EXISTS ", kind, ";\n"]);
            }
            raw_sql(AssertSqlSafe(drops)).execute(&mut *connection).await.map_err(&failed)?;
        }
        raw_sql(WANTED.baseline).execute(&mut *connection).await.map_err(&failed)?;
        set_revision(connection, POSTGRES_REVISION).await?;
    }

    let failed = Error::at("create Praetor's own tables");
    let table = "CREATE SCHEMA IF NOT EXISTS praetor;
        CREATE TABLE IF NOT EXISTS praetor.schema_version (
            step bigint NOT NULL,                           -- number of the step
            name text NOT NULL,                             -- its file's name
            applied timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT pk_schema_version PRIMARY KEY (step)
        );";
    if facts.own_version.is_none() {
        raw_sql(table).execute(&mut *connection).await.map_err(&failed)?;
    }
    let mut steps = Vec::new();
    for step in STEPS.iter().filter(|step| step.number > facts.own_version.unwrap_or(0)) {
        raw_sql(step.sql).execute(&mut *connection).await.map_err(&failed)?;
        query("INSERT INTO praetor.schema_version (step, name) VALUES ($1, $2)")
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

async fn adopt(connection: &mut PgConnection) -> Result<Adoption, Error> {
    let failed = Error::at("give leases to the slots that are taken");
    let leases = raw_sql(include_str!("postgres/adopt_leases.sql"));
    let leases = leases.execute(&mut *connection).await.map_err(&failed)?.rows_affected();
    let slots = raw_sql(include_str!("postgres/adopt_slots.sql"));
    let limits_corrected = slots.execute(&mut *connection).await.map_err(&failed)?.rows_affected();
    Ok(Adoption { leases, limits_corrected })
}

async fn lock(connection: &mut PgConnection) -> Result<(), Error> {
    let failed = Error::at("wait for another node's migration");
    let milliseconds = MIGRATION_WAIT.as_millis();
    let settings = format!("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {milliseconds}");
    connection.execute(raw_sql(AssertSqlSafe(settings))).await.map_err(&failed)?;
    query("SELECT pg_advisory_xact_lock($1)").bind(LOCK_KEY).execute(connection).await.map_err(&failed)?;
    Ok(())
}

async fn set_revision(connection: &mut PgConnection, revision: &str) -> Result<(), Error> {
    query("INSERT INTO alembic_version (version_num) VALUES ($1)")
        .bind(revision)
        .execute(connection)
        .await
        .map_err(Error::at("write the revision"))?;
    Ok(())
}

async fn facts(connection: &mut PgConnection) -> Result<Facts, Error> {
    let failed = Error::at("say which tables it has");
    let tables: Vec<String> = query_scalar(
        "SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND pg_catalog.pg_table_is_visible(c.oid)
             AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'praetor')",
    )
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
    let own: bool =
        query_scalar("SELECT to_regclass('praetor.schema_version') IS NOT NULL").fetch_one(&mut *connection).await.map_err(&failed)?;
    let own_version = if own {
        let highest = query_scalar("SELECT coalesce(max(step), 0) FROM praetor.schema_version");
        Some(highest.fetch_one(&mut *connection).await.map_err(&failed)?)
    } else {
        None
    };
    Ok(Facts { revisions, tables, own_version })
}

pub(super) async fn examine(connection: &mut PgConnection) -> Result<Examined, Error> {
    let failed = Error::at("describe itself");
    let facts = facts(connection).await?;
    let state = WANTED.judge(&facts);
    let server_version: String = query_scalar("SHOW server_version").fetch_one(&mut *connection).await.map_err(&failed)?;
    let number: String = query_scalar("SHOW server_version_num").fetch_one(&mut *connection).await.map_err(&failed)?;
    let trigrams: Option<String> = query_scalar("SELECT extversion::text FROM pg_catalog.pg_extension WHERE extname = 'pg_trgm'")
        .fetch_optional(&mut *connection)
        .await
        .map_err(&failed)?;
    let rows: Vec<(String, String)> = query_as(
        "SELECT c.relname::text, a.attname::text
         FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relkind IN ('r', 'p') AND pg_catalog.pg_table_is_visible(c.oid)
             AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'praetor')
         ORDER BY c.relname, a.attnum",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(&failed)?;
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (table, column) in rows {
        tables.entry(table).or_default().push(column);
    }
    let indexes: Vec<(String, String)> = query_as(
        "SELECT i.relname::text, c.relname::text
         FROM pg_catalog.pg_index x
         JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
         JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE pg_catalog.pg_table_is_visible(c.oid) AND x.indisvalid
             AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'praetor', 'pg_toast')
             AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k WHERE k.conindid = i.oid AND k.contype IN ('p', 'u', 'x'))",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(&failed)?;
    let orphan_slots = if state == State::Ready {
        let rows: Vec<(String, i64, i64)> = query_as(
            "SELECT l.name, l.active_slots::bigint, coalesce(sum(held.slots), 0)::bigint
             FROM concurrency_limit_v2 l
             LEFT JOIN praetor.lease held ON held.limit_ids ? l.id::text
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
        dialect: "postgresql",
        state,
        revisions: facts.revisions.unwrap_or_default(),
        own_version: facts.own_version,
        server_version,
        server_major: number.parse::<u32>().ok().map(|number| number / 10_000),
        needs_trigrams: true,
        trigrams,
        tables,
        indexes: indexes.into_iter().collect(),
        orphan_slots,
    })
}
