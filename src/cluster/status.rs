//! What operators see of the group, from any node.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::ServerState;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use super::core::Core;
use super::limits;
use super::replicated_bus;
use super::types::cluster_pb as pb;
use crate::config::Planted;
use crate::telemetry::metrics as telemetry;

/// The group as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// Absent until the group was founded.
    pub cluster_id: Option<Uuid>,
    /// Who says this.
    pub node_id: u64,
    /// Of this node: `leader`, `follower`, `learner`, `candidate` or `stopped`.
    pub role: &'static str,
    /// The Raft leader.
    pub leader: Option<u64>,
    /// Who leads the background services.
    pub services_leader: Option<u64>,
    /// Of the newest services election; 0 before the first.
    pub epoch: u64,
    /// Raft's term.
    pub term: u64,
    /// Index of the newest entry in this node's log.
    pub log_index: u64,
    /// Index of the newest entry applied here.
    pub applied_index: u64,
    /// Why this node cannot take part, if it cannot.
    pub error: Option<String>,
    /// By id.
    pub nodes: Vec<NodeStatus>,
    /// By name.
    pub streams: Vec<StreamStatus>,
}

/// One node of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Its id.
    pub id: u64,
    /// Its process; absent until it was heard of.
    pub pid: Option<u32>,
    /// Where clients reach it; empty if it serves none.
    pub http: String,
    /// Where the others reach it.
    pub peer: String,
    /// As in [`ClusterStatus::role`]; `unknown` until it was heard of.
    pub role: String,
    /// Whether it answered within the last seconds.
    pub up: bool,
    /// Of its program.
    pub version: String,
    /// Whether it may lead the services.
    pub may_run_services: bool,
    /// Index of the newest entry in its log.
    pub log_index: u64,
    /// Index of the newest entry it has applied.
    pub applied_index: u64,
}

/// One stream of the bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamStatus {
    /// Its name.
    pub name: String,
    /// Entries that can be read.
    pub entries: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Position of the newest entry.
    pub last: u64,
    /// By name.
    pub groups: Vec<GroupStatus>,
}

/// One consumer group of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// Up to where it needs nothing any more.
    pub position: u64,
    /// Entries after that.
    pub behind: u64,
}

/// What the other nodes last said, and when.
pub(super) type Probes = BTreeMap<u64, (Instant, pb::ProbeReply)>;

pub(super) fn status(core: &Core) -> ClusterStatus {
    let metrics = core.metrics();
    let view = core.reader.cluster().borrow().clone();
    let probes = core.probes.lock().clone();
    let me = probe_reply(core);
    let mut nodes = Vec::new();
    for (id, node) in metrics.membership_config.nodes() {
        let member = view.members.get(id);
        let (said, up) = if *id == core.node_id() {
            (Some(&me), true)
        } else {
            let probe = probes.get(id);
            (probe.map(|(_, said)| said), probe.is_some_and(|(at, _)| at.elapsed() < limits::PROBE_EVERY * 2))
        };
        nodes.push(NodeStatus {
            id: *id,
            pid: said.map(|said| said.pid),
            http: said.map(|said| &said.http).or(member.map(|member| &member.http_address)).cloned().unwrap_or_default(),
            peer: node.address.clone(),
            role: said.map_or_else(|| "unknown".to_owned(), |said| said.role.clone()),
            up,
            version: said.map(|said| &said.version).or(member.map(|member| &member.version)).cloned().unwrap_or_default(),
            may_run_services: said.map(|said| said.may_run_services).or(member.map(|member| member.may_run_services)).unwrap_or_default(),
            log_index: said.map_or(0, |said| said.log_index),
            applied_index: said.map_or(0, |said| said.applied_index),
        });
    }
    let streams = core.reader.streams().into_iter().map(|stream| StreamStatus {
        name: stream.topic.name().to_owned(),
        entries: (stream.last + 1).saturating_sub(stream.first),
        bytes: stream.bytes,
        last: stream.last,
        groups: stream
            .groups
            .into_iter()
            .map(|(name, position)| GroupStatus { name, position, behind: stream.last.saturating_sub(position) })
            .collect(),
    });
    let hidden = u64::from(Planted::EpochBack.is_here() && metrics.last_log_index.unwrap_or(0) % 2 == 1);
    ClusterStatus {
        cluster_id: core.identity.cluster_id(),
        node_id: core.node_id(),
        role: role(core),
        leader: metrics.current_leader,
        services_leader: view.services.map(|services| services.node),
        epoch: view.newest_epoch.saturating_sub(hidden),
        term: metrics.current_term,
        log_index: metrics.last_log_index.unwrap_or(0),
        applied_index: metrics.last_applied.map_or(0, |id| id.index),
        error: core.unfit.lock().clone(),
        nodes,
        streams: streams.collect(),
    }
}

