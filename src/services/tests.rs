//! Every service against both databases, with a clock that stands still.

#![expect(clippy::disallowed_methods, reason = "ids that another server or nobody made")]

mod scale;
mod shared;
mod triggers;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use jepsen::database::{Database, Kind};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use uuid::Uuid;

use super::cancellation_cleanup::{CancelledSubflows, CancelledTasks, CancellingTimeouts};
use super::foreman::Foreman;
use super::late_runs::LateRuns;
use super::pause_expirations::PauseExpirations;
use super::repossessor::Repossessor;
use super::vacuum::{EventVacuum, RunLogs, RunVacuum};
use super::*;
use crate::bus::direct::DirectBus;
use crate::bus::rules::Limits;
use crate::bus::{Bus, ReadLimit};
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::cluster::LogFeed;
use crate::config::{Settings, Variables};
use crate::id::{ConcurrencyLimitId, FlowId, FlowRunId, LeaseId, TaskRunId};
use crate::model::concurrency::ConcurrencyLimitV2Create;
use crate::model::flow::FlowCreate;
use crate::model::state::{State, StateType};
use crate::model::{flow_run, task_run};
use crate::orchestration::{Context, FlowPolicy, TaskPolicy, set_flow_run_state, set_task_run_state};
use crate::store::leases::{self, Occupancy};
use crate::store::{Store, concurrency_limits, flow_runs, flows, open, outbox, slots, task_runs};
use crate::task::Tasks;

const BOTH: [Kind; 2] = [Kind::Sqlite, Kind::Postgres];
const PERIOD: Duration = Duration::from_secs(5);

struct Fixture {
    kind: Kind,
    lead: Lead,
    clock: Arc<ManualClock>,
    bus: Arc<DirectBus>,
    flow: FlowId,
    _database: Database,
    _directory: tempfile::TempDir,
}

fn start() -> Timestamp {
    Timestamp::UNIX_EPOCH + TimeDelta::days(20_000)
}

/// As both databases take it in the text of a statement.
fn text(at: Timestamp) -> String {
    at.format("'%Y-%m-%d %H:%M:%S%.6f'").to_string()
}

impl Fixture {
    async fn new(kind: Kind) -> Self {
        Self::on(kind, Store::on_callers_clock).await
    }

