//! Taking a database over: at once from several nodes, from Python with runs under way, and not at all when it is another's.

use praetor::store::migrate::{self, Adoption, Age, Error, State};

use crate::reference::{self, Database};

const LEASE: &str = "5eaf0000-0000-4000-8000-000000000001";

async fn both() -> [Database; 2] {
    [Database::postgres().await, Database::sqlite()]
}

/// Where our tables are.
fn own(database: &Database, table: &str) -> String {
    match database {
        Database::Postgres { .. } => format!("praetor.{table}"),
        Database::Sqlite { .. } => format!("praetor_{table}"),
    }
}

#[tokio::test]
async fn nodes_that_start_together_make_the_database_once() {
    for round in 0..5 {
        for database in both().await {
            let url = database.url();
            let nodes = (0..3).map(|_| migrate::upgrade(&url));
            let mut created = 0;
            for report in futures_util::future::join_all(nodes).await {
                let report = report.unwrap_or_else(|error| panic!("round {round}: {error:?}"));
                assert_eq!(report.created, report.before == State::Empty);
                created += usize::from(report.created);
            }
            assert_eq!(created, 1, "round {round}");
            assert_eq!(migrate::check(&database.url()).await.expect("checks"), State::Ready);
        }
    }
}

#[tokio::test]
async fn second_upgrade_changes_nothing() {
    for database in both().await {
        migrate::upgrade(&database.url()).await.expect("upgrades");
        database.open().await.run("INSERT INTO flow (name) VALUES ('kept')").await;
        let again = migrate::upgrade(&database.url()).await.expect("upgrades again");
        assert!(!again.created && again.steps.is_empty() && again.adopted.is_none() && again.before == State::Ready);
        assert_eq!(database.open().await.texts("SELECT name FROM flow").await, ["kept"]);
    }
}

#[tokio::test]
async fn another_revision_is_refused_and_left_alone() {
    // One of both chains, and one of nobody's.
    for (revision, age, advice) in
        [("9e83011d1f2a", Age::Older, "prefect server database upgrade -y"), ("0123456789ab", Age::Unknown, "newer Prefect")]
    {
        for database in both().await {
            migrate::upgrade(&database.url()).await.expect("upgrades");
            database.open().await.run(format!("UPDATE alembic_version SET version_num = '{revision}'")).await;
            let refused = migrate::upgrade(&database.url()).await.expect_err("refuses");
            assert!(matches!(&refused, Error::Refused(State::OtherRevision { age: found, .. }) if *found == age), "{refused:?}");
            assert!(refused.to_string().contains(advice) && refused.to_string().contains(revision), "{refused}");
            assert_eq!(database.open().await.texts("SELECT version_num FROM alembic_version").await, [revision]);
            assert!(!migrate::doctor(&database.url()).await.expect("examines").healthy());

            // Whoever knows better says so.
            migrate::stamp(&database.url(), Some("head")).await.expect("stamps");
            assert_eq!(migrate::check(&database.url()).await.expect("checks"), State::Ready);
        }
    }
}

#[tokio::test]
async fn database_of_another_program_is_refused_even_for_reset() {
    for database in both().await {
        database.open().await.run("CREATE TABLE flow (water integer)").await;
        for result in [migrate::upgrade(&database.url()).await, migrate::reset(&database.url()).await] {
            let refused = result.expect_err("refuses");
            assert!(matches!(refused, Error::Refused(State::NotPrefect { .. })), "{refused:?}");
        }
        assert!(database.open().await.texts("SELECT 'row' FROM flow").await.is_empty());
    }
}

#[tokio::test]
async fn reset_drops_all_that_is_ours_and_nothing_else() {
    for database in both().await {
        migrate::upgrade(&database.url()).await.expect("upgrades");
        let fence = own(&database, "fence");
        let mut connection = database.open().await;
        connection.run(format!("INSERT INTO {fence} VALUES ('services', 'a group', 7, 1, CURRENT_TIMESTAMP)")).await;
        connection.run("INSERT INTO flow (name) VALUES ('gone'); CREATE TABLE neighbour AS SELECT 'stays' AS word").await;
        let report = migrate::reset(&database.url()).await.expect("resets");
        assert!(report.created && report.before == State::Ready);
        assert!(connection.texts("SELECT name FROM flow").await.is_empty());
        assert!(connection.texts(format!("SELECT name FROM {fence}")).await.is_empty());
        assert_eq!(connection.texts("SELECT word FROM neighbour").await, ["stays"]);
    }
}

/// `prefect server database downgrade -r base` leaves its empty revision table and, on Postgres, a type.
#[tokio::test]
async fn what_a_downgrade_to_nothing_leaves_is_not_in_the_way() {
    for database in both().await {
        let mut connection = database.open().await;
        connection.run("CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)").await;
        if matches!(database, Database::Postgres { .. }) {
            connection.run("CREATE TYPE worker_status AS ENUM ('ONLINE', 'OFFLINE')").await;
        }
        assert!(migrate::upgrade(&database.url()).await.expect("upgrades").created);
        assert!(migrate::doctor(&database.url()).await.expect("examines").healthy());
    }
}

