//! What the bus does when files are not what they were, and when it ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;

use super::command::{Batch, Command, KeyCondition, Member, Reply};
use super::rules::{Limits, Rules};
use super::state::{BusReader, BusState, StateError, snapshot_files};
use super::wire::proto;
use super::{BusError, Message, ReadLimit, Start, Topic, framing};

fn open(directory: &Path, hot_bytes_max: u64) -> (BusState, BusReader) {
    BusState::open(directory, Limits { hot_bytes_max, cache_bytes_max: 0 }).expect("an empty bus opens")
}

fn apply(state: &mut BusState, command: Command) -> Result<Reply, StateError> {
    let index = state.applied() + 1;
    state.apply(index, &Batch { at_ms: 1_000, commands: vec![command] }).map(|mut replies| replies.remove(0))
}

fn publish(state: &mut BusState, number: u128) -> Result<Reply, StateError> {
    let message = Message { id: Uuid::from_u128(number), payload: Bytes::from(vec![number as u8; 50]) };
    apply(state, Command::Publish { stream: Topic::Events, messages: vec![message] })
}

/// Ten entries in segments of three, and a group that needs them all.
fn fill(state: &mut BusState) {
    let rules = Rules { segment_entries_max: 3, ..Rules::GENESIS };
    apply(state, Command::SetRules(rules)).expect("applied");
    let group = Command::EnsureGroup { stream: Topic::Events, group: "g".into(), start: Start::First, idle_ms_max: None };
    apply(state, group).expect("applied");
    for number in 1..=10 {
        publish(state, number).expect("applied");
    }
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for work in std::fs::read_dir(directory).expect("a folder") {
        let files = std::fs::read_dir(work.expect("an entry").path()).expect("a folder");
        found.extend(files.map(|file| file.expect("an entry").path()));
    }
    found.sort();
    found
}

async fn count(reader: &BusReader) -> Result<usize, BusError> {
    let mut after = 0;
    loop {
        match reader.read(&Topic::Events, after, ReadLimit::default()).await?.last() {
            Some(last) => after = last.position,
            None => return Ok(after as usize),
        }
    }
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_and_the_state_stays() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (mut state, reader) = open(&directory.path().join("bus"), 0);
    fill(&mut state);
    let snapshot = directory.path().join("snapshot");
    std::fs::create_dir(&snapshot).expect("a folder");
    let files = state.snapshot().expect("a snapshot").write(&snapshot).expect("written");
    assert_eq!(files.len(), 2 + 4, "state, seen, three sealed segments and an open one");
    let (mut other, other_reader) = open(&directory.path().join("other"), 0);
    publish(&mut other, 99).expect("applied");

    for file in &files {
        let path = snapshot.join(&file.name);
        let whole = std::fs::read(&path).expect("read");
        // A new file each time: the old one is linked to the running bus.
        let put = |bytes: &[u8]| {
            std::fs::remove_file(&path).expect("removed");
            std::fs::write(&path, bytes).expect("written");
        };
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x10;
        let mut longer = whole.clone();
        longer.push(1);
        for (what, bytes) in [("cut", &whole[..whole.len() - 3]), ("flipped", &flipped), ("longer", &longer), ("empty", &[])] {
            put(bytes);
            let error = other.restore(&snapshot).expect_err("refused");
            assert!(matches!(error, StateError::Damaged { .. }), "{} {what}: {error}", file.name);
        }
        std::fs::remove_file(&path).expect("removed");
        assert!(matches!(other.restore(&snapshot), Err(StateError::Damaged { .. })), "{} missing", file.name);
        std::fs::write(&path, &whole).expect("written");
    }
    // Files exchanged for each other are sound, but not what they should be.
    let [one, two] = [&files[2], &files[3]].map(|file| snapshot.join(&file.name));
    let aside = directory.path().join("aside");
    std::fs::rename(&one, &aside).expect("renamed");
    std::fs::rename(&two, &one).expect("renamed");
    std::fs::rename(&aside, &two).expect("renamed");
    assert!(matches!(other.restore(&snapshot), Err(StateError::Damaged { .. })), "exchanged");
    std::fs::rename(&one, &aside).expect("renamed");
    std::fs::rename(&two, &one).expect("renamed");
    std::fs::rename(&aside, &two).expect("renamed");

    assert_eq!((other.applied(), count(&other_reader).await), (1, Ok(1)), "nothing has happened to the state");
    publish(&mut other, 100).expect("it goes on");
    other.restore(&snapshot).expect("whole again");
    assert_eq!((other.applied(), count(&other_reader).await), (state.applied(), Ok(10)));
    assert_eq!(count(&reader).await, Ok(10));
}

