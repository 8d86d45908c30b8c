//! Gathers commands of one node and brings them to the log.
//!
//! There is no timer: commands gather while earlier ones are in flight, so a lonely one goes at once and a crowd shares one log
//! entry and one flush. What waits is bounded in bytes; when the bound is reached callers wait, nothing is dropped.
//!
//! An attempt whose outcome is not known, because the leader died or changed, is repeated until the caller's deadline: commands
//! carry ids, or are repeatable by nature, so that a repetition has no second effect. After the deadline the answer is *unknown*,
//! never *failed*. Batches reach a leader in the order in which they were gathered, except for those that had to be repeated.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::forward::Forwarder;
use super::limits;
use super::proposer::{Outcome, Pending};
use crate::bus::BusError;
use crate::bus::command::{Batch, Command, Reply};

/// Bytes that a command or message costs beside its payload, for the bounds of queue and proposal.
pub(super) const OVERHEAD_BYTES: usize = 64;

fn cost(command: &Command) -> usize {
    let payload = match command {
        Command::Publish { messages, .. } => messages.iter().map(|message| message.payload.len() + OVERHEAD_BYTES).sum(),
        Command::SetKey { key, value, .. } => key.len() + value.len(),
        _ => 0,
    };
    payload + OVERHEAD_BYTES
}

/// One command on its way.
struct Waiting {
    command: Command,
    bytes: usize,
    deadline: Instant,
    reply: oneshot::Sender<Result<Reply, BusError>>,
    /// Of the queue's bytes; given back when the command is answered.
    budget: OwnedSemaphorePermit,
}

/// Takes commands from any thread and brings them to the log.
#[derive(Clone)]
pub(super) struct Batcher {
    queue: mpsc::Sender<Waiting>,
    budget: Arc<Semaphore>,
    closed: CancellationToken,
}

impl Batcher {
    /// A batcher, and the end of its queue to be given to [`run`].
    pub(super) fn new() -> (Self, Queue) {
        let (queue, receiver) = mpsc::channel(limits::QUEUE_COMMANDS);
        let batcher = Self { queue, budget: Arc::new(Semaphore::new(limits::QUEUE_BYTES)), closed: CancellationToken::new() };
        (batcher, Queue { receiver, held: None })
    }

    /// Brings one command to the log and waits until it is applied here.
    ///
    /// # Errors
    /// `Unknown` after `limit`, `Closed` when the node stops.
    pub(super) async fn submit(&self, command: Command, limit: Duration) -> Result<Reply, BusError> {
        let deadline = Instant::now() + limit;
        let bytes = cost(&command);
        let (reply, answer) = oneshot::channel();
        let enqueue = async {
            let permits = bytes.min(limits::QUEUE_BYTES) as u32;
            let budget = self.budget.clone().acquire_many_owned(permits).await.map_err(|_| BusError::Closed)?;
            let waiting = Waiting { command, bytes, deadline, reply, budget };
            self.queue.send(waiting).await.map_err(|_| BusError::Closed)
        };
        tokio::select! {
            biased;
            () = self.closed.cancelled() => return Err(BusError::Closed),
            queued = tokio::time::timeout_at(deadline, enqueue) => match queued {
                Ok(result) => result?,
                Err(_) => return Err(BusError::Unknown("the queue of this node is full".into())),
            },
        }
        answer.await.unwrap_or_else(|_| Err(BusError::Unknown("this node stopped in between".into())))
    }

    /// Takes nothing more. What is queued already is still brought to the log.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    /// Resolves when nothing more is taken.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Waits until nothing is queued or in flight.
    pub(super) async fn drained(&self) {
        // All the bytes can only be had when no command holds any.
        drop(self.budget.acquire_many(limits::QUEUE_BYTES as u32).await);
    }
}

/// The receiving end of a [`Batcher`].
pub(super) struct Queue {
    receiver: mpsc::Receiver<Waiting>,
    /// Did not fit into the batch before.
    held: Option<Waiting>,
}

