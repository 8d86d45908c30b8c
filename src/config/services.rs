//! The background services: which run, how often, how much at once. Names begin with `PREFECT_SERVER_SERVICES_`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::reader::{FromText, Reader};

/// Settings of all background services.
#[derive(Clone, Debug)]
pub struct ServicesSettings {
    /// Whether this node may lead the services: `--no-services` and `PRAETOR_SERVICES=false` say no; default yes.
    pub may_lead: bool,
    /// `_SCHEDULER_*`.
    pub scheduler: SchedulerSettings,
    /// `_LATE_RUNS_*`; loop 5 s.
    pub late_runs: LoopSettings,
    /// `_LATE_RUNS_AFTER_SECONDS`: how much past its time a run is late; default 15.
    pub late_after: Duration,
    /// `_PAUSE_EXPIRATIONS_*`; loop 5 s.
    pub pause_expirations: LoopSettings,
    /// `_CANCELLATION_CLEANUP_*`; loop 20 s.
    pub cancellation_cleanup: LoopSettings,
    /// `_CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS`: default 300.
    pub cancelling_timeout: Duration,
    /// `_FOREMAN_*`.
    pub foreman: ForemanSettings,
    /// `_REPOSSESSOR_*`; loop 15 s.
    pub repossessor: LoopSettings,
    /// `PRAETOR_SERVICES_REPOSSESSOR_GRACE_SECONDS`: how long holders of leases get to renew them after another node took
    /// the lead or the database came back; default 60, the shortest lease.
    pub repossessor_grace: Duration,
    /// `PRAETOR_SERVICES_RUN_LOGS_LOOP_SECONDS`: how often log lines of deleted runs are deleted; default 1.
    pub run_logs_period: Duration,
    /// `_CLEANUP_RECONCILER_*`; loop 5 s.
    pub cleanup_reconciler: LoopSettings,
    /// `_CLEANUP_RECONCILER_BATCH_SIZE`: default 100.
    pub cleanup_reconciler_batch_size: u64,
    /// `_DB_VACUUM_*`.
    pub vacuum: VacuumSettings,
    /// `_EVENT_PERSISTER_*`.
    pub event_persister: ConsumerSettings,
    /// `_TASK_RUN_RECORDER_*`.
    pub task_run_recorder: ConsumerSettings,
    /// `_TRIGGERS_ENABLED`: default yes.
    pub triggers_enabled: bool,
    /// `_EVENT_LOGGER_ENABLED`: whether each event is logged; default no.
    pub event_logger_enabled: bool,
    /// `PRAETOR_SERVICES_OUTBOX_SWEEPER_LOOP_SECONDS`: how often events left behind by a node that died are
    /// published; default 1.
    pub outbox_sweeper: LoopSettings,
    /// `PRAETOR_SERVICES_BACKGROUND_TASKS_LOOP_SECONDS`: how often the queue of background tasks is compared with the task
    /// runs; default 30.
    pub background_tasks: LoopSettings,
}

/// A service that runs by the clock.
#[derive(Clone, Debug)]
pub struct LoopSettings {
    /// `..._ENABLED`.
    pub enabled: bool,
    /// `..._LOOP_SECONDS`: from the end of one tick to the next.
    pub period: Duration,
}

/// A service that reads the bus.
#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    /// `..._ENABLED`.
    pub enabled: bool,
    /// `..._BATCH_SIZE`: messages written in one transaction at most; ours default to 500, as one statement carries
    /// them; the reference's smaller defaults are kept when set.
    pub batch_size: usize,
    /// `..._FLUSH_INTERVAL`: the longest wait for a batch to fill, seconds. We write what is there, so it only bounds.
    pub flush_interval: Duration,
}

