//! `/admin`: settings, and where results go by default. (`/admin/version` is in `root.rs`.)

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::extract::Json;
use crate::api::openapi::{Routes, get};
use crate::app::App;
use crate::config::{LoopSettings, Secret, Settings};
use crate::id::BlockDocumentId;
use crate::store::{block_documents, block_schemas, storage_defaults as store};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Admin")
        .route("/admin/settings", get(settings))
        .route("/admin/storage", get(read_storage).put(update_storage).delete(clear_storage))
}

/// The default storage of results.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ServerDefaultResultStorage")]
struct Storage {
    default_result_storage_block_id: Option<BlockDocumentId>,
}

/// Read the default storage of results.
async fn read_storage(State(app): State<App>) -> Result<Json<Storage>, ApiError> {
    let id = store::read(&mut app.read("admin.read_storage").await?).await?;
    Ok(Json(Storage { default_result_storage_block_id: id }))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "ServerDefaultResultStorageUpdate")]
struct StorageUpdate {
    default_result_storage_block_id: BlockDocumentId,
}

/// Set the default storage of results: a block that can write paths.
async fn update_storage(State(app): State<App>, Json(body): Json<StorageUpdate>) -> Result<Json<Storage>, ApiError> {
    let id = body.default_result_storage_block_id;
    let mut tx = app.begin("admin.update_storage").await?;
    let document = block_documents::lock(&mut tx, id).await?;
    let document = document.ok_or_else(|| ApiError::not_found(format!("Block document {id} not found.")))?;
    let schema = block_schemas::by_ids(&mut tx, &[document.block_schema_id]).await?.pop();
    if !schema.is_some_and(|schema| schema.capabilities.iter().any(|capability| capability == "write-path")) {
        let detail = format!("Block document {id} cannot be used for result storage.");
        return Err(ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    store::write(&mut tx, app.now(), id).await?;
    tx.commit().await?;
    Ok(Json(Storage { default_result_storage_block_id: Some(id) }))
}

/// Set no default storage of results.
async fn clear_storage(State(app): State<App>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("admin.clear_storage").await?;
    store::clear(&mut tx).await?;
    tx.commit().await?;
    Ok(NoContent)
}

/// The settings under the reference's names, as far as there are such settings here. Secrets are stars.
async fn settings(State(app): State<App>) -> Json<Value> {
    Json(described(app.settings()))
}

fn described(settings: &Settings) -> Value {
    json!({
        "home": settings.home,
        "server": {
            "logging_level": logging_level(&settings.telemetry.filter),
            "metrics_enabled": settings.server.metrics_enabled,
            "register_blocks_on_start": settings.server.register_blocks_on_start,
            "deployment_schedule_max_scheduled_runs": settings.orchestration.max_scheduled_runs,
            "api": api(settings),
            "concurrency": {
                "initial_deployment_lease_duration": seconds(settings.orchestration.initial_deployment_lease),
                "maximum_concurrency_slot_wait_seconds": seconds(settings.orchestration.maximum_concurrency_slot_wait),
            },
            "database": database(settings),
            "deployments": {"concurrency_slot_wait_seconds": seconds(settings.orchestration.deployment_concurrency_slot_wait)},
            "events": events(settings),
            "flow_run_graph": {
                "max_nodes": settings.orchestration.graph_max_nodes,
                "max_artifacts": settings.orchestration.graph_max_artifacts,
            },
            "logs": {
                "stream_out_enabled": settings.events.logs_stream_out_enabled,
                "stream_publishing_enabled": settings.events.logs_stream_publishing_enabled,
            },
            "services": services(settings),
            "tasks": {
                "tag_concurrency_slot_wait_seconds": seconds(settings.orchestration.tag_concurrency_slot_wait),
                "max_cache_key_length": settings.orchestration.max_cache_key_length,
                "scheduling": {
                    "max_scheduled_queue_size": settings.orchestration.max_scheduled_queue_size,
                    "max_retry_queue_size": settings.orchestration.max_retry_queue_size,
                    "pending_task_timeout": iso(settings.orchestration.pending_task_timeout),
                },
            },
            "ui": {
                "enabled": settings.server.ui_enabled,
                "api_url": settings.server.ui_api_url,
                "serve_base": settings.server.ui_serve_base,
                "static_directory": settings.server.ui_static_directory,
            },
            "worker_channel": {
                "cleanup_lease_seconds": seconds(settings.orchestration.cleanup_lease),
                "cleanup_max_delivery_attempts": settings.orchestration.cleanup_max_delivery_attempts,
            },
        },
    })
}

fn api(settings: &Settings) -> Value {
    let server = &settings.server;
    json!({
        "auth_string": stars(server.auth_string.as_ref()),
        "host": server.host,
        "port": server.port,
        "base_path": server.base_path,
        "default_limit": server.default_limit,
        "keepalive_timeout": server.keepalive_timeout.as_secs(),
        "csrf_protection_enabled": server.csrf_protection_enabled,
        "csrf_token_expiration": iso(server.csrf_token_expiration),
        "cors_allowed_origins": server.cors_allowed_origins.join(","),
        "cors_allowed_methods": server.cors_allowed_methods.join(","),
        "cors_allowed_headers": server.cors_allowed_headers.join(","),
        "websocket_ping_interval": seconds(server.websocket_ping_interval),
        "websocket_ping_timeout": seconds(server.websocket_ping_timeout),
        "max_parameter_size": server.max_parameter_bytes,
    })
}

fn database(settings: &Settings) -> Value {
    let database = &settings.database;
    let tls = database.tls.as_ref();
    json!({
        "connection_url": stars(Some(&database.url)),
        "timeout": seconds(database.statement_timeout),
        "connection_timeout": seconds(database.connection_timeout),
        "migrate_on_start": database.migrate_on_start,
        "migration_timeout": database.migration_timeout.map(seconds),
        "sqlalchemy": {
            "pool_size": database.connections_max,
            "max_overflow": 0,
            "pool_timeout": seconds(database.pool_timeout),
            "pool_recycle": database.pool_recycle.map_or(json!(-1), |every| json!(every.as_secs())),
            "connect_args": {
                "application_name": database.application_name,
                "search_path": database.search_path,
                "statement_cache_size": database.statement_cache_size,
                "tls": {
                    "enabled": tls.is_some(),
                    "ca_file": tls.and_then(|tls| tls.ca_file.as_ref()),
                    "cert_file": tls.and_then(|tls| tls.cert_file.as_ref()),
                    "key_file": tls.and_then(|tls| tls.key_file.as_ref()),
                    "check_hostname": tls.is_none_or(|tls| tls.check_hostname),
                },
            },
        },
    })
}

fn events(settings: &Settings) -> Value {
    let events = &settings.events;
    json!({
        "stream_out_enabled": events.stream_out_enabled,
        "related_resource_cache_ttl": iso(events.related_resource_cache_ttl),
        "maximum_labels_per_resource": events.maximum_labels_per_resource,
        "maximum_related_resources": events.maximum_related_resources,
        "maximum_size_bytes": events.maximum_size_bytes,
        "maximum_event_name_length": events.maximum_event_name_length,
        "expired_bucket_buffer": iso(events.expired_bucket_buffer),
        "proactive_granularity": iso(events.proactive_granularity),
        "retention_period": iso(events.retention_period),
        "maximum_websocket_backfill": iso(events.maximum_websocket_backfill),
        "websocket_backfill_page_size": events.websocket_backfill_page_size,
    })
}

fn services(settings: &Settings) -> Value {
    let services = &settings.services;
    let tick = |tick: &LoopSettings| json!({"enabled": tick.enabled, "loop_seconds": seconds(tick.period)});
    let with = |mut whole: Value, rest: Value| {
        if let (Some(whole), Value::Object(rest)) = (whole.as_object_mut(), rest) {
            whole.extend(rest);
        }
        whole
    };
    let vacuum = &services.vacuum;
    let vacuumed: Vec<&str> = [("events", vacuum.events), ("flow_runs", vacuum.flow_runs)]
        .into_iter()
        .filter_map(|(name, enabled)| enabled.then_some(name))
        .collect();
    let overrides: serde_json::Map<String, Value> =
        vacuum.event_retention_overrides.iter().map(|(name, period)| (name.clone(), iso(*period).into())).collect();
    let scheduler = &services.scheduler;
    let foreman = &services.foreman;
    json!({
        "cancellation_cleanup":
            with(tick(&services.cancellation_cleanup), json!({"cancelling_timeout_seconds": seconds(services.cancelling_timeout)})),
        "db_vacuum": {
            "enabled": vacuumed,
            "loop_seconds": seconds(vacuum.period),
            "retention_period": iso(vacuum.retention_period),
            "batch_size": vacuum.batch_size,
            "event_retention_overrides": overrides,
        },
        "event_persister": {
            "enabled": services.event_persister.enabled,
            "batch_size": services.event_persister.batch_size,
            "flush_interval": seconds(services.event_persister.flush_interval),
        },
        "event_logger": {"enabled": services.event_logger_enabled},
        "foreman": with(
            tick(&foreman.tick),
            json!({
                "inactivity_heartbeat_multiple": foreman.inactivity_heartbeat_multiple,
                "fallback_heartbeat_interval_seconds": foreman.fallback_heartbeat_interval.as_secs(),
                "deployment_last_polled_timeout_seconds": foreman.deployment_last_polled_timeout.as_secs(),
                "work_queue_last_polled_timeout_seconds": foreman.work_queue_last_polled_timeout.as_secs(),
            }),
        ),
        "late_runs": with(tick(&services.late_runs), json!({"after_seconds": iso(services.late_after)})),
        "scheduler": with(
            tick(&scheduler.all),
            json!({
                "deployment_batch_size": scheduler.deployment_batch_size,
                "max_runs": scheduler.max_runs,
                "min_runs": scheduler.min_runs,
                "max_scheduled_time": iso(scheduler.max_scheduled_time),
                "min_scheduled_time": iso(scheduler.min_scheduled_time),
                "insert_batch_size": scheduler.insert_batch_size,
                "recent_deployments_loop_seconds": seconds(scheduler.recent_period),
            }),
        ),
        "pause_expirations": tick(&services.pause_expirations),
        "repossessor": tick(&services.repossessor),
        "cleanup_reconciler":
            with(tick(&services.cleanup_reconciler), json!({"batch_size": services.cleanup_reconciler_batch_size})),
        "task_run_recorder": {
            "enabled": services.task_run_recorder.enabled,
            "batch_size": services.task_run_recorder.batch_size,
            "flush_interval": seconds(services.task_run_recorder.flush_interval),
        },
        "triggers": {"enabled": services.triggers_enabled},
    })
}

/// The level of our own messages, in the reference's words.
fn logging_level(filter: &str) -> &'static str {
    let of = |part: &str| match part.to_ascii_lowercase().as_str() {
        "trace" | "debug" => Some("DEBUG"),
        "info" => Some("INFO"),
        "warn" | "warning" => Some("WARNING"),
        "error" => Some("ERROR"),
        "off" => Some("CRITICAL"),
        _ => None,
    };
    let parts = || filter.split(',').map(str::trim);
    let own = parts().find_map(|part| of(part.strip_prefix("praetor=")?));
    own.or_else(|| parts().find_map(of)).unwrap_or("INFO")
}

fn stars(secret: Option<&Secret>) -> Option<&'static str> {
    secret.map(|_| "**********")
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// A duration as pydantic writes it: `P1DT2H`, `PT5M`, `PT0S`.
fn iso(duration: Duration) -> String {
    let whole = duration.as_secs();
    let mut text = String::from("P");
    if whole >= 86_400 {
        text += &format!("{}D", whole / 86_400);
    }
    let mut time = String::new();
    for (unit, size, above) in [('H', 3600, 86_400), ('M', 60, 3600)] {
        let count = whole % above / size;
        if count > 0 {
            time += &format!("{count}{unit}");
        }
    }
    let rest = (whole % 60) as f64 + f64::from(duration.subsec_micros()) / 1e6;
    if rest > 0.0 {
        time += &format!("{rest}S");
    }
    match (time.is_empty(), text.len() > 1) {
        (true, true) => text,
        (true, false) => "PT0S".to_owned(),
        (false, _) => text + "T" + &time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_pydantic_writes_them() {
        for (seconds, text) in
            [(0.0, "PT0S"), (5.0, "PT5S"), (3600.0, "PT1H"), (604_800.0, "P7D"), (93_784.5, "P1DT2H3M4.5S"), (300.0, "PT5M")]
        {
            assert_eq!(iso(Duration::from_secs_f64(seconds)), text);
        }
    }

    #[test]
    fn the_logging_level_is_that_of_our_own_messages() {
        for (filter, level) in
            [("warn,openraft=error,praetor=info", "INFO"), ("debug", "DEBUG"), ("openraft=error", "INFO"), ("error,x=info", "ERROR")]
        {
            assert_eq!(logging_level(filter), level, "{filter}");
        }
    }

    #[test]
    fn settings_show_no_secret() {
        let variables = [
            ("PREFECT_HOME", "/home/p"),
            ("PREFECT_SERVER_API_AUTH_STRING", "admin:hunter2"),
            ("PREFECT_API_DATABASE_CONNECTION_URL", "postgresql+asyncpg://u:hunter2@db/p"),
        ];
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let shown = described(&Settings::load(&variables).expect("valid"));
        assert!(!shown.to_string().contains("hunter2"));
        assert_eq!(shown["server"]["api"]["auth_string"], "**********");
        assert_eq!(shown["server"]["api"]["port"], 4200);
    }
}
