//! Random commands against a model that keeps everything, and against twins of the state that spend memory differently and go
//! through snapshots: all have to answer the same and to end in the same bytes.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use super::command::{Batch, Command, KeyCondition, Member, Reply};
use super::rules::{Limits, Rules};
use super::state::{BusReader, BusState, snapshot_files};
use super::{BusError, Entry, Message, Position, Published, ReadLimit, Start, Topic};

const STREAMS: [&str; 3] = ["events", "actions", "other"];

const RULES: Rules = Rules {
    backlog_bytes_max: 6_000,
    window_bytes_max: 600,
    window_ms_max: 4_000,
    segment_bytes_max: 500,
    segment_entries_max: 5,
    tail_bytes_max: 800,
    payload_bytes_max: 90,
    streams_max: 2,
    groups_max: 2,
    dedupe_ms_max: 3_000,
    dedupe_entries_max: 20,
    keys_max: 3,
    keys_bytes_max: 40,
};

fn topic() -> impl Strategy<Value = Topic> {
    prop::sample::select(&STREAMS[..]).prop_map(Topic::from)
}

fn group() -> impl Strategy<Value = String> {
    prop::sample::select(&["a", "b", "c"][..]).prop_map(String::from)
}

fn message() -> impl Strategy<Value = Message> {
    (0_u128..40, 0_usize..100).prop_map(|(id, size)| Message { id: Uuid::from_u128(id), payload: Bytes::from(vec![id as u8; size]) })
}

fn condition() -> impl Strategy<Value = KeyCondition> {
    prop_oneof![Just(KeyCondition::Always), Just(KeyCondition::IfAbsent), (0_u64..9).prop_map(KeyCondition::IfVersion)]
}

pub(super) fn command() -> impl Strategy<Value = Command> {
    let start = prop_oneof![Just(Start::First), Just(Start::Latest), (0_u64..40).prop_map(Start::After)];
    let key = || prop::sample::select(vec!["", "k", "key", "kk", "other"]).prop_map(|key| Bytes::from_static(key.as_bytes()));
    prop_oneof![
        8 => (topic(), prop::collection::vec(message(), 0..7)).prop_map(|(stream, messages)| Command::Publish { stream, messages }),
        2 => (topic(), group(), start, prop::option::of(0_u64..9_000))
            .prop_map(|(stream, group, start, idle_ms_max)| Command::EnsureGroup { stream, group, start, idle_ms_max }),
        4 => (topic(), group(), 0_u64..80).prop_map(|(stream, group, position)| Command::AdvanceGroup { stream, group, position }),
        1 => (topic(), group()).prop_map(|(stream, group)| Command::DeleteGroup { stream, group }),
        2 => (key(), prop::collection::vec(any::<u8>(), 0..20), prop::option::of(0_u64..3_000), condition()).prop_map(
            |(key, value, expires_after_ms, condition)| Command::SetKey { key, value: value.into(), expires_after_ms, condition }
        ),
        1 => (key(), prop::option::of(0_u64..9)).prop_map(|(key, if_version)| Command::DeleteKey { key, if_version }),
        1 => (0_u64..4, 0_u64..4, any::<bool>()).prop_map(|(id, incarnation, may_run_services)| Command::SetMember(Member {
            id,
            http_address: "h:1".into(),
            peer_address: "p:2".into(),
            version: "0.1.0".into(),
            may_run_services,
            incarnation
        })),
        1 => (3_u64..5).prop_map(|id| Command::RemoveMember { id }),
        1 => (0_u64..4, prop::option::of(0_u64..20)).prop_map(|(node, replaces)| Command::ElectServices { node, replaces }),
        1 => (0_u64..4, 0_u64..20).prop_map(|(node, epoch)| Command::ResignServices { node, epoch }),
        1 => (0_u128..2).prop_map(|id| Command::FoundCluster { id: Uuid::from_u128(id) }),
        1 => (4_000_u64..7_000, 0_u64..30).prop_map(|(backlog_bytes_max, dedupe_entries_max)| Command::SetRules(Rules {
            backlog_bytes_max,
            dedupe_entries_max,
            ..RULES
        })),
        1 => (1_000_u64..2_000, any::<u64>()).prop_map(|(index, checksum)| Command::Checkpoint { index, checksum }),
    ]
}

