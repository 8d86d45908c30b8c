//! The engine and the tables, against a SQLite database.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::TimeDelta;
use parking_lot::Mutex;
use serde_json::json;

use super::*;
use crate::config::{Settings, Variables};
use crate::id::{ConcurrencyLimitId, FlowId};
use crate::model::concurrency::ConcurrencyLimitV2Create;
use crate::model::flow::FlowCreate;
use crate::model::state::SetStateStatus;
use crate::model::{flow_run, task_run};
use crate::orchestration::rule::{Done, States};
use crate::store::leases::{self, Occupancy};
use crate::store::migrate;
use crate::store::url::DatabaseUrl;
use crate::store::{Outgoing, Store, StoreOptions, concurrency_limits, flow_runs, flows, outbox, task_runs};

struct Fixture {
    store: Store,
    settings: Settings,
    _directory: tempfile::TempDir,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(seconds)
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("prefect.db");
        migrate::upgrade(&DatabaseUrl::sqlite_file(&path)).await.expect("a new database is made");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
        let settings = Settings::load(&Variables::default()).expect("defaults are right");
        Self { store: Store::sqlite(options, &StoreOptions::default()), settings, _directory: directory }
    }

    fn context(&self, now: Timestamp) -> Context<'_> {
        Context::server(now, &self.settings.orchestration)
    }

    async fn begin(&self) -> Tx {
        self.store.begin("test").await.expect("a transaction")
    }

    /// A flow run without a state.
    async fn flow_run(&self, tx: &mut Tx, change: impl FnOnce(&mut flow_run::FlowRun)) -> FlowRunId {
        let flow = FlowId::fresh();
        let create = FlowCreate { name: flow.to_string(), tags: Vec::new(), labels: Default::default() };
        flows::insert(tx, flow, at(0), &create).await.expect("a flow");
        let mut run = flow_run::FlowRun::new(flow, at(0));
        change(&mut run);
        flow_runs::insert(tx, &run).await.expect("a flow run");
        run.id
    }

    async fn force(&self, tx: &mut Tx, id: FlowRunId, state: State) {
        set_flow_run_state(tx, &self.context(state.timestamp), id, state, FlowPolicy::Minimal).await.expect("a forced state");
    }

    async fn propose(&self, tx: &mut Tx, id: FlowRunId, state: State) -> OrchestrationResult {
        set_flow_run_state(tx, &self.context(state.timestamp), id, state, FlowPolicy::Core).await.expect("a verdict")
    }
}

/// What becomes of a transition: accepted, the current state kept, another one put in its place, aborted, put off.
fn letter(result: &OrchestrationResult, from: Option<StateType>) -> char {
    match result.status {
        SetStateStatus::Accept => 'a',
        SetStateStatus::Reject if result.state.as_ref().map(|state| state.kind) == from => 'r',
        SetStateStatus::Reject => 'R',
        SetStateStatus::Abort => 'x',
        SetStateStatus::Wait => 'w',
    }
}

/// Rows: from; columns: to, in the order of [`StateType::ALL`]. Recorded from the reference, for runs without a deployment.
const CORE_FLOW_VERDICTS: [(Option<StateType>, &str); 10] = [
    (None, "aaaaaaaxa"),
    (Some(StateType::Scheduled), "aaaaaaarR"),
    (Some(StateType::Pending), "axaaaaara"),
    (Some(StateType::Running), "axaaaaaaa"),
    (Some(StateType::Completed), "xaaaaaxxx"),
    (Some(StateType::Failed), "xaaaaaxxx"),
    (Some(StateType::Cancelled), "xxaaaaxxx"),
    (Some(StateType::Crashed), "xaaaaaxxx"),
    (Some(StateType::Paused), "araaaaarr"),
    (Some(StateType::Cancelling), "rrrrrarrr"),
];

