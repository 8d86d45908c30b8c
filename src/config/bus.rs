//! The bus: what one node spends on it, and the bounds that the whole group keeps. The latter are part of the replicated
//! state: the Raft leader proposes its own where they differ, so set them alike on every node.

use std::time::Duration;

use super::reader::Reader;

/// Settings of the replicated bus on this node.
#[derive(Clone, Debug)]
pub struct BusSettings {
    /// `PRAETOR_BUS_HOT_BYTES_MAX`: bytes of finished segments kept in memory before the oldest goes to a file; default
    /// 64 MiB.
    pub hot_bytes_max: u64,
    /// `PRAETOR_BUS_CACHE_BYTES_MAX`: bytes of segments read back from files kept for the next reader; default 32 MiB.
    pub cache_bytes_max: u64,
    /// `PRAETOR_BUS_BACKLOG_BYTES_MAX`: bytes of all retained entries, on disk; above it publishers wait. Default 4 GiB.
    pub backlog_bytes_max: u64,
    /// `PRAETOR_BUS_DEDUPE_SECONDS`: how long the id of a message is remembered; default 300.
    pub dedupe: Duration,
    /// `PRAETOR_BUS_DEDUPE_ENTRIES_MAX`: how many ids are remembered, about 100 bytes each; default 1,000,000.
    pub dedupe_entries_max: u64,
}

impl BusSettings {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            hot_bytes_max: reader.within(&["PRAETOR_BUS_HOT_BYTES_MAX"], 64 * MIB, MIB, 1024 * 1024 * MIB),
            cache_bytes_max: reader.within(&["PRAETOR_BUS_CACHE_BYTES_MAX"], 32 * MIB, MIB, 1024 * 1024 * MIB),
            backlog_bytes_max: reader.within(&["PRAETOR_BUS_BACKLOG_BYTES_MAX"], 4 * 1024 * MIB, 64 * MIB, 1024 * 1024 * MIB),
            dedupe: reader.positive(&["PRAETOR_BUS_DEDUPE_SECONDS"], 300.0),
            dedupe_entries_max: reader.within(&["PRAETOR_BUS_DEDUPE_ENTRIES_MAX"], 1_000_000, 10_000, 100_000_000),
        }
    }
}
