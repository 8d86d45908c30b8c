//! Between the wire types and openraft's. Nothing here decides anything.
//!
//! A field that the sender must set and did not is an error, never a default: the call is refused.

use std::collections::{BTreeMap, BTreeSet};

use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse};
use openraft::vote::RaftLeaderId as _;

use super::types::{
    Entry, EntryPayload, LogId, Membership, PeerNode, Proposal, SnapshotMeta, StoredMembership, TypeConfig, Vote, raft_pb as pb,
};

/// The message lacks what it must have, or has what cannot be.
#[derive(Debug, thiserror::Error)]
#[error("a message from another node lacks {0}")]
pub(super) struct Malformed(pub &'static str);

impl From<Malformed> for tonic::Status {
    fn from(error: Malformed) -> Self {
        tonic::Status::invalid_argument(error.to_string())
    }
}

type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;

pub(super) fn log_id_to_wire(id: &LogId) -> pb::LogId {
    pb::LogId { term: id.leader_id.term, node_id: id.leader_id.node_id, index: id.index }
}

pub(super) fn log_id_from_wire(id: &pb::LogId) -> LogId {
    LogId { leader_id: LeaderId::new(id.term, id.node_id), index: id.index }
}

pub(super) fn vote_to_wire(vote: &Vote) -> pb::Vote {
    pb::Vote { term: vote.leader_id.term, node_id: vote.leader_id.node_id, committed: vote.committed }
}

pub(super) fn vote_from_wire(vote: &pb::Vote) -> Vote {
    Vote { leader_id: LeaderId::new(vote.term, vote.node_id), committed: vote.committed }
}

pub(super) fn membership_to_wire(membership: &Membership) -> pb::Membership {
    pb::Membership {
        configs: membership.get_joint_config().iter().map(|voters| pb::Voters { node_ids: voters.iter().copied().collect() }).collect(),
        nodes: membership.nodes().map(|(id, node)| (*id, pb::Node { address: node.address.clone() })).collect(),
    }
}

pub(super) fn membership_from_wire(membership: pb::Membership) -> Result<Membership, Malformed> {
    let configs: Vec<BTreeSet<u64>> = membership.configs.into_iter().map(|voters| voters.node_ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, PeerNode> = membership.nodes.into_iter().map(|(id, node)| (id, PeerNode { address: node.address })).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|_| Malformed("a voter's address"))
}

pub(super) fn stored_membership_to_wire(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership { log_id: stored.log_id().as_ref().map(log_id_to_wire), membership: Some(membership_to_wire(stored.membership())) }
}

pub(super) fn stored_membership_from_wire(stored: pb::StoredMembership) -> Result<StoredMembership, Malformed> {
    let membership = membership_from_wire(stored.membership.ok_or(Malformed("a membership"))?)?;
    Ok(StoredMembership::new(stored.log_id.as_ref().map(log_id_from_wire), membership))
}

pub(super) fn snapshot_meta_to_wire(meta: &SnapshotMeta) -> pb::SnapshotMeta {
    pb::SnapshotMeta {
        last: meta.last_log_id.as_ref().map(log_id_to_wire),
        membership: Some(stored_membership_to_wire(&meta.last_membership)),
    }
}

pub(super) fn snapshot_meta_from_wire(meta: pb::SnapshotMeta) -> Result<SnapshotMeta, Malformed> {
    Ok(SnapshotMeta {
        last_log_id: meta.last.as_ref().map(log_id_from_wire),
        last_membership: stored_membership_from_wire(meta.membership.ok_or(Malformed("a snapshot's membership"))?)?,
    })
}

pub(super) fn entry_to_wire(entry: Entry) -> pb::Entry {
    let payload = match entry.payload {
        EntryPayload::Blank => pb::entry::Payload::Blank(pb::Blank {}),
        EntryPayload::Normal(Proposal(batch)) => pb::entry::Payload::Batch(batch),
        EntryPayload::Membership(membership) => pb::entry::Payload::Membership(membership_to_wire(&membership)),
    };
    pb::Entry { log_id: Some(log_id_to_wire(&entry.log_id)), payload: Some(payload) }
}

pub(super) fn entry_from_wire(entry: pb::Entry) -> Result<Entry, Malformed> {
    let log_id = entry.log_id.as_ref().map(log_id_from_wire).ok_or(Malformed("an entry's log id"))?;
    let payload = match entry.payload.ok_or(Malformed("an entry's payload"))? {
        pb::entry::Payload::Blank(_) => EntryPayload::Blank,
        pb::entry::Payload::Batch(batch) => EntryPayload::Normal(Proposal(batch)),
        pb::entry::Payload::Membership(membership) => EntryPayload::Membership(membership_from_wire(membership)?),
    };
    Ok(Entry { log_id, payload })
}

pub(super) fn append_to_wire(request: AppendEntriesRequest<TypeConfig>) -> pb::AppendRequest {
    pb::AppendRequest {
        vote: Some(vote_to_wire(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_to_wire),
        entries: request.entries.into_iter().map(entry_to_wire).collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_wire),
    }
}

pub(super) fn append_from_wire(request: pb::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    Ok(AppendEntriesRequest {
        vote: request.vote.as_ref().map(vote_from_wire).ok_or(Malformed("a vote"))?,
        prev_log_id: request.previous.as_ref().map(log_id_from_wire),
        entries: request.entries.into_iter().map(entry_from_wire).collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.as_ref().map(log_id_from_wire),
    })
}

pub(super) fn append_result_to_wire(result: &StreamAppendResult<TypeConfig>) -> pb::AppendReply {
    use pb::append_reply::{Accepted, Conflict, Outcome};
    let outcome = match result {
        Ok(last) => Outcome::Accepted(Accepted { last: last.as_ref().map(log_id_to_wire) }),
        Err(StreamAppendError::Conflict(log_id)) => Outcome::Conflict(Conflict { log_id: Some(log_id_to_wire(log_id)) }),
        Err(StreamAppendError::HigherVote(vote)) => Outcome::HigherVote(vote_to_wire(vote)),
    };
    pb::AppendReply { outcome: Some(outcome) }
}

pub(super) fn append_result_from_wire(reply: pb::AppendReply) -> Result<StreamAppendResult<TypeConfig>, Malformed> {
    use pb::append_reply::Outcome;
    Ok(match reply.outcome.ok_or(Malformed("an append's outcome"))? {
        Outcome::Accepted(accepted) => Ok(accepted.last.as_ref().map(log_id_from_wire)),
        Outcome::Conflict(conflict) => {
            Err(StreamAppendError::Conflict(conflict.log_id.as_ref().map(log_id_from_wire).ok_or(Malformed("a conflict's log id"))?))
        }
        Outcome::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote_from_wire(&vote))),
    })
}

