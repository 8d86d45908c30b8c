//! `/collections`: what is known of integrations. The lists are those of an installed `prefect` package, read at each
//! request since they change with it; without a package, the process worker is described here, as every `prefect` has it.

use axum::extract::State;
use serde_json::{Map, Value, json};

use crate::api::error::ApiError;
use crate::api::extract::{Json, Path};
use crate::api::openapi::{Routes, get};
use crate::app::App;
use crate::blocks::registry;

/// The views that the reference knows.
const VIEWS: [&str; 4] = ["aggregate-block-metadata", "aggregate-flow-metadata", "aggregate-worker-metadata", "demo-flows"];

const WORKERS: &str = "aggregate-worker-metadata";

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Collections").route("/collections/views/{view}", get(read))
}

/// Read a view.
async fn read(State(app): State<App>, Path(view): Path<String>) -> Result<Json<Map<String, Value>>, ApiError> {
    if !VIEWS.contains(&view.as_str()) {
        return Err(ApiError::not_found(format!("View {view} not found in registry")));
    }
    if let Some(package) = registry::installed_package(app.settings().server.prefect_package.as_deref()).await {
        let path = package.join("server/api/collections_data/views").join(format!("{view}.json"));
        match tokio::fs::read(&path).await {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(content) => return Ok(Json(content)),
                Err(error) => tracing::warn!("{} is no list of a package: {error}", path.display()),
            },
            Err(error) => tracing::debug!("{} is not there: {error}", path.display()),
        }
    }
    if view == WORKERS {
        return Ok(Json(Map::from_iter([("prefect".to_owned(), json!({"process": process_worker()}))])));
    }
    Err(ApiError::not_found(format!("Requested content missing for view {view}")))
}

fn process_worker() -> Value {
    let texts = |title: &str, description: &str| json!({"title": title, "description": description, "type": "object", "additionalProperties": {"type": "string"}});
    let names = ["command", "env", "labels", "name", "stream_output", "working_dir"];
    let job: Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), Value::from(format!("{{{{ {name} }}}}")))).collect();
    json!({
        "type": "process",
        "display_name": "Process",
        "description": "Runs flows as processes on the machine of the worker.",
        "documentation_url": "https://docs.prefect.io/latest/api-ref/prefect/workers/process/",
        "install_command": "pip install prefect",
        "is_beta": false,
        "logo_url": "https://cdn.sanity.io/images/3ugk85nk/production/356e6766a91baf20e1d08bbe16e8b5aaef4d8643-48x48.png",
        "default_base_job_configuration": {
            "job_configuration": job,
            "variables": {
                "type": "object",
                "properties": {
                    "name": {"title": "Name", "description": "The name of the process that a worker starts.", "type": "string"},
                    "env": texts("Environment Variables", "Variables of the environment that a flow run is started with."),
                    "labels": texts("Labels", "Labels of the process that a worker starts."),
                    "command": {
                        "title": "Command",
                        "description": "What to start a flow run with. Leave it empty to let the worker choose.",
                        "type": "string",
                    },
                    "stream_output": {
                        "title": "Stream Output",
                        "description": "Whether the worker passes on to its own output what a flow run prints.",
                        "default": true,
                        "type": "boolean",
                    },
                    "working_dir": {
                        "title": "Working Directory",
                        "description": "Where a flow run is started; otherwise in a directory of its own, which is removed afterwards.",
                        "type": "string",
                        "format": "path",
                    },
                },
            },
        },
    })
}
