//! openraft's own suite for stores, on ours; and what a log keeps over a restart.

use std::io;
use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::bus::rules::Limits;
use crate::bus::state::BusState;
use crate::cluster::log_store::{Log as _, LogStore, OnFailure};
use crate::cluster::snapshots::Snapshots;
use crate::cluster::state_machine::{Progress, StateMachine};
use crate::cluster::types::TypeConfig;

struct Stores;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Some of the suite's cases ask for what must fail.
        let on_failure: OnFailure = Arc::new(|_, _| {});
        let log = LogStore::open(&folder.path().join("raft"), on_failure.clone()).expect("a new log opens");
        let snapshots = Arc::new(Snapshots::open(&folder.path().join("snapshots")).expect("opened"));
        let (bus, _reader) = BusState::open(&folder.path().join("bus"), Limits::default()).expect("a new bus opens");
        let machine = StateMachine::new(bus, Progress::new(), snapshots, on_failure);
        Ok((folder, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes() {
    Suite::test_all(Stores).await.expect("the suite passes");
}

mod restart {
    use openraft::storage::{IOFlushed, RaftLogReader as _, RaftLogStorage as _};
    use openraft::type_config::TypeConfigExt as _;
    use openraft::vote::RaftLeaderId as _;

    use super::*;
    use crate::cluster::types::{Entry, EntryPayload, LogId, Proposal, Vote};

    type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;

    fn open(folder: &TempDir) -> LogStore {
        LogStore::open(folder.path(), Arc::new(|what: &str, error: &io::Error| panic!("{what}: {error}"))).expect("it opens")
    }

    fn entry(index: u64) -> Entry {
        let log_id = LogId { leader_id: LeaderId::new(1, 1), index };
        Entry { log_id, payload: EntryPayload::Normal(Proposal(format!("entry {index}").into())) }
    }

    async fn append(log: &mut LogStore, indexes: std::ops::Range<u64>) {
        let (sender, receiver) = TypeConfig::oneshot();
        log.append(indexes.map(entry).collect::<Vec<_>>(), IOFlushed::signal(sender)).await.expect("taken");
        receiver.await.expect("answered").expect("flushed");
    }

    #[tokio::test]
    async fn vote_entries_and_purge_survive() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let vote = Vote { leader_id: LeaderId::new(4, 2), committed: true };
        {
            let mut log = open(&folder);
            assert!(log.is_pristine());
            log.save_vote(&vote).await.expect("saved");
            append(&mut log, 0..20).await;
            log.truncate_after(Some(entry(14).log_id)).await.expect("cut");
            log.save_committed(Some(entry(12).log_id)).await.expect("saved");
            log.purge(entry(4).log_id).await.expect("purged");
            log.flush().await.expect("flushed");
        }
        let mut log = open(&folder);
        assert!(!log.is_pristine());
        assert_eq!(log.read_vote().await.expect("read"), Some(vote));
        let state = log.get_log_state().await.expect("read");
        assert_eq!(state.last_purged_log_id, Some(entry(4).log_id));
        assert_eq!(state.last_log_id, Some(entry(14).log_id));
        assert_eq!(log.read_committed().await.expect("read"), Some(entry(12).log_id));
        let entries = log.try_get_log_entries(..).await.expect("read");
        assert_eq!(entries, (5..15).map(entry).collect::<Vec<_>>());
        // A follower must not be sent what lies behind a hole.
        assert_eq!(log.limited_get_log_entries(3, 9).await.expect("read"), Vec::new());
        assert_eq!(log.limited_get_log_entries(5, 9).await.expect("read"), (5..9).map(entry).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_torn_tail_is_cut_off_and_the_rest_is_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        {
            let mut log = open(&folder);
            append(&mut log, 0..5).await;
        }
        let file = newest_file(folder.path());
        let length = std::fs::metadata(&file).expect("it exists").len();
        std::fs::OpenOptions::new().write(true).open(&file).expect("opened").set_len(length - 3).expect("torn");
        let mut log = open(&folder);
        let entries = log.try_get_log_entries(..).await.expect("read");
        assert_eq!(entries, (0..4).map(entry).collect::<Vec<_>>());
        append(&mut log, 4..6).await;
    }

    #[tokio::test]
    async fn a_damaged_record_before_the_tail_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        {
            let mut log = open(&folder);
            append(&mut log, 0..50).await;
        }
        let file = newest_file(folder.path());
        let mut bytes = std::fs::read(&file).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        std::fs::write(&file, bytes).expect("written");
        assert!(LogStore::open(folder.path(), Arc::new(|_, _| {})).is_err(), "a damaged log must not be served");
    }

    fn newest_file(folder: &std::path::Path) -> std::path::PathBuf {
        let files = std::fs::read_dir(folder).expect("listed").map(|entry| entry.expect("an entry").path());
        let mut chunks: Vec<_> =
            files.filter(|path| path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)).collect();
        chunks.sort();
        chunks.pop().expect("there is one")
    }
}
