//! `/cluster/dead-letters`: what consumers gave up on, to look at, replay or delete. Ours; the reference keeps files.
//!
//! A replayed letter goes through its own consumer again, within about a second, on the node that leads the services; its
//! effect and its removal are one transaction. One that fails again stays, with the new error.

use axum::extract::State;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::error::ApiError;
use crate::api::extract::{Json, Path, Query};
use crate::api::openapi::{Routes, get, post};
use crate::app::App;
use crate::clock::Timestamp;
use crate::limits;
use crate::model::json as json_values;
use crate::store::dead_letters::{self as store, Kept, Which};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Cluster")
        .route("/cluster/dead-letters", get(list))
        .route("/cluster/dead-letters/replay", post(replay_many))
        .route("/cluster/dead-letters/delete", post(delete_many))
        .route("/cluster/dead-letters/{id}", get(read).delete(delete))
        .route("/cluster/dead-letters/{id}/replay", post(replay))
}

/// A dead letter without its message.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeadLetter")]
struct Shown {
    id: Uuid,
    group: String,
    stream: String,
    position: u64,
    error: String,
    attempts: i64,
    bytes: i64,
    #[serde(with = "json_values::timestamp")]
    created: Timestamp,
    /// When someone asked for it to be replayed, where that is still to come.
    #[serde(with = "json_values::optional_timestamp")]
    replay_asked: Option<Timestamp>,
}

impl From<Kept> for Shown {
    fn from(kept: Kept) -> Self {
        // The name of the stream, without the cluster that it was of.
        let stream = kept.stream.rsplit('/').next().unwrap_or_default().to_owned();
        Self {
            id: kept.id,
            group: kept.group,
            stream,
            position: kept.position,
            error: kept.error,
            attempts: kept.attempts,
            bytes: kept.bytes,
            created: kept.created,
            replay_asked: kept.replay,
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeadLetterList")]
struct Listed {
    total: i64,
    dead_letters: Vec<Shown>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct ListQuery {
    group: Option<String>,
    limit: Option<u64>,
    offset: u64,
}

/// Letters of a page where the request does not say.
const PAGE: u64 = 50;

/// List dead letters, the newest first.
async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> Result<Json<Listed>, ApiError> {
    let limit = query.limit.unwrap_or(PAGE);
    if limit > limits::DEAD_LETTERS {
        let message = format!("Input should be less than or equal to {}", limits::DEAD_LETTERS);
        return Err(ApiError::invalid("less_than_equal", &["query", "limit"], message, json!(limit)));
    }
    let which = Which { ids: None, group: query.group };
    let (letters, total) = store::list(&mut app.read("dead_letters.list").await?, &which, limit, query.offset).await?;
    Ok(Json(Listed { total, dead_letters: letters.into_iter().map(Shown::from).collect() }))
}

/// A dead letter with its message: as JSON where it is some, else in Base64.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WholeDeadLetter")]
struct Whole {
    #[serde(flatten)]
    letter: Shown,
    message: Option<Value>,
    message_base64: Option<String>,
}

fn missing() -> ApiError {
    ApiError::not_found("Dead letter not found")
}

/// Read the letters of one message, one for each consumer that gave it up.
async fn read(State(app): State<App>, Path(id): Path<Uuid>) -> Result<Json<Vec<Whole>>, ApiError> {
    let letters = store::read(&mut app.read("dead_letters.read").await?, id).await?;
    if letters.is_empty() {
        return Err(missing());
    }
    let whole = |mut kept: Kept| {
        let payload = std::mem::take(&mut kept.payload);
        let message: Option<Value> = serde_json::from_slice(&payload).ok();
        let message_base64 = message.is_none().then(|| BASE64_STANDARD.encode(&payload));
        Whole { letter: kept.into(), message, message_base64 }
    };
    Ok(Json(letters.into_iter().map(whole).collect()))
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct GroupQuery {
    group: Option<String>,
}

/// Which letters many are: by id, of a group, or all there are.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "DeadLetterSelection")]
struct Many {
    ids: Option<Vec<Uuid>>,
    group: Option<String>,
    all: bool,
}

impl Many {
    fn which(self) -> Result<Which, ApiError> {
        if self.ids.is_none() && self.group.is_none() && !self.all {
            return Err(ApiError::invalid("value_error", &["body"], "name ids, a group, or all", Value::Null));
        }
        if let Some(ids) = self.ids.as_ref().filter(|ids| ids.len() as u64 > limits::DEAD_LETTERS) {
            let message = format!("at most {} ids at a time", limits::DEAD_LETTERS);
            return Err(ApiError::invalid("too_long", &["body", "ids"], message, json!(ids.len())));
        }
        Ok(Which { ids: self.ids, group: self.group })
    }
}

/// How many letters are to be replayed.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeadLettersAsked")]
struct Asked {
    asked: u64,
}

/// How many letters are gone.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeadLettersDeleted")]
struct Deleted {
    deleted: u64,
}

async fn ask(app: &App, which: &Which) -> Result<u64, ApiError> {
    let mut tx = app.begin("dead_letters.replay").await?;
    let asked = store::ask_for_replay(&mut tx, which, app.now()).await?;
    tx.commit().await?;
    Ok(asked)
}

async fn remove(app: &App, which: &Which) -> Result<u64, ApiError> {
    let mut tx = app.begin("dead_letters.delete").await?;
    let deleted = store::delete(&mut tx, which).await?;
    tx.commit().await?;
    Ok(deleted)
}

/// Ask for the letters of one message to be replayed.
async fn replay(State(app): State<App>, Path(id): Path<Uuid>, Query(query): Query<GroupQuery>) -> Result<Json<Asked>, ApiError> {
    match ask(&app, &Which { ids: Some(vec![id]), group: query.group }).await? {
        0 => Err(missing()),
        asked => Ok(Json(Asked { asked })),
    }
}

/// Ask for many letters to be replayed.
async fn replay_many(State(app): State<App>, Json(body): Json<Many>) -> Result<Json<Asked>, ApiError> {
    Ok(Json(Asked { asked: ask(&app, &body.which()?).await? }))
}

/// Delete the letters of one message.
async fn delete(State(app): State<App>, Path(id): Path<Uuid>, Query(query): Query<GroupQuery>) -> Result<Json<Deleted>, ApiError> {
    match remove(&app, &Which { ids: Some(vec![id]), group: query.group }).await? {
        0 => Err(missing()),
        deleted => Ok(Json(Deleted { deleted })),
    }
}

/// Delete many letters.
async fn delete_many(State(app): State<App>, Json(body): Json<Many>) -> Result<Json<Deleted>, ApiError> {
    Ok(Json(Deleted { deleted: remove(&app, &body.which()?).await? }))
}
