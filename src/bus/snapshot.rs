//! Snapshots: a frozen state which writes itself into a directory, and the way back.
//!
//! The directory holds `state` (written last; it names all others with length and checksum), `seen` and one file per segment. Files of
//! sealed segments are links to those the bus keeps, so a large backlog is not copied. Two nodes which applied the same log
//! write the same bytes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use prost::Message as _;

use super::backlog::{Backlog, segment_name};
use super::checksum::Rolling;
use super::dedup::{Seen, SeenList};
use super::framing::{self, FileCheck, Kind};
use super::group::Group;
use super::rules::Rules;
use super::segment::{self, Segment, cost};
use super::spill::Spiller;
use super::state::{BusState, StateError, make_work_directory};
use super::stream::{Log, Stream};
use super::wire::proto;
use super::{Position, Topic};

const STATE: &str = "state";
const SEEN: &str = "seen";

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Within the snapshot's directory; has no separators.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// A frozen state. Cheap to make; keeps the files of its segments alive. Write it where disk access may block.
#[derive(Debug)]
pub struct SnapshotHandle {
    state: proto::SnapshotState,
    /// In the order of `state.streams`.
    logs: Vec<Log>,
    seen: SeenList,
}

impl SnapshotHandle {
    /// Log index of the newest batch in it.
    pub fn applied(&self) -> u64 {
        self.state.applied
    }

    /// Writes it into `directory`, which must exist and hold no snapshot; it should be on the file system of the bus, so that
    /// links can be made. When this returns all is on disk. Other files in the directory are left alone.
    ///
    /// # Errors
    /// The disk failed; what was written is no snapshot.
    pub fn write(&self, directory: &Path) -> Result<Vec<SnapshotFile>, StateError> {
        let mut state = self.state.clone();
        for (stream, log) in state.streams.iter_mut().zip(&self.logs) {
            for segment in &log.sealed {
                let name = segment_name(stream.id, segment.first);
                let check = segment.save(&directory.join(&name))?;
                stream.segments.push(proto::SegmentState {
                    first: segment.first,
                    entries: segment.entries,
                    bytes: segment.bytes,
                    last_at_ms: segment.last_at,
                    sealed: true,
                    file: Some(file_state(name, check)),
                });
            }
            if let (Some(first), Some(last)) = (log.tail.first(), log.tail.last()) {
                let name = segment_name(stream.id, first.position);
                let check = segment::write(&directory.join(&name), &log.tail, true)?;
                stream.segments.push(proto::SegmentState {
                    first: first.position,
                    entries: log.tail.len() as u64,
                    bytes: log.tail_bytes,
                    last_at_ms: last.at,
                    sealed: false,
                    file: Some(file_state(name, check)),
                });
            }
        }
        state.seen = Some(file_state(SEEN.to_owned(), self.seen.save(&directory.join(SEEN))?));
        // Names first, then the file that speaks of them.
        framing::sync_directory(directory)?;
        let path = directory.join(STATE);
        let mut writer = framing::Writer::create(&path, Kind::State)?;
        writer.block(&state.encode_to_vec())?;
        let check = writer.finish(true)?;
        framing::sync_directory(directory)?;
        list(directory, &state, check)
    }
}

/// The files of the snapshot in `directory`, `state` first. Reads and checks that file, and the names it gives, but not the others.
///
/// # Errors
/// There is no snapshot, or it is damaged.
pub fn snapshot_files(directory: &Path) -> Result<Vec<SnapshotFile>, StateError> {
    let (state, check) = read_state(directory)?;
    list(directory, &state, check)
}

fn list(directory: &Path, state: &proto::SnapshotState, check: FileCheck) -> Result<Vec<SnapshotFile>, StateError> {
    let segments = state.streams.iter().flat_map(|stream| &stream.segments).map(|segment| segment.file.as_ref());
    let mut files = vec![SnapshotFile { name: STATE.to_owned(), bytes: check.bytes }];
    for file in std::iter::once(state.seen.as_ref()).chain(segments) {
        let file = file.ok_or_else(|| StateError::damaged(&directory.join(STATE), "it does not name a file"))?;
        // A snapshot comes from another machine: its names must not lead elsewhere.
        if file.name.is_empty() || file.name.contains(['/', '\\', '\0']) || file.name.starts_with('.') {
            return Err(StateError::damaged(&directory.join(STATE), "it names a file elsewhere"));
        }
        files.push(SnapshotFile { name: file.name.clone(), bytes: file.bytes });
    }
    Ok(files)
}

