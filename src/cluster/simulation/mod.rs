//! The whole group in one thread, with everything that is left to chance taken from a seed.
//!
//! What runs is the node itself as [`start::join`] puts it together: openraft, the bus and its snapshots, batcher, proposer,
//! forwarding, both elections, barriers, bootstrap, and tonic between the nodes. Made up are the ground it stands on: time (each
//! node has a clock of its own, which the simulation moves), the [network](network) and the [disk](disk) of the log.
//! Nodes are killed, lose power, stand still and are stopped in good order; links are cut, one way or both, or are slow; flushes
//! stall; leads are handed over; snapshots are made and logs cut behind them. At every step the [laws](laws) are
//! looked at. In the end all is well again, and the group has to serve, to agree, and to hold everything that it has acknowledged.
//!
//! `PRAETOR_SIM_SEED=17 cargo test --lib simulation::tests::replay -- --nocapture` shows what happens in number 17.
//! `PRAETOR_SIM_SEEDS=5000 cargo test --release --lib simulation::tests::seeds -- --nocapture` runs so many.
//!
//! Libraries draw from the machine what no seed reaches: Tokio the order in which it wakes those who wait for one `watch`, hash maps
//! their keys and, from addresses, their order. So the tests run each seed in a process of its own which is given the same random
//! numbers (`steady.c`) and the same addresses each time: two runs of one seed are the same.
//!
//! Not covered: files other than the log (snapshots and the node's identity are written to a real folder and survive every crash),
//! damage to a file, the format of the log on disk, several threads in one node, changes of the membership (there are none yet).

mod disk;
pub(super) mod laws;
mod network;
pub(super) mod runtime;
#[cfg(test)]
mod tests;
mod trace;
mod workload;
mod world;

use std::cell::Cell;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::types::LogId;
use crate::bus::command::{Batch, Command, Reply};

/// A bug that can be planted, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Bug {
    /// The disk says that entries are written when they are not.
    AcknowledgesBeforeFlush,
    /// The disk says that a vote is written when it is not.
    ForgetsVotes,
    /// The bus does not remember some ids.
    ForgetsIds,
    /// One node does not apply what the others do.
    AppliesOtherwise,
    /// A leader gives the barrier's index without asking a majority.
    ReadsStale,
    /// Who leads the services goes on without word from a majority.
    NeverLetsGo,
}

thread_local! {
    static NODE: Cell<u64> = const { Cell::new(0) };
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// The bug of the simulation on this thread, if there is one.
pub(super) fn planted() -> Option<Bug> {
    PLANTED.get()
}

/// The running node has applied an entry.
pub(super) fn applied(log_id: &LogId, batch: Option<(&Bytes, &[Reply])>, checksum: u64) {
    laws::applied(NODE.get(), log_id, batch, checksum);
}

/// The running node has installed a snapshot.
pub(super) fn installed() {
    laws::with(|laws| laws.counts.installed += 1);
}

/// A batch as the running node applies it: as it is, where no bug says otherwise.
pub(super) fn distorted(index: u64, mut batch: Batch) -> Batch {
    for command in &mut batch.commands {
        match (planted(), command) {
            (Some(Bug::ForgetsIds), Command::Publish { messages, .. }) if index.is_multiple_of(7) => {
                for message in messages.iter_mut() {
                    message.id = uuid::Uuid::nil();
                }
            }
            (Some(Bug::AppliesOtherwise), Command::AdvanceGroup { position, .. }) if NODE.get() == 2 => *position = 0,
            _ => {}
        }
    }
    batch
}
