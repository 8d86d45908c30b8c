//! WebSockets, and what they have in common: the handshake and the way they end.
//!
//! A client that offers the subprotocol `prefect` authenticates with its first message,
//! `{"type": "auth", "token": ...}`, and is answered `{"type": "auth_success"}`. One that does not is served without
//! where no auth string is set (clients of old), and refused with 403 otherwise.

pub mod events_in;
pub mod events_out;
pub mod logs_out;
pub mod pulse;
pub mod task_subscription;
pub mod worker_channel;

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use crate::app::App;
use crate::limits;

/// Close codes (RFC 6455 and the registry).
pub mod code {
    /// All is said.
    pub const NORMAL: u16 = 1000;
    /// The client broke the protocol.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A message could not be understood.
    pub const INVALID_PAYLOAD: u16 = 1007;
    /// Not allowed.
    pub const POLICY_VIOLATION: u16 = 1008;
    /// The server failed.
    pub const INTERNAL_ERROR: u16 = 1011;
    /// The server goes away for a while: the client should reconnect.
    pub const SERVICE_RESTART: u16 = 1012;
    /// Too slow or too much: the client should come back later.
    pub const TRY_AGAIN_LATER: u16 = 1013;
    /// A task worker broke the protocol (the reference's own code).
    pub const TASK_PROTOCOL: u16 = 4001;
}

/// Bytes that a close frame's reason may have.
const REASON_BYTES: usize = 123;

/// Accepts an upgrade, does the handshake and hands the socket to `serve` on a task of its own.
pub fn accept<F, R>(app: App, upgrade: WebSocketUpgrade, name: &'static str, serve: F) -> Response
where
    F: FnOnce(App, WebSocket) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    accept_as(app, upgrade, name, None, serve)
}

/// As [`accept`], for clients that all know the subprotocol: 403 without it. A client that does not authenticate is told
/// `refusal`, whatever is wrong.
pub fn accept_strictly<F, R>(app: App, upgrade: WebSocketUpgrade, name: &'static str, refusal: &'static str, serve: F) -> Response
where
    F: FnOnce(App, WebSocket) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    accept_as(app, upgrade, name, Some(refusal), serve)
}

fn accept_as<F, R>(app: App, upgrade: WebSocketUpgrade, name: &'static str, refusal: Option<&'static str>, serve: F) -> Response
where
    F: FnOnce(App, WebSocket) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let strict = refusal.is_some();
    let auth_set = app.settings().server.auth_string.is_some();
    let upgrade =
        upgrade.protocols(["prefect"]).max_message_size(limits::SOCKET_MESSAGE_BYTES).max_frame_size(limits::SOCKET_MESSAGE_BYTES);
    let offered = upgrade.selected_protocol().is_some();
    if !offered && (auth_set || strict) {
        return StatusCode::FORBIDDEN.into_response();
    }
    upgrade.on_upgrade(move |mut socket| async move {
        let tasks = app.tasks().clone();
        let served = tasks.spawn(name, async move {
            if !offered || authenticate(&app, &mut socket, refusal).await {
                serve(app, socket).await;
            }
        });
        // A task that panicked or was dropped has been reported by its set.
        let _ended = served.await;
    })
}

/// Reads the first message and checks it. False where the socket was closed.
async fn authenticate(app: &App, socket: &mut WebSocket, told: Option<&'static str>) -> bool {
    let Some(message) = next_json(socket, limits::SOCKET_HANDSHAKE).await else { return false };
    let refusal = if message["type"] != "auth" {
        Some("Expected 'auth' message")
    } else if let Some(wanted) = &app.settings().server.auth_string {
        match message["token"].as_str() {
            None | Some("") => Some("Auth required but no token provided"),
            Some(token) if bool::from(token.as_bytes().ct_eq(wanted.expose().as_bytes())) => None,
            Some(_) => Some("Invalid token"),
        }
    } else {
        None
    };
    if let Some(reason) = refusal {
        close(socket, code::POLICY_VIOLATION, told.unwrap_or(reason)).await;
        return false;
    }
    send_json(socket, &json!({"type": "auth_success"})).await
}

/// The next text message as JSON, answering pings on the way; `None` where the socket ended, or did not speak in time.
/// What is no JSON is `null`.
pub async fn next_json(socket: &mut WebSocket, within: Duration) -> Option<Value> {
    let next = async {
        loop {
            match socket.recv().await? {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).unwrap_or(Value::Null)),
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_)) => {}
                Ok(Message::Close(_)) | Err(_) => return None,
            }
        }
    };
    tokio::time::timeout(within, next).await.ok().flatten()
}

/// Sends a JSON message; false where the socket is gone.
pub async fn send_json(socket: &mut WebSocket, message: &Value) -> bool {
    socket.send(Message::Text(message.to_string().into())).await.is_ok()
}

/// Closes with a code and a reason, cut to what a close frame may carry, and waits a moment for the client's answer.
pub async fn close(socket: &mut WebSocket, code: u16, reason: &str) {
    let mut end = reason.len().min(REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let frame = CloseFrame { code, reason: reason[..end].into() };
    let told = async {
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    // A client that does not read or answer in time is cut off.
    let _timely = tokio::time::timeout(limits::SOCKET_CLOSE, told).await;
}