#[tokio::test]
async fn every_transition_has_the_reference_s_verdict() {
    let fixture = Fixture::new().await;
    let mut tx = fixture.begin().await;
    for (from, wanted) in CORE_FLOW_VERDICTS {
        let mut verdicts = String::new();
        for to in StateType::ALL {
            let id = fixture.flow_run(&mut tx, |_| ()).await;
            if let Some(from) = from {
                fixture.force(&mut tx, id, State::new(from, at(1))).await;
            }
            let result = fixture.propose(&mut tx, id, State::new(to, at(2))).await;
            verdicts.push(letter(&result, from));
        }
        assert_eq!(verdicts, wanted, "from {from:?}");
    }
}

type Seen = Arc<Mutex<Vec<String>>>;

/// Notes its hooks, and may put another state in place of the proposed one.
struct Noting {
    name: &'static str,
    to: States,
    makes: Option<StateType>,
}

thread_local! {
    static SEEN: Seen = Seen::default();
}

fn note(name: &str, hook: &str) {
    SEEN.with(|seen| seen.lock().push(format!("{name}.{hook}")));
}

#[async_trait]
impl Rule<FlowRun> for Noting {
    fn from(&self) -> States {
        States::ANY
    }

    fn to(&self) -> States {
        self.to
    }

    async fn before(&mut self, _: &mut Tx, context: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        note(self.name, "before");
        if let Some(kind) = self.makes {
            on.reject_with(State::new(kind, context.now), self.name);
        }
        Ok(())
    }

    async fn after(&mut self, _: &mut Tx, _: &Context<'_>, _: &mut Transition<FlowRun>) -> Done {
        note(self.name, "after");
        Ok(())
    }

    async fn cleanup(&mut self, _: &mut Tx, _: &Context<'_>, _: &mut Transition<FlowRun>) -> Done {
        note(self.name, "cleanup");
        Ok(())
    }
}

struct Bystander;

#[async_trait]
impl Transform<FlowRun> for Bystander {
    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, _: &mut Transition<FlowRun>) -> Done {
        note("bystander", "before");
        Ok(())
    }

    async fn after(&mut self, _: &mut Tx, _: &Context<'_>, _: &mut Transition<FlowRun>) -> Done {
        note("bystander", "after");
        Ok(())
    }
}

fn outer() -> Governor<FlowRun> {
    Governor::Rule(Box::new(Noting { name: "outer", to: States::ANY, makes: None }))
}

fn other_type() -> Governor<FlowRun> {
    Governor::Rule(Box::new(Noting { name: "other type", to: States::of(&[StateType::Paused]), makes: None }))
}

fn changes() -> Governor<FlowRun> {
    Governor::Rule(Box::new(Noting { name: "changes", to: States::ANY, makes: Some(StateType::Failed) }))
}

fn changes_and_is_done() -> Governor<FlowRun> {
    let to = States::of(&[StateType::Running]);
    Governor::Rule(Box::new(Noting { name: "is done", to, makes: Some(StateType::Failed) }))
}

fn bystander() -> Governor<FlowRun> {
    Governor::Transform(Box::new(Bystander))
}

/// The hooks that run on RUNNING under a policy, in order.
async fn hooks(policy: &[Line<FlowRun>]) -> Vec<String> {
    let fixture = Fixture::new().await;
    let mut tx = fixture.begin().await;
    let id = fixture.flow_run(&mut tx, |_| ()).await;
    let (run, initial) = transitions::lock_flow_run(&mut tx, id).await.expect("a read").expect("a run");
    let on = Transition::new(run, initial, State::new(StateType::Running, at(1)));
    SEEN.with(|seen| seen.lock().clear());
    govern(&mut tx, &fixture.context(at(1)), on, policy, &[bystander]).await.expect("a verdict");
    SEEN.with(|seen| std::mem::take(&mut *seen.lock()))
}

#[tokio::test]
async fn rules_are_entered_in_order_and_left_in_reverse() {
    assert_eq!(hooks(&[outer, other_type]).await, ["outer.before", "bystander.before", "bystander.after", "outer.after"]);
}

