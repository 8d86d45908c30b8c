//! Groups of real nodes in one process, over loopback, with their data in temporary folders. A node is dropped for a crash: its
//! threads go away with whatever they were doing, its sockets close; only what is on disk is left. (`kill -9` of real processes is the
//! business of `tests/`.)

#![expect(clippy::disallowed_methods, reason = "a test's own tasks end with the test")]

mod failover;
mod group;
mod membership;
mod storage;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{Cluster, ClusterConfig, ClusterError, Leaving, ServicesLeadership};
use crate::bus::{Bus, Message, Published, ReadLimit, Topic};
use crate::clock::SystemClock;

/// Within which a group in good health does anything, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives something.
async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "it did not happen in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A group whose nodes can be started and crashed.
struct Group {
    folder: tempfile::TempDir,
    peers: BTreeMap<u64, String>,
    nodes: BTreeMap<u64, Cluster>,
}

impl Group {
    /// A group of `size`, all started, with a leader and a services leader.
    async fn start(size: u64) -> Self {
        let mut group = Self::new(size);
        for id in 1..=size {
            group.start_node(id).await.expect("a new node starts");
        }
        group.all_ready().await;
        group
    }

    fn new(size: u64) -> Self {
        let listeners: Vec<_> = (0..size).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let peers = (1..).zip(&listeners).map(|(id, listener)| (id, listener.local_addr().expect("bound").to_string()));
        Self { folder: tempfile::tempdir().expect("a temporary folder"), peers: peers.collect(), nodes: BTreeMap::new() }
    }

    fn config(&self, id: u64) -> ClusterConfig {
        let listen: SocketAddr = self.peers[&id].parse().expect("an address");
        ClusterConfig {
            listen: Some(listen),
            peers: self.peers.clone(),
            http_address: format!("127.0.0.1:420{id}"),
            on_storage_failure: Arc::new(|what, error| panic!("{what}: {error}")),
            ..ClusterConfig::new(id, self.folder.path().join(id.to_string()), Arc::new(SystemClock))
        }
    }

    async fn start_node(&mut self, id: u64) -> Result<(), ClusterError> {
        let config = self.config(id);
        self.start_with(config).await
    }

    /// Starts a node. The one before it, dropped in this process, may still be letting go of its files and its port.
    async fn start_with(&mut self, config: ClusterConfig) -> Result<(), ClusterError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Cluster::start(config.clone()).await {
                Ok(node) => {
                    self.nodes.insert(config.node_id, node);
                    return Ok(());
                }
                Err(ClusterError::Storage { .. } | ClusterError::Listen { .. } | ClusterError::Stopped(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn crash(&mut self, id: u64) {
        drop(self.nodes.remove(&id).expect("it runs"));
    }

    fn node(&self, id: u64) -> &Cluster {
        &self.nodes[&id]
    }

    fn bus(&self, id: u64) -> Arc<dyn Bus> {
        self.node(id).bus()
    }

    async fn all_ready(&self) {
        for (id, node) in &self.nodes {
            eventually(&format!("node {id} is ready"), || node.ready().ok()).await;
        }
    }

    /// The node that all running ones take for the leader.
    async fn leader(&self) -> u64 {
        eventually("there is a leader", || self.agreed(|node| node.status().leader)).await
    }

    /// The node that all of `ids` take for the leader, one of them.
    async fn leader_of(&self, ids: &[u64]) -> u64 {
        eventually("there is a leader", || {
            let first = self.node(ids[0]).status().leader?;
            (ids.contains(&first) && ids.iter().all(|id| self.node(*id).status().leader == Some(first))).then_some(first)
        })
        .await
    }

    /// The node that leads the services, and its epoch, as all running nodes see it.
    async fn services_leader(&self) -> (u64, u64) {
        eventually("somebody leads the services", || {
            let leading = self.nodes.iter().filter_map(|(id, node)| match *node.services_leadership().borrow() {
                ServicesLeadership::Leading { epoch } => Some((*id, epoch)),
                ServicesLeadership::Following { .. } => None,
            });
            let leading: Vec<_> = leading.collect();
            let [(id, epoch)] = leading[..] else { return None };
            self.agreed(|node| node.status().services_leader.map(|node_id| (node_id, node.status().epoch)))
                .filter(|agreed| *agreed == (id, epoch))
        })
        .await
    }

    /// What all running nodes say, if they say the same, and it is a running one.
    fn agreed<T: PartialEq>(&self, ask: impl Fn(&Cluster) -> Option<T>) -> Option<T> {
        let mut answers = self.nodes.values().map(ask);
        let first = answers.next()??;
        answers.all(|answer| answer.as_ref() == Some(&first)).then_some(first)
    }

    /// Waits until `node` has `last` as its newest position, and gives the ids of all entries.
    async fn ids_up_to(&self, node: u64, topic: &Topic, last: u64) -> Vec<u128> {
        let bus = self.bus(node);
        eventually(&format!("node {node} has applied position {last}"), || (bus.last(topic) >= last).then_some(())).await;
        let mut ids = Vec::new();
        while (ids.len() as u64) < last {
            let entries = bus.read(topic, ids.len() as u64, ReadLimit::default()).await.expect("readable");
            assert!(!entries.is_empty(), "the stream has a hole");
            ids.extend(entries.iter().map(|entry| entry.id.as_u128()));
        }
        ids
    }
}

fn message(id: u128) -> Message {
    Message { id: Uuid::from_u128(id), payload: format!("payload {id}").into() }
}

async fn publish(bus: &dyn Bus, topic: &Topic, ids: impl IntoIterator<Item = u128>) -> Published {
    timely(bus.publish(topic.clone(), ids.into_iter().map(message).collect())).await.expect("published")
}

async fn timely<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it took too long")
}
