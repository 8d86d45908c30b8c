//! The published Prefect and this build's binary as processes, and databases that live as long as a test.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use praetor::store::url::DatabaseUrl;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection, raw_sql};
use tempfile::TempDir;

/// Longest start of a Python server, imports and all, on a busy machine.
const SERVER_START: Duration = Duration::from_mins(2);

fn setting(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run these tests with tests/run, which sets up what they compare with"))
}

/// A database made for one test and dropped with it.
pub enum Database {
    Postgres { name: String, server: Box<PgConnectOptions>, url: String },
    Sqlite { directory: TempDir },
}

impl Database {
    pub async fn postgres() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let url = setting("PRAETOR_TEST_POSTGRES");
        let server: PgConnectOptions = url.parse().expect("PRAETOR_TEST_POSTGRES is a Postgres URL");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("praetor_compat_{}_{number}", std::process::id());
        let mut connection = PgConnection::connect_with(&server).await.expect("the Postgres of PRAETOR_TEST_POSTGRES answers");
        raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.expect("makes a database");
        let (base, _) = url.rsplit_once('/').expect("the URL names a database");
        let server = Box::new(server);
        Self::Postgres { url: format!("{base}/{name}"), name, server }
    }

    pub fn sqlite() -> Self {
        Self::Sqlite { directory: tempfile::tempdir().expect("makes a directory") }
    }

    fn sqlite_path(directory: &TempDir) -> PathBuf {
        directory.path().join("prefect.db")
    }

    /// The address for Praetor.
    pub fn url(&self) -> DatabaseUrl {
        DatabaseUrl::parse(&self.python_url()).expect("the reference's form is accepted")
    }

    /// The address for Python.
    pub fn python_url(&self) -> String {
        match self {
            Self::Postgres { url, .. } => {
                let (_, rest) = url.split_once("://").expect("a URL has a scheme");
                format!("postgresql+asyncpg://{rest}")
            }
            Self::Sqlite { directory } => format!("sqlite+aiosqlite:///{}", Self::sqlite_path(directory).display()),
        }
    }

    /// A plain connection, for looking in.
    pub async fn open(&self) -> Connected {
        match self {
            Self::Postgres { name, server, .. } => {
                let options = PgConnectOptions::clone(server).database(name);
                Connected::Postgres(PgConnection::connect_with(&options).await.expect("opens"))
            }
            Self::Sqlite { directory } => {
                let options = SqliteConnectOptions::new().filename(Self::sqlite_path(directory)).create_if_missing(true);
                Connected::Sqlite(SqliteConnection::connect_with(&options).await.expect("opens"))
            }
        }
    }
}

/// A connection of either kind.
pub enum Connected {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl Connected {
    pub async fn run(&mut self, sql: impl Into<String>) {
        let sql: String = sql.into();
        match self {
            Self::Postgres(connection) => raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop),
            Self::Sqlite(connection) => raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop),
        }
        .expect("runs");
    }

    pub async fn texts(&mut self, sql: impl Into<String>) -> Vec<String> {
        let sql: String = sql.into();
        match self {
            Self::Postgres(connection) => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await,
            Self::Sqlite(connection) => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await,
        }
        .expect("answers")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Self::Postgres { name, server, .. } = self else { return };
        let (name, server) = (name.clone(), server.clone());
        // A runtime of its own: the test's may be on its way out, or panicking.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                let mut connection = PgConnection::connect_with(&server).await.ok()?;
                let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.ok()
            })
        });
        if !matches!(dropped.join(), Ok(Some(_))) {
            eprintln!("a test database was left behind on the Postgres of PRAETOR_TEST_POSTGRES");
        }
    }
}

/// The published `prefect`.
fn prefect(database: &Database, home: &TempDir) -> Command {
    command(&setting("PRAETOR_TEST_PREFECT"), database, home)
}

/// The binary of this build.
pub fn praetor(database: &Database, home: &TempDir) -> Command {
    command(env!("CARGO_BIN_EXE_praetor"), database, home)
}

/// A program with a home of its own and no settings from outside.
fn command(program: &str, database: &Database, home: &TempDir) -> Command {
    let mut command = Command::new(program);
    let foreign = |name: &str| name.starts_with("PREFECT_") || name.starts_with("PRAETOR_");
    for (name, _) in std::env::vars().filter(|(name, _)| foreign(name)) {
        command.env_remove(name);
    }
    command
        .env("PREFECT_HOME", home.path())
        .env("PREFECT_API_DATABASE_CONNECTION_URL", database.python_url())
        .env("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        .env("DO_NOT_TRACK", "1")
        .stdin(Stdio::null());
    command
}

/// Runs Python's own migrations.
pub fn migrate(database: &Database) {
    let home = tempfile::tempdir().expect("makes a directory");
    let output = prefect(database, &home).args(["server", "database", "upgrade", "-y"]).output().expect("prefect runs");
    assert!(
        output.status.success(),
        "prefect server database upgrade: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A running server; killed on drop.
pub struct Server {
    child: Child,
    port: u16,
    home: TempDir,
}

impl Server {
    /// Starts `prefect server start` on a database and waits until it is healthy.
    pub async fn python(database: &Database) -> Self {
        Self::start(database, prefect).await
    }

    /// Starts `praetor server start`, a group of one, on a database and waits until it is healthy.
    pub async fn praetor(database: &Database) -> Self {
        Self::start(database, praetor).await
    }

    async fn start(database: &Database, program: fn(&Database, &TempDir) -> Command) -> Self {
        let home = tempfile::tempdir().expect("makes a directory");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("finds a port").port();
        let log = std::fs::File::create(home.path().join("server.log")).expect("makes a log");
        let child = program(database, &home)
            .args(["server", "start", "--no-ui", "--host", "127.0.0.1", "--port", &port.to_string()])
            .stdout(log.try_clone().expect("shares the log"))
            .stderr(log)
            .spawn()
            .expect("prefect runs");
        let mut server = Self { child, port, home };
        let healthy = async {
            while server.request("GET", "/api/health", "").is_none_or(|(status, _)| status != 200) {
                let ended = server.child.try_wait().expect("the child can be asked");
                assert!(ended.is_none(), "the server ended:\n{}", server.log());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let started = tokio::time::timeout(SERVER_START, healthy).await;
        assert!(started.is_ok(), "the server did not become healthy:\n{}", server.log());
        server
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("server.log")).unwrap_or_default()
    }

    /// One exchange of JSON; `None` while nobody listens.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_mins(1))).ok()?;
        // HTTP/1.0: the answer comes whole and ends with the connection.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
