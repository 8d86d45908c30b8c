//! When to take a snapshot, and how much log to keep behind it; and the comparison of the nodes' states.
//!
//! Nodes do not take snapshots at the same moment: each waits a little longer than the bound by an amount of its own, and the
//! leader, on which everybody waits, the longest.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::batcher::Batcher;
use super::core::Core;
use super::limits;
use crate::bus::command::Command;

/// Runs until the node stops.
pub(super) async fn run(core: Arc<Core>, batcher: Batcher) {
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopping = core.tasks.stopping();
    let mut last = Last { bytes: 0, index: 0, at: Instant::now() };
    let mut compared = 0;
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            _ = tick.tick() => {}
        }
        let metrics = core.metrics();
        let snapshot = metrics.snapshot.map_or(0, |id| id.index);
        if snapshot > last.index {
            last = Last { bytes: core.log.appended_bytes(), index: snapshot, at: Instant::now() };
            shorten(&core, snapshot).await;
        }
        let applied = metrics.last_applied.map_or(0, |id| id.index);
        if last.is_due(&core, applied) {
            // Noted as taken at once, so that one which is refused or slow is not asked for every second.
            last.at = Instant::now();
            last.bytes = core.log.appended_bytes();
            if let Err(fatal) = core.raft.trigger().snapshot().await {
                tracing::error!(%fatal, "a snapshot could not be asked for");
                return;
            }
        }
        if core.is_leader() && applied >= compared + limits::CHECKPOINT_ENTRIES {
            compared = applied;
            let (index, checksum) = core.progress.checksum();
            if let Err(error) = batcher.submit(Command::Checkpoint { index, checksum }, limits::NODE_AWAY).await {
                tracing::debug!(%error, "the comparison of the states is left out this time");
            }
        }
    }
}

struct Last {
    /// Of log appended when it was taken, since the start of the process.
    bytes: u64,
    index: u64,
    at: Instant,
}

impl Last {
    fn is_due(&self, core: &Core, applied: u64) -> bool {
        // Between 100% and 112% of the bounds by node, a quarter more on the leader.
        let percent = 100 + core.node_id() % 4 * 4 + if core.is_leader() { 25 } else { 0 };
        let entries = applied.saturating_sub(self.index);
        let bytes = core.log.appended_bytes() - self.bytes;
        entries > 0
            && (bytes * 100 >= limits::SNAPSHOT_LOG_BYTES * percent
                || entries * 100 >= limits::SNAPSHOT_LOG_ENTRIES * percent
                || (entries >= limits::SNAPSHOT_AGED_ENTRIES && self.at.elapsed() >= limits::SNAPSHOT_AGE))
    }
}

/// Entries are dropped by number when a snapshot is made; here, by bytes too.
async fn shorten(core: &Core, snapshot: u64) {
    if let Some(index) = core.log.index_beyond(limits::LOG_KEPT_BYTES) {
        let upto = index.min(snapshot);
        if let Err(fatal) = core.raft.trigger().purge_log(upto).await {
            tracing::error!(%fatal, "the log could not be shortened");
        }
    }
}
