//! What goes wrong during a run. Each fault is begun, left alone for a while, proved, and undone; one that did not take
//! ends the run, whose verdict is then unknown. To add one: a variant here, and an arm in the file of its family.
//!
//! Every decision (which node, how long, how much) comes from the seed; when things happen does not.

mod clock;
mod disk;
mod network;
mod postgres;
mod process;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::{Cluster, Options};
use crate::history::History;
use crate::net::Cable;
use crate::postgres::Server;
use crate::preload::Library;

/// How long a group may take from the end of a fault to a leader and all nodes ready.
const WHOLE_WITHIN: Duration = Duration::from_mins(1);

/// The kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Nemesis {
    /// None, to see that the workload itself is sound.
    None,
    /// SIGKILL of a node, most often the leader, then a restart.
    Kill,
    /// SIGKILL of the leader, then a restart.
    KillLeader,
    /// SIGKILL of a node that does not lead, then a restart.
    KillFollower,
    /// SIGKILL of all nodes at once, then a restart.
    KillAll,
    /// SIGSTOP of a node, most often the leader, for up to 4 s, then SIGCONT.
    Pause,
    /// SIGSTOP of all nodes at once, then SIGCONT.
    PauseAll,
    /// SIGTERM and start, one node after the other.
    RollingRestart,
    /// A node is lost with its disk: it is removed from the group, and one with an empty disk and a new number is added in its place.
    Replace,
    /// The same, each node with the other build when it starts.
    Upgrade,
    /// The leader and the other nodes do not hear each other; clients and the database reach it.
    IsolateLeader,
    /// One node hears nobody and nobody hears it: nodes, clients, database.
    Unplug,
    /// The nodes fall apart in two halves at random; clients and the database reach all.
    Split,
    /// One node hears another one no more, which still hears it.
    OneWay,
    /// Two nodes do not hear each other; the third hears both, and both hear it.
    Bridge,
    /// A node and the database do not hear each other.
    CutDatabase,
    /// Each packet of a node is late by 5 to 200 ms.
    Delay,
    /// A share of a node's packets is lost, between 2 and 25 of 100.
    Loss,
    /// A node's disk is full.
    FullDisk,
    /// Each sync of a node takes 20 to 400 ms longer.
    SlowFsync,
    /// Each sync of a node fails.
    FailingFsync,
    /// A node is killed and what it had not synced is gone.
    PowerLoss,
    /// The same for all nodes at once.
    PowerLossAll,
    /// As a power loss, but a part of what was being written is there, its end garbled.
    TornWrite,
    /// A node's clock jumps, back or ahead, by up to 10 minutes.
    ClockJump,
    /// A node's clock runs 5 to 50 of 100 too fast or too slow.
    ClockDrift,
    /// SIGKILL of PostgreSQL, then a restart.
    PostgresKill,
    /// SIGSTOP of PostgreSQL, then SIGCONT.
    PostgresPause,
    /// PostgreSQL is restarted in order.
    PostgresRestart,
    /// SIGKILL of PostgreSQL; its standby takes over, and gets a standby itself.
    PostgresFailover,
    /// Kills, pauses, cuts and a database that goes away, by chance, each time another.
    Mixed,
}

/// What one fault was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Injected {
    /// Its name.
    pub fault: String,
    /// On what, and how much.
    pub target: Value,
    /// How it was seen to have taken.
    pub proof: String,
    /// How long it lasted, in seconds.
    pub seconds: f64,
}

/// What nemeses work on.
pub struct Site {
    /// The nodes.
    pub cluster: Cluster,
    /// The database server.
    pub postgres: Server,
    /// Its standby, where the nemesis wants one.
    pub standby: Option<Server>,
    /// Where faults are told of.
    pub histories: Vec<History>,
    /// The builds between which [`Nemesis::Upgrade`] goes to and fro; nodes run the first.
    pub builds: [PathBuf; 2],
}

impl Nemesis {
    /// The name, as on the command line.
    ///
    /// # Panics
    /// Never: each has one.
    pub fn name(self) -> String {
        self.to_possible_value().expect("no variant is skipped").get_name().to_owned()
    }

    /// What nodes have to be connected by; `None` where it does not matter.
    pub fn cable(self) -> Option<Cable> {
        match self {
            Self::Delay | Self::Loss => Some(Cable::Wire),
            Self::IsolateLeader | Self::Unplug | Self::Split | Self::OneWay | Self::Bridge | Self::CutDatabase | Self::Mixed => {
                Some(Cable::Plain)
            }
            _ => None,
        }
    }

    /// Whether it can be had without network namespaces and mounts, that is without root.
    pub fn unprivileged(self) -> bool {
        self.cable().is_none() && !matches!(self, Self::FullDisk | Self::PostgresFailover)
    }

    /// Whether PostgreSQL has to have a standby.
    pub fn wants_standby(self) -> bool {
        self == Self::PostgresFailover
    }

    /// What the group has to be started with.
    ///
    /// # Errors
    /// Something is not to be had on this machine.
    pub fn prepare(self, options: Options) -> anyhow::Result<Options> {
        Ok(match self {
            Self::SlowFsync | Self::ClockJump | Self::ClockDrift => options.faults(Arc::new(Library::build()?)),
            Self::PowerLoss | Self::PowerLossAll | Self::TornWrite => disk::expect_torn(options.faults(Arc::new(Library::build()?))),
            Self::FailingFsync => disk::expect_failure(options.faults(Arc::new(Library::build()?))),
            Self::FullDisk => disk::expect_failure(options.disk(disk::DISK_BYTES)),
            _ => options,
        })
    }