/// What happens to a log: batches with steps of time, and restarts of one of the twins in between.
fn log() -> impl Strategy<Value = Vec<(i64, Vec<Command>, bool)>> {
    let step = prop_oneof![4 => -50_i64..300, 1 => 1_000_i64..100_000];
    prop::collection::vec((step, prop::collection::vec(command(), 0..5), prop::bool::weighted(0.15)), 1..60)
}

fn open(directory: &Path, hot_bytes_max: u64) -> (BusState, BusReader) {
    BusState::open(directory, Limits { hot_bytes_max, cache_bytes_max: 300 }).expect("an empty bus opens")
}

fn snapshot(state: &mut BusState) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let files = state.snapshot().expect("a snapshot").write(directory.path()).expect("written");
    assert_eq!(snapshot_files(directory.path()).expect("listed"), files);
    directory
}

fn bytes_of(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = snapshot_files(directory).expect("listed").into_iter();
    let read = |name: &str| std::fs::read(directory.join(name)).expect("a file of the snapshot");
    let files: BTreeMap<_, _> = files
        .map(|file| {
            let bytes = read(&file.name);
            assert_eq!(bytes.len() as u64, file.bytes);
            (file.name, bytes)
        })
        .collect();
    assert_eq!(files.len(), std::fs::read_dir(directory).expect("a folder").count(), "no file that is not listed");
    files
}

/// Every stream in full, as if nothing were ever trimmed, and the dedupe window as a plain list.
struct Model {
    now: i64,
    rules: Rules,
    streams: BTreeMap<Topic, Vec<Entry>>,
    seen: VecDeque<(Topic, Uuid, i64, Position)>,
}

impl Model {
    fn apply(&mut self, batch: &Batch, replies: &[Reply]) {
        self.now = self.now.max(batch.at_ms);
        self.forget();
        for (command, reply) in batch.commands.iter().zip(replies) {
            match (command, reply) {
                (Command::Publish { stream, messages }, Reply::Published(published)) => {
                    assert_eq!(*published, self.publish(stream, messages));
                    self.forget();
                }
                (Command::SetRules(rules), Reply::Done) => {
                    self.rules = rules.clone();
                    self.forget();
                }
                _ => {}
            }
        }
    }

    fn publish(&mut self, topic: &Topic, messages: &[Message]) -> Published {
        let entries = self.streams.entry(topic.clone()).or_default();
        let mut published = Published { first: Position::MAX, last: 0, duplicates: 0 };
        for message in messages {
            let before = self.seen.iter().find(|(stream, id, ..)| stream == topic && *id == message.id);
            let position = if let Some((.., position)) = before {
                published.duplicates += 1;
                *position
            } else {
                let position = entries.len() as Position + 1;
                entries.push(Entry { position, at: self.now, id: message.id, payload: message.payload.clone() });
                if !message.id.is_nil() {
                    self.seen.push_back((topic.clone(), message.id, self.now, position));
                }
                position
            };
            published.first = published.first.min(position);
            published.last = published.last.max(position);
        }
        published
    }

