//! What is right and wrong with a database, as data for machines and as sentences for people. Nothing is changed.
//!
//! Compares names: tables, columns, indexes. Whether definitions agree is proved for a fresh database by `tests/compat`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{PREFECT_VERSION, State, Wanted};

/// Oldest PostgreSQL that Prefect supports.
const POSTGRES_MAJOR_MIN: u32 = 14;

/// The whole report of `database doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Address without password.
    pub database: String,
    /// `postgresql` or `sqlite`.
    pub dialect: &'static str,
    pub server_version: String,
    #[serde(flatten)]
    pub state: State,
    /// Prefect's revision as found; several rows are joined by a comma.
    pub revision: Option<String>,
    pub revision_expected: &'static str,
    /// Highest step of our own tables as found.
    pub own_version: Option<i64>,
    pub own_version_expected: i64,
    /// Version of the extension pg_trgm; always `None` on SQLite.
    pub pg_trgm: Option<String>,
    /// Wanted and not there.
    pub missing: Vec<Thing>,
    /// There and not wanted. Tables of other programs in the same schema are among them, and do no harm.
    pub extra: Vec<Thing>,
    pub orphan_slots: Vec<OrphanSlots>,
    pub findings: Vec<Finding>,
}

/// A table, column or index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Thing {
    Table { name: String },
    Column { table: String, name: String },
    Index { table: String, name: String },
}

/// A concurrency limit whose counter and leases disagree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OrphanSlots {
    /// Name of the limit.
    pub limit: String,
    /// What the counter says.
    pub active_slots: i64,
    /// What leases hold.
    pub leased_slots: i64,
}

impl From<(String, i64, i64)> for OrphanSlots {
    fn from((limit, active_slots, leased_slots): (String, i64, i64)) -> Self {
        Self { limit, active_slots, leased_slots }
    }
}

/// One sentence of advice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub sentence: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know; nothing need be done.
    Note,
    /// Praetor works, and something is off.
    Warning,
    /// Praetor does not serve this database as it is.
    Problem,
}

/// What a dialect found out.
pub(super) struct Examined {
    pub dialect: &'static str,
    pub state: State,
    pub revisions: Vec<String>,
    pub own_version: Option<i64>,
    pub server_version: String,
    /// Major version where it matters.
    pub server_major: Option<u32>,
    /// The dialect needs pg_trgm, whose version is next.
    pub needs_trigrams: bool,
    pub trigrams: Option<String>,
    pub tables: BTreeMap<String, Vec<String>>,
    pub indexes: BTreeMap<String, String>,
    pub orphan_slots: Vec<OrphanSlots>,
}

impl Diagnosis {
    /// No finding is a problem.
    pub fn healthy(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Problem)
    }
}

