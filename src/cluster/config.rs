//! What a node of the group is started with, and what can go wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use subtle::ConstantTimeEq as _;

use crate::bus::rules::{Limits, Rules};
use crate::clock::Clock;

/// Exit code of a process whose log or state could not be written or flushed (`EX_IOERR` of sysexits.h). What the disk holds
/// after a failed flush cannot be known, so the process acknowledges nothing more; a restart reads back what is there.
pub const EXIT_STORAGE_FAILED: i32 = 74;

/// Ends the process, or in tests records that it would have.
pub type OnStorageFailure = Arc<dyn Fn(&str, &std::io::Error) + Send + Sync>;

/// Everything that a node of the group is started with.
#[derive(Clone)]
pub struct ClusterConfig {
    /// This node's id: never 0, unique in the group, never used again after the node was removed.
    pub node_id: u64,
    /// Where the log, the snapshots and the bus live. Belongs to one node for ever.
    pub data_dir: PathBuf,
    /// Where this node listens for the others. A group of one needs none.
    pub listen: Option<SocketAddr>,
    /// Node id to `host:port`, this node included or not: the members at the group's birth; for a node that is to join a group, itself
    /// and members of the group. Empty: a group of one.
    pub peers: BTreeMap<u64, String>,
    /// Where clients reach this node, for status pages; empty if it serves none.
    pub http_address: String,
    /// Of the program.
    pub version: String,
    /// Whether this node may lead the services.
    pub may_run_services: bool,
    /// Shared by all nodes; who does not know it is refused.
    pub token: Option<Token>,
    /// Time between two heartbeats of the leader. Default 50 ms.
    pub heartbeat: Duration,
    /// A node which hears nothing from a leader for a random time between these two asks for votes. Failover takes about the
    /// second plus one of the random times. Default 200 to 300 ms.
    pub election: (Duration, Duration),
    /// What the bus may spend on this node.
    pub bus: Limits,
    /// The bounds of the bus that this node proposes when it leads the group. They should be alike on all nodes.
    pub rules: Rules,
    /// The first time stamp of a new cluster comes from here; afterwards a leader's monotonic clock goes on.
    pub clock: Arc<dyn Clock>,
    /// Called when the disk failed. Default: log the reason, exit with [`EXIT_STORAGE_FAILED`].
    pub on_storage_failure: OnStorageFailure,
}

impl ClusterConfig {
    /// A group of one in `data_dir`, with the default times.
    pub fn new(node_id: u64, data_dir: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Self {
        Self {
            node_id,
            data_dir: data_dir.into(),
            listen: None,
            peers: BTreeMap::new(),
            http_address: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            may_run_services: true,
            token: None,
            heartbeat: Duration::from_millis(50),
            election: (Duration::from_millis(200), Duration::from_millis(300)),
            bus: Limits::default(),
            rules: Rules::GENESIS,
            clock,
            on_storage_failure: Arc::new(exit),
        }
    }

    /// All nodes of the group with their addresses, this one included.
    pub(super) fn members(&self) -> BTreeMap<u64, String> {
        let mut members = self.peers.clone();
        members.entry(self.node_id).or_insert_with(|| self.listen.map_or_else(String::new, |listen| listen.to_string()));
        members
    }

    /// # Errors
    /// [`ClusterError::Config`] with a sentence that says what to change.
    pub(super) fn validate(&self) -> Result<(), ClusterError> {
        let wrong = |what: String| Err(ClusterError::Config(what));
        if self.node_id == 0 {
            return wrong("the node id 0 is not allowed: give every node its own number, from 1 on".into());
        }
        if self.peers.contains_key(&0) {
            return wrong("the peers list a node with the id 0: give every node its own number, from 1 on".into());
        }
        let mut addresses: BTreeMap<&str, u64> = BTreeMap::new();
        for (id, address) in &self.peers {
            if let Err(what) = check_address(address) {
                return wrong(format!("the address of peer {id}, \"{address}\", {what}"));
            }
            if let Some(other) = addresses.insert(address, *id) {
                return wrong(format!("the peers {other} and {id} have the same address {address}"));
            }
        }
        if !self.peers.is_empty() && !self.peers.contains_key(&self.node_id) {
            return wrong(format!(
                "the peers do not list node {} itself: list every node of the group, with the same list on each",
                self.node_id
            ));
        }
        if self.peers.len() > 1 && self.listen.is_none() {
            return wrong("a group of several nodes needs an address for this one to listen on".into());
        }
        if let (Some(listen), None) = (self.listen, &self.token)
            && !listen.ip().is_loopback()
        {
            return wrong(format!(
                "{listen} can be reached from other machines, and no cluster token is set: whoever reaches it could join the \
                 group. Set the same token on every node, or listen on 127.0.0.1"
            ));
        }
        if let Err(what) = self.rules.check() {
            return wrong(what);
        }
        let (shortest, longest) = self.election;
        if shortest <= self.heartbeat * 2 || longest < shortest {
            return wrong("the election times must be longer than two heartbeats, and the second not shorter than the first".into());
        }
        Ok(())
    }
}

/// # Errors
/// What is wrong with it, when it is not of the form `host:port`.
pub(super) fn check_address(address: &str) -> Result<(), &'static str> {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(()),
        _ => Err("is not of the form host:port"),
    }
}

