//! The group of nodes: a Raft group which replicates the bus and elects who leads the background services.
//!
//! It promises that what is acknowledged is flushed on a majority; that every node applies the same entries in the same order;
//! that at most one node is *elected* to lead the services at a time, in epochs that only grow (a node may *believe* to lead a
//! moment longer: its writes must carry the epoch). openraft is an affair of this module alone.
//!
//! ```text
//!  Bus ──► batcher: gather ──► leader here? ──► proposer: stamp ──► Raft ──► log_store: flush on a majority
//!                         └──► forward: stream to the leader ──────┘              │
//!  Bus ◄── applied here ◄────────────────────────────────────── state_machine: BusState ◄┘
//! ```
//!
//! Raft and the listener for the other nodes run on two threads of their own, so that no work of the API delays a heartbeat.

mod batcher;
mod bootstrap;
mod compaction;
mod config;
mod convert;
mod core;
mod election;
mod forward;
mod identity;
mod leadership;
mod limits;
mod log_codec;
mod log_feed;
mod log_store;
mod log_tail;
mod membership;
mod network;
mod peers;
mod proposer;
mod replicated_bus;
mod rpc;
mod snapshots;
mod start;
mod state_machine;
mod status;
mod types;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio::time::Instant;

use self::core::Core;
use batcher::Batcher;
pub use config::{ClusterConfig, ClusterError, EXIT_STORAGE_FAILED, OnStorageFailure, Token};
pub use leadership::ServicesLeadership;
pub use log_feed::{Heard, LogFeed, LogSubscription};
use membership::Change;
use replicated_bus::ReplicatedBus;
pub use status::{ClusterStatus, GroupStatus, NodeStatus, StreamStatus};

use crate::bus::Bus;
use crate::bus::command::Command;
use crate::config::Failpoint;

/// Threads of Raft's own runtime: one may apply entries while the other answers heartbeats. With fewer than four cores
/// there is one, since two would only take turns, at the price of waking each other (a fifth of the bus's throughput
/// with three nodes on two cores).
fn raft_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, 2))
}

/// Who leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// This node; the others go on.
    Alone,
    /// The whole group.
    Together,
}

/// This node's place in the group. Dropping it ends the node as a crash would; [`Cluster::shutdown`] leaves in good order.
pub struct Cluster {
    core: Arc<Core>,
    batcher: Batcher,
    bus: Arc<ReplicatedBus>,
    services: watch::Receiver<ServicesLeadership>,
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Cluster {
    /// Opens what is on disk and takes part. Returns before the group has a leader; see [`Cluster::ready`].
    ///
    /// # Errors
    /// A configuration that cannot work, a data directory that is not this node's, a disk that fails, an address in use.
    pub async fn start(config: ClusterConfig) -> Result<Self, ClusterError> {
        config.validate()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(raft_threads())
            .thread_name("raft")
            .enable_all()
            .build()
            .map_err(ClusterError::storage("starting Raft's threads"))?;
        let (batcher, queue) = Batcher::new();
        let (leadership, services) = watch::channel(ServicesLeadership::unknown());
        let starting = runtime.spawn(start::open(config, batcher.clone(), queue, leadership));
        match starting.await {
            Ok(Ok(core)) => {
                let bus = Arc::new(ReplicatedBus::new(batcher.clone(), core.reader.clone()));
                let handle = runtime.handle().clone();
                Ok(Self { core, batcher, bus, services, handle, runtime: Some(runtime) })
            }
            Ok(Err(error)) => {
                runtime.shutdown_background();
                Err(error)
            }
            Err(error) => {
                runtime.shutdown_background();
                Err(ClusterError::Stopped(error.to_string()))
            }
        }
    }

    /// The replicated bus of this node.
    pub fn bus(&self) -> Arc<dyn Bus> {
        self.bus.clone()
    }

    /// Log lines of all nodes.
    pub fn logs(&self) -> LogFeed {
        self.core.logs.clone()
    }

    /// Whether this node leads the services, to watch.
    pub fn services_leadership(&self) -> watch::Receiver<ServicesLeadership> {
        self.services.clone()
    }

    /// Waits until this node has applied everything that was committed, anywhere, before this call.
    ///
    /// # Errors
    /// [`ClusterError::Unavailable`] when there is no leader, or no majority, within ten seconds.
    pub async fn read_barrier(&self) -> Result<(), ClusterError> {
        let core = self.core.clone();
        self.inside(async move { core.read_barrier(Instant::now() + limits::COMMAND_DEADLINE).await }).await
    }

    /// Gives up the lead of the services, if this node has it; the Raft leader elects another, or this one again.
    pub async fn resign_services(&self) {
        let services = self.core.reader.cluster().borrow().services;
        if let Some(services) = services.filter(|services| services.node == self.core.node_id()) {
            let command = Command::ResignServices { node: services.node, epoch: services.epoch };
            if let Err(error) = self.batcher.submit(command, limits::NODE_AWAY).await {
                // The others take over when this node is silent.
                tracing::warn!(%error, "the services' lead could not be given up in time");
            }
        }
    }

    /// Gives up the lead of the services for `rest`, because this node cannot do their work; others are elected before it
    /// meanwhile, and it again only where nobody else is there.
    ///
    /// # Errors
    /// When no other node is known to be there that may lead them; nothing is changed then.
    pub async fn hand_over_services(&self, rest: Duration) -> Result<(), ClusterError> {
        let view = self.core.reader.cluster().borrow().clone();
        let others = view.members.values().filter(|member| member.may_run_services && member.id != self.core.node_id());
        let up: Vec<u64> = self.core.peers_up();
        if !others.into_iter().any(|member| up.contains(&member.id)) {
            return Err(ClusterError::Unavailable("no other node may lead the services".into()));
        }
        *self.core.unwell_until.lock() = Some(Instant::now() + rest);
        // The election hears of it by the record of this member.
        let command = Command::SetMember(election::member(&self.core));
        self.batcher.submit(command, limits::NODE_AWAY).await.map(drop).map_err(|error| ClusterError::Unavailable(error.to_string()))
    }

    /// Stops Raft as a bug in it would, where a test has set that failpoint.
    pub async fn trip(&self, set: Option<Failpoint>) {
        if set == Some(Failpoint::RaftStops) {
            tracing::warn!("the failpoint is reached; Raft stops");
            drop(self.core.raft.shutdown().await);
        }
    }

    /// Takes node `id` into the group, which was started with an empty data directory and waits at `address` (`host:port`): as a
    /// learner, and as a voter once it has caught up. Again is nothing.
    ///
    /// # Errors
    /// [`ClusterError::Config`] when it makes no sense, [`ClusterError::Refused`] when node or group cannot bear it,
    /// [`ClusterError::Unavailable`] when it was not finished within a minute: asking again goes on with it.
    pub async fn add_member(&self, id: u64, address: String) -> Result<(), ClusterError> {
        let core = self.core.clone();
        self.inside(async move { membership::change(&core, Change::Add { id, address }).await }).await
    }

    /// Strikes node `id` off, alive or not; its id is never used again. Again is nothing.
    ///
    /// # Errors
    /// As [`Cluster::add_member`]; refused too where those that stay would have no majority that answers.
    pub async fn remove_member(&self, id: u64) -> Result<(), ClusterError> {
        let core = self.core.clone();
        self.inside(async move { membership::change(&core, Change::Remove { id }).await }).await
    }

    /// Hands the Raft lead to `to`, or to the most complete other voter.
    ///
    /// # Errors
    /// When nobody takes it in time.
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<(), ClusterError> {
        let core = self.core.clone();
        self.inside(async move { leadership::transfer(&core, to).await }).await
    }

    /// Runs a call to another node on Raft's own threads: its connection then lives there, and not with the API.
    async fn inside<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, ClusterError>> + Send + 'static,
    ) -> Result<T, ClusterError> {
        let spawned = {
            let _entered = self.handle.enter();
            self.core.tasks.spawn("cluster.call", call)
        };
        spawned.await.ok().flatten().unwrap_or_else(|| Err(ClusterError::Stopped("it is shutting down".into())))
    }

