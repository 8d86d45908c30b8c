//! Makes, checks and adopts the database.
//!
//! The tables are Prefect 3.8.4's, to the letter, at its own revision, so that Python and Praetor can take turns on one
//! database; what only Praetor needs stands apart (Postgres schema `praetor`, SQLite tables `praetor_*`) and has numbered
//! steps of its own. Promises: [`upgrade`] may run any number of times and on several nodes at once; it does everything or
//! nothing; it never touches a database that is not Prefect's or is at another revision, and says in a sentence what to do.
//!
//! To add a step: a file `000N_name.sql` per dialect and a line in `STEPS` of both. A step that was released never changes.
//! To follow a new Prefect: replace both `baseline.sql`, `revisions.txt` and the two revisions below; `tests/compat` judges.

mod command;
mod doctor;
mod expected;
mod postgres;
mod sqlite;

pub use command::{DatabaseArgs, DatabaseCommand, run};
pub use doctor::{Diagnosis, Finding, OrphanSlots, Severity, Thing};
pub use expected::Expected;

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use sqlx::{Connection, PgConnection, SqliteConnection};

use super::url::{DatabaseUrl, Target};

/// The Prefect release whose schema this is.
pub const PREFECT_VERSION: &str = "3.8.4";
/// Its head of migrations on PostgreSQL.
pub const POSTGRES_REVISION: &str = "9e9dadc36797";
/// Its head of migrations on SQLite.
pub const SQLITE_REVISION: &str = "f416ea180ae1";

/// What a database is to us, before anything is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// Nothing of Prefect in it: [`upgrade`] makes all of it.
    Empty,
    /// Prefect's tables and ours, both as this build wants them.
    Ready,
    /// Prefect's tables at our revision, and none of ours: [`upgrade`] adopts it.
    NeedsOwnTables,
    /// Our tables are some steps behind: [`upgrade`] brings them on.
    OwnTablesBehind { found: i64, expected: i64 },
    /// A newer Praetor has been here.
    OwnTablesAhead { found: i64, expected: i64 },
    /// Prefect's tables at another revision.
    OtherRevision { found: String, expected: &'static str, age: Age },
    /// All of Prefect's tables, but nothing says of which revision.
    Unstamped { expected: &'static str },
    /// Something else lives here and is in the way.
    NotPrefect { tables: Vec<String> },
}

/// Which side of ours another revision is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Age {
    /// One of the steps that lead to our revision.
    Older,
    /// Not known to Prefect 3.8.4: a newer Prefect, in all likelihood.
    Unknown,
}

/// What [`upgrade`] or [`reset`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What was found.
    pub before: State,
    /// Prefect's tables were made.
    pub created: bool,
    /// A database that Python filled was taken over.
    pub adopted: Option<Adoption>,
    /// Names of the steps of our own tables that ran now.
    pub steps: Vec<&'static str>,
}