impl Queue {
    /// Waits for a command and takes along what else is there and fits.
    async fn next(&mut self) -> Option<Vec<Waiting>> {
        let first = match self.held.take() {
            Some(held) => held,
            None => self.receiver.recv().await?,
        };
        let mut bytes = first.bytes;
        let mut batch = vec![first];
        while batch.len() < limits::PROPOSAL_COMMANDS {
            let Ok(next) = self.receiver.try_recv() else { break };
            if bytes + next.bytes > limits::PROPOSAL_BYTES {
                self.held = Some(next);
                break;
            }
            bytes += next.bytes;
            batch.push(next);
        }
        Some(batch)
    }
}

/// Brings batches to the log until the node stops.
pub(super) async fn run(core: Arc<Core>, mut queue: Queue) {
    let in_flight = Arc::new(Semaphore::new(limits::PROPOSALS_IN_FLIGHT));
    let forwarder = Arc::new(Forwarder::default());
    let stopping = core.tasks.stopping();
    loop {
        let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
        let waiting = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            waiting = queue.next() => waiting,
        };
        let Some(waiting) = waiting else { return };
        let mut batch = InFlight::new(core.clone(), forwarder.clone(), waiting);
        // The first attempt begins here, so that batches reach the leader in order.
        let attempt = batch.attempt().await;
        core.tasks.spawn("cluster.batch", async move {
            batch.finish(attempt).await;
            drop(permit);
        });
    }
}

/// The answer to one command of a batch, still owed.
struct Owed {
    deadline: Instant,
    reply: oneshot::Sender<Result<Reply, BusError>>,
    _budget: OwnedSemaphorePermit,
}

/// One batch on its way to the log.
struct InFlight {
    core: Arc<Core>,
    forwarder: Arc<Forwarder>,
    encoded: Bytes,
    /// By place in the batch; `None` once answered.
    owed: Vec<Option<Owed>>,
    last_deadline: Instant,
}

enum Attempt {
    Here(Pending),
    There { leader: u64, outcome: oneshot::Receiver<Outcome> },
    Failed(String),
}

impl InFlight {
    fn new(core: Arc<Core>, forwarder: Arc<Forwarder>, waiting: Vec<Waiting>) -> Self {
        let last_deadline = waiting.iter().map(|waiting| waiting.deadline).max().unwrap_or_else(Instant::now);
        let mut commands = Vec::with_capacity(waiting.len());
        let mut owed = Vec::with_capacity(waiting.len());
        for Waiting { command, deadline, reply, budget, .. } in waiting {
            commands.push(command);
            owed.push(Some(Owed { deadline, reply, _budget: budget }));
        }
        let encoded = Batch { at_ms: 0, commands }.encode();
        Self { core, forwarder, encoded, owed, last_deadline }
    }

    async fn attempt(&mut self) -> Attempt {
        let failed = |outcome| match outcome {
            Outcome::Unknown(reason) => Attempt::Failed(reason),
            _ => Attempt::Failed("there is no leader".into()),
        };
        match self.core.leader() {
            Some(leader) if leader == self.core.node_id() => match self.core.proposer.propose(&self.encoded).await {
                Ok(pending) => Attempt::Here(pending),
                Err(outcome) => failed(outcome),
            },
            Some(leader) => match self.forwarder.send(&self.core, leader, self.encoded.clone()).await {
                Ok(outcome) => Attempt::There { leader, outcome },
                Err(outcome) => failed(outcome),
            },
            None => Attempt::Failed("there is no leader".into()),
        }
    }

    async fn finish(mut self, mut attempt: Attempt) {
        loop {
            let reason = match self.outcome(attempt).await {
                Outcome::Committed { index, replies } => return self.committed(index, replies).await,
                Outcome::NotLeader => "there is no leader".to_owned(),
                Outcome::Unknown(reason) => reason,
            };
            self.expire(&reason);
            if self.owed.iter().all(Option::is_none) {
                return;
            }
            tokio::time::sleep(limits::PROPOSAL_PAUSE).await;
            attempt = self.attempt().await;
        }
    }

