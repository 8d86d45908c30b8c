//! The bus: how much it keeps and how it gathers what is published.

use std::time::Duration;

use super::reader::Reader;

/// Settings of the replicated bus.
#[derive(Clone, Debug)]
pub struct BusSettings {
    /// `PRAETOR_BUS_BACKLOG_BYTES_MAX`: bytes of one stream's entries on disk, above which publishers are slowed down;
    /// default 4 GiB.
    pub backlog_bytes_max: u64,
    /// `PRAETOR_BUS_CACHE_BYTES_MAX`: bytes of entries kept in memory; default 128 MiB.
    pub cache_bytes_max: u64,
    /// `PRAETOR_BUS_DEDUPE_SECONDS`: how long an id is remembered; default 300.
    pub dedupe_window: Duration,
    /// `PRAETOR_BUS_GROUP_IDLE_SECONDS`: after how long without a reader a group stops holding entries; default 300.
    pub group_idle: Duration,
    /// `PRAETOR_BUS_BATCH_BYTES_MAX`: bytes gathered into one proposal; default 256 KiB.
    pub batch_bytes_max: usize,
    /// `PRAETOR_BUS_BATCH_LINGER_SECONDS`: how long to gather before proposing; default 0.002.
    pub batch_linger: Duration,
}

impl BusSettings {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            backlog_bytes_max: reader.within(&["PRAETOR_BUS_BACKLOG_BYTES_MAX"], 4096 * MIB, 16 * MIB, 1024 * 1024 * 1024 * MIB),
            cache_bytes_max: reader.within(&["PRAETOR_BUS_CACHE_BYTES_MAX"], 128 * MIB, MIB, 1024 * 1024 * MIB),
            dedupe_window: reader.positive(&["PRAETOR_BUS_DEDUPE_SECONDS"], 300.0),
            group_idle: reader.positive(&["PRAETOR_BUS_GROUP_IDLE_SECONDS"], 300.0),
            batch_bytes_max: reader.within(&["PRAETOR_BUS_BATCH_BYTES_MAX"], 256 * 1024, 4 * 1024, 4 * MIB as usize),
            batch_linger: reader.value(&["PRAETOR_BUS_BATCH_LINGER_SECONDS"], Duration::from_millis(2)),
        }
    }
}
