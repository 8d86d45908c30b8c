//! The election of the services' leader. The Raft leader holds it, by a replicated command; its log index is the epoch.
//!
//! It is renewed at once when the Raft leader changes: the new one takes the services itself if it may. After that it moves only
//! when who leads has not answered heartbeats for a second, has resigned, or was started anew.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::batcher::Batcher;
use super::core::Core;
use super::limits;
use crate::bus::command::{Command, Member, Reply};
use crate::bus::state::ClusterView;

/// This node as the group shall know it.
pub(super) fn member(core: &Core) -> Member {
    Member {
        id: core.node_id(),
        http_address: core.config.http_address.clone(),
        peer_address: core.config.members().remove(&core.node_id()).unwrap_or_default(),
        version: core.config.version.clone(),
        may_run_services: core.may_run_services(),
        incarnation: core.identity.starts(),
    }
}

/// Registers this node, and again when the group knows something else of it; as Raft leader, keeps a services leader elected.
pub(super) async fn run(core: Arc<Core>, batcher: Batcher) {
    let mut tick = interval(limits::ELECTION_LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut view = core.reader.cluster();
    let mut metrics = core.raft.server_metrics();
    let stopping = core.tasks.stopping();
    // The leadership (term and node) in which the election was renewed.
    let mut renewed = None;
    let mut nobody_since: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            _ = tick.tick() => {}
            _ = view.changed() => {}
            changed = openraft::async_runtime::WatchReceiver::changed(&mut metrics) => if changed.is_err() { break },
        }
        if core.is_draining() {
            continue;
        }
        let current = view.borrow_and_update().clone();
        // A node that is unwell is better than none.
        match nobody_since {
            _ if current.services.is_some() => nobody_since = None,
            None => nobody_since = Some(Instant::now()),
            Some(since) if since.elapsed() > limits::NODE_AWAY * 2 => *core.unwell_until.lock() = None,
            Some(_) => {}
        }
        if core.is_leader() {
            lead(&core, &batcher, &current, &mut renewed).await;
        } else {
            renewed = None;
            let me = member(&core);
            if core.leader().is_some() && current.members.get(&me.id) != Some(&me) {
                submit(&batcher, Command::SetMember(me)).await;
            }
        }
    }
}

async fn lead(core: &Core, batcher: &Batcher, view: &ClusterView, renewed: &mut Option<(u64, u64)>) {
    let vote = core.metrics().vote;
    let leadership = (vote.leader_id.term, vote.leader_id.node_id);
    if *renewed != Some(leadership) {
        if let (None, Some(id)) = (view.cluster_id, core.identity.cluster_id()) {
            submit(batcher, Command::FoundCluster { id }).await;
        }
        if submit(batcher, Command::SetMember(member(core))).await != Some(Reply::Done) {
            return;
        }
        // Unconditional: whatever another leader proposed stands before this in the log. Who is preferred may have registered
        // only now, so the view is read again.
        let view = core.reader.cluster().borrow().clone();
        match preferred(core, &view) {
            Some(node) => {
                if elect(core, batcher, node, None).await {
                    *renewed = Some(leadership);
                }
            }
            None => *renewed = Some(leadership),
        }
        if renewed.is_some() {
            propose_rules(core, batcher).await;
        }
        return;
    }
    let me = member(core);
    if view.members.get(&me.id) != Some(&me) {
        submit(batcher, Command::SetMember(me)).await;
        return;
    }
    let vacant = match view.services {
        None => true,
        Some(services) => !is_alive(core, services.node),
    };
    if !vacant {
        return;
    }
    if let Some(node) = preferred(core, view) {
        elect(core, batcher, node, Some(view.newest_epoch)).await;
    } else if let Some(services) = view.services {
        // Nobody can follow it, and all shall know.
        submit(batcher, Command::ResignServices { node: services.node, epoch: services.epoch }).await;
    }
}

/// Brings the bounds of the bus to what this node, which leads the group, is set to. Once per leadership: a group whose nodes
/// are set differently follows the one that leads, and does not quarrel.
async fn propose_rules(core: &Core, batcher: &Batcher) {
    let rules = &core.config.rules;
    if core.reader.rules() == *rules {
        return;
    }
    match submit(batcher, Command::SetRules(rules.clone())).await {
        Some(Reply::Done) => tracing::info!(?rules, "the bounds of the bus are now those of node {}", core.node_id()),
        Some(Reply::Refused(reason)) => tracing::warn!("the bounds of the bus stay as they were: {reason}"),
        // The next leadership tries again.
        other => tracing::warn!(?other, "the bounds of the bus could not be changed"),
    }
}

async fn elect(core: &Core, batcher: &Batcher, node: u64, replaces: Option<u64>) -> bool {
    match submit(batcher, Command::ElectServices { node, replaces }).await {
        Some(Reply::Elected(epoch)) => {
            tracing::info!(node.id = core.node_id(), services_leader = node, epoch, "node {node} was elected to lead the services");
            true
        }
        Some(other) => {
            tracing::debug!(?other, "the election of node {node} was not taken; it is tried again");
            false
        }
        None => false,
    }
}

/// This node if it may, otherwise the member that may, lives and has the lowest id; one that leads already and lives stays only
/// if this node may not.
fn preferred(core: &Core, view: &ClusterView) -> Option<u64> {
    if core.may_run_services() {
        return Some(core.node_id());
    }
    let may = |id: &u64| is_alive(core, *id);
    let current = view.services.map(|services| services.node).filter(may);
    current.or_else(|| others_that_may(core, view).next())
}

/// The other members that may lead the services and live, by id.
pub(super) fn others_that_may(core: &Core, view: &ClusterView) -> impl Iterator<Item = u64> {
    let others = view.members.values().filter(|member| member.may_run_services && member.id != core.node_id());
    let ids: Vec<u64> = others.map(|member| member.id).collect();
    let alive: Vec<u64> = ids.into_iter().filter(|id| is_alive(core, *id)).collect();
    alive.into_iter()
}

/// Whether a node answered this leader's heartbeats within [`limits::NODE_AWAY`].
pub(super) fn is_alive(core: &Core, node: u64) -> bool {
    if node == core.node_id() {
        return true;
    }
    let metrics = core.metrics();
    let acked = metrics.heartbeat.as_ref().and_then(|heartbeat| heartbeat.get(&node).copied().flatten());
    acked.is_some_and(|acked| acked.elapsed() < limits::NODE_AWAY)
}

async fn submit(batcher: &Batcher, command: Command) -> Option<Reply> {
    let replies = batcher.submit(command, Duration::from_secs(1)).await;
    replies.inspect_err(|error| tracing::debug!(%error, "a command of the cluster itself is tried again")).ok()
}