    /// Waits for one attempt, as long as it can still come to something.
    async fn outcome(&self, attempt: Attempt) -> Outcome {
        let deadline = tokio::time::sleep_until(self.last_deadline);
        match attempt {
            Attempt::Here(pending) => tokio::select! {
                biased;
                outcome = pending.outcome() => outcome,
                () = deadline => Outcome::Unknown("no majority took it in time".into()),
            },
            Attempt::There { leader, outcome } => tokio::select! {
                biased;
                outcome = outcome => outcome.unwrap_or_else(|_| Outcome::Unknown("the connection to the leader broke".into())),
                () = leader_is_not(&self.core, leader) => Outcome::Unknown("the leader has changed".into()),
                () = deadline => Outcome::Unknown("the leader did not answer in time".into()),
            },
            Attempt::Failed(reason) => Outcome::Unknown(reason),
        }
    }

    /// Answers, once the entry is applied here too.
    async fn committed(mut self, index: u64, replies: Vec<Reply>) {
        if replies.len() != self.owed.len() {
            self.answer_all(|| BusError::Unknown("the leader answered another number of commands".into()));
            return;
        }
        match tokio::time::timeout_at(self.last_deadline, self.core.wait_applied(index)).await {
            Ok(Ok(())) => {
                for (owed, reply) in self.owed.iter_mut().zip(replies) {
                    if let Some(owed) = owed.take() {
                        // The caller may have gone away.
                        let _ = owed.reply.send(Ok(reply));
                    }
                }
            }
            Ok(Err(_)) => self.answer_all(|| BusError::Closed),
            Err(_) => self.answer_all(|| BusError::Unknown("it was committed, but this node lags behind".into())),
        }
    }

    fn expire(&mut self, reason: &str) {
        let now = Instant::now();
        for slot in &mut self.owed {
            if slot.as_ref().is_some_and(|owed| owed.deadline <= now)
                && let Some(owed) = slot.take()
            {
                // The caller may have gone away.
                let _ = owed.reply.send(Err(BusError::Unknown(reason.to_owned())));
            }
        }
    }

    fn answer_all(&mut self, error: impl Fn() -> BusError) {
        for owed in self.owed.iter_mut().filter_map(Option::take) {
            // The caller may have gone away.
            let _ = owed.reply.send(Err(error()));
        }
    }
}

/// Resolves when this node believes in another leader, or in none.
async fn leader_is_not(core: &Core, leader: u64) {
    let mut metrics = core.raft.server_metrics();
    loop {
        if metrics.borrow_watched().current_leader != Some(leader) || metrics.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Message, Topic};

    fn message(bytes: usize) -> Message {
        Message { id: uuid::Uuid::from_u128(bytes as u128), payload: vec![0; bytes].into() }
    }

    #[tokio::test]
    async fn a_batch_closes_at_its_bounds_and_loses_nothing() {
        let (batcher, mut queue) = Batcher::new();
        let submit = |bytes| {
            let batcher = batcher.clone();
            let command = Command::Publish { stream: Topic::Events, messages: vec![message(bytes)] };
            async move { batcher.submit(command, Duration::from_millis(1)).await }
        };
        let senders = futures_util::future::join_all([100 << 10, 100 << 10, 100 << 10, 10].map(submit));
        let take = async {
            let first = queue.next().await.expect("commands").len();
            let second = queue.next().await.expect("commands").len();
            (first, second)
        };
        let (answers, taken) = tokio::join!(senders, take);
        assert_eq!(taken, (2, 2));
        assert!(answers.iter().all(|answer| matches!(answer, Err(BusError::Unknown(_)))));
        batcher.close();
        assert_eq!(batcher.submit(Command::RemoveMember { id: 1 }, Duration::from_secs(1)).await, Err(BusError::Closed));
        batcher.drained().await;
    }
}
