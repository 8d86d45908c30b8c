//! Insertion of many rows in one statement whose text does not depend on their number (so it is prepared once):
//! arrays and `UNNEST` on Postgres, one JSON parameter and `json_each` on SQLite.

use sea_query::{Value, Values};
use serde::Serialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::model::json::python_dumps;
use crate::store::dialect::sqlite_timestamp;
use crate::store::{Dialect, Row, StoreError, Tx, copy};

/// The values of one column, one per row.
#[derive(Debug, Clone)]
pub enum Column {
    Uuid(Vec<Option<Uuid>>),
    Text(Vec<Option<String>>),
    /// A native enum of Postgres, by its type's name.
    Enum(&'static str, Vec<Option<String>>),
    Timestamp(Vec<Option<Timestamp>>),
    Json(Vec<Option<Json>>),
    /// JSON that is text already, and Postgres' type of it (`json`, `jsonb`): no tree is built of it on the way.
    JsonText(&'static str, Vec<Option<String>>),
    Integer(Vec<Option<i64>>),
    Bool(Vec<Option<bool>>),
    /// An interval, in seconds.
    Seconds(Vec<f64>),
}

impl Column {
    /// How many values.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Uuid(items) => items.len(),
            Self::Text(items) | Self::Enum(_, items) | Self::JsonText(_, items) => items.len(),
            Self::Timestamp(items) => items.len(),
            Self::Json(items) => items.len(),
            Self::Integer(items) => items.len(),
            Self::Bool(items) => items.len(),
            Self::Seconds(items) => items.len(),
        }
    }
}

/// Rows from which on `COPY`, which is planned each time, is quicker than a prepared statement.
const COPIED_ROWS: usize = 50;

/// What to do with rows that exist already.
#[derive(Debug, Clone, Copy)]
pub enum Conflict {
    /// Fail.
    Error,
    /// Leave the existing row alone.
    Nothing,
    /// The given clause after `ON CONFLICT`, such as `(a, b) DO UPDATE SET c = excluded.c WHERE ...`.
    Clause(&'static str),
}

/// Rows to insert into one table, column by column.
#[derive(Debug)]
pub struct Bulk {
    table: &'static str,
    is_own: bool,
    columns: Vec<(&'static str, Column)>,
}

impl Bulk {
    /// For a table of the reference.
    pub fn new(table: &'static str) -> Self {
        Self { table, is_own: false, columns: Vec::new() }
    }

    /// For a table of ours.
    pub fn own(table: &'static str) -> Self {
        Self { table, is_own: true, columns: Vec::new() }
    }

    /// Adds a column. All columns have the same number of values.
    #[must_use]
    pub fn column(mut self, name: &'static str, values: Column) -> Self {
        self.columns.push((name, values));
        self
    }

    /// Inserts the rows and gives the `returning` columns of those that were inserted (or updated).
    ///
    /// # Errors
    /// As any statement.
    pub async fn insert(self, tx: &mut Tx, conflict: Conflict, returning: &'static str) -> Result<Vec<Row>, StoreError> {
        let (mut sql, values) = match tx.dialect() {
            Dialect::Postgres => self.postgres(),
            Dialect::Sqlite => self.sqlite(),
        };
        match conflict {
            Conflict::Error => {}
            Conflict::Nothing => sql.push_str(" ON CONFLICT DO NOTHING"),
            Conflict::Clause(clause) => {
                sql.push_str(" ON CONFLICT ");
                sql.push_str(clause);
            }
        }
        if !returning.is_empty() {
            sql.push_str(" RETURNING ");
            sql.push_str(returning);
        }
        tx.fetch_sql(sql, values).await
    }

    /// Adds rows none of which is there yet. Many go to Postgres by `COPY`, where their columns allow it.
    ///
    /// # Errors
    /// As any statement; one that is there is an error.
    pub async fn append(self, tx: &mut Tx) -> Result<(), StoreError> {
        let rows = self.columns.first().map_or(0, |(_, column)| column.len());
        if tx.dialect() == Dialect::Postgres
            && rows >= COPIED_ROWS
            && let Some(rows) = copy::binary(self.columns.iter().map(|(_, column)| column))
        {
            return tx.copy_in(&format!("COPY {} FROM STDIN (FORMAT binary)", self.target("praetor.")), rows).await;
        }
        self.insert(tx, Conflict::Error, "").await.map(drop)
    }

    /// The table and its columns.
    fn target(&self, own: &str) -> String {
        let names: Vec<String> = self.columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let table = if self.is_own { format!("{own}{}", self.table) } else { format!("\"{}\"", self.table) };
        format!("{table} ({})", names.join(", "))
    }