#[tokio::test]
async fn a_damaged_segment_is_never_served() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (mut state, reader) = open(directory.path(), 0);
    fill(&mut state);
    state.spiller.drain().expect("drained");
    let files = segments(directory.path());
    assert_eq!(files.len(), 3);
    assert_eq!(count(&reader).await, Ok(10));
    let mut bytes = std::fs::read(&files[1]).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&files[1], &bytes).expect("written");
    let whole = reader.read(&Topic::Events, 0, ReadLimit::default()).await.expect("what is before it can be read");
    assert_eq!(whole.len(), 3);
    let damaged = reader.read(&Topic::Events, 3, ReadLimit::default()).await;
    assert!(matches!(damaged, Err(BusError::Damaged(_))), "{damaged:?}");
    std::fs::remove_file(&files[1]).expect("removed");
    let missing = reader.read(&Topic::Events, 3, ReadLimit::default()).await;
    assert!(matches!(missing, Err(BusError::Damaged(_))), "{missing:?}");
    assert_eq!(reader.read(&Topic::Events, 6, ReadLimit::default()).await.expect("what is after it too").len(), 4);
}

#[tokio::test]
async fn a_disk_that_fails_stops_the_state_machine() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (mut state, _reader) = open(directory.path(), 0);
    // A folder where the first segment's file should go.
    std::fs::create_dir(directory.path().join("work-0/00000001-0000000000000001.segment")).expect("a folder");
    let rules = Rules { segment_entries_max: 1, ..Rules::GENESIS };
    apply(&mut state, Command::SetRules(rules)).expect("applied");
    let group = Command::EnsureGroup { stream: Topic::Events, group: "g".into(), start: Start::First, idle_ms_max: None };
    apply(&mut state, group).expect("applied");
    let failed = (1..1_000).find_map(|number| publish(&mut state, number).err()).expect("it comes out soon");
    assert!(matches!(failed, StateError::Io { .. }), "{failed}");
    assert!(matches!(publish(&mut state, 5_000), Err(StateError::Halted)));
    assert!(matches!(state.snapshot(), Err(StateError::Halted)), "a state that has stopped is not handed on");
}

#[tokio::test]
async fn trimmed_segments_leave_no_files_and_readers_of_them_finish() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (mut state, reader) = open(directory.path(), 0);
    fill(&mut state);
    state.spiller.drain().expect("drained");
    assert_eq!(segments(directory.path()).len(), 3);
    let held = state.snapshot().expect("a snapshot");
    let rules = Rules { segment_entries_max: 3, window_bytes_max: 0, ..Rules::GENESIS };
    apply(&mut state, Command::SetRules(rules)).expect("applied");
    apply(&mut state, Command::AdvanceGroup { stream: Topic::Events, group: "g".into(), position: 10 }).expect("applied");
    assert_eq!(reader.first(&Topic::Events), 10);
    assert_eq!(reader.read(&Topic::Events, 2, ReadLimit::default()).await, Err(BusError::Trimmed { first: 10 }));
    // The view was made before: it still has all, and can be written.
    assert_eq!(segments(directory.path()).len(), 3);
    let snapshot = tempfile::tempdir().expect("a temporary directory");
    held.write(snapshot.path()).expect("written");
    drop(held);
    assert_eq!(segments(directory.path()), [] as [PathBuf; 0]);
    let again = tempfile::tempdir().expect("a temporary directory");
    let (mut other, other_reader) = open(again.path(), 0);
    other.restore(snapshot.path()).expect("restored");
    assert_eq!(count(&other_reader).await, Ok(10));
}

#[tokio::test]
async fn a_restart_leaves_nothing_of_the_run_before() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (mut state, _) = open(directory.path(), 0);
    fill(&mut state);
    state.spiller.drain().expect("drained");
    // As a kill would: files stay.
    std::mem::forget(state);
    assert_eq!(segments(directory.path()).len(), 3);
    let (mut state, reader) = open(directory.path(), 0);
    assert_eq!((segments(directory.path()).len(), state.applied(), count(&reader).await), (0, 0, Ok(0)));
    fill(&mut state);
    assert_eq!(count(&reader).await, Ok(10), "the log brings the same files back");
}

#[tokio::test]
async fn waiting_ends_when_the_state_machine_does_and_survives_a_restore() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (mut source, _) = open(&directory.path().join("source"), 1 << 20);
    fill(&mut source);
    let snapshot = directory.path().join("snapshot");
    std::fs::create_dir(&snapshot).expect("a folder");
    source.snapshot().expect("a snapshot").write(&snapshot).expect("written");

    let (mut state, reader) = open(&directory.path().join("bus"), 1 << 20);
    publish(&mut state, 1).expect("applied");
    let mut known = Box::pin(reader.wait_past(&Topic::Events, 1));
    let mut unknown = Box::pin(reader.wait_past(&Topic::Actions, 0));
    assert!(futures_util::poll!(&mut known).is_pending() && futures_util::poll!(&mut unknown).is_pending());
    state.restore(&snapshot).expect("restored");
    assert_eq!(known.await, Ok(10), "woken by what the snapshot brought");
    assert!(futures_util::poll!(&mut unknown).is_pending());
    drop(state);
    let closed = tokio::time::timeout(Duration::from_secs(10), unknown).await.expect("woken");
    assert_eq!(closed, Err(BusError::Closed));
    assert_eq!(reader.read(&Topic::Events, 0, ReadLimit::default()).await, Err(BusError::Closed));
    assert_eq!(reader.wait_past(&Topic::Events, 0).await, Err(BusError::Closed));
}

