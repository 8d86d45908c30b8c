//! Members that come and go while the group runs: `praetor cluster add` and `remove`.
//!
//! The Raft leader does it, one change at a time; whoever is asked passes it on. A node that comes is taken in as a learner, which
//! votes on nothing, and becomes a voter when it has caught up. One that goes loses its vote first and is then struck off the
//! bus's list of members; its id is never used again, and what it still says is not listened to. Each step is repeatable: a change
//! that was cut short is taken up where it stopped when it is asked for again.

use std::collections::BTreeSet;
use std::sync::Arc;

use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::bootstrap::{adopt, hello};
use super::config::{ClusterError, check_address};
use super::core::Core;
use super::types::{PeerNode, TypeConfig, cluster_pb as pb};
use super::{election, leadership, limits};
use crate::bus::command::{Command, Reply};

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Take a node in, which has been started and waits for it.
    Add {
        /// Never used in this group before.
        id: u64,
        /// `host:port` of its listener for the other nodes.
        address: String,
    },
    /// Strike a node off, for ever.
    Remove {
        /// A member, alive or not.
        id: u64,
    },
}

/// Makes the change wherever the leader is.
///
/// # Errors
/// [`ClusterError::Config`] when it makes no sense, [`ClusterError::Refused`] when the group or the node cannot bear it,
/// [`ClusterError::Unavailable`] when it was not finished in time: then asking again goes on with it.
pub(super) async fn change(core: &Arc<Core>, change: Change) -> Result<(), ClusterError> {
    let deadline = Instant::now() + limits::MEMBER_CHANGE;
    loop {
        let attempt = match core.leader() {
            None => Err(ClusterError::Unavailable("there is no leader".into())),
            Some(leader) if leader == core.node_id() => change_here(core, &change, deadline).await,
            Some(leader) => change_there(core, leader, &change, deadline).await,
        };
        match attempt {
            Err(ClusterError::Unavailable(reason)) if Instant::now() < deadline => {
                tracing::info!(?change, "the change of members is tried again: {reason}");
                tokio::time::sleep(limits::PEER_RETRY).await;
            }
            other => return other,
        }
    }
}

async fn change_there(core: &Core, leader: u64, change: &Change, deadline: Instant) -> Result<(), ClusterError> {
    let address = core.address(leader).ok_or_else(|| ClusterError::Unavailable("the leader's address is unknown".into()))?;
    let mut client = core.service(&address).map_err(error_from_wire)?;
    let request = core.peers.request(leader, change_to_wire(change));
    match tokio::time::timeout_at(deadline, client.change_members(request)).await {
        Ok(result) => result.map(drop).map_err(error_from_wire),
        Err(_) => Err(ClusterError::Unavailable(format!("the leader, node {leader}, has not finished it in time"))),
    }
}

/// Makes the change as the leader.
///
/// # Errors
/// As [`change`]; `Unavailable` too when this node does not lead.
pub(super) async fn change_here(core: &Arc<Core>, change: &Change, deadline: Instant) -> Result<(), ClusterError> {
    let Ok(_one_at_a_time) = core.changing_members.try_lock() else {
        return Err(ClusterError::Unavailable("another change of members is under way".into()));
    };
    if !core.is_leader() {
        return Err(ClusterError::Unavailable(format!("node {} is not the leader", core.node_id())));
    }
    let making = async {
        match change {
            Change::Add { id, address } => add(core, *id, address).await,
            Change::Remove { id } => remove(core, *id).await,
        }
    };
    match tokio::time::timeout_at(deadline, making).await {
        Ok(result) => result,
        Err(_) => Err(ClusterError::Unavailable("it is not finished yet; ask again and it goes on".into())),
    }
}

async fn add(core: &Arc<Core>, id: u64, address: &str) -> Result<(), ClusterError> {
    if id == 0 {
        return Err(ClusterError::Config("the node id 0 is not allowed: give every node its own number, from 1 on".into()));
    }
    check_address(address).map_err(|wrong| ClusterError::Config(format!("the address of node {id}, \"{address}\", {wrong}")))?;
    let view = core.reader.cluster().borrow().clone();
    if view.removed.contains(&id) {
        return Err(ClusterError::Refused(format!("node {id} was removed, and its id is never used again: start the node with another")));
    }
    let membership = core.metrics().membership_config;
    for (member, node) in membership.nodes() {
        if *member == id && node.address != address {
            return Err(ClusterError::Refused(format!("node {id} is a member already, at {}", node.address)));
        }
        if *member != id && node.address == address {
            return Err(ClusterError::Refused(format!("{address} is the address of node {member}; remove that one first")));
        }
    }
    if membership.voter_ids().any(|voter| voter == id) {
        return Ok(());
    }
    if membership.get_node(&id).is_none() {
        take_in(core, id, address).await?;
        let node = PeerNode { address: address.to_owned() };
        tell(core.raft.add_learner(id, node, false).await)?;
        tracing::info!(node.id = core.node_id(), added = id, address, "node {id} is a learner now, and catches up");
    }
    caught_up(core, id).await;
    tell(core.raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::from([id])), true).await)?;
    tracing::info!(node.id = core.node_id(), added = id, "node {id} is a voter of the group now");
    Ok(())
}

