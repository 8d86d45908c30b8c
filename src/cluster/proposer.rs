//! Proposing on the leader: the time stamp, and what became of it.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::core::Raft;
use super::state_machine::Progress;
use super::types::{Proposal, TypeConfig};
use crate::bus::command::Reply;
use crate::clock::Clock;

/// What became of a proposal.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Flushed on a majority and applied on the leader.
    Committed { index: u64, replies: Vec<Reply> },
    /// Certainly not in the log.
    NotLeader,
    /// Perhaps in the log, perhaps not.
    Unknown(String),
}

type Receiver = openraft::alias::OneshotReceiverOf<TypeConfig, ClientWriteResult<TypeConfig>>;

/// A proposal which Raft has taken.
pub(super) struct Pending(Receiver);

impl Pending {
    /// Waits for what becomes of it. Not bounded in time: a leader without a majority waits for one.
    pub(super) async fn outcome(self) -> Outcome {
        match self.0.await {
            Ok(Ok(response)) => Outcome::Committed { index: response.log_id.index, replies: response.data.replies },
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => Outcome::NotLeader,
            Ok(Err(error)) => Outcome::Unknown(error.to_string()),
            Err(_) => Outcome::Unknown("Raft has stopped".into()),
        }
    }
}

/// Hands batches to Raft.
pub(super) struct Proposer {
    raft: Raft,
    progress: Arc<Progress>,
    clock: LeaderClock,
}

impl Proposer {
    pub(super) fn new(raft: Raft, progress: Arc<Progress>, wall: Arc<dyn Clock>) -> Self {
        Self { raft, progress, clock: LeaderClock { wall, basis: Mutex::new(None), last: Mutex::new(0) } }
    }

    /// Stamps an encoded batch with the time and hands it to Raft; batches keep the order of these calls.
    ///
    /// # Errors
    /// With the outcome, when it is known at once.
    pub(super) async fn propose(&self, batch: &Bytes) -> Result<Pending, Outcome> {
        let (responder, receiver) = ProgressResponder::complete_only();
        let proposal = Proposal(stamped(batch, self.stamp()));
        match self.raft.client_write_ff(proposal, Some(responder)).await {
            Ok(()) => Ok(Pending(receiver)),
            Err(fatal) => Err(Outcome::Unknown(fatal.to_string())),
        }
    }

    fn stamp(&self) -> i64 {
        let leader = {
            let metrics = self.raft.metrics();
            let vote = metrics.borrow_watched().vote;
            (vote.leader_id.term, vote.leader_id.node_id)
        };
        self.clock.stamp(leader, self.progress.at())
    }
}

/// Field 1 of `praetor.bus.Batch`, a varint.
const AT_MS_KEY: u8 = 1 << 3;

/// A batch with its time. Protobuf lets a later field override an earlier one, so the commands need not be encoded again.
fn stamped(batch: &Bytes, at: i64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(batch.len() + 11);
    bytes.extend_from_slice(batch);
    bytes.put_u8(AT_MS_KEY);
    prost::encoding::encode_varint(at as u64, &mut bytes);
    bytes.freeze()
}

/// The time as a leader tells it: it goes on from the state machine's time at the election with this machine's monotonic clock.
/// A wall clock that jumps expires nothing.
struct LeaderClock {
    /// Asked once in the life of a cluster.
    wall: Arc<dyn Clock>,
    basis: Mutex<Option<Basis>>,
    last: Mutex<i64>,
}

struct Basis {
    /// Term and node of the leadership that it belongs to.
    leader: (u64, u64),
    at: i64,
    since: Instant,
}

impl LeaderClock {
    fn stamp(&self, leader: (u64, u64), state_at: i64) -> i64 {
        let mut basis = self.basis.lock();
        let mut last = self.last.lock();
        let current = match basis.take() {
            Some(current) if current.leader == leader => current,
            _ => {
                let at = match state_at.max(*last) {
                    0 => self.wall.now().timestamp_millis(),
                    at => at,
                };
                Basis { leader, at, since: Instant::now() }
            }
        };
        let now = current.at + current.since.elapsed().as_millis() as i64;
        *basis = Some(current);
        *last = now.max(*last);
        *last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::command::{Batch, Command};
    use crate::clock::ManualClock;

    #[test]
    fn a_stamp_is_read_as_the_batchs_time() {
        let commands = vec![Command::RemoveMember { id: 9 }];
        for at_ms in [0, 1, 1_700_000_000_000, i64::MAX] {
            let bare = Batch { at_ms: 0, commands: commands.clone() }.encode();
            let read = Batch::decode(stamped(&bare, at_ms)).expect("a batch");
            assert_eq!(read, Batch { at_ms, commands: commands.clone() });
        }
    }

    #[test]
    fn only_a_new_cluster_asks_the_wall_clock() {
        let wall = Arc::new(ManualClock::new(chrono::DateTime::from_timestamp_millis(5_000_000).expect("a time")));
        let clock = LeaderClock { wall: wall.clone(), basis: Mutex::new(None), last: Mutex::new(0) };
        let first = clock.stamp((1, 1), 0);
        assert!(first >= 5_000_000);
        wall.advance(chrono::TimeDelta::days(400));
        let second = clock.stamp((1, 1), first);
        assert!(second >= first && second < first + 60_000, "the wall clock's jump is not seen");
        let third = clock.stamp((2, 1), second + 10);
        assert!(third >= second + 10 && third < first + 60_000, "an election goes on from the state's time");
        assert!(clock.stamp((3, 1), 0) >= third, "never backwards");
    }
}