    async fn on(kind: Kind, clock_of: impl FnOnce(Store) -> Store) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let database = Database::create(kind, directory.path()).await.expect("a database");
        let variables = Variables::from([
            ("PREFECT_API_DATABASE_CONNECTION_URL".to_owned(), database.url().to_owned()),
            ("PREFECT_HOME".to_owned(), directory.path().display().to_string()),
            ("PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED".to_owned(), "true".to_owned()),
            ("PRAETOR_SERVICES_REPOSSESSOR_GRACE_SECONDS".to_owned(), "0".to_owned()),
        ]);
        let settings = Arc::new(Settings::load(&variables).expect("the settings are right"));
        let store = clock_of(open::open(&settings.database).await.expect("the database opens"));
        let (clock, bus) = (Arc::new(ManualClock::new(start())), Arc::new(DirectBus::new(Limits::default())));
        let app = App::new(store, bus.clone(), LogFeed::default(), "group".into(), clock.clone(), settings, Tasks::new());
        let lead = Lead { app, epoch: 1 };
        let fixture = Self { kind, lead, clock, bus, flow: FlowId::fresh(), _database: database, _directory: directory };
        fixture.advance_fence(1).await;
        let mut tx = fixture.begin().await;
        let create = FlowCreate { name: "flow".into(), tags: Vec::new(), labels: Default::default() };
        flows::insert(&mut tx, fixture.flow, start(), &create).await.expect("a flow");
        tx.commit().await.expect("committed");
        fixture
    }

    async fn advance_fence(&self, epoch: u64) {
        let mut tx = self.begin().await;
        fence::advance(&mut tx, fence::SERVICES, "group", epoch, 1, self.now()).await.expect("a later epoch");
        tx.commit().await.expect("committed");
    }

    async fn begin(&self) -> Tx {
        self.lead.app.begin("test").await.expect("a transaction")
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn pass(&self, seconds: i64) {
        self.clock.advance(TimeDelta::seconds(seconds));
    }

    async fn execute(&self, sql: impl Into<String>) {
        let mut tx = self.begin().await;
        tx.execute_sql(sql.into(), sea_query::Values(Vec::new())).await.expect("a statement");
        tx.commit().await.expect("committed");
    }

    async fn number(&self, sql: impl Into<String>) -> i64 {
        let sql = format!("SELECT CAST(({}) AS BIGINT) AS number", sql.into());
        let mut tx = self.lead.app.read("test").await.expect("a connection");
        tx.fetch_sql(sql, sea_query::Values(Vec::new())).await.expect("an answer")[0].get("number").expect("a number")
    }

    async fn text(&self, sql: impl Into<String>) -> String {
        let sql = format!("SELECT CAST(({}) AS TEXT) AS item", sql.into());
        let mut tx = self.lead.app.read("test").await.expect("a connection");
        tx.fetch_sql(sql, sea_query::Values(Vec::new())).await.expect("an answer")[0].get("item").expect("a text")
    }

    async fn flow_run(&self, state: State, change: impl FnOnce(&mut flow_run::FlowRun)) -> FlowRunId {
        let mut tx = self.begin().await;
        let mut run = flow_run::FlowRun::new(self.flow, self.now());
        change(&mut run);
        flow_runs::insert(&mut tx, &run).await.expect("a flow run");
        tx.commit().await.expect("committed");
        self.set(run.id, state).await;
        run.id
    }

    async fn set(&self, id: FlowRunId, state: State) {
        let mut tx = self.begin().await;
        let context = Context::server(self.now(), &self.lead.app.settings().orchestration);
        set_flow_run_state(&mut tx, &context, id, state, FlowPolicy::Minimal).await.expect("a state");
        tx.commit().await.expect("committed");
    }

    async fn task_run(&self, flow_run: FlowRunId, key: &str, state: State) -> TaskRunId {
        let mut tx = self.begin().await;
        let run = task_run::TaskRun::new(Some(flow_run), "task", key, self.now());
        task_runs::insert(&mut tx, &run).await.expect("a task run");
        let context = Context::server(self.now(), &self.lead.app.settings().orchestration);
        set_task_run_state(&mut tx, &context, run.id, state, TaskPolicy::Minimal).await.expect("a state");
        tx.commit().await.expect("committed");
        run.id
    }

    fn state(&self, kind: StateType) -> State {
        State::new(kind, self.now())
    }

    async fn state_of(&self, id: FlowRunId) -> String {
        self.text(format!("SELECT state_name FROM flow_run WHERE id = '{id}'")).await
    }

    async fn state_of_task(&self, id: TaskRunId) -> String {
        self.text(format!("SELECT state_name FROM task_run WHERE id = '{id}'")).await
    }

    async fn tick(&self, service: &dyn Tick) -> Done {
        service.tick(&self.lead).await.unwrap_or_else(|error| panic!("{}: {error}", service.name()))
    }

    /// Ticks until there is nothing left to do; gives how many items there were.
    async fn drain(&self, service: &dyn Tick) -> u64 {
        let mut items = 0;
        loop {
            let done = self.tick(service).await;
            items += done.items;
            if !done.more {
                return items;
            }
        }
    }

    /// The names of the events so far, once all are out of the outbox, with a label of their resource.
    async fn events(&self) -> Vec<Value> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let left = async || {
            let mut tx = self.lead.app.read("test").await.expect("a connection");
            outbox::list(&mut tx, self.now() + TimeDelta::days(1), 1000).await.expect("a list").len()
        };
        while left().await > 0 {
            assert!(tokio::time::Instant::now() < deadline, "the outbox is not published");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut found = Vec::new();
        loop {
            let entries = self.bus.read(&Topic::Events, found.len() as u64, ReadLimit::default()).await.expect("readable");
            if entries.is_empty() {
                return found;
            }
            found.extend(entries.iter().map(|entry| serde_json::from_slice::<Value>(&entry.payload).expect("JSON")));
        }
    }

    async fn event_names(&self) -> Vec<String> {
        self.events().await.iter().map(|event| event["event"].as_str().expect("a name").to_owned()).collect()
    }

    async fn limit(&self, name: &str, limit: i64) -> ConcurrencyLimitId {
        let mut tx = self.begin().await;
        let create = ConcurrencyLimitV2Create {
            active: true,
            name: name.into(),
            limit,
            active_slots: 0,
            denied_slots: 0,
            slot_decay_per_second: 0.0,
        };
        let made = concurrency_limits::insert(&mut tx, self.now(), &create).await.expect("a limit");
        tx.commit().await.expect("committed");
        made.id
    }

    async fn taken(&self, id: ConcurrencyLimitId) -> i64 {
        self.number(format!("SELECT active_slots FROM concurrency_limit_v2 WHERE id = '{id}'")).await
    }

    /// The name of a table of ours, in the text of a statement.
    fn own(&self, table: &str) -> String {
        match self.kind {
            Kind::Postgres => format!("praetor.{table}"),
            Kind::Sqlite => format!("praetor_{table}"),
        }
    }

    async fn leases(&self) -> i64 {
        self.number(format!("SELECT count(*) FROM {}", self.own("lease"))).await
    }
}

#[tokio::test]
async fn a_pause_that_is_over_fails_its_run_once() {
    for kind in BOTH {
        let fixture = Fixture::new(kind).await;
        let paused = |seconds: i64| {
            let mut state = fixture.state(StateType::Paused);
            state.state_details.pause_timeout = Some(fixture.now() + TimeDelta::seconds(seconds));
            state
        };
        let over = fixture.flow_run(paused(10), |_| ()).await;
        let (resumed, waits) = (fixture.flow_run(paused(10), |_| ()).await, fixture.flow_run(paused(60), |_| ()).await);
        let forever = fixture.flow_run(fixture.state(StateType::Paused), |_| ()).await;
        fixture.set(resumed, fixture.state(StateType::Running)).await;
        let service = PauseExpirations { period: PERIOD };
        fixture.pass(10);
        assert_eq!(fixture.tick(&service).await, Done::default(), "not over yet");
        fixture.pass(1);
        assert_eq!(fixture.tick(&service).await, Done { items: 1, more: false });
        assert_eq!(fixture.tick(&service).await, Done::default());
        let states = [over, resumed, waits, forever].map(async |id| fixture.state_of(id).await);
        assert_eq!(futures_util::future::join_all(states).await, ["Failed", "Running", "Paused", "Paused"]);
        let message = format!("SELECT message FROM flow_run_state WHERE flow_run_id = '{over}' AND name = 'Failed'");
        assert_eq!(fixture.text(message).await, "The flow was paused and never resumed.");
        assert_eq!(fixture.event_names().await.iter().filter(|name| *name == "prefect.flow-run.Failed").count(), 1);
    }
}

