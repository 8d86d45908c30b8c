//! Logs and metrics of a node.
//!
//! ERROR means that a person must act, WARN that something is degraded, INFO is the life of the node and never a
//! request. Messages read alone, and their values are fields too. Metrics are in [`metrics`], as typed functions.

pub mod logs;
pub mod metrics;
pub mod readiness;

use crate::config::TelemetrySettings;

/// What was set up: renders the metrics.
#[derive(Clone)]
pub struct Telemetry {
    recorder: metrics_exporter_prometheus::PrometheusHandle,
}

/// Why logs or metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter does not parse.
    #[error("PRAETOR_LOG does not read as a filter such as `info,praetor=debug`")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody set up logs before.
    #[error("logs were set up before in this process")]
    Logs(#[from] tracing_subscriber::util::TryInitError),
    /// Somebody set up metrics before, or a bucket list is empty.
    #[error("metrics could not be set up")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

impl Telemetry {
    /// Sets up logs and metrics for the process; once only.
    ///
    /// # Errors
    /// A filter that does not parse, or a second call.
    pub fn start(settings: &TelemetrySettings) -> Result<Self, TelemetryError> {
        logs::start(settings)?;
        let recorder = metrics::install()?;
        Ok(Self { recorder })
    }

    /// All metrics in Prometheus' text form.
    pub fn render(&self) -> String {
        self.recorder.render()
    }

    /// Folds what histograms gathered; to be called every few seconds, or their samples pile up.
    pub fn upkeep(&self) {
        self.recorder.run_upkeep();
    }
}

/// An error with all its sources, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
