//! A database for one test: a SQLite file, or a database of its own on the Postgres server that the variable
//! `PRAETOR_TEST_POSTGRES` names (as `postgresql://user@host:port/postgres`). It is dropped in the end.

use std::path::Path;

use anyhow::{Context, bail};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};

/// Names the server.
pub const SERVER_VARIABLE: &str = "PRAETOR_TEST_POSTGRES";

/// How long a look waits for a writer of a SQLite file.
const SQLITE_BUSY: std::time::Duration = std::time::Duration::from_secs(10);

/// Which database a test wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file of the test's directory.
    Sqlite,
    /// A database of the test's own.
    Postgres,
}

/// A database that lives as long as this.
#[derive(Debug)]
pub struct Database {
    url: String,
    server: Option<(PgConnectOptions, String)>,
}

impl Database {
    /// Makes one.
    ///
    /// # Errors
    /// There is no server, or it refuses.
    pub async fn create(kind: Kind, directory: &Path) -> anyhow::Result<Self> {
        match kind {
            Kind::Sqlite => Ok(Self { url: format!("sqlite:///{}", directory.join("prefect.db").display()), server: None }),
            Kind::Postgres => {
                let Ok(address) = std::env::var(SERVER_VARIABLE) else {
                    bail!(
                        "{SERVER_VARIABLE} does not name a PostgreSQL server; run `tests/run`, or set it to \
                         postgresql://user@host:port/postgres"
                    )
                };
                Self::on_postgres(&address).await
            }
        }
    }

    /// Makes one on the PostgreSQL server at `address`.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn on_postgres(address: &str) -> anyhow::Result<Self> {
        let server: PgConnectOptions = address.parse().with_context(|| format!("{address} is no address of a PostgreSQL server"))?;
        let name = format!("praetor_test_{:016x}", rand::random::<u64>());
        let mut connection = server.connect().await.with_context(|| format!("the PostgreSQL server {address} does not answer"))?;
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
        connection.close().await?;
        Ok(Self { url: url_of(&server, &name), server: Some((server, name)) })
    }

    /// The same, where nodes reach the server by another port; looks go straight to it.
    #[must_use]
    pub fn through(mut self, port: u16) -> Self {
        if let Some((server, name)) = &self.server {
            self.url = url_of(&server.clone().port(port), name);
        }
        self
    }

    /// The same, where nodes are told of several servers (`host:port`); looks go to the one it was made on.
    #[must_use]
    pub fn on_hosts(mut self, hosts: &[String]) -> Self {
        if let Some((server, name)) = &self.server {
            let hosts: Vec<String> = hosts.iter().map(|host| format!("host={host}")).collect();
            self.url = format!("postgresql://{}@/{name}?{}", server.get_username(), hosts.join("&"));
        }
        self
    }

    /// Looks go to another server from now on.
    pub fn moved(&mut self, host: &str, port: u16) {
        if let Some((server, name)) = self.server.take() {
            self.server = Some((server.host(host).port(port), name));
        }
    }

    /// The address, as a node takes it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A connection to it of whichever kind, to look at what the nodes wrote.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn look(&self) -> anyhow::Result<Look> {
        if self.server.is_some() {
            return Ok(Look::Postgres(self.connect().await?));
        }
        let path = self.url.trim_start_matches("sqlite:///");
        let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(SQLITE_BUSY);
        Ok(Look::Sqlite(options.connect().await?))
    }

    /// A connection to it, to look at what the nodes wrote.
    ///
    /// # Errors
    /// It is no Postgres database, or does not answer.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        let (server, name) = self.server.as_ref().context("this database is a file")?;
        Ok(server.clone().database(name).connect().await?)
    }
}

fn url_of(server: &PgConnectOptions, database: &str) -> String {
    let url = server.clone().database(database).to_url_lossy().to_string();
    url.replacen("postgres://", "postgresql://", 1)
}

/// A connection that reads.
pub enum Look {
    /// To a database of a server.
    Postgres(PgConnection),
    /// To a file.
    Sqlite(SqliteConnection),
}

impl Look {
    /// The rows of a statement with one column of text.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn texts(&mut self, sql: impl Into<String>) -> anyhow::Result<Vec<String>> {
        let sql = AssertSqlSafe(sql.into());
        Ok(match self {
            Self::Postgres(connection) => sqlx::query_scalar(sql).fetch_all(connection).await?,
            Self::Sqlite(connection) => sqlx::query_scalar(sql).fetch_all(connection).await?,
        })
    }

    /// The one number of a statement.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn number(&mut self, sql: impl Into<String>) -> anyhow::Result<i64> {
        let sql = AssertSqlSafe(sql.into());
        Ok(match self {
            Self::Postgres(connection) => sqlx::query_scalar(sql).fetch_one(connection).await?,
            Self::Sqlite(connection) => sqlx::query_scalar(sql).fetch_one(connection).await?,
        })
    }
}

/// Dropped, it is gone from its server; a deadlock that the server saw in it is a panic.
impl Drop for Database {
    fn drop(&mut self) {
        let Some((server, name)) = self.server.take() else { return };
        // A runtime of its own: a drop can be inside of one, which may not be blocked on.
        let dropper = std::thread::spawn(move || -> anyhow::Result<i64> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut connection = server.connect().await?;
                // Its server knows how often transactions stood in each other's way; the nodes repeat those in silence.
                let counted = "SELECT coalesce(sum(deadlocks), 0)::bigint FROM pg_stat_database WHERE datname = $1";
                let deadlocks: i64 = sqlx::query_scalar(counted).bind(&name).fetch_one(&mut connection).await?;
                connection.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))).await?;
                connection.close().await?;
                Ok(deadlocks)
            })
        });
        match dropper.join() {
            Ok(Ok(deadlocks)) if deadlocks > 0 && !std::thread::panicking() => panic!("{deadlocks} deadlocks in the database"),
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => eprintln!("a test's database could not be dropped"),
        }
    }
}
