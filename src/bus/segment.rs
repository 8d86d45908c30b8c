//! A sealed run of entries of one stream: never changed again, in memory while hot, else in a file of its own.
//!
//! The file is removed with the last reference to the segment, so whoever holds one can read it. What is in the file depends on
//! the entries alone: two nodes write the same bytes.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use prost::Message as _;
use uuid::Uuid;

use super::framing::{self, BLOCK_BYTES, FileCheck, Kind};
use super::rules::ENTRY_OVERHEAD_BYTES;
use super::state::StateError;
use super::wire::proto;
use super::{Entry, Position};

/// What an entry counts in every account of the bus.
pub(super) fn cost(payload_bytes: usize) -> u64 {
    payload_bytes as u64 + ENTRY_OVERHEAD_BYTES
}

/// See the module.
#[derive(Debug)]
pub(super) struct Segment {
    /// Position of its first entry.
    pub first: Position,
    /// How many entries, at least one.
    pub entries: u64,
    /// Their cost.
    pub bytes: u64,
    /// When its newest entry was appended.
    pub last_at: i64,
    path: PathBuf,
    body: RwLock<Body>,
    hot_bytes: Arc<AtomicU64>,
    synced: Mutex<bool>,
}

#[derive(Debug)]
enum Body {
    Hot(Arc<Vec<Entry>>),
    Filed(FileCheck),
}

impl Segment {
    /// Seals entries, which must not be empty; they stay in memory until [`Segment::spill`], counted in `hot_bytes`.
    pub fn seal(path: PathBuf, entries: Vec<Entry>, bytes: u64, hot_bytes: &Arc<AtomicU64>) -> Segment {
        let (first, last) = match entries.as_slice() {
            [] => unreachable!("an empty run is never sealed"),
            [first, .., last] => (first, last),
            [only] => (only, only),
        };
        hot_bytes.fetch_add(bytes, Ordering::Relaxed);
        Segment {
            first: first.position,
            entries: entries.len() as u64,
            bytes,
            last_at: last.at,
            path,
            body: RwLock::new(Body::Hot(Arc::new(entries))),
            hot_bytes: hot_bytes.clone(),
            synced: Mutex::new(false),
        }
    }

    /// Takes over a file of a snapshot: it is linked to `path` (copied if it cannot be). The caller has verified it.
    pub fn adopt(
        path: PathBuf,
        file: &Path,
        check: FileCheck,
        state: &proto::SegmentState,
        hot_bytes: &Arc<AtomicU64>,
    ) -> Result<Segment, StateError> {
        link_or_copy(file, &path)?;
        Ok(Segment {
            first: state.first,
            entries: state.entries,
            bytes: state.bytes,
            last_at: state.last_at_ms,
            path,
            body: RwLock::new(Body::Filed(check)),
            hot_bytes: hot_bytes.clone(),
            synced: Mutex::new(false),
        })
    }

    /// Position of its last entry.
    pub fn last(&self) -> Position {
        self.first + (self.entries - 1)
    }

    /// Its entries, if they are in memory.
    pub fn in_memory(&self) -> Option<Arc<Vec<Entry>>> {
        match &*self.body.read() {
            Body::Hot(entries) => Some(entries.clone()),
            Body::Filed(_) => None,
        }
    }

    /// Its entries, from the file if need be. Blocks on the disk.
    pub fn load(&self) -> Result<Arc<Vec<Entry>>, StateError> {
        let check = match &*self.body.read() {
            Body::Hot(entries) => return Ok(entries.clone()),
            Body::Filed(check) => *check,
        };
        read(&self.path, check, self.first, self.entries).map(Arc::new)
    }

