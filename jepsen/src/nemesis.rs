//! What goes wrong during a run. A run whose nemesis never struck proves nothing, so it counts its strikes.

use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::history::History;

/// The kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Nemesis {
    /// None, to see that the workload itself is sound.
    None,
    /// SIGKILL of the leader or another node, then a restart.
    Kill,
    /// SIGSTOP of one for some seconds, then SIGCONT.
    Pause,
}

impl Nemesis {
    /// Strikes again and again for `seconds`; in the end all nodes run. Returns how often it struck.
    ///
    /// # Errors
    /// A node did not come back.
    pub async fn trouble(self, cluster: &mut Cluster, history: &History, seed: u64, lasting: Duration) -> anyhow::Result<u32> {
        let end = Instant::now() + lasting;
        let mut chance = StdRng::seed_from_u64(seed);
        let mut strikes = 0;
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(chance.random_range(1000..2500))).await;
            let ids = cluster.ids();
            // The leader twice out of three times: that is what hurts.
            let victim = if chance.random_ratio(2, 3) {
                cluster.leader().await.context("before a strike")?
            } else {
                ids[chance.random_range(0..ids.len())]
            };
            match self {
                Self::None => continue,
                Self::Kill => {
                    history.add("nemesis", "kill", json!(victim), None);
                    cluster.kill(victim)?;
                    tokio::time::sleep(Duration::from_millis(chance.random_range(200..2000))).await;
                    cluster.restart(victim).await?;
                    history.add("nemesis", "restarted", json!(victim), None);
                }
                Self::Pause => {
                    history.add("nemesis", "pause", json!(victim), None);
                    cluster.pause(victim)?;
                    tokio::time::sleep(Duration::from_millis(chance.random_range(500..4000))).await;
                    cluster.resume(victim)?;
                    history.add("nemesis", "resumed", json!(victim), None);
                }
            }
            strikes += 1;
        }
        for id in cluster.ids() {
            cluster.wait_ready(id).await?;
        }
        Ok(strikes)
    }
}
