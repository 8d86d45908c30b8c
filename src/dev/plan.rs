//! What `praetor dev` will run: directory, database, ports. The nodes' peer ports are kept in the directory, since the
//! group remembers them.

use std::fs::{self, File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::cli::DevArgs;

/// From the front door's port to the first one tried for talk between nodes: 7101 beside 4200. Groups with different
/// front doors keep out of each other's way, also while one of their nodes is down.
const PEER_PORT_DISTANCE: u16 = 2901;

/// A local group, ready to be started.
pub(super) struct Plan {
    pub(super) directory: PathBuf,
    pub(super) database_url: String,
    pub(super) nodes: Vec<PlannedNode>,
    pub(super) log_level: String,
    embedded: bool,
    /// Held while we run: two groups in one directory would destroy each other.
    _lock: File,
}

/// One node of it.
#[derive(Clone, Debug)]
pub(super) struct PlannedNode {
    pub(super) id: u64,
    pub(super) http: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) data_dir: PathBuf,
}

/// What is remembered from one start to the next.
#[derive(Serialize, Deserialize)]
struct Remembered {
    peer_ports: Vec<u16>,
}

impl Plan {
    pub(super) fn make(args: &DevArgs) -> anyhow::Result<Self> {
        let directory = match &args.data_dir {
            Some(directory) => std::path::absolute(directory)?,
            None => std::env::home_dir().context("there is no home directory; give --data-dir")?.join(".praetor").join("dev"),
        };
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let lock = lock(&directory)?;
        if args.fresh {
            wipe(&directory)?;
        }
        let peer_ports = peer_ports(&directory, args.nodes, args.port.checked_add(PEER_PORT_DISTANCE).unwrap_or(PEER_PORT_DISTANCE))?;
        let mut http_ports = free_ports(args.port.saturating_add(1), &peer_ports);
        let nodes = peer_ports
            .iter()
            .enumerate()
            .map(|(index, peer)| {
                let http = http_ports.next().context("there is no free port above --port; give another")?;
                let id = index as u64 + 1;
                Ok(PlannedNode { id, http: local(http), peer: local(*peer), data_dir: directory.join(format!("node-{id}")) })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let embedded = args.database_url.is_none();
        let database_url = match &args.database_url {
            Some(url) => url.clone(),
            None => format!("sqlite+aiosqlite:///{}", directory.join("prefect.db").display()),
        };
        Ok(Self { directory, database_url, nodes, log_level: args.log_level.clone(), embedded, _lock: lock })
    }

    /// The peers as each node is told them.
    pub(super) fn peers(&self) -> String {
        let peers: Vec<String> = self.nodes.iter().map(|node| format!("{}={}", node.id, node.peer)).collect();
        peers.join(",")
    }

    /// What runs, in words.
    pub(super) fn summary(&self) -> String {
        let database = if self.embedded { "one SQLite file" } else { "the database given" };
        format!("{} nodes on {database}", self.nodes.len())
    }
}

fn lock(directory: &std::path::Path) -> anyhow::Result<File> {
    let path = directory.join("dev.lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another `praetor dev` runs in {}; stop it, or give --data-dir another directory", directory.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Removes what earlier runs left, and nothing that is not ours.
fn wipe(directory: &std::path::Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let removed = if name.starts_with("node-") && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())
        } else if name.starts_with("prefect.db") || name == "dev.json" {
            fs::remove_file(entry.path())
        } else {
            Ok(())
        };
        removed.with_context(|| format!("cannot remove {}", entry.path().display()))?;
    }
    Ok(())
}

fn peer_ports(directory: &std::path::Path, nodes: u16, first: u16) -> anyhow::Result<Vec<u16>> {
    let path = directory.join("dev.json");
    if let Ok(text) = fs::read_to_string(&path) {
        let remembered: Remembered =
            serde_json::from_str(&text).with_context(|| format!("{} cannot be read; give --fresh to begin anew", path.display()))?;
        if remembered.peer_ports.len() != usize::from(nodes) {
            bail!(
                "{} holds a group of {} nodes; give --nodes {} or --fresh",
                directory.display(),
                remembered.peer_ports.len(),
                remembered.peer_ports.len()
            );
        }
        if let Some(taken) = remembered.peer_ports.iter().find(|port| !is_free(**port)) {
            bail!("the group in {} uses port {taken}, which another process has; stop that, or give --fresh", directory.display());
        }
        return Ok(remembered.peer_ports);
    }
    let peer_ports: Vec<u16> = free_ports(first, &[]).take(usize::from(nodes)).collect();
    let remembered = Remembered { peer_ports };
    fs::write(&path, serde_json::to_string(&remembered)?).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(remembered.peer_ports)
}

fn free_ports(first: u16, not: &[u16]) -> impl Iterator<Item = u16> {
    let not = not.to_vec();
    (first..u16::MAX).filter(move |port| !not.contains(port) && is_free(*port))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(directory: &std::path::Path, more: &str) -> DevArgs {
        let line = format!("praetor dev --data-dir {} {more}", directory.display());
        match Cli::parse_from(line.split_whitespace()).command {
            Command::Dev(args) => args,
            other => panic!("another command: {other:?}"),
        }
    }

    #[test]
    fn ports_are_distinct_and_the_peers_keep_theirs() {
        let directory = tempfile::tempdir().expect("a directory");
        let plan = Plan::make(&args(directory.path(), "")).expect("a plan");
        let mut ports: Vec<u16> = plan.nodes.iter().flat_map(|node| [node.http.port(), node.peer.port()]).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 6, "{:?}", plan.nodes);
        let peers = plan.peers();
        drop(plan);
        let again = Plan::make(&args(directory.path(), "")).expect("a plan");
        assert_eq!(again.peers(), peers);
    }

    #[test]
    fn two_groups_do_not_share_a_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let _held = Plan::make(&args(directory.path(), "")).expect("a plan");
        let error = Plan::make(&args(directory.path(), "")).err().expect("refused").to_string();
        assert!(error.contains("another `praetor dev` runs in"), "{error}");
    }

    #[test]
    fn another_number_of_nodes_needs_a_fresh_start_which_keeps_foreign_files() {
        let directory = tempfile::tempdir().expect("a directory");
        drop(Plan::make(&args(directory.path(), "")).expect("a plan"));
        fs::write(directory.path().join("notes.txt"), "mine").expect("written");
        fs::create_dir(directory.path().join("node-1")).expect("made");
        let error = Plan::make(&args(directory.path(), "--nodes 1")).err().expect("refused").to_string();
        assert!(error.contains("--nodes 3 or --fresh"), "{error}");
        let plan = Plan::make(&args(directory.path(), "--nodes 1 --fresh")).expect("a plan");
        assert_eq!(plan.nodes.len(), 1);
        assert!(directory.path().join("notes.txt").exists());
        assert!(!directory.path().join("node-1").exists());
    }
}
