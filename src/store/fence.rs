//! Table `fence` of ours: who may write as a leader. A leader's transaction takes the row with a share lock and goes on
//! only while the epoch is its own; a new leader advances the epoch before it acts, which waits for the transactions of
//! the old one and stops those that come later.
//!
//! Epochs are compared within one group of nodes. A group with another id (its data directories were wiped, say) takes
//! over, and whoever led before is fenced off.

use sea_query::{Cond, Expr, ExprTrait, OnConflict, Query};

use crate::clock::Timestamp;
use crate::store::{StoreError, Tx};

/// The fence of the background services.
pub const SERVICES: &str = "services";

/// Makes `epoch` of the group `cluster` the current one.
///
/// # Errors
/// [`StoreError::Fenced`] where a later one of the same group is current already.
pub async fn advance(tx: &mut Tx, name: &str, cluster: &str, epoch: u64, holder: u64, now: Timestamp) -> Result<(), StoreError> {
    let dialect = tx.dialect();
    let existing = dialect.own_table_name("fence");
    let later = Expr::col((existing.clone(), "epoch")).lte(Expr::col(("excluded", "epoch")));
    let other_group = Expr::col((existing, "cluster")).ne(Expr::col(("excluded", "cluster")));
    let mut insert = Query::insert();
    insert
        .into_table(dialect.own_table("fence"))
        .columns(["name", "cluster", "epoch", "holder", "updated"])
        .values_panic([name.into(), cluster.into(), number(epoch).into(), number(holder).into(), now.into()])
        .on_conflict(
            OnConflict::column("name")
                .update_columns(["cluster", "epoch", "holder", "updated"])
                .action_cond_where(Cond::any().add(later).add(other_group))
                .to_owned(),
        );
    if tx.execute(&insert).await? > 0 {
        return Ok(());
    }
    let mut select = Query::select();
    select.column("epoch").from(dialect.own_table("fence")).and_where(Expr::col("name").eq(name));
    let current: i64 = tx.fetch_one(&select).await?.get("epoch")?;
    Err(StoreError::Fenced { held: epoch, current: current as u64 })
}

fn number(of: u64) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

/// Holds the fence until the end of the transaction, which from now on gives up soon when it is left idle or has to
/// wait for a lock, so that a paused leader does not hold up its successor.
///
/// # Errors
/// [`StoreError::Fenced`] where `epoch` is not the current one.
pub async fn hold(tx: &mut Tx, name: &str, cluster: &str, epoch: u64) -> Result<(), StoreError> {
    let (sql, values) = tx.dialect().hold_fence(name);
    let rows = tx.fetch_sql(sql, values).await?;
    let current = match rows.first() {
        Some(row) if row.get::<String>("cluster")? == cluster => row.get::<i64>("epoch")? as u64,
        _ => 0,
    };
    if current == epoch { Ok(()) } else { Err(StoreError::Fenced { held: epoch, current }) }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use jepsen::database::{Database, Kind};

    use super::*;
    use crate::config::{Settings, Variables};
    use crate::store::{Store, open};

    pub async fn store(kind: Kind) -> (Store, Database, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a directory");
        let database = Database::create(kind, directory.path()).await.expect("a database");
        let variables = Variables::from([
            ("PREFECT_API_DATABASE_CONNECTION_URL".to_owned(), database.url().to_owned()),
            ("PREFECT_HOME".to_owned(), directory.path().display().to_string()),
        ]);
        let settings = Settings::load(&variables).expect("the settings are right");
        (open::open(&settings.database).await.expect("the database opens"), database, directory)
    }

    async fn advanced(store: &Store, cluster: &str, epoch: u64) -> Result<(), StoreError> {
        let mut tx = store.begin("test").await?;
        advance(&mut tx, SERVICES, cluster, epoch, 1, Timestamp::UNIX_EPOCH).await?;
        tx.commit().await
    }

    #[tokio::test]
    async fn an_old_epoch_holds_nothing_and_another_group_takes_over() {
        for kind in [Kind::Sqlite, Kind::Postgres] {
            let (store, _database, _directory) = store(kind).await;
            let advanced = async |cluster: &str, epoch| advanced(&store, cluster, epoch).await;
            let held = async |cluster: &str, epoch| hold(&mut store.begin("test").await?, SERVICES, cluster, epoch).await;

            assert!(matches!(held("a", 1).await, Err(StoreError::Fenced { held: 1, current: 0 })), "nobody has advanced it");
            advanced("a", 5).await.expect("the first epoch");
            held("a", 5).await.expect("it is current");
            advanced("a", 9).await.expect("a later epoch");
            assert!(matches!(held("a", 5).await, Err(StoreError::Fenced { held: 5, current: 9 })));
            assert!(matches!(advanced("a", 5).await, Err(StoreError::Fenced { held: 5, current: 9 })), "it does not go back");
            advanced("b", 2).await.expect("another group takes over");
            held("b", 2).await.expect("it is current");
            assert!(held("a", 9).await.is_err(), "the group before is fenced off");
        }
    }

    #[tokio::test]
    async fn a_successor_waits_for_the_transactions_of_the_old_epoch_and_stops_those_that_come_later() {
        let (store, _database, _directory) = store(Kind::Postgres).await;
        advanced(&store, "a", 1).await.expect("the first epoch");
        let mut at_work = store.begin("test").await.expect("a transaction");
        hold(&mut at_work, SERVICES, "a", 1).await.expect("it is current");
        // Begun before the successor came, and looked at the fence after.
        let mut asleep = store.begin("test").await.expect("a transaction");
        asleep.fetch_sql("SELECT 1".into(), sea_query::Values(Vec::new())).await.expect("an answer");
        let taking_over = advanced(&store, "a", 2);
        tokio::pin!(taking_over);
        let waits = "SELECT CAST(count(*) AS BIGINT) AS number FROM pg_stat_activity \
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let it_waits = async {
            let mut look = store.read("test").await.expect("a connection");
            loop {
                let rows = look.fetch_sql(waits.into(), sea_query::Values(Vec::new())).await.expect("an answer");
                if rows[0].get::<i64>("number").expect("a number") > 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            done = &mut taking_over => panic!("it did not wait for the transaction that holds the fence: {done:?}"),
            () = it_waits => {}
        }
        at_work.commit().await.expect("it was in time");
        taking_over.await.expect("the successor has it");
        assert!(matches!(hold(&mut asleep, SERVICES, "a", 1).await, Err(StoreError::Fenced { held: 1, current: 2 })));
        drop(asleep);

        // One that sleeps while it holds the fence does not hold its successor up for long.
        let mut holding = store.begin("test").await.expect("a transaction");
        hold(&mut holding, SERVICES, "a", 2).await.expect("it is current");
        tokio::time::timeout(Duration::from_secs(8), advanced(&store, "a", 3)).await.expect("in time").expect("the successor has it");
        holding.commit().await.expect_err("its session was ended");
    }
}
