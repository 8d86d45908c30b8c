//! [`App`]: what a handler or a service may touch. [`App::begin`] is the only way to change the database: one
//! transaction, whose emitted events go to the outbox with it and are published after its commit. A rollback publishes
//! nothing; after a crash between commit and publish the services leader's sweeper publishes the rest (the bus drops
//! duplicates by event id).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::blocks::BlockError;
use crate::blocks::secret::{Cipher, Keeper};
use crate::bus::{Bus, BusError, Message, Topic};
use crate::clock::{Clock, Timestamp};
use crate::cluster::LogFeed;
use crate::config::{Failpoint, Settings};
use crate::limits;
use crate::model::event::{Event, Received};
use crate::store::{AfterCommit, Hint, Outgoing, Store, StoreError, Tx, outbox};
use crate::task::Tasks;

/// Cheap to clone; one per process.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    bus: Arc<dyn Bus>,
    logs: LogFeed,
    cluster_id: String,
    clock: Arc<dyn Clock>,
    settings: Arc<Settings>,
    tasks: Tasks,
    committed: Arc<Committed>,
    block_key: Keeper,
}

impl App {
    /// Puts the parts together and starts the publisher of the outbox.
    pub fn new(
        store: Store,
        bus: Arc<dyn Bus>,
        logs: LogFeed,
        cluster_id: String,
        clock: Arc<dyn Clock>,
        settings: Arc<Settings>,
        tasks: Tasks,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(limits::OUTBOX_QUEUE_TRANSACTIONS);
        let (hints, given) = mpsc::channel(limits::HINT_QUEUE);
        let committed = Arc::new(Committed { sender, hints, failpoint: settings.failpoint });
        let block_key = Keeper::default();
        let inner = Inner { store, bus, logs, cluster_id, clock, settings, tasks: tasks.clone(), committed, block_key };
        let app = Self { inner: Arc::new(inner) };
        tasks.spawn_vital("outbox.publisher", publish_committed(app.clone(), receiver, tasks.stopping()));
        tasks.spawn_vital("hints.publisher", publish_hints(app.clone(), given, tasks.stopping()));
        app
    }

    /// The store, for what needs no transaction of [`App::begin`].
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The replicated bus.
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.inner.bus
    }

    /// Log lines as they come in, on any node.
    pub fn logs(&self) -> &LogFeed {
        &self.inner.logs
    }

    /// The group that this node belongs to.
    pub fn cluster_id(&self) -> &str {
        &self.inner.cluster_id
    }

    /// The name under which cursors know a stream: with the id of the cluster, since the positions of another one's bus
    /// mean nothing.
    pub fn stream_name(&self, topic: &Topic) -> String {
        format!("{}/{topic}", self.inner.cluster_id)
    }

    /// The settings of this process.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// What encrypts the data of blocks. It may write the key, in a transaction of its own.
    ///
    /// # Errors
    /// As [`Keeper::cipher`].
    pub async fn block_cipher(&self) -> Result<Cipher, BlockError> {
        self.inner.block_key.cipher(&self.inner.store, self.settings().server.encryption_key.as_ref(), self.now()).await
    }

    /// The set of tasks to spawn on.
    pub fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    /// The current moment.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// A connection without a transaction, for reads; see [`Store::read`].
    ///
    /// # Errors
    /// As [`Store::read`].
    pub async fn read(&self, name: &'static str) -> Result<Tx, StoreError> {
        self.inner.store.read(name).await
    }

    /// A transaction whose events are published after its commit; see [`Store::begin`].
    ///
    /// # Errors
    /// As [`Store::begin`].
    pub async fn begin(&self, name: &'static str) -> Result<Tx, StoreError> {
        let mut tx = self.inner.store.begin(name).await?;
        tx.after_commit(self.inner.committed.clone());
        Ok(tx)
    }

    /// Publishes events to the bus; resolves once they are flushed on a majority. They are stamped as received now.
    /// Safe to repeat: the bus knows an event by its id.
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub async fn publish(&self, events: &[Event]) -> Result<(), BusError> {
        let received = self.now();
        let messages = events.iter().map(|event| message(event, received)).collect();
        self.inner.bus.publish(Topic::Events, messages).await.map(drop)
    }

    /// Publishes what is in the outbox and forgets it there.
    ///
    /// # Errors
    /// What keeps it in the outbox; it will be tried again by the sweeper.
    pub async fn publish_from_outbox(&self, outgoing: &[Outgoing]) -> Result<(), OutboxError> {
        self.publish_outgoing(outgoing).await?;
        let ids: Vec<Uuid> = outgoing.iter().map(Outgoing::id).collect();
        self.forget_outgoing(&ids).await?;
        Ok(())
    }

    async fn publish_outgoing(&self, outgoing: &[Outgoing]) -> Result<(), BusError> {
        let received = self.now();
        let (mut events, mut actions) = (Vec::new(), Vec::new());
        for one in outgoing {
            match one {
                Outgoing::Event(event) => events.push(message(event, received)),
                Outgoing::Action(action) => {
                    let body = serde_json::to_vec(action).expect("an action has only string keys");
                    actions.push(Message { id: action.id, payload: Bytes::from(body) });
                }
            }
        }
        for (topic, messages) in [(Topic::Events, events), (Topic::Actions, actions)] {
            if !messages.is_empty() {
                self.inner.bus.publish(topic, messages).await?;
            }
        }
        Failpoint::OutboxAfterPublish.reached(self.inner.settings.failpoint);
        Ok(())
    }

    async fn forget_outgoing(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        let mut tx = self.inner.store.begin("outbox.published").await?;
        outbox::delete(&mut tx, ids).await?;
        tx.commit().await
    }
}

