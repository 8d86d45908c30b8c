//! All difference between Postgres and SQLite: statement text, value encodings, JSON, intervals, locking, errors.
//! Nowhere else does the code know which one it talks to.
//!
//! Encodings on SQLite are the reference's (SQLAlchemy's): UUIDs as lower-case text, timestamps as
//! `YYYY-MM-DD HH:MM:SS.ffffff` in UTC, JSON as Python's `json.dumps` text, intervals as a moment after the epoch.

use sea_query::{
    ArrayType, Expr, ExprTrait, PostgresQueryBuilder, QueryStatementBuilder, SelectStatement, SqliteQueryBuilder, Value, Values,
};
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgArguments, PgTypeInfo};
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, Postgres};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::model::automation::BucketKey;
use crate::model::json::python_dumps;

/// Which database is behind the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// PostgreSQL 14 or newer, and what speaks its protocol.
    Postgres,
    /// SQLite, for one machine.
    Sqlite,
}

/// Text whose SQL type Postgres infers from where it stands, so that one binding serves `text`, `varchar` and the
/// native enums (`state_type`, ...). Where nothing tells the type, cast: `Expr::val(x).cast_as("text")`.
struct Untyped(String);

impl sqlx::Type<Postgres> for Untyped {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(sqlx::postgres::types::Oid(0))
    }
}

impl sqlx::Encode<'_, Postgres> for Untyped {
    fn encode_by_ref(&self, buffer: &mut sqlx::postgres::PgArgumentBuffer) -> Result<sqlx::encode::IsNull, sqlx::error::BoxDynError> {
        buffer.extend_from_slice(self.0.as_bytes());
        Ok(sqlx::encode::IsNull::No)
    }
}

/// Microsecond text of a moment, as SQLAlchemy stores it on SQLite.
pub(crate) const SQLITE_TIMESTAMP: &str = "%Y-%m-%d %H:%M:%S%.6f";

/// A moment as it stands in a SQLite column.
pub(crate) fn sqlite_timestamp(at: &Timestamp) -> String {
    at.format(SQLITE_TIMESTAMP).to_string()
}

impl Dialect {
    /// The statement's text and its values.
    pub(crate) fn build(self, statement: &impl QueryStatementBuilder) -> (String, Values) {
        match self {
            Self::Postgres => statement.build_any(&PostgresQueryBuilder),
            Self::Sqlite => statement.build_any(&SqliteQueryBuilder),
        }
    }

    // --- expressions ---------------------------------------------------------------------------------------------

    /// A duration in seconds as the value of an interval column.
    pub fn interval(self, seconds: f64) -> Expr {
        match self {
            Self::Postgres => Expr::cust_with_values("make_interval(secs => $1)", [seconds]),
            Self::Sqlite => {
                let at = Timestamp::from_timestamp_micros((seconds * 1e6).round() as i64).unwrap_or_default();
                Expr::val(sqlite_timestamp(&at))
            }
        }
    }

    /// Seconds (float) of an interval column.
    pub fn interval_seconds(self, interval: impl Into<Expr>) -> Expr {
        let interval = interval.into();
        match self {
            Self::Postgres => Expr::cust_with_exprs("CAST(EXTRACT(EPOCH FROM $1) AS double precision)", [interval]),
            // Days since the epoch; a bare '0' (a server default of old rows) is no date and counts as zero.
            Self::Sqlite => Expr::cust_with_exprs("COALESCE((julianday(?) - 2440587.5) * 86400.0, 0.0)", [interval]),
        }
    }

    /// Microseconds since the epoch (an integer) of a timestamp; of an interval column, its microseconds.
    pub fn epoch_micros(self, moment: impl Into<Expr>) -> Expr {
        let moment = moment.into();
        match self {
            Self::Postgres => Expr::cust_with_exprs("CAST(EXTRACT(EPOCH FROM $1) * 1000000 AS bigint)", [moment]),
            // The fraction stands in the text; a bare '0' (a server default of old rows) is the interval zero.
            Self::Sqlite => Expr::cust_with_exprs(
                "CASE WHEN length(?) < 19 THEN 0 ELSE \
                 CAST(strftime('%s', ?) AS INTEGER) * 1000000 + CAST(substr(? || '000000', 21, 6) AS INTEGER) END",
                [moment.clone(), moment.clone(), moment],
            ),
        }
    }

