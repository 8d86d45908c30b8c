//! What Raft sends to the other nodes.
//!
//! Appends are pipelined on one stream to each follower; heartbeats are single calls on a connection of their own. Every call
//! keeps to the time that openraft gives it. A node that cannot be reached is an error, never an answer: an invented grant of
//! a pre-vote would let a node which is cut off disturb the group.

use std::fs::File;
use std::future::Future;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use openraft::base::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{OptionalSend, RPCTypes};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::convert::{self, Malformed};
use super::limits;
use super::peers::{Line, Peers};
use super::snapshots::SnapshotFolder;
use super::types::{PeerNode, TypeConfig, Vote, raft_pb as pb};
use crate::task;
use pb::raft_client::RaftClient;

type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;

/// Makes the connections that openraft asks for.
pub(super) struct NetworkFactory {
    pub peers: Peers,
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &PeerNode) -> Network {
        Network { peers: self.peers.clone(), target, address: node.address.clone(), heartbeat: false }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &PeerNode) -> Network {
        Network { heartbeat: true, ..self.new_client(target, node).await }
    }
}

/// Raft's way to one other node.
pub(super) struct Network {
    peers: Peers,
    target: u64,
    address: String,
    heartbeat: bool,
}

impl Network {
    fn client(&self, line: Line) -> Result<RaftClient<Channel>, RPCError<TypeConfig>> {
        let channel = self.peers.channel(&self.address, line).map_err(|status| rpc_error(&status))?;
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(limits::PEER_MESSAGE_BYTES)
            .max_encoding_message_size(limits::PEER_MESSAGE_BYTES))
    }

    /// Waits for an answer, within `limit`.
    async fn within<T>(
        &self,
        action: RPCTypes,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RPCError<TypeConfig>> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(rpc_error(&status)),
            Err(_) => Err(self.timed_out(action, limit)),
        }
    }

    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> RPCError<TypeConfig> {
        RPCError::Timeout(Timeout { action, id: self.peers.node_id(), target: self.target, timeout })
    }

    async fn append_stream<S>(
        &mut self,
        input: S,
    ) -> Result<BoxStream<'_, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let unanswered = Arc::new(AtomicU64::new(0));
        let sent = unanswered.clone();
        let requests = input.map(move |request| {
            sent.fetch_add(1, Ordering::Relaxed);
            convert::append_to_wire(request)
        });
        let mut client = self.client(Line::Append)?;
        let call = client.append(self.peers.request(self.target, requests));
        let replies = self.within(RPCTypes::AppendEntries, limits::PEER_STALL, call).await?;
        let this = &*self;
        let answers = futures_util::stream::unfold(Some(replies), move |replies| {
            let unanswered = unanswered.clone();
            async move {
                let mut replies = replies?;
                let reply = this.next_answer(&mut replies, &unanswered).await;
                match reply {
                    Ok(Some(answer)) => Some((Ok(answer), Some(replies))),
                    Ok(None) => None,
                    Err(error) => Some((Err(error), None)),
                }
            }
        });
        Ok(answers.boxed())
    }

    /// The next answer on a stream of appends. Silence is an error only while something is unanswered.
    async fn next_answer(
        &self,
        replies: &mut tonic::Streaming<pb::AppendReply>,
        unanswered: &AtomicU64,
    ) -> Result<Option<StreamAppendResult<TypeConfig>>, RPCError<TypeConfig>> {
        loop {
            let waiting = unanswered.load(Ordering::Relaxed) > 0;
            match tokio::time::timeout(limits::PEER_STALL, replies.message()).await {
                Ok(Ok(Some(reply))) => {
                    unanswered.fetch_sub(1, Ordering::Relaxed);
                    return convert::append_result_from_wire(reply).map(Some).map_err(|error| malformed(&error));
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(status)) => return Err(rpc_error(&status)),
                Err(_) if waiting => return Err(self.timed_out(RPCTypes::AppendEntries, limits::PEER_STALL)),
                Err(_) => {}
            }
        }
    }
}

fn rpc_error(status: &Status) -> RPCError<TypeConfig> {
    match status.code() {
        // Nobody there, or somebody who will not talk to us: wait before trying again.
        Code::Unavailable | Code::FailedPrecondition | Code::Unauthenticated | Code::InvalidArgument => {
            RPCError::Unreachable(Unreachable::from_string(status.message()))
        }
        _ => RPCError::Network(NetworkError::from_string(format!("{:?}: {}", status.code(), status.message()))),
    }
}

