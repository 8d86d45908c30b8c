//! Cuts and bad cables. A cut is proved by packets that it dropped and by a probe that gets no answer; what was not cut is
//! probed too.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::join_all;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::json;

use super::{Injected, Nemesis, Site, lasting};
use crate::net::Place;

/// How long a probe over a cut cable waits.
const PROBE: Duration = Duration::from_millis(400);

/// How long a probe over a slow cable, or on a busy machine, may take.
const SLOW_PROBE: Duration = Duration::from_secs(10);

pub(super) async fn cut(fault: Nemesis, site: &mut Site, chance: &mut StdRng) -> anyhow::Result<Injected> {
    let mut ids = site.cluster.ids();
    ensure!(ids.len() > 1, "a group of one cannot be cut");
    let leader = site.cluster.leader().await?;
    ids.shuffle(chance);
    // Who does not hear whom.
    let mut deaf: BTreeSet<(Place, Place)> = BTreeSet::new();
    let both = |deaf: &mut BTreeSet<(Place, Place)>, one: u64, other: u64| {
        deaf.extend([(Place::Node(one), Place::Node(other)), (Place::Node(other), Place::Node(one))]);
    };
    let mut database_of = None;
    let target = match fault {
        Nemesis::IsolateLeader => {
            ids.iter().filter(|id| **id != leader).for_each(|id| both(&mut deaf, leader, *id));
            json!({"node": leader})
        }
        Nemesis::Unplug => {
            let victim = if chance.random_ratio(1, 2) { leader } else { ids[0] };
            ids.iter().filter(|id| **id != victim).for_each(|id| both(&mut deaf, victim, *id));
            deaf.extend([(Place::Node(victim), Place::Hub), (Place::Hub, Place::Node(victim))]);
            json!({"node": victim})
        }
        Nemesis::Split => {
            let (some, rest) = ids.split_at(chance.random_range(1..ids.len()));
            for (one, other) in some.iter().flat_map(|one| rest.iter().map(move |other| (*one, *other))) {
                both(&mut deaf, one, other);
            }
            json!({"halves": [some, rest]})
        }
        Nemesis::OneWay => {
            // Whom the leader does not hear, or who does not hear the leader: the two are different troubles.
            let other = *ids.iter().find(|id| **id != leader).context("there is another node")?;
            let (at, from) = if chance.random_ratio(1, 2) { (leader, other) } else { (other, leader) };
            deaf.insert((Place::Node(at), Place::Node(from)));
            json!({"deaf": at, "to": from, "leader": leader})
        }
        Nemesis::Bridge => {
            // The leader is one of the two, or nothing much happens.
            let other = *ids.iter().find(|id| **id != leader).context("there is another node")?;
            both(&mut deaf, leader, other);
            json!({"nodes": [leader, other]})
        }
        _ => {
            let victim = site.victim(chance).await?;
            database_of = Some(victim);
            json!({"node": victim})
        }
    };
    let cut_for = lasting(chance, 800..6000);
    let begun = site.begin(fault, target);
    let network = site.cluster.network()?.clone();
    for (at, from) in &deaf {
        network.drop_from(*at, *from)?;
    }
    let database = site.postgres.port();
    if let Some(id) = database_of {
        network.cut_port(id, database)?;
    }
    tokio::time::sleep(cut_for).await;
    // A connection needs both directions, so a probe fails where either is cut.
    let mut silent = 0;
    let ids = site.cluster.ids();
    let probes = pairs(&ids).into_iter().map(|(from, to, id)| {
        let cut = deaf.contains(&(from, to)) || deaf.contains(&(to, from));
        let (network, port) = (&network, site.cluster.peer_port(id));
        async move {
            let answer = network.reach_within(from, to, port, if cut { PROBE } else { SLOW_PROBE }).await?;
            ensure!(answer.is_some() != cut, "{from:?} {} {to:?}", if cut { "still reaches" } else { "does not reach" });
            anyhow::Ok(usize::from(cut))
        }
    });
    for cut in join_all(probes).await {
        silent += cut?;
    }
    if let Some(id) = database_of {
        let answered = network.reach_within(Place::Node(id), Place::Hub, database, PROBE).await?.is_some();
        ensure!(!answered, "node {id} still reaches the database");
        silent += 1;
    }
    let dropped = network.heal()?;
    for at in deaf.iter().map(|(at, _)| *at) {
        ensure!(dropped.get(&at).is_some_and(|packets| *packets > 0), "the cut at {at:?} dropped nothing");
    }
    let packets: u64 = dropped.values().sum();
    ensure!(packets > 0, "the cut dropped nothing");
    Ok(site.end(begun, format!("{packets} packets dropped, {silent} probes without an answer")))
}

/// Who is to reach which node.
fn pairs(ids: &[u64]) -> Vec<(Place, Place, u64)> {
    let places = || ids.iter().copied().map(Place::Node).chain([Place::Hub]);
    ids.iter().flat_map(|id| places().filter(|from| *from != Place::Node(*id)).map(|from| (from, Place::Node(*id), *id))).collect()
}

pub(super) async fn worsen(fault: Nemesis, site: &mut Site, chance: &mut StdRng) -> anyhow::Result<Injected> {
    // Sometimes one node, sometimes all.
    let victims = if chance.random_ratio(1, 3) { site.cluster.ids() } else { vec![site.victim(chance).await?] };
    let (delay, jitter, loss_ppm) = if fault == Nemesis::Delay {
        let millis = chance.random_range(5..200);
        (Duration::from_millis(millis), Duration::from_millis(millis / 4), 0)
    } else {
        (Duration::ZERO, Duration::ZERO, chance.random_range(20_000..250_000))
    };
    let bad_for = lasting(chance, 2000..6000);
    let target =
        json!({"nodes": victims, "delay_ms": delay.as_millis() as u64, "jitter_ms": jitter.as_millis() as u64, "loss_ppm": loss_ppm});
    let begun = site.begin(fault, target);
    let network = site.cluster.network()?.clone();
    let before = victims.iter().map(|id| network.wire(*id)?.carried()).collect::<anyhow::Result<Vec<_>>>()?;
    for id in &victims {
        network.wire(*id)?.set(delay, jitter, loss_ppm)?;
    }
    tokio::time::sleep(bad_for).await;
    let mut proofs = Vec::new();
    for (id, before) in victims.iter().zip(before) {
        let now = network.wire(*id)?.carried()?;
        if fault == Nemesis::Delay {
            let probe = network.reach_within(Place::Hub, Place::Node(*id), site.cluster.peer_port(*id), SLOW_PROBE).await?;
            let took = probe.context("no connection over the slow cable")?;
            ensure!(took >= delay * 2, "a connection to node {id} took {took:?}, though each way takes {delay:?}");
            proofs.push(format!("{} packets late, a connection took {} ms", now.delayed - before.delayed, took.as_millis()));
        } else {
            let lost = now.lost - before.lost;
            ensure!(lost > 0, "the cable of node {id} lost nothing");
            proofs.push(format!("{lost} packets lost"));
        }
    }
    for id in &victims {
        network.wire(*id)?.set(Duration::ZERO, Duration::ZERO, 0)?;
    }
    Ok(site.end(begun, proofs.join("; ")))
}
