//! Log lines: text on standard error by default, JSON by setting. Records of the `log` crate are taken in too.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::TelemetryError;
use crate::config::TelemetrySettings;

pub(super) fn start(settings: &TelemetrySettings) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&settings.filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_span_events(FmtSpan::NONE);
    if settings.json {
        registry.with(layer.json().flatten_event(true)).try_init()?;
    } else {
        let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
        registry.with(layer.with_ansi(colour)).try_init()?;
    }
    Ok(())
}
