//! The bus: what one node spends on it. What decides how every node keeps a stream (the backlog's bound, the dedupe
//! window) is part of the replicated state and no setting of a node.

use super::reader::Reader;

/// Settings of the replicated bus on this node.
#[derive(Clone, Debug)]
pub struct BusSettings {
    /// `PRAETOR_BUS_HOT_BYTES_MAX`: bytes of finished segments kept in memory before the oldest goes to a file; default
    /// 64 MiB.
    pub hot_bytes_max: u64,
    /// `PRAETOR_BUS_CACHE_BYTES_MAX`: bytes of segments read back from files kept for the next reader; default 32 MiB.
    pub cache_bytes_max: u64,
}

impl BusSettings {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            hot_bytes_max: reader.within(&["PRAETOR_BUS_HOT_BYTES_MAX"], 64 * MIB, MIB, 1024 * 1024 * MIB),
            cache_bytes_max: reader.within(&["PRAETOR_BUS_CACHE_BYTES_MAX"], 32 * MIB, MIB, 1024 * 1024 * MIB),
        }
    }
}
