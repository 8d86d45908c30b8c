//! All streams together: appending, groups, and keeping within the bounds of bytes in memory and on disk.
//!
//! Decisions (what is appended, sealed, trimmed, refused) depend on the replicated state alone. When a segment moves from memory to
//! a file does not, and nobody can tell.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::checksum::Rolling;
use super::command::Reply;
use super::dedup::Seen;
use super::group::Group;
use super::reader::Shared;
use super::rules::{NAME_BYTES_MAX, Rules};
use super::segment::{Segment, cost};
use super::spill::Spiller;
use super::state::StateError;
use super::stream::Stream;
use super::{Entry, Message, Position, Published, Start, Topic};

/// See the module.
#[derive(Debug)]
pub(super) struct Backlog {
    /// What readers see.
    pub shared: Arc<Shared>,
    /// Where segment files go.
    pub directory: PathBuf,
    /// The writer's own list of what is in `shared`, to look up without a lock.
    pub streams: BTreeMap<Topic, Arc<Stream>>,
    /// How many were ever made; the newest id.
    pub streams_made: u32,
    /// Ids appended lately.
    pub seen: Seen,
    /// Cost of all entries.
    pub bytes: u64,
    /// Cost of all tails.
    pub tail_bytes: u64,
    /// Sealed segments in memory, oldest first; some may be gone already.
    hot: VecDeque<Weak<Segment>>,
    /// Streams that grew since readers were told.
    grown: Vec<Arc<Stream>>,
}

/// The instant at which a command is applied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Instant {
    /// Milliseconds since the epoch.
    pub now: i64,
    /// Milliseconds for which the bus has been running.
    pub awake_ms: u64,
}

impl Backlog {
    /// No streams.
    pub fn new(shared: Arc<Shared>, directory: PathBuf) -> Backlog {
        Backlog {
            shared,
            directory,
            streams: BTreeMap::new(),
            streams_made: 0,
            seen: Seen::default(),
            bytes: 0,
            tail_bytes: 0,
            hot: VecDeque::new(),
            grown: Vec::new(),
        }
    }

    /// `Command::Publish`, in a batch which carries `batch_bytes` of payload altogether.
    pub fn publish(
        &mut self,
        at: Instant,
        rules: &Rules,
        topic: &Topic,
        messages: &[Message],
        batch_bytes: u64,
        checksum: &mut Rolling,
    ) -> Reply {
        if messages.is_empty() {
            return Reply::Refused("there is no message to publish".into());
        }
        if let Some(large) = messages.iter().find(|message| message.payload.len() as u64 > rules.payload_bytes_max) {
            let (size, max) = (large.payload.len(), rules.payload_bytes_max);
            return Reply::Refused(format!("a message of {size} bytes is larger than {max} bytes"));
        }
        let stream = match self.stream_or_new(rules, topic) {
            Ok(stream) => stream,
            Err(refused) => return refused,
        };
        let offered: u64 = messages.iter().map(|message| cost(message.payload.len())).sum();
        if self.bytes + offered > rules.backlog_bytes_max {
            let fresh = messages.iter().filter(|message| self.seen.position(stream.id, message.id).is_none());
            let fresh: u64 = fresh.map(|message| cost(message.payload.len())).sum();
            if fresh > 0 && !self.make_room(rules, fresh) {
                return Reply::Full { bytes: self.bytes, bytes_max: rules.backlog_bytes_max };
            }
        }
        // Payloads are slices of the batch's buffer and keep all of it in memory. Where this stream's share is small, copy.
        let copy = offered.saturating_mul(4) < batch_bytes;
        let mut published = Published { first: Position::MAX, last: 0, duplicates: 0 };
        let ripe = {
            let mut log = stream.log.write();
            let (before, length) = (log.bytes, log.tail.len());
            for message in messages {
                let next = log.next;
                let position = if let Some(before) = self.seen.note(stream.id, message.id, at.now, next) {
                    published.duplicates += 1;
                    before
                } else {
                    let payload = if copy { detached(&message.payload) } else { message.payload.clone() };
                    log.append(Entry { position: next, at: at.now, id: message.id, payload });
                    let (high, low) = message.id.as_u64_pair();
                    checksum.fold(high ^ low.rotate_left(1));
                    checksum.fold_bytes(&message.payload);
                    next
                };
                published.first = published.first.min(position);
                published.last = published.last.max(position);
            }
            if !copy && published.duplicates as usize * 2 > messages.len() {
                log.tail[length..].iter_mut().for_each(|entry| entry.payload = detached(&entry.payload));
            }
            let appended = log.bytes - before;
            self.bytes += appended;
            self.tail_bytes += appended;
            log.is_ripe(rules)
        };
        self.seen.expire(at.now, rules);
        if published.duplicates as usize != messages.len() {
            self.mark_grown(&stream);
        }
        if ripe {
            self.seal(at, rules, &stream);
        }
        while self.tail_bytes > rules.tail_bytes_max {
            // The largest, and of equals the last by name.
            let Some(largest) = self.streams.values().max_by_key(|stream| stream.log.read().tail_bytes).cloned() else { break };
            self.seal(at, rules, &largest);
        }
        Reply::Published(published)
    }

