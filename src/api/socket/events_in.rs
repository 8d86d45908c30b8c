//! `/events/in`: events of clients, one JSON text per message.
//!
//! **A pong is sent only after every event read before its ping is committed** (flushed on a majority), and so is the
//! answer to a close: the stock client takes a pong for a checkpoint and forgets what it sent before. The socket's
//! library answers a ping or a close when it is next read or written, so not touching the socket until the commit is
//! what keeps the promise.
//!
//! A slow or full bus slows the client down (the socket is not read), nothing is dropped. A malformed event closes the
//! socket with a reason, after what came before it is committed. On shutdown what was read is committed and the socket
//! closed with 1012, on which the client reconnects elsewhere and resends the rest; the bus knows repeated ids.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message as Frame, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::{accept, close, code};
use crate::api::events::{event_limits, parse_event};
use crate::app::{self, App};
use crate::bus::{BusError, Message, Topic};
use crate::config::Planted;
use crate::limits;

/// The route of this file.
pub fn router() -> Router<App> {
    Router::new().route("/events/in", any(upgrade))
}

async fn upgrade(State(app): State<App>, upgrade: WebSocketUpgrade) -> Response {
    accept(app, upgrade, "socket.events_in", serve)
}

/// Why reading stopped.
enum End {
    /// The client closed, or vanished.
    Client,
    /// This event cannot be taken.
    Malformed(String),
    /// The node stops.
    Stopping,
    /// The bus will never take it.
    Refused(String),
}

async fn serve(app: App, mut socket: WebSocket) {
    let end = receive(&app, &mut socket).await;
    match end {
        End::Client => {
            // Reading on sends the answer to the client's close frame.
            let _answered = tokio::time::timeout(limits::SOCKET_CLOSE, socket.recv()).await;
        }
        End::Malformed(reason) => {
            tracing::info!(reason, "an event could not be read; its socket is closed");
            close(&mut socket, code::INVALID_PAYLOAD, &reason).await;
        }
        End::Refused(reason) => close(&mut socket, code::INTERNAL_ERROR, &reason).await,
        End::Stopping => close(&mut socket, code::SERVICE_RESTART, "the server is restarting").await,
    }
}

/// Reads until the socket ends. Everything read is committed when this returns (or [`End::Refused`]).
async fn receive(app: &App, socket: &mut WebSocket) -> End {
    let stopping = app.tasks().stopping();
    let event_limits = event_limits(app.settings());
    let mut batch = Batch::default();
    // Batches on their way to the bus.
    let mut under_way = FuturesUnordered::new();
    loop {
        // Take what is there without waiting; when there is nothing more, send the batch off.
        let frame = if let Some(frame) = socket.recv().now_or_never() {
            frame
        } else {
            if !batch.messages.is_empty() {
                under_way.push(publish(app, std::mem::take(&mut batch).messages));
            }
            tokio::select! {
                biased;
                Some(done) = under_way.next(), if !under_way.is_empty() => match done {
                    Ok(()) => continue,
                    Err(reason) => return End::Refused(reason),
                },
                () = stopping.cancelled() => {
                    return settle(app, batch, under_way).await.map_or_else(End::Refused, |()| End::Stopping);
                }
                frame = socket.recv() => frame,
            }
        };
        let end = match frame {
            Some(Ok(Frame::Text(text))) => match parse_event(text.as_bytes(), &event_limits) {
                Ok(event) if text.len() > app.settings().events.maximum_size_bytes => {
                    tracing::warn!(event.id = %event.id, bytes = text.len(), "an event is larger than the limit and is not kept");
                    None
                }
                Ok(event) => {
                    batch.push(app::message(&event, app.now()));
                    None
                }
                Err(reason) => Some(End::Malformed(reason)),
            },
            Some(Ok(Frame::Ping(_))) if Planted::AckEarly.is_here() => {
                under_way.push(publish(app, std::mem::take(&mut batch).messages));
                None
            }
            Some(Ok(Frame::Ping(_))) => {
                if let Err(reason) = settle(app, std::mem::take(&mut batch), std::mem::take(&mut under_way)).await {
                    return End::Refused(reason);
                }
                None
            }
            Some(Ok(Frame::Pong(_) | Frame::Binary(_))) => None,
            Some(Ok(Frame::Close(_)) | Err(_)) | None => Some(End::Client),
        };
        if let Some(end) = end {
            return settle(app, batch, under_way).await.map_or_else(End::Refused, |()| end);
        }
        if batch.is_full() {
            while under_way.len() >= limits::SOCKET_BATCHES {
                if let Some(Err(reason)) = under_way.next().await {
                    return End::Refused(reason);
                }
            }
            under_way.push(publish(app, std::mem::take(&mut batch).messages));
        }
    }
}

/// Events gathered for one publication.
#[derive(Default)]
struct Batch {
    messages: Vec<Message>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, message: Message) {
        self.bytes += message.payload.len();
        self.messages.push(message);
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= limits::SOCKET_BATCH_EVENTS || self.bytes >= limits::SOCKET_BATCH_BYTES
    }
}

/// Waits until all that was read is committed.
async fn settle<F>(app: &App, batch: Batch, mut under_way: FuturesUnordered<F>) -> Result<(), String>
where
    F: Future<Output = Result<(), String>>,
{
    if !batch.messages.is_empty() {
        publish(app, batch.messages).await?;
    }
    while let Some(done) = under_way.next().await {
        done?;
    }
    Ok(())
}

/// Publishes, and goes on trying while the outcome is unknown or the bus is full: the same ids make that safe.
async fn publish(app: &App, messages: Vec<Message>) -> Result<(), String> {
    let mut pause = Duration::from_millis(10);
    if Planted::AckEarly.is_here() {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    loop {
        match app.bus().publish(Topic::Events, messages.clone()).await {
            Ok(_) => return Ok(()),
            Err(BusError::Unknown(_) | BusError::Full { .. }) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}
