//! Hands the background task runs that wait in the database to the task workers connected to this node.
//!
//! One task per node claims for all of its idle task workers at once, so that the database is asked as often as there is
//! something to do, not as often as there are workers. It looks when a hint says that a run of their keys is ready, on
//! whatever node it was made, when a worker becomes idle, and now and then without a reason. What a worker has not
//! acknowledged is given back as soon as its connection ends, and taken by another node where this one dies.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use crate::api::error::{ApiError, chain};
use crate::api::hints;
use crate::app::App;
use crate::bus::{Position, Topic};
use crate::config::Planted;
use crate::id::TaskRunId;
use crate::limits;
use crate::model::task_run::TaskRun;
use crate::store::task_deliveries::{self as store, Rank};
use crate::store::{StoreError, task_runs};

/// A handle; clones are the same queue.
#[derive(Clone)]
pub struct TaskQueue {
    requests: mpsc::Sender<Request>,
}

/// A task worker that is idle.
struct Request {
    /// Sorted.
    keys: Arc<[String]>,
    reply: oneshot::Sender<Delivery>,
}

/// What came of deliveries and is not yet written.
#[derive(Default)]
struct Settled {
    outcomes: Mutex<Vec<(TaskRunId, bool)>>,
    changed: Notify,
}

/// A task run for one task worker. Dropped without [`Delivery::acknowledge`] it goes to another one.
pub struct Delivery {
    /// The run, in the state that made it ready.
    pub run: TaskRun,
    acknowledged: bool,
    settled: Arc<Settled>,
}

impl Delivery {
    /// The worker has it.
    pub fn acknowledge(mut self) {
        self.acknowledged = !Planted::AckIgnored.is_here();
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.settled.outcomes.lock().push((self.run.id, self.acknowledged));
        self.settled.changed.notify_one();
    }
}

impl TaskQueue {
    /// Starts the queue of this node.
    pub fn start(app: &App) -> Self {
        let (requests, receiver) = mpsc::channel(limits::TASK_REQUESTS);
        let desk = Desk {
            app: app.clone(),
            owner: crate::id::v4(),
            _open: requests.clone(),
            receiver,
            waiting: VecDeque::new(),
            held: HashSet::new(),
            settled: Arc::default(),
            position: app.bus().last(&Topic::TaskRuns),
        };
        app.tasks().spawn_vital("task_queue", desk.run());
        Self { requests }
    }

    /// Waits for a run of one of the keys; `None` where the node stops. To drop the future is to stop waiting.
    pub async fn next(&self, keys: Arc<[String]>) -> Option<Delivery> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request { keys, reply }).await.ok()?;
        answer.await.ok()
    }
}

/// The task behind the handles.
struct Desk {
    app: App,
    /// This process, in the database.
    owner: Uuid,
    /// The handles go before the node does: what they left is still to be settled then.
    _open: mpsc::Sender<Request>,
    receiver: mpsc::Receiver<Request>,
    /// The longest waiting first.
    waiting: VecDeque<Request>,
    /// Handed out and not settled.
    held: HashSet<TaskRunId>,
    settled: Arc<Settled>,
    /// Hints up to here were looked at.
    position: Position,
}

/// How long the last deliveries may take to be settled at the end of the node: longer than their sockets to close.
const LAST_WORDS: Duration = limits::SOCKET_CLOSE.saturating_add(Duration::from_secs(1));

