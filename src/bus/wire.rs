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

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        use std::fmt::Write as _;
        bytes.iter().fold(String::new(), |mut out, byte| {
            write!(out, "{byte:02x}").expect("a string");
            out
        })
    }

    fn every_command() -> Vec<(Command, &'static str)> {
        let (stream, group) = (Topic::Events, String::from("g"));
        let message = Message { id: Uuid::from_u64_pair(1, 2), payload: Bytes::from_static(b"p") };
        let member = Member {
            id: 1,
            http_address: "h".into(),
            peer_address: "p".into(),
            version: "v".into(),
            may_run_services: true,
            incarnation: 2,
        };
        let ensure = |start, idle_ms_max| Command::EnsureGroup { stream: stream.clone(), group: group.clone(), start, idle_ms_max };
        let set = |expires_after_ms, condition| Command::SetKey {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"v"),
            expires_after_ms,
            condition,
        };
        vec![
            (
                Command::Publish { stream: stream.clone(), messages: vec![message] },
                "080112210a1f0a066576656e747312150901000000000000001102000000000000001a0170",
            ),
            (Command::AdvanceGroup { stream: stream.clone(), group: group.clone(), position: 3 }, "0801120f120d0a066576656e74731201671803"),
            (ensure(Start::First, None), "0801121082010d0a066576656e74731201671801"),
            (ensure(Start::Latest, Some(0)), "0801121282010f0a066576656e747312016720013000"),
            (ensure(Start::After(4), Some(5)), "0801121282010f0a066576656e747312016728043005"),
            (Command::DeleteGroup { stream: stream.clone(), group: group.clone() }, "0801120e8a010b0a066576656e7473120167"),
            (set(None, KeyCondition::Always), "0801120bc202080a016b1201762001"),
            (set(Some(6), KeyCondition::IfAbsent), "0801120dc2020a0a016b12017618062801"),
            (set(Some(0), KeyCondition::IfVersion(0)), "0801120dc2020a0a016b12017618003000"),
            (Command::DeleteKey { key: Bytes::from_static(b"k"), if_version: None }, "08011206ca02030a016b"),
            (Command::DeleteKey { key: Bytes::from_static(b"k"), if_version: Some(0) }, "08011208ca02050a016b1000"),
            (Command::FoundCluster { id: Uuid::from_u64_pair(1, 2) }, "08011215e20312090100000000000000110200000000000000"),
            (Command::SetMember(member), "08011214ea03110a0f08011201681a017022017628013002"),
            (Command::RemoveMember { id: 1 }, "08011205f203020801"),
            (Command::ElectServices { node: 1, replaces: None }, "08011205fa03020801"),
            (Command::ElectServices { node: 1, replaces: Some(0) }, "08011207fa030408011000"),
            (Command::ResignServices { node: 1, epoch: 7 }, "0801120782040408011007"),
            (
                Command::SetRules(Rules::GENESIS),
                "0801123d82053a0a38088080808010108080801018a0f736208080800228808001308080801038e0c65b40800848800250e0a71258c0843d60a08d066880808020",
            ),
            (Command::Checkpoint { index: 8, checksum: 9 }, "080112078a050408081009"),
        ]
    }

    /// These bytes are in logs already: a change here is a log that cannot be read any more.
    #[test]
    fn the_bytes_of_every_command_are_frozen() {
        for (command, frozen) in every_command() {
            let batch = Batch { at_ms: 1, commands: vec![command] };
            let bytes = batch.encode();
            assert_eq!(hex(&bytes), frozen, "{batch:?}");
            assert_eq!(Batch::decode(bytes), Ok(batch));
        }
    }

    #[test]
    fn the_bytes_of_every_reply_are_frozen() {
        let replies = [
            Reply::Done,
            Reply::Refused("r".into()),
            Reply::Published(Published { first: 1, last: 2, duplicates: 3 }),
            Reply::Full { bytes: 4, bytes_max: 5 },
            Reply::GroupAt(6),
            Reply::NoSuchStream,
            Reply::NoSuchGroup,
            Reply::KeyAt(7),
            Reply::KeyConflict(None),
            Reply::KeyConflict(Some(0)),
            Reply::Elected(8),
        ];
        let bytes = Reply::encode_all(&replies);
        assert_eq!(
            hex(&bytes),
            "0a020a000a0512030a01720a081a060801100218030a062204080410050a0582010208060a038a01000a039201000a05c2020208070a03ca02000a05ca020208000a05e203020808"
        );
        assert_eq!(Reply::decode_all(bytes), Ok(replies.to_vec()));
    }

    #[test]
    fn what_a_newer_version_wrote_is_not_taken_for_something_else() {
        // Command number 500, which nobody knows; then one without a kind; then a start that nobody knows (field 9).
        for (bytes, what) in [
            (&b"\x12\x04\xa2\x1f\x01x"[..], "command"),
            (b"\x12\x00", "command"),
            (b"\x12\x0d\x82\x01\x0a\x0a\x01s\x12\x01g\x48\x01\x30\x05", "start of a group"),
            (b"\x12\x09\xc2\x02\x06\x0a\x01k\x12\x01v", "condition of a key"),
        ] {
            assert_eq!(Batch::decode(Bytes::from_static(bytes)), Err(WireError::Unknown(what)));
        }
        assert_eq!(Batch::decode(Bytes::from_static(b"\x12\x03\xea\x03\x00")), Err(WireError::Missing("member")));
        assert!(matches!(Batch::decode(Bytes::from_static(b"\xff")), Err(WireError::Malformed(_))));
        assert_eq!(Reply::decode_all(Bytes::from_static(b"\x0a\x00")), Err(WireError::Unknown("reply")));
    }

    #[test]
    fn payloads_are_slices_of_the_bytes_they_came_in() {
        let message = Message { id: Uuid::nil(), payload: Bytes::from(vec![7; 1_000]) };
        let bytes = Batch { at_ms: 1, commands: vec![Command::Publish { stream: Topic::Events, messages: vec![message] }] }.encode();
        let range = bytes.as_ptr_range();
        let Batch { commands, .. } = Batch::decode(bytes.clone()).expect("decoded");
        let [Command::Publish { messages, .. }] = commands.as_slice() else { panic!("one publish") };
        assert!(range.contains(&messages[0].payload.as_ptr()), "not copied");
    }
}