#[tokio::test]
async fn a_rule_fizzles_when_a_later_one_changes_the_transition() {
    assert_eq!(
        hooks(&[outer, changes, outer]).await,
        ["outer.before", "changes.before", "bystander.before", "bystander.after", "changes.after", "outer.cleanup"]
    );
}

#[tokio::test]
async fn a_rule_that_leaves_a_state_beyond_its_own_is_done() {
    assert_eq!(
        hooks(&[outer, changes_and_is_done]).await,
        ["outer.before", "is done.before", "bystander.before", "bystander.after", "outer.cleanup"]
    );
}

#[tokio::test]
async fn a_state_is_an_event_with_its_id_that_follows_the_one_before() {
    let fixture = Fixture::new().await;
    let mut tx = fixture.begin().await;
    let id = fixture.flow_run(&mut tx, |_| ()).await;
    let pending = fixture.propose(&mut tx, id, State::new(StateType::Pending, at(1))).await.state.expect("a state");
    let running = fixture.propose(&mut tx, id, State::new(StateType::Running, at(1))).await.state.expect("a state");
    let refused = fixture.propose(&mut tx, id, State::new(StateType::Pending, at(2))).await;
    tx.commit().await.expect("a commit");
    assert_eq!(running.timestamp, pending.timestamp + TimeDelta::microseconds(1));
    assert_eq!(refused.state.expect("the state that stays").id, running.id);
    let outgoing = outbox::list(&mut fixture.begin().await, at(60), 10).await.expect("events");
    let mut events: Vec<_> = outgoing
        .into_iter()
        .map(|one| match one {
            Outgoing::Event(event) => event,
            Outgoing::Action(action) => panic!("nothing acts here: {action:?}"),
        })
        .collect();
    events.sort_by_key(|event| event.occurred);
    let told: Vec<_> = events.iter().map(|event| (event.event.as_str(), event.id, event.follows)).collect();
    assert_eq!(told, [("prefect.flow-run.Pending", pending.id.0, None), ("prefect.flow-run.Running", running.id.0, Some(pending.id.0))]);
}

#[tokio::test]
async fn a_failed_run_with_retries_is_scheduled_again_and_keeps_what_it_said() {
    let fixture = Fixture::new().await;
    let mut tx = fixture.begin().await;
    let id = fixture.flow_run(&mut tx, |run| run.empirical_policy.retries = Some(1)).await;
    let mut verdicts = Vec::new();
    for (second, kind) in [(1, StateType::Running), (3, StateType::Failed), (4, StateType::Running), (9, StateType::Failed)] {
        let state = State { data: Some(json!({"type": "reference"})), ..State::new(kind, at(second)).with_message("m") };
        let result = fixture.propose(&mut tx, id, state).await;
        let state = result.state.clone().expect("a state");
        assert_eq!((state.message.as_deref(), state.data), (Some("m"), Some(json!({"type": "reference"}))));
        verdicts.push((result.status, state.name));
    }
    assert_eq!(
        verdicts,
        [
            (SetStateStatus::Accept, "Running".to_owned()),
            (SetStateStatus::Reject, "AwaitingRetry".to_owned()),
            (SetStateStatus::Accept, "Running".to_owned()),
            (SetStateStatus::Accept, "Failed".to_owned()),
        ]
    );
    let run = flow_runs::read(&mut tx, id).await.expect("a read").expect("a run");
    assert_eq!((run.run_count, run.start_time, run.end_time, run.total_run_time), (2, Some(at(1)), Some(at(9)), 7.0));
    assert_eq!(run.empirical_policy.retry_type, None);
}

