//! Settings: read once from the environment and the command line, checked as a whole, then never changed.
//!
//! The reference's variables keep their names, older aliases included; ours begin with `PRAETOR_`. A flag is put over
//! the environment under its variable's name. [`Settings::load`] reports every problem at once, each as a sentence that
//! says what to change. Broker, docket and Redis settings of the reference are accepted and named in
//! [`Settings::notes`], since nothing here needs them. Secrets print as stars.
//!
//! To add one: a field in `config/<part>.rs` with unit, default and effect, and its line in that part's `read`.

mod actions;
mod bus;
mod cluster;
mod database;
mod events;
mod failpoint;
mod orchestration;
pub mod planted;
mod reader;
mod secret;
mod server;
mod services;
mod telemetry;

use std::path::PathBuf;

pub use actions::ActionsSettings;
pub use bus::BusSettings;
pub use cluster::ClusterSettings;
pub use database::{DatabaseSettings, DatabaseTls};
pub use events::EventsSettings;
pub use failpoint::Failpoint;
pub use orchestration::OrchestrationSettings;
pub use planted::Planted;
use reader::Reader;
pub use reader::Variables;
pub use secret::Secret;
pub use server::ServerSettings;
pub use services::{ConsumerSettings, ForemanSettings, LoopSettings, SchedulerSettings, ServicesSettings, VacuumSettings};
pub use telemetry::TelemetrySettings;

/// Everything a node is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `PREFECT_HOME`: where files go unless told otherwise; default `~/.prefect`.
    pub home: PathBuf,
    /// The HTTP API.
    pub server: ServerSettings,
    /// The database.
    pub database: DatabaseSettings,
    /// The group of nodes.
    pub cluster: ClusterSettings,
    /// The replicated bus.
    pub bus: BusSettings,
    /// Background services.
    pub services: ServicesSettings,
    /// Calls of automations to the world outside.
    pub actions: ActionsSettings,
    /// Events.
    pub events: EventsSettings,
    /// Run orchestration.
    pub orchestration: OrchestrationSettings,
    /// Logs.
    pub telemetry: TelemetrySettings,
    /// `PRAETOR_FAILPOINT`: the place at which this node kills itself, such as `outbox.after_commit=kill`; for tests,
    /// default none.
    pub failpoint: Option<Failpoint>,
    /// Sentences to log once at start: what was set and is not needed, what nobody knows.
    pub notes: Vec<String>,
}

/// Why a node does not start: all problems of its settings.
#[derive(Debug, thiserror::Error)]
#[error("the settings are wrong:\n  - {}", .problems.join("\n  - "))]
pub struct SettingsError {
    /// One sentence each.
    pub problems: Vec<String>,
}

/// Beginnings of the reference's settings which only its Redis, broker and docket need.
const NOT_NEEDED: [&str; 9] = [
    "PREFECT_REDIS_",
    "PREFECT_SERVER_DOCKET_",
    "PREFECT_MESSAGING_",
    "PREFECT_SERVER_EVENTS_MESSAGING_",
    "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE",
    "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE",
    "PREFECT_SERVER_SERVICES_TRIGGERS_PG_NOTIFY_",
    "PREFECT_SERVER_ANALYTICS_ENABLED",
];

