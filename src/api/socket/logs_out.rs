//! `/logs/out`: log lines as they come in, on any node, to whoever subscribes.
//!
//! The client sends `{"type": "filter", "filter": ...}`; there is no backfill. A filter's text search holds here too (the
//! reference applies it to the database alone). A subscriber that may have missed lines, because it was too slow or
//! another node went away, is told and disconnected (1013).

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use serde_json::json;

use super::{accept, close, code, next_json, send_json};
use crate::app::App;
use crate::cluster::{Heard, LogSubscription};
use crate::limits;
use crate::model::filter::log::LogFilter;

/// How often a quiet subscriber is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(20);

/// The route of this file.
pub fn router() -> Router<App> {
    Router::new().route("/logs/out", any(upgrade))
}

async fn upgrade(State(app): State<App>, upgrade: WebSocketUpgrade) -> Response {
    accept(app, upgrade, "socket.logs_out", serve)
}

async fn serve(app: App, mut socket: WebSocket) {
    let stopping = app.tasks().stopping();
    let end = tokio::select! {
        end = subscribe(&app, &mut socket) => end,
        () = stopping.cancelled() => Some((code::SERVICE_RESTART, "the server is restarting".to_owned())),
    };
    if let Some((code, reason)) = end {
        close(&mut socket, code, &reason).await;
    }
}

/// Serves until there is a reason to close, with its code; `None` where the client is gone.
async fn subscribe(app: &App, socket: &mut WebSocket) -> Option<(u16, String)> {
    let message = next_json(socket, limits::SOCKET_HANDSHAKE).await?;
    if message["type"] != "filter" {
        return Some((code::PROTOCOL_ERROR, "Expected 'filter' message".into()));
    }
    let filter: LogFilter = match serde_json::from_value(message["filter"].clone()) {
        Ok(filter) => filter,
        Err(error) => return Some((code::PROTOCOL_ERROR, format!("Invalid filter: {error}").replace('\u{1}', " "))),
    };
    // Where the setting is off there is nothing to hear, as in the reference.
    let mut lines = app.settings().events.logs_stream_out_enabled.then(|| app.logs().subscribe());
    loop {
        tokio::select! {
            heard = next(&mut lines) => match heard {
                Heard::Lines(lines) => {
                    for line in lines.iter().filter(|line| filter.matches(line)) {
                        let message = json!({"type": "log", "log": line});
                        if !tokio::time::timeout(limits::SOCKET_SEND, send_json(socket, &message)).await.unwrap_or(false) {
                            return None;
                        }
                    }
                }
                Heard::Gap => return Some((code::TRY_AGAIN_LATER, "log lines may be missing here; subscribe again".into())),
            },
            frame = socket.recv() => match frame {
                None | Some(Err(_) | Ok(Message::Close(_))) => return None,
                // What else a subscriber says has no meaning here.
                Some(Ok(_)) => {}
            },
            () = tokio::time::sleep(PING_EVERY) => {
                if socket.send(Message::Ping(Vec::new().into())).await.is_err() {
                    return None;
                }
            }
        }
    }
}

async fn next(lines: &mut Option<LogSubscription>) -> Heard {
    match lines {
        Some(lines) => lines.next().await,
        None => std::future::pending().await,
    }
}