    /// The group as this node sees it.
    pub fn status(&self) -> ClusterStatus {
        status::status(&self.core)
    }

    /// Why this node's Raft has stopped, if it has: only a restart of the process helps then. For `/livez`.
    pub fn failed(&self) -> Option<String> {
        self.core.metrics().running_state.err().map(|fatal| format!("Raft has stopped: {fatal}"))
    }

    /// Whether this node can serve.
    ///
    /// # Errors
    /// With the reason why not, for `/readyz`.
    pub fn ready(&self) -> Result<(), String> {
        status::ready(&self.core)
    }

    /// Leaves in good order: gives up the services, brings what is queued to the log, hands over the Raft lead, stops. Every step
    /// is bounded in time. Where the whole group stops there is nobody to hand anything to.
    pub async fn shutdown(mut self, leaving: Leaving) {
        self.core.draining.store(true, Ordering::Relaxed);
        if leaving == Leaving::Alone {
            self.resign_services().await;
        }
        self.batcher.close();
        match leaving {
            Leaving::Alone if tokio::time::timeout(limits::SHUTDOWN_STEP, self.batcher.drained()).await.is_err() => {
                tracing::warn!("what is queued could not be brought to the log in time; its publishers were told nothing");
            }
            // The majority that it needs may be gone already.
            Leaving::Together if tokio::time::timeout(limits::SHUTDOWN_TOGETHER, self.batcher.drained()).await.is_err() => {
                tracing::info!("the whole group stops; what is still queued is not in the log, and its publishers were told nothing");
            }
            Leaving::Alone | Leaving::Together => {}
        }
        if leaving == Leaving::Alone && self.core.is_leader() && self.core.members().len() > 1 {
            let handed_over = tokio::time::timeout(limits::SHUTDOWN_STEP, leadership::transfer_here(&self.core, None)).await;
            if !matches!(handed_over, Ok(Ok(()))) {
                tracing::warn!("the Raft lead could not be handed over in time; the others elect another");
            }
        }
        // The grace is for tasks in the middle of a call to another node.
        self.core.tasks.shutdown(Duration::from_secs(1)).await;
        crate::telemetry::logs::raft_stops();
        if tokio::time::timeout(limits::SHUTDOWN_STEP, self.core.raft.shutdown()).await.is_err() {
            tracing::warn!("Raft did not stop in time");
        }
        if let Err(error) = self.core.log.flush().await {
            tracing::warn!(%error, "the log could not be flushed at the end; what was acknowledged is on disk");
        }
        if let Some(runtime) = self.runtime.take() {
            let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(limits::SHUTDOWN_STEP)).await;
            if ended.is_err() {
                tracing::warn!("Raft's threads did not end");
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.batcher.close();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