    /// A moment where nothing else tells that it is one.
    pub fn moment(self, at: Timestamp) -> Expr {
        match self {
            Self::Postgres => Expr::cust_with_values("CAST($1 AS timestamptz)", [at]),
            Self::Sqlite => Expr::val(at),
        }
    }

    /// The moment that a text of ISO 8601 names, to compare with others; to the millisecond on SQLite.
    pub fn moment_of_text(self, text: impl Into<Expr>) -> Expr {
        match self {
            Self::Postgres => Expr::cust_with_exprs("CAST($1 AS timestamptz)", [text.into()]),
            Self::Sqlite => Expr::cust_with_exprs("strftime('%Y-%m-%d %H:%M:%f', ?)", [text.into()]),
        }
    }

    /// As a 64-bit integer.
    pub fn integer(self, number: impl Into<Expr>) -> Expr {
        match self {
            Self::Postgres => Expr::cust_with_exprs("CAST($1 AS bigint)", [number.into()]),
            Self::Sqlite => Expr::cust_with_exprs("CAST(? AS INTEGER)", [number.into()]),
        }
    }

    /// As a float.
    pub fn float(self, number: impl Into<Expr>) -> Expr {
        match self {
            Self::Postgres => Expr::cust_with_exprs("CAST($1 AS double precision)", [number.into()]),
            Self::Sqlite => Expr::cust_with_exprs("CAST(? AS REAL)", [number.into()]),
        }
    }

    /// The greater of two numbers.
    pub fn greatest(self, one: impl Into<Expr>, other: impl Into<Expr>) -> Expr {
        match self {
            Self::Postgres => Expr::cust_with_exprs("GREATEST($1, $2)", [one.into(), other.into()]),
            Self::Sqlite => Expr::cust_with_exprs("max(?, ?)", [one.into(), other.into()]),
        }
    }

    /// `later - earlier` of two timestamps, in float seconds.
    pub fn seconds_between(self, later: impl Into<Expr>, earlier: impl Into<Expr>) -> Expr {
        let both = [later.into(), earlier.into()];
        match self {
            Self::Postgres => Expr::cust_with_exprs("CAST(EXTRACT(EPOCH FROM ($1 - $2)) AS double precision)", both),
            Self::Sqlite => Expr::cust_with_exprs("((julianday(?) - julianday(?)) * 86400.0)", both),
        }
    }

    /// The value of a column of type `json`, which Postgres keeps as written: with the order of its keys, and with `\u0000`.
    pub fn json_document(self, value: &serde_json::Value) -> Expr {
        match self {
            Self::Postgres => Expr::val(value.to_string()),
            Self::Sqlite => Expr::val(value.clone()),
        }
    }

    /// True where the JSON array has every one of `wanted` strings (true for none).
    pub fn json_has_all(self, array: impl Into<Expr>, wanted: &[String]) -> Expr {
        let array = array.into();
        match self {
            Self::Postgres => Expr::cust_with_exprs("$1 @> $2", [array, Expr::val(serde_json::json!(wanted))]),
            Self::Sqlite => wanted.iter().fold(Expr::cust("1 = 1"), |all, one| all.and(sqlite_array_has(array.clone(), one))),
        }
    }

    /// True where the JSON array has at least one of `wanted` strings (false for none).
    pub fn json_has_any(self, array: impl Into<Expr>, wanted: &[String]) -> Expr {
        let array = array.into();
        match self {
            Self::Postgres => Expr::cust_with_exprs("jsonb_exists_any($1, $2)", [array, Expr::val(wanted.to_vec())]),
            Self::Sqlite => wanted.iter().fold(Expr::cust("1 = 0"), |any, one| any.or(sqlite_array_has(array.clone(), one))),
        }
    }

    /// The JSON array without every element that is this string.
    pub fn json_without(self, array: impl Into<Expr>, element: &str) -> Expr {
        let parts = [array.into(), Expr::val(element)];
        match self {
            Self::Postgres => Expr::cust_with_exprs("($1 - CAST($2 AS text))", parts),
            Self::Sqlite => {
                Expr::cust_with_exprs("(SELECT json_group_array(item.value) FROM json_each(?) AS item WHERE item.value <> ?)", parts)
            }
        }
    }

