//! What clients do in a simulation: they publish, and publish again what they do not know the end of; they make groups and move
//! them on, hold keys, wait for barriers and read. Each is a task of the node that it talks to and ends with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;
use uuid::Uuid;

use super::{laws, trace};
use crate::bus::command::{Command, KeyCondition, Reply};
use crate::bus::{Message, Position, ReadLimit, Start, Topic};
use crate::cluster::batcher::Batcher;
use crate::cluster::core::Core;

/// All clients of one simulation.
#[derive(Clone, Default)]
pub(super) struct Clients(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    next: u128,
    /// Everything that was ever sent.
    sent: Vec<(Topic, Message)>,
    /// What was sent and not answered for sure.
    open: Vec<(Topic, Vec<Message>)>,
    acknowledged: Vec<(Topic, Uuid)>,
    highest: BTreeMap<Topic, Position>,
    in_flight: usize,
}

/// One request under way; when its node dies, it ends as unknown.
struct Request {
    clients: Clients,
    publishes: Option<(Topic, Vec<Message>)>,
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut inner = self.clients.0.lock();
        inner.in_flight -= 1;
        if let Some(open) = self.publishes.take() {
            laws::with(|laws| laws.counts.unknown += 1);
            inner.open.push(open);
        }
    }
}

impl Clients {
    /// Requests under way.
    pub(super) fn in_flight(&self) -> usize {
        self.0.lock().in_flight
    }

    /// What was acknowledged, in the order of the answers.
    pub(super) fn acknowledged(&self) -> Vec<(Topic, Uuid)> {
        self.0.lock().acknowledged.clone()
    }

    /// Some client asks something of a node.
    pub(super) fn act(&self, rng: &mut StdRng, core: &Arc<Core>, batcher: &Batcher) -> impl Future<Output = ()> + Send + use<> {
        let action = self.choose(rng, core);
        let limit = Duration::from_millis(rng.random_range(300..4_000));
        let (core, batcher, clients) = (core.clone(), batcher.clone(), self.clone());
        let publishes = match &action {
            Action::Ask(Command::Publish { stream, messages }) => Some((stream.clone(), messages.clone())),
            _ => None,
        };
        self.0.lock().in_flight += 1;
        let mut request = Request { clients: self.clone(), publishes };
        async move {
            match action {
                Action::Ask(command) => {
                    let reply = batcher.submit(command.clone(), limit).await;
                    trace::note(100, u64::from(reply.is_ok()));
                    if let Ok(reply) = reply {
                        request.publishes = None;
                        clients.answered(&command, reply);
                    }
                }
                Action::Barrier => barrier(&core, &clients, limit).await,
                Action::Read(topic, after) => read(&core, &topic, after).await,
            }
            drop(request);
        }
    }

    /// A publish that must come to an end.
    pub(super) fn last_publish(&self, core: &Arc<Core>, batcher: &Batcher) -> impl Future<Output = ()> + Send + use<> {
        let command = Command::Publish { stream: topic(0), messages: self.fresh(1, &topic(0)) };
        let (clients, batcher, node) = (self.clone(), batcher.clone(), core.node_id());
        self.0.lock().in_flight += 1;
        let request = Request { clients: self.clone(), publishes: None };
        async move {
            match batcher.submit(command.clone(), Duration::from_secs(5)).await {
                Ok(reply @ (Reply::Published(_) | Reply::Full { .. })) => clients.answered(&command, reply),
                other => laws::violated(|| format!("node {node} does not serve after all is well again: {other:?}")),
            }
            drop(request);
        }
    }

    fn fresh(&self, count: usize, topic: &Topic) -> Vec<Message> {
        let mut inner = self.0.lock();
        let messages = (0..count).map(|_| {
            inner.next += 1;
            let message = Message { id: Uuid::from_u128(inner.next), payload: format!("entry {}", inner.next).into() };
            inner.sent.push((topic.clone(), message.clone()));
            message
        });
        messages.collect()
    }

