//! The types that Raft is instantiated with, and the generated wire types beside them.
//!
//! A log entry's payload is opaque to Raft: an encoded [`crate::bus`] batch, made once by whoever
//! gathered it and copied by reference from there to the network, the log and the state machine.

use std::fmt;

use bytes::Bytes;

use crate::bus::command::Reply;

/// Generated from `proto/raft.proto`.
#[expect(clippy::pedantic, reason = "generated code")]
pub(super) mod raft_pb {
    tonic::include_proto!("praetor.raft");
}

/// Generated from `proto/cluster.proto`.
#[expect(clippy::pedantic, reason = "generated code")]
pub(super) mod cluster_pb {
    tonic::include_proto!("praetor.cluster");
}

openraft::declare_raft_types!(
    /// What Praetor's group is made of.
    pub(super) TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = PeerNode,
        AsyncRuntime = Runtime,
);

/// What openraft runs on.
#[cfg(not(test))]
type Runtime = openraft::impls::TokioRuntime;
/// The same, which takes its chances from a seed where a simulation asks for that.
#[cfg(test)]
type Runtime = super::simulation::runtime::SeededRuntime;

/// An encoded batch of commands: the payload of one log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proposal(pub Bytes);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What applying one entry answered: one reply for each command, none for Raft's own entries.
#[derive(Clone, Debug, Default)]
pub(super) struct Applied {
    pub replies: Vec<Reply>,
}

/// What the membership says about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PeerNode {
    /// `host:port` of the node's peer listener.
    pub address: String,
}

pub(super) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(super) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(super) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(super) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(super) type Membership = openraft::Membership<u64, PeerNode>;
pub(super) type EntryPayload = openraft::EntryPayload<Proposal, u64, PeerNode>;
pub(super) type Metrics = openraft::RaftMetrics<TypeConfig>;
