//! Commands and replies as protobuf. See `proto/bus.proto` for the rules of change.

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;

use super::command::{Batch, Command, KeyCondition, Member, Reply, WireError};
use super::rules::Rules;
use super::{Message, Published, Start, Topic};

/// What `proto/build.rs` generates from `bus.proto`.
#[expect(clippy::pedantic, reason = "generated code")]
pub(super) mod proto {
    tonic::include_proto!("praetor.bus");
}

use proto::command::Kind;
use proto::reply::Kind as ReplyKind;

impl Batch {
    /// The bytes that a log entry carries.
    pub fn encode(&self) -> Bytes {
        let batch = proto::Batch { at_ms: self.at_ms, commands: self.commands.iter().map(proto::Command::from).collect() };
        batch.encode_to_vec().into()
    }

    /// Reads what [`Batch::encode`] wrote; payloads are slices of `bytes`.
    ///
    /// # Errors
    /// Bytes that are no batch, or that a newer version wrote.
    pub fn decode(bytes: Bytes) -> Result<Batch, WireError> {
        let batch = proto::Batch::decode(bytes).map_err(malformed)?;
        let commands = batch.commands.into_iter().map(Command::try_from).collect::<Result<_, _>>()?;
        Ok(Batch { at_ms: batch.at_ms, commands })
    }
}

impl Reply {
    /// The bytes of the replies to one batch.
    pub fn encode_all(replies: &[Reply]) -> Bytes {
        let replies = proto::Replies { replies: replies.iter().map(proto::Reply::from).collect() };
        replies.encode_to_vec().into()
    }

    /// Reads what [`Reply::encode_all`] wrote.
    ///
    /// # Errors
    /// Bytes that are no replies, or that a newer version wrote.
    pub fn decode_all(bytes: Bytes) -> Result<Vec<Reply>, WireError> {
        let replies = proto::Replies::decode(bytes).map_err(malformed)?;
        replies.replies.into_iter().map(Reply::try_from).collect()
    }
}

fn malformed(error: prost::DecodeError) -> WireError {
    WireError::Malformed(error.to_string())
}

impl From<&Command> for proto::Command {
    fn from(command: &Command) -> proto::Command {
        let kind = match command {
            Command::Publish { stream, messages } => Kind::Publish(proto::Publish {
                stream: stream.name().to_owned(),
                messages: messages
                    .iter()
                    .map(|message| {
                        let (id_high, id_low) = message.id.as_u64_pair();
                        proto::Message { id_high, id_low, payload: message.payload.clone() }
                    })
                    .collect(),
            }),
            Command::EnsureGroup { stream, group, start, idle_ms_max } => Kind::EnsureGroup(proto::EnsureGroup {
                stream: stream.name().to_owned(),
                group: group.clone(),
                idle_ms_max: *idle_ms_max,
                start: Some(match start {
                    Start::First => proto::ensure_group::Start::First(true),
                    Start::Latest => proto::ensure_group::Start::Latest(true),
                    Start::After(position) => proto::ensure_group::Start::After(*position),
                }),
            }),
            Command::AdvanceGroup { stream, group, position } => {
                Kind::AdvanceGroup(proto::AdvanceGroup { stream: stream.name().to_owned(), group: group.clone(), position: *position })
            }
            Command::DeleteGroup { stream, group } => {
                Kind::DeleteGroup(proto::DeleteGroup { stream: stream.name().to_owned(), group: group.clone() })
            }
            Command::SetKey { key, value, expires_after_ms, condition } => Kind::SetKey(proto::SetKey {
                key: key.clone(),
                value: value.clone(),
                expires_after_ms: *expires_after_ms,
                condition: Some(match condition {
                    KeyCondition::Always => proto::set_key::Condition::Always(true),
                    KeyCondition::IfAbsent => proto::set_key::Condition::IfAbsent(true),
                    KeyCondition::IfVersion(version) => proto::set_key::Condition::IfVersion(*version),
                }),
            }),
            Command::DeleteKey { key, if_version } => Kind::DeleteKey(proto::DeleteKey { key: key.clone(), if_version: *if_version }),
            Command::FoundCluster { id } => {
                let (id_high, id_low) = id.as_u64_pair();
                Kind::FoundCluster(proto::FoundCluster { id_high, id_low })
            }
            Command::SetMember(member) => Kind::SetMember(proto::SetMember { member: Some(member.into()) }),
            Command::RemoveMember { id } => Kind::RemoveMember(proto::RemoveMember { id: *id }),
            Command::ElectServices { node, replaces } => Kind::ElectServices(proto::ElectServices { node: *node, replaces: *replaces }),
            Command::ResignServices { node, epoch } => Kind::ResignServices(proto::ResignServices { node: *node, epoch: *epoch }),
            Command::SetRules(rules) => Kind::SetRules(proto::SetRules { rules: Some(rules.into()) }),
            Command::Checkpoint { index, checksum } => Kind::Checkpoint(proto::Checkpoint { index: *index, checksum: *checksum }),
        };
        proto::Command { kind: Some(kind) }
    }
}