/// `_SCHEDULER_*`.
#[derive(Clone, Debug)]
pub struct SchedulerSettings {
    /// `_ENABLED`, and `_LOOP_SECONDS` between visits to all deployments; default 60.
    pub all: LoopSettings,
    /// `_RECENT_DEPLOYMENTS_LOOP_SECONDS` between visits to those changed lately; default 5.
    pub recent_period: Duration,
    /// `_DEPLOYMENT_BATCH_SIZE`: default 100.
    pub deployment_batch_size: u64,
    /// `_INSERT_BATCH_SIZE`: runs inserted at once; default 500.
    pub insert_batch_size: usize,
    /// `_MAX_RUNS` ahead; default 100.
    pub max_runs: u64,
    /// `_MIN_RUNS` ahead; default 3.
    pub min_runs: u64,
    /// `_MAX_SCHEDULED_TIME` ahead; default 100 days.
    pub max_scheduled_time: Duration,
    /// `_MIN_SCHEDULED_TIME` ahead; default 1 hour.
    pub min_scheduled_time: Duration,
}

/// `_FOREMAN_*`.
#[derive(Clone, Debug)]
pub struct ForemanSettings {
    /// `_ENABLED`, `_LOOP_SECONDS`; loop 15 s.
    pub tick: LoopSettings,
    /// `_INACTIVITY_HEARTBEAT_MULTIPLE`: heartbeats missed before a worker is offline; default 3.
    pub inactivity_heartbeat_multiple: u32,
    /// `_FALLBACK_HEARTBEAT_INTERVAL_SECONDS`: default 30.
    pub fallback_heartbeat_interval: Duration,
    /// `_DEPLOYMENT_LAST_POLLED_TIMEOUT_SECONDS`: default 60.
    pub deployment_last_polled_timeout: Duration,
    /// `_WORK_QUEUE_LAST_POLLED_TIMEOUT_SECONDS`: default 60.
    pub work_queue_last_polled_timeout: Duration,
}

/// `_DB_VACUUM_*`.
#[derive(Clone, Debug)]
pub struct VacuumSettings {
    /// Whether old events go (`_ENABLED` names `events`, the default, or is true or false).
    pub events: bool,
    /// Whether old flow runs go (`_ENABLED` names `flow_runs` or is true).
    pub flow_runs: bool,
    /// `_LOOP_SECONDS`: default 3600.
    pub period: Duration,
    /// `_RETENTION_PERIOD`: age of a run that goes, seconds, above an hour; default 90 days.
    pub retention_period: Duration,
    /// `_BATCH_SIZE`: rows per transaction; default 200.
    pub batch_size: u64,
    /// `_EVENT_RETENTION_OVERRIDES`: JSON from event name to seconds; default heartbeats of runs 7 days.
    pub event_retention_overrides: BTreeMap<String, Duration>,
}

impl ServicesSettings {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            may_lead: reader.value(&["PRAETOR_SERVICES"], true),
            scheduler: SchedulerSettings::read(reader),
            late_runs: LoopSettings::read(reader, "LATE_RUNS", 5.0),
            late_after: service(reader, "LATE_RUNS_AFTER_SECONDS", Duration::from_secs(15)),
            pause_expirations: LoopSettings::read(reader, "PAUSE_EXPIRATIONS", 5.0),
            cancellation_cleanup: LoopSettings::read(reader, "CANCELLATION_CLEANUP", 20.0),
            cancelling_timeout: positive(reader, "CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS", 300.0),
            foreman: ForemanSettings::read(reader),
            repossessor: LoopSettings::read(reader, "REPOSSESSOR", 15.0),
            repossessor_grace: reader.value(&["PRAETOR_SERVICES_REPOSSESSOR_GRACE_SECONDS"], Duration::from_mins(1)),
            run_logs_period: reader.positive(&["PRAETOR_SERVICES_RUN_LOGS_LOOP_SECONDS"], 1.0),
            cleanup_reconciler: LoopSettings::read(reader, "CLEANUP_RECONCILER", 5.0),
            cleanup_reconciler_batch_size: count(reader, "CLEANUP_RECONCILER_BATCH_SIZE", 100),
            vacuum: VacuumSettings::read(reader),
            event_persister: ConsumerSettings::read(reader, "EVENT_PERSISTER"),
            task_run_recorder: ConsumerSettings::read(reader, "TASK_RUN_RECORDER"),
            triggers_enabled: service(reader, "TRIGGERS_ENABLED", true),
            event_logger_enabled: service(reader, "EVENT_LOGGER_ENABLED", false),
            outbox_sweeper: LoopSettings { enabled: true, period: reader.positive(&["PRAETOR_SERVICES_OUTBOX_SWEEPER_LOOP_SECONDS"], 1.0) },
            background_tasks: LoopSettings {
                enabled: true,
                period: reader.positive(&["PRAETOR_SERVICES_BACKGROUND_TASKS_LOOP_SECONDS"], 30.0),
            },
        }
    }
}

