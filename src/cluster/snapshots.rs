//! Snapshots on disk: one folder each, complete or not there at all.
//!
//! A snapshot is written, or received, in a folder whose name says that it is unfinished; files and folder are synced, the
//! manifest is written last, then the folder gets its real name and the parent is synced. A start removes what is unfinished.
//! The newest two are kept; one that is being sent is not removed under the sender.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use prost::Message as _;

use super::convert;
use super::limits::SNAPSHOTS_KEPT;
use super::types::{SnapshotMeta, raft_pb as pb};

const MANIFEST: &str = "manifest";
const MAGIC: &[u8; 8] = b"PRSNAP01";
const UNFINISHED: &str = "unfinished-";

/// One snapshot's folder.
#[derive(Debug)]
pub(super) struct SnapshotFolder {
    path: PathBuf,
    manifest: pb::SnapshotManifest,
    meta: SnapshotMeta,
    /// Received and not yet installed: removed when dropped, unless it was given its name.
    staged: bool,
}

impl SnapshotFolder {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn manifest(&self) -> &pb::SnapshotManifest {
        &self.manifest
    }

    pub(super) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// A snapshot that was just received.
    pub(super) fn staged(path: PathBuf, manifest: pb::SnapshotManifest) -> io::Result<Self> {
        let meta = meta_of(&manifest)?;
        Ok(Self { path, manifest, meta, staged: true })
    }
}

impl Drop for SnapshotFolder {
    fn drop(&mut self) {
        if self.staged && self.path.exists() {
            // Left over if it fails: the next start removes it.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// All snapshots of this node.
pub(super) struct Snapshots {
    folder: PathBuf,
    counter: AtomicU64,
    handed_out: Mutex<Vec<Weak<SnapshotFolder>>>,
}

impl Snapshots {
    /// Opens `folder`, making it if need be, and removes what is unfinished in it.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self { folder: folder.to_owned(), counter: AtomicU64::new(0), handed_out: Mutex::default() })
    }

    /// A new empty folder for a snapshot to be written or received in.
    pub(super) fn begin(&self) -> io::Result<PathBuf> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{UNFINISHED}{number}"));
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// The newest complete snapshot.
    pub(super) fn newest(&self) -> io::Result<Option<Arc<SnapshotFolder>>> {
        for path in self.complete()?.into_iter().rev() {
            match load(&path) {
                Ok(folder) => {
                    let folder = Arc::new(folder);
                    self.handed_out.lock().push(Arc::downgrade(&folder));
                    return Ok(Some(folder));
                }
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "a snapshot is damaged; the one before it is used");
                }
            }
        }
        Ok(None)
    }

    /// Makes the snapshot in `path`, whose files are synced already, the newest one.
    pub(super) fn finish(&self, path: &Path, manifest: pb::SnapshotManifest) -> io::Result<Arc<SnapshotFolder>> {
        let meta = meta_of(&manifest)?;
        write_manifest(path, &manifest)?;
        sync(path)?;
        let target = self.folder.join(name_of(&meta));
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        fs::rename(path, &target)?;
        sync(&self.folder)?;
        let folder = Arc::new(SnapshotFolder { path: target, manifest, meta, staged: false });
        self.handed_out.lock().push(Arc::downgrade(&folder));
        self.prune()?;
        Ok(folder)
    }

    /// Keeps a snapshot that was installed: gives it its name if it was received here, copies it if it is somebody else's.
    pub(super) fn keep(&self, folder: &SnapshotFolder) -> io::Result<()> {
        if folder.staged {
            self.finish(&folder.path, folder.manifest.clone())?;
        } else if folder.path.parent() != Some(self.folder.as_path()) {
            let path = self.begin()?;
            for file in &folder.manifest.files {
                fs::copy(folder.path.join(&file.name), path.join(&file.name))?;
                File::open(path.join(&file.name))?.sync_all()?;
            }
            self.finish(&path, folder.manifest.clone())?;
        }
        Ok(())
    }