    fn forget(&mut self) {
        let horizon = self.now - self.rules.dedupe_ms_max as i64;
        self.seen.retain(|(_, _, at, _)| *at >= horizon);
        while self.seen.len() as u64 > self.rules.dedupe_entries_max {
            self.seen.pop_front();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn twins_answer_the_same_and_end_in_the_same_bytes(log in log()) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (mut hot, reader) = open(&directory.path().join("hot"), 1 << 30);
        let (mut cold, _) = open(&directory.path().join("cold"), 0);
        let mut restarted = open(&directory.path().join("restarted-0"), 700);
        let mut model = Model { now: 1_000, rules: RULES, streams: BTreeMap::new(), seen: VecDeque::new() };
        let first = Batch { at_ms: 1_000, commands: vec![Command::SetRules(RULES)] };
        for state in [&mut hot, &mut cold, &mut restarted.0] {
            state.apply(1, &first).expect("applied");
        }
        let mut at_ms = 1_000;
        for (number, (step, commands, restart)) in log.into_iter().enumerate() {
            at_ms += step;
            let index = number as u64 * 2 + 2;
            let batch = Batch { at_ms, commands };
            let replies = hot.apply(index, &batch).expect("applied");
            hot.check();
            prop_assert_eq!(&cold.apply(index, &batch).expect("applied"), &replies);
            // The wire must not change a thing.
            let travelled = Batch::decode(batch.encode()).expect("decoded");
            prop_assert_eq!(&travelled, &batch);
            prop_assert_eq!(&restarted.0.apply(index, &travelled).expect("applied"), &replies);
            prop_assert_eq!(Reply::decode_all(Reply::encode_all(&replies)).expect("decoded"), replies.clone());
            prop_assert_eq!((hot.checksum(), cold.checksum()), (cold.checksum(), restarted.0.checksum()));
            model.apply(&batch, &replies);
            for (topic, entries) in &model.streams {
                prop_assert_eq!(reader.last(topic), entries.len() as Position);
            }
            if restart {
                let from = snapshot(&mut restarted.0);
                let fresh = open(&directory.path().join(format!("restarted-{index}")), 700);
                restarted = fresh;
                restarted.0.restore(from.path()).expect("restored");
                restarted.0.check();
            }
        }
        let snapshots = [snapshot(&mut hot), snapshot(&mut cold), snapshot(&mut restarted.0)];
        let [one, two, three] = snapshots.each_ref().map(|directory| bytes_of(directory.path()));
        prop_assert!(one == two && two == three, "twins differ");

        // All that is there reads the same, from memory and from files, in steps of any size.
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (restored, again) = open(&directory.path().join("again"), 0);
        let mut restored = restored;
        restored.restore(snapshots[0].path()).expect("restored");
        for topic in STREAMS.map(Topic::from) {
            prop_assert_eq!((reader.first(&topic), reader.last(&topic)), (again.first(&topic), again.last(&topic)));
            for limit in [ReadLimit::default(), ReadLimit { entries: 3, bytes: 150 }] {
                let mut after = reader.first(&topic) - 1;
                if after > 0 {
                    let gone = runtime.block_on(again.read(&topic, after - 1, limit));
                    let trimmed = matches!(gone, Err(BusError::Trimmed { .. }));
                    prop_assert!(trimmed, "{:?}", gone);
                }
                loop {
                    let here = runtime.block_on(reader.read(&topic, after, limit)).expect("read");
                    let there = runtime.block_on(again.read(&topic, after, limit)).expect("read");
                    prop_assert_eq!(&here, &there);
                    let Some(last) = here.last() else { break };
                    prop_assert!(here.len() <= limit.entries);
                    prop_assert_eq!(&here[..], &model.streams[&topic][after as usize..last.position as usize]);
                    after = last.position;
                }
                prop_assert_eq!(after, reader.last(&topic));
            }
        }
    }

    #[test]
    fn hostile_bytes_are_an_error_and_no_more(
        noise in prop::collection::vec(any::<u8>(), 0..200),
        commands in prop::collection::vec(command(), 1..4),
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let _ = Batch::decode(Bytes::from(noise.clone()));
        let _ = Reply::decode_all(Bytes::from(noise));
        let batch = Batch { at_ms: 5, commands };
        let bytes = batch.encode();
        let mut changed = bytes.to_vec();
        let index = at.index(changed.len());
        changed[index] = with;
        if let Ok(changed) = Batch::decode(Bytes::from(changed)) {
            // It may mean something else now; then it has to be sound.
            prop_assert_eq!(Batch::decode(changed.encode()).expect("decoded"), changed);
        }
        let _ = Batch::decode(bytes.slice(..cut.index(bytes.len())));
    }
}