impl LoopSettings {
    fn read(reader: &mut Reader<'_>, name: &str, seconds: f64) -> Self {
        Self {
            enabled: service(reader, &format!("{name}_ENABLED"), true),
            period: positive(reader, &format!("{name}_LOOP_SECONDS"), seconds),
        }
    }
}

impl ConsumerSettings {
    fn read(reader: &mut Reader<'_>, name: &str) -> Self {
        Self {
            enabled: service(reader, &format!("{name}_ENABLED"), true),
            batch_size: count(reader, &format!("{name}_BATCH_SIZE"), 500) as usize,
            flush_interval: positive(reader, &format!("{name}_FLUSH_INTERVAL"), 5.0),
        }
    }
}

impl SchedulerSettings {
    fn read(reader: &mut Reader<'_>) -> Self {
        let settings = Self {
            all: LoopSettings::read(reader, "SCHEDULER", 60.0),
            recent_period: positive(reader, "SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS", 5.0),
            deployment_batch_size: count(reader, "SCHEDULER_DEPLOYMENT_BATCH_SIZE", 100),
            insert_batch_size: count(reader, "SCHEDULER_INSERT_BATCH_SIZE", 500) as usize,
            max_runs: count(reader, "SCHEDULER_MAX_RUNS", 100),
            min_runs: service(reader, "SCHEDULER_MIN_RUNS", 3),
            max_scheduled_time: positive(reader, "SCHEDULER_MAX_SCHEDULED_TIME", 100.0 * 86_400.0),
            min_scheduled_time: service(reader, "SCHEDULER_MIN_SCHEDULED_TIME", Duration::from_hours(1)),
        };
        if settings.min_runs > settings.max_runs {
            reader.problem("PREFECT_SERVER_SERVICES_SCHEDULER_MIN_RUNS must not be above ..._MAX_RUNS; lower it");
        }
        settings
    }
}

impl ForemanSettings {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            tick: LoopSettings::read(reader, "FOREMAN", 15.0),
            inactivity_heartbeat_multiple: count(reader, "FOREMAN_INACTIVITY_HEARTBEAT_MULTIPLE", 3) as u32,
            fallback_heartbeat_interval: positive(reader, "FOREMAN_FALLBACK_HEARTBEAT_INTERVAL_SECONDS", 30.0),
            deployment_last_polled_timeout: positive(reader, "FOREMAN_DEPLOYMENT_LAST_POLLED_TIMEOUT_SECONDS", 60.0),
            work_queue_last_polled_timeout: positive(reader, "FOREMAN_WORK_QUEUE_LAST_POLLED_TIMEOUT_SECONDS", 60.0),
        }
    }
}

