//! `/flow_runs/{id}/logs/download`: all log lines of a run as CSV, streamed page by page.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::missing;
use crate::api::error::{ApiError, chain};
use crate::api::extract::Path;
use crate::api::openapi::describe::{Answer, Operation};
use crate::api::openapi::{Routes, Schemas, get};
use crate::app::App;
use crate::id::FlowRunId;
use crate::model::filter::log::LogFilter;
use crate::model::filter::part::AnyOf;
use crate::model::log::{Log, LogSort};
use crate::store::{StoreError, flow_runs, logs};

/// Lines read at once.
const PAGE_LINES: u64 = 1000;

/// The route of this file.
pub fn router() -> Routes {
    Routes::tagged("Flow Runs").route("/flow_runs/{id}/logs/download", get(download))
}

/// What Python's `quote` leaves as it is.
const QUOTED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~');

/// A file of comma-separated values.
struct Csv {
    disposition: String,
    body: Body,
}

impl IntoResponse for Csv {
    fn into_response(self) -> Response {
        let headers = [(header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, self.disposition)];
        (headers, self.body).into_response()
    }
}

impl Answer for Csv {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        operation.answer(StatusCode::OK, "text/csv", schemas.output::<String>());
    }
}

/// Download the log of a flow run.
async fn download(State(app): State<App>, Path(id): Path<FlowRunId>) -> Result<Csv, ApiError> {
    let run = flow_runs::read(&mut app.read("flow_runs.read").await?, id).await?.ok_or_else(missing)?;
    let filename = format!("{}-logs.csv", run.name);
    let disposition = format!("attachment; filename=\"flow-run-logs.csv\"; filename*=UTF-8''{}", utf8_percent_encode(&filename, QUOTED));
    // The state is the offset of the next page; `None` after the last.
    let pages = stream::try_unfold(Some(0), move |offset| {
        let app = app.clone();
        async move {
            let Some(offset) = offset else { return Ok::<_, StoreError>(None) };
            let lines = page(&app, id, offset)
                .await
                .inspect_err(|error| tracing::error!(error = %chain(error), flow_run.id = %id, "a download of logs ends half-way"))?;
            let mut text = if offset == 0 { "timestamp,level,flow_run_id,task_run_id,message\r\n".to_owned() } else { String::new() };
            for line in &lines {
                text.push_str(&csv_line(line));
            }
            let next = (lines.len() as u64 == PAGE_LINES).then_some(offset + PAGE_LINES);
            Ok(Some((Bytes::from(text), next)))
        }
    });
    Ok(Csv { disposition, body: Body::from_stream(pages) })
}

async fn page(app: &App, id: FlowRunId, offset: u64) -> Result<Vec<Log>, StoreError> {
    let filter = LogFilter { flow_run_id: Some(AnyOf::of(vec![id])), ..LogFilter::default() };
    logs::list(&mut app.read("logs.download").await?, &filter, LogSort::TimestampAsc, PAGE_LINES, offset).await
}

fn csv_line(log: &Log) -> String {
    let quoted = |text: &str| {
        if text.contains([',', '"', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
    };
    let micros = log.timestamp.timestamp_subsec_micros();
    let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    format!(
        "{}{fraction}+00:00,{},{},{},{}\r\n",
        log.timestamp.format("%Y-%m-%d %H:%M:%S"),
        log.level,
        log.flow_run_id.map(|id| id.to_string()).unwrap_or_default(),
        log.task_run_id.map(|id| id.to_string()).unwrap_or_default(),
        quoted(&log.message)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::LogId;

    #[test]
    fn lines_are_pythons_csv() {
        let log = Log {
            id: LogId(uuid::Uuid::nil()),
            created: None,
            updated: None,
            name: "n".into(),
            level: 20,
            message: "a, \"b\"\nc".into(),
            timestamp: crate::model::json::parse_timestamp("2026-01-02T03:04:05.5Z").expect("valid"),
            flow_run_id: Some(FlowRunId(uuid::Uuid::nil())),
            task_run_id: None,
        };
        let expected = "2026-01-02 03:04:05.500000+00:00,20,00000000-0000-0000-0000-000000000000,,\"a, \"\"b\"\"\nc\"\r\n";
        assert_eq!(csv_line(&log), expected);
    }
}
