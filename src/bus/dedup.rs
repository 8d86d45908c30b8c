//! Which message ids were appended lately, per stream, and where.
//!
//! Bounded in time and in number; the oldest go first. The map is only asked, never iterated, so its order does not matter; what
//! decides is the list in order of appending. That list is kept in chunks, so that a snapshot costs a few references.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::path::Path;
use std::sync::Arc;

use prost::Message as _;
use uuid::Uuid;

use super::Position;
use super::framing::{self, FileCheck, Kind};
use super::rules::Rules;
use super::state::StateError;
use super::wire::proto;
use crate::config::Planted;

const CHUNK_RECORDS: usize = 4_096;

/// The map is in parts, so that none ever grows in one long step.
const PARTS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    high: u64,
    low: u64,
    stream: u32,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    key: Key,
    at: i64,
    position: Position,
}

fn key(stream: u32, id: Uuid) -> Key {
    let (high, low) = id.as_u64_pair();
    Key { high, low, stream }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Seen {
    positions: Vec<HashMap<Key, Position, foldhash::fast::RandomState>>,
    list: SeenList,
}

/// The records in order of appending; cheap to clone.
#[derive(Debug, Default, Clone)]
pub(super) struct SeenList {
    chunks: VecDeque<Arc<Vec<Record>>>,
    open: Vec<Record>,
    /// Records at the front (of the first chunk, or of `open` if there is none) that are gone.
    skip: usize,
    len: usize,
}

impl Default for Seen {
    fn default() -> Seen {
        Seen { positions: (0..PARTS).map(|_| HashMap::default()).collect(), list: SeenList::default() }
    }
}

fn part_of(key: &Key) -> usize {
    (key.low as usize ^ key.stream as usize) % PARTS
}

impl Seen {
    /// Whether this id was appended to this stream, and where.
    pub fn position(&self, stream: u32, id: Uuid) -> Option<Position> {
        let key = key(stream, id);
        if id.is_nil() || Planted::NoDedupe.is_here() { None } else { self.positions[part_of(&key)].get(&key).copied() }
    }

    /// Notes an id as appended at `position`, unless it is there: then says where it was appended before. The nil id is never noted.
    pub fn note(&mut self, stream: u32, id: Uuid, at: i64, position: Position) -> Option<Position> {
        if id.is_nil() {
            return None;
        }
        let key = key(stream, id);
        match self.positions[part_of(&key)].entry(key) {
            Entry::Occupied(_) if Planted::NoDedupe.is_here() => None,
            Entry::Occupied(before) => Some(*before.get()),
            Entry::Vacant(vacant) => {
                vacant.insert(position);
                self.list.push(Record { key, at, position });
                None
            }
        }
    }

    /// Forgets what is too old or too much.
    pub fn expire(&mut self, now: i64, rules: &Rules) {
        let horizon = now.saturating_sub_unsigned(rules.dedupe_ms_max);
        while let Some(oldest) = self.list.front() {
            if oldest.at >= horizon && self.list.len() as u64 <= rules.dedupe_entries_max {
                break;
            }
            self.positions[part_of(&oldest.key)].remove(&oldest.key);
            self.list.pop();
        }
    }

    /// How many ids are remembered.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The list as it is now.
    pub fn list(&self) -> SeenList {
        self.list.clone()
    }
}

impl SeenList {
    fn push(&mut self, record: Record) {
        self.open.push(record);
        self.len += 1;
        if self.open.len() >= CHUNK_RECORDS {
            // A front of `open` that is gone stays gone: `skip` then speaks of this chunk, which is the first.
            self.chunks.push_back(Arc::new(std::mem::take(&mut self.open)));
        }
    }

    fn len(&self) -> usize {
        self.len
    }

    fn front(&self) -> Option<Record> {
        self.chunks.front().map_or(self.open.as_slice(), |chunk| chunk).get(self.skip).copied()
    }

    fn pop(&mut self) {
        self.skip += 1;
        self.len -= 1;
        match self.chunks.front() {
            Some(chunk) if self.skip >= chunk.len() => {
                self.chunks.pop_front();
                self.skip = 0;
            }
            Some(_) => {}
            None if self.skip >= self.open.len() => {
                self.open.clear();
                self.skip = 0;
            }
            None => {}
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Record> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).chain(&self.open).skip(self.skip)
    }

    /// Writes the list as a file, on disk when this returns.
    pub fn save(&self, path: &Path) -> Result<FileCheck, StateError> {
        let mut writer = framing::Writer::create(path, Kind::Seen)?;
        let mut block = proto::SeenBlock::default();
        for record in self.iter() {
            block.seen.push(proto::Seen {
                stream: record.key.stream,
                id_high: record.key.high,
                id_low: record.key.low,
                at_ms: record.at,
                position: record.position,
            });
            if block.seen.len() >= CHUNK_RECORDS {
                writer.block(&block.encode_to_vec())?;
                block.seen.clear();
            }
        }
        writer.block(&block.encode_to_vec())?;
        writer.finish(true)
    }
}

impl Seen {
    /// Reads what [`SeenList::save`] wrote.
    pub fn load(path: &Path, check: FileCheck) -> Result<Seen, StateError> {
        let mut seen = Seen::default();
        framing::read(path, Kind::Seen, Some(check), |block| {
            let block = proto::SeenBlock::decode(block).map_err(|_| StateError::damaged(path, "a block is not ids"))?;
            for record in block.seen {
                let id = Uuid::from_u64_pair(record.id_high, record.id_low);
                if seen.note(record.stream, id, record.at_ms, record.position).is_some() {
                    return Err(StateError::damaged(path, "an id occurs twice"));
                }
            }
            Ok(())
        })?;
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_remembered_per_stream_until_too_old_or_too_many() {
        let rules = Rules { dedupe_ms_max: 100, dedupe_entries_max: 3, ..Rules::GENESIS };
        let mut seen = Seen::default();
        let id = Uuid::from_u128;
        assert_eq!(seen.note(1, id(7), 1_000, 1), None);
        assert_eq!(seen.note(1, id(7), 1_001, 2), Some(1));
        assert_eq!(seen.note(2, id(7), 1_001, 9), None, "another stream");
        assert_eq!(seen.note(1, Uuid::nil(), 1_001, 2), None);
        assert_eq!(seen.note(1, Uuid::nil(), 1_001, 3), None, "nil is never a repetition");
        seen.expire(1_100, &rules);
        assert_eq!(seen.position(1, id(7)), Some(1), "exactly as old as allowed");
        seen.expire(1_101, &rules);
        assert_eq!(seen.position(1, id(7)), None);
        assert_eq!(seen.position(2, id(7)), Some(9));
        for n in 10..14 {
            seen.note(1, id(n), 1_101, n as u64);
        }
        seen.expire(1_101, &rules);
        assert_eq!((seen.len(), seen.position(1, id(10)), seen.position(1, id(11))), (3, None, Some(11)));
    }

    #[test]
    fn a_list_across_chunks_survives_expiry_and_a_file() {
        let rules = Rules { dedupe_ms_max: 10_000, dedupe_entries_max: 1 << 20, ..Rules::GENESIS };
        let mut seen = Seen::default();
        let count = CHUNK_RECORDS as u64 * 2 + 100;
        for n in 1..=count {
            seen.note(1, Uuid::from_u128(u128::from(n)), n as i64, n);
            seen.expire(n as i64, &rules);
        }
        for horizon in [50, CHUNK_RECORDS as i64 + 7, CHUNK_RECORDS as i64 * 2 + 50] {
            seen.expire(horizon + 10_000, &rules);
            assert_eq!(seen.len() as i64, count as i64 - horizon + 1);
            let directory = tempfile::tempdir().expect("a temporary directory");
            let path = directory.path().join("seen");
            let check = seen.list().save(&path).expect("save");
            let again = Seen::load(&path, check).expect("load");
            assert_eq!(again.len(), seen.len());
            let order = |seen: &Seen| seen.list.iter().map(|record| record.position).collect::<Vec<_>>();
            assert_eq!(order(&again), order(&seen));
            assert_eq!(order(&seen).first(), Some(&(horizon as u64)));
        }
    }
}