/// Why events stay in the outbox for now.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// They are not known to be on the bus.
    #[error("not published")]
    Bus(#[from] BusError),
    /// They are on the bus, and still in the outbox.
    #[error("published, not forgotten")]
    Store(#[from] StoreError),
}

/// An event as it travels on the bus: the JSON that `/events/out` sends.
pub fn message(event: &Event, received: Timestamp) -> Message {
    let body = serde_json::to_vec(&Received { event, received: &received }).expect("an event has only string keys");
    Message { id: event.id, payload: Bytes::from(body) }
}

/// Takes the events and hints of committed transactions to their publishers. A full queue of events loses nothing: the
/// sweeper finds them. A full queue of hints drops them: who waits looks without them.
struct Committed {
    sender: mpsc::Sender<Vec<Outgoing>>,
    hints: mpsc::Sender<Hint>,
    failpoint: Option<Failpoint>,
}

impl AfterCommit for Committed {
    fn committed(&self, outgoing: Vec<Outgoing>, hints: Vec<Hint>) {
        for hint in hints {
            if self.hints.try_send(hint).is_err() {
                tracing::debug!("the publisher of hints is behind; whoever waits will look later");
            }
        }
        if outgoing.is_empty() {
            return;
        }
        Failpoint::OutboxAfterCommit.reached(self.failpoint);
        if self.sender.try_send(outgoing).is_err() {
            tracing::debug!("the publisher of the outbox is behind; the sweeper will publish");
        }
    }
}

/// Publishes hints, each once of those that came together.
async fn publish_hints(app: App, mut receiver: mpsc::Receiver<Hint>, stopping: CancellationToken) {
    let mut given = Vec::new();
    loop {
        given.clear();
        tokio::select! {
            biased;
            _ = receiver.recv_many(&mut given, limits::HINT_QUEUE) => {}
            () = stopping.cancelled() => {}
        }
        if given.is_empty() {
            return;
        }
        let mut by_stream: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
        for hint in given.drain(..) {
            by_stream.entry(hint.stream).or_default().insert(hint.body);
        }
        for (stream, bodies) in by_stream {
            let messages = bodies.into_iter().map(|body| Message { id: Uuid::nil(), payload: body.into() }).collect();
            if let Err(error) = app.bus().publish(Topic::from(stream), messages).await {
                tracing::debug!(stream, error = %error, "hints are lost; whoever waits will look later");
            }
        }
    }
}

async fn publish_committed(app: App, mut receiver: mpsc::Receiver<Vec<Outgoing>>, stopping: CancellationToken) {
    let mut transactions = Vec::new();
    let mut published = Published::default();
    loop {
        transactions.clear();
        tokio::select! {
            biased;
            _ = receiver.recv_many(&mut transactions, limits::OUTBOX_BATCH_TRANSACTIONS) => {}
            () = stopping.cancelled() => {}
            () = published.due() => {}
        }
        let leaving = transactions.is_empty() && stopping.is_cancelled();
        if !transactions.is_empty() {
            let outgoing: Vec<Outgoing> = transactions.drain(..).flatten().collect();
            // Where the whole group stops, nobody is left to take them.
            let given_up = async {
                stopping.cancelled().await;
                tokio::time::sleep(limits::OUTBOX_LEAVING).await;
            };
            let outcome = tokio::select! {
                biased;
                outcome = app.publish_outgoing(&outgoing) => outcome,
                () = given_up => {
                    tracing::info!(messages = outgoing.len(), "this node stops; messages stay in the outbox for the sweeper");
                    continue;
                }
            };
            match outcome {
                Ok(()) => published.add(outgoing.iter().map(Outgoing::id)),
                Err(error) => tracing::info!(error = %error, messages = outgoing.len(), "messages stay in the outbox for the sweeper"),
            }
        }
        if (leaving || published.is_due())
            && let ids = published.take()
            && !ids.is_empty()
            && let Err(error) = app.forget_outgoing(&ids).await
        {
            tracing::info!(error = %error, messages = ids.len(), "published messages stay in the outbox for the sweeper");
        }
        if leaving {
            return;
        }
    }
}

/// What is on the bus and still in the outbox.
#[derive(Default)]
struct Published {
    ids: Vec<Uuid>,
    /// When the rows are to be deleted, where there are any.
    at: Option<Instant>,
}

impl Published {
    fn add(&mut self, ids: impl Iterator<Item = Uuid>) {
        self.ids.extend(ids);
        self.at.get_or_insert_with(|| Instant::now() + limits::OUTBOX_FORGET);
    }

    fn is_due(&self) -> bool {
        self.ids.len() >= limits::OUTBOX_FORGET_ROWS || self.at.is_some_and(|at| at <= Instant::now())
    }

    async fn due(&self) {
        match self.at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    fn take(&mut self) -> Vec<Uuid> {
        self.at = None;
        std::mem::take(&mut self.ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_published_is_forgotten_together_and_soon() {
        let mut published = Published::default();
        assert!(!published.is_due());
        let began = Instant::now();
        published.add([crate::id::v4()].into_iter());
        published.add([crate::id::v4()].into_iter());
        assert!(!published.is_due(), "more may follow");
        published.due().await;
        assert_eq!(began.elapsed().as_millis(), limits::OUTBOX_FORGET.as_millis(), "the first one decides");
        assert!(published.is_due());
        assert_eq!(published.take().len(), 2);
        assert!(!published.is_due() && published.take().is_empty());
        published.add((0..limits::OUTBOX_FORGET_ROWS).map(|_| crate::id::v4()));
        assert!(published.is_due(), "many do not wait");
    }
}
