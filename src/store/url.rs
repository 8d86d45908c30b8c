//! Where the database is: the forms that Prefect accepts, parsed once, and never printed with the password.
//!
//! `postgresql+asyncpg://`, `postgresql://`, `postgres://`; several servers as `?host=a:5432&host=b`;
//! `sqlite+aiosqlite:///relative`, `sqlite:////absolute`, `sqlite://` and `:memory:` for a database that dies with us.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use url::Url;

use crate::limits::SQLITE_BUSY;

/// A database address. `Debug` and `Display` show it without password and parameters.
#[derive(Clone)]
pub struct DatabaseUrl {
    target: Target,
    shown: String,
}

/// What an address points to.
#[derive(Clone)]
pub enum Target {
    /// One entry per server, in the order to try; never empty.
    Postgres(Vec<PgConnectOptions>),
    Sqlite(SqliteLocation),
}

/// Where a SQLite database lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqliteLocation {
    /// Private to the process.
    Memory,
    File(PathBuf),
}

/// Why an address was not understood. Carries no part of it that could be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("the database URL has no scheme: it begins with postgresql://, postgresql+asyncpg://, sqlite:/// or sqlite+aiosqlite:///")]
    NoScheme,
    #[error("the database URL's scheme {0:?} is not served: use postgresql://, postgresql+asyncpg://, sqlite:/// or sqlite+aiosqlite:///")]
    Scheme(String),
    #[error(
        "a SQLite URL has three slashes before a relative path (sqlite:///prefect.db) and four before an absolute one (sqlite:////data/prefect.db)"
    )]
    SqlitePath,
    #[error("the database URL is not valid: {0}")]
    Invalid(String),
    #[error("the database URL's parameter {name} does not allow this value: {reason}")]
    Parameter { name: &'static str, reason: String },
}

impl DatabaseUrl {
    /// Parses one of the accepted forms.
    ///
    /// # Errors
    /// A sentence that says which part was not understood.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let (scheme, rest) = text.split_once(':').ok_or(UrlError::NoScheme)?;
        match scheme.to_ascii_lowercase().as_str() {
            "postgresql+asyncpg" | "postgresql" | "postgres" => parse_postgres(rest),
            "sqlite+aiosqlite" | "sqlite" => parse_sqlite(rest),
            other if rest.starts_with("//") => Err(UrlError::Scheme(other.to_owned())),
            _ => Err(UrlError::NoScheme),
        }
    }

    /// The address of a SQLite file.
    pub fn sqlite_file(path: &Path) -> Self {
        Self::sqlite(SqliteLocation::File(path.to_owned()))
    }

    /// A SQLite database in memory, private to the process.
    pub fn sqlite_memory() -> Self {
        Self::sqlite(SqliteLocation::Memory)
    }

    fn sqlite(location: SqliteLocation) -> Self {
        let shown = match &location {
            SqliteLocation::Memory => "sqlite://".to_owned(),
            SqliteLocation::File(path) => format!("sqlite:///{}", path.display()),
        };
        Self { target: Target::Sqlite(location), shown }
    }

    /// The same address with options added to each Postgres server.
    #[must_use]
    pub fn map_servers(mut self, add: impl Fn(PgConnectOptions) -> PgConnectOptions) -> Self {
        if let Target::Postgres(servers) = &mut self.target {
            *servers = servers.drain(..).map(add).collect();
        }
        self
    }

    /// What the address points to.
    pub fn target(&self) -> &Target {
        &self.target
    }
}

impl SqliteLocation {
    /// Options as the reference sets them: WAL, foreign keys on, a patient busy timeout; the file is made if it is missing.
    pub fn options(&self) -> SqliteConnectOptions {
        let options = match self {
            Self::Memory => SqliteConnectOptions::new().in_memory(true),
            Self::File(path) => SqliteConnectOptions::new().filename(path).journal_mode(SqliteJournalMode::Wal),
        };
        options.create_if_missing(true).foreign_keys(true).synchronous(SqliteSynchronous::Normal).busy_timeout(SQLITE_BUSY)
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({})", self.shown)
    }
}

impl FromStr for DatabaseUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        Self::parse(text)
    }
}

fn parse_sqlite(rest: &str) -> Result<DatabaseUrl, UrlError> {
    let rest = rest.strip_prefix("//").ok_or(UrlError::SqlitePath)?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if path.is_empty() {
        return Ok(DatabaseUrl::sqlite_memory());
    }
    let path = path.strip_prefix('/').ok_or(UrlError::SqlitePath)?;
    let path = path.strip_prefix("file:").unwrap_or(path);
    if path.is_empty() || path == ":memory:" || query.split('&').any(|part| part == "mode=memory") {
        return Ok(DatabaseUrl::sqlite_memory());
    }
    Ok(DatabaseUrl::sqlite_file(Path::new(path)))
}

