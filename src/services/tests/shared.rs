//! Batches that consumers share between two transactions: as if they were one, whatever becomes of either.

use bytes::Bytes;
use chrono::TimeDelta;
use jepsen::database::Kind;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;
use uuid::Uuid;

use super::{BOTH, Fixture};
use crate::bus::Entry;
use crate::clock::Timestamp;
use crate::limits;
use crate::model::state::StateType;
use crate::services::event_persister::EventPersister;
use crate::services::task_run_recorder::TaskRunRecorder;
use crate::services::{Consume, ServiceError};

const RUNS: usize = 120;
const CHANGES: [&str; 3] = ["Pending", "Running", "Completed"];

fn id(chance: &mut StdRng) -> Uuid {
    Uuid::from_u128(chance.random())
}

/// Three changes of each of [`RUNS`] task runs in any order. Every fifth run was begun under another id, and every
/// seventh change comes twice.
fn entries(flow_run: Uuid, at: Timestamp) -> Vec<Entry> {
    let mut chance = StdRng::seed_from_u64(7);
    let mut payloads = Vec::new();
    for run in 0..RUNS {
        let (own, first) = (id(&mut chance), id(&mut chance));
        for (step, name) in CHANGES.iter().enumerate() {
            let task_run = if step == 0 && run % 5 == 0 { first } else { own };
            let (event, occurred) = (id(&mut chance), at + TimeDelta::milliseconds((run * 10 + step) as i64));
            let payload = json!({
                "id": event, "occurred": occurred, "received": at, "event": format!("prefect.task-run.{name}"),
                "resource": {"prefect.resource.id": format!("prefect.task-run.{task_run}"), "prefect.orchestration": "client"},
                "related": [{"prefect.resource.id": format!("prefect.flow-run.{flow_run}"), "prefect.resource.role": "flow-run"}],
                "payload": {
                    "task_run": {
                        "task_key": "add", "dynamic_key": run.to_string(), "name": format!("add-{run}"), "tags": ["a"],
                        "labels": {"step": step}, "run_count": step,
                    },
                    "validated_state": {"type": name.to_uppercase(), "name": name, "message": null},
                },
            });
            let times = if (run * CHANGES.len() + step).is_multiple_of(7) { 2 } else { 1 };
            payloads.extend(std::iter::repeat_n((event, payload.to_string()), times));
        }
    }
    payloads.shuffle(&mut chance);
    let entry = |(position, (id, payload))| Entry { position, at: 0, id, payload: Bytes::from(payload) };
    (1..).zip(payloads).map(entry).collect()
}

/// How many entries are there once more.
fn repeated(entries: &[Entry]) -> i64 {
    let ids: std::collections::HashSet<Uuid> = entries.iter().map(|entry| entry.id).collect();
    (entries.len() - ids.len()) as i64
}

/// Once with the transaction lost after the service has done its part, then to the end.
async fn lost_then_kept(fixture: &Fixture, service: &dyn Consume, entries: &[Entry]) {
    assert!(entries.len() > limits::CONSUMER_SPLIT, "enough to share");
    let mut tx = fixture.lead.begin("test").await.expect("a transaction");
    service.consume(&fixture.lead, &mut tx, entries).await.expect("an effect");
    drop(tx);
    let mut tx = fixture.lead.begin("test").await.expect("a transaction");
    service.consume(&fixture.lead, &mut tx, entries).await.expect("an effect");
    tx.commit().await.expect("committed");
}

#[tokio::test]
async fn a_shared_batch_of_task_runs_is_recorded_once() {
    for kind in BOTH {
        let fixture = Fixture::new(kind).await;
        let flow_run = fixture.flow_run(fixture.state(StateType::Running), |_| ()).await;
        lost_then_kept(&fixture, &TaskRunRecorder::default(), &entries(flow_run.0, fixture.now())).await;
        let runs = RUNS as i64;
        assert_eq!(fixture.number("SELECT COUNT(*) FROM task_run").await, runs, "{kind:?}: one for each key");
        assert_eq!(fixture.number("SELECT COUNT(*) FROM task_run_state").await, runs * 3, "{kind:?}: every state once");
        let newest = "SELECT COUNT(*) FROM task_run WHERE state_type = 'COMPLETED' AND run_count = 2";
        assert_eq!(fixture.number(newest).await, runs, "{kind:?}: the newest state wins");
        let own = "SELECT COUNT(*) FROM task_run_state s JOIN task_run r ON r.id = s.task_run_id WHERE r.state_timestamp >= s.timestamp";
        assert_eq!(fixture.number(own).await, runs * 3, "{kind:?}: each state belongs to a run that is at least as new");
    }
}

#[tokio::test]
async fn a_shared_batch_of_events_is_persisted_once() {
    for kind in BOTH {
        let fixture = Fixture::new(kind).await;
        lost_then_kept(&fixture, &EventPersister::default(), &entries(Uuid::nil(), fixture.now())).await;
        let events = (RUNS * CHANGES.len()) as i64;
        assert_eq!(fixture.number("SELECT COUNT(*) FROM events").await, events, "{kind:?}");
        assert_eq!(fixture.number("SELECT COUNT(*) FROM event_resources").await, events * 2, "{kind:?}: its own and the flow run's");
    }
}

/// Whoever lost the lead writes nothing, in neither of the transactions.
#[tokio::test]
async fn a_shared_batch_of_a_former_leader_is_refused_whole() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let entries = entries(Uuid::nil(), fixture.now());
    let mut tx = fixture.begin().await;
    fixture.advance_fence(2).await;
    let refused = EventPersister::default().consume(&fixture.lead, &mut tx, &entries).await;
    assert!(matches!(refused, Err(ServiceError::Store(crate::store::StoreError::Fenced { .. }))), "{refused:?}");
    drop(tx);
    assert_eq!(fixture.number("SELECT COUNT(*) FROM events").await, 0);
}

/// One that failed is tried again in its own transaction alone: here a second one is always refused.
#[tokio::test]
async fn a_batch_that_failed_is_not_shared_again() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let persister = EventPersister::default();
    let entries = entries(Uuid::nil(), fixture.now());
    let mut tx = fixture.lead.begin("test").await.expect("a transaction");
    let former = crate::services::Lead { epoch: 0, app: fixture.lead.app.clone() };
    persister.consume(&former, &mut tx, &entries).await.expect_err("the second transaction is refused");
    drop(tx);
    let mut tx = fixture.lead.begin("test").await.expect("a transaction");
    persister.consume(&former, &mut tx, &entries).await.expect("no second transaction is begun");
    tx.commit().await.expect("committed");
    assert_eq!(fixture.number("SELECT COUNT(*) FROM events").await, entries.len() as i64 - repeated(&entries));
}
