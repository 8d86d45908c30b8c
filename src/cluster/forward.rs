//! Batches to the leader.
//!
//! A node keeps one stream to the leader it believes in and sends its batches on it, many in flight; the answers come in any
//! order. When the stream breaks, what was in flight on it is *unknown*: the sender tries again, and the ids of the messages
//! make that safe.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::core::Core;
use super::limits;
use super::proposer::Outcome;
use super::types::cluster_pb as pb;
use crate::bus::command::Reply;

/// Batches on their way to one leader, by sequence; `None` once the stream has broken.
type Waiting = Arc<Mutex<Option<BTreeMap<u64, oneshot::Sender<Outcome>>>>>;

struct Link {
    leader: u64,
    requests: mpsc::Sender<pb::ForwardRequest>,
    waiting: Waiting,
    next: u64,
}

/// The sending side.
#[derive(Default)]
pub(super) struct Forwarder {
    link: Mutex<Option<Link>>,
}

impl Forwarder {
    /// Puts a batch on the stream to `leader`, opening one if need be. The receiver resolves with what became of it, or is
    /// dropped when the stream broke.
    ///
    /// # Errors
    /// With the outcome when it could not be sent.
    pub(super) async fn send(&self, core: &Arc<Core>, leader: u64, batch: Bytes) -> Result<oneshot::Receiver<Outcome>, Outcome> {
        let (sender, receiver) = oneshot::channel();
        let (requests, waiting, sequence) = {
            let mut link = self.link.lock();
            if link.as_ref().is_none_or(|link| link.leader != leader || link.waiting.lock().is_none()) {
                *link = Some(open(core, leader).ok_or(Outcome::NotLeader)?);
            }
            let link = link.as_mut().expect("it was just opened");
            link.next += 1;
            match link.waiting.lock().as_mut() {
                Some(waiting) => waiting.insert(link.next, sender),
                None => return Err(Outcome::NotLeader),
            };
            (link.requests.clone(), link.waiting.clone(), link.next)
        };
        if requests.send(pb::ForwardRequest { sequence, batch }).await.is_err() {
            if let Some(waiting) = waiting.lock().as_mut() {
                waiting.remove(&sequence);
            }
            return Err(Outcome::NotLeader);
        }
        Ok(receiver)
    }
}

fn open(core: &Arc<Core>, leader: u64) -> Option<Link> {
    let mut client = core.service(&core.address(leader)?).ok()?;
    let (requests, outgoing) = mpsc::channel(limits::PROPOSALS_IN_FLIGHT);
    let waiting: Waiting = Arc::new(Mutex::new(Some(BTreeMap::new())));
    let answers = waiting.clone();
    let call = core.peers.request(leader, ReceiverStream::new(outgoing));
    core.tasks.spawn("cluster.forward", async move {
        let result = async {
            let mut replies = client.forward(call).await?.into_inner();
            while let Some(reply) = replies.message().await? {
                let sender = answers.lock().as_mut().and_then(|waiting| waiting.remove(&reply.sequence));
                if let Some(sender) = sender {
                    // The caller may have stopped waiting.
                    let _ = sender.send(outcome_from_wire(reply));
                }
            }
            Ok::<_, Status>(())
        }
        .await;
        if let Err(status) = result {
            tracing::debug!(leader, "the stream of batches to the leader broke: {}", status.message());
        }
        // Dropping the senders tells the callers.
        *answers.lock() = None;
    });
    Some(Link { leader, requests, waiting, next: 0 })
}

/// The receiving side: proposes what arrives, in order, and answers as it is committed.
pub(super) fn serve(
    core: Arc<Core>,
    budget: Arc<Semaphore>,
    mut requests: impl Stream<Item = Result<pb::ForwardRequest, Status>> + Send + Unpin + 'static,
) -> impl Stream<Item = Result<pb::ForwardReply, Status>> + Send + 'static {
    let (answers, outgoing) = mpsc::channel(limits::PROPOSALS_IN_FLIGHT);
    core.tasks.clone().spawn("cluster.forwarded", async move {
        while let Some(Ok(request)) = requests.next().await {
            let Ok(permit) = permit(&budget, request.batch.len()).await else { break };
            let sequence = request.sequence;
            let pending = core.proposer.propose(&request.batch).await;
            let answers = answers.clone();
            core.tasks.spawn("cluster.forwarded.wait", async move {
                let outcome = match pending {
                    Ok(pending) => pending.outcome().await,
                    Err(outcome) => outcome,
                };
                drop(permit);
                // The sender may be gone; it asks again.
                let _ = answers.send(Ok(outcome_to_wire(sequence, &outcome))).await;
            });
        }
    });
    ReceiverStream::new(outgoing)
}

async fn permit(budget: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, tokio::sync::AcquireError> {
    let bytes = bytes.clamp(1, limits::FORWARDED_BYTES);
    budget.clone().acquire_many_owned(bytes as u32).await
}

fn outcome_to_wire(sequence: u64, outcome: &Outcome) -> pb::ForwardReply {
    use pb::forward_reply::{Committed, NotLeader, Outcome as Wire, Unknown};
    let outcome = match outcome {
        Outcome::Committed { index, replies } => Wire::Committed(Committed { index: *index, replies: Reply::encode_all(replies) }),
        Outcome::NotLeader => Wire::NotLeader(NotLeader {}),
        Outcome::Unknown(reason) => Wire::Unknown(Unknown { reason: reason.clone() }),
    };
    pb::ForwardReply { sequence, outcome: Some(outcome) }
}

fn outcome_from_wire(reply: pb::ForwardReply) -> Outcome {
    use pb::forward_reply::Outcome as Wire;
    match reply.outcome {
        Some(Wire::Committed(committed)) => match Reply::decode_all(committed.replies) {
            Ok(replies) => Outcome::Committed { index: committed.index, replies },
            Err(error) => Outcome::Unknown(error.to_string()),
        },
        Some(Wire::NotLeader(_)) => Outcome::NotLeader,
        Some(Wire::Unknown(unknown)) => Outcome::Unknown(unknown.reason),
        None => Outcome::Unknown("the leader's answer is of a newer version".into()),
    }
}