    /// `Command::EnsureGroup`.
    pub fn ensure_group(&mut self, at: Instant, rules: &Rules, topic: &Topic, name: &str, start: Start, idle_ms_max: Option<u64>) -> Reply {
        if let Err(refused) = check_name("group", name) {
            return refused;
        }
        let stream = match self.stream_or_new(rules, topic) {
            Ok(stream) => stream,
            Err(refused) => return refused,
        };
        let mut log = stream.log.write();
        let (first, last) = (log.first(), log.last());
        if let Some(group) = log.groups.get_mut(name) {
            group.idle_ms_max = idle_ms_max;
            return Reply::GroupAt(group.advance(0, at.awake_ms));
        }
        if log.groups.len() as u64 >= rules.groups_max {
            return Reply::Refused(format!("stream {topic} may have {} groups", rules.groups_max));
        }
        let position = match start {
            Start::First => first - 1,
            Start::Latest => last,
            Start::After(position) if position > last => {
                return Reply::Refused(format!("position {position} lies past the end {last} of stream {topic}"));
            }
            Start::After(position) => position.max(first - 1),
        };
        log.groups.insert(name.to_owned(), Group { position, idle_ms_max, active_ms: at.awake_ms });
        Reply::GroupAt(position)
    }

    /// `Command::AdvanceGroup`.
    pub fn advance_group(&mut self, at: Instant, rules: &Rules, topic: &Topic, name: &str, position: Position) -> Reply {
        let Some(stream) = self.streams.get(topic) else { return Reply::NoSuchStream };
        let mut log = stream.log.write();
        let last = log.last();
        let Some(group) = log.groups.get_mut(name) else { return Reply::NoSuchGroup };
        if position > last {
            return Reply::Refused(format!("position {position} lies past the end {last} of stream {topic}"));
        }
        let position = group.advance(position, at.awake_ms);
        self.bytes -= log.trim(at.now, rules);
        Reply::GroupAt(position)
    }

    /// `Command::DeleteGroup`.
    pub fn delete_group(&mut self, at: Instant, rules: &Rules, topic: &Topic, name: &str) -> Reply {
        let Some(stream) = self.streams.get(topic) else { return Reply::NoSuchStream };
        let mut log = stream.log.write();
        if log.groups.remove(name).is_none() {
            return Reply::NoSuchGroup;
        }
        self.bytes -= log.trim(at.now, rules);
        Reply::Done
    }

    /// Lets idle groups go, and what has left the windows.
    pub fn sweep(&mut self, at: Instant, rules: &Rules) {
        for stream in self.streams.values() {
            let mut log = stream.log.write();
            log.groups.retain(|_, group| !group.is_idle(at.awake_ms));
            self.bytes -= log.trim(at.now, rules);
        }
    }

    /// Wakes readers of what has grown.
    pub fn tell(&mut self) {
        self.shared.seen_ids.store(self.seen.len() as u64, Ordering::Relaxed);
        self.grown.drain(..).for_each(|stream| stream.tell());
    }

    /// Sends the oldest sealed segments to their files until the rest fits.
    pub fn spill(&mut self, spiller: &Spiller, hot_bytes_max: u64) -> Result<(), StateError> {
        let staying = || self.shared.hot_bytes.load(Ordering::Relaxed).saturating_sub(spiller.queued_bytes());
        while staying() > hot_bytes_max {
            let Some(oldest) = self.hot.pop_front() else { break };
            if let Some(segment) = oldest.upgrade() {
                spiller.push(segment)?;
            }
        }
        // Those that were trimmed while hot are not worth remembering.
        while self.hot.front().is_some_and(|oldest| oldest.strong_count() == 0) {
            self.hot.pop_front();
        }
        Ok(())
    }