    fn choose(&self, rng: &mut StdRng, core: &Core) -> Action {
        let topic = topic(rng.random_range(0..2));
        let group = ["first", "second"][rng.random_range(0..2)].to_owned();
        let key = Bytes::from_static([b"a", b"b", b"c"][rng.random_range(0..3)]);
        let command = match rng.random_range(0..100) {
            0..35 => Command::Publish { messages: self.fresh(rng.random_range(1..4), &topic), stream: topic },
            35..47 => {
                let mut inner = self.0.lock();
                let count = inner.open.len();
                if count > 0 {
                    let (stream, messages) = inner.open.swap_remove(rng.random_range(0..count));
                    Command::Publish { stream, messages }
                } else if inner.sent.is_empty() {
                    return Action::Barrier;
                } else {
                    let (stream, message) = inner.sent[rng.random_range(0..inner.sent.len())].clone();
                    Command::Publish { stream, messages: vec![message] }
                }
            }
            47..52 => {
                let start = [Start::First, Start::Latest, Start::After(rng.random_range(0..20))][rng.random_range(0..3)];
                Command::EnsureGroup { stream: topic, group, start, idle_ms_max: None }
            }
            52..65 => {
                let last = core.reader.last(&topic);
                Command::AdvanceGroup { stream: topic, group, position: rng.random_range(0..last + 2) }
            }
            65..66 => Command::DeleteGroup { stream: topic, group },
            66..76 => {
                let condition = if rng.random_bool(0.7) { KeyCondition::IfAbsent } else { KeyCondition::Always };
                Command::SetKey { key, value: Bytes::from_static(b"held"), expires_after_ms: Some(rng.random_range(1..1_500)), condition }
            }
            76..79 => Command::DeleteKey { key, if_version: None },
            79..82 => {
                // As `compaction` does on the leader, only more often.
                let (index, checksum) = core.progress.checksum();
                Command::Checkpoint { index, checksum }
            }
            82..92 => return Action::Barrier,
            _ => return Action::Read(topic, rng.random_range(0..40)),
        };
        Action::Ask(command)
    }

    fn answered(&self, command: &Command, reply: Reply) {
        let (Command::Publish { stream, messages }, Reply::Published(published)) = (command, reply) else { return };
        laws::with(|laws| {
            laws.counts.acknowledged += 1;
            let places = messages.iter().map(|message| laws.model.positions.get(&(stream.clone(), message.id)).copied());
            let places: Option<Vec<Position>> = places.collect();
            let told = (published.first, published.last);
            match places {
                Some(places) if (places.iter().min().copied(), places.iter().max().copied()) == (Some(told.0), Some(told.1)) => {}
                other => laws.fail(|| format!("a client is told {told:?} of {messages:?}, and they are at {other:?}")),
            }
        });
        let mut inner = self.0.lock();
        inner.acknowledged.extend(messages.iter().map(|message| (stream.clone(), message.id)));
        let highest = inner.highest.entry(stream.clone()).or_default();
        *highest = (*highest).max(published.last);
    }
}

enum Action {
    Ask(Command),
    Barrier,
    Read(Topic, Position),
}

pub(super) fn topic(number: usize) -> Topic {
    [Topic::Events, Topic::Actions][number].clone()
}

/// After a barrier a node has everything that any client had heard of before it.
async fn barrier(core: &Core, clients: &Clients, limit: Duration) {
    let before = clients.0.lock().highest.clone();
    let result = core.read_barrier(Instant::now() + limit).await;
    trace::note(101, u64::from(result.is_ok()));
    if result.is_ok() {
        laws::with(|laws| laws.counts.barriers += 1);
        for (topic, highest) in before {
            let last = core.reader.last(&topic);
            if last < highest {
                let node = core.node_id();
                laws::violated(|| format!("a barrier on node {node} sees {topic} up to {last}; {highest} was acknowledged before"));
            }
        }
    }
}

/// What is read is what the model has, without a hole.
async fn read(core: &Core, topic: &Topic, after: Position) {
    let Ok(entries) = core.reader.read(topic, after, ReadLimit { entries: 30, bytes: 1 << 20 }).await else { return };
    laws::with(|laws| {
        laws.counts.reads += 1;
        let stream = laws.model.streams.get(topic).cloned().unwrap_or_default();
        for (entry, position) in entries.iter().zip(after + 1..) {
            let known = stream.get(position as usize - 1);
            if entry.position != position || known != Some(&(entry.id, entry.payload.clone())) {
                let node = core.node_id();
                laws.fail(|| format!("node {node} gives {entry:?} of {topic} for {position}, which is {known:?}"));
            }
        }
    });
}
