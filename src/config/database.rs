//! The database: its address, and how long and how often to use it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::reader::Reader;
use super::secret::Secret;

/// Settings of the database. The address is kept as written; `store` reads it.
#[derive(Clone, Debug)]
pub struct DatabaseSettings {
    /// `PREFECT_SERVER_DATABASE_CONNECTION_URL`, or put together from `..._DRIVER`, `_HOST`, `_PORT`, `_USER`,
    /// `_PASSWORD`, `_NAME`; default the file `prefect.db` in the home directory.
    pub url: Secret,
    /// `PREFECT_SERVER_DATABASE_TIMEOUT`: most seconds for one statement; default 10.
    pub statement_timeout: Duration,
    /// `PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT`: most seconds to connect; default 5.
    pub connection_timeout: Duration,
    /// Connections at most: `..._SQLALCHEMY_POOL_SIZE` (5) plus `..._SQLALCHEMY_MAX_OVERFLOW` (10); default 15.
    pub connections_max: u32,
    /// `..._SQLALCHEMY_POOL_TIMEOUT`: most seconds to wait for a free connection; default 30.
    pub pool_timeout: Duration,
    /// `..._SQLALCHEMY_POOL_RECYCLE`: seconds after which a connection is replaced, -1 for never; default 3600.
    pub pool_recycle: Option<Duration>,
    /// `..._CONNECT_ARGS_APPLICATION_NAME`: what Postgres shows in `pg_stat_activity`; default `praetor`.
    pub application_name: String,
    /// `..._CONNECT_ARGS_SEARCH_PATH`: the Postgres search path; default that of the role.
    pub search_path: Option<String>,
    /// `..._CONNECT_ARGS_STATEMENT_CACHE_SIZE`: prepared statements kept per connection; 0 for none, as `PgBouncer` in
    /// transaction mode may need; default 100.
    pub statement_cache_size: usize,
    /// Client certificates, when `..._CONNECT_ARGS_TLS_ENABLED`; default none.
    pub tls: Option<DatabaseTls>,
    /// `PREFECT_SERVER_DATABASE_MIGRATE_ON_START`: create or upgrade the schema at start; default yes.
    pub migrate_on_start: bool,
    /// `PREFECT_SERVER_DATABASE_MIGRATION_TIMEOUT`: most seconds for one statement of a migration; default none.
    pub migration_timeout: Option<Duration>,
}

/// `..._CONNECT_ARGS_TLS_{CA_FILE,CERT_FILE,KEY_FILE,CHECK_HOSTNAME}`.
#[derive(Clone, Debug)]
pub struct DatabaseTls {
    /// Certificates of authorities to trust; default the system's.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate.
    pub cert_file: Option<PathBuf>,
    /// The key to it.
    pub key_file: Option<PathBuf>,
    /// Whether the server's name must match its certificate; default yes.
    pub check_hostname: bool,
}

impl DatabaseSettings {
    pub(super) fn read(reader: &mut Reader<'_>, home: &Path) -> Self {
        let alchemy = |rest: &str| format!("PREFECT_SERVER_DATABASE_SQLALCHEMY_{rest}");
        let pool_size = reader.within(&[&alchemy("POOL_SIZE"), "PREFECT_SQLALCHEMY_POOL_SIZE"], 5_u32, 1, 1000);
        let overflow: i64 = reader.value(&[&alchemy("MAX_OVERFLOW"), "PREFECT_SQLALCHEMY_MAX_OVERFLOW"], 10);
        let recycle = reader.value(&[&alchemy("POOL_RECYCLE")], 3600_i64);
        let timeout = |reader: &mut Reader<'_>, rest: &str, seconds: f64| {
            let long = format!("PREFECT_SERVER_DATABASE_{rest}");
            let short = format!("PREFECT_API_DATABASE_{rest}");
            reader.positive(&[&long, &short], seconds)
        };
        Self {
            url: url(reader, home),
            statement_timeout: timeout(reader, "TIMEOUT", 10.0),
            connection_timeout: timeout(reader, "CONNECTION_TIMEOUT", 5.0),
            connections_max: pool_size + overflow.clamp(0, 1000) as u32,
            pool_timeout: reader.positive(&[&alchemy("POOL_TIMEOUT")], 30.0),
            pool_recycle: u64::try_from(recycle).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs),
            application_name: reader.value(&[&alchemy("CONNECT_ARGS_APPLICATION_NAME")], "praetor".to_owned()),
            search_path: reader.optional(&[&alchemy("CONNECT_ARGS_SEARCH_PATH")]),
            statement_cache_size: reader.within(
                &[&alchemy("CONNECT_ARGS_STATEMENT_CACHE_SIZE"), &alchemy("CONNECT_ARGS_PREPARED_STATEMENT_CACHE_SIZE")],
                100,
                0,
                10_000,
            ),
            tls: tls(reader),
            migrate_on_start: reader.value(&["PREFECT_SERVER_DATABASE_MIGRATE_ON_START", "PREFECT_API_DATABASE_MIGRATE_ON_START"], true),
            migration_timeout: reader.optional(&["PREFECT_SERVER_DATABASE_MIGRATION_TIMEOUT"]),
        }
    }
}

