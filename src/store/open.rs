//! From settings to a [`Store`] whose schema is ours: one attempt, which says whether another one may help.

use std::path::Path;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::migrate::{self, Error as MigrateError, State};
use super::primary;
use super::url::{DatabaseUrl, SqliteLocation, Target, UrlError};
use super::{Store, StoreOptions};
use crate::config::{DatabaseSettings, DatabaseTls};
use crate::telemetry::chain;

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address cannot be read.
    #[error("PREFECT_API_DATABASE_CONNECTION_URL: {0}")]
    Address(#[from] UrlError),
    /// The database answers and cannot be used as it is; trying again does not help.
    #[error("{0}")]
    Refused(String),
    /// It may come back.
    #[error("{0}")]
    Away(String),
}

/// The database's address with the options that settings add to it.
///
/// # Errors
/// The address cannot be read.
pub fn address(settings: &DatabaseSettings) -> Result<DatabaseUrl, UrlError> {
    let url = DatabaseUrl::parse(settings.url.expose())?;
    Ok(url.map_servers(|server| customize(server, settings)))
}

/// Connects, brings the schema up where settings allow it, and gives the store.
///
/// # Errors
/// [`OpenError::Away`] when another attempt may help.
pub async fn open(settings: &DatabaseSettings) -> Result<Store, OpenError> {
    let url = address(settings)?;
    if let Target::Sqlite(SqliteLocation::File(path)) = url.target() {
        make_parent(path)?;
    }
    if matches!(url.target(), Target::Sqlite(SqliteLocation::Memory)) {
        // Every connection of a pool would see a database of its own.
        return Err(OpenError::Refused(
            "a SQLite database in memory cannot be served: name a file, as in sqlite:////data/prefect.db".to_owned(),
        ));
    }
    prepare(&url, settings).await?;
    let options = StoreOptions {
        connections: settings.connections_max,
        acquire: settings.pool_timeout.min(crate::limits::DATABASE_ACQUIRE),
        connect: settings.connection_timeout,
        statement: settings.statement_timeout,
        statement_cache: settings.statement_cache_size,
    };
    match url.target() {
        Target::Sqlite(location) => Ok(Store::sqlite(location.options(), &options)),
        Target::Postgres(servers) => {
            Ok(Store::postgres(servers.clone(), first_writable(servers, settings.connection_timeout).await?, &options))
        }
    }
}

async fn prepare(url: &DatabaseUrl, settings: &DatabaseSettings) -> Result<(), OpenError> {
    let judged = if settings.migrate_on_start {
        migrate::upgrade(url).await.map(|report| {
            if report.created {
                tracing::info!("the database {url} was empty and has all its tables now");
            } else if let Some(adopted) = report.adopted {
                tracing::info!(
                    "the database {url} is adopted: {} taken slots have leases, {} limits were corrected",
                    adopted.leases,
                    adopted.limits_corrected
                );
            }
        })
    } else {
        match migrate::check(url).await {
            Ok(State::Ready) => Ok(()),
            Ok(state) => Err(MigrateError::Refused(state)),
            Err(error) => Err(error),
        }
    };
    let sqlite = matches!(url.target(), Target::Sqlite(_));
    judged.map_err(|error| match error {
        // A file does not come back by waiting; a lock on it does.
        MigrateError::Open { .. } if sqlite => OpenError::Refused(chain(&error)),
        MigrateError::Open { .. } | MigrateError::Failed { .. } => OpenError::Away(chain(&error)),
        other => OpenError::Refused(chain(&other)),
    })
}

/// Which server accepts writes, where there are several.
async fn first_writable(servers: &[PgConnectOptions], within: Duration) -> Result<usize, OpenError> {
    if servers.len() == 1 {
        return Ok(0);
    }
    let found = primary::find(servers, 0, within).await;
    found.map(|(number, _)| number).ok_or_else(|| OpenError::Away("none of the database's servers accepts writes".to_owned()))
}

fn customize(server: PgConnectOptions, settings: &DatabaseSettings) -> PgConnectOptions {
    let mut server = server.application_name(&settings.application_name);
    if let Some(path) = &settings.search_path {
        server = server.options([("search_path", path)]);
    }
    if let Some(DatabaseTls { ca_file, cert_file, key_file, check_hostname }) = &settings.tls {
        server = server.ssl_mode(if *check_hostname { PgSslMode::VerifyFull } else { PgSslMode::VerifyCa });
        if let Some(file) = ca_file {
            server = server.ssl_root_cert(file);
        }
        if let (Some(certificate), Some(key)) = (cert_file, key_file) {
            server = server.ssl_client_cert(certificate).ssl_client_key(key);
        }
    }
    server
}

fn make_parent(path: &Path) -> Result<(), OpenError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    std::fs::create_dir_all(parent)
        .map_err(|error| OpenError::Refused(format!("the directory {} of the database cannot be made: {error}", parent.display())))
}
