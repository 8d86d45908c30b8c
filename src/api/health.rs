//! What a load balancer, Kubernetes and Prometheus ask, beside the API and without credentials: `/livez` (the process
//! runs), `/readyz` (it can work; `?verbose` tells part by part) and `/metrics`. They answer from the first moment on,
//! before there is a database.

use std::fmt::Write as _;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::telemetry::Telemetry;
use crate::telemetry::readiness::Readiness;

/// What the probes look at.
#[derive(Clone)]
pub struct Probes {
    /// The parts of the node.
    pub readiness: Readiness,
    /// Renders the metrics.
    pub telemetry: Telemetry,
}

/// The routes, outside of the API's base path.
pub fn router(probes: Probes) -> Router {
    Router::new().route("/livez", get(async || "ok\n")).route("/readyz", get(readyz)).route("/metrics", get(metrics)).with_state(probes)
}

/// 200 where every part can work, else 503; the body names each part that cannot, and with `?verbose` all of them.
async fn readyz(State(probes): State<Probes>, RawQuery(query): RawQuery) -> Response {
    let verbose = query.is_some_and(|query| query.split('&').any(|part| part == "verbose" || part.starts_with("verbose=")));
    let parts = probes.readiness.parts();
    let ready = probes.readiness.is_ready();
    let mut body = String::new();
    for (part, reason) in &parts {
        let written = match reason {
            Some(reason) => writeln!(body, "[-] {part}: {reason}"),
            None if verbose => match probes.readiness.noted(part) {
                Some(note) => writeln!(body, "[+] {part}: ok, {note}"),
                None => writeln!(body, "[+] {part}: ok"),
            },
            None => Ok(()),
        };
        written.expect("writing to a string cannot fail");
    }
    body.push_str(if ready { "ready\n" } else { "not ready\n" });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, body).into_response()
}

/// Prometheus' text form.
async fn metrics(State(probes): State<Probes>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], probes.telemetry.render()).into_response()
}
