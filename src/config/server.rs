//! The HTTP side: where a node listens, who may call it, and what it accepts.

use std::time::Duration;

use super::reader::Reader;
use super::secret::Secret;

/// Settings of the HTTP API.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// `PREFECT_SERVER_API_HOST`: address or name to listen on; default `127.0.0.1`.
    pub host: String,
    /// `PREFECT_SERVER_API_PORT`: port to listen on, 0 for any free one; default 4200.
    pub port: u16,
    /// `PREFECT_SERVER_API_BASE_PATH`: where the API is mounted; default `/api`. Begins with `/`, does not end with it.
    pub base_path: String,
    /// `PREFECT_SERVER_API_AUTH_STRING`: `user:password` asked of every client; default none.
    pub auth_string: Option<Secret>,
    /// `PREFECT_SERVER_API_KEEPALIVE_TIMEOUT`: how long an idle connection is kept, seconds; default 5.
    pub keepalive_timeout: Duration,
    /// `PREFECT_SERVER_API_DEFAULT_LIMIT`: rows in an answer when the client names no limit, and the most it may
    /// name; default 200.
    pub default_limit: u64,
    /// `PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED`: whether writes need a token; default no.
    pub csrf_protection_enabled: bool,
    /// `PREFECT_SERVER_API_CSRF_TOKEN_EXPIRATION`: how long a token is good, seconds; default 3600.
    pub csrf_token_expiration: Duration,
    /// `PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS`: comma separated; default `*`.
    pub cors_allowed_origins: Vec<String>,
    /// `PREFECT_SERVER_API_CORS_ALLOWED_METHODS`: comma separated; default `*`.
    pub cors_allowed_methods: Vec<String>,
    /// `PREFECT_SERVER_API_CORS_ALLOWED_HEADERS`: comma separated; default `*`.
    pub cors_allowed_headers: Vec<String>,
    /// `PREFECT_SERVER_API_WEBSOCKET_PING_INTERVAL`: seconds between pings to a client; default 20.
    pub websocket_ping_interval: Duration,
    /// `PREFECT_SERVER_API_WEBSOCKET_PING_TIMEOUT`: seconds to wait for its pong; default 20.
    pub websocket_ping_timeout: Duration,
    /// `PREFECT_SERVER_API_MAX_PARAMETER_SIZE`: bytes of JSON of a run's parameters, 0 for no limit; default 512 KiB.
    pub max_parameter_bytes: u64,
    /// `PREFECT_SERVER_METRICS_ENABLED`: whether `/api/metrics` is served too (`/metrics` always is); default no.
    pub metrics_enabled: bool,
    /// `PREFECT_SERVER_REGISTER_BLOCKS_ON_START`: whether built-in block types are registered; default yes.
    pub register_blocks_on_start: bool,
    /// `PRAETOR_PREFECT_PACKAGE`: directory of an installed `prefect` package, whose lists of block types and workers are
    /// read, and the UI; default: that of the active virtual environment or of the `prefect` command on `PATH`, if any.
    pub prefect_package: Option<std::path::PathBuf>,
    /// `PREFECT_SERVER_ENCRYPTION_KEY`: Fernet key for block documents; default: kept in the database.
    pub encryption_key: Option<Secret>,
    /// `PREFECT_SERVER_UI_ENABLED`: whether the Prefect UI is served when its files are there; default yes.
    pub ui_enabled: bool,
    /// `PREFECT_UI_URL`: where people see the UI, for links in notifications; default: host and port above.
    pub ui_url: Option<String>,
    /// `PREFECT_SERVER_UI_V2_ENABLED`: whether a browser without a choice of its own gets the second generation of the UI;
    /// default yes. Both are served.
    pub ui_v2_enabled: bool,
    /// `PREFECT_SERVER_UI_API_URL`, else `PREFECT_API_URL`: the API's address as a browser sees it; default: host and port
    /// above.
    pub ui_api_url: Option<String>,
    /// `PREFECT_SERVER_UI_SERVE_BASE`: path of the UI; default `/`.
    pub ui_serve_base: String,
    /// `PRAETOR_UI_DIR`: directory with the UI's files, `ui/` and `ui-v2/` as in the package's `server/`, or `v1/` and
    /// `v2/`; default: those of an installed `prefect` package.
    pub ui_directory: Option<std::path::PathBuf>,
    /// `PREFECT_SERVER_UI_STATIC_DIRECTORY`: where the reference copies the UI's files to; read here if they are there.
    pub ui_static_directory: Option<std::path::PathBuf>,
    /// `PRAETOR_HTTP_CONNECTIONS_MAX`: open connections, above which new ones wait; default 10,000.
    pub connections_max: usize,
    /// `PRAETOR_SHUTDOWN_GRACE_SECONDS`: how long requests in flight may take to end at SIGTERM; default 10.
    pub shutdown_grace: Duration,
}

