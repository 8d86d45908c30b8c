//! The bounds of the bus.
//!
//! [`Rules`] decide what `apply` answers and keeps, so they are part of the replicated state: they begin as
//! [`Rules::GENESIS`] on every node and change only by the command `SetRules`. [`Limits`] bound what one node spends and decide
//! nothing, so they may differ from node to node.

/// Bytes that an entry costs beside its payload, in every account of the bus. Part of the replicated arithmetic: never changes.
pub const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// Longest name of a stream or a group, in bytes. Never changes.
pub const NAME_BYTES_MAX: usize = 256;

/// Longest key, in bytes. Never changes.
pub const KEY_BYTES_MAX: usize = 512;

/// How often, in milliseconds of the bus's time, idle groups and old windows are looked for. Never changes.
pub const SWEEP_MS: i64 = 1_000;

/// The longest step, in milliseconds, that counts as time in which the bus was running: a group does not grow idle while the whole
/// cluster is switched off. Never changes.
pub const AWAKE_STEP_MS_MAX: i64 = 60_000;

/// Checksums of so many latest batches are kept for `Checkpoint`. Never changes.
pub const CHECKPOINTS_KEPT: usize = 1_024;

/// A group that the trait `Bus` made expires after so many milliseconds without a sign of life (`ensure_group` or `advance_group`,
/// with or without progress) while the bus was running: 7 days.
pub const GROUP_IDLE_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1_000;

/// Replicated bounds. See the module for why they are not settings of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Bytes of all retained entries (payload and [`ENTRY_OVERHEAD_BYTES`]); above it a publish is answered `Full`. Default 4 GiB.
    pub backlog_bytes_max: u64,
    /// Entries that no group needs are kept for tails up to so many bytes per stream. Default 32 MiB.
    pub window_bytes_max: u64,
    /// ... and for so many milliseconds. Default 15 minutes.
    pub window_ms_max: u64,
    /// A segment is sealed at so many bytes ... Default 4 MiB.
    pub segment_bytes_max: u64,
    /// ... or so many entries. Default 16,384.
    pub segment_entries_max: u64,
    /// Bytes of all open segments together; above it the largest is sealed early. Default 32 MiB.
    pub tail_bytes_max: u64,
    /// Largest payload of one message. Default 1.5 MB, the reference's bound of an event.
    pub payload_bytes_max: u64,
    /// Streams. Default 1,024.
    pub streams_max: u64,
    /// Groups of one stream. Default 256.
    pub groups_max: u64,
    /// How long a message id is remembered, in milliseconds. Default 5 minutes.
    pub dedupe_ms_max: u64,
    /// How many message ids are remembered. Default 1,000,000 (about 100 MB of memory when full).
    pub dedupe_entries_max: u64,
    /// Keys. Default 100,000.
    pub keys_max: u64,
    /// Bytes of all keys and values. Default 64 MiB.
    pub keys_bytes_max: u64,
}

impl Rules {
    /// What every bus begins with. **Frozen**: a log written long ago starts from these figures. Change them by `SetRules`.
    pub const GENESIS: Rules = Rules {
        backlog_bytes_max: 4 << 30,
        window_bytes_max: 32 << 20,
        window_ms_max: 15 * 60 * 1_000,
        segment_bytes_max: 4 << 20,
        segment_entries_max: 16_384,
        tail_bytes_max: 32 << 20,
        payload_bytes_max: 1_500_000,
        streams_max: 1_024,
        groups_max: 256,
        dedupe_ms_max: 5 * 60 * 1_000,
        dedupe_entries_max: 1_000_000,
        keys_max: 100_000,
        keys_bytes_max: 64 << 20,
    };
}

impl Rules {
    /// Whether a bus can work by these rules.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("backlog_bytes_max", self.backlog_bytes_max),
            ("segment_bytes_max", self.segment_bytes_max),
            ("segment_entries_max", self.segment_entries_max),
            ("tail_bytes_max", self.tail_bytes_max),
            ("payload_bytes_max", self.payload_bytes_max),
            ("streams_max", self.streams_max),
            ("groups_max", self.groups_max),
            ("dedupe_entries_max", self.dedupe_entries_max),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} must be above 0"));
        }
        // A segment's file is read as a whole.
        if self.segment_bytes_max > 64 << 20 || self.payload_bytes_max > 64 << 20 {
            return Err("segment_bytes_max and payload_bytes_max must not be above 64 MiB".into());
        }
        if self.backlog_bytes_max > 1 << 60 || self.keys_bytes_max > 1 << 30 {
            return Err("backlog_bytes_max must not be above 1 EiB, keys_bytes_max not above 1 GiB".into());
        }
        Ok(())
    }
}

impl Default for Rules {
    fn default() -> Rules {
        Rules::GENESIS
    }
}

/// What one node may spend on the bus. Decides nothing that another node could see.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of sealed segments kept in memory before the oldest goes to a file. Default 64 MiB.
    pub hot_bytes_max: u64,
    /// Bytes of segments read back from files kept for the next reader. Default 32 MiB.
    pub cache_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { hot_bytes_max: 64 << 20, cache_bytes_max: 32 << 20 }
    }
}