    fn head(&self, own: &str) -> String {
        format!("INSERT INTO {} ", self.target(own))
    }

    fn postgres(self) -> (String, Values) {
        let mut sql = self.head("praetor.");
        let (mut selected, mut arrays, mut names, mut values) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, (_, column)) in self.columns.into_iter().enumerate() {
            let name = format!("c{index}");
            let (array, cast, value) = postgres_array(column);
            selected.push(cast.replace("{}", &name));
            arrays.push(format!("${}::{array}", index + 1));
            names.push(name);
            values.push(value);
        }
        sql.push_str(&format!("SELECT {} FROM UNNEST({}) AS given({})", selected.join(", "), arrays.join(", "), names.join(", ")));
        (sql, Values(values))
    }

    fn sqlite(self) -> (String, Values) {
        let mut sql = self.head("praetor_");
        let selected: Vec<String> = (0..self.columns.len()).map(|index| format!("json_extract(given.value, '$[{index}]')")).collect();
        sql.push_str(&format!("SELECT {} FROM json_each(?) AS given WHERE true", selected.join(", ")));
        let mut rows: Vec<Vec<Json>> = Vec::new();
        for (_, column) in self.columns {
            for (index, item) in sqlite_items(column).into_iter().enumerate() {
                if rows.len() <= index {
                    rows.push(Vec::new());
                }
                rows[index].push(item);
            }
        }
        (sql, Values(vec![Value::String(Some(json!(rows).to_string()))]))
    }
}

/// A value as the text of a [`Column::JsonText`]. It must be one that JSON can hold, as those with texts for keys can.
pub fn json_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("keys are texts")
}

/// The array's type, the expression that makes a column's value of one item, and the array.
fn postgres_array(column: Column) -> (&'static str, String, Value) {
    let plain = || "{}".to_owned();
    match column {
        Column::Uuid(items) => ("uuid[]", plain(), array(sea_query::ArrayType::Uuid, items, Value::Uuid)),
        Column::Text(items) => ("text[]", plain(), array(sea_query::ArrayType::String, items, Value::String)),
        Column::Enum(kind, items) | Column::JsonText(kind, items) => {
            ("text[]", format!("{{}}::{kind}"), array(sea_query::ArrayType::String, items, Value::String))
        }
        Column::Timestamp(items) => {
            ("timestamptz[]", plain(), array(sea_query::ArrayType::ChronoDateTimeUtc, items, Value::ChronoDateTimeUtc))
        }
        Column::Json(items) => ("jsonb[]", plain(), array(sea_query::ArrayType::Json, items, |item| Value::Json(item.map(Box::new)))),
        Column::Integer(items) => ("bigint[]", plain(), array(sea_query::ArrayType::BigInt, items, Value::BigInt)),
        Column::Bool(items) => ("boolean[]", plain(), array(sea_query::ArrayType::Bool, items, Value::Bool)),
        Column::Seconds(items) => {
            let items = items.into_iter().map(Some).collect();
            ("double precision[]", "make_interval(secs => {})".to_owned(), array(sea_query::ArrayType::Double, items, Value::Double))
        }
    }
}

fn array<T>(kind: sea_query::ArrayType, items: Vec<Option<T>>, wrap: impl Fn(Option<T>) -> Value) -> Value {
    Value::Array(kind, Some(Box::new(items.into_iter().map(wrap).collect())))
}

fn sqlite_items(column: Column) -> Vec<Json> {
    fn each<T>(items: Vec<Option<T>>, of: impl Fn(T) -> Json) -> Vec<Json> {
        items.into_iter().map(|item| item.map_or(Json::Null, &of)).collect()
    }
    match column {
        Column::Uuid(items) => each(items, |id| Json::String(id.to_string())),
        Column::Text(items) | Column::Enum(_, items) => each(items, Json::String),
        Column::Timestamp(items) => each(items, |at| Json::String(sqlite_timestamp(&at))),
        Column::Json(items) => each(items, |value| Json::String(python_dumps(&value))),
        Column::JsonText(_, items) => {
            each(items, |text| Json::String(serde_json::from_str(&text).map_or(text, |value| python_dumps(&value))))
        }
        Column::Integer(items) => each(items, Json::from),
        Column::Bool(items) => each(items, |set| Json::from(i64::from(set))),
        Column::Seconds(items) => each(items.into_iter().map(Some).collect(), |seconds| {
            Json::String(sqlite_timestamp(&Timestamp::from_timestamp_micros((seconds * 1e6).round() as i64).unwrap_or_default()))
        }),
    }
}
