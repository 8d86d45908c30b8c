//! Durable state: Prefect's own schema on Postgres or SQLite.
//!
//! [`Store::read`] gives a pooled connection for single statements; [`Store::begin`] a transaction, named and timed.
//! Whoever begins one has no effect but on its [`Tx`] until it is committed: on the errors that the dialect calls
//! retryable the API runs the whole request again, and a service its next tick.
//!
//! Statements are built with sea-query over [`schema`] (imported as `t`). One file per table family holds functions
//! over `&mut Tx`; what differs between the databases is in [`dialect`].

pub mod action_calls;
pub mod artifacts;
pub mod block_documents;
pub mod block_schemas;
pub mod block_types;
pub mod automation_state;
pub mod automations;
pub mod bulk;
pub mod cleanup_messages;
pub mod configuration;
mod copy;
pub mod csrf_tokens;
pub mod current_state;
pub mod cursors;
pub mod dead_letters;
pub mod concurrency_limits;
pub mod deployment_schedules;
pub mod deployments;
pub mod dialect;
pub mod error;
pub mod events;
pub mod fence;
pub mod filter;
pub mod flow_run_inputs;
pub mod flow_runs;
pub mod flows;
pub mod logs;
pub mod graph;
pub mod leases;
pub mod migrate;
pub mod old;
pub mod open;
pub mod outbox;
mod primary;
pub mod overdue;
pub mod row;
pub mod run_history;
pub mod run_labels;
pub mod scheduled_runs;
pub mod saved_searches;
pub mod schema;
mod silence;
pub mod task_deliveries;
pub mod slots;
pub mod task_run_records;
pub mod storage_defaults;
pub mod task_runs;
pub mod stale;
pub mod states;
pub mod transitions;
pub mod ui;
pub mod url;
pub mod variables;
pub mod work_pools;
pub mod work_queues;
pub mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures_util::TryStreamExt;
use sea_query::{Expr, QueryStatementBuilder, Values};
use sqlx::pool::{PoolConnection, PoolConnectionMetadata};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, PgPool, Postgres, Sqlite, SqlitePool, Transaction};
use tokio_util::sync::CancellationToken;

pub use dialect::Dialect;
pub use error::StoreError;
pub use outbox::Outgoing;
use primary::Primary;
pub use row::{Column, Row, Seconds};
use silence::Silence;

use crate::clock::Timestamp;
use crate::limits;
use crate::model::automation::TriggeredAction;
use crate::model::event::Event;
use crate::telemetry::metrics;

/// A pool of database connections. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    silence: Silence,
    /// Where the database has several servers.
    primary: Option<Arc<Primary>>,
    /// The clock by which leases run out.
    clock: SharedClock,
}

/// Which clock says what time it is where nodes must agree on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SharedClock {
    /// The database's: one for all nodes, whatever theirs say.
    Database,
    /// The caller's: SQLite has one node only, and a test drives the time.
    Caller,
}

/// The pool of either driver; for migrations, which speak to the driver directly.
#[derive(Clone)]
pub enum Pool {
    /// PostgreSQL.
    Postgres(PgPool),
    /// SQLite.
    Sqlite(SqlitePool),
}

/// How a store connects.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Connections at most.
    pub connections: u32,
    /// Wait for a connection of the pool.
    pub acquire: Duration,
    /// Of several servers, how long one may take to accept a connection.
    pub connect: Duration,
    /// Time of one statement on Postgres.
    pub statement: Duration,
    /// Prepared statements kept per connection; 0 behind PgBouncer in transaction mode.
    pub statement_cache: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            connections: limits::DATABASE_CONNECTIONS,
            acquire: limits::DATABASE_ACQUIRE,
            connect: limits::DATABASE_CONNECT,
            statement: limits::DATABASE_STATEMENT,
            statement_cache: 256,
        }
    }
}

impl Store {
    /// A store on one of these Postgres servers, the one that `current` points to; connects on first use.
    ///
    /// # Panics
    /// `current` points to none.
    pub fn postgres(servers: Vec<PgConnectOptions>, current: usize, options: &StoreOptions) -> Self {
        let statement_milliseconds = options.statement.as_millis().to_string();
        let customize = |server: PgConnectOptions| {
            server
                .statement_cache_capacity(options.statement_cache)
                .options([("statement_timeout", statement_milliseconds.as_str()), ("timezone", "UTC")])
                .log_slow_statements(log::LevelFilter::Warn, Duration::from_secs(2))
                .log_statements(log::LevelFilter::Trace)
        };
        let servers: Vec<_> = servers.into_iter().map(customize).collect();
        let connect = servers[current].clone();
        let primary = (servers.len() > 1).then(|| Arc::new(Primary::new(servers, current, options.connect)));
        let silence = Silence::after(options.statement);
        let (watching, following) = (silence.clone(), primary.clone());
        let pool = PgPoolOptions::new()
            .max_connections(options.connections)
            .acquire_timeout(options.acquire)
            .test_before_acquire(false)
            .before_acquire(move |connection, meta| {
                let following = following.clone();
                Box::pin(async move {
                    match &following {
                        Some(primary) => primary.is_usable(connection, meta).await,
                        None => is_usable(connection, meta).await,
                    }
                })
            })
            .after_release(move |connection, _| {
                let watching = watching.clone();
                Box::pin(async move { watching.released(connection).await })
            })
            .connect_lazy_with(connect);
        Self { pool: Pool::Postgres(pool), silence, primary, clock: SharedClock::Database }
    }

