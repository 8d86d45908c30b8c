//! A database of several servers, of which one accepts writes: the pool follows when another one takes over.
//!
//! One connection beside the pool asks the server again and again. When it breaks, says nothing, or the server has become a
//! standby, the one that accepts writes is looked for among all, and the pool connects to that from then on. Connections that
//! are older than the change are closed when their turn comes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::time::timeout;

use crate::limits;

/// The servers, and which of them accepts writes.
pub(super) struct Primary {
    servers: Vec<PgConnectOptions>,
    current: AtomicUsize,
    /// How long a server may take to accept a connection and to answer on it.
    within: Duration,
    /// When the pool was last sent to another server.
    moved: Mutex<Option<Instant>>,
}

impl Primary {
    /// Of these servers, number `current` accepts writes, as far as is known; each may take as long as `within` to connect.
    pub fn new(servers: Vec<PgConnectOptions>, current: usize, within: Duration) -> Self {
        Self { servers, current: AtomicUsize::new(current), within, moved: Mutex::new(None) }
    }

    /// Whether a connection from the pool may be used; false has it closed.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn is_usable(&self, connection: &mut PgConnection, meta: PoolConnectionMetadata) -> Result<bool, sqlx::Error> {
        let moved = self.moved.lock().map(|at| now().duration_since(at));
        if moved.is_some_and(|ago| meta.age >= ago) {
            return Ok(false);
        }
        // One may have been on its way to the old server when the pool was sent to the new one.
        if meta.idle_for >= limits::DATABASE_IDLE_UNASKED || moved.is_some_and(|ago| ago < limits::DATABASE_PRIMARY_SUSPECT) {
            return answered(limits::DATABASE_PING, accepts_writes(connection)).await;
        }
        Ok(true)
    }

    /// Sends `pool` to whichever server accepts writes. Never ends.
    pub async fn follow(&self, pool: &PgPool) {
        let mut watched: Option<PgConnection> = None;
        loop {
            let serves = match &mut watched {
                Some(connection) => answered(limits::DATABASE_PING, accepts_writes(connection)).await.unwrap_or(false),
                None => false,
            };
            if !serves {
                let current = self.current.load(Ordering::Relaxed);
                let found = find(&self.servers, current, self.within).await;
                if let Some((number, _)) = &found
                    && *number != current
                {
                    let server = &self.servers[*number];
                    tracing::warn!(host = server.get_host(), port = server.get_port(), "another server of the database accepts writes now");
                    pool.set_connect_options(server.clone());
                    self.current.store(*number, Ordering::Relaxed);
                    *self.moved.lock() = Some(now());
                }
                watched = found.map(|(_, connection)| connection);
            }
            tokio::time::sleep(limits::DATABASE_PRIMARY_WATCH).await;
        }
    }
}

/// The server that accepts writes, `first` before others, with a connection to it. They are asked at once: one that is gone
/// without a word holds up the others for as long as `within`.
pub(super) async fn find(servers: &[PgConnectOptions], first: usize, within: Duration) -> Option<(usize, PgConnection)> {
    let asked = servers.iter().enumerate().map(async |(number, server)| {
        let open = async {
            let mut connection = PgConnection::connect_with(server).await?;
            let writable = accepts_writes(&mut connection).await?;
            Ok(writable.then_some((number, connection)))
        };
        answered(within, open).await.ok().flatten()
    });
    join_all(asked).await.into_iter().flatten().min_by_key(|(number, _)| (*number != first, *number))
}

/// Whether the server of a connection is no standby.
///
/// # Errors
/// As any statement.
pub(super) async fn accepts_writes(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT NOT pg_is_in_recovery()").fetch_one(connection).await
}

async fn answered<T>(within: Duration, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(within, answer).await.unwrap_or_else(|_| Err(super::silence::unheard(within)))
}

#[expect(clippy::disallowed_methods, reason = "measures elapsed time only")]
fn now() -> Instant {
    Instant::now()
}
