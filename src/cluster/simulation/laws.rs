//! What must hold, looked at whenever something is appended, truncated, applied or answered. The first law that is broken ends
//! the run.
//!
//! - **Log matching.** Two entries of one id are the same, and so are those before them, on all nodes and in all their lives.
//! - **Committed is for ever.** No node drops an entry from its log that was applied anywhere.
//! - **One history.** At every index all nodes apply the same entry, and have the same checksum over their state's history after it.
//! - **The bus.** What is applied is what a plain model says: positions without gaps, no id twice, groups that only move forward,
//!   keys that are held once and expire, epochs that only grow.
//! - **Acknowledged is there.** What a client was told is in that history at that position; and a read after a barrier sees it.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::trace;
use crate::bus::command::{Batch, Command, KeyCondition, Reply};
use crate::bus::{Position, Published, Start, Topic};
use crate::cluster::types::{Entry, LogId};

thread_local! {
    static LAWS: RefCell<Option<Laws>> = const { RefCell::new(None) };
}

/// Term and node of the leader, and index.
type Id = (u64, u64, u64);

pub(super) fn id(log_id: &LogId) -> Id {
    (log_id.leader_id.term, log_id.leader_id.node_id, log_id.index)
}

/// Everything known of one run.
#[derive(Default)]
pub(super) struct Laws {
    broken: Option<String>,
    /// Every entry that was ever in a log: checksum, and what stood before it.
    entries: BTreeMap<Id, (u64, Option<Id>)>,
    /// What was applied, by index: the entry, and the checksum of the state after it.
    pub applied: Vec<(Id, u64)>,
    pub model: Model,
    /// Services leaders by epoch.
    pub epochs: BTreeMap<u64, u64>,
    pub counts: Counts,
}

/// What a run has come to, so that one in which nothing happens is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub acknowledged: u64,
    pub unknown: u64,
    pub duplicates: u64,
    pub barriers: u64,
    pub reads: u64,
    pub leaders: u64,
    pub elections: u64,
    pub truncated: u64,
    pub crashes: u64,
    pub cuts: u64,
    pub pauses: u64,
    pub snapshots: u64,
    pub installed: u64,
    pub transfers: u64,
    pub entries: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Counts) {
        let Counts { acknowledged, unknown, duplicates, barriers, reads, leaders, elections, truncated, .. } = *other;
        let Counts { crashes, cuts, pauses, snapshots, installed, transfers, entries, .. } = *other;
        self.acknowledged += acknowledged;
        self.unknown += unknown;
        self.duplicates += duplicates;
        self.barriers += barriers;
        self.reads += reads;
        self.leaders += leaders;
        self.elections += elections;
        self.truncated += truncated;
        self.crashes += crashes;
        self.cuts += cuts;
        self.pauses += pauses;
        self.snapshots += snapshots;
        self.installed += installed;
        self.transfers += transfers;
        self.entries += entries;
    }
}

/// Begins anew, or ends.
pub(super) fn set(laws: Option<Laws>) -> Option<Laws> {
    LAWS.replace(laws)
}

/// `None` where no simulation runs on this thread.
pub(super) fn with<T>(body: impl FnOnce(&mut Laws) -> T) -> Option<T> {
    LAWS.with_borrow_mut(|laws| laws.as_mut().map(body))
}

/// The first law that was broken.
pub(super) fn broken() -> Option<String> {
    with(|laws| laws.broken.clone()).flatten()
}

/// A law is broken.
pub(super) fn violated(what: impl FnOnce() -> String) {
    with(|laws| laws.fail(what));
}

fn checksum(payload: &crate::cluster::types::EntryPayload) -> u64 {
    match payload {
        EntryPayload::Blank => 1,
        EntryPayload::Normal(proposal) => u64::from(crc32fast::hash(&proposal.0)) << 8 | 2,
        EntryPayload::Membership(membership) => u64::from(crc32fast::hash(format!("{membership:?}").as_bytes())) << 8 | 3,
    }
}

/// `entry` is put behind `last` in the log of `node`.
pub(super) fn appended(node: u64, last: Option<LogId>, entry: &Entry) {
    with(|laws| {
        let (here, before) = (id(&entry.log_id), last.as_ref().map(id));
        if before.map_or(0, |(.., index)| index + 1) != here.2 {
            laws.fail(|| format!("node {node} puts {here:?} behind {before:?}"));
        }
        let what = (checksum(&entry.payload), before);
        match laws.entries.get(&here) {
            Some(known) if *known != what => {
                let known = *known;
                laws.fail(|| format!("log matching: node {node} has {here:?} as {what:?}, another has it as {known:?}"));
            }
            Some(_) => {}
            None => drop(laws.entries.insert(here, what)),
        }
    });
}

/// `node` drops entries from the end of its log.
pub(super) fn truncated(node: u64, gone: &[LogId]) {
    with(|laws| {
        laws.counts.truncated += 1;
        for gone in gone.iter().map(id) {
            if laws.applied.get(gone.2 as usize).is_some_and(|(applied, _)| *applied == gone) {
                laws.fail(|| format!("node {node} drops {gone:?}, which was committed"));
            }
        }
    });
}

/// The running node has applied an entry: called by the state machine. `batch` holds what a batch said and what came of it.
pub(in crate::cluster) fn applied(node: u64, log_id: &LogId, batch: Option<(&Bytes, &[Reply])>, checksum: u64) {
    with(|laws| {
        let here = id(log_id);
        trace::note(here.2, checksum ^ node);
        match laws.applied.get(here.2 as usize) {
            Some(known) if *known != (here, checksum) => {
                let known = *known;
                laws.fail(|| format!("node {node} applies {here:?} and has the state {checksum:016x}; before it was {known:x?}"));
            }
            Some(_) => {}
            None if here.2 == laws.applied.len() as u64 => {
                laws.applied.push((here, checksum));
                laws.counts.entries += 1;
                if let Some((bytes, replies)) = batch {
                    laws.follow(here.2, bytes, replies);
                }
            }
            None => laws.fail(|| format!("node {node} applies {here:?}, and nobody has applied what is before it")),
        }
    });
}

