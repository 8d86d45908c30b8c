//! Who leads: the services, as the replicated state says and this node's contact to a majority allows; and the hand-over of the
//! Raft lead.

use std::sync::Arc;

use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

use super::config::ClusterError;
use super::core::Core;
use super::limits;
use super::types::cluster_pb as pb;
use crate::telemetry::metrics as telemetry;

/// Whether this node leads the background services.
///
/// Leading is a belief: what a leader writes must carry the epoch and be refused by the database when the epoch has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServicesLeadership {
    /// Somebody else does, or nobody.
    Following {
        /// Who, as far as this node knows.
        leader: Option<u64>,
        /// The newest epoch applied here; 0 before the first election.
        epoch: u64,
    },
    /// This node does, in this epoch. Left as soon as another epoch is applied here, or when no majority was heard of for
    /// 0.9 s; the next leader is elected after 1 s at the earliest.
    Leading {
        /// The log index of the election: it only grows.
        epoch: u64,
    },
}

impl ServicesLeadership {
    pub(super) fn unknown() -> Self {
        Self::Following { leader: None, epoch: 0 }
    }
}

/// Keeps `leadership` true until the node stops.
pub(super) async fn watch_services(core: Arc<Core>, leadership: watch::Sender<ServicesLeadership>) {
    let mut view = core.reader.cluster();
    let mut tick = interval(Duration::from_millis(50));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopping = core.tasks.stopping();
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            changed = view.changed() => if changed.is_err() { break },
            _ = tick.tick() => {}
        }
        let current = {
            let view = view.borrow_and_update();
            let leader = view.services.map(|services| services.node);
            let following = ServicesLeadership::Following { leader, epoch: view.newest_epoch };
            match view.services {
                Some(services) if services.node == core.node_id() => {
                    let in_touch = core.quorum_age().is_some_and(|age| age < limits::SERVICES_LEASE);
                    if in_touch && !core.is_draining() { ServicesLeadership::Leading { epoch: services.epoch } } else { following }
                }
                _ => following,
            }
        };
        publish(&core, &leadership, current);
    }
    let epoch = core.reader.cluster().borrow().newest_epoch;
    publish(&core, &leadership, ServicesLeadership::Following { leader: None, epoch });
}

fn publish(core: &Core, leadership: &watch::Sender<ServicesLeadership>, current: ServicesLeadership) {
    let changed = leadership.send_if_modified(|before| std::mem::replace(before, current) != current);
    if changed {
        match current {
            ServicesLeadership::Leading { epoch } => {
                telemetry::services_leader(Some(epoch));
                tracing::info!(node.id = core.node_id(), epoch, "this node leads the services");
            }
            ServicesLeadership::Following { leader, epoch } => {
                telemetry::services_leader(None);
                tracing::info!(node.id = core.node_id(), leader, epoch, "another node leads the services, or none");
            }
        }
    }
}

/// Hands the Raft lead of this node to `to`, or to the voter whose log is the most complete, and waits until it is gone.
///
/// # Errors
/// When this node does not lead, there is nobody to hand over to, or nobody took it in time.
pub(super) async fn transfer_here(core: &Core, to: Option<u64>) -> Result<(), ClusterError> {
    if !core.is_leader() {
        return Err(ClusterError::Unavailable(format!("node {} is not the leader", core.node_id())));
    }
    let metrics = core.metrics();
    let voters: Vec<u64> = metrics.membership_config.voter_ids().filter(|id| *id != core.node_id()).collect();
    if let Some(to) = to
        && !voters.contains(&to)
    {
        return Err(ClusterError::Config(format!("node {to} is no voter of this group, or leads it already")));
    }
    let mut candidates: Vec<(u64, u64)> = voters
        .iter()
        .map(|id| {
            let matching = metrics.replication.as_ref().and_then(|replication| replication.get(id).copied().flatten());
            (matching.map_or(0, |id| id.index), *id)
        })
        .collect();
    candidates.sort_unstable_by(|a, b| b.cmp(a));
    let targets: Vec<u64> = to.map_or_else(|| candidates.iter().map(|(_, id)| *id).collect(), |to| vec![to]);
    if targets.is_empty() {
        return Err(ClusterError::Unavailable("there is no other voter to hand the lead to".into()));
    }
    for target in targets {
        core.raft.trigger().transfer_leader(target).await.map_err(|fatal| ClusterError::Stopped(fatal.to_string()))?;
        if lead_is_gone(core, core.config.election.1 * 2).await {
            return Ok(());
        }
    }
    Err(ClusterError::Unavailable("no other node took the lead in time".into()))
}

async fn lead_is_gone(core: &Core, limit: Duration) -> bool {
    let mut metrics = core.raft.metrics();
    let me = core.node_id();
    let deadline = Instant::now() + limit;
    loop {
        let leader = metrics.borrow_watched().current_leader;
        if leader.is_some_and(|leader| leader != me) {
            return true;
        }
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return false;
        }
        if let Ok(Err(_)) = tokio::time::timeout(rest, metrics.changed()).await {
            return true;
        }
    }
}

/// Hands the Raft lead over wherever it is.
///
/// # Errors
/// As [`transfer_here`], or when the leader does not answer.
pub(super) async fn transfer(core: &Core, to: Option<u64>) -> Result<(), ClusterError> {
    let leader = core.leader().ok_or_else(|| ClusterError::Unavailable("there is no leader".into()))?;
    if leader == core.node_id() {
        return transfer_here(core, to).await;
    }
    let unavailable = |status: tonic::Status| ClusterError::Unavailable(status.message().to_owned());
    let address = core.address(leader).ok_or_else(|| ClusterError::Unavailable("the leader's address is unknown".into()))?;
    let request = core.peers.request(leader, pb::TransferLeaderRequest { to });
    let mut client = core.service(&address).map_err(unavailable)?;
    match tokio::time::timeout(limits::SHUTDOWN_STEP, client.transfer_leader(request)).await {
        Ok(result) => result.map(drop).map_err(unavailable),
        Err(_) => Err(ClusterError::Unavailable(format!("the leader, node {leader}, does not answer"))),
    }
}
