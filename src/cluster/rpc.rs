//! What other nodes may ask of this one.
//!
//! Every call passes [`Peers::admit`] first: the token, the cluster's id, and both node ids. Only the two calls of the
//! bootstrap may come before there is a cluster.
//!
//! [`Peers::admit`]: super::peers::Peers::admit

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use openraft::raft::{StreamAppendError, TransferLeaderRequest};
use openraft::storage::Snapshot;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::convert::{self, Malformed};
use super::core::Core;
use super::peers::Scope;
use super::snapshots::SnapshotFolder;
use super::status;
use super::types::{Vote, cluster_pb, raft_pb};
use super::{forward, leadership, limits, membership};
use crate::task;

/// Serves the other nodes until the node stops.
pub(super) async fn serve<IO>(core: Arc<Core>, incoming: impl Stream<Item = io::Result<IO>>)
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let service = Service { core: core.clone(), forwarded: Arc::new(Semaphore::new(limits::FORWARDED_BYTES)) };
    let raft = raft_pb::raft_server::RaftServer::new(service.clone())
        .max_decoding_message_size(limits::PEER_MESSAGE_BYTES)
        .max_encoding_message_size(limits::PEER_MESSAGE_BYTES);
    let cluster = cluster_pb::cluster_server::ClusterServer::new(service)
        .max_decoding_message_size(limits::PEER_MESSAGE_BYTES)
        .max_encoding_message_size(limits::PEER_MESSAGE_BYTES);
    let served = tonic::transport::Server::builder()
        .initial_stream_window_size(limits::PEER_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::PEER_CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(limits::PEER_STALL))
        .http2_keepalive_timeout(Some(limits::PEER_STALL))
        .http2_max_pending_accept_reset_streams(Some(limits::PEER_GIVEN_UP))
        .add_service(raft)
        .add_service(cluster)
        .serve_with_incoming(incoming);
    if let Err(error) = served.await {
        core.set_unfit(format!("the listener for the other nodes has failed: {error}"));
    }
}

#[derive(Clone)]
struct Service {
    core: Arc<Core>,
    /// Bytes of forwarded batches in flight.
    forwarded: Arc<Semaphore>,
}

impl Service {
    fn admit<T>(&self, request: &Request<T>, scope: Scope) -> Result<u64, Status> {
        // Connections outlive the listener by a little; a call to a Raft that has stopped would be logged as an error.
        if self.core.tasks.stopping().is_cancelled() {
            return Err(Status::unavailable("this node is stopping"));
        }
        let from = self.core.peers.admit(request.metadata(), scope).inspect_err(|status| {
            tracing::warn!(from = ?request.remote_addr(), "a call of another node was refused: {}", status.message());
        })?;
        if scope == Scope::Member && self.core.reader.cluster().borrow().removed.contains(&from) {
            return Err(Status::permission_denied(removed(from)));
        }
        Ok(from)
    }
}

/// What a node is told that was removed.
pub(super) fn removed(id: u64) -> String {
    format!(
        "node {id} was removed from this group, and its id is never used again: stop it, or start it with an empty data directory and a \
         new id, and add it"
    )
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this node's Raft has stopped: {error}"))
}

#[tonic::async_trait]
impl raft_pb::raft_server::Raft for Service {
    type AppendStream = BoxStream<'static, Result<raft_pb::AppendReply, Status>>;

