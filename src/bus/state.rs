//! The replicated state machine of the bus (signatures; behaviour follows).

use std::path::Path;

use tokio::sync::watch;

use super::command::{Batch, Member, Reply};
use super::rules::{Limits, Rules};
use super::{BusError, Entry, Position, ReadLimit, Topic};
use std::sync::Arc;
use uuid::Uuid;

/// Why the state machine cannot go on. The node must stop; its log and vote are safe.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The disk failed.
    #[error("{what}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file does not hold what was written.
    #[error("{file} is damaged: {what}")]
    Damaged {
        /// Its path.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// A batch or a snapshot of a newer version.
    #[error("{0}")]
    Unsupported(String),
    /// This node's state is not that of the group.
    #[error("the state after log index {index} has checksum {ours:016x} here and {theirs:016x} at the leader")]
    Diverged {
        /// Of the batch after which the states differ.
        index: u64,
        /// Checksum here.
        ours: u64,
        /// Checksum of who proposed the checkpoint.
        theirs: u64,
    },
    /// A batch was applied out of order.
    #[error("batch {index} came after batch {applied}")]
    OutOfOrder {
        /// Of the batch.
        index: u64,
        /// Newest that was applied before.
        applied: u64,
    },
    /// An earlier batch failed; nothing more can be applied.
    #[error("the state machine has stopped after an earlier error")]
    Halted,
}

/// The one writer of the state.
pub struct BusState {}

impl BusState {
    /// An empty bus which keeps its files in `directory` (made if need be; what is left there of an earlier run is removed: the newest
    /// snapshot and the log bring it back).
    pub fn open(directory: &Path, limits: Limits) -> Result<(BusState, BusReader), StateError> {
        let _ = (directory, limits);
        todo!()
    }

    /// Applies one batch. `index` is its log index and must be higher than that of the batch before.
    pub fn apply(&mut self, index: u64, batch: &Batch) -> Result<Vec<Reply>, StateError> {
        let _ = (index, batch);
        todo!()
    }

    /// Log index of the newest batch applied (or restored); 0 if none.
    pub fn applied(&self) -> u64 {
        todo!()
    }

    /// Checksum over everything applied so far, for `Command::Checkpoint`.
    pub fn checksum(&self) -> u64 {
        todo!()
    }

    /// A view of the state as it is now; cheap. Write it out off this thread.
    pub fn snapshot(&mut self) -> Result<SnapshotHandle, StateError> {
        todo!()
    }

    /// Replaces the state by a snapshot written by [`SnapshotHandle::write`], verifying every checksum. Links its files (copies across
    /// file systems); the snapshot may be removed afterwards. On an error the old state stays.
    pub fn restore(&mut self, directory_of_snapshot: &Path) -> Result<(), StateError> {
        let _ = directory_of_snapshot;
        todo!()
    }
}

/// A frozen state. `Send + Sync`; keeps its segments' files alive.
pub struct SnapshotHandle {}

impl SnapshotHandle {
    /// Log index of the newest batch in it.
    pub fn applied(&self) -> u64 {
        todo!()
    }

    /// Writes it into `directory`, which must be on the file system of the bus's for links to be cheap, must exist and should be empty.
    /// Files and directory are synced when this returns. Other files in the directory are left alone, so that the caller may keep its own there.
    pub fn write(&self, directory: &Path) -> Result<Vec<SnapshotFile>, StateError> {
        let _ = directory;
        todo!()
    }
}

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Within the snapshot's directory; no separators.
    pub name: String,
    /// Length.
    pub bytes: u64,
}

/// The files of the snapshot in `directory`, as its `state` file lists them, that one first.
pub fn snapshot_files(directory: &Path) -> Result<Vec<SnapshotFile>, StateError> {
    let _ = directory;
    todo!()
}

/// Cluster matters as last applied here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// Set once by `FoundCluster`.
    pub cluster_id: Option<Uuid>,
    /// By id.
    pub members: Vec<Member>,
    /// Ids that were removed, never to be used again; in order.
    pub removed: Vec<u64>,
    /// Who leads the services.
    pub services: Option<ServicesLead>,
    /// The newest epoch ever given; 0 if none.
    pub newest_epoch: u64,
}

/// Who leads the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServicesLead {
    /// The member.
    pub node: u64,
    /// The log index of its election.
    pub epoch: u64,
}

/// Figures of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamView {
    /// Which.
    pub topic: Topic,
    /// Oldest position kept.
    pub first: Position,
    /// Newest position.
    pub last: Position,
    /// Bytes kept.
    pub bytes: u64,
    /// Name and position, by name.
    pub groups: Vec<(String, Position)>,
}

/// Reads what is applied on this node. Cheap to clone; never blocks `apply` for longer than a copy.
#[derive(Clone)]
pub struct BusReader {}

impl BusReader {
    /// As [`super::Bus::read`]. Goes to a blocking thread only when it has to read a file.
    pub async fn read(&self, topic: &Topic, after: Position, limit: ReadLimit) -> Result<Vec<Entry>, BusError> {
        let _ = (topic, after, limit);
        todo!()
    }

    /// As [`super::Bus::last`].
    pub fn last(&self, topic: &Topic) -> Position {
        let _ = topic;
        todo!()
    }

    /// As [`super::Bus::first`].
    pub fn first(&self, topic: &Topic) -> Position {
        let _ = topic;
        todo!()
    }

    /// As [`super::Bus::wait_past`].
    pub async fn wait_past(&self, topic: &Topic, after: Position) -> Result<Position, BusError> {
        let _ = (topic, after);
        todo!()
    }

    /// Members and the services election, to watch.
    pub fn cluster(&self) -> watch::Receiver<Arc<ClusterView>> {
        todo!()
    }

    /// Log index of the newest batch applied here, to watch.
    pub fn applied(&self) -> watch::Receiver<u64> {
        todo!()
    }

    /// The bounds in force.
    pub fn rules(&self) -> Rules {
        todo!()
    }

    /// Figures of all streams, by name.
    pub fn streams(&self) -> Vec<StreamView> {
        todo!()
    }

    /// The value of a key and its version.
    pub fn key(&self, key: &[u8]) -> Option<(bytes::Bytes, u64)> {
        let _ = key;
        todo!()
    }
}
