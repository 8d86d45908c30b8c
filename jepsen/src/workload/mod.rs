//! What clients do during a run, and the verdict over what they saw. To add one: a file with `run` and `check`, an arm
//! in each function here.

mod leader_services;
mod publish_consume;

use std::sync::Arc;

use clap::ValueEnum;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::history::History;
use crate::verdict::Verdict;

/// The workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Publishers send events in on sockets and take each pong for a promise; every promised event is in the database
    /// exactly once.
    PublishConsume,
    /// Reads and writes at every node; the epochs of the services' leaders only grow, and one leads at a time.
    LeaderServices,
}

/// What a client of a run needs.
#[derive(Clone)]
pub struct Context {
    /// APIs of the nodes.
    pub apis: Arc<Vec<String>>,
    /// Where to write what was seen.
    pub history: History,
    /// Cancelled when the load ends.
    pub stop: CancellationToken,
    /// Decides what clients choose, though not when.
    pub seed: u64,
}

impl Workload {
    /// Settings that the nodes need for it.
    pub fn variables(self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Puts load on the group until the context stops.
    pub async fn run(self, context: Context) {
        match self {
            Self::PublishConsume => publish_consume::run(context).await,
            Self::LeaderServices => leader_services::run(context).await,
        }
    }

    /// Judges, when the load has ended and the group is whole again.
    ///
    /// # Errors
    /// The group could not be looked at, so the verdict is unknown.
    pub async fn check(self, cluster: &Cluster, history: &History) -> anyhow::Result<Verdict> {
        match self {
            Self::PublishConsume => publish_consume::check(cluster, history).await,
            Self::LeaderServices => Ok(leader_services::check(history)),
        }
    }
}
