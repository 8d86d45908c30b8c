//! Events: how large one may be, how long they are kept, how far a subscriber may look back.

use std::time::Duration;

use super::reader::{FromText, Reader};

/// Settings of events. Names begin with `PREFECT_SERVER_EVENTS_`.
#[derive(Clone, Debug)]
pub struct EventsSettings {
    /// `_MAXIMUM_SIZE_BYTES`: bytes of one event's JSON; default 1,500,000.
    pub maximum_size_bytes: usize,
    /// `_MAXIMUM_LABELS_PER_RESOURCE`: default 500.
    pub maximum_labels_per_resource: usize,
    /// `_MAXIMUM_RELATED_RESOURCES`: default 100.
    pub maximum_related_resources: usize,
    /// `_MAXIMUM_EVENT_NAME_LENGTH`: characters; default 1024.
    pub maximum_event_name_length: usize,
    /// `_RETENTION_PERIOD`: how long events stay in the database; default 7 days.
    pub retention_period: Duration,
    /// `_MAXIMUM_WEBSOCKET_BACKFILL`: how far a subscriber may look back; default 15 minutes.
    pub maximum_websocket_backfill: Duration,
    /// `_WEBSOCKET_BACKFILL_PAGE_SIZE`: rows read at once for it; default 250.
    pub websocket_backfill_page_size: usize,
    /// `_EXPIRED_BUCKET_BUFFER`: how long expired automation buckets are kept; default 60 s.
    pub expired_bucket_buffer: Duration,
    /// `_PROACTIVE_GRANULARITY`: how often proactive triggers are looked at; default 5 s.
    pub proactive_granularity: Duration,
    /// `_RELATED_RESOURCE_CACHE_TTL`: how long related resources are remembered; default 5 minutes.
    pub related_resource_cache_ttl: Duration,
    /// `_STREAM_OUT_ENABLED`: whether `/events/out` is served; default yes.
    pub stream_out_enabled: bool,
    /// `PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED`: whether `/logs/out` is served; default no, as in the reference.
    pub logs_stream_out_enabled: bool,
    /// `PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED`: whether log lines are fanned out; default no.
    pub logs_stream_publishing_enabled: bool,
}

impl EventsSettings {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            maximum_size_bytes: events(reader, "MAXIMUM_SIZE_BYTES", 1_500_000),
            maximum_labels_per_resource: events(reader, "MAXIMUM_LABELS_PER_RESOURCE", 500),
            maximum_related_resources: events(reader, "MAXIMUM_RELATED_RESOURCES", 100),
            maximum_event_name_length: events(reader, "MAXIMUM_EVENT_NAME_LENGTH", 1024),
            retention_period: events(reader, "RETENTION_PERIOD", Duration::from_hours(168)),
            maximum_websocket_backfill: events(reader, "MAXIMUM_WEBSOCKET_BACKFILL", Duration::from_mins(15)),
            websocket_backfill_page_size: backfill_page_size(reader),
            expired_bucket_buffer: events(reader, "EXPIRED_BUCKET_BUFFER", Duration::from_mins(1)),
            proactive_granularity: events(reader, "PROACTIVE_GRANULARITY", Duration::from_secs(5)),
            related_resource_cache_ttl: events(reader, "RELATED_RESOURCE_CACHE_TTL", Duration::from_mins(5)),
            stream_out_enabled: events(reader, "STREAM_OUT_ENABLED", true),
            logs_stream_out_enabled: reader.value(&["PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED"], false),
            logs_stream_publishing_enabled: reader.value(&["PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED"], false),
        }
    }
}

/// A value under the long name or one of the reference's two older ones.
fn events<T: FromText>(reader: &mut Reader<'_>, rest: &str, default: T) -> T {
    let names = ["PREFECT_SERVER_EVENTS_", "PREFECT_EVENTS_", "PREFECT_API_EVENTS_"].map(|prefix| format!("{prefix}{rest}"));
    reader.value(&[&names[0], &names[1], &names[2]], default)
}

fn backfill_page_size(reader: &mut Reader<'_>) -> usize {
    let size = events(reader, "WEBSOCKET_BACKFILL_PAGE_SIZE", 250);
    if size == 0 || size > 10_000 {
        reader.problem("PREFECT_SERVER_EVENTS_WEBSOCKET_BACKFILL_PAGE_SIZE must be between 1 and 10000");
        return 250;
    }
    size
}
