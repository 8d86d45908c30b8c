//! `/task_runs/subscriptions/scheduled`: background task runs for task workers (`@task.serve`).
//!
//! The worker sends `{"type": "subscribe", "keys": [...], "client_id": ...}` and is sent task runs, one at a time: it says
//! `{"type": "ack"}` to each before it gets the next. A worker whose hands are full takes its time over that, which is
//! fine as long as it answers pings. `{"type": "quit"}` ends the subscription. A run without an ack goes to another
//! worker (the reference forgets the one that a `quit` answers).
//!
//! The stock client takes a normal close (1000, 1001) for an error that ends it, and comes again after any other code: a
//! node that stops closes with 1012, and takes an ack that is under way.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use axum::{Extension, Router};
use serde_json::Value;

use super::pulse::{Pulse, next_text};
use super::{accept, close, code, next_json};
use crate::api::task_queue::{Delivery, TaskQueue};
use crate::api::task_workers::Presence;
use crate::app::App;
use crate::limits;

/// The route of this file.
pub fn router() -> Router<App> {
    Router::new().route("/task_runs/subscriptions/scheduled", any(upgrade))
}

async fn upgrade(
    State(app): State<App>,
    Extension(queue): Extension<TaskQueue>,
    Extension(presence): Extension<Presence>,
    upgrade: WebSocketUpgrade,
) -> Response {
    accept(app, upgrade, "socket.task_subscription", move |app, socket| serve(app, socket, queue, presence))
}

/// How a subscription ended.
enum End {
    /// The worker is gone.
    Gone,
    /// Close with a code and a reason.
    Close(u16, &'static str),
    /// The node stops; a run may be waiting for its ack.
    Stopping(Option<Box<Delivery>>),
}

async fn serve(app: App, mut socket: WebSocket, queue: TaskQueue, presence: Presence) {
    match subscribe(&app, &mut socket, &queue, &presence).await {
        End::Gone => {}
        End::Close(code, reason) => close(&mut socket, code, reason).await,
        End::Stopping(None) => close(&mut socket, code::SERVICE_RESTART, RESTARTING).await,
        End::Stopping(Some(delivery)) => close_with(&mut socket, *delivery).await,
    }
}

const RESTARTING: &str = "the server is restarting";

async fn subscribe(app: &App, socket: &mut WebSocket, queue: &TaskQueue, presence: &Presence) -> End {
    let stopping = app.tasks().stopping();
    let first = tokio::select! {
        first = next_json(socket, limits::SOCKET_HANDSHAKE) => first,
        () = stopping.cancelled() => return End::Stopping(None),
    };
    let Some(message) = first else { return End::Gone };
    let (keys, client_id) = match read(&message) {
        Ok(subscription) => subscription,
        Err(reason) => return End::Close(code::TASK_PROTOCOL, reason),
    };
    tracing::debug!(client_id, keys = keys.len(), "a task worker subscribed");
    let present = presence.enter(client_id, keys.clone());
    let mut pulse = Pulse::new(app);
    loop {
        let next = queue.next(keys.clone());
        tokio::pin!(next);
        let delivery = loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return End::Stopping(None),
                delivery = &mut next => match delivery {
                    Some(delivery) => break delivery,
                    None => return End::Stopping(None),
                },
                // What it says has no meaning now: there is nothing to acknowledge.
                text = next_text(socket, &mut pulse) => if text.is_none() {
                    return End::Gone;
                },
            }
        };
        match deliver(app, socket, &mut pulse, &delivery).await {
            Answer::Ack => delivery.acknowledge(),
            Answer::Quit => {
                present.quit();
                return End::Close(code::NORMAL, "");
            }
            Answer::Other => return End::Close(code::TASK_PROTOCOL, "Protocol violation: expected 'ack' message"),
            Answer::Gone => return End::Gone,
            Answer::Stopping => return End::Stopping(Some(Box::new(delivery))),
        }
    }
}