fn malformed(error: &Malformed) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(error))
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = Arc<SnapshotFolder>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = self.peers.request(self.target, convert::append_to_wire(request));
        let mut client = self.client(Line::Control)?;
        let reply = self.within(RPCTypes::AppendEntries, option.soft_ttl(), client.heartbeat(request)).await?;
        Ok(match convert::append_result_from_wire(reply).map_err(|error| malformed(&error))? {
            Ok(_) => AppendEntriesResponse::Success,
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    #[expect(clippy::elidable_lifetime_names, reason = "as openraft's trait has it")]
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.heartbeat {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            let opened = self.append_stream(input).await;
            if opened.is_err() {
                // openraft waits inside of a stream of requests only, so without a pause here it asks a node that is away
                // thousands of times a second.
                tokio::time::sleep(limits::PEER_RETRY).await;
            }
            opened
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = self.peers.request(self.target, convert::vote_request_to_wire(&request));
        let mut client = self.client(Line::Control)?;
        let reply = self.within(RPCTypes::Vote, option.soft_ttl(), client.vote(request)).await?;
        convert::vote_reply_from_wire(&reply).map_err(|error| malformed(&error))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = self.peers.request(self.target, convert::vote_request_to_wire(&request));
        let mut client = self.client(Line::Control)?;
        let reply = self.within(RPCTypes::Vote, option.soft_ttl(), client.pre_vote(request)).await?;
        convert::vote_reply_from_wire(&reply).map_err(|error| malformed(&error))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let wire = pb::TransferRequest {
            from: Some(convert::vote_to_wire(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(convert::log_id_to_wire),
        };
        let mut client = self.client(Line::Control)?;
        let call = client.transfer_leader(self.peers.request(self.target, wire));
        let reply = self.within(RPCTypes::TransferLeader, option.soft_ttl(), call).await?;
        if reply.refusal.is_empty() { Ok(Ok(())) } else { Err(RPCError::Network(NetworkError::from_string(reply.refusal))) }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<CommittedLeaderId, u64, PeerNode, Arc<SnapshotFolder>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let parts = snapshot_parts(&vote, snapshot.snapshot);
        let mut client = self.client(Line::Snapshot)?;
        let call = client.install_snapshot(self.peers.request(self.target, parts));
        let reply = tokio::select! {
            biased;
            reply = self.within(RPCTypes::InstallSnapshot, option.soft_ttl(), call) => reply?,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        let vote = reply.vote.as_ref().map(convert::vote_from_wire).ok_or(Malformed("a vote"));
        Ok(SnapshotResponse::new(vote.map_err(|error| StreamingError::from(malformed(&error)))?))
    }

    fn backoff(&self) -> Option<Backoff> {
        // A node that comes back should be noticed at once; asking costs a refused connection.
        Some(Backoff::new(std::iter::repeat(limits::PEER_RETRY)))
    }
}

/// The snapshot as blocks, read as the network takes them.
fn snapshot_parts(vote: &Vote, folder: Arc<SnapshotFolder>) -> impl Stream<Item = pb::SnapshotPart> + Send + 'static {
    let head = pb::SnapshotHead { vote: Some(convert::vote_to_wire(vote)), manifest: Some(folder.manifest().clone()) };
    let head = pb::SnapshotPart { part: Some(pb::snapshot_part::Part::Head(head)) };
    let blocks = futures_util::stream::unfold(Blocks { folder, number: 0, offset: 0, open: None }, |mut blocks| async move {
        let path = blocks.folder.path().to_owned();
        let read = task::blocking(move || blocks.next().map(|block| block.map(|block| (block, blocks)))).await.flatten();
        match read {
            Ok(next) => next,
            Err(error) => {
                // The stream ends early and the receiver refuses what it has.
                tracing::error!(path = %path.display(), %error, "a snapshot could not be read to be sent");
                None
            }
        }
    });
    futures_util::stream::once(std::future::ready(head)).chain(blocks)
}

/// Where the sender of a snapshot is.
struct Blocks {
    folder: Arc<SnapshotFolder>,
    /// Of the file, in the manifest.
    number: usize,
    offset: u64,
    open: Option<File>,
}

impl Blocks {
    fn next(&mut self) -> std::io::Result<Option<pb::SnapshotPart>> {
        loop {
            let Some(file) = self.folder.manifest().files.get(self.number) else { return Ok(None) };
            if self.offset == file.length {
                (self.number, self.offset, self.open) = (self.number + 1, 0, None);
                continue;
            }
            let open = match &mut self.open {
                Some(open) => open,
                None => self.open.insert(File::open(self.folder.path().join(&file.name))?),
            };
            let size = (limits::SNAPSHOT_BLOCK_BYTES as u64).min(file.length - self.offset);
            let mut data = Vec::with_capacity(size as usize);
            open.take(size).read_to_end(&mut data)?;
            if data.is_empty() {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
            }
            let block =
                pb::SnapshotBlock { file: self.number as u32, offset: self.offset, checksum: crc32fast::hash(&data), data: data.into() };
            self.offset += block.data.len() as u64;
            return Ok(Some(pb::SnapshotPart { part: Some(pb::snapshot_part::Part::Block(block)) }));
        }
    }
}