#[tokio::test]
async fn what_a_cancelled_run_leaves_behind_is_cancelled() {
    for kind in BOTH {
        let fixture = Fixture::new(kind).await;
        let parent = fixture.flow_run(fixture.state(StateType::Running), |_| ()).await;
        let other = fixture.flow_run(fixture.state(StateType::Running), |_| ()).await;
        let mut tasks = Vec::new();
        for (of, key, state) in [
            (parent, "a", StateType::Running),
            (parent, "b", StateType::Completed),
            (parent, "c", StateType::Scheduled),
            (other, "d", StateType::Running),
        ] {
            tasks.push(fixture.task_run(of, key, fixture.state(state)).await);
        }
        let deployment = Some(crate::id::DeploymentId::fresh());
        let inner = fixture.flow_run(fixture.state(StateType::Running), |run| run.parent_task_run_id = Some(tasks[0])).await;
        let deployed = fixture
            .flow_run(fixture.state(StateType::Running), |run| {
                run.parent_task_run_id = Some(tasks[0]);
                run.deployment_id = deployment;
                run.infrastructure_pid = Some("host:1".into());
            })
            .await;
        let stays = fixture.flow_run(fixture.state(StateType::Running), |run| run.parent_task_run_id = Some(tasks[3])).await;
        let (tasks_service, subflows) = (CancelledTasks { period: PERIOD }, CancelledSubflows { period: PERIOD });
        assert_eq!((fixture.tick(&tasks_service).await.items, fixture.tick(&subflows).await.items), (0, 0), "nothing is cancelled");
        fixture.pass(1);
        fixture.set(parent, fixture.state(StateType::Cancelled)).await;
        // A subflow's state is its task's as well, so the one that goes on is looked at first.
        assert_eq!((fixture.tick(&subflows).await.items, fixture.tick(&subflows).await.items), (2, 0));
        let (cancelled, again) = (fixture.tick(&tasks_service).await.items, fixture.tick(&tasks_service).await.items);
        assert!((1..=2).contains(&cancelled) && again == 0, "{cancelled}, {again}");
        let states = tasks.iter().map(async |id| fixture.state_of_task(*id).await);
        assert_eq!(futures_util::future::join_all(states).await, ["Cancelled", "Completed", "Cancelled", "Running"]);
        let states = [inner, deployed, stays].map(async |id| fixture.state_of(id).await);
        assert_eq!(futures_util::future::join_all(states).await, ["Cancelled", "Cancelling", "Running"]);
    }
}

#[tokio::test]
async fn a_run_whose_cancellation_is_not_confirmed_is_cancelled_at_its_time() {
    for kind in BOTH {
        let fixture = Fixture::new(kind).await;
        let service = CancellingTimeouts { period: Duration::from_secs(20), timeout: Duration::from_mins(5) };
        assert_eq!(service.period(), Duration::from_secs(1), "it is seen soon after its time");
        pool(&fixture).await;
        let queue = "00000000-0000-4000-8000-000000000002".parse().expect("an id");
        let cancelling = fixture
            .flow_run(fixture.state(StateType::Cancelling), |run| {
                run.work_queue_id = Some(queue);
                run.infrastructure_pid = Some("host:1".into());
            })
            .await;
        fixture.pass(100);
        let later = fixture.flow_run(fixture.state(StateType::Cancelling), |_| ()).await;
        fixture.pass(199);
        assert_eq!(fixture.tick(&service).await, Done::default());
        fixture.pass(1);
        assert_eq!(fixture.tick(&service).await.items, 1);
        assert_eq!((fixture.state_of(cancelling).await, fixture.state_of(later).await), ("Cancelled".into(), "Cancelling".into()));
        fixture.pass(100);
        assert_eq!((fixture.tick(&service).await.items, fixture.tick(&service).await.items), (1, 0));
        // A worker of its pool is to tear down what the first one left; the other has no queue.
        let messages = fixture.own("cleanup_message");
        assert_eq!(fixture.number(format!("SELECT count(*) FROM {messages} WHERE status = 'open'")).await, 1);
        let target: Value = serde_json::from_str(&fixture.text(format!("SELECT target FROM {messages}")).await).expect("JSON");
        assert_eq!(target, serde_json::json!({"flow_run_id": cancelling, "infrastructure_pid": "host:1"}));
    }
}

#[tokio::test]
async fn runs_are_late_once_and_a_full_deployment_that_cancels_new_ones_has_them_cancelled() {
    for kind in BOTH {
        let fixture = Fixture::new(kind).await;
        let service = LateRuns { period: PERIOD, after: Duration::from_secs(15) };
        let mut ids = Vec::new();
        for _ in 0..45 {
            ids.push(fixture.flow_run(State::scheduled(fixture.now(), fixture.now()), |_| ()).await);
        }
        fixture.pass(14);
        assert_eq!(fixture.drain(&service).await, 0);
        fixture.pass(1);
        assert_eq!((fixture.drain(&service).await, fixture.drain(&service).await), (45, 0));
        assert_eq!(fixture.state_of(ids[44]).await, "Late");
        assert_eq!(fixture.event_names().await.iter().filter(|name| *name == "prefect.flow-run.Late").count(), 45);
    }
}

