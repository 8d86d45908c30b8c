//! openraft's state machine over [`BusState`].
//!
//! Everything that decides is in the bus; here entries are decoded, handed over in order, and snapshots are made of the
//! result. A batch that this version does not understand, or a disk that fails, stops the node: skipping would make the
//! replicas differ.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures_util::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::convert;
use super::log_store::OnFailure;
use super::snapshots::{SnapshotFolder, Snapshots};
use super::types::{Applied, LogId, SnapshotMeta, StoredMembership, TypeConfig, raft_pb as pb};
use crate::bus::command::Batch;
use crate::bus::state::{BusState, SnapshotHandle, StateError};
use crate::task;

/// What the rest of the cluster module may know of the state machine while it works.
pub(super) struct Progress {
    /// Index of the newest entry applied here; 0 before the first.
    applied: watch::Sender<u64>,
    /// The time of the state machine, milliseconds since 1970; 0 before the first batch.
    at: AtomicI64,
    /// Log index and checksum after the newest batch.
    checksum: Mutex<(u64, u64)>,
}

impl Progress {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { applied: watch::Sender::new(0), at: AtomicI64::new(0), checksum: Mutex::new((0, 0)) })
    }

    pub(super) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    pub(super) fn at(&self) -> i64 {
        self.at.load(Ordering::Relaxed)
    }

    pub(super) fn checksum(&self) -> (u64, u64) {
        *self.checksum.lock()
    }

    fn applied_up_to(&self, index: u64) {
        self.applied.send_if_modified(|applied| std::mem::replace(applied, index) != index);
    }
}

/// One node's copy of the replicated state.
pub(super) struct StateMachine {
    /// Absent only while a snapshot is being restored on another thread, or after that failed.
    bus: Option<BusState>,
    applied: Option<LogId>,
    membership: StoredMembership,
    progress: Arc<Progress>,
    snapshots: Arc<Snapshots>,
    on_failure: OnFailure,
}

impl StateMachine {
    pub(super) fn new(bus: BusState, progress: Arc<Progress>, snapshots: Arc<Snapshots>, on_failure: OnFailure) -> Self {
        Self { bus: Some(bus), applied: None, membership: StoredMembership::default(), progress, snapshots, on_failure }
    }

    fn bus(&mut self) -> io::Result<&mut BusState> {
        self.bus.as_mut().ok_or_else(|| io::Error::other("the state machine has stopped after an earlier error"))
    }

    fn apply_batch(&mut self, index: u64, bytes: bytes::Bytes) -> io::Result<Applied> {
        let batch = Batch::decode(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        #[cfg(test)]
        let batch = super::simulation::distorted(index, batch);
        let bus = self.bus()?;
        let replies = bus.apply(index, &batch).map_err(into_io)?;
        let (checksum, at) = (bus.checksum(), bus.now_ms());
        self.progress.at.store(at, Ordering::Relaxed);
        *self.progress.checksum.lock() = (index, checksum);
        Ok(Applied { replies })
    }

    fn apply_one(&mut self, item: EntryResponder<TypeConfig>) -> io::Result<()> {
        let (entry, responder) = item;
        #[cfg(test)]
        let batch = match &entry.payload {
            EntryPayload::Normal(proposal) => Some(proposal.0.clone()),
            _ => None,
        };
        let answer = match entry.payload {
            EntryPayload::Blank => Applied::default(),
            EntryPayload::Normal(proposal) => self.apply_batch(entry.log_id.index, proposal.0)?,
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Applied::default()
            }
        };
        self.applied = Some(entry.log_id);
        #[cfg(test)]
        super::simulation::applied(
            &entry.log_id,
            batch.as_ref().map(|batch| (batch, answer.replies.as_slice())),
            self.bus.as_ref().map_or(0, BusState::checksum),
        );
        if let Some(responder) = responder {
            responder.send(answer);
        }
        Ok(())
    }

    fn failed<T>(&self, what: &str, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            (self.on_failure)(what, error);
        }
        result
    }
}

fn into_io(error: StateError) -> io::Error {
    match error {
        StateError::Io { what, path, source } => io::Error::new(source.kind(), format!("could not {what} {path}: {source}")),
        other => io::Error::other(other),
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Arc<SnapshotFolder>;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let result = item.and_then(|item| self.apply_one(item));
            self.failed("applying a committed entry", result)?;
        }
        if let Some(applied) = &self.applied {
            self.progress.applied_up_to(applied.index);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        let view = match self.bus() {
            Ok(bus) => bus.snapshot().map_err(into_io),
            Err(error) => Err(error),
        };
        SnapshotBuilder {
            view: Some(view),
            meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Self::SnapshotData) -> io::Result<()> {
        let Some(mut bus) = self.bus.take() else {
            return self.bus().map(|_| ());
        };
        let snapshots = self.snapshots.clone();
        let folder = snapshot.clone();
        // Off this thread: it reads every file of the snapshot.
        let restored = task::blocking(move || {
            bus.restore(folder.path()).map_err(into_io)?;
            snapshots.keep(&folder)?;
            Ok::<_, io::Error>(bus)
        })
        .await
        .and_then(|result| result);
        let bus = self.failed("installing a snapshot", restored)?;
        #[cfg(test)]
        super::simulation::installed();
        *self.progress.checksum.lock() = (bus.applied(), bus.checksum());
        self.progress.at.store(bus.now_ms(), Ordering::Relaxed);
        self.bus = Some(bus);
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        if let Some(applied) = &self.applied {
            self.progress.applied_up_to(applied.index);
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<LeaderId, u64, PeerNode, Self::SnapshotData>>> {
        let snapshots = self.snapshots.clone();
        let newest = task::blocking(move || snapshots.newest()).await??;
        Ok(newest.map(|folder| Snapshot { meta: folder.meta().clone(), snapshot: folder }))
    }
}

type LeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
type PeerNode = super::types::PeerNode;

/// Writes a frozen state out, beside the work that goes on.
pub(super) struct SnapshotBuilder {
    view: Option<io::Result<SnapshotHandle>>,
    meta: SnapshotMeta,
    snapshots: Arc<Snapshots>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Arc<SnapshotFolder>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<LeaderId, u64, PeerNode, Self::SnapshotData>> {
        let view = self.view.take().ok_or_else(|| io::Error::other("a snapshot is built once"))??;
        let (meta, snapshots) = (self.meta.clone(), self.snapshots.clone());
        let folder = task::blocking(move || {
            let path = snapshots.begin()?;
            let files = view.write(&path).map_err(into_io)?;
            let manifest = pb::SnapshotManifest {
                meta: Some(convert::snapshot_meta_to_wire(&meta)),
                files: files.into_iter().map(|file| pb::SnapshotFile { name: file.name, length: file.bytes }).collect(),
            };
            snapshots.finish(&path, manifest)
        })
        .await??;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: folder })
    }
}