#[test]
fn what_is_no_snapshot_or_points_elsewhere_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    assert!(matches!(snapshot_files(directory.path()), Err(StateError::Damaged { .. })), "nothing is there");
    let (mut state, _) = open(&directory.path().join("bus"), 1 << 20);
    assert!(matches!(state.restore(directory.path()), Err(StateError::Damaged { .. })));
    for name in ["", "../other", "/etc/passwd", ".hidden", "a\\b", "a\0b"] {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = proto::FileState { name: name.into(), bytes: 24, checksum: 0 };
        let hostile = proto::SnapshotState { seen: Some(file), ..proto::SnapshotState::default() };
        let path = folder.path().join("state");
        let mut writer = framing::Writer::create(&path, framing::Kind::State).expect("created");
        writer.block(&hostile.encode_to_vec()).expect("written");
        writer.finish(false).expect("finished");
        assert!(matches!(snapshot_files(folder.path()), Err(StateError::Damaged { .. })), "{name:?}");
        assert!(matches!(state.restore(folder.path()), Err(StateError::Damaged { .. })), "{name:?}");
    }
    // Sound files, impossible state: a peer of ours would not write it, and it must not bring us down.
    let whole = directory.path().join("whole");
    std::fs::create_dir(&whole).expect("a folder");
    let (mut full, _) = open(&directory.path().join("full"), 1 << 20);
    fill(&mut full);
    full.snapshot().expect("a snapshot").write(&whole).expect("written");
    let path = whole.join("state");
    let mut sound = None;
    framing::read(&path, framing::Kind::State, None, |block| {
        sound = Some(proto::SnapshotState::decode(block).expect("decoded"));
        Ok(())
    })
    .expect("read");
    let sound = sound.expect("a state");
    let changes: [fn(&mut proto::SnapshotState); 9] = [
        |state| state.rules = None,
        |state| state.rules.as_mut().expect("rules").streams_max = 0,
        |state| state.streams.push(state.streams[0].clone()),
        |state| state.streams[0].next += 1,
        |state| state.streams[0].groups[0].position = 11,
        |state| state.streams[0].segments[0].first = 0,
        |state| state.streams[0].segments[0].first = u64::MAX,
        |state| state.streams[0].segments[1].entries = 0,
        |state| state.streams[0].segments[1].bytes += 1,
    ];
    let put = |state: &proto::SnapshotState| {
        std::fs::remove_file(&path).expect("removed");
        let mut writer = framing::Writer::create(&path, framing::Kind::State).expect("created");
        writer.block(&state.encode_to_vec()).expect("written");
        writer.finish(false).expect("finished");
    };
    for (number, change) in changes.into_iter().enumerate() {
        let mut changed = sound.clone();
        change(&mut changed);
        put(&changed);
        assert!(matches!(state.restore(&whole), Err(StateError::Damaged { .. })), "change {number}");
    }
    put(&sound);
    open(&directory.path().join("sound"), 1 << 20).0.restore(&whole).expect("nothing but the changes was wrong");
    let batch = Batch { at_ms: 1, commands: Vec::new() };
    state.apply(7, &batch).expect("indexes may have gaps");
    assert!(matches!(state.apply(7, &batch), Err(StateError::OutOfOrder { index: 7, applied: 7 })));
}

/// Two versions of this program replay the same logs side by side: what a log comes to must not change. If this fails, `apply` decides
/// otherwise than before, and needs a new command or a rule of its own instead.
#[test]
fn what_a_log_comes_to_is_frozen() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (mut state, _) = open(&directory.path().join("bus"), 1 << 20);
    fill(&mut state);
    let key = |condition| Command::SetKey {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"v"),
        expires_after_ms: Some(500),
        condition,
    };
    let member = Member {
        id: 1,
        http_address: "127.0.0.1:4200".into(),
        peer_address: "127.0.0.1:7100".into(),
        version: "0.1.0".into(),
        may_run_services: true,
        incarnation: 1,
    };
    let commands = vec![
        key(KeyCondition::IfAbsent),
        key(KeyCondition::IfAbsent),
        Command::FoundCluster { id: Uuid::from_u128(5) },
        Command::SetMember(member),
        Command::ElectServices { node: 1, replaces: Some(0) },
        Command::AdvanceGroup { stream: Topic::Events, group: "g".into(), position: 4 },
        Command::AdvanceGroup { stream: Topic::Events, group: "none".into(), position: 4 },
        Command::DeleteGroup { stream: Topic::Actions, group: "none".into() },
    ];
    state.apply(100, &Batch { at_ms: 2_000, commands }).expect("applied");
    publish(&mut state, 3).expect("applied");
    let snapshot = directory.path().join("snapshot");
    std::fs::create_dir(&snapshot).expect("a folder");
    let files = state.snapshot().expect("a snapshot").write(&snapshot).expect("written");
    let bytes: Vec<u8> = files.iter().flat_map(|file| std::fs::read(snapshot.join(&file.name)).expect("read")).collect();
    assert_eq!(format!("{:016x} {:08x}", state.checksum(), crc32fast::hash(&bytes)), "a705f5918fa81499 e75ce440");
}
