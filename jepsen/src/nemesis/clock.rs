//! Clocks that are wrong. Only the time of day: the clock that measures elapsed time stays right, as it does where a time
//! server corrects a machine.

use anyhow::{Context, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::json;

use super::{Injected, Nemesis, Site, lasting};

/// A node tells the time in whole seconds, and takes a moment.
const TOLD_WITHIN: TimeDelta = TimeDelta::milliseconds(2500);

/// Seconds that a clock jumps.
const JUMPS: [i64; 8] = [-600, -60, -5, -1, 1, 5, 60, 600];

pub(super) async fn wrong(fault: Nemesis, site: &mut Site, chance: &mut StdRng) -> anyhow::Result<Injected> {
    let victim = site.victim(chance).await?;
    let wrong_for = lasting(chance, 2000..6000);
    let (offset_millis, drift_ppm) = if fault == Nemesis::ClockJump {
        (JUMPS[chance.random_range(0..JUMPS.len())] * 1000, 0)
    } else {
        let drift = chance.random_range(10_000..200_000);
        (0, if chance.random_ratio(1, 2) { drift } else { -drift })
    };
    let begun = site.begin(fault, json!({"node": victim, "offset_ms": offset_millis, "drift_ppm": drift_ppm}));
    let reads = site.cluster.faults(victim)?.wrong_times()?;
    site.cluster.faults(victim)?.set_clock(offset_millis, drift_ppm)?;
    tokio::time::sleep(wrong_for).await;
    let error = error_of(site, victim).await?;
    let reads = site.cluster.faults(victim)?.wrong_times()? - reads;
    // The way back is a jump as well.
    site.cluster.faults(victim)?.set_clock(0, 0)?;
    ensure!(reads > 0, "node {victim} never asked for the time");
    if fault == Nemesis::ClockJump {
        let off = (error - TimeDelta::milliseconds(offset_millis)).abs();
        ensure!(off < TOLD_WITHIN, "node {victim}'s clock is wrong by {error}, not by {offset_millis} ms");
    }
    Ok(site.end(begun, format!("the node was told a wrong time {reads} times; its answers are off by {} ms", error.num_milliseconds())))
}

/// By how much the time in a node's answers is wrong.
#[expect(clippy::disallowed_methods, reason = "the harness's clock is the right one")]
async fn error_of(site: &Site, node: u64) -> anyhow::Result<TimeDelta> {
    let told = site.cluster.http(node).date().await?;
    let told = DateTime::parse_from_rfc2822(&told).with_context(|| format!("{told:?} is no date"))?;
    Ok(told.with_timezone(&Utc) - Utc::now())
}
