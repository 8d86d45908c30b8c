//! A database that is gone without a word: its machine lost power, its network was cut, it stands still. Nothing refuses a
//! connection then and nothing answers, so whoever waits for an answer would wait until the system gives the connection up,
//! which takes a quarter of an hour.
//!
//! A statement is waited for a little longer than the database itself would let it run. A connection whose statement was
//! not waited for to its end is asked, before the pool takes it back, whether it still lives, and is closed where it does
//! not say so at once; otherwise the pool would wait in its turn, with a place taken.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

use crate::limits;

/// Bounds the waits of one store.
#[derive(Clone, Debug)]
pub(super) struct Silence {
    /// For one statement; `None`: this database cannot fall silent, being a file.
    within: Option<Duration>,
    begun: Instant,
    /// Until when connections that come back are asked, in milliseconds since `begun`.
    suspect_until: Arc<AtomicU64>,
}

impl Silence {
    /// Of a database that lets a statement run for `statement`.
    pub fn after(statement: Duration) -> Self {
        Self { within: Some(statement + limits::DATABASE_GRACE), ..Self::never() }
    }

    /// Of a file.
    #[expect(clippy::disallowed_methods, reason = "measures elapsed time only")]
    pub fn never() -> Self {
        Self { within: None, begun: Instant::now(), suspect_until: Arc::default() }
    }

    /// Waits for an answer, but not for ever. In a box, which every caller up to the handlers would have to carry otherwise.
    ///
    /// # Errors
    /// Those of the answer; [`sqlx::Error::Io`] where none came, with the outcome unknown.
    pub async fn bounded<T>(&self, mut answer: BoxFuture<'_, Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        let Some(within) = self.within else { return answer.await };
        // Dropped before the answer, which gives the connection back: it is asked then.
        let unanswered = Unanswered(self);
        let answered = timeout(within, &mut answer).await;
        if answered.is_ok() {
            std::mem::forget(unanswered);
        }
        answered.unwrap_or_else(|_| Err(unheard(within)))
    }

    /// Asks a connection that comes back whether it may be used again, if any was lately left without an answer. One
    /// whose `BEGIN` was not waited for is in a transaction that nobody knows of, and what is written there would never
    /// be committed.
    ///
    /// # Errors
    /// It does not say so at once.
    pub async fn released(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        if self.milliseconds() >= self.suspect_until.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let within = limits::DATABASE_PING;
        // A statement by itself is as old as its transaction.
        let asked = sqlx::query_scalar::<_, bool>("SELECT now() = statement_timestamp()").fetch_one(connection);
        timeout(within, asked).await.unwrap_or_else(|_| Err(unheard(within)))
    }

    fn milliseconds(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }
}

/// Asks a connection whether it lives.
///
/// # Errors
/// It does not say so at once.
pub(super) async fn alive(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let within = limits::DATABASE_PING;
    timeout(within, connection.ping()).await.unwrap_or_else(|_| Err(unheard(within)))
}

pub(super) fn unheard(within: Duration) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, format!("the database did not answer within {} s", within.as_secs_f64())))
}

/// A statement on its way; dropped, it has not been answered, be it that the time was over or that nobody waits any more.
struct Unanswered<'s>(&'s Silence);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let until = self.0.milliseconds() + limits::DATABASE_SUSPECT.as_millis() as u64;
        self.0.suspect_until.fetch_max(until, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use jepsen::database::Kind;
    use jepsen::wait::until;

    use super::*;
    use crate::store::fence::tests::store;

    #[tokio::test]
    async fn a_begin_that_nobody_waits_for_leaves_no_transaction_behind() {
        let (store, database, _directory) = store(Kind::Postgres).await;
        let mut look = database.look().await.expect("the database opens");
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
        for polls in 0..24 {
            // A connection that is there already has BEGIN on its way with the first poll.
            let warm = store.begin("test").await.expect("a transaction");
            drop(warm);
            let settled = until(Duration::from_secs(5), "it is back", async || (look.number(open).await.ok()? == 0).then_some(()));
            settled.await.expect("it is back");
            let mut begun = Box::pin(store.begin("test"));
            for _ in 0..polls % 6 {
                if poll!(&mut begun).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(begun);
            let ended =
                until(Duration::from_secs(5), "no transaction is open", async || (look.number(open).await.ok()? == 0).then_some(()));
            ended.await.unwrap_or_else(|error| panic!("after {} polls: {error}", polls % 6));
        }
    }
}