#[tokio::test]
async fn a_run_that_a_worker_took_meanwhile_is_not_marked_late_nor_a_late_one_again() {
    for kind in BOTH {
        let fixture = Fixture::new(kind).await;
        for (name, state) in [
            ("Pending", fixture.state(StateType::Pending)),
            ("Late", State::scheduled(fixture.now(), fixture.now()).named("Late")),
            ("Completed", fixture.state(StateType::Completed)),
        ] {
            let run = fixture.flow_run(state, |_| ()).await;
            let mut tx = fixture.begin().await;
            let late = State::scheduled(fixture.now(), fixture.now()).named("Late");
            let context = Context::server(fixture.now(), &fixture.lead.app.settings().orchestration);
            let result = set_flow_run_state(&mut tx, &context, run, late, FlowPolicy::MarkLateRuns).await.expect("a verdict");
            tx.commit().await.expect("committed");
            assert_eq!(result.status, crate::model::state::SetStateStatus::Reject, "{name}");
            assert_eq!(fixture.state_of(run).await, name);
            assert_eq!(fixture.number(format!("SELECT count(*) FROM flow_run_state WHERE flow_run_id = '{run}'")).await, 1);
        }
    }
}

/// A pool with a queue, a deployment on it and two workers, as rows.
async fn pool(fixture: &Fixture) {
    let now = text(fixture.now());
    let flow = fixture.flow;
    for sql in [
        format!(
            "INSERT INTO work_pool (id, created, updated, name, type, base_job_template, is_paused, status) VALUES \
                 ('00000000-0000-4000-8000-000000000001', {now}, {now}, 'pool', 'process', '{{}}', '0', 'READY')"
        ),
        format!(
            "INSERT INTO work_queue (id, created, updated, name, is_paused, priority, work_pool_id, status, last_polled) VALUES \
                 ('00000000-0000-4000-8000-000000000002', {now}, {now}, 'queue', '0', 1, '00000000-0000-4000-8000-000000000001', 'READY', {now})"
        ),
        format!(
            "INSERT INTO deployment (id, created, updated, name, flow_id, status, last_polled, work_queue_id) VALUES \
                 ('00000000-0000-4000-8000-000000000003', {now}, {now}, 'polled', '{flow}', 'READY', {now}, '00000000-0000-4000-8000-000000000002'), \
                 ('00000000-0000-4000-8000-000000000004', {now}, {now}, 'served', '{flow}', 'READY', {now}, NULL), \
                 ('00000000-0000-4000-8000-000000000005', {now}, {now}, 'never', '{flow}', 'NOT_READY', NULL, NULL)"
        ),
        format!(
            "INSERT INTO worker (id, created, updated, name, work_pool_id, last_heartbeat_time, heartbeat_interval_seconds, status) VALUES \
                 ('00000000-0000-4000-8000-000000000006', {now}, {now}, 'quick', '00000000-0000-4000-8000-000000000001', {now}, 10, 'ONLINE'), \
                 ('00000000-0000-4000-8000-000000000007', {now}, {now}, 'silent', '00000000-0000-4000-8000-000000000001', {now}, NULL, 'ONLINE')"
        ),
    ] {
        fixture.execute(sql).await;
    }
}

#[tokio::test]
async fn the_foreman_tells_what_nobody_serves_any_more_once() {
    for kind in BOTH {
        let fixture = Fixture::new(kind).await;
        pool(&fixture).await;
        let service = Foreman::new(fixture.lead.app.settings().services.foreman.clone());
        let online = "SELECT count(*) FROM worker WHERE status = 'ONLINE'";
        fixture.pass(29);
        assert_eq!((fixture.tick(&service).await.items, fixture.number(online).await), (0, 2));
        fixture.pass(2);
        assert_eq!((fixture.tick(&service).await.items, fixture.number(online).await), (1, 1), "three heartbeats of 10 s");
        fixture.pass(28);
        assert_eq!(fixture.tick(&service).await.items, 0);
        fixture.pass(2);
        assert_eq!(fixture.tick(&service).await.items, 3, "two deployments and a queue were not polled for 60 s");
        fixture.pass(30);
        assert_eq!(fixture.tick(&service).await.items, 2, "the other worker, and with it the pool");
        assert_eq!(fixture.tick(&service).await.items, 0);
        let mut names = fixture.event_names().await;
        names.sort();
        let not_ready =
            ["prefect.deployment.not-ready", "prefect.deployment.not-ready", "prefect.work-pool.not-ready", "prefect.work-queue.not-ready"];
        assert_eq!(names, not_ready);
        let events = fixture.events().await;
        let of_pool = events.iter().find(|event| event["event"] == "prefect.work-pool.not-ready").expect("told");
        assert_eq!(fixture.text("SELECT last_status_event_id FROM work_pool").await, of_pool["id"].as_str().expect("an id"));
        assert_eq!(
            fixture.number(format!("SELECT count(*) FROM deployment WHERE updated = {}", text(start()))).await,
            3,
            "nobody schedules them anew"
        );
    }
}