impl ServerSettings {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            host: reader.value(&["PREFECT_SERVER_API_HOST"], "127.0.0.1".to_owned()),
            port: reader.value(&["PREFECT_SERVER_API_PORT"], 4200),
            base_path: base_path(reader),
            auth_string: auth_string(reader),
            keepalive_timeout: reader.positive(&["PREFECT_SERVER_API_KEEPALIVE_TIMEOUT"], 5.0),
            default_limit: reader.within(&["PREFECT_SERVER_API_DEFAULT_LIMIT", "PREFECT_API_DEFAULT_LIMIT"], 200, 1, 1_000_000),
            csrf_protection_enabled: reader
                .value(&["PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED", "PREFECT_SERVER_CSRF_PROTECTION_ENABLED"], false),
            csrf_token_expiration: reader
                .positive(&["PREFECT_SERVER_API_CSRF_TOKEN_EXPIRATION", "PREFECT_SERVER_CSRF_TOKEN_EXPIRATION"], 3600.0),
            cors_allowed_origins: list(reader, "ORIGINS"),
            cors_allowed_methods: list(reader, "METHODS"),
            cors_allowed_headers: list(reader, "HEADERS"),
            websocket_ping_interval: reader.positive(&["PREFECT_SERVER_API_WEBSOCKET_PING_INTERVAL"], 20.0),
            websocket_ping_timeout: reader.positive(&["PREFECT_SERVER_API_WEBSOCKET_PING_TIMEOUT"], 20.0),
            max_parameter_bytes: reader.value(&["PREFECT_SERVER_API_MAX_PARAMETER_SIZE"], 524_288),
            metrics_enabled: reader.value(&["PREFECT_SERVER_METRICS_ENABLED", "PREFECT_API_ENABLE_METRICS"], false),
            register_blocks_on_start: reader
                .value(&["PREFECT_SERVER_REGISTER_BLOCKS_ON_START", "PREFECT_API_BLOCKS_REGISTER_ON_START"], true),
            prefect_package: reader.optional(&["PRAETOR_PREFECT_PACKAGE"]),
            encryption_key: reader.optional(&["PREFECT_SERVER_ENCRYPTION_KEY", "ORION_ENCRYPTION_KEY"]),
            ui_enabled: reader.value(&["PREFECT_SERVER_UI_ENABLED", "PREFECT_UI_ENABLED"], true),
            ui_url: reader.optional(&["PREFECT_UI_URL"]),
            ui_v2_enabled: reader.value(&["PREFECT_SERVER_UI_V2_ENABLED"], true),
            ui_api_url: reader.optional(&["PREFECT_SERVER_UI_API_URL", "PREFECT_UI_API_URL", "PREFECT_API_URL"]),
            ui_serve_base: ui_serve_base(reader),
            ui_directory: reader.optional(&["PRAETOR_UI_DIR"]),
            ui_static_directory: reader.optional(&["PREFECT_SERVER_UI_STATIC_DIRECTORY", "PREFECT_UI_STATIC_DIRECTORY"]),
            connections_max: reader.within(&["PRAETOR_HTTP_CONNECTIONS_MAX"], 10_000, 1, 1_000_000),
            shutdown_grace: reader.positive(&["PRAETOR_SHUTDOWN_GRACE_SECONDS"], 10.0),
        }
    }
}

fn base_path(reader: &mut Reader<'_>) -> String {
    let path = reader.value(&["PREFECT_SERVER_API_BASE_PATH"], "/api".to_owned());
    let path = path.trim_end_matches('/');
    if !path.starts_with('/') || path.contains(['{', '}', '*', '?', '#', ' ']) {
        reader.problem(format!(
            "PREFECT_SERVER_API_BASE_PATH must be a plain path below the root that begins with /, such as /api; change {path:?}"
        ));
        return "/api".to_owned();
    }
    path.to_owned()
}

fn ui_serve_base(reader: &mut Reader<'_>) -> String {
    let path = reader.value(&["PREFECT_SERVER_UI_SERVE_BASE", "PREFECT_UI_SERVE_BASE"], "/".to_owned());
    if path.contains(['{', '}', '*', '?', '#', ' ', '"', '\'', '<', '>', '\\']) || path.contains("//") {
        reader.problem(format!("PREFECT_SERVER_UI_SERVE_BASE must be a plain path, such as / or /prefect; change {path:?}"));
        return "/".to_owned();
    }
    path
}

fn auth_string(reader: &mut Reader<'_>) -> Option<Secret> {
    let secret: Secret = reader.optional(&["PREFECT_SERVER_API_AUTH_STRING"])?;
    if !secret.expose().contains(':') {
        reader.problem("PREFECT_SERVER_API_AUTH_STRING must have the form user:password; add the colon");
    }
    Some(secret)
}

fn list(reader: &mut Reader<'_>, what: &str) -> Vec<String> {
    let long = format!("PREFECT_SERVER_API_CORS_ALLOWED_{what}");
    let short = format!("PREFECT_SERVER_CORS_ALLOWED_{what}");
    let text = reader.value(&[&long, &short], "*".to_owned());
    text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}