/// Gives the node that waits at `address` the cluster's id, so that it lets the leader's entries in.
async fn take_in(core: &Arc<Core>, id: u64, address: &str) -> Result<(), ClusterError> {
    let ours = core.identity.cluster_id().ok_or_else(|| ClusterError::Unavailable("the group is not founded yet".into()))?;
    let members = core.config.members();
    let unreachable = |reason: String| ClusterError::Unavailable(format!("node {id} at {address}: {reason}"));
    let theirs = hello(core, id, address, &members).await.map_err(unreachable)?;
    if !theirs.cluster_id.is_empty() && theirs.cluster_id != ours.to_string() {
        return Err(ClusterError::Refused(format!("node {id} belongs to cluster {} already, and this is {ours}", theirs.cluster_id)));
    }
    if theirs.initialized {
        return Err(ClusterError::Refused(format!("node {id} has a history already: start it with an empty data directory")));
    }
    adopt(core, id, address, ours, &members, true).await.map_err(unreachable)
}

/// Waits until little is missing in the log of learner `id`. Not bounded in time, since a snapshot may have to travel first.
async fn caught_up(core: &Core, id: u64) {
    loop {
        let metrics = core.metrics();
        let matching = metrics.replication.as_ref().and_then(|replication| replication.get(&id).copied().flatten());
        let missing = metrics.last_log_index.unwrap_or(0).saturating_sub(matching.map_or(0, |id| id.index));
        if matching.is_some() && missing <= limits::MEMBER_BEHIND_ENTRIES {
            return;
        }
        tokio::time::sleep(limits::PEER_RETRY).await;
    }
}

async fn remove(core: &Arc<Core>, id: u64) -> Result<(), ClusterError> {
    let membership = core.metrics().membership_config;
    let view = core.reader.cluster().borrow().clone();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    if voters.contains(&id) {
        let stay: Vec<u64> = voters.iter().copied().filter(|voter| *voter != id).collect();
        let alive = stay.iter().filter(|voter| election::is_alive(core, **voter)).count();
        if stay.is_empty() {
            return Err(ClusterError::Refused(format!("node {id} is the only voter of its group")));
        }
        if alive * 2 <= stay.len() {
            return Err(ClusterError::Refused(format!(
                "without node {id} there would be {} voters, of which {alive} answer: the group would stand still. Bring others back, \
                 or add one, before this one goes",
                stay.len()
            )));
        }
        if id == core.node_id() {
            leadership::transfer_here(core, None).await?;
            return Err(ClusterError::Unavailable("the lead was handed over; its new holder removes this node".into()));
        }
        tell(core.raft.change_membership(ChangeMembers::RemoveVoters(BTreeSet::from([id])), false).await)?;
    } else if membership.get_node(&id).is_some() {
        tell(core.raft.change_membership(ChangeMembers::RemoveNodes(BTreeSet::from([id])), false).await)?;
    } else if view.removed.contains(&id) {
        return Ok(());
    } else if !view.members.contains_key(&id) {
        return Err(ClusterError::Config(format!("node {id} is no member of this group")));
    }
    match core.batcher.submit(Command::RemoveMember { id }, limits::COMMAND_DEADLINE).await {
        Ok(Reply::Done) => {
            tracing::info!(node.id = core.node_id(), removed = id, "node {id} was removed from the group");
            Ok(())
        }
        Ok(other) => Err(ClusterError::Refused(format!("node {id} could not be struck off: {other:?}"))),
        Err(error) => Err(ClusterError::Unavailable(error.to_string())),
    }
}

/// What Raft said to a change.
fn tell<T>(result: Result<T, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>) -> Result<(), ClusterError> {
    match result {
        Ok(_) => Ok(()),
        Err(RaftError::Fatal(fatal)) => Err(ClusterError::Stopped(fatal.to_string())),
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error @ ChangeMembershipError::EmptyMembership(_)))) => {
            Err(ClusterError::Refused(error.to_string()))
        }
        // Another leader, or a change that an earlier leader began: all passes.
        Err(RaftError::APIError(error)) => Err(ClusterError::Unavailable(error.to_string())),
    }
}

fn change_to_wire(change: &Change) -> pb::ChangeMembersRequest {
    use pb::change_members_request::{Add, Change as Wire, Remove};
    let change = match change {
        Change::Add { id, address } => Wire::Add(Add { id: *id, address: address.clone() }),
        Change::Remove { id } => Wire::Remove(Remove { id: *id }),
    };
    pb::ChangeMembersRequest { change: Some(change) }
}

/// A change as another node sent it on.
///
/// # Errors
/// `INVALID_ARGUMENT` where a newer version means something that this one does not know.
pub(super) fn change_from_wire(request: pb::ChangeMembersRequest) -> Result<Change, Status> {
    use pb::change_members_request::{Add, Change as Wire, Remove};
    match request.change {
        Some(Wire::Add(Add { id, address })) => Ok(Change::Add { id, address }),
        Some(Wire::Remove(Remove { id })) => Ok(Change::Remove { id }),
        None => Err(Status::invalid_argument("the leader is of another version and does not know this change of members")),
    }
}

/// How a leader's refusal travels.
pub(super) fn error_to_wire(error: &ClusterError) -> Status {
    let code = match error {
        ClusterError::Config(_) => Code::InvalidArgument,
        ClusterError::Refused(_) => Code::FailedPrecondition,
        _ => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

fn error_from_wire(status: Status) -> ClusterError {
    let reason = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument => ClusterError::Config(reason),
        Code::FailedPrecondition => ClusterError::Refused(reason),
        Code::Unimplemented => ClusterError::Refused("the leader's version cannot change members yet; update it first".into()),
        _ => ClusterError::Unavailable(reason),
    }
}