#[tokio::test]
async fn slots_of_expired_leases_come_back_and_the_count_is_always_what_is_leased() {
    for kind in BOTH {
        let fixture = Fixture::new(kind).await;
        let service = Repossessor::new(Duration::from_secs(15), Duration::ZERO);
        let (one, two) = (fixture.limit("one", 10).await, fixture.limit("two", 10).await);
        let waits = Context::server(fixture.now(), &fixture.lead.app.settings().orchestration).waits();
        let take = async |limits: &[ConcurrencyLimitId], count, minutes| {
            let mut tx = fixture.begin().await;
            let lease = leases::take(&mut tx, limits, count, TimeDelta::minutes(minutes), None, fixture.now(), waits).await;
            tx.commit().await.expect("committed");
            lease.expect("a try").expect("a lease")
        };
        take(&[one, two], 2, 1).await;
        let renewed = take(&[one], 3, 1).await;
        take(&[two], 1, 10).await;
        fixture.pass(30);
        let mut tx = fixture.begin().await;
        assert!(leases::renew(&mut tx, renewed, TimeDelta::minutes(10), fixture.now()).await.expect("renewed"));
        tx.commit().await.expect("committed");
        fixture.pass(31);
        assert_eq!(fixture.tick(&service).await, Done { items: 1, more: false });
        assert_eq!((fixture.taken(one).await, fixture.taken(two).await, fixture.leases().await), (3, 1, 2));
        assert_eq!(fixture.tick(&service).await, Done::default());

        // Another program took slots, or gave some back that are leased here.
        fixture.execute(format!("UPDATE concurrency_limit_v2 SET active_slots = 7 WHERE id = '{one}'")).await;
        fixture.execute(format!("UPDATE concurrency_limit_v2 SET active_slots = 0 WHERE id = '{two}'")).await;
        assert_eq!(fixture.tick(&service).await.items, 2);
        assert_eq!((fixture.taken(one).await, fixture.taken(two).await), (7, 1), "4 are kept for one lease, 1 is held");
        assert_eq!(fixture.tick(&service).await, Done::default());
        fixture.pass(301);
        assert_eq!(fixture.tick(&service).await.items, 1);
        assert_eq!((fixture.taken(one).await, fixture.taken(two).await), (3, 1));
    }
}

#[tokio::test]
async fn a_node_whose_clock_jumps_ends_no_lease_and_keeps_none() {
    let fixture = Fixture::on(Kind::Postgres, |store| store).await;
    let service = Repossessor::new(Duration::from_secs(15), Duration::ZERO);
    let limit = fixture.limit("one", 10).await;
    let waits = Context::server(fixture.now(), &fixture.lead.app.settings().orchestration).waits();
    let take = async |slots, lasting| {
        let mut tx = fixture.begin().await;
        let lease = leases::take(&mut tx, &[limit], slots, lasting, None, fixture.now(), waits).await.expect("a try").expect("a lease");
        tx.commit().await.expect("committed");
        lease
    };
    let renewed = take(1, TimeDelta::minutes(5)).await;
    take(2, TimeDelta::minutes(5)).await;
    fixture.clock.advance(TimeDelta::days(36_500));
    assert_eq!(fixture.tick(&service).await, Done::default(), "none has run out");
    // What a node takes and renews while its clock is ahead lasts no longer for it.
    take(4, TimeDelta::milliseconds(100)).await;
    let mut tx = fixture.begin().await;
    assert!(leases::renew(&mut tx, renewed, TimeDelta::milliseconds(100), fixture.now()).await.expect("a statement"));
    tx.commit().await.expect("committed");
    fixture.clock.advance(TimeDelta::days(-73_000));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while fixture.taken(limit).await != 2 {
        assert!(tokio::time::Instant::now() < deadline, "{} slots are still taken", fixture.taken(limit).await);
        fixture.tick(&service).await;
    }
}

#[tokio::test]
async fn runs_that_another_server_gave_slots_keep_them_under_the_leases_that_they_know() {
    for kind in BOTH {
        let fixture = Fixture::new(kind).await;
        let limit = fixture.limit("deployment", 5).await;
        pool(&fixture).await;
        let deployment = "00000000-0000-4000-8000-000000000004";
        fixture.execute(format!("UPDATE deployment SET concurrency_limit_id = '{limit}' WHERE id = '{deployment}'")).await;
        let theirs = LeaseId(Uuid::new_v4());
        let mut state = fixture.state(StateType::Running);
        state.state_details.deployment_concurrency_lease_id = Some(theirs);
        let run = fixture.flow_run(state, |run| run.deployment_id = Some(deployment.parse().expect("an id"))).await;
        fixture.execute(format!("UPDATE concurrency_limit_v2 SET active_slots = 1 WHERE id = '{limit}'")).await;
        let service = Repossessor::new(Duration::from_secs(15), Duration::ZERO);
        assert_eq!(fixture.tick(&service).await.items, 1);
        let mut tx = fixture.begin().await;
        assert!(leases::renew(&mut tx, theirs, TimeDelta::minutes(5), fixture.now()).await.expect("a statement"), "its client can renew");
        tx.commit().await.expect("committed");
        // A forced state names no lease; the slot is found by who holds it.
        fixture.execute(format!("UPDATE flow_run_state SET state_details = '{{}}' WHERE flow_run_id = '{run}'")).await;
        fixture.pass(1);
        fixture.set(run, fixture.state(StateType::Completed)).await;
        assert_eq!((fixture.taken(limit).await, fixture.leases().await), (0, 0));
    }
}

