//! One simulation: the nodes, the clock over them, and what befalls them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use uuid::Uuid;

use super::disk::Disk;
use super::laws::{self, Counts, Laws};
use super::network::Network;
use super::workload::{Clients, topic};
use super::{Bug, NODE, PLANTED, runtime, trace};
use crate::bus::ReadLimit;
use crate::bus::command::Command;
use crate::bus::rules::{Limits, Rules};
use crate::clock::ManualClock;
use crate::cluster::batcher::Batcher;
use crate::cluster::core::Core;
use crate::cluster::identity::Identity;
use crate::cluster::replicated_bus::ReplicatedBus;
use crate::cluster::start::{Ground, join};
use crate::cluster::{Cluster, ClusterConfig, Leaving, ServicesLeadership, leadership, status};
use crate::task::INLINE;

/// The time within which a group in which all is well has to serve, to agree and to be quiet.
const RECOVERY_MS: u64 = 20_000;

/// What came of a seed.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub broken: Option<String>,
    /// Two runs of one seed have the same.
    pub trace: u64,
    pub lines: Vec<String>,
    pub counts: Counts,
    /// Of simulated time.
    pub milliseconds: u64,
}

/// Runs one seed to its end, or to the first broken law.
pub(super) fn run(seed: u64, bug: Option<Bug>, lines: bool) -> Outcome {
    trace::begin(lines);
    laws::set(Some(Laws::default()));
    runtime::seed(Some(seed));
    INLINE.set(true);
    PLANTED.set(bug);
    let mut world = World::new(seed);
    world.live();
    let milliseconds = world.now;
    world.end();
    PLANTED.set(None);
    INLINE.set(false);
    runtime::seed(None);
    let broken = laws::broken();
    let laws = laws::set(None).expect("it was set");
    Outcome { broken, trace: trace::sum(), lines: trace::lines(), counts: laws.counts, milliseconds }
}

struct Node {
    id: u64,
    disk: Disk,
    /// What runs, if it does.
    life: Option<Life>,
    start_at: u64,
    /// It stands still until then.
    still_until: u64,
    /// Milliseconds of its own in one of the simulation's.
    pace: f64,
    /// Of its own time, not yet passed.
    owed: f64,
}

struct Life {
    /// Before the rest: nothing may run while that goes.
    runtime: Runtime,
    core: Arc<Core>,
    batcher: Batcher,
    services: watch::Receiver<ServicesLeadership>,
    /// Gone when it leaves in good order.
    cluster: Option<Cluster>,
    left: Arc<AtomicBool>,
    /// Leadership of which the log was looked at.
    led: Option<(u64, u64)>,
    /// Of the newest batch that was looked at.
    checked: (u64, u64),
}