    /// Follows the server that accepts writes, where there are several; ends when the store's owner stops.
    pub async fn follow_primary(&self, stopping: CancellationToken) {
        if let (Some(primary), Pool::Postgres(pool)) = (&self.primary, &self.pool) {
            stopping.run_until_cancelled(primary.follow(pool)).await;
        }
        stopping.cancelled().await;
    }

    /// A store on a SQLite file, which is made where missing; connects on first use.
    pub fn sqlite(connect: SqliteConnectOptions, options: &StoreOptions) -> Self {
        let connect = connect
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(limits::SQLITE_BUSY)
            .log_slow_statements(log::LevelFilter::Warn, Duration::from_secs(2))
            .log_statements(log::LevelFilter::Trace);
        // A file needs no asking whether it is still there.
        let pool = SqlitePoolOptions::new()
            .max_connections(options.connections)
            .acquire_timeout(limits::SQLITE_BUSY)
            .test_before_acquire(false)
            .connect_lazy_with(connect);
        Self { pool: Pool::Sqlite(pool), silence: Silence::never(), primary: None, clock: SharedClock::Caller }
    }

    /// The same store, on which leases run out by the times that its callers give.
    #[cfg(test)]
    pub fn on_callers_clock(self) -> Self {
        Self { clock: SharedClock::Caller, ..self }
    }