/// Runs under way, one that ended, and limits whose counters a dead server left wrong.
fn work_in_progress() -> String {
    let limit = |number: u32, name: &str, taken: u32, decay: f64| {
        format!(
            "INSERT INTO concurrency_limit_v2
                (id, active, name, \"limit\", active_slots, denied_slots, slot_decay_per_second, avg_slot_occupancy_seconds)
             VALUES ('11111111-0000-4000-8000-00000000000{number}', true, '{name}', 10, {taken}, 0, {decay}, 2);"
        )
    };
    let run = |number: u32, state: &str, details: &str| {
        format!(
            "INSERT INTO flow_run (id, name, flow_id, deployment_id, state_type)
             VALUES ('44444444-0000-4000-8000-00000000000{number}', 'run', '22222222-0000-4000-8000-000000000001',
                '33333333-0000-4000-8000-000000000001', '{state}');
             INSERT INTO flow_run_state (id, type, name, state_details, flow_run_id)
             VALUES ('55555555-0000-4000-8000-00000000000{number}', '{state}', 'state', '{details}', '44444444-0000-4000-8000-00000000000{number}');
             UPDATE flow_run SET state_id = '55555555-0000-4000-8000-00000000000{number}'
             WHERE id = '44444444-0000-4000-8000-00000000000{number}';"
        )
    };
    let task = |number: u32, state: &str, tags: &str| {
        format!(
            "INSERT INTO task_run (id, name, task_key, dynamic_key, state_type, tags)
             VALUES ('66666666-0000-4000-8000-00000000000{number}', 'task', 'key', '{number}', '{state}', '{tags}');"
        )
    };
    [
        limit(1, "deployment:33333333-0000-4000-8000-000000000001", 5, 0.0),
        limit(2, "tag:narrow", 4, 0.0),
        limit(3, "tag:idle", 3, 0.0),
        limit(4, "somebody", 2, 0.0),
        limit(5, "rate", 6, 0.5),
        "INSERT INTO flow (id, name) VALUES ('22222222-0000-4000-8000-000000000001', 'flow');
         INSERT INTO deployment (id, name, flow_id, concurrency_limit_id)
         VALUES ('33333333-0000-4000-8000-000000000001', 'deployment', '22222222-0000-4000-8000-000000000001',
            '11111111-0000-4000-8000-000000000001');"
            .to_owned(),
        run(1, "RUNNING", &format!("{{\"deployment_concurrency_lease_id\": \"{LEASE}\"}}")),
        run(2, "PENDING", "{\"deployment_concurrency_lease_id\": null}"),
        run(3, "COMPLETED", "{}"),
        run(4, "SCHEDULED", "{}"),
        task(1, "RUNNING", "[\"narrow\", \"free\"]"),
        task(2, "COMPLETED", "[\"narrow\"]"),
        task(3, "RUNNING", "[\"narrower\"]"),
    ]
    .join("\n")
}

/// Counters follow the runs, the running flow keeps the lease that its client renews, and what cannot be told ends by itself.
#[tokio::test]
async fn adoption_gives_a_lease_to_every_taken_slot() {
    for database in both().await {
        reference::migrate(&database);
        let mut connection = database.open().await;
        connection.run(work_in_progress()).await;
        assert_eq!(migrate::check(&database.url()).await.expect("checks"), State::NeedsOwnTables);

        let report = migrate::upgrade(&database.url()).await.expect("adopts");
        assert!(!report.created && report.before == State::NeedsOwnTables);
        // Two runs of the deployment, one task, one unknown holder; deployment, narrow and idle were wrong.
        assert_eq!(report.adopted, Some(Adoption { leases: 4, limits_corrected: 3 }));

        let slots = "SELECT name || ' ' || active_slots FROM concurrency_limit_v2 ORDER BY name";
        let expected = ["deployment:33333333-0000-4000-8000-000000000001 2", "rate 6", "somebody 2", "tag:idle 0", "tag:narrow 1"];
        assert_eq!(connection.texts(slots).await, expected);
        let lease = own(&database, "lease");
        let kept = connection.texts(format!("SELECT CAST(holder AS text) FROM {lease} WHERE id = '{LEASE}'")).await;
        assert!(kept.len() == 1 && kept[0].contains("44444444-0000-4000-8000-000000000001"), "{kept:?}");
        let endless = format!("SELECT CAST(id AS text) FROM {lease} WHERE expires <= created");
        assert!(connection.texts(endless).await.is_empty());
        assert!(migrate::doctor(&database.url()).await.expect("examines").orphan_slots.is_empty());

        // Only the first time: what disagrees later is not ours to guess.
        connection.run("UPDATE concurrency_limit_v2 SET active_slots = 9 WHERE name = 'tag:idle'").await;
        let again = migrate::upgrade(&database.url()).await.expect("upgrades");
        assert!(again.adopted.is_none());
        let orphans = migrate::doctor(&database.url()).await.expect("examines").orphan_slots;
        assert!(orphans.len() == 1 && orphans[0].limit == "tag:idle" && orphans[0].leased_slots == 0, "{orphans:?}");
    }
}

/// A failure half-way leaves the database as it was.
#[tokio::test]
async fn failed_adoption_changes_nothing() {
    for database in both().await {
        reference::migrate(&database);
        let mut connection = database.open().await;
        // In the way of our first step.
        match &database {
            Database::Postgres { .. } => connection.run("CREATE SCHEMA praetor; CREATE TABLE praetor.lease (x integer)").await,
            Database::Sqlite { .. } => connection.run("CREATE TABLE praetor_lease (x integer)").await,
        }
        let failed = migrate::upgrade(&database.url()).await.expect_err("fails");
        assert!(matches!(failed, Error::Failed { .. }), "{failed:?}");
        assert_eq!(migrate::check(&database.url()).await.expect("checks"), State::NeedsOwnTables);
        connection.run(format!("DROP TABLE {}", own(&database, "lease"))).await;
        migrate::upgrade(&database.url()).await.expect("adopts now");
    }
}
