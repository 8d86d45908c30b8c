//! What the parts of this module share about one running node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::{Instant as _, ReadPolicy, ServerState};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::batcher::Batcher;
use super::config::{ClusterConfig, ClusterError};
use super::identity::Identity;
use super::limits;
use super::log_feed::LogFeed;
use super::log_store::Log;
use super::peers::{Line, Peers};
use super::proposer::Proposer;
use super::snapshots::Snapshots;
use super::state_machine::{Progress, StateMachine};
use super::status::Probes;
use super::types::{Metrics, TypeConfig, cluster_pb as pb};
use crate::bus::state::BusReader;
use crate::task::Tasks;

pub(super) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// One running node.
pub(super) struct Core {
    pub config: ClusterConfig,
    pub identity: Arc<Identity>,
    pub peers: Peers,
    pub raft: Raft,
    pub log: Arc<dyn Log>,
    pub snapshots: Arc<Snapshots>,
    pub progress: Arc<Progress>,
    pub reader: BusReader,
    pub proposer: Proposer,
    pub contact: Contact,
    pub batcher: Batcher,
    /// Held by the one change of members that may be under way.
    pub changing_members: tokio::sync::Mutex<()>,
    pub tasks: Tasks,
    /// Set when the node is about to leave: it wants no lead any more.
    pub draining: AtomicBool,
    /// Why this node cannot take part, if it cannot.
    pub unfit: Mutex<Option<String>>,
    /// What the other nodes last said of themselves.
    pub probes: Mutex<Probes>,
    /// Until when this node wants no lead of the services, because it could not do their work.
    pub unwell_until: Mutex<Option<Instant>>,
    /// Set once everything known before the last stop is applied again.
    pub recovered: AtomicBool,
    /// Log lines from node to node.
    pub logs: LogFeed,
}

impl Core {
    pub(super) fn node_id(&self) -> u64 {
        self.config.node_id
    }