    /// The text at `path` of a JSON object column; NULL where missing. Keys are program constants, not input.
    pub fn json_text(self, object: impl Into<Expr>, path: &[&'static str]) -> Expr {
        let object = object.into();
        match self {
            Self::Postgres => Expr::cust_with_exprs(format!("($1 #>> '{{{}}}')", path.join(",")), [object]),
            Self::Sqlite => Expr::cust_with_exprs(format!("json_extract(?, '$.\"{}\"')", path.join("\".\"")), [object]),
        }
    }

    /// True where the JSON object column has `true` under `key`, a program constant.
    pub fn json_is_true(self, object: impl Into<Expr>, key: &'static str) -> Expr {
        let object = object.into();
        match self {
            Self::Postgres => Expr::cust_with_exprs(format!("($1 ->> '{key}') = 'true'"), [object]),
            Self::Sqlite => Expr::cust_with_exprs(format!("json_extract(?, '$.{key}') = 1"), [object]),
        }
    }

    /// The text of a label, which is input, of a JSON object column; NULL where missing.
    pub fn json_label(self, object: impl Into<Expr>, label: &str) -> Expr {
        let object = object.into();
        match self {
            Self::Postgres => Expr::cust_with_exprs("($1 ->> CAST($2 AS text))", [object, Expr::val(label)]),
            Self::Sqlite => {
                let path = format!("$.\"{}\"", label.replace('"', "\\\""));
                Expr::cust_with_exprs("json_extract(?, ?)", [object, Expr::val(path)])
            }
        }
    }

    /// The texts of columns of any type, joined by blanks, in lower case.
    pub fn lower_concatenated<const N: usize>(self, columns: [Expr; N]) -> Expr {
        let holes: Vec<String> = match self {
            Self::Postgres => (1..=N).map(|index| format!("CAST(${index} AS text)")).collect(),
            Self::Sqlite => (0..N).map(|_| "CAST(? AS text)".to_owned()).collect(),
        };
        Expr::cust_with_exprs(format!("lower({})", holes.join(" || ' ' || ")), columns)
    }

    /// Case-insensitive LIKE, with the pattern's `%` and `_` as wildcards (the reference's `ilike`).
    pub fn ilike(self, text: impl Into<Expr>, pattern: String) -> Expr {
        match self {
            Self::Postgres => Expr::cust_with_exprs("$1 ILIKE $2", [text.into(), Expr::val(pattern)]),
            Self::Sqlite => Expr::cust_with_exprs("lower(?) LIKE lower(?)", [text.into(), Expr::val(pattern)]),
        }
    }

    /// `column IN (ids)` as one bound value on Postgres (one prepared statement for any length).
    pub fn any_id<I: Into<Uuid> + Copy>(self, column: impl Into<Expr>, ids: &[I]) -> Expr {
        let column = column.into();
        let ids = ids.iter().map(|id| (*id).into());
        match self {
            Self::Postgres => Expr::cust_with_exprs("$1 = ANY($2)", [column, Expr::val(ids.collect::<Vec<Uuid>>())]),
            Self::Sqlite => column.is_in(ids),
        }
    }

    /// True for rows of `task_run` with one of these natural keys (flow run, task key, dynamic key).
    pub fn is_task_run_key(self, keys: &[(Uuid, String, String)]) -> Expr {
        match self {
            Self::Postgres => {
                let flow_runs: Vec<Uuid> = keys.iter().map(|key| key.0).collect();
                let task_keys: Vec<String> = keys.iter().map(|key| key.1.clone()).collect();
                let dynamic_keys: Vec<String> = keys.iter().map(|key| key.2.clone()).collect();
                Expr::cust_with_exprs(
                    "(flow_run_id, task_key, dynamic_key) IN (SELECT * FROM UNNEST($1, $2, $3))",
                    [Expr::val(flow_runs), Expr::val(task_keys), Expr::val(dynamic_keys)],
                )
            }
            Self::Sqlite => {
                let rows: Vec<_> = keys.iter().map(|(flow_run, task, dynamic)| (flow_run.to_string(), task, dynamic)).collect();
                Expr::cust_with_exprs(
                    concat!(
                        "(flow_run_id, task_key, dynamic_key) IN (SELECT json_extract(value, '$[0]'), ",
                        "json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(?))"
                    ),
                    [Expr::val(serde_json::json!(rows).to_string())],
                )
            }
        }
    }

    /// True for rows of `automation_bucket` with one of these keys (automation, trigger, values).
    pub fn is_bucket_key(self, keys: &[&BucketKey]) -> Expr {
        match self {
            Self::Postgres => {
                let automations: Vec<Uuid> = keys.iter().map(|key| key.automation_id.into()).collect();
                let triggers: Vec<Uuid> = keys.iter().map(|key| key.trigger_id).collect();
                let values: Vec<serde_json::Value> = keys.iter().map(|key| serde_json::json!(key.values)).collect();
                Expr::cust_with_exprs(
                    "(automation_id, trigger_id, bucketing_key) IN (SELECT * FROM UNNEST($1, $2, $3))",
                    [Expr::val(automations), Expr::val(triggers), Expr::val(values)],
                )
            }
            Self::Sqlite => {
                let rows: Vec<_> =
                    keys.iter().map(|key| (key.automation_id, key.trigger_id, python_dumps(&serde_json::json!(key.values)))).collect();
                Expr::cust_with_exprs(
                    concat!(
                        "(automation_id, trigger_id, bucketing_key) IN (SELECT json_extract(value, '$[0]'), ",
                        "json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(?))"
                    ),
                    [Expr::val(serde_json::json!(rows).to_string())],
                )
            }
        }
    }

    /// True where two transactions can write at the same time.
    pub fn has_parallel_writers(self) -> bool {
        self == Self::Postgres
    }

    /// Locks the selected rows against deletion until the end of the transaction.
    pub fn for_key_share(self, select: &mut SelectStatement) {
        if self == Self::Postgres {
            select.lock(sea_query::LockType::KeyShare);
        }
    }

    /// Locks the selected rows until the end of the transaction. (A SQLite writer holds the whole database already.)
    pub fn for_update(self, select: &mut SelectStatement) {
        if self == Self::Postgres {
            select.lock_exclusive();
        }
    }

    /// As [`Self::for_update`], where no key of the rows changes: others may insert rows that refer to them meanwhile. With the
    /// stronger lock they wait, and who waits with a lock on something else in hand can close a circle.
    pub fn for_no_key_update(self, select: &mut SelectStatement) {
        if self == Self::Postgres {
            select.lock(sea_query::LockType::NoKeyUpdate);
        }
    }

    /// As [`Self::for_update`], and leaves out rows that others hold.
    pub fn for_update_skip_locked(self, select: &mut SelectStatement) {
        if self == Self::Postgres {
            select.lock_with_behavior(sea_query::LockType::Update, sea_query::LockBehavior::SkipLocked);
        }
    }

    /// As [`Self::for_update`] on the named table alone of a join.
    pub fn for_update_of(self, select: &mut SelectStatement, table: impl sea_query::IntoTableRef) {
        if self == Self::Postgres {
            select.lock_with_tables(sea_query::LockType::Update, [table]);
        }
    }

    /// As [`Self::for_update_skip_locked`] on the named table alone of a join.
    pub fn for_update_of_skip_locked(self, select: &mut SelectStatement, table: impl sea_query::IntoTableRef) {
        if self == Self::Postgres {
            select.lock_with_tables_behavior(sea_query::LockType::Update, [table], sea_query::LockBehavior::SkipLocked);
        }
    }

    /// Takes a share lock on the selected rows (the fence).
    pub fn for_share(self, select: &mut SelectStatement) {
        if self == Self::Postgres {
            select.lock_shared();
        }
    }

    /// The name by which an upsert refers to the existing row of a table of ours.
    pub fn own_table_name(self, name: &'static str) -> sea_query::DynIden {
        use sea_query::IntoIden;
        match self {
            Self::Postgres => name.into_iden(),
            Self::Sqlite => format!("praetor_{name}").into_iden(),
        }
    }

    /// A table of ours beside the reference's: `praetor.NAME` on Postgres, `praetor_NAME` on SQLite.
    pub fn own_table(self, name: &'static str) -> sea_query::TableRef {
        use sea_query::IntoTableRef;
        match self {
            Self::Postgres => ("praetor", name).into_table_ref(),
            Self::Sqlite => format!("praetor_{name}").into_table_ref(),
        }
    }

    /// One statement that locks the named fence's row against change, gives its `epoch` and `cluster`, and bounds how long the
    /// transaction may idle or wait.
    pub(crate) fn hold_fence(self, name: &str) -> (String, Values) {
        let sql = match self {
            Self::Postgres => concat!(
                "SELECT epoch, cluster, set_config('idle_in_transaction_session_timeout', '1500', true), ",
                "set_config('lock_timeout', '1500', true) FROM praetor.fence WHERE name = $1 FOR SHARE"
            ),
            Self::Sqlite => "SELECT epoch, cluster FROM praetor_fence WHERE name = ?",
        };
        (sql.to_owned(), Values(vec![name.into()]))
    }

    /// The statement that tells listeners of `channel` something once the transaction commits; none where there is no
    /// such thing.
    pub(crate) fn notify(self, channel: &str, payload: &str) -> Option<(String, Values)> {
        match self {
            Self::Postgres => Some(("SELECT pg_notify($1, $2)".to_owned(), Values(vec![channel.into(), payload.into()]))),
            Self::Sqlite => None,
        }
    }

    /// True where the boolean column is true; in the words of the reference's partial indexes, so that these serve it.
    pub fn is_true(self, column: impl Into<Expr>) -> Expr {
        match self {
            Self::Postgres => Expr::cust_with_exprs("$1 = true", [column.into()]),
            Self::Sqlite => Expr::cust_with_exprs("? = 1", [column.into()]),
        }
    }

    /// True where the `created_by` document names the id; in the words of the reference's expression index.
    pub fn made_by(self, created_by: impl Into<Expr>, id: impl Into<Expr>) -> Expr {
        let both = [created_by.into(), id.into()];
        match self {
            Self::Postgres => Expr::cust_with_exprs("($1 ->> 'id') = CAST($2 AS varchar)", both),
            Self::Sqlite => Expr::cust_with_exprs("json_extract(?, '$.id') = ?", both),
        }
    }

    /// A list of ids as one value for statements given as text; an array on Postgres, JSON on SQLite.
    pub fn uuid_list(self, ids: Vec<Uuid>) -> Value {
        match self {
            Self::Postgres => Value::Array(ArrayType::Uuid, Some(Box::new(ids.into_iter().map(|id| Value::Uuid(Some(id))).collect()))),
            Self::Sqlite => Value::Json(Some(Box::new(serde_json::json!(ids)))),
        }
    }

    /// The runs that a worker of a pool may start; see the text.
    pub fn pool_runs(self) -> &'static str {
        match self {
            Self::Postgres => include_str!("sql/postgres/pool_runs.sql"),
            Self::Sqlite => include_str!("sql/sqlite/pool_runs.sql"),
        }
    }

