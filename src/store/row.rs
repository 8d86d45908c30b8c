//! Decoding of rows, the same for both databases.

use chrono::NaiveDateTime;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::postgres::{PgRow, types::PgInterval};
use sqlx::sqlite::SqliteRow;
use sqlx::{ColumnIndex as _, Row as _, ValueRef as _};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::store::StoreError;

/// One row of an answer. Columns are read by the name (or alias) that the statement gave them.
pub struct Row(pub(crate) Inner);

pub(crate) enum Inner {
    Postgres(PgRow),
    Sqlite(SqliteRow),
}

/// A column of a row: looked up once by its name, then known by its place.
#[derive(Debug, Clone, Copy)]
pub struct Place<'name> {
    index: usize,
    name: &'name str,
}

/// A Rust type that can be read from a column of either database.
pub trait Column: Sized {
    /// Reads the column, which is not NULL.
    fn read(row: &Row, column: Place<'_>) -> Result<Self, StoreError>;
}

/// A duration read from an interval column, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Seconds(pub f64);

fn bad(column: Place<'_>, reason: impl std::fmt::Display) -> StoreError {
    StoreError::Decode { column: column.name.to_owned(), reason: reason.to_string() }
}

impl Row {
    /// Reads a column; use `Option<_>` where it may be NULL.
    ///
    /// # Errors
    /// [`StoreError::Decode`] where the column is missing, NULL or of another type.
    pub fn get<C: Column>(&self, column: &str) -> Result<C, StoreError> {
        C::read(self, self.place(column)?)
    }

    /// Reads a JSON column as `T`. NULL reads as JSON `null`.
    ///
    /// # Errors
    /// [`StoreError::Decode`] where the column is missing or holds no `T`.
    pub fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        let column = self.place(column)?;
        if self.is_null(column)? {
            return T::deserialize(Value::Null).map_err(|error| bad(column, error));
        }
        read_json(self, column)
    }

    fn place<'name>(&self, name: &'name str) -> Result<Place<'name>, StoreError> {
        let index = match &self.0 {
            Inner::Postgres(row) => name.index(row),
            Inner::Sqlite(row) => name.index(row),
        };
        index.map(|index| Place { index, name }).map_err(|error| bad(Place { index: 0, name }, error))
    }

    fn is_null(&self, column: Place<'_>) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Postgres(row) => row.try_get_raw(column.index).map(|value| value.is_null()),
            Inner::Sqlite(row) => row.try_get_raw(column.index).map(|value| value.is_null()),
        }
        .map_err(|error| bad(column, error))
    }
}

/// Reads JSON without a tree in between.
fn read_json<T: DeserializeOwned>(row: &Row, column: Place<'_>) -> Result<T, StoreError> {
    match &row.0 {
        Inner::Postgres(row) => {
            row.try_get_unchecked::<sqlx::types::Json<T>, _>(column.index).map(|json| json.0).map_err(|error| bad(column, error))
        }
        Inner::Sqlite(row) => {
            let text: &str = row.try_get_unchecked(column.index).map_err(|error| bad(column, error))?;
            serde_json::from_str(text).map_err(|error| bad(column, error))
        }
    }
}

impl<C: Column> Column for Option<C> {
    fn read(row: &Row, column: Place<'_>) -> Result<Self, StoreError> {
        if row.is_null(column)? { Ok(None) } else { C::read(row, column).map(Some) }
    }
}

macro_rules! plain {
    ($($kind:ty),*) => {$(
        impl Column for $kind {
            fn read(row: &Row, column: Place<'_>) -> Result<Self, StoreError> {
                match &row.0 {
                    Inner::Postgres(row) => row.try_get_unchecked(column.index),
                    Inner::Sqlite(row) => row.try_get_unchecked(column.index),
                }
                .map_err(|error| bad(column, error))
            }
        }
    )*};
}

plain!(bool, String, Vec<u8>, f64);