    /// The driver's pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Which database this is.
    pub fn dialect(&self) -> Dialect {
        match self.pool {
            Pool::Postgres(_) => Dialect::Postgres,
            Pool::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// A connection without a transaction: each statement sees what is committed when it starts. For reads.
    ///
    /// # Errors
    /// [`StoreError::Retryable`] where no connection could be had in time.
    pub async fn read(&self, name: &'static str) -> Result<Tx, StoreError> {
        let started = now();
        let connection = match &self.pool {
            Pool::Postgres(pool) => pool.acquire().await.map(Connection::PostgresRead),
            Pool::Sqlite(pool) => pool.acquire().await.map(Connection::SqliteRead),
        };
        self.tx(name, started, connection)
    }

    /// A transaction; it is rolled back unless [`Tx::commit`] is called. On SQLite it holds the write lock from the
    /// start, so that it cannot fail half-way.
    ///
    /// # Errors
    /// [`StoreError::Retryable`] where no connection or lock could be had in time.
    pub async fn begin(&self, name: &'static str) -> Result<Tx, StoreError> {
        let started = now();
        let connection = match &self.pool {
            Pool::Postgres(pool) => self.silence.bounded(Box::pin(pool.begin())).await.map(Connection::PostgresWrite),
            Pool::Sqlite(pool) => pool.begin_with("BEGIN IMMEDIATE").await.map(Connection::SqliteWrite),
        };
        self.tx(name, started, connection)
    }

    fn tx(&self, name: &'static str, started: Instant, connection: Result<Connection, sqlx::Error>) -> Result<Tx, StoreError> {
        let dialect = self.dialect();
        let connection = connection.map_err(|error| StoreError::of(error, dialect))?;
        let silence = self.silence.clone();
        let clock = self.clock;
        Ok(Tx { connection, dialect, silence, clock, name, started, emitted: Vec::new(), hints: Vec::new(), after_commit: None })
    }
}

/// Whether a connection from the pool may be used. One that worked a moment ago is not asked: that would double the round trips
/// of a read, and what breaks in between breaks as it would in the middle of a statement, to be tried again.
async fn is_usable(connection: &mut sqlx::PgConnection, meta: PoolConnectionMetadata) -> Result<bool, sqlx::Error> {
    if meta.idle_for >= limits::DATABASE_IDLE_UNASKED {
        silence::alive(connection).await?;
    }
    Ok(true)
}

#[expect(clippy::disallowed_methods, reason = "measures elapsed time only")]
fn now() -> Instant {
    Instant::now()
}

/// Told of what a transaction collected once it is committed.
pub trait AfterCommit: Send + Sync {
    /// Publishes the events and actions, which are in the outbox already, and the hints soon; must not block.
    fn committed(&self, outgoing: Vec<Outgoing>, hints: Vec<Hint>);
}

/// Tells whoever waits, on any node, that it is worth looking at the database now. A hint may get lost: who waits looks
/// now and then without one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hint {
    /// The stream of the bus that it goes to.
    pub stream: &'static str,
    /// What to look at.
    pub body: String,
}

/// A connection of [`Store::read`] or a transaction of [`Store::begin`]; dropped uncommitted, it is rolled back.
pub struct Tx {
    connection: Connection,
    dialect: Dialect,
    silence: Silence,
    clock: SharedClock,
    name: &'static str,
    started: Instant,
    emitted: Vec<Outgoing>,
    hints: Vec<Hint>,
    after_commit: Option<Arc<dyn AfterCommit>>,
}

/// A place inside of a transaction; one at a time.
#[must_use]
pub struct Mark {
    emitted: usize,
}

enum Connection {
    PostgresRead(PoolConnection<Postgres>),
    PostgresWrite(Transaction<'static, Postgres>),
    SqliteRead(PoolConnection<Sqlite>),
    SqliteWrite(Transaction<'static, Sqlite>),
}

enum Driver<'a> {
    Postgres(&'a mut sqlx::PgConnection),
    Sqlite(&'a mut sqlx::SqliteConnection),
}

impl Tx {
    /// Which database this is.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The moment of a statement by the clock that all nodes share; `now` where that is the caller's own. A node whose
    /// clock jumps must not end what others hold, nor hold what nobody renews.
    fn shared_now(&self, now: Timestamp) -> Expr {
        match self.clock {
            // Of one statement, not of the transaction: that may have waited for a lock since it began.
            SharedClock::Database => Expr::cust("statement_timestamp()"),
            SharedClock::Caller => Expr::val(now),
        }
    }

    /// `lasting` after [`Tx::shared_now`].
    fn shared_after(&self, now: Timestamp, lasting: TimeDelta) -> Expr {
        match self.clock {
            SharedClock::Database => {
                let seconds = lasting.num_microseconds().unwrap_or(i64::MAX) as f64 / 1e6;
                Expr::cust_with_values("statement_timestamp() + make_interval(secs => $1)", [seconds])
            }
            SharedClock::Caller => Expr::val(now + lasting),
        }
    }

    /// Collects an event; it is written to the outbox with this transaction and published after its commit.
    pub fn emit(&mut self, event: Event) {
        self.emitted.push(Outgoing::Event(event));
    }

    /// Collects an action to be done, which goes the same way to the stream `actions`.
    pub fn act(&mut self, action: TriggeredAction) {
        self.emitted.push(Outgoing::Action(Box::new(action)));
    }

    /// Collects a hint, given after the commit.
    pub fn hint(&mut self, hint: Hint) {
        if !self.hints.contains(&hint) {
            self.hints.push(hint);
        }
    }

    /// Marks a place to which [`Tx::back_to`] undoes.
    ///
    /// # Errors
    /// As any statement.
    pub async fn mark(&mut self) -> Result<Mark, StoreError> {
        self.execute_sql("SAVEPOINT marked".to_owned(), Values(Vec::new())).await?;
        Ok(Mark { emitted: self.emitted.len() })
    }

    /// Forgets a mark; what was done since stays.
    ///
    /// # Errors
    /// As any statement.
    pub async fn keep(&mut self, _: Mark) -> Result<(), StoreError> {
        self.execute_sql("RELEASE SAVEPOINT marked".to_owned(), Values(Vec::new())).await.map(drop)
    }

    /// Undoes what was done since the mark, its events too; a transaction that a failed statement had spoilt goes on.
    ///
    /// # Errors
    /// As any statement.
    pub async fn back_to(&mut self, mark: Mark) -> Result<(), StoreError> {
        self.emitted.truncate(mark.emitted);
        self.execute_sql("ROLLBACK TO SAVEPOINT marked".to_owned(), Values(Vec::new())).await?;
        self.execute_sql("RELEASE SAVEPOINT marked".to_owned(), Values(Vec::new())).await.map(drop)
    }

    /// Has `listener` told of this transaction's events and hints after the commit.
    pub(crate) fn after_commit(&mut self, listener: Arc<dyn AfterCommit>) {
        self.after_commit = Some(listener);
    }

    /// Writes the emitted events to the outbox and commits. Afterwards the events are published.
    ///
    /// # Errors
    /// After an error of the commit itself the outcome may be unknown; otherwise nothing was written.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        let emitted = std::mem::take(&mut self.emitted);
        if !emitted.is_empty() {
            outbox::insert(&mut self, &emitted).await?;
        }
        let dialect = self.dialect;
        match self.connection {
            Connection::PostgresWrite(transaction) => self.silence.bounded(Box::pin(transaction.commit())).await,
            Connection::SqliteWrite(transaction) => transaction.commit().await,
            Connection::PostgresRead(_) | Connection::SqliteRead(_) => Ok(()),
        }
        .map_err(|error| StoreError::of(error, dialect))?;
        metrics::store_transaction(self.name, self.started.elapsed());
        if let Some(listener) = self.after_commit.filter(|_| !(emitted.is_empty() && self.hints.is_empty())) {
            listener.committed(emitted, self.hints);
        }
        Ok(())
    }

    fn driver(&mut self) -> Driver<'_> {
        match &mut self.connection {
            Connection::PostgresRead(connection) => Driver::Postgres(connection),
            Connection::PostgresWrite(transaction) => Driver::Postgres(transaction),
            Connection::SqliteRead(connection) => Driver::Sqlite(connection),
            Connection::SqliteWrite(transaction) => Driver::Sqlite(transaction),
        }
    }

    /// Runs a statement and gives the number of rows that it changed.
    pub async fn execute(&mut self, statement: &impl QueryStatementBuilder) -> Result<u64, StoreError> {
        let (sql, values) = self.dialect.build(statement);
        self.execute_sql(sql, values).await
    }

    /// Runs a query and gives all its rows.
    pub async fn fetch_all(&mut self, statement: &impl QueryStatementBuilder) -> Result<Vec<Row>, StoreError> {
        let (sql, values) = self.dialect.build(statement);
        self.fetch_sql(sql, values).await
    }

    /// Runs a query and gives its first row, if any.
    pub async fn fetch_optional(&mut self, statement: &impl QueryStatementBuilder) -> Result<Option<Row>, StoreError> {
        Ok(self.fetch_all(statement).await?.into_iter().next())
    }

    /// Runs a query that always has a row (a count, a RETURNING).
    pub async fn fetch_one(&mut self, statement: &impl QueryStatementBuilder) -> Result<Row, StoreError> {
        self.fetch_optional(statement).await?.ok_or(StoreError::Database(sqlx::Error::RowNotFound))
    }

    /// Runs a statement given as text (from `store/sql/`, or the dialect) with its values in order.
    pub async fn execute_sql(&mut self, sql: String, values: Values) -> Result<u64, StoreError> {
        let (dialect, silence) = (self.dialect, self.silence.clone());
        let done = match self.driver() {
            Driver::Postgres(connection) => {
                let arguments = dialect::postgres_arguments(values).map_err(StoreError::Database)?;
                let done = sqlx::query_with(AssertSqlSafe(sql), arguments).execute(connection);
                silence.bounded(Box::pin(done)).await.map(|done| done.rows_affected())
            }
            Driver::Sqlite(connection) => {
                let arguments = dialect::sqlite_arguments(values).map_err(StoreError::Database)?;
                sqlx::query_with(AssertSqlSafe(sql), arguments).execute(connection).await.map(|done| done.rows_affected())
            }
        };
        done.map_err(|error| StoreError::of(error, dialect))
    }

    /// Copies rows in Postgres' binary form, see [`copy`].
    async fn copy_in(&mut self, sql: &str, rows: Vec<u8>) -> Result<(), StoreError> {
        let (dialect, silence) = (self.dialect, self.silence.clone());
        let copied = match self.driver() {
            Driver::Postgres(connection) => {
                let copying = async {
                    let mut copy = connection.copy_in_raw(sql).await?;
                    copy.send(rows).await?;
                    copy.finish().await.map(drop)
                };
                silence.bounded(Box::pin(copying)).await
            }
            Driver::Sqlite(_) => Err(sqlx::Error::Protocol("SQLite has no COPY".into())),
        };
        copied.map_err(|error| StoreError::of(error, dialect))
    }

    /// Runs a query given as text with its values in order.
    pub async fn fetch_sql(&mut self, sql: String, values: Values) -> Result<Vec<Row>, StoreError> {
        let (dialect, silence) = (self.dialect, self.silence.clone());
        let rows = match self.driver() {
            Driver::Postgres(connection) => {
                let arguments = dialect::postgres_arguments(values).map_err(StoreError::Database)?;
                let rows = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch(connection);
                silence.bounded(Box::pin(rows.map_ok(|row| Row(row::Inner::Postgres(row))).try_collect())).await
            }
            Driver::Sqlite(connection) => {
                let arguments = dialect::sqlite_arguments(values).map_err(StoreError::Database)?;
                let rows = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch(connection);
                rows.map_ok(|row| Row(row::Inner::Sqlite(row))).try_collect().await
            }
        };
        rows.map_err(|error| StoreError::of(error, dialect))
    }
}