impl Settings {
    /// Reads and checks `variables`.
    ///
    /// # Errors
    /// All problems found, none swallowed.
    pub fn load(variables: &Variables) -> Result<Self, SettingsError> {
        let mut reader = Reader::new(variables);
        let home = reader.optional(&["PREFECT_HOME"]).or_else(|| std::env::home_dir().map(|home| home.join(".prefect")));
        let home: PathBuf = home.unwrap_or_else(|| {
            reader.problem("there is no home directory; set PREFECT_HOME to a directory that may be written");
            PathBuf::new()
        });
        let mut settings = Self {
            server: ServerSettings::read(&mut reader),
            database: DatabaseSettings::read(&mut reader, &home),
            cluster: ClusterSettings::read(&mut reader, &home),
            bus: BusSettings::read(&mut reader),
            services: ServicesSettings::read(&mut reader),
            actions: ActionsSettings::read(&mut reader),
            events: EventsSettings::read(&mut reader),
            orchestration: OrchestrationSettings::read(&mut reader),
            telemetry: TelemetrySettings::read(&mut reader),
            failpoint: reader.optional(&["PRAETOR_FAILPOINT"]),
            notes: Vec::new(),
            home,
        };
        if let Some(Failpoint::Planted(bug)) = settings.failpoint {
            bug.plant();
        }
        let embedded = settings.database.url.expose().starts_with("sqlite");
        if embedded && settings.database.url.expose().contains(":memory:") && settings.cluster.peers.len() > 1 {
            reader.problem(
                "nodes of a group cannot share a database in memory; set PREFECT_API_DATABASE_CONNECTION_URL to a PostgreSQL address",
            );
        }
        settings.notes = notes(&reader);
        let problems = reader.into_problems();
        if problems.is_empty() { Ok(settings) } else { Err(SettingsError { problems }) }
    }

    /// The variables of this process that settings are read from, names in upper case.
    pub fn environment() -> Variables {
        std::env::vars()
            .map(|(name, value)| (name.to_ascii_uppercase(), value))
            .filter(|(name, _)| ["PREFECT_", "PRAETOR_", "ORION_"].iter().any(|prefix| name.starts_with(prefix)))
            .collect()
    }
}

fn notes(reader: &Reader<'_>) -> Vec<String> {
    let mut notes = reader.notes().to_vec();
    let not_needed = reader.unread(&NOT_NEEDED);
    if !not_needed.is_empty() {
        notes.push(format!("not needed here, and without effect: {}", not_needed.join(", ")));
    }
    // A warning and no refusal: Kubernetes puts PRAETOR_PORT and the like beside a service of that name.
    let unknown: Vec<String> = reader.unread(&["PRAETOR_"]).into_iter().filter(|name| !name.starts_with("PRAETOR_TEST_")).collect();
    if !unknown.is_empty() {
        notes.push(format!("no setting has this name, and it has no effect: {}", unknown.join(", ")));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let mut variables: Variables = Variables::from([("PREFECT_HOME".to_owned(), "/home/p".to_owned())]);
        variables.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Settings::load(&variables)
    }

    #[test]
    fn defaults_are_the_reference_s() {
        let settings = load(&[]).expect("defaults are right");
        assert_eq!((settings.server.host.as_str(), settings.server.port), ("127.0.0.1", 4200));
        assert_eq!(settings.server.default_limit, 200);
        assert_eq!(settings.database.url.expose(), "sqlite+aiosqlite:////home/p/prefect.db");
        assert!(settings.notes.is_empty());
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let error = load(&[
            ("PREFECT_SERVER_API_PORT", "99999"),
            ("PRAETOR_CLUSTER_LISTEN", "0.0.0.0:7100"),
            ("PREFECT_SERVER_API_AUTH_STRING", "nocolon"),
        ])
        .expect_err("three things are wrong");
        assert_eq!(error.problems.len(), 3, "{error}");
        assert!(!error.to_string().contains("nocolon"), "a secret was shown: {error}");
    }

    #[test]
    fn settings_of_the_reference_s_redis_are_accepted_and_noted() {
        let settings =
            load(&[("PREFECT_REDIS_MESSAGING_HOST", "redis"), ("PREFECT_SERVER_DOCKET_URL", "redis://redis"), ("PRAETOR_NODE_IDD", "3")])
                .expect("accepted");
        assert_eq!(
            settings.notes,
            [
                "not needed here, and without effect: PREFECT_REDIS_MESSAGING_HOST, PREFECT_SERVER_DOCKET_URL",
                "no setting has this name, and it has no effect: PRAETOR_NODE_IDD"
            ]
        );
    }

    #[test]
    fn secrets_do_not_show_in_debug() {
        let settings = load(&[
            ("PREFECT_SERVER_API_AUTH_STRING", "admin:hunter2"),
            ("PREFECT_API_DATABASE_CONNECTION_URL", "postgresql://me:hunter2@db/p"),
            ("PRAETOR_CLUSTER_TOKEN", "hunter2hunter2hunter2"),
        ])
        .expect("right");
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