pub(super) fn diagnose(database: String, wanted: &'static Wanted, found: Examined) -> Diagnosis {
    let (missing, extra) = compare(wanted, &found);
    let mut findings = Vec::new();
    let mut say = |severity, sentence: String| findings.push(Finding { severity, sentence });

    let severity = match found.state {
        State::Ready => Severity::Note,
        State::NeedsOwnTables | State::OwnTablesBehind { .. } | State::Empty => Severity::Warning,
        _ => Severity::Problem,
    };
    say(severity, found.state.to_string());

    if let Some(major) = found.server_major
        && major < POSTGRES_MAJOR_MIN
    {
        say(
            Severity::Problem,
            format!(
                "PostgreSQL {} is older than {POSTGRES_MAJOR_MIN}, the oldest that Prefect {PREFECT_VERSION} supports: upgrade the server.",
                found.server_version
            ),
        );
    }
    let has_tables = !matches!(found.state, State::Empty | State::NotPrefect { .. });
    if found.needs_trigrams && found.trigrams.is_none() {
        let severity = if has_tables { Severity::Problem } else { Severity::Note };
        say(
            severity,
            "The extension pg_trgm is not installed: searches by name need it; `database upgrade` of an empty database installs it, otherwise run CREATE EXTENSION pg_trgm as a user who may."
                .to_owned(),
        );
    }
    // At another revision differences are what one expects, and the state's sentence says what to do.
    let comparable = matches!(
        found.state,
        State::Ready | State::NeedsOwnTables | State::OwnTablesBehind { .. } | State::OwnTablesAhead { .. } | State::Unstamped { .. }
    );
    if comparable {
        for thing in &missing {
            let severity = if matches!(thing, Thing::Index { .. }) { Severity::Warning } else { Severity::Problem };
            say(
                severity,
                format!(
                    "Missing {thing}: the schema is not the one of Prefect {PREFECT_VERSION}; restore it from a backup, or create it as a fresh database has it."
                ),
            );
        }
        for thing in &extra {
            say(Severity::Note, format!("Extra {thing}: not Prefect {PREFECT_VERSION}'s; Praetor leaves it alone."));
        }
    }
    for orphan in &found.orphan_slots {
        say(
            Severity::Warning,
            format!(
                "Concurrency limit {:?} counts {} taken slots and leases hold {}: if no Python server uses this database now, set the limit's active_slots to {}.",
                orphan.limit, orphan.active_slots, orphan.leased_slots, orphan.leased_slots
            ),
        );
    }

    Diagnosis {
        database,
        dialect: found.dialect,
        server_version: found.server_version,
        state: found.state,
        revision: (!found.revisions.is_empty()).then(|| found.revisions.join(", ")),
        revision_expected: wanted.revision,
        own_version: found.own_version,
        own_version_expected: wanted.own_version(),
        pg_trgm: found.trigrams,
        missing: if comparable { missing } else { Vec::new() },
        extra: if comparable { extra } else { Vec::new() },
        orphan_slots: found.orphan_slots,
        findings,
    }
}

/// Names that are wanted and absent, and the other way round.
fn compare(wanted: &Wanted, found: &Examined) -> (Vec<Thing>, Vec<Thing>) {
    let expected = wanted.expected();
    let (mut missing, mut extra) = (Vec::new(), Vec::new());
    for (table, columns) in &expected.tables {
        let Some(present) = found.tables.get(table) else {
            missing.push(Thing::Table { name: table.clone() });
            continue;
        };
        for column in columns.iter().filter(|column| !present.contains(column)) {
            missing.push(Thing::Column { table: table.clone(), name: column.clone() });
        }
        for column in present.iter().filter(|column| !columns.contains(column)) {
            extra.push(Thing::Column { table: table.clone(), name: column.clone() });
        }
    }
    for table in found.tables.keys() {
        if !expected.tables.contains_key(table) && table != "alembic_version" {
            extra.push(Thing::Table { name: table.clone() });
        }
    }
    for (index, table) in &expected.indexes {
        if !found.indexes.contains_key(index) && found.tables.contains_key(table) {
            missing.push(Thing::Index { table: table.clone(), name: index.clone() });
        }
    }
    for (index, table) in &found.indexes {
        if !expected.indexes.contains_key(index) && expected.tables.contains_key(table) {
            extra.push(Thing::Index { table: table.clone(), name: index.clone() });
        }
    }
    missing.sort();
    extra.sort();
    (missing, extra)
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table { name } => write!(f, "table {name}"),
            Self::Column { table, name } => write!(f, "column {table}.{name}"),
            Self::Index { table, name } => write!(f, "index {name} of {table}"),
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Database    {} ({} {})", self.database, self.dialect, self.server_version)?;
        let revision = self.revision.as_deref().unwrap_or("none");
        writeln!(f, "Revision    {revision} (wanted {})", self.revision_expected)?;
        let own = self.own_version.map_or("none".to_owned(), |version| version.to_string());
        writeln!(f, "Own tables  step {own} (wanted {})", self.own_version_expected)?;
        if let Some(version) = &self.pg_trgm {
            writeln!(f, "pg_trgm     {version}")?;
        }
        for finding in &self.findings {
            let mark = match finding.severity {
                Severity::Note => "note   ",
                Severity::Warning => "WARNING",
                Severity::Problem => "PROBLEM",
            };
            writeln!(f, "{mark}     {}", finding.sentence)?;
        }
        write!(f, "{}", if self.healthy() { "No problem found." } else { "Praetor cannot serve this database yet." })
    }
}
