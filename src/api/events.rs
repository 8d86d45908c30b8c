//! `/events`

use axum::extract::{OriginalUri, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::NoContent;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::api::error::{ApiError, Issue};
use crate::api::extract::{Embedded, Json, PathAndEmbedded, Query, Shaped};
use crate::api::openapi::{Routes, get, post};
use crate::api::pydantic;
use crate::app::{self, App};
use crate::bus::{BusError, Topic};
use crate::config::Settings;
use crate::model::bounds;
use crate::model::event::{Event, EventLimits, ReceivedEvent};
use crate::model::event_count::{Countable, EventCount, INTERVAL_MIN, Spans, TimeUnit};
use crate::model::filter::event::EventFilter;
use crate::store::events as store;

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Events")
        .route("/events", post(create))
        .route("/events/filter", post(filter))
        .route("/events/filter/next", get(next))
        .route("/events/count-by/{countable}", post(count_by))
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
async fn create(State(app): State<App>, Json(body): Json<Shaped<Vec<Event>>>) -> Result<NoContent, ApiError> {
    let limits = event_limits(app.settings());
    let received = app.now();
    let events = checked(body.value, &limits)?;
    let mut messages = Vec::with_capacity(events.len());
    for event in events {
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
    Ok(NoContent)
}

/// The fields of an event in which something can be wrong, in the order in which that is told.
const FIELDS: [&str; 7] = ["occurred", "event", "resource", "related", "payload", "id", "follows"];

/// The events of a body, all of them in order.
fn checked(body: Value, limits: &EventLimits) -> Result<Vec<Event>, ApiError> {
    let mut issues = match pydantic::read::<Vec<Event>>(&body, "body") {
        Ok(events) if events.iter().all(|event| event.validate(limits).is_ok()) => return Ok(events),
        Ok(_) => Vec::new(),
        Err(issues) => issues,
    };
    for (index, event) in body.as_array().into_iter().flatten().enumerate() {
        for (at, message) in Event::complaints(event, limits) {
            let input = at.iter().fold(event, |inner, step| match step {
                Value::String(key) => &inner[key.as_str()],
                step => &inner[step.as_u64().unwrap_or_default() as usize],
            });
            issues.push(Issue {
                kind: "value_error".into(),
                loc: [json!("body"), json!(index)].into_iter().chain(at.clone()).collect(),
                msg: format!("Value error, {message}"),
                input: input.clone(),
                ctx: Some(json!({"error": {}})),
            });
        }
    }
    let step = |issue: &Issue, at: usize| issue.loc.get(at).and_then(Value::as_u64);
    let field = |issue: &Issue| FIELDS.iter().position(|field| issue.loc.get(2).is_some_and(|at| at == field));
    issues.sort_by_key(|issue| (step(issue, 1), field(issue), step(issue, 3)));
    Err(ApiError::Invalid { issues, body })
}

/// Events of one page at most, and by default, as the reference.
const PAGE_EVENTS: u64 = 50;

/// A page of events.
#[derive(Serialize, JsonSchema)]
struct EventPage {
    events: Vec<ReceivedEvent>,
    total: i64,
    next_page: Option<String>,
}

/// Where the next page begins; travels as base64 of JSON.
#[derive(Serialize, Deserialize)]
struct PageToken {
    filter: EventFilter,
    count: i64,
    page_size: u64,
    offset: u64,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct FilterBody {
    filter: Option<EventFilter>,
    #[serde(deserialize_with = "page_events")]
    limit: Option<i64>,
}

fn page_events<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let limit = Option::<i64>::deserialize(deserializer)?;
    limit.map(|limit| bounds::at_least(limit, 0).and_then(|limit| bounds::at_most(limit, PAGE_EVENTS as i64))).transpose()
}

/// List events.
async fn filter(
    State(app): State<App>,
    headers: HeaderMap,
    OriginalUri(uri): OriginalUri,
    Embedded(body): Embedded<FilterBody>,
) -> Result<Json<EventPage>, ApiError> {
    let page_size = body.limit.map_or(PAGE_EVENTS, i64::unsigned_abs);
    let filter = body.filter.unwrap_or_default().at(app.now());
    let mut tx = app.read("events.filter").await?;
    let count = store::count(&mut tx, &filter).await?;
    page(&mut tx, PageToken { filter, count, page_size, offset: 0 }, &base_url(&headers, &uri)).await
}

#[derive(Deserialize, JsonSchema)]
struct NextQuery {
    #[serde(rename = "page-token")]
    page_token: String,
}

/// List the next page of events.
async fn next(
    State(app): State<App>,
    headers: HeaderMap,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<NextQuery>,
) -> Result<Json<EventPage>, ApiError> {
    let token = decode_token(&query.page_token).ok_or_else(|| ApiError::detail(StatusCode::FORBIDDEN, "Forbidden"))?;
    page(&mut app.read("events.filter_next").await?, token, &base_url(&headers, &uri)).await
}

/// The token in a link is base64 once more.
fn decode_token(text: &str) -> Option<PageToken> {
    let inner = BASE64_STANDARD.decode(text).ok()?;
    let token: PageToken = serde_json::from_slice(&BASE64_STANDARD.decode(inner).ok()?).ok()?;
    (token.page_size <= PAGE_EVENTS).then_some(token)
}

async fn page(tx: &mut crate::store::Tx, mut token: PageToken, base_url: &str) -> Result<Json<EventPage>, ApiError> {
    let events = store::list(tx, &token.filter, token.page_size, token.offset).await?;
    let total = token.count;
    token.offset += token.page_size;
    let next_page = (token.page_size > 0 && i64::try_from(token.offset).unwrap_or(i64::MAX) < total).then(|| {
        let inner = BASE64_STANDARD.encode(json!(token).to_string());
        format!("{base_url}api/events/filter/next?page-token={}", BASE64_STANDARD.encode(inner))
    });
    Ok(Json(EventPage { events, total, next_page }))
}

#[derive(Deserialize, JsonSchema)]
struct CountBody {
    filter: EventFilter,
    #[serde(default)]
    time_unit: TimeUnit,
    time_interval: Option<f64>,
}

/// Lines of a count by name or resource at most: the most frequent. The reference gives them all.
const COUNT_LINES: u64 = 10_000;

/// Count events by span of time, name or resource.
async fn count_by(
    State(app): State<App>,
    PathAndEmbedded(CountPath { countable }, body): PathAndEmbedded<CountPath, CountBody>,
) -> Result<Json<Vec<EventCount>>, ApiError> {
    let interval = body.time_interval.unwrap_or(1.0);
    if interval < INTERVAL_MIN {
        let message = format!("Input should be greater than or equal to {INTERVAL_MIN}");
        return Err(ApiError::invalid("greater_than_equal", &["body", "time_interval"], message, json!(interval)));
    }
    let now = app.now();
    let filter = body.filter.at(now);
    let (Some(since), Some(until)) = (filter.occurred.since, filter.occurred.until) else {
        return Err(ApiError::Internal("the range of a filter is filled in".into()));
    };
    let divided = |unit, interval| {
        Spans::divide(since, until, unit, interval, now).map_err(|reason| ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, reason))
    };
    // The unit and interval are checked also where they are not used, as the reference does.
    let spans = divided(body.time_unit, interval)?;
    let spans = if countable == Countable::Day { divided(TimeUnit::Day, 1.0)? } else { spans };
    let mut tx = app.read("events.count_by").await?;
    Ok(Json(match countable {
        Countable::Day | Countable::Time => spans.filled(&store::count_by_span(&mut tx, &filter, &spans).await?),
        Countable::Event | Countable::Resource => store::count_by(&mut tx, &filter, countable, COUNT_LINES).await?,
    }))
}

#[derive(Deserialize, JsonSchema)]
struct CountPath {
    countable: Countable,
}

/// Scheme and host as the client sees them.
fn base_url(headers: &HeaderMap, uri: &axum::http::Uri) -> String {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let scheme = text(header::HeaderName::from_static("x-forwarded-proto")).or(uri.scheme_str()).unwrap_or("http");
    let host = text(header::HOST).or(uri.host()).unwrap_or("localhost");
    format!("{scheme}://{host}/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_wrong_with_events_is_told_in_order() {
        let limits = EventLimits { labels_per_resource: 3, related_resources: 2, name_characters: 4 };
        let id = uuid::Uuid::nil();
        let resource = json!({"prefect.resource.id": "a"});
        let related = json!({"prefect.resource.id": "a", "prefect.resource.role": "r"});
        let right =
            json!({"occurred": "2026-01-01T00:00:00Z", "event": "e", "resource": resource, "related": [related, related], "id": id});
        assert_eq!(checked(json!([right, right]), &limits).map(|events| events.len()).ok(), Some(2));
        let many = json!({"occurred": "2026-01-01T00:00:00Z", "event": "e", "resource": resource, "related": [related, related, related], "id": id});
        let wrong = json!({
            "event": "x.y.z",
            "resource": {},
            "related": [{"prefect.resource.id": 1}, resource, {"prefect.resource.id": ""}],
            "id": "no id",
        });
        let Err(ApiError::Invalid { issues, .. }) = checked(json!([right, wrong, many]), &limits) else { panic!("it is refused") };
        let told: Vec<_> = issues.iter().map(|issue| (issue.kind.as_str(), json!(issue.loc[1..]))).collect();
        assert_eq!(
            told,
            [
                ("missing", json!([1, "occurred"])),
                ("value_error", json!([1, "event"])),
                ("value_error", json!([1, "resource"])),
                ("string_type", json!([1, "related", 0, "prefect.resource.id"])),
                ("value_error", json!([1, "related", 1])),
                ("value_error", json!([1, "related", 2])),
                ("uuid_parsing", json!([1, "id"])),
                ("value_error", json!([2, "related"])),
            ]
        );
        assert_eq!(issues[4].input, resource);
    }
}
