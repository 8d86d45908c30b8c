//! The start of a node: what is on disk is opened, Raft begins, and the tasks that keep a node going.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::Stream;
use openraft::storage::RaftLogStorage;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::server::{Connected, TcpIncoming};

use super::batcher::{self, Batcher, Queue};
use super::config::{ClusterConfig, ClusterError};
use super::core::{Contact, Core, Raft};
use super::identity::Identity;
use super::leadership::{self, ServicesLeadership};
use super::log_feed::{self, LogFeed};
use super::log_store::{Log, LogStore};
use super::peers::{Dial, Peers, Tcp};
use super::proposer::Proposer;
use super::snapshots::Snapshots;
use super::state_machine::{Progress, StateMachine};
use super::types::TypeConfig;
use super::{bootstrap as founding, compaction, election, limits, network, rpc, status};
use crate::bus::state::BusState;
use crate::task::Tasks;

/// What a node stands on: the machine in a process, a made-up one in a simulation.
pub(super) struct Ground<L, I> {
    /// Its durable log.
    pub log: L,
    /// Connections of the other nodes. A group of one has none.
    pub incoming: Option<I>,
    /// Connections to the other nodes.
    pub dial: Arc<dyn Dial>,
}

/// Takes part on this machine. Runs on Raft's runtime, so that openraft's tasks stay there.
pub(super) async fn open(
    config: ClusterConfig,
    batcher: Batcher,
    queue: Queue,
    leadership: watch::Sender<ServicesLeadership>,
) -> Result<Arc<Core>, ClusterError> {
    let identity = Arc::new(Identity::open(&config.data_dir, config.node_id)?);
    let incoming = match config.listen {
        Some(address) => {
            let listener = TcpListener::bind(address).await.map_err(|source| ClusterError::Listen { address, source })?;
            Some(TcpIncoming::from(listener).with_nodelay(Some(true)))
        }
        None => None,
    };
    let log = LogStore::open(&config.data_dir.join("raft"), config.on_storage_failure.clone())
        .map_err(ClusterError::storage("opening the Raft log"))?;
    join(config, identity, Ground { log, incoming, dial: Arc::new(Tcp) }, batcher, queue, leadership).await
}

/// Takes part, on whatever ground.
pub(super) async fn join<L, I, IO>(
    config: ClusterConfig,
    identity: Arc<Identity>,
    ground: Ground<L, I>,
    batcher: Batcher,
    queue: Queue,
    leadership: watch::Sender<ServicesLeadership>,
) -> Result<Arc<Core>, ClusterError>
where
    L: Log + RaftLogStorage<TypeConfig> + Clone,
    I: Stream<Item = std::io::Result<IO>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let Ground { log, incoming, dial } = ground;
    if identity.has_history() && log.is_pristine() {
        return Err(ClusterError::Refused(format!(
            "node {} has taken part in cluster {}, and its Raft log is gone: a node that lost its log must come back as a new one, \
             with an empty data directory and an id that was never used",
            config.node_id,
            identity.cluster_id().unwrap_or_default()
        )));
    }
    let snapshots = Arc::new(Snapshots::open(&config.data_dir.join("snapshots")).map_err(ClusterError::storage("opening the snapshots"))?);
    let (state, reader) = BusState::open(&config.data_dir.join("bus"), config.bus.clone())?;
    let progress = Progress::new();
    let machine = StateMachine::new(state, progress.clone(), snapshots.clone(), config.on_storage_failure.clone());
    let peers = Peers::new(identity.clone(), config.token.clone(), dial);
    let raft: Raft = openraft::Raft::new(
        config.node_id,
        Arc::new(raft_config(&config)?),
        network::NetworkFactory { peers: peers.clone() },
        log.clone(),
        machine,
    )
    .await
    .map_err(|fatal| ClusterError::Stopped(fatal.to_string()))?;
    let proposer = Proposer::new(raft.clone(), progress.clone(), config.clock.clone());
    let core = Arc::new(Core {
        config,
        identity,
        peers,
        raft,
        log: Arc::new(log),
        snapshots,
        progress,
        reader,
        proposer,
        contact: Contact::new(),
        batcher: batcher.clone(),
        changing_members: tokio::sync::Mutex::new(()),
        tasks: Tasks::new(),
        draining: AtomicBool::new(false),
        unwell_until: parking_lot::Mutex::new(None),
        unfit: parking_lot::Mutex::new(None),
        probes: parking_lot::Mutex::default(),
        recovered: AtomicBool::new(false),
        logs: LogFeed::default(),
    });
    let tasks = &core.tasks;
    if let Some(incoming) = incoming {
        let stopping = tasks.stopping();
        let serving = rpc::serve(core.clone(), incoming);
        tasks.spawn("cluster.rpc", async move {
            tokio::select! {
                biased;
                () = serving => {}
                () = stopping.cancelled() => {}
            }
        });
    }
    tasks.spawn("cluster.batcher", batcher::run(core.clone(), queue));
    tasks.spawn("cluster.bootstrap", bootstrap(core.clone()));
    tasks.spawn("cluster.election", election::run(core.clone(), batcher.clone()));
    tasks.spawn("cluster.leadership", leadership::watch_services(core.clone(), leadership));
    tasks.spawn("cluster.compaction", compaction::run(core.clone(), batcher));
    tasks.spawn("cluster.probe", status::probe(core.clone()));
    tasks.spawn("cluster.log_feed", log_feed::follow_others(core.clone()));
    Ok(core)
}

