//! The group: which node this is, who the others are, and where its log lies.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::Reader;
use super::secret::Secret;

/// Settings of the group. Without `listen` and `peers` a node is a group of one.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// `PRAETOR_NODE_ID`: this node's number, at least 1, never used twice in a group; default 1.
    pub node_id: u64,
    /// `PRAETOR_CLUSTER_LISTEN`: `host:port` for the other nodes; default this node's entry in the peers, or none in
    /// a group of one.
    pub listen: Option<String>,
    /// `PRAETOR_CLUSTER_PEERS`: every member at the group's birth, this node included, as `1=host:port,2=...`.
    pub peers: BTreeMap<u64, String>,
    /// `PRAETOR_DATA_DIR`: the log, snapshots and streams of this node; default `praetor/node-ID` in the home directory.
    pub data_dir: PathBuf,
    /// `PRAETOR_CLUSTER_TOKEN` or the content of the file `PRAETOR_CLUSTER_TOKEN_FILE`: what nodes show each other.
    pub token: Option<Secret>,
    /// `PRAETOR_CLUSTER_HEARTBEAT_SECONDS`: how often a leader shows that it lives; default 0.05.
    pub heartbeat: Duration,
    /// `PRAETOR_CLUSTER_ELECTION_MIN_SECONDS`: least silence before an election; default 0.2.
    pub election_min: Duration,
    /// `PRAETOR_CLUSTER_ELECTION_MAX_SECONDS`: most silence before an election; default 0.3. It counts twice in the
    /// time a failover takes: keep it close to the least.
    pub election_max: Duration,
}

impl ClusterSettings {
    pub(super) fn read(reader: &mut Reader<'_>, home: &Path) -> Self {
        let node_id: u64 = reader.value(&["PRAETOR_NODE_ID"], 1);
        if node_id == 0 {
            reader.problem("PRAETOR_NODE_ID (--node-id) must be at least 1; number the nodes from 1");
        }
        let peers = peers(reader);
        let listen: Option<String> = reader.optional(&["PRAETOR_CLUSTER_LISTEN"]);
        let listen = listen.or_else(|| peers.get(&node_id).cloned());
        let settings = Self {
            node_id,
            data_dir: reader.value(&["PRAETOR_DATA_DIR"], home.join("praetor").join(format!("node-{node_id}"))),
            token: token(reader),
            heartbeat: reader.positive(&["PRAETOR_CLUSTER_HEARTBEAT_SECONDS"], 0.05),
            election_min: reader.positive(&["PRAETOR_CLUSTER_ELECTION_MIN_SECONDS"], 0.2),
            election_max: reader.positive(&["PRAETOR_CLUSTER_ELECTION_MAX_SECONDS"], 0.3),
            listen,
            peers,
        };
        settings.check(reader);
        settings
    }

    /// Whether other nodes exist or may join.
    pub fn is_clustered(&self) -> bool {
        !self.peers.is_empty() || self.listen.is_some()
    }

    fn check(&self, reader: &mut Reader<'_>) {
        if !self.peers.is_empty() && !self.peers.contains_key(&self.node_id) {
            let known: Vec<String> = self.peers.keys().map(u64::to_string).collect();
            reader.problem(format!(
                "node {} is not among the peers ({}); set PRAETOR_NODE_ID (--node-id) to one of them or add this node to PRAETOR_CLUSTER_PEERS",
                self.node_id,
                known.join(", ")
            ));
        }
        if let Some(listen) = &self.listen {
            if !is_host_and_port(listen) {
                reader.problem(format!("PRAETOR_CLUSTER_LISTEN (--cluster-listen) must be host:port; change {listen:?}"));
            } else if self.token.is_none() && !is_loopback(listen) {
                reader.problem(format!(
                    "the group would listen on {listen}, which is not a loopback address, without a token, so any machine could join; set PRAETOR_CLUSTER_TOKEN to the same secret on every node"
                ));
            }
        }
        if self.election_min < self.heartbeat * 2 || self.election_max < self.election_min {
            reader.problem(
                "PRAETOR_CLUSTER_ELECTION_MIN_SECONDS must be at least twice the heartbeat, and not above PRAETOR_CLUSTER_ELECTION_MAX_SECONDS",
            );
        }
    }
}