    /// Flow runs that log lines, or else artifacts, name; see the text.
    pub fn owners(self, of_logs: bool) -> &'static str {
        match (self, of_logs) {
            (Self::Postgres, true) => include_str!("sql/postgres/owners_of_logs.sql"),
            (Self::Postgres, false) => include_str!("sql/postgres/owners_of_artifacts.sql"),
            (Self::Sqlite, true) => include_str!("sql/sqlite/owners_of_logs.sql"),
            (Self::Sqlite, false) => include_str!("sql/sqlite/owners_of_artifacts.sql"),
        }
    }

    /// Limits whose count is not the sum of their leases; see the text.
    pub fn drifted_limits(self) -> &'static str {
        match self {
            Self::Postgres => include_str!("sql/postgres/drifted_limits.sql"),
            Self::Sqlite => include_str!("sql/sqlite/drifted_limits.sql"),
        }
    }

    // --- errors --------------------------------------------------------------------------------------------------

    pub(crate) fn constraint_of(self, error: &dyn DatabaseError) -> String {
        match self {
            Self::Postgres => error.constraint().unwrap_or_default().to_owned(),
            Self::Sqlite => error.message().rsplit(": ").next().unwrap_or_default().to_owned(),
        }
    }

    pub(crate) fn is_not_null_violation(self, error: &dyn DatabaseError) -> bool {
        match self {
            Self::Postgres => error.code().as_deref() == Some("23502"),
            Self::Sqlite => error.code().as_deref() == Some("1299"),
        }
    }

    pub(crate) fn is_null_character(self, error: &dyn DatabaseError) -> bool {
        // In a text, and escaped in JSON. Ours are always UTF-8 otherwise. SQLite takes it.
        self == Self::Postgres && matches!(error.code().as_deref(), Some("22021" | "22P05"))
    }

    pub(crate) fn is_retryable(self, error: &dyn DatabaseError) -> bool {
        let code = error.code();
        let code = code.as_deref().unwrap_or_default();
        match self {
            // Serialization, deadlock, lock not available, cancelled by timeout; connection, resources, shutdown.
            Self::Postgres => {
                matches!(code, "40001" | "40P01" | "55P03" | "57014" | "25P03" | "25006")
                    || ["08", "53", "57P"].iter().any(|class| code.starts_with(class))
            }
            // BUSY and LOCKED with their extended codes.
            Self::Sqlite => matches!(code, "5" | "6" | "261" | "262" | "517" | "518" | "773"),
        }
    }
}