fn parse_postgres(rest: &str) -> Result<DatabaseUrl, UrlError> {
    let (text, mut hosts) = authority_hosts(rest)?;
    let mut url = Url::parse(&text).map_err(|error| UrlError::Invalid(error.to_string()))?;
    let parameters: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    url.set_query(None);
    let mut options = PgConnectOptions::from_str(url.as_str())
        .map_err(|_| UrlError::Invalid("user, password, host, port or database name cannot be read".to_owned()))?;

    let mut ports: Vec<u16> = Vec::new();
    let mut user = None;
    let mut database = None;
    for (name, value) in parameters {
        match name.as_str() {
            "host" | "hostaddr" => hosts.extend(value.split(',').map(str::to_owned)),
            "port" => {
                for part in value.split(',') {
                    ports.push(part.parse().map_err(|error| parameter("port", &error))?);
                }
            }
            "user" => {
                options = options.username(&value);
                user = Some(value);
            }
            "password" => options = options.password(&value),
            "dbname" | "database" => {
                options = options.database(&value);
                database = Some(value);
            }
            "ssl" | "sslmode" | "ssl-mode" => {
                let mode = match value.to_ascii_lowercase().as_str() {
                    "true" | "1" => "verify-full".to_owned(),
                    "false" | "0" => "disable".to_owned(),
                    other => other.to_owned(),
                };
                let mode: PgSslMode = mode.parse().map_err(|error| parameter("sslmode", &error))?;
                options = options.ssl_mode(mode);
            }
            "sslrootcert" => options = options.ssl_root_cert(value),
            "sslcert" => options = options.ssl_client_cert(value),
            "sslkey" => options = options.ssl_client_key(value),
            "application_name" => options = options.application_name(&value),
            // What is left tunes the reference's own driver (statement cache, timeouts) and means nothing to ours.
            _ => {}
        }
    }

    let user = user.unwrap_or_else(|| url.username().to_owned());
    let database = database.unwrap_or_else(|| url.path().trim_start_matches('/').to_owned());
    let shown_user = if user.is_empty() { user } else { format!("{user}@") };
    if hosts.is_empty() {
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        if let [port] = ports[..] {
            options = options.port(port);
        }
        let shown = format!("postgresql://{shown_user}{host}{port}/{database}");
        return Ok(DatabaseUrl { target: Target::Postgres(vec![options]), shown });
    }

    let shown = format!("postgresql://{shown_user}{}/{database}", hosts.join(","));
    let mut servers = Vec::with_capacity(hosts.len());
    for (index, host) in hosts.iter().enumerate() {
        let mut server = options.clone();
        if host.starts_with('/') {
            server = server.socket(host);
        } else {
            let (name, port) = split_port(host)?;
            server = server.host(name);
            if let Some(port) = port {
                server = server.port(port);
            }
        }
        // One port serves all hosts, several go with their hosts.
        if let Some(&port) = ports.get(index).or(if ports.len() == 1 { ports.first() } else { None }) {
            server = server.port(port);
        }
        servers.push(server);
    }
    Ok(DatabaseUrl { target: Target::Postgres(servers), shown })
}

/// Takes a list of hosts (`a:1,b:2`), which a general URL cannot have, out of the authority, and names the host where a user
/// stands before nothing (`me@/prefect?host=...`).
fn authority_hosts(rest: &str) -> Result<(String, Vec<String>), UrlError> {
    let rest = rest.strip_prefix("//").ok_or(UrlError::NoScheme)?;
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let at = authority.rfind('@').map_or(0, |at| at + 1);
    let (user, hosts) = authority.split_at(at);
    if hosts.contains(',') {
        let hosts = hosts.split(',').map(str::to_owned).collect();
        return Ok((format!("postgresql://{user}localhost{tail}"), hosts));
    }
    let host = if hosts.is_empty() && !user.is_empty() { "localhost" } else { hosts };
    Ok((format!("postgresql://{user}{host}{tail}"), Vec::new()))
}

