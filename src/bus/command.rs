//! The replicated vocabulary: what can be asked of the bus and what it answers, one-to-one with `proto/bus.proto`.
//!
//! A [`Batch`] is what one Raft log entry carries. It is encoded once and travels as bytes; decoding slices payloads out of
//! that buffer and never panics, whatever the bytes. How to add a command: a new number in `bus.proto`, a variant here, its two
//! conversions in `wire.rs`, its arm in `state.rs`, a script in `testdata/`; and propose it only once every member knows it.

use bytes::Bytes;
use uuid::Uuid;

use super::rules::Rules;
use super::{Message, Position, Published, Start, Topic};

/// Commands that are applied together, at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The leader's stamp, milliseconds since the epoch.
    pub at_ms: i64,
    /// Applied in this order. May be empty: then only time moves on.
    pub commands: Vec<Command>,
}

/// Something that changes the state of the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Append messages to a stream, which is made if need be. Answers `Published`, `Full` or `Refused`.
    Publish {
        /// Where to.
        stream: Topic,
        /// At least one.
        messages: Vec<Message>,
    },
    /// Make a group if it is not there; a sign of life if it is. Answers `GroupAt` or `Refused`.
    EnsureGroup {
        /// Of which stream; it is made if need be.
        stream: Topic,
        /// Its name.
        group: String,
        /// Where it begins if it is new.
        start: Start,
        /// After how many milliseconds without a sign of life it expires; `None`: never. Replaces the rule of an old group.
        idle_ms_max: Option<u64>,
    },
    /// Move a group on. Answers `GroupAt`, `NoSuchStream`, `NoSuchGroup` or `Refused`.
    AdvanceGroup {
        /// Of which stream.
        stream: Topic,
        /// Its name.
        group: String,
        /// All entries up to here are done with.
        position: Position,
    },
    /// Answers `Done`, `NoSuchStream` or `NoSuchGroup`.
    DeleteGroup {
        /// Of which stream.
        stream: Topic,
        /// Its name.
        group: String,
    },
    /// Answers `KeyAt`, `KeyConflict` or `Refused`.
    SetKey {
        /// At most [`super::rules::KEY_BYTES_MAX`].
        key: Bytes,
        /// What it shall hold.
        value: Bytes,
        /// After how many milliseconds it is gone; `None`: stays.
        expires_after_ms: Option<u64>,
        /// What must hold for the key to be set.
        condition: KeyCondition,
    },
    /// Answers `Done` (also if there is no such key and no version was asked for) or `KeyConflict`.
    DeleteKey {
        /// Which.
        key: Bytes,
        /// Only if it still has this version.
        if_version: Option<u64>,
    },
    /// Gives the cluster its id, once and for all. Answers `Done` or `Refused`.
    FoundCluster {
        /// The id.
        id: Uuid,
    },
    /// A node says who it is. Answers `Done` or `Refused`. A new incarnation of the services leader is not the leader.
    SetMember(Member),
    /// A node is gone for ever: its id is never used again. Answers `Done`.
    RemoveMember {
        /// Which.
        id: u64,
    },
    /// Makes a member the leader of the services, in a new epoch: the log index of this command. Answers `Elected` or `Refused`.
    ElectServices {
        /// Who.
        node: u64,
        /// Only if this is still the newest epoch given (0: none so far).
        replaces: Option<u64>,
    },
    /// Gives the lead up. Answers `Done`, also if it was lost already.
    ResignServices {
        /// Who led,
        node: u64,
        /// and in which epoch.
        epoch: u64,
    },
    /// Changes the bounds. Answers `Done` or `Refused`.
    SetRules(Rules),
    /// The proposer's checksum after applying `index`. A node that has another one stops. Answers `Done`.
    Checkpoint {
        /// Log index of a batch.
        index: u64,
        /// [`super::state::BusState::checksum`] after it.
        checksum: u64,
    },
}

/// What must hold for a key to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyCondition {
    /// Nothing.
    Always,
    /// There is no such key.
    IfAbsent,
    /// It has this version.
    IfVersion(u64),
}

/// A node as the group knows it. Whether it lives is not here: the Raft leader sees that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Never 0, never used again.
    pub id: u64,
    /// Where clients reach it, `host:port`; empty if it serves none.
    pub http_address: String,
    /// Where its peers reach it, `host:port`.
    pub peer_address: String,
    /// Of its program.
    pub version: String,
    /// Whether it may be elected.
    pub may_run_services: bool,
    /// Grows with each start of its process.
    pub incarnation: u64,
}

/// What a command came to. One per command, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It is so.
    Done,
    /// Nothing was changed.
    Refused(String),
    /// Messages are in the stream.
    Published(Published),
    /// Nothing was appended.
    Full {
        /// Bytes retained.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// Where a group stands.
    GroupAt(Position),
    /// No such stream.
    NoSuchStream,
    /// No such group.
    NoSuchGroup,
    /// A key was set and has this version.
    KeyAt(u64),
    /// A key is not as it should be: it has this version, or does not exist.
    KeyConflict(Option<u64>),
    /// A services leader was elected in this epoch.
    Elected(u64),
}

/// Bytes that are no batch of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not protobuf, or not this message.
    #[error("not a valid message: {0}")]
    Malformed(String),
    /// A command, reply or condition that this version does not know. A node which meets one in its log must stop.
    #[error("unknown {0}: written by a newer version")]
    Unknown(&'static str),
    /// Known, but without a part that it must have.
    #[error("{0} is missing")]
    Missing(&'static str),
}