struct World {
    now: u64,
    rng: StdRng,
    folder: TempDir,
    network: Network,
    nodes: Vec<Node>,
    clients: Clients,
    cluster_id: Uuid,
    rules: Rules,
    limits: Limits,
    /// Clocks run apart, and nodes stand still.
    clocks_apart: bool,
    trouble_until: u64,
    next_trouble: u64,
    heal_at: u64,
    next_request: u64,
    request_every: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = if rng.random_bool(0.15) { 5 } else { 3 };
        let clocks_apart = rng.random_bool(0.5);
        let nodes = (1..=count).map(|id| Node {
            id,
            disk: Disk::new(id, rng.random()),
            life: None,
            start_at: rng.random_range(1..100),
            still_until: 0,
            pace: if clocks_apart { rng.random_range(0.93..1.07) } else { 1.0 },
            owed: 0.0,
        });
        let nodes = nodes.collect();
        let small = rng.random_bool(0.5);
        let rules = if small {
            Rules {
                segment_entries_max: rng.random_range(3..20),
                window_ms_max: rng.random_range(100..2_000),
                window_bytes_max: rng.random_range(200..20_000),
                backlog_bytes_max: if rng.random_bool(0.3) { 20_000 } else { 1 << 20 },
                ..Rules::GENESIS
            }
        } else {
            Rules::GENESIS
        };
        let memory = std::path::Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self {
            now: 0,
            folder: folder.expect("a temporary folder"),
            network: Network::new(rng.random()),
            nodes,
            clients: Clients::default(),
            cluster_id: Uuid::from_u128(rng.random()),
            rules,
            limits: Limits { hot_bytes_max: if rng.random_bool(0.3) { 0 } else { 64 << 20 }, cache_bytes_max: 4 << 10 },
            clocks_apart,
            trouble_until: 1_000 + rng.random_range(3_000..7_000),
            next_trouble: rng.random_range(500..1_500),
            heal_at: u64::MAX,
            next_request: 300,
            request_every: rng.random_range(8..60),
            rng,
        }
    }

    fn live(&mut self) {
        while self.now < self.trouble_until && laws::broken().is_none() {
            self.step(true);
        }
        self.recover();
        self.settle();
    }

    fn step(&mut self, requests: bool) {
        self.now += 1;
        trace::pass(self.now);
        self.network.pass(self.now);
        for node in &self.nodes {
            node.disk.pass(self.now);
        }
        for index in 0..self.nodes.len() {
            if self.nodes[index].life.is_none() && self.nodes[index].start_at <= self.now {
                self.start(index);
            }
            self.nodes[index].tick(self.now);
            self.look(index);
        }
        self.look_at_services();
        if requests && self.now >= self.next_request {
            self.next_request = self.now + self.rng.random_range(1..=self.request_every * 2);
            self.request();
        }
        if self.now >= self.heal_at {
            self.heal_at = u64::MAX;
            let breaks = self.rng.random_bool(0.3);
            trace::tell(|| format!("all links work again{}", if breaks { ", and connections that waited break" } else { "" }));
            self.network.heal(breaks);
        }
        if self.now < self.trouble_until && self.now >= self.next_trouble {
            self.next_trouble = self.now + self.rng.random_range(20..700);
            self.trouble();
        }
    }

    fn config(&self, id: u64) -> ClusterConfig {
        let clock = ManualClock::new(chrono::DateTime::from_timestamp(1_700_000_000, 0).expect("a time"));
        ClusterConfig {
            peers: self.nodes.iter().map(|node| (node.id, format!("n{}:7000", node.id))).collect(),
            http_address: format!("n{id}:4200"),
            bus: self.limits.clone(),
            rules: self.rules.clone(),
            on_storage_failure: Arc::new(|what, error| laws::violated(|| format!("{what} failed: {error}"))),
            ..ClusterConfig::new(id, self.folder.path().join(id.to_string()), Arc::new(clock))
        }
    }

    fn start(&mut self, index: usize) {
        let id = self.nodes[index].id;
        let config = self.config(id);
        trace::tell(|| format!("node {id} starts"));
        trace::note(1, id);
        NODE.set(id);
        trace::note(6, self.rng.random());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let disk = self.nodes[index].disk.clone();
        let ground = Ground { log: disk, incoming: Some(self.network.listen(id)), dial: self.network.dial(id) };
        let cluster = runtime.block_on(async {
            let identity = Arc::new(Identity::open(&config.data_dir, id)?);
            // Else it would be drawn by chance.
            identity.adopt(self.cluster_id)?;
            let (batcher, queue) = Batcher::new();
            let (sender, services) = watch::channel(ServicesLeadership::unknown());
            let core = join(config, identity, ground, batcher.clone(), queue, sender).await?;
            let bus = Arc::new(ReplicatedBus::new(batcher.clone(), core.reader.clone()));
            Ok::<_, crate::cluster::ClusterError>(Cluster { core, batcher, bus, services, handle: Handle::current(), runtime: None })
        });
        match cluster {
            Ok(cluster) => {
                self.nodes[index].life = Some(Life {
                    core: cluster.core.clone(),
                    batcher: cluster.batcher.clone(),
                    services: cluster.services.clone(),
                    cluster: Some(cluster),
                    left: Arc::default(),
                    led: None,
                    checked: (0, 0),
                    runtime,
                });
            }
            Err(error) => laws::violated(|| format!("node {id} does not start: {error}")),
        }
    }

    /// Looks at one node after its step.
    fn look(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(life) = &mut node.life else { return };
        if life.left.load(Ordering::Relaxed) {
            trace::tell(|| format!("node {} has left", node.id));
            self.stop(index, false, true);
            return;
        }
        let core = &life.core;
        if let Some(reason) = core.unfit.lock().as_ref() {
            laws::violated(|| format!("node {} says that it cannot take part: {reason}", node.id));
        }
        let leads = {
            let metrics = core.raft.metrics();
            let metrics = metrics.borrow_watched();
            if let (Err(fatal), Some(_)) = (&metrics.running_state, &life.cluster) {
                laws::violated(|| format!("Raft has stopped on node {}: {fatal}", node.id));
            }
            let leader = metrics.vote.leader_id;
            (metrics.state == ServerState::Leader && metrics.vote.is_committed()).then_some((leader.term, leader.node_id))
        };
        if let Some(leader) = leads
            && life.led != leads
        {
            life.led = leads;
            trace::tell(|| format!("node {} leads in term {}", node.id, leader.0));
            trace::note(2, leader.0 << 8 | leader.1);
            let applied_here = *core.progress.applied().borrow();
            let purged = node.disk.purged().unwrap_or(0).max(applied_here);
            laws::with(|laws| {
                laws.counts.leaders += 1;
                if leader.1 != node.id {
                    laws.fail(|| format!("node {} leads by a vote for node {}", node.id, leader.1));
                }
                let missing = laws
                    .applied
                    .iter()
                    .map(|(id, _)| *id)
                    .find(|id| (id.0, id.1) < leader && id.2 > purged && node.disk.log_id(id.2).as_ref().map(laws::id) != Some(*id));
                if let Some(missing) = missing {
                    laws.fail(|| format!("node {} leads as {leader:?} and has not {missing:?}, which was committed", node.id));
                }
            });
        }
        let state = core.progress.checksum();
        if state != life.checked {
            life.checked = state;
            laws::with(|laws| match laws.applied.get(state.0 as usize) {
                Some((_, checksum)) if *checksum == state.1 => {}
                other => {
                    let other = other.copied();
                    laws.fail(|| format!("node {} has the state {:016x} at {}; known is {other:x?}", node.id, state.1, state.0));
                }
            });
        }
    }

    /// Who leads the services was elected to, and has heard of others of late.
    fn look_at_services(&self) {
        for node in &self.nodes {
            let Some(life) = &node.life else { continue };
            let ServicesLeadership::Leading { epoch } = *life.services.borrow() else { continue };
            let silence = self.now - self.network.heard(node.id);
            // It looks every 50 ms, and its clock may be slow.
            let silence_max = if self.clocks_apart { 1_100 } else { 1_000 };
            laws::with(|laws| {
                if laws.epochs.get(&epoch) != Some(&node.id) {
                    laws.fail(|| format!("node {} leads the services in epoch {epoch}, to which it was not elected", node.id));
                }
                if silence > silence_max && self.now >= node.still_until {
                    laws.fail(|| format!("node {} leads the services without word from anybody for {silence} ms", node.id));
                }
            });
        }
    }

    fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].life.as_ref().is_some_and(|life| life.cluster.is_some())).collect()
    }

    fn request(&mut self) {
        let Some(index) = self.running().choose(&mut self.rng).copied() else { return };
        if self.clients.in_flight() > 60 {
            return;
        }
        let Some(life) = &self.nodes[index].life else { return };
        let action = self.clients.act(&mut self.rng, &life.core, &life.batcher);
        life.runtime.spawn(action);
    }

    /// Something befalls the group.
    fn trouble(&mut self) {
        let running = self.running();
        let some = running.choose(&mut self.rng).copied();
        let what = self.rng.random_range(0..100);
        trace::note(3, what);
        match (what, some) {
            (0..20, Some(index)) => {
                let power_lost = self.rng.random_bool(0.4);
                self.nodes[index].start_at = self.now + self.rng.random_range(30..2_500);
                self.stop(index, power_lost, false);
            }
            (20..24, _) => {
                trace::tell(|| "all nodes lose power".to_owned());
                for index in 0..self.nodes.len() {
                    self.nodes[index].start_at = self.now + self.rng.random_range(30..1_000);
                    self.stop(index, true, false);
                }
            }
            (24..29, Some(index)) => self.leave(index),
            (29..54, _) => self.cut(),
            (54..60, Some(index)) => {
                let (id, more) = (self.nodes[index].id, self.rng.random_range(10..250));
                trace::tell(|| format!("the links of node {id} are slower by {more} ms"));
                for other in self.nodes.iter().map(|node| node.id).filter(|other| *other != id) {
                    self.network.slow(id, other, more);
                    self.network.slow(other, id, more);
                }
                self.heal_at = self.now + self.rng.random_range(100..2_000);
            }
            (60..68, Some(index)) => {
                let milliseconds = self.rng.random_range(20..600);
                trace::tell(|| format!("the disk of node {} stalls for {milliseconds} ms", self.nodes[index].id));
                self.nodes[index].disk.stall(milliseconds);
            }
            (68..76, Some(index)) if self.clocks_apart => {
                let milliseconds = self.rng.random_range(20..2_500);
                trace::tell(|| format!("node {} stands still for {milliseconds} ms", self.nodes[index].id));
                laws::with(|laws| laws.counts.pauses += 1);
                self.nodes[index].still_until = self.now + milliseconds;
            }
            (76..84, Some(index)) => {
                let to = self.rng.random_bool(0.5).then(|| self.rng.random_range(1..=self.nodes.len() as u64));
                let Some(life) = &self.nodes[index].life else { return };
                trace::tell(|| format!("node {} asks for the lead to go to {to:?}", self.nodes[index].id));
                laws::with(|laws| laws.counts.transfers += 1);
                let core = life.core.clone();
                life.runtime.spawn(async move { drop(leadership::transfer(&core, to).await) });
            }
            (84..88, Some(index)) => self.resign(index),
            (_, Some(index)) => self.shorten(index),
            (_, None) => {}
        }
    }

    /// Cuts links: between two sides, around one node, between two nodes; one way only at times.
    fn cut(&mut self) {
        let ids: Vec<u64> = self.nodes.iter().map(|node| node.id).collect();
        let mut shuffled = ids.clone();
        shuffled.shuffle(&mut self.rng);
        let one_way = self.rng.random_bool(0.3);
        let mut links = BTreeSet::new();
        if self.rng.random_bool(0.3) {
            links.insert((shuffled[0], shuffled[1]));
        } else {
            let side = self.rng.random_range(1..=ids.len() / 2);
            for left in &shuffled[..side] {
                links.extend(shuffled[side..].iter().map(|right| (*left, *right)));
            }
        }
        if self.rng.random_bool(0.5) {
            links = links.into_iter().map(|(from, to)| (to, from)).collect();
        }
        if !one_way {
            links.extend(links.clone().into_iter().map(|(from, to)| (to, from)));
        }
        trace::tell(|| format!("these links are cut: {links:?}"));
        laws::with(|laws| laws.counts.cuts += 1);
        for (from, to) in links {
            self.network.cut(from, to);
        }
        self.heal_at = self.now + self.rng.random_range(50..3_000);
    }

    /// A node makes a snapshot and cuts its log behind it.
    fn shorten(&mut self, index: usize) {
        let keep = self.rng.random_range(0..20);
        let Some(life) = &self.nodes[index].life else { return };
        trace::tell(|| format!("node {} makes a snapshot and keeps {keep} entries", self.nodes[index].id));
        laws::with(|laws| laws.counts.snapshots += 1);
        let core = life.core.clone();
        life.runtime.spawn(async move {
            if core.raft.trigger().snapshot().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let upto = core.metrics().snapshot.map_or(0, |id| id.index).saturating_sub(keep);
                drop(core.raft.trigger().purge_log(upto).await);
            }
        });
    }

    fn resign(&mut self, index: usize) {
        let Some(life) = &self.nodes[index].life else { return };
        trace::tell(|| format!("node {} is asked to give up the services", self.nodes[index].id));
        let (core, batcher) = (life.core.clone(), life.batcher.clone());
        life.runtime.spawn(async move {
            let services = core.reader.cluster().borrow().services;
            if let Some(services) = services {
                let command = Command::ResignServices { node: services.node, epoch: services.epoch };
                drop(batcher.submit(command, Duration::from_secs(1)).await);
            }
        });
    }

    fn leave(&mut self, index: usize) {
        let restart = self.rng.random_range(30..1_500);
        let id = self.nodes[index].id;
        let Some(life) = &mut self.nodes[index].life else { return };
        let Some(cluster) = life.cluster.take() else { return };
        let left = life.left.clone();
        trace::tell(|| format!("node {id} is asked to leave"));
        life.runtime.spawn(async move {
            cluster.shutdown(Leaving::Alone).await;
            left.store(true, Ordering::Relaxed);
        });
        self.nodes[index].start_at = self.now + restart;
    }

    /// A node is no more; what it had not written is lost, unless it has left in good order.
    fn stop(&mut self, index: usize, power_lost: bool, left: bool) {
        let node = &mut self.nodes[index];
        let Some(life) = node.life.take() else { return };
        if !left {
            trace::tell(|| format!("node {} {}", node.id, if power_lost { "loses power" } else { "is killed" }));
            laws::with(|laws| laws.counts.crashes += 1);
        }
        trace::note(4, node.id);
        node.start_at = node.start_at.max(self.now + 20);
        node.still_until = 0;
        self.network.kill(node.id, power_lost);
        NODE.set(node.id);
        drop(life);
        node.disk.crash();
    }

    /// All is well from now on.
    fn recover(&mut self) {
        if laws::broken().is_some() {
            return;
        }
        trace::tell(|| "all is well from now on".to_owned());
        self.network.heal(false);
        self.network.calm();
        self.heal_at = u64::MAX;
        for node in &mut self.nodes {
            node.start_at = node.start_at.min(self.now + 100);
            node.still_until = 0;
        }
    }

    /// Waits for something that has to come about when all is well.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let deadline = self.now + RECOVERY_MS;
        while laws::broken().is_none() {
            if done(self) {
                return true;
            }
            if self.now >= deadline {
                let state = self.describe();
                laws::violated(|| format!("{what} does not come about within {RECOVERY_MS} ms though all is well: {state}"));
                return false;
            }
            for _ in 0..10 {
                self.step(false);
            }
        }
        false
    }

    fn describe(&self) -> String {
        let mut text = format!("{} requests under way", self.clients.in_flight());
        for node in &self.nodes {
            let Some(life) = &node.life else {
                let _infallible = write!(text, "; node {} is down", node.id);
                continue;
            };
            let metrics = life.core.metrics();
            let _infallible = write!(
                text,
                "; node {}: {:?} in {}, leader {:?}, log {:?}, applied {:?}, {:?}, {:?}",
                node.id,
                metrics.state,
                metrics.vote,
                metrics.current_leader,
                metrics.last_log_index,
                metrics.last_applied.map(|id| id.index),
                ready(life),
                *life.services.borrow()
            );
        }
        text
    }

    /// The group serves, agrees and holds what it has acknowledged.
    fn settle(&mut self) {
        let all_run = |world: &mut Self| world.running().len() == world.nodes.len();
        let ready = self.until("that all nodes are ready", |world| {
            all_run(world) && world.lives().all(|life| ready(life).is_ok()) && world.clients.in_flight() == 0
        });
        if !ready {
            return;
        }
        for node in &self.nodes {
            if let Some(life) = &node.life {
                let publish = self.clients.last_publish(&life.core, &life.batcher);
                NODE.set(node.id);
                life.runtime.spawn(publish);
            }
        }
        let quiet = self.until("that all nodes have the same and one leads the services", |world| {
            let applied: BTreeSet<u64> = world.lives().map(|life| *life.core.progress.applied().borrow()).collect();
            let services = world.lives().filter(|life| matches!(*life.services.borrow(), ServicesLeadership::Leading { .. })).count();
            let sent: BTreeSet<_> = world.lives().map(|life| life.core.metrics().last_log_index).collect();
            world.clients.in_flight() == 0
                && applied.len() == 1
                && services == 1
                && sent.len() == 1
                && sent.first() == Some(&applied.first().copied())
        });
        if quiet {
            self.compare();
        }
    }

    fn lives(&self) -> impl Iterator<Item = &Life> {
        self.nodes.iter().filter_map(|node| node.life.as_ref())
    }

    /// Everything acknowledged is there once, and all nodes hold the same, byte for byte.
    fn compare(&mut self) {
        for (topic, id) in self.clients.acknowledged() {
            laws::with(|laws| {
                let times = laws.model.streams.get(&topic).map_or(0, |entries| entries.iter().filter(|entry| entry.0 == id).count());
                if times != 1 {
                    laws.fail(|| format!("{id} was acknowledged and is in {topic} {times} times"));
                }
            });
        }
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            let Some(life) = &node.life else { continue };
            NODE.set(node.id);
            for number in 0..2 {
                let topic = topic(number);
                let (first, last) = (life.core.reader.first(&topic), life.core.reader.last(&topic));
                let read = life.runtime.block_on(async {
                    let mut all = Vec::new();
                    while first + (all.len() as u64) <= last {
                        all.extend(life.core.reader.read(&topic, first - 1 + all.len() as u64, ReadLimit::default()).await?);
                    }
                    Ok::<_, crate::bus::BusError>(all)
                });
                laws::with(|laws| {
                    let entries = laws.model.streams.get(&topic).cloned().unwrap_or_default();
                    let needed = laws.model.groups.iter().filter(|((stream, _), _)| *stream == topic).map(|(_, at)| *at).min();
                    if needed.is_some_and(|needed| needed + 1 < first) {
                        laws.fail(|| format!("node {} holds {topic} from {first} on, and a group stands at {needed:?}", node.id));
                    }
                    let expected = entries.get(first as usize - 1..).unwrap_or_default();
                    let same = read.as_ref().is_ok_and(|read| {
                        read.len() == expected.len()
                            && read.iter().zip(expected).all(|(entry, known)| (entry.id, &entry.payload) == (known.0, &known.1))
                    });
                    if !same || last != entries.len() as u64 {
                        laws.fail(|| {
                            format!("node {} holds {topic} from {first} to {last}; of {} entries: {read:?}", node.id, entries.len())
                        });
                    }
                });
            }
        }
        for index in 0..self.nodes.len() {
            self.snapshot(index);
        }
        let made = self.until("that all nodes have made a snapshot of the same", |world| {
            world.lives().all(|life| life.core.metrics().snapshot.map(|id| id.index) == Some(*life.core.progress.applied().borrow()))
        });
        if !made {
            return;
        }
        let contents: Vec<_> = self.lives().map(files).collect();
        if contents.windows(2).any(|pair| pair[0] != pair[1]) {
            let sizes: Vec<BTreeMap<_, _>> = contents
                .iter()
                .map(|files| files.iter().map(|(name, bytes)| (name.clone(), (bytes.len(), crc32fast::hash(bytes)))).collect())
                .collect();
            laws::violated(|| format!("the nodes' states differ in their bytes: {sizes:?}"));
        }
    }

    fn snapshot(&self, index: usize) {
        let Some(life) = &self.nodes[index].life else { return };
        let core = life.core.clone();
        life.runtime.spawn(async move { drop(core.raft.trigger().snapshot().await) });
    }

    fn end(mut self) {
        for index in 0..self.nodes.len() {
            if let Some(life) = self.nodes[index].life.take() {
                self.network.kill(self.nodes[index].id, true);
                drop(life);
            }
        }
    }
}