pub(super) fn vote_request_to_wire(request: &VoteRequest<TypeConfig>) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(vote_to_wire(&request.vote)),
        last: request.last_log_id.as_ref().map(log_id_to_wire),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn vote_request_from_wire(request: &pb::VoteRequest) -> Result<VoteRequest<TypeConfig>, Malformed> {
    Ok(VoteRequest {
        vote: request.vote.as_ref().map(vote_from_wire).ok_or(Malformed("a vote"))?,
        last_log_id: request.last.as_ref().map(log_id_from_wire),
        leadership_transfer: request.leadership_transfer,
    })
}

pub(super) fn vote_reply_to_wire(reply: &VoteResponse<TypeConfig>) -> pb::VoteReply {
    pb::VoteReply {
        vote: Some(vote_to_wire(&reply.vote)),
        granted: reply.vote_granted,
        last: reply.last_log_id.as_ref().map(log_id_to_wire),
    }
}

pub(super) fn vote_reply_from_wire(reply: &pb::VoteReply) -> Result<VoteResponse<TypeConfig>, Malformed> {
    Ok(VoteResponse {
        vote: reply.vote.as_ref().map(vote_from_wire).ok_or(Malformed("a vote"))?,
        vote_granted: reply.granted,
        last_log_id: reply.last.as_ref().map(log_id_from_wire),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_id(term: u64, node: u64, index: u64) -> LogId {
        LogId { leader_id: LeaderId::new(term, node), index }
    }

    #[test]
    fn entries_survive_the_wire() {
        let membership = Membership::new(
            vec![BTreeSet::from([1, 2, 3])],
            BTreeMap::from([1, 2, 3, 4].map(|id| (id, PeerNode { address: format!("host{id}:7100") }))),
        )
        .expect("every voter has an address");
        for payload in
            [EntryPayload::Blank, EntryPayload::Normal(Proposal(bytes::Bytes::from_static(b"batch"))), EntryPayload::Membership(membership)]
        {
            let entry = Entry { log_id: log_id(7, 2, 42), payload };
            assert_eq!(entry_from_wire(entry_to_wire(entry.clone())).expect("complete"), entry);
        }
    }

    #[test]
    fn an_entry_without_payload_is_refused() {
        let entry = pb::Entry { log_id: Some(log_id_to_wire(&log_id(1, 1, 1))), payload: None };
        assert!(entry_from_wire(entry).is_err());
    }

    #[test]
    fn append_results_survive_the_wire() {
        let vote = Vote { leader_id: LeaderId::new(3, 1), committed: true };
        for result in [
            Ok(None),
            Ok(Some(log_id(3, 1, 9))),
            Err(StreamAppendError::Conflict(log_id(2, 2, 8))),
            Err(StreamAppendError::HigherVote(vote)),
        ] {
            assert_eq!(append_result_from_wire(append_result_to_wire(&result)).expect("complete"), result);
        }
    }
}
