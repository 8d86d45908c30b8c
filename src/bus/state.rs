//! The replicated state machine of the bus: [`BusState::apply`] is its only door.
//!
//! It is pure as far as anybody can see: the same batches at the same log indexes give the same replies and the same snapshot, byte
//! for byte, on every node. It asks no clock (time comes with the batch and never goes backwards), no chance, and iterates over no
//! map without an order. Files are only where entries are kept while they do not fit in memory.
//!
//! **Restart.** Files of an earlier run are removed by [`BusState::open`]: the newest snapshot ([`BusState::restore`]) and the log
//! after it bring everything back. That is why nothing is synced here but snapshots.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message as _;

use super::backlog::{Backlog, Instant};
use super::checksum::Rolling;
use super::command::{Batch, Command, Reply};
use super::key::Keys;
use super::member::Cluster;
use super::reader::Shared;
use super::rules::{AWAKE_STEP_MS_MAX, CHECKPOINTS_KEPT, Limits, Rules, SWEEP_MS};
use super::spill::Spiller;
use super::wire::proto;

pub use super::member::{ClusterView, ServicesLead};
pub use super::reader::{BusReader, StreamView, Usage};
pub use super::snapshot::{SnapshotFile, SnapshotHandle, snapshot_files};

/// Why the state machine cannot go on. The node must stop; its log and vote are safe.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The disk failed.
    #[error("could not {what} {path}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file does not hold what was written.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// Something of a newer version.
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
    /// A batch came out of order.
    #[error("batch {index} came after batch {applied}")]
    OutOfOrder {
        /// Of the batch.
        index: u64,
        /// Newest that was applied before.
        applied: u64,
    },
    /// An earlier batch failed; nothing more is applied.
    #[error("the state machine has stopped after an earlier error")]
    Halted,
}

impl StateError {
    pub(super) fn io(what: &'static str, path: &Path, source: std::io::Error) -> StateError {
        StateError::Io { what, path: path.display().to_string(), source }
    }

    pub(super) fn damaged(path: &Path, what: &str) -> StateError {
        StateError::Damaged { path: path.display().to_string(), what: what.to_owned() }
    }
}

/// The one writer of the state. Dropping it closes its readers.
#[derive(Debug)]
pub struct BusState {
    pub(super) shared: Arc<Shared>,
    pub(super) directory: PathBuf,
    /// Counts restores; each has a folder of its own.
    pub(super) generation: u64,
    pub(super) applied: u64,
    pub(super) now: i64,
    pub(super) awake_ms: u64,
    pub(super) swept: i64,
    pub(super) checksum: Rolling,
    pub(super) recent: VecDeque<(u64, u64)>,
    pub(super) rules: Rules,
    pub(super) backlog: Backlog,
    pub(super) keys: Keys,
    pub(super) cluster: Cluster,
    pub(super) spiller: Spiller,
    halted: bool,
}