/// What taking over a Python-made database changed in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Adoption {
    /// Leases made for slots that are taken.
    pub leases: u64,
    /// Limits whose `active_slots` did not agree with their runs.
    pub limits_corrected: u64,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database is not ours to change; the state's sentence says what to do.
    #[error("{0}")]
    Refused(State),
    #[error("cannot open the database {database}")]
    Open { database: String, source: sqlx::Error },
    #[error("the database refused to {action}: the user lacks a privilege (wanted: CREATE on the database and on the schema)")]
    Denied { action: &'static str, source: sqlx::Error },
    #[error("the database failed to {action}")]
    Failed { action: &'static str, source: sqlx::Error },
    #[error("revision {0:?} is not one of Prefect {PREFECT_VERSION}'s for this kind of database; use \"head\" or leave it out")]
    NoSuchRevision(String),
    #[error("only the whole way is possible: leave --revision out, or say head ({expected})")]
    OnlyHead { expected: &'static str },
    #[error("nothing was changed: not confirmed (use -y where nobody can be asked)")]
    NotConfirmed,
    #[error("cannot read the answer or write the report")]
    Terminal(#[from] std::io::Error),
}

/// A numbered step of our own tables.
struct Step {
    number: i64,
    name: &'static str,
    sql: &'static str,
}

/// What a dialect read from a database in order to judge it.
struct Facts {
    /// Rows of `alembic_version`, `None` when there is no such table.
    revisions: Option<Vec<String>>,
    /// Names of the tables in sight.
    tables: BTreeSet<String>,
    /// Highest step of our own tables.
    own_version: Option<i64>,
}

/// What this build wants of a dialect.
struct Wanted {
    revision: &'static str,
    known_revisions: &'static str,
    baseline: &'static str,
    steps: &'static [Step],
}

impl Wanted {
    fn own_version(&self) -> i64 {
        self.steps.last().map_or(0, |step| step.number)
    }

    fn expected(&self) -> Expected {
        Expected::of_baseline(self.baseline)
    }

    fn knows(&self, revision: &str) -> bool {
        self.known_revisions.lines().any(|known| known == revision)
    }

    /// Judges what was found.
    fn judge(&self, facts: &Facts) -> State {
        let expected = self.expected();
        let present: Vec<String> = expected.tables.keys().filter(|name| facts.tables.contains(*name)).cloned().collect();
        let revisions = facts.revisions.as_deref().unwrap_or_default();
        match revisions {
            [] if present.is_empty() => State::Empty,
            [] if present.len() == expected.tables.len() => State::Unstamped { expected: self.revision },
            [] => State::NotPrefect { tables: present },
            // Another program that uses alembic, too.
            _ if present.is_empty() => State::NotPrefect { tables: vec!["alembic_version".to_owned()] },
            [revision] if revision == self.revision => {
                let expected = self.own_version();
                match facts.own_version {
                    None => State::NeedsOwnTables,
                    Some(found) if found < expected => State::OwnTablesBehind { found, expected },
                    Some(found) if found > expected => State::OwnTablesAhead { found, expected },
                    Some(_) => State::Ready,
                }
            }
            other => State::OtherRevision {
                found: other.join(", "),
                expected: self.revision,
                age: if other.iter().all(|revision| self.knows(revision)) { Age::Older } else { Age::Unknown },
            },
        }
    }
}

impl State {
    /// Whether [`upgrade`] would work on it.
    pub fn may_upgrade(&self) -> bool {
        matches!(self, Self::Empty | Self::Ready | Self::NeedsOwnTables | Self::OwnTablesBehind { .. })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("The database is empty; `praetor server database upgrade` makes its tables."),
            Self::Ready => f.write_str("The database is ready."),
            Self::NeedsOwnTables => write!(
                f,
                "The database is Prefect {PREFECT_VERSION}'s and Praetor has not served it yet; `praetor server database upgrade` adds Praetor's own tables."
            ),
            Self::OwnTablesBehind { found, expected } => {
                write!(f, "Praetor's own tables are at step {found} of {expected}; `praetor server database upgrade` brings them on.")
            }
            Self::OwnTablesAhead { found, expected } => write!(
                f,
                "Praetor's own tables are at step {found} and this build knows {expected}: a newer Praetor has served this database; install that version or a later one."
            ),
            Self::OtherRevision { found, expected, age: Age::Older } => write!(
                f,
                "The database is at Prefect's revision {found}, before the {expected} of Prefect {PREFECT_VERSION}: run `prefect server database upgrade -y` of Prefect {PREFECT_VERSION} on it, then start Praetor again."
            ),
            Self::OtherRevision { found, expected, age: Age::Unknown } => write!(
                f,
                "The database is at revision {found}, which Prefect {PREFECT_VERSION} (revision {expected}) does not know, so a newer Prefect has likely upgraded it: use a Praetor for that version, or restore a backup made by {PREFECT_VERSION}."
            ),
            Self::Unstamped { expected } => write!(
                f,
                "The database has Prefect's tables and no revision: if they are those of Prefect {PREFECT_VERSION}, run `praetor server database stamp` to mark them as {expected}."
            ),
            Self::NotPrefect { tables } => write!(
                f,
                "The database belongs to another program (found: {}): point PREFECT_API_DATABASE_CONNECTION_URL to an empty database or to one of Prefect {PREFECT_VERSION}.",
                tables.join(", ")
            ),
        }
    }
}

impl Error {
    /// Wraps a driver's error with what was being done.
    fn at(action: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |source| {
            let denied = source
                .as_database_error()
                .and_then(sqlx::error::DatabaseError::code)
                // insufficient_privilege; SQLite: readonly.
                .is_some_and(|code| code == "42501" || code == "8");
            if denied { Self::Denied { action, source } } else { Self::Failed { action, source } }
        }
    }
}

/// One connection of either kind, opened for one piece of work: migrations must not meet a pool's timeouts.
enum Session {
    Postgres(Box<PgConnection>),
    Sqlite(SqliteConnection),
}

impl Session {
    async fn open(url: &DatabaseUrl) -> Result<Self, Error> {
        let opened = match url.target() {
            Target::Postgres(servers) => postgres::connect(servers).await.map(|connection| Self::Postgres(Box::new(connection))),
            Target::Sqlite(location) => sqlite::connect(location).await.map(Self::Sqlite),
        };
        opened.map_err(|source| Error::Open { database: url.to_string(), source })
    }

    async fn close(self) {
        // The work is committed or rolled back; a failing goodbye changes nothing.
        match self {
            Self::Postgres(connection) => drop(connection.close().await),
            Self::Sqlite(connection) => drop(connection.close().await),
        }
    }
}

/// Runs one function of the dialect on a fresh connection.
macro_rules! with_session {
    ($url:expr, $function:ident $(, $argument:expr)*) => {{
        let mut session = Session::open($url).await?;
        let result = match &mut session {
            Session::Postgres(connection) => postgres::$function(connection $(, $argument)*).await,
            Session::Sqlite(connection) => sqlite::$function(connection $(, $argument)*).await,
        };
        session.close().await;
        result
    }};
}

/// Looks at a database and changes nothing. A missing SQLite file is made, empty.
///
/// # Errors
/// Unreachable, or a question failed.
pub async fn check(url: &DatabaseUrl) -> Result<State, Error> {
    with_session!(url, check)
}

/// As [`check`], on a connection of the caller's.
///
/// # Errors
/// A question failed.
pub async fn check_postgres(connection: &mut PgConnection) -> Result<State, Error> {
    postgres::check(connection).await
}

/// As [`check`], on a connection of the caller's.
///
/// # Errors
/// A question failed.
pub async fn check_sqlite(connection: &mut SqliteConnection) -> Result<State, Error> {
    sqlite::check(connection).await
}

/// Makes an empty database, adopts Prefect's, brings our own tables on. Any number of nodes may do so at once.
///
/// # Errors
/// [`Error::Refused`] for a database that is not ours to change; otherwise what failed, and nothing was changed.
pub async fn upgrade(url: &DatabaseUrl) -> Result<Report, Error> {
    with_session!(url, upgrade)
}

/// As [`upgrade`], on a connection of the caller's (one that has no statement timeout and is in no transaction).
///
/// # Errors
/// As [`upgrade`].
pub async fn upgrade_postgres(connection: &mut PgConnection) -> Result<Report, Error> {
    postgres::upgrade(connection).await
}

/// As [`upgrade`], on a connection of the caller's: the only way for a database in memory.
///
/// # Errors
/// As [`upgrade`].
pub async fn upgrade_sqlite(connection: &mut SqliteConnection) -> Result<Report, Error> {
    sqlite::upgrade(connection).await
}

/// Writes a revision of Prefect's into the database without looking at its tables; `None` and `head` mean ours.
///
/// # Errors
/// [`Error::NoSuchRevision`] for one that Prefect 3.8.4 does not know.
pub async fn stamp(url: &DatabaseUrl, revision: Option<&str>) -> Result<String, Error> {
    let wanted = wanted(url);
    let revision = match revision {
        None | Some("head" | "heads") => wanted.revision,
        Some(revision) if wanted.knows(revision) => revision,
        Some(other) => return Err(Error::NoSuchRevision(other.to_owned())),
    };
    with_session!(url, stamp, revision)?;
    Ok(revision.to_owned())
}

/// Drops every table of Prefect and of ours, with all data, and makes them anew.
///
/// # Errors
/// [`Error::Refused`] when the tables are another program's.
pub async fn reset(url: &DatabaseUrl) -> Result<Report, Error> {
    with_session!(url, reset)
}

/// Compares a database with what this build wants, and changes nothing.
///
/// # Errors
/// Unreachable, or a question failed. What is wrong *in* the database stands in the diagnosis.
pub async fn doctor(url: &DatabaseUrl) -> Result<Diagnosis, Error> {
    let found = with_session!(url, examine)?;
    Ok(doctor::diagnose(url.to_string(), wanted(url), found))
}

fn wanted(url: &DatabaseUrl) -> &'static Wanted {
    match url.target() {
        Target::Postgres(_) => &postgres::WANTED,
        Target::Sqlite(_) => &sqlite::WANTED,
    }
}

#[cfg(test)]
mod tests;