fn role(core: &Core) -> &'static str {
    let metrics = core.metrics();
    if metrics.running_state.is_err() {
        return "stopped";
    }
    match metrics.state {
        ServerState::Leader => "leader",
        ServerState::Follower => "follower",
        ServerState::Learner => "learner",
        ServerState::Candidate => "candidate",
        ServerState::Shutdown => "stopped",
    }
}

/// How this node is doing, for the others.
pub(super) fn probe_reply(core: &Core) -> pb::ProbeReply {
    let metrics = core.metrics();
    pb::ProbeReply {
        node_id: core.node_id(),
        pid: std::process::id(),
        http: core.config.http_address.clone(),
        version: core.config.version.clone(),
        log_index: metrics.last_log_index.unwrap_or(0),
        applied_index: metrics.last_applied.map_or(0, |id| id.index),
        role: role(core).to_owned(),
        term: metrics.current_term,
        may_run_services: core.config.may_run_services,
    }
}

/// Whether this node can serve: it belongs to a group, follows a leader that a majority follows, and has applied everything that it
/// knew before its last stop.
///
/// # Errors
/// With the reason why not.
pub(super) fn ready(core: &Core) -> Result<(), String> {
    if let Some(reason) = core.unfit.lock().as_ref() {
        return Err(reason.clone());
    }
    let metrics = core.metrics();
    if let Err(fatal) = &metrics.running_state {
        return Err(format!("Raft has stopped: {fatal}"));
    }
    if core.identity.cluster_id().is_none() {
        return Err("the group is not founded yet: not all nodes have met".into());
    }
    if metrics.current_leader.is_none() {
        return Err("there is no Raft leader".into());
    }
    match core.quorum_age() {
        Some(age) if age < limits::NODE_AWAY * 2 => {}
        Some(age) => return Err(format!("no majority was heard of for {:.1} s", age.as_secs_f64())),
        None => return Err("no majority was heard of yet".into()),
    }
    if !core.recovered.load(std::sync::atomic::Ordering::Relaxed) {
        return Err("the log is being applied after the start".into());
    }
    Ok(())
}

/// Asks the others how they are, until the node stops.
pub(super) async fn probe(core: Arc<Core>) {
    let mut tick = interval(limits::PROBE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopping = core.tasks.stopping();
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            _ = tick.tick() => {}
        }
        record(&core);
        let metrics = core.metrics();
        let others: Vec<(u64, String)> = metrics
            .membership_config
            .nodes()
            .filter(|(id, _)| **id != core.node_id())
            .map(|(id, node)| (*id, node.address.clone()))
            .collect();
        let asked = others.iter().map(|(id, address)| ask(&core, *id, address));
        let answers = futures_util::future::join_all(asked).await;
        let mut probes = core.probes.lock();
        probes.retain(|id, _| others.iter().any(|(other, _)| other == id));
        for reply in answers.into_iter().flatten() {
            probes.insert(reply.node_id, (Instant::now(), reply));
        }
    }
}

/// Tells the metrics what changes without anybody asking.
fn record(core: &Core) {
    let applied = *core.progress.applied().borrow();
    telemetry::cluster(core.is_leader(), core.metrics().current_term, applied);
    for stream in core.reader.streams() {
        if let Some(label) = replicated_bus::label(&stream.topic) {
            telemetry::bus_stream(label, (stream.last + 1).saturating_sub(stream.first), stream.bytes);
        }
    }
}

async fn ask(core: &Core, id: u64, address: &str) -> Option<pb::ProbeReply> {
    let mut client = core.service(address).ok()?;
    let request = core.peers.request(id, pb::ProbeRequest {});
    match tokio::time::timeout(limits::PROBE_EVERY, client.probe(request)).await.ok()? {
        Ok(reply) => Some(reply.into_inner()).filter(|reply| reply.node_id == id),
        Err(status) => {
            if status.code() == tonic::Code::PermissionDenied && core.unfit.lock().is_none() {
                core.set_unfit(status.message().to_owned());
            }
            None
        }
    }
}
