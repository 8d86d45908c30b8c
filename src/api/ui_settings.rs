//! `/ui-settings`, beside the API rather than below it: where a UI finds the API and what it must do to use it. No UI
//! is served from here, so none is named as available; one that is served by something else can ask this node.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde::Serialize;

use crate::api::extract::Json;
use crate::app::App;

/// The route of this file, to be mounted at the root.
pub fn router() -> Router<App> {
    Router::new().route("/ui-settings", get(read))
}

#[derive(Debug, Serialize)]
struct UiSettings {
    api_url: String,
    csrf_enabled: bool,
    auth: Option<&'static str>,
    flags: [&'static str; 0],
    default_ui: &'static str,
    available_uis: [&'static str; 0],
    v1_base_url: Option<&'static str>,
    v2_base_url: Option<&'static str>,
}

/// Read what a UI needs to know. For everyone, as it says how to authenticate.
async fn read(State(app): State<App>) -> Json<UiSettings> {
    let server = &app.settings().server;
    let api_url = server.ui_api_url.clone().unwrap_or_else(|| format!("http://{}:{}{}", server.host, server.port, server.base_path));
    Json(UiSettings {
        api_url,
        csrf_enabled: server.csrf_protection_enabled,
        auth: server.auth_string.as_ref().map(|_| "BASIC"),
        flags: [],
        default_ui: "v2",
        available_uis: [],
        v1_base_url: None,
        v2_base_url: None,
    })
}