impl VacuumSettings {
    fn read(reader: &mut Reader<'_>) -> Self {
        let kinds = service(reader, "DB_VACUUM_ENABLED", "events".to_owned());
        let (mut events, mut flow_runs) = (false, false);
        match bool::from_text(&kinds) {
            Ok(all) => (events, flow_runs) = (true, all),
            Err(_) => {
                for kind in kinds.split(',').map(str::trim) {
                    match kind {
                        "events" => events = true,
                        "flow_runs" => flow_runs = true,
                        other => reader
                            .problem(format!("PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED may name events and flow_runs; change {other:?}")),
                    }
                }
            }
        }
        let retention_period = service(reader, "DB_VACUUM_RETENTION_PERIOD", Duration::from_hours(2160));
        if retention_period <= Duration::from_hours(1) {
            reader.problem("PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD must be above an hour (3600)");
        }
        Self {
            events,
            flow_runs,
            period: positive(reader, "DB_VACUUM_LOOP_SECONDS", 3600.0),
            retention_period,
            batch_size: count(reader, "DB_VACUUM_BATCH_SIZE", 200),
            event_retention_overrides: overrides(reader),
        }
    }
}

fn overrides(reader: &mut Reader<'_>) -> BTreeMap<String, Duration> {
    let mut found = BTreeMap::from([("prefect.flow-run.heartbeat".to_owned(), Duration::from_hours(168))]);
    let text = service(reader, "DB_VACUUM_EVENT_RETENTION_OVERRIDES", String::new());
    if text.is_empty() {
        return found;
    }
    match serde_json::from_str::<BTreeMap<String, f64>>(&text) {
        Ok(given) if given.values().all(|seconds| *seconds > 0.0 && *seconds < 1e12) => {
            found = given.into_iter().map(|(name, seconds)| (name, Duration::from_secs_f64(seconds))).collect();
        }
        _ => reader.problem(
            "PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES must be JSON from event name to seconds above zero, such as {\"prefect.flow-run.heartbeat\": 86400}",
        ),
    }
    found
}

/// A value under the name of today or the one of earlier versions.
fn service<T: FromText>(reader: &mut Reader<'_>, rest: &str, default: T) -> T {
    let (long, short) = names(rest);
    reader.value(&[&long, &short], default)
}

fn positive(reader: &mut Reader<'_>, rest: &str, seconds: f64) -> Duration {
    let (long, short) = names(rest);
    reader.positive(&[&long, &short], seconds)
}

fn count(reader: &mut Reader<'_>, rest: &str, default: u64) -> u64 {
    let (long, short) = names(rest);
    reader.within(&[&long, &short], default, 1, 1_000_000)
}

fn names(rest: &str) -> (String, String) {
    (format!("PREFECT_SERVER_SERVICES_{rest}"), format!("PREFECT_API_SERVICES_{rest}"))
}

#[cfg(test)]
mod tests {
    use super::super::reader::Variables;
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (ServicesSettings, Vec<String>) {
        let variables: Variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut reader = Reader::new(&variables);
        let settings = ServicesSettings::read(&mut reader);
        (settings, reader.into_problems())
    }

    #[test]
    fn the_vacuum_reads_the_reference_s_three_ways_of_saying_what_goes() {
        const NAME: &str = "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED";
        for (text, events, flow_runs) in [("", true, false), ("true", true, true), ("false", true, false), ("flow_runs", false, true)] {
            let (settings, problems) = read(&[(NAME, text)]);
            assert_eq!((settings.vacuum.events, settings.vacuum.flow_runs), (events, flow_runs), "{text}");
            assert!(problems.is_empty());
        }
        assert_eq!(read(&[(NAME, "logs")]).1.len(), 1);
    }

    #[test]
    fn older_names_are_read_too() {
        let (settings, _) = read(&[("PREFECT_API_SERVICES_LATE_RUNS_LOOP_SECONDS", "0.5")]);
        assert_eq!(settings.late_runs.period, Duration::from_millis(500));
    }

    #[test]
    fn a_loop_without_a_pause_is_refused() {
        let (_, problems) = read(&[("PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS", "0")]);
        assert_eq!(problems, ["PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS must be above zero seconds"]);
    }
}
