//! The node's place in its group, from settings; and what `/readyz` and the metrics tell of it.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Role;
use crate::bus::rules::{Limits, Rules};
use crate::clock::SystemClock;
use crate::cluster::{Cluster, ClusterConfig, ServicesLeadership, Token};
use crate::config::{Failpoint, Settings};
use crate::limits;
use crate::services::driver::Leadership;
use crate::task::Tasks;
use crate::telemetry::metrics;
use crate::telemetry::readiness::Readiness;

/// The group's part in `/readyz`.
pub(super) const GROUP: &str = "cluster";

/// How often this node looks at its place.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long a node that was ready may be without a leader and still count as ready: an election takes about half a
/// second, and meanwhile it serves reads and takes what it can.
const ELECTION_GRACE: Duration = Duration::from_secs(3);

/// Joins the group.
pub(super) async fn join(settings: &Settings, role: Role, http: SocketAddr) -> anyhow::Result<Arc<Cluster>> {
    let ours = &settings.cluster;
    let listen = match &ours.listen {
        Some(address) => Some(resolve(address).await?),
        None => None,
    };
    let token = ours.token.as_ref().map(|token| Token::new(token.expose())).transpose()?;
    let config = ClusterConfig {
        listen,
        peers: ours.peers.clone(),
        http_address: if role == Role::Server { advertised(settings, http) } else { String::new() },
        may_run_services: settings.services.may_lead,
        token,
        heartbeat: ours.heartbeat,
        election: (ours.election_min, ours.election_max),
        bus: Limits { hot_bytes_max: settings.bus.hot_bytes_max, cache_bytes_max: settings.bus.cache_bytes_max },
        rules: Rules {
            backlog_bytes_max: settings.bus.backlog_bytes_max,
            dedupe_ms_max: settings.bus.dedupe.as_millis() as u64,
            dedupe_entries_max: settings.bus.dedupe_entries_max,
            ..Rules::GENESIS
        },
        ..ClusterConfig::new(ours.node_id, &ours.data_dir, Arc::new(SystemClock))
    };
    Ok(Arc::new(Cluster::start(config).await?))
}

/// Where clients reach this node, as the others tell: its host among the peers where it listens on all addresses.
fn advertised(settings: &Settings, http: SocketAddr) -> String {
    if !http.ip().is_unspecified() {
        return http.to_string();
    }
    let peer = settings.cluster.peers.get(&settings.cluster.node_id);
    let host = peer.and_then(|address| address.rsplit_once(':')).map_or("127.0.0.1", |(host, _)| host);
    format!("{host}:{}", http.port())
}

async fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let mut found =
        tokio::net::lookup_host(address).await.with_context(|| format!("the address {address} of this node cannot be resolved"))?;
    found.next().with_context(|| format!("the address {address} of this node resolves to nothing"))
}

/// Waits until the group is founded, and gives its id.
pub(super) async fn founded(cluster: &Cluster) -> String {
    loop {
        if let Some(id) = cluster.status().cluster_id {
            return id.to_string();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What the driver of the services needs to know of the group.
pub(super) fn services_leadership(cluster: &Arc<Cluster>, node_id: u64, tasks: &Tasks) -> Leadership {
    let mut leadership = cluster.services_leadership();
    let (epoch, watched) = watch::channel(epoch_of(&leadership.borrow_and_update()));
    let stopping = tasks.stopping();
    tasks.spawn_vital("node.leadership", async move {
        while let Some(Ok(())) = stopping.run_until_cancelled(leadership.changed()).await {
            let now = epoch_of(&leadership.borrow_and_update());
            epoch.send_if_modified(|before| std::mem::replace(before, now) != now);
        }
        // The group ends with the node; whoever led must stop either way.
        epoch.send_replace(None);
    });
    let weak = Arc::downgrade(cluster);
    let group = Weak::clone(&weak);
    let barrier = move || -> futures_util::future::BoxFuture<'static, Result<(), String>> {
        let cluster = Weak::clone(&group);
        Box::pin(async move {
            let cluster = cluster.upgrade().ok_or("the node is shutting down")?;
            cluster.read_barrier().await.map_err(|error| error.to_string())
        })
    };
    let group = Weak::clone(&weak);
    let hand_over = move || -> futures_util::future::BoxFuture<'static, Result<(), String>> {
        let cluster = Weak::clone(&group);
        Box::pin(async move {
            let cluster = cluster.upgrade().ok_or("the node is shutting down")?;
            cluster.hand_over_services(limits::SERVICE_REST).await.map_err(|error| error.to_string())
        })
    };
    Leadership { node_id, epoch: watched, barrier: Box::new(barrier), hand_over: Box::new(hand_over) }
}

fn epoch_of(leadership: &ServicesLeadership) -> Option<u64> {
    match leadership {
        ServicesLeadership::Leading { epoch } => Some(*epoch),
        ServicesLeadership::Following { .. } => None,
    }
}

/// Reports the group's state until the node stops. Ends early, and the node with it, where Raft has stopped: nothing but
/// a new process can take part again.
pub(super) async fn watch_group(cluster: Weak<Cluster>, readiness: Readiness, tasks: Tasks, failpoint: Option<Failpoint>) {
    let stopping = tasks.stopping();
    let mut last_ready: Option<Instant> = None;
    while stopping.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        let Some(cluster) = cluster.upgrade() else { return };
        let status = cluster.status();
        metrics::cluster(status.role == "leader", status.term, status.applied_index);
        if let Some(reason) = cluster.failed() {
            readiness.not_ready(GROUP, reason.clone());
            tracing::error!("{reason}; this node ends, as only a new start can have it take part again");
            return;
        }
        match cluster.ready() {
            Ok(()) => {
                last_ready = Some(Instant::now());
                cluster.trip(failpoint).await;
                readiness.ready(GROUP);
            }
            Err(reason) if last_ready.is_none_or(|at| at.elapsed() > ELECTION_GRACE) => readiness.not_ready(GROUP, reason),
            Err(_) => {}
        }
    }
}