    async fn append(&self, request: Request<Streaming<raft_pb::AppendRequest>>) -> Result<Response<Self::AppendStream>, Status> {
        self.admit(&request, Scope::Member)?;
        // The stream ends with this node's work, not with its connection: what comes to a Raft that has stopped would be
        // logged as an error.
        let stopping = self.core.tasks.stopping();
        let requests = request.into_inner().map_while_ok().take_until(stopping.clone().cancelled_owned());
        let core = self.core.clone();
        let answers = self.core.raft.stream_append(requests).map(move |answer| match answer {
            Ok(result) => {
                if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
                    core.contact.touch();
                }
                Ok(convert::append_result_to_wire(&result))
            }
            Err(fatal) => Err(stopped(fatal)),
        });
        let answers = answers.take_until(stopping.cancelled_owned());
        Ok(Response::new(answers.boxed()))
    }

    async fn heartbeat(&self, request: Request<raft_pb::AppendRequest>) -> Result<Response<raft_pb::AppendReply>, Status> {
        self.admit(&request, Scope::Member)?;
        let append = convert::append_from_wire(request.into_inner())?;
        let previous = append.prev_log_id;
        let last = append.entries.last().map(|entry| entry.log_id).or(previous);
        let reply = self.core.raft.append_entries(append).await.map_err(stopped)?;
        let result = match reply {
            openraft::raft::AppendEntriesResponse::Success => Ok(last),
            openraft::raft::AppendEntriesResponse::PartialSuccess(matching) => Ok(matching),
            openraft::raft::AppendEntriesResponse::Conflict => {
                Err(StreamAppendError::Conflict(previous.ok_or_else(|| Status::internal("a conflict at the log's start"))?))
            }
            openraft::raft::AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
        };
        if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
            self.core.contact.touch();
        }
        Ok(Response::new(convert::append_result_to_wire(&result)))
    }

    async fn pre_vote(&self, request: Request<raft_pb::VoteRequest>) -> Result<Response<raft_pb::VoteReply>, Status> {
        self.admit(&request, Scope::Member)?;
        let vote = convert::vote_request_from_wire(&request.into_inner())?;
        let reply = self.core.raft.pre_vote(vote).await.map_err(stopped)?;
        Ok(Response::new(convert::vote_reply_to_wire(&reply)))
    }

    async fn vote(&self, request: Request<raft_pb::VoteRequest>) -> Result<Response<raft_pb::VoteReply>, Status> {
        self.admit(&request, Scope::Member)?;
        let vote = convert::vote_request_from_wire(&request.into_inner())?;
        let reply = self.core.raft.vote(vote).await.map_err(stopped)?;
        Ok(Response::new(convert::vote_reply_to_wire(&reply)))
    }

    async fn transfer_leader(&self, request: Request<raft_pb::TransferRequest>) -> Result<Response<raft_pb::TransferReply>, Status> {
        self.admit(&request, Scope::Member)?;
        let request = request.into_inner();
        let from = request.from.as_ref().map(convert::vote_from_wire).ok_or(Malformed("a vote"))?;
        let transfer = TransferLeaderRequest::new(from, request.to, request.last.as_ref().map(convert::log_id_from_wire));
        let refusal = match self.core.raft.handle_transfer_leader(transfer).await.map_err(stopped)? {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        Ok(Response::new(raft_pb::TransferReply { refusal }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<raft_pb::SnapshotPart>>,
    ) -> Result<Response<raft_pb::SnapshotReply>, Status> {
        self.admit(&request, Scope::Member)?;
        let (vote, folder) = receive_snapshot(&self.core, request.into_inner()).await?;
        self.core.contact.touch();
        let snapshot = Snapshot { meta: folder.meta().clone(), snapshot: Arc::new(folder) };
        let reply = self.core.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        Ok(Response::new(raft_pb::SnapshotReply { vote: Some(convert::vote_to_wire(&reply.vote)) }))
    }
}

/// Ends a stream at its first error.
trait MapWhileOk {
    fn map_while_ok(self) -> impl Stream<Item = openraft::raft::AppendEntriesRequest<super::types::TypeConfig>> + Send + 'static;
}

impl MapWhileOk for Streaming<raft_pb::AppendRequest> {
    fn map_while_ok(self) -> impl Stream<Item = openraft::raft::AppendEntriesRequest<super::types::TypeConfig>> + Send + 'static {
        futures_util::stream::unfold(self, |mut requests| async move {
            let request = requests.message().await.ok()??;
            match convert::append_from_wire(request) {
                Ok(request) => Some((request, requests)),
                Err(error) => {
                    tracing::error!(%error, "the leader sent an append that cannot be read; the stream is ended");
                    None
                }
            }
        })
    }
}

/// Writes what arrives into a folder of its own, checking every block.
async fn receive_snapshot(core: &Core, mut parts: Streaming<raft_pb::SnapshotPart>) -> Result<(Vote, SnapshotFolder), Status> {
    use raft_pb::snapshot_part::Part;
    let failed = |error: io::Error| Status::internal(format!("the snapshot could not be stored: {error}"));
    let bad = |what: &str| Status::data_loss(format!("the snapshot arrived damaged: {what}"));
    let Some(Part::Head(head)) = parts.message().await?.and_then(|part| part.part) else {
        return Err(bad("it has no head"));
    };
    let vote = head.vote.as_ref().map(convert::vote_from_wire).ok_or(Malformed("a vote"))?;
    let manifest = head.manifest.ok_or(Malformed("a manifest"))?;
    let path = core.snapshots.begin().map_err(failed)?;
    // From here on the folder is removed if anything goes wrong.
    let folder = SnapshotFolder::staged(path, manifest).map_err(failed)?;
    for (number, file) in folder.manifest().files.iter().enumerate() {
        let target = folder.path().join(&file.name);
        let mut output = task::blocking(move || File::create(target)).await.flatten().map_err(failed)?;
        let mut written = 0;
        while written < file.length {
            let Some(Part::Block(block)) = parts.message().await?.and_then(|part| part.part) else {
                return Err(bad("it ends early"));
            };
            if block.file as usize != number || block.offset != written || block.data.is_empty() {
                return Err(bad("a block is out of order"));
            }
            if crc32fast::hash(&block.data) != block.checksum {
                return Err(bad("a block's checksum does not match"));
            }
            written += block.data.len() as u64;
            let write = move || output.write_all(&block.data).map(|()| output);
            output = task::blocking(write).await.flatten().map_err(failed)?;
        }
        if written != file.length {
            return Err(bad("a file is longer than announced"));
        }
        task::blocking(move || output.sync_all()).await.flatten().map_err(failed)?;
    }
    Ok((vote, folder))
}

#[tonic::async_trait]
impl cluster_pb::cluster_server::Cluster for Service {
    type ForwardStream = BoxStream<'static, Result<cluster_pb::ForwardReply, Status>>;

    async fn forward(&self, request: Request<Streaming<cluster_pb::ForwardRequest>>) -> Result<Response<Self::ForwardStream>, Status> {
        self.admit(&request, Scope::Member)?;
        let replies = forward::serve(self.core.clone(), self.forwarded.clone(), request.into_inner());
        Ok(Response::new(replies.boxed()))
    }

    type FollowLogsStream = BoxStream<'static, Result<cluster_pb::LogBatch, Status>>;

    async fn follow_logs(&self, request: Request<cluster_pb::FollowLogsRequest>) -> Result<Response<Self::FollowLogsStream>, Status> {
        self.admit(&request, Scope::Member)?;
        let batches = self.core.logs.for_follower().take_until(self.core.tasks.stopping().cancelled_owned());
        Ok(Response::new(batches.boxed()))
    }

    async fn read_index(&self, request: Request<cluster_pb::ReadIndexRequest>) -> Result<Response<cluster_pb::ReadIndexReply>, Status> {
        self.admit(&request, Scope::Member)?;
        let index = self.core.read_index().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(cluster_pb::ReadIndexReply { index }))
    }

    async fn hello(&self, request: Request<cluster_pb::HelloRequest>) -> Result<Response<cluster_pb::HelloReply>, Status> {
        self.admit(&request, Scope::Bootstrap)?;
        Ok(Response::new(cluster_pb::HelloReply {
            node_id: self.core.node_id(),
            cluster_id: self.core.identity.cluster_id().map(|id| id.to_string()).unwrap_or_default(),
            initialized: !self.core.log.is_pristine(),
            peers: self.core.config.members().into_iter().collect(),
            members: self.core.metrics().membership_config.nodes().map(|(id, node)| (*id, node.address.clone())).collect(),
            removed: self.core.reader.cluster().borrow().removed.iter().copied().collect(),
        }))
    }

    async fn adopt(&self, request: Request<cluster_pb::AdoptRequest>) -> Result<Response<cluster_pb::AdoptReply>, Status> {
        let from = self.admit(&request, Scope::Bootstrap)?;
        let request = request.into_inner();
        let theirs: BTreeMap<u64, String> = request.peers.into_iter().collect();
        if !request.join && theirs != self.core.config.members() {
            return Err(Status::failed_precondition(format!(
                "node {} was started with another list of peers than node {from}",
                self.core.node_id()
            )));
        }
        let id: Uuid = request.cluster_id.parse().map_err(|_| Status::invalid_argument("the cluster's id is no UUID"))?;
        self.core.identity.adopt(id).map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(cluster_pb::AdoptReply {}))
    }

    async fn change_members(
        &self,
        request: Request<cluster_pb::ChangeMembersRequest>,
    ) -> Result<Response<cluster_pb::ChangeMembersReply>, Status> {
        self.admit(&request, Scope::Member)?;
        let change = membership::change_from_wire(request.into_inner())?;
        let deadline = Instant::now() + limits::MEMBER_CHANGE;
        // In a task of its own: it goes on when whoever asked goes away.
        let core = self.core.clone();
        let making = self.core.tasks.spawn("cluster.members", async move { membership::change_here(&core, &change, deadline).await });
        match making.await.ok().flatten() {
            Some(result) => result.map_err(|error| membership::error_to_wire(&error))?,
            None => return Err(Status::unavailable("this node is stopping")),
        }
        Ok(Response::new(cluster_pb::ChangeMembersReply {}))
    }

    async fn probe(&self, request: Request<cluster_pb::ProbeRequest>) -> Result<Response<cluster_pb::ProbeReply>, Status> {
        self.admit(&request, Scope::Member)?;
        Ok(Response::new(status::probe_reply(&self.core)))
    }

    async fn transfer_leader(
        &self,
        request: Request<cluster_pb::TransferLeaderRequest>,
    ) -> Result<Response<cluster_pb::TransferLeaderReply>, Status> {
        self.admit(&request, Scope::Member)?;
        leadership::transfer_here(&self.core, request.into_inner().to)
            .await
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(cluster_pb::TransferLeaderReply {}))
    }
}