impl TryFrom<proto::Command> for Command {
    type Error = WireError;

    fn try_from(command: proto::Command) -> Result<Command, WireError> {
        Ok(match command.kind.ok_or(WireError::Unknown("command"))? {
            Kind::Publish(publish) => Command::Publish {
                stream: Topic::from(publish.stream.as_str()),
                messages: publish
                    .messages
                    .into_iter()
                    .map(|message| Message { id: Uuid::from_u64_pair(message.id_high, message.id_low), payload: message.payload })
                    .collect(),
            },
            Kind::EnsureGroup(ensure) => Command::EnsureGroup {
                stream: Topic::from(ensure.stream.as_str()),
                group: ensure.group,
                start: match ensure.start.ok_or(WireError::Unknown("start of a group"))? {
                    proto::ensure_group::Start::First(_) => Start::First,
                    proto::ensure_group::Start::Latest(_) => Start::Latest,
                    proto::ensure_group::Start::After(position) => Start::After(position),
                },
                idle_ms_max: ensure.idle_ms_max,
            },
            Kind::AdvanceGroup(advance) => {
                Command::AdvanceGroup { stream: Topic::from(advance.stream.as_str()), group: advance.group, position: advance.position }
            }
            Kind::DeleteGroup(delete) => Command::DeleteGroup { stream: Topic::from(delete.stream.as_str()), group: delete.group },
            Kind::SetKey(set) => Command::SetKey {
                key: set.key,
                value: set.value,
                expires_after_ms: set.expires_after_ms,
                condition: match set.condition.ok_or(WireError::Unknown("condition of a key"))? {
                    proto::set_key::Condition::Always(_) => KeyCondition::Always,
                    proto::set_key::Condition::IfAbsent(_) => KeyCondition::IfAbsent,
                    proto::set_key::Condition::IfVersion(version) => KeyCondition::IfVersion(version),
                },
            },
            Kind::DeleteKey(delete) => Command::DeleteKey { key: delete.key, if_version: delete.if_version },
            Kind::FoundCluster(found) => Command::FoundCluster { id: Uuid::from_u64_pair(found.id_high, found.id_low) },
            Kind::SetMember(set) => Command::SetMember(set.member.ok_or(WireError::Missing("member"))?.into()),
            Kind::RemoveMember(remove) => Command::RemoveMember { id: remove.id },
            Kind::ElectServices(elect) => Command::ElectServices { node: elect.node, replaces: elect.replaces },
            Kind::ResignServices(resign) => Command::ResignServices { node: resign.node, epoch: resign.epoch },
            Kind::SetRules(set) => Command::SetRules(set.rules.ok_or(WireError::Missing("rules"))?.into()),
            Kind::Checkpoint(checkpoint) => Command::Checkpoint { index: checkpoint.index, checksum: checkpoint.checksum },
        })
    }
}