impl BusState {
    /// An empty bus which keeps its files in `directory`, which is made if need be; what an earlier run left there is removed.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(directory: &Path, limits: Limits) -> Result<(BusState, BusReader), StateError> {
        std::fs::create_dir_all(directory).map_err(|error| StateError::io("create", directory, error))?;
        let left = std::fs::read_dir(directory).map_err(|error| StateError::io("list", directory, error))?;
        for entry in left {
            let entry = entry.map_err(|error| StateError::io("list", directory, error))?;
            if entry.file_name().to_string_lossy().starts_with(WORK_PREFIX) {
                let path = entry.path();
                std::fs::remove_dir_all(&path).map_err(|error| StateError::io("remove", &path, error))?;
            }
        }
        let work = make_work_directory(directory, 0)?;
        let shared = Arc::new(Shared::new(limits));
        let state = BusState {
            directory: directory.to_owned(),
            generation: 0,
            applied: 0,
            now: 0,
            awake_ms: 0,
            swept: 0,
            checksum: Rolling::default(),
            recent: VecDeque::new(),
            rules: Rules::GENESIS,
            backlog: Backlog::new(shared.clone(), work),
            keys: Keys::new(shared.keys.clone()),
            cluster: Cluster::new(shared.cluster.clone()),
            spiller: Spiller::start()?,
            halted: false,
            shared: shared.clone(),
        };
        Ok((state, BusReader::new(shared)))
    }

    /// Applies one batch. `index` is its log index, higher than that of the batch before.
    ///
    /// # Errors
    /// The node has to stop; every further call fails too.
    pub fn apply(&mut self, index: u64, batch: &Batch) -> Result<Vec<Reply>, StateError> {
        if self.halted {
            return Err(StateError::Halted);
        }
        let applied = self.apply_or_halt(index, batch);
        self.halted = applied.is_err();
        applied
    }

    /// Log index of the newest batch applied or restored; 0 if none.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Checksum over everything applied so far, for [`Command::Checkpoint`].
    pub fn checksum(&self) -> u64 {
        self.checksum.0
    }

    /// The bus's time: milliseconds since the epoch, as of the newest batch.
    pub fn now_ms(&self) -> i64 {
        self.now
    }

    pub(super) fn is_halted(&self) -> bool {
        self.halted
    }

    /// A restored state is a sound one.
    pub(super) fn revive(&mut self) {
        self.halted = false;
    }

    fn apply_or_halt(&mut self, index: u64, batch: &Batch) -> Result<Vec<Reply>, StateError> {
        if index <= self.applied {
            return Err(StateError::OutOfOrder { index, applied: self.applied });
        }
        self.spiller.check()?;
        let at = self.pass_time(batch.at_ms);
        self.checksum.fold(index);
        self.checksum.fold(at.now as u64);
        let batch_bytes = batch.commands.iter().map(payload_bytes).sum();
        let mut replies = Vec::with_capacity(batch.commands.len());
        for command in &batch.commands {
            let reply = self.apply_command(index, at, command, batch_bytes)?;
            fold_reply(&mut self.checksum, &reply);
            replies.push(reply);
        }
        self.backlog.spill(&self.spiller, self.shared.limits.hot_bytes_max)?;
        self.applied = index;
        if self.recent.len() == CHECKPOINTS_KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back((index, self.checksum.0));
        self.cluster.tell();
        self.backlog.tell();
        self.shared.applied.send_replace(index);
        Ok(replies)
    }

    /// Moves time on, and lets go of what has had its time.
    fn pass_time(&mut self, at_ms: i64) -> Instant {
        let step = at_ms.saturating_sub(self.now).clamp(0, AWAKE_STEP_MS_MAX);
        self.now = self.now.max(at_ms);
        self.awake_ms += step as u64;
        let at = Instant { now: self.now, awake_ms: self.awake_ms };
        self.keys.expire(self.now);
        self.backlog.seen.expire(self.now, &self.rules);
        if self.now.saturating_sub(self.swept) >= SWEEP_MS {
            self.swept = self.now;
            self.backlog.sweep(at, &self.rules);
        }
        at
    }

    fn apply_command(&mut self, index: u64, at: Instant, command: &Command, batch_bytes: u64) -> Result<Reply, StateError> {
        let rules = &self.rules;
        if let Command::Publish { stream, messages } = command {
            return Ok(self.backlog.publish(at, rules, stream, messages, batch_bytes, &mut self.checksum));
        }
        self.checksum.fold_bytes(&proto::Command::from(command).encode_to_vec());
        Ok(match command {
            Command::Publish { .. } => unreachable!("handled above"),
            Command::EnsureGroup { stream, group, start, idle_ms_max } => {
                self.backlog.ensure_group(at, rules, stream, group, *start, *idle_ms_max)
            }
            Command::AdvanceGroup { stream, group, position } => self.backlog.advance_group(at, rules, stream, group, *position),
            Command::DeleteGroup { stream, group } => self.backlog.delete_group(at, rules, stream, group),
            Command::SetKey { key, value, expires_after_ms, condition } => {
                self.keys.set(at.now, rules, key, value, *expires_after_ms, *condition)
            }
            Command::DeleteKey { key, if_version } => self.keys.delete(key, *if_version),
            Command::FoundCluster { id } => self.cluster.found(*id),
            Command::SetMember(member) => self.cluster.set(member),
            Command::RemoveMember { id } => self.cluster.remove(*id),
            Command::ElectServices { node, replaces } => self.cluster.elect(index, *node, *replaces),
            Command::ResignServices { node, epoch } => self.cluster.resign(*node, *epoch),
            Command::SetRules(rules) => self.set_rules(at, rules),
            Command::Checkpoint { index, checksum } => self.compare(*index, *checksum)?,
        })
    }

    fn set_rules(&mut self, at: Instant, rules: &Rules) -> Reply {
        if let Err(reason) = rules.check() {
            return Reply::Refused(reason);
        }
        // Bounds that are lowered below what there is: refuse those that nothing could bring about at once.
        if self.backlog.bytes > rules.backlog_bytes_max || self.backlog.tail_bytes > rules.tail_bytes_max {
            return Reply::Refused(format!(
                "the bus holds {} bytes, {} of them in open segments",
                self.backlog.bytes, self.backlog.tail_bytes
            ));
        }
        self.rules = rules.clone();
        *self.shared.rules.write() = rules.clone();
        self.backlog.seen.expire(at.now, rules);
        self.backlog.sweep(at, rules);
        Reply::Done
    }

    fn compare(&self, index: u64, theirs: u64) -> Result<Reply, StateError> {
        match self.recent.binary_search_by_key(&index, |(index, _)| *index) {
            Ok(found) if self.recent[found].1 != theirs => Err(StateError::Diverged { index, ours: self.recent[found].1, theirs }),
            _ => Ok(Reply::Done),
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        self.backlog.check(&self.rules);
        self.keys.check();
    }
}

impl Drop for BusState {
    fn drop(&mut self) {
        self.shared.closed.send_replace(true);
    }
}

const WORK_PREFIX: &str = "work-";

/// A new folder for segment files.
pub(super) fn make_work_directory(directory: &Path, generation: u64) -> Result<PathBuf, StateError> {
    let path = directory.join(format!("{WORK_PREFIX}{generation}"));
    std::fs::create_dir(&path).map_err(|error| StateError::io("create", &path, error))?;
    Ok(path)
}

fn payload_bytes(command: &Command) -> u64 {
    match command {
        Command::Publish { messages, .. } => messages.iter().map(|message| message.payload.len() as u64).sum(),
        Command::SetKey { value, .. } => value.len() as u64,
        _ => 0,
    }
}

/// What was decided, but not in which words: these may differ between versions.
fn fold_reply(checksum: &mut Rolling, reply: &Reply) {
    let (tag, value) = match reply {
        Reply::Done => (1, 0),
        Reply::Refused(_) => (2, 0),
        Reply::Published(published) => {
            checksum.fold(published.first);
            checksum.fold(u64::from(published.duplicates));
            (3, published.last)
        }
        Reply::Full { bytes, .. } => (4, *bytes),
        Reply::GroupAt(position) => (5, *position),
        Reply::NoSuchStream => (6, 0),
        Reply::NoSuchGroup => (7, 0),
        Reply::KeyAt(version) => (8, *version),
        Reply::KeyConflict(None) => (9, 0),
        Reply::KeyConflict(Some(version)) => (10, *version),
        Reply::Elected(epoch) => (11, *epoch),
    };
    checksum.fold(tag);
    checksum.fold(value);
}
