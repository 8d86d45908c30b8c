//! What can go wrong in the store, told apart as far as anyone above can act on it.

use crate::store::Dialect;

/// An error of the database or of what was read from it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A unique constraint was violated; `constraint` is its name, or on SQLite the columns (`flow.name`).
    #[error("unique constraint {constraint} violated")]
    Unique {
        /// Name or columns.
        constraint: String,
        /// The driver's error.
        #[source]
        source: sqlx::Error,
    },
    /// A foreign key, not-null or check constraint was violated.
    #[error("integrity constraint {constraint} violated")]
    Integrity {
        /// Name or columns, where known.
        constraint: String,
        /// The driver's error.
        #[source]
        source: sqlx::Error,
    },
    /// A text holds the null character, which no text of Postgres can.
    #[error("a text with a null character cannot be stored, nor looked for")]
    NullCharacter(#[source] sqlx::Error),
    /// Deadlock, serialization failure, busy database, lost connection, exhausted pool: the same may succeed later.
    #[error("the database did not serve the request now")]
    Retryable(#[source] sqlx::Error),
    /// The epoch of a services leader's fence has moved: another node leads now, nothing was written.
    #[error("fenced off: epoch {held} is held, {current} is current")]
    Fenced {
        /// The epoch of the caller.
        held: u64,
        /// The epoch in the database.
        current: u64,
    },
    /// A row could not be understood; names the column.
    #[error("column {column}: {reason}")]
    Decode {
        /// The column's name in the statement.
        column: String,
        /// What was wrong.
        reason: String,
    },
    /// Anything else the driver reports: a statement that is wrong, a missing table.
    #[error("the database refused a statement")]
    Database(#[source] sqlx::Error),
}

impl StoreError {
    /// Sorts a driver's error.
    pub fn of(error: sqlx::Error, dialect: Dialect) -> Self {
        match &error {
            sqlx::Error::Database(database) => {
                let constraint = || dialect.constraint_of(database.as_ref());
                if database.is_unique_violation() {
                    Self::Unique { constraint: constraint(), source: error }
                } else if database.is_foreign_key_violation()
                    || database.is_check_violation()
                    || dialect.is_not_null_violation(database.as_ref())
                {
                    Self::Integrity { constraint: constraint(), source: error }
                } else if dialect.is_null_character(database.as_ref()) {
                    Self::NullCharacter(error)
                } else if dialect.is_retryable(database.as_ref()) {
                    Self::Retryable(error)
                } else {
                    Self::Database(error)
                }
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed => Self::Retryable(error),
            _ => Self::Database(error),
        }
    }

    /// True where trying the whole transaction again may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Retryable(_))
    }

    /// True for unique, foreign key, not-null and check violations.
    pub fn is_integrity(&self) -> bool {
        matches!(self, Self::Unique { .. } | Self::Integrity { .. })
    }
}