impl From<&Reply> for proto::Reply {
    fn from(reply: &Reply) -> proto::Reply {
        let kind = match reply {
            Reply::Done => ReplyKind::Done(proto::Done {}),
            Reply::Refused(reason) => ReplyKind::Refused(proto::Refused { reason: reason.clone() }),
            Reply::Published(published) => {
                ReplyKind::Published(proto::Published { first: published.first, last: published.last, duplicates: published.duplicates })
            }
            Reply::Full { bytes, bytes_max } => ReplyKind::Full(proto::Full { bytes: *bytes, bytes_max: *bytes_max }),
            Reply::GroupAt(position) => ReplyKind::GroupAt(proto::GroupAt { position: *position }),
            Reply::NoSuchStream => ReplyKind::NoSuchStream(proto::NoSuch {}),
            Reply::NoSuchGroup => ReplyKind::NoSuchGroup(proto::NoSuch {}),
            Reply::KeyAt(version) => ReplyKind::KeyAt(proto::KeyAt { version: *version }),
            Reply::KeyConflict(version) => ReplyKind::KeyConflict(proto::KeyConflict { version: *version }),
            Reply::Elected(epoch) => ReplyKind::Elected(proto::Elected { epoch: *epoch }),
        };
        proto::Reply { kind: Some(kind) }
    }
}

impl TryFrom<proto::Reply> for Reply {
    type Error = WireError;

    fn try_from(reply: proto::Reply) -> Result<Reply, WireError> {
        Ok(match reply.kind.ok_or(WireError::Unknown("reply"))? {
            ReplyKind::Done(_) => Reply::Done,
            ReplyKind::Refused(refused) => Reply::Refused(refused.reason),
            ReplyKind::Published(published) => {
                Reply::Published(Published { first: published.first, last: published.last, duplicates: published.duplicates })
            }
            ReplyKind::Full(full) => Reply::Full { bytes: full.bytes, bytes_max: full.bytes_max },
            ReplyKind::GroupAt(at) => Reply::GroupAt(at.position),
            ReplyKind::NoSuchStream(_) => Reply::NoSuchStream,
            ReplyKind::NoSuchGroup(_) => Reply::NoSuchGroup,
            ReplyKind::KeyAt(at) => Reply::KeyAt(at.version),
            ReplyKind::KeyConflict(conflict) => Reply::KeyConflict(conflict.version),
            ReplyKind::Elected(elected) => Reply::Elected(elected.epoch),
        })
    }
}

impl From<&Member> for proto::Member {
    fn from(member: &Member) -> proto::Member {
        proto::Member {
            id: member.id,
            http_address: member.http_address.clone(),
            peer_address: member.peer_address.clone(),
            version: member.version.clone(),
            may_run_services: member.may_run_services,
            incarnation: member.incarnation,
        }
    }
}

impl From<proto::Member> for Member {
    fn from(member: proto::Member) -> Member {
        Member {
            id: member.id,
            http_address: member.http_address,
            peer_address: member.peer_address,
            version: member.version,
            may_run_services: member.may_run_services,
            incarnation: member.incarnation,
        }
    }
}

impl From<&Rules> for proto::Rules {
    fn from(rules: &Rules) -> proto::Rules {
        proto::Rules {
            backlog_bytes_max: rules.backlog_bytes_max,
            window_bytes_max: rules.window_bytes_max,
            window_ms_max: rules.window_ms_max,
            segment_bytes_max: rules.segment_bytes_max,
            segment_entries_max: rules.segment_entries_max,
            tail_bytes_max: rules.tail_bytes_max,
            payload_bytes_max: rules.payload_bytes_max,
            streams_max: rules.streams_max,
            groups_max: rules.groups_max,
            dedupe_ms_max: rules.dedupe_ms_max,
            dedupe_entries_max: rules.dedupe_entries_max,
            keys_max: rules.keys_max,
            keys_bytes_max: rules.keys_bytes_max,
        }
    }
}

impl From<proto::Rules> for Rules {
    fn from(rules: proto::Rules) -> Rules {
        Rules {
            backlog_bytes_max: rules.backlog_bytes_max,
            window_bytes_max: rules.window_bytes_max,
            window_ms_max: rules.window_ms_max,
            segment_bytes_max: rules.segment_bytes_max,
            segment_entries_max: rules.segment_entries_max,
            tail_bytes_max: rules.tail_bytes_max,
            payload_bytes_max: rules.payload_bytes_max,
            streams_max: rules.streams_max,
            groups_max: rules.groups_max,
            dedupe_ms_max: rules.dedupe_ms_max,
            dedupe_entries_max: rules.dedupe_entries_max,
            keys_max: rules.keys_max,
            keys_bytes_max: rules.keys_bytes_max,
        }
    }
}