#[tokio::test]
async fn slots_without_a_lease_are_counted_by_their_row_too() {
    for kind in BOTH {
        let fixture = Fixture::new(kind).await;
        let id = fixture.limit("one", 10).await;
        let waits = Context::server(fixture.now(), &fixture.lead.app.settings().orchestration).waits();
        let read =
            async |tx: &mut Tx| concurrency_limits::read(tx, &concurrency_limits::Key::Id(id)).await.expect("a read").expect("a limit");
        let mut seen = Vec::new();
        for step in 0..6 {
            let mut tx = fixture.begin().await;
            let (limit, now) = (read(&mut tx).await, fixture.now());
            match step {
                0 => assert!(slots::take(&mut tx, &[limit], 4, now, waits).await.expect("taken")),
                1 => drop(leases::take(&mut tx, &[id], 3, TimeDelta::minutes(1), None, now, waits).await.expect("a try")),
                2 => slots::give_back(&mut tx, &[id], 1, None, now, waits).await.expect("given back"),
                // More than nobody leased: what is leased stays taken.
                3 => slots::give_back(&mut tx, &[id], 9, None, now, waits).await.expect("given back"),
                4 | 5 => {
                    let wanted = if step == 4 { 5 } else { 1 };
                    slots::set(&mut tx, &limit, wanted, now).await.expect("set");
                    let change = crate::model::concurrency::ConcurrencyLimitV2Update {
                        active_slots: crate::model::Patch::Value(wanted),
                        ..Default::default()
                    };
                    concurrency_limits::update(&mut tx, &concurrency_limits::Key::Id(id), now, &change).await.expect("changed");
                }
                _ => unreachable!(),
            }
            tx.commit().await.expect("committed");
            let drifted = slots::drifted(&mut fixture.lead.app.read("test").await.expect("a connection"), 9).await.expect("a look");
            assert!(drifted.is_empty(), "step {step}");
            seen.push((fixture.taken(id).await, fixture.leases().await));
        }
        // After the last step the client's lease holds nothing and can still be renewed; one slot is nobody's.
        assert_eq!(seen, [(4, 1), (7, 2), (6, 2), (3, 1), (5, 2), (1, 2)]);
    }
}

#[tokio::test]
async fn the_vacuum_takes_what_is_old_and_nothing_else() {
    for kind in BOTH {
        let fixture = Fixture::new(kind).await;
        let settings = fixture.lead.app.settings();
        let now = fixture.now();
        let days = |days: i64| text(now - TimeDelta::days(days));
        for (at, (name, age)) in
            [("prefect.flow-run.heartbeat", 8), ("a", 8), ("a", 6), ("prefect.flow-run.heartbeat", 6)].iter().enumerate()
        {
            let id = format!("00000000-0000-4000-8000-00000000010{at}");
            let occurred = days(*age);
            fixture
                .execute(format!(
                    "INSERT INTO events (id, created, updated, occurred, event, resource_id, resource, related_resource_ids, related, payload, \
                     received, recorded) VALUES ('{id}', {occurred}, {occurred}, {occurred}, '{name}', 'r', '{{}}', '[]', '[]', '{{}}', \
                     {occurred}, {occurred})"
                ))
                .await;
            fixture
                .execute(format!(
                    "INSERT INTO event_resources (id, created, updated, occurred, resource_id, resource_role, resource, event_id) VALUES \
                     ('00000000-0000-4000-8000-00000000020{at}', {occurred}, {occurred}, {occurred}, 'r', '', '{{}}', '{id}')"
                ))
                .await;
        }
        let service = EventVacuum::new(&settings.services.vacuum, settings.events.retention_period);
        assert_eq!((fixture.drain(&service).await, fixture.drain(&service).await), (2, 0));
        assert_eq!(fixture.number("SELECT count(*) FROM events").await, 2);
        assert_eq!(fixture.number("SELECT count(*) FROM event_resources").await, 2);

        fixture.pass(-91 * 86_400);
        let (old, inner) = {
            let old = fixture.flow_run(fixture.state(StateType::Completed), |_| ()).await;
            let task = fixture.task_run(old, "a", fixture.state(StateType::Completed)).await;
            (old, fixture.flow_run(fixture.state(StateType::Completed), |run| run.parent_task_run_id = Some(task)).await)
        };
        let running = fixture.flow_run(fixture.state(StateType::Running), |_| ()).await;
        fixture.pass(91 * 86_400);
        let young = fixture.flow_run(fixture.state(StateType::Completed), |_| ()).await;
        let gone = Uuid::new_v4();
        let now = text(now);
        for (at, run) in [old.0, running.0, young.0, gone, gone].into_iter().enumerate() {
            fixture
                .execute(format!(
                    "INSERT INTO log (id, created, updated, name, level, flow_run_id, message, timestamp) VALUES \
                     ('00000000-0000-4000-8000-00000000030{at}', {now}, {now}, 'n', 20, '{run}', 'm', {now})"
                ))
                .await;
            let key = if run == gone || run == young.0 { "'shared'" } else { "NULL" };
            fixture
                .execute(format!(
                    "INSERT INTO artifact (id, created, updated, key, flow_run_id) VALUES \
                     ('00000000-0000-4000-8000-00000000040{at}', {now}, {now}, {key}, '{run}')"
                ))
                .await;
        }
        for (at, key, latest) in [(0, "shared", 3), (1, "lost", 4)] {
            fixture
                .execute(format!(
                    "INSERT INTO artifact_collection (id, created, updated, key, latest_id) VALUES \
                     ('00000000-0000-4000-8000-00000000050{at}', {now}, {now}, '{key}', '00000000-0000-4000-8000-00000000040{latest}')"
                ))
                .await;
        }
        let service = RunVacuum::new(&settings.services.vacuum);
        let first = fixture.drain(&service).await;
        assert!(first > 0);
        assert_eq!(fixture.drain(&service).await, 1, "what a deleted run contained is part of no other any more");
        assert_eq!(fixture.drain(&service).await, 0);
        let left: BTreeSet<String> = [running, young].iter().map(ToString::to_string).collect();
        let mut found = BTreeSet::new();
        for id in [old, running, young, inner] {
            if fixture.number(format!("SELECT count(*) FROM flow_run WHERE id = '{id}'")).await == 1 {
                found.insert(id.to_string());
            }
        }
        assert_eq!(found, left);
        assert_eq!(fixture.number(format!("SELECT count(*) FROM log WHERE flow_run_id = '{gone}'")).await, 0);
        assert_eq!(fixture.number(format!("SELECT count(*) FROM artifact WHERE flow_run_id = '{gone}'")).await, 0);
        assert_eq!(fixture.number(format!("SELECT count(*) FROM artifact WHERE flow_run_id = '{young}'")).await, 1);
        assert_eq!(
            fixture.text("SELECT latest_id FROM artifact_collection WHERE key = 'shared'").await,
            "00000000-0000-4000-8000-000000000402"
        );
        assert_eq!(fixture.number("SELECT count(*) FROM artifact_collection").await, 1);
        // The log lines of runs that were deleted go at once; those of the others stay.
        fixture.drain(&RunLogs { period: PERIOD }).await;
        assert_eq!(fixture.number("SELECT count(*) FROM log").await, 2);
    }
}

