//! Every metric of a node: its name, unit, help, and a typed function that records it.
//!
//! Names read `praetor_<area>_<what>_<unit>[_total]`, in base units (seconds, bytes). Labels come from closed sets;
//! an id is never a label. To add one: a line in the table and a function that names it.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// A metric's row in the table.
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What one of it is.
    pub unit: Unit,
    /// What it tells.
    pub help: &'static str,
}

const HTTP_REQUESTS: &str = "praetor_http_requests_total";
const HTTP_REQUEST_SECONDS: &str = "praetor_http_request_duration_seconds";
const HTTP_CONNECTIONS: &str = "praetor_http_connections";
const TASK_FAILURES: &str = "praetor_task_failures_total";
const STORE_SECONDS: &str = "praetor_store_transaction_duration_seconds";
const STORE_RETRIES: &str = "praetor_store_transaction_retries_total";
const STORE_AVAILABLE: &str = "praetor_store_available";
const BUS_PUBLISHED: &str = "praetor_bus_published_total";
const BUS_PUBLISH_SECONDS: &str = "praetor_bus_publish_duration_seconds";
const BUS_STREAM_BYTES: &str = "praetor_bus_stream_bytes";
const BUS_STREAM_ENTRIES: &str = "praetor_bus_stream_entries";
const BUS_GROUP_LAG: &str = "praetor_bus_group_lag_entries";
const CLUSTER_LEADER: &str = "praetor_cluster_is_leader";
const CLUSTER_TERM: &str = "praetor_cluster_term";
const CLUSTER_APPLIED: &str = "praetor_cluster_applied_index";
const SERVICE_LEADER: &str = "praetor_services_is_leader";
const SERVICE_EPOCH: &str = "praetor_services_epoch";
const SERVICE_TICK_SECONDS: &str = "praetor_service_tick_duration_seconds";
const SERVICE_TICK_FAILURES: &str = "praetor_service_tick_failures_total";
const SERVICE_LAST_SUCCESS: &str = "praetor_service_last_success_timestamp_seconds";
const SERVICE_ITEMS: &str = "praetor_service_items_total";
const SERVICE_BEHIND: &str = "praetor_service_behind_seconds";
const SERVICE_HAND_OVERS: &str = "praetor_services_hand_overs_total";
const DEAD_LETTERS: &str = "praetor_dead_letters_total";
const DEAD_LETTERS_KEPT: &str = "praetor_dead_letters_kept";
const DEAD_LETTERS_REPLAYED: &str = "praetor_dead_letters_replayed_total";

/// All metrics.
pub const METRICS: &[Metric] = &[
    row(HTTP_REQUESTS, Kind::Counter, Unit::Count, "HTTP requests answered, by method, route and status"),
    row(HTTP_REQUEST_SECONDS, Kind::Histogram, Unit::Seconds, "Time from a request's head to its answer's head"),
    row(HTTP_CONNECTIONS, Kind::Gauge, Unit::Count, "Open HTTP connections"),
    row(TASK_FAILURES, Kind::Counter, Unit::Count, "Tasks that ended by a panic, by name"),
    row(STORE_SECONDS, Kind::Histogram, Unit::Seconds, "Time of a database transaction with its retries, by name"),
    row(STORE_RETRIES, Kind::Counter, Unit::Count, "Database transactions that were run again, by name"),
    row(STORE_AVAILABLE, Kind::Gauge, Unit::Count, "1 when the database answered last, else 0"),
    row(BUS_PUBLISHED, Kind::Counter, Unit::Count, "Messages committed to the bus by this node, by stream"),
    row(BUS_PUBLISH_SECONDS, Kind::Histogram, Unit::Seconds, "Time from publishing a batch to its commit"),
    row(BUS_STREAM_BYTES, Kind::Gauge, Unit::Bytes, "Bytes that a stream keeps, by stream"),
    row(BUS_STREAM_ENTRIES, Kind::Gauge, Unit::Count, "Entries that a stream keeps, by stream"),
    row(BUS_GROUP_LAG, Kind::Gauge, Unit::Count, "Entries that a group has not taken yet, by group"),
    row(CLUSTER_LEADER, Kind::Gauge, Unit::Count, "1 on the leader of the group, else 0"),
    row(CLUSTER_TERM, Kind::Gauge, Unit::Count, "The group's term as this node knows it"),
    row(CLUSTER_APPLIED, Kind::Gauge, Unit::Count, "Index of the last log entry applied here"),
    row(SERVICE_LEADER, Kind::Gauge, Unit::Count, "1 on the node that leads the services, else 0"),
    row(SERVICE_EPOCH, Kind::Gauge, Unit::Count, "The epoch in which this node leads the services, 0 when not"),
    row(SERVICE_TICK_SECONDS, Kind::Histogram, Unit::Seconds, "Time of one tick of a service, by service"),
    row(SERVICE_TICK_FAILURES, Kind::Counter, Unit::Count, "Ticks of a service that failed, by service"),
    row(SERVICE_LAST_SUCCESS, Kind::Gauge, Unit::Seconds, "When a service last succeeded, seconds since 1970"),
    row(SERVICE_ITEMS, Kind::Counter, Unit::Count, "Items a service dealt with, by service"),
    row(SERVICE_BEHIND, Kind::Gauge, Unit::Seconds, "How long the next success of a service is overdue, by service"),
    row(SERVICE_HAND_OVERS, Kind::Counter, Unit::Count, "Times that this node wanted another to lead the services because one was stuck"),
    row(DEAD_LETTERS, Kind::Counter, Unit::Count, "Messages put aside after their last attempt, by group"),
    row(DEAD_LETTERS_KEPT, Kind::Gauge, Unit::Count, "Messages that are put aside now, by group"),
    row(DEAD_LETTERS_REPLAYED, Kind::Counter, Unit::Count, "Messages that had their effect when they were replayed, by group"),
];

