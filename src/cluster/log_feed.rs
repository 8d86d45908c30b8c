//! Log lines from node to node, for `/logs/out`, without consensus: the lines are in the database already.
//!
//! A node that has subscribers follows every other one: each sends what its clients hand in. Nobody follows where nobody
//! listens. Every queue is bounded; where one runs over, or the stream of another node breaks, the subscribers are told
//! that lines may be missing ([`Heard::Gap`]) instead of being robbed silently.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use super::core::Core;
use super::limits;
use super::types::cluster_pb as pb;
use crate::clock::Timestamp;
use crate::model::log::Log;

/// What a subscriber hears.
#[derive(Debug, Clone)]
pub enum Heard {
    /// Lines that a node took in.
    Lines(Arc<[Log]>),
    /// Lines may be missing here.
    Gap,
}

/// The lines of all nodes. Clones are the same.
#[derive(Clone)]
pub struct LogFeed {
    inner: Arc<Inner>,
}

struct Inner {
    /// Lines of this node, for the others.
    taken: broadcast::Sender<Arc<[Log]>>,
    /// Lines of all nodes, for the subscribers here.
    heard: broadcast::Sender<Heard>,
    /// Subscribers here.
    interest: watch::Sender<usize>,
}

impl Default for LogFeed {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                taken: broadcast::Sender::new(limits::LOG_FEED_BATCHES),
                heard: broadcast::Sender::new(limits::LOG_FEED_BATCHES),
                interest: watch::Sender::new(0),
            }),
        }
    }
}

/// One subscriber's place; dropped, it is gone.
pub struct LogSubscription {
    heard: broadcast::Receiver<Heard>,
    feed: LogFeed,
}

impl LogFeed {
    /// Tells subscribers everywhere of lines that this node took in. Costs nothing where there are none.
    pub fn publish(&self, lines: Vec<Log>) {
        if self.inner.taken.receiver_count() == 0 && self.inner.heard.receiver_count() == 0 {
            return;
        }
        for batch in cut(lines) {
            // Nobody to hear it is no error.
            let _nobody = self.inner.taken.send(Arc::clone(&batch));
            let _nobody = self.inner.heard.send(Heard::Lines(batch));
        }
    }

    /// Hears every line from now on.
    pub fn subscribe(&self) -> LogSubscription {
        let heard = self.inner.heard.subscribe();
        self.inner.interest.send_modify(|subscribers| *subscribers += 1);
        LogSubscription { heard, feed: self.clone() }
    }

    /// This node's own lines as another node gets them.
    pub(super) fn for_follower(&self) -> impl Stream<Item = Result<pb::LogBatch, Status>> + Send + 'static {
        unfold(self.inner.taken.subscribe(), |mut taken| async move {
            let batch = match taken.recv().await {
                Ok(lines) => pb::LogBatch { lines: lines.iter().map(to_wire).collect(), gap: false },
                Err(RecvError::Lagged(_)) => pb::LogBatch { lines: Vec::new(), gap: true },
                Err(RecvError::Closed) => return None,
            };
            Some((Ok(batch), taken))
        })
    }
}

impl LogSubscription {
    /// The next lines; [`Heard::Gap`] too where this subscriber was too slow. Cancellation safe.
    pub async fn next(&mut self) -> Heard {
        match self.heard.recv().await {
            Ok(heard) => heard,
            // The feed lives as long as its subscriptions, so it is never closed here.
            Err(RecvError::Lagged(_) | RecvError::Closed) => Heard::Gap,
        }
    }
}

impl Drop for LogSubscription {
    fn drop(&mut self) {
        self.feed.inner.interest.send_modify(|subscribers| *subscribers -= 1);
    }
}

/// Batches of a bounded size; a line that is too large by itself is one alone.
fn cut(lines: Vec<Log>) -> Vec<Arc<[Log]>> {
    let (mut batches, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
    for line in lines {
        let cost = line.message.len() + line.name.len() + 128;
        if bytes + cost > limits::LOG_FEED_BATCH_BYTES && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch).into());
            bytes = 0;
        }
        bytes += cost;
        batch.push(line);
    }
    if !batch.is_empty() {
        batches.push(batch.into());
    }
    batches
}

/// Follows the other nodes while there are subscribers here, until the node stops.
pub(super) async fn follow_others(core: Arc<Core>) {
    let stopping = core.tasks.stopping();
    let interest = &core.logs.inner.interest;
    let mut watched = interest.subscribe();
    loop {
        let wanted = stopping.run_until_cancelled(watched.wait_for(|subscribers| *subscribers > 0)).await;
        if wanted.is_none_or(|wanted| wanted.is_err()) {
            return;
        }
        let end = stopping.child_token();
        let mut followed: BTreeMap<u64, tokio::task::JoinHandle<Option<()>>> = BTreeMap::new();
        while *interest.borrow() > 0 && !stopping.is_cancelled() {
            followed.retain(|_, following| !following.is_finished());
            for id in core.members() {
                if id != core.node_id() && core.address(id).is_some() {
                    followed.entry(id).or_insert_with(|| core.tasks.spawn("cluster.log_feed", follow(core.clone(), id, end.clone())));
                }
            }
            // A node that joins, and the end of all interest, may be noticed a little later.
            let _stopped = stopping.run_until_cancelled(tokio::time::sleep(limits::PROBE_EVERY)).await;
        }
        end.cancel();
        futures_util::future::join_all(followed.into_values()).await;
    }
}

