//! `/events`

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;

use crate::api::error::ApiError;
use crate::api::extract::{Json, from_value};
use crate::app::{self, App};
use crate::bus::{BusError, Topic};
use crate::config::Settings;
use crate::model::event::{Event, EventLimits};

/// The routes of this file.
pub fn router() -> Router<App> {
    Router::new().route("/events", post(create))
}

/// The bounds of an event from the settings.
pub fn event_limits(settings: &Settings) -> EventLimits {
    EventLimits {
        labels_per_resource: settings.events.maximum_labels_per_resource,
        related_resources: settings.events.maximum_related_resources,
        name_characters: settings.events.maximum_event_name_length,
    }
}

/// Reads and checks one event.
///
/// # Errors
/// A sentence on what is wrong and where.
pub fn parse_event(text: &[u8], limits: &EventLimits) -> Result<Event, String> {
    let event: Event =
        serde_json::from_slice(text).map_err(|error| format!("invalid event: {}", error.to_string().replace('\u{1}', " ")))?;
    event.validate(limits).map_err(|(at, message)| format!("invalid event: {}: {message}", Value::Array(at)))?;
    Ok(event)
}

/// Record a batch of events. Answered once they are flushed on a majority.
async fn create(State(app): State<App>, Json(body): Json<Vec<Value>>) -> Result<StatusCode, ApiError> {
    let limits = event_limits(app.settings());
    let received = app.now();
    let mut messages = Vec::with_capacity(body.len());
    for (index, value) in body.into_iter().enumerate() {
        let event: Event = from_value(value.clone(), "body").map_err(|error| at_index(error, index))?;
        event.validate(&limits).map_err(|(at, message)| {
            let mut error = ApiError::invalid("value_error", &["body"], format!("Value error, {message}"), value);
            if let ApiError::Invalid { issues, .. } = &mut error {
                issues[0].loc.extend(at);
            }
            at_index(error, index)
        })?;
        let message = app::message(&event, received);
        if message.payload.len() > app.settings().events.maximum_size_bytes {
            tracing::warn!(event.id = %event.id, bytes = message.payload.len(), "an event is larger than the limit and is not kept");
            continue;
        }
        messages.push(message);
    }
    if !messages.is_empty() {
        app.bus().publish(Topic::Events, messages).await.map_err(|error| match error {
            BusError::Unknown(_) | BusError::Full { .. } | BusError::Closed => ApiError::Unavailable(error.to_string()),
            other => ApiError::Internal(other.to_string()),
        })?;
    }
    Ok(StatusCode::NO_CONTENT)
}

fn at_index(mut error: ApiError, index: usize) -> ApiError {
    if let ApiError::Invalid { issues, .. } = &mut error {
        for issue in issues {
            issue.loc.insert(1, index.into());
        }
    }
    error
}