/// Bounds of the duration histograms, in seconds: a local call to a slow migration.
const SECONDS_BUCKETS: [f64; 14] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const fn row(name: &'static str, kind: Kind, unit: Unit, help: &'static str) -> Metric {
    Metric { name, kind, unit, help }
}

/// Installs the recorder for the process and describes every metric.
pub(super) fn install() -> Result<PrometheusHandle, BuildError> {
    let handle =
        PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?.install_recorder()?;
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
    Ok(handle)
}

/// An HTTP request was answered. `route` is the route's pattern, never the path asked for.
pub fn http_request(method: &'static str, route: &str, status: u16, elapsed: Duration) {
    counter!(HTTP_REQUESTS, "method" => method, "route" => route.to_owned(), "status" => status.to_string()).increment(1);
    histogram!(HTTP_REQUEST_SECONDS, "method" => method, "route" => route.to_owned()).record(elapsed);
}

/// A connection was opened (1) or closed (-1).
pub fn http_connections(change: f64) {
    gauge!(HTTP_CONNECTIONS).increment(change);
}

/// A task ended by a panic.
pub fn task_failed(task: &'static str) {
    counter!(TASK_FAILURES, "task" => task).increment(1);
}

/// A transaction was committed.
pub fn store_transaction(name: &'static str, elapsed: Duration) {
    histogram!(STORE_SECONDS, "name" => name).record(elapsed);
}

/// A request is run again because the database could not serve it.
pub fn store_retry() {
    counter!(STORE_RETRIES).increment(1);
}

/// Whether the database answered last.
pub fn store_available(available: bool) {
    gauge!(STORE_AVAILABLE).set(f64::from(u8::from(available)));
}

/// A batch was committed to a stream.
pub fn bus_published(stream: &'static str, messages: u64, elapsed: Duration) {
    counter!(BUS_PUBLISHED, "stream" => stream).increment(messages);
    histogram!(BUS_PUBLISH_SECONDS).record(elapsed);
}

/// How much a stream keeps.
pub fn bus_stream(stream: &'static str, entries: u64, bytes: u64) {
    gauge!(BUS_STREAM_ENTRIES, "stream" => stream).set(entries as f64);
    gauge!(BUS_STREAM_BYTES, "stream" => stream).set(bytes as f64);
}

/// Where this node stands in the group.
pub fn cluster(is_leader: bool, term: u64, applied_index: u64) {
    gauge!(CLUSTER_LEADER).set(f64::from(u8::from(is_leader)));
    gauge!(CLUSTER_TERM).set(term as f64);
    gauge!(CLUSTER_APPLIED).set(applied_index as f64);
}

/// Whether this node leads the services, and in which epoch.
pub fn services_leader(epoch: Option<u64>) {
    gauge!(SERVICE_LEADER).set(f64::from(u8::from(epoch.is_some())));
    gauge!(SERVICE_EPOCH).set(epoch.unwrap_or(0) as f64);
}

/// A service's tick succeeded at `unix_seconds`, having dealt with `items`.
pub fn service_tick_succeeded(service: &'static str, elapsed: Duration, items: u64, unix_seconds: i64) {
    histogram!(SERVICE_TICK_SECONDS, "service" => service).record(elapsed);
    counter!(SERVICE_ITEMS, "service" => service).increment(items);
    gauge!(SERVICE_LAST_SUCCESS, "service" => service).set(unix_seconds as f64);
}

/// How late a service is, and how many entries of its stream it has not dealt with.
pub fn service_behind(service: &'static str, seconds: f64, entries: Option<u64>) {
    gauge!(SERVICE_BEHIND, "service" => service).set(seconds);
    if let Some(entries) = entries {
        gauge!(BUS_GROUP_LAG, "group" => service).set(entries as f64);
    }
}

/// This node wants another to lead the services because one is stuck.
pub fn services_handed_over() {
    counter!(SERVICE_HAND_OVERS).increment(1);
}

/// A service's tick failed.
pub fn service_tick_failed(service: &'static str, elapsed: Duration) {
    histogram!(SERVICE_TICK_SECONDS, "service" => service).record(elapsed);
    counter!(SERVICE_TICK_FAILURES, "service" => service).increment(1);
}

/// A message was put aside.
pub fn dead_letter(group: &'static str) {
    counter!(DEAD_LETTERS, "group" => group).increment(1);
}

/// So many messages of a group are put aside.
pub fn dead_letters_kept(group: &'static str, letters: i64) {
    gauge!(DEAD_LETTERS_KEPT, "group" => group).set(letters as f64);
}

/// A message that had been put aside had its effect.
pub fn dead_letter_replayed(group: &'static str) {
    counter!(DEAD_LETTERS_REPLAYED, "group" => group).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_area_unit_and_kind() {
        let mut names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len(), "a name is used twice");
        for metric in METRICS {
            let name = metric.name;
            assert!(name.starts_with("praetor_"), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            match metric.unit {
                Unit::Seconds => assert!(name.ends_with("_seconds"), "{name}"),
                Unit::Bytes => assert!(name.ends_with("_bytes"), "{name}"),
                _ => assert!(!name.contains("_seconds") && !name.contains("_bytes"), "{name}"),
            }
            assert!(!metric.help.is_empty() && !metric.help.ends_with('.'), "{name}");
        }
    }
}