fn peers(reader: &mut Reader<'_>) -> BTreeMap<u64, String> {
    const NAME: &str = "PRAETOR_CLUSTER_PEERS";
    let Some(text) = reader.optional::<String>(&[NAME]) else { return BTreeMap::new() };
    let mut peers = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let entry = part.split_once('=').and_then(|(id, address)| Some((id.trim().parse::<u64>().ok()?, address.trim())));
        let Some((id, address)) = entry.filter(|(id, address)| *id > 0 && is_host_and_port(address)) else {
            reader.problem(format!("{NAME} must read 1=host:port,2=host:port,...; change {part:?}"));
            continue;
        };
        if peers.values().any(|other| other == address) {
            reader.problem(format!("{NAME} gives the address {address} to two nodes; give each node its own"));
        }
        if peers.insert(id, address.to_owned()).is_some() {
            reader.problem(format!("{NAME} names node {id} twice; give each node its own number"));
        }
    }
    if peers.len() == 2 {
        reader.note(format!("{NAME} names two nodes, and two stop when one of them dies; three go on"));
    }
    peers
}

fn token(reader: &mut Reader<'_>) -> Option<Secret> {
    let token: Option<Secret> = reader.optional(&["PRAETOR_CLUSTER_TOKEN"]);
    let file: Option<PathBuf> = reader.optional(&["PRAETOR_CLUSTER_TOKEN_FILE"]);
    let token = match (token, file) {
        (Some(_), Some(_)) => {
            reader.problem("PRAETOR_CLUSTER_TOKEN and PRAETOR_CLUSTER_TOKEN_FILE are both set; keep one");
            return None;
        }
        (token, None) => token,
        (None, Some(file)) => match std::fs::read_to_string(&file) {
            Ok(text) => Some(Secret::new(text.trim())),
            Err(error) => {
                reader.problem(format!("PRAETOR_CLUSTER_TOKEN_FILE {} cannot be read: {error}", file.display()));
                return None;
            }
        },
    };
    if token.as_ref().is_some_and(|token| token.expose().len() < 16) {
        reader.problem("the cluster token must have at least 16 characters; `openssl rand -hex 32` makes one");
    }
    token
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// Whether an address can only be reached from this machine. A name counts when all it resolves to does; a name that
/// does not resolve does not count.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    if let Ok(ip) = host.parse::<IpAddr>() {
        return ip.is_loopback();
    }
    match address.to_socket_addrs() {
        Ok(mut found) => found.all(|found| found.ip().is_loopback()),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::reader::Variables;
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (ClusterSettings, Vec<String>) {
        let variables: Variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut reader = Reader::new(&variables);
        let settings = ClusterSettings::read(&mut reader, Path::new("/home/p"));
        (settings, reader.into_problems())
    }

    const PEERS: &str = "1=127.0.0.1:7101,2=127.0.0.1:7102,3=127.0.0.1:7103";

    #[test]
    fn a_node_listens_where_the_peers_say() {
        let (settings, problems) = read(&[("PRAETOR_NODE_ID", "2"), ("PRAETOR_CLUSTER_PEERS", PEERS)]);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(settings.listen.as_deref(), Some("127.0.0.1:7102"));
        assert_eq!(settings.data_dir, Path::new("/home/p/praetor/node-2"));
        assert!(settings.is_clustered());
        assert!(!read(&[]).0.is_clustered());
    }

    #[test]
    fn each_wrong_set_up_is_refused_with_a_sentence() {
        let token = "0123456789abcdef";
        for (pairs, part) in [
            (vec![("PRAETOR_NODE_ID", "4"), ("PRAETOR_CLUSTER_PEERS", PEERS)], "node 4 is not among the peers (1, 2, 3)"),
            (vec![("PRAETOR_CLUSTER_PEERS", "1=a:1,1=b:2,3=c:3"), ("PRAETOR_CLUSTER_TOKEN", token)], "names node 1 twice"),
            (vec![("PRAETOR_CLUSTER_PEERS", "1=a:1,2=a:1,3=c:3"), ("PRAETOR_CLUSTER_TOKEN", token)], "a:1 to two nodes"),
            (vec![("PRAETOR_CLUSTER_PEERS", "one")], "1=host:port"),
            (vec![("PRAETOR_CLUSTER_LISTEN", "0.0.0.0:7100")], "without a token"),
            (vec![("PRAETOR_CLUSTER_LISTEN", "7100")], "must be host:port"),
            (vec![("PRAETOR_CLUSTER_TOKEN", "short")], "at least 16 characters"),
            (vec![("PRAETOR_NODE_ID", "0")], "at least 1"),
            (vec![("PRAETOR_CLUSTER_ELECTION_MAX_SECONDS", "0.1")], "not above"),
        ] {
            let (_, problems) = read(&pairs);
            assert!(problems.iter().any(|problem| problem.contains(part)), "{pairs:?}: {problems:?}");
        }
        let (_, problems) = read(&[("PRAETOR_CLUSTER_LISTEN", "0.0.0.0:7100"), ("PRAETOR_CLUSTER_TOKEN", token)]);
        assert!(problems.is_empty(), "{problems:?}");
    }
}