fn read_state(directory: &Path) -> Result<(proto::SnapshotState, FileCheck), StateError> {
    let path = directory.join(STATE);
    let mut state = None;
    let check = framing::read(&path, Kind::State, None, |block| {
        let decoded = proto::SnapshotState::decode(block).map_err(|_| StateError::damaged(&path, "it is no state"))?;
        match state.replace(decoded) {
            None => Ok(()),
            Some(_) => Err(StateError::damaged(&path, "it holds two states")),
        }
    })?;
    let state = state.ok_or_else(|| StateError::damaged(&path, "it holds no state"))?;
    Ok((state, check))
}

fn file_state(name: String, check: FileCheck) -> proto::FileState {
    proto::FileState { name, bytes: check.bytes, checksum: check.checksum }
}

fn check_of(file: &proto::FileState) -> FileCheck {
    FileCheck { bytes: file.bytes, checksum: file.checksum }
}

impl BusState {
    /// A view of the state as it is now. Costs a few references and copies of the open tails' lists, not their bytes.
    ///
    /// # Errors
    /// The state machine has halted.
    pub fn snapshot(&mut self) -> Result<SnapshotHandle, StateError> {
        if self.is_halted() {
            return Err(StateError::Halted);
        }
        let (keys, key_version) = self.keys.save();
        let logs: Vec<Log> = self.backlog.streams.values().map(|stream| stream.log.read().clone()).collect();
        let streams = self.backlog.streams.values().zip(&logs).map(|(stream, log)| proto::StreamState {
            id: stream.id,
            name: stream.topic.name().to_owned(),
            next: log.next,
            segments: Vec::new(),
            groups: log.groups.iter().map(|(name, group)| group.save(name)).collect(),
        });
        let state = proto::SnapshotState {
            applied: self.applied,
            now_ms: self.now,
            awake_ms: self.awake_ms,
            checksum: self.checksum.0,
            recent: self.recent.iter().map(|(index, checksum)| proto::Checkpoint { index: *index, checksum: *checksum }).collect(),
            rules: Some((&self.rules).into()),
            streams_made: self.backlog.streams_made,
            streams: streams.collect(),
            seen: None,
            key_version,
            keys,
            cluster: Some(self.cluster.save()),
            swept_ms: self.swept,
        };
        Ok(SnapshotHandle { state, logs, seen: self.backlog.seen.list() })
    }

    /// Replaces the state by a snapshot which [`SnapshotHandle::write`] wrote, here or on another node; every file is verified. Its
    /// segments are linked (copied across file systems), so the directory may be removed afterwards. Readers and waits go on.
    ///
    /// # Errors
    /// The snapshot is damaged or of a newer version, or the disk failed. Then the state is what it was.
    pub fn restore(&mut self, directory_of_snapshot: &Path) -> Result<(), StateError> {
        let (state, _) = read_state(directory_of_snapshot)?;
        // What is under way to the old folder has to arrive before that is removed. An error of it is of a state that goes.
        if let Err(error) = self.spiller.drain() {
            tracing::warn!(%error, "segments of the state that is being replaced could not be written");
            self.spiller = Spiller::start()?;
        }
        let old = self.backlog.directory.clone();
        self.generation += 1;
        let work = make_work_directory(&self.directory, self.generation)?;
        if let Err(error) = self.load(directory_of_snapshot, &work, state) {
            if let Err(error) = std::fs::remove_dir_all(&work) {
                tracing::debug!(path = %work.display(), %error, "a failed restore could not be cleaned up");
            }
            return Err(error);
        }
        // Still there if a reader holds one of its segments; the next start removes it.
        if let Err(error) = std::fs::remove_dir(&old) {
            tracing::debug!(path = %old.display(), %error, "the former segments' folder stays for now");
        }
        Ok(())
    }