async fn bootstrap(core: Arc<Core>) {
    let newcomer = core.log.is_pristine();
    founding::bootstrap(core.clone()).await;
    if core.unfit.lock().is_some() {
        return;
    }
    if let Err(error) = core.identity.begin_history() {
        core.set_unfit(error.to_string());
        return;
    }
    let stopping = core.tasks.stopping();
    tokio::select! {
        biased;
        recovered = recover(&core, newcomer) => core.recovered.store(recovered, Ordering::Relaxed),
        () = stopping.cancelled() => {}
    }
}

/// Waits until everything is applied that this node knew before its last stop; a newcomer, which knew nothing, waits for what the
/// group had when it came.
async fn recover(core: &Core, newcomer: bool) -> bool {
    if core.raft.wait_for_recovery(None).await.is_err() {
        return false;
    }
    if !newcomer {
        return true;
    }
    loop {
        match core.read_barrier(Instant::now() + limits::COMMAND_DEADLINE).await {
            Ok(()) => return true,
            Err(ClusterError::Stopped(_)) => return false,
            // No leader, or much to catch up on.
            Err(error) => tracing::debug!(%error, "this node does not know yet what the group has"),
        }
    }
}

fn raft_config(config: &ClusterConfig) -> Result<openraft::Config, ClusterError> {
    let shortest = config.election.0.as_millis() as u64;
    let raft = openraft::Config {
        cluster_name: "praetor".into(),
        heartbeat_interval: config.heartbeat.as_millis() as u64,
        election_timeout_min: shortest,
        election_timeout_max: (config.election.1.as_millis() as u64).max(shortest + 1),
        enable_pre_vote: Some(true),
        // The state is rebuilt from snapshot and log at every start; only a leader elected anew knows what is committed.
        enable_leader_restore: Some(false),
        // `compaction` decides when.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: limits::LOG_KEPT_ENTRIES,
        // A follower is sent a snapshot when the log it needs is gone, not when it merely lags.
        replication_lag_threshold: u64::MAX / 2,
        install_snapshot_timeout: limits::SNAPSHOT_TRANSFER.as_millis() as u64,
        purge_batch_size: 1024,
        ..Default::default()
    };
    raft.validate().map_err(|error| ClusterError::Config(format!("the times of the group do not fit together: {error}")))
}