impl Column for i64 {
    fn read(row: &Row, column: Place<'_>) -> Result<Self, StoreError> {
        match &row.0 {
            Inner::Postgres(row) => match row.try_get::<i32, _>(column.index) {
                Ok(value) => Ok(Self::from(value)),
                Err(_) => row.try_get::<Self, _>(column.index).or_else(|_| row.try_get::<i16, _>(column.index).map(Self::from)),
            },
            Inner::Sqlite(row) => row.try_get_unchecked(column.index),
        }
        .map_err(|error| bad(column, error))
    }
}

impl Column for i32 {
    fn read(row: &Row, column: Place<'_>) -> Result<Self, StoreError> {
        i64::read(row, column)?.try_into().map_err(|_| bad(column, "beyond 32 bits"))
    }
}

impl Column for Uuid {
    fn read(row: &Row, column: Place<'_>) -> Result<Self, StoreError> {
        match &row.0 {
            Inner::Postgres(row) => row.try_get(column.index).map_err(|error| bad(column, error)),
            Inner::Sqlite(row) => {
                let text: &str = row.try_get_unchecked(column.index).map_err(|error| bad(column, error))?;
                text.parse().map_err(|error| bad(column, error))
            }
        }
    }
}

impl Column for Timestamp {
    fn read(row: &Row, column: Place<'_>) -> Result<Self, StoreError> {
        match &row.0 {
            Inner::Postgres(row) => row.try_get(column.index).map_err(|error| bad(column, error)),
            Inner::Sqlite(row) => {
                let text: &str = row.try_get_unchecked(column.index).map_err(|error| bad(column, error))?;
                sqlite_moment(text).ok_or_else(|| bad(column, format_args!("not a timestamp: {text}")))
            }
        }
    }
}

fn sqlite_moment(text: &str) -> Option<Timestamp> {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f")
        .ok()
        .map(|at| at.and_utc())
        .or_else(|| crate::model::json::parse_timestamp(text))
}

impl Column for Seconds {
    fn read(row: &Row, column: Place<'_>) -> Result<Self, StoreError> {
        match &row.0 {
            Inner::Postgres(row) => {
                let interval: PgInterval = row.try_get(column.index).map_err(|error| bad(column, error))?;
                let days = i64::from(interval.months) * 30 + i64::from(interval.days);
                Ok(Self(days as f64 * 86_400.0 + interval.microseconds as f64 / 1e6))
            }
            Inner::Sqlite(row) => {
                // The server default of the reference is the number 0, not a moment after the epoch.
                let text: String = row.try_get_unchecked(column.index).map_err(|error| bad(column, error))?;
                Ok(Self(sqlite_moment(&text).map_or(0.0, |at| at.timestamp_micros() as f64 / 1e6)))
            }
        }
    }
}

impl Column for Value {
    fn read(row: &Row, column: Place<'_>) -> Result<Self, StoreError> {
        read_json(row, column)
    }
}

macro_rules! id_columns {
    ($($name:ident),* $(,)?) => {$(
        impl Column for crate::id::$name {
            fn read(row: &Row, column: Place<'_>) -> Result<Self, StoreError> {
                Uuid::read(row, column).map(Self)
            }
        }
    )*};
}

id_columns!(
    ArtifactCollectionId,
    ArtifactId,
    AutomationId,
    BlockDocumentId,
    BlockDocumentReferenceId,
    BlockSchemaId,
    BlockSchemaReferenceId,
    BlockTypeId,
    ConcurrencyLimitId,
    DeploymentId,
    DeploymentScheduleId,
    EventId,
    FlowId,
    FlowRunId,
    FlowRunInputId,
    LeaseId,
    LogId,
    SavedSearchId,
    StateId,
    TaskRunId,
    VariableId,
    WorkPoolId,
    WorkQueueId,
    WorkerId,
);

impl Column for crate::model::state::StateType {
    fn read(row: &Row, column: Place<'_>) -> Result<Self, StoreError> {
        String::read(row, column)?.parse().map_err(|error| bad(column, error))
    }
}