impl Laws {
    pub(super) fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.broken.is_none() {
            let what = what();
            trace::tell(|| what.clone());
            self.broken = Some(format!("at {} ms: {what}", trace::now()));
        }
    }

    fn follow(&mut self, index: u64, bytes: &Bytes, replies: &[Reply]) {
        let batch = match Batch::decode(bytes.clone()) {
            Ok(batch) => batch,
            Err(error) => return self.fail(|| format!("the batch at {index} cannot be read: {error}")),
        };
        self.model.pass(batch.at_ms);
        for (command, reply) in batch.commands.iter().zip(replies) {
            if let Err(what) = self.model.follow(index, command, reply) {
                self.fail(|| format!("the bus at {index}: {what}: {command:?} is answered {reply:?}"));
            }
            match (command, reply) {
                (Command::ElectServices { node, .. }, Reply::Elected(epoch)) => {
                    self.counts.elections += 1;
                    self.epochs.insert(*epoch, *node);
                }
                (Command::Publish { .. }, Reply::Published(published)) => self.counts.duplicates += u64::from(published.duplicates),
                _ => {}
            }
        }
    }
}

/// The bus, as plain as can be.
#[derive(Default)]
pub(super) struct Model {
    now: i64,
    /// Every entry there ever was.
    pub streams: BTreeMap<Topic, Vec<(Uuid, Bytes)>>,
    pub positions: BTreeMap<(Topic, Uuid), Position>,
    pub groups: BTreeMap<(Topic, String), Position>,
    /// Version, and when it is gone.
    keys: BTreeMap<Bytes, (u64, Option<i64>)>,
    version: u64,
    epoch: u64,
}

impl Model {
    fn pass(&mut self, at: i64) {
        self.now = self.now.max(at);
        let now = self.now;
        self.keys.retain(|_, (_, gone)| gone.is_none_or(|gone| gone > now));
    }

    fn follow(&mut self, index: u64, command: &Command, reply: &Reply) -> Result<(), String> {
        let expected = match command {
            Command::Publish { stream, messages } => {
                if matches!(reply, Reply::Full { .. } | Reply::Refused(_)) {
                    return Ok(());
                }
                let entries = self.streams.entry(stream.clone()).or_default();
                let mut published = Published { first: Position::MAX, last: 0, duplicates: 0 };
                for message in messages {
                    let next = entries.len() as Position + 1;
                    let position = *self.positions.entry((stream.clone(), message.id)).or_insert(next);
                    if position == next {
                        entries.push((message.id, message.payload.clone()));
                    } else {
                        published.duplicates += 1;
                    }
                    published.first = published.first.min(position);
                    published.last = published.last.max(position);
                }
                Reply::Published(published)
            }
            Command::EnsureGroup { stream, group, start, .. } => {
                let last = self.streams.entry(stream.clone()).or_default().len() as Position;
                let known = self.groups.contains_key(&(stream.clone(), group.clone()));
                if !known && matches!(start, Start::After(after) if *after > last) && matches!(reply, Reply::Refused(_)) {
                    return Ok(());
                }
                let Reply::GroupAt(position) = reply else { return Err("a group is made".into()) };
                if *position > last {
                    return Err(format!("a group begins past the end {last}"));
                }
                Reply::GroupAt(*self.groups.entry((stream.clone(), group.clone())).or_insert(*position))
            }
            Command::AdvanceGroup { stream, group, position } => match self.groups.get_mut(&(stream.clone(), group.clone())) {
                Some(at) => {
                    if matches!(reply, Reply::Refused(_)) {
                        return Ok(());
                    }
                    *at = (*at).max(*position);
                    Reply::GroupAt(*at)
                }
                None if self.streams.contains_key(stream) => Reply::NoSuchGroup,
                None => Reply::NoSuchStream,
            },
            Command::DeleteGroup { stream, group } => match self.groups.remove(&(stream.clone(), group.clone())) {
                Some(_) => Reply::Done,
                None if self.streams.contains_key(stream) => Reply::NoSuchGroup,
                None => Reply::NoSuchStream,
            },
            Command::SetKey { key, expires_after_ms, condition, .. } => {
                let version = self.keys.get(key).map(|(version, _)| *version);
                let holds = match condition {
                    KeyCondition::Always => true,
                    KeyCondition::IfAbsent => version.is_none(),
                    KeyCondition::IfVersion(wanted) => version == Some(*wanted),
                };
                if holds {
                    self.version += 1;
                    let gone = expires_after_ms.map(|after| self.now + after as i64);
                    self.keys.insert(key.clone(), (self.version, gone));
                    Reply::KeyAt(self.version)
                } else {
                    Reply::KeyConflict(version)
                }
            }
            Command::DeleteKey { key, .. } => {
                self.keys.remove(key);
                Reply::Done
            }
            Command::ElectServices { .. } => match reply {
                Reply::Elected(epoch) if *epoch != index || *epoch <= self.epoch => {
                    return Err(format!("epochs grow, and the last was {}", self.epoch));
                }
                Reply::Elected(epoch) => {
                    self.epoch = *epoch;
                    return Ok(());
                }
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        if *reply == expected { Ok(()) } else { Err(format!("{expected:?} is right")) }
    }
}
