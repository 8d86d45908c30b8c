//! What a node tells about itself.

use super::reader::Reader;

/// Settings of logs.
#[derive(Clone, Debug)]
pub struct TelemetrySettings {
    /// `PRAETOR_LOG`: a filter such as `info,praetor::cluster=debug`; default made from `PREFECT_SERVER_LOGGING_LEVEL`
    /// (`--log-level`), which defaults to INFO here.
    pub filter: String,
    /// `PRAETOR_LOG_JSON`: one JSON object per line in place of text; default no.
    pub json: bool,
}

impl TelemetrySettings {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let level: String =
            reader.value(&["PREFECT_SERVER_LOGGING_LEVEL", "PREFECT_LOGGING_SERVER_LEVEL"], "INFO".to_owned()).to_ascii_uppercase();
        // Raft's library warns of every node that is away, again and again; our own group says it once.
        let raft = if matches!(level.as_str(), "NOTSET" | "TRACE" | "DEBUG") { "info" } else { "error" };
        let (ours, others) = match level.as_str() {
            "NOTSET" | "TRACE" => ("trace", "debug"),
            "DEBUG" => ("debug", "info"),
            "INFO" => ("info", "warn"),
            "WARNING" | "WARN" => ("warn", "warn"),
            "ERROR" | "CRITICAL" | "FATAL" => ("error", "error"),
            other => {
                reader.problem(format!(
                    "PREFECT_SERVER_LOGGING_LEVEL (--log-level) must be DEBUG, INFO, WARNING, ERROR or CRITICAL; change {other:?}"
                ));
                ("info", "warn")
            }
        };
        Self {
            filter: reader.value(&["PRAETOR_LOG"], format!("{others},openraft={raft},praetor={ours}")),
            json: reader.value(&["PRAETOR_LOG_JSON"], false),
        }
    }
}