fn sqlite_array_has(array: Expr, wanted: &str) -> Expr {
    Expr::cust_with_exprs("EXISTS (SELECT 1 FROM json_each(?) AS item WHERE item.value = ?)", [array, Expr::val(wanted)])
}

/// Binds sea-query's values for Postgres.
pub(crate) fn postgres_arguments(values: Values) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    for value in values {
        let added = match value {
            Value::Bool(value) => arguments.add(value),
            Value::TinyInt(value) => arguments.add(value.map(i16::from)),
            Value::SmallInt(value) => arguments.add(value),
            Value::Int(value) => arguments.add(value),
            Value::BigInt(value) => arguments.add(value),
            Value::TinyUnsigned(value) => arguments.add(value.map(i16::from)),
            Value::SmallUnsigned(value) => arguments.add(value.map(i32::from)),
            Value::Unsigned(value) => arguments.add(value.map(i64::from)),
            Value::BigUnsigned(value) => arguments.add(value.map(|value| i64::try_from(value).unwrap_or(i64::MAX))),
            Value::Float(value) => arguments.add(value),
            Value::Double(value) => arguments.add(value),
            Value::String(value) => arguments.add(value.map(Untyped)),
            Value::Char(value) => arguments.add(value.map(|letter| Untyped(letter.to_string()))),
            Value::Bytes(value) => arguments.add(value),
            Value::Json(value) => arguments.add(value.map(|value| sqlx::types::Json(*value))),
            Value::ChronoDateTimeUtc(value) => arguments.add(value),
            Value::Uuid(value) => arguments.add(value),
            Value::Array(kind, items) => add_postgres_array(&mut arguments, &kind, items.map(|items| *items).unwrap_or_default()),
            other => Err(format!("no binding for {other:?}").into()),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn add_postgres_array(arguments: &mut PgArguments, kind: &ArrayType, items: Vec<Value>) -> Result<(), sqlx::error::BoxDynError> {
    macro_rules! array {
        ($variant:ident) => {
            arguments.add(
                items
                    .into_iter()
                    .map(|item| match item {
                        Value::$variant(item) => item,
                        _ => None,
                    })
                    .collect::<Vec<_>>(),
            )
        };
    }
    match kind {
        ArrayType::Uuid => array!(Uuid),
        ArrayType::String => array!(String),
        ArrayType::BigInt => array!(BigInt),
        ArrayType::Int => array!(Int),
        ArrayType::Double => array!(Double),
        ArrayType::Bool => array!(Bool),
        ArrayType::ChronoDateTimeUtc => array!(ChronoDateTimeUtc),
        ArrayType::Json => arguments.add(
            items
                .into_iter()
                .map(|item| match item {
                    Value::Json(item) => item.map(|item| sqlx::types::Json(*item)),
                    _ => None,
                })
                .collect::<Vec<_>>(),
        ),
        other => Err(format!("no binding for an array of {other:?}").into()),
    }
}

/// Binds sea-query's values for SQLite.
pub(crate) fn sqlite_arguments(values: Values) -> Result<SqliteArguments, sqlx::Error> {
    let mut arguments = SqliteArguments::default();
    for value in values {
        let added = match value {
            Value::Bool(value) => arguments.add(value),
            Value::TinyInt(value) => arguments.add(value.map(i64::from)),
            Value::SmallInt(value) => arguments.add(value.map(i64::from)),
            Value::Int(value) => arguments.add(value.map(i64::from)),
            Value::BigInt(value) => arguments.add(value),
            Value::TinyUnsigned(value) => arguments.add(value.map(i64::from)),
            Value::SmallUnsigned(value) => arguments.add(value.map(i64::from)),
            Value::Unsigned(value) => arguments.add(value.map(i64::from)),
            Value::BigUnsigned(value) => arguments.add(value.map(|value| i64::try_from(value).unwrap_or(i64::MAX))),
            Value::Float(value) => arguments.add(value),
            Value::Double(value) => arguments.add(value),
            Value::String(value) => arguments.add(value),
            Value::Char(value) => arguments.add(value.map(|letter| letter.to_string())),
            Value::Bytes(value) => arguments.add(value),
            Value::Json(value) => arguments.add(value.map(|value| python_dumps(&value))),
            Value::ChronoDateTimeUtc(value) => arguments.add(value.map(|at| sqlite_timestamp(&at))),
            Value::Uuid(value) => arguments.add(value.map(|id| id.to_string())),
            other => Err(format!("no binding for {other:?}").into()),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}