    /// A copy of openraft's view of the group. Never held across a wait.
    pub(super) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }

    /// The Raft leader as far as this node knows.
    pub(super) fn leader(&self) -> Option<u64> {
        self.raft.metrics().borrow_watched().current_leader
    }

    /// Whether this node is the Raft leader as far as it knows.
    pub(super) fn is_leader(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.state == ServerState::Leader && metrics.vote.is_committed()
    }

    /// The ids of all members.
    pub(super) fn members(&self) -> Vec<u64> {
        self.raft.metrics().borrow_watched().membership_config.nodes().map(|(id, _)| *id).collect()
    }

    /// The peer address of a member.
    pub(super) fn address(&self, node: u64) -> Option<String> {
        let membership = self.raft.metrics().borrow_watched().membership_config.clone();
        membership.get_node(&node).map(|node| node.address.clone())
    }

    /// A client for everything that is not Raft's own.
    pub(super) fn service(&self, address: &str) -> Result<pb::cluster_client::ClusterClient<tonic::transport::Channel>, tonic::Status> {
        let channel = self.peers.channel(address, Line::Service)?;
        Ok(pb::cluster_client::ClusterClient::new(channel)
            .max_decoding_message_size(limits::PEER_MESSAGE_BYTES)
            .max_encoding_message_size(limits::PEER_MESSAGE_BYTES))
    }

    /// How long ago a majority was heard of: as leader by their answers, else by a leader's word.
    pub(super) fn quorum_age(&self) -> Option<Duration> {
        #[cfg(test)]
        if super::simulation::planted() == Some(super::simulation::Bug::NeverLetsGo) {
            return Some(Duration::ZERO);
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state == ServerState::Leader {
            if metrics.membership_config.membership().voter_ids().count() == 1 {
                // Nobody else has to be heard of.
                return Some(Duration::ZERO);
            }
            metrics.last_quorum_acked.map(|acked| acked.elapsed())
        } else {
            drop(metrics);
            self.contact.age()
        }
    }

    /// The index up to which a node must have applied to have seen everything committed before this call.
    ///
    /// # Errors
    /// When this node is not a leader that a majority follows.
    pub(super) async fn read_index(&self) -> Result<u64, ClusterError> {
        #[cfg(test)]
        if super::simulation::planted() == Some(super::simulation::Bug::ReadsStale) {
            return Ok(*self.progress.applied().borrow());
        }
        let linearizer =
            self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|error| ClusterError::Unavailable(error.to_string()))?;
        Ok(linearizer.read_log_id().index())
    }

    /// Waits until this node has applied everything that was committed, anywhere, before this call.
    ///
    /// # Errors
    /// When there is no leader, or no majority, before `deadline`.
    pub(super) async fn read_barrier(&self, deadline: Instant) -> Result<(), ClusterError> {
        let mut last = "there is no leader".to_owned();
        loop {
            if let Some(leader) = self.leader() {
                let attempt = async {
                    let index = if leader == self.node_id() { self.read_index().await? } else { self.remote_read_index(leader).await? };
                    self.wait_applied(index).await
                };
                // An attempt at a leader which is gone must not eat the whole deadline.
                let limit = (deadline - Instant::now().min(deadline)).min(limits::NODE_AWAY);
                match tokio::time::timeout(limit, attempt).await {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(error @ ClusterError::Stopped(_))) => return Err(error),
                    Ok(Err(error)) => last = error.to_string(),
                    Err(_) => last = format!("the leader, node {leader}, does not answer"),
                }
            }
            if Instant::now() >= deadline {
                return Err(ClusterError::Unavailable(format!("no read barrier in time: {last}")));
            }
            tokio::time::sleep(limits::PROPOSAL_PAUSE).await;
        }
    }

    async fn remote_read_index(&self, leader: u64) -> Result<u64, ClusterError> {
        let unavailable = |status: tonic::Status| ClusterError::Unavailable(status.message().to_owned());
        let address = self.address(leader).ok_or_else(|| ClusterError::Unavailable(format!("the address of node {leader} is unknown")))?;
        let request = self.peers.request(leader, pb::ReadIndexRequest {});
        let reply = self.service(&address).map_err(unavailable)?.read_index(request).await.map_err(unavailable)?;
        Ok(reply.into_inner().index)
    }

    /// Waits until the entry at `index` is applied here.
    pub(super) async fn wait_applied(&self, index: u64) -> Result<(), ClusterError> {
        let mut applied: watch::Receiver<u64> = self.progress.applied();
        let stopped = |_| ClusterError::Stopped("the state machine has stopped".into());
        applied.wait_for(|applied| *applied >= index).await.map(drop).map_err(stopped)
    }

    /// The other nodes that answered of late, be they asked by a leader or by the probe.
    pub(super) fn peers_up(&self) -> Vec<u64> {
        let probes = self.probes.lock();
        probes.iter().filter(|(_, (at, _))| at.elapsed() < limits::PROBE_EVERY * 3).map(|(id, _)| *id).collect()
    }

    /// Remembers why this node cannot take part; the first reason stays.
    pub(super) fn set_unfit(&self, reason: String) {
        tracing::error!(node.id = self.node_id(), "{reason}");
        self.unfit.lock().get_or_insert(reason);
    }

    /// Whether this node may lead the services now.
    pub(super) fn may_run_services(&self) -> bool {
        self.config.may_run_services && self.unwell_until.lock().is_none_or(|until| until <= Instant::now())
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// When a leader was last heard of.
pub(super) struct Contact {
    origin: Instant,
    /// Microseconds after `origin`, plus one; 0: never.
    last: AtomicU64,
}

impl Contact {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), last: AtomicU64::new(0) }
    }

    /// A leader was heard of now.
    pub(super) fn touch(&self) {
        self.last.store(self.origin.elapsed().as_micros() as u64 + 1, Ordering::Relaxed);
    }

    /// How long ago a leader was heard of.
    pub(super) fn age(&self) -> Option<Duration> {
        match self.last.load(Ordering::Relaxed) {
            0 => None,
            last => Some(self.origin.elapsed().saturating_sub(Duration::from_micros(last - 1))),
        }
    }
}
