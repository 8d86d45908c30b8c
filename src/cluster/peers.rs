//! Connections to the other nodes, and the names that every call carries.
//!
//! Kinds of traffic do not share a connection, so that a snapshot or a big append never delays a heartbeat. A call carries
//! the cluster's id, the sender and the node it is meant for; a node that is not meant refuses it. Without this a wrong
//! address in a configuration would make two groups talk to each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use uuid::Uuid;

use super::config::Token;
use super::identity::Identity;
use super::limits;

const CLUSTER: &str = "praetor-cluster";
const FROM: &str = "praetor-from";
const TO: &str = "praetor-to";
const AUTHORIZATION: &str = "authorization";

/// Which connection a call travels on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Line {
    /// Votes, heartbeats, hand-over: small and urgent.
    Control,
    /// Log entries.
    Append,
    /// Snapshots.
    Snapshot,
    /// Everything that is not Raft's own.
    Service,
}

/// How strict [`Peers::admit`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// From a member of this cluster.
    Member,
    /// Before there is a cluster: the token and the ids must match, the cluster's id cannot.
    Bootstrap,
}

/// How connections are made.
pub(super) trait Dial: Send + Sync {
    /// A connection that is made when the first call needs it, and again after it broke.
    fn channel(&self, endpoint: &Endpoint) -> Channel;
}

/// Connections over the network of this machine.
pub(super) struct Tcp;

impl Dial for Tcp {
    fn channel(&self, endpoint: &Endpoint) -> Channel {
        endpoint.connect_lazy()
    }
}

/// This node among the others.
#[derive(Clone)]
pub(super) struct Peers {
    identity: Arc<Identity>,
    token: Option<Token>,
    dial: Arc<dyn Dial>,
    channels: Arc<Mutex<BTreeMap<(String, Line), Channel>>>,
}

impl Peers {
    pub(super) fn new(identity: Arc<Identity>, token: Option<Token>, dial: Arc<dyn Dial>) -> Self {
        Self { identity, token, dial, channels: Arc::default() }
    }

    pub(super) fn node_id(&self) -> u64 {
        self.identity.node_id()
    }

    /// The connection to `address` for `line`; made when the first call needs it.
    pub(super) fn channel(&self, address: &str, line: Line) -> Result<Channel, Status> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&(address.to_owned(), line)) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Status::invalid_argument(format!("\"{address}\" is no address: {error}")))?
            .tcp_nodelay(true)
            .connect_timeout(limits::PEER_CONNECT)
            .initial_stream_window_size(limits::PEER_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::PEER_CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(limits::PEER_STALL)
            .keep_alive_timeout(limits::PEER_STALL);
        let channel = self.dial.channel(&endpoint);
        channels.insert((address.to_owned(), line), channel.clone());
        Ok(channel)
    }

    /// A call to node `to`, with the names that it must carry.
    pub(super) fn request<T>(&self, to: u64, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        let mut set = |name: &'static str, value: String| {
            let value = AsciiMetadataValue::try_from(value).expect("numbers, UUIDs and tokens are printable ASCII");
            metadata.insert(name, value);
        };
        set(FROM, self.node_id().to_string());
        set(TO, to.to_string());
        if let Some(cluster) = self.identity.cluster_id() {
            set(CLUSTER, cluster.to_string());
        }
        if let Some(token) = &self.token {
            set(AUTHORIZATION, format!("Bearer {}", token.secret()));
        }
        request
    }

    /// Lets a call in, and says who sent it.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` without the token, `FAILED_PRECONDITION` when it is not meant for this node of this cluster.
    pub(super) fn admit(&self, metadata: &MetadataMap, scope: Scope) -> Result<u64, Status> {
        let get = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
        if let Some(token) = &self.token {
            let given = get(AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
            if !given.is_some_and(|given| token.matches(given)) {
                return Err(Status::unauthenticated("the cluster token is missing or wrong"));
            }
        }
        let id = |name: &str| get(name).and_then(|value| value.parse::<u64>().ok());
        let me = self.node_id();
        match id(TO) {
            Some(to) if to == me => {}
            Some(to) => {
                return Err(Status::failed_precondition(format!(
                    "this is node {me}, and the call is meant for node {to}: the addresses of the peers are mixed up"
                )));
            }
            None => return Err(Status::failed_precondition("the call does not say for whom it is meant")),
        }
        let from = id(FROM).ok_or_else(|| Status::failed_precondition("the call does not say who sent it"))?;
        if from == me {
            return Err(Status::failed_precondition(format!("two nodes have the id {me}")));
        }
        if scope == Scope::Member {
            let theirs = get(CLUSTER).and_then(|value| value.parse::<Uuid>().ok());
            let mine = self.identity.cluster_id();
            if mine.is_none() || theirs != mine {
                let show = |id: Option<Uuid>| id.map_or_else(|| "none yet".to_owned(), |id| id.to_string());
                return Err(Status::failed_precondition(format!(
                    "node {me} belongs to cluster {}, the caller to {}",
                    show(mine),
                    show(theirs)
                )));
            }
        }
        Ok(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(folder: &std::path::Path, id: u64, cluster: Option<u128>, token: Option<&str>) -> Peers {
        let identity = Identity::open(&folder.join(id.to_string()), id).expect("new");
        if let Some(cluster) = cluster {
            identity.adopt(Uuid::from_u128(cluster)).expect("free");
        }
        Peers::new(Arc::new(identity), token.map(|token| Token::new(token).expect("printable")), Arc::new(Tcp))
    }

    #[test]
    fn only_calls_that_are_meant_get_in() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let one = peers(temp.path(), 1, Some(7), None);
        let two = peers(temp.path(), 2, Some(7), None);
        let stranger = peers(temp.path(), 3, Some(8), None);
        let fresh = peers(temp.path(), 4, None, None);
        let code =
            |from: &Peers, to: u64, at: &Peers, scope| at.admit(from.request(to, ()).metadata(), scope).map_err(|status| status.code());
        assert_eq!(code(&one, 2, &two, Scope::Member), Ok(1));
        assert_eq!(code(&one, 3, &two, Scope::Member), Err(tonic::Code::FailedPrecondition), "another node is meant");
        assert_eq!(code(&stranger, 2, &two, Scope::Member), Err(tonic::Code::FailedPrecondition), "another cluster");
        assert_eq!(code(&fresh, 2, &two, Scope::Member), Err(tonic::Code::FailedPrecondition), "no cluster yet");
        assert_eq!(code(&fresh, 2, &two, Scope::Bootstrap), Ok(4));
        assert_eq!(code(&one, 4, &fresh, Scope::Member), Err(tonic::Code::FailedPrecondition), "not taken in yet");
        assert_eq!(code(&two, 2, &two, Scope::Member), Err(tonic::Code::FailedPrecondition), "an id used twice");
    }

    #[test]
    fn strangers_without_the_token_stay_out() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let two = peers(temp.path(), 2, Some(7), Some("right"));
        for (id, token, expected) in
            [(1, None, Err(tonic::Code::Unauthenticated)), (3, Some("wrong"), Err(tonic::Code::Unauthenticated)), (4, Some("right"), Ok(4))]
        {
            let caller = peers(temp.path(), id, Some(7), token);
            let result = two.admit(caller.request(2, ()).metadata(), Scope::Member);
            assert_eq!(result.map_err(|status| status.code()), expected);
        }
    }
}
