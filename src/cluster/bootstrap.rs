//! How a group comes into being: once, from the list of peers that every node was started with.
//!
//! The node with the lowest id waits until every listed node has answered, has the same list, and knows of no other cluster.
//! It then chooses the cluster's id, gives it to all, and only then starts Raft's history. Whatever fails on the way is taken up
//! again: an id that some of them already have is kept. A node without an id that finds the others with a history has lost its
//! disk, and must not vote under its old number: it says so and stays out. One of which the others' history knows nothing waits
//! until it is added ([`membership`](super::membership)).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::core::Core;
use super::types::{PeerNode, cluster_pb as pb};
use super::{limits, rpc};

/// Brings this node into its group; returns when it has an id and a history, or cannot have one.
pub(super) async fn bootstrap(core: Arc<Core>) {
    let members = core.config.members();
    let stopping = core.tasks.stopping();
    let mut said = None;
    loop {
        let step = if members.len() == 1 { found_alone(&core).await } else { step(&core, &members).await };
        let waiting_for = match step {
            Step::Done => return,
            Step::Never(reason) => return core.set_unfit(reason),
            Step::Wait(reason) => reason,
        };
        if said.as_ref() != Some(&waiting_for) {
            tracing::info!(node.id = core.node_id(), "waiting for the group: {waiting_for}");
            said = Some(waiting_for);
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
            () = stopping.cancelled() => return,
        }
    }
}

enum Step {
    Done,
    Wait(String),
    Never(String),
}

async fn found_alone(core: &Core) -> Step {
    if !core.log.is_pristine() {
        return Step::Done;
    }
    let id = core.identity.cluster_id().unwrap_or_else(new_cluster_id);
    found(core, id, &core.config.members()).await
}

async fn step(core: &Arc<Core>, members: &BTreeMap<u64, String>) -> Step {
    if core.identity.cluster_id().is_some() && !core.log.is_pristine() {
        return Step::Done;
    }
    let me = core.node_id();
    let mut ids = Vec::new();
    let mut missing = Vec::new();
    for (node, address) in members.iter().filter(|(node, _)| **node != me) {
        match hello(core, *node, address, members).await {
            Ok(reply) => {
                if reply.initialized {
                    return beside_history(core, *node, &reply, &members[&me]);
                }
                let theirs: BTreeMap<u64, String> = reply.peers.into_iter().collect();
                if theirs != *members {
                    missing.push(format!("node {node} was started with another list of peers"));
                    continue;
                }
                if let Ok(id) = reply.cluster_id.parse::<Uuid>() {
                    ids.push((*node, id));
                }
            }
            Err(reason) => missing.push(format!("node {node} at {address}: {reason}")),
        }
    }
    if let Some(mine) = core.identity.cluster_id() {
        ids.push((me, mine));
    }
    if let (Some((first, id)), Some((other, different))) = (ids.first(), ids.iter().find(|(_, id)| *id != ids[0].1)) {
        return Step::Never(format!(
            "node {first} belongs to cluster {id} and node {other} to cluster {different}: start those with empty data directories \
             that do not belong to the cluster you want"
        ));
    }
    if !missing.is_empty() {
        return Step::Wait(missing.join("; "));
    }
    if members.keys().next() != Some(&me) {
        // The one with the lowest id acts; Raft reaches this node when it has.
        return Step::Wait("the node with the lowest id founds it".into());
    }
    let id = ids.first().map_or_else(new_cluster_id, |(_, id)| *id);
    for (node, address) in members.iter().filter(|(node, _)| **node != me) {
        if let Err(reason) = adopt(core, *node, address, id, members, false).await {
            return Step::Wait(format!("node {node} at {address}: {reason}"));
        }
    }
    found(core, id, members).await
}

/// Where node `other` has a history and this one has none.
fn beside_history(core: &Core, other: u64, reply: &pb::HelloReply, address: &str) -> Step {
    let me = core.node_id();
    match core.identity.cluster_id() {
        Some(mine) if mine.to_string() != reply.cluster_id => Step::Never(format!(
            "node {me} belongs to cluster {mine} and node {other} to cluster {}: start those with empty data directories that do not \
             belong to the cluster you want",
            reply.cluster_id
        )),
        // Founded, or taken in, a moment ago.
        Some(_) => Step::Wait("the leader's first entries".into()),
        None if reply.removed.contains(&me) => Step::Never(rpc::removed(me)),
        None if reply.members.contains_key(&me) => Step::Never(format!(
            "node {me} has an empty data directory, and node {other} belongs to cluster {} since long: a node that lost its disk must \
             come back as a new one. Remove node {me} (`praetor cluster remove {me}`), start this one with an id that was never used, and \
             add it (`praetor cluster add ID={address}`)",
            reply.cluster_id
        )),
        None => Step::Wait(format!(
            "cluster {} has no node {me} yet: `praetor cluster add {me}={address}`, asked of any of its nodes, takes it in",
            reply.cluster_id
        )),
    }
}

async fn found(core: &Core, id: Uuid, members: &BTreeMap<u64, String>) -> Step {
    if let Err(error) = core.identity.adopt(id) {
        return Step::Never(error.to_string());
    }
    let nodes: BTreeMap<u64, PeerNode> = members.iter().map(|(node, address)| (*node, PeerNode { address: address.clone() })).collect();
    match core.raft.initialize(nodes).await {
        Ok(()) => {
            tracing::info!(node.id = core.node_id(), cluster.id = %id, "cluster {id} was founded with {} nodes", members.len());
            Step::Done
        }
        Err(error) if error.fatal().is_some() => Step::Never(error.to_string()),
        // Somebody's vote or entries are here already: there is a history.
        Err(error) => {
            tracing::debug!(%error, "the group has a history already");
            Step::Done
        }
    }
}

/// Asks a node at `address` who it is.
///
/// # Errors
/// Why it does not tell.
pub(super) async fn hello(core: &Core, node: u64, address: &str, members: &BTreeMap<u64, String>) -> Result<pb::HelloReply, String> {
    let message = pb::HelloRequest { node_id: core.node_id(), peers: members.iter().map(|(id, address)| (*id, address.clone())).collect() };
    let mut client = core.service(address).map_err(|status| status.message().to_owned())?;
    match tokio::time::timeout(limits::NODE_AWAY, client.hello(core.peers.request(node, message))).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) if status.code() == tonic::Code::Unavailable => Err("cannot be reached".into()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("does not answer".into()),
    }
}

/// Makes a node at `address` one of cluster `id`'s: one that was started with the same list of members, or any if it is to `join`.
///
/// # Errors
/// Why it does not want to be.
pub(super) async fn adopt(
    core: &Core,
    node: u64,
    address: &str,
    id: Uuid,
    members: &BTreeMap<u64, String>,
    join: bool,
) -> Result<(), String> {
    let peers = members.iter().map(|(id, address)| (*id, address.clone())).collect();
    let message = pb::AdoptRequest { cluster_id: id.to_string(), peers, join };
    let mut client = core.service(address).map_err(|status| status.message().to_owned())?;
    match tokio::time::timeout(limits::NODE_AWAY, client.adopt(core.peers.request(node, message))).await {
        Ok(result) => result.map(drop).map_err(|status| status.message().to_owned()),
        Err(_) => Err("does not answer".into()),
    }
}

fn new_cluster_id() -> Uuid {
    crate::id::v4()
}
