//! Disks that are full, slow, failing, or without power. A node may end itself when its log cannot be written, and is
//! expected to: what it cannot keep it must not confirm.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::join_all;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Injected, Nemesis, Site, lasting};
use crate::client::Http;
use crate::cluster::Options;
use crate::preload;
use crate::wait::until;

/// The size of the disk that is to be filled; far more than a run's load needs.
pub(super) const DISK_BYTES: u64 = 512 << 20;

/// How soon a node must notice that its disk fails.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);

/// Clients that write while a disk is in trouble, whatever the workload does, so that the trouble is met.
const WRITERS: usize = 4;

/// What the kernel says of a full disk.
const FULL: &str = "No space left on device";

/// What it says of a failing one.
const FAILING: &str = "Input/output error";

/// What the log says of an entry at its end that is not whole.
const TORN: &str = "chunked_wal::chunk: Error reading record";

/// The lines a node may log as it ends itself.
pub(super) fn expect_failure(options: Options) -> Options {
    expect_torn(options).allow_error(FULL).allow_error(FAILING)
}

/// The line with which the log cuts off an entry that was never whole, so never confirmed.
pub(super) fn expect_torn(options: Options) -> Options {
    options.allow_error(TORN)
}

/// Writes at every node until it is dropped.
async fn stir(apis: Vec<String>) {
    join_all((0..WRITERS).map(|number| {
        let http = Http::new(apis[number % apis.len()].clone());
        async move {
            loop {
                // Whether this one is kept is no matter.
                let _answer = http.judged_post("/events", &json!([event()])).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }))
    .await;
}

#[expect(clippy::disallowed_methods, reason = "a client tells the time by its own clock")]
fn event() -> serde_json::Value {
    json!({
        "id": Uuid::from_u128(rand::random()), "event": "jepsen.nemesis", "occurred": chrono::Utc::now().to_rfc3339(),
        "resource": {"prefect.resource.id": "jepsen.nemesis"}, "related": [], "payload": {"padding": "x".repeat(500)},
    })
}

impl Site {
    fn apis(&self) -> Vec<String> {
        self.cluster.ids().into_iter().map(|id| self.cluster.api(id)).collect()
    }
}

pub(super) async fn slow(fault: Nemesis, site: &mut Site, chance: &mut StdRng) -> anyhow::Result<Injected> {
    let victims = if chance.random_ratio(1, 3) { site.cluster.ids() } else { vec![site.victim(chance).await?] };
    let (delay, slow_for) = (lasting(chance, 20..400), lasting(chance, 2000..6000));
    let begun = site.begin(fault, json!({"nodes": victims, "delay_ms": delay.as_millis() as u64}));
    let mut before = 0;
    for id in &victims {
        before += site.cluster.faults(*id)?.delayed()?;
        site.cluster.faults(*id)?.set_slow(delay)?;
    }
    // That it goes on for so long is the fault; what the writers are told is of no interest.
    let _over = tokio::time::timeout(slow_for, stir(site.apis())).await;
    let mut delayed = 0;
    for id in &victims {
        site.cluster.faults(*id)?.set_slow(Duration::ZERO)?;
        delayed += site.cluster.faults(*id)?.delayed()?;
    }
    ensure!(delayed > before, "no sync was slow");
    Ok(site.end(begun, format!("{} syncs were late", delayed - before)))
}

pub(super) async fn fail(fault: Nemesis, site: &mut Site, chance: &mut StdRng) -> anyhow::Result<Injected> {
    let victim = site.victim(chance).await?;
    let loses = chance.random_ratio(1, 2);
    let down_for = lasting(chance, 100..2000);
    let begun = site.begin(fault, json!({"node": victim, "then loses what was not synced": loses}));
    let before = site.cluster.faults(victim)?.failed()?;
    site.cluster.faults(victim)?.set_failing(true)?;
    let apis = site.apis();
    let ended = tokio::select! {
        () = stir(apis) => None,
        status = until(NOTICED_WITHIN, "the node whose syncs fail ends", async || site.cluster.ended(victim)) => Some(status?),
    };
    let status = ended.context("the writers never end")?;
    let failed = site.cluster.faults(victim)?.failed()? - before;
    ensure!(failed > 0, "no sync failed");
    site.cluster.faults(victim)?.set_failing(false)?;
    // The kernel may forget what it could not write.
    let loss = if loses { preload::lose_power(&site.cluster.data_directory(victim), false, chance)? } else { preload::Loss::default() };
    tokio::time::sleep(down_for).await;
    site.cluster.restart(victim).await?;
    Ok(site.end(begun, format!("{failed} syncs failed, the node ended with {status}, {} bytes gone", loss.bytes)))
}

pub(super) async fn lose_power(fault: Nemesis, site: &mut Site, chance: &mut StdRng) -> anyhow::Result<Injected> {
    let everywhere = fault == Nemesis::PowerLossAll || (fault == Nemesis::TornWrite && chance.random_ratio(1, 2));
    let victims = if everywhere { site.cluster.ids() } else { vec![site.victim(chance).await?] };
    let (delay, slow_for, down_for) = (lasting(chance, 100..400), lasting(chance, 500..1500), lasting(chance, 100..2000));
    let begun = site.begin(fault, json!({"nodes": victims}));
    // With a slow disk there is something that is written and not synced.
    for id in &victims {
        site.cluster.faults(*id)?.set_slow(delay)?;
    }
    let _over = tokio::time::timeout(slow_for, stir(site.apis())).await;
    // All at once: none may sync what another one already lost.
    for id in &victims {
        site.cluster.pause(*id)?;
    }
    for id in &victims {
        site.cluster.kill(*id)?;
    }
    let mut loss = preload::Loss::default();
    for id in &victims {
        let lost = preload::lose_power(&site.cluster.data_directory(*id), fault == Nemesis::TornWrite, chance)?;
        loss.files += lost.files;
        loss.bytes += lost.bytes;
        loss.torn += lost.torn;
        site.cluster.faults(*id)?.set_slow(Duration::ZERO)?;
    }
    ensure!(loss.files > 0, "all that was written was synced, so nothing was lost");
    tokio::time::sleep(down_for).await;
    for id in &victims {
        site.cluster.spawn(*id)?;
    }
    for id in &victims {
        site.cluster.wait_ready(*id).await?;
    }
    Ok(site.end(begun, format!("{} bytes of {} files gone, {} files torn", loss.bytes, loss.files, loss.torn)))
}

pub(super) async fn fill(fault: Nemesis, site: &mut Site, chance: &mut StdRng) -> anyhow::Result<Injected> {
    let victim = site.victim(chance).await?;
    let full_for = lasting(chance, 1000..5000);
    let begun = site.begin(fault, json!({"node": victim}));
    let directory = site.cluster.data_directory(victim);
    let ballast = directory.join("ballast");
    let until_then = Instant::now() + full_for;
    let apis = site.apis();
    let noticed = async {
        let mut ended = None;
        let mut written = 0;
        let mut refused = 0;
        // The node frees space now and then; it does not get to keep it.
        while Instant::now() < until_then || (ended.is_none() && Instant::now() < until_then + NOTICED_WITHIN) {
            written += fill_up(&ballast)?;
            refused += u64::from(is_full(&directory));
            ended = ended.or_else(|| site.cluster.ended(victim));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok((ended, written, refused))
    };
    let (ended, written, refused) = tokio::select! {
        () = stir(apis) => anyhow::bail!("the writers never end"),
        noticed = noticed => noticed?,
    };
    ensure!(refused > 0, "the disk was never full");
    let status = ended.with_context(|| format!("the node went on for {} s with a full disk", NOTICED_WITHIN.as_secs()))?;
    std::fs::remove_file(&ballast)?;
    site.cluster.restart(victim).await?;
    Ok(site.end(begun, format!("{} MiB of ballast, and the node ended with {status}", written >> 20)))
}

/// Writes until there is no room; gives how many bytes went in.
fn fill_up(ballast: &Path) -> anyhow::Result<u64> {
    let mut file = File::options().create(true).append(true).open(ballast)?;
    let mut written = 0;
    for size in [1 << 20, 4096, 1] {
        let block = vec![0_u8; size];
        loop {
            match file.write(&block) {
                Ok(0) => break,
                Ok(bytes) => written += bytes as u64,
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(written)
}

/// Whether a byte more does not fit.
fn is_full(directory: &Path) -> bool {
    let path = directory.join("ballast.probe");
    let refused = File::create(&path)
        .and_then(|mut file| file.write_all(&[0; 4096]))
        .is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull);
    // It may not even have come into being.
    let _gone = std::fs::remove_file(path);
    refused
}
