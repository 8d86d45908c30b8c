//! `/ui-settings`, beside the API rather than below it: where the UI finds the API and what it must do to use it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::routing::get;
use serde::Serialize;

use crate::api::extract::Json;
use crate::api::ui_files::{Generation, UiFiles};
use crate::app::App;
use crate::config::ServerSettings;

/// The route of this file, to be mounted at the root.
pub fn router(files: Arc<UiFiles>) -> Router<App> {
    Router::new().route(&files.settings_path(), get(async move |State(app): State<App>, headers: HeaderMap| read(&app, &files, &headers)))
}

#[derive(Debug, Serialize)]
struct UiSettings {
    api_url: String,
    csrf_enabled: bool,
    auth: Option<&'static str>,
    flags: [&'static str; 0],
    default_ui: Generation,
    available_uis: Vec<Generation>,
    v1_base_url: Option<String>,
    v2_base_url: Option<String>,
}

/// Read what the UI needs to know. For everyone, as it says how to authenticate.
fn read(app: &App, files: &UiFiles, headers: &HeaderMap) -> Json<UiSettings> {
    let server = &app.settings().server;
    Json(UiSettings {
        api_url: server.ui_api_url.clone().unwrap_or_else(|| api_url(server, headers)),
        csrf_enabled: server.csrf_protection_enabled,
        auth: server.auth_string.as_ref().map(|_| "BASIC"),
        flags: [],
        default_ui: files.default_generation(),
        available_uis: files.available(),
        v1_base_url: files.base_url(Generation::V1).map(str::to_owned),
        v2_base_url: files.base_url(Generation::V2).map(str::to_owned),
    })
}

/// The API at the address that is listened on. Where that is no address to connect to (all interfaces, any port), the
/// address by which the browser came; the reference names one there that no browser can use.
fn api_url(server: &ServerSettings, headers: &HeaderMap) -> String {
    let everywhere = server.host.trim_matches(['[', ']']).parse().is_ok_and(|address: IpAddr| address.is_unspecified());
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text(header::HOST.as_str()) {
        Some(host) if everywhere || server.port == 0 => {
            let scheme = text("x-forwarded-proto").filter(|scheme| *scheme == "https").unwrap_or("http");
            format!("{scheme}://{host}{}", server.base_path)
        }
        _ => format!("http://{}:{}{}", server.host, server.port, server.base_path),
    }
}