/// Hears what node `id` has to tell, again and again until `end`, or until it is no member any more.
async fn follow(core: Arc<Core>, id: u64, end: CancellationToken) {
    while let Some(address) = core.address(id) {
        let Some(broken) = end.run_until_cancelled(hear(&core, id, &address)).await else { return };
        if broken {
            let _nobody = core.logs.inner.heard.send(Heard::Gap);
        }
        if end.run_until_cancelled(tokio::time::sleep(limits::PEER_RETRY)).await.is_none() {
            return;
        }
    }
}

/// Passes on one stream of node `id` until it ends. True where it broke off after it had begun.
async fn hear(core: &Core, id: u64, address: &str) -> bool {
    let Ok(mut client) = core.service(address) else { return false };
    let begun = tokio::time::timeout(FOLLOW_WITHIN, client.follow_logs(core.peers.request(id, pb::FollowLogsRequest {}))).await;
    let Ok(Ok(begun)) = begun else { return false };
    let mut batches = begun.into_inner();
    loop {
        match batches.message().await {
            Ok(Some(batch)) => {
                let heard = match batch.lines.into_iter().map(from_wire).collect::<Option<Vec<Log>>>() {
                    Some(lines) if !batch.gap => Heard::Lines(lines.into()),
                    _ => Heard::Gap,
                };
                let _nobody = core.logs.inner.heard.send(heard);
            }
            Ok(None) => return false,
            Err(status) => {
                tracing::info!(node.id = id, status = status.message(), "the log lines of another node broke off");
                return true;
            }
        }
    }
}

/// Time for another node to begin its stream.
const FOLLOW_WITHIN: Duration = Duration::from_secs(2);

fn to_wire(line: &Log) -> pb::LogLine {
    let bytes = |id: Uuid| bytes::Bytes::copy_from_slice(id.as_bytes());
    pb::LogLine {
        id: bytes(line.id.0),
        name: line.name.clone(),
        level: line.level,
        message: line.message.clone(),
        timestamp_us: line.timestamp.timestamp_micros(),
        flow_run_id: line.flow_run_id.map(|id| bytes(id.0)).unwrap_or_default(),
        task_run_id: line.task_run_id.map(|id| bytes(id.0)).unwrap_or_default(),
    }
}

fn from_wire(line: pb::LogLine) -> Option<Log> {
    let optional = |bytes: &[u8]| if bytes.is_empty() { Some(None) } else { Uuid::from_slice(bytes).ok().map(Some) };
    Some(Log {
        id: Uuid::from_slice(&line.id).ok()?.into(),
        created: None,
        updated: None,
        name: line.name,
        level: line.level,
        message: line.message,
        timestamp: Timestamp::from_timestamp_micros(line.timestamp_us)?,
        flow_run_id: optional(&line.flow_run_id)?.map(Into::into),
        task_run_id: optional(&line.task_run_id)?.map(Into::into),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str) -> Log {
        Log {
            id: Uuid::from_u128(1).into(),
            created: None,
            updated: None,
            name: "prefect.flow_runs".into(),
            level: 20,
            message: message.into(),
            timestamp: Timestamp::from_timestamp_micros(1_700_000_000_123_456).expect("a moment"),
            flow_run_id: Some(Uuid::from_u128(2).into()),
            task_run_id: None,
        }
    }

    #[test]
    fn lines_survive_the_wire() {
        assert_eq!(from_wire(to_wire(&line("hello"))), Some(line("hello")));
        assert_eq!(from_wire(pb::LogLine { id: vec![1, 2].into(), ..to_wire(&line("x")) }), None);
    }

    #[tokio::test]
    async fn a_subscriber_that_is_too_slow_is_told_of_the_gap() {
        let feed = LogFeed::default();
        feed.publish(vec![line("before anyone listens")]);
        let mut subscription = feed.subscribe();
        for number in 0..=limits::LOG_FEED_BATCHES {
            feed.publish(vec![line(&number.to_string())]);
        }
        assert!(matches!(subscription.next().await, Heard::Gap));
        let Heard::Lines(lines) = subscription.next().await else { panic!("lines follow") };
        assert_eq!(lines[0].message, "1", "the oldest that is still there");
        drop(subscription);
        assert_eq!(*feed.inner.interest.borrow(), 0);
    }

    #[test]
    fn large_posts_are_cut() {
        let large = "x".repeat(limits::LOG_FEED_BATCH_BYTES / 2);
        let batches = cut(vec![line(&large), line(&large), line("a"), line("b")]);
        assert_eq!(batches.iter().map(|batch| batch.len()).collect::<Vec<_>>(), [1, 3]);
    }
}