/// Splits `host:port`, `[v6]:port`, `host` and a bare IPv6 address.
fn split_port(host: &str) -> Result<(&str, Option<u16>), UrlError> {
    let (name, port) = if let Some(inner) = host.strip_prefix('[') {
        let (name, after) =
            inner.split_once(']').ok_or_else(|| UrlError::Parameter { name: "host", reason: "a bracket is not closed".to_owned() })?;
        (name, after.strip_prefix(':'))
    } else if host.matches(':').count() == 1 {
        let (name, port) = host.split_once(':').expect("one colon was counted");
        (name, Some(port))
    } else {
        (host, None)
    };
    let port = port.map(|port| port.parse().map_err(|error| parameter("host", &error))).transpose()?;
    Ok((name, port))
}

fn parameter(name: &'static str, error: &dyn fmt::Display) -> UrlError {
    UrlError::Parameter { name, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(text: &str) -> Vec<PgConnectOptions> {
        match DatabaseUrl::parse(text).expect(text).target() {
            Target::Postgres(servers) => servers.clone(),
            Target::Sqlite(_) => panic!("{text} is not Postgres"),
        }
    }

    fn location(text: &str) -> SqliteLocation {
        match DatabaseUrl::parse(text).expect(text).target() {
            Target::Sqlite(location) => location.clone(),
            Target::Postgres(_) => panic!("{text} is not SQLite"),
        }
    }

    #[test]
    fn every_postgres_scheme_is_the_same_server() {
        for scheme in ["postgresql+asyncpg", "postgresql", "postgres", "POSTGRESQL"] {
            let servers = servers(&format!("{scheme}://me:s%40crt@db.example:6000/prefect"));
            assert_eq!(servers.len(), 1);
            assert_eq!(servers[0].get_host(), "db.example");
            assert_eq!(servers[0].get_port(), 6000);
            assert_eq!(servers[0].get_username(), "me");
            assert_eq!(servers[0].get_database(), Some("prefect"));
        }
    }

    #[test]
    fn several_hosts_keep_their_order_and_ports() {
        let found = servers("postgresql+asyncpg://me@/prefect?host=a:6000&host=b&host=[::1]:7&ssl=require");
        let hosts: Vec<_> = found.iter().map(|server| (server.get_host(), server.get_port())).collect();
        assert_eq!(hosts[0], ("a", 6000));
        assert_eq!(hosts[1].0, "b");
        assert_eq!(hosts[2], ("::1", 7));
        assert!(matches!(found[2].get_ssl_mode(), PgSslMode::Require));
        let found = servers("postgresql://me@/prefect?host=a,b&port=1,2");
        let ports: Vec<_> = found.iter().map(PgConnectOptions::get_port).collect();
        assert_eq!(ports, [1, 2]);
        let found = servers("postgresql://me:x@a:1,b:2/prefect");
        let hosts: Vec<_> = found.iter().map(|server| (server.get_host(), server.get_port())).collect();
        assert_eq!(hosts, [("a", 1), ("b", 2)]);
    }

    #[test]
    fn nothing_printed_holds_a_secret() {
        let url = DatabaseUrl::parse("postgresql://me:hush@db/prefect?password=hush&sslmode=prefer").expect("valid");
        assert_eq!(url.to_string(), "postgresql://me@db/prefect");
        assert!(!format!("{url:?}").contains("hush"));
        let error = DatabaseUrl::parse("postgresql://me:hush@db:port/prefect").expect_err("port is a word");
        assert!(!error.to_string().contains("hush"), "{error}");
        let error = DatabaseUrl::parse("postgresql://me:hush@db/prefect?sslmode=hush2").expect_err("no such mode");
        assert!(!error.to_string().contains("hush@"), "{error}");
    }

    #[test]
    fn sqlite_slashes_tell_relative_from_absolute() {
        assert_eq!(location("sqlite+aiosqlite:////data/prefect.db"), SqliteLocation::File("/data/prefect.db".into()));
        assert_eq!(location("sqlite:///prefect.db?timeout=3"), SqliteLocation::File("prefect.db".into()));
        assert_eq!(location("sqlite://"), SqliteLocation::Memory);
        assert_eq!(location("sqlite+aiosqlite:///:memory:"), SqliteLocation::Memory);
        let shared = "sqlite+aiosqlite:///file::memory:?cache=shared&uri=true&check_same_thread=false";
        assert_eq!(location(shared), SqliteLocation::Memory);
        assert_eq!(DatabaseUrl::parse("sqlite://prefect.db").err(), Some(UrlError::SqlitePath));
    }

    #[test]
    fn other_schemes_are_refused_by_name() {
        assert_eq!(DatabaseUrl::parse("mysql://x/y").err(), Some(UrlError::Scheme("mysql".to_owned())));
        assert_eq!(DatabaseUrl::parse("prefect.db").err(), Some(UrlError::NoScheme));
    }
}