    /// Strikes again and again, at least once, for as long as is said, and tells of each fault; in the end
    /// the group is whole.
    ///
    /// # Errors
    /// A fault did not take, or the group did not become whole again.
    pub async fn trouble(self, site: &mut Site, seed: u64, lasting: Duration, injected: &mut Vec<Injected>) -> anyhow::Result<()> {
        let end = Instant::now() + lasting;
        let mut chance = StdRng::seed_from_u64(seed);
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(chance.random_range(800..2000))).await;
            if self == Self::None {
                continue;
            }
            let fault = if self == Self::Mixed { MIXED[chance.random_range(0..MIXED.len())] } else { self };
            let strike = fault.strike(site, &mut chance).await.with_context(|| format!("the fault {}", fault.name()))?;
            println!("{} {}: {} ({:.1} s)", strike.fault, strike.target, strike.proof, strike.seconds);
            injected.push(strike);
        }
        site.whole().await
    }

    async fn strike(self, site: &mut Site, chance: &mut StdRng) -> anyhow::Result<Injected> {
        match self {
            Self::None | Self::Mixed => anyhow::bail!("{self:?} is no fault"),
            Self::Kill | Self::KillLeader | Self::KillFollower | Self::KillAll => process::kill(self, site, chance).await,
            Self::Pause | Self::PauseAll => process::pause(self, site, chance).await,
            Self::RollingRestart | Self::Upgrade => process::roll(self, site).await,
            Self::Replace => process::replace(site, chance).await,
            Self::IsolateLeader | Self::Unplug | Self::Split | Self::OneWay | Self::Bridge | Self::CutDatabase => {
                network::cut(self, site, chance).await
            }
            Self::Delay | Self::Loss => network::worsen(self, site, chance).await,
            Self::FullDisk => disk::fill(self, site, chance).await,
            Self::SlowFsync => disk::slow(self, site, chance).await,
            Self::FailingFsync => disk::fail(self, site, chance).await,
            Self::PowerLoss | Self::PowerLossAll | Self::TornWrite => disk::lose_power(self, site, chance).await,
            Self::ClockJump | Self::ClockDrift => clock::wrong(self, site, chance).await,
            Self::PostgresKill | Self::PostgresPause | Self::PostgresRestart => postgres::away(self, site, chance).await,
            Self::PostgresFailover => postgres::fail_over(self, site, chance).await,
        }
    }
}

/// What [`Nemesis::Mixed`] chooses from.
const MIXED: [Nemesis; 10] = [
    Nemesis::Replace,
    Nemesis::KillLeader,
    Nemesis::KillFollower,
    Nemesis::KillAll,
    Nemesis::Pause,
    Nemesis::IsolateLeader,
    Nemesis::Unplug,
    Nemesis::OneWay,
    Nemesis::Bridge,
    Nemesis::PostgresKill,
];

/// A fault that has begun.
struct Begun {
    fault: String,
    target: Value,
    at: Instant,
}

impl Site {
    fn begin(&self, fault: Nemesis, target: Value) -> Begun {
        let fault = fault.name();
        self.note(&fault, &json!({"phase": "begin", "target": target}));
        Begun { fault, target, at: Instant::now() }
    }

    fn end(&self, begun: Begun, proof: String) -> Injected {
        self.note(&begun.fault, &json!({"phase": "end", "target": begun.target, "proof": proof}));
        Injected { fault: begun.fault, target: begun.target, proof, seconds: begun.at.elapsed().as_secs_f64() }
    }

    fn note(&self, fault: &str, what: &Value) {
        for history in &self.histories {
            history.add("nemesis", fault, what.clone(), None);
        }
    }

    /// The leader, or another node one time out of three.
    async fn victim(&self, chance: &mut StdRng) -> anyhow::Result<u64> {
        let ids = self.cluster.ids();
        let other = ids[chance.random_range(0..ids.len())];
        if chance.random_ratio(1, 3) { Ok(other) } else { self.cluster.leader().await }
    }

    /// A node that does not lead.
    async fn follower(&self, chance: &mut StdRng) -> anyhow::Result<u64> {
        let leader = self.cluster.leader().await?;
        let others: Vec<u64> = self.cluster.ids().into_iter().filter(|id| *id != leader).collect();
        ensure!(!others.is_empty(), "a group of one has no follower");
        Ok(others[chance.random_range(0..others.len())])
    }

    /// Starts what ended, and waits until all nodes are ready and a majority names a leader.
    async fn whole(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + WHOLE_WITHIN;
        for id in self.cluster.ids() {
            if !self.cluster.running().contains(&id) {
                self.cluster.spawn(id)?;
            }
        }
        for id in self.cluster.ids() {
            tokio::time::timeout_at(deadline, self.cluster.wait_ready(id))
                .await
                .with_context(|| format!("node {id} is not ready {} s after the last fault", WHOLE_WITHIN.as_secs()))??;
        }
        self.cluster.leader().await.map(drop)
    }
}

/// A time by chance.
fn lasting(chance: &mut StdRng, millis: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(chance.random_range(millis))
}