/// The keys, sorted and each once, and the name of the worker.
fn read(message: &Value) -> Result<(Arc<[String]>, String), &'static str> {
    if message["type"] != "subscribe" {
        return Err("Protocol violation: expected 'subscribe' message");
    }
    let mut keys: Vec<String> = match &message["keys"] {
        Value::Array(keys) => keys.iter().filter_map(|key| key.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    };
    if keys.is_empty() {
        return Err("Protocol violation: expected 'keys' in subscribe message");
    }
    let client_id = match &message["client_id"] {
        Value::String(id) if !id.is_empty() => id.clone(),
        Value::Number(id) => id.to_string(),
        _ => return Err("Protocol violation: expected 'client_id' in subscribe message"),
    };
    keys.sort_unstable();
    keys.dedup();
    let bytes: usize = client_id.len() + keys.iter().map(|key| key.len() + 3).sum::<usize>();
    if keys.len() > limits::TASK_KEYS || bytes > limits::TASK_WORKER_BYTES {
        return Err("Protocol violation: too many 'keys' in subscribe message");
    }
    Ok((keys.into(), client_id))
}

/// What a worker says to a run.
enum Answer {
    Ack,
    Quit,
    Other,
    Gone,
    Stopping,
}

impl Answer {
    fn of(text: &str) -> Self {
        match serde_json::from_str::<Value>(text).unwrap_or_default()["type"].as_str() {
            Some("ack") => Self::Ack,
            Some("quit") => Self::Quit,
            _ => Self::Other,
        }
    }
}

async fn deliver(app: &App, socket: &mut WebSocket, pulse: &mut Pulse, delivery: &Delivery) -> Answer {
    let Ok(text) = serde_json::to_string(&delivery.run.clone().at(app.now())) else { return Answer::Gone };
    let sent = tokio::time::timeout(limits::SOCKET_SEND, socket.send(Message::Text(text.into()))).await;
    if !matches!(sent, Ok(Ok(()))) {
        return Answer::Gone;
    }
    let stopping = app.tasks().stopping();
    tokio::select! {
        biased;
        text = next_text(socket, pulse) => text.map_or(Answer::Gone, |text| Answer::of(&text)),
        () = stopping.cancelled() => Answer::Stopping,
    }
}

/// Closes while an ack may be under way.
async fn close_with(socket: &mut WebSocket, delivery: Delivery) {
    let frame = CloseFrame { code: code::SERVICE_RESTART, reason: RESTARTING.into() };
    let acknowledged = async {
        socket.send(Message::Close(Some(frame))).await.ok()?;
        while let Some(Ok(frame)) = socket.recv().await {
            if let Message::Text(text) = frame
                && matches!(Answer::of(&text), Answer::Ack)
            {
                return Some(());
            }
        }
        None
    };
    if let Ok(Some(())) = tokio::time::timeout(limits::SOCKET_CLOSE, acknowledged).await {
        delivery.acknowledge();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_subscription_has_keys_and_a_name() {
        let (keys, name) = read(&json!({"type": "subscribe", "keys": ["b", "a", "b"], "client_id": "me"})).expect("valid");
        assert_eq!((&*keys, name.as_str()), (["a".to_owned(), "b".to_owned()].as_slice(), "me"));
        let wrong = [
            (json!(null), "'subscribe'"),
            (json!({"type": "subscribe", "keys": [], "client_id": "me"}), "'keys'"),
            (json!({"type": "subscribe", "client_id": "me"}), "'keys'"),
            (json!({"type": "subscribe", "keys": ["a"]}), "'client_id'"),
            (json!({"type": "subscribe", "keys": ["a".repeat(limits::TASK_WORKER_BYTES)], "client_id": "me"}), "too many"),
        ];
        for (message, reason) in wrong {
            assert!(read(&message).expect_err("it does not fit").contains(reason), "{message}");
        }
    }
}