fn exit(what: &str, error: &std::io::Error) {
    tracing::error!(%error, "{what} failed; the process ends so that nothing is acknowledged which may not be on disk");
    std::process::exit(EXIT_STORAGE_FAILED);
}

/// A secret which all nodes share.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// # Errors
    /// When it could not be sent in a header: it must be printable ASCII and not empty.
    pub fn new(secret: impl Into<String>) -> Result<Self, ClusterError> {
        let secret = secret.into();
        if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ClusterError::Config("the cluster token must be printable ASCII without spaces".into()));
        }
        Ok(Self(secret))
    }

    pub(super) fn secret(&self) -> &str {
        &self.0
    }

    /// Compares in a time that does not depend on where the difference is.
    pub(super) fn matches(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why a node cannot start, or could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// It was started in a way that cannot work; the sentence says what to change.
    #[error("{0}")]
    Config(String),
    /// The data directory belongs to another node or cluster, or to a newer version.
    #[error("{0}")]
    Refused(String),
    /// The disk.
    #[error("{what}: {source}")]
    Storage {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The bus could not be opened.
    #[error(transparent)]
    State(#[from] crate::bus::state::StateError),
    /// The address could not be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// No leader, or no majority, within the time given.
    #[error("{0}")]
    Unavailable(String),
    /// This node is shutting down, or its Raft has stopped.
    #[error("this node is not part of the group any more: {0}")]
    Stopped(String),
}

impl ClusterError {
    pub(super) fn storage(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Storage { what, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn config() -> ClusterConfig {
        ClusterConfig {
            listen: Some("127.0.0.1:7101".parse().expect("an address")),
            peers: BTreeMap::from([1, 2, 3].map(|id| (id, format!("127.0.0.1:710{id}")))),
            ..ClusterConfig::new(1, "unused", Arc::new(SystemClock))
        }
    }

    fn sentence(change: impl FnOnce(&mut ClusterConfig)) -> String {
        let mut config = config();
        change(&mut config);
        config.validate().expect_err("refused").to_string()
    }

    #[test]
    fn a_good_configuration_passes() {
        config().validate().expect("good");
        ClusterConfig::new(1, "unused", Arc::new(SystemClock)).validate().expect("a group of one");
    }

    #[test]
    fn a_wrong_one_is_refused_with_what_to_change() {
        assert!(sentence(|config| config.node_id = 0).contains("from 1 on"));
        assert!(sentence(|config| config.node_id = 9).contains("do not list node 9"));
        assert!(sentence(|config| config.listen = None).contains("needs an address"));
        assert!(sentence(|config| config.listen = Some("0.0.0.0:1".parse().expect("an address"))).contains("token"));
        assert!(sentence(|config| drop(config.peers.insert(2, "127.0.0.1:7101".into()))).contains("same address"));
        assert!(sentence(|config| drop(config.peers.insert(2, "nowhere".into()))).contains("host:port"));
        assert!(sentence(|config| config.election.1 = config.election.0 / 2).contains("election"));
    }

    #[test]
    fn a_token_opens_other_interfaces_and_hides_itself() {
        let token = Token::new("s3cret").expect("printable");
        assert!(token.matches("s3cret") && !token.matches("s3cre") && !token.matches("S3cret"));
        assert!(!format!("{token:?}").contains("s3cret"));
        assert!(Token::new("with space").is_err());
        let config = ClusterConfig { listen: Some("0.0.0.0:7101".parse().expect("an address")), token: Some(token), ..config() };
        config.validate().expect("good");
    }
}