    fn load(&mut self, from: &Path, work: &Path, state: proto::SnapshotState) -> Result<(), StateError> {
        let damaged = |what: &str| StateError::damaged(&from.join(STATE), what);
        list(from, &state, FileCheck { bytes: 0, checksum: 0 })?;
        let rules = Rules::from(state.rules.ok_or_else(|| damaged("it has no rules"))?);
        rules.check().map_err(|reason| damaged(&reason))?;
        let cluster = state.cluster.ok_or_else(|| damaged("it has no cluster"))?;
        let seen = state.seen.as_ref().ok_or_else(|| damaged("it names no ids"))?;
        let seen = Seen::load(&from.join(&seen.name), check_of(seen))?;

        let mut backlog = Backlog::new(self.shared.clone(), work.to_owned());
        backlog.streams_made = state.streams_made;
        backlog.seen = seen;
        let mut logs: BTreeMap<Topic, (u32, Log)> = BTreeMap::new();
        let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for stream in &state.streams {
            if !names.insert(&stream.name) || !ids.insert(stream.id) {
                return Err(damaged("it holds a stream twice"));
            }
            let log = self.load_log(from, work, stream)?;
            backlog.bytes += log.bytes;
            backlog.tail_bytes += log.tail_bytes;
            logs.insert(Topic::from(stream.name.as_str()), (stream.id, log));
        }

        // Nothing can fail from here on.
        {
            let mut shared = self.shared.streams.write();
            let mut old = std::mem::take(&mut *shared);
            for (topic, (id, log)) in logs {
                let stream = match old.remove(&topic) {
                    Some(stream) if stream.id == id => stream,
                    _ => Arc::new(Stream::new(id, topic.clone())),
                };
                *stream.log.write() = log;
                shared.insert(topic, stream);
            }
            backlog.streams = shared.clone();
        }
        self.shared.cache.lock().clear();
        self.backlog = backlog;
        self.applied = state.applied;
        self.now = state.now_ms;
        self.awake_ms = state.awake_ms;
        self.swept = state.swept_ms;
        self.checksum = Rolling(state.checksum);
        self.recent = state.recent.iter().map(|checkpoint| (checkpoint.index, checkpoint.checksum)).collect();
        *self.shared.rules.write() = rules.clone();
        self.rules = rules;
        self.keys.load(state.keys, state.key_version);
        self.cluster.load(cluster);
        self.backlog.streams.values().for_each(|stream| stream.tell());
        self.shared.streams_made.send_replace(self.backlog.streams_made);
        self.shared.applied.send_replace(self.applied);
        self.revive();
        Ok(())
    }

    fn load_log(&self, from: &Path, work: &Path, stream: &proto::StreamState) -> Result<Log, StateError> {
        let damaged = |what: &str| StateError::damaged(&from.join(STATE), what);
        let mut log = Log::new();
        log.next = stream.next.max(1);
        log.groups = stream.groups.iter().map(|group| (group.name.clone(), Group::load(group))).collect();
        let mut sealed = VecDeque::new();
        let mut next: Option<Position> = None;
        for segment in &stream.segments {
            let file = segment.file.as_ref().ok_or_else(|| damaged("a segment has no file"))?;
            let path = from.join(&file.name);
            if segment.entries == 0 || next.is_some_and(|next| next != segment.first) || !log.tail.is_empty() {
                return Err(damaged("segments do not follow each other"));
            }
            let (Some(end), 1..) = (segment.first.checked_add(segment.entries), segment.first) else {
                return Err(damaged("a segment lies beyond all positions"));
            };
            next = Some(end);
            let entries = segment::read(&path, check_of(file), segment.first, segment.entries)?;
            let bytes: u64 = entries.iter().map(|entry| cost(entry.payload.len())).sum();
            if bytes != segment.bytes || entries.last().is_none_or(|entry| entry.at != segment.last_at_ms) {
                return Err(StateError::damaged(&path, "it holds other entries than it should"));
            }
            log.bytes += bytes;
            if segment.sealed {
                let path_here = work.join(segment_name(stream.id, segment.first));
                let segment = Segment::adopt(path_here, &path, check_of(file), segment, &self.shared.hot_bytes)?;
                sealed.push_back(Arc::new(segment));
            } else {
                log.tail_bytes = bytes;
                log.tail = entries;
            }
        }
        let past_end = log.groups.values().any(|group| group.position > log.last());
        if past_end || next.is_some_and(|next| next != log.next) {
            return Err(damaged("a stream does not end where its segments or groups do"));
        }
        log.sealed = sealed;
        Ok(log)
    }
}
