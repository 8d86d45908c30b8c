//! Who this node is: a small file in the data directory, which belongs to one node of one cluster for ever.
//!
//! It is written before anything else is, and read before anything else is opened, so that a directory which was copied,
//! mounted at the wrong node, or written by a newer version is refused with a sentence instead of being used.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::config::ClusterError;

/// Of the data directory as a whole. Grows when an older program could not use it any more.
const FORMAT: u32 = 1;

const FILE: &str = "node.json";

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    format: u32,
    node_id: u64,
    /// Absent until the group was founded, or this node was taken in.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<Uuid>,
    /// How often the node was started.
    starts: u64,
    /// Its Raft log has, or had, something in it.
    #[serde(default)]
    history: bool,
}

/// This node's identity, kept on disk.
pub(super) struct Identity {
    path: PathBuf,
    content: RwLock<Content>,
}

impl Identity {
    /// Reads the identity in `data_dir`, or makes one for `node_id`; counts the start.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] when the directory is another node's or a newer version's.
    pub(super) fn open(data_dir: &Path, node_id: u64) -> Result<Self, ClusterError> {
        let shown = data_dir.display();
        let storage = |what: &str| ClusterError::storage(format!("{what} {shown}"));
        fs::create_dir_all(data_dir).map_err(storage("creating the data directory"))?;
        let path = data_dir.join(FILE);
        let mut content = match fs::read(&path) {
            Ok(bytes) => read(&bytes, data_dir, node_id)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if data_dir.join("raft").exists() {
                    return Err(ClusterError::Refused(format!(
                        "{shown} holds a Raft log but no {FILE}: restore the file, or start the node with an empty directory and \
                         a new id"
                    )));
                }
                Content { format: FORMAT, node_id, cluster_id: None, starts: 0, history: false }
            }
            Err(error) => return Err(storage("reading the data directory")(error)),
        };
        content.starts += 1;
        write(&path, &content).map_err(storage("writing to the data directory"))?;
        Ok(Self { path, content: RwLock::new(content) })
    }

    pub(super) fn node_id(&self) -> u64 {
        self.content.read().node_id
    }

    pub(super) fn cluster_id(&self) -> Option<Uuid> {
        self.content.read().cluster_id
    }

    /// Grows with each start of the process.
    pub(super) fn starts(&self) -> u64 {
        self.content.read().starts
    }

    /// Whether this node ever took part in its cluster.
    pub(super) fn has_history(&self) -> bool {
        self.content.read().history
    }

    /// Remembers that this node takes part from now on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn begin_history(&self) -> Result<(), ClusterError> {
        let mut content = self.content.write();
        if !content.history {
            let next = Content { history: true, ..content.clone() };
            write(&self.path, &next).map_err(ClusterError::storage("writing to the data directory"))?;
            *content = next;
        }
        Ok(())
    }

    /// Makes this node one of `cluster_id`'s, for ever; again is nothing.
    ///
    /// # Errors
    /// When it belongs to another already, or the file cannot be written.
    pub(super) fn adopt(&self, cluster_id: Uuid) -> Result<(), ClusterError> {
        let mut content = self.content.write();
        match content.cluster_id {
            Some(mine) if mine == cluster_id => Ok(()),
            Some(mine) => Err(ClusterError::Refused(format!(
                "node {} belongs to cluster {mine} and cannot join cluster {cluster_id}: start it with an empty data directory \
                 and a new id",
                content.node_id
            ))),
            None => {
                let next = Content { cluster_id: Some(cluster_id), ..content.clone() };
                write(&self.path, &next).map_err(ClusterError::storage("writing the cluster's id"))?;
                *content = next;
                Ok(())
            }
        }
    }
}

fn read(bytes: &[u8], data_dir: &Path, node_id: u64) -> Result<Content, ClusterError> {
    let shown = data_dir.display();
    let refused = |what: String| Err(ClusterError::Refused(what));
    // The format alone first: a newer version may have changed everything else.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    match serde_json::from_slice::<Format>(bytes) {
        Ok(Format { format }) if format > FORMAT => {
            return refused(format!(
                "{shown} was written by a newer version (format {format}, this version knows {FORMAT}): start that version"
            ));
        }
        Ok(_) => {}
        Err(error) => return refused(format!("{shown}/{FILE} cannot be read ({error}): restore the file")),
    }
    let content: Content = match serde_json::from_slice(bytes) {
        Ok(content) => content,
        Err(error) => return refused(format!("{shown}/{FILE} cannot be read ({error}): restore the file")),
    };
    if content.node_id != node_id {
        return refused(format!(
            "{shown} belongs to node {}, and this is node {node_id}: give the node its own data directory, or the id {}",
            content.node_id, content.node_id
        ));
    }
    Ok(content)
}

fn write(path: &Path, content: &Content) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(content).map_err(io::Error::other)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(data_dir: &Path, node_id: u64) -> String {
        match Identity::open(data_dir, node_id) {
            Err(ClusterError::Refused(sentence)) => sentence,
            Err(other) => panic!("not refused but {other}"),
            Ok(_) => panic!("not refused"),
        }
    }

    #[test]
    fn it_is_kept_and_counts_starts() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let cluster = Uuid::from_u128(7);
        let first = Identity::open(temp.path(), 3).expect("new");
        assert_eq!((first.node_id(), first.cluster_id(), first.starts()), (3, None, 1));
        first.adopt(cluster).expect("free to join");
        first.adopt(cluster).expect("again is nothing");
        let second = Identity::open(temp.path(), 3).expect("the same node");
        assert_eq!((second.cluster_id(), second.starts()), (Some(cluster), 2));
        assert!(second.adopt(Uuid::from_u128(8)).expect_err("another cluster").to_string().contains("cannot join"));
    }

    #[test]
    fn another_nodes_directory_is_refused() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        drop(Identity::open(temp.path(), 1).expect("new"));
        assert!(refusal(temp.path(), 2).contains("belongs to node 1"));
    }

    #[test]
    fn a_newer_format_is_refused_whatever_else_it_says() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        fs::write(temp.path().join(FILE), br#"{"format": 2, "who": "node-1"}"#).expect("written");
        assert!(refusal(temp.path(), 1).contains("newer version"));
    }

    #[test]
    fn a_log_without_identity_is_refused() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(temp.path().join("raft")).expect("made");
        assert!(refusal(temp.path(), 1).contains("no node.json"));
    }
}