fn tls(reader: &mut Reader<'_>) -> Option<DatabaseTls> {
    let name = |rest: &str| format!("PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_TLS_{rest}");
    let enabled = reader.value(&[&name("ENABLED")], false);
    let tls = DatabaseTls {
        ca_file: reader.optional(&[&name("CA_FILE")]),
        cert_file: reader.optional(&[&name("CERT_FILE")]),
        key_file: reader.optional(&[&name("KEY_FILE")]),
        check_hostname: reader.value(&[&name("CHECK_HOSTNAME")], true),
    };
    if enabled && tls.cert_file.is_some() != tls.key_file.is_some() {
        reader.problem(format!("{} and {} belong together; set both or neither", name("CERT_FILE"), name("KEY_FILE")));
    }
    enabled.then_some(tls)
}

fn url(reader: &mut Reader<'_>, home: &Path) -> Secret {
    let part = |reader: &mut Reader<'_>, rest: &str| -> Option<String> {
        let long = format!("PREFECT_SERVER_DATABASE_{rest}");
        let short = format!("PREFECT_API_DATABASE_{rest}");
        reader.optional(&[&long, &short])
    };
    let given = part(reader, "CONNECTION_URL");
    let driver = part(reader, "DRIVER");
    let host = part(reader, "HOST");
    let port = part(reader, "PORT");
    let user = part(reader, "USER");
    let name = part(reader, "NAME");
    let password = part(reader, "PASSWORD");

    if let Some(url) = given {
        let mut url = url;
        for place in ["${PREFECT_API_DATABASE_PASSWORD}", "${PREFECT_SERVER_DATABASE_PASSWORD}"] {
            if url.contains(place) {
                let Some(password) = &password else {
                    reader.problem(format!("the database address names {place}; set PREFECT_SERVER_DATABASE_PASSWORD"));
                    break;
                };
                url = url.replace(place, &encode(password));
            }
        }
        return Secret::new(url);
    }
    match driver.as_deref() {
        Some("postgresql+asyncpg" | "postgresql") => {
            let (Some(host), Some(user), Some(name)) = (&host, &user, &name) else {
                reader.problem(
                    "PREFECT_SERVER_DATABASE_DRIVER names PostgreSQL; set PREFECT_SERVER_DATABASE_HOST, _USER and _NAME too, or PREFECT_SERVER_DATABASE_CONNECTION_URL instead",
                );
                return default_url(home);
            };
            let password = password.as_deref().map(|password| format!(":{}", encode(password))).unwrap_or_default();
            let port = port.as_deref().unwrap_or("5432");
            Secret::new(format!("postgresql+asyncpg://{}{password}@{host}:{port}/{name}", encode(user)))
        }
        Some("sqlite+aiosqlite" | "sqlite") => match name {
            Some(name) => Secret::new(format!("sqlite+aiosqlite:///{name}")),
            None => default_url(home),
        },
        Some(other) => {
            reader.problem(format!("PREFECT_SERVER_DATABASE_DRIVER must be postgresql+asyncpg or sqlite+aiosqlite; change {other:?}"));
            default_url(home)
        }
        None => default_url(home),
    }
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn default_url(home: &Path) -> Secret {
    Secret::new(format!("sqlite+aiosqlite:///{}", home.join("prefect.db").display()))
}

#[cfg(test)]
mod tests {
    use super::super::reader::Variables;
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (String, Vec<String>) {
        let variables: Variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut reader = Reader::new(&variables);
        let settings = DatabaseSettings::read(&mut reader, Path::new("/home/p"));
        (settings.url.expose().to_owned(), reader.into_problems())
    }

    #[test]
    fn the_address_comes_from_the_url_the_parts_or_the_home_directory() {
        assert_eq!(read(&[]).0, "sqlite+aiosqlite:////home/p/prefect.db");
        assert_eq!(read(&[("PREFECT_API_DATABASE_CONNECTION_URL", "postgres://a/b")]).0, "postgres://a/b");
        let parts = [
            ("PREFECT_SERVER_DATABASE_DRIVER", "postgresql+asyncpg"),
            ("PREFECT_SERVER_DATABASE_HOST", "db"),
            ("PREFECT_SERVER_DATABASE_USER", "me"),
            ("PREFECT_SERVER_DATABASE_PASSWORD", "p@ss"),
            ("PREFECT_SERVER_DATABASE_NAME", "prefect"),
        ];
        assert_eq!(read(&parts).0, "postgresql+asyncpg://me:p%40ss@db:5432/prefect");
        let (_, problems) = read(&parts[..2]);
        assert_eq!(problems.len(), 1, "{problems:?}");
    }

    #[test]
    fn a_password_is_put_into_the_url_that_asks_for_it() {
        let url = "postgresql://me:${PREFECT_API_DATABASE_PASSWORD}@db/p";
        let (address, problems) = read(&[("PREFECT_API_DATABASE_CONNECTION_URL", url), ("PREFECT_API_DATABASE_PASSWORD", "a/b")]);
        assert_eq!(address, "postgresql://me:a%2Fb@db/p");
        assert!(problems.is_empty());
        assert_eq!(read(&[("PREFECT_API_DATABASE_CONNECTION_URL", url)]).1.len(), 1);
    }
}