    fn stream_or_new(&mut self, rules: &Rules, topic: &Topic) -> Result<Arc<Stream>, Reply> {
        if let Some(stream) = self.streams.get(topic) {
            return Ok(stream.clone());
        }
        check_name("stream", topic.name())?;
        if self.streams.len() as u64 >= rules.streams_max {
            return Err(Reply::Refused(format!("there may be {} streams", rules.streams_max)));
        }
        self.streams_made += 1;
        let stream = Arc::new(Stream::new(self.streams_made, topic.clone()));
        self.streams.insert(topic.clone(), stream.clone());
        self.shared.streams.write().insert(topic.clone(), stream.clone());
        self.shared.streams_made.send_replace(self.streams_made);
        Ok(stream)
    }

    fn seal(&mut self, at: Instant, rules: &Rules, stream: &Arc<Stream>) {
        let mut log = stream.log.write();
        let (entries, bytes) = log.take_tail();
        self.tail_bytes -= bytes;
        if let Some(first) = entries.first() {
            let path = self.directory.join(segment_name(stream.id, first.position));
            let segment = Arc::new(Segment::seal(path, entries, bytes, &self.shared.hot_bytes));
            self.hot.push_back(Arc::downgrade(&segment));
            log.sealed.push_back(segment);
        }
        self.bytes -= log.trim(at.now, rules);
    }

    /// Gives up windows, largest stream first, until `bytes` more fit. Says whether they do.
    fn make_room(&mut self, rules: &Rules, bytes: u64) -> bool {
        if bytes > rules.backlog_bytes_max {
            return false;
        }
        let mut streams: Vec<_> = self.streams.values().map(|stream| (stream.log.read().bytes, stream)).collect();
        // Stable: streams of equal size stay in the order of their names.
        streams.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
        for (_, stream) in streams {
            if self.bytes + bytes <= rules.backlog_bytes_max {
                break;
            }
            let (freed, of_tail) = stream.log.write().reclaim();
            self.bytes -= freed;
            self.tail_bytes -= of_tail;
        }
        self.bytes + bytes <= rules.backlog_bytes_max
    }

    fn mark_grown(&mut self, stream: &Arc<Stream>) {
        if !self.grown.iter().any(|grown| grown.id == stream.id) {
            self.grown.push(stream.clone());
        }
    }

    #[cfg(test)]
    pub fn check(&self, rules: &Rules) {
        let (mut bytes, mut tails) = (0, 0);
        for stream in self.streams.values() {
            let log = stream.log.read();
            let mut next = log.first();
            for segment in &log.sealed {
                assert_eq!(segment.first, next, "segments follow each other");
                next = segment.last() + 1;
            }
            for entry in &log.tail {
                assert_eq!(entry.position, next, "entries follow each other");
                next += 1;
            }
            assert_eq!(next, log.next);
            let tail: u64 = log.tail.iter().map(|entry| cost(entry.payload.len())).sum();
            assert_eq!(log.tail_bytes, tail);
            assert_eq!(log.bytes, tail + log.sealed.iter().map(|segment| segment.bytes).sum::<u64>());
            assert!(log.groups.values().all(|group| group.position <= log.last()));
            assert!(log.groups.values().all(|group| group.position + 1 >= log.first()), "nothing needed is gone");
            bytes += log.bytes;
            tails += log.tail_bytes;
        }
        assert_eq!((self.bytes, self.tail_bytes), (bytes, tails));
        assert!(self.bytes <= rules.backlog_bytes_max && self.tail_bytes <= rules.tail_bytes_max);
        assert!(self.seen.len() as u64 <= rules.dedupe_entries_max);
    }
}

/// The name of a segment's file.
pub(super) fn segment_name(stream: u32, first: Position) -> String {
    format!("{stream:08x}-{first:016x}.segment")
}

fn detached(payload: &Bytes) -> Bytes {
    Bytes::copy_from_slice(payload)
}

fn check_name(what: &str, name: &str) -> Result<(), Reply> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(Reply::Refused(format!("the name of a {what} has 1 to {NAME_BYTES_MAX} bytes, not {}", name.len())));
    }
    Ok(())
}
