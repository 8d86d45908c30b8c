//! The torn end of a log: what a power failure leaves of writes that were under way, which nobody was told about.
//!
//! `raft-log` cuts off a last record that is too short, and zeros. A disk may as well have written some sectors of the last
//! writes and not others. So the end of the newest file, from the first record on that is not whole, is cut off where no whole
//! record follows: had it been written long ago, something would follow. Anything else is damage, and is left alone.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use raft_log::RaftLogRecord;
use raft_log::codeq::Decode;

use super::log_codec::LogTypes;

/// What was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// The file.
    pub path: PathBuf,
    /// Its length now.
    pub kept: u64,
    /// Bytes that are gone.
    pub gone: u64,
}

/// The file that `raft-log` locks while it has a log open.
const LOCK: &str = "LOCK";

/// Cuts the torn end off the newest file of the log in `folder`. `None` where its end is whole, or is damaged otherwise, or
/// another process has the log open.
///
/// # Errors
/// The file cannot be read or cut.
pub(super) fn cut_torn(folder: &Path) -> io::Result<Option<Cut>> {
    let Some(path) = newest(folder)? else { return Ok(None) };
    let lock = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK))?;
    if let Err(TryLockError::WouldBlock) = lock.try_lock() {
        return Ok(None);
    }
    let bytes = fs::read(&path)?;
    let whole = whole_records(&bytes);
    // The first byte of what is torn may be right, so the search begins with the second one.
    if whole == bytes.len() || (whole + 1..bytes.len()).any(|at| record_at(&bytes[at..]).is_some()) {
        return Ok(None);
    }
    let file = File::options().write(true).open(&path)?;
    file.set_len(whole as u64)?;
    file.sync_all()?;
    Ok(Some(Cut { path, kept: whole as u64, gone: (bytes.len() - whole) as u64 }))
}

/// Names have leading zeros, so the newest is the last one.
fn newest(folder: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        if path.extension().is_some_and(|extension| extension == "wal") {
            newest = newest.max(Some(path));
        }
    }
    Ok(newest)
}

/// How many bytes at the beginning are whole records.
fn whole_records(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(length) = record_at(&bytes[at..]) {
        at += length;
    }
    at
}

/// The length of the record that begins here, with a checksum that is right.
fn record_at(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    RaftLogRecord::<LogTypes>::decode(&mut rest).ok()?;
    Some(bytes.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Arc;

    use openraft::EntryPayload;
    use openraft::storage::RaftLogStorageExt as _;
    use openraft::storage::{RaftLogReader as _, RaftLogStorage as _};

    use super::super::log_store::LogStore;
    use super::super::types::{Entry, Proposal};
    use super::*;

    fn entry(index: u64) -> Entry {
        let log_id = super::super::log_codec::StoredLogId { term: 1, node_id: 1, index }.into();
        Entry { log_id, payload: EntryPayload::Normal(Proposal(vec![7; 3000].into())) }
    }

    fn open(folder: &Path) -> io::Result<LogStore> {
        LogStore::open(folder, Arc::new(|what, error| panic!("{what}: {error}")))
    }

    /// A log of ten entries, closed.
    async fn written() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut log = open(directory.path()).expect("it opens");
        log.blocking_append((0..10).map(entry)).await.expect("they are written");
        drop(log);
        let path = newest(directory.path()).expect("it can be read").expect("there is a file");
        (directory, path)
    }

    async fn indexes(folder: &Path) -> Vec<u64> {
        let mut log = open(folder).expect("it opens");
        assert_eq!(log.get_log_state().await.expect("it is read").last_log_id.map(|id| id.index), Some(9));
        log.try_get_log_entries(0..10).await.expect("they are whole").iter().map(|entry| entry.log_id.index).collect()
    }

    #[tokio::test]
    async fn garbage_of_any_kind_after_the_last_record_is_cut_off() {
        let (directory, path) = written().await;
        let mut torn = fs::read(&path).expect("it can be read");
        // A record of which the middle was not written, and more behind it.
        torn.drain(..torn.len() - 3100);
        torn[1000..1512].fill(0xa5);
        for garbage in [vec![0xff], vec![0x5a; 700], torn[100..].to_vec(), torn] {
            // Opened again, a log goes on in a new file.
            let path = newest(directory.path()).expect("it can be read").expect("there is a file");
            let length = fs::metadata(&path).expect("it is there").len();
            File::options().append(true).open(&path).and_then(|mut file| file.write_all(&garbage)).expect("it is written");
            assert_eq!(indexes(directory.path()).await, (0..10).collect::<Vec<_>>());
            assert_eq!(fs::metadata(&path).expect("it is there").len(), length, "nothing else is cut off");
        }
    }

    #[tokio::test]
    async fn a_record_that_is_damaged_before_a_whole_one_stops_the_node() {
        let (directory, path) = written().await;
        let mut bytes = fs::read(&path).expect("it can be read");
        let length = bytes.len();
        bytes[length - 4000] ^= 1;
        fs::write(&path, &bytes).expect("it is written");
        let error = open(directory.path()).err().expect("it is refused");
        assert!(error.to_string().contains("checksum"), "{error}");
        assert_eq!(fs::read(&path).expect("it can be read"), bytes, "it is left as it is");
    }
}
