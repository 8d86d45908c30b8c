//! Clocks that are wrong. Only the time of day: the clock that measures elapsed time stays right, as it does where a time
//! server corrects a machine.

use anyhow::{Context, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Injected, Nemesis, Site, lasting};

/// How long a node may take to answer, about.
const TOLD_WITHIN: TimeDelta = TimeDelta::milliseconds(500);

/// Seconds that a clock jumps.
const JUMPS: [i64; 8] = [-600, -60, -5, -1, 1, 5, 60, 600];

pub(super) async fn wrong(fault: Nemesis, site: &mut Site, chance: &mut StdRng) -> anyhow::Result<Injected> {
    let victim = site.victim(chance).await?;
    let wrong_for = lasting(chance, 2000..6000);
    let (offset_millis, drift_ppm) = if fault == Nemesis::ClockJump {
        (JUMPS[chance.random_range(0..JUMPS.len())] * 1000, 0)
    } else {
        let drift = chance.random_range(50_000..500_000);
        (0, if chance.random_ratio(1, 2) { drift } else { -drift })
    };
    let begun = site.begin(fault, json!({"node": victim, "offset_ms": offset_millis, "drift_ppm": drift_ppm}));
    let reads = site.cluster.faults(victim)?.wrong_times()?;
    site.cluster.faults(victim)?.set_clock(offset_millis, drift_ppm)?;
    let set = Instant::now();
    tokio::time::sleep(wrong_for).await;
    let elapsed = set.elapsed();
    let expected = TimeDelta::milliseconds(offset_millis + elapsed.as_millis() as i64 * drift_ppm / 1_000_000);
    let error = error_of(site, victim).await?;
    let reads = site.cluster.faults(victim)?.wrong_times()? - reads;
    // The way back is a jump as well.
    site.cluster.faults(victim)?.set_clock(0, 0)?;
    ensure!(reads > 0, "node {victim} never asked for the time");
    let off = (error - expected).abs();
    ensure!(off < TOLD_WITHIN, "node {victim}'s clock is wrong by {error}, not by {expected}");
    ensure!(error.abs() > off, "node {victim}'s clock is right, but for {error}");
    Ok(site.end(begun, format!("told a wrong time {reads} times, the node wrote a row {} ms off", error.num_milliseconds())))
}

/// By how much the time is wrong that a node writes into a row.
#[expect(clippy::disallowed_methods, reason = "the harness's clock is the right one")]
async fn error_of(site: &Site, node: u64) -> anyhow::Result<TimeDelta> {
    let name = format!("clock-{}", Uuid::from_u128(rand::random()));
    let asked = Utc::now();
    let (status, flow) = site.cluster.http(node).post("/flows/", &json!({"name": name})).await?;
    let took = Utc::now() - asked;
    ensure!(status == 201, "node {node} answered {status}: {flow}");
    let created = DateTime::parse_from_rfc3339(flow["created"].as_str().context("a flow without a time")?)?;
    Ok(created.to_utc() - asked - took / 2)
}
