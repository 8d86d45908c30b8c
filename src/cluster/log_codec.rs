//! How a log record looks on disk. `raft-log` puts length and checksum around it.
//!
//! The format is fixed and versioned by the tag of a payload: a tag is never reused, an unknown one is an
//! error, never skipped.

use std::io::{self, Read, Write};

use bytes::Bytes;
use openraft::vote::RaftLeaderId as _;
use raft_log::codeq::{Decode, Encode};

use super::log_store::FlushCallback;
use super::types::{LogId, TypeConfig, Vote};

/// The types that `raft-log` is instantiated with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogTypes;

impl raft_log::Types for LogTypes {
    type LogId = StoredLogId;
    type LogPayload = StoredPayload;
    type Vote = StoredVote;
    type Callback = FlushCallback;
    type UserData = String;

    fn log_index(log_id: &Self::LogId) -> u64 {
        log_id.index
    }

    fn payload_size(payload: &Self::LogPayload) -> u64 {
        payload.len() as u64
    }
}

/// A log id; ordered as Raft orders them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StoredLogId {
    pub term: u64,
    pub node_id: u64,
    pub index: u64,
}

/// A vote; ordered as Raft orders them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StoredVote {
    term: u64,
    node_id: u64,
    committed: bool,
}

type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;

impl From<LogId> for StoredLogId {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, node_id: id.leader_id.node_id, index: id.index }
    }
}

impl From<StoredLogId> for LogId {
    fn from(id: StoredLogId) -> Self {
        Self { leader_id: LeaderId::new(id.term, id.node_id), index: id.index }
    }
}

impl From<&StoredLogId> for LogId {
    fn from(id: &StoredLogId) -> Self {
        Self::from(*id)
    }
}

impl From<&Vote> for StoredVote {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, node_id: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<&StoredVote> for Vote {
    fn from(vote: &StoredVote) -> Self {
        Self { leader_id: LeaderId::new(vote.term, vote.node_id), committed: vote.committed }
    }
}

impl Encode for StoredLogId {
    fn encode<W: Write>(&self, mut writer: W) -> io::Result<usize> {
        Ok(self.term.encode(&mut writer)? + self.node_id.encode(&mut writer)? + self.index.encode(&mut writer)?)
    }
}

impl Decode for StoredLogId {
    fn decode<R: Read>(mut reader: R) -> io::Result<Self> {
        Ok(Self { term: u64::decode(&mut reader)?, node_id: u64::decode(&mut reader)?, index: u64::decode(&mut reader)? })
    }
}

impl Encode for StoredVote {
    fn encode<W: Write>(&self, mut writer: W) -> io::Result<usize> {
        Ok(self.term.encode(&mut writer)? + self.node_id.encode(&mut writer)? + u8::from(self.committed).encode(&mut writer)?)
    }
}

impl Decode for StoredVote {
    fn decode<R: Read>(mut reader: R) -> io::Result<Self> {
        Ok(Self { term: u64::decode(&mut reader)?, node_id: u64::decode(&mut reader)?, committed: u8::decode(&mut reader)? != 0 })
    }
}

/// The payload of an entry as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoredPayload {
    /// A new leader's first entry.
    Blank,
    /// An encoded batch of commands.
    Batch(Bytes),
    /// An encoded `praetor.raft.Membership`.
    Membership(Bytes),
}

const TAG_BLANK: u8 = 0;
const TAG_BATCH: u8 = 1;
const TAG_MEMBERSHIP: u8 = 2;

impl StoredPayload {
    /// Bytes of content.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Blank => 0,
            Self::Batch(bytes) | Self::Membership(bytes) => bytes.len(),
        }
    }
}

impl Encode for StoredPayload {
    fn encode<W: Write>(&self, mut writer: W) -> io::Result<usize> {
        let (tag, bytes) = match self {
            Self::Blank => (TAG_BLANK, &Bytes::new()),
            Self::Batch(bytes) => (TAG_BATCH, bytes),
            Self::Membership(bytes) => (TAG_MEMBERSHIP, bytes),
        };
        let length = u32::try_from(bytes.len()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "an entry of more than 4 GiB"))?;
        let head = tag.encode(&mut writer)? + length.encode(&mut writer)?;
        writer.write_all(bytes)?;
        Ok(head + bytes.len())
    }
}

impl Decode for StoredPayload {
    fn decode<R: Read>(mut reader: R) -> io::Result<Self> {
        let tag = u8::decode(&mut reader)?;
        let length = u32::decode(&mut reader)?;
        let mut content = Vec::new();
        // Grows as bytes arrive: a damaged length must not reserve gigabytes.
        let read = reader.take(u64::from(length)).read_to_end(&mut content)?;
        if read != length as usize {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "an entry is cut short"));
        }
        match tag {
            TAG_BLANK => Ok(Self::Blank),
            TAG_BATCH => Ok(Self::Batch(content.into())),
            TAG_MEMBERSHIP => Ok(Self::Membership(content.into())),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a log entry of the unknown kind {other}: it was written by a newer version"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_come_back_as_they_were() {
        for payload in [
            StoredPayload::Blank,
            StoredPayload::Batch(Bytes::from_static(b"some commands")),
            StoredPayload::Membership(Bytes::from_static(b"some nodes")),
        ] {
            let mut bytes = Vec::new();
            let written = payload.encode(&mut bytes).expect("memory can be written");
            assert_eq!(written, bytes.len());
            assert_eq!(StoredPayload::decode(bytes.as_slice()).expect("what was written"), payload);
        }
    }

    #[test]
    fn an_unknown_kind_is_an_error() {
        let mut bytes = Vec::new();
        StoredPayload::Batch(Bytes::from_static(b"x")).encode(&mut bytes).expect("memory can be written");
        bytes[0] = 9;
        assert!(StoredPayload::decode(bytes.as_slice()).expect_err("unknown").to_string().contains("newer version"));
    }

    #[test]
    fn a_cut_entry_is_an_error() {
        let mut bytes = Vec::new();
        StoredPayload::Batch(Bytes::from_static(b"0123456789")).encode(&mut bytes).expect("memory can be written");
        assert!(StoredPayload::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