#[tokio::test]
async fn no_service_writes_in_an_epoch_that_is_over() {
    for kind in BOTH {
        let fixture = Fixture::new(kind).await;
        pool(&fixture).await;
        let mut paused = fixture.state(StateType::Paused);
        paused.state_details.pause_timeout = Some(fixture.now());
        fixture.flow_run(paused, |_| ()).await;
        fixture.flow_run(fixture.state(StateType::Cancelling), |_| ()).await;
        fixture.flow_run(State::scheduled(fixture.now(), fixture.now()), |_| ()).await;
        let parent = fixture.flow_run(fixture.state(StateType::Cancelled), |_| ()).await;
        let task = fixture.task_run(parent, "a", fixture.state(StateType::Running)).await;
        fixture.flow_run(fixture.state(StateType::Running), |run| run.parent_task_run_id = Some(task)).await;
        let id = fixture.limit("one", 1).await;
        fixture.execute(format!("UPDATE concurrency_limit_v2 SET active_slots = 1 WHERE id = '{id}'")).await;
        fixture.pass(400);
        let before = fixture.event_names().await.len();
        fixture.advance_fence(2).await;
        let mut fenced = Vec::new();
        for service in table(&fixture.lead.app) {
            let Service::Tick(tick) = service else { continue };
            match tick.tick(&fixture.lead).await {
                Err(ServiceError::Store(StoreError::Fenced { held: 1, current: 2 })) => fenced.push(tick.name()),
                // The one writes nothing but what is written already, the other has no call to make.
                Ok(done) if ["outbox_sweeper", "action_calls"].contains(&tick.name()) => assert_eq!(done, Done::default()),
                other => panic!("{}: {other:?}", tick.name()),
            }
        }
        assert!(fenced.len() >= 12, "{fenced:?}");
        assert_eq!(fixture.event_names().await.len(), before, "an event was made");
        assert_eq!((fixture.taken(id).await, fixture.leases().await), (1, 0));
        assert_eq!(fixture.number("SELECT count(*) FROM flow_run WHERE state_name IN ('Late', 'Failed')").await, 0);
    }
}

/// Panics a few times, then works.
struct Clumsy(std::sync::atomic::AtomicU32);

#[async_trait]
impl Tick for Clumsy {
    fn name(&self) -> &'static str {
        "clumsy"
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        let mut tx = lead.begin("clumsy").await?;
        tx.execute_sql("DELETE FROM flow".into(), sea_query::Values(Vec::new())).await?;
        assert!(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= 2, "clumsy");
        tx.commit().await?;
        Ok(Done { items: 1, more: false })
    }
}

#[tokio::test]
async fn a_panic_in_a_service_is_its_error_and_its_next_tick_comes() {
    let fixture = Fixture::new(Kind::Sqlite).await;
    let (board, service) = (super::status::Board::default(), Clumsy(Default::default()));
    board.started(service.name(), PERIOD, fixture.now());
    for _ in 0..2 {
        let result = driver::run_tick(&fixture.lead, &service, &board).await;
        assert!(matches!(&result, Err(ServiceError::Panicked(text)) if text == "clumsy"), "{result:?}");
        let told = board.list(fixture.now()).remove(0);
        assert_eq!((told.last_success, told.error.as_deref()), (None, Some("panicked: clumsy")));
        assert_eq!(fixture.number("SELECT count(*) FROM flow").await, 1, "its transaction is rolled back");
    }
    driver::run_tick(&fixture.lead, &service, &board).await.expect("it works");
    assert_eq!(board.list(fixture.now()).remove(0).error, None);
    assert_eq!(fixture.number("SELECT count(*) FROM flow").await, 0);
}

/// Panics over one entry.
struct Allergic {
    to: Uuid,
    taken: parking_lot::Mutex<Vec<Uuid>>,
}

#[async_trait]
impl Consume for Allergic {
    fn name(&self) -> &'static str {
        "allergic"
    }

    fn topic(&self) -> Topic {
        Topic::Events
    }

    fn batch_entries(&self) -> usize {
        100
    }

    async fn consume(&self, _: &Lead, _: &mut Tx, entries: &[Entry]) -> Result<(), ServiceError> {
        assert!(entries.iter().all(|entry| entry.id != self.to), "allergic");
        self.taken.lock().extend(entries.iter().map(|entry| entry.id));
        Ok(())
    }
}

