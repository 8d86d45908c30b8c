//! Everything a database says about its own definition, as lines that can be compared.
//!
//! Not compared, because it follows from history and not from the definition: gaps that dropped columns leave on Postgres; on
//! SQLite layout, order of the definitions, and order of the constraints of a table, in which two runs of the reference's own
//! migrations differ from each other.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, PgConnection, SqliteConnection, query_scalar};

use crate::reference::Connected;

/// One line per object, column, index, constraint, label, ...
pub async fn describe(connection: &mut Connected) -> BTreeSet<String> {
    match connection {
        Connected::Postgres(connection) => describe_postgres(connection).await,
        Connected::Sqlite(connection) => describe_sqlite(connection).await,
    }
}

async fn describe_postgres(connection: &mut PgConnection) -> BTreeSet<String> {
    let queries = [
        // All relations (indexes, sequences and views among them), in every schema but the system's and Praetor's.
        "SELECT format('relation %s.%s kind %s persistence %s options %s identity %s rowsecurity %s', n.nspname, c.relname, c.relkind,
                c.relpersistence, c.reloptions, c.relreplident, c.relrowsecurity)
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'praetor')",
        "SELECT format('column %s %s: %s %s, not null %s, default %s, identity %s, generated %s, collation %s, storage %s, statistics %s',
                c.relname, row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), a.attname, format_type(a.atttypid, a.atttypmod),
                a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated, a.attcollation::regcollation,
                a.attstorage, a.attstattarget)
         FROM pg_attribute a
         JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'v', 'm')
         JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'public'
         LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attnum > 0 AND NOT a.attisdropped",
        "SELECT format('index %s: %s, valid %s, ready %s, clustered %s, replica identity %s', i.relname, pg_get_indexdef(i.oid),
                x.indisvalid, x.indisready, x.indisclustered, x.indisreplident)
         FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = i.relnamespace
         WHERE n.nspname = 'public'",
        "SELECT format('constraint %s on %s: %s, validated %s, deferrable %s, deferred %s', k.conname, k.conrelid::regclass,
                pg_get_constraintdef(k.oid), k.convalidated, k.condeferrable, k.condeferred)
         FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace WHERE n.nspname = 'public'",
        "SELECT format('enum %s: %s', t.typname, string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder))
         FROM pg_type t JOIN pg_enum e ON e.enumtypid = t.oid GROUP BY t.typname",
        "SELECT format('extension %s %s in %s', e.extname, e.extversion, e.extnamespace::regnamespace) FROM pg_extension e",
        "SELECT format('function %s', p.oid::regprocedure) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')",
        "SELECT format('trigger %s: %s', t.tgname, pg_get_triggerdef(t.oid)) FROM pg_trigger t WHERE NOT t.tgisinternal",
        "SELECT format('comment on %s: %s', pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description)
         FROM pg_description d JOIN pg_class c ON c.oid = d.objoid AND d.classoid = 'pg_class'::regclass
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public'",
        "SELECT format('schema %s', nspname) FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'praetor'",
        "SELECT format('revision %s', version_num) FROM alembic_version",
    ];
    let mut lines = BTreeSet::new();
    for sql in queries {
        let found: Vec<String> = query_scalar(sql).fetch_all(&mut *connection).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
        lines.extend(found);
    }
    lines
}

async fn describe_sqlite(connection: &mut SqliteConnection) -> BTreeSet<String> {
    let ours = "tbl_name NOT LIKE 'praetor\\_%' ESCAPE '\\'";
    let mut lines = BTreeSet::new();
    let definitions: Vec<String> = query_scalar(AssertSqlSafe(format!(
        "SELECT type || ' ' || name || ' of ' || tbl_name || ': ' || coalesce(sql, 'made by a constraint') FROM sqlite_master WHERE {ours}"
    )))
    .fetch_all(&mut *connection)
    .await
    .expect("lists the definitions");
    lines.extend(definitions.iter().map(|text| sort_constraints(&squeeze(text))));

    let queries = [
        format!(
            "SELECT 'column ' || m.name || ' ' || c.cid || ': ' || c.name || ' ' || c.type || ', not null ' || c.\"notnull\" || ', default ' ||
                coalesce(c.dflt_value, 'none') || ', key ' || c.pk || ', hidden ' || c.hidden
             FROM sqlite_master m JOIN pragma_table_xinfo(m.name) c WHERE m.type = 'table' AND {ours}"
        ),
        format!(
            "SELECT 'index ' || i.name || ' of ' || m.name || ': unique ' || i.\"unique\" || ', origin ' || i.origin || ', partial ' || i.partial ||
                ', part ' || c.seqno || ' ' || coalesce(c.name, 'expression') || ' desc ' || c.desc || ' collation ' || c.coll || ' key ' || c.key
             FROM sqlite_master m JOIN pragma_index_list(m.name) i JOIN pragma_index_xinfo(i.name) c WHERE m.type = 'table' AND {ours}"
        ),
        format!(
            "SELECT 'foreign key of ' || m.name || ': part ' || k.seq || ' ' || k.\"from\" || ' -> ' || k.\"table\" || '.' || coalesce(k.\"to\", '') ||
                ' on update ' || k.on_update || ' on delete ' || k.on_delete || ' match ' || k.match
             FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) k WHERE m.type = 'table' AND {ours}"
        ),
        "SELECT 'revision ' || version_num FROM alembic_version".to_owned(),
        "SELECT 'journal mode ' || journal_mode FROM pragma_journal_mode".to_owned(),
        "SELECT 'encoding ' || encoding FROM pragma_encoding".to_owned(),
        "SELECT 'automatic vacuum ' || auto_vacuum FROM pragma_auto_vacuum".to_owned(),
        "SELECT 'application ' || application_id FROM pragma_application_id".to_owned(),
        "SELECT 'user version ' || user_version FROM pragma_user_version".to_owned(),
    ];
    for sql in queries {
        let found: Vec<String> =
            query_scalar(AssertSqlSafe(sql.clone())).fetch_all(&mut *connection).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
        lines.extend(found.iter().map(|text| squeeze(text)));
    }
    lines
}

/// Drops white space outside of literals; every token stays.
fn squeeze(text: &str) -> String {
    let mut quoted = false;
    text.chars()
        .filter(|&letter| {
            quoted ^= letter == '\'';
            quoted || !letter.is_whitespace()
        })
        .collect()
}

/// Puts the constraints of a squeezed table definition, which stand behind its columns, in the order of their names.
fn sort_constraints(text: &str) -> String {
    let mut parts = text.split(",CONSTRAINT");
    let columns = parts.next().unwrap_or_default();
    // The last one carries the bracket that closes the table.
    let mut constraints: Vec<&str> = parts.collect();
    let Some(last) = constraints.last_mut() else { return text.to_owned() };
    *last = last.strip_suffix(')').expect("a table definition ends with its bracket");
    constraints.sort_unstable();
    format!("{columns},CONSTRAINT{})", constraints.join(",CONSTRAINT"))
}
