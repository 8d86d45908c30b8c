//! Log lines: text on standard error by default, JSON by setting. Records of the `log` crate are taken in too.

use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::TelemetryError;
use crate::config::TelemetrySettings;

/// Whether the node has told its Raft to stop.
static RAFT_STOPS: AtomicBool = AtomicBool::new(false);

/// From now on openraft's own lines are left out: it calls every question that finds it stopped an error, and on the way
/// out of a node that is in order.
pub fn raft_stops() {
    RAFT_STOPS.store(true, Ordering::Relaxed);
}

pub(super) fn start(settings: &TelemetrySettings) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&settings.filter)?;
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(dynamic_filter_fn(|line, _| !(RAFT_STOPS.load(Ordering::Relaxed) && line.target().starts_with("openraft"))));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_span_events(FmtSpan::NONE);
    if settings.json {
        registry.with(layer.json().flatten_event(true)).try_init()?;
    } else {
        let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
        registry.with(layer.with_ansi(colour)).try_init()?;
    }
    Ok(())
}