#[tokio::test]
async fn an_entry_over_which_a_consumer_panics_is_put_aside_and_the_rest_goes_on() {
    let fixture = Fixture::new(Kind::Sqlite).await;
    let ids: Vec<Uuid> = (1..=9).map(Uuid::from_u128).collect();
    let messages = ids.iter().map(|id| crate::bus::Message { id: *id, payload: "{}".into() }).collect();
    fixture.bus.publish(Topic::Events, messages).await.expect("published");
    let service = Allergic { to: ids[4], taken: Default::default() };
    let letters = format!("SELECT count(*) FROM {}", fixture.own("dead_letter"));
    let done = async {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while service.taken.lock().len() < 8 || fixture.number(letters.as_str()).await < 1 {
            assert!(tokio::time::Instant::now() < deadline, "the rest does not go on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let board = super::status::Board::default();
    tokio::select! {
        () = consumer::run(&fixture.lead, &service, &board) => unreachable!("it runs until dropped"),
        () = done => {}
    }
    let rest: Vec<Uuid> = ids.iter().copied().filter(|id| *id != ids[4]).collect();
    assert_eq!(*service.taken.lock(), rest);
}

/// What a random client does with the slots of random limits.
#[tokio::test]
async fn the_count_is_what_is_leased_after_every_one_of_many_random_steps() {
    let long = std::env::var("PRAETOR_TEST_LONG").is_ok_and(|value| value == "1");
    let seed = std::env::var("PRAETOR_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    for kind in BOTH {
        let steps = if long { 10_000 } else { 1_000 };
        println!("seed {seed}, {steps} steps on {kind:?}");
        let mut rng = StdRng::seed_from_u64(seed);
        let fixture = Fixture::new(kind).await;
        let service = Repossessor::new(Duration::from_secs(15), Duration::ZERO);
        let waits = Context::server(fixture.now(), &fixture.lead.app.settings().orchestration).waits();
        let mut limits = Vec::new();
        for (name, size) in [("a", 3), ("b", 8), ("c", 40)] {
            limits.push(fixture.limit(name, size).await);
        }
        let (mut held, mut bare): (Vec<LeaseId>, Vec<ConcurrencyLimitId>) = (Vec::new(), Vec::new());
        let (mut crashed, mut refused, mut expired) = (0, 0, 0);
        for step in 0..steps {
            fixture.clock.advance(TimeDelta::milliseconds(rng.random_range(0..2_000)));
            let now = fixture.now();
            let crash = rng.random_bool(0.15);
            let mut tx = fixture.begin().await;
            #[expect(clippy::type_complexity, reason = "said once")]
            let mut then: Box<dyn FnOnce(&mut Vec<LeaseId>, &mut Vec<ConcurrencyLimitId>)> = Box::new(|_, _| ());
            match rng.random_range(0..10) {
                0..4 => {
                    let some = limits.iter().copied().filter(|_| rng.random_bool(0.5)).collect::<Vec<_>>();
                    let lasting = TimeDelta::seconds(rng.random_range(60..400));
                    match leases::take(&mut tx, &some, rng.random_range(1..3), lasting, None, now, waits).await.expect("a try") {
                        Some(lease) => then = Box::new(move |held, _| held.push(lease)),
                        None => refused += 1,
                    }
                }
                4 => {
                    let limit = *limits.choose(&mut rng).expect("three");
                    let row =
                        concurrency_limits::read(&mut tx, &concurrency_limits::Key::Id(limit)).await.expect("a read").expect("a limit");
                    if slots::take(&mut tx, &[row], 1, now, waits).await.expect("a try") {
                        then = Box::new(move |_, bare| bare.push(limit));
                    }
                }
                5 if !bare.is_empty() => {
                    let at = rng.random_range(0..bare.len());
                    slots::give_back(&mut tx, &[bare[at]], 1, Some(1.0), now, waits).await.expect("given back");
                    then = Box::new(move |_, bare| {
                        bare.remove(at);
                    });
                }
                6 | 7 if !held.is_empty() => {
                    let at = rng.random_range(0..held.len());
                    leases::give_back(&mut tx, held[at], Occupancy::Counts, now, waits).await.expect("given back");
                    // A client that forgets it says so again later.
                    if rng.random_bool(0.9) {
                        then = Box::new(move |held, _| {
                            held.remove(at);
                        });
                    }
                }
                8 if !held.is_empty() => {
                    let lease = *held.choose(&mut rng).expect("some");
                    leases::renew(&mut tx, lease, TimeDelta::seconds(120), now).await.expect("a statement");
                }
                _ => {
                    drop(tx);
                    expired += fixture.tick(&service).await.items;
                    tx = fixture.begin().await;
                }
            }
            if crash {
                // The node dies before its commit, or its client before the answer.
                crashed += 1;
                if rng.random_bool(0.5) {
                    tx.commit().await.expect("committed");
                }
            } else {
                tx.commit().await.expect("committed");
                then(&mut held, &mut bare);
            }
            let drifted = slots::drifted(&mut fixture.lead.app.read("test").await.expect("a connection"), 9).await.expect("a look");
            assert!(drifted.is_empty(), "seed {seed}, step {step}");
        }
        assert!(crashed > steps / 20 && refused > 0 && expired > 0, "{crashed} crashes, {refused} refused, {expired} expired");
        // All clients are gone: what they leased runs out, what they took without a lease is given back by an operator.
        fixture.pass(1_000);
        fixture.drain(&service).await;
        let mut tx = fixture.begin().await;
        for id in &limits {
            let row = concurrency_limits::read(&mut tx, &concurrency_limits::Key::Id(*id)).await.expect("a read").expect("a limit");
            slots::give_back(&mut tx, &[*id], row.active_slots, None, fixture.now(), waits).await.expect("given back");
        }
        tx.commit().await.expect("committed");
        for id in limits {
            assert_eq!(fixture.taken(id).await, 0, "seed {seed}");
        }
        assert_eq!(fixture.leases().await, 0, "seed {seed}");
        println!("{steps} steps, {crashed} crashes, {refused} refusals, {expired} leases ran out; all slots are back");
    }
}
