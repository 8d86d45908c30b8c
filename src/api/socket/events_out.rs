//! `/events/out`: events as they are committed, to whoever subscribes, on any node.
//!
//! The client sends `{"type": "filter", "filter": ..., "backfill": true}`. Backfill from the database and live events of
//! the bus are joined by position: the cursor of the event persister says up to which position of the stream the
//! database has everything, so the live part begins right behind it. What the database had beyond its cursor is known
//! by id and not sent twice.
//!
//! A subscriber that is too slow to follow what the node still holds is told and disconnected (1013), not silently
//! robbed of events.

use std::collections::HashSet;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{accept, close, code, next_json, send_json};
use crate::app::App;
use crate::bus::{BusError, Position, ReadLimit, Topic};
use crate::limits;
use crate::model::event::ReceivedEvent;
use crate::model::filter::event::{EventFilter, EventOrder};
use crate::store::{cursors, events};

/// The route of this file.
pub fn router() -> Router<App> {
    Router::new().route("/events/out", any(upgrade))
}

async fn upgrade(State(app): State<App>, upgrade: WebSocketUpgrade) -> Response {
    accept(app, upgrade, "socket.events_out", serve)
}

/// How a subscription ended.
enum End {
    /// The client is gone.
    Gone,
    /// Close with a code and a reason.
    Close(u16, String),
}

async fn serve(app: App, mut socket: WebSocket) {
    let stopping = app.tasks().stopping();
    let end = tokio::select! {
        end = subscribe(&app, &mut socket) => end,
        () = stopping.cancelled() => End::Close(code::SERVICE_RESTART, "the server is restarting".into()),
    };
    if let End::Close(code, reason) = end {
        close(&mut socket, code, &reason).await;
    }
}

async fn subscribe(app: &App, socket: &mut WebSocket) -> End {
    let Some(message) = next_json(socket, limits::SOCKET_HANDSHAKE).await else { return End::Gone };
    if message["type"] != "filter" {
        return End::Close(code::PROTOCOL_ERROR, "Expected 'filter' message".into());
    }
    let mut filter: EventFilter = match serde_json::from_value(message["filter"].clone()) {
        Ok(filter) => filter,
        Err(error) => return End::Close(code::PROTOCOL_ERROR, format!("Invalid filter: {error}").replace('\u{1}', " ")),
    };
    let now = app.now();
    let earliest = now - app.settings().events.maximum_websocket_backfill;
    filter.occurred.since = Some(filter.occurred.since.map_or(earliest, |since| since.max(earliest)));
    filter.order = EventOrder::Asc;
    let wants_backfill = message["backfill"].as_bool().unwrap_or(true);
    match follow(app, socket, &filter, wants_backfill).await {
        Ok(end) => end,
        Err(error) => {
            tracing::warn!(error, "a subscription to events failed");
            End::Close(code::INTERNAL_ERROR, "the subscription failed; subscribe again".into())
        }
    }
}

async fn follow(app: &App, socket: &mut WebSocket, filter: &EventFilter, wants_backfill: bool) -> Result<End, String> {
    let (mut position, mut sent) = if wants_backfill {
        match backfill(app, socket, filter).await? {
            Some(joined) => joined,
            None => return Ok(End::Gone),
        }
    } else {
        (app.bus().last(&Topic::Events), HashSet::new())
    };
    // Up to here live events may be among those that the backfill has sent already.
    let overlap = app.bus().last(&Topic::Events);
    let limit = ReadLimit { entries: limits::SOCKET_TAIL_EVENTS, ..ReadLimit::default() };
    loop {
        let entries = match app.bus().read(&Topic::Events, position, limit).await {
            Ok(entries) => entries,
            Err(BusError::Trimmed { .. }) => {
                return Ok(End::Close(code::TRY_AGAIN_LATER, "the subscriber is too slow; subscribe again".into()));
            }
            Err(BusError::Closed) => return Ok(End::Close(code::SERVICE_RESTART, "the server is restarting".into())),
            Err(error) => return Err(error.to_string()),
        };
        let Some(last) = entries.last().map(|entry| entry.position) else {
            match wait(app, socket, position).await {
                Some(end) => return Ok(end),
                None => continue,
            }
        };
        for entry in &entries {
            if sent.remove(&entry.id) {
                continue;
            }
            // The persister keeps what is no event as a dead letter; there is nothing to show of it.
            let Ok(event) = serde_json::from_slice::<ReceivedEvent>(&entry.payload) else { continue };
            if filter.matches(&event.event) && filter.covers(event.event.occurred) && !send_event(socket, &event).await {
                return Ok(End::Gone);
            }
        }
        position = last;
        if position >= overlap {
            sent.clear();
        }
    }
}

/// Sends what the database has; gives the position behind which the bus goes on, and the ids sent.
async fn backfill(app: &App, socket: &mut WebSocket, filter: &EventFilter) -> Result<Option<(Position, HashSet<Uuid>)>, String> {
    let failed = |error: crate::store::StoreError| error.to_string();
    let page_size = app.settings().events.websocket_backfill_page_size as u64;
    // The range of the query ends now; a subscription is open-ended.
    let range = filter.clone().at(app.now() + limits::CLOCK_SKEW);
    // The cursor first: everything up to it is in the database when the events are read.
    let mut tx = app.read("events.cursor").await.map_err(failed)?;
    let position = cursors::read(&mut tx, crate::model::event::PERSISTER_GROUP, &app.stream_name(&Topic::Events)).await.map_err(failed)?;
    drop(tx);
    let (mut sent, mut offset) = (HashSet::new(), 0);
    loop {
        // A connection for each page, so that a slow subscriber holds none.
        let mut tx = app.read("events.backfill").await.map_err(failed)?;
        let page = events::list(&mut tx, &range, page_size, offset).await.map_err(failed)?;
        drop(tx);
        for event in &page {
            if sent.insert(event.event.id) && !send_event(socket, event).await {
                return Ok(None);
            }
        }
        if (page.len() as u64) < page_size {
            return Ok(Some((position, sent)));
        }
        offset += page_size;
    }
}

async fn send_event(socket: &mut WebSocket, event: &ReceivedEvent) -> bool {
    tokio::time::timeout(limits::SOCKET_SEND, send_json(socket, &json!({"type": "event", "event": event}))).await.unwrap_or(false)
}

/// Waits for the next event; meanwhile answers pings and notices that the client is gone.
async fn wait(app: &App, socket: &mut WebSocket, position: Position) -> Option<End> {
    tokio::select! {
        woken = app.bus().wait_past(&Topic::Events, position) => match woken {
            Ok(_) => None,
            Err(_) => Some(End::Close(code::SERVICE_RESTART, "the server is restarting".into())),
        },
        frame = socket.recv() => match frame {
            None | Some(Err(_) | Ok(Message::Close(_))) => Some(End::Gone),
            // What else a subscriber says has no meaning here.
            Some(Ok(_)) => None,
        },
        () = tokio::time::sleep(Duration::from_secs(20)) => {
            let alive = socket.send(Message::Ping(Value::Null.to_string().into())).await.is_ok();
            (!alive).then_some(End::Gone)
        }
    }
}
