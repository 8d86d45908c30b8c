//! Signals to nodes' processes.

use std::time::Duration;

use anyhow::{Context, ensure};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::{Injected, Nemesis, Site, lasting};
use crate::wait::until;

/// How long a change of members may take, all attempts together.
const CHANGED_WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn kill(fault: Nemesis, site: &mut Site, chance: &mut StdRng) -> anyhow::Result<Injected> {
    let victims = match fault {
        Nemesis::KillAll => site.cluster.ids(),
        Nemesis::KillLeader => vec![site.cluster.leader().await?],
        Nemesis::KillFollower => vec![site.follower(chance).await?],
        _ => vec![site.victim(chance).await?],
    };
    let down_for = lasting(chance, 100..3000);
    let begun = site.begin(fault, json!({"nodes": victims}));
    let pids: Vec<u32> = victims.iter().map(|id| site.cluster.pid(*id)).collect();
    for id in &victims {
        site.cluster.kill(*id)?;
    }
    tokio::time::sleep(down_for).await;
    for pid in &pids {
        ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is still there");
    }
    for id in &victims {
        site.cluster.spawn(*id)?;
    }
    for id in &victims {
        site.cluster.wait_ready(*id).await?;
    }
    Ok(site.end(begun, format!("processes {pids:?} are gone")))
}

pub(super) async fn pause(fault: Nemesis, site: &mut Site, chance: &mut StdRng) -> anyhow::Result<Injected> {
    let victims = if fault == Nemesis::PauseAll { site.cluster.ids() } else { vec![site.victim(chance).await?] };
    let stands_for = lasting(chance, 300..4000);
    let begun = site.begin(fault, json!({"nodes": victims}));
    for id in &victims {
        site.cluster.pause(*id)?;
    }
    tokio::time::sleep(stands_for).await;
    let states: Vec<char> = victims.iter().map(|id| state(site.cluster.pid(*id))).collect::<anyhow::Result<_>>()?;
    for id in &victims {
        site.cluster.resume(*id)?;
    }
    ensure!(states.iter().all(|state| *state == 'T'), "the processes are in the states {states:?}, not stopped");
    Ok(site.end(begun, format!("processes in state T for {:.1} s", stands_for.as_secs_f64())))
}

/// The state of a process, as the kernel names it.
fn state(pid: u32) -> anyhow::Result<char> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("State:")).context("a process has a state")?;
    line.trim().chars().next().context("a state has a letter")
}

/// A node is lost with its disk, and another one takes its place while the load goes on.
pub(super) async fn replace(site: &mut Site, chance: &mut StdRng) -> anyhow::Result<Injected> {
    let lost = site.victim(chance).await?;
    let down_for = lasting(chance, 100..1500);
    let begun = site.begin(Nemesis::Replace, json!({"nodes": [lost]}));
    site.cluster.kill(lost)?;
    tokio::time::sleep(down_for).await;
    let (old, new) = site.cluster.replace(lost)?;
    let others = site.cluster.running();
    let asked = site.cluster.http(others[chance.random_range(0..others.len())]);
    changed("the lost node is removed", async || asked.delete(&format!("/cluster/members/{old}")).await).await?;
    site.cluster.spawn(lost)?;
    let member = json!({"id": new, "address": site.cluster.peer_address(lost)});
    changed("the new node is added", async || asked.post("/cluster/members", &member).await).await?;
    site.cluster.wait_ready(lost).await?;
    let (_, status) = asked.get("/cluster/status").await?;
    let members: Vec<u64> = status["nodes"].as_array().into_iter().flatten().filter_map(|node| node["id"].as_u64()).collect();
    ensure!(members.contains(&new) && !members.contains(&old), "the group has the members {members:?}");
    Ok(site.end(begun, format!("node {old} is gone with its disk, node {new} is a member: {members:?}")))
}

/// Asks for a change of members until it is made: that is what an operator would do.
async fn changed(what: &str, ask: impl AsyncFn() -> anyhow::Result<(u16, Value)>) -> anyhow::Result<()> {
    let mut last = String::new();
    let made = until(CHANGED_WITHIN, what, async || match ask().await {
        Ok((200..300, _)) => Some(()),
        other => {
            last = format!("{other:?}");
            None
        }
    });
    let made = made.await;
    made.with_context(|| last)
}

pub(super) async fn roll(fault: Nemesis, site: &mut Site) -> anyhow::Result<Injected> {
    let order = site.cluster.ids();
    let begun = site.begin(fault, json!({"nodes": order}));
    for id in order {
        let before = site.cluster.pid(id);
        let status = site.cluster.stop(id).await?;
        ensure!(status.success(), "node {id} was told to stop and ended with {status}");
        if fault == Nemesis::Upgrade {
            site.cluster.set_binary(id, &site.builds[1]);
        }
        site.cluster.restart(id).await?;
        let after = site.cluster.pid(id);
        ensure!(before != after, "node {id} is the same process");
        if fault == Nemesis::Upgrade {
            let runs = std::fs::read_link(format!("/proc/{after}/exe"))?;
            let wanted = site.builds[1].canonicalize()?;
            ensure!(runs == wanted, "node {id} runs {}, not {}", runs.display(), wanted.display());
        }
    }
    let now = site.builds[1].display().to_string();
    site.builds.swap(0, 1);
    let proof = if fault == Nemesis::Upgrade { format!("all nodes run {now}") } else { "each is another process".to_owned() };
    Ok(site.end(begun, proof))
}