/// Whether a node can serve, by its own clock.
fn ready(life: &Life) -> Result<(), String> {
    let _entered = life.runtime.enter();
    status::ready(&life.core)
}

/// The files of a node's newest snapshot, by name. What its manifest says is compared by what it means: a protobuf map has no
/// order.
fn files(life: &Life) -> BTreeMap<String, Vec<u8>> {
    let Ok(Some(folder)) = life.core.snapshots.newest() else { return BTreeMap::new() };
    let entries = std::fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry"));
    let state = entries.filter(|entry| entry.file_name() != "manifest");
    let meta = ("meta".to_owned(), format!("{:?}", folder.meta()).into_bytes());
    state
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).expect("a file")))
        .chain([meta])
        .collect()
}

impl Node {
    /// Lets a millisecond pass on this node.
    fn tick(&mut self, now: u64) {
        self.owed += self.pace;
        if now < self.still_until || self.owed < 1.0 {
            return;
        }
        let passed = self.owed.floor();
        self.owed -= passed;
        let Some(life) = &self.life else { return };
        NODE.set(self.id);
        let jump = passed as u64 - 1;
        life.runtime.block_on(async {
            if jump > 0 {
                // It stood still; its clock did not.
                tokio::time::advance(Duration::from_millis(jump)).await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        });
    }
}