#[tokio::test]
async fn the_task_run_of_a_subflow_has_its_state() {
    let fixture = Fixture::new().await;
    let mut tx = fixture.begin().await;
    let parent = fixture.flow_run(&mut tx, |_| ()).await;
    let task = task_run::TaskRun::new(Some(parent), "k", "0", at(0));
    task_runs::insert(&mut tx, &task).await.expect("a task run");
    let child = fixture.flow_run(&mut tx, |run| run.parent_task_run_id = Some(task.id)).await;
    let state = fixture.propose(&mut tx, child, State::new(StateType::Running, at(1))).await.state.expect("a state");
    assert_eq!(state.state_details.task_run_id, Some(task.id));
    let (run, told) = transitions::lock_task_run(&mut tx, task.id).await.expect("a read").expect("a task run");
    let told = told.expect("a state");
    assert_eq!((told.kind, told.state_details.child_flow_run_id), (StateType::Running, Some(child)));
    assert_eq!((run.progress.run_count, run.progress.start_time), (1, Some(at(1))));
    assert_ne!(told.id, state.id);
}

async fn limit(tx: &mut Tx, name: &str, limit: i64) -> ConcurrencyLimitId {
    let create =
        ConcurrencyLimitV2Create { active: true, name: name.into(), limit, active_slots: 0, denied_slots: 0, slot_decay_per_second: 0.0 };
    concurrency_limits::insert(tx, at(0), &create).await.expect("a limit").id
}

async fn taken(tx: &mut Tx, id: ConcurrencyLimitId) -> i64 {
    concurrency_limits::read(tx, &concurrency_limits::Key::Id(id)).await.expect("a read").expect("a limit").active_slots
}

#[tokio::test]
async fn slots_are_taken_all_or_none_and_given_back_once() {
    let fixture = Fixture::new().await;
    let waits = fixture.context(at(0)).waits();
    let mut tx = fixture.begin().await;
    let (wide, narrow) = (limit(&mut tx, "wide", 5).await, limit(&mut tx, "narrow", 1).await);
    let both = [wide, narrow];
    let lease = leases::take(&mut tx, &both, 1, TimeDelta::minutes(5), None, at(0), waits).await.expect("a try").expect("a lease");
    assert!(leases::take(&mut tx, &both, 1, TimeDelta::minutes(5), None, at(1), waits).await.expect("a try").is_none());
    assert_eq!((taken(&mut tx, wide).await, taken(&mut tx, narrow).await), (1, 1));
    let listed = leases::list_on(&mut tx, &[narrow]).await.expect("a list");
    let of_narrow: Vec<_> = listed.iter().map(|lease| (lease.id, lease.limits.as_slice(), lease.slots)).collect();
    assert_eq!(of_narrow, [(lease, both.as_slice(), 1)]);
    for (gives, left) in [(true, 0), (false, 0)] {
        assert_eq!(leases::give_back(&mut tx, lease, Occupancy::Counts, at(2), waits).await.expect("a return"), gives);
        assert_eq!((taken(&mut tx, wide).await, taken(&mut tx, narrow).await), (left, left));
    }
}

#[tokio::test]
async fn a_task_run_waits_for_a_slot_of_its_tags_and_gives_it_back() {
    let fixture = Fixture::new().await;
    let mut tx = fixture.begin().await;
    let id = limit(&mut tx, "tag:db", 1).await;
    let mut ids = Vec::new();
    for key in ["0", "1"] {
        let mut run = task_run::TaskRun::new(None, "k", key, at(0));
        run.tags = vec!["db".into(), "free".into()];
        task_runs::insert(&mut tx, &run).await.expect("a task run");
        ids.push(run.id);
    }
    let context = fixture.context(at(1));
    let mut verdicts = Vec::new();
    for (run, kind) in [(0, StateType::Running), (1, StateType::Running), (0, StateType::Completed), (1, StateType::Running)] {
        let state = State::new(kind, at(1));
        let result = set_task_run_state(&mut tx, &context, ids[run], state, TaskPolicy::Core).await.expect("a verdict");
        verdicts.push((result.status, taken(&mut tx, id).await));
    }
    let (accept, wait) = (SetStateStatus::Accept, SetStateStatus::Wait);
    assert_eq!(verdicts, [(accept, 1), (wait, 1), (accept, 0), (accept, 1)]);
}