impl Desk {
    async fn run(mut self) {
        let app = self.app.clone();
        let stopping = app.tasks().stopping();
        let settled = self.settled.clone();
        let mut requests = Vec::new();
        let mut look_at = Instant::now();
        let mut renew_at = Instant::now();
        loop {
            let look = tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                () = settled.changed.notified() => false,
                // At least one: a sender is held here.
                _ = self.receiver.recv_many(&mut requests, limits::TASK_REQUESTS) => {
                    if self.waiting.is_empty() {
                        // What was hinted while nobody waited is found by the look that follows.
                        self.position = app.bus().last(&Topic::TaskRuns);
                    }
                    self.waiting.extend(requests.drain(..));
                    true
                }
                hinted = hints::wait(&app, &Topic::TaskRuns, self.position), if !self.waiting.is_empty() => {
                    self.position = hinted.position;
                    hinted.all || self.waiting.iter().any(|waiting| waiting.keys.iter().any(|key| hinted.bodies.contains(key)))
                }
                () = tokio::time::sleep_until(look_at), if !self.waiting.is_empty() => true,
                () = tokio::time::sleep_until(renew_at), if !self.held.is_empty() => false,
            };
            self.waiting.retain(|request| !request.reply.is_closed());
            let renew = Instant::now() >= renew_at;
            if renew {
                renew_at = Instant::now() + limits::TASK_CLAIM_RENEWAL;
            }
            let look = (look || Instant::now() >= look_at) && !self.waiting.is_empty();
            if look {
                look_at = Instant::now() + limits::TASK_LOOK;
            }
            if let Err(error) = self.work(look, renew).await {
                tracing::warn!(error = %chain(&error), "the queue of background tasks could not be asked; it will be again");
                tokio::time::sleep(limits::SERVICE_RETRY).await;
                look_at = Instant::now();
                settled.changed.notify_one();
            }
        }
        self.finish().await;
    }

    /// Lets the workers' connections end, and gives back what they did not acknowledge.
    async fn finish(mut self) {
        self.receiver.close();
        self.waiting.clear();
        while self.receiver.recv().await.is_some() {}
        let settled = self.settled.clone();
        let last_words = async {
            while !self.held.is_empty() {
                settled.changed.notified().await;
                if let Err(error) = self.work(false, false).await {
                    tracing::info!(error = %chain(&error), "background tasks stay claimed until that runs out");
                    return;
                }
            }
        };
        if tokio::time::timeout(LAST_WORDS, last_words).await.is_err() {
            tracing::info!(held = self.held.len(), "background tasks stay claimed until that runs out");
        }
    }

    /// Writes what was settled, renews, claims, and hands out: one transaction.
    async fn work(&mut self, look: bool, renew: bool) -> Result<(), StoreError> {
        let outcomes = self.settled.outcomes.lock().clone();
        if !look && outcomes.is_empty() && (!renew || self.held.is_empty()) {
            return Ok(());
        }
        let now = self.app.now();
        let until = now + TimeDelta::from_std(limits::TASK_CLAIM).unwrap_or(TimeDelta::MAX);
        let of =
            |acknowledged: bool| outcomes.iter().filter(|outcome| outcome.1 == acknowledged).map(|outcome| outcome.0).collect::<Vec<_>>();
        let mut tx = self.app.begin("task_queue").await?;
        store::acknowledge(&mut tx, self.owner, &of(true), now).await?;
        store::release(&mut tx, self.owner, &of(false)).await?;
        if renew {
            let held: Vec<TaskRunId> = self.held.iter().copied().collect();
            store::renew(&mut tx, self.owner, &held, until).await?;
        }
        let mut claimed: HashMap<Arc<[String]>, VecDeque<TaskRunId>> = HashMap::new();
        if look {
            let mut groups: HashMap<&Arc<[String]>, u64> = HashMap::new();
            for request in &self.waiting {
                *groups.entry(&request.keys).or_default() += 1;
            }
            for (keys, idle) in groups {
                let found = store::claim(&mut tx, self.owner, keys, idle.min(limits::TASK_CLAIMS), until, now).await?;
                if !found.is_empty() {
                    claimed.insert(keys.clone(), found.into_iter().map(|one| one.id).collect());
                }
            }
        }
        let ids: Vec<TaskRunId> = claimed.values().flatten().copied().collect();
        let mut runs: HashMap<TaskRunId, TaskRun> =
            task_runs::read_many(&mut tx, &ids).await?.into_iter().map(|run| (run.id, run)).collect();
        tx.commit().await?;
        // More may have come meanwhile, behind these.
        self.settled.outcomes.lock().drain(..outcomes.len());
        for (id, _) in &outcomes {
            self.held.remove(id);
        }
        let mut still_waiting = VecDeque::with_capacity(self.waiting.len());
        for request in std::mem::take(&mut self.waiting) {
            let run = claimed.get_mut(&request.keys).and_then(VecDeque::pop_front).and_then(|id| runs.remove(&id));
            match run {
                None => still_waiting.push_back(request),
                Some(run) => {
                    self.held.insert(run.id);
                    // One that is gone drops the delivery, which gives it back.
                    let _gone = request.reply.send(Delivery { run, acknowledged: false, settled: self.settled.clone() });
                }
            }
        }
        self.waiting = still_waiting;
        Ok(())
    }
}

/// Waits until a run of the key may be added to those that wait: the reference, too, lets a request wait while the queue
/// of its task key is full.
///
/// # Errors
/// [`ApiError::Unavailable`] where there is no room in time; the client comes again.
pub async fn room(app: &App, task_key: &str, rank: Rank) -> Result<(), ApiError> {
    let settings = &app.settings().orchestration;
    let max = match rank {
        Rank::New => settings.max_scheduled_queue_size,
        Rank::Retry => settings.max_retry_queue_size,
    };
    let deadline = Instant::now() + limits::TASK_ROOM;
    let mut pause = Duration::from_millis(50);
    loop {
        if store::has_room(&mut app.read("task_queue.room").await?, task_key, rank, max as u64).await? {
            return Ok(());
        }
        if Instant::now() + pause > deadline {
            return Err(ApiError::Unavailable(format!("{max} runs of the task {task_key} wait for a task worker")));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}