    fn complete(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && !entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                paths.push(entry.path());
            }
        }
        paths.sort();
        Ok(paths)
    }

    fn prune(&self) -> io::Result<()> {
        let mut handed_out = self.handed_out.lock();
        handed_out.retain(|folder| folder.strong_count() > 0);
        let in_use: HashSet<PathBuf> = handed_out.iter().filter_map(Weak::upgrade).map(|folder| folder.path.clone()).collect();
        let complete = self.complete()?;
        let surplus = complete.len().saturating_sub(SNAPSHOTS_KEPT);
        for path in &complete[..surplus] {
            if !in_use.contains(path) {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }
}

/// Sorts as Raft orders log ids within one history.
fn name_of(meta: &SnapshotMeta) -> String {
    match &meta.last_log_id {
        Some(id) => format!("{:020}-{}-{}", id.index + 1, id.leader_id.term, id.leader_id.node_id),
        None => format!("{:020}", 0),
    }
}

fn meta_of(manifest: &pb::SnapshotManifest) -> io::Result<SnapshotMeta> {
    let meta = manifest.meta.clone().ok_or_else(|| damaged("a snapshot's manifest says nothing about it"))?;
    for file in &manifest.files {
        if file.name.is_empty() || file.name == MANIFEST || file.name.contains(['/', '\\']) || file.name.starts_with('.') {
            return Err(damaged("a snapshot's manifest names a file that it must not"));
        }
    }
    convert::snapshot_meta_from_wire(meta).map_err(|error| damaged(&error.to_string()))
}

fn load(path: &Path) -> io::Result<SnapshotFolder> {
    let bytes = fs::read(path.join(MANIFEST))?;
    let rest = bytes.strip_prefix(MAGIC.as_slice()).ok_or_else(|| damaged("not a manifest of this format"))?;
    let (checksum, body) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("the manifest is cut short"))?;
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return Err(damaged("the manifest's checksum does not match"));
    }
    let manifest = pb::SnapshotManifest::decode(body).map_err(|error| damaged(&error.to_string()))?;
    for file in &manifest.files {
        if fs::metadata(path.join(&file.name))?.len() != file.length {
            return Err(damaged(&format!("{} has not the length it was written with", file.name)));
        }
    }
    let meta = meta_of(&manifest)?;
    Ok(SnapshotFolder { path: path.to_owned(), manifest, meta, staged: false })
}

fn write_manifest(path: &Path, manifest: &pb::SnapshotManifest) -> io::Result<()> {
    let body = manifest.encode_to_vec();
    let mut file = File::create(path.join(MANIFEST))?;
    file.write_all(MAGIC)?;
    file.write_all(&crc32fast::hash(&body).to_le_bytes())?;
    file.write_all(&body)?;
    file.sync_all()
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::vote::RaftLeaderId as _;

    fn manifest(index: u64, files: &[(&str, u64)]) -> pb::SnapshotManifest {
        let meta = SnapshotMeta {
            last_log_id: Some(super::super::types::LogId {
                leader_id: openraft::alias::LeaderIdOf::<super::super::types::TypeConfig>::new(1, 1),
                index,
            }),
            last_membership: Default::default(),
        };
        pb::SnapshotManifest {
            meta: Some(convert::snapshot_meta_to_wire(&meta)),
            files: files.iter().map(|(name, length)| pb::SnapshotFile { name: (*name).into(), length: *length }).collect(),
        }
    }

    fn make(snapshots: &Snapshots, index: u64) -> Arc<SnapshotFolder> {
        let path = snapshots.begin().expect("a new folder");
        fs::write(path.join("state"), b"12345").expect("a file");
        snapshots.finish(&path, manifest(index, &[("state", 5)])).expect("finished")
    }

    #[test]
    fn the_newest_two_are_kept_and_one_in_use() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let snapshots = Snapshots::open(temp.path()).expect("opened");
        let first = make(&snapshots, 1);
        for index in 2..=4 {
            drop(make(&snapshots, index));
        }
        assert!(first.path().exists(), "it is in use");
        assert_eq!(snapshots.complete().expect("listed").len(), 3);
        drop(first);
        drop(make(&snapshots, 5));
        assert_eq!(snapshots.complete().expect("listed").len(), 2);
        let newest = snapshots.newest().expect("read").expect("there is one");
        assert_eq!(newest.meta().last_log_id.as_ref().map(|id| id.index), Some(5));
    }

    #[test]
    fn what_is_unfinished_or_damaged_is_not_used() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let snapshots = Snapshots::open(temp.path()).expect("opened");
        drop(make(&snapshots, 1));
        let second = make(&snapshots, 2);
        snapshots.begin().expect("an unfinished one");
        fs::write(second.path().join("state"), b"123").expect("shortened");
        let again = Snapshots::open(temp.path()).expect("opened");
        let newest = again.newest().expect("read").expect("there is one");
        assert_eq!(newest.meta().last_log_id.as_ref().map(|id| id.index), Some(1));
        assert!(
            fs::read_dir(temp.path())
                .expect("listed")
                .all(|entry| { !entry.expect("an entry").file_name().to_string_lossy().starts_with(UNFINISHED) })
        );
    }

    #[test]
    fn a_manifest_cannot_name_files_elsewhere() {
        for name in ["../escape", "a/b", "manifest", "", ".."] {
            assert!(meta_of(&manifest(1, &[(name, 1)])).is_err(), "{name}");
        }
    }
}