    /// Moves the entries to the file. Not synced: the log brings them back until a snapshot holds them.
    pub fn spill(&self) -> Result<(), StateError> {
        let Some(entries) = self.in_memory() else { return Ok(()) };
        let check = write(&self.path, &entries, false)?;
        *self.body.write() = Body::Filed(check);
        self.hot_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Puts the segment's file at `path`, on disk when this returns.
    pub fn save(&self, path: &Path) -> Result<FileCheck, StateError> {
        let (entries, check) = match &*self.body.read() {
            Body::Hot(entries) => (Some(entries.clone()), None),
            Body::Filed(check) => (None, Some(*check)),
        };
        match (entries, check) {
            (Some(entries), _) => write(path, &entries, true),
            (None, Some(check)) => {
                let linked = link_or_copy(&self.path, path)?;
                let mut synced = self.synced.lock();
                if !*synced || !linked {
                    File::open(path).and_then(|file| file.sync_all()).map_err(|error| StateError::io("sync", path, error))?;
                    *synced |= linked;
                }
                Ok(check)
            }
            (None, None) => unreachable!("a body is one or the other"),
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        match self.body.get_mut() {
            Body::Hot(_) => {
                self.hot_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
            }
            Body::Filed(_) => {
                if let Err(error) = std::fs::remove_file(&self.path) {
                    tracing::debug!(path = %self.path.display(), %error, "a trimmed segment could not be removed");
                }
            }
        }
    }
}

/// Links, or copies if that cannot be done; says whether it linked. What is at `to` already is left alone: it may be the same file.
fn link_or_copy(from: &Path, to: &Path) -> Result<bool, StateError> {
    match std::fs::hard_link(from, to) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(StateError::io("link a segment to", to, error)),
        Err(_) => {}
    }
    let copy = || std::io::copy(&mut File::open(from)?, &mut File::create_new(to)?);
    copy().map(|_| false).map_err(|error| StateError::io("copy a segment to", to, error))
}

/// Writes entries, which follow each other, as a segment file.
pub(super) fn write(path: &Path, entries: &[Entry], sync: bool) -> Result<FileCheck, StateError> {
    let mut writer = framing::Writer::create(path, Kind::Segment)?;
    let mut block = proto::SegmentBlock::default();
    let mut size = 0;
    for entry in entries {
        if block.entries.is_empty() {
            block.first = entry.position;
        }
        let (id_high, id_low) = entry.id.as_u64_pair();
        block.entries.push(proto::SegmentEntry { at_ms: entry.at, id_high, id_low, payload: entry.payload.clone() });
        size += entry.payload.len() + 32;
        if size >= BLOCK_BYTES {
            writer.block(&block.encode_to_vec())?;
            block.entries.clear();
            size = 0;
        }
    }
    if !block.entries.is_empty() {
        writer.block(&block.encode_to_vec())?;
    }
    writer.finish(sync)
}

/// Reads a segment file that holds `count` entries from `first` on. Payloads are slices of the blocks.
pub(super) fn read(path: &Path, check: FileCheck, first: Position, count: u64) -> Result<Vec<Entry>, StateError> {
    let mut entries = Vec::new();
    let mut next = first;
    framing::read(path, Kind::Segment, Some(check), |block| {
        let block = proto::SegmentBlock::decode(block).map_err(|_| StateError::damaged(path, "a block is not entries"))?;
        if block.first != next {
            return Err(StateError::damaged(path, "its positions do not follow each other"));
        }
        for entry in block.entries {
            entries.push(Entry {
                position: next,
                at: entry.at_ms,
                id: Uuid::from_u64_pair(entry.id_high, entry.id_low),
                payload: entry.payload,
            });
            next += 1;
        }
        Ok(())
    })?;
    if entries.len() as u64 != count {
        return Err(StateError::damaged(path, "it holds another number of entries than it should"));
    }
    Ok(entries)
}

/// Segments read back lately, newest last, bounded by bytes.
#[derive(Debug, Default)]
pub(super) struct Cache {
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    stream: u32,
    first: Position,
    bytes: u64,
    entries: Arc<Vec<Entry>>,
}

impl Cache {
    /// The entries of a segment, if they are here.
    pub fn get(&mut self, stream: u32, first: Position) -> Option<Arc<Vec<Entry>>> {
        let index = self.kept.iter().position(|kept| kept.stream == stream && kept.first == first)?;
        let found = self.kept.remove(index);
        let entries = found.entries.clone();
        self.kept.push(found);
        Some(entries)
    }

    /// Keeps the entries of a segment; the ones not used for longest go.
    pub fn put(&mut self, stream: u32, first: Position, entries: Arc<Vec<Entry>>, bytes: u64, bytes_max: u64) {
        self.kept.retain(|kept| kept.stream != stream || kept.first != first);
        self.kept.push(Kept { stream, first, bytes, entries });
        let mut total: u64 = self.kept.iter().map(|kept| kept.bytes).sum();
        while total > bytes_max && !self.kept.is_empty() {
            total -= self.kept.remove(0).bytes;
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.kept.clear();
    }
}
