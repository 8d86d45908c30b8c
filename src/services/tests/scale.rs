//! The services over as much as they are promised to bear, on Postgres. `PRAETOR_TEST_LONG=1` makes it as much as was
//! promised; run with `--nocapture`, they print their figures.

#![expect(clippy::disallowed_methods, reason = "measures elapsed time; its tasks end with the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jepsen::database::Kind;
use sea_query::Values;

use super::{Fixture, text};
use crate::services::Tick;
use crate::services::late_runs::LateRuns;
use crate::services::scheduler::Scheduler;

fn long() -> bool {
    std::env::var("PRAETOR_TEST_LONG").is_ok_and(|value| value == "1")
}

fn now() -> Instant {
    Instant::now()
}

#[tokio::test]
async fn every_one_of_many_deployments_is_scheduled_in_one_pass() {
    let count: i64 = if long() { 10_000 } else { 300 };
    let fixture = Fixture::new(Kind::Postgres).await;
    let (at, flow) = (text(fixture.now()), fixture.flow);
    fixture
        .execute(format!(
            "INSERT INTO deployment (created, updated, name, flow_id) SELECT {at}, {at}, 'd' || n, '{flow}' FROM generate_series(1, {count}) n"
        ))
        .await;
    let schedule = r#"{"interval": 3600.0, "anchor_date": "2020-01-01T00:00:00Z", "timezone": "UTC"}"#;
    fixture
        .execute(format!("INSERT INTO deployment_schedule (schedule, active, deployment_id) SELECT '{schedule}', true, id FROM deployment"))
        .await;
    fixture.execute("ANALYZE").await;
    let service = Scheduler::new(fixture.lead.app.settings().services.scheduler.clone());
    let begun = now();
    let made = fixture.drain(&service).await;
    let took = begun.elapsed();
    assert_eq!(made as i64, count * 3, "three runs ahead of each");
    assert_eq!(fixture.number("SELECT count(*) FROM flow_run").await, count * 3);
    let again = now();
    assert_eq!(fixture.drain(&service).await, 0);
    println!(
        "{count} deployments: {made} runs in {:.2} s, {:.2} s per 1,000 deployments; a pass without need {:.2} s",
        took.as_secs_f64(),
        took.as_secs_f64() * 1000.0 / count as f64,
        again.elapsed().as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_late_runs_are_marked_without_a_lock_held_for_long() {
    let count: i64 = if long() { 100_000 } else { 600 };
    let fixture = Fixture::new(Kind::Postgres).await;
    let (at, flow) = (text(fixture.now()), fixture.flow);
    fixture
        .execute(format!(
            "INSERT INTO flow_run (created, updated, name, flow_id, state_type, state_name, state_timestamp, expected_start_time, \
             next_scheduled_start_time) SELECT {at}, {at}, 'r' || n, '{flow}', 'SCHEDULED', 'Scheduled', {at}, {at}, {at} \
             FROM generate_series(1, {count}) n"
        ))
        .await;
    fixture
        .execute(format!(
            "INSERT INTO flow_run_state (type, name, timestamp, flow_run_id, state_details) \
             SELECT 'SCHEDULED', 'Scheduled', {at}, id, '{{\"scheduled_time\": \"2024-10-04T00:00:00Z\"}}' FROM flow_run"
        ))
        .await;
    fixture.execute("UPDATE flow_run SET state_id = s.id FROM flow_run_state s WHERE s.flow_run_id = flow_run.id").await;
    fixture.execute("ANALYZE").await;
    fixture.pass(60);
    let service = LateRuns { period: Duration::from_secs(5), after: Duration::from_secs(15) };
    // Whoever wants one of the runs meanwhile waits for as long as the service holds it.
    let stop = Arc::new(AtomicBool::new(false));
    let others = tokio::spawn({
        let (app, stop) = (fixture.lead.app.clone(), Arc::clone(&stop));
        async move {
            let (mut longest, mut looks) = (Duration::ZERO, 0);
            while !stop.load(Ordering::Relaxed) {
                let mut tx = app.begin("test").await.expect("a transaction");
                let sql = "SELECT id FROM flow_run WHERE id = (SELECT id FROM flow_run WHERE state_name = 'Scheduled' \
                           ORDER BY next_scheduled_start_time, id LIMIT 1) FOR UPDATE";
                let begun = now();
                tx.fetch_sql(sql.into(), Values(Vec::new())).await.expect("an answer");
                longest = longest.max(begun.elapsed());
                looks += 1;
            }
            (longest, looks)
        }
    });
    let begun = now();
    let (mut marked, mut slowest) = (0, Duration::ZERO);
    loop {
        let tick = now();
        let done = fixture.tick(&service).await;
        slowest = slowest.max(tick.elapsed());
        marked += done.items;
        if !done.more {
            break;
        }
    }
    let took = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    let (longest, looks) = others.await.expect("no panic");
    assert_eq!(marked as i64, count);
    assert_eq!(fixture.number("SELECT count(*) FROM flow_run WHERE state_name = 'Late'").await, count);
    assert!(looks > 0 && longest < Duration::from_secs(5), "{longest:?}");
    println!(
        "{count} late runs marked in {:.1} s, {:.0} per second; the slowest tick {:.2} s; another's wait for one of {looks} runs at most {:.3} s",
        took.as_secs_f64(),
        count as f64 / took.as_secs_f64(),
        slowest.as_secs_f64(),
        longest.as_secs_f64()
    );
    assert_eq!(service.name(), "late_runs");
}
